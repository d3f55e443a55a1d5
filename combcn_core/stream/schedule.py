"""Which segment is computed when, and how long it may be for the memory there is."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from combcn_core.memory import (
    CPU_NETWORK_BYTES,
    GIB,
    available_memory_bytes,
    peak_memory_bytes,
)
from combcn_core.pixels import Box, Mask, PackedMask, PackedMasks, Stored, union
from combcn_core.segments import Segment, plan_shot
from combcn_core.shot import InpaintConfig, ShotInpainter
from combcn_core.stream.memory import LEAST_NETWORK_BYTES, Work
from combcn_core.stream.source import SourceClip, SourceFrame, grown_masks

_FEW_FRAMES = 4  # a shorter segment takes hardly less: its halo is the most of it
_SPARE = 0.8  # of what is available is used where nobody sets a limit


class Job(NamedTuple):
    """A segment that can be computed, since all of its frames have been read."""

    segment: Segment
    window: list[SourceFrame]  # segment.read_start to segment.read_stop - 1
    shot_start: int

    shares: tuple[float, float]  # of the whole run, before and after it

    @property
    def outputs(self) -> list[SourceFrame]:
        first = self.segment.start - self.segment.read_start
        return self.window[first : first + self.segment.num_frames]

    @property
    def inputs(self) -> tuple[list[Stored], Sequence[Mask], Segment, int]:
        """As `ShotInpainter` takes them."""
        return (
            [frame.picture for frame in self.window],
            PackedMasks([frame.hole for frame in self.window]),
            self.segment,
            self.shot_start,
        )

    def halves(self) -> tuple[Job, Job]:
        """Two segments that give the same frames; their window is more than they need."""
        segment = self.segment
        middle = (segment.start + segment.stop) // 2
        return (
            self._replace(segment=segment._replace(stop=middle)),
            self._replace(segment=segment._replace(start=middle)),
        )


def plan_jobs(
    frames: Iterable[SourceFrame], clip: SourceClip, length: int, halo: int
) -> Iterator[Job]:
    """Yield each segment as soon as the frames it needs have been read."""
    window: deque[SourceFrame] = deque()
    begin, shot_start, read_stop = clip.start, clip.shot_start, clip.read_start

    def ready(shot_ended: bool) -> Iterator[Job]:
        nonlocal begin
        wanted = (begin, min(clip.stop, read_stop))
        for segment in plan_shot(shot_start, read_stop, length, halo, frames=wanted):
            if not shot_ended and min(begin + length, clip.stop) + halo > read_stop:
                return  # more of the shot is to come, and would be part of it
            offset = window[0].position
            needed = range(segment.read_start - offset, segment.read_stop - offset)
            places = segment.start - clip.start, segment.stop - clip.start
            low, high = (place / (clip.stop - clip.start) for place in places)
            yield Job(segment, [window[place] for place in needed], shot_start, (low, high))
            begin = segment.stop
            while window and window[0].position < begin - halo:
                window.popleft()

    for frame in frames:
        if frame.starts_shot:
            yield from ready(shot_ended=True)
            window.clear()
            shot_start = frame.position
        window.append(frame)
        read_stop = frame.position + 1
        yield from ready(shot_ended=False)
    yield from ready(shot_ended=True)


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
        """Memory of the process with segments of so many frames, and holes like these."""
        largest = largest_hole(holes)
        sizes = {name: max(size, getattr(self.work, name)) for name, size in largest.items()}
        return self.used + self.work._replace(**sizes).forecast_bytes(length)

    def longest(self, wanted: int) -> int:
        """Output frames of the longest segment that fits, not longer than wanted.

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
