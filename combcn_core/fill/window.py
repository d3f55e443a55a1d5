"""Consecutive frames of one shot, and the way of their holes through the stages of `fill`."""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from combcn_core.fill.choose import best_sources, candidate_of_traces, candidates_of, choose
from combcn_core.fill.early import (
    SETTLE_FRAMES,
    EarlyMotion,
    Raw,
    Settled,
    motion_between,
    settled_motions,
)
from combcn_core.fill.keys import (
    KEY_STEP,
    SHARP_FRAMES,
    Key,
    LevelChain,
    key_near,
    register_sources,
    source_frames,
    wants_sources,
)
from combcn_core.fill.levels import Levels
from combcn_core.fill.merge import REGISTERED_SHARE, Sighting, merge
from combcn_core.fill.motion import Motion, speed
from combcn_core.fill.plate import Plate, stands_still
from combcn_core.fill.register import Small, Target
from combcn_core.fill.settle import SETTLE_ROUNDS
from combcn_core.fill.smooth import fill_quickly, fill_smoothly
from combcn_core.fill.threads import one_thread, parallel
from combcn_core.fill.trace import (
    MAX_CHOSEN_ERROR,
    MAX_ERROR,
    RING_PIXELS,
    Nearness,
    Trace,
    count_ends,
    error_unit,
    gather,
    nearness_of,
    trace,
)
from combcn_core.pixels import (
    Array,
    Box,
    Mask,
    PackedMask,
    PackedMasks,
    Patch,
    Pixels,
    Stored,
    crop_box,
    union,
)
from combcn_core.progress import OnShare, follow, part_of

PROPAGATE_MARGIN = SETTLE_ROUNDS + 2  # frames beyond `reach` that a propagated frame depends on


class Memo(Protocol):
    """Keeps what was found of a frame, which depends on some frames around it."""

    def find(self, what: str, t: int, frames: range) -> Any: ...

    def keep(self, what: str, t: int, frames: range, value: Any) -> None: ...


