"""Images, and folders of them as clips: read (PNG, JPEG, TIFF, ...), and written (PNG, EXR)."""

from __future__ import annotations

import contextlib
import functools
import io
import logging
import os
import re
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import av
import cv2
import numpy as np
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

from combcn_core.clips import exr
from combcn_core.clips.color import frame_to_pixels, has_alpha
from combcn_core.clips.frames import (
    Alpha,
    ClipInfo,
    ColorTags,
    Frame,
    FrameReader,
    FrameWriter,
    check_frame_size,
    select_frames,
)
from combcn_core.pixels import Mask, Pixels, differ

log = logging.getLogger("combcn")

IMAGE_ENDINGS = (
    ".png", ".jpg", ".jpeg", ".tif", ".tiff", ".exr", ".webp", ".bmp", ".tga", ".dpx",
)  # fmt: skip
_BY_FFMPEG = (".tga", ".dpx")  # cv2 has no decoder for these
_HDR_TRANSFERS = (16, 18)  # PQ and HLG of ITU-T H.273
_PATTERN = re.compile(r"%(?:0(\d+))?d")  # of printf, for the number of a frame


def image_files(path: Path, endings: Sequence[str] = IMAGE_ENDINGS) -> list[Path]:
    """The images of a folder in the order of the numbers in their names; or the one image.

    A name with %d or %04d, as ffmpeg has it, stands for the images with a number in its place.
    """
    if path.is_file():
        return [path]
    if is_pattern(path):
        return _matching_files(path)
    files = [
        file
        for file in path.iterdir()
        if file.suffix.lower() in endings and not file.name.startswith(".")
    ]
    if not files:
        kinds = ", ".join(endings)
        raise ValueError(f"folder {path} has no images ({kinds}); give one that has.")
    # Splitting at numbers alternates text and digits, so like is compared with like.
    return sorted(
        files,
        key=lambda file: [
            (int(part), part) if i % 2 else (0, part.casefold())
            for i, part in enumerate(re.split(r"(\d+)", file.name))
        ],
    )


def is_pattern(path: Path) -> bool:
    """Whether a name stands for several files; a file or folder of that very name is itself."""
    return _PATTERN.search(path.name) is not None and not os.path.exists(path)


def _matching_files(path: Path) -> list[Path]:
    found = _PATTERN.search(path.name)
    assert found is not None
    before, after = re.escape(path.name[: found.start()]), re.escape(path.name[found.end() :])
    name = re.compile(rf"{before}(\d{{{found[1] or 1},}}){after}")
    numbered = []
    if path.parent.is_dir():
        for file in path.parent.iterdir():
            match = name.fullmatch(file.name)
            if match is not None:
                numbered.append((int(match[1]), file))
    if not numbered:
        raise ValueError(f"no file matches {path}; give a pattern that some do, or the folder.")
    return [file for _, file in sorted(numbered)]


def read_image(path: Path, *, gray: bool = False) -> NDArray[Any]:
    """Decode an image that is no EXR: (H, W, 3) RGB or (H, W, 4) RGBA, uint8 or uint16.

    With `gray`, one that holds nothing else may come as (H, W, 1), in less time.
    """
    data = path.read_bytes()  # cv2.imread cannot open all names on Windows
    ending = path.suffix.lower()
    image: NDArray[Any] | None = None
    size = _tga_size(data) if ending == ".tga" else _stated_size(data)
    if size is not None:
        check_frame_size(*size, path)
    if is_animation(data):
        raise ValueError(
            f"image {path} is an animation, of which only the first picture would be read; give "
            "it alone as the input if it is a PNG, else convert it to a video first."
        )
    is_other = data[:2] in (b"BM", b"RI") and ending not in (".bmp", ".webp")
    if size is None or is_other:  # cv2 reads more kinds, of whose headers nothing is known here
        pass
    elif ending in _BY_FFMPEG:
        image = _decode_by_ffmpeg(path)
    elif ending in (".tif", ".tiff") and _misleads_cv2(_tiff_tags(data)):
        image = _decode_tiff(path, data)
    elif ending != ".png" or b"IEND" in data:
        flags = cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH
        if ending in (".webp", ".bmp") or (ending == ".png" and _png_has_alpha(data)):
            flags = cv2.IMREAD_UNCHANGED
        elif gray and ending == ".png" and data[25:26] == b"\0":
            flags = cv2.IMREAD_GRAYSCALE | cv2.IMREAD_ANYDEPTH
        with contextlib.suppress(cv2.error):
            image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
        if image is not None and gray and image.ndim == 2:
            image = image[..., None]
        elif image is not None and image.dtype in (np.uint8, np.uint16):
            codes = {1: cv2.COLOR_GRAY2RGB, 3: cv2.COLOR_BGR2RGB, 4: cv2.COLOR_BGRA2RGBA}
            image = cv2.cvtColor(image, codes[1 if image.ndim == 2 else image.shape[2]])
    if image is None:
        raise ValueError(f"image {path} does not decode; replace it with a whole copy.")
    if image.dtype not in (np.uint8, np.uint16):
        raise ValueError(f"image {path} is {image.dtype}; give 8-bit or 16-bit images.")
    return image


