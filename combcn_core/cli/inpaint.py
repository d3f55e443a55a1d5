"""`combcn inpaint`."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tqdm.contrib.logging import logging_redirect_tqdm
from tyro.conf import FlagCreatePairsOff, Positional, UseAppendAction, arg

from combcn_core.cli.common import (
    RunBar,
    Unchecked,
    load_weights,
    parse_frames,
    parse_rate,
    settings,
    summary,
)
from combcn_core.clips.mask_rules import MaskConfig
from combcn_core.clips.video import open_reader
from combcn_core.shot import InpaintConfig


@dataclass(frozen=True, kw_only=True)
class _Files:
    """The flags of `combcn inpaint` that are about files and machines."""

    input: Positional[Annotated[Path, arg(metavar="INPUT")]]
    """Video file, folder of frames (PNG, JPEG, TIFF, EXR, ...), or their name as shot_%04d.png."""
    mask: Annotated[str, arg(metavar="MASK")]
    """What to remove, in white: an image, a folder of images, a video, an array (.npy, .npz); or
    x,y,w,h in pixels."""
    output: Annotated[Path, arg(metavar="OUTPUT")]
    """.mp4 (H.264), .mkv (FFV1, lossless), .mov (ProRes), .webm (VP9), or a folder for PNG or EXR
    images."""
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
    codec: Annotated[str | None, arg(metavar="NAME")] = None
    """How a video is encoded: h264, hevc, av1, vp9, prores or ffv1. None: H.264 in .mp4, FFV1 in
    .mkv, ProRes in .mov, VP9 in .webm."""
    quality: Annotated[int | None, arg(metavar="CRF")] = None
    """Of h264 and hevc from 0 to 51, of av1 and vp9 to 63; lower is better, and larger."""
    weights: Annotated[str | None, arg(metavar="NAME|PATH")] = None
    """Weights of the networks: a name that comes with CombCN, or a .safetensors file."""
    memory_limit: Annotated[float | None, arg(metavar="GIB")] = None
    """Compute fewer frames at a time, so that about this much memory is enough."""
    resume: FlagCreatePairsOff[bool] = False
    """Keep finished segments until the output is whole, and use those of an interrupted run."""
    report: Annotated[Path | None, arg(metavar="REPORT.JSON")] = None
    """Write what was done, how long it took and how much memory it needed to this file."""


@dataclass(frozen=True, kw_only=True)
class Inpaint(Unchecked, InpaintConfig, MaskConfig, _Files):
    """Remove what a mask covers from a video. Pixels outside the mask are not touched."""

    network: bool = True
    """Let the networks paint what no frame shows, where --weights are given; without any, a smooth
    fill does it."""

    def config(self) -> InpaintConfig:
        return settings(self, InpaintConfig, network=None if self.network else False)

    def run(self) -> int:
        from combcn_core.stream.files import inpaint_file

        config, mask_config = self.config(), settings(self, MaskConfig)
        frames = None if self.frames is None else parse_frames(self.frames)
        references = _parse_references(self.reference)
        fps = None if self.fps is None else parse_rate(self.fps)
        if self.memory_limit is not None and self.memory_limit <= 0:
            raise ValueError(f"--memory-limit is {self.memory_limit:g}; give GiB, above 0.")
        if self.report is not None:
            _check_report(self)
        # Before the weights are read, which may take longer.
        source = open_reader(self.input, frames=frames, allow_truncated=self.allow_truncated)
        model = load_weights(self.weights, self.network)
        with source, logging_redirect_tqdm(), RunBar(self.output.name) as bar:
            report = inpaint_file(
                self.input,
                self.mask,
                self.output,
                config=config,
                model=model,
                frames=frames,
                references=references,
                mask_config=mask_config,
                fit_mask=self.fit_mask,
                allow_truncated=self.allow_truncated,
                fps=fps,
                codec=self.codec,
                quality=self.quality,
                memory_limit_gib=self.memory_limit,
                resume=self.resume,
                progress=bar,
            )
        if self.report is not None:
            report.save(self.report)
        print(summary(self.output, report))
        return 0


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


def _check_report(command: Inpaint) -> None:
    report = command.report
    assert report is not None
    folder = report.absolute().parent
    if report.is_dir() or not os.access(folder, os.W_OK):
        raise ValueError(
            f"report {report} cannot be written; give a file name in a folder of yours."
        )
    files = [command.input, Path(command.mask), command.output]
    files += _parse_references(command.reference).values()
    if report.resolve() in {file.resolve() for file in files}:
        raise ValueError(f"report {report} is also an input or the output; give another name.")
