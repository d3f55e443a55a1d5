"""Inpaint Video: a file in, a file out, and never more than a segment in memory."""

import dataclasses
import json
from functools import partial
from pathlib import Path
from typing import Any

import folder_paths
import torch
from comfy_api.latest import Input, InputImpl, io, ui
from torch import Tensor

from combcn_core import InpaintConfig, Report, inpaint_file
from combcn_core.clips.video import ClipInfo, open_reader, open_writer
from combcn_core.progress import Progress

from .folders import free_path, within
from .inpaint import settings, summary, unseen
from .links import check_links, refusal
from .memory import Attempt, LoadedModel, backing_off
from .progress import Line, NodeProgress
from .schema import REMOVAL, known
from .scratch import Scratch
from .sockets import to_masks

MASTERS = {"none": None, "FFV1 (.mkv)": ".mkv", "ProRes (.mov)": ".mov"}
FLIPPED = (
    "The video's tag turns its frames by a half, or mirrors them, as it is shown: if the mask was "
    "made from frames that are not, as older versions of ComfyUI give them, it covered the wrong "
    "place; turn it the same way."
)


class InpaintVideo(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CombCN_InpaintVideo",
            display_name="CombCN Inpaint Video",
            category="CombCN",
            **known(io.Schema, search_aliases=REMOVAL, essentials_category="Video Tools"),
            description="Remove what the mask covers from a video of any length. It is read and "
            "written as a stream, so memory does not grow with it; sound and rate are kept.",
            inputs=[
                io.Video.Input("video", tooltip="The video, such as from Load Video."),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="1 on what is to be removed: one mask for all frames, or one per "
                    "frame. Either this or mask_video.",
                ),
                io.Video.Input(
                    "mask_video",
                    optional=True,
                    tooltip="For long videos: a video that is white on what is to be removed.",
                ),
                *settings(),
                io.Boolean.Input(
                    "resize_mask",
                    default=False,
                    tooltip="Resize a mask of another size than the video.",
                    **known(io.Boolean.Input, advanced=True),
                ),
                io.Combo.Input(
                    "master",
                    options=list(MASTERS),
                    default="none",
                    tooltip="Also write the result for grading into the output folder: FFV1 is "
                    "lossless, ProRes 422 HQ nearly so.",
                ),
                io.String.Input(
                    "filename_prefix",
                    default="video/CombCN_master",
                    tooltip="Name of the master in the output folder; a number follows it.",
                    **known(io.String.Input, advanced=True),
                ),
                unseen(),
            ],
            outputs=[
                io.Video.Output(
                    display_name="video", tooltip="H.264 in mp4, with the sound of the source."
                ),
                io.String.Output(display_name="report", tooltip="What was done, as JSON."),
                io.String.Output(
                    display_name="summary",
                    tooltip="How much of the hole other frames showed, how much is made up, and "
                    "what helps where that is much.",
                ),
            ],
        )

    @classmethod
    def validate_inputs(
        cls, input_types: dict[str, str], filename_prefix: str | None
    ) -> bool | str:
        inside = partial(within, folder_paths.get_output_directory())
        refused = refusal(inside, filename_prefix)
        return refused or check_links(cls, input_types, ("mask", "mask_video"))

    @classmethod
    def execute(
        cls,
        video: Input.Video,
        resize_mask: bool,
        master: str,
        filename_prefix: str,
        mask: Tensor | None = None,
        mask_video: Input.Video | None = None,
        model: LoadedModel | None = None,
        **settings: Any,
    ) -> io.NodeOutput:
        config, progress = InpaintConfig(**settings), NodeProgress(preview_seconds=None)
        line, stages = Line(), set[str]()

        def on_progress(now: Progress) -> None:
            text = f"{now.stage}, {now.frames} of {now.num_frames} frames written"
            if now.num_frames:
                line(text, at_once=now.stage not in stages)
                stages.add(now.stage)
            progress(now.share)

        ending = MASTERS[master]
        with Scratch() as scratch:
            source, frames = scratch.part_of(video)
            info = open_reader(source, frames=frames).info
            size = torch.empty(1, info.height, info.width, 3, device="meta")
            if mask_video is None:
                masks = scratch.write_masks(to_masks(mask, size))
            else:
                masks = scratch.trimmed_file_of(mask_video)
            result = scratch.keep(".mp4")
            output = result
            if ending is not None:
                output = free_path(filename_prefix, folder_paths.get_output_directory(), ending)

            def work(attempt: Attempt) -> Report:
                return inpaint_file(
                    source,
                    masks,
                    output,
                    config=attempt.shorten(config),
                    model=None if model is None else attempt.ready(model, info.height, info.width),
                    frames=frames,
                    fit_mask=resize_mask,
                    progress=on_progress,
                )

            report = backing_off(work)
            if output != result:
                _encode(output, info, result, progress)
        told = dataclasses.asdict(report)
        del told["settings"]  # names of files that are gone
        shown = ui.PreviewVideo([ui.SavedResult(result.name, "", io.FolderType.temp)])
        video = InputImpl.VideoFromFile(str(result))
        unseen = report.filled_pixels + report.network_pixels
        how = "texture" if report.synthesized_pixels else "a smooth fill"
        if report.network_pixels and not report.synthesized_pixels:
            how = "painted by the networks"
        text = summary(report.hole_pixels, unseen, how, report.changed_outside_mask)
        if mask_video is None and info.is_flipped:
            text += " " + FLIPPED
        line(text, at_once=True)
        return io.NodeOutput(video, json.dumps(told, indent=2), text, ui=shown)


def _encode(master: Path, info: ClipInfo, output: Path, progress: NodeProgress) -> None:
    """Write the master again, as ComfyUI and browsers play it."""
    with open_writer(output, info) as writer, open_reader(master) as reader:
        for frame in reader:
            writer.write(frame.pixels)
            progress(1)  # only so that it can be stopped
