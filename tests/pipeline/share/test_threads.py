"""Requests in threads: all results in order, the first error at once, and no wait for a thread that never began."""

import threading
import time

import pytest

from fsar.pipeline.share.threads import in_threads


def test_results_come_in_the_order_of_the_items():
    def slow_first(number: int) -> int:
        time.sleep(0.02 if number == 0 else 0)
        return number * number

    assert in_threads(slow_first, range(20), n_threads=4) == [number * number for number in range(20)]
    assert in_threads(slow_first, [], n_threads=4) == []


def test_the_first_error_ends_it_while_others_wait():
    stop, served = threading.Event(), []

    def action(number: int) -> None:
        served.append(number)
        if number == 1:
            raise ValueError("one is bad")
        stop.wait(30)

    began = time.monotonic()
    with pytest.raises(ValueError, match="one is bad"):
        in_threads(action, range(50), n_threads=2, stop=stop)
    assert stop.is_set()
    assert time.monotonic() - began < 20
    assert len(served) < 5


class Dying(threading.Thread):
    """A thread that ends before its work begins, where `dies` says so: as when a tracer fails in it."""

    dies: list[bool]

    def run(self) -> None:
        if not self.dies.pop(0):
            super().run()


@pytest.fixture
def dying(monkeypatch):
    def set_up(dies: list[bool]) -> None:
        monkeypatch.setattr(Dying, "dies", dies, raising=False)
        monkeypatch.setattr("fsar.pipeline.share.threads.threading.Thread", Dying)

    return set_up


def test_a_thread_that_never_began_leaves_its_items_to_the_others(dying):
    dying([True, False, True])
    assert in_threads(str, range(7), n_threads=3) == list("0123456")


def test_no_thread_began(dying):
    dying([True, True])
    with pytest.raises(RuntimeError, match="ended before their work"):
        in_threads(str, range(7), n_threads=2)
