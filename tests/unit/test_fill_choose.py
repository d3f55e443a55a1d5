import numpy as np
import pytest

from combcn_core.fill.blur import SLACK
from combcn_core.fill.choose import (
    BLUR_COST,
    FRAME_COST,
    HEARD_COST,
    LOCAL_SHARE,
    LONELY_DISSENT,
    MAX_COST,
    MAX_GAP,
    MAX_SOURCES,
    NEUTRAL_DISSENT,
    SECOND_COST,
    TRACE_COST,
    TRACE_ERROR_COST,
    WHOLE_SHARE,
    Candidate,
    _dissent,
    best_sources,
    candidate_of_traces,
    candidates_of,
    choose,
)
from combcn_core.fill.levels import Levels
from combcn_core.fill.register import Registered, Small, Target
from combcn_core.fill.trace import Nearness, Trace

pytestmark = pytest.mark.usefixtures("one_thread")

HEIGHT, WIDTH = 121, 163
FAR_FROM_HOLES = {source: Nearness.of(np.zeros((HEIGHT, WIDTH), bool)) for source in range(10)}


@pytest.fixture
def target():
    random = np.random.default_rng(0)
    frame = np.full((HEIGHT, WIDTH, 3), 0.5, np.float32)
    frame += 0.02 * random.standard_normal(frame.shape).astype(np.float32)
    hole = np.zeros((HEIGHT, WIDTH), bool)
    hole[40:81, 50:111] = True
    return Target(Small.of(frame, hole))


def candidate(target, source, cost, seen=True, color=0.5, near=0.0):
    shape = target.hole.shape
    soft = np.full((*shape, 3), color, np.float32)
    return Candidate(
        soft,
        np.broadcast_to(seen, shape) & np.ones(shape, bool),
        np.broadcast_to(np.float32(cost), shape).copy(),
        np.full(shape, source, np.int32),
        target.x + source,
        target.y - source,
        np.zeros_like(soft),
        np.full(shape, near, np.float32),
        {source: np.full(3, source / 100)},
    )


def registered(target, source, soft):
    seen = np.ones(target.hole.shape, bool)
    nothing = np.zeros_like(target.x)
    return Registered(source, np.eye(3), target.x, target.y, soft, seen, nothing, np.zeros(3))


def test_choose_takes_the_cheaper_and_leaves_what_is_too_dear(target):
    left = target.x < 80
    cheap, dear = candidate(target, 3, 5, seen=left), candidate(target, 9, 2 * MAX_COST)
    found = choose(target, [cheap, dear], 1.0)
    assert (found.source[target.hole & left] == 3).all()
    assert (found.source[target.hole & (target.x > 86)] == -1).all()


def test_choose_prefers_one_source_for_a_region(target):
    random = np.random.default_rng(1)
    ours = candidate(target, 3, 8)
    theirs = candidate(target, 5, 8)
    theirs.cost[:] += np.where(random.random(theirs.cost.shape) < 0.4, -3, 3)
    found = choose(target, [ours, theirs], 1.0)
    # By themselves 40 % of the cells are cheaper in the other source, scattered all over.
    assert (found.source[target.hole] == 3).mean() > 0.97


def test_choose_believes_the_many(target):
    many = [candidate(target, source, 10) for source in (1, 2, 3)]
    other = candidate(target, 7, 8, color=0.9)
    found = choose(target, [*many, other], 1.0)
    assert not (found.source[target.hole] == 7).any()


def test_choose_doubts_what_is_seen_beside_a_hole_and_contradicted(target):
    far = [candidate(target, source, 9.0) for source in (1, 2)]
    for near, color, wanted in ((1.0, 0.47, 1), (0.0, 0.47, 7), (1.0, 0.5, 7)):
        beside = candidate(target, 7, 5.0, color=color, near=near)
        found = choose(target, [*far, beside], 1.0)
        assert (found.source[target.hole] == wanted).all(), (near, color)


def test_a_shadow_beside_the_hole_speaks_against_no_source(target):
    shadow = target.ring & (target.y > 80)
    assert shadow.any()
    target.soft[shadow] -= 0.3
    unshadowed = np.full_like(target.soft, 0.5)
    wrong = unshadowed.copy()
    wrong[target.ring & (target.y < 40)] = 0.8
    right, also, bad = candidates_of(
        target, 0, [registered(target, source, soft) for source, soft in
                    ((1, unshadowed), (2, unshadowed), (3, wrong))],
        FAR_FROM_HOLES,
    )  # fmt: skip
    below = target.hole & (target.y > 70)
    assert right.cost[below].max() < MAX_COST / 2
    assert np.array_equal(right.soft, also.soft)
    above = target.hole & (target.y < 50)
    assert bad.cost[above].min() > right.cost[above].max() + 5
    # Nor is the shadow carried inwards as a level.
    np.testing.assert_allclose(right.offset[below], 0, atol=0.01)


