"""What masks mean, on files of each kind made here with Pillow, OpenCV, NumPy and PyAV."""

import dataclasses
import logging
from dataclasses import replace
from fractions import Fraction

import av
import cv2
import numpy as np
import pytest
from PIL import Image

from combcn_core.clips.frames import ClipInfo
from combcn_core.clips.mask_rules import MaskConfig
from combcn_core.clips.masks import frame_number, read_mask
from combcn_core.clips.video import open_reader, open_writer

from ..helpers import write_video

HEIGHT, WIDTH, COUNT = 48, 64, 6
INFO = ClipInfo(WIDTH, HEIGHT, None, total_frames=COUNT, indices=range(COUNT))


def disc(radius, width=WIDTH, height=HEIGHT, dtype=np.uint8):
    rows, columns = np.ogrid[:height, :width]
    inside = (rows - height / 2) ** 2 + (columns - width / 2) ** 2 < radius**2
    return inside, inside.astype(dtype) * np.iinfo(dtype).max


def discs(count=COUNT):
    return np.stack([disc(4 + 2 * i)[0] for i in range(count)])


def picture(seed=0):
    """Bright and dark all over: (H, W, 3) uint8."""
    return np.random.default_rng(seed).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)


def write_folder(folder, images, name="{:03d}.png"):
    """Images, in the channel order of OpenCV."""
    folder.mkdir()
    for index, image in enumerate(images):
        assert cv2.imwrite(str(folder / name.format(index)), image)
    return folder


def read(path, info=INFO, **config):
    return np.stack(list(read_mask(path, info, config=MaskConfig(**config))))


# White on black


def test_mask_box():
    expected = np.zeros((HEIGHT, WIDTH), bool)
    expected[20:25, 10:40] = True
    masks = list(read_mask("10, 20,30,5", INFO))
    assert len(masks) == COUNT
    assert all(mask.dtype == bool and np.array_equal(mask, expected) for mask in masks)
    for box in ("50,20,30,5", "-1,0,5,5", "0,0,0,5", "0,44,5,5"):
        with pytest.raises(ValueError, match=r"does not lie in the frame, which is 64x48; give"):
            read_mask(box, INFO)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_mask_image_is_for_all_frames(tmp_path, dtype):
    inside, image = disc(10, dtype=dtype)
    cv2.imwrite(str(tmp_path / "mask.png"), image)
    info = dataclasses.replace(INFO, indices=range(2, 5))
    with read_mask(tmp_path / "mask.png", info) as masks:
        masks = list(masks)
    assert len(masks) == 3
    assert all(np.array_equal(mask, inside) for mask in masks)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_mask_threshold_is_half(tmp_path, dtype):
    half = np.iinfo(dtype).max // 2 + 1
    cv2.imwrite(str(tmp_path / "m.png"), np.array([[0, half - 1, half, half + 1]], dtype))
    (mask,) = read_mask(tmp_path / "m.png", ClipInfo(4, 1, None, indices=range(1)))
    assert mask.tolist() == [[False, False, True, True]]


@pytest.mark.parametrize("ending", ["png", "bmp", "webp", "tif"])
def test_mask_may_be_of_any_lossless_kind(tmp_path, ending):
    inside, image = disc(11)
    options = {"lossless": True} if ending == "webp" else {}
    Image.fromarray(image).save(tmp_path / f"m.{ending}", **options)
    assert np.array_equal(read(tmp_path / f"m.{ending}"), [inside] * COUNT)


def test_mask_folder_and_video_go_with_their_frames(tmp_path):
    holes = discs()
    images = [np.dstack([hole.astype(np.uint8) * 255] * 3) for hole in holes]
    write_folder(tmp_path / "masks", images, "m{:d}.png")
    for i in reversed(range(COUNT)):  # m9 comes before m10
        (tmp_path / "masks" / f"m{i}.png").rename(tmp_path / "masks" / f"m{i + 7}.png")
    write_video(tmp_path / "mask.mp4", images)
    for first, last in ((0, 5), (2, 4)):
        info = dataclasses.replace(INFO, indices=range(first, last + 1))
        expected = holes[first : last + 1]
        assert np.array_equal(read(tmp_path / "masks", info), expected)
        reader = read_mask(tmp_path / "mask.mp4", info)
        for _ in range(2):  # as often as needed
            masks = list(reader)
            assert len(masks) == len(expected)
            # Compression moves the edge, by a pixel here and there.
            assert np.mean(np.array(masks) != expected) < 0.01


