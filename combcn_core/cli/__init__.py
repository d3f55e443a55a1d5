"""The `combcn` command: its flags are the fields of the dataclasses below and of `InpaintConfig`.

Exit codes: 0 done; 2 a mistake of the caller, said in one sentence; 130 Ctrl-C; 1 anything else.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import re
import sys
import tempfile
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, Union

import av
import cv2
import numpy as np
import tyro
from numpy.typing import NDArray
from tqdm import tqdm  # type: ignore[import-untyped]
from tqdm.contrib.logging import logging_redirect_tqdm  # type: ignore[import-untyped]
from tyro.conf import FlagCreatePairsOff, OmitSubcommandPrefixes, Positional, UseAppendAction, arg

from combcn_core.clips.masks import MaskConfig
from combcn_core.clips.video import ClipInfo, Pixels, open_reader, open_writer
from combcn_core.measure.evaluate import WEIGHTS, EvaluateConfig, evaluate
from combcn_core.segments import GIB
from combcn_core.shot import InpaintConfig
from combcn_core.stream.memory import share_one_heap
from combcn_core.training.train import TrainConfig, TrainingDiverged

if TYPE_CHECKING:
    from combcn_core.demo.clip import DemoClip
    from combcn_core.networks.layers import CombCN
    from combcn_core.stream.files import Report


@dataclass(frozen=True, kw_only=True)
class _Files:
    """The flags of `combcn inpaint` that are about files and machines."""

    input: Positional[Annotated[Path, arg(metavar="INPUT")]]
    """Video file, or folder of frames (PNG, JPEG, TIFF, EXR)."""
    mask: Annotated[str, arg(metavar="MASK")]
    """What to remove, in white: an image, a folder of images, a video, an array (.npy, .npz); or
    x,y,w,h in pixels."""
    output: Annotated[Path, arg(metavar="OUTPUT")]
    """.mp4 (H.264), .mkv (FFV1, lossless), .mov (ProRes), or a folder for PNG or EXR images."""
    frames: Annotated[str | None, arg(metavar="A-B")] = None
    """First and last frame to write, counted from 0. They come out as with the whole clip."""
    reference: UseAppendAction[Annotated[tuple[str, ...], arg(metavar="N=IMAGE")]] = ()
    """A picture of frame N without the object; other frames are filled from it too."""
    fit_mask: FlagCreatePairsOff[bool] = False
    """Resize a mask that has another size than the frames."""
    allow_truncated: FlagCreatePairsOff[bool] = False
    """Go on with what decodes of a damaged file."""
    fps: Annotated[str | None, arg(metavar="RATE")] = None
    """Frames per second, such as 25 or 24000/1001, of a folder of frames that becomes a video."""
    weights: Annotated[str | None, arg(metavar="NAME|PATH")] = None
    """Weights of the networks: a name that comes with CombCN, or a .safetensors file."""
    memory_limit: Annotated[float | None, arg(metavar="GIB")] = None
    """Compute fewer frames at a time, so that about this much memory is enough."""
    resume: FlagCreatePairsOff[bool] = False
    """Keep finished segments until the output is whole, and use those of an interrupted run."""
    report: Annotated[Path | None, arg(metavar="REPORT.JSON")] = None
    """Write what was done, how long it took and how much memory it needed to this file."""


@dataclass(frozen=True, kw_only=True)
class Inpaint(InpaintConfig, MaskConfig, _Files):
    """Remove what a mask covers from a video. Pixels outside the mask are not touched."""

    network: bool = True
    """Let the networks paint what no frame shows, where --weights are given; without any, a smooth
    fill does it."""

    def __post_init__(self) -> None:
        pass  # `config` checks the values: the parser would put a box around the sentence

    def config(self) -> InpaintConfig:
        names = [field.name for field in dataclasses.fields(InpaintConfig)]
        settings = {name: getattr(self, name) for name in names}
        return InpaintConfig(**{**settings, "network": None if self.network else False})


@dataclass(frozen=True, kw_only=True)
class Masks(MaskConfig):
    """Write the masks that `combcn inpaint` would use, one a frame, to be looked at and corrected
    before anything is removed."""

    input: Positional[Annotated[Path, arg(metavar="SOURCE")]]
    """Video file, or folder of frames."""
    mask: Annotated[str, arg(metavar="MASK")]
    """As `combcn inpaint` takes it."""
    output: Annotated[Path, arg(metavar="OUTPUT")]
    """A folder, for PNGs with the numbers of the frames; or .mkv."""
    follow_masks: Annotated[FlagCreatePairsOff[bool], arg(aliases=("--follow",))] = False
    """Carry masks drawn on some frames to all of them: a folder of images, or one, with the
    numbers of their frames in their names."""
    grow_pixels: int = 0
    """Grow the masks by so many pixels; negative numbers shrink them."""
    frames: Annotated[str | None, arg(metavar="A-B")] = None
    """First and last frame to write a mask for, counted from 0."""
    fit_mask: FlagCreatePairsOff[bool] = False
    """Resize a mask that has another size than the frames."""
    allow_truncated: FlagCreatePairsOff[bool] = False
    """Go on with what decodes of a damaged file."""

    def __post_init__(self) -> None:
        pass  # as in `Inpaint`


@dataclass(frozen=True, kw_only=True)
class Demo:
    """Remove a van from a built-in clip, and measure the result against the truth."""

    output: Annotated[Path, arg(metavar="FOLDER")] = Path("combcn_demo")
    """Where input.mp4, mask.mkv, truth.mp4, result.mp4 and comparison.png go."""


@dataclass(frozen=True, kw_only=True)
class Evaluate(EvaluateConfig):
    """Compare methods on clips with synthetic holes: tables, a CSV file and a page of pictures.
    With --self-test: predict how well an object will come out of a clip."""

    data: Positional[Annotated[Path, arg(metavar="DATA")]]
    """Folder of videos and of clips as folders (NAME/frames/ or NAME/, with images). With
    --self-test: what `combcn inpaint` takes."""
    output: Annotated[Path, arg(metavar="FOLDER")] = Path("combcn_evaluation")
    """Where scores.csv, index.html and pictures/ go. Rows that are there already are kept. Of a
    self-test: prediction.json, prediction.jpg and index.html."""
    self_test: FlagCreatePairsOff[bool] = False
    """Hide areas of the mask's shape elsewhere in the frame, one for each of --seeds, and measure
    how well they are filled."""
    mask: Annotated[str | None, arg(metavar="MASK")] = None
    """What is to be removed, for --self-test, as `combcn inpaint` takes it."""
    test_frames: int = 96
    """Frames that --self-test looks at, at most: those around the largest hole."""
    weights: Annotated[str | None, arg(metavar="NAME|PATH")] = None
    """Weights of the networks: a name that comes with CombCN, or a .safetensors file. None named:
    the default ones; in a self-test none, as with `combcn inpaint`."""
    weights_2dcn: Annotated[Path | None, arg(metavar="PATH")] = None
    """Weights for the method 2dcn: networks trained without guidance."""
    size: Annotated[str, arg(metavar="SIDE|WxH")] = "0"  # type: ignore[assignment]
    """Crop and resize frames, to a square of 128 or to 432x240, say; 0 leaves them as they are."""

    def __post_init__(self) -> None:
        pass  # as in `Inpaint`

    def config(self) -> EvaluateConfig:
        names = [field.name for field in dataclasses.fields(EvaluateConfig)]
        settings = {name: getattr(self, name) for name in names}
        return EvaluateConfig(**{**settings, "size": _parse_size(self.size)})


@dataclass(frozen=True, kw_only=True)
class Train(TrainConfig):
    """Train the networks on a folder of videos and photographs. The same command goes on where an
    earlier one stopped."""

    data: Positional[Annotated[Path, arg(metavar="DATA")]]
    """Folder of videos and photographs; folders in it count too."""
    output: Annotated[Path, arg(metavar="CKPT")]
    """The weights, .safetensors. Beside them: the state from which training goes on (.training),
    and a folder with a log, curves and sample pictures."""
    where: UseAppendAction[Annotated[tuple[str, ...], arg(metavar="COLUMN=VALUE")]] = ()
    """Use only the files whose row in DATA/metadata.csv says so."""
    start: Annotated[str | None, arg(metavar="NAME|PATH")] = None
    """Weights to start from; the flags about the networks then do not count."""
    start_detail: Annotated[str | None, arg(metavar="NAME|PATH")] = None
    """Weights whose CombCN, or 2DCN, takes the place of that of --start. Guidance that it
    lacks starts at zero."""
    widen: FlagCreatePairsOff[bool] = False
    """Give narrow networks of --start (see --channel-divisor) the paper's channels first. They do
    then what they did, and have more to learn with."""
    input_fill: Literal["mean", "classical"] = "classical"
    """What the networks find in the hole: the mean pixel, as in the paper, or a smooth fill, to
    which they add what they learn."""
    guidance: bool = True
    """Without it CombCN is the paper's 2DCN, and 3DCN is not used."""
    ratio: Literal[2, 4] = 2
    """Frame size over the size of 3DCN's clip; 4 is the paper's V-1."""
    time_stride: FlagCreatePairsOff[bool] = False
    """3DCN strides time too, the paper's V-2."""
    channel_divisor: Literal[1, 2, 4, 8] = 1
    """Divides the channels of all hidden layers: narrow networks train and run in a fraction of
    the time."""
    dry_run: FlagCreatePairsOff[bool] = False
    """Take a few steps, say how long all will take and how much memory, and write nothing."""

    def __post_init__(self) -> None:
        pass  # as in `Inpaint`

    def config(self) -> TrainConfig:
        return TrainConfig(
            **{field.name: getattr(self, field.name) for field in dataclasses.fields(TrainConfig)}
        )


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Inpaint many shots; those that are finished are skipped, one that fails stops no other."""

    manifest: Positional[Annotated[Path, arg(metavar="MANIFEST")]]
    """One JSON object a line: input, mask, output, and options with what else `inpaint` takes."""
    engine: Literal["local", "ray"] = "local"
    """local: one shot after the other; ray: segments of all shots over a cluster, or this
    machine's cores."""
    workers: int = 0
    """Processes of the engine ray, with equal shares of the cores; 0: one for every four cores."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code.

    Args:
        argv: arguments without the program's name; those of the process if None.
    """
    logging.basicConfig(format="combcn: %(message)s")
    logging.getLogger("combcn").setLevel(logging.INFO)
    share_one_heap()
    try:
        command = tyro.cli(
            Union[  # noqa: UP007 (subcommands carry their names in annotations)
                Annotated[Inpaint, tyro.conf.subcommand("inpaint")],
                Annotated[Masks, tyro.conf.subcommand("masks")],
                Annotated[Demo, tyro.conf.subcommand("demo")],
                Annotated[Evaluate, tyro.conf.subcommand("evaluate")],
                Annotated[Train, tyro.conf.subcommand("train")],
                Annotated[Batch, tyro.conf.subcommand("batch")],
            ],
            prog="combcn",
            description="Fill the holes of a video through time first, paint detail second.",
            args=argv,
            config=(OmitSubcommandPrefixes,),
        )
        if isinstance(command, Inpaint):
            _inpaint(command)
        elif isinstance(command, Masks):
            _masks(command)
        elif isinstance(command, Evaluate):
            _evaluate(command)
        elif isinstance(command, Train):
            _train(command)
        elif isinstance(command, Batch):
            return _batch(command)
        else:
            _demo(command.output)
    except SystemExit as stop:  # tyro: 0 after --help, 2 after a wrong flag
        return int(stop.code or 0)
    except KeyboardInterrupt:
        _say("stopped.")
        return 130
    except ValueError as error:
        _say(f"{str(error).rstrip('.')}.")
        return 2
    except MemoryError:
        _say("out of memory; try again with --memory-limit GIB.")
        return 1
    except (OSError, TrainingDiverged) as error:
        _say(f"{str(error).rstrip('.')}.")
        return 1
    return 0


