"""Reads video files; see `open_reader`."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Generator, Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream

from combcn_core.clips.color import frame_to_pixels, has_alpha
from combcn_core.clips.decode import Decoder, damage_error, decodes_alpha
from combcn_core.clips.frames import Frame, FrameReader, select_frames
from combcn_core.clips.planes import Planes
from combcn_core.clips.scan import Opened, scan_video
from combcn_core.pixels import Pixels, Stored, pixels_of

_AS_STORED = (1, 0, 0, 1)  # an orientation that changes nothing


def _upright(pixels: Pixels, orientation: tuple[int, int, int, int]) -> Pixels:
    a, b, c, d = orientation
    if a == 0:
        pixels, a, d = pixels.swapaxes(0, 1), c, b
    return np.ascontiguousarray(pixels[::d, ::a])


class VideoReader(FrameReader):
    def __init__(
        self,
        path: Path,
        frames: tuple[int, int] | None,
        allow_truncated: bool,
        with_alpha: bool = False,
    ) -> None:
        super().__init__()
        scan, self._beginning = scan_video(path, decode_all=allow_truncated)
        if scan.damaged and not allow_truncated:
            # As many as --allow-truncated would use, and what is wrong.
            scan, _ = scan_video(path, decode_all=True)
            raise damage_error(path, scan.num_intact, scan.num_stated, scan.change)
        if scan.change:
            raise damage_error(path, 0, 0, scan.change)
        info, pts = scan.info, scan.pts
        known = info.read_indices
        indices = select_frames(known, frames, path)
        begin = bisect_left(known, indices[0])
        end = begin + len(indices)

        def seconds(position: int) -> Fraction:
            if pts is not None and info.time_base is not None:
                return pts[position] * info.time_base
            return position / info.fps if info.fps else Fraction(0)

        self._path = path
        self._scan = scan
        self._allow_truncated = allow_truncated
        self._with_alpha = with_alpha
        last_seconds = info.last_seconds
        if end < len(known):
            last_seconds = seconds(end) - seconds(end - 1) if info.pts is not None else None
        self.info = replace(
            info,
            last_seconds=last_seconds,
            path=path,
            indices=indices,
            pts=None if info.pts is None else info.pts[begin:end],
            start_seconds=seconds(begin),
            stop_seconds=None if end == len(known) else seconds(end),
            truncated=scan.damaged,
        )

    def _items(self) -> Generator[Frame, None, None]:
        wanted = self.info.read_indices
        first, last = wanted[0], wanted[-1]
        keys: list[tuple[int, int | None]] = [
            (index, pts) for index, pts in self._scan.keyframes if 0 < index <= first
        ]
        reformatter = VideoReformatter()
        num_yielded = 0
        for key, start in [*keys[-1:], (0, None)]:  # None is the start of the file
            latest = key
            for index, frame in self._decode(start):
                if index > last:
                    break
                # A stream that is refreshed bit by bit shows nothing at first, and what FFmpeg
                # shows then is not always whole.
                if num_yielded == 0 and start is not None and index > latest:
                    break
                latest = first
                if index >= first:
                    picture = self._picture(frame, index, reformatter)
                    stored = self._rgba(picture, frame) if self._with_alpha else None
                    yield Frame(picture, index, frame.pts, f"{index:06d}", stored)
                    num_yielded += 1
            if num_yielded:
                break
        if num_yielded < len(wanted) and not self._allow_truncated:
            raise damage_error(self._path, first + num_yielded, self._scan.num_stated)

    def _decode(self, start: int | None) -> Iterator[tuple[int, VideoFrame]]:
        """Decode from the key frame with this pts; yields indices with frames."""
        scan = self._scan
        container, _, decoder, frames = self._open(start)
        with container:
            index = -1
            for count, frame in enumerate(frames):
                if decoder.damaged and not self._allow_truncated:
                    break
                position = count
                if scan.pts is not None:
                    position = -1 if frame.pts is None else bisect_left(scan.pts, frame.pts)
                    if frame.pts not in scan.pts[position : position + 1]:
                        continue  # before the first one that counts
                index = scan.info.read_indices[position]
                yield index, frame
            if decoder.damaged and not self._allow_truncated:
                raise damage_error(self._path, index + 1, scan.num_stated, decoder.change)

    def _open(self, start: int | None) -> Opened:
        """Open the file at the key frame with this pts, or go on from what the scan decoded."""
        beginning, self._beginning = self._beginning, None
        opened = None if beginning is None else beginning.take()
        if opened is not None:
            if start is None and not (self._with_alpha and decodes_alpha(opened.stream)):
                return opened
            opened.container.close()
        container = av.open(str(self._path.absolute()), metadata_errors="ignore")
        stream = container.streams[self._scan.stream_index]
        assert isinstance(stream, VideoStream)
        if start is not None:
            container.seek(start, stream=stream)
        decoder = Decoder(stream, from_pts=start, with_alpha=self._with_alpha)
        return Opened(container, stream, decoder, decoder.decode_all(container))

    def _rgba(self, picture: Stored, frame: VideoFrame) -> Pixels | None:
        """Pixels with the alpha of their frame; None where it has none."""
        if not has_alpha(frame):
            return None
        packed = "rgba" if picture.dtype == np.uint8 else "rgba64le"
        alpha = frame.reformat(format=packed).to_ndarray()[..., 3]
        return np.dstack([pixels_of(picture), _upright(alpha, self._scan.orientation)])

    def _picture(self, frame: VideoFrame, index: int, reformatter: VideoReformatter) -> Stored:
        picture: Stored
        if self._scan.orientation == _AS_STORED and Planes.fits(frame):
            picture = Planes(frame, self.info.color)
        else:
            pixels = frame_to_pixels(frame, self.info.color, reformatter)
            picture = _upright(pixels, self._scan.orientation)
        shape = (self.info.height, self.info.width, 3)
        if picture.shape != shape or picture.dtype != self.info.dtype:
            first = f"{self.info.width}x{self.info.height} {self.info.dtype}"
            later = f"{picture.shape[1]}x{picture.shape[0]} {picture.dtype} from frame {index} on"
            raise damage_error(self._path, 0, 0, f"{first}, but {later}")
        return picture
