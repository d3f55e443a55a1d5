"""YUV and RGB against the standards written out: matrices, depths, layouts and chroma."""

from pathlib import Path

import av
import numpy as np
import pytest
from av.video.reformatter import VideoReformatter

from combcn_core.clips.color import (
    check_matrix,
    downsample_chroma,
    frame_to_pixels,
    has_alpha,
    pixels_to_frame,
    planes_to_pixels,
    upsample_chroma,
)
from combcn_core.clips.frames import ColorTags
from combcn_core.pixels import Box

from ..helpers import planar_frame

# H.273, table 4: weights of red and blue.
WEIGHTS = {
    1: (0.2126, 0.0722), 4: (0.30, 0.11), 5: (0.299, 0.114),
    6: (0.299, 0.114), 7: (0.212, 0.087), 9: (0.2627, 0.0593),
}  # fmt: skip
HD, FULL = ColorTags(matrix=1, range=1), ColorTags(matrix=1, range=2)


def to_rgb(codes, matrix, full, bits):
    """Codes (..., 3) as RGB in 0..1, clipped: H.273, equations 20 to 60."""
    kr, kb = WEIGHTS[matrix]
    codes = np.asarray(codes, float)
    step = 2 ** (bits - 8)
    ranges = (2**bits - 1, 2**bits - 1) if full else (219 * step, 224 * step)
    luma = (codes[..., 0] - (0 if full else 16 * step)) / ranges[0]
    blue, red = ((codes[..., n] - 128 * step) / ranges[1] for n in (1, 2))
    red, blue = luma + 2 * (1 - kr) * red, luma + 2 * (1 - kb) * blue
    green = (luma - kr * red - kb * blue) / (1 - kr - kb)
    return np.stack([red, green, blue], -1).clip(0, 1)


def to_codes(rgb, matrix, full, bits):
    """RGB in 0..1 as codes (..., 3), not rounded."""
    kr, kb = WEIGHTS[matrix]
    luma = rgb @ [kr, 1 - kr - kb, kb]
    blue, red = ((rgb[..., n] - luma) / (2 - 2 * k) for n, k in ((2, kb), (0, kr)))
    step = 2 ** (bits - 8)
    if full:
        top = 2**bits - 1
        return np.stack([luma * top, blue * top + 128 * step, red * top + 128 * step], -1)
    return np.stack([16 + 219 * luma, 128 + 224 * blue, 128 + 224 * red], -1) * step


def code_type(bits):
    return np.uint8 if bits == 8 else np.uint16


def read(frame, tags):
    return frame_to_pixels(frame, tags, VideoReformatter())


def planes_of(frame):
    """The codes of each plane."""
    dtype = code_type(frame.format.components[0].bits)
    rows = [np.frombuffer(plane, dtype).reshape(plane.height, -1) for plane in frame.planes]
    return [row[:, : plane.width] for row, plane in zip(rows, frame.planes, strict=True)]


DEPTHS = [(8, "yuv444p"), (10, "yuv444p10le"), (12, "yuv444p12le"), (16, "yuv444p16le")]


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("matrix", WEIGHTS)
@pytest.mark.parametrize(("bits", "pixel_format"), DEPTHS)
def test_codes_of_each_matrix_against_its_formula(matrix, full, bits, pixel_format):
    codes = np.random.default_rng(matrix).integers(0, 2**bits, (7, 13, 3)).astype(code_type(bits))
    codes[0] = 0
    codes[1] = 2**bits - 1
    tags = ColorTags(matrix=matrix, range=2 if full else 1)
    pixels = read(planar_frame(list(codes.transpose(2, 0, 1)), pixel_format), tags)
    assert pixels.dtype == code_type(bits)
    expected = to_rgb(codes, matrix, full, bits) * np.iinfo(pixels.dtype).max
    # Half a step of rounding, and a little for 16-bit samples in between.
    assert np.abs(pixels - expected).max() <= (0.51 if bits == 8 else 1.01)


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("matrix", WEIGHTS)
@pytest.mark.parametrize(("bits", "pixel_format"), DEPTHS[:3])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_colors_of_each_matrix_against_its_formula(matrix, full, bits, pixel_format, dtype):
    top = np.iinfo(dtype).max
    pixels = np.random.default_rng(9).integers(0, top, (7, 13, 3), dtype, endpoint=True)
    pixels[0, 0], pixels[0, 1] = 0, top
    tags = ColorTags(matrix=matrix, range=2 if full else 1)
    frame = pixels_to_frame(pixels, pixel_format, tags)
    assert (frame.colorspace, frame.color_range) == (tags.matrix, tags.range)
    expected = to_codes(pixels / top, matrix, full, bits).clip(0, 2**bits - 1)
    for plane, wanted in zip(planes_of(frame), expected.transpose(2, 0, 1), strict=True):
        # Rounded to 16 bits and then to these.
        assert np.abs(plane - wanted).max() <= 0.501 + 2.0 ** (bits - 17)


