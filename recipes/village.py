"""Paint the built-in clip: python recipes/village.py [FOLDER] (combcn_core/demo if left out)

A van drives down a village street before a panning camera, and the truth without it is known.
Everything is painted by numpy and OpenCV from one seed, so the clip needs no download and no
licence. Lengths and positions are in frame heights: y is 0 at the top and 1 at the bottom, x is 0
at the left edge and width / height at the right. Colours are RGB in [0, 255].

The camera moves sideways over flat ground, so what stands at ground line y moves `_parallax(y)`
times as far as the van's lane: upright things are flat layers of one parallax each, and the ground
is a shear.
"""

from __future__ import annotations

import copy
import math
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import av
import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from combcn_core.demo import FPS, HEIGHT, NUM_FRAMES, SAMPLE_RATE, WIDTH, DemoClip, film_grain

DEMO = Path(__file__).parents[1] / "combcn_core" / "demo"

Bytes = NDArray[np.uint8]
Array = NDArray[Any]
Floats = NDArray[np.float32]
Color = tuple[float, float, float]

_HORIZON = 0.47
_HOUSE_LINE, _TREE_LINE, _LAMP_LINE, _VAN_LINE = 0.645, 0.668, 0.7, 0.82  # where things stand
_TRAVEL = 0.5  # how far the camera goes past the van's lane, first frame to last
_VAN_LENGTH, _WHEEL_RADIUS = 0.66, 0.052
_FRONT_WHEEL, _REAR_WHEEL = 0.525, 0.135  # from the rear bumper

_HAZE = (206.0, 216.0, 222.0)


def main(folder: Path = DEMO) -> None:
    """Write street.mp4, each picture without the van, then with it; and masks.png, a tall one."""
    clip = render_demo(grain=0)
    with av.open(str(folder / "street.mp4"), "w") as container:
        video = container.add_stream("libx264", rate=2 * FPS)
        video.width, video.height, video.pix_fmt = WIDTH, HEIGHT, "yuv444p"
        video.options = {"crf": "12", "preset": "veryslow", "threads": "1"}
        video.codec_context.colorspace, video.codec_context.color_range = 1, 1  # BT.709, limited
        audio = container.add_stream("aac", rate=SAMPLE_RATE, layout="stereo")
        audio.bit_rate = 96_000
        for pair in zip(clip.truth, clip.images, strict=True):
            for picture in pair:
                frame = av.VideoFrame.from_ndarray(picture, "rgb24")
                container.mux(video.encode(frame.reformat(format="yuv444p", dst_colorspace=1)))
        container.mux(video.encode())
        samples = av.AudioFrame.from_ndarray(np.ascontiguousarray(clip.sound.T), "fltp", "stereo")
        samples.sample_rate = SAMPLE_RATE
        container.mux(audio.encode(samples))
        container.mux(audio.encode())
    tall = np.uint8(255) * clip.masks.reshape(-1, WIDTH)
    bilevel = [cv2.IMWRITE_PNG_BILEVEL, 1, cv2.IMWRITE_PNG_COMPRESSION, 9]
    (folder / "masks.png").write_bytes(cv2.imencode(".png", tall, bilevel)[1].tobytes())


