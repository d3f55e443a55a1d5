"""The paper's experiments on footage of your own: Table 2 and the ablations of its last section.

    python -m benchmarks.experiments DATA [--output FOLDER] [--only NAME ...] [--full]
                                     [--steps N] [--pretrain-steps N] [--where COLUMN=VALUE ...]

Trains each variant by the paper's recipe, scores it on the clips that are held back (one of six),
and prints the tables of REPRODUCTION.md: l1 in the hole on the scale 0..255, mean over clips, ±
the standard deviation between three hole seeds; and each claim of the paper with the difference it
rests on, paired over shots. Stopped and started again it goes on.

The large network takes the same number of steps in every variant; where 3DCN is trained first, that
comes on top. Holes are fixed and random in training, as in the test. By default small, for a CPU:
a quarter of the channels, 64x64, 16 frames, mean fill. --full takes the paper's size and steps, for
a GPU.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import statistics
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from combcn_core.measure.evaluate import evaluate
from combcn_core.measure.scores import Score
from combcn_core.measure.trials import EvaluateConfig, Method
from combcn_core.networks.checkpoint import load_model
from combcn_core.networks.config import NetworkConfig
from combcn_core.training.config import Mode, TrainConfig
from combcn_core.training.footage import Footage, scan_footage
from combcn_core.training.holes import HoleKind
from combcn_core.training.log import TrainingLog
from combcn_core.training.train import train

HOLES: tuple[HoleKind, ...] = ("box", "random-box")  # the paper's fixed and random holes
FULL = TrainConfig(holes=HOLES)
SMALL = TrainConfig(
    size=64, clip_length=16, holes=HOLES, repeats=8, batch=16, detail_frames=4, workers=1,
    ema=0.995, calibration_clips=256, save_every=100,
)  # fmt: skip
FULL_STEPS, SMALL_STEPS = (20_000, 100_000), (1_000, 3_000)  # of 3DCN first, and of both

# One output of a variant with one kind of holes -> clip -> l1 with each hole seed.
Cells = dict[str, dict[str, list[float]]]


class Recipe(NamedTuple):
    """One of the paper's variants: what differs from the others, and which outputs it has."""

    title: str
    mode: Mode
    network: NetworkConfig
    methods: dict[Method, str]


BOTH: dict[Method, str] = {"3dcn": "3DCN", "networks": "CombCN"}
RECIPES = {
    "3dcn": Recipe("3DCN alone", "pretrain", NetworkConfig(), {"3dcn": "3DCN"}),
    "2dcn": Recipe("2DCN", "scratch", NetworkConfig(guidance=False), {"2dcn": "2DCN"}),
    "ours": Recipe("ours: 3DCN first, then both", "joint", NetworkConfig(), BOTH),
    "v1": Recipe("V-1: r = 4", "joint", NetworkConfig(ratio=4), BOTH),
    "v2": Recipe("V-2: 3DCN strides time", "joint", NetworkConfig(time_stride=True), BOTH),
    "t1": Recipe("T-1: 3DCN frozen", "frozen", NetworkConfig(), BOTH),
    "t2": Recipe("T-2: both from scratch", "scratch", NetworkConfig(), BOTH),
}


class Claim(NamedTuple):
    """One output of a variant is better than another: (name in RECIPES, title of the output)."""

    better: tuple[str, str]
    worse: tuple[str, str]
    paper: str  # l1 of both, fixed holes


