import functools
from dataclasses import replace

import numpy as np
import pytest
import torch

from combcn_core.fill import early
from combcn_core.fill.cuts import is_cut
from combcn_core.fill.grain import match_grain
from combcn_core.fill.motion import Motion
from combcn_core.fill.plate import Plate
from combcn_core.fill.stages import fill_rest, propagate
from combcn_core.fill.window import Window
from combcn_core.masks import downsample_known
from combcn_core.networks.inference import prepare
from combcn_core.networks.jobs import plan_batches
from combcn_core.networks.layers import CombCN, NetworkConfig, temporal_halo
from combcn_core.networks.restore import (
    coarse_size,
    infer_temporal,
    restore_at_size,
    upsample_guidance,
)
from combcn_core.networks.scales import restore_detail
from combcn_core.pixels import Box, PackedMask
from combcn_core.segments import plan_shot
from combcn_core.shot import InpaintConfig, ShotInpainter, inpaint

from ..helpers import strong_model

pytestmark = pytest.mark.usefixtures("one_thread")

LEVEL = 1 / 255


def make_clip(num_frames, height, width, step=(2, 1), seed=0, level=(0.5, 0.5, 0.5)):
    """(T, H, W, 3) float32 in [0, 1]: waves seen by a camera that moves by `step` a frame."""
    random = np.random.default_rng(seed)
    length = random.uniform(7, 40, 30)
    angle = random.uniform(0, 2 * np.pi, 30)
    wave_x, wave_y = 2 * np.pi / length * (np.cos(angle), np.sin(angle))
    phases = random.uniform(0, 2 * np.pi, (30, 3))
    t, y, x = np.mgrid[:num_frames, :height, :width][..., None].astype(float)
    inner = (x + t * step[0]) * wave_x + (y + t * step[1]) * wave_y
    waves = np.sin(inner[..., None] + phases).sum(-2)
    return torch.from_numpy((np.array(level) + 0.03 * waves).clip(0, 1)).float()


