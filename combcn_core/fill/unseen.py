"""Smooth fills of what no frame shows: of key frames, carried along the motion to the others."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from combcn_core.fill.keys import KEY_STEP
from combcn_core.fill.merge import Sighting, merge
from combcn_core.fill.smooth import fill_quickly, fill_smoothly
from combcn_core.fill.threads import one_thread
from combcn_core.fill.trace import gather
from combcn_core.fill.window import PartlyFilled, Window
from combcn_core.pixels import Patch
from combcn_core.progress import OnShare, part_of, report_each


def fill_unseen(
    window: Window,
    known: Mapping[int, PartlyFilled],
    start: int,
    stop: int,
    shot_start: int,
    on_progress: OnShare | None = None,
) -> dict[int, Patch]:
    """Fill what remains in frames of a shot smoothly, steady in time.

    Args:
        window: that knows the motion.
        known: frames start - KEY_STEP to stop + KEY_STEP - 1, as far as the shot has them.
        start, stop: the frames wanted, start to stop - 1.
        shot_start: the first frame of the shot.
        on_progress: as in `inpaint`.
    """
    if not any(hole.num_pixels for _, hole in known.values()):
        return {t: known[t].frame for t in range(start, stop)}
    window.find_motions(False, part_of(on_progress, 0, 0.8))
    keys = {
        t
        for t, (_, hole) in known.items()
        if (t - shot_start) % KEY_STEP == 0 and hole.num_pixels < math.prod(hole.shape)
    }

    def fill_by_itself(t: int) -> Patch:
        frame, hole = known[t]
        return (fill_smoothly if t in keys else fill_quickly)(frame, hole.whole())

    def fill(t: int) -> Patch:
        hole = known[t].remaining
        if t in keys or not hole.num_pixels:
            return frames[t]
        found = []
        for trace, levels in ways[t]:
            colors = gather(trace, frames, levels)
            # Where the next key shows nothing at all, the one before it counts to the end.
            fade = np.maximum(1 - np.abs(trace.source - t) / KEY_STEP, 0.01).astype(np.float32)
            found.append(Sighting(trace, colors, fade=fade))
        return merge(frames[t], hole.whole(), found)[0]

    with one_thread():
        frames = dict(zip(known, window.workers.map(fill_by_itself, known), strict=True))
        ways = window.ways(known, keys, start, stop, KEY_STEP)
        done = report_each(window.workers.map(fill, ways), len(ways), part_of(on_progress, 0.8, 1))
        return dict(zip(ways, done, strict=True))
