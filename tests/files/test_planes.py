"""Frames as decoded: the encoder gets the decoder's samples wherever there is no hole."""

from fractions import Fraction

import av
import cv2
import numpy as np
import pytest
from av.filter import Graph
from av.video.reformatter import VideoReformatter

from combcn_core.clips import color as color_module
from combcn_core.clips.color import pixels_to_frame
from combcn_core.clips.frames import ColorTags
from combcn_core.clips.planes import Planes
from combcn_core.clips.write import VideoWriter
from combcn_core.fill.cuts import is_cut_between, thumbnail
from combcn_core.pixels import Box, Filled, PackedMask, Patch, sample
from combcn_core.shot import InpaintConfig
from combcn_core.stream.files import inpaint_file

FORMATS = (
    *("yuv420p", "yuvj420p", "yuv422p", "yuv444p"),
    *("yuv420p10le", "yuv422p10le", "yuv444p12le", "yuv420p16le"),
)


def samples(frame):
    """The codes of each plane, as integers: (rows, columns)."""
    bits = frame.format.components[0].bits
    dtype = np.uint8 if bits == 8 else np.uint16
    return [
        np.frombuffer(plane, dtype).reshape(plane.height, -1)[:, : plane.width].astype(int)
        for plane in frame.planes
    ]


def make_frame(pixel_format, width=50, height=46, seed=0):
    """Smooth random samples of any value, legal or not."""
    rng = np.random.default_rng(seed)
    frame = av.VideoFrame(width, height, pixel_format)
    bits = frame.format.components[0].bits
    dtype = np.uint8 if bits == 8 else np.uint16
    for plane in frame.planes:
        coarse = rng.random((6, 6)) * 2**bits
        values = cv2.resize(coarse, (plane.width, plane.height), interpolation=cv2.INTER_CUBIC)
        rows = np.frombuffer(plane, dtype).reshape(plane.height, -1)
        rows[:, : plane.width] = values.clip(0, 2**bits - 1)
    return frame