def test_mask_of_the_range_alone(tmp_path):
    holes = discs(3)
    write_folder(tmp_path / "masks", holes.astype(np.uint8) * 255)
    reader = read_mask(tmp_path / "masks", dataclasses.replace(INFO, indices=range(2, 5)))
    assert reader.is_of_range
    assert np.array_equal(list(reader), holes)


def test_mask_of_the_whole_goes_with_what_is_left_of_a_clip(tmp_path):
    holes = discs(8)
    write_folder(tmp_path / "masks", holes.astype(np.uint8) * 255)
    info = dataclasses.replace(INFO, indices=(0, 1, 3, 4, 5), truncated=True)
    reader = read_mask(tmp_path / "masks", info)
    assert not reader.is_of_range
    assert np.array_equal(list(reader), holes[[0, 1, 3, 4, 5]])


def test_mask_rejects_what_cannot_be_read_or_fitted(tmp_path):
    with pytest.raises(ValueError, match="does not exist; give an image, a folder"):
        read_mask(tmp_path / "gone.png", INFO)
    (tmp_path / "bad.png").write_bytes(b"words")
    with pytest.raises(ValueError, match=r"bad\.png does not decode"):
        read_mask(tmp_path / "bad.png", INFO)
    small = disc(5, 24, 20)
    cv2.imwrite(str(tmp_path / "small.png"), small[1])
    with pytest.raises(ValueError, match=r"mask is 24x20 but the clip is 64x48; .*--fit-mask"):
        read_mask(tmp_path / "small.png", INFO)
    mask = next(iter(read_mask(tmp_path / "small.png", INFO, fit_mask=True)))
    rows = ((np.arange(48) + 0.5) * 20 / 48).astype(int)
    columns = ((np.arange(64) + 0.5) * 24 / 64).astype(int)
    assert np.array_equal(mask, small[0][rows[:, None], columns])


