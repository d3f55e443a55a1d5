"""The two networks of CombCN, built from the paper's layer tables.

Source: C. Wang, H. Huang, X. Han, J. Wang, "Video Inpainting by Jointly Learning Temporal Structure
and Spatial Details", AAAI 2019, arXiv 1806.08482: Table 1 and Fig. 2. Where the paper is silent,
the docstrings say what was chosen.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from combcn_core.networks.config import NetworkConfig


class Layer(NamedTuple):
    """One row of a layer table, as it acts on height and width.

    `skip` names the layer whose output is concatenated to this layer's own; both enter the next.
    """

    kind: Literal["conv", "deconv"]
    kernel: int
    stride: int
    channels: int
    dilation: int = 1
    skip: int | None = None


# 3DCN: Table 1, top; skips as in Fig. 2a. The last column is the map for a low-resolution frame of
# h x w. What a row does along time is the business of `time_axis`.
TEMPORAL_LAYERS = (
    Layer("conv", kernel=5, stride=1, channels=16),  # 1: h
    Layer("conv", kernel=3, stride=2, channels=32),  # 2: h/2
    Layer("conv", kernel=3, stride=1, channels=64),  # 3: h/2
    Layer("conv", kernel=3, stride=2, channels=128),  # 4: h/4
    Layer("conv", kernel=3, stride=1, channels=256, dilation=2),  # 5: h/4
    Layer("conv", kernel=3, stride=1, channels=256, dilation=4),  # 6: h/4
    Layer("conv", kernel=3, stride=1, channels=256, dilation=8),  # 7: h/4
    Layer("conv", kernel=3, stride=1, channels=128, skip=4),  # 8: h/4
    Layer("deconv", kernel=4, stride=2, channels=64, skip=3),  # 9: h/2
    Layer("conv", kernel=3, stride=1, channels=32, skip=2),  # 10: h/2
    Layer("deconv", kernel=4, stride=2, channels=16),  # 11: h
    Layer("conv", kernel=3, stride=1, channels=3),  # 12: h
)

# CombCN, and 2DCN without guidance: Table 1, bottom; skips as in Fig. 2b (k joins 16 - k).
DETAIL_LAYERS = (
    Layer("conv", kernel=5, stride=1, channels=64),  # 1: H
    Layer("conv", kernel=3, stride=2, channels=128),  # 2: H/2
    Layer("conv", kernel=3, stride=1, channels=128),  # 3: H/2
    Layer("conv", kernel=3, stride=2, channels=256),  # 4: H/4
    Layer("conv", kernel=3, stride=1, channels=256),  # 5: H/4
    Layer("conv", kernel=3, stride=1, channels=256),  # 6: H/4
    Layer("conv", kernel=3, stride=1, channels=256, dilation=2),  # 7: H/4
    Layer("conv", kernel=3, stride=1, channels=256, dilation=4),  # 8: H/4
    Layer("conv", kernel=3, stride=1, channels=256, dilation=8, skip=7),  # 9: H/4
    Layer("conv", kernel=3, stride=1, channels=256, dilation=16, skip=6),  # 10: H/4
    Layer("conv", kernel=3, stride=1, channels=256, skip=5),  # 11: H/4
    Layer("conv", kernel=3, stride=1, channels=256, skip=4),  # 12: H/4
    Layer("deconv", kernel=4, stride=2, channels=128, skip=3),  # 13: H/2
    Layer("conv", kernel=3, stride=1, channels=128, skip=2),  # 14: H/2
    Layer("deconv", kernel=4, stride=2, channels=64, skip=1),  # 15: H
    Layer("conv", kernel=3, stride=1, channels=32),  # 16: H
    Layer("conv", kernel=3, stride=1, channels=3),  # 17: H
)

# The first and the last feature map of the guidance's size, by ratio: guidance is added to the
# output of the first layer named and to the input of the second.
GUIDANCE_LAYERS = {2: (2, 15), 4: (4, 13)}

# Sizes are padded to these multiples, so a crop equals the whole frame only if it starts on one.
TEMPORAL_MULTIPLE_PIXELS = 8
DETAIL_MULTIPLE_PIXELS = 4


class CombCN(nn.Module):
    """Both networks and their configuration: what is trained, saved, loaded and handed around.

    The caller runs the two, because what lies between them (scaling, crops, segments) is not
    learned: `temporal` completes the clip at 1/ratio of its size, `detail` paints each frame with
    that frame of `temporal`'s prediction as guidance. `detail` ignores `temporal` when
    `config.guidance` is False.
    """

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        self.temporal = TemporalNet(config)
        self.detail = DetailNet(config)

    @classmethod
    def join(cls, temporal: "CombCN", detail: "CombCN") -> "CombCN":
        """3DCN of one model and the second network of another, each trained alone, as a start for
        training both.

        Guidance that the second network was trained without starts at zero, so at first it does
        what it did.

        Args:
            temporal: a model with guidance; its `temporal` is taken.
            detail: its `detail` is taken.

        Returns:
            A new model in float32 on the CPU, configured as `temporal`.

        Raises:
            ValueError: configurations that differ in more than `guidance`, or `temporal` has none.
                The mean pixel may differ where both start from a classical fill: it only pads then.
        """
        if not temporal.config.guidance:
            raise ValueError(
                "3DCN is to come from a model without guidance, which never used it; give one that "
                "was trained with guidance"
            )
        wanted = dataclasses.replace(detail.config, guidance=True)
        if wanted.input_fill == "classical":
            wanted = dataclasses.replace(wanted, mean_pixel=temporal.config.mean_pixel)
        if temporal.config != wanted:
            raise ValueError(
                f"3DCN is of a model with {temporal.config}, CombCN of one with {detail.config}; "
                "take two that were trained on the same footage with the same settings of the "
                "networks, but for guidance"
            )
        joined = cls(temporal.config)
        joined.temporal.load_state_dict(temporal.temporal.state_dict())
        if not detail.config.guidance:
            _zero(joined.detail.guidance_first)
            _zero(joined.detail.guidance_last)
        joined.detail.load_state_dict(joined.detail.state_dict() | detail.detail.state_dict())
        return joined

    @torch.no_grad()
    def widen(self, *, seed: int = 0) -> "CombCN":
        """Networks with all of the paper's channels that compute the same, to be trained further.

        Each hidden channel is repeated, and what a layer takes from it is shared out among the
        copies. The shares are drawn, so that the copies go different ways in training (Net2Net,
        Chen et al., ICLR 2016, arXiv 1511.05641).

        Args:
            seed: of the shares.

        Returns:
            A new model in float32 on the CPU with a `channel_divisor` of 1.
        """
        wide = CombCN(dataclasses.replace(self.config, channel_divisor=1))
        generator = torch.Generator().manual_seed(seed)
        for narrow_net, wide_net in ((self.temporal, wide.temporal), (self.detail, wide.detail)):
            _widen(narrow_net, wide_net, generator)
        return wide


class TemporalNet(nn.Module):
    """3DCN: complete a low-resolution clip as one volume (Table 1, top; Fig. 2a)."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        self.table = narrowed(TEMPORAL_LAYERS, config.channel_divisor)
        self.layers = nn.ModuleDict()
        for number, (row, in_channels) in enumerate(with_in_channels(self.table), 1):
            axes = (time_axis(row, config.time_stride), row, row)
            self.layers[str(number)] = _block(axes, in_channels, last=number == len(self.table))
        if config.input_fill == "classical":
            _zero(self.layers[str(len(self.table))])

    def forward(self, clip: Tensor, mask: Tensor) -> Tensor:
        """Predict every pixel of a clip.

        Any size works: height and width are padded right and bottom to a multiple of 8 (time to a
        multiple of 4 with `time_stride`) with the mean pixel and mask 1, the result is cropped.

        Args:
            clip: (B, 3, T, h, w), RGB in [0, 1], low resolution, the hole filled as
                `config.input_fill` says.
            mask: (B, 1, T, h, w), 1 inside the hole.

        Returns:
            (B, 3, T, h, w), RGB around [0, 1], not clamped.

        Raises:
            ValueError: a shape differs from these.
        """
        _check_shapes(clip, mask, "clip", "(B, 3, T, H, W)")
        multiples = (time_multiple(self.config), TEMPORAL_MULTIPLE_PIXELS, TEMPORAL_MULTIPLE_PIXELS)
        x = torch.cat([clip, mask.to(clip.dtype)], dim=1)
        x = pad_to_multiples(x, multiples, (*self.config.mean_pixel, 1.0))

        sources = {row.skip for row in self.table}
        kept: dict[int, Tensor] = {}
        for number, row in enumerate(self.table, 1):
            x = self.layers[str(number)](x)
            if number in sources:
                kept[number] = x
            if row.skip is not None:
                x = torch.cat([x, kept.pop(row.skip)], dim=1)

        num_frames, height, width = clip.shape[2:]
        x = x[:, :, :num_frames, :height, :width]
        return clip + x if self.config.input_fill == "classical" else x


