"""What is written into which kind of video file: an output format is data."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from combcn_core.clips.frames import (
    ClipInfo,
)


class VideoFormat(NamedTuple):
    container: str
    codec: str
    settings: Callable[[ClipInfo], tuple[str, dict[str, str]]]  # pixel format, encoder options
    container_options: dict[str, str]
    sound_codec: str  # for sound that the container cannot take as it is


def _h264_settings(info: ClipInfo) -> tuple[str, dict[str, str]]:
    sampling = "444" if info.width % 2 or info.height % 2 else "420"
    depth = "10le" if info.dtype == np.uint16 else ""
    # x264's macroblock tree reads memory that it has not set: the same frames become other files.
    options = {"crf": "14", "preset": "medium", "x264-params": "mbtree=0"}
    return f"yuv{sampling}p{depth}", options


def _ffv1_settings(info: ClipInfo) -> tuple[str, dict[str, str]]:
    # One thread works on a slice; FFmpeg 7 fails on those of a few pixels.
    short_side = min(info.width, info.height)
    slices = 1 if short_side < 16 else 4 if short_side < 720 else 16
    options = {"level": "3", "g": "1", "slices": str(slices), "slicecrc": "1"}
    return "gbrp16le" if info.dtype == np.uint16 else "bgr0", options


def _prores_settings(info: ClipInfo) -> tuple[str, dict[str, str]]:
    # The profile, HQ or 4444, follows from the pixel format.
    full = info.full_chroma or info.width % 2
    return "yuv444p10le" if full else "yuv422p10le", {"vendor": "apl0"}


VIDEO_FORMATS = {
    ".mp4": VideoFormat("mp4", "libx264", _h264_settings, {"movflags": "+faststart"}, "aac"),
    # Sound that starts before the picture, as AAC does, must not shift the picture.
    # Without a random number in its header, so that the same frames make the same file.
    ".mkv": VideoFormat(
        "matroska",
        "ffv1",
        _ffv1_settings,
        {"avoid_negative_ts": "disabled", "fflags": "bitexact"},
        "flac",
    ),
    ".mov": VideoFormat("mov", "prores_ks", _prores_settings, {}, "pcm_s24le"),
}
