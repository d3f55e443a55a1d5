"""Shadows and reflections found: on rendered frames whose truth is known."""

import cv2
import numpy as np
import pytest
import torch

from combcn_core import cli
from combcn_core.fill.objects import shift_between, track_objects
from combcn_core.fill.shadows import (
    SURE_RATIO,
    ShadowSize,
    _extended_down,
    _log_ratio,
    _parts,
    take_shadows,
)

from ..helpers import write_pngs

HEIGHT, WIDTH, COUNT = 120, 180, 20


def texture(seed, height, width, scale=2.0):
    noise = np.random.default_rng(seed).normal(0, 1, (height, width, 3)).astype(np.float32)
    smooth = cv2.GaussianBlur(noise, (0, 0), scale)
    return smooth / np.abs(smooth).max() * 90 + 140


def scene(kind, pan=0, noise=0.0, light=1.0):
    """A box that drives over a textured ground: frames, its masks, and where else it is seen.

    Args:
        kind: shadow (darker, below it), detached (5 pixels below it), reflection (itself, upside
            down, at 40 %), none.
        pan: pixels that the ground moves, from one frame to the next.
        noise: standard deviation.
        light: of the last frame, relative to the first.
    """
    rng = np.random.default_rng(1)
    ground = texture(0, HEIGHT, WIDTH + pan * COUNT)
    box = texture(2, 24, 34) * np.array([1.2, 0.5, 0.4])
    frames, masks, effects = [], [], []
    for t in range(COUNT):
        frame = ground[:, pan * t : pan * t + WIDTH].copy()
        x, y = 4 + 7 * t, 30
        mask = np.zeros((HEIGHT, WIDTH), bool)
        mask[y : y + 24, x : x + 34] = True
        alpha = np.zeros((HEIGHT, WIDTH), np.float32)
        top = y + 24 + (5 if kind == "detached" else 0)
        if kind in ("shadow", "detached"):
            alpha[top : top + 14, x + 3 : x + 37] = 1
            alpha = cv2.GaussianBlur(alpha, (0, 0), 1.5) * ~mask
            frame *= 1 - 0.5 * alpha[..., None]
        width = min(34, WIDTH - x)
        if kind == "reflection" and width > 0:
            alpha[top : top + 24, x : x + width] = 1
            part = frame[top : top + 24, x : x + width]
            part += 0.4 * (box[::-1, :width] - part)
        if width > 0:
            frame[y : y + 24, x : x + width] = box[:, :width]
        frame = frame * (1 + (light - 1) * t / COUNT) + rng.normal(0, noise, frame.shape)
        frames.append(np.uint8(frame.clip(0, 255).round()))
        masks.append(mask)
        effects.append((alpha > 0.1) & ~mask)
    return torch.from_numpy(np.stack(frames)), *map(np.stack, (masks, effects))


def overlap(found, true):
    return (found & true).sum() / (found | true).sum()


@pytest.mark.parametrize(
    ("kind", "how"),
    [
        ("shadow", {}),
        ("shadow", {"pan": 1}),
        ("shadow", {"noise": 4.0}),
        ("shadow", {"light": 0.7}),
        ("detached", {}),
        ("detached", {"pan": 1}),
        ("reflection", {}),
    ],
)
def test_take_shadows_finds_what_belongs_to_the_object(kind, how):
    frames, masks, effects = scene(kind, **how)
    taken = take_shadows(frames, torch.from_numpy(masks))
    found = taken.masks.numpy()
    assert (found & masks).sum() == masks.sum()  # it only ever adds
    added = found & ~masks
    assert taken.added_pixels == added.sum((1, 2)).tolist()
    assert taken.unseen_frames == []
    assert overlap(added, effects) > 0.7
    assert (added & effects).sum() > 0.8 * effects.sum()


@pytest.mark.parametrize("how", [{}, {"pan": 2}, {"noise": 4.0}, {"light": 0.7}], ids=str)
def test_take_shadows_adds_nothing_where_nothing_is(how):
    frames, masks, _ = scene("none", **how)
    taken = take_shadows(frames, torch.from_numpy(masks))
    assert sum(taken.added_pixels) <= 0.03 * masks.sum()


def test_take_shadows_leaves_holes_over_untouched_frames():
    _, masks, _ = scene("none", pan=2)
    ground = texture(0, HEIGHT, WIDTH + 2 * COUNT)
    clean = [np.uint8(ground[:, 2 * t : 2 * t + WIDTH].round()) for t in range(COUNT)]
    taken = take_shadows(torch.from_numpy(np.stack(clean)), torch.from_numpy(masks))
    assert sum(taken.added_pixels) <= 0.03 * masks.sum()


