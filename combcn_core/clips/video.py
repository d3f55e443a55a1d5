"""Frames and sound of video files and image folders, read and written as a stream.

`open_reader` yields upright RGB frames one at a time, and `open_writer` takes the finished ones and
brings along all else that the source has: rate, time stamps, colour tags, names, metadata and
sound. Nothing here holds more than a few frames.
"""

from __future__ import annotations

import os
from fractions import Fraction
from pathlib import Path

import numpy as np

from combcn_core.clips.formats import CONTAINERS, choose_encoding
from combcn_core.clips.frames import (
    Alpha,
    ClipInfo,
    ColorTags,
    Frame,
    FrameReader,
    FrameWriter,
    PathLike,
)
from combcn_core.clips.images import (
    IMAGE_ENDINGS,
    ImageReader,
    ImageWriter,
    is_animation,
    is_pattern,
)
from combcn_core.clips.read import VideoReader
from combcn_core.clips.write import VideoWriter

__all__ = [
    "IMAGE_ENDINGS",
    "VIDEO_ENDINGS",
    "ClipInfo",
    "ColorTags",
    "Frame",
    "FrameReader",
    "FrameWriter",
    "PathLike",
    "open_reader",
    "open_writer",
]

# What counts as a video in a folder of many things; any file that FFmpeg reads can be opened.
VIDEO_ENDINGS = (".mp4", ".m4v", ".mov", ".mkv", ".avi", ".webm", ".mpg", ".mpeg", ".mxf", ".ts")


def open_reader(
    path: PathLike,
    *,
    frames: tuple[int, int] | None = None,
    allow_truncated: bool = False,
    with_alpha: bool = False,
) -> FrameReader:
    """Open a video file, a folder of images (in the order of their numbers), or one image.

    A name such as shot_%04d.png stands for the images with a number there. An animated PNG is a
    video; an animated WebP is refused.

    Pixels are RGB whatever the file holds. YUV is converted with the matrix and range of its tags;
    untagged, it counts as limited range and as BT.709 if larger than 1024x576, else BT.601, as
    players have it, and `open_writer` does the same. 8 bits come as uint8; more as uint16, over
    the full range. Gray becomes three equal channels. Alpha is not among them; `open_writer` brings
    it along.

    EXR images are scene-linear: their pixels come as float32 on the curve of `exr.encode`, as the
    display window shows them, and black where it has no data.

    Opening reads all packets once and decodes the first frame, so that frame count, rate and a
    file cut short are known beforehand. The outcome is kept: opening the same file again is cheap.
    The first reader of a file goes on from that frame, as long as one that opened it is held.

    Args:
        path: file or folder.
        frames: first and last frame to yield, from 0, both included. Decoding starts at a key
            frame before the first one, and yields what reading the whole clip would.
        allow_truncated: read what decodes of a damaged file. Frames that do not decode are left
            out, of `info.indices` too. Decodes everything once more.
        with_alpha: where a video has alpha, `stored` of its frames is RGBA.

    Raises:
        ValueError: missing, not a video, no frames, a range outside the clip, images that differ
            in size, bit depth or alpha, EXR without the package OpenEXR; damaged, without
            `allow_truncated` (while iterating, where only decoding shows it).
    """
    path = Path(path)
    if not is_pattern(path):
        check_exists(path, "give a video file or a folder of images")
    if path.is_dir() or (path.suffix.lower() in IMAGE_ENDINGS and not _is_moving_png(path)):
        return ImageReader(path, frames)
    return VideoReader(path, frames, allow_truncated, with_alpha)


