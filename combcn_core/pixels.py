"""Frames, masks and boxes as NumPy arrays: types, conversions and geometry used everywhere.

Pixels are (H, W, 3) RGB, uint8, uint16 or float in [0, 1]; masks (H, W) bool, True inside the hole.
Positions are x, y in pixels, the centre of the first pixel is 0, 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias, overload

import cv2
import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[Any]  # float32 unless said otherwise
Mask: TypeAlias = NDArray[np.bool_]  # (H, W), True inside the hole
# (H, W, 3) RGB: uint8, uint16, or float32 (of files encoded by `clips.exr.encode`)
Pixels: TypeAlias = NDArray[Any]


class Box(NamedTuple):
    """A rectangle of pixels, half-open: rows top to bottom - 1, columns left to right - 1."""

    top: int
    left: int
    bottom: int
    right: int

    @property
    def height(self) -> int:
        return self.bottom - self.top

    @property
    def width(self) -> int:
        return self.right - self.left


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


def to_uint8(pixels: Array) -> Array:
    """Pixels of any type in 8 bits; not a copy where they are."""
    return pixels if pixels.dtype == np.uint8 else from_unit(to_unit(pixels), np.dtype(np.uint8))


def crop(array: Array, box: Box) -> Array:
    """The part of (H, W, ...) inside the box: a view."""
    return array[box.top : box.bottom, box.left : box.right]


def crop_box(box: Box, context_pixels: int, multiple: int, height: int, width: int) -> Box:
    """Grow a box by its context, with its edges on a grid, within the frame.

    A convolutional network with strides gives the same result on the crop as on the whole frame
    if the context is its field of view and the origin lies on a multiple of its stride.

    Args:
        box: in a frame of height x width pixels.
        context_pixels: on each side, 0 or more.
        multiple: top and left are multiples of it; bottom and right too, unless the frame ends
            before. So a crop is only enlarged, by less than `multiple` on each side.
        height, width: of the frame.

    Raises:
        ValueError: an empty box, one that is not within the frame, a negative context, or a
            multiple below 1.
    """
    if not (0 <= box.top < box.bottom <= height and 0 <= box.left < box.right <= width):
        raise ValueError(f"{box} does not lie within a frame of {width}x{height} pixels.")
    if context_pixels < 0 or multiple < 1:
        raise ValueError(
            f"context_pixels is {context_pixels} and multiple is {multiple}; "
            f"give 0 or more and 1 or more."
        )

    def before(edge: int) -> int:
        return max(0, edge - context_pixels) // multiple * multiple

    def after(edge: int, size: int) -> int:
        return min(size, -(-(edge + context_pixels) // multiple) * multiple)

    return Box(
        before(box.top), before(box.left), after(box.bottom, height), after(box.right, width)
    )


def plan_tiles(box: Box, side: int) -> list[Box]:
    """Cut a box into tiles that cover every pixel exactly once, row by row.

    Args:
        box: of a frame.
        side: of a tile in pixels, 1 or more; the last of a row or column may be smaller.
    """
    return [
        Box(top, left, min(top + side, box.bottom), min(left + side, box.right))
        for top in range(box.top, box.bottom, side)
        for left in range(box.left, box.right, side)
    ]


def moved_box(box: Box, origin: Box) -> Box:
    """A box of the frame, in coordinates that begin at the corner of another box."""
    return Box(
        box.top - origin.top,
        box.left - origin.left,
        box.bottom - origin.top,
        box.right - origin.left,
    )


def placed_box(box: Box, origin: Box) -> Box:
    """The inverse of `moved_box`: from coordinates within `origin` to those of the frame."""
    return moved_box(box, Box(-origin.top, -origin.left, 0, 0))


def covers(box: Box, other: Box) -> bool:
    """Whether the other box lies within a box."""
    return (
        box.top <= other.top
        and box.left <= other.left
        and box.bottom >= other.bottom
        and box.right >= other.right
    )


def cells_of(box: Box, scale: int) -> Box:
    """The cells of scale x scale pixels that a box touches."""
    top, left, bottom, right = box
    return Box(top // scale, left // scale, -(-bottom // scale), -(-right // scale))


def union(box: Box, other: Box) -> Box:
    """The smallest box around two boxes."""
    return Box(
        min(box.top, other.top),
        min(box.left, other.left),
        max(box.bottom, other.bottom),
        max(box.right, other.right),
    )


def intersection(box: Box, other: Box) -> Box | None:
    """The box that two boxes share; None if they share no pixel."""
    top, left = max(box.top, other.top), max(box.left, other.left)
    bottom, right = min(box.bottom, other.bottom), min(box.right, other.right)
    return Box(top, left, bottom, right) if top < bottom and left < right else None


def find_box(mask: Mask) -> Box | None:
    """The smallest box around the hole, None where there is no hole."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if len(rows) == 0:
        return None
    return Box(int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1)


