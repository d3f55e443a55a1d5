"""Folders of images: TIFF of every layout, and alpha, which stays as it is.

Files are made with cv2 and tifffile, and read back with them, without the code under test.
"""

import os
from fractions import Fraction

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image

from combcn_core.clips import images
from combcn_core.clips.masks import read_mask
from combcn_core.clips.video import ClipInfo, open_reader
from combcn_core.stream.files import inpaint_file

HEIGHT, WIDTH = 37, 49


def noise(channels, dtype, count=1, seed=0):
    """(count, HEIGHT, WIDTH, channels) with all values in it, opaque and transparent alike."""
    rng = np.random.default_rng(seed)
    shape = count, HEIGHT, WIDTH, channels
    frames = rng.integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)
    frames[rng.random(shape) < 0.1] = 0
    frames[rng.random(shape) < 0.1] = np.iinfo(dtype).max
    return frames


def write_png(path, rgba):
    path.parent.mkdir(exist_ok=True)
    assert cv2.imwrite(str(path), rgba[..., [2, 1, 0, 3][: rgba.shape[2]]])


def write_tiff(path, image, **layout):
    path.parent.mkdir(exist_ok=True)
    if layout.get("planarconfig") == "separate":
        image = np.ascontiguousarray(image.transpose(2, 0, 1))
    tifffile.imwrite(path, image, photometric="rgb", **layout)


def read_png(path):
    image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    return image[..., [2, 1, 0, 3][: image.shape[2]]]


