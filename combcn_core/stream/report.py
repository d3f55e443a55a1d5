"""The report of what a run did, and the time of reading for it."""

from __future__ import annotations

import json
from collections.abc import Generator
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from combcn_core.atomic import write_text
from combcn_core.clips.video import PathLike
from combcn_core.shot import Counts

Item = TypeVar("Item")


MUCH_UNSEEN = 0.2  # of the hole: more is worth a word of advice


@dataclass(frozen=True)
class Report:
    """What a run did, in the order of the JSON that `save` writes.

    Attributes:
        version: of CombCN.
        frames: written.
        hole_pixels: in all of them, masks grown; the sum of the next four.
        reference_pixels: taken from the plates given as references, in their own frames.
        reference_reach: by the frame of a reference, in how many other "frames" its painted area
            shows most surely what is behind the hole, the "first" and the "last" of them, and how
            many "pixels" that makes; none of these where it reached none.
        propagated_pixels: seen in other frames and carried over.
        filled_pixels: by the classical fill.
        network_pixels: by the networks.
        synthesized_pixels: of the last two, those that got texture from what is known around them.
        shadow_pixels: of the hole pixels, those that `take_shadows` added, before growing.
        resumed_frames: of those, how many an interrupted run had finished.
        resumed_motion_frames: of the others, how many it had found the motion of.
        changed_outside_mask: pixels outside the grown masks that differ between the source and the
            written file, both decoded, in images with their alpha. Always 0; None where the format
            is lossy, or the source was gone before they could be compared.
        seconds: per stage, and "total". Stages overlap, so they may add up to more.
        peak_memory_bytes: most memory that this process held so far; None on Windows.
        forecast_memory_bytes: what was expected of that before the start, where a limit was set.
        settings: what was asked for.
    """

    version: str
    frames: int
    hole_pixels: int
    reference_pixels: int
    reference_reach: dict[int, dict[str, int]]
    propagated_pixels: int
    filled_pixels: int
    network_pixels: int
    synthesized_pixels: int
    shadow_pixels: int
    resumed_frames: int
    resumed_motion_frames: int
    changed_outside_mask: int | None
    seconds: dict[str, float]
    peak_memory_bytes: int | None
    forecast_memory_bytes: int | None
    settings: dict[str, Any] = field(repr=False)

    def save(self, path: PathLike) -> None:
        """Write it as JSON; it appears under its name only when it is whole."""
        write_text(Path(path), json.dumps(asdict(self), indent=2) + "\n")


def timed(
    counts: Counts, stage: str, items: Generator[Item, None, None]
) -> Generator[Item, None, None]:
    """Pass items on; what it takes to get them is the time of a stage."""
    with closing(items):
        while True:
            with counts.timed(stage):
                item = next(items, None)
            if item is None:
                return
            yield item
            del item
