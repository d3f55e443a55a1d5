"""The scores of an evaluation: the CSV file they are kept in, their tables, and the page."""

from __future__ import annotations

import csv
import io
import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass, fields
from html import escape
from pathlib import Path
from typing import NamedTuple, get_type_hints

from combcn_core.atomic import write_text


@dataclass(frozen=True)
class Score:
    """How one method did on one clip with one hole; a row of the CSV file.

    Attributes:
        method, clip, hole, seed: which; the seed of a removal is 0.
        frames, height, width: of the clip as it was used.
        l1, hole_psnr, psnr, ssim, flicker, gradient_energy_ratio: see `metrics`; the SSIM of
            frames below 65 x 65 is NaN.
        seconds_per_frame: of the method alone, on the machine that ran it.
        worst_frame: the one with the largest l1.
        worst_l1: its l1.
        key: digest of all that these figures follow from.
    """

    method: str
    clip: str
    hole: str
    seed: int
    frames: int
    height: int
    width: int
    l1: float
    hole_psnr: float
    psnr: float
    ssim: float
    flicker: float
    gradient_energy_ratio: float
    seconds_per_frame: float
    worst_frame: int
    worst_l1: float
    key: str


class Sheet(NamedTuple):
    """A picture of one clip with one hole."""

    score: Score  # of the first method
    picture: str  # path from the page


class _Metric(NamedTuple):
    title: str
    digits: int
    perfect: float | None  # the nearer to it the better


METRICS = {
    "l1": _Metric("l1 in the hole, 0..255, lower is better", 2, 0),
    "hole_psnr": _Metric("PSNR in the hole, dB, higher is better", 2, 1e6),
    "psnr": _Metric("PSNR of whole frames, dB, higher is better", 2, 1e6),
    "ssim": _Metric("SSIM of whole frames, higher is better", 4, 1),
    "flicker": _Metric("flicker in the hole, 0..255, lower is better", 2, 0),
    "gradient_energy_ratio": _Metric("gradient energy over that of the truth, 1 is as sharp", 2, 1),
    "seconds_per_frame": _Metric("seconds a frame", 3, None),
}


class ScoreBook:
    """The rows of a CSV file, found by their key; it grows by whole rows."""

    def __init__(self, path: Path) -> None:
        """Open a file, or start one. A last row that was cut off in writing is taken away.

        Raises:
            ValueError: the file cannot be written, or has other columns than `Score`.
        """
        self.path = path
        self._scores: dict[str, Score] = {}
        names = [field.name for field in fields(Score)]
        try:
            with open(path, "a+b") as file:
                file.seek(0)
                content = file.read()
                whole = content.rfind(b"\n") + 1
                file.truncate(whole)
        except OSError as error:
            raise ValueError(
                f"{path} cannot be written ({error.strerror}); give another folder."
            ) from error
        rows = list(csv.reader(io.StringIO(content[:whole].decode("utf-8", "replace"))))
        if not rows:
            self._append(names)
        elif rows[0] != names:
            raise ValueError(
                f"{path} has other columns than this version writes; move it away, or give "
                "another folder."
            )
        for number, row in enumerate(rows[1:], 2):
            try:
                score = _read_row(row)
            except ValueError:
                raise ValueError(f"row {number} of {path} cannot be read; delete it.") from None
            self._scores[score.key] = score

    def get(self, key: str) -> Score | None:
        """The row with this key, if there is one."""
        return self._scores.get(key)

    def add(self, score: Score) -> None:
        """Write a row."""
        self._append([repr(value) if type(value) is float else value for value in astuple(score)])
        self._scores[score.key] = score

    def _append(self, row: Sequence[object]) -> None:
        line = io.StringIO()
        csv.writer(line, lineterminator="\n").writerow(row)
        with open(self.path, "ab") as file:  # at once, so a kill leaves whole rows or cuts the last
            file.write(line.getvalue().encode())


def _read_row(row: Sequence[str]) -> Score:
    types = get_type_hints(Score)
    return Score(**{name: types[name](text) for name, text in zip(types, row, strict=True)})


# --- tables ---------------------------------------------------------------------------------------


def summarize(scores: Iterable[Score], metric: str) -> dict[tuple[str, str], tuple[float, float]]:
    """Mean over the clips, and how much it differs between seeds.

    Args:
        scores: of any methods, clips, holes and seeds.
        metric: a key of METRICS. Clips where it is NaN are left out.

    Returns:
        (method, hole) -> the mean over seeds of the means over clips, and the sample standard
        deviation of these means; NaN with one seed.
    """
    values: dict[tuple[str, str], dict[int, list[float]]] = {}
    for score in scores:
        value = getattr(score, metric)
        if not math.isnan(value):
            seeds = values.setdefault((score.method, score.hole), {})
            seeds.setdefault(score.seed, []).append(value)
    summary = {}
    for cell, seeds in values.items():
        means = [statistics.fmean(clips) for clips in seeds.values()]
        spread = math.nan
        if len(means) > 1 and all(map(math.isfinite, means)):
            spread = statistics.stdev(means)
        summary[cell] = statistics.fmean(means), spread
    return summary


def format_table(scores: Sequence[Score], metric: str) -> str:
    """A metric as text: its title, a line for each method, a column for each kind of hole."""
    holes, methods = _named(scores, "hole"), _named(scores, "method")
    texts, _ = _cells(scores, metric)
    lines = [["", *holes]]
    lines += [[method, *(texts[method, hole] for hole in holes)] for method in methods]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    rows = [
        "  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])])
        for line in lines
    ]
    return "\n".join([METRICS[metric].title, *rows])


