"""What filling a clip segment by segment takes of memory, and how long segments may be for it."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from combcn_core.fill.early import SETTLE_FRAMES
from combcn_core.fill.keys import KEY_STEP
from combcn_core.fill.motion import CONTEXT_PIXELS, GRID_STEP, SIDE_PIXELS
from combcn_core.fill.register import SIDE_PIXELS as REGISTERED_SIDE
from combcn_core.fill.settle import SETTLE_ROUNDS
from combcn_core.memory import CPU_NETWORK_BYTES, GIB, available_memory_bytes, peak_memory_bytes
from combcn_core.pixels import KEPT_PIXELS, Box, PackedMask, union
from combcn_core.shot import InpaintConfig, ShotInpainter
from combcn_core.stream.schedule import Job
from combcn_core.stream.source import SourceClip, grown_masks

QUEUE_FRAMES = 8  # read ahead, and waiting to be written, at most
CODEC_FRAMES = 40  # that x264 looks ahead by default
LEAST_NETWORK_BYTES = GIB // 4  # less makes tiles that are mostly context
_FEW_FRAMES = 4  # a shorter segment takes hardly less: its halo is the most of it
_SPARE = 0.8  # of what is available is used by default


class Work(NamedTuple):
    """What decides how much memory a clip takes.

    Attributes:
        height, width: of its frames.
        itemsize: bytes of a value in them.
        hole_pixels: of the largest hole.
        box_pixels: of the largest box around a hole.
        union_pixels: of the box around all holes.
        halo: frames read on each side of a segment.
        reach: as in `InpaintConfig`.
        context: frames on each side of a segment that the networks see, or texture comes from.
        searches: for texture, at a time; 0 without texture.
        num_frames: to be read at all.
        network_bytes: that the networks may take.
    """

    height: int
    width: int
    itemsize: int
    hole_pixels: int
    box_pixels: int
    union_pixels: int
    halo: int
    reach: int
    context: int
    searches: int
    num_frames: int
    network_bytes: int

    def forecast_bytes(self, length: int) -> int:
        """Forecast the memory that segments of `length` output frames take.

        It comes on top of what the process has at its start; counted from what is kept, by type.
        """
        pixels = self.height * self.width
        frame = pixels * 3 * self.itemsize
        window = min(length + 2 * self.halo, self.num_frames)
        filled = min(length + 2 * (self.context + KEY_STEP), self.num_frames)
        sources = min(filled + 2 * self.reach, self.num_frames)
        side = CONTEXT_PIXELS * 2
        cut = min(pixels, round((self.box_pixels**0.5 + side) ** 2))
        seen = min(pixels, round((self.box_pixels**0.5 + side + 2 * KEPT_PIXELS) ** 2))
        grid = min(cut, SIDE_PIXELS**2) // GRID_STEP**2
        hidden = min(grid, self.hole_pixels // GRID_STEP**2)
        settling = min(SETTLE_FRAMES + 2 * SETTLE_ROUNDS, window)
        # Measured flow, doubted, and two rounds of settling it; and the points that were guessed.
        flow = settling * 2 * (4 * 12 * grid + 64 * hidden)
        propagation = (
            sources * 3 * self.itemsize * cut  # fills
            + filled * (2 * 28 * self.hole_pixels + 2 * 3 * self.itemsize * cut)
            + 2 * min(self.reach, window) * 36 * self.hole_pixels  # traces, and those to be met
            + 52 * self.union_pixels  # the sums of a plate
            + 2 * 15 * pixels  # frames that are made small as a whole, one in each of two threads
        )
        # Sources for the key frames: all in gray, one in three in colours; and what was chosen.
        small = round(pixels * min(1.0, REGISTERED_SIDE / max(self.height, self.width)) ** 2)
        propagation += sources * small * (3 + 12 // 3) + filled // KEY_STEP * 12 * cut
        texture = self.searches * 250 * cut  # the crop at several sizes, and its patches
        return (
            # As decoded, at most as large as RGB; and RGB of what is looked at.
            window * (frame + 3 * self.itemsize * seen)
            + window * (self.box_pixels // 8 + 2 * 6 * grid)  # masks in bits, flow in 16
            + max(flow, propagation + max(texture, self.network_bytes))
            + (2 * QUEUE_FRAMES + max(0, length - self.halo) + CODEC_FRAMES) * frame
            + length * 3 * self.itemsize * self.hole_pixels
        )


@dataclass(frozen=True)
class Budget:
    """Memory that a run may take, and what decides how much it takes."""

    work: Work  # of the largest hole where a limit was set, else without one
    limit: int | None  # bytes
    used: int

    @classmethod
    def of(
        cls,
        limit_gib: float | None,
        clip: SourceClip,
        config: InpaintConfig,
        inpainter: ShotInpainter,
    ) -> Budget:
        used = peak_memory_bytes() or 0
        available = available_memory_bytes()
        limit = None if available is None else used + int(_SPARE * available)
        model, info = inpainter.model, clip.info
        on_cpu = model is not None and not inpainter.on_gpu
        work = Work(
            height=info.height,
            width=info.width,
            itemsize=info.dtype.itemsize,
            hole_pixels=0,
            box_pixels=0,
            union_pixels=0,
            halo=inpainter.halo,
            reach=config.reach if config.propagate else 0,
            context=inpainter.context,
            searches=min(2, os.cpu_count() or 1) if config.unseen == "texture" else 0,
            num_frames=clip.read_stop - clip.read_start,
            network_bytes=CPU_NETWORK_BYTES if on_cpu else 0,
        )
        if limit_gib is not None:
            limit = int(limit_gib * GIB)
            with clip.open_masks(clip.info) as masks:
                work = work._replace(**largest_hole(grown_masks(masks, config.grow_pixels)))
            if on_cpu:
                assert model is not None
                others = used + work.forecast_bytes(config.segment_frames) - work.network_bytes
                room = max(limit - others, LEAST_NETWORK_BYTES)
                model.memory_bytes = min(work.network_bytes, room)
                work = work._replace(network_bytes=model.memory_bytes)
        return cls(work, limit, used)

    def forecast(self, length: int, holes: Iterable[PackedMask] = ()) -> int:
        """Forecast the memory of the process with segments of `length` frames and these holes."""
        largest = largest_hole(holes)
        sizes = {name: max(size, getattr(self.work, name)) for name, size in largest.items()}
        return self.used + self.work._replace(**sizes).forecast_bytes(length)

    def longest(self, wanted: int) -> int:
        """The number of output frames of the longest segment that fits, at most `wanted`.

        Raises:
            ValueError: not even one frame fits.
        """
        for length in range(wanted, 0, -1):
            if self.limit is None or self.forecast(length) <= self.limit:
                return length
        assert self.limit is not None
        raise ValueError(
            f"the memory limit is {self.limit / GIB:.2f} GiB but one frame with its "
            f"{self.work.halo} neighbours on each side needs {self.forecast(1) / GIB:.2f} GiB; "
            "raise the limit, or work at a smaller size."
        )

    def exceeds(self, job: Job) -> bool:
        """Whether a segment would take more than there is, and parts of it less."""
        length = job.segment.num_frames
        if self.limit is None or length <= _FEW_FRAMES:
            return False
        return self.forecast(length, (frame.hole for frame in job.window)) > self.limit


def largest_hole(holes: Iterable[PackedMask]) -> dict[str, int]:
    """Pixels of the largest hole, of the largest box around one, and of the box around all."""
    hole_pixels = box_pixels = union_pixels = 0
    around: Box | None = None
    for hole in holes:
        if hole.box is not None:
            hole_pixels = max(hole_pixels, hole.num_pixels)
            box_pixels = max(box_pixels, hole.box.height * hole.box.width)
            around = hole.box if around is None else union(around, hole.box)
            union_pixels = around.height * around.width
    return {"hole_pixels": hole_pixels, "box_pixels": box_pixels, "union_pixels": union_pixels}
