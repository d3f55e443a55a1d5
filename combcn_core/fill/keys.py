"""Key frames, every eighth frame of a shot: frames registered to them, and how bright those are."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from combcn_core.fill.choose import SourceMap
from combcn_core.fill.levels import Levels
from combcn_core.fill.register import Registered, Small, Target, homography_of
from combcn_core.fill.settle import Settled
from combcn_core.fill.trace import SURE_ERROR, Trace, error_unit
from combcn_core.pixels import Array, Mask

# Frames between two key frames, for which sources are registered; and between two smooth fills of
# what was never seen, which are carried along between them.
KEY_STEP = 8
# Frames between two that are registered as sources; beyond NEAR_FRAMES, twice as many.
SOURCE_STEP, NEAR_FRAMES = 4, 16
UNSURE_SHARE = 0.01  # of a hole: where more is not sure, its frame wants sources
LEAST_SIDE_PIXELS = 64  # smaller frames have no room for features around a hole
# A sharp frame is looked for within SHARP_FRAMES; each frame farther off costs FAR_DETAIL.
SHARP_FRAMES, FAR_DETAIL = 6, 0.02
GAIN_STEPS = 2**40  # in a log gain of 1, where gains are summed up


class Key(NamedTuple):
    """What is known of a key frame: frames registered to it, and where its hole is seen."""

    number: int
    nearby: dict[int, Array]  # (3, 3), from the key frame to the frames nearby, both small
    log_gains: dict[int, Array]  # log(level of a source / level of the key frame), by source
    falloff: float = 0.0  # see `Levels`
    sources: SourceMap | None = None


def source_frames(t: int, span: range) -> set[int]:
    """Frames of a span that are registered to a key frame: farther from it they lie less dense."""
    step = {s: SOURCE_STEP if abs(s - t) <= NEAR_FRAMES else 2 * SOURCE_STEP for s in span}
    return {s for s in span if s != t and (s - t) % step[s] == 0}


def wants_sources(mask: Mask, found: Sequence[Trace]) -> bool:
    """Whether traces alone leave more than a little of a frame's hole unsure."""
    if min(mask.shape) < LEAST_SIDE_PIXELS or not mask.any() or mask.all():
        return False
    sure = np.zeros_like(mask)
    for trace in found:
        here = (trace.source >= 0) & (trace.error < SURE_ERROR * error_unit(mask))
        sure[trace.rows[here], trace.columns[here]] = True
    return bool(np.count_nonzero(mask & ~sure) > UNSURE_SHARE * np.count_nonzero(mask))


def register_sources(
    t: int,
    target: Target,
    smalls: Mapping[int, Small],
    motions: Mapping[int, Settled],
    span: range,
) -> tuple[Key, list[Registered]]:
    """Register the source frames of a key frame to it, each as bright as the key frame is.

    Args:
        t: the key frame.
        target: it, cut to its hole.
        smalls: it, its sources and the frames nearby.
        motions: between neighbouring frames, where registration begins.
        span: frames within reach.
    """
    sources = source_frames(t, span)
    nearby, views = {t: np.eye(3)}, []
    for step in (1, -1):
        homography, place = np.eye(3), t
        while place + step in span:
            motion = motions.get(place, (None, None))[0 if step == 1 else 1]
            if motion is None:
                break
            homography = homography_of(motion, smalls[t].scale) @ homography
            place += step
            if place in smalls and (place in sources or abs(place - t) < KEY_STEP):
                homography = target.align(smalls[place], homography)
            if abs(place - t) < KEY_STEP:
                nearby[place] = homography
            if place in sources:
                views.append(target.register(place, smalls[place], homography, bends=False))
    falloff = target.falloff(views)
    found: list[Registered] = []
    for view in views:
        # Where it cannot be measured it is that of the source before: sums would drift.
        goes_on = found and (found[-1].source - t) * (view.source - t) > 0
        gain = found[-1].log_gain if goes_on else np.zeros(3)
        found.append(target.level(view, falloff, gain))
    gains = {t: np.zeros(3)} | {one.source: one.log_gain for one in found}
    return Key(t, nearby, gains, falloff), found