def test_mask_that_cannot_be_read_is_named_by_its_number(tmp_path):
    folder = write_folder(tmp_path / "masks", discs().astype(np.uint8) * 255)
    data = (folder / "004.png").read_bytes()
    (folder / "004.png").write_bytes(data[: len(data) // 2])
    reader = read_mask(folder, INFO)
    with pytest.raises(ValueError, match=r"^mask 4: image .*004\.png does not decode"):
        list(reader)


@pytest.mark.parametrize("is_turned", [False, True])
def test_mask_turned_by_a_quarter_is_not_to_be_resized(tmp_path, is_turned):
    cv2.imwrite(str(tmp_path / "m.png"), disc(9, HEIGHT, WIDTH)[1])
    info = dataclasses.replace(INFO, is_turned=is_turned)
    for fit_mask in (False, True):
        with pytest.raises(ValueError, match="quarter turn; rotate the mask") as error:
            read_mask(tmp_path / "m.png", info, fit_mask=fit_mask)
        assert ("rotation tag" in str(error.value)) == is_turned


# Alpha


def test_mask_in_channels_and_alpha(tmp_path):
    inside, gray = disc(10)
    red = np.dstack([0 * gray, 0 * gray, gray])  # BGR
    for name, image in {
        "red": red,
        "alpha_only": np.dstack([np.full_like(red, 255), gray]),
        "opaque": np.dstack([red, np.full_like(gray, 255)]),
        "alpha_besides": np.dstack([red, 255 - gray]),
    }.items():
        cv2.imwrite(str(tmp_path / f"{name}.png"), image)
        assert np.array_equal(read(tmp_path / f"{name}.png")[0], inside), name


@pytest.mark.parametrize("ending", ["png", "tif", "webp"])
@pytest.mark.parametrize("is_opaque", [True, False])
def test_mask_cut_into_a_picture(tmp_path, caplog, ending, is_opaque):
    caplog.set_level(logging.INFO, "combcn")
    inside, gray = disc(12)
    alpha = gray if is_opaque else 255 - gray  # of an object cut out, or as ComfyUI saves it
    options = {"lossless": True, "exact": True} if ending == "webp" else {}
    image = Image.fromarray(np.dstack([picture(), alpha]))
    image.save(tmp_path / f"m.{ending}", **options)
    assert np.array_equal(read(tmp_path / f"m.{ending}")[0], inside)
    side = "opaque" if is_opaque else "transparent"
    assert f"what is {side} is hole; --mask-channel" in caplog.text
    assert len(caplog.records) == 1


def test_mask_cut_into_pictures_is_one_side_of_alpha_throughout(tmp_path):
    # The first two are whole, and in the last the hole is the larger side.
    holes = np.stack([disc(radius)[0] for radius in (0, 0, 8, 12, 20, 30)])
    images = [
        np.dstack([picture(i), np.where(hole, 0, 255).astype(np.uint8)])
        for i, hole in enumerate(holes)
    ]
    folder = write_folder(tmp_path / "masks", images)
    assert holes[5].mean() > 0.6
    assert np.array_equal(read(folder), holes)
    late = dataclasses.replace(INFO, indices=range(5, 6))
    assert np.array_equal(read(folder, late), holes[5:])


def test_mask_channel_overrides(tmp_path):
    inside, gray = disc(12)
    image = picture()
    cv2.imwrite(str(tmp_path / "m.png"), np.dstack([image, gray]))
    expected = {
        "alpha": inside,
        "red": image[..., 2] >= 128,
        "green": image[..., 1] >= 128,
        "blue": image[..., 0] >= 128,
    }
    for channel, hole in expected.items():
        assert np.array_equal(read(tmp_path / "m.png", mask_channel=channel)[0], hole), channel
    luma = image @ np.array([0.0722, 0.7152, 0.2126])
    found = read(tmp_path / "m.png", mask_channel="luma")[0]
    clear = abs(luma - 127.5) > 0.6  # rounded or not
    assert np.array_equal(found[clear], luma[clear] > 127.5)
    inverted = read(tmp_path / "m.png", mask_channel="alpha", invert_mask=True)[0]
    assert np.array_equal(inverted, ~inside)
    cv2.imwrite(str(tmp_path / "plain.png"), gray)
    with pytest.raises(ValueError, match=r"plain\.png has no alpha; leave --mask-channel out"):
        read(tmp_path / "plain.png", mask_channel="alpha")


@pytest.mark.parametrize(
    ("name", "codec", "pixel_format", "options"),
    [
        ("vp9.webm", "libvpx-vp9", "yuva420p", {"auto-alt-ref": "0"}),
        ("prores.mov", "prores_ks", "yuva444p10le", {"profile": "4"}),
        ("animation.mov", "qtrle", "argb", {}),
        ("ffv1.mkv", "ffv1", "bgra", {}),
    ],
)
def test_mask_in_the_alpha_of_a_video(tmp_path, name, codec, pixel_format, options):
    holes = discs()
    smooth = cv2.GaussianBlur(picture(), (0, 0), 4)
    frames = [np.dstack([smooth, np.where(hole, 0, 255).astype(np.uint8)]) for hole in holes]
    path = write_video(tmp_path / name, frames, codec, pixel_format, options)
    found = read(path)
    lossy = codec == "libvpx-vp9"
    assert np.mean(found != holes) <= (0.01 if lossy else 0)
    with open_reader(path) as frames:  # but a source is read without
        assert all(frame.stored is None for frame in frames)


# Numbers of objects


def write_palette(path, numbers, **options):
    """As DAVIS has it: (H, W) -> a palette PNG whose entry 8 is a dark red."""
    image = Image.fromarray(numbers).convert("P")
    bits = np.arange(256)[:, None] >> np.arange(8) & 1
    colors = sum(bits[:, 3 * i + np.arange(3)[: 8 - 3 * i]] * (128 >> i) for i in (0, 1))
    image.putpalette(np.pad(colors, ((0, 0), (0, 3 - colors.shape[1]))).astype(np.uint8).tobytes())
    image.save(path, **options)


@pytest.fixture
def numbers():
    image = np.zeros((HEIGHT, WIDTH), np.uint8)
    image[5:20, 5:20], image[10:30, 40:60] = 1, 8
    return image


@pytest.mark.parametrize("bits", [4, 8])
def test_mask_with_a_palette_of_objects(tmp_path, numbers, bits):
    write_palette(tmp_path / "m.png", numbers, bits=bits)
    shown = cv2.imread(str(tmp_path / "m.png"))
    assert shown[15, 50].max() < 128  # which is why brightness does not tell
    assert np.array_equal(read(tmp_path / "m.png")[0], numbers > 0)
    assert np.array_equal(read(tmp_path / "m.png", mask_objects="8")[0], numbers == 8)
    assert np.array_equal(read(tmp_path / "m.png", mask_objects="1, 8")[0], numbers > 0)
    assert not read(tmp_path / "m.png", mask_objects="3").any()


def test_mask_with_a_palette_of_black_and_white(tmp_path):
    # As programs that save space write it, with white as entry 0.
    inside, _ = disc(10)
    image = Image.fromarray((~inside).astype(np.uint8)).convert("P")
    image.putpalette([255, 255, 255, 0, 0, 0])
    image.save(tmp_path / "m.png")
    assert np.array_equal(read(tmp_path / "m.png")[0], inside)


@pytest.mark.parametrize(("value", "dtype"), [(1, np.uint8), (100, np.uint8), (30000, np.uint16)])
def test_mask_that_is_dark_is_not_called_empty(tmp_path, value, dtype):
    inside, _ = disc(10)
    cv2.imwrite(str(tmp_path / "m.png"), (inside * value).astype(dtype))
    full = np.iinfo(dtype).max
    match = rf"largest value in mask .* is {value} where {full} is full.*--mask-objects {value} if"
    with pytest.raises(ValueError, match=match):
        read(tmp_path / "m.png")
    for objects in (str(value), "all"):
        assert np.array_equal(read(tmp_path / "m.png", mask_objects=objects)[0], inside)


def test_mask_folder_that_is_dark_is_refused_but_not_dark_frames(tmp_path):
    holes = discs()
    dark = holes.astype(np.uint8) * 100
    with pytest.raises(ValueError, match=r"largest value in mask .* is 100 where 255 is full"):
        read(write_folder(tmp_path / "dark", dark))
    mixed = np.concatenate([dark[:3], holes[3:].astype(np.uint8) * 255])
    assert not read(write_folder(tmp_path / "mixed", mixed))[:3].any()
    assert not read(write_folder(tmp_path / "empty", 0 * dark)).any()
    noise = np.random.default_rng(0).integers(0, 6, dark.shape, np.uint8)
    assert not read(write_folder(tmp_path / "noise", noise, "{:03d}.jpg")).any()


def test_mask_objects_need_numbers(tmp_path):
    cv2.imwrite(str(tmp_path / "m.png"), picture())
    with pytest.raises(ValueError, match=r"m\.png holds no numbers of objects"):
        read(tmp_path / "m.png", mask_objects="1")
    for objects in ("", "0", "1,x", "one", "-1"):
        with pytest.raises(ValueError, match="give numbers above 0, such as 1,8, or all"):
            MaskConfig(mask_objects=objects)


# How many there are


def test_mask_of_other_length_names_the_way_out(tmp_path):
    images = np.stack([disc(9)[1]] * 2 * COUNT)
    for count, hint in (
        (COUNT - 2, r"carried to the other frames \(--follow-masks\), .*\(--mask-missing empty\)"),
        (COUNT + 1, r"drop what is left over \(--mask-missing empty\)"),
        (2 * COUNT, r"merge the 2 of each frame into one \(Prepare Mask does"),
    ):
        folder = write_folder(tmp_path / f"{count}", images[:count])
        match = rf"mask has {count} frames but the clip has 6; pass one image, .*{hint}"
        with pytest.raises(ValueError, match=match):
            read_mask(folder, INFO)
    video = write_video(tmp_path / "m.mp4", [np.dstack([image] * 3) for image in images[:5]])
    with pytest.raises(ValueError, match=r"has 5 frames .* has 6.*stands in for those at"):
        read_mask(video, INFO)


def test_mask_missing_at_the_end(tmp_path):
    holes = discs()
    images = holes.astype(np.uint8) * 255
    video = [np.dstack([image] * 3) for image in images]
    write_video(tmp_path / "short.mkv", video[:4], "ffv1", "bgr0")
    write_folder(tmp_path / "long", [*images, images[0]])
    empty = np.zeros_like(holes[:1])
    found = read(tmp_path / "short.mkv", mask_missing="empty")
    assert np.array_equal(found, [*holes[:4], *empty, *empty])
    found = read(tmp_path / "short.mkv", mask_missing="repeat")
    assert np.array_equal(found, [*holes[:4], holes[3], holes[3]])
    late = dataclasses.replace(INFO, indices=range(3, 6))
    found = read(tmp_path / "short.mkv", late, mask_missing="repeat")
    assert np.array_equal(found, [holes[3]] * 3)
    for missing in ("repeat", "empty"):
        assert np.array_equal(read(tmp_path / "long", mask_missing=missing), holes)


def test_mask_missing_goes_by_names_that_match(tmp_path):
    holes = discs()
    folder = write_folder(tmp_path / "masks", holes.astype(np.uint8) * 255, "shot2_{:04d}.png")
    for gone in (0, 2, 3, 5):
        (folder / f"shot2_{gone:04d}.png").unlink()
    found = read(folder, mask_missing="empty")
    assert [mask.any() for mask in found] == [False, True, False, False, True, False]
    assert np.array_equal(found[[1, 4]], holes[[1, 4]])
    found = read(folder, mask_missing="repeat")
    assert np.array_equal(found, holes[[1, 1, 1, 1, 4, 4]])
    # The frames of a folder have numbers of their own.
    frames = write_folder(tmp_path / "frames", [picture(i) for i in range(COUNT)], "f{:d}.png")
    for i in reversed(range(COUNT)):
        (frames / f"f{i}.png").rename(frames / f"f{1000 + i}.png")
        mask = folder / f"shot2_{i:04d}.png"
        if mask.exists():
            mask.rename(folder / f"x{1000 + i}.png")
    found = read(folder, open_reader(frames, frames=(1, 5)).info, mask_missing="empty")
    assert np.array_equal(found[[0, 3]], holes[[1, 4]])
    assert not found[[1, 2, 4]].any()


@pytest.mark.parametrize(
    ("name", "number"), [("0012", 12), ("a1_b7", 7), ("f003_mask", 3), ("mask", None)]
)
def test_frame_number_is_the_last_of_a_name(name, number):
    assert frame_number(name) == number


# Inverted


def test_mask_that_covers_nearly_all_is_warned_of(tmp_path, caplog):
    holes = np.stack([disc(radius)[0] for radius in (4, 6, 8, 12, 14, 16)])
    folder = write_folder(tmp_path / "masks", np.where(holes, 0, 255).astype(np.uint8))
    found = read(folder)
    assert found.mean(axis=(1, 2))[:3].min() > 0.9
    assert not caplog.records  # half of the frames are not most
    for i in range(COUNT):
        cv2.imwrite(str(folder / f"{i:03d}.png"), np.where(holes[0], 0, 255).astype(np.uint8))
    read(folder), read(folder)
    (record,) = caplog.records
    assert "covers more than 90% of most frames" in record.getMessage()
    assert "--invert-mask" in record.getMessage()
    caplog.clear()
    assert np.array_equal(read(folder, invert_mask=True), [holes[0]] * COUNT)


# Arrays


@pytest.mark.parametrize("kind", [bool, np.uint8, np.float32, np.float16, np.int64])
def test_mask_arrays(tmp_path, kind):
    holes = discs()
    full = 255 if kind is np.uint8 else 1
    array = (holes * full).astype(kind)
    np.save(tmp_path / "m.npy", array)
    np.savez_compressed(tmp_path / "m.npz", masks=array)
    for name in ("m.npy", "m.npz"):
        assert np.array_equal(read(tmp_path / name), holes)
    np.save(tmp_path / "one.npy", array[2])
    assert np.array_equal(read(tmp_path / "one.npy"), [holes[2]] * COUNT)
    np.save(tmp_path / "channel.npy", array[..., None])
    assert np.array_equal(read(tmp_path / "channel.npy"), holes)


def test_mask_arrays_of_objects_are_merged(tmp_path):
    holes = discs()
    objects = np.stack([holes, np.roll(holes, 20, axis=2), holes[::-1]])
    np.save(tmp_path / "objects_first.npy", objects)
    np.save(tmp_path / "frames_first.npy", objects.swapaxes(0, 1))
    for name in ("objects_first.npy", "frames_first.npy"):
        assert np.array_equal(read(tmp_path / name), objects.any(axis=0))


def test_mask_arrays_of_numbers(tmp_path, numbers):
    np.save(tmp_path / "m.npy", np.stack([numbers] * COUNT).astype(np.int32))
    assert np.array_equal(read(tmp_path / "m.npy")[3], numbers > 0)
    assert np.array_equal(read(tmp_path / "m.npy", mask_objects="8")[3], numbers == 8)


def test_mask_arrays_rejects_what_is_none(tmp_path):
    np.save(tmp_path / "text.npy", np.array(["a", "b"]))
    np.save(tmp_path / "objects.npy", np.array([None, {}], dtype=object), allow_pickle=True)
    np.save(tmp_path / "flat.npy", np.ones(5))
    np.save(tmp_path / "nan.npy", np.full((COUNT, HEIGHT, WIDTH), np.nan, np.float32))
    np.save(tmp_path / "none.npy", np.ones((0, HEIGHT, WIDTH)))
    np.savez(tmp_path / "two.npz", a=np.ones(2), b=np.ones(2))
    (tmp_path / "cut.npy").write_bytes((tmp_path / "nan.npy").read_bytes()[:500])
    (tmp_path / "cut.npz").write_bytes((tmp_path / "two.npz").read_bytes()[:100])
    for name, match in {
        "text.npy": "array of <U1",
        "objects.npy": "cannot be read as an array",
        "flat.npy": r"shape \(5,\); give",
        "nan.npy": "has NaN",
        "none.npy": r"shape \(0, 48, 64\)",
        "two.npz": "arrays a, b; give one with a single array",
        "cut.npy": "cannot be read as an array",
        "cut.npz": "cannot be read as an array",
    }.items():
        with pytest.raises(ValueError, match=match):
            read_mask(tmp_path / name, INFO)


def test_mask_before_stands_in_for_one_that_does_not_decode(tmp_path, caplog):
    info = ClipInfo(64, 48, Fraction(24))
    with open_writer(tmp_path / "m.mkv", info) as writer:
        for t in range(4):
            picture = np.zeros((48, 64, 3), np.uint8)
            picture[8 : 20 + t, 10:30] = 255
            writer.write(picture)
    with av.open(str(tmp_path / "m.mkv")) as container:
        packets = [bytes(packet) for packet in container.demux(video=0) if packet.size]
    data = bytearray((tmp_path / "m.mkv").read_bytes())
    at = data.index(packets[2])
    data[at + len(packets[2]) // 2] ^= 1  # FFV1 has checksums
    (tmp_path / "m.mkv").write_bytes(data)
    clip = replace(info, indices=range(4), total_frames=4)
    with pytest.raises(ValueError, match="is cut short or damaged"):
        list(read_mask(tmp_path / "m.mkv", clip))
    masks = list(read_mask(tmp_path / "m.mkv", clip, allow_truncated=True))
    assert [int(mask.sum()) // 20 for mask in masks] == [12, 13, 13, 15]
    assert "3 of 4 frames decode, and the one before stands in" in caplog.text


def test_mask_painted_over_a_picture_is_called_that(tmp_path, caplog):
    frame = cv2.GaussianBlur(picture(), (9, 9), 0)
    inside, mask = disc(10)
    painted = np.where(inside[..., None], np.uint8(255), frame)
    soft = cv2.GaussianBlur(mask, (0, 0), 3)
    for name, image in {"painted": painted, "soft": soft, "sharp": mask}.items():
        cv2.imwrite(str(tmp_path / f"{name}.png"), image)
        caplog.clear()
        read(tmp_path / f"{name}.png")
        said = [record for record in caplog.records if "a picture rather than" in record.message]
        assert len(said) == (name == "painted")
