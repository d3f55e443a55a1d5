"""What fills a hole pixel: all that was found for it, mixed by how sure it is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np

from combcn_core.fill.blur import as_blurred, lost
from combcn_core.fill.smooth import push_pull
from combcn_core.fill.trace import HALF_ERROR, MAX_ERROR, RING_PIXELS, Trace, error_unit
from combcn_core.pixels import (
    Array,
    Box,
    Mask,
    Patch,
    crop,
    crop_box,
    find_box,
    from_unit,
    replaced,
    to_unit,
    weighted,
)

LEAST_ERROR = 0.3  # added to that of a trace, which may be none
# Of all sightings together: what is less sure is still hole. One alone gets there with an expected
# error of about 8.2.
LEAST_CONFIDENCE = 0.25
# What is hardly surer leans towards a smooth fill, by 1 less this power of the confidence: the mean
# of both has less error, and more of it is a haze.
LEAN = 1 / 3
SHARPNESS = 4  # how much the surer of two traces outweighs the other
# A registered source lies farther off than its cost tells where what it shows is at several depths;
# a trace of the same has followed each of them.
REGISTERED_SHARE = 2.0**-SHARPNESS
# A sighting from right beside a hole is doubted where one from farther off differs from it by more
# than some grey levels: that adds to its expected error. Means over a few pixels are compared, so
# that what is only out of place cancels, and a shift by so many pixels explains some of the rest.
DOUBT_ERROR, DOUBT_GAP, DOUBT_PIXELS, DOUBT_SHIFT = 9.0, 4.0, 8, 1.5
_STILL = np.zeros(2)
_GRAY_LEVELS = np.full(3, 255 / 3, np.float32)  # of 255, from RGB
# A source that is less sharp by a factor e is less sure by so much.
BLUR_ERROR, MAX_LOST = 20.0, 0.3
LEAST_LEAD = 0.05  # in nearness, for one to be compared with the other
LEVEL_PIXELS, LEVEL_WEIGHT = 2.0, 0.1  # of a cell that levels are compared on; of its weight
MAX_LEVEL_STEP = 0.05  # what is larger is no difference of level
MAX_EDGE_STEP, EDGE_AVERAGE_PIXELS = 0.4, 3.0  # it is averaged along the ring,
EDGE_PIXELS = 12.0  # and fades to 1/e within so many pixels
# Smoke and spray, so much brighter or more, have no edges as shadows have: they reach farther in.
VEIL_STEP, VEIL_PIXELS = 0.08, 48.0


class Sighting(NamedTuple):
    """What was found for the pixels of a hole in one way.

    Attributes:
        path: traces of the hole and of the ring around it.
        colors: theirs, (N, 3) in [0, 1].
        near: of their ends to the holes there, (N,) in [0, 1]: what is seen beside a hole is
            doubted where others, seen farther from one, contradict it. None: nothing is doubted.
        fade: a factor on how sure they are, (N,) or one for all, in [0, 1].
        share: a factor on their part in the mix with others; alone they are as sure as without.
        log_detail: log(detail of their sources / detail of the frame), (N,), see `blur`.
    """

    path: Trace
    colors: Array
    near: Array | None = None
    fade: Array | float = 1.0
    share: float = 1.0
    log_detail: Array | None = None


def merge(
    frame: Patch, mask: Mask, sightings: Sequence[Sighting], speed: Array = _STILL
) -> tuple[Patch, Mask]:
    """Fill a hole with what was found for it, each sighting weighted by how sure it is.

    The ring around the hole, known and traced alike, tells the difference of level between the two;
    it is taken from the hole's pixels, faded smoothly inwards. Where sightings are unsure the
    result leans towards a smooth fill.

    Args:
        frame: (H, W, 3).
        mask: (H, W).
        sightings: of the same pixels.
        speed: of the background, (2,), see `as_blurred`.

    Returns:
        The frame, known pixels untouched; and what is still hole.
    """
    height, width = mask.shape
    box = find_box(mask)
    if box is None:
        return frame, mask
    unit = error_unit(mask)
    box = crop_box(box, 8 * RING_PIXELS, 1, height, width)
    hole, own = crop(mask, box), frame.crop(box)
    pixels = to_unit(own)
    weight, shares = np.zeros((2, box.height, box.width), np.float32)
    total = np.zeros((box.height, box.width, 3), np.float32)
    places = [
        (path.rows - box.top) * box.width + (path.columns - box.left) for path, *_ in sightings
    ]
    doubts = _doubts(sightings, places, box, unit)
    fade_inwards = _fade_inwards(hole, unit)
    for (path, seen, _, fade, part, log_detail), doubt, place in zip(
        sightings, doubts, places, strict=True
    ):
        error = path.error / unit + LEAST_ERROR
        if doubt is not None:
            error = error + np.float32(DOUBT_ERROR) * doubt
        sure = (path.source >= 0) & (error < MAX_ERROR)
        mixed = np.full(len(error), part, np.float32)
        if log_detail is not None:
            blur = lost(log_detail)
            sure &= blur < MAX_LOST
            mixed /= (1 + np.float32(BLUR_ERROR) * blur / error) ** SHARPNESS
        if not sure.any():
            continue
        place = place[sure]
        share = np.zeros_like(weight)
        share.ravel()[place] = 1 / error[sure] ** SHARPNESS
        found = pixels.copy()
        found.reshape(-1, 3)[place] = seen[sure]
        if log_detail is not None:
            there = np.zeros_like(weight)
            there.ravel()[place] = log_detail[sure]
            found = as_blurred(found, share > 0, there[share > 0], speed)
        on_ring = np.where(hole, 0, _confidence(share))
        found += _level(pixels - found, on_ring, fade_inwards, unit)
        share.ravel()[place] *= fade[sure] if isinstance(fade, np.ndarray) else np.float32(fade)
        weight += share
        share.ravel()[place] *= mixed[sure]
        shares += share
        total += weighted(found, share)
    found = weighted(total, 1 / np.maximum(shares, 1e-8))
    confidence = _confidence(weight)
    cv2.copyTo(pixels, (~hole).view(np.uint8), found)
    share = np.where(hole, confidence ** np.float32(LEAN), 1)
    filled = push_pull(found, share.astype(np.float32))

    own[hole] = from_unit(filled[hole], own.dtype)
    remaining = np.zeros_like(mask)
    crop(remaining, box)[hole] = confidence[hole] <= LEAST_CONFIDENCE
    return replaced(frame, box, own), remaining


def _confidence(share: Array) -> Array:
    """How much what was found counts beside a smooth fill, in [0, 1]."""
    weight = share * HALF_ERROR**SHARPNESS
    return weight / (1 + weight)


def _level(step: Array, on_ring: Array, fade: Array, unit: float) -> Array:
    """(h, w, 3): what brings sightings of a hole to the level of the ring around it.

    Differences of level reach all through the hole. Larger ones, where the surroundings have a
    shadow or smoke that the source did not see, fade inwards: a soft transition is less seen than
    the outline of the hole. Averaged along the ring, so that what is only a little out of place
    cancels.

    Args:
        step: (h, w, 3), what the ring has more than the sightings.
        on_ring: (h, w), how sure these are; 0 in the hole.
        fade: see `_fade_inwards`.
        unit: see `error_unit`.
    """
    height, width = on_ring.shape
    size = fade.shape[1], fade.shape[0]
    share = cv2.resize(on_ring, size, interpolation=cv2.INTER_AREA)
    if not share.any():
        return np.zeros_like(step)
    step = cv2.resize(weighted(step, on_ring), size, interpolation=cv2.INTER_AREA)
    step = weighted(step.reshape(*share.shape, 3), 1 / np.maximum(share, 1e-6))
    share = np.minimum(share * np.float32(max(1, LEVEL_PIXELS * unit / RING_PIXELS)), 1)
    level = np.clip(step, -MAX_LEVEL_STEP, MAX_LEVEL_STEP)
    # With so little weight each, many cells of the ring are averaged: levels, not their noise.
    level = push_pull(level, LEVEL_WEIGHT * share)
    sigma = EDGE_AVERAGE_PIXELS / LEVEL_PIXELS
    weight = cv2.GaussianBlur(share, (0, 0), sigma)
    mean = cv2.GaussianBlur(weighted(step - level, share), (0, 0), sigma)
    mean = weighted(mean.reshape(step.shape), 1 / np.maximum(weight, 1e-6))
    mean = np.clip(mean, -MAX_EDGE_STEP, MAX_EDGE_STEP)
    mean = push_pull(mean, share)
    veil = np.maximum(mean - VEIL_STEP, 0)
    level += weighted(mean - veil, fade)
    level += weighted(veil, fade ** np.float32(EDGE_PIXELS / VEIL_PIXELS))
    return cv2.resize(level, (width, height), interpolation=cv2.INTER_LINEAR)


def _fade_inwards(hole: Mask, unit: float) -> Array:
    """1 outside of the hole, falling with the depth inside; on the cells that levels are compared
    on, `LEVEL_PIXELS` wide."""
    height, width = hole.shape
    cell = LEVEL_PIXELS * unit
    size = max(1, round(width / cell)), max(1, round(height / cell))
    inside = cv2.resize(hole.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST)
    depth = cv2.distanceTransform(inside, cv2.DIST_L2, 5)
    return np.exp(depth * np.float32(-LEVEL_PIXELS / EDGE_PIXELS))


def _doubts(
    sightings: Sequence[Sighting], places: Sequence[Array], box: Box, unit: float
) -> list[Array | None]:
    """For each (N,) in [0, 1]: how much what is seen farther from a hole contradicts it.

    None for sightings of which nothing is doubted. `places` are theirs in the flattened box.
    """
    witness = np.zeros((box.height * box.width, 3), np.float32)
    nearest = np.full(box.height * box.width, np.inf, np.float32)
    for (path, found, near, *_), place in zip(sightings, places, strict=True):
        if near is None:
            continue
        good = (path.source >= 0) & (path.error < MAX_ERROR * unit) & (near < nearest[place])
        some = place[good]
        witness[some], nearest[some] = found[good], near[good]
    doubts: list[Array | None] = []
    # Means over many pixels are compared, so in large frames cells of several pixels are enough.
    cell = max(1, int(unit))
    shape = -(-box.height // cell), -(-box.width // cell)
    side = 2 * round(DOUBT_PIXELS * unit / cell) + 1

    def near_cells(cells: Array, *values: Array) -> list[Array]:
        """Sums of values, (N,) each, of what is near each cell."""
        layers = np.zeros((shape[0] * shape[1], len(values)), np.float32)
        if cell == 1:  # nothing to be summed up
            layers[cells] = np.stack(values, -1)
        else:
            layers[:] = np.stack([np.bincount(cells, value, len(layers)) for value in values], -1)
        near = cv2.blur(layers.reshape(*shape, -1), (side, side))
        return [layer.ravel() for layer in cv2.split(near)]

    for (path, found, near, *_), place in zip(sightings, places, strict=True):
        if near is None:
            doubts.append(None)
            continue
        lead = np.where(path.source >= 0, near - nearest[place], 0)
        some = np.flatnonzero(lead > LEAST_LEAD)
        if len(some) == 0:
            doubts.append(np.zeros_like(lead))
            continue
        cells = (path.rows - box.top) // cell * shape[1] + (path.columns - box.left) // cell
        at = place[some]
        gray = witness[at] @ _GRAY_LEVELS
        step = (found[some] - witness[at]).T
        *steps, part, mean, square = near_cells(
            cells[some], *step, np.ones_like(gray), gray, gray**2
        )
        part = np.maximum(part, 1e-6)
        contrast = np.sqrt(np.maximum(square / part - (mean / part) ** 2, 0))
        apart = np.abs(np.stack(steps, -1) / part[:, None]) @ _GRAY_LEVELS
        apart -= contrast * np.float32(DOUBT_SHIFT * unit / (side * cell / 2))
        # Smooth, as a mix that changes from pixel to pixel is rubble.
        doubt = lead[some] * np.clip((apart - DOUBT_GAP) / DOUBT_GAP, 0, 1)[cells[some]]
        (total,) = near_cells(cells[some], doubt)
        (count,) = near_cells(cells, path.source >= 0)
        doubts.append((total / np.maximum(count, 1e-6))[cells])
    return doubts
