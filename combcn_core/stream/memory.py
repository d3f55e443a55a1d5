"""What filling a clip segment by segment takes of memory."""

from __future__ import annotations

from typing import NamedTuple

from combcn_core.fill.early import SETTLE_FRAMES
from combcn_core.fill.motion import CONTEXT_PIXELS, SETTLE_ROUNDS, SIDE_PIXELS
from combcn_core.fill.register import SIDE_PIXELS as REGISTERED_SIDE
from combcn_core.fill.window import KEY_STEP
from combcn_core.memory import GIB
from combcn_core.pixels import KEPT_PIXELS

QUEUE_FRAMES = 8  # read ahead, and waiting to be written, at most
CODEC_FRAMES = 40  # x264 looks so far ahead by default
LEAST_NETWORK_BYTES = GIB // 4  # less makes tiles that are mostly context


class Work(NamedTuple):
    """What decides how much memory a clip takes.

    Attributes:
        height, width: of its frames.
        itemsize: bytes of a value in them.
        hole_pixels: of the largest hole.
        box_pixels: of the largest box around a hole.
        union_pixels: of the box around all holes.
        halo: frames read on each side of a segment.
        reach: as in `InpaintConfig`.
        context: frames on each side of a segment that the networks see, or texture comes from.
        searches: for texture, at a time; 0 without texture.
        num_frames: to be read at all.
        network_bytes: that the networks may take.
    """

    height: int
    width: int
    itemsize: int
    hole_pixels: int
    box_pixels: int
    union_pixels: int
    halo: int
    reach: int
    context: int
    searches: int
    num_frames: int
    network_bytes: int

    def forecast_bytes(self, length: int) -> int:
        """Memory that segments of so many output frames take, beside the process as it starts.

        Counted from what is kept in which type.
        """
        pixels = self.height * self.width
        frame = pixels * 3 * self.itemsize
        window = min(length + 2 * self.halo, self.num_frames)
        filled = min(length + 2 * (self.context + KEY_STEP), self.num_frames)
        sources = min(filled + 2 * self.reach, self.num_frames)
        side = CONTEXT_PIXELS * 2
        cut = min(pixels, round((self.box_pixels**0.5 + side) ** 2))
        seen = min(pixels, round((self.box_pixels**0.5 + side + 2 * KEPT_PIXELS) ** 2))
        grid = min(cut, SIDE_PIXELS**2)
        settling = min(SETTLE_FRAMES + 2 * SETTLE_ROUNDS, window)
        # Measured flow and two rounds of settling it, and where the hole is.
        flow = settling * 2 * (3 * 12 * grid + 16 * min(grid, self.hole_pixels))
        propagation = (
            sources * 3 * self.itemsize * cut  # fills
            + filled * (2 * 28 * self.hole_pixels + 2 * 3 * self.itemsize * cut)
            + min(self.reach, window) * 36 * self.hole_pixels  # traces, and those to be met
            + 52 * self.union_pixels  # the sums of a plate
            + 2 * 15 * pixels  # frames that are made small as a whole, one in each of two threads
        )
        # Sources for the key frames: all in gray, one in three in colours; and what was chosen.
        small = round(pixels * min(1.0, REGISTERED_SIDE / max(self.height, self.width)) ** 2)
        propagation += sources * small * (3 + 12 // 3) + filled // KEY_STEP * 12 * cut
        texture = self.searches * 250 * cut  # the crop at several sizes, and its patches
        return (
            # As decoded, at most as large as RGB; and RGB of what is looked at.
            window * (frame + 3 * self.itemsize * seen)
            + window * (self.box_pixels // 8 + 2 * 6 * grid)  # masks in bits, flow in 16
            + max(flow, propagation + max(texture, self.network_bytes))
            + (2 * QUEUE_FRAMES + max(0, length - self.halo) + CODEC_FRAMES) * frame
            + length * 3 * self.itemsize * self.hole_pixels
        )
