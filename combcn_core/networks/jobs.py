"""What the networks compute at a time: boxes of frames that hold the holes, and what these see.

Each job equals that part of the whole, so how a clip is cut into jobs is a matter of memory and
speed; it changes no more than the order of sums.
"""

from collections import defaultdict
from typing import NamedTuple

import torch
from torch import Tensor

from combcn_core.masks import bounding_box
from combcn_core.memory import CPU_NETWORK_BYTES
from combcn_core.networks.inference import FoldedNet
from combcn_core.networks.layers import (
    DETAIL_CONTEXT_PIXELS,
    DETAIL_MULTIPLE_PIXELS,
    TEMPORAL_CONTEXT_PIXELS,
    TEMPORAL_MULTIPLE_PIXELS,
    temporal_halo,
    time_multiple,
)
from combcn_core.networks.regions import Span, split_hole, tight_box
from combcn_core.pixels import Box, crop_box, plan_tiles

MAX_BATCH_FRAMES = 16  # on a GPU; on a CPU one frame is work enough for all cores
BATCH_MULTIPLE_PIXELS = 16  # where frames are batched, edges of boxes: more of them are alike
MIN_TILE_PIXELS = 128  # smaller ones are hardly more than context


class NetworkJob(NamedTuple):
    """A part of a clip to be computed, and what it depends on; spans of frames, rows, columns."""

    write: tuple[Span, ...]
    read: tuple[Span, ...]

    @property
    def size(self) -> tuple[int, ...]:
        """Frames, rows and columns read."""
        return tuple(span.length for span in self.read)

    @property
    def wanted(self) -> tuple[Span, ...]:
        """What is written, counted from the first that is read."""
        return tuple(
            Span(write.start - read.start, write.stop - read.start)
            for write, read in zip(self.write, self.read, strict=True)
        )


def plan_runs(
    net: FoldedNet, holes: Tensor, *, wanted: tuple[int, int], memory_bytes: int
) -> list[NetworkJob]:
    """Cover the holes of low-resolution frames with runs of frames that fit into memory.

    Args:
        net: of TemporalNet.
        holes: (T, h, w) bool.
        wanted: (start, stop) of the frames to be covered, half-open; the others are context.
        memory_bytes: that a run may take; single frames may take more.
    """
    num_frames, height, width = holes.shape
    halo, multiple = temporal_halo(net.config), time_multiple(net.config)

    def plan(start: int, stop: int) -> NetworkJob | None:
        box = bounding_box(holes[start:stop])
        if box is None:
            return None
        times = holes[start:stop].flatten(1).any(dim=1).nonzero().flatten().tolist()
        start, stop = start + times[0], start + times[-1] + 1
        crop = crop_box(box, TEMPORAL_CONTEXT_PIXELS, TEMPORAL_MULTIPLE_PIXELS, height, width)
        low = max(0, start - halo) // multiple * multiple
        return NetworkJob(
            (Span(start, stop), *_spans(box)),
            (Span(low, min(num_frames, stop + halo)), *_spans(crop)),
        )

    first, last = wanted
    length = last - first
    while True:
        parts = (plan(start, min(start + length, last)) for start in range(first, last, length))
        jobs = [job for job in parts if job is not None]
        most = max((net.forecast_bytes(job.wanted, job.size) for job in jobs), default=0)
        if most <= memory_bytes or length == 1:
            return jobs
        length = -(-length // 2)


def plan_batches(
    net: FoldedNet, holes: Tensor, *, memory_bytes: int, batch_frames: int
) -> list[list[NetworkJob]]:
    """Cover the holes of frames with boxes, at little cost, in batches that fit into memory.

    Args:
        net: of DetailNet.
        holes: (T, H, W) bool.
        memory_bytes: that a batch may take; boxes that take more alone are cut into tiles.
        batch_frames: jobs in a batch, at most.

    Returns:
        Batches of jobs that are alike. Those of a frame do not depend on other frames.
    """
    height, width = holes.shape[1:]
    multiple = DETAIL_MULTIPLE_PIXELS if batch_frames == 1 else BATCH_MULTIPLE_PIXELS

    def plan(box: Box, frame: int = 0) -> NetworkJob:
        box = crop_box(box, 0, multiple, height, width)
        crop = crop_box(box, DETAIL_CONTEXT_PIXELS, DETAIL_MULTIPLE_PIXELS, height, width)
        time = Span(frame, frame + 1)
        return NetworkJob((time, *_spans(box)), (time, *_spans(crop)))

    def flops(box: Box) -> int:
        job = plan(box)
        return net.flops(job.wanted[1:], job.size[1:])

    def forecast(box: Box) -> int:
        job = plan(box)
        return net.forecast_bytes(job.wanted[1:], job.size[1:])

    alike: dict[tuple[object, ...], list[NetworkJob]] = defaultdict(list)
    for frame, hole in enumerate(holes.numpy(force=True)):
        for box in split_hole(hole, flops):
            tiles, side = [box], max(box.height, box.width)
            while side > MIN_TILE_PIXELS and max(map(forecast, tiles)) > memory_bytes:
                side = max(side // 2, MIN_TILE_PIXELS)
                tiles = plan_tiles(box, side)
            for tile in tiles:
                if (tight := tight_box(hole, tile)) is not None:
                    job = plan(tight, frame)
                    alike[job.wanted, job.size].append(job)
    batches = []
    for jobs in alike.values():
        fitting = memory_bytes // net.forecast_bytes(jobs[0].wanted[1:], jobs[0].size[1:])
        most = max(1, min(batch_frames, fitting))
        batches += [jobs[start : start + most] for start in range(0, len(jobs), most)]
    return batches


def detail_crop(box: Box, height: int, width: int) -> Box:
    """The part of a frame that `plan_batches` needs for holes in a box: it plans there as it would
    in the whole frame."""
    multiple = BATCH_MULTIPLE_PIXELS
    box = crop_box(box, 0, multiple, height, width)
    return crop_box(box, DETAIL_CONTEXT_PIXELS, multiple, height, width)


def default_batch_frames(device: torch.device) -> int:
    """The number of frames computed together that keeps a device busy."""
    return 1 if device.type == "cpu" else MAX_BATCH_FRAMES


def default_memory_bytes(device: torch.device) -> int:
    """Memory for a network by default: half of what a GPU has left, 1 GiB elsewhere."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] // 2
    return CPU_NETWORK_BYTES


def _spans(box: Box) -> tuple[Span, Span]:
    return Span(box.top, box.bottom), Span(box.left, box.right)
