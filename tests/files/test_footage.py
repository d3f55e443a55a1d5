"""inpaint_file on footage of many kinds: deep, variable, rotated, with sound and time code.

Sources are made, and results are read back, with PyAV directly, without the code under test.
"""

import struct
from fractions import Fraction

import av
import numpy as np
import pytest

from combcn_core.clips.video import open_reader
from combcn_core.stream.files import inpaint_file

HEIGHT, WIDTH, COUNT = 48, 64, 8
BOX = "24,16,14,12"
HOLE = np.zeros((HEIGHT, WIDTH), bool)
HOLE[16:28, 24:38] = True
FILM = Fraction(24)


def ramps(bits):
    """Colours that move, of more levels than 8 bits have: (COUNT, HEIGHT, WIDTH, 3) in 0..1."""
    y, x = np.mgrid[:HEIGHT, :WIDTH] / (HEIGHT + WIDTH)
    image = np.stack([x + y / 3, (x + y) / 2 + 0.1, 0.9 - x], axis=-1)
    shades = np.random.default_rng(0).random((COUNT, 1, 1, 3)) / 2**8  # less than a step of 8 bits
    frames = np.stack([np.roll(image, t, axis=1) for t in range(COUNT)]) + shades
    return np.rint(frames.clip(0, 1) * (2**bits - 1)).astype(np.uint16)


def make_clip(path, codec, pixel_format, *, fps=FILM, pts=None, sound=(), **metadata):
    """Encode ramps, as RGB in planes or as whatever FFmpeg makes of them."""
    with av.open(str(path), "w") as container:
        container.metadata.update(metadata)
        options = {"x265-params": "crf=8:log-level=none"} if codec == "libx265" else {}
        video = container.add_stream(codec, rate=fps, options=options)
        video.width, video.height, video.pix_fmt = WIDTH, HEIGHT, pixel_format
        tracks = [container.add_stream(name, rate=48000, layout="stereo") for name in sound]
        if pts is not None:
            video.codec_context.time_base = Fraction(1, 1000)
        for t, image in enumerate(ramps(16)):
            if pixel_format.startswith("gbrp"):
                frame = av.VideoFrame(WIDTH, HEIGHT, pixel_format)
                codes = ramps(int(pixel_format[4:-2]))[t]
                for plane, channel in zip(frame.planes, (1, 2, 0), strict=True):
                    rows = np.frombuffer(plane, np.uint16).reshape(HEIGHT, -1)
                    rows[:, :WIDTH] = codes[..., channel]
            else:
                frame = av.VideoFrame.from_ndarray(image, "rgb48le").reformat(format=pixel_format)
            frame.pts, frame.time_base = t, 1 / fps
            if pts is not None:
                frame.pts, frame.time_base = pts[t], Fraction(1, 1000)
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        for number, track in enumerate(tracks, 1):
            times = np.arange(round(48000 * COUNT / fps)) / 48000
            tone = np.sin(2 * np.pi * 220 * number * times).astype(np.float32)
            samples = av.AudioFrame.from_ndarray(np.stack([tone, tone / 2]), "fltp", "stereo")
            samples.sample_rate = 48000
            container.mux(track.encode(samples))
            container.mux(track.encode(None))
    return path


def decoded(path):
    with av.open(str(path)) as container:
        return list(container.decode(video=0))


def planes16(path):
    """(T, H, W, 3) RGB of a file of gbrp16le."""
    frames = []
    for frame in decoded(path):
        assert frame.format.name == "gbrp16le"
        rows = [np.frombuffer(plane, np.uint16).reshape(plane.height, -1) for plane in frame.planes]
        frames.append(np.stack([rows[i][:, : frame.width] for i in (2, 0, 1)], axis=-1))
    return np.stack(frames)


def sound_packets(path):
    with av.open(str(path)) as container:
        return [
            [bytes(packet) for packet in container.demux(track) if packet.size]
            for track in container.streams.audio
            if container.seek(0) is None
        ]


@pytest.mark.parametrize("bits", [10, 12, 14])
def test_codes_of_deep_rgb_arrive_exactly(tmp_path, bits):
    clip = make_clip(tmp_path / "a.mkv", "ffv1", f"gbrp{bits}le")
    report = inpaint_file(clip, BOX, tmp_path / "b.mkv")
    result = planes16(tmp_path / "b.mkv")
    codes = np.rint(result / 65535 * (2**bits - 1))
    np.testing.assert_array_equal(codes[:, ~HOLE], ramps(bits)[:, ~HOLE])
    assert report.changed_outside_mask == 0


