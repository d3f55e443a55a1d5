"""The way of a frame: propagate, fill the rest, temporal, upsample, detail, composite.

Every stage needs a bounded neighbourhood in time only, so a segment of a shot, computed with its
halo, equals the same frames of the whole shot (`ShotInpainter`). The public stages take whole clips
as tensors: images (T, H, W, 3) RGB, uint8, uint16 or float in [0, 1]; masks (T, H, W), 1 inside the
hole.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial, reduce
from itertools import pairwise
from typing import Literal, NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor

from combcn_core.fill.carry import (
    CARRY_FRAMES,
    Ways,
    fill_with_texture,
    find_ways,
)
from combcn_core.fill.cuts import is_cut
from combcn_core.fill.grain import add_grain
from combcn_core.fill.window import KEY_STEP, Window
from combcn_core.masks import (
    PackedMask,
    check_masks,
    composite,
    downsample_known,
    feather_weights,
    finite,
    grow,
    to_float,
)
from combcn_core.networks.inference import InferenceModel, Model, Precision, prepare
from combcn_core.networks.jobs import (
    Job,
    default_batch_frames,
    default_memory_bytes,
    detail_crop,
    plan_batches,
    plan_runs,
)
from combcn_core.networks.layers import (
    NetworkConfig,
    context_frames,
    detail_step,
    fill_mean,
    run_multiple,
    temporal_halo,
    time_multiple,
)
from combcn_core.networks.regions import Span
from combcn_core.pixels import (
    Box,
    Mask,
    Patch,
    Pixels,
    crop,
    crop_box,
    find_box,
    from_unit,
    replaced,
    to_unit,
)
from combcn_core.progress import Tell, part_of
from combcn_core.segments import Segment, plan_shot

SEGMENT_FRAMES = 32
COARSE_SIDE_PIXELS = 128  # low-resolution short side at most, so that 3DCN sees the whole frame

Upsampling = Literal["nearest", "bilinear", "bicubic", "lanczos"]


@dataclass(frozen=True)
class InpaintConfig:
    """Settings of `inpaint` and `combcn inpaint`."""

    propagate: bool = True
    """Carry known pixels along optical flow into the holes first."""
    network: bool | None = None
    """Let the networks restore what propagation could not fill. None: if a model is given."""
    reach: int = 48
    """Frames that a pixel may be carried, at most."""
    grow_pixels: int = 0
    """Grow the masks by so many pixels first, to cover soft edges."""
    feather_pixels: int = 0
    """Blend into the result over so many pixels inside the mask's edge, for wide masks."""
    unseen: Literal["texture", "smooth"] = "texture"
    """What no frame shows: texture from what is known around it, or the smooth fill, or what the
    networks predict, as it is."""
    match_grain: bool = True
    """Give what is filled smoothly the grain of its surroundings."""
    segment_frames: int = SEGMENT_FRAMES
    """Output frames computed at a time: memory and speed, never the result."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where the networks run."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Arithmetic of the networks. auto: bf16 on a CPU made for it, fp16 on CUDA, else fp32."""

    def __post_init__(self) -> None:
        for name, least in (("reach", 1), ("feather_pixels", 0), ("segment_frames", 1)):
            value = getattr(self, name)
            if value < least:
                raise ValueError(f"{name} is {value}; give {least} or more.")
        if self.unseen not in ("texture", "smooth"):
            raise ValueError(f"unseen is {self.unseen!r}; give 'texture' or 'smooth'.")


@dataclass
class SegmentResult:
    """Output frames of a segment, in the source's type, and what was done for them."""

    frames: list[Pixels]
    seconds: dict[str, float] = field(default_factory=dict)
    hole_pixels: int = 0
    propagated_pixels: int = 0
    filled_pixels: int = 0
    network_pixels: int = 0
    synthesized_pixels: int = 0

    @classmethod
    def joined(cls, parts: Sequence[SegmentResult]) -> SegmentResult:
        """Consecutive parts as one."""
        whole = cls([])
        for part in parts:
            whole.frames += part.frames
            whole.hole_pixels += part.hole_pixels
            whole.propagated_pixels += part.propagated_pixels
            whole.filled_pixels += part.filled_pixels
            whole.network_pixels += part.network_pixels
            whole.synthesized_pixels += part.synthesized_pixels
            for stage, seconds in part.seconds.items():
                whole.seconds[stage] = whole.seconds.get(stage, 0.0) + seconds
        return whole


