"""Peak memory of `combcn inpaint` on a clip, and on one ten times as long.

    python -m benchmarks.memory [--frames N] [--width W] [--height H]

Memory is bounded by a segment and its halo, so both peaks should be nearly the same.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.speed import write_clip
from combcn_core.memory import GIB


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    # With its halo, a segment reads 160 frames by default, and the first ones read fewer: a short
    # clip never gets to the memory that a long one keeps.
    parser.add_argument("--frames", type=int, default=300, help="of the shorter clip")
    parser.add_argument("--width", type=int, default=320)
    parser.add_argument("--height", type=int, default=180)
    arguments = parser.parse_args()
    peaks = [
        measure(num_frames, arguments.height, arguments.width)
        for num_frames in (arguments.frames, 10 * arguments.frames)
    ]
    print(f"ten times the frames take {peaks[1] / peaks[0]:.3f} times the memory")


def measure(num_frames: int, height: int, width: int) -> int:
    """Peak memory in bytes of the command on a clip of that size."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write_clip(folder / "clip.mp4", num_frames, height, width)
        box = f"{width // 3},{height // 3},{width // 5},{height // 4}"
        command = ["inpaint", "clip.mp4", "--mask", box, "--output", "result.mp4"]
        subprocess.run(
            [sys.executable, "-m", "combcn_core", *command, "--report", "report.json"],
            cwd=folder,
            check=True,
            stdout=subprocess.DEVNULL,
        )
        report = json.loads((folder / "report.json").read_text())
    peak = int(report["peak_memory_bytes"])
    seconds = report["seconds"]["total"]
    print(f"{num_frames} frames of {width}x{height}: {peak / GIB:.3f} GiB in {seconds:.0f} s")
    return peak


if __name__ == "__main__":
    main()
