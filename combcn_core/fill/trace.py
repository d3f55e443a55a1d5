"""Hole pixels followed along the motion, from frame to frame, until they come out of the hole.

There the colour is read, once, from the source frame (`gather`). Every step adds to an estimate of
how far off the trace may be.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

import cv2
import numpy as np

from combcn_core.fill.levels import Levels, off_centre
from combcn_core.fill.motion import Motion
from combcn_core.pixels import (
    Array,
    Box,
    Mask,
    PackedMask,
    Patch,
    crop,
    crop_box,
    dilate,
    find_box,
    to_unit,
)

# Expected errors of a trace, in pixels of a frame of 240 rows (`error_unit`). The estimate is
# conservative, about four times the true error: at 6.5 it is as likely right as wrong, at 12 wrong.
# Up to 1.5 no registered source is wanted beside it; up to 30 it may be chosen where there is none.
SURE_ERROR, HALF_ERROR, MAX_ERROR, MAX_CHOSEN_ERROR = 1.5, 6.5, 12.0, 30.0
REFERENCE_ROWS = 240
NEARNESS_ROWS = 240  # of a frame at the size that nearness is measured at
NEARNESS_PIXELS = 16  # of such a frame, in which nearness falls to 1/e
RING_PIXELS = 2  # around the hole, traced too, to compare levels


def error_unit(mask: Mask) -> float:
    """What one pixel of a frame of `REFERENCE_ROWS` is in this one, in pixels."""
    return min(mask.shape) / REFERENCE_ROWS


class Trace(NamedTuple):
    """For each searched pixel of a frame, where it is seen: all (N,)."""

    rows: Array
    columns: Array
    source: Array  # the frame in which it is seen, -1 where it never is
    x: Array
    y: Array
    error: Array  # expected distance from the right place, in pixels

    def ends(self) -> list[int]:
        """The frames in which any pixel is seen."""
        return np.flatnonzero(np.bincount(self.source + 1)[1:]).tolist()

    def by_source(self) -> tuple[Array, dict[int, slice]]:
        """(M,): the pixels that are seen, those of a frame together; and which ones are its own."""
        return _runs(self.source)

    def within(self, limit: float) -> Trace:
        """Without those that may be farther off."""
        return self._replace(source=np.where(self.error < limit, self.source, -1))


def _runs(source: Array) -> tuple[Array, dict[int, slice]]:
    """(M,): places of the numbers, (N,), that are not negative, those of a number together; and
    which ones are its own."""
    seen = np.flatnonzero(source >= 0)
    some = source[seen]
    first = int(some.min(initial=np.iinfo(np.int32).max))
    steps = (some - first).astype(np.int16)  # for NumPy's fastest sort
    stops = np.cumsum(np.bincount(steps)).tolist()
    runs = {first + step: slice(*run) for step, run in enumerate(pairwise([0, *stops]))}
    order = seen[np.argsort(steps, kind="stable")]
    return order, {number: run for number, run in runs.items() if run.start < run.stop}


def trace(
    motions: Mapping[int, Motion],
    hole_of: Callable[[int], Mask],
    order: Iterable[int],
    reach: int,
) -> Iterator[tuple[int, Trace]]:
    """Follow the pixels of holes from frame to frame until they are out of the hole.

    A pixel's trace is its own motion, then the trace of the pixel it meets in the next frame: one
    step a frame, sub-pixel offsets kept, colours never resampled on the way.

    Args:
        motions: of each frame to its neighbour in the direction of the traces, by frame.
        hole_of: gives the hole of a frame.
        order: frames, each after its neighbour: backwards in time for forward motions.
        reach: frames that a trace is followed for, at most.

    Yields:
        Frame and the traces of its hole and of the ring around it, in that order.
    """
    steps: dict[int, _Step] = {}
    before: _Step | None = None
    after: Motion | None = None  # of the frame before, in this order
    for t in order:
        hole = hole_of(t)
        rows, columns, box = searched(hole)
        path = Trace(
            rows,
            columns,
            np.full(len(rows), -1, np.int32),
            columns.astype(np.float32),
            rows.astype(np.float32),
            np.full(len(rows), np.inf, np.float32),
        )
        ages = np.zeros(len(rows), np.int32)
        motion = motions.get(t)
        motion = motion and motion.opened()
        if len(rows) and motion is not None and before is not None:
            _follow(path, ages, motion, after, before, hole.shape, reach)
            _follow_on(path, ages, np.flatnonzero(ages > 1), steps, reach)
        numbers = np.full((box.height + 2, box.width + 2), -1, np.int32)
        numbers[rows - (box.top - 1), columns - (box.left - 1)] = np.arange(len(rows))
        numbers[1:-1, 1:-1][~crop(hole, box)] = -1
        before = steps[t] = _Step(t, path, ages, numbers, box)
        after = motion
        if len(steps) > reach + 1:
            del steps[next(iter(steps))]
        yield t, path


def searched(hole: Mask) -> tuple[Array, Array, Box]:
    """Rows and columns, (N,) each, of a hole and of the ring around it; and the box around both."""
    inside = find_box(hole)
    if inside is None:
        return np.zeros(0, np.int32), np.zeros(0, np.int32), Box(0, 0, 0, 0)
    box = crop_box(inside, RING_PIXELS, 1, *hole.shape)
    places = np.nonzero(dilate(np.ascontiguousarray(crop(hole, box)), RING_PIXELS))
    rows, columns = (place.astype(np.int32) for place in places)
    return rows + np.int32(box.top), columns + np.int32(box.left), box


class _Step(NamedTuple):
    """The traces of the neighbouring frame, ready to be met."""

    frame: int
    path: Trace
    ages: Array  # (N,) frames that each trace was followed for
    numbers: Array  # which trace a pixel of the box has, -1 where it is known, and around the box
    box: Box

    def meet(self, x: Array, y: Array) -> Array:
        """(N,): the traces of the pixels at whole positions, -1 where these are known."""
        height, width = self.numbers.shape
        row = np.clip(y - (self.box.top - 1), 0, height - 1)
        column = np.clip(x - (self.box.left - 1), 0, width - 1)
        return self.numbers.ravel().take(row * width + column)


def _follow(
    path: Trace,
    ages: Array,
    motion: Motion,
    after: Motion | None,
    before: _Step,
    shape: tuple[int, ...],
    reach: int,
) -> None:
    """One step of every trace of a frame, into the neighbour; in place.

    Args:
        path, ages: of the frame, to be written.
        motion: of the frame to its neighbour.
        after: of the neighbour to the next frame in the same direction.
        before: the neighbour's traces.
        shape: (H, W) of the frame.
        reach: longest age.
    """
    own = motion.sample(path.x, path.y)
    moved = motion.shift(path.x, path.y) + own[:, :2]
    x, y = path.x + moved[:, 0], path.y + moved[:, 1]
    near_x, near_y = np.rint(x).astype(np.int32), np.rint(y).astype(np.int32)
    within = (near_x >= 0) & (near_x < shape[1]) & (near_y >= 0) & (near_y < shape[0])
    met = before.meet(near_x, near_y)

    seen = within & (met < 0)
    path.source[seen], ages[seen] = before.frame, 1
    path.x[seen], path.y[seen], path.error[seen] = x[seen], y[seen], own[:, 2][seen]
    if after is not None:
        # A pixel that moves on otherwise than it came is another object, passing by.
        judged = np.flatnonzero(seen & after.covers(x, y))
        theirs = after.sample(x[judged], y[judged])[:, :2]
        apart = (theirs - own[judged, :2]) ** 2
        path.error[judged] += np.sqrt(apart[:, 0] + apart[:, 1])

    going = np.flatnonzero(within & (met >= 0))
    link = met[going]
    kept = (before.path.source[link] >= 0) & (before.ages[link] < reach)
    going, link = going[kept], link[kept]
    path.source[going], ages[going] = before.path.source[link], before.ages[link] + 1
    path.x[going] = before.path.x[link] + (x[going] - near_x[going])
    path.y[going] = before.path.y[link] + (y[going] - near_y[going])
    path.error[going] = before.path.error[link] + own[going, 2]


def _follow_on(
    path: Trace, ages: Array, moving: Array, steps: Mapping[int, _Step], reach: int
) -> None:
    """Traces that end in the hole of their source go on from there; in place.

    A trace follows the pixels it meets, and may be up to half a pixel beside them at every step. So
    the hole may end later for it than for them. `moving` are those that met others.
    """
    for _ in range(4):
        ended_in = []
        order, runs = _runs(path.source[moving])
        by_source = moving[order]
        near_x, near_y = (
            np.rint(position[by_source]).astype(np.int32) for position in (path.x, path.y)
        )
        for source, run in runs.items():
            step = steps[source]
            link = step.meet(near_x[run], near_y[run])
            hidden = np.flatnonzero(link >= 0)
            if len(hidden) == 0:
                continue
            here, link = by_source[run][hidden], link[hidden]
            ended_in.append(here)
            ages[here] += step.ages[link]
            good = (step.path.source[link] >= 0) & (ages[here] <= reach)
            path.source[here] = np.where(good, step.path.source[link], -1)
            path.x[here] += step.path.x[link] - near_x[run][hidden]
            path.y[here] += step.path.y[link] - near_y[run][hidden]
            path.error[here] += np.where(good, step.path.error[link], np.inf)
        if not ended_in:
            return
        moving = np.concatenate(ended_in)
    path.source[moving] = -1


class Nearness(NamedTuple):
    """How near the places of a frame are to its hole.

    What lies right beside a hole often belongs to what is in it: its shadow or reflection, soft
    fur, the rim that a tight mask missed.
    """

    values: Array  # (h, w): 1 at the hole, falling to 0 away from it
    scale: float  # pixels of the frame in one of the values

    @classmethod
    def of(cls, mask: Mask) -> Nearness:
        """From a hole, at a bounded size."""
        scale = max(1.0, min(mask.shape) / NEARNESS_ROWS)
        size = max(1, round(mask.shape[1] / scale)), max(1, round(mask.shape[0] / scale))
        known = cv2.resize((~mask).astype(np.uint8), size, interpolation=cv2.INTER_NEAREST)
        if known.all():
            return cls(np.zeros((1, 1), np.float32), scale)
        distance = cv2.distanceTransform(known, cv2.DIST_L2, 3)
        return cls(np.exp(distance * np.float32(-1 / NEARNESS_PIXELS)), scale)

    def at(self, x: Array, y: Array) -> Array:
        """At positions, as many as these."""
        return self.values.ravel().take(self.places(x, y))

    def places(self, x: Array, y: Array) -> Array:
        """Positions as numbers of the flattened values."""
        half, scale = np.float32(0.5), np.float32(self.scale)
        height, width = self.values.shape
        row = np.clip(np.rint((y + half) / scale - half), 0, height - 1)
        column = np.clip(np.rint((x + half) / scale - half), 0, width - 1)
        return row.astype(np.int32) * width + column.astype(np.int32)


def nearness_of(path: Trace, nearness: Mapping[int, Nearness]) -> Array:
    """(N,): how near traces end to the holes of the frames there."""
    near = np.zeros(len(path.rows), np.float32)
    order, runs = path.by_source()
    shown = [(nearness[source].values, run) for source, run in runs.items()]
    shown = [(values, run) for values, run in shown if values.size > 1]
    if shown:
        some = next(nearness[source] for source in runs if nearness[source].values.size > 1)
        places = some.places(path.x[order], path.y[order])  # all frames are of one size
        for values, run in shown:
            near[order[run]] = values.ravel().take(places[run])
    return near


def count_ends(
    filled: Mask, paths: Sequence[Trace], areas: Mapping[int, PackedMask]
) -> dict[int, int]:
    """Of the pixels of a frame that were filled, those whose surest trace ends in some areas.

    Args:
        filled: (H, W).
        paths: all traces of the frame.
        areas: of other frames, by number.

    Returns:
        Pixels by number, where there are any.
    """
    least = np.full(filled.shape, np.inf, np.float32)
    origin = np.full(filled.shape, -1, np.int32)
    wholes = {number: area.whole() for number, area in areas.items()}
    for path in paths:
        surer = np.flatnonzero((path.source >= 0) & (path.error < least[path.rows, path.columns]))
        ends = np.full(len(surer), -1, np.int32)
        for number, area in wholes.items():
            here = path.source[surer] == number
            if here.any():
                x, y = (np.rint(part[surer][here]).astype(int) for part in (path.x, path.y))
                height, width = area.shape
                inside = area[y.clip(0, height - 1), x.clip(0, width - 1)]
                ends[here] = np.where(inside, number, -1)
        least[path.rows[surer], path.columns[surer]] = path.error[surer]
        origin[path.rows[surer], path.columns[surer]] = ends
    counts = {number: int(((origin == number) & filled).sum()) for number in areas}
    return {number: count for number, count in counts.items() if count}


def gather(path: Trace, frames: Mapping[int, Patch], levels: Levels) -> Array:
    """(N, 3) in [0, 1]: the colours at the ends of the traces, at the target frame's brightness.

    Args:
        path: the traces of one frame.
        frames: source frames, by number, their holes filled: sampling near a hole reaches into it.
        levels: of the source frames.
    """
    colors = np.zeros((len(path.rows), 3), np.float32)
    order, runs = path.by_source()
    if not runs:
        return colors
    x, y = path.x[order], path.y[order]
    read = [frames[source].sample(x[run], y[run], cv2.INTER_CUBIC) for source, run in runs.items()]
    found = to_unit(np.concatenate(read))
    for source, run in runs.items():
        found[run] *= np.exp(-levels.log_gains[source]).astype(np.float32)
    if levels.falloff:
        height, width = frames[next(iter(runs))].frame.shape[:2]  # all are of one size
        outward = off_centre(x, y, height, width)
        outward -= off_centre(path.columns[order], path.rows[order], height, width)
        found *= np.exp(np.float32(-levels.falloff) * outward)[:, None]
    colors[order] = found
    return colors
