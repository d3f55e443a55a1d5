"""The paper's training recipe: 3DCN first, then CombCN jointly with it, end to end.

One loop serves every variant of the paper; what differs is which losses it adds up (`phases`).
Everything random is drawn from (seed, number of the step), so a training that is stopped and
resumed is the same training, bit for bit.

Source: Wang et al., AAAI 2019 (arXiv 1806.08482): Eq. 1 to 3; Adam at 1e-3; the ablations T-1 and
T-2. Warm-up, decay, clipping and averaging of the weights are ours, the paper names none.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import os
import signal
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from combcn_core.clips.pictures import side_by_side
from combcn_core.networks.checkpoint import (
    check_name,
    load_tensors,
    read_model_info,
    save_model,
    save_tensors,
)
from combcn_core.networks.inference import fast_precision
from combcn_core.networks.layers import CombCN, NetworkConfig, fill_mean
from combcn_core.pixels import Pixels
from combcn_core.progress import Tell, part_of
from combcn_core.stream.memory import peak_memory_bytes
from combcn_core.training.data import Batch, DataConfig, Footage, Source, iterate_batches
from combcn_core.training.losses import detail_loss, temporal_loss, total_loss
from combcn_core.version import __version__

Mode = Literal["joint", "pretrain", "frozen", "scratch"]

DEFAULT_NETWORK = NetworkConfig(input_fill="classical")
VALIDATION_BATCHES, VALIDATION_BATCH, SAMPLE_CLIPS = 4, 8, 4
STATE_ENDING = ".training"  # beside the checkpoint: all that a training needs to go on


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
    and as many held back that say how much of CombCN's residual to keep (`temper`); 0: keep the
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


@dataclass(frozen=True)
class Progress:
    """How far a training is, after a step.

    Attributes:
        step: steps done, of `steps`.
        phase: "pretrain", "joint" or "frozen".
        losses: of "3DCN" and "CombCN", those that ran: mean absolute error per hole pixel of this
            step's clips, on the scale 0..255.
        learning_rate: of this step.
        seconds: since `train` was called.
        validation: as losses, over clips held back and with the averaged weights; now and then.
        sample: (H, W, 3) uint8, a picture of a clip: hole, 3DCN, CombCN, truth; with `validation`.
        saved: whether this step has been saved.
    """

    step: int
    steps: int
    phase: str
    losses: Mapping[str, float]
    learning_rate: float
    seconds: float
    validation: Mapping[str, float] | None = None
    sample: Pixels | None = None
    saved: bool = False


class TrainingDiverged(RuntimeError):
    """A loss or gradient is not a number any more; the last checkpoint is kept."""


def train(
    footage: Footage,
    output: Path,
    config: TrainConfig,
    *,
    network: NetworkConfig = DEFAULT_NETWORK,
    start: CombCN | None = None,
    stop: Callable[[], bool] = lambda: False,
    tell: Tell | None = None,
) -> Generator[Progress, None, None]:
    """Train a model and save it; yields after every step and prints nothing.

    Where `output` has been trained before, training goes on from there. Closing the iterator,
    Ctrl-C and SIGTERM save first; the last two are then raised. A second Ctrl-C does not wait: in
    the middle of a step there is nothing to save, and what was saved before is kept.

    Args:
        footage: what to learn from.
        output: the checkpoint, .safetensors; beside it stands a file .training, from which the
            training goes on.
        config: the recipe.
        network: what to build; the mean pixel is taken from the footage. `NetworkConfig()` is the
            paper's, the default starts from a classical fill.
        start: weights to start from; their configuration counts, not `network`.
        stop: asked after every step.
        tell: as in `inpaint`, of the calibration at the end, which takes a while.

    Raises:
        ValueError: settings that do not fit, or a state of other settings or footage.
        TrainingDiverged: NaN.
        OSError: nothing can be saved there, or a process that prepares clips was ended.
    """
    began = time.monotonic()
    check_name(output)
    if not torch.is_grad_enabled():
        raise ValueError(
            "gradients are off here; train outside of torch.no_grad(), and within "
            "torch.inference_mode(False) where inference mode is on."
        )
    processes = _Processes(config.device)
    state = _State.make(footage, config, network, start, processes)
    if _state_path(output).exists():
        state.load(_state_path(output))
    elif output.exists() and start is None:
        raise ValueError(
            f"{output} exists, but not {_state_path(output).name} from which its training could go "
            "on; start from it under another name, or remove it."
        )
    model, config = state.model, state.config
    phases = plan_phases(config, model.config)
    num_steps = phases[-1].stop
    if state.step >= num_steps:
        if processes.first and not _is_complete(output, state):  # it was killed on the last yards
            calibration = _Calibration.of(config, began, tell)
            _save(state, output, phases[-1], footage, {}, calibration)
        return
    batches = iterate_batches(
        footage.train,
        config,
        config.batch,
        ratio=model.config.ratio,
        start=state.step * config.accumulate * processes.count + processes.rank,
        step=processes.count,
        workers=config.workers,
    )
    held_back = _validation_batches(footage, config, model.config) if processes.first else []
    saved_step = state.step
    step_seconds = 0.0  # the longest since the first, which is slow
    first_step = state.step
    losses: Mapping[str, float] | None = {}
    whole = True  # the state is that after a step: in the middle of one it is nothing to go on from
    try:
        with _deferred_signals(insist=processes.count == 1) as signals:
            while state.step < num_steps:
                phase = next(phase for phase in phases if state.step < phase.stop)
                if phase.name == "frozen" and state.step == phase.start:
                    # CombCN is to learn on the 3DCN that it will be used with.
                    model.temporal.load_state_dict(state.averaged.temporal.state_dict())
                rate = learning_rate(config, phase, state.step)
                step_began = time.monotonic()
                step_batches = list(islice(batches, config.accumulate))
                whole = False
                losses = _take_step(state, phase, rate, step_batches, processes)
                if losses is None:
                    raise TrainingDiverged(_divergence(state.step + 1, saved_step))
                whole = True
                ends = state.step == num_steps
                now = time.monotonic()
                if state.step > first_step + 1:
                    step_seconds = max(step_seconds, now - step_began)
                rest = _calibration_seconds(config, step_seconds)
                late = config.minutes is not None and now + rest >= began + config.minutes * 60
                ends = processes.any(ends or late or stop() or bool(signals))
                validation = sample = None
                if held_back and (ends or state.step % config.sample_every == 0):
                    validation, sample = _validate(state, held_back, phase, processes.device)
                saved = ends or state.step % config.save_every == 0
                if saved and processes.first:
                    complete = state.step == num_steps or late
                    limit = _Calibration.of(config, began, tell) if complete else None
                    _save(state, output, phase, footage, losses, limit)
                saved_step = state.step if saved else saved_step
                seconds = time.monotonic() - began
                yield Progress(
                    state.step, num_steps, phase.name, losses, rate, seconds, validation, sample,
                    saved,
                )  # fmt: skip
                if ends:
                    break
    finally:
        batches.close()
        if whole and state.step != saved_step and processes.first:  # ended between two saves
            phase = next(phase for phase in phases if state.step <= phase.stop)
            _save(state, output, phase, footage, losses or {}, None)


def _divergence(step: int, saved_step: int) -> str:
    what = f"the loss or its gradient became NaN at step {step}"
    if saved_step == 0:
        return f"{what}, before anything was saved; take a lower learning rate."
    return (
        f"{what}; what was saved at step {saved_step} is kept. Go on from there with a lower "
        "learning rate, in another output that starts from it."
    )


@dataclass(frozen=True)
class Estimate:
    """What a training will need, from steps that were really taken.

    Attributes:
        steps: in each phase.
        seconds: for all of them and the calibration after them; no more than `minutes`.
        calibration_seconds: of these, for the calibration.
        memory_bytes: at the peak so far; of the device where that is a GPU. None: not known.
    """

    steps: Mapping[str, int]
    seconds: float
    calibration_seconds: float
    memory_bytes: int | None


def estimate(
    footage: Footage,
    config: TrainConfig,
    *,
    network: NetworkConfig = DEFAULT_NETWORK,
    start: CombCN | None = None,
) -> Estimate:
    """Take two steps of each phase, calibrate with a batch, and write nothing.

    Arguments and errors as in `train`.
    """
    processes = _Processes(config.device)
    state = _State.make(footage, config, network, start, processes)
    phases = plan_phases(state.config, state.model.config)
    seconds = 0.0
    with closing(
        iterate_batches(
            footage.train,
            state.config,
            config.batch,
            ratio=state.model.config.ratio,
            workers=config.workers,
        )
    ) as batches:
        for phase in phases:
            for _ in range(2):  # the first of a kind is slow
                began = time.monotonic()
                step_batches = list(islice(batches, config.accumulate))
                _take_step(state, phase, 0.0, step_batches, processes)
            seconds += (time.monotonic() - began) * (phase.stop - phase.start)
    calibration_seconds = 0.0
    if config.calibration_clips:
        model = copy.deepcopy(state.averaged)
        began = time.monotonic()
        for pass_over in (calibrate, temper):
            pass_over(model, footage, state.config, config.batch, phase=phases[-1].name)
        count = -(-config.calibration_clips // config.batch)
        calibration_seconds = (time.monotonic() - began) * count
    seconds += calibration_seconds
    if config.minutes is not None:
        seconds = min(seconds, config.minutes * 60)
        calibration_seconds = min(calibration_seconds, _CALIBRATION_SHARE * config.minutes * 60)
    if processes.device.type == "cuda":
        memory: int | None = torch.cuda.max_memory_allocated(processes.device)
    else:
        memory = peak_memory_bytes()
    steps: dict[str, int] = {phase.name: phase.stop - phase.start for phase in phases}
    return Estimate(steps, seconds, calibration_seconds, memory)


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


# --- one step -------------------------------------------------------------------------------------


def _take_step(
    state: _State,
    phase: Phase,
    rate: float,
    batches: Sequence[Batch],
    processes: _Processes,
) -> dict[str, float] | None:
    """Move the weights once. Returns the losses, or None, and no weight moved, if one is NaN."""
    model, config = state.model, state.config
    model.eval().requires_grad_(False)
    trained = nn.ModuleList(_trained(model, phase.name)).train().requires_grad_(True)
    state.optimizer.zero_grad()
    sums: dict[str, Tensor] = {}
    first = state.step * config.accumulate * processes.count + processes.rank
    for number, batch in enumerate(batches):
        rng = np.random.default_rng([config.seed, first + number * processes.count, 3])
        batch = _to_device(batch, processes.device)
        chosen = _choose_frames(config, batch.clip.shape[2], rng)
        with _autocast(config, model.config, processes.device):
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


def _trained(model: CombCN, phase: str) -> list[nn.Module]:
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


def _choose_frames(config: TrainConfig, num_frames: int, rng: np.random.Generator) -> Tensor:
    if not 0 < config.detail_frames < num_frames:
        return torch.arange(num_frames)
    return torch.from_numpy(np.sort(rng.permutation(num_frames)[: config.detail_frames]))


def _to_device(batch: Batch, device: torch.device) -> Batch:
    return Batch(*(tensor.to(device, non_blocking=True) for tensor in batch))


def _autocast(
    config: TrainConfig, network: NetworkConfig, device: torch.device
) -> AbstractContextManager[Any]:
    """bf16 where it is asked for, or fast: it has the range of fp32, so no loss needs scaling."""
    wanted = config.precision == "bf16"
    if config.precision == "auto":
        wanted = fast_precision(device) == "bf16" and _bf16_is_right(config, network, device)
        if device.type == "cuda":  # older ones emulate it
            wanted = torch.cuda.get_device_capability(device)[0] >= 8
    return torch.autocast(device.type, torch.bfloat16) if wanted else nullcontext()


def _bf16_is_right(config: TrainConfig, network: NetworkConfig, device: torch.device) -> bool:
    """Whether clips are as long as the kernels, in every layer.

    Where they are not, oneDNN computes the weight gradients of a Conv3d from memory that nobody has
    written, in bf16 only (measured with PyTorch 2.13 on AVX-512).
    """
    least = 9 if network.time_stride else 5
    return device.type != "cpu" or not network.guidance or config.clip_length >= least


# --- validation -----------------------------------------------------------------------------------


def _validation_batches(
    footage: Footage, config: TrainConfig, network: NetworkConfig
) -> list[Batch]:
    """Always the same clips; of the training side where there is no other."""
    sources = footage.validation or footage.train
    held = dataclasses.replace(config, seed=config.seed + 1, repeats=1)
    size = min(config.batch, VALIDATION_BATCH)
    workers = config.workers if size > 1 else 0  # as long as some clips take to draw, one starts
    batches = iterate_batches(sources, held, size, ratio=network.ratio, workers=workers)
    with closing(batches):
        return list(islice(batches, VALIDATION_BATCHES))


@torch.no_grad()
def _validate(
    state: _State, batches: list[Batch], phase: Phase, device: torch.device
) -> tuple[dict[str, float], Pixels]:
    model = state.averaged.eval()
    sums: dict[str, float] = {}
    picture = None
    for number, batch in enumerate(batches):
        batch = _to_device(batch, device)
        frames = _choose_frames(state.config, batch.clip.shape[2], np.random.default_rng(number))
        with _autocast(state.config, model.config, device):
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


# --- state ----------------------------------------------------------------------------------------


@dataclass
class _State:
    """All that a step changes."""

    model: CombCN
    averaged: CombCN
    optimizer: torch.optim.Adam
    config: TrainConfig
    identity: dict[str, Any]  # what must be the same for training to go on
    step: int = 0

    @classmethod
    def make(
        cls,
        footage: Footage,
        config: TrainConfig,
        network: NetworkConfig,
        start: CombCN | None,
        processes: _Processes,
    ) -> _State:
        if start is None:
            network = dataclasses.replace(network, mean_pixel=footage.mean_pixel)
        else:
            network = start.config
        if config.steady_frames is not None:
            network = dataclasses.replace(network, steady_frames=config.steady_frames)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            model = CombCN(network)
        if start is not None:
            model.load_state_dict(start.state_dict())
            config = dataclasses.replace(config, pretrain_steps=0)
        right = _bf16_is_right(config, model.config, processes.device)
        if config.precision == "bf16" and not right:
            raise ValueError(
                f"precision is bf16, which on a CPU goes wrong for clips of {config.clip_length} "
                "frames; take longer clips, or fp32."
            )
        if model.config.input_fill == "mean":  # then no fill is looked at; the fast one will do
            fills = tuple("smooth" if fill == "rest" else fill for fill in config.fills)
            config = dataclasses.replace(config, fills=fills)
        model = model.to(processes.device, torch.float32)
        _arrange(model.temporal, torch.channels_last_3d)
        _arrange(model.detail, torch.channels_last)
        optimizer = torch.optim.Adam(
            model.parameters(), config.learning_rate, weight_decay=config.weight_decay
        )
        free = {
            "steps", "minutes", "save_every", "sample_every", "workers", "half", "device",
            "calibration_clips",
        }  # fmt: skip
        settings = dataclasses.asdict(config)
        identity = {
            "network": model.config.to_dict(),
            "footage": footage.fingerprint,
            **{name: settings[name] for name in sorted(settings.keys() - free)},
            "accumulate": config.accumulate * processes.count,  # of all processes together
        }
        identity = json.loads(json.dumps(identity))  # lists for tuples, as it will be read
        averaged = copy.deepcopy(model).requires_grad_(False)
        return cls(model, averaged, optimizer, config, identity)

    @torch.no_grad()
    def average(self) -> None:
        """EMA of weights and of BatchNorm's statistics, faster in the first steps."""
        decay = min(self.config.ema, (1 + self.step) / (10 + self.step))
        averaged, model = self.averaged.state_dict(), self.model.state_dict()
        for average, value in zip(averaged.values(), model.values(), strict=True):
            if average.is_floating_point():
                average.lerp_(value, 1 - decay)
            else:
                average.copy_(value)

    def save(self, path: Path) -> None:
        """Write all of it, whole or not at all.

        Raises:
            TrainingDiverged: a weight is not a number any more; what was saved before is kept.
            OSError: the disk refused.
        """
        tensors = {}
        for prefix, module in (("model", self.model), ("averaged", self.averaged)):
            for name, value in module.state_dict().items():
                tensors[f"{prefix}.{name}"] = value.cpu().contiguous()
        for index, moments in self.optimizer.state_dict()["state"].items():
            for name, value in moments.items():
                tensors[f"optimizer.{index}.{name}"] = value.cpu().contiguous()
        for name, value in tensors.items():
            if not value.isfinite().all():
                raise TrainingDiverged(f"{name} became NaN at step {self.step}; it was not saved.")
        text = json.dumps({"step": self.step, "identity": self.identity}, sort_keys=True)
        save_tensors(path, tensors, text)

    def load(self, path: Path) -> None:
        """Go on where `save` was called.

        Raises:
            ValueError: damaged, or of another training.
        """
        tensors, text = load_tensors(path)
        described = json.loads(text)
        if "identity" not in described:
            raise ValueError(
                f"{path} is no state of a training; remove it, or give another output."
            )
        for name, value in self.identity.items():
            then = described["identity"].get(name)
            if then != value:
                raise ValueError(
                    f"{path} is of a training with {name} {then}, now {value}; give the same "
                    "settings and footage to go on, or another output."
                )
        parameters = list(self.model.parameters())
        moments: dict[int, dict[str, Tensor]] = {}
        weights: dict[str, dict[str, Tensor]] = {"model": {}, "averaged": {}}
        for key, value in tensors.items():
            kind, name = key.split(".", 1)
            if kind == "optimizer":
                index, name = name.split(".", 1)
                like = parameters[int(index)]
                if value.shape == like.shape:  # laid out as Adam lays it out, or it becomes slow
                    value = torch.empty_like(like).copy_(value)
                moments.setdefault(int(index), {})[name] = value
            else:
                weights[kind][name] = value
        self.model.load_state_dict(weights["model"])
        self.averaged.load_state_dict(weights["averaged"])
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": moments, "param_groups": groups})
        self.step = described["step"]


