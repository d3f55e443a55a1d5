"""Whether levels drift: the level between frames far apart, as the fill uses it, and measured anew.

    python -m benchmarks.levels DATA [--apart 48]

DATA holds NAME/frames/*.jpg and NAME/masks/*.png. For every eighth frame and the one so many
frames later it prints the mean over a clip of the level, R, G and B, that `combcn_core.fill` makes
its sources fit by; that of a direct comparison which shares nothing with it (SIFT features outside
of the holes, a homography, the median ratio of what both frames show); and the mean distance of
the two in percent; and by how many percent the corners of the picture are darker than its centre,
as the fill takes the lens to be. Pairs that show less than a twentieth of a frame alike are left
out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import tyro
from tyro.conf import Positional

from benchmarks.clips import clip_names, read_frames, read_masks
from combcn_core.fill.keys import KEY_STEP
from combcn_core.fill.levels import off_centre
from combcn_core.fill.propagate import Propagation
from combcn_core.fill.register import project
from combcn_core.fill.window import Window
from combcn_core.pixels import Array, Mask, dilate, to_unit

LEAST_SHARE = 0.05  # of a frame that both must show
NEAR_PIXELS, SOFT_PIXELS = 8, 4.0


@dataclass(frozen=True)
class Options:
    """Whether levels drift over many frames."""

    data: Positional[Path]
    """Clips as NAME/frames/ and NAME/masks/."""
    apart: int = 48
    """Frames between the two that are compared."""


def main() -> None:
    run(tyro.cli(Options, description=Options.__doc__))


def run(options: Options) -> None:
    """Print the table."""
    print(
        f"{'clip':16s}{'pairs':>6s}{'fill':>21s}{'directly':>21s}{'apart %':>21s}{'corners %':>11s}"
    )
    errors = []
    for name in clip_names(options.data, "masks"):
        frames, masks = (read(options.data / name).numpy() for read in (read_frames, read_masks))
        found = compare(frames, masks.reshape(frames.shape[:3]) > 0, options.apart)
        if not found:
            print(f"{name:16s}{0:6d}")
            continue
        ours, direct, falloffs = (np.array(side) for side in zip(*found, strict=True))
        apart = 100 * np.abs(np.exp(ours - direct) - 1).mean(0)
        errors.append(apart)
        levels = (*np.exp(ours).mean(0), *np.exp(direct).mean(0))
        cells = "".join(f"{level:7.3f}" for level in levels)
        cells += "".join(f"{error:7.2f}" for error in apart)
        print(f"{name:16s}{len(found):6d}{cells}{100 * (1 - np.exp(falloffs.mean())):11.1f}")
    if errors:
        mean, worst = np.mean(errors), np.max(errors)
        print(f"mean {mean:.2f} %, worst clip and channel {worst:.2f} %")


def compare(frames: Array, masks: Mask, apart: int) -> list[tuple[Array, Array, float]]:
    """Pair by pair: logs of levels, (3,) each, as the fill uses them and measured directly; and the
    falloff of the lens, see `Levels`."""
    window = Window(apart)
    holes = np.stack([dilate(mask, 6) for mask in masks])
    window.slide(0, list(frames), list(holes), 0, len(frames))
    Propagation(window).fill(0, len(frames), 0)
    found = []
    for t in range(0, len(frames) - apart, KEY_STEP):
        direct = direct_log_gain(frames[t], frames[t + apart], holes[t], holes[t + apart])
        if direct is not None:
            log_gain, outward = direct
            levels = window.levels(t, [t + apart])
            ours = levels.log_gains[t + apart] + levels.falloff * outward
            found.append((ours, log_gain, levels.falloff))
    return found


def direct_log_gain(
    first: Array, second: Array, hole: Mask, other_hole: Mask
) -> tuple[Array, float] | None:
    """(3,): log(level of the second frame / level of the first), and how much farther off the
    centre of the picture the places are there that were compared; None where too little is alike.
    """
    sift = cv2.SIFT.create(1500)
    keys: list[Sequence[cv2.KeyPoint]] = []
    words: list[Array] = []
    for frame, mask in ((first, hole), (second, other_hole)):
        clear = (~dilate(mask, NEAR_PIXELS)).astype(np.uint8)
        found = sift.detectAndCompute(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), clear)
        keys.append(found[0])
        words.append(found[1])
    if any(word is None or len(word) < 2 for word in words):
        return None
    matches = cv2.BFMatcher().knnMatch(words[0], words[1], k=2)
    good = [one for one, two in matches if one.distance < 0.75 * two.distance]
    if len(good) < 12:
        return None
    here = np.array([keys[0][one.queryIdx].pt for one in good], np.float32)
    there = np.array([keys[1][one.trainIdx].pt for one in good], np.float32)
    homography, fitting = cv2.findHomography(there, here, cv2.RANSAC, 2.0)
    if homography is None or fitting.sum() < 12:
        return None
    size = first.shape[1], first.shape[0]
    known = cv2.warpPerspective(
        (~dilate(other_hole, NEAR_PIXELS)).astype(np.uint8), homography, size
    )
    both = (known > 0) & ~dilate(hole, NEAR_PIXELS)
    moved = cv2.warpPerspective(second, homography, size, borderMode=cv2.BORDER_REPLICATE)
    soft, moved_soft = (
        cv2.GaussianBlur(to_unit(frame), (0, 0), SOFT_PIXELS) for frame in (first, moved)
    )
    within = (np.minimum(soft, moved_soft) > 0.04) & (np.maximum(soft, moved_soft) < 0.96)
    if both.mean() < LEAST_SHARE:
        return None
    ratio = np.log(np.maximum(moved_soft, 1e-3) / np.maximum(soft, 1e-3))
    usable = [both & within[..., channel] for channel in range(3)]
    if min(use.mean() for use in usable) < LEAST_SHARE / 2:
        return None
    x, y = np.meshgrid(*(np.arange(side, dtype=np.float32) for side in size))
    outward = off_centre(*project(np.linalg.inv(homography), x, y), *hole.shape)
    outward -= off_centre(x, y, *hole.shape)
    log_gain = np.array([np.median(ratio[..., channel][usable[channel]]) for channel in range(3)])
    return log_gain, float(np.median(outward[usable[1]]))


if __name__ == "__main__":
    main()
