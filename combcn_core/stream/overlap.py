"""Threads before and behind the one that computes: reading and writing while it works.

Queues are bounded, so no stage runs away from the next. What a thread raises is raised where its
items are used.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from contextlib import closing, suppress
from queue import Full, Queue
from types import TracebackType
from typing import Any, Generic, TypeVar

Item = TypeVar("Item")

_PAUSE_SECONDS = 0.1  # between looks at whether the other side is still there
_END = object()


class _Raised:
    def __init__(self, error: BaseException) -> None:
        self.error = error


def ahead(items: Generator[Item, None, None], most: int) -> Generator[Item, None, None]:
    """Make items in a thread, at most `most` ahead of their use.

    Closing this closes `items` too, in its thread.
    """
    queue: Queue[Any] = Queue(most)
    unwanted = threading.Event()

    def offer(item: object) -> None:
        while not unwanted.is_set():
            with suppress(Full):
                return queue.put(item, timeout=_PAUSE_SECONDS)

    def make() -> None:
        try:
            with closing(items):
                for item in items:
                    offer(item)
                    if unwanted.is_set():
                        return
            offer(_END)
        except BaseException as error:
            offer(_Raised(error))

    thread = threading.Thread(target=make, name="combcn-ahead", daemon=True)
    thread.start()
    try:
        while (item := queue.get()) is not _END:
            if isinstance(item, _Raised):
                raise item.error
            yield item
            del item  # or it would be kept until the next one is there
    finally:
        unwanted.set()
        thread.join()


class WriteQueue(Generic[Item]):
    """Hands items to a function in a thread, at most `most` of them waiting.

    Left before `finish`, by an exception, it drops what waits.
    """

    def __init__(self, consume: Callable[[Item], object], most: int) -> None:
        self._consume = consume
        self._queue: Queue[Any] = Queue(most)
        self._error: BaseException | None = None
        self._unwanted = threading.Event()
        self._thread = threading.Thread(target=self._work, name="combcn-behind", daemon=True)

    def __enter__(self) -> WriteQueue[Item]:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._unwanted.set()
        self._offer(_END)
        self._thread.join()

    def put(self, item: Item) -> None:
        """Hand over an item; raises what the function raised for an earlier one."""
        self._offer(item)
        self._check()

    def finish(self) -> None:
        """Wait until all has been consumed; raises what the function raised."""
        self._offer(_END)
        self._thread.join()
        self._check()

    def _offer(self, item: object) -> None:
        while self._thread.is_alive():
            with suppress(Full):
                return self._queue.put(item, timeout=_PAUSE_SECONDS)

    def _work(self) -> None:
        try:
            while (item := self._queue.get()) is not _END and not self._unwanted.is_set():
                self._consume(item)
                del item
        except BaseException as error:
            self._error = error

    def _check(self) -> None:
        if self._error is not None:
            raise self._error
