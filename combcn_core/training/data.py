"""A folder of videos and photographs -> training clips with holes.

A clip is drawn from one NumPy generator seeded by (seed, number), so the same seed gives the same
batches, whatever the number of worker processes and wherever a training starts. Clips are decoded
when they are needed: memory holds a few of them, never the set.
"""

from __future__ import annotations

import csv
import hashlib
import logging
import math
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain, count, islice, pairwise
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar, get_args

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from combcn_core.clips.video import IMAGE_ENDINGS, open_reader
from combcn_core.fill.cuts import is_cut
from combcn_core.fill.smooth import fill_smoothly
from combcn_core.masks import check_masks, downsample_known
from combcn_core.pixels import Mask, Patch, Pixels, from_unit, to_unit
from combcn_core.progress import Tell
from combcn_core.shot import fill_rest, propagate
from combcn_core.training.holes import HOLE_KINDS, HoleKind, make_holes

VIDEO_ENDINGS = (".mp4", ".m4v", ".mov", ".mkv", ".avi", ".webm", ".mpg", ".mpeg", ".mxf", ".ts")
PROBE_FRAMES = 17  # of the middle of a video, by which its motion is judged
PHOTO_MOTION = 5.0  # a camera move over a photograph counts like a video with this motion
LARGEST_MOTION = 12.0  # grey levels a frame; above it, motion makes a clip no more useful
TRIES = 100  # draws until a clip without a cut is found; edited films have many

FillKind = Literal["rest", "propagate", "smooth"]
Floats = npt.NDArray[np.float64]
Job = TypeVar("Job")
Result = TypeVar("Result")

_log = logging.getLogger("combcn")


@dataclass(frozen=True)
class DataConfig:
    """How clips are drawn from footage."""

    size: int = 128
    """Side of a training clip in pixels, a multiple of 8."""
    clip_length: int = 32
    """Frames of a training clip."""
    holes: tuple[HoleKind, ...] = ("box",)
    """Kinds of holes, each as likely as the others."""
    fills: tuple[FillKind, ...] = ("rest",)
    """What stands in the hole where the networks start from a classical fill: the pipeline's rest
    fill, what propagation leaves of the hole and its fill, or a smooth fill frame by frame (fast).
    """
    repeats: int = 1
    """Batches that use a clip again, mirrored or reversed. More save time where reading is slow."""
    coarsest: float = 2.0
    """The coarse clip's side is that of the clip by the networks' ratio, or by up to this: more
    prepares for frames so large that 3DCN sees them smaller than the guidance is."""
    seed: int = 0
    """Of everything drawn: clips, holes, weights."""

    def __post_init__(self) -> None:
        if self.size < 16 or self.size % 8:
            raise ValueError(f"size is {self.size}; give a multiple of 8, 16 or more.")
        for name, least in (("clip_length", 1), ("repeats", 1), ("coarsest", 2), ("seed", 0)):
            value = getattr(self, name)
            if not value >= least:
                raise ValueError(f"{name} is {value}; give {least} or more.")
        for name, kinds in (("holes", HOLE_KINDS), ("fills", get_args(FillKind))):
            named = getattr(self, name)
            if not named or set(named) - set(kinds):
                raise ValueError(
                    f"{name} are {', '.join(named) or 'none'}; name one or more of "
                    f"{', '.join(kinds)}."
                )


@dataclass(frozen=True)
class Source:
    """A video, a photograph, or a clip in memory.

    Attributes:
        path: of the file; a name for a clip in memory.
        num_frames: 1 for a photograph.
        group: sources of one group stay on one side of the split.
        motion: mean change from frame to frame in grey levels, 0..255.
        images: (T, H, W, 3) uint8 of a clip in memory.
        unknown: (T, H, W) bool, True where its pixels are not the truth and teach nothing.
    """

    path: Path
    num_frames: int
    group: str
    motion: float
    images: Pixels | None = field(default=None, repr=False, compare=False)
    unknown: Mask | None = field(default=None, repr=False, compare=False)


@dataclass(frozen=True)
class Footage:
    """What there is to learn from, split 5 : 1.

    Attributes:
        train, validation: sources; validation is empty where there are fewer than two groups.
        mean_pixel: mean RGB of the training side, in [0, 1].
        skipped: file, as seen from the folder -> why it could not be used.
    """

    train: tuple[Source, ...]
    validation: tuple[Source, ...]
    mean_pixel: tuple[float, float, float]
    skipped: Mapping[str, str] = field(default_factory=dict)

    @property
    def fingerprint(self) -> str:
        """Changes with the files of the training side, not with where the folder is."""
        names = [f"{source.path.name} {source.num_frames}" for source in self.train]
        return hashlib.sha256("\n".join(names).encode()).hexdigest()[:16]


