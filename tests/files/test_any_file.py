"""Any file in, the same file out: what people sent to other tools, made here by ffmpeg.

What comes out is looked at with ffprobe and ffmpeg, which share nothing with the reader of CombCN.
"""

import contextlib
import os
import shutil
import struct
import subprocess
import sys
from dataclasses import replace
from fractions import Fraction

import av
import cv2
import numpy as np
import pytest

from combcn_core import inpaint_file
from combcn_core.clips.formats import CODECS, CONTAINERS
from combcn_core.clips.video import ClipInfo, open_reader, open_writer
from combcn_core.clips.write import usual_priority

from ..helpers import ffmpeg, probe, streams

pytestmark = pytest.mark.skipif(
    shutil.which("ffmpeg") is None or shutil.which("ffprobe") is None, reason="needs ffmpeg"
)
PICTURE = ["-f", "lavfi", "-i", "testsrc2=size=64x48:rate=25:duration=0.4"]
HDR10 = "master-display=G(8500,39850)B(6550,2300)R(35400,14600)WP(15635,16450)L(10000000,50)"


def first_frame(path):
    return probe(path, "-select_streams", "v:0", "-show_frames", "-read_intervals", "%+#1")[
        "frames"
    ][0]


def raw(path, pixel_format):
    """All frames of a file, as ffmpeg decodes them: bytes."""
    command = ["ffmpeg", "-v", "error", "-i", str(path), "-f", "rawvideo"]
    command += ["-pix_fmt", pixel_format, "-"]
    return subprocess.run(command, capture_output=True, check=True, timeout=120).stdout


def sound(path):
    """The first track of sound as ffmpeg hears it: (samples, channels) in [-1, 1]."""
    channels = streams(path, "audio")[0]["channels"]
    command = ["ffmpeg", "-v", "error", "-i", str(path), "-map", "0:a:0", "-f", "f32le", "-"]
    data = subprocess.run(command, capture_output=True, check=True, timeout=120).stdout
    return np.frombuffer(data, "<f4").reshape(-1, channels)


def rewrite(source, output, frames=None, **writing):
    """A clip read and written, with nothing changed."""
    reader = open_reader(source, frames=frames)
    with reader, open_writer(output, reader.info, **writing) as writer:
        for frame in reader:
            writer.write(frame.pixels)
    return output


def remove(source, output, **settings):
    """An object removed from a clip, with a mask that is quick to fill."""
    report = inpaint_file(source, "4,4,8,8", output, **settings)
    lossless = output.is_dir() or output.suffix == ".mkv"
    assert report.changed_outside_mask == (0 if lossless else None)
    return output


# 1, 2: sound


@pytest.mark.parametrize("output", ["b.mp4", "b.mkv", "b.mov", "b.webm"])
@pytest.mark.parametrize(
    ("name", "codec", "channels"),
    [
        ("a.avi", "pcm_s16le", 2),
        ("a.avi", "pcm_s16le", 6),
        ("a.mkv", "pcm_s24le", 2),
        ("a.mxf", "pcm_s24le", 2),
    ],
)
def test_sound_without_channel_layout(tmp_path, name, codec, channels, output):
    picture = "mpeg2video" if name == "a.mxf" else "ffv1" if name == "a.mkv" else "mpeg4"
    tone = "|".join(["0.5*sin(440*2*PI*t)"] * channels)
    ffmpeg(
        *PICTURE, "-f", "lavfi", "-i", f"aevalsrc={tone}:s=48000:d=0.4",
        "-c:v", picture, "-c:a", codec, "-shortest", tmp_path / name,
    )  # fmt: skip
    written = rewrite(tmp_path / name, tmp_path / output)
    after = sound(written)
    assert after.shape[1] == channels
    level = np.sqrt((after[4800:14400] ** 2).mean())
    # Half a sine is 0.354; noise, or the samples of one codec read as another's, is not. Opus
    # takes one of six channels for a bass.
    assert level == pytest.approx(0.354, rel=0.02 if channels == 2 else 0.2)


def test_sound_in_mp4_is_one_that_players_know(tmp_path):
    ffmpeg(
        *PICTURE, "-f", "lavfi", "-i", "sine=440:sample_rate=48000:duration=0.4",
        "-c:v", "libx264", "-c:a", "pcm_s24le", "-shortest", tmp_path / "a.mov",
    )  # fmt: skip
    written = rewrite(tmp_path / "a.mov", tmp_path / "b.mp4")
    assert streams(written, "audio")[0]["codec_name"] == "aac"
    kept = rewrite(tmp_path / "a.mov", tmp_path / "b.mov")
    assert streams(kept, "audio")[0]["codec_name"] == "pcm_s24le"
    assert np.array_equal(sound(kept), sound(tmp_path / "a.mov"))