def _say(text: str) -> None:
    print(f"combcn: {text}", file=sys.stderr)


# --- combcn inpaint -------------------------------------------------------------------------------


def _inpaint(command: Inpaint) -> None:
    from combcn_core.stream.files import inpaint_file

    config, mask_config = command.config(), _mask_config(command)
    frames = None if command.frames is None else _parse_frames(command.frames)
    references = _parse_references(command.reference)
    fps = None if command.fps is None else _parse_rate(command.fps)
    if command.memory_limit is not None and command.memory_limit <= 0:
        raise ValueError(f"--memory-limit is {command.memory_limit:g}; give GiB, above 0.")
    if command.report is not None:
        _check_report(command)
    # Before the weights are read, which may take longer.
    open_reader(command.input, frames=frames, allow_truncated=command.allow_truncated)
    model = _load_weights(command.weights, command.network)
    with logging_redirect_tqdm(), _bar(command.output.name) as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        report = inpaint_file(
            command.input,
            command.mask,
            command.output,
            config=config,
            model=model,
            frames=frames,
            references=references,
            mask_config=mask_config,
            fit_mask=command.fit_mask,
            allow_truncated=command.allow_truncated,
            fps=fps,
            memory_limit_gib=command.memory_limit,
            resume=command.resume,
            progress=progress,
        )
    if command.report is not None:
        report.save(command.report)
    print(_summary(command.output, report))


