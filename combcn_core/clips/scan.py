"""One pass over a video file: its frames, their times, and whether it is whole."""

from __future__ import annotations

import itertools
import re
import threading
import weakref
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import av
import numpy as np
from av.container import InputContainer
from av.packet import Packet
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from combcn_core.clips.color import check_matrix, has_alpha
from combcn_core.clips.decode import Decoder, color_tags, decodes_alpha, is_cut_short
from combcn_core.clips.frames import ClipInfo, ColorTags, check_frame_size
from combcn_core.clips.hdr import read_mastering
from combcn_core.clips.tracks import has_more_tracks

# One packet of these is one frame, unless fields come in packets of their own.
# fmt: off
_PACKET_IS_FRAME = frozenset((
    "h264", "hevc", "av1", "vp9", "prores", "ffv1", "mjpeg", "png", "dnxhd", "cfhd", "qtrle",
    "huffyuv", "ffvhuff", "utvideo", "rawvideo", "v210", "jpeg2000", "hap",
))
# fmt: on


@dataclass(frozen=True)
class Scan:
    """What one pass over a file tells."""

    info: ClipInfo  # of the whole clip; indices are those of the frames that decode
    pts: tuple[int, ...] | None  # of these frames, increasing; None if the file has none
    keyframes: tuple[tuple[int, int], ...]  # (index, pts) of where decoding can start
    orientation: tuple[int, int, int, int]
    stream_index: int
    num_intact: int  # frames without the damaged ones
    num_stated: int
    damaged: bool
    change: str = ""  # what the frames become on the way, where all were decoded


class Opened(NamedTuple):
    """A file that is being decoded; whoever has it closes it."""

    container: InputContainer
    stream: VideoStream
    decoder: Decoder
    frames: Iterator[VideoFrame]  # to come

    @classmethod
    def of(cls, path: Path) -> Opened:
        """Open a file and decode its first frame."""
        container = _open(path)
        try:
            stream = _video_stream(container, path)
            decoder = Decoder(stream)
            frames = decoder.decode_all(container)
            first = next(frames, None)
        except BaseException:
            container.close()
            raise
        before = [] if first is None else [first]
        return cls(container, stream, decoder, itertools.chain(before, frames))


class Beginning:
    """What a scan has decoded of a file, for the first one that reads it."""

    def __init__(self, opened: Opened) -> None:
        self._opened: Opened | None = opened
        self._close = weakref.finalize(self, opened.container.close)  # where nobody reads it

    def take(self) -> Opened | None:
        """The open file at its first frame; None if it was taken before."""
        if self._close.detach() is None:
            return None
        opened, self._opened = self._opened, None
        return opened


_Key: TypeAlias = tuple[Path, int, int, bool]
_scans: dict[_Key, Scan] = {}
_beginnings: weakref.WeakValueDictionary[_Key, Beginning] = weakref.WeakValueDictionary()
_MOST_SCANS = 16
_lock = threading.Lock()


def scan_video(path: Path, decode_all: bool) -> tuple[Scan, Beginning | None]:
    """What one pass over a file tells, kept for the next time; and what it has decoded, as long as
    somebody holds it."""
    state = path.stat()
    key = path.absolute(), state.st_size, state.st_mtime_ns, decode_all
    with _lock:
        if key in _scans:
            return _scans[key], _beginnings.get(key)
    beginning = None
    try:
        opened = Opened.of(key[0])
        try:
            scan = _scan(opened, key[0], decode_all)
            if scan is not None and not decode_all:
                beginning = Beginning(opened)
        finally:
            if beginning is None:
                opened.container.close()
    except av.FFmpegError as error:
        raise ValueError(
            f"{key[0]} cannot be read as a video ({error.strerror}); give a video file, and a "
            "whole copy if this one was cut short."
        ) from error
    if scan is None:
        scan, _ = scan_video(path, True)
    with _lock:
        _scans[key] = scan
        if len(_scans) > _MOST_SCANS:
            del _scans[next(iter(_scans))]
        if beginning is not None:
            _beginnings[key] = beginning
    return scan, beginning


