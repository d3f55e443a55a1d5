"""Synthetic holes for training and tests: boxes as in the paper, and shapes as in real work.

Everything is drawn from one NumPy generator per call, so the same seed gives the same holes
whatever else ran, and a shorter clip gets the first frames of a longer one.
"""

import math
from collections.abc import Callable, Sequence
from typing import Literal, TypeAlias, get_args

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

HoleKind = Literal["box", "random-box", "moving-box", "blob", "object"]
HOLE_KINDS: tuple[HoleKind, ...] = get_args(HoleKind)

Floats: TypeAlias = npt.NDArray[np.float64]
Bools: TypeAlias = npt.NDArray[np.bool_]
# (pose phase in radians, facing in [-1, 1]) -> convex outlines, each (N, 2) x, y in body sizes
Body: TypeAlias = Callable[[float, float], list[Floats]]

BOX_SIDE = (0.375, 0.5)  # of the frame's shorter side
COVERAGE = (0.06, 0.14)  # of the frame, aimed at by blobs and objects
MIN_SIDE_PIXELS = 8  # below it the paper's range may hold no whole number


def make_holes(
    kind: HoleKind, num_frames: int, height: int, width: int, seed: int | Sequence[int]
) -> Tensor:
    """Holes of one kind for a clip.

    Every frame has hole pixels and known pixels.

    Args:
        kind: "box": one box, the same in all frames. "random-box": another box in every frame.
            "moving-box": one box that moves smoothly. "blob": a smooth outline that moves and
            slowly deforms. "object": one to three silhouettes, walking people and vehicles, that
            cross the frame, over roughly 4 to 15 % of it.
        num_frames: 1 or more.
        height, width: in pixels, 8 or more.
        seed: what `numpy.random.default_rng` takes: a number, or several, as in (run, clip).

    Returns:
        (T, H, W) bool, True inside the hole.

    Raises:
        ValueError: an unknown kind, no frames, or a frame smaller than 8 x 8.

    Source: Wang et al., AAAI 2019 (arXiv 1806.08482), experiments: each side of a box uniform in
    [0.375 l, 0.5 l], l = 128 the side of their square frames, and at test also "random holes" that
    differ from frame to frame. On a frame that is not square we read l as the shorter side; sides
    are whole pixels inside that range. The other kinds are ours: the paper has boxes only.
    """
    if kind not in HOLE_KINDS:
        raise ValueError(f"unknown kind of hole {kind!r}; choose one of {', '.join(HOLE_KINDS)}.")
    if num_frames < 1:
        raise ValueError(f"num_frames is {num_frames}; ask for 1 frame or more.")
    if min(height, width) < MIN_SIDE_PIXELS:
        raise ValueError(
            f"the frame is {width}x{height} pixels, too small for synthetic holes; "
            f"give {MIN_SIDE_PIXELS}x{MIN_SIDE_PIXELS} or more."
        )
    rng = np.random.default_rng(seed)
    draw = {
        "box": _box,
        "random-box": _random_boxes,
        "moving-box": _moving_box,
        "blob": _blob,
        "object": _objects,
    }[kind]
    return torch.from_numpy(draw(rng, num_frames, height, width))


def _box_size(rng: np.random.Generator, height: int, width: int) -> tuple[int, int]:
    short = min(height, width)
    low, high = math.ceil(BOX_SIDE[0] * short), math.floor(BOX_SIDE[1] * short)
    rows, columns = rng.integers(low, high, size=2, endpoint=True)
    return int(rows), int(columns)


def _random_boxes(rng: np.random.Generator, num_frames: int, height: int, width: int) -> Bools:
    holes = np.zeros((num_frames, height, width), dtype=bool)
    for hole in holes:
        rows, columns = _box_size(rng, height, width)
        top = rng.integers(0, height - rows, endpoint=True)
        left = rng.integers(0, width - columns, endpoint=True)
        hole[top : top + rows, left : left + columns] = True
    return holes


def _box(rng: np.random.Generator, num_frames: int, height: int, width: int) -> Bools:
    return _random_boxes(rng, 1, height, width).repeat(num_frames, axis=0)


