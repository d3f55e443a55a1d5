"""Settings of a training: how clips are drawn, the recipe, and what is trained when."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

from combcn_core.networks.config import NetworkConfig
from combcn_core.training.holes import HOLE_KINDS, HoleKind

FillKind = Literal["rest", "propagate", "smooth"]


@dataclass(frozen=True)
class DataConfig:
    """How clips are drawn from footage."""

    size: int = 128
    """The side of a training clip in pixels, a multiple of 8."""
    clip_length: int = 32
    """The number of frames in a training clip."""
    holes: tuple[HoleKind, ...] = ("box",)
    """The kinds of holes that are drawn, each as likely as the others."""
    fills: tuple[FillKind, ...] = ("rest",)
    """What the hole is filled with where the networks start from a classical fill: rest, the smooth
    fill of the pipeline; propagate, what propagation leaves of the hole and its fill; or smooth, a
    smooth fill frame by frame, which is fast."""
    repeats: int = 1
    """Each clip is used in this many batches, mirrored or reversed; more save time where reading is
    slow."""
    coarsest: float = 2.0
    """3DCN's clip is smaller than the training clip by a factor between the networks' ratio and
    this one; more prepares for frames so large that 3DCN sees them smaller than the guidance is."""
    seed: int = 0
    """The seed of all that is drawn: clips, holes, first weights."""

    def __post_init__(self) -> None:
        if self.size < 16 or self.size % 8:
            raise ValueError(f"size is {self.size}; give a multiple of 8, 16 or more.")
        for name, least in (("clip_length", 1), ("repeats", 1), ("coarsest", 2), ("seed", 0)):
            value = getattr(self, name)
            if not value >= least:
                raise ValueError(f"{name} is {value}; give {least} or more.")
        for name, kinds in (("holes", HOLE_KINDS), ("fills", get_args(FillKind))):
            named = getattr(self, name)
            if not named or set(named) - set(kinds):
                raise ValueError(
                    f"{name} are {', '.join(named) or 'none'}; name one or more of "
                    f"{', '.join(kinds)}."
                )


Mode = Literal["joint", "pretrain", "frozen", "scratch"]
DEFAULT_NETWORK = NetworkConfig(input_fill="classical")


@dataclass(frozen=True)
class ScheduleConfig:
    """What is trained when, how fast, and on what."""

    mode: Mode = "joint"
    """What is trained: joint, 3DCN alone and then both; pretrain, 3DCN alone; frozen, 3DCN alone
    and then CombCN on it (T-1); or scratch, both from the start (T-2)."""
    steps: int = 100_000
    """The number of steps after pre-training; in the mode pretrain, of all steps."""
    pretrain_steps: int = 20_000
    """The number of steps of 3DCN alone before them, in the modes joint and frozen; there are none
    where training starts from given weights."""
    minutes: float | None = None
    """Stop after this many minutes, calibration included; the same command goes on from there."""
    batch: int = 1
    """The number of clips that go through the networks at a time."""
    accumulate: int = 1
    """The number of batches whose gradients make one step, in each process."""
    detail_frames: int = 0
    """CombCN learns from this many frames of each clip in a step, drawn anew; 0: from all, as in
    the paper. Frames of one clip are much alike, so few frames of many clips teach more."""
    learning_rate: float = 1e-3
    """The learning rate of Adam."""
    weight_decay: float = 0.0
    """The weight decay of Adam; 0.01 may be what the paper calls regression weight."""
    warmup_steps: int = 100
    """The learning rate rises from 0 over this many steps, in each phase."""
    decay_share: float = 0.2
    """The learning rate falls to 0 over the last part of each phase, this share of it."""
    clip_gradient: float = 1.0
    """The largest norm of the gradient; larger ones are scaled down."""
    alpha: float = 1.0
    """The weight of CombCN's loss beside 3DCN's (Eq. 3)."""
    ema: float = 0.999
    """The decay of the averaged weights, which are those that are saved for use."""
    calibration_clips: int = 256
    """At the end, BatchNorm's statistics are taken anew from this many clips, and as many held back
    say how much of CombCN's residual to keep; 0: neither is done."""
    workers: int = 2
    """The number of processes that read and prepare clips; 0: this one does."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """The device to train on. auto: CUDA where it is there, else the CPU."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """The arithmetic of the convolutions. auto: bf16 where the hardware has it."""


@dataclass(frozen=True)
class SavingConfig:
    """What is saved, and when."""

    save_every: int = 1000
    """The number of steps between two saves."""
    sample_every: int = 500
    """The number of steps between two looks at the clips held back, with a picture."""
    half: bool = False
    """Save the weights in 16 bits, at half the size."""


@dataclass(frozen=True)
class TrainConfig(SavingConfig, ScheduleConfig, DataConfig):
    """Settings of `train` and `combcn train`; the defaults are the paper's."""

    steady_frames: int | None = None
    """In use, what CombCN adds is averaged over this many frames before and after, so that it does
    not flicker: `NetworkConfig.steady_frames`. None: as the start has it, or 0."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, least in (
            ("steps", 1), ("pretrain_steps", 0), ("batch", 1), ("accumulate", 1),
            ("detail_frames", 0), ("warmup_steps", 0), ("calibration_clips", 0),
            ("save_every", 1), ("sample_every", 1), ("workers", 0), ("weight_decay", 0),
        ):  # fmt: skip
            value = getattr(self, name)
            if not value >= least:
                raise ValueError(f"{name} is {value}; give {least} or more.")
        for name, most in (("learning_rate", 1), ("clip_gradient", math.inf), ("alpha", math.inf)):
            value = getattr(self, name)
            if not 0 < value <= most:
                raise ValueError(f"{name} is {value}; give a number above 0, at most {most:g}.")
        for name in ("ema", "decay_share"):
            value = getattr(self, name)
            if not 0 <= value < 1:
                raise ValueError(f"{name} is {value}; give 0 or more, below 1.")
        if self.minutes is not None and not self.minutes > 0:
            raise ValueError(f"minutes is {self.minutes}; give a number above 0.")


class Phase(NamedTuple):
    """A stretch of steps with the same losses."""

    name: Literal["pretrain", "joint", "frozen"]
    start: int  # step
    stop: int


def plan_phases(config: TrainConfig, network: NetworkConfig) -> list[Phase]:
    """What is trained when. Without guidance there is nothing to pre-train: 3DCN is not used.

    Raises:
        ValueError: 3DCN is to be trained for a model that does not use it.
    """
    if not network.guidance:
        if config.mode != "scratch":
            raise ValueError(
                f"mode is {config.mode}, but a model without guidance has no 3DCN to train with "
                "or on; use scratch."
            )
        return [Phase("joint", 0, config.steps)]
    if config.mode == "pretrain":
        return [Phase("pretrain", 0, config.steps)]
    first = 0 if config.mode == "scratch" else config.pretrain_steps
    name: Literal["joint", "frozen"] = "frozen" if config.mode == "frozen" else "joint"
    phases = [Phase("pretrain", 0, first), Phase(name, first, first + config.steps)]
    return [phase for phase in phases if phase.stop > phase.start]


def learning_rate(config: TrainConfig, phase: Phase, step: int) -> float:
    """Of a step: rising, steady, then falling towards 0 at the end of each phase."""
    done, left = step - phase.start + 1, phase.stop - step
    falling = config.decay_share * (phase.stop - phase.start)
    rise = min(1.0, done / max(1, config.warmup_steps))
    return config.learning_rate * rise * min(1.0, left / max(1.0, falling))