def _video_stream(container: InputContainer, path: Path) -> VideoStream:
    found = []
    for stream in container.streams.video:
        cover = stream.disposition & Disposition.attached_pic
        # FFmpeg takes any text file to be a film of a terminal.
        context = stream.codec_context
        if not cover and context is not None and context.name != "ansi":
            check_frame_size(context.width, context.height, path)
            found.append(stream)
    if found:  # an animated AVIF has its first picture once more, alone, in front
        return max(found, key=lambda stream: stream.frames) if found[0].frames == 1 else found[0]
    raise ValueError(f"{path} has no video in it; give a video file or a folder of images.")


def _scan(opened: Opened, path: Path, decode_all: bool) -> Scan | None:
    """Read all packets, and decode all frames if asked to; None if only decoding can count."""
    container, stream, decoder, coming = opened
    first = decoder.first
    if first is None:
        raise ValueError(f"{path} has no frames that decode; give a video that has some.")
    packets: list[tuple[int | None, bool]] = []  # pts, whether it is a key frame
    lasting: dict[int, int] = {}  # pts -> duration
    num_intact, end_seconds, damaged = 0, 0.0, False
    try:
        for packet in _packets(path):
            if packet.pts is not None:
                end = float((packet.pts + (packet.duration or 0)) * packet.time_base)
                end_seconds = max(end_seconds, end)
            if packet.stream.index != stream.index:
                continue
            if packet.size and not packet.is_discard:  # an edit list discards
                packets.append((packet.pts, packet.is_keyframe))
                if packet.pts is not None:
                    lasting[packet.pts] = packet.duration or 0
                num_intact += not packet.is_corrupt
                damaged |= packet.is_corrupt
    except av.FFmpegError:
        damaged = True
    frames = [frame.pts for frame in coming] if decode_all else [first.pts]
    color = _color_tags(first, stream, decoder.stated)
    if not first.format.is_rgb:
        check_matrix(color, path)

    packet_pts = sorted(pts for pts, _ in packets if pts is not None)
    damaged |= (
        decoder.damaged
        or is_cut_short(path, container.format.name)
        or _states_more(container, stream, len(packets), packet_pts, end_seconds)
    )
    counted = (
        stream.codec_context.name in _PACKET_IS_FRAME
        and not first.interlaced_frame
        and len(set(packet_pts)) == len(packets)
        and set(packet_pts).issuperset(frames)
    )
    if not counted and not decode_all:
        return None
    if counted:  # what comes before the first frame shown lacks its key frame
        packet_pts = [pts for pts in packet_pts if first.pts is not None and pts >= first.pts]
    shown = [pts for pts in frames if pts is not None] if decode_all else packet_pts
    num_frames = len(frames) if decode_all else len(shown)
    timed = shown == sorted(set(shown)) and len(shown) == num_frames

    indices: Sequence[int] = range(num_frames)
    keyframes: list[tuple[int, int]] = []
    if counted and timed:
        if num_frames < len(packet_pts):
            indices = tuple(bisect_left(packet_pts, pts) for pts in shown)
        # In these, seeking finds the key frame asked for.
        if {"mp4", "matroska"} & set(container.format.name.split(",")):
            keys = {pts for pts, is_key in packets if is_key}
            keyframes = [(index, pts) for index, pts in enumerate(packet_pts) if pts in keys]
    return Scan(
        info=_describe(
            container,
            stream,
            color,
            first,
            pts=shown if timed else [],
            indices=indices,
            total_frames=len(packet_pts) if counted else num_frames,
            last_duration=_last_duration(container, shown, lasting) if timed else 0,
        ),
        pts=tuple(shown) if timed else None,
        keyframes=tuple(keyframes),
        orientation=_orientation(first),
        stream_index=stream.index,
        num_intact=num_frames if decode_all else 0 if decoder.damaged else num_intact,
        num_stated=max(stream.frames, len(packets)),
        damaged=damaged,
        change=decoder.change,
    )


def _packets(path: Path) -> Iterator[Packet[Any]]:
    """The packets of a file, whatever was read of it."""
    with _open(path) as again:
        yield from again.demux()


def _open(path: Path) -> InputContainer:
    """Open a file; the container tells of its frames."""
    # The full path, so that a colon in a file name is no protocol.
    name = str(path.absolute())
    container = av.open(name, metadata_errors="ignore", options={"skip_frame": "all"})
    if "mp4" in container.format.name.split(","):
        return container  # which says all that FFmpeg decodes the first frames for
    container.close()
    return av.open(name, metadata_errors="ignore")


