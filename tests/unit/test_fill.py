import functools

import cv2
import numpy as np
import pytest
import torch

from combcn_core.fill import motion as motion_module
from combcn_core.fill.cuts import is_cut
from combcn_core.fill.levels import Levels
from combcn_core.fill.merge import HALF_ERROR, REFERENCE_ROWS, REGISTERED_SHARE, Sighting, merge
from combcn_core.fill.motion import (
    MARGIN_PIXELS,
    SETTLE_PIXELS,
    SETTLE_ROUNDS,
    find_motion,
    settle,
)
from combcn_core.fill.plate import Plate
from combcn_core.fill.smooth import fill_smoothly, membrane, push_pull
from combcn_core.fill.threads import one_thread
from combcn_core.fill.trace import NEARNESS_PIXELS, Nearness, Trace, gather, trace
from combcn_core.pixels import (
    Box,
    PackedMask,
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
from combcn_core.stages import propagate

pytestmark = pytest.mark.usefixtures("one_thread")


class Scene:
    """A picture known at every point, not only at pixels: a sum of waves around a colour."""

    def __init__(self, seed, level=(0.5, 0.5, 0.5), shortest_pixels=8):
        random = np.random.default_rng(seed)
        length = random.uniform(shortest_pixels, 5 * shortest_pixels, 40)
        angle = random.uniform(0, 2 * np.pi, 40)
        self.waves = 2 * np.pi / length * np.stack([np.cos(angle), np.sin(angle)])
        self.phases = random.uniform(0, 2 * np.pi, (40, 3))
        self.level = np.array(level)

    def __call__(self, x, y):
        phases = x[..., None] * self.waves[0] + y[..., None] * self.waves[1]
        waves = np.sin(phases[..., None] + self.phases).sum(-2)
        return (self.level + 0.03 * waves).clip(0, 1).astype(np.float32)

    def clip(self, num_frames, height, width, step):
        """Frames of a camera that moves by `step` = (x, y) pixels from frame to frame."""
        y, x = np.mgrid[:height, :width].astype(float)
        return np.stack([self(x + t * step[0], y + t * step[1]) for t in range(num_frames)])


def box_masks(num_frames, height, width, top, left, bottom, right):
    masks = np.zeros((num_frames, height, width), bool)
    masks[:, top:bottom, left:right] = True
    return masks


def motion_of(first, second, first_mask, second_mask):
    return find_motion(first, second, PackedMask.of(first_mask), PackedMask.of(second_mask))


def as_tensors(*arrays):
    return [torch.from_numpy(array) for array in arrays]


# --- push_pull -------------------------------------------------------------------------------

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


def test_push_pull_takes_the_nearer_side():
    values = np.zeros((16, 64, 1), np.float32)
    values[:, -8:] = 1
    weights = np.zeros((16, 64), np.float32)
    weights[:, :8] = weights[:, -8:] = 1
    middle = push_pull(values, weights)[8, 8:-8, 0]
    assert middle[:12].max() < 0.5 < middle[-12:].min()
    assert middle[0] < 0.2
    assert middle[-1] > 0.8


# --- motion ----------------------------------------------------------------------------------


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


@functools.cache
def motion_of_a_still_scene():
    clip = Scene(0).clip(2, 40, 40, (0, 0))
    return motion_of(*clip, *box_masks(2, 40, 40, 15, 15, 25, 25))[0]


def make_motion(height, width, field, hole, affine=(0.0, 0.0)):
    """A Motion over the whole frame, at its resolution."""
    terms = np.zeros((3, 2))
    terms[0] = affine
    return motion_of_a_still_scene()._replace(
        box=Box(0, 0, height, width),
        affine=terms,
        field=np.asarray(field, np.float32),
        inside=np.stack(np.nonzero(hole)),
    )


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


# --- traces ----------------------------------------------------------------------------------


def trace_slowly(steps, holes, t, row, column, reach, direction):
    """Follow one pixel through whole-pixel motions, one frame at a time.

    Returns:
        (frame, x, y) where it is first seen, None where it never is.
    """
    num_frames, height, width = holes.shape
    x, y = column, row
    for _ in range(reach):
        if not 0 <= t + direction < num_frames:
            return None
        dx, dy = steps[t][y, x]
        x, y, t = x + dx, y + dy, t + direction
        if not (0 <= x < width and 0 <= y < height):
            return None
        if not holes[t][y, x]:
            return t, x, y
    return None


@pytest.mark.parametrize("reach", [1, 2, 3, 20])
@pytest.mark.parametrize("direction", [1, -1])
@pytest.mark.parametrize("seed", [0, 1])
def test_trace_against_a_loop_over_pixels(reach, direction, seed):
    random = np.random.default_rng(seed)
    num_frames, height, width = 7, 13, 17
    holes = np.zeros((num_frames, height, width), bool)
    for hole in holes[:-2]:
        top, left = random.integers(0, 5, 2)
        hole[top : top + 8, left : left + 11] = True
    holes[-2:] = holes[0]
    holes[2] |= random.random((height, width)) < 0.2
    holes[3] = direction == 1  # one frame all hole
    if seed:
        holes[5] = False  # and a clean plate
    steps = random.integers(-2, 3, (num_frames, height, width, 2))
    motions = {}
    for t in range(num_frames):
        if not 0 <= t + direction < num_frames:
            continue
        field = np.concatenate([steps[t] - (1, -1), random.random((height, width, 1))], -1)
        motions[t] = make_motion(height, width, field, holes[t], affine=(1, -1))
    order = range(num_frames)[::-direction]

    outcomes = set()
    result = dict(trace(motions, holes.__getitem__, order, reach))
    assert list(result) == list(order)
    for t, path in result.items():
        found = {}
        for i, pixel in enumerate(zip(path.rows.tolist(), path.columns.tolist(), strict=True)):
            found[pixel] = (int(path.source[i]), float(path.x[i]), float(path.y[i]))
            assert np.isfinite(path.error[i]) == (path.source[i] >= 0)
        assert len(found) == len(path.rows)
        for row, column in np.argwhere(holes[t]).tolist():
            expected = trace_slowly(steps, holes, t, row, column, reach, direction)
            source, x, y = found[row, column]
            if expected is None:
                assert source == -1
                outcomes.add("never")
            else:
                # Whole steps, added up in float32: exact but for the bilinear table's 1/32.
                assert source == expected[0]
                np.testing.assert_allclose((x, y), expected[1:], rtol=0, atol=1e-3)
                outcomes.add(abs(source - t))
        if not holes[t].any():
            assert len(found) == 0
    assert "never" in outcomes
    assert max(outcomes - {"never"}) == min(reach, max(outcomes - {"never"}))
    assert 1 in outcomes


def test_trace_keeps_parts_of_a_pixel_and_adds_errors():
    height, width, num_frames = 9, 40, 7
    holes = box_masks(num_frames, height, width, 3, 5, 6, 20)
    holes[-1] = False
    field = np.zeros((height, width, 3), np.float32)
    field[..., 2] = 0.125
    motions = {
        t: make_motion(height, width, field, holes[t], affine=(0.3, -0.1))
        for t in range(num_frames - 1)
    }
    order = range(num_frames - 1, -1, -1)
    path = dict(trace(motions, holes.__getitem__, order, 10))[0]
    pixel = np.flatnonzero((path.rows == 4) & (path.columns == 12)).item()
    assert path.source[pixel] == num_frames - 1
    # Six equal steps: offsets are kept, so nothing is rounded but float32.
    assert path.x[pixel] == pytest.approx(12 + 6 * 0.3, abs=1e-4)
    assert path.y[pixel] == pytest.approx(4 - 6 * 0.1, abs=1e-4)
    assert path.error[pixel] == pytest.approx(6 * 0.125, abs=1e-4)


def test_trace_doubts_a_source_that_moves_otherwise():
    height, width = 9, 20
    holes = box_masks(3, height, width, 3, 5, 6, 8)
    still = np.zeros((height, width, 3), np.float32)
    passing = still.copy()
    passing[..., 0] = 3
    errors = []
    for after in (still, passing):
        first = still.copy()
        first[..., 0] = 4  # out of the hole at once
        second = after.copy()
        second[..., 0] += 4
        motions = {
            0: make_motion(height, width, first, holes[0]),
            1: make_motion(height, width, second, holes[1]),
        }
        path = dict(trace(motions, holes.__getitem__, (2, 1, 0), 5))[0]
        errors.append(path.error[(path.rows == 4) & (path.columns == 6)].item())
    assert errors[0] == pytest.approx(0, abs=1e-5)
    assert errors[1] == pytest.approx(3, abs=1e-5)


def test_trace_does_not_judge_a_source_where_its_motion_is_not_known():
    height, width = 9, 20
    holes = box_masks(3, height, width, 3, 5, 6, 8)
    first = np.zeros((height, width, 3), np.float32)
    first[..., 0] = 4  # out of the hole, and out of the crop that the next motion is known in
    passing = np.zeros((height, 8, 3), np.float32)
    passing[..., 0] = 7
    motions = {
        0: make_motion(height, width, first, holes[0]),
        1: make_motion(height, 8, passing, holes[1][:, :8]),
    }
    path = dict(trace(motions, holes.__getitem__, (2, 1, 0), 5))[0]
    outside = (path.source == 1) & (path.x > 7)
    assert outside.any()
    np.testing.assert_allclose(path.error[outside], 0, atol=1e-5)


def test_trace_never_ends_in_the_hole_of_the_first_frame():
    # Each step is 0.6 of a pixel. The pixel at 10 in frame 2 meets that at 11 in frame 1, which
    # comes out at 11.6, so at 12, in frame 0. Its own way ends at 11.2: in the hole.
    height, width = 7, 24
    holes = np.zeros((3, height, width), bool)
    for hole, right in zip(holes, (12, 12, 11), strict=True):
        hole[3, 4:right] = True
    field = np.zeros((height, width, 3), np.float32)
    motions = {t: make_motion(height, width, field, holes[t], affine=(0.6, 0)) for t in (1, 2)}
    path = dict(trace(motions, holes.__getitem__, (0, 1, 2), 5))[2]
    pixel = np.flatnonzero((path.rows == 3) & (path.columns == 10)).item()
    assert path.source[pixel] == -1


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_plate_is_the_mean_of_three_sightings_or_more(dtype):
    random = np.random.default_rng(11)
    picture = random.integers(0, 256, (12, 15, 3)).astype(np.uint8)
    noise = random.integers(-1, 2, (5, *picture.shape))
    frames = (picture.clip(2, 253) + noise).astype(dtype)
    if dtype == np.float32:
        frames /= 255
    holes = random.random((5, 12, 15)) < 0.5
    holes[4, :, :4] = holes[4, :2] = False  # the ring ends with the box
    plate = Plate(lambda t: (frames[t], holes[t]), Box(0, 2, 12, 15))
    plate.look(range(5))
    plate.look(range(1, 5))  # the first one is gone
    path, colors = plate.sight(holes[4])

    count = (~holes[1:]).sum(0)
    disk = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (5, 5))
    ringed = cv2.dilate(holes[4].astype(np.uint8), disk) > 0
    wanted = np.argwhere(ringed & (count >= 3))
    assert len(wanted) > 5
    np.testing.assert_array_equal(np.stack([path.rows, path.columns], -1), wanted)
    for (row, column), color in zip(wanted, colors, strict=True):
        seen = [to_unit(frames[t])[row, column] for t in range(1, 5) if not holes[t, row, column]]
        # Floats are counted in steps of 1/65536.
        np.testing.assert_allclose(color, np.mean(seen, axis=0), rtol=0, atol=1e-5)


