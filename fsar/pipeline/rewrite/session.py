"""One pass over a list of videos by any number of processes, on any number of machines: who has which, and the results.

    SESSION/plan.json             which videos, in batches of how many; gone once the tables are written
    SESSION/workers/NNNNNN        a claim of each process that takes part, as long as it lives
    SESSION/claims/NNNNNN         a claim on each batch in hand
    SESSION/NNNNNN-TOKEN.jsonl    the outputs that one holder of a batch has finished so far
    SESSION/NNNNNN.json           the results of a whole batch; the first of two writers wins

Claims are those of feature stores: a killed process's become free once it is known to be gone, and who takes a batch
over keeps its outputs. A process that was taken for dead and wakes up may make an output again, which has the same
bytes, and then finds its batch finished or its session over.
"""

import hashlib
import json
import os
import re
import secrets
import shutil
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from fsar.files import write_atomic
from fsar.pipeline.catalog.catalog import CatalogRow
from fsar.pipeline.jobs.run import Failure, Outcome
from fsar.pipeline.rewrite.record import Record, read_records
from fsar.pipeline.store.disk import create_exclusive, list_names
from fsar.pipeline.store.journal import owner as owners
from fsar.pipeline.store.journal.claims import Claims, claim_names, claimed_chunks, free_claims_of, live_claims
from fsar.pipeline.store.journal.owner import is_gone, read_owner

PLAN_FILE, CLAIMS, WORKERS = "plan.json", "claims", "workers"
MAX_BATCH_ROWS = 64
MIN_BATCHES = 256
"""Small catalogs have smaller batches, so that many processes find work to the end."""
MAX_WORKERS = 10**6
_RESULTS = re.compile(r"[0-9]{6,}\.json")


