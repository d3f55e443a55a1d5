"""Load Model and Save Model."""

import json
import os
from functools import partial
from typing import get_args

import folder_paths
from comfy_api.latest import io

from combcn_core import load_model, read_model_info, save_model
from combcn_core.networks.inference import Precision

from . import folders
from .links import refusal
from .memory import LoadedModel, hold
from .schema import found_by
from .sockets import Model

NO_MODELS = "(no models found)"


class LoadModel(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CombCN_LoadModel",
            display_name="CombCN Load Model",
            category="CombCN",
            **found_by(io.Schema, "load weights, checkpoint"),
            description="Load the weights of both networks.",
            inputs=[
                io.Combo.Input(
                    "name",
                    options=folders.model_names() or [NO_MODELS],
                    tooltip="default comes with CombCN; the others are in models/combcn.",
                ),
                io.Combo.Input(
                    "precision",
                    options=list(get_args(Precision)),
                    default="auto",
                    tooltip="Arithmetic of the networks. auto: half precision where the device is "
                    "made for it.",
                ),
            ],
            outputs=[
                Model.Output(display_name="model", tooltip="Both networks."),
                io.String.Output(
                    display_name="info", tooltip="What the checkpoint says about itself."
                ),
            ],
        )

    @classmethod
    def validate_inputs(cls, name: str | None) -> bool | str:
        # Naming it here replaces ComfyUI's "value not in list".
        return refusal(_path, name) or True

    @classmethod
    def fingerprint_inputs(cls, name: str, **kwargs: object) -> tuple[str, float]:
        path = _path(name)
        return path, os.path.getmtime(path)

    @classmethod
    def execute(cls, name: str, precision: Precision) -> io.NodeOutput:
        path = _path(name)
        info = read_model_info(path)
        described = {"config": info.config.to_dict(), "facts": info.facts}
        model = hold(load_model(path), info.facts, precision)
        return io.NodeOutput(model, json.dumps(described, indent=2))


def _path(name: str) -> str:
    if name == NO_MODELS:
        raise ValueError(f"there are no weights yet; {folders.missing_models()}.")
    return folders.model_path(name)


class SaveModel(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CombCN_SaveModel",
            display_name="CombCN Save Model",
            category="CombCN",
            **found_by(io.Schema, "save weights, checkpoint"),
            description="Write a model into models/combcn, where Load Model finds it.",
            inputs=[
                Model.Input("model", tooltip="From Load Model or Joint Trainer."),
                io.String.Input(
                    "filename_prefix",
                    default="combcn",
                    tooltip="Name of the file in models/combcn; a number follows it, so nothing "
                    "is overwritten.",
                ),
            ],
            outputs=[
                io.String.Output(
                    display_name="name", tooltip="The name under which Load Model lists it."
                )
            ],
            is_output_node=True,
        )

    @classmethod
    def validate_inputs(cls, filename_prefix: str | None) -> bool | str:
        folder = folder_paths.get_folder_paths(folders.FOLDER_NAME)[0]
        return refusal(partial(folders.within, folder), filename_prefix) or True

    @classmethod
    def execute(cls, model: LoadedModel, filename_prefix: str) -> io.NodeOutput:
        folder = folder_paths.get_folder_paths(folders.FOLDER_NAME)[0]
        path = folders.free_path(filename_prefix, folder, folders.ENDING)
        save_model(path, model.model, facts=model.facts)
        return io.NodeOutput(os.path.relpath(path, folder))