def make_path(rows, columns, source, x, y, error=0.0):
    rows = np.asarray(rows)
    return Trace(
        rows,
        np.asarray(columns),
        np.asarray(source, np.int32),
        np.asarray(x, np.float32),
        np.asarray(y, np.float32),
        np.broadcast_to(np.float32(error), rows.shape),
    )


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


def test_gather_reads_and_scales():
    random = np.random.default_rng(6)
    frames = {3: random.random((8, 9, 3), np.float32), 5: random.random((8, 9, 3), np.float32)}
    path = make_path([0, 0, 0], [0, 1, 2], [3, 5, -1], [4, 8, 0], [2, 7, 0])
    gains = {3: np.log([2.0, 1.0, 0.5]), 5: np.zeros(3)}
    colors = gather(path, {t: Patch.of(frame) for t, frame in frames.items()}, Levels(gains))
    # At whole positions the cubic kernel is 1 at one pixel: float32 arithmetic only.
    expected = [frames[3][2, 4] / (2, 1, 0.5), frames[5][7, 8], (0, 0, 0)]
    np.testing.assert_allclose(colors, expected, rtol=0, atol=1e-6)


def test_gather_takes_the_dark_corners_of_a_lens_into_account():
    frame = np.full((9, 13, 3), 0.5, np.float32)
    path = make_path([4, 0], [6, 0], [1, 1], [0, 6], [0, 4])  # from the centre to a corner; back
    colors = gather(path, {1: Patch.of(frame)}, Levels({1: np.zeros(3)}, np.log(0.8)))
    # A corner is 0.8 times as bright as the centre; the centre of its pixel is not so far out.
    there = 0.8 ** ((6**2 + 4**2) / (6.5**2 + 4.5**2))
    np.testing.assert_allclose(colors[:, 0], [0.5 / there, 0.5 * there], rtol=1e-5)


