"""Run the networks: folded, in the arithmetic of the device, on what the hole needs alone.

BatchNorm becomes part of the convolutions, whose weights lie as the device's kernels want them. A
part of the result is computed from what it depends on, layer by layer (see `regions`), and equals
that part of the whole.

Two runs agree bit for bit where all shapes agree: the boxes that are computed and the frames of a
batch, in the same precision, on like processors with as many threads. PyTorch then chooses the same
kernels, and these add in the same order. A frame's boxes follow from its own hole, and on a CPU a
batch is one frame, so a frame does not depend on those that it is computed along with. Other
shapes, as those of tiles, runs and batches, may be added up in another order. In fp32 that is some
1e-7 a layer. In bf16 a sum near the middle between two numbers may then be rounded to the other
one: on processors with bf16 arithmetic 5e-5 was seen, far below what bf16 differs from fp32 anyway.

The kernels are those that PyTorch brings. torch.compile is left out: it needs a compiler where
CombCN runs, and would build anew for every size of a hole; so would CUDA graphs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import fuse_conv_bn_weights

from combcn_core.networks.layers import (
    DETAIL_MULTIPLE_PIXELS,
    GUIDANCE_LAYERS,
    TEMPORAL_MULTIPLE_PIXELS,
    CombCN,
    DetailNet,
    Layer,
    TemporalNet,
    pad_to_multiples,
    time_axis,
    time_multiple,
)
from combcn_core.networks.regions import (
    Plan,
    Span,
    Step,
    Table,
    count_flops,
    count_values,
    plan_layers,
    plan_step,
    volume,
)

Precision = Literal["auto", "fp32", "bf16", "fp16"]

_TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_GUIDE = Layer("conv", kernel=3, stride=1, channels=3)  # on height and width; channels differ


class InferenceModel(nn.Module):
    """A model made ready to run by `prepare`: a copy, which training the model does not change.

    It moves between devices like any module, and keeps the precision it was prepared for.

    Attributes:
        config: of the model.
        memory_bytes: that it may take beside its weights, about; None leaves it to the caller. For
            hosts that share a device between many models.
    """

    def __init__(self, model: CombCN, dtype: torch.dtype) -> None:
        super().__init__()
        self.config = model.config
        self.memory_bytes: int | None = None
        self.temporal = FoldedNet(model.temporal, dtype)
        self.detail = FoldedNet(model.detail, dtype)


Model = CombCN | InferenceModel


def prepare(
    model: Model,
    *,
    device: str | torch.device | None = None,
    precision: Precision = "auto",
) -> InferenceModel:
    """Fold a model and bring it to a device and a precision.

    Args:
        model: one that is prepared already is returned as it is.
        device: None: where the model is.
        precision: auto: that of a model in half precision; else bf16 on a CPU with instructions for
            it, fp16 on CUDA, fp32 elsewhere.

    Raises:
        ValueError: an unknown precision.
    """
    if isinstance(model, InferenceModel):
        return model
    if precision not in ("auto", *_TYPES):
        raise ValueError(f"precision is {precision!r}; choose auto, fp32, bf16 or fp16.")
    weight = next(model.parameters())
    device = torch.device(device or weight.device)
    if precision != "auto":
        dtype = _TYPES[precision]
    elif weight.dtype == torch.float32:
        dtype = _TYPES[fast_precision(device)]
    else:
        dtype = weight.dtype
    return InferenceModel(model, dtype).to(device)


def choose_device(name: str) -> str:
    """The device of this name, "cpu", "cuda" or "mps"; auto: CUDA where it is there, else the CPU.

    Raises:
        ValueError: it is not available.
    """
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    modules = {"cuda": torch.cuda, "mps": torch.backends.mps}
    if name in modules and not modules[name].is_available():
        raise ValueError(f"device {name} is not available here; use cpu, or auto.")
    return name


def fast_precision(device: torch.device) -> Literal["fp32", "bf16", "fp16"]:
    """The fastest arithmetic of a device that is exact enough: fp32, bf16 or fp16."""
    if device.type == "cuda":
        return "fp16"
    if device.type == "cpu" and torch.backends.mkldnn.is_available():
        # Emulated, bf16 is slower than fp32. Not every PyTorch can tell; then it is fp32.
        checks = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
        if any(getattr(torch.cpu, name, bool)() for name in checks):
            return "bf16"
    return "fp32"


class FoldedNet(nn.Module):
    """TemporalNet or DetailNet, each norm folded into its convolution."""

    def __init__(self, net: TemporalNet | DetailNet, dtype: torch.dtype) -> None:
        super().__init__()
        self.config = net.config
        self.table: Table = net.table
        self.axes: tuple[Table, ...] = (self.table, self.table)
        self._multiples: tuple[int, ...] = (DETAIL_MULTIPLE_PIXELS,) * 2
        if isinstance(net, TemporalNet):
            times = tuple(time_axis(row, self.config.time_stride) for row in self.table)
            self.axes = (times, *self.axes)
            self._multiples = (time_multiple(self.config), *[TEMPORAL_MULTIPLE_PIXELS] * 2)

        self._layers: list[FoldedLayer] = []
        for number, axes in enumerate(zip(*self.axes, strict=True), 1):
            block = dict(net.layers[str(number)].named_children())
            # Half precision has 8 to 11 bits, too few for the sum that becomes the picture.
            last = number == len(self.table)
            own = torch.promote_types(dtype, torch.float32) if last else dtype
            self._layers.append(FoldedLayer(axes, own, block["conv"], block.get("norm")))
        self._guides: list[FoldedLayer] = []
        if isinstance(net, DetailNet) and self.config.guidance:
            for conv in (net.guidance_first, net.guidance_last):
                self._guides.append(FoldedLayer((_GUIDE, _GUIDE), dtype, conv))
        self.parts = nn.ModuleList([*self._layers, *self._guides])

    @property
    def device(self) -> torch.device:
        """The device on which it runs."""
        return self._layers[0].weight.device

    @torch.inference_mode()
    def forward(
        self,
        frames: Tensor,
        mask: Tensor,
        guidance: Tensor | None = None,
        *,
        wanted: Sequence[Span] | None = None,
    ) -> Tensor:
        """Predict a part of what the network predicts.

        Args:
            frames: (B, 3, T, H, W) or (B, 3, H, W), as the network takes it, on any device.
            mask: as the network takes it.
            guidance: as DetailNet takes it.
            wanted: the part along T, H and W, or H and W; None: everything.

        Returns:
            (B, 3, ...) float32 of the part, RGB around [0, 1], not clamped.
        """
        whole = [Span(0, length) for length in frames.shape[2:]]
        wanted = wanted or whole
        plan = self.plan(wanted, frames.shape[2:])
        mean = self.config.mean_pixel
        x = torch.cat([frames, mask.to(frames.dtype)], dim=1)
        x = pad_to_multiples(x, self._multiples, (*mean, 1.0))
        x = self._take(x, plan[0])
        guides: list[Tensor] = []
        if guidance is not None:
            multiples = [multiple // self.config.ratio for multiple in self._multiples]
            guidance = pad_to_multiples(guidance, multiples, mean)
            both = self._guide_steps(plan, guidance.shape[2:])
            for guide, steps in zip(self._guides, both, strict=True):
                guides.append(guide(self._take(guidance, steps), steps))
        x = self._run(x, plan, guides)
        if self.config.input_fill == "classical":
            x += _cut(frames, whole, wanted).to(x)
        return x

    def flops(self, wanted: Sequence[Span], size: Sequence[int]) -> int:
        """Multiplications and additions for a part of a frame or clip of this size."""
        plan = self.plan(wanted, size)
        flops = count_flops(self.table, plan)
        low_size = [length // self.config.ratio for length in self._padded(size)]
        for guide, steps in zip(self._guides, self._guide_steps(plan, low_size), strict=True):
            flops += 2 * 3 * guide.bias.numel() * math.prod(step.taps for step in steps)
        return flops

    def forecast_bytes(self, wanted: Sequence[Span], size: Sequence[int]) -> int:
        """Memory that a part of a frame or clip of this size takes: tensors, without weights.

        The process as a whole was seen to take up to 1.3 times as much.
        """
        plan = self.plan(wanted, size)
        itemsize = self._layers[0].weight.element_size()
        values = count_values(self.table, plan) * itemsize
        # In float32: frames and mask, their copy, what enters the last layer, and the result.
        return values + 4 * (8 * math.prod(size) + (self.table[-2].channels + 6) * volume(wanted))

    def plan(self, wanted: Sequence[Span], size: Sequence[int]) -> Plan:
        """What each layer reads and writes for a part of a frame or clip of this size."""
        return plan_layers(self.axes, wanted, self._padded(size))

    def _padded(self, size: Sequence[int]) -> list[int]:
        lengths = zip(size, self._multiples, strict=True)
        return [-(-length // multiple) * multiple for length, multiple in lengths]

    def _guide_steps(self, plan: Plan, size: Sequence[int]) -> list[tuple[Step, ...]]:
        """What the guidance's convolutions do; their maps fit what they are added to."""
        if not self._guides:
            return []
        first, last = GUIDANCE_LAYERS[self.config.ratio]
        written = [step.write for step in plan[first - 1]]
        read = [step.read for step in plan[last - 1]]
        return [
            tuple(plan_step(_GUIDE, *part) for part in zip(spans, size, strict=True))
            for spans in (written, read)
        ]

    def _take(self, x: Tensor, steps: Sequence[Step]) -> Tensor:
        """What steps read of an input, where and as the layers want it."""
        x = _cut(x, [Span(0, length) for length in x.shape[2:]], [step.read for step in steps])
        weight = self._layers[0].weight
        return x.to(weight.device, weight.dtype, memory_format=_layout(weight))

    def _run(self, x: Tensor, plan: Plan, guides: Sequence[Tensor]) -> Tensor:
        first, last = GUIDANCE_LAYERS[self.config.ratio]
        joins = {row.skip: number for number, row in enumerate(self.table, 1)}
        parts = [_Part(x, [step.read for step in plan[0]])]
        kept: dict[int, _Part] = {}
        for number, (row, layer, steps) in enumerate(
            zip(self.table, self._layers, plan, strict=True), 1
        ):
            x = _join(parts, [step.read for step in steps])
            parts.clear()  # lets go of their memory
            if guides and number == last:
                x += guides[1]  # which no skip keeps: it is a layer joined to one
            x = layer(x, steps)
            if guides and number == first:
                x += guides[0]
            parts.append(_Part(x, [step.write for step in steps]))
            if number in joins:  # no more is kept than is read later
                later = [step.read for step in plan[joins[number]]]
                kept[number] = _Part(_join(parts, later), later)
            if row.skip is not None:
                parts.append(kept.pop(row.skip))
        return x


