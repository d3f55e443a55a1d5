"""Segments, halos and tiles: whole numbers only.

All ranges are half-open, and all frame numbers count from the first frame of the source, whatever
part of it is asked for: a segment means the same on every machine.
"""

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
    shot_start: int  # the first frame of its shot

    @property
    def num_frames(self) -> int:
        return self.stop - self.start


class Tile(NamedTuple):
    """A part of the frame, and the larger part to read so that it equals the whole frame."""

    box: Box
    read: Box


def plan_shot(
    start: int, stop: int, length: int, halo: int, *, frames: tuple[int, int] | None = None
) -> list[Segment]:
    """Cut a shot into segments that cover every output frame exactly once, in order.

    All of them have `length` frames but the last, which may have fewer.

    Args:
        start, stop: the shot's frames, start to stop - 1 of the source.
        length: output frames of a segment, 1 or more.
        halo: frames read on each side, 0 or more, where the shot has them.
        frames: (start, stop) of the output, half-open, where only a part of the shot is wanted.
            Halos reach beyond it, so that the part equals the same frames of the whole.

    Raises:
        ValueError: a length below 1, or a negative halo.
    """
    if length < 1:
        raise ValueError(f"length is {length}; a segment has 1 frame or more.")
    if halo < 0:
        raise ValueError(f"halo is {halo}; give 0 frames or more.")
    first, last = frames or (start, stop)
    segments = []
    for begin in range(first, last, length):
        end = min(begin + length, last)
        segments.append(Segment(begin, end, max(begin - halo, start), min(end + halo, stop), start))
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