def test_sound_that_cannot_be_written_is_refused_before_the_first_frame(tmp_path):
    tone = "|".join(["0.1*sin(440*2*PI*t)"] * 12)
    ffmpeg(
        *PICTURE, "-f", "lavfi", "-i", f"aevalsrc={tone}:s=48000:d=0.4",
        "-c:v", "mpeg4", "-c:a", "pcm_s16le", "-shortest", tmp_path / "a.avi",
    )  # fmt: skip
    info = open_reader(tmp_path / "a.avi").info
    with pytest.raises(ValueError, match=r"has 12 channels .* write \.mkv or \.mov"):
        open_writer(tmp_path / "b.mp4", info)
    assert os.listdir(tmp_path) == ["a.avi"]


# 3: HDR


def hdr10(path, codec="libx265"):
    ffmpeg(
        *PICTURE, "-pix_fmt", "yuv420p10le", "-c:v", codec,
        "-color_primaries", "bt2020", "-color_trc", "smpte2084", "-colorspace", "bt2020nc",
        "-x265-params", f"log-level=none:hdr10=1:{HDR10}:max-cll=1000,400:"
        "colorprim=bt2020:transfer=smpte2084:colormatrix=bt2020nc", path,
    )  # fmt: skip
    return path


@pytest.mark.parametrize(
    ("output", "codec"),
    [
        ("b.mp4", "h264"),
        ("b.mp4", "hevc"),
        ("b.mp4", "av1"),
        ("b.mkv", "ffv1"),
        ("b.mkv", "hevc"),
        ("b.mov", "prores"),
        ("b.webm", "av1"),
    ],
)
def test_hdr10_stays_hdr10(tmp_path, output, codec):
    source = hdr10(tmp_path / "a.mp4")
    written = rewrite(source, tmp_path / output, codec=codec)
    (stream,) = streams(written)
    frame = first_frame(written)
    assert stream["avg_frame_rate"] == "25/1"
    assert probe(written, "-count_frames", "-show_entries", "stream=nb_read_frames")["streams"][0][
        "nb_read_frames"
    ] == "10"  # fmt: skip
    assert stream["color_transfer"] == "smpte2084"
    assert stream["color_primaries"] == "bt2020"
    sides = {
        side["side_data_type"]: side
        for side in [*frame.get("side_data_list", []), *stream.get("side_data_list", [])]
    }
    display = sides["Mastering display metadata"]
    values = {key: float(Fraction(value)) for key, value in display.items() if "/" in str(value)}
    assert values["green_y"] == pytest.approx(0.797, abs=1e-4)
    assert values["red_x"] == pytest.approx(0.708, abs=1e-4)
    assert values["white_point_x"] == pytest.approx(0.3127, abs=1e-4)
    assert values["max_luminance"] == pytest.approx(1000, rel=1e-3)
    assert values["min_luminance"] == pytest.approx(0.005, abs=1e-4)
    light = sides["Content light level metadata"]
    assert (light["max_content"], light["max_average"]) == (1000, 400)


@pytest.mark.parametrize("transfer", ["smpte2084", "arib-std-b67", "bt709"])
def test_prores_frames_say_their_transfer(tmp_path, transfer):
    primaries, matrix = ("bt709", "bt709") if transfer == "bt709" else ("bt2020", "bt2020nc")
    ffmpeg(
        *PICTURE, "-vf", f"setparams=color_primaries={primaries}:color_trc={transfer}:"
        f"colorspace={matrix}:range=tv", "-pix_fmt", "yuv422p10le", "-c:v", "prores_ks",
        "-color_primaries", primaries, "-color_trc", transfer, "-colorspace", matrix,
        tmp_path / "a.mov",
    )  # fmt: skip
    written = rewrite(tmp_path / "a.mov", tmp_path / "b.mov")
    again = rewrite(written, tmp_path / "c.mov")
    for path in (written, again):
        # In the header of the frame: bytes 14, 15 and 16 after its name.
        data = path.read_bytes()
        header = data.index(b"icpf") + 4
        codes = {"bt709": 1, "bt2020": 9, "bt2020nc": 9, "smpte2084": 16, "arib-std-b67": 18}
        assert tuple(data[header + 14 : header + 17]) == (
            *(codes[primaries], codes[transfer], codes[matrix]),
        )
        assert first_frame(path)["color_transfer"] == transfer


# 4: the last frame