def test_merge_takes_sure_traces_and_leaves_unsure_ones():
    frame = np.full((40, 40, 3), 0.5, np.float32)
    mask = np.zeros((40, 40), bool)
    mask[15:25, 15:25] = True
    frame[mask] = 0.9  # hidden
    rows, columns = np.nonzero(mask)
    seen = columns < 22
    path = make_path(rows, columns, np.where(seen, 1, -1), columns, rows, 0.0)
    path = path._replace(error=np.where(columns < 18, 0, 1e3).astype(np.float32))
    colors = np.full((len(rows), 3), 0.7, np.float32)
    patch, remaining = merge(Patch.of(frame), mask, [Sighting(path, colors)])
    result = patch.whole()
    np.testing.assert_array_equal(result[~mask], frame[~mask])
    expected = np.zeros_like(mask)
    expected[15:25, 18:25] = True  # too unsure, and never seen
    np.testing.assert_array_equal(remaining, expected)
    # A sure trace counts all but a few thousandths; nothing of the hidden 0.9 shines through.
    assert np.abs(result[mask & ~expected] - 0.7).max() < 0.01
    assert result[mask].max() < 0.71


def test_merge_keeps_the_contrast_of_what_is_hardly_sure():
    frame, mask, rows, columns = ringed_square()
    path = make_path(rows, columns, np.ones(len(rows), int), columns, rows, HALF_ERROR)
    # Half as likely wrong as right; a mean with a smooth fill would leave half of the contrast.
    board = np.where((rows + columns) % 2, 0.6, 0.4).astype(np.float32)
    colors = np.repeat(board[:, None], 3, 1)
    unit = min(mask.shape) / REFERENCE_ROWS
    path = path._replace(error=path.error * np.float32(unit))
    patch, remaining = merge(Patch.of(frame), mask, [Sighting(path, colors)])
    assert not remaining.any()
    kept = patch.whole()[50:70, 50:70].std() / 0.1
    assert kept == pytest.approx(0.48 ** (1 / 3), abs=0.03)


