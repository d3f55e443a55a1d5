"""The bar and the picture that a node shows while it works, and the way to stop it."""

import time

from comfy.utils import ProgressBar
from numpy.typing import NDArray
from PIL import Image

PREVIEW_SIDE_PIXELS = 512
PREVIEW_SECONDS = 0.2  # between two pictures


class Progress:
    """Shows how much is done. Being told so is also what makes a node stop when asked to.

    ComfyUI raises its own exception then; nothing may swallow it.
    """

    def __init__(self, total: int) -> None:
        self._bar = ProgressBar(total)
        self._shown_seconds = 0.0

    def update(self, done: int, frame: NDArray | None = None) -> None:
        """Say that `done` of the total is done.

        Args:
            done: steps.
            frame: (H, W, 3) uint8 RGB to show; not every one is.

        Raises:
            InterruptProcessingException: the user has asked to stop.
        """
        preview = None
        if frame is not None and time.monotonic() - self._shown_seconds > PREVIEW_SECONDS:
            preview = ("JPEG", Image.fromarray(frame), PREVIEW_SIDE_PIXELS)
            self._shown_seconds = time.monotonic()
        self._bar.update_absolute(done, preview=preview)