def _moving_box(rng: np.random.Generator, num_frames: int, height: int, width: int) -> Bools:
    rows, columns = _box_size(rng, height, width)
    speed = 0.02 * min(height, width)
    tops = _wander(rng, num_frames, 0, height - rows, speed).round().astype(int)
    lefts = _wander(rng, num_frames, 0, width - columns, speed).round().astype(int)
    holes = np.zeros((num_frames, height, width), dtype=bool)
    for hole, top, left in zip(holes, tops, lefts, strict=True):
        hole[top : top + rows, left : left + columns] = True
    return holes


def _blob(rng: np.random.Generator, num_frames: int, height: int, width: int) -> Bools:
    area = rng.uniform(*COVERAGE) * height * width
    radius = min(math.sqrt(area / math.pi), 0.35 * min(height, width))
    speed = 0.015 * min(height, width)
    xs = _wander(rng, num_frames, 0.7 * radius, width - 0.7 * radius, speed)
    ys = _wander(rng, num_frames, 0.7 * radius, height - 0.7 * radius, speed)
    waves = np.arange(2, 6)  # one wave would only shift the outline, many would make it rough
    heights = rng.uniform(0.1, 0.4, size=4) / waves
    phases = rng.uniform(0, 2 * math.pi, size=4)
    drifts = rng.uniform(-0.12, 0.12, size=4)  # radians per frame

    angles = np.linspace(0, 2 * math.pi, 96, endpoint=False)
    unit = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    canvas = np.zeros((num_frames, height, width), dtype=np.uint8)
    for t in range(num_frames):
        ripple = np.cos(angles[:, None] * waves + phases + drifts * t) @ heights
        outline = radius * (1 + ripple)[:, None] * unit + (xs[t], ys[t])
        cv2.fillPoly(canvas[t], [_fixed_point(outline)], 1, shift=4)
    return canvas.astype(bool)


def _objects(rng: np.random.Generator, num_frames: int, height: int, width: int) -> Bools:
    canvas = np.zeros((num_frames, height, width), dtype=np.uint8)
    count = int(rng.integers(1, 3, endpoint=True))
    area = rng.uniform(*COVERAGE) * height * width / count
    short = min(height, width)
    for _ in range(count):
        body = (_person if rng.random() < 0.6 else _vehicle)(rng)
        outlines = body(1.0, 1.0)
        sizes = np.ptp(np.concatenate(outlines), axis=0)  # of the body: width, height
        limits = np.array([0.75 * width, 0.85 * height]) / sizes
        scale = min(math.sqrt(area / _area(outlines)), *limits)
        half_width, half_height = 0.5 * scale * sizes

        speed = rng.uniform(0.006, 0.025) * short
        # It may stand a little outside the frame, as things that enter and leave it do.
        xs = _wander(rng, num_frames + 1, 0.6 * half_width, width - 0.6 * half_width, speed)
        ys = _wander(rng, num_frames, 0.9 * half_height, height - 0.9 * half_height, 0.15 * speed)
        zooms = scale * _wander(rng, num_frames, 0.9, 1.12, 0.006)
        facings = np.clip(2 * np.diff(xs) / speed, -1, 1)
        for t in range(num_frames):
            # The pose follows the way walked, so a foot on the ground stays where it is.
            phase = 2 * math.pi * xs[t] / (0.8 * scale)
            for outline in body(phase, facings[t]):
                points = _fixed_point(outline * zooms[t] + (xs[t], ys[t]))
                cv2.fillConvexPoly(canvas[t], points, 1, shift=4)
    return canvas.astype(bool)


