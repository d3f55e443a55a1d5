"""A clean plate: the mean of all sightings of a pixel while the camera stands still."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from combcn_core.fill.motion import Motion
from combcn_core.fill.trace import Trace, error_unit, searched
from combcn_core.pixels import Array, Box, Mask, Stored, crop, crop_stored, to_unit

DRIFT_PIXELS = 0.5  # over many frames, the camera stands still if their motions add up to no more
STEADY_LOG_GAIN = 0.12  # and their light, if it has not become so much brighter or darker
PLATE_FRAMES = 3  # fewer sightings make no plate
# Error of a plate: below 0 it outweighs the surest trace; and per standard deviation of its
# sightings, in [0, 1], beyond the noise that most have: what keeps changing makes no plate.
PLATE_ERROR, PLATE_SPREAD_ERROR, PLATE_MAX_ERROR = -0.15, 20.0, 1.5
MAX_NOISE = 0.06
PLATE_STEPS = 2**16  # levels that a float in [0, 1] is counted in, so that sums are exact


def stands_still(
    motions: Mapping[int, tuple[Motion | None, Motion | None]], t: int, last: int
) -> int:
    """The farthest frame towards another one until which camera and light stay as they are.

    Args:
        motions: of frames, to the next one and to the one before.
        t: the frame to begin with.
        last: the other one.
    """
    step, drift, log_gain = (1 if last > t else -1), np.zeros(4), np.zeros(3)
    while t != last:
        motion = motions.get(t, (None, None))[0 if step == 1 else 1]
        if motion is None:
            break
        drift, log_gain = drift + motion.drift, log_gain + motion.log_gain
        if not np.abs(drift).max() < DRIFT_PIXELS:
            break
        if not np.abs(log_gain).max() < STEADY_LOG_GAIN:
            break
        t += step
    return t


class Plate:
    """The mean of what each pixel of a still camera shows in the frames that are held.

    Frames come and go one by one; sums are of whole numbers, so they do not depend on the order.
    """

    def __init__(self, show: Callable[[int], tuple[Stored, Mask]], box: Box) -> None:
        """Hold nothing.

        Args:
            show: gives a frame and its hole; asked when a frame is added and when it is dropped.
            box: of the frame, that holds all that the plate will be asked for.
        """
        self._show = show
        self._box = box
        self._held: set[int] = set()

    def hold(self, frames: range) -> None:
        """Hold exactly these frames."""
        if self._held.isdisjoint(frames):
            first, _ = self._show(frames[0])
            self._held, self._dtype = set(), first.dtype
            height, width = self._box.height, self._box.width
            self._sum = np.zeros((height, width, 3), np.int64)
            self._squares = np.zeros((height, width, 3), np.int64)
            self._count = np.zeros((height, width), np.int32)
        for t in self._held.difference(frames):
            self._add(*self._show(t), -1)
        for t in frames:
            if t not in self._held:
                self._add(*self._show(t), 1)
        self._held = set(frames)

    def _add(self, frame: Stored, hole: Mask, sign: int) -> None:
        pixels, hole = crop_stored(frame, self._box), crop(hole, self._box)
        if np.issubdtype(pixels.dtype, np.integer):
            counted = pixels.astype(np.int64)
        else:
            # Highlights of scene-linear images lie above 1.
            counted = np.rint(np.clip(to_unit(pixels), 0, 2) * PLATE_STEPS).astype(np.int64)
        counted[hole] = 0
        self._sum += sign * counted
        self._squares += sign * counted**2
        self._count += sign * ~hole

    def sight(self, hole: Mask) -> tuple[Trace, Array]:
        """What the plate shows of a hole and of the ring around it, as `merge` takes it: traces and
        their colours."""
        rows, columns, _ = searched(hole)
        here = rows - self._box.top, columns - self._box.left
        is_integer = np.issubdtype(self._dtype, np.integer)
        full = np.iinfo(self._dtype).max if is_integer else PLATE_STEPS
        count = self._count[here]
        colors = self._sum[here] / (np.maximum(count, 1)[:, None] * np.float64(full))
        squares = self._squares[here] / (np.maximum(count, 1)[:, None] * full**2.0)
        spread = np.sqrt(np.maximum((squares - colors**2).mean(-1), 0))
        noise = min(1.5 * np.quantile(spread, 0.25), MAX_NOISE) if len(spread) else 0.0
        error = PLATE_ERROR + PLATE_SPREAD_ERROR * np.maximum(spread - noise, 0)
        seen = (count >= PLATE_FRAMES) & (error < PLATE_MAX_ERROR)
        error = (error * error_unit(hole)).astype(np.float32)
        rows, columns, colors, error = rows[seen], columns[seen], colors[seen], error[seen]
        nothing = np.zeros(len(rows), np.float32)
        trace = Trace(rows, columns, np.zeros(len(rows), np.int32), nothing, nothing, error)
        return trace, colors.astype(np.float32)
