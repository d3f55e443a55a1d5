"""Draw what the template browser shows of the workflows: python recipes/thumbnails.py [FOLDER]

Before over after, of the built-in clip, as a JPEG beside each workflow (in `workflows` if FOLDER is
left out). The results are computed, with the default weights where the workflow has networks.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from combcn_core import (
    InpaintConfig,
    NetworkConfig,
    TrainConfig,
    footage_from_images,
    inpaint,
    load_model,
    propagate,
    train,
)
from combcn_core.clips.pictures import draw_curves, outline_mask
from combcn_core.demo import load_demo
from combcn_core.measure.metrics import hole_psnr
from combcn_core.training.holes import make_holes

WORKFLOWS = Path(__file__).parents[1] / "workflows"
HEIGHT = 240  # of a panel; two of them make a square, as the browser shows them
NUM_FRAMES, SHOWN = 16, 8
QUALITY = 85

Image = NDArray[np.uint8]
Pair = tuple[str, Image, str, Image]  # caption and panel, before and after


def pairs() -> Iterator[tuple[str, Pair]]:
    """The name of each workflow, and what it does."""
    clip = load_demo(NUM_FRAMES)
    images, masks = torch.from_numpy(clip.images), torch.from_numpy(clip.masks)
    truth = torch.from_numpy(clip.truth)
    model = load_model()
    alone = InpaintConfig(propagate=False)

    removed = inpaint(images, masks)
    yield "quick_removal", ("before", shown(images), "after", shown(removed))

    drawn = tinted(clip.images[SHOWN], clip.masks[SHOWN])
    later = SHOWN + 3
    yield "draw_one_mask", ("one mask drawn", drawn, "all frames", shown(removed, later))

    thirds = [around(frames, clip.masks) for frames in (clip.images, removed.numpy())]
    yield "long_video", ("before", thirds[0], "after", thirds[1])

    seen, remaining = propagate(images, masks, reach=2)
    found = tinted(seen[SHOWN].numpy(), remaining[SHOWN].numpy())
    rest = inpaint(seen, remaining, model, alone)
    yield "propagation_first", ("seen in no frame", found, "painted", shown(rest))

    hole = make_holes("box", *truth.shape[:3], seed=0)
    without = propagate(truth, hole)[0]
    painted = hole.clone()
    painted[SHOWN] = False  # the truth stands for what somebody painted
    carried = propagate(truth, painted)[0]
    yield (
        "paint_one_frame",
        ("nothing painted", shown(without, later), "one frame painted", shown(carried, later)),
    )

    hole = make_holes("object", *truth.shape[:3], seed=3)
    cut = torch.where(hole[..., None], torch.tensor(128, dtype=torch.uint8), truth)
    staged = inpaint(truth, hole, model, alone)
    yield "three_stages", ("hole", shown(cut), "three stages", shown(staged))

    hole = make_holes("object", *truth.shape[:3], seed=4)
    cut = torch.where(hole[..., None], torch.tensor(255, dtype=torch.uint8), truth)
    yield "joint_training", ("holes to learn from", shown(cut), "the error falls", losses(images))

    hole, results = typical_hole(truth)
    panels = [
        (f"{name}: {hole_psnr(unit(result), unit(truth), hole):.1f} dB", outlined(result, hole))
        for name, result in results.items()
    ]
    yield "evaluation", (*panels[0], *panels[1])


def typical_hole(truth: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Of eight holes the one where CombCN's lead is the upper of the two in the middle."""
    smooth = InpaintConfig(propagate=False, unseen="smooth")
    tried = []
    for seed in range(8):
        hole = make_holes("object", *truth.shape[:3], seed=seed)
        results = {
            "smooth fill": inpaint(truth, hole, config=smooth),
            "CombCN": inpaint(truth, hole),
        }
        first, second = (hole_psnr(unit(one), unit(truth), hole) for one in results.values())
        print(f"hole {seed}: CombCN {second - first:+.2f} dB against the smooth fill")
        tried.append((second - first, seed, hole, results))
    _, _, hole, results = sorted(tried, key=lambda entry: entry[0])[4]
    return hole, results


def losses(images: Tensor) -> Image:
    """The curves of a training with the settings of the workflow."""
    config = TrainConfig(
        pretrain_steps=30,
        steps=30,
        holes=("box",),
        size=64,
        clip_length=5,
        batch=1,
        detail_frames=2,
        calibration_clips=0,
        workers=0,
        device="cpu",
    )
    curves: dict[str, list[tuple[float, float]]] = {"3DCN": [], "CombCN": []}
    with tempfile.TemporaryDirectory() as folder:
        footage = footage_from_images(unit(images[:, ::2, ::2]))
        for now in train(
            footage, Path(folder) / "first_steps.safetensors", config, network=NetworkConfig()
        ):
            for name, loss in now.losses.items():
                curves[name].append((now.step, loss))
    return draw_curves(curves, x_label="step", y_label="", width=2 * HEIGHT, height=HEIGHT)


def unit(images: Tensor) -> Tensor:
    return images.float() / 255


def shown(images: Tensor, number: int = SHOWN) -> Image:
    return images[number].numpy()


def outlined(images: Tensor, holes: Tensor) -> Image:
    return outline_mask(shown(images), shown(holes))


def tinted(image: Image, hole: NDArray[np.bool_]) -> Image:
    """With the hole in red, as the mask editor shows it."""
    tinted = image.copy()
    tinted[hole] = image[hole] // 2 + np.array([127, 20, 20], np.uint8)
    return tinted


def around(images: Image, masks: NDArray[np.bool_]) -> Image:
    """A third of three frames, each around its hole."""
    wide = images.shape[2] // 3
    parts = []
    for number in (3, 8, 13):
        middle = int(np.flatnonzero(masks[number].any(axis=0)).mean())
        left = min(max(middle - wide // 2, 0), images.shape[2] - wide)
        parts.append(images[number, :, left : left + wide])
    return np.concatenate(parts, axis=1)


def captioned(image: Image, caption: str) -> Image:
    """The lower part of a frame, with a caption in a corner that the browser leaves free."""
    panel = image[-HEIGHT:].copy()
    height, width, _ = panel.shape
    font, scale = cv2.FONT_HERSHEY_SIMPLEX, 0.7
    (wide, tall), _ = cv2.getTextSize(caption, font, scale, 2)
    panel[-tall - 16 :, -wide - 20 :] //= 4
    place = (width - wide - 10, height - 8)
    cv2.putText(panel, caption, place, font, scale, (255, 255, 255), 2, cv2.LINE_AA)
    return panel


def main(folder: Path) -> None:
    for name, (before, above, after, below) in pairs():
        picture = np.concatenate([captioned(above, before), captioned(below, after)])
        path = folder / f"{name}.jpg"
        cv2.imwrite(str(path), picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
        print(f"{path}: {path.stat().st_size // 1024} KiB")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else WORKFLOWS)
