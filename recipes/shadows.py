"""Draw docs/shadows.jpg: python recipes/shadows.py

The van of the built-in street with a mask of the van alone: what stays behind without
`take_shadows`, what that adds to the mask, and what it leaves.
"""

from __future__ import annotations

from pathlib import Path

import cv2

from combcn_core import inpaint, take_shadows
from combcn_core.clips.pictures import outline_mask, side_by_side
from combcn_core.masks import grow
from recipes.scenes import EFFECTS, render_scene

PICTURE = Path(__file__).parents[1] / "docs" / "shadows.jpg"
SHOWN, NUM_FRAMES = 12, 32
ROWS, COLUMNS = slice(90, 270), slice(60, 380)  # around the van


def main() -> None:
    scene = render_scene(EFFECTS["cast-moving"], num_frames=NUM_FRAMES, height=270, width=480)
    masks = take_shadows(scene.images, scene.masks).masks
    results = [inpaint(scene.images, grow(holes, 2)) for holes in (scene.masks, masks)]
    outlined = [
        outline_mask(scene.images[SHOWN].numpy(), holes[SHOWN].numpy())
        for holes in (scene.masks, masks)
    ]
    panels = [
        outlined[0],
        results[0][SHOWN].numpy(),
        outlined[1],
        results[1][SHOWN].numpy(),
    ]
    picture = side_by_side(
        [panel[ROWS, COLUMNS] for panel in panels],
        ["the mask", "removed with it", "with --take-shadows", "removed with that"],
        columns=2,
    )
    cv2.imwrite(str(PICTURE), picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 85])


if __name__ == "__main__":
    main()
