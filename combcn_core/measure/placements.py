"""Where in the frame an area of the mask's own shape and motion has room, off the mask."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

MAX_PARTS = 5  # of a mask, that are tried where it has no room as a whole
GRID_CELLS = 160  # along the longer side: placements are sought on a grid this fine

Masks = NDArray[np.bool_]


class Placement(NamedTuple):
    """Where the mask's shape goes: mirrored left to right or not, then moved; in pixels."""

    mirrored: bool
    down: int
    right: int

    def apply(self, masks: Masks) -> Masks:
        """The moved (T, H, W); nothing may leave the frame."""
        moved = masks[:, :, ::-1] if self.mirrored else masks
        return np.roll(moved, (self.down, self.right), (1, 2))


def find_placements(shape: Masks, holes: Masks) -> list[Placement]:
    """All places on a grid where a shape is within the frame and off the holes.

    Args:
        shape: (T, H, W), the holes or a part of them.
        holes: (T, H, W).

    Returns:
        Those where no frame's moved shape comes closer to that frame's hole than a cell of the
        grid, which is the longer side of the frame / GRID_CELLS, rounded up.
    """
    _, height, width = holes.shape
    cell = -(-max(height, width) // GRID_CELLS)
    near = _pool(holes, cell)
    near = np.stack([cv2.dilate(hole, np.ones((3, 3), np.uint8)) for hole in near])
    found = []
    for mirrored in (False, True):
        moving = shape[:, :, ::-1] if mirrored else shape
        rows, columns = (np.flatnonzero(moving.any(axis=axis)) for axis in ((0, 2), (0, 1)))
        overlap = _overlaps(_pool(moving, cell), near)
        downs, rights = (
            range(-(int(low) // cell), (size - 1 - int(high)) // cell + 1)
            for low, high, size in (
                (rows[0], rows[-1], height),
                (columns[0], columns[-1], width),
            )
        )
        found += [
            Placement(mirrored, down * cell, right * cell)
            for down in downs
            for right in rights
            if overlap[down, right] < 0.5
        ]
    return found


def _pool(holes: Masks, cell: int) -> NDArray[np.uint8]:
    """(T, H / cell, W / cell), rounded up: 1 where any pixel of a cell is hole."""
    num_frames, height, width = holes.shape
    padded = np.pad(holes, ((0, 0), (0, -height % cell), (0, -width % cell)))
    blocks = padded.reshape(num_frames, padded.shape[1] // cell, cell, -1, cell)
    return np.asarray(blocks.any(axis=(2, 4)), np.uint8)


def _overlaps(shape: NDArray[np.uint8], fixed: NDArray[np.uint8]) -> NDArray[np.float64]:
    """[down, right] -> cells that the shape, so moved, shares with what is fixed, all frames.

    Negative moves are at negative indices. Twice the size, so that nothing comes round.
    """
    size = 2 * shape.shape[1], 2 * shape.shape[2]
    total = np.zeros((size[0], size[1] // 2 + 1), np.complex128)
    for moving, still in zip(shape, fixed, strict=True):
        total += np.fft.rfft2(moving, size).conj() * np.fft.rfft2(still, size)
    return np.fft.irfft2(total, size)


def draw_placements(holes: Masks, seeds: Sequence[int]) -> tuple[Masks, list[Placement]]:
    """Draw what is hidden, (T, H, W), the shape of the holes or of a part; and where."""
    for shape in itertools.chain([holes], itertools.islice(_parts(holes), MAX_PARTS)):
        found = find_placements(shape, holes)
        if found:
            drawn = [found[int(np.random.default_rng(seed).integers(len(found)))] for seed in seeds]
            return shape, list(dict.fromkeys(drawn))
    height, width = holes.shape[1:]
    raise ValueError(
        f"the mask leaves no room in frames of {width}x{height} pixels to hide an area of its "
        "shape and motion beside it; give a smaller mask, or test fewer frames."
    )


def _parts(holes: Masks) -> Iterator[Masks]:
    """Each connected part, in a frame and from frame to frame; the largest first."""
    labels = np.zeros(holes.shape, np.int32)
    heads = [0]  # of each label, one of the same thing with a lower number or itself

    def head(label: int) -> int:
        while heads[label] != label:
            label = heads[label]
        return label

    for index, hole in enumerate(holes):
        count, here = cv2.connectedComponents(hole.astype(np.uint8))
        labels[index] = np.where(hole, here + (len(heads) - 1), 0)
        heads += range(len(heads), len(heads) + count - 1)
        both = hole & holes[index - 1] if index else np.zeros_like(hole)
        pairs = np.stack([labels[index - 1][both], labels[index][both]], axis=1)
        for before, after in np.unique(pairs, axis=0).tolist():
            low, high = sorted((head(before), head(after)))
            heads[high] = low
    things = np.array([head(label) for label in range(len(heads))])[labels]
    sizes = np.bincount(things.ravel())
    sizes[0] = 0
    for thing in np.argsort(-sizes, kind="stable")[: np.count_nonzero(sizes)]:
        yield things == thing
