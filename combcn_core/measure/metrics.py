"""How far a result is from the truth, how steady it is, and how sharp.

Pure functions of (prediction, target, masks) that return one number for a clip. Only the hole of
the prediction counts: outside of it the truth stands in. All take

    prediction: (T, H, W, 3), float in [0, 1], uint8 or uint16; nothing is clamped but where 8 bits
        are said to be compared.
    target: the truth, of the same shape, of any of these types.
    masks: what `masks.check_masks` takes.

and raise ValueError for other shapes or types. Where no pixel is to be measured, as in a clip
without a hole, the result is NaN: there is nothing to be good or bad at.
"""

import math
from collections.abc import Callable, Iterator

import cv2
import numpy as np
import torch
from torch import Tensor

from combcn_core.masks import check_masks, composite, to_float

SSIM_WINDOW = 65


def l1(prediction: Tensor, target: Tensor, masks: Tensor) -> float:
    """Mean absolute error per hole pixel and channel, on the scale 0..255. Lower is better.

    All hole pixels of the clip weigh the same.

    Source: the figure of the tables of Wang et al., AAAI 2019 (arXiv 1806.08482).
    """
    total, count = _sum_over_hole(prediction, target, masks, torch.abs)
    return _ratio(255 * total, count)


def frame_errors(prediction: Tensor, target: Tensor, masks: Tensor) -> list[float]:
    """`l1` of each frame; 0 where it has no hole."""
    frames = zip(prediction[:, None], target[:, None], masks[:, None], strict=True)
    return [l1(*frame) if frame[2].any() else 0.0 for frame in frames]


def hole_psnr(prediction: Tensor, target: Tensor, masks: Tensor) -> float:
    """PSNR over the hole pixels only, in dB. Higher is better; inf where they are identical.

    10 log10(1 / MSE) for values in [0, 1], the mean squared error pooled over all hole pixels of
    the clip. Unlike `psnr` it does not depend on how much of the frame is known.
    """
    return _psnr(_ratio(*_sum_over_hole(prediction, target, masks, torch.square)))


def psnr(prediction: Tensor, target: Tensor, masks: Tensor) -> float:
    """PSNR of whole 8-bit frames, in dB, mean over the frames. Higher is better.

    20 log10(255 / RMSE) over all pixels and channels of a frame, the prediction composited over
    the truth and both rounded to 8 bits. inf as soon as one frame with a hole comes out identical.

    Source: the protocol of E2FGVI and ProPainter (core/metrics.py of both). There every frame has
    a hole; frames without one are left out here, since their PSNR is infinite.
    """
    values = [
        _psnr(float(np.mean((p.astype(np.float64) - t) ** 2)) / 255**2)
        for p, t in composites(prediction, target, masks)
    ]
    return _ratio(sum(values), len(values))


def ssim(prediction: Tensor, target: Tensor, masks: Tensor) -> float:
    """SSIM of whole 8-bit frames, mean over the frames, at most 1. Higher is better.

    Uniform window of 65 x 65 pixels, sample covariance (n - 1), K1 = 0.01, K2 = 0.03, range 255;
    mean over the windows that lie within the frame and over R, G and B. The prediction is
    composited over the truth and both are rounded to 8 bits.

    Raises:
        ValueError: also for frames smaller than 65 x 65.

    Source: Wang, Bovik et al., IEEE TIP 2004, as in the protocol of E2FGVI and ProPainter, which
    is `skimage.metrics.structural_similarity(win_size=65, channel_axis=-1)`. Frames without a hole
    are left out, as in `psnr`.
    """
    height, width = target.shape[1:3]
    if min(height, width) < SSIM_WINDOW:
        raise ValueError(
            f"frames are {width}x{height} pixels but SSIM as the field reports it looks through a "
            f"window of {SSIM_WINDOW}x{SSIM_WINDOW}; use larger frames, or hole_psnr."
        )
    values = [_ssim_frame(p, t) for p, t in composites(prediction, target, masks)]
    return _ratio(sum(values), len(values))


def flicker(prediction: Tensor, target: Tensor, masks: Tensor) -> float:
    """Mean error of the change from frame to frame, on the scale 0..255. Lower is better.

    Mean of |(p[t+1] - p[t]) - (v[t+1] - v[t])| for prediction p and truth v, over channels and
    over pixels that are hole in both frames. An error that stays the same does not count: this
    measures steadiness, not likeness. NaN for a clip of one frame.
    """
    total, count = 0.0, 0
    last_error = last_hole = None
    for p, t, hole in _frames(prediction, target, masks):
        error = p - t
        if last_error is not None and last_hole is not None:
            both = hole & last_hole
            total += (error - last_error)[both].abs().sum().item()
            count += 3 * int(both.sum())
        last_error, last_hole = error, hole
    return _ratio(255 * total, count)