def _arrange(module: nn.Module, memory_format: torch.memory_format) -> None:
    """Channels last, where bf16 convolutions are fastest."""
    module.to(memory_format=memory_format)  # type: ignore[call-overload]


def _state_path(output: Path) -> Path:
    return output.with_suffix(STATE_ENDING)


def _save(
    state: _State,
    output: Path,
    phase: Phase,
    footage: Footage,
    losses: Mapping[str, float],
    calibration: _Calibration | None,
) -> None:
    """The state to go on from, and the averaged weights for use; calibrated where all is done."""
    state.save(_state_path(output))
    model = copy.deepcopy(state.averaged)
    clips = 0 if calibration is None else state.config.calibration_clips
    gain = 1.0
    if calibration is not None and clips:
        first, second = calibration.halves()
        calibrate(model, footage, state.config, clips, phase=phase.name, limit=first)
        gain = temper(model, footage, state.config, clips, phase=phase.name, limit=second)
    if state.config.half:
        model.half()
    facts = {
        "combcn_version": __version__,
        "training_steps": state.step,
        "phase": phase.name,
        "loss": dict(losses),
        "calibration_clips": clips,
        "residual_gain": gain,
        "footage_files": len(footage.train),
        "settings": state.identity,
    }
    save_model(output, model, facts=facts)


