"""What a reader says of a video file before it is read: times, rates, colours, what else is in it.

Files are made with PyAV and ffmpeg.
"""

import os
import shutil
import struct
from fractions import Fraction

import av
import numpy as np
import pytest

from combcn_core.clips.video import open_reader

from ..helpers import ffmpeg, planar_frame, write_video

needs_ffmpeg = pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="needs ffmpeg")


def noise(count, width=32, height=16, seed=0):
    rng = np.random.default_rng(seed)
    return list(rng.integers(0, 256, (count, height, width, 3), np.uint8))


def write_packets(path, starts, seconds, codec="mjpeg", clock=1000):
    """A frame at each of some times, shown for so long; on a clock of so many ticks a second."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = 32, 16, "yuvj420p"
        stream.codec_context.time_base = Fraction(1, clock)
        stream.time_base = Fraction(1, clock)
        for image, start, duration in zip(noise(len(starts)), starts, seconds, strict=True):
            frame = av.VideoFrame.from_ndarray(image, "rgb24").reformat(format="yuvj420p")
            (packet,) = stream.encode(frame)
            packet.time_base = Fraction(1, clock)
            packet.pts = packet.dts = round(start * clock)
            packet.duration = round(duration * clock)
            container.mux(packet)
    return path


# Times


def test_a_reader_can_be_closed_before_it_reads(tmp_path):
    path = write_video(tmp_path / "a.mkv", noise(3))
    with open_reader(path) as reader:
        assert reader.info.num_frames == 3
    reader.close()  # once more
    assert [frame.index for frame in reader] == [0, 1, 2]
    frames = iter(reader)
    next(frames)
    reader.close()
    assert list(frames) == []


VARIABLE = [Fraction(ms, 1000) for ms in (0, 40, 100, 110, 260, 300, 640, 641)]
STEADY = [Fraction(n, 25) for n in range(8)]


@pytest.mark.parametrize("late", [Fraction(0), Fraction(3), Fraction(7, 2)])
@pytest.mark.parametrize("starts", [VARIABLE, STEADY], ids=["variable", "steady"])
@pytest.mark.parametrize("ending", [".mkv", ".mov"])
def test_times_of_a_range_against_those_of_the_packets(tmp_path, ending, starts, late):
    lengths = [
        after - time for time, after in zip(starts, [*starts[1:], starts[-1] + 2], strict=True)
    ]
    given = [time + late for time in starts]
    path = write_packets(tmp_path / f"a{ending}", given, lengths)
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        times = [packet.pts * packet.time_base for packet in container.demux(stream) if packet.size]
    assert [time - times[0] for time in times] == starts
    whole = open_reader(path).info
    steady = starts is STEADY
    assert whole.fps == (25 if steady else 7 / starts[-1])
    assert whole.start_seconds == times[0]
    assert whole.stop_seconds is None
    assert whole.last_seconds == 2
    for first, last in ((0, 3), (2, 5), (4, 7), (6, 6)):
        info = open_reader(path, frames=(first, last)).info
        assert (info.num_frames, info.total_frames) == (last - first + 1, 8)
        assert info.fps == whole.fps
        assert info.start_seconds == times[first]
        after = times[last + 1] if last < 7 else None
        assert info.stop_seconds == after
        if info.pts is not None:
            assert [pts * info.time_base for pts in info.pts] == times[first : last + 1]
            assert info.last_seconds == (2 if after is None else after - times[last])
        elif last == 7:
            assert info.last_seconds == 2
        else:
            assert info.last_seconds is None  # as the others
    assert (whole.pts is None) == steady


def test_last_frame_of_a_clip_of_hours(tmp_path):
    starts = [Fraction(0), Fraction(3600), Fraction(7325)]
    path = write_packets(tmp_path / "a.mkv", starts, [3600, 3725, Fraction(5, 2)])
    info = open_reader(path).info
    assert info.last_seconds == Fraction(5, 2)
    assert info.fps == Fraction(2, 7325)


def test_last_frame_by_the_duration_of_the_file_alone(tmp_path):
    """Muxers other than FFmpeg's say nothing else of it."""
    path = write_packets(tmp_path / "a.mkv", STEADY, [Fraction(1, 25)] * 8)
    data = path.read_bytes()
    assert data.count(b"DURATION") == 1
    data = data.replace(b"DURATION", b"SOMENAME")
    at = data.index(b"\x44\x89\x88") + 3
    for milliseconds, last in ((320, None), (700, Fraction(42, 100))):
        path.write_bytes(data[:at] + struct.pack(">d", milliseconds) + data[at + 8 :])
        assert open_reader(path).info.last_seconds == last


