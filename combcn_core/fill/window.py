"""Consecutive frames of one shot with their holes, and the motion between them."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from combcn_core.fill.early import SETTLE_FRAMES, EarlyMotion, motion_between
from combcn_core.fill.keys import KEY_STEP, SHARP_FRAMES, Key, LevelChain, key_near
from combcn_core.fill.levels import Levels
from combcn_core.fill.motion import Motion, speed
from combcn_core.fill.settle import SETTLE_ROUNDS, Raw, Settled, settled_motions
from combcn_core.fill.threads import one_thread, parallel
from combcn_core.fill.trace import Trace, trace
from combcn_core.pixels import Array, Mask, PackedMask, PackedMasks, Patch, Stored
from combcn_core.progress import OnShare, part_of, report_each

PROPAGATE_MARGIN = SETTLE_ROUNDS + 2  # frames beyond `reach` that a propagated frame depends on


class Memo(Protocol):
    """Keeps what was found of a frame, which depends on some frames around it."""

    def find(self, what: str, t: int, frames: range) -> Any: ...

    def keep(self, what: str, t: int, frames: range, value: Any) -> None: ...


class PartlyFilled(NamedTuple):
    """A frame filled as far as is known, and what remains of its hole."""

    frame: Patch
    remaining: PackedMask


class Window:
    """Consecutive frames of one shot with their holes, and the motion between them, found once."""

    def __init__(self, reach: int, memo: Memo | None = None) -> None:
        """Begin without frames: see `slide`.

        Args:
            reach: frames that a pixel may be carried, at most.
            memo: keeps what is found beyond the life of this process.
        """
        self.reach = reach
        self.memo = memo
        self.start = 0
        self.frames: Sequence[Stored] = []
        self.masks = PackedMasks([])
        self._wanted = (0, 0)
        # The same threads throughout: memory that new ones would take is not given back.
        self.workers = parallel(max(1, min(8, os.cpu_count() or 1)))
        self.early = EarlyMotion(self.workers)
        self._by_frame: list[dict[int, Any]] = []
        self._measured: dict[int, Raw] = self.by_frame()
        self.motions: dict[int, Settled] = self.by_frame()
        self.keys: dict[int, Key | None] = self.by_frame()  # found by `Propagation`
        self.level_chain = LevelChain({}, 0, 1)
        self.textures: dict[int, Patch] = {}  # see `carry`

    def by_frame(self) -> dict[int, Any]:
        """A dictionary that forgets the frames that are no longer held."""
        self._by_frame.append({})
        return self._by_frame[-1]

    def halo(self, propagates: bool) -> int:
        """Frames beyond those to be filled that the result depends on."""
        return self._distance(propagates) + PROPAGATE_MARGIN

    def _distance(self, propagates: bool) -> int:
        """Frames that traces and the judgement of their ends reach out."""
        # A sharp frame and those that are compared with it lie within twice as many.
        texture = max(KEY_STEP, 2 * SHARP_FRAMES)
        return 1 + (KEY_STEP + max(self.reach, KEY_STEP) if propagates else texture)

    @property
    def stop(self) -> int:
        return self.start + len(self.frames)

    def frame(self, t: int) -> Stored:
        return self.frames[t - self.start]

    def patch(self, t: int) -> Patch:
        """A frame with nothing replaced."""
        return Patch.of(self.frame(t))

    def mask(self, t: int) -> Mask:
        return self.masks[t - self.start]

    def hole(self, t: int) -> PackedMask:
        return self.masks.packed[t - self.start]

    def slide(
        self,
        start: int,
        frames: Sequence[Stored],
        masks: Sequence[Mask],
        wanted_start: int,
        wanted_stop: int,
    ) -> None:
        """Hold other frames; what is known of those that stay is kept.

        Args:
            start: number of the first frame.
            frames: of one shot, in order.
            masks: theirs.
            wanted_start, wanted_stop: the frames to be filled, wanted_start to wanted_stop - 1.
        """
        same = self.start <= start < self.stop and self.frames[start - self.start] is frames[0]
        if not same:
            for kept in self._by_frame:
                kept.clear()
            self.textures = {}  # the old ones may still be in use
        self.start, self.frames, self.masks = start, frames, PackedMasks.of(masks)
        self._wanted = wanted_start, wanted_stop
        self._forget()
        measured, settled = self.early.take(self.start, self.stop)
        self._measured.update(measured | self._measured)
        self.motions.update(settled | self.motions)

    def trim(self, start: int) -> None:
        """Drop the frames before `start`, but never the last one."""
        first = max(0, min(start, self.stop - 1) - self.start)
        self.start += first
        self.frames, self.masks = self.frames[first:], self.masks[first:]
        self._forget()

    def _forget(self) -> None:
        """Drop what is known of frames that are not held."""
        for kept in self._by_frame:
            for t in [t for t in kept if not self.start <= t < self.stop]:
                del kept[t]

    def unfilled(self, start: int, stop: int) -> dict[int, PartlyFilled]:
        """Frames as they are, and all of their holes."""
        return {t: PartlyFilled(self.patch(t), self.hole(t)) for t in range(start, stop)}

    def find_motions(self, propagates: bool = True, on_progress: OnShare | None = None) -> None:
        """Find the motion of every pair of frames that the wanted ones depend on."""
        reach = self._distance(propagates)
        low = max(self.start, self._wanted[0] - reach)
        high = min(self.stop, self._wanted[1] + reach)
        self.recall("motion", range(low, high), SETTLE_ROUNDS + 1, self.motions)
        missing = [t for t in range(low, high) if t not in self.motions]
        for done in range(0, len(missing), SETTLE_FRAMES):
            some = missing[done : done + SETTLE_FRAMES]
            part = part_of(on_progress, done / len(missing), (done + len(some)) / len(missing))
            self._settle(some, part)
        self.level_chain = LevelChain(self.motions, self.start, self.stop)

    def _settle(self, missing: Sequence[int], on_progress: OnShare | None) -> None:
        """Measure what the motion of these frames depends on, and make it consistent in time."""
        near = {t + step for t in missing for step in range(-SETTLE_ROUNDS - 1, SETTLE_ROUNDS + 1)}
        needed = sorted(near.intersection(range(self.start, self.stop - 1)))
        pairs = [t for t in needed if t not in self._measured]
        with one_thread():
            found = report_each(self.workers.map(self._measure, pairs), len(pairs), on_progress)
            self._measured.update(zip(pairs, found, strict=True))
            measured = {t: self._measured[t] for t in needed}
            settled = settled_motions(measured, missing, self.workers.map)
        self.motions |= settled
        for t, both in settled.items():
            self.memorise("motion", t, SETTLE_ROUNDS + 1, both)
        for t in [t for t in self._measured if t < missing[-1] - SETTLE_ROUNDS - 2]:
            del self._measured[t]

    def recall(self, what: str, span: Iterable[int], distance: int, into: dict[int, Any]) -> None:
        """Take from the memo what it has of frames: it depends on those at a distance, at most."""
        if self.memo is None:
            return
        for t in span:
            if t not in into:
                value = self.memo.find(what, t, range(t - distance, t + distance + 1))
                if value is not None:
                    into[t] = value

    def memorise(self, what: str, t: int, distance: int, value: Any) -> None:
        if self.memo is not None:
            self.memo.keep(what, t, range(t - distance, t + distance + 1), value)

    def _measure(self, t: int) -> Raw:
        return motion_between(self.frame(t), self.frame(t + 1), self.hole(t), self.hole(t + 1))

    def sharpest(self, t: int) -> int:
        """The sharpest of the frames near one; -1 if that one is not held."""
        return self.level_chain.sharpest(t) if self.start <= t < self.stop else -1

    def speed(self, t: int) -> Array:
        """(2,): how far the background of a hole goes in the time of a frame, along x and y."""
        box = self.hole(t).box
        return np.zeros(2) if box is None else speed(self.motions.get(t, (None, None)), box)

    def levels(self, t: int, sources: Iterable[int]) -> Levels:
        """How much brighter sources are than frame t; surer where key frames are known."""
        return self.level_chain.levels(t, sources, key_near(t, self.keys.values()))

    def ways(
        self,
        known: Mapping[int, tuple[Patch, PackedMask]],
        ends: Collection[int],
        start: int,
        stop: int,
        reach: int,
    ) -> dict[int, list[tuple[Trace, Levels]]]:
        """Traces, with levels, from what remains in frames to the nearest place that is known.

        Args:
            known: frames, partly filled, and what remains of their holes.
            ends: those where every trace ends, as all of them will be filled.
            start, stop: traces of frames start to stop - 1, forward and backward in time; `ends`
                have none.
            reach: frames from one to the end of its trace, at most.
        """

        def hole_of(t: int) -> Mask:
            hole = known[t][1]
            return np.zeros(hole.shape, bool) if t in ends else hole.whole()

        first = max((t for t in ends if t <= start), default=min(known))
        last = min((t for t in ends if t >= stop - 1), default=max(known))
        found = self.traces(hole_of, range(first, last + 1), start, stop, reach)
        return {t: [(one, self.levels(t, one.ends())) for one in both] for t, both in found.items()}

    def traces(
        self,
        hole_of: Callable[[int], Mask],
        known: Collection[int],
        start: int,
        stop: int,
        reach: int,
    ) -> dict[int, list[Trace]]:
        """Follow the holes of frames start to stop - 1 forward and backward through known ones."""
        low, high = min(known), max(known)
        forward = {t: pair[0] for t, pair in self.motions.items() if pair[0] is not None}
        backward = {t: pair[1] for t, pair in self.motions.items() if pair[1] is not None}
        found: dict[int, list[Trace]] = {t: [] for t in range(start, stop)}
        down = range(min(high, stop - 1 + reach), start - 1, -1)
        up = range(max(low, start - reach), stop)

        def one_way(motions: Mapping[int, Motion], order: range) -> dict[int, Trace]:
            return {t: one for t, one in trace(motions, hole_of, order, reach) if t in found}

        for traces in self.workers.map(one_way, (forward, backward), (down, up)):
            for t, one in traces.items():
                found[t].append(one)
        return found
