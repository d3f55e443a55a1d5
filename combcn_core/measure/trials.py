"""What methods are evaluated on: settings, clips that are found in a folder, and their holes."""

from __future__ import annotations

import hashlib
import os
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import cv2
import numpy as np
import torch
from torch import Tensor

from combcn_core.clips.masks import read_mask
from combcn_core.clips.video import IMAGE_ENDINGS, VIDEO_ENDINGS, PathLike, open_reader
from combcn_core.masks import grow
from combcn_core.pixels import Pixels, to_uint8
from combcn_core.training.holes import HoleKind, make_holes

Method = Literal["combcn", "no-network", "networks", "3dcn", "2dcn", "smooth", "telea", "ns"]
METHODS: tuple[Method, ...] = get_args(Method)
Hole = Literal[HoleKind, "removal"]


@dataclass(frozen=True)
class EvaluateConfig:
    """Settings of `evaluate` and `combcn evaluate`."""

    methods: tuple[Method, ...] = ()
    """What to compare: combcn (what `combcn inpaint` does), no-network (the same without networks),
    networks (3DCN and CombCN alone, as in the paper), 3dcn, 2dcn, smooth (the fill that networks
    may start from), telea, ns (Navier-Stokes). None named: all that there are weights for."""
    holes: tuple[Hole, ...] = ("box", "moving-box", "blob")
    """Kinds of holes. removal: the masks of clips that have masks/ and background.png."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Of the holes: each clip gets a hole of each kind for each seed."""
    frames: int = 50
    """First frames of each clip that are used; 0 uses all."""
    size: tuple[int, int] | None = None
    """Crop and resize frames to this height and width; None leaves them as they are."""
    unseen: Literal["texture", "smooth"] = "texture"
    """What combcn and no-network put where no frame shows anything, as in
    `InpaintConfig`; networks and 2dcn show what the networks predict."""
    fill: Literal["rest", "smooth"] = "rest"
    """What networks, 3dcn and 2dcn start from, and what smooth shows: rest, the smooth fill of the
    pipeline, which other frames help to make; smooth, one of each frame alone, so that as in the
    paper networks know of other frames what guidance tells them."""
    grow_pixels: int = 2
    """Grow the masks of removals by this many pixels, to cover soft edges."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where the networks run."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Arithmetic of the networks. auto: bf16 on a CPU made for it, fp16 on CUDA, else fp32."""

    def __post_init__(self) -> None:
        if self.unseen not in ("texture", "smooth"):
            raise ValueError(f"unseen is {self.unseen!r}; give 'texture' or 'smooth'.")
        if self.fill not in ("rest", "smooth"):
            raise ValueError(f"fill is {self.fill!r}; give 'rest' or 'smooth'.")
        for name, known in (("methods", METHODS), ("holes", get_args(Hole))):
            for value in getattr(self, name):
                if value not in known:
                    raise ValueError(f"{name} has {value!r}; choose from {', '.join(known)}.")
        for name in ("methods", "holes", "seeds"):
            values = getattr(self, name)
            if len(set(values)) < len(values):
                raise ValueError(f"{name} has {', '.join(map(str, values))}; name each one once.")
        if not self.holes:
            raise ValueError("holes is empty; name one kind or more.")
        if not self.seeds or min(self.seeds) < 0:
            raise ValueError(f"seeds is {self.seeds}; give one number or more, each 0 or above.")
        if self.frames < 0:
            raise ValueError(f"frames is {self.frames}; give 1 or more, or 0 for all.")
        if self.size is not None and min(self.size) < 8:
            raise ValueError(
                f"size is {self.size[1]}x{self.size[0]} pixels; give 8x8 or more, or none."
            )


class ClipFiles(NamedTuple):
    """The files of a clip. `masks` and `background` are there where a removal can be scored."""

    name: str
    frames: Path
    masks: Path | None = None
    background: Path | None = None


def find_clips(data: PathLike) -> list[ClipFiles]:
    """The videos and clip folders in a folder, by name; or the one clip that `data` is.

    Raises:
        ValueError: nothing there, or something that cannot be read.
    """
    path = Path(data)
    if not path.exists():
        raise ValueError(f"{path} does not exist; give a folder of clips.")
    entries = [path]
    if path.is_dir() and not (path / "frames").is_dir():
        entries = [entry for entry in sorted(path.iterdir()) if not entry.name.startswith(".")]
    clips = [clip for entry in entries if (clip := _as_clip(entry)) is not None]
    if not clips and path.is_dir() and (own := _as_clip(path)) is not None:
        clips = [own]
    if not clips:
        raise ValueError(
            f"{path} has no clips; give a folder of videos, or of folders with images in them."
        )
    for clip in clips:
        open_reader(clip.frames)  # what is wrong shows before any work is done
    return clips


