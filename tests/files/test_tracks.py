"""Sound, chapters and the rest beside a picture that is rewritten: what comes over, and when.

Sources are made by ffmpeg, and results are looked at with ffprobe, ffmpeg and PyAV.
"""

import shutil
import subprocess
from fractions import Fraction

import av
import numpy as np
import pytest

from combcn_core.clips.video import open_reader, open_writer

from ..helpers import ffmpeg, probe, streams

pytestmark = pytest.mark.skipif(
    shutil.which("ffmpeg") is None or shutil.which("ffprobe") is None, reason="needs ffmpeg"
)
PICTURE = ["-f", "lavfi", "-i", "testsrc2=size=32x32:rate=25:duration=2"]
VIDEO = ["-c:v", "libx264", "-preset", "ultrafast"]


def sound(path):
    """(samples, channels) of the first track, as ffmpeg hears it: float32."""
    channels = streams(path, "audio")[0]["channels"]
    command = ["ffmpeg", "-v", "error", "-i", str(path), "-map", "0:a:0", "-f", "f32le", "-"]
    data = subprocess.run(command, capture_output=True, check=True, timeout=120).stdout
    return np.frombuffer(data, "<f4").reshape(-1, channels)


def rewrite(source, output, frames=None):
    reader = open_reader(source, frames=frames)
    with reader, open_writer(output, reader.info) as writer:
        for frame in reader:
            writer.write(frame.pixels)
    return output


def packets(path, kind="audio"):
    """(seconds, bytes) of the packets of the first track of a kind."""
    with av.open(str(path)) as container:
        stream = next(stream for stream in container.streams if stream.type == kind)
        return [(p.pts * p.time_base, bytes(p)) for p in container.demux(stream) if p.size]


@pytest.mark.parametrize(
    ("channels", "layout"),
    [(1, "mono"), (2, "stereo"), (4, "4.0"), (5, "5.0"), (6, "5.1"), (8, "7.1")],
)
def test_channels_without_names_get_the_usual_ones(tmp_path, channels, layout):
    """AVI counts channels but does not name them; each is a tone of its own."""
    tones = "|".join(f"0.3*sin({220 * n}*2*PI*t)" for n in range(1, channels + 1))
    ffmpeg(
        *PICTURE, "-f", "lavfi", "-i", f"aevalsrc={tones}:s=48000:d=2", "-c:v", "mpeg4",
        "-c:a", "pcm_mulaw", "-t", "0.4", tmp_path / "a.avi",
    )  # fmt: skip
    written = rewrite(tmp_path / "a.avi", tmp_path / "b.mkv")
    (track,) = streams(written, "audio")
    assert (track["channels"], track["channel_layout"]) == (channels, layout)
    found, given = sound(written), sound(tmp_path / "a.avi")
    assert np.array_equal(found[: len(given)], given)  # FLAC, which loses nothing


@pytest.mark.parametrize("layout", ["quad", "5.1(side)", "2.1", "mono"])
def test_channels_with_names_keep_them(tmp_path, layout):
    ffmpeg(
        *PICTURE, "-f", "lavfi", "-i",
        f"anoisesrc=seed=1:sample_rate=48000:duration=0.4,aformat=channel_layouts={layout}",
        "-t", "0.4", *VIDEO, "-c:a", "flac", tmp_path / "a.mkv",
    )  # fmt: skip
    written = rewrite(tmp_path / "a.mkv", tmp_path / "b.mov")
    (track,) = streams(written, "audio")
    assert (track["codec_name"], track["channel_layout"]) == ("pcm_s24le", layout)
    assert np.array_equal(sound(written), sound(tmp_path / "a.mkv"))


@pytest.mark.parametrize(("rate", "channels", "kilobits"), [(48000, 2, 192), (16000, 1, 64)])
def test_sound_that_is_encoded_has_enough_bits_and_no_more(tmp_path, rate, channels, kilobits):
    ffmpeg(
        *PICTURE, "-f", "lavfi", "-i", f"anoisesrc=seed=1:sample_rate={rate}:duration=2",
        *VIDEO, "-c:a", "pcm_s16le", "-ac", channels, tmp_path / "a.mkv",
    )  # fmt: skip
    written = rewrite(tmp_path / "a.mkv", tmp_path / "b.mp4")
    assert streams(written, "audio")[0]["codec_name"] == "aac"
    bits = 8 * sum(len(data) for _, data in packets(written))
    assert bits / 2000 == pytest.approx(kilobits, rel=0.15)


