"""Smooth fills of one frame: push-pull and the membrane."""

import numpy as np
import pytest

from combcn_core.fill.smooth import fill_smoothly, membrane, push_pull
from combcn_core.pixels import Patch

from ..scene import Scene, box_masks

pytestmark = pytest.mark.usefixtures("one_thread")


SIZES = [(1, 1), (1, 9), (7, 1), (2, 2), (5, 3), (17, 23), (32, 8), (33, 47)]


@pytest.mark.parametrize("size", SIZES)
def test_push_pull_keeps_a_constant(size):
    random = np.random.default_rng(1)
    weights = (random.random(size) < 0.2).astype(np.float32)
    weights[0, 0] = 1
    values = np.full((*size, 3), (0.2, 0.5, 0.9), np.float32)
    # A mean of equal numbers, over a handful of levels: a few roundings of 6e-8 each.
    np.testing.assert_allclose(push_pull(values, weights), values, rtol=0, atol=1e-6)


@pytest.mark.parametrize("size", SIZES)
def test_push_pull_keeps_known_values(size):
    random = np.random.default_rng(2)
    values = random.random((*size, 2), np.float32)
    weights = (random.random(size) < 0.5).astype(np.float32)
    known = weights == 1
    filled = push_pull(values, weights)
    assert filled.shape == values.shape
    np.testing.assert_array_equal(filled[known], values[known])
    # What has no weight is a mean of known values, and so between them.
    if known.any():
        assert filled.min() >= values[known].min() - 1e-6
        assert filled.max() <= values[known].max() + 1e-6


@pytest.mark.parametrize("size", SIZES)
def test_push_pull_without_any_weight_is_zero(size):
    values = np.random.default_rng(3).random((*size, 3), np.float32)
    assert not push_pull(values, np.zeros(size, np.float32)).any()


def test_push_pull_is_linear_in_values():
    random = np.random.default_rng(4)
    first, second = random.random((2, 19, 26, 3), np.float32)
    weights = random.random((19, 26), np.float32) * (random.random((19, 26)) < 0.3)
    weights = weights.astype(np.float32)
    together = push_pull(2 * first - 3 * second, weights)
    apart = 2 * push_pull(first, weights) - 3 * push_pull(second, weights)
    np.testing.assert_allclose(together, apart, rtol=0, atol=1e-5)  # float32 sums of about 5


def test_push_pull_ignores_values_without_weight():
    random = np.random.default_rng(5)
    values = random.random((21, 30, 3), np.float32)
    weights = (random.random((21, 30)) < 0.3).astype(np.float32)
    other = np.where(weights[..., None] > 0, values, 1e4).astype(np.float32)
    np.testing.assert_array_equal(push_pull(values, weights), push_pull(other, weights))


@pytest.mark.parametrize("size", [(7, 8), (8, 7), (7, 9), (12, 13)])
def test_push_pull_finds_nothing_beyond_an_odd_edge(size):
    random = np.random.default_rng(6)
    values = random.random((*size, 3), np.float32)
    weights = random.random(size, np.float32) * (random.random(size) < 0.4)
    more = [(0, length % 2) for length in size]
    padded = push_pull(np.pad(values, [*more, (0, 0)]), np.pad(weights, more))
    np.testing.assert_array_equal(push_pull(values, weights), padded[: size[0], : size[1]])


def test_push_pull_takes_the_nearer_side():
    values = np.zeros((16, 64, 1), np.float32)
    values[:, -8:] = 1
    weights = np.zeros((16, 64), np.float32)
    weights[:, :8] = weights[:, -8:] = 1
    middle = push_pull(values, weights)[8, 8:-8, 0]
    assert middle[:12].max() < 0.5 < middle[-12:].min()
    assert middle[0] < 0.2
    assert middle[-1] > 0.8


@pytest.mark.parametrize("size", [(24, 31), (17, 20)])
def test_membrane_against_a_dense_solution_of_laplaces_equation(size):
    rng = np.random.default_rng(5)
    height, width = size
    values = rng.random((*size, 2)).astype(np.float32)
    free = np.zeros(size, bool)
    free[4:14, 3:16] = True
    free[8:, 11:18] = True  # reaches the lower edge, through which nothing flows
    index = np.arange(height * width).reshape(size)
    matrix, right = np.eye(height * width), values.reshape(-1, 2).astype(float).copy()
    for y, x in zip(*np.nonzero(free), strict=True):
        near = [(y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)]
        near = [place for place in near if 0 <= place[0] < height and 0 <= place[1] < width]
        matrix[index[y, x], [index[place] for place in near]] = -1 / len(near)
        right[index[y, x]] = 0
    exact = np.linalg.solve(matrix, right).reshape(values.shape)
    hidden = values.copy()
    hidden[free] = 7  # no effect

    filled = membrane(hidden, (~free).astype(np.float32))

    np.testing.assert_array_equal(filled[~free], values[~free])
    # Four V-cycles reduce the error of the start about a thousandfold; the values span 1.
    np.testing.assert_allclose(filled, exact, rtol=0, atol=0.02)
    assert np.abs(filled - exact)[free].mean() < 0.004


def test_membrane_without_anything_known_is_zero():
    assert not membrane(np.ones((5, 7, 3), np.float32), np.zeros((5, 7), np.float32)).any()


def test_fill_smoothly_ignores_what_is_hidden():
    clip = Scene(11).clip(1, 33, 41, (0, 0))
    mask = box_masks(1, 33, 41, 10, 12, 20, 30)[0]
    other = clip[0].copy()
    other[mask] = 1
    filled = fill_smoothly(Patch.of(clip[0]), mask).whole()
    np.testing.assert_array_equal(filled, fill_smoothly(Patch.of(other), mask).whole())
    np.testing.assert_array_equal(filled[~mask], clip[0][~mask])
    assert (clip[0] != filled).any(-1).sum() > 150  # of 180: written to a copy
