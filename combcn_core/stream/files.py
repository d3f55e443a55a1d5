"""Inpaint files: frames are read, filled segment by segment, and written, in bounded memory.

The way of a frame: it is read with its mask (`_read`), waits in a window until its segment and the
halo of that have been read (`_segments`), is filled (`_Filling`) and written. Reading and writing
have threads of their own, and so has optical flow where the networks run on a GPU. No more frames
are held than one segment and its halo need, and a few in queues, however long the clip is.

Frames are counted by their position among those that decode. That is their index in the source,
unless the source is damaged and read all the same.
"""

from __future__ import annotations

import json
import logging
import math
import os
import secrets
import threading
import time
from bisect import bisect_left
from collections import defaultdict, deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch

from combcn_core.clips.formats import keeps_pixels
from combcn_core.clips.frames import Mask
from combcn_core.clips.images import differing
from combcn_core.clips.masks import MaskConfig, MaskReader, keep_masks, read_drawn, read_mask
from combcn_core.clips.video import (
    ClipInfo,
    FrameReader,
    PathLike,
    Pixels,
    open_reader,
    open_writer,
)
from combcn_core.fill.cuts import is_cut
from combcn_core.fill.follow import follow
from combcn_core.masks import PackedMask, PackedMasks, grow
from combcn_core.networks.jobs import default_memory_bytes
from combcn_core.networks.layers import CombCN
from combcn_core.progress import OnProgress, Stages, Tell, part_of
from combcn_core.segments import GIB, Segment, plan_shot
from combcn_core.shadows import Small, find_effects
from combcn_core.shot import InpaintConfig, Seen, SegmentResult, ShotInpainter
from combcn_core.stream.memory import (
    LEAST_NETWORK_BYTES,
    QUEUE_FRAMES,
    Work,
    available_memory_bytes,
    is_out_of_memory,
    peak_memory_bytes,
)
from combcn_core.stream.overlap import Behind, ahead
from combcn_core.stream.store import SegmentStore, digest_frame
from combcn_core.version import __version__

log = logging.getLogger("combcn")

Item = TypeVar("Item")


_TRIES = 8  # with half the memory each time
_FEW_FRAMES = 4  # a shorter segment takes hardly less: its halo is the most of it
_SPARE = 0.8  # of what is available is used where nobody sets a limit

# Time of the stages, about, where finding motion takes 1.
_WEIGHTS = {
    "opening": 0.03,
    "following masks": 0.1,
    "finding shadows": 0.2,
    "reading": 0.0,
    "finding motion": 1.0,
    "filling": 0.4,
    "writing": 0.05,
    "checking": 0.1,
}
_MASK_STAGES = ("opening", "following masks", "finding shadows", "writing")

_STRIDE_BACK = 240  # frames read at a time where a shot is followed back to its start


@dataclass(frozen=True)
class Report:
    """What a run did, in the order of the JSON that `save` writes.

    Attributes:
        version: of CombCN.
        frames: written.
        hole_pixels: in all of them, masks grown; the sum of the next four.
        reference_pixels: taken from the plates given as references.
        propagated_pixels: seen in other frames and carried over.
        filled_pixels: by the classical fill.
        network_pixels: by the networks.
        synthesized_pixels: of the last two, those that got texture from what is known around them.
        shadow_pixels: of the hole pixels, those that `take_shadows` added, before growing.
        resumed_frames: of those, how many an interrupted run had finished.
        changed_outside_mask: pixels outside the grown masks that differ between the source and the
            written file, both decoded, in images with their alpha. Always 0; None where the format
            is lossy, or the source was gone before they could be compared.
        seconds: per stage, and "total". Stages overlap, so they may add up to more.
        peak_memory_bytes: most memory that this process held so far; None on Windows.
        forecast_memory_bytes: what was expected of that before the start, where a limit was set.
        settings: what was asked for.
    """

    version: str
    frames: int
    hole_pixels: int
    reference_pixels: int
    propagated_pixels: int
    filled_pixels: int
    network_pixels: int
    synthesized_pixels: int
    shadow_pixels: int
    resumed_frames: int
    changed_outside_mask: int | None
    seconds: dict[str, float]
    peak_memory_bytes: int | None
    forecast_memory_bytes: int | None
    settings: dict[str, Any] = field(repr=False)

    def save(self, path: PathLike) -> None:
        """Write it as JSON; it appears under its name only when it is whole."""
        path = Path(path)
        partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
        try:
            partial.write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)


