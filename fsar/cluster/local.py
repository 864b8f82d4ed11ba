"""Workers on this machine, as processes that outlive the one that started them."""

import os
import signal
import subprocess
from collections.abc import Sequence
from contextlib import suppress

from fsar.cluster.engine import State, Task
from fsar.pipeline.store.journal.owner import process_start

EXIT_TERMINATED = 143


class LocalEngine:
    """Starts processes here, in sessions of their own: Ctrl-C reaches only the one who watches."""

    def __init__(self) -> None:
        self._children: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, tasks: Sequence[Task]) -> list[str]:
        """Start the workers; a handle is a process id with the start of that process."""
        return [self._start(task) for task in tasks]

    def _start(self, task: Task) -> str:
        with open(task.log, "ab") as log:
            child = subprocess.Popen(
                task.argv(), cwd=task.cwd, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        handle = f"{child.pid}:{process_start(child.pid)}"
        self._children[handle] = child
        return handle

    def states(self, handles: Sequence[str]) -> list[State]:
        """Return where the workers stand; SIGTERM counts as cancelled."""
        return [self._state(handle) for handle in handles]

    def _state(self, handle: str) -> State:
        if handle in self._children:
            code = self._children[handle].poll()
            return State.RUNNING if code is None else State.CANCELLED if code == EXIT_TERMINATED else State.ENDED
        pid, _, started = handle.partition(":")
        return State.RUNNING if started and process_start(int(pid)) == started else State.ENDED

    def cancel(self, tasks: Sequence[Task], handles: Sequence[str]) -> None:
        """Send SIGTERM to those that still run."""
        for handle in handles:
            if self._state(handle) is State.RUNNING:
                with suppress(ProcessLookupError):
                    os.kill(int(handle.partition(":")[0]), signal.SIGTERM)

    def script(self, tasks: Sequence[Task]) -> str:
        """Return the command lines."""
        return "\n".join(task.shell_line() for task in tasks)

    def cancel_command(self, handles: Sequence[str]) -> str | None:
        """Return a `kill` of the processes."""
        return f"kill {' '.join(handle.partition(':')[0] for handle in handles)}"

    def close(self) -> None:
        """Nothing: no connection stays."""