def test_sources_are_made_level_with_the_surroundings(target):
    slope = ((target.x - 80) / 1600)[..., None]
    soft = np.broadcast_to(0.5 + slope, target.soft.shape).astype(np.float32)
    (found,) = candidates_of(target, 0, [registered(target, 1, soft)], FAR_FROM_HOLES)
    ring = target.ring & (np.abs(target.x - 80) < 50)
    before, after = (np.abs(soft - target.soft)[ring], np.abs(found.soft - target.soft)[ring])
    assert after.mean() < before.mean() / 2


def test_dissent_against_a_loop(target):
    """How far each candidate is from the second nearest of those that count."""
    random = np.random.default_rng(3)
    shape = target.hole.shape
    some = []
    for source in range(1, 6):
        one = candidate(target, source, 0, seen=random.random(shape) < 0.6)
        one.soft[:] = 0.5 + 0.1 * random.standard_normal((*shape, 3))
        one.cost[:], one.near[:] = random.uniform(0, 9, shape), random.random(shape)
        some.append(one)
    found = _dissent(some)
    kinds = set()
    for row, column in np.argwhere(np.ones(shape, bool))[::7]:
        for k, one in enumerate(some):
            gaps = []
            for other in some:
                counts = one.seen[row, column] and other.seen[row, column] and other is not one
                dearest = one.cost[row, column] + HEARD_COST * (1 + one.near[row, column])
                if counts and other.cost[row, column] < dearest:
                    gap = np.abs(one.soft[row, column] - other.soft[row, column]).mean() * 255
                    gaps.append(min(gap, MAX_GAP))
            gaps.sort()
            kinds.add(min(len(gaps), 2))
            expected = [NEUTRAL_DISSENT, sum(gaps) + LONELY_DISSENT, *gaps[1:2]][min(len(gaps), 2)]
            assert found[k, row, column] == pytest.approx(expected, abs=1e-3)
    assert kinds == {0, 1, 2}


def test_best_sources_against_a_loop(target):
    random = np.random.default_rng(4)
    shape = target.hole.shape
    some = [candidate(target, n, 0, seen=random.random(shape) < 0.5) for n in range(9)]
    for one in some:
        one.cost[:] = random.uniform(0, 1.3 * MAX_COST, shape)
    cells = np.argwhere(target.hole).tolist()
    cheapest = dict.fromkeys(map(tuple, cells), MAX_COST)
    expected = []
    for _ in range(MAX_SOURCES):
        saved = {}
        for n, one in enumerate(some):
            if n not in expected:
                seen = [cell for cell in cheapest if one.seen[cell]]
                saved[n] = sum(max(0, cheapest[cell] - one.cost[cell]) for cell in seen)
        expected.append(max(saved, key=saved.get))
        for cell in cheapest:
            if some[expected[-1]].seen[cell]:
                dearer = some[expected[-1]].cost[cell] + SECOND_COST
                cheapest[cell] = min(cheapest[cell], dearer)
    assert best_sources(target, some) == expected


def test_costs_of_registered_sources_grow_with_distance_blur_and_gap(target):
    same = target.soft.copy()
    sources = [registered(target, source, same) for source in (6, 3, 9)]
    sources.append(registered(target, 7, (same + np.float32(0.05)).astype(np.float32)))
    found = candidates_of(target, 5, sources, FAR_FROM_HOLES, {3: -SLACK - 0.1, 9: 0.5})
    near, blurred, far, brighter = (one.cost for one in found)
    np.testing.assert_allclose(far - near, 3 * FRAME_COST, atol=1e-4)
    np.testing.assert_allclose(blurred - near, FRAME_COST + 0.1 * BLUR_COST, atol=1e-4)
    assert (brighter > near + 0.5).all()
    assert [one.source[0, 0] for one in found] == [6, 3, 9, 7]
    # What the ring shows of too few cells says nothing.
    unseen = sources[0]._replace(seen=np.zeros_like(target.hole))
    assert len(candidates_of(target, 5, [unseen, sources[1]], FAR_FROM_HOLES)) == 1
    assert candidates_of(target, 5, [], FAR_FROM_HOLES) == []


