"""Frames and sound of video files and image folders, read and written as a stream.

`open_reader` yields upright RGB frames one at a time, and `open_writer` takes the finished ones and
brings along all else that the source has: rate, time stamps, colour tags, names, metadata and
sound. Nothing here holds more than a few frames.
"""

from __future__ import annotations

import contextlib
import functools
import io
import logging
import os
import re
import zlib
from bisect import bisect_left
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import av
import cv2
import numpy as np
from av.audio.stream import AudioStream
from av.container import InputContainer, OutputContainer
from av.packet import Packet
from av.stream import Disposition
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.plane import VideoPlane
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream
from numpy.typing import NDArray

from combcn_core.clips.frames import (
    MAX_FRAME_PIXELS,
    ClipInfo,
    ColorTags,
    Frame,
    FrameReader,
    FrameWriter,
    PathLike,
    Pixels,
    check_frame_size,
    select_frames,
)
from combcn_core.clips.images import IMAGE_ENDINGS, ImageReader, ImageWriter

__all__ = [
    "IMAGE_ENDINGS",
    "ClipInfo",
    "ColorTags",
    "Frame",
    "FrameReader",
    "FrameWriter",
    "count_frames",
    "open_reader",
    "open_writer",
]

log = logging.getLogger("combcn")


def open_reader(
    path: PathLike,
    *,
    frames: tuple[int, int] | None = None,
    allow_truncated: bool = False,
    with_alpha: bool = False,
) -> FrameReader:
    """Open a video file, a folder of images (in the order of their numbers), or one image.

    Pixels are RGB whatever the file holds. YUV is converted with the matrix and range of its tags;
    untagged, it counts as limited range and as BT.709 if larger than 1024x576, else BT.601, as
    players have it, and `open_writer` does the same. 8 bits come as uint8; more as uint16, over
    the full range. Gray becomes three equal channels. Alpha is left out, but see `open_writer`.

    EXR images are scene-linear: their pixels come as float32 on the curve of `exr.encode`, as the
    display window shows them, and black where it has no data.

    Opening reads all packets once, without decoding, so that frame count, rate and a file cut
    short are known beforehand. The outcome is kept: opening the same file again is cheap.

    Args:
        path: file or folder.
        frames: first and last frame to yield, from 0, both included. Decoding starts at a key
            frame before the first one, and yields what reading the whole clip would.
        allow_truncated: read what decodes of a damaged file. Frames that do not decode are left
            out, of `info.indices` too. Decodes everything once more.
        with_alpha: where a video has alpha, `stored` of its frames is RGBA.

    Raises:
        ValueError: missing, not a video, no frames, a range outside the clip, images that differ
            in size, bit depth or alpha, EXR without the package OpenEXR; damaged, without
            `allow_truncated` (while iterating, where only decoding shows it).
    """
    path = Path(path)
    check_exists(path, "give a video file or a folder of images")
    if path.is_dir() or path.suffix.lower() in IMAGE_ENDINGS:
        return ImageReader(path, frames)
    return _VideoReader(path, frames, allow_truncated, with_alpha)


def count_frames(path: PathLike) -> int:
    """Count the frames of a video file or a folder of images, exactly.

    Counts packets where each holds one frame, decodes otherwise. Raises as `open_reader`.
    """
    total = open_reader(path).info.total_frames
    assert total is not None
    return total


