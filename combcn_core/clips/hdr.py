"""Mastering display and light levels of HDR10, read from frames and put into the file's header."""

from __future__ import annotations

import io
import struct
from fractions import Fraction
from typing import Any

import av
from av.container import InputContainer
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from combcn_core.clips.frames import ColorTags, MasteringDisplay


def read_mastering(frame: VideoFrame) -> MasteringDisplay | None:
    """From the side data of a frame, as libavutil/mastering_display_metadata.h lays it out."""
    values: tuple[float, ...] = ()
    display: Any = frame.side_data.get("MASTERING_DISPLAY_METADATA")
    if display is not None:
        *numbers, has_primaries, has_luminance = struct.unpack_from("=22i", bytes(display))
        if has_primaries and has_luminance and all(numbers[1::2]):
            values = tuple(a / b for a, b in zip(numbers[::2], numbers[1::2], strict=True))
    light: Any = frame.side_data.get("CONTENT_LIGHT_LEVEL")
    levels = struct.unpack_from("=2I", bytes(light)) if light is not None else (0, 0)
    if not values and not any(levels):
        return None
    return MasteringDisplay(values, *levels)


# PyAV lets nobody set this of a stream, but copies it from one. So here is one: the head of a
# Matroska file, with a track and without frames. Source: RFC 9559, section 5.1.4.1.28.

_CODEC_IDS = {
    "h264": "V_MPEG4/ISO/AVC",
    "hevc": "V_MPEGH/ISO/HEVC",
    "av1": "V_AV1",
    "vp9": "V_VP9",
    "prores": "V_PRORES",
    "ffv1": "V_FFV1",
}
# In the order of `MasteringDisplay.values`: red, green, blue and white x and y; min, max.
_VALUES = (0x55D1, 0x55D2, 0x55D3, 0x55D4, 0x55D5, 0x55D6, 0x55D7, 0x55D8, 0x55DA, 0x55D9)


def header_with(
    color: ColorTags, codec: str, fps: Fraction, encoder: VideoCodecContext
) -> InputContainer:
    """A file without frames, whose only stream is one to copy.

    Args:
        color: with mastering.
        codec: one of `formats.CODECS`.
        encoder: open.
    """
    mastering = color.mastering
    assert mastering is not None
    display = b"".join(
        _element(key, struct.pack(">d", value))
        for key, value in zip(_VALUES, mastering.values, strict=False)
    )
    tags = zip(
        (0x55B1, 0x55B9, 0x55BA, 0x55BB, 0x55BC, 0x55BD),
        (color.matrix, color.range, color.transfer, color.primaries, *mastering[1:]),
        strict=True,
    )
    colors = b"".join(_number(key, value) for key, value in tags)
    colors += _element(0x55D0, display) if display else b""
    picture = (
        _number(0xB0, encoder.width) + _number(0xBA, encoder.height) + _element(0x55B0, colors)
    )
    track = b"".join(
        (
            _number(0xD7, 1),  # its number
            _number(0x73C5, 1),
            _number(0x83, 1),  # a picture
            _number(0x23E383, round(1_000_000_000 / fps)),
            _element(0x86, _CODEC_IDS[codec].encode()),
            _element(0x63A2, encoder.extradata) if encoder.extradata else b"",
            _element(0xE0, picture),
        )
    )
    segment = b"".join(
        (
            _element(0x1549A966, _number(0x2AD7B1, 1_000_000)),
            _element(0x1654AE6B, _element(0xAE, track)),
            _element(0x1F43B675, _number(0xE7, 0)),  # a cluster of nothing
        )
    )
    head = _element(0x1A45DFA3, _element(0x4282, b"matroska")) + _element(0x18538067, segment)
    return av.open(io.BytesIO(head), "r", format="matroska")


def stream_of(header: InputContainer) -> VideoStream:
    return header.streams.video[0]


def _element(key: int, body: bytes) -> bytes:
    return (
        key.to_bytes((key.bit_length() + 7) // 8, "big")
        + struct.pack(">Q", len(body) | 1 << 56)
        + body
    )


def _number(key: int, value: int) -> bytes:
    return _element(key, struct.pack(">Q", value))