def _states_more(
    container: InputContainer,
    stream: VideoStream,
    num_packets: int,
    packet_pts: Sequence[int],
    end_seconds: float,
) -> bool:
    """Whether a container states clearly more frames or a longer time than was found in it."""
    if container.format.name == "avi":  # what a recorder dropped is in the count it states
        return num_packets < min(0.98 * stream.frames, stream.frames - 2)
    if "matroska" in container.format.name and container.duration is not None:
        # A last frame that stays long may be stated in the duration and nowhere else.
        longest = int(max(np.diff(packet_pts), default=0)) * float(stream.time_base or 0)
        return end_seconds + 0.5 + 2 * longest < container.duration / 1_000_000
    return False


def _describe(
    container: InputContainer,
    stream: VideoStream,
    color: ColorTags,
    first: VideoFrame,
    pts: Sequence[int],
    indices: Sequence[int],
    total_frames: int,
    last_duration: int,
) -> ClipInfo:
    fps, constant = _frame_rate(stream, pts)
    last_seconds = None
    if pts and stream.time_base is not None:
        last_seconds = _last_seconds(container, stream, pts, last_duration)
        if constant and (fps is None or last_seconds < Fraction(3, 2) / fps):
            last_seconds = None  # as the others
    width, height = first.width, first.height
    aspect = stream.sample_aspect_ratio or None
    if _orientation(first)[0] == 0:
        width, height = height, width
        aspect = 1 / aspect if aspect else None
    bits = max(component.bits for component in first.format.components)
    tags = {key.lower(): (key, value) for key, value in container.metadata.items()}
    stream_tags = {key.lower(): value for key, value in stream.metadata.items()}
    if "timecode" in tags:  # there in MXF and in some Matroska files
        stream_tags.setdefault("timecode", tags.pop("timecode")[1])
    return ClipInfo(
        width=width,
        height=height,
        fps=fps,
        dtype=np.dtype(np.uint8 if bits <= 8 else np.uint16),
        total_frames=total_frames,
        indices=indices,
        color=replace(color, mastering=read_mastering(first)),
        full_chroma=first.format.chroma_width(2) == 2 and not first.format.name.startswith("gray"),
        sample_aspect_ratio=aspect,
        time_base=stream.time_base,
        pts=None if constant else tuple(pts),
        last_seconds=last_seconds or None,
        field_order="" if _orientation(first)[0] == 0 else _field_order(first, stream),
        has_alpha=has_alpha(first) or decodes_alpha(stream),
        has_sound=bool(container.streams.audio),
        has_more_tracks=has_more_tracks(container),
        is_turned=_orientation(first)[0] == 0,
        is_flipped=_orientation(first)[0] != 0 and _orientation(first) != (1, 0, 0, 1),
        metadata=dict(tags[key] for key in tags.keys() - _CONTAINER_TAGS),
        stream_metadata={key: stream_tags[key] for key in stream_tags.keys() & _STREAM_TAGS},
    )


# What a muxer writes by itself, or what is no longer true of the result.
_CONTAINER_TAGS = frozenset(("major_brand", "minor_version", "compatible_brands", "encoder"))
_STREAM_TAGS = frozenset(("language", "title", "timecode", "reel_name", "creation_time"))


def _frame_rate(stream: VideoStream, pts: Sequence[int]) -> tuple[Fraction | None, bool]:
    """The frame rate, and whether it is constant: every frame in its place but for rounding."""
    stated = (stream.average_rate, stream.guessed_rate, stream.base_rate)
    rates = [_unrounded(rate) for rate in stated if rate]
    if not pts or stream.time_base is None:
        return (rates[0] if rates else None), True
    ticks = np.array(pts, np.int64) - pts[0]
    # Of those that fit, one that is whole or NTSC rather than an average of rounded times.
    for rate in sorted(rates, key=lambda rate: rate.denominator not in (1, 1001)):
        ticks_per_frame = float(1 / (rate * stream.time_base))
        # On a coarse clock, rounding cannot be told from frames out of place.
        tolerance = 1.001 if ticks_per_frame > 4 else 0.001
        if np.abs(ticks - np.arange(len(pts)) * ticks_per_frame).max() <= tolerance:
            return rate, True
    return (len(pts) - 1) / (int(ticks[-1]) * stream.time_base), False


