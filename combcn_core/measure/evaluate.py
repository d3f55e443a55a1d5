"""Measure methods on clips whose truth is known: a table, a CSV file and a page of pictures.

A clip is its own truth and gets synthetic holes; where the background behind an object is known,
removing that object can be measured too. Each row of the CSV file is one method on one clip with
one hole. It carries a digest of all that it follows from: pixels, holes, weights, precision and
the version of results. So a run that was stopped goes on where it was, and no row that is out of
date counts.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from combcn_core.atomic import make_folder
from combcn_core.clips.pictures import (
    Image,
    frame_over_slice,
    outline_mask,
    save_picture,
    side_by_side,
    xt_slice,
)
from combcn_core.clips.video import PathLike
from combcn_core.fill.stages import fill_each_frame, fill_rest
from combcn_core.masks import composite
from combcn_core.measure import metrics
from combcn_core.measure.scores import Score, ScoreBook, Sheet, write_page
from combcn_core.measure.trials import (
    METHODS,
    EvaluateConfig,
    Method,
    Trial,
    digest,
    find_clips,
    list_trials,
    make_trials,
)
from combcn_core.networks.inference import InferenceModel, Model, fast_precision
from combcn_core.networks.layers import CombCN
from combcn_core.networks.restore import infer_temporal, upsample_guidance
from combcn_core.networks.scales import restore_detail
from combcn_core.shot import InpaintConfig, ShotInpainter, inpaint
from combcn_core.version import RESULTS_VERSION

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

log = logging.getLogger("combcn")


def evaluate(
    data: PathLike,
    output: PathLike,
    config: EvaluateConfig | None = None,
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
        config: settings; the defaults if None.
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
    config = config or EvaluateConfig()
    methods = _choose_methods(config, model, model_2dcn)
    clips = find_clips(data)
    total = len(methods) * sum(len(list_trials(clip, config)) for clip in clips)
    if total == 0:
        raise ValueError(
            f"no clip of {data} has masks/ and background.png beside its frames/, which a removal "
            "needs; name other holes."
        )
    folder = make_folder(output)
    book = ScoreBook(folder / "scores.csv")
    scores: list[Score] = []
    sheets: list[Sheet] = []
    for trial in (trial for clip in clips for trial in make_trials(clip, config)):
        keys = {method: _key(trial, use) for method, use in methods.items()}
        picture = f"pictures/{digest(*keys.values())}.jpg"
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


# --- methods --------------------------------------------------------------------------------------


class _Use(NamedTuple):
    """A method's networks, if it has any, and a digest of what its results depend on."""

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
        identity = digest(method, str(RESULTS_VERSION))
        if method in ("combcn", "no-network"):
            identity = digest(identity, config.unseen)
        elif method not in CLASSICAL and config.fill != "rest":
            identity = digest(identity, config.fill)
        networks = given[WEIGHTS[method]] if method in WEIGHTS else None
        if networks is None:
            uses[method] = _Use(None, identity)
            continue
        prepared = _prepare(networks, config)
        uses[method] = _Use(prepared, digest(identity, _digest_weights(networks, prepared, config)))
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
    if method == "combcn":
        return inpaint(images, holes, model, pipeline)
    if method == "no-network":
        return inpaint(images, holes, None, pipeline)
    if method in CLASSICAL:
        return _fill_classically(images, holes, CLASSICAL[method])
    if method == "smooth":
        return _start(images, holes, config)
    assert model is not None
    if method != "3dcn" and config.fill == "rest":
        alone = replace(pipeline, propagate=False, unseen="smooth", match_grain=False)
        return inpaint(images, holes, model, alone)
    prepared = _prepare(model, config)
    given = _start(images, holes, config) if model.config.input_fill == "classical" else images
    if method == "2dcn":
        return restore_detail(prepared, given, holes)
    coarse = infer_temporal(prepared, given, holes)
    if method == "networks":
        return restore_detail(prepared, given, holes, coarse)
    height, width = images.shape[1:3]
    return composite(upsample_guidance(coarse, (height, width)), images, holes)


def _start(images: Tensor, holes: Tensor, config: EvaluateConfig) -> Tensor:
    """What networks alone start from."""
    return (fill_rest if config.fill == "rest" else fill_each_frame)(images, holes)


def _fill_classically(images: Tensor, holes: Tensor, flag: int) -> Tensor:
    filled = [
        cv2.inpaint(image, hole.astype(np.uint8), CLASSICAL_RADIUS_PIXELS, flag)
        for image, hole in zip(images.numpy(), holes.numpy(), strict=True)
    ]
    return torch.from_numpy(np.stack(filled))


def _prepare(model: Model, config: EvaluateConfig) -> InferenceModel:
    settings = InpaintConfig(device=config.device, precision=config.precision)
    prepared = ShotInpainter(settings, model).model
    assert prepared is not None
    return prepared


def _digest_weights(model: CombCN, prepared: InferenceModel, config: EvaluateConfig) -> str:
    device = prepared.temporal.device
    precision = fast_precision(device) if config.precision == "auto" else config.precision
    tensors = {name: value.cpu().contiguous() for name, value in model.state_dict().items()}
    return digest(f"{model.config} {device.type} {precision}", safetensors.torch.save(tensors))


def _key(trial: Trial, use: _Use) -> str:
    return digest(trial.clip, trial.hole, str(trial.seed), trial.digest, use.identity)


# --- one result -----------------------------------------------------------------------------------


def _measure(trial: Trial, method: Method, result: Tensor, seconds: float, key: str) -> Score:
    num_frames, height, width = trial.holes.shape
    with _one_thread():
        pair = (result, trial.truth, trial.holes)
        errors = metrics.frame_errors(*pair)
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
    trial: Trial, results: Mapping[Method, Tensor], scores: Mapping[Method, Score], frame: int
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
        here = metrics.frame_errors(result, trial.truth, trial.holes)[frame]
        labels.append(f"{method}\nl1 {here:.1f}; of the clip {scores[method].l1:.1f}")
    rows = math.ceil(len(panels) / max(2, SHEET_PIXELS // panels[0].shape[1]))
    return side_by_side(panels, labels, columns=math.ceil(len(panels) / rows))