def dilate(mask: Mask, pixels: int) -> Mask:
    """Grow a mask by OpenCV's ellipse: nearly a disk, and faster than `grow_mask`."""
    disk = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * pixels + 1, 2 * pixels + 1))
    return cv2.dilate(mask.view(np.uint8), disk).view(np.bool_)


def grow_mask(mask: Mask, pixels: float) -> Mask:
    """Grow a hole by an exact disk, or shrink it; see `masks.grow`."""
    # Squared distances between pixels are whole numbers: rounding them makes the limit exact.
    limit = pixels * pixels
    if pixels == 0:
        return mask
    if pixels > 0:
        return np.round(_distance(~mask) ** 2) <= limit
    return np.round(_distance(mask) ** 2) > limit


def feather_mask(mask: Mask, pixels: float) -> Array:
    """Weights that rise from the edge of a hole inward, (H, W); see `masks.feather_weights`."""
    rise = np.minimum(_distance(mask) / max(pixels, 1), 1)
    return (rise * rise * (3 - 2 * rise)).astype(np.float32)


def _distance(inside: Mask) -> Array:
    """(H, W) distance of each True pixel to the nearest False one; huge if there is none."""
    return cv2.distanceTransform(
        inside.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE
    ).astype(np.float64)


def differ(first: Array, second: Array) -> Mask:
    """(..., H, W): where two pictures (..., H, W, C) differ; NaN is like NaN."""
    result: Mask = ((first != second) & ~((first != first) & (second != second))).any(-1)
    return result


FEW_PIXELS = 1024  # of fewer, a call of OpenCV costs more than it saves


def weighted(values: Array, weights: Array) -> Array:
    """values * weights[..., None], many times as fast.

    Args:
        values: (H, W, C) float32.
        weights: (H, W) float32.
    """
    if weights.size < FEW_PIXELS:
        return values * weights[..., None]
    return cv2.multiply(values, cv2.merge([weights] * values.shape[-1])).reshape(values.shape)


def channel_sum(values: Array) -> Array:
    """values.sum(-1) of (H, W, C) float32 with up to four channels, many times as fast."""
    return cv2.transform(values, np.ones((1, values.shape[-1]), np.float32))


def grid(height: int, width: int) -> Array:
    """(H, W, 2): x and y of every pixel."""
    x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    return np.stack([x, y], -1)


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


class PackedMask(NamedTuple):
    """A mask that takes little memory: one bit a pixel, within the box around its hole.

    Attributes:
        shape: height and width of the mask.
        box: the smallest around the hole; None without any.
        num_pixels: of the hole.
        bits: of the pixels in the box, row by row.
    """

    shape: tuple[int, int]
    box: Box | None
    num_pixels: int
    bits: NDArray[np.uint8]

    @classmethod
    def of(cls, mask: Mask) -> PackedMask:
        """Pack a mask of shape (H, W)."""
        box = find_box(mask)
        inside = mask[:0] if box is None else crop(mask, box)
        height, width = mask.shape
        return cls((height, width), box, int(np.count_nonzero(inside)), np.packbits(inside))

    def whole(self) -> Mask:
        """The mask, (H, W)."""
        return self.crop(Box(0, 0, *self.shape))

    def crop(self, box: Box) -> Mask:
        """The part of the mask inside a box, (h, w)."""
        mask = np.zeros((box.height, box.width), bool)
        if self.box is not None:
            rows, columns = self.box.height, self.box.width
            inside = np.unpackbits(self.bits, count=rows * columns).reshape(rows, columns)
            if (both := intersection(box, self.box)) is not None:
                own = crop(inside, moved_box(both, self.box))
                crop(mask, moved_box(both, box))[:] = own
        return mask