@pytest.mark.parametrize("output", ["b.mp4", "b.mkv", "b.mov", "b.webm"])
@pytest.mark.parametrize("rate", ["cfr", "vfr"])
@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_last_frame_is_held_as_long(tmp_path, name, rate, output):
    times = [0, 40, 80, 120] if rate == "cfr" else [0, 40, 130, 170]
    with av.open(str(tmp_path / name), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"bf": "0"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        frames = []
        for index, time in enumerate(times):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 50 * index, np.uint8), "rgb24")
            frame.pts, frame.time_base = time, Fraction(1, 1000)
            frames += stream.encode(frame)
        frames += stream.encode(None)
        for packet, time, after in zip(frames, times, [*times[1:], 3960], strict=True):
            packet.duration = round(Fraction(after - time, 1000) / packet.time_base)
            container.mux(packet)
    seconds = float(probe(tmp_path / name, "-show_format")["format"]["duration"])
    assert seconds == pytest.approx(3.96, abs=0.002)
    for source in (tmp_path / name, rewrite(tmp_path / name, tmp_path / output)):
        written = rewrite(source, tmp_path / f"c{source.name}{output[1:]}")
        seconds = float(probe(written, "-show_format")["format"]["duration"])
        assert seconds == pytest.approx(3.96, abs=0.003), written.name


# 6: alpha


def with_alpha(path, *arguments):
    """A film that is opaque on the left and half transparent on the right."""
    alpha = "geq=lum='p(X,Y)':cb='p(X,Y)':cr='p(X,Y)':a='if(lt(X,32),255,128)'"
    ffmpeg(*PICTURE, "-vf", f"format=yuva444p,{alpha}", *arguments, path)
    return path


@pytest.mark.parametrize(
    "source",
    [
        ("a.mov", "-pix_fmt", "yuva444p10le", "-c:v", "prores_ks", "-profile:v", "4444"),
        ("a.mkv", "-pix_fmt", "bgra", "-c:v", "ffv1"),
        ("a.webm", "-pix_fmt", "yuva420p", "-c:v", "libvpx-vp9", "-crf", "10", "-b:v", "0"),
    ],
)
@pytest.mark.parametrize("output", ["b.mov", "b.mkv", "b.webm", "b"])
def test_alpha_of_video_stays(tmp_path, source, output):
    name, *arguments = source
    with_alpha(tmp_path / name, *arguments)
    if (name, output) == ("a.mov", "b.webm"):
        pytest.skip("10 bits with alpha: no codec of .webm has both")
    written = remove(tmp_path / name, tmp_path / output)
    if output == "b":
        image = cv2.imread(str(written / "000003.png"), cv2.IMREAD_UNCHANGED)
        alpha = image[..., 3].astype(float) / np.iinfo(image.dtype).max
    else:
        decoder = ["-c:v", "libvpx-vp9"] if output == "b.webm" else []
        command = ["ffmpeg", "-v", "error", *decoder, "-i", str(written), "-f", "rawvideo"]
        command += ["-pix_fmt", "rgba", "-"]
        data = subprocess.run(command, capture_output=True, check=True, timeout=120).stdout
        alpha = np.frombuffer(data, np.uint8).reshape(-1, 48, 64, 4)[3, ..., 3] / 255
    assert alpha[:, :28].mean() == pytest.approx(1, abs=0.01)
    assert alpha[:, 36:].mean() == pytest.approx(128 / 255, abs=0.01)
    # The hole, too, is as transparent as it was.
    assert alpha[4:12, 4:12].min() > 0.98


def test_alpha_that_is_dropped_is_said_so(tmp_path, caplog):
    source = with_alpha(tmp_path / "a.mkv", "-pix_fmt", "bgra", "-c:v", "ffv1")
    rewrite(source, tmp_path / "b.mp4")
    assert "has alpha, which h264 in b.mp4 does not keep; it is left out" in caplog.text


# 7: interlaced


@pytest.mark.parametrize("order", ["tff", "bff"])
@pytest.mark.parametrize(
    ("name", "codec"),
    [("a.mp4", "libx264"), ("a.mov", "prores_ks"), ("a.mkv", "ffv1"), ("a.ts", "mpeg2video")],
)
@pytest.mark.parametrize("output", ["b.mp4", "b.mkv", "b.mov"])
def test_interlaced_stays_interlaced(tmp_path, caplog, name, codec, order, output):
    sampling = "yuv422p10le" if codec == "prores_ks" else "yuv420p"
    options = {"libx264": ["-x264-params", f"{order}=1"]}.get(codec, [])
    ffmpeg(
        "-f", "lavfi", "-i", "testsrc2=size=64x48:rate=50:duration=0.4",
        "-vf", f"interlace=scan={order},setfield={order}", "-pix_fmt", sampling, "-c:v", codec,
        "-flags", "+ildct+ilme", *options, "-field_order", {"tff": "tt", "bff": "bb"}[order],
        tmp_path / name,
    )  # fmt: skip
    written = rewrite(tmp_path / name, tmp_path / output)
    frame = first_frame(written)
    assert frame["interlaced_frame"] == 1
    assert frame["top_field_first"] == (order == "tff")
    assert streams(written)[0]["field_order"] == {"tff": "tt", "bff": "bb"}[order]
    assert "is interlaced: its frames are filled as whole ones" in caplog.text


