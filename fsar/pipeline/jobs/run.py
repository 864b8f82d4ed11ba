"""One function over many videos in several processes: what fails is listed, what dies is replaced, Ctrl-C is clean."""

import csv
import io
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Generic, TypeVar

from fsar.errors import InputError, unforeseen
from fsar.files import DISK_ERRNOS, remove_leftovers, write_atomic
from fsar.pipeline.jobs.pool import Lost, WorkerPool
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
    """Return one outcome per item, in the order of `items`; see `stream_jobs`.

    `label` is also that of the progress. `on_outcome` is called in this process as each item finishes, in any order.
    """
    outcomes: dict[int, Outcome[Value]] = {}
    how: dict[str, Any] = {"n_jobs": n_jobs, "key": key, "workspace": workspace, "timeout_seconds": timeout_seconds}
    with (
        progress(label, len(items), quiet=quiet) as advance,
        stream_jobs(label, items, function, **how) as results,
    ):
        for index, outcome in results:
            outcomes[index] = outcome
            if on_outcome is not None:
                on_outcome(outcome)
            advance()
    return [outcomes[index] for index in range(len(items))]


@contextmanager
def stream_jobs(
    label: str,
    items: Iterable[Item],
    function: Callable[[Item], Value],
    *,
    n_jobs: int,
    key: Callable[[Item], str],
    workspace: Path | None = None,
    timeout_seconds: float | None = None,
) -> Iterator[Iterator[tuple[int, Outcome[Value]]]]:
    """Yield an iterator over (number of the item, outcome), in any order; leaving the block stops the work.

    `function` and the items must be picklable; with `n_jobs` above 1 they run in worker processes. Items are asked for
    as processes need them, so that `items` may be a generator that claims work. Whatever an item raises becomes its
    failure, of stage `label`: `VideoError` with its reason, `InputError` as `input`, `OSError` as `os-error`, anything
    else as `error` with the line at which it happened. With workers, an item that kills its process twice has the
    reason `crashed`, and one that twice takes longer than `timeout_seconds` the reason `timeout`. A full disk ends the
    run. When work is stopped, unfinished files of the worker processes below `workspace` are removed.
    """
    guarded = _Guarded(label, function, key)
    if n_jobs <= 1:
        yield ((index, guarded(item)) for index, item in enumerate(items))
        return
    with closing(_in_processes(guarded, items, n_jobs, timeout_seconds, workspace)) as outcomes:
        yield outcomes


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

    def __init__(self, stage: str, function: Callable[[Item], Value], key: Callable[[Item], str]) -> None:
        self.stage, self.function, self.key = stage, function, key

    def __call__(self, item: Item) -> Outcome[Value]:
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


def _in_processes(
    guarded: _Guarded[Item, Value],
    items: Iterable[Item],
    n_jobs: int,
    timeout_seconds: float | None,
    workspace: Path | None,
) -> Generator[tuple[int, Outcome[Value]]]:
    """Yield outcomes as they come. One item more than there are processes is asked for, so that none waits."""
    numbered = enumerate(items)
    first = list(islice(numbered, n_jobs))
    if not first:
        return
    pool = WorkerPool[Item, Outcome[Value]](guarded, len(first), timeout_seconds=timeout_seconds)
    try:
        with pool:
            for index, item in first:
                pool.submit(index, item)
            while pool.n_outstanding:
                for index, item in islice(numbered, n_jobs + 1 - pool.n_outstanding):
                    pool.submit(index, item)
                index, result = pool.take_any()
                if isinstance(result, Lost):
                    result = guarded.failure(result.task, result.reason, result.message)
                yield index, result
    except BaseException:
        if workspace is not None:
            remove_leftovers(workspace, pool.mark)
        raise