class Batch(NamedTuple):
    """Clips of equal size. The coarse ones are what 3DCN works on, as in `infer_temporal`.

    `mask` is what the networks take for the hole, `learn` where the truth is known of it: the two
    differ in clips that have unknown pixels.
    """

    clip: Tensor  # (B, 3, T, H, W) float32, the truth
    filled: Tensor  # as clip, the hole filled classically, or with what propagation knows
    mask: Tensor  # (B, 1, T, H, W) bool
    learn: Tensor  # as mask
    coarse_clip: Tensor  # (B, 3, T, h, w) float32
    coarse_filled: Tensor
    coarse_mask: Tensor
    coarse_learn: Tensor


# --- footage --------------------------------------------------------------------------------------


def scan_footage(
    folder: Path,
    *,
    where: Mapping[str, str] | None = None,
    clip_length: int = 32,
    workers: int = 0,
    tell: Tell | None = None,
) -> Footage:
    """Find what can be learnt from in a folder and all below it.

    A video is one group, and so are its shots. A `metadata.csv` in the folder, where there is one,
    may say more of the file that its column `clip` names: files with the same `shot` are one group,
    and `where` chooses rows.

    Args:
        folder: videos, and photographs (PNG, JPEG, TIFF).
        where: column of metadata.csv -> value that a file's row must have.
        clip_length: videos with fewer frames are skipped.
        workers: processes that look into the files, where there are many.
        tell: as in `inpaint`, after each file.

    Raises:
        ValueError: no such folder, nothing usable in it, or no such column in metadata.csv.

    Source: the split is the paper's, 5 : 1; which group goes where follows from a hash of its name.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder; give one with videos or photographs.")
    rows = _read_metadata(folder, where or {})
    paths = [
        path
        for path in sorted(folder.rglob("*"))
        if path.suffix.lower() in VIDEO_ENDINGS + IMAGE_ENDINGS and not path.name.startswith(".")
    ]
    if where:
        paths = [path for path in paths if path.name in rows]
    sources, means, skipped = [], {}, {}
    jobs = [(path, clip_length) for path in paths]
    workers = min(workers, len(jobs) // 8)  # a process takes as long to start as some files do
    probed = zip(paths, _mapped(_probe, jobs, workers), strict=True)
    for number, (path, found) in enumerate(probed, 1):
        if tell is not None:
            tell(number / len(paths), None)
        if isinstance(found, str):
            name = str(path.relative_to(folder))
            skipped[name] = found
            _log.warning("%s is left out: %s", name, found)
            continue
        source, means[path] = found
        shot = rows.get(path.name, {}).get("shot")
        sources.append(source if not shot else replace(source, group=f"shot {shot}"))
    if not sources:
        raise ValueError(
            f"nothing to learn from in {folder} ({len(skipped)} files left out); give videos of "
            f"{clip_length} frames or more, or photographs."
        )
    train, validation = _split(sources)
    mean = np.mean([means[source.path] for source in train], axis=0)
    return Footage(train, validation, (float(mean[0]), float(mean[1]), float(mean[2])), skipped)


def footage_from_images(images: Tensor, unknown: Tensor | None = None) -> Footage:
    """One clip in memory as footage, all of it for training.

    Args:
        images: (T, H, W, 3) RGB, uint8 or float in [0, 1].
        unknown: (T, H, W) or (H, W), 1 where the pixels are not what should be learnt: an object
            to be removed.

    Raises:
        ValueError: masks of another size, or nothing known.
    """
    pixels = np.stack([_to_uint8(frame) for frame in images.numpy(force=True)])
    holes = None if unknown is None else check_masks(unknown, *pixels.shape[:3]).numpy(force=True)
    known = np.ones(pixels.shape[:3], bool) if holes is None else ~holes
    if not known.any():
        raise ValueError("mask covers every pixel of the clip; leave something to learn from.")
    mean = pixels[known].mean(axis=0) / 255
    source = Source(Path("images"), len(pixels), "images", 0.0, pixels, holes)  # chosen in any case
    return Footage((source,), (), (float(mean[0]), float(mean[1]), float(mean[2])))


def _read_metadata(folder: Path, where: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """File name -> row, of the rows that `where` chooses."""
    path = folder / "metadata.csv"
    if not path.is_file():
        if where:
            raise ValueError(f"there is no {path} to choose clips by; leave --where out.")
        return {}
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    columns = rows[0].keys() if rows else ()
    for column in ("clip", *where):  # `clip` names the file
        if column not in columns:
            raise ValueError(
                f"{path} has no column {column!r}; it has {', '.join(columns) or 'none'}."
            )
    return {
        row["clip"]: row
        for row in rows
        if all(row[column] == value for column, value in where.items())
    }


def _probe(job: tuple[Path, int]) -> tuple[Source, Floats] | str:
    """The source and its mean pixel; or why the file cannot be used."""
    path, clip_length = job
    try:
        is_photo = path.suffix.lower() in IMAGE_ENDINGS
        total = 1 if is_photo else open_reader(path).info.total_frames or 0
        if not is_photo and total < clip_length:
            return f"it has {total} frames, a training clip {clip_length}"
        first = max(0, (total - PROBE_FRAMES) // 2)
        means, small = [], []
        for frame in _read(path, (first, min(total, first + PROBE_FRAMES) - 1)):
            means.append(frame.reshape(-1, 3).mean(axis=0))
            small.append(_shrunk(frame, 96))
    except (ValueError, OSError) as error:
        return _reason(error)
    motion = PHOTO_MOTION if is_photo else _motion(np.stack(small))
    return Source(path, total, path.stem, motion), np.mean(means, axis=0) / 255


def _reason(error: Exception) -> str:
    return str(error).partition(";")[0]  # what follows is advice for other commands


def _motion(images: Pixels) -> float:
    gray = images.astype(np.float32).mean(axis=3)
    return float(np.abs(np.diff(gray, axis=0)).mean()) if len(gray) > 1 else 0.0


def _split(sources: Sequence[Source]) -> tuple[tuple[Source, ...], tuple[Source, ...]]:
    groups = sorted(
        {source.group for source in sources},
        key=lambda group: hashlib.sha256(group.encode()).digest(),
    )
    held = set(groups[: round(len(groups) / 6) or len(groups) // 2])
    return (
        tuple(source for source in sources if source.group not in held),
        tuple(source for source in sources if source.group in held),
    )


# --- one clip -------------------------------------------------------------------------------------


class Clip(NamedTuple):
    """A `Batch` of one, channels last and before mirroring; what worker processes hand over."""

    clip: Pixels  # (T, H, W, 3) uint8
    filled: Pixels
    mask: Mask  # (T, H, W)
    learn: Mask
    coarse_clip: npt.NDArray[np.float32]
    coarse_filled: npt.NDArray[np.float32]
    coarse_mask: Mask
    coarse_learn: Mask
    damaged: tuple[tuple[str, str], ...] = ()  # files that were passed over, and why


def draw_clip(sources: Sequence[Source], config: DataConfig, number: int, coarse_side: int) -> Clip:
    """Draw one training clip.

    Args:
        sources: one side of the split.
        config: how.
        number: of the clip; with `config.seed` it decides everything.
        coarse_side: side of the coarse clip.

    Raises:
        ValueError: no try gave a clip.
    """
    rng = np.random.default_rng([config.seed, number])
    weights = np.array([1 + min(source.motion, LARGEST_MOTION) for source in sources])
    damaged: dict[str, str] = {}
    for attempt in range(TRIES + len(sources)):  # each may be damaged, but is so only once
        if not weights.any():
            break
        index = rng.choice(len(sources), p=weights / weights.sum())
        source = sources[index]
        try:
            frames, unknown = _draw_frames(source, config, rng)
        except (ValueError, OSError) as error:
            damaged[source.path.name] = _reason(error)
            weights[index] = 0
            continue
        if source.num_frames > 1 and any(is_cut(*pair) for pair in pairwise(frames)):
            continue
        kind = config.holes[rng.integers(len(config.holes))]
        seed = [config.seed, number, attempt]
        holes = make_holes(kind, len(frames), config.size, config.size, seed).numpy()
        learn = holes & ~unknown
        fill = config.fills[rng.integers(len(config.fills))]
        filled, mask = _fill(frames, holes | unknown, fill)
        if not (learn & mask).any():  # propagation left nothing to learn
            filled, mask = _fill(frames, holes | unknown, "rest")
        if (learn & mask).any():
            clip = _with_coarse(frames, filled, mask, learn & mask, unknown, coarse_side)
            return clip._replace(damaged=tuple(damaged.items()))
    reasons = [f"; {name}: {reason}" for name, reason in damaged.items()]
    more = f"; and {len(reasons) - 3} more" if len(reasons) > 3 else ""
    raise ValueError(
        f"no clip of {config.clip_length} frames without a cut was found{''.join(reasons[:3])}"
        f"{more}; give other footage, or shorter clips."
    )


def _draw_frames(
    source: Source, config: DataConfig, rng: np.random.Generator
) -> tuple[Pixels, Mask]:
    """(T, size, size, 3) uint8 and where they are unknown."""
    size, length = config.size, config.clip_length
    if source.num_frames == 1 and source.images is None:
        (photo,) = _read(source.path, (0, 0))
        frames = move_camera(photo, length, size, rng)
        return frames, np.zeros(frames.shape[:3], bool)
    longest_step = max(1, min(3, (source.num_frames - 1) // max(1, length - 1)))
    step = int(rng.integers(1, longest_step, endpoint=True))
    span = (length - 1) * step + 1
    if span > source.num_frames:
        raise ValueError(
            f"it has {source.num_frames} frames, a training clip {length}; use shorter clips"
        )
    first = int(rng.integers(0, source.num_frames - span, endpoint=True))
    chosen = slice(first, first + span, step)
    if source.images is None:
        whole = _read(source.path, (first, first + span - 1))
        taken: Iterator[Pixels] = islice(whole, 0, None, step)
    else:
        taken = iter(source.images[chosen])
    cut: list[Pixels] = []
    for frame in taken:  # cut as they come: whole frames of a clip may need gigabytes
        if not cut:
            rows, columns = _draw_square(frame.shape[0], frame.shape[1], size, rng)
        cut.append(_resized(frame[rows, columns], size))
    frames, unknown = np.stack(cut), np.zeros((length, size, size), bool)
    if source.unknown is not None:
        # Any touch of an unknown pixel makes the resized one unknown.
        touched = source.unknown[chosen, rows, columns].astype(np.float32)
        unknown = np.stack([_resized(hole, size) > 0 for hole in touched])
    if rng.random() < 0.5:  # time runs backwards
        frames, unknown = frames[::-1].copy(), unknown[::-1].copy()
    return frames, unknown


def _draw_square(
    height: int, width: int, size: int, rng: np.random.Generator
) -> tuple[slice, slice]:
    """Rows and columns to cut: the whole height, or less, but hardly ever less than `size`."""
    short = min(height, width)
    side = round(short * math.exp(rng.uniform(math.log(min(1.0, 0.8 * size / short)), 0)))
    top = int(rng.integers(0, height - side, endpoint=True))
    left = int(rng.integers(0, width - side, endpoint=True))
    return slice(top, top + side), slice(left, left + side)


def _fill(frames: Pixels, holes: Mask, kind: FillKind) -> tuple[Pixels, Mask]:
    """The hole filled without networks, and what of it stays for them."""
    images, masks = torch.from_numpy(frames), torch.from_numpy(holes)
    if kind == "propagate":
        filled, remaining = propagate(images, masks)
        return filled.numpy(), remaining.numpy()
    if kind == "rest":
        return fill_rest(images, masks).numpy(), holes
    smooth = [
        fill_smoothly(Patch.of(frame), hole).whole()
        for frame, hole in zip(frames, holes, strict=True)
    ]
    return np.stack(smooth), holes


def _with_coarse(
    frames: Pixels, filled: Pixels, mask: Mask, learn: Mask, unknown: Mask, side: int
) -> Clip:
    size = (side, side)
    truth, hole = torch.from_numpy(frames), torch.from_numpy(mask)
    nothing = torch.zeros_like(hole)
    coarse_clip, _ = downsample_known(truth, nothing, size=size)
    coarse_filled, _ = downsample_known(torch.from_numpy(filled), nothing, size=size)
    # Any touch of the hole makes a cell hole, so nothing of the fill is in what counts as known.
    _, coarse_mask = downsample_known(truth, hole, size=size)
    _, coarse_learn = downsample_known(truth, torch.from_numpy(learn), size=size)
    _, coarse_unknown = downsample_known(truth, torch.from_numpy(unknown), size=size)
    return Clip(
        frames,
        filled,
        mask,
        learn,
        coarse_clip.numpy(),
        coarse_filled.numpy(),
        coarse_mask.numpy(),
        (coarse_learn & ~coarse_unknown).numpy(),
    )


def move_camera(photo: Pixels, num_frames: int, size: int, rng: np.random.Generator) -> Pixels:
    """A photograph as a clip: a smooth move of a camera, sometimes with a layer that moves.

    Pan, zoom, rotation and perspective go from one random view to another; a layer is a silhouette
    filled with another part of the photograph.

    Args:
        photo: (H, W, 3) uint8.
        num_frames: of the clip.
        size: side of the clip in pixels.
        rng: what decides.

    Returns:
        (T, size, size, 3) uint8.
    """
    # Four times the clip at most: the closest view magnifies hardly, the widest aliases little.
    photo = _shrunk(photo, 4 * size)
    height, width = photo.shape[:2]
    short = min(height, width)
    closest = min(1.0, size / short)  # side of the smallest view, in short sides
    views = []
    for _ in range(2):
        side = short * rng.uniform(min(closest, 0.9), 0.95) * 0.8  # leaves room to turn and lean
        angle = rng.normal(0, math.radians(4))
        turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
        square = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * side / 2
        corners = square @ turn.T + rng.normal(0, 0.02 * side, (4, 2))
        low, high = corners.min(0), corners.max(0)
        room = np.array([width - 1, height - 1]) - (high - low)
        views.append(corners - low + np.maximum(room, 0) * rng.random(2))
    # Not every camera crosses the picture: the second view may be near the first.
    views[1] = views[0] + (views[1] - views[0]) * rng.uniform(0.05, 1) * min(1, num_frames / 48)
    times = np.linspace(0, 1, num_frames)
    times = times + rng.uniform(-0.12, 0.12) * np.sin(2 * math.pi * times)
    frame_corners = np.array([[0, 0], [size, 0], [size, size], [0, size]], np.float32) - 0.5
    frames = []
    for time in times:
        corners = (views[0] + (views[1] - views[0]) * time).astype(np.float32)
        matrix = cv2.getPerspectiveTransform(frame_corners, corners)
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        frames.append(
            cv2.warpPerspective(
                photo, matrix, (size, size), flags=flags, borderMode=cv2.BORDER_REFLECT_101
            )
        )
    clip = np.stack(frames)
    if rng.random() < 0.3:
        _lay_over(clip, photo, rng)
    return clip


def _lay_over(clip: Pixels, photo: Pixels, rng: np.random.Generator) -> None:
    """Let silhouettes cross the clip, filled with a part of the photograph that moves along."""
    size = clip.shape[1]
    shapes = make_holes("object", len(clip), size, size, int(rng.integers(2**31))).numpy()
    texture = cv2.flip(_resized(photo[: min(photo.shape[:2]), : min(photo.shape[:2])], size), 1)
    for frame, shape in zip(clip, shapes, strict=True):
        if not shape.any():
            continue
        rows, columns = np.nonzero(shape)
        x, y = columns.mean() - size / 2, rows.mean() - size / 2
        shift = np.array([[1, 0, x], [0, 1, y]], np.float32)
        moved = cv2.warpAffine(
            texture, shift, (size, size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP
        )
        frame[shape] = moved[shape]


def _read(path: Path, frames: tuple[int, int]) -> Iterator[Pixels]:
    with open_reader(path, frames=frames) as reader:
        for frame in reader:
            yield _to_uint8(frame.pixels)


def _to_uint8(pixels: npt.NDArray[Any]) -> Pixels:
    if pixels.dtype == np.uint8:
        return pixels
    return from_unit(to_unit(pixels), np.dtype(np.uint8))


def _resized(image: npt.NDArray[Any], side: int) -> npt.NDArray[Any]:
    shrinks = side < image.shape[0]
    mode = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return cv2.resize(image, (side, side), interpolation=mode)


def _shrunk(image: Pixels, short_side: int) -> Pixels:
    """No larger than asked for; smaller stays."""
    height, width = image.shape[:2]
    scale = min(1.0, short_side / min(height, width))
    if scale == 1:
        return image
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)


# --- batches --------------------------------------------------------------------------------------


def iterate_batches(
    sources: Sequence[Source],
    config: DataConfig,
    batch: int,
    *,
    ratio: int = 2,
    start: int = 0,
    step: int = 1,
    workers: int = 0,
) -> Generator[Batch, None, None]:
    """Batches without end: number start, start + step, start + 2 step ...

    Args:
        sources: one side of the split.
        config: how clips are drawn.
        batch: clips in a batch.
        ratio: of the networks, see `NetworkConfig`.
        start: number of the first batch; a batch depends on its number and on nothing before it.
        step: with several training processes, each takes every so-manieth batch.
        workers: processes that draw clips ahead of their use; 0 draws them here, when needed.
    """
    wanted = (
        (clip, _coarse_side(config, ratio, round_number))
        for round_number in _rounds(start, step, config.repeats)
        for clip in range(round_number * batch, (round_number + 1) * batch)
    )
    clips = _mapped(partial(_draw, sources, config), wanted, workers)
    named: set[str] = set()
    drawn: list[Clip] = []
    drawn_round = -1
    try:
        for number in count(start, step):
            if drawn_round != number // config.repeats:
                drawn_round = number // config.repeats
                drawn = [next(clips) for _ in range(batch)]
                for name, reason in chain.from_iterable(clip.damaged for clip in drawn):
                    if name not in named:
                        named.add(name)
                        _log.warning("%s is passed over, %d so far: %s", name, len(named), reason)
            yield _stack(drawn, np.random.default_rng([config.seed, number, 1]))
    finally:
        clips.close()


def _rounds(start: int, step: int, repeats: int) -> Iterator[int]:
    last = -1
    for number in count(start, step):
        if number // repeats != last:
            last = number // repeats
            yield last


def _coarse_side(config: DataConfig, ratio: int, round_number: int) -> int:
    """1/ratio of the clip's side, or less: one side for all clips of a batch."""
    rng = np.random.default_rng([config.seed, round_number, 2])
    smallest, largest = math.log(ratio), math.log(max(ratio, config.coarsest))
    return max(4, round(config.size / math.exp(rng.uniform(smallest, largest))))