class Window:
    """Consecutive frames of one shot, and the motion between them, found once."""

    def __init__(self, reach: int, memo: Memo | None = None) -> None:
        self.reach = reach
        self.memo = memo
        self.start = 0
        self.frames: Sequence[Stored] = []
        self.masks = PackedMasks([])
        self._wanted = (0, 0)
        # The same threads throughout: memory that new ones would take is not given back.
        self.workers = parallel(max(1, min(8, os.cpu_count() or 1)))
        self.early = EarlyMotion(self.workers)
        self._raw: dict[int, Raw] = {}
        self._settled: dict[int, Settled] = {}
        self._light = LevelChain({}, 0, 1)
        self._readable: dict[int, Patch] = {}
        self._nearness: dict[int, Nearness] = {}
        self._keys: dict[int, Key | None] = {}
        self._propagated: dict[int, tuple[Patch, PackedMask]] = {}
        self.textures: dict[int, Patch] = {}  # see `carry`
        self.painted: Mapping[int, PackedMask] = {}  # where somebody painted a frame
        # Pixels that a painted frame shows of the holes of others: {frame: {painted one: pixels}}.
        self.travelled: dict[int, dict[int, int]] = {}

    @property
    def _kept(self) -> tuple[dict[int, Any], ...]:
        return (
            self._raw,
            self._settled,
            self._readable,
            self._nearness,
            self._keys,
            self._propagated,
            self.travelled,
        )

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
        """Look at other frames; what is known of the motion between those that stay is kept."""
        same = self.start <= start < self.stop and self.frames[start - self.start] is frames[0]
        if not same:
            for kept in self._kept:
                kept.clear()
            self.textures = {}  # the old ones may still be in use
        self.start, self.frames, self.masks = start, frames, PackedMasks.of(masks)
        self._wanted = wanted_start, wanted_stop
        self._forget()
        raw, settled = self.early.take(self.start, self.stop)
        self._raw, self._settled = raw | self._raw, settled | self._settled

    def trim(self, start: int) -> None:
        """Let go of the frames before one that the next segment begins with, or a later one."""
        first = max(0, min(start, self.stop - 1) - self.start)
        self.start, self.frames, self.masks = (
            self.start + first,
            self.frames[first:],
            self.masks[first:],
        )
        self._forget()

    def _forget(self) -> None:
        """Let go of what is known of frames that are not held."""
        for kept in self._kept:
            for t in [t for t in kept if not self.start <= t < self.stop]:
                del kept[t]

    def find_motions(self, propagates: bool = True, on_progress: OnShare | None = None) -> None:
        """Motion of every pair of frames that the wanted ones depend on."""
        reach = self._distance(propagates)
        low = max(self.start, self._wanted[0] - reach)
        high = min(self.stop, self._wanted[1] + reach)
        self._recall("motion", range(low, high), SETTLE_ROUNDS + 1, self._settled)
        missing = [t for t in range(low, high) if t not in self._settled]
        for done in range(0, len(missing), SETTLE_FRAMES):
            some = missing[done : done + SETTLE_FRAMES]
            part = part_of(on_progress, done / len(missing), (done + len(some)) / len(missing))
            self._find_some(some, part)
        self._light = LevelChain(self._settled, self.start, self.stop)

    def _find_some(self, missing: Sequence[int], on_progress: OnShare | None) -> None:
        near = {t + step for t in missing for step in range(-SETTLE_ROUNDS - 1, SETTLE_ROUNDS + 1)}
        needed = sorted(near.intersection(range(self.start, self.stop - 1)))
        pairs = [t for t in needed if t not in self._raw]
        with one_thread():
            found = follow(self.workers.map(self._find_motion, pairs), len(pairs), on_progress)
            self._raw.update(zip(pairs, found, strict=True))
            raw = {t: self._raw[t] for t in needed}
            settled = settled_motions(raw, missing, self.workers.map)
        self._settled |= settled
        for t, both in settled.items():
            self._memorise("motion", t, SETTLE_ROUNDS + 1, both)
        for t in [t for t in self._raw if t < missing[-1] - SETTLE_ROUNDS - 2]:
            del self._raw[t]

    def _recall(self, what: str, span: Iterable[int], distance: int, into: dict[int, Any]) -> None:
        """Take from the memo what it has of frames: it depends on those at a distance, at most."""
        if self.memo is None:
            return
        for t in span:
            if t not in into:
                value = self.memo.find(what, t, range(t - distance, t + distance + 1))
                if value is not None:
                    into[t] = value

    def _memorise(self, what: str, t: int, distance: int, value: Any) -> None:
        if self.memo is not None:
            self.memo.keep(what, t, range(t - distance, t + distance + 1), value)

    def _find_motion(self, t: int) -> Raw:
        return motion_between(self.frame(t), self.frame(t + 1), self.hole(t), self.hole(t + 1))

    def unfilled(self, start: int, stop: int) -> dict[int, tuple[Patch, PackedMask]]:
        """Frames as they are, and all of their holes."""
        span = range(start, stop)
        return {t: (self.patch(t), self.hole(t)) for t in span}

    def propagated(
        self, start: int, stop: int, shot_start: int, on_progress: OnShare | None = None
    ) -> dict[int, tuple[Patch, PackedMask]]:
        """Frames filled with what is seen of their holes elsewhere, and what remains of these."""
        self._recall_fills(start, stop, shot_start)
        missing = [t for t in range(start, stop) if t not in self._propagated]
        if missing:
            self.find_motions(on_progress=part_of(on_progress, 0, 0.5))
            self._propagate(missing[0], missing[-1] + 1, shot_start, part_of(on_progress, 0.5, 1))
        for t in [t for t in self._propagated if t < start]:
            del self._propagated[t]
        return {t: self._propagated[t] for t in range(start, stop)}

    def _recall_fills(self, start: int, stop: int, shot_start: int) -> None:
        """Take from the memo frames that were filled, and the key frames around them."""
        distance = self.halo(True)
        low, high = max(self.start, start - KEY_STEP), min(self.stop, stop + KEY_STEP)
        near = [t for t in range(low, high) if (t - shot_start) % KEY_STEP == 0]
        keys = {t: (key,) for t, key in self._keys.items()}
        self._recall("key", near, distance, keys)
        self._keys.update({t: key for t, (key,) in keys.items()})
        lacking = [t for t in near if t not in self._keys]
        sure = [t for t in range(start, stop) if all(abs(t - key) > KEY_STEP for key in lacking)]
        found: dict[int, tuple[Box, Pixels, PackedMask, dict[int, int]]] = {}
        self._recall("fill", [t for t in sure if t not in self._propagated], distance, found)
        for t, (box, part, remaining, self.travelled[t]) in found.items():
            self._propagated[t] = Patch(self.frame(t), box, part), remaining

    def _propagate(
        self, start: int, stop: int, shot_start: int, on_progress: OnShare | None
    ) -> None:
        low, high = max(self.start, start - KEY_STEP), min(self.stop, stop + KEY_STEP)
        new = [t for t in range(low, high) if t not in self._keys]
        new = [t for t in new if (t - shot_start) % KEY_STEP == 0]
        low, high = min([start, *new]), max([stop - 1, *new]) + 1
        span = range(max(self.start, low - self.reach), min(self.stop, high + self.reach))
        plates = dict(self._plates(start, stop))
        with one_thread():
            unread = [t for t in span if t not in self._readable]
            filled = self.workers.map(self._fill_quickly, unread)
            self._readable.update(zip(unread, filled, strict=True))
            nearness = self.workers.map(lambda t: Nearness.of(self.mask(t)), unread)
            self._nearness.update(zip(unread, nearness, strict=True))
            paths = self._traces(self.mask, span, low, high, self.reach)
            self._find_keys(new, paths, part_of(on_progress, 0, 0.4))

            def fill(t: int) -> tuple[Patch, PackedMask]:
                patch, remaining = self._fill(t, paths[t], plates.get(t))
                value = patch.box, patch.part, remaining, self.travelled.get(t, {})
                self._memorise("fill", t, self.halo(True), value)
                return patch, remaining

            wanted = range(start, stop)
            part = part_of(on_progress, 0.4, 1)
            done = follow(self.workers.map(fill, wanted), len(wanted), part)
            self._propagated.update(zip(wanted, done, strict=True))

    def _fill_quickly(self, t: int) -> Patch:
        return fill_quickly(self.patch(t), self.mask(t))

    def _fill(
        self, t: int, paths: Sequence[Trace], plate: tuple[Trace, Array] | None
    ) -> tuple[Patch, PackedMask]:
        """A frame filled with what traces, a plate and the key frames nearby show of its hole."""
        mask = self.mask(t)
        if not mask.any():
            return self.patch(t), PackedMask.of(mask)
        limit = MAX_ERROR * error_unit(mask)

        def sighting(
            path: Trace, levels: Levels, fade: float = 1.0, share: float = 1.0
        ) -> Sighting:
            colors = gather(path, self._readable, levels)
            near = nearness_of(path, self._nearness)
            return Sighting(path, colors, near, fade, share, levels.log_detail(path.source))

        found = [sighting(path, self._levels(t, path)) for path in (p.within(limit) for p in paths)]
        if plate is not None:
            found.append(Sighting(*plate, np.zeros(len(plate[0].rows), np.float32)))
        for _, key in sorted(self._keys.items()):
            if key is None or key.sources is None or t not in key.nearby:
                continue
            path, offset = key.sources.sight(mask, key.nearby[t])
            to_key = self._light.log_gain(t, key.number, key.falloff)
            gains = {s: to_key + gain for s, gain in key.sources.log_gains.items()}
            levels = self._light.of(t, gains, key.falloff)
            one = sighting(path, levels, 1 - abs(key.number - t) / KEY_STEP, REGISTERED_SHARE)
            found.append(one._replace(colors=one.colors + offset))
        filled, remaining = merge(self.patch(t), mask, found, self.speed(t))
        if self.painted:
            traced = [one.path for one in found if plate is None or one.path is not plate[0]]
            self.travelled[t] = count_ends(mask & ~remaining, traced, self.painted)
        return filled, PackedMask.of(remaining)

    def sharpest(self, t: int) -> int:
        """The sharpest of the frames near one; -1 if that one is not held."""
        return self._light.sharpest(t) if self.start <= t < self.stop else -1

    def speed(self, t: int) -> Array:
        """(2,): how far the background of a hole goes in the time of a frame, along x and y."""
        box = self.hole(t).box
        return np.zeros(2) if box is None else speed(self._settled.get(t, (None, None)), box)

    def _find_keys(
        self, keys: Sequence[int], paths: Mapping[int, Sequence[Trace]], on_progress: OnShare | None
    ) -> None:
        """Where the holes of key frames are seen, in frames registered to them."""
        self._keys.update(dict.fromkeys(keys))
        some = [t for t in keys if wants_sources(self.mask(t), paths[t])]
        for t in set(keys).difference(some):
            self._memorise("key", t, self.halo(True), (None,))
        keys = some
        colored = {s for t in keys for s in (t, *source_frames(t, self._span(t)))}
        nearby = {s for t in keys for s in self._span(t) if abs(s - t) < KEY_STEP}
        wanted = sorted(colored | nearby)

        def small(t: int) -> Small:
            return Small.of(self.frame(t), self.mask(t), is_colored=t in colored)

        smalls = dict(zip(wanted, self.workers.map(small, wanted), strict=True))

        def find(t: int) -> Key:
            key = self._find_key(t, smalls, paths[t])
            self._memorise("key", t, self.halo(True), (key,))
            return key

        found = self.workers.map(find, keys)
        self._keys.update(zip(keys, follow(found, len(keys), on_progress), strict=True))

    def _find_key(self, t: int, smalls: Mapping[int, Small], paths: Sequence[Trace]) -> Key:
        target, unit = Target(smalls[t]), error_unit(self.mask(t))
        details = {s: self._light.log_detail(t, s) for s in source_frames(t, self._span(t))}
        key, found = register_sources(t, target, smalls, self._settled, self._span(t))
        if first := candidates_of(target, t, found, self._nearness, details):
            best = [found[place] for place in best_sources(target, first)]
            found = [
                target.level(
                    target.register(one.source, smalls[one.source], one.homography, bends=True),
                    key.falloff,
                    one.log_gain,
                )
                for one in best
            ]
        candidates = candidates_of(target, t, found, self._nearness, details)
        for path in paths:
            path = path.within(MAX_CHOSEN_ERROR * unit)
            levels = self._light.levels(t, path.ends(), key)
            colors = gather(path, self._readable, levels)
            near = nearness_of(path, self._nearness)
            candidates.append(candidate_of_traces(target, path, colors, near, levels, unit))
        return key._replace(sources=choose(target, candidates, unit)) if candidates else key

    def _span(self, t: int) -> range:
        """Frames within reach."""
        return range(max(self.start, t - self.reach), min(self.stop, t + self.reach + 1))

    def _levels(self, t: int, path: Trace) -> Levels:
        """How much brighter the sources of a trace are than frame t."""
        return self._light.levels(t, path.ends(), key_near(t, self._keys.values()))

    def levels(self, t: int, source: int) -> Levels:
        """How much brighter a source is than frame t, once these are propagated."""
        return self._light.levels(t, [source], key_near(t, self._keys.values()))

    def ways(
        self,
        given: Mapping[int, tuple[Patch, PackedMask]],
        keys: Collection[int],
        start: int,
        stop: int,
        reach: int,
    ) -> dict[int, list[tuple[Trace, Levels]]]:
        """Traces, with levels, from what remains in frames to keys or to what is known nearer.

        Of frames start to stop - 1, forward and backward in time; keys have none.
        """

        def hole_of(t: int) -> Mask:
            hole = given[t][1]
            return np.zeros(hole.shape, bool) if t in keys else hole.whole()

        # No trace goes on beyond a key.
        first = max((t for t in keys if t <= start), default=min(given))
        last = min((t for t in keys if t >= stop - 1), default=max(given))
        paths = self._traces(hole_of, range(first, last + 1), start, stop, reach)
        return {t: [(path, self._levels(t, path)) for path in some] for t, some in paths.items()}

    def _plates(self, start: int, stop: int) -> Iterator[tuple[int, tuple[Trace, Array]]]:
        """What a still camera shows of the holes of frames start to stop - 1 within reach."""
        plate: Plate | None = None
        for t in range(start, stop):
            low = stands_still(self._settled, t, max(self.start, t - self.reach))
            high = stands_still(self._settled, t, min(self.stop - 1, t + self.reach))
            if high > low and self.hole(t).box is not None:
                plate = plate or self._plate(start, stop)
                plate.look(range(low, high + 1))
                yield t, plate.sight(self.mask(t))

    def _plate(self, start: int, stop: int) -> Plate:
        """An empty one, for the holes of frames start to stop - 1 and the rings around them."""
        holes = [box for t in range(start, stop) if (box := self.hole(t).box) is not None]
        box = crop_box(functools.reduce(union, holes), RING_PIXELS, 1, *self.hole(start).shape)
        return Plate(lambda t: (self.frame(t), self.mask(t)), box)

    def fill_unseen(
        self,
        given: Mapping[int, tuple[Patch, PackedMask]],
        start: int,
        stop: int,
        shot_start: int,
        on_progress: OnShare | None = None,
    ) -> dict[int, Patch]:
        """Fill what remains in frames start to stop - 1, without networks."""
        if not any(hole.num_pixels for _, hole in given.values()):
            return {t: given[t][0] for t in range(start, stop)}
        self.find_motions(False, part_of(on_progress, 0, 0.8))
        keys = {
            t
            for t, (_, hole) in given.items()
            if (t - shot_start) % KEY_STEP == 0 and hole.num_pixels < math.prod(hole.shape)
        }

        def hole_of(t: int) -> Mask:
            hole = given[t][1]
            return np.zeros(hole.shape, bool) if t in keys else hole.whole()

        def own_fill(t: int) -> Patch:
            frame, hole = given[t]
            return (fill_smoothly if t in keys else fill_quickly)(frame, hole.whole())

        with one_thread():
            frames = dict(zip(given, self.workers.map(own_fill, given), strict=True))
        paths = self._traces(hole_of, given, start, stop, KEY_STEP)

        def fill(t: int) -> Patch:
            hole = hole_of(t)
            if not hole.any():
                return frames[t]
            found = []
            for path in paths[t]:
                colors = gather(path, frames, self._levels(t, path))
                # Where the next key shows nothing at all, the one before it counts to the end.
                fade = np.maximum(1 - np.abs(path.source - t) / KEY_STEP, 0.01).astype(np.float32)
                found.append(Sighting(path, colors, fade=fade))
            return merge(frames[t], hole, found)[0]

        with one_thread():
            done = follow(self.workers.map(fill, paths), len(paths), part_of(on_progress, 0.8, 1))
            return dict(zip(paths, done, strict=True))

    def _traces(
        self,
        hole_of: Callable[[int], Mask],
        known: Collection[int],
        start: int,
        stop: int,
        reach: int,
    ) -> dict[int, list[Trace]]:
        """Traces forward and backward in time of frames start to stop - 1, through known holes."""
        low, high = min(known), max(known)
        forward = {t: pair[0] for t, pair in self._settled.items() if pair[0] is not None}
        backward = {t: pair[1] for t, pair in self._settled.items() if pair[1] is not None}
        paths: dict[int, list[Trace]] = {t: [] for t in range(start, stop)}
        down = range(min(high, stop - 1 + reach), start - 1, -1)
        up = range(max(low, start - reach), stop)

        def one_way(motions: Mapping[int, Motion], order: range) -> dict[int, Trace]:
            return {t: path for t, path in trace(motions, hole_of, order, reach) if t in paths}

        for found in self.workers.map(one_way, (forward, backward), (down, up)):
            for t, path in found.items():
                paths[t].append(path)
        return paths