def make_masks(num_frames, height, width, drift=0):
    """(T, H, W) bool: a box in the middle that may drift by pixels a frame, to and fro."""
    masks = torch.zeros(num_frames, height, width, dtype=torch.bool)
    for t in range(num_frames):
        left = width // 3 + drift * (t % 5)
        masks[t, height // 4 : height * 2 // 3, left : left + width // 4] = True
    return masks


make_model = functools.cache(strong_model)


def as_type(clip, dtype):
    if dtype == torch.uint8:
        return (clip * 255).round().to(dtype)
    if dtype == torch.uint16:
        return (clip * 65535).round().to(torch.int32).to(dtype)
    return clip.to(dtype)


def bits(images):
    """Every value as the bytes it is stored in: NaN equals itself, -0 is not 0."""
    return torch.from_numpy(images.contiguous().numpy().view(np.uint8))


def assert_known_kept(result, images, masks):
    assert result.dtype == images.dtype
    assert result.shape == images.shape
    known = ~masks.expand(images.shape[:3])
    itemsize = images.element_size()
    same = (bits(result) == bits(images)).unflatten(-1, (3, itemsize)).all(-1).all(-1)
    assert same[known].all()


FAST = InpaintConfig(reach=4)
PLAIN = InpaintConfig(reach=4, match_grain=False)
SMOOTH = replace(PLAIN, unseen="smooth")


# --- segments --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def long_clip():
    """Two shots, the hole now small, now large, now absent."""
    first = make_clip(27, 42, 56, (1.3, 0.4), seed=1, level=(0.7, 0.4, 0.3))
    second = make_clip(13, 42, 56, (-0.6, 1.1), seed=2, level=(0.2, 0.4, 0.8))
    clip = torch.cat([first, second])
    assert is_cut(clip[26].numpy(), clip[27].numpy())
    masks = make_masks(40, 42, 56, drift=2)
    masks[::6, 8:20, 16:40] = True
    masks[9] = False
    masks[31:33] = False
    return clip, masks


@pytest.mark.parametrize("propagates", [True, False])
@pytest.mark.parametrize("length", [3, 7])
def test_segments_equal_the_whole_without_networks(long_clip, length, propagates):
    settings = {"reach": 4, "propagate": propagates}
    whole = inpaint(*long_clip, config=InpaintConfig(**settings, segment_frames=100))
    parts = inpaint(*long_clip, config=InpaintConfig(**settings, segment_frames=length))
    assert torch.equal(whole, parts)
    assert not torch.equal(whole, long_clip[0])


@pytest.mark.parametrize(
    "fields",
    [
        {"input_fill": "mean"},
        {"input_fill": "classical"},
        {"input_fill": "mean", "time_stride": True},
        {"input_fill": "classical", "guidance": False},
        {"input_fill": "classical", "steady_frames": 8},
        {"input_fill": "classical", "steady_frames": 13, "guidance": False},
    ],
    ids=["mean", "classical", "time_stride", "2dcn", "steady", "steady_2dcn"],
)
def test_segments_equal_the_whole_with_networks(fields):
    model = make_model(**fields)
    # The last segment starts, with its halo, neither at the shot's first frame nor at a multiple.
    halo = temporal_halo(model.config)
    num_frames, length = (halo + 9, halo + 3) if model.config.time_stride else (32, 6)
    clip = make_clip(num_frames, 16, 20, (0.4, 0.2), seed=3)
    masks = make_masks(num_frames, 16, 20)
    settings = {"reach": 4, "precision": "fp32", "device": "cpu"}
    results = [
        inpaint(clip, masks, model, InpaintConfig(**settings, segment_frames=frames))
        for frames in (100, length)
    ]
    # Other sizes may make the convolutions add in another order: a few roundings of float32. A
    # whole level would hide a halo that is too small.
    assert (results[0] - results[1]).abs().max() <= 1e-5
    plain = inpaint(clip, masks, None, InpaintConfig(**settings))
    assert (results[0] - plain).abs().max() > 20 * LEVEL  # the networks did work


def test_network_result_depends_on_so_many_frames():
    # Without this the test above would pass with any halo.
    model = make_model(input_fill="mean")
    halo = temporal_halo(model.config)
    clip, masks = make_clip(2 * halo + 1, 16, 20, (0, 0), seed=4), make_masks(2 * halo + 1, 16, 20)
    other = clip.clone()
    other[0] = 1 - other[0]
    one, two = infer_temporal(model, clip, masks), infer_temporal(model, other, masks)
    changed = (one - two).abs().amax((1, 2, 3)) > 0
    assert changed[: halo + 1].all()
    assert not changed[halo + 1 :].any()


def test_segments_in_any_order(long_clip):
    clip, masks = long_clip
    expected = inpaint(clip, masks, config=FAST)
    inpainter = ShotInpainter(FAST)
    frames, holes = list(clip.numpy()), list(masks.numpy())
    segments = [s for shot in ((0, 27), (27, 40)) for s in plan_shot(*shot, 8, inpainter.halo)]
    for segment in [segments[i] for i in (2, 0, 4, 1, 3, 5)]:
        read = slice(segment.read_start, segment.read_stop)
        result = inpainter.restore(inpainter.prefill(frames[read], holes[read], segment))
        got = torch.from_numpy(np.stack([frame.whole() for frame in result.frames]))
        assert torch.equal(got, expected[segment.start : segment.stop])


def test_shot_inpainter_keeps_known_pixels_when_it_feathers():
    clip, masks = make_clip(3, 24, 31, seed=31), make_masks(3, 24, 31)
    clip[:, 2, 3] = torch.tensor([float("nan"), float("inf"), -1.0])
    inpainter = ShotInpainter(InpaintConfig(reach=4, feather_pixels=2))
    (segment,) = plan_shot(0, 3, 32, inpainter.halo)
    given = list(clip.numpy()), list(masks.numpy())
    result = inpainter.restore(inpainter.prefill(*given, segment))
    got = torch.from_numpy(np.stack([frame.whole() for frame in result.frames]))
    assert_known_kept(got, clip, masks)


def test_nothing_crosses_a_cut(long_clip):
    clip, masks = long_clip
    apart = [inpaint(clip[part], masks[part], config=PLAIN) for part in (np.s_[:27], np.s_[27:])]
    assert torch.equal(inpaint(clip, masks, config=PLAIN), torch.cat(apart))


def test_shot_inpainter_counts_what_it_did():
    clip, masks = make_clip(9, 40, 52, (2, 0), seed=5), make_masks(9, 40, 52)
    _, remaining = propagate(clip, masks, reach=4)
    for model in (None, make_model(input_fill="classical")):
        inpainter = ShotInpainter(FAST, model)
        (segment,) = plan_shot(0, 9, 32, inpainter.halo)
        given = list(clip.numpy()), list(masks.numpy())
        counts = inpainter.restore(inpainter.prefill(*given, segment)).counts
        assert counts.hole_pixels == masks.sum()
        assert counts.propagated_pixels == (masks & ~remaining).sum()
        filled = [counts.filled_pixels, counts.network_pixels]
        assert filled[model is not None] == remaining.sum() > 0
        assert filled[model is None] == 0
        assert {"flow", "propagate", "rest", "composite"} <= set(counts.seconds)


# --- known pixels ----------------------------------------------------------------------------

TYPES = [torch.uint8, torch.uint16, torch.float16, torch.float32]


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("propagates", [True, False])
def test_known_pixels_are_kept(dtype, propagates):
    clip, masks = as_type(make_clip(5, 33, 47, seed=6), dtype), make_masks(5, 33, 47, drift=1)
    if dtype.is_floating_point:
        strange = [float("nan"), float("inf"), float("-inf"), 7.5, -3.0, -0.0]
        clip[:, 0, :6] = torch.tensor(strange, dtype=dtype)[:, None]
        clip[2, 7, 20:26] = torch.tensor(strange, dtype=dtype)[:, None]  # at the hole's edge
        clip[:, 20, 2] = 2**14
    before = clip.clone(), masks.clone()
    config = InpaintConfig(reach=4, propagate=propagates)
    result = inpaint(clip, masks, config=config)
    assert_known_kept(result, clip, masks)
    assert torch.equal(bits(clip), bits(before[0]))
    assert torch.equal(masks, before[1])
    hole = result.to(torch.float32)[masks]
    assert hole.isfinite().all()
    assert (hole != clip.to(torch.float32)[masks]).any(-1).float().mean() > 0.5


@pytest.mark.parametrize("fill", ["mean", "classical"])
@pytest.mark.parametrize("dtype", TYPES)
def test_known_pixels_are_kept_by_networks(dtype, fill):
    model = make_model(input_fill=fill)
    clip, masks = as_type(make_clip(2, 25, 31, seed=7), dtype), make_masks(2, 25, 31)
    if dtype.is_floating_point:
        clip[:, 0, :2] = torch.tensor([3.0, -2.0], dtype=dtype)[:, None]
    result = inpaint(clip, masks, model, InpaintConfig(propagate=False, precision="fp32"))
    assert_known_kept(result, clip, masks)
    plain = inpaint(clip, masks, None, InpaintConfig(propagate=False))
    assert not torch.equal(result.float(), plain.float())


@pytest.mark.parametrize("hidden", [0.0, 1.0, "noise", "nan"])
@pytest.mark.parametrize("fill", [None, "mean", "classical"])
def test_inpaint_ignores_what_is_hidden(hidden, fill):
    model = make_model(input_fill=fill) if fill else None
    clip, masks = make_clip(4, 33, 39, (1.6, 0.3), seed=8), make_masks(4, 33, 39, drift=1)
    other = clip.clone()
    noise = torch.rand(clip.shape, generator=torch.Generator().manual_seed(0))
    hidden = float(hidden) if hidden != "noise" else noise[masks]
    other[masks] = hidden
    results = [
        inpaint(c, masks, model, InpaintConfig(reach=3, precision="fp32")) for c in (clip, other)
    ]
    assert torch.equal(*results)


def test_infer_temporal_ignores_what_is_hidden_after_mean_fill():
    model = make_model(input_fill="mean")
    clip, masks = make_clip(3, 33, 39, seed=9), make_masks(3, 33, 39)
    other = clip.clone()
    other[masks] = float("nan")
    guide = infer_temporal(model, clip, masks)
    assert torch.equal(guide, infer_temporal(model, other, masks))
    result = restore_detail(model, clip, masks, guide)
    assert torch.equal(result, restore_detail(model, other, masks, guide))


def test_stages_never_write_into_their_input():
    model = make_model(input_fill="mean")
    clip, masks = make_clip(5, 31, 38, seed=10), make_masks(5, 31, 38)
    masks[2] = False
    guide = infer_temporal(model, clip, masks)
    given = clip.clone(), masks.clone(), guide.clone()
    results = [
        inpaint(clip, masks, config=InpaintConfig(reach=4, feather_pixels=2, grow_pixels=1)),
        inpaint(clip, masks, model, InpaintConfig(reach=4)),
        propagate(clip, masks, reach=4)[0],
        fill_rest(clip, masks),
        restore_detail(model, clip, masks, guide),
        upsample_guidance(guide, (31, 38)),
    ]
    for result in results:  # nor do their results share memory with it
        result.fill_(0.5)
    for tensor, before in zip((clip, masks, guide), given, strict=True):
        assert torch.equal(tensor, before)


# --- shapes ----------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(8, 8), (9, 13), (1, 12), (13, 1), (33, 7)])
@pytest.mark.parametrize("num_frames", [1, 3])
def test_tiny_frames(size, num_frames):
    clip = make_clip(num_frames, *size, seed=11)
    masks = torch.zeros(num_frames, *size, dtype=torch.bool)
    masks[:, size[0] // 2 :, size[1] // 2 :] = True
    result = inpaint(clip, masks, config=FAST)
    assert_known_kept(result, clip, masks)
    # A mean of known pixels and of others like them; cubic reading overshoots by an eighth of the
    # range, and grain adds as much again at most.
    assert result.min() >= clip.min() - 0.25
    assert result.max() <= clip.max() + 0.25


def test_tiny_frames_with_networks():
    model = make_model(input_fill="classical")
    clip, masks = make_clip(2, 9, 13, seed=12), make_masks(2, 9, 13)
    result = inpaint(clip, masks, model, FAST)
    assert_known_kept(result, clip, masks)
    assert result.isfinite().all()


def test_mask_shapes_mean_the_same():
    clip, masks = make_clip(4, 24, 31, seed=13), make_masks(4, 24, 31)
    expected = inpaint(clip, masks, config=FAST)
    for form in (masks[0], masks[:1], masks.float(), masks[0].to(torch.uint8) * 255):
        assert torch.equal(inpaint(clip, form, config=FAST), expected)
    strided = masks.permute(1, 2, 0).contiguous().permute(2, 0, 1)
    assert torch.equal(inpaint(clip, strided, config=FAST), expected)
    strided = clip.permute(3, 0, 1, 2).contiguous().permute(1, 2, 3, 0)
    assert torch.equal(inpaint(strided, masks, config=FAST), expected)


@pytest.mark.parametrize("dtype", TYPES)
def test_empty_mask_returns_the_images(dtype):
    clip = as_type(make_clip(3, 15, 21, seed=14), dtype)
    masks = torch.zeros(15, 21)
    for result in (
        inpaint(clip, masks, config=FAST),
        propagate(clip, masks, reach=4)[0],
        fill_rest(clip, masks),
    ):
        assert torch.equal(bits(result), bits(clip))
    model = make_model()
    assert torch.equal(
        bits(restore_detail(model, clip, masks, torch.zeros(3, 8, 11, 3))), bits(clip)
    )


def test_inpaint_rejects_full_masks():
    clip = make_clip(3, 16, 20)
    with pytest.raises(ValueError, match="covers every pixel of every frame"):
        inpaint(clip, torch.ones(16, 20), config=FAST)


def test_one_full_frame_is_filled_from_the_others():
    clip = make_clip(5, 40, 52, (1, 0), seed=15)
    masks = torch.zeros(5, 40, 52, dtype=torch.bool)
    masks[2] = True
    given = clip.clone()
    given[2] = 0
    result = inpaint(given, masks, config=FAST)
    assert_known_kept(result, given, masks)
    # No flow can be measured; what neighbours show is carried over as it is, a pixel off.
    assert (result[2] - clip[2]).abs().mean() < (clip[2] - clip.mean((0, 1, 2))).abs().mean()


@pytest.mark.parametrize(
    ("images", "masks", "message"),
    [
        (torch.zeros(4, 8, 8), torch.zeros(8, 8), "give .frames, height, width, 3."),
        (torch.zeros(4, 8, 8, 4), torch.zeros(8, 8), "give .frames, height, width, 3."),
        (torch.zeros(0, 8, 8, 3), torch.zeros(8, 8), "give .frames, height, width, 3."),
        (torch.zeros(4, 8, 8, 3), torch.zeros(3, 8, 8), "mask has 3 frames but images has 4"),
        (torch.zeros(4, 8, 8, 3), torch.zeros(8, 9), "mask is 9x8 pixels but images are 8x8"),
    ],
)
def test_stages_reject_shapes(images, masks, message):
    for stage in (inpaint, propagate, fill_rest):
        with pytest.raises(ValueError, match=message):
            stage(images, masks)


def test_config_rejects_what_cannot_be():
    for field in ({"reach": 0}, {"feather_pixels": -1}, {"segment_frames": 0}):
        with pytest.raises(ValueError, match=next(iter(field))):
            InpaintConfig(**field)
    with pytest.raises(ValueError, match="there is no model"):
        ShotInpainter(InpaintConfig(network=True))


# --- grow, feather, grain --------------------------------------------------------------------


def test_feather_blends_inside_the_mask_only():
    clip, masks = make_clip(3, 40, 48, (0, 0), seed=16), torch.zeros(3, 40, 48, dtype=torch.bool)
    masks[:, 10:30, 12:36] = True
    clip[masks] = 1
    hard = inpaint(clip, masks, config=PLAIN)
    soft = inpaint(clip, masks, config=InpaintConfig(reach=4, match_grain=False, feather_pixels=4))
    assert_known_kept(soft, clip, masks)
    inner = torch.zeros_like(masks)
    inner[:, 14:26, 16:32] = True  # more than four pixels from every known one
    assert torch.equal(soft[inner], hard[inner])
    rim = masks & ~inner
    share = ((soft - hard) / (clip - hard).where(rim[..., None], torch.tensor(1.0)))[:, 20, 12:16]
    # smoothstep of the distance over 4 is the result's share, the rest is the source's.
    rise = torch.tensor([1, 2, 3, 4]) / 4
    expected = 1 - rise * rise * (3 - 2 * rise)
    torch.testing.assert_close(share, expected[:, None].expand(3, 4, 3), rtol=0, atol=1e-4)


def test_grown_masks_equal_masks_grown_by_hand():
    clip, masks = make_clip(3, 30, 38, seed=17), torch.zeros(3, 30, 38, dtype=torch.bool)
    masks[:, 10:18, 12:24] = True
    y, x = torch.meshgrid(torch.arange(30), torch.arange(38), indexing="ij")
    gap_y = (10 - y).clamp(min=0) + (y - 17).clamp(min=0)
    gap_x = (12 - x).clamp(min=0) + (x - 23).clamp(min=0)
    grown = (gap_x**2 + gap_y**2 <= 9).expand(3, 30, 38)
    result = inpaint(clip, masks, config=InpaintConfig(reach=4, grow_pixels=3))
    assert torch.equal(result, inpaint(clip, grown, config=FAST))
    assert_known_kept(result, clip, grown)


@pytest.mark.parametrize("deviation", [0.01, 0.03])
@pytest.mark.parametrize("dtype", [np.float32, np.uint16, np.uint8])
def test_match_grain_is_as_strong_as_around(deviation, dtype):
    random = np.random.default_rng(18)
    y, x = np.mgrid[:90, :100]
    smooth = np.stack([0.3 + 0.004 * x, 0.3 + 0.004 * y, 0.7 - 0.003 * x], -1)
    strengths = deviation * np.array([1.0, 0.5, 1.5])
    frame = smooth + random.standard_normal(smooth.shape) * strengths
    hole = np.zeros((90, 100), bool)
    hole[25:65, 30:75] = True
    frame[hole] = smooth[hole]
    if np.issubdtype(dtype, np.integer):
        frame = np.rint(frame.clip(0, 1) * np.iinfo(dtype).max)
    frame = frame.astype(dtype)

    result = match_grain(frame, hole, hole, seed=4)
    np.testing.assert_array_equal(result[~hole], frame[~hole])
    full = np.iinfo(dtype).max if np.issubdtype(dtype, np.integer) else 1
    added = (result.astype(float) / full - smooth)[hole]
    # 1800 pixels give a deviation to 2%, the median of a few thousand responses some percent more;
    # rounding, before and after, adds to it, and its steps show in a median: half a step.
    np.testing.assert_allclose(
        added.std(0), strengths, rtol=0.1, atol=0.5 / full if full > 1 else 0
    )
    np.testing.assert_allclose(added.mean(0), 0, atol=0.003)
    np.testing.assert_array_equal(result, match_grain(frame, hole, hole, seed=4))
    assert (result != match_grain(frame, hole, hole, seed=5))[hole].any()


def test_match_grain_adds_none_where_there_is_none():
    y, x = np.mgrid[:60, :70]
    frame = np.stack([0.01 * x, 0.01 * y, 0.5 + 0 * x], -1).astype(np.float32)
    hole = np.zeros((60, 70), bool)
    hole[20:40, 20:40] = True
    # The filter is blind to a plane; what is left is rounding of float32.
    np.testing.assert_allclose(match_grain(frame, hole, hole, seed=0), frame, rtol=0, atol=1e-6)


def test_match_grain_adds_what_each_part_lacks():
    random = np.random.default_rng(19)
    frame = (0.5 + 0.02 * random.standard_normal((80, 100, 3))).astype(np.float32)
    hole = np.zeros((80, 100), bool)
    hole[20:60, 20:80] = True
    smooth = hole.copy()
    smooth[:, 50:] = False  # the other half was carried here from elsewhere, with its grain
    frame[smooth] = 0.5
    result = match_grain(frame, smooth, hole, seed=1)
    for part in (smooth, hole & ~smooth):
        # 1200 pixels, as above.
        np.testing.assert_allclose(result[part].std(0), 0.02, rtol=0.15)
    np.testing.assert_array_equal(result[~hole], frame[~hole])


def test_grain_of_a_frame_follows_its_number():
    clip = make_clip(1, 40, 50, seed=20).expand(4, -1, -1, -1).clone()
    clip += 0.02 * torch.randn(40, 50, 3, generator=torch.Generator().manual_seed(0))
    masks = torch.zeros(40, 50)
    masks[10:30, 12:38] = 1
    hole = masks.bool()
    grainy, plain = inpaint(clip, masks, config=FAST), inpaint(clip, masks, config=PLAIN)
    grain = (grainy - plain)[:, hole]
    for t in range(1, 4):  # each frame its own
        correlation = np.corrcoef(grain[0].flatten(), grain[t].flatten())[0, 1]
        assert abs(correlation) < 0.15


# --- the rest --------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", TYPES)
def test_fill_rest_keeps_known_pixels(dtype):
    clip, masks = as_type(make_clip(4, 30, 41, seed=21), dtype), make_masks(4, 30, 41, drift=1)
    assert_known_kept(fill_rest(clip, masks), clip, masks)


def test_fill_rest_is_steady():
    still = make_clip(1, 48, 60, seed=22)
    hole = torch.zeros(48, 60, dtype=torch.bool)
    hole[14:34, 18:42] = True

    def flicker(frames):
        return fill_rest(frames, hole)[:, hole].diff(dim=0).abs().mean((1, 2))

    # Where nothing changes the fills are the same; carrying them costs rounding of float32 and of
    # the sub-pixel table, where flow is not exactly zero.
    assert flicker(still.expand(18, -1, -1, -1)).max() < 0.002
    deviation = 0.02
    noise = deviation * torch.randn(18, 48, 60, 3, generator=torch.Generator().manual_seed(1))
    steps = flicker(still + noise)
    # Two frames of noise differ by 1.13 deviations on average; the fill by much less, and the
    # frames filled anew, every eighth, do not stand out.
    assert steps.mean() < 0.4 * 1.13 * deviation
    assert steps.max() < 2 * steps.mean()


def test_fill_rest_fills_a_frame_that_is_covered_whole_from_its_neighbours():
    # Frames 0, 8 and 16 would be filled anew and carried to the others; 8 shows nothing.
    still = make_clip(1, 40, 52, seed=29).expand(18, -1, -1, -1).contiguous()
    masks = torch.zeros(18, 40, 52, dtype=torch.bool)
    masks[:, 10:24, 12:30] = True
    masks[8] = True
    filled = fill_rest(still, masks)
    # Nothing moves, so it shows what the frames beside it show; colours are read with a cubic
    # kernel at whole positions, and levels are matched over nothing.
    assert (filled[8] - filled[7]).abs().mean() < 0.01
    assert filled[8].min() > 0.5 * still.min()


def test_coarse_size_follows_from_the_frame_alone():
    two, four = make_sizes_model(2), make_sizes_model(4)
    assert coarse_size(two, 47, 61) == (24, 31)
    assert coarse_size(two, 128, 128) == (64, 64)
    assert coarse_size(two, 1080, 1920) == (64, 114)  # 1920 * 64 / 1080 = 113.8
    assert coarse_size(two, 1920, 1080) == (114, 64)
    assert coarse_size(four, 240, 320) == (60, 80)
    assert coarse_size(four, 1, 5) == (1, 2)


def make_sizes_model(ratio):
    with torch.device("meta"):
        return CombCN(NetworkConfig(ratio=ratio))


# --- networks --------------------------------------------------------------------------------


@pytest.mark.parametrize("fill", ["mean", "classical"])
@pytest.mark.parametrize("size", [None, (13, 19)])
def test_infer_temporal_outside_the_hole(fill, size):
    model = make_model(input_fill=fill)
    clip, masks = make_clip(3, 33, 46, seed=23), make_masks(3, 33, 46, drift=2)
    size = size or (17, 23)
    coarse = infer_temporal(model, clip, masks, size=None if size == (17, 23) else size)
    expected, low_masks = downsample_known(clip, masks, size=size)
    assert coarse.shape == (3, *size, 3)
    assert torch.equal(coarse[~low_masks], expected[~low_masks])
    assert (coarse != expected)[low_masks].any(-1).all()


def test_infer_temporal_inside_the_hole_by_hand():
    model = make_model(input_fill="mean", mean_pixel=(0.2, 0.5, 0.8))
    clip, masks = make_clip(3, 24, 32, seed=24), torch.zeros(3, 24, 32, dtype=torch.bool)
    masks[:, 8:17, 10:20] = True
    coarse = infer_temporal(model, clip, masks, precision="fp32")
    low = torch.zeros(3, 12, 16, dtype=torch.bool)
    low[:, 4:9, 5:10] = True
    cells = clip.reshape(3, 12, 2, 16, 2, 3).mean((2, 4))
    cells[low] = torch.tensor((0.2, 0.5, 0.8))
    with torch.no_grad():
        prediction = model.temporal(cells.permute(3, 0, 1, 2)[None], low[None, None].float())
    expected = prediction[0].permute(1, 2, 3, 0)
    # Means of four pixels, rounded in another order.
    torch.testing.assert_close(coarse[low], expected[low], rtol=0, atol=1e-4)


@pytest.mark.parametrize("method", ["nearest", "bilinear", "bicubic", "lanczos"])
def test_upsample_guidance(method):
    coarse = torch.rand(2, 6, 9, 3, generator=torch.Generator().manual_seed(2))
    before = coarse.clone()
    assert upsample_guidance(coarse, (6, 9), method=method) is coarse
    large = upsample_guidance(coarse, (18, 27), method=method)
    assert large.shape == (2, 18, 27, 3)
    # The centre of every third pixel is that of a coarse one: interpolation returns it.
    torch.testing.assert_close(large[:, 1::3, 1::3], coarse, rtol=0, atol=1e-5)
    if method == "nearest":
        repeated = coarse.repeat_interleave(3, 1).repeat_interleave(3, 2)
        assert torch.equal(large, repeated)
    small = upsample_guidance(large, (6, 9), method=method)
    expected = large.reshape(2, 6, 3, 9, 3, 3).mean((2, 4))
    torch.testing.assert_close(small, expected, rtol=0, atol=1e-6)
    flat = torch.full((1, 5, 7, 3), 0.25)
    # Lanczos weights are rounded, and normalised, to float32.
    torch.testing.assert_close(
        upsample_guidance(flat, (8, 20), method=method), torch.full((1, 8, 20, 3), 0.25)
    )
    assert torch.equal(coarse, before)


def test_upsample_guidance_rejects_unknown_methods():
    with pytest.raises(ValueError, match="choose one of nearest, bilinear, bicubic, lanczos"):
        upsample_guidance(torch.zeros(1, 4, 4, 3), (8, 8), method="area")


@pytest.mark.parametrize(
    "fields", [{}, {"ratio": 4, "input_fill": "classical"}, {"guidance": False}]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8])
def test_restore_detail_on_a_crop_equals_the_whole_frame(fields, dtype):
    model = make_model(**fields)
    height, width = 15, 399  # more than the field of view of 304 pixels, and on no multiple
    clip = as_type(make_clip(1, height, width, seed=25), dtype)
    masks = torch.zeros(1, height, width, dtype=torch.bool)
    masks[:, 5:11, 190:206] = True
    ratio = model.config.ratio
    guide = None
    if model.config.guidance:
        guide = make_clip(1, -(-height // ratio), -(-width // ratio), seed=26)
    result = restore_detail(model, clip, masks, guide, precision="fp32")
    assert_known_kept(result, clip, masks)

    frame = clip.float() / (255 if dtype == torch.uint8 else 1)
    if model.config.input_fill == "mean":
        frame[masks] = 0.5
    with torch.no_grad():
        whole = model.detail(
            frame.permute(0, 3, 1, 2),
            masks[:, None].float(),
            None if guide is None else guide.permute(0, 3, 1, 2),
        )
    whole = whole.permute(0, 2, 3, 1)[masks].clamp(0, 1)
    assert whole.std() > 0.02
    if dtype == torch.uint8:
        # Rounding to a level may fall on the other side: one level.
        assert ((whole * 255) - result[masks].float()).abs().max() <= 1
    else:
        # The same products, added in another order in 17 layers of float32.
        torch.testing.assert_close(result[masks], whole, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "how",
    [{"memory_bytes": 2**22}, {"batch_frames": 4}, {"batch_frames": 4, "memory_bytes": 2**24}],
)
def test_tiles_and_batches_change_nothing(how):
    # Far apart, drifting where neither end of the frame is seen, at its corner, large with gaps.
    masks = torch.zeros(5, 40, 480, dtype=torch.bool)
    masks[0, 10:20, 20:36] = masks[0, 25:33, 440:470] = True
    for t in (1, 2):
        masks[t, 17:29, 200 + 16 * t : 215 + 16 * t] = True
    masks[3, :7, 470:] = True
    masks[4, 3:36, 150:400:2] = True
    clip, guide = (torch.rand(5, *size, 3) for size in ((40, 480), (20, 240)))
    network = prepare(make_model(input_fill="mean"), precision="fp32")
    limits = {"memory_bytes": 2**40, "batch_frames": 1}
    plans = [plan_batches(network.detail, masks, **limits | some) for some in ({}, how)]
    assert plans[0] != plans[1]
    expected, result = (
        restore_detail(network, clip, masks, guide, **limits | some) for some in ({}, how)
    )
    # Another order of sums in 17 layers of float32.
    torch.testing.assert_close(result, expected, rtol=0, atol=1e-5)
    assert (expected != clip)[masks].all(-1).float().mean() > 0.99
    assert_known_kept(result, clip, masks)


def test_runs_change_nothing():
    model = make_model(input_fill="classical")
    clip, masks = make_clip(34, 24, 28, seed=34), make_masks(34, 24, 28, drift=1)
    masks[:3] = masks[12:14] = masks[-2:] = False
    network = prepare(model, precision="fp32")
    shares = []

    def on_progress(share, frame):
        shares.append(share)
        assert frame.shape == (12, 14, 3)

    everything = {"frames": (0, 34)}  # not in segments
    expected = infer_temporal(network, clip, masks, memory_bytes=2**40, **everything)
    result = infer_temporal(
        network, clip, masks, memory_bytes=2**20, on_progress=on_progress, **everything
    )
    assert len(shares) > 2
    assert shares[-1] == 1
    # Another order of sums in 12 layers of float32.
    torch.testing.assert_close(result, expected, rtol=0, atol=1e-5)
    part = infer_temporal(network, clip, masks, frames=(15, 21))
    torch.testing.assert_close(part, expected[15:21], rtol=0, atol=1e-5)
    assert (expected - downsample_known(clip, masks, size=(12, 14))[0]).abs().max() > 20 * LEVEL


@pytest.mark.parametrize("fill", ["mean", "classical"])
def test_bf16_is_within_a_level_of_fp32(fill):
    model = make_model(input_fill=fill)
    clip, masks = make_clip(3, 60, 70, seed=35), make_masks(3, 60, 70)
    results = []
    for precision in ("fp32", "bf16"):
        settings = InpaintConfig(
            propagate=False, unseen="smooth", match_grain=False, precision=precision
        )
        results.append(inpaint(clip, masks, model, settings)[masks])
    errors = (results[0] - results[1]).abs() / LEVEL
    assert 0 < errors.mean() < 0.25
    assert errors.quantile(0.99) < 1


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize(("precision", "levels"), [("fp32", 0.5), ("auto", 2)])
def test_gpu_agrees_with_the_cpu(precision, levels):
    model = make_model(input_fill="classical")
    clip, masks = make_clip(5, 60, 200, seed=36), make_masks(5, 60, 200, drift=9)
    results = []
    for device, arithmetic in (("cpu", "fp32"), ("cuda", precision)):
        settings = InpaintConfig(
            device=device, precision=arithmetic, unseen="smooth", match_grain=False
        )
        results.append(inpaint(clip, masks, model, settings))
    assert (results[0] - results[1]).abs().max() < levels * LEVEL


def test_restore_detail_resizes_guidance():
    model = make_model()
    clip, masks = make_clip(2, 17, 22, seed=27), make_masks(2, 17, 22)
    coarse = make_clip(2, 5, 6, seed=28)
    by_hand = restore_detail(model, clip, masks, upsample_guidance(coarse, (9, 11)))
    assert torch.equal(restore_detail(model, clip, masks, coarse), by_hand)
    with pytest.raises(ValueError, match="guidance has 1 frames but images has 2"):
        restore_detail(model, clip, masks, coarse[:1])
    with pytest.raises(ValueError, match="got no guidance, but the model was trained with it"):
        restore_detail(model, clip, masks)
    with pytest.raises(ValueError, match="got guidance, but the model was trained without"):
        restore_detail(make_model(guidance=False), clip, masks, coarse)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize(
    "fields",
    [
        {"input_fill": "mean"},
        {"input_fill": "classical"},
        {"input_fill": "classical", "steady_frames": 8},
    ],
    ids=["mean", "classical", "steady"],
)
def test_stages_one_by_one_equal_inpaint(dtype, fields):
    model = make_model(**fields)
    clip, masks = as_type(make_clip(6, 31, 42, (1, 0.2), seed=29), dtype), make_masks(6, 31, 42)
    _, remaining = propagate(clip, masks, reach=4)
    assert 0 < remaining.sum() < masks.sum()
    filled = inpaint(clip, masks, None, SMOOTH)
    coarse = infer_temporal(model, filled, remaining)
    guidance = upsample_guidance(coarse, (16, 21))
    result = restore_detail(model, filled, remaining, guidance)
    assert torch.equal(result, inpaint(clip, masks, model, SMOOTH))
    assert not torch.equal(result, filled)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_frames_alone_are_those_among_others_bit_for_bit(precision):
    # The same box of each frame, in a batch of one: the same shapes, so the same kernels.
    clip, masks = make_clip(5, 31, 200, (1, 0.2), seed=32), make_masks(5, 31, 200, drift=9)
    for fields in ({"guidance": False}, {"input_fill": "classical"}):
        network = prepare(make_model(**fields), precision=precision)
        guide = make_clip(5, 16, 100, seed=33) if network.config.guidance else None
        together = restore_detail(network, clip, masks, guide, batch_frames=1)
        for t in range(5):
            one = slice(t, t + 1)
            part = None if guide is None else guide[one]
            assert torch.equal(restore_detail(network, clip[one], masks[one], part), together[one])
        assert (together != clip)[masks].all(-1).float().mean() > 0.9


# One frame at a time has the same shapes as the frames alone, so only the float32 average is left,
# of up to five numbers near 1. Batches have wider boxes: another order of sums in 17 layers of
# float32, as above; in bf16 that would be rounded to neighbouring numbers.
@pytest.mark.parametrize(
    ("precision", "together", "tolerance"),
    [("fp32", 1, 1e-6), ("bf16", 1, 1e-6), ("fp32", 3, 1e-5)],
)
def test_steady_frames_average_what_is_added_to_frames_nearby(precision, together, tolerance):
    clip, masks = make_clip(12, 21, 30, (1, 0.2), seed=31), make_masks(12, 21, 30, drift=2)
    clip[7:] = 1 - clip[7:]
    assert is_cut(clip[6].numpy(), clip[7].numpy())
    masks[5] = False
    model, steady = (
        prepare(
            make_model(input_fill="classical", guidance=False, steady_frames=n), precision=precision
        )
        for n in (0, 9)
    )
    own, holes = clip.double().numpy(), masks.numpy()
    added = restore_detail(model, clip, masks, batch_frames=1).double().numpy() - own
    wanted = own.copy()
    for keys, shot in (((0, 2, 4, 6), range(7)), ((7, 9, 11), range(7, 12))):
        for t in shot:
            for y, x in np.argwhere(holes[t]):
                near = [(9 - abs(k - t), k) for k in keys if abs(k - t) < 9 and holes[k, y, x]]
                if near:
                    total = sum(weight * added[k, y, x] for weight, k in near)
                    wanted[t, y, x] += total / sum(weight for weight, _ in near)
    result = restore_detail(steady, clip, masks, batch_frames=together)
    np.testing.assert_allclose(result.double().numpy(), wanted.clip(0, 1), rtol=0, atol=tolerance)
    assert_known_kept(result, clip, masks)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("steady", [0, 8])
def test_untrained_classical_model_changes_nothing(dtype, steady):
    model = CombCN(NetworkConfig(input_fill="classical", steady_frames=steady)).eval()
    clip, masks = as_type(make_clip(3, 27, 35, seed=30), dtype), make_masks(3, 27, 35)
    result = inpaint(clip, masks, model, InpaintConfig(reach=4, precision="fp32"))
    # What the last layers add is exactly zero; to [0, 1] and back is exact for integers.
    assert torch.equal(bits(result), bits(inpaint(clip, masks, None, FAST)))


def test_propagate_stops_at_the_shots_of_a_clip(long_clip):
    clip, masks = long_clip
    apart = [propagate(clip[part], masks[part], reach=4) for part in (np.s_[:27], np.s_[27:])]
    for number, got in enumerate(propagate(clip, masks, reach=4)):
        assert torch.equal(got, torch.cat([shot[number] for shot in apart]))


@pytest.mark.parametrize("stage", ["fill_rest", "inpaint"])
def test_rest_ignores_what_is_hidden(stage):
    clip, masks = make_clip(8, 64, 80), make_masks(8, 64, 80)
    other = clip.clone()
    other[masks] = torch.rand(int(masks.sum()), 3, generator=torch.Generator().manual_seed(0))
    config = InpaintConfig(propagate=False, match_grain=False)

    def run(images):
        if stage == "fill_rest":
            return fill_rest(images, masks)
        return inpaint(images, masks, config=config)

    assert torch.equal(run(clip), run(other))


@pytest.mark.parametrize("fill", ["mean", "classical"])
def test_networks_survive_known_pixels_that_are_not_finite(fill):
    clip, masks = make_clip(2, 25, 31), make_masks(2, 25, 31)
    clip[:, 0, :3] = torch.tensor([float("nan"), float("inf"), float("-inf")])[:, None]
    result = inpaint(clip, masks, make_model(input_fill=fill), InpaintConfig(propagate=False))
    assert result[masks].isfinite().all()


def test_propagated_stages_equal_inpaint():
    # `propagate` brings the classical fill for what remains, from the same flow as `inpaint`.
    model = make_model(input_fill="classical")
    clip, masks = make_clip(6, 31, 42, (1, 0.2), seed=29), make_masks(6, 31, 42)
    filled, remaining = propagate(clip, masks, reach=PLAIN.reach)
    guidance = upsample_guidance(infer_temporal(model, filled, remaining), (16, 21))
    result = restore_detail(model, filled, remaining, guidance)
    assert torch.equal(result, inpaint(clip, masks, model, SMOOTH))


def test_stages_leave_a_model_in_training_as_it_is():
    model = make_model.__wrapped__(input_fill="mean").train()
    clip, masks = make_clip(3, 24, 28), make_masks(3, 24, 28)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    infer_temporal(model, clip, masks)
    inpaint(clip, masks, model, InpaintConfig(precision="bf16", propagate=False))
    assert model.training
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])


def test_shot_inpainter_starts_anew_with_another_clip():
    first, second = make_clip(6, 48, 60, (2, 0), seed=1), make_clip(6, 48, 60, (-2, 1), seed=2)
    masks = list(make_masks(6, 48, 60).numpy())
    used, fresh = ShotInpainter(PLAIN), ShotInpainter(PLAIN)
    (segment,) = plan_shot(0, 6, 32, used.halo)
    used.restore(used.prefill(list(first.numpy()), masks, segment))
    given = list(second.numpy()), masks, segment
    results = [one.restore(one.prefill(*given)).frames for one in (used, fresh)]
    assert np.array_equal(*([frame.whole() for frame in frames] for frames in results))


@pytest.mark.parametrize("dtype", [torch.int32, torch.bool])
def test_inpaint_rejects_other_types(dtype):
    with pytest.raises(ValueError, match="give uint8, uint16 or float"):
        inpaint(torch.zeros(2, 8, 8, 3, dtype=dtype), torch.eye(8))


def test_motions_found_in_parts_equal_those_of_the_whole(monkeypatch):
    def motion(t):
        field = np.zeros((24, 32, 3), np.float32)
        field[..., 0], field[..., 2] = 0.01 * t, 0 if t % 13 == 0 else 5
        box = Box(0, 0, 24, 32)
        still = np.full(4, np.nan)
        return Motion(box, np.zeros((3, 2)), field, np.zeros(3), 0.0, 0.0, still)

    monkeypatch.setattr(Window, "_measure", lambda _, t: (motion(t), motion(t + 1)))

    def settled(step, num_frames=40):
        window, found = Window(4), {}
        frames = [np.zeros((24, 32, 3), np.float32)] * num_frames
        masks = [np.ones((24, 32), bool)] * num_frames
        halo = 8 + window.halo(True)
        for start in range(0, num_frames, step):
            stop = min(num_frames, start + step)
            low, high = max(0, start - halo), min(num_frames, stop + halo)
            window.slide(low, frames[low:high], masks[low:high], start - 8, stop + 8)
            window.find_motions()
            found.update(window.motions)
        return found

    whole, parts = settled(40), settled(1)
    for t, pair in whole.items():
        for one, other in zip(pair, parts[t], strict=True):
            assert (one is None) == (other is None)
            assert one is None or np.array_equal(one.field, other.field), t


@pytest.mark.parametrize("begins_at", [0, 21])
def test_motion_found_while_frames_are_read_equals_that_of_the_window(begins_at, monkeypatch):
    num_frames, step, measured = 150, 60, []

    def motion_of(first, *_):
        t = int(first[0, 0, 0])
        measured.append(t)
        return tuple(
            Motion(
                Box(0, 0, 24, 32),
                np.full((3, 2), 0.1 * (t % 7)),
                np.random.default_rng([t, side]).random((24, 32, 3), np.float32) * 9,
                np.zeros(3),
                0.0,
                0.0,
                np.full(4, np.nan),
            )
            for side in (0, 1)
        )

    monkeypatch.setattr(early, "find_motion", motion_of)
    frames = [np.full((24, 32, 3), t, np.float32) for t in range(num_frames)]
    masks = [np.ones((24, 32), bool)] * num_frames

    def settled(is_early):
        window, found, num_read = Window(4), {}, 0
        halo = 8 + window.halo(True)
        measured.clear()
        for start in range(0, num_frames, step):
            stop = min(num_frames, start + step)
            low, high = max(0, start - halo), min(num_frames, stop + halo)
            for t in range(num_read, high):
                if is_early and t >= begins_at:
                    window.early.add(t, frames[t], PackedMask.of(masks[t]), t == 0)
            num_read = high
            window.slide(low, frames[low:high], masks[low:high], start - 8, stop + 8)
            window.find_motions()
            wanted = range(max(0, start - 8), min(num_frames, stop + 8))
            found.update({t: window.motions[t] for t in wanted})
        return found, sorted(measured)

    whole, pairs = settled(False)
    parts, early_pairs = settled(True)
    assert pairs == list(range(num_frames - 1))  # none twice
    if begins_at == 0:
        assert early_pairs == pairs
    assert whole.keys() == parts.keys() == set(range(num_frames))
    for t, pair in whole.items():
        for one, other in zip(pair, parts[t], strict=True):
            assert (one is None) == (other is None)
            assert one is None or np.array_equal(one.field, other.field), t


@pytest.mark.parametrize(("height", "width"), [(60, 80), (120, 130)])
def test_still_camera_shows_the_mean_of_all_sightings(height, width):
    # A noisy still: a plate of many sightings is far cleaner than any one of them.
    generator = torch.Generator().manual_seed(3)
    truth = make_clip(1, height, width)
    noise = 0.02 * torch.randn(24, height, width, 3, generator=generator)
    clip = (truth + noise).clamp(0, 1)
    masks = torch.zeros(24, height, width, dtype=torch.bool)
    for t in range(24):
        masks[t, 20:40, 2 * t : 2 * t + 12] = True
    filled, remaining = propagate(clip, masks)
    assert not remaining.any()
    assert filled.isfinite().all()
    error = (filled - truth)[masks].std()
    # 18 sightings or more of each pixel leave a quarter of 0.02 and a little for the match of
    # levels, which sees the noise of the ring; one sighting leaves 0.02.
    assert error < 0.01


def test_plate_against_a_plain_mean():
    rng = np.random.default_rng(4)
    frames = {
        t: (rng.integers(100, 110, (5, 7, 3), np.uint8), rng.random((5, 7)) < 0.4) for t in range(9)
    }
    plate = Plate(frames.__getitem__, Box(0, 0, 5, 7))
    plate.hold(range(6))
    plate.hold(range(3, 9))  # frames come and go
    path, colors = plate.sight(np.ones((5, 7), bool))
    for row, column, color in zip(path.rows, path.columns, colors, strict=True):
        seen = [
            frames[t][0][row, column] / 255 for t in range(3, 9) if not frames[t][1][row, column]
        ]
        assert len(seen) >= 3
        assert color == pytest.approx(np.mean(seen, axis=0), abs=1e-6)  # float32
    counts = sum(~frames[t][1] for t in range(3, 9))
    assert len(path.rows) == (counts >= 3).sum()


def test_work_tells_its_share_and_stops_when_told():
    model = make_model(input_fill="mean")
    first, second = make_clip(9, 24, 28, level=(0.7, 0.4, 0.3)), make_clip(7, 24, 28, seed=1)
    clip, masks = torch.cat([first, second]), make_masks(16, 24, 28)
    config = InpaintConfig(reach=4, segment_frames=3, precision="fp32")
    works = [
        functools.partial(inpaint, clip, masks, None, config),
        functools.partial(inpaint, clip, masks, model, config),
        functools.partial(propagate, clip, masks, reach=4),
        functools.partial(fill_rest, clip, masks),
        functools.partial(infer_temporal, model, clip, masks, segment_frames=3, size=(24, 28)),
        functools.partial(restore_detail, model, clip, masks, clip),
    ]
    for work in works:
        shares, seen = [], []

        def on_progress(share, frame, shares=shares, seen=seen):
            shares.append(share)
            seen += [] if frame is None else [frame]

        work(on_progress=on_progress)
        assert shares == sorted(shares)
        assert 0 < shares[0] < 0.2
        assert shares[-1] == pytest.approx(1)  # rounding of a share of shares
        assert {frame.shape for frame in seen} == {(24, 28, 3)}

        def stop(share, frame):
            raise InterruptedError

        with pytest.raises(InterruptedError):
            work(on_progress=stop)


@pytest.mark.parametrize("fill", ["mean", "classical"])
def test_stages_one_by_one_give_what_inpaint_gives(long_clip, fill):
    model = prepare(make_model(input_fill=fill), precision="fp32")
    clip, masks = long_clip
    config = replace(SMOOTH, segment_frames=7)
    images, remaining = propagate(clip, masks, reach=4)
    coarse = infer_temporal(model, images, remaining, segment_frames=7)
    assert coarse.shape == (40, 21, 28, 3)
    result = restore_detail(model, images, remaining, coarse)
    assert torch.equal(result, inpaint(clip, masks, model, config))
    assert not torch.equal(result, images)


def test_infer_temporal_does_not_cross_a_cut(long_clip):
    model = make_model(input_fill="mean")
    clip, masks = long_clip
    apart = [infer_temporal(model, clip[part], masks[part]) for part in (np.s_[:27], np.s_[27:])]
    assert torch.equal(infer_temporal(model, clip, masks), torch.cat(apart))


@pytest.mark.parametrize("time_stride", [False, True])
def test_infer_temporal_in_segments_equals_the_whole(time_stride):
    model = make_model(input_fill="mean", time_stride=time_stride)
    network = prepare(model, precision="fp32")
    clip, masks = make_clip(37, 16, 20, (0.4, 0.2), seed=36), make_masks(37, 16, 20)
    whole = infer_temporal(network, clip, masks, frames=(0, 37))
    parts = infer_temporal(network, clip, masks, segment_frames=5)
    # Other sizes may make the convolutions add in another order: a few roundings of float32.
    torch.testing.assert_close(parts, whole, rtol=0, atol=1e-5)


def test_model_bounds_the_memory_of_its_networks():
    network = prepare(make_model(input_fill="mean"), precision="fp32")
    clip, masks = make_clip(4, 300, 300, seed=37), torch.zeros(300, 300, dtype=torch.bool)
    masks[20:280, 20:280] = True
    counts = []
    for memory_bytes in (None, 2**24):
        network.memory_bytes = memory_bytes
        shares = []
        guidance = infer_temporal(network, clip, masks, on_progress=lambda *call: None)
        restore_at_size(
            network,
            clip,
            masks.expand(4, -1, -1),
            guidance,
            on_progress=lambda share, _, shares=shares: shares.append(share),
        )
        counts.append(len(shares))
    assert counts[0] == 4  # a batch a frame on a CPU
    assert counts[1] > 4  # tiles
