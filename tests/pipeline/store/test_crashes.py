"""Whatever stops a writer, wherever it stops: the same command completes the store to the same bytes."""

import contextlib
import errno
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fsar.pipeline.store import TextTable, VideoRow, disk, extend_store, open_store, write_text
from fsar.pipeline.store.verify import verify
from tests.pipeline.store import samples
from tests.pipeline.store.samples import bytes_of, fill, write_sample

STEPS = ("os.replace", "os.fsync", "os.link", "fsar.pipeline.store.disk._write")
REMOVALS = ("os.unlink", "os.rmdir")


@pytest.fixture
def reference(tmp_path: Path, suffix: str) -> dict[str, bytes]:
    """The bytes of a store that nothing disturbed."""
    folder = tmp_path / "undisturbed"
    write_sample(folder / f"sample{suffix}", samples.videos(5))
    return bytes_of(folder)


def write(path: Path) -> None:
    with samples.open_sample(path, samples.videos(5)) as writer:
        fill(writer)
        writer.seal()


@contextlib.contextmanager
def at_step(number: int, action: Callable[..., Any], steps: tuple[str, ...] = STEPS) -> Iterator[list[str]]:
    """Do `action` instead of the disk operation of that number; yields the list of operations seen."""
    seen: list[str] = []
    originals = {name: _resolve(name) for name in steps}

    def wrap(name: str) -> Callable[..., Any]:
        def step(*arguments: Any, **options: Any) -> Any:
            seen.append(name)
            if len(seen) == number + 1:
                return action(originals[name], *arguments, **options)
            return originals[name](*arguments, **options)

        return step

    with pytest.MonkeyPatch.context() as patch:
        for name in steps:
            patch.setattr(name, wrap(name))
        patch.setattr(disk, "WRITERS", 1)  # a fixed order of steps
        yield seen


def _resolve(name: str) -> Any:
    if name.startswith("os."):
        return getattr(os, name[3:])
    return disk._write


def count_steps(path: Path, steps: tuple[str, ...] = STEPS) -> int:
    with at_step(-1, lambda original: None, steps) as seen:
        write(path)
    return len(seen)


def disk_full(original: Callable[..., Any], *arguments: Any, **options: Any) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def no_permission(original: Callable[..., Any], *arguments: Any, **options: Any) -> None:
    raise PermissionError(errno.EACCES, "Permission denied")


