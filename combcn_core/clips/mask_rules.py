"""What of a mask's picture means the hole: as it was asked for, or as the file itself tells."""

from __future__ import annotations

import functools
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from combcn_core.pixels import Mask

MaskChannel = Literal["auto", "alpha", "luma", "red", "green", "blue"]
MissingMasks = Literal["refuse", "repeat", "empty"]

_LUMA = np.array([0.2126, 0.7152, 0.0722])  # of BT.709
_COLORS = {"red": 0, "green": 1, "blue": 2}
_PICTURE_SHARE = 0.5  # of a mask's pixels that are neither black nor white
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


class Picture(NamedTuple):
    """A mask as its file has it."""

    color: NDArray[Any]  # (H, W, C), unsigned integers or floats
    alpha: NDArray[Any] | None = None  # (H, W), as color
    numbers: NDArray[Any] | None = None  # (H, W), of objects; of a palette, or gray
    names_objects: bool = False  # by a palette: numbers, not brightness, are what is meant


class MaskValues:
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
            warn_once(
                f"mask {self._path} covers more than {_NEARLY_ALL:.0%} of most frames; if it is "
                "white on what is to stay, pass --invert-mask."
            )

    def look_at(self, values: NDArray[Any], scale: float) -> None:
        """Say so where a mask is a picture: painted over, with the frame left around it."""
        few = values[::4, ::4]
        if ((few > scale / 8) & (few < scale * 7 / 8)).mean() > _PICTURE_SHARE:
            warn_once(
                f"mask {self._path} is a picture rather than a mask: most of it is neither black "
                "nor white, and what is bright in it counts as hole; paint all but the object "
                "black, or cut the object out as alpha."
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


def full_scale(values: NDArray[Any]) -> float:
    return 1.0 if np.issubdtype(values.dtype, np.floating) else float(np.iinfo(values.dtype).max)


def from_half(values: NDArray[Any]) -> Mask:
    """True at half of the range or more."""
    if np.issubdtype(values.dtype, np.floating):
        return values >= 0.5
    return values > np.iinfo(values.dtype).max // 2


class Rule(NamedTuple):
    """How the pixels of all masks of a file are read."""

    channel: MaskChannel
    opaque: bool = True  # of alpha: this side of it is hole
    objects: frozenset[int] | None = None

    def apply(self, picture: Picture, path: Path) -> tuple[Mask, NDArray[Any]]:
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
            return from_half(alpha) == self.opaque, alpha
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
        return from_half(values), values


@functools.lru_cache(maxsize=256)
def say_once(text: str) -> None:
    log.info("%s", text)


@functools.lru_cache(maxsize=256)
def warn_once(text: str) -> None:
    log.warning("%s", text)
