"""Motion inside holes, taken over from neighbouring frames."""

import numpy as np
import pytest

from combcn_core.fill.settle import (
    ALIKE_PIXELS,
    ALIKE_SHARE,
    DOUBT_POINTS,
    FRONT_PIXELS,
    LEAST_COVER,
    LEAST_SETTLE_PIXELS,
    SETTLE_PIXELS,
    SETTLE_ROUNDS,
    STEADY,
    Relation,
    _doubt,
    _land,
    relate,
    settle,
)

from ..scene import make_motion

pytestmark = pytest.mark.usefixtures("one_thread")

HEIGHT, WIDTH = 40, 100
GUESS_PIXELS = 2.0  # error that a guess says of itself


def settle_all(forward, backward):
    return settle(forward, backward, {*forward, *backward})


def depth_at(x, t, camera):
    """A post of 8 points, three times as near as the wall behind it."""
    return np.where(np.abs(x - 18 - 3 * camera[t]) < 4, 3.0, 1.0)


def street(camera, seed=5):
    """(forward, backward), and the true residual flow of each: a camera goes along a street.

    Whatever is hidden by the hole in one of two frames is not measured, and guessed to stand still.

    Args:
        camera: where it is, by frame.
    """
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:HEIGHT, :WIDTH].astype(float)
    motions, truth = ({}, {}), ({}, {})
    for t in range(len(camera)):
        for side, there in ((0, t + 1), (1, t - 1)):
            if not 0 <= there < len(camera):
                continue
            flow = depth_at(x, t, camera) * (camera[there] - camera[t])
            hidden = is_hidden(x, y) | is_hidden(x + flow, y)
            field = np.dstack([flow, 0 * flow, 0 * flow])
            field[..., :2] += random.normal(0, 0.01, (HEIGHT, WIDTH, 2))
            field[hidden] = 0, 0, GUESS_PIXELS
            motions[side][t] = make_motion(HEIGHT, WIDTH, field)
            truth[side][t] = flow
    return *motions, truth


def is_hidden(x, y):
    return (x > 33) & (x < 47) & (y > 8) & (y < 32)


UNEVEN = np.cumsum([0, 1.2, 0.8, 1.4, 0.7, 1.1, 1.3, 0.9, 1.2, 0.8, 1.0, 1.3, 0.8, 1.1])


def test_what_is_hidden_keeps_its_motion_from_before_and_after():
    forward, backward, truth = street(UNEVEN)
    settled = settle_all(forward, backward)
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    hole = is_hidden(x, y)
    for t in (6, 7):  # where the post is hidden, for all of its width or most
        depth = depth_at(x, t, UNEVEN)
        # Beside the post the wall is hidden by one or the other in all of these frames.
        from_post = np.abs(x - 18 - 3 * UNEVEN[t])
        edge = (from_post > 3) & (from_post < 7)
        assert (depth[hole & ~edge] == 3).sum() > 100
        for motions, true in zip(settled, truth, strict=True):
            gap = np.abs(motions[t].field[..., 0] - true[t])[hole & ~edge]
            # Guessed, the wall would be 1 off, and the post 3. The noise of what is measured is
            # 0.01. Some points of the wall nobody sees in time.
            assert np.quantile(gap, 0.95) < 0.06
            assert np.quantile(motions[t].field[..., 2][hole & ~edge], 0.95) < 0.3


def test_what_is_measured_stays_and_so_does_what_nobody_knows_better():
    forward, backward, _ = street(UNEVEN)
    for before, after in zip((forward, backward), settle_all(forward, backward), strict=True):
        assert list(before) == list(after)
        for t in before:
            measured = before[t].field[..., 2] == 0
            np.testing.assert_array_equal(before[t].field[measured], after[t].field[measured])
    for motions in (forward, backward):
        for t in motions:
            motions[t].field[..., 2] *= np.float32(1e-3)  # of guesses: surer than any relation
    for before, after in zip((forward, backward), settle_all(forward, backward), strict=True):
        for t in before:
            np.testing.assert_array_equal(before[t].field, after[t].field)


def test_settle_reaches_so_many_frames_and_no_farther():
    num_frames, known = 2 * SETTLE_ROUNDS + 5, 2
    field = np.zeros((12, 15, 3), np.float32)
    field[1:-1, 1:-1] = 0, 0, 50  # the rim is measured, and too little to tell how flow goes on
    forward = {t: make_motion(12, 15, field.copy()) for t in range(num_frames - 1)}
    backward = {t: make_motion(12, 15, field.copy()) for t in range(1, num_frames)}
    backward[known].field[..., 2] = 0
    settled = settle_all(forward, backward)
    for motions, after, first in ((forward, settled[0], known), (backward, settled[1], known + 1)):
        changed = [t for t in motions if not np.array_equal(motions[t].field, after[t].field)]
        assert changed == list(range(first, first + SETTLE_ROUNDS))
    for away in range(1, SETTLE_ROUNDS + 1):
        error = settled[1][known + away].field[5, 7, 2]
        step = np.hypot(SETTLE_PIXELS, LEAST_SETTLE_PIXELS)
        np.testing.assert_allclose(error, step * np.sqrt(away), rtol=1e-4)