@pytest.mark.parametrize(
    ("width", "height", "matrix"), [(1024, 576, 5), (1026, 2, 1), (2, 577, 1), (720, 480, 5)]
)
def test_untagged_frames_are_bt709_where_they_are_larger_than_pal(width, height, matrix):
    codes = np.array([100, 60, 200], np.uint8)
    frame = planar_frame([np.full((height, width), code, np.uint8) for code in codes], "yuv444p")
    expected = to_rgb(codes, matrix, False, 8) * 255
    for tags in (ColorTags(), ColorTags(matrix=2, range=1)):
        assert np.abs(read(frame, tags)[[0, -1], [0, -1]] - expected).max() <= 0.51


def test_matrices_that_are_not_read_are_refused():
    for matrix in (1, 2, 4, 5, 6, 7, 9):
        check_matrix(ColorTags(matrix=matrix), Path("a.mkv"))
    for matrix in (0, 3, 8, 10, 11, 12, 13, 14, 255):
        with pytest.raises(ValueError, match=rf"a\.mkv has the colour matrix {matrix} \(H\.273\)"):
            check_matrix(ColorTags(matrix=matrix), Path("a.mkv"))


# Layouts


def packed_frame(rows, pixel_format, width):
    """A frame of one plane, from its bytes or words row by row."""
    frame = av.VideoFrame(width, len(rows), pixel_format)
    values = np.frombuffer(frame.planes[0], rows.dtype).reshape(len(rows), -1)
    values[:, : rows.shape[1]] = rows
    return frame


def semiplanar_frame(luma, blue, red, pixel_format):
    """Blue and red take turns in the second plane."""
    frame = av.VideoFrame(luma.shape[1], luma.shape[0], pixel_format)
    both = np.stack([blue, red], -1).reshape(len(blue), -1)
    for plane, codes in zip(frame.planes, (luma, both), strict=True):
        rows = np.frombuffer(plane, codes.dtype).reshape(plane.height, -1)
        rows[:, : codes.shape[1]] = codes
    return frame