CLAIMS = (
    Claim(("ours", "CombCN"), ("2dcn", "2DCN"), "6.27 < 6.77, 9.56 < 11.16"),
    Claim(("2dcn", "2DCN"), ("3dcn", "3DCN"), "6.77 < 7.18, 11.16 < 11.91"),
    Claim(("ours", "3DCN"), ("v1", "3DCN"), "4.45 < 9.51"),
    Claim(("ours", "CombCN"), ("v1", "CombCN"), "4.20 < 6.39"),
    Claim(("ours", "3DCN"), ("v2", "3DCN"), "4.45 < 11.56"),
    Claim(("ours", "CombCN"), ("v2", "CombCN"), "4.20 < 8.13"),
    Claim(("ours", "3DCN"), ("t1", "3DCN"), "4.45 < 6.30"),
    Claim(("ours", "CombCN"), ("t1", "CombCN"), "4.20 < 5.18"),
    Claim(("ours", "3DCN"), ("t2", "3DCN"), "4.45 < 9.28"),
    Claim(("ours", "CombCN"), ("t2", "CombCN"), "4.20 < 6.31"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--output", type=Path, default=Path("experiments"))
    parser.add_argument("--only", nargs="+", choices=RECIPES, default=list(RECIPES))
    parser.add_argument("--full", action="store_true", help="the paper's size and steps")
    parser.add_argument("--steps", type=int, help="of the large network, in each variant")
    parser.add_argument("--pretrain-steps", type=int, help="of 3DCN before them")
    parser.add_argument("--where", nargs="+", default=[], metavar="COLUMN=VALUE")
    arguments = parser.parse_args()
    config = FULL if arguments.full else SMALL
    first, both = FULL_STEPS if arguments.full else SMALL_STEPS
    config = dataclasses.replace(
        config,
        pretrain_steps=first if arguments.pretrain_steps is None else arguments.pretrain_steps,
        steps=both if arguments.steps is None else arguments.steps,
    )
    footage = scan_footage(
        arguments.data,
        where=dict(pair.split("=", 1) for pair in arguments.where),
        clip_length=config.clip_length,
    )
    arguments.output.mkdir(parents=True, exist_ok=True)
    held_back = link_held_back(footage, arguments.output / "held_back")
    for name in arguments.only:
        train_one(name, footage, config, not arguments.full, arguments.output)
        score_one(name, config, held_back, arguments.output)
    found = read_cells(arguments.output)
    shots = {source.path.name: source.group for source in footage.validation}
    print_table(found)
    print()
    print_claims(found, shots)


def steps_of(recipe: Recipe, config: TrainConfig) -> TrainConfig:
    """The steps of a variant: 3DCN alone takes as many as 3DCN does in ours."""
    alone = recipe.mode == "pretrain"
    steps = config.steps + (config.pretrain_steps if alone else 0)
    return dataclasses.replace(config, mode=recipe.mode, steps=steps)


def train_one(name: str, footage: Footage, config: TrainConfig, narrow: bool, output: Path) -> None:
    """Train a variant, or what is missing of it; narrow: with a quarter of the channels."""
    recipe = RECIPES[name]
    config = steps_of(recipe, config)
    network = recipe.network
    if narrow:
        network = dataclasses.replace(network, channel_divisor=4)
    path = output / f"{name}.safetensors"
    log = TrainingLog(path)
    with tqdm(desc=recipe.title, file=sys.stderr) as bar:
        for progress in train(footage, path, config, network=network):
            log.add(progress)
            bar.total = progress.steps
            bar.update(progress.step - bar.n)
            bar.set_postfix({key: f"{loss:.1f}" for key, loss in progress.losses.items()})


def link_held_back(footage: Footage, folder: Path) -> Path:
    """The clips that no variant is trained on, as a folder."""
    folder.mkdir(exist_ok=True)
    for source in footage.validation:
        if source.num_frames > 1 and not (folder / source.path.name).exists():
            (folder / source.path.name).symlink_to(source.path.resolve())
    return folder


def score_one(name: str, config: TrainConfig, held_back: Path, output: Path) -> None:
    """l1 of a variant's outputs, into NAME.json."""
    recipe = RECIPES[name]
    model = load_model(output / f"{name}.safetensors")
    scores = evaluate(
        held_back,
        output / f"{name}_scores",
        EvaluateConfig(
            methods=tuple(recipe.methods),
            holes=HOLES,
            frames=config.clip_length,
            size=(config.size, config.size),
        ),
        model=None if name == "2dcn" else model,
        model_2dcn=model if name == "2dcn" else None,
    )
    cells: Cells = {
        _column(title, hole): _l1_of_seeds(scores, method, hole)
        for method, title in recipe.methods.items()
        for hole in HOLES
    }
    (output / f"{name}.json").write_text(json.dumps(cells, indent=2) + "\n")


def _l1_of_seeds(scores: list[Score], method: Method, hole: HoleKind) -> dict[str, list[float]]:
    clips: dict[str, list[float]] = {}
    for score in scores:
        if (score.method, score.hole) == (method, hole):
            clips.setdefault(score.clip, []).append(score.l1)
    return clips


def _column(title: str, hole: str) -> str:
    return f"{title}, {hole}"


def read_cells(output: Path) -> dict[str, Cells]:
    """Name of a variant -> its cells, of those that have been scored."""
    paths = {name: output / f"{name}.json" for name in RECIPES}
    return {name: json.loads(path.read_text()) for name, path in paths.items() if path.exists()}


def print_table(found: Mapping[str, Cells]) -> None:
    """l1 of what has been scored so far, as Markdown."""
    columns = [_column(title, hole) for title in ("3DCN", "2DCN", "CombCN") for hole in HOLES]
    print("| variant | " + " | ".join(columns) + " |")
    print("|---" * (len(columns) + 1) + "|")
    for name, cells in found.items():
        texts = [_mean_and_spread(cells[column]) if column in cells else "" for column in columns]
        print(f"| {RECIPES[name].title} | " + " | ".join(texts) + " |")


def _mean_and_spread(clips: Mapping[str, list[float]]) -> str:
    means = [statistics.fmean(seed) for seed in zip(*clips.values(), strict=True)]
    return f"{statistics.fmean(means):.2f} ± {statistics.stdev(means):.2f}"


def print_claims(found: Mapping[str, Cells], shots: Mapping[str, str]) -> None:
    """Whether the paper's order is seen here, claim by claim, as Markdown.

    Args:
        found: of `read_cells`; claims on variants that are not in it are left out.
        shots: clip -> the shot it is from. Clips of one shot are no independent witnesses, so they
            count as one.
    """
    print("| claim | holes | the paper's | ours | difference | shots better | holds |")
    print("|---" * 7 + "|")
    for claim in CLAIMS:
        names = [name for name, _ in (claim.better, claim.worse)]
        if not found.keys() >= set(names):
            continue
        text = " < ".join(f"{title} of {name}" for name, title in (claim.better, claim.worse))
        for hole in HOLES:
            better, worse = (
                _by_shot(found[name][_column(title, hole)], shots)
                for name, title in (claim.better, claim.worse)
            )
            gap = paired_gap(better, worse)
            paper = claim.paper if hole == "box" else ""
            ours = " and ".join(
                f"{statistics.fmean(side.values()):.2f}" for side in (better, worse)
            )
            print(
                f"| {text} | {hole} | {paper} | {ours} | {gap.mean:+.2f} ± "
                f"{2 * gap.standard_error:.2f} | {gap.lower} of {gap.pairs} | {verdict(gap)} |"
            )


def _by_shot(clips: Mapping[str, list[float]], shots: Mapping[str, str]) -> dict[str, float]:
    values: dict[str, list[float]] = {}
    for clip, seeds in clips.items():
        values.setdefault(shots.get(clip, clip), []).append(statistics.fmean(seeds))
    return {shot: statistics.fmean(each) for shot, each in values.items()}


class Gap(NamedTuple):
    """How two methods differ on the same clips."""

    mean: float  # of first - second
    standard_error: float  # of this mean; NaN with one pair
    lower: int  # pairs in which the first is lower
    pairs: int


def paired_gap(first: Mapping[str, float], second: Mapping[str, float]) -> Gap:
    """Compare two methods pair by pair: how hard a clip is does not count, only who is ahead on it.

    Args:
        first: clip -> value of the first method.
        second: as first, of the second method.

    Raises:
        ValueError: no clips, or not the same ones.
    """
    if not first or first.keys() != second.keys():
        odd = sorted(first.keys() ^ second.keys())
        raise ValueError(
            f"the two methods have {len(first)} and {len(second)} clips, "
            f"{len(odd)} of them not in common; measure both on the same ones."
        )
    gaps = [first[clip] - second[clip] for clip in first]
    error = statistics.stdev(gaps) / math.sqrt(len(gaps)) if len(gaps) > 1 else math.nan
    return Gap(statistics.fmean(gaps), error, sum(gap < 0 for gap in gaps), len(gaps))


def verdict(gap: Gap) -> str:
    """Two standard errors, about 95 %, decide."""
    if not abs(gap.mean) > 2 * gap.standard_error:  # NaN with a single shot
        return "not decided"
    return "yes" if gap.mean < 0 else "no"


if __name__ == "__main__":
    main()
