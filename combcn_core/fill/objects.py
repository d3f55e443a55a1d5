"""Objects followed from frame to frame by their masks alone: which is which, how far they go."""

from __future__ import annotations

import cv2
import numpy as np

from combcn_core.pixels import Array, Mask


def track_objects(objects: Array, unit: float) -> list[Array]:
    """The parts of masks, (H, W) each, with numbers from 1 that they keep from frame to frame."""
    tracks: list[Array] = []
    last: dict[int, tuple[Array, float]] = {}  # centre and size, by number
    count = 0
    for mask in objects:
        closed = cv2.dilate(mask.astype(np.uint8), disk(2 * unit))
        _, labels, stats, centers = cv2.connectedComponentsWithStats(closed)
        gaps = []
        for label in range(1, len(stats)):
            under = tracks[-1][labels == label] if tracks else labels[:0]
            overlap = np.bincount(under.ravel(), minlength=count + 1)
            for number, (center, size) in last.items():
                larger = max(size, stats[label, cv2.CC_STAT_AREA] ** 0.5)
                distance = float(np.hypot(*(centers[label] - center)))
                if overlap[number] or distance < larger:
                    gaps.append((distance / larger, label, number))
        numbers = np.zeros(len(stats), np.int32)
        for _, label, number in sorted(gaps):
            if numbers[label] == 0 and number not in numbers:
                numbers[label] = number
        for label in [label for label in range(1, len(stats)) if numbers[label] == 0]:
            count += 1
            numbers[label] = count
        last = {
            int(numbers[label]): (centers[label], stats[label, cv2.CC_STAT_AREA] ** 0.5)
            for label in range(1, len(stats))
        }
        tracks.append(numbers[labels])
    return tracks


def nearest_object(labels: Array) -> Array:
    """The label that is nearest to each pixel, (H, W); 0 where there is none at all."""
    if not labels.any():
        return labels
    away = (labels == 0).astype(np.uint8)
    _, nearest = cv2.distanceTransformWithLabels(
        away, cv2.DIST_L2, 3, labelType=cv2.DIST_LABEL_PIXEL
    )
    of = np.zeros(nearest.max() + 1, np.int32)
    of[nearest[away == 0]] = labels[away == 0]
    return of[nearest]


def shift_between(here: Mask, there: Mask) -> tuple[float, float] | None:
    """How far a mask goes, x and y, to cover another one best; None where one is empty.

    Unlike that of their centres it is right where the frame's edge or another object cuts one off.
    """
    masks = [mask[::2, ::2] for mask in (here, there)]
    boxes = [cv2.boundingRect(mask.astype(np.uint8)) for mask in masks]
    (x, y, width, height), (x2, y2, width2, height2) = boxes
    if not (width and width2):
        return None
    # 1 on the mask, -1 beside it, 0 beyond the frame, where it is not known.
    margin = 3
    columns, rows = width + 2 * margin, height + 2 * margin
    signed = [np.pad(2 * mask.astype(np.float32) - 1, ((rows,), (columns,))) for mask in masks]
    left, top = x + columns - margin, y + rows - margin
    mask = signed[0][top : top + rows, left : left + columns]
    other = signed[1][y2 : y2 + height2 + 2 * rows, x2 : x2 + width2 + 2 * columns]
    column, row = cv2.minMaxLoc(cv2.matchTemplate(other, mask, cv2.TM_CCORR))[3]
    return 2.0 * (x2 + column - left), 2.0 * (y2 + row - top)


def carry_along(values: Array, tracks: Array, to: Array, *, or_level: bool = False) -> Array:
    """Values beside objects in one frame, (H, W) uint8, moved with them to another; 0 elsewhere.

    Also along x alone if they may stay level, as a shadow does below what jumps.
    """
    carried = np.zeros_like(values)
    if not values.any():
        return carried
    owner = np.where(values > 0, nearest_object(tracks), 0)
    for part in np.setdiff1d(owner, 0):
        shift = shift_between(tracks == part, to == part)
        if shift is not None:
            mine = np.where(owner == part, values, np.uint8(0))
            for down in {shift[1], 0.0} if or_level else {shift[1]}:
                matrix = np.array([[1, 0, shift[0]], [0, 1, down]])
                moved = cv2.warpAffine(mine, matrix, values.shape[::-1], flags=cv2.INTER_NEAREST)
                carried = np.maximum(carried, moved)
    return carried


def disk(radius: float) -> Array:
    """A round structuring element of this radius in pixels, one at least."""
    side = 2 * max(1, round(radius)) + 1
    return cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side))
