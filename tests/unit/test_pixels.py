"""Frames, masks and boxes as arrays."""

import sys

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from combcn_core.fill.motion import MARGIN_PIXELS
from combcn_core.fill.threads import one_thread
from combcn_core.pixels import (
    KEPT_PIXELS,
    Box,
    Decoded,
    Filled,
    PackedMask,
    PackedMasks,
    Patch,
    channel_sum,
    covers,
    crop,
    crop_box,
    crop_stored,
    differ,
    dilate,
    find_box,
    from_unit,
    grid,
    grow_mask,
    intersection,
    moved_box,
    pixels_of,
    placed_box,
    plan_tiles,
    replaced,
    sample,
    sample_stored,
    shrunk,
    to_uint8,
    to_unit,
    union,
    weighted,
)

from ..helpers import boxes, light

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


def test_eight_bits_of_every_type():
    deep = np.arange(65536).astype(np.uint16)
    # 257 steps of 16 bits are one of 8; a tie is impossible.
    np.testing.assert_array_equal(to_uint8(deep), (deep.astype(int) + 128) // 257)
    half = np.float32([-1, 0, 0.1, 0.5, 0.999, 1, 7, np.nan, np.inf])
    np.testing.assert_array_equal(to_uint8(half), [0, 0, 26, 128, 255, 255, 255, 0, 255])
    short = np.uint8([0, 7, 255])
    assert to_uint8(short) is short


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


def test_one_thread_restores_the_settings():
    before = cv2.getNumThreads(), sys.getswitchinterval()
    with one_thread():
        assert cv2.getNumThreads() == 1
        with one_thread():
            assert sys.getswitchinterval() < 1e-3
    assert (cv2.getNumThreads(), sys.getswitchinterval()) == before


@light
@given(boxes(), st.integers(0, 20), st.integers(1, 9))
def test_crop_box_against_pixel_by_pixel(placed, context, multiple):
    box, height, width = placed
    crop = crop_box(box, context, multiple, height, width)
    for low, high, first, last, size in [
        (crop.top, crop.bottom, box.top, box.bottom, height),
        (crop.left, crop.right, box.left, box.right, width),
    ]:
        needed = [i for i in range(size) if first - context <= i < last + context]
        # The least range on the grid, or up to the end of the frame, that holds what is needed.
        starts = [i for i in range(0, size, multiple) if i <= needed[0]]
        ends = [i for i in [*range(0, size, multiple), size] if i > needed[-1]]
        assert (low, high) == (max(starts), min(ends))
    assert (crop.height, crop.width) == (crop.bottom - crop.top, crop.right - crop.left)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: crop_box(Box(2, 2, 2, 3), 0, 4, 9, 9), "does not lie within a frame of 9x9"),
        (lambda: crop_box(Box(2, 2, 4, 10), 0, 4, 9, 9), "does not lie within a frame of 9x9"),
        (lambda: crop_box(Box(2, 2, 4, 5), -1, 4, 9, 9), "context_pixels is -1"),
        (lambda: crop_box(Box(2, 2, 4, 5), 0, 0, 9, 9), "multiple is 0"),
    ],
)
def test_crop_box_rejects_impossible_numbers(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@given(boxes(), boxes())
def test_boxes_against_sets_of_pixels(first, second):
    one, two = first[0], second[0]

    def pixels(box):
        return {(y, x) for y in range(box.top, box.bottom) for x in range(box.left, box.right)}

    both = pixels(one) & pixels(two)
    common = intersection(one, two)
    assert (set() if common is None else pixels(common)) == both
    assert covers(one, two) == (pixels(two) <= pixels(one))
    around = union(one, two)
    ys, xs = zip(*(pixels(one) | pixels(two)), strict=True)
    assert around == (min(ys), min(xs), max(ys) + 1, max(xs) + 1)
    assert placed_box(moved_box(one, two), two) == one
    shifted = {(y - two.top, x - two.left) for y, x in pixels(one)}
    assert pixels(moved_box(one, two)) == shifted


@given(
    hole=arrays(
        bool,
        array_shapes(min_dims=2, max_dims=2, max_side=19),
        elements=st.booleans(),
        fill=st.just(False),
    )
)
def test_a_packed_mask_is_the_mask(hole):
    packed = PackedMask.of(hole)
    np.testing.assert_array_equal(packed.whole(), hole)
    assert packed.num_pixels == hole.sum()
    assert packed.box == find_box(hole)


@light
@given(boxes(), boxes(), st.integers(0, 99))
def test_a_part_of_a_packed_mask_against_a_loop(placed, other, seed):
    (inside, height, width), window = placed, other[0]
    hole = np.zeros((height, width), bool)
    crop(hole, inside)[:] = np.random.default_rng(seed).random((inside.height, inside.width)) < 0.4
    part = PackedMask.of(hole).crop(window)
    assert part.shape == (window.height, window.width)
    for y in range(window.height):
        for x in range(window.width):
            row, column = window.top + y, window.left + x
            assert part[y, x] == (row < height and column < width and hole[row, column])


def test_masks_are_packed_once():
    holes = [np.eye(3, 5, dtype=bool), np.zeros((3, 5), bool)]
    packed = PackedMasks.of(holes)
    assert [(mask.num_pixels, mask.box) for mask in packed.packed] == [(3, (0, 0, 3, 3)), (0, None)]
    assert [len(mask.bits) for mask in packed.packed] == [2, 0]  # nine bits, and none
    assert PackedMasks.of(packed) is packed
    assert isinstance(packed[1:], PackedMasks)


def test_packed_masks_are_a_sequence():
    holes = np.random.default_rng(3).random((5, 4, 6)) < 0.3
    packed = PackedMasks([PackedMask.of(hole) for hole in holes])
    assert len(packed) == 5
    np.testing.assert_array_equal(np.stack(list(packed)), holes)
    np.testing.assert_array_equal(np.stack(list(packed[1:4])), holes[1:4])
    np.testing.assert_array_equal(packed[-1], holes[-1])


@pytest.mark.parametrize("size", [(9, 11), (41, 53)])
def test_sums_and_products_by_channel(size):
    rng = np.random.default_rng(2)
    values, weights = rng.random((*size, 3), np.float32), rng.random(size, np.float32)
    np.testing.assert_array_equal(weighted(values, weights), values * weights[..., None])
    np.testing.assert_allclose(channel_sum(values), values.sum(-1), rtol=1e-6)


def test_a_filled_frame_is_its_source_with_other_pixels_in_the_hole():
    rng = np.random.default_rng(5)
    frame = rng.integers(0, 256, (20, 30, 3), np.uint8)
    hole = np.zeros((20, 30), bool)
    hole[4:9, 6:12] = rng.random((5, 6)) < 0.6
    values = rng.integers(0, 256, (int(hole.sum()), 3), np.uint8)
    expected = frame.copy()
    expected[hole] = values
    filled = Filled(frame, PackedMask.of(hole), values)
    np.testing.assert_array_equal(filled.whole(), expected)
    for box in (Box(2, 3, 15, 25), filled.hole.box):
        part = filled.crop(box)
        np.testing.assert_array_equal(part, crop(expected, box))
        part[:] = 0  # its own
    np.testing.assert_array_equal(filled.whole(), expected)
    assert (frame != expected).any()  # nor was anything written into the source
    stored = Upside(frame)
    np.testing.assert_array_equal(Filled(stored, filled.hole, values).whole(), expected)
    np.testing.assert_array_equal(stored.pixels, frame)
    assert Filled.of(frame).whole() is frame  # not a copy
    assert Filled.of(frame).hole == (frame.shape[:2], None, 0, pytest.approx([]))


def test_a_mask_that_does_not_grow_is_itself():
    mask = np.eye(4, dtype=bool)
    assert grow_mask(mask, 0) is mask


class Upside(Decoded):
    """A frame that is stored upside down."""

    def __init__(self, pixels):
        self.stored, self.shape, self.dtype = pixels[::-1], pixels.shape, pixels.dtype

    def to_pixels(self, box):
        return self.stored[::-1][box.top : box.bottom, box.left : box.right].copy()

    def to_small(self, width, height):
        return cv2.resize(self.stored[::-1], (width, height), interpolation=cv2.INTER_AREA)


def test_a_decoded_frame_shows_what_its_pixels_do():
    rng = np.random.default_rng(6)
    pixels = rng.integers(0, 256, (90, 120, 3), np.uint8)
    frame = Upside(pixels)
    assert pixels_of(pixels) is pixels
    np.testing.assert_array_equal(pixels_of(frame), pixels)
    for box in (Box(50, 60, 60, 70), Box(52, 61, 55, 66), Box(0, 0, 90, 120), Box(3, 2, 9, 8)):
        np.testing.assert_array_equal(crop_stored(frame, box), crop(pixels, box))
    small = cv2.resize(pixels, (40, 30), interpolation=cv2.INTER_AREA)
    for stored in (frame, pixels):
        np.testing.assert_array_equal(shrunk(stored, 40, 30), small)
        np.testing.assert_array_equal(shrunk(stored, 120, 90), pixels)
    x, y = (rng.uniform(-4, size + 4, 500).astype(np.float32) for size in (120, 90))
    for some in (np.s_[:], np.s_[:3], np.s_[:0]):
        for kernel in (cv2.INTER_LINEAR, cv2.INTER_CUBIC):
            there = Upside(pixels)  # nothing of it is kept yet
            expected = sample(pixels, x[some], y[some], kernel)
            found = sample_stored(there, x[some], y[some], kernel)
            np.testing.assert_array_equal(found, expected)


def test_a_decoded_frame_converts_a_part_and_what_is_near_it_once():
    rng = np.random.default_rng(7)
    pixels = rng.integers(0, 256, (150, 210, 3), np.uint8)
    asked = []

    class Noted(Upside):
        def to_pixels(self, box):
            asked.append(box)
            return super().to_pixels(box)

    frame = Noted(pixels)
    near = Box(60 - KEPT_PIXELS, 80 - KEPT_PIXELS, 70 + KEPT_PIXELS, 95 + KEPT_PIXELS)
    far = Box(0, 195, 4, 210)
    # The second is within reach of the first; of the others one lies apart, and all of it is kept.
    for box in (Box(60, 80, 70, 95), near, far, Box(60, 80, 70, 95), near):
        np.testing.assert_array_equal(frame.crop(box), crop(pixels, box))
    assert asked[0] == near
    assert len(asked) == 2
    assert covers(asked[1], near)
    assert covers(asked[1], far)
    # Positions need the pixels around them, and not the whole frame.
    asked.clear()
    x, y = np.float32([100, 104.5]), np.float32([50.25, 51])
    sample_stored(Noted(pixels), x, y, cv2.INTER_CUBIC)
    reach = 6 + KEPT_PIXELS
    assert covers(Box(50 - reach, 100 - reach, 52 + reach, 105 + reach), asked[0])
    assert covers(asked[0], Box(49, 99, 53, 107))


@pytest.mark.parametrize("count", [0, 1, 255, 256, 257, 700])
@pytest.mark.parametrize("dtype", [np.float32, np.uint16])
def test_sample_against_a_loop(count, dtype):
    rng = np.random.default_rng(count)
    image = (1000 * rng.random((7, 9, 3))).astype(dtype)
    # Multiples of a quarter: OpenCV knows 1/32 of a pixel.
    x, y = (rng.integers(-8, 4 * size + 8, count).astype(np.float32) / 4 for size in (9, 7))
    found = sample(image, x, y)
    assert found.shape == (count, 3)
    assert found.dtype == dtype
    for n in range(count):
        expected = np.zeros(3)
        for row in (np.floor(y[n]), np.floor(y[n]) + 1):
            for column in (np.floor(x[n]), np.floor(x[n]) + 1):
                share = (1 - abs(y[n] - row)) * (1 - abs(x[n] - column))
                expected += share * image[int(np.clip(row, 0, 6)), int(np.clip(column, 0, 8))]
        np.testing.assert_allclose(found[n], expected, atol=0.51 if dtype == np.uint16 else 1e-3)


def test_a_patch_gives_copies_and_is_a_part_of_the_frame_where_nothing_was_replaced():
    rng = np.random.default_rng(8)
    frame = rng.integers(0, 256, (50, 60, 3), np.uint8)
    before = frame.copy()
    for stored in (frame, Upside(frame)):
        untouched = Patch.of(stored)
        np.testing.assert_array_equal(untouched.whole(), before)
        part = np.full((30, 35, 3), 9, np.uint8)
        patch = replaced(untouched, Box(10, 12, 40, 47), part)
        expected = before.copy()
        expected[10:40, 12:47] = 9
        for box in (Box(0, 0, 50, 60), Box(12, 14, 30, 31), Box(0, 0, 5, 5), Box(35, 40, 50, 60)):
            for one, wanted in ((untouched, before), (patch, expected)):
                copy = one.crop(box)
                np.testing.assert_array_equal(copy, crop(wanted, box))
                copy[:] = 77
        np.testing.assert_array_equal(patch.whole(), expected)
        assert (part == 9).all()
        # What covers all that was replaced takes its place.
        again = replaced(patch, Box(8, 12, 40, 48), np.full((32, 36, 3), 5, np.uint8))
        assert again.box == (8, 12, 40, 48)
        expected[8:40, 12:48] = 5
        np.testing.assert_array_equal(again.whole(), expected)
    np.testing.assert_array_equal(frame, before)


@light
@given(boxes(), st.integers(1, 35))
def test_plan_tiles_covers_every_pixel_once(placed, side):
    box, height, width = placed
    count = np.zeros((height, width), int)
    for tile in plan_tiles(box, side):
        assert 1 <= tile.height <= side
        assert 1 <= tile.width <= side
        count[tile.top : tile.bottom, tile.left : tile.right] += 1
    expected = np.zeros((height, width), int)
    expected[box.top : box.bottom, box.left : box.right] = 1
    np.testing.assert_array_equal(count, expected)


def test_grid_has_x_and_then_y():
    np.testing.assert_array_equal(grid(2, 3), [[(0, 0), (1, 0), (2, 0)], [(0, 1), (1, 1), (2, 1)]])