def _as_clip(path: Path) -> ClipFiles | None:
    name = Path(os.path.abspath(path)).name
    if path.is_file():
        return ClipFiles(name, path) if path.suffix.lower() in VIDEO_ENDINGS else None
    frames, masks, background = path / "frames", path / "masks", path / "background.png"
    if frames.is_dir():
        can_remove = masks.is_dir() and background.is_file()
        return ClipFiles(name, frames, masks, background) if can_remove else ClipFiles(name, frames)
    has_images = any(file.suffix.lower() in IMAGE_ENDINGS for file in path.iterdir())
    return ClipFiles(name, path) if has_images and name != "masks" else None


class Trial(NamedTuple):
    """A clip with a hole."""

    clip: str
    hole: Hole
    seed: int
    is_shown: bool  # on the page
    images: Tensor  # (T, H, W, 3) uint8
    truth: Tensor  # as images; the background in a removal
    holes: Tensor  # (T, H, W) bool
    digest: str  # of these three


def list_trials(clip: ClipFiles, config: EvaluateConfig) -> list[tuple[Hole, int]]:
    """Kinds and seeds of the holes that a clip gets."""
    pairs: list[tuple[Hole, int]] = []
    for hole in config.holes:
        if hole != "removal":
            pairs += [(hole, seed) for seed in config.seeds]
        elif clip.masks is not None:
            pairs.append((hole, 0))
    return pairs


def make_trials(clip: ClipFiles, config: EvaluateConfig) -> Iterator[Trial]:
    """A clip with each of its holes; its frames are read once."""
    trials = list_trials(clip, config)
    if not trials:
        return
    images = _read(clip.frames, config)
    for hole, seed in trials:
        truth = images
        if hole == "removal":
            assert clip.masks is not None
            assert clip.background is not None
            holes = grow(_read_masks(clip.masks, clip.frames, config), config.grow_pixels)
            truth = _read(clip.background, config)
            if truth.shape[1:] != images.shape[1:]:
                raise ValueError(
                    f"{clip.background} is {truth.shape[2]}x{truth.shape[1]} but the frames of the "
                    f"clip are {images.shape[2]}x{images.shape[1]}; bring both to one size."
                )
            truth = truth.expand_as(images).contiguous()
        else:
            # By name, so that other clips in the folder do not change the holes of this one.
            name = zlib.crc32(clip.name.encode())
            num_frames, height, width = images.shape[:3]
            holes = make_holes(hole, num_frames, height, width, seed=(seed, name))
        is_shown = hole == "removal" or seed == config.seeds[0]
        parts = [images.numpy(), truth.numpy(), holes.numpy()]
        identity = digest(*(f"{part.shape}".encode() + part.tobytes() for part in parts))
        yield Trial(clip.name, hole, seed, is_shown, images, truth, holes, identity)


def _read(path: Path, config: EvaluateConfig) -> Tensor:
    """Read frames, (T, H, W, 3) uint8, fitted to the size."""
    with open_reader(path, frames=_span(path, config)) as reader:
        frames = [to_uint8(_fit(frame.pixels, config.size)) for frame in reader]
    return torch.from_numpy(np.stack(frames))


def _read_masks(path: Path, frames: Path, config: EvaluateConfig) -> Tensor:
    """Read masks, (T, H, W) bool, fitted to the size."""
    info = open_reader(frames, frames=_span(frames, config)).info
    with read_mask(path, info) as masks:
        fitted = [_fit(mask.astype(np.uint8) * np.uint8(255), config.size) for mask in masks]
    return torch.from_numpy(np.stack(fitted) >= 128)


def _span(path: Path, config: EvaluateConfig) -> tuple[int, int]:
    total = open_reader(path).info.total_frames
    assert total is not None
    return 0, min(config.frames or total, total) - 1


def _fit(image: Pixels, size: tuple[int, int] | None) -> Pixels:
    """The middle of an image, as large as the wanted shape allows, at the wanted size."""
    height, width = image.shape[:2]
    if size is None or size == (height, width):
        return image
    scale = max(size[0] / height, size[1] / width)
    rows, columns = min(height, round(size[0] / scale)), min(width, round(size[1] / scale))
    top, left = (height - rows) // 2, (width - columns) // 2
    middle = image[top : top + rows, left : left + columns]
    mode = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    return cv2.resize(middle, size[::-1], interpolation=mode)


def digest(*parts: str | bytes) -> str:
    """What tells these texts and bytes from all others, in 16 letters."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "big") + data)
    return digest.hexdigest()[:16]
