import dataclasses
import functools
import json
import math
from collections import defaultdict
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from combcn_core.networks.layers import (
    DETAIL_CONTEXT_PIXELS,
    DETAIL_MULTIPLE_PIXELS,
    TEMPORAL_CONTEXT_PIXELS,
    TEMPORAL_MULTIPLE_PIXELS,
    CombCN,
    DetailNet,
    NetworkConfig,
    TemporalNet,
    fill_mean,
    temporal_halo,
    time_multiple,
)

from ..helpers import shrink_networks

pytestmark = pytest.mark.usefixtures("one_thread")

VARIANTS = {
    "paper": NetworkConfig(),
    "v1": NetworkConfig(ratio=4),
    "v2": NetworkConfig(time_stride=True),
    "2dcn": NetworkConfig(guidance=False),
    "classical": NetworkConfig(input_fill="classical", mean_pixel=(0.4, 0.3, 0.2)),
}
variants = pytest.mark.parametrize("config", VARIANTS.values(), ids=VARIANTS.keys())

# Typed from the paper's Table 1: kernel, stride, output channels, dilation, map of 128 x 128.
TEMPORAL_TABLE = [
    (5, 1, 16, 1, 128),
    (3, 2, 32, 1, 64),
    (3, 1, 64, 1, 64),
    (3, 2, 128, 1, 32),
    (3, 1, 256, 2, 32),
    (3, 1, 256, 4, 32),
    (3, 1, 256, 8, 32),
    (3, 1, 128, 1, 32),
    (4, 2, 64, 1, 64),
    (3, 1, 32, 1, 64),
    (4, 2, 16, 1, 128),
    (3, 1, 3, 1, 128),
]
DETAIL_TABLE = [
    (5, 1, 64, 1, 128),
    (3, 2, 128, 1, 64),
    (3, 1, 128, 1, 64),
    (3, 2, 256, 1, 32),
    (3, 1, 256, 1, 32),
    (3, 1, 256, 1, 32),
    (3, 1, 256, 2, 32),
    (3, 1, 256, 4, 32),
    (3, 1, 256, 8, 32),
    (3, 1, 256, 16, 32),
    (3, 1, 256, 1, 32),
    (3, 1, 256, 1, 32),
    (4, 2, 128, 1, 64),
    (3, 1, 128, 1, 64),
    (4, 2, 64, 1, 128),
    (3, 1, 32, 1, 128),
    (3, 1, 3, 1, 128),
]
# Fig. 2: after which layer the output of which other layer joins.
TEMPORAL_SKIPS = {8: 4, 9: 3, 10: 2}
DETAIL_SKIPS = {9: 7, 10: 6, 11: 5, 12: 4, 13: 3, 14: 2, 15: 1}


@pytest.fixture
def thin(monkeypatch):
    """Networks of few channels, and a function that gives them other numbers of channels."""
    shrink_networks(monkeypatch, 2)
    return functools.partial(shrink_networks, monkeypatch)


def randomized(net, seed=0):
    """In eval mode, with norms that have learned their statistics, so that signals live."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in net.parameters():
        parameter.data.uniform_(-0.2, 0.2, generator=generator)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm3d):
            module.weight.data.uniform_(0.5, 1.5, generator=generator)
            module.bias.data.uniform_(0, 1, generator=generator)
            module.momentum = 1.0
    with torch.no_grad():
        for part in net.modules():
            if isinstance(part, TemporalNet):
                part.train()(*random_input(1, 4, 16, 16))
            elif isinstance(part, DetailNet):
                frames, mask = random_input(2, 32, 32)
                part.train()(frames, mask, guidance_for(frames, part.config))
    return net.eval()


def all_ones(net):
    """All weights positive, so that no two gradients cancel."""
    for name, parameter in net.named_parameters():
        (nn.init.zeros_ if name.endswith("bias") else nn.init.ones_)(parameter)
    return net.double().eval()


def random_input(*size, seed=0):
    generator = torch.Generator().manual_seed(seed)
    batch, *rest = size
    clip = torch.rand(batch, 3, *rest, generator=generator)
    mask = (torch.rand(batch, 1, *rest, generator=generator) > 0.6).float()
    return clip, mask


def guidance_for(frames, config, seed=1):
    if not config.guidance:
        return None
    generator = torch.Generator().manual_seed(seed)
    batch, _, height, width = frames.shape
    size = math.ceil(height / config.ratio), math.ceil(width / config.ratio)
    return torch.rand(batch, 3, *size, generator=generator)


def record(net):
    """What entered and left each layer in the next call, by the paper's number."""
    seen = defaultdict(list)

    def hook(number):
        def keep(module, inputs, output):
            seen[number].append((inputs[0].detach().clone(), output.detach().clone()))

        return keep

    for number, layer in net.layers.items():
        layer.register_forward_hook(hook(int(number)))
    return seen


