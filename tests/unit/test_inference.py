import copy
import functools
import math

import numpy as np
import pytest
import torch
from torch import nn

from combcn_core.networks.inference import FoldedLayer, InferenceModel, fast_precision, prepare
from combcn_core.networks.layers import CombCN, NetworkConfig
from combcn_core.networks.regions import Span

from ..helpers import shrink_networks

pytestmark = pytest.mark.usefixtures("one_thread")

VARIANTS = {
    "paper": NetworkConfig(mean_pixel=(0.1, 0.5, 0.9)),
    "v1": NetworkConfig(ratio=4),
    "v2": NetworkConfig(time_stride=True),
    "2dcn": NetworkConfig(guidance=False),
    "classical": NetworkConfig(input_fill="classical"),
}
variants = pytest.mark.parametrize("config", VARIANTS.values(), ids=VARIANTS.keys())

# float32: folding rounds each weight anew, and other shapes add in another order, a few 1e-7 per
# layer and unit of the result. float64 shows that nothing else differs.
precisions = pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-13)], ids=["fp32", "fp64"]
)


@pytest.fixture
def thin(monkeypatch):
    """Networks of few channels, and a function that gives them other numbers of channels."""
    shrink_networks(monkeypatch, 4)
    return functools.partial(shrink_networks, monkeypatch)


def make_model(config, seed=0):
    """In eval mode, with norms that have learned something, so that signals live."""
    generator = torch.Generator().manual_seed(seed)
    model = CombCN(config)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm3d):
            module.weight.data.uniform_(0.5, 1.5, generator=generator)
            module.bias.data.uniform_(0, 0.5, generator=generator)
            module.running_mean.uniform_(-0.2, 0.2, generator=generator)
            module.running_var.uniform_(0.5, 2, generator=generator)
        elif isinstance(module, nn.Conv2d | nn.Conv3d | nn.ConvTranspose2d | nn.ConvTranspose3d):
            deviation = math.sqrt(2 / (module.weight[0].numel()))
            module.weight.data.normal_(0, deviation, generator=generator)
            if module.bias is not None:
                module.bias.data.uniform_(-0.1, 0.1, generator=generator)
    return model.eval()


def make_input(net, *size, dtype=torch.float32, seed=1):
    """Frames or a clip, mask and guidance, where the network takes it."""
    generator = torch.Generator().manual_seed(seed)
    frames = torch.rand(1, 3, *size, generator=generator)
    mask = (torch.rand(1, 1, *size, generator=generator) > 0.6).float()
    inputs = [frames, mask]
    if len(size) == 2 and net.config.guidance:
        low = [math.ceil(side / net.config.ratio) for side in size]
        inputs.append(torch.rand(1, 3, *low, generator=generator))
    return [x.to(dtype) for x in inputs]


def cut(x, spans):
    return x[(..., *(slice(*span) for span in spans))]


def random_spans(random, size):
    spans = []
    for length in size:
        start = int(random.integers(length))
        spans.append(Span(start, min(length, start + int(random.choice([1, 5, 40, length])))))
    return spans


# --- the same result -----------------------------------------------------------------------------


@precisions
@variants
@pytest.mark.parametrize("size", [(37, 50), (5, 21, 30)], ids=["detail", "temporal"])
def test_folded_network_equals_the_network(thin, config, size, dtype, tolerance):
    model = make_model(config).to(dtype)
    name = "detail" if len(size) == 2 else "temporal"
    net, folded = getattr(model, name), getattr(InferenceModel(model, dtype), name)
    inputs = make_input(net, *size, dtype=dtype)
    with torch.no_grad():
        expected = net(*inputs)
    assert expected.std() > 0.1
    torch.testing.assert_close(folded(*inputs), expected, rtol=0, atol=tolerance)