def in_fields(path, height):
    ffmpeg(
        "-f", "lavfi", "-i", "testsrc2=size=64x48:rate=25:duration=0.4",
        "-vf", f"format=yuv444p,crop=64:{height},setfield=tff", "-c:v", "ffv1",
        "-flags", "+ildct+ilme", "-field_order", "tt", path,
    )  # fmt: skip
    return path


def test_interlaced_h264_of_a_height_that_fields_cannot_share(tmp_path):
    """486 rows, as of NTSC, are two fields of 243: 4:2:0 has no colour for half a row."""
    written = rewrite(in_fields(tmp_path / "a.mkv", 46), tmp_path / "b.mp4")
    stream, frame = streams(written)[0], first_frame(written)
    assert (stream["width"], stream["height"], stream["pix_fmt"]) == (64, 46, "yuv422p")
    assert frame["interlaced_frame"] == frame["top_field_first"] == 1
    assert int(stream["nb_frames"]) == 10


def test_interlaced_h264_of_an_odd_height_is_refused_with_the_reason(tmp_path):
    with pytest.raises(ValueError, match=r"whose height is even, but the clip has 45 rows; write"):
        rewrite(in_fields(tmp_path / "a.mkv", 45), tmp_path / "b.mp4")
    assert not (tmp_path / "b.mp4").exists()


def test_colors_of_interlaced_frames_stay_in_their_fields(tmp_path):
    """Two fields of one colour each, as a flash between them makes: no colour creeps across."""
    ffmpeg(
        "-f", "lavfi", "-i", "color=red:size=64x48:rate=25:duration=0.2",
        "-f", "lavfi", "-i", "color=blue:size=64x48:rate=25:duration=0.2",
        "-filter_complex",
        "[0]format=yuv420p,field=top[a];[1]format=yuv420p,field=bottom[b];"
        "[a][b]interleave,weave=first_field=top,setfield=tff",
        "-c:v", "ffv1", "-pix_fmt", "yuv420p", tmp_path / "a.mkv",
    )  # fmt: skip
    with open_reader(tmp_path / "a.mkv") as reader:
        pixels = next(iter(reader)).pixels.astype(int)
    assert np.abs(pixels[0::2] - (255, 0, 0)).max() <= 4
    assert np.abs(pixels[1::2] - (0, 0, 255)).max() <= 4


# 8: what there is besides


SUBTITLES = "1\n00:00:00,000 --> 00:00:00,200\nHello\n\n2\n00:00:00,240 --> 00:00:00,360\nWorld\n"
CHAPTERS = (
    ";FFMETADATA1\n[CHAPTER]\nTIMEBASE=1/1000\nSTART=0\nEND=200\ntitle=One\n"
    "[CHAPTER]\nTIMEBASE=1/1000\nSTART=200\nEND=400\ntitle=Two\n"
)


def everything(folder, name, subtitles):
    (folder / "a.srt").write_text(SUBTITLES)
    (folder / "a.txt").write_text(CHAPTERS)
    (folder / "font.ttf").write_bytes(b"not a font" * 9)
    attach = ["-attach", folder / "font.ttf", "-metadata:s:t", "mimetype=font/ttf"]
    ffmpeg(
        *PICTURE, "-i", folder / "a.srt", "-i", folder / "a.txt", "-map", "0", "-map", "1",
        "-map_metadata", "2", "-c:v", "libx264", "-c:s", subtitles,
        *(attach if name.endswith(".mkv") else []),
        "-metadata:s:s:0", "language=fin", folder / name,
    )  # fmt: skip
    return folder / name


