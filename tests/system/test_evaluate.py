"""Evaluation on clips of known content: its figures, what it keeps, and what it shows."""

import csv
import dataclasses
import math
import os
import re
import signal
import statistics
import subprocess
import sys
import time
import zlib
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from skimage.metrics import structural_similarity

from combcn_core import cli
from combcn_core.fill.smooth import fill_smoothly
from combcn_core.measure import evaluate as module
from combcn_core.measure.evaluate import evaluate, fill
from combcn_core.measure.scores import Score, describe_scores, format_table, summarize
from combcn_core.measure.trials import EvaluateConfig, find_clips
from combcn_core.networks.checkpoint import save_model
from combcn_core.networks.layers import CombCN, NetworkConfig
from combcn_core.pixels import Patch
from combcn_core.shot import InpaintConfig, inpaint
from combcn_core.training.holes import make_holes

from ..helpers import write_video

COMMAND = Path(sys.executable).with_name("combcn")
CLASSICAL = EvaluateConfig(methods=("telea", "ns"), holes=("box",), seeds=(3, 5))


def moving_frames(count=4, height=26, width=34, seed=0):
    """(T, H, W, 3) uint8: a coloured texture that passes by, two pixels a frame."""
    noise = np.random.default_rng(seed).integers(0, 256, (7, 9, 3), np.uint8)
    picture = cv2.resize(noise, (width + 2 * count, height), interpolation=cv2.INTER_CUBIC)
    return np.stack([picture[:, 2 * i : 2 * i + width] for i in range(count)])


def write_images(folder, images, ending="png"):
    folder.mkdir(parents=True)
    for index, image in enumerate(images):
        pixels = image[..., ::-1] if image.ndim == 3 else image
        assert cv2.imwrite(str(folder / f"{index:05d}.{ending}"), pixels)
    return folder


@pytest.fixture
def data(tmp_path):
    """Two clips: a video of four frames, and a folder of five images."""
    (tmp_path / "data").mkdir()
    write_video(tmp_path / "data" / "pan.mkv", moving_frames())
    write_images(tmp_path / "data" / "walk" / "frames", moving_frames(5, 24, 40, seed=1))
    (tmp_path / "data" / "notes.txt").write_text("not a clip")
    return tmp_path / "data"


def model_of(seed=0, **config):
    torch.manual_seed(seed)
    return CombCN(NetworkConfig(**config)).eval()


def rows_of(folder):
    with open(folder / "scores.csv", newline="") as file:
        return list(csv.DictReader(file))


def hole_of(name, kind, seed, shape):
    return make_holes(kind, *shape[:3], seed=(seed, zlib.crc32(name.encode()))).numpy()


def telea(images, holes):
    return np.stack(
        [
            cv2.inpaint(image, hole.astype(np.uint8), 3, cv2.INPAINT_TELEA)
            for image, hole in zip(images, holes, strict=True)
        ]
    )


# Figures


def test_scores_against_numpy(data, tmp_path):
    """Every figure of a row, recomputed from the definitions in the documentation of `metrics`."""
    images = moving_frames(3, 70, 82, seed=2)  # large enough for SSIM
    write_video(data / "large.mkv", images)
    config = EvaluateConfig(methods=("telea",), holes=("blob",), seeds=(4,))
    (score,) = evaluate(data / "large.mkv", tmp_path / "out", config)

    holes = hole_of("large.mkv", "blob", 4, images.shape)
    result = telea(images, holes)
    error = result.astype(float) - images
    frame_l1 = [np.abs(e[h]).mean() for e, h in zip(error, holes, strict=True)]
    both = holes[1:] & holes[:-1]
    close = {"rel": 1e-6}  # metrics start from float32
    assert score.l1 == pytest.approx(np.abs(error[holes]).mean(), **close)
    assert score.hole_psnr == pytest.approx(
        10 * np.log10(255**2 / (error[holes] ** 2).mean()), **close
    )
    psnrs = [10 * np.log10(255**2 / (e**2).mean()) for e in error]
    assert score.psnr == pytest.approx(np.mean(psnrs), **close)
    likeness = [
        structural_similarity(a, b, win_size=65, channel_axis=-1, data_range=255)
        for a, b in zip(result, images, strict=True)
    ]
    assert score.ssim == pytest.approx(np.mean(likeness), **close)
    assert score.flicker == pytest.approx(np.abs(np.diff(error, axis=0)[both]).mean(), **close)
    energies = []
    for clip in (result.astype(float), images.astype(float)):
        down, right = holes[:, 1:] & holes[:, :-1], holes[:, :, 1:] & holes[:, :, :-1]
        energies.append(
            (np.diff(clip, axis=1)[down] ** 2).sum() + (np.diff(clip, axis=2)[right] ** 2).sum()
        )
    assert score.gradient_energy_ratio == pytest.approx(energies[0] / energies[1], **close)
    assert score.worst_frame == np.argmax(frame_l1)
    assert score.worst_l1 == pytest.approx(max(frame_l1), **close)
    assert (score.frames, score.height, score.width) == (3, 70, 82)
    assert score.seconds_per_frame > 0


