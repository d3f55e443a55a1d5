"""`combcn inpaint` from end to end: seconds by stage, frames a second, start-up and memory.

A camera moves over a smooth picture, and an ellipse of a given share of the frame moves to and fro
in it. Each case is one run of the command; what it reports of its stages is divided by its frames.
Start-up is what the command takes beyond that: Python, imports, weights. Memory is the most that
the command and its child processes held together. Telea's method (cv2.inpaint) fills the same
frames beside it.
"""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np

from benchmarks.networks import Case, make_clip
from combcn_core.clips.video import ClipInfo, open_reader, open_writer
from combcn_core.memory import GIB

POLL_SECONDS = 0.1  # more often would slow the command down
TELEA_FRAMES = 4  # each takes as long as the next
NETWORKS = ("--weights", "default")


@dataclasses.dataclass(frozen=True)
class Run:
    """A case: `share` of the frame is hole; `options` are those of `combcn inpaint`."""

    name: str
    width: int
    height: int
    share: float
    frames: int
    options: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Result:
    """What a run took; stages are in seconds a frame, and overlap."""

    run: Run
    stages: dict[str, float]
    seconds_per_frame: float
    startup_seconds: float
    peak_bytes: int
    telea_seconds_per_frame: float
    hole_pixels: int
    propagated_pixels: int


STANDARD = (
    Run("240p", 432, 240, 0.08, 96),
    Run("240p, longer", 432, 240, 0.08, 384),
    Run("240p, networks", 432, 240, 0.08, 96, NETWORKS),
    Run("240p, networks alone", 432, 240, 0.08, 32, (*NETWORKS, "--no-propagate")),
    Run("480p", 864, 480, 0.08, 64),
    Run("1080p, 2 %", 1920, 1080, 0.02, 48),
    Run("1080p, 8 %", 1920, 1080, 0.08, 48),
    Run("1080p, 10 %", 1920, 1080, 0.10, 48),
    Run("1080p, 40 %", 1920, 1080, 0.40, 48),
    Run("2160p, 2 %", 3840, 2160, 0.02, 48),  # as many hole pixels as 1080p, 8 %
)
LARGE = (
    Run("1080p, 300 frames", 1920, 1080, 0.05, 300),
    Run("1080p, 1500 frames", 1920, 1080, 0.05, 1500),
    Run("1080p, 60 frames", 1920, 1080, 0.08, 60, NETWORKS),
    Run("2160p, 60 frames", 3840, 2160, 0.02, 60, NETWORKS),  # as many hole pixels
)


def measure(run: Run) -> Result:
    """Make the clip, run the command on it, and Telea's method beside it."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        holes = write_shot(folder, run)
        command = [
            sys.executable, "-m", "combcn_core", "inpaint", "clip.mp4", "--mask", "masks",
            "--output", "result.mp4", "--report", "report.json", *run.options,
        ]  # fmt: skip
        start = time.perf_counter()
        process = subprocess.Popen(
            command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        peak = peak_of_tree(process)
        if process.wait():
            raise RuntimeError(f"{run.name}: the command ended with {process.returncode}")
        wall = time.perf_counter() - start
        report = json.loads((folder / "report.json").read_text())
        seconds = report["seconds"]
        total = seconds.pop("total")
        return Result(
            run,
            {stage: value / run.frames for stage, value in seconds.items()},
            total / run.frames,
            wall - total,
            max(peak, report["peak_memory_bytes"] or 0),
            time_telea(folder / "clip.mp4", holes),
            report["hole_pixels"],
            report["propagated_pixels"],
        )


def write_shot(folder: Path, run: Run) -> list[np.ndarray]:
    """clip.mp4 and masks/; returns the masks that differ, which then repeat."""
    write_clip(folder / "clip.mp4", run.frames, run.height, run.width)
    _, masks = make_clip(Case(run.height, run.width, run.share, 0), 32)
    holes = [mask.numpy().astype(np.uint8) for mask in masks]
    (folder / "masks").mkdir()
    for index in range(run.frames):
        cv2.imwrite(str(folder / f"masks/{index:05d}.png"), 255 * holes[index % len(holes)])
    return holes


def write_clip(path: Path, num_frames: int, height: int, width: int) -> None:
    """A camera that moves to and fro over a smooth random picture."""
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (height // 4, width // 2, 3), np.uint8)
    picture = cv2.resize(noise, (2 * width, height), interpolation=cv2.INTER_CUBIC)
    info = ClipInfo(width=width, height=height, fps=Fraction(24))
    with open_writer(path, info) as writer:
        for index in range(num_frames):
            left = round(width / 2 * (1 + np.sin(index / 40)))
            writer.write(np.ascontiguousarray(picture[:, left : left + width]))


def peak_of_tree(process: subprocess.Popen[bytes]) -> int:
    """Most bytes that a process and its children held together, until it ends; Linux only."""
    peak = 0
    while process.poll() is None:
        peak = max(peak, sum(resident_bytes(number) for number in tree_of(process.pid)))
        time.sleep(POLL_SECONDS)
    return peak


def tree_of(number: int) -> Iterable[int]:
    yield number
    for children in Path(f"/proc/{number}/task").glob("*/children"):
        try:
            found = children.read_text().split()
        except OSError:  # it has ended meanwhile
            continue
        for child in found:
            yield from tree_of(int(child))


def resident_bytes(number: int) -> int:
    """Of a process; pages that several share count for each by its part, so not twice."""
    try:
        rollup = Path(f"/proc/{number}/smaps_rollup").read_text()
    except OSError:
        return 0
    return 1024 * sum(int(line.split()[1]) for line in rollup.splitlines() if line[:4] == "Pss:")


def time_telea(clip: Path, holes: list[np.ndarray]) -> float:
    """Seconds a frame of cv2.inpaint, on some frames of the clip."""
    with open_reader(clip, frames=(0, TELEA_FRAMES - 1)) as reader:
        frames = [frame.pixels for frame in reader]
    start = time.perf_counter()
    for frame, hole in zip(frames, holes, strict=False):
        cv2.inpaint(frame, hole, 3, cv2.INPAINT_TELEA)
    return (time.perf_counter() - start) / len(frames)


def describe(results: Iterable[Result]) -> str:
    """A table, one row a case."""
    title = f"{'case':22s}{'frames':>7s}{'s/frame':>9s}{'frames/s':>9s}{'Telea':>8s}"
    title += f"{'start-up':>9s}{'GiB':>7s}  stages, s/frame"
    rows = [title]
    for result in results:
        stages = ", ".join(
            f"{name} {value:.3f}" for name, value in result.stages.items() if value >= 0.0005
        )
        rows.append(
            f"{result.run.name:22s}{result.run.frames:7d}{result.seconds_per_frame:9.3f}"
            f"{1 / result.seconds_per_frame:9.2f}{result.telea_seconds_per_frame:8.3f}"
            f"{result.startup_seconds:9.1f}{result.peak_bytes / GIB:7.2f}  {stages}"
        )
    return "\n".join(rows)
