"""Predict how well a removal will come out, on the clip that it is for.

What is behind an object is not known, but what is beside it is. So an area of the mask's
own shape and motion is hidden elsewhere in the frame too, both are filled as one hole, and the
hidden area is compared with the source. The prediction is as good as the hidden areas are like the
hole: how much of either is seen in other frames says whether they are.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from combcn_core.atomic import make_folder, write_text
from combcn_core.clips.masks import read_mask
from combcn_core.clips.pictures import (
    Image,
    frame_over_slice,
    outline_mask,
    save_picture,
    side_by_side,
    xt_slice,
)
from combcn_core.clips.video import PathLike, open_reader
from combcn_core.masks import check_masks, grow
from combcn_core.measure import metrics
from combcn_core.measure.placements import Masks, Placement, draw_placements
from combcn_core.measure.scores import write_html
from combcn_core.networks.inference import Model
from combcn_core.pixels import to_uint8
from combcn_core.progress import OnProgress, OnShare, Progress, part_of
from combcn_core.shot import InpaintConfig, inpaint_with_unseen

MAX_FRAMES = 96
SEEDS = (0, 1)
WORST_FRAMES = 5
LEAST_SHARE = 1 / 3  # of the mask's pixels: less says nothing about the rest
UNLIKE = 0.1  # difference of two shares that makes hidden areas a doubtful measure
HOLE_INK, HIDDEN_INK = (255, 214, 10), (60, 220, 255)


class HiddenScore(NamedTuple):
    """How one hidden area was recovered.

    Attributes:
        placement: where it was.
        psnr, l1, flicker: `metrics.hole_psnr`, `l1` and `flicker` of it, against the source.
        seen: share of its pixels that propagation filled from other frames.
        hole_seen: that of the hole itself, beside it.
    """

    placement: Placement
    psnr: float
    l1: float
    flicker: float
    seen: float
    hole_seen: float


@dataclass(frozen=True)
class Prediction:
    """How well a hole will probably be filled.

    Attributes:
        first_frame, num_frames: of the clip, that were tested; the rest was not looked at.
        total_frames: of the clip.
        share: of the hole whose shape was hidden: 1, or less where only a part of it has room.
        scores: one for each hidden area.
        worst: (frame of the clip, l1), the worst first: mean over the hidden areas.
        picture: (H, W, 3) uint8, the worst frame of each hidden area: source, result and truth.
    """

    first_frame: int
    num_frames: int
    total_frames: int
    share: float
    scores: tuple[HiddenScore, ...]
    worst: tuple[tuple[int, float], ...]
    picture: Image = field(repr=False, compare=False)

    def expected(self, name: str) -> tuple[float, float]:
        """Mean over the hidden areas and standard deviation between them; NaN with only one.

        Args:
            name: of a number in `HiddenScore`.
        """
        values = [float(getattr(score, name)) for score in self.scores]
        spreads = len(values) > 1 and all(map(math.isfinite, values))
        return statistics.fmean(values), statistics.stdev(values) if spreads else math.nan

    @property
    def doubt(self) -> str:
        """Why the prediction may be wrong, in a sentence; empty where the areas are alike."""
        hidden, hole = (self.expected(name)[0] for name in ("seen", "hole_seen"))
        if abs(hidden - hole) <= UNLIKE:
            return ""
        return (
            f"Other frames show {hidden:.0%} of the hidden areas but {hole:.0%} of the hole, so "
            f"expect {'less' if hidden > hole else 'more'} than predicted."
        )


def self_test(
    images: Tensor,
    masks: Tensor,
    model: Model | None = None,
    config: InpaintConfig | None = None,
    *,
    seeds: Sequence[int] = SEEDS,
    max_frames: int = MAX_FRAMES,
    on_progress: OnShare | None = None,
) -> Prediction:
    """Predict the quality of `inpaint` with the same arguments, from areas whose content is known.

    An area has the shape of the (grown) mask in every frame, mirrored or not, and keeps its
    distance from it, so that it moves as the object does. It lies within the frame and a little
    off the hole. Where the whole mask has no room, the largest thing in it that has some is taken.

    Args:
        images: (T, H, W, 3), as in `inpaint`.
        masks: (T, H, W) or (H, W), 1 inside the hole.
        model: as in `inpaint`.
        config: as in `inpaint`; the defaults if None.
        seeds: each draws one area. Fewer are used where fewer different ones are possible.
        max_frames: frames to test at most: those around the largest hole.
        on_progress: as in `inpaint`.

    Returns:
        The prediction.

    Raises:
        ValueError: as in `inpaint`; also an empty mask, and one that leaves no room beside it for
            at least a third of its pixels.
    """
    _check(seeds, max_frames)
    config = config or InpaintConfig()
    holes = grow(check_masks(masks, *images.shape[:3]), config.grow_pixels).cpu().numpy()
    start = _busiest(holes.sum(axis=(1, 2)), max_frames)
    window = slice(start, start + max_frames)

    def progress(now: Progress) -> None:
        if on_progress is not None:
            on_progress(now.share, now.picture)

    return _test(
        images[window].cpu(), holes[window], model, config, seeds, start, len(images), progress
    )


def self_test_file(
    clip: PathLike,
    mask: PathLike,
    output: PathLike,
    model: Model | None = None,
    config: InpaintConfig | None = None,
    *,
    seeds: Sequence[int] = SEEDS,
    max_frames: int = MAX_FRAMES,
    progress: OnProgress | None = None,
) -> Prediction:
    """`self_test` of a file, in 8 bits. Only the frames that are tested are held in memory.

    Args:
        clip: video file, or folder of images.
        mask: see `read_mask`.
        output: a folder, made if need be, for prediction.json, prediction.jpg and index.html.
        model, config, seeds, max_frames: as in `self_test`.
        progress: called often; the stages are the tests.

    Raises:
        ValueError: as in `self_test`; a file that cannot be read, or an output that cannot be
            written.
    """
    _check(seeds, max_frames)
    config = config or InpaintConfig()
    if progress is not None:
        progress(Progress("reading", 0.0))
    info = open_reader(clip).info
    with read_mask(mask, info) as masks:
        areas = np.array([int(hole.sum()) for hole in masks])
    start = _busiest(areas, max_frames)
    last = min(start + max_frames, len(areas)) - 1
    with open_reader(clip, frames=(start, last)) as frames, read_mask(mask, frames.info) as masks:
        images = np.stack([to_uint8(frame.pixels) for frame in frames])
        picked = torch.from_numpy(np.stack(list(masks)))
    holes = grow(picked, config.grow_pixels).numpy()
    prediction = _test(
        torch.from_numpy(images), holes, model, config, seeds, start, len(areas), progress
    )
    _write(Path(output), Path(clip).resolve().name, prediction)
    return prediction


def describe_prediction(prediction: Prediction) -> list[str]:
    """The prediction in sentences: what was tested, what to expect, and how far to trust it."""
    first, tested = prediction.first_frame, prediction.num_frames
    span = f"frames {first} to {first + tested - 1} of {prediction.total_frames}"
    if tested < prediction.total_frames:
        span += ", around the largest hole; the others were not looked at"
    count = len(prediction.scores)
    areas = "1 area" if count == 1 else f"{count} areas"
    whose = "the mask's shape"
    if prediction.share < 1:
        whose = f"the shape of a part of the mask ({prediction.share:.0%} of it; all had no room)"

    def figure(name: str) -> str:
        mean, spread = prediction.expected(name)
        if math.isnan(mean):  # flicker, where no two frames in a row have a hole
            return "unknown"
        text = f"{mean:.2f}"
        return text if math.isnan(spread) else f"{text} ± {spread:.2f}"

    hidden, hole = (prediction.expected(name)[0] for name in ("seen", "hole_seen"))
    worst = ", ".join(f"{frame} ({l1:.1f})" for frame, l1 in prediction.worst)
    lines = [
        f"{areas} of {whose}, hidden and filled again in {span}.",
        f"Expect in the hole: PSNR {figure('psnr')} dB, l1 {figure('l1')}, "
        f"flicker {figure('flicker')} (of 255).",
        f"Seen in other frames: {hidden:.1%} of the hidden areas, {hole:.1%} of the hole.",
        f"Worst frames (l1): {worst}.",
        "This holds as far as what was hidden is like what the object hides; the picture shows it.",
    ]
    return [*lines, prediction.doubt] if prediction.doubt else lines


# --- testing --------------------------------------------------------------------------------------


def _check(seeds: Sequence[int], max_frames: int) -> None:
    if max_frames < 2 or not seeds:
        raise ValueError(
            f"max_frames is {max_frames} and seeds {tuple(seeds)}; give 2 frames or more, and one "
            "seed or more."
        )


def _busiest(areas: NDArray[Any], count: int) -> int:
    """The first of `count` frames around the one with the largest hole."""
    if not areas.any():
        raise ValueError("the mask is empty, so there is nothing to predict; give another one.")
    return max(0, min(int(areas.argmax()) - count // 2, len(areas) - count))


def _test(
    images: Tensor,
    holes: Masks,
    model: Model | None,
    config: InpaintConfig,
    seeds: Sequence[int],
    first_frame: int,
    total_frames: int,
    progress: OnProgress | None,
) -> Prediction:
    shape, placements = draw_placements(holes, seeds)
    share = float(shape.sum() / holes.sum())
    if share < LEAST_SHARE:
        raise ValueError(
            f"only {share:.1%} of the mask has room elsewhere in the frame to be hidden and "
            f"compared, which says nothing about the rest ({LEAST_SHARE:.0%} would); give a "
            "smaller mask, or test fewer frames."
        )
    config = replace(config, grow_pixels=0)  # the holes are grown already
    scores: list[HiddenScore] = []
    panels: list[Image] = []
    labels: list[str] = []
    errors = np.zeros(len(images))
    for number, placement in enumerate(placements):
        hidden = placement.apply(shape)
        union = torch.from_numpy(holes | hidden)
        on_progress = _progress_of(progress, number, len(placements))
        result, remaining = inpaint_with_unseen(
            images, union, model, config, on_progress=on_progress
        )
        where = torch.from_numpy(hidden)
        scores.append(
            HiddenScore(
                placement,
                metrics.hole_psnr(result, images, where),
                metrics.l1(result, images, where),
                metrics.flicker(result, images, where),
                1 - float(remaining.numpy()[hidden].mean()),
                1 - float(remaining.numpy()[holes].mean()),
            )
        )
        of_frames = np.array(metrics.frame_errors(result, images, where))
        errors += of_frames / len(placements)
        worst = int(np.where(hidden.any(axis=(1, 2)), of_frames, -1).argmax())
        panels += _draw_panels(images, result, holes, hidden, worst)
        labels += [
            f"source, the hole and a hidden area\nframe {first_frame + worst}",
            f"result\nhidden: l1 {of_frames[worst]:.1f}; of all {scores[-1].l1:.1f}",
        ]
    order = errors.argsort()[::-1][:WORST_FRAMES]
    return Prediction(
        first_frame,
        len(images),
        total_frames,
        share,
        tuple(scores),
        tuple((first_frame + int(frame), float(errors[frame])) for frame in order),
        side_by_side(panels, labels, columns=2),
    )


def _progress_of(progress: OnProgress | None, number: int, count: int) -> OnShare | None:
    """A progress callback for one test of several."""
    if progress is None:
        return None

    def on_progress(share: float, picture: Image | None) -> None:
        progress(Progress(f"test {number + 1} of {count}", share, picture=picture))

    return part_of(on_progress, number / count, (number + 1) / count)


def _draw_panels(
    images: Tensor, result: Tensor, holes: Masks, hidden: Masks, frame: int
) -> list[Image]:
    """The source with both areas outlined, and the result, each over a slice through the hidden."""
    row = int(np.median(hidden[frame].nonzero()[0]))
    given, filled = (to_uint8(clip[frame].numpy()) for clip in (images, result))
    slices = [xt_slice(to_uint8(clip[:, row, None].numpy()), 0) for clip in (images, result)]
    outlined = outline_mask(given, holes[frame], color=HOLE_INK)
    outlined = outline_mask(outlined, hidden[frame], color=HIDDEN_INK)
    return [frame_over_slice(outlined, slices[0]), frame_over_slice(filled, slices[1])]


# --- writing --------------------------------------------------------------------------------------


def _write(folder: Path, clip: str, prediction: Prediction) -> None:
    """Write the picture, the figures, and last the page that shows both."""
    make_folder(folder)
    save_picture(folder / "prediction.jpg", prediction.picture)
    figures = {key: value for key, value in vars(prediction).items() if key != "picture"}
    figures["scores"] = [
        {**score._asdict(), "placement": score.placement._asdict()} for score in prediction.scores
    ]
    for name in ("psnr", "l1", "flicker", "seen", "hole_seen"):
        mean, spread = prediction.expected(name)
        figures[name] = {"mean": mean, "spread": spread}
    figures["doubt"] = prediction.doubt
    write_text(folder / "prediction.json", json.dumps(_plain(figures), indent=2) + "\n")
    sentences = [f"<p>{escape(sentence)}</p>" for sentence in describe_prediction(prediction)]
    picture = '<a href="prediction.jpg"><img src="prediction.jpg" alt="hidden areas"></a>'
    note = (
        "<p>The hole is outlined in yellow, the hidden areas in blue: of each its worst frame. "
        "Beneath each frame is an x-t slice: one row of pixels, time running down.</p>"
    )
    title = f"What to expect of {clip}"
    write_html(
        folder / "index.html", title, [f"<h1>{escape(title)}</h1>", *sentences, note, picture]
    )


def _plain(value: Any) -> Any:
    """A value for JSON, which has no infinity: what is not finite becomes null."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