def _draw(sources: Sequence[Source], config: DataConfig, job: tuple[int, int]) -> Clip:
    return draw_clip(sources, config, *job)


def _stack(clips: Sequence[Clip], rng: np.random.Generator) -> Batch:
    """Clips as a batch, each mirrored and reversed at random."""
    turned = []
    for clip in clips:
        mirror, reverse = rng.random(2) < 0.5
        turned.append([_turned(array, mirror, reverse) for array in clip[:8]])
    return Batch(*(torch.stack(tensors) for tensors in zip(*turned, strict=True)))


def _turned(array: npt.NDArray[Any], mirror: bool, reverse: bool) -> Tensor:
    array = array[:: -1 if reverse else 1, :, :: -1 if mirror else 1]
    tensor = torch.from_numpy(array.copy())  # torch takes no axis that runs backwards
    if tensor.ndim == 3:
        return tensor[None]
    tensor = tensor.permute(3, 0, 1, 2)
    return tensor / 255 if tensor.dtype == torch.uint8 else tensor


def _mapped(
    function: Callable[[Job], Result], jobs: Iterable[Job], workers: int
) -> Generator[Result, None, None]:
    """`map` in worker processes that keep a few jobs ahead; in the order of the jobs.

    Raises:
        OSError: a worker process was ended from outside.
    """
    if workers == 0:
        yield from map(function, jobs)
        return
    # Started anew and not forked: threads of torch and OpenCV do not survive a fork.
    context = multiprocessing.get_context("spawn")
    # The function goes to each process once: it may hold a clip in memory.
    pool = ProcessPoolExecutor(workers, context, _start_worker, (function,))
    ahead: deque[Future[Result]] = deque()
    try:
        for job in jobs:
            ahead.append(pool.submit(_work, job))
            if len(ahead) > 4 * workers + 8:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()
    except BrokenProcessPool as error:
        raise ChildProcessError(
            "a process that prepares clips was ended from outside, perhaps for want of memory; "
            "use fewer workers."
        ) from error
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


_function: Callable[[Any], Any]  # of a worker process


def _start_worker(function: Callable[[Any], Any]) -> None:
    global _function
    _function = function
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)


def _work(job: Any) -> Any:
    return _function(job)


def _end_with_parent() -> None:
    """A parent that was killed ends nothing itself, and a worker would wait for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
