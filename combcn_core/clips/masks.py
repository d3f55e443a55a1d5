"""Mask files as people have them: which pixels of an image, a video or an array are the hole.

Painted white on black, cut out by transparency, numbered by object, one frame short: what can be
told from the file is done, what cannot is said in a sentence that names the flag for it.
"""

from __future__ import annotations

import functools
import itertools
import logging
import re
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from combcn_core.clips import exr
from combcn_core.clips.frames import ClipInfo, Mask, PathLike, Reader
from combcn_core.clips.images import (
    IMAGE_ENDINGS,
    image_files,
    is_exr,
    is_pattern,
    png_palette,
    read_image,
)
from combcn_core.clips.video import check_exists, open_reader
from combcn_core.pixels import PackedMask

MaskChannel = Literal["auto", "alpha", "luma", "red", "green", "blue"]
MissingMasks = Literal["refuse", "repeat", "empty"]

MASK_ENDINGS = IMAGE_ENDINGS
ARRAY_ENDINGS = (".npy", ".npz")

_LUMA = np.array([0.2126, 0.7152, 0.0722])  # of BT.709
_COLORS = {"red": 0, "green": 1, "blue": 2}
_COLORFUL = 32  # of 255: a palette with an entry this far from gray names objects
_NOISE = 8 / 255  # of lossy files: what is below is no value that someone chose
_NEARLY_ALL = 0.9  # of a frame: more is a sign of an inverted mask

log = logging.getLogger("combcn")


@dataclass(frozen=True)
class MaskConfig:
    """How mask files are to be understood."""

    mask_channel: MaskChannel = "auto"
    """What of a mask means the hole. auto: alpha if it varies, else the brightest colour. alpha:
    where it is opaque; see also --invert-mask."""
    mask_objects: str | None = None
    """Numbers of the objects to remove, such as 1,8, in masks that hold a number a pixel (palette
    PNGs of data sets, 0/1 masks); "all" for every number above 0."""
    mask_missing: MissingMasks = "refuse"
    """What to do where masks and frames differ in number. repeat: the mask before stands in for
    one that is missing; empty: nothing does. Masks left over are dropped."""
    invert_mask: bool = False
    """Remove what the mask leaves black, and keep what is white."""
    follow_masks: bool = False
    """Carry masks drawn on some frames to all of them: a folder of images, or one, with the
    numbers of their frames in their names."""
    take_shadows: bool = False
    """Grow masks by the shadows and reflections of what they cover, where other frames show the
    ground without."""

    def __post_init__(self) -> None:
        _ = self.objects  # raises what the property raises, before anything is read

    @property
    def objects(self) -> frozenset[int] | None:
        """The numbers asked for; empty for all above 0, None where none were.

        Raises:
            ValueError: something other than numbers above 0 and commas.
        """
        if self.mask_objects is None:
            return None
        if self.mask_objects == "all":
            return frozenset()
        parts = self.mask_objects.split(",")
        if not all(part.strip().isdecimal() and int(part) > 0 for part in parts):
            raise ValueError(
                f"mask objects are {self.mask_objects}; give numbers above 0, such as 1,8, or all."
            )
        return frozenset(int(part) for part in parts)


