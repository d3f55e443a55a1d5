import numpy as np
import pytest

from combcn_core.fill.choose import (
    MAX_COST,
    Candidate,
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
