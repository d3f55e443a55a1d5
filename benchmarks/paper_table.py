"""The paper's table on footage of your own: l1 in the hole, 0..255, at the paper's settings.

    python -m benchmarks.paper_table DATA --weights JOINT --weights-2dcn 2DCN [--output FOLDER]

One box for all frames, 128x128, 32 frames, networks alone: 3DCN (upsampled), 2DCN, CombCN, Telea,
Navier-Stokes; mean over the clips of DATA, ± the standard deviation between hole seeds. Only clips
that neither checkpoint was trained on mean anything.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from combcn_core.checkpoint import load_model
from combcn_core.evaluate import EvaluateConfig, Method, evaluate
from combcn_core.scores import describe, summarize

COLUMNS: dict[Method, str] = {
    "3dcn": "3DCN",
    "2dcn": "2DCN",
    "networks": "CombCN",
    "telea": "Telea",
    "ns": "Navier-Stokes",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--weights", required=True, help="a name or a path")
    parser.add_argument("--weights-2dcn", required=True, help="as --weights")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--output", type=Path, default=Path("paper_table"))
    args = parser.parse_args()
    config = EvaluateConfig(
        methods=tuple(COLUMNS), holes=("box",), seeds=tuple(args.seeds), frames=32, size=(128, 128)
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
    summary = summarize(scores, "l1")
    cells = {COLUMNS[method]: summary[method, "box"] for method in COLUMNS}
    print("l1 in the hole, 0..255, static box, 128x128, 32 frames. " + describe(scores))
    print("".join(f"{name:>16s}" for name in cells))
    print("".join(f"{f'{mean:.2f} ± {spread:.2f}':>16s}" for mean, spread in cells.values()))
    l1 = {name: mean for name, (mean, _) in cells.items()}
    claims = {
        "CombCN < 2DCN < 3DCN, the paper's order": l1["CombCN"] < l1["2DCN"] < l1["3DCN"],
        "CombCN < Telea, Navier-Stokes": l1["CombCN"] < min(l1["Telea"], l1["Navier-Stokes"]),
    }
    for claim, holds in claims.items():
        print(f"{claim}: {'yes' if holds else 'no'}")


if __name__ == "__main__":
    main()