def read_mask(
    source: PathLike,
    info: ClipInfo,
    *,
    config: MaskConfig | None = None,
    fit_mask: bool = False,
    allow_truncated: bool = False,
) -> MaskReader:
    """Open the holes of a clip: an image for all frames, a folder of images, a video, an array, or
    a box.

    A pixel is hole where its largest channel reaches half of the range (128 of 255, 32768 of
    65535, 0.5 in EXR), so white, red, soft and compressed masks all work. There are two exceptions:

    - Alpha that is not the same everywhere is the mask, and the side of it that covers less of the
      frame is hole: the transparent one in what ComfyUI's mask editor saves, the opaque one in an
      object cut out. In an image of one colour it is the opaque one. The first mask with such alpha
      decides for all, and the log says what it was.
    - In a PNG with a palette of colours that starts with black, as data sets have it, every entry
      but the first is hole.

    Arrays (.npy, .npz with one array) are (height, width), (frames, height, width) or (frames,
    objects, height, width): bool, floats with 0.5 or more as hole, unsigned integers as in images,
    signed integers with all above 0 as hole. Objects are merged.

    Args:
        source: a path, or "x,y,w,h" in pixels of the frame as displayed.
        info: of the clip's reader. If that reads a range of frames, masks for the whole clip are
            cut to it; masks for the range alone do as well.
        config: the defaults of `MaskConfig` if None.
        fit_mask: resize masks to the clip, nearest neighbour.
        allow_truncated: as in `open_reader`, for a mask that is a video.

    Raises:
        ValueError: missing or unreadable; sizes differ without `fit_mask`, or by a quarter turn; as
            many frames as neither one nor the clip has, without `mask_missing`; a box without area
            or beyond the frame; what `config` asks for is not in the file. While iterating: no mask
            reaches half of the range, though the masks are not empty.
    """
    config = config or MaskConfig()
    if re.fullmatch(r"\s*-?\d+\s*(,\s*-?\d+\s*){3}", str(source)):
        box = _box_mask(str(source), info)
        return MaskReader(_Box(box), info, [0], config, fit_mask)
    path = Path(source)
    if not is_pattern(path):
        check_exists(path, "give an image, a folder of images, a video, or x,y,w,h")
    masks = _open(path, config, info, allow_truncated)
    chosen = [0] if len(masks) == 1 else _positions(masks, info, config)
    return MaskReader(masks, info, chosen, config, fit_mask)


def read_drawn(
    source: PathLike, info: ClipInfo, *, config: MaskConfig | None = None, fit_mask: bool = False
) -> dict[int, Mask]:
    """Read masks drawn on some frames of a clip.

    Args:
        source: a folder of images, or one, with the number of its frame last in each name: as in
            the names of the source's images, or from 0 in a video.
        info: of the clip's reader.
        config, fit_mask: as in `read_mask`.

    Returns:
        Index of a frame in the source -> its mask, (H, W) bool.

    Raises:
        ValueError: no images, a name without a number or with one that the clip lacks, all masks
            empty; else as `read_mask`.
    """
    config = config or MaskConfig()
    path = Path(source)
    if not is_pattern(path):
        check_exists(path, "give a folder with the masks that were drawn")
    if not (path.is_dir() or path.suffix.lower() in MASK_ENDINGS):
        raise ValueError(
            f"{path} is no folder of images, and --follow-masks goes by the numbers in their "
            "names; give one, or leave --follow-masks out."
        )
    masks = _Images(path, config)
    places = _frame_places(info)
    names = masks.names or ()
    indices = [places.get(frame_number(name)) for name in names]
    for name, index in zip(names, indices, strict=True):
        if index is None:
            raise ValueError(
                f"mask {name} in {path} has no number of a frame of the clip, which are "
                f"{_span(places)}; name each mask by its frame."
            )
        if indices.count(index) > 1:
            raise ValueError(f"{path} has two masks for frame {frame_number(name)}; leave one.")
    reader = MaskReader(masks, replace(info, indices=range(len(masks))), [], config, fit_mask)
    drawn = dict(zip(indices, reader.fitted(range(len(masks))), strict=True))
    if not any(mask.any() for mask in drawn.values()):
        raise ValueError(f"the masks in {path} are all empty; draw the object on at least one.")
    return {index: mask for index, mask in drawn.items() if index is not None}


def _frame_places(info: ClipInfo) -> dict[int | None, int]:
    """Number of a frame -> its index in the source."""
    if info.names is not None and info.path is not None:
        numbers = [frame_number(file.stem) for file in image_files(info.path)]
        if None not in numbers and len(set(numbers)) == len(numbers):
            return {number: index for index, number in enumerate(numbers)}
    return {index: index for index in range(info.total_frames or 0)}


def _span(places: dict[int | None, int]) -> str:
    numbers = [number for number in places if number is not None]
    return f"{min(numbers, default=0)} to {max(numbers, default=0)}"


