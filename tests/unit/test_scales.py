"""CombCN at the scale of a hole: which one, and what becomes of it."""

import numpy as np
import pytest
import torch

from combcn_core.fill.stages import fill_rest
from combcn_core.networks import scales
from combcn_core.networks.inference import prepare
from combcn_core.networks.restore import infer_temporal, restore_at_size, upsample_guidance
from combcn_core.networks.scales import paint_unseen, restore_detail, scale_shares
from combcn_core.pixels import PackedMask, Patch
from combcn_core.shot import InpaintConfig, inpaint
from combcn_core.training.holes import BOX_SIDE

from ..helpers import shrink_networks, strong_model


@pytest.fixture
def narrow(monkeypatch):
    """Holes in training were 8 pixels wide, so that small frames do."""
    monkeypatch.setattr(scales, "KNOWN_WIDTH_PIXELS", 8)
    shrink_networks(monkeypatch, 4)


def square(side, height=400, width=500):
    mask = np.zeros((height, width), bool)
    mask[20 : 20 + side, 30 : 30 + side] = True
    return mask


def growing_hole():
    """One shot of a camera that stands still; the hole is 5 to 24 wide, so scales 1 to 4."""
    rng = np.random.default_rng(6)
    clip = 0.9 * rng.random((1, 40, 50, 3), np.float32)
    clip = clip + 0.1 * rng.random((20, 40, 50, 3), np.float32)
    masks = torch.zeros(20, 40, 50, dtype=torch.bool)
    for t in range(20):
        masks[t, 4 : 9 + t, 6 : 11 + t] = True
    masks[3:5] = False
    return torch.from_numpy(clip), masks


@pytest.mark.parametrize(
    ("side", "expected"),
    [
        (1, {1: 1}),
        (55, {1: 1}),
        (64, {1: 1}),  # a fifth of an octave above 56
        (79, {1: 0.5, 2: 0.5}),  # 56 times the root of 2
        (111, {2: 1}),
        (158, {2: 0.5, 4: 0.5}),
        (380, {8: 1}),
    ],
)
def test_a_wide_hole_is_shrunk_to_the_width_of_training(side, expected):
    shares = scale_shares(PackedMask.of(square(side)))
    assert shares.keys() == expected.keys()
    assert shares == pytest.approx(expected, abs=0.05)


def test_thin_and_scattered_holes_are_not_shrunk():
    thin = np.zeros((400, 500), bool)
    thin[100:120, 10:490] = True
    scattered = np.zeros((400, 500), bool)
    for top in range(0, 400, 50):
        scattered[top : top + 40] = np.arange(500) % 50 < 40
    assert scale_shares(PackedMask.of(thin)) == {1: 1}
    assert scale_shares(PackedMask.of(scattered)) == {1: 1}
    assert scale_shares(PackedMask.of(np.zeros((4, 4), bool))) == {}


def test_shares_change_little_from_width_to_width():
    before = None
    for side in range(40, 400):
        shares = scale_shares(PackedMask.of(square(side)))
        assert sum(shares.values()) == pytest.approx(1)
        if before is not None:
            steps = [abs(shares.get(s, 0) - before.get(s, 0)) for s in (1, 2, 4, 8)]
            assert max(steps) < 0.1
        before = shares


