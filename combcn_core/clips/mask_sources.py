"""Masks by where they come from: a box, memory, images, a video, an array."""

from __future__ import annotations

import functools
import zipfile
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from combcn_core.clips import exr
from combcn_core.clips.frames import ClipInfo
from combcn_core.clips.images import (
    IMAGE_ENDINGS,
    image_files,
    is_exr,
    is_pattern,
    png_palette,
    read_image,
)
from combcn_core.clips.mask_rules import (
    MaskConfig,
    MaskValues,
    Picture,
    Rule,
    from_half,
    full_scale,
    say_once,
    warn_once,
)
from combcn_core.clips.video import open_reader
from combcn_core.pixels import Mask, PackedMask

MASK_ENDINGS = IMAGE_ENDINGS
ARRAY_ENDINGS = (".npy", ".npz")

_COLORFUL = 32  # of 255: a palette with an entry this far from gray names objects
_NOISE = 8 / 255  # of lossy files: what is below is no value that someone chose

# (path, number of masks, when it changed) -> what its alpha means
_alpha_rules: dict[tuple[Path, int, int], Rule] = {}


class Masks(ABC):
    """The masks of a source."""

    names: Sequence[str] | None = None  # of files, without endings
    noise = 0.0  # values up to this come from compression

    def __init__(self, path: Path, config: MaskConfig) -> None:
        self.path = path
        self._config = config

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def pictures(self, positions: Sequence[int]) -> Iterator[Picture]:
        """Those at increasing positions."""

    def read(self, positions: Sequence[int], seen: MaskValues) -> Iterator[Mask]:
        """The masks at increasing positions, (H, W) each."""
        for picture in self.pictures(positions):
            mask, values = self.rule.apply(picture, self.path)
            scale = full_scale(values)
            seen.look_at(values, scale)
            seen.add(mask, float(values.max()) / scale, scale, self.noise)
            yield mask

    @functools.cached_property
    def rule(self) -> Rule:
        """By what was asked for, or by the first mask whose alpha is not the same everywhere."""
        channel, objects = self._config.mask_channel, self._config.objects
        if objects is not None or channel != "auto":
            return Rule(channel, objects=objects)
        place = self.path.parent if is_pattern(self.path) else self.path
        key = (self.path.absolute(), len(self), place.stat().st_mtime_ns)
        if key not in _alpha_rules:  # all masks may have to be read to know
            _alpha_rules[key] = self._alpha_rule()
        return _alpha_rules[key]

    def _alpha_rule(self) -> Rule:
        for color, alpha, *_ in self.pictures(range(len(self))):
            if alpha is None:
                break
            if alpha.min() == alpha.max():
                continue
            opaque = (color == color[0, 0]).all() or 2 * int(from_half(alpha).sum()) < alpha.size
            say_once(
                f"mask {self.path}: its alpha is the mask, and what is "
                f"{'opaque' if opaque else 'transparent'} is hole; --mask-channel luma takes its "
                "colours, --mask-channel alpha what is opaque."
            )
            return Rule("alpha", bool(opaque))
        return Rule("auto")


class KeptMasks(Masks):
    def __init__(self, masks: Mapping[int, PackedMask]) -> None:
        super().__init__(Path(), MaskConfig())
        self._packed = masks

    def __len__(self) -> int:
        return len(self._packed)

    def pictures(self, positions: Sequence[int]) -> Iterator[Picture]:
        raise NotImplementedError

    def read(self, positions: Sequence[int], seen: MaskValues) -> Iterator[Mask]:
        return (self._packed[position].whole() for position in positions)


class ImageMasks(Masks):
    def __init__(self, path: Path, config: MaskConfig) -> None:
        super().__init__(path, config)
        self._files = image_files(path, MASK_ENDINGS)
        self.names = [file.stem for file in self._files]
        if any(file.suffix.lower() in (".jpg", ".jpeg", ".webp") for file in self._files):
            self.noise = _NOISE

    def __len__(self) -> int:
        return len(self._files)

    def pictures(self, positions: Sequence[int]) -> Iterator[Picture]:
        for position in positions:
            file = self._files[position]
            try:
                picture = _read_picture(file, self._config.objects is not None)
            except ValueError as error:
                if len(self._files) == 1:
                    raise
                raise ValueError(f"mask {position}: {error}") from None
            yield picture


def _read_picture(path: Path, wants_numbers: bool) -> Picture:
    if is_exr(path):
        image = exr.read_levels(path)
        return Picture(image[..., :3], image[..., 3] if image.shape[2] > 3 else None)
    image = read_image(path, gray=True)
    color, alpha = image[..., :3], image[..., 3] if image.shape[2] > 3 else None
    palette = png_palette(path)
    if palette is not None:
        colors, numbers = palette
        spread = int((colors.max(axis=1) - colors.min(axis=1)).max())
        names_objects = spread > _COLORFUL and not colors[0].any()
        return Picture(color, alpha, numbers, names_objects)
    is_lossless = path.suffix.lower() not in (".jpg", ".jpeg")
    is_gray = wants_numbers and is_lossless and (color == color[..., :1]).all()
    return Picture(color, alpha, color[..., 0] if is_gray else None)