def inpaint(
    images: Tensor,
    masks: Tensor,
    model: Model | None = None,
    config: InpaintConfig = InpaintConfig(),
    *,
    tell: Tell | None = None,
) -> Tensor:
    """Fill the holes of a clip.

    Args:
        images: (T, H, W, 3) RGB, uint8, uint16 or float in [0, 1].
        masks: (T, H, W), or (H, W) for all frames; 1 inside the hole.
        model: networks for what propagation cannot fill; without one a classical fill does it.
        config: settings.
        tell: called often with the share of the work that is done and, where there is one, a frame
            as far as it is filled; what it raises ends the work.

    Returns:
        As images. Outside the (grown) masks every value is that of `images`, bit for bit.

    Raises:
        ValueError: shapes or types that do not fit, or no known pixel in any frame.
    """
    return inpaint_with_rest(images, masks, model, config, tell=tell)[0]


def inpaint_with_rest(
    images: Tensor,
    masks: Tensor,
    model: Model | None = None,
    config: InpaintConfig = InpaintConfig(),
    *,
    tell: Tell | None = None,
) -> tuple[Tensor, Tensor]:
    """`inpaint`; and (T, H, W) bool, True where no other frame showed what is behind the hole."""
    holes = grow(_check_clip(images, masks), config.grow_pixels)
    if holes.all():
        raise ValueError(
            "mask covers every pixel of every frame; leave something to fill it from, "
            "or give a clean frame."
        )
    frames, hole_list = _to_arrays(images), list(holes.numpy(force=True))
    inpainter = ShotInpainter(config, model)
    done: list[Pixels] = []
    rest: list[Mask] = []
    for segment, shot_start in _plan(frames, config.segment_frames, inpainter.halo):
        window = slice(segment.read_start, segment.read_stop)
        part = part_of(tell, segment.start / len(frames), segment.stop / len(frames))
        seen = inpainter.look(
            frames[window], hole_list[window], segment, shot_start, tell=part_of(part, 0, 0.7)
        )
        rest += [seen.rest[t].whole() for t in range(segment.start, segment.stop)]
        done += inpainter.restore(seen, tell=part_of(part, 0.7, 1)).frames
    result = torch.where(holes[..., None], _to_tensor(done, images), images)
    return result, torch.from_numpy(np.stack(rest)).to(images.device)


def propagate(
    images: Tensor, masks: Tensor, *, reach: int = 48, tell: Tell | None = None
) -> tuple[Tensor, Tensor]:
    """Carry known pixels along optical flow into the holes.

    Args:
        images: (T, H, W, 3), as in `inpaint`.
        masks: (T, H, W) or (H, W), 1 inside the hole. A frame without a hole is a source: paint or
            bring a clean plate for one frame and it propagates.
        reach: frames that a pixel may be carried, at most.
        tell: as in `inpaint`.

    Returns:
        The images, filled where something was seen and sure; and (T, H, W) bool, True where not.
        There stands the classical fill of `fill_rest`.

    Raises:
        ValueError: shapes or types that do not fit, or a reach below 1.
    """
    if reach < 1:
        raise ValueError(f"reach is {reach}; give 1 frame or more.")
    holes = _check_clip(images, masks)
    frames = _to_arrays(images)
    window = Window(reach)
    filled: list[Patch] = []
    remaining: list[Mask] = []
    for start, stop in _find_shots(frames):
        window.slide(
            start, frames[start:stop], list(holes[start:stop].numpy(force=True)), start, stop
        )
        begin, middle, end = (t / len(frames) for t in (start, start + (stop - start) * 0.8, stop))
        given = window.propagated(start, stop, start, part_of(tell, begin, middle))
        filled += window.rest(given, start, stop, start, part_of(tell, middle, end)).values()
        remaining += [rest.whole() for _, rest in given.values()]
    result = torch.where(holes[..., None], _to_tensor(_wholes(filled), images), images)
    return result, torch.from_numpy(np.stack(remaining)).to(images.device)


def fill_rest(images: Tensor, masks: Tensor, *, tell: Tell | None = None) -> Tensor:
    """Fill holes without networks: smoothly within a frame, steadily in time.

    Every eighth frame of a shot is filled from its own surroundings; these fills are carried along
    optical flow to the frames between and faded into each other.

    Args:
        images: (T, H, W, 3), as in `inpaint`.
        masks: (T, H, W) or (H, W), 1 inside the hole.
        tell: as in `inpaint`.

    Returns:
        As images; known pixels untouched.
    """
    holes = _check_clip(images, masks)
    frames = _to_arrays(images)
    window = Window(KEY_STEP)
    filled: list[Patch] = []
    for start, stop in _find_shots(frames):
        window.slide(
            start, frames[start:stop], list(holes[start:stop].numpy(force=True)), start, stop
        )
        given = window.unfilled(start, stop)
        part = part_of(tell, start / len(frames), stop / len(frames))
        filled += window.rest(given, start, stop, start, part).values()
    return torch.where(holes[..., None], _to_tensor(_wholes(filled), images), images)


