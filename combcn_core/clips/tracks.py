"""What a clip has besides its picture, taken over into an output: sound, subtitles, chapters, ...

Packets are copied where the container takes them. Sound and subtitles of text that it does not take
are encoded; all else is left out, and named in one line.
"""

from __future__ import annotations

import io
import logging
from collections import Counter
from collections.abc import Iterator
from fractions import Fraction
from typing import Any, NamedTuple

import av
from av.audio.stream import AudioStream
from av.container import InputContainer, OutputContainer
from av.packet import Packet
from av.stream import Disposition

from combcn_core.clips.formats import Container
from combcn_core.clips.frames import ClipInfo

log = logging.getLogger("combcn")

# AVI and raw PCM count channels but do not name them.
_LAYOUTS = {
    1: "mono", 2: "stereo", 3: "2.1", 4: "4.0", 5: "5.0", 6: "5.1", 7: "6.1", 8: "7.1",
}  # fmt: skip


class _Track(NamedTuple):
    output: Any  # the stream
    encodes: bool = False  # or copies
    padding_seconds: Fraction = Fraction(0)  # that a Matroska player skips
    is_sound: bool = True


class Tracks:
    """Takes the tracks of a clip over into an output, alongside its frames."""

    def __init__(self, container: OutputContainer, info: ClipInfo, form: Container) -> None:
        assert info.path is not None
        self._container = container
        self._in_matroska = form.muxer in ("matroska", "webm")
        self._start = info.start_seconds
        self._stop = info.stop_seconds
        self._starts_midway = bool(info.indices) and info.indices[0] > 0  # type: ignore[index]
        self._input = av.open(str(info.path.absolute()), metadata_errors="ignore")
        self._tracks: dict[int, _Track] = {}
        self._left_out: Counter[str] = Counter()
        self._encoded: Counter[str] = Counter()
        if info.has_sound:
            for stream in self._input.streams.audio:
                self._add_sound(stream, form)
        if info.has_more_tracks:
            self._add_others(form)
            self._copy_chapters(form)
        streams = [self._input.streams[index] for index in self._tracks]
        self._packets: Iterator[Any] = self._input.demux(*streams) if streams else iter(())
        self._pending: Any = None

    @property
    def left_out(self) -> str:
        """What the output does not have; "" where it has all."""
        return ", ".join(f"{count} {what}" for what, count in self._left_out.items())

    @property
    def encoded(self) -> str:
        """What is encoded anew; "" where all packets stay as they are."""
        return ", ".join(f"{count} {what}" for what, count in self._encoded.items())

    def copy(self, until_seconds: Fraction | None) -> None:
        """Take over all up to this time after the first frame; None: all that is left."""
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
            if track.encodes and track.is_sound:
                self._encode(packet, track.output)
            elif track.encodes:
                self._convert(packet, track)
            else:
                self._copy(packet, track)

    def close(self) -> None:
        self._input.close()

    def _add_sound(self, stream: AudioStream, form: Container) -> None:
        if stream.codec_context is None:
            log.warning("sound of stream %d is of an unknown kind; left out.", stream.index)
            return
        track = _add_sound(self._container, stream, form)
        if track.encodes:
            self._encoded[f"sound track ({_codec_name(stream)})"] += 1
        _describe(track.output, stream)
        self._tracks[stream.index] = track

    def _add_others(self, form: Container) -> None:
        """Subtitles, data and attachments; further pictures are not taken."""
        pictures = 0
        for stream in self._input.streams:
            kind: str = stream.type
            if kind == "video":
                cover = stream.disposition & Disposition.attached_pic
                pictures += not cover
                if cover or pictures > 1:
                    self._left_out["cover picture" if cover else "further video track"] += 1
            elif kind == "attachment":
                self._attach(stream)
            elif kind in ("subtitle", "data"):
                name = _codec_name(stream)
                if kind == "data" and _is_time_code(stream):
                    continue  # written anew, from the tag
                encodes = not _takes(form.muxer, stream)
                if not encodes:
                    output = self._container.add_stream_from_template(stream, opaque=True)
                elif _is_text(stream):
                    output = _add_subtitles(self._container, stream, form)
                    self._encoded[f"subtitle track ({name})"] += 1
                else:
                    self._left_out[f"{kind} track ({name})"] += 1
                    continue
                _describe(output, stream)
                self._tracks[stream.index] = _Track(output, encodes, is_sound=False)

    def _attach(self, stream: Any) -> None:
        name, kind = stream.metadata.get("filename", ""), stream.metadata.get("mimetype", "")
        if self._container.format.name != "matroska" or not hasattr(
            self._container, "add_attachment"
        ):
            self._left_out["attachment"] += 1
            return
        self._container.add_attachment(name, kind, stream.data)

    def _copy_chapters(self, form: Container) -> None:
        chapters = self._input.chapters() if hasattr(self._input, "chapters") else []
        kept = []
        for chapter in chapters:
            base = chapter["time_base"]
            assert base is not None
            shift = round(self._start / base)
            start, end = chapter["start"] - shift, chapter["end"] - shift
            if self._stop is not None:
                end = min(end, round((self._stop - self._start) / base))
            if end > max(start, 0):
                kept.append({**chapter, "start": max(start, 0), "end": end})
        if kept:
            self._container.set_chapters(kept)  # type: ignore[arg-type]

    def _copy(self, packet: Packet[Any], track: _Track) -> None:
        if packet.pts is None or not packet.size:
            return
        time = packet.pts * packet.time_base
        if self._stop is not None and time >= self._stop:
            return
        # Decoders need a packet ahead of the first to be heard. MP4 hides what comes before the
        # first frame; Matroska cannot, and a start half a frame early makes tools repeat a frame.
        if not track.is_sound:
            ahead = Fraction(0)
        elif self._in_matroska:
            ahead = track.padding_seconds + Fraction(5, 1000)
        else:
            ahead = 2 * (packet.duration or 0) * packet.time_base
        cuts = self._in_matroska or self._starts_midway or not track.is_sound
        if cuts and time < self._start - ahead:
            return
        shift = round(self._start / packet.time_base)
        packet.pts -= shift
        packet.dts = packet.pts if packet.dts is None else packet.dts - shift
        packet.stream = track.output
        self._container.mux(packet)

    def _convert(self, packet: Packet[Any], track: _Track) -> None:
        """Subtitles as text of another form."""
        if packet.pts is None or not packet.size:
            return
        try:
            text = packet.stream.codec_context.decode2(packet)
            if not text or not len(text):  # MP4 fills the time between two with empty ones
                return
            converted = track.output.codec_context.encode_subtitle(text)
        except av.FFmpegError:
            log.warning("a damaged subtitle was left out.")
            return
        converted.pts, converted.dts = packet.pts, packet.dts
        converted.duration, converted.time_base = packet.duration, packet.time_base
        self._copy(converted, track)

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