def key_near(t: int, keys: Iterable[Key | None]) -> Key | None:
    """The key frame nearest to a frame, of those that have it nearby."""
    near = [one for one in keys if one is not None and t in one.nearby]
    return min(near, key=lambda one: (abs(one.number - t), one.number), default=None)


def nearest(numbers: Sequence[int], number: int) -> int:
    """The nearest of some numbers in rising order to one; the lower of two."""
    place = bisect_left(numbers, number)
    return min(numbers[max(place - 1, 0) : place + 1], key=lambda other: abs(other - number))


class LevelChain:
    """Log levels of frames, and how far places go off the centre from the one to the next, summed
    up from frame to frame, forward and backward.

    In whole numbers: sums are the same whichever frame they begin with.
    """

    def __init__(self, motions: Mapping[int, Settled], start: int, stop: int) -> None:
        """Sum up what motions between frames start to stop - 1 have measured."""
        steps = np.zeros((2, stop - start, 5), np.int64)
        for t in range(start, stop - 1):
            for side, motion in enumerate(
                (motions.get(t, (None, None))[0], motions.get(t + 1, (None, None))[1])
            ):
                if motion is not None:
                    light = np.array([*motion.log_gain, motion.outward, motion.log_detail])
                    steps[side, t + 1 - start] = np.rint(light * GAIN_STEPS)
        self._start = start
        self._sums = steps[0].cumsum(0), -steps[1].cumsum(0)

    def log_gain(self, t: int, other: int, falloff: float = 0.0) -> Array:
        """(3,): how much brighter another frame is, summed up over the frames between.

        Args:
            t, other: the frames.
            falloff: of the lens, see `Levels`: what it explains is no change of light.
        """
        light = self._between(t, other)
        return light[:3] - falloff * light[3]

    def log_detail(self, t: int, other: int) -> float:
        """log(detail of another frame / detail of a frame), see `blur`."""
        return float(self._between(t, other)[4])

    def sharpest(self, t: int) -> int:
        """The sharpest of the frames near one."""
        stop = self._start + len(self._sums[0])
        near = range(max(self._start, t - SHARP_FRAMES), min(stop, t + SHARP_FRAMES + 1))
        gains = {s: self.log_detail(t, s) - FAR_DETAIL * abs(s - t) for s in near}
        return max(near, key=lambda s: (gains[s], -abs(s - t), s))

    def _between(self, t: int, other: int) -> Array:
        """(5,): log levels, the way off the centre, and log detail, from a frame to another."""
        sums = self._sums[0 if other > t else 1]
        return (sums[other - self._start] - sums[t - self._start]) / GAIN_STEPS

    def levels(self, t: int, sources: Iterable[int], key: Key | None) -> Levels:
        """How much brighter sources are than a frame.

        Sums over many frames drift. So levels of sources far away are those measured directly from
        a key frame nearby, where there is one.
        """
        falloff = 0.0 if key is None else key.falloff
        numbers = [] if key is None else sorted(key.log_gains)

        def log_gain(source: int) -> Array:
            if key is None or abs(source - t) <= KEY_STEP:
                return self.log_gain(t, source, falloff)
            near = nearest(numbers, source)
            to_key = self.log_gain(t, key.number, falloff)
            return to_key + key.log_gains[near] + self.log_gain(near, source, falloff)

        return self.of(t, {source: log_gain(source) for source in sources}, falloff)

    def of(self, t: int, log_gains: Mapping[int, Array], falloff: float) -> Levels:
        """Levels of sources, and how sharp these are beside a frame."""
        return Levels(log_gains, falloff, {s: self.log_detail(t, s) for s in log_gains})
