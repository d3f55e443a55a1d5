"""`map` in worker processes."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

import cv2
import torch

Job = TypeVar("Job")
Result = TypeVar("Result")


def map_in_processes(
    function: Callable[[Job], Result], jobs: Iterable[Job], workers: int
) -> Generator[Result, None, None]:
    """`map` in worker processes that keep a few jobs ahead; in the order of the jobs.

    Raises:
        OSError: a worker process was ended from outside.
    """
    if workers == 0:
        yield from map(function, jobs)
        return
    # Started anew and not forked: threads of torch and OpenCV do not survive a fork.
    context = multiprocessing.get_context("spawn")
    # The function goes to each process once: it may hold a clip in memory.
    pool = ProcessPoolExecutor(workers, context, _start_worker, (function,))
    ahead: deque[Future[Result]] = deque()
    try:
        for job in jobs:
            ahead.append(pool.submit(_work, job))
            if len(ahead) > 4 * workers + 8:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()
    except BrokenProcessPool as error:
        raise ChildProcessError(
            "a process that prepares clips was ended from outside, perhaps for want of memory; "
            "use fewer workers."
        ) from error
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


_function: Callable[[Any], Any]  # of a worker process


def _start_worker(function: Callable[[Any], Any]) -> None:
    global _function
    _function = function
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)


def _work(job: Any) -> Any:
    return _function(job)


def _end_with_parent() -> None:
    """End this worker when its parent is gone: killed, that ends nothing itself."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
