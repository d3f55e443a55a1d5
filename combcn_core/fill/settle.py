"""Motion inside holes, made consistent in time: what is hidden now was seen moving before or after.

What is seen in a frame and hidden in the next comes from the frame before, as a rule, and goes on
about as it came. How the two go together is measured where both are known; by that the flow of what
gets hidden follows, and lands with it in the hole of the next frame. From there it goes on in the
same way. So a thin post keeps its own motion behind a hole whose surroundings are all of the wall.
Residuals are those of `Motion`: flow less its affine part, with an expected error that is 0 where
it was measured.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import NamedTuple, TypeAlias, TypeVar

import cv2
import numpy as np

from combcn_core.fill.motion import Motion, normalise
from combcn_core.pixels import Array, Mask, weighted

SETTLE_ROUNDS = 8  # frames away that the flow inside a hole may be taken from
SETTLE_PIXELS = 0.5  # error of the flow onwards where nothing tells how it goes with that back
LEAST_SETTLE_PIXELS = 0.03  # at least, where something does; and of landing in the next frame
RELATION_STEP, LEAST_POINTS = 3, 60  # grid points apart that a relation is measured at; of these
# Side of the square of grid points that flow is averaged over for it, the same for both: least
# squares take noise of the flow to the other side for a lack of depth, and what follows lags.
RELATION_POINTS = 9
TYPICAL = 0.6  # quantile of the errors of a relation that stands for them
FIT_ROUNDS, FIT_SHRINKAGE = 4, 1e-3
# Of the points that land in one place those count whose error is about the least; and of these what
# is in front: a post moves more than the wall behind it.
ALIKE_SHARE, ALIKE_PIXELS = 1.5, 0.02
FRONT_PIXELS = 1.0  # less residual than the most
LEAST_COVER = 0.2  # of a grid point; less is the edge of something beside it
# Grid points off what is measured where a completed flow is trusted half as much, by the side of
# what neighbouring frames tell.
DOUBT_POINTS = 12

Raw: TypeAlias = tuple[Motion, Motion] | None  # from a frame to the next, and back; None: no holes
Settled: TypeAlias = tuple[Motion | None, Motion | None]  # to the next frame, and to the one before
Way: TypeAlias = tuple[int, int]  # which motion: 0 to the next frame, 1 to the one before; of t
_T = TypeVar("_T")


class Relation(NamedTuple):
    """How the residual flow of points to one side in time follows from that to the other side.

    Attributes:
        coefficients: (5, 2), of 1, x and y, as `normalise` has them, and of the residual x and y to
            the other side. A camera that goes faster scales what depth makes of its motion.
        error: of what follows, in pixels, where the flow to the other side is known.
        growth: of the error of the flow to the other side.
    """

    coefficients: Array
    error: float
    growth: float

    def predict(self, other: Array, x: Array, y: Array) -> Array:
        """(N, 3): residuals and their expected errors.

        Args:
            other: (N, 3), residual and expected error to the other side.
            x, y: (N,), normalised positions.
        """
        constant, across, down, of_x, of_y = self.coefficients
        residual = constant + x[:, None] * across + y[:, None] * down
        residual += other[:, :1] * of_x
        residual += other[:, 1:2] * of_y
        # Errors of several frames are independent of each other.
        grown = other[:, 2] * np.float32(self.growth)
        error = np.sqrt(grown**2 + np.float32(self.error) ** 2)
        return np.column_stack([residual, error])


# Points go on as they came, where too little is known to measure a relation.
STEADY = Relation(-np.eye(5, 2, -3, np.float32), SETTLE_PIXELS, 1.0)


def relate(motion: Motion, other: Motion) -> Relation:
    """Measure how the flow of a frame to one side in time goes together with that to the other.

    Least squares with Cauchy weights, over points whose flow is measured to both.

    Args:
        motion: of the frame, to the one side.
        other: to the other.
    """
    height, width = motion.field.shape[:2]
    x, y = motion.positions(*np.mgrid[:height, :width].reshape(2, -1))
    there = other.sample(x, y)
    # Between grid points: hardly anything completed may be mixed in.
    known = (there[:, 2] < LEAST_SETTLE_PIXELS / 3) & other.covers(x, y)
    measured = known.reshape(height, width) & motion.measured
    both = cv2.merge([there.reshape(height, width, 3)[..., :2], motion.field[..., :2]])
    is_known, side = measured.astype(np.float32), (RELATION_POINTS, RELATION_POINTS)
    sums, share = cv2.blur(weighted(both, is_known), side), cv2.blur(is_known, side)
    step = slice(RELATION_STEP // 2, None, RELATION_STEP)
    measured = measured[step, step]
    if np.count_nonzero(measured) < LEAST_POINTS:
        return STEADY
    x, y = (part.reshape(height, width)[step, step][measured] for part in (x, y))
    x, y = normalise(x, y, motion.box)
    means = sums[step, step][measured] / share[step, step][measured][:, None]
    there, wanted = np.split(means.astype(np.float64), 2, axis=1)
    terms = np.column_stack([np.ones_like(x), x, y, there]).astype(np.float64)
    shrinkage = FIT_SHRINKAGE * np.eye(5)
    weights = np.ones(len(terms))
    for _ in range(FIT_ROUNDS):
        transposed = (terms * weights[:, None]).T
        right = transposed @ wanted + shrinkage @ STEADY.coefficients
        found = np.linalg.solve(transposed @ terms + shrinkage, right)
        gap = terms @ found - wanted
        error = np.hypot(gap[:, 0], gap[:, 1])
        weights = 1 / (1 + (error / max(1.5 * np.median(error), 0.02)) ** 2)
    typical = max(LEAST_SETTLE_PIXELS, float(np.quantile(error, TYPICAL)))
    # By the larger eigenvalue: how much longer an error to the other side gets on this one.
    growth = max(1.0, float(np.abs(np.linalg.eigvals(found[3:])).max()))
    return Relation(found.astype(np.float32), typical, growth)


def settled_motions(
    raw: Mapping[int, Raw], frames: Sequence[int], map_: Callable[..., Iterable]
) -> dict[int, Settled]:
    """Settle the motion of frames, as it is kept.

    Args:
        raw: measured motion by the first frame of each pair; a frame depends on those of the
            `SETTLE_ROUNDS` pairs before it and after it, and one more.
        frames: to be settled.
        map_: `map`, or that of a pool of workers.
    """
    forward, backward = {}, {}
    for t, pair in raw.items():
        if pair is not None:
            forward[t], backward[t + 1] = pair
    forward, backward = settle(forward, backward, frames, map_)

    def kept(t: int) -> Settled:
        ahead, back = forward.get(t), backward.get(t)
        return ahead and ahead.kept(), back and back.kept()

    return dict(zip(frames, map_(kept, frames), strict=True))


def settle(
    forward: Mapping[int, Motion],
    backward: Mapping[int, Motion],
    frames: Collection[int],
    map_: Callable[..., Iterable] = map,
) -> tuple[dict[int, Motion], dict[int, Motion]]:
    """Take the flow inside a hole from neighbouring frames where that is surer.

    Each round goes one frame further, so a result depends on `SETTLE_ROUNDS` frames on each side
    and on nothing else.

    Args:
        forward: motion of frame t to t + 1, by t.
        backward: motion of frame t to t - 1, by t.
        frames: to be settled; what comes back of others is half done.
        map_: `map`, or that of a pool of workers.
    """
    near = [set(frames)]  # by the rounds that are left
    for _ in range(SETTLE_ROUNDS):
        near.append(near[-1] | {t + step for t in near[-1] for step in (-1, 1)})
    completed = {
        (side, t): motion
        for side, motions in enumerate((forward, backward))
        for t, motion in motions.items()
        if t in near[-1]
    }
    doubted = dict(zip(completed, map_(_doubt, completed.values()), strict=True))
    both = [(side, t) for side, t in doubted if (1 - side, t) in doubted]
    found = map_(lambda way: _guess(doubted[way], doubted[_other(way)]), both)
    guesses = dict(zip(both, found, strict=True))
    motions = dict(doubted)
    landed: dict[Way, Mask] | None = None
    for rounds_left in reversed(range(SETTLE_ROUNDS)):
        ways = [way for way in both if way[1] in near[rounds_left + 1]]
        turn = functools.partial(_turn, guesses=guesses, motions=motions, landed=landed)
        turned = _results(ways, map_(turn, ways))
        motions |= {way: motion for way, (motion, _) in turned.items()}
        ways = [way for way in motions if way[1] in near[rounds_left]]
        land = functools.partial(_land, motions=motions, turned=turned)
        results = _results(ways, map_(land, ways))
        motions |= {way: motion for way, (motion, _) in results.items()}
        landed = {way: where for way, (_, where) in results.items()}
    sides: tuple[dict[int, Motion], dict[int, Motion]] = ({}, {})
    for (side, t), motion in completed.items():
        field = motions[side, t].field
        same = (field == doubted[side, t].field).all(-1, keepdims=True)
        sides[side][t] = motion._replace(field=np.where(same, motion.field, field))
    return sides


def _other(way: Way) -> Way:
    """The motion of the same frame to the other side."""
    return 1 - way[0], way[1]


def _results(ways: Sequence[Way], found: Iterable[_T | None]) -> dict[Way, _T]:
    """What was found, without those for which there is nothing."""
    return {way: one for way, one in zip(ways, found, strict=True) if one is not None}


def _doubt(motion: Motion) -> Motion:
    """A motion with the expected error that counts beside what neighbouring frames tell."""
    field = motion.field.copy()
    away = cv2.distanceTransform((~motion.measured).view(np.uint8), cv2.DIST_L2, 5)
    away = np.minimum(away, sum(away.shape))  # infinite where nothing is measured
    field[..., 2] *= 1 + away / np.float32(DOUBT_POINTS)
    return motion._replace(field=field)


class _Guess(NamedTuple):
    """Grid points of a motion whose flow was not measured, and how it follows from the other side.

    Attributes:
        rows, columns: (N,), of those that the motion to the other side covers.
        x, y: (N,), their positions in the frame.
        there: (N,), the nearest grid points of the motion to the other side.
        relation: to that.
    """

    rows: Array
    columns: Array
    x: Array
    y: Array
    there: Array
    relation: Relation


def _guess(motion: Motion, other: Motion) -> _Guess:
    rows, columns = np.nonzero(~motion.measured)
    x, y = motion.positions(rows, columns)
    covered = other.covers(x, y)
    rows, columns, x, y = (part[covered] for part in (rows, columns, x, y))
    return _Guess(rows, columns, x, y, other.nearest(x, y), relate(motion, other))


def _turn(
    way: Way,
    guesses: Mapping[Way, _Guess],
    motions: Mapping[Way, Motion],
    landed: Mapping[Way, Mask] | None,
) -> tuple[Motion, tuple[Array, Array]] | None:
    """A motion with what follows from that to the other side, and at which grid points.

    Args:
        way: which motion.
        guesses: where it may follow.
        motions: as they are.
        landed: the grid points whose flow is new since the round before; None: all.
    """
    guess, motion, other = guesses[way], motions[way], motions[_other(way)]
    rows, columns, x, y, there, relation = guess
    if landed is not None:
        if _other(way) not in landed:
            return None
        new = landed[_other(way)].ravel()[there]
        rows, columns, x, y = (part[new] for part in (rows, columns, x, y))
    found = relation.predict(other.sample(x, y), *normalise(x, y, motion.box))
    surer = found[:, 2] < motion.field[rows, columns, 2]
    if not surer.any():
        return None
    points = rows[surer], columns[surer]
    field = motion.field.copy()
    field[points] = found[surer]
    return motion._replace(field=field), points


def _land(
    way: Way,
    motions: Mapping[Way, Motion],
    turned: Mapping[Way, tuple[Motion, tuple[Array, Array]]],
) -> tuple[Motion, Mask] | None:
    """A motion with the flow of what comes from the neighbour, and where that is.

    Args:
        way: which motion.
        motions: as they are.
        turned: motions with grid points whose flow was found in this round.
    """
    side, t = way
    coming = turned.get((1 - side, t + (1, -1)[side]))
    if coming is None:
        return None
    motion, (neighbour, points) = motions[way], coming
    coming_flow = neighbour.field[points]
    start_x, start_y = neighbour.positions(*points)
    shift = neighbour.shift(start_x, start_y) + coming_flow[:, :2]
    x, y = start_x + shift[:, 0], start_y + shift[:, 1]
    residual = -shift - motion.shift(x, y)
    size = np.hypot(residual[:, 0], residual[:, 1])
    error = np.hypot(coming_flow[:, 2], np.float32(LEAST_SETTLE_PIXELS))

    height, width = motion.field.shape[:2]
    now = motion.field.reshape(-1, 3)
    number, cell, share = _corners(*motion.on_grid(x, y), height, width)
    surer = error[number] < now[cell, 2]
    number, cell, share = number[surer], cell[surer], share[surer]
    least = np.full(len(now), np.inf, np.float32)
    np.minimum.at(least, cell, error[number])
    most = np.zeros(len(now), np.float32)
    alike = error[number] <= ALIKE_SHARE * least[cell] + ALIKE_PIXELS
    np.maximum.at(most, cell[alike], size[number[alike]])
    front = alike & (size[number] >= most[cell] - FRONT_PIXELS)
    number, cell, share = number[front], cell[front], share[front]

    total = np.bincount(cell, share, len(now))
    reached = np.flatnonzero(total >= LEAST_COVER)
    across, down, error, square = (
        np.bincount(cell, share * part[number], len(now))[reached] / total[reached]
        for part in (residual[:, 0], residual[:, 1], error, size**2)
    )
    error = np.sqrt(error**2 + np.maximum(square - across**2 - down**2, 0))
    surer = error < now[reached, 2]
    if not surer.any():
        return None
    reached = reached[surer]
    field, where = now.copy(), np.zeros(len(now), np.uint8)
    field[reached], where[reached] = np.column_stack([across, down, error])[surer], 1
    # Between grid points what is beside them counts too.
    near = cv2.dilate(where.reshape(height, width), np.ones((3, 3), np.uint8))
    return motion._replace(field=field.reshape(height, width, 3)), near.view(np.bool_)


def _corners(column: Array, row: Array, height: int, width: int) -> tuple[Array, Array, Array]:
    """The four grid points around places: numbers of the places, grid points, and their shares."""
    parts = []
    for down in (0, 1):
        for right in (0, 1):
            near_row, near_column = np.floor(row) + down, np.floor(column) + right
            share = (1 - np.abs(row - near_row)) * (1 - np.abs(column - near_column))
            within = (near_row >= 0) & (near_row < height) & (share > 0)
            number = np.flatnonzero(within & (near_column >= 0) & (near_column < width))
            cell = near_row[number] * width + near_column[number]
            parts.append((number, cell.astype(np.int64), share[number]))
    number, cell, share = (np.concatenate(part) for part in zip(*parts, strict=True))
    return number, cell, share
