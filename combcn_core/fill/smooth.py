"""Smooth fills of one frame from its own surroundings: push-pull, and the membrane."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

from combcn_core.pixels import (
    Array,
    Mask,
    Patch,
    crop,
    crop_box,
    find_box,
    from_unit,
    replaced,
    to_unit,
    weighted,
)

CONTEXT_PIXELS = 64  # of known frame around the hole
MEMBRANE_CYCLES, MEMBRANE_SWEEPS = 4, 2
_LAPLACE = np.array([[0, 1, 0], [1, -4, 1], [0, 1, 0]], np.float32)


def push_pull(values: Array, weights: Array) -> Array:
    """Fill what has no weight smoothly from what has, over a pyramid of weighted averages.

    Args:
        values: (H, W, C).
        weights: (H, W) in [0, 1]: 1 keeps the value, 0 takes the fill, between them both count.

    Returns:
        (H, W, C). Zeros where no pixel at all has weight.

    Source: Gortler et al., "The Lumigraph", SIGGRAPH 1996, section 3.4.
    """
    return _pulled(weighted(values, weights), weights)


def _pulled(total: Array, weights: Array) -> Array:
    """`push_pull` of values that are multiplied by their weights already."""
    height, width = weights.shape
    if min(height, width) == 1:
        mean = total.sum((0, 1)) / max(float(weights.sum()), 1e-8)
        return np.asarray(total + mean * (1 - weights)[..., None])
    weight = _halved(weights)
    # A cell that is half known counts as known: the nearest colours win over the far ones.
    gain = np.minimum(2 * weight, 1) / np.maximum(weight, 1e-8)
    half = _halved(total).reshape(*weight.shape, -1)
    filled = _pulled(weighted(half, gain), weight * gain)
    size = 2 * weight.shape[1], 2 * weight.shape[0]
    filled = cv2.resize(filled, size, interpolation=cv2.INTER_LINEAR).reshape(*size[::-1], -1)
    filled = weighted(filled[:height, :width], 1 - weights)
    filled += total
    return filled


def _halved(image: Array) -> Array:
    """Means of two by two pixels; beyond an odd edge there is nothing."""
    height, width = image.shape[:2]
    even = height + height % 2, width + width % 2
    if even != (height, width):
        whole = np.zeros((*even, *image.shape[2:]), np.float32)
        whole[:height, :width] = image
        image = whole
    return cv2.resize(image, (even[1] // 2, even[0] // 2), interpolation=cv2.INTER_AREA)


def membrane(values: Array, weights: Array) -> Array:
    """Fill what has no weight by Laplace's equation: each value is the mean of its neighbours.

    Args:
        values: (H, W, C).
        weights: (H, W), 1 known, 0 to be filled.

    Returns:
        (H, W, C) float32, to about 1/500 of the values' range. Nothing flows through the edge of
        the picture. Zeros where nothing at all is known.

    Source: multigrid V-cycles as in Briggs, Henson and McCormick, "A Multigrid Tutorial", 2000.
    """
    free = weights == 0
    filled = push_pull(values, weights).astype(np.float32)
    if not free.all():
        for _ in range(MEMBRANE_CYCLES):
            relax(filled, free, np.zeros_like(filled))
    return filled


def relax(values: Array, free: Mask, load: Array) -> None:
    """One V-cycle towards (sum of neighbours) - 4 values = load where free, in place."""

    inside = free[..., None].astype(np.float32)

    def excess() -> Array:
        bent = cv2.filter2D(values, -1, _LAPLACE, borderType=cv2.BORDER_REPLICATE)
        return (bent.reshape(values.shape) - load) * inside

    height, width = free.shape
    for _ in range(MEMBRANE_SWEEPS):
        values += 0.2 * excess()
    if min(height, width) > 2:
        size = ((width + 1) // 2, (height + 1) // 2)
        coarse_free = cv2.resize(free.astype(np.float32), size, interpolation=cv2.INTER_AREA) > 0.99
        if coarse_free.any():
            # Cells twice as wide: the same bend is four times the difference.
            coarse_load = -4 * cv2.resize(excess(), size, interpolation=cv2.INTER_AREA)
            coarse_load = coarse_load.reshape(*coarse_free.shape, -1)
            step = np.zeros_like(coarse_load)
            relax(step, coarse_free, coarse_load)
            step = cv2.resize(step, (width, height), interpolation=cv2.INTER_LINEAR)
            values += step.reshape(values.shape) * inside
    for _ in range(MEMBRANE_SWEEPS):
        values += 0.2 * excess()


def fill_quickly(frame: Patch, hole: Mask) -> Patch:
    """Fill a hole from its own frame by push-pull, so that nothing hidden is read beside it."""
    return _filled(frame, hole, push_pull)


def fill_smoothly(frame: Patch, hole: Mask) -> Patch:
    """Fill a hole from its own frame by the membrane that its border spans."""
    return _filled(frame, hole, membrane)


def _filled(frame: Patch, hole: Mask, fill: Callable[[Array, Array], Array]) -> Patch:
    box = find_box(hole)
    if box is None:
        return frame
    box = crop_box(box, CONTEXT_PIXELS, 1, *hole.shape)
    inside = crop(hole, box)
    pixels = frame.crop(box)
    filled = fill(to_unit(pixels), (~inside).astype(np.float32))
    pixels[inside] = from_unit(filled[inside], pixels.dtype)
    return replaced(frame, box, pixels)
