"""What nodes show of their results: one video in temp, not a picture a frame."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import cv2
import numpy as np
import torch
from comfy_api.latest import io, ui
from numpy.typing import NDArray
from torch import Tensor

from combcn_core.clips.pictures import outline_mask
from combcn_core.clips.video import ClipInfo, open_writer

from .scratch import Scratch
from .sockets import from_pictures, to_pictures

SIDE_PIXELS = 768
FPS = Fraction(24)  # IMAGE has no rate


def outlined(frames: Tensor, holes: NDArray[np.bool_]) -> tuple[Tensor, ui.PreviewVideo]:
    """Frames with an outline around their holes, as IMAGE and as what the node shows.

    Args:
        frames: (T, H, W, 3) float.
        holes: (T, H, W).
    """
    pairs = zip(to_pictures(frames), holes, strict=True)
    pictures = [outline_mask(*pair) for pair in pairs]
    return torch.cat([from_pictures(picture) for picture in pictures]), preview_video(pictures)


def preview_video(pictures: Sequence[NDArray[np.uint8]]) -> ui.PreviewVideo:
    """Show frames, (H, W, 3) uint8 each, as H.264 of at most `SIDE_PIXELS`, which browsers play."""
    height, width = pictures[0].shape[:2]
    scale = min(1.0, SIDE_PIXELS / max(height, width))
    # Even, since browsers play 4:2:0 only.
    size = (max(2, round(width * scale / 2) * 2), max(2, round(height * scale / 2) * 2))
    with Scratch() as scratch:
        path = scratch.keep(".mp4")
    with open_writer(path, ClipInfo(*size, FPS)) as writer:
        for picture in pictures:
            if size != (width, height):
                picture = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
            writer.write(picture)
    return ui.PreviewVideo([ui.SavedResult(path.name, "", io.FolderType.temp)])
