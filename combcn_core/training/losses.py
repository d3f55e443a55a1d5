"""The paper's losses: mean absolute error over the pixels of the hole, and nothing else.

All take and return values in [0, 1] units; times 255 they are on the scale of the paper's tables.
A clip or frame without a hole has loss 0: there is nothing to get wrong.

Source: Wang et al., AAAI 2019 (arXiv 1806.08482), Eq. 1 to 3.
"""

from __future__ import annotations

from torch import Tensor


def temporal_loss(prediction: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """L_3DCN (Eq. 1): || M * (prediction - target) ||_1 / || M ||_1 over a whole clip.

    Args:
        prediction: (B, 3, T, h, w), 3DCN's low-resolution clip.
        target: as prediction, the truth.
        mask: (B, 1, T, h, w), 1 inside the hole.

    Returns:
        Scalar, the mean over the clips of the batch. Both norms count three colour channels, so
        this is the error per hole pixel and channel.

    Raises:
        ValueError: shapes that do not fit.
    """
    _check(prediction, target, mask)
    return _hole_error(prediction, target, mask, dims=(1, 2, 3, 4)).mean()


def detail_loss(prediction: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """L_CombCN (Eq. 2): as Eq. 1, but every frame by the area of its own hole, then their mean.

    Args:
        prediction: (B, 3, T, H, W), CombCN's frames.
        target: as prediction, the truth.
        mask: (B, 1, T, H, W), 1 inside the hole.

    Returns:
        Scalar, the mean over frames and clips; a frame without a hole counts as 0.

    Raises:
        ValueError: shapes that do not fit.
    """
    _check(prediction, target, mask)
    return _hole_error(prediction, target, mask, dims=(1, 3, 4)).mean()


def total_loss(temporal: Tensor, detail: Tensor, *, alpha: float = 1.0) -> Tensor:
    """L_total (Eq. 3): L_3DCN + alpha * L_CombCN; the paper's alpha is 1."""
    return temporal + alpha * detail


def _hole_error(prediction: Tensor, target: Tensor, mask: Tensor, dims: tuple[int, ...]) -> Tensor:
    mask = mask.to(prediction.dtype)
    error = ((prediction - target).abs() * mask).sum(dims)
    area = prediction.shape[1] * mask.sum(dims)
    return error / area.clamp(min=1)  # a mask of whole pixels has area 0 or at least 3


def _check(prediction: Tensor, target: Tensor, mask: Tensor) -> None:
    wanted = (prediction.shape[0], 1, *prediction.shape[2:])
    if prediction.ndim != 5 or target.shape != prediction.shape or mask.shape != wanted:
        raise ValueError(
            f"prediction has shape {tuple(prediction.shape)}, target {tuple(target.shape)}, mask "
            f"{tuple(mask.shape)}; pass (B, 3, T, H, W) twice, and (B, 1, T, H, W)."
        )
