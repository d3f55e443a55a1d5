"""What a checkpoint says about its networks."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal


@dataclasses.dataclass(frozen=True)
class NetworkConfig:
    """What a checkpoint must say about its networks before weights fit them.

    Attributes:
        ratio: frame size over the size of the low-resolution clip; 4 is the paper's V-1.
        time_stride: TemporalNet also strides time, the paper's V-2.
        guidance: DetailNet takes TemporalNet's result in; without it, it is the paper's 2DCN.
        input_fill: what the caller puts into the hole before the networks see it. "mean": the mean
            pixel, as in the paper. "classical": a classical fill, to which the networks add what
            they learned; their last layers start at zero, so that they start from that fill.
        mean_pixel: mean RGB of the training set, in [0, 1].
        channel_divisor: the hidden layers have the paper's channels divided by this, at 1 as many.
            Narrow networks take a fraction of the time; `CombCN.widen` makes wide ones of them.
        steady_frames: what CombCN adds to its classical fill is averaged over fewer than this many
            frames before and after, weighted by nearness, and computed for every `detail_step`-th
            frame only. More flickers less, and blurs what moves. 0: each frame by itself, as in
            the paper.

    Raises:
        ValueError: a field has a value other than these.
    """

    ratio: Literal[2, 4] = 2
    time_stride: bool = False
    guidance: bool = True
    input_fill: Literal["mean", "classical"] = "mean"
    mean_pixel: tuple[float, float, float] = (0.5, 0.5, 0.5)
    channel_divisor: Literal[1, 2, 4, 8] = 1
    steady_frames: int = 0

    def __post_init__(self) -> None:
        if type(self.ratio) is not int or self.ratio not in (2, 4):
            raise ValueError(f"ratio is {self.ratio!r}, but the networks exist for 2 and 4 only")
        if type(self.channel_divisor) is not int or self.channel_divisor not in (1, 2, 4, 8):
            raise ValueError(f"channel_divisor is {self.channel_divisor!r}; pass 1, 2, 4 or 8")
        if type(self.steady_frames) is not int or not 0 <= self.steady_frames <= 32:
            raise ValueError(f"steady_frames is {self.steady_frames!r}; pass 0 to 32")
        for name in ("time_stride", "guidance"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name} is {getattr(self, name)!r}; pass True or False")
        if self.input_fill not in ("mean", "classical"):
            raise ValueError(f"input_fill is {self.input_fill!r}; pass 'mean' or 'classical'")
        if self.steady_frames and self.input_fill == "mean":
            raise ValueError(
                f"steady_frames is {self.steady_frames}, for which nothing is added to a fill of "
                "'mean'; pass 0, or input_fill 'classical'"
            )
        try:
            mean_pixel = tuple(float(value) for value in self.mean_pixel)
        except (TypeError, ValueError, OverflowError):
            mean_pixel = ()
        if len(mean_pixel) != 3 or not all(0 <= value <= 1 for value in mean_pixel):
            raise ValueError(
                f"mean_pixel is {self.mean_pixel!r}; pass three numbers in [0, 1]: red, green, blue"
            )
        # JSON returns a list and numpy its own floats; equal configurations must compare equal.
        object.__setattr__(self, "mean_pixel", mean_pixel)

    def to_dict(self) -> dict[str, Any]:
        """Every field, in types that JSON keeps."""
        return dataclasses.asdict(self) | {"mean_pixel": list(self.mean_pixel)}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> NetworkConfig:
        """The inverse of `to_dict`, also after JSON.

        Raises:
            ValueError: a field is missing, unknown or has an impossible value.
        """
        wanted = {field.name for field in dataclasses.fields(cls)}
        newer = {"channel_divisor", "steady_frames"}  # which older checkpoints lack
        if set(fields) | newer != wanted:
            raise ValueError(
                f"the network configuration has the fields {', '.join(sorted(fields)) or 'none'}, "
                f"wanted {', '.join(sorted(wanted))}; it may come from another version of CombCN"
            )
        return cls(**fields)
