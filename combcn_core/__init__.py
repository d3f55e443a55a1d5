"""CombCN: fill the holes of a video through time first, paint detail second.

Images are (T, H, W, 3) RGB tensors, uint8, uint16 or float in [0, 1]; masks (T, H, W), 1 inside the
hole. See `inpaint` for clips in memory and `inpaint_file` for files of any length.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from combcn_core.version import __version__

if TYPE_CHECKING:
    from combcn_core.clips.mask_rules import MaskConfig
    from combcn_core.fill.follow import follow_masks
    from combcn_core.fill.shadows import TakenShadows, take_shadows
    from combcn_core.fill.stages import fill_rest, propagate, synthesize_texture
    from combcn_core.masks import composite
    from combcn_core.measure.evaluate import evaluate
    from combcn_core.measure.predict import Prediction, self_test
    from combcn_core.measure.scores import Score
    from combcn_core.measure.trials import EvaluateConfig
    from combcn_core.networks.checkpoint import load_model, read_model_info, save_model
    from combcn_core.networks.config import NetworkConfig
    from combcn_core.networks.inference import InferenceModel, prepare
    from combcn_core.networks.layers import CombCN
    from combcn_core.networks.restore import coarse_size, infer_temporal, upsample_guidance
    from combcn_core.networks.scales import restore_detail
    from combcn_core.progress import Progress
    from combcn_core.shot import InpaintConfig, inpaint
    from combcn_core.stream.files import inpaint_file, write_masks
    from combcn_core.stream.report import Report
    from combcn_core.training.config import TrainConfig
    from combcn_core.training.footage import footage_from_images, scan_footage
    from combcn_core.training.train import train

# What is exported, by the module that has it. A module is read when one of its names is asked for,
# since PyTorch alone takes a second, and files without networks need none.
_EXPORTS = {
    "clips.mask_rules": "MaskConfig",
    "fill.follow": "follow_masks",
    "fill.shadows": "TakenShadows take_shadows",
    "fill.stages": "fill_rest propagate synthesize_texture",
    "masks": "composite",
    "measure.evaluate": "evaluate",
    "measure.predict": "Prediction self_test",
    "measure.scores": "Score",
    "measure.trials": "EvaluateConfig",
    "networks.checkpoint": "load_model read_model_info save_model",
    "networks.config": "NetworkConfig",
    "networks.inference": "InferenceModel prepare",
    "networks.layers": "CombCN",
    "networks.restore": "coarse_size infer_temporal upsample_guidance",
    "networks.scales": "restore_detail",
    "progress": "Progress",
    "shot": "InpaintConfig inpaint",
    "stream.files": "inpaint_file write_masks",
    "stream.report": "Report",
    "training.config": "TrainConfig",
    "training.footage": "footage_from_images scan_footage",
    "training.train": "train",
}
_MODULES = {name: module for module, names in _EXPORTS.items() for name in names.split()}

__all__ = [
    "CombCN",
    "EvaluateConfig",
    "InferenceModel",
    "InpaintConfig",
    "MaskConfig",
    "NetworkConfig",
    "Prediction",
    "Progress",
    "Report",
    "Score",
    "TakenShadows",
    "TrainConfig",
    "__version__",
    "coarse_size",
    "composite",
    "evaluate",
    "fill_rest",
    "follow_masks",
    "footage_from_images",
    "infer_temporal",
    "inpaint",
    "inpaint_file",
    "load_model",
    "prepare",
    "propagate",
    "read_model_info",
    "restore_detail",
    "save_model",
    "scan_footage",
    "self_test",
    "synthesize_texture",
    "take_shadows",
    "train",
    "upsample_guidance",
    "write_masks",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'combcn_core' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"combcn_core.{_MODULES[name]}"), name)
    globals()[name] = value  # asked for once
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
