import threading
import time

import pytest

from combcn_core.stream.overlap import WriteQueue, ahead


def test_ahead_passes_all_items_on_in_order_from_another_thread():
    def items():
        for number in range(50):
            yield number, threading.current_thread()

    seen = list(ahead(items(), 3))
    assert [number for number, _ in seen] == list(range(50))
    assert {thread for _, thread in seen}.isdisjoint({threading.current_thread()})


def test_ahead_stays_no_further_ahead_than_it_may():
    made = []

    def items():
        for number in range(20):
            made.append(number)
            yield number

    for used, _ in enumerate(ahead(items(), 2), 1):
        time.sleep(0.01)  # time to run away
        assert len(made) <= used + 3  # two wait, and one is in its maker's hand


def test_ahead_raises_what_its_items_raise_after_those_before():
    def items():
        yield 1
        raise OSError("the disk is gone")

    wrapped = ahead(items(), 4)
    assert next(wrapped) == 1
    with pytest.raises(OSError, match="disk is gone"):
        next(wrapped)


@pytest.mark.parametrize("used", [0, 1, 7])
def test_closing_ahead_closes_its_items_and_ends_its_thread(used):
    closed = []

    def items():
        try:
            yield from range(1000)
        finally:
            closed.append(threading.current_thread())

    wrapped = ahead(items(), 2)
    for _ in range(used):
        next(wrapped)
    wrapped.close()
    if used:  # else nothing was begun
        (thread,) = closed
        assert not thread.is_alive()


def test_behind_consumes_all_items_in_order():
    consumed = []
    with WriteQueue(consumed.append, 2) as sink:
        for number in range(50):
            sink.put(number)
        sink.finish()
        assert consumed == list(range(50))


def test_behind_raises_what_the_function_raises():
    def consume(number):
        if number == 3:
            raise OSError("the disk is full")

    def put_many(most, count):
        with WriteQueue(consume, most) as sink:
            for number in range(count):
                sink.put(number)
            sink.finish()

    with pytest.raises(OSError, match="disk is full"):
        put_many(1, 10**9)  # told while there is more to put
    with pytest.raises(OSError, match="disk is full"):
        put_many(8, 4)  # told at the end


def test_behind_drops_what_waits_when_it_is_left_by_an_exception():
    consumed, goes_on = [], threading.Event()

    def consume(number):
        goes_on.wait()
        consumed.append(number)

    def put_and_leave():
        with WriteQueue(consume, 8) as sink:
            for number in range(5):
                sink.put(number)
            threading.Timer(0.05, goes_on.set).start()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        put_and_leave()
    assert consumed in ([], [0])  # at most the one that it had in hand
