"""Motion between two frames, and what its neighbours say of it."""

import cv2
import numpy as np
import pytest

from combcn_core.fill import motion as motion_module
from combcn_core.fill.levels import off_centre
from combcn_core.fill.motion import (
    AGREEMENT_PIXELS,
    CONTEXT_PIXELS,
    GRID_STEP,
    MARGIN_PIXELS,
    SIDE_PIXELS,
    dense_flow,
    speed,
    trusted_flow,
)
from combcn_core.pixels import Box, PackedMask, covers, grid

from ..scene import Scene, box_masks, make_motion, motion_of

pytestmark = pytest.mark.usefixtures("one_thread")


def flow_inside(motion, hole):
    """x, y of the grid points inside a hole, and (N, 2), the flow there."""
    x, y = motion.positions(*np.indices(motion.field.shape[:2]).reshape(2, -1))
    inside = hole[np.rint(y).astype(int), np.rint(x).astype(int)]
    x, y = x[inside], y[inside]
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
        here_x, here_y, found = flow_inside(motion, masks[0])
        assert len(found) > 0.9 * masks[0].sum() / GRID_STEP**2
        here = np.stack([here_x, here_y])
        true = (linear @ here + shift[:, None] - here).T
        # The hole is completed from flow measured around it, to about a fifth of a pixel.
        assert np.abs(found - true).max() < 0.3


def test_find_motion_at_reduced_resolution_against_true_motion(monkeypatch):
    monkeypatch.setattr(motion_module, "SIDE_PIXELS", 150)  # the crop below is 180 wide: two thirds
    height, width = 130, 180
    clip = Scene(8, shortest_pixels=12).clip(2, height, width, (2.4, -3.3))
    masks = box_masks(2, height, width, 40, 60, 80, 121)
    clip[0][masks[0]], clip[1][masks[1]] = 0, 1  # the hole holds anything
    forward, backward = motion_of(*clip, *masks)
    assert forward.field.shape[1] < forward.box.width
    for motion, sign in ((forward, -1), (backward, 1)):
        _, _, found = flow_inside(motion, masks[0])
        assert len(found) > 0.9 * masks[0].sum() * (2 / 3 / GRID_STEP) ** 2
        # Measured at two thirds of the size, so twice the error of above is allowed.
        assert np.abs(found - sign * np.array([2.4, -3.3])).max() < 0.6


def test_find_motion_in_a_frame_smaller_than_the_patches_of_flow():
    clip = Scene(12).clip(2, 26, 29, (1.0, -0.5))
    masks = box_masks(2, 26, 29, 11, 12, 15, 17)
    for motion, sign in zip(motion_of(*clip, *masks), (-1, 1), strict=True):
        _, _, found = flow_inside(motion, masks[0])
        assert len(found)
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


@pytest.mark.parametrize("turned", [False, True])
def test_layers_of_motion_go_on_through_a_hole(turned, monkeypatch):
    # A wall, and the ground before it whose flow grows from row to row; or the same turned.
    height, width = 90, 120
    y, x = np.mgrid[:height, :width].astype(np.float32)
    across = np.maximum(0, y - 40) / 8
    hole = np.zeros((height, width), bool)
    hole[30:70, 30:80] = True
    if turned:
        x, y, across, hole = y.T, x.T, across.T, hole.T
    flow = np.dstack([across, np.zeros_like(across)]).astype(np.float32)
    trusted = (~hole).astype(np.float32)
    affine, field = motion_module._complete(flow, trusted, Box(0, 0, *hole.shape))
    columns, rows = motion_module.normalise(x, y, Box(0, 0, *hole.shape))
    found = field[..., 0] + affine[0, 0] + columns * affine[1, 0] + rows * affine[2, 0]
    # From all around alike it is 0.57 off in the mean.
    assert np.abs(found - across)[hole].mean() < 0.1
    np.testing.assert_array_equal(field[~hole, 2], 0)