@pytest.mark.parametrize("step", [0.02, 0.1])
def test_cost_of_a_source_that_is_off_by_the_same_everywhere(target, step):
    other = (target.soft + np.float32([step, -step, step / 4])).astype(np.float32)
    (found,) = candidates_of(target, 2, [registered(target, 2, other)], FAR_FROM_HOLES)
    gap = 255 * step * 2.25 / 3
    # The median and half of the mean of the whole ring; and the ring nearby, where it is near.
    whole = WHOLE_SHARE * 1.5 * gap
    expected = (LOCAL_SHARE * gap + whole, LOCAL_SHARE * 1.5 * gap + whole)
    np.testing.assert_allclose(found.cost[target.ring], expected[0], rtol=1e-3)
    near = [np.isclose(found.cost, value, rtol=1e-3) for value in expected]
    assert (near[0] | near[1])[target.hole].all()


def test_a_frame_far_off_that_fits_better_is_chosen_and_of_two_alike_the_nearer(target):
    near = FAR_FROM_HOLES | dict.fromkeys(range(10, 30), FAR_FROM_HOLES[0])
    worse = (target.soft + np.float32([0.04, -0.04, 0.04])).astype(np.float32)  # ten grey levels
    for beside, expected in ((worse, 24), (target.soft, 4)):
        sources = [registered(target, 4, beside), registered(target, 24, target.soft)]
        found = choose(target, candidates_of(target, 2, sources, near), 1.0)
        assert (found.source[target.hole] == expected).all()


def test_candidates_know_how_near_their_places_are_to_a_hole(target):
    hole = np.zeros((HEIGHT, WIDTH), bool)
    hole[45:50, 90:130] = True
    near = Nearness.of(hole)
    one = registered(target, 4, target.soft)._replace(x=target.x + 9, y=target.y - 4)
    (found,) = candidates_of(target, 0, [one], FAR_FROM_HOLES | {4: near})
    x, y = (np.rint(at + shift + 1e-3).astype(int) for at, shift in ((target.x, 9), (target.y, -4)))
    inside = (x > 0) & (x < WIDTH) & (y > 0) & (y < HEIGHT)
    exact = near.values[y[inside], x[inside]]
    assert np.abs(found.near[inside] - exact).max() < 0.07  # cells lie between two pixels
    assert found.near[inside & (y > 46) & (y < 49) & (x > 92) & (x < 127)].min() == 1


def test_costs_of_traces_grow_with_their_error_and_blur(target):
    rows, columns = (index.astype(np.int32) for index in np.nonzero(target.frame.hole))
    costs = []
    for error, unit, log_detail in ((2.0, 1.0, 0.0), (6.0, 1.0, 0.0), (6.0, 3.0, -SLACK - 0.2)):
        path = Trace(
            rows, columns, np.full(len(rows), 6, np.int32), columns + 0.0, rows + 0.0,
            np.full(len(rows), error, np.float32),
        )  # fmt: skip
        levels = Levels({6: np.full(3, 0.25)}, log_details={6: log_detail})
        colors, near = np.zeros((len(rows), 3), np.float32), np.full(len(rows), 0.75)
        found = candidate_of_traces(target, path, colors, near, levels, unit)
        inside = target.hole & found.seen
        assert inside.sum() > 0.9 * target.hole.sum()
        np.testing.assert_allclose(found.near[inside], 0.75)
        assert np.isinf(found.cost[~found.seen]).all()
        assert (found.source[~found.seen] == -1).all()
        np.testing.assert_array_equal(found.log_gains[6], [0.25] * 3)
        costs.append(found.cost[inside])
    for cost, expected in zip(costs, (2, 6, 2), strict=True):
        blur = 0.2 * BLUR_COST if cost is costs[2] else 0
        np.testing.assert_allclose(cost, TRACE_COST + TRACE_ERROR_COST * expected + blur, atol=1e-4)


def test_a_choice_turns_with_its_target(target):
    """Rows and columns of cells are treated alike."""
    random = np.random.default_rng(5)
    shape = target.hole.shape
    some = []
    for source in (1, 2, 3):
        one = candidate(target, source, 0, seen=random.random(shape) < 0.97)
        one.soft[:] = 0.5 + 0.02 * source * np.sin(target.x / 9)[..., None]
        one.cost[:] = 6 + 4 * np.sin(target.x / (5 + source) + target.y / 11 * source)
        some.append(one)
    found = choose(target, some, 1.0)
    frame = Small.of(np.full((WIDTH, HEIGHT, 3), 0.5, np.float32), target.frame.hole.T.copy())
    turned = Target(frame)
    again = choose(
        turned,
        [
            Candidate(*(
                np.ascontiguousarray(part.swapaxes(0, 1)) if isinstance(part, np.ndarray) else part
                for part in one
            ))
            for one in some
        ],
        1.0,
    )  # fmt: skip
    assert set(np.unique(found.source[target.hole])) >= {1, 2, 3}
    # Around the hole OpenCV's ellipses, which do not turn, make the corners.
    for name in ("source", "x", "y", "error"):
        one, other = getattr(found, name), getattr(again, name).T
        np.testing.assert_allclose(other[target.hole], one[target.hole], rtol=1e-5)


