"""Mask files as people have them: which pixels of an image, a video or an array are the hole.

Painted white on black, cut out by transparency, numbered by object, one frame short: what can be
told from the file is done, what cannot is said in a sentence that names the flag for it.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Generator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np

from combcn_core.clips.frames import ClipInfo, PathLike, Reader
from combcn_core.clips.images import image_files, is_pattern
from combcn_core.clips.mask_rules import MaskConfig, MaskValues
from combcn_core.clips.mask_sources import (
    MASK_ENDINGS,
    ImageMasks,
    KeptMasks,
    Masks,
    box_mask,
    open_masks,
)
from combcn_core.clips.video import check_exists
from combcn_core.pixels import Mask, PackedMask


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
        box = KeptMasks({0: PackedMask.of(box_mask(str(source), info))})
        return MaskReader(box, info, [0], config, fit_mask)
    path = Path(source)
    if not is_pattern(path):
        check_exists(path, "give an image, a folder of images, a video, or x,y,w,h")
    masks = open_masks(path, config, info, allow_truncated)
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
    masks = ImageMasks(path, config)
    places = _frame_places(info)
    names = masks.names or ()
    indices = [places.get(frame_number(name)) for name in names]
    for name, index in zip(names, indices, strict=True):
        if index is None:
            raise ValueError(
                f"mask {name} in {path} has no number of a frame of the clip, which are "
                f"{_span(places)}; give it the number of the frame it was drawn on, last in its "
                f"name, such as mask_{next(iter(places))}.png."
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


def drawn_numbers(info: ClipInfo) -> dict[int, int]:
    """Index of a frame in the source -> the number that a mask drawn on it has in its name."""
    places = _frame_places(info)
    return {index: number for number, index in places.items() if number is not None}


def _span(places: dict[int | None, int]) -> str:
    numbers = [number for number in places if number is not None]
    return f"{min(numbers, default=0)} to {max(numbers, default=0)}"


def keep_masks(masks: Mapping[int, PackedMask], info: ClipInfo) -> MaskReader:
    """Read masks that are in memory.

    Args:
        masks: index of a frame in the source -> its mask.
        info: of the clip's reader; all of its frames have masks.
    """
    return MaskReader(KeptMasks(masks), info, info.read_indices, MaskConfig(), False)


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
        masks: Masks,
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
        seen = MaskValues(masks.path, info.num_frames)
        first = next((position for position in positions if position is not None), None)
        if first is not None:
            mask = self._fitted(first, next(masks.read([first], seen)))
            if len(masks) == 1:
                self._still = mask
                seen.check()

    def fitted(self, positions: Sequence[int]) -> list[Mask]:
        """The masks at increasing positions of their file, whatever frames they are for."""
        seen = MaskValues(self._masks.path, len(positions))
        masks = self._masks.read(positions, seen)
        found = [self._fitted(at, mask) for at, mask in zip(positions, masks, strict=True)]
        seen.check()
        return found

    def _items(self) -> Generator[Mask, None, None]:
        if self._still is not None:
            forever = itertools.repeat(self._still)
            yield from itertools.islice(forever, self._info.num_frames)
            return
        seen = MaskValues(self._masks.path, self._info.num_frames)
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


# --- which mask goes with which frame -------------------------------------------------------------


def frame_number(name: str) -> int | None:
    """The last number in the name of a file; None without any."""
    digits = re.findall(r"\d+", name)
    return int(digits[-1]) if digits else None


def _matched(masks: Masks, info: ClipInfo) -> dict[int, int] | None:
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


def _positions(masks: Masks, info: ClipInfo, config: MaskConfig) -> Sequence[int | None]:
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