def gradient_energy_ratio(prediction: Tensor, target: Tensor, masks: Tensor) -> float:
    """Sharpness: squared gradients of the prediction in the hole over those of the truth there.

    1 is as sharp as the truth, below 1 is blurred, above 1 is noisier or sharper. The gradient is
    the difference of two pixels next to each other, in a row or in a column, that are both hole,
    so that a seam at the border of the hole does not pass for detail. Sums over the clip and the
    channels; no unit. inf where only the prediction has gradients, NaN where neither has any.
    """
    ours, truth = 0.0, 0.0
    for p, t, hole in _frames(prediction, target, masks):
        down, right = hole[1:] & hole[:-1], hole[:, 1:] & hole[:, :-1]
        ours += p.diff(dim=0)[down].square().sum().item()
        ours += p.diff(dim=1)[right].square().sum().item()
        truth += t.diff(dim=0)[down].square().sum().item()
        truth += t.diff(dim=1)[right].square().sum().item()
    return _ratio(ours, truth)


def _sum_over_hole(
    prediction: Tensor, target: Tensor, masks: Tensor, of: Callable[[Tensor], Tensor]
) -> tuple[float, int]:
    """The sum of something of the errors in the hole, and of how many values it is."""
    total, count = 0.0, 0
    for p, t, hole in _frames(prediction, target, masks):
        total += of((p - t)[hole]).sum().item()
        count += 3 * int(hole.sum())
    return total, count


def _ratio(total: float, count: float) -> float:
    if count == 0:
        return math.inf if total > 0 else math.nan
    return total / count


def _psnr(mean_square: float) -> float:
    if mean_square == 0:
        return math.inf
    return -10 * math.log10(mean_square)


def _check(prediction: Tensor, target: Tensor, masks: Tensor) -> Tensor:
    if prediction.shape != target.shape or target.ndim != 4 or target.shape[-1] != 3:
        raise ValueError(
            f"prediction has shape {tuple(prediction.shape)} and target {tuple(target.shape)}; "
            f"give both as (frames, height, width, 3)."
        )
    return check_masks(masks, *target.shape[:3])


def _frames(
    prediction: Tensor, target: Tensor, masks: Tensor
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """(H, W, 3) of both as float64, so that sums over a clip stay exact, and (H, W) of the hole."""
    masks = _check(prediction, target, masks)
    for p, t, hole in zip(prediction, target, masks, strict=True):
        yield to_float(p).double(), to_float(t).double(), hole


def composites(
    prediction: Tensor, target: Tensor, masks: Tensor
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(H, W, 3) uint8 of the composite and of the truth, for each frame that has a hole."""
    masks = _check(prediction, target, masks)
    for p, t, hole in zip(prediction, target, masks, strict=True):
        if hole.any():
            truth = (to_float(t).clamp(0, 1) * 255).round().to(torch.uint8)
            result = composite(to_float(p)[None], truth[None], hole)[0]
            yield result.cpu().numpy(), truth.cpu().numpy()


def _ssim_frame(first: np.ndarray, second: np.ndarray) -> float:
    x, y = first.astype(np.float64), second.astype(np.float64)
    samples = SSIM_WINDOW**2
    bessel = samples / (samples - 1)
    mean_x, mean_y = _window_mean(x), _window_mean(y)
    variance_x = bessel * (_window_mean(x * x) - mean_x**2)
    variance_y = bessel * (_window_mean(y * y) - mean_y**2)
    covariance = bessel * (_window_mean(x * y) - mean_x * mean_y)
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    likeness = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    return float(
        np.mean(likeness / ((mean_x**2 + mean_y**2 + c1) * (variance_x + variance_y + c2)))
    )


def _window_mean(image: np.ndarray) -> np.ndarray:
    """Mean over each window that lies within the frame, (H - 64, W - 64, 3)."""
    edge = SSIM_WINDOW // 2
    mean = cv2.boxFilter(image, -1, (SSIM_WINDOW, SSIM_WINDOW))
    return mean[edge : image.shape[0] - edge, edge : image.shape[1] - edge]
