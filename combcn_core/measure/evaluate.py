"""Measure methods on clips whose truth is known: a table, a CSV file and a page of pictures.

A clip is its own truth and gets synthetic holes; where the background behind an object is known,
removing that object can be measured too. Each row of the CSV file is one method on one clip with
one hole. It carries a digest of all that it follows from: pixels, holes, weights, precision and
the version of results. So a run that was stopped goes on where it was, and no row that is out of
date counts.
"""

from __future__ import annotations

import hashlib
import logging
import math
import os
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import cv2
import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from combcn_core.clips.masks import read_mask
from combcn_core.clips.pictures import (
    Image,
    frame_over_slice,
    outline_mask,
    save_picture,
    side_by_side,
    xt_slice,
)
from combcn_core.clips.video import IMAGE_ENDINGS, VIDEO_ENDINGS, PathLike, open_reader
from combcn_core.masks import composite, grow
from combcn_core.measure import metrics
from combcn_core.measure.scores import Score, ScoreBook, Sheet, write_page
from combcn_core.networks.inference import InferenceModel, Model, fast_precision
from combcn_core.networks.layers import CombCN
from combcn_core.pixels import Pixels, from_unit, to_unit
from combcn_core.restore import infer_temporal, upsample_guidance
from combcn_core.shot import InpaintConfig, ShotInpainter, inpaint
from combcn_core.stages import fill_rest
from combcn_core.training.holes import HoleKind, make_holes
from combcn_core.version import RESULTS_VERSION

Method = Literal["combcn", "no-network", "networks", "3dcn", "2dcn", "smooth", "telea", "ns"]
METHODS: tuple[Method, ...] = get_args(Method)
# What each needs to be given, as the command and as `evaluate` call it.
WEIGHTS: Mapping[Method, str] = {
    "combcn": "weights",
    "networks": "weights",
    "3dcn": "weights",
    "2dcn": "weights-2dcn",
}
CLASSICAL: Mapping[Method, int] = {"telea": cv2.INPAINT_TELEA, "ns": cv2.INPAINT_NS}
CLASSICAL_RADIUS_PIXELS = 3
SHEET_PIXELS = 2000  # width of a picture, about

Hole = Literal[HoleKind, "removal"]

log = logging.getLogger("combcn")


@dataclass(frozen=True)
class EvaluateConfig:
    """Settings of `evaluate` and `combcn evaluate`."""

    methods: tuple[Method, ...] = ()
    """What to compare: combcn (what `combcn inpaint` does), no-network (the same without networks),
    networks (3DCN and CombCN alone, as in the paper), 3dcn, 2dcn, smooth (the fill that networks
    may start from), telea, ns (Navier-Stokes). None named: all that there are weights for."""
    holes: tuple[Hole, ...] = ("box", "moving-box", "blob")
    """Kinds of holes. removal: the masks of clips that have masks/ and background.png."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Of the holes: each clip gets a hole of each kind for each seed."""
    frames: int = 50
    """First frames of each clip that are used; 0 uses all."""
    size: tuple[int, int] | None = None
    """Crop and resize frames to this height and width; None leaves them as they are."""
    unseen: Literal["texture", "smooth"] = "texture"
    """What combcn and no-network put where no frame shows anything, as in
    `InpaintConfig`; networks and 2dcn show what the networks predict."""
    grow_pixels: int = 2
    """Grow the masks of removals by this many pixels, to cover soft edges."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where the networks run."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Arithmetic of the networks. auto: bf16 on a CPU made for it, fp16 on CUDA, else fp32."""

    def __post_init__(self) -> None:
        if self.unseen not in ("texture", "smooth"):
            raise ValueError(f"unseen is {self.unseen!r}; give 'texture' or 'smooth'.")
        for name, known in (("methods", METHODS), ("holes", get_args(Hole))):
            for value in getattr(self, name):
                if value not in known:
                    raise ValueError(f"{name} has {value!r}; choose from {', '.join(known)}.")
        for name in ("methods", "holes", "seeds"):
            values = getattr(self, name)
            if len(set(values)) < len(values):
                raise ValueError(f"{name} has {', '.join(map(str, values))}; name each one once.")
        if not self.holes:
            raise ValueError("holes is empty; name one kind or more.")
        if not self.seeds or min(self.seeds) < 0:
            raise ValueError(f"seeds is {self.seeds}; give one number or more, each 0 or above.")
        if self.frames < 0:
            raise ValueError(f"frames is {self.frames}; give 1 or more, or 0 for all.")
        if self.size is not None and min(self.size) < 8:
            raise ValueError(
                f"size is {self.size[1]}x{self.size[0]} pixels; give 8x8 or more, or none."
            )


