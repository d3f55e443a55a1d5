"""Nodes of the tests: any tensor into a graph, and any tensor out of it, bit for bit."""

from pathlib import Path

import folder_paths
import numpy as np
import torch
from comfy_api.latest import ComfyExtension, io


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


class Probe(ComfyExtension):
    async def get_node_list(self):
        return [LoadImages, LoadMask, Save]


async def comfy_entrypoint():
    return Probe()
