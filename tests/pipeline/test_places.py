import gc
import os
from collections import deque

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fsar.pipeline.encode.clip_task import ClipTask, decode_task
from fsar.pipeline.encode.workers import DecodePool
from fsar.pipeline.jobs import places as places_module
from fsar.pipeline.jobs.places import N_PLACES, PLACE_BYTES, Desk, Places
from fsar.pipeline.jobs.pool import WorkerPool
from fsar.pipeline.video.memory import empty_frames, frames_in, stack_frames
from tests.pipeline.encode_helpers import fake_decode, filled
from tests.videos import write_clip

LARGE_BYTES = filled(0).nbytes


@pytest.fixture
def both():
    """Places and the desk of the worker that fills them."""
    places = Places.create()
    if places is None:
        pytest.skip("no /dev/shm")
    desk = Desk(str(places.path), places.room_bytes)
    yield places, desk
    places.close()


def sent(both, value):
    """Return what arrives of frames of this value, or None where all places are taken or the place has no room."""
    places, desk = both
    place = places.lend()
    if place is None:
        return None
    desk.turn_to(place)
    with frames_in(desk.empty):
        frames = filled(value)
    parcel = desk.put({"name": "x", "frames": frames, "slots": np.arange(4)})
    if parcel is None:
        places.give_back(place)
        return None
    return places.take(parcel)


def part_of(arrived, kind):
    """Return frames, a tensor of some of them, or what came with them: each holds the place alone."""
    return {0: arrived["frames"], 1: torch.from_numpy(arrived["frames"])[1:, :, ::2], 2: arrived["slots"]}[kind]


def lies_in(places, array):
    return np.shares_memory(array, np.frombuffer(places._map, np.uint8))


def test_frames_are_read_where_they_were_made(both):
    arrived = sent(both, 7)
    assert (arrived["frames"] == 7).all()
    assert arrived["slots"].tolist() == [0, 1, 2, 3]
    assert arrived["frames"].flags.writeable  # torch takes no others
    assert lies_in(both[0], arrived["frames"])
    both[1]._memory[:LARGE_BYTES] = 8  # the worker's memory is ours
    assert (arrived["frames"] == 8).all()


@settings(max_examples=15, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 30)), max_size=50))
def test_a_place_is_written_again_only_when_nothing_holds_what_lies_there(steps):
    places = Places.create()
    if places is None:
        pytest.skip("no /dev/shm")
    both = places, Desk(str(places.path), places.room_bytes)
    held: deque = deque()
    for number, (kind, drop) in enumerate(steps):
        arrived = sent(both, number)
        assert (arrived is None) == (len(held) == N_PLACES)
        if arrived is not None:
            held.append((number if kind < 2 else None, part_of(arrived, kind)))
            del arrived
        for value, array in held:
            assert (array == value).all() if value is not None else array.tolist() == [0, 1, 2, 3]
        del array
        for _ in range(min(drop // 10, len(held))):
            held.popleft()
    held.clear()
    gc.collect()
    assert sorted(places._free) == list(range(N_PLACES))
    places.close()


def test_what_finds_no_room_goes_the_other_way(both, monkeypatch):
    places, desk = both
    with frames_in(desk.empty):
        assert not lies_in(places, np.frombuffer(empty_frames((1, 1, PLACE_BYTES + 1)), np.uint8))
    assert desk.put(np.zeros(PLACE_BYTES + 1, np.uint8)) is None
    small = Desk(str(places.path), LARGE_BYTES + 100)
    assert small.put(filled(1)) is not None
    small.turn_to(1)
    assert small.put(filled(1)) is None  # the other place has what there is

    def full(descriptor, start, n_bytes):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    assert Desk(str(places.path), 1 << 30).put(filled(1)) is None


def test_values_without_arrays_and_small_ones_keep_no_place(both):
    places, desk = both
    for value in (3, np.zeros(0), [np.arange(5), np.zeros((0, 3)), b"x"]):
        desk.turn_to(places.lend())
        arrived = places.take(desk.put(value))
        assert repr(arrived) == repr(value)
        assert len(places._free) == N_PLACES


def test_an_array_that_was_made_there_and_not_returned_is_not_written_over(both):
    places, desk = both
    desk.turn_to(places.lend())
    with frames_in(desk.empty):
        first, second = filled(1), filled(2)
    arrived = places.take(desk.put([np.arange(9), second, first[1:3], first]))
    assert arrived[0].tolist() == list(range(9))
    for array, value, length in zip(arrived[1:], (2, 1, 1), (4, 2, 4), strict=True):
        assert len(array) == length
        assert (array == value).all()


def test_a_pool_reads_results_where_they_lie_until_places_run_out():
    with WorkerPool(filled, 1) as pool:
        for key in range(2 * N_PLACES):
            pool.submit(key, key)
        kept = [pool.take(key) for key in range(2 * N_PLACES)]
        (worker,) = pool._workers
        if worker.places is None:
            pytest.skip("no /dev/shm")
        assert sum(lies_in(worker.places, array) for array in kept) == N_PLACES
        file = worker.places
        assert not file.path.exists()
    for key, array in enumerate(kept):  # also after the end
        assert (array == key).all()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(file._descriptor)


def test_a_pool_works_without_shared_memory(monkeypatch, tmp_path):
    monkeypatch.setattr(places_module.os, "access", lambda path, mode: False)
    pool = DecodePool(1, decode=fake_decode)
    try:
        pool.submit(0, ClipTask("a", str(tmp_path / "a"), "uniform-center", 4, 1, 0))
        assert pool.take(0).n_frames == 20
        assert pool.pool._workers[0].places is None
    finally:
        pool.close()


def test_decoded_videos_come_back_as_they_are_decoded_here(tmp_path):
    videos = [write_clip(tmp_path / f"{n}.mp4", n_frames=24 + n) for n in range(3)]
    tasks = [ClipTask(path.name, str(path), "uniform-random", 8, 2, 0) for path in videos]
    pool = DecodePool(2)
    try:
        for key, task in enumerate(tasks):
            pool.submit(key, task)
        for key, task in enumerate(tasks):
            arrived, expected = pool.take(key), decode_task(task)
            for name in ("frames", "slots", "frame_index", "frame_time"):
                assert np.array_equal(getattr(arrived, name), getattr(expected, name))
            shared = [worker.places for worker in pool.pool._workers if worker.places is not None]
            assert not shared or any(lies_in(places, arrived.frames) for places in shared)
    finally:
        pool.close()


def test_pictures_of_different_sizes_are_no_clip():
    with pytest.raises(ValueError, match="shape"):
        stack_frames([np.zeros((4, 4, 3), np.uint8), np.zeros((4, 5, 3), np.uint8)])
