"""The built-in clip out of its files: exact truth, the painted pictures, the sound."""

import av
import cv2
import numpy as np
import pytest

from combcn_core import demo
from combcn_core.demo import load_demo


@pytest.fixture(scope="module")
def clip():
    return load_demo(4)


def test_demo_layout(clip):
    assert clip.images.shape == clip.truth.shape == (4, 270, 480, 3)
    assert clip.images.dtype == clip.truth.dtype == np.uint8
    assert clip.masks.shape == (4, 270, 480)
    assert clip.masks.dtype == np.bool_
    assert clip.sound.shape == (4 * 2000, 2)
    assert clip.sound.dtype == np.float32
    assert 0.01 < np.abs(clip.sound).max() <= 1


@pytest.mark.parametrize("height", [270, 108, 45])
def test_truth_is_exact_outside_the_masks(height):
    clip = load_demo(3, height)
    assert clip.masks.shape[1:] == (height, {270: 480, 108: 192, 45: 80}[height])
    changed = (clip.images != clip.truth).any(axis=3)
    assert not (changed & ~clip.masks).any()
    assert changed[clip.masks].mean() > 0.85
    share = clip.masks.mean(axis=(1, 2))
    assert share.max() < 0.3
    assert share[1] > 0.1  # in the middle of the clip the whole van is seen


def test_files_hold_what_ffmpeg_decodes(clip):
    with av.open(str(demo.PICTURES)) as container:
        pictures = [f.to_ndarray(format="rgb24") for f in container.decode(video=0)]
    assert len(pictures) == 2 * demo.NUM_FRAMES
    for index, number in enumerate((0, 20, 39, 59)):
        smooth = [cv2.GaussianBlur(p, (0, 0), 3) for p in (clip.truth[index], pictures[2 * number])]
        error = np.abs(smooth[0].astype(int) - smooth[1])
        assert error.mean() < 1  # grain is smoothed away; swscale's colours are rounded otherwise


def test_files_are_small():
    assert sum(path.stat().st_size for path in (demo.PICTURES, demo.MASKS)) < 600_000


def test_grain_is_new_in_every_frame_and_seed(clip):
    other = load_demo(4, seed=1)
    assert np.array_equal(other.masks, clip.masks)
    difference = other.truth.astype(int) - clip.truth
    assert 2 < difference.std() < 5  # of two independent grains
    assert abs(np.corrcoef(difference[0].ravel(), difference[1].ravel())[0, 1]) < 0.02


@pytest.mark.parametrize("arguments", [(0,), (61,), (2, 15), (2, 271)])
def test_demo_rejects_what_it_has_not(arguments):
    with pytest.raises(ValueError, match="ask for 1 to 60 frames of 16 to 270 pixels"):
        load_demo(*arguments)