def test_merge_takes_the_sharper_of_two():
    frame, mask, rows, columns = ringed_square()
    path = make_path(rows, columns, np.ones(len(rows), int), columns, rows, 1.0)
    one, two = (np.full((len(rows), 3), value, np.float32) for value in (0.52, 0.48))

    def filled(lost):
        detail = np.full(len(rows), -lost, np.float32)
        patch, remaining = merge(Patch.of(frame), mask, [Sighting(path, one, log_detail=detail)])
        return patch.whole()[60, 60, 0], remaining

    level, remaining = filled(0.25)
    alone, _ = filled(0.0)
    assert not remaining.any()
    assert level == alone  # it has no rival
    assert filled(0.5)[1][mask].all()  # texture is better than that
    # Levels are those of the ring; so only the order of both is to be seen.
    far = make_path(rows, columns, np.ones(len(rows), int), columns, rows, 2.0)
    rng = np.random.default_rng(0)
    noise = 0.1 * rng.standard_normal((2, len(rows), 3)).astype(np.float32)

    def nearest(lost):
        detail = np.full(len(rows), -lost, np.float32)
        both = [
            Sighting(path, one + noise[0], log_detail=detail),
            Sighting(far, two + noise[1], log_detail=0 * detail),
        ]
        result = merge(Patch.of(frame), mask, both)[0].whole()[rows, columns]
        inner = mask[rows, columns]
        return [np.corrcoef(result[inner].ravel(), part[inner].ravel())[0, 1] for part in noise]

    sharp, blurred = nearest(0.0), nearest(0.25)
    assert sharp[0] > sharp[1]
    assert blurred[0] < 0.3 < 0.9 < blurred[1]


