"""Losses and a picture of clips held back."""

from __future__ import annotations

import dataclasses
from contextlib import closing
from itertools import islice

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from combcn_core.clips.pictures import side_by_side
from combcn_core.networks.config import NetworkConfig
from combcn_core.pixels import Pixels
from combcn_core.training.batches import Batch, iterate_batches
from combcn_core.training.config import Phase, TrainConfig
from combcn_core.training.footage import Footage
from combcn_core.training.precision import autocast
from combcn_core.training.state import State
from combcn_core.training.step import choose_frames, compute_losses, to_device

VALIDATION_BATCHES, VALIDATION_BATCH, SAMPLE_CLIPS = 4, 8, 4


def validation_batches(
    footage: Footage, config: TrainConfig, network: NetworkConfig
) -> list[Batch]:
    """Draw the clips to validate on, always the same; training clips where none are held back."""
    sources = footage.validation or footage.train
    held = dataclasses.replace(config, seed=config.seed + 1, repeats=1)
    size = min(config.batch, VALIDATION_BATCH)
    workers = config.workers if size > 1 else 0  # as long as some clips take to draw, one starts
    batches = iterate_batches(sources, held, size, ratio=network.ratio, workers=workers)
    with closing(batches):
        return list(islice(batches, VALIDATION_BATCHES))


@torch.no_grad()
def validate(
    state: State, batches: list[Batch], phase: Phase, device: torch.device
) -> tuple[dict[str, float], Pixels]:
    model = state.averaged.eval()
    sums: dict[str, float] = {}
    picture = None
    for number, batch in enumerate(batches):
        batch = to_device(batch, device)
        frames = choose_frames(state.config, batch.clip.shape[2], np.random.default_rng(number))
        with autocast(state.config, model.config, device):
            losses, coarse, prediction = compute_losses(model, batch, phase.name, frames)
        for name, value in losses.items():
            sums[name] = sums.get(name, 0.0) + 255 * value.item() / len(batches)
        if picture is None:
            picture = draw_sample(batch, int(frames[0]), coarse, prediction)
    assert picture is not None
    return sums, picture


def draw_sample(
    batch: Batch, frame: int, coarse: Tensor | None, prediction: Tensor | None
) -> Pixels:
    """One frame of some clips: with its hole, 3DCN, CombCN where they ran, and the truth.

    Args:
        batch: the clips.
        frame: index of the first frame of `prediction`.
        coarse, prediction: of `compute_losses`.

    Returns:
        (H, W, 3) uint8.
    """
    clip, mask = batch.clip[:SAMPLE_CLIPS, :, frame], batch.mask[:SAMPLE_CLIPS, :, frame]
    panels = {"hole": torch.where(mask, 1.0, clip)}
    if coarse is not None:
        panels["3DCN"] = F.interpolate(coarse[:SAMPLE_CLIPS, :, frame], size=clip.shape[2:])
    if prediction is not None:
        panels["CombCN"] = torch.where(mask, prediction[:SAMPLE_CLIPS, :, 0], clip)
    panels["truth"] = clip
    scale = -(-128 // clip.shape[3])  # tiny clips are hard to judge
    rows = torch.stack(list(panels.values()), dim=1).flatten(0, 1).clamp(0, 1)
    pixels = (F.interpolate(rows, scale_factor=scale) * 255).round().byte()
    pictures = list(pixels.permute(0, 2, 3, 1).cpu().numpy())
    return side_by_side(pictures, list(panels) * len(clip), columns=len(panels))
