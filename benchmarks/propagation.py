"""How good the fill without networks is, where the truth is known: holes in clips without them.

    python -m benchmarks.propagation DATA [--output FILE.csv] [settings of `combcn inpaint`]
    python -m benchmarks.propagation VIDEOS --masks DATA [--clips 16] [--frames 24] [--seed 0] [...]

DATA holds NAME/frames/*.jpg and NAME/masks/*.png (white = object). The holes of a clip are the
object masks of the clip seven places later in alphabetical order, ping-pong in time where that one
is shorter, grown by 8 pixels; the first 50 frames count. Clips with a background.png are also
scored as true removals: all frames, their own masks (grown by 2 pixels for the removal), against
the background at each frame's exposure, where it is seen within reach.

With --masks, clips are drawn from a folder of videos instead, the same for the same seed (see
`clips.choose_videos`), and so are their masks, those of DATA, resized to the frames. This is for
choosing settings, which the clips of DATA then judge.

Columns, over the hole (see `combcn_core.measure.metrics`): PSNR in dB of Telea, Navier-Stokes and
`inpaint`, and its gain over Telea; the share that propagation left to the fill of what no frame
shows; then of `inpaint` milliseconds a frame, by the clock and of all cores; gradient energy over
that of the truth, of all and of what was propagated; error of texture; FLIP of every fourth frame,
0..1, if flip-evaluator is installed (the extra `benchmarks`); flicker, 0..255, and that of Telea.
"""

from __future__ import annotations

import csv
import importlib.util
import math
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

import cv2
import numpy as np
import torch
import tyro
from torch import Tensor
from tyro.conf import Positional, arg

from benchmarks.appearance import texture_error
from benchmarks.clips import (
    choose_videos,
    clip_names,
    read_frames,
    read_image,
    read_masks,
    read_video,
)
from combcn_core.fill.stages import propagate
from combcn_core.masks import bounding_box, composite, grow, to_float
from combcn_core.measure import metrics
from combcn_core.pixels import crop
from combcn_core.shot import InpaintConfig, inpaint

GROW_PIXELS, PLACES = 8, 7
FLIP_STEP = 4  # it takes as long as the fill
FLIP_REACH_PIXELS = 24  # more than its filters reach
COLUMNS = ["telea", "ns", "combcn", "gain", "unseen", "ms", "cpu.ms"]
COLUMNS += ["sharp", "p.sharp", "texture", "flip", "flicker", "f.telea"]


@dataclass(frozen=True)
class Options:
    """How good the fill without networks is, where the truth is known."""

    data: Positional[Path]
    """Clips as NAME/frames/ and NAME/masks/; with --masks, videos and their metadata.csv."""
    masks: Path | None = None
    """Take the holes from the masks of this folder's clips."""
    clips: int = 16
    """Videos to draw, with --masks."""
    frames: int = 50
    """First frames of each clip that count."""
    seed: int = 0
    """Of what is drawn, with --masks."""
    output: Path | None = None
    """Write the table to this CSV file, too."""
    config: Annotated[InpaintConfig, arg(name="")] = field(default_factory=InpaintConfig)
    """Settings of the fill."""


def main() -> None:
    options = tyro.cli(Options, description=__doc__)
    try:
        run(options)
    except ValueError as error:
        print(f"benchmarks.propagation: {error}", file=sys.stderr)
        sys.exit(2)


def run(options: Options) -> None:
    if not has_flip():
        print('no flip-evaluator (pip install -e ".[benchmarks]"): FLIP is left out.')
    print(f"{'clip':16s}" + "".join(f"{column:>9s}" for column in COLUMNS))
    rows = {}
    start = time.perf_counter()
    for name, images, holes in read_clips(options):
        rows[name] = score(images, holes, options.config)
        print_row(name, rows[name])
    columns = list(zip(*rows.values(), strict=True))
    rows["mean"] = [statistics.fmean(column) for column in columns]
    rows["median"] = [statistics.median(column) for column in columns]
    print_row("mean", rows["mean"])
    print_row("median", rows["median"])
    print(f"{time.perf_counter() - start:.0f} s on {torch.get_num_threads()} threads")
    if options.output is not None:
        with open(options.output, "w", newline="") as file:
            csv.writer(file).writerows([("clip", *COLUMNS), *([k, *v] for k, v in rows.items())])
    backgrounds = sorted(options.data.glob("*/background.png"))
    if backgrounds:
        print("\nremoval against the true background, hole PSNR where it is seen within reach:")
    for path in backgrounds:
        print(f"{path.parent.name:16s}{removal(path.parent, options.config):9.2f}")


