"""Hole pixels followed to where they are seen, and what is read there."""

import functools

import cv2
import numpy as np
import pytest

from combcn_core.fill.levels import Levels
from combcn_core.fill.plate import Plate
from combcn_core.fill.trace import (
    NEARNESS_PIXELS,
    Nearness,
    Trace,
    count_ends,
    error_unit,
    gather,
    nearness_of,
    searched,
    trace,
)
from combcn_core.pixels import Box, PackedMask, Patch, to_unit

from ..scene import box_masks, make_motion, make_path

pytestmark = pytest.mark.usefixtures("one_thread")


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
        motions[t] = make_motion(height, width, field, affine=(1, -1))
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


@pytest.mark.parametrize("seed", range(4))
def test_trace_of_parts_of_pixels_against_a_recursion(seed):
    # Parts of pixels add up on the way, so that a trace may come out beside the pixel it met, in
    # the hole of its source: there it goes on with the trace of that place.
    random = np.random.default_rng(seed)
    num_frames, height, width, reach = 9, 13, 17, 6
    holes = random.random((num_frames, height, width)) < 0.6
    fields = random.uniform(-1.6, 1.6, (num_frames, height, width, 3)) * (1, 1, 0)
    motions = {t: make_motion(height, width, fields[t]) for t in range(num_frames - 1)}
    went_on = 0

    def is_hole(t, x, y):
        return 0 <= x < width and 0 <= y < height and holes[t, y, x]

    @functools.cache
    def end(t, x, y):
        """(source, x, y, age) of the trace of a hole pixel; None where it is lost."""
        nonlocal went_on
        if t + 1 == num_frames:
            return None
        at = np.array([x, y]) + fields[t, y, x, :2]
        near = np.rint(at).astype(int)
        if not (0 <= near[0] < width and 0 <= near[1] < height):
            return None
        if not is_hole(t + 1, *near):
            return t + 1, *at, 1
        met = end(t + 1, *near.tolist())
        if met is None or met[3] >= reach:
            return None
        source, age, at = met[0], met[3] + 1, at + met[1:3] - near
        for _ in range(4):
            near = np.rint(at).astype(int)
            if not is_hole(source, *near):
                return source, *at, age
            went_on += 1
            met = end(source, *near.tolist())
            if met is None or age + met[3] > reach:
                return None
            source, age, at = met[0], age + met[3], at + met[1:3] - near
        return None

    for t, path in trace(motions, holes.__getitem__, range(num_frames)[::-1], reach):
        for n, (y, x) in enumerate(zip(path.rows.tolist(), path.columns.tolist(), strict=True)):
            if holes[t, y, x]:
                expected = end(t, x, y)
                assert path.source[n] == (-1 if expected is None else expected[0])
                if expected is not None:  # but for the bilinear table's 1/32
                    np.testing.assert_allclose((path.x[n], path.y[n]), expected[1:3], atol=1e-3)
    assert went_on > 10


