"""Masks that CombCN makes, against those that people drew.

    python -m benchmarks.masks DATA [--clips NAME ...] [--frames N]

DATA (or the folder that COMBCN_DATA names) has clips as NAME/frames/ and NAME/masks/ (white =
object), with a mask for every frame. Every 5th, 10th and 20th of them is given to `follow_masks`;
the table has the mean intersection over union of the others with the drawn ones. Clips with a
background.png, from still cameras, are left out. Below: milliseconds of one processor a frame, and
how well the confidence that comes with each mask goes with its true overlap.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

import cv2
import numpy as np
import torch

from benchmarks.clips import read_frames, read_masks
from combcn_core.fill.follow import follow_masks

INTERVALS = (5, 10, 20)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, nargs="?", default=os.environ.get("COMBCN_DATA"))
    parser.add_argument("--clips", nargs="+", metavar="NAME", help="these only")
    parser.add_argument("--frames", type=int, default=41, help="of each clip, at most")
    arguments = parser.parse_args()
    if arguments.data is None:
        parser.error("give DATA, a folder of clips, or name it in COMBCN_DATA")
    clips = [
        folder.parent
        for folder in sorted(Path(arguments.data).glob("*/masks"))
        if not (folder.parent / "background.png").exists()
        and folder.parent.name in (arguments.clips or [folder.parent.name])
    ]
    if not clips:
        parser.error(f"{arguments.data} has no such clips: NAME/frames and NAME/masks")
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    print(f"{'clip':16s}" + "".join(f"{f'every {k}':>10s}" for k in INTERVALS))
    rows, seconds = [], 0.0
    pairs: list[tuple[float, float]] = []  # confidence and overlap
    for clip in clips:
        images = read_frames(clip, arguments.frames)
        drawn = read_masks(clip)[: len(images)]
        row = []
        for interval in INTERVALS:
            given = list(range(0, len(images), interval))
            stop = given[-1] + 1
            start = time.process_time()
            found, confidence = follow_masks(images[:stop], drawn[given], given)
            seconds += time.process_time() - start
            others = [number for number in range(stop) if number % interval]
            scores = [overlap(found[number], drawn[number]) for number in others]
            pairs += zip([confidence[number] for number in others], scores, strict=True)
            row.append(float(np.mean(scores)))
        rows.append(row)
        print(f"{clip.name:16s}" + "".join(f"{score:10.3f}" for score in row), flush=True)
    print(f"{'mean':16s}" + "".join(f"{score:10.3f}" for score in np.mean(rows, axis=0)))
    together = np.corrcoef(np.transpose(pairs))[0, 1]
    print(f"{1000 * seconds / len(pairs):.0f} ms a frame; confidence and overlap: {together:.2f}")


def overlap(found: torch.Tensor, true: torch.Tensor) -> float:
    """Intersection over union; 1 where both are empty."""
    union = int((found | true).sum())
    return int((found & true).sum()) / union if union else 1.0


if __name__ == "__main__":
    main()
