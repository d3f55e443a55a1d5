"""Where files are: models in models/combcn and extra_model_paths.yaml, the rest where ComfyUI says.

Names come from workflows, which strangers share: no name leads out of these folders.
"""

import contextlib
import ntpath
import os
from pathlib import Path

import folder_paths

from combcn_core.networks.checkpoint import WEIGHTS_FOLDER

FOLDER_NAME = "combcn"
ENDING = ".safetensors"
DEFAULT = "default"  # comes with CombCN


def register_models() -> None:
    """Make models/combcn known to ComfyUI, beside the folders of extra_model_paths.yaml."""
    own = os.path.join(folder_paths.models_dir, FOLDER_NAME)
    with contextlib.suppress(OSError):  # then it is made when something is saved there, or not
        os.makedirs(own, exist_ok=True)  # for users to find it
    folder_paths.add_model_folder_path(FOLDER_NAME, own)
    paths, endings = folder_paths.folder_names_and_paths[FOLDER_NAME]
    # Without an ending every file would be listed.
    folder_paths.folder_names_and_paths[FOLDER_NAME] = (paths, {*endings, ENDING})


def model_names() -> list[str]:
    """What Load Model offers: the weights that come with CombCN first, then the user's own."""
    names = [DEFAULT] if (WEIGHTS_FOLDER / f"{DEFAULT}{ENDING}").is_file() else []
    return names + folder_paths.get_filename_list(FOLDER_NAME)


def model_path(name: str) -> str:
    """The file of a name that `model_names` lists.

    Raises:
        ValueError: it does not, or not any more.
    """
    if name == DEFAULT and name in model_names():
        return str(WEIGHTS_FOLDER / f"{DEFAULT}{ENDING}")
    path = folder_paths.get_full_path(FOLDER_NAME, name)
    if path is None or name not in model_names():
        known = ", ".join(model_names())
        advice = f"choose one of {known}" if known else missing_models()
        raise ValueError(f"there are no weights called {name!r}; {advice}.")
    return path


def missing_models() -> str:
    """What to do where there is no model at all."""
    return (
        "train a model with CombCN Joint Trainer, or put a .safetensors file of CombCN into "
        "models/combcn and reload the page; the Inpaint nodes also work without a model"
    )


def footage_folders() -> list[str]:
    """What Joint Trainer offers: the folders in ComfyUI's input folder, links to others too."""
    folder = Path(folder_paths.get_input_directory())
    if not folder.is_dir():
        return []
    return sorted(
        path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")
    )


def footage_path(name: str) -> Path:
    """The folder of a name that `footage_folders` lists.

    ComfyUI compares with the list only what was chosen, not what comes from another node.

    Raises:
        ValueError: it does not, or not any more.
    """
    if name not in footage_folders():
        known = ", ".join(footage_folders()) or "none yet"
        raise ValueError(
            f"there is no folder {name!r} in ComfyUI's input folder; choose one of: {known}."
        )
    return Path(folder_paths.get_input_directory()) / name


def within(folder: str, name: str) -> Path:
    """A file to be written in a folder or below it; names are the same on every system.

    Raises:
        ValueError: the name leads out of the folder, by itself or by a link in it.
    """
    root = os.path.realpath(folder)
    is_odd = "\\" in name or "\0" in name or ntpath.splitdrive(name)[0] or ".." in name.split("/")
    if is_odd or not _leads_into(root, os.path.realpath(os.path.join(root, name))):
        raise ValueError(
            f"{name!r} leads out of {folder}; give a name, with folders below it if you like and "
            "/ between them."
        )
    return Path(os.path.abspath(folder), name)


def _leads_into(root: str, path: str) -> bool:
    return path != root and path.startswith(os.path.join(root, ""))


def free_path(prefix: str, folder: str, ending: str) -> Path:
    """The next free name prefix_00001_ in a folder, in ComfyUI's manner; folders are made.

    Args:
        prefix: may name folders below, and hold %date% and the like.
        folder: the result is in it.
        ending: with its dot.

    Raises:
        ValueError: the prefix leads out of the folder.
    """
    within(folder, prefix)
    place, name, counter, _, _ = folder_paths.get_save_image_path(prefix, folder)
    return Path(place) / f"{name}_{counter:05}_{ending}"
