"""What fills a pixel, of all that was seen of it."""

import cv2
import numpy as np
import pytest

from combcn_core.fill.merge import REGISTERED_SHARE, Sighting, merge
from combcn_core.fill.trace import HALF_ERROR, REFERENCE_ROWS
from combcn_core.pixels import Patch, dilate

from ..scene import make_path

pytestmark = pytest.mark.usefixtures("one_thread")


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


def random_sightings(rows, columns, seed, **details):
    """Two of the same pixels, each sure of some; the second is seen farther from a hole."""
    random = np.random.default_rng(seed)
    for source, near in ((1, 0.9), (2, 0.1)):
        errors = random.choice([0.0, 0.5, 2.0, 9.0], len(rows)).astype(np.float32)
        path = make_path(
            rows, columns, np.where(random.random(len(rows)) < 0.9, source, -1), 0 * rows, rows
        )
        colors = (0.5 + 0.2 * random.standard_normal((len(rows), 3))).astype(np.float32)
        nearness = np.full(len(rows), near, np.float32)
        yield Sighting(path._replace(error=errors), colors, nearness, **details)


@pytest.mark.parametrize("scale", [1, 3])
def test_merge_turns_with_the_frame(scale):
    """Rows and columns are treated alike, with levels, doubts and blur."""
    height, width = 104 * scale, 136 * scale
    random = np.random.default_rng(4)
    frame = cv2.GaussianBlur(random.random((height, width, 3)).astype(np.float32), (0, 0), 3)
    mask = np.zeros((height, width), bool)
    mask[32 * scale : 64 * scale, 40 * scale : 88 * scale] = True
    rows, columns = np.nonzero(dilate(mask, 2))
    speed = np.array([3.0, 1.5])
    detail = np.full(len(rows), 0.2, np.float32)
    sightings = list(random_sightings(rows, columns, 5, log_detail=detail))
    once, remaining = merge(Patch.of(frame), mask, sightings, speed)
    turned = [
        one._replace(path=one.path._replace(rows=one.path.columns, columns=one.path.rows))
        for one in sightings
    ]
    there = np.ascontiguousarray(frame.swapaxes(0, 1))
    again, remaining_again = merge(
        Patch.of(there), np.ascontiguousarray(mask.T), turned, speed[::-1]
    )
    assert 0 < remaining.sum() < mask.sum()
    np.testing.assert_array_equal(remaining_again.T, remaining)
    np.testing.assert_allclose(again.whole().swapaxes(0, 1), once.whole(), rtol=0, atol=2e-3)


def test_merge_blurs_nothing_where_no_speed_is_given():
    frame, mask, rows, columns = ringed_square()
    sharper = np.full(len(rows), 0.4, np.float32)
    plain = merge(Patch.of(frame), mask, list(random_sightings(rows, columns, 6)))
    for detail, speed, is_same in ((sharper, None, True), (sharper, (0.0, 9.0), False)):
        sightings = list(random_sightings(rows, columns, 6, log_detail=detail))
        given = () if speed is None else (np.array(speed),)
        filled, remaining = merge(Patch.of(frame), mask, sightings, *given)
        assert np.array_equal(filled.whole(), plain[0].whole()) == is_same
        np.testing.assert_array_equal(remaining, plain[1])


@pytest.mark.parametrize("step", [0.03, -0.04])
@pytest.mark.parametrize("side", ["rows", "columns"])
def test_merge_takes_levels_from_both_sides_of_a_ring(side, step):
    """Too bright on one side by as much as it is too dark on the other: right in the middle."""
    frame, mask, rows, columns = ringed_square()
    path = make_path(rows, columns, np.zeros(len(rows), int), columns, rows)
    along = {"rows": rows - 59.5, "columns": columns - 60.5}[side] / 20
    colors = np.repeat((0.5 + step * along)[:, None], 3, 1).astype(np.float32)
    filled = merge(Patch.of(frame), mask, [Sighting(path, colors)])[0].whole()
    found = filled[40:80, 41:81, 0] if side == "rows" else filled[40:80, 41:81, 0].T
    ends = abs(found[0].mean() - 0.5), abs(found[-1].mean() - 0.5)
    assert max(ends) < 0.3 * abs(step)
    assert abs(found[19:21].mean() - 0.5) < 0.1 * abs(step)
    assert np.abs(found - found[:, ::-1]).max() < 0.1 * abs(step)


@pytest.mark.parametrize("weight", [1, 0.5, 0.2])
@pytest.mark.parametrize("how", ["fade", "fade of each", "share"])
def test_merge_mixes_by_fade_and_share(how, weight):
    frame, mask, rows, columns = ringed_square()
    path = make_path(rows, columns, np.zeros(len(rows), int), columns, rows)
    inside = mask[rows, columns, None]
    dark, light = (np.where(inside, level, 0.5).repeat(3, 1) for level in (0.3, 0.7))
    less = {
        "fade": {"fade": weight},
        "fade of each": {"fade": np.full(len(rows), weight, np.float32)},
        "share": {"share": weight},
    }[how]
    first, second = (Sighting(path, colors.astype(np.float32)) for colors in (dark, light))
    filled = merge(Patch.of(frame), mask, [first, second._replace(**less)])[0].whole()
    expected = (0.3 + 0.7 * weight) / (1 + weight)
    np.testing.assert_allclose(filled[mask], expected, atol=2e-3)  # both are nearly sure
    alone = merge(Patch.of(frame), mask, [second._replace(**less)])[0].whole()
    np.testing.assert_allclose(alone[mask], 0.7, atol=0.02)


def test_merge_doubts_what_is_seen_beside_a_hole_where_others_contradict_it():
    frame, mask, rows, columns = ringed_square()
    beside = make_path(rows, columns, np.zeros(len(rows), int), columns, rows, 0.2)
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
    beside = make_path(rows, columns, np.zeros(len(rows), int), columns, rows, 0.2)
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
    path = make_path(rows, columns, np.zeros(len(rows), int), columns, rows)
    colors = np.full((len(rows), 3), 0.5, np.float32)
    column = merge(Patch.of(frame), mask, [Sighting(path, colors)])[0].whole()[40:80, 60].mean(-1)
    assert column[-1] < 0.33  # no outline at the hole's lower edge
    assert column[0] > 0.47  # nothing of it at the upper one
    assert (np.diff(column) < 1e-3).all()


def test_merge_lets_smoke_at_the_border_reach_farther_in_than_a_shadow():
    frame, mask, rows, columns = ringed_square()
    path = make_path(rows, columns, np.zeros(len(rows), int), columns, rows)
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