def _is_complete(output: Path, state: _State) -> bool:
    """Whether the weights are those that the state ends with."""
    try:
        facts = read_model_info(output).facts
    except ValueError:
        return False
    wanted = {"training_steps": state.step, "calibration_clips": state.config.calibration_clips}
    return all(facts.get(name) == value for name, value in wanted.items())


_CALIBRATION_SHARE = 0.2  # of `minutes`, at most


class _Calibration(NamedTuple):
    """When calibration has to end, by time.monotonic(), and who is told how far it is."""

    end: float
    tell: Tell | None = None

    @classmethod
    def of(cls, config: TrainConfig, began: float, tell: Tell | None) -> _Calibration:
        """What is left of the minutes; all the time there is where none are given."""
        return cls(math.inf if config.minutes is None else began + config.minutes * 60, tell)

    def halves(self) -> tuple[_Calibration, _Calibration]:
        """For its two passes."""
        now = time.monotonic()
        return (
            _Calibration(now + (self.end - now) / 2, part_of(self.tell, 0, 0.5)),
            _Calibration(self.end, part_of(self.tell, 0.5, 1)),
        )


def _calibration_seconds(config: TrainConfig, step_seconds: float) -> float:
    """What is to be kept of the minutes for calibration: of each clip no step is taken."""
    if not config.calibration_clips or config.minutes is None:
        return 0.0
    batches = 2 * -(-config.calibration_clips // config.batch)
    wanted = batches * step_seconds / config.accumulate
    return min(wanted, _CALIBRATION_SHARE * config.minutes * 60)


@torch.no_grad()
def calibrate(
    model: CombCN,
    footage: Footage,
    config: TrainConfig,
    clips: int,
    *,
    phase: str = "joint",
    limit: _Calibration | None = None,
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
    learned = nn.ModuleList(_trained(model, phase))
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
def temper(
    model: CombCN,
    footage: Footage,
    config: TrainConfig,
    clips: int,
    *,
    phase: str = "joint",
    limit: _Calibration | None = None,
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
    learnt = any(network is model.detail for network in _trained(model, phase))
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
    limit: _Calibration | None,
) -> Iterator[tuple[Batch, Tensor, Tensor | None]]:
    """Batches of this many clips at least, or as many as the limit allows; the frames that CombCN
    saw of them, and its prediction."""
    limit = limit or _Calibration(math.inf)
    count = -(-clips // config.batch)
    device = next(model.parameters()).device
    batches = iterate_batches(
        sources, config, config.batch, ratio=model.config.ratio, workers=config.workers
    )
    with closing(batches):
        for number, batch in enumerate(islice(batches, count)):
            batch = _to_device(batch, device)
            frames = _choose_frames(config, batch.clip.shape[2], np.random.default_rng(number))
            with _autocast(config, model.config, device):
                prediction = compute_losses(model, batch, phase, frames)[2]
            yield batch, frames, prediction
            if limit.tell is not None:
                limit.tell((number + 1) / count, None)
            if time.monotonic() >= limit.end:
                return


# --- processes and signals ------------------------------------------------------------------------


class _Processes:
    """This process among those that train together: one, or what `accelerate launch` started."""

    def __init__(self, device: str) -> None:
        self.rank, self.count = 0, 1
        self._accelerator = None
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            try:
                from accelerate import Accelerator  # type: ignore[import-untyped,unused-ignore]
            except ImportError:
                raise ValueError(
                    f"WORLD_SIZE is {os.environ['WORLD_SIZE']}, but several processes train "
                    "together through accelerate, which is not installed; install combcn[train]."
                ) from None

            self._accelerator = Accelerator(cpu=device == "cpu")
            self.rank = self._accelerator.process_index
            self.count = self._accelerator.num_processes
            self.device = self._accelerator.device
        else:
            cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
            if device == "auto":
                device = "cuda" if cuda else "cpu"
            if not {"cpu": True, "cuda": cuda, "mps": mps}[device]:
                raise ValueError(f"device {device} is not available here; use cpu, or auto.")
            self.device = torch.device(device)

    @property
    def first(self) -> bool:
        return self.rank == 0

    def average(self, tensors: list[Any]) -> None:
        """Make each tensor the mean over the processes, in place."""
        if self._accelerator is None:
            return
        flat = torch.cat([tensor.flatten() for tensor in tensors])  # one message, not hundreds
        flat = self._accelerator.reduce(flat, reduction="mean")
        parts = flat.split([tensor.numel() for tensor in tensors])
        for tensor, part in zip(tensors, parts, strict=True):
            tensor.copy_(part.view(tensor.shape))

    def any(self, flag: bool) -> bool:
        """Whether it is so in any process: all stop together, or the others would wait for ever."""
        if self._accelerator is None:
            return flag
        one = torch.tensor(float(flag), device=self.device)
        return bool(self._accelerator.reduce(one, reduction="sum") > 0)


@contextmanager
def _deferred_signals(*, insist: bool) -> Iterator[list[BaseException]]:
    """Ctrl-C and SIGTERM wait in the list until the step is done, and are raised at the end.

    Args:
        insist: whether a second Ctrl-C is raised at once, wherever it strikes. It would be wrong
            under `accelerate launch`, which hands the first one on to processes that have it.
    """
    raised: list[BaseException] = []
    if threading.current_thread() is not threading.main_thread():  # no other gets any
        yield raised
        return
    reactions: dict[int, BaseException] = {
        signal.SIGINT: KeyboardInterrupt(),
        signal.SIGTERM: SystemExit(128 + signal.SIGTERM),
    }

    def react(number: int, _: object) -> None:
        if raised and insist and number == signal.SIGINT:
            raised.clear()
            raise KeyboardInterrupt
        raised.append(reactions[number])

    before = {number: signal.signal(number, react) for number in reactions}
    try:
        yield raised
    except (GeneratorExit, ChildProcessError):  # a service's SIGTERM ends its child processes too
        if not raised:
            raise
    finally:
        for number, handler in before.items():
            # None is a handler that was not installed from Python; it is lost.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
    if raised:
        raise raised[0]
