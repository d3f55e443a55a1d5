"""What a training writes beside its checkpoint: a CSV log, a picture of the curves, samples."""

from __future__ import annotations

import csv
import io
import math
from pathlib import Path

import cv2
import numpy as np

from combcn_core.atomic import write_text
from combcn_core.clips.pictures import draw_curves, save_picture
from combcn_core.pixels import Pixels
from combcn_core.training.train import TrainingStep

LOSSES = ("3DCN", "3DCN validation", "CombCN", "CombCN validation")
COLUMNS = ("step", "phase", "learning_rate", "seconds", *LOSSES)


class TrainingLog:
    """The log of one output; a training that goes on adds to it.

    OUTPUT_log/ holds log.csv, one row a step; curve.png; samples/STEP.png.
    """

    def __init__(self, output: Path) -> None:
        self.folder = output.with_name(f"{output.stem}_log")
        self.path = self.folder / "log.csv"
        self._rows: list[dict[str, str]] | None = None

    def add(self, progress: TrainingStep) -> None:
        """Write a step's row; the sample and the curves too, where there is a sample."""
        if self._rows is None:
            self._open(progress.step - 1)
        assert self._rows is not None
        validation = progress.validation or {}
        row = {
            "step": str(progress.step),
            "phase": progress.phase,
            "learning_rate": f"{progress.learning_rate:.6g}",
            "seconds": f"{progress.seconds:.1f}",
        }
        losses = {
            **progress.losses,
            **{f"{name} validation": validation[name] for name in validation},
        }
        row |= {name: f"{losses[name]:.4f}" if name in losses else "" for name in LOSSES}
        self._rows.append(row)
        with open(self.path, "a", newline="", encoding="utf-8") as file:
            csv.DictWriter(file, COLUMNS).writerow(row)
        if progress.sample is not None:
            save_picture(self.folder / "samples" / f"{progress.step:07d}.png", progress.sample)
            save_picture(self.folder / "curve.png", self.picture())

    def picture(self) -> Pixels:
        """(H, W, 3) uint8: the losses over the steps, as far as they have been written."""
        rows = self._read() if self._rows is None else self._rows
        curves = {
            column: [(float(row["step"]), _number(row[column])) for row in rows if row[column]]
            for column in LOSSES
        }
        return draw_curves(
            {name: points for name, points in curves.items() if points},
            x_label="step",
            y_label="l1 per hole pixel, 0..255",
        )

    def last_sample(self) -> Pixels | None:
        """(H, W, 3) uint8, the newest of the samples; None before the first."""
        names = sorted((self.folder / "samples").glob("*.png"))
        if not names:
            return None
        content = np.frombuffer(names[-1].read_bytes(), np.uint8)
        picture = cv2.imdecode(content, cv2.IMREAD_COLOR)
        return None if picture is None else picture[..., ::-1].astype(np.uint8)

    def _read(self) -> list[dict[str, str]]:
        """The rows that can be read: a kill may have cut the last one, and people edit files."""
        if not self.path.exists():
            return []
        text = self.path.read_text(encoding="utf-8", errors="replace").replace("\0", "")
        read = csv.DictReader(text.splitlines())
        rows = [{name: row.get(name) or "" for name in COLUMNS} for row in read]
        return [row for row in rows if row["step"].isdecimal()]

    def _open(self, done: int) -> None:
        """Keep the rows of saved steps; those after were done again since."""
        self.folder.mkdir(parents=True, exist_ok=True)
        kept = [row for row in self._read() if int(row["step"]) <= done]
        table = io.StringIO(newline="")
        writer = csv.DictWriter(table, COLUMNS)
        writer.writeheader()
        writer.writerows(kept)
        write_text(self.path, table.getvalue())
        self._rows = kept


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan  # left out of the curve