# The tables


@pytest.mark.parametrize("time_stride", [False, True])
def test_temporal_layers_against_paper(time_stride):
    with torch.device("meta"):  # shapes without arithmetic
        net = TemporalNet(NetworkConfig(time_stride=time_stride))
        seen = record(net)
        net(torch.empty(1, 3, 32, 128, 128), torch.empty(1, 1, 32, 128, 128))
    num_frames = 32
    assert len(seen) == len(TEMPORAL_TABLE)
    for number, (kernel, stride, channels, dilation, size) in enumerate(TEMPORAL_TABLE, 1):
        conv = net.layers[str(number)].conv
        is_deconv = kernel == 4
        assert isinstance(conv, nn.ConvTranspose3d if is_deconv else nn.Conv3d)
        cube = (kernel, kernel, kernel)
        assert conv.kernel_size == ((3, 4, 4) if is_deconv and not time_stride else cube)
        time = stride if time_stride else 1
        assert conv.stride == (time, stride, stride)
        assert conv.dilation == (1, dilation, dilation)
        num_frames = num_frames * time if is_deconv else num_frames // time
        assert seen[number][0][1].shape == (1, channels, num_frames, size, size)
        assert time_stride or num_frames == 32


def test_detail_layers_against_paper():
    with torch.device("meta"):
        net = DetailNet(NetworkConfig())
        seen = record(net)
        net(torch.empty(1, 3, 128, 128), torch.empty(1, 1, 128, 128), torch.empty(1, 3, 64, 64))
    assert len(seen) == len(DETAIL_TABLE)
    for number, (kernel, stride, channels, dilation, size) in enumerate(DETAIL_TABLE, 1):
        conv = net.layers[str(number)].conv
        assert isinstance(conv, nn.ConvTranspose2d if kernel == 4 else nn.Conv2d)
        assert conv.kernel_size == (kernel, kernel)
        assert conv.stride == (stride, stride)
        assert conv.dilation == (dilation, dilation)
        assert seen[number][0][1].shape == (1, channels, size, size)


def test_every_layer_but_the_last_has_norm_and_relu():
    model = CombCN(NetworkConfig())
    for net in (model.temporal, model.detail):
        *inner, last = net.layers.values()
        norm = nn.BatchNorm3d if net is model.temporal else nn.BatchNorm2d
        for layer in inner:
            assert [type(module) for module in layer][1:] == [norm, nn.ReLU]
        assert len(last) == 1
        assert last.conv.bias is not None


def test_parameter_count_against_method():
    def count(net):
        return sum(parameter.numel() for parameter in net.parameters())

    with torch.device("meta"):
        model = CombCN(NetworkConfig())
    assert count(model.temporal) == pytest.approx(6.6e6, abs=0.05e6)
    assert count(model.detail) == pytest.approx(8.7e6, abs=0.05e6)


def test_weights_are_named_by_the_numbers_of_the_paper():
    # Checkpoints hold these names: a change here makes them unreadable.
    with torch.device("meta"):
        names = CombCN(NetworkConfig()).state_dict().keys()
    assert "temporal.layers.1.conv.weight" in names
    assert "detail.layers.16.norm.running_mean" in names
    assert {"detail.guidance_first.weight", "detail.guidance_last.bias"} <= names
    assert {name.split(".")[2] for name in names if name.startswith("detail.layers")} == {
        str(number) for number in range(1, 18)
    }


# Skips and guidance


def run_recorded(net, frames, mask, guidance=None):
    seen = record(net)
    with torch.no_grad():
        net(frames, mask) if guidance is None else net(frames, mask, guidance)
    return {number: calls[0] for number, calls in seen.items()}