def _mask_config(command: MaskConfig) -> MaskConfig:
    fields = dataclasses.fields(MaskConfig)
    return MaskConfig(**{field.name: getattr(command, field.name) for field in fields})


def _bar(name: str, unit: str = "frame") -> tqdm:
    """A progress bar on stderr; none where that is no terminal."""
    return tqdm(desc=name, unit=unit, smoothing=0, disable=None, dynamic_ncols=True)


def _summary(output: Path, report: Report) -> str:
    done = f"{output}: {report.frames} frames in {report.seconds['total']:.1f} s"
    if report.hole_pixels == 0:
        return f"{done}; the mask is empty, so all of them are copies of the source."
    parts = {
        "from references": report.reference_pixels,
        "from other frames": report.propagated_pixels,
        "by the smooth fill": report.filled_pixels,
        "by the networks": report.network_pixels,
        "of it as texture": report.synthesized_pixels,
    }
    shares = [f"{pixels / report.hole_pixels:.1%} {how}" for how, pixels in parts.items() if pixels]
    summary = f"{done}; hole filled {', '.join(shares)}"
    if report.shadow_pixels:
        summary += f"; {report.shadow_pixels / report.frames:.0f} pixels of shadow taken a frame"
    if report.peak_memory_bytes is not None:
        summary += f"; peak memory {report.peak_memory_bytes / GIB:.2f} GiB"
    if report.changed_outside_mask is not None:
        summary += f"; {report.changed_outside_mask} pixels changed outside the mask"
    return f"{summary}."