@variants
@pytest.mark.parametrize("seed", range(3))
def test_part_equals_the_whole(thin, config, seed):
    model = make_model(config).double()
    folded = InferenceModel(model, torch.float64)
    random = np.random.default_rng(seed)
    # Long enough for parts that see neither end of the frame, and none of them costly.
    sides = [("detail", (20, 420)), ("detail", (420, 20)), ("temporal", (30, 20, 20))]
    for name, longest in [*sides, ("temporal", (5, 200, 20)), ("temporal", (3, 20, 200))]:
        for _ in range(2):
            size = [int(random.integers(side // 2, side)) for side in longest]
            wanted = random_spans(random, size)
            inputs = make_input(getattr(model, name), *size, dtype=torch.float64, seed=seed)
            with torch.no_grad():
                whole = getattr(model, name)(*inputs)
            part = getattr(folded, name)(*inputs, wanted=wanted)
            torch.testing.assert_close(part, cut(whole, wanted), rtol=0, atol=1e-13)


def test_batch_equals_frames_one_by_one(thin):
    folded = prepare(make_model(VARIANTS["classical"]), precision="fp32").detail
    inputs = [make_input(folded, 60, 80, seed=seed) for seed in range(3)]
    wanted = [Span(20, 33), Span(40, 59)]
    batch = folded(*map(torch.cat, zip(*inputs, strict=True)), wanted=wanted)
    for number, one in enumerate(inputs):
        # As above: another order of sums.
        torch.testing.assert_close(
            batch[number : number + 1], folded(*one, wanted=wanted), rtol=0, atol=1e-5
        )


# --- no more than needed -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wanted",
    [
        [Span(201, 220), Span(200, 233)],
        [Span(0, 7), Span(400, 432)],
        [Span(203, 204), Span(240, 300)],
    ],
    ids=["inside", "corner", "pixel"],
)
@pytest.mark.parametrize("kind", ["detail", "temporal"])
def test_layers_read_what_the_part_depends_on_against_autograd(thin, kind, wanted):
    # All weights positive: no two gradients cancel, and no ReLU ends one.
    thin(1)
    config = NetworkConfig(guidance=False)
    model = CombCN(config).double().eval()
    net, folded = getattr(model, kind), getattr(InferenceModel(model, torch.float64), kind)
    for name, parameter in net.named_parameters():
        (nn.init.zeros_ if name.endswith("bias") else nn.init.ones_)(parameter)
    size = (408, 432)
    if kind == "temporal":
        size, wanted = (9, 104, 112), [Span(4, 5), *(Span(s // 4, -(-e // 4)) for s, e in wanted)]

    inputs = {}

    def hook(number):
        def keep(layer, given):
            inputs[number] = given[0].requires_grad_()
            inputs[number].retain_grad()

        return keep

    for number, layer in net.layers.items():
        layer.register_forward_pre_hook(hook(int(number)))
    frames = torch.ones(1, 3, *size, dtype=torch.float64)
    cut(net(frames, torch.ones_like(frames[:, :1])), wanted).sum().backward()
    for number, steps in enumerate(folded.plan(wanted, size), 1):
        seen = inputs[number].grad.amax((0, 1)).nonzero()
        low, high = seen.amin(0).tolist(), (seen.amax(0) + 1).tolist()
        assert [tuple(step.read) for step in steps] == list(zip(low, high, strict=True)), number


@pytest.mark.parametrize(
    ("kind", "size", "wanted"),
    [
        ("detail", (53, 120), [Span(3, 20), Span(60, 77)]),
        ("temporal", (9, 40, 33), [Span(4, 5), Span(7, 20), Span(20, 33)]),
    ],
)
def test_flops_against_counting(thin, monkeypatch, kind, size, wanted):
    # With all weights and values 1, each output of a convolution is its number of products.
    folded = getattr(prepare(make_model(NetworkConfig()), precision="fp32"), kind)
    counts = []
    forward = FoldedLayer.forward

    def count(layer, x, steps):
        other = copy.deepcopy(layer).double()
        other.weight.fill_(1)
        other.bias.zero_()
        counts.append(forward(other, torch.ones_like(x), steps).sum())
        return forward(layer, x, steps)

    monkeypatch.setattr(FoldedLayer, "forward", count)
    folded(*make_input(folded, *size), wanted=wanted)
    assert folded.flops(wanted, size) == 2 * sum(counts)


@pytest.mark.parametrize(
    ("kind", "size", "wanted"),
    [
        ("detail", (404, 420), [Span(152, 252), Span(160, 268)]),
        ("detail", (240, 432), [Span(0, 240), Span(0, 432)]),
        ("temporal", (9, 128, 128), [Span(4, 5), Span(40, 80), Span(50, 90)]),
    ],
)
def test_forecast_bytes_against_the_allocator(thin, kind, size, wanted):
    thin(16)
    folded = getattr(prepare(make_model(NetworkConfig()), precision="fp32"), kind)
    inputs = make_input(folded, *size)
    folded(*inputs, wanted=wanted)
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    ) as profile:
        folded(*inputs, wanted=wanted)
    events = sorted(profile.events(), key=lambda event: event.time_range.start)
    held = np.cumsum([event.self_cpu_memory_usage for event in events])
    forecast = folded.forecast_bytes(wanted, size)
    assert 0.5 * forecast < held.max() <= forecast


# --- precision, and what a model goes through ----------------------------------------------------


@variants
def test_bf16_is_within_a_level_of_fp32(config):
    model = make_model(config)
    # As trained networks: a picture, or the little that is added to one.
    last = model.detail.layers["17"].conv
    last.weight.data.mul_(0.1)
    last.bias.data.fill_(0.0 if config.input_fill == "classical" else 0.5)
    results = []
    for precision in ("fp32", "bf16"):
        detail = prepare(model, precision=precision).detail
        results.append(detail(*make_input(detail, 48, 56)).clamp(0, 1))
    error = (results[0] - results[1]).abs() * 255
    assert results[0].std() * 255 > 20
    assert 0 < error.mean() < 0.25
    assert error.quantile(0.99) < 1


def test_auto_precision_follows_model_and_device():
    def types(model, precision):
        prepared = prepare(model, precision=precision)
        return [part.weight.dtype for part in prepared.detail.parts]

    fast = {"fp32": torch.float32, "bf16": torch.bfloat16}[fast_precision(torch.device("cpu"))]
    model = make_model(NetworkConfig(guidance=False))
    assert types(model, "auto") == [fast] * 16 + [torch.float32]
    assert types(model, "fp32") == [torch.float32] * 17
    assert types(copy.deepcopy(model).half(), "auto") == [torch.float16] * 16 + [torch.float32]
    assert types(copy.deepcopy(model).half(), "bf16") == [torch.bfloat16] * 16 + [torch.float32]
    assert fast_precision(torch.device("cuda")) == "fp16"
    assert fast_precision(torch.device("mps")) == "fp32"
    with pytest.raises(ValueError, match="precision is 'fp8'; choose auto, fp32, bf16 or fp16"):
        prepare(model, precision="fp8")


def test_prepared_model_is_a_copy(thin):
    model = make_model(VARIANTS["paper"])
    prepared = prepare(model)
    inputs = make_input(prepared.detail, 20, 24)
    before = prepared.detail(*inputs)
    for parameter in model.parameters():
        parameter.data.zero_()
    assert torch.equal(prepared.detail(*inputs), before)
    assert torch.equal(copy.deepcopy(prepared).detail(*inputs), before)
    assert prepare(prepared, precision="fp32") is prepared


def test_prepared_under_inference_mode_works_outside(thin):
    with torch.inference_mode():
        prepared = prepare(make_model(VARIANTS["paper"]))
    for buffer in prepared.buffers():
        buffer.copy_(buffer)
    assert not any(buffer.requires_grad for buffer in prepared.buffers())
