"""What no frame shows gets the look of the shot itself: patches of what is known around it.

From coarse to fine, every patch that touches the hole is matched with a known one (`_Search`), and
the known ones vote for the hole's colours. What keeps the result from a flat or repeating patch:
neighbours are to come from neighbouring places, the contrast of the surroundings is expected inside
the hole as well, and at the coarsest level the picture grows from the border inwards. The last
level copies by offsets, so it is as sharp as the frame; what is left of steps between copied pieces
is taken out in the gradient domain.

Large frames are searched at a bounded size; beyond it offsets are only refined by single pixels.
All choices are drawn from a given seed, and nothing depends on the number of threads.

Source: Wexler, Shechtman and Irani, "Space-time completion of video", PAMI 2007; Barnes et al.,
"PatchMatch", SIGGRAPH 2009 (its search, all patches at once); Newson et al., "Video inpainting of
complex scenes", SIAM J. Imaging Sciences 2014 (contrast as a feature, growth from the border);
Darabi et al., "Image melding", SIGGRAPH 2012 (gradients). The constants were chosen by looking at
clips split off from training footage.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import cv2
import numpy as np

from combcn_core.fill.smooth import push_pull, relax
from combcn_core.pixels import (
    Array,
    Mask,
    Patch,
    crop,
    crop_box,
    find_box,
    from_unit,
    replaced,
    to_unit,
)

CONTEXT_SHARE, CONTEXT_PIXELS = 0.8, 24  # around the hole: of its longer side, and more
SEARCH_PIXELS, SEARCH_HOLE_PIXELS = 432 * 256, 24_000  # crop and hole are made smaller than this
REFINED_HOLE_PIXELS = 80_000  # and finer levels, up to this, see their offsets refined
SMALLEST_SIDE_PIXELS = 28  # of the coarsest level: some patches wide
STEP = 1.5  # from level to level
ITERATIONS = (12, 6, 4, 2)  # from the coarsest level on; one at all others
RANDOM_TRIES, JUMPS = 4, (4, 1)
KNOWN_WEIGHT, UNKNOWN_WEIGHT = 3.0, 0.1  # of a pixel in a patch; the latter while not grown over
GROWTH_PIXELS = 1.5  # by which the picture grows inwards in an iteration at the coarsest level
NOISE = 1.5  # in the start, in standard deviations of the surroundings
# What a patch costs besides its squared difference in colour: differences in contrast and from the
# start's rough colours; and, in variances of the surroundings, that all neighbours come from
# elsewhere, and a way of a level's height.
CONTRAST_WEIGHT, START_WEIGHT = 2.0, 0.15
INCOHERENCE, DISTANCE_DOWN, DISTANCE_ACROSS = 1.0, 4.0, 0.2
MAX_STEP = 0.2  # between pieces, in [0, 1]; what is larger is an edge
SEAM_CYCLES = 4


def synthesize(frame: Patch, unseen: Mask, *, seed: int) -> Patch:
    """Replace pixels by texture from the others, keeping to their rough colours.

    Args:
        frame: (H, W, 3), complete: the smooth fill or the networks' prediction where unseen.
        unseen: (H, W), the pixels to be replaced.
        seed: of the search; the number of the frame in its shot, so that it is the same in any
            segment.

    Returns:
        The frame, other pixels untouched; as it was where hardly anything is known.
    """
    hole_box = find_box(unseen)
    if hole_box is None:
        return frame
    margin = round(CONTEXT_SHARE * max(hole_box.height, hole_box.width)) + CONTEXT_PIXELS
    box = crop_box(hole_box, margin, 1, *unseen.shape)
    own, hole = frame.crop(box), crop(unseen, box)
    pixels = to_unit(own)
    rng = np.random.default_rng(seed)
    search: _Search | None = None
    for number, level in enumerate(_pyramid(pixels, hole)):
        finer = _Search(level, search, rng)
        if len(finer.sources):
            iterations = ITERATIONS[number] if number < len(ITERATIONS) else 1
            finer.run(iterations, is_last=level.hole.shape == hole.shape)
            search = finer
    if search is None:
        return frame
    rows, columns = np.nonzero(hole)
    source = search.sources_at(rows, columns, ~hole)
    if search.level.hole.shape == hole.shape:
        pixels[hole] = search.image[hole]
    else:
        pixels[hole] = pixels.reshape(-1, 3)[source]
    own[hole] = from_unit(_without_seams(pixels, hole, source)[hole], own.dtype)
    return replaced(frame, box, own)


class _Level(NamedTuple):
    """The crop around the hole at one size."""

    image: Array  # (h, w, 3), complete
    hole: Mask
    contrast: Array  # (h, w, 2): fine and coarse, as expected inside the hole
    is_coarse: bool  # searched at random, and not only near the offsets of the level before


def _pyramid(pixels: Array, hole: Mask) -> list[_Level]:
    """The crop from coarse to fine."""
    area, hole_area = hole.size, int(hole.sum())
    work = math.sqrt(max(1.0, area / SEARCH_PIXELS, hole_area / SEARCH_HOLE_PIXELS))
    known = (~hole).astype(np.float32)
    layers = np.dstack([pixels, pixels * known[..., None], known])
    base = _shrunk(layers, work)
    contrast = _contrast(base)

    def level(layers: Array, scale: float = 1.0, is_coarse: bool = False) -> _Level:
        layers = _shrunk(layers, scale)
        hole = layers[..., 6] < 0.999
        seen = layers[..., 3:6] / np.maximum(layers[..., 6:], 1e-6)
        image = np.where(hole[..., None], layers[..., :3], seen)
        return _Level(image, hole, _shrunk(contrast, scale), is_coarse)

    scales = [1.0]
    while min(base.shape[:2]) / (scales[-1] * STEP) >= SMALLEST_SIDE_PIXELS:
        scales.append(scales[-1] * STEP)
    levels = [level(base, scale, scale > STEP or scale == scales[-1]) for scale in scales[::-1]]
    while work > 1:
        work = max(work / 2, 1.0)
        if hole_area / work**2 <= REFINED_HOLE_PIXELS:
            levels.append(level(_shrunk(layers, work)))
    return levels


def _contrast(layers: Array) -> Array:
    """(h, w, 2): mean strength of fine and of coarse detail, continued smoothly into the hole."""
    known = (layers[..., 6] > 0.999).astype(np.float32)
    gray = layers[..., :3].mean(-1)
    fine, coarse = (cv2.GaussianBlur(gray, (0, 0), sigma) for sigma in (1.5, 4.0))
    parts = []
    for detail, reach in ((gray - fine, 7), (fine - coarse, 17)):
        inner = cv2.erode(known, np.ones((reach, reach)))
        weight = cv2.GaussianBlur(inner, (0, 0), 3)
        strength = cv2.GaussianBlur(np.abs(detail) * inner, (0, 0), 3) / np.maximum(weight, 1e-6)
        sure = ((weight > 0.05) & (known > 0)).astype(np.float32)
        parts.append(push_pull((strength * sure)[..., None], sure))
    return np.dstack(parts)


class _Search:
    """For every patch that touches the hole of a level, the known patch that it comes from."""

    def __init__(self, level: _Level, before: _Search | None, rng: np.random.Generator) -> None:
        """Begin with the picture and the offsets of the level before, or with a noisy start."""
        self.level, self.rng, self.is_first = level, rng, before is None
        self.radius = radius = 3 if level.is_coarse else 2
        self.samples = range(-radius, radius + 1, 2)
        height, width = level.hole.shape
        near = _grown(level.hole, radius)
        usable = np.zeros_like(near)
        inner = (slice(radius, height - radius), slice(radius, width - radius))
        usable[inner] = ~near[inner]
        self.usable = usable.ravel()
        self.targets, self.sources = np.flatnonzero(near), np.flatnonzero(usable)
        if len(self.sources) < 40:
            self.sources = self.sources[:0]
            return
        self.rows, self.columns = np.divmod(self.targets, width)

        # What the surroundings are like: their contrast is the unit of all costs.
        ring = _grown(level.hole, 8) & ~level.hole
        spread = (level.image - cv2.blur(level.image, (5, 5)))[ring].std(0)
        self.variance = np.float32(((spread * 255) ** 2).mean())
        self.image = level.image.copy()
        if before is None:
            noise = rng.standard_normal((int(level.hole.sum()), 3), np.float32)
            self.image[level.hole] += noise * (spread * NOISE).astype(np.float32)
            self.found = self._any(self.sources, len(self.targets))
        else:
            larger = cv2.resize(before.image, (width, height), interpolation=cv2.INTER_CUBIC)
            self.image[level.hole] = larger[level.hole]
            self.found = before.sources_at(self.rows, self.columns, usable)

    def sources_at(self, rows: Array, columns: Array, usable: Mask) -> Array:
        """The sources of some pixels of a finer level, as far as they are usable; else any."""
        height, width = self.level.hole.shape
        fine_height, fine_width = usable.shape
        near = (rows * height // fine_height) * width + columns * width // fine_width
        shift = np.zeros((height * width, 2), np.float32)
        for axis in (0, 1):
            shift[self.targets, axis] = np.divmod(self.found, width)[axis]
            shift[self.targets, axis] -= (self.rows, self.columns)[axis]
        scale = np.array([fine_height / height, fine_width / width], np.float32)
        moved = np.rint(shift[near] * scale).astype(np.int64)
        rows = np.clip(rows + moved[:, 0], 0, fine_height - 1)
        found = rows * fine_width + np.clip(columns + moved[:, 1], 0, fine_width - 1)
        fits = usable.ravel()[found]
        return np.where(fits, found, self._any(np.flatnonzero(usable), len(found)))

    def _any(self, sources: Array, count: int) -> Array:
        return sources[self.rng.integers(0, len(sources), count)]

    def run(self, iterations: int, is_last: bool) -> None:
        """Search and vote, in turns."""
        height, width = self.level.hole.shape
        numbers = np.full(height * width, -1)
        numbers[self.targets] = np.arange(len(self.targets))
        numbers = numbers.reshape(height, width)
        jumps = JUMPS if self.level.is_coarse else (1,)
        self.neighbours = {
            (down * jump, right * jump): self._shifted(numbers, down * jump, right * jump)
            for jump in jumps
            for down, right in ((0, 1), (0, -1), (1, 0), (-1, 0))
        }
        self.beside = [self.neighbours[way] for way in ((0, 1), (0, -1), (1, 0), (-1, 0))]
        self.known_patches = self._patches(_quantised(self.level.image))
        if self.level.is_coarse:
            low = cv2.GaussianBlur(self.level.image, (0, 0), 2.0) * np.sqrt(START_WEIGHT / 3)
            contrast = self.level.contrast * np.sqrt(CONTRAST_WEIGHT**2 / 3)
            self.features = np.dstack([low, contrast]).reshape(height * width, -1) * np.float32(255)
        trust = np.where(self.level.hole, 1, KNOWN_WEIGHT).astype(np.float32)
        depth = cv2.distanceTransform(self.level.hole.view(np.uint8), cv2.DIST_L2, 5)
        for iteration in range(iterations):
            if self.is_first:
                reached = depth <= iteration * GROWTH_PIXELS
                trust[self.level.hole] = np.where(reached, 1, UNKNOWN_WEIGHT)[self.level.hole]
            if self.is_first or iteration == 0:
                weights = self._patches(trust[..., None])[self.targets]
                self.weights = np.repeat(weights / weights.sum(1, keepdims=True) / 3, 3, 1)
            self.wanted = self._patches(_quantised(self.image))[self.targets].astype(np.float32)
            self.cost = self._cost(self.found, slice(None))
            self._improve(rounds=5 if self.is_first and iteration == 0 else 2)
            self._vote(is_last=is_last and iteration == iterations - 1)

    def _shifted(self, numbers: Array, down: int, right: int) -> Array:
        """(N,): the target that lies beside each target, -1 where there is none."""
        height, width = numbers.shape
        rows, columns = self.rows + down, self.columns + right
        within = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
        beside = numbers[np.clip(rows, 0, height - 1), np.clip(columns, 0, width - 1)]
        return np.where(within, beside, -1)

    def _patches(self, values: Array) -> Array:
        """(h w, n): a patch around each pixel, every second row and column of it."""
        height, width = values.shape[:2]
        edge = self.radius
        wide = cv2.copyMakeBorder(values, edge, edge, edge, edge, cv2.BORDER_REPLICATE)
        wide = wide.reshape(height + 2 * edge, width + 2 * edge, -1)
        views = [
            wide[edge + down : edge + down + height, edge + right : edge + right + width]
            for down in self.samples
            for right in self.samples
        ]
        return np.concatenate(views, -1).reshape(height * width, -1)

    def _cost(self, found: Array, some: Array | slice) -> Array:
        """What it costs that some targets come from the patches found."""
        difference = self.known_patches[found] - self.wanted[some]
        difference *= difference
        cost = np.einsum("ij,ij->i", difference, self.weights[some])
        width = self.level.hole.shape[1]
        offsets, own = found - self.targets[some], self.found - self.targets
        alike = np.zeros(len(found), np.float32)
        for beside in self.beside:
            other = beside[some]
            alike += (other >= 0) & (own[other] == offsets)
        cost += self.variance * np.float32(INCOHERENCE) * (1 - alike / 4)
        if self.level.is_coarse:
            apart = self.features[found] - self.features[self.targets[some]]
            cost += np.einsum("ij,ij->i", apart, apart)
            unit = self.variance / np.float32(self.level.hole.shape[0])
            rows, columns = np.divmod(found, width)
            cost += np.abs(rows - self.rows[some]) * (unit * np.float32(DISTANCE_DOWN))
            cost += np.abs(columns - self.columns[some]) * (unit * np.float32(DISTANCE_ACROSS))
        return cost

    def _try(self, found: Array, some: Array) -> None:
        """Take other sources for some targets, where they are usable and cost less."""
        fits = (found >= 0) & (found < len(self.usable)) & (found != self.found[some])
        fits[fits] = self.usable[found[fits]]
        found, some = found[fits], some[fits]
        if len(some):
            cost = self._cost(found, some)
            better = cost < self.cost[some]
            some = some[better]
            self.found[some], self.cost[some] = found[better], cost[better]

    def _improve(self, rounds: int) -> None:
        """Look where the neighbours come from, and at random; or beside the place found."""
        height, width = self.level.hole.shape
        everyone = np.arange(len(self.targets))
        for _ in range(rounds if self.level.is_coarse else 1):
            for (down, right), beside in self.neighbours.items():
                some = np.flatnonzero(beside >= 0)
                self._try(self.found[beside[some]] - (down * width + right), some)
            if not self.level.is_coarse:
                for step in (1, -1, width, -width):
                    self._try(self.found + step, everyone)
                continue
            # At the same height first: what lies there is at the same distance, as a rule.
            rows = self.rows + self.rng.integers(-1, 2, len(everyone))
            columns = self._any(self.sources, len(everyone)) % width
            reach = max(height, width) / (1 if self.is_first else 2)
            for _ in range(RANDOM_TRIES):
                within = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
                self._try((rows * width + columns)[within], everyone[within])
                way = np.rint((self.rng.random((2, len(everyone))) * 2 - 1) * reach)
                rows, columns = (
                    part + step.astype(np.int64)
                    for part, step in zip(np.divmod(self.found, width), way, strict=True)
                )
                reach = max(reach / 2.5, 1)

    def _vote(self, is_last: bool) -> None:
        """Colours of the hole: the mean of what all patches over a pixel say, by how well they fit.

        At last the middle of a patch counts most, so that nothing is blurred.
        """
        height, width = self.level.hole.shape
        typical = max(4.0, float(np.quantile(self.cost, 0.75)))
        sure = np.exp(self.cost / np.float32(-2 * typical))
        pixels = np.dstack([self.level.image, np.ones((height, width), np.float32)]).reshape(-1, 4)
        total = np.zeros_like(pixels)
        sigma = 1.0 if is_last else 2.0
        for down in range(-2, 3):
            for right in range(-2, 3):
                rows, columns = self.rows + down, self.columns + right
                on = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
                step = down * width + right
                share = sure[on] * np.float32(math.exp(-(down**2 + right**2) / (2 * sigma**2)))
                total[self.targets[on] + step] += pixels[self.found[on] + step] * share[:, None]
        mean = total[:, :3] / np.maximum(total[:, 3:], 1e-8)
        hole = self.level.hole
        self.image[hole] = mean.reshape(height, width, 3)[hole]


def _without_seams(pixels: Array, hole: Mask, source: Array) -> Array:
    """The picture, with the gradients of its pieces also where two of them meet.

    There the step is to be what it is on average in the two places that the pieces come from. The
    correction is zero around the hole.

    Args:
        pixels: (H, W, 3).
        hole: (H, W).
        source: of the pixels of the hole, as numbers in the flattened picture.
    """
    height, width = hole.shape
    place = np.arange(height * width).reshape(height, width)
    origin = place.copy()
    origin[hole] = source
    known = pixels.reshape(-1, 3)
    tight = find_box(hole)
    assert tight is not None
    tight = crop_box(tight, 1, 1, height, width)
    origin, inside = crop(origin, tight), crop(hole, tight)
    image, shift = crop(pixels, tight), origin - crop(place, tight)
    load = np.zeros_like(image)
    for down, right in ((0, 1), (1, 0)):
        here = (slice(0, tight.height - down), slice(0, tight.width - right))
        there = (slice(down, tight.height), slice(right, tight.width))
        meets = (shift[here] != shift[there]) & (inside[here] | inside[there])
        first, second = origin[here][meets], origin[there][meets]
        step = down * width + right
        wanted = known[np.minimum(first + step, height * width - 1)] - known[first]
        wanted = (wanted + known[second] - known[np.maximum(second - step, 0)]) / 2
        given = image[there][meets] - image[here][meets]
        excess = np.clip(wanted - given, -MAX_STEP, MAX_STEP)
        load[here][meets] += excess
        load[there][meets] -= excess
    correction = np.zeros_like(image)
    for _ in range(SEAM_CYCLES):
        relax(correction, inside, load)
    result = pixels.copy()
    least, most = known.min(0), known.max(0)
    crop(result, tight)[:] = np.clip(image + correction * inside[..., None], least, most)
    return result


def _shrunk(values: Array, scale: float) -> Array:
    if scale == 1:
        return values
    height, width = (max(1, round(length / scale)) for length in values.shape[:2])
    if values.shape[-1] <= 4:
        return cv2.resize(values, (width, height), interpolation=cv2.INTER_AREA)
    parts = (values[..., :4], values[..., 4:])
    return np.dstack(
        [
            cv2.resize(np.ascontiguousarray(part), (width, height), interpolation=cv2.INTER_AREA)
            for part in parts
        ]
    )


def _grown(mask: Mask, pixels: int) -> Mask:
    """By a square: as far as patches reach."""
    side = 2 * pixels + 1
    return cv2.dilate(mask.view(np.uint8), np.ones((side, side), np.uint8)).view(np.bool_)


def _quantised(image: Array) -> Array:
    """In 1/255: whole numbers, so that sums do not depend on their order."""
    return np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8)
