"""Smear, rubble, boil and texture error: against loops, and where the answer is plain."""

import math

import cv2
import numpy as np
import pytest
import torch

from benchmarks.appearance import boil, local_contrast, smear_and_rubble, texture_error
from combcn_core.masks import grow

HEIGHT, WIDTH = 91, 113


def texture(seed, num_frames=2):
    """Random grain, two pixels large, around the middle grey; the same in all frames."""
    rng = np.random.default_rng(seed)
    grain = rng.normal(128, 20, (HEIGHT // 2 + 1, WIDTH // 2 + 1, 1))
    frame = grain.repeat(2, axis=0).repeat(2, axis=1).repeat(3, axis=2)[:HEIGHT, :WIDTH]
    frames = np.rint(frame.clip(0, 255)).astype(np.uint8)
    return torch.from_numpy(frames).repeat(num_frames, 1, 1, 1)


def middle(num_frames=2):
    """A hole that no window from its inside can look out of on all sides."""
    masks = torch.zeros(num_frames, HEIGHT, WIDTH, dtype=torch.bool)
    masks[:, 28:64, 35:80] = True
    return masks


def changed(images, masks, times):
    """The contrast of the hole changed: (value - 128) * times + 128."""
    other = ((images.float() - 128) * times + 128).round().clamp(0, 255).to(torch.uint8)
    return torch.where(masks[..., None], other, images)


def contrast_by_loop(luma):
    height, width = luma.shape[0] // 2, luma.shape[1] // 2
    half = np.zeros((height, width))
    for y in range(height):
        for x in range(width):
            half[y, x] = luma[2 * y : 2 * y + 2, 2 * x : 2 * x + 2].astype(float).mean()
    padded = np.pad(half, 3, mode="reflect")
    return np.array(
        [[padded[y : y + 7, x : x + 7].std() for x in range(width)] for y in range(height)]
    )


def within_by_loop(mask, radius):
    """Pixels whose centre is at most so far from that of a pixel of the mask."""
    padded = np.pad(mask, radius)
    near = np.zeros_like(mask)
    for dy in range(-radius, radius + 1):
        for dx in range(-radius, radius + 1):
            if dy * dy + dx * dx <= radius * radius:
                top, left = radius + dy, radius + dx
                near |= padded[top : top + mask.shape[0], left : left + mask.shape[1]]
    return near


@pytest.mark.parametrize("size", [(16, 17), (23, 18)])
def test_local_contrast_against_loop(size):
    luma = np.random.default_rng(0).integers(0, 256, size).astype(np.uint8)
    # Both in float64: a standard deviation of up to 128, of squares of up to 255 ** 2.
    np.testing.assert_allclose(local_contrast(luma), contrast_by_loop(luma), atol=1e-6)


def test_smear_and_rubble_against_loop():
    masks = middle()
    masks[1, :50] = False  # frames are averaged, whatever the size of their holes
    images = changed(texture(0), masks, 0.1)
    images[:, :, 58:] = changed(texture(1), masks, 5)[:, :, 58:]
    shares = []
    for image, hole in zip(images.numpy(), masks.numpy(), strict=True):
        contrast = contrast_by_loop(image[..., 0])  # grey: luma is each of its channels
        inner = ~within_by_loop(~hole, 3)[: HEIGHT - 1 : 2, : WIDTH - 1 : 2]
        ring = (within_by_loop(hole, 24) & ~within_by_loop(hole, 6))[
            : HEIGHT - 1 : 2, : WIDTH - 1 : 2
        ]
        usual = np.median(contrast[ring])
        values = contrast[inner]
        shares.append([np.mean(values < usual / 3), np.mean(values > 3 * usual)])
    smear, rubble = smear_and_rubble(images, masks)
    assert 0.1 < smear < 0.6  # far from the trivial
    assert 0.1 < rubble < 0.6
    # Counts of the same pixels, divided.
    assert (smear, rubble) == pytest.approx(tuple(np.mean(shares, axis=0)), abs=1e-12)


@pytest.mark.parametrize(("times", "smear", "rubble"), [(1, 0, 0), (0.4, 0, 0), (2, 0, 0)])
def test_contrast_like_that_around_is_neither(times, smear, rubble):
    masks = middle()
    assert smear_and_rubble(changed(texture(2), masks, times), masks) == (smear, rubble)


def test_flat_and_busy_fills_are_told():
    masks = middle()
    smear, rubble = smear_and_rubble(changed(texture(3), masks, 0), masks)
    assert smear > 0.7  # all but where windows see the texture outside
    assert rubble == 0
    faint = ((texture(3).float() - 128) / 8 + 128).round().to(torch.uint8)
    smear, rubble = smear_and_rubble(torch.where(masks[..., None], texture(4), faint), masks)
    assert smear == 0
    assert rubble > 0.9


def test_boil_of_a_hole_that_blinks():
    """Nothing moves and a flat hole is lighter by 6 in every other frame: its change is 6, that of
    the ring 0, which counts as half a grey level."""
    masks = middle(5)
    images = changed(texture(5, 5), masks, 0)
    images[1::2] += 6 * masks[1::2, ..., None].to(torch.uint8)
    # Optical flow may bend at the edge of the hole, but not reach its inside.
    assert boil(images, masks) == pytest.approx(6 / 0.5, rel=0.02)


def pan(num_frames, noise=0):
    """A camera that moves by 3 columns and 2 rows a frame, with new noise in each."""
    rng = np.random.default_rng(6)
    size = HEIGHT + 2 * num_frames, WIDTH + 3 * num_frames, 3
    wide = cv2.GaussianBlur(rng.normal(128, 160, size), (0, 0), 2)
    frames = [wide[2 * t : 2 * t + HEIGHT, 3 * t : 3 * t + WIDTH] for t in range(num_frames)]
    noisy = np.stack(frames) + rng.normal(0, noise, (num_frames, HEIGHT, WIDTH, 3))
    return torch.from_numpy(np.rint(noisy.clip(0, 255)).astype(np.uint8))


def test_boil_of_real_background_is_one():
    masks = middle(6)
    # Means over some 5,000 pixels of noise a frame, and flow that fits a little of it away.
    assert boil(pan(6, noise=6), masks) == pytest.approx(1, abs=0.1)
    filled = torch.where(masks[..., None], pan(6), pan(6, noise=6))
    assert boil(filled, masks) < 0.5  # less noise than around


def test_boil_follows_the_motion():
    """The ring's change is that of rounding once it is followed, less than the half level that
    counts; against that the hole's blinking stands out as if nothing moved."""
    masks = middle(6)
    images = pan(6)
    images[1::2] += 6 * masks[1::2, ..., None].to(torch.uint8)
    assert boil(images, masks) == pytest.approx(6 / 0.5, rel=0.2)  # flow bends at the hole's edge


def test_small_and_missing_holes_say_nothing():
    images, masks = texture(7), middle()
    masks[1] = False
    kept = smear_and_rubble(images[:1], masks[:1])
    assert smear_and_rubble(images, masks) == kept
    assert math.isnan(boil(images, masks))  # no pixel is hole in both frames
    assert math.isnan(boil(images[:1], masks[:1]))
    masks[0] = False
    masks[0, 40:48, 40:48] = True  # 2 x 2 pixels inside
    assert all(map(math.isnan, smear_and_rubble(images, masks)))
    assert all(map(math.isnan, smear_and_rubble(images, torch.ones(HEIGHT, WIDTH))))  # no ring


def test_all_types_are_looked_at_in_8_bits():
    masks = middle()
    images = changed(texture(8), masks, 0.2)
    noisy = (images.float() / 255).double() + 0.001
    for other in (noisy, noisy.float(), images.to(torch.int32).mul(257).to(torch.uint16)):
        assert smear_and_rubble(other, masks.float()) == smear_and_rubble(images, masks)
        assert boil(other, masks) == boil(images, masks)


@pytest.mark.parametrize("measure", [smear_and_rubble, boil])
def test_shapes_that_do_not_fit_are_rejected(measure):
    with pytest.raises(ValueError, match=r"images have shape \(5, 70, 3\); give \(frames, "):
        measure(torch.zeros(5, 70, 3), torch.ones(70, 3))
    with pytest.raises(ValueError, match="mask is 3x70 pixels but images are 80x70"):
        measure(torch.zeros(5, 70, 80, 3), torch.ones(70, 3))


def test_ring_of_boil_is_known_in_both_frames():
    """What changes only under the hole of either frame does not count as the ring's change."""
    masks = middle(2)
    masks[1] = masks[1].roll(12, dims=1)
    images = changed(texture(9), masks[0] | masks[1], 0)
    images[1] += 6 * (masks[0] | masks[1])[..., None].to(torch.uint8)
    assert grow(masks[:1], 6).sum() > 0
    assert boil(images, masks) == pytest.approx(6 / 0.5, rel=0.02)


def coarse_clip(seed=0):
    """uint8 with structure larger than a pixel, and a hole with room inside, at the border too."""
    rng = np.random.default_rng(seed)
    cells = rng.integers(0, 256, (3, 24, 28, 3)).repeat(3, axis=1).repeat(3, axis=2)
    target = torch.from_numpy(cells[:, :71, :83].astype(np.uint8))
    masks = torch.zeros(3, 71, 83, dtype=torch.bool)
    masks[0, 20:61, 15:50] = masks[2, 40:, 50:] = True
    return target, masks


def test_texture_error_against_loop():
    target, masks = coarse_clip()
    mixed = torch.from_numpy(coarse_clip(1)[0].numpy() // 4 + target.numpy() // 8)
    prediction = torch.where(masks[..., None], mixed, target)
    errors = []
    for p, t, hole in zip(prediction.numpy(), target.numpy(), masks.numpy(), strict=True):
        contrasts = []
        for image in (p, t):
            luma = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(float)
            half = (luma[:70:2, :82:2] + luma[1:70:2, :82:2] + luma[:70:2, 1:82:2]
                    + luma[1:70:2, 1:82:2]) / 4  # fmt: skip
            contrasts.append(np.pad(half, 3, mode="reflect"))
        known = np.argwhere(~hole)
        for y in range(35):
            for x in range(41):
                if ((known - (2 * y, 2 * x)) ** 2).sum(axis=1).min() <= 9:
                    continue
                ours, truth = (max(c[y : y + 7, x : x + 7].std(), 1) for c in contrasts)
                errors.append(abs(math.log2(ours / truth)))
    assert 1 < np.mean(errors) < 3  # far from the trivial 0
    ours = texture_error(prediction, target, masks)
    assert ours == pytest.approx(np.mean(errors), abs=1e-9)  # float64 both


def test_texture_error_counts_powers_of_two():
    target, _ = coarse_clip()
    target = target // 4 + 96  # grey values that can be halved and doubled
    whole = torch.ones(71, 83)
    assert texture_error(target, target, whole) == 0
    doubled = (2 * (target.int() - 128) + 128).to(torch.uint8)
    # Luma is rounded to 8 bits, contrast is some 10 of them.
    assert texture_error(doubled, target, whole) == pytest.approx(1, abs=0.02)
    assert texture_error(target, doubled, whole) == pytest.approx(1, abs=0.02)
    flat = torch.full_like(target, 128)
    # A chequered pattern, each field 2 x 2 pixels, of deviation 4 and of half a level: flat counts
    # as one level, so two powers of two and none are missing. A window has 25 fields of one kind
    # and 24 of the other: 0.0003 less.
    chequered = (torch.arange(71)[:, None] // 2 + torch.arange(83) // 2).remainder(2)
    chequered = chequered[..., None].to(torch.uint8).expand_as(target)
    deep, faint = (124 + 8 * chequered, 128 + chequered)
    assert texture_error(flat, deep, whole) == pytest.approx(2, abs=0.01)
    assert texture_error(flat, faint, whole) == 0
    assert texture_error(flat, flat + 1, whole) == 0  # a level is no texture
    other = coarse_clip(2)[0] // 4 + 96  # texture of the same kind, elsewhere
    wrong, blurred = (texture_error(fill, target, whole) for fill in (other, flat))
    assert wrong < 0.3 < 2 < blurred


def test_texture_error_looks_at_the_hole_only():
    target, masks = coarse_clip()
    prediction = coarse_clip(1)[0].float() / 255
    spoilt = torch.where(masks[..., None], prediction, torch.nan)
    expected = texture_error(prediction, target, masks)
    assert texture_error(spoilt, target, masks) == expected
    kept = [0, 2]  # frames with a hole
    assert texture_error(prediction[kept], target[kept], masks[kept]) == expected
    assert math.isnan(texture_error(prediction, target, torch.zeros(71, 83)))


def test_texture_error_rejects_shapes_that_differ():
    with pytest.raises(ValueError, match=r"prediction has shape \(2, 70, 70, 3\) and target"):
        texture_error(torch.zeros(2, 70, 70, 3), torch.zeros(3, 70, 70, 3), torch.ones(70, 70))
