"""Finished segments of a run, kept beside its output until that is whole.

A segment is found again by a hash of all that it depends on: source pixels and masks of its frames
and their halo, settings, weights, and the version of results. So nothing stale is ever reused, and
runs that differ do not disturb each other.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from combcn_core.atomic import write_bytes
from combcn_core.pixels import Array, Decoded, Filled, PackedMask, Stored
from combcn_core.segments import Segment
from combcn_core.shot import Counts, InpaintConfig, SegmentResult
from combcn_core.stream.work import WorkStore
from combcn_core.version import RESULTS_VERSION

if TYPE_CHECKING:
    from combcn_core.networks.layers import CombCN

# A field of InpaintConfig that changes no pixel; the segment itself is part of the hash.
_FREE_SETTING = "segment_frames"


def segments_folder(output: Path) -> Path:
    """Where the segments of an output are kept: on the same disk."""
    return output.with_name(f".{output.name}.segments")


class SegmentStore:
    """The segments of one output, a file each; only pixels of holes are written."""

    def __init__(self, output: Path, config: InpaintConfig, model: CombCN | None) -> None:
        """Make the folder, where the output itself may grow too: a killed run leaves nothing else.

        Raises:
            ValueError: no folder can be made beside the output.
        """
        self.folder = segments_folder(output)
        settings = {name: value for name, value in asdict(config).items() if name != _FREE_SETTING}
        weights = None
        if model is not None and config.network is not False:
            from combcn_core.networks.checkpoint import digest_tensors

            weights = digest_tensors(json.dumps(model.config.to_dict()), model.state_dict())
        self._context = json.dumps([RESULTS_VERSION, settings, weights], sort_keys=True)
        self.work = WorkStore(self.folder, self._context)
        try:
            self.folder.mkdir(exist_ok=True)
        except OSError as error:
            raise ValueError(
                f"output {output} cannot be written ({error.strerror}); give a place that can be."
            ) from error

    def __enter__(self) -> SegmentStore:
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        """Segments stay where a run broke off; nothing does where it is whole, or kept none."""
        if kind is None:
            shutil.rmtree(self.folder, ignore_errors=True)
        else:
            with suppress(OSError):
                self.folder.rmdir()

    def key(self, segment: Segment, digests: Iterable[bytes]) -> str:
        """The name under which a segment is kept.

        Args:
            segment: its numbers.
            digests: `digest_frame` of the frames that it reads.
        """
        digest = hashlib.sha256(f"{self._context} {tuple(segment)}".encode())
        for frame in digests:
            digest.update(frame)
        return digest.hexdigest()

    def find(
        self, key: str, sources: Sequence[Stored], holes: Sequence[PackedMask]
    ) -> SegmentResult | None:
        """A segment that was kept; None if there is none, or what is there is damaged.

        Args:
            key: see `key`.
            sources: the source frames to be filled.
            holes: theirs.
        """
        path = self._path(key)
        if not path.is_file():
            return None
        try:
            with safe_open(path, framework="numpy") as file:
                about = file.metadata() or {}
                known = file.get_tensor("values")
        except (SafetensorError, OSError):
            return None
        text = about.get("counts", "")
        if _digest(text, known) != about.get("sha256"):
            return None
        values = np.split(known, np.cumsum([hole.num_pixels for hole in holes])[:-1])
        frames = [Filled(*parts) for parts in zip(sources, holes, values, strict=True)]
        counts = json.loads(text)
        travelled = {t: dict(some) for t, some in counts.pop("travelled")}
        counts = Counts(travelled=travelled, resumed_frames=len(frames), **counts)
        return SegmentResult(frames, counts)

    def keep(self, key: str, result: SegmentResult) -> None:
        """Write a segment; whole or not at all.

        Raises:
            OSError: the disk refuses.
        """
        values = np.concatenate([frame.values for frame in result.frames])
        counts: dict[str, Any] = asdict(result.counts)
        for name in ("seconds", "reference_pixels", "resumed_frames"):  # of this run alone
            del counts[name]
        counts["travelled"] = [[t, list(some.items())] for t, some in counts["travelled"].items()]
        text = json.dumps(counts)
        about = {"counts": text, "sha256": _digest(text, values)}
        write_bytes(self._path(key), save({"values": values}, about), sync=True)

    def _path(self, key: str) -> Path:
        return self.folder / f"{key[:32]}.safetensors"


def _digest(text: str, values: Array) -> str:
    """The digest of a file's content, since a flipped bit in a pixel is a valid pixel."""
    digest = hashlib.sha256(f"{text} {values.dtype} {values.shape}".encode())
    digest.update(np.ascontiguousarray(values).data)
    return digest.hexdigest()


def digest_frame(frame: Stored, hole: PackedMask) -> bytes:
    """The digest of a source frame, as it was decoded, and its mask."""
    if isinstance(frame, Decoded):
        about, arrays = frame.description, frame.samples()
    else:
        about, arrays = f"{frame.shape} {frame.dtype}", [frame]
    digest = hashlib.blake2b(f"{about} {hole.box}".encode(), digest_size=32)
    for samples in arrays:
        digest.update(np.ascontiguousarray(samples).data)
    digest.update(hole.bits.data)
    return digest.digest()
