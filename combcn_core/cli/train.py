"""`combcn train`."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from tqdm.contrib.logging import logging_redirect_tqdm
from tyro.conf import FlagCreatePairsOff, OmitArgPrefixes, Positional, UseAppendAction, arg

from combcn_core.cli.common import RunBar, Unchecked, bar, say
from combcn_core.memory import GIB
from combcn_core.pixels import Pixels
from combcn_core.progress import Progress
from combcn_core.training.config import DataConfig, SavingConfig, ScheduleConfig, TrainConfig


@dataclass(frozen=True)
class _Data(Unchecked, DataConfig):
    where: UseAppendAction[Annotated[tuple[str, ...], arg(metavar="COLUMN=VALUE")]] = ()
    """Use only the files whose row in DATA/metadata.csv has this value in this column."""


@dataclass(frozen=True)
class _Networks:
    start: Annotated[str | None, arg(metavar="NAME|PATH")] = None
    """The weights to start from, which say what the networks are like: --channel-divisor,
    --input-fill, --guidance, --ratio and --time-stride then do not count."""
    start_detail: Annotated[str | None, arg(metavar="NAME|PATH")] = None
    """The weights whose CombCN, or 2DCN, takes the place of that of --start. Guidance that it lacks
    starts at zero."""
    widen: FlagCreatePairsOff[bool] = False
    """Give narrow networks of --start the paper's channels first. They do then what they did, and
    have more to learn with."""
    channel_divisor: Literal[1, 2, 4, 8] = 1
    """Divide the channels of all hidden layers by this: narrow networks train and run in a fraction
    of the time."""
    input_fill: Literal["mean", "classical"] = "classical"
    """What the networks find in the hole: the mean pixel, as in the paper, or a smooth fill, to
    which they add what they learn."""
    guidance: bool = True
    """Let 3DCN guide CombCN; without guidance it is the paper's 2DCN, and 3DCN is not used."""
    ratio: Literal[2, 4] = 2
    """3DCN's clip is smaller than the frames by this factor; 4 is the paper's V-1."""
    time_stride: FlagCreatePairsOff[bool] = False
    """Let 3DCN stride time too, the paper's V-2."""
    steady_frames: int | None = None
    """In use, average what CombCN adds over this many frames before and after, so that it does not
    flicker. None: as --start has it, or 0."""


@dataclass(frozen=True, kw_only=True)
class Train:
    """Train the networks on a folder of videos and photographs. The same command goes on where an
    earlier one stopped."""

    folder: Positional[Annotated[Path, arg(metavar="DATA")]]
    """Folder of videos and photographs; folders in it count too."""
    output: Annotated[Path, arg(metavar="CKPT")]
    """The weights, .safetensors. Beside them: the state from which training goes on (.training),
    and a folder with a log, curves and sample pictures."""
    dry_run: FlagCreatePairsOff[bool] = False
    """Take a few steps, say how long all will take and how much memory, and write nothing."""
    data: OmitArgPrefixes[_Data]
    """Which clips are drawn from DATA, and with which holes."""
    networks: OmitArgPrefixes[_Networks]
    """What is trained."""
    schedule: OmitArgPrefixes[ScheduleConfig]
    """What is trained when, how fast, and on what."""
    saving: OmitArgPrefixes[SavingConfig]
    """What is saved, and when."""

    def config(self) -> TrainConfig:
        settings: dict[str, Any] = {"steady_frames": self.networks.steady_frames}
        for part in (self.data, self.schedule, self.saving):
            settings |= dataclasses.asdict(part)
        settings.pop("where")
        return TrainConfig(**settings)

    def run(self) -> int:
        from combcn_core.networks.checkpoint import check_name, load_model
        from combcn_core.networks.config import NetworkConfig
        from combcn_core.networks.layers import CombCN
        from combcn_core.training.footage import scan_footage
        from combcn_core.training.log import TrainingLog
        from combcn_core.training.train import TrainingStep, estimate, train

        config = self.config()
        network = NetworkConfig(
            ratio=self.networks.ratio,
            time_stride=self.networks.time_stride,
            guidance=self.networks.guidance,
            input_fill=self.networks.input_fill,
            channel_divisor=self.networks.channel_divisor,
        )
        start = None if self.networks.start is None else load_model(self.networks.start)
        start_detail = self.networks.start_detail
        if start_detail is not None:
            if start is None:
                raise ValueError(
                    f"--start-detail {start_detail} goes with --start, which gives 3DCN; give both."
                )
            start = CombCN.join(start, load_model(start_detail))
        if self.networks.widen:
            if start is None:
                raise ValueError("--widen goes with --start, whose networks it widens; give both.")
            start = start.widen()
        check_name(self.output)
        if self.folder.resolve() in self.output.resolve().parents:
            raise ValueError(
                f"{self.output} lies in {self.folder}, where its sample pictures would be learnt "
                "from; give an output elsewhere."
            )
        where = _parse_where(self.data.where)
        footage = scan_footage(
            self.folder, where=where, clip_length=config.clip_length, workers=config.workers
        )
        speaks = os.environ.get("RANK", "0") == "0"  # several processes train, one reports
        if speaks:
            say(
                f"{len(footage.train)} files to learn from, {len(footage.validation)} held back"
                + (f", {len(footage.skipped)} left out." if footage.skipped else ".")
            )
        if self.dry_run:
            needed = estimate(footage, config, network=network, start=start)
            steps = " and ".join(f"{count} of {name}" for name, count in needed.steps.items())
            memory = "" if needed.memory_bytes is None else f", {needed.memory_bytes / GIB:.1f} GiB"
            if speaks:
                print(
                    f"{steps} steps: {_duration(needed.seconds)}, of which "
                    f"{_duration(needed.calibration_seconds)} for calibration{memory}; nothing was "
                    "written."
                )
            return 0
        log = TrainingLog(self.output)
        calibration: RunBar | None = None

        def on_progress(share: float, picture: Pixels | None) -> None:
            nonlocal calibration
            if speaks:
                calibration = calibration or RunBar(self.output.name)
                calibration(Progress("calibrating", share))

        progress: TrainingStep | None = None
        with (
            logging_redirect_tqdm(),
            bar(self.output.name, "step") as counted,
            closing(
                train(
                    footage,
                    self.output,
                    config,
                    network=network,
                    start=start,
                    on_progress=on_progress,
                )
            ) as under_way,
        ):
            for progress in under_way:
                if not speaks:
                    continue
                log.add(progress)
                counted.total = progress.steps
                counted.update(progress.step - counted.n)
                counted.set_postfix({name: f"{loss:.2f}" for name, loss in progress.losses.items()})
        if calibration is not None:
            calibration.tqdm.close()
        if not speaks:
            return 0
        if progress is None:
            print(f"{self.output}: all its steps are done; --steps with a higher number goes on.")
        else:
            losses = ", ".join(f"{name} {loss:.2f}" for name, loss in progress.losses.items())
            print(f"{self.output}: {progress.step} steps, l1 of the last one: {losses}.")
        return 0


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
