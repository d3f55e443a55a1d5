"""The built-in clip: a van drives down a village street before a panning camera.

`street.mp4` and `masks.png` beside this file were painted by `recipes/village.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from numpy.typing import NDArray

from combcn_core.clips.video import open_reader

FPS = Fraction(24)
SAMPLE_RATE = 48000
NUM_FRAMES, HEIGHT, WIDTH = 60, 270, 480  # of the files
PICTURES, MASKS = (Path(__file__).with_name(name) for name in ("street.mp4", "masks.png"))


@dataclass(frozen=True)
class DemoClip:
    """A rendered clip, the same clip without its moving object, and where that object is.

    Attributes:
        images: (T, H, W, 3) uint8 RGB, with the object and its shadow.
        truth: as images, without them; equal to images wherever masks is False.
        masks: (T, H, W) bool, True on the object and its shadow, and on one pixel around them.
        fps: frames per second.
        sound: (samples, 2) float32 in [-1, 1], as long as the pictures.
        sample_rate: samples per second.
    """

    images: NDArray[np.uint8]
    truth: NDArray[np.uint8]
    masks: NDArray[np.bool_]
    fps: Fraction
    sound: NDArray[np.float32]
    sample_rate: int


def load_demo(num_frames: int = NUM_FRAMES, height: int = HEIGHT, seed: int = 0) -> DemoClip:
    """Read the built-in clip. The same arguments give the same bytes on the same kind of machine.

    The files hold pictures without grain, which a video codec would spend most of its bytes on;
    it is added here, new in every frame and the same in `images` and `truth`.

    Args:
        num_frames: 1 to 60, spread over the clip: the van always crosses the picture once.
        height: 16 to 270 pixels; the width is 16/9 of it, made even.
        seed: of the grain.

    Raises:
        ValueError: a length or height outside these ranges.
    """
    if not (1 <= num_frames <= NUM_FRAMES and 16 <= height <= HEIGHT):
        raise ValueError(
            f"demo of {num_frames} frames, {height} pixels high; ask for 1 to {NUM_FRAMES} frames "
            f"of 16 to {HEIGHT} pixels."
        )
    width = 2 * round(height * 8 / 9)
    chosen = np.linspace(0, NUM_FRAMES - 1, num_frames).round().astype(int)
    # One picture of all masks, below each other.
    tall = cv2.imdecode(np.frombuffer(MASKS.read_bytes(), np.uint8), cv2.IMREAD_GRAYSCALE)
    assert tall is not None
    touched = tall.reshape(NUM_FRAMES, HEIGHT, WIDTH)[chosen]
    images = np.empty((num_frames, height, width, 3), np.uint8)
    truth, masks = np.empty_like(images), np.empty(images.shape[:3], np.bool_)
    # Every picture is there twice, without the van and with it: the second costs little more.
    with open_reader(PICTURES) as reader:
        pictures = [frame.pixels for frame in reader]
    for index, source in enumerate(chosen.tolist()):
        without, with_van = (_resize(pictures[2 * source + number], height) for number in (0, 1))
        masks[index] = _resize(touched[index], height) > 0
        grain = film_grain(np.random.default_rng([seed, 1, index]), height, width)
        truth[index] = _add(without, grain)
        images[index] = np.where(masks[index, ..., None], _add(with_van, grain), truth[index])
    return DemoClip(images, truth, masks, FPS, _read_sound(num_frames), SAMPLE_RATE)


def film_grain(rng: np.random.Generator, height: int, width: int) -> NDArray[Any]:
    """(H, W, 3) film grain of about 2 levels, mostly brightness, a little wider than a pixel."""
    white = rng.standard_normal((height, width, 4), dtype=np.float32)
    noise = cv2.GaussianBlur(white, (0, 0), 0.55)
    return 2.4 * noise[..., 3:] + noise[..., :3]


def _resize(picture: NDArray[Any], height: int) -> NDArray[Any]:
    """At the size of the files this changes nothing."""
    return cv2.resize(picture, (2 * round(height * 8 / 9), height), interpolation=cv2.INTER_AREA)


def _add(picture: NDArray[Any], grain: NDArray[Any]) -> NDArray[np.uint8]:
    return np.clip(np.rint(picture + grain), 0, 255).astype(np.uint8)


def _read_sound(num_frames: int) -> NDArray[np.float32]:
    """(samples, 2), as long as num_frames."""
    with av.open(str(PICTURES)) as container:
        parts = [frame.to_ndarray() for frame in container.decode(audio=0)]  # (2, samples)
    sound = np.concatenate(parts, axis=1, dtype=np.float32)
    return sound.T[: round(num_frames * SAMPLE_RATE / FPS)].copy()