def test_grid_points_of_a_crop_are_where_their_positions_are():
    motion = make_motion(12, 20, np.zeros((6, 5, 3)))._replace(box=Box(7, 30, 19, 50))
    rows, columns = np.indices((6, 5)).reshape(2, -1)
    x, y = motion.positions(rows, columns)
    # Two rows and four columns of pixels to a point, which lies in their middle.
    np.testing.assert_allclose(y, 7 + 2 * rows + 0.5)
    np.testing.assert_allclose(x, 30 + 4 * columns + 1.5)
    back = motion.on_grid(x, y)
    np.testing.assert_allclose(back, (columns, rows), atol=1e-5)
    np.testing.assert_array_equal(motion.nearest(x + 1, y - 0.5), np.arange(30))


def test_drift_of_a_camera_that_turns_and_zooms_about_a_still_centre():
    arm = grid(20, 30) - np.float32([14.5, 9.5])
    known = np.ones((20, 30), bool)
    turned = 0.01 * np.dstack([-arm[..., 1], arm[..., 0]])
    # Half of the longer side off the centre, an angle of 0.01 is 0.15 pixels.
    np.testing.assert_allclose(motion_module._drift(turned, known), [0, 0, 0, 0.15], atol=1e-4)
    zoomed = 0.01 * arm + np.float32([0.2, -0.1])
    found = motion_module._drift(zoomed, known)
    np.testing.assert_allclose(found[:2], [0.2, -0.1], atol=1e-4)
    np.testing.assert_allclose(found[2], 0.15, atol=0.01)
    assert np.isnan(motion_module._drift(zoomed + 1, known)).all()  # most pixels move


def test_zoom_of_an_affine_motion_of_a_wide_crop():
    affine = np.array([[3, -2], [0.1 * 40, 0], [0, 0.1 * 40]])
    assert motion_module._log_zoom(affine, Box(5, 5, 15, 45)) == pytest.approx(np.log(1.1))


def test_places_of_a_smaller_crop_go_off_the_centre_as_those_of_the_frame():
    random = np.random.default_rng(2)
    here, there = random.uniform(0, 9, (2, 50, 2)).astype(np.float32)
    box, scale = Box(30, 12, 50, 42), np.array([3.0, 2.0])  # 10 x 10, of 30 x 20 pixels
    whole = [(place + 0.5) * scale - 0.5 + (12, 30) for place in (here, there)]
    off = [off_centre(*place.T, 80, 90) for place in whole]
    found = motion_module._outward(here, there, (10, 10), box, (80, 90))
    assert found == pytest.approx(np.mean(off[1] - off[0]), abs=1e-5)


@pytest.mark.parametrize(
    ("hole", "height", "width"),
    [
        (Box(40, 50, 60, 90), 120, 151),
        (Box(500, 700, 700, 1000), 1080, 1920),
        (Box(0, 0, 1080, 1920), 1080, 1920),
        (Box(200, 100, 1800, 500), 2160, 3840),
        (Box(1000, 10, 1100, 3800), 2160, 3840),
        (Box(0, 0, 1, 1), 9, 4000),
    ],
)
def test_flow_runs_on_the_hole_and_its_context_at_a_bounded_size(hole, height, width):
    box, size = motion_module._flow_crop(hole, height, width)
    assert covers(box, hole)
    assert covers(Box(0, 0, height, width), box)
    scale = box.width / size[0]
    assert max(size) <= SIDE_PIXELS
    assert box.height / size[1] == pytest.approx(scale, abs=0.6 * scale / size[1])  # rounded
    assert scale >= 0.99
    # The context on each side, at the size of flow, and a little more: the edges are on a grid.
    for edge, other, end in (
        (hole.top - box.top, box.top, 0), (hole.left - box.left, box.left, 0),
        (box.bottom - hole.bottom, box.bottom, height), (box.right - hole.right, box.right, width),
    ):  # fmt: skip
        least = CONTEXT_PIXELS * max(1, max(hole.height, hole.width) / (SIDE_PIXELS - 128))
        assert other == end or least - 1 <= edge <= least + 4
    if max(box.width, box.height) <= SIDE_PIXELS:
        assert size == (box.width, box.height)


