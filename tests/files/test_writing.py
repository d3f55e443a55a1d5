"""What a writer puts into a file: times, tags, and nothing where it cannot finish.

Results are read back with PyAV directly.
"""

import os
import subprocess
import sys
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from combcn_core.clips.frames import MasteringDisplay
from combcn_core.clips.video import ClipInfo, ColorTags, open_reader, open_writer

from ..helpers import full_disk, write_video

HEIGHT, WIDTH = 48, 64
# The primaries and the white of BT.2020, 1000 and 0.005 cd/m2.
DISPLAY = MasteringDisplay(
    (0.708, 0.292, 0.17, 0.797, 0.131, 0.046, 0.3127, 0.329, 0.005, 1000.0), 900, 300
)
HDR10 = ColorTags(matrix=9, range=1, primaries=9, transfer=16, mastering=DISPLAY)


def frames_of(count, dtype=np.uint8, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, np.iinfo(dtype).max, (count, HEIGHT, WIDTH, 3)).astype(dtype)


def write(path, info, frames, pts=None, **writing):
    with open_writer(path, info, **writing) as writer:
        for index, pixels in enumerate(frames):
            writer.write(pixels, None if pts is None else pts[index])
    return path


def decoded(path):
    with av.open(str(path)) as container:
        return list(container.decode(video=0))


def packets(path):
    """(start, duration) in seconds, in the order of showing."""
    with av.open(str(path)) as container:
        found = [p for p in container.demux(video=0) if p.size]
    return sorted((p.pts * p.time_base, (p.duration or 0) * p.time_base) for p in found)


@pytest.mark.parametrize("fps", [Fraction(25), Fraction(24000, 1001), Fraction(50)])
@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.mov", "a.webm"])
def test_frames_of_a_constant_rate_follow_each_other(tmp_path, name, fps):
    write(tmp_path / name, ClipInfo(WIDTH, HEIGHT, fps), frames_of(7))
    found = packets(tmp_path / name)
    tick = Fraction(1, 1000) if name in ("a.mkv", "a.webm") else 0
    assert len(found) == 7
    for n, (start, duration) in enumerate(found):
        assert abs(start - n / fps) <= tick
        assert abs(duration - 1 / fps) <= tick
    assert open_reader(tmp_path / name).info.fps == fps


TIMES = (100, 140, 200, 210, 360, 400, 741)  # milliseconds


@pytest.mark.parametrize("color", [ColorTags(matrix=1, range=1), HDR10], ids=["plain", "hdr10"])
@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.mov"])
def test_times_of_a_variable_rate_start_at_nothing_and_last_to_the_end(tmp_path, name, color):
    dtype = np.uint8 if color.mastering is None else np.uint16
    codec = "hevc" if color.mastering is not None and name != "a.mov" else None
    info = ClipInfo(
        WIDTH, HEIGHT, Fraction(25), np.dtype(dtype), indices=range(7), color=color,
        time_base=Fraction(1, 1000), pts=TIMES, last_seconds=Fraction(3, 2),
    )  # fmt: skip
    write(tmp_path / name, info, frames_of(7, dtype), codec=codec)
    starts = [Fraction(time - TIMES[0], 1000) for time in TIMES]
    assert [frame.pts * frame.time_base for frame in decoded(tmp_path / name)] == starts
    assert packets(tmp_path / name)[-1][0] == starts[-1]
    with av.open(str(tmp_path / name)) as container:
        seconds = container.duration / 1_000_000
    assert seconds == pytest.approx(float(starts[-1]) + 1.5, abs=0.002)


