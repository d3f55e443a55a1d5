"""Draw one training clip with its hole: a square of a video, or a camera move over a photograph.

Everything is drawn from one NumPy generator seeded by (seed, number of the clip).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import islice, pairwise
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
import torch

from combcn_core.fill.cuts import is_cut
from combcn_core.fill.stages import fill_each_frame, fill_rest, propagate
from combcn_core.masks import downsample_known
from combcn_core.pixels import Mask, Pixels
from combcn_core.training.config import DataConfig, FillKind
from combcn_core.training.footage import Source, read_frames, reason, shrink
from combcn_core.training.holes import make_holes

LARGEST_MOTION = 12.0  # grey levels a frame; above it, motion makes a clip no more useful
TRIES = 100  # draws until a clip without a cut is found; edited films have many


class TrainingClip(NamedTuple):
    """A clip with its hole, channels last, as worker processes hand it over."""

    clip: Pixels  # (T, H, W, 3) uint8
    filled: Pixels
    mask: Mask  # (T, H, W)
    learn: Mask
    coarse_clip: npt.NDArray[np.float32]
    coarse_filled: npt.NDArray[np.float32]
    coarse_mask: Mask
    coarse_learn: Mask
    damaged: tuple[tuple[str, str], ...] = ()  # files that were passed over, and why


def draw_clip(
    sources: Sequence[Source], config: DataConfig, number: int, coarse_side: int
) -> TrainingClip:
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
            damaged[source.path.name] = reason(error)
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
    """(T, side, side, 3) uint8 and where they are unknown."""
    side, length = config.size, config.clip_length
    if source.num_frames == 1 and source.images is None:
        (photo,) = read_frames(source.path, (0, 0))
        frames = move_camera(photo, length, side, rng)
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
        whole = read_frames(source.path, (first, first + span - 1))
        taken: Iterator[Pixels] = islice(whole, 0, None, step)
    else:
        taken = iter(source.images[chosen])
    cut: list[Pixels] = []
    for frame in taken:  # cut as they come: whole frames of a clip may need gigabytes
        if not cut:
            rows, columns = _draw_square(frame.shape[0], frame.shape[1], side, rng)
        cut.append(_resized(frame[rows, columns], side))
    frames, unknown = np.stack(cut), np.zeros((length, side, side), bool)
    if source.unknown is not None:
        # Any touch of an unknown pixel makes the resized one unknown.
        touched = source.unknown[chosen, rows, columns].astype(np.float32)
        unknown = np.stack([_resized(hole, side) > 0 for hole in touched])
    if rng.random() < 0.5:  # time runs backwards
        frames, unknown = frames[::-1].copy(), unknown[::-1].copy()
    return frames, unknown


def _draw_square(
    height: int, width: int, least: int, rng: np.random.Generator
) -> tuple[slice, slice]:
    """Rows and columns to cut: the whole height, or less, but hardly ever less than `least`."""
    short = min(height, width)
    side = round(short * math.exp(rng.uniform(math.log(min(1.0, 0.8 * least / short)), 0)))
    top = int(rng.integers(0, height - side, endpoint=True))
    left = int(rng.integers(0, width - side, endpoint=True))
    return slice(top, top + side), slice(left, left + side)


def _fill(frames: Pixels, holes: Mask, kind: FillKind) -> tuple[Pixels, Mask]:
    """Fill the hole without networks; returns the fill, and what of the hole stays for them."""
    images, masks = torch.from_numpy(frames), torch.from_numpy(holes)
    if kind == "propagate":
        filled, remaining = propagate(images, masks)
        return filled.numpy(), remaining.numpy()
    if kind == "rest":
        return fill_rest(images, masks).numpy(), holes
    return fill_each_frame(images, masks).numpy(), holes


def _with_coarse(
    frames: Pixels, filled: Pixels, mask: Mask, learn: Mask, unknown: Mask, side: int
) -> TrainingClip:
    size = (side, side)
    truth, hole = torch.from_numpy(frames), torch.from_numpy(mask)
    nothing = torch.zeros_like(hole)
    coarse_clip, _ = downsample_known(truth, nothing, size=size)
    coarse_filled, _ = downsample_known(torch.from_numpy(filled), nothing, size=size)
    # Any touch of the hole makes a cell hole, so nothing of the fill is in what counts as known.
    _, coarse_mask = downsample_known(truth, hole, size=size)
    _, coarse_learn = downsample_known(truth, torch.from_numpy(learn), size=size)
    _, coarse_unknown = downsample_known(truth, torch.from_numpy(unknown), size=size)
    return TrainingClip(
        frames,
        filled,
        mask,
        learn,
        coarse_clip.numpy(),
        coarse_filled.numpy(),
        coarse_mask.numpy(),
        (coarse_learn & ~coarse_unknown).numpy(),
    )


def move_camera(photo: Pixels, num_frames: int, side: int, rng: np.random.Generator) -> Pixels:
    """A photograph as a clip: a smooth move of a camera, sometimes with a layer that moves.

    Pan, zoom, rotation and perspective go from one random view to another; a layer is a silhouette
    filled with another part of the photograph.

    Args:
        photo: (H, W, 3) uint8.
        num_frames: of the clip.
        side: side of the clip in pixels.
        rng: what decides.

    Returns:
        (T, side, side, 3) uint8.
    """
    # Four times the clip at most: the closest view magnifies hardly, the widest aliases little.
    photo = shrink(photo, 4 * side)
    height, width = photo.shape[:2]
    short = min(height, width)
    closest = min(1.0, side / short)  # side of the smallest view, in short sides
    views = []
    for _ in range(2):
        # A fifth is left as room to turn and lean.
        view_side = short * rng.uniform(min(closest, 0.9), 0.95) * 0.8
        angle = rng.normal(0, math.radians(4))
        turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
        square = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * view_side / 2
        corners = square @ turn.T + rng.normal(0, 0.02 * view_side, (4, 2))
        low, high = corners.min(0), corners.max(0)
        room = np.array([width - 1, height - 1]) - (high - low)
        views.append(corners - low + np.maximum(room, 0) * rng.random(2))
    # Not every camera crosses the picture: the second view may be near the first.
    views[1] = views[0] + (views[1] - views[0]) * rng.uniform(0.05, 1) * min(1, num_frames / 48)
    times = np.linspace(0, 1, num_frames)
    times = times + rng.uniform(-0.12, 0.12) * np.sin(2 * math.pi * times)
    frame_corners = np.array([[0, 0], [side, 0], [side, side], [0, side]], np.float32) - 0.5
    frames = []
    for time in times:
        corners = (views[0] + (views[1] - views[0]) * time).astype(np.float32)
        matrix = cv2.getPerspectiveTransform(frame_corners, corners)
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        frames.append(
            cv2.warpPerspective(
                photo, matrix, (side, side), flags=flags, borderMode=cv2.BORDER_REFLECT_101
            )
        )
    clip = np.stack(frames)
    if rng.random() < 0.3:
        _lay_over(clip, photo, rng)
    return clip


def _lay_over(clip: Pixels, photo: Pixels, rng: np.random.Generator) -> None:
    """Let silhouettes cross the clip, filled with a part of the photograph that moves along."""
    side = clip.shape[1]
    shapes = make_holes("object", len(clip), side, side, int(rng.integers(2**31))).numpy()
    texture = cv2.flip(_resized(photo[: min(photo.shape[:2]), : min(photo.shape[:2])], side), 1)
    for frame, shape in zip(clip, shapes, strict=True):
        if not shape.any():
            continue
        rows, columns = np.nonzero(shape)
        x, y = columns.mean() - side / 2, rows.mean() - side / 2
        shift = np.array([[1, 0, x], [0, 1, y]], np.float32)
        moved = cv2.warpAffine(
            texture, shift, (side, side), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP
        )
        frame[shape] = moved[shape]


def _resized(image: npt.NDArray[Any], side: int) -> npt.NDArray[Any]:
    shrinks = side < image.shape[0]
    mode = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return cv2.resize(image, (side, side), interpolation=mode)
