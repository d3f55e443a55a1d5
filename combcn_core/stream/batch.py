"""Many shots, and long ones, over the cores of a machine or the machines of a cluster.

A manifest has one shot a line. With Ray, rows are cut into segments, which are computed anywhere
and kept beside the output; then each output is written from them, in order. What travels are paths
and frame numbers, never pixels, so all machines must see the same folders.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin, get_type_hints

from combcn_core.clips.mask_rules import MaskConfig
from combcn_core.networks import WEIGHTS_FOLDER
from combcn_core.progress import OnProgress, Progress
from combcn_core.shot import InpaintConfig
from combcn_core.stream.files import inpaint_file, keep_segments, list_segments
from combcn_core.version import RESULTS_VERSION

if TYPE_CHECKING:
    from combcn_core.networks.layers import CombCN

Engine = Literal["local", "ray"]

_SETTINGS = get_type_hints(InpaintConfig)
_MASK_SETTINGS = get_type_hints(MaskConfig)
_FILE_OPTIONS = {
    "frames": tuple[int, int],
    "references": dict[int, str],
    "fit_mask": bool,
    "allow_truncated": bool,
    "fps": Fraction,
    "codec": str,
    "quality": int,
    "weights": str,
}
_OPTIONS = {**_SETTINGS, **_MASK_SETTINGS, **_FILE_OPTIONS}


@dataclass(frozen=True)
class Row:
    """One shot of a manifest.

    Attributes:
        input, mask, output: as `combcn inpaint` takes them; relative to the manifest's folder.
        options: fields of `InpaintConfig` and `MaskConfig`, and frames ([first, last]), references
            ({number: path}), fit_mask, allow_truncated, fps, codec, quality, weights.
    """

    input: str
    mask: str
    output: str
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def config(self) -> InpaintConfig:
        """Its settings.

        Raises:
            ValueError: one has a value that it cannot have.
        """
        return InpaintConfig(**{k: v for k, v in self.options.items() if k in _SETTINGS})

    @property
    def mask_config(self) -> MaskConfig:
        """How its mask is to be understood. Raises as `config`."""
        return MaskConfig(**{k: v for k, v in self.options.items() if k in _MASK_SETTINGS})

    def arguments(self, *names: str) -> dict[str, Any]:
        """The options of these names as arguments of `inpaint_file`, and the mask's settings."""
        found: dict[str, Any] = {"mask_config": self.mask_config}
        found |= {name: self.options[name] for name in names if name in self.options}
        if "frames" in found:
            found["frames"] = tuple(found["frames"])
        if "references" in found:
            found["references"] = {int(k): path for k, path in found["references"].items()}
        if "fps" in found:
            found["fps"] = Fraction(found["fps"])
        return found

    def fingerprint(self) -> str:
        """Changes with what makes a finished output stale: row, files, and version of results."""
        weights = str(self.options.get("weights", "default"))
        if not weights.endswith(".safetensors"):
            weights = str(WEIGHTS_FOLDER / f"{weights}.safetensors")
        references = self.options.get("references", {}).values()
        stamps = [_stamp(Path(file)) for file in (self.input, self.mask, *references, weights)]
        text = json.dumps([RESULTS_VERSION, dataclasses.asdict(self), stamps], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class Outcome:
    """What became of a row: "done", "skipped" (done before) or "failed", and then why."""

    row: Row
    status: Literal["done", "skipped", "failed"]
    reason: str = ""


def read_manifest(path: Path) -> list[Row]:
    """Read a manifest: JSON, one object a line, with input, mask, output and options.

    Raises:
        ValueError: a line that is none, unknown or missing fields, two rows with one output.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"manifest {path} cannot be read ({error}); give a text file.") from None
    rows = []
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                rows.append(_parse_row(line, path.absolute().parent))
                rows[-1].arguments(*_FILE_OPTIONS), rows[-1].config
            except (TypeError, ValueError, RecursionError) as error:
                raise ValueError(f"line {number} of {path}: {error}") from None
    if not rows:
        raise ValueError(f"manifest {path} has no rows; write one JSON object a line.")
    outputs = [os.path.realpath(row.output) for row in rows]
    for output in outputs:
        if outputs.count(output) > 1:
            raise ValueError(f"two rows of {path} write {output}; give each its own output.")
    return rows


def run_batch(
    manifest: Path,
    *,
    engine: Engine = "local",
    workers: int = 0,
    on_outcome: Callable[[Outcome], None] = lambda outcome: None,
    progress: Callable[[Row, Progress], None] | None = None,
) -> list[Outcome]:
    """Inpaint the rows of a manifest; a row that fails does not stop the others.

    Rows that are finished are skipped: MANIFEST.done beside the manifest says which. What an
    interrupted batch has computed of a row is used again.

    Args:
        manifest: see `read_manifest`.
        engine: "local" takes one row after the other; "ray" spreads segments over a cluster (the
            one that RAY_ADDRESS names, or this machine).
        workers: processes of the engine "ray", each with its own copy of the networks and an equal
            share of a machine's cores; 0: one for every four cores.
        on_outcome: called as soon as a row has one.
        progress: called while a row is computed; not with the engine "ray".

    Returns:
        What became of each row, in their order.

    Raises:
        ValueError: a manifest that cannot be used, or Ray is not installed.
    """
    rows = read_manifest(manifest)
    done_path = manifest.with_name(f"{manifest.name}.done")
    finished = set(done_path.read_text().split()) if done_path.exists() else set()
    # Taken before the work: what changes meanwhile is to be done again.
    fingerprints = {row.output: row.fingerprint() for row in rows}
    outcomes, waiting = [], []
    for row in rows:
        if fingerprints[row.output] in finished and Path(row.output).exists():
            outcomes.append(Outcome(row, "skipped"))
            on_outcome(outcomes[-1])
        else:
            waiting.append(row)
    if engine == "local":
        outcomes_now = _run_locally(waiting, progress)
    else:
        outcomes_now = _run_on_ray(waiting, workers)
    for outcome in outcomes_now:
        if outcome.status == "done":
            with open(done_path, "a", encoding="utf-8") as file:
                file.write(f"{fingerprints[outcome.row.output]}\n")
        outcomes.append(outcome)
        on_outcome(outcome)
    places = {row.output: place for place, row in enumerate(rows)}
    return sorted(outcomes, key=lambda outcome: places[outcome.row.output])


def _parse_row(line: str, folder: Path) -> Row:
    fields = json.loads(line)
    if not isinstance(fields, dict):
        raise ValueError(f"it is a {type(fields).__name__}; write an object in braces.")
    known, required = {"input", "mask", "output", "options"}, {"input", "mask", "output"}
    if unknown := fields.keys() - known:
        raise ValueError(f"unknown field {min(unknown)}; there are {', '.join(sorted(known))}.")
    if missing := required - fields.keys():
        raise ValueError(f"it has no {min(missing)}; give input, mask and output.")
    for name in sorted(required):
        _check_path(name, fields[name])
    options = fields.get("options", {})
    if not isinstance(options, dict):
        raise ValueError(f"options are {_short(options)}; write an object in braces.")
    options = dict(options)
    if unknown := options.keys() - _OPTIONS.keys():
        names = ", ".join(sorted(_OPTIONS))
        raise ValueError(f"unknown option {min(unknown)}; there are {names}.")
    for name, value in options.items():
        if not _is_a(value, _OPTIONS[name]):
            raise ValueError(
                f"option {name} is {_short(value)}; give what `combcn inpaint` takes, frames as "
                '[first, last], references as {"number": "path"}.'
            )
    references = {number: str(folder / p) for number, p in options.get("references", {}).items()}
    if references:
        options["references"] = references
    if str(options.get("weights", "")).endswith(".safetensors"):
        options["weights"] = str(folder / options["weights"])
    mask = fields["mask"]  # a box has no folder
    if not all(part.strip().isdigit() for part in mask.split(",")):
        mask = str(folder / mask)
    return Row(str(folder / fields["input"]), mask, str(folder / fields["output"]), options)


def _check_path(name: str, path: Any) -> None:
    if not isinstance(path, str) or "\0" in path:
        raise ValueError(f"{name} is {_short(path)}; give a path.")


def _is_a(value: Any, kind: Any) -> bool:
    """Whether a value from JSON has a type."""
    if get_origin(kind) is Literal:
        return isinstance(value, str) and value in get_args(kind)
    if get_origin(kind) is tuple:
        kinds = get_args(kind)
        is_list = isinstance(value, list) and len(value) == len(kinds)
        return is_list and all(map(_is_a, value, kinds))
    if get_origin(kind) is dict:
        return isinstance(value, dict) and all(
            key.isdecimal() and isinstance(item, str) and "\0" not in item
            for key, item in value.items()
        )
    if kind is Fraction:
        try:
            return not isinstance(value, bool) and Fraction(value) > 0
        except (TypeError, ValueError, ArithmeticError):
            return False
    if kind is str:
        return isinstance(value, str) and "\0" not in value
    return any(type(value) is one for one in get_args(kind) or (kind,))


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:36]} ..."


def _stamp(path: Path) -> str:
    """Size and time of a file, or of all files of a folder; empty for what is none."""
    try:
        if path.is_dir():
            files = "".join(map(_stamp, sorted(path.iterdir())))
            return hashlib.sha256(files.encode()).hexdigest()
        status = os.stat(path)
    except OSError:
        return ""
    return f"{path.name} {status.st_size} {status.st_mtime_ns} "


# --- engines --------------------------------------------------------------------------------------


class _Worker:
    """Computes segments and writes outputs; keeps the networks from one to the next."""

    def __init__(self, threads: int = 0) -> None:
        if threads:  # as many in every worker: the result depends on them in its last bits
            import torch

            torch.set_num_threads(threads)
        self._models: dict[str, CombCN] = {}

    def model(self, row: Row) -> CombCN | None:
        """The networks, where they are asked for or weights are named; None without."""
        if not row.options.get("network", "weights" in row.options):
            return None
        from combcn_core.networks.checkpoint import load_model

        name = str(row.options.get("weights", "default"))
        if name not in self._models:
            self._models[name] = load_model(name)
        return self._models[name]

    def list(self, row: Row) -> list[tuple[int, int]]:
        options = row.arguments("frames", "fit_mask", "allow_truncated")
        model = self.model(row)
        return list_segments(row.input, row.mask, config=row.config, model=model, **options)

    def keep(self, row: Row, frames: tuple[int, int]) -> int:
        options = row.arguments("references", "fit_mask", "allow_truncated")
        model = self.model(row)
        return keep_segments(
            row.input, row.mask, row.output, frames, config=row.config, model=model, **options
        )

    def write(self, row: Row, progress: OnProgress | None = None) -> None:
        options = row.arguments(
            *("frames", "references", "fit_mask", "allow_truncated", "fps", "codec", "quality")
        )
        inpaint_file(
            row.input,
            row.mask,
            row.output,
            config=row.config,
            model=self.model(row),
            resume=True,
            progress=progress,
            **options,
        )


def _run_locally(
    rows: list[Row], progress: Callable[[Row, Progress], None] | None
) -> Iterator[Outcome]:
    worker = _Worker()
    for row in rows:
        try:
            worker.write(row, None if progress is None else partial(progress, row))
        except (ValueError, OSError, MemoryError) as error:
            yield Outcome(row, "failed", str(error) or type(error).__name__)
        else:
            yield Outcome(row, "done")


def _run_on_ray(rows: list[Row], workers: int) -> Iterator[Outcome]:
    """Three maps of Ray Data: rows to segments, segments to what is kept, rows to outputs."""
    if not rows:
        return
    try:
        import ray
    except ImportError:
        raise ValueError(
            'the engine ray needs Ray; pip install "combcn[cluster]", or take the engine local.'
        ) from None
    if not ray.is_initialized():
        address = os.environ.get("RAY_ADDRESS")
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    ray.data.DataContext.get_current().enable_progress_bars = False
    cores = int(ray.cluster_resources().get("CPU", 1))
    workers = workers or max(1, cores // 4)
    threads = max(1, cores // workers)

    def spread(items: list[dict[str, Any]], step: type[_Step]) -> list[dict[str, Any]]:
        """Ray Data starts lost actors anew and gives their items to others."""
        mapped = ray.data.from_items(items, override_num_blocks=len(items)).map(
            step,  # type: ignore[arg-type]
            fn_constructor_args=(threads,),
            compute=ray.data.ActorPoolStrategy(size=min(workers, len(items))),
            num_cpus=threads,
        )
        return list(mapped.take_all())

    failed: dict[int, str] = {}
    planned = spread([{"row": _pack(row), "place": i} for i, row in enumerate(rows)], _List)
    parts = []
    for plan in planned:
        if plan["error"]:
            failed[plan["place"]] = plan["error"]
            continue
        parts += [
            {"row": plan["row"], "place": plan["place"], "first": first, "last": last}
            for first, last in json.loads(plan["segments"])
        ]
    for part in spread(parts, _Keep) if parts else ():
        if part["error"]:
            failed.setdefault(part["place"], part["error"])
    left = [{"row": _pack(row), "place": i} for i, row in enumerate(rows) if i not in failed]
    for written in spread(left, _Write) if left else ():
        if written["error"]:
            failed[written["place"]] = written["error"]
    for place, row in enumerate(rows):
        if place in failed:
            yield Outcome(row, "failed", failed[place])
        else:
            yield Outcome(row, "done")


def _pack(row: Row) -> str:
    return json.dumps(dataclasses.asdict(row))


class _Step:
    """A function of rows as Ray Data maps it: an actor with a worker of its own."""

    def __init__(self, threads: int) -> None:
        self.worker = _Worker(threads)

    def __call__(self, item: dict[str, Any]) -> dict[str, Any]:
        """The item with its result; or with the reason why there is none."""
        try:
            result = self.run(Row(**json.loads(item["row"])), item)
        except (ValueError, OSError, MemoryError) as error:
            return {**item, "segments": "", "error": str(error) or type(error).__name__}
        return {**item, "segments": result, "error": ""}

    def run(self, row: Row, item: dict[str, Any]) -> str:
        raise NotImplementedError


class _List(_Step):
    def run(self, row: Row, item: dict[str, Any]) -> str:
        return json.dumps(self.worker.list(row))


class _Keep(_Step):
    def run(self, row: Row, item: dict[str, Any]) -> str:
        self.worker.keep(row, (item["first"], item["last"]))
        return ""


class _Write(_Step):
    def run(self, row: Row, item: dict[str, Any]) -> str:
        self.worker.write(row)
        return ""
