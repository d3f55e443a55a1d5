"""The paper's experiments on footage of your own: Table 2 and the ablations of its last section.

    python -m benchmarks.experiments DATA [--output FOLDER] [--only NAME ...] [--full]
                                     [--steps N] [--where COLUMN=VALUE ...]

Trains each variant by the paper's recipe, scores it on the clips that are held back (one of six),
and prints the tables of REPRODUCTION.md: l1 in the hole on the scale 0..255, mean over clips, ±
the standard deviation between three hole seeds. Stopped and started again it goes on.

By default small, for a CPU: 64x64, 16 frames, mean fill, the same number of steps for all. --full
takes the paper's size and steps, for a GPU.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm  # type: ignore[import-untyped]

from combcn_core.checkpoint import load_model
from combcn_core.data import Footage, scan_footage
from combcn_core.evaluate import EvaluateConfig, Hole, Method, evaluate
from combcn_core.networks import NetworkConfig
from combcn_core.scores import summarize
from combcn_core.train import Mode, TrainConfig, train
from combcn_core.train_log import TrainingLog

HOLES: tuple[Hole, ...] = ("box", "random-box")  # the paper's fixed and random holes
FULL = TrainConfig()
SMALL = TrainConfig(
    size=64, clip_length=16, batch=4, detail_frames=4, workers=1, warmup_steps=50, ema=0.995,
    calibration_clips=64, save_every=100,
)  # fmt: skip


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--output", type=Path, default=Path("experiments"))
    parser.add_argument("--only", nargs="+", choices=RECIPES, default=list(RECIPES))
    parser.add_argument("--full", action="store_true", help="the paper's size and steps")
    parser.add_argument("--steps", type=int, help="of each variant, both phases together")
    parser.add_argument("--where", nargs="+", default=[], metavar="COLUMN=VALUE")
    arguments = parser.parse_args()
    steps = arguments.steps or (120_000 if arguments.full else 900)
    config = FULL if arguments.full else SMALL
    footage = scan_footage(
        arguments.data,
        where=dict(pair.split("=", 1) for pair in arguments.where),
        clip_length=config.clip_length,
    )
    arguments.output.mkdir(parents=True, exist_ok=True)
    held_back = link_held_back(footage, arguments.output / "held_back")
    for name in arguments.only:
        train_one(name, footage, config, steps, arguments.output)
        score_one(name, config, held_back, arguments.output)
    print_tables(arguments.output)


def train_one(name: str, footage: Footage, config: TrainConfig, steps: int, output: Path) -> None:
    """Train a variant, or what is missing of it; each takes the same number of steps in all."""
    recipe = RECIPES[name]
    two_phases = recipe.mode in ("joint", "frozen")
    first = steps // 3 if two_phases else 0
    config = dataclasses.replace(
        config, mode=recipe.mode, pretrain_steps=first, steps=steps - first
    )
    path = output / f"{name}.safetensors"
    log = TrainingLog(path)
    with tqdm(total=steps, desc=recipe.title, file=sys.stderr) as bar:
        for progress in train(footage, path, config, network=recipe.network):
            log.add(progress)
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
    summary = summarize(scores, "l1")
    cells: dict[str, Any] = {
        f"{title}, {hole}": summary[method, hole]
        for method, title in recipe.methods.items()
        for hole in HOLES
    }
    (output / f"{name}.json").write_text(json.dumps(cells, indent=2) + "\n")


def print_tables(output: Path) -> None:
    """What has been scored so far, as Markdown."""
    columns = [f"{title}, {hole}" for title in ("3DCN", "2DCN", "CombCN") for hole in HOLES]
    print("| variant | " + " | ".join(columns) + " |")
    print("|---" * (len(columns) + 1) + "|")
    for name, recipe in RECIPES.items():
        path = output / f"{name}.json"
        if path.exists():
            found = json.loads(path.read_text())
            cells = [
                f"{found[column][0]:.2f} ± {found[column][1]:.2f}" if column in found else ""
                for column in columns
            ]
            print(f"| {recipe.title} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
