"""VIDEO and MASK as files: the user's own where there is one, else lossless ones in temp."""

from __future__ import annotations

import dataclasses
import secrets
from fractions import Fraction
from pathlib import Path
from typing import Any

import folder_paths
import numpy as np
from comfy_api.latest import Input, InputImpl
from numpy.typing import NDArray
from torch import Tensor

from combcn_core.clips.frames import ColorTags
from combcn_core.clips.video import ClipInfo, open_reader, open_writer
from combcn_core.masks import check_masks

from .sockets import to_images, to_pictures


def trim(video: Input.Video, info: ClipInfo) -> tuple[int, int] | None:
    """First and last frame of a VIDEO that shows a part of its file only; None for all of it.

    Args:
        video: newer versions of ComfyUI cut it by times, without another file.
        info: of the whole file.

    Raises:
        ValueError: no frame is within these times.
    """
    window = getattr(video, "get_active_trim_window", lambda: (0.0, 0.0))
    start, duration = window()
    if not (start or duration):
        return None
    if info.pts is not None and info.time_base is not None:
        times = [float(pts * info.time_base) for pts in info.pts]
    else:
        assert info.fps is not None
        times = [float(info.start_seconds + index / info.fps) for index in info.read_indices]
    stop = start + duration if duration else times[-1] + 1
    slack = 1e-4  # seconds: a time is a rounded number, and a frame longer than this
    inside = [
        index
        for index, time in zip(info.read_indices, times, strict=True)
        if start - slack <= time < stop - slack
    ]
    if not inside:
        raise ValueError(
            f"video is cut to {start:g} s and {duration:g} s after it, where it has no frame; "
            f"cut it within 0 to {times[-1]:.2f} s."
        )
    return inside[0], inside[-1]


_MOST_BYTES = 4 * 2**30  # of frames in memory

# What newer versions of ComfyUI call the colours of a VIDEO. sRGB is also what they call those that
# nothing is known of, so it stays unstated.
_COLORS = {
    "HDR": ColorTags(matrix=9, range=1, primaries=9, transfer=18),  # BT.2020, HLG
    "HDR PQ": ColorTags(matrix=9, range=1, primaries=9, transfer=16),
}


def color_of(video: Input.Video) -> ColorTags:
    """The colours of a VIDEO; older versions of ComfyUI know one kind only."""
    name = getattr(video, "get_color_space", lambda: "sRGB")()
    return _COLORS.get(name, ColorTags())


def bits_of(video: Input.Video) -> int:
    """Bits of a value of a VIDEO; in older versions of ComfyUI always 8. HDR has 10 at least."""
    bits = getattr(video, "get_bit_depth", lambda: 8)()
    return bits if color_of(video) == ColorTags() else max(bits, 10)


def differs(video: Input.Video, info: ClipInfo, frames: tuple[int, int] | None) -> bool:
    """Whether a VIDEO shows something else than its file does, such as a crop.

    Newer versions of ComfyUI crop and cut without another file, and `get_stream_source` is still
    the whole one.

    Args:
        video: a file.
        info: of the whole file.
        frames: those within the times that are known of it.

    Raises:
        ValueError: it does, and has too many frames for them to be decoded into memory.
    """
    width, height = video.get_dimensions()
    same = (width, height) == (info.width, info.height)
    # ComfyUI gives the size of turned videos as they are stored.
    same |= info.is_turned and (height, width) == (info.width, info.height)
    assert info.num_frames is not None
    if same and frames is None and info.fps is not None and info.num_frames > 1:
        # That of a whole file is never shorter than its pictures.
        missing = float(info.num_frames / info.fps) - video.get_duration()
        same = missing < 1.5 / float(info.fps)
    if same:
        return False
    num_frames = info.num_frames if frames is None else frames[1] - frames[0] + 1
    if num_frames * width * height * 3 * 4 > _MOST_BYTES:
        raise ValueError(
            f"video shows {width}x{height} pixels, {video.get_duration():.2f} s of a file of "
            f"{info.width}x{info.height} with {info.num_frames} frames: it was cropped or cut by "
            "a node before. Save it with Save Video and load that file, or crop it after this node."
        )
    return True


