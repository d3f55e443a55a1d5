"""What all tests need."""

import signal
import sys
import types
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

# Started in the background by a shell, this process ignores Ctrl-C, and so would the commands that
# tests start and send it to.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


# What is run from the root, without the root on sys.path: its `nodes` would hide ComfyUI's.
for name in ("benchmarks", "recipes"):
    sys.modules[name] = package = types.ModuleType(name)
    package.__path__ = [str(Path(__file__).parents[1] / name)]


@pytest.fixture(scope="module")
def one_thread():
    """PyTorch and OpenCV on one thread: handing small arrays to more costs more than they do, and
    the order of sums depends on it."""
    threads = torch.get_num_threads(), cv2.getNumThreads()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    yield
    torch.set_num_threads(threads[0])
    cv2.setNumThreads(threads[1])


@pytest.fixture
def panned():
    """A maker of clips whose camera pans over a rough wall and follows something wide."""

    def make(
        num_frames,
        *,
        height=120,
        width=200,
        step=3.3,
        levels=(1, 1, 1),
        noise=0.01,
        passes_by=False,
        corners=1.0,
    ):
        """uint8 frames whose light reaches `levels` in the end, holes, and frames without object.

        The hole stays where it is in the frame, 40 % of its width. Every other frame is a little
        blurred. The lens leaves the corners so much of the light of the centre.
        """
        random = np.random.default_rng(7)
        wall = np.zeros((height + 20, width + int(step * num_frames) + 20, 3), np.float32)
        for size in (1, 2, 4, 8, 16):
            rough = random.standard_normal(wall.shape).astype(np.float32)
            wall += 0.06 * size * cv2.GaussianBlur(rough, (0, 0), size)
        wall = np.clip(0.45 + wall, 0.05, 0.95)
        top, left = height // 3, (3 * width) // 10
        hole = np.zeros((height, width), bool)
        hole[top : top + height // 3, left : left + (4 * width) // 10] = True
        y, x = np.mgrid[:height, :width] + 0.5
        off_centre = (x / width - 0.5) ** 2 * width**2 + (y / height - 0.5) ** 2 * height**2
        lens = corners ** (4 * off_centre / (width**2 + height**2))
        frames, truth = [], []
        for t in range(num_frames):
            shift = np.float32([[1, 0, step * t + 5.25], [0, 1, 0.15 * t + 5]])
            frame = cv2.warpAffine(
                wall, shift, (width, height), flags=cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
            )
            if t % 2:
                frame = cv2.GaussianBlur(frame, (0, 0), 0.6)
            frame *= 1 + (np.float32(levels) - 1) * t / (num_frames - 1)
            frame *= lens[..., None].astype(np.float32)
            frame += noise * random.standard_normal(frame.shape).astype(np.float32)
            if passes_by:
                x = 2 * t
                frame[height - 30 : height - 10, x : x + 30] = (0.2, 0.5, 0.8)
            truth.append(np.rint(np.clip(frame, 0, 1) * 255).astype(np.uint8))
            frames.append(truth[-1].copy())
            frames[-1][hole] = (250, 40, 90)
        return frames, [hole] * num_frames, truth

    return make
