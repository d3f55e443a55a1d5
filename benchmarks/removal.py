"""Remove real objects and compare with the truth: what users do, measured.

    python -m benchmarks.removal [--clips NAME ...] [--data EVAL] [--output FOLDER] [--weights W]

The clips are those of `scenes`, whose truth is rendered, and the still-camera clips of EVAL (or of
the folder that COMBCN_DATA names): NAME/frames/, NAME/masks/ (white = object, grown by 2 pixels
here) and NAME/background.png, the truth of every frame.

Methods: telea (the floor), no-network (what `combcn inpaint` does without --weights, the same as
with --no-network) and, with --weights, combcn. The row "limit" is how well the truth can be known:
of a rendered scene, the truth with other noise; of a still-camera clip, its known pixels away from
the hole, against the background there. The row "predicted" is what `combcn evaluate --self-test`
says of the last method, without the truth; how far the areas that it hid differ among each other,
and from the hole in what other frames show, is in the second table.

Columns, over hole pixels only (and shadow that the mask leaves out): PSNR in dB; l1 and flicker,
0..255; gradient energy over that of the truth (1 is as sharp); l1 in the outer 2 pixels, where a
seam shows; seconds a frame. FOLDER gets removal.csv and two pictures of each clip:
the frame where the last method errs most, and eight frames around it.
"""

from __future__ import annotations

import argparse
import csv
import math
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import NamedTuple

import numpy as np
from torch import Tensor

from benchmarks.clips import read_frames, read_image, read_masks
from benchmarks.scenes import SCENES, render_scene
from combcn_core import metrics
from combcn_core.checkpoint import load_model
from combcn_core.evaluate import EvaluateConfig, Method, fill
from combcn_core.masks import bounding_box, grow
from combcn_core.networks import CombCN
from combcn_core.pictures import (
    Image,
    frame_over_slice,
    outline_mask,
    save_picture,
    side_by_side,
    strip,
    xt_slice,
)
from combcn_core.selftest import Prediction, self_test

GROW_PIXELS, EDGE_PIXELS, AWAY_PIXELS = 2, 2, 8
STRIP_FRAMES, STRIP_MARGIN_PIXELS = 8, 12


class Clip(NamedTuple):
    """A removal; (T, H, W, 3) uint8 each, and (T, H, W) bool.

    Attributes:
        name: of the clip.
        images: with the object.
        truth: without it.
        holes: what is filled.
        scored: where that is measured: the hole, and shadow that it leaves out.
        limit: as good as a fill of `around` can be expected to be.
        around: where that is measured.
    """

    name: str
    images: Tensor
    truth: Tensor
    holes: Tensor
    scored: Tensor
    limit: Tensor
    around: Tensor


@dataclass(frozen=True)
class Row:
    """One method on one clip; see the columns above."""

    clip: str
    method: str
    psnr: float
    l1: float
    flicker: float
    sharp: float
    edge: float
    seconds: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clips", nargs="+", metavar="NAME", help="these only")
    parser.add_argument("--data", type=Path, default=os.environ.get("COMBCN_DATA"))
    parser.add_argument("--output", type=Path, default=Path("removal"), metavar="FOLDER")
    parser.add_argument("--weights", help="of the networks: a name or a path")
    arguments = parser.parse_args()
    model = load_model(arguments.weights) if arguments.weights else None
    footage = [] if arguments.data is None else sorted(arguments.data.glob("*/background.png"))
    if not footage:
        print("no --data with clips that have a background.png: rendered scenes only.")
    names = [*SCENES, *(path.parent.name for path in footage)]
    unknown = set(arguments.clips or ()) - set(names)
    if unknown:
        parser.error(f"no clips called {', '.join(sorted(unknown))}; there are {', '.join(names)}")
    rows: list[Row] = []
    predictions: dict[str, Prediction | str] = {}
    columns = [column.name for column in fields(Row)][2:]
    print(f"{'clip':16s}{'method':12s}" + "".join(f"{column:>9s}" for column in columns))
    for clip in read_clips(arguments.clips or names, arguments.data):
        results: dict[str, Tensor] = {}
        for method in methods(model):
            start = time.perf_counter()
            results[method] = fill(method, clip.images, clip.holes, model, EvaluateConfig())
            seconds = (time.perf_counter() - start) / len(clip.images)
            rows.append(measure(clip, method, results[method], seconds))
            print_row(rows[-1])
        rows.append(limit(clip))
        print_row(rows[-1])
        draw(arguments.output, clip, results)
        try:
            prediction = self_test(clip.images, clip.holes, model)
        except ValueError as error:
            predictions[clip.name] = str(error)
        else:
            predictions[clip.name] = prediction
            expected = [prediction.expected(name)[0] for name in ("psnr", "l1", "flicker")]
            rows.append(Row(clip.name, "predicted", *expected, *[math.nan] * 3))
            print_row(rows[-1])
    tested = methods(model)[-1]
    print(f"\npredicted by the self-test, beside the truth ({tested}):")
    print_predictions(predictions, {row.clip: row for row in rows if row.method == tested})
    write(arguments.output, rows)
    print(f"\n{arguments.output} has the tables and a picture of each clip.")