@pytest.mark.parametrize("pixel_format", ["nv12", "yuyv422", "uyvy422"])
def test_repacked_samples_are_read_as_those_in_planes(pixel_format):
    height, width = 6, 10
    rng = np.random.default_rng(3)
    luma = rng.integers(0, 256, (height, width), np.uint8)
    rows = height // 2 if pixel_format == "nv12" else height
    blue, red = rng.integers(0, 256, (2, rows, width // 2), np.uint8)
    if pixel_format == "nv12":
        frame = semiplanar_frame(luma, blue, red, "nv12")
    else:
        order = [luma[:, ::2], blue, luma[:, 1::2], red]
        if pixel_format == "uyvy422":
            order = [blue, luma[:, ::2], red, luma[:, 1::2]]
        frame = packed_frame(np.stack(order, -1).reshape(height, -1), pixel_format, width)
    twin = planar_frame([luma, blue, red], "yuv420p" if pixel_format == "nv12" else "yuv422p")
    np.testing.assert_array_equal(read(frame, HD), read(twin, HD))


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize(
    ("pixel_format", "bits", "rows", "columns"),
    [
        ("nv21", 8, 2, 2), ("p010le", 10, 2, 2), ("yuv410p", 8, 4, 4), ("yuv411p", 8, 1, 4),
        ("yuv440p", 8, 2, 1), ("yuv420p10be", 10, 2, 2), ("yuv444p12be", 12, 1, 1),
        ("yuva420p", 8, 2, 2), ("yuva444p10le", 10, 1, 1), ("yuv422p16le", 16, 1, 2),
    ],
)  # fmt: skip
def test_flat_colors_of_other_layouts_against_the_formula(pixel_format, bits, rows, columns, full):
    height, width = 8, 16
    codes = np.array([90, 170, 70]) * 2 ** (bits - 8) + (bits > 8)
    small = height // rows, width // columns
    dtype = np.dtype(code_type(bits)).newbyteorder(">" if pixel_format.endswith("be") else "<")
    planes = [np.full(size, code, dtype) for size, code in zip(
        ((height, width), small, small), codes, strict=True
    )]  # fmt: skip
    if pixel_format == "nv21":
        frame = semiplanar_frame(planes[0], planes[2], planes[1], pixel_format)
    elif pixel_format == "p010le":  # in the upper bits
        frame = semiplanar_frame(*(plane << 6 for plane in planes), pixel_format)
    else:
        alpha = [np.full((height, width), 5, dtype)] if "yuva" in pixel_format else []
        frame = planar_frame([*planes, *alpha], pixel_format)
    pixels = read(frame, FULL if full else HD)
    assert pixels.shape == (height, width, 3)
    assert pixels.dtype == code_type(bits)
    expected = to_rgb(codes, 1, full, bits) * np.iinfo(pixels.dtype).max
    # What swscale repacks is off by a code of 8 bits at most.
    assert np.abs(pixels - expected).max() <= (1.5 if bits == 8 else 200)


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize(
    ("pixel_format", "bits"), [("gray", 8), ("gray10le", 10), ("gray12le", 12), ("gray16le", 16)]
)
def test_gray_is_gray(pixel_format, bits, full):
    luma = np.random.default_rng(4).integers(0, 2**bits, (5, 9)).astype(code_type(bits))
    pixels = read(planar_frame([luma], pixel_format), FULL if full else HD)
    black, white = (0, 2**bits - 1) if full else (16 * 2 ** (bits - 8), 235 * 2 ** (bits - 8))
    expected = ((luma - float(black)) / (white - black)).clip(0, 1) * np.iinfo(pixels.dtype).max
    for channel in range(3):
        assert np.abs(pixels[..., channel] - expected).max() <= (0.51 if bits == 8 else 1.01)


@pytest.mark.parametrize("bits", [9, 10, 12, 14, 16])
def test_planar_rgb_is_scaled_to_the_nearest(bits):
    top = 2**bits - 1
    codes = np.random.default_rng(bits).integers(0, top, (5, 9, 3), np.uint16, endpoint=True)
    codes[0, 0], codes[-1, -1] = 0, top
    red, green, blue = codes.transpose(2, 0, 1)
    pixels = read(planar_frame([green, blue, red], f"gbrp{bits}le"), ColorTags(matrix=0, range=2))
    assert pixels.dtype == np.uint16
    np.testing.assert_array_equal(pixels, (codes * 65535.0 / top + 0.5).astype(int))


@pytest.mark.parametrize(
    ("pixel_format", "order", "word"),
    [
        ("rgb24", "rgb", "u1"), ("bgr24", "bgr", "u1"), ("bgr0", "bgr0", "u1"),
        ("argb", "0rgb", "u1"), ("rgba", "rgb0", "u1"), ("rgb48le", "rgb", "<u2"),
        ("rgb48be", "rgb", ">u2"), ("rgba64le", "rgb0", "<u2"), ("bgra64be", "bgr0", ">u2"),
    ],
)  # fmt: skip
def test_packed_rgb_is_what_it_says(pixel_format, order, word):
    dtype = np.dtype(word)
    pixels = np.random.default_rng(5).integers(0, np.iinfo(dtype).max, (5, 9, 3)).astype(dtype)
    rows = np.stack([pixels[..., "rgb".find(name)] for name in order], -1).reshape(5, -1)
    found = read(packed_frame(rows.astype(dtype), pixel_format, 9), ColorTags(matrix=0, range=2))
    assert found.dtype == (np.uint8 if word == "u1" else np.uint16)
    np.testing.assert_array_equal(found, pixels)


def test_planes_of_rgb_and_bits_of_black_and_white():
    red, green, blue = codes = np.random.default_rng(6).integers(0, 256, (3, 5, 9), np.uint8)
    found = read(planar_frame([green, blue, red], "gbrp"), ColorTags(matrix=0, range=2))
    np.testing.assert_array_equal(found, codes.transpose(1, 2, 0))
    bits = np.random.default_rng(7).random((4, 16)) < 0.5
    for pixel_format, is_white in (("monob", bits), ("monow", ~bits)):
        frame = packed_frame(np.packbits(bits, axis=1), pixel_format, 16)
        found = read(frame, ColorTags())
        np.testing.assert_array_equal(found, np.repeat(255 * is_white[..., None], 3, -1))


def test_floats_are_refused_with_what_to_do():
    with pytest.raises(ValueError, match="gbrpf32le pixels are not supported; convert the clip"):
        read(av.VideoFrame(4, 4, "gbrpf32le"), ColorTags(matrix=0, range=2))


def test_formats_with_alpha_are_those_that_ffmpeg_knows():
    for name in (
        *(
            "yuv420p",
            "yuvj420p",
            "yuv444p16le",
            "gray",
            "gray16le",
            "rgb24",
            "bgr0",
            "0rgb",
            "nv12",
        ),
        *("rgb48be", "gbrp", "gbrp12le", "p010le", "yuyv422", "monob"),
        *("yuva420p", "yuva444p10le", "yuva422p16be", "gbrap", "gbrap12le", "ya8", "ya16le"),
        *("rgba", "bgra", "argb", "abgr", "rgba64le", "rgba64be", "bgra64le", "bgra64be"),
    ):
        frame = av.VideoFrame(4, 4, name)
        assert has_alpha(frame) == any(part.is_alpha for part in frame.format.components), name
    assert has_alpha(av.VideoFrame(4, 4, "pal8"))  # in its palette


# Frames for encoders


@pytest.mark.parametrize("size", [(5, 9), (6, 8), (1, 1)])
@pytest.mark.parametrize(
    ("pixel_format", "dtype", "order"),
    [
        ("bgr0", np.uint8, "bgr"), ("bgra", np.uint8, "bgra"),
        ("gbrp16le", np.uint16, "gbr"), ("gbrap16le", np.uint16, "gbra"),
    ],
)  # fmt: skip
def test_rgb_for_encoders_is_what_was_given(pixel_format, dtype, order, size):
    values = np.random.default_rng(8).integers(0, np.iinfo(dtype).max, (*size, 4)).astype(dtype)
    alpha = values[..., 3] if "a" in order else None
    tags = ColorTags(matrix=0, range=2)
    frame = pixels_to_frame(values[..., :3].copy(), pixel_format, tags, alpha=alpha)
    assert (frame.width, frame.height) == size[::-1]
    planes = planes_of(frame) if dtype == np.uint16 else np.frombuffer(
        frame.planes[0], np.uint8
    ).reshape(size[0], -1, 4)[:, : size[1]].transpose(2, 0, 1)  # fmt: skip
    for plane, name in zip(planes, order, strict=False):
        np.testing.assert_array_equal(plane, values[..., "rgba".index(name)])


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize(("pixel_format", "bits"), [("yuva420p", 8), ("yuva444p10le", 10)])
def test_alpha_for_encoders_is_scaled_to_the_nearest(pixel_format, bits, dtype):
    top = np.iinfo(dtype).max
    alpha = np.linspace(0, top, 6 * 8).astype(dtype).reshape(6, 8)
    pixels = np.zeros((6, 8, 3), dtype)
    *_, found = planes_of(pixels_to_frame(pixels, pixel_format, HD, alpha=alpha))
    assert found[0, 0] == 0
    assert found[-1, -1] == 2**bits - 1
    assert np.abs(found - alpha * ((2**bits - 1) / top)).max() <= 0.5


# Chroma of half the size: on even columns, and between rows


def wide(chroma):
    """Twice as wide: one sample stays, the next is the mean of its neighbours."""
    right = np.concatenate([chroma[:, 1:], chroma[:, -1:]], 1)
    return np.stack([chroma, (chroma + right) / 2], -1).reshape(len(chroma), -1)


def high(chroma):
    """Twice as high: each row is a quarter of a sample off its own, towards the other one."""
    above, below = np.vstack([chroma[:1], chroma[:-1]]), np.vstack([chroma[1:], chroma[-1:]])
    parts = [(above + 3 * chroma) / 4, (3 * chroma + below) / 4]
    return np.stack(parts, 1).reshape(-1, chroma.shape[1])


def by_field(function, array):
    """Each field is a picture of its own."""
    fields = [function(array[first::2]) for first in (0, 1)]
    return np.stack(fields, 1).reshape(-1, fields[0].shape[1])


@pytest.mark.parametrize("has_fields", [False, True])
@pytest.mark.parametrize("size", [(8, 10), (12, 2), (4, 7), (6, 5)])
def test_chroma_of_half_the_size_against_weights_written_out(size, has_fields):
    chroma = np.random.default_rng(1).integers(0, 2**16, size).astype(np.uint16)
    exact = chroma.astype(float)
    rows, columns = size
    for found, expected in (
        (upsample_chroma(chroma, rows, 2 * columns, has_fields), wide(exact)),
        (upsample_chroma(chroma, rows, 2 * columns - 1, has_fields), wide(exact)[:, :-1]),
        (
            upsample_chroma(chroma, 2 * rows, columns, has_fields),
            by_field(high, exact) if has_fields else high(exact),
        ),
        (
            upsample_chroma(chroma, 2 * rows, 2 * columns, has_fields),
            by_field(lambda field: high(wide(field)), exact) if has_fields else high(wide(exact)),
        ),
    ):
        assert found.shape == expected.shape
        assert np.abs(found - expected).max() <= 1  # rounded along each side


def halved(chroma):
    """Along rows: -1, 2, 6, 2, -1 eighths around each even column; mirrored at the ends."""
    padded = np.pad(chroma, ((0, 0), (2, 2)), mode="reflect")
    parts = [padded[:, n : n + chroma.shape[1]] for n in range(5)]
    return (np.tensordot([-1, 2, 6, 2, -1], np.stack(parts), 1) / 8)[:, ::2]


def lowered(chroma):
    """Along columns: -1, 3, 3, -1 quarters around each pair of rows; mirrored at the ends."""
    padded = np.pad(chroma, ((1, 1), (0, 0)), mode="symmetric")
    parts = [padded[n : n + len(chroma) - 1 : 2] for n in range(4)]
    return np.tensordot([-1, 3, 3, -1], np.stack(parts), 1) / 4


@pytest.mark.parametrize("has_fields", [False, True])
@pytest.mark.parametrize("size", [(8, 10), (12, 4), (16, 6)])
def test_chroma_made_half_the_size_against_weights_written_out(size, has_fields):
    chroma = np.random.default_rng(2).integers(0, 2**16, size).astype(np.uint16)
    exact, (rows, columns) = chroma.astype(float), size

    def both(field):
        return lowered(halved(field))

    for shape, function in (
        ((rows, columns // 2), halved),
        ((rows // 2, columns), lowered),
        ((rows // 2, columns // 2), both),
        (size, lambda field: field),
    ):
        found = downsample_chroma(chroma, *shape, has_fields)
        expected = by_field(function, exact) if has_fields else function(exact)
        np.testing.assert_allclose(found, expected, atol=0.1)  # float32


@pytest.mark.parametrize("has_fields", [False, True])
def test_frames_of_many_rows_against_chroma_written_out(has_fields):
    """More pixels than are converted at a time."""
    height, width = 52, 4500
    rng = np.random.default_rng(5)
    luma = rng.integers(64, 941, (height, width)).astype(np.uint16)
    chroma = rng.integers(300, 700, (2, height // 2, width // 2)).astype(np.uint16)

    def tall(field):
        return high(wide(field.astype(float)))

    blue, red = (by_field(tall, one) if has_fields else tall(one) for one in chroma)
    expected = to_rgb(np.stack([luma, blue, red], -1), 1, False, 10) * 65535
    size = height, width
    for box in (Box(0, 0, *size), Box(3, 17, 49, 4444), Box(15, 1, 18, 3)):
        found = planes_to_pixels([luma, *chroma], box, HD, 10, size, has_fields)
        part = expected[box.top : box.bottom, box.left : box.right]
        # Chroma is rounded to 1/64 of a code, which is up to 2.2 steps of RGB, twice.
        assert np.abs(found - part).max() <= 6
