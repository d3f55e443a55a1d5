"""Motion between two frames, and what its neighbours say of it."""

import numpy as np
import pytest

from combcn_core.fill import motion as motion_module
from combcn_core.fill.motion import SETTLE_PIXELS, SETTLE_ROUNDS, settle

from ..scene import Scene, box_masks, make_motion, motion_of

pytestmark = pytest.mark.usefixtures("one_thread")


def whole_flow(motion, height, width):
    """(h, w, 2) flow and the positions it is for, over the grid points inside the hole."""
    x, y = motion.positions()
    return x, y, motion.shift(x, y) + motion.sample(x, y)[:, :2]


@pytest.mark.parametrize(
    ("matrix", "offset"),
    [
        ([[1, 0], [0, 1]], (3.0, -2.0)),
        ([[1, 0], [0, 1]], (-1.37, 2.61)),
        ([[1.02, 0.01], [-0.01, 0.98]], (1.2, -0.7)),  # zoom, squeeze, shear
        ([[0.9994, -0.0349], [0.0349, 0.9994]], (4.0, -3.0)),  # turn by two degrees
    ],
)
def test_find_motion_inside_a_hole_against_true_motion(matrix, offset):
    height, width = 120, 151
    scene, matrix = Scene(7), np.array(matrix)
    y, x = np.mgrid[:height, :width].astype(float)
    # What is at p in the first frame is at matrix p + offset in the second.
    back = np.linalg.inv(matrix)
    from_x, from_y = np.tensordot(back, np.stack([x - offset[0], y - offset[1]]), 1)
    first, second = scene(x, y), scene(from_x, from_y)
    masks = box_masks(2, height, width, 40, 50, 75, 90)
    first[masks[0]], second[masks[1]] = 0, 1  # the hole holds anything

    forward, backward = motion_of(first, second, *masks)
    for motion, linear, shift in (
        (forward, matrix, np.array(offset)),
        (backward, back, -back @ offset),
    ):
        here_x, here_y, found = whole_flow(motion, height, width)
        assert len(here_x) == masks[0].sum()
        here = np.stack([here_x, here_y])
        true = (linear @ here + shift[:, None] - here).T
        # The hole is completed from flow measured around it, to about a fifth of a pixel.
        assert np.abs(found - true).max() < 0.3


def test_find_motion_at_reduced_resolution_against_true_motion(monkeypatch):
    monkeypatch.setattr(motion_module, "SIDE_PIXELS", 150)  # the crop below is 180 wide: two thirds
    height, width = 130, 180
    clip = Scene(8, shortest_pixels=12).clip(2, height, width, (2.4, -3.3))
    masks = box_masks(2, height, width, 40, 60, 80, 121)
    forward, backward = motion_of(*clip, *masks)
    assert forward.field.shape[1] < forward.box.width
    for motion, sign in ((forward, -1), (backward, 1)):
        x, y, found = whole_flow(motion, height, width)
        inside = masks[0][np.rint(y).astype(int), np.rint(x).astype(int)]
        assert inside.mean() > 0.8  # grid cells that touch the hole: it and a rim
        # Measured at two thirds of the size, so twice the error of above is allowed.
        assert np.abs(found - sign * np.array([2.4, -3.3])).max() < 0.6


def test_find_motion_in_a_frame_smaller_than_the_patches_of_flow():
    clip = Scene(12).clip(2, 26, 29, (1.0, -0.5))
    masks = box_masks(2, 26, 29, 11, 12, 15, 17)
    for motion, sign in zip(motion_of(*clip, *masks), (-1, 1), strict=True):
        _, _, found = whole_flow(motion, 26, 29)
        # As for larger frames; there is less to measure on.
        assert np.abs(found - sign * np.array([1.0, -0.5])).max() < 0.4


@pytest.mark.parametrize("gains", [(1.2, 0.9, 1.0), (0.8, 1.0, 1.1)])
def test_find_motion_measures_brightness(gains):
    first, second = Scene(9).clip(2, 96, 130, (1.5, 1.0))
    masks = box_masks(2, 96, 130, 30, 40, 60, 80)
    forward, backward = motion_of(first, second * np.float32(gains), *masks)
    # Read on every fourth pixel, bilinearly: an average over hundreds of points, within 1%.
    np.testing.assert_allclose(np.exp(forward.log_gain), gains, rtol=0.01)
    np.testing.assert_allclose(np.exp(backward.log_gain), 1 / np.array(gains), rtol=0.01)


