"""The bar and the picture that a node shows while it works, and the way to stop it."""

import time
from collections.abc import Callable

import numpy as np
import torch
from comfy import model_management
from comfy.utils import ProgressBar
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from combcn_core.pixels import to_unit

STEPS = 1000  # of the bar
PREVIEW_SIDE_PIXELS = 512


class NodeProgress:
    """Called while a node works, as the core's `on_progress`.

    ComfyUI raises its own exception from here when the user has asked to stop; nothing may swallow
    it.

    Front ends go on showing the last picture when the node has ended, in place of its result. So a
    node that shows a result of its own sends no pictures, and any other ends with `finish`.

    Args:
        preview_seconds: between two pictures, at least; None: no pictures.
    """

    def __init__(self, preview_seconds: float | None = 0.2) -> None:
        self._preview_seconds = preview_seconds
        self._bar = ProgressBar(STEPS)
        self._done = -1
        self._shown_seconds = 0.0

    @property
    def shows(self) -> bool:
        """Whether a picture would be shown now; if not, none need be drawn."""
        wait = self._preview_seconds
        return wait is not None and time.monotonic() - self._shown_seconds > wait

    def __call__(self, share: float, frame: NDArray | None = None) -> None:
        """Say that a share of the work is done.

        Args:
            share: from 0 to 1.
            frame: (H, W, 3) RGB to show, uint8, uint16 or float in [0, 1]; not every one is shown.

        Raises:
            InterruptProcessingException: the user has asked to stop.
        """
        model_management.throw_exception_if_processing_interrupted()
        preview = None
        if frame is not None and self.shows:
            side = min(PREVIEW_SIDE_PIXELS, max(frame.shape[:2]))
            preview = ("JPEG", _picture(frame), side)
            self._shown_seconds = time.monotonic()
        done = min(STEPS, round(share * STEPS))
        if done != self._done or preview is not None:
            self._done = done
            self._bar.update_absolute(done, preview=preview)

    def finish(self, frame: NDArray) -> None:
        """Fill the bar and leave a finished frame as the last picture, at its own size."""
        self._bar.update_absolute(STEPS, preview=("JPEG", _picture(frame), None))


class Line:
    """A line of text on the node that runs, in front ends that have one.

    Older ones leave the last line on the node, so it says what was found; newer ones take it away
    when the run ends.

    Args:
        seconds: between two lines, at least, but for those that are to be shown at once.
    """

    def __init__(self, seconds: float = 0.5) -> None:
        self._seconds, self._shown_seconds = seconds, 0.0
        self._send: Callable[[str, str], None] | None = None
        try:
            from comfy_execution.utils import get_executing_context
            from server import PromptServer
        except ImportError:  # an older ComfyUI
            return
        context = get_executing_context()
        if context is not None:
            self._node_id = context.node_id
            self._send = getattr(PromptServer.instance, "send_progress_text", None)

    def __call__(self, text: str, *, at_once: bool = False) -> None:
        now = time.monotonic()
        if self._send is not None and (at_once or now - self._shown_seconds > self._seconds):
            self._shown_seconds = now
            self._send(text, self._node_id)


def with_largest_hole(frames: Tensor, holes: Tensor) -> NDArray:
    """The frame to look at first, (H, W, 3).

    Args:
        frames: (T, H, W, 3).
        holes: (T, H, W), or (H, W) for all frames.
    """
    sizes = torch.count_nonzero(holes.reshape(-1, *holes.shape[-2:]), dim=(1, 2))
    return frames[int(sizes.argmax())].numpy(force=True)


def _picture(frame: NDArray) -> Image.Image:
    pixels = to_unit(frame).clip(0, 1) * 255
    return Image.fromarray(pixels.round().astype(np.uint8))
