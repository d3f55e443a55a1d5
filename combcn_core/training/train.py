"""The paper's training recipe: 3DCN first, then CombCN jointly with it, end to end.

One loop serves every variant of the paper; what differs is which losses it adds up (`phases`).
Everything random is drawn from (seed, number of the step), so a training that is stopped and
resumed is the same training, bit for bit.

Source: Wang et al., AAAI 2019 (arXiv 1806.08482): Eq. 1 to 3; Adam at 1e-3; the ablations T-1 and
T-2. Warm-up, decay, clipping and averaging of the weights are ours, the paper names none.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch

from combcn_core.memory import peak_memory_bytes
from combcn_core.networks.checkpoint import check_name, read_model_info, save_model
from combcn_core.networks.config import NetworkConfig
from combcn_core.networks.layers import CombCN
from combcn_core.pixels import Pixels
from combcn_core.progress import OnShare
from combcn_core.training.batches import iterate_batches
from combcn_core.training.calibrate import (
    CALIBRATION_SHARE,
    Calibration,
    calibrate,
    calibration_seconds_kept,
    scale_residual,
)
from combcn_core.training.config import (
    DEFAULT_NETWORK,
    Phase,
    TrainConfig,
    learning_rate,
    plan_phases,
)
from combcn_core.training.footage import Footage
from combcn_core.training.processes import Processes, deferred_signals
from combcn_core.training.state import State, TrainingDiverged, state_path
from combcn_core.training.step import take_step
from combcn_core.training.validate import validate, validation_batches
from combcn_core.version import __version__


@dataclass(frozen=True)
class TrainingStep:
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


def train(
    footage: Footage,
    output: Path,
    config: TrainConfig,
    *,
    network: NetworkConfig = DEFAULT_NETWORK,
    start: CombCN | None = None,
    stop: Callable[[], bool] = lambda: False,
    on_progress: OnShare | None = None,
) -> Generator[TrainingStep, None, None]:
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
        on_progress: as in `inpaint`, of the calibration at the end, which takes a while.

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
    processes = Processes(config.device)
    state = State.make(footage, config, network, start, processes)
    if state_path(output).exists():
        state.load(state_path(output))
    elif output.exists() and start is None:
        raise ValueError(
            f"{output} exists, but not {state_path(output).name} from which its training could go "
            "on; start from it under another name, or remove it."
        )
    model, config = state.model, state.config
    phases = plan_phases(config, model.config)
    num_steps = phases[-1].stop
    if state.step >= num_steps:
        if processes.first and not _is_complete(output, state):  # killed before its last save
            calibration = Calibration.of(config, began, on_progress)
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
    held_back = validation_batches(footage, config, model.config) if processes.first else []
    saved_step = state.step
    step_seconds = 0.0  # the longest since the first, which is slow
    first_step = state.step
    losses: Mapping[str, float] | None = {}
    whole = True  # the state is that after a step: in the middle of one it is nothing to go on from
    try:
        with deferred_signals(insist=processes.count == 1) as signals:
            while state.step < num_steps:
                phase = next(phase for phase in phases if state.step < phase.stop)
                if phase.name == "frozen" and state.step == phase.start:
                    # CombCN is to learn on the 3DCN that it will be used with.
                    model.temporal.load_state_dict(state.averaged.temporal.state_dict())
                rate = learning_rate(config, phase, state.step)
                step_began = time.monotonic()
                step_batches = list(islice(batches, config.accumulate))
                whole = False
                losses = take_step(state, phase, rate, step_batches, processes)
                if losses is None:
                    raise TrainingDiverged(_divergence(state.step + 1, saved_step))
                whole = True
                ends = state.step == num_steps
                now = time.monotonic()
                if state.step > first_step + 1:
                    step_seconds = max(step_seconds, now - step_began)
                kept = calibration_seconds_kept(config, step_seconds)
                late = config.minutes is not None and now + kept >= began + config.minutes * 60
                ends = processes.any(ends or late or stop() or bool(signals))
                validation = sample = None
                if held_back and (ends or state.step % config.sample_every == 0):
                    validation, sample = validate(state, held_back, phase, processes.device)
                saved = ends or state.step % config.save_every == 0
                if saved and processes.first:
                    complete = state.step == num_steps or late
                    limit = Calibration.of(config, began, on_progress) if complete else None
                    _save(state, output, phase, footage, losses, limit)
                saved_step = state.step if saved else saved_step
                seconds = time.monotonic() - began
                yield TrainingStep(
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
    processes = Processes(config.device)
    state = State.make(footage, config, network, start, processes)
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
                take_step(state, phase, 0.0, step_batches, processes)
            seconds += (time.monotonic() - began) * (phase.stop - phase.start)
    calibration_seconds = 0.0
    if config.calibration_clips:
        model = copy.deepcopy(state.averaged)
        began = time.monotonic()
        for pass_over in (calibrate, scale_residual):
            pass_over(model, footage, state.config, config.batch, phase=phases[-1].name)
        count = -(-config.calibration_clips // config.batch)
        calibration_seconds = (time.monotonic() - began) * count
    seconds += calibration_seconds
    if config.minutes is not None:
        seconds = min(seconds, config.minutes * 60)
        calibration_seconds = min(calibration_seconds, CALIBRATION_SHARE * config.minutes * 60)
    if processes.device.type == "cuda":
        memory: int | None = torch.cuda.max_memory_allocated(processes.device)
    else:
        memory = peak_memory_bytes()
    steps: dict[str, int] = {phase.name: phase.stop - phase.start for phase in phases}
    return Estimate(steps, seconds, calibration_seconds, memory)


def _save(
    state: State,
    output: Path,
    phase: Phase,
    footage: Footage,
    losses: Mapping[str, float],
    calibration: Calibration | None,
) -> None:
    """Save the state to go on from, and the averaged weights, calibrated where all is done."""
    state.save(state_path(output))
    model = copy.deepcopy(state.averaged)
    clips = 0 if calibration is None else state.config.calibration_clips
    gain = 1.0
    if calibration is not None and clips:
        first, second = calibration.halves()
        calibrate(model, footage, state.config, clips, phase=phase.name, limit=first)
        gain = scale_residual(model, footage, state.config, clips, phase=phase.name, limit=second)
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


def _is_complete(output: Path, state: State) -> bool:
    """Whether the saved weights are those of the last step, calibrated."""
    try:
        facts = read_model_info(output).facts
    except ValueError:
        return False
    wanted = {"training_steps": state.step, "calibration_clips": state.config.calibration_clips}
    return all(facts.get(name) == value for name, value in wanted.items())