def test_rows_are_methods_by_seeds_by_holes_by_clips(data, tmp_path):
    config = dataclasses.replace(CLASSICAL, holes=("box", "blob"))
    done = []
    scores = evaluate(data, tmp_path / "out", config, progress=lambda *pair: done.append(pair))
    named = [(s.clip, s.hole, s.seed, s.method) for s in scores]
    assert named == [
        (clip, hole, seed, method)
        for clip in ("pan.mkv", "walk")
        for hole in ("box", "blob")
        for seed in (3, 5)
        for method in ("telea", "ns")
    ]
    assert done == [(number, 16) for number in range(1, 17)]
    assert len({score.key for score in scores}) == 16
    rows = rows_of(tmp_path / "out")
    for row, score in zip(rows, scores, strict=True):
        for field in dataclasses.fields(Score):
            text, value = row[field.name], getattr(score, field.name)
            assert text == str(value)  # floats in full, so that a row read back is the same
    assert all(math.isnan(score.ssim) for score in scores)  # below 65 x 65


def test_frames_and_size_crop_the_middle_and_average(data, tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (6, 40, 90, 3), np.uint8)
    write_images(data / "wide", images)
    config = EvaluateConfig(methods=("telea",), holes=("box",), seeds=(0,), frames=2, size=(20, 30))
    (score,) = evaluate(data / "wide", tmp_path / "out", config)
    # 30 x 20 is 60 x 40 of the source, every 2 x 2 pixels averaged.
    middle = images[:2, :, 15:75].astype(float).reshape(2, 20, 2, 30, 2, 3).mean(axis=(2, 4))
    small = np.floor(middle + 0.5).astype(np.uint8)
    holes = hole_of("wide", "box", 0, small.shape)
    expected = np.abs(telea(small, holes).astype(float) - small)[holes].mean()
    # OpenCV may round a half down: one step in a quarter of the pixels.
    assert score.l1 == pytest.approx(expected, abs=0.5)
    assert (score.frames, score.height, score.width) == (2, 20, 30)


def test_16_bits_are_measured_at_8(data, tmp_path):
    images = moving_frames(2)
    write_images(data / "deep", images.astype(np.uint16) * 257)
    write_images(tmp_path / "flat" / "deep", images)
    config = EvaluateConfig(methods=("telea",), holes=("box",), seeds=(0,))
    deep = evaluate(data / "deep", tmp_path / "a", config)
    flat = evaluate(tmp_path / "flat" / "deep", tmp_path / "b", config)
    assert deep[0].key == flat[0].key
    assert deep[0].l1 == flat[0].l1


def test_removal_is_measured_against_the_background(data, tmp_path):
    background = moving_frames(1, 30, 40, seed=7)[0]
    masks = np.zeros((4, 30, 40), np.uint8)
    for t in range(4):
        masks[t, 8:14, 6 + 3 * t : 14 + 3 * t] = 255
    images = np.where(masks[..., None] > 0, 250, background).astype(np.uint8)
    write_images(data / "street" / "frames", images)
    write_images(data / "street" / "masks", masks)
    assert cv2.imwrite(str(data / "street" / "background.png"), background[..., ::-1])

    config = EvaluateConfig(methods=("telea",), holes=("removal",), seeds=(1, 2), frames=3)
    (score,) = evaluate(data, tmp_path / "out", dataclasses.replace(config, grow_pixels=1))
    assert (score.clip, score.hole, score.seed, score.frames) == ("street", "removal", 0, 3)
    cross = np.array([[0, 1, 0], [1, 1, 1], [0, 1, 0]], np.uint8)
    holes = np.stack([cv2.dilate(mask, cross) > 0 for mask in masks[:3]])
    error = telea(images[:3], holes).astype(float) - background
    assert score.l1 == pytest.approx(np.abs(error[holes]).mean(), rel=1e-6)

    (score,) = evaluate(data, tmp_path / "small", dataclasses.replace(config, size=(15, 20)))
    assert (score.height, score.width) == (15, 20)


