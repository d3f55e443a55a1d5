"""Removals whose truth is known exactly: the demo's street, one difficulty at a time and then all.

The truth of a frame is what the camera would have recorded without the van, with that frame's own
noise. So the source equals it bit for bit wherever the mask is 0, a perfect answer scores as
perfect, and sharpness and flicker compare like with like. No method can know the noise behind the
van: `RenderedScene.again`, the truth with other noise, is as good as an answer can be expected to
be.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor

from combcn_core.demo import film_grain
from recipes.village import Camera, Scenery, expose, paint_scenery, render_frame

NUM_FRAMES, HEIGHT, WIDTH = 48, 180, 320
SHUTTER_STEPS = 8  # moments a blurred frame is the mean of

Range = tuple[float, float]  # in the first frame and in the last
Color = tuple[float, float, float]


@dataclass(frozen=True)
class Scene:
    """How the street is filmed; lengths in frame heights, see `recipes/village.py`.

    Attributes:
        travel: of the camera along the street, within [0, 0.5]. What stands at the horizon does
            not move with it, the lane does, and the grass before it moves more.
        zoom: above 1 by more than `shake`, or the edge of the painting shows.
        shake: how far a hand moves the picture, about; it turns by as much, in radians.
        drive: the van's rear bumper, from the left edge of the picture at zoom 1.
        size: of the van, relative to the demo's, which is half of the picture's height.
        gain: exposure of R, G and B, in the first frame and in the last.
        shutter: share of the time between two frames during which it is open.
        noise: of the sensor, relative to the demo's grain of about 2 levels.
        faintest: shadow up to this opacity, in [0, 255], is not in the mask; with 255 a mirror
            image is not either.
        lift: of the van above its shadow.
        mirror: how much of the van a wet lane shows below it, from 0 to 1.
    """

    travel: Range = (0.1, 0.4)
    zoom: Range = (1.1, 1.1)
    shake: float = 0
    drive: Range = (0.1, 1.15)
    size: float = 0.6
    gain: tuple[Color, Color] = ((1, 1, 1), (1, 1, 1))
    shutter: float = 0
    noise: float = 0
    faintest: float = 0
    lift: Range = (0, 0)
    mirror: float = 0


_STILL: Range = (0.2, 0.2)
_EVENING: tuple[Color, Color] = ((1.05, 1, 0.95), (0.72, 0.62, 0.62))

SCENES = {
    "still": Scene(travel=_STILL),
    "penumbra": Scene(travel=_STILL, faintest=110),
    "light": Scene(travel=_STILL, gain=_EVENING),
    "noise": Scene(travel=_STILL, noise=2.5),
    "shake": Scene(travel=_STILL, shake=0.012),
    "zoom": Scene(travel=_STILL, zoom=(1.02, 1.45)),
    "parallax": Scene(),
    "blur": Scene(travel=(0, 0.5), drive=(0, 1.25), shake=0.012, shutter=1),
    "follow": Scene(travel=(0.1, 0.3), drive=(0.5, 0.5), size=0.9),
    "everything": Scene(
        zoom=(1.08, 1.25), shake=0.006, gain=_EVENING, shutter=0.5, noise=2, faintest=110
    ),
}


# The mask is that of the van alone, and what belongs to it lies outside.
EFFECTS = {
    "cast": Scene(travel=_STILL, faintest=255),
    "cast-moving": Scene(faintest=255),
    "cast-noise": Scene(travel=_STILL, faintest=255, noise=2.5),
    "cast-light": Scene(travel=_STILL, faintest=255, gain=_EVENING),
    "detached": Scene(travel=_STILL, faintest=255, lift=(0.12, 0.12)),
    "detached-moving": Scene(faintest=255, lift=(0.12, 0.12), shake=0.006),
    "leap": Scene(travel=_STILL, faintest=255, lift=(-0.01, 0.2)),
    "mirror": Scene(travel=_STILL, faintest=255, mirror=0.45),
    "mirror-moving": Scene(faintest=255, mirror=0.45),
}


class RenderedScene(NamedTuple):
    """A scene with and without its van, (T, H, W, 3) uint8 each, and where the van is.

    Attributes:
        images: with it.
        truth: without; equal to images wherever masks is False, but for shadow that the scene
            leaves out of the mask.
        again: the truth with other noise; the truth itself in a scene without noise.
        masks: (T, H, W) bool, True on the van and its shadow, and on one pixel around them.
    """

    images: Tensor
    truth: Tensor
    again: Tensor
    masks: Tensor


def render_scene(
    scene: Scene,
    *,
    num_frames: int = NUM_FRAMES,
    height: int = HEIGHT,
    width: int = WIDTH,
    seed: int = 0,
) -> RenderedScene:
    """Film the street. The same arguments give the same bytes.

    Args:
        scene: how.
        num_frames: at least 2; the van goes its whole way whatever it is.
        height, width: pixels.
        seed: of the street and the noise.
    """
    scenery = _paint(width / height, 2 * height, seed)
    images, truth, again = (np.empty((num_frames, height, width, 3), np.uint8) for _ in range(3))
    masks = np.empty((num_frames, height, width), np.bool_)
    for index in range(num_frames):
        steps = SHUTTER_STEPS if scene.shutter else 1
        open_for = np.arange(steps) / steps * scene.shutter
        moments = (index + open_for) / (num_frames - 1)
        shots = [_shoot(scenery, scene, time, height, width) for time in moments.tolist()]
        with_van, without = (np.mean([shot[part] for shot in shots], axis=0) for part in (0, 1))
        touched = np.any([shot[2] for shot in shots], axis=0)
        start, end = np.array(scene.gain, np.float32)
        gain = start + (end - start) * np.float32(index / (num_frames - 1))
        noise, other = (
            scene.noise * film_grain(np.random.default_rng([seed, draw, index]), height, width)
            for draw in (1, 2)
        )
        images[index] = expose(with_van, gain, noise)
        truth[index] = expose(without, gain, noise)
        again[index] = expose(without, gain, other)
        masks[index] = cv2.dilate(touched.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    return RenderedScene(*map(torch.from_numpy, (images, truth, again, masks)))


@functools.lru_cache(maxsize=1)
def _paint(aspect: float, density: float, seed: int) -> Scenery:
    return paint_scenery(aspect, density, seed)


def _shoot(
    scenery: Scenery, scene: Scene, time: float, height: int, width: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What `render_frame` returns, at a time in [0, 1]."""

    def between(ends: Range) -> float:
        return ends[0] + (ends[1] - ends[0]) * time

    def sway(*cycles: float) -> float:
        turns = sum(math.sin(2 * math.pi * count * time + count) for count in cycles)
        return scene.shake * turns / len(cycles) ** 0.5

    camera = Camera(
        height,
        width,
        travel=between(scene.travel),
        tilt=sway(1.7, 4.3, 9.1),
        zoom=between(scene.zoom),
        pan=sway(1.3, 3.7, 8.3),
        roll=sway(1.1, 2.9, 6.7),
    )
    rear = camera.travel + between(scene.drive)
    return render_frame(
        scenery,
        camera,
        time,
        rear,
        size=scene.size,
        faintest=scene.faintest,
        lift=between(scene.lift),
        mirror=scene.mirror,
    )
