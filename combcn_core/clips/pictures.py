"""Pictures for reports and pages: labelled panels, x-t slices, strips, hole outlines, curves.

Everything takes and returns uint8 RGB arrays in [0, 255]; nothing is changed in place.
"""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from combcn_core.atomic import write_bytes

Image = NDArray[np.uint8]

PANEL_PIXELS = (256, 640)  # width of a panel on a page, at least and at most
LINE_SHARE = 0.08  # height of a line of a label, of that of a panel

_PAPER = (22, 24, 28)
_INK, _FAINT_INK, _GRID = (240, 240, 240), (176, 182, 190), (52, 56, 62)
_CURVE_INKS = ((255, 176, 64), (96, 190, 255), (255, 110, 130), (140, 220, 120))
_FONT = cv2.FONT_HERSHEY_SIMPLEX


def side_by_side(
    frames: Sequence[Image],
    labels: Sequence[str],
    *,
    columns: int | None = None,
    gap: int = 8,
    line_share: float = LINE_SHARE,
) -> Image:
    """Panels in rows, each with its label underneath.

    With n lines in the longest label, the picture is columns * (W + gap) + gap wide and
    rows * (H + caption_pixels(H, n, line_share) + gap) + gap high.

    Args:
        frames: at least one (H, W, 3), all of one size.
        labels: one per frame. A line after the first is set fainter, for figures such as
            "hole PSNR 31.2 dB". A line that is too long for its panel is set smaller.
        columns: panels in a row; None puts up to three in one row, more in a near-square.
        gap: pixels between panels and around them.
        line_share: height of a line of a label, of that of a panel.

    Raises:
        ValueError: no frames, frames of several sizes, or not one label per frame.
    """
    if not frames or len(frames) != len(labels):
        raise ValueError(
            f"{len(frames)} frames with {len(labels)} labels; pass one label per frame."
        )
    shapes = {frame.shape for frame in frames}
    if len(shapes) > 1:
        raise ValueError(f"frames of shapes {sorted(shapes)}; scale them to one size first.")
    for frame in frames:
        _check(frame)
    if columns is None:
        columns = len(frames) if len(frames) <= 3 else math.ceil(math.sqrt(len(frames)))
    if columns < 1 or gap < 0:
        raise ValueError(f"columns is {columns} and gap {gap}; they start at 1 and 0.")
    height, width, _ = frames[0].shape
    lines = [label.splitlines() for label in labels]
    caption = caption_pixels(height, max(map(len, lines)), line_share)
    line = _line_pixels(height, line_share)

    rows = math.ceil(len(frames) / columns)
    size = (rows * (height + caption + gap) + gap, columns * (width + gap) + gap, 3)
    sheet = np.full(size, _PAPER, np.uint8)
    for index, (frame, text) in enumerate(zip(frames, lines, strict=True)):
        row, column = divmod(index, columns)
        top, left = gap + row * (height + caption + gap), gap + column * (width + gap)
        sheet[top : top + height, left : left + width] = frame
        _write(sheet[top + height : top + height + caption, left : left + width], text, line)
    return sheet


def caption_pixels(height: int, num_lines: int, line_share: float = LINE_SHARE) -> int:
    """The height of a caption of that many lines under a panel of that height."""
    line = _line_pixels(height, line_share)
    return num_lines * line + line // 3 if num_lines else 0


def _line_pixels(height: int, share: float) -> int:
    return max(16, round(height * share))


