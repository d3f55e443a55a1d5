"""Frames, masks and boxes as arrays."""

import cv2
import numpy as np
import pytest

from combcn_core.fill.motion import MARGIN_PIXELS
from combcn_core.fill.threads import one_thread
from combcn_core.pixels import (
    Box,
    Patch,
    crop,
    differ,
    dilate,
    find_box,
    from_unit,
    replaced,
    sample,
    to_unit,
)

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("box", [Box(9, 10, 33, 40), Box(0, 10, 33, 50), Box(0, 0, 48, 50)])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_a_patch_is_the_frame_with_a_part_replaced(box, dtype):
    random = np.random.default_rng(16)
    frame = random.integers(0, 256, (48, 50, 3)).astype(dtype)
    whole = frame.copy()
    whole[17:25, 18:32] = random.integers(0, 256, (8, 14, 3))
    patch = replaced(Patch.of(frame), box, crop(whole, box).copy())
    np.testing.assert_array_equal(patch.whole(), whole)
    for part in (Box(0, 0, 48, 50), Box(20, 20, 22, 48), Box(0, 0, 5, 4)):
        np.testing.assert_array_equal(patch.crop(part), crop(whole, part))
    # Positions inside, around and outside of the part, on whole pixels and between them.
    x, y = random.uniform(-3, 52, (2, 4000)).astype(np.float32)
    x[::4], y[::4] = np.rint(x[::4]), np.rint(y[::4])
    for kernel in (cv2.INTER_LINEAR, cv2.INTER_CUBIC):
        np.testing.assert_array_equal(patch.sample(x, y, kernel), sample(whole, x, y, kernel))
    np.testing.assert_array_equal(patch.frame, frame)


def test_differ_takes_nan_for_nan_and_finds_one_channel():
    first = np.zeros((2, 3, 4, 3), np.float32)
    first[0, 1, 1] = np.nan
    second = first.copy()
    second[1, 2, 3, 2] = np.nan
    second[0, 0, 0, 1] = 1
    assert np.argwhere(differ(first, second)).tolist() == [[0, 0, 0], [1, 2, 3]]


def test_patches_of_a_patch_keep_what_was_replaced_before():
    frame = np.zeros((60, 60, 3), np.uint8)
    first = replaced(Patch.of(frame), Box(2, 2, 24, 24), np.full((22, 22, 3), 1, np.uint8))
    both = replaced(first, Box(20, 30, 50, 58), np.full((30, 28, 3), 2, np.uint8))
    expected = frame.copy()
    expected[2:24, 2:24], expected[20:50, 30:58] = 1, 2
    np.testing.assert_array_equal(both.whole(), expected)
    np.testing.assert_array_equal(first.whole()[20:50, 30:58], 0)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_to_unit_and_back_is_exact(dtype):
    every = np.arange(np.iinfo(dtype).max + 1).astype(dtype)
    unit = to_unit(every)
    assert unit.dtype == np.float32
    assert (unit[0], unit[-1]) == (0, 1)
    np.testing.assert_array_equal(from_unit(unit, np.dtype(dtype)), every)


def test_to_unit_of_floats():
    values = np.array([0.25, 1.5, -0.5, np.nan, np.inf, -np.inf], np.float32)
    np.testing.assert_array_equal(to_unit(values), np.float32([0.25, 1.5, -0.5, 0, 1, 0]))
    back = from_unit(np.float32([0.25, 1.5, -0.5]), np.dtype(np.float32))
    np.testing.assert_array_equal(back, np.float32([0.25, 1.5, 0]))
    back = from_unit(np.float32([0.25, 1.5, -0.5]), np.dtype(np.uint8))
    np.testing.assert_array_equal(back, np.uint8([64, 255, 0]))


def test_dilate_against_distances():
    mask = np.zeros((30, 31), bool)
    mask[12, 15] = True
    grown = dilate(mask, MARGIN_PIXELS)
    y, x = np.mgrid[:30, :31]
    distance = np.hypot(y - 12, x - 15)
    # A disk on a grid: OpenCV draws its edge to the nearest pixel.
    assert grown[distance <= MARGIN_PIXELS - 1].all()
    assert not grown[distance > MARGIN_PIXELS + 0.7].any()


def test_find_box():
    mask = np.zeros((9, 12), bool)
    assert find_box(mask) is None
    mask[3, 4] = mask[7, 10] = True
    assert find_box(mask) == Box(3, 4, 8, 11)


def test_one_thread_restores_the_setting():
    before = cv2.getNumThreads()
    with one_thread():
        assert cv2.getNumThreads() == 1
    assert cv2.getNumThreads() == before
