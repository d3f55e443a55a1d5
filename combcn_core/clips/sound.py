"""The sound of a clip, taken over into an output."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator
from fractions import Fraction
from typing import Any, NamedTuple

import av
from av.audio.stream import AudioStream
from av.container import OutputContainer
from av.packet import Packet

from combcn_core.clips.formats import VideoFormat
from combcn_core.clips.frames import (
    ClipInfo,
)

log = logging.getLogger("combcn")


class _SoundTrack(NamedTuple):
    output: AudioStream
    encodes: bool  # or copies
    padding_seconds: Fraction  # that a Matroska player skips


class Sound:
    """Takes the sound tracks of a clip over into an output, alongside its frames."""

    def __init__(self, container: OutputContainer, info: ClipInfo, form: VideoFormat) -> None:
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


def _add_track(container: OutputContainer, stream: AudioStream, form: VideoFormat) -> _SoundTrack:
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