def ringed_square():
    """A square hole in a grey frame, and the places of it and of the ring around it."""
    frame = np.full((120, 121, 3), 0.5, np.float32)
    mask = np.zeros((120, 121), bool)
    mask[40:80, 41:81] = True
    return frame, mask, *np.nonzero(dilate(mask, 2))


def test_merge_doubts_what_is_seen_beside_a_hole_where_others_contradict_it():
    frame, mask, rows, columns = ringed_square()
    beside = make_path(rows, columns, np.full(len(rows), 1), columns, rows, 0.2)
    far = make_path(rows, columns, np.full(len(rows), 2), columns, rows, 2.0)
    shadow = np.full((len(rows), 3), 0.5, np.float32)
    shadow[columns < 60] = 0.1  # in what is seen beside the hole, on one side
    colors = [shadow, np.full_like(shadow, 0.52)]
    left = mask & (np.arange(121) < 55)
    right = mask & (np.arange(121) > 65)

    def fill(near):
        nearness = [np.full(len(rows), value, np.float32) for value in near]
        sightings = list(map(Sighting, [beside, far], colors, nearness))
        return merge(Patch.of(frame), mask, sightings)[0].whole()

    believed = fill((0.0, 0.0))[50:70]
    doubted = fill((1.0, 0.0))[50:70]
    assert believed[left[50:70]].mean() < 0.4
    assert doubted[left[50:70]].mean() > 0.47
    # Where nobody contradicts it the surer one is taken as before; but less is to be made level.
    np.testing.assert_allclose(doubted[right[50:70]], believed[right[50:70]], atol=0.05)


def test_merge_doubts_the_same_in_a_frame_four_times_as_large():
    def fill(scale):
        mask = np.zeros((120 * scale, 121 * scale), bool)
        mask[40 * scale : 80 * scale, 41 * scale : 81 * scale] = True
        rows, columns = np.nonzero(dilate(mask, 2))
        shadow = np.full((len(rows), 3), 0.5, np.float32)
        shadow[columns < 60 * scale] = 0.1
        sightings = [
            Sighting(
                make_path(rows, columns, np.full(len(rows), source), columns, rows, error * scale),
                color,
                np.full(len(rows), near, np.float32),
            )
            for source, error, color, near in ((1, 0.2, shadow, 1), (2, 2.0, 0 * shadow + 0.52, 0))
        ]
        frame = np.full((*mask.shape, 3), 0.5, np.float32)
        return merge(Patch.of(frame), mask, sightings)[0].whole()

    large = cv2.resize(fill(4), (121, 120), interpolation=cv2.INTER_AREA)
    # Apart from the ring, which has two pixels in both, and the edge of the shadow.
    inner = np.s_[46:74, [*range(47, 57), *range(64, 75)]]
    np.testing.assert_allclose(large[inner], fill(1)[inner], atol=0.03)


