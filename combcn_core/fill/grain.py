"""The grain that filled pixels lack beside the known pixels around them."""

from __future__ import annotations

import cv2
import numpy as np

from combcn_core.pixels import (
    Array,
    Mask,
    Patch,
    Pixels,
    crop,
    crop_box,
    dilate,
    find_box,
    from_unit,
    replaced,
    to_unit,
)

GRAIN_CONTEXT_PIXELS = 24  # of known frame around the hole, whose grain is measured


def match_grain(frame: Pixels, smooth: Mask, hole: Mask, *, seed: int) -> Pixels:
    """Add the grain that filled pixels lack beside the known pixels around the hole.

    Args:
        frame: (H, W, 3).
        smooth: (H, W), the pixels that were filled smoothly.
        hole: (H, W), all pixels that are not known; those not smooth came from other frames, and
            lost grain where several were averaged.
        seed: of the grain; the number of the frame, so that grain is the same in any segment.

    Returns:
        The frame with grain; known pixels untouched.

    Source: noise estimate of Immerkaer, "Fast noise variance estimation", CVIU 1996, with a
    quartile in place of the mean, so that edges do not count as grain.
    """
    return add_grain(Patch.of(frame), smooth, hole, seed).whole()


def add_grain(frame: Patch, smooth: Mask, hole: Mask, seed: int) -> Patch:
    box = find_box(hole)
    if box is None:
        return frame
    box = crop_box(box, GRAIN_CONTEXT_PIXELS, 1, *hole.shape)
    own = frame.crop(box)
    pixels = to_unit(own)
    kernel = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32)
    response = np.abs(cv2.filter2D(pixels, -1, kernel))

    def variance(where: Mask) -> Array:
        places = np.flatnonzero(where)
        if len(places) < 64:
            return np.full(3, np.nan)
        some = response.reshape(-1, 3)[places[:: max(1, len(places) // 4096)]]
        return (np.quantile(some, 0.25, axis=0) / (6 * 0.3186)) ** 2

    hole, smooth = crop(hole, box), crop(smooth, box)
    wanted = variance(~dilate(hole, 2))
    noise: Array | None = None
    for region in (smooth, hole & ~smooth):
        lacking = np.nan_to_num(np.maximum(wanted - variance(region), 0)).astype(np.float32)
        if lacking.any():
            if noise is None:
                noise = np.random.default_rng(seed).standard_normal(pixels.shape, np.float32)
            grainy = pixels[region] + noise[region] * np.sqrt(lacking)
            own[region] = from_unit(grainy, own.dtype)
    return replaced(frame, box, own)
