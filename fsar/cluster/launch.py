"""Start workers, see how they fare, start those again that failed; nothing here knows what they compute."""

import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from fsar.cluster.engine import Engine, EngineSilentError, State, Task
from fsar.cluster.record import Record
from fsar.errors import InputError, count_of, one_line, printable
from fsar.progress import say

MAX_LIVES = 4
"""The first one, and three more."""
POLL_SECONDS = 3.0
LAST_LINES = 5


class Work(Protocol):
    """What the workers are started for."""

    n_items: int

    def n_left(self) -> int:
        """Return how many items are not done."""
        ...

    def n_done(self) -> int:
        """Return how many items are done."""
        ...

    def is_left(self, task: Task) -> bool:
        """Return whether there is something for this worker to do."""
        ...

    def ended(self, task: Task) -> None:
        """Take note that a worker has ended: what it held is free."""
        ...


@dataclass
class Worker:
    """One worker and how it fares."""

    task: Task
    handle: str
    n_lives: int = 1
    state: State = State.WAITING
    gave_up: bool = False
    """It failed again and again, or was cancelled, with work left."""

    def to_text(self) -> str:
        """Return one line: name, how it ended, its log."""
        how = self.state.value
        code = self.task.exit_code()
        if self.state is State.ENDED:
            how = "killed" if code is None else f"exit code {code}" if self.gave_up else "done"
        lives = f", started {self.n_lives} times" if self.n_lives > 1 else ""
        return f"worker {self.task.index}: {how}{lives}; {self.task.log}"


@dataclass
class Launch:
    """Workers of one command."""

    engine: Engine
    cluster: str
    """As the user names the engine."""
    tasks: list[Task]
    work: Work
    workers: list[Worker] = field(default_factory=list)

    @property
    def folder(self) -> Path:
        """Of logs and of the record."""
        return self.tasks[0].folder

    def begin(self) -> bool:
        """Start the workers, or find those of an earlier launch that still live; return whether they were found."""
        found = self.find()
        if not found:
            self.folder.mkdir(parents=True, exist_ok=True)
            for task in self.tasks:
                task.stop_file.unlink(missing_ok=True)
                task.exit_file.unlink(missing_ok=True)
            handles = self.engine.start(self.tasks)
            self.workers = [Worker(task, handle) for task, handle in zip(self.tasks, handles, strict=True)]
            self._write()
        return found

    def find(self) -> bool:
        """Take over the workers of an earlier launch; return whether there are any that live.

        Raises:
            InputError: they were started otherwise, so that another engine would have to be asked.
        """
        record = Record.read(self.folder)
        if record is None:
            return False
        if record.cluster != self.cluster:
            engine = record.cluster
            raise InputError(
                f"{self.folder} is of a launch with --cluster {engine}: give that to attach, or remove the folder "
                "when none of its workers runs any more"
            )
        states = self._states(record.handles)
        if not any(state.alive for state in states):
            return False
        # A worker more or less than before changes nothing: those that live are the ones to watch.
        numbered = range(len(record.handles))
        tasks = [replace(self.tasks[min(i, len(self.tasks) - 1)], index=i, launch=record.launch) for i in numbered]
        self.tasks = tasks
        self.workers = [Worker(*each) for each in zip(tasks, record.handles, record.lives, states, strict=True)]
        return True

    def watch(self, advance: Callable[[int], None] = lambda n_items: None) -> bool:
        """See the workers through to the end of the work; return whether nothing is left."""
        n_done = self.work.n_done()
        while True:
            self._look()
            n_now = self.work.n_done()
            advance(n_now - n_done)
            n_done = n_now
            left = any(self.work.is_left(worker.task) for worker in self.workers)
            if not left:
                self._send_home()
            if not any(worker.state.alive for worker in self.workers):
                return not left
            time.sleep(POLL_SECONDS)

    @contextmanager
    def left_at_work(self) -> Iterator[None]:
        """Have an interruption of the block say that the workers go on, and how they are ended."""
        try:
            yield
        except KeyboardInterrupt as interrupt:
            raise type(interrupt)(self._farewell()) from interrupt

    def cancel(self) -> int:
        """Ask all living workers to end; return how many those were."""
        alive = [worker for worker in self.workers if worker.state.alive]
        if alive:
            self.engine.cancel([worker.task for worker in alive], [worker.handle for worker in alive])
        return len(alive)

    def wait(self) -> None:
        """Wait until no worker lives."""
        while any(state.alive for state in self._states([worker.handle for worker in self.workers])):
            time.sleep(POLL_SECONDS / 6)

    def _look(self) -> None:
        alive = [worker for worker in self.workers if worker.state.alive]
        try:
            states = self.engine.states([worker.handle for worker in alive])
        except EngineSilentError as error:
            say(f"note: {self.cluster} does not answer ({error}); asking again")
            return
        for worker, state in zip(alive, states, strict=True):
            worker.state = state
            if not state.alive:
                self._bury(worker)

    def _bury(self, worker: Worker) -> None:
        """Free what a worker held that has ended; start it again if it was too early."""
        self.work.ended(worker.task)
        if not self.work.is_left(worker.task):
            return
        if worker.state is State.CANCELLED or worker.n_lives >= MAX_LIVES:
            worker.gave_up = True
            say(f"{worker.to_text()}{_last_words(worker.task)}")
            return
        say(f"{worker.to_text()}; starting it again{_last_words(worker.task)}")
        worker.task.exit_file.unlink(missing_ok=True)
        [worker.handle] = self.engine.start([worker.task])
        worker.n_lives, worker.state = worker.n_lives + 1, State.WAITING
        self._write()

    def _send_home(self) -> None:
        """Cancel the workers that still wait for their turn, now that nothing is left to do."""
        idle = [worker for worker in self.workers if worker.state is State.WAITING]
        if idle:
            self.engine.cancel([worker.task for worker in idle], [worker.handle for worker in idle])
            for worker in idle:
                worker.state = State.CANCELLED

    def _states(self, handles: Sequence[str]) -> list[State]:
        try:
            return self.engine.states(handles)
        except EngineSilentError as error:
            raise InputError(f"{self.cluster} does not answer: {error}; try again later") from error

    def _write(self) -> None:
        first = self.tasks[0]
        Record(
            first.launch,
            self.cluster,
            [first.program[0], *first.arguments],
            [worker.handle for worker in self.workers],
            [worker.n_lives for worker in self.workers],
        ).write(self.folder)

    def _farewell(self) -> str:
        alive = [worker.handle for worker in self.workers if worker.state.alive]
        typed = self.engine.cancel_command(alive) if alive else None
        ways = f"the same command with --cancel{f' or `{typed}`' if typed else ''}"
        return f"{count_of(len(alive), 'worker')} of {self.cluster} work on, logs in {self.folder}; {ways} ends them"


def new_name() -> str:
    """Return a name for a launch that no other has: workers of two launches must not free each other's claims."""
    return secrets.token_hex(4)


def _last_words(task: Task) -> str:
    """Return the end of a worker's log, as lines below its own."""
    try:
        with open(task.log, "rb") as file:
            file.seek(max(file.seek(0, 2) - 4000, 0))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return ""
    return "".join(f"\n    | {printable(one_line(line))}" for line in lines[-LAST_LINES:] if line.strip())
