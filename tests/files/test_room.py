"""Room on the disk, seen to before anything is computed."""

import os
import shutil
from collections import namedtuple
from fractions import Fraction

import cv2
import numpy as np
import pytest

from combcn_core import InpaintConfig, inpaint_file
from combcn_core.clips.formats import CONTAINERS
from combcn_core.clips.frames import ClipInfo
from combcn_core.clips.video import open_writer
from combcn_core.demo import FPS, load_demo
from combcn_core.stream.room import check_room, forecast_bytes

Usage = namedtuple("Usage", "total used free")
CHOICES = [(end, codec) for end, form in CONTAINERS.items() for codec in form.codecs]


@pytest.fixture(scope="module")
def film():
    """A dozen frames with grain, and what is known of them."""
    frames = load_demo(height=180).images[:12]
    info = ClipInfo(frames.shape[2], frames.shape[1], FPS, indices=range(len(frames)))
    return frames, info


@pytest.fixture
def disk(monkeypatch):
    """Sets how many bytes a disk has left."""

    def set_free(free):
        monkeypatch.setattr(shutil, "disk_usage", lambda folder: Usage(10**12, 10**12 - free, free))

    return set_free


@pytest.mark.parametrize(("ending", "codec"), [*CHOICES, ("", None)])
def test_forecast_against_what_is_written(tmp_path, film, ending, codec):
    frames, info = film
    output = tmp_path / f"b{ending}"
    with open_writer(output, info, codec=codec) as writer:
        for frame in frames:
            writer.write(frame)
    files = [output] if ending else list(output.iterdir())
    written = sum(path.stat().st_size for path in files)
    assert written / 3 < forecast_bytes(output, info, lambda: frames[0], codec) < written * 3


def test_better_quality_takes_more_room(tmp_path, film):
    frames, info = film
    sizes = [forecast_bytes("b.mp4", info, lambda: frames[0], "h264", crf) for crf in (8, 14, 26)]
    assert sizes == [sizes[1] * 2, sizes[1], sizes[1] // 4]


@pytest.mark.parametrize(
    ("free", "kept", "outcome"),
    [
        (1200, 200, ""),
        (1199, 199, ""),  # the bound does not fit, but what is really kept does
        (1199, 200, "warning"),
        (999, 0, "warning"),
        (125, 0, "warning"),
        (124, 0, "error"),
        (1500, 1501, "error"),
    ],
)
def test_what_does_not_fit_is_said(disk, tmp_path, caplog, free, kept, outcome):
    disk(free)
    if outcome == "error":
        with pytest.raises(ValueError, match=r"has room for .* make room, or write to another"):
            check_room(tmp_path / "b.mkv", 1000, max(kept, 200), lambda: kept)
    else:
        check_room(tmp_path / "b.mkv", 1000, max(kept, 200), lambda: kept)
        assert ("make room before the end" in caplog.text) == (outcome == "warning")


@pytest.fixture
def clip(tmp_path):
    """A folder of three frames of noise, which no encoder makes small."""
    (tmp_path / "a").mkdir()
    noise = np.random.default_rng(0).integers(0, 255, (3, 48, 64, 3), np.uint8)
    for index, frame in enumerate(noise):
        cv2.imwrite(str(tmp_path / "a" / f"{index}.png"), frame)
    return tmp_path


@pytest.mark.parametrize(
    ("output", "free", "settings"),
    [
        # 9216 bytes a frame, which noise takes as a PNG.
        ("b", 3 * 9216 // 8, {}),
        # The hole has 20 x 30 pixels of 3 bytes in each of 3 frames.
        ("b.mkv", 20 * 30 * 3 * 3 - 1, {"resume": True, "fps": Fraction(25)}),
    ],
)
def test_run_that_surely_does_not_fit_is_refused_before_the_start(
    clip, disk, output, free, settings
):
    disk(free)
    with pytest.raises(ValueError, match="make room, or write to another disk"):
        inpaint_file(
            clip / "a", "10,8,30,20", clip / output, config=InpaintConfig(reach=2), **settings
        )
    assert os.listdir(clip) == ["a"]


def test_run_that_may_not_fit_goes_on(clip, disk, caplog):
    disk(20000)
    inpaint_file(clip / "a", "10,8,30,20", clip / "b", config=InpaintConfig(reach=2))
    assert "make room before the end" in caplog.text
    assert len(os.listdir(clip / "b")) == 3
