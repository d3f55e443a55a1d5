"""What belongs to an object but lies outside its mask: its shadow, its reflection, its rim.

Other frames show the ground as it is without the object. So it is propagated into a hole much
larger than the mask, and compared with what the frame shows. What differs there by a smooth factor
belongs to the object if it goes where the object goes: many frames before and after it differs by
the same factor at the same place beside the object, and no longer at the same place of the ground.
What else moves keeps neither place, and where the prediction is wrong, it stays wrong in place.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import cv2
import numpy as np

from combcn_core.fill.cuts import is_cut
from combcn_core.fill.motion import dense_flow
from combcn_core.fill.objects import carry_along, disk, nearest_object, shift_between, track_objects
from combcn_core.fill.smooth import push_pull
from combcn_core.fill.threads import one_thread
from combcn_core.pixels import Array, Mask, Pixels, sample, to_unit
from combcn_core.progress import OnShare

if TYPE_CHECKING:
    from torch import Tensor

ROWS = 160  # of frames, which are made this small; lengths below are pixels of such frames
REACH_PIXELS = 40  # from the mask, within which effects are looked for,
BELOW_PIXELS = 18  # and so far below that: the ground lies below what jumps
DARK = 8 / 255  # added before ratios are taken, so that noise in the dark counts little
AREA_PIXELS = 5  # side of the square that ratios are averaged over
LEAST_RATIO, SURE_RATIO = 0.05, 0.12  # of logarithms: to count as a difference, to start one
SPREAD = 1.0  # of a difference that is none: its deviation over its mean, nearby
EVEN_LIGHT = 0.04  # of logarithms, from the median of all frames: less is left alone
COMPARED_FRAMES = (3, 6, 10, 15, 20)  # before and after: what differs is looked for there
PASSED_PIXELS = 16  # by the object over the ground, until a frame compared counts in full
SEEN_FRAMES = 1.0  # of such a weight, or there is too little to tell
LEAST_ALONG, SURE_ALONG = 0.65, 0.95  # likeness beside the object, to count and to start one
LEAST_GAP, SURE_GAP = 0.1, 0.4  # by how much more than at the same place of the ground
# The same of what is darker in all channels alike, as a shadow is, and by so much. Its shape may
# change with the object's, and a long one lies where it lay for several frames.
SHADOW_RATIO, SHADOW_TINT, SHADOW_SPREAD = 0.15, 0.5, 0.8
LEAST_SHADOW_ALONG, SURE_SHADOW_ALONG, SURE_SHADOW_GAP = 0.15, 0.45, 0.1
LEAST_EXCESS, SURE_EXCESS = 1.5, 4.0  # times the median difference: water differs everywhere
CLEAR_PIXELS = 16  # from what is only guessed, or nothing starts: the prediction is poor beside it
TOLERANCE_PIXELS = 2  # of the place beside the object
EDGE_SHARE = 0.4  # of the difference nearby: less comes from the averaging
LEAST_SHARE = 0.8  # of the root of the object's pixels: nothing smaller starts
LINK_SHARE = 0.5  # of a part, that the two frames before or after found too
# Beside the object its shadow is darkest, by so much, and often no other frame shows the ground.
CONTACT_PIXELS, CONTACT_RATIO = 8, 0.6
# In so many frames what was found is looked for at its place beside the object.
TRAIL_FRAMES, TRAIL_RATIO = 8, 0.3
SEEN_SHARE = 0.5  # of the surroundings that other frames must show


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


def take_shadows(
    images: Tensor, masks: Tensor, *, on_progress: OnShare | None = None
) -> TakenShadows:
    """Grow masks by the shadows and reflections of their objects, and by rims that were missed.

    Args:
        images: (T, H, W, 3), uint8, uint16 or float, RGB in [0, 1]; a shot and its neighbours.
        masks: (T, H, W) or (H, W), 1 on the object.
        on_progress: as in `inpaint`.

    Returns:
        The grown masks, and what was added.

    Raises:
        ValueError: shapes or types that do not fit.
    """
    import torch

    from combcn_core.masks import check_masks

    given = check_masks(masks, *images.shape[:3])
    height, width = images.shape[1:3]
    small = ShadowSize.of(height, width)
    frames = [small.frame(image.numpy(force=True)) for image in images]
    objects = [small.mask(mask.numpy(force=True)) for mask in given]
    found, unseen = find_effects(np.stack(frames), np.stack(objects), on_progress=on_progress)
    holes = given.numpy(force=True)
    wholes = [small.enlarged(*pair) for pair in zip(found, holes, strict=True)]
    result = torch.from_numpy(np.stack(wholes))
    added = (result & ~given.cpu()).sum(dim=(1, 2)).tolist()
    return TakenShadows(result.to(masks.device), added, unseen)


class ShadowSize(NamedTuple):
    """The size at which shadows are looked for."""

    width: int
    height: int
    whole: tuple[int, int]  # height and width of the frames

    @classmethod
    def of(cls, height: int, width: int) -> ShadowSize:
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
    frames: Array, objects: Array, *, on_progress: OnShare | None = None
) -> tuple[list[Mask], list[int]]:
    """What belongs to objects, frame by frame.

    Args:
        frames: (T, H, W, 3) uint8, see `ShadowSize`.
        objects: (T, H, W) bool.
        on_progress: as in `inpaint`.

    Returns:
        (H, W) bool each, outside the objects; and the frames with too little to compare with.
    """
    import torch

    from combcn_core.fill.stages import propagate
    from combcn_core.masks import grow

    unit = min(frames.shape[1:3]) / ROWS
    if not objects.any():
        return list(objects), []
    wide = grow(torch.from_numpy(objects), max(2.0, REACH_PIXELS * unit))
    wide = torch.from_numpy(_extended_down(wide.numpy(), round(BELOW_PIXELS * unit)))
    frames = _evenly_lit(frames, wide.numpy())
    predicted, remaining = propagate(torch.from_numpy(frames), wide, on_progress=on_progress)
    looked = wide.numpy() & ~objects
    sure = looked & ~remaining.numpy()
    unseen = [
        number
        for number, (where, known) in enumerate(zip(looked, sure, strict=True))
        if where.any() and known.sum() < SEEN_SHARE * where.sum()
    ]
    return _belonging(frames, objects, predicted.numpy(), sure, looked), unseen


def _extended_down(masks: Array, pixels: int) -> Array:
    """(T, H, W) bool: masks, and what lies below them by up to so many pixels."""
    column, bottom = np.ones((pixels + 1, 1), np.uint8), (0, pixels)
    return np.stack([cv2.dilate(m.astype(np.uint8), column, anchor=bottom) > 0 for m in masks])


def _belonging(
    frames: Array, objects: Array, predicted: Array, sure: Array, looked: Array
) -> list[Mask]:
    """What of the surroundings goes along with the objects, (H, W) each.

    Args:
        frames, objects: as in `find_effects`.
        predicted: (T, H, W, 3) uint8, frames without objects and what is around them.
        sure: (T, H, W), where that is known.
        looked: (T, H, W), where effects may be.
    """
    unit = min(frames.shape[1:3]) / ROWS
    ratios = [
        _log_ratio(frame, without, where, unit)
        for frame, without, where in zip(frames, predicted, sure, strict=True)
    ]
    company = _Company(objects, predicted, [ratio for ratio, _ in ratios], sure, unit)
    around = disk(AREA_PIXELS * unit / 2)
    weak, strong = np.zeros((2, *objects.shape), bool)
    for number, (ratio, spread) in enumerate(ratios):
        size = np.abs(ratio).max(-1)
        usual = float(np.median(size[sure[number]])) if sure[number].any() else 0.0
        least = max(LEAST_RATIO, LEAST_EXCESS * usual)
        least = np.maximum(least, EDGE_SHARE * cv2.dilate(size, around))
        rows, columns = np.nonzero(sure[number] & (spread < SPREAD) & (size > least))
        along, in_place = company.judge(number, rows, columns)
        gap = along - in_place
        is_weak = (along > LEAST_ALONG) & (gap > LEAST_GAP)
        is_strong = (along > SURE_ALONG) & (gap > SURE_GAP)
        is_strong &= size[rows, columns] > max(SURE_RATIO, SURE_EXCESS * usual)
        darker = -ratio[rows, columns]
        depth = darker.mean(-1)
        shades = (darker > 0).all(-1) & (np.ptp(darker, axis=-1) < SHADOW_TINT * depth)
        shades &= depth > SHADOW_RATIO / 2
        is_weak |= shades & (along > LEAST_SHADOW_ALONG) & (gap > 0)
        shades &= (depth > max(SHADOW_RATIO, SURE_EXCESS * usual)) & (
            spread[rows, columns] < SHADOW_SPREAD
        )
        is_strong |= shades & (along > SURE_SHADOW_ALONG) & (gap > SURE_SHADOW_GAP)
        guessed = (looked[number] & ~sure[number]).astype(np.uint8)
        is_strong &= cv2.dilate(guessed, disk(CLEAR_PIXELS * unit))[rows, columns] == 0
        weak[number, rows, columns], strong[number, rows, columns] = is_weak, is_strong
    found = _parts(weak, strong, objects, company.parts, unit)
    order = range(len(found))
    for numbers in (order, order[::-1]):
        _follow_the_dark(frames, found, objects, company.parts, numbers, unit)
    return [part & near & ~mask for part, near, mask in zip(found, looked, objects, strict=True)]


def _follow_the_dark(
    frames: Array,
    found: list[Mask],
    objects: Array,
    tracks: Sequence[Array],
    order: Sequence[int],
    unit: float,
) -> None:
    """Go on with what was found into what is dark beside the object; in place, frame by frame.

    A shadow is darkest right beside its object and goes where that goes, so often no other frame
    shows the ground: it is compared with the ground a little farther off. So is what was found a
    few frames before, at the same place beside the object.
    """
    left = np.zeros(objects.shape[1:], np.uint8)  # frames that what was found is still looked for
    last = order[0]
    for number in order:
        left = carry_along(left, tracks[last], tracks[number])
        left -= left > 0
        beside = cv2.dilate(objects[number].astype(np.uint8), disk(CONTACT_PIXELS * unit)) > 0
        trail = left > 0
        near = (beside | trail) & ~objects[number]
        least = np.where(trail, TRAIL_RATIO, CONTACT_RATIO)
        dark = near & _darker(frames[number], near | found[number] | objects[number], least)
        found[number] |= _joined(dark, found[number] | trail, unit)
        left[found[number]] = TRAIL_FRAMES
        last = number


def _darker(frame: Array, where: Mask, least: Array) -> Mask:
    """What is darker than the ground around a place, alike in all channels, by a least ratio."""
    light = frame.astype(np.float32) / 255
    ground = push_pull(light, (~where).astype(np.float32))
    darker = np.log((ground + DARK) / (cv2.GaussianBlur(light, (0, 0), 1) + DARK))
    depth = darker.mean(-1)
    result: Mask = (depth > least) & (np.ptp(darker, axis=-1) < SHADOW_TINT * depth)
    return result


def _joined(dark: Mask, seed: Mask, unit: float) -> Mask:
    """Those parts of the dark that touch the seed, (H, W)."""
    near = cv2.dilate(seed.astype(np.uint8), disk(TOLERANCE_PIXELS * unit)) > 0
    labels = cv2.connectedComponents((dark | near).astype(np.uint8))[1]
    result: Mask = dark & np.isin(labels, np.setdiff1d(labels[near & dark], 0))
    return result


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


def _log_ratio(frame: Array, without: Array, where: Mask, unit: float) -> tuple[Array, Array]:
    """log(frame / prediction), averaged over small areas, and its deviation there over its mean.

    (H, W, 3), zero where nothing is known, and (H, W). The deviation is small where the factor is
    smooth; an edge out of place has both signs.
    """
    if not where.any():
        return np.zeros(frame.shape, np.float32), np.full(where.shape, np.inf, np.float32)
    light, expected = (
        cv2.GaussianBlur(image.astype(np.float32) / 255, (0, 0), 1) + DARK
        for image in (frame, without)
    )
    ratio = np.log(light / expected)
    ratio -= np.median(ratio[where], axis=0)  # light that changes changes everything
    weight = where.astype(np.float32)
    side = 2 * max(1, round(AREA_PIXELS * unit / 2 - 0.5)) + 1

    def mean(values: Array) -> Array:
        return cv2.blur(values, (side, side))

    total = np.maximum(mean(weight), 1e-6)
    average = mean(ratio * weight[..., None]) / total[..., None]
    square = mean(ratio * ratio * weight[..., None]) / total[..., None]
    deviation = np.sqrt(np.maximum(square - average * average, 0)).max(axis=-1)
    spread = deviation / np.maximum(np.abs(average).max(axis=-1), 1e-6)
    return average * weight[..., None], spread


class _Company:
    """Whether differences go along with objects or stay in place.

    Args:
        objects: (T, H, W) bool.
        predicted: (T, H, W, 3) uint8, without the objects: the ground, whose motion is measured.
        ratios: (H, W, 3) each, see `_log_ratio`.
        sure: (T, H, W), where they are known.
        unit: see `ROWS`.
    """

    def __init__(
        self, objects: Array, predicted: Array, ratios: Sequence[Array], sure: Array, unit: float
    ) -> None:
        self.unit = unit
        self.parts = track_objects(objects, unit)
        self.known = [
            np.dstack([ratio, where.astype(np.float32)])
            for ratio, where in zip(ratios, sure, strict=True)
        ]
        gray = [cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for image in predicted]
        with one_thread():
            self.forward = [dense_flow(here, there) for here, there in pairwise(gray)]
            self.backward = [dense_flow(there, here) for here, there in pairwise(gray)]

    def judge(self, number: int, rows: Array, columns: Array) -> tuple[Array, Array]:
        """How alike differences are in other frames, each (N,), from 0 to 1.

        At the same place beside the object, 0 where too little is seen of it; and at the same place
        of the ground, where what is not looked at counts as none. Frames count by how far the
        object went over the ground.
        """
        here = self.known[number][rows, columns, :3]
        x, y = columns.astype(np.float32), rows.astype(np.float32)
        owner = nearest_object(self.parts[number])[rows, columns]
        alike = np.zeros((2, len(x)), np.float32)  # beside the object; below it, if it jumps
        weights = np.zeros((2, len(x)), np.float32)
        in_place, weight_in_place = np.zeros((2, len(x)), np.float32)
        if not owner.any():
            return alike[0], in_place
        for other, ground in self._ground(number, x, y):
            moved, is_there = self._moved(number, other, owner)
            passed = np.hypot(*(moved - ground).T) / (PASSED_PIXELS * self.unit)
            weight = np.clip(passed - 0.25, 0, 1) * is_there
            there = sample(self.known[other], x + ground[:, 0], y + ground[:, 1])
            in_place += weight * _likeness(here, there)
            weight_in_place += weight
            upright = moved.copy()
            for part in np.unique(owner):  # its shadow stays on the ground
                upright[owner == part, 1] = np.median(ground[owner == part, 1])
            jumps = np.abs(upright - moved).max() > TOLERANCE_PIXELS * self.unit
            for way, to in enumerate((moved, upright) if jumps else (moved,)):
                likeness, seen = self._likeness_near(other, here, x + to[:, 0], y + to[:, 1])
                alike[way] += weight * likeness
                weights[way] += weight * seen
        along = np.where(weights < SEEN_FRAMES, 0, alike / np.maximum(weights, 1e-3)).max(0)
        return along, in_place / np.maximum(weight_in_place, 1e-3)

    def _ground(self, number: int, x: Array, y: Array) -> Iterator[tuple[int, Array]]:
        """Frames to compare with, and how far the ground goes until then, (N, 2)."""
        for step, flows in ((1, self.forward), (-1, self.backward)):
            moved = np.zeros((len(x), 2), np.float32)
            for distance in range(1, COMPARED_FRAMES[-1] + 1):
                other = number + step * distance
                if not 0 <= other < len(self.known):
                    break
                flow = flows[other - 1 if step == 1 else other]
                moved = moved + sample(flow, x + moved[:, 0], y + moved[:, 1])
                if distance in COMPARED_FRAMES:
                    yield other, moved

    def _moved(self, number: int, other: int, owner: Array) -> tuple[Array, Mask]:
        """How far objects go until another frame, (N, 2), and whether they are there, (N,)."""
        moved, is_there = np.zeros((len(owner), 2), np.float32), np.zeros(len(owner), bool)
        for part in np.unique(owner):
            shift = shift_between(self.parts[number] == part, self.parts[other] == part)
            if shift is not None:
                moved[owner == part], is_there[owner == part] = shift, True
        return moved, is_there

    def _likeness_near(self, other: int, here: Array, x: Array, y: Array) -> tuple[Array, Mask]:
        """The best of likenesses close to positions in another frame, and where any is known."""
        height, width = self.known[other].shape[:2]
        best, seen = np.zeros(len(x), np.float32), np.zeros(len(x), bool)
        reach = TOLERANCE_PIXELS * self.unit
        for right, down in ((0, 0), (reach, 0), (-reach, 0), (0, reach), (0, -reach)):
            there = sample(self.known[other], x + right, y + down)
            within = (x + right >= 0) & (x + right <= width - 1)
            within &= (y + down >= 0) & (y + down <= height - 1) & (there[:, 3] > 0.5)
            best = np.maximum(best, np.where(within, _likeness(here, there), 0))
            seen |= within
        return best, seen


def _likeness(here: Array, there: Array) -> Array:
    """(N,), from 0 to 1: of ratios with others, 1 if they are the same, 0 where there is none."""
    other = np.where(there[:, 3:] > 0.5, there[:, :3], 0)
    larger = np.maximum((here * here).sum(-1), (other * other).sum(-1))
    return np.clip((here * other).sum(-1) / np.maximum(larger, 1e-6), 0, 1)


def _parts(
    weak: Array, strong: Array, objects: Array, tracks: Sequence[Array], unit: float
) -> list[Mask]:
    """Those parts of the weak that hold a strong pixel, or go on in time from one that does.

    Args:
        weak, strong, objects: (T, H, W) bool.
        tracks: see `track_objects`: a part goes on where it keeps its place beside its object.
        unit: see `ROWS`.

    Returns:
        (H, W) bool each; nothing starts from small parts, small gaps are closed, and those of one
        frame.
    """
    parts = [
        _connected_parts(pixels, sure, unit) for pixels, sure in zip(weak, strong, strict=True)
    ]
    found = [
        _starts(labels, sure, LEAST_SHARE * mask.sum() ** 0.5)
        for labels, sure, mask in zip(parts, strong, objects, strict=True)
    ]
    order = range(len(parts))
    for step, frames in ((1, order[1:]), (-1, order[-2::-1])):
        for number in frames:
            before = _from_near(found, tracks, number, -step)
            for label in np.setdiff1d(parts[number][before & ~found[number]], 0):
                part = parts[number] == label
                if (part & before).sum() >= LINK_SHARE * part.sum():
                    found[number] |= part
    return [
        mask | (_from_near(found, tracks, number, -1) & _from_near(found, tracks, number, 1))
        for number, mask in enumerate(found)
    ]


def _connected_parts(weak: Mask, strong: Mask, unit: float) -> Array:
    """(H, W): the connected parts numbered from 1.

    Thin ones are noise, but not where they are sure: a car's shadow is a strip under it.
    """
    closed = cv2.morphologyEx(weak.astype(np.uint8), cv2.MORPH_CLOSE, disk(2 * unit))
    opened = cv2.morphologyEx(closed, cv2.MORPH_OPEN, disk(0.7 * unit))
    near_sure = cv2.dilate(strong.astype(np.uint8), disk(2 * unit))
    kept = cv2.bitwise_or(opened, cv2.bitwise_and(closed, near_sure))
    labels: Array = cv2.connectedComponents(kept)[1]
    return labels


def _starts(parts: Array, strong: Mask, least_area: float) -> Mask:
    """(H, W): those parts that hold a strong pixel and are as large as that."""
    is_large = np.bincount(parts.ravel()) >= least_area
    labels = np.setdiff1d(parts[strong], 0)
    return np.isin(parts, labels[is_large[labels]])


def _from_near(found: Sequence[Mask], tracks: Sequence[Array], number: int, step: int) -> Mask:
    """What the two frames on one side found, where it is in this one."""
    near = np.zeros_like(found[number])
    for other in (number + step, number + 2 * step):
        if 0 <= other < len(found):
            seen, pair = found[other].astype(np.uint8), (tracks[other], tracks[number])
            near |= carry_along(seen, *pair, or_level=True) > 0
    return near