def evaluate(
    data: PathLike,
    output: PathLike,
    config: EvaluateConfig = EvaluateConfig(),
    *,
    model: CombCN | None = None,
    model_2dcn: CombCN | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[Score]:
    """Run methods over clips with holes, and write what came out.

    `output` gets scores.csv, a row as soon as it is known; pictures/; and, when all is done,
    index.html, which shows the tables and the worst frame of every clip and hole.

    Args:
        data: a folder of videos and of clips as folders (NAME/frames/ or NAME/, with images); or
            one of these.
        output: a folder, made if need be. Rows in its scores.csv that would come out the same are
            not computed again.
        config: settings.
        model: the networks, with guidance.
        model_2dcn: networks without guidance, for the method 2dcn.
        progress: called with the number of rows done and of all, after each.

    Returns:
        The scores of this run, those found in scores.csv among them: clip by clip, then by hole,
        seed and method.

    Raises:
        ValueError: no clips, a clip that cannot be read, a method without its weights, removals
            without a clip for them, or an output that cannot be written.
    """
    methods = _choose_methods(config, model, model_2dcn)
    clips = find_clips(data)
    total = len(methods) * sum(len(_list_trials(clip, config)) for clip in clips)
    if total == 0:
        raise ValueError(
            f"no clip of {data} has masks/ and background.png beside its frames/, which a removal "
            "needs; name other holes."
        )
    folder = _make_folder(output)
    book = ScoreBook(folder / "scores.csv")
    scores: list[Score] = []
    sheets: list[Sheet] = []
    for trial in (trial for clip in clips for trial in _make_trials(clip, config)):
        keys = {method: _key(trial, use) for method, use in methods.items()}
        picture = f"pictures/{_digest(*keys.values())}.jpg"
        draws = trial.is_shown and not (folder / picture).exists()
        results: dict[Method, Tensor] = {}
        found: dict[Method, Score] = {}
        for method, use in methods.items():
            score = book.get(keys[method])
            if score is None or draws:
                start = time.perf_counter()
                results[method] = fill(method, trial.images, trial.holes, use.model, config)
                seconds = time.perf_counter() - start
            if score is None:
                score = _measure(trial, method, results[method], seconds, keys[method])
                book.add(score)
            found[method] = score
            if progress is not None:
                progress(len(scores) + len(found), total)
        scores += found.values()
        first = next(iter(found.values()))
        if draws:
            save_picture(folder / picture, _draw_sheet(trial, results, found, first.worst_frame))
        if trial.is_shown:
            sheets.append(Sheet(first, picture))
    write_page(folder / "index.html", Path(data).resolve().name, scores, sheets)
    return scores


def _make_folder(path: PathLike) -> Path:
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = error.strerror or error
        raise ValueError(f"folder {folder} cannot be made ({reason}); give another one.") from error
    return folder


def _digest(*parts: str | bytes) -> str:
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "big") + data)
    return digest.hexdigest()[:16]


# --- clips and holes ------------------------------------------------------------------------------


class Clip(NamedTuple):
    """Where a clip is. `masks` and `background` are there where a removal can be scored."""

    name: str
    frames: Path
    masks: Path | None = None
    background: Path | None = None


