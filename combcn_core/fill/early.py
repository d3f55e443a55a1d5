"""Motion found while frames are still being read, so that no core waits for the other."""

from __future__ import annotations

from collections import deque
from concurrent.futures import Executor, Future

from combcn_core.fill.motion import find_motion
from combcn_core.fill.settle import SETTLE_ROUNDS, Raw, Settled, settled_motions
from combcn_core.fill.threads import one_thread
from combcn_core.pixels import PackedMask, Stored

SETTLE_FRAMES = 24  # whose flow is settled at a time; more take more memory and less time
WAITING_PAIRS = 8  # at most; then reading waits


def motion_between(first: Stored, second: Stored, one: PackedMask, two: PackedMask) -> Raw:
    """Motion from a frame to the next and back; None where neither has a hole."""
    if one.box is None and two.box is None:
        return None
    with one_thread():
        return find_motion(first, second, one, two)


class EarlyMotion:
    """Finds the motion between frames as they come, for a `Window` that will look at them."""

    def __init__(self, workers: Executor) -> None:
        self._workers = workers
        self._last: tuple[int, Stored, PackedMask] | None = None
        self._pairs: dict[int, Raw] = {}
        self._waiting: deque[tuple[int, Future[Raw]]] = deque()
        self._settled: dict[int, Settled] = {}
        self._next = 0  # to be settled

    def add(self, t: int, frame: Stored, hole: PackedMask, begins: bool) -> None:
        """Take the next frame.

        Args:
            t: its number.
            frame: as it is stored.
            hole: its hole.
            begins: no frame before it can be used.
        """
        last, self._last = self._last, (t, frame, hole)
        if begins or last is None or last[0] + 1 != t:
            self._collect(0)
            # Without those before them, the first ones cannot be settled.
            self._next = t if begins else t + SETTLE_ROUNDS + 1
            return
        pair = self._workers.submit(motion_between, last[1], frame, last[2], hole)
        self._waiting.append((t - 1, pair))
        self._collect(WAITING_PAIRS)
        if t - self._next > SETTLE_FRAMES + SETTLE_ROUNDS + WAITING_PAIRS:
            self._settle(self._next + SETTLE_FRAMES)

    def take(self, start: int, stop: int) -> tuple[dict[int, Raw], dict[int, Settled]]:
        """What is known by now of frames start to stop - 1; what is before them is let go."""
        self._collect(0)
        pairs = {t: pair for t, pair in self._pairs.items() if start <= t < stop}
        settled = {t: both for t, both in self._settled.items() if start <= t < stop}
        self._settled = {t: both for t, both in self._settled.items() if t >= stop}
        # The window settles all but the last, which depend on frames to come.
        self._next = max(self._next, stop - SETTLE_ROUNDS - 2)
        self._forget()
        return pairs, settled

    def _collect(self, most: int) -> None:
        """Wait until no more pairs are waited for."""
        while len(self._waiting) > most:
            t, pair = self._waiting.popleft()
            try:
                self._pairs[t] = pair.result()
            except MemoryError:  # the window will try again, and may have to take less
                self._next = max(self._next, t + SETTLE_ROUNDS + 2)

    def _settle(self, stop: int) -> None:
        """Settle all frames before one."""
        near = range(self._next - SETTLE_ROUNDS - 1, stop + SETTLE_ROUNDS)
        raw = {t: pair for t, pair in self._pairs.items() if t in near}
        with one_thread():
            self._settled |= settled_motions(raw, range(self._next, stop), self._workers.map)
        self._next = stop
        self._forget()

    def _forget(self) -> None:
        """Drop the pairs that nothing to come depends on."""
        first = self._next - 2 * SETTLE_ROUNDS - 4
        self._pairs = {t: pair for t, pair in self._pairs.items() if t >= first}
