"""Inpaint files: frames are read, filled segment by segment, and written, in bounded memory.

The way of a frame: it is read with its mask (`_read`), waits in a window until its segment and the
halo of that have been read (`_segments`), is filled (`ShotInpainter.run`) and written. No more
frames are held than one segment and its halo need, however long the clip is.

Frames are counted by their position among those that decode. That is their index in the source,
unless the source is damaged and read all the same.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import sys
import time
from bisect import bisect_left
from collections import defaultdict, deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch

from combcn_core.flow import is_cut
from combcn_core.images import differing
from combcn_core.inpaint import InpaintConfig, SegmentResult, ShotInpainter, Tell, part_of
from combcn_core.masks import grow
from combcn_core.networks import CombCN
from combcn_core.resume import SegmentStore, digest_frame
from combcn_core.segments import GIB, Segment, plan_shot, segment_length
from combcn_core.version import __version__
from combcn_core.video import (
    ClipInfo,
    FrameReader,
    Mask,
    MaskReader,
    PathLike,
    Pixels,
    open_reader,
    open_writer,
    read_mask,
)

log = logging.getLogger("combcn")

Item = TypeVar("Item")


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
        resumed_frames: of those, how many an interrupted run had finished.
        changed_outside_mask: pixels outside the grown masks that differ between the source and the
            written file, both decoded, in images with their alpha; None where the format is lossy.
            Always 0.
        seconds: per stage, and "total".
        peak_memory_bytes: most memory that this process held so far; None on Windows.
        settings: what was asked for.
    """

    version: str
    frames: int
    hole_pixels: int
    reference_pixels: int
    propagated_pixels: int
    filled_pixels: int
    network_pixels: int
    resumed_frames: int
    changed_outside_mask: int | None
    seconds: dict[str, float]
    peak_memory_bytes: int | None
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
    fit_mask: bool = False,
    allow_truncated: bool = False,
    fps: Fraction | None = None,
    memory_limit_gib: float | None = None,
    resume: bool = False,
    progress: Callable[[int, int], None] | None = None,
    tell: Tell | None = None,
) -> Report:
    """Fill the holes of a clip and write the result; outside of them nothing changes.

    Args:
        input: video file or folder of images.
        mask: image, folder of images, video, or "x,y,w,h"; see `read_mask`.
        output: .mp4, .mkv, .mov, or a folder of PNG or EXR; see `open_writer`.
        config: the defaults of `InpaintConfig` if None.
        model: for the stage of the networks; None leaves it out.
        frames: first and last frame to write, counted from 0, both included. They come out as they
            would with the whole clip, since the frames around them are read too; where there are
            masks for these frames only, they count as the whole clip.
        references: frame number -> picture of that frame without the object. Its pixels stand in
            the hole of that frame, and the holes of other frames are filled from them.
        fit_mask: resize masks to the clip.
        allow_truncated: go on with what decodes of a damaged file.
        fps: frames per second of a folder of images that becomes a video.
        memory_limit_gib: shorten the segments of `config` so that this process needs about this
            much memory at most; the result stays the same.
        resume: keep each finished segment beside the output until that is whole, and use those that
            an interrupted run of the same source, masks, settings and weights has kept.
        progress: called with the number of frames written so far and of all, after each.
        tell: as in `inpaint`: called while frames are computed too.

    Raises:
        ValueError: an input that cannot be used, a mask that leaves nothing known, an output that
            cannot be written, a memory limit that is too low.

    Whatever is raised, KeyboardInterrupt too, nothing of the output is left behind; with `resume`,
    its finished segments are.
    """
    references = references or {}
    tally = _Tally()
    run = _Run.open(
        input, mask, output, config or InpaintConfig(), model, frames, references,
        fit_mask=fit_mask, allow_truncated=allow_truncated, memory_limit_gib=memory_limit_gib,
    )  # fmt: skip
    clip, config = run.clip, run.config
    num_written, num_frames = 0, clip.stop - clip.start
    with (
        SegmentStore(Path(output), config, model) if resume else nullcontext() as store,
        open_writer(
            output, clip.info, fps=fps, scratch=None if store is None else store.folder
        ) as writer,
        closing(_read(clip, config.grow_pixels, references, digests=resume)) as source,
    ):
        for job in run.jobs(tally.timed("read", source)):
            begin, end = (t - clip.start for t in (job.segment.start, job.segment.stop))
            part = part_of(tell, begin / num_frames, end / num_frames)
            for pixels in _fill(job, run.inpainter, tally, part, store):
                with tally.stage("write"):
                    writer.write(pixels)
                num_written += 1
                if progress is not None:
                    progress(num_written, num_frames)
        with tally.stage("write"):
            writer.close()

    with tally.stage("check"):
        changed = _changed_outside_mask(clip, config.grow_pixels, Path(output))
    return Report(
        version=__version__,
        frames=num_written,
        hole_pixels=tally.hole_pixels,
        reference_pixels=tally.reference_pixels,
        propagated_pixels=tally.propagated_pixels,
        filled_pixels=tally.filled_pixels,
        network_pixels=tally.network_pixels,
        resumed_frames=tally.resumed_frames,
        changed_outside_mask=changed,
        seconds=tally.finish(),
        peak_memory_bytes=peak_memory_bytes(),
        settings={
            "input": str(input),
            "mask": str(mask),
            "output": str(output),
            "frames": frames,
            "references": {number: str(path) for number, path in references.items()},
            "fit_mask": fit_mask,
            "allow_truncated": allow_truncated,
            "fps": None if fps is None else str(fps),
            "memory_limit_gib": memory_limit_gib,
            "resume": resume,
            "model": model is not None,
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
    fit_mask: bool = False,
    allow_truncated: bool = False,
) -> list[tuple[int, int]]:
    """First and last frame of each segment, in the order in which `inpaint_file` computes them.

    Reads the clip once to find its scene cuts. Arguments and errors as in `inpaint_file`.
    """
    run = _Run.open(
        input, mask, None, config or InpaintConfig(), model, frames, {},
        fit_mask=fit_mask, allow_truncated=allow_truncated, memory_limit_gib=None,
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
        fit_mask=fit_mask, allow_truncated=allow_truncated, memory_limit_gib=None,
    )  # fmt: skip
    store = SegmentStore(Path(output), run.config, model)
    with closing(_read(run.clip, run.config.grow_pixels, references, digests=True)) as source:
        for job in run.jobs(source):
            _fill(job, run.inpainter, tally, None, store)
    return run.clip.stop - run.clip.start - tally.resumed_frames


def peak_memory_bytes() -> int | None:
    """Most memory that this process has held so far; None on Windows, which does not tell."""
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


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


class _SourceFrame(NamedTuple):
    """A frame on its way, with what was found out while reading it."""

    position: int
    starts_shot: bool
    pixels: Pixels  # a reference in place
    hole: Mask  # grown, and empty where there is a reference
    reference_pixels: int
    digest: bytes = b""  # where segments are kept; see `SegmentStore`


def _open_clip(
    input: PathLike,
    mask: PathLike,
    frames: tuple[int, int] | None,
    halo: int,
    *,
    fit_mask: bool,
    allow_truncated: bool,
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
        return read_mask(mask, info, fit_mask=fit_mask, allow_truncated=allow_truncated)

    open_masks(info)
    start = bisect_left(indices, info.indices[0])
    stop = start + len(info.indices)
    read_start, read_stop = max(start - halo, 0), min(stop + halo, len(indices))
    try:
        open_masks(whole)
    except ValueError:  # masks for the frames to write alone: no others can be used
        read_start = shot_start = start
        read_stop = stop
    else:
        shot_start = _shot_start(read_start, open_frames)
    return _Clip(
        whole, info, start, stop, read_start, read_stop, shot_start, open_frames, open_masks
    )


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
                pixels = np.where(hole[..., None], plate, source)
                reference_pixels = int(hole.sum())
                hole = np.zeros_like(hole)
            digest = digest_frame(pixels, hole) if digests else b""
            yield _SourceFrame(position, starts_shot, pixels, hole, reference_pixels, digest)


def _grown(masks: Iterable[Mask], pixels: int) -> Iterator[Mask]:
    last: Mask | None = None
    hole: Mask | None = None
    for mask in masks:
        if hole is None or mask is not last:  # one mask for all frames is grown once
            hole = grow(torch.from_numpy(mask)[None], pixels)[0].numpy()
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
        fit_mask: bool,
        allow_truncated: bool,
        memory_limit_gib: float | None,
    ) -> _Run:
        inpainter = ShotInpainter(config, model)
        clip = _open_clip(
            input, mask, frames, inpainter.halo, fit_mask=fit_mask, allow_truncated=allow_truncated
        )
        _check_references(references, clip.whole)
        if output is not None:
            _check_output(output, [mask, *references.values()])
        if memory_limit_gib is not None:
            length = _fitting_length(memory_limit_gib, clip, config.grow_pixels, inpainter.halo)
            config = replace(config, segment_frames=min(config.segment_frames, length))
        return cls(clip, config, inpainter)

    def jobs(self, frames: Iterable[_SourceFrame]) -> Iterator[_Job]:
        return _segments(frames, self.clip, self.config.segment_frames, self.inpainter.halo)


class _Job(NamedTuple):
    """A segment that can be computed, since all of its frames have been read."""

    segment: Segment
    window: list[_SourceFrame]  # segment.read_start to segment.read_stop - 1
    shot_start: int

    @property
    def outputs(self) -> list[_SourceFrame]:
        first = self.segment.start - self.segment.read_start
        return self.window[first : first + self.segment.num_frames]


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
            yield _Job(segment, [window[place] for place in needed], shot_start)
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


def _fill(
    job: _Job,
    inpainter: ShotInpainter,
    tally: _Tally,
    tell: Tell | None,
    store: SegmentStore | None,
) -> list[Pixels]:
    """The output frames of a segment, computed or found in the store."""
    outputs = job.outputs
    for frame in outputs:
        tally.hole_pixels += frame.reference_pixels
        tally.reference_pixels += frame.reference_pixels
    if not any(frame.hole.any() for frame in outputs):
        if tell is not None:
            tell(1, outputs[-1].pixels)
        return [frame.pixels for frame in outputs]
    if all(frame.hole.all() for frame in job.window):
        raise ValueError(
            f"mask covers the whole frame in frames {job.segment.start} to {job.segment.stop - 1} "
            "and in all around them, so there is nothing to fill them from; give a smaller mask, "
            "or a picture of the background as reference (--reference N=IMAGE)."
        )
    if store is not None:
        key = store.key(job.segment, job.shot_start, (frame.digest for frame in job.window))
        holes = [frame.hole for frame in outputs]
        found = store.find(key, [frame.pixels for frame in outputs], holes)
        if found is not None:
            tally.add(found)
            tally.resumed_frames += len(outputs)
            return found.frames
    result = inpainter.run(
        [frame.pixels for frame in job.window],
        [frame.hole for frame in job.window],
        job.segment,
        job.shot_start,
        tell=tell,
    )
    if store is not None:
        with tally.stage("keep"):
            store.keep(key, result, holes)
    tally.add(result)
    return result.frames


def _fitting_length(limit_gib: float, clip: _Clip, grow_pixels: int, halo: int) -> int:
    """Output frames of the longest segment that stays below the limit, by the largest hole."""
    with clip.open_masks(clip.info) as masks:
        share = max(float(hole.mean()) for hole in _grown(masks, grow_pixels))
    info = clip.info
    # Measured: frames wait and are computed in their own type, traces need floats in the hole.
    bytes_per_pixel = 16 + 8 * info.dtype.itemsize + 130 * share
    bytes_per_frame = round(info.height * info.width * bytes_per_pixel)
    used = peak_memory_bytes() or 0
    return segment_length(max(int(limit_gib * GIB) - used, 0), bytes_per_frame, halo)


class _Tally:
    """Adds up seconds and pixels."""

    def __init__(self) -> None:
        self.hole_pixels = self.reference_pixels = 0
        self.propagated_pixels = self.filled_pixels = self.network_pixels = 0
        self.resumed_frames = 0
        self._seconds: dict[str, float] = defaultdict(float)
        self._start = time.perf_counter()

    def add(self, result: SegmentResult) -> None:
        self.hole_pixels += result.hole_pixels
        self.propagated_pixels += result.propagated_pixels
        self.filled_pixels += result.filled_pixels
        self.network_pixels += result.network_pixels
        for stage, seconds in result.seconds.items():
            self._seconds[stage] += seconds

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self._seconds[name] += time.perf_counter() - start

    def timed(self, name: str, items: Iterator[Item]) -> Iterator[Item]:
        """Pass items on; what it takes to get them is the time of this stage."""
        while True:
            with self.stage(name):
                item = next(items, None)
            if item is None:
                return
            yield item

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


def _check_output(output: PathLike, sources: Iterable[PathLike]) -> None:
    for source in sources:
        if Path(source).resolve() == Path(output).resolve():
            raise ValueError(f"output {output} is one of the inputs; give another name.")


def _changed_outside_mask(clip: _Clip, grow_pixels: int, output: Path) -> int | None:
    """Count the pixels that are not those of the source though no mask covers them."""
    if not (output.is_dir() or output.suffix.lower() == ".mkv"):
        return None
    changed = 0
    with (
        clip.open_frames(clip.start, clip.stop) as frames,
        clip.open_masks(frames.info) as masks,
        open_reader(output) as written,
    ):
        holes = _grown(masks, grow_pixels)
        for frame, hole, result in zip(frames, holes, written, strict=True):
            if output.is_dir():
                differs = differing(frame, result)
            else:
                differs = (frame.pixels != result.pixels).any(axis=2)
            changed += int((differs & ~hole).sum())
    return changed