RATES = [Fraction(n, 1001) for n in (24000, 30000, 48000, 50000, 60000, 120000)]
RATES += [Fraction(rate) for rate in ("1", "12.5", "15", "23.976", "25", "29.97", "49.95", "120")]


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("ending", [".mkv", ".mov"])
def test_rate_is_the_one_written(tmp_path, ending, rate):
    path = tmp_path / f"a{ending}"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=rate)
        stream.width, stream.height, stream.pix_fmt = 32, 16, "yuvj420p"
        for image in noise(40):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, "rgb24")))
        container.mux(stream.encode(None))
    info = open_reader(path).info
    assert (info.fps, info.pts, info.last_seconds) == (rate, None, None)


def test_one_frame_out_of_place_is_a_variable_rate(tmp_path):
    for off, is_variable in ((0, False), (1, False), (-1, False), (2, True), (-2, True)):
        starts = [Fraction(n, 25) for n in range(9)]
        starts[4] += Fraction(off, 1000)  # a rounded clock is off by less than a tick
        path = write_packets(tmp_path / f"{off}.mkv", starts, [Fraction(1, 25)] * 9)
        info = open_reader(path).info
        assert (info.pts is not None) == is_variable, off
        assert info.fps == 25


# Colours and shape


def test_gray_of_h264_is_limited_and_of_others_full(tmp_path):
    luma = np.arange(256, dtype=np.uint8).reshape(8, 32)
    for codec, name, options, black, white in (
        ("libx264", "a.mkv", {"qp": "0"}, 16, 235),
        ("ffv1", "b.mkv", {}, 0, 255),
        ("png", "a.mov", {}, 0, 255),
    ):
        path = tmp_path / name
        with av.open(str(path), "w") as container:
            stream = container.add_stream(codec, rate=25, options=options)
            stream.width, stream.height, stream.pix_fmt = 32, 8, "gray"
            container.mux(stream.encode(planar_frame([luma], "gray")))
            container.mux(stream.encode(None))
        (frame,) = open_reader(path)
        expected = ((luma.astype(float) - black) / (white - black)).clip(0, 1) * 255
        assert np.abs(frame.pixels - expected[..., None]).max() <= 0.51, codec


@pytest.mark.parametrize("is_full", [True, False])
def test_range_of_jpeg_and_of_tagged_clips(tmp_path, is_full):
    planes = [
        np.full(size, code, np.uint8)
        for size, code in (((8, 16), 40), ((4, 8), 128), ((4, 8), 128))
    ]
    path = tmp_path / ("a.avi" if is_full else "a.mkv")
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg" if is_full else "ffv1", rate=25)
        stream.width, stream.height = 16, 8
        stream.pix_fmt = "yuvj420p" if is_full else "yuv420p"
        container.mux(stream.encode(planar_frame(planes, stream.pix_fmt)))
        container.mux(stream.encode(None))
    (frame,) = open_reader(path)
    assert np.abs(frame.pixels.astype(float) - (40 if is_full else 24 / 219 * 255)).max() <= 1


