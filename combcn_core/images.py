"""Folders of images as clips, and images as masks."""

from __future__ import annotations

import os
import re
from collections.abc import Generator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from combcn_core.frames import (
    ClipInfo,
    ColorTags,
    Frame,
    FrameReader,
    FrameWriter,
    Mask,
    Pixels,
    select_frames,
)

IMAGE_ENDINGS = (".png", ".jpg", ".jpeg", ".tif", ".tiff")


def image_files(path: Path) -> list[Path]:
    """The images of a folder in the order of the numbers in their names; or the one image."""
    if path.is_file():
        return [path]
    files = [
        file
        for file in path.iterdir()
        if file.suffix.lower() in IMAGE_ENDINGS and not file.name.startswith(".")
    ]
    if not files:
        endings = ", ".join(IMAGE_ENDINGS)
        raise ValueError(f"folder {path} has no images ({endings}); give one that has.")
    # Splitting at numbers alternates text and digits, so like is compared with like.
    return sorted(
        files,
        key=lambda file: [
            (int(part), part) if i % 2 else (0, part.casefold())
            for i, part in enumerate(re.split(r"(\d+)", file.name))
        ],
    )


def _read_image(path: Path, flags: int) -> NDArray[Any]:
    """Decode an image file; as cv2 has it, BGR."""
    data = path.read_bytes()  # cv2.imread cannot open all names on Windows
    whole = path.suffix.lower() != ".png" or b"IEND" in data
    image = cv2.imdecode(np.frombuffer(data, np.uint8), flags) if data and whole else None
    if image is None:
        raise ValueError(f"image {path} does not decode; replace it with a whole copy.")
    if image.dtype not in (np.uint8, np.uint16):
        raise ValueError(f"image {path} is {image.dtype}; give 8-bit or 16-bit images.")
    return image


class ImageReader(FrameReader):
    def __init__(self, path: Path, frames: tuple[int, int] | None) -> None:
        super().__init__()
        self._files = image_files(path)
        names = [file.stem for file in self._files]
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise ValueError(f"folder {path} has two images {twice}; leave one ending for each.")
        indices = select_frames(range(len(names)), frames, path)
        first = self._read(indices[0])
        self.info = ClipInfo(
            width=first.shape[1],
            height=first.shape[0],
            fps=None,
            dtype=first.dtype,
            path=path,
            total_frames=len(names),
            indices=indices,
            color=ColorTags(matrix=0, range=2),
            names=tuple(names[index] for index in indices),
        )

    def _read(self, index: int) -> Pixels:
        # 3 channels whatever there are, without alpha, as deep as they are.
        image = _read_image(self._files[index], cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH)
        return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)

    def _items(self) -> Generator[Frame, None, None]:
        info = self.info
        assert info.indices is not None
        for index in info.indices:
            pixels = self._read(index)
            if pixels.shape != (info.height, info.width, 3) or pixels.dtype != info.dtype:
                raise ValueError(
                    f"image {self._files[index]} is {pixels.shape[1]}x{pixels.shape[0]} "
                    f"{pixels.dtype} but the first is {info.width}x{info.height} {info.dtype}; "
                    "give images of one size and depth."
                )
            yield Frame(pixels, index, None, self._files[index].stem)


def threshold(image: NDArray[Any]) -> Mask:
    """(H, W) or (H, W, C), unsigned integers -> (H, W), True at half of the range or more."""
    largest = image if image.ndim == 2 else image.max(axis=2)
    return largest > np.iinfo(image.dtype).max // 2


def image_mask(path: Path) -> Mask:
    image = _read_image(path, cv2.IMREAD_UNCHANGED)
    if image.ndim == 3 and image.shape[2] == 4:
        color, alpha = image[..., :3], image[..., 3]
        image = alpha if (color == color[0, 0]).all() and alpha.min() < alpha.max() else color
    return threshold(image)


class ImageWriter(FrameWriter):
    def _create(self, temporary: Path) -> None:
        if self._path.exists() and any(self._path.iterdir()):
            raise ValueError(f"output folder {self._path} is not empty; give a new or empty one.")
        temporary.mkdir()

    def _write(self, pixels: Pixels, pts: int | None, name: str | None) -> None:
        info = self._info
        if name is None:
            index = self._count if info.indices is None else info.indices[self._count]
            name = f"{index:06d}" if info.names is None else info.names[self._count]
        assert self._temporary is not None
        image = self._temporary / f"{name}.png"
        if image.exists():
            raise ValueError(f"two frames are called {name}; give each a name of its own.")
        encoded, data = cv2.imencode(".png", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))
        assert encoded
        image.write_bytes(data.tobytes())

    def _publish(self, temporary: Path) -> None:
        if self._path.exists():
            self._path.rmdir()  # empty: os.replace does not replace folders on Windows
        os.replace(temporary, self._path)