def describe_scores(scores: Sequence[Score]) -> str:
    """One line that says what the tables show."""
    counts = {
        hole: len({score.clip for score in scores if score.hole == hole})
        for hole in _named(scores, "hole")
    }
    most = max(counts.values())
    number = f"{most} clip{'s' if most > 1 else ''}"
    if len(set(counts.values())) > 1:
        number = f"clips, {', '.join(f'{count} ({hole})' for hole, count in counts.items())}"
    text = f"Mean of {number}"
    seeds = sorted({score.seed for score in scores if score.hole != "removal"})
    if len(seeds) > 1:
        text += f", ± the standard deviation between the seeds {', '.join(map(str, seeds))}"
    return f"{text}."


def _named(scores: Iterable[Score], field: str) -> list[str]:
    return list(dict.fromkeys(getattr(score, field) for score in scores))


def _cells(
    scores: Sequence[Score], metric: str
) -> tuple[dict[tuple[str, str], str], set[tuple[str, str]]]:
    """(method, hole) -> "mean ± spread", and those that are best for their hole."""
    _, digits, perfect = METRICS[metric]
    summary = summarize(scores, metric)
    methods = _named(scores, "method")
    texts: dict[tuple[str, str], str] = {}
    best: set[tuple[str, str]] = set()
    for hole in _named(scores, "hole"):
        means: dict[str, float] = {}
        for method in methods:
            means[method], spread = summary.get((method, hole), (math.nan, math.nan))
            text = "-" if math.isnan(means[method]) else f"{means[method]:.{digits}f}"
            texts[method, hole] = text if math.isnan(spread) else f"{text} ± {spread:.{digits}f}"
        if perfect is None or not all(map(math.isfinite, means.values())):
            continue  # one frame without an error makes a PSNR infinite, which says little
        least = min(abs(mean - perfect) for mean in means.values())
        best |= {(method, hole) for method in methods if abs(means[method] - perfect) == least}
    return texts, best


# --- the page -------------------------------------------------------------------------------------

_STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 84rem; }
body { margin: 2rem auto; padding: 0 1.5rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.25rem; margin-top: 2.5rem; }
h3 { font-size: 1rem; margin: 2rem 0 .5rem; } h3 span { font-weight: normal; }
h3 span, p, caption { opacity: .7; }
.tables { display: flex; flex-wrap: wrap; align-items: start; gap: 1.5rem 3rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
caption { text-align: left; padding-bottom: .25rem; white-space: nowrap; }
th, td { padding: .2rem .8rem .2rem 0; text-align: right; white-space: nowrap; }
th { font-weight: normal; }
th[scope=row] { text-align: left; } thead th { border-bottom: 1px solid #8885; }
img { max-width: 100%; height: auto; display: block; }
"""


def write_page(path: Path, title: str, scores: Sequence[Score], sheets: Iterable[Sheet]) -> None:
    """Write the tables and the pictures, worst first, as HTML that needs nothing but the pictures.

    It appears under its name only when it is whole.
    """
    parts = [
        f"<h1>{escape(title)}</h1>",
        f"<p>{describe_scores(scores)} The best of a column is bold. All rows are in "
        '<a href="scores.csv">scores.csv</a>.</p>',
        '<div class="tables">',
        *(_html_table(scores, metric) for metric in METRICS),
        "</div>",
        "<h2>Worst frames first</h2>",
        f"<p>Of each clip and hole the frame where {scores[0].method} errs most. Beneath each "
        "frame is an x-t slice: one row of pixels, time running down. A click shows a picture in "
        "full size.</p>",
    ]
    for score, picture in sorted(sheets, key=lambda sheet: -sheet.score.worst_l1):
        name = escape(f"{score.clip}, {score.hole}")
        note = f"frame {score.worst_frame}, l1 {score.worst_l1:.1f}"
        if score.hole != "removal":
            note += f", seed {score.seed}"
        parts += [
            f"<h3>{name} <span>{note}</span></h3>",
            f'<a href="{picture}"><img src="{picture}" alt="{name}" loading="lazy"></a>',
        ]
    write_html(path, f"{title}: CombCN evaluation", parts)


def write_html(path: Path, title: str, parts: Iterable[str]) -> None:
    """Write a page; it appears under its name only when it is whole.

    Args:
        path: its file.
        title: as text.
        parts: of its body, as HTML.
    """
    head = '<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n'
    view = '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
    style = f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n"
    body = "\n".join(parts)
    write_text(path, f"{head}{view}{style}{body}\n</html>\n")


def _html_table(scores: Sequence[Score], metric: str) -> str:
    holes = _named(scores, "hole")
    texts, best = _cells(scores, metric)
    head = "".join(f'<th scope="col">{hole}</th>' for hole in holes)
    lines = [f"<table><caption>{METRICS[metric].title}</caption>"]
    lines.append(f"<thead><tr><td></td>{head}</tr></thead><tbody>")
    for method in _named(scores, "method"):
        cells = [(texts[method, hole], (method, hole) in best) for hole in holes]
        row = "".join(f"<td>{f'<b>{text}</b>' if bold else text}</td>" for text, bold in cells)
        lines.append(f'<tr><th scope="row">{method}</th>{row}</tr>')
    return "\n".join([*lines, "</tbody></table>"])
