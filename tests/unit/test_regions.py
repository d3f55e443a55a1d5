from itertools import pairwise

import numpy as np
import pytest

from combcn_core.networks.regions import MAX_BOXES, split_hole, tight_box
from combcn_core.pixels import Box


def make_hole(*boxes, height=600, width=900):
    hole = np.zeros((height, width), bool)
    for top, left, bottom, right in boxes:
        hole[top:bottom, left:right] = True
    return hole


def area_with_context(pixels):
    def cost(box):
        return (box.height + 2 * pixels) * (box.width + 2 * pixels)

    return cost


FAR_APART = Box(10, 20, 40, 70), Box(500, 800, 560, 890)
CLOSE = Box(10, 20, 40, 70), Box(120, 20, 150, 70)


@pytest.mark.parametrize(
    ("boxes", "context", "expected"),
    [
        ([], 100, []),
        ([Box(3, 5, 4, 6)], 100, [Box(3, 5, 4, 6)]),
        (FAR_APART, 100, list(FAR_APART)),
        (FAR_APART, 10_000, [Box(10, 20, 560, 890)]),  # the context is nearly all of the cost
        (CLOSE, 100, [Box(10, 20, 150, 70)]),
        (CLOSE, 0, list(CLOSE)),
        ([*CLOSE, FAR_APART[1]], 100, [Box(10, 20, 150, 70), FAR_APART[1]]),
    ],
    ids=["empty", "pixel", "far", "far_but_dear", "close", "close_but_free", "three"],
)
def test_split_hole_joins_what_costs_less_together(boxes, context, expected):
    assert split_hole(make_hole(*boxes), area_with_context(context)) == expected


@pytest.mark.parametrize("seed", range(5))
def test_split_hole_covers_every_pixel_and_never_costs_more_than_one_box(seed):
    random = np.random.default_rng(seed)
    hole = random.random((301, 475)) < (1e-5, 1e-4, 1e-3, 1e-2, 0.5)[seed]
    hole[7, 13] = True
    cost = area_with_context(50)
    boxes = split_hole(hole, cost)
    covered = np.zeros_like(hole)
    for box in boxes:
        covered[box.top : box.bottom, box.left : box.right] = True
        assert tight_box(hole, box) == box
    assert not (hole & ~covered).any()
    assert 1 <= len(boxes) <= MAX_BOXES
    assert sum(map(cost, boxes)) <= cost(tight_box(hole, Box(0, 0, 301, 475)))
    assert all(one < two for one, two in pairwise(boxes))
