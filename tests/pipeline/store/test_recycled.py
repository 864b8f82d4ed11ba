"""Recycled memory: never shared by two results that somebody holds, and bounded."""

import gc
import threading

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fsar.pipeline.store.recycled import SMALLEST_BYTES, RecycledMemory

BYTES = np.dtype(np.uint8)


def address(array: np.ndarray) -> int:
    return int(array.__array_interface__["data"][0])


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 4), st.booleans()), min_size=1, max_size=30))
def test_what_is_held_never_changes(steps: list[tuple[int, bool]]) -> None:
    memory, held = RecycledMemory(kept_bytes=6 * SMALLEST_BYTES), []
    for number, (size, keep) in enumerate(steps):
        array = memory.empty((size, SMALLEST_BYTES), BYTES)
        array[:] = number
        if keep:
            held.append((number, array[-1, ::2][3:]))  # a view of a view keeps the whole
        elif held:
            held.pop(0)
        del array
        assert memory.kept_bytes() <= 6 * SMALLEST_BYTES
        assert all((view == number).all() for number, view in held)


def test_the_place_of_a_dropped_result_is_used_again() -> None:
    memory = RecycledMemory()
    first = memory.empty((3, SMALLEST_BYTES), BYTES)
    place = address(first)
    del first
    assert memory.kept_bytes() == 3 * SMALLEST_BYTES
    assert address(memory.empty((SMALLEST_BYTES, 2), BYTES)) == place


@pytest.mark.parametrize("hold", [lambda a: a[1:], lambda a: a.view(np.float16).T, torch.from_numpy, memoryview])
def test_any_view_holds_its_memory(hold) -> None:  # type: ignore[no-untyped-def]
    memory = RecycledMemory()
    view = hold(memory.empty((2, SMALLEST_BYTES), BYTES))
    gc.collect()
    assert memory.kept_bytes() == 0
    del view
    assert memory.kept_bytes() == 2 * SMALLEST_BYTES


def test_a_much_larger_place_is_not_used_for_a_small_result() -> None:
    memory = RecycledMemory()
    memory.empty((8, SMALLEST_BYTES), BYTES)
    memory.empty((1, SMALLEST_BYTES), BYTES)
    assert memory.kept_bytes() == 9 * SMALLEST_BYTES


def test_small_results_are_the_allocators() -> None:
    memory = RecycledMemory()
    memory.empty((SMALLEST_BYTES - 1,), BYTES)
    assert memory.kept_bytes() == 0


def test_threads_never_share_memory() -> None:
    memory, wrong = RecycledMemory(), []

    def work(mark: int) -> None:
        for _ in range(50):
            array = memory.empty((SMALLEST_BYTES,), BYTES)
            array[:] = mark
            if not (array == mark).all():
                wrong.append(mark)

    threads = [threading.Thread(target=work, args=(mark,)) for mark in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
