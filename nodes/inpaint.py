"""Inpaint and Inpaint Video: all stages in one node."""

from __future__ import annotations

import dataclasses
import json
import secrets
from fractions import Fraction
from pathlib import Path

import folder_paths
import torch
from comfy_api.latest import Input, InputImpl, io, ui
from torch import Tensor

from combcn_core import InpaintConfig, Report, inpaint, inpaint_file
from combcn_core.video import ClipInfo, open_reader, open_writer

from .folders import free_path
from .memory import SEGMENT_FRAMES, LoadedModel, backing_off, ready
from .progress import Progress
from .sockets import Model, to_images, to_masks, to_output, to_pictures

MASTERS = {"none": None, "FFV1 (.mkv)": ".mkv", "ProRes (.mov)": ".mov"}


def _settings() -> list[io.Input]:
    """What both nodes ask for, in InpaintConfig's terms."""
    return [
        Model.Input(
            "model",
            optional=True,
            tooltip="Networks for what no other frame shows. Without them it is filled smoothly.",
        ),
        io.Int.Input(
            "grow_pixels",
            default=0,
            min=0,
            max=256,
            tooltip="Grow the mask by so many pixels first, to cover soft edges.",
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
        ),
        io.Int.Input(
            "feather_pixels",
            default=0,
            min=0,
            max=256,
            tooltip="Blend into the source over so many pixels inside the mask's edge. For masks "
            "wider than the object.",
        ),
        io.Boolean.Input(
            "match_grain",
            default=True,
            tooltip="Give what was filled the grain of its surroundings.",
        ),
    ]


class Inpaint(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CombCN_Inpaint",
            display_name="CombCN Inpaint",
            category="CombCN",
            description="Remove what the mask covers from a clip: propagation, networks, grain, in "
            "one node. Outside the mask no pixel changes.",
            inputs=[
                io.Image.Input("images", tooltip="The frames of the video, in order."),
                io.Mask.Input(
                    "mask", tooltip="1 on what is to be removed: one mask, or one per frame."
                ),
                *_settings(),
            ],
            outputs=[io.Image.Output(display_name="images", tooltip="The finished frames.")],
        )

    @classmethod
    def execute(
        cls,
        images: Tensor,
        mask: Tensor,
        grow_pixels: int,
        propagate: bool,
        reach: int,
        feather_pixels: int,
        match_grain: bool,
        model: LoadedModel | None = None,
    ) -> io.NodeOutput:
        frames = to_images(images)
        masks = to_masks(mask, frames)
        config = InpaintConfig(
            grow_pixels=grow_pixels,
            propagate=propagate,
            reach=reach,
            feather_pixels=feather_pixels,
            match_grain=match_grain,
        )

        progress = Progress()

        def attempt(segment_frames: int) -> Tensor:
            network = None if model is None else ready(model, frames, segment_frames)
            shorter = dataclasses.replace(config, segment_frames=segment_frames)
            return inpaint(frames, masks, network, shorter, tell=progress)

        result = backing_off(attempt, SEGMENT_FRAMES, "frames per segment")
        return io.NodeOutput(to_output(result))


