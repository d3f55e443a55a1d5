"""Clips as folders: NAME/frames/ and NAME/masks/ (white = object); and videos as they are."""

from __future__ import annotations

import csv
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from combcn_core.clips.video import VIDEO_ENDINGS, open_reader


def read_image(path: Path) -> Tensor:
    """(H, W, 3) uint8 RGB"""
    image = cv2.imread(str(path))
    assert image is not None, path
    return torch.from_numpy(cv2.cvtColor(image, cv2.COLOR_BGR2RGB))


def read_frames(clip: Path, num_frames: int | None = None) -> Tensor:
    """(T, H, W, 3) uint8 RGB; the first ones, or all"""
    return read_folder(clip / "frames", num_frames)


def read_folder(folder: Path, num_frames: int | None = None) -> Tensor:
    """(T, H, W, 3) uint8 RGB of the folder's images, in the order of their names"""
    paths = sorted(folder.iterdir())[:num_frames]
    return torch.stack([read_image(path) for path in paths])


def read_masks(clip: Path) -> Tensor:
    """(T, H, W) bool"""
    paths = sorted((clip / "masks").iterdir())
    return torch.stack([read_image(path)[..., 0] >= 128 for path in paths])


def read_video(path: Path, num_frames: int) -> Tensor:
    """(T, H, W, 3) uint8 RGB of the first frames of an 8-bit video"""
    with open_reader(path, frames=(0, num_frames - 1)) as reader:
        return torch.from_numpy(np.stack([frame.pixels for frame in reader]))


def clip_names(folder: Path, part: str) -> list[str]:
    """Clips of the folder that have this part, frames or masks, in alphabetical order.

    Raises:
        ValueError: there are none.
    """
    names = sorted(path.parent.name for path in folder.glob(f"*/{part}"))
    if not names:
        raise ValueError(f"{folder} has no clips as NAME/{part}/; give a folder of such clips.")
    return names


def choose_videos(folder: Path, num_videos: int, num_frames: int, seed: int) -> list[Path]:
    """A choice that is the same for the same seed, spread over how much the videos move.

    The folder's metadata.csv has the columns clip (file name), frames, shot (one video of each is
    taken at most) and motion. The half that moves least is left out, since any fill is good there.
    The other half, in the order of motion, is cut into as many runs as videos are wanted, and one
    is drawn from each.

    Raises:
        ValueError: no metadata.csv with these columns, or fewer videos that are long enough.
    """
    table = folder / "metadata.csv"
    if not table.is_file():
        raise ValueError(f"there is no {table}; give a folder of videos with one.")
    with open(table, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    if missing := {"clip", "frames", "shot", "motion"} - set(rows[0] if rows else ()):
        raise ValueError(
            f"{table} has no column {', '.join(sorted(missing))}; add what is missing."
        )
    rng = np.random.default_rng(seed)
    by_shot = {}
    for row in (rows[index] for index in rng.permutation(len(rows))):
        if int(row["frames"]) >= num_frames and row["clip"].lower().endswith(VIDEO_ENDINGS):
            by_shot[row["shot"]] = row
    moving = sorted(by_shot.values(), key=lambda row: (float(row["motion"]), row["clip"]))
    moving = moving[len(moving) // 2 :]
    if len(moving) < num_videos:
        raise ValueError(
            f"{folder} has {len(moving)} videos of {num_frames} frames that move, and {num_videos} "
            f"are wanted; ask for fewer."
        )
    runs = np.array_split(np.arange(len(moving)), num_videos)
    return [folder / moving[rng.choice(run)]["clip"] for run in runs]
