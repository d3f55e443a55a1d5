"""One step: the losses of the networks in a phase, their gradients, the move of the weights."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from combcn_core.networks.layers import CombCN, fill_mean
from combcn_core.training.batches import Batch
from combcn_core.training.config import Phase, TrainConfig
from combcn_core.training.losses import detail_loss, temporal_loss, total_loss
from combcn_core.training.precision import autocast
from combcn_core.training.processes import Processes
from combcn_core.training.state import State


def take_step(
    state: State,
    phase: Phase,
    rate: float,
    batches: Sequence[Batch],
    processes: Processes,
) -> dict[str, float] | None:
    """Move the weights once; where a loss or gradient is NaN, no weight moves.

    Returns:
        The losses by name, on the scale 0..255; None where one is NaN.
    """
    model, config = state.model, state.config
    model.eval().requires_grad_(False)
    trained = nn.ModuleList(trained_networks(model, phase.name)).train().requires_grad_(True)
    state.optimizer.zero_grad()
    sums: dict[str, Tensor] = {}
    first = state.step * config.accumulate * processes.count + processes.rank
    for number, batch in enumerate(batches):
        rng = np.random.default_rng([config.seed, first + number * processes.count, 3])
        batch = to_device(batch, processes.device)
        chosen = choose_frames(config, batch.clip.shape[2], rng)
        with autocast(config, model.config, processes.device):
            losses = compute_losses(model, batch, phase.name, chosen)[0]
        if phase.name == "pretrain":
            loss = losses["3DCN"]
        elif phase.name == "frozen" or not model.config.guidance:
            loss = losses["CombCN"]
        else:
            loss = total_loss(losses["3DCN"], losses["CombCN"], alpha=config.alpha)
        (loss / config.accumulate).backward()
        for name, value in losses.items():
            sums[name] = sums.get(name, 0) + value.detach() / config.accumulate
    # BatchNorm's statistics too, so that the state is the same in all processes.
    statistics = [buffer for buffer in trained.buffers() if buffer.is_floating_point()]
    gradients = [parameter.grad for parameter in trained.parameters()]
    processes.average([*gradients, *statistics, *sums.values()])
    norm = nn.utils.clip_grad_norm_(trained.parameters(), config.clip_gradient)
    if not all(value.isfinite() for value in (norm, *sums.values())):
        return None
    for group in state.optimizer.param_groups:
        group["lr"] = rate
    state.optimizer.step()
    state.step += 1
    state.average()
    return {name: 255 * value.item() for name, value in sums.items()}


def trained_networks(model: CombCN, phase: str) -> list[nn.Module]:
    """The networks that learn in a phase."""
    if phase == "pretrain":
        return [model.temporal]
    if phase == "frozen" or not model.config.guidance:
        return [model.detail]
    return [model.temporal, model.detail]


def compute_losses(
    model: CombCN, batch: Batch, phase: str, frames: Tensor
) -> tuple[dict[str, Tensor], Tensor | None, Tensor | None]:
    """The losses of one batch (Eq. 1 and 2), and what the networks predicted.

    Args:
        model: the networks.
        batch: on the model's device.
        phase: "pretrain" leaves CombCN out, "frozen" does not learn 3DCN.
        frames: those that CombCN works on, indices into the clip.

    Returns:
        "3DCN" and "CombCN", scalars; the coarse clip (B, 3, T, h, w) that guides CombCN, and its
        prediction (B, 3, len(frames), H, W). None for what was left out.
    """
    losses: dict[str, Tensor] = {}
    coarse = prediction = None
    if model.config.guidance:
        filled = _network_input(model, batch.coarse_filled, batch.coarse_mask)
        with torch.no_grad() if phase == "frozen" else nullcontext():
            coarse = model.temporal(filled, batch.coarse_mask).float()
        losses["3DCN"] = temporal_loss(coarse, batch.coarse_clip, batch.coarse_learn)
        # As in `infer_temporal`: outside the hole CombCN is guided by the source itself.
        coarse = torch.where(batch.coarse_mask, coarse, batch.coarse_filled)
    if phase != "pretrain":
        clip, filled, mask, learn = (
            tensor[:, :, frames] for tensor in (batch.clip, batch.filled, batch.mask, batch.learn)
        )
        guidance = None
        if coarse is not None:
            guidance = _upsampled(_to_frames(coarse[:, :, frames]), clip, model.config.ratio)
        filled = _network_input(model, filled, mask)
        flat = model.detail(_to_frames(filled), _to_frames(mask), guidance).float()
        prediction = flat.unflatten(0, (len(clip), -1)).transpose(1, 2)
        losses["CombCN"] = detail_loss(prediction, clip, learn)
    return losses, coarse, prediction


def _network_input(model: CombCN, filled: Tensor, mask: Tensor) -> Tensor:
    if model.config.input_fill == "classical":
        return filled
    return fill_mean(filled, mask, model.config.mean_pixel)


def _to_frames(clip: Tensor) -> Tensor:
    """(B, C, T, H, W) -> (B * T, C, H, W)"""
    frames = clip.transpose(1, 2).flatten(0, 1)
    return frames.contiguous(memory_format=torch.channels_last)


def _upsampled(coarse: Tensor, clip: Tensor, ratio: int) -> Tensor:
    size = [-(-side // ratio) for side in clip.shape[3:]]
    if list(coarse.shape[2:]) == size:
        return coarse
    return F.interpolate(coarse, size=size, mode="bicubic", align_corners=False)


def choose_frames(config: TrainConfig, num_frames: int, rng: np.random.Generator) -> Tensor:
    if not 0 < config.detail_frames < num_frames:
        return torch.arange(num_frames)
    return torch.from_numpy(np.sort(rng.permutation(num_frames)[: config.detail_frames]))


def to_device(batch: Batch, device: torch.device) -> Batch:
    return Batch(*(tensor.to(device, non_blocking=True) for tensor in batch))
