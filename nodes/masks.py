"""Prepare Mask, Follow Mask, Take Shadows and Make Holes."""

import re

import torch
from comfy_api.latest import io
from torch import Tensor
from torch.nn.functional import interpolate

from combcn_core import follow_masks, take_shadows
from combcn_core.fill.follow import describe_followed
from combcn_core.masks import check_masks, grow
from combcn_core.training.holes import HOLE_KINDS, HoleKind, make_holes

from .links import check_links, refusal
from .previews import outlined
from .progress import Line, NodeProgress
from .schema import found_by, known
from .sockets import to_images, to_masks, to_output

MERGES = ("no", "objects of each frame", "frames of each object")
CHANNELS = {"brightest": None, "luma": None, "red": 0, "green": 1, "blue": 2, "alpha": 3}
_LUMA = (0.2126, 0.7152, 0.0722)  # of BT.709


class PrepareMask(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CombCN_PrepareMask",
            display_name="CombCN Prepare Mask",
            category="CombCN",
            **found_by(
                io.Schema,
                "grow mask, dilate mask, expand mask, invert mask, merge masks, mask preview",
            ),
            description="Bring a mask to the size and length of the frames, and grow it so that it "
            "covers the whole object, its soft edge included.",
            inputs=[
                io.Image.Input("images", tooltip="The frames the mask belongs to."),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="1 on what is to be removed: one mask, or one per frame.",
                ),
                io.Image.Input(
                    "mask_images",
                    optional=True,
                    tooltip="Masks that come as images, in place of mask; see channel.",
                ),
                io.Int.Input(
                    "grow_pixels",
                    default=4,
                    min=-256,
                    max=256,
                    tooltip="Grow the mask by this many pixels; negative numbers shrink it.",
                ),
                io.Float.Input(
                    "threshold",
                    default=0.5,
                    min=0.01,
                    max=1.0,
                    step=0.01,
                    tooltip="What reaches this value counts as hole.",
                    **known(io.Float.Input, advanced=True),
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
                io.Combo.Input(
                    "merge",
                    options=list(MERGES),
                    default="no",
                    optional=True,
                    tooltip="Make one mask per frame of several: of segmenters that give the "
                    "objects of each frame one after the other, or the frames of each object.",
                    **known(io.Combo.Input, advanced=True),
                ),
                io.Combo.Input(
                    "channel",
                    options=list(CHANNELS),
                    default="brightest",
                    optional=True,
                    tooltip="What of mask_images is the mask. Alpha is 1 where an image is opaque.",
                    **known(io.Combo.Input, advanced=True),
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
    def validate_inputs(cls, input_types: dict[str, str]) -> bool | str:
        return check_links(cls, input_types, ("mask", "mask_images"))

    @classmethod
    def execute(
        cls,
        images: Tensor,
        grow_pixels: int,
        threshold: float,
        invert: bool,
        resize: bool,
        merge: str = "no",
        channel: str = "brightest",
        mask: Tensor | None = None,
        mask_images: Tensor | None = None,
    ) -> io.NodeOutput:
        frames = to_images(images)
        given = _channel(mask_images, channel) if mask is None else to_masks(mask, frames)
        num_frames, height, width = frames.shape[:3]
        hole = (_merged(given, merge, num_frames) >= threshold) != invert
        if resize:
            layers = hole.reshape(-1, 1, *hole.shape[-2:]).float()
            hole = interpolate(layers, (height, width), mode="nearest-exact")[:, 0] > 0
        holes = grow(check_masks(hole, num_frames, height, width), grow_pixels)
        preview, shown = outlined(frames, holes.numpy(force=True))
        return io.NodeOutput(to_output(holes), preview, ui=shown)


def _channel(images: Tensor, channel: str) -> Tensor:
    """(T, H, W) of an IMAGE."""
    if channel == "brightest":
        return images[..., :3].amax(dim=-1).cpu().float()
    if channel == "luma":
        return images[..., :3].cpu().float() @ torch.tensor(_LUMA)
    place = CHANNELS[channel]
    if place >= images.shape[-1]:
        raise ValueError(f"mask_images have no {channel}; connect images with it, or choose luma.")
    return images[..., place].cpu().float()


def _merged(masks: Tensor, merge: str, num_frames: int) -> Tensor:
    """The union of the masks of each frame.

    Raises:
        ValueError: their number is no multiple of that of the frames.
    """
    masks = masks.reshape(-1, *masks.shape[-2:])
    count = len(masks) // num_frames
    if merge == "no":
        if count > 1 and len(masks) == count * num_frames:
            raise ValueError(
                f"mask has {len(masks)} frames but images has {num_frames}, {count} masks for "
                "each; choose in merge which of them belong together."
            )
        return masks
    if len(masks) != count * num_frames:
        raise ValueError(
            f"mask has {len(masks)} frames, which is no multiple of the {num_frames} of images; "
            "connect the masks of all objects in all frames."
        )
    axis = 1 if merge == MERGES[1] else 0
    shape = (num_frames, count) if axis else (count, num_frames)
    return masks.reshape(*shape, *masks.shape[1:]).amax(dim=axis)


class FollowMask(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CombCN_FollowMask",
            display_name="CombCN Follow Mask",
            category="CombCN",
            **found_by(
                io.Schema, "track mask, propagate mask, rotoscope, rotopaint, object tracking"
            ),
            description="Carry masks drawn on some frames to all frames, along the motion in the "
            "picture and fitted to the object's edge. Says where it is least sure.",
            inputs=[
                io.Image.Input("images", tooltip="The frames of the video, in order."),
                io.Mask.Input(
                    "mask",
                    tooltip="1 on the object: one mask for each number in frames, or one per "
                    "frame, of which those in frames are used.",
                ),
                io.String.Input(
                    "frames",
                    default="0",
                    tooltip="The frames that the masks were drawn on, counted from 0: 0, 12, 24.",
                ),
            ],
            outputs=[
                io.Mask.Output(display_name="mask", tooltip="0 or 1, one mask per frame."),
                io.Image.Output(
                    display_name="preview", tooltip="The frames with an outline around the object."
                ),
                io.String.Output(
                    display_name="report",
                    tooltip="The frames in which it is least sure, from 0 to 1, and those without "
                    "a mask: look there, and draw another where it is wrong.",
                ),
            ],
        )

    @classmethod
    def validate_inputs(cls, frames: str | None) -> bool | str:
        return refusal(_numbers, frames) or True

    @classmethod
    def execute(cls, images: Tensor, mask: Tensor, frames: str) -> io.NodeOutput:
        clip = to_images(images)
        given = to_masks(mask, clip)
        given = given.reshape(-1, *given.shape[-2:])
        numbers = _numbers(frames)
        if len(given) == len(clip) != len(numbers) and max(numbers) < len(clip):
            given = given[numbers]
        progress = NodeProgress(preview_seconds=None)
        masks, confidence = follow_masks(clip, given, numbers, on_progress=progress)
        preview, shown = outlined(clip, masks.numpy())
        found = masks.flatten(1).any(dim=1).tolist()
        lost = [n for n, sure in enumerate(confidence) if sure < 1 and not found[n]]
        report = describe_followed(dict(enumerate(confidence)), lost)
        Line()(report, at_once=True)
        return io.NodeOutput(to_output(masks), preview, report, ui=shown)


def _numbers(text: str) -> list[int]:
    """Numbers of frames, from text such as "0, 12 24"."""
    parts = re.split(r"[,;\s]+", text.strip())
    if not all(part.isdecimal() for part in parts):
        raise ValueError(f"frames is {text!r}; give numbers from 0, such as 0, 12, 24.")
    return [int(part) for part in parts]


class TakeShadows(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CombCN_TakeShadows",
            display_name="CombCN Take Shadows",
            category="CombCN",
            **found_by(io.Schema, "shadow, reflection, shadow mask"),
            description="Grow the mask by the shadow and the reflection of the object, where other "
            "frames show the ground without them. It only ever adds.",
            inputs=[
                io.Image.Input("images", tooltip="The frames of the video, in order."),
                io.Mask.Input("mask", tooltip="1 on the whole object: one mask, or one per frame."),
            ],
            outputs=[
                io.Mask.Output(display_name="mask", tooltip="0 or 1, one mask per frame."),
                io.Image.Output(
                    display_name="preview",
                    tooltip="The frames with an outline around the object and what was added.",
                ),
                io.String.Output(
                    display_name="report",
                    tooltip="How much was added, and where other frames show too little to tell.",
                ),
            ],
        )

    @classmethod
    def execute(cls, images: Tensor, mask: Tensor) -> io.NodeOutput:
        clip = to_images(images)
        taken = take_shadows(
            clip, to_masks(mask, clip), on_progress=NodeProgress(preview_seconds=None)
        )
        preview, shown = outlined(clip, taken.masks.numpy())
        report = f"{sum(taken.added_pixels) / len(clip):.0f} pixels a frame added"
        if taken.unseen_frames:
            report += (
                f"; in {len(taken.unseen_frames)} frames, first {taken.unseen_frames[0]}, no other "
                "frame shows enough of the ground to tell"
            )
        Line()(report, at_once=True)
        return io.NodeOutput(to_output(taken.masks), preview, report, ui=shown)


class MakeHoles(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CombCN_MakeHoles",
            display_name="CombCN Make Holes",
            category="CombCN",
            **found_by(io.Schema, "random mask, synthetic mask, test mask"),
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
