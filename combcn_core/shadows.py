"""What belongs to an object but lies outside its mask: its shadow, its reflection, its rim.

Other frames show the ground as it is without the object. So it is propagated into a hole much
larger than the mask, and compared with what the frame shows. What differs there by a smooth factor,
over an area and not at edges out of place, goes where the object goes, and touches it or keeps its
distance from it, belongs to it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor

from combcn_core.fill.cuts import is_cut
from combcn_core.masks import check_masks, grow
from combcn_core.pixels import Array, Mask, Pixels, to_unit
from combcn_core.progress import Tell
from combcn_core.shot import propagate

ROWS = 240  # lengths below are pixels of a frame of so many rows, and frames are made that small
REACH_PIXELS = 48  # from the mask, within which effects are looked for
DARK = 8 / 255  # added before ratios are taken, so that noise in the dark counts little
LEAST_RATIO, SURE_RATIO = 0.05, 0.12  # of logarithms: to count as a difference, to start one
SPREAD = 0.75  # of a difference that is none: its deviation over its mean, nearby
NEAR_PIXELS = 3  # a gap this wide still touches
STEADY_FRAMES = 4  # on each side that a difference is looked for in, where the object was
EDGE_PIXELS = 2  # added around what was found, for soft edges
EVEN_LIGHT = 0.04  # of logarithms, from the median of all frames: less is left alone
COMPARED_FRAMES, LEAST_FIT = (-6, -3, 3, 6), 0.4  # overlap with what differs there
LEAST_SHARE = 0.01  # of the object's pixels: less is noise
SEEN_SHARE = 0.3  # of the surroundings that other frames must show


class TakenShadows(NamedTuple):
    """Masks with what belongs to their objects.

    Attributes:
        masks: (T, H, W) bool, never less than what was given.
        added_pixels: of each frame.
        unseen_frames: where no other frame shows enough of the ground around the object without
            it, so that nothing could be found.
    """

    masks: Tensor
    added_pixels: list[int]
    unseen_frames: list[int]


def take_shadows(images: Tensor, masks: Tensor, *, tell: Tell | None = None) -> TakenShadows:
    """Grow masks by the shadows and reflections of their objects, and by rims that were missed.

    Args:
        images: (T, H, W, 3), uint8, uint16 or float, RGB in [0, 1]; a shot and its neighbours.
        masks: (T, H, W) or (H, W), 1 on the object.
        tell: as in `inpaint`.

    Returns:
        The grown masks, and what was added.

    Raises:
        ValueError: shapes or types that do not fit.
    """
    given = check_masks(masks, *images.shape[:3])
    height, width = images.shape[1:3]
    small = Small.of(height, width)
    frames = [small.frame(image.numpy(force=True)) for image in images]
    objects = [small.mask(mask.numpy(force=True)) for mask in given]
    found, unseen = find_effects(np.stack(frames), np.stack(objects), tell=tell)
    holes = given.numpy(force=True)
    wholes = [small.enlarged(*pair) for pair in zip(found, holes, strict=True)]
    result = torch.from_numpy(np.stack(wholes))
    added = (result & ~given.cpu()).sum(dim=(1, 2)).tolist()
    return TakenShadows(result.to(masks.device), added, unseen)


class Small(NamedTuple):
    """The size at which shadows are looked for."""

    width: int
    height: int
    whole: tuple[int, int]  # height and width of the frames

    @classmethod
    def of(cls, height: int, width: int) -> Small:
        """For frames of this size."""
        scale = min(1.0, ROWS / min(height, width))
        return cls(max(1, round(width * scale)), max(1, round(height * scale)), (height, width))

    def frame(self, pixels: Pixels) -> Array:
        """(h, w, 3) uint8"""
        light = to_unit(pixels)
        if (self.height, self.width) != self.whole:
            light = cv2.resize(light, (self.width, self.height), interpolation=cv2.INTER_AREA)
        return np.rint(np.nan_to_num(light).clip(0, 1) * 255).astype(np.uint8)

    def mask(self, mask: Mask) -> Mask:
        """(h, w), True where any of it is."""
        if (self.height, self.width) == self.whole:
            return mask
        share = mask.astype(np.float32)
        return cv2.resize(share, (self.width, self.height), interpolation=cv2.INTER_AREA) > 0

    def enlarged(self, effect: Mask, mask: Mask) -> Mask:
        """A mask with what was found for it, at the size of the frames."""
        if not effect.any():
            return mask
        return mask | (cv2.resize(effect.astype(np.float32), self.whole[::-1]) >= 0.5)


def find_effects(
    frames: Array, objects: Array, *, tell: Tell | None = None
) -> tuple[list[Mask], list[int]]:
    """What belongs to objects, frame by frame.

    Args:
        frames: (T, H, W, 3) uint8, see `Small`.
        objects: (T, H, W) bool.
        tell: as in `inpaint`.

    Returns:
        (H, W) bool each, outside the objects; and the frames with too little to compare with.
    """
    unit = min(frames.shape[1:3]) / ROWS
    if not objects.any():
        return list(objects), []
    wide = grow(torch.from_numpy(objects), max(2.0, REACH_PIXELS * unit))
    frames = _evenly_lit(frames, wide.numpy())
    predicted, remaining = propagate(torch.from_numpy(frames), wide, tell=tell)
    looked = wide.numpy() & ~objects
    sure = looked & ~remaining.numpy()
    unseen = [
        number
        for number, (where, known) in enumerate(zip(looked, sure, strict=True))
        if where.any() and known.sum() < SEEN_SHARE * where.sum()
    ]
    differing = [
        _differences(frame, without, where, unit)
        for frame, without, where in zip(frames, predicted.numpy(), sure, strict=True)
    ]
    boxes = [cv2.boundingRect(mask.astype(np.uint8)) for mask in objects]
    steady = [
        _steady(number, differing, sure, boxes) if objects[number].any() else differing[number]
        for number in range(len(frames))
    ]
    parts = [_parts(found, mask, unit) for found, mask in zip(steady, objects, strict=True)]
    kept = [
        _moving_along(number, labels, parts, sure, boxes, unit)
        for number, labels in enumerate(parts)
    ]
    edge = _disk(EDGE_PIXELS * unit)
    effects = []
    for found, where, mask in zip(kept, looked, objects, strict=True):
        grown = cv2.dilate(found.astype(np.uint8), edge) > 0
        effects.append(grown & where & ~mask)
    return effects, unseen


def _evenly_lit(frames: Array, wide: Array) -> Array:
    """Frames without changes of light, which would look like shadows: (T, H, W, 3) uint8."""
    levels = np.zeros((len(frames), 3))
    for number in range(1, len(frames)):
        known = ~(wide[number] | wide[number - 1])
        pair = frames[number - 1 : number + 1].astype(np.float32) / 255
        if known.any() and not is_cut(frames[number - 1], frames[number]):
            steps = np.log(pair[1][known] + DARK) - np.log(pair[0][known] + DARK)
            levels[number] = np.median(steps, axis=0)
    levels = levels.cumsum(axis=0)
    levels -= np.median(levels, axis=0)
    if np.abs(levels).max() < EVEN_LIGHT:
        return frames
    factors = np.exp(-levels)[:, None, None]
    even = (frames / 255 + DARK) * factors - DARK
    return np.rint(even.clip(0, 1) * 255).astype(np.uint8)


def _disk(radius: float) -> Array:
    side = 2 * max(1, round(radius)) + 1
    return cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side))


def _differences(frame: Array, without: Array, where: Mask, unit: float) -> Mask:
    """Where a frame differs from its prediction by a smooth factor: (H, W)."""
    if not where.any():
        return np.zeros(where.shape, bool)
    light, expected = (
        cv2.GaussianBlur(image.astype(np.float32) / 255, (0, 0), 1.2) + DARK
        for image in (frame, without)
    )
    ratio = np.log(light / expected)
    ratio -= np.median(ratio[where], axis=0)  # light that changes changes everything
    weight = where.astype(np.float32)
    side = 2 * max(1, round(3 * unit)) + 1

    def mean(values: Array) -> Array:
        return cv2.blur(values, (side, side))

    total = np.maximum(mean(weight), 1e-6)
    average = mean(ratio * weight[..., None]) / total[..., None]
    square = mean(ratio * ratio * weight[..., None]) / total[..., None]
    deviation = np.sqrt(np.maximum(square - average * average, 0))
    size = np.abs(average).max(axis=-1)
    smooth = deviation.max(axis=-1) < SPREAD * size
    weak = (where & smooth & (size > LEAST_RATIO)).astype(np.uint8)
    strong = where & smooth & (size > SURE_RATIO)
    _, labels = cv2.connectedComponents(weak)
    sure = np.unique(labels[strong])
    return np.isin(labels, sure[sure > 0])


def _steady(
    number: int, differing: Sequence[Mask], sure: Array, boxes: Sequence[Sequence[int]]
) -> Mask:
    """What differs in most frames nearby, once they are moved so that the object stays in place."""
    height, width = differing[number].shape
    x, y, columns, rows = boxes[number]
    votes, voters = (
        np.zeros((2, height, width), np.float32),
        np.zeros((2, height, width), np.float32),
    )
    first = max(number - STEADY_FRAMES, 0)
    for other in range(first, min(number + STEADY_FRAMES + 1, len(differing))):
        there_x, there_y, there_columns, there_rows = boxes[other]
        if not there_columns:
            continue
        right = x + columns / 2 - there_x - there_columns / 2
        down = y + rows - there_y - there_rows
        # The shadow of what jumps stays on the ground.
        for way, drop in enumerate((down, 0)):
            shift = np.array([[1, 0, right], [0, 1, drop]], np.float32)
            for image, into in ((differing[other], votes), (sure[other], voters)):
                into[way] += cv2.warpAffine(image.astype(np.float32), shift, (width, height))
    agreed = (votes > 0.5 * np.maximum(voters, 1)) & (voters > 1)
    return agreed[0] | agreed[1]


def _parts(found: Mask, mask: Mask, unit: float) -> Array:
    """Those parts that are large enough, with small holes closed: (H, W), numbered from 1."""
    opened = cv2.morphologyEx(found.astype(np.uint8), cv2.MORPH_OPEN, _disk(unit))
    closed = cv2.morphologyEx(opened, cv2.MORPH_CLOSE, _disk(4 * unit))
    _, labels, stats, _ = cv2.connectedComponentsWithStats(closed)
    near = cv2.dilate(mask.astype(np.uint8), _disk(NEAR_PIXELS * unit)) > 0
    least = LEAST_SHARE * max(int(mask.sum()), 1)
    touching = np.bincount(labels[near], minlength=len(stats)) > 0
    keeps = [
        part
        for part in range(1, len(stats))
        if stats[part, cv2.CC_STAT_AREA] >= least * (1 if touching[part] else 4)
    ]
    numbers = np.zeros(len(stats), np.int32)
    numbers[keeps] = np.arange(1, len(keeps) + 1)
    return numbers[labels]


def _moving_along(
    number: int,
    labels: Array,
    parts: Sequence[Array],
    sure: Array,
    boxes: Sequence[Sequence[int]],
    unit: float,
) -> Mask:
    """Those parts that other frames have too where the object went, rather than in place."""
    height, width = labels.shape
    x, y, columns, rows = boxes[number]
    kept = np.zeros((height, width), bool)
    for part in range(1, int(labels.max()) + 1):
        here = labels == part
        area = cv2.dilate(here.astype(np.uint8), _disk(10 * unit)) > 0
        along, in_place = [], []
        for step in COMPARED_FRAMES:
            other = number + step
            if not 0 <= other < len(parts) or not boxes[other][2]:
                continue
            there = np.stack([parts[other] > 0, sure[other]]).astype(np.float32)
            right = x + columns / 2 - boxes[other][0] - boxes[other][2] / 2
            down = y + rows - boxes[other][1] - boxes[other][3]
            fits = []
            for shift in ((right, down), (right, 0), (0, 0)):
                move = np.array([[1, 0, shift[0]], [0, 1, shift[1]]], np.float32)
                moved, seen = (cv2.warpAffine(one, move, (width, height)) > 0.5 for one in there)
                where = area & seen & sure[number]
                both = int((moved & here & where).sum())
                fits.append(both / max(int(((moved | here) & where).sum()), 1))
            along.append(max(fits[:2]))
            in_place.append(fits[2])
        if not along:
            continue
        fit = float(np.mean(along))
        if fit >= LEAST_FIT and fit >= float(np.mean(in_place)) - 0.02:
            kept |= here
    return kept
