import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from combcn_core.pixels import Box, crop_box
from combcn_core.segments import Segment, plan_segments, plan_shot, plan_tiles, shots

light = settings(max_examples=150, deadline=None, derandomize=True, database=None)


@st.composite
def sources(draw):
    """(num_frames, cuts) of a source."""
    num_frames = draw(st.integers(1, 60))
    cuts = draw(st.sets(st.integers(1, num_frames - 1), max_size=5)) if num_frames > 1 else set()
    return num_frames, sorted(cuts)


@st.composite
def boxes(draw):
    """(box, height, width), the box within the frame."""
    height, width = draw(st.integers(1, 40)), draw(st.integers(1, 40))
    top, left = draw(st.integers(0, height - 1)), draw(st.integers(0, width - 1))
    bottom, right = draw(st.integers(top + 1, height)), draw(st.integers(left + 1, width))
    return Box(top, left, bottom, right), height, width


def shot_of_frames(num_frames, cuts):
    """For each frame the number of its shot, counted frame by frame."""
    numbers, shot = [], 0
    for frame in range(num_frames):
        shot += frame in cuts
        numbers.append(shot)
    return numbers


@light
@given(sources())
def test_shots_against_counting(source):
    num_frames, cuts = source
    numbers = shot_of_frames(num_frames, cuts)
    listed = [number for number, (a, b) in enumerate(shots(num_frames, cuts)) for _ in range(a, b)]
    assert listed == numbers


@light
@given(sources(), st.integers(1, 20), st.integers(0, 15), st.data())
def test_plan_segments_against_frame_by_frame(source, length, halo, data):
    num_frames, cuts = source
    first = data.draw(st.integers(0, num_frames))
    last = data.draw(st.integers(first, num_frames))
    numbers = shot_of_frames(num_frames, cuts)
    plan = plan_segments(num_frames, length, halo, cuts, frames=(first, last))

    written = [frame for segment in plan for frame in range(segment.start, segment.stop)]
    assert written == list(range(first, last))
    for segment in plan:
        assert 1 <= segment.num_frames <= length
        shot = {numbers[frame] for frame in range(segment.start, segment.stop)}
        assert len(shot) == 1
        wanted = [
            frame
            for frame in range(num_frames)
            if numbers[frame] in shot and segment.start - halo <= frame < segment.stop + halo
        ]
        assert list(range(segment.read_start, segment.read_stop)) == wanted


def test_plan_segments_by_hand():
    assert plan_segments(10, 4, 2, cuts=[7]) == [
        Segment(0, 4, 0, 6),
        Segment(4, 7, 2, 7),
        Segment(7, 10, 7, 10),
    ]
    assert plan_segments(10, 4, 2, frames=(3, 5)) == [Segment(3, 5, 1, 7)]
    assert plan_segments(0, 4, 2) == []
    assert shots(0) == []


@light
@given(sources(), st.integers(1, 20), st.integers(0, 15))
def test_plan_shot_by_shot_equals_plan_of_source(source, length, halo):
    num_frames, cuts = source
    plan = []
    for start, stop in shots(num_frames, cuts):
        plan += plan_shot(start, stop, length, halo)
    assert plan == plan_segments(num_frames, length, halo, cuts)


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


@light
@given(
    st.integers(1, 30),
    st.integers(1, 30),
    st.integers(1, 35),
    st.integers(0, 12),
    st.integers(1, 6),
)
def test_plan_tiles_covers_every_pixel_once(height, width, tile, context, multiple):
    count = [[0] * width for _ in range(height)]
    for box, read in plan_tiles(height, width, tile, context, multiple):
        assert box.height <= tile
        assert box.width <= tile
        assert read == crop_box(box, context, multiple, height, width)
        for row in range(box.top, box.bottom):
            for column in range(box.left, box.right):
                count[row][column] += 1
    assert count == [[1] * width for _ in range(height)]


def test_plan_tiles_reads_from_multiples_of_four_unless_told_otherwise():
    # As the detail network wants it.
    read = [tile.read for tile in plan_tiles(29, 31, tile=7, context=3)]
    assert {box.top for box in read} == {0, 4, 8, 16, 24}
    assert {box.left for box in read} == {0, 4, 8, 16, 24}


@pytest.mark.parametrize("cuts", [[0], [10], [4, 4], [5, 3], [-1]])
def test_shots_rejects_cuts_that_split_nothing(cuts):
    with pytest.raises(ValueError, match="in increasing order, from 1 to 9"):
        shots(10, cuts)


@pytest.mark.parametrize("frames", [(-1, 4), (0, 11), (6, 5)])
def test_plan_segments_rejects_frames_outside_the_source(frames):
    with pytest.raises(ValueError, match="but the source has 10"):
        plan_segments(10, 4, 0, frames=frames)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: shots(-1), "num_frames is -1"),
        (lambda: plan_segments(5, 0, 1), "length is 0"),
        (lambda: plan_segments(5, 1, -1), "halo is -1"),
        (lambda: crop_box(Box(2, 2, 2, 3), 0, 4, 9, 9), "does not lie within a frame of 9x9"),
        (lambda: crop_box(Box(2, 2, 4, 10), 0, 4, 9, 9), "does not lie within a frame of 9x9"),
        (lambda: crop_box(Box(2, 2, 4, 5), -1, 4, 9, 9), "context_pixels is -1"),
        (lambda: crop_box(Box(2, 2, 4, 5), 0, 0, 9, 9), "multiple is 0"),
        (lambda: plan_tiles(9, 9, 0, 1), "tile is 0"),
    ],
)
def test_segments_rejects_impossible_numbers(call, message):
    with pytest.raises(ValueError, match=message):
        call()
