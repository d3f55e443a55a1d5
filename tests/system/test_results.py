"""The version of results, which runs that go on rely on: raised whenever results change.

Small runs are drawn into results_vN.png, N being the version. Where they change, raise
RESULTS_VERSION in combcn_core/version.py and run this: it draws the new picture, to be looked at
and committed in place of the old one.
"""

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from combcn_core import InpaintConfig, follow_masks, inpaint, load_model, take_shadows
from combcn_core.measure import metrics
from combcn_core.version import RESULTS_VERSION

HERE = Path(__file__).parent
PICTURE = HERE / f"results_v{RESULTS_VERSION}.png"
HEIGHT, WIDTH, COUNT = 72, 96, 9
# Of the pixels: processors round differently, which seldom makes another level.
DIFFERENT_SHARE = 0.001
FIGURES = {
    "l1": 10.29972,
    "hole_psnr": 26.63552,
    "psnr": 38.25719,
    "ssim": 0.99464,
    "flicker": 13.70447,
    "gradient_energy_ratio": 4.95846,
}

pytestmark = pytest.mark.usefixtures("one_thread")


def clip():
    """A camera that pans over a rough wall, an object with a shadow that walks the other way."""
    random = np.random.default_rng(11)
    wall = np.full((HEIGHT, WIDTH + 4 * COUNT, 3), 128, np.float32)
    for size in (1, 3, 9):
        noise = random.standard_normal(wall.shape).astype(np.float32)
        wall += 40 * size * cv2.GaussianBlur(noise, (0, 0), size)
    wall += 2 * random.standard_normal(wall.shape)
    frames, masks = [], []
    for t in range(COUNT):
        frame = wall[:, 2 * t : 2 * t + WIDTH].copy()
        mask = np.zeros((HEIGHT, WIDTH), bool)
        left = 70 - 7 * t
        mask[20:48, left : left + 17] = True
        frame[48:58, left + 2 : left + 30] *= 0.6
        frame[mask] = (40, 60, 200)
        frames.append(np.clip(np.rint(frame), 0, 255).astype(np.uint8))
        masks.append(mask)
    return torch.from_numpy(np.stack(frames)), torch.from_numpy(np.stack(masks))


def runs():
    """Middle frames of small runs: (H, W, 3) uint8 each."""
    images, masks = clip()
    unseen = InpaintConfig(propagate=False, precision="fp32", device="cpu")
    smooth = replace(unseen, unseen="smooth")
    yield inpaint(images, masks)[4]
    yield inpaint(images, masks, None, InpaintConfig(reach=1, feather_pixels=3))[4]
    yield inpaint(images, masks, None, unseen)[4]
    yield inpaint(images, masks, None, smooth)[4]
    yield inpaint(images, masks, load_model("default"), replace(unseen, grow_pixels=2))[4]
    yield inpaint(images, masks, load_model("default"), replace(smooth, match_grain=False))[4]
    for found in (
        take_shadows(images, masks).masks,
        follow_masks(images, masks[[0, 8]], [0, 8])[0],
    ):
        yield 255 * torch.as_tensor(found)[4, ..., None].to(torch.uint8).expand(-1, -1, 3)


def drawn():
    tiles = [np.asarray(tile) for tile in runs()]
    return np.vstack([np.hstack(tiles[:4]), np.hstack(tiles[4:])])


def test_results_are_those_of_their_version():
    result = drawn()
    if not PICTURE.exists():
        for old in HERE.glob("results_v*.png"):
            old.unlink()
        assert cv2.imwrite(str(PICTURE), result[..., ::-1])
        pytest.fail(f"{PICTURE.name} was drawn: look at it, and commit it.")
    expected = cv2.imread(str(PICTURE))[..., ::-1]
    share = (result != expected).any(-1).mean()
    assert share <= DIFFERENT_SHARE, "results have changed: raise RESULTS_VERSION, see above"


def test_figures_are_those_of_their_version():
    images, masks = clip()
    holes = masks.roll(19, dims=2)
    random = torch.Generator().manual_seed(5)
    noise = torch.randint(-20, 21, images.shape, generator=random)
    result = (images + noise * holes[..., None]).clamp(0, 255).to(torch.uint8)
    found = {name: getattr(metrics, name)(result, images, holes) for name in FIGURES}
    assert found == pytest.approx(FIGURES, rel=1e-4), "figures have changed: raise RESULTS_VERSION"
