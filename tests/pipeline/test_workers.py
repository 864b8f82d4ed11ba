import os
import signal
from pathlib import Path

import numpy as np
import pytest

from fsar.pipeline.encode.clip_task import ClipTask, DecodeFailure, InlineDecoder, decode_task
from fsar.pipeline.encode.workers import DecodePool
from fsar.pipeline.jobs import pool as pool_module
from fsar.pipeline.jobs import worker_process
from fsar.pipeline.jobs.exchange import Exchange
from fsar.pipeline.video.source import source_sha256
from tests.pipeline.encode_helpers import fake_decode, pixels
from tests.videos import write_clip


def task(path, sampler="uniform-center", n_views=1):
    return ClipTask(Path(path).name, str(path), sampler, 4, n_views, 0)


def test_frames_come_back_whatever_the_order_they_are_asked_for(tmp_path):
    names = ["a", "big", "b", "c", "bad", "d"]
    pool = DecodePool(2, decode=fake_decode)
    try:
        for key, name in enumerate(names):
            pool.submit(key, task(tmp_path / name))
        results = {key: pool.take(key) for key in (1, 0, 2, 5, 4, 3)}
    finally:
        pool.close()
    for key, name in enumerate(names):
        if name == "bad":
            assert results[key].reason == "truncated"
            continue
        expected = fake_decode(task(tmp_path / name))
        assert np.array_equal(results[key].frames, expected.frames)
        assert np.array_equal(results[key].frame_index, expected.frame_index)
        assert results[key].n_frames == 20
    assert pool.n_outstanding == 0


def test_hanging_and_dying_decoders_fail_alone_and_a_second_try_can_mend(tmp_path):
    names = ["a", "hang", "crash", "once", "b", "c"]
    pool = DecodePool(1, decode=fake_decode, timeout_seconds=2.0)
    try:
        for key, name in enumerate(names):
            pool.submit(key, task(tmp_path / name))
        results = dict(zip(names, (pool.take(key) for key in range(len(names))), strict=True))
    finally:
        pool.close()
    assert results["hang"] == DecodeFailure("timeout", f"{tmp_path / 'hang'}: not finished within 2 s, 2 times")
    assert results["crash"].reason == "crashed"
    assert "died by SIGSEGV" in results["crash"].message
    for name in ("a", "once", "b", "c"):
        assert results[name].frames.shape[1:] == pixels(name, 1).shape[1:]


def test_what_nobody_foresaw_is_the_failure_of_its_video(tmp_path):
    pool = DecodePool(1, decode=fake_decode)
    try:
        pool.submit(0, task(tmp_path / "bug"))
        pool.submit(1, task(tmp_path / "a"))
        failure = pool.take(0)
        assert failure.reason == "error"
        assert "a bug of ours (encode_helpers.py, line" in failure.message
        assert pool.take(1).n_frames == 20
    finally:
        pool.close()


def test_processes_are_recycled_and_a_full_buffer_does_not_block(tmp_path, monkeypatch):
    monkeypatch.setattr(pool_module, "RECYCLE_AFTER", 2)
    monkeypatch.setattr(pool_module, "READY_BYTES", 1)
    pool = DecodePool(1, decode=fake_decode)
    try:
        for key in range(4):
            pool.submit(key, task(tmp_path / f"v{key}"))
        assert pool.take(0).n_frames == 20
        first = pool.pool._workers[0].process.pid
        assert all(pool.take(key).n_frames == 20 for key in range(1, 4))
        assert pool.pool._workers[0].process.pid != first
    finally:
        pool.close()


def test_closing_leaves_no_process_and_no_file_behind(tmp_path):
    pool = DecodePool(1, decode=fake_decode)
    pool.submit(0, task(tmp_path / "a"))
    pool.take(0)
    pool.submit(1, task(tmp_path / "hang"))
    (worker,) = pool.pool._workers
    pool.close()
    assert worker.process.exitcode == -signal.SIGKILL
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(worker.exchange.descriptor)