def test_trace_keeps_parts_of_a_pixel_and_adds_errors():
    height, width, num_frames = 9, 40, 7
    holes = box_masks(num_frames, height, width, 3, 5, 6, 20)
    holes[-1] = False
    field = np.zeros((height, width, 3), np.float32)
    field[..., 2] = 0.125
    motions = {
        t: make_motion(height, width, field, affine=(0.3, -0.1)) for t in range(num_frames - 1)
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
            0: make_motion(height, width, first),
            1: make_motion(height, width, second),
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
        0: make_motion(height, width, first),
        1: make_motion(height, 8, passing),
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
    motions = {t: make_motion(height, width, field, affine=(0.6, 0)) for t in (1, 2)}
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
    plate.hold(range(5))
    plate.hold(range(1, 5))  # the first one is gone
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


def test_nearness_falls_with_the_distance_to_the_hole():
    mask = np.zeros((480, 640), bool)  # twice the reference: distances count half
    mask[200:240, 300:360] = True
    nearness = Nearness.of(mask)
    x = np.array([330, 330, 392, 456], np.float32)
    near = nearness.at(x, np.full(4, 220, np.float32))
    distance = np.array([0, 0, 32 + 1, 96 + 1]) / 2
    np.testing.assert_allclose(near, np.exp(-distance / NEARNESS_PIXELS), atol=0.05)
    assert not Nearness.of(np.zeros_like(mask)).at(x, x).max() > 1e-3


def random_paths(count, size, seed):
    """Traces of some pixels each, which end in and beside the frames 3 and 4, or nowhere."""
    rng = np.random.default_rng(seed)
    height, width = size
    for _ in range(count):
        places = rng.permutation(height * width)[: height * width // 2]
        ends = rng.uniform(-2, max(size) + 2, (2, len(places)))
        yield make_path(
            *np.unravel_index(places, size),
            rng.choice([-1, 3, 4], len(places)),
            *ends,
            rng.uniform(0, 9, len(places)),
        )


def test_count_ends_against_a_loop_over_pixels():
    size = height, width = 13, 17
    rng = np.random.default_rng(8)
    areas = {3: rng.random(size) < 0.5, 5: np.ones(size, bool)}
    filled = rng.random(size) < 0.7
    paths = list(random_paths(3, size, seed=9))
    count = 0
    for place in np.argwhere(filled):
        found = []
        for path in paths:
            for n in np.flatnonzero((path.rows == place[0]) & (path.columns == place[1])):
                if path.source[n] >= 0:
                    found.append((path.error[n], path.source[n], path.x[n], path.y[n]))
        if found:
            _, source, x, y = min(found)  # the surest
            row = min(max(round(float(y)), 0), height - 1)
            column = min(max(round(float(x)), 0), width - 1)
            count += source == 3 and areas[3][row, column]
    packed = {number: PackedMask.of(area) for number, area in areas.items()}
    assert count > 10
    assert count_ends(filled, paths, packed) == {3: count}  # none ends in frame 5


def test_nearness_of_traces_is_that_of_the_frames_they_end_in():
    size = 13, 17
    (path,) = random_paths(1, size, seed=2)
    holes = {3: np.zeros(size, bool), 4: np.zeros(size, bool)}
    holes[3][4:6, 7:9] = holes[4][11, 2] = True
    near = nearness_of(path, {number: Nearness.of(hole) for number, hole in holes.items()})
    for n, source in enumerate(path.source):
        if source < 0:
            assert near[n] == 0
            continue
        row, column = round(float(path.y[n])), round(float(path.x[n]))
        row, column = min(max(row, 0), size[0] - 1), min(max(column, 0), size[1] - 1)
        distance = np.hypot(*(np.argwhere(holes[source]) - (row, column)).T).min()
        # OpenCV's distances in steps of 3 x 3 pixels are off by 8 % at most.
        assert near[n] == pytest.approx(np.exp(-distance / NEARNESS_PIXELS), abs=0.06)


def test_by_source_against_a_loop():
    random = np.random.default_rng(4)
    source = random.integers(90, 96, 300).astype(np.int32)
    source[source == 93] = -1
    none = np.zeros(300, np.float32)
    path = Trace(none, none, source, none, none, none)
    order, runs = path.by_source()
    assert list(runs) == path.ends() == [90, 91, 92, 94, 95]
    for number, run in runs.items():
        assert order[run].tolist() == [at for at in range(300) if source[at] == number]
    assert not path.within(0).by_source()[1]


def test_log_details_are_those_of_the_sources_and_zero_elsewhere():
    levels = Levels({}, log_details={7: 0.5, 9: -0.25})
    found = levels.log_detail(np.array([7, 8, 9, -1, 6, 10, 400, 7]))
    assert found.tolist() == [0.5, 0, -0.25, 0, 0, 0, 0, 0.5]
    assert Levels({}).log_detail(np.array([7, -1])).tolist() == [0, 0]


def test_errors_count_in_pixels_of_a_frame_of_240_rows():
    for shape, unit in (
        ((240, 400), 1),
        ((1080, 1920), 4.5),
        ((1920, 1080), 4.5),
        ((60, 90), 0.25),
    ):
        assert error_unit(np.zeros(shape, bool)) == unit


def test_what_is_searched_is_the_hole_and_two_pixels_around_it():
    hole = np.zeros((20, 31), bool)
    hole[9:13, 12:15] = hole[0, 30] = True
    rows, columns, box = searched(hole)
    assert box == (0, 10, 15, 31)
    found = {(row, column) for row, column in zip(rows.tolist(), columns.tolist(), strict=True)}
    assert len(found) == len(rows)
    for y in range(20):
        for x in range(31):
            distance = np.hypot(*(np.argwhere(hole) - (y, x)).T).min()
            if distance <= 2:
                assert (y, x) in found
            elif distance > 2.3:  # OpenCV's disk of five rows has some corners
                assert (y, x) not in found
    rows, columns, box = searched(np.zeros((4, 5), bool))
    assert (len(rows), len(columns), box) == (0, 0, (0, 0, 0, 0))


@pytest.mark.parametrize("size", [(30, 41), (480, 600), (731, 500)])
def test_nearness_at_any_place_against_distances(size):
    """In frames of any size, to the sides and beyond the frame's edge."""
    hole = np.zeros(size, bool)
    height, width = size
    top, left = height // 3, width // 2
    hole[top : top + height // 5, left : left + width // 6] = True
    nearness = Nearness.of(hole)
    scale = max(1, min(size) / 240)
    assert nearness.scale == pytest.approx(scale)
    random = np.random.default_rng(3)
    x, y = (random.uniform(-5, length + 5, 300).astype(np.float32) for length in (width, height))
    near = nearness.at(x, y)
    for n in range(300):
        at_x, at_y = np.clip(x[n], 0, width - 1), np.clip(y[n], 0, height - 1)
        across = max(left - at_x, 0, at_x - (left + width // 6 - 1))
        down = max(top - at_y, 0, at_y - (top + height // 5 - 1))
        distance = np.hypot(across, down) / scale
        # Rounded to the nearest of the places at the size of nearness, and to 8 % of a distance.
        expected = [
            np.exp(-d / NEARNESS_PIXELS) for d in (1.09 * distance + 1.5, 0.94 * distance - 1.5)
        ]
        assert expected[0] - 1e-3 <= near[n] <= min(1, expected[1]) + 1e-3
    inside = nearness.at(np.float32([left + 3]), np.float32([top + 3]))
    assert inside == 1
    empty = Nearness.of(np.zeros(size, bool))
    assert not empty.at(x, y).any()
    # Traces that end in a frame without a hole are near to none.
    path = make_path([0, 1], [0, 1], [2, 3], [left, left], [top + 2, top + 2])
    np.testing.assert_allclose(nearness_of(path, {2: nearness, 3: empty}), [1, 0])
    assert not nearness_of(path, {2: empty, 3: empty}).any()
