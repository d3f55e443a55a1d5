"""Texture that is steady in time: filled in few frames, carried along the motion to the others.

Every `ANCHOR_STEP` frames or so an anchor, a frame that the camera's motion has not blurred, gets
texture where no frame shows anything. Each other frame takes the texture of the nearest anchor;
only midway between two does the one pass over into the other. What no anchor reaches, as it leaves
the picture or comes into it, and what the way draws out, comes from keys midway between them. All
is counted from the first frame of the shot, so a segment equals the whole.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, MutableMapping, Sequence
from concurrent.futures import Executor
from typing import NamedTuple

import cv2
import numpy as np

from combcn_core.fill.blur import as_blurred
from combcn_core.fill.keys import SHARP_FRAMES
from combcn_core.fill.levels import Levels
from combcn_core.fill.merge import LEVEL_WEIGHT, MAX_LEVEL_STEP
from combcn_core.fill.smooth import fill_quickly, fill_smoothly, push_pull
from combcn_core.fill.texture import synthesize
from combcn_core.fill.threads import one_thread
from combcn_core.fill.trace import RING_PIXELS, Trace, gather
from combcn_core.fill.window import Window
from combcn_core.pixels import (
    Array,
    Box,
    Mask,
    PackedMask,
    Patch,
    crop,
    crop_box,
    dilate,
    find_box,
    from_unit,
    replaced,
    to_unit,
    weighted,
)

ANCHOR_STEP = 48  # frames
PASSING_FRAMES = 8  # in which one anchor's texture passes over into the next one's
CARRY_FRAMES = ANCHOR_STEP // 2 + PASSING_FRAMES // 2
# Texture that motion stretches by more than the first factor counts as farther off in time: by so
# many frames from the second factor on.
DRAWN, MOST_DRAWN, DRAWN_FRAMES = 1.3, 2.5, np.float32(24)
DRAWN_PIXELS, LEAST_PART = 9, 0.1  # side of the square that it is measured over; known of it
MAX_GAIN = 1.5  # of contrast, while they do; two unlike textures need 1.41

Known = Mapping[int, tuple[Patch, PackedMask]]  # frames without texture, and their holes


class Way(NamedTuple):
    """Traces in one direction of time, and how much brighter their ends are."""

    path: Trace
    levels: Levels

    def within(self, hole: Mask) -> Way:
        """Those of a part of the hole, and of the ring around it."""
        some = dilate(hole, RING_PIXELS)[self.path.rows, self.path.columns]
        return self._replace(path=Trace(*(part[some] for part in self.path)))

    @property
    def ends(self) -> set[int]:
        """The frames that they lead to."""
        return set(self.path.ends())


class Ways(NamedTuple):
    """Where texture comes from.

    Attributes:
        known: the frames that ways may lead to.
        to_anchors, to_keys: by frame; to anchors only, and to the keys between them too.
        speeds: of the background of each frame, see `as_blurred`.
        anchors, keys: those frames themselves.
        shot_start: the first frame of the shot.
    """

    known: Known
    to_anchors: Mapping[int, Sequence[Way]]
    to_keys: Mapping[int, Sequence[Way]]
    speeds: Mapping[int, Array]
    anchors: frozenset[int]
    keys: frozenset[int]
    shot_start: int

    @property
    def all_end(self) -> bool:
        """Whether more known frames would change nothing: each way leads to one of these."""
        both = (*self.to_anchors.values(), *self.to_keys.values())
        return all((way.path.source >= 0).all() for some in both for way in some)


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
    # From the first anchor all frames before it are within reach.
    first = shot_start + (ANCHOR_STEP - PASSING_FRAMES) // 2

    def sharp(place: int) -> set[int]:
        """Useful frames, each the sharpest near one that lies at such a place in a period."""
        span = range(min(near) - SHARP_FRAMES, max(near) + SHARP_FRAMES + 1)
        some = (t for t in span if (t - first) % ANCHOR_STEP == place)
        return {window.sharpest(t) for t in some}.intersection(useful)

    anchors = frozenset(sharp(0))
    # A short shot has no other key than its first frame.
    keys = anchors | sharp(ANCHOR_STEP // 2) | {t for t in useful if t == shot_start}

    def ways(some: Collection[int]) -> dict[int, list[Way]]:
        found = window.ways(near, some, start, stop, CARRY_FRAMES)
        return {t: [Way(*way) for way in both] for t, both in found.items()}

    to_anchors, to_keys = map(ways, (anchors, keys))  # each looks both ways at a time
    speeds = {t: window.speed(t) for t in to_anchors}
    return Ways(near, to_anchors, to_keys, speeds, anchors, keys, shot_start)


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
    frames = {t: ways.known[t][0] for t in ways.to_anchors}
    holes = {t: ways.known[t][1].whole() for t in ways.to_anchors}
    sights = {t: Sight.nothing(holes[t]) for t in frames}
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

    def look(t: int, some: Sequence[Way] | None) -> Sight:
        if some is None:
            return Sight.of(sources[t], holes[t])
        colors = [gather(way.path, sources, way.levels) for way in some]
        return carry(frames[t], holes[t], t, some, colors, ways.speeds[t])

    def fill(t: int) -> Patch:
        reached, left = sights[t].reached(holes[t])
        filled = overlay(frames[t], sights[t].pixels, sights[t].box, reached)
        return fill_quickly(filled, left)

    for to, keys in ((ways.to_anchors, ways.anchors), (ways.to_keys, ways.keys)):
        unsure = {t: sights[t].unsure(holes[t]) for t in frames}
        todo = [t for t in frames if unsure[t].any()]
        some = {t: None if t in keys else [way.within(unsure[t]) for way in to[t]] for t in todo}
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
            for t, sight in zip(todo, workers.map(look, todo, some.values()), strict=True):
                sights[t] = sights[t].before(sight)
    with one_thread():
        filled = dict(zip(frames, workers.map(fill, frames), strict=True))
    return filled, sum(int(sights[t].reached(holes[t])[1].sum()) for t in frames)


class Sight(NamedTuple):
    """What texture shows of a frame's hole.

    Attributes:
        box: around the hole.
        pixels: (h, w, 3) in [0, 1], what the box shows.
        sure: (h, w), how surely: 0 where it shows nothing.
    """

    box: Box
    pixels: Array
    sure: Array

    @classmethod
    def nothing(cls, hole: Mask) -> Sight:
        box = _box_of(hole)
        shape = box.height, box.width
        return cls(box, np.zeros((*shape, 3), np.float32), np.zeros(shape, np.float32))

    @classmethod
    def of(cls, frame: Patch, hole: Mask) -> Sight:
        """All that a frame shows."""
        box = _box_of(hole)
        pixels = to_unit(frame.crop(box))
        return cls(box, pixels, np.ones(pixels.shape[:2], np.float32))

    def unsure(self, hole: Mask) -> Mask:
        """(H, W), where others are to be asked too."""
        result = np.zeros_like(hole)
        crop(result, self.box)[:] = crop(hole, self.box) & (self.sure < 1)
        return result

    def reached(self, hole: Mask) -> tuple[Mask, Mask]:
        """(H, W) twice: what it shows of the hole, and what it does not."""
        reached = np.zeros_like(hole)
        crop(reached, self.box)[:] = crop(hole, self.box) & (self.sure > 0)
        return reached, hole & ~reached

    def before(self, other: Sight) -> Sight:
        """This one where it is sure, the other one, of the same hole, where not."""
        share = np.where(other.sure > 0, self.sure, np.sign(self.sure))
        shares = np.stack([share, 1 - share])
        shown = [self.sure > 0, other.sure > 0]
        pixels = _mixed([self.pixels, other.pixels], shown, shares)
        return Sight(self.box, pixels, np.maximum(self.sure > 0, other.sure))


def overlay(frame: Patch, pixels: Array, box: Box, where: Mask) -> Patch:
    """A frame with pixels replaced.

    Args:
        frame: (H, W, 3).
        pixels: (h, w, 3) in [0, 1], of the box.
        box: around what is replaced, and 8 pixels more.
        where: (H, W).
    """
    if not where.any():
        return frame
    own, inside = frame.crop(box), crop(where, box)
    own[inside] = from_unit(pixels[inside], own.dtype)
    return replaced(frame, box, own)


def carry(
    frame: Patch,
    hole: Mask,
    t: int,
    ways: Sequence[Way],
    colors: Sequence[Array],
    speed: Array,
) -> Sight:
    """What traces lead to in frames with texture.

    Each pixel takes the nearer end in time; where the two are about equally near it passes over
    from the one to the other. An end gets unsure before it is out of reach, and where the way
    draws texture out. The ring around the hole tells the difference of level, as in `merge`.

    Args:
        frame: (H, W, 3).
        hole: (H, W).
        t: its number.
        ways: of the same pixels, forward and backward in time.
        colors: what they lead to, (N, 3) in [0, 1].
        speed: of the background, (2,), see `as_blurred`.
    """
    box = _box_of(hole)
    inside = crop(hole, box)
    pixels = to_unit(frame.crop(box))
    far = np.float32(2 * ANCHOR_STEP)
    distances, sights, shown = [], [], []
    for (path, levels), found in zip(ways, colors, strict=True):
        some = (path.source >= 0) & np.isfinite(path.error)
        place = path.rows[some] - box.top, path.columns[some] - box.left
        distance = np.full(inside.shape, far, np.float32)
        distance[place] = np.abs(path.source[some] - t)
        distance += DRAWN_FRAMES * drawn_out(path, some, box) * (distance < far)
        sight = pixels.copy()
        sight[place] = found[some]
        there = np.zeros_like(distance)
        there[place] = levels.log_detail(path.source[some])
        sight = as_blurred(sight, distance < far, there[distance < far], speed)
        step = np.clip(pixels - sight, -MAX_LEVEL_STEP, MAX_LEVEL_STEP)
        ring = ((distance < far) & ~inside).astype(np.float32) * np.float32(LEVEL_WEIGHT)
        sights.append(sight + push_pull(step, ring))
        shown.append(~inside | (distance < far))
        distances.append(distance)
    nearest = np.min(distances, 0, initial=far)
    if not distances or (nearest == far).all():
        return Sight.nothing(hole)
    shares = np.maximum(1 - (np.array(distances) - nearest) / PASSING_FRAMES, 0)
    shares[:, nearest == far] = np.eye(len(shares))[:, :1]  # nothing to be mixed
    sure = (CARRY_FRAMES - nearest) / PASSING_FRAMES
    both = (np.array(distances) < far).sum(0) > 1
    sure = np.where(both & (nearest < CARRY_FRAMES), 1, np.clip(sure, 0.01, 1)) * (nearest < far)
    return Sight(box, _mixed(sights, shown, shares / shares.sum(0)), sure.astype(np.float32))


def drawn_out(path: Trace, some: Mask, box: Box) -> Array:
    """(h, w) in [0, 1]: how much traces draw out what they lead to, 0 where nothing is known.

    Inside a hole the motion of a near thing goes over into that of a far one; texture that is
    carried along is drawn out there, the more the longer the way.

    Args:
        path: the traces.
        some: (N,), those that count.
        box: of the result.
    """
    place = path.rows[some] - box.top, path.columns[some] - box.left
    ends = np.zeros((box.height, box.width, 2), np.float32)
    source = np.full(ends.shape[:2], -1, np.float32)
    ends[place] = np.stack([path.x[some], path.y[some]], -1)
    source[place] = path.source[some]
    square = np.ones((3, 3), np.uint8)
    known = (cv2.erode(source, square) == source) & (cv2.dilate(source, square) == source)
    known &= source >= 0
    known[[0, -1]] = known[:, [0, -1]] = False
    share = known.astype(np.float32)
    side = (DRAWN_PIXELS, DRAWN_PIXELS)
    part = cv2.blur(share, side)
    steps = [
        cv2.Sobel(ends, cv2.CV_32F, *way, ksize=3, scale=1 / 8, borderType=cv2.BORDER_REPLICATE)
        for way in ((1, 0), (0, 1))
    ]
    a, b, c, d = (
        one / np.maximum(part, 1e-6)
        for step in steps
        for one in cv2.split(cv2.blur(weighted(step, share), side))
    )
    # The smaller singular value of the map: how far a step of one pixel goes at least.
    squares, area = a * a + b * b + c * c + d * d, a * d - b * c
    rest = np.sqrt(np.maximum(squares**2 - 4 * area**2, 0))
    least = np.sqrt(np.maximum(squares - rest, 0) / 2)
    drawn = np.clip((1 / DRAWN - least) / (1 / DRAWN - 1 / MOST_DRAWN), 0, 1)
    return np.where(part > LEAST_PART, drawn, 0).astype(np.float32)


def _mixed(pictures: Sequence[Array], shown: Sequence[Mask], shares: Array) -> Array:
    """A weighted mean of pictures, without the loss of contrast that a mean of textures has.

    Args:
        pictures: (h, w, 3) each.
        shown: (h, w) each, where they are to be read.
        shares: one (h, w) for each; their sum is 1.
    """
    passing = (shares.max(0) < 1) & np.logical_or.reduce(shown)
    if not passing.any():
        return np.where(shares[0][..., None] > 0, pictures[0], pictures[-1])
    pictures = [
        push_pull(picture, there.astype(np.float32))
        for picture, there in zip(pictures, shown, strict=True)
    ]
    mean: Array = np.einsum("shw,shwc->hwc", shares, np.stack(pictures)).astype(np.float32)

    def detail_of(picture: Array) -> tuple[Array, Array]:
        detail = picture - cv2.GaussianBlur(picture, (0, 0), 3.0)
        red, green, blue = np.moveaxis(detail**2, 2, 0)  # their sum(-1) is slow
        return detail, cv2.GaussianBlur(red + green + blue, (0, 0), 5.0)

    wanted = sum(
        share * detail_of(picture)[1] for picture, share in zip(pictures, shares, strict=True)
    )
    detail, strength = detail_of(mean)
    gain = np.sqrt(np.clip(wanted / np.maximum(strength, 1e-8), 1, MAX_GAIN**2)) - 1
    mean[passing] += (detail * gain[..., None])[passing]
    return mean


def _box_of(hole: Mask) -> Box:
    box = find_box(hole)
    return Box(0, 0, 0, 0) if box is None else crop_box(box, 16, 1, *hole.shape)
