"""Nodes of the tests: any tensor into a graph, and any tensor out of it, bit for bit."""

import sys
from pathlib import Path

import folder_paths
import numpy as np
import torch
from comfy_api.latest import ComfyExtension, InputImpl, io


def read(name: str) -> torch.Tensor:
    return torch.from_numpy(np.load(Path(folder_paths.get_input_directory()) / f"{name}.npy"))


class LoadImages(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="Probe_LoadImages",
            inputs=[io.String.Input("name")],
            outputs=[io.Image.Output()],
        )

    @classmethod
    def execute(cls, name):
        return io.NodeOutput(read(name))


class LoadMask(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="Probe_LoadMask", inputs=[io.String.Input("name")], outputs=[io.Mask.Output()]
        )

    @classmethod
    def execute(cls, name):
        return io.NodeOutput(read(name))


class Save(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="Probe_Save",
            inputs=[
                io.MultiType.Input("value", types=[io.Image, io.Mask]),
                io.String.Input("name"),
            ],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, value, name):
        np.save(Path(folder_paths.get_output_directory()) / f"{name}.npy", value.cpu().numpy())
        return io.NodeOutput()


class Trimmed(InputImpl.VideoFromFile):
    """A part of a file, as versions of ComfyUI newer than the one of these tests have it."""

    def __init__(self, path, start_seconds, duration_seconds):
        super().__init__(path)
        self.window = start_seconds, duration_seconds

    def get_active_trim_window(self):
        return self.window


class TrimVideo(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="Probe_TrimVideo",
            inputs=[
                io.Video.Input("video"),
                io.Float.Input("start_seconds"),
                io.Float.Input("duration_seconds"),
            ],
            outputs=[io.Video.Output()],
        )

    @classmethod
    def execute(cls, video, start_seconds, duration_seconds):
        return io.NodeOutput(Trimmed(video.get_stream_source(), start_seconds, duration_seconds))


class RunOut(io.ComfyNode):
    """Work that needs more memory than there is, until it is given less to do."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="Probe_RunOut",
            inputs=[io.Int.Input("fits"), io.String.Input("message")],
            outputs=[io.Mask.Output()],
        )

    @classmethod
    def execute(cls, fits, message):
        memory = next(m for name, m in sys.modules.items() if name.endswith(".nodes.memory"))
        tried = []

        def work(attempt):
            tried.append((attempt.segment_frames, attempt.share))
            if attempt.segment_frames > fits:
                if message:
                    raise RuntimeError(message)
                torch.empty(2**60)  # bytes times four
            return torch.tensor([tried])

        return io.NodeOutput(memory.backing_off(work))


class Probe(ComfyExtension):
    async def get_node_list(self):
        return [LoadImages, LoadMask, RunOut, Save, TrimVideo]


async def comfy_entrypoint():
    return Probe()
