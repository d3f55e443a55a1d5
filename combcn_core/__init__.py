"""CombCN: fill the holes of a video through time first, paint detail second.

Images are (T, H, W, 3) RGB tensors, uint8, uint16 or float in [0, 1]; masks (T, H, W), 1 inside the
hole. See `inpaint` for clips in memory and `inpaint_file` for files of any length.
"""

from combcn_core.clips.masks import MaskConfig
from combcn_core.fill.follow import follow_masks
from combcn_core.masks import composite
from combcn_core.measure.evaluate import EvaluateConfig, evaluate
from combcn_core.measure.predict import Prediction, self_test
from combcn_core.measure.scores import Score
from combcn_core.networks.checkpoint import load_model, read_model_info, save_model
from combcn_core.networks.inference import InferenceModel, prepare
from combcn_core.networks.layers import CombCN, NetworkConfig
from combcn_core.progress import Progress
from combcn_core.shadows import TakenShadows, take_shadows
from combcn_core.shot import (
    InpaintConfig,
    coarse_size,
    fill_rest,
    infer_temporal,
    inpaint,
    propagate,
    restore_detail,
    synthesize_texture,
    upsample_guidance,
)
from combcn_core.stream.files import inpaint_file, write_masks
from combcn_core.stream.report import Report
from combcn_core.training.config import TrainConfig
from combcn_core.training.footage import footage_from_images, scan_footage
from combcn_core.training.train import train
from combcn_core.version import __version__

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