def test_other_clips_do_not_change_the_holes_of_a_clip(data, tmp_path):
    together = evaluate(data, tmp_path / "a", CLASSICAL)
    alone = evaluate(data / "walk", tmp_path / "b", CLASSICAL)
    assert [s.key for s in together if s.clip == "walk"] == [s.key for s in alone]
    assert len({s.l1 for s in alone}) == 4  # seeds and methods differ


# Methods


def clip_and_hole():
    images = moving_frames(3, 24, 32)
    return torch.from_numpy(images), torch.from_numpy(hole_of("", "box", 0, images.shape))


@pytest.mark.parametrize(
    ("method", "input_fill"),
    [
        *((method, "mean") for method in module.METHODS),
        ("3dcn", "classical"),
        ("2dcn", "classical"),
    ],
)
def test_methods_leave_known_pixels_alone_and_fill_the_hole(method, input_fill):
    images, holes = clip_and_hole()
    marked = torch.where(holes[..., None], torch.tensor([255, 0, 255], dtype=torch.uint8), images)
    model = model_of(guidance=method != "2dcn", input_fill=input_fill)
    result = fill(method, marked, holes, model, EvaluateConfig())
    assert result.dtype == torch.uint8
    assert torch.equal(result[~holes], images[~holes])
    assert not torch.equal(result[holes], marked[holes])
    # What stood in the hole must not matter: the truth is there when methods are compared.
    assert torch.equal(fill(method, images, holes, model, EvaluateConfig()), result)


def test_3dcn_against_its_steps(data):
    """Block means of known pixels, mean fill, the network, a bicubic resize, rounding."""
    images, holes = clip_and_hole()
    model = model_of(mean_pixel=(0.2, 0.4, 0.6))
    truth, hole = images.numpy() / 255.0, holes.numpy()
    known = ~hole[..., None] * np.ones(3)
    blocks = (3, 12, 2, 16, 2)
    area = known.reshape(*blocks, 3).sum(axis=(2, 4))
    small = (truth * known).reshape(*blocks, 3).sum(axis=(2, 4)) / np.maximum(area, 1)
    small_hole = hole.reshape(blocks).any(axis=(2, 4))
    start = np.where(small_hole[..., None], model.config.mean_pixel, small)
    clip = torch.from_numpy(start).float().permute(3, 0, 1, 2)[None]
    with torch.inference_mode():
        painted = model.temporal(clip, torch.from_numpy(small_hole)[None, None].float())
    painted = painted[0].permute(1, 2, 3, 0).numpy()
    coarse = np.where(small_hole[..., None], painted, small).astype(np.float32)
    large = np.stack(
        [cv2.resize(frame, (32, 24), interpolation=cv2.INTER_CUBIC) for frame in coarse]
    )
    expected = np.rint(np.clip(large, 0, 1) * 255)
    result = fill("3dcn", images, holes, model, EvaluateConfig(precision="fp32")).numpy()
    # A value at the edge of two steps may be rounded to either.
    assert np.abs(result[hole].astype(float) - expected[hole]).max() <= 1


@pytest.mark.parametrize("input_fill", ["mean", "classical"])
def test_networks_are_those_of_the_pipeline(data, tmp_path, input_fill):
    model, other = (model_of(seed, input_fill=input_fill) for seed in (0, 1))
    for networks in (model, other):
        for net in (networks.temporal, networks.detail):  # as if trained
            torch.nn.init.normal_(net.layers[str(len(net.layers))][0].bias, std=0.1)
    images, holes = clip_and_hole()
    alone = InpaintConfig(propagate=False, unseen="smooth", match_grain=False)
    config = EvaluateConfig()
    result = fill("networks", images, holes, model, config)
    assert torch.equal(result, inpaint(images, holes, model, alone))
    assert not torch.equal(result, fill("networks", images, holes, other, config))
    assert torch.equal(fill("combcn", images, holes, model, config), inpaint(images, holes, model))
    no_network = fill("no-network", images, holes, None, config)
    assert torch.equal(no_network, inpaint(images, holes))
    assert not torch.equal(no_network, fill("combcn", images, holes, model, config))


