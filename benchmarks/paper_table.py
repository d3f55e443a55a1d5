"""The paper's table on footage of your own: l1 in the hole, 0..255, at the paper's settings.

    python -m benchmarks.paper_table DATA --weights JOINT --weights-2dcn 2DCN [--fill smooth]

128x128, 32 frames, networks alone: 3DCN (upsampled), 2DCN, CombCN, the smooth fill that they may
start from, Telea, Navier-Stokes; one box for all frames, then another box in each. Mean over the
clips of DATA, ± the standard deviation between hole seeds; below it who is ahead of whom, paired
over clips. Only clips that neither checkpoint was trained on mean anything.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from benchmarks.experiments import paired_gap
from combcn_core.measure.evaluate import evaluate
from combcn_core.measure.scores import Score, describe_scores, summarize
from combcn_core.measure.trials import EvaluateConfig, Method
from combcn_core.networks.checkpoint import load_model
from combcn_core.training.holes import HoleKind

COLUMNS: dict[Method, str] = {
    "3dcn": "3DCN",
    "2dcn": "2DCN",
    "networks": "CombCN",
    "smooth": "smooth fill",
    "telea": "Telea",
    "ns": "Navier-Stokes",
}
HOLES: dict[HoleKind, str] = {"box": "one box", "random-box": "another box in each frame"}
PAIRS: tuple[tuple[Method, Method], ...] = (
    ("networks", "2dcn"),
    ("2dcn", "3dcn"),
    ("networks", "smooth"),
    ("networks", "telea"),
)


def by_clip(scores: Iterable[Score], metric: str, method: str, hole: str) -> dict[str, float]:
    """Clip -> mean over the seeds; clips where the metric is NaN are left out."""
    values: dict[str, list[float]] = {}
    for score in scores:
        value = getattr(score, metric)
        if (score.method, score.hole) == (method, hole) and not math.isnan(value):
            values.setdefault(score.clip, []).append(value)
    return {clip: statistics.fmean(seeds) for clip, seeds in values.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--weights", required=True, help="a name or a path")
    parser.add_argument("--weights-2dcn", required=True, help="as --weights")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument(
        "--fill",
        choices=("rest", "smooth"),
        default="rest",
        help="what networks start from; smooth: each frame filled alone, so that of other frames "
        "2DCN knows nothing and CombCN what guidance tells it",
    )
    parser.add_argument("--output", type=Path, default=Path("paper_table"))
    args = parser.parse_args()
    config = EvaluateConfig(
        methods=tuple(COLUMNS),
        holes=tuple(HOLES),
        seeds=tuple(args.seeds),
        fill=args.fill,
        frames=32,
        size=(128, 128),
    )
    scores = evaluate(
        args.data,
        args.output,
        config,
        model=load_model(args.weights),
        model_2dcn=load_model(args.weights_2dcn),
        progress=lambda done, total: print(f"\r{done} of {total}", end="", file=sys.stderr),
    )
    print(file=sys.stderr)
    print(
        f"l1 in the hole, 0..255, 128x128, 32 frames, --fill {args.fill}. {describe_scores(scores)}"
    )
    for hole in HOLES:
        print_table(scores, hole)


def print_table(scores: Sequence[Score], hole: HoleKind) -> None:
    """The methods with one kind of holes, and who is ahead."""
    summary = summarize(scores, "l1")
    cells = [summary[method, hole] for method in COLUMNS]
    print(f"\n{HOLES[hole]}")
    print("".join(f"{name:>16s}" for name in COLUMNS.values()))
    print("".join(f"{f'{mean:.2f} ± {spread:.2f}':>16s}" for mean, spread in cells))
    for pair in PAIRS:
        first, second = (by_clip(scores, "l1", method, hole) for method in pair)
        gap = paired_gap(first, second)
        share = gap.mean / statistics.fmean(second.values())
        print(
            f"{COLUMNS[pair[0]]} - {COLUMNS[pair[1]]}: {gap.mean:+.2f} ({share:+.1%}), standard "
            f"error {gap.standard_error:.2f}, lower on {gap.lower} of {gap.pairs} clips"
        )


if __name__ == "__main__":
    main()