def test_a_kill_while_processes_start_leaves_no_file_behind(tmp_path, monkeypatch):
    monkeypatch.setattr("fsar.pipeline.jobs.exchange._memory_folder", lambda: str(tmp_path / "memory"))
    (tmp_path / "memory").mkdir()
    exchange = Exchange.create()
    pool = DecodePool(1, decode=fake_decode)
    try:
        assert not any((tmp_path / "memory").iterdir())
        pool.submit(0, task(tmp_path / "a"))
        assert pool.take(0).n_frames == 20
        assert not any((tmp_path / "memory").iterdir())
    finally:
        pool.close()
        exchange.close()


def test_real_videos_give_the_frames_the_sampler_chose(tmp_path):
    path = write_clip(tmp_path / "clip.mp4", n_frames=24)
    clip = decode_task(task(path))
    assert clip.frame_index.tolist() == [task(path).indices(24)[0].tolist()]
    assert clip.frames.shape == (4, 64, 96, 3)
    assert np.allclose(clip.frame_time, clip.frame_index / 12)
    assert clip.sha256.hex() == source_sha256(path)


def test_views_of_a_random_sampler_draw_their_own_frames_and_repeat():
    drawn = task("x", "uniform-random", n_views=3).indices(100)
    assert drawn.shape == (3, 4)
    assert len({tuple(view) for view in drawn.tolist()}) > 1
    assert np.array_equal(drawn, task("x", "uniform-random", n_views=3).indices(100))
    assert np.array_equal(drawn[0], task("x", "uniform-random", n_views=1).indices(100)[0])
    assert not np.array_equal(drawn, task("y", "uniform-random", n_views=3).indices(100))


def test_a_folder_of_frames_has_a_hash_of_names_and_bytes(tmp_path):
    (tmp_path / "1.jpg").write_bytes(b"a")
    first = source_sha256(tmp_path)
    (tmp_path / "1.jpg").rename(tmp_path / "2.jpg")
    assert source_sha256(tmp_path) != first
    assert len(first) == 64


def test_decoding_in_process_reports_what_is_the_videos_fault(tmp_path):
    decoder = InlineDecoder(fake_decode)
    decoder.submit(0, task(tmp_path / "bad"))
    decoder.submit(1, task(tmp_path / "a"))
    assert decoder.n_outstanding == 2
    assert decoder.take(0).reason == "truncated"
    assert decoder.take(1).n_frames == 20
    broken = InlineDecoder()
    broken.submit(0, task(tmp_path / "gone.mp4"))
    assert broken.take(0).reason == "missing"


@pytest.mark.parametrize("is_large", [True, False])
def test_a_clip_too_large_for_the_memory_fails_alone(tmp_path, monkeypatch, is_large):
    def full(descriptor, n_bytes):
        raise OSError(28, "No space left on device")

    clip = fake_decode(task("a"))
    n_bytes = sum(array.nbytes for array in (clip.frames, clip.slots, clip.frame_index, clip.frame_time))
    monkeypatch.setattr(worker_process, "LARGE_BYTES", n_bytes - is_large)
    monkeypatch.setattr("fsar.pipeline.jobs.exchange._reserve", full)
    exchange = Exchange.create()
    kind, content = worker_process._answer(fake_decode, task("a"), exchange)
    exchange.close()
    assert kind == ("too-large" if is_large else "failed")
    assert "no room" in str(content) or "find no room (No space left" in str(content)
    assert isinstance(content, str if is_large else OSError)


def test_any_value_travels_through_an_exchange_and_is_ours_to_change(tmp_path):
    exchange = Exchange.create()
    other = Exchange(os.dup(exchange.descriptor), exchange.folder)
    try:
        for value in (
            {"a": np.arange(5), "empty": np.zeros((0, 3)), "text": "x", "fortran": np.asfortranarray(np.eye(3))},
            [np.arange(100_000)[::2], None],
            "no array at all",
        ):
            back = exchange.take(other.put(value))
            np.testing.assert_equal(back, value)
        grown = exchange.take(other.put(np.arange(300_000)))
        other.put(np.zeros(300_000, int))
        assert grown[-1] == 299_999
        grown[0] = 7
    finally:
        exchange.close()
        other.close()
