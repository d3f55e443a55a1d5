"""Progress callbacks: of a piece of work, and of a run over files with its stages."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple, TypeVar

import numpy as np

from combcn_core.pixels import Pixels

Item = TypeVar("Item")

# Called often with the share of the work that is done, from 0 to 1, and, where there is one, a
# frame (H, W, 3) as far as it is filled. What it raises ends the work.
OnShare = Callable[[float, Pixels | None], None]


class Progress(NamedTuple):
    """How far a run over files is.

    Attributes:
        stage: what was done last: "opening", "following masks", "finding shadows", "reading",
            "finding motion", "filling", "writing" or "checking".
        share: of the whole run, from 0 to 1; it never falls.
        frames: written so far.
        num_frames: to be written; 0 while they are not counted yet.
        picture: a frame (H, W, 3) as far as it is filled, where there is one.
    """

    stage: str
    share: float
    frames: int = 0
    num_frames: int = 0
    picture: Pixels | None = None


OnProgress = Callable[[Progress], None]


class Stages:
    """The stages of a run, which overlap in time, added up to the share of the whole."""

    def __init__(self, on_progress: OnProgress | None, weights: Mapping[str, float]) -> None:
        """
        Args:
            on_progress: called whenever a stage gets on.
            weights: stage -> its part of the time, in any unit.
        """
        self._on_progress = on_progress
        total = sum(weights.values())
        self._weights = {name: weight / total for name, weight in weights.items()}
        self._shares = dict.fromkeys(weights, 0.0)
        self.frames_written = self.num_frames = 0

    def __call__(self, stage: str, share: float = 0.0, picture: Pixels | None = None) -> None:
        """Report that this share of a stage is done; a share less than before changes nothing."""
        self._shares[stage] = max(share, self._shares[stage])
        if self._on_progress is not None:
            whole = sum(self._weights[name] * share for name, share in self._shares.items())
            now = Progress(stage, min(whole, 1.0), self.frames_written, self.num_frames, picture)
            self._on_progress(now)

    @property
    def is_watched(self) -> bool:
        return self._on_progress is not None

    def callback(self, stage: str) -> OnShare | None:
        """A progress callback for the work of this stage; None where nobody listens."""
        if not self.is_watched:
            return None
        return lambda share, picture: self(stage, share, picture)


def part_of(
    on_progress: OnShare | None, start: float, stop: float, *, shows: bool = True
) -> OnShare | None:
    """A progress callback for a part of some work, from start to stop of the whole."""
    if on_progress is None:
        return None
    return lambda share, frame: on_progress(
        start + (stop - start) * share, frame if shows else None
    )


def report_each(items: Iterable[Item], count: int, on_progress: OnShare | None) -> Iterator[Item]:
    """Pass items on and report each as done, with its frame where it is or begins with one."""
    for done, item in enumerate(items, 1):
        if on_progress is not None:
            first: Any = item[0] if isinstance(item, tuple) else item
            on_progress(done / count, first if isinstance(first, np.ndarray) else None)
        yield item
