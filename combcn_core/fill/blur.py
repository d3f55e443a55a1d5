"""Motion blur: how sharp one frame is beside another, and blurring what is sharper than its frame.

A camera held by hand blurs some frames and not others. What fills a sharp frame should come from
sharp ones; what fills a blurred frame gets its blur, along the way the camera went.
"""

from __future__ import annotations

import cv2
import numpy as np

from combcn_core.pixels import Array, Mask, weighted

SLACK = 0.05  # log of a ratio of detail that nobody sees, and that is measured by chance
SHUTTER_SHARES = (0.25, 0.5, 0.75, 1.0)  # of the time between two frames
LEAST_PIXELS = 1.0  # of motion between frames; slower cameras do not blur


def detail(gray: Array) -> Array:
    """(h, w) float32: how steep a gray image is, along x and y together."""
    kind = cv2.CV_16S if gray.dtype == np.uint8 else cv2.CV_32F
    across, down = (np.abs(cv2.Sobel(gray, kind, *way, ksize=1)) for way in ((1, 0), (0, 1)))
    return (across + down).astype(np.float32)


def log_ratio(first: Array, second: Array) -> float:
    """log(mean of the second / mean of the first); 0 where there is nothing to be compared."""
    one, two = float(first.sum(dtype=np.float64)), float(second.sum(dtype=np.float64))
    return float(np.log(two / one)) if one > 0 and two > 0 else 0.0


def lost(log_detail: Array) -> Array:
    """log of how much less sharp sources are than the frame, beyond what is not seen."""
    return np.maximum(-log_detail - np.float32(SLACK), 0)


def as_blurred(image: Array, known: Mask, log_detail: Array, speed: Array) -> Array:
    """Pixels of sharper frames as the camera's motion blurs them.

    As long a blur along the motion as makes them about as sharp as they should be.

    Args:
        image: (h, w, 3) in [0, 1].
        known: (h, w), the pixels to be looked at; others are not read.
        log_detail: log(detail of the frames they come from / detail of this one), for each of them.
        speed: (2,), how far the background goes from frame to frame, along x and y, in pixels.
    """
    sharper = np.maximum(log_detail, 0)
    wanted = float(sharper.mean()) if len(sharper) else 0.0
    if wanted < SLACK or np.hypot(*speed) < LEAST_PIXELS:
        return image

    inner = cv2.erode(known.view(np.uint8), np.ones((3, 3), np.uint8)) > 0

    def steepness(pixels: Array) -> Array:
        return detail(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY))[inner]

    before, share = steepness(image), known.astype(np.float32)
    layers = cv2.merge([weighted(image, share), share])
    blurred = image
    for part in SHUTTER_SHARES:
        mean = cv2.filter2D(layers, -1, line(part * speed), borderType=cv2.BORDER_REPLICATE)
        blurred = weighted(mean[..., :3], 1 / np.maximum(mean[..., 3], 1e-6))
        if log_ratio(steepness(blurred), before) >= wanted - SLACK:
            break
    result = image.copy()
    mixed = np.minimum(sharper / np.float32(wanted), 1)[:, None]
    result[known] += mixed * (blurred[known] - result[known])
    return result


def line(way: Array) -> Array:
    """(n, n): the kernel that averages along a way, (2,) in pixels along x and y."""
    side = int(np.ceil(np.abs(way).max() / 2)) + 1
    kernel = np.zeros((2 * side + 1, 2 * side + 1), np.float32)
    places = ((np.arange(8 * side) + 0.5) / (8 * side) - 0.5)[:, None] * way + side
    first = np.floor(places).astype(int)
    beside = places - first
    for x, share_x in ((0, 1 - beside[:, 0]), (1, beside[:, 0])):
        for y, share_y in ((0, 1 - beside[:, 1]), (1, beside[:, 1])):
            np.add.at(kernel, (first[:, 1] + y, first[:, 0] + x), share_x * share_y)
    return kernel / kernel.sum()
