"""Removals from real footage, where nobody knows the truth: what a viewer sees, in figures.

Part of `benchmarks.removal`. A folder's clips are NAME/frames/ and NAME/masks/ (white = object);
each object is removed with its own masks and written as PNG. Smear, rubble and boil are those of
`benchmarks.appearance`. To compare with, the first two of real background: of the source,
under the same holes moved half a frame sideways, off the object.

For the eye there are sheets, one a clip and numbered so that a judge may be shown several results
without knowing which is which (sheets/key.txt has the names): four moments, the source with its
hole outlined beside the result. And strips of 12 consecutive frames.
"""

from __future__ import annotations

import csv
import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
from torch import Tensor

from benchmarks.appearance import boil, smear_and_rubble
from benchmarks.clips import read_folder, read_frames, read_masks
from combcn_core.clips.pictures import Image, outline_mask, save_picture, side_by_side
from combcn_core.masks import grow
from combcn_core.networks.layers import CombCN
from combcn_core.shot import InpaintConfig, inpaint

AWAY_PIXELS = 6  # of moved holes from the object
NUM_MOMENTS, FIRST_MOMENT = 4, 4  # of a sheet; as far from the last frame as from the first
STRIP_FRAMES, STRIP_COLUMNS = 12, 4


@dataclass(frozen=True)
class Row:
    """One clip; see above.

    Attributes:
        clip: its name.
        smear, rubble, boil: of the hole.
        real_smear, real_rubble: of real background.
        ms, cpu_ms: milliseconds a frame, by the clock and of all cores; NaN of given results.
    """

    clip: str
    smear: float
    rubble: float
    boil: float
    real_smear: float
    real_rubble: float
    ms: float
    cpu_ms: float


def remove_all(
    data: Path,
    names: Sequence[str],
    output: Path,
    config: InpaintConfig,
    model: CombCN | None,
    results: Path | None,
) -> None:
    """Remove the object of each clip, print the table, and write results, sheets and strips.

    Args:
        data: folder of the clips.
        names: of those wanted.
        output: folder for NAME/*.png, appearance.csv, sheets/ and strips/.
        config: settings of the fill; its `grow_pixels` count.
        model: networks, if any.
        results: folder of frames that are there already, NAME/ with images, to be measured instead.
    """
    numbers = {name: number for number, name in enumerate(sorted(names, key=lambda n: n[::-1]))}
    clip, *columns = (column.name for column in fields(Row))
    print(f"{clip:16s}" + "".join(f"{column:>12s}" for column in columns))
    rows = []
    for name in names:
        images, masks = read_frames(data / name), read_masks(data / name)
        if results is not None:
            result, seconds = read_result(results / name, images), (math.nan, math.nan)
        else:
            start = time.perf_counter(), time.process_time()
            result = inpaint(images, masks, model, config)
            seconds = time.perf_counter() - start[0], time.process_time() - start[1]
            for path, frame in zip(sorted((data / name / "frames").iterdir()), result, strict=True):
                save_picture(output / name / f"{path.stem}.png", frame.numpy())
        holes = grow(masks, config.grow_pixels)
        milliseconds = [1000 * value / len(images) for value in seconds]
        rows.append(measure(name, images, result, holes, milliseconds))
        print_row(rows[-1])
        sheet, frames = draw_sheet(images, result, holes), draw_strip(result)
        save_picture(output / "sheets" / f"{numbers[name]:02d}.png", sheet)
        save_picture(output / "strips" / f"{name}.png", frames)
    key = "".join(f"{number:02d} {name}\n" for name, number in numbers.items())
    (output / "sheets" / "key.txt").write_text(key)
    _, *values = zip(*(asdict(row).values() for row in rows), strict=True)
    mean = Row("mean", *map(mean_of_known, values))
    print_row(mean)
    with open(output / "appearance.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, [column.name for column in fields(Row)])
        writer.writeheader()
        writer.writerows(map(asdict, [*rows, mean]))


def read_result(folder: Path, images: Tensor) -> Tensor:
    """Frames of a folder, which must be as many and as large as the source's."""
    if not folder.is_dir():
        raise ValueError(f"there is no folder {folder}; name it after its clip.")
    result = read_folder(folder)
    if result.shape != images.shape:
        raise ValueError(
            f"{folder} holds {tuple(result.shape)} and its source {tuple(images.shape)}, frames, "
            f"rows, columns and channels; give one result for each frame of the clip."
        )
    return result


def measure(
    name: str, images: Tensor, result: Tensor, holes: Tensor, milliseconds: Sequence[float]
) -> Row:
    away = ~grow(holes, AWAY_PIXELS)
    moved = holes.roll(holes.shape[2] // 2, dims=2) & away
    return Row(
        name,
        *smear_and_rubble(result, holes),
        boil(result, holes),
        *smear_and_rubble(images, moved),
        *milliseconds,
    )


def mean_of_known(values: Sequence[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return statistics.fmean(known) if known else math.nan


def print_row(row: Row) -> None:
    name, *values = asdict(row).values()
    cells = "".join(f"{'-' if math.isnan(value) else f'{value:.3f}':>12s}" for value in values)
    print(f"{name:16s}{cells}", flush=True)


# --- pictures -------------------------------------------------------------------------------------


def draw_sheet(images: Tensor, result: Tensor, holes: Tensor) -> Image:
    """Source with its hole outlined beside the result, at four moments."""
    last = len(images) - 1
    first = min(FIRST_MOMENT, last // 2)
    panels: list[Image] = []
    labels: list[str] = []
    for moment in np.linspace(first, last - first, NUM_MOMENTS).astype(int).tolist():
        source = outline_mask(images[moment].numpy(), holes[moment].numpy())
        panels += [source, result[moment].numpy()]
        labels += [f"frame {moment}", ""]
    return side_by_side(panels, labels, columns=2)


def draw_strip(result: Tensor) -> Image:
    """Consecutive frames from the middle of the clip, in rows."""
    first = max(0, (len(result) - STRIP_FRAMES) // 2)
    frames = result[first : first + STRIP_FRAMES].numpy()
    labels = [f"frame {first + index}" for index in range(len(frames))]
    return side_by_side(list(frames), labels, columns=STRIP_COLUMNS)
