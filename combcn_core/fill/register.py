"""Source frames registered directly to a frame: no chain of steps, so nothing drifts.

A trace follows a pixel from frame to frame, and its errors add up; behind an object that the camera
follows it is lost. The background around the hole is there in both frames all the same: features
beside the hole are tracked from one to the other, a robust homography follows from them, and dense
flow along its border takes up what is no plane. All of it at a bounded size.

Source: Granados et al., "Background inpainting for videos with dynamic objects and a free-moving
camera", ECCV 2012, which registers sources by homographies too; ours are tracked, and bent by flow.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np

from combcn_core.fill.levels import LEAST_PAIRS, measure_falloff, off_centre, robust_log_gain
from combcn_core.fill.motion import Motion, dense_flow
from combcn_core.fill.smooth import push_pull
from combcn_core.pixels import (
    Array,
    Mask,
    Stored,
    crop,
    crop_box,
    dilate,
    find_box,
    grid,
    shrunk,
    to_unit,
    weighted,
)

SIDE_PIXELS = 640  # sources are registered on frames whose long side is at most this
CELL_PIXELS = 2  # of such a frame, for which one source is chosen
CONTEXT_PIXELS = 64  # of known frame around the hole
RING_PIXELS = 20  # around the hole, by which a source is judged
NEAR_PIXELS = 5  # features this near to a hole may belong to the object
RIM_PIXELS = 2  # of a source beside its own hole are not used: soft edges
SOFT_PIXELS = 1.5  # colours are compared without what half a pixel out of place would change
MAX_FEATURES, LEAST_FEATURES, FEATURE_PIXELS = 160, 12, 7
TRACKED_PIXELS = 15  # side of a feature
RETURN_PIXELS = 0.7  # tracked forward and backward, a feature must return this near
FIT_PIXELS, LEAST_FITTING = 1.0, 0.4  # so well must a homography fit this share of them
MAX_BEND_PIXELS = 6.0  # what flow may add to a homography
ALIKE, FLAT_GAP = 0.7, 0.02  # correlation, and gap in [0, 1], of pictures of the same
MATCH = 0.06  # of the values' range: worse matches say nothing of how a source is bent


class Scale(NamedTuple):
    """Pixels of the frame in one of the small frame, along x and y."""

    x: float
    y: float

    def to_frame(self, x: Array, y: Array) -> tuple[Array, Array]:
        """Positions in the small frame as positions in the frame."""
        half = np.float32(0.5)
        scale_x, scale_y = np.float32(self.x), np.float32(self.y)
        return (x + half) * scale_x - half, (y + half) * scale_y - half

    def to_small(self, x: Array, y: Array) -> tuple[Array, Array]:
        """Positions in the frame as positions in the small frame."""
        half = np.float32(0.5)
        scale_x, scale_y = np.float32(self.x), np.float32(self.y)
        return (x + half) / scale_x - half, (y + half) / scale_y - half


class Small(NamedTuple):
    """A frame at the size that sources are registered at."""

    soft: Array  # (h, w, 3) in [0, 1]; empty in frames that only show how the camera moves
    gray: Array  # (h, w) uint8, the hole filled smoothly
    hole: Mask  # wherever any hole pixel falls into the pixel
    hidden: Array  # (h, w) uint8, 1 in the hole and where features may belong to the object
    scale: Scale

    @classmethod
    def of(cls, frame: Stored, mask: Mask, *, is_colored: bool = True) -> Small:
        """A frame and its hole made small, not larger than they are."""
        height, width = mask.shape
        factor = max(1.0, max(height, width) / SIDE_PIXELS)
        size = max(1, round(width / factor)), max(1, round(height / factor))
        colors: Array = to_unit(shrunk(frame, *size))
        known = (~mask).astype(np.float32)
        if size != (width, height):
            share = cv2.resize(known, size, interpolation=cv2.INTER_AREA)
            known = (share > 1 - 1e-6).astype(np.float32)
        hole = known == 0
        colors[hole] = 0  # what is in the hole must not be seen beside it
        gray = push_pull(cv2.cvtColor(colors, cv2.COLOR_RGB2GRAY)[..., None], known)[..., 0]
        gray8 = np.rint(np.clip(gray, 0, 1) * 255).astype(np.uint8)
        soft: Array = np.zeros((0, 0, 3), np.float32)
        if is_colored:
            blurred = cv2.GaussianBlur(cv2.merge([colors, known]), (0, 0), SOFT_PIXELS)
            soft = weighted(blurred[..., :3], 1 / np.maximum(blurred[..., 3], 1e-3))
        hidden = dilate(hole, NEAR_PIXELS).astype(np.uint8)
        return cls(soft, gray8, hole, hidden, Scale(width / size[0], height / size[1]))


def project(homography: Array, x: Array, y: Array) -> tuple[Array, Array]:
    """Positions through a homography, float32."""
    (a, b, c), (d, e, f), (g, h, i) = homography.astype(np.float32)
    depth = g * x + h * y + i
    return (a * x + b * y + c) / depth, (d * x + e * y + f) / depth


def homography_of(motion: Motion, scale: Scale) -> Array:
    """(3, 3): the affine part of a motion, between small frames."""
    box, side = motion.box, max(motion.box.height, motion.box.width)
    center = np.array([(box.left + box.right - 1) / 2, (box.top + box.bottom - 1) / 2])
    matrix, to_frame = np.eye(3), np.eye(3)
    matrix[:2, :2] += motion.affine[1:].T / side
    matrix[:2, 2] = motion.affine[0] - (motion.affine[1:].T / side) @ center
    to_frame[[0, 1], [0, 1]] = scale
    to_frame[:2, 2] = (np.array(scale) - 1) / 2
    return np.linalg.inv(to_frame) @ matrix @ to_frame


class Registered(NamedTuple):
    """A source frame as it looks from a target, on the target's cells."""

    source: int
    homography: Array  # (3, 3), from the target to the source, both small
    x: Array  # (h, w), in the source, small
    y: Array
    soft: Array  # (h, w, 3); at the target's level once that is known
    seen: Mask  # (h, w): where the source knows what is there
    outward: Array  # (h, w): how much farther off the centre it is there, see `off_centre`
    log_gain: Array  # (3,): log(level of the source / level of the target)


