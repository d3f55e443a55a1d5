"""What several commands share: messages, bars, and flags that are read alike."""

from __future__ import annotations

import dataclasses
import re
import sys
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from tqdm import tqdm

from combcn_core.memory import GIB
from combcn_core.progress import Progress

if TYPE_CHECKING:
    from combcn_core.clips.mask_rules import MaskConfig
    from combcn_core.measure.trials import EvaluateConfig
    from combcn_core.networks.layers import CombCN
    from combcn_core.shot import InpaintConfig
    from combcn_core.stream.report import Report

Config = TypeVar("Config", bound="InpaintConfig | MaskConfig | EvaluateConfig")


def say(text: str) -> None:
    print(f"combcn: {text}", file=sys.stderr)


def bar(name: str, unit: str, total: int | None = None) -> tqdm:
    """A bar of things counted, on stderr; none where that is no terminal."""
    return tqdm(desc=name, unit=unit, total=total, smoothing=0, disable=None, dynamic_ncols=True)


class RunBar:
    """One bar over all stages of a run, with the stage and the frames beside it; see `bar`."""

    def __init__(self, name: str, position: int | None = None) -> None:
        self._name = name
        self._stage = ""
        self.tqdm = tqdm(
            desc=name,
            total=1.0,
            bar_format="{desc} {percentage:3.0f}%|{bar}| {elapsed}<{remaining}",
            smoothing=0,
            miniters=0,
            disable=None,
            dynamic_ncols=True,
            position=position,
            leave=position is None,
        )

    def __enter__(self) -> RunBar:
        return self

    def __exit__(self, *error: object) -> None:
        self.tqdm.close()

    def __call__(self, now: Progress) -> None:
        count = f", {now.frames}/{now.num_frames} frames" if now.num_frames else ""
        self.tqdm.set_description_str(f"{self._name}: {now.stage}{count}", refresh=False)
        self.tqdm.update(now.share - self.tqdm.n)
        if now.stage != self._stage:
            self.tqdm.refresh()
        self._stage = now.stage


class Unchecked:
    """Flags that are settings too, whose values `settings` checks when the command runs: the parser
    would put a box around the sentence."""

    def __post_init__(self) -> None:
        pass


def settings(command: Config, kind: type[Config], **changes: Any) -> Config:
    """The fields of a command that are settings of a kind, checked now."""
    found = {field.name: getattr(command, field.name) for field in dataclasses.fields(kind)}
    return kind(**(found | changes))


def load_weights(name: str | None, wanted: bool) -> CombCN | None:
    if name is None:
        return None
    if not wanted:
        raise ValueError(f"--weights {name} is of no use with --no-network; leave one out.")
    from combcn_core.networks.checkpoint import load_model

    return load_model(name)


def parse_rate(text: str) -> Fraction:
    try:
        rate = Fraction(text)
    except (ValueError, ZeroDivisionError):
        rate = Fraction(0)
    if rate <= 0:
        raise ValueError(f"--fps is {text}; give a rate such as 25, 23.976 or 24000/1001.")
    return rate


def parse_frames(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)-(\d+)", text)
    if match is None:
        raise ValueError(f"--frames is {text}; give the first and the last one, such as 0-99.")
    return int(match[1]), int(match[2])


def summary(output: Path, report: Report) -> str:
    from combcn_core.stream.report import MUCH_UNSEEN

    done = f"{output}: {report.frames} frames in {report.seconds['total']:.1f} s"
    if report.hole_pixels == 0:
        return f"{done}; the mask is empty, so all of them are copies of the source."
    parts = {
        "from references": report.reference_pixels,
        "from other frames": report.propagated_pixels,
        "by the smooth fill": report.filled_pixels,
        "by the networks": report.network_pixels,
        "of it as texture": report.synthesized_pixels,
    }
    shares = [f"{pixels / report.hole_pixels:.1%} {how}" for how, pixels in parts.items() if pixels]
    summary = f"{done}; hole filled {', '.join(shares)}"
    for number, reach in report.reference_reach.items():
        if reach:
            share = reach["pixels"] / report.hole_pixels
            summary += (
                f"; reference {number} went on to {reach['frames']} other frames "
                f"({reach['first']} to {reach['last']}) and fills {share:.1%} of the hole there"
            )
        else:
            summary += f"; reference {number} reached no other frame (docs/references.md)"
    if report.shadow_pixels:
        summary += f"; {report.shadow_pixels / report.frames:.0f} pixels of shadow taken a frame"
    if report.resumed_frames:
        summary += f"; {report.resumed_frames} frames were found finished"
    if report.resumed_motion_frames:
        summary += f"; the motion of {report.resumed_motion_frames} frames was found measured"
    if report.peak_memory_bytes is not None:
        summary += f"; peak memory {report.peak_memory_bytes / GIB:.2f} GiB"
    if report.changed_outside_mask is not None:
        summary += f"; {report.changed_outside_mask} pixels changed outside the mask"
    unseen = (report.filled_pixels + report.network_pixels) / report.hole_pixels
    if unseen > MUCH_UNSEEN:
        summary += (
            f". {unseen:.0%} of the hole was seen in no frame and is made up: a larger --reach may "
            "find more, --reference N=IMAGE shows what is there, and another inpainter can paint "
            "what is left (docs/remove-an-object.md)"
        )
    return f"{summary}."