def inpaint_file(
    input: PathLike,
    mask: PathLike,
    output: PathLike,
    *,
    config: InpaintConfig | None = None,
    model: CombCN | None = None,
    frames: tuple[int, int] | None = None,
    references: Mapping[int, PathLike] | None = None,
    mask_config: MaskConfig | None = None,
    fit_mask: bool = False,
    allow_truncated: bool = False,
    fps: Fraction | None = None,
    codec: str | None = None,
    quality: int | None = None,
    memory_limit_gib: float | None = None,
    resume: bool = False,
    progress: OnProgress | None = None,
) -> Report:
    """Fill the holes of a clip and write the result; outside of them nothing changes.

    Args:
        input: video file or folder of images.
        mask: image, folder of images, video, or "x,y,w,h"; see `read_mask`.
        output: .mp4, .mkv, .mov, .webm, or a folder of PNG or EXR; see `open_writer`.
        config: the defaults of `InpaintConfig` if None.
        model: for the stage of the networks; None leaves it out.
        frames: first and last frame to write, counted from 0, both included. They come out as they
            would with the whole clip, since the frames around them are read too; where there are
            masks for these frames only, they count as the whole clip.
        references: frame number -> picture of that frame without the object. Its pixels stand in
            the hole of that frame, and the holes of other frames are filled from them.
        mask_config: how the mask is to be understood; the defaults of `MaskConfig` if None.
        fit_mask: resize masks to the clip.
        allow_truncated: go on with what decodes of a damaged file.
        fps: frames per second of a folder of images that becomes a video.
        codec: h264, hevc, av1, vp9, prores or ffv1; None: what goes with the ending of `output`.
        quality: CRF of a lossy codec, lower is better; None: nearly invisible losses.
        memory_limit_gib: that this process may take, about; None: four fifths of what is available,
            where the system tells. Segments are shortened and the networks' jobs cut to fit; the
            result stays the same to one level of 255.
        resume: keep each finished segment beside the output until that is whole, and use those that
            an interrupted run of the same source, masks, settings and weights has kept.
        progress: called often, and once for each frame that is written; what it raises ends the
            work.

    Raises:
        ValueError: an input that cannot be used, a mask that leaves nothing known, an output that
            cannot be written, a memory limit that is too low.

    Whatever is raised, KeyboardInterrupt too, nothing of the output is left behind; with `resume`,
    its finished segments are.
    """
    references = references or {}
    tally = _Tally()
    checks = keeps_pixels(output, codec)
    stages = Stages(progress, _weights(_WEIGHTS, mask_config, checks=checks))
    stages("opening")
    writing: Any = {"fps": fps, "codec": codec, "quality": quality}
    # What cannot be written is to be known before anything is computed.
    source_info = open_reader(input, frames=frames, allow_truncated=allow_truncated).info
    open_writer(output, source_info, **writing).abort()
    run = _Run.open(
        input, mask, output, config or InpaintConfig(), model, frames, references,
        mask_config=mask_config, fit_mask=fit_mask, allow_truncated=allow_truncated,
        memory_limit_gib=memory_limit_gib, stages=stages,
    )  # fmt: skip
    clip, config = run.clip, run.config
    stages.num_frames = clip.stop - clip.start
    stages("opening", 1)
    with (
        SegmentStore(Path(output), config, model) if resume else nullcontext() as store,
        open_writer(
            output, clip.info, scratch=None if store is None else store.folder, **writing
        ) as writer,
        Behind(tally.staged("write", writer.write), QUEUE_FRAMES) as sink,
        closing(
            ahead(
                tally.timed("read", _read(clip, config.grow_pixels, references, digests=resume)),
                QUEUE_FRAMES,
            )
        ) as source,
        closing(_Filling(run, tally, store).fill(run.jobs(source), stages)) as filled,
    ):
        for segment in filled:
            while segment:  # let go of one by one
                sink.put(segment.pop(0))
                stages.frames += 1
                stages("writing", stages.frames / stages.num_frames)
        sink.finish()
        with tally.stage("write"):
            writer.close()

    changed: int | None = None
    with tally.stage("check"):
        try:
            if checks:
                check = stages.tell("checking")
                changed = _changed_outside_mask(clip, config.grow_pixels, Path(output), check)
        except (OSError, ValueError) as error:  # the output is whole, and stays
            log.warning("%s is written, but could not be compared: %s", output, error)
    stages("checking", 1)
    assert stages.frames == stages.num_frames
    return Report(
        version=__version__,
        frames=stages.frames,
        hole_pixels=tally.hole_pixels,
        reference_pixels=tally.reference_pixels,
        propagated_pixels=tally.propagated_pixels,
        filled_pixels=tally.filled_pixels,
        network_pixels=tally.network_pixels,
        synthesized_pixels=tally.synthesized_pixels,
        shadow_pixels=clip.shadow_pixels,
        resumed_frames=tally.resumed_frames,
        changed_outside_mask=changed,
        seconds=tally.finish(),
        peak_memory_bytes=peak_memory_bytes(),
        forecast_memory_bytes=(
            None if memory_limit_gib is None else run.budget.forecast(config.segment_frames)
        ),
        settings={
            "input": str(input),
            "mask": str(mask),
            "output": str(output),
            "frames": frames,
            "references": {number: str(path) for number, path in references.items()},
            "fit_mask": fit_mask,
            "allow_truncated": allow_truncated,
            "fps": None if fps is None else str(fps),
            "codec": codec,
            "quality": quality,
            "memory_limit_gib": memory_limit_gib,
            "resume": resume,
            "model": model is not None,
            **asdict(mask_config or MaskConfig()),
            **asdict(config),
        },
    )


