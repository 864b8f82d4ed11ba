"""One function over many videos in several processes: what fails is listed, what dies is replaced, Ctrl-C is clean."""

import csv
import io
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from fsar.errors import InputError, unforeseen
from fsar.files import DISK_ERRNOS, remove_leftovers, write_atomic
from fsar.pipeline.video.clip import VideoError
from fsar.progress import progress

Item = TypeVar("Item")
Value = TypeVar("Value")

FAILURE_COLUMNS = ("video_id", "path", "stage", "reason", "message")
TIMEOUT_SECONDS = 600.0
"""Longest time for one video, unless the caller knows better."""


@dataclass(frozen=True)
class Failure:
    """One row of failures.csv."""

    video_id: str
    path: str
    stage: str
    reason: str
    message: str


@dataclass(frozen=True)
class Outcome(Generic[Value]):
    """What became of one item: `value` as the function returned it, or the failure."""

    key: str
    value: Value | None = None
    failure: Failure | None = None


def run_jobs(
    label: str,
    items: Sequence[Item],
    function: Callable[[Item], Value],
    *,
    n_jobs: int,
    key: Callable[[Item], str],
    quiet: bool = False,
    workspace: Path | None = None,
    timeout_seconds: float | None = None,
    on_outcome: Callable[[Outcome[Value]], None] | None = None,
) -> list[Outcome[Value]]:
    """Return one outcome per item, in the order of `items`.

    `function` and the items must be picklable; with `n_jobs` above 1 they run in worker processes (joblib's loky).
    Whatever an item raises becomes its failure: `VideoError` with its reason, `InputError` as `input`, `OSError` as
    `os-error`, anything else as `error` with the line at which it happened. With workers, an item that kills its own
    has the reason `crashed`, and one that takes longer than `timeout_seconds` the reason `timeout`. A full disk ends
    the run. `label` is the stage in failures and progress. On an interrupt the workers are stopped and unfinished files
    below `workspace` are removed before `KeyboardInterrupt` goes on. `on_outcome` is called in this process as each
    item finishes, in any order.
    """
    guarded = _Guarded(label, function, key, timeout_seconds if n_jobs > 1 else None)
    outcomes: dict[int, Outcome[Value]] = {}
    try:
        with progress(label, len(items), quiet=quiet) as advance:
            for index, outcome in _run_all(guarded, items, n_jobs):
                outcomes[index] = outcome
                if on_outcome is not None:
                    on_outcome(outcome)
                advance()
    except BaseException:
        _stop_workers(n_jobs)
        if workspace is not None:
            remove_leftovers(workspace)
        raise
    return [outcomes[index] for index in range(len(items))]


def write_failures(path: Path, failures: Sequence[Failure]) -> None:
    """Write failures.csv, whole or not at all; with no failures an older file is removed."""
    if not failures:
        path.unlink(missing_ok=True)
        return
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(FAILURE_COLUMNS)
    for failure in sorted(failures, key=lambda f: (f.video_id, f.path)):
        writer.writerow([getattr(failure, column) for column in FAILURE_COLUMNS])
    write_atomic(path, text.getvalue())


class _Guarded(Generic[Item, Value]):
    """The function with its expected errors turned into outcomes; runs in the worker."""

    def __init__(
        self, stage: str, function: Callable[[Item], Value], key: Callable[[Item], str], timeout_seconds: float | None
    ) -> None:
        self.stage, self.function, self.key, self.timeout_seconds = stage, function, key, timeout_seconds

    def __call__(self, item: Item) -> Outcome[Value]:
        with _deadline(self.timeout_seconds):
            return self.outcome(item)

    def outcome(self, item: Item) -> Outcome[Value]:
        try:
            return Outcome(self.key(item), value=self.function(item))
        except VideoError as error:
            return self.failure(item, error.reason, str(error))
        except InputError as error:
            return self.failure(item, "input", str(error))
        except OSError as error:
            if error.errno in DISK_ERRNOS:
                raise
            return self.failure(item, "os-error", str(error))
        except Exception as error:  # one strange file must not end the work on all the others
            return self.failure(item, "error", unforeseen(error))

    def failure(self, item: Item, reason: str, message: str) -> Outcome[Value]:
        path = str(getattr(item, "path", ""))
        key = self.key(item)
        return Outcome(key, failure=Failure(key, path, self.stage, reason, " ".join(message.split())))


