"""Where the pixels of a frame are in its neighbour, inside holes too.

Optical flow is measured where both frames are known, and completed inside the hole. The constants
were chosen on clips split off from training footage, with synthetic holes.
"""

from __future__ import annotations

import functools
import threading
from typing import NamedTuple

import cv2
import numpy as np

from combcn_core.fill.blur import detail, log_ratio
from combcn_core.fill.levels import off_centre, robust_log_gain
from combcn_core.fill.smooth import push_pull
from combcn_core.pixels import (
    Array,
    Box,
    Mask,
    PackedMask,
    Stored,
    crop_box,
    crop_stored,
    dilate,
    grid,
    sample,
    to_unit,
    union,
    weighted,
)

SIDE_PIXELS = 640  # flow runs on a crop whose long side is at most this
CONTEXT_PIXELS = 64  # of known frame around the hole, at flow resolution
MARGIN_PIXELS = 6  # flow this near to a hole has seen the fill, and is not trusted
AGREEMENT_PIXELS = 1.0  # flow forward and backward must return this near to be trusted
GRID_STEP = 2  # pixels of flow resolution to a point of the grid that motion is kept on
# A hole is completed from all around, and from what is so many times as wide as high, or as high as
# wide: flow of the ground hardly changes along a row, that of a wall seen aslant along a column.
ELONGATION = 8
LEAST_SPREAD = 0.05  # of the flow that a completed pixel is made of, in pixels
SOFT_PIXELS = 5  # side of the square that levels are compared over
STILL_PIXELS = 0.5  # the camera stands still between frames if the flow of most pixels is less


class Motion(NamedTuple):
    """Where the pixels of one frame are in a neighbouring one, around the hole.

    An affine motion of the whole crop plus a residual on a grid, in pixels of the frame.
    """

    box: Box  # the crop, in the frame
    affine: Array  # (3, 2): of 1, x and y, normalised to the crop
    field: Array  # (h, w, 3): residual x, residual y, expected error; float32, or 16 to be kept
    log_gain: Array  # (3,): log(level of the neighbour / level of this frame)
    log_detail: float  # log(detail of the neighbour / detail of this frame), see `blur`
    outward: float  # mean of how much farther off the centre places are there, see `off_centre`
    drift: Array  # (4,): median shift x and y, zoom and turn, NaN where most pixels move

    @property
    def scale(self) -> tuple[float, float]:
        """Grid points per pixel, along x and y."""
        height, width = self.field.shape[:2]
        return width / self.box.width, height / self.box.height

    @property
    def measured(self) -> Mask:
        """(h, w), where the flow was measured; elsewhere it is completed and may be wrong."""
        known: Mask = self.field[..., 2] == 0
        return known

    def positions(self, rows: Array, columns: Array) -> tuple[Array, Array]:
        """x, y in the frame of grid points, each (N,)."""
        scale_x, scale_y = self.scale
        rows, columns = rows.astype(np.float32), columns.astype(np.float32)
        return (
            (columns + np.float32(0.5)) / np.float32(scale_x) - np.float32(0.5 - self.box.left),
            (rows + np.float32(0.5)) / np.float32(scale_y) - np.float32(0.5 - self.box.top),
        )

    def on_grid(self, x: Array, y: Array) -> tuple[Array, Array]:
        """Columns and rows of the grid, each (N,), of positions in the frame."""
        scale_x, scale_y = self.scale
        return (
            (x + np.float32(0.5 - self.box.left)) * np.float32(scale_x) - np.float32(0.5),
            (y + np.float32(0.5 - self.box.top)) * np.float32(scale_y) - np.float32(0.5),
        )

    def nearest(self, x: Array, y: Array) -> Array:
        """(N,): the grid points nearest to positions in the frame, numbered row by row."""
        height, width = self.field.shape[:2]
        column, row = (np.rint(part).astype(np.int64) for part in self.on_grid(x, y))
        return np.clip(row, 0, height - 1) * width + np.clip(column, 0, width - 1)

    def sample(self, x: Array, y: Array) -> Array:
        """(N, 3): residual and expected error at positions in the frame."""
        return sample(self.opened().field, *self.on_grid(x, y))

    def displaced(self, x: Array, y: Array) -> tuple[Array, Array]:
        """x, y in the neighbouring frame of positions in this one, each (N,)."""
        shift = self.shift(x, y) + self.sample(x, y)[:, :2]
        return x + shift[:, 0], y + shift[:, 1]

    def kept(self) -> Motion:
        """As traces need it once it is settled: the field to a thousandth, in half the memory."""
        return self._replace(field=self.field.astype(np.float16))

    def opened(self) -> Motion:
        """With the field in float32."""
        if self.field.dtype == np.float32:
            return self
        return self._replace(field=np.take(_halves(), self.field.view(np.uint16)))

    def covers(self, x: Array, y: Array) -> Mask:
        """(N,): whether positions lie in the crop."""
        top, left, bottom, right = self.box
        return (x >= left) & (x <= right - 1) & (y >= top) & (y <= bottom - 1)

    def shift(self, x: Array, y: Array) -> Array:
        """(N, 2): the affine part of the displacement at positions in the frame."""
        x, y = normalise(x, y, self.box)
        none, one, two = self.affine.astype(np.float32)
        return np.stack([x * one[side] + (y * two[side] + none[side]) for side in (0, 1)], -1)