def test_sound_of_a_range_that_is_encoded_begins_with_its_first_frame(tmp_path):
    ffmpeg(
        *PICTURE, "-f", "lavfi", "-i", "anoisesrc=seed=1:sample_rate=48000:duration=2",
        *VIDEO, "-c:a", "flac", tmp_path / "a.mkv",
    )  # fmt: skip
    given = sound(tmp_path / "a.mkv")
    for first, last in ((0, 49), (13, 30), (30, 49)):
        written = rewrite(tmp_path / "a.mkv", tmp_path / "b.mov", (first, last))
        assert streams(written, "audio")[0]["codec_name"].startswith("pcm_s")
        found = sound(written)
        # The packets of the source, of up to 0.1 s, are not cut: the first begins within one.
        start = min(
            range(max(0, 1920 * first - 5000), 1920 * first + 5000),
            key=lambda at: np.abs(found[:500] - given[at : at + 500][: len(found)]).sum()
            if at + 500 <= len(given) else np.inf,
        )  # fmt: skip
        assert np.array_equal(found, given[start : start + len(found)])
        (time, _), *_ = packets(written)
        # In time on the clock of the result, whose source has milliseconds.
        assert abs(time - (Fraction(start, 48000) - Fraction(first, 25))) <= Fraction(1, 1000)
        assert abs(start - 1920 * first) < 4800
        assert abs(start + len(found) - 1920 * (last + 1)) < 4800


def test_sound_of_a_rate_that_an_encoder_does_not_take(tmp_path):
    ffmpeg(
        *PICTURE, "-f", "lavfi", "-i", "sine=500:sample_rate=11025:duration=2", *VIDEO,
        "-c:a", "pcm_s16le", tmp_path / "a.mkv",
    )  # fmt: skip
    written = rewrite(tmp_path / "a.mkv", tmp_path / "b.webm")
    (track,) = streams(written, "audio")
    assert (track["codec_name"], track["sample_rate"]) == ("opus", "48000")
    found = sound(written)[:, 0]
    assert len(found) == pytest.approx(2 * 48000, abs=2000)
    power = np.abs(np.fft.rfft(found[24000:72000]))  # a second: each step is 1 Hz
    assert power.argmax() == pytest.approx(500, abs=1)


@pytest.mark.parametrize("ending", [".mp4", ".mov"])
def test_sound_ahead_of_the_picture_stays_in_a_whole_clip(tmp_path, ending):
    """A player that shows the first frame late still has all that is heard before it."""
    ffmpeg(
        "-f", "lavfi", "-i", "sine=440:sample_rate=48000:duration=2.5", "-itsoffset", "0.5",
        *PICTURE, "-map", "0", "-map", "1", *VIDEO, "-c:a", "aac", tmp_path / "a.mkv",
    )  # fmt: skip
    written = rewrite(tmp_path / "a.mkv", tmp_path / f"b{ending}")
    given, found = packets(tmp_path / "a.mkv"), packets(written)
    assert [data for _, data in found] == [data for _, data in given]
    first = packets(tmp_path / "a.mkv", "video")[0][0], packets(written, "video")[0][0]
    for (before, _), (after, _) in zip(given, found, strict=True):
        assert abs((after - first[1]) - (before - first[0])) <= Fraction(1, 1000)
    # Of a part, what is before its first frame goes.
    middle = packets(rewrite(tmp_path / "a.mkv", tmp_path / f"c{ending}", (25, 49)))
    assert len(middle) == pytest.approx(47, abs=4)


@pytest.mark.parametrize("ending", [".mp4", ".mkv", ".mov"])
def test_copied_sound_keeps_what_its_decoder_needs(tmp_path, ending):
    ffmpeg(
        *PICTURE, "-f", "lavfi", "-i", "sine=440:sample_rate=44100:duration=2", *VIDEO,
        "-c:a", "aac", "-ac", "2", "-metadata:s:a:0", "title=Atmosphere",
        "-metadata:s:a:0", "language=fin", tmp_path / "a.mkv",
    )  # fmt: skip
    written = rewrite(tmp_path / "a.mkv", tmp_path / f"b{ending}")
    extra = []
    for path in (tmp_path / "a.mkv", written):
        with av.open(str(path)) as container:
            context = container.streams.audio[0].codec_context
            extra.append((bytes(context.extradata)[:2], context.sample_rate, context.channels))
    assert extra[0] == extra[1]
    (track,) = streams(written, "audio")
    tags = {key.lower(): value for key, value in track["tags"].items()}
    assert tags["language"] == "fin"
    if ending == ".mkv":
        assert tags["title"] == "Atmosphere"