def test_subtitles_chapters_and_attachments_stay(tmp_path):
    source = everything(tmp_path, "a.mkv", "srt")
    written = rewrite(source, tmp_path / "b.mkv")
    (track,) = streams(written, "subtitle")
    assert (track["codec_name"], track["tags"]["language"]) == ("subrip", "fin")
    ffmpeg("-i", written, tmp_path / "b.srt")
    assert (tmp_path / "b.srt").read_text() == (tmp_path / "a.srt").read_text() + "\n"
    chapters = probe(written, "-show_chapters")["chapters"]
    assert [chapter["tags"]["title"] for chapter in chapters] == ["One", "Two"]
    assert [float(chapter["start_time"]) for chapter in chapters] == [0, 0.2]
    (attached,) = streams(written, "attachment")
    assert attached["tags"] == {"filename": "font.ttf", "mimetype": "font/ttf"}
    with av.open(str(written)) as container:
        (font,) = container.streams.attachments
        assert font.data == b"not a font" * 9


def test_subtitles_of_a_range_are_in_time(tmp_path):
    source = everything(tmp_path, "a.mp4", "mov_text")
    written = rewrite(source, tmp_path / "b.mp4", frames=(5, 9))
    ffmpeg("-i", written, tmp_path / "b.srt")
    assert "00:00:00,040 --> 00:00:00,160\nWorld" in (tmp_path / "b.srt").read_text()
    assert "Hello" not in (tmp_path / "b.srt").read_text()
    (chapter,) = probe(written, "-show_chapters")["chapters"]
    assert chapter["tags"]["title"] == "Two"


@pytest.mark.parametrize(
    ("name", "subtitles", "output", "converted"),
    [
        ("a.mkv", "srt", "b.mp4", "mov_text"),
        ("a.mkv", "ass", "b.mov", "mov_text"),
        ("a.mp4", "mov_text", "b.mkv", "subrip"),
        ("a.mkv", "srt", "b.webm", "webvtt"),
    ],
)
def test_text_subtitles_become_what_the_container_takes(
    tmp_path, caplog, name, subtitles, output, converted
):
    caplog.set_level("INFO", "combcn")
    source = everything(tmp_path, name, subtitles)
    written = rewrite(source, tmp_path / output)
    (track,) = streams(written, "subtitle")
    assert (track["codec_name"], track["tags"]["language"]) == (converted, "fin")
    ffmpeg("-i", written, tmp_path / "b.srt")
    assert (tmp_path / "b.srt").read_text() == (tmp_path / "a.srt").read_text() + "\n"
    named = "subrip" if subtitles == "srt" else subtitles
    assert f"1 subtitle track ({named}) of {source} encoded anew" in caplog.text
    middle = rewrite(source, tmp_path / f"c{output[1:]}", frames=(5, 9))
    ffmpeg("-i", middle, tmp_path / "c.srt")
    text = (tmp_path / "c.srt").read_text()
    assert "00:00:00,040 --> 00:00:00,160\nWorld" in text
    assert "Hello" not in text


def picture_subtitles(folder):
    """A clip with a font, and a track of Blu-ray subtitles that shows nothing."""
    composition = struct.pack(">HHBHBBBB", 64, 48, 0x10, 0, 0x80, 0, 0, 0)
    segments = [(0x16, composition), (0x80, b"")]
    (folder / "a.sup").write_bytes(
        b"".join(
            struct.pack(">2sIIBH", b"PG", 9000, 0, kind, len(data)) + data
            for kind, data in segments
        )
    )
    ffmpeg(
        *PICTURE, "-i", folder / "a.sup", "-map", "0", "-map", "1", "-c:v", "libx264",
        "-c:s", "copy", "-attach", folder / "font.ttf", "-metadata:s:t", "mimetype=font/ttf",
        folder / "a.mkv",
    )  # fmt: skip
    return folder / "a.mkv"


def test_what_the_container_does_not_take_is_said(tmp_path, caplog):
    """Pictures of subtitles cannot become text."""
    (tmp_path / "font.ttf").write_bytes(b"not a font" * 9)
    source = picture_subtitles(tmp_path)
    written = rewrite(source, tmp_path / "b.mp4")
    said = [record.message for record in caplog.records if "not taken over" in record.message]
    assert len(said) == 1
    assert "1 subtitle track (hdmv_pgs_subtitle)" in said[0]
    assert "1 attachment" in said[0]
    assert streams(written, "subtitle") == []
    kept = rewrite(source, tmp_path / "b.mkv")
    assert [track["codec_name"] for track in streams(kept, "subtitle")] == ["hdmv_pgs_subtitle"]


# 11: the choice of output