def test_merge_does_not_doubt_what_is_only_out_of_place():
    frame, mask, rows, columns = ringed_square()
    beside = make_path(rows, columns, np.full(len(rows), 1), columns, rows, 0.2)
    far = make_path(rows, columns, np.full(len(rows), 2), columns, rows, 2.0)

    def stripes(shift):
        bright = 0.5 + 0.3 * np.sin(2 * np.pi * (columns + shift) / 13)
        return np.repeat(bright[:, None], 3, 1).astype(np.float32)

    def fill(near, shift, step):
        nearness = [np.full(len(rows), value, np.float32) for value in near]
        sightings = list(
            map(Sighting, [beside, far], [stripes(0), stripes(shift) + step], nearness)
        )
        return merge(Patch.of(frame), mask, sightings)[0].whole()[mask]

    np.testing.assert_allclose(fill((1, 0), 0.7, 0), fill((0, 0), 0.7, 0), atol=0.01)
    assert np.abs(fill((1, 0), 0.7, 0.2) - fill((0, 0), 0.7, 0.2)).mean() > 0.02


def test_merge_gives_a_registered_source_its_share_beside_a_trace_and_all_where_it_is_alone():
    frame, mask, rows, columns = ringed_square()
    traced = make_path(rows, columns, np.where(columns < 60, 1, -1), columns, rows, 3.2)
    registered = make_path(rows, columns, np.full(len(rows), 2), columns, rows, 3.2)
    bright, dark = (np.full((len(rows), 3), value, np.float32) for value in (0.54, 0.46))
    sightings = [Sighting(traced, bright), Sighting(registered, dark, share=REGISTERED_SHARE)]
    # The ring says that neither is level with it: what both show is left beside it.
    bright[mask[rows, columns]] += 0.2
    dark[mask[rows, columns]] -= 0.2
    patch, remaining = merge(Patch.of(frame), mask, sightings)
    alone = merge(Patch.of(frame), mask, sightings[1:])[0].whole()
    assert not remaining.any()
    result, right = patch.whole(), mask & (np.arange(121) > 62)
    np.testing.assert_allclose(result[right], alone[right], atol=0.01)
    left = ~dilate(~mask, 3) & (np.arange(121) < 58)  # beside the ring it is softened
    # Both are about as sure: of 17 parts one is registered.
    expected = 0.5 + 0.2 * (1 - 2 * REGISTERED_SHARE / (1 + REGISTERED_SHARE))
    np.testing.assert_allclose(result[left], expected, atol=0.02)


def test_merge_fades_a_shadow_at_the_border_inwards():
    frame, mask, rows, columns = ringed_square()
    frame[80:, :] = 0.25  # a shadow below the hole that the sources did not see
    path = make_path(rows, columns, np.full(len(rows), 1), columns, rows)
    colors = np.full((len(rows), 3), 0.5, np.float32)
    column = merge(Patch.of(frame), mask, [Sighting(path, colors)])[0].whole()[40:80, 60].mean(-1)
    assert column[-1] < 0.33  # no outline at the hole's lower edge
    assert column[0] > 0.47  # nothing of it at the upper one
    assert (np.diff(column) < 1e-3).all()


def test_merge_lets_smoke_at_the_border_reach_farther_in_than_a_shadow():
    frame, mask, rows, columns = ringed_square()
    path = make_path(rows, columns, np.full(len(rows), 1), columns, rows)
    colors = np.full((len(rows), 3), 0.5, np.float32)
    reached = {}
    for name, level in ("smoke", 0.9), ("shadow", 0.1):
        other = frame.copy()
        other[80:, :] = level
        filled = merge(Patch.of(other), mask, [Sighting(path, colors)])[0].whole()
        reached[name] = np.abs(filled[40:80, 60].mean(-1) - 0.5)
    # At the edge they are the same; ten pixels in, little is left of the shadow.
    assert reached["smoke"][-1] == pytest.approx(reached["shadow"][-1], abs=0.03)
    assert reached["smoke"][-10] > 1.5 * reached["shadow"][-10]
    assert (np.diff(reached["smoke"]) > -1e-3).all()


