"""Writes video files; see `open_writer`."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
from av.codec.context import Flags
from av.container import OutputContainer
from av.filter import Graph
from av.packet import Packet
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from combcn_core.clips.color import pixels_to_frame
from combcn_core.clips.formats import Encoding
from combcn_core.clips.frames import OF_THE_DISK, Alpha, ClipInfo, ColorTags, FrameWriter
from combcn_core.clips.hdr import header_with, stream_of
from combcn_core.clips.planes import Planes
from combcn_core.clips.timecode import shift_timecode
from combcn_core.clips.tracks import Tracks
from combcn_core.pixels import Filled, Pixels

# Other tags make the MP4 muxer drop them, or write all tags in a form that fewer players read.
# fmt: off
_MP4_TAGS = frozenset((
    "title", "artist", "album_artist", "composer", "album", "date", "comment", "genre", "copyright",
    "grouping", "lyrics", "description", "synopsis", "show", "episode_id", "network", "keywords",
    "creation_time", "location",
))
# fmt: on

log = logging.getLogger("combcn")


@contextlib.contextmanager
def usual_priority() -> Iterator[None]:
    """Open an encoder without letting it change how threads are scheduled.

    SVT-AV1, where root opens it, makes its threads real-time ones, and the one that calls it too;
    so would be all that come from that one later, and little else would run.
    """
    if sys.platform != "linux":  # elsewhere it does not
        yield
        return
    before = set(os.listdir("/proc/self/task")) - {str(threading.get_native_id())}
    policy, parameters = os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        yield
    finally:
        if os.sched_getscheduler(0) != policy:
            for thread in set(os.listdir("/proc/self/task")) - before:
                with contextlib.suppress(ProcessLookupError):
                    os.sched_setscheduler(int(thread), policy, parameters)


class VideoWriter(FrameWriter):
    def __init__(
        self,
        path: Path,
        info: ClipInfo,
        fps: Fraction,
        encoding: Encoding,
        scratch: Path | None,
        alpha: Alpha | None,
    ) -> None:
        self._fps = fps
        self._encoding = encoding
        self._alpha = alpha
        self._first_pts: int | None = None
        self._last_place: Fraction | None = None  # of the last frame, in seconds
        self._first_dts: int | None = None
        self._held: Packet[Any] | None = None
        self._tracks: Tracks | None = None
        self._container: OutputContainer | None = None
        super().__init__(path, info, scratch)

    def _create(self, temporary: Path) -> None:
        temporary.touch()
        try:
            with usual_priority():
                self._open(temporary)
        except av.FFmpegError as error:
            self.abort()
            if error.errno in OF_THE_DISK:
                raise
            encoding = self._encoding
            raise ValueError(
                f"output {self._path} cannot be encoded as {encoding.name} "
                f"{encoding.pixel_format} with what the source has besides ({error.strerror}); "
                "give another codec or another ending."
            ) from error
        except BaseException:
            self.abort()
            raise

    def _open(self, temporary: Path) -> None:
        info, encoding = self._info, self._encoding
        form = encoding.container
        options = dict(form.options)
        if form.muxer in ("mp4", "mov") and not _MP4_TAGS.issuperset(info.metadata):
            options["movflags"] = options.get("movflags", "") + "+use_metadata_tags"
        self._container = container = av.open(
            str(temporary), "w", format=form.muxer, container_options=options
        )
        container.metadata.update(info.metadata)
        self._color = info.color
        if av.VideoFormat(encoding.pixel_format).is_rgb:
            self._color = replace(info.color, matrix=0, range=2)
        elif info.color.matrix == 0:
            # RGB has no matrix; it gets that of its primaries.
            self._color = replace(info.color, matrix=9 if info.color.primaries == 9 else 1, range=1)
        elif encoding.name == "prores":  # has no full range
            self._color = replace(info.color, range=1)
        self._time_base = 1 / self._fps
        if info.pts is not None and info.time_base is not None:
            self._time_base = info.time_base
        if self._color.mastering is None:
            stream = container.add_stream(encoding.codec.encoder, rate=self._fps)
            assert isinstance(stream, VideoStream)
            self._encoder, self._stream = stream.codec_context, stream
            self._set_up(self._encoder)
        else:
            encoder = VideoCodecContext.create(encoding.codec.encoder, "w")
            assert isinstance(encoder, VideoCodecContext)
            encoder.framerate = self._fps
            encoder.flags |= Flags.global_header
            self._set_up(encoder)
            encoder.open()
            self._encoder = encoder
            header = header_with(self._color, encoding.name, self._fps, encoder)
            with header:
                self._stream = container.add_stream_from_template(stream_of(header), opaque=True)
            self._stream.time_base = self._time_base
        self._stream.metadata.update(self._stream_tags())
        self._stamp = _stamper(encoding, info, self._color)
        if info.path is not None and (info.has_sound or info.has_more_tracks):
            self._tracks = Tracks(container, info, form)
        container.start_encoding()  # so that what cannot be written shows now

    def _set_up(self, context: VideoCodecContext) -> None:
        info, encoding = self._info, self._encoding
        context.width, context.height = info.width, info.height
        context.pix_fmt, context.options = encoding.pixel_format, encoding.options
        context.colorspace, context.color_range = self._color.matrix, self._color.range
        context.color_primaries, context.color_trc = self._color.primaries, self._color.transfer
        if info.sample_aspect_ratio is not None:
            context.sample_aspect_ratio = info.sample_aspect_ratio
        # PyAV's default has x264 cut frames into slices, which costs quality.
        context.thread_type = "AUTO"
        context.time_base = self._time_base
        if encoding.name == "hevc" and encoding.container.muxer in ("mp4", "mov"):
            context.codec_tag = "hvc1"  # the one of its two tags that QuickTime knows

    def _tell_losses(self) -> None:
        """Say in a line each what the source has and this output does not."""
        info, encoding = self._info, self._encoding
        if info.field_order:
            fields = "" if encoding.codec.has_fields else f", and {encoding.name} does not say so"
            log.warning(
                "%s is interlaced: its frames are filled as whole ones, not field by field%s; "
                "where the object moves fast, deinterlace the clip first (ffmpeg -vf bwdif).",
                *(info.path or "the clip", fields),
            )
        if info.has_alpha and not encoding.has_alpha:
            log.warning(
                "%s has alpha, which %s in %s does not keep; it is left out. Write .mov (ProRes "
                "4444), .mkv (FFV1) or a folder to keep it.",
                *(info.path or "the clip", encoding.name, self._path.name),
            )
        aspect = info.sample_aspect_ratio
        if aspect not in (None, 1) and encoding.container.muxer in ("matroska", "webm"):
            # PyAV does not pass it on to these muxers.
            log.warning(
                "%s will show its pixels square; the source has an aspect of %s.",
                *(self._path, aspect),
            )
        if self._tracks is not None and self._tracks.encoded:
            log.info(
                "%s of %s encoded anew: %s does not hold it like that.",
                *(self._tracks.encoded, info.path, self._path.suffix),
            )
        if self._tracks is not None and self._tracks.left_out:
            log.warning(
                "%s of %s not taken over: %s does not hold it like that.",
                *(self._tracks.left_out, info.path, self._path.suffix),
            )

    def _stream_tags(self) -> dict[str, str]:
        tags = dict(self._info.stream_metadata)
        timecode = tags.pop("timecode", "")
        if self._info.pts is None:
            first = self._info.indices[0] if self._info.indices else 0
            timecode = shift_timecode(timecode, first, self._fps)
            if timecode:
                tags["timecode"] = timecode
        return tags

    def _write(self, pixels: Pixels, pts: int | None, name: str | None) -> None:
        alpha = None if self._alpha is None else self._alpha.next()
        form, has_fields = self._encoding.pixel_format, bool(self._info.field_order)
        self._encode(pixels_to_frame(pixels, form, self._color, has_fields, alpha), pts)

    def _write_filled(self, frame: Filled, pts: int | None, name: str | None) -> None:
        planes, form = frame.frame, self._encoding.pixel_format
        if isinstance(planes, Planes) and planes.is_ready_for(form, self._color):
            self._encode(planes.filled(frame, self._color, bool(self._info.field_order)), pts)
        else:
            super()._write_filled(frame, pts, name)

    def _encode(self, frame: VideoFrame, pts: int | None) -> None:
        info = self._info
        if self._count == 0:
            self._tell_losses()
        frame.time_base = self._time_base
        frame.pts = self._count
        if info.pts is not None:
            pts = info.pts[self._count] if pts is None else pts
            self._first_pts = pts if self._first_pts is None else self._first_pts
            frame.pts = pts - self._first_pts
        seconds = frame.pts * self._time_base
        if self._count + 1 == info.num_frames:
            self._last_place = seconds
        self._mux(self._encoder.encode(self._stamp(frame)))
        if self._tracks is not None:
            self._tracks.copy(until_seconds=seconds)

    def _mux(self, packets: Iterable[Packet[Any]]) -> None:
        for packet in packets:
            packet.stream = self._stream
            seconds = self._duration_at(packet)
            if seconds is not None:
                packet.duration = max(round(seconds / packet.time_base), 1)
            self._mux_held()
            self._held = packet

    def _mux_held(self, is_last: bool = False) -> None:
        """Mux the packet before the newest; the last one of MP4 lasts to the end of the clip.

        Durations there are those of decoding, which has another order.
        """
        if self._held is None:
            return
        packet, self._held = self._held, None
        assert self._container is not None
        if self._first_dts is None:
            self._first_dts = packet.dts
        lasts = is_last and self._info.last_seconds is not None
        if lasts and self._last_place is not None and self._container.format.name in ("mp4", "mov"):
            assert packet.dts is not None
            assert self._first_dts is not None
            assert self._info.last_seconds is not None
            passed = (packet.dts - self._first_dts) * packet.time_base
            left = self._last_place + self._info.last_seconds - passed
            packet.duration = max(round(left / packet.time_base), 1)
        self._container.mux(packet)

    def _duration_at(self, packet: Packet[Any]) -> Fraction | None:
        """How long a frame stays; None: as the encoder says."""
        info = self._info
        assert packet.pts is not None
        is_last = packet.pts * packet.time_base == self._last_place
        if is_last and info.last_seconds is not None:
            return info.last_seconds
        return 1 / self._fps if info.pts is None else None

    def _finish(self) -> None:
        assert self._container is not None
        try:
            self._mux(self._encoder.encode(None))
            self._mux_held(is_last=True)
            if self._tracks is not None:
                self._tracks.copy(until_seconds=None)
            self._container.close()
        except av.FFmpegError as error:
            raise OSError(
                f"output {self._path} could not be finished ({error.strerror}). See whether the "
                "disk is full; segments that --resume keeps are still there."
            ) from error
        self._container = None
        self._release()

    def _release(self) -> None:
        if self._alpha is not None:
            self._alpha.close()
        if self._tracks is not None:
            self._tracks.close()
        if self._container is not None:
            with contextlib.suppress(av.FFmpegError, OSError):
                self._container.close()
            self._container = None


def _stamper(
    encoding: Encoding, info: ClipInfo, color: ColorTags
) -> Callable[[VideoFrame], VideoFrame]:
    """What marks frames as the encoder wants to see them: fields, and colours for ProRes."""
    settings = []
    if info.field_order and encoding.codec.has_fields:
        settings.append(f"field_mode={info.field_order}")
    if encoding.name == "prores":
        settings.append(f"color_primaries={color.primaries}:color_trc={color.transfer}")
    if not settings:
        return lambda frame: frame
    # PyAV sets neither on a frame in all its versions; this filter does, and copies nothing.
    graph = Graph()
    source = graph.add_buffer(
        width=info.width,
        height=info.height,
        format=av.VideoFormat(encoding.pixel_format),
        time_base=Fraction(1, 1),
    )
    graph.link_nodes(
        source, graph.add("setparams", ":".join(settings)), graph.add("buffersink")
    ).configure()

    def stamp(frame: VideoFrame) -> VideoFrame:
        pts, time_base = frame.pts, frame.time_base
        graph.vpush(frame)
        frame = graph.vpull()
        frame.pts, frame.time_base = pts, time_base
        return frame

    return stamp