class PackedMasks(Sequence[Any]):
    """A sequence of masks, (H, W) each, kept packed and unpacked on access."""

    def __init__(self, packed: Sequence[PackedMask]) -> None:
        self.packed = packed

    @classmethod
    def of(cls, masks: Sequence[Mask]) -> PackedMasks:
        """Pack masks; those that are packed are returned as they are."""
        return masks if isinstance(masks, cls) else cls([PackedMask.of(mask) for mask in masks])

    def __len__(self) -> int:
        return len(self.packed)

    @overload
    def __getitem__(self, place: int) -> Mask: ...
    @overload
    def __getitem__(self, place: slice) -> PackedMasks: ...
    def __getitem__(self, place: int | slice) -> Mask | PackedMasks:
        if isinstance(place, slice):
            return PackedMasks(self.packed[place])
        return self.packed[place].whole()


KEPT_PIXELS = 32  # converted beyond each side of a box: the next one is likely near


class Decoded:
    """A frame as its file holds it; the part inside a box is made RGB when asked for, and kept."""

    shape: tuple[int, int, int]  # of its pixels
    dtype: np.dtype[Any]
    _kept: tuple[Box, Pixels] | None = None  # replaced as one: threads may share a frame

    def to_pixels(self, box: Box) -> Pixels:
        """Convert the part inside a box: a pixel has the same value whatever the box."""
        raise NotImplementedError

    def to_small(self, width: int, height: int) -> Pixels:
        """The frame as RGB at a size not larger than its own, without making the whole RGB."""
        raise NotImplementedError

    def samples(self) -> list[Array]:
        """The arrays that `to_pixels` converts, as `description` says."""
        raise NotImplementedError

    @property
    def description(self) -> str:
        """How the samples are to be understood."""
        raise NotImplementedError

    @property
    def pixels(self) -> Pixels:
        """(H, W, 3) RGB, made anew each time."""
        return self.to_pixels(Box(0, 0, *self.shape[:2]))

    def crop(self, box: Box) -> Pixels:
        """The part inside a box, (h, w, 3) RGB: a view, not to be written to."""
        kept = self._kept
        if kept is None or not covers(kept[0], box):
            around = crop_box(box, KEPT_PIXELS, 1, *self.shape[:2])
            around = around if kept is None else union(kept[0], around)
            self._kept = kept = around, self.to_pixels(around)
        return crop(kept[1], moved_box(box, kept[0]))


Stored: TypeAlias = Pixels | Decoded


def pixels_of(frame: Stored) -> Pixels:
    """A frame as (H, W, 3) RGB, however it is stored."""
    return frame.pixels if isinstance(frame, Decoded) else frame


def shrunk(frame: Stored, width: int, height: int) -> Pixels:
    """A frame as RGB at a size not larger than its own; not a copy where that is the same."""
    if frame.shape[:2] == (height, width):
        return pixels_of(frame)
    if isinstance(frame, Decoded):
        return frame.to_small(width, height)
    return cv2.resize(frame, (width, height), interpolation=cv2.INTER_AREA)


def crop_stored(frame: Stored, box: Box) -> Pixels:
    """The part of a frame inside a box, (h, w, 3) RGB: a view, not to be written to."""
    return frame.crop(box) if isinstance(frame, Decoded) else crop(frame, box)


