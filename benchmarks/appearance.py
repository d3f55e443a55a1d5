"""What a viewer sees first in a filled hole, measured without knowing the truth.

A fill catches the eye where it is flatter than what lies around it (smear), where it is busier
(rubble: pieces that do not belong together), and where it changes more from frame to frame (boil).
All three compare the hole with the ring of known pixels around it, so they say what is conspicuous,
not what is wrong; and `texture_error` compares it with the truth. The first three take

    images: (T, H, W, 3), the filled clip: uint8, uint16 or float in [0, 1]; looked at in 8 bits.
    masks: what `masks.check_masks` takes, the hole as it was filled.

and raise ValueError for other shapes or types. Frames without a hole, or whose hole or ring is too
small to say anything, do not count; if none is left, the result is NaN.

Lengths are in pixels and made for frames a few hundred pixels high, such as 432x240.
"""

from __future__ import annotations

import math
from itertools import pairwise

import cv2
import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from combcn_core.masks import check_masks, grow
from combcn_core.measure import metrics
from combcn_core.pixels import to_uint8

Pixels = NDArray[np.uint8]  # (H, W, 3), or (H, W) of luma
Masks = NDArray[np.bool_]

EDGE_PIXELS = 3  # of the hole beside its edge, left out: a window there sees mostly known pixels
GAP_PIXELS, RING_PIXELS = 6, 24  # the ring lies this far outside the hole
WINDOW = 7  # side of the window of local contrast, in pixels of half the size
TIMES = 3  # less than 1 / TIMES of the ring's contrast is smear, more than TIMES is rubble
FLAT = 2.0  # contrast of a ring counts as this at least: less is noise
STILL = 0.5  # change of a ring counts as this at least: the noise of a good camera
LEAST_CONTRAST = 1.0  # grey levels of 0..255
LEAST_PIXELS, LEAST_MOVING_PIXELS = 20, 80  # of the hole and of the ring, at half and at full size


def local_contrast(luma: Pixels) -> NDArray[np.float64]:
    """Standard deviation of luma around each pixel of the frame at half its size.

    Half the size, because a viewer sees texture there and sensor noise hardly.

    Args:
        luma: (H, W) in 0..255; a last odd row or column is left out.

    Returns:
        (H // 2, W // 2), of windows of 7 x 7 pixels, mirrored at the border of the frame.
    """
    height, width = luma.shape[0] // 2, luma.shape[1] // 2
    cells = luma[: 2 * height, : 2 * width].reshape(height, 2, width, 2)
    half = cells.mean(axis=(1, 3), dtype=np.float64)
    mean, square = (cv2.blur(values, (WINDOW, WINDOW)) for values in (half, half * half))
    return np.sqrt(np.maximum(square - mean * mean, 0))


def texture_error(prediction: Tensor, target: Tensor, masks: Tensor) -> float:
    """How unlike the local contrast is, in powers of two. Lower is better; 1: twice, or half.

    Mean of |log2(ratio)| of the local contrast of the prediction over that of the truth, of 8-bit
    luma, over the hole, 3 pixels in from its edge, where windows see little else. Contrast counts
    as 1 grey level at least, since less is noise. A blur of fine texture has 2 or 3, unlike in
    `metrics.psnr`; texture that is right but in another place has little.

    Arguments and errors as of `combcn_core.measure.metrics`.
    """
    total, count = 0.0, 0
    frames = metrics.composites(prediction, target, masks)
    masks = check_masks(masks, *target.shape[:3])
    for hole, (result, truth) in zip(masks[masks.any(dim=(1, 2))], frames, strict=True):
        inner = half(grow(hole[None], -EDGE_PIXELS)[0].numpy(force=True))
        ours, real = (
            np.log2(np.maximum(local_contrast(luma(frame)), LEAST_CONTRAST))
            for frame in (result, truth)
        )
        total += float(np.abs(ours - real)[inner].sum())
        count += int(inner.sum())
    return total / count if count else math.nan


