"""The networks where no frame shows anything, at the scale at which a hole is as wide as those they
were trained on.

They learn on small frames, where a box is some 56 pixels wide. In a wider hole most of what they
see is their own start, and they hardly change it. So frames are halved until the hole is about as
wide as in training, and what the networks add there is brought back to full size, where texture
follows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import reduce
from typing import NamedTuple

import cv2
import numpy as np
import torch

from combcn_core.masks import downsample_known
from combcn_core.networks.inference import InferenceModel
from combcn_core.networks.jobs import detail_crop
from combcn_core.networks.layers import detail_step
from combcn_core.networks.restore import (
    coarse_size,
    complete_small,
    low_slices,
    restore_detail,
    upsample_guidance,
)
from combcn_core.pixels import (
    Array,
    Box,
    Mask,
    PackedMask,
    Patch,
    Pixels,
    crop,
    crop_box,
    from_unit,
    intersection,
    moved_box,
    replaced,
    to_unit,
    union,
)
from combcn_core.progress import OnShare, part_of

KNOWN_WIDTH_PIXELS = 56  # of the holes in training: boxes of 48 to 64 on frames of 128
BLEND = 0.5  # the part of the way from one scale to the next, in octaves, where both count


def paint_unseen(
    model: InferenceModel,
    filled: Mapping[int, Patch],
    unseen: Mapping[int, PackedMask],
    span: range,
    on_progress: OnShare | None = None,
) -> dict[int, Patch]:
    """Let the networks restore what other frames do not show of a segment.

    Args:
        model: the networks, prepared.
        filled: consecutive frames of one shot by number, filled without networks.
        unseen: where these fills are to be replaced, in the same frames.
        span: the frames wanted.
        on_progress: as in `inpaint`.

    Returns:
        The frames wanted, by number.
    """
    shares = {t: scale_shares(unseen[t]) for t in span}
    scales = sorted({scale for one in shares.values() for scale in one})
    # The work shrinks with the square of the scale.
    work = np.cumsum([0.0, *(1 / scale**2 for scale in scales)])
    painted: dict[int, _Painted] = {}
    for scale, begin, end in zip(scales, work, work[1:], strict=False):
        times = [t for t in span if scale in shares[t]]
        part = part_of(on_progress, float(begin / work[-1]), float(end / work[-1]), shows=False)
        run = range(times[0], times[-1] + 1)
        painted[scale] = _paint_at(model, filled, unseen, run, scale, part)
    result = {}
    for t in span:
        frame, hole = filled[t], unseen[t]
        if hole.box is not None:
            own = frame.crop(hole.box)
            parts = [
                share * painted[scale].at(t, hole.box, own) for scale, share in shares[t].items()
            ]
            # A patch shows 8 pixels around what it replaces.
            box = crop_box(hole.box, 8, 1, *hole.shape)
            pixels = frame.crop(box)
            inside = hole.crop(box)
            pixels[inside] = from_unit(reduce(np.add, parts), own.dtype)[hole.crop(hole.box)]
            frame = replaced(frame, box, pixels)
        result[t] = frame
    return result


def scale_shares(hole: PackedMask) -> dict[int, float]:
    """By how much to shrink a frame, as powers of two, and what share the result of each has.

    It follows from the frame's own hole alone, so that neither segments nor other frames change
    it, and from its width step by step, so that a hole that grows changes nothing at once.
    """
    if hole.box is None:
        return {}
    inside = np.pad(hole.crop(hole.box), 1).view(np.uint8)
    width = 2 * float(cv2.distanceTransform(inside, cv2.DIST_L2, 5).max())
    octaves = math.log2(max(1.0, width / KNOWN_WIDTH_PIXELS))
    lower = math.floor(octaves)
    upper_share = min(max((octaves - lower - 0.5) / BLEND + 0.5, 0.0), 1.0)
    shares = {2**lower: 1 - upper_share, 2 ** (lower + 1): upper_share}
    return {scale: share for scale, share in shares.items() if share}


class _Painted(NamedTuple):
    """What the networks make of frames at one scale.

    Attributes:
        scale: by which the frames were shrunk.
        box: of the shrunk frames, what the others hold.
        first: number of the first frame.
        before, after: (T, h, w, 3).
    """

    scale: int
    box: Box
    first: int
    before: Pixels
    after: Pixels

    def at(self, t: int, box: Box, own: Pixels) -> Pixels:
        """A box of a frame at full size, which the networks got as `own`, in [0, 1]."""
        scale = self.scale
        # Two cells more on each side for the cubic kernel, where there are any.
        top, left, bottom, right = _shrunk(box, scale)
        cells = intersection(Box(top - 2, left - 2, bottom + 2, right + 2), self.box)
        assert cells is not None
        inner = moved_box(cells, self.box)
        after = to_unit(crop(self.after[t - self.first], inner))
        there = moved_box(box, Box(cells.top * scale, cells.left * scale, 0, 0))
        if scale == 1:
            return crop(after, there)
        size = (cells.width * scale, cells.height * scale)
        change = after - to_unit(crop(self.before[t - self.first], inner))
        change = cv2.resize(change, size, interpolation=cv2.INTER_CUBIC)
        return to_unit(own) + crop(change, there)


def _paint_at(
    model: InferenceModel,
    filled: Mapping[int, Patch],
    unseen: Mapping[int, PackedMask],
    span: range,
    scale: int,
    on_progress: OnShare | None,
) -> _Painted:
    """Let the networks restore the frames of a span, shrunk by `scale`."""
    config = model.config
    shape = next(iter(unseen.values())).shape
    height, width = (-(-length // scale) for length in shape)
    # Steadiness wants the frames around those, from one that `detail_step` counts.
    first, reach = next(iter(filled)), config.steady_frames
    before = max(0, span.start - reach - first) // detail_step(config) * detail_step(config)
    near = range(first + before, min(first + len(filled), span.stop + reach))
    guidance = None
    if config.guidance:
        # Frame by frame: many whole frames as tensors would be the most memory of all.
        low = [
            downsample_known(
                torch.from_numpy(_padded(filled[t].whole(), scale)[None]),
                torch.from_numpy(_padded(unseen[t].whole(), scale)[None]),
                size=coarse_size(model, height, width),
                is_filled=config.input_fill == "classical",
            )
            for t in filled
        ]
        small, small_holes = (torch.cat(parts) for parts in zip(*low, strict=True))
        wanted = near.start - first, near.stop - first
        part = part_of(on_progress, 0, 0.3, shows=False)  # its frames are small
        guidance = complete_small(model, small, small_holes, wanted, None, part)
    holes_box = reduce(union, (hole.box for t in near if (hole := unseen[t]).box is not None))
    box = detail_crop(_shrunk(holes_box, scale), height, width)
    there = _enlarged(box, scale, shape)
    holes = np.stack([_any_of(unseen[t].crop(there), scale) for t in near])
    images = np.stack([_means(filled[t].crop(there), scale) for t in near])
    if guidance is not None:
        ratio = config.ratio
        part_of_each = (slice(None), *low_slices(box, ratio))
        wide = -(-height // ratio), -(-width // ratio)
        # One by one here too: enlarged, they are as large as the frames.
        enlarged = (upsample_guidance(frame[None], wide) for frame in guidance)
        guidance = torch.cat([frame[part_of_each] for frame in enlarged])
    painted = restore_detail(
        model,
        torch.from_numpy(images),
        torch.from_numpy(holes),
        guidance,
        frames=(span.start - near.start, span.stop - near.start),
        on_progress=part_of(on_progress, 0.3, 1, shows=False),
    )
    start = images[span.start - near.start :][: len(span)]
    return _Painted(scale, box, span.start, start, painted.numpy())


def _shrunk(box: Box, scale: int) -> Box:
    """The cells of scale x scale pixels that a box touches."""
    top, left, bottom, right = box
    return Box(top // scale, left // scale, -(-bottom // scale), -(-right // scale))


def _enlarged(cells: Box, scale: int, shape: tuple[int, int]) -> Box:
    """The pixels of cells, as far as the frame has them."""
    top, left, bottom, right = (edge * scale for edge in cells)
    return Box(top, left, min(bottom, shape[0]), min(right, shape[1]))


def _padded(pixels: Array, scale: int) -> Array:
    """(h, w, ...) up to whole cells; its last row and column are repeated."""
    beyond = [(0, -length % scale) for length in pixels.shape[:2]]
    return np.pad(pixels, [*beyond, *[(0, 0)] * (pixels.ndim - 2)], mode="edge")


def _means(pixels: Pixels, scale: int) -> Pixels:
    """(h, w, 3) as the means of its cells, float32 in [0, 1]; at scale 1 as it is."""
    if scale == 1:
        return pixels
    padded = to_unit(_padded(pixels, scale))
    rows, columns = padded.shape[0] // scale, padded.shape[1] // scale
    return cv2.resize(padded, (columns, rows), interpolation=cv2.INTER_AREA)


def _any_of(mask: Mask, scale: int) -> Mask:
    """(h, w): which cells have any pixel of the hole."""
    padded = _padded(mask, scale)
    rows, columns = padded.shape[0] // scale, padded.shape[1] // scale
    cells = padded.reshape(rows, scale, columns, scale)
    return np.logical_or.reduce(cells, axis=(1, 3), dtype=bool)