def list_segments(
    input: PathLike,
    mask: PathLike,
    *,
    config: InpaintConfig | None = None,
    model: CombCN | None = None,
    frames: tuple[int, int] | None = None,
    mask_config: MaskConfig | None = None,
    fit_mask: bool = False,
    allow_truncated: bool = False,
) -> list[tuple[int, int]]:
    """First and last frame of each segment, in the order in which `inpaint_file` computes them.

    Reads the clip once to find its scene cuts. Arguments and errors as in `inpaint_file`.
    """
    run = _Run.open(
        input, mask, None, config or InpaintConfig(), model, frames, {},
        mask_config=mask_config, fit_mask=fit_mask, allow_truncated=allow_truncated,
        memory_limit_gib=None,
    )  # fmt: skip
    clip = run.clip
    with clip.open_frames(clip.start, clip.stop) as pictures:
        pairs = enumerate(pairwise(pictures), clip.start + 1)
        cuts = [here for here, (a, b) in pairs if is_cut(a.pixels, b.pixels)]
    assert clip.info.indices is not None
    numbers = clip.info.indices
    return [
        (
            numbers[begin - clip.start],
            numbers[min(begin + run.config.segment_frames, stop) - 1 - clip.start],
        )
        for start, stop in pairwise([clip.start, *cuts, clip.stop])
        for begin in range(start, stop, run.config.segment_frames)
    ]


def keep_segments(
    input: PathLike,
    mask: PathLike,
    output: PathLike,
    frames: tuple[int, int],
    *,
    config: InpaintConfig | None = None,
    model: CombCN | None = None,
    references: Mapping[int, PathLike] | None = None,
    mask_config: MaskConfig | None = None,
    fit_mask: bool = False,
    allow_truncated: bool = False,
) -> int:
    """Compute a part of a clip and keep it, for `inpaint_file` with `resume` to find.

    Parts may be computed by any processes that see the same folders, in any order, more than once.

    Args:
        frames: first and last frame, of one or more whole segments; see `list_segments`.

    Returns:
        The frames that this call had to compute.

    Other arguments and errors as in `inpaint_file`.
    """
    references = references or {}
    tally = _Tally()
    run = _Run.open(
        input, mask, output, config or InpaintConfig(), model, frames, references,
        mask_config=mask_config, fit_mask=fit_mask, allow_truncated=allow_truncated,
        memory_limit_gib=None,
    )  # fmt: skip
    store = SegmentStore(Path(output), run.config, model)
    with closing(_read(run.clip, run.config.grow_pixels, references, digests=True)) as source:
        filling = _Filling(run, tally, store)
        for _ in filling.fill(run.jobs(source), Stages(None, _WEIGHTS)):
            pass
    return run.clip.stop - run.clip.start - tally.resumed_frames


def write_masks(
    input: PathLike,
    mask: PathLike,
    output: PathLike,
    *,
    frames: tuple[int, int] | None = None,
    mask_config: MaskConfig | None = None,
    fit_mask: bool = False,
    allow_truncated: bool = False,
    grow_pixels: int = 0,
    progress: OnProgress | None = None,
) -> int:
    """Write the masks that `inpaint_file` would use, one a frame, to be looked at and corrected.

    Args:
        input, mask, frames, mask_config, fit_mask, allow_truncated: as in `inpaint_file`.
        output: a folder, for PNGs with the numbers of the frames; or .mkv.
        grow_pixels: grow the masks by so much; negative numbers shrink them.
        progress: as in `inpaint_file`.

    Returns:
        The hole pixels in all masks.

    Raises:
        ValueError: an input that cannot be used, an output that cannot be written.
    """
    stages = Stages(progress, _weights(_MASK_STAGES, mask_config))
    stages("opening")
    clip = _open_clip(
        input, mask, frames, 0, mask_config=mask_config, fit_mask=fit_mask,
        allow_truncated=allow_truncated, stages=stages,
    )  # fmt: skip
    _check_output(output, [input, mask])
    info = clip.info
    form = ClipInfo(info.width, info.height, info.fps, indices=info.indices, names=info.names)
    hole_pixels, stages.num_frames = 0, clip.stop - clip.start
    stages("opening", 1)
    with clip.open_masks(info) as masks, open_writer(output, form) as writer:
        for hole in _grown(masks, grow_pixels):
            gray = hole.whole().astype(np.uint8) * np.uint8(255)
            writer.write(np.repeat(gray[..., None], 3, axis=2))
            hole_pixels += hole.num_pixels
            stages.frames += 1
            stages("writing", stages.frames / stages.num_frames)
    return hole_pixels


