"""Memory: what this machine has and this process took, and what is done where it runs out."""

from __future__ import annotations

import ctypes
import logging
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

Result = TypeVar("Result")

log = logging.getLogger("combcn")
GIB = 2**30
CPU_NETWORK_BYTES = GIB  # that the networks take on a CPU by default
_ARENA_MAX = -8  # M_ARENA_MAX of malloc.h


def share_one_heap() -> None:
    """Let all threads of this process use one heap, where the system is Linux with glibc.

    Else each has its own, and what one thread gave back there no other can take.
    """
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):  # another C library
            ctypes.CDLL(None).mallopt(_ARENA_MAX, 1)


def peak_memory_bytes() -> int | None:
    """Most memory that this process has held so far; None on Windows, where it is not known."""
    with suppress(OSError):
        # getrusage would begin with what the process had that started this one.
        return _read_kib(Path("/proc/self/status"), "VmHWM")
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def available_memory_bytes() -> int | None:
    """Memory that this machine or its container has for new work; None where it is not known."""
    found = []
    with suppress(OSError, ValueError):
        found.append(_read_kib(Path("/proc/meminfo"), "MemAvailable"))
    for limit, used in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        with suppress(OSError, ValueError):  # no such group, or "max"
            group = Path("/sys/fs/cgroup")
            found.append(int((group / limit).read_text()) - int((group / used).read_text()))
    return max(0, min(found)) if found else None


def _read_kib(path: Path, name: str) -> int:
    """Bytes of a line such as `VmHWM:  123 kB`."""
    for line in path.read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"{path} has no line {name}")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether that is what an error says, on any device."""
    signs = ("out of memory", "allocate memory", "alloc_failed")
    torch = sys.modules.get("torch")  # where it is not there, it has not run out of memory
    return (
        isinstance(error, MemoryError)
        or (torch is not None and isinstance(error, torch.OutOfMemoryError))
        or (isinstance(error, RuntimeError) and any(sign in str(error).lower() for sign in signs))
    )


class BackOff:
    """Does work with less at a time where memory runs out, and says so once."""

    def __init__(
        self, warning: str, runs_out: Callable[[Exception], bool] = is_out_of_memory
    ) -> None:
        """
        Args:
            warning: logged the first time.
            runs_out: whether that is what an error says.
        """
        self._warning = warning
        self._runs_out = runs_out

    def first_that_fits(
        self, attempts: Sequence[Callable[[], Result]], make_room: Callable[[], object]
    ) -> Result:
        """The result of the first attempt that memory suffices for.

        Args:
            attempts: to do the same work, each with less memory than the one before.
            make_room: called between two of them.

        Raises:
            Exception: any other error of an attempt; and what the last one raises.
        """
        for attempt in attempts[:-1]:
            try:
                return attempt()
            except Exception as error:
                if not self._runs_out(error):
                    raise
            # Only here is the error gone, and with it what its frames held.
            if self._warning:
                log.warning(self._warning)
                self._warning = ""
            make_room()
        return attempts[-1]()