def open_writer(
    path: PathLike,
    info: ClipInfo,
    *,
    fps: Fraction | None = None,
    codec: str | None = None,
    quality: int | None = None,
    scratch: Path | None = None,
    alpha: Alpha | None = None,
) -> FrameWriter:
    """Open an output, whose ending says what it becomes.

    - `.mp4`: H.264 at CRF 14, or HEVC or AV1; 4:2:0, or 4:4:4 where width or height is odd (4:2:0
      has no odd sizes); 10 bits if the source has more than 8.
    - `.mkv`: FFV1 level 3 with a checksum per slice. RGB, lossless: what is written is what
      will be read, bit for bit. Any other codec too.
    - `.mov`: ProRes 4444 where the source has alpha, is RGB or 4:4:4 (or its width odd), else 422
      HQ. H.264 and HEVC too.
    - `.webm`: VP9, or AV1 where the source has more than 8 bits.
    - none: a folder of PNG, 8 or 16 bits, named as the source's images or by frame number. EXR
      images become EXR: all but the colours that differ from the source is the source's, see
      `exr.write`. PNGs of which no pixel differs are copied; others keep profile, size and text.

    Rate, time stamps, how long each frame stays, colour tags, mastering display, field order and
    metadata are those of `info`; Matroska rounds variable time stamps to milliseconds, and loses
    the aspect of pixels that are not square (a warning). RGB that becomes YUV takes the source's
    matrix and range, or BT.709 limited if the source was RGB. Alpha of the source is taken over as
    it is, in the hole too, where the codec has alpha. Sound is copied packet by packet, all tracks,
    cut and shifted to the frames of `info`; what players do not expect in the container is encoded
    (AAC in .mp4, PCM in .mov, FLAC in .mkv, Opus in .webm), and so are subtitles of text that it
    does not take. Pictures of subtitles, chapters, attachments and data come through where the
    container takes them. One line says what is left out.

    The result appears under its name only when `close`, or the end of a `with` block, has made it
    whole; an exception leaves nothing behind. A file of that name is replaced then. A folder is
    not: it must be absent or empty, so no image of yours is ever overwritten.

    Args:
        path: file or folder to write, in a folder that exists.
        info: of the source, usually `reader.info`.
        fps: frames per second, for a source that has none.
        codec: h264, hevc, av1, vp9, prores or ffv1; None: the first of the list above.
        quality: CRF of h264, hevc (0 to 51), av1 and vp9 (0 to 63), lower is better.
        scratch: folder on the same disk where the result grows; None: beside `path`.
        alpha: of frames that come from no file, where `info` says that they have it; for videos.

    Raises:
        ValueError: unknown ending, output same as the source, folder missing, not writable or not
            empty, no rate for a video, a rate for a source that has one, a video of EXR images, a
            codec that does not go with the ending or that this PyAV cannot encode with. All of it
            is found here, before the first frame.
    """
    path = Path(path)
    if info.path is not None and path.resolve() == info.path.resolve():
        raise ValueError(f"output {path} is the input itself; give another name.")
    ending = "" if os.path.isdir(path) else path.suffix.lower()
    if ending not in ("", *CONTAINERS):
        known = ", ".join(CONTAINERS)
        raise ValueError(
            f"output {path} ends in {path.suffix}, which is not known; use {known}, or no ending "
            "for a folder of images."
        )
    if not path.absolute().parent.is_dir():
        raise ValueError(f"output folder {path.absolute().parent} does not exist; create it first.")
    if fps is not None and info.fps is not None and fps != info.fps:
        raise ValueError(
            f"the clip has {info.fps} frames per second but fps is {fps}; leave fps out, it is "
            "for folders of images."
        )
    if info.dtype == np.float32 and (ending or info.path is None):
        raise ValueError(
            f"output {path} cannot hold scene-linear frames; write the EXR images of a folder into "
            "a folder."
        )
    if not ending:
        for name, value in (("codec", codec), ("quality", quality)):
            if value is not None:
                raise ValueError(
                    f"{name} is {value} but output {path} is a folder of images; leave it out, or "
                    f"give a name that ends in {', '.join(CONTAINERS)}."
                )
        return ImageWriter(path, info, scratch, None if info.names else _alpha_of(info))
    rate = info.fps or fps
    if rate is None:
        raise ValueError(
            f"output {path} is a video but {info.path or 'the clip'} has no frame rate; pass "
            "--fps, or write a folder."
        )
    encoding = choose_encoding(path, info, codec, quality)
    if alpha is None and encoding.has_alpha:
        alpha = _alpha_of(info)
    return VideoWriter(path, info, rate, encoding, scratch, alpha)


def _alpha_of(info: ClipInfo) -> Alpha | None:
    """The frames of a clip once more, for their alpha; EXR images bring their own."""
    if not info.has_alpha or info.path is None or info.dtype == np.float32:
        return None
    span = (info.read_indices[0], info.read_indices[-1])
    return Alpha(
        open_reader(info.path, frames=span, allow_truncated=info.truncated, with_alpha=True)
    )


def _is_moving_png(path: Path) -> bool:
    """Whether a file called .png is an animation, which FFmpeg reads."""
    if path.suffix.lower() != ".png" or not path.is_file():
        return False
    with path.open("rb") as file:
        return is_animation(file.read(2**16))


def check_exists(path: Path, hint: str) -> None:
    if not os.path.exists(path):  # no error for a name that is too long
        raise ValueError(f"{path} does not exist; {hint}.")
