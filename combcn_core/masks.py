"""Masks and what they decide: where the hole is, what surrounds it, and what may be written.

Masks are (T, H, W) bool, True inside the hole; images are (T, H, W, 3) RGB, in [0, 1] where they
are floats, in the full range of their type where they are uint8 or uint16.
"""

import math
from collections.abc import Callable, Sequence
from functools import lru_cache, partial

import numpy as np
import torch
from torch import Tensor

from combcn_core.pixels import Box, Pixels, feather_mask, find_box, grow_mask

FULL_SCALE = {torch.uint8: 255, torch.uint16: 65535}


def check_masks(masks: Tensor, num_frames: int, height: int, width: int) -> Tensor:
    """Bring the masks a caller gave into the one form that is used here.

    Args:
        masks: (H, W), (1, H, W) or (T, H, W). bool; or uint8 or uint16, where half of the full
            range or more is hole (128, 32768); or float, where 0.5 or more is hole.
        num_frames: T of the images.
        height, width: H and W of the images.

    Returns:
        (T, H, W) bool, True inside the hole. One mask given for all frames is expanded, not
        copied: do not write into it.

    Raises:
        ValueError: another shape or type, or NaN.
    """
    if masks.ndim not in (2, 3):
        raise ValueError(
            f"mask has shape {tuple(masks.shape)}; give (height, width) or "
            f"(frames, height, width), without colour channels."
        )
    if masks.ndim == 2:
        masks = masks[None]
    if masks.shape[1:] != (height, width):
        raise ValueError(
            f"mask is {masks.shape[2]}x{masks.shape[1]} pixels but images are {width}x{height}; "
            f"bring both to one size."
        )
    if len(masks) not in (1, num_frames):
        raise ValueError(
            f"mask has {len(masks)} frames but images has {num_frames}; "
            f"pass one mask, or one per frame."
        )
    if masks.dtype == torch.bool:
        hole = masks
    elif masks.dtype in FULL_SCALE:
        hole = masks.to(torch.int32) > FULL_SCALE[masks.dtype] // 2  # uint16 cannot be compared
    elif masks.is_floating_point():
        if masks.isnan().any():
            raise ValueError("mask has NaN values; give 0 for known pixels and 1 for the hole.")
        hole = masks >= 0.5
    else:
        raise ValueError(
            f"mask is {masks.dtype}; give bool, float from 0 to 1, uint8 from 0 to 255, or "
            f"uint16 from 0 to 65535."
        )
    return hole.expand(num_frames, height, width)


def check_clip(images: Tensor, masks: Tensor) -> Tensor:
    """The masks of a clip as (T, H, W) bool; see `check_masks`.

    Raises:
        ValueError: images that are not (T, H, W, 3) of the types above, masks that do not fit.
    """
    if 0 in images.shape:
        raise ValueError(
            f"images have shape {tuple(images.shape)}; give (frames, height, width, 3)."
        )
    return _check_pair(images, masks).to(images.device)


def to_arrays(images: Tensor) -> list[Pixels]:
    """The frames of a clip, uint8, uint16 or float32."""
    if images.dtype not in (*FULL_SCALE, torch.float32):
        images = images.float()
    return [np.ascontiguousarray(frame.numpy(force=True)) for frame in images]


def to_tensor(frames: Sequence[Pixels], like: Tensor) -> Tensor:
    """The inverse of `to_arrays`: of the type, and on the device, of another clip."""
    return torch.from_numpy(np.stack(frames)).to(like.device, like.dtype)


def bounding_box(masks: Tensor) -> Box | None:
    """Smallest box that holds every hole pixel of all frames; None without any.

    Args:
        masks: (T, H, W) or (H, W) bool.
    """
    hole = masks if masks.ndim == 2 else masks.any(dim=0)
    return find_box(hole.numpy(force=True))


def grow(masks: Tensor, pixels: float) -> Tensor:
    """Grow the hole by a disk, or shrink it.

    Args:
        masks: (T, H, W) bool, from `check_masks`.
        pixels: radius. A pixel is hole afterwards if its centre is at most this far from the centre
            of a hole pixel. Negative: it stays hole only if it is farther than this from every
            known pixel; what is outside the frame counts as neither.

    Returns:
        (T, H, W) bool.
    """
    if pixels == 0:
        return masks
    return _each_frame(partial(grow_mask, pixels=pixels), masks)


