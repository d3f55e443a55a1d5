"""The state of a training: all that a step changes, saved and loaded whole."""

from __future__ import annotations

import copy
import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from combcn_core.networks.checkpoint import load_tensors, save_tensors
from combcn_core.networks.config import NetworkConfig
from combcn_core.networks.layers import CombCN
from combcn_core.training import TrainingDiverged
from combcn_core.training.config import TrainConfig
from combcn_core.training.footage import Footage
from combcn_core.training.precision import bf16_is_right
from combcn_core.training.processes import Processes

STATE_ENDING = ".training"  # beside the checkpoint: all that a training needs to go on


@dataclass
class State:
    """Model, averaged model, optimizer and step: all that a step of a training changes."""

    model: CombCN
    averaged: CombCN
    optimizer: torch.optim.Adam
    config: TrainConfig
    identity: dict[str, Any]  # what must be the same for training to go on
    step: int = 0

    @classmethod
    def make(
        cls,
        footage: Footage,
        config: TrainConfig,
        network: NetworkConfig,
        start: CombCN | None,
        processes: Processes,
    ) -> State:
        if start is None:
            network = dataclasses.replace(network, mean_pixel=footage.mean_pixel)
        else:
            network = start.config
        if config.steady_frames is not None:
            network = dataclasses.replace(network, steady_frames=config.steady_frames)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            model = CombCN(network)
        if start is not None:
            model.load_state_dict(start.state_dict())
            config = dataclasses.replace(config, pretrain_steps=0)
        right = bf16_is_right(config, model.config, processes.device)
        if config.precision == "bf16" and not right:
            raise ValueError(
                f"precision is bf16, which on a CPU goes wrong for clips of {config.clip_length} "
                "frames; take longer clips, or fp32."
            )
        if model.config.input_fill == "mean":  # then no fill is looked at; the fast one will do
            fills = tuple("smooth" if fill == "rest" else fill for fill in config.fills)
            config = dataclasses.replace(config, fills=fills)
        model = model.to(processes.device, torch.float32)
        _arrange(model.temporal, torch.channels_last_3d)
        _arrange(model.detail, torch.channels_last)
        optimizer = torch.optim.Adam(
            model.parameters(), config.learning_rate, weight_decay=config.weight_decay
        )
        free = {
            "steps", "minutes", "save_every", "sample_every", "workers", "half", "device",
            "calibration_clips",
        }  # fmt: skip
        settings = dataclasses.asdict(config)
        identity = {
            "network": model.config.to_dict(),
            "footage": footage.fingerprint,
            **{name: settings[name] for name in sorted(settings.keys() - free)},
            "accumulate": config.accumulate * processes.count,  # of all processes together
        }
        identity = json.loads(json.dumps(identity))  # lists for tuples, as it will be read
        averaged = copy.deepcopy(model).requires_grad_(False)
        return cls(model, averaged, optimizer, config, identity)

    @torch.no_grad()
    def average(self) -> None:
        """Move averaged weights and BatchNorm statistics towards the model's, faster at first."""
        decay = min(self.config.ema, (1 + self.step) / (10 + self.step))
        averaged, model = self.averaged.state_dict(), self.model.state_dict()
        for average, value in zip(averaged.values(), model.values(), strict=True):
            if average.is_floating_point():
                average.lerp_(value, 1 - decay)
            else:
                average.copy_(value)

    def save(self, path: Path) -> None:
        """Write all of it, whole or not at all.

        Raises:
            TrainingDiverged: a weight is not a number any more; what was saved before is kept.
            OSError: the disk refused.
        """
        tensors = {}
        for prefix, module in (("model", self.model), ("averaged", self.averaged)):
            for name, value in module.state_dict().items():
                tensors[f"{prefix}.{name}"] = value.cpu().contiguous()
        for index, moments in self.optimizer.state_dict()["state"].items():
            for name, value in moments.items():
                tensors[f"optimizer.{index}.{name}"] = value.cpu().contiguous()
        for name, value in tensors.items():
            if not value.isfinite().all():
                raise TrainingDiverged(f"{name} became NaN at step {self.step}; it was not saved.")
        text = json.dumps({"step": self.step, "identity": self.identity}, sort_keys=True)
        save_tensors(path, tensors, text)

    def load(self, path: Path) -> None:
        """Go on where `save` was called.

        Raises:
            ValueError: damaged, or of another training.
        """
        tensors, text = load_tensors(path)
        described = json.loads(text)
        if "identity" not in described:
            raise ValueError(
                f"{path} is no state of a training; remove it, or give another output."
            )
        for name, value in self.identity.items():
            then = described["identity"].get(name)
            if then != value:
                raise ValueError(
                    f"{path} is of a training with {name} {then}, now {value}; give the same "
                    "settings and footage to go on, or another output."
                )
        parameters = list(self.model.parameters())
        moments: dict[int, dict[str, Tensor]] = {}
        weights: dict[str, dict[str, Tensor]] = {"model": {}, "averaged": {}}
        for key, value in tensors.items():
            kind, name = key.split(".", 1)
            if kind == "optimizer":
                index, name = name.split(".", 1)
                like = parameters[int(index)]
                if value.shape == like.shape:  # laid out as Adam lays it out, or it becomes slow
                    value = torch.empty_like(like).copy_(value)
                moments.setdefault(int(index), {})[name] = value
            else:
                weights[kind][name] = value
        self.model.load_state_dict(weights["model"])
        self.averaged.load_state_dict(weights["averaged"])
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": moments, "param_groups": groups})
        self.step = described["step"]


def _arrange(module: nn.Module, memory_format: torch.memory_format) -> None:
    """Channels last, where bf16 convolutions are fastest."""
    module.to(memory_format=memory_format)  # type: ignore[call-overload]


def state_path(output: Path) -> Path:
    return output.with_suffix(STATE_ENDING)
