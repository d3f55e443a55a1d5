"""Joint Trainer."""

import logging
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Literal, get_args

import cv2
import folder_paths
import numpy as np
import torch
from comfy import model_management
from comfy_api.latest import io
from numpy.typing import NDArray
from torch import Tensor

from combcn_core import CombCN, NetworkConfig, load_model, read_model_info
from combcn_core.progress import part_of
from combcn_core.training.config import Mode, TrainConfig
from combcn_core.training.footage import Footage, footage_from_images, scan_footage
from combcn_core.training.holes import HOLE_KINDS
from combcn_core.training.log import TrainingLog
from combcn_core.training.state import STATE_ENDING
from combcn_core.training.train import TrainingStep, train

from . import folders
from .links import refusal
from .memory import LoadedModel, hold, is_out_of_memory
from .progress import NodeProgress
from .schema import found_by, known
from .sockets import Model, from_pictures, to_holes, to_images

log = logging.getLogger("combcn")

CONNECTED = "(the connected images)"
NOT_CONNECTED = object()
NOTHING = (
    "there is nothing to learn from; connect images, or choose a folder of videos in ComfyUI's "
    "input folder."
)
ALL_HOLES = "all kinds"
NETWORKS = {
    "CombCN": NetworkConfig(input_fill="classical"),
    "CombCN, paper": NetworkConfig(),
    "2DCN, paper": NetworkConfig(guidance=False),
    "V-1, paper": NetworkConfig(ratio=4),
    "V-2, paper": NetworkConfig(time_stride=True),
}
BYTES_PER_TRAINED_PIXEL = 10_000  # of a frame: what backward keeps of both networks, rounded up


