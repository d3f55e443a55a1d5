import cv2
import numpy as np
import pytest

from combcn_core.fill.motion import Motion
from combcn_core.fill.register import CELL_PIXELS, Scale, Small, Target, homography_of, project
from combcn_core.pixels import Box

pytestmark = pytest.mark.usefixtures("one_thread")

# About two degrees, three per cent larger, a little perspective.
TILT = np.array([[1.02, -0.035, 6.5], [0.035, 1.03, -4.25], [1e-4, -5e-5, 1]])


def rough(height, width, seed=0):
    random = np.random.default_rng(seed)
    picture = np.full((height, width, 3), 0.5, np.float32)
    for size in (1.5, 3, 6, 12):
        some = random.standard_normal(picture.shape).astype(np.float32)
        picture += 0.1 * size * cv2.GaussianBlur(some, (0, 0), size)
    return np.clip(picture, 0.05, 0.95)


def box_hole(height, width, top, left, bottom, right):
    hole = np.zeros((height, width), bool)
    hole[top:bottom, left:right] = True
    return hole


def pair(level=1.0):
    """A target with a hole, and a source that shows the same wall tilted, its hole elsewhere."""
    source = rough(161, 223)
    size = source.shape[1::-1]
    flags = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
    target = cv2.warpPerspective(source, TILT, size, flags=flags, borderMode=cv2.BORDER_REFLECT)
    hole, other = box_hole(161, 223, 50, 80, 101, 140), box_hole(161, 223, 20, 150, 60, 190)
    source = source * np.float32(level)
    target[hole], source[other] = (1, 0, 0), (0, 0, 1)
    return Small.of(target, hole), Small.of(source, other), other


def test_project_against_a_loop():
    random = np.random.default_rng(0)
    x, y = random.uniform(0, 200, (2, 7)).astype(np.float32)
    found = np.stack(project(TILT, x, y), 1)
    for point, *place in zip(found, x, y, strict=True):
        there = TILT @ [*place, 1]
        # float32 of numbers up to 200
        np.testing.assert_allclose(point, there[:2] / there[2], atol=1e-4)


def test_homography_of_a_motion_against_its_own_shifts():
    random = np.random.default_rng(0)
    affine = random.uniform(-3, 3, (3, 2))
    nothing = np.zeros(3)
    box = Box(10, 20, 110, 180)
    motion = Motion(box, affine, np.zeros((2, 2, 3)), nothing, 0.0, 0.0, nothing)
    scale = Scale(3.0, 2.5)
    x, y = random.uniform(0, 60, (2, 9)).astype(np.float32)
    there = np.stack(scale.to_frame(*project(homography_of(motion, scale), x, y)), 1)
    here_x, here_y = scale.to_frame(x, y)
    expected = np.stack([here_x, here_y], 1) + motion.shift(here_x, here_y)
    np.testing.assert_allclose(there, expected, atol=1e-3)


def test_positions_of_small_frames_and_back():
    scale = Scale(3.0, 2.5)
    # The centre of the first small pixel is that of the frame's first three.
    assert scale.to_frame(np.float32(0), np.float32(0)) == (1, 0.75)
    x, y = np.float32([0.3, 17]), np.float32([5, 2.2])
    np.testing.assert_allclose(scale.to_small(*scale.to_frame(x, y)), [x, y], atol=1e-5)


@pytest.mark.parametrize("shape", [(61, 83), (190, 1283)])
def test_small_frames_never_show_what_is_hidden(shape):
    frame, hole = rough(*shape), box_hole(*shape, 20, 30, 41, 64)
    other = frame.copy()
    other[hole] = 1 - other[hole]
    ours, theirs = Small.of(frame, hole), Small.of(other, hole)
    assert max(ours.hole.shape) <= 640
    for first, second in zip(ours[:3], theirs[:3], strict=True):
        np.testing.assert_array_equal(first, second)


def test_align_finds_a_homography_from_a_rough_guess():
    target, source, _ = pair()
    guess = np.eye(3)
    guess[:2, 2] = TILT[:2, 2]
    found = Target(target).align(source, guess)
    corners = np.float32([80, 140, 80, 140]), np.float32([50, 50, 101, 101])
    # A quarter of a pixel at the corners of the hole; the guess is 4 pixels off there.
    np.testing.assert_allclose(project(found, *corners), project(TILT, *corners), atol=0.25)


def test_align_keeps_the_guess_where_nothing_is_alike():
    target, _, other = pair()
    strange = Small.of(rough(161, 223, seed=9), other)
    np.testing.assert_array_equal(Target(target).align(strange, TILT), TILT)


@pytest.mark.parametrize("bends", [False, True])
def test_register_shows_the_source_level_and_without_its_hole(bends):
    target_frame, source, other = pair(level=0.8)
    target = Target(target_frame)
    found = target.register(7, source, TILT, bends=bends)
    found = target.level(found, 0.0, np.zeros(3))
    assert found.source == 7
    np.testing.assert_allclose(found.log_gain, np.log(0.8), atol=0.005)
    x, y = project(TILT, target.x, target.y)
    inside = (np.rint(y) >= 0) & (np.rint(x) >= 0) & (np.rint(y) < 161) & (np.rint(x) < 223)
    where = np.rint(y).astype(int)[inside], np.rint(x).astype(int)[inside]
    if not bends:
        np.testing.assert_allclose(np.stack([found.x, found.y]), np.stack([x, y]), atol=1e-3)
        assert not found.seen[inside][other[where]].any()
    ring = target.ring & found.seen
    # What is left is the interpolation of two warps, softened.
    assert np.abs(found.soft - target.soft)[ring].mean() < 0.01


def test_cells_of_a_target():
    target = Target(pair()[0])
    step = np.diff(target.x[0]), np.diff(target.y[:, 0])
    assert (np.concatenate(step) == CELL_PIXELS).all()
    assert not (target.hole & target.ring).any()
    covered = np.zeros((161, 223), bool)
    for row, column in zip(*np.nonzero(target.hole), strict=True):
        y, x = target.y[row, column], target.x[row, column]
        covered[int(y - 0.5) : int(y + 1.5), int(x - 0.5) : int(x + 1.5)] = True
    assert covered[box_hole(161, 223, 50, 80, 101, 140)].all()
