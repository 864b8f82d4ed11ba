"""Claims: who works on what, and what happens to the work of the dead."""

import json
import os
import time
from pathlib import Path

import pytest

from fsar.pipeline.store import disk
from fsar.pipeline.store.journal import claims, owner
from fsar.pipeline.store.journal.claims import Claims, free_claims_of, is_stale, live_claims
from fsar.pipeline.store.journal.owner import WORKER_VARIABLE, host_id
from tests.pipeline.store import samples


def write_claim(folder: Path, index: int, **owner: object) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / f"{index:06d}"
    path.write_text(json.dumps({"host": host_id(), "pid": os.getpid(), "started": "1", "token": "x"} | owner))
    return path


def test_a_chunk_is_claimed_once(tmp_path: Path) -> None:
    first, second = Claims(tmp_path), Claims(tmp_path)
    assert first.take(0)
    assert not second.take(0)
    assert second.take(1)
    assert first.others() == [1]
    first.close()
    assert second.take(0)
    second.close()
    assert os.listdir(tmp_path) == []


def test_the_claim_of_a_dead_process_is_taken_over(tmp_path: Path) -> None:
    child = os.fork() if hasattr(os, "fork") else pytest.skip("needs fork")
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    write_claim(tmp_path, 0, pid=child)
    assert live_claims(tmp_path) == []
    ours = Claims(tmp_path)
    assert ours.take(0)
    ours.close()


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_a_process_that_nobody_has_asked_how_it_ended_is_gone(tmp_path: Path) -> None:
    child = os.fork()
    if child == 0:
        os._exit(0)
    started = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[19]
    path = write_claim(tmp_path, 0, pid=child, started=started)
    os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
    assert is_stale(path)
    os.waitpid(child, 0)


def test_a_process_id_that_came_back_is_not_the_claimer(tmp_path: Path) -> None:
    if not Path("/proc/self/stat").exists():
        pytest.skip("start times are read from /proc")
    assert is_stale(write_claim(tmp_path, 0, pid=os.getppid(), started="1"))


def test_a_writer_of_this_process_that_was_dropped_is_gone(tmp_path: Path) -> None:
    assert is_stale(write_claim(tmp_path, 0, token="never closed"))


def test_another_machine_is_trusted_while_its_heart_beats(tmp_path: Path) -> None:
    path = write_claim(tmp_path, 0, host="elsewhere")
    assert not is_stale(path)
    assert not Claims(tmp_path).take(0)
    long_ago = time.time() - 2 * owner.ANCIENT_SECONDS
    os.utime(path, (long_ago, long_ago))
    assert is_stale(path)
    assert Claims(tmp_path).take(0)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The clock of the one who looks at claims: a list with the time."""
    now = [1000.0]
    monkeypatch.setattr(owner.time, "monotonic", lambda: now[0])
    return now


@pytest.mark.parametrize("minutes_apart", [-8, 0, 8])
def test_a_heart_that_stopped_is_noticed_however_far_apart_clocks_are(
    tmp_path: Path, clock: list[float], minutes_apart: int
) -> None:
    """Some file systems stamp files with the time of the host that touches them."""
    path, ours = write_claim(tmp_path, 0, host="elsewhere"), Claims(tmp_path)
    for beat in range(10):  # five minutes of another host's heartbeat
        by_its_clock = time.time() + 60 * minutes_apart + 30 * beat
        os.utime(path, (by_its_clock, by_its_clock))
        assert not ours.take(0)
        clock[0] += 30
    clock[0] += owner.STALE_SECONDS - 31
    assert not ours.take(0)
    clock[0] += 2
    assert ours.take(0)
    ours.close()


def test_who_was_frozen_does_not_take_the_others_for_dead(tmp_path: Path, clock: list[float]) -> None:
    path, ours = write_claim(tmp_path, 0, host="elsewhere"), Claims(tmp_path)
    assert not ours.take(0)
    clock[0] += 10 * owner.STALE_SECONDS
    os.utime(path, (time.time() + 1, time.time() + 1))  # it has gone on meanwhile
    assert not ours.take(0)


def test_who_was_frozen_does_not_touch_the_claim_of_his_successor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a successor that dies would look alive for as long as the one before works."""
    monkeypatch.setattr(claims, "HEARTBEAT_SECONDS", 0.01)
    ours = Claims(tmp_path)
    assert ours.take(0)
    assert ours.take(1)
    os.utime(write_claim(tmp_path, 0, host="elsewhere"), (1, 1))
    os.utime(tmp_path / "000001", (1, 1))
    deadline = time.monotonic() + 10
    while (tmp_path / "000001").stat().st_mtime < 1000 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert (tmp_path / "000001").stat().st_mtime > 1000
    assert (tmp_path / "000000").stat().st_mtime == 1
    ours.close()