def methods(model: CombCN | None) -> list[Method]:
    return ["telea", "no-network"] if model is None else ["telea", "no-network", "combcn"]


def read_clips(names: list[str], data: Path | None) -> Iterator[Clip]:
    for name in names:
        if name in SCENES:
            images, truth, again, holes = render_scene(SCENES[name])
            scored = holes | (images != truth).any(dim=-1)
            yield Clip(name, images, truth, holes, scored, again, scored)
            continue
        assert data is not None
        images = read_frames(data / name)
        holes = grow(read_masks(data / name), GROW_PIXELS)
        truth = read_image(data / name / "background.png").expand_as(images)
        around = ~grow(holes, AWAY_PIXELS)
        yield Clip(name, images, truth, holes, holes, images, around)


def measure(clip: Clip, method: str, result: Tensor, seconds: float) -> Row:
    return _row(clip, method, result, clip.scored, seconds)


def limit(clip: Clip) -> Row:
    return _row(clip, "limit", clip.limit, clip.around, math.nan)


def _row(clip: Clip, method: str, result: Tensor, where: Tensor, seconds: float) -> Row:
    pair = result, clip.truth
    return Row(
        clip.name,
        method,
        metrics.hole_psnr(*pair, where),
        metrics.l1(*pair, where),
        metrics.flicker(*pair, where),
        metrics.gradient_energy_ratio(*pair, where),
        metrics.l1(*pair, where & ~grow(where, -EDGE_PIXELS)),
        seconds,
    )


# --- tables ---------------------------------------------------------------------------------------


def print_row(row: Row) -> None:
    _, _, *values = asdict(row).values()
    cells = "".join(f"{'-' if math.isnan(value) else f'{value:.2f}':>9s}" for value in values)
    print(f"{row.clip:16s}{row.method:12s}{cells}", flush=True)


def print_predictions(predictions: dict[str, Prediction | str], truth: dict[str, Row]) -> None:
    columns = ("PSNR", "spread", "true", "l1", "true", "flicker", "true", "seen", "of hole")
    print(f"{'clip':16s}" + "".join(f"{column:>9s}" for column in columns))
    for name, prediction in predictions.items():
        if isinstance(prediction, str):
            print(f"{name:16s}  {prediction}")
            continue
        row = truth[name]
        psnr, spread = prediction.expected("psnr")
        l1, flicker, seen, of_hole = (
            prediction.expected(key)[0] for key in ("l1", "flicker", "seen", "hole_seen")
        )
        values = psnr, spread, row.psnr, l1, row.l1, flicker, row.flicker, seen, of_hole
        print(f"{name:16s}" + "".join(f"{value:9.2f}" for value in values))


def write(folder: Path, rows: list[Row]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "removal.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, [column.name for column in fields(Row)])
        writer.writeheader()
        writer.writerows(map(asdict, rows))


# --- pictures -------------------------------------------------------------------------------------


def draw(folder: Path, clip: Clip, results: dict[str, Tensor]) -> None:
    """NAME.png: source, truth and results where the last one errs most; NAME-strip.png."""
    last = list(results.values())[-1]
    frames = zip(last[:, None], clip.truth[:, None], clip.holes[:, None], strict=True)
    errors = [metrics.l1(*frame) if frame[2].any() else 0 for frame in frames]
    worst = int(np.argmax(errors))
    row = int(clip.holes[worst].nonzero()[:, 0].float().median())
    shown = {"source": clip.images, "truth": clip.truth, **results}
    panels = []
    for name, images in shown.items():
        frame = images[worst].numpy()
        if name == "source":
            frame = outline_mask(frame, clip.holes[worst].numpy())
        panels.append(frame_over_slice(frame, xt_slice(images.numpy(), row)))
    labels = [f"{name}\nframe {worst}, row {row}" for name in shown]
    save_picture(folder / f"{clip.name}.png", side_by_side(panels, labels, columns=2))
    start = max(0, min(worst - STRIP_FRAMES // 2, len(errors) - STRIP_FRAMES))
    save_picture(
        folder / f"{clip.name}-strip.png", _strip(clip, last, slice(start, start + STRIP_FRAMES))
    )


def _strip(clip: Clip, result: Tensor, span: slice) -> Image:
    """Frames in a row, cut to the hole: source, result, truth."""
    box = bounding_box(clip.holes[span])
    assert box is not None
    margin = STRIP_MARGIN_PIXELS
    rows = slice(max(box.top - margin, 0), box.bottom + margin)
    columns = slice(max(box.left - margin, 0), box.right + margin)
    clips = (clip.images, result, clip.truth)
    cuts = [images[span, rows, columns].numpy() for images in clips]
    return np.concatenate([strip(cut, range(len(cut))) for cut in cuts])


if __name__ == "__main__":
    main()