class JointTrainer(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CombCN_JointTrainer",
            display_name="CombCN Joint Trainer",
            category="CombCN",
            is_experimental=True,
            **found_by(io.Schema, "train inpainting, fine-tune"),
            description="Train both networks as the paper does: 3DCN first, then CombCN jointly "
            "with it. Stopping saves; queueing the same training again goes on from there.",
            inputs=[
                io.String.Input(
                    "name",
                    default="my_model",
                    tooltip="Name of the model in models/combcn. A training of that name goes on.",
                ),
                io.Combo.Input(
                    "footage",
                    options=[CONNECTED, *folders.footage_folders()],
                    tooltip="A folder of videos and photographs in ComfyUI's input folder, or the "
                    "connected images.",
                ),
                io.Image.Input(
                    "images", optional=True, tooltip="A clip to learn from, without a folder."
                ),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="1 on what is not to be learnt from the clip: the object that is to be "
                    "removed.",
                ),
                Model.Input(
                    "model",
                    optional=True,
                    tooltip="Weights to start from. Then its networks count, and 3DCN is not "
                    "trained alone first.",
                ),
                io.Combo.Input(
                    "networks",
                    options=list(NETWORKS),
                    default="CombCN",
                    tooltip="CombCN starts from a smooth fill and learns what to add to it. The "
                    "others are the paper's: mean fill, 2DCN without guidance, and its variants "
                    "V-1 and V-2.",
                ),
                io.Combo.Input(
                    "stages",
                    options=list(get_args(Mode)),
                    default="joint",
                    tooltip="joint: 3DCN alone, then both. pretrain: 3DCN alone. frozen: 3DCN "
                    "alone, then CombCN on it. scratch: both from the start, and 2DCN.",
                ),
                io.Int.Input(
                    "pretrain_steps",
                    default=500,
                    min=0,
                    max=10_000_000,
                    tooltip="Steps of 3DCN alone, for joint and frozen. The paper's last until it "
                    "gets no better.",
                ),
                io.Int.Input(
                    "steps",
                    default=2000,
                    min=1,
                    max=10_000_000,
                    tooltip="Steps after these. The paper takes 100000. More can be given later, "
                    "to go on.",
                ),
                io.Float.Input(
                    "minutes",
                    default=0.0,
                    min=0.0,
                    max=100_000.0,
                    step=0.1,
                    tooltip="Stop after this many minutes, to go on when queued again. "
                    "0: no limit.",
                ),
                io.Float.Input(
                    "learning_rate",
                    default=1e-3,
                    min=1e-7,
                    max=1.0,
                    step=1e-5,
                    round=False,
                    tooltip="Of Adam. The paper takes 0.001; less to refine given weights.",
                    **known(io.Float.Input, advanced=True),
                ),
                io.Combo.Input(
                    "holes",
                    options=[*HOLE_KINDS, ALL_HOLES],
                    default="box",
                    tooltip="Holes to learn from. box: as in the paper. object: silhouettes of "
                    "people and vehicles.",
                ),
                io.Int.Input(
                    "size",
                    default=128,
                    min=16,
                    max=1024,
                    step=8,
                    tooltip="Side of the clips cut from the footage, in pixels. The paper takes "
                    "128.",
                ),
                io.Int.Input(
                    "clip_length",
                    default=16,
                    min=1,
                    max=128,
                    tooltip="Frames of a clip. The paper takes 32.",
                ),
                io.Int.Input(
                    "batch",
                    default=1,
                    min=1,
                    max=64,
                    tooltip="Clips that make one step.",
                    **known(io.Int.Input, advanced=True),
                ),
                io.Int.Input(
                    "detail_frames",
                    default=4,
                    min=0,
                    max=128,
                    tooltip="Frames of each clip that CombCN learns from in a step; the frames of "
                    "a clip are much alike. 0: all, as in the paper.",
                    **known(io.Int.Input, advanced=True),
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=0xFFFFFFFF,
                    tooltip="Of the first weights, the clips and the holes.",
                ),
            ],
            outputs=[
                Model.Output(display_name="model", tooltip="The trained networks."),
                io.Image.Output(
                    display_name="loss_curve",
                    tooltip="Mean error per hole pixel over the steps, on the scale 0 to 255.",
                ),
                io.String.Output(display_name="report", tooltip="What was done, in words."),
                io.Image.Output(
                    display_name="sample",
                    tooltip="One frame of the last look: hole, 3DCN, CombCN and truth.",
                ),
            ],
            is_output_node=True,
        )

    @classmethod
    def validate_inputs(
        cls, name: str | None, footage: str | None, images: object = NOT_CONNECTED
    ) -> bool | str:
        # Naming footage here replaces ComfyUI's "value not in list".
        if refused := refusal(_output_path, name):
            return refused
        if footage == CONNECTED:
            return NOTHING if images is NOT_CONNECTED else True
        return refusal(folders.footage_path, footage) or True

    @classmethod
    def fingerprint_inputs(cls, name: str, **kwargs: object) -> float:
        # A training that has gone on since makes the same form another question.
        state = _output_path(name).with_suffix(STATE_ENDING)
        return state.stat().st_mtime if state.exists() else 0.0

    @classmethod
    def execute(
        cls,
        name: str,
        footage: str,
        networks: str,
        stages: Mode,
        pretrain_steps: int,
        steps: int,
        minutes: float,
        learning_rate: float,
        holes: str,
        size: int,
        clip_length: int,
        batch: int,
        detail_frames: int,
        seed: int,
        images: Tensor | None = None,
        mask: Tensor | None = None,
        model: LoadedModel | None = None,
    ) -> io.NodeOutput:
        device = model_management.get_torch_device()
        config = TrainConfig(
            mode=stages,
            steps=steps,
            pretrain_steps=pretrain_steps,
            minutes=minutes or None,
            learning_rate=learning_rate,
            holes=HOLE_KINDS if holes == ALL_HOLES else (holes,),
            size=size,
            clip_length=clip_length,
            batch=batch,
            detail_frames=detail_frames,
            seed=seed,
            sample_every=max(10, steps // 50),
            calibration_clips=min(256, max(4, steps // 50)),  # they end every run
            workers=0,  # other processes would start as another ComfyUI
            device=_device_name(device),
        )
        output = _output_path(name)
        output.parent.mkdir(parents=True, exist_ok=True)
        pixels = size * size * batch * (detail_frames or clip_length)
        model_management.free_memory(BYTES_PER_TRAINED_PIXEL * pixels, device)
        with torch.inference_mode(False), _advising():
            start = None if model is None else model.model
            progress = NodeProgress(preview_seconds=2)  # the curve of a long training takes a while
            learnt_from = _footage(footage, images, mask, clip_length, progress)
            curve, report, sample = _train(
                learnt_from, output, config, NETWORKS[networks], start, progress
            )
            trained = hold(load_model(output), read_model_info(output).facts)
        return io.NodeOutput(trained, curve, report, sample)


def _train(
    footage: Footage,
    output: Path,
    config: TrainConfig,
    network: NetworkConfig,
    start: CombCN | None,
    progress: NodeProgress,
) -> tuple[Tensor, str, Tensor]:
    """The loss curve as IMAGE, the report, and the last sample as IMAGE."""
    history = TrainingLog(output)
    last, sample = None, history.last_sample()
    with closing(train(footage, output, config, network=network, start=start)) as training:
        for last in training:
            history.add(last)
            sample = last.sample if last.sample is not None else sample
            shown = _shown(history.picture(), sample) if progress.shows else None
            progress(last.step / last.steps, shown)
    progress.finish(_shown(history.picture(), sample))
    curve = from_pictures(history.picture())
    return curve, _report(last, output), curve if sample is None else from_pictures(sample)


def _shown(curve: NDArray[np.uint8], sample: NDArray[np.uint8] | None) -> NDArray[np.uint8]:
    """The loss curve, and the last sample under it."""
    if sample is None:
        return curve
    height = round(sample.shape[0] * curve.shape[1] / sample.shape[1])
    below = cv2.resize(sample, (curve.shape[1], height), interpolation=cv2.INTER_AREA)
    return np.concatenate([curve, below])


def _report(last: TrainingStep | None, output: Path) -> str:
    if last is None:
        return f"{output.name} has had all its steps already; give more steps to go on."
    lines = [f"{output.name}: {last.step} of {last.steps} steps, in the phase {last.phase}"]
    lines.append(f"{last.seconds / 60:.1f} minutes this time")
    for title, losses in (("last step", last.losses), ("validation", last.validation or {})):
        lines += [f"{title}, {name}: l1 {loss:.2f} of 255" for name, loss in losses.items()]
    if last.step < last.steps:
        lines.append("queue it again to go on")
    return "\n".join(f"- {line}" for line in lines)  # Preview Any draws Markdown


def _footage(
    choice: str,
    images: Tensor | None,
    mask: Tensor | None,
    clip_length: int,
    progress: NodeProgress,
) -> Footage:
    if choice != CONNECTED:
        folder = folders.footage_path(choice)
        # A bar of its own would only run backwards when the training starts.
        on_progress = part_of(progress, 0, 0)
        return scan_footage(folder, clip_length=clip_length, on_progress=on_progress)
    if images is None:
        raise ValueError(NOTHING)
    frames = to_images(images).clone()
    return footage_from_images(frames, None if mask is None else to_holes(mask, frames))


def _device_name(device: torch.device) -> Literal["cuda", "mps", "cpu"]:
    if device.type in ("cuda", "mps", "cpu"):
        return device.type
    log.warning("Training knows cuda and mps but not %s, and runs on the CPU.", device.type)
    return "cpu"


def _output_path(name: str) -> Path:
    """The file of a model in models/combcn."""
    if not name.strip():
        raise ValueError("name is empty; give the model a name.")
    folder = folder_paths.get_folder_paths(folders.FOLDER_NAME)[0]
    return folders.within(folder, f"{name}{folders.ENDING}")


@contextmanager
def _advising() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        model_management.soft_empty_cache()
        raise ValueError(
            "training needs more memory than there is; choose fewer detail_frames, a smaller "
            "batch, or a smaller size."
        ) from error
