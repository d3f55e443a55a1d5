"""Scene-linear OpenEXR images: read, encoded for flow and networks, and written back.

Flow and networks see colours on the curve of ACEScct, which keeps shadows and highlights apart and
is the same for every frame. A frame is written over a copy of its source: only colours that differ
from what was read are decoded and replaced, and all else, whatever its value, stays bit for bit.
"""

from __future__ import annotations

import functools
import importlib
import logging
import shutil
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from combcn_core.clips.frames import check_frame_size

log = logging.getLogger("combcn")

Array: TypeAlias = NDArray[Any]

# ACEScct: a straight line below the break, a logarithm above.
_SLOPE, _OFFSET, _BREAK = 10.5402377416545, 0.0729055341958355, 0.0078125
_LOG_OFFSET, _LOG_SCALE = 9.72, 17.52
LEAST = -_OFFSET / _SLOPE  # becomes 0
LARGEST = 65504.0  # of 16-bit floats
_BELOW = -(2.0**-10)  # no fill is below 0, so in a hole it is seen that such a value was replaced

# PXR24 rounds 32-bit floats to 24 bits, which those that come out of it already are.
_LOSSLESS = ("NO", "RLE", "ZIPS", "ZIP", "PIZ", "PXR24", "HTJ2K256", "HTJ2K32", "ZSTD")


def encode(linear: Array) -> Array:
    """Scene-linear values on the curve of ACEScct.

    Args:
        linear: floats of any shape. Above 65504 (`LARGEST`) they count as that.

    Returns:
        float32 in [0, 1.468]: 0.073 for black, 0.414 for 0.18, 0.555 for 1, 1 for 223; -1/1024
        for NaN and whatever is below -0.0069 (`LEAST`).

    Source: Academy S-2016-001, "ACEScct"; the curve alone, primaries stay those of the file.
    """
    values = np.nan_to_num(linear.astype(np.float32), nan=-1).clip(-1, LARGEST)
    line = _SLOPE * values + _OFFSET
    curve = (np.log2(np.maximum(values, _BREAK)) + _LOG_OFFSET) / _LOG_SCALE
    encoded = np.where(values <= _BREAK, line, curve)
    return np.where(encoded >= 0, encoded, _BELOW).astype(np.float32)


def decode(values: Array) -> Array:
    """The inverse of `encode`, float32. Every 16-bit float in its range comes back exactly."""
    values = values.astype(np.float32).clip(0, None)
    line = (values - _OFFSET) / _SLOPE
    curve = np.exp2(np.minimum(values, 2) * _LOG_SCALE - _LOG_OFFSET)
    linear = np.where(line <= _BREAK, line, curve)
    return np.minimum(linear, LARGEST).astype(np.float32)


def read(path: Path) -> tuple[Array, Array]:
    """Read the colours of an image as its display window shows them; black where it has no data.

    Returns:
        (H, W, 3) float32, encoded; and (H, W, C) uint32, the bits of R, G, B or Y, and of A if
        there is one.

    Raises:
        ValueError: does not decode, deep, subsampled or mipmapped, no colours, or OpenEXR is not
            installed.
    """
    image = _Image(path)
    return image.encoded(), image.bits()


def read_levels(path: Path) -> Array:
    """Read an image that may be a mask: (H, W, C) float32, as stored, NaN as 0.

    C are R, G and B (Y for each), and A if there is one; or A alone, or the only channel.

    Raises:
        ValueError: as `read`.
    """
    image = _Image(path, needs_colors=False)
    names = [*image.rgb, *image.alpha] or list(image.channels)
    levels = [image.shown(np.nan_to_num(image.channels[name].pixels, nan=0)) for name in names]
    return np.stack(levels, axis=-1).astype(np.float32)


def write(path: Path, source: Path, pixels: Array) -> None:
    """Write an image that is its source but for the pixels that differ.

    Alpha, other channels and parts, both windows and the header are those of the source. So is the
    compression, unless it is lossy: then it is ZIP, since known pixels would change.

    Args:
        path: to write.
        source: the image that these pixels were read from.
        pixels: (H, W, 3), encoded. What differs outside the data window is dropped.
    """
    image = _Image(source)
    changed = pixels != image.encoded()
    if not changed.any():
        shutil.copyfile(source, path)
        return
    rows, columns = image.display_place
    changed, values = changed[rows, columns], decode(pixels[rows, columns])
    if len(image.colors) == 1:
        changed, values = changed.any(axis=2, keepdims=True), values.mean(axis=2, keepdims=True)
    for index, name in enumerate(image.colors):
        known = image.channels[name].pixels[image.data_place]
        known[changed[..., index]] = values[..., index][changed[..., index]]
    for part in image.file.parts:
        name = part.header["compression"].name.removesuffix("_COMPRESSION")
        if name not in _LOSSLESS:
            _say_once(name, source.parent)
            part.header["compression"] = _library(source).ZIP_COMPRESSION
    image.file.write(str(path))


