"""Evaluate and Compare: numbers and pictures."""

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from comfy_api.latest import io, ui
from numpy.typing import NDArray
from torch import Tensor

from combcn_core.clips.pictures import outline_mask, side_by_side, wipe, xt_slice
from combcn_core.masks import bounding_box
from combcn_core.measure import metrics
from combcn_core.progress import OnShare, part_of

from .previews import preview_video
from .progress import NodeProgress
from .schema import found_by
from .sockets import from_pictures, to_holes, to_images, to_pictures

MAX_RESULTS = 4
LINE_SHARE = 0.12  # of a panel: labels are read in a small node
PLAYER_SHARE = 8  # of the width of a video: the height of a browser's buttons
MEASURES: Mapping[str, Callable[[Tensor, Tensor, Tensor], float]] = {
    "hole l1": metrics.l1,
    "hole PSNR": metrics.hole_psnr,
    "PSNR": metrics.psnr,
    "SSIM": metrics.ssim,
    "flicker": metrics.flicker,
}


def _results() -> list[io.Input]:
    """Sockets of the clips that are held against each other."""
    return [
        io.Image.Input(
            f"images_{number}",
            optional=number > 1,
            tooltip=f"Clip {number} to look at, of the size and length of the others.",
        )
        for number in range(1, MAX_RESULTS + 1)
    ]


class Evaluate(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CombCN_Evaluate",
            display_name="CombCN Evaluate",
            category="CombCN",
            **found_by(io.Schema, "PSNR, SSIM, metrics, flicker"),
            description="Measure results against the truth: error, PSNR and flicker in the hole, "
            "PSNR and SSIM of whole frames.",
            inputs=[
                io.Image.Input("truth", tooltip="The frames as they should be."),
                io.Mask.Input("mask", tooltip="1 inside the hole: one mask, or one per frame."),
                *_results(),
                io.String.Input(
                    "names",
                    default="result 1, result 2, result 3, result 4",
                    tooltip="Names of the results, with commas between them.",
                ),
            ],
            outputs=[
                io.String.Output(
                    display_name="table", tooltip="One line for each result, in Markdown."
                ),
                io.Image.Output(
                    display_name="picture", tooltip="The frame with the largest hole, and figures."
                ),
            ],
            is_output_node=True,
        )

    @classmethod
    def execute(
        cls, truth: Tensor, mask: Tensor, names: str, **images: Tensor | None
    ) -> io.NodeOutput:
        target = to_images(truth, "truth")
        holes = to_holes(mask, target)
        rows, panels = [], {}
        busiest = int(holes.flatten(1).sum(1).argmax())
        progress, results = NodeProgress(preview_seconds=None), _named(images, names, target)
        for number, (name, result) in enumerate(results.items()):
            part = part_of(progress, number / len(results), (number + 1) / len(results))
            figures = [_figure(value) for value in _measure(result, target, holes, part)]
            rows.append([name, *figures])
            l1, hole, whole, similarity, flicker = figures
            label = (
                name,
                f"hole: l1 {l1}, PSNR {hole} dB",
                f"flicker in the hole {flicker}",
                f"frame: PSNR {whole} dB, SSIM {similarity}",
            )
            panels["\n".join(label)] = to_pictures(result[busiest])[0]
        exact = to_pictures(target[busiest])[0]
        panels["truth\nwith the hole's outline"] = outline_mask(exact, holes[busiest].numpy())
        columns = min(2, len(panels))  # so wide that the figures can be read
        page = side_by_side(
            list(panels.values()), list(panels), columns=columns, line_share=LINE_SHARE
        )
        picture = from_pictures(page)
        return io.NodeOutput(
            _table([["", *MEASURES], *rows]), picture, ui=ui.PreviewImage(picture, cls=cls)
        )


def _measure(
    result: Tensor, target: Tensor, holes: Tensor, on_progress: OnShare | None
) -> list[float]:
    figures = []
    for number, (name, measure) in enumerate(MEASURES.items(), 1):
        too_small = name == "SSIM" and min(target.shape[1:3]) < metrics.SSIM_WINDOW
        figures.append(math.nan if too_small else measure(result, target, holes))
        if on_progress is not None:
            on_progress(number / len(MEASURES), None)
    return figures


def _figure(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3f}"


def _table(rows: list[list[str]]) -> str:
    """In Markdown, which Preview Any draws, and which reads well where it is not drawn."""
    names, *figures = zip(*rows, strict=True)
    columns = [_aligned(names, str.ljust), *(_aligned(column, str.rjust) for column in figures)]
    header, *body = ("| " + " | ".join(cells) + " |" for cells in zip(*columns, strict=True))
    rule = "|" + "|".join(f"{'-' * (len(column[0]) + 1)}:" for column in columns) + "|"
    return "\n".join([header, rule, *body])