def test_damaged_sound_is_left_out_and_said(tmp_path, caplog):
    ffmpeg(
        *PICTURE, "-f", "lavfi", "-i", "anoisesrc=seed=1:sample_rate=48000:duration=2",
        *VIDEO, "-c:a", "flac", tmp_path / "a.mkv",
    )  # fmt: skip
    data, sounds = (tmp_path / "a.mkv").read_bytes(), packets(tmp_path / "a.mkv")
    _, packet = sounds[len(sounds) // 2]
    assert data.count(packet) == 1
    (tmp_path / "a.mkv").write_bytes(data.replace(packet, bytes(len(packet))))
    written = rewrite(tmp_path / "a.mkv", tmp_path / "b.mov")
    assert caplog.text.count("a damaged packet of sound was left out") == 1
    assert len(sound(written)) > 48000
    with open_reader(written) as reader:
        assert reader.info.num_frames == 50


CHAPTERS = ((0, 500, "One"), (500, 1500, "Two"), (1500, 2000, "Three"))


@pytest.mark.parametrize(
    ("frames", "expected"),
    [
        (None, [(0, 0.5, "One"), (0.5, 1.5, "Two"), (1.5, 2, "Three")]),
        ((5, 24), [(0, 0.3, "One"), (0.3, 0.8, "Two")]),
        ((13, 36), [(0, 0.96, "Two")]),
        ((38, 49), [(0, 0.48, "Three")]),
    ],
)
@pytest.mark.parametrize("late", [0, 1])
def test_chapters_of_a_range_begin_and_end_with_it(tmp_path, frames, expected, late):
    text = ";FFMETADATA1\n" + "".join(
        f"[CHAPTER]\nTIMEBASE=1/1000\nSTART={start + 1000 * late}\nEND={end + 1000 * late}\n"
        f"title={title}\n"
        for start, end, title in CHAPTERS
    )
    (tmp_path / "a.txt").write_text(text)
    offset = ["-itsoffset", late, *PICTURE] if late else PICTURE
    ffmpeg(
        *offset, "-i", tmp_path / "a.txt", "-map_metadata", "1", "-map_chapters", "1",
        "-copyts", *VIDEO, tmp_path / "a.mkv",
    )  # fmt: skip
    written = rewrite(tmp_path / "a.mkv", tmp_path / "b.mkv", frames)
    found = [
        (float(one["start_time"]), float(one["end_time"]), one["tags"]["title"])
        for one in probe(written, "-show_chapters")["chapters"]
    ]
    assert [title for *_, title in found] == [title for *_, title in expected]
    for one, other in zip(found, expected, strict=True):
        assert one[:2] == pytest.approx(other[:2], abs=0.002)


def test_pictures_beside_the_clip_are_left_out_and_counted(tmp_path, caplog):
    ffmpeg("-f", "lavfi", "-i", "color=red:size=48x48", "-frames:v", "1", tmp_path / "c.png")
    ffmpeg(
        *PICTURE, *PICTURE, *PICTURE, "-i", tmp_path / "c.png", "-map", "0", "-map", "1",
        "-map", "2", "-map", "3", *VIDEO, "-c:v:3", "png", "-disposition:v:3", "attached_pic",
        tmp_path / "a.mp4",
    )  # fmt: skip
    written = rewrite(tmp_path / "a.mp4", tmp_path / "b.mp4")
    said = [record.message for record in caplog.records if "not taken over" in record.message]
    assert len(said) == 1
    assert "2 further video track, 1 cover picture" in said[0]
    assert len(streams(written, "video")) == 1


@pytest.mark.parametrize("ending", [".mp4", ".mkv", ".mov"])
def test_what_is_taken_over_is_not_said_to_be_lost(tmp_path, caplog, ending):
    ffmpeg(
        *PICTURE, "-f", "lavfi", "-i", "sine=440:sample_rate=48000:duration=2", *VIDEO,
        "-c:a", "aac", "-metadata", "timecode=01:00:00:00", tmp_path / "a.mov",
    )  # fmt: skip
    caplog.set_level("INFO", "combcn")
    rewrite(tmp_path / "a.mov", tmp_path / f"b{ending}")
    assert caplog.text == ""
