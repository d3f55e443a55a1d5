"""Motion inside holes, taken over from neighbouring frames."""

import numpy as np
import pytest

from combcn_core.fill.settle import (
    LEAST_SETTLE_PIXELS,
    SETTLE_PIXELS,
    SETTLE_ROUNDS,
    _Look,
    relate,
    settle,
)

from ..scene import box_masks, make_motion

pytestmark = pytest.mark.usefixtures("one_thread")


def settle_all(forward, backward):
    return settle(forward, backward, {*forward, *backward})


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
    errors = [float(np.hypot(1, 0.9 * SETTLE_PIXELS * (t % 2))) for t in range(9)]
    motions = random_motions(9, 11, 14, 1, errors, affine=(0.4, -0.2))
    for before, after in zip(motions, settle_all(*motions), strict=True):
        assert list(before) == list(after)
        for t in before:
            np.testing.assert_array_equal(before[t].field, after[t].field)


def test_settle_takes_the_flow_of_a_surer_neighbour():
    errors = [5.0] * 9
    errors[4] = 0.1
    forward, backward = random_motions(9, 12, 15, 2, errors)
    for motions, value in ((forward, 0.25), (backward, -0.25)):
        motions[4].field[..., 0], motions[4].field[..., 1] = value, 0
    settled = settle_all(forward, backward)
    for motions, value in zip(settled, (0.25, -0.25), strict=True):
        for t in (3, 5):
            rows, columns = motions[t].inside
            field = motions[t].field[rows, columns]
            # The same flow, moved along a flow: bilinear weights sum to 1 within float32.
            np.testing.assert_allclose(field[:, :2], [(value, 0)] * len(field), atol=1e-5)
            error = np.hypot(0.1, SETTLE_PIXELS)
            np.testing.assert_allclose(field[:, 2], error, atol=1e-5)
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
    settled = settle_all(motions, {})[0][0]
    rows, columns = settled.inside
    there_x, there_y = columns + 2.5, rows - 0.75
    # Linear in both directions, so bilinear reading is exact but for OpenCV's table of 1/32.
    np.testing.assert_allclose(settled.field[rows, columns, 0], 0.125 * there_x, atol=0.005)
    np.testing.assert_allclose(settled.field[rows, columns, 1], -0.0625 * there_y, atol=0.005)


def test_settle_reaches_so_many_frames_and_no_farther():
    num_frames, middle = 2 * SETTLE_ROUNDS + 7, SETTLE_ROUNDS + 3
    errors = [50.0] * num_frames
    before = settle_all(*random_motions(num_frames, 8, 9, 3, errors))
    errors[middle] = 0.0
    after = settle_all(*random_motions(num_frames, 8, 9, 3, errors))
    for one, two in zip(before, after, strict=True):
        changed = [t for t in one if not np.array_equal(one[t].field, two[t].field)]
        assert changed == list(range(middle - SETTLE_ROUNDS, middle + SETTLE_ROUNDS + 1))


def passing_hole(num_frames, speeds, seed=5):
    """(forward, true fields): a hole passes over a wall and a far thing, seen by an uneven camera.

    Residual flow is depth times the speed of the camera; unknown in the hole, where it is 0.
    """
    height, width = 48, 90
    random = np.random.default_rng(seed)
    motions, fields = {}, {}
    for t in range(num_frames):
        y, x = np.mgrid[:height, :width]
        depth = np.where((x > 20) & (x < 60) & (y > 10) & (y < 34), 0.3, 1.0)
        true = np.dstack([depth * speeds[t], depth * speeds[t] / 4, np.zeros_like(depth)])
        hole = np.zeros((height, width), bool)
        hole[14:30, 5 + 5 * t : 25 + 5 * t] = True
        field = true + random.normal(0, 0.01, true.shape) * [1, 1, 0]
        field[hole] = 0, 0, 3.0
        # No shift of the whole: points stay where they are, but for a fraction of a pixel.
        motions[t] = make_motion(height, width, field.astype(np.float32), hole)
        fields[t] = true
    return motions, fields


def test_relation_of_an_uneven_camera_against_its_speeds():
    speeds = [0.2, 0.5]
    motions, _ = passing_hole(2, speeds)
    still = make_motion(48, 90, np.zeros((48, 90, 3)), np.zeros((48, 90), bool))
    relation = relate(motions[0], still, motions[1])
    theirs = np.float32([[0.5, 0.125, 0.4], [0.15, 0.0375, 0.0]])  # of the wall, of the far thing
    residual, error = relation.predict(theirs, np.zeros(2, np.float32), np.zeros(2, np.float32))
    # The noise of the measured flow is 0.01.
    np.testing.assert_allclose(residual, theirs[:, :2] * 0.4, atol=0.01)
    assert error[1] == np.float32(LEAST_SETTLE_PIXELS)
    np.testing.assert_allclose(error[0], np.hypot(0.4, LEAST_SETTLE_PIXELS), rtol=1e-5)


def test_settle_follows_an_uneven_camera():
    speeds = [0.2, 0.5, 0.3, 0.6, 0.25, 0.4, 0.5, 0.2]
    motions, fields = passing_hole(len(speeds), speeds)
    still = {t: motions[t]._replace(field=np.zeros_like(motions[t].field)) for t in motions}
    settled, _ = settle_all(motions, still)
    middle = 4
    rows, columns = motions[middle].inside
    found = settled[middle].field[rows, columns]
    gap = np.abs(found[:, :2] - fields[middle][rows, columns, :2]).max(1)
    # Speeds of neighbours are up to twice this one's: taken over as they are, 0.35 off.
    assert np.quantile(gap, 0.9) < 0.03
    assert (found[:, 2] < 0.2).mean() > 0.9


def test_pixels_looked_at_again_are_those_that_changed(monkeypatch):
    speeds = [0.2, 0.5, 0.3, 0.6, 0.25, 0.4, 0.5, 0.2, 0.3, 0.4]
    forward, _ = passing_hole(len(speeds), speeds)
    backward, _ = passing_hole(len(speeds), speeds[::-1], seed=6)
    quick = settle_all(forward, backward)
    some = settle(forward, backward, frames=[5])
    improve = _Look.improve
    monkeypatch.setattr(_Look, "improve", lambda look, sides, changed: improve(look, sides, None))
    for side, all_again in enumerate(settle_all(forward, backward)):
        for t, motion in all_again.items():
            np.testing.assert_array_equal(quick[side][t].field, motion.field)
        np.testing.assert_array_equal(some[side][5].field, all_again[5].field)
