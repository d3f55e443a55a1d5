import subprocess
import sys
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch

from combcn_core.memory import BackOff, available_memory_bytes, is_out_of_memory, peak_memory_bytes
from combcn_core.stream.memory import Work

WORK = Work(
    height=1080,
    width=1920,
    itemsize=1,
    hole_pixels=400_000,  # so large that propagation takes more than flow
    box_pixels=500_000,
    union_pixels=600_000,
    halo=65,
    reach=48,
    context=0,
    searches=0,
    num_frames=300,
    network_bytes=0,
)


def test_a_forecast_holds_the_frames_that_are_kept_and_grows_with_all_that_does():
    frames = (32 + 2 * 65) * 1080 * 1920 * 3  # at most, as decoded
    assert frames < WORK.forecast_bytes(32) < 6 * frames
    larger = {
        "height": 1200, "width": 2000, "itemsize": 2, "hole_pixels": 450_000, "box_pixels": 600_000,
        "union_pixels": 700_000, "halo": 80, "reach": 60, "context": 13, "searches": 2,
        "network_bytes": 2**20,
    }  # fmt: skip
    for name, value in larger.items():
        assert WORK._replace(**{name: value}).forecast_bytes(32) > WORK.forecast_bytes(32), name
    assert WORK.forecast_bytes(33) > WORK.forecast_bytes(32)


def test_a_forecast_does_not_grow_with_a_clip_longer_than_its_window():
    assert WORK._replace(num_frames=6000).forecast_bytes(32) == WORK.forecast_bytes(32)
    assert WORK._replace(num_frames=20).forecast_bytes(32) < WORK.forecast_bytes(32)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells")
def test_available_memory_is_part_of_what_the_machine_has():
    available = available_memory_bytes()
    lines = Path("/proc/meminfo").read_text().splitlines()
    total = next(int(line.split()[1]) for line in lines if line.startswith("MemTotal"))
    assert 0 < available <= total * 1024


def test_peak_memory_grows_by_what_is_held():
    before = peak_memory_bytes()
    held = np.ones(before + 2**24, np.uint8)  # beyond any peak so far
    assert peak_memory_bytes() >= before + 2**23
    assert held[-1] == 1


@pytest.mark.skipif(sys.platform != "linux", reason="others inherit it")
def test_peak_memory_is_not_that_of_the_parent():
    held = np.ones(2**30, np.uint8)
    code = "from combcn_core.memory import peak_memory_bytes; print(peak_memory_bytes())"
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert int(child.stdout) < held.nbytes


@pytest.mark.parametrize("allocate", [lambda: np.ones(2**58), lambda: torch.ones(2**58)])
def test_real_allocations_that_fail_are_out_of_memory(allocate):
    with pytest.raises((MemoryError, RuntimeError)) as caught:
        allocate()
    assert is_out_of_memory(caught.value)


def test_other_errors_are_not_out_of_memory():
    with pytest.raises(RuntimeError) as caught:
        torch.ones(2, 3) @ torch.ones(2, 3)
    assert not is_out_of_memory(caught.value)
    assert not is_out_of_memory(ValueError("out of memory"))


def test_backing_off_lets_go_of_what_a_failed_attempt_held(caplog):
    alive: list[weakref.ref] = []

    def attempt():
        held = np.ones(9)
        alive.append(weakref.ref(held))
        if len(alive) < 3:
            raise MemoryError
        return len(alive)

    def make_room():
        assert alive[-1]() is None

    assert BackOff("less").first_that_fits([attempt] * 5, make_room) == 3
    assert [record.message for record in caplog.records] == ["less"]


@pytest.mark.parametrize("error", [MemoryError, KeyError])
def test_backing_off_raises_the_last_and_every_other_error(error):
    tried = []

    def attempt():
        tried.append(error)
        raise error

    with pytest.raises(error):
        BackOff("less").first_that_fits([attempt] * 3, list)
    assert len(tried) == (3 if error is MemoryError else 1)


@pytest.mark.skipif(sys.platform != "linux", reason="a setting of glibc")
def test_threads_share_one_heap():
    code = (
        "import ctypes, threading\n"
        "from combcn_core.memory import share_one_heap\n"
        "share_one_heap()\n"
        "libc, places = ctypes.CDLL(None), []\n"
        "libc.malloc.restype = ctypes.c_void_p\n"
        "def take(): places.append(libc.malloc(1000))\n"
        "threads = [threading.Thread(target=take) for _ in range(4)]\n"
        "for thread in threads: thread.start(); thread.join()\n"
        "take()\n"
        "print(max(places) - min(places))\n"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(found.stdout) < 2**26  # a heap of its own lies 64 MiB away, and more