class Target:
    """A frame to which sources are registered, cut to its hole and what is around it.

    Attributes:
        frame: the whole of it.
        box: the cut, in the small frame.
        x, y: (h, w), centres of the cells, in the small frame.
        hole: (h, w), cells with a hole in them.
        known: (h, w), cells that are known and not near the hole.
        ring: (h, w), known cells around the hole.
        soft: (h, w, 3), colours of the cells.
    """

    def __init__(self, frame: Small) -> None:
        """Find the features around a hole, which must not be empty."""
        hole = find_box(frame.hole)
        assert hole is not None
        self.frame = frame
        self.box = crop_box(hole, CONTEXT_PIXELS, 1, *frame.hole.shape)
        self._gray = np.ascontiguousarray(crop(frame.gray, self.box))
        self._hidden = crop(frame.hidden, self.box)
        half = np.float32((CELL_PIXELS - 1) / 2)
        self.x, self.y = np.meshgrid(
            half + np.arange(self.box.left, self.box.right, CELL_PIXELS, dtype=np.float32),
            half + np.arange(self.box.top, self.box.bottom, CELL_PIXELS, dtype=np.float32),
        )
        grown = dilate(frame.hole, RING_PIXELS).astype(np.float32)
        inside = dilate(frame.hole, 1).astype(np.float32)
        self.hole = self._on_cells(frame.hole.astype(np.float32)) > 0
        self.known = self._on_cells(frame.hidden.astype(np.float32)) == 0
        self.ring = (self._on_cells(grown) == 1) & (self._on_cells(inside) == 0)
        self.soft = self._on_cells(frame.soft)
        found = cv2.goodFeaturesToTrack(
            self._gray, MAX_FEATURES, 0.01, FEATURE_PIXELS, mask=1 - self._hidden
        )
        self._features = np.zeros((0, 1, 2), np.float32) if found is None else found
        self._offset = np.eye(3)
        self._offset[:2, 2] = self.box.left, self.box.top

    def _on_cells(self, image: Array) -> Array:
        return cv2.remap(image, self.x, self.y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)

    def align(self, source: Small, start: Array) -> Array:
        """(3, 3): the homography to a source, from a first guess; the guess if nothing fits."""
        if len(self._features) < LEAST_FEATURES:
            return start
        warped, seen = self._view(source, start)
        there, found = _track(self._gray, warped, self._features)
        back, found_back = _track(warped, self._gray, there)
        place = np.rint(there[:, 0]).astype(np.int32)
        good = found & found_back
        good &= np.abs(back - self._features).max((1, 2)) < RETURN_PIXELS
        good &= (place >= 0).all(1) & (place < seen.shape[::-1]).all(1)
        good[good] &= seen[place[good, 1], place[good, 0]]
        if good.sum() < LEAST_FEATURES:
            return start
        step, fitting = cv2.findHomography(
            self._features[good], there[good], cv2.USAC_MAGSAC, FIT_PIXELS, maxIters=1000
        )
        if step is None or fitting.sum() < max(LEAST_FEATURES, LEAST_FITTING * good.sum()):
            return start
        # From the crop to the warped crop, and from there as before.
        return start @ self._offset @ step @ np.linalg.inv(self._offset)

    def _view(self, source: Small, homography: Array) -> tuple[Array, Mask]:
        """The source's gray as seen from the crop, and where features may be believed."""
        matrix, size = homography @ self._offset, (self.box.width, self.box.height)
        warp = cv2.WARP_INVERSE_MAP
        gray = cv2.warpPerspective(
            source.gray,
            matrix,
            size,
            flags=cv2.INTER_LINEAR | warp,
            borderMode=cv2.BORDER_REPLICATE,
        )
        hidden = cv2.warpPerspective(
            source.hidden, matrix, size, flags=cv2.INTER_NEAREST | warp, borderValue=1
        )
        return gray, hidden == 0

    def register(self, number: int, source: Small, homography: Array, *, bends: bool) -> Registered:
        """How a source looks from here, at its own level.

        Args:
            number: of the source frame.
            source: the frame.
            homography: from `align`.
            bends: whether flow along the border of the hole is added.
        """
        x, y = self.x, self.y
        if bends:
            bend = self._bend(source, homography)
            x, y = x + bend[..., 0], y + bend[..., 1]
        there_x, there_y = project(homography, x, y)
        edge = cv2.BORDER_REPLICATE
        soft = cv2.remap(source.soft, there_x, there_y, cv2.INTER_LINEAR, borderMode=edge)
        rim = dilate(source.hole, RIM_PIXELS).astype(np.float32)
        hidden = cv2.remap(
            rim,
            there_x,
            there_y,
            cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_CONSTANT,
            borderValue=1,
        )
        shape = source.hole.shape
        outward = off_centre(there_x, there_y, *shape) - off_centre(self.x, self.y, *shape)
        return Registered(
            number, homography, there_x, there_y, soft, hidden == 0, outward, np.zeros(3)
        )

    def falloff(self, found: Sequence[Registered]) -> float:
        """That of the lens, as registered sources show it around the hole; see `Levels`."""
        seen_twice = []
        for one in found:
            both = self.known & one.seen
            if both.sum() >= LEAST_PAIRS and self._is_alike(one.soft[both], self.soft[both]):
                seen_twice.append((self.soft[both], one.soft[both], one.outward[both]))
        return measure_falloff(seen_twice)

    def level(self, one: Registered, falloff: float, log_gain: Array) -> Registered:
        """A registered source at the level of the target.

        Args:
            one: the source.
            falloff: of the lens.
            log_gain: log(level of the source / level of the target) where it cannot be measured,
                since too little is seen in both, or hardly the same.
        """
        soft = one.soft * np.exp(np.float32(-falloff) * one.outward)[..., None]
        both = self.known & one.seen
        if both.sum() >= LEAST_PAIRS:
            mine, theirs = self.soft[both], soft[both]
            gain = robust_log_gain(mine, theirs)
            # Of what is hardly the same picture the level says nothing.
            if self._is_alike(theirs * np.exp(-gain), mine):
                log_gain = gain
        soft *= np.exp(-log_gain).astype(np.float32)
        return one._replace(soft=soft, log_gain=log_gain)

    @staticmethod
    def _is_alike(first: Array, second: Array) -> bool:
        """Whether colours, (N, 3), are of the same."""
        if np.abs(first - second).mean() < FLAT_GAP:
            return True
        return bool(np.corrcoef(first.mean(1), second.mean(1))[0, 1] > ALIKE)

    def _bend(self, source: Small, homography: Array) -> Array:
        """(h, w, 2): flow from the crop to the warped source, completed inside the hole."""
        warped, seen = self._view(source, homography)
        flow = dense_flow(self._gray, warped)
        x, y = cv2.split(grid(*self._gray.shape) + flow)
        moved = cv2.remap(warped, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        gap = cv2.blur(cv2.absdiff(moved, self._gray), (5, 5))
        known = seen & (self._hidden == 0) & (gap < 255 * MATCH)
        known &= np.abs(flow).max(-1) < MAX_BEND_PIXELS
        flow = push_pull(flow, known.astype(np.float32))
        left, top = np.float32(self.box.left), np.float32(self.box.top)
        return cv2.remap(
            flow, self.x - left, self.y - top, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
        )


def _track(first: Array, second: Array, features: Array) -> tuple[Array, Mask]:
    """Where features of the first image are in the second, (N, 1, 2), and which were found."""
    there, found, _ = cv2.calcOpticalFlowPyrLK(
        first,
        second,
        features,
        np.zeros_like(features),
        winSize=(TRACKED_PIXELS, TRACKED_PIXELS),
        maxLevel=3,
    )
    return there, found[:, 0] > 0