def find_clips(data: PathLike) -> list[Clip]:
    """The videos and clip folders in a folder, by name; or the one clip that `data` is.

    Raises:
        ValueError: nothing there, or something that cannot be read.
    """
    path = Path(data)
    if not path.exists():
        raise ValueError(f"{path} does not exist; give a folder of clips.")
    entries = [path]
    if path.is_dir() and not (path / "frames").is_dir():
        entries = [entry for entry in sorted(path.iterdir()) if not entry.name.startswith(".")]
    clips = [clip for entry in entries if (clip := _as_clip(entry)) is not None]
    if not clips and path.is_dir() and (own := _as_clip(path)) is not None:
        clips = [own]
    if not clips:
        raise ValueError(
            f"{path} has no clips; give a folder of videos, or of folders with images in them."
        )
    for clip in clips:
        open_reader(clip.frames)  # what is wrong shows before any work is done
    return clips


def _as_clip(path: Path) -> Clip | None:
    name = Path(os.path.abspath(path)).name
    if path.is_file():
        return Clip(name, path) if path.suffix.lower() in VIDEO_ENDINGS else None
    frames, masks, background = path / "frames", path / "masks", path / "background.png"
    if frames.is_dir():
        can_remove = masks.is_dir() and background.is_file()
        return Clip(name, frames, masks, background) if can_remove else Clip(name, frames)
    has_images = any(file.suffix.lower() in IMAGE_ENDINGS for file in path.iterdir())
    return Clip(name, path) if has_images and name != "masks" else None


class _Trial(NamedTuple):
    """A clip with a hole."""

    clip: str
    hole: Hole
    seed: int
    is_shown: bool  # on the page
    images: Tensor  # (T, H, W, 3) uint8
    truth: Tensor  # as images; the background in a removal
    holes: Tensor  # (T, H, W) bool
    digest: str  # of these three


def _list_trials(clip: Clip, config: EvaluateConfig) -> list[tuple[Hole, int]]:
    """Kinds and seeds of the holes that a clip gets."""
    pairs: list[tuple[Hole, int]] = []
    for hole in config.holes:
        if hole != "removal":
            pairs += [(hole, seed) for seed in config.seeds]
        elif clip.masks is not None:
            pairs.append((hole, 0))
    return pairs


def _make_trials(clip: Clip, config: EvaluateConfig) -> Iterator[_Trial]:
    trials = _list_trials(clip, config)
    if not trials:
        return
    images = _read(clip.frames, config)
    for hole, seed in trials:
        truth = images
        if hole == "removal":
            assert clip.masks is not None
            assert clip.background is not None
            holes = grow(_read_masks(clip.masks, clip.frames, config), config.grow_pixels)
            truth = _read(clip.background, config)
            if truth.shape[1:] != images.shape[1:]:
                raise ValueError(
                    f"{clip.background} is {truth.shape[2]}x{truth.shape[1]} but the frames of the "
                    f"clip are {images.shape[2]}x{images.shape[1]}; bring both to one size."
                )
            truth = truth.expand_as(images).contiguous()
        else:
            # By name, so that other clips in the folder do not change the holes of this one.
            name = zlib.crc32(clip.name.encode())
            num_frames, height, width = images.shape[:3]
            holes = make_holes(hole, num_frames, height, width, seed=(seed, name))
        is_shown = hole == "removal" or seed == config.seeds[0]
        parts = [images.numpy(), truth.numpy(), holes.numpy()]
        digest = _digest(*(f"{part.shape}".encode() + part.tobytes() for part in parts))
        yield _Trial(clip.name, hole, seed, is_shown, images, truth, holes, digest)


def _read(path: Path, config: EvaluateConfig) -> Tensor:
    """(T, H, W, 3) uint8"""
    with open_reader(path, frames=_span(path, config)) as reader:
        frames = [_fit(frame.pixels, config.size) for frame in reader]
    uint8 = np.dtype(np.uint8)
    return torch.from_numpy(np.stack([from_unit(to_unit(frame), uint8) for frame in frames]))


def _read_masks(path: Path, frames: Path, config: EvaluateConfig) -> Tensor:
    """(T, H, W) bool"""
    info = open_reader(frames, frames=_span(frames, config)).info
    with read_mask(path, info) as masks:
        fitted = [_fit(mask.astype(np.uint8) * np.uint8(255), config.size) for mask in masks]
    return torch.from_numpy(np.stack(fitted) >= 128)