@functools.cache
def _halves() -> Array:
    """Every float16 as float32, by its bits: looked up in less time than converted."""
    return np.arange(2**16, dtype=np.uint16).view(np.float16).astype(np.float32)


def find_motion(
    first: Stored, second: Stored, first_hole: PackedMask, second_hole: PackedMask
) -> tuple[Motion, Motion]:
    """Motion from the first frame to the second and back, completed inside the holes.

    Measured with DIS on frames whose holes are filled smoothly, kept where forward and backward
    agree and no hole is near, and completed: a robust affine fit, plus its residual filled by
    push-pull, from all around, from left and right, and from above and below. The spread of the
    residuals that a completed pixel is made of is its expected error, and tells which of the three
    counts most there.

    Args:
        first, second: neighbouring frames of a shot.
        first_hole, second_hole: theirs; at least one is not empty.
    """
    holes = [hole.box for hole in (first_hole, second_hole) if hole.box is not None]
    box, size = _flow_crop(functools.reduce(union, holes), *first_hole.shape)
    views = [_view(first, first_hole, box, size), _view(second, second_hole, box, size)]
    to_frame = np.array([box.width / size[0], box.height / size[1]], np.float32)
    flows = [dense_flow(views[0].gray, views[1].gray), dense_flow(views[1].gray, views[0].gray)]
    motions = []
    for here, there in ((0, 1), (1, 0)):
        trusted = trusted_flow(flows[here], flows[there], views[here].near, views[there].near)
        affine, field = _complete(*_coarser(flows[here] * to_frame, trusted), box)
        place, there_place = _sampled(flows[here], trusted)
        gain = robust_log_gain(
            sample(views[here].soft, *place.T), sample(views[there].soft, *there_place.T)
        )
        inner = _within(place, size) & _within(there_place, size)
        log_detail = _log_zoom(affine, box) + log_ratio(
            sample(views[here].detail, *place[inner].T),
            sample(views[there].detail, *there_place[inner].T),
        )
        outward = _outward(place, there_place, trusted.shape, box, first_hole.shape)
        drift = _drift(flows[here] * to_frame, trusted > 0)
        motions.append(Motion(box, affine, field, gain, log_detail, outward, drift))
    return motions[0], motions[1]


class _View(NamedTuple):
    """A frame as flow sees it: cropped, at flow resolution, its hole filled."""

    gray: Array
    soft: Array  # colours, so soft that interpolation makes them no softer
    detail: Array  # (h, w, 1)
    near: Mask  # the hole and the margin around it


def _flow_crop(hole: Box, height: int, width: int) -> tuple[Box, tuple[int, int]]:
    """The crop that flow runs on, and its size (width, height) at flow resolution."""
    scale = max(1.0, max(hole.height, hole.width) / (SIDE_PIXELS - 2 * CONTEXT_PIXELS))
    box = crop_box(hole, round(CONTEXT_PIXELS * scale), 4, height, width)
    scale = max(1.0, max(box.height, box.width) / SIDE_PIXELS)
    return box, (max(1, round(box.width / scale)), max(1, round(box.height / scale)))