def _last_duration(
    container: InputContainer, pts: Sequence[int], lasting: Mapping[int, int]
) -> int:
    """How long the last frame stays by the durations of packets; 0 where these say nothing."""
    if "mov" in container.format.name and all(lasting.get(time) for time in pts):
        # Durations there are those of decoding, which has another order.
        return pts[0] + sum(lasting[time] for time in pts) - pts[-1]
    return lasting.get(pts[-1], 0)


def _last_seconds(
    container: InputContainer, stream: VideoStream, pts: Sequence[int], duration: int
) -> Fraction:
    """How long the last frame stays, as far as the file says; 0 where it does not."""
    assert stream.time_base is not None
    stated = duration * stream.time_base
    if "matroska" in container.format.name:  # where packets of video rarely have a duration
        match = re.fullmatch(r"(\d+):(\d+):(\d+\.\d+)", stream.metadata.get("DURATION", ""))
        end = Fraction(0)
        if match is not None:
            hours, minutes, seconds = (Fraction(number) for number in match.groups())
            end = 3600 * hours + 60 * minutes + seconds
        elif len(container.streams) == 1 and container.duration is not None:
            end = Fraction(container.duration, 1_000_000)
        stated = max(stated, end - pts[-1] * stream.time_base)
    return stated


def _field_order(first: VideoFrame, stream: VideoStream) -> str:
    """tff or bff of interlaced frames; "" of others."""
    # FFmpeg's AVFieldOrder: 2 top, 3 bottom first; 4, 5 the other first where they are shown.
    order = {2: "tff", 3: "bff", 4: "bff", 5: "tff"}.get(
        int(getattr(stream.codec_context, "field_order", 0)), ""
    )
    if first.interlaced_frame:
        return order or "tff"
    # Only where fields share no chroma may they be told from the container alone.
    return order if first.format.chroma_height(4) == 4 else ""


def _unrounded(rate: Fraction) -> Fraction:
    """The NTSC rate that FFmpeg rounded, which has 30000 as the largest number in one of Matroska.

    So 50000/1001 becomes 29021/581, off by 7e-7; 49.95, which is no NTSC rate, is off by 1e-6.
    """
    ntsc = Fraction(round(rate * 1001 / 1000) * 1000, 1001)
    return ntsc if abs(ntsc / rate - 1) < 9e-7 else rate


def _orientation(frame: VideoFrame) -> tuple[int, int, int, int]:
    """The signs of a, b, c, d of the display matrix, which says x' = ax + cy, y' = bx + dy."""
    data: Any = frame.side_data.get("DISPLAYMATRIX")
    if data is None:
        return (1, 0, 0, 1)
    a, b, _, c, d = (int(value) for value in np.frombuffer(bytes(data), np.int32)[:5])
    if abs(b) > abs(a):
        return (0, 1 if b > 0 else -1, 1 if c > 0 else -1, 0)
    return (1 if a > 0 else -1, 0, 0, 1 if d > 0 else -1)


def _color_tags(frame: VideoFrame, stream: VideoStream, stated: ColorTags) -> ColorTags:
    """The colours of a clip: of its frames, or as the container stated where these leave it open.

    Args:
        frame: its first.
        stream: decoded as far as that.
        stated: see `Decoder`.
    """
    context, name = stream.codec_context, frame.format.name
    found = color_tags(context)
    matrix = _first_named(int(frame.colorspace), found.matrix, stated.matrix)
    value_range = int(frame.color_range or found.range or stated.range)
    if frame.format.is_rgb:
        matrix, value_range = 0, 2
    elif name.startswith("gray"):
        if value_range == 0 and context.name not in ("h264", "hevc"):
            value_range = 2
    elif name.startswith("yuvj"):
        value_range = 2
    return ColorTags(
        matrix,
        value_range,
        _first_named(found.primaries, stated.primaries),
        _first_named(found.transfer, stated.transfer),
    )


def _first_named(*codes: int) -> int:
    """The first code point that says something: 2 is "not stated", and 0 reserved or RGB."""
    return next((code for code in codes if code not in (0, 2)), 2)