def _span(path: Path, config: EvaluateConfig) -> tuple[int, int]:
    total = open_reader(path).info.total_frames
    assert total is not None
    return 0, min(config.frames or total, total) - 1


def _fit(image: Pixels, size: tuple[int, int] | None) -> Pixels:
    """The middle of an image, as large as the wanted shape allows, at the wanted size."""
    height, width = image.shape[:2]
    if size is None or size == (height, width):
        return image
    scale = max(size[0] / height, size[1] / width)
    rows, columns = min(height, round(size[0] / scale)), min(width, round(size[1] / scale))
    top, left = (height - rows) // 2, (width - columns) // 2
    middle = image[top : top + rows, left : left + columns]
    mode = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    return cv2.resize(middle, size[::-1], interpolation=mode)


# --- methods --------------------------------------------------------------------------------------


class _Use(NamedTuple):
    """A method's networks, if it has any, and a digest of all that its results follow from."""

    model: InferenceModel | None
    identity: str


def _choose_methods(
    config: EvaluateConfig, model: CombCN | None, model_2dcn: CombCN | None
) -> dict[Method, _Use]:
    if model is not None and not model.config.guidance:
        raise ValueError(
            "the weights are of networks without guidance, which is 2DCN; give them as "
            "--weights-2dcn (model_2dcn), and others, or none, as --weights."
        )
    if model_2dcn is not None and model_2dcn.config.guidance:
        raise ValueError(
            "the weights for 2DCN are of networks with guidance; give some that were trained with "
            "guidance off."
        )
    given = {"weights": model, "weights-2dcn": model_2dcn}
    lacking = [name for name in METHODS if name in WEIGHTS and given[WEIGHTS[name]] is None]
    for method in config.methods:
        if method in lacking:
            raise ValueError(
                f"the method {method} needs weights; give them with --{WEIGHTS[method]} PATH, or "
                "leave it out of --methods."
            )
    if lacking and not config.methods:
        log.info("left out, since no weights are there: %s.", ", ".join(lacking))
    chosen = config.methods or tuple(name for name in METHODS if name not in lacking)
    uses: dict[Method, _Use] = {}
    for method in chosen:
        identity = _digest(method, str(RESULTS_VERSION))
        if method in ("combcn", "no-network"):
            identity = _digest(identity, config.unseen)
        networks = given[WEIGHTS[method]] if method in WEIGHTS else None
        if networks is None:
            uses[method] = _Use(None, identity)
            continue
        prepared = _prepare(networks, config)
        uses[method] = _Use(
            prepared, _digest(identity, _digest_weights(networks, prepared, config))
        )
    return uses


def fill(
    method: Method, images: Tensor, holes: Tensor, model: Model | None, config: EvaluateConfig
) -> Tensor:
    """Fill holes with one of the METHODS; known pixels are not touched.

    Args:
        method: which.
        images: (T, H, W, 3) uint8.
        holes: (T, H, W) bool.
        model: the networks, for methods that have any.
        config: device and precision.

    Returns:
        As images.
    """
    pipeline = InpaintConfig(unseen=config.unseen, device=config.device, precision=config.precision)
    networks_alone = replace(pipeline, propagate=False, unseen="smooth", match_grain=False)
    if method == "combcn":
        return inpaint(images, holes, model, pipeline)
    if method == "no-network":
        return inpaint(images, holes, None, pipeline)
    if method == "smooth":
        return fill_rest(images, holes)
    if method in CLASSICAL:
        return _fill_classically(images, holes, CLASSICAL[method])
    assert model is not None
    if method == "3dcn":
        return _fill_temporal(images, holes, _prepare(model, config))
    return inpaint(images, holes, model, networks_alone)


def _fill_classically(images: Tensor, holes: Tensor, flag: int) -> Tensor:
    filled = [
        cv2.inpaint(image, hole.astype(np.uint8), CLASSICAL_RADIUS_PIXELS, flag)
        for image, hole in zip(images.numpy(), holes.numpy(), strict=True)
    ]
    return torch.from_numpy(np.stack(filled))


