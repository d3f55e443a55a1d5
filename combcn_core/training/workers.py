"""`map` in worker processes.

torch's `DataLoader` is as fast. But when a worker dies it raises in the middle of whatever the main
thread does, where a training could not end its step and save; and errors arrive as tracebacks.
"""

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

Task = TypeVar("Task")
Result = TypeVar("Result")


def map_in_processes(
    function: Callable[[Task], Result], tasks: Iterable[Task], workers: int
) -> Generator[Result, None, None]:
    """`map` in worker processes that keep a few tasks ahead; in the order of the tasks.

    Raises:
        OSError: a worker process was ended from outside.
    """
    if workers == 0:
        yield from map(function, tasks)
        return
    # Started anew and not forked: threads of torch and OpenCV do not survive a fork.
    context = multiprocessing.get_context("spawn")
    # The function goes to each process once: it may hold a clip in memory.
    pool = ProcessPoolExecutor(workers, context, _start_worker, (function,))
    ahead: deque[Future[Result]] = deque()
    try:
        for task in tasks:
            ahead.append(pool.submit(_work, task))
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


def _work(task: Any) -> Any:
    return _function(task)


def _end_with_parent() -> None:
    """End this worker when its parent is gone: killed, that ends nothing itself."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
