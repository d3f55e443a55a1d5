"""YUV and RGB: the colours of decoded frames, and of frames for an encoder."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from av.video.frame import VideoFrame
from av.video.plane import VideoPlane
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

from combcn_core.clips.frames import ColorTags
from combcn_core.pixels import Box, Pixels, crop, crop_box, moved_box

# Colour. swscale is not asked to convert between YUV and RGB: measured, it is off by 0.4% of the
# range above 8 bits (white of 10 bits becomes 65283 of 65535), takes chroma to lie in different
# places on the way in and out, and in PyAV 14 mixes up full and limited range. One matrix product
# on 16-bit samples is exact and as fast.

_KR_KB = {  # H.273 matrix -> weights of red and blue in luma
    1: (0.2126, 0.0722),
    4: (0.30, 0.11),
    5: (0.299, 0.114),
    6: (0.299, 0.114),
    7: (0.212, 0.087),
    9: (0.2627, 0.0593),
}

# Repacked by swscale without loss; formats not named here go through 4:4:4 of at least their bits.
_PLANAR_TWINS = {"nv12": "yuv420p", "yuyv422": "yuv422p", "uyvy422": "yuv422p"}


def _weights(color: ColorTags, height: int, width: int) -> tuple[float, float]:
    matrix = color.matrix
    if matrix == 2:
        matrix = 1 if width > 1024 or height > 576 else 5
    return _KR_KB[matrix]


def check_matrix(color: ColorTags, path: Path) -> None:
    """Refuse YUV that would come out in wrong colours.

    Raises:
        ValueError: YCgCo, constant luminance, a number that H.273 reserves, or RGB that is none.
    """
    if color.matrix != 2 and color.matrix not in _KR_KB:
        raise ValueError(
            f"{path} has the colour matrix {color.matrix} (H.273), which is not supported; convert "
            "it to BT.709 first."
        )


@functools.lru_cache(maxsize=16)
def _rgb_to_yuv(
    weights: tuple[float, float], full: bool, bits: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """3x3 matrix and 3-vector that take RGB in [0, 1] to YUV codes in the top bits of 16."""
    kr, kb = weights
    kg = 1 - kr - kb
    matrix = np.array(
        [
            [kr, kg, kb],
            [-kr / (2 * (1 - kb)), -kg / (2 * (1 - kb)), 0.5],
            [0.5, -kg / (2 * (1 - kr)), -kb / (2 * (1 - kr))],
        ]
    )
    if full:
        luma = chroma = 65536.0 - 2 ** (16 - bits)  # the largest code, shifted
        offset = np.array([0.0, 32768.0, 32768.0])
    else:
        luma, chroma = 219 * 256.0, 224 * 256.0
        offset = np.array([16 * 256.0, 32768.0, 32768.0])
    return matrix * np.array([[luma], [chroma], [chroma]]), offset


def yuv_to_pixels(
    yuv: NDArray[Any],
    color: ColorTags,
    bits: int,
    dtype: np.dtype[Any],
    size: tuple[int, int],
) -> Pixels:
    """Convert (H, W, 3) YUV, codes in the top bits of 16, to RGB of `dtype`.

    Args:
        size: (height, width) of the whole frame, which decides where the tags do not.
    """
    forward, offset = _rgb_to_yuv(_weights(color, *size), color.range == 2, bits)
    inverse = np.linalg.inv(forward)
    # 8 bits: eight more below them, and one half for the shift to round.
    scale, half = (65535.0, 0.0) if dtype == np.uint16 else (255 * 256.0, 128.0)
    affine = np.column_stack([inverse, -inverse @ offset]) * scale
    affine[:, 3] += half
    rgb = _transform(yuv, affine)
    return rgb if dtype == np.uint16 else (rgb >> 8).astype(np.uint8)


_STRIPE_PIXELS = 2**16  # that are converted at a time
_BLOCK_PIXELS = 64  # that OpenCV converts at a time, or fewer


def _transform(image: NDArray[Any], affine: NDArray[np.float64]) -> NDArray[Any]:
    """cv2.transform of uint16, which rounds and saturates; a pixel's value, to the last bit, is the
    same wherever in an image it lies: those left over from blocks are rounded otherwise by it."""
    flat = np.ascontiguousarray(image).reshape(1, -1, 3)
    blocks = flat.shape[1] // _BLOCK_PIXELS * _BLOCK_PIXELS
    if blocks == flat.shape[1]:
        return cv2.transform(flat, affine).reshape(image.shape)
    result = np.empty_like(flat)
    if blocks:
        result[:, :blocks] = cv2.transform(flat[:, :blocks], affine)
    last = np.zeros((1, _BLOCK_PIXELS, 3), image.dtype)
    last[:, : flat.shape[1] - blocks] = flat[:, blocks:]
    result[:, blocks:] = cv2.transform(last, affine)[:, : flat.shape[1] - blocks]
    return result.reshape(image.shape)


def _pixels_to_yuv(
    pixels: Pixels, color: ColorTags, bits: int, size: tuple[int, int]
) -> NDArray[Any]:
    """Convert RGB to (H, W, 3) YUV, scaled as codes in the top bits of 16 but not yet rounded."""
    matrix, offset = _rgb_to_yuv(_weights(color, *size), color.range == 2, bits)
    affine = np.column_stack([matrix / np.iinfo(pixels.dtype).max, offset])
    return _transform(pixels.astype(np.uint16), affine)


def _quantize(samples: NDArray[Any], bits: int) -> NDArray[Any]:
    """Round 16-bit-scaled samples to codes of `bits`."""
    codes = np.rint(samples * np.float32(2.0 ** (bits - 16))).clip(0, 2**bits - 1)
    return codes.astype(np.uint8 if bits == 8 else np.uint16)


# Chroma is taken to lie on even columns and between rows, as H.264, HEVC and ProRes have it. The
# two filters below undo each other exactly, so that pixels nobody touched keep their chroma.


def upsample_chroma(
    chroma: NDArray[Any], height: int, width: int, has_fields: bool = False
) -> NDArray[Any]:
    """Bring chroma of half width, half height or both to (height, width), linearly.

    Each field of an interlaced frame is a picture of its own.
    """
    if has_fields and chroma.shape[0] < height and height % 4 == 0:
        whole = np.empty((height, width), chroma.dtype)
        for first in (0, 1):
            whole[first::2] = upsample_chroma(chroma[first::2], height // 2, width)
        return whole
    if chroma.shape[1] < width:
        left, right = chroma[:, :-1], chroma[:, 1:]
        wide = np.empty((chroma.shape[0], 2 * chroma.shape[1]), chroma.dtype)
        wide[:, ::2], wide[:, -1] = chroma, chroma[:, -1]
        wide[:, 1:-1:2] = (left | right) - ((left ^ right) >> 1)  # (left + right + 1) // 2
        chroma = wide
    if chroma.shape[0] < height:
        size = (chroma.shape[1], 2 * chroma.shape[0])
        chroma = cv2.resize(chroma, size, interpolation=cv2.INTER_LINEAR)
    return chroma[:height, :width]


def downsample_chroma(
    chroma: NDArray[Any], rows: int, columns: int, has_fields: bool = False
) -> NDArray[Any]:
    """Bring chroma to (rows, columns), half of an even size where smaller."""
    if has_fields and rows < chroma.shape[0] and rows % 2 == 0:
        fields = [downsample_chroma(chroma[first::2], rows // 2, columns) for first in (0, 1)]
        return np.stack(fields, axis=1).reshape(rows, columns)
    if columns < chroma.shape[1]:
        kernel = np.array([[-1, 2, 6, 2, -1]], np.float32) / 8
        border = cv2.BORDER_REFLECT_101
        chroma = cv2.filter2D(chroma, cv2.CV_32F, kernel, borderType=border)[:, ::2]
    if rows < chroma.shape[0]:
        kernel = np.array([[-1], [3], [3], [-1]], np.float32) / 4
        border = cv2.BORDER_REFLECT
        chroma = cv2.filter2D(chroma, cv2.CV_32F, kernel, anchor=(0, 1), borderType=border)[::2]
    return chroma


def plane_rows(plane: VideoPlane, dtype: np.dtype[Any]) -> NDArray[Any]:
    """A plane as a writable (rows, line size) view."""
    return np.frombuffer(memoryview(plane), dtype).reshape(plane.height, -1)


def planes_to_pixels(
    codes: Sequence[NDArray[Any]],
    box: Box,
    color: ColorTags,
    bits: int,
    size: tuple[int, int],
    has_fields: bool = False,
) -> Pixels:
    """Convert what a box shows of planar YUV to RGB: the same values whatever the box.

    Some rows at a time, so that nothing in between leaves the caches.

    Args:
        codes: luma, (H, W), and chroma, of half the height, half the width or both, or as luma.
        box: in luma.
        color: tags of the codes.
        bits: of a code.
        size: (H, W).
        has_fields: as in `upsample_chroma`.
    """
    pixels = np.empty((box.height, box.width, 3), np.uint8 if bits <= 8 else np.uint16)
    step = box.height if has_fields else max(16, _STRIPE_PIXELS // box.width // 2 * 2)
    for top in range(box.top, box.bottom, step):
        part = Box(top, box.left, min(top + step, box.bottom), box.right)
        rows = slice(part.top - box.top, part.bottom - box.top)
        pixels[rows] = _stripe_to_pixels(codes, part, color, bits, size, has_fields)
    return pixels


def _stripe_to_pixels(
    codes: Sequence[NDArray[Any]],
    box: Box,
    color: ColorTags,
    bits: int,
    size: tuple[int, int],
    has_fields: bool,
) -> Pixels:
    """As `planes_to_pixels`, all rows at a time."""
    height, width = size
    luma, *chroma = codes
    down, across = -(-height // chroma[0].shape[0]), -(-width // chroma[0].shape[1])
    around = box  # with the chroma that is between two samples, and of the same row of a field
    if down * across > 1:
        around = crop_box(box, 2, 2, height, width)
    if down > 1 and has_fields:
        around = Box(0, around.left, height, around.right)
    top, left, bottom, right = around
    own = [
        plane[top // down : -(-bottom // down), left // across : -(-right // across)]
        for plane in chroma
    ]
    shift = 16 - bits
    own = [
        upsample_chroma(plane.astype(np.uint16) << shift, around.height, around.width, has_fields)
        for plane in own
    ]
    inside = moved_box(box, around)
    planes = [crop(luma, box).astype(np.uint16) << shift, *(crop(one, inside) for one in own)]
    dtype = np.dtype(np.uint8 if bits <= 8 else np.uint16)
    return yuv_to_pixels(cv2.merge(planes), color, bits, dtype, size)


def frame_to_pixels(frame: VideoFrame, color: ColorTags, reformatter: VideoReformatter) -> Pixels:
    """Convert a decoded frame to RGB, rotation not applied."""
    form = frame.format
    bits = max(component.bits for component in form.components)
    if bits > 16:
        raise ValueError(f"{form.name} pixels are not supported; convert the clip to 16 bits.")
    planar_rgb = form.name.startswith("gbr") and form.name.endswith("le")
    if (form.is_rgb and not planar_rgb) or form.name.startswith(("pal", "mono", "ya")):
        packed = "rgb24" if bits <= 8 else "rgb48le"
        return reformatter.reformat(frame, format=packed).to_ndarray()

    subsampled = max(1024 // form.chroma_width(1024), 1024 // form.chroma_height(1024))
    planar = form.name.startswith("gray") or (form.name.startswith("yuv") and form.is_planar)
    little = bits == 8 or form.name.endswith("le")
    if not planar_rgb and not (planar and little and subsampled <= 2):
        twin = _PLANAR_TWINS.get(form.name, "yuv444p" if bits <= 8 else "yuv444p16le")
        bits = 8 if bits <= 8 else 16
        frame = reformatter.reformat(frame, format=twin)
    codes = [
        plane_rows(plane, np.dtype(np.uint8 if bits <= 8 else "<u2"))[:, : plane.width]
        for plane in frame.planes[:3]  # a fourth is alpha
    ]
    if planar_rgb:
        largest = 2**bits - 1
        rgb = np.stack([codes[2], codes[0], codes[1]], axis=-1).astype(np.uint32)
        return ((rgb * 65535 + largest // 2) // largest).astype(np.uint16)
    height, width = codes[0].shape
    if len(codes) == 1:
        codes += [np.full_like(codes[0], 2 ** (bits - 1))] * 2
    whole = Box(0, 0, height, width)
    return planes_to_pixels(codes, whole, color, bits, (height, width), frame.interlaced_frame)


def pixels_to_planes(
    pixels: Pixels,
    color: ColorTags,
    bits: int,
    chroma_size: tuple[int, int],
    has_fields: bool,
    size: tuple[int, int],
) -> list[NDArray[Any]]:
    """Convert RGB to codes of luma and, of (rows, columns), of chroma; `size` as above."""
    luma, *chroma = cv2.split(_pixels_to_yuv(pixels, color, bits, size))
    chroma = [downsample_chroma(plane, *chroma_size, has_fields) for plane in chroma]
    return [_quantize(plane, bits) for plane in (luma, *chroma)]


def pixels_to_frame(
    pixels: Pixels,
    pixel_format: str,
    color: ColorTags,
    has_fields: bool = False,
    alpha: NDArray[Any] | None = None,
) -> VideoFrame:
    """Make a frame for an encoder that takes bgr0, gbrp16le or planar YUV, or these with alpha.

    Args:
        alpha: (H, W), of the type of the pixels, for a format that has it.
    """
    height, width = pixels.shape[:2]
    frame = VideoFrame(width, height, pixel_format)
    planes: list[NDArray[Any]]
    if pixel_format == "bgr0":
        planes = [cv2.cvtColor(pixels, cv2.COLOR_RGB2BGRA).reshape(height, -1)]
    elif pixel_format == "bgra":
        planes = [np.dstack([pixels[..., ::-1], alpha]).reshape(height, -1)]  # type: ignore[list-item]
    elif pixel_format in ("gbrp16le", "gbrap16le"):
        planes = [pixels[..., 1], pixels[..., 2], pixels[..., 0]]
        planes += [] if alpha is None else [alpha]
    else:
        bits = frame.format.components[0].bits
        chroma_size = frame.planes[1].height, frame.planes[1].width
        planes = pixels_to_planes(pixels, color, bits, chroma_size, has_fields, (height, width))
        if alpha is not None:
            share = alpha * ((2**bits - 1) / np.iinfo(alpha.dtype).max)
            planes.append(np.rint(share).astype(planes[0].dtype))
        frame.colorspace, frame.color_range = color.matrix, color.range
    for plane, values in zip(frame.planes, planes, strict=True):
        plane_rows(plane, values.dtype)[:, : values.shape[1]] = values
    return frame


def has_alpha(frame: VideoFrame) -> bool:
    name = frame.format.name
    return name.startswith(("yuva", "gbrap", "ya", "pal8")) or name in _RGBA


# fmt: off
_RGBA = frozenset((
    "rgba", "bgra", "argb", "abgr", "rgba64le", "rgba64be", "bgra64le", "bgra64be",
))
# fmt: on