def test_trusted_flow_against_a_loop():
    random = np.random.default_rng(4)
    height, width = 14, 17
    flow, back = random.integers(-3, 4, (2, height, width, 2)).astype(np.float32)
    back[:7] = -2.5
    flow[:7] = (2, 3)
    flow[:7, ::3, 0] += AGREEMENT_PIXELS  # just too far apart
    near, near_there = random.random((2, height, width)) < 0.1
    found = trusted_flow(flow, back, near, near_there)
    expected = np.zeros((height, width))
    for y in range(height):
        for x in range(width):
            to_x, to_y = (int(part) for part in np.array([x, y]) + flow[y, x])
            if near[y, x] or not (0 <= to_x < width and 0 <= to_y < height):
                continue
            gap = np.hypot(*(flow[y, x] + back[to_y, to_x]))
            expected[y, x] = gap < AGREEMENT_PIXELS and not near_there[to_y, to_x]
    assert 10 < expected.sum() < 200
    np.testing.assert_array_equal(found, expected)


def test_coarser_flow_is_the_mean_of_what_is_trusted():
    random = np.random.default_rng(5)
    flow = random.standard_normal((8, 12, 2)).astype(np.float32)
    trusted = (random.random((8, 12)) < 0.5).astype(np.float32)
    found, known = motion_module._coarser(flow, trusted)
    assert GRID_STEP == 2
    for y in range(4):
        for x in range(6):
            cell = np.s_[2 * y : 2 * y + 2, 2 * x : 2 * x + 2]
            values = flow[cell][trusted[cell] > 0]
            assert known[y, x] == (len(values) >= 2)
            if len(values):
                np.testing.assert_allclose(found[y, x], values.mean(0), atol=1e-5)
            else:
                assert not found[y, x].any()
    # What is left over at the ends of odd sides is a cell too.
    assert motion_module._coarser(flow[:7, :11], trusted[:7, :11])[1].shape == (4, 6)


@pytest.mark.parametrize("share", [0, 0.3])
def test_affine_fit_finds_the_motion_of_most(share):
    random = np.random.default_rng(6)
    terms = np.dstack([np.ones((30, 40)), *random.uniform(-0.5, 0.5, (2, 30, 40))])
    affine = np.array([[3, -2], [0.5, 1.5], [-1, 0.25]])
    flow = terms @ affine + random.normal(0, 0.01, (30, 40, 2))
    flow[random.random((30, 40)) < share] += (9, -7)  # something else passes by
    trusted = np.ones((30, 40))
    trusted[:, 20:] = 0
    flow[:, 20:] = np.nan
    found = motion_module._fit_affine(terms, flow, trusted)
    np.testing.assert_allclose(found, affine, atol=0.05 if share else 0.01)
    for count, is_known in ((19, False), (20, True)):
        few = np.zeros(1200)
        few[np.flatnonzero(trusted)[:count]] = 1
        found = motion_module._fit_affine(terms, flow, few.reshape(30, 40))
        assert found.any() == is_known


def test_speed_of_the_middle_of_a_box_along_both_motions():
    none = np.zeros((6, 5, 3))
    forward = make_motion(20, 30, none, affine=(3, -1))
    forward.affine[1:] = [[6, 0], [0, 3]]  # a zoom: of what is a side off the centre
    backward = make_motion(20, 30, none, affine=(-2, 2))
    box = Box(4, 6, 11, 15)  # its middle is at 10, 7; that of the frame at 14.5, 9.5
    ahead = np.array([3 - 6 * 4.5 / 30, -1 - 3 * 2.5 / 30])
    np.testing.assert_allclose(speed((forward, None), box), ahead, atol=1e-5)
    np.testing.assert_allclose(speed((None, backward), box), (2, -2), atol=1e-5)
    both = (ahead + np.array([2, -2])) / 2
    np.testing.assert_allclose(speed((forward, backward), box), both, atol=1e-5)
    assert not speed((None, None), box).any()


