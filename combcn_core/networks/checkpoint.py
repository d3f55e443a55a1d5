"""Save and load models: safetensors with the configuration and the training facts, never pickle."""

import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from combcn_core.atomic import write_bytes
from combcn_core.networks import WEIGHTS_FOLDER
from combcn_core.networks.config import NetworkConfig
from combcn_core.networks.layers import CombCN

FORMAT_VERSION = 1

# Keys of the safetensors metadata, whose values must be text: JSON, and a digest of all the rest.
# A flipped bit in a weight is a valid weight; only the digest tells.
_FACTS_KEY, _DIGEST_KEY = "combcn", "sha256"
_FLOAT_TYPES = (torch.float32, torch.float16, torch.bfloat16)


@dataclasses.dataclass(frozen=True)
class ModelInfo:
    """What a checkpoint says about itself.

    Attributes:
        config: what the networks are built from.
        facts: training steps, data and whatever else `save_model` was given.
        format_version: of the file's layout.
    """

    config: NetworkConfig
    facts: dict[str, Any]
    format_version: int


def save_model(path: str | Path, model: CombCN, *, facts: Mapping[str, Any]) -> None:
    """Write a checkpoint that appears under its name only when it is whole.

    Args:
        path: ends in .safetensors; an existing file is replaced, after all is written.
        model: on any device, in float32, float16 or bfloat16; not changed.
        facts: what JSON can hold, such as {"training_steps": 100_000, "data": {...}}.

    Raises:
        ValueError: path, model or facts cannot be saved; nothing was written.
        OSError: the disk refused; the file that was there before is still there.
    """
    path = Path(path)
    check_name(path)
    if not isinstance(model, CombCN):
        raise ValueError(
            f"model is a {type(model).__name__}, wanted a CombCN; pass the whole model"
        )
    if not isinstance(facts, Mapping):
        raise ValueError(f"facts are a {type(facts).__name__}; pass a dict")
    tensors = {name: value.cpu().contiguous() for name, value in model.state_dict().items()}
    try:
        _check_layout({name: tuple(value.shape) for name, value in tensors.items()}, model.config)
        _check_values(tensors)
    except ValueError as error:
        raise ValueError(f"this model cannot be saved: {error}") from None
    described = {
        "format_version": FORMAT_VERSION,
        "config": model.config.to_dict(),
        "facts": dict(facts),
    }
    try:
        text = json.dumps(described, allow_nan=False, sort_keys=True)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"facts cannot become JSON ({error}); pass text and finite numbers"
        ) from None
    save_tensors(path, tensors, text)


def check_name(path: Path) -> None:
    """Whether a checkpoint could be saved there; worth asking before hours of training.

    Raises:
        ValueError: another ending, or no such folder.
    """
    if path.suffix != ".safetensors":
        raise ValueError(f"{path} does not end in .safetensors; a checkpoint's name must")
    if not path.parent.is_dir():
        raise ValueError(f"{path.parent} is not a folder; create it before saving {path.name}")


def save_tensors(path: Path, tensors: Mapping[str, Tensor], text: str) -> None:
    """Write tensors and a text with a digest of both; whole or not at all.

    Raises:
        OSError: the disk refused; the file that was there before is still there.
    """
    metadata = {_FACTS_KEY: text, _DIGEST_KEY: digest_tensors(text, tensors)}
    content = safetensors.torch.save(dict(tensors), metadata)
    write_bytes(path, content, sync=True)


def load_tensors(path: Path) -> tuple[dict[str, Tensor], str]:
    """Read what `save_tensors` wrote.

    Raises:
        ValueError: it is not that, or damaged.
    """
    with _opened(path) as file:
        text = (file.metadata() or {}).get(_FACTS_KEY, "")
        tensors = {name: file.get_tensor(name).clone() for name in sorted(file.keys())}
        _check_digest(file, text, tensors)
    return tensors, text


def load_model(path_or_name: str | Path = "default", device: str | torch.device = "cpu") -> CombCN:
    """Read a checkpoint into a new model, in float32 and eval mode.

    The file is data only: nothing in it is executed, and no other model or random state changes.

    Args:
        path_or_name: a file, or the name of one that comes with CombCN. A text without folder and
            without the ending .safetensors is a name.
        device: where the model goes.

    Raises:
        ValueError: no such file, or it is not a whole and sound checkpoint of CombCN; the message
            says which and what to do.
    """
    path = _resolve(path_or_name)
    with _opened(path) as file:
        text, info = _read_metadata(file)
        names = sorted(file.keys())
        # Shapes first: a file that claims terabytes is refused before anything is read.
        _check_layout(
            {name: tuple(file.get_slice(name).get_shape()) for name in names}, info.config
        )
        # ComfyUI runs nodes under inference mode, whose tensors could never be trained. And copies:
        # some safetensors versions map the file, so that writing into it would change the weights.
        with torch.inference_mode(False):
            tensors = {name: file.get_tensor(name).clone() for name in names}
        _check_digest(file, text, tensors)
        _check_values(tensors)
    with torch.inference_mode(False):
        with torch.device("meta"):  # costs neither time nor random numbers
            model = CombCN(info.config)
        for name, value in tensors.items():
            tensors[name] = value.float() if value.is_floating_point() else value
        model.load_state_dict(tensors, assign=True)
        return model.to(device).eval()