class FoldedLayer(nn.Module):
    """A convolution with bias, and ReLU where there was a norm before it."""

    weight: Tensor
    bias: Tensor

    def __init__(
        self,
        axes: tuple[Layer, ...],
        dtype: torch.dtype,
        conv: nn.Module,
        norm: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.axes = axes
        self.has_relu = norm is not None
        # ComfyUI runs nodes under inference mode, whose tensors could not be written to elsewhere.
        with torch.inference_mode(False), torch.no_grad():
            values = {name: value.cpu().double() for name, value in conv.state_dict().items()}
            weight = values["weight"]
            bias = values.get("bias", weight.new_zeros(axes[-1].channels))
            if norm is not None:
                assert isinstance(norm.eps, float)
                learned = {name: value.cpu().double() for name, value in norm.state_dict().items()}
                weight, bias = fuse_conv_bn_weights(
                    weight,
                    bias,
                    learned["running_mean"],
                    learned["running_var"],
                    norm.eps,
                    learned["weight"],
                    learned["bias"],
                    transpose=axes[-1].kind == "deconv",
                )
            weight = weight.to(dtype, memory_format=_layout(weight))
            self.register_buffer("weight", weight)
            self.register_buffer("bias", bias.to(dtype))

    def forward(self, x: Tensor, steps: Sequence[Step]) -> Tensor:
        """Convolve, as far as `steps` need it."""
        three = len(self.axes) == 3
        x = x.to(self.weight.dtype)
        stride = [axis.stride for axis in self.axes]
        if self.axes[-1].kind == "deconv":
            deconv = F.conv_transpose3d if three else F.conv_transpose2d
            x = deconv(x, self.weight, self.bias, stride, padding=1)
        else:
            padding: list[int] = []
            uneven: list[int] = []
            for axis, step in zip(self.axes, steps, strict=True):
                # As padding, zeros cost nothing, but lie on both sides; a stride skips the last.
                before, after = step.zeros
                both = min(before, after + axis.stride - 1)
                padding.append(both)
                uneven = [before - both, max(0, after - both), *uneven]
            if any(uneven):
                x = F.pad(x, uneven)
            conv = F.conv3d if three else F.conv2d
            dilation = [axis.dilation for axis in self.axes]
            x = conv(x, self.weight, self.bias, stride, padding, dilation)
        return F.relu_(x) if self.has_relu else x


class _Part(NamedTuple):
    """Values, and the spans of the whole map that they are."""

    values: Tensor
    spans: Sequence[Span]


def _layout(x: Tensor) -> torch.memory_format:
    """Channels last, where the kernels are made for it."""
    if x.device.type not in ("cpu", "cuda"):
        return torch.contiguous_format
    return torch.channels_last if x.ndim == 4 else torch.channels_last_3d


def _cut(x: Tensor, here: Sequence[Span], wanted: Sequence[Span]) -> Tensor:
    """The wanted part of values that lie at the spans `here`; not a copy."""
    for axis, (have, want) in enumerate(zip(here, wanted, strict=True), 2):
        x = x.narrow(axis, want.start - have.start, want.length)
    return x


def _join(parts: Sequence[_Part], wanted: Sequence[Span]) -> Tensor:
    # Copied one by one first: what lies in one piece is joined three times as fast.
    pieces = [
        piece.contiguous(memory_format=_layout(piece))
        for piece in (_cut(*part, wanted) for part in parts)
    ]
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim=1)
