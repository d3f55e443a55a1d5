"""How far a piece of work is, told on the way."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import numpy as np

from combcn_core.pixels import Pixels

Item = TypeVar("Item")

# Called often with the share of the work that is done, from 0 to 1, and, where there is one, a
# frame (H, W, 3) as far as it is filled. What it raises ends the work.
Tell = Callable[[float, Pixels | None], None]


def part_of(tell: Tell | None, start: float, stop: float, *, shows: bool = True) -> Tell | None:
    """For a part of some work: its share counts from start to stop of the whole."""
    if tell is None:
        return None
    return lambda share, frame: tell(start + (stop - start) * share, frame if shows else None)


def follow(items: Iterable[Item], count: int, tell: Tell | None) -> Iterator[Item]:
    """Pass on items of work as they are done; those that are frames are shown."""
    for done, item in enumerate(items, 1):
        if tell is not None:
            first: Any = item[0] if isinstance(item, tuple) else item
            tell(done / count, first if isinstance(first, np.ndarray) else None)
        yield item
