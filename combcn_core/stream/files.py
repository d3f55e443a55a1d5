"""Inpaint files: frames are read, filled segment by segment, and written, in bounded memory.

The way of a frame: it is read with its mask (`source.read_frames`), waits in a window until its
segment and the halo of that have been read (`schedule.plan_jobs`), is filled (`run.Filling`) and
written. Reading and writing have threads of their own, and so has optical flow where the networks
run on a GPU. No more frames are held than one segment and its halo need, and a few in queues,
however long the clip is.

Frames are counted by their position among those that decode. That is their index in the source,
unless the source is damaged and read all the same.
"""

from __future__ import annotations

import logging
import time
from bisect import bisect_left
from collections.abc import Iterable, Mapping
from contextlib import ExitStack, closing, nullcontext
from dataclasses import asdict
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from combcn_core.clips.formats import keeps_pixels
from combcn_core.clips.images import differing
from combcn_core.clips.mask_rules import MaskConfig
from combcn_core.clips.pictures import outline_mask
from combcn_core.clips.video import ClipInfo, PathLike, open_reader, open_writer
from combcn_core.fill.cuts import is_cut_between, thumbnail
from combcn_core.memory import peak_memory_bytes
from combcn_core.pixels import Pixels, to_uint8
from combcn_core.progress import OnProgress, OnShare, Stages
from combcn_core.shot import Counts, InpaintConfig
from combcn_core.stream.memory import QUEUE_FRAMES
from combcn_core.stream.overlap import WriteQueue, ahead
from combcn_core.stream.report import Report, timed
from combcn_core.stream.room import check_room, forecast_bytes
from combcn_core.stream.run import Filling, Run
from combcn_core.stream.source import SourceClip, check_output, grown_masks, open_clip, read_frames
from combcn_core.stream.store import SegmentStore, segments_folder
from combcn_core.version import __version__

if TYPE_CHECKING:
    from combcn_core.networks.layers import CombCN

