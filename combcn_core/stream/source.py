"""What a run reads: the frames of a clip and their masks, opened and checked."""

from __future__ import annotations

import logging
from bisect import bisect_left
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np

from combcn_core.clips.mask_rules import MaskConfig
from combcn_core.clips.masks import MaskReader, drawn_numbers, keep_masks, read_drawn, read_mask
from combcn_core.clips.video import ClipInfo, FrameReader, PathLike, open_reader
from combcn_core.fill.cuts import is_cut_between, thumbnail
from combcn_core.fill.follow import describe_followed, follow
from combcn_core.fill.shadows import ShadowSize, find_effects
from combcn_core.pixels import Array, Mask, PackedMask, Pixels, Stored, grow_mask
from combcn_core.progress import OnShare, Stages, part_of
from combcn_core.stream.overlap import ahead
from combcn_core.stream.store import digest_frame

log = logging.getLogger("combcn")
MASKS_AHEAD = 2  # read while their frames are decoded
_STRIDE_BACK = 240  # frames read at a time where a shot is followed back to its start


@dataclass(frozen=True)
class SourceClip:
    """The frames to write, start to stop - 1, and those to read for them, all as positions."""

    whole: ClipInfo  # of the source
    info: ClipInfo  # of the frames to write
    start: int
    stop: int
    read_start: int
    read_stop: int
    shot_start: int  # of the shot that read_start is in
    open_frames: Callable[[int, int], FrameReader]  # from and to a position, half-open
    open_masks: Callable[[ClipInfo], MaskReader]
    shadow_pixels: int = 0  # in the masks of the frames to write


class SourceFrame(NamedTuple):
    """A frame on its way, with what was found out while reading it."""

    position: int
    starts_shot: bool
    picture: Stored  # a reference in place
    hole: PackedMask  # grown, and empty where there is a reference
    painted: PackedMask | None = None  # where the reference is
    digest: bytes = b""  # where segments are kept; see `SegmentStore`


def open_clip(
    input: PathLike,
    mask: PathLike,
    frames: tuple[int, int] | None,
    halo: int,
    *,
    mask_config: MaskConfig | None,
    fit_mask: bool,
    allow_truncated: bool,
    stages: Stages | None = None,
) -> SourceClip:
    """Open all that is to be read, which shows what is wrong with it."""
    mask_config = mask_config or MaskConfig()
    whole = open_reader(input, allow_truncated=allow_truncated).info
    info = open_reader(input, frames=frames, allow_truncated=allow_truncated).info
    indices, wanted = whole.read_indices, info.read_indices
    if whole.truncated:
        log.warning("%s is damaged: %d frames of it decode, and are used.", input, len(indices))

    def open_frames(start: int, stop: int) -> FrameReader:
        span = (indices[start], indices[stop - 1])
        return open_reader(input, frames=span, allow_truncated=allow_truncated)

    def open_masks(info: ClipInfo) -> MaskReader:
        return read_mask(
            mask, info, config=mask_config, fit_mask=fit_mask, allow_truncated=allow_truncated
        )

    follows = mask_config.follow_masks
    if follows:
        drawn = read_drawn(mask, whole, config=mask_config, fit_mask=fit_mask)
    masks = None if follows else open_masks(info)
    start = bisect_left(indices, wanted[0])
    stop = start + len(wanted)
    read_start, read_stop = max(start - halo, 0), min(stop + halo, len(indices))
    if masks is not None and masks.is_of_range:  # no other frames can be used
        read_start = shot_start = start
        read_stop = stop
    else:
        shot_start = _shot_start(read_start, open_frames)
    takes = mask_config.take_shadows
    margins = (0, len(indices)) if masks is None or not masks.is_of_range else (start, stop)
    span = _shadow_span(read_start, read_stop, margins) if takes else (read_start, read_stop)
    if follows:
        on_progress = None if stages is None else stages.callback("following masks")
        followed = follow_clip(
            indices, drawn, *span, open_frames, on_progress, drawn_numbers(whole)
        )
        kept = dict(zip(indices[span[0] : span[1]], followed, strict=True))

        def open_masks(info: ClipInfo) -> MaskReader:
            return keep_masks(kept, info)

    shadow_pixels = 0
    if takes:
        open_given = open_masks
        on_progress = None if stages is None else stages.callback("finding shadows")
        taken = take_shadows_of_clip(
            indices, read_start, read_stop, margins, open_frames, open_given, on_progress
        )
        wholes = dict(zip(indices[read_start:read_stop], taken, strict=True))
        with open_given(info) as given:
            for index, hole in zip(wanted, given, strict=True):
                shadow_pixels += wholes[index].num_pixels - int(hole.sum())

        def open_masks(info: ClipInfo) -> MaskReader:
            return keep_masks(wholes, info)

    return SourceClip(
        *(whole, info, start, stop, read_start, read_stop, shot_start, open_frames, open_masks),
        shadow_pixels,
    )


