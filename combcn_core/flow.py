"""Known pixels carried along optical flow into the holes: no weights, no learning.

The way of a hole pixel: flow to the next frame is measured where both frames are known, completed
inside the hole (`find_motion`), made consistent in time (`settle`), and followed from frame to
frame until it leaves the hole (`trace`). There the colour is read, once, from the source frame
(`gather`). Every step adds to an estimate of how far off the trace may be; what is too unsure
stays hole.

Arrays are NumPy, one frame each: pixels (H, W, 3) RGB, uint8, uint16 or float in [0, 1]; masks
(H, W) bool, True inside the hole. Positions are x, y in pixels, the centre of the first pixel is
0, 0. Beyond METHOD "Limits the paper names", which asks for optical flow.

The constants were chosen on clips split off from training footage, with synthetic holes; those of
the plate also on true removals from still cameras.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from combcn_core.segments import Box, crop_box

Array: TypeAlias = NDArray[Any]  # float32 unless said otherwise
Mask: TypeAlias = NDArray[np.bool_]
Pixels: TypeAlias = NDArray[Any]  # uint8, uint16 or float32

SIDE_PIXELS = 640  # flow runs on a crop whose long side is at most this
CONTEXT_PIXELS = 64  # of known frame around the hole, at flow resolution
MARGIN_PIXELS = 6  # flow this near to a hole has seen the fill, and is not trusted
AGREEMENT_PIXELS = 1.0  # flow forth and back must return this near to be trusted
SETTLE_ROUNDS = 6  # and so many frames away may the flow inside a hole be taken from
SETTLE_PIXELS = 0.3  # how much less sure the flow of the neighbouring frame is than one's own
RING_PIXELS = 2  # around the hole, traced too, to compare levels
# Expected errors of a trace, in pixels of a frame of 240 rows (`_error_unit`). The estimate is
# conservative, about four times the true error: at 6 a smooth fill gets half the weight, at 12 all.
MAX_ERROR, HALF_ERROR, LEAST_ERROR = 12.0, 6.0, 0.3
REFERENCE_ROWS = 240
SHARPNESS = 4  # how much the surer of two traces outweighs the other
LEVEL_WEIGHT = 0.1  # of one pixel of the ring
MAX_LEVEL_STEP = 0.05  # what is larger is an edge out of place, not a difference of level
CUT_AGREEMENT, CUT_HISTOGRAM = 0.25, 0.5
STILL_PIXELS = 0.5  # the camera stands still between frames if the flow of most pixels is less,
DRIFT_PIXELS = 0.5  # and over many frames, if their median motions do not add up to more than this
STEADY_LOG_GAIN = 0.12  # and their light, if it has not become so much brighter or darker
PLATE_FRAMES = 3  # fewer sightings make no plate
# Error of a plate: below 0 it outweighs the surest trace; and per standard deviation of its
# sightings, in [0, 1], beyond the noise that most have: what keeps changing makes no plate.
PLATE_ERROR, PLATE_SPREAD_ERROR, PLATE_MAX_ERROR = -0.15, 20.0, 1.5
MAX_NOISE = 0.06
PLATE_STEPS = 2**16  # levels that a float in [0, 1] is counted in, so that sums are exact

MEMBRANE_CYCLES, MEMBRANE_SWEEPS = 4, 2
_LAPLACE = np.array([[0, 1, 0], [1, -4, 1], [0, 1, 0]], np.float32)

PROPAGATE_MARGIN = SETTLE_ROUNDS + 2  # frames beyond `reach` that a propagated frame depends on


def push_pull(values: Array, weights: Array) -> Array:
    """Fill what has no weight smoothly from what has, over a pyramid of weighted averages.

    Args:
        values: (H, W, C).
        weights: (H, W) in [0, 1]: 1 keeps the value, 0 takes the fill, between them both count.

    Returns:
        (H, W, C). Zeros where no pixel at all has weight.

    Source: Gortler et al., "The Lumigraph", SIGGRAPH 1996, section 3.4.
    """
    levels: list[tuple[Array, Array]] = [(values * weights[..., None], weights)]
    while min(levels[-1][1].shape) > 1:
        weighted, weight = levels[-1]
        height, width = weight.shape
        size = ((width + 1) // 2, (height + 1) // 2)
        weighted = cv2.resize(weighted, size, interpolation=cv2.INTER_AREA)
        weight = cv2.resize(weight, size, interpolation=cv2.INTER_AREA)
        # A cell that is half known counts as known: the nearest colours win over the far ones.
        gain = np.minimum(2 * weight, 1) / np.maximum(weight, 1e-8)
        levels.append((weighted.reshape(*weight.shape, -1) * gain[..., None], weight * gain))
    weighted, weight = levels[-1]
    total = weighted.sum((0, 1)) / max(float(weight.sum()), 1e-8)
    filled: Array = np.broadcast_to(total, weighted.shape).astype(np.float32)
    for weighted, weight in reversed(levels):
        height, width = weight.shape
        if filled.shape[:2] != (height, width):
            filled = cv2.resize(filled, (width, height), interpolation=cv2.INTER_LINEAR)
            filled = filled.reshape(height, width, -1)
        filled = weighted + filled * (1 - weight)[..., None]
    return filled


class Motion(NamedTuple):
    """Where the pixels of one frame are in a neighbouring one, around the hole.

    An affine motion of the whole crop plus a residual on a grid, in pixels of the frame.
    """

    box: Box  # the crop, in the frame
    affine: Array  # (3, 2): of 1, x and y, normalised to the crop
    field: Array  # (h, w, 3): residual x, residual y, expected error; float32, or 16 to be kept
    inside: Array  # (2, N): rows and columns of grid points inside the hole
    log_gain: Array  # (3,): log(level of the neighbour / level of this frame)
    drift: Array  # (4,): median shift x and y, zoom and turn, NaN where most pixels move

    @property
    def scale(self) -> tuple[float, float]:
        """Grid points per pixel, along x and y."""
        height, width = self.field.shape[:2]
        return width / self.box.width, height / self.box.height

    def positions(self) -> tuple[Array, Array]:
        """x, y in the frame of the grid points inside the hole, each (N,)."""
        rows, columns = self.inside.astype(np.float32)
        scale_x, scale_y = self.scale
        return (
            (columns + np.float32(0.5)) / np.float32(scale_x) - np.float32(0.5 - self.box.left),
            (rows + np.float32(0.5)) / np.float32(scale_y) - np.float32(0.5 - self.box.top),
        )

    def sample(self, x: Array, y: Array) -> Array:
        """(N, 3): residual and expected error at positions in the frame."""
        scale_x, scale_y = self.scale
        return sample(
            self.field.astype(np.float32, copy=False),
            (x + np.float32(0.5 - self.box.left)) * np.float32(scale_x) - np.float32(0.5),
            (y + np.float32(0.5 - self.box.top)) * np.float32(scale_y) - np.float32(0.5),
        )

    def kept(self) -> Motion:
        """As traces need it once it is settled: the field to a thousandth, in half the memory."""
        return self._replace(field=self.field.astype(np.float16), inside=self.inside[:, :0])

    def covers(self, x: Array, y: Array) -> Mask:
        """(N,): whether positions lie in the crop."""
        top, left, bottom, right = self.box
        return (x >= left) & (x <= right - 1) & (y >= top) & (y <= bottom - 1)

    def shift(self, x: Array, y: Array) -> Array:
        """(N, 2): the affine part of the displacement at positions in the frame."""
        basis = np.stack([np.ones_like(x), *_normalise(x, y, self.box)], -1)
        return (basis @ self.affine).astype(np.float32)


def sample(image: Array, x: Array, y: Array, interpolation: int = cv2.INTER_LINEAR) -> Array:
    """Values at positions, (N, C) in the image's type; beyond its edge, the edge's."""
    count, columns = len(x), 256
    if count == 0:
        return np.zeros((0, image.shape[-1]), image.dtype)
    rows = -(-count // columns)
    flat = np.zeros((2, rows * columns), np.float32)
    flat[0, :count], flat[1, :count] = x, y
    maps = flat.reshape(2, rows, columns)
    values = cv2.remap(image, maps[0], maps[1], interpolation, borderMode=cv2.BORDER_REPLICATE)
    return values.reshape(rows * columns, -1)[:count]


class Patch(NamedTuple):
    """A frame with a part of it replaced; the frame itself is not copied.

    Around what was replaced the box holds 8 pixels of the frame or more, unless the frame ends
    before: `sample` reads the one or the other.
    """

    frame: Pixels
    box: Box
    part: Pixels  # what the box shows

    @classmethod
    def of(cls, frame: Pixels) -> Patch:
        """A frame with nothing replaced."""
        return cls(frame, Box(0, 0, 0, 0), frame[:0, :0])

    def whole(self) -> Pixels:
        """The frame as it is now; not a copy where nothing was replaced."""
        if not self.part.size:
            return self.frame
        result = self.frame.copy()
        crop(result, self.box)[:] = self.part
        return result

    def crop(self, box: Box) -> Pixels:
        """A copy of what a box shows."""
        result = crop(self.frame, box).copy()
        top, left = max(box.top, self.box.top), max(box.left, self.box.left)
        bottom, right = min(box.bottom, self.box.bottom), min(box.right, self.box.right)
        if top < bottom and left < right:
            result[top - box.top : bottom - box.top, left - box.left : right - box.left] = crop(
                self.part, _moved(Box(top, left, bottom, right), self.box)
            )
        return result

    def sample(self, x: Array, y: Array, interpolation: int = cv2.INTER_LINEAR) -> Array:
        """`sample` of the whole frame, without making it."""
        height, width = self.frame.shape[:2]
        top, left, bottom, right = self.box
        near = (y >= top + 4) | (top == 0)  # kernels reach 2 pixels
        near &= (x >= left + 4) | (left == 0)
        near &= (y <= bottom - 5) | (bottom == height)
        near &= (x <= right - 5) | (right == width)
        if not (self.part.size and near.any()):
            return sample(self.frame, x, y, interpolation)
        shifted = x - np.float32(left), y - np.float32(top)
        if near.all():
            return sample(self.part, *shifted, interpolation)
        values = sample(self.frame, x, y, interpolation)
        values[near] = sample(self.part, shifted[0][near], shifted[1][near], interpolation)
        return values


# --- motion between two frames ---------------------------------------------------------------


def find_motion(
    first: Pixels, second: Pixels, first_mask: Mask, second_mask: Mask
) -> tuple[Motion, Motion]:
    """Motion from the first frame to the second and back, completed inside the holes.

    Measured with DIS on frames whose holes are filled smoothly, kept where forth and back agree and
    no hole is near, and completed: a robust affine fit, plus its residual filled by push-pull. The
    spread of the residuals that a completed pixel is made of is its expected error.

    Args:
        first, second: neighbouring frames of a shot.
        first_mask, second_mask: their holes; at least one is not empty.
    """
    box, size = _flow_crop(first_mask | second_mask)
    views = [_view(first, first_mask, box, size), _view(second, second_mask, box, size)]
    to_frame = np.array([box.width / size[0], box.height / size[1]], np.float32)
    flows = [_dense_flow(views[0].gray, views[1].gray), _dense_flow(views[1].gray, views[0].gray)]
    motions = []
    for here, there in ((0, 1), (1, 0)):
        trusted = _trusted(flows[here], flows[there], views[here].near, views[there].near)
        affine, field = _complete(flows[here] * to_frame, trusted, box)
        gain = _log_gain(views[here], views[there], flows[here], trusted)
        inside = np.stack(np.nonzero(views[here].mask)).astype(np.uint16)  # below SIDE_PIXELS
        drift = _drift(flows[here] * to_frame, trusted > 0)
        motions.append(Motion(box, affine, field, inside, gain, drift))
    return motions[0], motions[1]


class _View(NamedTuple):
    """A frame as flow sees it: cropped, at flow resolution, its hole filled."""

    gray: Array
    colors: Array  # a sparse sample, every fourth row and column, for the brightness
    mask: Mask
    near: Mask  # the hole and the margin around it


def _flow_crop(mask: Mask) -> tuple[Box, tuple[int, int]]:
    """The crop that flow runs on, and its size (width, height) at flow resolution."""
    height, width = mask.shape
    hole = find_box(mask)
    assert hole is not None
    scale = max(1.0, max(hole.height, hole.width) / (SIDE_PIXELS - 2 * CONTEXT_PIXELS))
    box = crop_box(hole, round(CONTEXT_PIXELS * scale), 4, height, width)
    scale = max(1.0, max(box.height, box.width) / SIDE_PIXELS)
    return box, (max(1, round(box.width / scale)), max(1, round(box.height / scale)))


def _view(frame: Pixels, mask: Mask, box: Box, size: tuple[int, int]) -> _View:
    pixels = to_unit(crop(frame, box))
    hole = crop(mask, box)
    if size != (box.width, box.height):
        known = (~hole).astype(np.float32)
        share = cv2.resize(known, size, interpolation=cv2.INTER_AREA)
        pixels = cv2.resize(pixels * known[..., None], size, interpolation=cv2.INTER_AREA)
        pixels = pixels / np.maximum(share, 1e-6)[..., None]
        hole = share < 1 - 1e-6
    gray = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    gray = push_pull(gray[..., None], (~hole).astype(np.float32))[..., 0]
    gray8 = np.rint(np.clip(gray, 0, 1) * 255).astype(np.uint8)
    return _View(gray8, pixels[::4, ::4], hole, dilate(hole, MARGIN_PIXELS))


_local = threading.local()


def _dense_flow(first: Array, second: Array) -> Array:
    """(h, w, 2): DIS optical flow, in pixels.

    Full resolution, and no variational refinement: it smooths across the edges of objects, and
    measured worse here at twice the cost.
    """
    if not hasattr(_local, "dis"):
        _local.dis = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
        _local.dis.setFinestScale(0)
        _local.dis.setPatchStride(5)
        _local.dis.setGradientDescentIterations(12)
        _local.dis.setVariationalRefinementIterations(0)
    height, width = first.shape
    pad = (0, max(0, 32 - height), 0, max(0, 32 - width))  # DIS needs room for its patches
    first = cv2.copyMakeBorder(first, *pad, cv2.BORDER_REPLICATE)
    second = cv2.copyMakeBorder(second, *pad, cv2.BORDER_REPLICATE)
    return _local.dis.calc(first, second, None)[:height, :width]


def _trusted(flow: Array, back: Array, near: Mask, near_there: Mask) -> Array:
    """(h, w), 1 where a measured flow may be believed, else 0."""
    position = _grid(*near.shape) + flow
    other = np.dstack([back, near_there.astype(np.float32)])
    x, y = cv2.split(position)
    landed: Array = cv2.remap(
        other, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=(0, 0, 1)
    )
    gap = ((flow + landed[..., :2]) ** 2).sum(-1)
    return (~near & (landed[..., 2] == 0) & (gap < AGREEMENT_PIXELS**2)).astype(np.float32)


def _complete(flow: Array, trusted: Array, box: Box) -> tuple[Array, Array]:
    """Fill the flow that is not trusted: (3, 2) affine, (h, w, 3) residual and expected error."""
    height, width = trusted.shape
    scale_x, scale_y = box.width / width, box.height / height
    columns, rows = _grid(height, width).transpose(2, 0, 1)
    x = (columns + 0.5) * scale_x - 0.5 + box.left
    y = (rows + 0.5) * scale_y - 0.5 + box.top
    basis = np.stack([np.ones_like(x), *_normalise(x, y, box)], -1).astype(np.float64)
    affine = _fit_affine(basis[::4, ::4], flow[::4, ::4], trusted[::4, ::4])
    residual = (flow - basis @ affine).astype(np.float32)
    squares = (residual**2).sum(-1, keepdims=True)
    filled = push_pull(np.dstack([residual, squares]), trusted)
    spread = np.sqrt(np.maximum(filled[..., 2] - (filled[..., :2] ** 2).sum(-1), 0))
    return affine, np.dstack([filled[..., :2], spread])


def _fit_affine(basis: Array, flow: Array, trusted: Array) -> Array:
    """(3, 2): robust least squares (Cauchy weights), zero where too little is trusted."""
    kept = trusted.ravel() > 0
    if kept.sum() < 20:
        return np.zeros((3, 2))
    terms = basis.reshape(-1, 3)[kept]
    wanted = flow.reshape(-1, 2)[kept].astype(np.float64)
    weights = np.ones(len(terms))
    for _ in range(4):
        weighted = terms * weights[:, None]
        affine = np.linalg.solve(weighted.T @ terms + 1e-6 * np.eye(3), weighted.T @ wanted)
        error = np.sqrt(((terms @ affine - wanted) ** 2).sum(1))
        weights = 1 / (1 + (error / max(1.5 * np.median(error), 0.1)) ** 2)
    return affine


def _drift(flow: Array, trusted: Mask) -> Array:
    """(4,): shift x and y, zoom and turn, in pixels half a side off the centre.

    Medians: what passes by a still camera does not move it.
    """
    if trusted.sum() < trusted.size / 4:
        return np.full(4, np.nan)
    height, width = trusted.shape
    moved = flow[trusted]
    if np.median((moved**2).sum(-1)) > STILL_PIXELS**2:
        return np.full(4, np.nan)
    arm = (_grid(height, width)[trusted] - [(width - 1) / 2, (height - 1) / 2]) / max(trusted.shape)
    square = np.maximum((arm**2).sum(-1), 1e-3)
    zoom = (arm * moved).sum(-1) / square
    turn = (arm[:, 0] * moved[:, 1] - arm[:, 1] * moved[:, 0]) / square
    return np.array([*np.median(moved, axis=0), np.median(zoom) / 2, np.median(turn) / 2])


def _log_gain(here: _View, there: _View, flow: Array, trusted: Array) -> Array:
    """(3,): by how much the second frame is brighter, log of a robust ratio for each channel."""
    kept = trusted[::4, ::4] > 0
    if kept.sum() < 100:
        return np.zeros(3)
    position = (_grid(*trusted.shape) + flow)[::4, ::4][kept]
    ours = here.colors[kept]
    theirs = sample(there.colors, position[:, 0] / 4, position[:, 1] / 4)
    gain = np.zeros(3)
    for channel in range(3):
        first, second = ours[:, channel], theirs[:, channel]
        usable = (first > 0.04) & (first < 0.96) & (second > 0.04) & (second < 0.96)
        first, second = first[usable], second[usable]
        for _ in range(3):
            if len(first) < 100:
                break
            ratio = second.sum() / first.sum()
            error = np.abs(second - ratio * first)
            fits = error <= 3 * np.median(error) + 1e-3
            first, second = first[fits], second[fits]
            gain[channel] = np.log(ratio)
    # On a grid of binary fractions sums along a trace are exact, in whatever order they are made.
    return np.round(gain * 2**20) / 2**20


def settle(
    forward: Mapping[int, Motion],
    backward: Mapping[int, Motion],
    map_: Callable[..., Iterable] = map,
) -> tuple[dict[int, Motion], dict[int, Motion]]:
    """Take the flow inside a hole from neighbouring frames where they are surer of it.

    What a hole hides now was seen, moving, shortly before or after; in an even motion its residual
    flow was the same. Each round looks one frame further, so a result depends on `SETTLE_ROUNDS`
    frames on each side and on nothing else.

    Args:
        forward: motion of frame t to t + 1, by t.
        backward: motion of frame t to t - 1, by t.
        map_: `map`, or that of a pool of workers.
    """
    pair = dict(forward), dict(backward)
    for _ in range(SETTLE_ROUNDS):
        before = pair
        pair = tuple(  # type: ignore[assignment]
            dict(zip(side, map_(partial(_improve, side, pair=before), side), strict=True))
            for side in before
        )
    return pair


def _improve(
    motions: Mapping[int, Motion], t: int, pair: tuple[Mapping[int, Motion], Mapping[int, Motion]]
) -> Motion:
    motion = motions[t]
    rows, columns = motion.inside
    best = motion.field[rows, columns]
    unsure = best[:, 2] > SETTLE_PIXELS  # a neighbour cannot be surer of the others
    if not unsure.any():
        return motion
    rows, columns, best = rows[unsure], columns[unsure], best[unsure]
    x, y = (position[unsure] for position in motion.positions())
    for step, path in ((1, pair[0].get(t)), (-1, pair[1].get(t))):
        neighbour = motions.get(t + step)
        if path is None or neighbour is None:
            continue
        moved = path.shift(x, y) + path.sample(x, y)[:, :2]
        there_x, there_y = x + moved[:, 0], y + moved[:, 1]
        theirs = neighbour.sample(there_x, there_y)
        theirs[:, 2] += SETTLE_PIXELS
        surer = (theirs[:, 2] < best[:, 2]) & neighbour.covers(there_x, there_y)
        best[surer] = theirs[surer]
    field = motion.field.copy()
    field[rows, columns] = best
    return motion._replace(field=field)


# --- traces through holes --------------------------------------------------------------------


class Trace(NamedTuple):
    """For each searched pixel of a frame, where it is seen: all (N,)."""

    rows: Array
    columns: Array
    source: Array  # the frame in which it is seen, -1 where it never is
    x: Array
    y: Array
    error: Array  # expected distance from the right place, in pixels


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
    for t in order:
        hole = hole_of(t)
        search = dilate(hole, RING_PIXELS)
        box = find_box(search) or Box(0, 0, 0, 0)
        rows, columns = (index.astype(np.int32) for index in np.nonzero(crop(search, box)))
        rows, columns = rows + np.int32(box.top), columns + np.int32(box.left)
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
        if len(rows) and motion is not None and before is not None:
            _follow(path, ages, motion, motions.get(before.frame), before, hole.shape, reach)
            _follow_on(path, ages, np.flatnonzero(ages > 1), steps, reach)
        numbers = np.full((box.height, box.width), -1, np.int32)
        numbers[rows - box.top, columns - box.left] = np.arange(len(rows), dtype=np.int32)
        numbers[~crop(hole, box)] = -1
        before = steps[t] = _Step(t, path, ages, numbers, box)
        if len(steps) > reach + 1:
            del steps[next(iter(steps))]
        yield t, path


class _Step(NamedTuple):
    """The traces of the neighbouring frame, ready to be met."""

    frame: int
    path: Trace
    ages: Array  # (N,) frames that each trace was followed for
    numbers: Array  # (h, w) which trace a pixel of the box has, -1 where it is known
    box: Box

    def meet(self, x: Array, y: Array) -> Array:
        """(N,): the traces of the pixels at whole positions, -1 where these are known."""
        met = np.full(len(x), -1, np.int32)
        row, column = y - self.box.top, x - self.box.left
        on = (row >= 0) & (row < self.box.height) & (column >= 0) & (column < self.box.width)
        met[on] = self.numbers[row[on], column[on]]
        return met


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
    path.x[seen], path.y[seen], path.error[seen] = x[seen], y[seen], own[seen, 2]
    if after is not None:
        # A pixel that moves on otherwise than it came is another object, passing by.
        judged = np.flatnonzero(seen & after.covers(x, y))
        theirs = after.sample(x[judged], y[judged])[:, :2]
        path.error[judged] += np.sqrt(((theirs - own[judged, :2]) ** 2).sum(1))

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
        near_x, near_y = np.rint(path.x).astype(np.int32), np.rint(path.y).astype(np.int32)
        ended_in = []
        by_source = moving[np.argsort(path.source[moving], kind="stable")]
        starts = np.flatnonzero(np.diff(path.source[by_source], prepend=-2))
        for here in np.split(by_source, starts[1:]):
            if len(here) == 0 or path.source[here[0]] < 0:
                continue
            step = steps[int(path.source[here[0]])]
            link = step.meet(near_x[here], near_y[here])
            here, link = here[link >= 0], link[link >= 0]
            if len(here) == 0:
                continue
            ended_in.append(here)
            ages[here] += step.ages[link]
            good = (step.path.source[link] >= 0) & (ages[here] <= reach)
            path.source[here] = np.where(good, step.path.source[link], -1)
            path.x[here] += step.path.x[link] - near_x[here]
            path.y[here] += step.path.y[link] - near_y[here]
            path.error[here] += np.where(good, step.path.error[link], np.inf)
        if not ended_in:
            return
        moving = np.concatenate(ended_in)
    path.source[moving] = -1


def gather(path: Trace, frames: Mapping[int, Patch], log_gains: Mapping[int, Array]) -> Array:
    """(N, 3) in [0, 1]: the colours at the ends of the traces, at the target frame's brightness.

    Args:
        path: the traces of one frame.
        frames: source frames, by number, their holes filled: sampling near a hole reaches into it.
        log_gains: log(level of the source frame / level of this frame), by source frame.
    """
    colors = np.zeros((len(path.rows), 3), np.float32)
    for source in np.unique(path.source[path.source >= 0]):
        here = np.flatnonzero(path.source == source)
        read = frames[source].sample(path.x[here], path.y[here], cv2.INTER_CUBIC)
        colors[here] = to_unit(read) * np.exp(-log_gains[source]).astype(np.float32)
    return colors


class Plate:
    """The mean of all sightings of each pixel while the camera stands still.

    Frames come and go one by one; sums are of whole numbers, so they do not depend on the order.
    """

    def __init__(self, show: Callable[[int], tuple[Pixels, Mask]]) -> None:
        """Hold nothing.

        Args:
            show: gives a frame and its hole; twice, once as it comes and once as it goes.
        """
        self._show = show
        self._held: set[int] = set()

    def look(self, frames: range) -> None:
        """Hold exactly these frames."""
        if self._held.isdisjoint(frames):
            first, _ = self._show(frames[0])
            self._held, self._dtype = set(), first.dtype
            self._sum = np.zeros(first.shape, np.int64)
            self._squares = np.zeros(first.shape, np.int64)
            self._count = np.zeros(first.shape[:2], np.int32)
        for t in self._held.difference(frames):
            self._add(*self._show(t), -1)
        for t in frames:
            if t not in self._held:
                self._add(*self._show(t), 1)
        self._held = set(frames)

    def _add(self, frame: Pixels, hole: Mask, sign: int) -> None:
        if np.issubdtype(frame.dtype, np.integer):
            counted = frame.astype(np.int64)
        else:
            # Highlights of scene-linear images lie above 1.
            counted = np.rint(np.clip(to_unit(frame), 0, 2) * PLATE_STEPS).astype(np.int64)
        counted[hole] = 0
        self._sum += sign * counted
        self._squares += sign * counted**2
        self._count += sign * ~hole

    def sight(self, hole: Mask) -> tuple[Trace, Array]:
        """What the plate shows of a hole, as `merge` takes it: traces and their colours."""
        rows, columns = np.nonzero(hole)
        is_integer = np.issubdtype(self._dtype, np.integer)
        full = np.iinfo(self._dtype).max if is_integer else PLATE_STEPS
        count = self._count[rows, columns]
        colors = self._sum[rows, columns] / (np.maximum(count, 1)[:, None] * np.float64(full))
        squares = self._squares[rows, columns] / (np.maximum(count, 1)[:, None] * full**2.0)
        spread = np.sqrt(np.maximum((squares - colors**2).mean(-1), 0))
        noise = min(1.5 * np.quantile(spread, 0.25), MAX_NOISE) if len(spread) else 0.0
        error = PLATE_ERROR + PLATE_SPREAD_ERROR * np.maximum(spread - noise, 0)
        seen = (count >= PLATE_FRAMES) & (error < PLATE_MAX_ERROR)
        error = (error * _error_unit(hole)).astype(np.float32)
        rows, columns, colors, error = rows[seen], columns[seen], colors[seen], error[seen]
        nothing = np.zeros(len(rows), np.float32)
        path = Trace(rows, columns, np.zeros(len(rows), np.int32), nothing, nothing, error)
        return path, colors.astype(np.float32)


def fill_quickly(frame: Patch, hole: Mask) -> Patch:
    """Fill a hole from its own frame by push-pull, so that nothing hidden is read beside it."""
    return _filled(frame, hole, push_pull)


def fill_smoothly(frame: Patch, hole: Mask) -> Patch:
    """Fill a hole from its own frame by the membrane that its border spans."""
    return _filled(frame, hole, membrane)


def _filled(frame: Patch, hole: Mask, fill: Callable[[Array, Array], Array]) -> Patch:
    box = find_box(hole)
    if box is None:
        return frame
    box = crop_box(box, CONTEXT_PIXELS, 1, *hole.shape)
    inside = crop(hole, box)
    pixels = frame.crop(box)
    filled = fill(to_unit(pixels), (~inside).astype(np.float32))
    pixels[inside] = from_unit(filled[inside], pixels.dtype)
    return replaced(frame, box, pixels)


def replaced(frame: Patch, box: Box, pixels: Pixels) -> Patch:
    """A frame with what a box shows replaced, beside what was replaced before."""
    if not frame.part.size or _covers(box, frame.box):
        return Patch(frame.frame, box, pixels)
    both = Box(
        min(box.top, frame.box.top),
        min(box.left, frame.box.left),
        max(box.bottom, frame.box.bottom),
        max(box.right, frame.box.right),
    )
    part = frame.crop(both)
    crop(part, _moved(box, both))[:] = pixels
    return Patch(frame.frame, both, part)


def membrane(values: Array, weights: Array) -> Array:
    """Fill what has no weight by Laplace's equation: each value is the mean of its neighbours.

    Args:
        values: (H, W, C).
        weights: (H, W), 1 known, 0 to be filled.

    Returns:
        (H, W, C) float32, to about 1/500 of the values' range. Nothing flows through the edge of
        the picture. Zeros where nothing at all is known.

    Source: multigrid V-cycles as in Briggs, Henson and McCormick, "A Multigrid Tutorial", 2000.
    """
    free = weights == 0
    filled = push_pull(values, weights).astype(np.float32)
    if not free.all():
        for _ in range(MEMBRANE_CYCLES):
            _relax(filled, free, np.zeros_like(filled))
    return filled


def _relax(values: Array, free: Mask, load: Array) -> None:
    """One V-cycle towards (sum of neighbours) - 4 values = load where free, in place."""

    inside = free[..., None].astype(np.float32)

    def excess() -> Array:
        bent = cv2.filter2D(values, -1, _LAPLACE, borderType=cv2.BORDER_REPLICATE)
        return (bent.reshape(values.shape) - load) * inside

    height, width = free.shape
    for _ in range(MEMBRANE_SWEEPS):
        values += 0.2 * excess()
    if min(height, width) > 2:
        size = ((width + 1) // 2, (height + 1) // 2)
        coarse_free = cv2.resize(free.astype(np.float32), size, interpolation=cv2.INTER_AREA) > 0.99
        if coarse_free.any():
            # Cells twice as wide: the same bend is four times the difference.
            coarse_load = -4 * cv2.resize(excess(), size, interpolation=cv2.INTER_AREA)
            coarse_load = coarse_load.reshape(*coarse_free.shape, -1)
            step = np.zeros_like(coarse_load)
            _relax(step, coarse_free, coarse_load)
            step = cv2.resize(step, (width, height), interpolation=cv2.INTER_LINEAR)
            values += step.reshape(values.shape) * inside
    for _ in range(MEMBRANE_SWEEPS):
        values += 0.2 * excess()


def _error_unit(mask: Mask) -> float:
    """What one pixel of a frame of `REFERENCE_ROWS` is in this one, in pixels."""
    return min(mask.shape) / REFERENCE_ROWS


def merge(
    frame: Patch,
    mask: Mask,
    paths: Sequence[Trace],
    colors: Sequence[Array],
    fades: Sequence[Array] | None = None,
) -> tuple[Patch, Mask]:
    """Fill a hole with what traces found, each weighted by how sure it is.

    The ring around the hole, known and traced alike, tells the difference of level between the two;
    it is taken from the hole's pixels, faded smoothly inwards. Where traces are unsure the result
    leans towards a smooth fill.

    Args:
        frame: (H, W, 3).
        mask: (H, W).
        paths: traces of the same pixels, forward and backward in time.
        colors: theirs, (N, 3) in [0, 1].
        fades: factors on how sure they are, (N,) in [0, 1]; 1 where None.

    Returns:
        The frame, known pixels untouched; and what is still hole.
    """
    height, width = mask.shape
    box = find_box(mask)
    if box is None:
        return frame, mask
    unit = _error_unit(mask)
    box = crop_box(box, 8 * RING_PIXELS, 1, height, width)
    weight = np.zeros((box.height, box.width), np.float32)
    total = np.zeros((box.height, box.width, 3), np.float32)
    for number, (path, found) in enumerate(zip(paths, colors, strict=True)):
        error = path.error / unit + LEAST_ERROR
        sure = (path.source >= 0) & (error < MAX_ERROR)
        rows, columns = path.rows[sure] - box.top, path.columns[sure] - box.left
        share = 1 / error[sure] ** SHARPNESS
        if fades is not None:
            share = share * fades[number][sure]
        weight[rows, columns] += share
        total[rows, columns] += share[:, None] * found[sure]
    hole, own = crop(mask, box), frame.crop(box)
    pixels = to_unit(own)
    found = total / np.maximum(weight, 1e-8)[..., None]
    confidence = weight * HALF_ERROR**SHARPNESS
    confidence = confidence / (1 + confidence)

    step = np.clip(pixels - found, -MAX_LEVEL_STEP, MAX_LEVEL_STEP)
    # With so little weight each, many pixels of the ring are averaged: levels, not their noise.
    found += push_pull(step, np.where(hole, 0, LEVEL_WEIGHT * confidence))
    found = np.where(hole[..., None], found, pixels)
    filled = push_pull(found, np.where(hole, confidence, 1).astype(np.float32))

    own[hole] = from_unit(filled[hole], own.dtype)
    remaining = np.zeros_like(mask)
    crop(remaining, box)[hole] = weight[hole] == 0
    return replaced(frame, box, own), remaining


# --- scene cuts ------------------------------------------------------------------------------


def is_cut(previous: Pixels, frame: Pixels) -> bool:
    """Whether a new shot begins between two frames.

    A cut changes the colours and leaves hardly a pixel whose flow forth and back agrees.
    """
    small = [_thumbnail(image) for image in (previous, frame)]
    histograms = []
    for image in small:
        counts = cv2.calcHist([image], [0, 1, 2], None, [8, 8, 8], [0, 256] * 3)
        histograms.append(counts / counts.sum())
    if np.minimum(*histograms).sum() > CUT_HISTOGRAM:
        return False
    gray = [cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for image in small]
    nothing = np.zeros(gray[0].shape, bool)
    with one_thread():
        flow, back = _dense_flow(gray[0], gray[1]), _dense_flow(gray[1], gray[0])
    return float(_trusted(flow, back, nothing, nothing).mean()) < CUT_AGREEMENT


def _thumbnail(frame: Pixels) -> Array:
    height, width = frame.shape[:2]
    scale = max(1.0, max(height, width) / 160)
    size = (max(1, round(width / scale)), max(1, round(height / scale)))
    small = to_unit(cv2.resize(frame, size, interpolation=cv2.INTER_AREA))
    return np.rint(np.clip(small, 0, 1) * 255).astype(np.uint8)


# --- small things ----------------------------------------------------------------------------


def to_unit(pixels: Array) -> Array:
    """Pixels of any type as float32 in [0, 1]; what is not finite must not spread: NaN is 0."""
    if np.issubdtype(pixels.dtype, np.integer):
        return pixels.astype(np.float32) / np.float32(np.iinfo(pixels.dtype).max)
    return np.nan_to_num(pixels.astype(np.float32), nan=0.0, posinf=1.0, neginf=0.0)


def from_unit(values: Array, dtype: np.dtype) -> Array:
    """The inverse of `to_unit`: integers are rounded and clamped, floats clamped at 0 only."""
    if np.issubdtype(dtype, np.integer):
        full = np.iinfo(dtype).max
        return np.rint(np.clip(values, 0, 1) * full).astype(dtype)
    return np.maximum(values, 0).astype(dtype)


def crop(array: Array, box: Box) -> Array:
    """The part of (H, W, ...) inside the box: a view."""
    return array[box.top : box.bottom, box.left : box.right]


def _moved(box: Box, origin: Box) -> Box:
    """A box of the frame, counted from the corner of another."""
    return Box(
        box.top - origin.top,
        box.left - origin.left,
        box.bottom - origin.top,
        box.right - origin.left,
    )


def _covers(box: Box, other: Box) -> bool:
    return (
        box.top <= other.top
        and box.left <= other.left
        and box.bottom >= other.bottom
        and box.right >= other.right
    )


def find_box(mask: Mask) -> Box | None:
    """The smallest box around the hole, None where there is no hole."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if len(rows) == 0:
        return None
    return Box(int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1)