def feather_weights(masks: Tensor, pixels: float) -> Tensor:
    """Weights that rise from the edge of the hole inward, never outside it.

    Args:
        masks: (T, H, W) bool, from `check_masks`.
        pixels: distance from the nearest known pixel at which the weight reaches 1; 0 or more.
            The border of the frame is not an edge.

    Returns:
        (T, H, W) float32: 0 on known pixels, smoothstep(distance / pixels) in the hole, above 0.

    Raises:
        ValueError: negative pixels.
    """
    if not (pixels >= 0 and math.isfinite(pixels)):
        raise ValueError(f"feather is {pixels} pixels; give 0 (no feather) or more.")

    return _each_frame(partial(feather_mask, pixels=pixels), masks)


def composite(
    prediction: Tensor,
    images: Tensor,
    masks: Tensor,
    *,
    feather_pixels: float = 0,
    clamp: bool = True,
) -> Tensor:
    """Write the prediction into the hole; every known pixel passes bit for bit.

    Args:
        prediction: (T, H, W, 3) float, RGB in [0, 1].
        images: (T, H, W, 3), uint8, uint16 or float; known pixels may be anything, even inf or
            NaN.
        masks: what `check_masks` takes.
        feather_pixels: blend the prediction into `images` over this many pixels inside the hole.
            Wanted where the outer part of the hole shows what should be seen anyway, as with a
            mask grown well past the object: there it hides a difference in level. Off by default,
            because in a tight hole it brings the object's rim back.
        clamp: limit the prediction to [0, 1]. False only for float images that go beyond, such as
            scene-linear ones; integers are limited to their range in any case.

    Returns:
        (T, H, W, 3) in the type of `images`: in the hole the prediction, rounded to the nearest
        step of uint8 or uint16.

    Raises:
        ValueError: shapes or types other than these, or a prediction of NaN in the hole.
    """
    masks = _check_pair(images, masks)
    if prediction.shape != images.shape or not prediction.is_floating_point():
        raise ValueError(
            f"prediction is {prediction.dtype} of shape {tuple(prediction.shape)} but must be "
            f"float, RGB in [0, 1], of the shape of the images, {tuple(images.shape)}."
        )
    inside = prediction[masks].float()  # (N, 3), of the N hole pixels only
    if inside.isnan().any():
        raise ValueError(
            "prediction has NaN in the hole; if a network made it in half precision, run it with "
            "precision fp32 or bf16."
        )
    scale = FULL_SCALE.get(images.dtype)
    if clamp or scale:
        inside = inside.clamp(0, 1)
    if feather_pixels:
        weights = feather_weights(masks, feather_pixels)[masks][:, None]
        behind = to_float(images)[masks]
        blend = behind + weights * (inside - behind)
        inside = torch.where(blend.isfinite(), blend, inside)
    if scale:
        inside = (inside * scale).round().to(torch.int32)
    result = images.clone()
    if images.dtype == torch.uint16:
        # PyTorch cannot write into uint16 by index; the bits are the same as int16.
        result.view(torch.int16)[masks] = inside.to(torch.uint16).view(torch.int16)
    else:
        result[masks] = inside.to(images.dtype)
    return result