def _person(rng: np.random.Generator) -> Body:
    """A walking person, one unit tall, seen from the side or, when turning, from the front."""
    girth = rng.uniform(1.1, 1.5)
    leg_swing = rng.uniform(0.35, 0.6)
    arm_swing = rng.uniform(0.2, 0.8)
    pack = rng.uniform(0.0, 0.09)
    hip, shoulder = _xy(0.0, 0.0), _xy(0.0, -0.28)

    def outlines(phase: float, facing: float) -> list[Floats]:
        parts = [
            _limb(shoulder, 0.09 * girth, hip, 0.075 * girth),
            _limb(shoulder, 0.04 * girth, shoulder + _xy(0.01 * facing, -0.14), 0.068),
            _limb(shoulder - _xy(0.09 * facing, -0.02), pack, hip - _xy(0.08 * facing, 0.08), pack),
        ]
        for side in (0.0, math.pi):
            thigh = leg_swing * math.sin(phase + side)
            shin = thigh - 0.9 * facing * max(0.0, math.cos(phase + side))
            knee = hip + _direction(thigh, 0.25)
            ankle = knee + _direction(shin, 0.23)
            parts.append(_limb(hip, 0.065 * girth, knee, 0.045 * girth))
            parts.append(_limb(knee, 0.045 * girth, ankle, 0.028 * girth))
            parts.append(_limb(ankle, 0.026, ankle + _xy(0.07 * facing, 0.012), 0.02))

            upper = -arm_swing * math.sin(phase + side)
            elbow = shoulder + _direction(upper, 0.16)
            wrist = elbow + _direction(upper + 0.4 * facing, 0.15)
            parts.append(_limb(shoulder, 0.042 * girth, elbow, 0.032 * girth))
            parts.append(_limb(elbow, 0.032 * girth, wrist, 0.025 * girth))
        return parts

    return outlines


def _vehicle(rng: np.random.Generator) -> Body:
    """A car or van, one unit long, that nods a little as it drives."""
    roof = rng.uniform(0.12, 0.3)
    cabin = rng.uniform(0.18, 0.36)  # half its length
    wheel = rng.uniform(0.075, 0.1)
    nod = rng.uniform(0.0, 0.03)

    def outlines(phase: float, facing: float) -> list[Floats]:
        tail, nose = _xy(-0.42, 0.05), _xy(0.42, 0.05)
        front = 0.1 * (1 + facing) / 2  # a windscreen leans, a tailgate hardly
        rear = 0.1 * (1 - facing) / 2
        house = [[-cabin - rear, 0], [-cabin, -roof], [cabin, -roof], [cabin + front, 0]]
        parts = [
            _limb(tail, 0.07, nose, 0.07),
            np.array(house) - _xy(0.06 * facing, 0.0),
            _limb(tail + _xy(0.0, 0.05), wheel, tail + _xy(0.12, 0.05), wheel),
            _limb(nose + _xy(0.0, 0.05), wheel, nose + _xy(-0.12, 0.05), wheel),
        ]
        angle = nod * math.sin(phase)
        turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
        return [part @ turn for part in parts]

    return outlines


def _wander(
    rng: np.random.Generator, num_frames: int, low: float, high: float, speed: float
) -> Floats:
    """(T,) positions between low and high, to and fro, at most `speed` from frame to frame."""
    reach = max(0.0, (high - low) / 2)
    phase = rng.uniform(0, 2 * math.pi)
    pace = speed * rng.uniform(0.4, 1.0) / max(reach, 5 * speed)  # radians per frame
    swing: Floats = np.sin(phase + pace * np.arange(num_frames))
    return (low + high) / 2 + reach * swing


def _xy(x: float, y: float) -> Floats:
    return np.array([x, y])


def _direction(angle: float, length: float) -> Floats:
    """`length` away along `angle`, where 0 is down and a quarter turn is right."""
    return _xy(length * math.sin(angle), length * math.cos(angle))


def _limb(start: Floats, start_radius: float, end: Floats, end_radius: float) -> Floats:
    """Outline of a limb: the convex hull of a disk at each end."""
    angles = np.linspace(0, 2 * math.pi, 24, endpoint=False)
    circle = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    points = np.concatenate([start + start_radius * circle, end + end_radius * circle])
    hull: Floats = cv2.convexHull(points.astype(np.float32))[:, 0].astype(np.float64)
    return hull


def _area(outlines: list[Floats]) -> float:
    """Area of the union, in body sizes squared."""
    canvas = np.zeros((400, 400), dtype=np.uint8)
    for outline in outlines:
        cv2.fillConvexPoly(canvas, _fixed_point(outline * 200 + 200), 1, shift=4)
    return float(canvas.sum()) / 200**2


def _fixed_point(points: Floats) -> npt.NDArray[np.int32]:
    # cv2's `shift=4` reads sixteenths of a pixel: without it slow motion would jump.
    return np.round(points * 16).astype(np.int32)
