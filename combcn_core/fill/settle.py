"""Motion inside holes, made consistent in time: neighbouring frames have seen what is hidden now.

How the flow of a frame goes together with that of its neighbour is measured where both are known;
by that, the flow of what a hole hides follows from where it was seen, moving, before or after.
Residuals are those of `Motion`: flow less its affine part, with an expected error that is 0 where
it was measured.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import NamedTuple

import cv2
import numpy as np

from combcn_core.fill.motion import Motion, normalise
from combcn_core.pixels import Array, Mask

SETTLE_ROUNDS = 6  # frames away that the flow inside a hole may be taken from
SETTLE_PIXELS = 0.3  # error of a neighbour's flow where nothing tells how it goes with one's own
LEAST_SETTLE_PIXELS = 0.03  # at least, where something does; what is surer needs no neighbour
RELATION_STEP, LEAST_POINTS = 3, 60  # grid points apart that a relation is measured at; of these
TYPICAL = 0.6  # quantile of the errors of a relation that stands for them
FIT_ROUNDS, FIT_SHRINKAGE = 4, 1e-3

Sides = tuple[Mapping[int, Motion], Mapping[int, Motion]]  # to the next frame, to the one before


class Relation(NamedTuple):
    """How the residual flow at points of the scene follows from that in a neighbouring frame.

    Attributes:
        coefficients: (5, 2), of 1, x and y, as `normalise` has them, and of the neighbour's
            residual x and y. A camera that goes faster scales what depth makes of its motion.
        error: of what follows, in pixels, from a neighbour whose flow is known.
        growth: of the neighbour's error.
    """

    coefficients: Array
    error: float
    growth: float

    def predict(self, theirs: Array, x: Array, y: Array) -> tuple[Array, Array]:
        """Residuals (N, 2) and their expected errors (N,).

        Args:
            theirs: (N, 3), residual and expected error of the neighbour.
            x, y: (N,), normalised positions in this frame.
        """
        constant, across, down, of_x, of_y = self.coefficients
        residual = constant + x[:, None] * across + y[:, None] * down
        residual += theirs[:, :1] * of_x
        residual += theirs[:, 1:2] * of_y
        # Errors of several frames are independent of each other.
        grown = theirs[:, 2] * np.float32(self.growth)
        return residual, np.sqrt(grown**2 + np.float32(self.error) ** 2)


# The residual of the neighbour as it is, where too little is known in both to measure a relation.
SAME = Relation(np.eye(5, 2, -3, np.float32), SETTLE_PIXELS, 1.0)


def relate(motion: Motion, to_neighbour: Motion, neighbour: Motion) -> Relation:
    """Measure how the flow of a frame goes together with that of its neighbour.

    Least squares with Cauchy weights, over points whose flow is measured in both.

    Args:
        motion: of the frame.
        to_neighbour: motion from the frame to the neighbour.
        neighbour: motion of that one, in the same direction of time as `motion`.
    """
    height, width = motion.field.shape[:2]
    first = RELATION_STEP // 2
    rows, columns = np.mgrid[first:height:RELATION_STEP, first:width:RELATION_STEP].reshape(2, -1)
    measured = motion.field[rows, columns, 2] == 0  # what is completed has an expected error
    rows, columns = rows[measured], columns[measured]
    own = motion.field[rows, columns, :2]
    x, y = motion.positions(rows, columns)
    there = to_neighbour.displaced(x, y)
    theirs = neighbour.sample(*there)
    # Between grid points: hardly anything completed may be mixed in.
    known = (theirs[:, 2] < LEAST_SETTLE_PIXELS / 3) & neighbour.covers(*there)
    if np.count_nonzero(known) < LEAST_POINTS:
        return SAME
    x, y = normalise(x[known], y[known], motion.box)
    terms = np.column_stack([np.ones_like(x), x, y, theirs[known, :2]]).astype(np.float64)
    wanted = own[known].astype(np.float64)
    shrinkage = FIT_SHRINKAGE * np.eye(5)
    weights = np.ones(len(terms))
    for _ in range(FIT_ROUNDS):
        transposed = (terms * weights[:, None]).T
        right = transposed @ wanted + shrinkage @ SAME.coefficients
        found = np.linalg.solve(transposed @ terms + shrinkage, right)
        gap = terms @ found - wanted
        error = np.hypot(gap[:, 0], gap[:, 1])
        weights = 1 / (1 + (error / max(1.5 * np.median(error), 0.02)) ** 2)
    typical = max(LEAST_SETTLE_PIXELS, float(np.quantile(error, TYPICAL)))
    # By the larger eigenvalue: how much longer an error of the neighbour gets on the way.
    growth = max(1.0, float(np.abs(np.linalg.eigvals(found[3:])).max()))
    return Relation(found.astype(np.float32), typical, growth)


def settle(
    forward: Mapping[int, Motion],
    backward: Mapping[int, Motion],
    frames: Collection[int],
    map_: Callable[..., Iterable] = map,
) -> tuple[dict[int, Motion], dict[int, Motion]]:
    """Take the flow inside a hole from neighbouring frames where that is surer.

    Each round looks one frame further, so a result depends on `SETTLE_ROUNDS` frames on each side
    and on nothing else.

    Args:
        forward: motion of frame t to t + 1, by t.
        backward: motion of frame t to t - 1, by t.
        frames: to be settled; what comes back of others is half done.
        map_: `map`, or that of a pool of workers.
    """
    sides = dict(forward), dict(backward)
    near = [set(frames)]  # by the rounds that are left
    for _ in range(SETTLE_ROUNDS):
        near.append(near[-1] | {t + step for t in near[-1] for step in (-1, 1)})
    looks = [
        _Look(side, t, motion)
        for side in (0, 1)
        for t, motion in sides[side].items()
        if t in near[SETTLE_ROUNDS - 1]
    ]
    list(map_(lambda look: look.relate(sides), looks))
    changed: dict[tuple[int, int], Mask] | None = None
    for rounds_left in reversed(range(SETTLE_ROUNDS)):
        now = [look for look in looks if look.t in near[rounds_left]]
        before = sides[0].copy(), sides[1].copy()
        improve = functools.partial(_Look.improve, sides=before, changed=changed)
        changed = {}
        for look, result in zip(now, map_(improve, now), strict=True):
            if result is not None:
                sides[look.side][look.t], changed[look.side, look.t] = result
    return sides


class _Look:
    """Where the hidden pixels of a motion are looked up in its neighbours."""

    def __init__(self, side: int, t: int, motion: Motion) -> None:
        self.side, self.t = side, t
        rows, columns = motion.inside
        unsure = motion.field[rows, columns, 2] > LEAST_SETTLE_PIXELS
        self.rows, self.columns = rows[unsure], columns[unsure]
        self.x, self.y = motion.positions(self.rows, self.columns)
        self.place = normalise(self.x, self.y, motion.box)
        self.relations: dict[int, Relation] = {}
        self.starts: dict[int, Array] = {}  # grid points of the path, by step
        self.ends: dict[int, Array] = {}  # grid points of the neighbour, by step

    def _ways(self, sides: Sides) -> Iterable[tuple[int, int, Motion, Motion]]:
        """Step, the side of the path, the path, and the neighbour it leads to."""
        for step, way in ((1, 0), (-1, 1)):
            path = sides[way].get(self.t)
            neighbour = sides[self.side].get(self.t + step)
            if path is not None and neighbour is not None and len(self.x):
                yield step, way, path, neighbour

    def relate(self, sides: Sides) -> None:
        motion = sides[self.side][self.t]
        for step, _, path, neighbour in self._ways(sides):
            self.relations[step] = relate(motion, path, neighbour)
            self.starts[step] = path.nearest(self.x, self.y)

    def improve(
        self, sides: Sides, changed: Mapping[tuple[int, int], Mask] | None
    ) -> tuple[Motion, Mask] | None:
        """The motion with what its neighbours know better, and where that is; None: nowhere.

        Args:
            sides: motion as it is.
            changed: by side and frame, the grid points that the round before has changed, and
                those beside them; pixels that depend on no such point stay. None: anything has.
        """
        motion = sides[self.side][self.t]
        if not len(self.x):
            return None
        best = motion.field[self.rows, self.columns]
        better = np.zeros(len(best), np.bool_)
        for step, way, path, neighbour in self._ways(sides):
            if changed is None:
                todo = np.arange(len(best))
                self.ends[step] = np.empty(len(best), np.int64)
            else:
                stale = [
                    changed[key].ravel()[place]
                    for key, place in (
                        ((way, self.t), self.starts[step]),
                        ((self.side, self.t + step), self.ends[step]),
                    )
                    if key in changed
                ]
                if not stale:
                    continue
                todo = np.flatnonzero(np.logical_or.reduce(stale))
            there = path.displaced(self.x[todo], self.y[todo])
            self.ends[step][todo] = neighbour.nearest(*there)
            x, y = (part[todo] for part in self.place)
            residual, error = self.relations[step].predict(neighbour.sample(*there), x, y)
            surer = (error < best[todo, 2]) & neighbour.covers(*there)
            best[todo[surer]] = np.column_stack([residual, error])[surer]
            better[todo[surer]] = True
        if not better.any():
            return None
        field = motion.field.copy()
        field[self.rows, self.columns] = best
        where = np.zeros(field.shape[:2], np.uint8)
        where[self.rows[better], self.columns[better]] = 1
        near = cv2.dilate(where, np.ones((3, 3), np.uint8)).view(np.bool_)
        return motion._replace(field=field), near
