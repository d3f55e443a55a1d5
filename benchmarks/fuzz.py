"""Damaged inputs against CombCN: each must end in a right result or in one clear sentence.

    python -m benchmarks.fuzz [--count N] [--seed S] [--keep FOLDER]

Sound files of every kind that CombCN reads are damaged in many ways, and given to the command, or
to `load_model`. That runs in another process, with a limit of memory and time, in a folder of its
own. Exits with 1 if it crashed (any exception but ValueError, a signal, out of memory), hung, or
wrote anything but its output. The same seed makes the same damage.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import importlib
import io
import json
import logging
import multiprocessing
import os
import random
import re
import shutil
import struct
import sys
import tempfile
import traceback
import zlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import av
import cv2
import numpy as np
from av.video.stream import VideoStream
from tqdm import tqdm

from combcn_core.cli import main as combcn
from combcn_core.clips.video import ClipInfo, open_reader, open_writer
from combcn_core.memory import GIB
from combcn_core.networks.checkpoint import WEIGHTS_FOLDER, digest_tensors, load_model
from combcn_core.progress import Progress
from combcn_core.shot import InpaintConfig
from combcn_core.stream.batch import Row, read_manifest
from combcn_core.stream.files import inpaint_file

NUM_FRAMES, HEIGHT, WIDTH = 4, 24, 32
BOX = "8,6,12,9"
LIMIT_SECONDS = 120  # a run takes a fraction of one
LIMIT_BYTES = 3 * GIB  # beyond what the process has when it starts
HEAD_BYTES = 700  # where headers are
RESULTS = ("right", "error", "crash", "hang", "stray")

Files = dict[str, bytes]


class Kind(NamedTuple):
    """Inputs of which some are damaged, and what reads them."""

    files: Files  # relative path -> content
    damaged: str  # what the paths begin with of which one is damaged
    arguments: tuple[str, ...]  # of `combcn`, or load_model and a path
    result: str = ""  # what may be written
    # Whatever is not refused must be as without damage: by checksums in the files.
    has_checksums: bool = False


class Case(NamedTuple):
    """One damaged file, on disk."""

    change: str
    arguments: tuple[str, ...]
    allowed: frozenset[str]  # paths that may be written, with all below them
    is_exact: bool


class Answer(NamedTuple):
    """What came of a run: `detail` is a digest of the result, the sentence, or the traceback."""

    result: str
    detail: str


@dataclass
class Tally:
    """Counts results by kind of input and by kind of damage."""

    kinds: dict[str, Counter[str]] = field(default_factory=dict)
    changes: dict[str, Counter[str]] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)

    def add(self, kind: str, change: str, result: str) -> None:
        self.kinds.setdefault(kind, Counter())[result] += 1
        self.changes.setdefault(change, Counter())[result] += 1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=600, help="damaged files")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="copy the inputs that failed to this folder")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        tally = fuzz(Path(scratch).resolve(), arguments.count, arguments.seed, arguments.keep)
    print(summary(tally))
    return 1 if tally.failures else 0


def fuzz(root: Path, count: int, seed: int, keep: Path | None = None) -> Tally:
    """Try so many damaged files, all kinds in turn."""
    (root / "seeds").mkdir()
    (root / "tmp").mkdir()
    os.environ["TMPDIR"] = str(root / "tmp")  # of the other process: what it leaves there is seen
    kinds = make_kinds(root / "seeds")
    shutil.rmtree(root / "seeds")
    tally = Tally()
    with Worker() as worker:
        exact = {name: _undamaged(kind, root / "case", worker) for name, kind in kinds.items()}
        for number in tqdm(range(count), unit="file", disable=None):
            name, kind = list(kinds.items())[number % len(kinds)]
            case = _prepare(kind, root / "case", random.Random(f"{seed} {number}"))
            before = _snapshot(root)
            answer = worker.run(case.arguments, root / "case")
            if case.is_exact and answer.result == "right" and answer.detail != exact[name]:
                answer = Answer("crash", "the result is another one than without damage")
            allowed = case.allowed if answer.result == "right" or name == "manifest" else ()
            stray = _changed(before, _snapshot(root), allowed, kind.result)
            if stray and answer.result in ("right", "error"):
                answer = Answer("stray", f"wrote {', '.join(stray)}")
            tally.add(name, case.change, answer.result)
            if answer.result not in ("right", "error"):
                tally.failures.append(
                    f"{number} of seed {seed}, {name}, {case.change}: {answer.result}\n"
                    f"{answer.detail}"
                )
                if keep is not None:
                    shutil.copytree(root / "case", keep / f"{seed}-{number}", dirs_exist_ok=True)
    return tally


def summary(tally: Tally) -> str:
    """Two tables, and what failed."""
    titles = ("tried", "right results", "clean errors", "crashes", "hangs", "stray writes")

    def table(title: str, rows: Mapping[str, Counter[str]]) -> str:
        lines = [[title, *titles]]
        for name, counts in [*rows.items(), ("all", sum(rows.values(), Counter()))]:
            figures = [counts[result] for result in RESULTS]
            lines.append([name, str(sum(figures)), *map(str, figures)])
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        return "\n".join(
            "  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])])
            for line in lines
        )

    by_kind, by_change = table("input", tally.kinds), table("damage", tally.changes)
    return "\n\n".join([by_kind, by_change, *tally.failures])


# --- sound files ----------------------------------------------------------------------------------


def make_kinds(folder: Path) -> dict[str, Kind]:
    """Every kind of input."""
    texture = np.random.default_rng(0).integers(0, 256, (HEIGHT // 4, WIDTH // 2, 3), np.uint8)
    texture = cv2.resize(texture, (2 * WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
    frames = [np.ascontiguousarray(texture[:, 3 * t : 3 * t + WIDTH]) for t in range(NUM_FRAMES)]
    holes = np.zeros((NUM_FRAMES, HEIGHT, WIDTH, 3), np.uint8)
    for t, hole in enumerate(holes):
        hole[6:15, 8 + t : 20 + t] = 255

    info = ClipInfo(WIDTH, HEIGHT, Fraction(24))
    _write_sound(folder / "sound.m4a")
    loud = replace(info, path=folder / "sound.m4a", has_sound=True)
    for name in VIDEOS:
        _write(folder / name, info if name == "clip.mkv" else loud, frames)
    _write(folder / "masks.mkv", info, list(holes))
    _write_subtitles(folder / "subtitles.mkv", folder / "clip.mkv")
    _write_alpha(folder / "alpha.mkv", frames)
    moving = cv2.Animation()
    moving.frames, moving.durations = frames, [40] * NUM_FRAMES
    assert cv2.imwriteanimation(str(folder / "moving.png"), moving)
    clips = {path.name: path.read_bytes() for path in folder.glob("*.*")}

    def images(prefix: str, ending: str, pictures: Sequence[Any], *options: int) -> Files:
        encoded = [cv2.imencode(ending, picture, options)[1] for picture in pictures]
        return {f"{prefix}{t:03d}{ending}": data.tobytes() for t, data in enumerate(encoded)}

    deep = [frame.astype(np.uint16) * 257 for frame in frames]
    pngs, masks = images("frames/", ".png", frames), images("masks/", ".png", list(holes))
    mask = {"mask.png": masks["masks/000.png"]}
    plate = {"plate.png": pngs["frames/001.png"]}
    clip = {"clip.mkv": clips["clip.mkv"]}

    def inpaint(source: str, mask: str, result: str, *more: str) -> tuple[str, ...]:
        return ("inpaint", source, "--mask", mask, "--output", result, "--reach", "2", *more)

    kinds = {
        f"video {name[4:]}": Kind(
            {name: clips[name]}, name, inpaint(name, BOX, "result.mkv"), "result.mkv"
        )
        for name in VIDEOS
    }
    for result in ("result.mp4", "result.mov", "result.webm"):
        kinds[f"into {result[6:]}"] = Kind(
            {"clip.mov": clips["clip.mov"]}, "clip.mov", inpaint("clip.mov", BOX, result), result
        )
    kinds["animated PNG"] = Kind(
        {"moving.png": clips["moving.png"]},
        "moving.png",
        inpaint("moving.png", BOX, "result.mkv"),
        "result.mkv",
    )
    for name, result in (("subtitles.mkv", "result.mp4"), ("alpha.mkv", "result.mov")):
        files = {name: clips[name]}
        kinds[name[:-4]] = Kind(files, name, inpaint(name, BOX, result), result)
    folders = {
        "PNG": pngs,
        "16-bit PNG": images("frames/", ".png", deep),
        "TIFF": images("frames/", ".tif", frames),
        "16-bit TIFF": images("frames/", ".tif", deep, cv2.IMWRITE_TIFF_COMPRESSION, 1),
        "JPEG": images("frames/", ".jpg", frames),
        "WebP": images("frames/", ".webp", frames, cv2.IMWRITE_WEBP_QUALITY, 101),
        "BMP": images("frames/", ".bmp", frames),
        **_ffmpeg_images(folder, frames),
        **_exr_images(frames),
    }
    for name, files in folders.items():
        # What a checksum guards in a folder is its images, not how many there are.
        arguments = inpaint("frames", BOX, "result")
        kinds[f"frames {name}"] = Kind(files, "frames/", arguments, "result")
    arguments = inpaint("clip.mkv", "mask.png", "result.mkv")
    kinds["mask PNG"] = Kind(clip | mask, "mask.png", arguments, "result.mkv", True)
    arguments = inpaint("clip.mkv", "masks", "result.mkv")
    kinds["mask folder"] = Kind(clip | masks, "masks/", arguments, "result.mkv")
    files = {**clip, "masks.mkv": clips["masks.mkv"]}
    arguments = inpaint("clip.mkv", "masks.mkv", "result.mkv")
    kinds["mask video"] = Kind(files, "masks.mkv", arguments, "result.mkv")
    arguments = inpaint("clip.mkv", BOX, "result.mkv", "--reference", "1=plate.png")
    kinds["reference"] = Kind(clip | plate, "plate.png", arguments, "result.mkv", True)

    weights = {"w.safetensors": (WEIGHTS_FOLDER / "default.safetensors").read_bytes()}
    kinds["checkpoint"] = Kind(
        weights, "w.safetensors", ("load_model", "w.safetensors"), has_checksums=True
    )
    arguments = inpaint("clip.mkv", BOX, "result.mkv", "--segment-frames", "1", "--resume")
    kept = _kept_segments(folder, arguments)
    kinds["kept segments"] = Kind(clip | kept, ".result", arguments, "result.mkv", True)
    files = {**clip, **mask, **plate, "manifest.jsonl": _manifest()}
    kinds["manifest"] = Kind(files, "manifest.jsonl", ("batch", "manifest.jsonl"))
    return kinds


def _write(path: Path, info: ClipInfo, frames: Sequence[Any]) -> None:
    with open_writer(path, info) as writer:
        for frame in frames:
            writer.write(frame)


def _write_sound(path: Path) -> None:
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=48000, layout="mono")
        tone = np.sin(np.arange(8000, dtype=np.float32) / 20)[None]
        frame = av.AudioFrame.from_ndarray(tone, "fltp", "mono")
        frame.sample_rate = 48000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def _write_subtitles(path: Path, clip: Path) -> None:
    """A clip with subtitles and chapters, which become others in MP4."""
    text = "1\n00:00:00,000 --> 00:00:00,080\n<i>One</i>\n\n2\n00:00:00,090 --> 00:00:00,120\nTwo\n"
    with (
        av.open(str(clip)) as pictures,
        av.open(io.BytesIO(text.encode()), format="srt") as lines,
        av.open(str(path), "w") as container,
    ):
        sources = (pictures.streams.video[0], lines.streams.subtitles[0])
        outputs = [container.add_stream_from_template(stream, opaque=True) for stream in sources]
        if hasattr(container, "set_chapters"):
            base, title = Fraction(1, 1000), {"title": "One"}
            container.set_chapters(
                [{"id": 1, "start": 0, "end": 100, "time_base": base, "metadata": title}]
            )
        inputs: tuple[Any, ...] = (pictures, lines)
        for source, output in zip(inputs, outputs, strict=True):
            for packet in source.demux():
                if packet.pts is not None:
                    packet.stream = output
                    container.mux(packet)


def _write_alpha(path: Path, frames: Sequence[Any]) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=24)
        assert isinstance(stream, VideoStream)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "bgra"
        for frame in frames:
            pixels = np.dstack([frame, frame[..., :1]])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, "rgba")))
        container.mux(stream.encode(None))


def _ffmpeg_images(folder: Path, frames: Sequence[Any]) -> dict[str, Files]:
    """Images that only FFmpeg reads, as its encoders write them."""
    found: dict[str, Files] = {}
    for name, codec, ending in (("TGA", "targa", ".tga"), ("DPX", "dpx", ".dpx")):
        files = {}
        for t, frame in enumerate(frames):
            path = folder / f"{t:03d}{ending}"
            with av.open(str(path), "w", format="image2", options={"update": "1"}) as container:
                stream = container.add_stream(codec, rate=24)
                assert isinstance(stream, VideoStream)
                stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "rgb24"
                if codec == "targa":
                    stream.pix_fmt = "bgr24"
                container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, "rgb24")))
                container.mux(stream.encode(None))
            files[f"frames/{path.name}"] = path.read_bytes()
        found[name] = files
    return found


def _exr_images(frames: Sequence[Any]) -> dict[str, Files]:
    """None without the package OpenEXR."""
    try:
        library = importlib.import_module("OpenEXR")
    except ImportError:
        return {}
    header = {"compression": library.ZIP_COMPRESSION, "type": library.scanlineimage}
    files = {}
    with tempfile.TemporaryDirectory() as scratch:
        for t, frame in enumerate(frames):
            half = (frame / 128).astype(np.float16)
            channels = {name: half[..., c].copy() for c, name in enumerate("RGB")}
            path = Path(scratch) / f"{t:03d}.exr"
            library.File(header, channels).write(str(path))
            files[f"frames/{path.name}"] = path.read_bytes()
    return {"EXR": files}


def _kept_segments(folder: Path, arguments: Sequence[str]) -> Files:
    """What `arguments` with --resume would find of a run that was stopped."""

    def stop(now: Progress) -> None:
        if now.frames == NUM_FRAMES - 1:
            raise KeyboardInterrupt

    config = InpaintConfig(reach=2, segment_frames=1)
    output = folder / "result.mkv"
    with contextlib.suppress(KeyboardInterrupt):
        inpaint_file(folder / "clip.mkv", BOX, output, config=config, resume=True, progress=stop)
    kept = folder / ".result.mkv.segments"
    return {f"{kept.name}/{path.name}": path.read_bytes() for path in kept.iterdir()}


def _manifest() -> bytes:
    options = {
        "reach": 2, "grow_pixels": 1, "segment_frames": 2, "frames": [0, 2], "match_grain": True,
        "references": {"1": "plate.png"}, "fit_mask": True, "feather_pixels": 1, "propagate": True,
        "allow_truncated": False, "device": "cpu", "precision": "fp32", "fps": "24",
    }  # fmt: skip
    rows = (
        {"input": "clip.mkv", "mask": "mask.png", "output": "a/../result.mkv", "options": options},
        {"input": "clip.mkv", "mask": BOX, "output": "result", "options": {"reach": 1}},
    )
    return "\n".join(json.dumps(row) for row in rows).encode()


# --- damage ---------------------------------------------------------------------------------------

ABSURD = (0, 1, 2**15, 2**16 - 1, 60_000, 2**24, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**63, 2**64)
ENDINGS = (".png", ".jpg", ".tif", ".exr", ".mp4", ".mkv", ".mov", ".safetensors", ".jsonl", "")
VIDEOS = ("clip.mp4", "clip.mkv", "clip.mov", "clip.webm")
TEXTS = (b"no video\n" * 40, b"<!DOCTYPE html><html>404</html>", b"\0" * 300, b"[" * 5000, b"{}")
VALUES: tuple[Any, ...] = (
    None, True, -1, 0, 1.5, 1e308, 10**30, "", "x", "\0", "..", "../elsewhere/x.mkv", "result.exe",
    [], {}, [1], [[]], {"a": 1}, [3, 1], [-1, 10**30], {"-1": "plate.png"}, {"x": 1}, "9" * 5000,
)  # fmt: skip


def _flip_bits(data: bytes, rng: random.Random) -> bytes:
    damaged = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8))):
        damaged[_place(data, rng)] ^= 1 << rng.randrange(8)
    return bytes(damaged)


def _truncate(data: bytes, rng: random.Random) -> bytes:
    return data[: _place(data, rng)]


def _zero_run(data: bytes, rng: random.Random) -> bytes:
    start = _place(data, rng)
    length = min(rng.choice((1, 4, 40, len(data) // 3)), len(data) - start)
    return data[:start] + bytes(length) + data[start + length :]


def _swap_chunks(data: bytes, rng: random.Random) -> bytes:
    a, b, c = sorted(_place(data, rng) for _ in range(3))
    return data[:a] + data[b:c] + data[a:b] + data[c:]


def _repeat_chunk(data: bytes, rng: random.Random) -> bytes:
    start, stop = sorted(_place(data, rng) for _ in range(2))
    return data[:stop] + data[start:stop] * rng.choice((1, 2, 50)) + data[stop:]


def _absurd_number(data: bytes, rng: random.Random) -> bytes:
    """In binary, or in place of digits in a text."""
    numbers = [match.span() for match in re.finditer(rb"\d+", data[: 30 * HEAD_BYTES])]
    value = rng.choice(ABSURD)
    if numbers and data[8:9] == b"{":  # a checkpoint: its JSON stays one
        start, stop = rng.choice(numbers)
        text = str(value).encode()
        (length,) = struct.unpack("<Q", data[:8])
        head = struct.pack("<Q", length + len(text) - stop + start)
        return head + data[8:start] + text + data[stop:]
    order: Any = rng.choice(("little", "big"))
    size = rng.choice((2, 4, 4, 8))
    number = (value % 2 ** (8 * size)).to_bytes(size, order)
    start = rng.randrange(max(1, min(len(data), HEAD_BYTES) - size))
    start = rng.choice((start, start // 4 * 4))
    return data[:start] + number + data[start + size :]


def _absurd_png(data: bytes, rng: random.Random) -> bytes:
    """Its header, with a right checksum."""
    size = struct.pack(">II", *(rng.choice(ABSURD[:9]) for _ in range(2)))
    kind = bytes((rng.choice((1, 8, 16)), rng.choice((0, 2, 3, 6)), 0, 0, rng.choice((0, 1))))
    header = b"IHDR" + size + rng.choice((data[24:29], kind))
    return data[:12] + header + struct.pack(">I", zlib.crc32(header)) + data[33:]


def _repaired_png(data: bytes, rng: random.Random) -> bytes:
    """Bits flipped in chunks whose checksums are right all the same."""
    damaged, at = bytearray(_flip_bits(data, rng)), 8
    while at + 12 <= len(damaged):
        (length,) = struct.unpack(">I", damaged[at : at + 4])
        stop = at + 8 + length
        if stop + 4 > len(damaged):
            break
        damaged[stop : stop + 4] = struct.pack(">I", zlib.crc32(damaged[at + 4 : stop]))
        at = stop + 4
    return bytes(damaged)


def _wrong_value(data: bytes, rng: random.Random) -> bytes:
    """In the JSON of a manifest: another type, an absurd number, a path that leads elsewhere."""
    rows = [json.loads(line) for line in data.splitlines()]
    row = rng.choice(rows)
    inside = row["options"] if rng.random() < 0.75 else row
    name = rng.choice([*inside, "unknown"])
    values = VALUES
    if type(inside.get(name)) is int and rng.random() < 0.7:
        values = (*ABSURD, *(-value for value in ABSURD), 10**30)
    inside[name] = rng.choice(values)
    return "\n".join(json.dumps(row) for row in rows).encode()


def _empty(data: bytes, rng: random.Random) -> bytes:
    return b""


def _text(data: bytes, rng: random.Random) -> bytes:
    return rng.choice((*TEXTS, rng.randbytes(200), data[:20] + rng.randbytes(500)))


def _place(data: bytes, rng: random.Random) -> int:
    """As often in the head, where every byte counts, as anywhere."""
    return rng.randrange(rng.choice((min(len(data), HEAD_BYTES), len(data))))


SWAPPED_ENDING = "swapped ending"
CHANGES: dict[str, Callable[[bytes, random.Random], bytes]] = {
    "bit flips": _flip_bits,
    "truncation": _truncate,
    "zeros": _zero_run,
    "swapped chunks": _swap_chunks,
    "repeated chunk": _repeat_chunk,
    "absurd number": _absurd_number,
    "no content": _empty,
    "text": _text,
}
PNG_CHANGES = {"absurd PNG header": _absurd_png, "PNG repaired": _repaired_png}
MANIFEST_CHANGES = {"wrong value": _wrong_value}


def _prepare(kind: Kind, folder: Path, rng: random.Random) -> Case:
    """Write the files of a kind, one of them damaged."""
    chosen = rng.choice([name for name in kind.files if name.startswith(kind.damaged)])
    data = kind.files[chosen]
    changes = dict(CHANGES)
    if chosen.endswith(".png"):
        changes |= PNG_CHANGES
    is_manifest = chosen.endswith(".jsonl")
    while True:
        change = rng.choice([*changes, SWAPPED_ENDING])
        if is_manifest and rng.random() < 0.6:
            change = "wrong value"
        name, damaged = chosen, data
        if change == SWAPPED_ENDING:
            name = str(Path(chosen).with_suffix(rng.choice(ENDINGS)))
        else:
            damaged = (changes | MANIFEST_CHANGES)[change](data, rng)
        _lay_out({**{k: v for k, v in kind.files.items() if k != chosen}, name: damaged}, folder)
        outputs = _outputs(folder / name) if is_manifest else [folder / kind.result]
        # A damaged manifest may name any place; this one may be written to.
        if all(path.is_relative_to(folder.parent) for path in outputs):
            break
    arguments = tuple(part.replace(chosen, name) for part in kind.arguments)
    if change != SWAPPED_ENDING and chosen.endswith((".mp4", ".mkv", ".mov")):
        arguments += rng.choice(((), ("--allow-truncated",)))
    allowed = {str(path.relative_to(folder.parent)) for path in outputs}
    allowed |= {f"{folder.name}/{name}.done"} if is_manifest else set()
    allowed |= {f"{Path(path).parent}/.{Path(path).name}.segments" for path in allowed}
    is_exact = kind.has_checksums and change not in PNG_CHANGES
    return Case(change, arguments, frozenset(allowed), is_exact)


def _outputs(manifest: Path) -> list[Path]:
    """Where the rows of a damaged manifest would be written, if it can be read."""
    rows: list[Row] = []
    with contextlib.suppress(Exception):  # which one is seen where it is run
        rows = read_manifest(manifest)
    return [Path(os.path.normpath(row.output)) for row in rows]


def _lay_out(files: Mapping[str, bytes], folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    shutil.rmtree(folder.with_name("elsewhere"), ignore_errors=True)
    folder.with_name("elsewhere").mkdir()
    for name, data in {**files, "a/placeholder": b""}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)


def _undamaged(kind: Kind, folder: Path, worker: Worker) -> str:
    """The digest of the result without damage."""
    _lay_out(kind.files, folder)
    answer = worker.run(kind.arguments, folder)
    assert answer.result == "right", answer.detail
    return answer.detail


def _snapshot(root: Path) -> dict[str, tuple[int, int]]:
    """Size and time of all files, zeros for folders."""
    found = {}
    for path in root.rglob("*"):
        state = path.lstat()
        stamp = (0, 0) if path.is_dir() else (state.st_size, state.st_mtime_ns)
        found[str(path.relative_to(root))] = stamp
    return found


def _changed(
    before: Mapping[str, object],
    after: Mapping[str, object],
    allowed: Sequence[str] | frozenset[str],
    result: str,
) -> list[str]:
    """Paths that were written or removed, but for those allowed; segments that are kept may be."""
    places = {*allowed, f"case/.{result}.segments"}
    changed = (Path(path) for path, _ in before.items() ^ after.items())
    return sorted(
        {str(path) for path in changed if not places & {str(path), *map(str, path.parents)}}
    )


# --- another process ------------------------------------------------------------------------------


class Worker:
    """A process that runs cases, one after the other; a new one where it died or was stopped."""

    def __init__(self) -> None:
        self._context = multiprocessing.get_context("spawn")
        self._start()

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *error: object) -> None:
        self._pipe.close()  # it ends by itself, unless it hangs
        self._process.join(1)
        self._process.kill()
        self._process.join()

    def run(self, arguments: Sequence[str], folder: Path) -> Answer:
        self._pipe.send((tuple(arguments), str(folder)))
        try:
            if self._pipe.poll(LIMIT_SECONDS):
                return Answer(*self._pipe.recv())
            answer = Answer("hang", f"no answer in {LIMIT_SECONDS} s")
        except EOFError:
            self._process.join()
            answer = Answer("crash", f"the process ended with {self._process.exitcode}")
        self.__exit__()
        self._start()
        return answer

    def _start(self) -> None:
        self._pipe, theirs = self._context.Pipe()
        self._process = self._context.Process(target=_serve, args=(theirs,), daemon=True)
        self._process.start()
        theirs.close()


def _serve(pipe: Connection) -> None:
    silence = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):  # libraries write to them, past Python
        os.dup2(silence, stream)
    logging.getLogger().addHandler(logging.NullHandler())  # the command adds none then
    _limit_memory()
    while True:
        try:
            arguments, folder = pipe.recv()
        except EOFError:
            return
        os.chdir(folder)
        try:
            answer = _attempt(arguments)
        except BaseException:
            answer = Answer("crash", traceback.format_exc())
        pipe.send(tuple(answer))


def _limit_memory() -> None:
    """Where the system can."""
    if sys.platform == "linux":
        import resource

        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + LIMIT_BYTES
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _attempt(arguments: Sequence[str]) -> Answer:
    if arguments[0] == "load_model":
        try:
            weights = load_model(arguments[1]).state_dict()
        except ValueError as error:
            return _judge(2, f"combcn: {error}.\n")
        return Answer("right", digest_tensors("", weights))
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = combcn(list(arguments))
    if code:
        is_batch = arguments[0] == "batch" and code == 1  # rows that failed, each with its reason
        return Answer("error", out.getvalue()) if is_batch else _judge(code, err.getvalue())
    outputs = [arguments[arguments.index("--output") + 1]] if "--output" in arguments else []
    if not outputs:
        outputs = [row.output for row in read_manifest(Path(arguments[1]))]
    digest = hashlib.sha256()
    for output in outputs:
        with open_reader(output) as reader:
            for frame in reader:
                digest.update(frame.pixels.tobytes())
    return Answer("right", digest.hexdigest())


def _judge(code: int, text: str) -> Answer:
    is_clean = code == 2 and re.fullmatch(r"combcn: [^\n]+\.\n", text)
    return Answer("error" if is_clean else "crash", f"exit code {code}: {text}")


if __name__ == "__main__":
    sys.exit(main())