def _stated_size(data: bytes) -> tuple[int, int] | None:
    """(width, height) in the header of a PNG, JPEG, TIFF, BMP or WebP; None for what is none."""
    if data[:8] == b"\x89PNG\r\n\x1a\n":
        return int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")
    if data[:3] == b"\xff\xd8\xff":
        return _jpeg_size(data)
    if data[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        tags = _tiff_tags(data)
        return tags.get(_WIDTH, 0), tags.get(_HEIGHT, 0)
    if data[:4] in (b"SDPX", b"XPDS"):
        order: Literal["little", "big"] = "big" if data[:4] == b"SDPX" else "little"
        return int.from_bytes(data[772:776], order), int.from_bytes(data[776:780], order)
    if data[:2] == b"BM":
        return _bmp_size(data)
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return _webp_size(data)
    return None


def _tga_size(data: bytes) -> tuple[int, int]:
    return int.from_bytes(data[12:14], "little"), int.from_bytes(data[14:16], "little")


def is_animation(data: bytes) -> bool:
    """Whether a PNG or WebP holds several pictures."""
    if data[:8] == b"\x89PNG\r\n\x1a\n":
        return b"acTL" in data[: data.find(b"IDAT")]
    return data[:4] == b"RIFF" and data[8:16] == b"WEBPVP8X" and bool(data[20] & 2)


def _bmp_size(data: bytes) -> tuple[int, int] | None:
    """Of headers since Windows 3; rows from top to bottom have a negative height."""
    if int.from_bytes(data[14:18], "little") < 40:
        return None
    width, height = (int.from_bytes(data[at : at + 4], "little", signed=True) for at in (18, 22))
    return abs(width), abs(height)


def _webp_size(data: bytes) -> tuple[int, int] | None:
    """Of the first chunk. Source: RFC 9649, section 2; RFC 6386, section 9.1, for lossy ones."""

    def number(at: int, num_bytes: int) -> int:
        return int.from_bytes(data[at : at + num_bytes], "little")

    kind = data[12:16]
    if kind == b"VP8X":
        return number(24, 3) + 1, number(27, 3) + 1
    if kind == b"VP8L":
        bits = number(21, 4)
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if kind == b"VP8 ":
        return number(26, 2) & 0x3FFF, number(28, 2) & 0x3FFF
    return None


def _jpeg_size(data: bytes) -> tuple[int, int] | None:
    """Of the frame header. Source: ITU-T T.81, annex B."""
    at = 2
    while (at := data.find(b"\xff", at)) >= 0 and at + 9 <= len(data):
        marker = data[at + 1]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = data[at + 5 : at + 7], data[at + 7 : at + 9]
            return int.from_bytes(width, "big"), int.from_bytes(height, "big")
        if marker in (0x00, 0x01, 0xFF) or 0xD0 <= marker <= 0xD9:  # have no length
            at += 1 if marker == 0xFF else 2
        else:
            at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return None


def _png_has_alpha(data: bytes) -> bool:
    """By the type of its pixels, or transparency of some colours, which is said before these."""
    return data[25:26] in (b"\4", b"\6") or b"tRNS" in data[: data.find(b"IDAT")]


def png_palette(path: Path) -> tuple[NDArray[np.uint8], NDArray[np.uint8]] | None:
    """The palette of a PNG, (256, 3) RGB, and the entry of each pixel, (H, W); None without one."""
    with path.open("rb") as file:
        if file.read(26)[:8] != b"\x89PNG\r\n\x1a\n":
            return None
        file.seek(25)
        if file.read(1) != b"\3":
            return None
    with av.open(str(path.absolute()), "r", format="png_pipe") as container:
        entries, colors = next(container.decode(video=0)).to_ndarray()
    return colors[:, 1:], entries  # alpha comes first


_WIDTH, _HEIGHT, _PHOTOMETRIC = 256, 257, 262
_SAMPLES, _PLANES, _TILES, _SAMPLE_FORMAT = 277, 284, 322, 339


def _tiff_tags(data: bytes) -> dict[int, int]:
    """The tags of the first image of a TIFF or BigTIFF, the first value of each.

    Source: TIFF 6.0, section 2; the BigTIFF file format of libtiff.
    """
    order: Literal["little", "big"] = "little" if data[:2] == b"II" else "big"

    def number(at: int, num_bytes: int) -> int:
        return int.from_bytes(data[at : at + num_bytes], order)

    # Bytes of an offset, and of the number of entries.
    wide, count = {42: (4, 2), 43: (8, 8)}.get(number(2, 2), (0, 0))
    tags: dict[int, int] = {}
    if not wide:
        return tags
    start, size_of_entry = number(wide, wide), 4 + 2 * wide
    num_entries = min(number(start, count), len(data) // size_of_entry)
    for index in range(num_entries):
        entry = start + count + index * size_of_entry
        size = {1: 1, 3: 2, 16: 8}.get(number(entry + 2, 2), 4)
        value = entry + 4 + wide
        if size * number(entry + 4, wide) > wide:
            value = number(value, wide)
        tags[number(entry, 2)] = number(value, size)
    return tags


def _misleads_cv2(tags: Mapping[int, int]) -> bool:
    """cv2 multiplies colours of 8 bits by alpha, and mixes up planes of 16 bits."""
    has_alpha = tags.get(_PHOTOMETRIC) in (0, 1, 2) and tags.get(_SAMPLES) in (2, 4)
    return has_alpha or tags.get(_PLANES) == 2


def _decode_tiff(path: Path, data: bytes) -> NDArray[Any] | None:
    """With FFmpeg, which takes tiles for rows and floats for whole numbers."""
    tags = _tiff_tags(data)
    if _TILES in tags or tags.get(_SAMPLE_FORMAT, 1) != 1:
        raise ValueError(
            f"image {path} has alpha or separate planes in tiles or as floats, which is not "
            "supported; save it as rows of whole numbers."
        )
    try:
        with av.open(io.BytesIO(data), "r", format="tiff_pipe") as container:
            frame = next(container.decode(video=0))
    except (av.FFmpegError, StopIteration):
        return None
    has_alpha, is_deep = tags.get(_SAMPLES) == 4, frame.format.components[0].bits > 8
    packed = ("rgba", "rgba64le") if has_alpha else ("rgb24", "rgb48le")
    return frame.reformat(format=packed[is_deep]).to_ndarray()


def _decode_by_ffmpeg(path: Path) -> NDArray[Any] | None:
    try:
        with av.open(
            str(path.absolute()), "r", format="image2", options={"pattern_type": "none"}
        ) as container:
            frame = next(container.decode(video=0))
    except (av.FFmpegError, StopIteration):
        return None
    pixels = frame_to_pixels(frame, ColorTags(matrix=0, range=2), VideoReformatter())
    if not has_alpha(frame):
        return pixels
    packed = "rgba" if pixels.dtype == np.uint8 else "rgba64le"
    return np.dstack([pixels, frame.reformat(format=packed).to_ndarray()[..., 3]])


class ImageReader(FrameReader):
    """Reads a folder of images, or one; see `open_reader`."""

    def __init__(self, path: Path, frames: tuple[int, int] | None) -> None:
        super().__init__()
        self._files = image_files(path)
        names = [file.stem for file in self._files]
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise ValueError(f"folder {path} has two images {twice}; leave one ending for each.")
        indices = select_frames(range(len(names)), frames, path)
        first = self._read(indices[0])
        height, width, _ = first.pixels.shape
        self.info = ClipInfo(
            width=width,
            height=height,
            fps=None,
            dtype=first.pixels.dtype,
            path=path,
            total_frames=len(names),
            indices=indices,
            color=ColorTags(matrix=0, range=2),
            full_chroma=True,
            names=tuple(names[index] for index in indices),
            has_alpha=_has_alpha(first),
        )

    def _read(self, index: int) -> Frame:
        file = self._files[index]
        stored: NDArray[Any] | None
        if is_exr(file):
            pixels, stored = exr.read(file)
        else:
            image = read_image(file)
            pixels = np.ascontiguousarray(image[..., :3])
            stored = image if image.shape[2] == 4 else None
        return Frame(pixels, index, None, file.stem, stored)

    def _items(self) -> Generator[Frame, None, None]:
        info = self.info
        for index in info.read_indices:
            frame = self._read(index)
            pixels = frame.pixels
            if pixels.shape != (info.height, info.width, 3) or pixels.dtype != info.dtype:
                raise ValueError(
                    f"image {self._files[index]} is {pixels.shape[1]}x{pixels.shape[0]} "
                    f"{pixels.dtype} but the first is {info.width}x{info.height} {info.dtype}; "
                    "give images of one size and depth."
                )
            if _has_alpha(frame) and not info.has_alpha:
                first = self._files[info.read_indices[0]]
                raise ValueError(
                    f"image {self._files[index]} has alpha but {first} has none; give alpha to all "
                    "or to none."
                )
            yield frame


def is_exr(path: Path) -> bool:
    return path.suffix.lower() == ".exr"


def _has_alpha(frame: Frame) -> bool:
    return frame.stored is not None and frame.stored.shape[2] in (2, 4)


def differing(source: Frame, written: Frame) -> Mask:
    """Where two frames of image folders differ in anything that they show, alpha too: (H, W)."""
    first, second = (
        frame.pixels if frame.stored is None else frame.stored for frame in (source, written)
    )
    if first.shape[2] != second.shape[2]:
        return np.ones(first.shape[:2], np.bool_)
    return differ(first, second)


# What a PNG says of all its pixels, in whatever way these are stored.
# fmt: off
_KEPT_CHUNKS = frozenset((
    b"cHRM", b"gAMA", b"sRGB", b"iCCP", b"cICP", b"mDCV", b"cLLI", b"pHYs", b"eXIf", b"tIME",
    b"tEXt", b"zTXt", b"iTXt",
))
# fmt: on


def _with_chunks_of(source: bytes, png: bytes) -> bytes:
    """A PNG with the profile, the size and the texts of another; source may be empty."""
    kept = b""
    is_gray = source[25:26] in (b"\0", b"\4")
    at = 8
    while at + 12 <= len(source):
        end = at + 12 + int.from_bytes(source[at : at + 4], "big")
        kind = source[at + 4 : at + 8]
        if kind in _KEPT_CHUNKS and not (is_gray and kind == b"iCCP"):  # a profile of gray
            kept += source[at:end]
        at = end
    head = 8 + 25  # signature and IHDR
    return png[:head] + kept + png[head:]


class ImageWriter(FrameWriter):
    """Writes a folder of images; see `open_writer`."""

    def __init__(
        self,
        path: Path,
        info: ClipInfo,
        scratch: Path | None,
        alpha: Alpha | None = None,
    ) -> None:
        self._alpha = alpha
        super().__init__(path, info, scratch)

    def _create(self, temporary: Path) -> None:
        if self._path.exists() and any(self._path.iterdir()):
            raise ValueError(f"output folder {self._path} is not empty; give a new or empty one.")
        temporary.mkdir()

    def _write(self, pixels: Pixels, pts: int | None, name: str | None) -> None:
        info = self._info
        if self._count == 0:
            self._tell_losses()
        index = self._count if info.indices is None else info.indices[self._count]
        if name is None:
            name = f"{index:06d}" if info.names is None else info.names[self._count]
        assert self._temporary is not None
        ending = ".exr" if info.dtype == np.float32 else ".png"
        image = self._temporary / f"{name}{ending}"
        if image.exists():
            raise ValueError(f"two frames are called {name}; give each a name of its own.")
        if ending == ".exr":
            exr.write(image, self._sources[index], pixels)
            return
        shown, original = pixels, b""
        if self._alpha is not None:
            shown = np.dstack([pixels, self._alpha.next()])
        elif info.names is not None and info.path is not None:
            file = self._sources[index]
            if info.has_alpha or file.suffix.lower() == ".png":
                source = read_image(file)
                shown = np.dstack([pixels, source[..., 3:]])
                original = file.read_bytes() if file.suffix.lower() == ".png" else b""
                if original and np.array_equal(shown, source):
                    image.write_bytes(original)
                    return
        code = cv2.COLOR_RGB2BGR if shown.shape[2] == 3 else cv2.COLOR_RGBA2BGRA
        encoded, data = cv2.imencode(".png", cv2.cvtColor(shown, code))
        assert encoded
        image.write_bytes(_with_chunks_of(original, data.tobytes()))

    def _tell_losses(self) -> None:
        """Say in one line what a video has and images do not."""
        info = self._info
        has = "is interlaced" if info.field_order else ""
        if info.color.transfer in _HDR_TRANSFERS:
            has = f"{has} and in HDR" if has else "is in HDR"
        if has:
            log.warning(
                "%s %s, which the images of %s cannot say; whatever reads them has to be told.",
                *(info.path or "the clip", has, self._path),
            )

    @functools.cached_property
    def _sources(self) -> list[Path]:
        """The source's images, for what is not in the pixels."""
        assert self._info.path is not None
        return image_files(self._info.path)

    def _release(self) -> None:
        if self._alpha is not None:
            self._alpha.close()

    def _publish(self, temporary: Path) -> None:
        try:
            if self._path.exists():
                self._path.rmdir()  # empty: os.replace does not replace folders on Windows
            os.replace(temporary, self._path)
        except OSError as error:
            if not self._path.is_dir() or not any(self._path.iterdir()):
                raise
            raise ValueError(
                f"output folder {self._path} was empty but is not any more; see whether another "
                "run writes it, and give each its own output."
            ) from error