def _view(frame: Stored, mask: PackedMask, box: Box, size: tuple[int, int]) -> _View:
    pixels = to_unit(crop_stored(frame, box))
    hole = mask.crop(box)
    if size != (box.width, box.height):
        known = (~hole).astype(np.float32)
        share = cv2.resize(known, size, interpolation=cv2.INTER_AREA)
        pixels = cv2.resize(weighted(pixels, known), size, interpolation=cv2.INTER_AREA)
        pixels = weighted(pixels, 1 / np.maximum(share, 1e-6))
        hole = share < 1 - 1e-6
    gray = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    gray = push_pull(gray[..., None], (~hole).astype(np.float32))[..., 0]
    gray8 = np.rint(np.clip(gray, 0, 1) * 255).astype(np.uint8)
    known = (~hole).astype(np.float32)
    soft: Array = cv2.merge([weighted(pixels, known), known])
    for _ in range(2):
        soft = cv2.blur(soft, (SOFT_PIXELS, SOFT_PIXELS))
    soft = weighted(soft[..., :3], 1 / np.maximum(soft[..., 3], 1e-3))
    return _View(gray8, soft, detail(gray8)[..., None], dilate(hole, MARGIN_PIXELS))


_local = threading.local()


def dense_flow(first: Array, second: Array) -> Array:
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


def trusted_flow(flow: Array, back: Array, near: Mask, near_there: Mask) -> Array:
    """(h, w), 1 where a measured flow may be believed, else 0."""
    x, y = cv2.split(grid(*near.shape) + flow)
    other = cv2.merge([back, near_there.astype(np.float32)])
    landed: Array = cv2.remap(
        other, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=(0, 0, 1)
    )
    gap = (flow[..., 0] + landed[..., 0]) ** 2 + (flow[..., 1] + landed[..., 1]) ** 2
    return (~near & (landed[..., 2] == 0) & (gap < AGREEMENT_PIXELS**2)).astype(np.float32)


