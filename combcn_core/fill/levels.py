"""By how much one frame is brighter than another, a channel at a time; and lenses' dark corners.

As a camera pans, a place goes from the middle of the picture to its edge, where most lenses are
darker, by more than a quarter in the corners of some. The log of that falls with the square of the
distance from the centre, to the first order (`Levels.falloff`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from combcn_core.pixels import Array

DARK, BRIGHT = 0.04, 0.96  # of the range: noise and clipping rule beyond
LEAST_PAIRS, MAX_PAIRS = 60, 2000  # more take time and tell nothing new
SIGNIFICANT = 2.5  # standard errors, below which there is no difference of level
ROUNDS = 4
FALLOFF_ROUNDS, FALLOFF_PAIRS = 6, 400
MOST_FALLOFF = 0.7  # a lens whose corners are half as bright
UNSURE_FALLOFF = 0.05  # standard error; where the camera hardly moves it cannot be measured


class Levels(NamedTuple):
    """How much brighter places in source frames are than those in a frame that are to be like them.

    Attributes:
        log_gains: log(level of the source / level of the frame), (3,), by source.
        falloff: log(level in a corner / level in the centre) of a frame, at most 0.
        log_details: log(detail of the source / detail of the frame), by source, see `blur`.
    """

    log_gains: Mapping[int, Array]
    falloff: float = 0.0
    log_details: Mapping[int, float] = MappingProxyType({})

    def log_detail(self, source: Array) -> Array:
        """(N,) float32: log detail for sources, (N,); 0 where none is."""
        if not self.log_details:
            return np.zeros(len(source), np.float32)
        first, last = min(self.log_details), max(self.log_details)
        table = np.zeros(last - first + 3, np.float32)  # with 0 at both ends, for all others
        for number, log_detail in self.log_details.items():
            table[number - first + 1] = log_detail
        return table[np.clip(source, first - 1, last + 1) - (first - 1)]


def off_centre(x: Array, y: Array, height: int, width: int) -> Array:
    """Square of the distance from the centre of a picture: 0 there, 1 in its corners."""
    across, down = x - np.float32((width - 1) / 2), y - np.float32((height - 1) / 2)
    return (across**2 + down**2) * np.float32(4 / (height**2 + width**2))


def median(values: Array) -> float:
    """`numpy.median` of (N,), several times as fast; N is 1 or more and nothing is NaN."""
    half = len(values) // 2
    parts = np.partition(values, half)
    middle = float(parts[half])
    return middle if len(values) % 2 else (float(parts[:half].max()) + middle) / 2


def measure_falloff(sightings: Sequence[tuple[Array, Array, Array]]) -> float:
    """log(level in a corner / level in the centre) of a shot's frames; 0 if not significant.

    What each sighting has in common is a change of light and tells nothing; that it is darker
    where it lies farther out than before does.

    Args:
        sightings: places seen twice: colours here and there, (N, 3) in [0, 1], and by how much
            farther off the centre they are there, (N,), see `off_centre`.
    """
    pairs = []
    for first, second, outward in sightings:
        step = max(1, len(first) // FALLOFF_PAIRS)
        one, two = (side[::step].mean(1, dtype=np.float64) for side in (first, second))
        usable = (np.minimum(one, two) > DARK) & (one + two < 2 * BRIGHT)
        if usable.sum() >= LEAST_PAIRS:
            pairs.append((np.log(two[usable] / one[usable]), outward[::step][usable]))
    if not pairs:
        return 0.0
    falloff = 0.0
    for _ in range(FALLOFF_ROUNDS):
        square = product = variance = 0.0
        for ratio, outward in pairs:
            rest = ratio - falloff * outward
            error = rest - median(rest)
            spread = 1.5 * median(np.abs(error)) + 1e-3
            share = 1 / (spread * (1 + (error / (2 * spread)) ** 2)) ** 2
            arm = outward - (share * outward).sum() / share.sum()
            square += (share * arm**2).sum()
            product += (share * arm * ratio).sum()
            variance += ((share * arm * error) ** 2).sum()
        falloff = product / max(square, 1e-12)
    # Neighbouring pairs are not independent: about one in nine is.
    deviation = 3 * np.sqrt(variance) / max(square, 1e-12)
    is_lens = SIGNIFICANT * deviation < -falloff < MOST_FALLOFF and deviation < UNSURE_FALLOFF
    return float(np.round(falloff * 2**20) / 2**20) if is_lens else 0.0


def robust_log_gain(first: Array, second: Array) -> Array:
    """log(level of the second / level of the first), for each channel.

    Both sides are treated alike: which pairs count depends on both values in the same way, so that
    the result has no bias and changes its sign when they change places. What is not significant
    is 0.

    Args:
        first, second: (N, 3) in [0, 1], the same places seen twice, equally blurred.

    Returns:
        (3,) float64.
    """
    step = max(1, len(first) // MAX_PAIRS)
    first, second = first[::step], second[::step]
    gain = np.zeros(3)
    both = first.astype(np.float64) + second
    for channel in range(3):
        usable = (both[:, channel] > 2 * DARK) & (both[:, channel] < 2 * BRIGHT)
        usable &= (first[:, channel] > 0) & (second[:, channel] > 0)
        if usable.sum() < LEAST_PAIRS:
            continue
        one, two = first[usable, channel].astype(np.float64), second[usable, channel]
        ratio, weight = np.log(two / one), both[usable, channel]
        estimate = median(ratio)
        for _ in range(ROUNDS):
            error = np.abs(ratio - estimate)
            spread = 1.5 * median(error) + 1e-4
            share = weight / (1 + (error / (2 * spread)) ** 2) ** 2
            estimate = float((share * ratio).sum() / share.sum())
        # Neighbouring pairs are not independent: about one in nine is.
        deviation = np.sqrt((share**2 * (ratio - estimate) ** 2).sum()) / share.sum() * 3
        if abs(estimate) > SIGNIFICANT * deviation:
            gain[channel] = estimate
    # On a grid of binary fractions sums are exact, in whatever order they are made.
    return np.round(gain * 2**20) / 2**20