_SHADOW_FRAMES, _SHADOW_HALO = 96, 32  # looked at together; those before and after them


def _shadow_span(start: int, stop: int, margins: tuple[int, int]) -> tuple[int, int]:
    """The positions that are read for the shadows of frames from start to stop - 1."""
    first = start - start % _SHADOW_FRAMES - _SHADOW_HALO
    last = stop - stop % -_SHADOW_FRAMES + _SHADOW_HALO
    return max(first, margins[0]), min(last, margins[1])


def take_shadows_of_clip(
    indices: Sequence[int],
    start: int,
    stop: int,
    margins: tuple[int, int],
    open_frames: Callable[[int, int], FrameReader],
    open_masks: Callable[[ClipInfo], MaskReader],
    on_progress: OnShare | None = None,
) -> list[PackedMask]:
    """Grow the masks of frames from one position to before another by their shadows.

    Frames are looked at in windows that lie at fixed places of the clip, so that masks come out
    the same whichever frames are asked for.

    Args:
        indices: of the frames that decode, in the source.
        start, stop: positions in `indices`.
        margins: no frame before and after these is read.
        open_frames: opens the frames from one position to before another.
        open_masks: opens their masks.
        on_progress: as in `inpaint`.
    """
    grown: list[PackedMask] = []
    unseen: list[int] = []
    for begin in range(start - start % _SHADOW_FRAMES, stop, _SHADOW_FRAMES):
        first, last = _shadow_span(begin, begin + _SHADOW_FRAMES, margins)
        pictures, objects = [], []
        wholes: list[PackedMask | None] = []  # of the frames that are asked for
        with open_frames(first, last) as frames, open_masks(frames.info) as masks:
            small = ShadowSize.of(frames.info.height, frames.info.width)
            for at, (frame, hole) in enumerate(zip(frames, masks, strict=True), first):
                pictures.append(small.frame(frame.pixels))
                objects.append(small.mask(hole))
                inside = max(begin, start) <= at < min(begin + _SHADOW_FRAMES, stop)
                wholes.append(PackedMask.of(hole) if inside else None)
        ends = (max(start, min(at, stop)) for at in (begin, begin + _SHADOW_FRAMES))
        low, high = ((at - start) / (stop - start) for at in ends)
        part = part_of(on_progress, low, high, shows=False)
        effects, dark = find_effects(np.stack(pictures), np.stack(objects), on_progress=part)
        for at, (effect, whole) in enumerate(zip(effects, wholes, strict=True), first):
            if whole is not None:
                grown.append(PackedMask.of(small.enlarged(effect, whole.whole())))
                if at - first in dark:
                    unseen.append(indices[at])
    if unseen:
        log.warning(
            "no other frame shows enough of the ground around the mask in %d frames, first %d: "
            "no shadows were found there; where there is one, paint it into the mask.",
            *(len(unseen), unseen[0]),
        )
    return grown


def follow_clip(
    indices: Sequence[int],
    drawn: Mapping[int, Mask],
    start: int,
    stop: int,
    open_frames: Callable[[int, int], FrameReader],
    on_progress: OnShare | None = None,
    numbers: Mapping[int, int] | None = None,
) -> list[PackedMask]:
    """Carry drawn masks to the frames of a clip from one position to before another.

    They come out the same whichever frames are asked for.

    Args:
        indices: of the frames that decode, in the source.
        drawn: index of a frame -> its mask.
        start, stop: positions in `indices`.
        open_frames: opens the frames from one position to before another.
        on_progress: as in `inpaint`.
        numbers: by which users know the frames, by index; None for the index itself.
    """
    named = {index: index for index in indices} if numbers is None else numbers
    known = {at: drawn[index] for at, index in enumerate(indices) if index in drawn}
    begin = max((at for at in known if at <= start), default=start)
    end = min((at + 1 for at in known if at + 1 >= stop), default=stop)
    near = {at - begin: mask for at, mask in known.items() if begin <= at < end}
    found: list[PackedMask] = []
    confidence: dict[int, float] = {}
    lost: list[int] = []
    with open_frames(begin, end) as frames:
        pixels = (frame.pixels for frame in frames)
        for at, (hole, sure) in enumerate(follow(pixels, near), begin):
            if start <= at < stop:
                found.append(PackedMask.of(hole))
                confidence[named[indices[at]]] = sure
                if sure < 1 and not found[-1].num_pixels:
                    lost.append(named[indices[at]])
            if on_progress is not None:
                on_progress((at + 1 - begin) / (end - begin), None)
    used = [str(named[indices[at]]) for at in sorted(known) if begin <= at < end]
    log.info(
        "masks followed from frame%s %s; %s.",
        *("s" * (len(used) > 1), ", ".join(used), describe_followed(confidence, lost)),
    )
    return found


