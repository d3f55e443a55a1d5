"""Prepare Mask and Make Holes."""

import torch
from comfy_api.latest import io
from torch import Tensor
from torch.nn.functional import interpolate

from combcn_core.holes import HOLE_KINDS, HoleKind, make_holes
from combcn_core.masks import check_masks, grow
from combcn_core.pictures import outline_mask

from .sockets import from_pictures, to_images, to_masks, to_output, to_pictures


class PrepareMask(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CombCN_PrepareMask",
            display_name="CombCN Prepare Mask",
            category="CombCN",
            description="Bring a mask to the size and length of the frames, and grow it so that it "
            "covers the whole object, its soft edge included.",
            inputs=[
                io.Image.Input("images", tooltip="The frames the mask belongs to."),
                io.Mask.Input(
                    "mask", tooltip="1 on what is to be removed: one mask, or one per frame."
                ),
                io.Int.Input(
                    "grow_pixels",
                    default=4,
                    min=-256,
                    max=256,
                    tooltip="Grow the mask by so many pixels; negative numbers shrink it.",
                ),
                io.Float.Input(
                    "threshold",
                    default=0.5,
                    min=0.01,
                    max=1.0,
                    step=0.01,
                    tooltip="What reaches this value counts as hole.",
                ),
                io.Boolean.Input(
                    "invert",
                    default=False,
                    tooltip="For masks that are 1 on what is to be kept.",
                ),
                io.Boolean.Input(
                    "resize",
                    default=False,
                    tooltip="Resize a mask of another size than the frames.",
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
    def execute(
        cls,
        images: Tensor,
        mask: Tensor,
        grow_pixels: int,
        threshold: float,
        invert: bool,
        resize: bool,
    ) -> io.NodeOutput:
        frames = to_images(images)
        given = to_masks(mask, frames)
        num_frames, height, width = frames.shape[:3]
        hole = (given >= threshold) != invert
        if resize:
            layers = hole.reshape(-1, 1, *hole.shape[-2:]).float()
            hole = interpolate(layers, (height, width), mode="nearest-exact")[:, 0] > 0
        holes = grow(check_masks(hole, num_frames, height, width), grow_pixels)
        outlined = [
            outline_mask(frame, hole)
            for frame, hole in zip(to_pictures(frames), holes.numpy(force=True), strict=True)
        ]
        preview = torch.cat([from_pictures(picture) for picture in outlined])
        return io.NodeOutput(to_output(holes), preview)


class MakeHoles(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CombCN_MakeHoles",
            display_name="CombCN Make Holes",
            category="CombCN",
            description="Cut synthetic holes into frames whose content is known, for training and "
            "for measuring.",
            inputs=[
                io.Image.Input("images", tooltip="The frames to cut holes into."),
                io.Combo.Input(
                    "kind",
                    options=list(HOLE_KINDS),
                    default="object",
                    tooltip="box: one box in all frames, as in the paper. random-box: another one "
                    "in every frame. moving-box: one that moves. blob: a soft shape that drifts. "
                    "object: silhouettes of people and vehicles.",
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=0xFFFFFFFF,
                    tooltip="Another number gives other holes.",
                ),
            ],
            outputs=[
                io.Mask.Output(display_name="mask", tooltip="1 inside the hole, one per frame."),
                io.Image.Output(display_name="images", tooltip="The frames, gray in the hole."),
            ],
        )

    @classmethod
    def execute(cls, images: Tensor, kind: HoleKind, seed: int) -> io.NodeOutput:
        frames = to_images(images)
        holes = make_holes(kind, *frames.shape[:3], seed=seed)
        return io.NodeOutput(
            to_output(holes), to_output(torch.where(holes[..., None], 0.5, frames))
        )
