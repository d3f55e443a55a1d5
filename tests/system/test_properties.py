"""What must hold for any clip: sizes, lengths, masks, types, strides and rates drawn at random.

The draws are the same in every run.
"""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from combcn_core import composite, inpaint, propagate
from combcn_core.clips.video import ClipInfo, open_reader, open_writer
from combcn_core.masks import grow
from combcn_core.shot import InpaintConfig

pytestmark = pytest.mark.usefixtures("one_thread")

few = settings(
    max_examples=50,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

SIDES = st.one_of(st.sampled_from([1, 2, 3, 5, 8, 16, 17]), st.integers(1, 33))
DTYPES = st.sampled_from([torch.uint8, torch.uint16, torch.float32])


# Draws


@st.composite
def strided(draw, array):
    """The same values as a tensor, laid out in memory in some way."""
    tensor = torch.from_numpy(array)
    layout = draw(st.sampled_from(["plain", "transposed", "frames last", "every other", "inside"]))
    if layout == "transposed":
        return tensor.transpose(-1, -2).contiguous().transpose(-1, -2)
    if layout == "frames last":
        return tensor.movedim(0, -1).contiguous().movedim(-1, 0)
    if layout == "plain":
        return tensor
    large = torch.from_numpy(np.zeros([2 * length + 1 for length in array.shape], array.dtype))
    if layout == "every other":
        view = large[tuple(slice(1, None, 2) for _ in array.shape)]
    else:
        view = large[tuple(slice(1, 1 + length) for length in array.shape)]
    view.copy_(tensor)
    return view


@st.composite
def clips(draw):
    """(T, H, W, 3) and (T, H, W) bool, what the masks given mean; and both as they are given."""
    shape = draw(st.integers(1, 5)), draw(SIDES), draw(SIDES)
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    still, drift = rng.uniform(-0.2, 1.2, (*shape[1:], 3)), rng.uniform(-0.1, 0.1, (*shape, 3))
    values = still + drift * draw(st.sampled_from([0, 0.1, 5]))
    dtype = draw(DTYPES)
    if dtype == torch.float32:
        images = values.astype(np.float32)
    else:
        scale = 255 if dtype == torch.uint8 else 65535
        images = np.rint(values.clip(0, 1) * scale).astype(str(dtype).removeprefix("torch."))

    share = draw(st.sampled_from([0, 0.02, 0.2, 0.7]))
    levels = rng.random(shape)  # soft, as masks are
    levels = np.where(rng.random(shape) < share, levels / 2 + 0.5, levels * 0.499)
    given = draw(st.sampled_from(["each", "one of many", "one"]))
    if given != "each":
        levels = levels[:1]
    kind = draw(st.sampled_from(["bool", "uint8", "float32"]))
    if kind == "bool":
        masks = levels >= 0.5
    elif kind == "uint8":
        masks = np.where(levels >= 0.5, 128 + levels * 127, levels * 127).astype(np.uint8)
    else:
        masks = levels.astype(np.float32)
    holes = np.broadcast_to(levels >= 0.5, shape)
    masks = masks[0] if given == "one" else masks
    return images, holes, draw(strided(images)), draw(strided(masks))


def grown(holes, radius):
    """A pixel is hole if the centre of a hole pixel is at most so far away: (T, H, W)."""
    result = holes.copy()
    for t, y, x in np.argwhere(holes):
        reach = math.floor(radius)
        for row in range(max(0, y - reach), min(holes.shape[1], y + reach + 1)):
            for column in range(max(0, x - reach), min(holes.shape[2], x + reach + 1)):
                if (row - y) ** 2 + (column - x) ** 2 <= radius**2:
                    result[t, row, column] = True
    return result


def bits(images):
    array = np.ascontiguousarray(images)
    return array.view(f"u{array.itemsize}")


# Pixels


@few
@given(clips(), st.data())
def test_inpaint_of_any_clip(drawn, data):
    images, holes, tensor, masks = drawn
    config = InpaintConfig(
        grow_pixels=data.draw(st.integers(0, 2), "grow"),
        feather_pixels=data.draw(st.sampled_from([0, 0, 2]), "feather"),
        propagate=data.draw(st.booleans(), "propagate"),
        match_grain=data.draw(st.booleans(), "grain"),
        reach=data.draw(st.integers(1, 3), "reach"),
    )
    holes = grown(holes, config.grow_pixels)
    if holes.all():
        with pytest.raises(ValueError, match="covers every pixel"):
            inpaint(tensor, masks, config=config)
        return
    before = tensor.clone(), masks.clone()
    result = inpaint(tensor, masks, config=config)

    assert (result.shape, result.dtype, result.device) == (
        tensor.shape,
        tensor.dtype,
        tensor.device,
    )
    np.testing.assert_array_equal(bits(result.numpy())[~holes], bits(images)[~holes])
    assert np.isfinite(result.numpy()).all()
    assert torch.equal(tensor, before[0])
    assert torch.equal(masks, before[1])

    length = data.draw(st.integers(1, 4), "segment_frames")
    plain = torch.from_numpy(images.copy())
    again = inpaint(
        plain, masks.clone(), config=InpaintConfig(**{**vars(config), "segment_frames": length})
    )
    np.testing.assert_array_equal(bits(result.numpy()), bits(again.numpy()))


@few
@given(clips(), st.integers(1, 3))
def test_propagate_leaves_some_of_the_hole_and_touches_nothing_else(drawn, reach):
    images, holes, tensor, masks = drawn
    assume(not holes.all())
    result, remaining = propagate(tensor, masks, reach=reach)
    assert (result.shape, result.dtype) == (tensor.shape, tensor.dtype)
    assert (remaining.shape, remaining.dtype) == (holes.shape, torch.bool)
    assert not (remaining.numpy() & ~holes).any()
    np.testing.assert_array_equal(bits(result.numpy())[~holes], bits(images)[~holes])
    assert np.isfinite(result.numpy()).all()


@few
@given(clips(), st.data())
def test_composite_of_any_layout(drawn, data):
    images, holes, tensor, masks = drawn
    seed = data.draw(st.integers(0, 99))
    prediction = np.random.default_rng(seed).random(images.shape, np.float32)
    result = composite(data.draw(strided(prediction)), tensor, masks).numpy()
    np.testing.assert_array_equal(bits(result)[~holes], bits(images)[~holes])
    scale = {"uint8": 255, "uint16": 65535}.get(str(images.dtype), 1)
    wanted = prediction[holes].astype(np.float64) * scale
    # Half a step of the integers; floats are taken as they are.
    assert np.abs(result[holes] - wanted).max(initial=0) <= (0 if scale == 1 else 0.51)


@few
@given(clips(), st.sampled_from([-3, -1, 0, 1, 1.5, 2, 4]))
def test_grow_of_any_size_against_a_loop(drawn, radius):
    _, holes, _, _ = drawn
    tensor = torch.from_numpy(holes.copy())
    expected = grown(holes, radius) if radius >= 0 else ~grown(~holes, -radius)
    np.testing.assert_array_equal(grow(tensor, radius).numpy(), expected)


# Files


@st.composite
def rates(draw):
    nominal = draw(st.sampled_from([1, 8, 10, 12, 15, 24, 25, 30, 48, 50, 60, 96, 120]))
    kind = draw(st.sampled_from(["whole", "NTSC", "odd"]))
    if kind == "odd":  # Matroska says nothing of the rate of a single frame below 5 a second
        return Fraction(draw(st.integers(90, 400)), draw(st.sampled_from([3, 7, 13, 17])))
    return Fraction(nominal) if kind == "whole" else Fraction(nominal * 1000, 1001)


@few
@given(
    st.sampled_from([np.uint8, np.uint16]),
    SIDES,
    SIDES,
    st.integers(1, 6),
    rates(),
    st.sampled_from([".mkv", ""]),
    st.data(),
)
def test_lossless_files_keep_everything(
    tmp_path_factory, dtype, height, width, length, fps, ending, data
):
    folder = tmp_path_factory.mktemp("clip")
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    frames = rng.integers(0, np.iinfo(dtype).max + 1, (length, height, width, 3)).astype(dtype)
    written = data.draw(strided(frames)).numpy()[:, :, ::-1]
    info = ClipInfo(width, height, None if ending == "" else fps, np.dtype(dtype))
    with open_writer(folder / f"clip{ending}", info) as writer:
        for frame in written:
            writer.write(frame)
    with open_reader(folder / f"clip{ending}") as reader:
        read = np.stack([frame.pixels for frame in reader])
    np.testing.assert_array_equal(read, frames[:, :, ::-1])
    assert read.dtype == dtype
    assert reader.info.num_frames == reader.info.total_frames == length
    if ending:
        assert reader.info.fps == fps
        assert reader.info.pts is None  # a constant rate


@few
@given(
    st.sampled_from([".mp4", ".mov"]),
    st.sampled_from([np.uint8, np.uint16]),
    SIDES,
    SIDES,
    st.integers(1, 6),
    rates(),
)
def test_lossy_files_keep_size_count_and_rate(
    tmp_path_factory, ending, dtype, height, width, length, fps
):
    path = tmp_path_factory.mktemp("clip") / f"clip{ending}"
    info = ClipInfo(width, height, fps, np.dtype(dtype))
    level = np.iinfo(dtype).max // 3
    with open_writer(path, info) as writer:
        for _ in range(length):
            writer.write(np.full((height, width, 3), level, dtype))
    with open_reader(path) as reader:
        read = np.stack([frame.pixels for frame in reader])
        read = read / np.iinfo(read.dtype).max  # ProRes has 10 bits of any source
    assert read.shape == (length, height, width, 3)
    # One level of gray in limited range at 8 bits, and the quantization of a flat frame.
    np.testing.assert_allclose(read, 1 / 3, atol=0.02)
    assert reader.info.fps == fps


@pytest.mark.parametrize("fps", ["23.976", "29.97", "59.94"])
def test_decimal_rate_is_not_taken_for_the_ntsc_rate_beside_it(tmp_path, fps):
    with open_writer(tmp_path / "clip.mkv", ClipInfo(8, 8, Fraction(fps))) as writer:
        writer.write(np.zeros((8, 8, 3), np.uint8))
    assert open_reader(tmp_path / "clip.mkv").info.fps == Fraction(fps)
