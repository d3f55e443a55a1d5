"""The stages that need no networks one by one, on whole clips as tensors; `shot` has its own way.

Images are (T, H, W, 3) RGB, uint8, uint16 or float in [0, 1]; masks (T, H, W), 1 inside the hole.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor

from combcn_core.fill.carry import CARRY_FRAMES, fill_with_texture, find_ways
from combcn_core.fill.cuts import find_shots
from combcn_core.fill.keys import KEY_STEP
from combcn_core.fill.propagate import Propagation
from combcn_core.fill.smooth import fill_smoothly
from combcn_core.fill.unseen import fill_unseen
from combcn_core.fill.window import Window
from combcn_core.masks import check_clip, to_arrays, to_tensor
from combcn_core.pixels import Mask, PackedMask, Patch, Pixels
from combcn_core.progress import OnShare, part_of
from combcn_core.segments import SEGMENT_FRAMES


def propagate(
    images: Tensor, masks: Tensor, *, reach: int = 48, on_progress: OnShare | None = None
) -> tuple[Tensor, Tensor]:
    """Carry known pixels along optical flow into the holes.

    Args:
        images: (T, H, W, 3), as in `inpaint`.
        masks: (T, H, W) or (H, W), 1 inside the hole. A frame without a hole is a source: paint or
            bring a clean plate for one frame and it propagates.
        reach: frames that a pixel may be carried, at most.
        on_progress: as in `inpaint`.

    Returns:
        The images, filled where something was seen and sure; and (T, H, W) bool, True where not.
        There stands the classical fill of `fill_rest`.

    Raises:
        ValueError: shapes or types that do not fit, or a reach below 1.
    """
    if reach < 1:
        raise ValueError(f"reach is {reach}; give 1 frame or more.")
    holes = check_clip(images, masks)
    frames = to_arrays(images)
    window = Window(reach)
    propagation = Propagation(window)
    filled: list[Patch] = []
    remaining: list[Mask] = []
    for start, stop in _shots(window, frames, holes):
        begin, middle, end = (t / len(frames) for t in (start, start + (stop - start) * 0.8, stop))
        known = propagation.fill(start, stop, start, part_of(on_progress, begin, middle))
        part = part_of(on_progress, middle, end)
        filled += fill_unseen(window, known, start, stop, start, part).values()
        remaining += [hole.whole() for _, hole in known.values()]
    return _filled(images, holes, filled), torch.from_numpy(np.stack(remaining)).to(images.device)


def fill_rest(images: Tensor, masks: Tensor, *, on_progress: OnShare | None = None) -> Tensor:
    """Fill holes without networks: smoothly within a frame, steadily in time.

    Every eighth frame of a shot is filled from its own surroundings; these fills are carried along
    optical flow to the frames between and faded into each other.

    Args:
        images: (T, H, W, 3), as in `inpaint`.
        masks: (T, H, W) or (H, W), 1 inside the hole.
        on_progress: as in `inpaint`.

    Returns:
        As images; known pixels untouched.
    """
    holes = check_clip(images, masks)
    frames = to_arrays(images)
    window = Window(KEY_STEP)
    filled: list[Patch] = []
    for start, stop in _shots(window, frames, holes):
        known = window.unfilled(start, stop)
        part = part_of(on_progress, start / len(frames), stop / len(frames))
        filled += fill_unseen(window, known, start, stop, start, part).values()
    return _filled(images, holes, filled)


def fill_each_frame(images: Tensor, masks: Tensor) -> Tensor:
    """Fill holes smoothly, each frame from its own surroundings alone; fast, and it flickers.

    Args:
        images: (T, H, W, 3), as in `inpaint`.
        masks: (T, H, W) or (H, W), 1 inside the hole.

    Returns:
        As images; known pixels untouched.
    """
    holes = check_clip(images, masks)
    pairs = zip(to_arrays(images), holes.numpy(), strict=True)
    return _filled(images, holes, [fill_smoothly(Patch.of(frame), hole) for frame, hole in pairs])


def synthesize_texture(
    images: Tensor,
    masks: Tensor,
    start: Tensor | None = None,
    *,
    removed: Tensor | None = None,
    on_progress: OnShare | None = None,
) -> Tensor:
    """Fill holes with texture from what is known around them, steady in time.

    Every 48th frame of a shot gets texture: patches of its own known pixels that continue what lies
    around the hole, keeping to the rough colours of its start. It is carried along optical flow to
    the other frames; midway between two such frames one texture passes over into the other.

    Args:
        images: (T, H, W, 3), as in `inpaint`. After `propagate` what it filled counts as known.
        masks: (T, H, W) or (H, W), 1 inside the hole: of `propagate`, what remains.
        start: (T, H, W, 3), images with what texture is to start from inside the hole: the result
            of `restore_detail`. None: a smooth fill.
        removed: the masks as given to `propagate`, if it came before: motion is then measured
            outside of these, and the result is that of `inpaint`. None: `masks`.
        on_progress: as in `inpaint`.

    Returns:
        As images; known pixels untouched.

    Raises:
        ValueError: shapes or types that do not fit.
    """
    holes = check_clip(images, masks)
    whole = holes if removed is None else holes | check_clip(images, removed)
    if start is not None and start.shape != images.shape:
        raise ValueError(
            f"start has shape {tuple(start.shape)} but images has {tuple(images.shape)}; give the "
            f"same frames, with other pixels inside the hole."
        )
    frames, begun = (
        to_arrays(images),
        None if start is None else to_arrays(start.to(images.dtype)),
    )
    inside = list(holes.numpy(force=True))
    window = Window(KEY_STEP)
    textures: dict[int, Patch] = {}
    filled: list[Patch] = []
    for begin, end in _shots(window, frames, whole):
        part = part_of(on_progress, begin / len(frames), end / len(frames))
        window.find_motions(False, part_of(part, 0, 0.5))
        for first in range(begin, end, SEGMENT_FRAMES):
            last = min(first + SEGMENT_FRAMES, end)
            near = range(max(begin, first - CARRY_FRAMES), min(end, last + CARRY_FRAMES))
            known = {t: (Patch.of(frames[t]), PackedMask.of(inside[t])) for t in near}
            ways = find_ways(window, known, first, last, begin)
            if ways is None:
                filled += [known[t][0] for t in range(first, last)]
                continue
            starts = None if begun is None else partial(_started, frames, begun, inside)
            done, _ = fill_with_texture(ways, starts, textures, window.workers)
            filled += done.values()
            if part is not None:
                part(0.5 + (last - begin) / (end - begin) / 2, filled[-1].whole())
    return _filled(images, holes, filled)


def _started(
    frames: Sequence[Pixels], begun: Sequence[Pixels], holes: Sequence[Mask], t: int
) -> Patch:
    """A frame with what another clip has inside its hole."""
    hole = holes[t]
    return Patch.of(np.where(hole[..., None], begun[t], frames[t]))


def _shots(window: Window, frames: Sequence[Pixels], holes: Tensor) -> Iterator[tuple[int, int]]:
    """The shots of a clip, start to stop - 1; the window looks at each while it is worked on."""
    for start, stop in find_shots(frames):
        masks = list(holes[start:stop].numpy(force=True))
        window.slide(start, frames[start:stop], masks, start, stop)
        yield start, stop


def _filled(images: Tensor, holes: Tensor, patches: Iterable[Patch]) -> Tensor:
    """A clip with what its filled frames have in the holes."""
    whole = to_tensor([patch.whole() for patch in patches], images)
    return torch.where(holes[..., None], whole, images)
