"""Runs that are interrupted, killed or refused by the disk, and then go on."""

import os
import signal
import subprocess
import sys
import time

import cv2
import numpy as np
import pytest
import torch

from combcn_core import CombCN, InpaintConfig, NetworkConfig, inpaint_file
from combcn_core.clips.video import open_reader

NUM_FRAMES, HEIGHT, WIDTH = 26, 40, 56
CONFIG = InpaintConfig(segment_frames=4, reach=6)


@pytest.fixture
def clip(tmp_path):
    """A folder of frames that drift over a texture, and one of masks with a moving hole."""
    rng = np.random.default_rng(3)
    texture = cv2.GaussianBlur(rng.integers(0, 256, (80, 140, 3), np.uint8), (0, 0), 2)
    for name in ("frames", "masks"):
        (tmp_path / name).mkdir()
    for t in range(NUM_FRAMES):
        frame = texture[10 : 10 + HEIGHT, 2 * t : 2 * t + WIDTH]
        mask = np.zeros((HEIGHT, WIDTH), np.uint8)
        mask[12:26, 20 + t // 3 : 36 + t // 3] = 255
        cv2.imwrite(str(tmp_path / "frames" / f"{t:03d}.png"), frame)
        cv2.imwrite(str(tmp_path / "masks" / f"{t:03d}.png"), mask)
    return tmp_path


def run(clip, output, *, stop_after=None, config=CONFIG, model=None, resume=True):
    """Inpaint; Ctrl-C comes after so many written frames."""

    def progress(now):
        if now.frames == stop_after:
            raise KeyboardInterrupt

    return inpaint_file(
        clip / "frames",
        clip / "masks",
        output,
        config=config,
        model=model,
        resume=resume,
        progress=progress,
    )


def read_folder(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def interrupt(clip, output, **settings):
    with pytest.raises(KeyboardInterrupt):
        run(clip, output, stop_after=18, **settings)


def leftovers(clip):
    return sorted(path.name for path in clip.iterdir() if path.name.startswith("."))


def test_resume_goes_on_after_an_interruption(clip):
    whole = run(clip, clip / "whole", resume=False)
    interrupt(clip, clip / "out")
    assert not (clip / "out").exists()
    assert leftovers(clip) == [".out.segments"]

    report = run(clip, clip / "out")

    assert report.resumed_frames == 20  # of five segments, the last one under way
    assert read_folder(clip / "out") == read_folder(clip / "whole")
    assert leftovers(clip) == []
    counted = ("frames", "hole_pixels", "propagated_pixels", "filled_pixels")
    assert [getattr(report, name) for name in counted] == [getattr(whole, name) for name in counted]
    assert whole.resumed_frames == 0


def test_resume_is_not_what_happens_unasked(clip):
    with pytest.raises(KeyboardInterrupt):
        run(clip, clip / "out", stop_after=10, resume=False)
    assert leftovers(clip) == []


def test_resume_survives_kill_at_random_points(clip):
    command = [
        *(sys.executable, "-m", "combcn_core", "inpaint", str(clip / "frames")),
        *("--mask", str(clip / "masks"), "--output", str(clip / "out.mp4"), "--fps", "25"),
        *("--segment-frames", "3", "--reach", "6", "--no-network", "--resume"),
    ]
    rng = np.random.default_rng(11)
    for target in sorted(rng.choice(np.arange(1, 8), 3, replace=False)):
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 120
        while process.poll() is None and time.monotonic() < deadline:
            if len(list(clip.glob(".out.mp4.segments/*.safetensors"))) >= target:
                time.sleep(float(rng.uniform(0, 0.05)))
                process.send_signal(signal.SIGKILL)
                break
            time.sleep(0.001)
        assert process.wait() in (0, -signal.SIGKILL)
        # A kill may come between the appearance of the result and the end of the process.
        if process.returncode == 0 or (clip / "out.mp4").exists():
            break
    assert subprocess.run(command, stderr=subprocess.DEVNULL, check=False).returncode == 0

    undisturbed = [part.replace("out.mp4", "whole.mp4") for part in command if part != "--resume"]
    assert subprocess.run(undisturbed, stderr=subprocess.DEVNULL, check=False).returncode == 0
    assert (clip / "out.mp4").read_bytes() == (clip / "whole.mp4").read_bytes()
    assert leftovers(clip) == []  # the killed runs' half-written files are gone too


@pytest.mark.parametrize("changed", ["source", "mask", "setting", "weights"])
def test_resume_uses_nothing_stale(clip, changed):
    models = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        models.append(CombCN(NetworkConfig(guidance=False)))
    settings = {"model": models[0]} if changed == "weights" else {}
    interrupt(clip, clip / "out", **settings)
    if changed == "weights":
        settings = {"model": models[1]}
    if changed == "setting":
        settings = {"config": InpaintConfig(segment_frames=4, reach=5)}
    folder = {"source": "frames", "mask": "masks"}.get(changed)
    if folder:  # in the middle: what depends on the frames before stays good
        path = clip / folder / "013.png"
        image = cv2.imread(str(path))
        image[20, 30] = 255 - image[20, 30]
        cv2.imwrite(str(path), image)

    report = run(clip, clip / "out", **settings)

    run(clip, clip / "fresh", resume=False, **settings)
    assert read_folder(clip / "out") == read_folder(clip / "fresh")
    if folder is None:
        assert report.resumed_frames == 0
    else:
        assert report.resumed_frames < 20


def test_resume_does_not_trust_a_damaged_segment(clip):
    run(clip, clip / "whole", resume=False)
    interrupt(clip, clip / "out")
    segments = sorted((clip / ".out.segments").glob("*.safetensors"))
    content = bytearray(segments[0].read_bytes())
    content[-5] ^= 1
    segments[0].write_bytes(content)
    segments[1].write_bytes(content[:40])

    assert run(clip, clip / "out").resumed_frames == 20 - 2 * 4
    assert read_folder(clip / "out") == read_folder(clip / "whole")


def test_resume_leaves_nothing_where_a_run_cannot_begin(clip):
    (clip / "out").mkdir()
    (clip / "out" / "mine.png").touch()
    with pytest.raises(ValueError, match="not empty"):
        run(clip, clip / "out")
    assert leftovers(clip) == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="limits of file sizes are POSIX")
def test_resume_goes_on_after_the_disk_refused(clip):
    """A limit of file sizes stands in for a full disk: the write fails with an OSError."""
    command = [
        *("-m", "combcn_core", "inpaint", str(clip / "frames"), "--mask", str(clip / "masks")),
        *("--output", str(clip / "out.mkv"), "--fps", "25", "--segment-frames", "4"),
        *("--reach", "6", "--no-network", "--resume"),
    ]
    limited = (
        "import resource, signal, sys, runpy; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000)); sys.argv = ['combcn'] + "
        "sys.argv[3:]; runpy.run_module('combcn_core', run_name='__main__')"
    )
    refused = subprocess.run(
        [sys.executable, "-c", limited, *command], capture_output=True, text=True, check=False
    )
    assert refused.returncode == 1, refused.stderr
    assert not (clip / "out.mkv").exists()

    allowed = subprocess.run([sys.executable, *command], capture_output=True, check=False)
    assert allowed.returncode == 0
    run(clip, clip / "whole", resume=False, config=InpaintConfig(segment_frames=4, reach=6))
    with open_reader(clip / "out.mkv") as ours, open_reader(clip / "whole") as theirs:
        for mine, other in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(mine.pixels, other.pixels)
    assert leftovers(clip) == []