def synthesize_texture(
    images: Tensor,
    masks: Tensor,
    start: Tensor | None = None,
    *,
    removed: Tensor | None = None,
    tell: Tell | None = None,
) -> Tensor:
    """Fill holes with texture from what is known around them, steady in time.

    Every 48th frame of a shot gets texture: patches of its own known pixels that continue what lies
    around the hole, keeping to the rough colours of its start. It is carried along optical flow to
    the other frames; midway between two such frames one texture passes over into the other.

    Args:
        images: (T, H, W, 3), as in `inpaint`. After `propagate` what it filled counts as known.
        masks: (T, H, W) or (H, W), 1 inside the hole: of `propagate`, what remains.
        start: (T, H, W, 3), images with what texture is to start from inside the hole: the result
            of `restore_detail`. None: a smooth fill.
        removed: the masks as given to `propagate`, if it came before: motion is then measured
            outside of these, and the result is that of `inpaint`. None: `masks`.
        tell: as in `inpaint`.

    Returns:
        As images; known pixels untouched.

    Raises:
        ValueError: shapes or types that do not fit.
    """
    holes = _check_clip(images, masks)
    whole = holes if removed is None else holes | _check_clip(images, removed)
    if start is not None and start.shape != images.shape:
        raise ValueError(
            f"start has shape {tuple(start.shape)} but images has {tuple(images.shape)}; give the "
            f"same frames, with other pixels inside the hole."
        )
    frames, begun = (
        _to_arrays(images),
        None if start is None else _to_arrays(start.to(images.dtype)),
    )
    inside = list(holes.numpy(force=True))
    window = Window(KEY_STEP)
    textures: dict[int, Patch] = {}
    filled: list[Patch] = []
    for begin, end in _find_shots(frames):
        shot = slice(begin, end)
        window.slide(begin, frames[shot], list(whole[shot].numpy(force=True)), begin, end)
        part = part_of(tell, begin / len(frames), end / len(frames))
        window.find_motions(False, part_of(part, 0, 0.5))
        for first in range(begin, end, SEGMENT_FRAMES):
            last = min(first + SEGMENT_FRAMES, end)
            near = range(max(begin, first - CARRY_FRAMES), min(end, last + CARRY_FRAMES))
            known = {t: (Patch.of(frames[t]), PackedMask.of(inside[t])) for t in near}
            ways = find_ways(window, known, first, last, begin)
            if ways is None:
                filled += [known[t][0] for t in range(first, last)]
                continue
            starts = None if begun is None else partial(_started, frames, begun, inside)
            done, _ = fill_with_texture(ways, starts, textures, window.workers)
            filled += done.values()
            if part is not None:
                part(0.5 + (last - begin) / (end - begin) / 2, filled[-1].whole())
    return torch.where(holes[..., None], _to_tensor(_wholes(filled), images), images)


def _started(
    frames: Sequence[Pixels], begun: Sequence[Pixels], holes: Sequence[Mask], t: int
) -> Patch:
    """A frame with what another clip has inside its hole."""
    hole = holes[t]
    return Patch.of(np.where(hole[..., None], begun[t], frames[t]))


