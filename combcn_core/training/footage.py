"""Find what can be learnt from in a folder, and split it into training and validation."""

from __future__ import annotations

import csv
import hashlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from torch import Tensor

from combcn_core.clips.video import IMAGE_ENDINGS, VIDEO_ENDINGS, open_reader
from combcn_core.masks import check_masks
from combcn_core.pixels import Mask, Pixels, to_uint8
from combcn_core.progress import OnShare
from combcn_core.training.workers import map_in_processes

PROBE_FRAMES = 17  # of the middle of a video, by which its motion is judged
PHOTO_MOTION = 5.0  # a camera move over a photograph counts like a video with this motion
Floats = npt.NDArray[np.float64]
_log = logging.getLogger("combcn")


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


def scan_footage(
    folder: Path,
    *,
    where: Mapping[str, str] | None = None,
    clip_length: int = 32,
    workers: int = 0,
    on_progress: OnShare | None = None,
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
        on_progress: as in `inpaint`, after each file.

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
    probed = zip(paths, map_in_processes(_probe, jobs, workers), strict=True)
    for number, (path, found) in enumerate(probed, 1):
        if on_progress is not None:
            on_progress(number / len(paths), None)
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
    pixels = np.stack([to_uint8(frame) for frame in images.numpy(force=True)])
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
    """Open a file: the source and its mean pixel, or why it cannot be used."""
    path, clip_length = job
    try:
        is_photo = path.suffix.lower() in IMAGE_ENDINGS
        total = 1 if is_photo else open_reader(path).info.total_frames or 0
        if not is_photo and total < clip_length:
            return f"it has {total} frames, a training clip {clip_length}"
        first = max(0, (total - PROBE_FRAMES) // 2)
        means, small = [], []
        for frame in read_frames(path, (first, min(total, first + PROBE_FRAMES) - 1)):
            means.append(frame.reshape(-1, 3).mean(axis=0))
            small.append(shrink(frame, 96))
    except (ValueError, OSError) as error:
        return reason(error)
    motion = PHOTO_MOTION if is_photo else _motion(np.stack(small))
    return Source(path, total, path.stem, motion), np.mean(means, axis=0) / 255


def reason(error: Exception) -> str:
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


def read_frames(path: Path, frames: tuple[int, int]) -> Iterator[Pixels]:
    with open_reader(path, frames=frames) as reader:
        for frame in reader:
            yield to_uint8(frame.pixels)


def shrink(image: Pixels, short_side: int) -> Pixels:
    """Make a picture smaller where it is larger than asked for."""
    height, width = image.shape[:2]
    scale = min(1.0, short_side / min(height, width))
    if scale == 1:
        return image
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)