def _describe(output: Any, stream: Any) -> None:
    for key in {"language", "title"} & stream.metadata.keys():
        output.metadata[key] = stream.metadata[key]
    # PyAV 14 takes nothing but the number.
    output.disposition = stream.disposition.value


def _add_sound(container: OutputContainer, stream: AudioStream, form: Container) -> _Track:
    context = stream.codec_context
    stays = form.sounds is None or context.codec.canonical_name in form.sounds
    stays = stays and _takes(form.muxer, stream)
    codec = context.name if stays else form.sound_encoder
    padded = form.muxer in ("matroska", "webm") and codec == "aac" and context.profile == "LC"
    if stays and not (padded and context.extradata):
        return _Track(container.add_stream_from_template(stream))

    num_channels = stream.layout.nb_channels
    rates = av.Codec(codec, "w").audio_rates
    rate = stream.rate if not rates or stream.rate in rates else 48000
    output = container.add_stream(codec, rate=rate)
    assert isinstance(output, AudioStream)
    is_named = num_channels != 1 and "channels" not in stream.layout.name
    layout = stream.layout.name if is_named else _LAYOUTS.get(num_channels)
    if layout is None:
        raise ValueError(
            f"sound of stream {stream.index} has {num_channels} channels without names, which "
            f"{codec} does not encode; write .mkv or .mov, or cut the sound off."
        )
    output.codec_context.layout = layout
    if codec in ("aac", "libopus"):
        output.codec_context.bit_rate = min(96_000, 4 * rate) * num_channels
    if not stays:
        return _Track(output, encodes=True)
    # Copied all the same: only an open encoder tells Matroska of the samples to skip at the start.
    output.codec_context.open()
    output.codec_context.extradata = context.extradata
    return _Track(output, padding_seconds=Fraction(1024, rate))


def _is_text(stream: Any) -> bool:
    """Whether a stream is subtitles of text that PyAV can encode in another form."""
    context = getattr(stream, "codec_context", None)
    return (
        stream.type == "subtitle"
        and context is not None
        and hasattr(context, "encode_subtitle")  # of PyAV 17 and later
        and context.codec.text_sub
    )


def _add_subtitles(container: OutputContainer, stream: Any, form: Container) -> Any:
    decoder = stream.codec_context
    decoder.open(strict=False)  # so that it has the header, with the styles
    output: Any = container.add_stream(form.subtitle_encoder)
    output.codec_context.subtitle_header = decoder.subtitle_header
    output.codec_context.time_base = output.time_base = stream.time_base
    return output


def _takes(muxer: str, stream: Any) -> bool:
    """Whether a container takes packets of a stream as they are; some only say so on writing."""
    try:
        with av.open(io.BytesIO(), "w", format=muxer) as trial:
            trial.add_stream_from_template(stream, opaque=stream.type != "audio" or None)
            trial.start_encoding()
    except (ValueError, av.FFmpegError):
        return False
    return True


def _codec_name(stream: Any) -> str:
    context = getattr(stream, "codec_context", None)
    return str(context.codec.canonical_name) if context is not None else "unknown"


def _is_time_code(stream: Any) -> bool:
    return "timecode" in stream.metadata


def has_more_tracks(container: InputContainer) -> bool:
    """Whether a file has anything but one picture, sound and time code."""
    pictures = len(container.streams.video)
    others = [
        stream
        for stream in container.streams
        if stream.type in ("subtitle", "attachment")
        or (stream.type == "data" and not _is_time_code(stream))
    ]
    chapters = container.chapters() if hasattr(container, "chapters") else []
    return bool(others or chapters or pictures > 1)