def _write(strip: Image, lines: Sequence[str], line: int) -> None:
    """Set lines of text, of that many pixels each, into a caption strip, in place."""
    for index, text in enumerate(lines):
        thickness = max(1, line // 20)
        (_, tall), _ = cv2.getTextSize("H", _FONT, 1, thickness)
        scale = 0.6 * line / tall
        (wide, _), _ = cv2.getTextSize(text, _FONT, scale, thickness)
        scale *= min(1, strip.shape[1] / max(wide, 1))
        ink = _FAINT_INK if index else _INK
        origin = (0, (index + 1) * line)
        # A view is not contiguous; OpenCV draws on a copy of it.
        canvas = np.ascontiguousarray(strip)
        cv2.putText(canvas, text, origin, _FONT, scale, ink, thickness, cv2.LINE_AA)
        strip[:] = canvas


def xt_slice(images: Image, row: int) -> Image:
    """One row of every frame, the first frame on top: flicker shows as stripes.

    Args:
        images: (T, H, W, 3).
        row: in [0, H).

    Returns:
        (T, W, 3), a copy.

    Raises:
        ValueError: row is outside the frames.
    """
    _check(images, ndim=4)
    if not 0 <= row < images.shape[1]:
        raise ValueError(f"row is {row} but frames have {images.shape[1]} rows; count from 0.")
    return images[:, row].copy()


def frame_over_slice(frame: Image, slice: Image) -> Image:
    """A panel for a page: a frame, and an x-t slice of its clip beneath.

    Args:
        frame: (H, W, 3).
        slice: (T, W, 3), from `xt_slice`; that of a short clip is stretched.

    Returns:
        Both, as wide as PANEL_PIXELS says.
    """
    height, width, _ = frame.shape
    gap = np.full((max(2, width // 100), width, 3), 22, np.uint8)
    tall = slice.repeat(max(1, round(height / 4 / len(slice))), axis=0)
    panel = np.concatenate([frame, gap, tall])
    least, most = PANEL_PIXELS
    if width < least:
        times = -(-least // width)
        panel = panel.repeat(times, axis=0).repeat(times, axis=1)
    if width > most:
        size = (most, round(len(panel) * most / width))
        panel = cv2.resize(panel, size, interpolation=cv2.INTER_AREA).astype(np.uint8)
    return panel


def draw_curves(
    curves: Mapping[str, Sequence[tuple[float, float]]],
    *,
    x_label: str,
    y_label: str,
    width: int = 960,
    height: int = 540,
) -> Image:
    """Curves over a common axis, from 0 up; many points are averaged into one per few pixels.

    Args:
        curves: name -> points (x, y) in the order of x; any number of them, also one or none, and
            all of one height. What is not finite is left out.
        x_label, y_label: under the axis, and above it.
        width, height: of the picture in pixels.

    Returns:
        (height, width, 3).
    """
    finite = {
        name: [(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y)]
        for name, points in curves.items()
    }
    xs = [x for points in finite.values() for x, _ in points] or [0.0]
    smooth = {name: _binned(points, min(xs), max(xs)) for name, points in finite.items()}
    top = max([y for points in smooth.values() for _, y in points] + [1e-9])
    left, right, upper, lower = 70, width - 20, 50, height - 50
    span = max(max(xs) - min(xs), 1e-9)
    picture = np.full((height, width, 3), _PAPER, np.uint8)

    def place(x: float, y: float) -> tuple[int, int]:
        across = left + (x - min(xs)) / span * (right - left)
        return round(across), round(lower - y / (1.05 * top) * (lower - upper))

    def write(text: str, x: int, y: int, color: tuple[int, int, int] = _FAINT_INK) -> int:
        cv2.putText(picture, text, (x, y), _FONT, 0.45, color, 1, cv2.LINE_AA)
        return int(cv2.getTextSize(text, _FONT, 0.45, 1)[0][0])

    for tick in _ticks(0, 1.05 * top):
        row = place(min(xs), tick)[1]
        cv2.line(picture, (left, row), (right, row), _GRID, 1)
        write(f"{tick:g}", 10, row + 5)
    for tick in _ticks(min(xs), max(xs)):
        write(f"{tick:g}", place(tick, 0)[0] - 8, lower + 20)
    write(x_label, right - 60, lower + 40)
    write(y_label, 10, 20)
    across = left + 260
    for (name, points), color in zip(smooth.items(), itertools.cycle(_CURVE_INKS)):
        line = np.array([place(*point) for point in points], np.int32).reshape(-1, 1, 2)
        if len(points) == 1:
            cv2.circle(picture, place(*points[0]), 3, color, -1, cv2.LINE_AA)
        elif points:
            cv2.polylines(picture, [line], False, color, 2, cv2.LINE_AA)
        across += write(name, across, 20, color) + 24
    return picture


def _binned(
    points: Sequence[tuple[float, float]], low: float, high: float, bins: int = 220
) -> list[tuple[float, float]]:
    """Points as means over equal stretches of x."""
    if len(points) <= bins:
        return list(points)
    x, y = np.array(points).T
    index = np.minimum((x - low) / max(high - low, 1e-9) * bins, bins - 1).astype(int)
    counts = np.bincount(index, minlength=bins)
    filled = counts > 0
    means = [np.bincount(index, axis, bins)[filled] / counts[filled] for axis in (x, y)]
    return [(float(a), float(b)) for a, b in zip(*means, strict=True)]


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers between two, about six of them."""
    if high <= low:
        return [low]
    rough = (high - low) / 6
    unit = 10 ** math.floor(math.log10(rough))
    step = next(unit * factor for factor in (1, 2, 5, 10) if unit * factor >= rough)
    return [index * step for index in range(math.ceil(low / step), math.floor(high / step) + 1)]


def wipe(before: Image, after: Image, share: float) -> Image:
    """Two pictures of one frame, with an upright line between them.

    Args:
        before: (H, W, 3), left of the line.
        after: as before, right of it.
        share: where the line is: 0 shows all of after, 1 all of before.

    Raises:
        ValueError: sizes differ.
    """
    if before.shape != after.shape:
        raise ValueError(f"pictures of shapes {before.shape} and {after.shape}; give one size.")
    width = before.shape[1]
    column = round(share * width)
    picture = after.copy()
    picture[:, :column] = before[:, :column]
    picture[:, max(column - 1, 0) : column + 1] = _INK
    return picture


def outline_mask(
    image: Image,
    mask: NDArray[np.bool_],
    *,
    color: tuple[int, int, int] = (255, 214, 10),
) -> Image:
    """The image with a line around each hole, on the known pixels next to it.

    Args:
        image: (H, W, 3).
        mask: (H, W), nonzero inside the hole.
        color: of the line; a thin dark rim sets it off from a background of the same colour.

    Raises:
        ValueError: mask and image differ in size.
    """
    _check(image)
    if mask.shape != image.shape[:2]:
        raise ValueError(
            f"mask is {mask.shape} but image is {image.shape[:2]}; pass the mask of this frame."
        )
    hole = (mask != 0).astype(np.uint8)
    width = max(1, round(min(mask.shape) / 270))
    line = cv2.dilate(hole, _disc(width))
    rim = cv2.dilate(hole, _disc(width + max(1, width // 2)))
    outlined = image.copy()
    edge = (rim > 0) & (line == 0)
    outlined[edge] = (outlined[edge] * 0.45).astype(np.uint8)
    outlined[(line > 0) & (hole == 0)] = color
    return outlined


def _disc(radius: int) -> Image:
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    return (np.hypot(x, y) <= radius + 0.5).astype(np.uint8)


def save_picture(path: str | os.PathLike[str], image: Image) -> None:
    """Write a PNG or a JPEG, by the ending of its name; folders are made as needed.

    It appears under its name only when it is whole.

    Args:
        path: ends in .png, .jpg or .jpeg.
        image: (H, W, 3).

    Raises:
        ValueError: another ending, or not a picture.
    """
    path = Path(path)
    ending = path.suffix.lower()
    if ending not in (".png", ".jpg", ".jpeg"):
        raise ValueError(f"picture is to be written to {path}; its name must end in .png or .jpg.")
    _check(image)
    # Full chroma: JPEG's default smears a coloured outline.
    full = [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
    options = [] if ending == ".png" else [cv2.IMWRITE_JPEG_QUALITY, 92, *full]
    whole, data = cv2.imencode(ending, image[..., ::-1], options)
    assert whole
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, data.tobytes())


def _check(images: Image, ndim: int = 3) -> None:
    if images.dtype != np.uint8 or images.ndim != ndim or images.shape[-1] != 3 or not images.size:
        what, form = ("picture", "(H, W, 3)") if ndim == 3 else ("clip", "(T, H, W, 3)")
        raise ValueError(
            f"{what} is {images.dtype} of shape {images.shape}; pass uint8 RGB of shape {form}."
        )
