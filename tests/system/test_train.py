"""The trainer: what a step moves, that stopping loses nothing, that failing spoils nothing."""

import contextlib
import csv
import dataclasses
import itertools
import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import nn

from combcn_core.cli import main
from combcn_core.networks.checkpoint import load_model, load_tensors, read_model_info, save_model
from combcn_core.networks.inference import prepare
from combcn_core.networks.layers import CombCN, NetworkConfig
from combcn_core.networks.restore import infer_temporal, upsample_guidance
from combcn_core.networks.scales import restore_detail
from combcn_core.training.batches import iterate_batches
from combcn_core.training.calibrate import calibrate, scale_residual
from combcn_core.training.config import (
    DEFAULT_NETWORK,
    Phase,
    TrainConfig,
    learning_rate,
    plan_phases,
)
from combcn_core.training.footage import Footage, footage_from_images
from combcn_core.training.state import TrainingDiverged
from combcn_core.training.step import compute_losses
from combcn_core.training.train import estimate, train

from ..helpers import assert_same_weights, full_disk, shrink_networks, wait_for

pytestmark = pytest.mark.usefixtures("one_thread")

PAPER = NetworkConfig()

# Two steps of 3DCN, then three of both. Everything that is drawn is drawn.
SHORT = TrainConfig(
    size=16, clip_length=3, steps=3, pretrain_steps=2, warmup_steps=2, decay_share=0.5, ema=0.9,
    detail_frames=2, accumulate=2, repeats=3, coarsest=3.0, holes=("box", "blob"),
    fills=("smooth",), calibration_clips=0, workers=0, device="cpu", precision="fp32",
)  # fmt: skip
PLAIN = dataclasses.replace(SHORT, detail_frames=0, accumulate=1, repeats=1, coarsest=2.0)