# --- what is read ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Clip:
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


class _SourceFrame(NamedTuple):
    """A frame on its way, with what was found out while reading it."""

    position: int
    starts_shot: bool
    pixels: Pixels  # a reference in place
    hole: PackedMask  # grown, and empty where there is a reference
    reference_pixels: int
    digest: bytes = b""  # where segments are kept; see `SegmentStore`


def _open_clip(
    input: PathLike,
    mask: PathLike,
    frames: tuple[int, int] | None,
    halo: int,
    *,
    mask_config: MaskConfig | None,
    fit_mask: bool,
    allow_truncated: bool,
    stages: Stages | None = None,
) -> _Clip:
    """Open all that is to be read, which shows what is wrong with it."""
    whole = open_reader(input, allow_truncated=allow_truncated).info
    info = open_reader(input, frames=frames, allow_truncated=allow_truncated).info
    assert whole.indices is not None
    assert info.indices is not None
    indices = whole.indices
    if whole.truncated:
        log.warning("%s is damaged: %d frames of it decode, and are used.", input, len(indices))

    def open_frames(start: int, stop: int) -> FrameReader:
        span = (indices[start], indices[stop - 1])
        return open_reader(input, frames=span, allow_truncated=allow_truncated)

    def open_masks(info: ClipInfo) -> MaskReader:
        return read_mask(
            mask, info, config=mask_config, fit_mask=fit_mask, allow_truncated=allow_truncated
        )

    follows = mask_config is not None and mask_config.follow_masks
    if follows:
        drawn = read_drawn(mask, whole, config=mask_config, fit_mask=fit_mask)
    masks = None if follows else open_masks(info)
    start = bisect_left(indices, info.indices[0])
    stop = start + len(info.indices)
    read_start, read_stop = max(start - halo, 0), min(stop + halo, len(indices))
    if masks is not None and masks.is_of_range:  # no other frames can be used
        read_start = shot_start = start
        read_stop = stop
    else:
        shot_start = _shot_start(read_start, open_frames)
    takes = mask_config is not None and mask_config.take_shadows
    margins = (0, len(indices)) if masks is None or not masks.is_of_range else (start, stop)
    span = _shadow_span(read_start, read_stop, margins) if takes else (read_start, read_stop)
    if follows:
        tell = None if stages is None else stages.tell("following masks")
        followed = follow_clip(indices, drawn, *span, open_frames, tell)
        kept = dict(zip(indices[span[0] : span[1]], followed, strict=True))

        def open_masks(info: ClipInfo) -> MaskReader:
            return keep_masks(kept, info)

    shadow_pixels = 0
    if takes:
        open_given = open_masks
        tell = None if stages is None else stages.tell("finding shadows")
        taken = take_shadows_of_clip(
            indices, read_start, read_stop, margins, open_frames, open_given, tell
        )
        wholes = dict(zip(indices[read_start:read_stop], taken, strict=True))
        with open_given(info) as given:
            for index, hole in zip(info.indices, given, strict=True):
                shadow_pixels += wholes[index].num_pixels - int(hole.sum())

        def open_masks(info: ClipInfo) -> MaskReader:
            return keep_masks(wholes, info)

    return _Clip(
        *(whole, info, start, stop, read_start, read_stop, shot_start, open_frames, open_masks),
        shadow_pixels,
    )