def torn_write(original: Callable[..., Any], *arguments: Any, **options: Any) -> None:
    """Leave half a file behind, as a disk that fills up in the middle does."""
    if original is disk_write:
        path, buffers = arguments
        first = memoryview(buffers[0]).cast("B")
        path.write_bytes(first[: first.nbytes // 2])
    raise OSError(errno.ENOSPC, "No space left on device")


disk_write = disk._write


def killed(original: Callable[..., Any], *arguments: Any, **options: Any) -> None:
    os._exit(9)


def killed_after(original: Callable[..., Any], *arguments: Any, **options: Any) -> None:
    original(*arguments, **options)
    os._exit(9)


def faults(n_steps: int, every: int, offset: int) -> range:
    return range(offset % every, n_steps, every)


def check_fault(path: Path, number: int, fault: Callable[..., Any], reference: dict[str, bytes]) -> None:
    with at_step(number, fault), contextlib.suppress(OSError):
        write(path)
    if path.exists():
        with contextlib.suppress(ValueError, OSError):  # whatever can be opened now must be right
            store = open_store(path, allow_unsealed=True)
            done = [row for row in range(5) if row not in store.missing_rows()]
            assert store.read("map", done).tobytes() == samples.expected("map", samples.videos(5))[done, 0].tobytes()
    write(path)
    assert bytes_of(path.parent) == reference, f"step {number}"


class TestFaults:
    @pytest.mark.parametrize("fault", [disk_full, no_permission, torn_write])
    def test_some_step_of_a_commit_fails(
        self, tmp_path: Path, suffix: str, reference: dict[str, bytes], fault: Callable[..., Any]
    ) -> None:
        n_steps = count_steps(tmp_path / "count" / f"sample{suffix}")
        assert n_steps > 30
        for number in faults(n_steps, 17, len(fault.__name__)):
            check_fault(tmp_path / str(number) / f"sample{suffix}", number, fault, reference)

    @pytest.mark.slow
    @pytest.mark.parametrize("fault", [disk_full, no_permission, torn_write])
    def test_every_step_of_a_commit_fails(
        self, tmp_path: Path, suffix: str, reference: dict[str, bytes], fault: Callable[..., Any]
    ) -> None:
        for number in range(count_steps(tmp_path / "count" / f"sample{suffix}")):
            check_fault(tmp_path / str(number) / f"sample{suffix}", number, fault, reference)

    def test_a_disk_that_stays_full_is_reported_and_harmless(
        self, path: Path, reference: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with samples.open_sample(path, samples.videos(5)) as writer:
            fill(writer, n_chunks=1)
            with pytest.MonkeyPatch.context() as patch:
                for name in STEPS:
                    patch.setattr(name, lambda *_, **__: disk_full(lambda: None))
                with pytest.raises(OSError, match=r"No space left.*; what was finished is kept") as caught:
                    fill(writer)
        assert str(caught.value.filename).startswith(str(path))
        assert open_store(path, allow_unsealed=True).missing_rows().tolist() == [3, 4]
        write(path)
        assert bytes_of(path.parent) == reference


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
class TestKillAtAStep:
    """The process ends, without any clean-up, exactly before or after one disk operation, removals among them."""

    @pytest.mark.parametrize("kill", [killed, killed_after])
    def test_some_step(
        self, tmp_path: Path, suffix: str, reference: dict[str, bytes], kill: Callable[..., Any]
    ) -> None:
        n_steps = count_steps(tmp_path / "count" / f"sample{suffix}", STEPS + REMOVALS)
        for number in faults(n_steps, 17, 5):
            self.check(tmp_path / str(number) / f"sample{suffix}", number, kill, reference)

    @pytest.mark.slow
    @pytest.mark.parametrize("kill", [killed, killed_after])
    def test_every_step(
        self, tmp_path: Path, suffix: str, reference: dict[str, bytes], kill: Callable[..., Any]
    ) -> None:
        for number in range(count_steps(tmp_path / "count" / f"sample{suffix}", STEPS + REMOVALS)):
            self.check(tmp_path / str(number) / f"sample{suffix}", number, kill, reference)

    def check(self, path: Path, number: int, kill: Callable[..., Any], reference: dict[str, bytes]) -> None:
        child = os.fork()
        if child == 0:
            with at_step(number, kill, STEPS + REMOVALS):
                write(path)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == 9
        if (path if path.suffix == ".zarr" else path.with_name(path.name + ".parts")).exists():
            with contextlib.suppress(FileNotFoundError):  # killed before there was a store
                found = verify(path)  # a manifest that is there before its announcement has gone is a change half made
                assert {problem.file for problem in found.problems} <= {"journal/metadata.intent"}
                assert not found.problems or found.sealed
        write(path)
        assert bytes_of(path.parent) == reference, f"step {number}"


WRITER = """
import os, sys, time
from pathlib import Path
os.fsync = lambda descriptor: None  # processes end here, not power
from tests.pipeline.store import samples
path, pause = Path(sys.argv[1]), float(sys.argv[2])
with samples.open_sample(path, samples.videos(40)) as writer:
    print("ready", flush=True)
    while (chunk := writer.claim()) is not None:
        time.sleep(pause)
        writer.commit(chunk, samples.chunk_data(chunk, writer.videos))
"""


def start_writer(path: Path, pause_seconds: float) -> "subprocess.Popen[str]":
    root = Path(__file__).resolve().parents[3]
    command = [sys.executable, "-c", WRITER, str(path), str(pause_seconds)]
    process = subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def fork_writer(path: Path, pause_seconds: float) -> int:
    """Start to write the store of forty videos in a process of its own; return its id."""
    child = os.fork()
    if child == 0:
        with contextlib.suppress(BaseException), samples.open_sample(path, samples.videos(40)) as writer:
            while (chunk := writer.claim()) is not None:
                time.sleep(pause_seconds)
                writer.commit(chunk, samples.chunk_data(chunk, writer.videos))
            os._exit(0)
        os._exit(1)
    return child


def kill_and_resume(tmp_path: Path, suffix: str, n_tries: int) -> None:
    write_40 = tmp_path / "undisturbed" / f"sample{suffix}"
    write_sample(write_40, samples.videos(40))
    reference, draw = bytes_of(write_40.parent), random.Random(suffix)
    n_interrupted = 0
    for attempt in range(n_tries):
        path = tmp_path / str(attempt) / f"sample{suffix}"
        path.parent.mkdir()
        child = fork_writer(path, 0.02)
        time.sleep(draw.uniform(0, 0.35))
        os.kill(child, signal.SIGKILL)
        n_interrupted += os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
        finished = {
            name: data
            for name, data in bytes_of(path.parent).items()
            if "journal/0" in name and name.endswith(".json") and "staging" not in name
        }
        write_sample(path, samples.videos(40))
        after = bytes_of(path.parent)
        assert all(after[name] == data for name, data in finished.items())
        assert after == reference
    assert n_interrupted > n_tries // 3, "the kills came too late to show anything"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
class TestKillAtRandom:
    def test_six_times(self, tmp_path: Path, suffix: str) -> None:
        kill_and_resume(tmp_path, suffix, 6)

    @pytest.mark.slow
    def test_fifty_times(self, tmp_path: Path, suffix: str) -> None:
        kill_and_resume(tmp_path, suffix, 50)

    def test_two_writers_at_once_one_of_them_killed(self, tmp_path: Path, suffix: str) -> None:
        path, other = (tmp_path / name / f"sample{suffix}" for name in ("together", "alone"))
        path.parent.mkdir()
        processes = [start_writer(path, 0.01) for _ in range(2)]
        processes[0].send_signal(signal.SIGKILL)
        for process in processes:
            process.communicate()
        assert processes[1].returncode == 0
        write_sample(path, samples.videos(40))
        write_sample(other, samples.videos(40))
        assert bytes_of(path.parent) == bytes_of(other.parent)


class TestGrowingIsInterrupted:
    """Adding videos replaces the files of a short last chunk; a crash there must not cost its old rows."""

    def grow(self, path: Path) -> None:
        with extend_store(path, samples.videos(7)) as writer:
            fill(writer)
            writer.seal()

    def check(self, tmp_path: Path, suffix: str, numbers: Callable[[int], range]) -> None:
        whole = write_sample(tmp_path / "whole" / f"sample{suffix}", self.rows(7))
        count = self.sealed(tmp_path / "count" / f"sample{suffix}")
        with at_step(-1, disk_full) as seen:
            self.grow(count)
        for number in numbers(len(seen)):
            path = self.sealed(tmp_path / str(number) / f"sample{suffix}")
            with at_step(number, disk_full), contextlib.suppress(OSError):
                self.grow(path)
            with contextlib.suppress(ValueError):
                store = open_store(path, allow_unsealed=True)
                old = store.read("map", range(5), views=None)
                assert old.tobytes() == samples.expected("map", samples.videos(5)).tobytes()
            self.grow(path)
            assert bytes_of(path.parent) == bytes_of(whole.parent), f"step {number}"

    def rows(self, n: int) -> list[VideoRow]:
        """The rows of a store of five videos that has grown to `n`."""
        return samples.videos(5) + samples.videos(7)[5:n]

    def sealed(self, path: Path) -> Path:
        return write_sample(path, samples.videos(5))

    def test_some_step_fails(self, tmp_path: Path, suffix: str) -> None:
        self.check(tmp_path, suffix, lambda n_steps: faults(n_steps, 13, 3))

    @pytest.mark.slow
    def test_every_step_fails(self, tmp_path: Path, suffix: str) -> None:
        self.check(tmp_path, suffix, range)


class TestTextIsInterrupted:
    def check(self, tmp_path: Path, suffix: str, numbers: Callable[[int], range]) -> None:
        table = TextTable("clip", np.ones((1, 2, 3), np.float32), ("a", "b"), ("{}",))
        whole = write_sample(tmp_path / "whole" / f"sample{suffix}", samples.videos(5))
        with at_step(-1, disk_full) as seen:
            write_text(whole, table)
        for number in numbers(len(seen)):
            path = write_sample(tmp_path / str(number) / f"sample{suffix}", samples.videos(5))
            with at_step(number, disk_full), contextlib.suppress(OSError):
                write_text(path, table)
            store = open_store(path)  # still open for everyone
            assert store.load("pooled").shape[0] == 5
            write_text(store.path, table)
            assert bytes_of(path.parent) == bytes_of(whole.parent), f"step {number}"

    def test_some_step_fails(self, tmp_path: Path, suffix: str) -> None:
        self.check(tmp_path, suffix, lambda n_steps: faults(n_steps, 7, 2))

    @pytest.mark.slow
    def test_every_step_fails(self, tmp_path: Path, suffix: str) -> None:
        self.check(tmp_path, suffix, range)

    def test_a_table_that_was_announced_is_not_lost_to_the_next_one(self, path: Path) -> None:
        write_sample(path, samples.videos(5))
        tables = [TextTable(name, np.ones((1, 2, 3), np.float32), ("a", "b"), ("{}",)) for name in ("one", "two")]
        with at_step(-1, disk_full) as seen:
            write_text(path, tables[0])
        announced = seen.index("os.link", seen.index("os.link") + 1)  # the first link is the claim, then the intent
        write_text(path, TextTable("one", np.zeros((1, 2, 3)), ("a", "b"), ("{}",)), overwrite=True)
        with at_step(announced + 3, disk_full), pytest.raises(OSError, match="No space"):
            write_text(path, tables[0], overwrite=True)
        write_text(path, tables[1])
        store = open_store(path)
        assert store.text_tables() == ["one", "two"]
        assert store.text("one").same_as(tables[0])
        assert verify(path).problems == []

    def test_two_processes_add_tables_at_once(self, path: Path) -> None:
        write_sample(path, samples.videos(5))
        names = [f"t{index}" for index in range(6)]
        with ThreadPoolExecutor(3) as pool:
            stores = [open_store(path) for _ in names]
            one = np.ones((1, 1, 2), np.float32)
            list(pool.map(lambda s, n: write_text(s.path, TextTable(n, one, ("a",), ("{}",))), stores, names))
        assert open_store(path).text_tables() == names
        assert verify(path).problems == []