def _aligned(cells: Sequence[str], side: Callable[[str, int], str]) -> list[str]:
    width = max(map(len, cells))
    return [side(cell, width) for cell in cells]


class Compare(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CombCN_Compare",
            display_name="CombCN Compare",
            category="CombCN",
            **found_by(io.Schema, "before and after, side by side, wipe, compare videos"),
            description="Play clips side by side and wipe from the first to the last, and cut "
            "through their time: in the x-t slice, one row of every frame under the other, flicker "
            "shows as stripes.",
            inputs=[
                *_results(),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="The slice goes through the middle of this hole.",
                ),
                io.String.Input(
                    "names",
                    default="clip 1, clip 2, clip 3, clip 4",
                    tooltip="Names of the clips, with commas between them.",
                ),
                io.Float.Input(
                    "height",
                    default=0.5,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Without a mask: where the slice is, from 0 at the top to 1.",
                ),
            ],
            outputs=[
                io.Image.Output(
                    display_name="side_by_side", tooltip="Every frame, the clips beside each other."
                ),
                io.Image.Output(display_name="slices", tooltip="The x-t slices, in one picture."),
                io.Image.Output(
                    display_name="wipe",
                    tooltip="Every frame: the first clip and the last, with a line between them "
                    "that goes to and fro.",
                ),
            ],
            is_output_node=True,
        )

    @classmethod
    def execute(
        cls, names: str, height: float, mask: Tensor | None = None, **images: Tensor | None
    ) -> io.NodeOutput:
        clips = _named(images, names)
        first = next(iter(clips.values()))
        row = min(int(height * first.shape[1]), first.shape[1] - 1)
        if mask is not None:
            box = bounding_box(to_holes(mask, first))
            row = row if box is None else (box.top + box.bottom) // 2
        labels, pictures = list(clips), [to_pictures(clip) for clip in clips.values()]
        frames, wiped, shown = [], [], []
        progress = NodeProgress(preview_seconds=None)
        for number, panels in enumerate(zip(*pictures, strict=True)):
            frames.append(side_by_side(panels, labels, line_share=LINE_SHARE))
            share = 0.5 - 0.5 * math.cos(2 * math.pi * number / len(first))
            wiped.append(wipe(panels[0], panels[-1], share))
            both = [*panels, wiped[-1]], [*labels, f"{labels[0]} | {labels[-1]}"]
            several = len(panels) > 1
            page = side_by_side(*both, line_share=LINE_SHARE) if several else frames[-1]
            shown.append(_above_the_player(page))
            progress((number + 1) / len(first))
        slices = from_pictures(
            side_by_side([_stretched(xt_slice(clip, row)) for clip in pictures], labels)
        )
        return io.NodeOutput(
            from_pictures(_even(np.stack(frames))),
            slices,
            from_pictures(_even(np.stack(wiped))),
            ui=preview_video(shown),
        )


def _even(frames: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Save Video wants even sides: the last row or column is repeated where one is odd."""
    height, width = frames.shape[1:3]
    return np.pad(frames, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), mode="edge")


def _above_the_player(page: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """With room below, where browsers lay their buttons over a video."""
    return np.pad(page, ((0, page.shape[1] // PLAYER_SHARE), (0, 0), (0, 0)), mode="edge")


def _stretched(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A slice of a short clip is a thin strip; every frame of it becomes several rows."""
    height, width = picture.shape[:2]
    return picture.repeat(max(1, width // 2 // height), axis=0)


def _named(
    images: dict[str, Tensor | None], names: str, target: Tensor | None = None
) -> dict[str, Tensor]:
    """The connected clips by name.

    Raises:
        ValueError: they differ in size or length.
    """
    given = [name.strip() for name in names.split(",")]
    clips: dict[str, Tensor] = {}
    for number in range(1, MAX_RESULTS + 1):
        image = images.get(f"images_{number}")
        if image is None:
            continue
        clip = to_images(image, f"images_{number}")
        target = clip if target is None else target
        if clip.shape != target.shape:
            raise ValueError(
                f"images_{number} has shape {tuple(clip.shape)} but the others have "
                f"{tuple(target.shape)}; connect clips of one size and length."
            )
        name = given[number - 1] if number <= len(given) else ""
        name = name or f"clip {number}"
        clips[name if name not in clips else f"{name} ({number})"] = clip
    return clips
