"""Masks that CombCN makes: followed, against those that people drew; shadows, against the truth.

    python -m benchmarks.masks [DATA] [--part followed|shadows|untouched] [--clips NAME ...]
        [--frames N] [--scene-frames N] [--masks FOLDER] [--videos N]

DATA (or the folder that COMBCN_DATA names) has clips as NAME/frames/ and NAME/masks/ (white =
object), with a mask for every frame. Every 5th, 10th and 20th of them is given to `follow_masks`;
the table has the mean intersection over union of the others with the drawn ones. Clips with a
background.png, from still cameras, are left out. Below: milliseconds of one processor a frame, and
how well the confidence that comes with each mask goes with its true overlap.

The second table is of the scenes that `recipes.scenes` renders, whose masks are those of the object
alone: intersection over union of what `take_shadows` added with what the object changes outside of
its mask, the share of that which it found, what it added as a share of the mask, and the PSNR of
the removal over object and effect, without it, with it, and with a mask of all that the object
changes: what the fill leaves to be won. A difference of more than 6 of 255 counts as an effect. The
scenes below have no effects left to be found.

The third table has holes that move over the untouched frames of DATA, the masks of other clips as
in `benchmarks.propagation`; DATA may be a folder of videos then, with --masks. What `take_shadows`
adds to them is given as a share of the holes: there is nothing to be found.
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
from benchmarks.propagation import Options, read_clips
from combcn_core.fill.follow import follow_masks
from combcn_core.fill.shadows import take_shadows
from combcn_core.masks import grow
from combcn_core.measure import metrics
from combcn_core.shot import inpaint
from recipes.scenes import EFFECTS, SCENES, render_scene

INTERVALS = (5, 10, 20)
WITHOUT = ("still", "light", "noise", "parallax", "everything")  # scenes, but for some penumbra
VISIBLE = 6  # of 255


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, nargs="?", default=os.environ.get("COMBCN_DATA"))
    parser.add_argument(
        "--part", choices=("all", "followed", "shadows", "untouched"), default="all"
    )
    parser.add_argument("--clips", nargs="+", metavar="NAME", help="these only")
    parser.add_argument("--frames", type=int, default=41, help="of each clip, at most")
    parser.add_argument("--masks", type=Path, help="of other clips, for untouched videos in DATA")
    parser.add_argument("--videos", type=int, default=16, help="drawn from these")
    parser.add_argument("--scene-frames", type=int, default=32, help="of each rendered scene")
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    part = arguments.part
    if part == "shadows" or (part == "all" and not arguments.clips):
        score_shadows(arguments.scene_frames)
    if arguments.data is None:
        print("no DATA: rendered scenes only.")
        return
    if part in ("all", "followed"):
        score_followed(parser, arguments)
    if part in ("all", "untouched"):
        score_untouched(arguments)


def score_followed(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> None:
    clips = [
        folder.parent
        for folder in sorted(Path(arguments.data).glob("*/masks"))
        if not (folder.parent / "background.png").exists()
        and folder.parent.name in (arguments.clips or [folder.parent.name])
    ]
    if not clips:
        parser.error(f"{arguments.data} has no such clips: NAME/frames and NAME/masks")
    print(f"\n{'clip':16s}" + "".join(f"{f'every {k}':>10s}" for k in INTERVALS))
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


def score_shadows(num_frames: int) -> None:
    columns = ("overlap", "found", "added", "without", "with", "perfect")
    print(f"{'scene':16s}" + "".join(f"{column:>10s}" for column in columns))
    for name, scene in {**EFFECTS, **{name: SCENES[name] for name in WITHOUT}}.items():
        images, truth, _, masks = render_scene(scene, num_frames=num_frames)
        effect = ((images.int() - truth.int()).abs().amax(-1) > VISIBLE) & ~masks
        taken = take_shadows(images, masks)
        added = taken.masks & ~masks
        share = int((added & effect).sum()) / max(int(effect.sum()), 1)
        cells = [int(added.sum()) / int(masks.sum())]
        if name in EFFECTS:
            where = masks | effect
            results = [inpaint(images, grow(holes, 2)) for holes in (masks, taken.masks, where)]
            cells += [metrics.hole_psnr(result, truth, where) for result in results]
            cells = [overlap(added, effect), share, *cells]
            print(f"{name:16s}" + "".join(f"{cell:10.3f}" for cell in cells), flush=True)
        else:
            print(f"{name:16s}{'-':>10s}{'-':>10s}{cells[0]:10.3f}", flush=True)


def score_untouched(arguments: argparse.Namespace) -> None:
    options = Options(
        arguments.data, masks=arguments.masks, clips=arguments.videos, frames=arguments.frames
    )
    print(f"\n{'untouched':16s}{'added':>10s}{'ms a frame':>12s}")
    shares = []
    for name, images, holes in read_clips(options):
        if name not in (arguments.clips or [name]):
            continue
        start = time.process_time()
        added = sum(take_shadows(images, holes).added_pixels)
        milliseconds = 1000 * (time.process_time() - start) / len(images)
        shares.append(added / int(holes.sum()))
        print(f"{name:16s}{shares[-1]:10.3f}{milliseconds:12.0f}", flush=True)
    print(f"{'mean':16s}{np.mean(shares):10.3f}\n{'most':16s}{np.max(shares):10.3f}")


def overlap(found: torch.Tensor, true: torch.Tensor) -> float:
    """Intersection over union; 1 where both are empty."""
    union = int((found | true).sum())
    return int((found & true).sum()) / union if union else 1.0


if __name__ == "__main__":
    main()