def _coarser(flow: Array, trusted: Array) -> tuple[Array, Array]:
    """Means of trusted flow over cells of a grid; and where it is known: where most of one is.

    The grid is `GRID_STEP` as coarse, and still finer than the patches that flow is measured on.
    """
    height, width = trusted.shape
    size = -(-width // GRID_STEP), -(-height // GRID_STEP)
    share = cv2.resize(trusted, size, interpolation=cv2.INTER_AREA)
    flow = cv2.resize(weighted(flow, trusted), size, interpolation=cv2.INTER_AREA)
    return weighted(flow, 1 / np.maximum(share, 1e-6)), (share >= 0.5).astype(np.float32)


def _complete(flow: Array, trusted: Array, box: Box) -> tuple[Array, Array]:
    """Fill the flow that is not trusted: (3, 2) affine, (h, w, 3) residual and expected error."""
    height, width = trusted.shape
    x = (np.arange(width, dtype=np.float64) + 0.5) * (box.width / width) - 0.5 + box.left
    y = (np.arange(height, dtype=np.float64) + 0.5) * (box.height / height) - 0.5 + box.top
    x, y = normalise(x, y, box)
    across, down = np.meshgrid(x[::2], y[::2])
    basis = np.stack([np.ones_like(across), across, down], -1)
    affine = _fit_affine(basis, flow[::2, ::2], trusted[::2, ::2])
    shift = [
        (y[:, None] * two + (x * one + none)).astype(np.float32) for none, one, two in affine.T
    ]
    residual = flow - cv2.merge(shift)
    squares = residual[..., 0] ** 2 + residual[..., 1] ** 2
    layers = cv2.merge([residual, squares])
    wide = max(1, round(width / ELONGATION)), height
    high = width, max(1, round(height / ELONGATION))
    total = np.zeros_like(layers)
    shares = np.zeros_like(trusted)
    for filled in (
        push_pull(layers, trusted),
        _filled_along(layers, trusted, wide),
        _filled_along(layers, trusted, high),
    ):
        x, y, squares = cv2.split(filled)
        spread = np.sqrt(np.maximum(squares - x**2 - y**2, 0))
        share = 1 / (spread + np.float32(LEAST_SPREAD)) ** 4
        total += weighted(cv2.merge([x, y, spread]), share)
        shares += share
    field = weighted(total, 1 / shares)
    cv2.copyTo(cv2.merge([residual, np.zeros_like(trusted)]), trusted.astype(np.uint8), field)
    return affine, field


def _filled_along(layers: Array, trusted: Array, size: tuple[int, int]) -> Array:
    """`push_pull` at another size (width, height): from farther along the side it makes shorter."""
    share = cv2.resize(trusted, size, interpolation=cv2.INTER_AREA)
    layers = cv2.resize(weighted(layers, trusted), size, interpolation=cv2.INTER_AREA)
    filled = push_pull(weighted(layers, 1 / np.maximum(share, 1e-6)), share)
    return cv2.resize(filled, trusted.shape[::-1], interpolation=cv2.INTER_LINEAR)


def _fit_affine(basis: Array, flow: Array, trusted: Array) -> Array:
    """(3, 2): robust least squares (Cauchy weights), zero where too little is trusted."""
    kept = trusted.ravel() > 0
    if kept.sum() < 20:
        return np.zeros((3, 2))
    terms = basis.reshape(-1, 3)[kept]
    wanted = flow.reshape(-1, 2)[kept].astype(np.float64)
    weights = np.ones(len(terms))
    for _ in range(4):
        left = (terms * weights[:, None]).T
        affine = np.linalg.solve(left @ terms + 1e-6 * np.eye(3), left @ wanted)
        error = np.sqrt(((terms @ affine - wanted) ** 2).sum(1))
        weights = 1 / (1 + (error / max(1.5 * np.median(error), 0.1)) ** 2)
    return affine


def _drift(flow: Array, trusted: Mask) -> Array:
    """(4,): shift x and y, zoom and turn, in pixels half a side off the centre.

    Medians: what passes by a still camera does not move it.
    """
    if np.count_nonzero(trusted) < trusted.size / 4:
        return np.full(4, np.nan)
    height, width = trusted.shape
    moved = flow[trusted]
    if 2 * np.count_nonzero(_dot(moved, moved) > STILL_PIXELS**2) > len(moved):
        return np.full(4, np.nan)
    arm = grid(height, width)[trusted] - [(width - 1) / 2, (height - 1) / 2]
    arm /= max(trusted.shape)
    square = np.maximum(_dot(arm, arm), 1e-3)
    zoom = _dot(arm, moved) / square
    turn = (arm[:, 0] * moved[:, 1] - arm[:, 1] * moved[:, 0]) / square
    return np.array([*np.median(moved, axis=0), np.median(zoom) / 2, np.median(turn) / 2])


def _dot(first: Array, second: Array) -> Array:
    """(N,): products of the rows of (N, 2), many times as fast as (first * second).sum(-1)."""
    return first[:, 0] * second[:, 0] + first[:, 1] * second[:, 1]


def _sampled(flow: Array, trusted: Array) -> tuple[Array, Array]:
    """(N, 2) twice: some places whose flow is trusted, here and there, in the crop."""
    kept = trusted[::4, ::4] > 0
    here = grid(*trusted.shape)
    return here[::4, ::4][kept], (here + flow)[::4, ::4][kept]


def _within(place: Array, size: tuple[int, int]) -> Mask:
    """(N,): whether places are inside a crop of a size, not on its edge, where nothing is steep."""
    inside: Mask = (place >= 1) & (place <= np.array(size) - 2)
    return inside[:, 0] & inside[:, 1]


def _log_zoom(affine: Array, box: Box) -> float:
    """log of how much larger an affine motion of a crop makes what it shows."""
    matrix = np.eye(2) + affine[1:] / max(box.height, box.width)
    return 0.5 * float(np.log(max(abs(np.linalg.det(matrix)), 1e-6)))


def _outward(
    here: Array, there: Array, size: tuple[int, ...], box: Box, shape: tuple[int, ...]
) -> float:
    """By how much farther off the centre of the frame places of the crop are there, in the mean."""
    if not len(here):
        return 0.0
    scale = np.array([box.width / size[1], box.height / size[0]], np.float32)
    first = np.array([box.left, box.top], np.float32) + (scale - 1) / 2
    both = [off_centre(*(place * scale + first).T, *shape) for place in (here, there)]
    return float(np.mean(both[1] - both[0], dtype=np.float64))


def speed(both: tuple[Motion | None, Motion | None], box: Box) -> Array:
    """(2,): how far the middle of a box goes in the time of a frame, along x and y, in pixels.

    Args:
        both: motion of its frame, to the next one and to the one before.
        box: in the frame.
    """
    x = np.array([box.left + box.right - 1], np.float32) / 2
    y = np.array([box.top + box.bottom - 1], np.float32) / 2
    shifts = [
        sign * motion.shift(x, y)[0]
        for sign, motion in zip((1, -1), both, strict=True)
        if motion is not None
    ]
    return np.asarray(np.mean(shifts, 0)) if shifts else np.zeros(2)


def normalise(x: Array, y: Array, box: Box) -> tuple[Array, Array]:
    """Positions relative to the centre of a box, in its longer side, for well-posed fits."""
    side = np.float32(max(box.height, box.width))
    return (
        (x - np.float32((box.left + box.right - 1) / 2)) / side,
        (y - np.float32((box.top + box.bottom - 1) / 2)) / side,
    )
