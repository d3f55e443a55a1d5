"""Several processes that train together, and signals that wait for the end of a step."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from combcn_core.networks.inference import choose_device


class Processes:
    """The processes that train together, and which of them this is.

    There is one, or those that `accelerate launch` started.
    """

    def __init__(self, device: str) -> None:
        self.rank, self.count = 0, 1
        self._accelerator = None
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            try:
                from accelerate import Accelerator  # type: ignore[import-untyped,unused-ignore]
            except ImportError:
                raise ValueError(
                    f"WORLD_SIZE is {os.environ['WORLD_SIZE']}, but several processes train "
                    "together through accelerate, which is not installed; install combcn[train]."
                ) from None

            self._accelerator = Accelerator(cpu=device == "cpu")
            self.rank = self._accelerator.process_index
            self.count = self._accelerator.num_processes
            self.device = self._accelerator.device
        else:
            self.device = torch.device(choose_device(device))

    @property
    def first(self) -> bool:
        return self.rank == 0

    def average(self, tensors: list[Any]) -> None:
        """Make each tensor the mean over the processes, in place."""
        if self._accelerator is None:
            return
        flat = torch.cat([tensor.flatten() for tensor in tensors])  # one message, not hundreds
        flat = self._accelerator.reduce(flat, reduction="mean")
        parts = flat.split([tensor.numel() for tensor in tensors])
        for tensor, part in zip(tensors, parts, strict=True):
            tensor.copy_(part.view(tensor.shape))

    def any(self, flag: bool) -> bool:
        """Whether it is so in any process: all stop together, or the others would wait for ever."""
        if self._accelerator is None:
            return flag
        one = torch.tensor(float(flag), device=self.device)
        return bool(self._accelerator.reduce(one, reduction="sum") > 0)


@contextmanager
def deferred_signals(*, insist: bool) -> Iterator[list[BaseException]]:
    """Hold Ctrl-C and SIGTERM back until the step is done; they are raised at the end.

    Args:
        insist: whether a second Ctrl-C is raised at once, wherever it strikes. It would be wrong
            under `accelerate launch`, which hands the first one on to processes that have it.
    """
    raised: list[BaseException] = []
    if threading.current_thread() is not threading.main_thread():  # no other gets any
        yield raised
        return
    reactions: dict[int, BaseException] = {
        signal.SIGINT: KeyboardInterrupt(),
        signal.SIGTERM: SystemExit(128 + signal.SIGTERM),
    }

    def react(number: int, _: object) -> None:
        if raised and insist and number == signal.SIGINT:
            raised.clear()
            raise KeyboardInterrupt
        raised.append(reactions[number])

    before = {number: signal.signal(number, react) for number in reactions}
    try:
        yield raised
    except (GeneratorExit, ChildProcessError):  # a service's SIGTERM ends its child processes too
        if not raised:
            raise
    finally:
        for number, handler in before.items():
            # None is a handler that was not installed from Python; it is lost.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
    if raised:
        raise raised[0]