def read_clips(options: Options) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Name, frames (T, H, W, 3) uint8, and holes (T, H, W) bool of each clip."""
    if options.masks is None:
        names = clip_names(options.data, "frames")
        for place, name in enumerate(names):
            images = read_frames(options.data / name, options.frames)
            masks = read_masks(options.data / names[(place + PLACES) % len(names)])
            yield name, images, grow(ping_pong(masks, len(images)), GROW_PIXELS)
        return
    names = clip_names(options.masks, "masks")
    order = np.random.default_rng(options.seed).permutation(len(names))
    videos = choose_videos(options.data, options.clips, options.frames, options.seed)
    for place, path in enumerate(videos):
        images = read_video(path, options.frames)
        masks = read_masks(options.masks / names[order[place % len(order)]])
        holes = resized(ping_pong(masks, len(images)), *images.shape[1:3])
        yield path.stem[-16:], images, grow(holes, GROW_PIXELS)


def score(images: Tensor, holes: Tensor, config: InpaintConfig) -> list[float]:
    """One row of the table."""
    telea = classical(images, holes, cv2.INPAINT_TELEA)
    navier_stokes = classical(images, holes, cv2.INPAINT_NS)
    _, remaining = propagate(images, holes, reach=config.reach)
    start = time.perf_counter(), time.process_time()
    result = inpaint(images, holes, config=replace(config, network=False))
    seconds = time.perf_counter() - start[0], time.process_time() - start[1]
    ours, theirs = (metrics.hole_psnr(fill, images, holes) for fill in (result, telea))
    return [
        theirs,
        metrics.hole_psnr(navier_stokes, images, holes),
        ours,
        ours - theirs,
        float(remaining.sum() / holes.sum()),
        *(1000 * value / len(images) for value in seconds),
        metrics.gradient_energy_ratio(result, images, holes),
        metrics.gradient_energy_ratio(result, images, holes & ~remaining),
        texture_error(result, images, holes),
        flip(result[::FLIP_STEP], images[::FLIP_STEP], holes[::FLIP_STEP]),
        metrics.flicker(result, images, holes),
        metrics.flicker(telea, images, holes),
    ]


def has_flip() -> bool:
    return importlib.util.find_spec("flip_evaluator") is not None


def flip(prediction: Tensor, target: Tensor, masks: Tensor) -> float:
    """FLIP over the hole pixels, in [0, 1]. Lower is better; NaN without flip-evaluator.

    How different two images look that a viewer flips between, at 67 pixels a degree, the default.

    Source: Andersson et al., FLIP: A Difference Evaluator for Alternating Images, HPG 2020.
    """
    if not has_flip():
        return math.nan
    from flip_evaluator import evaluate

    errors = []
    result = composite(to_float(prediction), target, masks)
    for ours, truth, hole in zip(to_float(result), to_float(target), masks, strict=True):
        box = bounding_box(grow(hole[None], FLIP_REACH_PIXELS))
        if box is not None:
            images = (np.ascontiguousarray(crop(image.numpy(), box)) for image in (truth, ours))
            error, _, _ = evaluate(*images, "LDR", applyMagma=False, computeMeanError=False)
            errors.append(error[crop(hole.numpy(), box)].ravel())
    return float(np.concatenate(errors).mean()) if errors else math.nan


def removal(clip: Path, config: InpaintConfig) -> float:
    """Hole PSNR against the background of what was seen, with the clip's own masks.

    The background is one picture; at each frame's own exposure it is the truth.
    """
    images, objects = read_frames(clip), read_masks(clip)
    holes = grow(objects, 2)
    background = read_image(clip / "background.png").expand(len(images), -1, -1, -1)
    background = at_exposure_of(images, background, holes)
    _, remaining = propagate(images, holes, reach=config.reach)
    result = inpaint(images, holes, config=replace(config, network=False))
    return metrics.hole_psnr(result, background, objects & ~remaining)


def at_exposure_of(images: Tensor, background: Tensor, holes: Tensor) -> Tensor:
    """A background as bright as each frame: the median difference over known pixels is added."""
    frames, plain = images.numpy().astype(np.float32), background.numpy().astype(np.float32)
    known = holes.numpy().reshape(frames.shape[:3]) == 0
    steps = [
        np.median((frame - picture)[here], axis=0)
        for frame, picture, here in zip(frames, plain, known, strict=True)
    ]
    result = np.clip(plain + np.stack(steps)[:, None, None], 0, 255)
    return torch.from_numpy(result.round().astype(images.numpy().dtype))


def print_row(name: str, row: list[float]) -> None:
    cells = "".join(f"{value:9.3f}" if math.isfinite(value) else f"{'-':>9s}" for value in row)
    print(f"{name:16s}{cells}", flush=True)


def ping_pong(masks: Tensor, num_frames: int) -> Tensor:
    """Forward, backward, forward ... until there are enough frames."""
    cycle = [*range(len(masks)), *range(len(masks) - 2, 0, -1)]
    return masks[[cycle[t % len(cycle)] for t in range(num_frames)]]


def resized(masks: Tensor, height: int, width: int) -> Tensor:
    """Masks of another size, nearest pixel."""
    return torch.nn.functional.interpolate(masks[:, None].float(), (height, width))[:, 0] > 0


def classical(images: Tensor, holes: Tensor, method: int) -> Tensor:
    """OpenCV's single-image fill, radius 3 pixels, frame by frame."""
    filled = [
        cv2.inpaint(image, hole.astype(np.uint8), 3, method)
        for image, hole in zip(images.numpy(), holes.numpy(), strict=True)
    ]
    return torch.from_numpy(np.stack(filled))


if __name__ == "__main__":
    main()
