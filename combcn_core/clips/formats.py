"""What is written into which kind of video file: an output format is data, not code."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np

from combcn_core.clips.frames import ClipInfo, PathLike

Settings = tuple[str, dict[str, str]]  # pixel format, options of the encoder


class Codec(NamedTuple):
    """A way to encode the picture."""

    encoder: str
    settings: Callable[[ClipInfo], Settings]
    crf: int | None = None  # the default; None: there is no quality to choose
    best_crf: int = 0
    worst_crf: int = 51
    has_alpha: bool = False
    has_fields: bool = False  # says which frames are interlaced
    bits_per_pixel: float = 0.0  # that films take at the default quality; 0: as many as they need


class Container(NamedTuple):
    """A kind of video file."""

    muxer: str
    codecs: tuple[str, ...]  # the first that keeps the clip's depth is the default
    sound_encoder: str  # for sound that does not stay as it is
    subtitle_encoder: str  # for text that it does not take as it is
    sounds: frozenset[str] | None = None  # that stay, as players know them; None: all it takes
    options: Mapping[str, str] = {}


def _deep(info: ClipInfo) -> bool:
    return info.dtype == np.uint16


def _yuv(info: ClipInfo) -> str:
    """4:2:0, or 4:4:4 where that has no such size."""
    sampling = "444" if info.width % 2 or info.height % 2 else "420"
    return f"yuv{sampling}p{'10le' if _deep(info) else ''}"


def _h264(info: ClipInfo) -> Settings:
    # x264's macroblock tree reads memory that it has not set: the same frames become other files.
    # Smaller dead zones keep more of the grain than its trellis does, in less time.
    parameters = "mbtree=0:trellis=0:deadzone-inter=11:deadzone-intra=6"
    options = {"preset": "medium", "x264-params": parameters}
    pixel_format = _yuv(info)
    if info.field_order:
        options["x264-params"] += f":{info.field_order}=1"
        options["flags"] = "+ildct+ilme"
        if info.height % 4:  # each field of 4:2:0 would have half a row of colour too many
            pixel_format = pixel_format.replace("420", "422")
    return pixel_format, options


def _hevc(info: ClipInfo) -> Settings:
    options = {"preset": "medium", "x265-params": "log-level=error"}
    if info.width < 64:  # x265's CU tree writes beyond its memory, and takes the process with it
        options["x265-params"] += ":cutree=0"
    return _yuv(info), options


def _av1(info: ClipInfo) -> Settings:
    return _yuv(info), {"preset": "6"}


def _vp9(info: ClipInfo) -> Settings:
    alpha = "a" if info.has_alpha and not _deep(info) else ""
    return _yuv(info).replace("yuv", f"yuv{alpha}"), {"b": "0", "row-mt": "1", "cpu-used": "2"}


def _prores(info: ClipInfo) -> Settings:
    # The profile, HQ or 4444, follows from the pixel format.
    full = info.full_chroma or info.width % 2
    options = {"vendor": "apl0"} | ({"flags": "+ildct"} if info.field_order else {})
    if info.has_alpha:
        return "yuva444p10le", options | {"alpha_bits": "16"}
    return "yuv444p10le" if full else "yuv422p10le", options


def _ffv1(info: ClipInfo) -> Settings:
    # One thread works on a slice; FFmpeg 7 fails on those of a few pixels.
    short_side = min(info.width, info.height)
    slices = 1 if short_side < 16 else 4 if short_side < 720 else 16
    options = {"level": "3", "g": "1", "slices": str(slices), "slicecrc": "1"}
    if _deep(info):
        return "gbrap16le" if info.has_alpha else "gbrp16le", options
    return "bgra" if info.has_alpha else "bgr0", options


CODECS = {
    "h264": Codec("libx264", _h264, crf=14, has_fields=True, bits_per_pixel=0.5),
    "hevc": Codec("libx265", _hevc, crf=16, bits_per_pixel=0.3),
    # SVT-AV1 takes 0 for none.
    "av1": Codec("libsvtav1", _av1, crf=18, best_crf=1, worst_crf=63, bits_per_pixel=0.3),
    "vp9": Codec("libvpx-vp9", _vp9, crf=18, worst_crf=63, has_alpha=True, bits_per_pixel=0.4),
    "prores": Codec("prores_ks", _prores, has_alpha=True, has_fields=True, bits_per_pixel=6),
    "ffv1": Codec("ffv1", _ffv1, has_alpha=True, has_fields=True),
}
# fmt: off
CONTAINERS = {
    # PCM in MP4 is young, and older players take it for noise.
    ".mp4": Container(
        "mp4", ("h264", "hevc", "av1"), "aac", "mov_text",
        frozenset(("aac", "mp3", "ac3", "eac3", "alac", "flac", "opus")),
        {"movflags": "+faststart"},
    ),
    # Sound that starts before the picture, as AAC does, must not shift the picture.
    # Without a random number in its header, so that the same frames make the same file.
    ".mkv": Container(
        "matroska", ("ffv1", "h264", "hevc", "av1", "vp9", "prores"), "flac", "srt",
        options={"avoid_negative_ts": "disabled", "fflags": "bitexact"},
    ),
    ".mov": Container(
        "mov", ("prores", "h264", "hevc"), "pcm_s24le", "mov_text",
        frozenset((
            "aac", "mp3", "ac3", "eac3", "alac", "pcm_u8", "pcm_s8", "pcm_s16le", "pcm_s16be",
            "pcm_s24le", "pcm_s24be", "pcm_s32le", "pcm_s32be", "pcm_f32le", "pcm_f32be",
            "pcm_f64le", "pcm_f64be", "pcm_alaw", "pcm_mulaw",
        )),
    ),
    ".webm": Container(
        "webm", ("vp9", "av1"), "libopus", "webvtt", frozenset(("opus", "vorbis")),
        {"avoid_negative_ts": "disabled", "fflags": "bitexact"},
    ),
}
# fmt: on


class Encoding(NamedTuple):
    """How a clip is encoded: what was asked for, found to be possible."""

    container: Container
    name: str  # of the codec
    codec: Codec
    pixel_format: str
    options: dict[str, str]

    @property
    def has_alpha(self) -> bool:
        return "a" in self.pixel_format.removesuffix("le").replace("gray", "")


def choose_encoding(
    path: Path, info: ClipInfo, codec: str | None = None, quality: int | None = None
) -> Encoding:
    """How to encode a clip into a video file.

    Args:
        path: its ending is one of `CONTAINERS`.
        codec: one of `CODECS`; None: the container's first that keeps the clip's depth.
        quality: CRF of the encoder, lower is better; None: nearly invisible losses.

    Raises:
        ValueError: a codec that is unknown, that the container does not take, or that the PyAV at
            hand does not encode this clip with; a quality that the codec does not have.
    """
    container = CONTAINERS[path.suffix.lower()]
    if codec is not None and codec not in container.codecs:
        known = ", ".join(container.codecs)
        others = [ending for ending, form in CONTAINERS.items() if codec in form.codecs]
        hint = f", or write {' or '.join(others)}" if others else ""
        raise ValueError(
            f"codec is {codec} but {path.suffix} files are written with {known}; give one of "
            f"these{hint}."
        )
    names = container.codecs if codec is None else (codec,)
    encoder = CODECS[names[0]].encoder
    if encoder not in av.codecs_available:
        raise ValueError(
            f"output {path} needs the encoder {encoder}, which this build of PyAV lacks; "
            "install av from PyPI, or write another format."
        )
    possible = [name for name in names if _can_encode(name, info)]
    name = possible[0] if possible else names[0]
    chosen = CODECS[name]
    pixel_format, options = chosen.settings(info)
    if not possible:
        bits = "more than 8 bits" if _deep(info) else "8 bits"
        raise ValueError(
            f"codec is {name}, which this build of PyAV does not encode as {pixel_format}, but "
            f"the clip is {info.width}x{info.height} with {bits}; give another codec."
        )
    if name == "h264" and info.field_order and info.height % 2:
        raise ValueError(
            f"output {path} would be interlaced H.264, whose height is even, but the clip has "
            f"{info.height} rows; write .mkv or .mov without a codec, or deinterlace the clip "
            "first (ffmpeg -vf bwdif)."
        )
    if quality is not None:
        if chosen.crf is None:
            raise ValueError(
                f"quality is {quality} but {name} has none to choose; leave it out, or give "
                "codec h264, hevc, av1 or vp9."
            )
        if not chosen.best_crf <= quality <= chosen.worst_crf:
            raise ValueError(
                f"quality is {quality}, but that of {name} (CRF) goes from {chosen.best_crf}, the "
                f"best, to {chosen.worst_crf}; give a number within."
            )
    if chosen.crf is not None:
        options["crf"] = str(chosen.crf if quality is None else quality)
    if info.field_order and chosen.has_fields:
        options["field_order"] = {"tff": "tt", "bff": "bb"}[info.field_order]
    if name == "av1":
        os.environ.setdefault("SVT_LOG", "1")  # errors only; it has no option for that
    return Encoding(container, name, chosen, pixel_format, options)


def keeps_pixels(output: PathLike, codec: str | None) -> bool:
    """Whether an output holds the pixels that it was given, bit for bit: FFV1, or images."""
    form = CONTAINERS.get(Path(output).suffix.lower())
    return form is None or os.path.isdir(output) or (codec or form.codecs[0]) == "ffv1"


def _can_encode(name: str, info: ClipInfo) -> bool:
    codec = CODECS[name]
    pixel_format, _ = codec.settings(info)
    if codec.encoder not in av.codecs_available:
        return False
    formats = av.Codec(codec.encoder, "w").video_formats or ()
    return any(form.name == pixel_format for form in formats)
