"""Whole clips filled from other frames, and scene cuts."""

import numpy as np
import pytest
import torch

from combcn_core.fill.cuts import is_cut
from combcn_core.fill.stages import propagate
from combcn_core.pixels import from_unit

from ..scene import Scene, as_tensors, box_masks

pytestmark = pytest.mark.usefixtures("one_thread")


def test_propagate_a_whole_pixel_move_is_exact():
    truth = Scene(20).clip(14, 72, 90, (3, 1))
    masks = box_masks(14, 72, 90, 28, 34, 46, 52)
    clip = truth.copy()
    clip[masks] = 1
    result, remaining = propagate(*as_tensors(clip, masks), reach=12)
    result, filled = result.numpy(), masks & ~remaining.numpy()
    np.testing.assert_array_equal(result[~masks], clip[~masks])
    assert filled[:6].sum() > 0.99 * masks[:6].sum()  # leaves the hole within six frames
    # DIS finds a whole-pixel move to some hundredths of a pixel a frame, over at most 6 frames; a
    # tenth of a pixel is at most 0.1 * 2 pi / 8 of a wave's amplitude, 0.03 each, added randomly.
    error = np.abs(result - truth)[filled]
    assert error.mean() < 0.004
    assert np.quantile(error, 0.99) < 0.02


def test_propagate_follows_brightness():
    gains = np.linspace(1.0, 0.7, 10)[:, None] * (1.0, 1.1, 0.9)
    truth = Scene(21, level=(0.6, 0.6, 0.6)).clip(10, 72, 90, (3, 1))
    truth = (truth * gains[:, None, None]).astype(np.float32)
    masks = box_masks(10, 72, 90, 28, 34, 46, 52)
    clip = truth.copy()
    clip[masks] = 0
    result, remaining = propagate(*as_tensors(clip, masks), reach=9)
    filled = masks & ~remaining.numpy()
    assert filled.sum() > 0.99 * masks.sum()
    error = (result.numpy() - truth)[filled]
    # Six frames of uncompensated gain would be 0.12; what is left is that of the flow, above.
    assert np.abs(error).mean() < 0.006
    assert np.abs(error.mean(0)).max() < 0.003


def test_propagate_carries_a_clean_plate():
    still = Scene(22).clip(1, 60, 70, (0, 0))
    truth = np.repeat(still, 9, axis=0)
    masks = box_masks(9, 60, 70, 20, 25, 40, 45)
    masks[4] = False
    clip = truth.copy()
    clip[masks] = 0
    result, remaining = propagate(*as_tensors(clip, masks), reach=3)
    assert not remaining[1:8].any()
    # Farther than reach.
    np.testing.assert_array_equal(remaining[[0, 8]].numpy(), masks[[0, 8]])
    # Nothing moves, and flow says so exactly: the plate arrives as it was, but for the few
    # thousandths that a smooth fill always has.
    error = np.abs(result.numpy() - truth)[1:8][masks[1:8]]
    assert error.mean() < 0.004


def test_propagate_never_crosses_a_cut():
    first = Scene(23, level=(0.75, 0.3, 0.3)).clip(5, 64, 80, (2, 0))
    second = Scene(24, level=(0.2, 0.4, 0.8)).clip(5, 64, 80, (2, 0))
    clip = np.concatenate([first, second])
    assert is_cut(clip[4], clip[5])
    masks = box_masks(10, 64, 80, 20, 25, 40, 50)
    together = propagate(*as_tensors(clip, masks), reach=8)
    apart = [propagate(*as_tensors(clip[s], masks[s]), reach=8) for s in (np.s_[:5], np.s_[5:])]
    for number in range(2):
        expected = torch.cat([shot[number] for shot in apart])
        assert torch.equal(together[number], expected)
    assert together[1].any()  # 10 pixels of motion do not uncover 25