def test_nearness_falls_with_the_distance_to_the_hole():
    mask = np.zeros((480, 640), bool)  # twice the reference: distances count half
    mask[200:240, 300:360] = True
    nearness = Nearness.of(mask)
    x = np.array([330, 330, 392, 456], np.float32)
    near = nearness.at(x, np.full(4, 220, np.float32))
    distance = np.array([0, 0, 32 + 1, 96 + 1]) / 2
    np.testing.assert_allclose(near, np.exp(-distance / NEARNESS_PIXELS), atol=0.05)
    assert not Nearness.of(np.zeros_like(mask)).at(x, x).max() > 1e-3


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


# --- propagation -----------------------------------------------------------------------------


def test_propagate_a_whole_pixel_move_is_exact():
    truth = Scene(20).clip(14, 72, 90, (3, 1))
    masks = box_masks(14, 72, 90, 28, 34, 46, 52)
    clip = truth.copy()
    clip[masks] = 1
    result, remaining = propagate(*as_tensors(clip, masks), reach=12)
    result, filled = result.numpy(), masks & ~remaining.numpy()
    np.testing.assert_array_equal(result[~masks], clip[~masks])
    assert filled[:6].sum() > 0.99 * masks[:6].sum()  # leaves the hole within six frames
    # DIS finds a whole-pixel move to some hundredths of a pixel a frame, over at most 6 frames; a
    # tenth of a pixel is at most 0.1 * 2 pi / 8 of a wave's amplitude, 0.03 each, added randomly.
    error = np.abs(result - truth)[filled]
    assert error.mean() < 0.004
    assert np.quantile(error, 0.99) < 0.02


def test_propagate_follows_brightness():
    gains = np.linspace(1.0, 0.7, 10)[:, None] * (1.0, 1.1, 0.9)
    truth = Scene(21, level=(0.6, 0.6, 0.6)).clip(10, 72, 90, (3, 1))
    truth = (truth * gains[:, None, None]).astype(np.float32)
    masks = box_masks(10, 72, 90, 28, 34, 46, 52)
    clip = truth.copy()
    clip[masks] = 0
    result, remaining = propagate(*as_tensors(clip, masks), reach=9)
    filled = masks & ~remaining.numpy()
    assert filled.sum() > 0.99 * masks.sum()
    error = (result.numpy() - truth)[filled]
    # Six frames of uncompensated gain would be 0.12; what is left is that of the flow, above.
    assert np.abs(error).mean() < 0.006
    assert np.abs(error.mean(0)).max() < 0.003


def test_propagate_carries_a_clean_plate():
    still = Scene(22).clip(1, 60, 70, (0, 0))
    truth = np.repeat(still, 9, axis=0)
    masks = box_masks(9, 60, 70, 20, 25, 40, 45)
    masks[4] = False
    clip = truth.copy()
    clip[masks] = 0
    result, remaining = propagate(*as_tensors(clip, masks), reach=3)
    assert not remaining[1:8].any()
    # Farther than reach.
    np.testing.assert_array_equal(remaining[[0, 8]].numpy(), masks[[0, 8]])
    # Nothing moves, and flow says so exactly: the plate arrives as it was, but for the few
    # thousandths that a smooth fill always has.
    error = np.abs(result.numpy() - truth)[1:8][masks[1:8]]
    assert error.mean() < 0.004


def test_propagate_never_crosses_a_cut():
    first = Scene(23, level=(0.75, 0.3, 0.3)).clip(5, 64, 80, (2, 0))
    second = Scene(24, level=(0.2, 0.4, 0.8)).clip(5, 64, 80, (2, 0))
    clip = np.concatenate([first, second])
    assert is_cut(clip[4], clip[5])
    masks = box_masks(10, 64, 80, 20, 25, 40, 50)
    together = propagate(*as_tensors(clip, masks), reach=8)
    apart = [propagate(*as_tensors(clip[s], masks[s]), reach=8) for s in (np.s_[:5], np.s_[5:])]
    for number in range(2):
        expected = torch.cat([shot[number] for shot in apart])
        assert torch.equal(together[number], expected)
    assert together[1].any()  # 10 pixels of motion do not uncover 25