def test_frames_settled_do_not_depend_on_which_others_are():
    forward, backward, _ = street(UNEVEN)
    everything = settle_all(forward, backward)
    some = settle(forward, backward, frames=[6])
    for one, other in zip(everything, some, strict=True):
        np.testing.assert_array_equal(one[6].field, other[6].field)


def test_relation_of_an_uneven_camera_against_its_speeds():
    forward, backward, _ = street([0.0, 0.5, 0.7])
    relation = relate(forward[1], backward[1])
    theirs = np.float32([[-0.5, 0, 0.4], [-1.5, 0, 0.0]])  # of the wall, of the post
    found = relation.predict(theirs, np.zeros(2, np.float32), np.zeros(2, np.float32))
    # It goes on 0.2, after 0.5. The noise of the measured flow is 0.01.
    np.testing.assert_allclose(found[:, :2], theirs[:, :2] * -0.4, atol=0.02)
    assert found[1, 2] == np.float32(LEAST_SETTLE_PIXELS)
    np.testing.assert_allclose(found[0, 2], np.hypot(0.4, LEAST_SETTLE_PIXELS), rtol=1e-5)
    # The other way it is 2.5 times as fast, and so are its errors.
    back = relate(backward[1], forward[1]).predict(-theirs, *np.zeros((2, 2), np.float32))
    np.testing.assert_allclose(back[0, 2], 2.5 * 0.4, rtol=0.05)


def test_points_that_land_against_a_loop():
    random = np.random.default_rng(3)
    height, width, count = 9, 13, 300
    field = random.uniform(-2, 2, (30, 40, 3)).astype(np.float32)
    field[..., 2] = random.choice([0.05, 0.06, 0.3, 3.0], (30, 40))
    coming = make_motion(30, 40, field, affine=(-0.6, 0.3))
    now = random.uniform(-1, 1, (height, width, 3)).astype(np.float32)
    now[..., 2] = random.choice([0.0, 0.065, 0.2, 5.0], (height, width))
    here = make_motion(height, width, now, affine=(0.5, -0.2))
    points = random.integers(0, height + 3, count), random.integers(0, width + 3, count)
    found, changed = _land((0, 4), {(0, 4): here}, {(1, 5): (coming, points)})

    visits = {}  # by grid point: error, residual and share of what lands beside it
    for row, column in zip(*points, strict=True):
        dx, dy = field[row, column, :2] + (-0.6, 0.3)
        x, y = column + dx, row + dy
        error = np.hypot(field[row, column, 2], LEAST_SETTLE_PIXELS)
        for near_y in range(height):
            for near_x in range(width):
                share = max(0, 1 - abs(x - near_x)) * max(0, 1 - abs(y - near_y))
                if share > 0 and error < now[near_y, near_x, 2]:
                    one = (error, -dx - 0.5, -dy + 0.2, share)
                    visits.setdefault((near_y, near_x), []).append(one)
    expected = now.copy()
    for place, landed in visits.items():
        landed = np.array(landed)
        landed = landed[landed[:, 0] <= ALIKE_SHARE * landed[:, 0].min() + ALIKE_PIXELS]
        size = np.hypot(landed[:, 1], landed[:, 2])
        error, x, y, share = landed[size >= size.max() - FRONT_PIXELS].T
        mean_x, mean_y = np.average(x, weights=share), np.average(y, weights=share)
        spread = np.average((x - mean_x) ** 2 + (y - mean_y) ** 2, weights=share)
        error = np.sqrt(np.average(error, weights=share) ** 2 + spread)
        if share.sum() >= LEAST_COVER and error < now[place][2]:
            expected[place] = mean_x, mean_y, error
    np.testing.assert_allclose(found.field, expected, atol=2e-5)
    where = (found.field != now).any(-1)
    assert 5 < where.sum() < where.size - 5
    assert changed[where].all()


def test_what_lands_less_sure_than_what_is_there_counts_for_nothing():
    field = np.zeros((9, 13, 3), np.float32)
    field[5, 5] = 0, 0, 0.05
    field[5, 6] = -1, 0, 0.06  # to the same place
    now = np.zeros((9, 13, 3), np.float32)
    # With what is added for landing, one of them is surer than this.
    now[5, 5] = 0.3, 0.3, (np.hypot(0.05, LEAST_SETTLE_PIXELS) + 0.06) / 2 + 0.003
    points = np.array([5, 5]), np.array([5, 6])
    coming, here = make_motion(9, 13, field), make_motion(9, 13, now)
    found, _ = _land((0, 4), {(0, 4): here}, {(1, 5): (coming, points)})
    np.testing.assert_allclose(
        found.field[5, 5], (0, 0, np.hypot(0.05, LEAST_SETTLE_PIXELS)), atol=1e-6
    )