_SHADOW_FRAMES, _SHADOW_HALO = 48, 32  # looked at together; those before and after them


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
    tell: Tell | None = None,
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
        tell: as in `inpaint`.
    """
    grown: list[PackedMask] = []
    unseen: list[int] = []
    for begin in range(start - start % _SHADOW_FRAMES, stop, _SHADOW_FRAMES):
        first, last = _shadow_span(begin, begin + _SHADOW_FRAMES, margins)
        pictures, objects = [], []
        wholes: list[PackedMask | None] = []  # of the frames that are asked for
        with open_frames(first, last) as frames, open_masks(frames.info) as masks:
            small = Small.of(frames.info.height, frames.info.width)
            for at, (frame, hole) in enumerate(zip(frames, masks, strict=True), first):
                pictures.append(small.frame(frame.pixels))
                objects.append(small.mask(hole))
                inside = max(begin, start) <= at < min(begin + _SHADOW_FRAMES, stop)
                wholes.append(PackedMask.of(hole) if inside else None)
        ends = (max(start, min(at, stop)) for at in (begin, begin + _SHADOW_FRAMES))
        low, high = ((at - start) / (stop - start) for at in ends)
        part = part_of(tell, low, high, shows=False)
        effects, dark = find_effects(np.stack(pictures), np.stack(objects), tell=part)
        for at, (effect, whole) in enumerate(zip(effects, wholes, strict=True), first):
            if whole is not None:
                grown.append(PackedMask.of(small.enlarged(effect, whole.whole())))
                if at - first in dark:
                    unseen.append(indices[at])
    if unseen:
        log.warning(
            "no other frame shows enough of the ground around the mask in %d frames, first %d: "
            "no shadows were found there.",
            *(len(unseen), unseen[0]),
        )
    return grown


def follow_clip(
    indices: Sequence[int],
    drawn: Mapping[int, Mask],
    start: int,
    stop: int,
    open_frames: Callable[[int, int], FrameReader],
    tell: Tell | None = None,
) -> list[PackedMask]:
    """Carry drawn masks to the frames of a clip from one position to before another.

    They come out the same whichever frames are asked for.

    Args:
        indices: of the frames that decode, in the source.
        drawn: index of a frame -> its mask.
        start, stop: positions in `indices`.
        open_frames: opens the frames from one position to before another.
        tell: as in `inpaint`.
    """
    known = {at: drawn[index] for at, index in enumerate(indices) if index in drawn}
    begin = max((at for at in known if at <= start), default=start)
    end = min((at + 1 for at in known if at + 1 >= stop), default=stop)
    near = {at - begin: mask for at, mask in known.items() if begin <= at < end}
    found: list[PackedMask] = []
    doubtful: list[tuple[float, int]] = []
    with open_frames(begin, end) as frames:
        pixels = (frame.pixels for frame in frames)
        for at, (hole, confidence) in enumerate(follow(pixels, near), begin):
            if start <= at < stop:
                found.append(PackedMask.of(hole))
                doubtful.append((confidence, indices[at]))
            if tell is not None:
                tell((at + 1 - begin) / (end - begin), None)
    worst = [f"{number} ({sure:.2f})" for sure, number in sorted(doubtful)[:5] if sure < 1]
    if worst:
        log.info("masks followed; least sure in frames %s: draw one there.", ", ".join(worst))
    return found


def _shot_start(position: int, open_frames: Callable[[int, int], FrameReader]) -> int:
    """Go back from a frame to the first one of its shot."""
    while position > 0:
        begin = max(position - _STRIDE_BACK, 0)
        with open_frames(begin, position + 1) as frames:
            pairs = enumerate(pairwise(frames), begin + 1)
            cuts = [here for here, (a, b) in pairs if is_cut(a.pixels, b.pixels)]
        if cuts:
            return cuts[-1]
        position = begin
    return 0


def _read(
    clip: _Clip, grow_pixels: int, references: Mapping[int, PathLike], digests: bool
) -> Generator[_SourceFrame, None, None]:
    """Yield the frames to read: masks grown, references in place, scene cuts found."""
    with (
        clip.open_frames(clip.read_start, clip.read_stop) as frames,
        clip.open_masks(frames.info) as masks,
    ):
        holes = _grown(masks, grow_pixels)
        previous: Pixels | None = None
        for position, (frame, hole) in enumerate(zip(frames, holes, strict=True), clip.read_start):
            source, reference_pixels = frame.pixels, 0
            starts_shot = previous is not None and is_cut(previous, source)
            previous = pixels = source
            if frame.index in references:
                plate = _read_plate(references[frame.index], clip.whole)
                pixels = np.where(hole.whole()[..., None], plate, source)
                reference_pixels = hole.num_pixels
                hole = PackedMask.of(np.zeros(hole.shape, bool))
            digest = digest_frame(pixels, hole.whole()) if digests else b""
            yield _SourceFrame(position, starts_shot, pixels, hole, reference_pixels, digest)


def _grown(masks: Iterable[Mask], pixels: int) -> Iterator[PackedMask]:
    last: Mask | None = None
    hole: PackedMask | None = None
    for mask in masks:
        if hole is None or mask is not last:  # one mask for all frames is grown once
            hole = PackedMask.of(grow(torch.from_numpy(mask)[None], pixels)[0].numpy())
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


# --- what is computed when ------------------------------------------------------------------------


@dataclass(frozen=True)
class _Run:
    """What is to be computed, opened and checked."""

    clip: _Clip
    config: InpaintConfig
    inpainter: ShotInpainter
    budget: _Budget

    @classmethod
    def open(
        cls,
        input: PathLike,
        mask: PathLike,
        output: PathLike | None,
        config: InpaintConfig,
        model: CombCN | None,
        frames: tuple[int, int] | None,
        references: Mapping[int, PathLike],
        *,
        mask_config: MaskConfig | None,
        fit_mask: bool,
        allow_truncated: bool,
        memory_limit_gib: float | None,
        stages: Stages | None = None,
    ) -> _Run:
        inpainter = ShotInpainter(config, model)
        clip = _open_clip(
            input,
            mask,
            frames,
            inpainter.halo,
            mask_config=mask_config,
            fit_mask=fit_mask,
            allow_truncated=allow_truncated,
            stages=stages,
        )
        _check_references(references, clip.whole)
        if output is not None:
            _check_output(output, [mask, *references.values()])
        if frames is not None:
            _say_cost(clip, config)
        budget = _Budget.of(memory_limit_gib, clip, config, inpainter)
        if memory_limit_gib is not None:
            config = replace(config, segment_frames=budget.longest(config.segment_frames))
            forecast = budget.forecast(config.segment_frames) / GIB
            log.info("Segments of %d frames, %.2f GiB of memory.", config.segment_frames, forecast)
        return cls(clip, config, inpainter, budget)

    def jobs(self, frames: Iterable[_SourceFrame]) -> Iterator[_Job]:
        return _segments(frames, self.clip, self.config.segment_frames, self.inpainter.halo)


class _Job(NamedTuple):
    """A segment that can be computed, since all of its frames have been read."""

    segment: Segment
    window: list[_SourceFrame]  # segment.read_start to segment.read_stop - 1
    shot_start: int

    shares: tuple[float, float]  # of the whole run, before and after it

    @property
    def outputs(self) -> list[_SourceFrame]:
        first = self.segment.start - self.segment.read_start
        return self.window[first : first + self.segment.num_frames]

    @property
    def inputs(self) -> tuple[list[Pixels], Sequence[Mask], Segment, int]:
        """As `ShotInpainter` takes them."""
        return (
            [frame.pixels for frame in self.window],
            PackedMasks([frame.hole for frame in self.window]),
            self.segment,
            self.shot_start,
        )

    def halves(self) -> tuple[_Job, _Job]:
        """Two segments that give the same frames; their window is more than they need."""
        segment = self.segment
        middle = (segment.start + segment.stop) // 2
        return (
            self._replace(segment=segment._replace(stop=middle)),
            self._replace(segment=segment._replace(start=middle)),
        )


def _segments(
    frames: Iterable[_SourceFrame], clip: _Clip, length: int, halo: int
) -> Iterator[_Job]:
    """Yield each segment as soon as the frames it needs have been read."""
    window: deque[_SourceFrame] = deque()
    begin, shot_start, read_stop = clip.start, clip.shot_start, clip.read_start

    def ready(shot_ended: bool) -> Iterator[_Job]:
        nonlocal begin
        wanted = (begin, min(clip.stop, read_stop))
        for segment in plan_shot(shot_start, read_stop, length, halo, frames=wanted):
            if not shot_ended and min(begin + length, clip.stop) + halo > read_stop:
                return  # more of the shot is to come, and would be part of it
            offset = window[0].position
            needed = range(segment.read_start - offset, segment.read_stop - offset)
            places = segment.start - clip.start, segment.stop - clip.start
            low, high = (place / (clip.stop - clip.start) for place in places)
            yield _Job(segment, [window[place] for place in needed], shot_start, (low, high))
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


class _Filling:
    """Fills segment after segment: found in the store, or computed."""

    def __init__(self, run: _Run, tally: _Tally, store: SegmentStore | None) -> None:
        self._inpainter = run.inpainter
        self._budget = run.budget
        self._tally = tally
        self._store = store
        self._lock = threading.Lock()
        self._warned = False

    def fill(self, jobs: Iterator[_Job], stages: Stages) -> Generator[list[Pixels], None, None]:
        """Yield the output frames of each segment."""
        stages("reading")
        if not self._inpainter.on_gpu:  # on a CPU, both would fight for the cores
            for job in jobs:
                look = self._look(job, part_of(stages.tell("finding motion"), *job.shares))
                frames = self._finish(job, look, stages)
                del job, look  # or they would be kept until the next segment has been read
                yield frames
            return
        unwanted = threading.Event()

        def check(share: float, frame: Pixels | None) -> None:
            if unwanted.is_set():
                raise GeneratorExit

        def looks() -> Generator[tuple[_Job, _Look], None, None]:
            for job in jobs:
                yield job, self._look(job, check)
                del job

        with closing(ahead(looks(), 1)) as looked:
            try:
                for job, look in looked:
                    frames = self._finish(job, look, stages)
                    del job, look
                    yield frames
            finally:
                unwanted.set()

    def _look(self, job: _Job, tell: Tell | None) -> _Look:
        """What can be done before the networks."""
        outputs = job.outputs
        if not any(frame.hole.num_pixels for frame in outputs):
            self._inpainter.leave(job.segment)
            return _Look(done=SegmentResult([frame.pixels for frame in outputs]))
        if all(frame.hole.num_pixels == math.prod(frame.hole.shape) for frame in job.window):
            raise ValueError(
                f"mask covers the whole frame in frames {job.segment.start} to "
                f"{job.segment.stop - 1} and in all around them, so there is nothing to fill them "
                "from; give a smaller mask, or a picture of the background as reference "
                "(--reference N=IMAGE)."
            )
        key = None
        if self._store is not None:
            digests = (frame.digest for frame in job.window)
            key = self._store.key(job.segment, job.shot_start, digests)
            holes = PackedMasks([frame.hole for frame in outputs])
            found = self._store.find(key, [frame.pixels for frame in outputs], holes)
            if found is not None:
                self._inpainter.leave(job.segment)
                return _Look(done=found, resumed=True)
        return _Look(key, self._look_at(job, tell))

    def _look_at(self, job: _Job, tell: Tell | None) -> list[Seen]:
        """The segment; where memory ends in halves, which give the same frames."""
        try:
            if not self._budget.exceeds(job):
                return [self._inpainter.look(*job.inputs, tell=tell)]
        except Exception as error:
            if job.segment.num_frames == 1 or not self._may_back_off(error):
                raise
            self._inpainter.forget_motion()
        first, second = job.halves()
        return [
            *self._look_at(first, part_of(tell, 0, 0.5)),
            *self._look_at(second, part_of(tell, 0.5, 1)),
        ]

    def _finish(self, job: _Job, look: _Look, stages: Stages) -> list[Pixels]:
        part = part_of(stages.tell("filling"), *job.shares)
        outputs = job.outputs
        stages("finding motion", job.shares[1])  # or what was found of it before
        for frame in outputs:
            self._tally.hole_pixels += frame.reference_pixels
            self._tally.reference_pixels += frame.reference_pixels
        result = look.done
        if result is None:
            count = len(look.seen)
            result = SegmentResult.joined(
                [
                    self._restore(seen, part_of(part, place / count, (place + 1) / count))
                    for place, seen in enumerate(look.seen)
                ]
            )
            if self._store is not None and look.key is not None:
                with self._tally.stage("keep"):
                    holes = PackedMasks([frame.hole for frame in outputs])
                    self._store.keep(look.key, result, holes)
        stages("filling", job.shares[1], result.frames[-1])
        self._tally.add(result)
        self._tally.resumed_frames += len(outputs) if look.resumed else 0
        return result.frames

    def _restore(self, seen: Seen, tell: Tell | None) -> SegmentResult:
        """The rest of the work; in smaller jobs where memory ends."""
        for _ in range(_TRIES):
            try:
                return self._inpainter.restore(seen, tell=tell)
            except Exception as error:
                if not self._may_back_off(error):
                    raise
            self._inpainter.take_less_memory()
        return self._inpainter.restore(seen, tell=tell)

    def _may_back_off(self, error: Exception) -> bool:
        if not is_out_of_memory(error):
            return False
        with self._lock:
            if not self._warned:
                log.warning(
                    "Out of memory; going on with less at a time, which takes longer. A lower "
                    "memory limit avoids this."
                )
            self._warned = True
        return True


class _Look(NamedTuple):
    """How far a segment is: finished, or seen."""

    key: str | None = None  # to keep it by
    seen: Sequence[Seen] = ()  # consecutive parts of it
    done: SegmentResult | None = None
    resumed: bool = False


@dataclass(frozen=True)
class _Budget:
    """Memory that a run may take, and what decides how much it takes."""

    work: Work  # of the largest hole where a limit was set, else without one
    limit: int | None  # bytes
    used: int

    @classmethod
    def of(
        cls, limit_gib: float | None, clip: _Clip, config: InpaintConfig, inpainter: ShotInpainter
    ) -> _Budget:
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
            halo=inpainter.halo,
            reach=config.reach if config.propagate else 0,
            context=inpainter.context,
            searches=min(2, os.cpu_count() or 1) if config.unseen == "texture" else 0,
            num_frames=clip.read_stop - clip.read_start,
            network_bytes=default_memory_bytes(torch.device("cpu")) if on_cpu else 0,
        )
        if limit_gib is not None:
            limit = int(limit_gib * GIB)
            with clip.open_masks(clip.info) as masks:
                work = work._replace(**_largest(_grown(masks, config.grow_pixels)))
            if on_cpu:
                assert model is not None
                others = used + work.forecast_bytes(config.segment_frames) - work.network_bytes
                room = max(limit - others, LEAST_NETWORK_BYTES)
                model.memory_bytes = min(work.network_bytes, room)
                work = work._replace(network_bytes=model.memory_bytes)
        return cls(work, limit, used)

    def forecast(self, length: int, holes: Iterable[PackedMask] = ()) -> int:
        """Memory of the process with segments of so many frames, and holes like these."""
        largest = _largest(holes)
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

    def exceeds(self, job: _Job) -> bool:
        """Whether a segment would take more than there is, and parts of it less."""
        length = job.segment.num_frames
        if self.limit is None or length <= _FEW_FRAMES:
            return False
        return self.forecast(length, (frame.hole for frame in job.window)) > self.limit


def _largest(holes: Iterable[PackedMask]) -> dict[str, int]:
    """Pixels of the largest hole and of the largest box around one."""
    hole_pixels = box_pixels = 0
    for hole in holes:
        if hole.box is not None:
            hole_pixels = max(hole_pixels, hole.num_pixels)
            box_pixels = max(box_pixels, hole.box.height * hole.box.width)
    return {"hole_pixels": hole_pixels, "box_pixels": box_pixels}


class _Tally:
    """Adds up seconds and pixels."""

    def __init__(self) -> None:
        self.hole_pixels = self.reference_pixels = 0
        self.propagated_pixels = self.filled_pixels = self.network_pixels = 0
        self.synthesized_pixels = 0
        self.resumed_frames = 0
        self._seconds: dict[str, float] = defaultdict(float)
        self._start = time.perf_counter()

    def add(self, result: SegmentResult) -> None:
        self.hole_pixels += result.hole_pixels
        self.propagated_pixels += result.propagated_pixels
        self.filled_pixels += result.filled_pixels
        self.network_pixels += result.network_pixels
        self.synthesized_pixels += result.synthesized_pixels
        for stage, seconds in result.seconds.items():
            self._seconds[stage] += seconds

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self._seconds[name] += time.perf_counter() - start

    def staged(self, name: str, work: Callable[[Item], object]) -> Callable[[Item], None]:
        """Work that counts as this stage."""

        def timed(item: Item) -> None:
            with self.stage(name):
                work(item)

        return timed

    def timed(self, name: str, items: Generator[Item, None, None]) -> Generator[Item, None, None]:
        """Pass items on; what it takes to get them is the time of this stage."""
        with closing(items):
            while True:
                with self.stage(name):
                    item = next(items, None)
                if item is None:
                    return
                yield item
                del item

    def finish(self) -> dict[str, float]:
        total = time.perf_counter() - self._start
        stages = {name: round(seconds, 3) for name, seconds in self._seconds.items()}
        return {**stages, "total": round(total, 3)}


# --- what is checked ------------------------------------------------------------------------------


def _check_references(references: Mapping[int, PathLike], whole: ClipInfo) -> None:
    for number, path in references.items():
        assert whole.indices is not None
        if number not in whole.indices:
            raise ValueError(
                f"reference {path} is for frame {number}, but {whole.path} has frames 0 to "
                f"{whole.indices[-1]}; give one of these numbers."
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


def _say_cost(clip: _Clip, config: InpaintConfig) -> None:
    """A few frames may cost as much as many, as others are looked through for what they hide."""
    wanted, read = clip.stop - clip.start, clip.read_stop - clip.read_start
    if read >= 2 * wanted and config.propagate and config.reach > 1:
        log.info(
            "%d frames are read for the %d that are wanted, as pixels may come from as many as %d "
            "frames away; a smaller --reach, such as %d, costs less and finds less.",
            *(read, wanted, config.reach, max(1, config.reach // 4)),
        )


def _check_output(output: PathLike, sources: Iterable[PathLike]) -> None:
    for source in sources:
        if Path(source).resolve() == Path(output).resolve():
            raise ValueError(f"output {output} is one of the inputs; give another name.")


def _weights(
    names: Iterable[str], mask_config: MaskConfig | None, checks: bool = False
) -> dict[str, float]:
    """Of those stages that a run has; the others weigh nothing."""
    mask_config = mask_config or MaskConfig()
    has = {
        "following masks": mask_config.follow_masks,
        "finding shadows": mask_config.take_shadows,
        "checking": checks,
    }
    return {name: _WEIGHTS[name] * has.get(name, True) for name in names}


def _changed_outside_mask(
    clip: _Clip, grow_pixels: int, output: Path, tell: Tell | None = None
) -> int:
    """Count the pixels that are not those of the source though no mask covers them."""
    source, indices = clip.info.path, clip.info.indices
    assert source is not None
    assert indices is not None
    span, truncated = (indices[0], indices[-1]), clip.whole.truncated
    changed = 0
    with (
        open_reader(source, frames=span, allow_truncated=truncated, with_alpha=True) as frames,
        clip.open_masks(frames.info) as masks,
        open_reader(output, with_alpha=True) as written,
    ):
        holes = _grown(masks, grow_pixels)
        triples = zip(frames, holes, written, strict=True)
        for count, (frame, hole, result) in enumerate(triples, 1):
            changed += int((differing(frame, result) & ~hole.whole()).sum())
            if tell is not None:
                tell(count / (clip.stop - clip.start), None)
    return changed
