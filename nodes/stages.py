"""The stages one by one: Propagate, Temporal, Upsample Guidance, Spatial Detail, Texture.

What passes between them is plain IMAGE and MASK, to look at, to replace, or to edit.
"""

import torch
from comfy_api.latest import io
from torch import Tensor

from combcn_core import (
    composite,
    fill_rest,
    infer_temporal,
    propagate,
    restore_detail,
    synthesize_texture,
    upsample_guidance,
)
from combcn_core.fill.grain import match_grain
from combcn_core.networks.restore import Upsampling
from combcn_core.progress import OnShare, part_of

from .memory import Attempt, LoadedModel, backing_off
from .progress import NodeProgress, with_largest_hole
from .schema import found_by
from .sockets import Model, to_holes, to_images, to_output

METHODS: tuple[Upsampling, ...] = ("bicubic", "nearest", "bilinear", "lanczos")

_FILL_FIRST = (
    "Fill the hole smoothly before the network sees it. Turn this off behind Propagate Known "
    "Pixels, which has filled it already. Only for models that start from a classical fill; those "
    "with a mean fill do not look into the hole."
)


class Propagate(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CombCN_Propagate",
            display_name="CombCN Propagate Known Pixels",
            category="CombCN",
            **found_by(
                io.Schema,
                "clean plate, fill from other frames, optical flow, flow propagation, "
                "video inpainting",
            ),
            description="Fill the holes with what other frames show of the place, carried along "
            "optical flow. Needs no weights.",
            inputs=[
                io.Image.Input("images", tooltip="The frames of the video, in order."),
                io.Mask.Input(
                    "mask",
                    tooltip="1 inside the hole: one mask, or one per frame. A frame whose mask is "
                    "empty is a source.",
                ),
                io.Int.Input(
                    "reach",
                    default=48,
                    min=1,
                    max=240,
                    tooltip="Frames that a pixel may be carried, at most. More takes more memory "
                    "and time.",
                ),
                io.Int.Input(
                    "painted_frame",
                    default=0,
                    min=0,
                    max=1_000_000,
                    tooltip="Which frame the painted one is, counted from 0.",
                ),
                io.Image.Input(
                    "painted",
                    optional=True,
                    tooltip="One frame as it should be: painted by hand, or a photograph of the "
                    "place. What it has inside the hole goes into that frame, and on into others.",
                ),
            ],
            outputs=[
                io.Image.Output(
                    display_name="images",
                    tooltip="The frames, filled; where nothing was seen, with a smooth fill.",
                ),
                io.Mask.Output(
                    display_name="remaining",
                    tooltip="1 where nothing was seen: for Temporal Structure and Spatial Detail, "
                    "or any other inpainter.",
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        images: Tensor,
        mask: Tensor,
        reach: int,
        painted_frame: int,
        painted: Tensor | None = None,
    ) -> io.NodeOutput:
        frames = to_images(images)
        holes = to_holes(mask, frames)
        if painted is not None:
            plate = to_images(painted, "painted")
            frames, holes = _with_plate(frames, holes, painted_frame, plate)
        progress = NodeProgress()
        filled, remaining = propagate(frames, holes, reach=reach, on_progress=progress)
        progress.finish(with_largest_hole(filled, holes))
        return io.NodeOutput(to_output(filled), to_output(remaining))


def _with_plate(frames: Tensor, holes: Tensor, number: int, plate: Tensor) -> tuple[Tensor, Tensor]:
    """Frames and holes where one frame is whole already: the plate's pixels stand in its hole."""
    if number >= len(frames):
        raise ValueError(
            f"painted_frame is {number}, but images has frames 0 to {len(frames) - 1}; "
            f"choose one of them."
        )
    if plate.shape != frames[:1].shape:
        raise ValueError(
            f"painted has shape {tuple(plate.shape)}, wanted {tuple(frames[:1].shape)}; connect "
            f"one frame of the size of images."
        )
    frames, holes = frames.clone(), holes.clone()
    one = slice(number, number + 1)
    frames[one] = composite(plate.to(frames), frames[one], holes[one])
    holes[one] = False
    return frames, holes


class Temporal(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CombCN_Temporal",
            display_name="CombCN Temporal Structure (3D)",
            category="CombCN",
            **found_by(io.Schema, "3DCN, temporal inpainting"),
            description="3DCN: complete all frames at once, at low resolution.",
            inputs=[
                Model.Input("model", tooltip="From Load Model or Joint Trainer."),
                io.Image.Input("images", tooltip="The frames of the video, in order."),
                io.Mask.Input("mask", tooltip="1 inside the hole: one mask, or one per frame."),
                io.Boolean.Input("fill_first", default=True, tooltip=_FILL_FIRST),
            ],
            outputs=[
                io.Image.Output(
                    display_name="coarse", tooltip="The completed frames, at low resolution."
                )
            ],
        )

    @classmethod
    def execute(
        cls, model: LoadedModel, images: Tensor, mask: Tensor, fill_first: bool
    ) -> io.NodeOutput:
        progress = NodeProgress()
        frames, holes = _starting_point(model, images, mask, fill_first, part_of(progress, 0, 0.5))

        def work(attempt: Attempt) -> Tensor:
            return infer_temporal(
                attempt.ready(model, *frames.shape[1:3]),
                frames,
                holes,
                segment_frames=attempt.segment_frames,
                on_progress=part_of(progress, 0.5, 1),
            )

        coarse = to_output(backing_off(work))
        progress.finish(with_largest_hole(coarse, holes))
        return io.NodeOutput(coarse)


class UpsampleGuidance(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CombCN_UpsampleGuidance",
            display_name="CombCN Upsample Guidance",
            category="CombCN",
            **found_by(io.Schema, "upscale guidance, resize"),
            description="Bring coarse frames to the size at which Spatial Detail takes them in.",
            inputs=[
                io.Image.Input("coarse", tooltip="From Temporal Structure, or frames of your own."),
                io.Combo.Input(
                    "method",
                    options=list(METHODS),
                    default="bicubic",
                    tooltip="Interpolation; where the size shrinks, area averaging.",
                ),
                io.Image.Input(
                    "reference",
                    optional=True,
                    tooltip="Frames whose size counts, usually those given to Spatial Detail.",
                ),
                io.Int.Input(
                    "ratio",
                    default=2,
                    min=1,
                    max=8,
                    tooltip="The result is the reference's size divided by this: 2 is what Spatial "
                    "Detail takes in with the default model, 1 the reference's own size.",
                ),
                io.Float.Input(
                    "factor",
                    default=2.0,
                    min=0.1,
                    max=16.0,
                    step=0.1,
                    tooltip="Without a reference: the result is the coarse size times this.",
                ),
            ],
            outputs=[io.Image.Output(display_name="guidance", tooltip="For Spatial Detail.")],
        )

    @classmethod
    def execute(
        cls,
        coarse: Tensor,
        method: Upsampling,
        ratio: int,
        factor: float,
        reference: Tensor | None = None,
    ) -> io.NodeOutput:
        frames = to_images(coarse, "coarse")
        if reference is not None:
            height, width = (-(-side // ratio) for side in reference.shape[1:3])
        else:
            height, width = (max(1, round(side * factor)) for side in frames.shape[1:3])
        return io.NodeOutput(to_output(upsample_guidance(frames, (height, width), method=method)))


class SpatialDetail(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CombCN_SpatialDetail",
            display_name="CombCN Spatial Detail (2D)",
            category="CombCN",
            **found_by(io.Schema, "2D inpainting, detail inpainting"),
            description="CombCN: paint detail into the holes frame by frame, guided by coarse "
            "frames, and put it into the source. Outside the hole no pixel changes.",
            inputs=[
                Model.Input("model", tooltip="From Load Model or Joint Trainer."),
                io.Image.Input("images", tooltip="The frames of the video, in order."),
                io.Mask.Input("mask", tooltip="1 inside the hole: one mask, or one per frame."),
                io.Image.Input(
                    "guidance",
                    optional=True,
                    tooltip="From Upsample Guidance. Leave it open for a model without guidance.",
                ),
                io.Mask.Input(
                    "removed",
                    optional=True,
                    tooltip="After Propagate Known Pixels: the mask given to it, so that what was "
                    "carried over gets its grain back too.",
                ),
                io.Boolean.Input("fill_first", default=True, tooltip=_FILL_FIRST),
                io.Boolean.Input(
                    "match_grain",
                    default=True,
                    tooltip="Give what was filled the grain of its surroundings.",
                ),
            ],
            outputs=[io.Image.Output(display_name="images", tooltip="The finished frames.")],
        )

    @classmethod
    def execute(
        cls,
        model: LoadedModel,
        images: Tensor,
        mask: Tensor,
        fill_first: bool,
        match_grain: bool,
        guidance: Tensor | None = None,
        removed: Tensor | None = None,
    ) -> io.NodeOutput:
        progress = NodeProgress()
        frames, holes = _starting_point(model, images, mask, fill_first, part_of(progress, 0, 0.5))
        coarse = None if guidance is None else to_images(guidance, "guidance")

        def work(attempt: Attempt) -> Tensor:
            network = attempt.ready(model, *frames.shape[1:3])
            return restore_detail(
                network, frames, holes, coarse, on_progress=part_of(progress, 0.5, 1)
            )

        result = backing_off(work)
        if match_grain:
            whole = holes if removed is None else to_holes(removed, frames)
            result = _with_grain(result, holes, whole | holes)
        progress.finish(with_largest_hole(result, holes))
        return io.NodeOutput(to_output(result))


class SynthesizeTexture(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CombCN_SynthesizeTexture",
            display_name="CombCN Synthesize Texture",
            category="CombCN",
            **found_by(io.Schema, "texture synthesis, PatchMatch, exemplar inpainting, fill"),
            description="Fill what no frame shows with the look of the shot itself: texture that "
            "continues what lies around, steady in time. Needs no weights.",
            inputs=[
                io.Image.Input(
                    "images",
                    tooltip="The frames of the video, in order: from Propagate Known Pixels, or "
                    "the source.",
                ),
                io.Mask.Input(
                    "mask",
                    tooltip="1 inside the hole, such as remaining from Propagate Known Pixels: one "
                    "mask, or one per frame.",
                ),
                io.Image.Input(
                    "start",
                    optional=True,
                    tooltip="From Spatial Detail: the same frames, with what the texture is to "
                    "start from inside the hole. Leave it open for a smooth fill.",
                ),
                io.Mask.Input(
                    "removed",
                    optional=True,
                    tooltip="After Propagate Known Pixels: the mask given to it. Motion is "
                    "measured outside of it, and what was carried over gets its grain back.",
                ),
                io.Boolean.Input(
                    "match_grain",
                    default=True,
                    tooltip="Give what was filled the grain of its surroundings, where it lacks "
                    "it.",
                ),
            ],
            outputs=[io.Image.Output(display_name="images", tooltip="The finished frames.")],
        )

    @classmethod
    def execute(
        cls,
        images: Tensor,
        mask: Tensor,
        match_grain: bool,
        start: Tensor | None = None,
        removed: Tensor | None = None,
    ) -> io.NodeOutput:
        frames = to_images(images)
        holes = to_holes(mask, frames)
        begun = None if start is None else to_images(start, "start")
        whole = holes if removed is None else to_holes(removed, frames) | holes
        progress = NodeProgress()
        result = synthesize_texture(frames, holes, begun, removed=whole, on_progress=progress)
        if match_grain:
            result = _with_grain(result, holes, whole)
        progress.finish(with_largest_hole(result, whole))
        return io.NodeOutput(to_output(result))


def _starting_point(
    model: LoadedModel, images: Tensor, mask: Tensor, fill_first: bool, on_progress: OnShare | None
) -> tuple[Tensor, Tensor]:
    """The frames as the networks want to have them, and (T, H, W) bool of the holes."""
    frames = to_images(images)
    holes = to_holes(mask, frames)
    if fill_first and model.model.config.input_fill == "classical":
        frames = fill_rest(frames, holes, on_progress=on_progress)
    return frames, holes


def _with_grain(frames: Tensor, smooth: Tensor, holes: Tensor) -> Tensor:
    """What `match_grain` does to one frame, done to all."""
    arrays = [frames.numpy(force=True), smooth.numpy(force=True), holes.numpy(force=True)]
    grainy = [
        torch.from_numpy(match_grain(*frame, seed=t))
        for t, frame in enumerate(zip(*arrays, strict=True))
    ]
    return torch.where(holes[..., None], torch.stack(grainy), frames)