@pytest.mark.parametrize(
    ("make", "size", "skips"),
    [
        (TemporalNet, (1, 2, 8, 16), TEMPORAL_SKIPS),
        (DetailNet, (1, 16, 8), DETAIL_SKIPS),
    ],
    ids=["temporal", "detail"],
)
def test_skips_join_the_stated_layers(thin, make, size, skips):
    net = randomized(make(NetworkConfig(guidance=False)))
    seen = run_recorded(net, *random_input(*size))
    for number in range(2, len(seen) + 1):
        parts = [seen[number - 1][1]]
        if number - 1 in skips:
            parts.append(seen[skips[number - 1]][1])
        assert torch.equal(seen[number][0], torch.cat(parts, dim=1))


@pytest.mark.parametrize(
    ("make", "size", "skips"),
    [
        (TemporalNet, (1, 2, 8, 16), TEMPORAL_SKIPS),
        (DetailNet, (1, 16, 8), DETAIL_SKIPS),
    ],
    ids=["temporal", "detail"],
)
def test_cutting_a_skip_changes_only_what_hangs_on_it(thin, make, size, skips):
    thin(4)
    inputs = random_input(*size)
    for joined in skips:
        net = randomized(make(NetworkConfig(guidance=False)))
        whole = run_recorded(net, *inputs)
        conv = net.layers[str(joined + 1)].conv
        in_axis = 0 if conv.transposed else 1
        conv.weight.data.narrow(in_axis, 4, 4).zero_()
        cut = run_recorded(net, *inputs)
        for number in whole:
            same = torch.equal(whole[number][1], cut[number][1])
            assert same == (number <= joined), (joined, number)


@pytest.mark.parametrize(("ratio", "first", "last"), [(2, 2, 15), (4, 4, 13)])
def test_guidance_enters_at_two_places(thin, ratio, first, last):
    config = NetworkConfig(ratio=ratio)
    net = randomized(DetailNet(config))
    frames, mask = random_input(2, 16, 24)
    guidance = guidance_for(frames, config)
    seen = run_recorded(net, frames, mask, guidance)
    with torch.no_grad():
        first_map, last_map = net.guidance_first(guidance), net.guidance_last(guidance)
    assert net.guidance_first.kernel_size == net.guidance_last.kernel_size == (3, 3)
    assert first_map.abs().min() > 0  # no ReLU
    assert (first_map < 0).any()
    assert (last_map < 0).any()

    def left(number):
        """Output of a layer as later layers see it."""
        return seen[number][1] + (first_map if number == first else 0)

    for number in range(2, 18):
        parts = [left(number - 1)]
        if number - 1 in DETAIL_SKIPS:
            parts.append(left(DETAIL_SKIPS[number - 1]))
        wanted = torch.cat(parts, dim=1) + (last_map if number == last else 0)
        assert torch.equal(seen[number][0], wanted), number


@pytest.mark.parametrize("ratio", [2, 4])
def test_zero_guidance_convolutions_equal_2dcn(thin, ratio):
    config = NetworkConfig(ratio=ratio)
    guided = randomized(DetailNet(config))
    plain = DetailNet(dataclasses.replace(config, guidance=False)).eval()
    result = plain.load_state_dict(guided.state_dict(), strict=False)
    assert not result.missing_keys
    frames, mask = random_input(2, 13, 18)
    guidance = guidance_for(frames, config)
    with torch.no_grad():
        assert not torch.equal(guided(frames, mask, guidance), plain(frames, mask))
        for conv in (guided.guidance_first, guided.guidance_last):
            nn.init.zeros_(conv.weight)
            nn.init.zeros_(conv.bias)
        assert torch.equal(guided(frames, mask, guidance), plain(frames, mask))


# Receptive fields


def seen_along(net, axis, size, position, multiple=8):
    """First and last index along one axis of what an output position depends on, by autograd."""
    shape = [1, 1, multiple, multiple] if isinstance(net, TemporalNet) else [1, multiple, multiple]
    shape[axis - 1 if axis > 0 else axis] = size
    clip = torch.ones(shape[0], 3, *shape[1:], dtype=torch.float64, requires_grad=True)
    mask = torch.zeros(shape[0], 1, *shape[1:], dtype=torch.float64)
    net(clip, mask).movedim(axis, 0)[position].sum().backward()
    seen = clip.grad.movedim(axis, 0).flatten(1).sum(1).nonzero().flatten()
    return int(seen[0]), int(seen[-1])


