"""What fills a hole pixel, among all that was found for it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from combcn_core.fill.smooth import push_pull
from combcn_core.fill.trace import RING_PIXELS, Trace
from combcn_core.pixels import Array, Mask, Patch, crop, find_box, from_unit, replaced, to_unit
from combcn_core.segments import crop_box

# Expected errors of a trace, in pixels of a frame of 240 rows (`error_unit`). The estimate is
# conservative, about four times the true error: at 6 a smooth fill gets half the weight, at 12 all.
MAX_ERROR, HALF_ERROR, LEAST_ERROR = 12.0, 6.0, 0.3
REFERENCE_ROWS = 240
SHARPNESS = 4  # how much the surer of two traces outweighs the other
LEVEL_WEIGHT = 0.1  # of one pixel of the ring
MAX_LEVEL_STEP = 0.05  # what is larger is an edge out of place, not a difference of level


def error_unit(mask: Mask) -> float:
    """What one pixel of a frame of `REFERENCE_ROWS` is in this one, in pixels."""
    return min(mask.shape) / REFERENCE_ROWS


def merge(
    frame: Patch,
    mask: Mask,
    paths: Sequence[Trace],
    colors: Sequence[Array],
    fades: Sequence[Array] | None = None,
) -> tuple[Patch, Mask]:
    """Fill a hole with what traces found, each weighted by how sure it is.

    The ring around the hole, known and traced alike, tells the difference of level between the two;
    it is taken from the hole's pixels, faded smoothly inwards. Where traces are unsure the result
    leans towards a smooth fill.

    Args:
        frame: (H, W, 3).
        mask: (H, W).
        paths: traces of the same pixels, forward and backward in time.
        colors: theirs, (N, 3) in [0, 1].
        fades: factors on how sure they are, (N,) in [0, 1]; 1 where None.

    Returns:
        The frame, known pixels untouched; and what is still hole.
    """
    height, width = mask.shape
    box = find_box(mask)
    if box is None:
        return frame, mask
    unit = error_unit(mask)
    box = crop_box(box, 8 * RING_PIXELS, 1, height, width)
    weight = np.zeros((box.height, box.width), np.float32)
    total = np.zeros((box.height, box.width, 3), np.float32)
    for number, (path, found) in enumerate(zip(paths, colors, strict=True)):
        error = path.error / unit + LEAST_ERROR
        sure = (path.source >= 0) & (error < MAX_ERROR)
        rows, columns = path.rows[sure] - box.top, path.columns[sure] - box.left
        share = 1 / error[sure] ** SHARPNESS
        if fades is not None:
            share = share * fades[number][sure]
        weight[rows, columns] += share
        total[rows, columns] += share[:, None] * found[sure]
    hole, own = crop(mask, box), frame.crop(box)
    pixels = to_unit(own)
    found = total / np.maximum(weight, 1e-8)[..., None]
    confidence = weight * HALF_ERROR**SHARPNESS
    confidence = confidence / (1 + confidence)

    step = np.clip(pixels - found, -MAX_LEVEL_STEP, MAX_LEVEL_STEP)
    # With so little weight each, many pixels of the ring are averaged: levels, not their noise.
    found += push_pull(step, np.where(hole, 0, LEVEL_WEIGHT * confidence))
    found = np.where(hole[..., None], found, pixels)
    filled = push_pull(found, np.where(hole, confidence, 1).astype(np.float32))

    own[hole] = from_unit(filled[hole], own.dtype)
    remaining = np.zeros_like(mask)
    crop(remaining, box)[hole] = weight[hole] == 0
    return replaced(frame, box, own), remaining
