import math

import numpy as np
import pytest
import torch

from combcn_core.masks import (
    bounding_box,
    check_clip,
    check_masks,
    composite,
    downsample_known,
    feather_weights,
    grow,
    to_arrays,
    to_float,
    to_tensor,
)
from combcn_core.pixels import Box, crop_box

DTYPES = [torch.uint8, torch.uint16, torch.float16, torch.float32]


def random_masks(*shape, seed=0, share=0.1):
    return torch.from_numpy(np.random.default_rng(seed).random(shape) < share)


def random_images(dtype, num_frames=2, height=9, width=11, seed=0):
    rng = np.random.default_rng(seed)
    shape = (num_frames, height, width, 3)
    if dtype == torch.uint8:
        return torch.from_numpy(rng.integers(0, 256, shape, dtype=np.uint8))
    if dtype == torch.uint16:
        return torch.from_numpy(rng.integers(0, 65536, shape, dtype=np.uint16))
    return torch.from_numpy(rng.random(shape)).to(dtype)


def bits(images):
    """The bytes of each element: equal only if equal bit for bit, NaN included."""
    return images.contiguous().numpy().view(np.uint8).reshape(*images.shape, -1)


# check_masks


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (torch.tensor([[False, True, False, True]]), [0, 1, 0, 1]),
        (torch.tensor([[0, 127, 128, 255]], dtype=torch.uint8), [0, 0, 1, 1]),
        (torch.tensor([[0, 32767, 32768, 65535]], dtype=torch.uint16), [0, 0, 1, 1]),
        (torch.tensor([[0.0, 0.499, 0.5, 1.0]]), [0, 0, 1, 1]),
        (torch.tensor([[-1.0, 0.4995, 0.5, math.inf]], dtype=torch.float16), [0, 0, 1, 1]),
        (torch.tensor([[0.0, 0.25, 0.5, 7.0]], dtype=torch.float64), [0, 0, 1, 1]),
    ],
)
def test_check_masks_takes_half_or_more_as_hole(values, expected):
    hole = check_masks(values, 1, 1, 4)
    assert hole.dtype == torch.bool
    assert hole.int().flatten().tolist() == expected


@pytest.mark.parametrize("shape", [(5, 7), (1, 5, 7)])
def test_check_masks_expands_one_mask_without_a_copy(shape):
    mask = random_masks(*shape)
    hole = check_masks(mask, 1000, 5, 7)
    assert hole.shape == (1000, 5, 7)
    assert hole.untyped_storage().nbytes() == 35
    assert all(torch.equal(hole[t], mask.reshape(5, 7)) for t in (0, 500, 999))


def test_check_masks_keeps_one_mask_per_frame():
    masks = random_masks(4, 5, 7)
    assert torch.equal(check_masks(masks, 4, 5, 7), masks)


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        (torch.zeros(12, 5, 7), "mask has 12 frames but images has 48; pass one mask, or one per"),
        (torch.zeros(1, 7, 5), "mask is 5x7 pixels but images are 7x5"),
        (torch.zeros(48, 1, 5, 7), r"mask has shape \(48, 1, 5, 7\)"),
        (torch.zeros(7), r"mask has shape \(7,\)"),
        (torch.zeros(5, 7, dtype=torch.int64), "mask is torch.int64; give bool, float"),
        (torch.full((5, 7), math.nan), "mask has NaN"),
    ],
)
def test_check_masks_rejects_anything_else(masks, message):
    with pytest.raises(ValueError, match=message):
        check_masks(masks, 48, 5, 7)


# Geometry


@pytest.mark.parametrize("pixels", [0, 1, 1.4, math.sqrt(2) + 1e-9, 2, 3.5, 5, -1, -1.5, -2, -5])
def test_grow_against_brute_force(pixels):
    masks = random_masks(3, 17, 23, share=0.05 if pixels > 0 else 0.97)
    masks[0, 8:14, 5:20] = True
    grown = grow(masks, pixels)
    for before, after in zip(masks, grown, strict=True):
        other = np.argwhere(before.numpy() == (pixels >= 0))  # what spreads: hole or known pixels
        for y in range(17):
            for x in range(23):
                near = any(math.hypot(y - v, x - u) <= abs(pixels) for v, u in other)
                expected = near if pixels >= 0 else not near
                assert after[y, x] == expected


@pytest.mark.parametrize("pixels", [-3, 3])
@pytest.mark.parametrize("value", [False, True])
def test_grow_leaves_empty_and_full_masks(pixels, value):
    masks = torch.full((2, 6, 5), value)
    assert torch.equal(grow(masks, pixels), masks)


