"""Networks as ComfyUI wants to have them: on its device, in its precision, within its memory."""

import copy
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from comfy import model_management
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from combcn_core import CombCN, coarse_size

log = logging.getLogger("combcn")

Result = TypeVar("Result")

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
SEGMENT_FRAMES = (32, 16, 8, 4, 2, 1)  # output frames computed at a time; fewer where memory ends

# Values that the networks keep at once, counted from their tables and rounded up generously.
TEMPORAL_VALUES_PER_PIXEL = 200  # of the low-resolution clip
DETAIL_VALUES_PER_PIXEL = 400  # of a frame


@dataclass(frozen=True)
class LoadedModel:
    """What passes through a COMBCN_MODEL socket.

    Attributes:
        model: the weights as they are in the file, never rounded.
        patcher: what runs, in the precision asked for; ComfyUI moves it to the device and back.
        facts: what the checkpoint says about its training.
    """

    model: CombCN
    patcher: ModelPatcher
    facts: Mapping[str, Any]


def hold(model: CombCN, facts: Mapping[str, Any], precision: str = "auto") -> LoadedModel:
    """Put a model under ComfyUI's memory management.

    Args:
        model: in float32, on the CPU.
        facts: kept for saving.
        precision: one of PRECISIONS, or "auto" for what ComfyUI would take on its device.
    """
    device = model_management.get_torch_device()
    if precision != "auto":
        dtype = PRECISIONS[precision]
    elif model_management.should_use_fp16(device):
        dtype = torch.float16
    elif model_management.should_use_bf16(device):
        dtype = torch.bfloat16
    else:
        dtype = torch.float32
    runs = model
    if dtype != torch.float32:
        with torch.inference_mode(False):  # whose tensors could never be trained
            runs = copy.deepcopy(model).to(dtype)
    patcher = ModelPatcher(
        runs, load_device=device, offload_device=model_management.unet_offload_device()
    )
    return LoadedModel(model, patcher, facts)


def ready(loaded: LoadedModel, images: Tensor, segment_frames: int) -> CombCN:
    """The networks, on the device, with room beside them for a segment of these frames."""
    height, width = images.shape[1:3]
    low_height, low_width = coarse_size(loaded.model, height, width)
    values = TEMPORAL_VALUES_PER_PIXEL * low_height * low_width * (segment_frames + 26)
    values += DETAIL_VALUES_PER_PIXEL * height * width
    network: CombCN = loaded.patcher.model
    itemsize = next(network.parameters()).element_size()
    model_management.load_models_gpu(
        [loaded.patcher], memory_required=values * itemsize, force_full_load=True
    )
    return network.to(loaded.patcher.load_device)  # --novram would leave it where it was


def backing_off(attempt: Callable[[int], Result], sizes: Iterable[int], what: str) -> Result:
    """Try ever smaller sizes until one fits into memory.

    Args:
        attempt: does the work with a size.
        sizes: largest first.
        what: they count, for the log.
    """
    *larger, smallest = sizes
    for size, smaller in zip(larger, [*larger[1:], smallest], strict=True):
        try:
            return attempt(size)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
        model_management.soft_empty_cache()
        log.warning("Out of memory with %d %s; trying again with %d.", size, what, smaller)
    return attempt(smallest)


def is_out_of_memory(error: Exception) -> bool:
    """Whether that is what an error says, on any device."""
    # On some devices ComfyUI's own exception is Exception itself, which would say so of everything.
    specific = model_management.OOM_EXCEPTION is not Exception
    if specific and isinstance(error, model_management.OOM_EXCEPTION):
        return True
    signs = ("out of memory", "allocate memory", "alloc_failed")
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(sign in str(error).lower() for sign in signs)
    )
