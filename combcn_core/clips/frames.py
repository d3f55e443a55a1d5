"""A clip apart from how it is stored: its frames, what is known of it, its readers and writers."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from bisect import bisect_left, bisect_right
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from combcn_core.pixels import Filled, Pixels, Stored, pixels_of

if TYPE_CHECKING:
    from typing_extensions import Self

Item = TypeVar("Item")

PathLike: TypeAlias = "str | os.PathLike[str]"


@dataclass(frozen=True, eq=False)
class Frame:
    """One frame of a clip."""

    picture: Stored
    index: int  # in the source, from 0
    pts: int | None  # in ClipInfo.time_base; None where the source has no time stamps
    name: str  # of the image file without its ending; of a video, the index in six digits
    # (H, W, C), all that an image file shows, bit for bit, where that is more than `pixels`
    stored: NDArray[Any] | None = None

    @property
    def pixels(self) -> Pixels:
        """(H, W, 3) RGB, C-contiguous."""
        return pixels_of(self.picture)


class MasteringDisplay(NamedTuple):
    """Static metadata of HDR10: SMPTE ST 2086 and CTA-861.3."""

    # x and y of red, green, blue and white (CIE 1931); least and most luminance in cd/m2; or none
    values: tuple[float, ...] = ()
    max_content: int = 0  # light level, cd/m2; 0: not stated
    max_average: int = 0


@dataclass(frozen=True)
class ColorTags:
    """Code points of ITU-T H.273; the defaults mean "not stated"."""

    matrix: int = 2  # 0 RGB, 1 BT.709, 5 and 6 BT.601, 9 BT.2020
    range: int = 0  # 1 limited, 2 full (FFmpeg's numbers)
    primaries: int = 2
    transfer: int = 2
    mastering: MasteringDisplay | None = None


_UNTAGGED = ColorTags()

# Four times 8K, 0.8 GB at 16 bits. A header that states more is damaged, or made to use up memory.
MAX_FRAME_PIXELS = 2**27
# Errors that are no mistake of the caller.
OF_THE_DISK = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT, errno.EIO)
_UINT8 = np.dtype(np.uint8)


@dataclass(frozen=True)
class ClipInfo:
    """All of a clip but its pixels: `open_reader` fills it in, `open_writer` carries it over.

    For frames that come from no file, the first four are enough.
    """

    width: int  # as displayed, rotation applied
    height: int
    fps: Fraction | None  # the average at a variable rate; None for images
    dtype: np.dtype[Any] = _UINT8  # or uint16, or float32: scene-linear images, encoded
    path: Path | None = None
    total_frames: int | None = None  # of the source
    indices: Sequence[int] | None = None  # source indices of the frames that the reader yields
    color: ColorTags = _UNTAGGED
    full_chroma: bool = False  # colour in every pixel, as in RGB and 4:4:4
    sample_aspect_ratio: Fraction | None = None  # None: square pixels
    time_base: Fraction | None = None  # seconds per unit of pts
    pts: tuple[int, ...] | None = field(default=None, repr=False)  # None: a constant rate
    names: tuple[str, ...] | None = field(default=None, repr=False)  # of images, without ending
    last_seconds: Fraction | None = None  # that the last frame stays; None: as the rate says
    field_order: str = ""  # of interlaced frames: tff or bff, which field comes first
    has_alpha: bool = False  # it stays as it is
    has_sound: bool = False
    has_more_tracks: bool = False  # subtitles, chapters, data, ...
    start_seconds: Fraction = Fraction(0)  # of the first frame, on the clock of the file
    stop_seconds: Fraction | None = None  # where sound ends; None: at the end of the file
    metadata: Mapping[str, str] = field(default_factory=dict, repr=False)  # of the file
    stream_metadata: Mapping[str, str] = field(default_factory=dict, repr=False)  # of its video
    truncated: bool = False  # damaged, and read all the same
    is_turned: bool = False  # displayed a quarter turn from how it is stored
    is_flipped: bool = False  # displayed in the size in which it is stored, turned or mirrored

    @property
    def read_indices(self) -> Sequence[int]:
        """`indices` of a clip that comes from a reader."""
        assert self.indices is not None
        return self.indices

    @property
    def num_frames(self) -> int | None:
        """How many frames the reader yields, exactly; None if this comes from no reader."""
        return None if self.indices is None else len(self.indices)


class Reader(Generic[Item]):
    """Can be iterated over as often as needed; a file is open meanwhile."""

    def __init__(self) -> None:
        self._under_way: Generator[Item, None, None] | None = None

    def __iter__(self) -> Iterator[Item]:
        self._under_way = self._items()
        return self._under_way

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """End the iteration under way and close its file."""
        if self._under_way is not None:
            self._under_way.close()
            self._under_way = None

    def _items(self) -> Generator[Item, None, None]:
        raise NotImplementedError


class FrameReader(Reader[Frame]):
    """Yields the frames of a clip, in order; see `open_reader`."""

    info: ClipInfo


class Alpha:
    """The alpha of a clip, frame by frame, for a writer."""

    def __init__(self, reader: FrameReader) -> None:
        self._reader = reader
        self._frames = iter(reader)

    def next(self) -> NDArray[Any]:
        """(H, W), of the type of the pixels; opaque where a frame of a clip with alpha has none."""
        frame = next(self._frames)
        if frame.stored is not None:
            return frame.stored[..., 3]
        pixels = frame.pixels
        return np.full(pixels.shape[:2], np.iinfo(pixels.dtype).max, pixels.dtype)

    def close(self) -> None:
        self._reader.close()


class FrameWriter:
    """Takes the frames of a clip in order, and shows the result when it is whole."""

    def __init__(self, path: Path, info: ClipInfo, scratch: Path | None) -> None:
        self._path = path
        self._info = info
        self._count = 0
        # A hidden sibling: on the same file system, so that the final rename is atomic.
        hidden = f".{path.name}.{secrets.token_hex(4)}.part"
        self._temporary: Path | None = (scratch or path.absolute().parent) / hidden
        try:
            self._create(self._temporary)
        except OSError as error:
            if error.errno in OF_THE_DISK:
                raise
            raise ValueError(
                f"output {path} cannot be written ({error.strerror}); give a place that can be."
            ) from error

    def write(
        self, pixels: Pixels | Filled, pts: int | None = None, name: str | None = None
    ) -> None:
        """Add one frame.

        Args:
            pixels: (H, W, 3) RGB of the clip's size and dtype; or a frame of the source with its
                hole filled, whose other pixels are written as they were decoded where that can be.
            pts: in `info.time_base`. Used at a variable rate only, where the default is the time
                of the source's frame; at a constant rate frames follow each other.
            name: of an image, without ending; the default is that of the source's frame.

        Raises:
            ValueError: another shape or dtype than the clip's, more frames than the clip has.
        """
        info = self._info
        shape = (info.height, info.width, 3)
        given = pixels.frame if isinstance(pixels, Filled) else pixels
        if given.shape != shape or given.dtype != info.dtype:
            raise ValueError(
                f"frame {self._count} is {given.shape} {given.dtype} but the clip is {shape} "
                f"{info.dtype}; convert it before writing."
            )
        if info.num_frames is not None and self._count >= info.num_frames:
            raise ValueError(f"the clip has {info.num_frames} frames; write no more than those.")
        if isinstance(pixels, Filled):
            self._write_filled(pixels, pts, name)
        else:
            self._write(np.ascontiguousarray(pixels), pts, name)
        self._count += 1

    def close(self) -> None:
        """Finish the result and give it its name. Without effect the second time.

        Raises:
            ValueError: fewer frames were written than the clip has; nothing is left then.
        """
        if self._temporary is None:
            return
        expected = self._info.num_frames
        try:
            if self._count == 0 or (expected is not None and self._count != expected):
                raise ValueError(
                    f"{self._path} got {self._count} of {expected or 'at least 1'} frames and was "
                    "not written; write all of them before closing."
                )
            self._finish()
            self._publish(self._temporary)
            self._temporary = None
        finally:
            self.abort()

    def abort(self) -> None:
        """Drop the result; what had its name before stays. Without effect after `close`."""
        if self._temporary is None:
            return
        self._release()
        if self._temporary.is_dir():
            shutil.rmtree(self._temporary, ignore_errors=True)
        else:
            self._temporary.unlink(missing_ok=True)
        self._temporary = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        if kind is None:
            self.close()
        else:
            self.abort()

    def _create(self, temporary: Path) -> None:
        raise NotImplementedError

    def _write(self, pixels: Pixels, pts: int | None, name: str | None) -> None:
        raise NotImplementedError

    def _write_filled(self, frame: Filled, pts: int | None, name: str | None) -> None:
        self._write(frame.whole(), pts, name)

    def _finish(self) -> None:
        pass

    def _release(self) -> None:
        pass

    def _publish(self, temporary: Path) -> None:
        os.replace(temporary, self._path)


def check_frame_size(width: int, height: int, path: Path) -> None:
    """To be asked of a header, before anything of that size is read.

    Raises:
        ValueError: more than `MAX_FRAME_PIXELS`.
    """
    if width * height > MAX_FRAME_PIXELS:
        raise ValueError(
            f"{path} says that it is {width}x{height} pixels, but frames have at most "
            f"{MAX_FRAME_PIXELS:,} here; replace it with a whole copy, or make it smaller."
        )


def select_frames(
    indices: Sequence[int], frames: tuple[int, int] | None, path: Path
) -> Sequence[int]:
    """Those of the increasing `indices` that are in the range `frames`, ends included."""
    if frames is None:
        return indices
    first, last = frames
    if not 0 <= first <= last <= indices[-1]:
        raise ValueError(
            f"frames {first}-{last} were asked of {path}, which has frames 0-{indices[-1]}; give "
            "a range within these."
        )
    chosen = indices[bisect_left(indices, first) : bisect_right(indices, last)]
    if not chosen:
        raise ValueError(f"{path} has no frame in {first}-{last} that decodes; give another range.")
    return chosen