def test_grow_computes_one_mask_for_all_frames_once():
    masks = check_masks(random_masks(8, 9), 10_000, 8, 9)
    grown = grow(masks, 2)
    assert grown.shape == (10_000, 8, 9)
    assert grown.untyped_storage().nbytes() == 72
    assert torch.equal(grown[7], grow(masks[:1].clone(), 2)[0])


def test_bounding_box_against_sorted_indices():
    for seed in range(20):
        masks = random_masks(2, 13, 17, seed=seed, share=0.01)
        _, ys, xs = (sorted(axis) for axis in masks.numpy().nonzero())
        expected = Box(ys[0], xs[0], ys[-1] + 1, xs[-1] + 1) if ys else None
        assert bounding_box(masks) == expected
    assert bounding_box(torch.zeros(2, 3, 4, dtype=torch.bool)) is None
    assert bounding_box(torch.ones(3, 4, dtype=torch.bool)) == (0, 0, 3, 4)


def test_crop_of_bounding_box_lies_on_the_grid():
    mask = torch.zeros(100, 90, dtype=torch.bool)
    mask[30:40, 50:70] = True
    box = bounding_box(mask)
    assert crop_box(box, 13, 4, 100, 90) == (16, 36, 56, 84)


# Feather and composite


def test_feather_weights_against_brute_force():
    masks = random_masks(2, 15, 19, share=0.9)
    masks[0, 3:12, 4:16] = True
    weights = feather_weights(masks, 4)
    assert weights.dtype == torch.float32
    for hole, weight in zip(masks, weights, strict=True):
        known = np.argwhere(~hole.numpy())
        for y in range(15):
            for x in range(19):
                d = min(1.0, min(math.hypot(y - v, x - u) for v, u in known) / 4)
                # float32: 6e-8 in the distance, a slope of 1.5 at most, rounding of the result
                assert weight[y, x] == pytest.approx(3 * d**2 - 2 * d**3, abs=1e-6)
                assert (weight[y, x] > 0) == hole[y, x]


@pytest.mark.parametrize("pixels", [0, 0.5, 1])
def test_feather_of_a_pixel_or_less_is_the_mask(pixels):
    masks = random_masks(2, 9, 8, share=0.5)
    assert torch.equal(feather_weights(masks, pixels), masks.float())


def test_feather_weights_of_a_full_mask_are_one():
    assert (feather_weights(torch.ones(2, 5, 6, dtype=torch.bool), 3) == 1).all()


@pytest.mark.parametrize("pixels", [-1, math.nan, math.inf])
def test_feather_weights_rejects_impossible_widths(pixels):
    with pytest.raises(ValueError, match="feather is"):
        feather_weights(torch.ones(1, 5, 6, dtype=torch.bool), pixels)


@pytest.mark.parametrize("feather", [0, 3])
@pytest.mark.parametrize("dtype", DTYPES)
def test_composite_passes_known_pixels_bit_for_bit(dtype, feather):
    images = random_images(dtype)
    if dtype.is_floating_point:
        odd = torch.tensor([math.inf, -math.inf, math.nan, -0.0, 6e-8, 60000.0, -3.0])
        images.view(-1)[::5] = odd.repeat(100)[: len(images.view(-1)[::5])].to(dtype)
    before = bits(images).copy()
    masks = random_masks(2, 9, 11, share=0.4)
    result = composite(torch.rand(images.shape), images, masks, feather_pixels=feather)
    assert result.dtype == dtype
    assert np.array_equal(bits(result)[~masks.numpy()], before[~masks.numpy()])
    assert np.array_equal(bits(images), before)
    assert to_float(result)[masks].isfinite().all()


@pytest.mark.parametrize(("dtype", "steps"), [(torch.uint8, 255), (torch.uint16, 65535)])
def test_composite_rounds_to_the_nearest_step(dtype, steps):
    images = random_images(dtype)
    prediction = torch.rand(images.shape) * 1.4 - 0.2
    masks = random_masks(2, 9, 11, share=0.5)
    inside = composite(prediction, images, masks).numpy()[masks.numpy()].astype(np.float64)
    wanted = np.clip(prediction.numpy().astype(np.float64), 0, 1)[masks.numpy()] * steps
    # Half a step, and float32's rounding of the product (2**-24 of 65535).
    assert abs(inside - wanted).max() <= 0.5 + 0.004
    assert inside.min() == 0
    assert inside.max() == steps


@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16, torch.float32])
def test_composite_of_the_source_itself_changes_nothing(dtype):
    images = random_images(dtype)
    result = composite(to_float(images), images, torch.ones(9, 11))
    assert np.array_equal(bits(result), bits(images))