def _run_all(
    guarded: _Guarded[Item, Value], items: Sequence[Item], n_jobs: int
) -> Iterator[tuple[int, Outcome[Value]]]:
    if n_jobs == 1:
        yield from ((index, guarded(item)) for index, item in enumerate(items))
        return
    from joblib.externals.loky.process_executor import BrokenProcessPool

    left = dict(enumerate(items))
    while left:
        try:
            for index, outcome in _run_parallel(guarded, left, n_jobs):
                del left[index]
                yield index, outcome
        except BrokenProcessPool:
            # Items start in order, so the one that killed its worker is among the first that are unfinished.
            for index in list(left)[: 2 * n_jobs]:
                yield index, _run_alone(guarded, left.pop(index))


def _run_parallel(
    guarded: _Guarded[Item, Value], left: dict[int, Item], n_jobs: int
) -> Iterator[tuple[int, Outcome[Value]]]:
    from joblib import Parallel, delayed

    parallel = Parallel(
        n_jobs=n_jobs,
        backend="loky",
        batch_size=1,
        return_as="generator_unordered",
        initializer=_leave_with,
        initargs=(os.getpid(),),
    )
    with _interrupts_held():
        outcomes = parallel(delayed(_numbered)(guarded, index, item) for index, item in list(left.items()))
    yield from outcomes


def _run_alone(guarded: _Guarded[Item, Value], item: Item) -> Outcome[Value]:
    """Run one suspect in a process of its own."""
    from joblib.externals.loky import ProcessPoolExecutor
    from joblib.externals.loky.process_executor import BrokenProcessPool

    limit_seconds = guarded.timeout_seconds
    with ProcessPoolExecutor(max_workers=1, initializer=_leave_with, initargs=(os.getpid(),)) as executor:
        start_seconds = time.monotonic()
        try:
            with _interrupts_held():
                future = executor.submit(guarded, item)
            outcome: Outcome[Value] = future.result()
        except BrokenProcessPool:
            if limit_seconds is not None and time.monotonic() - start_seconds >= limit_seconds:
                return guarded.failure(item, "timeout", f"not finished within {limit_seconds:g} s")
            return guarded.failure(item, "crashed", "the process that worked on this video died")
    return outcome


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Put off Ctrl-C while worker processes start: they inherit that, so that it reaches this process alone.

    Else each of them would answer with a traceback of its own.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _deadline(seconds: float | None) -> Iterator[None]:
    """End this worker process if the block takes longer, also when it hangs in foreign code that holds the GIL."""
    if seconds is None:
        yield
        return
    import faulthandler

    with open(os.devnull, "w") as nowhere:
        faulthandler.dump_traceback_later(seconds, exit=True, file=nowhere)
        try:
            yield
        finally:
            faulthandler.cancel_dump_traceback_later()


def _numbered(guarded: _Guarded[Item, Value], index: int, item: Item) -> tuple[int, Outcome[Value]]:
    return index, guarded(item)


def _leave_with(parent: int) -> None:
    """Make this worker end when the main process does, even by kill -9, so that none is left behind writing."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="fsar-parent-watch").start()


def _stop_workers(n_jobs: int) -> None:
    if n_jobs == 1:
        return
    from joblib.externals.loky import reusable_executor

    executor: Any = reusable_executor._executor
    if executor is not None:
        executor.shutdown(wait=True, kill_workers=True)
