"""Networks as ComfyUI wants to have them: on its device, in its precision, within its memory."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

from comfy import model_management
from comfy.model_patcher import ModelPatcher

from combcn_core import CombCN, InpaintConfig, coarse_size, memory
from combcn_core.networks.inference import InferenceModel, Precision, prepare
from combcn_core.networks.layers import context_frames
from combcn_core.networks.regions import Span

Result = TypeVar("Result")

# Output frames computed at a time, and the share of what is free that the networks may take. Less
# is tried when memory ends: the core then puts fewer frames into a batch, fewer into a run of 3DCN,
# and at last cuts frames into tiles.
ATTEMPTS = ((InpaintConfig().segment_frames, 0.8), (16, 0.4), (8, 0.2), (4, 0.1), (2, 0.05))


@dataclass(frozen=True)
class LoadedModel:
    """What passes through a COMBCN_MODEL socket.

    Attributes:
        model: the weights as they are in the file, never rounded.
        patcher: its inference form, in the precision asked for; ComfyUI moves it to and fro.
        facts: what the checkpoint says about its training.
    """

    model: CombCN
    patcher: ModelPatcher
    facts: Mapping[str, Any]


@dataclass(frozen=True)
class Attempt:
    """One try at some work, with bounds on the memory that it takes."""

    segment_frames: int
    share: float

    def shorten(self, config: InpaintConfig) -> InpaintConfig:
        """Settings of a run with segments of this length."""
        return replace(config, segment_frames=self.segment_frames)

    def ready(self, loaded: LoadedModel, height: int, width: int) -> InferenceModel:
        """The networks on their device, with room beside them for frames of this size."""
        network: InferenceModel = loaded.patcher.model
        clip = (
            self.segment_frames + 2 * context_frames(network.config),
            *coarse_size(network, height, width),
        )
        needed = max(
            network.temporal.forecast_bytes([Span(0, length) for length in clip], clip),
            network.detail.forecast_bytes([Span(0, height), Span(0, width)], (height, width)),
        )
        model_management.load_models_gpu(
            [loaded.patcher], memory_required=needed, force_full_load=True
        )
        device = loaded.patcher.load_device
        network.to(device)  # --novram leaves it where it was
        if not model_management.is_device_cpu(device):
            network.memory_bytes = int(model_management.get_free_memory(device) * self.share)
        return network


def hold(model: CombCN, facts: Mapping[str, Any], precision: Precision = "auto") -> LoadedModel:
    """Put a model under ComfyUI's memory management.

    Args:
        model: in float32, on the CPU.
        facts: kept for saving.
        precision: auto: the core's choice on a CPU, ComfyUI's on its other devices.
    """
    device = model_management.get_torch_device()
    if precision == "auto" and not model_management.is_device_cpu(device):
        half = model_management.should_use_fp16(device)
        brain = model_management.should_use_bf16(device)
        precision = "fp16" if half else "bf16" if brain else "fp32"
    patcher = ModelPatcher(
        prepare(model, precision=precision),
        load_device=device,
        offload_device=model_management.unet_offload_device(),
    )
    return LoadedModel(model, patcher, facts)


def backing_off(work: Callable[[Attempt], Result]) -> Result:
    """Do some work, again with less at a time whenever memory runs out."""
    back_off = memory.BackOff(
        "Out of memory; trying again with less at a time, which takes longer.", is_out_of_memory
    )
    return back_off.first_that_fits(
        [partial(work, Attempt(*bounds)) for bounds in ATTEMPTS], model_management.soft_empty_cache
    )


def is_out_of_memory(error: Exception) -> bool:
    """Whether that is what an error says, in ComfyUI's words too."""
    # On some devices ComfyUI's own exception is Exception itself, which would say so of everything.
    specific = model_management.OOM_EXCEPTION is not Exception
    if specific and isinstance(error, model_management.OOM_EXCEPTION):
        return True
    return memory.is_out_of_memory(error)