def test_base_model_sees_13_frames_each_side(thin):
    thin(1)
    net = all_ones(TemporalNet(NetworkConfig()))
    assert seen_along(net, axis=2, size=41, position=20) == (20 - 13, 20 + 13)
    assert temporal_halo(NetworkConfig()) == 13
    assert time_multiple(NetworkConfig()) == 1


def test_time_stride_halo_against_autograd(thin):
    thin(1)
    config = NetworkConfig(time_stride=True)
    net = all_ones(TemporalNet(config))
    halo, multiple = temporal_halo(config), time_multiple(config)
    assert (halo, multiple) == (32, 4)
    spans = {t: seen_along(net, axis=2, size=88, position=t) for t in range(44, 48)}
    check_context_is_enough_and_needed(spans, halo, multiple)


def test_detail_context_against_autograd(thin):
    thin(1)
    net = all_ones(DetailNet(NetworkConfig(guidance=False)))
    assert DETAIL_CONTEXT_PIXELS == 152
    for axis in (2, 3):
        spans = {x: seen_along(net, axis, size=360, position=x) for x in range(180, 184)}
        check_context_is_enough_and_needed(spans, DETAIL_CONTEXT_PIXELS, multiple=4)
        assert all(last - first + 1 <= 304 for first, last in spans.values())


def test_temporal_context_against_autograd(thin):
    thin(1)
    net = all_ones(TemporalNet(NetworkConfig()))
    for axis in (3, 4):
        spans = {x: seen_along(net, axis, size=200, position=x) for x in range(96, 104)}
        check_context_is_enough_and_needed(spans, TEMPORAL_CONTEXT_PIXELS, multiple=4)


def check_context_is_enough_and_needed(spans, context, multiple):
    """Of the pixels (or frames) between two multiples, all see no further than the context, and
    with one multiple less some would."""
    for position, (first, last) in spans.items():
        assert (position - context) // multiple * multiple <= first
        assert last <= position + context
    fewer = context - multiple
    assert any(
        first < (position - fewer) // multiple * multiple for position, (first, _) in spans.items()
    )


@pytest.mark.parametrize("ratio", [2, 4])
def test_guidance_is_seen_no_further_than_frames(thin, ratio):
    thin(1)
    net = all_ones(DetailNet(NetworkConfig(ratio=ratio)))
    frames, mask = torch.ones(1, 3, 8, 360).double(), torch.zeros(1, 1, 8, 360).double()
    for position in range(180, 184):
        guidance = torch.ones(1, 3, 8 // ratio, 360 // ratio).double().requires_grad_()
        net(frames, mask, guidance)[..., position].sum().backward()
        seen = guidance.grad.sum((0, 1, 2)).nonzero().flatten()
        start = (position - DETAIL_CONTEXT_PIXELS) // DETAIL_MULTIPLE_PIXELS
        assert seen[0] * ratio >= start * DETAIL_MULTIPLE_PIXELS
        assert (seen[-1] + 1) * ratio <= position + DETAIL_CONTEXT_PIXELS


# A part equals the whole. float32: a sum over other shapes may be taken in another order, which
# moves values of about 1 by a few 1e-7 per layer. float64 shows that nothing else differs.
precisions = pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-13)], ids=["fp32", "fp64"]
)


@precisions
@pytest.mark.parametrize("config", [VARIANTS["paper"], VARIANTS["v2"]], ids=["paper", "v2"])
@pytest.mark.parametrize(("start", "stop"), [(0, 5), (41, 48), (81, 91)])
def test_run_of_frames_with_halo_equals_whole_clip(thin, config, start, stop, dtype, tolerance):
    thin(4)
    net = randomized(TemporalNet(config)).to(dtype)
    clip, mask = (x.to(dtype) for x in random_input(1, 91, 8, 11))
    halo, multiple = temporal_halo(config), time_multiple(config)
    low = max(0, start - halo) // multiple * multiple
    high = min(91, stop + halo)
    with torch.no_grad():
        whole = net(clip, mask)[:, :, start:stop]
        run = net(clip[:, :, low:high], mask[:, :, low:high])[:, :, start - low : stop - low]
    torch.testing.assert_close(run, whole, rtol=0, atol=tolerance)