@pytest.mark.parametrize("hidden", [0.0, 1.0, "noise", "huge"])
def test_find_motion_ignores_what_is_hidden(hidden):
    clip = Scene(10).clip(2, 70, 83, (1.3, 0.6))
    masks = box_masks(2, 70, 83, 20, 31, 44, 52)
    masks[1] = np.roll(masks[1], 5, axis=1)
    other = clip.copy()
    garbage = np.random.default_rng(0).random((*masks.shape, 3), np.float32)
    if hidden == "huge":
        hidden = np.finfo(np.float32).max
    other[masks] = garbage[masks] if hidden == "noise" else hidden
    for one, two in zip(motion_of(*clip, *masks), motion_of(*other, *masks), strict=True):
        for name, ours, theirs in zip(one._fields, one, two, strict=True):
            np.testing.assert_array_equal(ours, theirs, err_msg=name)


def random_motions(num_frames, height, width, seed, errors, affine=(0.0, 0.0)):
    """(forward, backward) of a clip, by frame; `errors` by frame."""
    random = np.random.default_rng(seed)
    forward, backward = {}, {}
    for t in range(num_frames):
        hole = np.zeros((height, width), bool)
        hole[2:-2, 3:-2] = True
        for motions, exists, sign in ((forward, t + 1 < num_frames, 1), (backward, t > 0, -1)):
            if not exists:
                continue
            field = np.full((height, width, 3), errors[t])
            field[..., :2] = random.uniform(-0.3, 0.3, (height, width, 2))
            motions[t] = make_motion(height, width, field, hole, np.multiply(affine, sign))
    return forward, backward


def test_settle_changes_nothing_where_neighbours_are_less_sure():
    # The neighbours' estimates are better, but by less than it costs to take them over.
    errors = [1 + 0.9 * SETTLE_PIXELS * (t % 2) for t in range(9)]
    motions = random_motions(9, 11, 14, 1, errors, affine=(0.4, -0.2))
    for before, after in zip(motions, settle(*motions), strict=True):
        assert list(before) == list(after)
        for t in before:
            np.testing.assert_array_equal(before[t].field, after[t].field)


def test_settle_takes_the_flow_of_a_surer_neighbour():
    errors = [5.0] * 9
    errors[4] = 0.1
    forward, backward = random_motions(9, 12, 15, 2, errors)
    for motions, value in ((forward, 0.25), (backward, -0.25)):
        motions[4].field[..., 0], motions[4].field[..., 1] = value, 0
    settled = settle(forward, backward)
    for motions, value in zip(settled, (0.25, -0.25), strict=True):
        for t in (3, 5):
            rows, columns = motions[t].inside
            field = motions[t].field[rows, columns]
            # The same flow, moved along a flow: bilinear weights sum to 1 within float32.
            np.testing.assert_allclose(field[:, :2], [(value, 0)] * len(field), atol=1e-5)
            np.testing.assert_allclose(field[:, 2], 0.1 + SETTLE_PIXELS, atol=1e-5)
            known = np.ones(motions[t].field.shape[:2], bool)
            known[rows, columns] = False
            original = (forward, backward)[value < 0][t].field
            np.testing.assert_array_equal(motions[t].field[known], original[known])


def test_settle_reads_a_neighbour_where_the_pixel_has_moved_to():
    height, width = 14, 20
    hole = box_masks(1, height, width, 4, 5, 9, 12)[0]
    y, x = np.mgrid[:height, :width].astype(float)
    unsure = np.stack([np.full_like(x, 0.5), np.full_like(x, 0.25), np.full_like(x, 9)], -1)
    slanted = np.stack([0.125 * x, -0.0625 * y, np.zeros_like(x)], -1)
    motions = {
        0: make_motion(height, width, unsure, hole, affine=(2, -1)),
        1: make_motion(height, width, slanted, hole),
    }
    settled = settle(motions, {})[0][0]
    rows, columns = settled.inside
    there_x, there_y = columns + 2.5, rows - 0.75
    # Linear in both directions, so bilinear reading is exact but for OpenCV's table of 1/32.
    np.testing.assert_allclose(settled.field[rows, columns, 0], 0.125 * there_x, atol=0.005)
    np.testing.assert_allclose(settled.field[rows, columns, 1], -0.0625 * there_y, atol=0.005)


def test_settle_reaches_so_many_frames_and_no_farther():
    num_frames, middle = 2 * SETTLE_ROUNDS + 7, SETTLE_ROUNDS + 3
    errors = [50.0] * num_frames
    before = settle(*random_motions(num_frames, 8, 9, 3, errors))
    errors[middle] = 0.0
    after = settle(*random_motions(num_frames, 8, 9, 3, errors))
    for one, two in zip(before, after, strict=True):
        changed = [t for t in one if not np.array_equal(one[t].field, two[t].field)]
        assert changed == list(range(middle - SETTLE_ROUNDS, middle + SETTLE_ROUNDS + 1))