def test_alpha_turns_with_its_picture(tmp_path):
    """As a telephone held upright: the matrix in the file turns what is stored."""
    rng = np.random.default_rng(3)
    images = list(rng.integers(0, 256, (2, 16, 32, 4), np.uint8))
    path = write_video(tmp_path / "a.mov", images, "png", "rgba")
    one = 1 << 16
    data = path.read_bytes()
    at = data.index(struct.pack(">9i", one, 0, 0, 0, one, 0, 0, 0, 1 << 30), data.index(b"tkhd"))
    turned = struct.pack(">9i", 0, one, 0, -one, 0, 0, 0, 0, 1 << 30)
    path.write_bytes(data[:at] + turned + data[at + 36 :])
    with open_reader(path, with_alpha=True) as reader:
        assert (reader.info.width, reader.info.height, reader.info.has_alpha) == (16, 32, True)
        for frame, image in zip(reader, images, strict=True):
            np.testing.assert_array_equal(frame.stored, np.rot90(image, -1))
            np.testing.assert_array_equal(frame.pixels, np.rot90(image, -1)[..., :3])


@needs_ffmpeg
@pytest.mark.parametrize(
    ("codec", "sampling", "expected"),
    [("ffvhuff", "yuv422p", "tff"), ("ffvhuff", "yuv444p", "tff"), ("ffvhuff", "yuv420p", "")],
)
def test_fields_that_the_container_alone_tells(tmp_path, codec, sampling, expected):
    """Frames of 4:2:0 whose fields share chroma are taken for whole ones, unless they say so."""
    ffmpeg(
        "-f", "lavfi", "-i", "testsrc2=size=48x32:rate=25:duration=0.2", "-pix_fmt", sampling,
        "-c:v", codec, "-field_order", "tt", tmp_path / "a.mov",
    )  # fmt: skip
    with av.open(str(tmp_path / "a.mov")) as container:
        assert not next(container.decode(video=0)).interlaced_frame
    assert open_reader(tmp_path / "a.mov").info.field_order == expected


@needs_ffmpeg
@pytest.mark.parametrize("codec", ["libvpx", "libvpx-vp9"])
def test_alpha_beside_the_picture_of_webm(tmp_path, codec):
    """FFmpeg's own decoders of these leave it out."""
    ffmpeg(
        "-f", "lavfi", "-i", "color=gray:size=64x48:rate=25:duration=0.2", "-vf",
        "format=yuva420p,geq=lum='p(X,Y)':cb=128:cr=128:a='if(lt(X,32),255,100)'",
        "-c:v", codec, "-crf", "4", "-b:v", "2M", "-auto-alt-ref", "0", tmp_path / "a.webm",
    )  # fmt: skip
    with open_reader(tmp_path / "a.webm", with_alpha=True) as reader:
        assert reader.info.has_alpha
        for _ in range(2):
            alpha = np.stack([frame.stored for frame in reader])[..., 3].astype(int)
            assert alpha.shape == (5, 48, 64)
            assert np.abs(alpha[..., :28] - 255).max() <= 3
            assert np.abs(alpha[..., 36:] - 100).max() <= 3
    with open_reader(tmp_path / "a.webm") as reader:
        assert reader.info.has_alpha
        assert [frame.stored for frame in reader] == [None] * 5
    ffmpeg("-i", tmp_path / "a.webm", "-c:v", codec, "-pix_fmt", "yuv420p", tmp_path / "b.webm")
    assert not open_reader(tmp_path / "b.webm").info.has_alpha


# What else there is


@needs_ffmpeg
def test_the_first_track_of_video_that_is_no_cover_is_the_clip(tmp_path):
    one, two = (write_video(tmp_path / f"{n}.mp4", noise(3, seed=n)) for n in (1, 2))
    ffmpeg("-f", "lavfi", "-i", "color=red:size=48x48", "-frames:v", "1", tmp_path / "c.png")
    ffmpeg(
        "-i", tmp_path / "c.png", "-i", one, "-i", two, "-map", "0", "-map", "1", "-map", "2",
        "-c", "copy", "-disposition:v:0", "attached_pic", tmp_path / "b.mp4",
    )  # fmt: skip
    with av.open(str(tmp_path / "b.mp4")) as container:
        assert len(container.streams.video) == 3
    with open_reader(tmp_path / "b.mp4") as reader, open_reader(one) as expected:
        assert reader.info.has_more_tracks
        assert not expected.info.has_more_tracks
        for frame, same in zip(reader, expected, strict=True):
            np.testing.assert_array_equal(frame.pixels, same.pixels)


