"""Writes video files; see `open_writer`."""

from __future__ import annotations

import contextlib
import logging
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
from av.container import OutputContainer
from av.video.stream import VideoStream

from combcn_core.clips.color import pixels_to_frame
from combcn_core.clips.formats import VideoFormat
from combcn_core.clips.frames import (
    ClipInfo,
    FrameWriter,
    Pixels,
)
from combcn_core.clips.sound import Sound
from combcn_core.clips.timecode import shift_timecode

# Other tags make the MP4 muxer drop them, or write all tags in a form that fewer players read.
# fmt: off
_MP4_TAGS = frozenset((
    "title", "artist", "album_artist", "composer", "album", "date", "comment", "genre", "copyright",
    "grouping", "lyrics", "description", "synopsis", "show", "episode_id", "network", "keywords",
    "creation_time", "location",
))
# fmt: on

log = logging.getLogger("combcn")


class VideoWriter(FrameWriter):
    def __init__(
        self,
        path: Path,
        info: ClipInfo,
        fps: Fraction,
        form: VideoFormat,
        scratch: Path | None,
    ) -> None:
        self._fps = fps
        self._form = form
        self._first_pts: int | None = None
        self._sound: Sound | None = None
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
            self._sound = Sound(container, info, form)

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
        assert self._container is not None
        assert self._stream.pix_fmt is not None
        frame = pixels_to_frame(pixels, self._stream.pix_fmt, self._color)
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
