"""Fill segment after segment: found in the store, or computed, in parts where memory ends."""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

from combcn_core.clips.mask_rules import MaskConfig
from combcn_core.clips.video import PathLike
from combcn_core.memory import GIB, BackOff
from combcn_core.pixels import Filled, Pixels
from combcn_core.progress import OnShare, Stages, part_of
from combcn_core.shot import (
    FEW_FRAMES,
    Counts,
    InpaintConfig,
    Prefilled,
    SegmentResult,
    ShotInpainter,
)
from combcn_core.stream.memory import Budget
from combcn_core.stream.overlap import ahead
from combcn_core.stream.schedule import Job, plan_jobs
from combcn_core.stream.source import (
    SourceClip,
    SourceFrame,
    check_output,
    check_references,
    open_clip,
)
from combcn_core.stream.store import SegmentStore

if TYPE_CHECKING:
    from combcn_core.networks.layers import CombCN

log = logging.getLogger("combcn")
_TRIES = 9  # with half the memory each time
# How far a segment is: finished, or filled without networks in consecutive parts.
Begun: TypeAlias = SegmentResult | list[Prefilled]


@dataclass(frozen=True)
class Run:
    """What is to be computed, opened and checked."""

    clip: SourceClip
    config: InpaintConfig
    inpainter: ShotInpainter
    budget: Budget

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
    ) -> Run:
        inpainter = ShotInpainter(config, model)
        clip = open_clip(
            input,
            mask,
            frames,
            inpainter.halo,
            mask_config=mask_config,
            fit_mask=fit_mask,
            allow_truncated=allow_truncated,
            stages=stages,
        )
        check_references(references, clip.whole)
        if output is not None:
            check_output(output, [mask, *references.values()])
        if frames is not None:
            inpainter.wants_few = clip.stop - clip.start <= inpainter.context
            _say_cost(clip, config, inpainter)
        budget = Budget.of(memory_limit_gib, clip, config, inpainter)
        if memory_limit_gib is not None:
            config = replace(config, segment_frames=budget.longest(config.segment_frames))
            forecast = budget.forecast(config.segment_frames) / GIB
            log.info("Segments of %d frames, %.2f GiB of memory.", config.segment_frames, forecast)
        return cls(clip, config, inpainter, budget)

    def jobs(self, frames: Iterable[SourceFrame], stages: Stages) -> Iterator[Job]:
        return plan_jobs(
            self._expected(frames, stages),
            self.clip,
            self.config.segment_frames,
            self.inpainter.halo,
        )

    def _expected(
        self, frames: Iterable[SourceFrame], stages: Stages
    ) -> Generator[SourceFrame, None, None]:
        """Frames as they are read; motion between them is looked for meanwhile."""
        first, num_frames = self.clip.read_start, self.clip.read_stop - self.clip.read_start
        for frame in frames:
            begins = frame.starts_shot or frame.position == first
            self.inpainter.expect(frame.position, frame.picture, frame.hole, begins)
            if not self.inpainter.on_gpu:  # there this is another thread
                stages("finding motion", 0.6 * (frame.position - first) / num_frames)
            yield frame
            del frame