class InpaintVideo(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CombCN_InpaintVideo",
            display_name="CombCN Inpaint Video",
            category="CombCN",
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
                *_settings(),
                io.Boolean.Input(
                    "resize_mask",
                    default=False,
                    tooltip="Resize a mask of another size than the video.",
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
                ),
            ],
            outputs=[
                io.Video.Output(
                    display_name="video", tooltip="H.264 in mp4, with the sound of the source."
                ),
                io.String.Output(display_name="report", tooltip="What was done, as JSON."),
            ],
        )

    @classmethod
    def execute(
        cls,
        video: Input.Video,
        grow_pixels: int,
        propagate: bool,
        reach: int,
        feather_pixels: int,
        match_grain: bool,
        resize_mask: bool,
        master: str,
        filename_prefix: str,
        mask: Tensor | None = None,
        mask_video: Input.Video | None = None,
        model: LoadedModel | None = None,
    ) -> io.NodeOutput:
        if (mask is None) == (mask_video is None):
            given = "neither mask nor mask_video" if mask is None else "both mask and mask_video"
            raise ValueError(f"{given} is connected; connect one of them.")
        config = InpaintConfig(
            grow_pixels=grow_pixels,
            propagate=propagate,
            reach=reach,
            feather_pixels=feather_pixels,
            match_grain=match_grain,
        )
        with _Scratch() as scratch:
            source = scratch.video(video)
            masks = scratch.masks(mask) if mask_video is None else scratch.video(mask_video)
            info = open_reader(source).info
            ending = MASTERS[master]
            result = scratch.result(".mp4")
            first = result
            if ending is not None:
                output = folder_paths.get_output_directory()
                first = free_path(filename_prefix, output, ending)
            progress = Progress()

            def attempt(segment_frames: int) -> Report:
                network = None
                if model is not None:
                    size = torch.empty(1, info.height, info.width, 3, device="meta")
                    network = ready(model, size, segment_frames)
                return inpaint_file(
                    source,
                    masks,
                    first,
                    config=dataclasses.replace(config, segment_frames=segment_frames),
                    model=network,
                    fit_mask=resize_mask,
                    tell=progress,
                )

            report = backing_off(attempt, SEGMENT_FRAMES, "frames per segment")
            if first != result:
                _encode(first, info, result)
        text = json.dumps(dataclasses.asdict(report), indent=2)
        shown = ui.SavedResult(result.name, "", io.FolderType.temp)
        return io.NodeOutput(
            InputImpl.VideoFromFile(str(result)), text, ui=ui.PreviewVideo([shown])
        )


def _encode(master: Path, info: ClipInfo, output: Path) -> None:
    with open_writer(output, info) as writer, open_reader(master) as reader:
        for frame in reader:
            writer.write(frame.pixels)


class _Scratch:
    """Files in ComfyUI's temp folder; all but the result go when the node is done."""

    def __init__(self) -> None:
        self._folder = Path(folder_paths.get_temp_directory())
        self._folder.mkdir(parents=True, exist_ok=True)
        self._files: list[Path] = []

    def __enter__(self) -> _Scratch:
        return self

    def __exit__(self, *error: object) -> None:
        for file in self._files:
            file.unlink(missing_ok=True)

    def result(self, ending: str) -> Path:
        return self._folder / f"combcn_{secrets.token_hex(8)}{ending}"

    def _file(self, ending: str) -> Path:
        self._files.append(self.result(ending))
        return self._files[-1]

    def video(self, video: Input.Video) -> Path:
        """The file of a VIDEO; one is written where there is none."""
        if isinstance(video, InputImpl.VideoFromComponents):
            return self._frames(video)
        source = video.get_stream_source()
        if isinstance(source, str):
            return Path(source)
        path = self._file(".mp4")
        path.write_bytes(source.getbuffer())
        return path

    def _frames(self, video: Input.Video) -> Path:
        """Frames that are in memory: lossless, since ComfyUI's own file of them would not be."""
        components = video.get_components()
        frames = to_images(components.images, "video")
        info = ClipInfo(frames.shape[2], frames.shape[1], Fraction(components.frame_rate))
        if components.audio:
            sound = self._file(".mp4")
            video.save_to(str(sound))
            info = dataclasses.replace(info, path=sound, has_sound=True)
        path = self._file(".mkv")
        with open_writer(path, info) as writer:
            for frame in frames:
                writer.write(to_pictures(frame)[0])
        return path

    def masks(self, mask: Tensor) -> Path:
        """A MASK as a lossless video, or as a picture where there is one for all frames."""
        holes = mask.reshape(-1, *mask.shape[-2:]) >= 0.5
        info = ClipInfo(holes.shape[2], holes.shape[1], Fraction(25))
        path = self._file(".mkv")
        with open_writer(path, info) as writer:
            for hole in holes:
                writer.write(to_pictures(hole[..., None].expand(-1, -1, 3).float())[0])
        return path