@pytest.mark.parametrize("fields", [{}, {"guidance": False}], ids=["combcn", "2dcn"])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_paints_shrunk_frames_and_brings_what_was_added_back(narrow, fields, dtype):
    model = prepare(strong_model(input_fill="classical", **fields), precision="fp32")
    rng = np.random.default_rng(5)
    images = 0.9 * rng.random((35, 44, 3), np.float32)  # of one shot
    images = images + 0.1 * rng.random((3, 35, 44, 3), np.float32)
    if dtype == np.uint8:
        images = np.rint(images * 255).astype(np.uint8)
    holes = np.zeros((3, 35, 44), bool)
    holes[:, 19:35, 10:25] = True  # 16 wide: halved
    full = dict(enumerate(images))

    painted = paint_unseen(
        model,
        {t: Patch.of(frame) for t, frame in full.items()},
        dict(enumerate(map(PackedMask.of, holes))),
        range(1, 3),
    )

    unit = images.astype(np.float64) / (255 if dtype == np.uint8 else 1)
    small, small_holes = np.zeros((3, 18, 22, 3), np.float32), np.zeros((3, 18, 22), bool)
    for row in range(18):
        for column in range(22):
            rows = [min(2 * row, 34), min(2 * row + 1, 34)]
            cells = np.ix_(range(3), rows, [2 * column, 2 * column + 1])
            small[:, row, column] = unit[cells].mean((1, 2))
            small_holes[:, row, column] = holes[cells].any((1, 2))
    clip, masks = torch.from_numpy(small), torch.from_numpy(small_holes)
    guidance = None
    if model.config.guidance:
        coarse = infer_temporal(model, torch.from_numpy(images), torch.from_numpy(holes))
        guidance = upsample_guidance(coarse, (9, 11))
    change = (restore_at_size(model, clip, masks, guidance) - clip).permute(0, 3, 1, 2)
    change = torch.nn.functional.interpolate(change, scale_factor=2, mode="bicubic")
    expected = unit + change.permute(0, 2, 3, 1).numpy()[:, :35]
    assert np.abs(expected - unit)[holes].max() > 0.02
    for t in (1, 2):
        whole = painted[t].whole()
        assert np.array_equal(whole[~holes[t]], images[t][~holes[t]])
        result = whole[holes[t]] / (255 if dtype == np.uint8 else 1)
        wanted = expected[t][holes[t]].clip(0, 1 if dtype == np.uint8 else None)
        assert np.abs(result - wanted).max() < (0.6 / 255 if dtype == np.uint8 else 1e-4)


def test_a_mean_fill_is_not_looked_into(narrow):
    model = prepare(strong_model(input_fill="mean"), precision="fp32")
    rng = np.random.default_rng(7)
    clip = torch.from_numpy(rng.random((2, 40, 48, 3), np.float32))
    masks = torch.zeros(2, 40, 48, dtype=torch.bool)
    masks[:, 8:30, 10:32] = True  # scales 2 and 4
    other = clip.clone()
    other[masks] = float("nan")
    guidance = torch.rand(2, 20, 24, 3)
    result = restore_detail(model, clip, masks, guidance)
    assert torch.equal(result, restore_detail(model, other, masks, guidance))
    assert torch.equal(result[~masks], clip[~masks])
    assert (result - clip)[masks].abs().max() > 0.1


@pytest.mark.parametrize(("fill", "steady"), [("mean", 0), ("classical", 0), ("classical", 4)])
def test_stages_give_what_inpaint_gives_where_holes_are_wide(narrow, fill, steady):
    model = prepare(strong_model(input_fill=fill, steady_frames=steady), precision="fp32")
    clip, masks = growing_hole()
    config = InpaintConfig(propagate=False, unseen="smooth", match_grain=False)
    images = fill_rest(clip, masks)
    coarse = infer_temporal(model, images, masks)
    result = restore_detail(model, images, masks, coarse)
    assert (result - inpaint(clip, masks, model, config)).abs().max() <= 1e-5
    parts = [
        restore_detail(model, images[:12], masks[:12], coarse[:12], frames=(0, 6)),
        restore_detail(model, images, masks, coarse, frames=(6, 20)),
    ]
    assert (result - torch.cat(parts)).abs().max() <= 1e-5


@pytest.mark.parametrize("steady", [0, 4])
def test_segments_equal_the_whole_where_holes_grow(narrow, steady):
    fields = {"input_fill": "classical", "channel_divisor": 4, "steady_frames": steady}
    model = strong_model(**fields)
    clip, masks = growing_hole()
    settings = {"propagate": False, "unseen": "smooth", "match_grain": False}
    whole, parts = (
        inpaint(clip, masks, model, InpaintConfig(**settings, precision="fp32", segment_frames=n))
        for n in (100, 7)
    )
    assert (whole - parts).abs().max() <= 1e-5
    plain = inpaint(clip, masks, None, InpaintConfig(**settings))
    assert (whole - plain)[masks].abs().max() > 0.02


def test_widths_of_training_are_those_of_its_boxes():
    assert sum(BOX_SIDE) / 2 * 128 == scales.KNOWN_WIDTH_PIXELS
