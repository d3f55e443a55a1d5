"""Frames run in parallel, each on one thread."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import cv2


class _OneThread:
    """How many are within `one_thread`: the setting is the whole process's."""

    lock = threading.Lock()
    users = 0
    before = 0


@contextmanager
def one_thread() -> Iterator[None]:
    """OpenCV on one thread: DIS cuts a frame into as many stripes as there are threads, and its
    result depends on them. Frames run in parallel instead. Threads may enter and leave it in any
    order; the last to leave restores the setting."""
    with _OneThread.lock:
        if _OneThread.users == 0:
            _OneThread.before = cv2.getNumThreads()
            cv2.setNumThreads(1)
        _OneThread.users += 1
    try:
        yield
    finally:
        with _OneThread.lock:
            _OneThread.users -= 1
            if _OneThread.users == 0:
                cv2.setNumThreads(_OneThread.before)


def parallel(num_threads: int) -> ThreadPoolExecutor:
    """Workers for frames; OpenCV and NumPy release Python's lock."""
    return ThreadPoolExecutor(num_threads, thread_name_prefix="combcn")