def _fill_temporal(images: Tensor, holes: Tensor, model: InferenceModel) -> Tensor:
    """3DCN's frames, brought to full size."""
    given = fill_rest(images, holes) if model.config.input_fill == "classical" else images
    height, width = images.shape[1:3]
    coarse = infer_temporal(model, given, holes)
    return composite(upsample_guidance(coarse, (height, width)), images, holes)


def _prepare(model: Model, config: EvaluateConfig) -> InferenceModel:
    settings = InpaintConfig(device=config.device, precision=config.precision)
    prepared = ShotInpainter(settings, model).model
    assert prepared is not None
    return prepared


def _digest_weights(model: CombCN, prepared: InferenceModel, config: EvaluateConfig) -> str:
    device = prepared.temporal.device
    precision = fast_precision(device) if config.precision == "auto" else config.precision
    tensors = {name: value.cpu().contiguous() for name, value in model.state_dict().items()}
    return _digest(f"{model.config} {device.type} {precision}", safetensors.torch.save(tensors))


def _key(trial: _Trial, use: _Use) -> str:
    return _digest(trial.clip, trial.hole, str(trial.seed), trial.digest, use.identity)


# --- one result -----------------------------------------------------------------------------------


def _measure(trial: _Trial, method: Method, result: Tensor, seconds: float, key: str) -> Score:
    num_frames, height, width = trial.holes.shape
    with _one_thread():
        errors = _errors(trial, result)
        pair = (result, trial.truth, trial.holes)
        is_small = min(height, width) < metrics.SSIM_WINDOW
        return Score(
            method=method,
            clip=trial.clip,
            hole=trial.hole,
            seed=trial.seed,
            frames=num_frames,
            height=height,
            width=width,
            l1=metrics.l1(*pair),
            hole_psnr=metrics.hole_psnr(*pair),
            psnr=metrics.psnr(*pair),
            ssim=math.nan if is_small else metrics.ssim(*pair),
            flicker=metrics.flicker(*pair),
            gradient_energy_ratio=metrics.gradient_energy_ratio(*pair),
            seconds_per_frame=seconds / num_frames,
            worst_frame=int(np.argmax(errors)),
            worst_l1=max(errors),
            key=key,
        )


def _errors(trial: _Trial, result: Tensor) -> list[float]:
    """l1 of each frame; 0 where there is no hole."""
    pairs = zip(result[:, None], trial.truth[:, None], trial.holes[:, None], strict=True)
    return [metrics.l1(*pair) if pair[2].any() else 0.0 for pair in pairs]


@contextmanager
def _one_thread() -> Iterator[None]:
    """Work on single frames is too little to share: threads would mostly wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _draw_sheet(
    trial: _Trial, results: Mapping[Method, Tensor], scores: Mapping[Method, Score], frame: int
) -> Image:
    """A frame with its x-t slice beneath: the source, and what each method made of it."""
    hole_rows = trial.holes.nonzero()[:, 1]
    row = int(hole_rows.median()) if len(hole_rows) else trial.holes.shape[1] // 2
    source = trial.images.numpy()
    outlined = outline_mask(source[frame], trial.holes[frame].numpy())
    panels = [frame_over_slice(outlined, xt_slice(source, row))]
    labels = [f"source\nframe {frame}; slice of row {row}"]
    if trial.hole == "removal":
        panels.append(
            frame_over_slice(trial.truth[frame].numpy(), xt_slice(trial.truth.numpy(), row))
        )
        labels.append("truth")
    for method, result in results.items():
        panels.append(frame_over_slice(result[frame].numpy(), xt_slice(result.numpy(), row)))
        here = _errors(trial, result)[frame]
        labels.append(f"{method}\nl1 {here:.1f}; of the clip {scores[method].l1:.1f}")
    rows = math.ceil(len(panels) / max(2, SHEET_PIXELS // panels[0].shape[1]))
    return side_by_side(panels, labels, columns=math.ceil(len(panels) / rows))