def keep_masks(masks: Mapping[int, PackedMask], info: ClipInfo) -> MaskReader:
    """Read masks that are in memory.

    Args:
        masks: index of a frame in the source -> its mask.
        info: of the clip's reader; all of its frames have masks.
    """
    assert info.indices is not None
    return MaskReader(_Kept(masks), info, info.indices, MaskConfig(), False)


class MaskReader(Reader[Mask]):
    """Yields a (H, W) bool array for each frame of the clip, True inside the hole.

    Never ends if the length of the clip is not known. The arrays are not to be written into: a
    mask that stands still is one array.

    Attributes:
        is_of_range: there are masks for the frames that the clip's reader yields, and for no
            others.
    """

    def __init__(
        self,
        masks: _Masks,
        info: ClipInfo,
        positions: Sequence[int | None],
        config: MaskConfig,
        fit_mask: bool,
    ) -> None:
        super().__init__()
        self._masks = masks
        self._info = info
        self._positions = positions
        self._config = config
        self._fit_mask = fit_mask
        total = info.total_frames
        self.is_of_range = 1 < len(masks) == info.num_frames and len(masks) != total
        self._still: Mask | None = None
        # Read beforehand, so that what is wrong shows before any work is done.
        seen = _Seen(masks.path, info.num_frames)
        first = next((position for position in positions if position is not None), None)
        if first is not None:
            mask = self._fitted(first, next(masks.read([first], seen)))
            if len(masks) == 1:
                self._still = mask
                seen.check()

    def fitted(self, positions: Sequence[int]) -> list[Mask]:
        """The masks at increasing positions of their file, whatever frames they are for."""
        seen = _Seen(self._masks.path, len(positions))
        masks = self._masks.read(positions, seen)
        found = [self._fitted(at, mask) for at, mask in zip(positions, masks, strict=True)]
        seen.check()
        return found

    def _items(self) -> Generator[Mask, None, None]:
        if self._still is not None:
            forever = itertools.repeat(self._still)
            yield from itertools.islice(forever, self._info.num_frames)
            return
        seen = _Seen(self._masks.path, self._info.num_frames)
        wanted = sorted({position for position in self._positions if position is not None})
        masks = self._masks.read(wanted, seen)
        empty = np.zeros((self._info.height, self._info.width), bool)
        last: int | None = None
        mask = empty
        for position in self._positions:
            if position is not None and position != last:
                mask = self._fitted(position, next(masks))
                last = position
            yield empty if position is None else mask
        seen.check()

    def _fitted(self, position: int, mask: Mask) -> Mask:
        if self._config.invert_mask:
            mask = ~mask
        size = (self._info.width, self._info.height)
        if mask.shape == size[::-1]:
            return mask
        which = "mask" if len(self._masks) == 1 else f"mask {position}"
        sizes = f"{which} is {mask.shape[1]}x{mask.shape[0]} but the clip is {size[0]}x{size[1]}"
        if mask.shape == size:
            raise ValueError(
                f"{sizes}{' as its rotation tag has it shown' * self._info.is_turned}, which is a "
                "quarter turn; rotate the mask."
            )
        if not self._fit_mask:
            raise ValueError(
                f"{sizes}; pass a mask of that size, or have it resized (--fit-mask, resize_mask)."
            )
        resized = cv2.resize(mask.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST_EXACT)
        return resized.astype(bool)


# --- what a pixel means ---------------------------------------------------------------------------


class _Picture(NamedTuple):
    """A mask as its file has it."""

    color: NDArray[Any]  # (H, W, C), unsigned integers or floats
    alpha: NDArray[Any] | None = None  # (H, W), as color
    numbers: NDArray[Any] | None = None  # (H, W), of objects; of a palette, or gray
    names_objects: bool = False  # by a palette: numbers, not brightness, are what is meant