def make_plan(rows: Sequence[CatalogRow]) -> dict[str, Any]:
    """Return what all processes of a session agree on."""
    listed = json.dumps([[row.video_id, row.class_name, row.part] for row in rows])
    batch_rows = max(1, min(MAX_BATCH_ROWS, len(rows) // MIN_BATCHES))
    return {"n_rows": len(rows), "batch_rows": batch_rows, "rows_sha256": hashlib.sha256(listed.encode()).hexdigest()}


@dataclass
class Batch:
    """Videos that this process has claimed."""

    index: int
    rows: Sequence[CatalogRow]
    records: dict[str, Record]
    """Finished outputs, also those of a process that had the batch before."""
    failures: list[Failure] = field(default_factory=list)
    token: str = field(default_factory=lambda: secrets.token_hex(4))
    """Of the journal that this process writes for it."""

    @property
    def is_finished(self) -> bool:
        """Whether every video has its output or failed."""
        return len(self.records) + len(self.failures) == len(self.rows)


class Session:
    """A session as one process takes part in it. Leaving the block gives everything in hand back."""

    def __init__(self, folder: Path, rows: Sequence[CatalogRow]) -> None:
        self.folder, self.rows = folder, rows
        self._batch_rows = make_plan(rows)["batch_rows"]
        self._claims, self._workers = Claims(folder / CLAIMS), Claims(folder / WORKERS)
        self._queue: deque[int] = deque()
        self._in_hand: dict[str, Batch] = {}
        self._counted: set[int] = set()

    def begin(self) -> None:
        """Write the plan of a new session."""
        self.folder.mkdir(parents=True)
        write_atomic(self.folder / PLAN_FILE, json.dumps(make_plan(self.rows)))

    def enter(self) -> None:
        """Count this process among those that take part."""
        while not self._workers.take(secrets.randbelow(MAX_WORKERS)):
            pass

    def is_over(self) -> bool:
        """Tell whether the tables are written, or all were taken for dead and a new session has begun."""
        return not (self.folder / PLAN_FILE).is_file()

    def pending(self) -> list[int]:
        """Return the batches that nobody has finished, in hand or not; none when the session is over."""
        if self.is_over():
            return []
        n_batches = -(-len(self.rows) // self._batch_rows)
        return sorted(set(range(n_batches)) - self._finished())

    def done_elsewhere(self) -> list[CatalogRow]:
        """Return the videos that others have done since this was last asked."""
        new = self._finished() - self._counted
        self._counted |= new
        return [row for index in sorted(new) for row in self._batch(index)]

    def claim(self) -> Batch | None:
        """Return a batch to work on, None when all others are finished or in living hands."""
        return self._claim_from_queue() or self._claim_from_queue(refill=True)

    def keep(self, outcome: Outcome[Record]) -> None:
        """Note what became of one video of a batch in hand; with its last one the batch is finished."""
        batch = self._in_hand[outcome.key]
        if outcome.failure is not None:
            batch.failures.append(outcome.failure)
        if outcome.value is not None:
            batch.records[outcome.key] = outcome.value
            self._write_down(batch, outcome.value)
        self.finish(batch)

    def finish(self, batch: Batch) -> None:
        """Write the results of a batch and give its claim back, if all its videos are done."""
        if not batch.is_finished:
            return
        results = {
            "records": [asdict(record) for record in batch.records.values()],
            "failures": [asdict(failure) for failure in batch.failures],
        }
        with suppress(FileNotFoundError):  # the session is over: these outputs have been made by others
            path = self._path(batch.index)
            create_exclusive(path, json.dumps(results).encode(), self.folder / f".{path.stem}-{secrets.token_hex(4)}")
        self._drop(batch)

    def results(self) -> tuple[list[Record], list[Failure]]:
        """Return what the finished batches hold."""
        return read_results(self.folder)

    def end(self) -> None:
        """Remove the session, first what marks it as going on."""
        (self.folder / PLAN_FILE).unlink()
        shutil.rmtree(self.folder, ignore_errors=True)

    def somebody_died(self) -> bool:
        """Tell whether a process of this session was killed, or may have been: it has been silent for long."""
        folder, own = self.folder / WORKERS, self._workers.held
        touched = {index: _touched(folder / f"{index:06d}") for index in claimed_chunks(folder)}
        now = max(touched.values(), default=0.0)
        silent = any(now - touched[index] > owners.STALE_SECONDS / 2 for index in touched.keys() - own)
        return silent or len(touched) > len(live_claims(folder))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for batch in {id(batch): batch for batch in self._in_hand.values()}.values():
            self._drop(batch)
        self._claims.close()
        self._workers.close()
        if self.is_over():  # a claim may have made its folder again
            shutil.rmtree(self.folder, ignore_errors=True)
            with suppress(OSError):
                self.folder.parent.rmdir()

    def _batch(self, index: int) -> Sequence[CatalogRow]:
        return self.rows[index * self._batch_rows : (index + 1) * self._batch_rows]

    def _finished(self) -> set[int]:
        return {int(name[:-5]) for name in result_names(self.folder)}

    def _claim_from_queue(self, *, refill: bool = False) -> Batch | None:
        if refill:
            self._queue.extend(self.pending())
        while self._queue:
            index = self._queue.popleft()
            if self._path(index).exists() or self.is_over() or not self._claims.take(index):
                continue
            if self._path(index).exists() or self.is_over():
                self._claims.release(index)
                continue
            return self._begin_batch(index)
        return None

    def _begin_batch(self, index: int) -> Batch:
        rows = self._batch(index)
        self._counted.add(index)
        records: dict[str, Record] = {}
        for path in sorted(self.folder.glob(f"{index:06d}-*.jsonl")):
            records |= read_records(path)
        batch = Batch(index, rows, records)
        self._in_hand |= {row.video_id: batch for row in rows}
        return batch

    def _write_down(self, batch: Batch, record: Record) -> None:
        path = self.folder / f"{batch.index:06d}-{batch.token}.jsonl"
        with suppress(FileNotFoundError), open(path, "a", encoding="utf-8") as file:  # not there: the session is over
            file.write(record.to_line())

    def _drop(self, batch: Batch) -> None:
        for row in batch.rows:
            self._in_hand.pop(row.video_id, None)
        self._claims.release(batch.index)

    def _path(self, index: int) -> Path:
        return self.folder / f"{index:06d}.json"


def is_alive(session: Path) -> bool:
    """Tell whether a process takes part in a session, as far as one look can tell."""
    return bool(live_claims(session / WORKERS))


def free_worker(session: Path, worker: str) -> None:
    """Free the batches of a worker that has ended, and leave a sign that it did not end by itself."""
    free_claims_of(session / CLAIMS, worker)
    for name in claim_names(session / WORKERS):
        path = session / WORKERS / name
        owner = read_owner(path)
        if owner is not None and owner.worker == worker and not is_gone(owner):
            with suppress(FileNotFoundError):
                os.utime(path, (0, 0))  # ancient: whoever looks takes it for dead


def sessions(work: Path) -> list[Path]:
    """Return the folders of the sessions below `work`: one, or several where a process was taken for dead."""
    return [work / name for name in list_names(work) if (work / name).is_dir() and name != "lock"]


def read_plan(session: Path) -> dict[str, Any] | None:
    """Return the plan of a session, None if it is over."""
    try:
        return dict(json.loads((session / PLAN_FILE).read_text()))
    except (FileNotFoundError, ValueError):
        return None


def result_names(session: Path) -> list[str]:
    """Return the names of the results of finished batches."""
    return [name for name in list_names(session) if _RESULTS.fullmatch(name)]


def read_results(session: Path, names: Sequence[str] | None = None) -> tuple[list[Record], list[Failure]]:
    """Return the results of finished batches, all or those named."""
    records, failures = [], []
    for name in result_names(session) if names is None else names:
        with suppress(FileNotFoundError, ValueError):
            results = json.loads((session / name).read_bytes())
            records += [Record.from_dict(record) for record in results["records"]]
            failures += [Failure(**failure) for failure in results["failures"]]
    return records, failures


def finished_outputs(work: Path) -> list[Record]:
    """Return the outputs of all sessions below `work`, also those of batches that were not finished."""
    records: list[Record] = []
    for session in sessions(work):
        for path in sorted(session.glob("*.jsonl")):
            records += read_records(path).values()
        records += read_results(session)[0]
    return records


def _touched(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0