def _load_weights(name: str | None, wanted: bool) -> CombCN | None:
    from combcn_core.networks.checkpoint import load_model

    if name is not None and not wanted:
        raise ValueError(f"--weights {name} is of no use with --no-network; leave one out.")
    return None if name is None else load_model(name)


def _parse_frames(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)-(\d+)", text)
    if match is None:
        raise ValueError(f"--frames is {text}; give the first and the last one, such as 0-99.")
    return int(match[1]), int(match[2])


def _parse_references(texts: Iterable[str]) -> dict[int, Path]:
    references: dict[int, Path] = {}
    for text in texts:
        match = re.fullmatch(r"(\d+)=(.+)", text)
        if match is None:
            raise ValueError(
                f"--reference is {text}; give a frame number and a picture, such as 12=plate.png."
            )
        if int(match[1]) in references:
            raise ValueError(f"--reference names frame {match[1]} twice; give one picture for it.")
        references[int(match[1])] = Path(match[2])
    return references


def _parse_rate(text: str) -> Fraction:
    try:
        rate = Fraction(text)
    except (ValueError, ZeroDivisionError):
        rate = Fraction(0)
    if rate <= 0:
        raise ValueError(f"--fps is {text}; give a rate such as 25, 23.976 or 24000/1001.")
    return rate