def smear_and_rubble(images: Tensor, masks: Tensor) -> tuple[float, float]:
    """Shares of the hole that are much flatter, and much busier, than what lies around it.

    Of the pixels of the hole, 3 pixels in from its edge, those whose local contrast is below a
    third of the median contrast of the ring, and those where it is above three times that; mean
    over the frames. Both in [0, 1]; lower is better, though real background is not at 0 either:
    it changes, too.
    """
    shares = []
    holes = _check(images, masks)
    for image, inner, ring in zip(images, *_regions(holes, holes), strict=True):
        contrast = local_contrast(luma(to_uint8(image.numpy(force=True))))
        inside, around = contrast[half(inner)], contrast[half(ring)]
        if min(inside.size, around.size) < LEAST_PIXELS:
            continue
        usual = max(float(np.median(around)), FLAT)
        shares.append([(inside < usual / TIMES).mean(), (inside > usual * TIMES).mean()])
    if not shares:
        return math.nan, math.nan
    smear, rubble = np.mean(shares, axis=0)
    return float(smear), float(rubble)


def boil(images: Tensor, masks: Tensor) -> float:
    """How much more the hole changes from frame to frame than the ring does. Lower is better.

    A pixel's change is its mean absolute difference, over R, G, B and 3 x 3 pixels, from where the
    result's own optical flow finds it one frame before. Its mean over what is hole in both frames,
    3 pixels in from the edge, is averaged over the frames and divided by that of the ring. 1 is as
    steady as real background; what is smooth, or has less noise, is below.
    """
    changes = []
    holes = _check(images, masks)
    if len(images) < 2:
        return math.nan
    estimator = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    regions = zip(*_regions(holes[1:] & holes[:-1], holes[1:] | holes[:-1]), strict=True)
    for (before, after), (inner, ring) in zip(pairwise(images), regions, strict=True):
        if min(inner.sum(), ring.sum()) < LEAST_MOVING_PIXELS:
            continue
        first, second = (to_uint8(image.numpy(force=True)) for image in (before, after))
        change = _change(first, second, estimator)
        changes.append([change[inner].mean(), change[ring].mean()])
    if not changes:
        return math.nan
    inside, around = np.mean(changes, axis=0)
    return float(inside / max(around, STILL))


def _change(before: Pixels, after: Pixels, estimator: cv2.DISOpticalFlow) -> NDArray[np.float32]:
    """(H, W), 0..255, of (H, W, 3) uint8."""
    height, width = after.shape[:2]
    flow = estimator.calc(luma(after), luma(before), None)  # type: ignore[call-overload]
    rows, columns = np.mgrid[:height, :width].astype(np.float32)
    moved = cv2.remap(
        before.astype(np.float32),
        columns + flow[..., 0],
        rows + flow[..., 1],
        cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REPLICATE,
    )
    difference = np.abs(after.astype(np.float32) - moved).mean(axis=2)
    return cv2.blur(difference, (3, 3))


def _regions(holes: Tensor, covered: Tensor) -> tuple[Masks, Masks]:
    """The inside of the holes, and the ring around all that is covered."""
    inner = grow(holes, -EDGE_PIXELS)
    ring = grow(covered, RING_PIXELS) & ~grow(covered, GAP_PIXELS)
    return inner.numpy(force=True), ring.numpy(force=True)


def half(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """One pixel of each 2 x 2, as `local_contrast` has them."""
    height, width = mask.shape
    return mask[: height // 2 * 2 : 2, : width // 2 * 2 : 2]


def luma(image: Pixels) -> Pixels:
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), np.uint8)


def _check(images: Tensor, masks: Tensor) -> Tensor:
    if images.ndim != 4 or images.shape[-1] != 3:
        raise ValueError(
            f"images have shape {tuple(images.shape)}; give (frames, height, width, 3)."
        )
    return check_masks(masks, *images.shape[:3])