@pytest.fixture(scope="module", autouse=True)
def thin():
    """An eighth of the channels in every layer; the real networks train in the commands below."""
    with pytest.MonkeyPatch.context() as patch:
        shrink_networks(patch, lambda channels: channels // 8)
        yield


def make_images(seed, num_frames=8):
    cells = np.random.default_rng(seed).integers(30, 220, (6, 10, 3), np.uint8)
    wide = cv2.resize(cells, (60, 36), interpolation=cv2.INTER_CUBIC)
    frames = [wide[:, 2 * t : 2 * t + 40] for t in range(num_frames)]
    return torch.from_numpy(np.stack(frames))


@pytest.fixture(scope="module")
def footage():
    one, other = footage_from_images(make_images(0)), footage_from_images(make_images(1))
    return Footage(one.train, other.train, one.mean_pixel)


@pytest.fixture
def output(tmp_path):
    return tmp_path / "model.safetensors"


def read_state(output):
    tensors, text = load_tensors(output.with_suffix(".training"))
    return tensors, json.loads(text)


def assert_same_state(output, other):
    (tensors, described), (others, other_described) = read_state(output), read_state(other)
    assert described == other_described
    assert tensors.keys() == others.keys()
    different = [name for name in tensors if not torch.equal(tensors[name], others[name])]
    assert not different
    assert_same_weights(load_model(output), load_model(other))


def saved_files(output):
    return {path.name: path.read_bytes() for path in output.parent.iterdir() if path.is_file()}


def run(*arguments, **options):
    """All progress of a training."""
    with contextlib.closing(train(*arguments, **options)) as training:
        return list(training)


@dataclasses.dataclass
class Finished:
    """A training without interruption: its progress, files, and its state after each step."""

    progress: list
    output: Path
    states: list


@pytest.fixture(scope="module")
def whole(footage, tmp_path_factory):
    output = tmp_path_factory.mktemp("whole") / "model.safetensors"
    progress, states = [], []
    config = dataclasses.replace(SHORT, save_every=1, sample_every=2)
    for step in train(footage, output, config):
        progress.append(step)
        states.append(read_state(output)[0])
    return Finished(progress, output, states)


# --- the recipe -----------------------------------------------------------------------------------


def test_learning_rate_closed_form():
    config = TrainConfig(learning_rate=0.5, warmup_steps=4, decay_share=0.5)
    rates = [learning_rate(config, Phase("joint", 10, 22), step) for step in range(10, 22)]
    rising, steady = [0.125, 0.25, 0.375], [0.5] * 4
    falling = [0.5 * left / 6 for left in (5, 4, 3, 2, 1)]
    assert rates == pytest.approx(rising + steady + falling)
    flat = TrainConfig(learning_rate=0.5, warmup_steps=0, decay_share=0.0)
    assert {learning_rate(flat, Phase("joint", 0, 9), step) for step in range(9)} == {0.5}
    # Where both would act, both do.
    short = [learning_rate(config, Phase("joint", 0, 2), step) for step in range(2)]
    assert short == pytest.approx([0.125, 0.25])


@pytest.mark.parametrize(
    ("mode", "phases"),
    [
        ("joint", [Phase("pretrain", 0, 3), Phase("joint", 3, 8)]),
        ("frozen", [Phase("pretrain", 0, 3), Phase("frozen", 3, 8)]),
        ("pretrain", [Phase("pretrain", 0, 5)]),
        ("scratch", [Phase("joint", 0, 5)]),
    ],
)
def test_phases_of_a_mode(mode, phases):
    config = TrainConfig(mode=mode, steps=5, pretrain_steps=3)
    assert plan_phases(config, PAPER) == phases
    at_once = dataclasses.replace(config, pretrain_steps=0)
    assert [phase.name for phase in plan_phases(at_once, PAPER)] == [phases[-1].name]


def test_phases_without_guidance():
    network = NetworkConfig(guidance=False)
    assert plan_phases(TrainConfig(mode="scratch", steps=5), network) == [Phase("joint", 0, 5)]
    with pytest.raises(ValueError, match="mode is joint, but a model without guidance has no 3DCN"):
        plan_phases(TrainConfig(), network)


def test_progress_of_a_training(whole):
    assert [step.step for step in whole.progress] == [1, 2, 3, 4, 5]
    assert {step.steps for step in whole.progress} == {5}
    assert [step.phase for step in whole.progress] == ["pretrain"] * 2 + ["joint"] * 3
    phases = [Phase("pretrain", 0, 2), Phase("joint", 2, 5)]
    rates = [learning_rate(SHORT, phases[number > 1], number) for number in range(5)]
    assert [step.learning_rate for step in whole.progress] == rates
    for step in whole.progress:
        names = {"3DCN"} if step.phase == "pretrain" else {"3DCN", "CombCN"}
        assert set(step.losses) == names
        assert all(0 < loss < 255 for loss in step.losses.values())
        looks = step.step in (2, 4, 5)  # every second step, and the last
        assert (step.sample is not None) == (step.validation is not None) == looks
        if looks:
            assert set(step.validation) == names
            assert step.sample.dtype == np.uint8
            assert step.sample.ndim == 3
    seconds = [step.seconds for step in whole.progress]
    assert seconds[0] > 0
    assert seconds == sorted(seconds)


def test_saves_now_and_then_and_at_the_end(footage, output):
    saved = []
    for step in train(footage, output, dataclasses.replace(SHORT, save_every=2)):
        assert output.exists() == output.with_suffix(".training").exists() == (step.step > 1)
        saved += [step.step] * step.saved
        if step.saved:
            assert read_state(output)[1]["step"] == step.step
    assert saved == [2, 4, 5]


def test_training_prints_nothing(footage, output, capfd):
    run(footage, output, dataclasses.replace(SHORT, steps=1))
    assert capfd.readouterr() == ("", "")


def moved(before, after, prefix):
    return {
        name
        for name in before
        if name.startswith(prefix) and not torch.equal(before[name], after[name])
    }


def names_of(tensors, prefix):
    return {name for name in tensors if name.startswith(prefix)}


@pytest.mark.parametrize("kind", ["model", "averaged"])
def test_pretraining_moves_3dcn_alone(whole, kind):
    before, after = whole.states[0], whole.states[1]
    # Weights, and BatchNorm's statistics with its count of batches.
    assert moved(before, after, f"{kind}.temporal.") == names_of(before, f"{kind}.temporal.")
    assert not moved(before, after, f"{kind}.detail.")


@pytest.mark.parametrize("kind", ["model", "averaged"])
def test_joint_training_moves_both(whole, kind):
    before, after = whole.states[-2], whole.states[-1]
    assert moved(before, after, f"{kind}.") == names_of(before, f"{kind}.")


def test_frozen_training_moves_combcn_alone(footage, output):
    states = []
    config = dataclasses.replace(SHORT, mode="frozen", save_every=1, calibration_clips=2)
    for step in train(footage, output, config):
        states.append(read_state(output)[0])
        assert step.phase == ("pretrain" if step.step <= 2 else "frozen")
    assert not moved(states[2], states[-1], "model.temporal.")
    for name in names_of(states[1], "averaged.temporal."):  # it is the averaged one
        frozen = states[-1][name.replace("averaged.", "model.")]
        assert torch.equal(states[1][name], frozen)
        # The average of what stays is what stays, but for rounding.
        torch.testing.assert_close(states[-1][name], frozen, atol=1e-7, rtol=1e-6)
    # The first step moves the last layer alone: it starts at zero and lets no gradient through.
    assert moved(states[2], states[-1], "model.detail.") == names_of(states[0], "model.detail.")
    temporal = load_model(output).temporal.state_dict()
    for name, value in temporal.items():  # nor do its statistics change at the end
        assert torch.equal(value, states[-1][f"averaged.temporal.{name}"])


def test_training_from_scratch_moves_both_from_the_start(footage, output):
    config = dataclasses.replace(SHORT, mode="scratch", steps=1)
    (step,) = run(footage, output, config, network=PAPER)
    assert step.phase == "joint"
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        model = CombCN(PAPER)
    state = read_state(output)[0]
    for name, value in model.state_dict().items():
        assert not torch.equal(state[f"model.{name}"], value), name


def test_training_2dcn(footage, output):
    network = NetworkConfig(guidance=False)
    config = dataclasses.replace(SHORT, mode="scratch", calibration_clips=2)
    progress = run(footage, output, config, network=network)
    assert [set(step.losses) for step in progress] == [{"CombCN"}] * 3
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        untrained = CombCN(network)
    trained = load_model(output)
    assert trained.config == dataclasses.replace(network, mean_pixel=footage.mean_pixel)
    assert_same_weights(trained.temporal, untrained.temporal)
    assert moved(untrained.detail.state_dict(), trained.detail.state_dict(), "")
    with pytest.raises(ValueError, match="use scratch"):
        run(footage, output.with_name("other.safetensors"), SHORT, network=network)


def test_training_from_given_weights(footage, output, tmp_path):
    start = CombCN(NetworkConfig(mean_pixel=(0.1, 0.2, 0.3)))
    before = {name: value.clone() for name, value in start.state_dict().items()}
    config = dataclasses.replace(PLAIN, learning_rate=1e-9, warmup_steps=0, ema=0.0)
    first = next(train(footage, output, config, network=NetworkConfig(ratio=4), start=start))
    assert first.phase == "joint"  # 3DCN has been trained
    after = load_model(output)
    assert after.config == start.config
    for name, parameter in after.named_parameters():
        # A step of Adam is as long as the learning rate, and float32 rounds.
        torch.testing.assert_close(parameter, before[name], atol=2e-9, rtol=2e-7)
    for name, value in start.state_dict().items():
        assert torch.equal(value, before[name])  # the caller's stays as it is


def make_batch(footage, config=PLAIN, count=2, ratio=2):
    batches = iterate_batches(footage.train, config, count, ratio=ratio)
    with contextlib.closing(batches):
        return next(batches)


def make_model(network, seed=0):
    """A model that does something everywhere: statistics and last layers are not those of a new
    one."""
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = CombCN(network)
    last = ("temporal.layers.12.", "detail.layers.17.")
    for name, value in model.state_dict().items():
        if name.endswith(("running_mean", "bias")) or name.startswith(last):
            value.normal_(0, 0.05, generator=generator)
        elif name.endswith("running_var"):
            value.uniform_(0.5, 1.5, generator=generator)
    return model


def gradients(module):
    return [parameter.grad for parameter in module.parameters()]


@pytest.mark.parametrize("network", [PAPER, DEFAULT_NETWORK], ids=["paper", "classical"])
def test_gradient_of_combcn_reaches_3dcn_unless_frozen(footage, network):
    batch = make_batch(footage)
    for phase in ("joint", "frozen"):
        model = make_model(network)
        losses, _, _ = compute_losses(model, batch, phase, torch.arange(3))
        losses["CombCN"].backward()
        assert all(gradient.any() for gradient in gradients(model.detail))
        if phase == "joint":
            assert all(gradient.any() for gradient in gradients(model.temporal))
        else:
            assert not any(gradient is not None for gradient in gradients(model.temporal))
            assert not losses["3DCN"].requires_grad


def test_pretraining_leaves_combcn_out(footage):
    model = make_model(PAPER)
    losses, coarse, prediction = compute_losses(
        model, make_batch(footage), "pretrain", torch.arange(3)
    )
    assert set(losses) == {"3DCN"}
    assert coarse.shape == (2, 3, 3, 8, 8)
    assert prediction is None


@pytest.mark.parametrize(
    "network",
    [
        PAPER,
        DEFAULT_NETWORK,
        NetworkConfig(ratio=4),
        NetworkConfig(time_stride=True, input_fill="classical"),
        NetworkConfig(guidance=False),
    ],
    ids=["paper", "classical", "V-1", "V-2", "2DCN"],
)
@pytest.mark.parametrize("coarsest", [2.0, 6.0])
def test_losses_are_of_what_the_pipeline_paints(footage, network, coarsest):
    # The same model, once as it is trained and once as it is used; here BatchNorm is fixed.
    config = dataclasses.replace(PLAIN, size=32, clip_length=5, coarsest=coarsest)
    batch = make_batch(footage, config, count=1, ratio=network.ratio)
    network = dataclasses.replace(network, mean_pixel=footage.mean_pixel)
    model = make_model(network).eval()
    frames = torch.tensor([0, 3])
    with torch.no_grad():
        losses, coarse, prediction = compute_losses(model, batch, "joint", frames)

    used, guidance = prepare(model, precision="fp32"), None
    images, mask = batch.filled[0].permute(1, 2, 3, 0), batch.mask[0, 0]
    if network.guidance:
        size = tuple(batch.coarse_clip.shape[3:])
        expected = infer_temporal(used, images, mask, size=size)
        # BatchNorm folded into the weights rounds otherwise, twelve and seventeen layers deep.
        torch.testing.assert_close(coarse[0].permute(1, 2, 3, 0), expected, atol=1e-4, rtol=0)
        sides = tuple(-(-side // network.ratio) for side in images.shape[1:3])
        guidance = upsample_guidance(expected, sides)[frames]
        hole = batch.coarse_learn[0, 0]
        truth = batch.coarse_clip[0].permute(1, 2, 3, 0)
        error = (expected - truth)[hole].abs().mean().item()
        assert losses["3DCN"].item() == pytest.approx(error, abs=1e-4)
    painted = restore_detail(used, images[frames], mask[frames], guidance)
    restored = torch.where(mask[frames], prediction[0], batch.filled[0][:, frames])
    torch.testing.assert_close(restored.permute(1, 2, 3, 0), painted, atol=1e-4, rtol=0)
    truth = batch.clip[0].permute(1, 2, 3, 0)[frames]
    errors = [(painted[t] - truth[t])[mask[frames][t]].abs().mean() for t in range(2)]
    assert losses["CombCN"].item() == pytest.approx(np.mean(errors), abs=1e-4)


def test_unknown_pixels_count_in_no_loss():
    unknown = torch.zeros(8, 36, 40, dtype=torch.bool)
    unknown[:, 10:26, 12:30] = True
    batch = make_batch(footage_from_images(make_images(0), unknown))
    assert (batch.mask & ~batch.learn).any()
    other = batch._replace(
        clip=torch.where(batch.learn, batch.clip, 0.5),
        coarse_clip=torch.where(batch.coarse_learn, batch.coarse_clip, 0.5),
    )
    model = make_model(PAPER)
    with torch.no_grad():
        losses, _, _ = compute_losses(model, batch, "joint", torch.arange(3))
        same, _, _ = compute_losses(model, other, "joint", torch.arange(3))
    assert same == losses
    assert all(loss > 0 for loss in losses.values())


def test_new_model_paints_the_fill(footage):
    # So that every step of training is a gain on what the pipeline does without networks.
    batch = make_batch(footage)
    model = CombCN(DEFAULT_NETWORK).train()
    losses, coarse, prediction = compute_losses(model, batch, "joint", torch.arange(3))
    assert torch.equal(coarse, batch.coarse_filled)
    assert torch.equal(prediction, batch.filled)
    for name, filled, clip, mask in (
        ("CombCN", batch.filled, batch.clip, batch.mask),
        ("3DCN", batch.coarse_filled, batch.coarse_clip, batch.coarse_mask),
    ):
        errors = (filled - clip).abs()
        axes = (1, 3, 4) if name == "CombCN" else (1, 2, 3, 4)
        expected = (errors * mask).sum(axes) / (3 * mask.sum(axes))
        assert losses[name].item() == pytest.approx(expected.mean().item(), rel=1e-5)


@pytest.mark.parametrize(("alpha", "most"), [(1.0, 0.05), (5.0, 1e6)], ids=["clipped", "whole"])
def test_step_against_plain_adam(footage, output, alpha, most):
    """One step: the mean gradient of the batches, cut to its norm, then Adam's first step."""
    config = dataclasses.replace(
        PLAIN, mode="scratch", steps=1, batch=2, accumulate=3, clip_gradient=most, warmup_steps=0,
        decay_share=0, alpha=alpha, ema=0.0, weight_decay=0.01,
    )  # fmt: skip
    (step,) = run(footage, output, config, network=PAPER)
    after = read_state(output)[0]

    network = dataclasses.replace(PAPER, mean_pixel=footage.mean_pixel)
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        model = CombCN(network).train()
    means = dict.fromkeys(("3DCN", "CombCN"), 0.0)
    with contextlib.closing(iterate_batches(footage.train, config, 2)) as batches:
        for batch in itertools.islice(batches, 3):
            losses, _, _ = compute_losses(model, batch, "joint", torch.arange(3))
            ((losses["3DCN"] + alpha * losses["CombCN"]) / 3).backward()
            for name, loss in losses.items():
                means[name] += 255 * loss.item() / 3
    assert step.losses == pytest.approx(means, rel=1e-5)

    norm = math.sqrt(sum(float((gradient.double() ** 2).sum()) for gradient in gradients(model)))
    assert 0.05 < norm < 1e6
    for index, (name, weight) in enumerate(model.named_parameters()):
        gradient = weight.grad * min(1, most / norm) + 0.01 * weight.detach()
        # Of sums in another memory layout; most gradients are 1e-4 and more.
        first = after[f"optimizer.{index}.exp_avg"] / 0.1
        torch.testing.assert_close(first, gradient, atol=1e-6, rtol=1e-3)
        expected = weight.detach() - 1e-3 * first / (first.abs() + 1e-8)
        torch.testing.assert_close(after[f"model.{name}"], expected, atol=1e-6, rtol=0)


def test_averaged_weights_against_a_plain_loop(whole):
    for step in range(1, 5):
        before, after = whole.states[step - 1], whole.states[step]
        decay = min(0.9, (2 + step) / (11 + step))  # this is step + 1: counted from 1
        for name in names_of(after, "averaged."):
            value = after[name.replace("averaged.", "model.")]
            if value.is_floating_point():
                expected = decay * before[name] + (1 - decay) * value
                torch.testing.assert_close(after[name], expected, atol=1e-6, rtol=1e-5)  # rounding
            else:
                assert torch.equal(after[name], value)


def test_validation_is_of_the_averaged_weights(footage, output):
    # Those are the ones that are saved; the clips are four batches of the next seed.
    config = dataclasses.replace(PLAIN, mode="scratch", steps=2, batch=2)
    progress = run(footage, output, config, network=PAPER)
    model, means = load_model(output), dict.fromkeys(("3DCN", "CombCN"), 0.0)
    held_back = dataclasses.replace(config, seed=1)
    with contextlib.closing(iterate_batches(footage.validation, held_back, 2)) as batches:
        for batch in itertools.islice(batches, 4):
            with torch.no_grad():
                losses, _, _ = compute_losses(model, batch, "joint", torch.arange(3))
            for name, loss in losses.items():
                means[name] += 255 * loss.item() / 4
    assert progress[-1].validation == pytest.approx(means, rel=1e-5)


def test_validation_is_on_the_other_side(footage, output):
    # What is held back is smooth, so that a new model is right about it, and wrong in training.
    flat = footage_from_images(torch.full((6, 30, 30, 3), 0.25)).train
    both = Footage(footage.train, flat, footage.mean_pixel)
    config = dataclasses.replace(PLAIN, mode="scratch", steps=2, ema=0.9999, sample_every=1)
    config = dataclasses.replace(config, learning_rate=1e-12)
    for step in train(both, output, config):
        assert min(step.losses.values()) > 1
        assert max(step.validation.values()) < 0.1  # a fill is rounded to 8 bits


def test_learning_happens(footage, output):
    config = dataclasses.replace(
        PLAIN, mode="scratch", steps=24, batch=3, learning_rate=5e-3, holes=("box",)
    )
    progress = run(footage, output, config, network=PAPER)
    for name in ("3DCN", "CombCN"):
        losses = [step.losses[name] for step in progress]
        assert np.mean(losses[-5:]) < 0.7 * np.mean(losses[:5])


# --- the statistics of BatchNorm ------------------------------------------------------------------


def test_calibration_against_means_of_batches(footage):
    config = dataclasses.replace(PLAIN, batch=3)
    model, seen, hooks = make_model(PAPER), {}, []
    untouched = {name: value.clone() for name, value in model.named_parameters()}
    for name, module in model.named_modules():
        if isinstance(module, (nn.BatchNorm2d, nn.BatchNorm3d)):

            def look(_, inputs, name=name):
                values = inputs[0].transpose(0, 1).flatten(1)
                seen.setdefault(name, []).append((values.mean(1), values.var(1)))

            hooks.append(module.register_forward_pre_hook(look))
    calibrate(model, footage, config, clips=8)
    for hook in hooks:
        hook.remove()
    assert not model.training
    for name, statistics in seen.items():
        norm = model.get_submodule(name)
        assert len(statistics) == 3  # batches of three, for eight clips at least
        mean, var = (torch.stack(values).mean(0) for values in zip(*statistics, strict=True))
        torch.testing.assert_close(norm.running_mean, mean, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(norm.running_var, var, atol=1e-5, rtol=1e-4)
        assert norm.momentum == 0.1
    assert len(seen) == 11 + 16
    for name, value in model.named_parameters():
        assert torch.equal(value, untouched[name])


@pytest.mark.parametrize(
    ("phase", "network", "learned"),
    [
        ("pretrain", PAPER, ["temporal"]),
        ("frozen", PAPER, ["detail"]),
        ("joint", NetworkConfig(guidance=False), ["detail"]),
    ],
)
def test_calibration_leaves_what_did_not_learn(footage, phase, network, learned):
    model = make_model(network)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    calibrate(model, footage, PLAIN, clips=1, phase=phase)
    changed = moved(before, model.state_dict(), "")
    assert changed == {
        name
        for name in before
        if name.split(".")[0] in learned
        and name.endswith(("running_mean", "running_var", "num_batches_tracked"))
    }


def test_minutes_bound_calibration_too(footage, output, monkeypatch):
    """Each batch seems to take a minute: of four minutes, few of the 500 clips get any."""
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])

    def lasting(file, name, seconds):
        module = sys.modules[f"combcn_core.training.{file}"]
        work = getattr(module, name)

        def timed(*arguments, **options):
            end = clock[0] + seconds
            result = work(*arguments, **options)
            clock[0] = end
            return result

        monkeypatch.setattr(module, name, timed)

    lasting("calibrate", "compute_losses", 60)
    lasting("train", "take_step", 30)
    lasting("train", "validate", 0)
    shares = []
    config = dataclasses.replace(SHORT, steps=1000, minutes=10.0, calibration_clips=500)
    for _ in train(footage, output, config, on_progress=lambda share, _: shares.append(share)):
        pass
    # A fifth is kept for it; a batch that has begun is finished.
    assert 8 * 60 <= clock[0] - 60 * len(shares) <= 8 * 60 + 30
    assert clock[0] <= 11 * 60
    assert shares == sorted(shares)
    assert 2 <= len(shares) < 10


def test_statistics_are_taken_when_all_is_done(footage, output):
    config = dataclasses.replace(SHORT, calibration_clips=3)
    stopped = run(footage, output, config, stop=lambda: True)
    assert [step.step for step in stopped] == [1]
    assert read_model_info(output).facts["calibration_clips"] == 0
    run(footage, output, config)
    assert read_model_info(output).facts["calibration_clips"] == 3
    expected = load_model(output)
    state = read_state(output)[0]
    statistic = "temporal.layers.1.norm.running_mean"
    assert not torch.equal(expected.state_dict()[statistic], state[f"averaged.{statistic}"])
    calibrated = load_model(output)
    calibrated.load_state_dict(
        {name.removeprefix("averaged."): state[name] for name in names_of(state, "averaged.")}
    )
    calibrate(calibrated, footage, config, clips=3)
    gain = scale_residual(calibrated, footage, config, clips=3)
    assert read_model_info(output).facts["residual_gain"] == gain
    for name, value in expected.state_dict().items():
        # Sums in another memory layout.
        torch.testing.assert_close(calibrated.state_dict()[name], value, atol=1e-5, rtol=1e-4)

    # Killed between the last step and this: the next start does it.
    content = output.read_bytes()
    output.unlink()
    assert run(footage, output, config) == []
    assert_same_weights(load_model(output), expected)
    output.write_bytes(content)
    assert run(footage, output, config) == []
    assert output.read_bytes() == content


def test_temper_against_a_loop(footage):
    config = dataclasses.replace(PLAIN, batch=3)
    model = make_model(DEFAULT_NETWORK).eval()
    held = dataclasses.replace(config, seed=config.seed + 3)
    batches = list(itertools.islice(iterate_batches(footage.validation, held, 3), 2))
    missing = [(batch.clip - batch.filled)[:, 1][batch.learn[:, 0]].mean() for batch in batches]
    model.detail.layers["17"].conv.weight.data *= 0
    # Two and a half times what the fill lacks in green, so that less of it is best.
    model.detail.layers["17"].conv.bias.data = 2.5 * sum(missing) / 2 * torch.tensor([0, 1.0, 0])
    before = {name: value.clone() for name, value in model.state_dict().items()}
    changes, residuals = [], []
    for batch in batches:
        with torch.no_grad():
            prediction = compute_losses(model, batch, "joint", torch.arange(3))[2]
        hole = batch.learn.expand_as(batch.clip)
        changes.append((prediction - batch.filled)[hole].numpy())
        residuals.append((batch.clip - batch.filled)[hole].numpy())
    # NumPy's own least squares, in double precision; ours sums in single.
    column = np.concatenate(changes).astype(float)[:, None]
    expected = np.linalg.lstsq(column, np.concatenate(residuals).astype(float))[0].item()
    assert 0.05 < expected < 0.95  # or the limits are all that is tested
    assert scale_residual(model, footage, config, clips=5) == pytest.approx(expected, rel=1e-4)
    for name, value in model.state_dict().items():
        factor = expected if name.startswith("detail.layers.17.") else 1
        torch.testing.assert_close(value, before[name] * factor)


@pytest.mark.parametrize(
    ("network", "phase"), [(PAPER, "joint"), (DEFAULT_NETWORK, "pretrain"), (None, "joint")]
)
def test_temper_leaves_what_it_does_not_fit(footage, network, phase):
    if network is None:  # nothing held back
        network, footage = DEFAULT_NETWORK, dataclasses.replace(footage, validation=())
    model = make_model(network)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert scale_residual(model, footage, PLAIN, clips=1, phase=phase) == 1
    assert not moved(before, model.state_dict(), "")


# --- checkpoints ----------------------------------------------------------------------------------


def test_checkpoint_holds_the_averaged_weights_and_the_facts(whole, footage):
    model, state = load_model(whole.output), whole.states[-1]
    for name, value in model.state_dict().items():
        assert torch.equal(value, state[f"averaged.{name}"]), name
    assert model.config == dataclasses.replace(DEFAULT_NETWORK, mean_pixel=footage.mean_pixel)
    facts = read_model_info(whole.output).facts
    assert facts["training_steps"] == 5
    assert facts["phase"] == "joint"
    assert facts["loss"] == whole.progress[-1].losses
    assert facts["calibration_clips"] == 0
    assert facts["footage_files"] == 1
    settings = facts["settings"]
    assert settings["footage"] == footage.fingerprint
    assert settings["learning_rate"] == SHORT.learning_rate
    assert settings["holes"] == ["box", "blob"]


def test_checkpoint_of_half_the_size(whole, footage, output):
    config = dataclasses.replace(SHORT, half=True)
    run(footage, output, config)
    assert output.stat().st_size < 0.6 * whole.output.stat().st_size
    # 11 bits of precision.
    for value, exact in zip(
        load_model(output).parameters(), load_model(whole.output).parameters(), strict=True
    ):
        torch.testing.assert_close(value, exact, atol=1e-6, rtol=2**-11)
    assert not moved(read_state(output)[0], whole.states[-1], "")  # nothing else is


def test_output_must_be_a_new_name_or_a_training(footage, tmp_path):
    with pytest.raises(ValueError, match=r"does not end in \.safetensors"):
        run(footage, tmp_path / "model.pt", SHORT)
    with pytest.raises(ValueError, match="is not a folder"):
        run(footage, tmp_path / "none" / "model.safetensors", SHORT)
    path = tmp_path / "model.safetensors"
    save_model(path, make_model(PAPER), facts={})
    with pytest.raises(ValueError, match=r"model\.safetensors exists, but not model\.training"):
        run(footage, path, SHORT)
    run(footage, path, dataclasses.replace(SHORT, steps=1), start=load_model(path))
    assert read_model_info(path).facts["training_steps"] == 1


def test_damaged_state_is_refused(footage, output):
    run(footage, output, dataclasses.replace(SHORT, mode="scratch", steps=1))
    path = output.with_suffix(".training")
    content = path.read_bytes()
    flipped = content[:-9] + bytes([content[-9] ^ 4]) + content[-8:]
    for damaged in (content[: len(content) // 2], flipped, b"", output.read_bytes()):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"model\.training "):
            run(footage, output, SHORT)
        assert path.read_bytes() == damaged


# --- going on -------------------------------------------------------------------------------------


def split_by_stop(footage, output):
    for stop in (1, 3):
        *_, last = run(footage, output, SHORT, stop=StopAfter(stop))
        assert last.saved
    return run(footage, output, SHORT)


class StopAfter:
    def __init__(self, steps):
        self.left = steps

    def __call__(self):
        self.left -= 1
        return self.left == 0


def split_by_closing(footage, output):
    for steps in (1, 3):
        with contextlib.closing(train(footage, output, SHORT)) as training:
            for _ in itertools.islice(training, steps):
                pass
    return run(footage, output, SHORT)


def split_by_minutes(footage, output):
    config = dataclasses.replace(SHORT, minutes=1e-9)
    pieces = [run(footage, output, config) for _ in range(5)]
    assert [[step.step for step in piece] for piece in pieces] == [[1], [2], [3], [4], [5]]
    assert run(footage, output, config) == []
    return pieces[-1]


def split_by_signals(footage, output):
    for number, reaction in (
        (signal.SIGINT, KeyboardInterrupt),
        (signal.SIGTERM, SystemExit),
    ):
        before = signal.getsignal(number)
        steps = []
        with pytest.raises(reaction) as caught:  # noqa: PT012 (it comes at the end of the loop)
            for step in train(footage, output, SHORT):
                steps.append(step)
                if len(steps) == 1:
                    signal.raise_signal(number)
        assert len(steps) == 2  # the next one is done, and saved
        assert steps[-1].saved
        assert signal.getsignal(number) is before
        if reaction is SystemExit:
            assert caught.value.code == 143
    return run(footage, output, SHORT)


def split_by_an_exception(footage, output):
    def fail():
        raise RuntimeError("of the caller's")

    for _ in range(2):
        with pytest.raises(RuntimeError, match="of the caller's"):
            run(footage, output, SHORT, stop=fail)
    return run(footage, output, SHORT)


@pytest.mark.parametrize(
    "split",
    [split_by_stop, split_by_closing, split_by_minutes, split_by_signals, split_by_an_exception],
)
def test_training_in_pieces_is_the_same_training(footage, output, whole, split):
    progress = split(footage, output)
    assert_same_state(output, whole.output)
    for step, expected in zip(reversed(progress), reversed(whole.progress), strict=False):
        assert (step.step, step.losses) == (expected.step, expected.losses)
        assert step.learning_rate == expected.learning_rate


def test_more_steps_go_on(footage, output, whole):
    # Without decay the first steps do not depend on how many there are.
    config = dataclasses.replace(SHORT, decay_share=0)
    run(footage, output, dataclasses.replace(config, steps=1))
    other = output.with_name("other.safetensors")
    run(footage, other, config)
    progress = run(footage, output, config)
    assert [step.step for step in progress] == [4, 5]
    assert_same_state(output, other)
    assert run(footage, output, dataclasses.replace(config, steps=1)) == []


def test_what_may_change_between_pieces(footage, output, whole):
    run(footage, output, SHORT, stop=lambda: True)
    free = dataclasses.replace(
        SHORT, minutes=60.0, save_every=2, sample_every=1, workers=1, device="auto", half=True,
        calibration_clips=1,
    )  # fmt: skip
    if torch.cuda.is_available():
        free = dataclasses.replace(free, device="cpu")
    run(footage, output, free)
    tensors, described = read_state(output)
    assert described == read_state(whole.output)[1]
    assert not moved(tensors, whole.states[-1], "")


@pytest.mark.parametrize(
    "change",
    [
        {"mode": "frozen"}, {"pretrain_steps": 3}, {"batch": 2}, {"accumulate": 1},
        {"detail_frames": 0}, {"learning_rate": 2e-3}, {"weight_decay": 0.01},
        {"warmup_steps": 0}, {"decay_share": 0.2}, {"clip_gradient": 2.0}, {"alpha": 2.0},
        {"ema": 0.5}, {"precision": "auto"}, {"size": 24}, {"clip_length": 4},
        {"holes": ("box",)}, {"fills": ("rest",)}, {"repeats": 1}, {"coarsest": 2.0}, {"seed": 1},
    ],
    ids=lambda change: next(iter(change)),
)  # fmt: skip
def test_other_settings_do_not_go_on(footage, whole, change):
    (name,) = change
    before = saved_files(whole.output)
    with pytest.raises(ValueError, match=f"is of a training with {name} .*, now .*; give the same"):
        run(footage, whole.output, dataclasses.replace(SHORT, **change))
    assert saved_files(whole.output) == before


def test_other_networks_footage_and_starts_do_not_go_on(footage, whole):
    before = saved_files(whole.output)
    with pytest.raises(ValueError, match="is of a training with network "):
        run(footage, whole.output, SHORT, network=NetworkConfig(ratio=4))
    more = Footage(footage.train * 2, footage.validation, footage.mean_pixel)
    with pytest.raises(ValueError, match="is of a training with footage "):
        run(more, whole.output, SHORT)
    with pytest.raises(ValueError, match="is of a training with pretrain_steps 2, now 0"):
        run(footage, whole.output, SHORT, start=load_model(whole.output))
    assert saved_files(whole.output) == before


# --- stopping at once, and failing ----------------------------------------------------------------


def test_second_interrupt_does_not_wait(footage, output, whole):
    before = signal.getsignal(signal.SIGINT)
    done = []

    def interrupt_twice():
        done.append(read_steps(output))
        if len(done) == 2:
            signal.raise_signal(signal.SIGINT)  # waits for the end of the step
            signal.raise_signal(signal.SIGINT)
        return False

    with pytest.raises(KeyboardInterrupt):
        run(footage, output, SHORT, stop=interrupt_twice)
    assert len(done) == 2
    assert signal.getsignal(signal.SIGINT) is before
    assert read_steps(output) == 2  # that step was whole
    run(footage, output, SHORT)
    assert_same_state(output, whole.output)


def read_steps(output):
    return read_state(output)[1]["step"] if output.exists() else 0


class Interrupting(nn.Module):
    """Strikes twice in the middle of a forward pass."""

    def forward(self, x):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        return x


def test_half_a_step_is_never_saved(footage, output, whole):
    # BatchNorm has met the batch, and the weights have not: no training could go on from there.
    with contextlib.closing(train(footage, output, SHORT)) as training:
        for _ in range(3):
            next(training)
        frame = training.gi_frame.f_locals["model"].detail.layers["5"]
        frame.append(Interrupting())
        with pytest.raises(KeyboardInterrupt):
            next(training)
    assert not output.exists()  # nothing had been saved before
    run(footage, output, SHORT)
    assert_same_state(output, whole.output)


def test_signal_between_two_steps_is_not_lost(footage, output):
    training = train(footage, output, SHORT)
    next(training)
    signal.raise_signal(signal.SIGTERM)
    with pytest.raises(SystemExit):  # the caller ends for a reason of its own
        training.close()
    assert read_steps(output) == 1

    with contextlib.closing(train(footage, output, SHORT)) as training:
        next(training)
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):  # the second strikes the caller, and is all
            signal.raise_signal(signal.SIGINT)
    assert read_steps(output) == 2


def test_worker_that_is_killed_ends_training_with_a_save(footage, output, whole):
    import multiprocessing

    config = dataclasses.replace(SHORT, steps=100, workers=1, decay_share=0)
    steps = []
    with pytest.raises(OSError, match="use fewer workers"):  # noqa: PT012
        for step in train(footage, output, config):
            steps.append(step)
            for worker in multiprocessing.active_children():
                worker.kill()
    assert read_steps(output) == steps[-1].step
    other = output.with_name("other.safetensors")
    config = dataclasses.replace(config, workers=0)
    run(footage, other, config, stop=StopAfter(steps[-1].step))
    assert_same_state(output, other)


def test_divergence_keeps_what_was_saved(footage, output):
    # The gradient of such a loss overflows float32 as soon as CombCN joins in.
    config = dataclasses.replace(PLAIN, alpha=1e30, save_every=1)
    steps = []
    with pytest.raises(TrainingDiverged, match=r"at step 3; what was saved at step 2 is kept"):  # noqa: PT012
        for step in train(footage, output, config):
            steps.append(step.step)
            before = saved_files(output)
    assert steps == [1, 2]
    assert saved_files(output) == before
    with pytest.raises(TrainingDiverged, match="at step 3; what was saved at step 2 is kept"):
        run(footage, output, config)
    assert saved_files(output) == before


def test_divergence_does_not_save_what_was_not(footage, output):
    config = dataclasses.replace(PLAIN, alpha=1e30, save_every=100)
    with pytest.raises(TrainingDiverged, match="at step 3, before anything was saved; take a"):
        run(footage, output, config)
    start = make_model(PAPER)
    with torch.no_grad():
        start.detail.layers["5"].conv.weight[0, 0, 0, 0] = torch.nan
    with pytest.raises(TrainingDiverged, match="at step 1, before anything was saved"):
        run(footage, output, PLAIN, start=start)
    assert saved_files(output) == {}


def test_weight_that_is_no_number_is_never_saved(footage, output):
    # Of a network that does not take part, so that no loss tells.
    start = make_model(PAPER)
    with torch.no_grad():
        start.detail.layers["5"].conv.weight[0, 0, 0, 0] = torch.nan
    config = dataclasses.replace(PLAIN, mode="pretrain", steps=1)
    with pytest.raises(TrainingDiverged, match=r"detail\.layers\.5\.conv\.weight became NaN"):
        run(footage, output, config, start=start)
    assert saved_files(output) == {}


def test_save_that_the_disk_refuses_leaves_the_old_files(footage, output, whole):
    config = dataclasses.replace(SHORT, save_every=2)
    training = train(footage, output, config)
    with contextlib.closing(training):
        for _ in range(3):
            next(training)
        before = saved_files(output)
        assert len(before) == 2
        with full_disk(1000), pytest.raises(OSError, match="File too large"):
            next(training)
    assert saved_files(output) == before  # nor is anything left over
    run(footage, output, config)
    assert_same_state(output, whole.output)


def test_save_that_the_disk_refuses_half_way_goes_on(footage, output, whole):
    # The weights fit, the larger state does not, or the other way round: whichever is older wins.
    config = dataclasses.replace(SHORT, save_every=2)
    size = (whole.output.stat().st_size + whole.output.with_suffix(".training").stat().st_size) // 2
    training = train(footage, output, config)
    with contextlib.closing(training):
        for _ in range(3):
            next(training)
        with full_disk(size), pytest.raises(OSError, match="File too large"):
            next(training)
    assert read_steps(output) == 2
    run(footage, output, config)
    assert_same_state(output, whole.output)


# --- where it runs --------------------------------------------------------------------------------


def test_training_within_inference_mode(footage, output, whole, tmp_path):
    # As ComfyUI runs nodes: all tensors are made under inference mode, the model's too.
    path = tmp_path / "start.safetensors"
    save_model(path, make_model(DEFAULT_NETWORK), facts={})
    config = dataclasses.replace(SHORT, steps=2)
    other = tmp_path / "other.safetensors"
    run(footage, other, config, start=load_model(path))
    with torch.inference_mode():
        start = load_model(path)
        made_here = CombCN(start.config)
        made_here.load_state_dict(start.state_dict())
        images = make_images(0)
        with torch.inference_mode(False):
            learnt_from = footage_from_images(images)
            learnt_from = Footage(learnt_from.train, footage.validation, learnt_from.mean_pixel)
            run(learnt_from, output, config, start=made_here)
    assert_same_state(output, other)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_training_without_gradients_is_refused(footage, output, mode):
    with mode(), pytest.raises(ValueError, match=r"gradients are off here; train outside of"):
        run(footage, output, SHORT)


def test_training_in_another_thread(footage, output, whole):
    failures = []

    def work():
        try:
            with torch.inference_mode(), torch.inference_mode(False):
                run(footage, output, SHORT)
        except BaseException as error:
            failures.append(error)

    threads = torch.get_num_threads()
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert not failures
    assert torch.get_num_threads() == threads
    assert_same_state(output, whole.output)


def test_estimate_takes_steps_and_writes_nothing(footage, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    needed = estimate(footage, SHORT)
    assert needed.calibration_seconds == 0  # SHORT has no clips for it
    with_calibration = estimate(footage, dataclasses.replace(SHORT, calibration_clips=64))
    assert 0 < with_calibration.calibration_seconds < with_calibration.seconds
    hasty = estimate(footage, dataclasses.replace(SHORT, calibration_clips=64, minutes=1e-6))
    assert hasty.seconds == pytest.approx(6e-5)
    assert hasty.calibration_seconds == pytest.approx(1.2e-5)
    assert needed.steps == {"pretrain": 2, "joint": 3}
    assert needed.seconds > 0
    assert needed.memory_bytes is None or needed.memory_bytes > 2**20
    assert estimate(footage, SHORT, start=make_model(PAPER)).steps == {"joint": 3}
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 0}, "steps is 0; give 1 or more"),
        ({"pretrain_steps": -1}, "pretrain_steps is -1; give 0 or more"),
        ({"batch": 0}, "batch is 0"),
        ({"accumulate": 0}, "accumulate is 0"),
        ({"weight_decay": math.nan}, "weight_decay is nan"),
        ({"learning_rate": 0.0}, "learning_rate is 0.0; give a number above 0, at most 1"),
        ({"learning_rate": 1.5}, "learning_rate is 1.5"),
        ({"clip_gradient": 0.0}, "clip_gradient is 0.0"),
        ({"alpha": math.nan}, "alpha is nan"),
        ({"ema": 1.0}, "ema is 1.0; give 0 or more, below 1"),
        ({"decay_share": -0.1}, "decay_share is -0.1"),
        ({"minutes": 0.0}, "minutes is 0.0; give a number above 0"),
        ({"size": 20}, "size is 20; give a multiple of 8"),
    ],
)
def test_settings_reject_values(settings, message):
    with pytest.raises(ValueError, match=message):
        TrainConfig(**settings)


