"""Settings of a training: how clips are drawn, the recipe, and what is trained when."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

from combcn_core.networks.layers import NetworkConfig
from combcn_core.training.holes import HOLE_KINDS, HoleKind

FillKind = Literal["rest", "propagate", "smooth"]


@dataclass(frozen=True)
class DataConfig:
    """How clips are drawn from footage."""

    size: int = 128
    """Side of a training clip in pixels, a multiple of 8."""
    clip_length: int = 32
    """Frames of a training clip."""
    holes: tuple[HoleKind, ...] = ("box",)
    """Kinds of holes, each as likely as the others."""
    fills: tuple[FillKind, ...] = ("rest",)
    """What stands in the hole where the networks start from a classical fill: the pipeline's rest
    fill, what propagation leaves of the hole and its fill, or a smooth fill frame by frame (fast).
    """
    repeats: int = 1
    """Batches that use a clip again, mirrored or reversed. More save time where reading is slow."""
    coarsest: float = 2.0
    """The coarse clip's side is that of the clip by the networks' ratio, or by up to this: more
    prepares for frames so large that 3DCN sees them smaller than the guidance is."""
    seed: int = 0
    """Of everything drawn: clips, holes, weights."""

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
class TrainConfig(DataConfig):
    """Settings of `train` and `combcn train`; the defaults are the paper's."""

    mode: Mode = "joint"
    """joint: pre-train 3DCN, then train both; pretrain: 3DCN alone; frozen: pre-train 3DCN, then
    train CombCN on it (T-1); scratch: both at once from the start (T-2)."""
    steps: int = 100_000
    """Steps after pre-training; in the mode pretrain, all steps."""
    pretrain_steps: int = 20_000
    """Steps of 3DCN alone before them, in the modes joint and frozen; left out when training
    starts from given weights."""
    minutes: float | None = None
    """Stop after this many minutes, calibration included; the same command goes on from there."""
    batch: int = 1
    """Clips that go through the networks at a time."""
    accumulate: int = 1
    """Batches whose gradients make one step, in each process."""
    detail_frames: int = 0
    """Frames of each clip that CombCN learns from in a step, drawn anew; 0: all, as in the paper.
    Frames of one clip are much alike, so few frames of many clips teach more."""
    learning_rate: float = 1e-3
    """Of Adam."""
    weight_decay: float = 0.0
    """Of Adam; 0.01 may be what the paper calls regression weight."""
    warmup_steps: int = 100
    """Steps over which the learning rate rises from 0, in each phase."""
    decay_share: float = 0.2
    """Last part of a phase, over which the learning rate falls to 0."""
    clip_gradient: float = 1.0
    """Largest norm of the gradient; larger ones are scaled down."""
    alpha: float = 1.0
    """Weight of CombCN's loss beside 3DCN's (Eq. 3)."""
    ema: float = 0.999
    """Decay of the averaged weights, which are those that are saved for use."""
    calibration_clips: int = 256
    """Clips from which BatchNorm's statistics are taken anew for the averaged weights at the end,
    and as many held back that say how much of CombCN's residual to keep; 0: keep the
    statistics met on the way, and all of the residual."""
    steady_frames: int | None = None
    """Frames before and after over which what CombCN adds is averaged in use, so that it does not
    flicker: `NetworkConfig.steady_frames`. None: as the start has it, or 0."""
    half: bool = False
    """Save the weights in 16 bits, at half the size."""
    save_every: int = 1000
    """Steps between two saves."""
    sample_every: int = 500
    """Steps between two looks at the validation clips, with a picture."""
    workers: int = 2
    """Processes that read and prepare clips; 0: none beside this one."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where to train."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Arithmetic of the convolutions. auto: bf16 where the hardware has it."""

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
