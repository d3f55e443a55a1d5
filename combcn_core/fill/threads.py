"""Frames run in parallel, each on one thread."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import cv2

SWITCH_SECONDS = 5e-4  # for which a thread waits for Python's lock, and then asks for it


class _OneThread:
    """How many are within `one_thread`: the settings are the whole process's."""

    lock = threading.Lock()
    users = 0
    before = 0, 0.0


@contextmanager
def one_thread() -> Iterator[None]:
    """OpenCV on one thread: DIS cuts a frame into as many stripes as there are threads, and its
    result depends on them. Frames run in parallel instead, and Python's lock changes hands more
    often than by default: much of their work is short. Threads may enter and leave in any order;
    the last to leave restores the settings."""
    with _OneThread.lock:
        if _OneThread.users == 0:
            _OneThread.before = cv2.getNumThreads(), sys.getswitchinterval()
            cv2.setNumThreads(1)
            sys.setswitchinterval(min(SWITCH_SECONDS, _OneThread.before[1]))
        _OneThread.users += 1
    try:
        yield
    finally:
        with _OneThread.lock:
            _OneThread.users -= 1
            if _OneThread.users == 0:
                cv2.setNumThreads(_OneThread.before[0])
                sys.setswitchinterval(_OneThread.before[1])


def parallel(num_threads: int) -> ThreadPoolExecutor:
    """Workers for frames; OpenCV and NumPy release Python's lock."""
    return ThreadPoolExecutor(num_threads, thread_name_prefix="combcn")
