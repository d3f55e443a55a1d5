"""Hole PSNR of propagation beside OpenCV's fills, on real clips with known truth.

    python -m benchmarks.propagation DATA

DATA holds NAME/frames/*.jpg and NAME/masks/*.png (white = object). The holes of a clip are the
object masks of the clip seven places later in alphabetical order, ping-pong in time where that one
is shorter, grown by 8 pixels; the first 50 frames count. Clips with a background.png are also
scored as true removals: all frames, their own masks (grown by 2 pixels for the removal), against
the background, where it is seen within reach.

Columns: hole PSNR in dB of Telea, Navier-Stokes and `inpaint` without networks, and its gain over
Telea; the share of hole pixels that propagation left to the classical fill; milliseconds a frame
of `propagate`; gradient energy of propagated pixels over that of the truth; flicker of `inpaint`
and of Telea, 0..255.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from benchmarks.clips import read_frames, read_image, read_masks
from combcn_core import metrics
from combcn_core.inpaint import InpaintConfig, inpaint, propagate
from combcn_core.masks import grow

NUM_FRAMES, GROW_PIXELS, PLACES = 50, 8, 7


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    folder = parser.parse_args().data
    names = sorted(path.name for path in folder.iterdir() if (path / "frames").is_dir())
    columns = ("telea", "ns", "combcn", "gain", "unseen", "ms/frame", "sharp", "flicker", "f.telea")
    print(f"{'clip':16s}" + "".join(f"{column:>9s}" for column in columns))
    rows = []
    for place, name in enumerate(names):
        images = read_frames(folder / name, NUM_FRAMES)
        masks = read_masks(folder / names[(place + PLACES) % len(names)])
        row = score(images, grow(ping_pong(masks, len(images)), GROW_PIXELS))
        rows.append(row)
        print_row(name, row)
    print_row("mean", [statistics.fmean(column) for column in zip(*rows, strict=True)])
    print_row("median", [statistics.median(column) for column in zip(*rows, strict=True)])
    print("\nremoval against the true background, hole PSNR where it is seen within reach:")
    for name in names:
        if (folder / name / "background.png").exists():
            print(f"{name:16s}{removal(folder / name):9.2f}")


def score(images: Tensor, holes: Tensor) -> list[float]:
    """One row of the table."""
    telea = classical(images, holes, cv2.INPAINT_TELEA)
    navier_stokes = classical(images, holes, cv2.INPAINT_NS)
    start = time.perf_counter()
    _, remaining = propagate(images, holes)
    milliseconds = (time.perf_counter() - start) / len(images) * 1000
    result = inpaint(images, holes, config=InpaintConfig(network=False))
    ours, theirs = (metrics.hole_psnr(fill, images, holes) for fill in (result, telea))
    return [
        theirs,
        metrics.hole_psnr(navier_stokes, images, holes),
        ours,
        ours - theirs,
        float(remaining.sum() / holes.sum()),
        milliseconds,
        metrics.gradient_energy_ratio(result, images, holes & ~remaining),
        metrics.flicker(result, images, holes),
        metrics.flicker(telea, images, holes),
    ]


def removal(clip: Path) -> float:
    """Hole PSNR against the background of what was seen, with the clip's own masks."""
    images, objects = read_frames(clip), read_masks(clip)
    holes = grow(objects, 2)
    background = read_image(clip / "background.png").expand(len(images), -1, -1, -1)
    _, remaining = propagate(images, holes)
    result = inpaint(images, holes, config=InpaintConfig(network=False))
    return metrics.hole_psnr(result, background, objects & ~remaining)


def print_row(name: str, row: list[float]) -> None:
    cells = "".join(f"{value:9.2f}" if math.isfinite(value) else f"{'-':>9s}" for value in row)
    print(f"{name:16s}{cells}", flush=True)


def ping_pong(masks: Tensor, num_frames: int) -> Tensor:
    """Forward, backward, forward ... until there are enough frames."""
    cycle = [*range(len(masks)), *range(len(masks) - 2, 0, -1)]
    return masks[[cycle[t % len(cycle)] for t in range(num_frames)]]


def classical(images: Tensor, holes: Tensor, method: int) -> Tensor:
    """OpenCV's single-image fill, radius 3 pixels, frame by frame."""
    filled = [
        cv2.inpaint(image, hole.astype(np.uint8), 3, method)
        for image, hole in zip(images.numpy(), holes.numpy(), strict=True)
    ]
    return torch.from_numpy(np.stack(filled))


if __name__ == "__main__":
    main()
