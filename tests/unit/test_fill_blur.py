"""Frames that the camera's motion has blurred, among others that it has not."""

import cv2
import numpy as np
import pytest
import torch

from combcn_core.fill.blur import as_blurred, detail, line, log_ratio
from combcn_core.fill.motion import find_motion
from combcn_core.pixels import PackedMask
from combcn_core.shot import InpaintConfig, inpaint


def scene(height, width, seed=0):
    """(H, W, 3) float32 in [0, 1]: noise as sharp as photographs are."""
    noise = np.random.default_rng(seed).standard_normal((height, width, 3)).astype(np.float32)
    noise = cv2.GaussianBlur(noise, (0, 0), 1.2)
    return np.clip(0.5 + 0.12 * noise / noise.std(), 0, 1)


def moved(image, x, y=0):
    """The mean of an image at all places on its way by whole pixels."""
    steps = max(abs(x), abs(y)) + 1
    ways = np.linspace(-0.5, 0.5, steps)[:, None] * [x, y]
    places = [np.float32([[1, 0, a], [0, 1, b]]) for a, b in ways]
    return np.mean([cv2.warpAffine(image, p, image.shape[1::-1]) for p in places], 0)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_detail_against_a_loop(dtype):
    gray = (np.random.default_rng(1).random((7, 9)) * 255).astype(dtype)
    found, values = detail(gray), gray.astype(np.float64)
    for row in range(1, 6):
        for column in range(1, 8):
            across = values[row, column + 1] - values[row, column - 1]
            down = values[row + 1, column] - values[row - 1, column]
            assert found[row, column] == pytest.approx(abs(across) + abs(down), rel=1e-5)


def test_nothing_compares_to_nothing():
    assert log_ratio(np.zeros(4), np.ones(4)) == 0
    assert log_ratio(np.zeros(0), np.zeros(0)) == 0
    assert log_ratio(np.full(3, 2.0), np.full(3, 1.0)) == pytest.approx(-np.log(2))


@pytest.mark.parametrize("way", [(9.0, 0.0), (0.0, -6.5), (5.3, 7.1), (-14.0, 3.0)])
def test_line_has_the_moments_of_a_line(way):
    kernel, way = line(np.array(way)), np.array(way)
    half = len(kernel) // 2
    y, x = np.mgrid[-half : half + 1, -half : half + 1]
    assert kernel.sum() == pytest.approx(1, abs=1e-5)
    assert [(kernel * x).sum(), (kernel * y).sum()] == pytest.approx([0, 0], abs=1e-4)
    spread = np.array([[(kernel * a * b).sum() for a in (x, y)] for b in (x, y)])
    # That of a line; and of the pixels, between which a place is shared, 1/4 along each at most.
    rest = spread - np.outer(way, way) / 12
    assert np.abs(rest).max() < 0.27


def test_sharp_pixels_get_the_blur_of_the_frame():
    sharp = scene(60, 90)
    for x, y in ((12, 0), (8, -8)):
        truth = moved(sharp, x, y)
        known = np.zeros((60, 90), bool)
        known[10:50, 20:70] = True
        gray = [cv2.cvtColor(one.astype(np.float32), cv2.COLOR_RGB2GRAY) for one in (truth, sharp)]
        ratio = log_ratio(*(detail(one)[known] for one in gray))
        full = np.full(known.sum(), ratio, np.float32)
        # The shutter was open for half of the time between frames.
        result = as_blurred(sharp, known, full, 2 * np.array([x, y]))
        inner = np.s_[18:42, 32:58]
        before, after = (np.abs(one - truth)[inner].mean() for one in (sharp, result))
        assert after < 0.25 * before
        assert np.array_equal(result[~known], sharp[~known])
        hidden = sharp.copy()
        hidden[~known] = 7
        again = as_blurred(hidden, known, full, 2 * np.array([x, y]))
        assert np.array_equal(again[known], result[known])


def test_what_is_as_sharp_as_the_frame_stays():
    sharp, known = scene(40, 50), np.ones((40, 50), bool)
    ratio = np.zeros((40, 50), np.float32)
    ratio[:, 30:] = -0.4  # less sharp: cannot be helped
    assert as_blurred(sharp, known, ratio[known], np.array([9.0, 0])) is sharp
    ratio[:, :20] = 0.5
    assert as_blurred(sharp, known, ratio[known], np.array([0.5, 0.2])) is sharp
    result = as_blurred(sharp, known, ratio[known], np.array([9.0, 0]))
    assert np.array_equal(result[:, 20:], sharp[:, 20:])
    assert np.abs(result - sharp)[:, :20].mean() > 0.01


def test_motion_tells_blur_from_zoom():
    first, hole = scene(120, 160), np.zeros((120, 160), bool)
    hole[50:70, 70:90] = True
    first = (cv2.GaussianBlur(first, (0, 0), 2.0) * 255).astype(np.uint8)
    matrix = cv2.getRotationMatrix2D((79.5, 59.5), 2, 1.2)
    larger = cv2.warpAffine(first, matrix, (160, 120), borderMode=cv2.BORDER_REFLECT)
    blurred = cv2.blur(first, (9, 1))
    holes = PackedMask.of(hole), PackedMask.of(hole)
    ahead, back = find_motion(first, larger, *holes)
    # Steps are smaller by the zoom, log(1.2) = 0.18, and no less sharp.
    assert [ahead.log_detail, back.log_detail] == pytest.approx([0, 0], abs=0.06)
    ahead, back = find_motion(first, blurred, *holes)
    gray = [detail(cv2.cvtColor(one, cv2.COLOR_RGB2GRAY)) for one in (first, blurred)]
    known = cv2.dilate(hole.astype(np.uint8), np.ones((13, 13))) == 0
    expected = log_ratio(*(one[known] for one in gray))
    assert expected < -0.2
    assert ahead.log_detail == pytest.approx(expected, abs=0.03)
    assert back.log_detail == pytest.approx(-expected, abs=0.03)


def test_fill_is_as_sharp_as_its_frame():
    num_frames, height, width = 24, 96, 144
    wide = scene(height, width + 8 * num_frames, seed=3)
    # Every third frame is blurred, by more than half of the way to the next.
    ways = [7 if t % 3 == 1 else 0 for t in range(num_frames)]
    clip = np.stack([moved(wide, way)[:, 6 * t :][:, :width] for t, way in enumerate(ways)])
    images = torch.from_numpy((clip * 255).round().astype(np.uint8))
    masks = torch.zeros(num_frames, height, width, dtype=torch.bool)
    masks[:, 30:66, 58:86] = True  # the camera follows it
    result = inpaint(images, masks, config=InpaintConfig(match_grain=False))
    for t in range(3, num_frames - 3):
        gray = [cv2.cvtColor(one[t].numpy(), cv2.COLOR_RGB2GRAY) for one in (images, result)]
        where = np.s_[34:62, 62:82]
        ratio = log_ratio(*(detail(one)[where] for one in gray))
        assert abs(ratio) < 0.2, t