def test_bf16_changes_little(footage, output):
    # It has eight bits of precision, emulated or not.
    config = dataclasses.replace(PLAIN, mode="scratch", steps=1, clip_length=5)
    losses, gradients = [], []
    for precision in ("fp32", "bf16"):
        path = output.with_name(f"{precision}.safetensors")
        settings = dataclasses.replace(config, precision=precision)
        (step,) = run(footage, path, settings, network=PAPER)
        losses.append(step.losses)
        state = read_state(path)[0]
        moments = [state[name].flatten() for name in state if name.endswith(".exp_avg")]
        gradients.append(torch.cat(moments))
        assert {value.dtype for value in load_model(path).parameters()} == {torch.float32}
    assert losses[1] == pytest.approx(losses[0], rel=0.01)
    assert torch.cosine_similarity(*gradients, dim=0) > 0.95


@pytest.mark.parametrize(
    ("clip_length", "network"), [(4, PAPER), (8, NetworkConfig(time_stride=True))]
)
def test_bf16_is_refused_for_clips_shorter_than_its_kernels(footage, output, clip_length, network):
    config = dataclasses.replace(PLAIN, precision="bf16", clip_length=clip_length)
    with pytest.raises(ValueError, match=f"goes wrong for clips of {clip_length} frames"):
        run(footage, output, config, network=network)
    # Left to itself it takes fp32.
    config = dataclasses.replace(config, precision="auto", mode="scratch", steps=1)
    run(footage, output, config, network=network)
    other = output.with_name("other.safetensors")
    run(footage, other, dataclasses.replace(config, precision="fp32"), network=network)
    assert_same_weights(load_model(output), load_model(other))


