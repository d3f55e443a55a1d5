"""Shots cut into segments: whole numbers only.

All ranges are half-open, and all frame numbers count from the first frame of the source, whatever
part of it is asked for: a segment means the same on every machine.
"""

from typing import NamedTuple

SEGMENT_FRAMES = 32  # output frames of a segment by default


class Segment(NamedTuple):
    """A run of output frames, start to stop - 1, and the frames to read for it.

    With its halo a segment equals the same frames of the whole shot, so segments may be computed
    anywhere and in any order.
    """

    start: int
    stop: int
    read_start: int
    read_stop: int
    shot_start: int  # the first frame of its shot

    @property
    def num_frames(self) -> int:
        return self.stop - self.start


def plan_shot(
    start: int, stop: int, length: int, halo: int, *, wanted: tuple[int, int] | None = None
) -> list[Segment]:
    """Cut a shot into segments that cover every output frame exactly once, in order.

    All of them have `length` frames but the last, which may have fewer.

    Args:
        start, stop: the shot's frames, start to stop - 1 of the source.
        length: output frames of a segment, 1 or more.
        halo: frames read on each side, 0 or more, where the shot has them.
        wanted: (start, stop) of the output, half-open, where only a part of the shot is wanted.
            Halos reach beyond it, so that the part equals the same frames of the whole.

    Raises:
        ValueError: a length below 1, or a negative halo.
    """
    if length < 1:
        raise ValueError(f"length is {length}; a segment has 1 frame or more.")
    if halo < 0:
        raise ValueError(f"halo is {halo}; give 0 frames or more.")
    first, last = wanted or (start, stop)
    segments = []
    for begin in range(first, last, length):
        end = min(begin + length, last)
        segments.append(Segment(begin, end, max(begin - halo, start), min(end + halo, stop), start))
    return segments
