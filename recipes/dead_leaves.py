"""Draw pictures of overlapping shapes: python recipes/dead_leaves.py FOLDER COUNT

Dead leaves: shapes of all sizes, each with a colour, a slow change of it and a texture of its own,
laid one over another until nothing of the ground is seen. Edges, junctions, gradients and textures
occur in them as in photographs, there is no end to them, and nobody's rights are in them.

Source: the model is A. B. Lee, D. Mumford, J. Huang, "Occlusion Models for Natural Images", IJCV
2001; shapes, palettes and textures are ours.
"""

from __future__ import annotations

import sys
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

SIDE = 384
SMALLEST, LARGEST = 12.0, 260.0  # radius of a leaf, pixels
FEWEST, MOST = 3, 160  # leaves: skies and walls are to be learnt too


def draw(rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """(SIDE, SIDE, 3) RGB."""
    palette = _draw_palette(rng)
    textures = [_draw_texture(rng) for _ in range(6)]
    rows, columns = np.mgrid[0:SIDE, 0:SIDE].astype(np.float32) / SIDE - 0.5
    flat = rng.uniform(0.1, 1.0)  # how much of a picture has texture differs
    leaves = round(np.exp(rng.uniform(np.log(FEWEST), np.log(MOST))))
    picture = np.zeros((SIDE, SIDE, 3), np.float32)
    # Sizes fall as radius^-3, which is what makes pictures look alike at every scale.
    radii = np.sort((rng.uniform(LARGEST**-2, SMALLEST**-2, leaves)) ** -0.5)[::-1]
    radii = np.concatenate([[4 * LARGEST], radii])
    order = np.argsort(radii * np.exp(rng.normal(0, 1.0, len(radii))))[::-1]
    for radius in radii[order]:
        shape = _draw_shape(float(radius), rng)
        colour = palette[rng.integers(len(palette))] + rng.normal(0, 0.03, 3)
        slope = rng.normal(0, 0.15, 2)
        leaf = colour + (slope[0] * rows + slope[1] * columns)[..., None]
        if rng.random() > flat:
            leaf = leaf + textures[rng.integers(6)][..., None] * rng.normal(1, 0.2, 3)
        picture += shape[..., None] * (leaf.astype(np.float32) - picture)
    if rng.random() < 0.5:  # lenses are not sharp
        picture = cv2.GaussianBlur(picture, (0, 0), rng.uniform(0.3, 1.2))
    picture += rng.normal(0, rng.uniform(0, 0.015), picture.shape)
    return (picture.clip(0, 1) * 255).round().astype(np.uint8)


def _draw_palette(rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """A few colours that go together, mostly dull: hues near one or two."""
    hues = rng.random() + rng.normal(0, 0.06, 8) + 0.5 * (rng.random(8) < 0.25)
    saturation, value = rng.beta(1.3, 3.5, 8), rng.beta(1.3, 1.5, 8)
    hsv = np.stack([hues % 1 * 360, saturation, value], axis=-1).astype(np.float32)
    return cv2.cvtColor(hsv[None], cv2.COLOR_HSV2RGB)[0].astype(np.float64)


def _draw_shape(radius: float, rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """Coverage of a closed curve or a polygon, often long and thin; smooth at its edge."""
    corners = int(rng.integers(3, 7)) if rng.random() < 0.5 else 48
    angles = np.sort(rng.random(corners)) if corners < 48 else np.arange(48) / 48
    angles = angles * 2 * np.pi
    reach = np.ones(corners)
    for wave in range(2, 5):
        reach += rng.normal(0, 0.25 / wave) * np.cos(wave * angles + rng.uniform(0, 6.3))
    points = radius * reach[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=-1)
    points[:, 0] *= np.exp(rng.normal(0, 0.7))
    # Horizontal and vertical edges are the most frequent of the world.
    turn = rng.choice([0.0, np.pi / 2]) + rng.normal(0, 0.08 if rng.random() < 0.5 else 2.0)
    points = points @ np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    points += rng.uniform(-0.2 * SIDE, 1.2 * SIDE, 2)
    shape = np.zeros((SIDE, SIDE), np.uint8)
    cv2.fillPoly(shape, [np.round(points * 16).astype(np.int32)], 255, cv2.LINE_AA, 4)
    coverage = shape.astype(np.float32) / 255
    if rng.random() < 0.15:  # out of focus, or a shadow
        coverage = cv2.GaussianBlur(coverage, (0, 0), rng.uniform(1, 6))
    return coverage


def _draw_texture(rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """Noise with a falling spectrum, or stripes."""
    amplitude = rng.uniform(0.02, 0.12)
    if rng.random() < 0.3:
        rows, columns = np.mgrid[0:SIDE, 0:SIDE]
        angle, period = rng.uniform(0, np.pi), rng.uniform(4, 30)
        wave = np.cos(2 * np.pi * (rows * np.sin(angle) + columns * np.cos(angle)) / period)
        return amplitude * np.clip(wave * rng.uniform(1, 4), -1, 1)
    noise = np.zeros((SIDE, SIDE))
    slant = np.exp(rng.normal(0, 0.4))
    for cells in (6, 12, 24, 48, 96, 192):
        size = (max(2, round(cells * slant)), max(2, round(cells / slant)))
        noise += cv2.resize(rng.normal(0, 1, size), (SIDE, SIDE), interpolation=cv2.INTER_CUBIC) * (
            cells / 24
        ) ** -rng.uniform(0.3, 1.2)
    return amplitude * noise / noise.std()


def main() -> None:
    folder, number = Path(sys.argv[1]), int(sys.argv[2])
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(number):
        picture = draw(np.random.default_rng([2019, index]))
        cv2.imwrite(str(folder / f"leaves_{index:04d}.png"), picture[..., ::-1])


if __name__ == "__main__":
    main()