# --- the command ----------------------------------------------------------------------------------

COMMAND = [
    "--size", "16", "--clip-length", "4", "--pretrain-steps", "1", "--warmup-steps", "1",
    "--decay-share", "0", "--calibration-clips", "0", "--fills", "smooth", "--device", "cpu",
    "--precision", "fp32",
]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Photographs to learn from: they need no decoding."""
    root = tmp_path_factory.mktemp("photographs")
    for number in range(4):
        assert cv2.imwrite(str(root / f"{number}.png"), make_images(number, 1)[0].numpy())
    return root


def start_command(folder, output, *flags):
    return subprocess.Popen(
        [
            sys.executable, "-m", "combcn_core", "train", str(folder), "--output", str(output),
            *COMMAND, *flags,
        ],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,  # a process group of its own, as a shell makes one
    )  # fmt: skip


def finish_command(*arguments):
    with start_command(*arguments) as process:
        printed, said = process.communicate(timeout=300)
    assert process.returncode == 0, said
    return printed, said


def read_log(output):
    path = output.with_name("model_log") / "log.csv"
    if not path.exists():
        return []
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_command_that_is_interrupted_and_ended_goes_on(folder, output):
    # The networks of the paper, real signals to all processes of a terminal or a service.
    for number, code in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
        before = len(read_log(output))
        flags = ("--steps", "100000", "--workers", "1")
        with start_command(folder, output, *flags) as process:
            wait_for(lambda before=before: len(read_log(output)) > before)
            os.killpg(process.pid, number)
            _, said = process.communicate(timeout=200)
        assert process.returncode == code
        assert "Traceback" not in said
        assert read_steps(output) == len(read_log(output)) > before
    steps = read_steps(output) + 1
    printed, _ = finish_command(folder, output, "--steps", str(steps - 1), "--workers", "0")
    assert f"{steps} steps, l1 of the last one: 3DCN " in printed

    other = output.with_name("other") / "model.safetensors"
    other.parent.mkdir()
    finish_command(folder, other, "--steps", str(steps - 1), "--workers", "0")
    assert_same_files(output, other)
    rows, expected = read_log(output), read_log(other)
    assert [int(row["step"]) for row in rows] == list(range(1, steps + 1))
    for row, wanted in zip(rows, expected, strict=True):
        for name in ("phase", "learning_rate", "3DCN", "CombCN"):
            assert row[name] == wanted[name]


def assert_same_files(output, other):
    """As `assert_same_state`, without building the networks, which are thin in this process."""
    (tensors, described), (others, other_described) = read_state(output), read_state(other)
    assert described == other_described
    assert not moved(tensors, others, "")
    assert not moved(load_tensors(output)[0], load_tensors(other)[0], "")


THIN_COMMAND = """
import sys
from combcn_core.networks import layers as networks
for name in ("TEMPORAL_LAYERS", "DETAIL_LAYERS"):
    table = [row._replace(channels=row.channels // 8) for row in getattr(networks, name)]
    setattr(networks, name, (*table[:-1], table[-1]._replace(channels=3)))
from combcn_core.cli import main
sys.exit(main())
"""


def test_two_processes_against_one_that_accumulates(folder, output, tmp_path, capsys):
    script = tmp_path / "thin.py"
    script.write_text(THIN_COMMAND)
    flags = ["--steps", "3", "--workers", "0", "--detail-frames", "2", "--repeats", "2"]
    # What `accelerate launch` starts where there are several GPUs; on CPUs it starts one process.
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    arguments = ["train", str(folder), "--output", str(output), *COMMAND, *flags]
    done = subprocess.run(
        [*torchrun, str(script), *arguments],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("steps, l1 of the last one") == 1  # one of them speaks

    one = tmp_path / "one" / "model.safetensors"
    one.parent.mkdir()
    assert run_command(folder, one, *flags, "--accumulate", "2") == 0
    (tensors, described), (expected, expected_described) = read_state(output), read_state(one)
    assert described == expected_described
    for name, value in expected.items():
        if name.endswith(("running_mean", "running_var", "num_batches_tracked")):
            continue  # one takes them from each batch in turn
        # Halving is exact, so gradients differ by no more than the order of a few sums.
        torch.testing.assert_close(tensors[name], value, atol=1e-6, rtol=1e-4, msg=name)
    for row, wanted in zip(read_log(output), read_log(one), strict=True):
        for name in ("3DCN", "CombCN"):
            assert row[name] == wanted[name]

    # It goes on in one process that accumulates, and in no other way.
    assert run_command(folder, output, *flags) == 2
    assert "is of a training with accumulate 2, now 1" in capsys.readouterr().err


def run_command(folder, output, *flags):
    """In this process, with thin networks."""
    flags = ("--workers", "0", *flags)
    return main(["train", str(folder), "--output", str(output), *COMMAND, *flags])


def test_dry_run_writes_nothing(folder, output, capsys):
    before = {path: path.read_bytes() for path in folder.iterdir()}
    assert run_command(folder, output, "--steps", "7", "--dry-run") == 0
    printed, said = capsys.readouterr()
    assert printed.startswith("1 of pretrain and 7 of joint steps: ")
    assert printed.endswith("; nothing was written.\n")
    assert said == "combcn: 3 files to learn from, 1 held back.\n"
    assert list(output.parent.iterdir()) == []
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


def test_command_trains_and_says_what_it_did(folder, output, capsys):
    assert run_command(folder, output, "--steps", "2", "--sample-every", "2") == 0
    assert f"{output}: 3 steps, l1 of the last one: 3DCN " in capsys.readouterr().out
    assert sorted(path.name for path in output.parent.iterdir()) == [
        "model.safetensors", "model.training", "model_log",
    ]  # fmt: skip
    log = output.with_name("model_log")
    assert sorted(path.name for path in log.iterdir()) == ["curve.png", "log.csv", "samples"]
    samples = [path.name for path in sorted((log / "samples").iterdir())]
    assert samples == ["0000002.png", "0000003.png"]
    assert read_model_info(output).config.input_fill == "classical"
    assert run_command(folder, output, "--steps", "2") == 0
    assert "all its steps are done" in capsys.readouterr().out


def test_log_has_each_step_once_after_a_kill(folder, output, capsys):
    flags = ("--save-every", "2", "--steps", "4")
    assert run_command(folder, output, *flags, "--minutes", "1e-9") == 0
    assert run_command(folder, output, *flags, "--minutes", "1e-9") == 0
    at_two = saved_files(output)
    assert run_command(folder, output, *flags) == 0
    expected = read_log(output)
    assert [row["step"] for row in expected] == ["1", "2", "3", "4", "5"]
    for name, content in at_two.items():  # as if killed before the next save
        output.with_name(name).write_bytes(content)
    with open(output.with_name("model_log") / "log.csv", "a") as file:
        file.write("6,joint,0.0")  # a row that was cut off
    assert run_command(folder, output, *flags) == 0
    for row, wanted in zip(read_log(output), expected, strict=True):
        assert row | {"seconds": ""} == wanted | {"seconds": ""}


def test_command_variants_of_the_networks(folder, output):
    flags = ("--steps", "1", "--mode", "scratch", "--input-fill", "mean")
    assert run_command(folder, output, *flags, "--no-guidance") == 0
    config = read_model_info(output).config
    assert (config.guidance, config.input_fill) == (False, "mean")
    other = output.with_name("other.safetensors")
    assert run_command(folder, other, *flags, "--ratio", "4", "--time-stride") == 0
    config = read_model_info(other).config
    assert (config.ratio, config.time_stride, config.guidance) == (4, True, True)
    last = output.with_name("last.safetensors")
    assert run_command(folder, last, "--steps", "1", "--start", str(other)) == 0
    assert read_model_info(last).config == config
    assert read_model_info(last).facts["training_steps"] == 1  # 3DCN was trained before


def test_command_starts_from_3dcn_and_2dcn(folder, output):
    temporal, detail = (output.with_name(f"{name}.safetensors") for name in ("3dcn", "2dcn"))
    flags = ("--steps", "1")
    assert run_command(folder, temporal, *flags, "--mode", "pretrain") == 0
    assert run_command(folder, detail, *flags, "--mode", "scratch", "--no-guidance") == 0
    start = ("--start", str(temporal), "--start-detail", str(detail))
    flags += ("--learning-rate", "1e-9", "--ema", "0")
    assert run_command(folder, output, *flags, *start) == 0
    joined = load_model(output)
    assert joined.config == load_model(temporal).config
    for name, source in (("temporal", temporal), ("detail", detail)):
        parts = dict(joined.named_parameters())
        for key, value in getattr(load_model(source), name).named_parameters():
            torch.testing.assert_close(parts[f"{name}.{key}"], value, atol=1e-7, rtol=1e-6)


def test_command_widens_narrow_networks(folder, output):
    narrow, flags = output.with_name("narrow.safetensors"), ("--steps", "1")
    assert run_command(folder, narrow, *flags, "--mode", "scratch", "--channel-divisor", "2") == 0
    config = read_model_info(narrow).config
    assert (config.channel_divisor, config.steady_frames) == (2, 0)
    flags += ("--learning-rate", "1e-9", "--ema", "0", "--widen", "--steady-frames", "8")
    assert run_command(folder, output, *flags, "--start", str(narrow)) == 0
    wide, expected = load_model(output), load_model(narrow).widen()
    assert wide.config == dataclasses.replace(config, channel_divisor=1, steady_frames=8)
    for key, value in expected.named_parameters():
        torch.testing.assert_close(wide.get_parameter(key), value, atol=1e-7, rtol=1e-6)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--steps", "0"], "steps is 0; give 1 or more."),
        (["--where", "shot"], "--where is shot; give a column and its value, such as shot=12."),
        (["--where", "shot=1"], "to choose clips by; leave --where out."),
        (["--start", "none.safetensors"], "there is no file none.safetensors"),
        (["--start-detail", "2dcn.safetensors"], "goes with --start, which gives 3DCN; give both."),
        (["--widen"], "--widen goes with --start, whose networks it widens; give both."),
        (["--no-guidance"], "mode is joint, but a model without guidance has no 3DCN"),
        (["--precision", "bf16"], "precision is bf16, which on a CPU goes wrong"),
        (["--device", "mps"], "device mps is not available here; use cpu, or auto."),
    ],
)
def test_command_says_what_is_wrong(folder, output, capsys, flags, said):
    if "mps" in flags and torch.backends.mps.is_available():
        pytest.skip("it is available here")
    assert run_command(folder, output, *flags) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.rstrip().endswith(".")
    assert list(output.parent.iterdir()) == []


def test_command_rejects_files_in_wrong_places(folder, output, capsys):
    assert run_command(folder / "none", output) == 2
    assert "none is not a folder; give one with videos or photographs." in capsys.readouterr().err
    inside = folder / "model.safetensors"
    assert run_command(folder, inside) == 2
    assert "its sample pictures would be learnt from" in capsys.readouterr().err
    assert run_command(folder, output.with_suffix(".pt")) == 2
    assert "does not end in .safetensors" in capsys.readouterr().err
    assert not inside.exists()


def test_command_says_that_training_failed(folder, output, capsys):
    assert run_command(folder, output, "--steps", "3", "--alpha", "1e30") == 1
    assert "became NaN at step 2, before anything was saved" in capsys.readouterr().err
    other = output.with_name("other.safetensors")
    with full_disk(20_000):
        assert run_command(folder, other, "--steps", "1") == 1
    assert "File too large" in capsys.readouterr().err
    assert not other.exists()


def test_several_processes_without_accelerate(folder, output, capsys, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setitem(sys.modules, "accelerate", None)  # as if it were not installed
    assert run_command(folder, output) == 2
    assert "accelerate, which is not installed; install combcn[train]." in capsys.readouterr().err