def _check_report(command: Inpaint) -> None:
    report = command.report
    assert report is not None
    folder = report.absolute().parent
    if report.is_dir() or not os.access(folder, os.W_OK):
        raise ValueError(
            f"report {report} cannot be written; give a file name in a folder of yours."
        )
    if report.resolve() in {Path(path).resolve() for path in _paths(command)}:
        raise ValueError(f"report {report} is also an input or the output; give another name.")


def _paths(command: Inpaint) -> list[str | Path]:
    return [
        command.input,
        command.mask,
        command.output,
        *_parse_references(command.reference).values(),
    ]


# --- combcn masks ---------------------------------------------------------------------------------


def _masks(command: Masks) -> None:
    from combcn_core.stream.files import write_masks

    mask_config = _mask_config(command)
    frames = None if command.frames is None else _parse_frames(command.frames)
    count = 0
    with logging_redirect_tqdm(), _bar(command.output.name) as bar:

        def progress(done: int, total: int) -> None:
            nonlocal count
            bar.total, count = total, done
            bar.update(done - bar.n)

        pixels = write_masks(
            command.input,
            command.mask,
            command.output,
            frames=frames,
            mask_config=mask_config,
            fit_mask=command.fit_mask,
            allow_truncated=command.allow_truncated,
            grow_pixels=command.grow_pixels,
            progress=progress,
        )
    print(f"{command.output}: masks of {count} frames, {pixels / count:.0f} pixels in each.")


# --- combcn demo ----------------------------------------------------------------------------------


def _demo(folder: Path) -> None:
    import torch

    from combcn_core.demo.clip import render_demo
    from combcn_core.measure.metrics import hole_psnr
    from combcn_core.stream.files import inpaint_file

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = error.strerror or error
        raise ValueError(f"folder {folder} cannot be made ({reason}); give another one.") from error
    _say("painting the clip ...")
    clip = render_demo()
    _write_demo(clip, folder)

    _say("removing the van ...")
    with logging_redirect_tqdm(), _bar("result.mp4") as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        report = inpaint_file(
            folder / "input.mp4",
            folder / "mask.mkv",
            folder / "result.mp4",
            progress=progress,
        )

    # Both as they stand in files, so that compression costs both the same.
    source, result = (_read_all(folder / name) for name in ("input.mp4", "result.mp4"))
    telea = np.stack(
        [
            cv2.inpaint(frame, mask.astype(np.uint8), 3, cv2.INPAINT_TELEA)
            for frame, mask in zip(source, clip.masks, strict=True)
        ]
    )
    truth, masks = torch.from_numpy(clip.truth), torch.from_numpy(clip.masks)
    ours, theirs = (hole_psnr(torch.from_numpy(frames), truth, masks) for frames in (result, telea))
    _save_comparison(folder / "comparison.png", clip, source, result, telea, (ours, theirs))
    print(_summary(folder / "result.mp4", report))
    print(f"hole PSNR against the truth: CombCN {ours:.2f} dB, cv2.inpaint {theirs:.2f} dB.")
    print(f"{folder / 'comparison.png'} shows both.")


def _write_demo(clip: DemoClip, folder: Path) -> None:
    """Write input.mp4, with sound, mask.mkv and truth.mp4."""
    height, width = clip.masks.shape[1:]
    silent = ClipInfo(width=width, height=height, fps=clip.fps)
    masks = np.repeat(clip.masks[..., None], 3, axis=3) * np.uint8(255)
    with tempfile.TemporaryDirectory() as scratch:
        sound = Path(scratch) / "sound.m4a"
        _write_sound(sound, clip)
        loud = dataclasses.replace(silent, path=sound, has_sound=True)
        for name, info, frames in (
            ("input.mp4", loud, clip.images),
            ("mask.mkv", silent, masks),
            ("truth.mp4", loud, clip.truth),
        ):
            with open_writer(folder / name, info) as writer:
                for frame in frames:
                    writer.write(frame)


def _write_sound(path: Path, clip: DemoClip) -> None:
    """Write the sound alone, as AAC."""
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=clip.sample_rate, layout="stereo")
        samples = np.ascontiguousarray(clip.sound.T)
        frame = av.AudioFrame.from_ndarray(samples, "fltp", "stereo")
        frame.sample_rate = clip.sample_rate
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def _read_all(path: Path) -> Pixels:
    """(T, H, W, 3)"""
    with open_reader(path) as reader:
        return np.stack([frame.pixels for frame in reader])