def read_model_info(path_or_name: str | Path = "default") -> ModelInfo:
    """Read what a checkpoint says about itself, without its weights, which are not checked.

    Args:
        path_or_name: as in `load_model`.

    Raises:
        ValueError: as in `load_model`.
    """
    with _opened(_resolve(path_or_name)) as file:
        return _read_metadata(file)[1]


def _resolve(path_or_name: str | Path) -> Path:
    path = Path(path_or_name)
    is_name = path_or_name == path.name and path.suffix != ".safetensors"
    if is_name:
        path = WEIGHTS_FOLDER / f"{path_or_name}.safetensors"
    if path.is_file():
        return path
    if is_name:
        known = ", ".join(sorted(file.stem for file in WEIGHTS_FOLDER.glob("*.safetensors")))
        raise ValueError(
            f"no weights are called {path_or_name!r}; pass one of the names that come with CombCN "
            f"({known or 'none in this copy'}) or the path of a .safetensors file"
        )
    raise ValueError(f"there is no file {path}; pass the path of a .safetensors file, or a name")


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """Open a safetensors file; whatever is wrong with it becomes a ValueError that names it."""
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (SafetensorError, OSError) as error:
        raise ValueError(
            f"{path} cannot be read as safetensors ({error}); pass a file that save_model wrote, "
            "or copy it again if this was one"
        ) from None
    except ValueError as error:
        raise ValueError(f"{path} cannot be loaded: {error}") from None


def _read_metadata(file: Any) -> tuple[str, ModelInfo]:
    """The JSON text as it stands in the file, and what it says."""
    text = (file.metadata() or {}).get(_FACTS_KEY)
    if text is None:
        raise ValueError("it holds no CombCN model; pass a file that save_model wrote")
    try:
        described = json.loads(text)
    except (ValueError, RecursionError):
        described = None
    if not isinstance(described, dict) or type(described.get("format_version")) is not int:
        raise ValueError("its description is damaged; copy or download the file again")
    version = described["format_version"]
    if version > FORMAT_VERSION:
        raise ValueError(
            f"it has format version {version}, this CombCN reads up to {FORMAT_VERSION}; "
            "update CombCN"
        )
    config, facts = described.get("config"), described.get("facts")
    if version < 1 or not isinstance(config, dict) or not isinstance(facts, dict):
        raise ValueError("its description is incomplete; copy or download the file again")
    return text, ModelInfo(NetworkConfig.from_dict(config), facts, version)


def _check_layout(shapes: Mapping[str, tuple[int, ...]], config: NetworkConfig) -> None:
    with torch.device("meta"):
        wanted = {name: tuple(value.shape) for name, value in CombCN(config).state_dict().items()}
    advice = "it does not fit its network configuration; pass a file that save_model wrote"
    if missing := sorted(wanted.keys() - shapes.keys()):
        raise ValueError(f"{len(missing)} tensors are missing, such as {missing[0]}; {advice}")
    if extra := sorted(shapes.keys() - wanted.keys()):
        raise ValueError(f"{len(extra)} tensors are unknown, such as {extra[0]}; {advice}")
    for name, shape in wanted.items():
        if shapes[name] != shape:
            raise ValueError(f"{name} has shape {shapes[name]}, wanted {shape}; {advice}")


def _check_values(tensors: Mapping[str, Tensor]) -> None:
    for name, value in tensors.items():
        # BN counts its batches in an integer; all else is a floating number.
        wanted = (torch.int64,) if name.endswith(".num_batches_tracked") else _FLOAT_TYPES
        if value.dtype not in wanted:
            raise ValueError(f"{name} has type {value.dtype}, wanted {wanted[0]}; save it as that")
        if not value.isfinite().all():
            raise ValueError(
                f"{name} holds NaN or infinity; use a checkpoint from before training failed"
            )


def _check_digest(file: Any, text: str, tensors: Mapping[str, Tensor]) -> None:
    if digest_tensors(text, tensors) != (file.metadata() or {}).get(_DIGEST_KEY):
        raise ValueError("its content is not what was written; copy or download it again")


def digest_tensors(text: str, tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of a text, then of each tensor by name: name, type, shape and bytes."""
    digest = hashlib.sha256(text.encode())
    for name, value in sorted(tensors.items()):
        value = value.detach().cpu().contiguous()
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