LAYOUTS = {
    "plain": {},
    "deflate": {"compression": "deflate", "predictor": True},
    "big-endian": {"byteorder": ">"},
    "planes": {"planarconfig": "separate"},
    "big-endian planes": {"planarconfig": "separate", "byteorder": ">"},
    "strips": {"rowsperstrip": 5},
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("alpha", [None, "unassalpha", "assocalpha", "unspecified"])
def test_tiff_of_any_layout(tmp_path, layout, dtype, alpha):
    image = noise(3 if alpha is None else 4, dtype)[0]
    extra = {} if alpha is None else {"extrasamples": [alpha]}
    write_tiff(tmp_path / "1.tif", image, **extra, **LAYOUTS[layout])
    reader = open_reader(tmp_path / "1.tif")
    (frame,) = reader
    assert frame.pixels.dtype == dtype
    assert frame.pixels.flags.c_contiguous
    np.testing.assert_array_equal(frame.pixels, image[..., :3])
    assert reader.info.has_alpha == (alpha is not None)
    if alpha is not None:
        np.testing.assert_array_equal(frame.stored, image)


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("alpha", [False, True])
def test_lzw_tiff_of_opencv(tmp_path, bits, alpha):
    image = noise(3 + alpha, np.dtype(f"u{bits // 8}"))[0]
    assert cv2.imwrite(str(tmp_path / "1.tif"), image)  # BGR
    (frame,) = open_reader(tmp_path / "1.tif")
    np.testing.assert_array_equal(frame.pixels, image[..., 2::-1])


def test_tiled_tiff_is_read_or_refused(tmp_path):
    image = noise(4, np.uint16)[0]
    write_tiff(tmp_path / "1.tif", image[..., :3], tile=(16, 16))
    (frame,) = open_reader(tmp_path / "1.tif")
    np.testing.assert_array_equal(frame.pixels, image[..., :3])
    write_tiff(tmp_path / "2.tif", image, tile=(16, 16), extrasamples=["unassalpha"])
    write_tiff(tmp_path / "3.tif", np.zeros((9, 9, 4), np.float16), extrasamples=["unassalpha"])
    for name in ("2.tif", "3.tif"):
        with pytest.raises(ValueError, match="in tiles or as floats, which is not supported"):
            open_reader(tmp_path / name)


@pytest.mark.parametrize("bigtiff", [False, True])
def test_float_and_broken_tiff_are_refused(tmp_path, bigtiff):
    write_tiff(tmp_path / "1.tif", np.zeros((4, 5, 3), np.float32), bigtiff=bigtiff)
    with pytest.raises(ValueError, match=r"1\.tif is float32; give 8-bit or 16-bit images"):
        open_reader(tmp_path / "1.tif")
    write_tiff(tmp_path / "1.tif", noise(4, np.uint16)[0], extrasamples=["unassalpha"])
    data = (tmp_path / "1.tif").read_bytes()
    for length in (0, 3, 9, 200, len(data) // 2):
        (tmp_path / "1.tif").write_bytes(data[:length])
        with pytest.raises(ValueError, match=r"1\.tif does not decode; replace it"):
            open_reader(tmp_path / "1.tif")


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("ending", [".png", ".tif"])
def test_alpha_and_depth_stay_and_known_pixels_too(tmp_path, dtype, ending):
    frames = noise(4, dtype, count=3)
    for t, frame in enumerate(frames):
        path = tmp_path / "in" / f"shot.{t + 100}{ending}"
        if ending == ".png":
            write_png(path, frame)
        else:
            write_tiff(path, frame, extrasamples=["unassalpha"])
    report = inpaint_file(tmp_path / "in", "8,9,20,12", tmp_path / "out")
    assert sorted(os.listdir(tmp_path / "out")) == [f"shot.{t}.png" for t in (100, 101, 102)]
    assert report.changed_outside_mask == 0
    known = np.ones((HEIGHT, WIDTH), bool)
    known[9:21, 8:28] = False
    for t, frame in enumerate(frames):
        result = read_png(tmp_path / "out" / f"shot.{t + 100}.png")
        assert result.dtype == dtype
        np.testing.assert_array_equal(result[known], frame[known])
        np.testing.assert_array_equal(result[..., 3], frame[..., 3])
        assert (result != frame)[~known].any()


def test_alpha_of_a_range_is_that_of_its_frames(tmp_path):
    frames = noise(4, np.uint8, count=5)
    for t, frame in enumerate(frames):
        write_png(tmp_path / "in" / f"{t}.png", frame)
    inpaint_file(tmp_path / "in", "8,9,2,2", tmp_path / "out", frames=(3, 4))
    for t in (3, 4):
        result = read_png(tmp_path / "out" / f"{t}.png")
        np.testing.assert_array_equal(result[..., 3], frames[t, ..., 3])


def test_png_with_a_transparent_colour_has_alpha(tmp_path):
    indices = np.random.default_rng(0).integers(0, 3, (HEIGHT, WIDTH), np.uint8)
    palette = np.uint8([[10, 20, 30], [200, 0, 0], [0, 90, 255]])
    picture = Image.fromarray(indices)
    picture.putpalette(palette.tobytes())
    picture.save(tmp_path / "1.png", transparency=1)
    (frame,) = open_reader(tmp_path / "1.png")
    np.testing.assert_array_equal(frame.pixels, palette[indices])
    np.testing.assert_array_equal(frame.stored[..., 3], np.where(indices == 1, 0, 255))


def test_alpha_that_some_images_lack(tmp_path):
    frames = noise(4, np.uint8, count=2)
    write_png(tmp_path / "a" / "1.png", frames[0])
    write_png(tmp_path / "a" / "2.png", frames[1, ..., :3])
    inpaint_file(tmp_path / "a", "8,9,2,2", tmp_path / "out")
    assert read_png(tmp_path / "out" / "1.png").shape[2] == 4
    assert read_png(tmp_path / "out" / "2.png").shape[2] == 3

    write_png(tmp_path / "b" / "1.png", frames[1, ..., :3])
    write_png(tmp_path / "b" / "2.png", frames[0])
    with pytest.raises(ValueError, match=r"2\.png has alpha but .*1\.png has none; give alpha to"):
        inpaint_file(tmp_path / "b", "8,9,2,2", tmp_path / "out2")
    assert not (tmp_path / "out2").exists()


def test_check_counts_changes_of_alpha(tmp_path, monkeypatch):
    write_png(tmp_path / "in" / "1.png", noise(4, np.uint8)[0])
    encode = cv2.imencode

    def spoil(ending, image):
        image = image.copy()
        image[0, :7, 3:] ^= 1
        return encode(ending, image)

    monkeypatch.setattr(images.cv2, "imencode", spoil)
    report = inpaint_file(tmp_path / "in", "8,9,20,12", tmp_path / "out")
    assert report.changed_outside_mask == 7


def test_alpha_is_left_out_of_video(tmp_path):
    frames = noise(4, np.uint8, count=2)
    for t, frame in enumerate(frames):
        write_png(tmp_path / "in" / f"{t}.png", frame)
    report = inpaint_file(tmp_path / "in", "8,9,20,12", tmp_path / "out.mkv", fps=Fraction(25))
    assert report.changed_outside_mask == 0
    result = np.stack([frame.pixels for frame in open_reader(tmp_path / "out.mkv")])
    np.testing.assert_array_equal(result[:, 21:], frames[:, 21:, :, :3])


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_mask_may_be_a_tiff_with_alpha(tmp_path, dtype):
    levels = noise(1, dtype)[0, ..., 0]
    full = np.full((HEIGHT, WIDTH, 3), np.iinfo(dtype).max, dtype)
    write_tiff(tmp_path / "1.tif", np.dstack([full, levels]), extrasamples=["unassalpha"])
    (mask,) = read_mask(tmp_path / "1.tif", ClipInfo(WIDTH, HEIGHT, None, indices=range(1)))
    np.testing.assert_array_equal(mask, levels > np.iinfo(dtype).max // 2)