@pytest.mark.parametrize(
    ("ending", "codec"), [(end, codec) for end, form in CONTAINERS.items() for codec in form.codecs]
)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_codec_is_what_was_asked_for(tmp_path, ending, codec, dtype):
    info = ClipInfo(64, 48, Fraction(24), dtype)
    path = tmp_path / f"b{ending}"
    if codec == "vp9" and dtype == np.uint16:
        formats = [form.name for form in av.Codec("libvpx-vp9", "w").video_formats]
        if "yuv420p10le" not in formats:
            with pytest.raises(ValueError, match="vp9, which this build of PyAV does not encode"):
                open_writer(path, info, codec=codec)
            assert os.listdir(tmp_path) == []
            return
    picture = np.linspace(0, np.iinfo(dtype).max, 64).astype(dtype)
    with open_writer(path, info, codec=codec) as writer:
        for _ in range(3):
            writer.write(np.broadcast_to(picture[None, :, None], (48, 64, 3)))
    (stream,) = streams(path)
    assert stream["codec_name"] == codec
    deep = "16" if codec == "ffv1" else "10"
    assert (deep in stream["pix_fmt"]) == (dtype == np.uint16 or codec == "prores")
    gray = np.frombuffer(raw(path, "gray16le"), "<u2").reshape(3, 48, 64)[1, 24]
    expected = picture / np.iinfo(dtype).max * 65535
    assert np.abs(gray - expected).max() < 0.02 * 65535


@pytest.mark.parametrize("codec", [name for name, codec in CODECS.items() if codec.crf is not None])
def test_quality_makes_smaller_or_better_files(tmp_path, codec):
    noise = np.random.default_rng(0).integers(0, 255, (4, 48, 64, 3), np.uint8)
    sizes = []
    for quality in (1, 40):
        path = tmp_path / f"{quality}.mkv"
        info = ClipInfo(64, 48, Fraction(24))
        with open_writer(path, info, codec=codec, quality=quality) as writer:
            for frame in noise:
                writer.write(frame)
        sizes.append(path.stat().st_size)
    assert sizes[0] > sizes[1]


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("b.mp4", {"codec": "prores"}, r"codec is prores but .mp4 .* or write .mkv or .mov"),
        ("b.mov", {"codec": "mjpeg"}, "codec is mjpeg but .mov files are written with prores"),
        ("b.mkv", {"quality": 5}, "quality is 5 but ffv1 has none to choose"),
        (
            "b.mp4",
            {"quality": 60},
            r"quality is 60, but that of h264 \(CRF\) goes from 0, the best",
        ),
        ("b", {"codec": "h264"}, "codec is h264 but output .* is a folder of images"),
    ],
)
def test_output_that_cannot_be_is_refused_before_the_start(tmp_path, name, settings, message):
    with pytest.raises(ValueError, match=message):
        open_writer(tmp_path / name, ClipInfo(64, 48, Fraction(24)), **settings)
    assert os.listdir(tmp_path) == []


def test_deep_clips_go_into_webm_with_all_their_bits(tmp_path):
    info = ClipInfo(64, 48, Fraction(24), np.dtype(np.uint16))
    with open_writer(tmp_path / "b.webm", info) as writer:
        writer.write(np.full((48, 64, 3), 40000, np.uint16))
    (stream,) = streams(tmp_path / "b.webm")
    assert stream["pix_fmt"] == "yuv420p10le"


def test_same_clip_twice_is_the_same_file(tmp_path):
    """Nothing random and no date in the file; the encoders with threads are exact too."""
    info = ClipInfo(64, 48, Fraction(24))
    for ending, form in CONTAINERS.items():
        for codec in form.codecs:
            for name in ("a", "b"):
                with open_writer(tmp_path / f"{name}{ending}", info, codec=codec) as writer:
                    for index in range(3):
                        writer.write(np.full((48, 64, 3), 60 * index, np.uint8))
            first, second = ((tmp_path / f"{name}{ending}").read_bytes() for name in ("a", "b"))
            assert first == second, (ending, codec)


def test_info_of_a_clip_from_memory_needs_nothing_new():
    assert replace(ClipInfo(2, 2, None), last_seconds=Fraction(1)).field_order == ""


@pytest.mark.skipif(sys.platform != "linux", reason="SVT-AV1 does it on Linux alone")
def test_encoders_leave_threads_as_they_are_scheduled(tmp_path):
    def policies():
        return {os.sched_getscheduler(int(thread)) for thread in os.listdir("/proc/self/task")}

    assert policies() == {os.SCHED_OTHER}
    info = ClipInfo(64, 48, Fraction(25))
    with open_writer(tmp_path / "a.mkv", info, codec="av1") as writer:
        for index in range(3):
            writer.write(np.full((48, 64, 3), 60 * index, np.uint8))
            assert policies() == {os.SCHED_OTHER}


# 5: animations


