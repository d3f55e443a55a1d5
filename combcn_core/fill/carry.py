"""Texture that is steady in time: filled in few frames, carried along the motion to the others.

Every `ANCHOR_STEP` frames an anchor gets texture where no frame shows anything. Each other frame
takes the texture of the nearest anchor; only midway between two does the one pass over into the
other. What no anchor reaches, as it leaves the picture or comes into it, comes from keys midway
between them. All is counted from the first frame of the shot, so a segment equals the whole.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, MutableMapping, Sequence
from concurrent.futures import Executor
from typing import NamedTuple

import cv2
import numpy as np

from combcn_core.fill.choose import LEVEL_WEIGHT, MAX_LEVEL_STEP
from combcn_core.fill.smooth import fill_quickly, fill_smoothly, push_pull
from combcn_core.fill.texture import synthesize
from combcn_core.fill.threads import one_thread
from combcn_core.fill.trace import RING_PIXELS, Trace, gather
from combcn_core.fill.window import Window
from combcn_core.masks import PackedMask
from combcn_core.pixels import (
    Array,
    Mask,
    Patch,
    crop,
    dilate,
    find_box,
    from_unit,
    replaced,
    to_unit,
)
from combcn_core.segments import crop_box

ANCHOR_STEP = 48  # frames
PASSING_FRAMES = 8  # in which one anchor's texture passes over into the next one's
CARRY_FRAMES = ANCHOR_STEP // 2 + PASSING_FRAMES // 2

Known = Mapping[int, tuple[Patch, PackedMask]]  # frames without the made up, what remains of holes


class Way(NamedTuple):
    """Traces in one direction of time, and how much brighter their ends are."""

    path: Trace
    log_gains: Mapping[int, Array]

    def within(self, hole: Mask) -> Way:
        """Those of a part of the hole, and of the ring around it."""
        some = dilate(hole, RING_PIXELS)[self.path.rows, self.path.columns]
        return self._replace(path=Trace(*(part[some] for part in self.path)))

    @property
    def ends(self) -> set[int]:
        """The frames that they lead to."""
        return set(np.unique(self.path.source[self.path.source >= 0]).tolist())


class Ways(NamedTuple):
    """Where texture comes from.

    Attributes:
        known: the frames that ways may lead to.
        to_anchors, to_keys: by frame; to anchors only, and to the keys between them too.
        anchors, keys: those frames themselves.
        shot_start: the first frame of the shot.
    """

    known: Known
    to_anchors: Mapping[int, Sequence[Way]]
    to_keys: Mapping[int, Sequence[Way]]
    anchors: frozenset[int]
    keys: frozenset[int]
    shot_start: int


def find_ways(window: Window, known: Known, start: int, stop: int, shot_start: int) -> Ways | None:
    """The ways of frames start to stop - 1; None where nothing remains to be filled.

    Args:
        window: that knows the motion.
        known: frames start - CARRY_FRAMES to stop + CARRY_FRAMES - 1, as far as the shot has them.
        start, stop: the frames to be filled.
        shot_start: the first frame of the shot.
    """
    if not any(known[t][1].num_pixels for t in range(start, stop)):
        return None
    near = {
        t: some
        for t, some in known.items()
        if -CARRY_FRAMES <= t - start < stop - start + CARRY_FRAMES
    }
    useful = [t for t, (_, hole) in near.items() if hole.num_pixels < np.prod(hole.shape)]
    half = ANCHOR_STEP // 2
    keys = frozenset(t for t in useful if (t - shot_start) % half == 0)
    anchors = frozenset(t for t in keys if (t - shot_start) % ANCHOR_STEP == half)

    def ways(some: Collection[int]) -> dict[int, list[Way]]:
        found = window.ways(near, some, start, stop, CARRY_FRAMES)
        return {t: [Way(*way) for way in both] for t, both in found.items()}

    return Ways(near, ways(anchors), ways(keys), anchors, keys, shot_start)


def fill_with_texture(
    ways: Ways,
    starts: Callable[[int], Patch] | None,
    textures: MutableMapping[int, Patch],
    workers: Executor,
) -> tuple[dict[int, Patch], int]:
    """Fill what remains in the frames that there are ways for.

    Args:
        ways: of the frames.
        starts: gives a frame with the start of its texture; None: the smooth fill.
        textures: frames with texture that were made before; more come in.
        workers: for several frames at a time.

    Returns:
        The frames, and how many pixels got no texture: filled in smoothly from what lies around.
    """
    filled = {t: ways.known[t][0] for t in ways.to_anchors}
    left = {t: ways.known[t][1].whole() for t in ways.to_anchors}
    sources: dict[int, Patch] = {}

    def source(t: int) -> Patch:
        frame, remaining = ways.known[t]
        hole = remaining.whole()
        if not hole.any():
            return frame
        if t not in ways.keys:
            return fill_quickly(frame, hole)  # so that nothing hidden is read beside it
        if t not in textures:
            start = given.pop(t, None) or fill_smoothly(frame, hole)
            textures[t] = synthesize(start, hole, seed=t - ways.shot_start)
        return textures[t]

    def fill(t: int, some: Sequence[Way] | None) -> tuple[Patch, Mask]:
        if some is None:
            return overlay(filled[t], sources[t], left[t]), np.zeros_like(left[t])
        colors = [gather(way.path, sources, way.log_gains) for way in some]
        return carry(filled[t], left[t], t, [way.path for way in some], colors)

    for to, keys in ((ways.to_anchors, ways.anchors), (ways.to_keys, ways.keys)):
        todo = [t for t in to if left[t].any()]
        some = {t: None if t in keys else [way.within(left[t]) for way in to[t]] for t in todo}
        ends = {t for t in todo if t in keys}
        ends = ends.union(*(way.ends for both in some.values() if both for way in both))
        new = sorted(ends - sources.keys())
        # One after the other: networks take all threads as it is.
        given = {
            t: starts(t)
            for t in new
            if starts and t in ways.keys and t not in textures and ways.known[t][1].num_pixels
        }
        with one_thread():
            sources.update(zip(new, workers.map(source, new), strict=True))
            for t, done in zip(todo, workers.map(fill, todo, some.values()), strict=True):
                filled[t], left[t] = done
    with one_thread():
        whole = workers.map(fill_quickly, filled.values(), left.values())
        frames = dict(zip(filled, whole, strict=True))
    return frames, sum(int(hole.sum()) for hole in left.values())


def overlay(frame: Patch, other: Patch, hole: Mask) -> Patch:
    """A frame with the pixels of another one in a hole."""
    box = find_box(hole)
    if box is None:
        return frame
    box = crop_box(box, 8, 1, *hole.shape)
    own, inside = frame.crop(box), crop(hole, box)
    own[inside] = other.crop(box)[inside]
    return replaced(frame, box, own)


def carry(
    frame: Patch, hole: Mask, t: int, paths: Sequence[Trace], colors: Sequence[Array]
) -> tuple[Patch, Mask]:
    """Fill pixels of a frame with the texture that traces lead to.

    Each pixel takes the nearer end in time; where the two are about equally near it passes over
    from the one to the other, without loss of contrast. The ring around the hole tells the
    difference of level, as in `merge`.

    Args:
        frame: (H, W, 3).
        hole: (H, W), the pixels to be filled.
        t: its number.
        paths: traces of the same pixels, forward and backward in time.
        colors: theirs, (N, 3) in [0, 1].

    Returns:
        The frame, and what no trace leads from.
    """
    box = find_box(hole)
    if box is None:
        return frame, hole
    box = crop_box(box, 16, 1, *hole.shape)
    own, inside = frame.crop(box), crop(hole, box)
    pixels = to_unit(own)
    far = np.float32(2 * ANCHOR_STEP)
    distances, sights = [], []
    for path, found in zip(paths, colors, strict=True):
        some = (path.source >= 0) & np.isfinite(path.error)
        place = path.rows[some] - box.top, path.columns[some] - box.left
        distance = np.full(inside.shape, far, np.float32)
        distance[place] = np.abs(path.source[some] - t)
        sight = pixels.copy()
        sight[place] = found[some]
        seen = distance < far
        step = np.clip(pixels - sight, -MAX_LEVEL_STEP, MAX_LEVEL_STEP)
        ring = (seen & ~inside).astype(np.float32) * np.float32(LEVEL_WEIGHT)
        sight += push_pull(step, ring)
        distances.append(distance)
        sights.append(sight)
    if not distances:
        return frame, hole
    nearest = np.min(distances, 0)
    shares = np.maximum(1 - (np.array(distances) - nearest) / PASSING_FRAMES, 0)
    shares /= shares.sum(0)
    mixed = np.einsum("shw,shwc->hwc", shares, np.array(sights))
    passing = (shares.max(0) < 1) & (nearest < far) & inside
    if passing.any():
        # A mean of two textures has less contrast than either: as much less as if it were noise.
        # What is not reached is hidden, and must not be read.
        shown = push_pull(mixed, (~inside | (nearest < far)).astype(np.float32))
        rough = cv2.GaussianBlur(shown, (0, 0), 3.0)
        gain = 1 / np.sqrt((shares**2).sum(0))
        mixed[passing] = (rough + (mixed - rough) * gain[..., None])[passing]
    reached = inside & (nearest < far)
    own[reached] = from_unit(mixed[reached], own.dtype)
    left = np.zeros_like(hole)
    crop(left, box)[:] = inside & ~reached
    return replaced(frame, box, own), left