class _Image:
    """A file read whole, and where in it the colours are."""

    def __init__(self, path: Path, needs_colors: bool = True) -> None:
        library = _library(path)
        headers = [part.header for part in _open(path, header_only=True).parts]
        for header in headers:
            _check_windows(header, path)
        self.file = _open(path, separate_channels=True)
        if len(self.file.parts) < len(headers):  # OpenEXR 3.5 leaves out what does not decode
            raise ValueError(f"image {path} does not decode; replace it with a whole copy.")
        for part in self.file.parts:
            _check_kind(part, path, library)

        found = [(part, *_find_colors(list(part.channels))) for part in self.file.parts]
        part, self.colors, self.alpha = next((item for item in found if item[1]), found[0])
        self.rgb = self.colors * 3 if len(self.colors) == 1 else self.colors
        self.channels = part.channels
        if not self.colors and (needs_colors or (not self.alpha and len(self.channels) > 1)):
            raise ValueError(
                f"image {path} has channels {', '.join(self.channels)}; give one with R, G and B, "
                "or Y, or a single layer of these."
            )
        if any(self.channels[name].pixels.dtype == np.uint32 for name in self.colors):
            raise ValueError(f"image {path} has colours of whole numbers; give one of floats.")

        (first, last), (data_first, data_last) = (
            part.header["displayWindow"],
            part.header["dataWindow"],
        )
        begin = np.maximum(first, data_first)
        width, height = np.maximum(np.minimum(last, data_last) + 1 - begin, 0)
        self._shape = tuple((last - first + 1)[::-1])

        def place(left: int, top: int) -> tuple[slice, slice]:
            return slice(top, top + height), slice(left, left + width)

        # Of what both windows cover: in the display window, and in arrays of the data window.
        self.display_place = place(*(begin - first))
        self.data_place = place(*(begin - data_first))

    def shown(self, values: Array) -> Array:
        """What the display window shows of a channel; 0 outside the data window."""
        result = np.zeros(self._shape, values.dtype)
        result[self.display_place] = values[self.data_place]
        return result

    def encoded(self) -> Array:
        """(H, W, 3) float32; see `encode`."""
        planes = [encode(self.shown(self.channels[name].pixels)) for name in self.rgb]
        return np.stack(planes, axis=-1)

    def bits(self) -> Array:
        """(H, W, C) uint32 of the colours and of alpha."""
        planes = [self.channels[name].pixels for name in [*self.colors, *self.alpha]]
        return np.stack(
            [self.shown(plane.view(f"u{plane.itemsize}")).astype(np.uint32) for plane in planes],
            axis=-1,
        )


def _open(path: Path, **how: bool) -> Any:
    try:
        return _library(path).File(str(path), **how)
    except (RuntimeError, ValueError) as error:
        text = f"image {path} does not decode ({error}); replace it with a whole copy."
        raise ValueError(text) from None


def _check_windows(header: Any, path: Path) -> None:
    for window in ("displayWindow", "dataWindow"):
        (left, top), (right, bottom) = np.array(header[window]).tolist()
        check_frame_size(right - left + 1, bottom - top + 1, path)


def _check_kind(part: Any, path: Path, library: Any) -> None:
    tiles = part.header.get("tiles")
    kind = ""
    if part.header["type"] not in (library.scanlineimage, library.tiledimage):
        kind = "is deep"
    elif any((c.xSampling, c.ySampling) != (1, 1) for c in part.channels.values()):
        kind = "has subsampled channels"
    elif tiles is not None and tiles.mode != library.ONE_LEVEL:
        kind = "has mipmaps"
    if kind:
        raise ValueError(f"image {path} {kind}, which is not supported; save it as a plain EXR.")


def _find_colors(names: list[str]) -> tuple[list[str], list[str]]:
    """The names of R, G, B or Y, and of A, as far as they are there; else those of a sole layer."""
    layers = [name[:-1] for name in names if name.endswith(".R")]
    for layer in ["", *layers] if len(layers) == 1 else [""]:
        alpha = [name for name in names if name == f"{layer}A"]
        for colors in ("RGB", "Y"):
            wanted = [f"{layer}{color}" for color in colors]
            if set(wanted) <= set(names):
                return wanted, alpha
    return [], [name for name in names if name == "A"]


def _library(path: Path) -> Any:
    try:
        return importlib.import_module("OpenEXR")
    except ImportError:
        raise ValueError(
            f"{path} is an EXR image, which needs the package OpenEXR; install it with: "
            "pip install OpenEXR"
        ) from None


@functools.lru_cache(maxsize=64)
def _say_once(compression: str, folder: Path) -> None:
    text = "%s is compressed with %s, which loses; written with ZIP, so that known pixels stay."
    log.warning(text, folder, compression)
