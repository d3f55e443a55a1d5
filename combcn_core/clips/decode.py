"""Decoding video, and noticing what is broken."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
from av.container import InputContainer
from av.packet import Packet
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from combcn_core.clips.frames import MAX_FRAME_PIXELS, ColorTags

_REVERSED_BITS = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def _kind(frame: VideoFrame) -> str:
    deep = max(component.bits for component in frame.format.components) > 8
    return f"{frame.width}x{frame.height} pixels of {'more than ' if deep else ''}8 bits"


# FFmpeg's own decoders of these leave alpha out.
_ALPHA_DECODERS = {"vp8": "libvpx", "vp9": "libvpx-vp9"}


def decodes_alpha(stream: VideoStream) -> bool:
    """Whether a stream has alpha that takes another decoder, and there is one."""
    decoder = _ALPHA_DECODERS.get(stream.codec_context.name, "")
    return stream.metadata.get("alpha_mode") == "1" and decoder in av.codecs_available


def color_tags(context: VideoCodecContext) -> ColorTags:
    """The colours of a stream, as known so far."""
    return ColorTags(
        int(context.colorspace),
        int(context.color_range),
        int(context.color_primaries),
        int(context.color_trc),
    )


class Decoder:
    """Decodes a stream and notices what is broken."""

    def __init__(
        self, stream: VideoStream, from_pts: int | None = None, with_alpha: bool = False
    ) -> None:
        # With threads, FFmpeg's decoders of these lose, or find at random, what is broken.
        concealing = ("h264", "hevc", "mpeg4", "mpeg1video", "mpeg2video")
        name = stream.codec_context.name
        stream.thread_type = "NONE" if name in concealing else "SLICE"
        stream.codec_context.options["max_pixels"] = str(MAX_FRAME_PIXELS)  # of any later frame
        self._stream = stream
        self._context = stream.codec_context
        self.stated = color_tags(stream.codec_context)  # by the container: frames overwrite it
        if with_alpha and decodes_alpha(stream):
            context = VideoCodecContext.create(_ALPHA_DECODERS[name], "r")
            assert isinstance(context, VideoCodecContext)
            self._context = context
        self._from_pts = from_pts
        self._has_checksums: bool | None = None if name == "ffv1" else False
        self.first: VideoFrame | None = None
        self.damaged = False
        self.change = ""  # what frames become on the way

    def decode(self, packet: Packet[Any] | None) -> list[VideoFrame]:
        """Decode one packet; None brings the frames still held back."""
        if packet is not None and packet.size and not self._is_whole(packet):
            self.damaged = True
            return []
        try:
            frames = self._context.decode(packet)
        except av.FFmpegError:
            # A clip cut out of a broadcast begins with frames whose key frame is missing.
            if self.first is not None or packet is None or packet.is_keyframe:
                self.damaged = True
            return []
        for frame in frames:
            self.first = self.first or frame
            if not self.change and _kind(frame) != _kind(self.first):
                self.change = f"{_kind(self.first)}, but later {_kind(frame)}"
            # What is shown before the key frame where decoding began may refer to frames not seen.
            if self._from_pts is None or frame.pts is None or frame.pts >= self._from_pts:
                self.damaged |= frame.is_corrupt
        return frames

    def decode_all(self, container: InputContainer) -> Iterator[VideoFrame]:
        """Decode from where the container stands to its end."""
        try:
            for packet in container.demux(self._stream):
                yield from self.decode(packet)
        except av.FFmpegError:
            self.damaged = True
            yield from self.decode(None)

    def _is_whole(self, packet: Packet[Any]) -> bool:
        if packet.is_corrupt:
            return False
        if self._has_checksums is None:
            self._has_checksums = _ffv1_slices_are_whole(bytes(packet))
        return not self._has_checksums or _ffv1_slices_are_whole(bytes(packet))


def _ffv1_slices_are_whole(packet: bytes) -> bool:
    """Whether a packet of FFV1 version 3 is slices with checksums, and these are right.

    FFmpeg's decoder only logs a wrong one. Source: RFC 9043, section 4.9 (slice footer). Its CRC
    is that of zlib with the bits of each byte reversed, starting from 0 and not inverted.
    """
    stop = len(packet)
    while stop >= 8:
        start = stop - 8 - int.from_bytes(packet[stop - 8 : stop - 5], "big")
        inverted = 0xFFFFFFFF
        if start < 0:
            return False
        if zlib.crc32(packet[start:stop].translate(_REVERSED_BITS), inverted) != inverted:
            return False
        stop = start
    return stop == 0


def is_cut_short(path: Path, container_name: str) -> bool:
    """Whether an MP4 or Matroska file ends before the sizes that its headers state."""
    size = path.stat().st_size
    with path.open("rb") as file:
        if "mp4" in container_name:
            end = 0
            while end + 16 <= size:
                file.seek(end)
                header = file.read(16)
                length = int.from_bytes(header[:4], "big")
                if length == 1:
                    length = int.from_bytes(header[8:], "big")
                if length < 8 or not header[4:8].isalnum():  # to the end of the file, or no box
                    return False
                end += length
            return end > size
        if "matroska" in container_name:
            header = file.read(64)
            length, at = _ebml_number(header, 4)
            at += length
            if header[at : at + 4] != b"\x18\x53\x80\x67":  # Segment
                return False
            length, body = _ebml_number(header, at + 4)
            unknown = 2 ** (7 * (body - at - 4)) - 1  # left so by a live recording
            return length != unknown and body + length > size
    return False


def _ebml_number(data: bytes, at: int) -> tuple[int, int]:
    """Read a variable-length number; returns it and where it ends."""
    length = 9 - data[at].bit_length()
    value = int.from_bytes(data[at : at + length], "big")
    return value & (2 ** (7 * length) - 1), at + length


def damage_error(path: Path, num_decoded: int, num_stated: int, change: str = "") -> ValueError:
    if change:
        return ValueError(
            f"{path} is {change}: its frames change their size or format on the way; cut it "
            "there, and give the parts one by one."
        )
    of = f" of {num_stated}" if num_stated > num_decoded else ""
    return ValueError(
        f"{path} is cut short or damaged: {num_decoded}{of} frames decoded; give a whole copy, or "
        "pass --allow-truncated to go on with what decodes."
    )
