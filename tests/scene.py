"""A scene that is known at every point, and motions and traces in it, for tests of `fill`."""

import functools

import numpy as np
import torch

from combcn_core.fill.motion import find_motion
from combcn_core.fill.trace import Trace
from combcn_core.pixels import Box, PackedMask


class Scene:
    """A picture known at every point, not only at pixels: a sum of waves around a colour."""

    def __init__(self, seed, level=(0.5, 0.5, 0.5), shortest_pixels=8):
        random = np.random.default_rng(seed)
        length = random.uniform(shortest_pixels, 5 * shortest_pixels, 40)
        angle = random.uniform(0, 2 * np.pi, 40)
        self.waves = 2 * np.pi / length * np.stack([np.cos(angle), np.sin(angle)])
        self.phases = random.uniform(0, 2 * np.pi, (40, 3))
        self.level = np.array(level)

    def __call__(self, x, y):
        phases = x[..., None] * self.waves[0] + y[..., None] * self.waves[1]
        waves = np.sin(phases[..., None] + self.phases).sum(-2)
        return (self.level + 0.03 * waves).clip(0, 1).astype(np.float32)

    def clip(self, num_frames, height, width, step):
        """Frames of a camera that moves by `step` = (x, y) pixels from frame to frame."""
        y, x = np.mgrid[:height, :width].astype(float)
        return np.stack([self(x + t * step[0], y + t * step[1]) for t in range(num_frames)])


def box_masks(num_frames, height, width, top, left, bottom, right):
    masks = np.zeros((num_frames, height, width), bool)
    masks[:, top:bottom, left:right] = True
    return masks


def motion_of(first, second, first_mask, second_mask):
    return find_motion(first, second, PackedMask.of(first_mask), PackedMask.of(second_mask))


def as_tensors(*arrays):
    return [torch.from_numpy(array) for array in arrays]


@functools.cache
def motion_of_a_still_scene():
    clip = Scene(0).clip(2, 40, 40, (0, 0))
    return motion_of(*clip, *box_masks(2, 40, 40, 15, 15, 25, 25))[0]


def make_motion(height, width, field, affine=(0.0, 0.0)):
    """A Motion over the whole frame, at its resolution."""
    terms = np.zeros((3, 2))
    terms[0] = affine
    return motion_of_a_still_scene()._replace(
        box=Box(0, 0, height, width),
        affine=terms,
        field=np.asarray(field, np.float32),
    )


def make_path(rows, columns, source, x, y, error=0.0):
    rows = np.asarray(rows)
    return Trace(
        rows,
        np.asarray(columns),
        np.asarray(source, np.int32),
        np.asarray(x, np.float32),
        np.asarray(y, np.float32),
        np.broadcast_to(np.float32(error), rows.shape),
    )
