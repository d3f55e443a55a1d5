import pytest
from hypothesis import given
from hypothesis import strategies as st

from combcn_core.segments import Segment, plan_shot

from ..helpers import light


@light
@given(st.integers(0, 30), st.integers(0, 60), st.integers(1, 20), st.integers(0, 15), st.data())
def test_plan_shot_against_frame_by_frame(shot_start, num_frames, length, halo, data):
    shot = range(shot_start, shot_start + num_frames)
    first = data.draw(st.integers(shot.start, shot.stop))
    last = data.draw(st.integers(first, shot.stop))
    plan = plan_shot(shot.start, shot.stop, length, halo, wanted=(first, last))

    written = [frame for segment in plan for frame in range(segment.start, segment.stop)]
    assert written == list(range(first, last))
    for segment in plan:
        assert 1 <= segment.num_frames <= length
        wanted = [frame for frame in shot if segment.start - halo <= frame < segment.stop + halo]
        assert list(range(segment.read_start, segment.read_stop)) == wanted
        assert segment.shot_start == shot_start


def test_plan_shot_by_hand():
    assert plan_shot(3, 10, 4, 2) == [Segment(3, 7, 3, 9, 3), Segment(7, 10, 5, 10, 3)]
    assert plan_shot(0, 10, 4, 2, wanted=(3, 5)) == [Segment(3, 5, 1, 7, 0)]
    assert plan_shot(0, 0, 4, 2) == []


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: plan_shot(0, 5, 0, 1), "length is 0"),
        (lambda: plan_shot(0, 5, 1, -1), "halo is -1"),
    ],
)
def test_segments_rejects_impossible_numbers(call, message):
    with pytest.raises(ValueError, match=message):
        call()
