"""Which segment is computed when: as soon as the frames that it needs have been read."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from combcn_core.pixels import Mask, PackedMasks, Stored
from combcn_core.segments import Segment, plan_shot
from combcn_core.stream.source import SourceClip, SourceFrame


class Job(NamedTuple):
    """A segment that can be computed, since all of its frames have been read."""

    segment: Segment
    window: list[SourceFrame]  # segment.read_start to segment.read_stop - 1
    shares: tuple[float, float]  # of the whole run, before and after it

    @property
    def outputs(self) -> list[SourceFrame]:
        first = self.segment.start - self.segment.read_start
        return self.window[first : first + self.segment.num_frames]

    @property
    def digests(self) -> dict[int, bytes]:
        return {frame.position: frame.digest for frame in self.window}

    @property
    def inputs(self) -> tuple[list[Stored], Sequence[Mask], Segment]:
        """The arguments of `ShotInpainter.prefill`."""
        return (
            [frame.picture for frame in self.window],
            PackedMasks([frame.hole for frame in self.window]),
            self.segment,
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
        for segment in plan_shot(shot_start, read_stop, length, halo, wanted=wanted):
            if not shot_ended and min(begin + length, clip.stop) + halo > read_stop:
                return  # more of the shot is to come, and would be part of it
            offset = window[0].position
            needed = range(segment.read_start - offset, segment.read_stop - offset)
            places = segment.start - clip.start, segment.stop - clip.start
            low, high = (place / (clip.stop - clip.start) for place in places)
            yield Job(segment, [window[place] for place in needed], (low, high))
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
