"""`combcn demo`."""

from __future__ import annotations

import dataclasses
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import av
import cv2
import numpy as np
from numpy.typing import NDArray
from tqdm.contrib.logging import logging_redirect_tqdm
from tyro.conf import arg

from combcn_core.atomic import make_folder
from combcn_core.cli.common import RunBar, say, summary
from combcn_core.clips.video import ClipInfo, open_reader, open_writer
from combcn_core.pixels import Pixels

if TYPE_CHECKING:
    from combcn_core.demo import DemoClip


@dataclass(frozen=True, kw_only=True)
class Demo:
    """Remove a van from a built-in clip, and measure the result against the truth."""

    output: Annotated[Path, arg(metavar="FOLDER")] = Path("combcn_demo")
    """Where input.mp4, mask.mkv, truth.mp4, result.mp4 and comparison.png go."""

    def run(self) -> int:
        import torch

        from combcn_core.demo import load_demo
        from combcn_core.measure.metrics import hole_psnr
        from combcn_core.stream.files import inpaint_file

        folder = make_folder(self.output)
        clip = load_demo()
        _write_demo(clip, folder)

        say("removing the van ...")
        with logging_redirect_tqdm(), RunBar("result.mp4") as bar:
            report = inpaint_file(
                folder / "input.mp4",
                folder / "mask.mkv",
                folder / "result.mp4",
                progress=bar,
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
        ours, theirs = (
            hole_psnr(torch.from_numpy(frames), truth, masks) for frames in (result, telea)
        )
        _save_comparison(folder / "comparison.png", clip, source, result, telea, (ours, theirs))
        print(summary(folder / "result.mp4", report))
        print(f"hole PSNR against the truth: CombCN {ours:.2f} dB, cv2.inpaint {theirs:.2f} dB.")
        print(f"{folder / 'comparison.png'} shows both.")
        return 0


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
