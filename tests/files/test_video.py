"""Every promise of combcn_core.clips.video, on real files made here.

Sources are made with PyAV's encoders directly, and results are read back with its decoders
directly: planes, packets and samples, without the code under test.
"""

import dataclasses
import os
import shutil
import struct
import subprocess
import tracemalloc
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from combcn_core.clips.color import downsample_chroma, upsample_chroma
from combcn_core.clips.decode import Decoder
from combcn_core.clips.formats import CODECS
from combcn_core.clips.timecode import shift_timecode
from combcn_core.clips.video import ClipInfo, ColorTags, open_reader, open_writer

from ..helpers import planar_frame

NTSC_FILM = Fraction(24000, 1001)
H264_LOSSLESS = {"qp": "0", "preset": "ultrafast"}
WEIGHTS = {1: (0.2126, 0.0722), 5: (0.299, 0.114), 9: (0.2627, 0.0593)}  # of red and blue


def count_frames(path):
    return open_reader(path).info.total_frames


# Sources


def moving_frames(count, width=64, height=48, dtype=np.uint8, seed=0):
    """Smooth colours that move: (count, height, width, 3)."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    waves = [
        np.sin(2 * np.pi * (a * x / width + b * y / height + phase))
        for a, b, phase in zip((1, 2, 1), (1, 0, -1), rng.random(3), strict=True)
    ]
    image = np.round((0.5 + 0.4 * np.stack(waves, axis=-1)) * np.iinfo(dtype).max).astype(dtype)
    return np.stack([np.roll(image, 2 * i, axis=1) for i in range(count)])


def noise_frames(count, width, height, dtype, seed=0):
    """Noise, with the darkest and the lightest value in it."""
    frames = np.random.default_rng(seed).integers(
        0, np.iinfo(dtype).max, (count, height, width, 3), dtype, endpoint=True
    )
    frames[:, 0, 0], frames[:, -1, -1] = 0, np.iinfo(dtype).max
    return frames


def frame_planes(frame):
    """The codes of a decoded frame, plane by plane."""
    dtype = np.uint8 if frame.format.components[0].bits == 8 else np.uint16
    return [
        np.frombuffer(plane, dtype).reshape(plane.height, -1)[:, : plane.width].astype(int)
        for plane in frame.planes
    ]


def make_video(
    path,
    frames,
    codec="libx264",
    pixel_format="yuv420p",
    fps=Fraction(24),
    options=None,
    color=None,
    pts=None,
    time_base=None,
    sound=(),
    metadata=None,
    aspect=None,
    gop=None,
    container_options=None,
    languages=(),
    default=None,
    sound_first=False,
):
    """Encode RGB frames, or lists of planes, with one track of sound per (codec, rate, pitch)."""
    with av.open(str(path), "w", container_options=container_options or {}) as container:
        container.metadata.update(metadata or {})
        tracks = []
        if sound_first:
            tracks += [
                (container.add_stream(name, rate=rate), rate, hz) for name, rate, hz in sound
            ]
        stream = container.add_stream(codec, rate=fps, options=options or {})
        planar = isinstance(frames[0], list)
        shape = frames[0][0].shape if planar else frames[0].shape
        stream.height, stream.width, stream.pix_fmt = *shape[:2], pixel_format
        context = stream.codec_context
        if color is not None:
            context.colorspace, context.color_range = color.matrix, color.range
            context.color_primaries, context.color_trc = color.primaries, color.transfer
        if aspect is not None:
            context.sample_aspect_ratio = aspect
        if time_base is not None:
            context.time_base = time_base
        if gop is not None:
            context.gop_size = gop
        if not sound_first:
            tracks += [
                (container.add_stream(name, rate=rate), rate, hz) for name, rate, hz in sound
            ]
        for track, _, _ in tracks:
            track.layout = "mono"
        for (track, _, _), language in zip(tracks, languages, strict=False):
            track.metadata["language"] = language
            track.disposition = int(language == default)
        for i, values in enumerate(frames):
            if planar:
                frame = planar_frame(values, pixel_format)
            else:
                frame = av.VideoFrame.from_ndarray(
                    values, "rgb24" if values.dtype == np.uint8 else "rgb48le"
                ).reformat(format=pixel_format)
            frame.pts = i if pts is None else pts[i]
            frame.time_base = time_base or 1 / fps
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        for track, rate, pitch in tracks:
            samples = sine(pitch, rate, len(frames) / fps)
            for start in range(0, len(samples), 1000):
                piece = av.AudioFrame.from_ndarray(
                    samples[None, start : start + 1000], "s16", "mono"
                )
                piece.sample_rate, piece.pts, piece.time_base = rate, start, Fraction(1, rate)
                container.mux(track.encode(piece))
            container.mux(track.encode(None))
    return path


def sine(pitch, rate, seconds):
    """A tone that grows louder, so that a shift in time shows: int16."""
    time = np.arange(int(seconds * rate)) / rate
    return np.round(12000 * (0.2 + time) * np.sin(2 * np.pi * pitch * time)).astype(np.int16)


# Results


def rewrite(source, output, **reading):
    """Take a clip over frame by frame, untouched."""
    with open_reader(source, **reading) as reader, open_writer(output, reader.info) as writer:
        for frame in reader:
            writer.write(frame.pixels)
    return output


def read_pixels(path, **reading):
    with open_reader(path, **reading) as reader:
        return np.stack([frame.pixels for frame in reader])


def decoded(path):
    with av.open(str(path)) as container:
        return list(container.decode(video=0))


def packets(path, kind, index=0):
    """(pts, duration, bytes) of the packets of one stream, times in seconds."""
    with av.open(str(path)) as container:
        stream = [s for s in container.streams if s.type == kind][index]
        return [
            (p.pts * p.time_base, p.duration * p.time_base, bytes(p))
            for p in container.demux(stream)
            if p.size
        ]


def samples(path, index=0):
    """Start in seconds, and samples in -1..1, of one sound track."""
    with av.open(str(path)) as container:
        frames = list(container.decode(audio=index))
        arrays = [frame.to_ndarray().reshape(-1).astype(float) for frame in frames]
        scale = {"s16": 2**15, "s32": 2**31, "flt": 1}[frames[0].format.name.rstrip("p")]
        return float(frames[0].pts * frames[0].time_base), np.concatenate(arrays) / scale


def leftovers(folder):
    return [path.name for path in Path(folder).iterdir() if path.name.startswith(".")]


# Colour, against the closed form of ITU-R BT.601, BT.709 and BT.2020


def rgb_to_codes(rgb, matrix, full, bits):
    """RGB in 0..1 to YCbCr codes, not rounded, as the standards write it."""
    kr, kb = WEIGHTS[matrix]
    r, g, b = rgb[..., 0], rgb[..., 1], rgb[..., 2]
    y = kr * r + (1 - kr - kb) * g + kb * b
    cb, cr = (b - y) / (2 - 2 * kb), (r - y) / (2 - 2 * kr)
    if full:
        top = 2**bits - 1
        return np.stack([y * top, cb * top + 2 ** (bits - 1), cr * top + 2 ** (bits - 1)])
    step = 2 ** (bits - 8)
    return np.stack([16 + 219 * y, 128 + 224 * cb, 128 + 224 * cr]) * step


def codes_to_rgb(codes, matrix, full, bits):
    """YCbCr codes to RGB in 0..1, clipped."""
    kr, kb = WEIGHTS[matrix]
    y, cb, cr = codes
    if full:
        top = 2**bits - 1
        y, cb, cr = y / top, (cb - 2 ** (bits - 1)) / top, (cr - 2 ** (bits - 1)) / top
    else:
        step = 2 ** (bits - 8)
        y, cb, cr = (y / step - 16) / 219, (cb / step - 128) / 224, (cr / step - 128) / 224
    r, b = y + (2 - 2 * kr) * cr, y + (2 - 2 * kb) * cb
    return np.stack([r, (y - kr * r - kb * b) / (1 - kr - kb), b], axis=-1).clip(0, 1)


PATCH = 16


def patches():
    """(48, 128, 3) in 0..1: 24 flat patches, the corners of the colour cube among them."""
    colors = np.random.default_rng(1).random((3, 8, 3))
    colors[0] = [[r, g, b] for r in (0, 1) for g in (0, 1) for b in (0, 1)]
    return colors.repeat(PATCH, axis=0).repeat(PATCH, axis=1)


def inner(values, margin=4):
    """The inside of the patches, where neighbours do not reach through chroma."""
    rows = np.arange(values.shape[0]) % PATCH
    columns = np.arange(values.shape[1]) % PATCH
    keep = (rows[:, None] >= margin) & (rows[:, None] < PATCH - margin)
    return values[keep & (columns >= margin) & (columns < PATCH - margin)]


def patch_planes(matrix, full, bits, step):
    """Rounded codes of the patches, chroma taken at every `step`."""
    codes = np.rint(rgb_to_codes(patches(), matrix, full, bits)).clip(0, 2**bits - 1)
    codes = codes.astype(np.uint8 if bits == 8 else np.uint16)
    return [codes[0], codes[1, ::step, ::step], codes[2, ::step, ::step]]


COLORS = [(matrix, full) for matrix in (1, 5, 9) for full in (False, True)]


@pytest.mark.parametrize(("matrix", "full"), COLORS)
@pytest.mark.parametrize(
    ("bits", "pixel_format", "step"),
    [(8, "yuv420p", 2), (8, "yuv444p", 1), (10, "yuv420p10le", 2), (12, "yuv444p12le", 1)],
)
def test_reading_colors_against_closed_form(tmp_path, matrix, full, bits, pixel_format, step):
    planes = patch_planes(matrix, full, bits, step)
    tags = ColorTags(matrix=matrix, range=2 if full else 1)
    path = make_video(tmp_path / "a.mkv", [planes], "ffv1", pixel_format, color=tags)
    pixels = read_pixels(path)[0]
    codes = np.stack([planes[0], *(p.repeat(step, 0).repeat(step, 1) for p in planes[1:])])
    expected = codes_to_rgb(codes.astype(float), matrix, full, bits) * np.iinfo(pixels.dtype).max
    # Half a step of rounding, and a little for 16-bit samples in between.
    tolerance = 0.51 if bits == 8 else 1
    assert pixels.dtype == (np.uint8 if bits == 8 else np.uint16)
    assert np.abs(inner(pixels) - inner(expected)).max() <= tolerance


@pytest.fixture
def lossless_mp4(monkeypatch):
    """Take the loss of H.264 out of what is measured."""
    given = CODECS["h264"]
    monkeypatch.setitem(
        CODECS,
        "h264",
        given._replace(
            settings=lambda info: (given.settings(info)[0], {**H264_LOSSLESS}), crf=None
        ),
    )


@pytest.mark.parametrize(("matrix", "full"), COLORS)
@pytest.mark.parametrize("bits", [8, 10])
@pytest.mark.usefixtures("lossless_mp4")
def test_writing_colors_against_closed_form(tmp_path, matrix, full, bits):
    dtype = np.dtype(np.uint8 if bits == 8 else np.uint16)
    pixels = np.rint(patches() * np.iinfo(dtype).max).astype(dtype)
    tags = ColorTags(matrix=matrix, range=2 if full else 1, primaries=1, transfer=13)
    info = ClipInfo(pixels.shape[1], pixels.shape[0], Fraction(24), dtype, color=tags)
    with open_writer(tmp_path / "a.mp4", info) as writer:
        writer.write(pixels)
    (frame,) = decoded(tmp_path / "a.mp4")
    given = pixels / np.iinfo(dtype).max
    expected = rgb_to_codes(given, matrix, full, bits).clip(0, 2**bits - 1)
    luma, *chroma = frame_planes(frame)
    planes = [luma, *(plane.repeat(2, 0).repeat(2, 1) for plane in chroma)]
    for plane, codes in zip(planes, expected, strict=True):
        # Half a code of rounding, and a little for 16-bit samples in between.
        assert np.abs(inner(plane - codes, margin=6)).max() <= 0.52
    assert (frame.colorspace, frame.color_range) == (matrix, 2 if full else 1)


def blurred_planes(matrix, full):
    """8-bit 4:2:0 codes of the patches with soft borders."""
    codes = rgb_to_codes(cv2.GaussianBlur(patches(), (0, 0), 4), matrix, full, 8)
    codes = np.rint(codes).clip(0, 255).astype(np.uint8)
    return [codes[0], codes[1, ::2, ::2], codes[2, ::2, ::2]]


@pytest.mark.parametrize(("matrix", "full"), COLORS)
@pytest.mark.usefixtures("lossless_mp4")
def test_untouched_clip_keeps_its_codes(tmp_path, matrix, full):
    planes = blurred_planes(matrix, full)
    tags = ColorTags(matrix, 2 if full else 1, primaries=1, transfer=1)
    source = make_video(tmp_path / "a.mp4", [planes] * 2, options=H264_LOSSLESS, color=tags)
    rewrite(source, tmp_path / "b.mp4")
    for frame in decoded(tmp_path / "b.mp4"):
        for plane, original in zip(frame_planes(frame), planes, strict=True):
            error = plane - original.astype(int)
            # 8-bit RGB in between: a code of rounding, and 2 where a corner of the cube clips.
            assert np.abs(error).max() <= 2
            assert np.mean(np.abs(error) <= 1) > 0.99
            assert abs(error.mean()) <= 0.1
    with av.open(str(tmp_path / "b.mp4")) as container:
        context = container.streams.video[0].codec_context
        assert (context.colorspace, context.color_range) == (tags.matrix, tags.range)
        assert (context.color_primaries, context.color_trc) == (1, 1)


@pytest.mark.parametrize(("matrix", "full"), COLORS)
def test_prores_keeps_colors(tmp_path, matrix, full):
    source = make_video(
        *(tmp_path / "a.mp4", [blurred_planes(matrix, full)]),
        options=H264_LOSSLESS,
        color=ColorTags(matrix, 2 if full else 1),
    )
    output = rewrite(source, tmp_path / "b.mov")
    before, after = read_pixels(source), read_pixels(output)
    assert after.dtype == np.uint16
    # ProRes has no full range, so codes change, not colours; it is lossy, on average by nothing.
    error = after / 65535 - before / 255
    assert np.abs(error.mean(axis=(0, 1, 2))).max() < 0.001
    assert np.abs(error).mean() < 0.006


def test_untagged_clip_stays_untagged(tmp_path):
    planes = blurred_planes(5, False)
    source = make_video(tmp_path / "a.mp4", [planes] * 2, options=H264_LOSSLESS)
    rewrite(source, tmp_path / "b.mp4")
    for frame in decoded(tmp_path / "b.mp4"):
        assert (frame.colorspace, frame.color_range) == (2, 0)
        for plane, original in zip(frame_planes(frame), planes, strict=True):
            # H.264 at CRF 14; on average nothing moves.
            assert abs((plane - original.astype(int)).mean()) <= 0.25


@pytest.mark.parametrize("shape", [(24, 32), (24, 16), (12, 32), (1, 1), (2, 3)])
def test_chroma_filters_undo_each_other(shape):
    chroma = np.random.default_rng(0).integers(0, 2**16, shape, dtype=np.uint16)
    for rows, columns in ((2, 2), (1, 2), (2, 1)):
        size = (shape[0] * rows, shape[1] * columns)
        again = downsample_chroma(upsample_chroma(chroma, *size), *shape)
        # Samples in between are rounded, to 1/256 of an 8-bit code.
        assert np.abs(again - chroma.astype(float)).max() <= 3


def test_untagged_large_clip_is_bt709(tmp_path):
    planes = patch_planes(1, False, 8, 2)
    wide = [np.tile(plane, (1, 9)) for plane in planes]  # 1152 wide
    path = make_video(tmp_path / "a.mkv", [wide], "ffv1")
    expected = np.tile(codes_to_rgb(rgb_to_codes(patches(), 1, False, 8), 1, False, 8), (1, 9, 1))
    # Codes were rounded: up to 1.5 of 255 in RGB.
    assert np.abs(inner(read_pixels(path)[0]) - inner(expected) * 255).max() <= 2


@pytest.mark.skipif(
    shutil.which("ffmpeg") is None and "COMBCN_CI" not in os.environ,
    reason="needs the ffmpeg command; COMBCN_CI=1 requires it",
)
@pytest.mark.parametrize(("matrix", "full"), COLORS)
def test_reading_colors_against_ffmpeg(tmp_path, matrix, full):
    tags = ColorTags(matrix=matrix, range=2 if full else 1)
    planes = patch_planes(matrix, full, 8, 2)
    path = make_video(tmp_path / "a.mkv", [planes], "ffv1", color=tags)
    command = [
        "ffmpeg",
        "-v",
        "error",
        "-i",
        str(path),
        "-sws_flags",
        "accurate_rnd+full_chroma_int",
    ]
    raw = subprocess.run(
        [*command, "-f", "rawvideo", "-pix_fmt", "rgb24", "-"], capture_output=True, check=True
    ).stdout
    expected = np.frombuffer(raw, np.uint8).reshape(patches().shape)
    # swscale rounds on its way; 2 of 255 is its own accuracy.
    assert np.abs(inner(read_pixels(path)[0].astype(int) - expected)).max() <= 2


@pytest.mark.parametrize(
    ("codec", "pixel_format", "ending"),
    [("png", "gray", ".mov"), ("png", "rgba", ".mov"), ("ffv1", "gray", ".mkv")],
)
def test_reading_gray_and_alpha(tmp_path, codec, pixel_format, ending):
    frames = noise_frames(2, 33, 17, np.uint8)
    if pixel_format == "gray":
        frames[:] = frames[..., :1]
        source = [[frame[..., 0]] for frame in frames]
    else:
        source = list(frames)
    path = make_video(tmp_path / f"a{ending}", source, codec, pixel_format)
    assert np.array_equal(read_pixels(path), frames)


# Lossless outputs


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("size", [(64, 48), (33, 17), (3, 5)])
def test_ffv1_keeps_rgb_bit_for_bit(tmp_path, dtype, size):
    frames = noise_frames(3, *size, dtype)
    info = ClipInfo(*size, NTSC_FILM, np.dtype(dtype))
    with open_writer(tmp_path / "a.mkv", info) as writer:
        for frame in frames:
            writer.write(frame)
    again = read_pixels(tmp_path / "a.mkv")
    assert again.dtype == dtype
    assert np.array_equal(again, frames)
    for frame, expected in zip(decoded(tmp_path / "a.mkv"), frames, strict=True):
        if dtype == np.uint8:
            assert frame.format.name == "bgr0"
            raw = np.frombuffer(frame.planes[0], np.uint8).reshape(size[1], -1, 4)
            assert np.array_equal(raw[:, : size[0], 2::-1], expected)
        else:
            green, blue, red = frame_planes(frame)
            assert np.array_equal(np.stack([red, green, blue], -1), expected)


@pytest.mark.parametrize(
    ("size", "pixel_format"),
    [
        ((64, 48), "yuv420p"),
        ((64, 50), "yuv420p"),
        ((64, 45), "yuv444p"),
        ((64, 49), "yuv444p"),
        ((63, 48), "yuv444p"),
    ],
)
def test_h264_takes_odd_sizes_without_subsampling(tmp_path, size, pixel_format):
    frames = moving_frames(2, *size)
    with open_writer(tmp_path / "a.mp4", ClipInfo(*size, Fraction(24))) as writer:
        for frame in frames:
            writer.write(frame)
    assert {frame.format.name for frame in decoded(tmp_path / "a.mp4")} == {pixel_format}
    again = read_pixels(tmp_path / "a.mp4")
    assert again.shape == frames.shape
    assert np.abs(again.astype(int) - frames).mean() < 4  # of a lossy format


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_png_folder_keeps_pixels_and_names(tmp_path, dtype):
    source, frames = tmp_path / "in", noise_frames(4, 33, 17, dtype)
    source.mkdir()
    names = ["shot_0098", "shot_0099", "shot_0100", "shot_1000"]
    for name, frame in zip(names, frames, strict=True):
        cv2.imwrite(str(source / f"{name}.png"), frame[..., ::-1])
    rewrite(source, tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [f"{n}.png" for n in names]
    for name, frame in zip(names, frames, strict=True):
        again = cv2.imread(str(tmp_path / "out" / f"{name}.png"), cv2.IMREAD_UNCHANGED)
        assert again.dtype == dtype
        assert np.array_equal(again[..., ::-1], frame)


def test_png_folder_of_a_range_of_a_video_has_source_numbers(tmp_path):
    source = make_video(tmp_path / "a.mp4", moving_frames(12))
    rewrite(source, tmp_path / "out", frames=(9, 11))
    assert sorted(os.listdir(tmp_path / "out")) == ["000009.png", "000010.png", "000011.png"]


# Folders of images


def test_images_in_natural_order_with_names(tmp_path):
    names = ["a1", "a2", "a9", "a10", "a11", "a100", "b1"]
    for i, name in enumerate(names):
        cv2.imwrite(str(tmp_path / f"{name}.png"), np.full((4, 6, 3), i, np.uint8))
    (tmp_path / "notes.txt").write_text("not a frame")
    (tmp_path / ".a3.png").write_bytes(b"not a frame either")
    with open_reader(tmp_path) as reader:
        frames = list(reader)
    assert [frame.name for frame in frames] == names
    assert [frame.pixels[0, 0, 0] for frame in frames] == list(range(7))
    assert [frame.index for frame in frames] == list(range(7))
    assert reader.info.fps is None
    assert (reader.info.width, reader.info.height, reader.info.num_frames) == (6, 4, 7)
    assert reader.info.total_frames == 7


@pytest.mark.parametrize("ending", [".png", ".tif"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_images_become_rgb(tmp_path, ending, dtype, channels):
    image = noise_frames(1, 7, 5, dtype)[0]
    stored = {1: image[..., 0], 3: image, 4: np.dstack([image, image[..., :1]])}[channels]
    cv2.imwrite(str(tmp_path / f"1{ending}"), stored)  # BGR
    expected = image[..., :1].repeat(3, axis=2) if channels == 1 else image[..., ::-1]
    (frame,) = open_reader(tmp_path / f"1{ending}")
    assert frame.pixels.dtype == dtype
    assert frame.pixels.flags.c_contiguous
    assert np.array_equal(frame.pixels, expected)


def test_jpeg_is_rgb(tmp_path):
    image = np.full((16, 16, 3), (200, 100, 50), np.uint8)
    cv2.imwrite(str(tmp_path / "1.jpg"), image[..., ::-1])
    # A flat colour loses no more than rounding in JPEG.
    assert np.abs(read_pixels(tmp_path).astype(int) - image).max() <= 2


def test_images_reject_mixed_sizes_depths_and_names(tmp_path):
    cv2.imwrite(str(tmp_path / "1.png"), np.zeros((4, 6, 3), np.uint8))
    cv2.imwrite(str(tmp_path / "2.png"), np.zeros((4, 7, 3), np.uint8))
    with pytest.raises(ValueError, match=r"2\.png is 7x4 uint8 but the first is 6x4 uint8"):
        list(open_reader(tmp_path))
    cv2.imwrite(str(tmp_path / "2.png"), np.zeros((4, 6, 3), np.uint16))
    with pytest.raises(ValueError, match="6x4 uint16 but the first is 6x4 uint8"):
        list(open_reader(tmp_path))
    cv2.imwrite(str(tmp_path / "2.jpg"), np.zeros((4, 6, 3), np.uint8))
    with pytest.raises(ValueError, match="two images 2"):
        open_reader(tmp_path)


def test_images_reject_a_broken_one(tmp_path):
    cv2.imwrite(str(tmp_path / "1.png"), noise_frames(1, 32, 32, np.uint8)[0])
    data = (tmp_path / "1.png").read_bytes()
    (tmp_path / "2.png").write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match=r"2\.png does not decode; replace"):
        list(open_reader(tmp_path))


def test_images_become_a_video_only_with_a_rate(tmp_path):
    (tmp_path / "in").mkdir()
    frames = moving_frames(3)
    for i, frame in enumerate(frames):
        cv2.imwrite(str(tmp_path / "in" / f"{i}.png"), frame[..., ::-1])
    reader = open_reader(tmp_path / "in")
    with pytest.raises(ValueError, match="has no frame rate; pass --fps"):
        open_writer(tmp_path / "a.mp4", reader.info)
    with open_writer(tmp_path / "a.mp4", reader.info, fps=NTSC_FILM) as writer:
        for frame in reader:
            writer.write(frame.pixels)
    info = open_reader(tmp_path / "a.mp4").info
    assert (info.fps, info.num_frames) == (NTSC_FILM, 3)
    assert (info.color.matrix, info.color.range) == (1, 1)
    # BT.709 said and done: CRF 14 alone, and chroma at half size, on smooth frames.
    assert np.abs(read_pixels(tmp_path / "a.mp4").astype(int) - frames).mean() < 2


# Time


@pytest.mark.parametrize("fps", [NTSC_FILM, Fraction(25), Fraction(30000, 1001), Fraction(60)])
@pytest.mark.parametrize("ending", [".mp4", ".mkv", ".mov"])
def test_rate_and_count_come_through(tmp_path, fps, ending):
    source = make_video(tmp_path / "a.mp4", moving_frames(25), fps=fps)
    output = rewrite(source, tmp_path / f"b{ending}")
    with av.open(str(output)) as container:
        stream = container.streams.video[0]
        assert stream.average_rate == fps
        frames = list(container.decode(stream))
    assert len(frames) == open_reader(output).info.total_frames == 25
    tick = frames[0].time_base  # Matroska has milliseconds
    for i, frame in enumerate(frames):
        assert abs(frame.pts * tick - i / fps) <= (tick if ending == ".mkv" else 0)
    reader = open_reader(output)
    assert reader.info.fps == fps
    assert reader.info.pts is None
    assert open_reader(source).info.num_frames == 25


VARIABLE_PTS = [0, 40, 100, 110, 260, 300, 333, 600, 640, 641]


@pytest.mark.parametrize("ending", [".mp4", ".mkv", ".mov"])
def test_variable_rate_keeps_time_stamps(tmp_path, ending):
    source = make_video(
        tmp_path / "a.mp4", moving_frames(10), pts=VARIABLE_PTS, time_base=Fraction(1, 1000)
    )
    reader = open_reader(source)
    times = [frame.pts * reader.info.time_base for frame in reader]
    assert times == [Fraction(pts, 1000) for pts in VARIABLE_PTS]
    assert reader.info.fps == Fraction(9, 641) * 1000
    output = rewrite(source, tmp_path / f"b{ending}")
    assert [frame.pts * frame.time_base for frame in decoded(output)] == times
    rewrite(source, tmp_path / f"c{ending}", frames=(3, 6))
    cut = [frame.pts * frame.time_base for frame in decoded(tmp_path / f"c{ending}")]
    assert cut == [time - times[3] for time in times[3:7]]


@pytest.mark.parametrize("clock", ["30", "15360"])  # ticks a second
def test_dropped_frame_is_a_variable_rate(tmp_path, clock):
    pts = [0, 1, 2, 4, 5, 6]
    source = make_video(
        *(tmp_path / "a.mp4", moving_frames(6)),
        fps=Fraction(30),
        pts=pts,
        container_options={"video_track_timescale": clock},
    )
    assert open_reader(source).info.time_base == Fraction(1, int(clock))
    output = rewrite(source, tmp_path / "b.mp4")
    assert [frame.pts * frame.time_base * 30 for frame in decoded(output)] == pts


def test_rounded_times_are_no_variable_rate(tmp_path):
    clock = 90000
    pts = [round(i / NTSC_FILM * clock) for i in range(25)]  # 3753.75 a frame
    source = make_video(
        *(tmp_path / "a.mp4", moving_frames(25)),
        fps=NTSC_FILM,
        pts=pts,
        time_base=Fraction(1, clock),
    )
    info = open_reader(source).info
    assert (info.fps, info.pts) == (NTSC_FILM, None)


def test_matroska_milliseconds_are_no_variable_rate(tmp_path):
    source = make_video(tmp_path / "a.mkv", moving_frames(30), fps=NTSC_FILM)
    assert open_reader(source).info.pts is None
    output = rewrite(source, tmp_path / "b.mp4")
    assert [f.pts * f.time_base for f in decoded(output)] == [i / NTSC_FILM for i in range(30)]


@pytest.mark.parametrize("span", [(0, 3), (7, 7), (13, 20), (29, 29)])
def test_range_equals_slice(tmp_path, span):
    source = make_video(tmp_path / "a.mp4", moving_frames(30), gop=6)
    with open_reader(source, frames=span) as reader:
        frames = list(reader)
        assert np.array_equal([f.pixels for f in reader], [f.pixels for f in frames])  # again
    assert [frame.index for frame in frames] == list(range(span[0], span[1] + 1))
    assert reader.info.num_frames == len(frames)
    assert reader.info.total_frames == 30
    whole = read_pixels(source)
    assert np.array_equal([f.pixels for f in frames], whole[span[0] : span[1] + 1])


def test_range_begins_decoding_at_a_key_frame(tmp_path, monkeypatch):
    source = make_video(tmp_path / "a.mp4", moving_frames(30), gop=6)
    reader = open_reader(source, frames=(20, 21))
    seen = []
    decode = type(reader)._decode
    monkeypatch.setattr(
        type(reader), "_decode", lambda *a: (seen.append(pair[0]) or pair for pair in decode(*a))
    )
    list(reader)
    assert seen == [18, 19, 20, 21, 22]  # up to the first one that is not wanted


@pytest.mark.parametrize("span", [(0, 4), (16, 19), (22, 25), (31, 31), (38, 40)])
@pytest.mark.parametrize("bframes", [0, 3])
def test_range_of_a_clip_that_is_refreshed_bit_by_bit_equals_slice(tmp_path, bframes, span):
    """FFmpeg shows frames from some time after a recovery point on, not all of them whole."""
    options = {"x264-params": f"keyint=16:intra-refresh=1:bframes={bframes}"}
    source = make_video(tmp_path / "a.mp4", moving_frames(41, 128, 96), options=options)
    found = read_pixels(source, frames=span)
    np.testing.assert_array_equal(found, read_pixels(source)[span[0] : span[1] + 1])


@pytest.mark.parametrize("ending", [".mp4", ".mkv"])
def test_reading_goes_on_from_what_opening_decoded(tmp_path, monkeypatch, ending):
    source = make_video(tmp_path / f"a{ending}", moving_frames(12), gop=5)
    expected = decoded(source)
    counts = []
    decode = Decoder.decode

    def counted(self, packet):
        counts.append(packet is not None and packet.size > 0)
        return decode(self, packet)

    monkeypatch.setattr(Decoder, "decode", counted)
    reader = open_reader(source)
    first = [frame.picture.samples() for frame in reader]
    assert sum(counts) == len(packets(source, "video"))  # each of them once
    again = [frame.picture.samples() for frame in reader]
    # As a command does, which looks at a file before it reads it.
    counts.clear()
    make_video(source, moving_frames(13), gop=5)
    looked = open_reader(source)
    assert [frame.index for frame in open_reader(source)] == list(looked.info.indices)
    assert sum(counts) == 13
    for planes, same, frame in zip(first, again, expected, strict=True):
        for values in zip(planes, same, frame_planes(frame), strict=True):
            assert np.array_equal(values[0], values[2])
            assert np.array_equal(values[1], values[2])


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="needs /proc")
def test_files_stay_open_only_for_their_readers(tmp_path):
    def names():
        links = [f"/proc/self/fd/{number}" for number in os.listdir("/proc/self/fd")]
        paths = [Path(os.readlink(link)) for link in links if os.path.lexists(link)]
        return sorted(path.name for path in paths if path.parent == tmp_path)

    sources = [make_video(tmp_path / f"{name}.mp4", moving_frames(3)) for name in "abc"]
    one, two = open_reader(sources[0]), open_reader(sources[1])
    assert open_reader(sources[2]).info.total_frames == 3
    assert names() == ["a.mp4", "b.mp4"]
    same = open_reader(sources[0])
    assert [frame.index for frame in same] == [frame.index for frame in one] == [0, 1, 2]
    assert names() == ["b.mp4"]
    del two
    assert names() == []
    with open_reader(sources[2], frames=(1, 1)) as reader:
        assert [frame.index for frame in reader] == [1]
    assert names() == []


@pytest.mark.parametrize("span", [(-1, 3), (5, 4), (3, 10)])
def test_range_rejects_what_is_not_there(tmp_path, span):
    source = make_video(tmp_path / "a.mp4", moving_frames(10))
    with pytest.raises(ValueError, match=rf"frames {span[0]}-{span[1]} .* has frames 0-9; give"):
        open_reader(source, frames=span)


def test_edit_list_hides_frames_and_is_no_damage(tmp_path):
    source = make_video(tmp_path / "a.mp4", moving_frames(24))
    with av.open(str(source)) as given, av.open(str(tmp_path / "b.mp4"), "w") as output:
        stream = given.streams.video[0]
        copy = output.add_stream("libx264", rate=24)
        copy.width, copy.height, copy.pix_fmt = 64, 48, "yuv420p"
        copy.codec_context.open()
        copy.codec_context.extradata = stream.codec_context.extradata
        for packet in given.demux(stream):
            if packet.size:
                shift = 5 * packet.duration
                packet.pts, packet.dts, packet.stream = packet.pts - shift, packet.dts - shift, copy
                output.mux(packet)
    with av.open(str(tmp_path / "b.mp4")) as container:
        assert container.streams.video[0].frames == 24  # stated in the file
    assert len(decoded(tmp_path / "b.mp4")) == 19
    assert open_reader(tmp_path / "b.mp4").info.total_frames == 19
    assert len(read_pixels(tmp_path / "b.mp4")) == 19

    data = bytearray((tmp_path / "b.mp4").read_bytes())
    at = data.index(b"elst") + 12  # after type, version and count: for how long, in milliseconds
    data[at : at + 4] = (500).to_bytes(4, "big")
    (tmp_path / "c.mp4").write_bytes(data)
    shown = len(decoded(tmp_path / "c.mp4"))
    assert shown == count_frames(tmp_path / "c.mp4") == len(read_pixels(tmp_path / "c.mp4")) < 19


# Size, rotation, tags


@pytest.mark.parametrize("ending", [".mp4", ".mkv", ".mov"])
@pytest.mark.parametrize("size", [(33, 48), (32, 17), (63, 47)])
def test_odd_sizes(tmp_path, ending, size):
    frames = moving_frames(3, *size)
    with open_writer(tmp_path / f"a{ending}", ClipInfo(*size, Fraction(24))) as writer:
        for frame in frames:
            writer.write(frame)
    again = read_pixels(tmp_path / f"a{ending}")
    if again.dtype == np.uint16:
        again = again >> 8
    assert again.shape == frames.shape
    # Lossy: x264 spends less on the colour of 4:4:4.
    assert np.abs(again.astype(int) - frames).mean() < 4


def test_odd_size_of_subsampled_source(tmp_path):
    planes = [np.full((17, 33), 81, np.uint8), np.full((9, 17), 90, np.uint8)]
    path = make_video(tmp_path / "a.mkv", [[*planes, np.full((9, 17), 240, np.uint8)]], "ffv1")
    pixels = read_pixels(path)
    assert pixels.shape == (1, 17, 33, 3)
    assert np.abs(pixels.astype(int) - (254, 0, 0)).max() <= 1  # red, in BT.601's codes


@pytest.mark.parametrize(
    ("pixel_format", "rows", "columns"), [("yuv411p", 1, 4), ("yuv440p", 2, 1)]
)
def test_colors_of_rare_subsamplings(tmp_path, pixel_format, rows, columns):
    height, width = 24, 64
    luma = np.full((height, width), 81, np.uint8)
    chroma = np.full((2, height // rows, width // columns), 90, np.uint8)
    chroma[1] = 240  # BT.601's red
    chroma[:, :, width // columns // 2 :] = 128  # and gray on the right
    path = make_video(tmp_path / "a.mkv", [[luma, *chroma]], "ffv1", pixel_format)
    pixels = read_pixels(path)[0].astype(int)
    assert pixels.shape == (height, width, 3)
    # Chroma is spread by a filter: away from the edge it is what it was, but for rounding.
    assert np.abs(pixels[:, :24] - (254, 0, 0)).max() <= 2
    assert np.abs(pixels[:, 40:] - 76).max() <= 2


ORIENTATIONS = {  # display matrix a, b, c, d -> what viewers show
    (1, 0, 0, 1): lambda image: image,
    (0, 1, -1, 0): lambda image: np.rot90(image, -1),  # a telephone held upright
    (-1, 0, 0, -1): lambda image: np.rot90(image, 2),
    (0, -1, 1, 0): lambda image: np.rot90(image, 1),
    (-1, 0, 0, 1): lambda image: image[:, ::-1],
    (0, 1, 1, 0): lambda image: image.swapaxes(0, 1),
    (1, 0, 0, -1): lambda image: image[::-1],
    (0, -1, -1, 0): lambda image: image[::-1, ::-1].swapaxes(0, 1),
}


@pytest.mark.parametrize("matrix", ORIENTATIONS)
def test_rotation_is_applied(tmp_path, matrix):
    source = make_video(tmp_path / "a.mp4", moving_frames(3), aspect=Fraction(4, 3))
    upright = read_pixels(source)
    one = 1 << 16
    identity = struct.pack(">9i", one, 0, 0, 0, one, 0, 0, 0, 1 << 30)
    a, b, c, d = (value * one for value in matrix)
    data = bytearray(source.read_bytes())
    at = data.index(identity, data.index(b"tkhd"))
    data[at : at + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    (tmp_path / "b.mp4").write_bytes(data)
    expected = np.stack([ORIENTATIONS[matrix](image) for image in upright])
    pixels = read_pixels(tmp_path / "b.mp4")
    assert np.array_equal(pixels, expected)
    info = open_reader(tmp_path / "b.mp4").info
    assert (info.width, info.height) == (expected.shape[2], expected.shape[1])
    same_size = expected.shape == upright.shape
    assert info.is_turned == (not same_size)
    assert info.is_flipped == (same_size and matrix != (1, 0, 0, 1))
    assert info.sample_aspect_ratio == (Fraction(3, 4) if matrix[0] == 0 else Fraction(4, 3))
    # The result is upright without a display matrix.
    output = rewrite(tmp_path / "b.mp4", tmp_path / "c.mkv")
    assert np.array_equal(read_pixels(output), expected)
    assert decoded(output)[0].rotation == 0


@pytest.mark.parametrize("ending", [".mp4", ".mkv", ".mov"])
def test_tags_come_through(tmp_path, ending):
    tags = ColorTags(matrix=1, range=1, primaries=9, transfer=16)
    metadata = {"title": "Wire removal", "comment": "take 2", "artist": "A. Grader"}
    source = make_video(
        *(tmp_path / "a.mp4", moving_frames(3)),
        color=tags,
        metadata=metadata,
        aspect=Fraction(4, 3),
    )
    output = rewrite(source, tmp_path / f"b{ending}")
    with av.open(str(output)) as container:
        found = {key.lower(): value for key, value in container.metadata.items()}
        context = container.streams.video[0].codec_context
        assert {key: found[key] for key in metadata} == metadata
        assert (context.color_primaries, context.color_trc) == (9, 16)
        if ending != ".mkv":  # cannot be said to this muxer
            assert container.streams.video[0].sample_aspect_ratio == Fraction(4, 3)
        # RGB has no matrix to tag: 0 says so.
        assert context.colorspace == (0 if ending == ".mkv" else 1)
        if ending != ".mov":  # older FFmpeg does not say it: ProRes has but one
            assert context.color_range == (2 if ending == ".mkv" else 1)


def test_tags_that_mp4_has_no_name_for_come_through(tmp_path):
    metadata = {"title": "Shot 7", "com.example.scene": "12B"}
    source = make_video(tmp_path / "a.mkv", moving_frames(3), metadata=metadata)
    output = rewrite(source, tmp_path / "b.mp4")
    with av.open(str(output)) as container:
        found = {key.lower(): value for key, value in container.metadata.items()}
    assert {key: found[key] for key in metadata} == metadata


def timecodes(path):
    """Of the streams of a file, and of the file."""
    with av.open(str(path)) as container:
        owners = [container, *container.streams]
        tags = [{k.lower(): v for k, v in owner.metadata.items()} for owner in owners]
    return [owner["timecode"] for owner in tags if "timecode" in owner]


FILM, NTSC = Fraction(24), Fraction(30000, 1001)


@pytest.mark.parametrize(
    ("source", "codec", "fps", "start", "later"),
    [
        ("a.mov", "prores_ks", FILM, "01:02:03:04", "01:02:03:07"),
        ("a.mp4", "libx264", FILM, "01:02:03:22", "01:02:04:01"),
        ("a.mkv", "ffv1", FILM, "23:59:59:22", "00:00:00:01"),
        ("a.mxf", "mpeg2video", FILM, "01:02:03:04", "01:02:03:07"),
        ("a.mov", "prores_ks", NTSC, "01:02:59;28", "01:03:00;03"),
    ],
)
def test_time_code_names_the_first_frame(tmp_path, source, codec, fps, start, later):
    pixel_format = "yuv422p10le" if codec == "prores_ks" else "yuv420p"
    path = make_video(
        *(tmp_path / source, moving_frames(6), codec, pixel_format, fps),
        metadata={"timecode": start},
    )
    assert start in timecodes(path)
    for ending in (".mov", ".mp4", ".mkv"):
        for span, expected in (((0, 5), start), ((3, 5), later)):
            output = rewrite(path, tmp_path / f"{span[0]}{ending}", frames=span)
            assert set(timecodes(output)) == {expected}
            # The track that editors read, beside the tag.
            assert (b"tmcd" in output.read_bytes()) == (ending != ".mkv")


@pytest.mark.parametrize("fps", [NTSC, 2 * NTSC, NTSC_FILM, Fraction(25)])
def test_shifted_time_code_against_counting(fps):
    nominal = round(fps)
    dropped = {30: 2, 60: 4}.get(nominal, 0)
    separator = ";" if dropped else ":"
    labels = [
        f"{second // 3600:02}:{second // 60 % 60:02}:{second % 60:02}{separator}{frame:02}"
        for second in range(0, 3600 * 25)
        if second < 1300 or second > 24 * 3600 - 700
        for frame in range(nominal)
        if not (second % 60 == 0 and second // 60 % 10 and frame < dropped)
    ]
    midnight = next(i for i, label in enumerate(labels) if label.startswith("24:00:00"))
    labels = labels[:midnight]
    rng = np.random.default_rng(0)
    first_part = next(i for i, label in enumerate(labels) if label.startswith("23:"))
    for first in rng.integers(0, first_part // 2, 200):
        count = int(rng.integers(0, first_part - first))
        assert shift_timecode(labels[first], count, fps) == labels[first + count]
    # Over midnight.
    assert shift_timecode(labels[-5], 7, fps) == labels[2]


def test_time_code_that_says_nothing_is_left_out(tmp_path):
    odd = [("", FILM), ("noon", FILM), ("01:02:03:04", Fraction(23)), ("01:02:03;04", FILM)]
    for timecode, fps in odd:
        assert shift_timecode(timecode, 0, fps) == ""
        info = ClipInfo(64, 48, fps, stream_metadata={"timecode": timecode})
        with open_writer(tmp_path / "a.mov", info) as writer:
            writer.write(moving_frames(1)[0])
        assert timecodes(tmp_path / "a.mov") == []


# Sound


@pytest.mark.parametrize("ending", [".mp4", ".mkv", ".mov"])
def test_sound_is_copied(tmp_path, ending):
    tracks = [("aac", 44100, 440), ("aac", 48000, 880)]
    source = make_video(tmp_path / "a.mp4", moving_frames(24), fps=NTSC_FILM, sound=tracks)
    output = rewrite(source, tmp_path / f"b{ending}")
    for index in range(2):
        given, written = packets(source, "audio", index), packets(output, "audio", index)
        assert [data for _, _, data in written] == [data for _, _, data in given]
        tick = Fraction(1, 1000) if ending == ".mkv" else 0
        for before, after in zip(given, written, strict=True):
            assert abs(after[0] - before[0]) <= tick
        (start, before), (start_after, after) = samples(source, index), samples(output, index)
        # Older FFmpeg decodes what Matroska tells it to skip, ahead of the start.
        assert start == 0
        assert start_after <= 0
        assert np.array_equal(after[-len(before) :], before)
        if start_after == 0:
            assert len(after) == len(before)
    with av.open(str(output)) as container:
        assert container.streams.video[0].start_time == 0


@pytest.mark.parametrize("ending", [".mp4", ".mkv", ".mov"])
def test_sound_tracks_keep_language_and_default(tmp_path, ending):
    languages = ["eng", "fra", "ita"]
    source = make_video(
        *(tmp_path / "a.mkv", moving_frames(24)),
        sound=[("aac", 48000, pitch) for pitch in (440, 550, 660)],
        languages=languages,
        default="fra",
    )
    output = rewrite(source, tmp_path / f"b{ending}")
    with av.open(str(output)) as container:
        tracks = container.streams.audio
        assert [track.metadata["language"] for track in tracks] == languages
        assert [track.disposition.value & 1 for track in tracks] == [0, 1, 0]
    for index in range(3):
        given, written = (packets(path, "audio", index) for path in (source, output))
        assert [data for _, _, data in written] == [data for _, _, data in given]


@pytest.mark.parametrize("ending", [".mp4", ".mkv"])
def test_sound_ahead_of_the_picture_among_the_streams(tmp_path, ending):
    source = make_video(
        tmp_path / "a.mkv", moving_frames(24), sound=[("aac", 48000, 440)], sound_first=True
    )
    with av.open(str(source)) as container:
        assert container.streams.audio[0].index == 0
    output = rewrite(source, tmp_path / f"b{ending}")
    assert count_frames(output) == 24
    given, written = (packets(path, "audio", 0) for path in (source, output))
    assert [data for _, _, data in written] == [data for _, _, data in given]


@pytest.mark.parametrize(
    ("source_ending", "sound", "ending", "codec"),
    [
        (".mkv", "pcm_s16le", ".mov", "pcm_s16le"),
        (".mkv", "flac", ".mp4", "flac"),
        (".mkv", "flac", ".mov", "pcm_s24le"),
        (".mov", "pcm_s16be", ".mkv", "pcm_s16be"),
        (".avi", "pcm_mulaw", ".mkv", "flac"),
        (".avi", "pcm_mulaw", ".mp4", "aac"),
    ],
)
def test_sound_is_encoded_where_the_container_cannot_take_it(
    tmp_path, source_ending, sound, ending, codec
):
    video = ("mjpeg", "yuvj420p") if source_ending == ".avi" else ("libx264", "yuv420p")
    source = make_video(
        tmp_path / f"a{source_ending}", moving_frames(24), *video, sound=[(sound, 16000, 440)]
    )
    output = rewrite(source, tmp_path / f"b{ending}")
    with av.open(str(output)) as container:
        assert container.streams.audio[0].codec_context.name == codec
        assert container.streams.audio[0].rate == 16000
    (start, before), (start_after, after) = samples(source), samples(output)
    assert start == start_after == 0
    if codec == "aac":
        length = min(len(before), len(after))
        # Lossy, but in time: a shift by one sample would leave 17% of the tone.
        assert np.abs(after[:length] - before[:length]).mean() < 0.05 * np.abs(before).mean()
    else:
        assert np.array_equal(after[: len(before)], before)


def test_sound_of_a_range_is_cut_and_in_time(tmp_path):
    source = make_video(tmp_path / "a.mp4", moving_frames(48), sound=[("aac", 48000, 440)])
    output = rewrite(source, tmp_path / "b.mp4", frames=(12, 35))
    start, before = samples(source)
    start_after, after = samples(output)
    assert start == start_after == 0
    # From frame 12, at 0.5 s, sample for sample; at most one packet of 1024 beyond frame 35.
    assert 48000 <= len(after) <= 48000 + 1024
    # The decoder of AAC fills some bands with noise that depends on what it decoded before.
    assert np.abs(after - before[24000 : 24000 + len(after)]).max() < 1e-3


def test_sound_of_a_range_in_matroska_is_in_time(tmp_path):
    source = make_video(tmp_path / "a.mkv", moving_frames(48), sound=[("pcm_s16le", 44100, 440)])
    output = rewrite(source, tmp_path / "b.mkv", frames=(12, 35))
    before, (start, after) = samples(source)[1], samples(output)
    with av.open(str(output)) as container:
        assert container.streams.video[0].start_time == 0
    first = round((0.5 + start) * 44100)
    shift = min(
        range(-48, 49), key=lambda s: np.abs(after[:9999] - before[first + s :][:9999]).sum()
    )
    # Matroska has milliseconds, that is 44 samples; the samples are those of the source.
    assert np.array_equal(after, before[first + shift :][: len(after)])
    assert start + len(after) / 44100 >= 1 - 0.001


def test_sound_of_a_range_copied_into_matroska_is_in_time(tmp_path):
    source = make_video(tmp_path / "a.mp4", moving_frames(48), sound=[("aac", 48000, 440)])
    output = rewrite(source, tmp_path / "b.mkv", frames=(13, 35))
    given = {data: time for time, _, data in packets(source, "audio")}
    written = packets(output, "audio")
    assert packets(output, "video")[0][0] == 0
    for time, _, data in written:
        assert abs(time - (given[data] - Fraction(13, 24))) <= Fraction(1, 1000)
    # The padding that Matroska skips, and what tools round to nothing.
    assert -0.027 < written[0][0] <= 0
    assert written[-1][0] + written[-1][1] >= Fraction(23, 24)


def test_sound_of_another_start_stays_in_time(tmp_path):
    # A transport stream starts at 1.4 s, its first frame later.
    source = make_video(tmp_path / "a.ts", moving_frames(24), sound=[("aac", 48000, 440)])
    output = rewrite(source, tmp_path / "b.mp4")
    first = [packets(path, "video")[0][0] for path in (source, output)]
    given, written = packets(source, "audio"), packets(output, "audio")
    assert first[1] == 0
    # The clock of the source has 90000 ticks a second.
    assert abs((written[5][0] - first[1]) - (given[5][0] - first[0])) <= Fraction(2, 90000)


def test_sound_and_frames_are_interleaved(tmp_path):
    source = make_video(tmp_path / "a.mp4", moving_frames(96), sound=[("aac", 48000, 440)])
    output = rewrite(source, tmp_path / "b.mkv")
    with av.open(str(output)) as container:
        times = [(p.stream.type, float(p.pts * p.time_base)) for p in container.demux() if p.size]
    latest = {"video": 0.0, "audio": 0.0}
    for kind, time in times:
        latest[kind] = max(latest[kind], time)
        assert abs(latest["video"] - latest["audio"]) < 0.25


def test_without_sound_there_is_no_track(tmp_path):
    source = make_video(tmp_path / "a.mp4", moving_frames(3), sound=[("aac", 48000, 440)])
    reader = open_reader(source)
    with open_writer(tmp_path / "b.mp4", dataclasses.replace(reader.info, has_sound=False)) as out:
        for frame in reader:
            out.write(frame.pixels)
    with av.open(str(tmp_path / "b.mp4")) as container:
        assert not container.streams.audio


# Damage


def truncated(source, path, keep):
    data = source.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])
    return path


@pytest.mark.parametrize(
    ("ending", "codec", "pixel_format"),
    [
        (".mp4", "libx264", "yuv420p"),
        (".mkv", "libx264", "yuv420p"),
        (".mkv", "ffv1", "bgr0"),
        (".avi", "mjpeg", "yuvj420p"),
        (".mov", "prores_ks", "yuv422p10le"),
    ],
)
def test_truncated_file(tmp_path, ending, codec, pixel_format):
    options = {"movflags": "+faststart"} if ending in (".mp4", ".mov") else {}
    frames = noise_frames(24, 64, 48, np.uint8)
    source = make_video(
        tmp_path / f"a{ending}", list(frames), codec, pixel_format, container_options=options
    )
    path = truncated(source, tmp_path / f"b{ending}", 0.7)
    with pytest.raises(
        ValueError, match=r"cut short or damaged: \d+.* frames decoded; .*--allow-tr"
    ):
        open_reader(path)
    whole = read_pixels(source)
    with open_reader(path, allow_truncated=True) as reader:
        again = [frame.pixels for frame in reader]
    assert 8 <= len(again) == reader.info.num_frames < 24
    assert reader.info.truncated
    # The last frame of H.264 may be one that was to be shown later.
    assert np.array_equal(again[:-4], whole[: len(again) - 4])


def test_truncation_by_one_byte_is_noticed(tmp_path):
    for ending, options in ((".mp4", {"movflags": "+faststart"}), (".mkv", {})):
        source = make_video(tmp_path / f"a{ending}", moving_frames(5), container_options=options)
        assert count_frames(source) == 5
        source.write_bytes(source.read_bytes()[:-1])
        with pytest.raises(ValueError, match="cut short"):
            open_reader(source)


def test_truncation_between_two_packets_is_noticed(tmp_path):
    options = {"movflags": "+faststart"}
    source = make_video(tmp_path / "a.mp4", moving_frames(5), container_options=options)
    last = max(at for at, _ in packet_places(source))
    source.write_bytes(source.read_bytes()[:last])
    with pytest.raises(ValueError, match="cut short or damaged: 4 of 5 frames"):
        open_reader(source)


def packet_places(path):
    """Offset and size of each packet of video in a file."""
    with av.open(str(path)) as container:
        return [(p.pos, p.size) for p in container.demux(video=0) if p.size]


@pytest.mark.parametrize("kind", ["h264.mp4", "ffv1.mkv", "png.mov"])
def test_broken_packets_in_the_middle(tmp_path, kind):
    path = tmp_path / kind
    frames = noise_frames(24, 64, 48, np.uint8)
    if kind == "ffv1.mkv":
        with open_writer(path, ClipInfo(64, 48, Fraction(24))) as writer:
            for frame in frames:
                writer.write(frame)
    else:
        codec, form = {"h264.mp4": ("libx264", "yuv420p"), "png.mov": ("png", "rgb24")}[kind]
        make_video(path, list(frames), codec, form)
    whole = read_pixels(path)
    at, size = packet_places(path)[12]
    data = bytearray(path.read_bytes())
    data[at + size // 2 : at + size] = bytes(size - size // 2)
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"damaged: \d+ of 24 frames decoded; .*--allow-truncated"):
        list(open_reader(path))
    with open_reader(path, allow_truncated=True) as reader:
        frames = list(reader)
    assert [frame.index for frame in frames] == list(reader.info.indices)
    assert len(frames) == reader.info.num_frames >= 23
    if kind != "h264.mp4":  # in H.264 damage spreads
        assert [f.index for f in frames] == [i for i in range(24) if i != 12]
        assert all(np.array_equal(f.pixels, whole[f.index]) for f in frames)
        assert reader.info.total_frames == 24
        output = rewrite(path, tmp_path / "out.mkv", allow_truncated=True)
        # What follows the gap stays in time with the sound.
        assert abs(packets(output, "video")[-1][0] - Fraction(23, 24)) <= Fraction(1, 1000)


def test_damage_before_a_range_is_no_matter(tmp_path):
    path = tmp_path / "a.mkv"
    with open_writer(path, ClipInfo(64, 48, Fraction(24))) as writer:
        for frame in noise_frames(8, 64, 48, np.uint8):
            writer.write(frame)
    at, size = packet_places(path)[2]
    data = bytearray(path.read_bytes())
    data[at + size // 2] ^= 1  # one bit
    path.write_bytes(data)
    assert len(list(open_reader(path, frames=(4, 7)))) == 4
    with pytest.raises(ValueError, match="2 of 8 frames decoded"):
        list(open_reader(path, frames=(1, 5)))


@pytest.mark.parametrize(
    ("ending", "container_options"),
    [
        (".mp4", {"movflags": "+frag_keyframe+empty_moov"}),
        (".mkv", {"live": "1"}),  # states neither size nor duration
        (".ts", {}),
        (".avi", {}),
        (".webm", {}),
    ],
)
def test_ordinary_files_raise_no_alarm(tmp_path, ending, container_options):
    codec = {".webm": "libvpx", ".avi": "mpeg4"}.get(ending, "libx264")
    sound = [("libopus" if ending == ".webm" else "aac", 48000, 440)]
    source = make_video(
        *(tmp_path / f"a{ending}", moving_frames(24), codec),
        gop=8,
        sound=sound,
        container_options=container_options,
    )
    assert len(read_pixels(source)) == count_frames(source) == len(decoded(source)) == 24


@pytest.mark.parametrize("options", ["open-gop=0", "open-gop=1:bframes=3"])
def test_clip_that_begins_between_key_frames_is_no_damage(tmp_path, options):
    options = {"x264-params": f"keyint=8:min-keyint=8:scenecut=0:{options}"}
    frames = list(noise_frames(32, 64, 48, np.uint8))
    source = make_video(tmp_path / "a.ts", frames, options=options)
    data = source.read_bytes()
    source.write_bytes(data[len(data) // 188 // 3 * 188 :])  # as cut out of a broadcast
    count = len(decoded(source))
    assert 8 <= count < 32
    assert len(read_pixels(source)) == count_frames(source) == count


def test_last_frame_that_stays_long_is_no_damage(tmp_path):
    source = tmp_path / "a.mkv"
    with av.open(str(source), "w") as container:
        stream = container.add_stream("mjpeg", rate=24)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuvj420p"
        for i, pixels in enumerate(moving_frames(3)):
            frame = av.VideoFrame.from_ndarray(pixels, "rgb24").reformat(format="yuvj420p")
            (packet,) = stream.encode(frame)
            packet.pts = packet.dts = 48 * i
            packet.duration = 48
            container.mux(packet)
    with av.open(str(source)) as container:
        assert container.duration == 6_000_000
    assert [frame.pts for frame in open_reader(source)] == [0, 2000, 4000]

    # Other muxers state how long it stays in the duration alone.
    data = source.read_bytes()
    at = data.index(b"\x44\x89\x88") + 3
    for milliseconds, is_damaged in ((8000, False), (60000, True)):
        source.write_bytes(data[:at] + struct.pack(">d", milliseconds) + data[at + 8 :])
        if is_damaged:
            with pytest.raises(ValueError, match="cut short or damaged"):
                open_reader(source)
        else:
            assert count_frames(source) == 3


def test_changed_file_is_read_anew(tmp_path):
    path = make_video(tmp_path / "a.mp4", moving_frames(3))
    assert count_frames(path) == 3
    make_video(path, moving_frames(5))
    assert count_frames(path) == 5


# What is no clip


def test_rejects_what_is_no_clip(tmp_path):
    with pytest.raises(
        ValueError, match=r"gone\.mp4 does not exist; give a video file or a folder"
    ):
        open_reader(tmp_path / "gone.mp4")
    (tmp_path / "a.mp4").write_bytes(b"These are words and not a film. " * 40)
    with pytest.raises(ValueError, match=r"a\.mp4 cannot be read as a video"):
        open_reader(tmp_path / "a.mp4")
    (tmp_path / "b.txt").write_text("FFmpeg would draw this as a film of a terminal.\n" * 40)
    with pytest.raises(ValueError, match=r"b\.txt has no video in it"):
        open_reader(tmp_path / "b.txt")
    (tmp_path / "c.mp4").write_bytes(b"")
    with pytest.raises(ValueError, match=r"c\.mp4 cannot be read as a video"):
        open_reader(tmp_path / "c.mp4")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="empty has no images"):
        open_reader(tmp_path / "empty")
    with av.open(str(tmp_path / "d.wav"), "w") as container:
        track = container.add_stream("pcm_s16le", rate=8000)
        track.layout = "mono"
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), "s16", "mono")
        frame.sample_rate = 8000
        container.mux(track.encode(frame))
    with pytest.raises(ValueError, match=r"d\.wav has no video in it"):
        open_reader(tmp_path / "d.wav")


@pytest.mark.parametrize("ending", [".mp4", ".mkv", ".avi"])
def test_rejects_a_video_without_frames(tmp_path, ending):
    path = tmp_path / f"a{ending}"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=24)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        container.start_encoding()
    with pytest.raises(ValueError, match=r"has no frames|has no video|cannot be read"):
        open_reader(path)


# Whole results or none


@pytest.mark.parametrize("name", ["b.mp4", "b.mkv", "b.mov", "b"])
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_exception_midway_leaves_nothing(tmp_path, name, error):
    source = make_video(tmp_path / "a.mp4", moving_frames(9), sound=[("aac", 48000, 440)])

    def interrupted():
        with open_reader(source) as reader, open_writer(tmp_path / name, reader.info) as writer:
            for frame in reader:
                writer.write(frame.pixels)
                if frame.index == 5:
                    raise error

    with pytest.raises(error):
        interrupted()
    assert os.listdir(tmp_path) == ["a.mp4"]


@pytest.mark.parametrize("name", ["b.mp4", "b.mkv", "b"])
def test_result_appears_only_when_whole(tmp_path, name):
    frames = moving_frames(4)
    writer = open_writer(tmp_path / name, ClipInfo(64, 48, Fraction(24)))
    for frame in frames:
        assert [path.name[0] for path in tmp_path.iterdir()] == ["."]  # hidden
        writer.write(frame)
    writer.close()
    assert os.listdir(tmp_path) == [name]
    writer.close()  # without effect
    assert len(read_pixels(tmp_path / name)) == 4


def test_existing_result_is_replaced_only_by_a_whole_one(tmp_path):
    source = make_video(tmp_path / "a.mp4", moving_frames(5))
    (tmp_path / "b.mp4").write_bytes(b"what was there")
    reader = open_reader(source)
    writer = open_writer(tmp_path / "b.mp4", reader.info)
    writer.write(next(iter(reader)).pixels)
    with pytest.raises(
        ValueError, match=r"b\.mp4 got 1 of 5 frames and was not written; write all"
    ):
        writer.close()
    assert (tmp_path / "b.mp4").read_bytes() == b"what was there"
    assert not leftovers(tmp_path)
    rewrite(source, tmp_path / "b.mp4")
    assert count_frames(tmp_path / "b.mp4") == 5


def test_output_folder_is_never_overwritten(tmp_path):
    source = make_video(tmp_path / "a.mp4", moving_frames(3))
    (tmp_path / "out").mkdir()
    rewrite(source, tmp_path / "out")  # empty
    info = open_reader(source).info
    with pytest.raises(ValueError, match="out is not empty; give a new or empty one"):
        open_writer(tmp_path / "out", info)
    assert len(os.listdir(tmp_path / "out")) == 3
    assert not leftovers(tmp_path)


def test_writer_rejects_wrong_places(tmp_path):
    source = make_video(tmp_path / "a.mp4", moving_frames(3))
    info = open_reader(source).info
    with pytest.raises(
        ValueError, match=r"ends in \.wmv, .* use \.mp4, \.mkv, \.mov, \.webm, or no ending"
    ):
        open_writer(tmp_path / "b.wmv", info)
    with pytest.raises(ValueError, match=r"gone does not exist; create it first"):
        open_writer(tmp_path / "gone" / "b.mp4", info)
    with pytest.raises(ValueError, match=r"does not exist; create it first"):
        open_writer(source / "b.mp4", info)  # a file as a folder
    with pytest.raises(ValueError, match=r"is the input itself; give another name"):
        open_writer(tmp_path / "x" / ".." / "a.mp4", info)
    (tmp_path / "link").symlink_to(tmp_path)
    with pytest.raises(ValueError, match=r"is the input itself"):
        open_writer(tmp_path / "link" / "a.mp4", info)
    with pytest.raises(ValueError, match=r"has 24 frames per second but fps is 25"):
        open_writer(tmp_path / "b.mp4", info, fps=Fraction(25))
    assert sorted(os.listdir(tmp_path)) == ["a.mp4", "link"]


def test_writer_rejects_a_format_without_its_encoder(tmp_path, monkeypatch):
    # As with a build of FFmpeg without the GPL, which has no x264.
    monkeypatch.setattr(av, "codecs_available", av.codecs_available - {"libx264"})
    with pytest.raises(ValueError, match=r"needs the encoder libx264, which this build of PyAV"):
        open_writer(tmp_path / "b.mp4", ClipInfo(64, 48, Fraction(24)))
    assert os.listdir(tmp_path) == []
    open_writer(tmp_path / "b.mkv", ClipInfo(64, 48, Fraction(24))).abort()


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write all")
def test_writer_rejects_a_folder_it_may_not_write_in(tmp_path):
    (tmp_path / "locked").mkdir(mode=0o500)
    with pytest.raises(ValueError, match="cannot be written"):
        open_writer(tmp_path / "locked" / "b.mp4", ClipInfo(64, 48, Fraction(24)))


def test_writer_rejects_wrong_frames(tmp_path):
    writer = open_writer(tmp_path / "b.mp4", ClipInfo(64, 48, Fraction(24), indices=range(1)))
    with pytest.raises(ValueError, match=r"is \(48, 65, 3\) uint8 but the clip is \(48, 64, 3\)"):
        writer.write(np.zeros((48, 65, 3), np.uint8))
    with pytest.raises(ValueError, match=r"\(48, 64, 3\) float32 but .* uint8"):
        writer.write(np.zeros((48, 64, 3), np.float32))
    writer.write(np.zeros((48, 64, 3), np.uint8))
    with pytest.raises(ValueError, match="the clip has 1 frames; write no more"):
        writer.write(np.zeros((48, 64, 3), np.uint8))
    writer.abort()
    assert os.listdir(tmp_path) == []
    with pytest.raises(ValueError, match="got 0 of at least 1 frames"):
        open_writer(tmp_path / "b.mkv", ClipInfo(64, 48, Fraction(24))).close()
    assert os.listdir(tmp_path) == []


def test_result_is_written_as_it_goes(tmp_path):
    frames = noise_frames(60, 64, 48, np.uint8)
    sound = [("pcm_s16le", 48000, 440)]
    source = make_video(tmp_path / "a.mkv", list(frames), "ffv1", "bgr0", sound=sound)
    reader = open_reader(source)
    with open_writer(tmp_path / "b.mkv", reader.info) as writer:
        for frame in reader:
            if frame.index == 50:
                (temporary,) = tmp_path.glob(".b.mkv*")
                size = temporary.stat().st_size
            writer.write(frame.pixels)
    # A muxer that waits for the sound would hold all frames until then.
    assert size > 0.5 * (tmp_path / "b.mkv").stat().st_size


def test_memory_does_not_grow_with_the_clip(tmp_path):
    source = make_video(
        *(tmp_path / "a.mp4", moving_frames(150)), options={"preset": "ultrafast"}, gop=10
    )
    rewrite(source, tmp_path / "warm.mkv", frames=(0, 3))
    tracemalloc.start()
    rewrite(source, tmp_path / "b.mkv")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # Ten frames of what NumPy holds, of 150; OpenCV's arrays count as NumPy's.
    assert peak < 12 * 64 * 48 * 3 * 4