@needs_ffmpeg
@pytest.mark.parametrize(
    ("arguments", "has_sound", "has_more"),
    [
        ([], False, False),
        (["-f", "lavfi", "-i", "sine=440:duration=0.2"], True, False),
        (["-i", "a.srt", "-c:s", "mov_text"], False, True),
        (["-i", "a.txt", "-map_metadata", "1"], False, True),
        (["-metadata", "timecode=01:00:00:00"], False, False),
    ],
)
def test_what_a_file_has_besides_its_picture(tmp_path, arguments, has_sound, has_more):
    (tmp_path / "a.srt").write_text("1\n00:00:00,000 --> 00:00:00,200\nHello\n")
    (tmp_path / "a.txt").write_text(
        ";FFMETADATA1\n[CHAPTER]\nTIMEBASE=1/1000\nSTART=0\nEND=200\ntitle=One\n"
    )
    arguments = [tmp_path / word if word[:2] == "a." else word for word in arguments]
    ffmpeg(
        "-f", "lavfi", "-i", "testsrc2=size=32x32:rate=25:duration=0.2", *arguments,
        "-c:v", "libx264", tmp_path / "b.mov",
    )  # fmt: skip
    info = open_reader(tmp_path / "b.mov").info
    assert (info.has_sound, info.has_more_tracks) == (has_sound, has_more)
    assert info.has_alpha is False
    assert info.stream_metadata.get("timecode") == (
        "01:00:00:00" if "timecode=01:00:00:00" in arguments else None
    )


def test_metadata_are_those_of_the_author_and_not_of_the_muxer(tmp_path):
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as container:
        container.metadata.update(title="A shot", comment="take 2")
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 32, 16, "yuv420p"
        stream.metadata.update(language="fin", handler_name="Somebody")
        container.mux(stream.encode(av.VideoFrame(32, 16, "yuv420p")))
        container.mux(stream.encode(None))
    info = open_reader(path).info
    assert info.metadata == {"title": "A shot", "comment": "take 2"}
    assert info.stream_metadata == {"language": "fin"}


@pytest.mark.skipif(os.name == "nt", reason="no colons in names")
def test_a_colon_in_a_name_is_no_protocol(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_video(tmp_path / "file.mkv", noise(2)).rename("concat:a.mkv")
    with open_reader("concat:a.mkv") as reader:
        assert np.array_equal([frame.pixels for frame in reader], noise(2))


def test_of_many_files_each_is_itself(tmp_path):
    """More than are remembered."""
    paths = [write_video(tmp_path / f"{n}.mkv", noise(1 + n % 4, seed=n)) for n in range(20)]
    for _ in range(2):
        for n, path in enumerate(paths):
            assert open_reader(path).info.total_frames == 1 + n % 4
    for n in (19, 0, 7):
        found = [frame.pixels for frame in open_reader(paths[n])]
        assert np.array_equal(found, noise(1 + n % 4, seed=n))


@needs_ffmpeg
def test_colours_that_only_the_container_states(tmp_path):
    """ProRes whose frames leave open what they are, in a MOV that says it; and as they say."""
    source = "-f lavfi -i testsrc2=s=64x48:r=25:d=0.2 -pix_fmt yuv422p10 -c:v prores_ks"
    color = "-color_primaries bt2020 -color_trc smpte2084 -colorspace bt2020nc -color_range tv"
    open_frames = "colorspace=unknown:color_trc=unknown:color_primaries=unknown"
    own = "colorspace=bt709:color_trc=bt709:color_primaries=bt709"
    for name, metadata, expected in (("open", open_frames, (9, 9, 16)), ("own", own, (1, 1, 1))):
        path = tmp_path / f"{name}.mov"
        ffmpeg(*f"{source} {color} -bsf:v prores_metadata={metadata}".split(), path)
        with open_reader(path) as reader:
            found = reader.info.color
        assert (found.matrix, found.primaries, found.transfer) == expected, name
