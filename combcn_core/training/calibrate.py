"""Fit averaged weights to the footage once more: BatchNorm's statistics and the residual's gain."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from itertools import islice
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from combcn_core.networks.layers import CombCN
from combcn_core.progress import OnShare, part_of
from combcn_core.training.batches import Batch, iterate_batches
from combcn_core.training.config import TrainConfig
from combcn_core.training.footage import Footage, Source
from combcn_core.training.precision import autocast
from combcn_core.training.step import choose_frames, compute_losses, to_device, trained_networks

CALIBRATION_SHARE = 0.2  # of `minutes`, at most


class Calibration(NamedTuple):
    """When calibration has to end, by time.monotonic(), and the callback for its progress."""

    end: float
    on_progress: OnShare | None = None

    @classmethod
    def of(cls, config: TrainConfig, began: float, on_progress: OnShare | None) -> Calibration:
        """Calibration in what is left of the minutes; without an end where none are given."""
        return cls(math.inf if config.minutes is None else began + config.minutes * 60, on_progress)

    def halves(self) -> tuple[Calibration, Calibration]:
        """The time and the progress of its two passes."""
        now = time.monotonic()
        return (
            Calibration(now + (self.end - now) / 2, part_of(self.on_progress, 0, 0.5)),
            Calibration(self.end, part_of(self.on_progress, 0.5, 1)),
        )


def calibration_seconds_kept(config: TrainConfig, step_seconds: float) -> float:
    """Seconds of the minutes of a training that are kept for calibration at its end."""
    if not config.calibration_clips or config.minutes is None:
        return 0.0
    batches = 2 * -(-config.calibration_clips // config.batch)
    wanted = batches * step_seconds / config.accumulate
    return min(wanted, CALIBRATION_SHARE * config.minutes * 60)


@torch.no_grad()
def calibrate(
    model: CombCN,
    footage: Footage,
    config: TrainConfig,
    clips: int,
    *,
    phase: str = "joint",
    limit: Calibration | None = None,
) -> None:
    """Take BatchNorm's statistics anew, as plain means over batches of training clips.

    Those met in training are of weights that have changed since.

    Args:
        model: changed in place.
        footage: its training side is used.
        config: of the training.
        clips: how many, at least.
        phase: of the training, the last one; statistics of a network that did not learn in it stay.
        limit: when to end with fewer clips, after one batch at least.
    """
    learned = nn.ModuleList(trained_networks(model, phase))
    norms = [
        module
        for module in learned.modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm)
    ]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the mean of all batches, each the same weight
    fresh = dataclasses.replace(config, seed=config.seed + 2, repeats=1)
    model.eval()
    learned.train()
    for _ in _predictions(model, footage.train, fresh, clips, phase, limit):
        pass
    model.eval()
    for norm in norms:
        norm.momentum = 0.1


@torch.no_grad()
def scale_residual(
    model: CombCN,
    footage: Footage,
    config: TrainConfig,
    clips: int,
    *,
    phase: str = "joint",
    limit: Calibration | None = None,
) -> float:
    """Scale what CombCN adds to its fill by the factor that serves clips held back best.

    What was learnt from little footage is part knowledge, part noise; less of both is closer to the
    truth. The factor is that of least squares over the hole, from 0 to 1.

    Args:
        model: changed in place: the last layer of `detail`.
        footage: its validation side is used.
        config: of the training.
        clips: how many, at least.
        phase: of the training, the last one.
        limit: as in `calibrate`.

    Returns:
        The factor. 1, and nothing is changed, where nothing is held back or there is nothing to
        scale: networks that start from the mean pixel, or whose CombCN has not learnt.
    """
    learnt = any(network is model.detail for network in trained_networks(model, phase))
    if not (footage.validation and learnt and model.config.input_fill == "classical"):
        return 1.0
    held = dataclasses.replace(config, seed=config.seed + 3, repeats=1)
    product = square = 0.0
    model.eval()
    predictions = _predictions(model, footage.validation, held, clips, phase, limit)
    for batch, frames, prediction in predictions:
        assert prediction is not None
        clip, filled, learn = (t[:, :, frames] for t in (batch.clip, batch.filled, batch.learn))
        added = (prediction - filled) * learn
        product += (added * (clip - filled)).sum().item()
        square += (added**2).sum().item()
    gain = min(1.0, max(0.0, product / square)) if square else 1.0
    for parameter in model.detail.layers[str(len(model.detail.table))].parameters():
        parameter.mul_(gain)
    return gain


def _predictions(
    model: CombCN,
    sources: Sequence[Source],
    config: TrainConfig,
    clips: int,
    phase: str,
    limit: Calibration | None,
) -> Iterator[tuple[Batch, Tensor, Tensor | None]]:
    """Batches of this many clips at least, or as many as the limit allows; the frames that CombCN
    saw of them, and its prediction."""
    limit = limit or Calibration(math.inf)
    count = -(-clips // config.batch)
    device = next(model.parameters()).device
    batches = iterate_batches(
        sources, config, config.batch, ratio=model.config.ratio, workers=config.workers
    )
    with closing(batches):
        for number, batch in enumerate(islice(batches, count)):
            batch = to_device(batch, device)
            frames = choose_frames(config, batch.clip.shape[2], np.random.default_rng(number))
            with autocast(config, model.config, device):
                prediction = compute_losses(model, batch, phase, frames)[2]
            yield batch, frames, prediction
            if limit.on_progress is not None:
                limit.on_progress((number + 1) / count, None)
            if time.monotonic() >= limit.end:
                return