class _Seen:
    """What was found in masks so far, and what that says about them as a whole."""

    def __init__(self, path: Path, num_frames: int | None) -> None:
        self._path = path
        self._num_frames = num_frames or 1
        self._largest = 0.0  # value, of full
        self._scale = 1.0
        self._has_hole = False
        self._num_full = 0

    def add(self, mask: Mask, largest: float, scale: float, noise: float) -> None:
        """Take in a mask, before it is inverted, and the largest value that is in its file."""
        self._has_hole = self._has_hole or bool(mask.any())
        if largest > noise and largest > self._largest:
            self._largest, self._scale = largest, scale
        self._num_full += int(np.count_nonzero(mask) > _NEARLY_ALL * mask.size)
        if 2 * self._num_full > self._num_frames:
            _warn_once(
                f"mask {self._path} covers more than {_NEARLY_ALL:.0%} of most frames; if it is "
                "white on what is to stay, pass --invert-mask."
            )

    def check(self) -> None:
        """At the end: masks with values that are all below half are none that are empty."""
        if self._has_hole or not self._largest:
            return
        value = f"{self._largest * self._scale:g}"
        what = "full is 1" if self._scale == 1 else f"{self._scale:g} is full"
        raise ValueError(
            f"the largest value in mask {self._path} is {value} where {what}, and hole is from "
            f"half on; pass --mask-objects {value if value.isdecimal() else 'all'} if it is the "
            "number of an object, --mask-objects all if all above 0 is hole, or brighten it."
        )


def _full_scale(values: NDArray[Any]) -> float:
    return 1.0 if np.issubdtype(values.dtype, np.floating) else float(np.iinfo(values.dtype).max)


def _from_half(values: NDArray[Any]) -> Mask:
    """True at half of the range or more."""
    if np.issubdtype(values.dtype, np.floating):
        return values >= 0.5
    return values > np.iinfo(values.dtype).max // 2


class _Rule(NamedTuple):
    """How the pixels of all masks of a file are read."""

    channel: MaskChannel
    opaque: bool = True  # of alpha: this side of it is hole
    objects: frozenset[int] | None = None

    def apply(self, picture: _Picture, path: Path) -> tuple[Mask, NDArray[Any]]:
        """(H, W), and the values that decided."""
        color, alpha, numbers, names_objects = picture
        if self.objects is not None:
            if numbers is None:
                raise ValueError(
                    f"mask {path} holds no numbers of objects, which --mask-objects needs; give "
                    "gray images or ones with a palette, lossless."
                )
            found = np.isin(numbers, list(self.objects)) if self.objects else numbers > 0
            return found, found.astype(np.uint8)
        if self.channel == "alpha":
            if alpha is None:
                raise ValueError(
                    f"mask {path} has no alpha; leave --mask-channel out, or give one that has."
                )
            return _from_half(alpha) == self.opaque, alpha
        if self.channel in _COLORS:
            values = color[..., min(_COLORS[self.channel], color.shape[2] - 1)]
        elif self.channel == "luma" and color.shape[2] == 3:
            values = color @ _LUMA
            if np.issubdtype(color.dtype, np.integer):
                values = np.rint(values).astype(color.dtype)
        elif names_objects and numbers is not None:
            found = numbers > 0
            return found, found.astype(np.uint8)
        else:
            values = functools.reduce(np.maximum, np.moveaxis(color, 2, 0))  # max(axis=2) is slow
        return _from_half(values), values


@functools.lru_cache(maxsize=256)
def _say_once(text: str) -> None:
    log.info("%s", text)


@functools.lru_cache(maxsize=256)
def _warn_once(text: str) -> None:
    log.warning("%s", text)


# --- where masks come from ------------------------------------------------------------------------


# (path, number of masks, when it changed) -> what its alpha means
_alpha_rules: dict[tuple[Path, int, int], _Rule] = {}