def test_propagate_leaves_what_is_never_seen():
    # All moves left by a pixel a frame. Of the first hole, 30 wide, four columns on each side are
    # uncovered in five frames; the second ends with the frame, and nothing enters it in time.
    clip = Scene(25).clip(5, 64, 80, (1, 0))
    masks = box_masks(5, 64, 80, 20, 20, 40, 50)
    masks[:, 20:40, 70:] = True
    _, remaining = propagate(*as_tensors(clip, masks), reach=10)
    remaining = remaining.numpy()
    assert not (remaining & ~masks).any()
    assert remaining[:, 20:40, 26:44].all()  # a pixel to spare on each side
    assert not remaining[0, 22:38, 20:23].any()
    assert not remaining[4, 22:38, 47:50].any()
    assert remaining[0, 20:40, 75:].all()
    assert not remaining[0, 22:38, 70:73].any()
    assert remaining[4, 20:40, 70:].all()  # came from outside the frame


@pytest.mark.parametrize("hidden", [0.0, 1.0, "noise"])
def test_propagate_ignores_what_is_hidden(hidden):
    clip = Scene(27).clip(7, 50, 67, (1.7, 0.4))
    masks = box_masks(7, 50, 67, 18, 20, 33, 41)
    masks[3] = np.roll(masks[3], 4, axis=0)
    masks[5] = False
    other = clip.copy()
    garbage = np.random.default_rng(1).random(clip.shape, np.float32)
    other[masks] = garbage[masks] if hidden == "noise" else hidden
    ours, theirs = (propagate(*as_tensors(c, masks), reach=4) for c in (clip, other))
    assert torch.equal(ours[1], theirs[1])
    assert torch.equal(ours[0], theirs[0].where(torch.from_numpy(masks)[..., None], ours[0]))
    assert (torch.from_numpy(masks) & ~ours[1]).sum() > 500  # something did arrive


def test_is_cut_between_scenes():
    first = Scene(30, level=(0.7, 0.3, 0.3)).clip(1, 90, 160, (0, 0))[0]
    second = Scene(31, level=(0.2, 0.5, 0.7)).clip(1, 90, 160, (0, 0))[0]
    assert is_cut(first, second)
    assert is_cut(from_unit(first, np.dtype(np.uint8)), from_unit(second, np.dtype(np.uint8)))
    assert is_cut(from_unit(first, np.dtype(np.uint16)), from_unit(second, np.dtype(np.uint16)))


@pytest.mark.parametrize("step", [(0, 0), (25, 0), (0, -12), (40, 15)])
def test_is_cut_not_in_a_fast_pan(step):
    clip = Scene(32).clip(2, 90, 160, step)
    assert not is_cut(*clip)


def test_is_cut_not_in_a_fade_nor_a_change_of_light():
    frame = Scene(33).clip(1, 90, 160, (0, 0))[0]
    for before, after in ((1.0, 0.9), (0.5, 0.4), (0.1, 0.0), (0.8, 1.0)):
        assert not is_cut(frame * np.float32(before), frame * np.float32(after))


def test_is_cut_survives_what_is_not_finite():
    frame = Scene(34).clip(1, 40, 60, (0, 0))[0]
    broken = frame.copy()
    broken[3, 4], broken[5, 6], broken[7, 8] = np.nan, np.inf, -np.inf
    assert not is_cut(frame, broken)


def test_propagate_registers_what_a_wide_object_hides_for_long(panned):
    """The camera follows something wide: 24 frames lie between what is hidden and its sight."""
    frames, holes, truth = panned(49)
    filled, remaining = propagate(
        torch.from_numpy(np.stack(frames[:49])), torch.from_numpy(np.stack(holes))
    )
    middle = slice(20, 29)
    assert not remaining[middle].any()
    hole = holes[0]
    error = np.stack(truth[middle])[:, hole].astype(float) - filled.numpy()[middle][:, hole]
    # Noise of 1 % twice, and every other frame a little blurred.
    assert np.sqrt((error**2).mean()) < 0.03 * 255
