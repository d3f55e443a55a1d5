"""What the recipes draw."""

import runpy
from pathlib import Path

import cv2
import numpy as np
import pytest

DEAD_LEAVES = Path(__file__).parents[1] / "recipes" / "dead_leaves.py"


def draw(folder, monkeypatch, *count):
    monkeypatch.setattr("sys.argv", ["dead_leaves.py", str(folder), *count])
    runpy.run_path(str(DEAD_LEAVES), run_name="__main__")
    return [cv2.imread(str(path)) for path in sorted(folder.iterdir())]


def test_dead_leaves_are_pictures_that_differ_and_can_be_drawn_again(tmp_path, monkeypatch):
    pictures = draw(tmp_path / "one", monkeypatch, "3")
    assert len(pictures) == 3
    for picture, again in zip(pictures, draw(tmp_path / "two", monkeypatch, "3"), strict=True):
        assert picture.shape == (384, 384, 3)
        assert np.array_equal(picture, again)
    assert not np.array_equal(pictures[0], pictures[1])


@pytest.mark.parametrize("seed", range(4))
def test_dead_leaves_cover_everything_and_have_edges(seed):
    draw_one = runpy.run_path(str(DEAD_LEAVES))["draw"]
    picture = draw_one(np.random.default_rng(seed)).astype(int)
    steps = np.abs(np.diff(picture, axis=1)).max(axis=2)
    assert np.percentile(steps, 50) < 16  # flat or smooth nearly everywhere
    assert steps.max() > 24  # but for the edges