def test_networks_that_start_from_single_frames_know_others_by_guidance_alone(data, tmp_path):
    images, holes = clip_and_hole()
    changed = images.clone()
    changed[-1] = 255 - changed[-1]
    config = EvaluateConfig(
        fill="smooth", methods=("smooth", "2dcn"), holes=("box",), seeds=(0,), frames=4
    )
    guided, alone = (model_of(g, input_fill="classical", guidance=bool(g)) for g in (1, 0))
    for networks in (guided, alone):
        for net in (networks.temporal, networks.detail):  # as if trained
            for parameter in net.parameters():
                torch.nn.init.normal_(parameter, std=0.1)

    def first_frame(method, model, clip):
        return fill(method, clip, holes, model, config)[0]

    uses = {"smooth": (None, False), "2dcn": (alone, False), "networks": (guided, True)}
    for method, (model, knows_others) in uses.items():
        one, other = (first_frame(method, model, clip) for clip in (images, changed))
        assert torch.equal(one, other) != knows_others, method
    smooth = first_frame("smooth", None, images)
    expected = fill_smoothly(Patch.of(images[0].numpy()), holes[0].numpy()).whole()
    assert np.array_equal(smooth, expected)
    scores = evaluate(data / "pan.mkv", tmp_path / "out", config, model_2dcn=alone)
    rest = dataclasses.replace(config, fill="rest")
    others = evaluate(data / "pan.mkv", tmp_path / "out", rest, model_2dcn=alone)
    assert all(one.key != other.key for one, other in zip(scores, others, strict=True))


def test_untrained_residual_networks_score_like_no_network(data, tmp_path):
    config = EvaluateConfig(methods=("combcn", "no-network"), holes=("blob",), seeds=(0,))
    scores = evaluate(data, tmp_path / "out", config, model=model_of(input_fill="classical"))
    for ours, theirs in zip(scores[::2], scores[1::2], strict=True):
        assert ours.l1 == pytest.approx(theirs.l1, abs=0.05)  # the networks' float32 may round
        assert ours.key != theirs.key


def test_unseen_is_that_of_the_pipeline(data, tmp_path):
    images, holes = clip_and_hole()
    smooth = EvaluateConfig(unseen="smooth", methods=("no-network",), holes=("box",), seeds=(0,))
    result = fill("no-network", images, holes, None, smooth)
    assert torch.equal(result, inpaint(images, holes, config=InpaintConfig(unseen="smooth")))
    texture = dataclasses.replace(smooth, unseen="texture")
    assert not torch.equal(result, fill("no-network", images, holes, None, texture))
    (one,) = evaluate(data / "pan.mkv", tmp_path / "out", smooth)
    (other,) = evaluate(data / "pan.mkv", tmp_path / "out", texture)
    assert one.key != other.key


def test_smooth_is_what_untrained_residual_networks_return():
    images, holes = clip_and_hole()
    model = model_of(input_fill="classical")  # its last layers start at zero
    for layer in (model.temporal.layers["12"], model.detail.layers["17"]):
        for parameter in layer.parameters():
            torch.nn.init.zeros_(parameter)
    config = EvaluateConfig(precision="fp32")
    networks = fill("networks", images, holes, model, config).int()
    smooth = fill("smooth", images, holes, None, config).int()
    assert (networks - smooth).abs().max() <= 1  # float32 may round


def test_2dcn_takes_its_own_weights(data, tmp_path):
    plain = model_of(3, guidance=False)
    config = EvaluateConfig(methods=("2dcn",), holes=("box",), seeds=(0,))
    (score,) = evaluate(data / "pan.mkv", tmp_path / "out", config, model_2dcn=plain)
    images = moving_frames()
    holes = hole_of("pan.mkv", "box", 0, images.shape)
    result = fill("2dcn", torch.from_numpy(images), torch.from_numpy(holes), plain, config).numpy()
    error = np.abs(result.astype(float) - images)[holes].mean()
    assert score.l1 == pytest.approx(error, rel=1e-6)


def test_methods_without_weights_are_left_out_and_said_once(data, tmp_path, caplog):
    caplog.set_level("INFO", logger="combcn")
    config = EvaluateConfig(holes=("box",), seeds=(0,))
    scores = evaluate(data, tmp_path / "out", config)
    assert [score.method for score in scores] == ["no-network", "smooth", "telea", "ns"] * 2
    (record,) = caplog.records
    assert "combcn, networks, 3dcn, 2dcn" in record.getMessage()

    caplog.clear()
    scores = evaluate(data / "pan.mkv", tmp_path / "out", config, model=model_of())
    assert [score.method for score in scores] == [m for m in module.METHODS if m != "2dcn"]
    assert caplog.records[0].getMessage().endswith("are there: 2dcn.")


