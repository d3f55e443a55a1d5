"""Work on a segment that is not finished, kept frame by frame: motion, sources, what they fill.

As segments are, it is found again by a hash of all that it depends on. It is written without
waiting for the disk, and what cannot be written or read is computed again.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from combcn_core.atomic import write_bytes
from combcn_core.fill.choose import SourceMap
from combcn_core.fill.keys import Key
from combcn_core.fill.motion import Motion
from combcn_core.fill.register import Scale
from combcn_core.pixels import Array, Box, PackedMask

_TYPES: dict[str, Any] = {
    kind.__name__: kind for kind in (Box, Key, Motion, PackedMask, Scale, SourceMap)
}


class WorkStore:
    """Keeps what a `Window` finds out about frames, a file each."""

    def __init__(self, folder: Path, context: str) -> None:
        """
        Args:
            folder: that exists.
            context: what all of it depends on beside frames.
        """
        self._folder = folder
        self._context = context
        self._digests: Mapping[int, bytes] = {}
        self._shot_start = 0
        self._paths: dict[tuple[str, int], Path] = {}
        self._written: set[Path] = set()
        self.found: set[int] = set()  # frames whose motion an interrupted run had found

    def show(self, digests: Mapping[int, bytes], shot_start: int) -> None:
        """Name the frames that are worked on: their `digest_frame`, and where their shot starts."""
        self._digests, self._shot_start = digests, shot_start

    def find(self, what: str, t: int, frames: range) -> Any:
        """What was kept of a frame; None if nothing was.

        Args:
            what: "motion", "key" or "fill".
            t: the frame.
            frames: those that it depends on, as far as they are shown.
        """
        path = self._path(what, t, frames)
        try:
            with safe_open(path, framework="numpy") as file:
                about = file.metadata() or {}
                arrays = [file.get_tensor(str(place)) for place in range(len(file.keys()))]
        except (SafetensorError, OSError):
            return None
        if _digest(about.get("value", ""), arrays) != about.get("sha256"):
            return None
        if what == "motion" and path not in self._written:
            self.found.add(t)
        return _unpack(json.loads(about["value"]), arrays)

    def keep(self, what: str, t: int, frames: range, value: Any) -> None:
        """Write what `find` is to give, if the disk lets it. Called from several threads."""
        arrays: list[Array] = []
        text = json.dumps(_pack(value, arrays))
        named = {str(place): np.ascontiguousarray(array) for place, array in enumerate(arrays)}
        about = {"value": text, "sha256": _digest(text, arrays)}
        path = self._path(what, t, frames)
        self._written.add(path)
        with suppress(OSError):
            write_bytes(path, save(named, about))

    def forget(self, before: int) -> None:
        """Drop what was kept of the frames before one, as no segment to come needs it."""
        for name, path in list(self._paths.items()):
            if name[1] < before:
                path.unlink(missing_ok=True)
                self._paths.pop(name, None)

    def _path(self, what: str, t: int, frames: range) -> Path:
        shown = self._digests
        low, high = max(frames.start, min(shown)), min(frames.stop, max(shown) + 1)
        place = t - self._shot_start, t - low, high - t
        digest = hashlib.sha256(f"{self._context} {what} {place}".encode())
        for frame in range(low, high):
            digest.update(shown[frame])
        path = self._folder / f"{digest.hexdigest()[:32]}.work"
        self._paths[what, t] = path
        return path


def _pack(value: Any, arrays: list[Array]) -> Any:
    """A value as JSON; arrays become their place in a list. Floats are kept to the last bit."""
    if isinstance(value, np.ndarray):
        arrays.append(value)
        return {"array": len(arrays) - 1}
    if isinstance(value, np.generic):
        arrays.append(value.reshape(1))
        return {"scalar": len(arrays) - 1}
    if isinstance(value, float):
        return {"float": struct.pack("<d", value).hex()}
    if isinstance(value, dict):
        return {"dict": [[key, _pack(item, arrays)] for key, item in value.items()]}
    if isinstance(value, tuple):
        return {type(value).__name__: [_pack(item, arrays) for item in value]}
    assert value is None or isinstance(value, int)
    return value


def _unpack(value: Any, arrays: list[Array]) -> Any:
    """The inverse of `_pack`."""
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    if kind == "array":
        return arrays[content]
    if kind == "scalar":
        return arrays[content][0]
    if kind == "float":
        return struct.unpack("<d", bytes.fromhex(content))[0]
    if kind == "dict":
        return {key: _unpack(item, arrays) for key, item in content}
    items = [_unpack(item, arrays) for item in content]
    return tuple(items) if kind == "tuple" else _TYPES[kind](*items)


def _digest(text: str, arrays: list[Array]) -> str:
    digest = hashlib.sha256(text.encode())
    for array in arrays:
        digest.update(f"{array.dtype} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()
