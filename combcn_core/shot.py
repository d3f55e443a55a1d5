"""The way of a frame through all stages: propagate, fill the unseen, networks, texture, composite.

Every stage needs a bounded neighbourhood in time only, so a segment of a shot, computed with its
halo, equals the same frames of the whole shot: `ShotInpainter` takes one after the other, and
`inpaint` gives it those of a clip in memory. Frames are arrays here, and PyTorch is imported only
where a clip comes as a tensor or networks take part.

    prefill                       a segment, as far as its shot shows what is hidden
        Window.find_motions       motion.find_motion, settle.settle; begun early by `expect`
        Propagation.fill          trace, plate, register and choose for key frames, merge
        fill_unseen               the smooth fill, where it is wanted or networks need a start
        find_ways                 by which texture will be carried
    restore                       and what no frame shows
        networks.restore          where there is a model
        fill_with_texture         texture.synthesize, at a frame in 48; carried to the others
        add_grain, _composite     into the hole alone

A segment depends on the frames of its halo. Those within `context` are filled too, as texture and
networks look at them; within the smooth fill's reach beyond these, as far as others show them.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from combcn_core.fill.carry import CARRY_FRAMES, Ways, fill_with_texture, find_ways
from combcn_core.fill.cuts import find_shots
from combcn_core.fill.grain import add_grain
from combcn_core.fill.keys import KEY_STEP
from combcn_core.fill.propagate import Propagation
from combcn_core.fill.threads import one_thread
from combcn_core.fill.unseen import fill_unseen
from combcn_core.fill.window import Memo, Window
from combcn_core.pixels import (
    Filled,
    Mask,
    PackedMask,
    PackedMasks,
    Patch,
    Stored,
    crop_box,
    crop_stored,
    feather_mask,
    from_unit,
    to_unit,
)
from combcn_core.progress import OnShare, part_of
from combcn_core.segments import SEGMENT_FRAMES, Segment, plan_shot

if TYPE_CHECKING:
    from torch import Tensor

    from combcn_core.networks.inference import InferenceModel, Model

FEW_FRAMES = 4  # context filled on each side at first, where few frames are wanted: often enough


@dataclass(frozen=True)
class InpaintConfig:
    """Settings of `inpaint` and `combcn inpaint`."""

    propagate: bool = True
    """Carry known pixels along optical flow into the holes first."""
    network: bool | None = None
    """Let the networks restore what propagation could not fill. None: if a model is given."""
    reach: int = 48
    """Frames that a pixel may be carried, at most."""
    grow_pixels: int = 0
    """Grow the masks by this many pixels first, to cover soft edges."""
    feather_pixels: int = 0
    """Blend into the result over this many pixels inside the mask's edge, for wide masks."""
    unseen: Literal["texture", "smooth"] = "texture"
    """What no frame shows: texture from what is known around it, or the smooth fill, or what the
    networks predict, as it is."""
    match_grain: bool = True
    """Give what is filled smoothly the grain of its surroundings."""
    segment_frames: int = SEGMENT_FRAMES
    """Output frames computed at a time: memory and speed, never the result."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where the networks run."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Arithmetic of the networks. auto: bf16 on a CPU made for it, fp16 on CUDA, else fp32."""

    def __post_init__(self) -> None:
        for name, least in (("reach", 1), ("feather_pixels", 0), ("segment_frames", 1)):
            value = getattr(self, name)
            if value < least:
                raise ValueError(f"{name} is {value}; give {least} or more.")
        if self.unseen not in ("texture", "smooth"):
            raise ValueError(f"unseen is {self.unseen!r}; give 'texture' or 'smooth'.")