def dilate(mask: Mask, pixels: int) -> Mask:
    """Grow a mask by a disk."""
    disk = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * pixels + 1, 2 * pixels + 1))
    return cv2.dilate(mask.view(np.uint8), disk).view(np.bool_)


class _OneThread:
    """How many are within `one_thread`: the setting is the whole process's."""

    lock = threading.Lock()
    users = 0
    before = 0


@contextmanager
def one_thread() -> Iterator[None]:
    """OpenCV on one thread: DIS cuts a frame into as many stripes as there are threads, and its
    result depends on them. Frames run in parallel instead. Threads may enter and leave it in any
    order; the last to leave restores the setting."""
    with _OneThread.lock:
        if _OneThread.users == 0:
            _OneThread.before = cv2.getNumThreads()
            cv2.setNumThreads(1)
        _OneThread.users += 1
    try:
        yield
    finally:
        with _OneThread.lock:
            _OneThread.users -= 1
            if _OneThread.users == 0:
                cv2.setNumThreads(_OneThread.before)


def parallel(num_threads: int) -> ThreadPoolExecutor:
    """Workers for frames; OpenCV and NumPy release Python's lock."""
    return ThreadPoolExecutor(num_threads, thread_name_prefix="combcn")


def _grid(height: int, width: int) -> Array:
    """(H, W, 2): x and y of every pixel."""
    x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    return np.stack([x, y], -1)


def _normalise(x: Array, y: Array, box: Box) -> tuple[Array, Array]:
    """Positions relative to the centre of a box, in its longer side, for well-posed fits."""
    side = np.float32(max(box.height, box.width))
    return (
        (x - np.float32((box.left + box.right - 1) / 2)) / side,
        (y - np.float32((box.top + box.bottom - 1) / 2)) / side,
    )