def test_propagate_leaves_what_is_never_seen():
    # All moves left by a pixel a frame. Of the first hole, 30 wide, four columns on each side are
    # uncovered in five frames; the second ends with the frame, and nothing enters it in time.
    clip = Scene(25).clip(5, 64, 80, (1, 0))
    masks = box_masks(5, 64, 80, 20, 20, 40, 50)
    masks[:, 20:40, 70:] = True
    _, remaining = propagate(*as_tensors(clip, masks), reach=10)
    remaining = remaining.numpy()
    assert not (remaining & ~masks).any()
    assert remaining[:, 20:40, 26:44].all()  # a pixel to spare on each side
    assert not remaining[0, 22:38, 20:23].any()
    assert not remaining[4, 22:38, 47:50].any()
    assert remaining[0, 20:40, 75:].all()
    assert not remaining[0, 22:38, 70:73].any()
    assert remaining[4, 20:40, 70:].all()  # came from outside the frame


@pytest.mark.parametrize("hidden", [0.0, 1.0, "noise"])
def test_propagate_ignores_what_is_hidden(hidden):
    clip = Scene(27).clip(7, 50, 67, (1.7, 0.4))
    masks = box_masks(7, 50, 67, 18, 20, 33, 41)
    masks[3] = np.roll(masks[3], 4, axis=0)
    masks[5] = False
    other = clip.copy()
    garbage = np.random.default_rng(1).random(clip.shape, np.float32)
    other[masks] = garbage[masks] if hidden == "noise" else hidden
    ours, theirs = (propagate(*as_tensors(c, masks), reach=4) for c in (clip, other))
    assert torch.equal(ours[1], theirs[1])
    assert torch.equal(ours[0], theirs[0].where(torch.from_numpy(masks)[..., None], ours[0]))
    assert (torch.from_numpy(masks) & ~ours[1]).sum() > 500  # something did arrive


# --- scene cuts ------------------------------------------------------------------------------


def test_is_cut_between_scenes():
    first = Scene(30, level=(0.7, 0.3, 0.3)).clip(1, 90, 160, (0, 0))[0]
    second = Scene(31, level=(0.2, 0.5, 0.7)).clip(1, 90, 160, (0, 0))[0]
    assert is_cut(first, second)
    assert is_cut(from_unit(first, np.dtype(np.uint8)), from_unit(second, np.dtype(np.uint8)))
    assert is_cut(from_unit(first, np.dtype(np.uint16)), from_unit(second, np.dtype(np.uint16)))


@pytest.mark.parametrize("step", [(0, 0), (25, 0), (0, -12), (40, 15)])
def test_is_cut_not_in_a_fast_pan(step):
    clip = Scene(32).clip(2, 90, 160, step)
    assert not is_cut(*clip)


def test_is_cut_not_in_a_fade_nor_a_change_of_light():
    frame = Scene(33).clip(1, 90, 160, (0, 0))[0]
    for before, after in ((1.0, 0.9), (0.5, 0.4), (0.1, 0.0), (0.8, 1.0)):
        assert not is_cut(frame * np.float32(before), frame * np.float32(after))


def test_is_cut_survives_what_is_not_finite():
    frame = Scene(34).clip(1, 40, 60, (0, 0))[0]
    broken = frame.copy()
    broken[3, 4], broken[5, 6], broken[7, 8] = np.nan, np.inf, -np.inf
    assert not is_cut(frame, broken)


# --- small things ----------------------------------------------------------------------------


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


def test_propagate_registers_what_a_wide_object_hides_for_long(panned):
    """The camera follows something wide: 24 frames lie between what is hidden and its sight."""
    frames, holes, truth = panned(49)
    filled, remaining = propagate(
        torch.from_numpy(np.stack(frames[:49])), torch.from_numpy(np.stack(holes))
    )
    middle = slice(20, 29)
    assert not remaining[middle].any()
    hole = holes[0]
    error = np.stack(truth[middle])[:, hole].astype(float) - filled.numpy()[middle][:, hole]
    # Noise of 1 % twice, and every other frame a little blurred.
    assert np.sqrt((error**2).mean()) < 0.03 * 255
