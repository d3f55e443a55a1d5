"""Frames as they were decoded: made RGB where that is asked for, and given back to encoders.

Outside of its hole a frame passes from the decoder to an encoder of the same format without a
conversion, sample for sample. Inside, luma is that of the filled pixels; and so is chroma that a
sample shares between pixels of which at least one is in the hole.
"""

from __future__ import annotations

import re
from typing import Any

import cv2
import numpy as np
from av.video.frame import VideoFrame
from numpy.typing import NDArray

from combcn_core.clips.color import pixels_to_planes, plane_rows, planes_to_pixels, yuv_to_pixels
from combcn_core.clips.frames import ColorTags
from combcn_core.pixels import Box, Decoded, Filled, Pixels, crop_box

_PLANAR = re.compile(r"yuvj?4(20|22|44)p((9|10|12|14|16)le)?")
_FILTER_PIXELS = 4  # around a hole, more than the chroma filter reaches; and of every grid


class Planes(Decoded):
    """A frame of planar YUV, with or without subsampled chroma, of up to 16 bits."""

    def __init__(self, frame: VideoFrame, color: ColorTags) -> None:
        """Hold a frame of a format of which `fits` is true."""
        self._frame = frame
        self._color = color
        self._bits = frame.format.components[0].bits
        self.shape = frame.height, frame.width, 3
        self.dtype = np.dtype(np.uint8 if self._bits == 8 else np.uint16)
        self.format = frame.format.name.replace("yuvj", "yuv")  # the range is in the tags

    @staticmethod
    def fits(frame: VideoFrame) -> bool:
        """Whether a decoded frame can be held like this."""
        return _PLANAR.fullmatch(frame.format.name) is not None

    def to_pixels(self, box: Box) -> Pixels:
        frame = self._frame
        return planes_to_pixels(
            self.samples(), box, self._color, self._bits, self.shape[:2], frame.interlaced_frame
        )

    def to_small(self, width: int, height: int) -> Pixels:
        """As `Decoded.to_small`: samples are averaged, and the averages converted."""
        planes = self.samples()
        if planes[1].shape[1] < width or planes[1].shape[0] < height:
            return cv2.resize(self.pixels, (width, height), interpolation=cv2.INTER_AREA)
        small = [
            cv2.resize(plane, (width, height), interpolation=cv2.INTER_AREA) for plane in planes
        ]
        yuv = cv2.merge(small).astype(np.uint16) << (16 - self._bits)
        return yuv_to_pixels(yuv, self._color, self._bits, self.dtype, self.shape[:2])

    def is_ready_for(self, pixel_format: str, color: ColorTags) -> bool:
        """Whether an encoder takes the samples as they are."""
        own, other = ((tags.matrix, tags.range == 2) for tags in (self._color, color))
        return self.format == pixel_format and own == other

    def filled(self, result: Filled, color: ColorTags, has_fields: bool = False) -> VideoFrame:
        """A copy of the samples, with those of the hole replaced.

        Args:
            result: this frame with its hole filled.
            color: tags for the encoder, of the same matrix and range.
            has_fields: as in `pixels_to_frame`.
        """
        height, width = self.shape[:2]
        frame = VideoFrame(width, height, self.format)
        frame.colorspace, frame.color_range = color.matrix, color.range
        planes = self._samples_of(frame)
        for plane, own in zip(planes, self.samples(), strict=True):
            plane[:] = own
        if result.hole.box is not None:
            box = crop_box(result.hole.box, _FILTER_PIXELS, _FILTER_PIXELS, height, width)
            if has_fields:  # whose chroma is made of all rows of one
                box = Box(0, box.left, height, box.right)
            hole, steps = (
                result.hole.crop(box),
                [(-(-height // plane.shape[0]), -(-width // plane.shape[1])) for plane in planes],
            )
            rows, columns = box.height // steps[1][0], box.width // steps[1][1]
            made = pixels_to_planes(
                result.crop(box), color, self._bits, (rows, columns), has_fields, (height, width)
            )
            for plane, values, (down, across) in zip(planes, made, steps, strict=True):
                some = plane[box.top // down :, box.left // across :][
                    : values.shape[0], : values.shape[1]
                ]
                shared = np.logical_or.reduce(
                    [
                        hole[row::down, column::across]
                        for row in range(down)
                        for column in range(across)
                    ]
                )
                some[shared] = values[shared]
        return frame

    def samples(self) -> list[NDArray[Any]]:
        return self._samples_of(self._frame)

    @property
    def description(self) -> str:
        tags = self._color.matrix, self._color.range, self._frame.interlaced_frame
        return f"{self.format} {tags} {self.shape}"

    def _samples_of(self, frame: VideoFrame) -> list[NDArray[Any]]:
        """(rows, columns) of each plane, writable."""
        dtype = np.dtype(np.uint8 if self._bits == 8 else "<u2")
        return [plane_rows(plane, dtype)[:, : plane.width] for plane in frame.planes]
