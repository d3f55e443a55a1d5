"""Smooth fills of one frame: push-pull and the membrane."""

import numpy as np
import pytest

from combcn_core.fill.smooth import fill_quickly, fill_smoothly, membrane, push_pull
from combcn_core.pixels import Box, Patch, crop, replaced

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


def push_pull_slowly(total, weights):
    """Section 3.4 of "The Lumigraph", on values that are multiplied by their weights already."""
    height, width = weights.shape
    if height == 1 or width == 1:
        mean = total.sum((0, 1)) / max(weights.sum(), 1e-8)
        return total + (1 - weights)[..., None] * mean
    half_height, half_width = (height + 1) // 2, (width + 1) // 2
    half, weight = (
        np.zeros((half_height, half_width, total.shape[2])),
        np.zeros((half_height, half_width)),
    )
    for y in range(height):
        for x in range(width):
            half[y // 2, x // 2] += total[y, x] / 4
            weight[y // 2, x // 2] += weights[y, x] / 4
    # Half known is known.
    known = np.minimum(2 * weight, 1)
    half *= np.divide(known, weight, out=np.zeros_like(weight), where=weight > 0)[..., None]
    coarse = push_pull_slowly(half, known)
    filled = total.copy()
    for y in range(height):
        for x in range(width):
            for row, down in ((y // 2, 0.75), (y // 2 + (1 if y % 2 else -1), 0.25)):
                for column, across in ((x // 2, 0.75), (x // 2 + (1 if x % 2 else -1), 0.25)):
                    row_in, column_in = (
                        np.clip(row, 0, half_height - 1),
                        np.clip(column, 0, half_width - 1),
                    )
                    filled[y, x] += (1 - weights[y, x]) * down * across * coarse[row_in, column_in]
    return filled


@pytest.mark.parametrize("size", [*SIZES, (3, 40), (40, 41)])
@pytest.mark.parametrize("share", [0.02, 0.5])
def test_push_pull_against_loops(size, share):
    random = np.random.default_rng(7)
    values = random.random((*size, 2), np.float32)
    weights = (random.random(size, np.float32) * (random.random(size) < share)).astype(np.float32)
    weights[0, -1] = 1
    expected = push_pull_slowly(values.astype(float) * weights[..., None], weights.astype(float))
    np.testing.assert_allclose(push_pull(values, weights), expected, rtol=0, atol=1e-5)


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


@pytest.mark.parametrize("fill", [push_pull, membrane])
def test_a_fill_turns_with_its_picture(fill):
    random = np.random.default_rng(8)
    values = random.random((32, 32, 3), np.float32)
    weights = np.ones((32, 32), np.float32)
    weights[7:22, 3:19] = 0
    once = fill(values, weights)
    for turn in (np.flipud, np.fliplr, lambda array: np.swapaxes(array, 0, 1)):
        turned = [np.ascontiguousarray(turn(array)) for array in (values, weights)]
        np.testing.assert_allclose(fill(*turned), turn(once), rtol=0, atol=1e-5)


def test_membrane_of_a_plane_is_the_plane():
    """Each value of a slope is the mean of its neighbours."""
    y, x = np.mgrid[:41, :53].astype(np.float32)
    plane = np.dstack([0.2 + 0.01 * x, 0.7 - 0.008 * y, 0.1 + 0.005 * (x + y)])
    weights = np.ones((41, 53), np.float32)
    weights[5:37, 6:48] = 0
    filled = membrane(np.where(weights[..., None] > 0, plane, 9).astype(np.float32), weights)
    error = np.abs(filled - plane)[weights == 0]
    # The values span 0.5; a hole as wide as this one converges slowly.
    assert error.mean() < 0.004
    assert error.max() < 0.012


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize(("how", "fill"), [(fill_quickly, push_pull), (fill_smoothly, membrane)])
def test_a_hole_is_filled_from_64_pixels_around_it(how, fill, dtype):
    random = np.random.default_rng(9)
    full = 1 if dtype == np.float32 else np.iinfo(dtype).max
    frame = (random.random((160, 211, 3)) * full).astype(dtype)
    hole = np.zeros((160, 211), bool)
    hole[70:81, 90:111] = random.random((11, 21)) < 0.9
    hole[70, 90] = hole[80, 110] = True
    box = Box(6, 26, 145, 175)
    known = np.float32(~crop(hole, box))
    filled = fill(np.float32(crop(frame, box)) / np.float32(full), known) * full
    expected = frame.copy()
    part = expected[6:145, 26:175]
    part[known == 0] = np.rint(filled[known == 0]) if full > 1 else filled[known == 0]
    patch = how(Patch.of(frame), hole)
    assert patch.box == box
    np.testing.assert_allclose(patch.whole(), expected, rtol=0, atol=1e-6 if full == 1 else 1)
    # What was replaced before stays, and counts.
    before = replaced(Patch.of(frame), Box(0, 0, 100, 100), np.zeros((100, 100, 3), dtype))
    again = how(before, hole).whole()
    assert not again[:100, :100][~hole[:100, :100]].any()
    assert how(before, np.zeros_like(hole)) is before


def test_fill_smoothly_ignores_what_is_hidden():
    clip = Scene(11).clip(1, 33, 41, (0, 0))
    mask = box_masks(1, 33, 41, 10, 12, 20, 30)[0]
    other = clip[0].copy()
    other[mask] = 1
    filled = fill_smoothly(Patch.of(clip[0]), mask).whole()
    np.testing.assert_array_equal(filled, fill_smoothly(Patch.of(other), mask).whole())
    np.testing.assert_array_equal(filled[~mask], clip[0][~mask])
    assert (clip[0] != filled).any(-1).sum() > 150  # of 180: written to a copy
