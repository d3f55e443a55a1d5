"""Frames filled with what other frames show of their holes."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from combcn_core.fill.choose import best_sources, candidate_of_traces, candidates_of, choose
from combcn_core.fill.keys import KEY_STEP, Key, register_sources, source_frames, wants_sources
from combcn_core.fill.levels import Levels
from combcn_core.fill.merge import REGISTERED_SHARE, Sighting, merge
from combcn_core.fill.plate import Plate, stands_still
from combcn_core.fill.register import Small, Target
from combcn_core.fill.smooth import fill_quickly
from combcn_core.fill.threads import one_thread
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
)
from combcn_core.fill.window import PartlyFilled, Window
from combcn_core.pixels import Array, Box, PackedMask, Patch, Pixels, crop_box, union
from combcn_core.progress import OnShare, part_of, report_each


class Propagation:
    """Carries known pixels into the holes of a window's frames."""

    def __init__(self, window: Window) -> None:
        self.window = window
        self.painted: Mapping[int, PackedMask] = {}  # where somebody painted a frame
        # Pixels that a painted frame shows of the holes of others: {frame: {painted one: pixels}}.
        self.travelled: dict[int, dict[int, int]] = window.by_frame()
        self._filled: dict[int, PartlyFilled] = window.by_frame()
        # Frames to take colours from: near the edge of a hole these mix with what is inside.
        self._sampled: dict[int, Patch] = window.by_frame()
        self._nearness: dict[int, Nearness] = window.by_frame()

    def fill(
        self, start: int, stop: int, shot_start: int, on_progress: OnShare | None = None
    ) -> dict[int, PartlyFilled]:
        """Fill frames start to stop - 1 as far as something is seen and sure."""
        self._recall(start, stop, shot_start)
        missing = [t for t in range(start, stop) if t not in self._filled]
        if missing:
            self.window.find_motions(on_progress=part_of(on_progress, 0, 0.5))
            part = part_of(on_progress, 0.5, 1)
            self._fill_missing(missing[0], missing[-1] + 1, shot_start, part)
        for t in [t for t in self._filled if t < start]:
            del self._filled[t]
        return {t: self._filled[t] for t in range(start, stop)}

    def _recall(self, start: int, stop: int, shot_start: int) -> None:
        """Take from the memo frames that were filled, and the key frames around them."""
        window, distance = self.window, self.window.halo(True)
        low, high = max(window.start, start - KEY_STEP), min(window.stop, stop + KEY_STEP)
        near = [t for t in range(low, high) if (t - shot_start) % KEY_STEP == 0]
        keys = {t: (key,) for t, key in window.keys.items()}
        window.recall("key", near, distance, keys)
        window.keys.update({t: key for t, (key,) in keys.items()})
        lacking = [t for t in near if t not in window.keys]
        sure = [t for t in range(start, stop) if all(abs(t - key) > KEY_STEP for key in lacking)]
        found: dict[int, tuple[Box, Pixels, PackedMask, dict[int, int]]] = {}
        window.recall("fill", [t for t in sure if t not in self._filled], distance, found)
        for t, (box, part, remaining, self.travelled[t]) in found.items():
            self._filled[t] = PartlyFilled(Patch(window.frame(t), box, part), remaining)

    def _fill_missing(
        self, start: int, stop: int, shot_start: int, on_progress: OnShare | None
    ) -> None:
        """Find out where holes are seen, and fill frames start to stop - 1."""
        window = self.window
        low, high = max(window.start, start - KEY_STEP), min(window.stop, stop + KEY_STEP)
        new = [t for t in range(low, high) if t not in window.keys]
        new = [t for t in new if (t - shot_start) % KEY_STEP == 0]
        low, high = min([start, *new]), max([stop - 1, *new]) + 1
        span = range(max(window.start, low - window.reach), min(window.stop, high + window.reach))
        plates = dict(self._plates(start, stop))
        with one_thread():
            unread = [t for t in span if t not in self._sampled]
            sampled = window.workers.map(
                lambda t: fill_quickly(window.patch(t), window.mask(t)), unread
            )
            self._sampled.update(zip(unread, sampled, strict=True))
            nearness = window.workers.map(lambda t: Nearness.of(window.mask(t)), unread)
            self._nearness.update(zip(unread, nearness, strict=True))
            traces = window.traces(window.mask, span, low, high, window.reach)
            self._add_keys(new, traces, part_of(on_progress, 0, 0.4))

            def fill(t: int) -> PartlyFilled:
                frame, remaining = filled = self._fill_frame(t, traces[t], plates.get(t))
                value = frame.box, frame.part, remaining, self.travelled.get(t, {})
                window.memorise("fill", t, window.halo(True), value)
                return filled

            wanted = range(start, stop)
            part = part_of(on_progress, 0.4, 1)
            done = report_each(window.workers.map(fill, wanted), len(wanted), part)
            self._filled.update(zip(wanted, done, strict=True))

    def _fill_frame(
        self, t: int, traces: Sequence[Trace], plate: tuple[Trace, Array] | None
    ) -> PartlyFilled:
        """Fill a frame with what traces, a plate and the key frames nearby show of its hole."""
        window = self.window
        frame, mask = window.patch(t), window.mask(t)
        if not mask.any():
            return PartlyFilled(frame, PackedMask.of(mask))
        limit = MAX_ERROR * error_unit(mask)

        def sighting(
            trace: Trace, levels: Levels, fade: float = 1.0, share: float = 1.0
        ) -> Sighting:
            colors = gather(trace, self._sampled, levels)
            near = nearness_of(trace, self._nearness)
            return Sighting(trace, colors, near, fade, share, levels.log_detail(trace.source))

        sure = [trace.within(limit) for trace in traces]
        found = [sighting(trace, window.levels(t, trace.ends())) for trace in sure]
        if plate is not None:
            found.append(Sighting(*plate, np.zeros(len(plate[0].rows), np.float32)))
        for _, key in sorted(window.keys.items()):
            if key is None or key.sources is None or t not in key.nearby:
                continue
            trace, offset = key.sources.sight(mask, key.nearby[t])
            to_key = window.level_chain.log_gain(t, key.number, key.falloff)
            gains = {s: to_key + gain for s, gain in key.sources.log_gains.items()}
            levels = window.level_chain.of(t, gains, key.falloff)
            one = sighting(trace, levels, 1 - abs(key.number - t) / KEY_STEP, REGISTERED_SHARE)
            found.append(one._replace(colors=one.colors + offset))
        filled, remaining = merge(frame, mask, found, window.speed(t))
        if self.painted:
            traced = [one.path for one in found if plate is None or one.path is not plate[0]]
            self.travelled[t] = count_ends(mask & ~remaining, traced, self.painted)
        return PartlyFilled(filled, PackedMask.of(remaining))

    def _add_keys(
        self, new: Sequence[int], traces: Mapping[int, Sequence[Trace]], on_progress: OnShare | None
    ) -> None:
        """Find out where the holes of key frames are seen, in frames registered to them."""
        window = self.window
        window.keys.update(dict.fromkeys(new))
        keys = [t for t in new if wants_sources(window.mask(t), traces[t])]
        for t in set(new).difference(keys):
            window.memorise("key", t, window.halo(True), (None,))
        colored = {s for t in keys for s in (t, *source_frames(t, self._within_reach(t)))}
        nearby = {s for t in keys for s in self._within_reach(t) if abs(s - t) < KEY_STEP}
        wanted = sorted(colored | nearby)

        def small(t: int) -> Small:
            return Small.of(window.frame(t), window.mask(t), is_colored=t in colored)

        smalls = dict(zip(wanted, window.workers.map(small, wanted), strict=True))

        def find(t: int) -> Key:
            key = self._choose_sources(t, smalls, traces[t])
            window.memorise("key", t, window.halo(True), (key,))
            return key

        found = window.workers.map(find, keys)
        window.keys.update(zip(keys, report_each(found, len(keys), on_progress), strict=True))

    def _choose_sources(self, t: int, smalls: Mapping[int, Small], traces: Sequence[Trace]) -> Key:
        """Register frames to a key frame, and choose which of them fill the regions of its hole."""
        window = self.window
        target, unit, near = Target(smalls[t]), error_unit(window.mask(t)), self._within_reach(t)
        details = {s: window.level_chain.log_detail(t, s) for s in source_frames(t, near)}
        key, found = register_sources(t, target, smalls, window.motions, near)
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
        for trace in traces:
            trace = trace.within(MAX_CHOSEN_ERROR * unit)
            levels = window.level_chain.levels(t, trace.ends(), key)
            colors = gather(trace, self._sampled, levels)
            nearness = nearness_of(trace, self._nearness)
            candidates.append(candidate_of_traces(target, trace, colors, nearness, levels, unit))
        return key._replace(sources=choose(target, candidates, unit)) if candidates else key

    def _within_reach(self, t: int) -> range:
        """Frames that a pixel may come from."""
        window = self.window
        return range(max(window.start, t - window.reach), min(window.stop, t + window.reach + 1))

    def _plates(self, start: int, stop: int) -> Iterator[tuple[int, tuple[Trace, Array]]]:
        """What a still camera shows of the holes of frames start to stop - 1 within reach."""
        window = self.window
        plate: Plate | None = None
        for t in range(start, stop):
            near = self._within_reach(t)
            low = stands_still(window.motions, t, near.start)
            high = stands_still(window.motions, t, near.stop - 1)
            if high > low and window.hole(t).box is not None:
                plate = plate or self._plate(start, stop)
                plate.hold(range(low, high + 1))
                yield t, plate.sight(window.mask(t))

    def _plate(self, start: int, stop: int) -> Plate:
        """An empty one, for the holes of frames start to stop - 1 and the rings around them."""
        window = self.window
        holes = [box for t in range(start, stop) if (box := window.hole(t).box) is not None]
        box = crop_box(functools.reduce(union, holes), RING_PIXELS, 1, *window.hole(start).shape)
        return Plate(lambda t: (window.frame(t), window.mask(t)), box)