def _save_comparison(
    path: Path,
    clip: DemoClip,
    source: NDArray[np.uint8],
    result: NDArray[np.uint8],
    telea: NDArray[np.uint8],
    psnr: tuple[float, float],
) -> None:
    """Draw the frame in the middle: source, result, cv2.inpaint and truth."""
    from combcn_core.clips.pictures import outline_mask, save_picture, side_by_side

    middle = len(source) // 2
    panels = {
        "Source\nwhat is to be removed": outline_mask(source[middle], clip.masks[middle]),
        f"CombCN\nhole PSNR {psnr[0]:.2f} dB": result[middle],
        f"cv2.inpaint, Telea\nhole PSNR {psnr[1]:.2f} dB": telea[middle],
        "Truth\nrendered without the van": clip.truth[middle],
    }
    save_picture(path, side_by_side(list(panels.values()), list(panels), columns=2))


# --- combcn evaluate ------------------------------------------------------------------------------


def _evaluate(command: Evaluate) -> None:
    from combcn_core.measure.scores import describe, format_table
    from combcn_core.networks.checkpoint import WEIGHTS_FOLDER, load_model

    config = command.config()
    if command.self_test:
        return _self_test(command, config)
    if command.mask is not None:
        raise ValueError(f"--mask {command.mask} is for --self-test; add that, or leave it out.")
    # Without methods named, those are taken that there are weights for.
    wanted = {WEIGHTS.get(method) for method in config.methods or WEIGHTS}
    is_there = (WEIGHTS_FOLDER / "default.safetensors").is_file()
    model = model_2dcn = None
    if "weights" in wanted and (command.weights is not None or is_there):
        model = load_model(command.weights or "default")
    if "weights-2dcn" in wanted and command.weights_2dcn is not None:
        model_2dcn = load_model(command.weights_2dcn)
    with logging_redirect_tqdm(), _bar(command.data.name, unit="result") as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        scores = evaluate(
            command.data,
            command.output,
            config,
            model=model,
            model_2dcn=model_2dcn,
            progress=progress,
        )
    print(f"{describe(scores)}\n")
    for metric in ("l1", "hole_psnr", "flicker", "seconds_per_frame"):
        print(f"{format_table(scores, metric)}\n")
    print(
        f"{command.output / 'index.html'} shows the worst frames, and all else that was measured."
    )


def _self_test(command: Evaluate, config: EvaluateConfig) -> None:
    from combcn_core.measure.predict import describe, self_test_file

    if command.mask is None:
        raise ValueError("--self-test needs --mask; give what is to be removed from the clip.")
    fields = {field.name: field.default for field in dataclasses.fields(Evaluate)}
    for name in ("methods", "holes", "frames", "size", "weights_2dcn"):
        if getattr(command, name) != fields[name]:
            flag = name.replace("_", "-")
            raise ValueError(f"--{flag} is of no use with --self-test; leave one out.")
    settings = InpaintConfig(
        grow_pixels=config.grow_pixels,
        unseen=config.unseen,
        device=config.device,
        precision=config.precision,
    )
    open_reader(command.data)  # before the weights are read, which may take longer
    model = _load_weights(command.weights, True)
    with logging_redirect_tqdm(), _bar(command.data.name, unit="%") as bar:
        bar.total = 100

        def tell(share: float, frame: Pixels | None) -> None:
            bar.update(int(100 * share) - bar.n)

        prediction = self_test_file(
            command.data,
            command.mask,
            command.output,
            model,
            settings,
            seeds=config.seeds,
            max_frames=command.test_frames,
            tell=tell,
        )
    print("\n".join(describe(prediction)))
    print(f"{command.output / 'index.html'} shows the hidden areas.")


def _parse_size(text: str) -> tuple[int, int] | None:
    """(height, width)"""
    match = re.fullmatch(r"(\d+)(?:x(\d+))?", text)
    if match is None:
        raise ValueError(f"--size is {text}; give one side, such as 128, or 432x240, or 0.")
    width, height = int(match[1]), int(match[2] or match[1])
    return (height, width) if width or height else None


