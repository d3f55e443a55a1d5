"""Sample Clip."""

import torch
from comfy_api.latest import io

from combcn_core.demo import FPS, load_demo

from .schema import found_by
from .sockets import from_pictures, to_output

MAX_FRAMES = 24
HEIGHT, MAX_HEIGHT = 216, 270  # pixels


class SampleClip(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CombCN_SampleClip",
            display_name="CombCN Sample Clip",
            category="CombCN",
            **found_by(io.Schema, "demo clip, test video, example footage"),
            description="A small clip of a van that drives through a village, the mask of the van, "
            "and the truth: the same clip without it.",
            inputs=[
                io.Int.Input(
                    "frames",
                    default=16,
                    min=1,
                    max=MAX_FRAMES,
                    tooltip="Length of the clip. The van crosses the picture once.",
                ),
                io.Int.Input(
                    "height",
                    default=HEIGHT,
                    min=54,
                    max=MAX_HEIGHT,
                    step=2,
                    tooltip="Of the frames, in pixels. They are 16:9.",
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=0xFFFFFFFF,
                    tooltip="Another number gives other film grain.",
                ),
            ],
            outputs=[
                io.Image.Output(display_name="images", tooltip="The frames, with the van."),
                io.Mask.Output(display_name="mask", tooltip="1 on the van and its shadow."),
                io.Image.Output(display_name="truth", tooltip="The frames without the van."),
                io.Audio.Output(display_name="audio", tooltip="Sound as long as the frames."),
                io.Float.Output(display_name="fps", tooltip="Frames per second: 24."),
            ],
        )

    @classmethod
    def execute(cls, frames: int, height: int, seed: int) -> io.NodeOutput:
        clip = load_demo(frames, height, seed)
        sound = torch.from_numpy(clip.sound).T[None].contiguous()  # (1, channels, samples)
        return io.NodeOutput(
            from_pictures(clip.images),
            to_output(torch.from_numpy(clip.masks)),
            from_pictures(clip.truth),
            {"waveform": sound, "sample_rate": clip.sample_rate},
            float(FPS),
        )
