"""Workers inside a process of an engine's own, as Dask and Ray have them: tied to it, ended by a file."""

import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from secrets import token_hex
from shlex import quote

from fsar.cluster.engine import State, Task
from fsar.errors import InputError


def run(argv: Sequence[str], cwd: str, log: str) -> int:
    """Run a worker to its end, in a process of the engine's; return its exit code.

    It holds the other end of the worker's standard input: when it dies, the worker is asked to end.
    """
    command = [sys.executable, *argv[1:]]  # the interpreter may lie elsewhere here
    with (
        open(log, "ab") as file,
        subprocess.Popen(command, cwd=cwd, stdin=subprocess.PIPE, stdout=file, stderr=file) as worker,
    ):
        return worker.wait()  # before the block closes the pipe


def new_handle(task: Task) -> str:
    """Return a handle: a name that no other life of a worker has, and the file that ends it."""
    return f"fsar-{task.name}-{token_hex(4)}:{task.stop_file}"


def name_of(handle: str) -> str:
    """Return the name that the engine knows the worker by."""
    return handle.partition(":")[0]


def state_of_gone(handle: str) -> State:
    """Return where a worker stands of which the engine knows nothing more."""
    return State.CANCELLED if _stop_file(handle).exists() else State.ENDED


def stop(tasks: Iterable[Task]) -> None:
    """Ask workers to end; each sees it within seconds."""
    for task in tasks:
        task.stop_file.touch()


def stop_command(handles: Iterable[str]) -> str:
    """Return what a person types to end workers."""
    return f"touch {' '.join(quote(str(_stop_file(handle))) for handle in handles)}"


def amounts(resources: Mapping[str, str]) -> dict[str, float]:
    """Return what a worker needs of each resource. Raises InputError for what is no amount."""
    found = {}
    for name, text in resources.items():
        with suppress(ValueError):
            found[name] = float(text)
        if not 0 <= found.get(name, -1) < float("inf"):
            raise InputError(f"--resource {name}={text}: must be an amount, as in GPU=1")
    return found


def _stop_file(handle: str) -> Path:
    return Path(handle.partition(":")[2])