def render_demo(
    num_frames: int = NUM_FRAMES,
    height: int = HEIGHT,
    width: int = WIDTH,
    seed: int = 0,
    *,
    grain: float = 1,
) -> DemoClip:
    """Paint the demo scene. The same arguments give the same bytes.

    The van crosses the picture once whatever num_frames is; a longer clip is a slower one. It
    brakes in the middle, so what stands there stays hidden for longer than what stands elsewhere.

    Args:
        num_frames: at least 1.
        height, width: pixels, at least 16 each.
        seed: of the scenery, the grain and the sound.
        grain: of the film, relative to about 2 levels.

    Raises:
        ValueError: no frames, or a frame too small to paint.
    """
    if num_frames < 1 or min(height, width) < 16:
        raise ValueError(
            f"demo of {num_frames} frames of {width}x{height}; "
            "ask for at least 1 frame of at least 16x16 pixels."
        )
    scenery = paint_scenery(width / height, 2 * height, seed)
    images = np.empty((num_frames, height, width, 3), np.uint8)
    truth = np.empty_like(images)
    masks = np.empty((num_frames, height, width), np.bool_)
    for index, time in enumerate(np.linspace(0, 1, num_frames).tolist()):
        camera = Camera.at(time, height, width)
        rear = _drive(camera, time)
        with_van, without, touched = render_frame(scenery, camera, time, rear)
        noise = grain * film_grain(np.random.default_rng([seed, 1, index]), height, width)
        gain = 1 + 0.03 * math.sin(2 * math.pi * (0.8 * time + 0.1))
        images[index] = expose(with_van, gain, noise)
        truth[index] = expose(without, gain, noise)
        masks[index] = cv2.dilate(touched.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    sound = _sound(np.random.default_rng([seed, 2]), round(num_frames * SAMPLE_RATE / FPS))
    return DemoClip(images, truth, masks, FPS, sound, SAMPLE_RATE)


# --- camera and compositing -----------------------------------------------------------------------


def _parallax(y: float) -> float:
    """How far what stands at ground line y moves, relative to the van's lane."""
    return (y - _HORIZON) / (_VAN_LINE - _HORIZON)


@dataclass(frozen=True)
class Camera:
    """Where the camera is and looks.

    Attributes:
        height, width: of the frame, in pixels.
        travel: how far it has gone past the van's lane.
        tilt, pan: how far it looks down and to the right, where everything moves alike.
        zoom: 1 shows the whole height of the scene, more shows less of it.
        roll: its turn about the middle of the frame, in radians.
    """

    height: int
    width: int
    travel: float
    tilt: float
    zoom: float
    pan: float = 0
    roll: float = 0

    @classmethod
    def at(cls, time: float, height: int, width: int) -> Camera:
        """The demo's camera at a time in [0, 1]: an eased pan, a slow push in, a hand's sway."""
        travel = _TRAVEL * (time - 0.08 * math.sin(2 * math.pi * time))
        sway = 0.0035 * math.sin(5.3 * time + 0.4) + 0.0012 * math.sin(17 * time)
        return cls(height, width, travel, sway, 1.02 + 0.05 * time * time * (3 - 2 * time))

    def see(self, layer: _Layer, place: Array | None = None) -> _View:
        """A layer as this camera sees it, cropped to where it is in the picture.

        Args:
            layer: what to look at.
            place: (3, 3), moves the layer before the camera looks; None leaves it.
        """
        # From an output pixel's centre to scene coordinates, then to the layer's texels.
        pixel = 1 / (self.height * self.zoom)
        left = self.width / self.height / 2 + (0.5 - self.width / 2) * pixel + self.pan
        top = 0.5 + (0.5 - self.height / 2) * pixel + self.tilt
        slope, offset = layer.parallax
        to_scene = np.array(
            [
                [pixel, slope * self.travel * pixel, left + (slope * top + offset) * self.travel],
                [0, pixel, top],
                [0, 0, 1],
            ]
        )
        middle = (self.width / 2 - 0.5, self.height / 2 - 0.5)
        to_scene = to_scene @ _place(0, 0, self.roll, middle)
        if place is not None:
            to_scene = np.linalg.inv(place) @ to_scene
        size = layer.density
        to_texels = np.array(
            [[size, 0, -layer.left * size - 0.5], [0, size, -layer.top * size - 0.5], [0, 0, 1]]
        )
        matrix = to_texels @ to_scene

        rows, columns = layer.pixels.shape[:2]
        corners = np.array([[0, columns, 0, columns], [0, 0, rows, rows], [1, 1, 1, 1]])
        x, y, _ = np.linalg.solve(matrix, corners)
        across = slice(max(int(x.min()) - 2, 0), min(math.ceil(x.max()) + 2, self.width))
        down = slice(max(int(y.min()) - 2, 0), min(math.ceil(y.max()) + 2, self.height))
        crop = (max(across.stop - across.start, 0), max(down.stop - down.start, 0))
        if 0 in crop:
            return _View(slice(0, 0), slice(0, 0), np.zeros((0, 0, 4), np.float32))
        matrix[:, 2] += matrix[:, :2] @ (across.start, down.start)
        paint = cv2.warpAffine(
            layer.pixels,
            matrix[:2],
            crop,
            flags=cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_CONSTANT,
        )
        return _View(down, across, paint.astype(np.float32))


class _View(NamedTuple):
    """Premultiplied paint, (h, w, 4) float32 in [0, 255], and the part of the frame it covers."""

    rows: slice
    columns: slice
    paint: Floats

    def lay_over(self, frame: Floats) -> None:
        below = frame[self.rows, self.columns]
        below *= 1 - self.paint[..., 3:] / 255
        below += self.paint[..., :3]


def _drive(camera: Camera, time: float) -> float:
    """The van's rear bumper in the demo: once across the picture, braking in the middle."""
    eased = time + 0.32 * math.sin(2 * math.pi * time) / (2 * math.pi)
    # In scene coordinates; the layers' parallax of 1 takes the camera's travel off again.
    return camera.travel - 0.04 + eased * (camera.width / camera.height - _VAN_LENGTH + 0.06)


def render_frame(
    scenery: Scenery,
    camera: Camera,
    time: float,
    rear: float,
    *,
    size: float = 1,
    faintest: float = 0,
    lift: float = 0,
    mirror: float = 0,
) -> tuple[Floats, Floats, NDArray[np.bool_]]:
    """A frame with the van, and without it.

    Args:
        scenery: what there is to see.
        camera: where from.
        time: in [0, 1], of the van's bobbing on its springs.
        rear: x of the van's rear bumper; `camera.travel` is the left edge of the picture.
        size: of the van, relative to the demo's.
        faintest: shadow up to this opacity, in [0, 255], does not count as touched; with 255 a
            mirror image does not either.
        lift: of the van above its shadow, in frame heights.
        mirror: how much of the van a wet lane shows below it, from 0 to 1.

    Returns:
        (H, W, 3) both, in [0, 255]; and (H, W), where they may differ.
    """
    without = np.zeros((camera.height, camera.width, 3), np.float32)
    for layer in scenery.behind:
        camera.see(layer).lay_over(without)

    bob = 0.0022 * math.sin(23 * time) + 0.001 * math.sin(57 * time)
    pitch = 0.006 * math.sin(2 * math.pi * time) + 0.002 * math.sin(31 * time)
    turn = (rear / (_WHEEL_RADIUS * size)) % (2 * math.pi)
    scale = np.diag([size, size, 1])

    with_van = without.copy()
    touched = np.zeros(without.shape[:2], np.bool_)
    shadow = camera.see(scenery.shadow, _place(rear, _VAN_LINE) @ scale)
    # The sky still lights a shadow, so red fades more than blue.
    fade = shadow.paint[..., 3:] / 255 * np.array([0.74, 0.7, 0.62], np.float32)
    with_van[shadow.rows, shadow.columns] *= 1 - fade
    line = _VAN_LINE - lift
    flip = _place(0, 2 * _VAN_LINE) @ np.diag([1, -1, 1])
    middle = (size * _VAN_LENGTH / 2, size * -0.1)
    body = _place(rear, line + bob, pitch, middle) @ scale
    places = [(scenery.body, body)]
    for axle in (_REAR_WHEEL, _FRONT_WHEEL):
        wheel = _place(rear + axle * size, line - _WHEEL_RADIUS * size, turn) @ scale
        places.append((scenery.wheel, wheel))
    parts = [camera.see(layer, place) for layer, place in places]
    mirrored = [camera.see(layer, flip @ place) for layer, place in places] if mirror else []
    for part in mirrored:
        part._replace(paint=part.paint * np.float32(mirror)).lay_over(with_van)
    for part in parts:
        part.lay_over(with_van)
    touched[shadow.rows, shadow.columns] |= shadow.paint[..., 3] > faintest
    for view in parts + (mirrored if faintest < 255 else []):
        touched[view.rows, view.columns] |= (view.paint > 0).any(axis=2)

    for layer in scenery.before:
        grass = camera.see(layer)
        grass.lay_over(with_van)
        grass.lay_over(without)
        touched[grass.rows, grass.columns] &= grass.paint[..., 3] < 255
    return with_van, without, touched


def _place(x: float, y: float, turn: float = 0, pivot: tuple[float, float] = (0, 0)) -> Array:
    """(3, 3): turn about the pivot (radians, clockwise), then put the origin at (x, y)."""
    cosine, sine = math.cos(turn), math.sin(turn)
    across, down = pivot
    return np.array(
        [
            [cosine, -sine, x + across - cosine * across + sine * down],
            [sine, cosine, y + down - sine * across - cosine * down],
            [0, 0, 1],
        ]
    )


def expose(frame: Floats, gain: float | Floats, grain: Array) -> Bytes:
    """Exposure (of all, or of R, G and B), a film shoulder, grain; (H, W, 3) uint8."""
    light = np.clip(frame * (gain / 255), 0, 1.2)
    toned = light - 0.5 * np.square(np.maximum(light - 0.7, 0))
    return np.clip(np.rint(toned * 255 + grain), 0, 255).astype(np.uint8)


# --- paint ----------------------------------------------------------------------------------------


class _Layer:
    """A flat painting, premultiplied RGBA uint8, drawn on in frame heights.

    Painted at twice the density of the frames and blurred once, so that sampling it at any
    sub-pixel position neither aliases nor changes its sharpness.
    """

    def __init__(
        self,
        left: float,
        top: float,
        right: float,
        bottom: float,
        density: float,
        parallax: tuple[float, float] = (0, 1),
    ) -> None:
        """
        Args:
            left, top, right, bottom: what the layer holds.
            density: texels per frame height.
            parallax: slope and offset; a row at y moves by slope * y + offset.
        """
        self.left, self.top, self.right = left, top, right
        self.density, self.parallax = density, parallax
        rows, columns = math.ceil((bottom - top) * density), math.ceil((right - left) * density)
        self.pixels: Bytes = np.zeros((rows, columns, 4), np.uint8)

    @property
    def shape(self) -> tuple[int, int]:
        return self.pixels.shape[0], self.pixels.shape[1]

    def at(self, x: float, y: float) -> _Layer:
        """The same layer, to be drawn on as if (x, y) were the origin."""
        moved = copy.copy(self)
        moved.left, moved.top, moved.right = self.left - x, self.top - y, self.right - x
        return moved

    def grid(self) -> tuple[Array, Array]:
        """x and y of every texel's centre, (H, W) float32 each."""
        y, x = np.indices(self.shape, np.float32)
        return (x + 0.5) / self.density + self.left, (y + 0.5) / self.density + self.top

    def polygon(self, points: ArrayLike, color: ArrayLike) -> None:
        cv2.fillPoly(self.pixels, [self._fixed(points)], _opaque(color), cv2.LINE_AA, 4)

    def rectangle(
        self, left: float, top: float, right: float, bottom: float, color: ArrayLike
    ) -> None:
        self.polygon([(left, top), (right, top), (right, bottom), (left, bottom)], color)

    def taper(
        self, x: float, top: float, top_half: float, bottom: float, half: float, color: ArrayLike
    ) -> None:
        """A shape upright about x, top_half to each side of it above and half below."""
        self.polygon(
            [(x - top_half, top), (x + top_half, top), (x + half, bottom), (x - half, bottom)],
            color,
        )

    def rounded(self, knots: Iterable[tuple[float, float, float]], color: ArrayLike) -> None:
        """A polygon whose corners are (x, y, radius)."""
        corners = np.array(list(knots))
        points: list[Array] = []
        for before, here, after in zip(
            np.roll(corners, 1, 0), corners, np.roll(corners, -1, 0), strict=True
        ):
            legs = [leg[:2] - here[:2] for leg in (before, after)]
            start, end = (
                here[:2] + leg * min(float(here[2] / np.hypot(*leg)), 0.5) for leg in legs
            )
            for part in np.linspace(0, 1, 9):
                pull = 2 * part * (1 - part)
                points.append(start * (1 - part) ** 2 + here[:2] * pull + end * part**2)
        self.polygon(points, color)

    def line(
        self, x: float, y: float, to_x: float, to_y: float, width: float, color: ArrayLike
    ) -> None:
        along = np.array([to_x - x, to_y - y])
        across = np.array([-along[1], along[0]]) * (width / 2 / float(np.hypot(*along)))
        first, last = np.array([x, y]), np.array([to_x, to_y])
        self.polygon([first - across, first + across, last + across, last - across], color)

    def ellipse(
        self, x: float, y: float, wide: float, high: float, color: ArrayLike, turn: float = 0
    ) -> None:
        """wide and high are half axes; turn is in degrees."""
        middle = self._fixed((x, y))
        axes = (round(wide * self.density * 16), round(high * self.density * 16))
        spot = (int(middle[0]), int(middle[1]))
        paint = _opaque(color)
        cv2.ellipse(self.pixels, spot, axes, turn, 0, 360, paint, -1, cv2.LINE_AA, 4)

    def shade(
        self, left: float, top: float, right: float, bottom: float, start: float, end: float
    ) -> None:
        """Multiply the paint in a rectangle by start at its top to end at its bottom."""
        view = self.window(left, top, right, bottom)
        _multiply(view, np.linspace(start, end, len(view))[:, None])

    def shadow(
        self,
        x: float,
        y: float,
        wide: float,
        high: float,
        strength: float,
        dapple: np.random.Generator | None = None,
    ) -> None:
        """A soft shadow, also where there is no paint; dappled as under leaves."""
        view = self.window(x - wide, y - high, x + wide, y + high)
        rows, columns = view.shape[:2]
        down, across = np.mgrid[-1 : 1 : rows * 1j, -1 : 1 : columns * 1j]
        deep = strength * _ramp(1 - np.hypot(across, down), 0, 0.6)
        if dapple is not None:
            deep *= _ramp(_noise(dapple, (rows, columns), 0.03 * self.density, 2.5), -1.1, 0.1)
        _multiply(view, 1 - deep)
        view[..., 3] = 255 - (255 - view[..., 3]) * (1 - deep)

    def mottle(self, rng: np.random.Generator, cell: float, strength: float) -> None:
        """Vary the brightness of all paint by fractal noise whose largest blots are `cell` wide."""
        _multiply(self.pixels, 1 + strength * _noise(rng, self.shape, cell * self.density))

    def window(self, left: float, top: float, right: float, bottom: float) -> Bytes:
        """The texels of a rectangle, as a view."""
        corners = np.array([(left, top), (right, bottom)]) - (self.left, self.top)
        first, last = np.maximum(np.rint(corners * self.density), 0).astype(int)
        return self.pixels[first[1] : last[1], first[0] : last[0]]

    def finish(self, blur: float = 0.75) -> _Layer:
        """Blur by that many texels."""
        self.pixels = _blur(self.pixels, blur)
        return self

    def _fixed(self, points: ArrayLike) -> NDArray[np.int32]:
        """Texels in fixed point, 4 fractional bits, as OpenCV's `shift` wants them."""
        texels = (np.asarray(points) - (self.left, self.top)) * self.density - 0.5
        return np.rint(texels * 16).astype(np.int32)


def _opaque(color: ArrayLike) -> tuple[float, ...]:
    return (*np.clip(np.asarray(color, float), 0, 255).tolist(), 255)


def _multiply(pixels: Bytes, factor: Array) -> None:
    """Brighten or darken the colour of (H, W, 4) paint by (H, W), in place."""
    color = pixels[..., :3]
    color[:] = np.clip(color * factor[..., None], 0, pixels[..., 3:])


def _noise(
    rng: np.random.Generator, shape: tuple[int, int], cell: float, stretch: float = 1
) -> Array:
    """Fractal noise of mean 0 and deviation 1; its largest cells are `cell` texels high."""
    rng = rng.spawn(1)[0]  # what else the caller draws must not depend on the size of the frame
    total = np.zeros(shape, np.float32)
    amplitude, high, wide = 1.0, cell, cell * stretch
    while high >= 1.5:
        rows, columns = math.ceil(shape[0] / high) + 3, math.ceil(shape[1] / wide) + 3
        blots = rng.standard_normal((rows, columns), dtype=np.float32)
        size = (math.ceil(columns * wide), math.ceil(rows * high))
        smooth = cv2.resize(blots, size, interpolation=cv2.INTER_CUBIC)[
            round(high) :, round(wide) :
        ]
        total += amplitude * smooth[: shape[0], : shape[1]]
        amplitude, high, wide = amplitude * 0.58, high / 2, max(wide / 2, 1)
    deviation = float(total.std()) if total.size else 0
    return (total - total.mean()) / deviation if deviation > 0 else total


def _blur(image: Array, deviation: float) -> Array:
    """Gaussian, in pixels."""
    return cv2.GaussianBlur(image, (0, 0), deviation)


def _mix(first: ArrayLike, second: ArrayLike, weight: float | Array) -> Array:
    return np.asarray(first, np.float32) * (1 - weight) + np.asarray(second, np.float32) * weight


def _blend(first: ArrayLike, second: ArrayLike, rng: np.random.Generator) -> Array:
    """A colour at random between two."""
    return _mix(first, second, float(rng.uniform()))


def _dark(color: ArrayLike, amount: float) -> Array:
    return _mix(color, 0, amount)


def _light(color: ArrayLike, amount: float) -> Array:
    return _mix(color, 255, amount)


def _ramp(value: Array, low: float, high: float) -> Array:
    """A smooth step from 0 at low to 1 at high."""
    part = np.clip((value - low) / (high - low), 0, 1)
    return part * part * (3 - 2 * part)


def _scatter(rng: np.random.Generator, left: float, right: float, every: float) -> Iterable[float]:
    """Positions about `every` apart."""
    x = left + rng.uniform(0.2, 0.8) * every
    while x < right:
        yield x
        x += every * rng.uniform(0.8, 1.2)


# --- the scene ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Scenery:
    """What stands behind the van's lane and before it, and the van itself, at the origin."""

    behind: list[_Layer]
    before: list[_Layer]
    body: _Layer
    wheel: _Layer
    shadow: _Layer


def paint_scenery(aspect: float, density: float, seed: int) -> Scenery:
    """Paint the street for frames of that aspect, at that many texels per frame height.

    It reaches as far as the camera sees with a `travel` from 0 to 0.5 and a `zoom` of 1 or more.
    """

    def rng(index: int) -> np.random.Generator:
        # One stream per layer: a change to one leaves the others as they were.
        return np.random.default_rng([seed, 0, index])

    def sheet(top: float, bottom: float, moves: float) -> _Layer:
        right = aspect + moves * _TRAVEL + 0.05
        return _Layer(-0.05, top, right, bottom, density, (0, moves))

    behind = [
        _paint_sky(sheet(-0.05, 0.6, 0.01), rng(0)),
        _paint_far_hills(sheet(0.2, 0.62, 0.04), rng(1)),
        _paint_near_hills(sheet(0.25, 0.64, 0.1), rng(2)),
        _paint_back_trees(sheet(0.1, 0.68, 0.34), rng(3)),
        _paint_ground(aspect, density, rng(4)),
        _paint_houses(sheet(0, 0.7, _parallax(_HOUSE_LINE)), rng(5)),
        _paint_street_trees(sheet(0.05, 0.72, _parallax(_TREE_LINE)), rng(6)),
        _paint_kerbside(sheet(0.2, 0.74, _parallax(_LAMP_LINE)), rng(7)),
    ]
    before = [
        _paint_grass(sheet(0.85, 1.06, 1.3), rng(8), 0.975, 0.045, 0.8),
        _paint_grass(sheet(0.8, 1.06, 1.55), rng(9), 1.03, 0.085, 1.8),
    ]
    van = _paint_body(density), _paint_wheel(density), _paint_shadow(density)
    return Scenery(behind, before, *van)


def _paint_sky(sky: _Layer, rng: np.random.Generator) -> _Layer:
    shape, density = sky.shape, sky.density
    y = np.linspace(0, 1, shape[0], dtype=np.float32)[:, None, None]
    color = _mix((70, 128, 200), (196, 217, 232), _ramp(y, 0, 0.75))
    color = _mix(color, (250, 233, 206), 0.55 * _ramp(y, 0.45, 0.85))

    # Bending one noise by another turns blots into drawn-out, curled clouds.
    rows, columns = np.indices(shape, np.float32)
    field = cv2.remap(
        _noise(rng, shape, 0.3 * density, 2.6),
        columns + 0.07 * density * _noise(rng, shape, 0.3 * density, 1.5),
        rows + 0.035 * density * _noise(rng, shape, 0.3 * density, 1.5),
        cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REFLECT,
    )
    cover = _ramp(field, 0.15, 1.5)[..., None]
    thick = _blur(field, 0.018 * density)
    step = max(1, round(0.02 * density))
    to_sun = np.roll(thick, (-step, -step), (0, 1)) - thick
    white = _mix((198, 206, 220), (255, 251, 243), _ramp(to_sun, -0.35, 0.2)[..., None])
    color = _mix(color, white, 0.92 * cover)
    # Dithered: a sky in 8 bits shows bands.
    sky.pixels[..., :3] = np.clip(color + rng.uniform(0, 1, (*shape, 1)), 0, 255)
    sky.pixels[..., 3] = 255
    return sky


def _skyline(
    layer: _Layer, rng: np.random.Generator, base: float, rise: float, cell: float
) -> Array:
    """(W,): y of a hill's edge."""
    wave = _noise(rng, (4, layer.shape[1]), 0.01 * layer.density, 100 * cell)[2]
    return base - rise * wave


def _fill_hill(layer: _Layer, edge: Array, color: Array) -> None:
    """Paint (H, W, 3) below the edge."""
    cover = np.clip((layer.grid()[1] - edge) * layer.density + 0.5, 0, 1)[..., None]
    layer.pixels[:] = _mix(layer.pixels, np.dstack([color, np.full_like(cover, 255)]), cover)


def _paint_far_hills(layer: _Layer, rng: np.random.Generator) -> _Layer:
    for base, rise, haze in ((0.37, 0.03, 0.62), (0.41, 0.018, 0.45)):
        edge = _skyline(layer, rng, base, rise, 0.6)
        wood = np.clip(_noise(rng, layer.shape, 0.05 * layer.density, 1.8), -1.5, 1.5)[..., None]
        color = _mix((66, 96, 104), (98, 122, 106), 0.5 + 0.3 * wood)
        _fill_hill(layer, edge, _mix(color, _HAZE, haze))
    return layer.finish()


def _paint_near_hills(layer: _Layer, rng: np.random.Generator) -> _Layer:
    """Fields between hedges, and woods on the crest."""
    shape, density = layer.shape, layer.density
    edge = _skyline(layer, rng, 0.452, 0.018, 0.9)
    x, y = layer.grid()
    down = np.maximum(y - edge, 0)
    bend = _noise(rng, shape, 0.25 * density, 2)
    rank = np.sqrt(down) * 9 + 0.18 * bend + 0.15 * np.sin(x * 7)
    across = x * 4.2 + 5 * down + 0.25 * bend + 0.43 * np.floor(rank)
    pick = np.abs(np.sin(np.floor(across) * 12.9898 + np.floor(rank) * 78.233)) * 43758.5453 % 1
    crops = np.array([(122, 152, 72), (152, 170, 88), (196, 182, 108), (104, 136, 70)], np.float32)
    color = crops[(pick * len(crops)).astype(int)]
    furrow = np.sin(across * 60 + rank * np.where(pick < 0.5, -6, 6))
    color *= (1 + 0.03 * furrow + 0.045 * _noise(rng, shape, 0.05 * density, 2))[..., None]
    rim = np.maximum(np.abs(across % 1 - 0.5) - 0.475, np.abs(rank % 1 - 0.5) - 0.44)
    hedge = (rim + 0.012 * _noise(rng, shape, 0.02 * density) > 0)[..., None]
    color = np.where(hedge, np.array([66, 92, 58], np.float32), color)
    _fill_hill(layer, edge, _mix(color, _HAZE, 0.24))
    for spot in _scatter(rng, layer.left, layer.right, 0.005):
        if math.sin(spot * 5.1 + 1) + 0.6 * math.sin(spot * 12.7) > 0.25:
            size, rise = rng.uniform(0.006, 0.013), rng.uniform(-0.008, 0.01)
            crest = float(np.interp(spot, np.linspace(layer.left, layer.right, len(edge)), edge))
            leaf = _mix(_blend((66, 94, 66), (104, 128, 76), rng), _HAZE, 0.25)
            layer.ellipse(spot, crest - rise, size, size * rng.uniform(0.8, 1.2), leaf)
    layer.mottle(rng, 0.02, 0.04)
    return layer.finish()


def _foliage(
    layer: _Layer,
    rng: np.random.Generator,
    wide: float,
    high: float,
    leaves: int,
    size: float,
    dark: ArrayLike,
    light: ArrayLike,
) -> None:
    """A crown about the origin, leaves in clumps, each clump and the whole lit from upper left."""
    count = max(7, leaves // 70)
    angle = np.arange(count) * 2.39996  # the golden angle spreads the clumps evenly
    reach = np.sqrt((np.arange(count) + 0.5) / count) * rng.uniform(0.72, 0.95, count)
    clumps = np.stack([np.cos(angle), np.sin(angle)], axis=1) * reach[:, None]
    owner = clumps[rng.integers(count, size=leaves)]
    offset = rng.normal(0, 0.42, (leaves, 2)).clip(-0.9, 0.9)
    sun = np.array([-0.55, -0.83])
    glow = 0.46 + 0.3 * (owner @ sun) + 0.45 * (offset @ sun) + rng.normal(0, 0.1, leaves)
    spot = (owner + 0.3 * offset) * (wide, high)
    order = np.argsort(glow + rng.normal(0, 0.12, leaves))
    color = _mix(dark, light, glow.clip(0, 1)[:, None]) * rng.uniform(0.92, 1.08, (leaves, 3))
    scale, turn = size * rng.uniform(0.7, 1.3, leaves), rng.uniform(0, 180, leaves)
    for leaf in order:
        x, y = spot[leaf]
        layer.ellipse(x, y, scale[leaf], scale[leaf] * 0.6, color[leaf], turn[leaf])


def _flowers(
    layer: _Layer, rng: np.random.Generator, left: float, right: float, y: float, count: int
) -> None:
    """Blossoms over leaves; y is where they grow from."""
    hue = ((206, 54, 62), (226, 120, 150), (238, 196, 70), (238, 236, 226))[int(rng.integers(4))]
    for index in range(count):
        leaf = _blend((62, 90, 48), (120, 146, 70), rng)
        place, turn = (rng.uniform(left, right), y + rng.normal(0, 0.005)), rng.uniform(0, 180)
        layer.ellipse(*place, 0.0032, 0.0024, hue if index > count * 0.6 else leaf, turn)


def _paint_back_trees(layer: _Layer, rng: np.random.Generator) -> _Layer:
    """Trees and bushes behind the houses, seen through the gaps between them."""
    x = layer.left
    while x < layer.right:
        high = rng.uniform(0.1, 0.2) if rng.uniform() < 0.6 else rng.uniform(0.05, 0.09)
        wide, tint = high * rng.uniform(0.45, 0.7), float(rng.uniform())
        dark = _mix((40, 62, 42), (58, 72, 40), tint)
        light = _mix((126, 152, 82), (164, 164, 84), tint)
        tree = layer.at(x, 0.56 - 0.3 * high)
        _foliage(tree, rng, wide, high * 0.8, 420, 0.0065, dark, light)
        _foliage(layer.at(x, 0.6), rng, wide * 1.2, 0.05, 160, 0.0065, dark, light)
        x += wide * rng.uniform(1.1, 1.9)
    layer.mottle(rng, 0.03, 0.05)
    return layer.finish()


def _paint_ground(aspect: float, density: float, rng: np.random.Generator) -> _Layer:
    """Gardens, pavement, kerb, road and verge, as the camera has them at the start."""
    slope = 1 / (_VAN_LINE - _HORIZON)
    right = aspect + _TRAVEL * _parallax(1.06) + 0.1
    layer = _Layer(-0.1, 0.57, right, 1.06, density, (slope, -slope * _HORIZON))
    shape = layer.shape
    x, y = layer.grid()
    near = (y - _HORIZON) * slope
    # Where on the ground a texel lies: along the street, and away from the camera.
    along, away = (x - aspect / 2) / near, 1 / near

    fine = _noise(rng, shape, 0.006 * density, 2.2)[..., None]
    broad = _noise(rng, shape, 0.16 * density, 4)[..., None]

    def grit(first: Color, second: Color, coarse: float) -> Array:
        return _mix(first, second, 0.5 + 0.21 * np.clip(fine + coarse * broad, -2, 2))

    def joints(value: Array, every: float, thick: float) -> Array:
        return (np.abs((value / every) % 1 - 0.5) > 0.5 - thick / every / 2)[..., None]

    grass = grit((88, 118, 52), (142, 158, 74), 0.8)
    stone = grit((168, 160, 148), (196, 187, 172), 1)
    row = np.floor(away / 0.14 + 0.5)
    stagger = along + 0.13 * row
    slab = np.sin(np.floor(stagger / 0.26 + 0.5) * 91.7 + row * 37.3)[..., None]
    joint = joints(stagger, 0.26, 0.012) | joints(away, 0.14, 0.012)
    stone = stone * np.where(joint, 0.74, 1 + 0.045 * slab)

    # Tyres polish two tracks into each lane; patches and cracks tell one yard from the next.
    tar = grit((92, 92, 96), (126, 124, 124), 0.65)
    for track in (0.742, 0.768, 0.815, 0.862):
        tar *= 1 - 0.07 * np.exp(-np.square((y - track) / 0.011))[..., None]
    tar *= 1 - 0.13 * _ramp(_noise(rng, shape, 0.22 * density, 3), 1.25, 1.32)[..., None]
    crack = np.abs(_noise(rng, shape, 0.2 * density, 3))[..., None] < 0.012
    tar *= np.where(crack & (broad > -0.3), 0.74, 1)
    worn = _noise(rng, shape, 0.01 * density, 2) > 1.15
    dash = (np.abs(y - 0.7875) < 0.0045) & (along / 0.62 % 1 < 0.5) & ~worn
    tar = np.where(dash[..., None], tar * 0.25 + np.array([168, 166, 158]), tar)
    tar *= np.where(np.abs(y - 0.7255) < 0.003, 0.8, 1)[..., None]

    warm, block = np.array([1, 0.97, 0.92]), joints(along, 0.42, 0.008)
    kerb_top = np.where(block, 150, 196 + 5 * fine) * warm
    kerb_side = np.where(block, 110, 142 + 5 * fine) * warm
    color = grass
    for top, paint in (
        (0.662, stone),
        (0.712, kerb_top),
        (0.7165, kerb_side),
        (0.723, tar),
        (0.893, kerb_side * 1.12),
        (0.9, kerb_top),
        (0.909, grass),
    ):
        color = _mix(color, paint, np.clip((y - top) * density + 0.5, 0, 1)[..., None])
    layer.pixels[..., :3] = np.clip(color, 0, 255)
    layer.pixels[..., 3] = 255

    # Manholes and fallen leaves: small things that a removal must bring back in place.
    for spot in _scatter(rng, layer.left, layer.right, 0.9):
        cover = layer.at(spot, 0.846)
        cover.ellipse(0, 0, 0.045, 0.0125, (78, 78, 80))
        cover.ellipse(0, -0.0005, 0.041, 0.0108, (104, 102, 100))
        for bar in np.linspace(-0.03, 0.03, 7):
            cover.line(bar, -0.008, bar * 1.03, 0.007, 0.003, (84, 83, 82))
    for spot in _scatter(rng, layer.left, layer.right, 0.008):
        low = rng.uniform(0.67, 0.9)
        size, turn = 0.005 * _parallax(low), rng.uniform(-30, 30)
        layer.ellipse(
            spot, low, size, size * 0.4, _blend((176, 128, 52), (150, 146, 62), rng), turn
        )
    return layer.finish()


_WALLS = (
    (232, 220, 192),
    (222, 186, 140),
    (204, 142, 112),
    (190, 202, 204),
    (226, 204, 160),
    (198, 204, 170),
    (236, 228, 214),
)
_TRIMS = ((72, 106, 118), (104, 72, 56), (78, 108, 82), (150, 66, 54), (92, 104, 134))
_ROOFS = ((168, 92, 66), (150, 84, 66), (182, 108, 74), (112, 104, 104))


def _paint_houses(layer: _Layer, rng: np.random.Generator) -> _Layer:
    x, index = layer.left - 0.12, int(rng.integers(100))
    while x < layer.right:
        wide, tall = rng.uniform(0.26, 0.42), float(rng.choice([0.165, 0.185, 0.26, 0.275]))
        _paint_house(layer.at(x, _HOUSE_LINE), rng, wide, tall, index)
        gap = float(rng.choice([0.0, 0.0, 0.09, 0.16]))
        if gap:
            _paint_garden(layer.at(x + wide, _HOUSE_LINE), rng, gap)
        x += wide + gap
        index += 1
    return layer.finish()


def _paint_house(
    layer: _Layer, rng: np.random.Generator, wide: float, tall: float, index: int
) -> None:
    """A house standing on the origin and to the right of it; its eaves are `tall` up."""
    wall, trim = _WALLS[index % len(_WALLS)], _TRIMS[index * 3 % len(_TRIMS)]
    roof = _ROOFS[(index * 2 + index // 4) % len(_ROOFS)]
    ridge = -tall - wide * rng.uniform(0.26, 0.32)
    gable = index % 3 == 1

    chimney_top = -0.65 * tall + 0.35 * ridge - 0.05 if gable else ridge - 0.02
    for x in (wide * 0.16, wide * rng.uniform(0.7, 0.8)):
        _paint_chimney(layer.at(x, -tall), chimney_top + tall)
    layer.rectangle(0, -tall - 0.002, wide, 0, wall)
    if gable:
        layer.taper(wide / 2, ridge, 0, -tall, wide / 2, wall)
    plaster = layer.window(0, ridge if gable else -tall, wide, 0)
    if plaster.size:
        # Fine grit, broad stains, and damp towards the ground.
        damp = np.linspace(1.03, 0.9, len(plaster))[:, None]
        stains = _noise(rng, plaster.shape[:2], 0.1 * layer.density)
        grit = _noise(rng, plaster.shape[:2], 0.008 * layer.density)
        _multiply(plaster, damp * (1 + 0.022 * stains + 0.026 * grit))
    layer.rectangle(0, -0.022, wide, 0, _mix(wall, (120, 112, 104), 0.6))
    for x in np.arange(0.02, wide, 0.034):
        layer.line(x, -0.022, x, 0, 0.002, _mix(wall, (84, 80, 76), 0.6))

    if gable:
        for drop, thick, color in (
            (0.016, 0.012, _mix(wall, (70, 60, 60), 0.45)),
            (0, 0.021, roof),
            (-0.001, 0.006, _light(roof, 0.2)),
        ):
            upper = np.array(
                [(-0.016, 0.014 - tall), (wide / 2, ridge - 0.012), (wide + 0.016, 0.014 - tall)]
            )
            upper[:, 1] += drop
            layer.polygon([*upper, *(upper[::-1] + np.array([0, thick]))], color)
        layer.ellipse(wide / 2, ridge + 0.055, 0.02, 0.02, _light(wall, 0.4))
        layer.ellipse(wide / 2, ridge + 0.055, 0.015, 0.015, (74, 88, 100))
    else:
        _paint_tiles(layer, rng, wide, ridge, 0.01 - tall, roof)
        layer.shade(0, 0.01 - tall, wide, 0.034 - tall, 0.55, 0.96)
        layer.rectangle(wide - 0.014, 0.01 - tall, wide - 0.008, 0, (124, 120, 114))
        layer.rectangle(wide - 0.014, 0.01 - tall, wide - 0.012, 0, (188, 184, 176))

    columns = max(2, round(wide / 0.125))
    door = int(rng.integers(columns))
    storeys = 2 if tall > 0.2 else 1
    shop = storeys == 2 and index % 2 == 0
    if shop:
        _paint_shop(layer.at(0.02, 0), rng, wide - 0.04, trim)
    for storey in range(1 if shop else 0, storeys):
        for column in range(columns):
            x = wide * (column + 0.5) / columns
            if storey == 0 and column == door:
                _paint_door(layer.at(x, 0), trim, wall)
            else:
                _paint_window(layer.at(x, -0.078 - 0.125 * storey), rng, trim, wall)


def _paint_chimney(layer: _Layer, top: float) -> None:
    layer.rectangle(0, top, 0.032, 0, (158, 96, 76))
    for course in np.arange(top + 0.006, 0, 0.008):
        layer.rectangle(0, course, 0.032, course + 0.0022, (186, 140, 120))
    layer.rectangle(0.021, top, 0.032, 0, (118, 70, 58))
    layer.rectangle(-0.004, top - 0.007, 0.036, top, (196, 178, 160))
    layer.rectangle(0.009, top - 0.018, 0.022, top - 0.007, (150, 92, 70))


def _paint_tiles(
    layer: _Layer, rng: np.random.Generator, wide: float, ridge: float, eaves: float, color: Color
) -> None:
    middle, inset = wide / 2, 0.035
    half = middle + 0.012
    layer.taper(middle, ridge, half - inset, eaves, half, _dark(color, 0.35))
    rows = max(3, round((eaves - ridge) / 0.0095))
    for row in range(rows):
        up = 1 - (row + 0.5) / rows
        reach = half - inset * up
        for x in np.arange(middle - reach + 0.006 * (row % 2), middle + reach - 0.004, 0.0125):
            tint = _mix(color, (228, 176, 130), float(rng.beta(1.2, 4)))
            tint = tint * rng.uniform(0.84, 1.1) * (0.9 + 0.16 * up)
            layer.ellipse(x + 0.004, eaves + (ridge - eaves) * up, 0.0058, 0.0052, tint)
    reach = half - inset + 0.004
    layer.line(middle - reach, ridge, middle + reach, ridge, 0.009, _light(color, 0.14))
    layer.rectangle(middle - half, eaves - 0.002, middle + half, eaves + 0.003, (92, 84, 80))


def _paint_window(layer: _Layer, rng: np.random.Generator, trim: Color, wall: Color) -> None:
    """A window with shutters, about the origin."""
    half, up, frame = 0.021, 0.032, (240, 236, 226)
    layer.rectangle(-0.027, -0.039, 0.027, up, _light(wall, 0.45))
    # Dark panes with curtains, brighter where they mirror the sky.
    layer.rectangle(-half, -up, half, up, (56, 66, 78))
    if rng.uniform() < 0.7:
        for side in (-1, 1):
            edge = side * half
            hem = [(edge, -up), (edge * 0.38, -up), (edge * 0.67, up), (edge, up)]
            layer.polygon(hem, (168, 160, 148))
    sky = up * rng.uniform(-0.5, 0)
    layer.polygon(
        [(-half, -up), (half, -up), (half, 0.6 * sky - 0.4 * up), (-half, sky)], (126, 148, 168)
    )
    for x, width in ((0, 0.005), (-half, 0.004), (half, 0.004)):
        layer.line(x, -up, x, up, width, frame)
    for y in (-up / 3, up / 3):
        layer.line(-half, y, half, y, 0.003, frame)
    layer.rectangle(-0.03, up, 0.03, up + 0.007, (226, 220, 208))
    layer.shade(-0.03, up + 0.007, 0.03, up + 0.015, 0.72, 0.95)
    for side in (-1, 1):
        hinge, leaf = side * 0.026, side * 0.046
        layer.rectangle(min(hinge, leaf), -0.035, max(hinge, leaf), up, trim)
        for y in np.arange(0.004 - up, up - 0.004, 0.007):
            layer.line(side * 0.03, y, side * 0.042, y, 0.0024, _dark(trim, 0.3))
        layer.line(leaf, -up, leaf, up, 0.002, _dark(trim, 0.4))
    if rng.uniform() < 0.5:
        _flowers(layer, rng, -0.027, 0.027, up - 0.002, 60)


def _paint_door(layer: _Layer, trim: Color, wall: Color) -> None:
    layer.rectangle(-0.031, -0.11, 0.031, 0, _light(wall, 0.4))
    layer.rectangle(-0.023, -0.1, 0.023, 0, _dark(trim, 0.1))
    layer.rectangle(-0.023, -0.1, 0.023, -0.084, (70, 82, 94))
    for top, bottom in ((-0.08, -0.048), (-0.042, -0.012)):
        for left in (-0.018, 0.004):
            layer.rectangle(left, top, left + 0.014, bottom, _dark(trim, 0.34))
            layer.rectangle(left + 0.002, top + 0.003, left + 0.014, bottom, _light(trim, 0.1))
    layer.ellipse(0.017, -0.045, 0.0028, 0.0028, (222, 194, 120))
    layer.rectangle(-0.037, -0.007, 0.037, 0, (176, 168, 156))


def _paint_shop(layer: _Layer, rng: np.random.Generator, wide: float, trim: Color) -> None:
    """A shop window with loaves and fruit behind it, under a striped awning."""
    layer.rectangle(0, -0.118, wide, 0, _dark(trim, 0.15))
    layer.rectangle(0.01, -0.1, wide - 0.075, -0.028, (58, 56, 56))
    for shelf in (-0.03, -0.056):
        for x in np.arange(0.022, wide - 0.085, 0.013):
            loaf, fruit = ((206, 140, 66), (232, 204, 146)), ((190, 74, 60), (108, 140, 84))
            tint = _blend(*(loaf if rng.uniform() < 0.8 else fruit), rng)
            layer.ellipse(x, shelf - 0.006, 0.0058, rng.uniform(0.004, 0.008), tint)
        layer.line(0.01, shelf, wide - 0.075, shelf, 0.003, (148, 120, 90))
    glare = [(0.05, -0.1), (0.09, -0.1), (0.05, -0.028), (0.01, -0.028)]
    layer.polygon(glare, (92, 98, 104))
    layer.rectangle(wide - 0.06, -0.1, wide - 0.012, -0.005, _light(trim, 0.14))
    layer.rectangle(wide - 0.052, -0.092, wide - 0.02, -0.04, (70, 84, 96))
    layer.ellipse(wide - 0.055, -0.035, 0.0026, 0.0026, (224, 198, 130))
    stripes = max(6, round(wide / 0.024))
    hem = np.linspace(-0.008, wide + 0.008, stripes + 1)
    root = np.linspace(0.004, wide - 0.004, stripes + 1)
    for index in range(stripes):
        color = (236, 230, 214) if index % 2 else _mix(trim, (196, 80, 60), 0.45)
        (left, right), (first, last) = root[index : index + 2], hem[index : index + 2]
        layer.polygon([(left, -0.128), (right, -0.128), (last, -0.084), (first, -0.084)], color)
        layer.ellipse((first + last) / 2, -0.084, (last - first) / 2, 0.008, _dark(color, 0.1))
    layer.shade(0, -0.074, wide, -0.05, 0.62, 0.97)


def _paint_garden(layer: _Layer, rng: np.random.Generator, wide: float) -> None:
    """A hedge behind a picket fence, to the right of the origin."""
    for x in np.arange(0, wide + 0.03, 0.035):
        bush = layer.at(x, -0.047)
        _foliage(bush, rng, 0.035, 0.04, 150, 0.005, (44, 66, 38), (128, 150, 74))
    for rail in (-0.033, -0.013):
        layer.rectangle(0, rail, wide, rail + 0.004, (214, 208, 196))
    for x in np.arange(0.006, wide - 0.002, 0.0125):
        layer.taper(x, -0.047, 0, -0.042, 0.0035, (236, 232, 222))
        layer.rectangle(x - 0.0035, -0.042, x + 0.0035, 0.001, (236, 232, 222))
        layer.line(x + 0.003, -0.042, x + 0.003, 0.001, 0.0016, (176, 170, 160))


def _paint_street_trees(layer: _Layer, rng: np.random.Generator) -> _Layer:
    wood = (98, 78, 62)
    for x in _scatter(rng, layer.left + 0.1, layer.right, 0.78):
        tree, crown = layer.at(x, _TREE_LINE), rng.uniform(-0.33, -0.29)
        tree.shadow(0.13, 0.018, 0.2, 0.02, 0.5, rng)
        for foot in np.linspace(-0.013, 0.013, 7):
            tint = _mix(wood, (156, 130, 104), 0.5 - foot * 30)
            tree.line(foot, 0, foot * 0.6, crown + 0.06, 0.005, tint)
        for reach, lift in ((-0.06, 0.02), (0.055, 0.0), (-0.02, -0.06), (0.03, -0.05)):
            tree.line(0, crown + 0.1, reach, crown + lift, 0.009, wood)
        leaves = tree.at(0, crown)
        _foliage(leaves, rng, 0.14, 0.125, 3600, 0.0054, (30, 52, 28), (164, 182, 80))
        tree.rectangle(-0.03, -0.004, 0.03, 0.004, (120, 108, 92))
    return layer.finish()


def _paint_kerbside(layer: _Layer, rng: np.random.Generator) -> _Layer:
    """Lamp posts, with a bench or a tub of flowers between them."""
    for index, x in enumerate(_scatter(rng, layer.left + 0.3, layer.right, 0.5)):
        spot = layer.at(x, _LAMP_LINE)
        spot.shadow(0.025, 0.002, 0.09, 0.008, 0.45)
        if index % 2 == 0:
            _paint_lamp(spot, rng)
        elif index % 4 == 1:
            _paint_bench(spot, rng)
        else:
            _paint_tub(spot, rng)
    return layer.finish()


def _paint_lamp(layer: _Layer, rng: np.random.Generator) -> None:
    iron = (44, 50, 52)
    layer.rectangle(-0.012, -0.03, 0.012, 0, iron)
    layer.rectangle(-0.0055, -0.36, 0.0055, -0.02, iron)
    layer.rectangle(-0.0035, -0.36, -0.001, -0.02, (96, 104, 106))
    layer.rectangle(-0.02, -0.31, 0.02, -0.306, iron)
    layer.taper(0, -0.42, 0.02, -0.362, 0.012, (250, 238, 204))
    for edge in (-0.02, 0, 0.02):
        layer.line(edge, -0.42, edge * 0.6, -0.362, 0.0035, iron)
    layer.taper(0, -0.448, 0, -0.42, 0.026, iron)
    layer.ellipse(0, -0.45, 0.005, 0.005, iron)
    for x in (-0.026, 0.026):
        layer.ellipse(x, -0.292, 0.022, 0.012, (78, 98, 58))
        _flowers(layer, rng, x - 0.02, x + 0.02, -0.298, 90)


def _paint_bench(layer: _Layer, rng: np.random.Generator) -> None:
    for leg in (-0.07, 0.07):
        layer.rectangle(leg - 0.004, -0.075, leg + 0.004, 0, (44, 50, 52))
    for plank in (-0.078, -0.064, -0.05, -0.036):
        wood = _blend((146, 98, 60), (176, 126, 80), rng)
        layer.rectangle(-0.085, plank, 0.085, plank + 0.01, wood)
        layer.rectangle(-0.085, plank + 0.0075, 0.085, plank + 0.01, (100, 66, 44))


def _paint_tub(layer: _Layer, rng: np.random.Generator) -> None:
    layer.taper(0, -0.04, 0.034, 0, 0.026, (178, 104, 74))
    layer.rectangle(-0.038, -0.046, 0.038, -0.037, (196, 122, 90))
    layer.shade(-0.04, -0.037, 0.04, -0.025, 0.7, 1)
    plant = layer.at(0, -0.068)
    _foliage(plant, rng, 0.038, 0.032, 130, 0.005, (48, 72, 40), (134, 158, 78))
    _flowers(layer, rng, -0.034, 0.034, -0.078, 60)


def _paint_grass(
    layer: _Layer, rng: np.random.Generator, base: float, tall: float, blur: float
) -> _Layer:
    """Tufts of grass with poppies and daisies, out of focus by `blur` texels."""
    tufts = rng.normal(0.62, 0.3, 64)
    for x in _scatter(rng, layer.left, layer.right, 0.0011):
        tuft = float(np.interp(x * 9 % 64, np.arange(64), tufts))
        rise = tall * max(0.12, min(tuft, 1.25)) * rng.uniform(0.4, 1.1)
        lean, half = rise * rng.normal(0.15, 0.3), tall * rng.uniform(0.031, 0.058)
        blade = layer.at(x, base + rng.uniform(0, 0.02))
        bend, knee = 0.35 * lean, -0.6 * rise
        side = [(-half, 0.2), (-half, 0), (bend - half * 0.7, knee)]
        other = [(bend + half * 0.7, knee), (half, 0), (half, 0.2)]
        tint = _mix((54, 82, 34), (158, 174, 78), float(rng.beta(2, 2.4)))
        blade.polygon([*side, (lean, -rise), *other], tint)
    for x in _scatter(rng, layer.left, layer.right, 0.085):
        stem, size = tall * rng.uniform(0.45, 1.15), tall * rng.uniform(0.1, 0.15)
        layer.line(x - 0.004, base, x, base - stem, 0.003, (84, 112, 50))
        head = layer.at(x, base - stem)
        if rng.uniform() < 0.6:
            head.ellipse(0, 0, size, size * 0.75, (196, 40, 34))
            head.ellipse(-size * 0.25, -size * 0.2, size * 0.6, size * 0.4, (232, 76, 54))
            head.ellipse(0, size * 0.1, size * 0.22, size * 0.2, (48, 26, 30))
        else:
            for turn in range(0, 180, 36):
                head.ellipse(0, 0, size * 0.8, size * 0.2, (244, 242, 232), turn)
            head.ellipse(0, 0, size * 0.26, size * 0.24, (236, 188, 58))
    return layer.finish(0.75 + blur)


# --- the van --------------------------------------------------------------------------------------


def _paint_body(density: float) -> _Layer:
    """The van without its wheels: the rear bumper at x = 0, the ground at y = 0."""
    van = _Layer(-0.04, -0.42, _VAN_LENGTH + 0.06, 0.02, 2 * density)
    red, dark, cream = (198, 38, 34), (150, 24, 26), (240, 230, 206)
    chrome, skin, black = (206, 208, 212), (196, 148, 120), (26, 27, 30)

    van.rectangle(0.03, -0.075, 0.63, -0.038, black)
    back, nose = (
        [(0, -0.33, 0.03), (0.018, -0.362, 0.03), (0.43, -0.362, 0.05)],
        [
            (0.5, -0.335, 0.05),
            (0.565, -0.215, 0.03),
            (0.645, -0.185, 0.035),
            (0.658, -0.13, 0.02),
            (0.656, -0.055, 0.015),
        ],
    )
    van.rounded([(0.004, -0.055, 0.012), *back, *nose], red)
    # The panels turn from the sky to the road, and the paint shows it.
    van.shade(0, -0.362, _VAN_LENGTH, -0.3, 1.2, 1.1)
    van.shade(0, -0.3, _VAN_LENGTH, -0.19, 1.1, 1.02)
    van.shade(0, -0.19, _VAN_LENGTH, -0.04, 0.98, 0.68)
    eaves = [(0.492, -0.338, 0.04), (0.498, -0.326, 0.004), (0.002, -0.326, 0.004)]
    van.rounded([*back[1:], *eaves], cream)
    van.line(0.04, -0.357, 0.44, -0.357, 0.004, (255, 250, 236))
    van.line(0.003, -0.326, 0.498, -0.326, 0.004, dark)
    van.polygon([(0.002, -0.178), (0.648, -0.178), (0.655, -0.166), (0.002, -0.166)], cream)

    for rim, glass in ((0.0, black), (0.006, (52, 64, 76))):
        left, right, top, bottom = 0.4 + rim, 0.487 - rim / 2, rim - 0.312, -0.212 - rim
        slant = right + 0.058 - rim
        corners = [(left, top), (right, top), (slant, bottom), (left, bottom)]
        van.rounded([(*corner, 0.014) for corner in corners], glass)
    van.polygon([(0.415, -0.304), (0.452, -0.304), (0.43, -0.22), (0.408, -0.22)], (94, 112, 128))
    # The driver, behind the glass.
    shoulders = [(0.43, -0.219), (0.437, -0.252), (0.468, -0.252), (0.484, -0.219)]
    van.rounded([(*corner, 0.012) for corner in shoulders], (44, 70, 104))
    van.ellipse(0.455, -0.268, 0.015, 0.019, skin)
    van.ellipse(0.451, -0.279, 0.017, 0.011, (70, 50, 40))
    van.line(0.47, -0.236, 0.5, -0.24, 0.008, skin)
    van.line(0.497, -0.252, 0.507, -0.226, 0.005, black)

    for x, top in ((0.2, -0.318), (0.392, -0.3), (0.553, -0.205)):
        van.line(x, top, x, -0.075, 0.0026, dark)
    van.line(0.02, -0.2, 0.55, -0.2, 0.0024, dark)
    van.line(0.03, -0.15, 0.19, -0.15, 0.0045, (232, 74, 62))
    van.rectangle(0.403, -0.155, 0.432, -0.147, chrome)
    van.rectangle(0.403, -0.149, 0.432, -0.147, (130, 130, 134))

    # A round sign with an ear of wheat, and lettering.
    for radius, color in ((0.05, cream), (0.044, (214, 168, 78)), (0.041, cream)):
        van.ellipse(0.105, -0.255, radius, radius, color)
    van.line(0.09, -0.223, 0.112, -0.27, 0.003, (150, 104, 40))
    for grain in range(5):
        x, y = 0.094 + grain * 0.0038, -0.236 - grain * 0.0085
        for side in (-1, 1):
            ear = (x + side * 0.007, y + side * 0.0015)
            van.ellipse(*ear, 0.0085, 0.0042, (186, 132, 52), side * 28 - 60)
    for text, y in (("FRESH", -0.262), ("BREAD", -0.214)):
        x, y = np.rint((np.array([0.212, y]) - (van.left, van.top)) * van.density).astype(int)
        size = van.density / 1080
        font, thick = cv2.FONT_HERSHEY_DUPLEX, max(1, round(3 * size))
        cv2.putText(van.pixels, text, (x, y), font, 1.32 * size, _opaque(cream), thick, cv2.LINE_AA)

    turn = np.linspace(math.pi * 0.96, math.pi * 2.04, 40)
    arch = np.stack([np.cos(turn), np.sin(turn)], axis=1)
    for axle in (_REAR_WHEEL, _FRONT_WHEEL):
        for radius, color in ((0.071, (222, 62, 52)), (0.068, dark), (0.064, black)):
            van.polygon((axle, -_WHEEL_RADIUS) + radius * arch, color)
    for left, right in ((-0.01, 0.06), (0.6, 0.672)):
        van.rectangle(left, -0.076, right, -0.05, chrome)
        van.rectangle(left, -0.06, right, -0.05, (122, 124, 130))
    van.rectangle(-0.003, -0.16, 0.013, -0.095, (120, 14, 18))
    van.rectangle(0, -0.155, 0.01, -0.128, (255, 86, 60))
    van.rectangle(0, -0.118, 0.01, -0.105, (250, 176, 70))
    van.ellipse(0.645, -0.125, 0.02, 0.027, (214, 216, 220))
    van.ellipse(0.647, -0.125, 0.015, 0.021, (255, 250, 226))
    van.rectangle(0.622, -0.152, 0.64, -0.142, (248, 172, 66))
    van.rectangle(0.532, -0.236, 0.551, -0.206, black)
    van.line(0.3, -0.36, 0.272, -0.405, 0.0028, (40, 40, 44))
    for x in (0.06, 0.17, 0.28, 0.39):
        van.line(x, -0.36, x, -0.375, 0.004, (70, 72, 76))
    van.line(0.04, -0.376, 0.41, -0.376, 0.005, (104, 106, 110))

    # Halved: its thin lines want more texels than a layer has.
    rows, columns = van.shape
    half: Array = cv2.resize(van.pixels, (columns // 2, rows // 2), interpolation=cv2.INTER_AREA)
    van.pixels = half
    van.density *= (columns // 2) / columns
    return van.finish(0.6)


def _paint_wheel(density: float) -> _Layer:
    """A wheel about the origin, with marks that show its turning."""
    radius, reach = _WHEEL_RADIUS, _WHEEL_RADIUS * 1.2
    wheel = _Layer(-reach, -reach, reach, reach, density)
    for part, color in (
        (1.0, (30, 30, 33)),
        (0.9, (46, 46, 50)),
        (0.7, (24, 24, 26)),
        (0.66, (206, 208, 212)),
        (0.56, (150, 152, 158)),
    ):
        wheel.ellipse(0, 0, radius * part, radius * part, color)
    for turn in np.arange(5) * (2 * math.pi / 5):
        x, y = 0.4 * radius * math.cos(turn), 0.4 * radius * math.sin(turn)
        wheel.ellipse(x, y, radius * 0.11, radius * 0.11, (52, 52, 56))
    wheel.ellipse(0, 0, radius * 0.26, radius * 0.26, (198, 38, 34))
    wheel.ellipse(-0.004, -0.004, radius * 0.12, radius * 0.12, (240, 120, 104))
    wheel.line(radius * 0.76, 0, radius * 0.86, 0, 0.005, (150, 150, 150))
    return wheel.finish(0.6)


def _paint_shadow(density: float) -> _Layer:
    """The van's shadow on the road; only its alpha counts."""
    size = (-0.12, -0.1, _VAN_LENGTH + 0.24, 0.12, density)
    wide, close = _Layer(*size), _Layer(*size)
    outline = [(0.02, -0.03), (0.64, -0.03), (0.735, -0.005), (0.72, 0.032), (0.1, 0.032)]
    wide.polygon([*outline, (0.03, 0.01)], (0, 0, 0))
    for axle in (_REAR_WHEEL, _FRONT_WHEEL):
        close.ellipse(axle + 0.008, 0.002, 0.05, 0.009, (0, 0, 0))
    soft = _blur(wide.pixels[..., 3].astype(np.float32), 0.012 * density)
    deep = _blur(close.pixels[..., 3].astype(np.float32), 0.005 * density)
    # Less a little: a Gaussian never ends, a mask must.
    wide.pixels[..., 3] = np.clip(0.72 * soft + 0.22 * deep - 6, 0, 255)
    return wide


# --- sound ----------------------------------------------------------------------------------------


def _sound(rng: np.random.Generator, samples: int) -> Floats:
    """A soft major chord over a breeze, with two birds; (samples, 2) float32 in [-1, 1]."""
    seconds = np.arange(samples) / SAMPLE_RATE
    total = np.zeros((samples, 2))
    for index, pitch in enumerate((130.81, 196.0, 261.63, 329.63, 392.0, 493.88)):
        swell = 0.6 + 0.4 * np.sin(2 * math.pi * (0.13 + 0.031 * index) * seconds + index)
        tone = np.sin(2 * math.pi * pitch * seconds) + 0.25 * np.sin(4 * math.pi * pitch * seconds)
        side = 0.5 + 0.35 * math.sin(2.4 * index)
        total += (0.045 * swell * tone)[:, None] * (1 - side, side)
    for channel in range(2):
        spectrum = np.fft.rfft(rng.standard_normal(samples))
        hertz = np.fft.rfftfreq(max(samples, 1), 1 / SAMPLE_RATE)
        breeze = np.fft.irfft(spectrum / (1 + np.square(hertz / 350)), samples)
        total[:, channel] += 0.12 * breeze * (0.7 + 0.3 * np.sin(1.7 * seconds + channel))
    for start in np.arange(0.35, samples / SAMPLE_RATE, 0.9):
        for chirp in range(int(rng.integers(2, 5))):
            since = seconds - start - 0.11 * chirp
            envelope = np.exp(-np.square((since - 0.03) / 0.016))
            sweep = np.sin(2 * math.pi * (2900 + 300 * (chirp % 2)) * since + 16000 * since**2)
            total += (0.03 * envelope * sweep)[:, None] * (0.7, 0.3)
    fade = np.minimum(1, np.minimum(seconds, seconds[::-1]) / 0.08)
    return (total * fade[:, None]).clip(-1, 1).astype(np.float32)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