def _shot_start(position: int, open_frames: Callable[[int, int], FrameReader]) -> int:
    """Go back from a frame to the first one of its shot."""
    while position > 0:
        begin = max(position - _STRIDE_BACK, 0)
        with open_frames(begin, position + 1) as frames:
            pairs = enumerate(pairwise(thumbnail(frame.picture) for frame in frames), begin + 1)
            cuts = [here for here, pair in pairs if is_cut_between(*pair)]
        if cuts:
            return cuts[-1]
        position = begin
    return 0


def read_frames(
    clip: SourceClip, grow_pixels: int, references: Mapping[int, PathLike], digests: bool
) -> Generator[SourceFrame, None, None]:
    """Yield the frames to read: masks grown, references in place, scene cuts found."""
    with (
        clip.open_frames(clip.read_start, clip.read_stop) as frames,
        clip.open_masks(frames.info) as masks,
        closing(ahead(grown_masks(masks, grow_pixels), MASKS_AHEAD)) as holes,
    ):
        previous: Array | None = None
        for position, (frame, hole) in enumerate(zip(frames, holes, strict=True), clip.read_start):
            picture, small, painted = frame.picture, thumbnail(frame.picture), None
            starts_shot = previous is not None and is_cut_between(previous, small)
            previous = small
            if frame.index in references:
                plate = _read_plate(references[frame.index], clip.whole)
                picture = np.where(hole.whole()[..., None], plate, frame.pixels)
                painted = hole
                hole = PackedMask.of(np.zeros(hole.shape, bool))
            digest = digest_frame(picture, hole) if digests else b""
            yield SourceFrame(position, starts_shot, picture, hole, painted, digest)


def grown_masks(masks: Iterable[Mask], pixels: int) -> Generator[PackedMask, None, None]:
    last: Mask | None = None
    hole: PackedMask | None = None
    for mask in masks:
        if hole is None or mask is not last:  # one mask for all frames is grown once
            hole = PackedMask.of(grow_mask(mask, pixels))
            last = mask
        yield hole


def _read_plate(path: PathLike, info: ClipInfo) -> Pixels:
    """Read a reference, in the depth of the clip."""
    with open_reader(path) as reader:
        plate = next(iter(reader)).pixels
    if plate.dtype == info.dtype:
        return plate
    scale = np.iinfo(info.dtype).max / np.iinfo(plate.dtype).max
    return np.rint(plate * scale).astype(info.dtype)


def check_references(references: Mapping[int, PathLike], whole: ClipInfo) -> None:
    for number, path in references.items():
        if number not in whole.read_indices:
            raise ValueError(
                f"reference {path} is for frame {number}, but {whole.path} has frames 0 to "
                f"{whole.read_indices[-1]}; give one of these numbers."
            )
        if not Path(path).is_file():
            raise ValueError(
                f"reference {path} does not exist; give a picture of frame {number} without the "
                "object."
            )
        plate = open_reader(path).info
        if plate.num_frames != 1:
            raise ValueError(f"reference {path} has {plate.num_frames} frames; give one picture.")
        if (plate.dtype == np.float32) != (whole.dtype == np.float32):
            raise ValueError(
                f"reference {path} is {plate.dtype} but the clip is {whole.dtype}; give EXR images "
                "for EXR images, and other pictures for other clips."
            )
        if (plate.width, plate.height) != (whole.width, whole.height):
            raise ValueError(
                f"reference {path} is {plate.width}x{plate.height} but the clip is "
                f"{whole.width}x{whole.height}; give a picture of that size."
            )


def check_output(output: PathLike, sources: Iterable[PathLike]) -> None:
    for source in sources:
        if Path(source).resolve() == Path(output).resolve():
            raise ValueError(f"output {output} is one of the inputs; give another name.")