class _Masks(ABC):
    """The masks of a source."""

    names: Sequence[str] | None = None  # of files, without endings
    noise = 0.0  # values up to this come from compression

    def __init__(self, path: Path, config: MaskConfig) -> None:
        self.path = path
        self._config = config

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def pictures(self, positions: Sequence[int]) -> Iterator[_Picture]:
        """Those at increasing positions."""

    def read(self, positions: Sequence[int], seen: _Seen) -> Iterator[Mask]:
        """The masks at increasing positions, (H, W) each."""
        for picture in self.pictures(positions):
            mask, values = self.rule.apply(picture, self.path)
            scale = _full_scale(values)
            seen.add(mask, float(values.max()) / scale, scale, self.noise)
            yield mask

    @functools.cached_property
    def rule(self) -> _Rule:
        """By what was asked for, or by the first mask whose alpha is not the same everywhere."""
        channel, objects = self._config.mask_channel, self._config.objects
        if objects is not None or channel != "auto":
            return _Rule(channel, objects=objects)
        place = self.path.parent if is_pattern(self.path) else self.path
        key = (self.path.absolute(), len(self), place.stat().st_mtime_ns)
        if key not in _alpha_rules:  # all masks may have to be read to know
            _alpha_rules[key] = self._alpha_rule()
        return _alpha_rules[key]

    def _alpha_rule(self) -> _Rule:
        for color, alpha, *_ in self.pictures(range(len(self))):
            if alpha is None:
                break
            if alpha.min() == alpha.max():
                continue
            opaque = (color == color[0, 0]).all() or 2 * int(_from_half(alpha).sum()) < alpha.size
            _say_once(
                f"mask {self.path}: its alpha is the mask, and what is "
                f"{'opaque' if opaque else 'transparent'} is hole; --mask-channel luma takes its "
                "colours, --mask-channel alpha what is opaque."
            )
            return _Rule("alpha", bool(opaque))
        return _Rule("auto")


class _Box(_Masks):
    def __init__(self, mask: Mask) -> None:
        super().__init__(Path(), MaskConfig())
        self._mask = mask

    def __len__(self) -> int:
        return 1

    def pictures(self, positions: Sequence[int]) -> Iterator[_Picture]:
        raise NotImplementedError

    def read(self, positions: Sequence[int], seen: _Seen) -> Iterator[Mask]:
        yield self._mask


class _Kept(_Masks):
    def __init__(self, masks: Mapping[int, PackedMask]) -> None:
        super().__init__(Path(), MaskConfig())
        self._packed = masks

    def __len__(self) -> int:
        return len(self._packed)

    def pictures(self, positions: Sequence[int]) -> Iterator[_Picture]:
        raise NotImplementedError

    def read(self, positions: Sequence[int], seen: _Seen) -> Iterator[Mask]:
        return (self._packed[position].whole() for position in positions)


class _Images(_Masks):
    def __init__(self, path: Path, config: MaskConfig) -> None:
        super().__init__(path, config)
        self._files = image_files(path, MASK_ENDINGS)
        self.names = [file.stem for file in self._files]
        if any(file.suffix.lower() in (".jpg", ".jpeg", ".webp") for file in self._files):
            self.noise = _NOISE

    def __len__(self) -> int:
        return len(self._files)

    def pictures(self, positions: Sequence[int]) -> Iterator[_Picture]:
        for position in positions:
            file = self._files[position]
            try:
                picture = _read_picture(file, self._config.objects is not None)
            except ValueError as error:
                if len(self._files) == 1:
                    raise
                raise ValueError(f"mask {position}: {error}") from None
            yield picture


def _read_picture(path: Path, wants_numbers: bool) -> _Picture:
    if is_exr(path):
        image = exr.read_levels(path)
        return _Picture(image[..., :3], image[..., 3] if image.shape[2] > 3 else None)
    image = read_image(path)
    color, alpha = image[..., :3], image[..., 3] if image.shape[2] > 3 else None
    palette = png_palette(path)
    if palette is not None:
        colors, numbers = palette
        spread = int((colors.max(axis=1) - colors.min(axis=1)).max())
        names_objects = spread > _COLORFUL and not colors[0].any()
        return _Picture(color, alpha, numbers, names_objects)
    is_lossless = path.suffix.lower() not in (".jpg", ".jpeg")
    is_gray = wants_numbers and is_lossless and (color == color[..., :1]).all()
    return _Picture(color, alpha, color[..., 0] if is_gray else None)


