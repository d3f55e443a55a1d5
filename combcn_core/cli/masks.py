"""`combcn masks`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tqdm.contrib.logging import logging_redirect_tqdm
from tyro.conf import FlagCreatePairsOff, Positional, arg

from combcn_core.cli.common import RunBar, Unchecked, parse_frames, parse_rate, settings
from combcn_core.clips.mask_rules import MaskConfig
from combcn_core.progress import Progress


@dataclass(frozen=True, kw_only=True)
class Masks(Unchecked, MaskConfig):
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
    preview: Annotated[Path | None, arg(metavar="VIDEO")] = None
    """Also write the frames with an outline around the masks: a video, or a folder."""
    grow_pixels: int = 0
    """Grow the masks by this many pixels; negative numbers shrink them."""
    frames: Annotated[str | None, arg(metavar="A-B")] = None
    """First and last frame to write a mask for, counted from 0."""
    fps: Annotated[str | None, arg(metavar="RATE")] = None
    """Frames per second, such as 25 or 24000/1001, of a folder of frames whose masks or preview
    become a video."""
    fit_mask: FlagCreatePairsOff[bool] = False
    """Resize a mask that has another size than the frames."""
    allow_truncated: FlagCreatePairsOff[bool] = False
    """Go on with what decodes of a damaged file."""

    def run(self) -> int:
        from combcn_core.stream.files import write_masks

        mask_config = settings(self, MaskConfig)
        frames = None if self.frames is None else parse_frames(self.frames)
        fps = None if self.fps is None else parse_rate(self.fps)
        count = 0
        with logging_redirect_tqdm(), RunBar(self.output.name) as bar:

            def progress(now: Progress) -> None:
                nonlocal count
                count = now.num_frames
                bar(now)

            pixels = write_masks(
                self.input,
                self.mask,
                self.output,
                frames=frames,
                fps=fps,
                mask_config=mask_config,
                fit_mask=self.fit_mask,
                allow_truncated=self.allow_truncated,
                grow_pixels=self.grow_pixels,
                preview=self.preview,
                progress=progress,
            )
        shown = "" if self.preview is None else f" {self.preview} shows them over the clip."
        print(f"{self.output}: masks of {count} frames, {pixels / count:.0f} pixels each.{shown}")
        return 0