class VideoMasks(Masks):
    noise = _NOISE

    def __init__(self, path: Path, config: MaskConfig, allow_truncated: bool) -> None:
        super().__init__(path, config)
        self._allow_truncated = allow_truncated
        info = open_reader(path, allow_truncated=allow_truncated).info
        assert info.total_frames is not None
        self._num_frames, self._indices = info.total_frames, info.read_indices
        if len(self._indices) < self._num_frames:
            warn_once(
                f"mask {path} is damaged: {len(self._indices)} of {self._num_frames} frames "
                "decode, and the one before stands in for each of the others."
            )

    def __len__(self) -> int:
        return self._num_frames

    def pictures(self, positions: Sequence[int]) -> Iterator[Picture]:
        # Of a damaged video, the mask before stands in for one that does not decode.
        places = [max(bisect_right(self._indices, position) - 1, 0) for position in positions]
        decoded = [self._indices[place] for place in places]
        video = open_reader(
            self.path,
            frames=(min(decoded), max(decoded)),
            allow_truncated=self._allow_truncated,
            with_alpha=True,
        )
        waiting = deque(decoded)
        with video:
            for frame in video:
                while waiting and waiting[0] == frame.index:
                    waiting.popleft()
                    alpha = None if frame.stored is None else frame.stored[..., 3]
                    yield Picture(frame.pixels, alpha)


class ArrayMasks(Masks):
    def __init__(self, path: Path, config: MaskConfig, num_frames: int | None) -> None:
        super().__init__(path, config)
        array = _load_array(path)
        if array.ndim == 4 and array.shape[-1] == 1:
            array = array[..., 0]
        if array.ndim == 2:
            array = array[None]
        self._objects_axis: int | None = None
        if array.ndim == 4:
            # Frames come first, unless only the other order fits the clip.
            self._objects_axis = 0 if array.shape[0] != num_frames == array.shape[1] else 1
        elif array.ndim != 3:
            raise ValueError(
                f"mask {path} is an array of shape {array.shape}; give (height, width), (frames, "
                "height, width) or (frames, objects, height, width)."
            )
        if 0 in array.shape:
            raise ValueError(f"mask {path} is an array of shape {array.shape}; give one with data.")
        self._array = array

    def __len__(self) -> int:
        return int(self._array.shape[1 if self._objects_axis == 0 else 0])

    def pictures(self, positions: Sequence[int]) -> Iterator[Picture]:
        for position in positions:
            at = (slice(None), position) if self._objects_axis == 0 else (position,)
            values = np.asarray(self._array[at])
            if self._objects_axis is not None:
                values = values.max(axis=0)
            numbers = None
            if values.dtype == np.bool_:
                values = values.astype(np.uint8) * np.uint8(255)
            elif np.issubdtype(values.dtype, np.floating):
                if np.isnan(values).any():
                    raise ValueError(f"mask {position} of {self.path} has NaN; give 0 to 1.")
                values = values.astype(np.float32)
            else:
                numbers = values
                if np.issubdtype(values.dtype, np.signedinteger):
                    values = (values > 0).astype(np.uint8) * np.uint8(255)
            yield Picture(values[..., None], None, numbers)


def _load_array(path: Path) -> NDArray[Any]:
    try:
        if path.suffix.lower() == ".npy":
            loaded = np.load(path, mmap_mode="r", allow_pickle=False)
        else:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
                if len(arrays.files) != 1:
                    names = ", ".join(arrays.files) or "none"
                    raise ValueError(f"it has the arrays {names}; give one with a single array")
                loaded = arrays[arrays.files[0]]
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"mask {path} cannot be read as an array: {error}.") from None
    if loaded.dtype.kind not in "biuf":
        raise ValueError(f"mask {path} is an array of {loaded.dtype}; give bool or numbers.")
    return loaded


def open_masks(path: Path, config: MaskConfig, info: ClipInfo, allow_truncated: bool) -> Masks:
    ending = path.suffix.lower()
    if path.is_dir() or ending in MASK_ENDINGS:
        return ImageMasks(path, config)
    if ending in ARRAY_ENDINGS:
        return ArrayMasks(path, config, info.total_frames)
    return VideoMasks(path, config, allow_truncated)


def box_mask(text: str, info: ClipInfo) -> Mask:
    x, y, width, height = (int(part) for part in text.split(","))
    inside = 0 <= x < x + width <= info.width and 0 <= y < y + height <= info.height
    if not inside:
        raise ValueError(
            f"mask box {text} (x,y,w,h) does not lie in the frame, which is "
            f"{info.width}x{info.height}; give one that does."
        )
    mask = np.zeros((info.height, info.width), bool)
    mask[y : y + height, x : x + width] = True
    return mask
