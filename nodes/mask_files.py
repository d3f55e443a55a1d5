"""Load Mask Sequence: masks as files in ComfyUI's input folder."""

from fractions import Fraction
from typing import get_args

import numpy as np
import torch
from comfy_api.latest import io
from torch import Tensor

from combcn_core import MaskConfig
from combcn_core.clips.mask_rules import MissingMasks
from combcn_core.clips.masks import read_mask
from combcn_core.clips.video import ClipInfo

from . import folders
from .links import refusal
from .previews import outlined
from .schema import found_by
from .sockets import to_images, to_output


class LoadMaskSequence(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CombCN_LoadMaskSequence",
            display_name="CombCN Load Mask Sequence",
            category="CombCN",
            **found_by(io.Schema, "load masks, mask folder, roto masks, SAM 2"),
            description="Load the masks of a clip from a folder of images, white on what is to be "
            "removed, such as a rotoscoping tool or SAM 2 writes them.",
            inputs=[
                io.Image.Input("images", tooltip="The frames that the masks are for."),
                io.Combo.Input(
                    "folder",
                    options=folders.footage_folders(),
                    tooltip="A folder in ComfyUI's input folder, with one image for each frame, in "
                    "the order of their numbers.",
                ),
                io.Combo.Input(
                    "missing",
                    options=list(get_args(MissingMasks)),
                    default="refuse",
                    tooltip="What to do where masks and frames differ in number. repeat: the mask "
                    "before stands in for one that is missing. empty: nothing does.",
                ),
                io.Boolean.Input(
                    "resize", default=False, tooltip="Resize masks of another size than the frames."
                ),
            ],
            outputs=[
                io.Mask.Output(display_name="mask", tooltip="0 or 1, one mask per frame."),
                io.Image.Output(
                    display_name="preview", tooltip="The frames with an outline around the holes."
                ),
            ],
        )

    @classmethod
    def validate_inputs(cls, folder: str | None) -> bool | str:
        # Naming it here replaces ComfyUI's "value not in list".
        return refusal(folders.footage_path, folder) or True

    @classmethod
    def fingerprint_inputs(cls, folder: str, **kwargs: object) -> float:
        path = folders.footage_path(folder)
        return max(file.stat().st_mtime for file in (path, *path.iterdir()))

    @classmethod
    def execute(
        cls, images: Tensor, folder: str, missing: MissingMasks, resize: bool
    ) -> io.NodeOutput:
        clip = to_images(images)
        count, height, width = clip.shape[:3]
        info = ClipInfo(width, height, Fraction(24), total_frames=count, indices=range(count))
        config = MaskConfig(mask_missing=missing)
        path = folders.footage_path(folder)
        with read_mask(path, info, config=config, fit_mask=resize) as reader:
            masks = np.stack(list(reader))
        preview, shown = outlined(clip, masks)
        return io.NodeOutput(to_output(torch.from_numpy(masks)), preview, ui=shown)
