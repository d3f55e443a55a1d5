"""Batches of training clips, numbered, so that the same seed gives the same ones.

A batch depends on (seed, number) alone, whatever the number of worker processes and wherever a
training starts. Clips are decoded when they are needed: memory holds a few of them, never the set.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from functools import partial
from itertools import chain, count, groupby
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from combcn_core.training.config import DataConfig
from combcn_core.training.draw import TrainingClip, draw_clip
from combcn_core.training.footage import Source
from combcn_core.training.workers import map_in_processes

_log = logging.getLogger("combcn")


class Batch(NamedTuple):
    """Clips of equal size with their holes, to learn from.

    The coarse ones are what 3DCN works on, as in `infer_temporal`.

    `mask` is what the networks take for the hole, `learn` where the truth is known of it: the two
    differ in clips that have unknown pixels.
    """

    clip: Tensor  # (B, 3, T, H, W) float32, the truth
    filled: Tensor  # as clip, the hole filled classically, or with what propagation knows
    mask: Tensor  # (B, 1, T, H, W) bool
    learn: Tensor  # as mask
    coarse_clip: Tensor  # (B, 3, T, h, w) float32
    coarse_filled: Tensor
    coarse_mask: Tensor
    coarse_learn: Tensor


def iterate_batches(
    sources: Sequence[Source],
    config: DataConfig,
    batch: int,
    *,
    ratio: int = 2,
    start: int = 0,
    step: int = 1,
    workers: int = 0,
) -> Generator[Batch, None, None]:
    """Draw batches without end: those with the numbers start, start + step, start + 2 step ...

    Args:
        sources: one side of the split.
        config: how clips are drawn.
        batch: clips in a batch.
        ratio: of the networks, see `NetworkConfig`.
        start: number of the first batch; a batch depends on its number and on nothing before it.
        step: with several training processes, each takes every `step`-th batch.
        workers: processes that draw clips ahead of their use; 0 draws them here, when needed.
    """

    def rounds() -> Iterator[tuple[int, Iterator[int]]]:
        """The batches that are made of the same clips: number of the round, and theirs."""
        return groupby(count(start, step), lambda number: number // config.repeats)

    wanted = (
        (clip, _coarse_side(config, ratio, round_number))
        for round_number, _ in rounds()
        for clip in range(round_number * batch, (round_number + 1) * batch)
    )
    clips = map_in_processes(partial(_draw, sources, config), wanted, workers)
    named: set[str] = set()
    with closing(clips):
        for _, numbers in rounds():
            drawn = [next(clips) for _ in range(batch)]
            for name, reason in chain.from_iterable(clip.damaged for clip in drawn):
                if name not in named:
                    named.add(name)
                    _log.warning("%s is passed over, %d so far: %s", name, len(named), reason)
            for number in numbers:
                yield _stack(drawn, np.random.default_rng([config.seed, number, 1]))


def _coarse_side(config: DataConfig, ratio: int, round_number: int) -> int:
    """The side of the coarse clips of a batch: 1/ratio of the clip's, or less."""
    rng = np.random.default_rng([config.seed, round_number, 2])
    smallest, largest = math.log(ratio), math.log(max(ratio, config.coarsest))
    return max(4, round(config.size / math.exp(rng.uniform(smallest, largest))))


def _draw(sources: Sequence[Source], config: DataConfig, job: tuple[int, int]) -> TrainingClip:
    return draw_clip(sources, config, *job)


def _stack(clips: Sequence[TrainingClip], rng: np.random.Generator) -> Batch:
    """Clips as a batch, each mirrored and reversed at random."""
    turned = []
    for clip in clips:
        mirror, reverse = rng.random(2) < 0.5
        turned.append([_turned(array, mirror, reverse) for array in clip[:8]])
    return Batch(*(torch.stack(tensors) for tensors in zip(*turned, strict=True)))


def _turned(array: npt.NDArray[Any], mirror: bool, reverse: bool) -> Tensor:
    array = array[:: -1 if reverse else 1, :, :: -1 if mirror else 1]
    tensor = torch.from_numpy(array.copy())  # torch takes no axis that runs backwards
    if tensor.ndim == 3:
        return tensor[None]
    tensor = tensor.permute(3, 0, 1, 2)
    return tensor / 255 if tensor.dtype == torch.uint8 else tensor
