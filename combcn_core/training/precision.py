"""Whether the convolutions of a training run in bf16."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from combcn_core.networks.config import NetworkConfig
from combcn_core.networks.inference import fast_precision
from combcn_core.training.config import TrainConfig


def autocast(
    config: TrainConfig, network: NetworkConfig, device: torch.device
) -> AbstractContextManager[Any]:
    """A context in which convolutions run in bf16, where that is asked for, or fast.

    It has the range of fp32, so no loss needs scaling.
    """
    wanted = config.precision == "bf16"
    if config.precision == "auto":
        wanted = fast_precision(device) == "bf16" and bf16_is_right(config, network, device)
        if device.type == "cuda":  # older ones emulate it
            wanted = torch.cuda.get_device_capability(device)[0] >= 8
    return torch.autocast(device.type, torch.bfloat16) if wanted else nullcontext()


def bf16_is_right(config: TrainConfig, network: NetworkConfig, device: torch.device) -> bool:
    """Whether bf16 gives right gradients: where clips are as long as the kernels of every layer.

    Where they are shorter, oneDNN computes the weight gradients of a Conv3d from memory that was
    never written, in bf16 only (measured with PyTorch 2.13 on AVX-512).
    """
    least = 9 if network.time_stride else 5
    return device.type != "cpu" or not network.guidance or config.clip_length >= least
