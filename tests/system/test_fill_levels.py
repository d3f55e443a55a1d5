import numpy as np
import pytest

from combcn_core.fill.levels import LEAST_PAIRS, robust_log_gain
from combcn_core.fill.threads import one_thread
from combcn_core.fill.window import Window

GAINS = np.array([0.8, 1.1, 1.4])


def pairs(count=2000, noise=0.0, seed=0):
    random = np.random.default_rng(seed)
    truth = random.uniform(0.1, 0.6, (count, 3))
    seen = truth[None] + noise * random.standard_normal((2, count, 3))
    return seen[0].astype(np.float32), seen[1].astype(np.float32)


def test_robust_log_gain_of_scaled_pairs_is_the_logarithm():
    first, _ = pairs()
    # Sums of float32 values, and a grid of 2**-20.
    np.testing.assert_allclose(robust_log_gain(first, first * GAINS), np.log(GAINS), atol=2e-6)


def test_robust_log_gain_changes_its_sign_when_the_sides_change_places():
    first, second = pairs(noise=0.02)
    second = second * GAINS.astype(np.float32)
    forward, backward = robust_log_gain(first, second), robust_log_gain(second, first)
    assert np.abs(forward).min() > 0.05
    np.testing.assert_allclose(forward, -backward, atol=2e-6)


def test_robust_log_gain_is_not_moved_by_what_passes_by():
    first, second = pairs(noise=0.01)
    second = second * GAINS.astype(np.float32)
    second[: len(second) // 4] = (0.9, 0.05, 0.5)
    # 500 of 2000 pairs are of another thing; the noise of a pair is about 3 %.
    np.testing.assert_allclose(robust_log_gain(first, second), np.log(GAINS), atol=0.005)


@pytest.mark.parametrize("seed", range(5))
def test_robust_log_gain_without_a_significant_difference_is_zero(seed):
    # Every ninth pair counts: 3 % of noise over 222 pairs is 0.2 %, and 2.5 times that is left.
    assert not robust_log_gain(*pairs(noise=0.01, seed=seed)).any()


def test_robust_log_gain_of_few_pairs_is_zero():
    first, _ = pairs(LEAST_PAIRS - 1)
    assert not robust_log_gain(first, first * GAINS).any()


@pytest.mark.parametrize("levels", [(1, 1, 1), (0.7, 0.7, 0.7), (0.93, 1, 1.08)])
def test_levels_of_frames_far_apart_do_not_drift(panned, levels):
    """A textured pan with noise, blur that changes and a passing object; the light is known."""
    frames, holes, _ = panned(49, levels=levels, passes_by=True)
    window = Window(48)
    with one_thread():
        window.slide(0, frames, holes, 0, 1)
        window.find_motions()
        window.propagated(0, 1, 0)
        gain = np.exp(window._log_gain(0, 48, window._keys[0]))
    # The bounds: half a percent in constant light, one where it changes.
    allowed = 0.005 if levels == (1, 1, 1) else 0.01
    np.testing.assert_allclose(gain, levels, rtol=allowed)