# --- combcn train ---------------------------------------------------------------------------------


def _train(command: Train) -> None:
    from combcn_core.networks.checkpoint import check_name, load_model
    from combcn_core.networks.layers import CombCN, NetworkConfig
    from combcn_core.training.data import scan_footage
    from combcn_core.training.log import TrainingLog
    from combcn_core.training.train import Progress, estimate, train

    config = command.config()
    network = NetworkConfig(
        ratio=command.ratio,
        time_stride=command.time_stride,
        guidance=command.guidance,
        input_fill=command.input_fill,
        channel_divisor=command.channel_divisor,
    )
    start = None if command.start is None else load_model(command.start)
    if command.start_detail is not None:
        if start is None:
            raise ValueError(
                f"--start-detail {command.start_detail} goes with --start, which gives 3DCN; give "
                "both."
            )
        start = CombCN.join(start, load_model(command.start_detail))
    if command.widen:
        if start is None:
            raise ValueError("--widen goes with --start, whose networks it widens; give both.")
        start = start.widen()
    check_name(command.output)
    if command.data.resolve() in command.output.resolve().parents:
        raise ValueError(
            f"{command.output} lies in {command.data}, where its sample pictures would be learnt "
            "from; give an output elsewhere."
        )
    where = _parse_where(command.where)
    footage = scan_footage(
        command.data, where=where, clip_length=config.clip_length, workers=config.workers
    )
    speaks = os.environ.get("RANK", "0") == "0"  # several processes train, one reports
    if speaks:
        _say(
            f"{len(footage.train)} files to learn from, {len(footage.validation)} held back"
            + (f", {len(footage.skipped)} left out." if footage.skipped else ".")
        )
    if command.dry_run:
        needed = estimate(footage, config, network=network, start=start)
        steps = " and ".join(f"{count} of {name}" for name, count in needed.steps.items())
        memory = "" if needed.memory_bytes is None else f", {needed.memory_bytes / GIB:.1f} GiB"
        if speaks:
            print(f"{steps} steps: {_duration(needed.seconds)}{memory}; nothing was written.")
        return
    log = TrainingLog(command.output)
    progress: Progress | None = None
    with (
        logging_redirect_tqdm(),
        _bar(command.output.name, "step") as bar,
        closing(train(footage, command.output, config, network=network, start=start)) as under_way,
    ):
        for progress in under_way:
            if not speaks:
                continue
            log.add(progress)
            bar.total = progress.steps
            bar.update(progress.step - bar.n)
            bar.set_postfix({name: f"{loss:.2f}" for name, loss in progress.losses.items()})
    if not speaks:
        return
    if progress is None:
        print(f"{command.output}: all its steps are done; --steps with a higher number goes on.")
    else:
        losses = ", ".join(f"{name} {loss:.2f}" for name, loss in progress.losses.items())
        print(f"{command.output}: {progress.step} steps, l1 of the last one: {losses}.")


def _parse_where(texts: Iterable[str]) -> dict[str, str]:
    where = {}
    for text in texts:
        column, equals, value = text.partition("=")
        if not (column and equals):
            raise ValueError(f"--where is {text}; give a column and its value, such as shot=12.")
        where[column] = value
    return where


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} minutes" if seconds < 7200 else f"{seconds / 3600:.1f} hours"


# --- combcn batch ---------------------------------------------------------------------------------


def _batch(command: Batch) -> int:
    from combcn_core.stream.batch import Outcome, run_batch

    if command.workers < 0:
        raise ValueError(f"--workers is {command.workers}; give a number of processes, or 0.")

    def tell(outcome: Outcome) -> None:
        print(f"{outcome.row.output}: {outcome.status}{outcome.reason and f', {outcome.reason}'}")

    outcomes = run_batch(
        command.manifest, engine=command.engine, workers=command.workers, on_outcome=tell
    )
    statuses = [outcome.status for outcome in outcomes]
    counts = ", ".join(f"{statuses.count(name)} {name}" for name in ("done", "skipped", "failed"))
    print(f"{len(statuses)} shots: {counts}.")
    return 1 if "failed" in statuses else 0
