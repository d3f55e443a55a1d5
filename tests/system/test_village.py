"""What recipes/village.py paints: an exact truth, tight masks, ground that is mostly seen later."""

from fractions import Fraction

import cv2
import numpy as np
import pytest

from combcn_core.demo import DemoClip
from recipes.village import render_demo


@pytest.fixture(scope="module")
def clip() -> DemoClip:
    return render_demo(num_frames=13, height=135, width=239, seed=3)


def test_demo_layout(clip):
    assert clip.images.shape == clip.truth.shape == (13, 135, 239, 3)
    assert clip.images.dtype == clip.truth.dtype == np.uint8
    assert clip.masks.shape == (13, 135, 239)
    assert clip.masks.dtype == np.bool_
    assert clip.fps == Fraction(24)
    assert clip.sample_rate == 48000
    assert clip.sound.shape == (13 * 2000, 2)
    assert clip.sound.dtype == np.float32
    assert 0.01 < np.abs(clip.sound).max() <= 1


def test_demo_truth_is_exact_outside_the_masks(clip):
    changed = (clip.images != clip.truth).any(axis=3)
    assert not (changed & ~clip.masks).any()
    for frame_changed, mask in zip(changed, clip.masks, strict=True):
        assert frame_changed[mask].mean() > 0.85  # and the masks hold little else


def test_demo_object_is_a_sensible_share_of_every_frame(clip):
    share = clip.masks.mean(axis=(1, 2))
    assert share.min() > 0.05
    assert share.max() < 0.3
    brightness = np.abs(clip.images.astype(int) - clip.truth)[clip.masks].mean()
    assert brightness > 30  # it is no ghost


def test_demo_is_deterministic():
    first, again = (render_demo(num_frames=3, height=48, width=64, seed=3) for _ in range(2))
    for name in ("images", "truth", "masks", "sound"):
        assert getattr(first, name).tobytes() == getattr(again, name).tobytes()
    other = render_demo(num_frames=3, height=48, width=64, seed=4)
    assert (other.truth != first.truth).mean() > 0.5


def _background_flow(clip: DemoClip, here: int, there: int) -> np.ndarray:
    """(H, W, 2): where each pixel of the truth at `here` is at `there`, by OpenCV's DIS."""
    grey = [cv2.cvtColor(clip.truth[index], cv2.COLOR_RGB2GRAY) for index in (here, there)]
    flow = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    return flow.calc(grey[0], grey[1], None)


def test_demo_camera_moves_by_fractions_with_parallax(clip):
    flow = _background_flow(clip, 6, 7)
    sky, houses, road = (
        np.median(flow[top:bottom], axis=(0, 1)) for top, bottom in ((5, 25), (65, 85), (105, 118))
    )
    assert road[0] < houses[0] - 1 < sky[0] - 2  # near things pass faster, to the left
    assert abs(sky[0]) < 1
    # A pan by whole pixels would leave every row at an integer.
    shifts = np.median(flow[60:120, :, 0], axis=1)
    assert np.abs(shifts - np.rint(shifts)).max() > 0.2


@pytest.mark.parametrize("here", [0, 6, 12])
def test_demo_hidden_background_is_mostly_seen_in_other_frames(clip, here):
    height, width = clip.masks.shape[1:]
    y, x = np.indices((height, width), np.float32)
    known = np.where(clip.masks, 0, 255).astype(np.uint8)
    age = np.full((height, width), np.inf)  # how many frames away it is first seen
    for there in range(len(clip.masks)):
        if there != here:
            to = _background_flow(clip, here, there) + np.dstack([x, y])
            # Outside the frame is 0: not seen.
            visible = cv2.remap(known[there], to, None, cv2.INTER_NEAREST, borderValue=0) > 0
            age[visible] = np.minimum(age[visible], abs(there - here))
    hidden = age[clip.masks[here]]
    assert np.isfinite(hidden).mean() > 0.93
    assert (hidden == 1).mean() > 0.1
    assert (hidden > 2).mean() > 0.1  # not everywhere equally soon


def test_demo_grain_is_new_in_every_frame(clip):
    flat, grain = np.ones(clip.masks.shape[1:], bool), []
    for frame in clip.truth[[2, 9]].astype(np.float32):
        smooth = cv2.GaussianBlur(frame, (0, 0), 2)
        # Far from clouds and roofs, what a blur takes away is grain.
        flat &= np.abs(cv2.Laplacian(cv2.blur(smooth, (5, 5)), -1, ksize=3)).max(axis=2) < 1
        grain.append(frame - smooth)
    flat[30:] = False
    assert flat.sum() > 500
    assert 0.5 < grain[0][flat].std() < 3
    assert abs(np.corrcoef(grain[0][flat].ravel(), grain[1][flat].ravel())[0, 1]) < 0.1


@pytest.mark.parametrize("size", [(16, 16), (65, 33), (33, 70)])
def test_demo_paints_any_shape(size):
    clip = render_demo(1, *size)
    assert clip.images.shape == (1, *size, 3)
    assert clip.masks.any()
    assert not (clip.images != clip.truth).any(axis=3)[~clip.masks].any()


@pytest.mark.parametrize("arguments", [(0, 64, 64), (2, 8, 64), (2, 64, 0)])
def test_demo_rejects_empty_clips(arguments):
    with pytest.raises(ValueError, match="at least 1 frame of at least 16x16"):
        render_demo(*arguments)
