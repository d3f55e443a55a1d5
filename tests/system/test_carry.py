import cv2
import numpy as np
import pytest
import torch

from combcn_core import shot
from combcn_core.fill import carry, keys, stages, texture, window
from combcn_core.fill.levels import Levels
from combcn_core.fill.stages import propagate, synthesize_texture
from combcn_core.fill.trace import Trace
from combcn_core.pixels import Box, Patch
from combcn_core.shot import InpaintConfig, inpaint

ANCHORS = 12  # frames apart in these tests: anchors at 4, 16, 28


@pytest.fixture
def near_anchors(monkeypatch):
    monkeypatch.setattr(carry, "ANCHOR_STEP", ANCHORS)
    monkeypatch.setattr(carry, "PASSING_FRAMES", 4)
    for module in (carry, keys, window):
        monkeypatch.setattr(module, "SHARP_FRAMES", 3)
    for module in (carry, shot, stages):
        monkeypatch.setattr(module, "CARRY_FRAMES", ANCHORS // 2 + 2)


def make_clip(num_frames, step=0, height=72, width=96, seed=2):
    """(T, H, W, 3) uint8: coarse noise, past which the camera moves by whole pixels a frame."""
    rng = np.random.default_rng(seed)
    wide = width + abs(step) * num_frames
    noise = cv2.GaussianBlur(rng.standard_normal((height, wide, 3)).astype(np.float32), (0, 0), 1.5)
    scene = np.clip(np.rint(128 + 30 * noise / noise.std()), 0, 255).astype(np.uint8)
    return torch.from_numpy(np.stack([scene[:, t * step :][:, :width] for t in range(num_frames)]))


def make_masks(num_frames, step=0):
    """(T, 72, 96) bool: a box that hides the same part of a scene that moves by so much."""
    masks = torch.zeros(num_frames, 72, 96, dtype=torch.bool)
    for t in range(num_frames):
        left = 60 - t * step
        masks[t, 24:48, max(0, left) : max(0, left + 24)] = True
    return masks


PLAIN = InpaintConfig(reach=4, match_grain=False)


@pytest.mark.parametrize("is_blurred", [False, True])
@pytest.mark.parametrize("propagates", [True, False])
@pytest.mark.parametrize("length", [1, 5, 13])
def test_segments_equal_the_whole(near_anchors, length, propagates, is_blurred):
    clip, masks = make_clip(34, step=1), make_masks(34, step=1)
    masks[20, 40:60, 10:30] = True
    if is_blurred:  # where anchors would be
        for t in (3, 4, 15, 16, 17, 18, 27, 28, 29, 30):
            clip[t] = torch.from_numpy(cv2.blur(clip[t].numpy(), (7, 1)))
    whole, parts = (
        inpaint(
            clip,
            masks,
            config=InpaintConfig(reach=4, propagate=propagates, segment_frames=frames),
        )
        for frames in (100, length)
    )
    assert torch.equal(whole, parts)
    assert (whole != clip)[masks].any()


def test_texture_of_an_anchor_stands_still_where_the_camera_does(near_anchors):
    clip, masks = make_clip(34), make_masks(34)
    result = inpaint(clip, masks, config=PLAIN).float()
    change = (result[1:] - result[:-1]).abs().mean(-1)
    change = torch.stack(
        [frame[mask].mean() for frame, mask in zip(change, masks[1:], strict=True)]
    )
    # Frames 0 to 8 are carried from frame 4; 9 to 11 pass over to frame 16, and so on.
    still = [t for t in range(33) if not (8 <= t < 12 or 20 <= t < 24)]
    assert change[still].max() < 0.5  # rounding
    assert change[8:12].max() > 2
    assert change[20:24].max() > 2


def test_texture_is_made_in_sharp_frames(near_anchors, monkeypatch):
    clip, masks = make_clip(20, step=1), make_masks(20, step=1)
    for t in (3, 4, 5, 15, 16):
        clip[t] = torch.from_numpy(cv2.blur(clip[t].numpy(), (7, 1)))
    anchors = []

    def noted(start, hole, seed):
        anchors.append(seed)
        return texture.synthesize(start, hole, seed=seed)

    monkeypatch.setattr(carry, "synthesize", noted)
    inpaint(clip, masks, config=PLAIN)
    assert {6, 17} <= set(anchors) <= {0, 6, 10, 17}  # in place of 4 and 16, which are blurred


def test_texture_moves_with_the_camera(near_anchors):
    clip, masks = make_clip(20, step=1), make_masks(20, step=1)
    result = inpaint(clip, masks, config=PLAIN).float()
    inner = np.s_[28:44]
    for t in (2, 4, 7):
        left = 64 - t
        moved = result[t, inner, left : left + 16] - result[t + 1, inner, left - 1 : left + 15]
        fixed = result[t, inner, left : left + 16] - result[t + 1, inner, left : left + 16]
        assert moved.abs().mean() < 2
        assert moved.abs().mean() < 0.3 * fixed.abs().mean()


def looked_at(frame, hole, t, sources, colors, error=0.0):
    """What `carry` finds where every pixel is seen in some frames."""
    rows, columns = np.nonzero(hole)
    nothing = np.zeros(len(rows), np.float32)
    error = np.broadcast_to(np.float32(error), nothing.shape)
    ends = columns.astype(np.float32), rows.astype(np.float32)
    sources = [np.broadcast_to(source, nothing.shape) for source in sources]
    ways = [carry.Way(Trace(rows, columns, source, *ends, error), Levels({})) for source in sources]
    sight = carry.carry(Patch.of(frame), hole, t, ways, colors, np.zeros(2))
    reached, left = sight.reached(hole)
    result = carry.overlay(Patch.of(frame), sight.pixels, sight.box, reached).whole()
    return result, left, sight


@pytest.mark.parametrize(("alike", "plain_mean"), [(False, 0.07), (True, 0.1)])
def test_passing_over_keeps_the_contrast(alike, plain_mean):
    rng = np.random.default_rng(0)
    frame, hole = np.full((60, 80, 3), 0.5, np.float32), np.zeros((60, 80), bool)
    hole[10:50, 10:70] = True
    colors = [0.5 + 0.1 * rng.standard_normal((hole.sum(), 3)).astype(np.float32) for _ in range(2)]
    if alike:
        colors[1] = colors[0]
    assert np.mean(colors, 0).std() == pytest.approx(plain_mean, rel=0.02)
    for t in (0, carry.ANCHOR_STEP // 2):
        result, left, sight = looked_at(frame, hole, t, (0, carry.ANCHOR_STEP), colors)
        assert not left.any()
        assert not sight.unsure(hole).any()
        assert result[hole].std() == pytest.approx(0.1, rel=0.05)


def test_a_single_end_gives_way_before_it_is_out_of_reach():
    frame, hole = np.zeros((40, 50, 3), np.float32), np.zeros((40, 50), bool)
    hole[10:30, 10:30] = True
    colors = [np.ones((400, 3), np.float32)]
    reach, passing = carry.CARRY_FRAMES, carry.PASSING_FRAMES
    far = [looked_at(frame, hole, t, [0], colors)[2] for t in range(reach)]
    sure = [float(sight.sure.max()) for sight in far]
    assert sure[: reach - passing + 1] == [1.0] * (reach - passing + 1)
    assert sure[reach - passing :] == sorted(sure[reach - passing :], reverse=True)
    assert 0 < sure[-1] < 0.2
    other = looked_at(frame, hole, 1, [0], [np.full((400, 3), 0.5, np.float32)])[2]
    halfway = far[reach - passing // 2].before(other)
    assert halfway.pixels[halfway.pixels.shape[0] // 2, 20, 0] == pytest.approx(0.75, abs=0.01)


def traces(shape, x, y, source=0):
    rows, columns = (part.ravel() for part in np.indices(shape))
    x, y = (np.broadcast_to(part, shape).astype(np.float32).ravel() for part in (x, y))
    source = np.broadcast_to(source, shape).ravel()
    return Trace(rows, columns, source, x, y, np.zeros(len(rows), np.float32))


def test_what_is_drawn_out_against_singular_values():
    rng = np.random.default_rng(0)
    shape, box = (20, 30), Box(0, 0, 20, 30)
    row, column = np.indices(shape)
    for _ in range(12):
        matrix = np.eye(2) + rng.uniform(-0.7, 0.7, (2, 2))
        x, y = np.einsum("ij,jhw->ihw", matrix, np.stack([column, row]))
        found = carry.drawn_out(traces(shape, x, y), np.ones(600, bool), box)
        least = np.linalg.svd(matrix)[1][1]
        expected = np.clip(
            (1 / carry.DRAWN - least) / (1 / carry.DRAWN - 1 / carry.MOST_DRAWN), 0, 1
        )
        np.testing.assert_allclose(found, expected, atol=1e-3)


def test_ends_in_two_frames_are_not_drawn_out():
    shape, box = (20, 30), Box(0, 0, 20, 30)
    row, column = np.indices(shape)
    source = np.where(column < 15, 3, 9)
    path = traces(shape, column + 40.0 * (source == 9), row, source)
    found = carry.drawn_out(path, np.ones(600, bool), box)
    assert found.max() == pytest.approx(0, abs=1e-3)
    assert carry.drawn_out(path, np.zeros(600, bool), box).max() == 0


def test_texture_that_is_drawn_out_gives_way():
    frame, hole = np.zeros((40, 50, 3), np.float32), np.zeros((40, 50), bool)
    hole[10:30, 10:40] = True
    row, column = np.indices(hole.shape)
    colors = np.ones((hole.size, 3), np.float32)

    def sight(stretch):
        way = carry.Way(traces(hole.shape, column / stretch, row), Levels({}))
        return carry.carry(Patch.of(frame), hole, 8, [way], [colors], np.zeros(2))

    assert sight(1.0).sure.min() == 1
    assert sight(1.25).sure.min() == 1
    assert 0 < sight(3.0).sure.max() < 0.1
    assert sight(1.0).sure.max() > sight(1.8).sure.max() > sight(3.0).sure.max()


def test_what_no_trace_leads_from_is_told():
    frame, hole = np.zeros((40, 50, 3), np.uint8), np.zeros((40, 50), bool)
    hole[10:30, 10:30] = True
    rows, columns = np.nonzero(hole)
    source = np.where(columns < 20, 3, -1)
    error = np.where(rows < 12, np.inf, 0)
    color = np.ones((len(rows), 3), np.float32)
    result, left, _ = looked_at(frame, hole, 5, [source], [color], error)
    reached = np.zeros_like(hole)
    reached[12:30, 10:20] = True
    np.testing.assert_array_equal(left, hole & ~reached)
    np.testing.assert_array_equal(result[reached], 255)
    np.testing.assert_array_equal(result[~reached], 0)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_stages_one_by_one_equal_inpaint(near_anchors, dtype):
    clip, masks = make_clip(30, step=1), make_masks(30, step=1)
    masks[::7, 24:32] = False  # seen now and then
    clip = clip if dtype == torch.uint8 else clip / 255
    filled, remaining = propagate(clip, masks, reach=4)
    assert 0 < remaining.sum() < masks.sum()
    result = synthesize_texture(filled, remaining, removed=masks)
    assert torch.equal(result, inpaint(clip, masks, config=PLAIN))
    assert torch.equal(result[~remaining], filled[~remaining])


def test_texture_keeps_to_the_colours_of_the_start(monkeypatch):
    monkeypatch.setattr(texture, "START_WEIGHT", 1.0)
    clip, masks = make_clip(3), make_masks(3)
    clip[:, :, :72] = clip[:, :, :72] // 2  # up to the middle of the hole
    means = []
    for level in (64, 128):
        start = clip.clone()
        start[masks] = level
        means.append(synthesize_texture(clip, masks, start)[masks].float().mean())
    assert means[0] < means[1] - 15


def test_synthesize_texture_rejects_what_does_not_fit():
    clip, masks = make_clip(3), make_masks(3)
    with pytest.raises(ValueError, match=r"start has shape \(2, 72, 96, 3\) but images has"):
        synthesize_texture(clip, masks, clip[:2])
    with pytest.raises(ValueError, match="unseen is 'blur'; give 'texture' or 'smooth'"):
        InpaintConfig(unseen="blur")