@pytest.mark.parametrize("speed", [0, -6, 2], ids=str)
def test_take_shadows_leaves_other_shadows_alone(speed):
    # A shadow of something out of sight, that stands, comes towards the box, or is overtaken.
    frames, masks, _ = scene("none")
    shaded = frames.numpy().astype(np.float32)
    for t in range(COUNT):
        shadow = np.zeros((HEIGHT, WIDTH), np.float32)
        place = 20 + speed * t if speed > 0 else 80 + speed * (t - COUNT // 2)
        shadow[58:72, max(place, 0) : max(place + 30, 0)] = 0.5 if speed or t > 8 else 0
        shaded[t] *= 1 - cv2.GaussianBlur(shadow, (0, 0), 1.5)[..., None] * ~masks[t][..., None]
    frames = torch.from_numpy(np.uint8(shaded.clip(0, 255).round()))
    taken = take_shadows(frames, torch.from_numpy(masks))
    assert sum(taken.added_pixels) <= 0.03 * masks.sum()


def test_masks_are_shifted_to_where_they_went_even_if_cut_off():
    mask = np.zeros((60, 90), bool)
    mask[20:40, 10:34] = True
    there = np.zeros_like(mask)
    there[14:34, 72:90] = True  # 62 to the right and 6 up, a quarter beyond the edge
    assert np.allclose(
        shift_between(mask, there), (62, -6), atol=2
    )  # every other pixel is looked at
    assert shift_between(mask, np.zeros_like(mask)) is None


def test_tracks_keep_the_numbers_of_objects_that_pass_each_other():
    masks = np.zeros((8, 50, 80), bool)
    for t in range(8):
        masks[t, 5:15, 8 * t : 8 * t + 12] = True
        masks[t, 30:40, 60 - 8 * t : 72 - 8 * t] = True
    tracks = track_objects(masks, 1.0)
    for t in range(8):
        assert tracks[t][10, 8 * t + 5] == tracks[0][10, 5]
        assert tracks[t][35, 65 - 8 * t] == tracks[0][35, 65]


def test_what_was_found_in_one_frame_is_followed_along_with_its_object():
    objects, weak, strong = np.zeros((3, 9, 40, 60), bool)
    for t in range(9):
        left = 5 + 4 * t
        objects[t, 10:20, left : left + 12] = True
        weak[t, 24:29, left : left + 10] = t != 5  # below it; one frame does not show it
        weak[t, 2:7, 52:58] = t < 6  # stands still
    strong[2, 26, 16] = strong[2, 4, 55] = True
    found = np.stack(_parts(weak, strong, objects, track_objects(objects, 1.0), 1.0))
    expected = np.zeros_like(found)
    for t in range(9):
        expected[t, 24:29, 5 + 4 * t : 15 + 4 * t] = True
    expected[2, 2:7, 52:58] = True  # what stays behind is not followed
    inside = np.stack([cv2.erode(frame.astype(np.uint8), np.ones((3, 3))) for frame in expected])
    outside = np.stack([cv2.dilate(frame.astype(np.uint8), np.ones((5, 5))) for frame in expected])
    assert found[inside > 0].all()
    assert not found[outside == 0].any()


def test_what_is_small_is_followed_but_starts_nothing():
    objects, weak, strong = np.zeros((3, 6, 60, 90), bool)
    for t in range(6):
        left = 5 + 4 * t
        objects[t, 5:35, left : left + 30] = True  # 900 pixels: parts below 24 are small
        weak[t, 40:44, left : left + (10 if t < 3 else 5)] = True
        weak[t, 50:54, left : left + 5] = True  # never large
    strong[1, 42, 12] = strong[1, 52, 12] = True
    found = np.stack(_parts(weak, strong, objects, track_objects(objects, 1.0), 1.0))
    assert found[:, 40:44].any((1, 2)).all()
    assert not found[:, 48:].any()


def test_shadow_that_stays_level_is_followed_while_its_object_rises():
    objects, weak, strong = np.zeros((3, 5, 60, 80), bool)
    for t in range(5):
        left, top = 5 + 4 * t, 30 - 6 * t
        objects[t, top : top + 12, left : left + 12] = True
        weak[t, 50:54, left : left + 10] = True
    strong[0, 52, 9] = True
    found = np.stack(_parts(weak, strong, objects, track_objects(objects, 1.0), 1.0))
    for t in range(5):
        assert found[t, 51:53, 6 + 4 * t : 14 + 4 * t].all()


def test_shadow_far_below_what_jumps_is_found():
    frames, masks, effects = scene("detached")
    high = np.zeros_like(masks)
    high[:, :-22] = masks[:, 22:]  # 27 pixels above its shadow
    pixels = frames.numpy().copy()
    pixels[masks & ~high] = np.median(pixels, axis=0)[np.nonzero(masks & ~high)[1:]]
    taken = take_shadows(torch.from_numpy(pixels), torch.from_numpy(high))
    assert overlap(taken.masks.numpy() & ~high, effects) > 0.7


@pytest.mark.parametrize("pixels", [0, 1, 4])
def test_masks_are_extended_down(pixels):
    masks = np.random.default_rng(3).random((2, 9, 7)) > 0.9
    expected = masks.copy()
    for row in range(9):
        expected[:, row] = masks[:, max(0, row - pixels) : row + 1].any(1)
    assert (_extended_down(masks, pixels) == expected).all()


def test_take_shadows_says_where_the_ground_is_never_seen():
    frames, masks, _ = scene("shadow")
    still = frames[:1].expand(6, -1, -1, -1)
    taken = take_shadows(still, torch.from_numpy(masks[0]))
    assert taken.unseen_frames == list(range(6))
    assert taken.added_pixels == [0] * 6


def test_take_shadows_of_an_empty_mask_and_at_other_sizes():
    frames, masks, effects = scene("shadow")
    assert not take_shadows(frames[:2], torch.zeros(HEIGHT, WIDTH)).masks.any()
    large = np.stack([cv2.resize(frame, None, fx=3, fy=3) for frame in frames.numpy()])
    wide = np.kron(masks, np.ones((1, 3, 3), bool))
    truth = np.kron(effects, np.ones((1, 3, 3), bool))
    taken = take_shadows(torch.from_numpy(large).float() / 255, torch.from_numpy(wide))
    assert overlap(taken.masks.numpy() & ~wide, truth) > 0.6


def test_difference_is_a_smooth_factor_not_an_edge_out_of_place():
    without = np.uint8(texture(0, 60, 80, 1.0))
    where = np.ones((60, 80), bool)
    shaded = without.astype(np.float32)
    shaded[20:40, 20:50] *= np.exp(-1.5 * SURE_RATIO)
    ratio, spread = _log_ratio(np.uint8(shaded), without, where, 1.0)
    assert (spread[24:36, 24:46] < 1).all()
    assert np.allclose(ratio[26:34, 26:44], -1.5 * SURE_RATIO, atol=0.02)  # 8 bits, blurred
    assert np.abs(ratio[:14]).max() < 0.01
    _, spread = _log_ratio(np.roll(without, 1, axis=1), without, where, 1.0)
    assert (spread < 1).mean() < 0.25


def test_small_frames_keep_thin_masks():
    small = ShadowSize.of(1080, 1920)
    mask = np.zeros((1080, 1920), bool)
    mask[500, 700:900] = True
    assert (small.height, small.width) == (160, 284)
    assert small.mask(mask).sum() > 28


# Files


def test_shadows_are_taken_from_the_shell_and_reported(tmp_path, monkeypatch, capsys):
    import json

    monkeypatch.chdir(tmp_path)
    frames, masks, _ = scene("shadow")
    write_pngs(tmp_path / "frames", frames.numpy()[..., ::-1])
    write_pngs(tmp_path / "given", masks.astype(np.uint8) * 255)
    assert (
        cli.main(["masks", "frames", "--mask", "given", "--take-shadows", "--output", "masks"]) == 0
    )
    files = sorted((tmp_path / "masks").iterdir())
    written = np.stack([cv2.imread(str(file), 0) > 0 for file in files])
    taken = take_shadows(frames, torch.from_numpy(masks))
    assert np.array_equal(written, taken.masks.numpy())
    command = "inpaint frames --mask given --take-shadows --output out --report r.json"
    assert cli.main(command.split()) == 0
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["shadow_pixels"] == sum(taken.added_pixels)
    assert report["hole_pixels"] == written.sum()
    assert report["changed_outside_mask"] == 0
    assert "pixels of shadow" in capsys.readouterr().out
    # Any range of frames gives the same masks.
    command = "masks frames --mask given --take-shadows --frames 7-9 --output some"
    assert cli.main(command.split()) == 0
    for name in ("007.png", "008.png", "009.png"):
        assert (tmp_path / "some" / name).read_bytes() == (tmp_path / "masks" / name).read_bytes()
