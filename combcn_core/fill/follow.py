"""Masks drawn on some frames, carried along optical flow to the frames between and beyond.

From each drawn mask labels go from frame to frame, forward and backward. What a pixel shows is
compared with where it comes from in the frame of the drawn mask: that says which side to believe,
and how far. Where neither is sure, the colours of the object and of its surroundings decide, as the
drawn masks show them; then the edge is fitted to the picture with a guided filter.

Source: colour and motion together as in video cut-out (Bai et al., Video SnapCut, SIGGRAPH 2009),
without its windows; guided filter: He, Sun, Tang (ECCV 2010), on a coarser grid as in its fast form
(He, Sun, arXiv:1505.00996). The constants were chosen on rendered objects over training footage.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import cv2
import numpy as np

from combcn_core.fill.cuts import is_cut
from combcn_core.pixels import (
    Array,
    Box,
    Mask,
    Pixels,
    crop_box,
    find_box,
    moved_box,
    to_unit,
    union,
)

if TYPE_CHECKING:
    from torch import Tensor

SIDE_PIXELS = 640  # masks are followed on frames whose long side is at most this
MARGIN_PIXELS = 48  # of frame around an object that flow sees
NEAR_PIXELS = 20  # what is this near to an object counts as its surroundings
MISMATCH = 4 / 255  # difference of colours at which a trace is believed by a factor e less
AGE_POWER = 0.4  # of the distance in time from a drawn mask, in how far it is believed
COLOR_WEIGHT = 1.75  # of the log-likelihood ratio of colours, where motion is unsure
COLOR_LIMIT = 3.0  # of that ratio
LAB_BINS = (48, 64, 64)
PIECE_SHARE = 0.25  # of the largest piece: a smaller one that lies apart is not the object
EDGE_PIXELS, EDGE_EPSILON = 4, 3e-4  # radius and regularisation of the guided filter


class FollowedMask(NamedTuple):
    """The mask of a frame, and how far it can be trusted.

    Attributes:
        mask: (H, W) bool.
        confidence: 0 to 1, the intersection over union with the true mask that is to be expected;
            1 where it was drawn, 0 where nothing in the shot was.
    """

    mask: Mask
    confidence: float


def follow_masks(
    images: Tensor,
    masks: Tensor,
    frames: Sequence[int],
    *,
    on_progress: Callable[[float, Pixels | None], None] | None = None,
) -> tuple[Tensor, list[float]]:
    """Carry masks drawn on some frames to all frames.

    Args:
        images: (T, H, W, 3), uint8, uint16 or float, RGB in [0, 1].
        masks: (N, H, W) or (H, W), 1 on the object; see `check_masks`.
        frames: N numbers of frames, from 0, that the masks belong to.
        on_progress: as in `inpaint`.

    Returns:
        (T, H, W) bool, the drawn masks where there are any; and for each frame how sure its mask
        is, from 0 to 1: draw another one where this is low. No mask is carried across a scene cut:
        frames of a shot without a drawn one stay without.

    Raises:
        ValueError: masks and frames differ in number, frames that are not there or named twice.
    """
    import torch

    from combcn_core.masks import check_masks

    wrong = [number for number in frames if not 0 <= number < len(images)]
    if not frames or wrong or len(set(frames)) < len(frames):
        raise ValueError(
            f"masks are for frames {', '.join(map(str, frames)) or 'none'} of a clip of "
            f"{len(images)}; give a number from 0 to {len(images) - 1} for each mask, once."
        )
    if masks.ndim == 3 and len(masks) != len(frames):
        raise ValueError(
            f"there are {len(masks)} masks and the numbers of {len(frames)} frames; give one each."
        )
    drawn = check_masks(masks, len(frames), *images.shape[1:3])
    given = {n: mask.numpy(force=True) for n, mask in zip(frames, drawn, strict=True)}
    pixels = (image.numpy(force=True) for image in images)
    followed = []
    for one in follow(pixels, given):
        followed.append(one)
        if on_progress is not None:
            on_progress(len(followed) / len(images), None)
    found = torch.from_numpy(np.stack([mask for mask, _ in followed]))
    return found.to(images.device), [confidence for _, confidence in followed]


def describe_followed(confidence: Mapping[int, float], lost: Sequence[int]) -> str:
    """Where masks that were followed may be wrong, for users: a few frames that lie apart.

    Args:
        confidence: number of a frame -> how sure its mask is.
        lost: the frames that have no mask, in order.
    """
    apart = max(3, len(confidence) // 12)
    worst: list[int] = []
    for number in sorted(confidence.keys() - set(lost), key=lambda number: confidence[number]):
        if confidence[number] < 1 and all(abs(number - other) >= apart for other in worst[:5]):
            worst.append(number)
    parts = []
    if worst:
        frames = ", ".join(f"{number} ({confidence[number]:.2f})" for number in sorted(worst[:5]))
        parts.append(f"least sure in frames {frames}: draw another mask where it is wrong")
    if lost:
        runs = [n for n in lost if n - 1 not in lost]
        ends = [n for n in lost if n + 1 not in lost]
        pairs = list(zip(runs, ends, strict=True))
        spans = ", ".join(f"{a} to {b}" if b > a else str(a) for a, b in pairs[:5])
        more = f" and {len(pairs) - 5} more places" if len(pairs) > 5 else ""
        what = "draw one there if the object, or its shadow, is in it"
        parts.append(f"no mask in frames {spans}{more}: {what}")
    return "; ".join(parts) or "sure everywhere"


def follow(frames: Iterable[Pixels], drawn: Mapping[int, Mask]) -> Iterator[FollowedMask]:
    """As `follow_masks`, frame by frame; holds those before a drawn mask, made smaller.

    Args:
        frames: (H, W, 3) each.
        drawn: number of a frame -> its mask, (H, W) bool.
    """
    waiting: list[_View] = []
    start: _Drawn | None = None  # the drawn mask before those that wait
    beyond: _Side | None = None  # carries the last one on
    last = max(drawn, default=-1)
    previous: Pixels | None = None
    for number, frame in enumerate(frames):
        view = _View.of(frame)
        if previous is not None and is_cut(previous, frame):
            yield from _between(start, waiting, None)
            waiting, start, beyond = [], None, None
        previous = frame
        if number in drawn:
            stop = _Drawn.of(view, drawn[number])
            yield from _between(start, waiting, stop)
            yield FollowedMask(drawn[number], 1.0)
            waiting, start, beyond = [], stop, _Side(stop)
        elif number < last or beyond is None or start is None:
            waiting.append(view)
        else:  # no other mask is to come
            yield _decide(view, [beyond.step(view)], [start])
    yield from _between(start, waiting, None)


class _View(NamedTuple):
    """A frame at the size at which masks are followed."""

    rgb: Array  # (h, w, 3) uint8
    smooth: Array  # as rgb, for comparing
    gray: Array  # (h, w) uint8
    size: tuple[int, int]  # of the frame, height and width

    @classmethod
    def of(cls, frame: Pixels) -> _View:
        height, width = frame.shape[:2]
        scale = min(1.0, SIDE_PIXELS / max(height, width))
        rgb = frame if frame.dtype == np.uint8 else to_unit(frame).clip(0, 1)
        if scale < 1:
            size = (max(1, round(width * scale)), max(1, round(height * scale)))
            rgb = cv2.resize(rgb, size, interpolation=cv2.INTER_AREA)
        if rgb.dtype != np.uint8:
            rgb = np.rint(np.nan_to_num(rgb) * 255).astype(np.uint8)
        gray = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)
        return cls(rgb, cv2.GaussianBlur(rgb, (0, 0), 0.8), gray, (height, width))


class _Drawn(NamedTuple):
    """A drawn mask, and what it says of colours."""

    view: _View
    labels: Array  # (h, w), 1 on the object
    colors: tuple[Array, Array]  # histograms of the object and of its surroundings
    is_whole: bool  # in one piece

    @classmethod
    def of(cls, view: _View, mask: Mask) -> _Drawn:
        height, width = view.gray.shape
        labels: Array = mask.astype(np.float32)
        if mask.shape != (height, width):
            labels = cv2.resize(labels, (width, height), interpolation=cv2.INTER_AREA)
        inside = labels >= 0.5
        side = 2 * NEAR_PIXELS + 1
        near = cv2.dilate(inside.astype(np.uint8), np.ones((side, side), np.uint8)) > 0
        entries = _lab_entries(view.rgb)
        is_whole = len(_pieces(inside)[1]) < 2
        counts = [
            np.bincount(entries[where], minlength=int(np.prod(LAB_BINS))).astype(np.float32)
            for where in (inside, near & ~inside)
        ]
        return cls(view, labels, (counts[0], counts[1]), is_whole)


def _lab_entries(rgb: Array) -> Array:
    """(...), which entry of a histogram of colours each pixel belongs to."""
    lab = cv2.cvtColor(rgb, cv2.COLOR_RGB2Lab).astype(np.int32)
    rows, columns, layers = (lab[..., axis] * bins // 256 for axis, bins in enumerate(LAB_BINS))
    return (rows * LAB_BINS[1] + columns) * LAB_BINS[2] + layers


class _Guess(NamedTuple):
    """Labels carried from one drawn mask; 0 outside the box."""

    box: Box | None
    labels: Array  # of the box, 0 to 1
    trust: Array  # of the box, 0 to 1: by how well colours fit, and by age


class _Side:
    """Carries a drawn mask from frame to frame, in one direction."""

    def __init__(self, drawn: _Drawn) -> None:
        self._drawn = drawn
        self._last = drawn.view
        self._labels = drawn.labels
        self._offset = np.zeros((*drawn.labels.shape, 2), np.float32)  # to the drawn mask's frame
        self._age = 0

    def step(self, view: _View) -> _Guess:
        """The next frame."""
        self._age += 1
        box = _around(self._labels)
        if box is None:
            return _Guess(None, *[np.zeros((0, 0), np.float32)] * 2)
        here, key = _slices(box), self._drawn.view
        grid = _grid(box)
        flow = _flow(view.gray[here], self._last.gray[here], None)
        from_last = grid + flow
        chained = _remap(self._labels, from_last)
        offset = _remap(self._offset, from_last) + flow

        # The same from the drawn mask at one go: what is not lost on the way is more exact.
        inside = chained > 0.5
        drift = np.median(offset[inside], axis=0) if inside.any() else np.zeros(2)
        shift = np.rint(drift).astype(np.float32)
        there = _cut(key.gray, box, shift)
        straight = _flow(view.gray[here], there, offset - shift) + shift
        guesses = []
        for labels, jump in (
            (chained, offset),
            (_remap(self._drawn.labels, grid + straight), straight),
        ):
            seen = _remap(key.smooth, grid + jump)
            gap = cv2.absdiff(seen, view.smooth[here]).astype(np.float32).mean(-1) / 255
            guesses.append((labels, np.exp(-cv2.blur(gap, (3, 3)) / MISMATCH) + 1e-6))
        (first, first_trust), (second, second_trust) = guesses
        labels = (first * first_trust + second * second_trust) / (first_trust + second_trust)
        trust = np.maximum(first_trust, second_trust)

        self._labels = np.zeros_like(self._labels)
        self._labels[here] = chained
        self._offset = np.empty_like(self._offset)
        self._offset[:] = drift  # around the box: what enters it later moved about like this
        self._offset[here] = offset
        self._last = view
        return _Guess(box, labels, trust / self._age**AGE_POWER)


def _between(
    start: _Drawn | None, views: Sequence[_View], stop: _Drawn | None
) -> Generator[FollowedMask, None, None]:
    """The masks of the frames between two drawn ones, of which either may be missing."""
    drawn = [side for side in (start, stop) if side is not None]
    from_stop: list[_Guess] = []
    if stop is not None:
        side = _Side(stop)
        from_stop = [side.step(view) for view in reversed(views)][::-1]
    forward = None if start is None else _Side(start)
    for index, view in enumerate(views):
        guesses = [] if forward is None else [forward.step(view)]
        guesses += from_stop[index : index + 1]
        yield _decide(view, guesses, drawn)


def _decide(view: _View, guesses: Sequence[_Guess], drawn: Sequence[_Drawn]) -> FollowedMask:
    """The mask of a frame from what was carried there."""
    boxes = [guess.box for guess in guesses if guess.box is not None]
    if not boxes:
        return FollowedMask(np.zeros(view.size, bool), 0.0)
    box = functools.reduce(union, boxes)
    here = _slices(box)
    shape = (box.height, box.width)
    total, weights, best = (np.zeros(shape, np.float32) for _ in range(3))
    for guess in guesses:
        if guess.box is None:
            continue
        place = _slices(moved_box(guess.box, box))
        total[place] += guess.labels * guess.trust
        weights[place] += guess.trust
        best[place] = np.maximum(best[place], guess.trust)
    labels = total / np.maximum(weights, 1e-6)

    # Colours decide where motion is not sure, near what it says.
    entries = _lab_entries(view.rgb[here])
    ratio = _color_ratio(drawn)[entries]
    likely = labels.clip(0.02, 0.98)
    evidence = np.log(likely / (1 - likely)) + COLOR_WEIGHT * (1 - best.clip(0, 1)) * ratio
    near = cv2.GaussianBlur(labels, (0, 0), 8) > 0.05
    sure = np.where(near, 1 / (1 + np.exp(-evidence)), 0).astype(np.float32)
    fitted = _guided(view.rgb[here].astype(np.float32) / 255, sure)
    # The filter takes thin things away, so it has a say only where motion is not sure.
    fitted = sure + (fitted - sure) * (1 - best.clip(0, 1))
    if all(one.is_whole for one in drawn):
        fitted[_strays(fitted > 0.5)] = 0
    whole: Array = np.zeros(view.gray.shape, np.float32)
    whole[here] = fitted
    if whole.shape != view.size:
        whole = cv2.resize(whole, view.size[::-1], interpolation=cv2.INTER_LINEAR)
    mask = whole > 0.5
    inside = fitted > 0.5
    hit, missed = float(sure[inside].sum()), float(sure[~inside].sum())
    return FollowedMask(mask, hit / max(float(inside.sum()) + missed, 1.0))


def _pieces(mask: Mask) -> tuple[Array, Array]:
    """(h, w), the number of the piece of each pixel, from 1; and the size of each, without 0.

    What lies near another thing is one piece with it.
    """
    near = cv2.dilate(mask.astype(np.uint8), np.ones((NEAR_PIXELS + 1, NEAR_PIXELS + 1), np.uint8))
    numbers = cv2.connectedComponents(near)[1] * mask
    return numbers, np.bincount(numbers.ravel())[1:]


def _strays(mask: Mask) -> Mask:
    """Small pieces that lie apart: things that passed by, or look like the object."""
    numbers, sizes = _pieces(mask)
    if len(sizes) < 2:
        return np.zeros_like(mask)
    return np.isin(numbers, 1 + np.flatnonzero(sizes < PIECE_SHARE * sizes.max()))


def _color_ratio(drawn: Sequence[_Drawn]) -> Array:
    """For each entry of a histogram, log-likelihood of the object over that of what is around."""
    likelihoods = []
    for part in (0, 1):
        counts = np.sum([one.colors[part] for one in drawn], axis=0).reshape(LAB_BINS)
        for axis in range(3):
            counts = np.roll(counts, 1, axis) / 4 + counts / 2 + np.roll(counts, -1, axis) / 4
        likelihoods.append(counts.ravel() / max(float(counts.sum()), 1.0) + 1e-5)
    ratio = np.log(likelihoods[0] / likelihoods[1])
    return ratio.clip(-COLOR_LIMIT, COLOR_LIMIT).astype(np.float32)


def _guided(guide: Array, values: Array) -> Array:
    """Fit values to the edges of a picture: the guided filter, with a guide in colour."""
    side = 2 * EDGE_PIXELS + 1

    def mean(image: Array) -> Array:
        return cv2.blur(image, (side, side))

    mean_guide, mean_values = mean(guide), mean(values)
    covariance = mean(guide * values[..., None]) - mean_guide * mean_values[..., None]
    second = mean(guide * guide) - mean_guide * mean_guide + EDGE_EPSILON
    turned = guide[..., [1, 2, 0]]
    mixed = mean(guide * turned) - mean_guide * mean_guide[..., [1, 2, 0]]
    rr, gg, bb = cv2.split(second)
    rg, gb, br = cv2.split(mixed)
    # The inverse of a symmetric matrix by its cofactors.
    cofactors = (gg * bb - gb * gb, gb * br - rg * bb, rg * gb - gg * br)
    determinant = rr * cofactors[0] + rg * cofactors[1] + br * cofactors[2]
    cr, cg, cb = cv2.split(covariance)
    slopes = [
        cofactors[0] * cr + cofactors[1] * cg + cofactors[2] * cb,
        cofactors[1] * cr + (rr * bb - br * br) * cg + (rg * br - rr * gb) * cb,
        cofactors[2] * cr + (rg * br - rr * gb) * cg + (rr * gg - rg * rg) * cb,
    ]
    slope = cv2.merge(slopes) / determinant[..., None]
    intercept = mean_values - (slope * mean_guide).sum(-1)
    return (mean(slope) * guide).sum(-1) + mean(intercept)


# --- crops ----------------------------------------------------------------------------------------


def _around(labels: Array) -> Box | None:
    box = find_box(labels > 0.1)
    return None if box is None else crop_box(box, MARGIN_PIXELS, 1, *labels.shape)


def _slices(box: Box) -> tuple[slice, slice]:
    return slice(box.top, box.bottom), slice(box.left, box.right)


def _grid(box: Box) -> Array:
    """(h, w, 2): x and y of each pixel of a box in its frame."""
    x = np.arange(box.left, box.right, dtype=np.float32)
    y = np.arange(box.top, box.bottom, dtype=np.float32)
    return np.dstack(np.meshgrid(x, y))


def _remap(image: Array, positions: Array) -> Array:
    x, y = cv2.split(positions)
    found: Array = cv2.remap(image, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return found


def _cut(image: Array, box: Box, shift: Array) -> Array:
    """A box moved by whole pixels (x, y), with the nearest pixels of the frame around it."""
    rows = (np.arange(box.top, box.bottom) + int(shift[1])).clip(0, image.shape[0] - 1)
    columns = (np.arange(box.left, box.right) + int(shift[0])).clip(0, image.shape[1] - 1)
    return np.ascontiguousarray(image[np.ix_(rows, columns)])


def _flow(first: Array, second: Array, start: Array | None) -> Array:
    """(h, w, 2): DIS optical flow, in pixels, from a first guess on if there is one."""
    dis = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    dis.setFinestScale(0)
    dis.setPatchStride(5)
    dis.setGradientDescentIterations(12 if start is None else 6)
    dis.setVariationalRefinementIterations(0)
    height, width = first.shape
    pad = (0, max(0, 32 - height), 0, max(0, 32 - width))  # DIS needs room for its patches
    first = cv2.copyMakeBorder(first, *pad, cv2.BORDER_REPLICATE)
    second = cv2.copyMakeBorder(second, *pad, cv2.BORDER_REPLICATE)
    if start is not None:
        start = cv2.copyMakeBorder(start.astype(np.float32), *pad, cv2.BORDER_REPLICATE)
    flow: Array = dis.calc(first, second, start)  # type: ignore[arg-type]
    return flow[:height, :width]