def test_the_next_life_of_a_worker_frees_what_the_one_before_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_claim(tmp_path, 0, host="elsewhere", worker="encode-3")
    assert not Claims(tmp_path).take(0)
    monkeypatch.setenv(WORKER_VARIABLE, "encode-3")
    assert Claims(tmp_path).take(0)


def test_who_knows_that_a_worker_has_ended_frees_its_claims(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_claim(tmp_path, 0, host="elsewhere", worker="encode-3")
    write_claim(tmp_path, 1, host="elsewhere", worker="encode-4")
    monkeypatch.setenv(WORKER_VARIABLE, "encode-3")
    alive = Claims(tmp_path)
    assert alive.take(2)
    assert free_claims_of(tmp_path, "encode-3") == 1  # its process on this machine lives, whatever was said
    assert live_claims(tmp_path) == [1, 2]
    alive.close()


def test_held_claims_are_touched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "HEARTBEAT_SECONDS", 0.01)
    ours = Claims(tmp_path)
    ours.take(3)
    os.utime(tmp_path / "000003", (1, 1))
    deadline = time.monotonic() + 10
    while (tmp_path / "000003").stat().st_mtime < 1000 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert (tmp_path / "000003").stat().st_mtime > 1000
    ours.close()


def test_releasing_does_not_remove_the_claim_of_a_successor(tmp_path: Path) -> None:
    ours = Claims(tmp_path)
    ours.take(0)
    write_claim(tmp_path, 0, host="elsewhere")
    ours.release(0)
    assert live_claims(tmp_path) == [0]


def test_a_torn_claim_is_nobodys(tmp_path: Path) -> None:
    path = tmp_path / "000000"
    path.write_text('{"host": "some')
    os.utime(path, (1, 1))
    assert Claims(tmp_path).take(0)


def test_a_folder_that_cannot_be_written_is_said_to_be_so(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(disk.errno.EACCES, "Permission denied")

    monkeypatch.setattr("pathlib.Path.mkdir", refuse)
    with pytest.raises(PermissionError, match=r"cannot be written \(Permission denied\)") as caught:
        samples.open_sample(path)
    assert str(caught.value.filename).startswith(str(path))


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a file system that takes no files")
def test_a_folder_that_cannot_be_made_is_not_called_busy(suffix: str) -> None:
    with pytest.raises(FileNotFoundError, match="cannot be written"):
        samples.open_sample(Path(f"/proc/sample{suffix}"))


def test_a_file_system_without_hard_links_serves_too(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(*_: object) -> None:
        raise PermissionError(disk.errno.EPERM, "Operation not permitted")

    monkeypatch.setattr("os.link", no_links)
    with samples.open_sample(path) as first, samples.open_sample(path) as second:
        chunk, other = first.claim(), second.claim()
        assert chunk is not None
        assert other is not None
        assert (chunk.index, other.index) == (0, 1)
        first.release(chunk)
        samples.fill(second)
        second.commit(other, samples.chunk_data(other, second.videos))
        second.seal()


def test_claim_hands_out_each_chunk_once_and_then_none(path: Path) -> None:
    with samples.open_sample(path) as first, samples.open_sample(path) as second:
        taken = [first.claim(), second.claim(), first.claim(), second.claim()]
        assert [chunk.index for chunk in taken if chunk] == [0, 1, 2, 3]
        assert first.claim() is None
        assert first.pending_chunks() == 4
        assert first.n_rows_done == 0
    with samples.open_sample(path) as third:
        chunk = third.claim()
        assert chunk is not None
        assert (chunk.index, chunk.rows) == (0, range(3))


def test_nothing_is_claimed_ahead_when_others_would_have_nothing(path: Path) -> None:
    with samples.open_sample(path) as first, samples.open_sample(path) as second:  # four chunks
        assert first.claim(ahead=True) is not None  # nobody else is here
        assert second.claim() is not None
        assert second.claim(ahead=True) is not None  # two are free, one is in other hands
        assert first.claim(ahead=True) is None
        assert first.claim() is not None


def test_many_writers_begin_at_places_of_their_own(tmp_path: Path) -> None:
    """And then each tries few chunks that others have: an attempt costs a round trip to the file server."""
    rows = samples.videos(300)
    writers = [samples.open_sample(tmp_path / "s.zarr", rows) for _ in range(12)]
    first = [chunk.index for writer in writers for chunk in [writer.claim()] if chunk]
    assert len(set(first)) == 12
    assert first[:8] == list(range(8))
    assert max(first) > 12
    for writer in writers:
        writer.close()
