"""Remove real objects: what users do, measured against the truth, and as a viewer sees it.

    python -m benchmarks.removal [DATA] [--part truth|real] [--clips NAME ...] [--output FOLDER]
        [--weights W] [--results FRAMES] [settings of `combcn inpaint`]

DATA (or the folder that COMBCN_DATA names) has clips as NAME/frames/ and NAME/masks/, white =
object. All of them are the second part, `real`, where nobody knows the truth: see
`benchmarks.footage`. Their masks are grown by 6 pixels unless --grow-pixels says otherwise;
--results measures frames that are there already, FRAMES/NAME/, and computes nothing.

The first part, `truth`, has the clips of `recipes.scenes`, whose truth is rendered, and the
still-camera clips of DATA: those with a background.png, the truth of every frame; masks grown by
2 pixels here.

Methods: telea (the floor), no-network (what `combcn inpaint` does without --weights, the same as
with --no-network) and, with --weights, combcn. The row "limit" is how well the truth can be known:
of a rendered scene, the truth with other noise; of a still-camera clip, its known pixels away from
the hole, against the background there. The row "predicted" is what `combcn predict`
says of the last method, without the truth; how far the areas that it hid differ among each other,
and from the hole in what other frames show, is in the second table. (It knows default settings.)

Columns, over hole pixels only (and shadow that the mask leaves out): PSNR in dB; l1 and flicker,
0..255; gradient energy over that of the truth (1 is as sharp); l1 in the outer 2 pixels, where a
seam shows; seconds a frame. FOLDER gets removal.csv and two pictures of each clip:
the frame where the last method errs most, and eight frames around it.
"""

from __future__ import annotations

import csv
import math
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import numpy as np
import tyro
from torch import Tensor
from tyro.conf import Positional, arg

from benchmarks import footage
from benchmarks.clips import clip_names, read_frames, read_image, read_masks
from combcn_core.clips.pictures import (
    Image,
    frame_over_slice,
    outline_mask,
    save_picture,
    side_by_side,
    xt_slice,
)
from combcn_core.masks import bounding_box, grow
from combcn_core.measure import metrics
from combcn_core.measure.evaluate import fill as fill_classically
from combcn_core.measure.predict import Prediction, self_test
from combcn_core.measure.trials import EvaluateConfig, Method
from combcn_core.networks.checkpoint import load_model
from combcn_core.networks.layers import CombCN
from combcn_core.shot import InpaintConfig, inpaint
from recipes.scenes import SCENES, render_scene

GROW_PIXELS, EDGE_PIXELS, AWAY_PIXELS = 2, 2, 8
STRIP_FRAMES, STRIP_MARGIN_PIXELS, STRIP_GAP_PIXELS = 8, 12, 4


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


@dataclass(frozen=True)
class Options:
    """Remove real objects, measured against the truth, and as a viewer sees it."""

    data: Annotated[Positional[Path | None], arg(metavar="DATA")] = None
    """Clips as NAME/frames/ and NAME/masks/."""
    part: Literal["all", "truth", "real"] = "all"
    """Clips with a truth, real ones without, or both."""
    clips: tuple[str, ...] = ()
    """These only."""
    output: Path = Path("removal")
    """Folder for tables, pictures and results."""
    weights: str | None = None
    """Of the networks: a name or a path."""
    results: Path | None = None
    """Measure the frames in this folder's NAME/ instead of computing any; implies --part real."""
    config: Annotated[InpaintConfig, arg(name="")] = field(
        default_factory=lambda: InpaintConfig(grow_pixels=6)
    )
    """Settings of the fill."""


def main() -> None:
    options = tyro.cli(Options, description=__doc__)
    try:
        run(options)
    except ValueError as error:
        print(f"benchmarks.removal: {error}", file=sys.stderr)
        sys.exit(2)


def run(options: Options) -> None:
    given = options.data or os.environ.get("COMBCN_DATA")
    data = None if given is None else Path(given)
    model = load_model(options.weights) if options.weights else None
    part = "real" if options.results else options.part
    real = [] if data is None else clip_names(data, "masks")
    backgrounds = [] if data is None else sorted(data.glob("*/background.png"))
    true = [*SCENES, *(path.parent.name for path in backgrounds)]
    names = dict.fromkeys([*true, *real])
    unknown = set(options.clips) - set(names)
    if unknown:
        raise ValueError(
            f"no clips called {', '.join(sorted(unknown))}; there are {', '.join(names)}."
        )
    wanted = options.clips or names
    true, real = ([name for name in group if name in wanted] for group in (true, real))
    if part != "real" and true:
        print("against the truth:")
        compare(true, data, options.output, options.config, model)
    if part != "truth" and real:
        assert data is not None
        print("as a viewer sees it:")
        footage.remove_all(data, real, options.output, options.config, model, options.results)
    if data is None:
        print("no DATA with clips: rendered scenes only.")
    print(f"\n{options.output} has the tables and pictures of each clip.")


def compare(
    names: list[str], data: Path | None, output: Path, config: InpaintConfig, model: CombCN | None
) -> None:
    """All methods on the clips whose truth is known: tables and pictures."""
    rows: list[Row] = []
    predictions: dict[str, Prediction | str] = {}
    columns = [column.name for column in fields(Row)][2:]
    print(f"{'clip':16s}{'method':12s}" + "".join(f"{column:>9s}" for column in columns))
    for clip in read_clips(names, data):
        results: dict[str, Tensor] = {}
        for method in methods(model):
            start = time.perf_counter()
            results[method] = fill(method, clip, model, config)
            seconds = (time.perf_counter() - start) / len(clip.images)
            rows.append(measure(clip, method, results[method], seconds))
            print_row(rows[-1])
        rows.append(limit(clip))
        print_row(rows[-1])
        draw(output, clip, results)
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
    write(output, rows)


def fill(method: Method, clip: Clip, model: CombCN | None, config: InpaintConfig) -> Tensor:
    if method == "telea":
        return fill_classically(method, clip.images, clip.holes, None, EvaluateConfig())
    network = model if method == "combcn" else None
    return inpaint(clip.images, clip.holes, network, replace(config, grow_pixels=0))


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
    errors = metrics.frame_errors(last, clip.truth, clip.holes)
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
    gap = ((0, 0), (0, 0), (0, STRIP_GAP_PIXELS), (0, 0))
    return np.concatenate([np.concatenate(list(np.pad(cut, gap)), axis=1) for cut in cuts])


if __name__ == "__main__":
    main()