@precisions
@pytest.mark.parametrize("config", [VARIANTS["paper"], VARIANTS["v1"], VARIANTS["2dcn"]])
@pytest.mark.parametrize(("left", "right"), [(230, 243), (200, 201), (3, 9), (420, 425)])
def test_detail_crop_equals_whole_frame(thin, config, left, right, dtype, tolerance):
    thin(4)
    net = randomized(DetailNet(config)).to(dtype)
    frames, mask = random_input(1, 10, 425)
    guidance = guidance_for(frames, config)
    frames, mask = frames.to(dtype), mask.to(dtype)
    guidance = None if guidance is None else guidance.to(dtype)

    def crop(low, high):
        part = None
        if guidance is not None:
            part = guidance[..., low // config.ratio : -(-high // config.ratio)]
        return net(frames[..., low:high], mask[..., low:high], part)[..., left - low : right - low]

    with torch.no_grad():
        whole = net(frames, mask, guidance)[..., left:right]
        low = max(0, left - DETAIL_CONTEXT_PIXELS) // DETAIL_MULTIPLE_PIXELS
        low, high = low * DETAIL_MULTIPLE_PIXELS, min(425, right + DETAIL_CONTEXT_PIXELS)
        torch.testing.assert_close(crop(low, high), whole, rtol=0, atol=tolerance)
        if low > 0 and config.ratio == 2:  # off the multiple it is another picture
            assert (crop(low - 2, high) - whole).abs().max() > 1e-3


@precisions
@pytest.mark.parametrize(("top", "bottom"), [(100, 107), (2, 3), (205, 211)])
def test_temporal_crop_equals_whole_clip(thin, top, bottom, dtype, tolerance):
    thin(4)
    net = randomized(TemporalNet(NetworkConfig())).to(dtype)
    clip, mask = (x.to(dtype) for x in random_input(1, 2, 211, 9))
    low = max(0, top - TEMPORAL_CONTEXT_PIXELS) // TEMPORAL_MULTIPLE_PIXELS
    low, high = low * TEMPORAL_MULTIPLE_PIXELS, min(211, bottom + TEMPORAL_CONTEXT_PIXELS)
    with torch.no_grad():
        whole = net(clip, mask)[..., top:bottom, :]
        crop = net(clip[..., low:high, :], mask[..., low:high, :])[..., top - low : bottom - low, :]
    torch.testing.assert_close(crop, whole, rtol=0, atol=tolerance)


# Sizes and padding


@variants
@pytest.mark.parametrize("size", [(1, 8, 8), (2, 9, 15), (3, 17, 8), (5, 11, 30), (6, 31, 13)])
def test_any_size_works(thin, config, size):
    model = CombCN(config)
    clip, mask = random_input(1, *size)
    frames, frame_mask = clip[0].transpose(0, 1), mask[0].transpose(0, 1)
    for _ in range(2):  # in training, then in eval mode
        with torch.no_grad():
            assert model.temporal(clip, mask).shape == clip.shape
            guidance = guidance_for(frames, config)
            assert model.detail(frames, frame_mask, guidance).shape == frames.shape
        model.eval()


def pad_by_hand(x, size, values):
    """numpy: a canvas of the padding values with the array in its first corner."""
    x = x.numpy()
    canvas = np.empty((*x.shape[:2], *size), x.dtype)
    for channel, value in enumerate(values):
        canvas[:, channel] = value
    canvas[(slice(None), slice(None), *(slice(0, side) for side in x.shape[2:]))] = x
    return torch.from_numpy(canvas)


@variants
def test_padding_inside_equals_padding_by_hand(thin, config):
    config = dataclasses.replace(config, mean_pixel=(0.1, 0.5, 0.9))
    model = randomized(CombCN(config))
    mean = config.mean_pixel
    frames, mask = random_input(2, 13, 18)
    guidance = guidance_for(frames, config)
    padded = [pad_by_hand(frames, (16, 20), mean), pad_by_hand(mask, (16, 20), [1])]
    if guidance is not None:
        padded.append(pad_by_hand(guidance, (16 // config.ratio, 20 // config.ratio), mean))
    with torch.no_grad():
        inside = model.detail(frames, mask, guidance)
        assert torch.equal(inside, model.detail(*padded)[:, :, :13, :18])
        wrong = model.detail(padded[0], pad_by_hand(mask, (16, 20), [0]), *padded[2:])
        assert not torch.equal(inside, wrong[:, :, :13, :18])

    clip, mask = random_input(1, 5, 12, 17)
    size = (8 if config.time_stride else 5, 16, 24)
    with torch.no_grad():
        inside = model.temporal(clip, mask)
        by_hand = model.temporal(pad_by_hand(clip, size, mean), pad_by_hand(mask, size, [1]))
    assert torch.equal(inside, by_hand[:, :, :5, :12, :17])


def test_channels_last_gives_the_same(thin):
    thin(8)
    model = randomized(CombCN(NetworkConfig()))
    frames, mask = random_input(2, 13, 18)
    guidance = guidance_for(frames, model.config)
    with torch.no_grad():
        wanted = model.detail(frames, mask, guidance)
        model.detail.to(memory_format=torch.channels_last)
        last = [x.to(memory_format=torch.channels_last) for x in (frames, mask, guidance)]
        # Another layout is another order of sums: a few 1e-7 per layer.
        torch.testing.assert_close(model.detail(*last), wanted, rtol=0, atol=1e-5)


def test_bool_mask_equals_float_mask(thin):
    model = randomized(CombCN(NetworkConfig(guidance=False)))
    clip, mask = random_input(1, 2, 8, 9)
    with torch.no_grad():
        assert torch.equal(model.temporal(clip, mask.bool()), model.temporal(clip, mask))
        frames, mask = clip[:, :, 0], mask[:, :, 0]
        assert torch.equal(model.detail(frames, mask.bool()), model.detail(frames, mask))


# Where the networks start


@pytest.mark.parametrize("training", [True, False])
def test_zero_start_returns_exactly_the_fill(training):
    config = NetworkConfig(input_fill="classical")
    torch.manual_seed(0)
    model = CombCN(config).train(training)
    clip, mask = random_input(1, 3, 9, 13)
    frames, frame_mask = random_input(2, 9, 13)
    with torch.no_grad():
        assert torch.equal(model.temporal(clip, mask), clip)
        guidance = guidance_for(frames, config)
        assert torch.equal(model.detail(frames, frame_mask, guidance), frames)


def test_zero_start_learns_the_residual(thin):
    thin(4)
    torch.manual_seed(0)
    model = CombCN(NetworkConfig(input_fill="classical"))
    clip, mask = random_input(1, 3, 9, 13)
    optimizer = torch.optim.SGD(model.temporal.parameters(), lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        (model.temporal(clip, mask) - 1).abs().mean().backward()
        optimizer.step()
    assert all(parameter.grad.abs().sum() > 0 for parameter in model.temporal.parameters())
    last = model.temporal.layers["12"].conv
    with torch.no_grad():
        residual = []
        last.register_forward_hook(lambda module, inputs, output: residual.append(output))
        prediction = model.temporal(clip, mask)
    assert torch.equal(prediction, clip + residual[0][..., :9, :13])


def test_mean_fill_starts_elsewhere_and_adds_nothing():
    torch.manual_seed(0)
    model = CombCN(NetworkConfig()).eval()
    clip, mask = random_input(1, 2, 8, 8)
    output = []
    model.temporal.layers["12"].register_forward_hook(lambda *call: output.append(call[2]))
    with torch.no_grad():
        prediction = model.temporal(clip, mask)
    assert torch.equal(prediction, output[0])
    assert prediction.abs().max() > 0


def test_joint_loss_reaches_every_parameter(thin):
    thin(8)
    torch.manual_seed(0)
    model = CombCN(NetworkConfig())
    clip, mask = random_input(1, 2, 16, 16)
    coarse = model.temporal(clip, mask)
    frames, frame_mask = random_input(2, 32, 32)
    model.detail(frames, frame_mask, coarse[0].transpose(0, 1)).abs().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("size", [(2, 5, 7), (5, 7)])
def test_fill_mean_against_loop(size):
    clip, mask = random_input(2, *size)
    clip[:, 0][mask[:, 0] == 1] = math.nan
    filled = fill_mean(clip, mask, (0.2, 0.4, 0.6))
    wanted = clip.numpy().copy()
    for index in np.ndindex(wanted.shape):
        if mask.numpy()[(index[0], 0, *index[2:])] == 1:
            wanted[index] = np.float32((0.2, 0.4, 0.6)[index[1]])
    assert np.array_equal(filled.numpy(), wanted)
    assert torch.equal(fill_mean(clip, mask.bool(), (0.2, 0.4, 0.6)), filled)


@pytest.mark.parametrize(
    ("shape", "mask_shape"),
    [
        ((2, 3, 2, 8, 8), (1, 1, 2, 8, 8)),
        ((2, 3, 2, 8, 8), (2, 3, 2, 8, 8)),
        ((2, 3, 8, 8), (2, 1, 1, 8)),
        ((2, 4, 8, 8), (2, 1, 8, 8)),
        ((3, 8, 8), (1, 8, 8)),
    ],
)
def test_fill_mean_rejects_what_would_be_spread_over_other_frames(shape, mask_shape):
    with pytest.raises(ValueError, match=r"has shape \(.*; pass"):
        fill_mean(torch.zeros(shape), torch.ones(mask_shape), (0.2, 0.4, 0.6))


# What is refused


def test_joined_networks_do_what_each_did_alone(thin):
    config = NetworkConfig(input_fill="classical", mean_pixel=(0.1, 0.2, 0.3))
    temporal = randomized(CombCN(config)).eval()
    other = dataclasses.replace(config, guidance=False, mean_pixel=(0.5, 0.5, 0.5))
    detail = randomized(CombCN(other)).eval()
    joined = CombCN.join(temporal, detail).eval()
    assert joined.config == config
    clip, mask = torch.rand(1, 3, 5, 16, 24), torch.rand(1, 1, 5, 16, 24) < 0.3
    assert torch.equal(joined.temporal(clip, mask), temporal.temporal(clip, mask))
    frames, mask = clip[:, :, 0], mask[:, :, 0]
    expected = detail.detail(frames, mask)
    # Whatever the guidance says: it starts at zero.
    assert torch.equal(joined.detail(frames, mask, torch.rand(1, 3, 8, 12)), expected)
    # And keeps what it has where the other one has it.
    again = CombCN.join(joined, temporal)
    for name, value in temporal.detail.state_dict().items():
        assert torch.equal(again.detail.state_dict()[name], value)


@pytest.mark.parametrize(
    ("divisor", "config"),
    [
        (2, NetworkConfig(input_fill="classical")),
        (4, NetworkConfig(ratio=4, time_stride=True)),
        (8, NetworkConfig(guidance=False)),
    ],
    ids=["classical", "V-1 and V-2", "2DCN"],
)
def test_widened_networks_do_what_the_narrow_ones_did(divisor, config):
    config = dataclasses.replace(config, channel_divisor=divisor)
    narrow = randomized(CombCN(config)).eval()
    wide = narrow.widen().eval()
    assert wide.config == dataclasses.replace(config, channel_divisor=1)
    for net, table in ((narrow.temporal, TEMPORAL_TABLE), (narrow.detail, DETAIL_TABLE)):
        channels = [row.channels for row in net.table]
        assert channels == [row[2] // divisor for row in table[:-1]] + [3]
    clip, mask = random_input(1, 5, 18, 27)
    with torch.no_grad():
        # Sums of as many terms again, in another order: rounding of float32 and no more.
        close = partial(torch.testing.assert_close, rtol=1e-4, atol=1e-5)
        close(wide.temporal(clip, mask), narrow.temporal(clip, mask))
        frames, mask = clip[:, :, 0], mask[:, :, 0]
        size = -(-18 // config.ratio), -(-27 // config.ratio)
        guidance = [torch.rand(1, 3, *size)] if config.guidance else []
        close(wide.detail(frames, mask, *guidance), narrow.detail(frames, mask, *guidance))


def test_copies_of_widened_channels_go_different_ways():
    narrow = randomized(CombCN(NetworkConfig(channel_divisor=4)))
    wide = narrow.widen()
    frames, mask = torch.rand(1, 3, 16, 16), torch.ones(1, 1, 16, 16)
    wide.detail.train()(frames, mask, torch.rand(1, 3, 8, 8)).square().mean().backward()
    for number in range(1, 17):
        gradient = wide.detail.layers[str(number)].norm.bias.grad
        first, second = gradient.view(4, -1)[:2]
        moved = first != 0  # where a channel is dark throughout, so are its copies
        assert moved.any()
        assert not torch.allclose(first[moved], second[moved], rtol=1e-3)


def test_join_rejects_other_networks(thin):
    config = NetworkConfig(input_fill="classical")
    plain = CombCN(dataclasses.replace(config, guidance=False))
    with pytest.raises(ValueError, match="3DCN is to come from a model without guidance"):
        CombCN.join(plain, plain)
    with pytest.raises(ValueError, match="were trained on the same footage with the same settings"):
        CombCN.join(CombCN(config), CombCN(NetworkConfig(guidance=False)))
    mean = NetworkConfig(mean_pixel=(0.1, 0.2, 0.3))  # it fills the hole: networks depend on it
    with pytest.raises(ValueError, match="were trained on the same footage"):
        CombCN.join(CombCN(mean), CombCN(NetworkConfig(guidance=False)))


def test_temporal_rejects_wrong_shapes(thin):
    net = TemporalNet(NetworkConfig())
    clip, mask = random_input(1, 4, 8, 8)
    with pytest.raises(ValueError, match=r"clip has shape \(1, 3, 8, 8\); pass \(B, 3, T, H, W\)"):
        net(clip[:, :, 0], mask)
    with pytest.raises(ValueError, match=r"clip has shape \(1, 2, 4, 8, 8\)"):
        net(clip[:, :2], mask)
    with pytest.raises(ValueError, match=r"clip has shape \(1, 3, 0, 8, 8\)"):
        net(clip[:, :, :0], mask[:, :, :0])
    with pytest.raises(ValueError, match=r"mask has shape \(1, 1, 3, 8, 8\) but clip has"):
        net(clip, mask[:, :, :3])


@pytest.mark.parametrize(("ratio", "wanted"), [(2, r"\(1, 3, 5, 7\)"), (4, r"\(1, 3, 3, 4\)")])
def test_detail_rejects_guidance_of_another_size(thin, ratio, wanted):
    net = DetailNet(NetworkConfig(ratio=ratio))
    frames, mask = random_input(1, 9, 13)
    with pytest.raises(ValueError, match=f"of shape .* take {wanted}; resize"):
        net(frames, mask, torch.zeros(1, 3, 9, 13))
    with pytest.raises(ValueError, match=f"guidance is missing, .* take {wanted}"):
        net(frames, mask)


def test_2dcn_rejects_guidance(thin):
    net = DetailNet(NetworkConfig(guidance=False))
    frames, mask = random_input(1, 8, 8)
    with pytest.raises(ValueError, match="built without it; pass None"):
        net(frames, mask, torch.zeros(1, 3, 4, 4))


# Configuration


@variants
def test_config_survives_json(config):
    text = json.dumps(config.to_dict())
    assert NetworkConfig.from_dict(json.loads(text)) == config


def test_config_takes_numpy_mean():
    config = NetworkConfig(mean_pixel=np.array([0.25, 0.5, 0.75], np.float32))
    assert config == NetworkConfig(mean_pixel=(0.25, 0.5, 0.75))
    assert hash(config) == hash(NetworkConfig(mean_pixel=(0.25, 0.5, 0.75)))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("ratio", 3),
        ("ratio", True),
        ("ratio", "2"),
        ("ratio", 2.0),
        ("channel_divisor", 3),
        ("channel_divisor", True),
        ("channel_divisor", 4.0),
        ("steady_frames", -1),
        ("steady_frames", 2.0),
        ("steady_frames", 8),  # with the mean fill, to which nothing is added
        ("time_stride", 1),
        ("guidance", None),
        ("input_fill", "telea"),
        ("mean_pixel", (0.5, 0.5)),
        ("mean_pixel", (0.5, 0.5, 127)),
        ("mean_pixel", (0.5, 0.5, math.nan)),
        ("mean_pixel", (0.5, 0.5, 10**400)),
        ("mean_pixel", "grey"),
        ("mean_pixel", None),
    ],
)
def test_config_rejects_value(field, value):
    with pytest.raises(ValueError, match=f"^{field} is "):
        NetworkConfig(**{field: value})


def test_config_rejects_unknown_and_missing_fields():
    fields = NetworkConfig().to_dict()
    with pytest.raises(ValueError, match="depth"):
        NetworkConfig.from_dict(fields | {"depth": 3})
    del fields["channel_divisor"], fields["steady_frames"]  # checkpoints are older than these
    assert NetworkConfig.from_dict(fields) == NetworkConfig()
    del fields["ratio"]
    with pytest.raises(ValueError, match=r"wanted .*ratio"):
        NetworkConfig.from_dict(fields)
