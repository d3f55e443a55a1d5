"""What one more core gives, and what another state of the code took: whole commands, alternating.

    python -m benchmarks.cores [--only NAME ...] [--rounds N] [--against CHECKOUT]

Each case of `benchmarks.speed` runs on one core and on two, start-up included: wall time, CPU
seconds of all cores together, CPU over wall (2 would be both cores at work from end to end), peak
memory. The best of all rounds counts, by the clock. With the time T1 of one core and T2 of two, the
share that runs on one core only is s = 2 T2 / T1 - 1 (Amdahl), and so many cores would take
T1 (s + (1 - s) / cores): a model, not a measurement, and a bound from below, since the two ways of
the traces are all that there is of them. --against runs another checkout of this repository in
turn, on two cores. Linux only.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks.speed import STANDARD, write_shot
from combcn_core.memory import GIB

NAMES = ("1080p, 2 %", "2160p, 2 %")
MANY_CORES = (4, 8, 16)


class Command(NamedTuple):
    """What a command took."""

    seconds: float
    cpu_seconds: float
    peak_bytes: int

    def __str__(self) -> str:
        return (
            f"{self.seconds:7.2f} s, CPU {self.cpu_seconds:7.2f} s, "
            f"{self.cpu_seconds / self.seconds:.2f} cores, {self.peak_bytes / GIB:.2f} GiB"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", metavar="NAME", default=NAMES)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--against", type=Path, metavar="CHECKOUT")
    arguments = parser.parse_args()
    names = [run.name for run in STANDARD]
    if unknown := set(arguments.only).difference(names):
        parser.error(f"there is no case {', '.join(unknown)}; give {'; '.join(names)}.")
    here = Path(__file__).parents[1]
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        parser.error(f"this process may use {len(cores)} core; give it two or more.")
    for run in [run for run in STANDARD if run.name in arguments.only]:
        with tempfile.TemporaryDirectory() as scratch:
            write_shot(Path(scratch), run)
            ways = {"one core": (here, cores[:1]), "two cores": (here, cores[:2])}
            if arguments.against is not None:
                ways["the other, two cores"] = (arguments.against, cores[:2])
            found: dict[str, list[Command]] = {name: [] for name in ways}
            for _ in range(arguments.rounds):
                for name, (tree, some) in ways.items():
                    found[name].append(measure(Path(scratch), tree, some, run.options))
        best = {name: min(rounds) for name, rounds in found.items()}
        print(run.name)
        for name, command in best.items():
            print(f"  {name:22s}{command}")
        one, two = best["one core"].seconds, best["two cores"].seconds
        print(f"  {describe_model(one, two)}")
        if arguments.against is not None:
            other = best["the other, two cores"].seconds
            print(f"  {other / two:.2f} times as fast as the other", flush=True)


def measure(folder: Path, tree: Path, cores: Sequence[int], options: Sequence[str]) -> Command:
    """Run the command of a checkout on some cores."""
    (folder / "result.mp4").unlink(missing_ok=True)
    start = time.perf_counter()
    process = subprocess.Popen(
        [
            *("taskset", "--cpu-list", ",".join(map(str, cores))),
            *(sys.executable, "-m", "combcn_core", "inpaint", "clip.mp4", "--mask", "masks"),
            *("--output", "result.mp4", *options),
        ],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(tree.resolve())},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    if status:
        raise RuntimeError(f"the command of {tree} ended with {status}")
    return Command(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024)


def describe_model(one: float, two: float) -> str:
    """The share of one core, and what more cores would take, from times on one and on two."""
    serial = min(max(2 * two / one - 1, 0.0), 1.0)
    times = (f"{one * (serial + (1 - serial) / cores):.1f} s on {cores}" for cores in MANY_CORES)
    return f"on one core only: {serial:.0%} of the work; model: {', '.join(times)} cores"


if __name__ == "__main__":
    main()
