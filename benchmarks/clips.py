"""Clips as folders: NAME/frames/ and NAME/masks/ (white = object)."""

from __future__ import annotations

from pathlib import Path

import cv2
import torch
from torch import Tensor


def read_image(path: Path) -> Tensor:
    """(H, W, 3) uint8 RGB"""
    image = cv2.imread(str(path))
    assert image is not None, path
    return torch.from_numpy(cv2.cvtColor(image, cv2.COLOR_BGR2RGB))


def read_frames(clip: Path, num_frames: int | None = None) -> Tensor:
    """(T, H, W, 3) uint8 RGB; the first ones, or all"""
    paths = sorted((clip / "frames").iterdir())[:num_frames]
    return torch.stack([read_image(path) for path in paths])


def read_masks(clip: Path) -> Tensor:
    """(T, H, W) bool"""
    paths = sorted((clip / "masks").iterdir())
    return torch.stack([read_image(path)[..., 0] >= 128 for path in paths])
