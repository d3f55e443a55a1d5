"""Which registered source or trace fills each region of a key frame's hole."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import cv2
import numpy as np

from combcn_core.fill.blur import lost
from combcn_core.fill.levels import Levels
from combcn_core.fill.merge import LEVEL_WEIGHT
from combcn_core.fill.register import CELL_PIXELS, Registered, Scale, Target, project
from combcn_core.fill.smooth import push_pull
from combcn_core.fill.trace import MAX_CHOSEN_ERROR, Nearness, Trace, searched
from combcn_core.pixels import Array, Mask, channel_sum, dilate, weighted

# Costs of a source: the gap to the truth that is to be expected, in grey levels of 255, as fitted
# on clips split off from training footage; and the error in pixels that stands for one.
MAX_COST = 24.0  # what fits worse is left to others
MAX_SOURCES, SECOND_COST = 5, 2.0
FRAME_COST = 0.05  # of every frame between source and target: nearer ones are more alike
BLUR_COST = 20.0  # of one that is less sharp by a factor e
LEAST_RING_CELLS = 30  # that judge a source
COMMON_GAP = 6.0  # between the ring and the source nearest to it, that counts against all
MAX_GAP = 40.0  # more is another thing, not a worse fit
LOCAL_SHARE, WHOLE_SHARE = 0.5, 0.05  # of the gaps to the ring nearby, and to all of it
MAX_OFFSET = 0.08  # in [0, 1], by which a source may be made level near the ring
RING_CELLS = 2  # around the hole that sources are chosen for too, to compare levels
LOCAL_CELLS = 7.0  # how far a piece of the ring speaks for the hole beside it
DISSENT_SHARE = 0.6  # of the gap to other candidates
NEAR_DOUBT = 4.0  # so much more where a source is seen beside its hole
LONELY_DISSENT, NEUTRAL_DISSENT = 4.0, 8.0  # where there is one other, or none
HEARD_COST = 3.0  # by which another may be dearer to be heard; twice as much beside a hole
SEAM_COST = 6.0  # of a cell whose neighbours come from elsewhere
SEAM_CELLS, SEAM_ROUNDS = 2.5, 6
TRACE_COST, TRACE_ERROR_COST = 1.0, 0.6
LEAST_COST_ERROR, COST_ERROR = 3.5, 0.08


class SourceMap(NamedTuple):
    """Where the hole of a key frame is seen, region by region, on the cells of its target.

    Attributes:
        cell_x, cell_y: (h, w), centres of the cells, in the small key frame.
        scale: of the small frame.
        source: (h, w), the frame in which a cell is seen, -1 where none was good enough.
        x, y: (h, w), where in that frame.
        offset: (h, w, 3), what is to be added there to be level with the surroundings.
        error: (h, w), what stands for the expected error of a trace, in pixels of the frame.
        log_gains: log(level of the source / level of the key frame), by source.
    """

    cell_x: Array
    cell_y: Array
    scale: Scale
    source: Array
    x: Array
    y: Array
    offset: Array
    error: Array
    log_gains: dict[int, Array]

    def sight(self, mask: Mask, to_frame: Array) -> tuple[Trace, Array]:
        """Where the hole of a frame nearby is seen: what the key frame shows in the same places.

        Args:
            mask: of the frame, (H, W).
            to_frame: (3, 3), from the key frame to it, both small.

        Returns:
            Traces of the hole and of the ring around it, and (N, 3), what is to be added to the
            colours that they find.
        """
        rows, columns, _ = searched(mask)
        x, y = self.scale.to_small(columns.astype(np.float32), rows)
        x, y = project(np.linalg.inv(to_frame), x, y)
        height, width = self.source.shape
        row = np.rint((y - self.cell_y[0, 0]) / CELL_PIXELS).astype(np.int32)
        column = np.rint((x - self.cell_x[0, 0]) / CELL_PIXELS).astype(np.int32)
        within = (row >= 0) & (row < height) & (column >= 0) & (column < width)
        cell = np.where(within, row, 0), np.where(within, column, 0)
        source = np.where(within, self.source[cell], -1)
        error = np.where(source >= 0, self.error[cell], np.inf).astype(np.float32)
        beside_x = (x - self.cell_x[cell]) * np.float32(self.scale.x)
        beside_y = (y - self.cell_y[cell]) * np.float32(self.scale.y)
        x, y = self.x[cell] + beside_x, self.y[cell] + beside_y
        return Trace(rows, columns, source, x, y, error), self.offset[cell]


class Candidate(NamedTuple):
    """One way to fill the cells of a target."""

    soft: Array  # (h, w, 3), at the target's level
    seen: Mask  # (h, w), where it is known
    cost: Array  # (h, w), in grey levels of 255
    source: Array  # (h, w)
    x: Array  # (h, w), in the source frame
    y: Array
    offset: Array  # (h, w, 3), what is to be added to be level with the surroundings
    near: Array  # (h, w), of the places in the source to its hole, see `Nearness`
    log_gains: Mapping[int, Array]


def candidates_of(
    target: Target,
    number: int,
    found: Sequence[Registered],
    nearness: Mapping[int, Nearness],
    log_details: Mapping[int, float] = MappingProxyType({}),
) -> list[Candidate]:
    """Registered sources as candidates: what the ring says of each of them, near each cell.

    Where no source agrees with the ring, the target itself is not like the background there: the
    shadow of what is removed lies on it, or its rim. What all have in common speaks against none.

    Args:
        target: the frame to be filled.
        number: its number.
        found: sources registered to it.
        nearness: of all sources, by number.
        log_details: log(detail of the source / detail of the target), by number.
    """
    if not found:
        return []
    judged = np.stack([target.ring & one.seen for one in found])
    gaps = [_gap(one.soft, target.soft) for one in found]
    gap = np.where(judged, np.stack(gaps), np.inf)
    least = np.where(judged.sum(0) > 1, gap.min(0), 0)
    excess = np.where(judged, gap - np.maximum(least - COMMON_GAP, 0), 0)
    alike = np.where(least < 2 * COMMON_GAP, LEVEL_WEIGHT, 0).astype(np.float32)
    candidates = []
    for one, where, own, over in zip(found, judged, gap, excess, strict=True):
        if where.sum() < LEAST_RING_CELLS:
            continue
        whole = float(np.median(own[where]) + 0.5 * np.minimum(own[where], MAX_GAP).mean())
        weight = _spread(where.astype(np.float32))
        local = _spread(np.minimum(over, MAX_GAP).astype(np.float32)) / np.maximum(weight, 1e-6)
        cost = LOCAL_SHARE * np.where(weight < 0.01, whole, local) + WHOLE_SHARE * whole
        cost += FRAME_COST * abs(one.source - number)
        cost += BLUR_COST * lost(np.array(log_details.get(one.source, 0.0), np.float32))
        x, y = target.frame.scale.to_frame(one.x, one.y)
        source = np.full(x.shape, one.source, np.int32)
        step = np.clip(target.soft - one.soft, -MAX_OFFSET, MAX_OFFSET)
        offset = push_pull(step, alike * where)
        soft, gains = one.soft + offset, {one.source: one.log_gain}
        near = nearness[one.source].at(x, y)
        candidates.append(Candidate(soft, one.seen, cost, source, x, y, offset, near, gains))
    return candidates


def candidate_of_traces(
    target: Target,
    trace: Trace,
    colors: Array,
    near: Array,
    levels: Levels,
    unit: float,
) -> Candidate:
    """What traces found as a candidate.

    Args:
        target: the frame whose hole they fill.
        trace: of its hole.
        colors: theirs, (N, 3).
        near: how near they end to a hole, (N,).
        levels: of their sources.
        unit: see `error_unit`.
    """
    here_x, here_y = target.frame.scale.to_frame(target.x, target.y)
    row, column = np.rint(here_y).astype(np.int32), np.rint(here_x).astype(np.int32)
    number = np.full((int(row.max()) + 1, int(column.max()) + 1), -1, np.int32)
    usable = (trace.source >= 0) & (trace.error < MAX_CHOSEN_ERROR * unit)
    usable &= (trace.rows < number.shape[0]) & (trace.columns < number.shape[1])
    number[trace.rows[usable], trace.columns[usable]] = np.flatnonzero(usable)
    index = number[row, column]
    seen, index = index >= 0, np.maximum(index, 0)
    weight = cv2.GaussianBlur(seen.astype(np.float32), (0, 0), 1)
    soft = cv2.GaussianBlur(weighted(colors[index], seen.astype(np.float32)), (0, 0), 1)
    soft = weighted(soft, 1 / np.maximum(weight, 1e-6))
    cost = TRACE_COST + TRACE_ERROR_COST * trace.error[index] / unit
    cost += BLUR_COST * lost(levels.log_detail(trace.source))[index]
    cost = np.where(seen, cost, np.inf)
    return Candidate(
        soft,
        seen,
        cost,
        np.where(seen, trace.source[index], -1),
        # Traces begin at pixels of the frame, not at the centres of cells.
        trace.x[index] + here_x - trace.columns[index],
        trace.y[index] + here_y - trace.rows[index],
        np.zeros_like(soft),
        near[index],
        levels.log_gains,
    )


def best_sources(target: Target, candidates: Sequence[Candidate]) -> list[int]:
    """The few that show most of the hole at the least cost, one after the other: their places."""
    costs = np.stack([np.where(one.seen, one.cost, np.inf)[target.hole] for one in candidates])
    cheapest = np.full(costs.shape[1], MAX_COST)
    best: list[int] = []
    while len(best) < MAX_SOURCES:
        gains = np.maximum(cheapest - costs, 0).sum(1)
        gains[best] = 0
        if gains.max() <= 0:
            break
        best.append(int(gains.argmax()))
        # A second opinion is worth having: the better of two saves only a part.
        cheapest = np.minimum(cheapest, costs[best[-1]] + SECOND_COST)
    return best


def choose(target: Target, candidates: Sequence[Candidate], unit: float) -> SourceMap:
    """For each cell of a hole one candidate, the same as its neighbours where that is cheap.

    What others agree with is cheaper; seams cost.
    """
    wanted = dilate(target.hole, RING_CELLS)
    possible = np.stack([one.seen & wanted for one in candidates])
    near = np.stack([one.near for one in candidates])
    doubt = DISSENT_SHARE * (1 + NEAR_DOUBT * near)
    costs = np.stack([one.cost for one in candidates]) + doubt * _dissent(candidates)
    costs = np.where(possible, costs, np.inf).astype(np.float32)
    label = _label(costs)
    cell = tuple(np.indices(label.shape))
    cost = costs[(label, *cell)]
    good = cost < MAX_COST
    disk = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (5, 5))
    good = cv2.morphologyEx(good.astype(np.uint8), cv2.MORPH_OPEN, disk) > 0
    source, x, y, offset = (
        np.stack([getattr(one, name) for one in candidates])[(label, *cell)]
        for name in ("source", "x", "y", "offset")
    )
    log_gains: dict[int, Array] = {}
    for one in reversed(candidates):  # registered ones come first, and measure levels directly
        log_gains |= one.log_gains
    error = ((LEAST_COST_ERROR + COST_ERROR * np.where(good, cost, 0)) * unit).astype(np.float32)
    source = np.where(good, source, -1)
    scale = target.frame.scale
    return SourceMap(target.x, target.y, scale, source, x, y, offset, error, log_gains)


def _gap(first: Array, second: Array) -> Array:
    """(h, w): how far colours are apart, in grey levels of 255."""
    return channel_sum(cv2.absdiff(first, second)) * np.float32(255 / 3)


def _spread(image: Array) -> Array:
    """What is near, weighted by nearness."""
    height, width = image.shape
    small = max(1, width // 4), max(1, height // 4)
    image = cv2.resize(image, small, interpolation=cv2.INTER_AREA)
    image = cv2.GaussianBlur(image, (0, 0), LOCAL_CELLS / 4)
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)


def _dissent(candidates: Sequence[Candidate]) -> Array:
    """(K, h, w): how far each is from the second nearest of the others, in grey levels of 255.

    Two that agree with a candidate are evidence for it, however many others do not. Candidates that
    cost much more do not count.
    """
    shape = len(candidates), *candidates[0].seen.shape
    nearest, second = np.full((2, *shape), np.inf, np.float32)
    for i in range(len(candidates)):
        for j in range(i):
            apart = _gap(candidates[i].soft, candidates[j].soft)
            both = candidates[i].seen & candidates[j].seen
            apart = np.minimum(apart, MAX_GAP)
            for k, other in ((i, j), (j, i)):
                dearest = candidates[k].cost + HEARD_COST * (1 + candidates[k].near)
                heard = both & (candidates[other].cost < dearest)
                gap = np.where(heard, apart, np.inf)
                second[k] = np.minimum(second[k], np.maximum(nearest[k], gap))
                nearest[k] = np.minimum(nearest[k], gap)
    second = np.where(np.isfinite(second), second, nearest + LONELY_DISSENT)
    return np.where(np.isfinite(second), second, NEUTRAL_DISSENT)


def _label(costs: Array) -> Array:
    """(h, w): the candidate for each cell."""
    possible = np.isfinite(costs)
    smoothed = costs
    for _ in range(SEAM_ROUNDS):
        label = smoothed.argmin(0)
        smoothed = costs.copy()
        for number in range(len(costs)):
            near = cv2.GaussianBlur((label == number).astype(np.float32), (0, 0), SEAM_CELLS)
            smoothed[number] -= SEAM_COST * near
        smoothed[~possible] = np.inf
    return smoothed.argmin(0)
