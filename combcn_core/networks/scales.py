"""CombCN at the scales at which a hole is as wide as those it was trained on.

It learns on small frames, where a box is some 56 pixels wide. In a wider hole most of what it sees
is its own start, and it hardly changes that. So frames are halved until the hole is about as wide
as in training, and what it adds there is brought back to full size, where texture follows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial, reduce
from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor

from combcn_core.fill.cuts import find_shots
from combcn_core.masks import check_clip, downsample_known, to_arrays, to_tensor
from combcn_core.networks.config import NetworkConfig
from combcn_core.networks.inference import InferenceModel, Model, Precision, prepare
from combcn_core.networks.jobs import detail_crop
from combcn_core.networks.layers import detail_step
from combcn_core.networks.restore import (
    coarse_size,
    complete_small,
    restore_at_size,
    upsample_guidance,
)
from combcn_core.pixels import (
    Box,
    PackedMask,
    Patch,
    Pixels,
    cells_of,
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


def restore_detail(
    model: Model,
    images: Tensor,
    masks: Tensor,
    guidance: Tensor | None = None,
    *,
    frames: tuple[int, int] | None = None,
    precision: Precision = "auto",
    memory_bytes: int | None = None,
    batch_frames: int | None = None,
    on_progress: OnShare | None = None,
) -> Tensor:
    """CombCN: restore detail and composite.

    Only what the hole needs is computed, which equals the whole frame. Each frame is restored by
    itself, unless the model's `steady_frames` want averages over a shot. Wide holes are restored in
    shrunk frames, see `scale_shares`.

    Args:
        model: the networks, as in `infer_temporal`.
        images: (T, H, W, 3), as in `inpaint`; the hole as in `infer_temporal`.
        masks: (T, H, W) or (H, W), 1 inside the hole.
        guidance: (T, h, w, 3) coarse frames, resized here if they are not (H/ratio, W/ratio); None
            for a model without guidance.
        frames: as in `infer_temporal`, where the first of `images` is the shot's first or a
            multiple of `networks.run_multiple` after it.
        precision: as in `prepare`.
        memory_bytes: as in `infer_temporal`; larger holes are computed in tiles.
        batch_frames: frames computed together at most, if their holes are alike; None: as many as
            keep the device busy.
        on_progress: as in `inpaint`, after each batch.

    Returns:
        As images; known pixels untouched.

    Source: METHOD "CombCN"; section "Spatial details" and Table 1 of the paper.
    """
    holes = check_clip(images, masks)
    if (guidance is not None) != model.config.guidance:
        has, wants = ("no guidance", "with it") if guidance is None else ("guidance", "without")
        raise ValueError(
            f"restore_detail got {has}, but the model was trained {wants}; pass the result of "
            f"infer_temporal to a model with guidance, and None to one without."
        )
    if guidance is not None and len(guidance) != len(images):
        raise ValueError(
            f"guidance has {len(guidance)} frames but images has {len(images)}; give one for each."
        )
    network = prepare(model, precision=precision)
    restore = partial(
        restore_at_size, network, memory_bytes=memory_bytes, batch_frames=batch_frames
    )
    unseen = [PackedMask.of(hole) for hole in holes.numpy(force=True)]
    if all(scale_shares(hole).keys() <= {1} for hole in unseen):
        return restore(images, holes, guidance, frames=frames, on_progress=on_progress)
    start, stop = frames or (0, len(images))
    arrays = to_arrays(images)
    is_cut = frames is None and model.config.steady_frames
    done: list[Pixels] = []
    for first, end in find_shots(arrays) if is_cut else [(0, len(images))]:
        shot = range(first, end)
        given = _Given(
            restore,
            model.config,
            {t: Patch.of(arrays[t]) for t in shot},
            {t: unseen[t] for t in shot},
            None if guidance is None else {t: guidance[t] for t in shot},
        )
        part = part_of(on_progress, first / len(images), end / len(images), shows=False)
        span = range(max(first, start), min(end, stop))
        done += [frame.whole() for frame in _restore(given, span, part).values()]
    wanted = slice(start, stop)
    return torch.where(holes[wanted, ..., None], to_tensor(done, images), images[wanted])


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
    given = _Given(partial(restore_at_size, model), model.config, filled, unseen, None)
    if model.config.guidance:
        # Frame by frame: many whole frames as tensors would be the most memory of all.
        low = [
            downsample_known(
                torch.from_numpy(filled[t].whole()[None]),
                torch.from_numpy(unseen[t].whole()[None]),
                size=coarse_size(model, *unseen[t].shape),
                is_filled=model.config.input_fill == "classical",
            )
            for t in filled
        ]
        small, small_holes = (torch.cat(parts) for parts in zip(*low, strict=True))
        first, near = next(iter(filled)), given.near(span)
        wanted = near.start - first, near.stop - first
        part = part_of(on_progress, 0, 0.3, shows=False)  # its frames are small
        coarse = complete_small(model, small, small_holes, wanted, None, part)
        given = given._replace(guidance=dict(zip(near, coarse, strict=True)))
    return _restore(given, span, part_of(on_progress, 0.3, 1, shows=False))


class _Given(NamedTuple):
    """Consecutive frames of one shot, by number, and what restores them.

    Attributes:
        restore: `restore_at_size` with the networks.
        config: theirs.
        filled: the frames.
        unseen: where they are to be restored.
        guidance: (h, w, 3) each, of those that are needed; None for a model without.
    """

    restore: Callable[..., Tensor]
    config: NetworkConfig
    filled: Mapping[int, Patch]
    unseen: Mapping[int, PackedMask]
    guidance: Mapping[int, Tensor] | None

    def near(self, span: range) -> range:
        """What steadiness wants for a span: the frames around it, too, from one that `detail_step`
        counts."""
        first, reach = next(iter(self.filled)), self.config.steady_frames
        step = detail_step(self.config)
        before = max(0, span.start - reach - first) // step * step
        return range(first + before, min(first + len(self.filled), span.stop + reach))


def _restore(given: _Given, span: range, on_progress: OnShare | None) -> dict[int, Patch]:
    """Restore a span of frames, at all scales that their holes want."""
    shares = {t: scale_shares(given.unseen[t]) for t in span}
    scales = sorted({scale for one in shares.values() for scale in one})
    work = np.cumsum([0.0, *(1 / scale**2 for scale in scales)])
    work /= work[-1] or 1
    painted: dict[int, _Painted] = {}
    for scale, *ends in zip(scales, work, work[1:], strict=False):
        times = [t for t in span if scale in shares[t]]
        run = range(times[0], times[-1] + 1)
        part = part_of(on_progress, *map(float, ends), shows=False)
        painted[scale] = _paint_at(given, run, scale, part)
    result = {}
    for t in span:
        frame, hole = given.filled[t], given.unseen[t]
        if hole.box is not None:
            box = crop_box(hole.box, 8, 1, *hole.shape)  # a patch shows so much around its change
            own, inside = frame.crop(box), hole.crop(box)
            parts = [share * painted[scale].at(t, box, own) for scale, share in shares[t].items()]
            own[inside] = from_unit(reduce(np.add, parts)[inside], own.dtype)
            frame = replaced(frame, box, own)
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
    """What CombCN makes of frames at one scale.

    Attributes:
        scale: by which the frames were shrunk.
        box: of the shrunk frames, what the others hold.
        first: number of the first frame.
        before: (T, h, w, 3), what it started from; None if from nothing.
        after: (T, h, w, 3).
    """

    scale: int
    box: Box
    first: int
    before: Pixels | None
    after: Pixels

    def at(self, t: int, box: Box, own: Pixels) -> Pixels:
        """A box of a frame at full size, which CombCN got as `own`, in [0, 1]."""
        scale = self.scale
        # Two cells more on each side for the cubic kernel, where there are any.
        top, left, bottom, right = cells_of(box, scale)
        cells = intersection(Box(top - 2, left - 2, bottom + 2, right + 2), self.box)
        assert cells is not None
        inner = moved_box(cells, self.box)
        there = moved_box(box, Box(cells.top * scale, cells.left * scale, 0, 0))
        change = to_unit(crop(self.after[t - self.first], inner))
        if scale == 1:
            return crop(change, there)
        size = (cells.width * scale, cells.height * scale)
        if self.before is None:
            return crop(cv2.resize(change, size, interpolation=cv2.INTER_CUBIC), there)
        change -= to_unit(crop(self.before[t - self.first], inner))
        change = cv2.resize(change, size, interpolation=cv2.INTER_CUBIC)
        return to_unit(own) + crop(change, there)


def _paint_at(given: _Given, span: range, scale: int, on_progress: OnShare | None) -> _Painted:
    """Restore a span of frames that are shrunk by `scale`."""
    _, config, filled, unseen, guidance = given
    near = given.near(span)
    shape = next(iter(unseen.values())).shape
    height, width = (-(-length // scale) for length in shape)
    holes_box = reduce(union, (hole.box for t in near if (hole := unseen[t]).box is not None))
    box = detail_crop(cells_of(holes_box, scale), height, width)
    there = _enlarged(box, scale, shape)
    parts = zip(*(_shrink(filled[t], unseen[t], there, scale) for t in near), strict=True)
    images, holes = (torch.stack(part) for part in parts)
    guide = None
    if guidance is not None:
        size = -(-height // config.ratio), -(-width // config.ratio)
        top, left, bottom, right = cells_of(box, config.ratio)
        # One by one: enlarged, they are as large as the frames.
        enlarged = (upsample_guidance(guidance[t][None], size) for t in near)
        guide = torch.cat([frame[:, top:bottom, left:right] for frame in enlarged])
    start, stop = span.start - near.start, span.stop - near.start
    painted = given.restore(images, holes, guide, frames=(start, stop), on_progress=on_progress)
    before = images[start:stop].numpy() if config.input_fill == "classical" else None
    return _Painted(scale, box, span.start, before, painted.numpy())


def _enlarged(cells: Box, scale: int, shape: tuple[int, int]) -> Box:
    """The pixels of cells, as far as the frame has them."""
    top, left, bottom, right = (edge * scale for edge in cells)
    return Box(top, left, min(bottom, shape[0]), min(right, shape[1]))


def _shrink(frame: Patch, hole: PackedMask, box: Box, scale: int) -> tuple[Tensor, Tensor]:
    """A part of a frame, and of its hole, in cells of scale x scale pixels; at scale 1 as it is."""
    pixels, inside = frame.crop(box), hole.crop(box)
    if scale == 1:
        return torch.from_numpy(pixels), torch.from_numpy(inside)
    beyond = [(0, -length % scale) for length in inside.shape]  # up to whole cells
    pixels = np.pad(pixels, [*beyond, (0, 0)], mode="edge")
    inside = np.pad(inside, beyond, mode="edge")
    height, width = (length // scale for length in inside.shape)
    small, cells = downsample_known(
        torch.from_numpy(pixels[None]),
        torch.from_numpy(inside[None]),
        size=(height, width),
        is_filled=True,
    )
    return small[0], cells[0]