def test_relation_predicts_by_its_coefficients():
    random = np.random.default_rng(4)
    coefficients = random.standard_normal((5, 2)).astype(np.float32)
    other = random.random((7, 3)).astype(np.float32)
    x, y = random.standard_normal((2, 7)).astype(np.float32)
    found = Relation(coefficients, 0.3, 2.0).predict(other, x, y)
    for n in range(7):
        terms = np.array([1, x[n], y[n], other[n, 0], other[n, 1]])
        np.testing.assert_allclose(found[n, :2], terms @ coefficients, rtol=1e-4, atol=1e-5)
        assert found[n, 2] == pytest.approx(np.sqrt((2 * other[n, 2]) ** 2 + 0.3**2), rel=1e-5)
    steady = STEADY.predict(other, x, y)
    np.testing.assert_array_equal(steady[:, :2], -other[:, :2])
    np.testing.assert_allclose(steady[:, 2], np.hypot(other[:, 2], SETTLE_PIXELS), rtol=1e-6)


def test_a_completed_flow_is_doubted_the_more_the_farther_off_what_is_measured():
    field = np.full((21, 30, 3), 0.5, np.float32)
    field[8:10, 4:6, 2] = 0
    motion = make_motion(21, 30, field)
    found = _doubt(motion).field
    np.testing.assert_array_equal(found[..., :2], field[..., :2])
    for y in range(21):
        for x in range(30):
            away = min(np.hypot(y - row, x - column) for row in (8, 9) for column in (4, 5))
            # OpenCV's distances over steps of 5 x 5 are off by 2 %.
            expected = field[y, x, 2] * (1 + away / DOUBT_POINTS)
            assert found[y, x, 2] == pytest.approx(expected, rel=0.02)
    np.testing.assert_array_equal(motion.field, field)
    nothing = make_motion(21, 30, np.ones((21, 30, 3)))
    assert np.isfinite(_doubt(nothing).field).all()
    assert (_doubt(nothing).field[..., 2] == 1 + 51 / DOUBT_POINTS).all()


def test_a_relation_is_measured_where_both_are_known_and_not_beside_the_crop():
    """Depths in a camera's sideways motion that grows half as fast again."""
    random = np.random.default_rng(9)
    depth = random.uniform(0.5, 4, (60, 80, 1))
    onwards = depth * (0.9, -0.3) + random.normal(0, 0.005, (60, 80, 2))
    back = depth * (-0.6, 0.2)
    known = np.zeros((60, 80, 1))
    ahead = make_motion(60, 80, np.dstack([onwards, known]))
    behind = make_motion(60, 80, np.dstack([back, known]))
    here = np.float32([[-1.2, 0.4, 0.0], [-0.3, 0.1, 0.1]])
    found = relate(ahead, behind).predict(here, *np.zeros((2, 2), np.float32))
    np.testing.assert_allclose(found[:, :2], here[:, :2] * -1.5, atol=0.03)
    # Where hardly anything is measured to both sides, all goes on as it came.
    few = known.copy()
    few[9:] = 1
    few[:, 30:] = 1
    assert relate(make_motion(60, 80, np.dstack([onwards, few])), behind) is STEADY
    assert relate(ahead, make_motion(60, 80, np.dstack([back, few]))) is STEADY
    far = behind._replace(box=behind.box._replace(left=200, right=280))
    assert relate(ahead, far) is STEADY


def test_noise_of_the_measured_flow_does_not_make_a_relation_lag():
    """Depth that changes slowly by 0.1 pixels, in noise of 0.07, where a fit alone finds half."""
    random = np.random.default_rng(4)
    y, x = np.mgrid[:90, :120]
    depth = (0.1 * np.sin(x / 12) * np.cos(y / 9))[..., None]
    back = depth * (-1.0, 0.0) + random.normal(0, 0.07, (90, 120, 2))
    onwards = depth * (1.5, 0.0) + random.normal(0, 0.07, (90, 120, 2))
    known = np.zeros((90, 120, 1))
    hole = (abs(x - 60) < 15) & (abs(y - 45) < 15)
    known[hole], back[hole], onwards[hole] = 3, 50, 50  # nothing of the guess inside is taken
    ahead = make_motion(90, 120, np.dstack([onwards, known]))
    behind = make_motion(90, 120, np.dstack([back, known]))
    theirs = np.float32([[-0.2, 0, 0]])
    found = relate(ahead, behind).predict(theirs, *np.zeros((2, 1), np.float32))
    np.testing.assert_allclose(found[0, :2], (0.3, 0), atol=0.045)
    alone = np.polyfit(back[~hole][:, 0], onwards[~hole][:, 0], 1)[0]
    assert abs(alone) < 0.6 * 1.5