def _say_cost(clip: SourceClip, config: InpaintConfig, inpainter: ShotInpainter) -> None:
    """A few frames may cost as much as many, as others are looked through for what they hide."""
    wanted, read = clip.stop - clip.start, clip.read_stop - clip.read_start
    if read < 2 * wanted or not config.propagate or config.reach == 1:
        return
    total = len(clip.whole.read_indices)

    def near(reach: int) -> int:
        beyond = inpainter.halo - inpainter.context - config.reach + reach
        return min(clip.stop + beyond, clip.read_stop) - max(clip.start - beyond, clip.read_start)

    filled = min(wanted + 2 * inpainter.context, read)
    if inpainter.wants_few:
        filled = min(wanted + 2 * FEW_FRAMES, read)
    # Motion takes about half as long as filling does.
    share = min(1.0, (near(config.reach) + 2 * filled) / (3 * total))
    less = max(1, config.reach // 4)
    log.info(
        "%d frames are looked through for the %d that are wanted, as pixels may come from as many "
        "as %d frames away; that takes %.0f %% of the time of all %d, or more where no frame shows "
        "much. A smaller --reach, such as %d, looks through %d and finds less.",
        *(near(config.reach), wanted, config.reach, 100 * share, total, less, near(less)),
    )


class Filling:
    """Fills segment after segment: found in the store, or computed."""

    def __init__(
        self, run: Run, counts: Counts, store: SegmentStore | None, stages: Stages
    ) -> None:
        self._run = run
        self._inpainter = run.inpainter
        self._counts = counts
        self._store = store
        self._stages = stages
        if store is not None:
            run.inpainter.memorise(store.work)
        self._back_off = BackOff(
            "Out of memory; going on with less at a time, which takes longer. A lower memory limit "
            "avoids this."
        )

    def fill(self, source: Iterable[SourceFrame]) -> Generator[list[Filled], None, None]:
        """Yield the output frames of each segment."""
        jobs = self._run.jobs(source, self._stages)
        self._stages("reading")
        if not self._inpainter.on_gpu:  # on a CPU, both would fight for the cores
            for job in jobs:
                part = part_of(self._stages.callback("finding motion"), *job.shares)
                begun = self._begin(job, part)
                frames = self._finish(job, begun)
                del job, begun  # or they would be kept until the next segment has been read
                yield frames
            return
        unwanted = threading.Event()

        def check(share: float, frame: Pixels | None) -> None:
            if unwanted.is_set():
                raise GeneratorExit

        def begun_ahead() -> Generator[tuple[Job, Begun], None, None]:
            for job in jobs:
                yield job, self._begin(job, check)
                del job

        with closing(ahead(begun_ahead(), 1)) as waiting:
            try:
                for job, begun in waiting:
                    frames = self._finish(job, begun)
                    del job, begun
                    yield frames
            finally:
                unwanted.set()

    def _begin(self, job: Job, on_progress: OnShare | None) -> Begun:
        """Do what can be done before the networks."""
        outputs = job.outputs
        if not any(frame.hole.num_pixels for frame in outputs):
            self._inpainter.skip(job.segment)
            return SegmentResult([Filled.of(frame.picture) for frame in outputs], Counts())
        if all(frame.hole.num_pixels == math.prod(frame.hole.shape) for frame in job.window):
            raise ValueError(
                f"mask covers the whole frame in frames {job.segment.start} to "
                f"{job.segment.stop - 1} and in all around them, so there is nothing to fill them "
                "from; give a smaller mask, or a picture of the background as reference "
                "(--reference N=IMAGE)."
            )
        self._inpainter.show_painted(
            {frame.position: frame.painted for frame in job.window if frame.painted is not None}
        )
        if self._store is not None:
            self._store.work.show(job.digests, job.segment.shot_start)
            found = self._store.find(
                self._store.key(job.segment, job.digests.values()),
                [frame.picture for frame in outputs],
                [frame.hole for frame in outputs],
            )
            if found is not None:
                self._inpainter.skip(job.segment)
                return found
        return self._prefill(job, on_progress)

    def _prefill(self, job: Job, on_progress: OnShare | None) -> list[Prefilled]:
        """Prefill a segment; where memory ends in halves, which give the same frames."""

        def whole() -> list[Prefilled]:
            return [self._inpainter.prefill(*job.inputs, on_progress=on_progress)]

        def halves() -> list[Prefilled]:
            first, second = job.halves()
            return [
                *self._prefill(first, part_of(on_progress, 0, 0.5)),
                *self._prefill(second, part_of(on_progress, 0.5, 1)),
            ]

        if self._run.budget.exceeds(job):
            return halves()
        if job.segment.num_frames == 1:
            return whole()
        return self._back_off.first_that_fits([whole, halves], self._inpainter.forget_motion)

    def _finish(self, job: Job, begun: Begun) -> list[Filled]:
        """Restore what the networks are for, in smaller jobs where memory ends; count and keep."""
        stages = self._stages
        part = part_of(stages.callback("filling"), *job.shares)
        stages("finding motion", job.shares[1])  # or what was found of it before
        if isinstance(begun, SegmentResult):
            result = begun
        else:
            result = SegmentResult([], Counts())
            for place, prefilled in enumerate(begun):
                shares = place / len(begun), (place + 1) / len(begun)
                restore = partial(
                    self._inpainter.restore, prefilled, on_progress=part_of(part, *shares)
                )
                restored = self._back_off.first_that_fits(
                    [restore] * _TRIES, self._inpainter.take_less_memory
                )
                result.frames.extend(restored.frames)
                result.counts.add(restored.counts)
            if self._store is not None:
                with self._counts.timed("keep"):
                    self._store.keep(self._store.key(job.segment, job.digests.values()), result)
                    self._store.work.forget(job.segment.stop - self._inpainter.halo)
        # What was computed has been shown by then.
        shows = result.counts.resumed_frames and stages.is_watched
        stages("filling", job.shares[1], result.frames[-1].whole() if shows else None)
        painted = sum(one.painted.num_pixels for one in job.outputs if one.painted is not None)
        self._counts.add(result.counts)
        self._counts.add(Counts(hole_pixels=painted, reference_pixels=painted))
        return result.frames