@dataclass
class Counts:
    """Sums over some frames: hole pixels by how they were filled, and seconds by stage."""

    hole_pixels: int = 0
    propagated_pixels: int = 0
    filled_pixels: int = 0
    network_pixels: int = 0
    synthesized_pixels: int = 0
    # Pixels that a painted frame shows of the holes of others: {frame: {painted one: pixels}}
    travelled: dict[int, dict[int, int]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    reference_pixels: int = 0  # as in `Report`
    resumed_frames: int = 0

    def add(self, other: Counts) -> None:
        """Add the sums over other frames."""
        for name, value in vars(other).items():
            if isinstance(value, int):
                setattr(self, name, getattr(self, name) + value)
        self.travelled |= other.travelled
        for stage, seconds in other.seconds.items():
            self.seconds[stage] = self.seconds.get(stage, 0.0) + seconds

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Add the time of the block to a stage. Threads that run at once must name other stages."""
        start = time.perf_counter()
        yield
        self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - start


class SegmentResult(NamedTuple):
    """Output frames of a segment, in the source's type, and the sums over them."""

    frames: list[Filled]
    counts: Counts


def inpaint(
    images: Tensor,
    masks: Tensor,
    model: Model | None = None,
    config: InpaintConfig = InpaintConfig(),
    *,
    on_progress: OnShare | None = None,
) -> Tensor:
    """Fill the holes of a clip.

    Args:
        images: (T, H, W, 3) RGB, uint8, uint16 or float in [0, 1].
        masks: (T, H, W), or (H, W) for all frames; 1 inside the hole.
        model: networks for what propagation cannot fill; without one a classical fill does it.
        config: settings.
        on_progress: called often with the share of the work that is done and, where there is one,
            a frame as far as it is filled; what it raises ends the work.

    Returns:
        As images. Outside the (grown) masks every value is that of `images`, bit for bit.

    Raises:
        ValueError: shapes or types that do not fit, or no known pixel in any frame.
    """
    return inpaint_with_unseen(images, masks, model, config, on_progress=on_progress)[0]


def inpaint_with_unseen(
    images: Tensor,
    masks: Tensor,
    model: Model | None = None,
    config: InpaintConfig = InpaintConfig(),
    *,
    on_progress: OnShare | None = None,
) -> tuple[Tensor, Tensor]:
    """`inpaint`, and also (T, H, W) bool: True where no other frame shows what the hole hides."""
    import torch

    from combcn_core.masks import check_clip, grow, to_arrays, to_tensor

    holes = grow(check_clip(images, masks), config.grow_pixels)
    if holes.all():
        raise ValueError(
            "mask covers every pixel of every frame; leave something to fill it from, "
            "or give a clean frame."
        )
    frames, hole_list = to_arrays(images), PackedMasks.of(list(holes.numpy(force=True)))
    inpainter = ShotInpainter(config, model)
    done: list[Filled] = []
    unseen: list[Mask] = []
    shots = find_shots(frames)
    plans = (plan_shot(*shot, config.segment_frames, inpainter.halo) for shot in shots)
    for segment in chain.from_iterable(plans):
        window = slice(segment.read_start, segment.read_stop)
        part = part_of(on_progress, segment.start / len(frames), segment.stop / len(frames))
        prefilled = inpainter.prefill(
            frames[window], hole_list[window], segment, on_progress=part_of(part, 0, 0.7)
        )
        unseen += [prefilled.unseen[t].whole() for t in range(segment.start, segment.stop)]
        done += inpainter.restore(prefilled, on_progress=part_of(part, 0.7, 1)).frames
    whole = [frame.whole() for frame in done]
    result = torch.where(holes[..., None], to_tensor(whole, images), images)
    return result, torch.from_numpy(np.stack(unseen)).to(images.device)


class Prefilled(NamedTuple):
    """A segment as far as it can be filled without networks.

    Attributes:
        segment: whose frames are wanted.
        filled: those, and the context that the networks need, filled without them.
        unseen: of these frames, what is only smoothly filled.
        holes: of the wanted frames, all that is to be filled.
        ways: along which texture is to come, None if what no frame shows is to stay smooth.
        textures: frames with texture, kept from one segment to the next.
        counts: of what was done so far.
    """

    segment: Segment
    filled: dict[int, Patch]
    unseen: dict[int, PackedMask]
    holes: Sequence[PackedMask]
    ways: Ways | None
    textures: dict[int, Patch]
    counts: Counts


class ShotInpainter:
    """Inpaints the segments of shots, one after the other; flow is kept from one to the next.

    Memory is bounded by one segment and its halo.
    """

    def __init__(self, config: InpaintConfig, model: Model | None = None) -> None:
        """Bring the model to its device and precision.

        Raises:
            ValueError: networks asked for without a model, or a device that is not there.
        """
        if config.network and model is None:
            raise ValueError("network is on but there is no model; give one, or turn it off.")
        device = _device(config, model)
        self.config = config
        self.model: InferenceModel | None = None
        self._networks_context = 0  # frames that they see on each side of a segment
        self._networks_multiple = 1  # frames from the first of the shot to where they may begin
        if model is not None and config.network is not False:
            from combcn_core.networks.inference import prepare
            from combcn_core.networks.layers import context_frames, run_multiple

            self.model = prepare(model, device=device, precision=config.precision)
            self._networks_context = context_frames(self.model.config)
            self._networks_multiple = run_multiple(self.model.config)
        self._window = Window(config.reach)
        self._propagation = Propagation(self._window)
        # Where few frames are wanted in all, those around them are filled no farther than needed.
        self.wants_few = False

    @property
    def _texture_reach(self) -> int:
        """Frames that texture may be carried, at most; 0: there is none."""
        return CARRY_FRAMES if self.config.unseen == "texture" else 0

    @property
    def _smooth_reach(self) -> int:
        """Frames that the smooth fill may be carried, at most; 0: there is none."""
        return 0 if self._texture_reach and self.model is None else KEY_STEP

    @property
    def context(self) -> int:
        """Frames on each side of a segment that are partly filled too, for texture and networks."""
        return self._texture_reach + self._networks_context

    @property
    def halo(self) -> int:
        """Frames of the shot needed on each side of a segment."""
        beyond = self._smooth_reach + self._window.halo(self.config.propagate)
        return self.context + beyond + self._networks_multiple - 1

    @property
    def on_gpu(self) -> bool:
        """Whether networks run beside the CPU, and not on it."""
        return self.model is not None and self.model.temporal.device.type != "cpu"

    def forget_motion(self) -> None:
        """Drop the motion and the frames that are kept for the next segment, to free memory."""
        painted, self._window = (
            self._propagation.painted,
            Window(self.config.reach, self._window.memo),
        )
        self._propagation = Propagation(self._window)
        self._propagation.painted = painted

    def show_painted(self, painted: Mapping[int, PackedMask]) -> None:
        """Say where frames were painted by hand, to count how far these pixels travel."""
        self._propagation.painted = painted

    def memorise(self, memo: Memo) -> None:
        """Keep what is found of frames in a memo too, for runs that go on later."""
        self._window.memo = memo

    def expect(self, t: int, frame: Stored, hole: PackedMask, begins: bool) -> None:
        """Begin to find the motion to the next frame that `prefill` will be given.

        Args:
            t: its number.
            frame: (H, W, 3).
            hole: already grown.
            begins: it is the first one of its shot, or the first that is read.
        """
        # Of few frames, or with a memo, not all motion is looked for.
        if not self.wants_few and self._window.memo is None:
            self._window.early.add(t, frame, hole, begins)

    def take_less_memory(self) -> None:
        """Halve the memory that the networks may take."""
        if self.model is not None:
            import torch

            from combcn_core.networks.jobs import default_memory_bytes

            device = self.model.temporal.device
            now = self.model.memory_bytes or default_memory_bytes(device)
            self.model.memory_bytes = max(now // 2, 1)
            if device.type == "cuda":
                torch.cuda.empty_cache()

    def prefill(
        self,
        frames: Sequence[Stored],
        masks: Sequence[Mask],
        segment: Segment,
        *,
        on_progress: OnShare | None = None,
    ) -> Prefilled:
        """Fill the output frames of a segment without networks, for `restore` to go on with.

        Args:
            frames: source frames segment.read_start to segment.read_stop - 1, (H, W, 3) each.
            masks: theirs, (H, W) bool, already grown.
            segment: as planned with `halo`; the segments of a clip in their order.
            on_progress: as in `inpaint`, of this segment.
        """
        counts = Counts()
        sparing = self.wants_few and not self._smooth_reach
        for context in (FEW_FRAMES, self.context) if sparing else (self.context,):
            prefilled = self._prefill(frames, masks, segment, context, counts, on_progress)
            if prefilled.ways is None or prefilled.ways.all_end:
                break
        self.skip(segment)
        return prefilled

    def _prefill(
        self,
        frames: Sequence[Stored],
        masks: Sequence[Mask],
        segment: Segment,
        context: int,
        counts: Counts,
        on_progress: OnShare | None,
    ) -> Prefilled:
        """`prefill`, with `context` frames on each side filled too."""
        config, window, shot_start = self.config, self._window, segment.shot_start
        low, high = segment.read_start, segment.read_stop
        margin = self._smooth_reach
        start, stop = max(low, segment.start - context), min(high, segment.stop + context)
        start -= (start - shot_start) % self._networks_multiple
        span = range(segment.start, segment.stop)

        with counts.timed("flow"):
            window.slide(low, frames, masks, start - margin, stop + margin)
            window.find_motions(config.propagate, part_of(on_progress, 0, 0.7))
        with counts.timed("propagate"):
            first, last = max(low, start - margin), min(high, stop + margin)
            if config.propagate:
                part = part_of(on_progress, 0.7, 0.85)
                known = self._propagation.fill(first, last, shot_start, part)
            else:
                known = window.unfilled(first, last)
        with counts.timed("rest"):
            if margin:
                part = part_of(on_progress, 0.85, 1)
                filled = fill_unseen(window, known, start, stop, shot_start, part)
            else:
                filled = {t: known[t].frame for t in span}
        ways = None
        if config.unseen == "texture":
            with counts.timed("texture"):
                ways = find_ways(window, known, segment.start, segment.stop, shot_start)
        travelled = self._propagation.travelled
        counts.travelled = {t: travelled[t] for t in span if travelled.get(t)}
        return Prefilled(
            segment,
            filled,
            {t: known[t].remaining for t in filled},
            [window.hole(t) for t in span],
            ways,
            window.textures,
            counts,
        )

    def skip(self, segment: Segment) -> None:
        """Drop what the segments after one do not need: it is prefilled, or has no hole."""
        self._window.trim(segment.stop - self.halo)

    def restore(self, prefilled: Prefilled, *, on_progress: OnShare | None = None) -> SegmentResult:
        """Fill what no frame shows: with networks where there are any, texture and grain."""
        config, segment = self.config, prefilled.segment
        counts = prefilled.counts
        span = range(segment.start, segment.stop)
        counts.hole_pixels = sum(hole.num_pixels for hole in prefilled.holes)
        unseen_pixels = sum(prefilled.unseen[t].num_pixels for t in span)
        counts.propagated_pixels = counts.hole_pixels - unseen_pixels
        filled = prefilled.filled
        if prefilled.ways is not None:

            def restored(t: int) -> Patch:
                with counts.timed("networks"):
                    return self._run_networks(prefilled, range(t, t + 1), None)[t]

            before = counts.seconds.get("networks", 0.0)
            with counts.timed("texture"):
                starts = None if self.model is None else restored
                workers = self._window.workers
                filled, without = fill_with_texture(
                    prefilled.ways, starts, prefilled.textures, workers
                )
            counts.seconds["texture"] -= counts.seconds.get("networks", 0.0) - before
            for t in [t for t in list(prefilled.textures) if t < segment.stop - CARRY_FRAMES]:
                del prefilled.textures[t]
            counts.synthesized_pixels = unseen_pixels - without
        elif self.model is not None and unseen_pixels:
            with counts.timed("networks"):
                filled = {**filled, **self._run_networks(prefilled, span, on_progress)}
        if self.model is None:
            counts.filled_pixels = unseen_pixels
        else:
            counts.network_pixels = unseen_pixels
        with counts.timed("composite"):

            def composed(t: int) -> Filled:
                frame, hole = filled[t], prefilled.holes[t - segment.start]
                if config.match_grain and hole.box is not None:
                    frame = add_grain(frame, prefilled.unseen[t].whole(), hole.whole(), t)
                return _composite(frame, hole, config.feather_pixels)

            with one_thread():
                frames = list(self._window.workers.map(composed, span))
        if on_progress is not None:
            on_progress(1, frames[-1].whole())
        return SegmentResult(frames, counts)

    def _run_networks(
        self, prefilled: Prefilled, span: range, on_progress: OnShare | None
    ) -> dict[int, Patch]:
        from combcn_core.networks.scales import paint_unseen

        assert self.model is not None
        return paint_unseen(self.model, prefilled.filled, prefilled.unseen, span, on_progress)


def _composite(frame: Patch, hole: PackedMask, feather_pixels: int) -> Filled:
    """Keep the filled pixels of the hole only: outside it the source stays, bit for bit."""
    source = frame.frame
    if hole.box is None:
        return Filled.of(source)
    # Feathering weighs by the distance from the hole's edge, which the box must show.
    box = crop_box(hole.box, 1, 1, *hole.shape)
    filled, inside = frame.crop(box), hole.crop(box)
    if feather_pixels:
        own = crop_stored(source, box)
        share = feather_mask(inside, feather_pixels)[..., None]
        mixed = to_unit(filled) * share + to_unit(own) * (1 - share)
        filled = from_unit(mixed, source.dtype)
    return Filled(source, hole, filled[inside])


def _device(config: InpaintConfig, model: Model | None) -> str:
    """The device that is asked for, which is to be there whether networks run on it or not."""
    if config.device == "cpu" or (config.device == "auto" and model is None):
        return "cpu"
    from combcn_core.networks.inference import choose_device

    return choose_device(config.device)