def test_times_that_are_given_count_rather_than_those_of_the_source(tmp_path):
    info = ClipInfo(
        WIDTH, HEIGHT, Fraction(25), indices=range(3), time_base=Fraction(1, 1000), pts=(0, 50, 70)
    )
    write(tmp_path / "a.mkv", info, frames_of(3), pts=(10, 30, 500))
    assert [float(frame.pts * frame.time_base) for frame in decoded(tmp_path / "a.mkv")] == [
        0, 0.02, 0.49,
    ]  # fmt: skip
    # At a constant rate frames follow each other, whatever is said.
    info = ClipInfo(WIDTH, HEIGHT, Fraction(25), indices=range(3))
    write(tmp_path / "b.mkv", info, frames_of(3), pts=(10, 30, 500))
    assert [float(frame.pts * frame.time_base) for frame in decoded(tmp_path / "b.mkv")] == [
        0, 0.04, 0.08,
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.mov"])
def test_last_frame_of_a_constant_rate_stays_as_long_as_it_is_said(tmp_path, name):
    info = ClipInfo(WIDTH, HEIGHT, Fraction(25), indices=range(5), last_seconds=Fraction(2))
    write(tmp_path / name, info, frames_of(5))
    with av.open(str(tmp_path / name)) as container:
        assert container.duration / 1_000_000 == pytest.approx(4 / 25 + 2, abs=0.002)
    assert len(decoded(tmp_path / name)) == 5
    assert open_reader(tmp_path / name).info.last_seconds == 2


# Tags


@pytest.mark.parametrize(("primaries", "matrix"), [(2, 1), (1, 1), (9, 9), (5, 1)])
def test_rgb_becomes_yuv_of_the_matrix_of_its_primaries(tmp_path, primaries, matrix):
    color = ColorTags(matrix=0, range=2, primaries=primaries, transfer=1)
    info = ClipInfo(WIDTH, HEIGHT, Fraction(25), color=color, full_chroma=True)
    red = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    red[..., 0] = 255
    write(tmp_path / "a.mp4", info, [red])
    (frame,) = decoded(tmp_path / "a.mp4")
    assert (frame.colorspace, frame.color_range) == (matrix, 1)
    luma = np.frombuffer(frame.planes[0], np.uint8)[0]
    # Red alone is 0.2126 or 0.2627 of white; H.264 is off by a code or two.
    assert luma == pytest.approx(16 + 219 * {1: 0.2126, 9: 0.2627}[matrix], abs=2)
    with av.open(str(tmp_path / "a.mp4")) as container:
        assert container.streams.video[0].codec_context.color_primaries == primaries


def test_hevc_has_the_tag_that_quicktime_knows(tmp_path):
    info = ClipInfo(WIDTH, HEIGHT, Fraction(25))
    for name in ("a.mp4", "a.mkv"):
        write(tmp_path / name, info, frames_of(3), codec="hevc")
        assert len(decoded(tmp_path / name)) == 3
    data = (tmp_path / "a.mp4").read_bytes()
    assert b"hvc1" in data
    assert b"hev1" not in data


def test_pixels_that_are_not_square_stay_so_or_it_is_said(tmp_path, caplog):
    for aspect, is_said in ((Fraction(4, 3), True), (Fraction(1), False), (None, False)):
        info = ClipInfo(WIDTH, HEIGHT, Fraction(25), sample_aspect_ratio=aspect)
        for name in ("a.mp4", "a.mkv"):
            caplog.clear()
            write(tmp_path / name, info, frames_of(2))
            said = f"{name} will show its pixels square; the source has an aspect of {aspect}"
            assert (said in caplog.text) == (is_said and name == "a.mkv")
        with av.open(str(tmp_path / "a.mp4")) as container:
            assert container.streams.video[0].sample_aspect_ratio in (aspect or 1, aspect)


@pytest.mark.parametrize("name", ["a.mp4", "a.mov", "a.mkv"])
@pytest.mark.parametrize("metadata", [{"title": "One"}, {"title": "One", "scene": "12B"}, {}])
def test_metadata_of_any_name_are_written(tmp_path, name, metadata):
    info = ClipInfo(WIDTH, HEIGHT, Fraction(25), metadata=metadata)
    write(tmp_path / name, info, frames_of(2))
    with av.open(str(tmp_path / name)) as container:
        found = {key.lower(): value for key, value in container.metadata.items()}
    assert {key: found[key] for key in metadata} == metadata
    # The usual form of tags, which more players read, where it has names for all.
    if name == "a.mp4" and metadata == {"title": "One"}:
        assert b"mdta" not in (tmp_path / name).read_bytes()


def test_h264_frames_are_of_one_slice(tmp_path):
    """Cut into slices for threads, they would need more bytes for the same quality."""
    rng = np.random.default_rng(0)
    info = ClipInfo(320, 240, Fraction(25))
    with open_writer(tmp_path / "a.mp4", info) as writer:
        for _ in range(4):
            writer.write(rng.integers(0, 256, (240, 320, 3), np.uint8))
    with av.open(str(tmp_path / "a.mp4")) as container:
        for packet in container.demux(video=0):
            data, kinds = bytes(packet), []
            while data:  # units of a length and a head, whose lower five bits are the kind
                length = int.from_bytes(data[:4], "big")
                kinds.append(data[4] & 31)
                data = data[4 + length :]
            assert not kinds or [kind for kind in kinds if kind in (1, 5)] == kinds[-1:]


NARROW = """
import sys
from fractions import Fraction
from pathlib import Path
import numpy as np
from combcn_core.clips.video import ClipInfo, open_writer

for width in (16, 31, 32, 40, 46, 48, 62, 64):
    info = ClipInfo(width, 48, Fraction(25), np.dtype(np.uint16))
    with open_writer(Path(sys.argv[1]) / f"{width}.mkv", info, codec="hevc") as writer:
        for n in range(7):
            writer.write(np.full((48, width, 3), 9000 * n, np.uint16))
"""


def test_hevc_of_narrow_frames_does_not_end_the_process(tmp_path):
    command = [sys.executable, "-c", NARROW, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    for width in (16, 31, 32, 40, 46, 48, 62, 64):
        frames = decoded(tmp_path / f"{width}.mkv")
        assert [(frame.width, frame.height) for frame in frames] == [(width, 48)] * 7


# Whole or nothing


def test_what_an_encoder_refuses_is_said_and_nothing_is_left(tmp_path):
    info = ClipInfo(16_386, 16, Fraction(25))  # wider than x264 takes
    with pytest.raises(ValueError, match=r"a\.mp4 cannot be encoded as h264 .* another codec"):
        open_writer(tmp_path / "a.mp4", info)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("share", [0.3, 0.8])
def test_a_disk_that_fills_up_leaves_nothing(tmp_path, share):
    frames, info = frames_of(30, seed=2), ClipInfo(WIDTH, HEIGHT, Fraction(25))
    size = write(tmp_path / "a.mkv", info, frames).stat().st_size
    with full_disk(int(share * size)), pytest.raises(OSError, match=r"File too large|finished"):
        write(tmp_path / "b.mkv", info, frames)
    assert os.listdir(tmp_path) == ["a.mkv"]


def test_a_disk_that_fills_up_at_the_end_is_said(tmp_path):
    """An MP4 has its index at the end; what encoders hold back comes there too."""
    frames, info = frames_of(12, seed=2), ClipInfo(WIDTH, HEIGHT, Fraction(25))
    size = write(tmp_path / "a.mp4", info, frames).stat().st_size
    with full_disk(size - 200), pytest.raises(OSError, match=r"could not be finished .* disk is"):
        write(tmp_path / "b.mp4", info, frames)
    assert os.listdir(tmp_path) == ["a.mp4"]


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc")
@pytest.mark.parametrize("how", ["closed", "aborted", "failed"])
def test_a_writer_leaves_no_file_open(tmp_path, how):
    source = tmp_path / "a.mkv"
    write_video(source, list(frames_of(4)))
    rng = np.random.default_rng(0)
    with av.open(str(tmp_path / "b.mkv"), "w") as container:  # with sound beside it
        video = container.add_stream("ffv1", rate=25)
        video.width, video.height, video.pix_fmt = WIDTH, HEIGHT, "bgr0"
        track = container.add_stream("pcm_s16le", rate=8000)
        track.layout = "mono"
        for pixels in frames_of(4):
            container.mux(video.encode(av.VideoFrame.from_ndarray(pixels, "rgb24")))
        container.mux(video.encode(None))
        samples = rng.integers(-999, 999, (1, 1280)).astype(np.int16)
        piece = av.AudioFrame.from_ndarray(samples, "s16", "mono")
        piece.sample_rate = 8000
        container.mux(track.encode(piece))
    with open_reader(tmp_path / "b.mkv") as reader:
        info, pixels = reader.info, [frame.pixels for frame in reader]
    assert info.has_sound
    writer = open_writer(tmp_path / "c.mkv", info)
    for image in pixels[: 2 if how == "failed" else 4]:
        writer.write(image)
    if how == "failed":
        with pytest.raises(ValueError, match="got 2 of 4 frames"):
            writer.close()
    else:
        (writer.close if how == "closed" else writer.abort)()
    links = [f"/proc/self/fd/{number}" for number in os.listdir("/proc/self/fd")]
    names = {Path(os.readlink(link)).name for link in links if os.path.lexists(link)}
    assert not {name for name in names if ".mkv" in name}
    assert ("c.mkv" in os.listdir(tmp_path)) == (how == "closed")


def test_a_slice_of_a_larger_array_is_written_as_what_it_shows(tmp_path):
    large = frames_of(3, np.uint16)
    info = ClipInfo(WIDTH // 2, HEIGHT // 2, Fraction(25), np.dtype(np.uint16))
    parts = large[:, ::2, ::2]
    write(tmp_path / "a.mkv", info, parts)
    found = [frame.pixels for frame in open_reader(tmp_path / "a.mkv")]
    np.testing.assert_array_equal(found, parts)
    short = replace(info, dtype=np.dtype(np.uint8))
    writer = open_writer(tmp_path / "b.mkv", short)
    with pytest.raises(ValueError, match=r"uint16 but the clip is .* uint8; convert it"):
        writer.write(parts[0])
    writer.abort()
    assert os.listdir(tmp_path) == ["a.mkv"]
