import numpy as np
import pytest

from combcn_core.fill.keys import nearest
from combcn_core.fill.levels import (
    LEAST_PAIRS,
    measure_falloff,
    median,
    off_centre,
    robust_log_gain,
)
from combcn_core.fill.propagate import Propagation
from combcn_core.fill.threads import one_thread
from combcn_core.fill.window import Window

GAINS = np.array([0.8, 1.1, 1.4])


def pairs(count=2000, noise=0.0, seed=0):
    random = np.random.default_rng(seed)
    truth = random.uniform(0.1, 0.6, (count, 3))
    seen = truth[None] + noise * random.standard_normal((2, count, 3))
    return seen[0].astype(np.float32), seen[1].astype(np.float32)


@pytest.mark.parametrize("count", [1, 2, 3, 100, 101])
def test_median_against_numpy(count):
    values = np.random.default_rng(count).standard_normal(count)
    assert median(values) == np.median(values)


def test_nearest_against_a_search():
    numbers = [-3, 0, 4, 5, 12]
    for number in range(-6, 16):
        assert nearest(numbers, number) == min(numbers, key=lambda at: (abs(at - number), at))


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


def test_off_centre_is_0_in_the_middle_and_1_in_the_corners():
    x, y = np.float32([6, 0, 12, 6]), np.float32([4, 0, 8, 0])
    # Corners of pixels, so those of the picture: half a pixel farther out.
    expected = [0, (36 + 16) / (6.5**2 + 4.5**2), (36 + 16) / (6.5**2 + 4.5**2), 16 / 62.5]
    np.testing.assert_allclose(off_centre(x, y, 9, 13), expected, rtol=1e-6)


def seen_through_a_lens(falloff, noise=0.01, moved=0.6, seed=3):
    """Places seen twice in each of four sources that are brighter or darker in all."""
    random, found = np.random.default_rng(seed), []
    for level in (1, 0.7, 1.2, 0.9):
        first, second = pairs(noise=noise, seed=random.integers(1000))
        outward = random.uniform(-moved, moved, len(first)).astype(np.float32)
        second = second * np.float32(level) * np.exp(np.float32(falloff) * outward)[:, None]
        second[: len(second) // 5] = (0.9, 0.05, 0.5)  # what passes by
        found.append((first, second, outward))
    return found


@pytest.mark.parametrize("falloff", [-0.05, -0.2, -0.45])
def test_falloff_is_that_of_the_lens_whatever_the_light(falloff):
    assert measure_falloff(seen_through_a_lens(falloff)) == pytest.approx(falloff, abs=0.01)


@pytest.mark.parametrize("seed", range(5))
def test_no_falloff_where_there_is_none(seed):
    assert measure_falloff(seen_through_a_lens(0.0, seed=seed)) == 0


def test_no_falloff_where_it_cannot_be_measured():
    assert measure_falloff([]) == 0
    assert measure_falloff(seen_through_a_lens(-0.3, noise=0.05, moved=1e-3)) == 0
    # Corners are never brighter than the centre, and no lens is as dark as that.
    assert measure_falloff(seen_through_a_lens(0.3)) == 0
    assert measure_falloff(seen_through_a_lens(-0.9)) == 0


@pytest.mark.parametrize("levels", [(1, 1, 1), (0.7, 0.7, 0.7), (0.93, 1, 1.08)])
def test_levels_of_frames_far_apart_do_not_drift(panned, levels):
    """A textured pan with noise, blur that changes and a passing object; the light is known."""
    frames, holes, _ = panned(49, levels=levels, passes_by=True)
    window = Window(48)
    with one_thread():
        window.slide(0, frames, holes, 0, 1)
        window.find_motions()
        Propagation(window).fill(0, 1, 0)
        gain = np.exp(window.levels(0, [48]).log_gains[48])
    # The bounds: half a percent in constant light, one where it changes.
    allowed = 0.005 if levels == (1, 1, 1) else 0.01
    np.testing.assert_allclose(gain, levels, rtol=allowed)


@pytest.mark.parametrize("levels", [(1, 1, 1), (0.8, 0.8, 0.8)])
def test_dark_corners_of_a_lens_are_taken_from_the_fill(panned, levels):
    """What was seen in the dark edge of the picture is to be shown in its bright middle."""
    frames, holes, truth = panned(49, levels=levels, corners=0.7)
    window = Window(48)
    with one_thread():
        window.slide(0, frames, holes, 0, 1)
        patch, remaining = Propagation(window).fill(0, 1, 0)[0]
    found = window.levels(0, [48])
    assert np.exp(found.falloff) == pytest.approx(0.7, abs=0.02)
    np.testing.assert_allclose(np.exp(found.log_gains[48]), levels, rtol=0.02)
    filled = holes[0] & ~remaining.whole()
    assert filled.sum() > 0.8 * holes[0].sum()
    for side in np.array_split(np.flatnonzero(holes[0].any(0)), 4):
        part = filled[:, side]
        ratio = patch.whole()[:, side][part].mean() / truth[0][:, side][part].mean()
        assert ratio == pytest.approx(1, abs=0.015)