def sample_stored(frame: Stored, x: Array, y: Array, interpolation: int) -> Array:
    """`sample` of a frame, however it is stored; only what is near positions is converted."""
    if not isinstance(frame, Decoded) or len(x) == 0:
        pixels = np.zeros((1, 1, 3), frame.dtype) if isinstance(frame, Decoded) else frame
        return sample(pixels, x, y, interpolation)
    height, width = frame.shape[:2]
    x, y = (at.astype(np.float32, copy=False) for at in (x, y))  # before the box is subtracted

    def span(at: Array, size: int) -> tuple[int, int]:
        low, high = (min(max(float(end), 0), size - 1) for end in (at.min(), at.max()))
        return max(0, int(low) - 3), min(size, int(high) + 5)  # kernels reach 2 pixels

    (left, right), (top, bottom) = span(x, width), span(y, height)
    part = frame.crop(Box(top, left, bottom, right))
    return sample(part, x - np.float32(left), y - np.float32(top), interpolation)


class Filled(NamedTuple):
    """A frame with the pixels of its hole replaced, and all others as they are stored."""

    frame: Stored
    hole: PackedMask
    values: Pixels  # (N, 3), of the N pixels of the hole, row by row

    @classmethod
    def of(cls, frame: Stored) -> Filled:
        """A frame without a hole."""
        hole = PackedMask((frame.shape[0], frame.shape[1]), None, 0, np.zeros(0, np.uint8))
        return cls(frame, hole, np.zeros((0, 3), frame.dtype))

    def whole(self) -> Pixels:
        """(H, W, 3) RGB; not a copy where there is no hole."""
        pixels = pixels_of(self.frame)
        if self.hole.box is None:
            return pixels
        result = pixels.copy() if pixels is self.frame else pixels
        crop(result, self.hole.box)[self.hole.crop(self.hole.box)] = self.values
        return result

    def crop(self, box: Box) -> Pixels:
        """A copy of the part inside a box, which holds all of the hole."""
        assert self.hole.box is None or covers(box, self.hole.box)
        result = crop_stored(self.frame, box).copy()
        result[self.hole.crop(box)] = self.values
        return result


class Patch(NamedTuple):
    """A frame with the part inside a box replaced; the frame itself is not copied.

    Around what was replaced the box holds 8 pixels of the frame or more, unless the frame ends
    before: so `sample` reads either the part or the frame.
    """

    frame: Stored
    box: Box
    part: Pixels  # (h, w, 3), inside the box

    @classmethod
    def of(cls, frame: Stored) -> Patch:
        """A frame with nothing replaced."""
        return cls(frame, Box(0, 0, 0, 0), np.zeros((0, 0, 3), frame.dtype))

    def whole(self) -> Pixels:
        """The frame as it is now; not a copy where nothing was replaced."""
        pixels = pixels_of(self.frame)
        if not self.part.size:
            return pixels
        result = pixels.copy() if pixels is self.frame else pixels
        crop(result, self.box)[:] = self.part
        return result

    def crop(self, box: Box) -> Pixels:
        """A copy of the part inside a box."""
        if self.part.size and covers(self.box, box):
            return crop(self.part, moved_box(box, self.box)).copy()
        result = crop_stored(self.frame, box).copy()
        if (both := intersection(box, self.box)) is not None:
            crop(result, moved_box(both, box))[:] = crop(self.part, moved_box(both, self.box))
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
            return sample_stored(self.frame, x, y, interpolation)
        shifted = x - np.float32(left), y - np.float32(top)
        if near.all():
            return sample(self.part, *shifted, interpolation)
        values = np.empty((len(x), 3), self.part.dtype)
        values[near] = sample(self.part, shifted[0][near], shifted[1][near], interpolation)
        values[~near] = sample_stored(self.frame, x[~near], y[~near], interpolation)
        return values


def replaced(frame: Patch, box: Box, pixels: Pixels) -> Patch:
    """A frame with the part inside a box replaced, in addition to what was replaced before."""
    if not frame.part.size or covers(box, frame.box):
        return Patch(frame.frame, box, pixels)
    both = union(box, frame.box)
    part = frame.crop(both)
    crop(part, moved_box(box, both))[:] = pixels
    return Patch(frame.frame, both, part)
