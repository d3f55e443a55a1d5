"""Whether the disk has room for what a run will write: asked before anything is computed."""

from __future__ import annotations

import logging
import math
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from combcn_core.clips.formats import CODECS, CONTAINERS
from combcn_core.clips.frames import ClipInfo, PathLike
from combcn_core.memory import GIB
from combcn_core.pixels import Pixels

log = logging.getLogger("combcn")
_HALVES = 6  # a CRF that is this much higher halves a file, about
_SURELY = 8  # forecasts are never as far off as that


def forecast_bytes(
    output: PathLike,
    info: ClipInfo,
    first_frame: Callable[[], Pixels],
    codec: str | None = None,
    quality: int | None = None,
) -> int:
    """What the frames of an output take on the disk, within a factor of 3 for most clips.

    Args:
        output, codec, quality: as in `open_writer`.
        info: of the frames to be written.
        first_frame: gives (H, W, 3), the measure of the others where no pixel may be lost.
    """
    count = len(info.read_indices)
    if info.dtype == np.float32:  # EXR images become EXR images
        assert info.path is not None
        assert info.total_frames is not None
        folder = info.path if info.path.is_dir() else info.path.parent
        sizes = [file.stat().st_size for file in os.scandir(folder) if file.is_file()]
        return sum(sizes) * count // info.total_frames
    container = CONTAINERS.get(Path(output).suffix.lower())
    name = "" if container is None else codec or container.codecs[0]
    if name in CODECS and CODECS[name].bits_per_pixel:
        chosen = CODECS[name]
        better = 0 if quality is None or chosen.crf is None else chosen.crf - quality
        bits = info.width * info.height * chosen.bits_per_pixel
        return math.ceil(count * bits / 8 * 2 ** (better / _HALVES))
    as_png = len(cv2.imencode(".png", first_frame())[1])
    return count * (as_png if container is None else as_png * 6 // 10)  # FFV1 takes less


def check_room(
    output: PathLike, output_bytes: int, most_kept_bytes: int, kept_bytes: Callable[[], int]
) -> None:
    """Warn where the forecast of a run does not fit on its disk.

    Args:
        output: what is to be written; finished segments are kept beside it.
        output_bytes: that it takes, about.
        most_kept_bytes: that finished segments take at most, 0 where none are kept.
        kept_bytes: counts what they take, which may need some time.

    Raises:
        ValueError: it surely does not fit.
    """
    folder = Path(output).absolute().parent
    free = shutil.disk_usage(folder).free
    if output_bytes + most_kept_bytes <= free:
        return
    kept = kept_bytes() if most_kept_bytes else 0
    what = f"output {output} takes about {_size(output_bytes)}"
    if kept:
        what += f", and the segments that are kept until then take {_size(kept)}"
    what += f", but {folder} has room for {_size(free)}"
    if kept > free or output_bytes > _SURELY * free:
        raise ValueError(f"{what}; make room, or write to another disk.")
    if output_bytes + kept > free:
        log.warning("%s; make room before the end.", what)


def _size(num_bytes: int) -> str:
    return f"{num_bytes / GIB:.1f} GiB" if num_bytes >= GIB else f"{num_bytes / 2**20:.1f} MiB"