def touched(hole, plane):
    """Which samples of a plane show a hole pixel, one by one."""
    down, across = -(-hole.shape[0] // plane.shape[0]), -(-hole.shape[1] // plane.shape[1])
    result = np.zeros(plane.shape, bool)
    for row, column in zip(*np.nonzero(hole), strict=True):
        result[row // down, column // across] = True
    return result


@pytest.mark.parametrize("has_fields", [False, True])
@pytest.mark.parametrize("pixel_format", FORMATS)
@pytest.mark.parametrize("where", ["middle", "corner", "nowhere"])
def test_samples_outside_the_hole_are_those_decoded(pixel_format, where, has_fields):
    tags = ColorTags(matrix=1, range=2 if "j" in pixel_format else 1)
    decoded = make_frame(pixel_format, height=48 if has_fields else 46)
    hole = np.zeros((decoded.height, decoded.width), bool)
    if where == "middle":
        hole[11:18, 7:12] = hole[21, 30] = True
    elif where == "corner":
        hole[-3:, -5:] = hole[0, 0] = True
    frame = Planes(decoded, tags)
    rng = np.random.default_rng(1)
    values = rng.integers(0, np.iinfo(frame.dtype).max, (int(hole.sum()), 3), frame.dtype)
    result = Filled(frame, PackedMask.of(hole), values)
    assert frame.is_ready_for(pixel_format.replace("j", ""), tags)
    written = frame.filled(result, tags, has_fields)

    whole = frame.pixels.copy()
    whole[hole] = values
    # As a frame of which every sample has been converted.
    made = pixels_to_frame(whole, written.format.name, tags, has_fields)
    for own, new, converted in zip(*map(samples, (decoded, written, made)), strict=True):
        inside = touched(hole, own)
        np.testing.assert_array_equal(new[~inside], own[~inside])
        np.testing.assert_array_equal(new[inside], converted[inside])
    assert (written.colorspace, written.color_range) == (tags.matrix, tags.range)


def test_encoders_of_another_kind_do_not_get_samples():
    frame = Planes(make_frame("yuv420p"), ColorTags(matrix=5, range=1))
    assert frame.is_ready_for("yuv420p", ColorTags(matrix=5, range=0))  # not stated is limited
    assert not frame.is_ready_for("yuv420p", ColorTags(matrix=1, range=1))
    assert not frame.is_ready_for("yuv420p", ColorTags(matrix=5, range=2))
    assert not frame.is_ready_for("yuv422p", ColorTags(matrix=5, range=1))
    assert frame.to_small(20, 10).shape == (10, 20, 3)


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize("pixel_format", FORMATS)
@pytest.mark.parametrize("size", [(50, 48), (67, 45)])
def test_a_box_has_the_pixels_of_the_whole_frame(pixel_format, size, interlaced):
    decoded = make_frame(pixel_format, *size)
    if interlaced:
        graph = Graph()
        graph.link_nodes(
            graph.add_buffer(
                width=size[0],
                height=size[1],
                format=decoded.format,
                time_base=Fraction(1, 25),
            ),
            graph.add("setfield", "tff"),
            graph.add("buffersink"),
        ).configure()
        graph.vpush(decoded)
        decoded = graph.vpull()
        assert decoded.interlaced_frame
    whole = color_module.frame_to_pixels(decoded, ColorTags(matrix=1, range=1), VideoReformatter())
    rng = np.random.default_rng(4)
    for _ in range(20):
        frame = Planes(decoded, ColorTags(matrix=1, range=1))
        for _ in range(3):  # the second box may lie beside the first
            (left, right), (top, bottom) = (
                np.sort(rng.choice(length + 1, 2, replace=False)).tolist() for length in size
            )
            expected = whole[top:bottom, left:right]
            box = Box(top, left, bottom, right)
            np.testing.assert_array_equal(frame.to_pixels(box), expected)
            np.testing.assert_array_equal(frame.crop(box), expected)


def test_positions_show_what_they_show_in_the_whole_frame():
    frame = Planes(make_frame("yuv420p10le", 203, 151), ColorTags(matrix=1, range=1))
    rng = np.random.default_rng(5)
    replaced_box = Box(60, 90, 100, 140)
    part = frame.pixels[60:100, 90:140]
    part[8:-8, 8:-8] = rng.integers(0, 65536, (24, 34, 3), np.uint16)
    for middle, spread in (((20, 30), 15), ((-8, 160), 9), ((100, 80), 90)):
        x, y = (rng.normal(at, spread, 500).astype(np.float32) for at in middle)
        for patch in (Patch.of(frame), Patch(frame, replaced_box, part)):
            for kernel in (cv2.INTER_LINEAR, cv2.INTER_CUBIC):
                expected = sample(patch.whole(), x, y, kernel)
                np.testing.assert_array_equal(patch.sample(x, y, kernel), expected)


def test_positions_of_float64_are_rounded_as_in_the_whole_frame():
    frame = Planes(make_frame("yuv420p10le", 203, 151), ColorTags(matrix=1, range=1))
    # Just beyond the middle of the steps of 1/32 that OpenCV rounds to: float32 loses it at 190,
    # not at 35.
    x = 190 + np.arange(256) / 32 + 1 / 64 + 5e-6
    y = np.full(256, 80.25)
    expected = sample(frame.pixels, x, y, cv2.INTER_CUBIC)
    np.testing.assert_array_equal(Patch.of(frame).sample(x, y, cv2.INTER_CUBIC), expected)


@pytest.mark.parametrize("pixel_format", ["yuv420p", "yuv422p10le", "yuv444p"])
def test_thumbnails_of_samples_and_of_rgb_are_alike(pixel_format):
    frame = Planes(make_frame(pixel_format, 640, 400), ColorTags(matrix=1, range=1))
    # Illegal colours are clipped before the one mean and after the other.
    difference = np.abs(thumbnail(frame).astype(int) - thumbnail(frame.pixels))
    assert difference.mean() < 1
    assert not is_cut_between(thumbnail(frame), thumbnail(frame.pixels))


def write_clip(path, num_frames, codec="ffv1", width=96):
    """A camera that pans over noise; samples of YUV, of which RGB knows only some."""
    rng = np.random.default_rng(3)
    scene = [
        cv2.GaussianBlur(rng.random((64, width + 2 * num_frames)), (0, 0), 1.5) for _ in range(3)
    ]
    scene = [((part - part.min()) / np.ptp(part) * 255).astype(np.uint8) for part in scene]
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = width, 64, "yuv420p"
        for index in range(num_frames):
            frame = av.VideoFrame(width, 64, "yuv420p")
            for plane, part in zip(frame.planes, scene, strict=True):
                step = width // plane.width
                view = part[:: 64 // plane.height, 2 * index : 2 * index + width : step]
                np.frombuffer(plane, np.uint8).reshape(plane.height, -1)[:, : plane.width] = view
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def write_masks(folder, num_frames, with_hole, width=96):
    folder.mkdir()
    holes = np.zeros((num_frames, 64, width), bool)
    for index in with_hole:
        holes[index, 21:40, 33:52] = True
    for index, hole in enumerate(holes):
        assert cv2.imwrite(str(folder / f"{index:03d}.png"), hole.astype(np.uint8) * 255)
    return holes


def decode(path):
    with av.open(str(path)) as container:
        return [samples(frame) for frame in container.decode(video=0)]


def assert_kept(given, written, holes):
    changed = 0
    for own, new, hole in zip(given, written, holes, strict=True):
        for before, after in zip(own, new, strict=True):
            inside = touched(hole, before)
            np.testing.assert_array_equal(after[~inside], before[~inside])
            changed += (after[inside] != before[inside]).sum()
    assert changed > 0


def test_lossless_h264_holds_the_samples_of_the_source(tmp_path):
    clip = write_clip(tmp_path / "clip.mkv", 6)
    holes = write_masks(tmp_path / "masks", 6, range(1, 5))
    output = tmp_path / "result.mp4"
    inpaint_file(clip, tmp_path / "masks", output, codec="h264", quality=0)
    assert_kept(decode(clip), decode(output), holes)


def test_the_encoder_of_an_mp4_gets_the_samples_of_the_decoder(tmp_path, monkeypatch):
    clip = write_clip(tmp_path / "clip.mp4", 6, "libx264")
    holes = write_masks(tmp_path / "masks", 6, range(1, 5))
    given, encode = [], VideoWriter._encode

    def watched(writer, frame, pts):
        given.append(samples(frame))
        encode(writer, frame, pts)

    monkeypatch.setattr(VideoWriter, "_encode", watched)
    inpaint_file(clip, tmp_path / "masks", tmp_path / "result.mp4")
    assert_kept(decode(clip), given, holes)


def test_what_nothing_needs_is_not_converted(tmp_path, monkeypatch):
    clip = write_clip(tmp_path / "clip.mp4", 60, "libx264", width=640)
    write_masks(tmp_path / "masks", 60, [30], width=640)
    boxes, convert = {}, Planes.to_pixels

    def watched(frame, box):
        boxes.setdefault(frame, []).append(box)
        return convert(frame, box)

    monkeypatch.setattr(Planes, "to_pixels", watched)
    config = InpaintConfig(reach=4, unseen="smooth")
    inpaint_file(clip, tmp_path / "masks", tmp_path / "result.mp4", config=config)
    assert 1 <= len(boxes) <= 2 * (4 + 8) + 1  # within reach, and of the key frames nearby
    # The hole and 64 pixels beside it, and 32 more: far from half of a frame.
    assert max(box.width for some in boxes.values() for box in some) < 320