def animation(path, count=5):
    frames = [np.full((32, 48, 3), 40 * index, np.uint8) for index in range(count)]
    if path.suffix == ".avif":
        with usual_priority(), av.open(str(path), "w", format="avif") as container:
            stream = container.add_stream("libsvtav1", rate=10, options={"crf": "10"})
            stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
            for frame in frames:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, "rgb24")))
            container.mux(stream.encode(None))
    else:
        moving = cv2.Animation()
        moving.frames, moving.durations = frames, np.full(count, 100)
        assert cv2.imwriteanimation(str(path), moving)
    return path


@pytest.mark.parametrize("name", ["a.png", "a.apng", "a.avif", "a.gif"])
def test_animations_are_read_whole(tmp_path, name):
    made = animation(tmp_path / ("a.png" if name == "a.apng" else name))
    made = made.rename(tmp_path / name)
    with open_reader(made) as reader:
        assert reader.info.num_frames == 5
        assert reader.info.fps == 10
        means = [frame.pixels.mean() for frame in reader]
    assert means == pytest.approx([0, 40, 80, 120, 160], abs=3)
    written = remove(made, tmp_path / "b.mkv")
    gray = np.frombuffer(raw(written, "gray"), np.uint8).reshape(5, 32, 48)
    assert gray[:, 16:].mean(axis=(1, 2)) == pytest.approx([0, 40, 80, 120, 160], abs=3)


def test_animated_webp_is_refused(tmp_path):
    animation(tmp_path / "a.webp")
    with pytest.raises(ValueError, match=r"a\.webp is an animation, of which only the first"):
        open_reader(tmp_path / "a.webp")
    (tmp_path / "folder").mkdir()
    animation(tmp_path / "folder" / "1.png")
    with pytest.raises(ValueError, match=r"1\.png is an animation, of which only the first"):
        open_reader(tmp_path / "folder")


# 9: PNG


def png_with_chunks(path, seed=0):
    """A photograph as tools save it: with a profile, a resolution and a text."""
    pil = pytest.importorskip("PIL.Image")
    from PIL import ImageCms, PngImagePlugin

    noise = np.random.default_rng(seed).integers(0, 255, (24, 32, 3), np.uint8)
    text = PngImagePlugin.PngInfo()
    text.add_text("Author", "Nobody")
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    pil.fromarray(noise).save(path, pnginfo=text, dpi=(300, 300), icc_profile=profile)


def test_png_keeps_what_it_says(tmp_path):
    pil = pytest.importorskip("PIL.Image")
    (tmp_path / "a").mkdir()
    (tmp_path / "masks").mkdir()
    for index in range(3):
        png_with_chunks(tmp_path / "a" / f"shot.{index:04d}.png", index)
        mask = np.zeros((24, 32), np.uint8)
        mask[4:8, 4:8] = 255 * (index == 1)
        cv2.imwrite(str(tmp_path / "masks" / f"{index:04d}.png"), mask)
    report = inpaint_file(tmp_path / "a", tmp_path / "masks", tmp_path / "b")
    assert report.changed_outside_mask == 0
    for index in range(3):
        name = f"shot.{index:04d}.png"
        before, after = tmp_path / "a" / name, tmp_path / "b" / name
        assert (before.read_bytes() == after.read_bytes()) == (index != 1)
        with pil.open(before) as source, pil.open(after) as written:
            assert written.info["icc_profile"] == source.info["icc_profile"]
            assert written.info["Author"] == "Nobody"
            assert written.info["dpi"] == pytest.approx((300, 300), abs=0.1)
            same = np.array(source) == np.array(written)
        assert same.all() == (index != 1)


# 10: what changes on the way, and what is cut short


def test_change_of_size_is_called_that(tmp_path):
    for name, size, start in (("1.ts", "64x48", 0), ("2.ts", "96x64", 0.4)):
        ffmpeg(
            "-f", "lavfi", "-i", f"testsrc2=size={size}:rate=25:duration=0.4", "-c:v", "libx264",
            "-output_ts_offset", start, tmp_path / name,
        )  # fmt: skip
    both = (tmp_path / "1.ts").read_bytes() + (tmp_path / "2.ts").read_bytes()
    (tmp_path / "a.ts").write_bytes(both)
    for allow_truncated in (False, True):
        with pytest.raises(ValueError, match="is 64x48 pixels of 8 bits, but later 96x64 pixels"):
            open_reader(tmp_path / "a.ts", allow_truncated=allow_truncated)