# What is kept


def files_of(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_rerun_computes_nothing(data, tmp_path, monkeypatch):
    first = evaluate(data, tmp_path / "out", CLASSICAL)
    files = files_of(tmp_path / "out")

    def compute(*arguments):
        raise AssertionError("computed again")

    monkeypatch.setattr(module, "fill", compute)
    again = evaluate(data, tmp_path / "out", CLASSICAL)
    assert files_of(tmp_path / "out") == files  # times too, which would differ
    assert [score.key for score in again] == [score.key for score in first]


@pytest.mark.parametrize("cut", [1, 30, "newline", "header"])
def test_a_row_cut_off_is_done_again_and_no_other(data, tmp_path, cut):
    evaluate(data, tmp_path / "out", CLASSICAL)
    path = tmp_path / "out" / "scores.csv"
    content, rows = path.read_bytes(), rows_of(tmp_path / "out")
    lines = content.splitlines(keepends=True)
    kept = {1: len(rows) - 1, 30: len(rows) - 1, "newline": len(rows) - 3, "header": 0}[cut]
    if cut == "newline":  # a kill between two rows
        path.write_bytes(b"".join(lines[:-3]))
    elif cut == "header":
        path.write_bytes(content[:20])
    else:
        path.write_bytes(content[:-cut])
    evaluate(data, tmp_path / "out", CLASSICAL)
    again = rows_of(tmp_path / "out")
    assert path.read_bytes().startswith(b"".join(lines[: kept + 1]))
    assert [row["key"] for row in again] == [row["key"] for row in rows]
    assert [row["l1"] for row in again] == [row["l1"] for row in rows]


def test_a_killed_run_goes_on_where_it_was(data, tmp_path):
    write_images(data / "zoo", moving_frames(60, 96, 128, seed=4))
    arguments = [data, "--methods", "telea", "ns", "--holes", "box", "blob", "--output"]
    argv = ["evaluate", *map(str, arguments)]
    path = tmp_path / "killed" / "scores.csv"
    process = subprocess.Popen([COMMAND, *argv, path.parent], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not (path.exists() and path.read_bytes().count(b"\n") > 25):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    kept = path.read_bytes()
    assert kept.count(b"\n") < 37  # 36 rows and the header
    assert not (path.parent / "index.html").exists()

    assert cli.main([*argv, str(path.parent)]) == 0
    assert path.read_bytes().startswith(kept[: kept.rindex(b"\n")])
    assert cli.main([*argv, str(tmp_path / "whole")]) == 0
    figures = [
        [{**row, "seconds_per_frame": None} for row in rows_of(folder)]
        for folder in (path.parent, tmp_path / "whole")
    ]
    assert figures[0] == figures[1]
    pictures = [
        {file.name for file in (folder / "pictures").iterdir()}
        for folder in (path.parent, tmp_path / "whole")
    ]
    assert pictures[0] == pictures[1]


def changed_weights(data, settings):
    return {**settings, "model": model_of(1)}


def changed_precision(data, settings):
    config = dataclasses.replace(settings["config"], precision="bf16")
    return {**settings, "config": config}


def changed_pixel(data, settings):
    images = moving_frames()
    images[0, 0, 0] ^= 1
    write_video(data / "pan.mkv", images)
    return settings


def changed_frames(data, settings):
    return {**settings, "config": dataclasses.replace(settings["config"], frames=3)}


def changed_size(data, settings):
    return {**settings, "config": dataclasses.replace(settings["config"], size=(16, 16))}


@pytest.mark.parametrize(
    ("change", "stale"),
    [
        (changed_weights, {"3dcn"}),
        (changed_precision, {"3dcn"}),
        (changed_pixel, {"3dcn", "telea"}),
        (changed_frames, {"3dcn", "telea"}),
        (changed_size, {"3dcn", "telea"}),
    ],
)
def test_rows_out_of_date_are_not_used(data, tmp_path, change, stale):
    config = EvaluateConfig(methods=("3dcn", "telea"), holes=("box",), seeds=(0,), precision="fp32")
    settings = {"config": config, "model": model_of(0)}
    before = evaluate(data / "pan.mkv", tmp_path / "out", **settings)
    settings = change(data, settings)
    after = evaluate(data / "pan.mkv", tmp_path / "out", **settings)
    assert {b.method for b, a in zip(before, after, strict=True) if a.key != b.key} == stale
    assert len(rows_of(tmp_path / "out")) == 2 + len(stale)
    fresh = evaluate(data / "pan.mkv", tmp_path / "fresh", **settings)
    assert [score.l1 for score in after] == [score.l1 for score in fresh]
    assert len(list((tmp_path / "out" / "pictures").iterdir())) == 2


def test_version_of_results_is_part_of_the_key(data, tmp_path, monkeypatch):
    (before, *_) = evaluate(data, tmp_path / "out", CLASSICAL)
    monkeypatch.setattr(module, "RESULTS_VERSION", module.RESULTS_VERSION + 1)
    (after, *_) = evaluate(data, tmp_path / "out", CLASSICAL)
    assert after.key != before.key


def test_a_method_added_later_joins_the_pictures(data, tmp_path):
    one = dataclasses.replace(CLASSICAL, methods=("telea",))
    evaluate(data, tmp_path / "out", one)
    assert len(evaluate(data, tmp_path / "out", CLASSICAL)) == 8
    assert len(rows_of(tmp_path / "out")) == 8  # Telea's are there once
    evaluate(data, tmp_path / "whole", CLASSICAL)
    for file in (tmp_path / "whole" / "pictures").iterdir():
        assert (tmp_path / "out" / "pictures" / file.name).read_bytes() == file.read_bytes()


def test_a_foreign_table_is_not_written_into(data, tmp_path):
    folder = tmp_path / "out"
    folder.mkdir()
    for content, message in (
        ("name,price\nbread,2\n", "other columns"),
        (",".join(f.name for f in dataclasses.fields(Score)) + "\na,b\n", "row 2"),
    ):
        (folder / "scores.csv").write_text(content)
        with pytest.raises(ValueError, match=message):
            evaluate(data, folder, CLASSICAL)
        assert (folder / "scores.csv").read_text() == content


# Tables


def score_of(method, clip, seed, l1, hole="box"):
    blank = dict.fromkeys((field.name for field in dataclasses.fields(Score)), 1.0)
    named = {"method": method, "clip": clip, "hole": hole, "seed": seed, "l1": l1, "key": ""}
    return Score(**{**blank, **named})


def test_summary_is_over_clips_first_and_seeds_second():
    values = {("a", 0): 1.0, ("b", 0): 5.0, ("a", 1): 2.0, ("b", 1): 12.0, ("c", 1): math.nan}
    scores = [score_of("telea", clip, seed, l1) for (clip, seed), l1 in values.items()]
    scores.append(score_of("ns", "a", 0, 4.0))
    summary = summarize(scores, "l1")
    assert summary["telea", "box"] == (5.0, pytest.approx(statistics.stdev([3.0, 7.0])))
    assert summary["ns", "box"][0] == 4.0
    assert math.isnan(summary["ns", "box"][1])
    assert format_table(scores, "l1").splitlines() == [
        "l1 in the hole, 0..255, lower is better",
        "               box",
        "telea  5.00 ± 2.83",
        "ns            4.00",
    ]


def test_description_counts_the_clips():
    one = [score_of("telea", "a", 0, 1.0)]
    assert describe_scores(one) == "Mean of 1 clip."
    both = [*one, score_of("telea", "b", 1, 1.0)]
    assert describe_scores(both) == (
        "Mean of 2 clips, ± the standard deviation between the seeds 0, 1."
    )
    assert "2 (box), 1 (removal)" in describe_scores(
        [*both, score_of("telea", "a", 0, 1.0, "removal")]
    )


# The page


class Page(HTMLParser):
    """What a browser would load, and the text it would show."""

    def __init__(self, path):
        super().__init__()
        self.text, self.links, self.bold, self.open, self.tags = [], [], [], [], set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        self.open.append(tag)
        self.tags.add(tag)
        self.links += [value for name, value in attributes if name in ("src", "href")]

    def handle_endtag(self, tag):
        while self.open.pop() != tag:
            pass

    def handle_data(self, data):
        if "style" not in self.open:
            self.text.append(data)
            self.bold += [data] if "b" in self.open else []


def test_page_shows_the_worst_first_and_loads_nothing_from_elsewhere(data, tmp_path):
    config = dataclasses.replace(CLASSICAL, holes=("box", "blob"))
    scores = evaluate(data, tmp_path / "out", config)
    page = Page(tmp_path / "out" / "index.html")
    pictures = [link for link in page.links if link.endswith(".jpg")]
    assert len(set(pictures)) == 4  # clips by holes, of the first seed
    assert set(page.links) == {"scores.csv", *pictures}
    for picture in pictures:
        assert cv2.imread(str(tmp_path / "out" / picture)) is not None
    text = "".join(page.text)
    shown = re.findall(r"(\S+), (\S+) frame (\d+), l1 ([\d.]+), seed 3", text)
    first = sorted(
        (s for s in scores if s.method == "telea" and s.seed == 3), key=lambda s: -s.worst_l1
    )
    assert shown == [(s.clip, s.hole, str(s.worst_frame), f"{s.worst_l1:.1f}") for s in first]
    assert "standard deviation between the seeds 3, 5" in text
    means = {method: summarize(scores, "l1")[method, "box"] for method in ("telea", "ns")}
    better = min(means.values())
    assert f"{better[0]:.2f} ± {better[1]:.2f}" in page.bold


def test_page_escapes_names(data, tmp_path):
    write_images(data / "<i>&amp;", moving_frames(2))
    evaluate(data / "<i>&amp;", tmp_path / "out", CLASSICAL)
    page = Page(tmp_path / "out" / "index.html")
    assert "i" not in page.tags
    assert "".join(page.text).count("<i>&amp;") == 3  # title, heading, picture


def test_picture_has_the_worst_frame_of_each_method_and_its_slice(data, tmp_path):
    images = moving_frames(6, 300, 300)
    write_video(data / "large.mkv", images)
    config = EvaluateConfig(methods=("telea", "ns"), holes=("box",), seeds=(0,))
    scores = evaluate(data / "large.mkv", tmp_path / "out", config)
    (path,) = (tmp_path / "out" / "pictures").iterdir()
    sheet = cv2.imread(str(path))[..., ::-1].astype(float)
    holes = hole_of("large.mkv", "box", 0, images.shape)
    result = telea(images, holes)
    # Three panels of 300 pixels with gaps of 8; the slice has the frame's width. JPEG at 92 is
    # within a few grey levels in the mean.
    for column, clip in ((0, images), (1, result)):
        left = 8 + column * 308
        frame = sheet[8:308, left : left + 300]
        expected = clip[scores[0].worst_frame]
        away = cv2.dilate(holes[0].astype(np.uint8), np.ones((9, 9))) == 0  # from the outline
        where = away if column == 0 else np.ones_like(away)
        assert np.abs(frame - expected)[where].mean() < 4
    row = round(np.nonzero(holes[0].any(axis=1))[0].mean() - 0.1)
    slice = sheet[311 : 311 + 72, 8 + 308 : 8 + 608]  # 6 frames, each 12 rows high
    expected = result[:, row].repeat(12, axis=0)
    assert np.abs(slice - expected).mean() < 6


# Clips


def test_find_clips(data, tmp_path):
    assert [clip.name for clip in find_clips(data)] == ["pan.mkv", "walk"]
    assert [clip.name for clip in find_clips(data / "pan.mkv")] == ["pan.mkv"]
    assert [clip.name for clip in find_clips(data / "walk")] == ["walk"]
    write_images(tmp_path / "loose", moving_frames(2), "jpg")
    write_images(tmp_path / "loose" / "masks", moving_frames(2))
    assert [clip.name for clip in find_clips(tmp_path / "loose")] == ["loose"]
    write_images(data / ".hidden", moving_frames(2))
    (data / "empty").mkdir()
    assert [clip.name for clip in find_clips(data)] == ["pan.mkv", "walk"]


# Mistakes


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"methods": ("magic",)}, "methods has 'magic'"),
        ({"holes": ("star",)}, "holes has 'star'"),
        ({"holes": ()}, "holes is empty"),
        ({"holes": ("box", "box")}, "each one once"),
        ({"fill": "wall"}, "fill is 'wall'; give 'rest' or 'smooth'"),
        ({"unseen": "wall"}, "unseen is 'wall'; give 'texture' or 'smooth'"),
        ({"seeds": ()}, "seeds is"),
        ({"seeds": (-1,)}, "seeds is"),
        ({"seeds": (1, 1)}, "each one once"),
        ({"frames": -1}, "frames is -1"),
        ({"size": (4, 9)}, "size is 9x4"),
    ],
)
def test_config_rejects(settings, message):
    with pytest.raises(ValueError, match=message):
        EvaluateConfig(**settings)