def test_composite_takes_half_precision_predictions_for_16_bit_images():
    images = torch.zeros(1, 2, 2, 3, dtype=torch.uint16)
    result = composite(torch.ones(1, 2, 2, 3, dtype=torch.float16), images, torch.ones(2, 2))
    assert (result.to(torch.int32) == 65535).all()  # float16 ends at 65504


@pytest.mark.parametrize("clamp", [True, False])
def test_composite_clamps_float_unless_told_otherwise(clamp):
    images = torch.full((1, 1, 3, 3), 9.0)
    prediction = torch.tensor([-0.5, 0.25, 4.0])[None, None, :, None].expand(1, 1, 3, 3)
    result = composite(prediction, images, torch.ones(1, 3), clamp=clamp)
    assert result[0, 0, :, 1].tolist() == ([0.0, 0.25, 1.0] if clamp else [-0.5, 0.25, 4.0])


def test_composite_with_feather_blends_inside_the_hole():
    images = torch.full((1, 9, 9, 3), 0.2)
    masks = torch.zeros(9, 9, dtype=torch.bool)
    masks[2:, 2:] = True
    result = composite(torch.ones(1, 9, 9, 3), images, masks, feather_pixels=4)[0, 6, :, 0]
    ramp = [3 * d**2 - 2 * d**3 for d in (0.25, 0.5, 0.75, 1.0)]
    expected = [0.2, 0.2] + [0.2 + 0.8 * w for w in [*ramp, 1.0, 1.0, 1.0]]
    assert result.tolist() == pytest.approx(expected, abs=1e-6)  # float32


@pytest.mark.parametrize(
    ("prediction", "images", "message"),
    [
        (torch.zeros(2, 4, 5, 3), torch.zeros(2, 4, 6, 3), "prediction is torch.float32 of shape"),
        (torch.zeros(2, 4, 6, 3).byte(), torch.zeros(2, 4, 6, 3), "prediction is torch.uint8"),
        (torch.zeros(2, 4, 6, 4), torch.zeros(2, 4, 6, 4), r"images have shape \(2, 4, 6, 4\)"),
        (torch.zeros(4, 6, 3), torch.zeros(4, 6, 3), r"images have shape \(4, 6, 3\)"),
        (torch.zeros(2, 4, 6, 3), torch.zeros(2, 4, 6, 3).int(), "images are torch.int32"),
        (torch.full((2, 4, 6, 3), math.nan), torch.zeros(2, 4, 6, 3), "prediction has NaN"),
    ],
)
def test_composite_rejects_what_does_not_fit(prediction, images, message):
    with pytest.raises(ValueError, match=message):
        composite(prediction, images, torch.ones(4, 6))


def test_to_float_rejects_other_types():
    with pytest.raises(ValueError, match=r"images are torch\.int64"):
        to_float(torch.zeros(2, dtype=torch.int64))


# Downsampling


def downsample_slowly(images, masks, row_edges, column_edges):
    """Pixel by pixel in float64: areas of overlap, sums, one division per cell."""
    num_frames, height, width, _ = images.shape
    shape = (num_frames, len(row_edges) - 1, len(column_edges) - 1)
    low, hole = np.zeros((*shape, 3)), np.zeros(shape, dtype=bool)
    for t in range(num_frames):
        for i in range(shape[1]):
            for j in range(shape[2]):
                total, area = np.zeros(3), 0.0
                for y in range(height):
                    tall = min(y + 1, row_edges[i + 1]) - max(y, row_edges[i])
                    for x in range(width):
                        wide = min(x + 1, column_edges[j + 1]) - max(x, column_edges[j])
                        if min(tall, wide) <= 1e-9:  # float64 edges; overlaps are 1/17 or more
                            continue
                        if masks[t, y, x]:
                            hole[t, i, j] = True
                        else:
                            total += tall * wide * images[t, y, x]
                            area += tall * wide
                if area:
                    low[t, i, j] = total / area
    return low, hole


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [(13, 17), (5, 8), (1, 1), (12, 3), (7, 17)])
def test_downsample_to_a_size_against_slow_loop(size, dtype):
    images = random_images(dtype, 2, 13, 17)
    masks = random_masks(2, 13, 17, share=0.3)
    masks[0, :7, 3:11] = True
    edges = [[i * n / m for i in range(m + 1)] for n, m in zip((13, 17), size, strict=True)]
    values = images.double().numpy() / {torch.uint8: 255, torch.uint16: 65535}.get(dtype, 1)
    low, hole = downsample_slowly(values, masks.numpy(), *edges)
    images, masks = downsample_known(images, masks, size=size)
    assert images.dtype == torch.float32
    assert np.array_equal(masks.numpy(), hole)
    # float32 sums of at most 221 positive numbers
    assert images.numpy() == pytest.approx(low, abs=5e-6)


