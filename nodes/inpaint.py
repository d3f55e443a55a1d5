"""Inpaint: all stages in one node."""

from typing import Any

from comfy_api.latest import io
from torch import Tensor

from combcn_core import InpaintConfig
from combcn_core.masks import check_masks, grow
from combcn_core.pixels import differ
from combcn_core.shot import inpaint_with_unseen
from combcn_core.stream.report import MUCH_UNSEEN

from .memory import Attempt, LoadedModel, backing_off
from .progress import Line, NodeProgress, with_largest_hole
from .schema import REMOVAL, known
from .sockets import Model, to_images, to_masks, to_output


def settings() -> list[io.Input]:
    """What Inpaint and Inpaint Video both ask for: a model, and fields of InpaintConfig."""
    return [
        Model.Input(
            "model",
            optional=True,
            tooltip="Networks for what no other frame shows. Without them texture starts from a "
            "smooth fill.",
        ),
        io.Int.Input(
            "grow_pixels",
            default=0,
            min=0,
            max=256,
            tooltip="Grow the mask by this many pixels first, to cover soft edges.",
        ),
        io.Boolean.Input(
            "propagate",
            default=True,
            tooltip="Fill the hole with what other frames show of the place first.",
        ),
        io.Int.Input(
            "reach",
            default=48,
            min=1,
            max=240,
            tooltip="Frames that a pixel may be carried, at most. More takes more memory and time.",
            **known(io.Int.Input, advanced=True),
        ),
        io.Int.Input(
            "feather_pixels",
            default=0,
            min=0,
            max=256,
            tooltip="Blend into the source over this many pixels inside the mask's edge. For masks "
            "wider than the object.",
            **known(io.Int.Input, advanced=True),
        ),
        io.Boolean.Input(
            "match_grain",
            default=True,
            tooltip="Give what was filled the grain of its surroundings.",
            **known(io.Boolean.Input, advanced=True),
        ),
    ]


def unseen() -> io.Input:
    """A setting of both too.

    Optional and last, so that graphs and workflows from before it run as they are.
    """
    return io.Combo.Input(
        "unseen",
        options=["texture", "smooth"],
        default="texture",
        optional=True,
        tooltip="What no other frame shows: texture from what lies around it, or the smooth fill "
        "(with a model: what it predicts) as it is.",
    )


class Inpaint(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CombCN_Inpaint",
            display_name="CombCN Inpaint",
            category="CombCN",
            **known(io.Schema, search_aliases=REMOVAL, essentials_category="Video Tools"),
            description="Remove what the mask covers from a clip: propagation, networks, texture, "
            "grain, in one node. Outside the mask no pixel changes.",
            inputs=[
                io.Image.Input("images", tooltip="The frames of the video, in order."),
                io.Mask.Input(
                    "mask", tooltip="1 on what is to be removed: one mask, or one per frame."
                ),
                *settings(),
                unseen(),
            ],
            outputs=[
                io.Image.Output(display_name="images", tooltip="The finished frames."),
                io.String.Output(
                    display_name="summary",
                    tooltip="How much of the hole other frames showed, how much is made up, and "
                    "what helps where that is much.",
                ),
            ],
        )

    @classmethod
    def execute(
        cls, images: Tensor, mask: Tensor, model: LoadedModel | None = None, **settings: Any
    ) -> io.NodeOutput:
        frames = to_images(images)
        masks = to_masks(mask, frames)
        config, progress = InpaintConfig(**settings), NodeProgress()

        def work(attempt: Attempt) -> tuple[Tensor, Tensor]:
            network = None if model is None else attempt.ready(model, *frames.shape[1:3])
            shorter = attempt.shorten(config)
            return inpaint_with_unseen(frames, masks, network, shorter, on_progress=progress)

        filled, unseen = backing_off(work)
        result = to_output(filled)
        progress.finish(with_largest_hole(result, masks))
        holes = grow(check_masks(masks, *frames.shape[:3]), config.grow_pixels)
        changed = int(differ(filled.numpy(), frames.numpy())[~holes.numpy()].sum())
        how = "texture" if config.unseen == "texture" else "a smooth fill"
        if model is not None and config.unseen == "smooth":
            how = "painted by the networks"
        text = summary(int(holes.sum()), int(unseen.sum()), how, changed)
        Line()(text, at_once=True)
        return io.NodeOutput(result, text)


def summary(hole_pixels: int, unseen_pixels: int, how: str, changed_outside: int | None) -> str:
    """What was done, in one or two sentences.

    Args:
        hole_pixels: in all frames.
        unseen_pixels: of these, what no other frame showed.
        how: what became of those.
        changed_outside: pixels outside the mask that differ from the source; None: not compared.
    """
    if not hole_pixels:
        return "The mask is empty, so all frames are copies of the source."
    share = unseen_pixels / hole_pixels
    text = f"{1 - share:.1%} of the hole from other frames"
    if unseen_pixels:
        text += f"; {share:.1%} was seen in none and is {how}"
    if changed_outside is not None:
        text += f"; {changed_outside} pixels changed outside the mask"
    text += "."
    if share > MUCH_UNSEEN:
        text += (
            " For more than that: a larger reach, one frame painted by hand (Propagate Known "
            "Pixels, painted), or another inpainter on what it leaves as remaining."
        )
    return text