class DetailNet(nn.Module):
    """CombCN's second network: complete frames one by one (Table 1, bottom; Fig. 2b).

    Guidance passes through two 3x3 convolutions of its own, with bias, without BN or ReLU. The
    first map is added to the output of layer 2 (layer 4 at ratio 4) after its ReLU, before the
    output is kept as a skip; the second to the input of layer 15 (13 at ratio 4), which is the
    concatenation of the layer before and its skip. The paper's table marks layer 15 itself; its
    figure and the size, H/2, say that the input is meant.
    """

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        self.table = narrowed(DETAIL_LAYERS, config.channel_divisor)
        self.layers = nn.ModuleDict()
        rows = with_in_channels(self.table)
        for number, (row, in_channels) in enumerate(rows, 1):
            self.layers[str(number)] = _block((row, row), in_channels, last=number == len(rows))
        if config.input_fill == "classical":
            _zero(self.layers[str(len(rows))])
        if config.guidance:
            first, last = GUIDANCE_LAYERS[config.ratio]
            self.guidance_first = nn.Conv2d(3, rows[first - 1][0].channels, 3, padding=1)
            self.guidance_last = nn.Conv2d(3, rows[last - 1][1], 3, padding=1)

    def forward(self, frames: Tensor, mask: Tensor, guidance: Tensor | None = None) -> Tensor:
        """Predict every pixel of frames that know nothing of each other.

        Any size works: frames are padded right and bottom to a multiple of 4 with the mean pixel
        and mask 1, guidance with the mean pixel to 1/ratio of that, the result is cropped.

        Args:
            frames: (B, 3, H, W), RGB in [0, 1], the hole filled as `config.input_fill` says.
            mask: (B, 1, H, W), 1 inside the hole.
            guidance: (B, 3, ceil(H/ratio), ceil(W/ratio)), RGB in [0, 1]: TemporalNet's prediction
                of the same frames; None if and only if `config.guidance` is False.

        Returns:
            (B, 3, H, W), RGB around [0, 1], not clamped.

        Raises:
            ValueError: a shape differs from these, or guidance is missing or not wanted.
        """
        _check_shapes(frames, mask, "frames", "(B, 3, H, W)")
        self._check_guidance(guidance, frames)
        multiple, ratio = DETAIL_MULTIPLE_PIXELS, self.config.ratio
        x = torch.cat([frames, mask.to(frames.dtype)], dim=1)
        x = pad_to_multiples(x, (multiple, multiple), (*self.config.mean_pixel, 1.0))
        if guidance is not None:
            guidance = pad_to_multiples(guidance, [multiple // ratio] * 2, self.config.mean_pixel)
        first, last = GUIDANCE_LAYERS[ratio]

        sources = {row.skip for row in self.table}
        kept: dict[int, Tensor] = {}
        for number, row in enumerate(self.table, 1):
            if guidance is not None and number == last:
                x = x + self.guidance_last(guidance)
            x = self.layers[str(number)](x)
            if guidance is not None and number == first:
                x = x + self.guidance_first(guidance)
            if number in sources:
                kept[number] = x
            if row.skip is not None:
                x = torch.cat([x, kept.pop(row.skip)], dim=1)

        height, width = frames.shape[2:]
        x = x[:, :, :height, :width]
        return frames + x if self.config.input_fill == "classical" else x

    def _check_guidance(self, guidance: Tensor | None, frames: Tensor) -> None:
        if not self.config.guidance:
            if guidance is not None:
                raise ValueError(
                    "guidance was passed to a network built without it; pass None, or build the "
                    "network with guidance=True"
                )
            return
        ratio, (batch, _, height, width) = self.config.ratio, frames.shape
        wanted = (batch, 3, -(-height // ratio), -(-width // ratio))
        if guidance is None or guidance.shape != wanted:
            got = "missing" if guidance is None else f"of shape {tuple(guidance.shape)}"
            raise ValueError(
                f"guidance is {got}, but frames of {height}x{width} at ratio {ratio} take "
                f"{wanted}; resize TemporalNet's prediction to that size"
            )


def fill_mean(clip: Tensor, mask: Tensor, mean_pixel: Sequence[float]) -> Tensor:
    """Put the mean pixel into the hole, the input of `input_fill="mean"`.

    Args:
        clip: (B, 3, T, H, W) or (B, 3, H, W), RGB in [0, 1].
        mask: as clip with one channel, 1 inside the hole; a value of half or more is hole.
        mean_pixel: RGB in [0, 1].

    Returns:
        As clip. Known pixels keep every bit, and no value of the hole survives, not even NaN.

    Raises:
        ValueError: a shape differs from these.
    """
    _check_shapes(clip, mask, "clip", "(B, 3, T, H, W)" if clip.ndim == 5 else "(B, 3, H, W)")
    mean = clip.new_tensor(mean_pixel).view(1, 3, *[1] * (clip.ndim - 2))
    return torch.where(mask >= 0.5, mean, clip)


def time_axis(row: Layer, time_stride: bool) -> Layer:
    """What a row of TEMPORAL_LAYERS does along time.

    The paper's kernels of 5 and 3 are cubes, and a deconv of 4 is read as (3, 4, 4). Only V-2
    strides time; nothing dilates it.
    """
    if time_stride:
        return row._replace(dilation=1)
    kernel = 3 if row.kind == "deconv" else row.kernel
    return row._replace(kernel=kernel, stride=1, dilation=1)


def time_multiple(config: NetworkConfig) -> int:
    """Frames to whose multiple TemporalNet pads time; a run of frames must start on one."""
    return _cell([time_axis(row, config.time_stride) for row in TEMPORAL_LAYERS])


def temporal_halo(config: NetworkConfig) -> int:
    """Frames to add on each side of a run so that its result equals that of the whole clip.

    With `time_stride` this holds for a run that starts, halo included, on a multiple of
    `time_multiple` counted from the clip's first frame.
    """
    return context_size([time_axis(row, config.time_stride) for row in TEMPORAL_LAYERS])


def detail_step(config: NetworkConfig) -> int:
    """DetailNet is given every n-th frame of a shot, counted from its first, and its last: n.

    A quarter of `steady_frames`: averages over more frames differ little.
    """
    return max(1, config.steady_frames // 4)


def context_frames(config: NetworkConfig) -> int:
    """Frames on each side of a run that the networks' result depends on: `temporal_halo` and what
    `steady_frames` averages over."""
    return temporal_halo(config) + config.steady_frames


def run_multiple(config: NetworkConfig) -> int:
    """The number of frames on a multiple of which, from the shot's first, a run must start."""
    return math.lcm(time_multiple(config), detail_step(config))


def context_size(table: Sequence[Layer]) -> int:
    """Pixels (or frames) to add on each side of a crop so that its result equals the uncropped.

    Walks a table backwards from one cell, the pixels between two multiples of the table's total
    stride, to all it sees, and rounds up to whole cells. The crop must start, context included, on
    a multiple of the total stride. A deconv of kernel 4 and stride 2 reaches one pixel further to
    the left than to the right, so single pixels see up to one more than this; a start rounded down
    to a whole cell includes it.
    """
    cell = _cell(table)
    low, high = 0, cell - 1
    for row in reversed(table):
        if row.kind == "deconv":
            # Input i adds to the outputs from stride * i - 1 to stride * i + kernel - 2.
            low = -((row.kernel - 2 - low) // row.stride)
            high = (high + 1) // row.stride
        else:
            margin = row.dilation * (row.kernel // 2)
            low, high = low * row.stride - margin, high * row.stride + margin
    return -(-max(-low, high - (cell - 1)) // cell) * cell


def _cell(table: Sequence[Layer]) -> int:
    return math.prod(row.stride for row in table if row.kind == "conv")


# In pixels of the low-resolution clip and of the frame.
TEMPORAL_CONTEXT_PIXELS = context_size(TEMPORAL_LAYERS)
DETAIL_CONTEXT_PIXELS = context_size(DETAIL_LAYERS)


def narrowed(table: Sequence[Layer], divisor: int) -> tuple[Layer, ...]:
    """A table whose hidden layers have their channels divided by `divisor`."""
    hidden = (row._replace(channels=row.channels // divisor) for row in table[:-1])
    return *hidden, table[-1]


def with_in_channels(table: Sequence[Layer]) -> list[tuple[Layer, int]]:
    """Each row with the channels that enter it: R, G, B and mask at first, then output and skip."""
    rows, channels = [], 4
    for row in table:
        rows.append((row, channels))
        channels = row.channels + (0 if row.skip is None else table[row.skip - 1].channels)
    return rows


def _block(axes: Sequence[Layer], in_channels: int, last: bool) -> nn.Sequential:
    """One row as a module, given once per axis: 2 for frames, 3 for clips. Padding keeps sizes."""
    row, dims = axes[-1], len(axes)
    # Typed as Any, since torch's stubs want tuples of a fixed length.
    shape: Any = {
        "kernel_size": tuple(axis.kernel for axis in axes),
        "stride": tuple(axis.stride for axis in axes),
    }
    block = nn.Sequential()
    if row.kind == "deconv":
        deconv = nn.ConvTranspose3d if dims == 3 else nn.ConvTranspose2d
        block.add_module("conv", deconv(in_channels, row.channels, **shape, padding=1, bias=last))
    else:
        conv = nn.Conv3d if dims == 3 else nn.Conv2d
        shape["padding"] = tuple(axis.dilation * (axis.kernel // 2) for axis in axes)
        shape["dilation"] = tuple(axis.dilation for axis in axes)
        block.add_module("conv", conv(in_channels, row.channels, **shape, bias=last))
    if not last:  # BN brings its own bias
        block.add_module("norm", (nn.BatchNorm3d if dims == 3 else nn.BatchNorm2d)(row.channels))
        block.add_module("relu", nn.ReLU(inplace=True))
    return block


def _widen(
    narrow: TemporalNet | DetailNet, wide: TemporalNet | DetailNet, generator: torch.Generator
) -> None:
    """Fill the weights of `wide` so that it computes what `narrow` does, see `CombCN.widen`."""
    table, wide_table = narrow.table, wide.table
    outputs = [
        torch.arange(row.channels) % few.channels
        for row, few in zip(wide_table, table, strict=True)
    ]
    inputs = [torch.arange(4)]  # of each layer: for every wide channel the narrow one it repeats
    for row, copied in zip(table, outputs, strict=True):
        skip = [] if row.skip is None else [outputs[row.skip - 1] + row.channels]
        inputs.append(torch.cat([copied, *skip]))
    tensors = narrow.state_dict()
    for number, row in enumerate(table, 1):
        came, goes = inputs[number - 1], outputs[number - 1]
        prefix = f"layers.{number}."
        weight = tensors[prefix + "conv.weight"].float()
        into, out = (0, 1) if row.kind == "deconv" else (1, 0)
        shares = _shares(came, len(goes), generator)
        shape = [1] * weight.ndim
        shape[into], shape[out] = len(came), len(goes)
        weight = weight.index_select(into, came).index_select(out, goes)
        tensors[prefix + "conv.weight"] = weight * (shares if out == 0 else shares.T).view(shape)
        for name, value in tensors.items():
            if name.startswith(prefix) and value.ndim == 1:  # biases, and what BatchNorm keeps
                tensors[name] = value[goes]
    if isinstance(narrow, DetailNet) and narrow.config.guidance:
        first, last = GUIDANCE_LAYERS[narrow.config.ratio]
        for name, goes in (("first", outputs[first - 1]), ("last", inputs[last - 1])):
            for key in (f"guidance_{name}.weight", f"guidance_{name}.bias"):
                tensors[key] = tensors[key][goes]
    wide.load_state_dict(tensors)


def _shares(came: Tensor, num_outputs: int, generator: torch.Generator) -> Tensor:
    """(num_outputs, len(came)): of the copies of one channel, shares that add up to 1."""
    shares = torch.rand(num_outputs, len(came), generator=generator) + 0.5
    sums = torch.zeros(num_outputs, int(came.max()) + 1).index_add_(1, came, shares)
    return shares / sums[:, came]


def _zero(block: nn.Module) -> None:
    for parameter in block.parameters():
        nn.init.zeros_(parameter)


def pad_to_multiples(x: Tensor, multiples: Sequence[int], values: Sequence[float]) -> Tensor:
    """Pad the last axes at their ends to the next multiples, each channel with its own value."""
    pads = [-size % multiple for size, multiple in zip(x.shape[2:], multiples, strict=True)]
    if not any(pads):
        return x
    sides = [side for pad in reversed(pads) for side in (0, pad)]
    planes = [F.pad(x[:, i : i + 1], sides, value=value) for i, value in enumerate(values)]
    return torch.cat(planes, dim=1)


def _check_shapes(frames: Tensor, mask: Tensor, name: str, wanted: str) -> None:
    if frames.ndim != wanted.count(",") + 1 or frames.shape[1] != 3 or 0 in frames.shape:
        raise ValueError(f"{name} has shape {tuple(frames.shape)}; pass {wanted}, RGB")
    if mask.shape != (frames.shape[0], 1, *frames.shape[2:]):
        raise ValueError(
            f"mask has shape {tuple(mask.shape)} but {name} has {tuple(frames.shape)}; "
            "pass one mask channel of the same batch and size"
        )