class _Video(_Masks):
    noise = _NOISE

    def __init__(self, path: Path, config: MaskConfig, allow_truncated: bool) -> None:
        super().__init__(path, config)
        self._allow_truncated = allow_truncated
        total = open_reader(path, allow_truncated=allow_truncated).info.total_frames
        assert total is not None
        self._num_frames = total

    def __len__(self) -> int:
        return self._num_frames

    def pictures(self, positions: Sequence[int]) -> Iterator[_Picture]:
        wanted = frozenset(positions)
        video = open_reader(
            self.path,
            frames=(min(wanted), max(wanted)),
            allow_truncated=self._allow_truncated,
            with_alpha=True,
        )
        with video:
            for frame in video:
                if frame.index in wanted:
                    alpha = None if frame.stored is None else frame.stored[..., 3]
                    yield _Picture(frame.pixels, alpha)


class _Array(_Masks):
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

    def pictures(self, positions: Sequence[int]) -> Iterator[_Picture]:
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
            yield _Picture(values[..., None], None, numbers)


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


def _open(path: Path, config: MaskConfig, info: ClipInfo, allow_truncated: bool) -> _Masks:
    ending = path.suffix.lower()
    if path.is_dir() or ending in MASK_ENDINGS:
        return _Images(path, config)
    if ending in ARRAY_ENDINGS:
        return _Array(path, config, info.total_frames)
    return _Video(path, config, allow_truncated)


def _box_mask(text: str, info: ClipInfo) -> Mask:
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


# --- which mask goes with which frame -------------------------------------------------------------


def frame_number(name: str) -> int | None:
    """The last number in the name of a file; None without any."""
    digits = re.findall(r"\d+", name)
    return int(digits[-1]) if digits else None


def _matched(masks: _Masks, info: ClipInfo) -> dict[int, int] | None:
    """Index of a frame in the source -> position of the mask with its number, where the names of
    fewer masks than frames say so."""
    total = info.total_frames
    if masks.names is None or total is None or len(masks) >= total:
        return None
    places = _frame_places(info)
    numbers = [frame_number(name) for name in masks.names]
    found = {places[number]: at for at, number in enumerate(numbers) if number in places}
    in_order = list(found) == sorted(found) and len(found) == len(masks)
    return found if in_order else None


def _positions(masks: _Masks, info: ClipInfo, config: MaskConfig) -> Sequence[int | None]:
    """Which of several masks goes with each frame that the clip's reader yields."""
    total, num_masks = info.total_frames, len(masks)
    # A mask made for the whole clip is longer than what is left of a clip cut short.
    whole = num_masks == total or (info.truncated and total is not None and num_masks > total)
    if info.indices is not None and whole:
        return info.indices
    if num_masks == info.num_frames or total is None:
        return range(num_masks)
    matched = _matched(masks, info)
    if config.mask_missing == "refuse":
        if num_masks % total == 0:
            hint = (
                f"or merge the {num_masks // total} of each frame into one (Prepare Mask does, and "
                "an array of frames, objects, height, width is merged)"
            )
        elif matched is not None:
            hint = (
                "or have them carried to the other frames (--follow-masks), or leave those alone "
                "(--mask-missing empty)"
            )
        elif num_masks > total:
            hint = "or drop what is left over (--mask-missing empty)"
        else:
            hint = "or say what stands in for those at the end (--mask-missing repeat or empty)"
        raise ValueError(
            f"mask has {num_masks} frames but the clip has {total}; pass one image, or one per "
            f"frame, {hint}."
        )
    given = matched or {index: index for index in range(num_masks)}
    indices = range(total) if info.indices is None else info.indices
    if config.mask_missing == "empty":
        return [given.get(index) for index in indices]
    known = sorted(given)
    places = np.searchsorted(known, list(indices), side="right") - 1
    return [given[known[max(int(place), 0)]] for place in places]