def downsample_known(
    images: Tensor,
    masks: Tensor,
    *,
    size: tuple[int, int],
    is_filled: bool = False,
) -> tuple[Tensor, Tensor]:
    """Average the known pixels of each cell of a coarser grid; the hole never leaks into them.

    Args:
        images: (T, H, W, 3), uint8, uint16 or float. What is in the hole has no effect; a known
            pixel with inf or NaN counts as hole.
        masks: what `check_masks` takes.
        size: (height, width) of the result, at most that of the images. Cell i of n covers i H / n
            to (i + 1) H / n; a pixel that lies in several cells counts in each by its area there.
        is_filled: the hole holds a fill, which counts as known pixels do. NaN counts as 0, inf as 1
            or 0 by its sign.

    Returns:
        (T, h, w, 3) float32, RGB in [0, 1], the mean over the known area of each cell, 0 where it
        has none; and (T, h, w) bool, True where any part of a hole pixel lies in the cell.

    Raises:
        ValueError: a size that is not smaller or equal.
    """
    masks = _check_pair(images, masks)
    height, width = masks.shape[1:]
    if not (1 <= size[0] <= height and 1 <= size[1] <= width):
        raise ValueError(
            f"size is {size[1]}x{size[0]} but images are {width}x{height}; "
            f"give a size from 1x1 to that of the images."
        )
    rows, columns = _overlap(height, size[0]), _overlap(width, size[1])
    low_images, low_masks = [], []
    for image, mask in zip(images, masks.cpu(), strict=True):  # one frame as float at a time
        rgb = to_float(image.cpu())
        if not rgb.sum().isfinite():  # cheaper than to look at each pixel
            mask = mask | ~rgb.isfinite().all(dim=-1)
            rgb = finite(rgb)
        box = None if is_filled else bounding_box(mask)
        counted = torch.ones(height, width, 1)
        if box is not None:
            here = slice(box.top, box.bottom), slice(box.left, box.right)
            counted[here].masked_fill_(mask[here][..., None], 0)
            rgb = rgb.clone()
            rgb[here].masked_fill_(mask[here][..., None], 0)
        area = _sum_cells(counted, rows, columns).clamp_min(torch.finfo(torch.float32).tiny)
        low_images.append(_sum_cells(rgb, rows, columns) / area)
        # The weights are positive, so a sum is 0 only if no hole pixel touches the cell.
        low_masks.append(_sum_cells(mask.float()[..., None], rows, columns)[..., 0] > 0)
    return torch.stack(low_images).to(images.device), torch.stack(low_masks).to(images.device)


def to_float(images: Tensor) -> Tensor:
    """uint8, uint16 or float images of any shape as float32; integers go to [0, 1].

    Raises:
        ValueError: another type.
    """
    if images.dtype in FULL_SCALE:
        return images.to(torch.float32).div_(FULL_SCALE[images.dtype])
    if images.is_floating_point():
        return images.to(torch.float32)
    raise ValueError(f"images are {images.dtype}; give uint8, uint16 or float.")


def finite(images: Tensor) -> Tensor:
    """As float32, without what would spread: NaN becomes 0, inf 1 and its negative 0."""
    if not images.is_floating_point():
        return to_float(images)
    return torch.nan_to_num(to_float(images), nan=0.0, posinf=1.0, neginf=0.0)


def _check_pair(images: Tensor, masks: Tensor) -> Tensor:
    if images.ndim != 4 or images.shape[-1] != 3:
        raise ValueError(
            f"images have shape {tuple(images.shape)}; give (frames, height, width, 3), RGB."
        )
    if images.dtype not in FULL_SCALE and not images.is_floating_point():
        raise ValueError(f"images are {images.dtype}; give uint8, uint16 or float.")
    return check_masks(masks, *images.shape[:3])


def _sum_cells(values: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """(H, W, C) -> (h, w, C): sums over cells, by the weights of `_overlap` for either axis."""
    height, width, channels = values.shape
    sums = torch.sparse.mm(rows, values.reshape(height, -1)).view(-1, width, channels)
    sums = torch.sparse.mm(columns, sums.transpose(0, 1).reshape(width, -1))
    return sums.view(len(columns), len(rows), channels).transpose(0, 1).contiguous()


@lru_cache(maxsize=16)
def _overlap(num_pixels: int, num_cells: int) -> Tensor:
    """(num_cells, num_pixels) sparse: how much of each pixel lies in each of so many cells."""
    # In parts of which a pixel has num_cells and a cell num_pixels.
    cells = np.arange(num_cells)[:, None] * num_pixels
    pixels = np.arange(num_pixels)[None] * num_cells
    low = np.maximum(cells, pixels)
    high = np.minimum(cells + num_pixels, pixels + num_cells)
    weights = torch.from_numpy(np.maximum(high - low, 0) / num_cells).float()
    with torch.inference_mode(False):  # for later calls outside of it
        return weights.clone().to_sparse().coalesce()


def _each_frame(function: Callable[[np.ndarray], np.ndarray], masks: Tensor) -> Tensor:
    static = masks.stride(0) == 0  # one mask for all frames: do the work once
    frames = masks[:1] if static else masks
    result = np.stack([function(hole) for hole in frames.cpu().numpy()])
    return torch.from_numpy(result).to(masks.device).expand(masks.shape)