def infer_temporal(
    model: Model,
    images: Tensor,
    masks: Tensor,
    *,
    size: tuple[int, int] | None = None,
    frames: tuple[int, int] | None = None,
    precision: Precision = "auto",
    memory_bytes: int | None = None,
    segment_frames: int = SEGMENT_FRAMES,
    tell: Tell | None = None,
) -> Tensor:
    """3DCN: complete the clip at low resolution, shot by shot.

    Args:
        model: the networks; a prepared one saves some time in every call, see `prepare`.
        images: (T, H, W, 3), as in `inpaint`; what is in the hole is not looked at, unless the
            model starts from a classical fill: then the hole holds that fill.
        masks: (T, H, W) or (H, W), 1 inside the hole.
        size: (h, w) of the result; None: see `coarse_size`.
        frames: first and last + 1 of those wanted, where the others are their context and all are
            of one shot; None: all.
        precision: as in `prepare`.
        memory_bytes: that the network may take, about; None: what the model allows, or a default.
            Long clips are computed in runs of frames, which changes no more than the order of sums.
        segment_frames: as in `InpaintConfig`, with which the result then agrees bit for bit.
        tell: as in `inpaint`, after each run.

    Returns:
        (T, h, w, 3) float32, RGB: the prediction inside the low-resolution hole, the downsampled
        source outside it. Not clamped.

    Source: METHOD "3DCN"; section "Temporal structure" and Table 1 of the paper.
    """
    holes = _check_clip(images, masks)
    size = size or coarse_size(model, *images.shape[1:3])
    network = prepare(model, precision=precision)
    is_filled = model.config.input_fill == "classical"
    shrunk = partial(downsample_known, size=size, is_filled=is_filled)
    if frames is not None:
        return _complete(network, *shrunk(images, holes), frames, memory_bytes, tell)
    halo, multiple = temporal_halo(model.config), time_multiple(model.config)
    parts = []
    for start, stop in _find_shots(_to_arrays(images)):
        for segment in plan_shot(start, stop, segment_frames, halo):
            low, high = segment.read_start, segment.read_stop
            low -= (low - start) % multiple
            wanted = segment.start - low, segment.stop - low
            part = part_of(tell, segment.start / len(images), segment.stop / len(images))
            window = images[low:high], holes[low:high]
            parts.append(_complete(network, *shrunk(*window), wanted, memory_bytes, part))
    return torch.cat(parts)


def _complete(
    model: InferenceModel,
    small: Tensor,
    small_holes: Tensor,
    frames: tuple[int, int],
    memory_bytes: int | None,
    tell: Tell | None,
) -> Tensor:
    """The wanted frames of one shot, as `infer_temporal` returns them, from frames made small."""
    (start, stop), device = frames, model.temporal.device
    jobs = plan_runs(
        model.temporal,
        small_holes,
        frames=frames,
        memory_bytes=memory_bytes or model.memory_bytes or default_memory_bytes(device),
    )
    coarse = small.clone()
    for job in jobs:
        read, write = _slices(job.read), _slices(job.write)
        clip, hole = _to_volume(small[read]), small_holes[read].float()[None, None]
        if model.config.input_fill == "mean":
            clip = fill_mean(clip, hole, model.config.mean_pixel)
        prediction = model.temporal(clip, hole, wanted=job.wanted)[0].permute(1, 2, 3, 0)
        coarse[write] = torch.where(
            small_holes[write][..., None], prediction.to(small.device), small[write]
        )
        if tell is not None:
            done = stop if job is jobs[-1] else job.write[0].stop
            tell((done - start) / (stop - start), coarse[done - 1].numpy(force=True))
    return coarse[start:stop]


def coarse_size(model: Model, height: int, width: int) -> tuple[int, int]:
    """(h, w) that 3DCN runs at: the frame by the model's ratio, its short side at most 128."""
    ratio = max(float(model.config.ratio), min(height, width) / COARSE_SIDE_PIXELS)
    return -int(-height // ratio), -int(-width // ratio)


def upsample_guidance(
    coarse: Tensor, size: tuple[int, int], *, method: Upsampling = "bicubic"
) -> Tensor:
    """Bring coarse frames to the size at which the detail network takes them in.

    Args:
        coarse: (T, h, w, 3) float.
        size: (height, width) wanted; the same size returns `coarse` itself.
        method: interpolation; area averaging where the size shrinks.

    Returns:
        (T, height, width, 3) float32.
    """
    if tuple(coarse.shape[1:3]) == tuple(size):
        return coarse
    modes = {
        "nearest": cv2.INTER_NEAREST,
        "bilinear": cv2.INTER_LINEAR,
        "bicubic": cv2.INTER_CUBIC,
        "lanczos": cv2.INTER_LANCZOS4,
    }
    if method not in modes:
        raise ValueError(f"unknown method {method!r}; choose one of {', '.join(modes)}.")
    shrinks = size[0] < coarse.shape[1] and size[1] < coarse.shape[2]
    mode = cv2.INTER_AREA if shrinks else modes[method]
    frames = coarse.float().cpu().numpy()
    resized = [cv2.resize(frame, (size[1], size[0]), interpolation=mode) for frame in frames]
    return torch.from_numpy(np.stack(resized)).to(coarse.device)


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
    tell: Tell | None = None,
) -> Tensor:
    """CombCN: restore detail at full resolution and composite.

    Only what the hole needs is computed, which equals the whole frame. Each frame is restored by
    itself, unless the model's `steady_frames` want averages over a shot.

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
        tell: as in `inpaint`, after each batch.

    Returns:
        As images; known pixels untouched.

    Source: METHOD "CombCN"; section "Spatial details" and Table 1 of the paper.
    """
    holes = _check_clip(images, masks)
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
    device = network.detail.device
    memory_bytes = memory_bytes or network.memory_bytes or default_memory_bytes(device)
    together = batch_frames or default_batch_frames(device)
    paint = partial(_paint, network, memory_bytes=memory_bytes, batch_frames=together)
    if not model.config.steady_frames:
        some = slice(*(frames or (0, len(images))))
        guide = None if guidance is None else guidance[some]
        return paint(images[some], holes[some], guide, tell=tell)
    shots = _find_shots(_to_arrays(images)) if frames is None else [(0, len(images))]
    parts = []
    for start, stop in shots:
        shot = slice(start, stop)
        guide = None if guidance is None else guidance[shot]
        parts.append(
            _paint_steadily(
                paint,
                images[shot],
                holes[shot],
                guide,
                reach=network.config.steady_frames,
                step=detail_step(network.config),
                frames=frames or (0, stop - start),
                together=together,
                tell=part_of(tell, start / len(images), stop / len(images)),
            )
        )
    return torch.cat(parts)