def test_motion_that_is_kept_loses_a_thousandth():
    field = np.random.default_rng(7).uniform(-20, 20, (6, 5, 3)).astype(np.float32)
    motion = make_motion(12, 10, field)
    kept = motion.kept()
    assert kept.field.nbytes == motion.field.nbytes / 2
    np.testing.assert_array_equal(kept.opened().field, field.astype(np.float16).astype(np.float32))
    assert motion.opened() is motion
    np.testing.assert_allclose(kept.opened().field, field, rtol=5e-4)
    x, y = np.float32([3.25, 0]), np.float32([5.5, 11])
    np.testing.assert_array_equal(kept.sample(x, y), kept.opened().sample(x, y))
    np.testing.assert_allclose(np.stack(motion.displaced(x, y)), [
        x + motion.shift(x, y)[:, 0] + motion.sample(x, y)[:, 0],
        y + motion.shift(x, y)[:, 1] + motion.sample(x, y)[:, 1],
    ], rtol=1e-6)  # fmt: skip


def test_a_crop_covers_its_pixels_and_none_beside_them():
    motion = make_motion(12, 20, np.zeros((6, 5, 3)))._replace(box=Box(7, 30, 19, 50))
    x, y = np.meshgrid(np.arange(28.0, 52), np.arange(5.0, 21))
    inside = (x >= 30) & (x <= 49) & (y >= 7) & (y <= 18)
    np.testing.assert_array_equal(motion.covers(x.ravel(), y.ravel()), inside.ravel())


@pytest.mark.parametrize("size", [(20, 70), (70, 20), (5, 5), (64, 80)])
def test_dense_flow_of_any_size_is_in_pixels_along_x_and_y(size):
    height, width = size
    first, second = Scene(15, shortest_pixels=6).clip(2, height, width, (2, -1))
    flow = dense_flow(*(np.rint(one.mean(-1) * 255).astype(np.uint8) for one in (first, second)))
    assert flow.shape == (*size, 2)
    if min(size) > 5:
        middle = flow[4:-4, 4:-4].reshape(-1, 2)
        np.testing.assert_allclose(np.median(middle, 0), (-2, 1), atol=0.15)


def test_places_that_are_sampled_have_their_flow_and_are_inside():
    random = np.random.default_rng(8)
    flow = random.standard_normal((13, 18, 2)).astype(np.float32)
    trusted = (random.random((13, 18)) < 0.7).astype(np.float32)
    here, there = motion_module._sampled(flow, trusted)
    expected = [(x, y) for y in range(0, 13, 4) for x in range(0, 18, 4) if trusted[y, x]]
    np.testing.assert_array_equal(here, expected)
    for (x, y), place in zip(expected, there, strict=True):
        np.testing.assert_allclose(place, (x, y) + flow[y, x], atol=1e-5)
    place = np.array([(0.9, 5), (1, 1), (16, 11), (16.1, 5), (5, 11.1), (5, 0.9), (8, 6)])
    found = motion_module._within(place, (18, 13))
    assert found.tolist() == [False, True, True, False, False, False, True]


def test_view_at_half_the_size_is_of_known_pixels():
    random = np.random.default_rng(9)
    frame = cv2.GaussianBlur(random.random((60, 80, 3), np.float32), (0, 0), 3)
    hole = np.zeros((60, 80), bool)
    hole[21:40, 31:48] = True  # ends within cells
    hidden = frame.copy()
    hidden[hole] = random.random((int(hole.sum()), 3))
    view = motion_module._view(hidden, PackedMask.of(hole), Box(0, 0, 60, 80), (40, 30))
    parts = frame.reshape(30, 2, 40, 2, 3).mean((1, 3)) @ (0.299, 0.587, 0.114)
    known = ~hole.reshape(30, 2, 40, 2).any((1, 3))
    assert np.abs(view.gray - 255 * parts)[known].max() <= 0.51
    near = np.array(
        [[np.hypot(*(np.argwhere(~known) - (y, x)).T).min() for x in range(40)] for y in range(30)]
    )
    assert view.near[near <= MARGIN_PIXELS - 1].all()
    assert not view.near[near > MARGIN_PIXELS + 1].any()
    # Soft colours are means of known ones, in and beside the hole too.
    colors = frame.reshape(30, 2, 40, 2, 3).mean((1, 3))
    assert np.abs(view.soft - colors)[near > 9].max() < 0.1
    other = motion_module._view(frame, PackedMask.of(hole), Box(0, 0, 60, 80), (40, 30))
    for one, two in zip(view, other, strict=True):
        np.testing.assert_array_equal(one, two)