def open_writer(
    path: PathLike, info: ClipInfo, *, fps: Fraction | None = None, scratch: Path | None = None
) -> FrameWriter:
    """Open an output, whose ending says what it becomes.

    - `.mp4`: H.264 at CRF 14, 4:2:0, or 4:4:4 where width or height is odd (4:2:0 has no odd
      sizes); 10 bits if the source has more than 8.
    - `.mkv`: FFV1 level 3 with a checksum per slice. RGB, lossless: what is written is what
      will be read, bit for bit.
    - `.mov`: ProRes 4444 where the source is RGB or 4:4:4 (or its width odd), else 422 HQ.
    - none: a folder of PNG, 8 or 16 bits, named as the source's images or by frame number. Alpha
      of the source's images is taken over as it is, in the hole too. EXR images become EXR: all
      but the colours that differ from the source is the source's, see `exr.write`.

    Rate, time stamps, colour tags and metadata are those of `info`; Matroska rounds variable time
    stamps to milliseconds, and loses the aspect of pixels that are not square (a warning). RGB
    that becomes YUV takes the source's matrix and range, or BT.709 limited if the source was RGB.
    Sound is copied packet by packet, all tracks, cut and shifted to the frames of `info`; what the
    container cannot take is encoded (AAC in .mp4, PCM in .mov, FLAC in .mkv).

    The result appears under its name only when `close`, or the end of a `with` block, has made it
    whole; an exception leaves nothing behind. A file of that name is replaced then. A folder is
    not: it must be absent or empty, so no image of yours is ever overwritten.

    Args:
        path: file or folder to write, in a folder that exists.
        info: of the source, usually `reader.info`.
        fps: frames per second, for a source that has none.
        scratch: folder on the same disk where the result grows; None: beside `path`.

    Raises:
        ValueError: unknown ending, output same as the source, folder missing, not writable or not
            empty, no rate for a video, a rate for a source that has one, a video of EXR images.
    """
    path = Path(path)
    if info.path is not None and path.resolve() == info.path.resolve():
        raise ValueError(f"output {path} is the input itself; give another name.")
    ending = "" if os.path.isdir(path) else path.suffix.lower()
    if ending not in ("", *_VIDEO_FORMATS):
        known = ", ".join(_VIDEO_FORMATS)
        raise ValueError(
            f"output {path} ends in {path.suffix}, which is not known; use {known}, or no ending "
            "for a folder of images."
        )
    if not path.absolute().parent.is_dir():
        raise ValueError(f"output folder {path.absolute().parent} does not exist; create it first.")
    if fps is not None and info.fps is not None and fps != info.fps:
        raise ValueError(
            f"the clip has {info.fps} frames per second but fps is {fps}; leave fps out, it is "
            "for folders of images."
        )
    if info.dtype == np.float32 and (ending or info.path is None):
        raise ValueError(
            f"output {path} cannot hold scene-linear frames; write the EXR images of a folder into "
            "a folder."
        )
    if not ending:
        return ImageWriter(path, info, scratch)
    rate = info.fps or fps
    if rate is None:
        raise ValueError(
            f"output {path} is a video but {info.path or 'the clip'} has no frame rate; pass "
            "--fps, or write a folder."
        )
    form = _VIDEO_FORMATS[ending]
    if form.codec not in av.codecs_available:
        raise ValueError(
            f"output {path} needs the encoder {form.codec}, which this build of PyAV lacks; "
            "install av from PyPI, or write another format."
        )
    return _VideoWriter(path, info, rate, form, scratch)


def check_exists(path: Path, hint: str) -> None:
    if not os.path.exists(path):  # no error for a name that is too long
        raise ValueError(f"{path} does not exist; {hint}.")


# Colour. swscale is not asked to convert between YUV and RGB: measured, it is off by 0.4% of the
# range above 8 bits (white of 10 bits becomes 65283 of 65535), takes chroma to lie in different
# places on the way in and out, and in PyAV 14 mixes up full and limited range. One matrix product
# on 16-bit samples is exact and as fast.

_KR_KB = {  # H.273 matrix -> weights of red and blue in luma
    1: (0.2126, 0.0722),
    4: (0.30, 0.11),
    5: (0.299, 0.114),
    6: (0.299, 0.114),
    7: (0.212, 0.087),
    9: (0.2627, 0.0593),
}

# Repacked by swscale without loss; formats not named here go through 4:4:4 of at least their bits.
_PLANAR_TWINS = {"nv12": "yuv420p", "yuyv422": "yuv422p", "uyvy422": "yuv422p"}


def _weights(color: ColorTags, width: int, height: int) -> tuple[float, float]:
    matrix = color.matrix
    if matrix == 2:
        matrix = 1 if width > 1024 or height > 576 else 5
    if matrix not in _KR_KB:
        raise ValueError(
            f"colour matrix {matrix} (H.273) is not supported; convert the clip to BT.709 first."
        )
    return _KR_KB[matrix]