def test_cut_transport_stream_is_counted_once(tmp_path):
    ffmpeg(
        "-f", "lavfi", "-i", "testsrc2=size=64x48:rate=25:duration=0.8", "-c:v", "libx264",
        "-g", "5", tmp_path / "whole.ts",
    )  # fmt: skip
    data = (tmp_path / "whole.ts").read_bytes()
    counts = set()
    for share in (0.5, 0.61, 0.7, 0.83):
        path = tmp_path / f"{share}.ts"
        path.write_bytes(data[: int(len(data) * share)])
        used = len(list(open_reader(path, allow_truncated=True)))
        counts.add(used)
        with contextlib.suppress(ValueError):
            assert open_reader(path).info.num_frames == used
            continue
        with pytest.raises(ValueError, match=rf": {used}( of \d+)? frames decoded"):
            open_reader(path)
    assert len(counts) > 1


@pytest.mark.parametrize("matrix", ["ycgco", "bt2020c"])
def test_matrices_that_are_not_read_are_refused_at_once(tmp_path, matrix):
    ffmpeg(
        *PICTURE, "-c:v", "libx264", "-pix_fmt", "yuv444p",
        "-x264-params", f"colormatrix={matrix.replace('ycgco', 'YCgCo')}", tmp_path / "a.mp4",
    )  # fmt: skip
    with pytest.raises(ValueError, match=r"has the colour matrix \d+ \(H.273\), which is not"):
        open_reader(tmp_path / "a.mp4")


# 11: folders of other images, and patterns


@pytest.mark.parametrize("ending", ["webp", "bmp", "tga", "dpx"])
def test_folders_of_other_images_are_read(tmp_path, ending):
    (tmp_path / "a").mkdir()
    frames = np.random.default_rng(0).integers(0, 255, (3, 24, 32, 3), np.uint8)
    for index, frame in enumerate(frames):
        path = tmp_path / "a" / f"shot.{index:04d}.{ending}"
        if ending in ("webp", "bmp"):
            options = [cv2.IMWRITE_WEBP_QUALITY, 101] if ending == "webp" else []
            assert cv2.imwrite(str(path), frame[..., ::-1], options)
        else:
            (tmp_path / "raw").write_bytes(frame.tobytes())
            ffmpeg(
                "-f", "rawvideo", "-pix_fmt", "rgb24", "-s", "32x24", "-i", tmp_path / "raw",
                "-update", "1", path,
            )  # fmt: skip
    written = remove(tmp_path / "a", tmp_path / "b")
    for index, frame in enumerate(frames):
        result = cv2.imread(str(written / f"shot.{index:04d}.png"))[..., ::-1]
        outside = np.ones((24, 32), bool)
        outside[4:12, 4:12] = False
        assert np.array_equal(result[outside], frame[outside])


def test_dpx_of_ten_bits_against_ffmpeg(tmp_path):
    (tmp_path / "a").mkdir()
    ffmpeg(
        *PICTURE, "-pix_fmt", "gbrp10le", "-frames:v", "2", tmp_path / "a" / "%04d.dpx"
    )  # fmt: skip
    with open_reader(tmp_path / "a") as reader:
        assert reader.info.dtype == np.uint16
        pixels = next(iter(reader)).pixels
    planes = np.frombuffer(raw(tmp_path / "a" / "0001.dpx", "gbrp10le"), "<u2").reshape(3, 48, 64)
    rgb = planes[[2, 0, 1]].transpose(1, 2, 0).astype(float)
    assert np.abs(pixels - rgb / 1023 * 65535).max() <= 0.5


def test_pattern_is_the_files_with_a_number_there(tmp_path):
    ffmpeg(*PICTURE, tmp_path / "shot_%04d.png")
    (tmp_path / "shot_0003_old.png").write_bytes(b"no")
    (tmp_path / "other_0001.png").write_bytes(b"no")
    with open_reader(tmp_path / "shot_%04d.png") as reader:
        assert [frame.name for frame in reader] == [f"shot_{index:04d}" for index in range(1, 11)]
    written = remove(tmp_path / "shot_%04d.png", tmp_path / "b", frames=(2, 4))
    assert sorted(os.listdir(written)) == [f"shot_000{index}.png" for index in (3, 4, 5)]
    ffmpeg(*PICTURE, "-vf", "geq=lum=255*lt(X\\,8):cb=128:cr=128", tmp_path / "mask.%d.png")
    report = inpaint_file(
        tmp_path / "shot_%d.png", tmp_path / "mask.%d.png", tmp_path / "c.mkv", fps=Fraction(25)
    )
    assert report.hole_pixels == 10 * 8 * 48
    with pytest.raises(ValueError, match=r"no file matches .*gone_%03d\.png"):
        open_reader(tmp_path / "gone_%03d.png")
