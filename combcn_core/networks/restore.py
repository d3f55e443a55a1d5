"""The networks on clips as tensors: 3DCN at low resolution, CombCN at the size of the frames.

Images are (T, H, W, 3) RGB, uint8, uint16 or float in [0, 1]; masks (T, H, W), 1 inside the hole.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal

import cv2
import numpy as np
import torch
from torch import Tensor

from combcn_core.fill.cuts import find_shots
from combcn_core.masks import check_clip, composite, downsample_known, finite, to_arrays, to_float
from combcn_core.networks.config import NetworkConfig
from combcn_core.networks.inference import InferenceModel, Model, Precision, prepare
from combcn_core.networks.jobs import (
    NetworkJob,
    default_batch_frames,
    default_memory_bytes,
    plan_batches,
    plan_runs,
)
from combcn_core.networks.layers import detail_step, fill_mean, temporal_halo, time_multiple
from combcn_core.networks.regions import Span
from combcn_core.pixels import Box, cells_of
from combcn_core.progress import OnShare, part_of
from combcn_core.segments import SEGMENT_FRAMES, plan_shot

COARSE_SIDE_PIXELS = 64  # low-resolution short side at most, as in training: the whole frame

Upsampling = Literal["nearest", "bilinear", "bicubic", "lanczos"]


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
    on_progress: OnShare | None = None,
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
        on_progress: as in `inpaint`, after each run.

    Returns:
        (T, h, w, 3) float32, RGB: the prediction inside the low-resolution hole, the downsampled
        source outside it. Not clamped.

    Source: METHOD "3DCN"; section "Temporal structure" and Table 1 of the paper.
    """
    holes = check_clip(images, masks)
    size = size or coarse_size(model, *images.shape[1:3])
    network = prepare(model, precision=precision)
    is_filled = model.config.input_fill == "classical"
    shrunk = partial(downsample_known, size=size, is_filled=is_filled)
    if frames is not None:
        return complete_small(network, *shrunk(images, holes), frames, memory_bytes, on_progress)
    halo, multiple = temporal_halo(model.config), time_multiple(model.config)
    parts = []
    for start, stop in find_shots(to_arrays(images)):
        for segment in plan_shot(start, stop, segment_frames, halo):
            low, high = segment.read_start, segment.read_stop
            low -= (low - start) % multiple
            wanted = segment.start - low, segment.stop - low
            part = part_of(on_progress, segment.start / len(images), segment.stop / len(images))
            window = images[low:high], holes[low:high]
            parts.append(complete_small(network, *shrunk(*window), wanted, memory_bytes, part))
    return torch.cat(parts)


def complete_small(
    model: InferenceModel,
    small: Tensor,
    small_holes: Tensor,
    wanted: tuple[int, int],
    memory_bytes: int | None,
    on_progress: OnShare | None,
) -> Tensor:
    """Complete the wanted frames of one shot, at low resolution already, by 3DCN."""
    (start, stop), device = wanted, model.temporal.device
    jobs = plan_runs(
        model.temporal,
        small_holes,
        wanted=wanted,
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
        if on_progress is not None:
            done = stop if job is jobs[-1] else job.write[0].stop
            on_progress((done - start) / (stop - start), coarse[done - 1].numpy(force=True))
    return coarse[start:stop]


def coarse_size(model: Model, height: int, width: int) -> tuple[int, int]:
    """(h, w) that 3DCN runs at: the frame by the model's ratio, its short side at most 64."""
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


def restore_at_size(
    network: InferenceModel,
    images: Tensor,
    holes: Tensor,
    guidance: Tensor | None = None,
    *,
    frames: tuple[int, int] | None = None,
    memory_bytes: int | None = None,
    batch_frames: int | None = None,
    on_progress: OnShare | None = None,
) -> Tensor:
    """`scales.restore_detail` with prepared networks, on frames as large as they are.

    Takes holes as (T, H, W) bool, and guidance for each image of a model that wants it.
    """
    device = network.detail.device
    memory_bytes = memory_bytes or network.memory_bytes or default_memory_bytes(device)
    together = batch_frames or default_batch_frames(device)
    paint = partial(_paint, network, memory_bytes=memory_bytes, batch_frames=together)
    if not network.config.steady_frames:
        some = slice(*(frames or (0, len(images))))
        guide = None if guidance is None else guidance[some]
        return paint(images[some], holes[some], guide, on_progress=on_progress)
    shots = find_shots(to_arrays(images)) if frames is None else [(0, len(images))]
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
                wanted=frames or (0, stop - start),
                together=together,
                on_progress=part_of(on_progress, start / len(images), stop / len(images)),
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
    wanted: tuple[int, int],
    together: int,
    on_progress: OnShare | None,
) -> Tensor:
    """Paint the wanted frames of one shot, each with the mean of what is added near it in time."""
    start, stop = wanted
    last = len(images) - 1
    near = range(max(0, start - reach + 1), min(last, stop - 1 + reach - 1) + 1)
    painted = [t for t in near if t % step == 0]
    # A moving hole's last places are seen in the last frame only.
    if last < stop - 1 + reach and last not in painted:
        painted.append(last)
    waiting, added = painted, dict[int, Tensor]()  # whole frames: no more than are within reach
    result = images[start:stop].clone()
    for t in range(start, stop):
        if not holes[t].any():
            continue
        added = {s: change for s, change in added.items() if t - s < reach}
        while waiting and waiting[0] - t < reach:
            some, left = waiting[:together], waiting[together:]
            begins, ends = (1 - len(frames) / len(painted) for frames in (waiting, left))
            part, waiting = part_of(on_progress, begins, ends), left
            own, inside = to_float(images[some]), holes[some]
            guide = None if guidance is None else guidance[some]
            changes = torch.where(
                inside[..., None], paint(own, inside, guide, on_progress=part) - own, 0
            )
            added |= zip(some, changes, strict=True)
        total = torch.zeros(images.shape[1:], device=images.device)
        weight = torch.zeros_like(total[..., :1])
        for s, change in added.items():
            nearness = max(0, 1 - abs(s - t) / reach)
            total.add_(change, alpha=nearness)
            weight.add_(holes[s, ..., None], alpha=nearness)
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
    on_progress: OnShare | None,
) -> Tensor:
    """Paint each frame by itself, as `restore_at_size` returns them."""
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
        if on_progress is not None:
            shown = result[batch[-1][0][0].start].numpy(force=True)
            on_progress(1 - len(left) / len(images), shown)
    return result


def _detail_input(
    config: NetworkConfig, images: Tensor, holes: Tensor, guidance: Tensor | None, job: NetworkJob
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
    low = cells_of(Box(top, left, bottom, right), config.ratio)
    guide = guide[:, low.top : low.bottom, low.left : low.right]
    return [frame, mask, guide.permute(0, 3, 1, 2)]


def _to_volume(images: Tensor) -> Tensor:
    """(T, H, W, 3) -> (1, 3, T, H, W)"""
    return images.permute(3, 0, 1, 2)[None]


def _slices(spans: Sequence[Span]) -> tuple[slice, ...]:
    return tuple(slice(*span) for span in spans)
