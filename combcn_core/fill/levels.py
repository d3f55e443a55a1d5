"""By how much one frame is brighter than another, a channel at a time."""

from __future__ import annotations

import numpy as np

from combcn_core.pixels import Array

DARK, BRIGHT = 0.04, 0.96  # of the range: noise and clipping rule beyond
LEAST_PAIRS, MAX_PAIRS = 60, 2000  # more take time and tell nothing new
SIGNIFICANT = 2.5  # standard errors, below which there is no difference of level
ROUNDS = 4


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
        estimate = float(np.median(ratio))
        for _ in range(ROUNDS):
            error = np.abs(ratio - estimate)
            spread = 1.5 * float(np.median(error)) + 1e-4
            share = weight / (1 + (error / (2 * spread)) ** 2) ** 2
            estimate = float((share * ratio).sum() / share.sum())
        # Neighbouring pairs are not independent: about one in nine is.
        deviation = np.sqrt((share**2 * (ratio - estimate) ** 2).sum()) / share.sum() * 3
        if abs(estimate) > SIGNIFICANT * deviation:
            gain[channel] = estimate
    # On a grid of binary fractions sums are exact, in whatever order they are made.
    return np.round(gain * 2**20) / 2**20