@functools.lru_cache(maxsize=16)
def _rgb_to_yuv(
    weights: tuple[float, float], full: bool, bits: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """3x3 matrix and 3-vector that take RGB in [0, 1] to YUV codes in the top bits of 16."""
    kr, kb = weights
    kg = 1 - kr - kb
    matrix = np.array(
        [
            [kr, kg, kb],
            [-kr / (2 * (1 - kb)), -kg / (2 * (1 - kb)), 0.5],
            [0.5, -kg / (2 * (1 - kr)), -kb / (2 * (1 - kr))],
        ]
    )
    if full:
        luma = chroma = 65536.0 - 2 ** (16 - bits)  # the largest code, shifted
        offset = np.array([0.0, 32768.0, 32768.0])
    else:
        luma, chroma = 219 * 256.0, 224 * 256.0
        offset = np.array([16 * 256.0, 32768.0, 32768.0])
    return matrix * np.array([[luma], [chroma], [chroma]]), offset


def _yuv_to_pixels(yuv: NDArray[Any], color: ColorTags, bits: int, dtype: np.dtype[Any]) -> Pixels:
    """Convert (H, W, 3) YUV, codes in the top bits of 16, to RGB of `dtype`."""
    height, width = yuv.shape[:2]
    forward, offset = _rgb_to_yuv(_weights(color, width, height), color.range == 2, bits)
    inverse = np.linalg.inv(forward)
    # 8 bits: eight more below them, and one half for the shift to round.
    scale, half = (65535.0, 0.0) if dtype == np.uint16 else (255 * 256.0, 128.0)
    affine = np.column_stack([inverse, -inverse @ offset]) * scale
    affine[:, 3] += half
    rgb: NDArray[Any] = cv2.transform(yuv, affine)  # rounds and saturates
    return rgb if dtype == np.uint16 else (rgb >> 8).astype(np.uint8)


def _pixels_to_yuv(pixels: Pixels, color: ColorTags, bits: int) -> NDArray[Any]:
    """Convert RGB to (H, W, 3) YUV, scaled as codes in the top bits of 16 but not yet rounded."""
    height, width = pixels.shape[:2]
    matrix, offset = _rgb_to_yuv(_weights(color, width, height), color.range == 2, bits)
    affine = np.column_stack([matrix / np.iinfo(pixels.dtype).max, offset])
    return cv2.transform(pixels.astype(np.uint16), affine)


def _quantize(samples: NDArray[Any], bits: int) -> NDArray[Any]:
    """Round 16-bit-scaled samples to codes of `bits`."""
    codes = np.rint(samples * np.float32(2.0 ** (bits - 16))).clip(0, 2**bits - 1)
    return codes.astype(np.uint8 if bits == 8 else np.uint16)


# Chroma is taken to lie on even columns and between rows, as H.264, HEVC and ProRes have it. The
# two filters below undo each other exactly, so that pixels nobody touched keep their chroma.


def _upsample_chroma(chroma: NDArray[Any], height: int, width: int) -> NDArray[Any]:
    """Bring chroma of half width, half height or both to (height, width), linearly."""
    if chroma.shape[1] < width:
        wide = np.repeat(chroma, 2, axis=1)
        between = chroma[:, :-1].astype(np.uint32) + chroma[:, 1:] + 1
        wide[:, 1:-1:2] = between >> 1
        chroma = wide
    if chroma.shape[0] < height:
        size = (chroma.shape[1], 2 * chroma.shape[0])
        chroma = cv2.resize(chroma, size, interpolation=cv2.INTER_LINEAR)
    return chroma[:height, :width]


def _downsample_chroma(chroma: NDArray[Any], rows: int, columns: int) -> NDArray[Any]:
    """Bring chroma to (rows, columns), half of an even size where smaller."""
    if columns < chroma.shape[1]:
        kernel = np.array([[-1, 2, 6, 2, -1]], np.float32) / 8
        border = cv2.BORDER_REFLECT_101
        chroma = cv2.filter2D(chroma, cv2.CV_32F, kernel, borderType=border)[:, ::2]
    if rows < chroma.shape[0]:
        kernel = np.array([[-1], [3], [3], [-1]], np.float32) / 4
        border = cv2.BORDER_REFLECT
        chroma = cv2.filter2D(chroma, cv2.CV_32F, kernel, anchor=(0, 1), borderType=border)[::2]
    return chroma


def _plane_rows(plane: VideoPlane, dtype: np.dtype[Any]) -> NDArray[Any]:
    """A plane as a writable (rows, line size) view."""
    return np.frombuffer(memoryview(plane), dtype).reshape(plane.height, -1)


def _frame_to_pixels(frame: VideoFrame, color: ColorTags, reformatter: VideoReformatter) -> Pixels:
    """Convert a decoded frame to RGB, rotation not applied."""
    form = frame.format
    bits = max(component.bits for component in form.components)
    if bits > 16:
        raise ValueError(f"{form.name} pixels are not supported; convert the clip to 16 bits.")
    dtype = np.dtype(np.uint8 if bits <= 8 else np.uint16)
    planar_rgb = form.name.startswith("gbr") and form.name.endswith("le")
    if (form.is_rgb and not planar_rgb) or form.name.startswith(("pal", "mono", "ya")):
        packed = "rgb24" if bits <= 8 else "rgb48le"
        return reformatter.reformat(frame, format=packed).to_ndarray()

    subsampled = max(1024 // form.chroma_width(1024), 1024 // form.chroma_height(1024))
    planar = form.name.startswith("gray") or (form.name.startswith("yuv") and form.is_planar)
    little = bits == 8 or form.name.endswith("le")
    if not planar_rgb and not (planar and little and subsampled <= 2):
        twin = _PLANAR_TWINS.get(form.name, "yuv444p" if bits <= 8 else "yuv444p16le")
        bits = 8 if bits <= 8 else 16
        frame = reformatter.reformat(frame, format=twin)
    codes = [
        _plane_rows(plane, np.dtype(np.uint8 if bits <= 8 else "<u2"))[:, : plane.width]
        for plane in frame.planes[:3]  # a fourth is alpha
    ]
    if planar_rgb:
        largest = 2**bits - 1
        rgb = np.stack([codes[2], codes[0], codes[1]], axis=-1).astype(np.uint32)
        return ((rgb * 65535 + largest // 2) // largest).astype(np.uint16)
    luma, *chroma = (plane.astype(np.uint16) << (16 - bits) for plane in codes)
    if not chroma:
        chroma = [np.full_like(luma, 32768)] * 2
    chroma = [_upsample_chroma(plane, *luma.shape) for plane in chroma]
    return _yuv_to_pixels(cv2.merge([luma, *chroma]), color, bits, dtype)


def _pixels_to_frame(pixels: Pixels, pixel_format: str, color: ColorTags) -> VideoFrame:
    """Make a frame for an encoder that takes bgr0, gbrp16le or planar YUV."""
    height, width = pixels.shape[:2]
    frame = VideoFrame(width, height, pixel_format)
    planes: list[NDArray[Any]]
    if pixel_format == "bgr0":
        planes = [cv2.cvtColor(pixels, cv2.COLOR_RGB2BGRA).reshape(height, -1)]
    elif pixel_format == "gbrp16le":
        planes = [pixels[..., 1], pixels[..., 2], pixels[..., 0]]
    else:
        bits = frame.format.components[0].bits
        rows, columns = frame.planes[1].height, frame.planes[1].width
        luma, *chroma = cv2.split(_pixels_to_yuv(pixels, color, bits))
        planes = [luma, *(_downsample_chroma(plane, rows, columns) for plane in chroma)]
        planes = [_quantize(plane, bits) for plane in planes]
        frame.colorspace, frame.color_range = color.matrix, color.range
    for plane, values in zip(frame.planes, planes, strict=True):
        _plane_rows(plane, values.dtype)[:, : values.shape[1]] = values
    return frame


# Reading video


# One packet of these is one frame, unless fields come in packets of their own.
# fmt: off
_PACKET_IS_FRAME = frozenset((
    "h264", "hevc", "av1", "vp9", "prores", "ffv1", "mjpeg", "png", "dnxhd", "cfhd", "qtrle",
    "huffyuv", "ffvhuff", "utvideo", "rawvideo", "v210", "jpeg2000", "hap",
))
# fmt: on
_REVERSED_BITS = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


@dataclass(frozen=True)
class _Scan:
    """What one pass over a file tells."""

    info: ClipInfo  # of the whole clip; indices are those of the frames that decode
    pts: tuple[int, ...] | None  # of these frames, increasing; None if the file has none
    keyframes: tuple[tuple[int, int], ...]  # (index, pts) of where decoding can start
    orientation: tuple[int, int, int, int]
    stream_index: int
    num_intact: int  # frames without the damaged ones
    num_stated: int
    damaged: bool


class _Decoder:
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
        if with_alpha and stream.metadata.get("alpha_mode") == "1":
            # FFmpeg's own decoders of VP8 and VP9 leave alpha out.
            library = {"vp8": "libvpx", "vp9": "libvpx-vp9"}.get(name, "")
            if library in av.codecs_available:
                context = VideoCodecContext.create(library, "r")
                assert isinstance(context, VideoCodecContext)
                self._context = context
        self._from_pts = from_pts
        self._has_checksums: bool | None = None if name == "ffv1" else False
        self.first: VideoFrame | None = None
        self.damaged = False

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


def _is_cut_short(path: Path, container_name: str) -> bool:
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


@functools.lru_cache(maxsize=16)
def _cached_scan(path: Path, size: int, modified_ns: int, decode_all: bool) -> _Scan:
    try:
        # The full path, so that a colon in a file name is no protocol.
        with av.open(str(path), metadata_errors="ignore") as container:
            scan = _scan_container(container, path, decode_all)
    except av.FFmpegError as error:
        raise ValueError(
            f"{path} cannot be read as a video ({error.strerror}); give a video file, and a whole "
            "copy if this one was cut short."
        ) from error
    return scan or _cached_scan(path, size, modified_ns, True)


def _scan(path: Path, decode_all: bool) -> _Scan:
    state = path.stat()
    return _cached_scan(path.absolute(), state.st_size, state.st_mtime_ns, decode_all)


def _video_stream(container: InputContainer, path: Path) -> VideoStream:
    for stream in container.streams.video:
        cover = stream.disposition & Disposition.attached_pic
        # FFmpeg takes any text file to be a film of a terminal.
        context = stream.codec_context
        if not cover and context is not None and context.name != "ansi":
            check_frame_size(context.width, context.height, path)
            return stream
    raise ValueError(f"{path} has no video in it; give a video file or a folder of images.")


def _scan_container(container: InputContainer, path: Path, decode_all: bool) -> _Scan | None:
    """Read all packets, and decode the first frame or all; None if only decoding can count."""
    stream = _video_stream(container, path)
    decoder = _Decoder(stream)
    packets: list[tuple[int | None, bool]] = []  # pts, whether it is a key frame
    frames: list[int | None] = []  # pts
    num_intact, end_seconds, damaged = 0, 0.0, False
    try:
        for packet in container.demux():
            if packet.pts is not None:
                end = float((packet.pts + (packet.duration or 0)) * packet.time_base)
                end_seconds = max(end_seconds, end)
            if packet.stream.index != stream.index:
                continue
            if packet.size and not packet.is_discard:  # an edit list discards
                packets.append((packet.pts, packet.is_keyframe))
                num_intact += not packet.is_corrupt
                damaged |= packet.is_corrupt
            if decode_all or decoder.first is None:
                frames += [frame.pts for frame in decoder.decode(packet)]
    except av.FFmpegError:
        damaged = True
        frames += [frame.pts for frame in decoder.decode(None)]
    first = decoder.first
    if first is None:
        raise ValueError(f"{path} has no frames that decode; give a video that has some.")

    packet_pts = sorted(pts for pts, _ in packets if pts is not None)
    damaged |= (
        decoder.damaged
        or _is_cut_short(path, container.format.name)
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
    return _Scan(
        info=_describe(
            container,
            stream,
            first,
            pts=shown if timed else [],
            indices=indices,
            total_frames=len(packet_pts) if counted else num_frames,
        ),
        pts=tuple(shown) if timed else None,
        keyframes=tuple(keyframes),
        orientation=_orientation(first),
        stream_index=stream.index,
        num_intact=num_frames if decode_all else 0 if decoder.damaged else num_intact,
        num_stated=max(stream.frames, len(packets)),
        damaged=damaged,
    )


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
    first: VideoFrame,
    pts: Sequence[int],
    indices: Sequence[int],
    total_frames: int,
) -> ClipInfo:
    fps, constant = _frame_rate(stream, pts)
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
        color=_color_tags(first, stream),
        full_chroma=first.format.chroma_width(2) == 2 and not first.format.name.startswith("gray"),
        sample_aspect_ratio=aspect,
        time_base=stream.time_base,
        pts=None if constant else tuple(pts),
        has_sound=bool(container.streams.audio),
        is_turned=_orientation(first)[0] == 0,
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


def _unrounded(rate: Fraction) -> Fraction:
    """The NTSC rate that FFmpeg rounded, which has 30000 as the largest number in one of Matroska.

    So 50000/1001 becomes 29021/581, off by 7e-7; 49.95, which is no NTSC rate, is off by 1e-6.
    """
    ntsc = Fraction(round(rate * 1001 / 1000) * 1000, 1001)
    return ntsc if abs(ntsc / rate - 1) < 9e-7 else rate


def _has_alpha(frame: VideoFrame) -> bool:
    name = frame.format.name
    return name.startswith(("yuva", "gbrap", "ya", "pal8")) or name in _RGBA


# fmt: off
_RGBA = frozenset((
    "rgba", "bgra", "argb", "abgr", "rgba64le", "rgba64be", "bgra64le", "bgra64be",
))
# fmt: on


def _orientation(frame: VideoFrame) -> tuple[int, int, int, int]:
    """The signs of a, b, c, d of the display matrix, which says x' = ax + cy, y' = bx + dy."""
    data: Any = frame.side_data.get("DISPLAYMATRIX")
    if data is None:
        return (1, 0, 0, 1)
    a, b, _, c, d = (int(value) for value in np.frombuffer(bytes(data), np.int32)[:5])
    if abs(b) > abs(a):
        return (0, 1 if b > 0 else -1, 1 if c > 0 else -1, 0)
    return (1 if a > 0 else -1, 0, 0, 1 if d > 0 else -1)


def _upright(pixels: Pixels, orientation: tuple[int, int, int, int]) -> Pixels:
    a, b, c, d = orientation
    if a == 0:
        pixels, a, d = pixels.swapaxes(0, 1), c, b
    return np.ascontiguousarray(pixels[::d, ::a])


def _color_tags(frame: VideoFrame, stream: VideoStream) -> ColorTags:
    context, name = stream.codec_context, frame.format.name
    # A ProRes frame may leave to the container what it is.
    matrix = int(frame.colorspace if frame.colorspace != 2 else context.colorspace)
    value_range = int(frame.color_range or context.color_range)
    if frame.format.is_rgb:
        matrix, value_range = 0, 2
    elif name.startswith("gray"):
        matrix = matrix or 2
        if value_range == 0 and context.name not in ("h264", "hevc"):
            value_range = 2
    elif name.startswith("yuvj"):
        value_range = 2
    return ColorTags(matrix, value_range, int(context.color_primaries), int(context.color_trc))


def _damage(path: Path, num_decoded: int, num_stated: int) -> ValueError:
    of = f" of {num_stated}" if num_stated > num_decoded else ""
    return ValueError(
        f"{path} is cut short or damaged: {num_decoded}{of} frames decoded; give a whole copy, or "
        "pass --allow-truncated to go on with what decodes."
    )


class _VideoReader(FrameReader):
    def __init__(
        self,
        path: Path,
        frames: tuple[int, int] | None,
        allow_truncated: bool,
        with_alpha: bool = False,
    ) -> None:
        super().__init__()
        scan = _scan(path, decode_all=allow_truncated)
        if scan.damaged and not allow_truncated:
            raise _damage(path, scan.num_intact, scan.num_stated)
        info, pts = scan.info, scan.pts
        assert info.indices is not None
        indices = select_frames(info.indices, frames, path)
        begin = bisect_left(info.indices, indices[0])
        end = begin + len(indices)

        def seconds(position: int) -> Fraction:
            if pts is not None and info.time_base is not None:
                return pts[position] * info.time_base
            return position / info.fps if info.fps else Fraction(0)

        self._path = path
        self._scan = scan
        self._allow_truncated = allow_truncated
        self._with_alpha = with_alpha
        self.info = replace(
            info,
            path=path,
            indices=indices,
            pts=None if info.pts is None else info.pts[begin:end],
            start_seconds=seconds(begin),
            stop_seconds=None if end == len(info.indices) else seconds(end),
            truncated=scan.damaged,
        )

    def _items(self) -> Generator[Frame, None, None]:
        assert self.info.indices is not None
        first, last = self.info.indices[0], self.info.indices[-1]
        keys = [pts for index, pts in self._scan.keyframes if 0 < index <= first]
        reformatter = VideoReformatter()
        num_yielded = 0
        for start in [*keys[-1:], None]:  # pts; None is the start of the file
            for index, frame in self._decode(start):
                if index > last:
                    break
                if num_yielded == 0 and start is not None and index > first:
                    break  # a stream that is refreshed bit by bit shows nothing at first
                if index >= first:
                    pixels = self._pixels(frame, index, reformatter)
                    stored = self._rgba(pixels, frame) if self._with_alpha else None
                    yield Frame(pixels, index, frame.pts, f"{index:06d}", stored)
                    num_yielded += 1
            if num_yielded:
                break
        if num_yielded < len(self.info.indices) and not self._allow_truncated:
            raise _damage(self._path, first + num_yielded, self._scan.num_stated)

    def _decode(self, start: int | None) -> Iterator[tuple[int, VideoFrame]]:
        """Decode from the key frame with this pts; yields indices with frames."""
        scan = self._scan
        assert scan.info.indices is not None
        with av.open(str(self._path.absolute()), metadata_errors="ignore") as container:
            stream = container.streams[scan.stream_index]
            assert isinstance(stream, VideoStream)
            if start is not None:
                container.seek(start, stream=stream)
            decoder = _Decoder(stream, from_pts=start, with_alpha=self._with_alpha)
            index = -1
            for count, frame in enumerate(decoder.decode_all(container)):
                if decoder.damaged and not self._allow_truncated:
                    break
                position = count
                if scan.pts is not None:
                    position = -1 if frame.pts is None else bisect_left(scan.pts, frame.pts)
                    if frame.pts not in scan.pts[position : position + 1]:
                        continue  # before the first one that counts
                index = scan.info.indices[position]
                yield index, frame
            if decoder.damaged and not self._allow_truncated:
                raise _damage(self._path, index + 1, scan.num_stated)

    def _rgba(self, pixels: Pixels, frame: VideoFrame) -> Pixels | None:
        """Pixels with the alpha of their frame; None where it has none."""
        if not _has_alpha(frame):
            return None
        packed = "rgba" if pixels.dtype == np.uint8 else "rgba64le"
        alpha = frame.reformat(format=packed).to_ndarray()[..., 3]
        return np.dstack([pixels, _upright(alpha, self._scan.orientation)])

    def _pixels(self, frame: VideoFrame, index: int, reformatter: VideoReformatter) -> Pixels:
        pixels = _frame_to_pixels(frame, self.info.color, reformatter)
        pixels = _upright(pixels, self._scan.orientation)
        shape = (self.info.height, self.info.width, 3)
        if pixels.shape != shape or pixels.dtype != self.info.dtype:
            raise ValueError(
                f"frame {index} of {self._path} is {pixels.shape} {pixels.dtype} but the first is "
                f"{shape} {self.info.dtype}; cut the clip where its format changes."
            )
        return pixels


# Writing


class _VideoFormat(NamedTuple):
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


_VIDEO_FORMATS = {
    ".mp4": _VideoFormat("mp4", "libx264", _h264_settings, {"movflags": "+faststart"}, "aac"),
    # Sound that starts before the picture, as AAC does, must not shift the picture.
    # Without a random number in its header, so that the same frames make the same file.
    ".mkv": _VideoFormat(
        "matroska",
        "ffv1",
        _ffv1_settings,
        {"avoid_negative_ts": "disabled", "fflags": "bitexact"},
        "flac",
    ),
    ".mov": _VideoFormat("mov", "prores_ks", _prores_settings, {}, "pcm_s24le"),
}
# Other tags make the MP4 muxer drop them, or write all tags in a form that fewer players read.
# fmt: off
_MP4_TAGS = frozenset((
    "title", "artist", "album_artist", "composer", "album", "date", "comment", "genre", "copyright",
    "grouping", "lyrics", "description", "synopsis", "show", "episode_id", "network", "keywords",
    "creation_time", "location",
))
# fmt: on


class _VideoWriter(FrameWriter):
    def __init__(
        self,
        path: Path,
        info: ClipInfo,
        fps: Fraction,
        form: _VideoFormat,
        scratch: Path | None,
    ) -> None:
        self._fps = fps
        self._form = form
        self._first_pts: int | None = None
        self._sound: _Sound | None = None
        self._container: OutputContainer | None = None
        super().__init__(path, info, scratch)

    def _create(self, temporary: Path) -> None:
        temporary.touch()
        try:
            self._open(temporary)
        except BaseException:
            self.abort()
            raise

    def _open(self, temporary: Path) -> None:
        info, form = self._info, self._form
        options = dict(form.container_options)
        if form.container in ("mp4", "mov") and not _MP4_TAGS.issuperset(info.metadata):
            options["movflags"] = options.get("movflags", "") + "+use_metadata_tags"
        self._container = container = av.open(
            str(temporary), "w", format=form.container, container_options=options
        )
        container.metadata.update(info.metadata)
        pixel_format, encoder_options = form.settings(info)
        stream = container.add_stream(form.codec, rate=self._fps, options=encoder_options)
        assert isinstance(stream, VideoStream)
        stream.width, stream.height, stream.pix_fmt = info.width, info.height, pixel_format
        stream.metadata.update(self._stream_tags())
        self._color = info.color
        if av.VideoFormat(pixel_format).is_rgb:
            self._color = replace(info.color, matrix=0, range=2)
        elif info.color.matrix == 0:
            self._color = replace(info.color, matrix=1, range=1)
        elif form.codec == "prores_ks":  # has no full range
            self._color = replace(info.color, range=1)
        context = stream.codec_context
        context.colorspace, context.color_range = self._color.matrix, self._color.range
        context.color_primaries, context.color_trc = self._color.primaries, self._color.transfer
        if info.sample_aspect_ratio is not None:
            context.sample_aspect_ratio = info.sample_aspect_ratio
            if form.container == "matroska" and info.sample_aspect_ratio != 1:
                # PyAV does not pass it on to this muxer.
                log.warning(
                    "%s will show its pixels square; the source has an aspect of %s.",
                    *(self._path, info.sample_aspect_ratio),
                )
        # PyAV's default has x264 cut frames into slices, which costs quality.
        context.thread_type = "AUTO"
        self._time_base = 1 / self._fps
        if info.pts is not None and info.time_base is not None:
            self._time_base = info.time_base
        context.time_base = self._time_base
        self._stream = stream
        if info.has_sound and info.path is not None:
            self._sound = _Sound(container, info, form)

    def _stream_tags(self) -> dict[str, str]:
        tags = dict(self._info.stream_metadata)
        timecode = tags.pop("timecode", "")
        if self._info.pts is None:
            first = self._info.indices[0] if self._info.indices else 0
            timecode = _shift_timecode(timecode, first, self._fps)
            if timecode:
                tags["timecode"] = timecode
        return tags

    def _write(self, pixels: Pixels, pts: int | None, name: str | None) -> None:
        assert self._container is not None
        assert self._stream.pix_fmt is not None
        frame = _pixels_to_frame(pixels, self._stream.pix_fmt, self._color)
        frame.time_base = self._time_base
        frame.pts = self._count
        if self._info.pts is not None:
            pts = self._info.pts[self._count] if pts is None else pts
            self._first_pts = pts if self._first_pts is None else self._first_pts
            frame.pts = pts - self._first_pts
        self._container.mux(self._stream.encode(frame))
        if self._sound is not None:
            self._sound.copy(until_seconds=frame.pts * self._time_base)

    def _finish(self) -> None:
        assert self._container is not None
        self._container.mux(self._stream.encode(None))
        if self._sound is not None:
            self._sound.copy(until_seconds=None)
        self._container.close()
        self._container = None
        self._release()

    def _release(self) -> None:
        if self._sound is not None:
            self._sound.close()
        if self._container is not None:
            with contextlib.suppress(av.FFmpegError):
                self._container.close()
            self._container = None


def _shift_timecode(timecode: str, num_frames: int, fps: Fraction) -> str:
    """The time code so many frames later; "" where there is none, as at unusual rates.

    With ";" or "." before the frames, numbers are dropped: the first two of 30, or four of 60, in
    each minute but every tenth. Source: SMPTE ST 12-1, section 5.2.
    """
    match = re.fullmatch(r"(\d+):(\d+):(\d+)([:;.])(\d+)", timecode)
    nominal = round(fps)
    is_ntsc = fps == Fraction(nominal * 1000, 1001)
    if match is None or nominal not in (24, 25, 30, 48, 50, 60) or not (is_ntsc or fps == nominal):
        return ""
    dropped = 0  # of each minute
    if match[4] != ":":
        if not is_ntsc or nominal % 30:
            return ""
        dropped = nominal // 15
    hours, minutes, seconds, frames = (int(match[group]) for group in (1, 2, 3, 5))
    minutes += 60 * hours
    number = nominal * (60 * minutes + seconds) + frames - dropped * (minutes - minutes // 10)
    ten_minutes = nominal * 600 - dropped * 9
    tens, number = divmod(number + num_frames, ten_minutes)
    skipped = max(number - dropped, 0) // (nominal * 60 - dropped)  # of the nine
    number += tens * nominal * 600 + dropped * skipped
    seconds, frames = divmod(number, nominal)
    hours, minutes = seconds // 3600 % 24, seconds // 60 % 60
    return f"{hours:02}:{minutes:02}:{seconds % 60:02}{match[4]}{frames:02}"


class _SoundTrack(NamedTuple):
    output: AudioStream
    encodes: bool  # or copies
    padding_seconds: Fraction  # that a Matroska player skips


class _Sound:
    """Takes the sound tracks of a clip over into an output, alongside its frames."""

    def __init__(self, container: OutputContainer, info: ClipInfo, form: _VideoFormat) -> None:
        assert info.path is not None
        self._container = container
        self._in_matroska = form.container == "matroska"
        self._start = info.start_seconds
        self._stop = info.stop_seconds
        self._starts_midway = bool(info.indices) and info.indices[0] > 0  # type: ignore[index]
        self._input = av.open(str(info.path.absolute()), metadata_errors="ignore")
        self._tracks: dict[int, _SoundTrack] = {}
        for stream in self._input.streams.audio:
            if stream.codec_context is None:
                log.warning("sound of stream %d is of an unknown kind; left out.", stream.index)
                continue
            track = _add_track(container, stream, form)
            for key in {"language", "title"} & stream.metadata.keys():
                track.output.metadata[key] = stream.metadata[key]
            # PyAV 14 takes nothing but the number.
            track.output.disposition = stream.disposition.value  # type: ignore[assignment]
            self._tracks[stream.index] = track
        streams = [self._input.streams[index] for index in self._tracks]
        self._packets: Iterator[Any] = self._input.demux(*streams) if streams else iter(())
        self._pending: Any = None

    def copy(self, until_seconds: Fraction | None) -> None:
        """Take over the sound up to this time after the first frame; None: all that is left."""
        while True:
            if self._pending is None:
                try:
                    self._pending = next(self._packets, None)
                except av.FFmpegError:  # the picture decides whether the file is too damaged
                    log.warning("the sound breaks off at a damaged packet.")
            packet = self._pending
            if packet is None:
                return
            if packet.pts is not None and until_seconds is not None:
                ahead = packet.pts * packet.time_base - self._start - until_seconds
                if ahead > 0:
                    return
            self._pending = None
            track = self._tracks[packet.stream.index]
            if track.encodes:
                self._encode(packet, track.output)
            else:
                self._copy(packet, track)

    def close(self) -> None:
        self._input.close()

    def _copy(self, packet: Packet[Any], track: _SoundTrack) -> None:
        if packet.pts is None or not packet.size:
            return
        time = packet.pts * packet.time_base
        if self._stop is not None and time >= self._stop:
            return
        # Decoders need a packet ahead of the first to be heard. MP4 hides what comes before the
        # first frame; Matroska cannot, and a start half a frame early makes tools repeat a frame.
        if self._in_matroska:
            ahead = track.padding_seconds + Fraction(5, 1000)
        else:
            ahead = 2 * (packet.duration or 0) * packet.time_base
        if (self._in_matroska or self._starts_midway) and time < self._start - ahead:
            return
        shift = round(self._start / packet.time_base)
        packet.pts -= shift
        packet.dts = packet.pts if packet.dts is None else packet.dts - shift
        packet.stream = track.output
        self._container.mux(packet)

    def _encode(self, packet: Packet[AudioStream], output: AudioStream) -> None:
        try:
            frames = packet.decode()
        except av.FFmpegError:
            log.warning("a damaged packet of sound was left out.")
            return
        for frame in frames:
            assert frame.pts is not None
            assert frame.time_base is not None
            time = frame.pts * frame.time_base
            if time < self._start or (self._stop is not None and time >= self._stop):
                continue
            frame.pts -= round(self._start / frame.time_base)
            self._container.mux(output.encode(frame))
        if not packet.size:  # the last one of its track
            self._container.mux(output.encode(None))


def _add_track(container: OutputContainer, stream: AudioStream, form: _VideoFormat) -> _SoundTrack:
    context = stream.codec_context
    codec = context.name if _takes_sound(form.container, stream) else form.sound_codec
    encodes = codec != context.name
    padded = form.container == "matroska" and codec == "aac" and context.profile == "LC"
    if not encodes and not (padded and context.extradata):
        return _SoundTrack(container.add_stream_from_template(stream), False, Fraction(0))

    if encodes:
        log.info("%s sound does not go into .%s; encoded.", context.name, form.container)
    rates = av.Codec(codec, "w").audio_rates
    rate = stream.rate if not rates or stream.rate in rates else 48000
    output = container.add_stream(codec, rate=rate)
    assert isinstance(output, AudioStream)
    # AVI and raw PCM count channels but do not name them.
    num_channels = stream.layout.nb_channels
    layout = {1: "mono", 2: "stereo"}.get(num_channels, stream.layout.name)
    output.codec_context.layout = layout
    if codec == "aac":
        output.codec_context.bit_rate = min(96_000, 4 * rate) * num_channels
    if encodes:
        return _SoundTrack(output, True, Fraction(0))
    # Copied all the same: only an open encoder tells Matroska of the samples to skip at the start.
    output.codec_context.open()
    output.codec_context.extradata = context.extradata
    return _SoundTrack(output, False, Fraction(1024, rate))


def _takes_sound(container_name: str, stream: AudioStream) -> bool:
    """Whether a container takes packets of a stream as they are; some only say so on writing."""
    try:
        with av.open(io.BytesIO(), "w", format=container_name) as trial:
            trial.add_stream_from_template(stream)
            trial.start_encoding()
    except (ValueError, av.FFmpegError):
        return False
    return True
