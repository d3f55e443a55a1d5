"""Between ComfyUI's sockets and `combcn_core`: the only place where layouts change.

IMAGE is (T, H, W, C) float, RGB in [0, 1], with or without alpha; MASK is (T, H, W) or (H, W)
float, 1 inside the hole. The core takes both as they are, but for alpha and half precision, and on
the CPU, where all but the networks run; ComfyUI may keep them on a GPU.
"""

from typing import Any

import numpy as np
import torch
from comfy import model_management
from comfy_api.latest import io
from numpy.typing import NDArray
from torch import Tensor

from combcn_core.masks import check_masks

Model = io.Custom("COMBCN_MODEL")  # a memory.LoadedModel

_NO_ALPHA_SIDE = 64  # Load Image gives an empty mask of this size for a picture without alpha


def to_images(image: Tensor, name: str = "images") -> Tensor:
    """IMAGE as the core takes it: (T, H, W, 3) float32. Alpha is left out.

    Raises:
        ValueError: it is no batch of RGB or RGBA frames.
    """
    if image.ndim != 4 or image.shape[-1] not in (3, 4) or 0 in image.shape:
        raise ValueError(
            f"{name} has shape {tuple(image.shape)}; connect frames in colour, "
            f"(frames, height, width, 3)."
        )
    return image[..., :3].cpu().float()


def to_masks(mask: Tensor, images: Tensor, name: str = "mask") -> Tensor:
    """MASK as the core takes it, which also checks it against the images.

    Raises:
        ValueError: it is the empty mask that Load Image makes up.
    """
    side = _NO_ALPHA_SIDE
    size = images.shape[1:3]
    if mask.shape[-2:] == (side, side) and size != (side, side) and not mask.any():
        raise ValueError(
            f"{name} is empty and {side}x{side}, which is what Load Image gives for a picture "
            f"without alpha; paint a mask, or connect one of {size[1]}x{size[0]}."
        )
    return mask.cpu().float()


def to_holes(mask: Tensor, images: Tensor, name: str = "mask") -> Tensor:
    """(T, H, W) bool of a MASK, one for each of the images. Raises as `to_masks`."""
    return check_masks(to_masks(mask, images, name), *images.shape[:3])


def to_output(images: Tensor) -> Tensor:
    """IMAGE or MASK where ComfyUI wants to have what passes between nodes."""
    return images.to(model_management.intermediate_device(), torch.float32)


def to_pictures(images: Tensor, dtype: "np.dtype[Any] | type[np.uint8]" = np.uint8) -> NDArray[Any]:
    """(T, H, W, 3) uint8 or uint16 from (T, H, W, 3) or (H, W, 3) float."""
    pixels = images.reshape(-1, *images.shape[-3:]).nan_to_num().clamp(0, 1)
    return (pixels * np.iinfo(dtype).max).round().numpy(force=True).astype(dtype)


def from_pictures(pictures: NDArray[np.uint8]) -> Tensor:
    """IMAGE from (T, H, W, 3) or (H, W, 3) uint8."""
    frames = torch.from_numpy(pictures.reshape(-1, *pictures.shape[-3:]))
    return to_output(frames.float() / 255)