def nothing_there(data):
    return ["lost"], "lost does not exist"


def no_clips(data):
    (data.parent / "empty").mkdir()
    return ["empty"], "empty has no clips"


def damaged_clip(data):
    content = (data / "pan.mkv").read_bytes()
    (data / "part.mkv").write_bytes(content[: len(content) // 2])
    return ["data"], "part.mkv"


def no_weights(data):
    return ["data", "--methods", "2dcn"], "--weights-2dcn PATH"


def weights_not_there(data):
    return ["data", "--weights", "lost.safetensors"], "no file lost.safetensors"


def weights_of_2dcn(data):
    save_model(data / "plain.safetensors", model_of(guidance=False), facts={})
    return ["data", "--weights", "data/plain.safetensors"], "without guidance"


def weights_2dcn_of_combcn(data):
    save_model(data / "full.safetensors", model_of(), facts={})
    arguments = ["--methods", "2dcn", "--weights-2dcn", "data/full.safetensors"]
    return ["data", *arguments], "with guidance"


def no_removals(data):
    return ["data", "--holes", "removal"], "background.png"


def strange_size(data):
    return ["data", "--size", "128x"], "--size is 128x"


def small_size(data):
    return ["data", "--size", "4"], "size is 4x4"


def strange_setting(data):
    return ["data", "--seeds", "2", "2"], "each one once"


def output_is_a_file(data):
    return ["data", "--output", "data/pan.mkv"], "data/pan.mkv cannot be made"


@pytest.mark.parametrize(
    "mistake",
    [
        nothing_there,
        no_clips,
        damaged_clip,
        no_weights,
        weights_not_there,
        weights_of_2dcn,
        weights_2dcn_of_combcn,
        no_removals,
        strange_size,
        small_size,
        strange_setting,
        output_is_a_file,
    ],
    ids=lambda mistake: mistake.__name__,
)
def test_mistake_is_said_in_one_sentence(data, capfd, monkeypatch, mistake):
    monkeypatch.chdir(data.parent)
    arguments, message = mistake(data)
    before = sorted(data.parent.rglob("*"))
    assert cli.main(["evaluate", *arguments]) == 2
    output, errors = capfd.readouterr()
    assert output == ""
    (line,) = (line for line in errors.splitlines() if "left out" not in line)
    assert line.startswith("combcn: ")
    assert line.endswith(".")
    assert message in line
    assert sorted(data.parent.rglob("*")) == before


def test_wrong_flag_is_exit_code_2(data, capfd):
    assert cli.main(["evaluate", str(data), "--methods", "magic"]) == 2
    assert "magic" in capfd.readouterr().err


# The command


def test_command_prints_tables_and_writes_the_page(data, capfd, monkeypatch):
    monkeypatch.chdir(data.parent)
    save_model("tiny.safetensors", model_of(), facts={})
    arguments = "data --methods 3dcn telea --holes box blob --seeds 0 1 --frames 2 --size 24x16"
    weights = "--weights tiny.safetensors --device cpu --precision fp32"
    assert cli.main(["evaluate", *arguments.split(), *weights.split()]) == 0
    output, errors = capfd.readouterr()
    assert errors == ""
    assert "Mean of 2 clips, ± the standard deviation between the seeds 0, 1." in output
    assert re.search(r"^ +box +blob$", output, re.MULTILINE)
    rows = rows_of(Path("combcn_evaluation"))
    assert len(rows) == 16
    assert {(row["frames"], row["width"], row["height"]) for row in rows} == {("2", "24", "16")}
    for method in ("3dcn", "telea"):
        means = [
            np.mean(
                [
                    float(row["l1"])
                    for row in rows
                    if (row["method"], row["hole"], row["seed"]) == (method, "blob", seed)
                ]
            )
            for seed in ("0", "1")
        ]
        cell = f"{np.mean(means):.2f} ± {np.std(means, ddof=1):.2f}"
        assert re.search(rf"^{method} .* {re.escape(cell)}$", output, re.MULTILINE)
    assert Path("combcn_evaluation/index.html").is_file()
    assert "combcn_evaluation/index.html" in output


def test_ctrl_c_keeps_the_rows(data):
    def interrupt(done, total):
        if done == 3:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        evaluate(data, data.parent / "out", CLASSICAL, progress=interrupt)
    assert len(rows_of(data.parent / "out")) == 3
