"""The public code of other methods beside this project: seconds a frame, and the ratio.

    python -m benchmarks.peers STTN FUSEFORMER [--frames N] [--rounds N]

STTN and FUSEFORMER are clones of github.com/researchmm/STTN and github.com/ruiliu-ai/FuseFormer.
What runs of them is their own `test.py`, unchanged, in a process of its own, with random weights of
their own initialisation: these take as long as trained ones. They want matplotlib (the extra
`evaluate`); of torchvision they use `Compose` alone, and where it is missing, something that does
the same takes its place. `combcn inpaint` runs on the
same clip (see `benchmarks.speed`) before each of them, so that whatever else the machine does meets
both. Seconds are of whole commands, start-up included: the best of all rounds, by the clock and of
all cores together.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.speed import Run, write_shot

WIDTH, HEIGHT, SHARE = 432, 240, 0.08  # the size that both were made for

# Arguments: the clone, its network, where its weights lie in a checkpoint, then those of test.py.
RUN_PEER = """
import importlib, runpy, sys, types
clone, network, key = sys.argv[1:4]
try:
    import torchvision
except ImportError:
    def compose(steps):
        def apply(value):
            for step in steps:
                value = step(value)
            return value
        return apply
    torchvision = types.ModuleType("torchvision")
    for name in ("models", "transforms"):
        setattr(torchvision, name, types.ModuleType(f"torchvision.{name}"))
        sys.modules[f"torchvision.{name}"] = getattr(torchvision, name)
    torchvision.transforms.Compose = compose
    sys.modules["torchvision"] = torchvision
import torch
sys.path.insert(0, clone)
weights = importlib.import_module("model." + network).InpaintGenerator().state_dict()
torch.load = lambda *arguments, **options: {key: weights} if key else weights
sys.argv = ["test.py", *sys.argv[4:]]
runpy.run_path(clone + "/test.py", run_name="__main__")
"""


@dataclasses.dataclass(frozen=True)
class Peer:
    """A method whose public code can be run."""

    name: str
    network: str  # the module of its generator
    key: str  # of its weights in a checkpoint; empty: they are all of it
    options: tuple[str, ...] = ()


PEERS = (
    Peer("STTN", "sttn", "netG"),
    Peer("FuseFormer", "fuseformer", "", ("--use_mp4",)),
)


@dataclasses.dataclass(frozen=True)
class Seconds:
    """What a command took."""

    wall: float
    cores: float  # of all of them together

    def least(self, other: Seconds) -> Seconds:
        return Seconds(min(self.wall, other.wall), min(self.cores, other.cores))


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for peer in PEERS:
        parser.add_argument(peer.name.lower(), type=Path, nargs="?", help=f"a clone of {peer.name}")
    parser.add_argument("--frames", type=int, default=50, help="of the clip")
    parser.add_argument("--rounds", type=int, default=1, help="of which the best counts")
    arguments = parser.parse_args(argv)
    found: dict[Peer, Path] = {}
    for peer in PEERS:
        clone: Path | None = getattr(arguments, peer.name.lower())
        if clone is not None and (clone / "test.py").is_file():
            found[peer] = clone.absolute()
        else:
            where = "was not given" if clone is None else f"has no test.py in {clone}"
            print(f"{peer.name} {where} and is left out; give a clone of its public code.")
    if found:
        print(describe(measure(found, arguments.frames, arguments.rounds), arguments.frames))


def measure(
    clones: dict[Peer, Path], num_frames: int, rounds: int
) -> dict[str, tuple[Seconds, Seconds]]:
    """Name of each peer -> what it took, and what this project took before it."""
    best: dict[str, tuple[Seconds, Seconds]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write_shot(folder, Run("peers", WIDTH, HEIGHT, SHARE, num_frames))
        ours = ["-m", "combcn_core", "inpaint", "clip.mp4", "--mask", "masks", "--output", "o.mp4"]
        for _ in range(rounds):
            for peer, clone in clones.items():
                files = ["-v", "clip.mp4", "-m", "masks", "-c", "random", *peer.options]
                theirs = ["-c", RUN_PEER, str(clone), peer.network, peer.key, *files]
                own, other = timed(ours, folder), timed(theirs, folder)
                if peer.name in best:
                    before = best[peer.name]
                    other, own = other.least(before[0]), own.least(before[1])
                best[peer.name] = other, own
    return best


def timed(arguments: Sequence[str], folder: Path) -> Seconds:
    """Run Python with these arguments.

    Raises:
        RuntimeError: it failed, with the last it said.
    """
    root = str(Path(__file__).parents[1])
    start, before = time.perf_counter(), os.times()
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])},
        capture_output=True,
        text=True,
    )
    wall, after = time.perf_counter() - start, os.times()
    if done.returncode:
        raise RuntimeError(f"{arguments[2]} ended with {done.returncode}: {done.stderr[-600:]}")
    cores = after.children_user + after.children_system
    return Seconds(wall, cores - before.children_user - before.children_system)


def describe(results: dict[str, tuple[Seconds, Seconds]], num_frames: int) -> str:
    """A table, one row a peer."""
    rows = [
        f"{num_frames} frames of {WIDTH}x{HEIGHT}, {SHARE:.0%} hole; seconds a frame, clock and "
        "all cores together",
        f"{'':12s}{'theirs':>8s}{'cores':>8s}{'CombCN':>8s}{'cores':>8s}{'times as fast':>15s}"
        f"{'by cores':>10s}",
    ]
    for name, (theirs, ours) in results.items():
        figures = (theirs.wall, theirs.cores, ours.wall, ours.cores)
        row = "".join(f"{seconds / num_frames:8.3f}" for seconds in figures)
        ratios = f"{theirs.wall / ours.wall:15.1f}{theirs.cores / ours.cores:10.1f}"
        rows.append(f"{name:12s}{row}{ratios}")
    return "\n".join(rows)


if __name__ == "__main__":
    main()
