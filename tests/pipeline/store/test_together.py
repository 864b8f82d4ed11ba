"""Several writers create, fill, extend and seal one store at the same moment: it comes out as from one alone."""

import os
import random
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fsar.errors import InputError
from fsar.pipeline.store import StoreWriter, VideoRow, disk, extend_store, open_store, open_writer
from fsar.pipeline.store.verify import verify
from tests.pipeline.store import samples
from tests.pipeline.store.samples import bytes_of, fill, write_sample

N_WRITERS = 3
STEPS = ((os, "replace"), (os, "link"), (os, "listdir"), (os, "rmdir"), (disk, "_write"))


@pytest.fixture
def lingering(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let disk operations take their time at random, so that the writers meet in all sorts of places."""

    def slowed(step: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any, **options: Any) -> Any:
            if random.random() < 0.2:
                time.sleep(random.random() * 0.01)
            return step(*arguments, **options)

        return run

    for module, name in STEPS:
        monkeypatch.setattr(module, name, slowed(getattr(module, name)))


def finish(writer: StoreWriter) -> None:
    """Do what an encoder does: work until nobody has work left, record the run, seal."""
    with writer:
        while writer.pending_chunks():
            fill(writer)
            time.sleep(0.001)
        writer.record_run({"device": "cpu"})
        writer.seal()


def in_threads(work: Callable[[], None]) -> list[str]:
    """Run `work` in threads that start together; return what went wrong."""
    barrier, errors = threading.Barrier(N_WRITERS), []

    def run() -> None:
        barrier.wait()
        try:
            work()
        except BaseException:
            errors.append(traceback.format_exc())

    threads = [threading.Thread(target=run) for _ in range(N_WRITERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return errors


def in_processes(work: Callable[[], None]) -> list[str]:
    """Run `work` in forked processes that start together; return what went wrong."""
    start = time.monotonic() + 0.05
    children = [_forked(work, start) for _ in range(N_WRITERS)]
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    return [f"exit code {code}" for code in codes if code]


def _forked(work: Callable[[], None], start: float) -> int:
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        random.seed(os.getpid())
        time.sleep(max(start - time.monotonic(), 0))
        work()
        code = 0
    except BaseException:
        traceback.print_exc()
    os._exit(code)


@pytest.fixture(
    params=[in_threads, pytest.param(in_processes, marks=pytest.mark.skipif(os.name == "nt", reason="fork"))]
)
def together(request: pytest.FixtureRequest) -> Callable[[Callable[[], None]], list[str]]:
    return request.param  # type: ignore[no-any-return]


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
@pytest.mark.usefixtures("lingering")
class TestTogether:
    def reference(self, path: Path, rows: list[VideoRow]) -> dict[str, bytes]:
        with samples.open_sample(path, rows) as writer:
            finish(writer)
        return bytes_of(path.parent)

    def check(self, tmp_path: Path, suffix: str, together: Callable[..., list[str]], n_tries: int) -> None:
        rows = samples.videos(8)
        reference = self.reference(tmp_path / "alone" / f"sample{suffix}", rows)
        for attempt in range(n_tries):
            path = tmp_path / str(attempt) / f"sample{suffix}"
            assert together(lambda path=path: finish(samples.open_sample(path, rows))) == []
            assert bytes_of(path.parent) == reference

    def test_create_fill_and_seal(self, tmp_path: Path, suffix: str, together: Callable[..., list[str]]) -> None:
        self.check(tmp_path, suffix, together, 3)

    @pytest.mark.slow
    def test_create_fill_and_seal_often(self, tmp_path: Path, suffix: str, together: Callable[..., list[str]]) -> None:
        self.check(tmp_path, suffix, together, 60)

    def test_extend(self, tmp_path: Path, suffix: str, together: Callable[..., list[str]]) -> None:
        rows = samples.videos(5) + samples.videos(8)[5:]
        reference = self.reference(tmp_path / "alone" / f"sample{suffix}", rows)
        path = tmp_path / "grown" / f"sample{suffix}"
        self.reference(path, rows[:5])

        def extend() -> None:
            while True:
                try:
                    finish(extend_store(path, rows))
                    return
                except InputError as error:
                    if "being written" not in str(error):  # another one was first and fills what it added
                        raise

        assert together(extend) == []
        assert bytes_of(path.parent) == reference


def test_a_writer_of_the_old_rows_does_not_seal_a_store_that_has_grown(sealed: Path) -> None:
    old = open_writer(sealed)
    extend_store(sealed, samples.videos(2, prefix="w")).close()
    with old, pytest.raises(InputError, match=r"cannot be sealed: 2 of 12 videos are missing"):
        old.seal()
    with pytest.raises(InputError, match="not sealed"):
        open_store(sealed)


def test_a_commit_after_the_store_was_sealed_by_another_changes_nothing(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A writer that everybody took for dead comes back in the middle of its commit."""
    with samples.open_sample(path) as slow:
        chunk = slow.claim()
        assert chunk is not None
        original, done = disk.write_new, []

        def others_finish(*arguments: Any) -> Any:
            if not done:
                done.append(True)
                (slow.files.home / "claims" / "000000").unlink()
                write_sample(path)
                done.append(bytes_of(path.parent))
            return original(*arguments)

        monkeypatch.setattr(disk, "write_new", others_finish)
        slow.commit(chunk, samples.chunk_data(chunk, slow.videos))
    assert bytes_of(path.parent) == done[1]
    assert verify(path).problems == []


def test_a_folder_is_made_while_another_process_removes_its_empty_parent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, make, seen = tmp_path / "staging" / "token", os.mkdir, []

    def interfere(path: Any, *arguments: Any) -> None:
        seen.append(path)
        if len(seen) == 3:
            folder.parent.rmdir()
        make(path, *arguments)

    monkeypatch.setattr(os, "mkdir", interfere)
    disk.make_folder(folder)
    assert folder.is_dir()


class TestReadingWhileItGrows:
    """The two tables of rows are replaced one after the other; who opens the store in between waits a moment."""

    def replaced_half(self, sealed: Path, monkeypatch: pytest.MonkeyPatch, until: threading.Event) -> threading.Thread:
        """Start to extend the store in a thread that stands still between the two tables until it may go on."""
        replace, half_way = os.replace, threading.Event()

        def replacing(source: Any, target: Any) -> None:
            if threading.current_thread() is thread and half_way.is_set():
                until.wait(10)
            replace(source, target)
            if Path(target).name in ("store.json", "videos.csv"):
                half_way.set()

        rows = samples.videos() + samples.videos(2, prefix="w")
        thread = threading.Thread(target=lambda: extend_store(sealed, rows).close())
        monkeypatch.setattr(os, "replace", replacing)
        thread.start()
        assert half_way.wait(10)
        return thread

    def test_a_reader_waits_for_it(self, sealed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        until = threading.Event()
        thread = self.replaced_half(sealed, monkeypatch, until)
        threading.Timer(0.2, until.set).start()
        assert len(open_store(sealed, allow_unsealed=True).videos) == 12
        thread.join()

    def test_it_is_said_when_it_never_ends(self, sealed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        until = threading.Event()
        thread = self.replaced_half(sealed, monkeypatch, until)
        monkeypatch.setattr("fsar.pipeline.store.format.files.CHANGE_SECONDS", 0.1)
        with pytest.raises(InputError, match="is just being extended, or that was interrupted"):
            open_store(sealed, allow_unsealed=True)
        until.set()
        thread.join()