def test_levels_of_a_registered_source_count_rather_than_those_of_traces(target):
    measured, traced = candidate(target, 3, 5), candidate(target, 3, 9)
    traced = traced._replace(log_gains={3: np.full(3, 9.0), 4: np.full(3, 0.5)})
    gains = choose(target, [measured, traced], 1.0).log_gains
    np.testing.assert_allclose(gains[3], 0.03)
    np.testing.assert_allclose(gains[4], 0.5)


def test_nothing_is_chosen_in_spots_smaller_than_a_disk(target):
    spots = np.zeros(target.hole.shape, bool)
    row, column = (np.flatnonzero(target.hole.any(axis)).mean().astype(int) for axis in (1, 0))
    spots[row - 1 : row + 2, column - 1 : column + 2] = True
    found = choose(target, [candidate(target, 3, 1, seen=spots)], 1.0)
    assert (found.source == -1).all()
    spots[row - 3 : row + 4, column - 3 : column + 4] = True
    found = choose(target, [candidate(target, 3, 1, seen=spots)], 1.0)
    assert (found.source[row, column], found.source[row - 5, column]) == (3, -1)


def test_best_sources_show_most_at_least_cost(target):
    half = target.x < 80
    few = [candidate(target, 1, 20, seen=half), candidate(target, 2, 10, seen=half)]
    few.append(candidate(target, 3, 15, seen=~half))
    few.append(candidate(target, 4, 2 * MAX_COST))
    best = best_sources(target, few)
    assert best[:2] == [1, 2]
    assert 3 not in best


@pytest.mark.parametrize("shift", [(0.0, 0.0), (3.25, -1.5)])
def test_sight_leads_on_to_the_chosen_source(target, shift):
    found = choose(target, [candidate(target, 3, 5)], 1.0)
    to_frame = np.eye(3)
    to_frame[:2, 2] = shift
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[45:70, 55:100] = True
    path, offset = found.sight(mask, to_frame)
    inside = mask[path.rows, path.columns]
    assert inside.sum() == mask.sum()
    assert (path.source[inside] == 3).all()
    assert not offset.any()
    # The frame shows the key frame's pixels `shift` farther on.
    np.testing.assert_allclose(path.x[inside], path.columns[inside] - shift[0] + 3, atol=1e-4)
    np.testing.assert_allclose(path.y[inside], path.rows[inside] - shift[1] - 3, atol=1e-4)


def test_sight_beyond_the_cells_is_nothing(target):
    found = choose(target, [candidate(target, 3, 5)], 1.0)
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[50:60, 2:12] = mask[50:60, 70:90] = mask[2:6, 75:80] = True
    path, _ = found.sight(mask, np.eye(3))
    # Cells are chosen in the hole and a little around it: 40 to 80, and 50 to 110.
    far = (path.rows < 30) | (path.columns < 40)
    assert far.any()
    assert (path.source[far] == -1).all()
    assert np.isinf(path.error[far]).all()
    assert (path.source[~far] == 3).all()
    assert np.isfinite(path.error[~far]).all()


def test_sight_of_what_was_not_chosen_is_nothing(target):
    found = choose(target, [candidate(target, 3, 2 * MAX_COST)], 1.0)
    path, _ = found.sight(target.frame.hole, np.eye(3))
    assert (path.source == -1).all()
    assert np.isinf(path.error).all()


def test_traces_become_a_candidate(target):
    rows, columns = (index.astype(np.int32) for index in np.nonzero(target.frame.hole))
    error = np.where(columns < 80, 1.0, 1000.0).astype(np.float32)
    x, y = columns + np.float32(2.5), rows - np.float32(1.5)
    path = Trace(rows, columns, np.full(len(rows), 6, np.int32), x, y, error)
    colors = np.full((len(rows), 3), 0.25, np.float32)
    found = candidate_of_traces(
        target, path, colors, np.zeros(len(rows)), Levels({6: np.zeros(3)}), 1.0
    )
    left = target.hole & (target.x < 79)
    assert found.seen[left].all()
    assert not found.seen[target.x > 81].any()
    assert (found.source[left] == 6).all()
    np.testing.assert_allclose(found.x[left], target.x[left] + 2.5, atol=1e-4)
    np.testing.assert_allclose(found.y[left], target.y[left] - 1.5, atol=1e-4)
    np.testing.assert_allclose(found.soft[left], 0.25, atol=1e-6)
