"""What newer versions of ComfyUI take in a schema, left out where older ones would refuse it."""

import inspect
from collections.abc import Callable
from typing import Any

# What people type who look for one of these nodes.
REMOVAL = [
    "remove object", "object removal", "video inpainting", "inpaint video", "erase", "clean plate",
    "wire removal", "rotopaint", "logo removal", "fill", "CombCN",
]  # fmt: skip


def known(make: Callable[..., Any], **fields: Any) -> dict[str, Any]:
    """Those of the fields that `make`, a schema or an input, takes in this version of ComfyUI."""
    parameters = inspect.signature(make).parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return fields
    return {name: value for name, value in fields.items() if name in parameters}


def found_by(make: Callable[..., Any], words: str) -> dict[str, Any]:
    """What people type who look for a node, with commas between; for `make` as in `known`."""
    return known(make, search_aliases=[*words.split(", "), "CombCN"])
