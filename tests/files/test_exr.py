"""EXR sequences: encoded for flow and networks, and written back without touching what is known.

Sources are made, and results are read back, with OpenEXR directly, without the code under test.
"""

import os
import re
import shutil
import sys
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
import torch

from combcn_core import CombCN, NetworkConfig
from combcn_core.clips import exr
from combcn_core.clips.frames import ClipInfo
from combcn_core.clips.masks import read_mask
from combcn_core.clips.video import open_reader, open_writer
from combcn_core.shot import InpaintConfig
from combcn_core.stream.files import inpaint_file

if "COMBCN_CI" not in os.environ:
    pytest.importorskip("OpenEXR")
import Imath
import OpenEXR

HEIGHT, WIDTH = 33, 47
PLAIN = {"type": OpenEXR.scanlineimage, "compression": OpenEXR.ZIP_COMPRESSION}
# Minus zero, both infinities, NaN of several kinds, the smallest and the largest number.
STRANGE = np.array([0x8000, 0x7C00, 0xFC00, 0x7E01, 0x7D55, 0xFE00, 0x0001, 0x7BFF], np.uint16)


# Sources


def scene(count, step=2, seed=0):
    """A camera that pans over a picture of 0.01 to 1000: (count, HEIGHT, WIDTH, 3) float32."""
    noise = np.random.default_rng(seed).random((7, 20, 3)).astype(np.float32)
    picture = cv2.resize(noise, (3 * WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
    picture = np.exp(11.5 * picture.clip(0, 1) - 4.6)
    return np.stack([picture[:, step * t : step * t + WIDTH] for t in range(count)])


def moving_holes(count):
    holes = np.zeros((count, HEIGHT, WIDTH), bool)
    for t, hole in enumerate(holes):
        hole[10:22, 6 + 3 * t % 25 : 17 + 3 * t % 25] = True
    return holes


def planes(image, dtype=np.float16, names="RGB"):
    return {name: np.ascontiguousarray(image[..., i], dtype) for i, name in enumerate(names)}


def write_exr(path, channels, header=None):
    path.parent.mkdir(exist_ok=True)
    OpenEXR.File({**PLAIN, **(header or {})}, channels).write(str(path))
    return path


def write_exrs(folder, frames):
    for t, frame in enumerate(frames):
        write_exr(folder / f"shot.{t + 998:04d}.exr", planes(frame))
    return folder


def write_masks(folder, holes):
    folder.mkdir()
    for t, hole in enumerate(holes):
        cv2.imwrite(str(folder / f"{t:04d}.png"), hole.astype(np.uint8) * 255)
    return folder


def read_channels(path, part=0):
    file = OpenEXR.File(str(path), separate_channels=True)
    return {name: channel.pixels.copy() for name, channel in file.channels(part).items()}


def read_header(path, part=0):
    return OpenEXR.File(str(path), header_only=True).header(part)


def read_rgb(path):
    channels = read_channels(path)
    return np.stack([channels[name] for name in "RGB"], axis=-1).astype(np.float32)


def bits(values):
    return values.view(f"u{values.itemsize}")


def grown(hole):
    """By a disk of one pixel."""
    padded = np.pad(hole, 1)
    above, below, left, right = padded[:-2], padded[2:], padded[:, :-2], padded[:, 2:]
    return hole | above[:, 1:-1] | below[:, 1:-1] | left[1:-1] | right[1:-1]


# The curve


def test_encode_against_the_curve_of_acescct():
    # Academy S-2016-001, in 64 bits.
    linear = np.concatenate([np.linspace(-0.0069, 0.02, 999), np.geomspace(0.02, 65504, 999)])
    expected = np.where(
        linear <= 0.0078125,
        10.5402377416545 * linear + 0.0729055341958355,
        (np.log2(np.maximum(linear, 1e-9)) + 9.72) / 17.52,
    )
    np.testing.assert_allclose(exr.encode(linear), expected, atol=3e-7)  # float32
    assert exr.encode(np.float32([0.18])) == pytest.approx(0.4135884, abs=1e-6)  # mid gray there


def test_every_half_comes_back():
    every = np.arange(2**16, dtype=np.uint16).view(np.float16)
    within = every[np.isfinite(every) & (every >= exr.LEAST)]
    again = exr.decode(exr.encode(within)).astype(np.float16)
    np.testing.assert_array_equal(again, within)


def test_encoded_values_are_tame():
    wild = np.float32([np.nan, np.inf, -np.inf, 3e38, -3e38, -1])
    encoded = exr.encode(wild)
    largest = exr.encode(np.float32([65504]))[0]
    below = -1 / 1024
    np.testing.assert_array_equal(encoded, [below, largest, below, largest, below, below])
    decoded = exr.decode(np.float32([-1, 1.5, 9, 1e30]))
    np.testing.assert_allclose(decoded, [exr.LEAST, 65504, 65504, 65504], rtol=1e-6)


# What comes out


HEADER = {
    "owner": "Wire removal",
    "timeCode": OpenEXR.TimeCode(1, 2, 3, 4, True, False, False, False, False, False, *range(8)),
    "keyCode": OpenEXR.KeyCode(1, 2, 3, 4, 5, 4, 64),
    "chromaticities": (0.713, 0.293, 0.165, 0.83, 0.128, 0.044, 0.32168, 0.33767),
    "worldToCamera": np.arange(16, dtype=np.float32).reshape(4, 4),
    "com.example.lens": np.float32([0.1, 0.2, 0.3]),
    "pixelAspectRatio": 2.0,
    "isoSpeed": 800.0,
    "multiView": ["left", "right"],
}


@pytest.mark.parametrize("kind", ["ZIP", "PIZ", "RLE", "NO", "PXR24", "tiles", "decreasing"])
def test_known_pixels_survive_bit_for_bit(tmp_path, kind):
    rng = np.random.default_rng(1)
    header = dict(HEADER)
    # The display window shows 33x47 of a data window that goes beyond it and does not fill it.
    shape = HEIGHT - 2, WIDTH + 5
    header["displayWindow"] = np.int32([10, 20]), np.int32([9 + WIDTH, 19 + HEIGHT])
    header["dataWindow"] = np.int32([6, 22]), np.int32([6 + WIDTH + 4, 19 + HEIGHT])
    if kind == "tiles":
        header["type"], header["tiles"] = OpenEXR.tiledimage, OpenEXR.TileDescription()
        header["tiles"].xSize = header["tiles"].ySize = 16
    elif kind == "decreasing":
        header["lineOrder"] = OpenEXR.DECREASING_Y
    else:
        header["compression"] = getattr(OpenEXR, f"{kind}_COMPRESSION")
    holes = moving_holes(4)
    for t, frame in enumerate(scene(4)):
        image = np.zeros((*shape, 3), np.float32)
        image[:, 4 : 4 + WIDTH] = frame[2:]
        image[rng.random(shape) < 0.1] *= -1
        channels = {
            **planes(image),
            "G": image[..., 1].copy(),  # 32 bits among 16
            "A": rng.random(shape).astype(np.float16),
            "Z": rng.random(shape, np.float32),
            "id": rng.integers(0, 2**32, shape, np.uint32),
        }
        for name in "RBA":
            channels[name].view(np.uint16)[rng.random(shape) < 0.1] = rng.choice(STRANGE)
        if kind != "PXR24":
            wild = rng.random(shape) < 0.1
            bits(channels["G"])[wild] = rng.integers(0, 2**32, wild.sum(), np.uint32)
        write_exr(tmp_path / "in" / f"a_{t + 8}.exr", channels, header)
    write_masks(tmp_path / "masks", holes)

    config = InpaintConfig(grow_pixels=1)
    report = inpaint_file(tmp_path / "in", tmp_path / "masks", tmp_path / "out", config=config)

    assert sorted(os.listdir(tmp_path / "out")) == sorted(f"a_{t + 8}.exr" for t in range(4))
    assert report.changed_outside_mask == 0
    for t, hole in enumerate(holes):
        source, result = (tmp_path / name / f"a_{t + 8}.exr" for name in ("in", "out"))
        before, after = read_channels(source), read_channels(result)
        assert {k: v.dtype for k, v in before.items()} == {k: v.dtype for k, v in after.items()}
        inside = np.zeros(shape, bool)
        inside[:, 4 : 4 + WIDTH] = grown(hole)[2:]
        for name, channel in before.items():
            known = ~inside if name in "RGB" else np.ones(shape, bool)
            np.testing.assert_array_equal(bits(after[name])[known], bits(channel)[known])
        for name in "RGB":
            assert np.isfinite(after[name][inside]).all()
            assert (bits(after[name]) != bits(before[name]))[inside].mean() > 0.5
        np.testing.assert_equal(comparable(read_header(result)), comparable(read_header(source)))


def comparable(header):
    return {key: value if key in HEADER else str(value) for key, value in header.items()}


def test_what_is_not_finite_in_a_hole_is_replaced(tmp_path):
    black = np.zeros((2, HEIGHT, WIDTH, 3), np.float16)
    black[:, 5:14, 5:14] = np.resize(STRANGE, 81).view(np.float16).reshape(9, 9, 1)
    write_exrs(tmp_path / "in", black)
    inpaint_file(tmp_path / "in", "5,5,9,9", tmp_path / "out")
    for file in (tmp_path / "out").iterdir():
        np.testing.assert_allclose(read_rgb(file), 0, atol=1e-4)  # black, as all around it


@pytest.mark.parametrize("step", [0, 2])
def test_holes_come_back_scene_linear(tmp_path, step):
    truth, holes = scene(9, step), moving_holes(9)
    write_exrs(tmp_path / "in", np.where(holes[..., None], 0.5, truth))
    write_masks(tmp_path / "masks", holes)
    config = InpaintConfig(match_grain=False)
    report = inpaint_file(tmp_path / "in", tmp_path / "masks", tmp_path / "out", config=config)
    assert report.propagated_pixels > 0.9 * report.hole_pixels
    files = sorted((tmp_path / "out").iterdir())
    result = np.stack([read_rgb(file) for file in files])
    assert truth[holes].max() > 300  # brighter than what encodes to 1
    stops = np.abs(np.log2(result[holes] / truth[holes]))
    # A still camera shows the pixel itself; a pan over a steep picture is interpolated.
    assert np.median(stops) < (0.02 if step == 0 else 0.1)
    assert np.quantile(stops, 0.95) < (0.05 if step == 0 else 0.4)


def test_networks_paint_scene_linear_holes(tmp_path):
    torch.manual_seed(0)
    write_exrs(tmp_path / "in", scene(3))
    config = InpaintConfig(propagate=False, unseen="smooth")  # texture may hit on the truth
    model = CombCN(NetworkConfig())
    report = inpaint_file(
        *(tmp_path / "in", "5,5,9,9", tmp_path / "out"), config=config, model=model
    )
    assert report.network_pixels == 3 * 81
    assert report.changed_outside_mask == 0
    for t, file in enumerate(sorted((tmp_path / "out").iterdir())):
        result, source = read_rgb(file), scene(3)[t].astype(np.float16)
        assert np.isfinite(result).all()
        assert (result != source)[5:14, 5:14].mean() > 0.9
        result[5:14, 5:14] = source[5:14, 5:14]
        np.testing.assert_array_equal(result, source)


def test_frame_without_a_hole_is_the_file_itself(tmp_path):
    header = {"compression": OpenEXR.DWAA_COMPRESSION}
    for t, frame in enumerate(scene(3)):
        write_exr(tmp_path / "in" / f"{t}.exr", planes(frame), header)
    holes = moving_holes(3)
    holes[1:] = False
    write_masks(tmp_path / "masks", holes)
    inpaint_file(tmp_path / "in", tmp_path / "masks", tmp_path / "out")
    before, after = (
        [(tmp_path / name / f"{t}.exr").read_bytes() for t in range(3)] for name in ("in", "out")
    )
    assert [a == b for a, b in zip(before, after, strict=True)] == [False, True, True]


def test_lossy_compression_gives_way_to_known_pixels(tmp_path, caplog):
    noise = np.random.default_rng(0).random((3, HEIGHT, WIDTH, 3))
    header = {"compression": OpenEXR.B44_COMPRESSION}
    for t, frame in enumerate(noise):
        write_exr(tmp_path / "in" / f"{t}.exr", planes(frame), header)
    report = inpaint_file(tmp_path / "in", "5,5,9,9", tmp_path / "out")
    assert report.changed_outside_mask == 0
    hole = np.zeros((HEIGHT, WIDTH), bool)
    hole[5:14, 5:14] = True
    for t in range(3):
        before, after = (read_rgb(tmp_path / name / f"{t}.exr") for name in ("in", "out"))
        np.testing.assert_array_equal(after[~hole], before[~hole])
        compression = read_header(tmp_path / "out" / f"{t}.exr")["compression"]
        assert compression == OpenEXR.ZIP_COMPRESSION
    assert caplog.text.count("is compressed with B44, which loses; written with ZIP") == 1


TEXT = (Path(__file__).parents[2] / "docs" / "formats.md").read_text()
ROWS = re.findall(r"^\| (.+?) \| (\S.*) \| (\S.*) \|$", TEXT[TEXT.index("| EXR with |") :], re.M)
TIME_CODE = HEADER["timeCode"]


def image_with(what):
    """The channels and the header of an image that has it."""
    frame = scene(1)[0]
    channels, header = planes(frame), {}
    if what == "32 bits":
        channels = planes(frame, np.float32)
    elif what == "numbers above 1, below 0, NaN":
        channels["R"].view(np.uint16)[2, :8] = STRANGE
        channels["G"][3, :2] = 17.5, -0.25
    elif what == "alpha":
        channels["A"] = channels["R"] / 2
    elif what == "further channels":
        channels["depth.Z"] = np.float32(channels["R"]) * 3
    elif what == "a data window":
        header["displayWindow"] = np.int32([0, 0]), np.int32([WIDTH - 1 + 4, HEIGHT - 1 + 6])
        header["dataWindow"] = np.int32([2, 3]), np.int32([WIDTH - 1 + 2, HEIGHT - 1 + 3])
    elif what == "time code":
        header["timeCode"] = TIME_CODE
    elif what == "lossy compression":
        header["compression"] = OpenEXR.B44_COMPRESSION
    else:
        assert what == "16 bits"
    return channels, header


@pytest.mark.parametrize(("what", "folder", "video"), ROWS[1:])
def test_table_of_exr(tmp_path, what, folder, video):
    channels, header = image_with(what)
    for t in range(2):
        write_exr(tmp_path / "in" / f"{t}.exr", channels, header)
    before = read_channels(tmp_path / "in" / "0.exr")

    inpaint_file(tmp_path / "in", "20,10,9,9", tmp_path / "out")
    with pytest.raises(ValueError, match="cannot hold scene-linear frames"):
        inpaint_file(tmp_path / "in", "20,10,9,9", tmp_path / "out.mkv", fps=24)

    after = read_channels(tmp_path / "out" / "0.exr")
    known = np.ones((HEIGHT, WIDTH), bool)
    y, x = (7, 18) if what == "a data window" else (10, 20)
    known[y : y + 9, x : x + 9] = False
    assert after.keys() == before.keys()
    for name, channel in before.items():
        assert after[name].dtype == channel.dtype
        where = known if name in "RGB" else np.ones_like(known)
        np.testing.assert_array_equal(bits(after[name])[where], bits(channel)[where])
    one, other = (read_header(tmp_path / name / "0.exr") for name in ("in", "out"))
    for name in ("dataWindow", "displayWindow", "timeCode"):
        assert str(one.get(name)) == str(other.get(name))
    same = one["compression"] == other["compression"]
    assert folder == ("kept" if same else "as ZIP")
    assert same or other["compression"] == OpenEXR.ZIP_COMPRESSION
    assert video == "refused"


def test_range_has_the_names_of_its_frames_and_any_segments_do(tmp_path):
    write_exrs(tmp_path / "in", scene(12))
    write_masks(tmp_path / "masks", moving_holes(12))
    for name, frames, length in (("a", None, 32), ("b", None, 5), ("c", (7, 9), 2)):
        inpaint_file(
            *(tmp_path / "in", tmp_path / "masks", tmp_path / name),
            frames=frames,
            config=InpaintConfig(reach=6, segment_frames=length),
        )
    whole = {file.name: file.read_bytes() for file in (tmp_path / "a").iterdir()}
    assert whole == {file.name: file.read_bytes() for file in (tmp_path / "b").iterdir()}
    part = {file.name: file.read_bytes() for file in (tmp_path / "c").iterdir()}
    assert part == {f"shot.{n}.exr": whole[f"shot.{n}.exr"] for n in (1005, 1006, 1007)}


def test_resume_of_float_frames(tmp_path):
    write_exrs(tmp_path / "in", scene(14))
    write_masks(tmp_path / "masks", moving_holes(14))
    paths = tmp_path / "in", tmp_path / "masks", tmp_path / "out"
    config = InpaintConfig(reach=6, segment_frames=4)
    inpaint_file(*paths[:2], tmp_path / "whole", config=config)

    def interrupt(now):
        if now.frames == 10:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        inpaint_file(*paths, config=config, resume=True, progress=interrupt)
    report = inpaint_file(*paths, config=config, resume=True)
    assert report.resumed_frames == 12  # of three segments, the last one under way
    assert report.changed_outside_mask == 0
    for file in (tmp_path / "whole").iterdir():
        assert (tmp_path / "out" / file.name).read_bytes() == file.read_bytes()


@pytest.mark.parametrize("channel", ["R", "A"])
def test_check_counts_changes_in_the_written_file(tmp_path, channel, monkeypatch):
    channels = {**planes(scene(1)[0]), "A": np.ones((HEIGHT, WIDTH), np.float16)}
    channels["R"][0, :9] = np.nan
    write_exr(tmp_path / "in" / "1.exr", channels)
    write = exr.write

    def spoil(path, source, pixels):
        write(path, source, pixels)
        written = read_channels(path)
        bits(written[channel])[0, :7] ^= 1
        write_exr(path, written)

    monkeypatch.setattr(exr, "write", spoil)
    report = inpaint_file(tmp_path / "in", "5,5,9,9", tmp_path / "out")
    assert report.changed_outside_mask == 7


def test_reference_is_an_exr_image(tmp_path):
    truth = scene(5, step=0)
    spoilt = truth.copy()
    spoilt[:, 10:20, 10:25] = 4
    write_exrs(tmp_path / "in", spoilt)
    plate = write_exr(tmp_path / "plate.exr", planes(truth[0]))
    paths = tmp_path / "in", "10,10,15,10", tmp_path / "out"
    inpaint_file(*paths, references={2: plate})
    result = read_rgb(tmp_path / "out" / "shot.1000.exr")
    np.testing.assert_array_equal(result, truth[2].astype(np.float16))

    cv2.imwrite(str(tmp_path / "plate.png"), np.zeros((HEIGHT, WIDTH, 3), np.uint8))
    shutil.rmtree(tmp_path / "out")
    with pytest.raises(ValueError, match="is uint8 but the clip is float32; give EXR images"):
        inpaint_file(*paths, references={2: tmp_path / "plate.png"})


# Other files


def test_luminance_is_a_gray_clip(tmp_path):
    for t, frame in enumerate(scene(3)):
        channels = {"Y": np.ascontiguousarray(frame[..., 0]), "A": np.ones_like(frame[..., 0])}
        write_exr(tmp_path / "in" / f"{t}.exr", channels)
    pixels = np.stack([frame.pixels for frame in open_reader(tmp_path / "in")])
    np.testing.assert_array_equal(pixels, exr.encode(scene(3)[..., :1]).repeat(3, axis=-1))
    report = inpaint_file(tmp_path / "in", "5,5,9,9", tmp_path / "out")
    assert report.changed_outside_mask == 0
    before, after = (read_channels(tmp_path / name / "1.exr")["Y"] for name in ("in", "out"))
    changed = before != after
    assert changed[5:14, 5:14].any()
    changed[5:14, 5:14] = False
    assert not changed.any()


def test_only_layer_is_taken(tmp_path):
    layer = {f"ViewLayer.Combined.{name}": v for name, v in planes(scene(1)[0]).items()}
    depth = {"ViewLayer.Depth.Z": np.zeros((HEIGHT, WIDTH), np.float32)}
    path = write_exr(tmp_path / "in" / "1.exr", {**layer, **depth})
    (frame,) = open_reader(path)
    np.testing.assert_array_equal(frame.pixels, exr.encode(scene(1)[0].astype(np.float16)))
    inpaint_file(path, "5,5,9,9", tmp_path / "out")
    assert sorted(read_channels(tmp_path / "out" / "1.exr")) == sorted({**layer, **depth})
    write_exr(path, {**layer, **{f"Diffuse.{name}": v for name, v in planes(scene(1)[0]).items()}})
    with pytest.raises(ValueError, match=r"has channels .*; give one with R, G and B, or Y"):
        open_reader(path)


def test_other_parts_stay(tmp_path):
    path = tmp_path / "in" / "1.exr"
    path.parent.mkdir()
    depth = {"Z": np.random.default_rng(0).random((9, 7), np.float32)}
    window = {"displayWindow": (np.int32([0, 0]), np.int32([WIDTH - 1, HEIGHT - 1]))}
    parts = [
        OpenEXR.Part({**PLAIN, **window, "note": "far"}, dict(depth), "depth"),
        OpenEXR.Part({**PLAIN, **window, "view": "left"}, planes(scene(1)[0]), "beauty"),
    ]
    OpenEXR.File(parts).write(str(path))
    report = inpaint_file(path, "5,5,9,9", tmp_path / "out")
    assert report.changed_outside_mask == 0
    result = tmp_path / "out" / "1.exr"
    np.testing.assert_array_equal(read_channels(result)["Z"], depth["Z"])
    assert read_header(result)["note"] == "far"
    assert read_header(result, 1)["view"] == "left"
    before, after = (read_channels(file, 1)["R"] for file in (path, result))
    assert (before != after)[5:14, 5:14].any()
    np.testing.assert_array_equal(before[14:], after[14:])


def test_windows_without_overlap_are_black(tmp_path):
    header = {"displayWindow": (np.int32([100, 0]), np.int32([119, 9]))}
    path = write_exr(tmp_path / "1.exr", planes(scene(1)[0]), header)
    (frame,) = open_reader(path)
    np.testing.assert_array_equal(frame.pixels, np.full((10, 20, 3), exr.encode(np.float32([0]))))


# Masks


@pytest.mark.parametrize("channels", ["RGB", "R", "Y", "A", "RGBA"])
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_mask_is_hole_from_one_half(tmp_path, channels, dtype):
    levels = np.array([[0, 0.499, 0.5, 1, 7, -3, np.nan, np.inf]], dtype)
    expected = np.array([[0, 0, 1, 1, 1, 0, 0, 1]], bool)
    # Beside alpha, colour is the same everywhere.
    planes = {
        name: np.ones_like(levels) if channels == "RGBA" and name != "A" else levels
        for name in channels
    }
    write_exr(tmp_path / "mask.exr", planes)
    (mask,) = read_mask(tmp_path / "mask.exr", ClipInfo(8, 1, None, indices=range(1)))
    np.testing.assert_array_equal(mask, expected)


def test_masks_as_exr_equal_masks_as_png(tmp_path):
    frames, holes = scene(3), moving_holes(3)
    write_exrs(tmp_path / "in", frames)
    write_masks(tmp_path / "png", holes)
    for t, hole in enumerate(holes):
        # Nothing is stored where there is no hole.
        (y, x), (y2, x2) = np.argwhere(hole).min(0), np.argwhere(hole).max(0)
        header = {
            "displayWindow": (np.int32([0, 0]), np.int32([WIDTH - 1, HEIGHT - 1])),
            "dataWindow": (np.int32([x, y]), np.int32([x2, y2])),
        }
        matte = np.ones((y2 - y + 1, x2 - x + 1), np.float16)
        write_exr(tmp_path / "exr" / f"{t}.exr", {"A": matte}, header)
    for name in ("png", "exr"):
        inpaint_file(tmp_path / "in", tmp_path / name, tmp_path / f"out_{name}")
    for file in (tmp_path / "out_png").iterdir():
        assert (tmp_path / "out_exr" / file.name).read_bytes() == file.read_bytes()


def test_mask_of_many_channels_is_refused(tmp_path):
    values = np.zeros((1, 8), np.float16)
    write_exr(tmp_path / "mask.exr", {"id": values, "Z": values})
    with pytest.raises(ValueError, match="has channels Z, id; give one with R, G and B"):
        read_mask(tmp_path / "mask.exr", ClipInfo(8, 1, None, indices=range(1)))


# What cannot be used


def test_without_openexr_one_sentence_says_what_to_install(tmp_path, monkeypatch):
    path = write_exr(tmp_path / "in" / "1.exr", planes(scene(1)[0]))
    monkeypatch.setitem(sys.modules, "OpenEXR", None)
    match = "is an EXR image, which needs the package OpenEXR; install it with: pip install OpenEXR"
    with pytest.raises(ValueError, match=match):
        inpaint_file(path.parent, "5,5,9,9", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("ending", [".mp4", ".mkv", ".mov"])
def test_video_of_scene_linear_images_is_refused(tmp_path, ending):
    write_exrs(tmp_path / "in", scene(2))
    with pytest.raises(ValueError, match="cannot hold scene-linear frames; write the EXR images"):
        inpaint_file(tmp_path / "in", "5,5,9,9", tmp_path / f"out{ending}", fps=24)


def test_frames_without_a_source_make_no_exr(tmp_path):
    with pytest.raises(ValueError, match="cannot hold scene-linear frames"):
        open_writer(tmp_path / "out", ClipInfo(8, 8, None, np.dtype(np.float32)))


@pytest.mark.parametrize("keep", [0.0, 0.1, 0.6, 0.99])
@pytest.mark.parametrize("multi", [False, True])
def test_truncated_image_is_refused(tmp_path, keep, multi):
    path = tmp_path / "1.exr"
    parts = [OpenEXR.Part(dict(PLAIN), planes(scene(1)[0]), name) for name in ("one", "two")]
    OpenEXR.File(parts[: 1 + multi]).write(str(path))
    data = path.read_bytes()
    path.write_bytes(data[: int(keep * len(data))])
    with pytest.raises(ValueError, match=r"1\.exr does not decode.*; replace it with a whole copy"):
        open_reader(path)


def test_rejects_what_is_no_plain_colour(tmp_path):
    path = tmp_path / "1.exr"
    number = np.zeros((HEIGHT, WIDTH), np.uint32)
    write_exr(path, {"R": number, "G": number.copy(), "B": number.copy()})
    with pytest.raises(ValueError, match="has colours of whole numbers"):
        open_reader(path)
    write_exr(path, {"Z": np.zeros((HEIGHT, WIDTH), np.float32)})
    with pytest.raises(ValueError, match="has channels Z; give one with R, G and B, or Y"):
        open_reader(path)


def test_rejects_deep_and_subsampled_images(tmp_path):
    path = tmp_path / "1.exr"
    samples = np.empty((4, 5), object)
    for place in np.ndindex(4, 5):
        samples[place] = np.zeros(place[0], np.float32)
    deep = {"type": OpenEXR.deepscanline, "compression": OpenEXR.ZIPS_COMPRESSION}
    write_exr(path, {name: samples.copy() for name in "RGB"}, deep)
    with pytest.raises(ValueError, match="is deep, which is not supported; save it as a plain EXR"):
        open_reader(path)

    half = Imath.PixelType(Imath.PixelType.HALF)
    header = OpenEXR.Header(8, 6)
    header["channels"] = {"Y": Imath.Channel(half)}
    header["channels"] |= {name: Imath.Channel(half, 2, 2) for name in ("RY", "BY")}
    file = OpenEXR.OutputFile(str(path), header)
    file.writePixels({"Y": bytes(2 * 48), "RY": bytes(2 * 12), "BY": bytes(2 * 12)})
    file.close()
    with pytest.raises(ValueError, match="has subsampled channels, which is not supported"):
        open_reader(path)


def test_mixed_with_png_is_refused(tmp_path):
    write_exr(tmp_path / "in" / "1.exr", planes(scene(1)[0]))
    cv2.imwrite(str(tmp_path / "in" / "2.png"), np.zeros((HEIGHT, WIDTH, 3), np.uint8))
    with pytest.raises(ValueError, match=r"2\.png is 47x33 uint8 but the first is 47x33 float32"):
        list(open_reader(tmp_path / "in"))


def test_file_of_ffmpeg_comes_through(tmp_path):
    # Written by another library, with a rate in its header.
    path = tmp_path / "in" / "1.exr"
    path.parent.mkdir()
    with av.open(str(path), "w", format="image2", options={"update": "1"}) as container:
        stream = container.add_stream("exr", rate=24, options={"compression": "zip1"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "gbrpf32le"
        frame = av.VideoFrame(WIDTH, HEIGHT, "gbrpf32le")
        values = [np.ascontiguousarray(scene(1)[0][..., i]) for i in (1, 2, 0)]
        for plane, channel in zip(frame.planes, values, strict=True):
            rows = np.frombuffer(plane, np.float32).reshape(plane.height, -1)
            rows[:, :WIDTH] = channel
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    np.testing.assert_array_equal(read_rgb(path), scene(1)[0])
    report = inpaint_file(path.parent, "5,5,9,9", tmp_path / "out")
    assert report.changed_outside_mask == 0
    result = read_rgb(tmp_path / "out" / "1.exr")
    np.testing.assert_array_equal(result[14:], scene(1)[0][14:])
    assert read_header(tmp_path / "out" / "1.exr")["framesPerSecond"] == 24