@pytest.mark.parametrize("poison", [math.nan, math.inf, 1e30])
def test_downsample_never_sees_the_hole(poison):
    images = torch.full((2, 13, 17, 3), 0.37)
    masks = random_masks(2, 13, 17, share=0.5)
    masks[1, :7, :8] = True
    images[masks] = poison
    low, hole = downsample_known(images, masks, size=(5, 6))
    empty = (low == 0).all(dim=-1)
    assert empty.any()
    assert hole[empty].all()
    # Nothing but 0.37 is known, so every cell is 0.37, whatever little of it is known.
    assert low[~empty].numpy() == pytest.approx(0.37, abs=1e-6)


def test_downsample_leaves_what_it_is_given_alone():
    images, masks = random_images(torch.float32, 2, 13, 17), random_masks(2, 13, 17, share=0.3)
    before = images.clone()
    downsample_known(images, masks, size=(5, 6))
    assert torch.equal(images, before)


def test_check_clip_takes_clips_alone():
    images = random_images(torch.uint8, 3, 5, 7)
    assert check_clip(images, torch.eye(5, 7)).shape == (3, 5, 7)
    for shape in ((0, 5, 7, 3), (3, 0, 7, 3), (3, 5, 7, 4), (5, 7, 3)):
        with pytest.raises(ValueError, match="give \\(frames, height, width, 3\\)"):
            check_clip(torch.zeros(shape), torch.zeros(5, 7))


@pytest.mark.parametrize("odd", [math.nan, math.inf])
def test_downsample_treats_known_pixels_without_a_value_as_hole(odd):
    images = random_images(torch.float32, 1, 8, 8)
    masks = torch.zeros(8, 8)
    clean = downsample_known(images, masks, size=(4, 4))[0]
    images[0, 2, 5, 1] = odd
    low, hole = downsample_known(images, masks, size=(4, 4))
    assert hole.nonzero().tolist() == [[0, 1, 2]]
    assert low.isfinite().all()
    assert torch.equal(low[~hole], clean[~hole])


def test_downsample_counts_what_a_filled_hole_holds():
    images, masks = random_images(torch.float32, 2, 13, 17), random_masks(2, 13, 17, share=0.3)
    nothing = torch.zeros_like(masks)
    low, hole = downsample_known(images, masks, size=(5, 6), is_filled=True)
    assert torch.equal(low, downsample_known(images, nothing, size=(5, 6))[0])
    assert torch.equal(hole, downsample_known(images, masks, size=(5, 6))[1])
    images[0, 4, 5] = torch.tensor([math.nan, math.inf, -math.inf])
    clean = images.clone()
    clean[0, 4, 5] = torch.tensor([0.0, 1.0, 0.0])
    low, hole = downsample_known(images, nothing, size=(5, 6), is_filled=True)
    assert torch.equal(low, downsample_known(clean, nothing, size=(5, 6))[0])
    assert 1 <= hole[0].sum() <= 4
    assert not hole[1].any()


@pytest.mark.parametrize(
    ("size", "message"),
    [((9, 12), "size is 12x9 but images are 11x9"), ((0, 3), "size is 3x0")],
)
def test_downsample_rejects_other_sizes(size, message):
    with pytest.raises(ValueError, match=message):
        downsample_known(random_images(torch.uint8), torch.zeros(9, 11), size=size)


@pytest.mark.parametrize("dtype", DTYPES)
def test_arrays_of_a_clip_and_back(dtype):
    clip = torch.tensor([0.0, 0.25, 1.0]).expand(2, 3, 4, 3)
    clip = clip.to(dtype) if dtype.is_floating_point else (clip * 200).to(dtype)
    frames = to_arrays(clip)
    wanted = "float32" if dtype.is_floating_point else str(dtype).removeprefix("torch.")
    assert [str(frame.dtype) for frame in frames] == [wanted] * 2
    assert torch.equal(to_tensor(frames, clip), clip)


def test_arrays_of_a_tensor_that_needs_its_gradient():
    images = random_images(torch.float32).requires_grad_()
    for frame, image in zip(to_arrays(images), images, strict=True):
        np.testing.assert_array_equal(frame, image.detach().numpy())
        assert frame.flags.c_contiguous