class Scratch:
    """Files in ComfyUI's temp folder; those that are not to be kept go at the end."""

    def __init__(self) -> None:
        self._folder = Path(folder_paths.get_temp_directory())
        self._folder.mkdir(parents=True, exist_ok=True)
        self._files: list[Path] = []

    def __enter__(self) -> Scratch:
        return self

    def __exit__(self, *error: object) -> None:
        for file in self._files:
            file.unlink(missing_ok=True)

    def keep(self, ending: str) -> Path:
        """A free name for a file that stays, until ComfyUI clears the folder."""
        return self._folder / f"combcn_{secrets.token_hex(8)}{ending}"

    def part_of(self, video: Input.Video) -> tuple[Path, tuple[int, int] | None]:
        """A file, and the first and last frame of it that a VIDEO shows; None for all of it.

        Raises:
            ValueError: it shows another part of its file than can be found out, and is too long to
                be decoded into memory.
        """
        path = self.file_of(video)
        if isinstance(video, InputImpl.VideoFromComponents):
            return path, None
        info = open_reader(path).info
        frames = trim(video, info)
        if differs(video, info, frames):
            return self._write_components(video, info), None
        return path, frames

    def file_of(self, video: Input.Video) -> Path:
        """The whole file of a VIDEO; one is written if it has none."""
        if isinstance(video, InputImpl.VideoFromComponents):
            return self._write_components(video)
        source = video.get_stream_source()
        if isinstance(source, str):
            return Path(source)
        path = self._file(".mp4")
        path.write_bytes(source.getbuffer())
        return path

    def trimmed_file_of(self, video: Input.Video) -> Path:
        """As `file_of`, with nothing in it but what the VIDEO shows."""
        source, frames = self.part_of(video)
        if frames is None:
            return source
        path = self._file(".mkv")
        with open_reader(source, frames=frames) as reader:
            silent = dataclasses.replace(reader.info, has_sound=False)
            with open_writer(path, silent) as writer:
                for frame in reader:
                    writer.write(frame.pixels)
        return path

    def write_masks(self, masks: Tensor) -> Path:
        """(T, H, W) or (H, W), 1 inside the hole."""
        masks = masks.reshape(-1, *masks.shape[-2:])
        holes = check_masks(masks, *masks.shape)
        path = self._file(".mkv")
        with open_writer(path, ClipInfo(holes.shape[2], holes.shape[1], Fraction(25))) as writer:
            for hole in holes:
                writer.write(to_pictures(hole[..., None].expand(-1, -1, 3).float())[0])
        return path

    def _file(self, ending: str) -> Path:
        self._files.append(self.keep(ending))
        return self._files[-1]

    def _write_components(self, video: Input.Video, source: ClipInfo | None = None) -> Path:
        """Frames that are in memory. ComfyUI's own file of them would not be lossless.

        Args:
            source: of the file that they were decoded from, if there is one.
        """
        components = video.get_components()
        frames = to_images(components.images, "video")
        # A rate that was a floating number would be a fraction of two very long ones.
        rate = Fraction(components.frame_rate).limit_denominator(10_000)
        color = color_of(video) if source is None else source.color
        info = ClipInfo(frames.shape[2], frames.shape[1], rate, color=color)
        if bits_of(video) > 8:
            info = dataclasses.replace(info, dtype=np.dtype(np.uint16))
        alpha = getattr(components, "alpha", None)
        if alpha is not None:
            info = dataclasses.replace(info, has_alpha=True)
            alpha = _GivenAlpha(alpha.reshape(frames.shape[:3]), info.dtype)
        if components.audio:
            sound = self._file(".mp4")
            video.save_to(str(sound))
            info = dataclasses.replace(info, path=sound, has_sound=True)
        path = self._file(".mkv")
        with open_writer(path, info, alpha=alpha) as writer:
            for frame in frames:
                writer.write(to_pictures(frame, info.dtype)[0])
        return path


class _GivenAlpha:
    """The alpha of frames that are in memory, for a writer."""

    def __init__(self, alpha: Tensor, dtype: np.dtype[Any]) -> None:
        self._frames = iter(alpha)
        self._dtype = dtype

    def next(self) -> NDArray[Any]:
        """(H, W), of the next frame."""
        return to_pictures(next(self._frames)[..., None].expand(-1, -1, 3), self._dtype)[0, ..., 0]

    def close(self) -> None:
        """There is nothing to close."""
