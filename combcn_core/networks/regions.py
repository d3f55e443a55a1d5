"""Which part of every layer a part of the result needs, and what that costs: whole numbers only.

The needed part is found from the result backwards. It shrinks towards the output: early layers need
the context of the hole, the last ones little more than the hole's own box. Where it ends inside the
frame a layer reads the neighbours that are there; where it ends with the frame, zeros, as trained.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from itertools import combinations
from typing import NamedTuple

import cv2
import numpy as np

from combcn_core.networks.layers import Layer, with_in_channels
from combcn_core.pixels import Box, crop, find_box, placed_box, union

CELL_PIXELS = 32  # parts of a hole in the same or in neighbouring cells of this size stay together
MAX_BOXES = 16  # per frame; more are joined in larger cells

Table = tuple[Layer, ...]


class Span(NamedTuple):
    """Positions start to stop - 1 along one axis."""

    start: int
    stop: int

    @property
    def length(self) -> int:
        return self.stop - self.start


class Step(NamedTuple):
    """What a layer does along one axis.

    Attributes:
        read: of its input.
        zeros: how many stand before and after that, where the frame ends.
        write: what it makes of them; a deconv writes a little more than is needed.
        taps: pairs of an input and an output position whose product counts, zeros left out.
    """

    read: Span
    zeros: tuple[int, int]
    write: Span
    taps: int


# The steps along all axes, by layer: plan[0] is layer 1 of the paper.
Plan = tuple[tuple[Step, ...], ...]


def plan_layers(axes: Sequence[Table], wanted: Sequence[Span], size: Sequence[int]) -> Plan:
    """What each layer must do for a part of the result.

    Args:
        axes: the network's table, once per axis.
        wanted: the part, one span per axis.
        size: of the whole along each axis, a multiple of the network's total stride.
    """
    parts = zip(axes, wanted, size, strict=True)
    return tuple(zip(*(_plan_axis(*part) for part in parts), strict=True))


@lru_cache(maxsize=1024)
def _plan_axis(table: Table, wanted: Span, size: int) -> tuple[Step, ...]:
    sizes = []  # of each layer's input
    for row in table:
        sizes.append(size)
        size = size * row.stride if row.kind == "deconv" else size // row.stride

    # What a skip brings needs no look: the layers beside it read more of the same map.
    steps = []
    for row, size in zip(reversed(table), reversed(sizes), strict=True):
        steps.append(plan_step(row, wanted, size))
        wanted = steps[-1].read
    return tuple(reversed(steps))


def plan_step(row: Layer, wanted: Span, size: int) -> Step:
    """What one layer must do along an axis for a part of its output, given the input's size."""
    taps = 0
    if row.kind == "deconv":
        # Input i adds to the outputs from stride * i - 1 to stride * i + kernel - 2.
        start = max(0, -((row.kernel - 2 - wanted.start) // row.stride))
        read = Span(start, min(size, wanted.stop // row.stride + 1))
        write = Span(row.stride * read.start, row.stride * (read.stop - 1) + row.kernel - 2)
        for tap in range(row.kernel):
            low = max(read.start, -((tap - 1 - write.start) // row.stride))
            high = min(read.stop, -((tap - 1 - write.stop) // row.stride))
            taps += max(0, high - low)
        return Step(read, (0, 0), write, taps)

    margin = row.dilation * (row.kernel // 2)
    start, stop = wanted.start * row.stride - margin, (wanted.stop - 1) * row.stride + margin + 1
    for tap in range(row.kernel):
        offset = margin - tap * row.dilation
        low = max(wanted.start, -(-offset // row.stride))
        high = min(wanted.stop, -(-(size + offset) // row.stride))
        taps += max(0, high - low)
    zeros = max(0, -start), max(0, stop - size)
    return Step(Span(max(0, start), min(size, stop)), zeros, wanted, taps)


def count_flops(table: Table, plan: Plan) -> int:
    """Multiplications and additions of the layers, counted one by one."""
    return sum(
        2 * in_channels * row.channels * math.prod(step.taps for step in steps)
        for (row, in_channels), steps in zip(with_in_channels(table), plan, strict=True)
    )


def count_values(table: Table, plan: Plan) -> int:
    """Numbers held at a time, at most: what a layer reads and writes, and what skips keep."""
    before = 4 * volume(step.read for step in plan[0])
    kept: dict[int, int] = {}
    most = 0
    for number, (row, in_channels) in enumerate(with_in_channels(table), 1):
        steps = plan[number - 1]
        joined = in_channels * volume(step.read for step in steps)
        if number > 1:
            kept.pop(table[number - 2].skip or 0, None)
        written = row.channels * volume(step.write for step in steps)
        # The parts are there until they are joined, and zeros may need one more copy.
        most = max(most, sum(kept.values()) + joined + max(before, joined, written))
        for other, consumer in enumerate(table, 1):
            if consumer.skip == number:
                kept[number] = row.channels * volume(step.read for step in plan[other])
        before = written + kept.get(row.skip or 0, 0)
    return most


def volume(spans: Iterable[Span]) -> int:
    """Positions in a box of spans."""
    return math.prod(span.length for span in spans)


def split_hole(hole: np.ndarray, cost: Callable[[Box], float]) -> list[Box]:
    """Boxes that together hold every hole pixel, at the least cost that joining them finds.

    Args:
        hole: (H, W) bool.
        cost: of computing a box.

    Returns:
        Tight boxes, which may overlap; none for an empty hole.
    """
    whole = tight_box(hole, Box(0, 0, *hole.shape))
    if whole is None:
        return []
    boxes = {box for box in (tight_box(hole, part) for part in _groups(hole, whole)) if box}
    costs = {box: cost(box) for box in boxes}
    while len(boxes) > 1:
        gains = {}
        for one, two in combinations(sorted(boxes), 2):
            both = union(one, two)
            if both not in costs:
                costs[both] = cost(both)
            gains[one, two] = costs[one] + costs[two] - costs[both]
        one, two = max(gains, key=lambda pair: gains[pair])
        if gains[one, two] < 0:
            break
        boxes = boxes - {one, two} | {union(one, two)}
    # Pair by pair, joining may stop too early.
    apart = sum(costs[box] for box in boxes)
    return sorted(boxes) if len(boxes) == 1 or apart < cost(whole) else [whole]


def _groups(hole: np.ndarray, whole: Box) -> list[Box]:
    """Boxes of the connected groups of cells that the hole touches."""
    cell = CELL_PIXELS
    while True:
        touched = np.zeros((-(-whole.height // cell), -(-whole.width // cell)), np.uint8)
        rows = range(whole.top, whole.bottom, cell)
        columns = np.arange(0, whole.width, cell)
        for number, row in enumerate(rows):
            some = hole[row : row + cell, whole.left : whole.right].any(axis=0)
            touched[number] = np.logical_or.reduceat(some, columns)
        count, _, stats, _ = cv2.connectedComponentsWithStats(touched, connectivity=8)
        if count - 1 <= MAX_BOXES:
            break
        cell *= 2
    return [
        Box(
            whole.top + top * cell,
            whole.left + left * cell,
            min(whole.top + (top + height) * cell, whole.bottom),
            min(whole.left + (left + width) * cell, whole.right),
        )
        for left, top, width, height, _ in stats[1:].tolist()
    ]


def tight_box(hole: np.ndarray, box: Box) -> Box | None:
    """Smallest box of the hole pixels within a box; None without any."""
    found = find_box(crop(hole, box))
    return None if found is None else placed_box(found, box)
