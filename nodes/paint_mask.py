"""Paint Mask: a frame that ComfyUI's mask editor opens, and the mask painted on it."""

from __future__ import annotations

from pathlib import Path

import cv2
import folder_paths
import numpy as np
import torch
from comfy_api.latest import io, ui
from numpy.typing import NDArray
from torch import Tensor

from . import folders
from .links import refusal
from .schema import found_by
from .sockets import to_holes, to_images, to_masks, to_output, to_pictures

_EDITOR_FOLDER = "clipspace"  # which the newest front ends leave out of the name
_SAME_FRAME = 0.98  # of its pixels differ by two levels at most; the editor's brush may paint some
_WHAT_TO_DO = (
    "nothing is painted on frame {} yet: open the picture of CombCN Paint Mask in the mask editor "
    "(right click), paint the object, save, and run again."
)


class PaintMask(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CombCN_PaintMask",
            display_name="CombCN Paint Mask",
            category="CombCN",
            **found_by(io.Schema, "mask editor, draw mask, paint, rotopaint"),
            description="Show one frame of a video, to be painted on in the mask editor: run, "
            "right click, Open in MaskEditor, paint the object, save, run again.",
            inputs=[
                io.Image.Input("images", tooltip="The frames of the video, in order."),
                io.Int.Input(
                    "frame", default=0, min=0, max=0xFFFFFF, tooltip="The one to paint, from 0."
                ),
                io.String.Input(
                    "image",
                    default="",
                    tooltip="What the mask editor saved; it fills this in. Empty it to start anew.",
                ),
                io.Mask.Input(
                    "start",
                    optional=True,
                    tooltip="A mask to start from: one, or one per frame. It counts as long as "
                    "nothing is painted.",
                ),
                io.Mask.Input(
                    "masks", optional=True, tooltip="From another Paint Mask: what it painted."
                ),
                io.String.Input(
                    "frames",
                    default="",
                    optional=True,
                    force_input=True,
                    tooltip="From another Paint Mask: the frames that it painted.",
                ),
            ],
            outputs=[
                io.Mask.Output(
                    display_name="masks",
                    tooltip="1 on the object; those of the input first, then this one.",
                ),
                io.String.Output(
                    display_name="frames", tooltip="The frames of these masks, for Follow Mask."
                ),
            ],
            is_output_node=True,
        )

    @classmethod
    def validate_inputs(cls, image: str | None) -> bool | str:
        return refusal(_find, image or None) or True

    @classmethod
    def execute(
        cls,
        images: Tensor,
        frame: int,
        image: str,
        start: Tensor | None = None,
        masks: Tensor | None = None,
        frames: str | None = None,
    ) -> io.NodeOutput:
        clip = to_images(images)
        if frame >= len(clip):
            raise ValueError(
                f"frame is {frame}, but images has frames 0 to {len(clip) - 1}; choose one of them."
            )
        if (masks is None) != (not frames):
            raise ValueError(
                "masks and frames belong together; connect both from the same Paint Mask."
            )
        shown: ui.SavedImages | ui.PreviewImage
        if image:
            path = _find(image)
            hole = _painted(path, to_pictures(clip[frame])[0], frame)
            shown = ui.SavedImages([_reference(path)])
        elif start is not None:
            hole = to_holes(start, clip, "start")[frame]
            alpha = 1 - hole.float()
            shown = ui.PreviewImage(torch.cat([clip[frame], alpha[..., None]], -1)[None], cls=cls)
        else:
            shown = ui.PreviewImage(clip[frame][None], cls=cls)
            nothing = to_output(torch.zeros(1, *clip.shape[1:3]))  # without it none is blocked
            what = _WHAT_TO_DO.format(frame)
            return io.NodeOutput(nothing, str(frame), ui=shown, block_execution=what)
        painted = hole.float()[None]
        numbers = str(frame)
        if masks is not None:
            before = to_masks(masks, clip, "masks").reshape(-1, *masks.shape[-2:])
            painted = torch.cat([before, painted])
            numbers = f"{frames}, {numbers}"
        return io.NodeOutput(to_output(painted), numbers, ui=shown)


def _find(name: str) -> Path:
    """The file that the mask editor names.

    Raises:
        ValueError: there is none, or it is not in one of ComfyUI's folders.
    """
    name, folder = folder_paths.annotated_filepath(name)
    folder = folder or folder_paths.get_input_directory()
    for place in (name, f"{_EDITOR_FOLDER}/{name}"):
        path = folders.within(folder, place)
        if path.is_file():
            return path
    raise ValueError(f"image names {name!r}, which is not there; empty image, run, and paint anew.")


def _reference(path: Path) -> ui.SavedResult:
    """A file below one of ComfyUI's folders, as front ends ask for it."""
    for kind in (io.FolderType.input, io.FolderType.output, io.FolderType.temp):
        folder = Path(folder_paths.get_directory_by_type(kind.value))
        if path.is_relative_to(folder):
            below = path.relative_to(folder).parent.as_posix()
            return ui.SavedResult(path.name, "" if below == "." else below, kind)
    raise AssertionError(f"{path} is in none of ComfyUI's folders")


def _painted(path: Path, frame: NDArray[np.uint8], number: int) -> Tensor:
    """(H, W) bool, true where the picture of a frame has become transparent.

    Raises:
        ValueError: the picture is of another frame, or has nothing painted on it.
    """
    picture = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if picture is None or picture.dtype != np.uint8 or picture.shape[2:] != (4,):
        raise ValueError(
            f"image {path.name} is no picture with alpha; empty image, run, and paint anew."
        )
    hole = picture[..., 3] < 128
    is_same = picture.shape[:2] == frame.shape[:2]
    if is_same and not hole.all():
        known_pixels = picture[..., 2::-1][~hole].astype(int) - frame[~hole]
        is_same = (np.abs(known_pixels).max(axis=-1) <= 2).mean() >= _SAME_FRAME
    if not is_same:
        raise ValueError(
            f"image is not painted on frame {number} of these images; empty image, run, and paint "
            "on the frame that is shown."
        )
    if not hole.any():
        raise ValueError(_WHAT_TO_DO.format(number))
    return torch.from_numpy(hole)
