import importlib
import math
import sys

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from combcn_core.measure import metrics

ALL = ["l1", "psnr", "ssim", "hole_psnr", "flicker", "gradient_energy_ratio"]


def smooth(rng, num_frames, height, width):
    """Random clips with structure: a coarse pattern and noise, in [0, 1]."""
    coarse = rng.random((num_frames, height // 16 + 1, width // 16 + 1, 3))
    pattern = coarse.repeat(16, axis=1).repeat(16, axis=2)[:, :height, :width]
    return 0.8 * pattern + 0.2 * rng.random((num_frames, height, width, 3))


def clip(num_frames=3, height=71, width=83, seed=0):
    """Float32 prediction and truth, and masks with a hole in every frame, also at the border."""
    rng = np.random.default_rng(seed)
    target = smooth(rng, num_frames, height, width)
    prediction = target + 0.2 * rng.standard_normal(target.shape)
    masks = np.zeros((num_frames, height, width), dtype=bool)
    for t in range(num_frames):
        masks[t, 1 + t : height // 2 + t, width // 3 - t :] = True
    masks &= rng.random(masks.shape) < 0.9
    return (
        torch.from_numpy(prediction).float(),
        torch.from_numpy(target).float(),
        torch.from_numpy(masks),
    )


def eight_bit(prediction, target, masks):
    """Composite and truth in uint8 by NumPy, rounded half to even as there."""
    p, t = (np.rint(np.clip(x.numpy(), 0, 1) * np.float32(255)) for x in (prediction, target))
    return np.where(masks.numpy()[..., None], p, t).astype(np.uint8), t.astype(np.uint8)


def test_l1_against_loop():
    prediction, target, masks = clip(2, 9, 11)
    errors = [
        abs(float(prediction[t, y, x, c]) - float(target[t, y, x, c])) * 255
        for t, y, x in masks.nonzero().tolist()
        for c in range(3)
    ]
    assert metrics.l1(prediction, target, masks) == pytest.approx(sum(errors) / len(errors))


def test_hole_psnr_against_loop():
    prediction, target, masks = clip(2, 9, 11)
    squares = [
        (float(prediction[t, y, x, c]) - float(target[t, y, x, c])) ** 2
        for t, y, x in masks.nonzero().tolist()
        for c in range(3)
    ]
    expected = 10 * math.log10(len(squares) / sum(squares))
    assert metrics.hole_psnr(prediction, target, masks) == pytest.approx(expected)


def test_psnr_against_skimage():
    prediction, target, masks = clip()
    results, truths = eight_bit(prediction, target, masks)
    values = [peak_signal_noise_ratio(t, p) for p, t in zip(results, truths, strict=True)]
    assert metrics.psnr(prediction, target, masks) == pytest.approx(np.mean(values))


@pytest.mark.parametrize(("height", "width"), [(65, 65), (66, 65), (71, 96)])
def test_ssim_against_skimage(height, width):
    prediction, target, masks = clip(2, height, width)
    results, truths = eight_bit(prediction, target, masks)
    values = [
        structural_similarity(p, t, win_size=65, channel_axis=-1)
        for p, t in zip(results, truths, strict=True)
    ]
    assert 0.3 < np.mean(values) < 0.98  # far from the trivial 1
    # skimage averages in float64 too; only the order of the sums differs.
    assert metrics.ssim(prediction, target, masks) == pytest.approx(np.mean(values), abs=1e-9)


def test_ssim_of_flat_frames_against_skimage():
    target = torch.full((1, 70, 70, 3), 0.2)
    result, truth = np.full((70, 70, 3), 204, np.uint8), np.full((70, 70, 3), 51, np.uint8)
    expected = structural_similarity(result, truth, win_size=65, channel_axis=-1)
    ours = metrics.ssim(torch.full_like(target, 0.8), target, torch.ones(70, 70))
    assert ours == pytest.approx(expected, abs=1e-9)


def test_flicker_against_loop():
    prediction, target, masks = clip(4, 9, 11)
    errors = []
    for t in range(3):
        for y in range(9):
            for x in range(11):
                if masks[t, y, x] and masks[t + 1, y, x]:
                    ours = prediction[t + 1, y, x].double() - prediction[t, y, x].double()
                    truth = target[t + 1, y, x].double() - target[t, y, x].double()
                    errors += (255 * (ours - truth).abs()).tolist()
    assert metrics.flicker(prediction, target, masks) == pytest.approx(np.mean(errors))


def test_flicker_ignores_an_error_that_stays():
    _, target, masks = clip()
    assert metrics.flicker(target + 0.3, target, masks) == pytest.approx(0, abs=1e-4)  # float32
    # Every other frame is lighter by 0.1: a change of 25.5 that the truth does not have.
    blinking = target.clone()
    blinking[1::2] += 0.1
    assert metrics.flicker(blinking, target, masks) == pytest.approx(25.5, abs=1e-4)


def test_gradient_energy_ratio_against_loop():
    prediction, target, masks = clip(2, 9, 11)

    def energy(images):
        values = images.double().numpy()
        total = 0.0
        for t, y, x in masks.nonzero().tolist():
            for v, u in [(y - 1, x), (y, x - 1)]:
                if v >= 0 and u >= 0 and masks[t, v, u]:
                    total += sum((values[t, y, x] - values[t, v, u]) ** 2)
        return total

    expected = energy(prediction) / energy(target)
    ours = metrics.gradient_energy_ratio(prediction, target, masks)
    assert ours == pytest.approx(expected)


def test_gradient_energy_ratio_tells_blur_and_seam():
    _, target, masks = clip()
    half = 0.5 + (target - 0.5) / 2
    # Half the contrast is a quarter of the energy; a shift makes a seam, not detail.
    assert metrics.gradient_energy_ratio(half, target, masks) == pytest.approx(0.25, rel=1e-5)
    assert metrics.gradient_energy_ratio(target + 0.4, target, masks) == pytest.approx(1, rel=1e-5)


@pytest.mark.parametrize("name", ALL)
def test_metrics_ignore_the_prediction_outside_the_hole(name):
    prediction, target, masks = clip()
    measure = getattr(metrics, name)
    spoilt = torch.where(masks[..., None], prediction, torch.nan)
    assert measure(spoilt, target, masks) == measure(prediction, target, masks)


@pytest.mark.parametrize("name", ALL)
def test_metrics_take_integers_as_their_floats(name):
    prediction, target, masks = clip()
    measure = getattr(metrics, name)
    p8, t8 = ((x.clamp(0, 1) * 255).round() for x in (prediction, target))
    expected = measure(p8 / 255, t8 / 255, masks)
    assert measure(p8.to(torch.uint8), t8.to(torch.uint8), masks) == pytest.approx(expected)
    p16, t16 = ((257 * x.to(torch.int32)).to(torch.uint16) for x in (p8, t8))
    # float32: k * 257 / 65535 and k / 255 are one number, rounded twice.
    assert measure(p16, t16, masks) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("name", "perfect"),
    [
        ("l1", 0),
        ("psnr", math.inf),
        ("ssim", 1),
        ("hole_psnr", math.inf),
        ("flicker", 0),
        ("gradient_energy_ratio", 1),
    ],
)
def test_metrics_of_the_truth_itself(name, perfect):
    _, target, masks = clip()
    assert getattr(metrics, name)(target, target, masks) == pytest.approx(perfect, abs=1e-12)


@pytest.mark.parametrize("name", ALL)
def test_metrics_are_nan_without_a_hole(name):
    prediction, target, _ = clip()
    assert math.isnan(getattr(metrics, name)(prediction, target, torch.zeros(71, 83)))


@pytest.mark.parametrize("name", ["psnr", "ssim", "l1", "hole_psnr"])
def test_metrics_leave_out_frames_without_a_hole(name):
    prediction, target, masks = clip()
    masks[1] = False
    measure = getattr(metrics, name)
    kept = [0, 2]
    assert measure(prediction, target, masks) == measure(
        prediction[kept], target[kept], masks[kept]
    )


def test_flicker_is_nan_where_no_two_holes_meet():
    prediction, target, masks = clip()
    assert math.isnan(metrics.flicker(prediction[:1], target[:1], masks[:1]))
    masks[:, ::2] = False
    masks[1] = ~masks[1]
    assert math.isnan(metrics.flicker(prediction[:2], target[:2], masks[:2] & ~masks[[1, 0]]))


def test_gradient_energy_ratio_of_flat_truth():
    flat, masks = torch.full((1, 8, 9, 3), 0.5), torch.ones(8, 9)
    assert math.isnan(metrics.gradient_energy_ratio(flat, flat, masks))
    noisy = torch.rand(1, 8, 9, 3)
    assert metrics.gradient_energy_ratio(noisy, flat, masks) == math.inf


@pytest.mark.parametrize(("height", "width"), [(64, 80), (80, 64)])
def test_ssim_rejects_frames_smaller_than_its_window(height, width):
    images = torch.zeros(1, height, width, 3)
    with pytest.raises(ValueError, match=f"frames are {width}x{height} pixels .* window of 65x65"):
        metrics.ssim(images, images, torch.ones(height, width))


@pytest.mark.parametrize("name", ALL)
def test_metrics_reject_shapes_that_differ(name):
    with pytest.raises(ValueError, match=r"prediction has shape \(2, 70, 70, 3\) and target"):
        getattr(metrics, name)(
            torch.zeros(2, 70, 70, 3), torch.zeros(3, 70, 70, 3), torch.ones(70, 70)
        )


def test_metrics_need_no_skimage(monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "skimage"]:
        monkeypatch.setitem(sys.modules, name, None)
    importlib.reload(metrics)
    assert metrics.ssim(*clip()) < 1
