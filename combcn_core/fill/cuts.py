"""Scene cuts."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import cv2
import numpy as np

from combcn_core.fill.motion import dense_flow, trusted_flow
from combcn_core.fill.threads import one_thread
from combcn_core.pixels import Array, Pixels, Stored, shrunk, to_unit

CUT_AGREEMENT, CUT_HISTOGRAM = 0.25, 0.5


def is_cut(previous: Stored, frame: Stored) -> bool:
    """Whether a new shot begins between two frames.

    A cut changes the colours and leaves hardly a pixel whose flow forward and backward agrees.
    """
    return is_cut_between(thumbnail(previous), thumbnail(frame))


def is_cut_between(*small: Array) -> bool:
    """`is_cut`, of two thumbnails."""
    histograms = []
    for image in small:
        counts = cv2.calcHist([image], [0, 1, 2], None, [8, 8, 8], [0, 256] * 3)
        histograms.append(counts / counts.sum())
    if np.minimum(*histograms).sum() > CUT_HISTOGRAM:
        return False
    gray = [cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for image in small]
    nothing = np.zeros(gray[0].shape, bool)
    with one_thread():
        flow, back = dense_flow(gray[0], gray[1]), dense_flow(gray[1], gray[0])
    return float(trusted_flow(flow, back, nothing, nothing).mean()) < CUT_AGREEMENT


def find_shots(frames: Sequence[Pixels]) -> list[tuple[int, int]]:
    """First frame and last + 1 of every shot."""
    small = map(thumbnail, frames)
    cuts = [t for t, pair in enumerate(pairwise(small), 1) if is_cut_between(*pair)]
    return list(pairwise([0, *cuts, len(frames)]))


def thumbnail(frame: Stored) -> Array:
    """A frame as `is_cut_between` compares it, (h, w, 3) uint8."""
    height, width = frame.shape[:2]
    scale = max(1.0, max(height, width) / 160)
    size = (max(1, round(width / scale)), max(1, round(height / scale)))
    return np.rint(np.clip(to_unit(shrunk(frame, *size)), 0, 1) * 255).astype(np.uint8)