@pytest.mark.parametrize(
    ("name", "codec", "pixel_format", "bits"),
    [
        ("a.mp4", "libx264", "yuv420p10le", 10),
        ("a.mp4", "libx265", "yuv420p10le", 10),
        ("a.mp4", "libx265", "yuv422p12le", 12),
        ("a.mkv", "ffv1", "yuv444p12le", 12),
        ("a.mov", "prores_ks", "yuv422p10le", 10),
        ("a.mov", "prores_ks", "yuv444p10le", 12),  # the decoder gives all that is in 4444
    ],
)
def test_deep_sources_stay_deep(tmp_path, name, codec, pixel_format, bits):
    clip = make_clip(tmp_path / name, codec, pixel_format)
    assert decoded(clip)[0].format.components[0].bits == bits
    report = inpaint_file(clip, BOX, tmp_path / "b.mkv")
    assert report.changed_outside_mask == 0
    result = planes16(tmp_path / "b.mkv")
    source = np.stack([frame.pixels for frame in open_reader(clip)])
    np.testing.assert_array_equal(result[:, ~HOLE], source[:, ~HOLE])
    assert (result[:, HOLE] != source[:, HOLE]).any()
    truth = ramps(16)
    # Codecs lose some, chroma at half size too; 8 bits would have no more than 256 levels.
    assert np.abs(result[:, ~HOLE].astype(float) - truth[:, ~HOLE]).mean() < 0.01 * 65535
    assert len(np.unique(result[:, ~HOLE][..., 1])) > 600

    for ending, depth in ((".mov", 10), (".mp4", 10)):
        output = tmp_path / f"c{ending}"
        inpaint_file(clip, BOX, output)
        assert decoded(output)[0].format.components[0].bits >= depth
        pixels = np.stack([frame.pixels for frame in open_reader(output)])
        assert np.abs(pixels[:, ~HOLE].astype(float) - source[:, ~HOLE]).mean() < 0.01 * 65535


@pytest.mark.parametrize(
    ("pixel_format", "profile"), [("yuv422p10le", "HQ"), ("yuv444p10le", "4444")]
)
def test_prores_of_an_editor_comes_back_as_such(tmp_path, pixel_format, profile):
    clip = make_clip(
        *(tmp_path / "a.mov", "prores_ks", pixel_format),
        fps=Fraction(30000, 1001),
        sound=("pcm_s24le", "pcm_s16le", "aac"),
        timecode="10:00:59;28",
    )
    inpaint_file(clip, BOX, tmp_path / "b.mov")
    with av.open(str(tmp_path / "b.mov")) as container:
        video = container.streams.video[0]
        assert (video.codec_context.name, video.profile) == ("prores", profile)
        assert video.average_rate == Fraction(30000, 1001)
        (data,) = (stream for stream in container.streams if stream.type == "data")
        assert data.metadata["timecode"] == video.metadata["timecode"] == "10:00:59;28"
    assert sound_packets(tmp_path / "b.mov") == sound_packets(clip)
    before, after = (
        np.stack([frame.pixels for frame in open_reader(path)]).astype(float)[:, ~HOLE]
        for path in (clip, tmp_path / "b.mov")
    )
    assert np.abs(after - before).mean() < 0.002 * 65535


def test_clip_of_a_telephone(tmp_path):
    # Held upright: a display matrix turns what is stored by 90 degrees; and its rate varies.
    times = [0, 33, 67, 133, 140, 200, 233, 300]  # milliseconds
    clip = make_clip(tmp_path / "a.mp4", "libx264", "yuv420p", pts=times, sound=("aac",))
    lying = np.stack([frame.pixels for frame in open_reader(clip)])
    one = 1 << 16
    straight = struct.pack(">9i", one, 0, 0, 0, one, 0, 0, 0, 1 << 30)
    turned = struct.pack(">9i", 0, one, 0, -one, 0, 0, 0, 0, 1 << 30)
    data = clip.read_bytes()
    at = data.index(straight, data.index(b"tkhd"))
    clip.write_bytes(data[:at] + turned + data[at + 36 :])
    upright = np.rot90(lying, -1, axes=(1, 2))
    assert upright.shape[1:3] == (WIDTH, HEIGHT)

    report = inpaint_file(clip, "20,24,12,14", tmp_path / "b.mkv")

    hole = np.zeros((WIDTH, HEIGHT), bool)
    hole[24:38, 20:32] = True
    frames = decoded(tmp_path / "b.mkv")
    result = np.stack([frame.to_ndarray(format="rgb24") for frame in frames])
    np.testing.assert_array_equal(result[:, ~hole], upright[:, ~hole])
    assert (result[:, hole] != upright[:, hole]).any()
    assert [frame.pts * frame.time_base * 1000 for frame in frames] == times
    assert {frame.rotation for frame in frames} == {0}
    assert sound_packets(tmp_path / "b.mkv") == sound_packets(clip)
    assert report.changed_outside_mask == 0