def _paint_steadily(
    paint: Callable[..., Tensor],
    images: Tensor,
    holes: Tensor,
    guidance: Tensor | None,
    *,
    reach: int,
    step: int,
    frames: tuple[int, int],
    together: int,
    tell: Tell | None,
) -> Tensor:
    """The wanted frames of one shot, each with the average of what is added near it in time."""
    start, stop = frames
    last = len(images) - 1
    near = range(max(0, start - reach + 1), min(last, stop - 1 + reach - 1) + 1)
    keys = [t for t in near if t % step == 0]
    # A moving hole's last places are seen in the last frame only.
    if last < stop - 1 + reach and last not in keys:
        keys.append(last)
    waiting, added = keys, dict[int, Tensor]()  # whole frames: no more of them than are in reach
    result = images[start:stop].clone()
    for t in range(start, stop):
        if not holes[t].any():
            continue
        added = {k: change for k, change in added.items() if t - k < reach}
        while waiting and waiting[0] - t < reach:
            part = part_of(
                tell, *(1 - len(left) / len(keys) for left in (waiting, waiting[together:]))
            )
            some, waiting = waiting[:together], waiting[together:]
            own, inside = to_float(images[some]), holes[some]
            guide = None if guidance is None else guidance[some]
            changes = torch.where(inside[..., None], paint(own, inside, guide, tell=part) - own, 0)
            added |= zip(some, changes, strict=True)
        total = torch.zeros(images.shape[1:], device=images.device)
        weight = torch.zeros_like(total[..., :1])
        for k, change in added.items():
            nearness = max(0, 1 - abs(k - t) / reach)
            total.add_(change, alpha=nearness)
            weight.add_(holes[k, ..., None], alpha=nearness)
        frame = slice(t, t + 1)
        steady = to_float(images[frame]) + total / weight.clamp_min(torch.finfo().tiny)
        result[t - start] = composite(steady, images[frame], holes[frame])[0]
    return result


def _paint(
    network: InferenceModel,
    images: Tensor,
    holes: Tensor,
    guidance: Tensor | None,
    *,
    memory_bytes: int,
    batch_frames: int,
    tell: Tell | None,
) -> Tensor:
    """Each frame by itself, as `restore_detail` returns them."""
    batches = plan_batches(
        network.detail, holes, memory_bytes=memory_bytes, batch_frames=batch_frames
    )
    left = Counter(job.write[0].start for batch in batches for job in batch)
    result = images.clone()
    for batch in batches:
        inputs = [_detail_input(network.config, images, holes, guidance, job) for job in batch]
        stacked = [torch.cat(parts) for parts in zip(*inputs, strict=True)]
        predictions = network.detail(*stacked, wanted=batch[0].wanted[1:])
        for job, prediction in zip(batch, predictions.to(images.device), strict=True):
            write = _slices(job.write)
            painted = prediction.permute(1, 2, 0)[None]
            result[write] = composite(painted, images[write], holes[write])
        left -= Counter(job.write[0].start for job in batch)
        if tell is not None:
            shown = result[batch[-1][0][0].start].numpy(force=True)
            tell(1 - len(left) / len(images), shown)
    return result


