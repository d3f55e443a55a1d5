"""Segments, halos, scene cuts and tiles: whole numbers only.

All ranges are half-open, and all frame numbers count from the first frame of the source, whatever
part of it is asked for: a segment means the same on every machine.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from combcn_core.pixels import Box, crop_box

SEGMENT_FRAMES = 32  # of a segment, unless the settings say otherwise


class Segment(NamedTuple):
    """A run of output frames, start to stop - 1, and the frames to read for it.

    With its halo a segment equals the same frames of the whole shot, so segments may be computed
    anywhere and in any order.
    """

    start: int
    stop: int
    read_start: int
    read_stop: int

    @property
    def num_frames(self) -> int:
        return self.stop - self.start


class Tile(NamedTuple):
    """A part of the frame, and the larger part to read so that it equals the whole frame."""

    box: Box
    read: Box


def shots(num_frames: int, cuts: Sequence[int] = ()) -> list[tuple[int, int]]:
    """Split a source at its scene cuts.

    Args:
        num_frames: of the source, 0 or more.
        cuts: first frame of every shot but the first, in increasing order.

    Returns:
        (start, stop) of each shot, half-open; none of them is empty.

    Raises:
        ValueError: cuts out of order, twice the same, or not within 1 .. num_frames - 1.
    """
    if num_frames < 0:
        raise ValueError(f"num_frames is {num_frames}; give 0 or more.")
    edges = [0, *cuts, num_frames]
    if cuts and any(start >= stop for start, stop in pairwise(edges)):
        raise ValueError(
            f"cuts are {list(cuts)}; give the first frame of each new shot, in increasing order, "
            f"from 1 to {num_frames - 1}."
        )
    return list(pairwise(edges)) if num_frames else []


def plan_segments(
    num_frames: int,
    length: int,
    halo: int,
    cuts: Sequence[int] = (),
    *,
    frames: tuple[int, int] | None = None,
) -> list[Segment]:
    """Cut a source into segments that cover every output frame exactly once, in order.

    A scene cut ends a shot and nothing crosses it: no segment spans a cut, and halos stop there.
    Every segment has `length` frames but the last of a shot, which may have fewer.

    Args:
        num_frames: of the source.
        length: output frames of a segment, 1 or more.
        halo: frames read on each side, 0 or more, where the shot has them.
        cuts: as in `shots`.
        frames: (start, stop) of the output, half-open, where only a part of the source is wanted.
            Halos reach beyond it, so that the part equals the same frames of the whole.

    Raises:
        ValueError: a length below 1, a negative halo, bad cuts, or frames outside the source.
    """
    first, last = (0, num_frames) if frames is None else frames
    if not 0 <= first <= last <= num_frames:
        raise ValueError(
            f"frames are {first} to {last} (excluded) but the source has {num_frames}; "
            f"give a range within 0 to {num_frames}."
        )
    segments = []
    for start, stop in shots(num_frames, cuts):
        wanted = max(start, first), min(stop, last)
        segments += plan_shot(start, stop, length, halo, frames=wanted)
    return segments


def plan_shot(
    start: int, stop: int, length: int, halo: int, *, frames: tuple[int, int] | None = None
) -> list[Segment]:
    """Segments of one shot, frames start to stop - 1 of the source, as in `plan_segments`.

    For a stream whose cuts are found while it is read: plan each shot as soon as it has ended.
    """
    if length < 1:
        raise ValueError(f"length is {length}; a segment has 1 frame or more.")
    if halo < 0:
        raise ValueError(f"halo is {halo}; give 0 frames or more.")
    first, last = (start, stop) if frames is None else frames
    segments = []
    for begin in range(first, last, length):
        end = min(begin + length, last)
        segments.append(Segment(begin, end, max(begin - halo, start), min(end + halo, stop)))
    return segments


def plan_tiles(height: int, width: int, tile: int, context: int, multiple: int = 4) -> list[Tile]:
    """Cut a frame into tiles that cover every pixel exactly once, row by row.

    Args:
        height: of the frame, in pixels.
        width: of the frame, in pixels.
        tile: side of a tile in pixels, 1 or more; the last of a row or column may be smaller.
        context: pixels read around a tile, as `context_pixels` of `crop_box`.
        multiple: grid of the areas read, as in `crop_box`.

    Raises:
        ValueError: a tile below 1, a negative context, or a multiple below 1.
    """
    if tile < 1:
        raise ValueError(f"tile is {tile}; give 1 pixel or more.")
    boxes = [
        Box(top, left, min(top + tile, height), min(left + tile, width))
        for top in range(0, height, tile)
        for left in range(0, width, tile)
    ]
    return [Tile(box, crop_box(box, context, multiple, height, width)) for box in boxes]