log = logging.getLogger("combcn")
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
    start, counts = time.perf_counter(), Counts()
    checks = keeps_pixels(output, codec)
    stages = Stages(progress, _weights(_WEIGHTS, mask_config, checks=checks))
    stages("opening")
    writing: Any = {"fps": fps, "codec": codec, "quality": quality}
    # What cannot be written is to be known before anything is computed. As long as this reader is
    # held, the run reads on from the frame that it decoded.
    source = open_reader(input, frames=frames, allow_truncated=allow_truncated)
    open_writer(output, source.info, **writing).abort()
    run = Run.open(
        input, mask, output, config or InpaintConfig(), model, frames, references,
        mask_config=mask_config, fit_mask=fit_mask, allow_truncated=allow_truncated,
        memory_limit_gib=memory_limit_gib, stages=stages,
    )  # fmt: skip
    clip, config = run.clip, run.config
    _check_room(run, output, codec, quality, keeps=resume)
    stages.num_frames = clip.stop - clip.start
    stages("opening", 1)
    frames_read = read_frames(clip, config.grow_pixels, references, digests=resume)
    with (
        SegmentStore(Path(output), config, model) if resume else nullcontext() as store,
        open_writer(
            output, clip.info, scratch=None if store is None else store.folder, **writing
        ) as writer,
        # A segment that waits to be written holds frames that are in the next one's halo anyway.
        WriteQueue(
            counts.timed("write")(writer.write), QUEUE_FRAMES + config.segment_frames
        ) as sink,
        closing(ahead(timed(counts, "read", frames_read), QUEUE_FRAMES)) as waiting,
        closing(Filling(run, counts, store, stages).fill(waiting)) as filled,
    ):
        for segment in filled:
            while segment:  # let go of one by one
                sink.put(segment.pop(0))
                stages.frames_written += 1
                stages("writing", stages.frames_written / stages.num_frames)
        sink.finish()
        with counts.timed("write"):
            writer.close()

    changed: int | None = None
    with counts.timed("check"):
        try:
            if checks:
                check = stages.callback("checking")
                changed = _changed_outside_mask(clip, config.grow_pixels, Path(output), check)
        except (OSError, ValueError) as error:  # the output is whole, and stays
            log.warning("%s is written, but could not be compared: %s", output, error)
    stages("checking", 1)
    seconds = counts.seconds | {"total": time.perf_counter() - start}
    assert stages.frames_written == stages.num_frames
    return Report(
        version=__version__,
        frames=stages.frames_written,
        hole_pixels=counts.hole_pixels,
        reference_pixels=counts.reference_pixels,
        reference_reach={number: _reach(counts, clip, number) for number in references},
        propagated_pixels=counts.propagated_pixels,
        filled_pixels=counts.filled_pixels,
        network_pixels=counts.network_pixels,
        synthesized_pixels=counts.synthesized_pixels,
        shadow_pixels=clip.shadow_pixels,
        resumed_frames=counts.resumed_frames,
        resumed_motion_frames=0 if store is None else len(store.work.found),
        changed_outside_mask=changed,
        seconds={name: round(value, 3) for name, value in seconds.items()},
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
    run = Run.open(
        input, mask, None, config or InpaintConfig(), model, frames, {},
        mask_config=mask_config, fit_mask=fit_mask, allow_truncated=allow_truncated,
        memory_limit_gib=None,
    )  # fmt: skip
    clip = run.clip
    with clip.open_frames(clip.start, clip.stop) as pictures:
        small = (thumbnail(frame.picture) for frame in pictures)
        pairs = enumerate(pairwise(small), clip.start + 1)
        cuts = [here for here, pair in pairs if is_cut_between(*pair)]
    numbers = clip.info.read_indices
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
    counts = Counts()
    run = Run.open(
        input, mask, output, config or InpaintConfig(), model, frames, references,
        mask_config=mask_config, fit_mask=fit_mask, allow_truncated=allow_truncated,
        memory_limit_gib=None,
    )  # fmt: skip
    store = SegmentStore(Path(output), run.config, model)
    with closing(read_frames(run.clip, run.config.grow_pixels, references, digests=True)) as source:
        for _ in Filling(run, counts, store, Stages(None, _WEIGHTS)).fill(source):
            pass
    return run.clip.stop - run.clip.start - counts.resumed_frames


def write_masks(
    input: PathLike,
    mask: PathLike,
    output: PathLike,
    *,
    frames: tuple[int, int] | None = None,
    fps: Fraction | None = None,
    mask_config: MaskConfig | None = None,
    fit_mask: bool = False,
    allow_truncated: bool = False,
    grow_pixels: int = 0,
    preview: PathLike | None = None,
    progress: OnProgress | None = None,
) -> int:
    """Write the masks that `inpaint_file` would use, one a frame, to be looked at and corrected.

    Args:
        input, mask, frames, fps, mask_config, fit_mask, allow_truncated: as in `inpaint_file`.
        output: a folder, for PNGs with the numbers of the frames; or .mkv.
        grow_pixels: grow the masks by this many pixels; negative numbers shrink them.
        preview: a video, or a folder, for the frames with an outline around the masks, in 8 bits.
        progress: as in `inpaint_file`.

    Returns:
        The hole pixels in all masks.

    Raises:
        ValueError: an input that cannot be used, an output that cannot be written.
    """
    stages = Stages(progress, _weights(_MASK_STAGES, mask_config))
    stages("opening")
    clip = open_clip(
        input, mask, frames, 0, mask_config=mask_config, fit_mask=fit_mask,
        allow_truncated=allow_truncated, stages=stages,
    )  # fmt: skip
    check_output(output, [input, mask])
    if preview is not None:
        check_output(preview, [input, mask, output])
    info = clip.info
    form = ClipInfo(info.width, info.height, info.fps, indices=info.indices, names=info.names)
    hole_pixels, stages.num_frames = 0, clip.stop - clip.start
    stages("opening", 1)
    with ExitStack() as stack:
        masks = stack.enter_context(clip.open_masks(info))
        writer = stack.enter_context(open_writer(output, form, fps=fps))
        if preview is not None:
            frames_shown = stack.enter_context(clip.open_frames(clip.start, clip.stop))
            shown = stack.enter_context(open_writer(preview, form, fps=fps))
            pictures = iter(frames_shown)
        for hole in grown_masks(masks, grow_pixels):
            gray = hole.whole().astype(np.uint8) * np.uint8(255)
            writer.write(np.repeat(gray[..., None], 3, axis=2))
            if preview is not None:
                shown.write(outline_mask(to_uint8(next(pictures).pixels), hole.whole()))
            hole_pixels += hole.num_pixels
            stages.frames_written += 1
            stages("writing", stages.frames_written / stages.num_frames)
    return hole_pixels


def _weights(
    names: Iterable[str], mask_config: MaskConfig | None, checks: bool = False
) -> dict[str, float]:
    """The weights of the stages that a run has."""
    mask_config = mask_config or MaskConfig()
    has = {
        "following masks": mask_config.follow_masks,
        "finding shadows": mask_config.take_shadows,
        "checking": checks,
    }
    return {name: _WEIGHTS[name] * has.get(name, True) for name in names}


def _reach(counts: Counts, clip: SourceClip, number: int) -> dict[str, int]:
    """How far the painted area of a frame travelled, see `Report`."""
    indices = clip.whole.read_indices
    painted = bisect_left(indices, number)
    pixels = {t: some[painted] for t, some in counts.travelled.items() if painted in some}
    if not pixels:
        return {}
    first, last = indices[min(pixels)], indices[max(pixels)]
    return {"frames": len(pixels), "first": first, "last": last, "pixels": sum(pixels.values())}


def _check_room(
    run: Run, output: PathLike, codec: str | None, quality: int | None, keeps: bool
) -> None:
    """Check that the disk can hold the output, and the segments kept until then."""
    clip, info = run.clip, run.clip.info
    frame_bytes = info.height * info.width * 3 * info.dtype.itemsize

    def first_frame() -> Pixels:
        with clip.open_frames(clip.start, clip.start + 1) as reader:
            return next(iter(reader)).pixels

    def kept_bytes() -> int:
        with clip.open_masks(info) as masks:
            holes = grown_masks(masks, run.config.grow_pixels)
            total = sum(hole.num_pixels for hole in holes) * 3 * info.dtype.itemsize
        there = segments_folder(Path(output)).glob("*.safetensors")  # of an interrupted run
        return max(0, total - sum(path.stat().st_size for path in there))

    most = (clip.stop - clip.start) * frame_bytes if keeps else 0
    check_room(output, forecast_bytes(output, info, first_frame, codec, quality), most, kept_bytes)


def _changed_outside_mask(
    clip: SourceClip, grow_pixels: int, output: Path, on_progress: OnShare | None = None
) -> int:
    """Count the pixels that are not those of the source though no mask covers them."""
    source, indices = clip.info.path, clip.info.read_indices
    assert source is not None
    span, truncated = (indices[0], indices[-1]), clip.whole.truncated
    changed = 0
    with (
        open_reader(source, frames=span, allow_truncated=truncated, with_alpha=True) as frames,
        clip.open_masks(frames.info) as masks,
        open_reader(output, with_alpha=True) as written,
    ):
        holes = grown_masks(masks, grow_pixels)
        triples = zip(frames, holes, written, strict=True)
        for count, (frame, hole, result) in enumerate(triples, 1):
            changed += int((differing(frame, result) & ~hole.whole()).sum())
            if on_progress is not None:
                on_progress(count / (clip.stop - clip.start), None)
    return changed