def _detail_input(
    config: NetworkConfig, images: Tensor, holes: Tensor, guidance: Tensor | None, job: Job
) -> list[Tensor]:
    """Frame, mask and guidance as DetailNet takes them, cut to what a job reads."""
    read = _slices(job.read)
    frame = finite(images[read]).permute(0, 3, 1, 2)
    mask = holes[read].float()[:, None]
    if config.input_fill == "mean":
        frame = fill_mean(frame, mask, config.mean_pixel)
    if guidance is None:
        return [frame, mask]
    time, *places = job.read
    low_size = [-(-length // config.ratio) for length in images.shape[1:3]]
    guide = upsample_guidance(guidance[slice(*time)], (low_size[0], low_size[1]))
    (top, bottom), (left, right) = places
    rows, columns = _low_slices(Box(top, left, bottom, right), config.ratio)
    return [frame, mask, guide[:, rows, columns].permute(0, 3, 1, 2)]


def _low_slices(box: Box, ratio: int) -> tuple[slice, slice]:
    """Rows and columns of the guidance that belong to a part of the frame."""
    return (
        slice(box.top // ratio, -(-box.bottom // ratio)),
        slice(box.left // ratio, -(-box.right // ratio)),
    )


class Seen(NamedTuple):
    """A segment as far as it can be filled without networks.

    Attributes:
        segment: whose frames are wanted.
        filled: those, and the context that the networks need, filled without them.
        rest: of these frames, what is only smoothly filled.
        holes: of the wanted frames, all that is to be filled.
        texture: where what no frame shows is to come from, None if it is to stay smooth.
        textures: frames with texture, kept from one segment to the next.
        seconds: by stage.
    """

    segment: Segment
    filled: dict[int, Patch]
    rest: dict[int, PackedMask]
    holes: Sequence[Mask]
    texture: Ways | None
    textures: dict[int, Patch]
    seconds: dict[str, float]


class ShotInpainter:
    """Inpaints segments of shots in any order; flow is kept from one segment to the next.

    Memory is bounded by one segment and its halo.
    """

    def __init__(self, config: InpaintConfig, model: Model | None = None) -> None:
        """Bring the model to its device and precision.

        Raises:
            ValueError: networks asked for without a model, or a device that is not there.
        """
        if config.network and model is None:
            raise ValueError("network is on but there is no model; give one, or turn it off.")
        device = _device(config)  # which is to be there, whether networks run on it or not
        self.config = config
        self.model: InferenceModel | None = None
        if model is not None and config.network is not False:
            self.model = prepare(model, device=device, precision=config.precision)
        self._window = Window(config.reach)

    @property
    def _carry(self) -> tuple[int, int]:
        """Frames from which texture is carried, and frames from which the smooth fill is."""
        texture = self.config.unseen == "texture"
        smooth = not texture or self.model is not None
        return CARRY_FRAMES * texture, KEY_STEP * smooth

    @property
    def context(self) -> int:
        """Frames on each side of a segment that are filled too, as far as they are known."""
        networks = 0 if self.model is None else context_frames(self.model.config)
        return self._carry[0] + networks

    @property
    def halo(self) -> int:
        """Frames of the shot needed on each side of a segment."""
        halo = sum(self._carry) + self._window.halo(self.config.propagate)
        if self.model is not None:
            halo += context_frames(self.model.config) + run_multiple(self.model.config) - 1
        return halo

    @property
    def on_gpu(self) -> bool:
        """Whether networks run beside the CPU, and not on it."""
        return self.model is not None and self.model.temporal.device.type != "cpu"

    def forget_motion(self) -> None:
        """Let go of what is kept for the next segment."""
        self._window = Window(self.config.reach)

    def take_less_memory(self) -> None:
        """Halve what the networks may take."""
        if self.model is not None:
            device = self.model.temporal.device
            now = self.model.memory_bytes or default_memory_bytes(device)
            self.model.memory_bytes = max(now // 2, 1)
            if device.type == "cuda":
                torch.cuda.empty_cache()

    def run(
        self,
        frames: Sequence[Pixels],
        masks: Sequence[Mask],
        segment: Segment,
        shot_start: int,
        *,
        tell: Tell | None = None,
    ) -> SegmentResult:
        """Inpaint the output frames of a segment: `look`, then `restore`.

        Args:
            frames: source frames segment.read_start to segment.read_stop - 1, (H, W, 3) each.
            masks: theirs, (H, W) bool, already grown.
            segment: as planned with `halo`.
            shot_start: the first frame of the shot; the same for all its segments.
            tell: as in `inpaint`, of this segment.
        """
        seen = self.look(frames, masks, segment, shot_start, tell=part_of(tell, 0, 0.7))
        return self.restore(seen, tell=part_of(tell, 0.7, 1))

    def look(
        self,
        frames: Sequence[Pixels],
        masks: Sequence[Mask],
        segment: Segment,
        shot_start: int,
        *,
        tell: Tell | None = None,
    ) -> Seen:
        """What needs no networks; arguments as for `run`. In the order of the segments."""
        config, window = self.config, self._window
        seconds: dict[str, float] = {}
        low, high = segment.read_start, segment.read_stop
        context, margin = self.context, self._carry[1]
        start, stop = max(low, segment.start - context), min(high, segment.stop + context)
        if self.model is not None:
            start -= (start - shot_start) % run_multiple(self.model.config)

        with _timed(seconds, "flow"):
            window.slide(low, frames, masks, start - margin, stop + margin)
            window.find_motions(config.propagate, part_of(tell, 0, 0.7))
        with _timed(seconds, "propagate"):
            first, last = max(low, start - margin), min(high, stop + margin)
            if config.propagate:
                given = window.propagated(first, last, shot_start, part_of(tell, 0.7, 0.85))
            else:
                given = window.unfilled(first, last)
        with _timed(seconds, "rest"):
            if not margin:
                filled = {t: given[t][0] for t in range(segment.start, segment.stop)}
            else:
                filled = window.rest(given, start, stop, shot_start, part_of(tell, 0.85, 1))
        texture = None
        if config.unseen == "texture":
            with _timed(seconds, "texture"):
                texture = find_ways(window, given, segment.start, segment.stop, shot_start)
        seen = Seen(
            segment,
            filled,
            {t: given[t][1] for t in filled},
            masks[segment.start - low : segment.stop - low],
            texture,
            window.textures,
            seconds,
        )
        self.leave(segment)
        return seen

    def leave(self, segment: Segment) -> None:
        """Let go of what the segments after this one do not need.

        To be called instead of `look` for a segment that has nothing to be filled.
        """
        self._window.trim(segment.stop - self.halo)

    def restore(self, seen: Seen, *, tell: Tell | None = None) -> SegmentResult:
        """The networks, where there are any, and the composite."""
        config, segment, seconds = self.config, seen.segment, seen.seconds
        span = range(segment.start, segment.stop)
        result = SegmentResult([], seconds)
        result.hole_pixels = sum(int(hole.sum()) for hole in seen.holes)
        rest_pixels = sum(seen.rest[t].num_pixels for t in span)
        result.propagated_pixels = result.hole_pixels - rest_pixels
        filled = seen.filled
        if seen.texture is not None:

            def restored(t: int) -> Patch:
                with _timed(seconds, "networks"):
                    return self._run_networks(seen, range(t, t + 1), None)[t]

            before = seconds.get("networks", 0.0)
            with _timed(seconds, "texture"):
                starts = None if self.model is None else restored
                workers = self._window.workers
                filled, without = fill_with_texture(seen.texture, starts, seen.textures, workers)
            seconds["texture"] -= seconds.get("networks", 0.0) - before
            for t in [t for t in list(seen.textures) if t < segment.stop - CARRY_FRAMES]:
                del seen.textures[t]
            result.synthesized_pixels = rest_pixels - without
        elif self.model is not None and rest_pixels:
            with _timed(seconds, "networks"):
                filled = {**filled, **self._run_networks(seen, span, tell)}
        if self.model is None:
            result.filled_pixels = rest_pixels
        else:
            result.network_pixels = rest_pixels
        with _timed(seconds, "composite"):
            for t, hole in zip(span, seen.holes, strict=True):
                frame = filled[t]
                if config.match_grain:
                    frame = add_grain(frame, seen.rest[t].whole(), hole, t)
                result.frames.append(_put_back(frame, hole, config.feather_pixels))
        if tell is not None:
            tell(1, result.frames[-1])
        return result

    def _run_networks(self, seen: Seen, span: range, tell: Tell | None) -> dict[int, Patch]:
        assert self.model is not None
        config = self.model.config
        height, width = seen.holes[0].shape
        # Steadiness wants the frames around those, from one that `detail_step` counts.
        first, reach = next(iter(seen.filled)), config.steady_frames
        before = max(0, span.start - reach - first) // detail_step(config) * detail_step(config)
        near = range(first + before, min(first + len(seen.filled), span.stop + reach))
        guidance = None
        if config.guidance:
            # Frame by frame: many whole frames as tensors would be the most memory of all.
            size = coarse_size(self.model, height, width)
            is_filled = config.input_fill == "classical"
            low = [
                downsample_known(
                    torch.from_numpy(seen.filled[t].whole()[None]),
                    torch.from_numpy(seen.rest[t].whole()[None]),
                    size=size,
                    is_filled=is_filled,
                )
                for t in seen.filled
            ]
            small, small_holes = (torch.cat(parts) for parts in zip(*low, strict=True))
            wanted = near.start - first, near.stop - first
            part = part_of(tell, 0, 0.3, shows=False)  # its frames are small
            guidance = _complete(self.model, small, small_holes, wanted, None, part)
        box = find_box(reduce(np.logical_or, (seen.rest[t].whole() for t in near)))
        assert box is not None
        box = detail_crop(box, height, width)
        holes = np.stack([crop(seen.rest[t].whole(), box) for t in near])
        images = np.stack([seen.filled[t].crop(box) for t in near])
        if guidance is not None:
            ratio = config.ratio
            part_of_each = (slice(None), *_low_slices(box, ratio))
            wide = -(-height // ratio), -(-width // ratio)
            # One by one here too: enlarged, they are as large as the frames.
            enlarged = (upsample_guidance(frame[None], wide) for frame in guidance)
            guidance = torch.cat([frame[part_of_each] for frame in enlarged])
        painted = restore_detail(
            self.model,
            torch.from_numpy(images),
            torch.from_numpy(holes),
            guidance,
            frames=(span.start - near.start, span.stop - near.start),
            tell=part_of(tell, 0.3, 1, shows=False),
        )
        return {
            t: replaced(seen.filled[t], box, frame)
            for t, frame in zip(span, painted.numpy(), strict=True)
        }


def _put_back(frame: Patch, hole: Mask, feather_pixels: int) -> Pixels:
    """Composite: the source outside the hole, bit for bit."""
    source = frame.frame
    box = find_box(hole)
    if box is None:
        return source
    # Feathering weighs by the distance from the hole's edge, which the box must show.
    box = crop_box(box, 1, 1, *hole.shape)
    filled, own, inside = frame.crop(box), crop(source, box), crop(hole, box)
    if feather_pixels:
        weights = feather_weights(torch.from_numpy(inside[None]), feather_pixels)
        share = weights[0].numpy()[..., None]
        mixed = to_unit(filled) * share + to_unit(own) * (1 - share)
        filled = from_unit(mixed, source.dtype)
    result = source.copy()
    crop(result, box)[inside] = filled[inside]
    return result


# --- clips as tensors ------------------------------------------------------------------------


def _check_clip(images: Tensor, masks: Tensor) -> Tensor:
    """The masks as (T, H, W) bool."""
    if images.ndim != 4 or images.shape[-1] != 3 or 0 in images.shape:
        raise ValueError(
            f"images have shape {tuple(images.shape)}; give (frames, height, width, 3)."
        )
    if not (images.is_floating_point() or images.dtype in (torch.uint8, torch.uint16)):
        raise ValueError(f"images are {images.dtype}; give uint8, uint16 or float in [0, 1].")
    return check_masks(masks, *images.shape[:3]).to(images.device)


def _to_arrays(images: Tensor) -> list[Pixels]:
    if images.dtype not in (torch.uint8, torch.uint16, torch.float32):
        images = images.float()
    return [np.ascontiguousarray(frame.numpy(force=True)) for frame in images]


def _to_tensor(frames: Sequence[Pixels], like: Tensor) -> Tensor:
    return torch.from_numpy(np.stack(frames)).to(like.device, like.dtype)


def _wholes(patches: Iterable[Patch]) -> list[Pixels]:
    return [patch.whole() for patch in patches]


def _to_volume(images: Tensor) -> Tensor:
    """(T, H, W, 3) -> (1, 3, T, H, W)"""
    return images.permute(3, 0, 1, 2)[None]


def _slices(spans: Sequence[Span]) -> tuple[slice, ...]:
    return tuple(slice(*span) for span in spans)


def _find_shots(frames: Sequence[Pixels]) -> list[tuple[int, int]]:
    cuts = [t for t, pair in enumerate(pairwise(frames), 1) if is_cut(*pair)]
    return list(pairwise([0, *cuts, len(frames)]))


def _plan(frames: Sequence[Pixels], length: int, halo: int) -> Iterator[tuple[Segment, int]]:
    for start, stop in _find_shots(frames):
        for segment in plan_shot(start, stop, length, halo):
            yield segment, start


def _device(config: InpaintConfig) -> str:
    device = config.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    missing = (device == "cuda" and not torch.cuda.is_available()) or (
        device == "mps" and not torch.backends.mps.is_available()
    )
    if missing:
        raise ValueError(f"device {device} is not available here; use cpu, or auto.")
    return device


@contextmanager
def _timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    seconds[stage] = seconds.get(stage, 0.0) + time.perf_counter() - start
