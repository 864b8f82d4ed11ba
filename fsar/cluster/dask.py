"""Workers as tasks of a Dask cluster."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from fsar.cluster.engine import EngineSilentError, State, Task
from fsar.cluster.tied import amounts, name_of, new_handle, run, state_of_gone, stop, stop_command
from fsar.errors import InputError, one_line

if TYPE_CHECKING:
    from distributed import Client

STATES = {
    "processing": State.RUNNING,
    "queued": State.WAITING,
    "no-worker": State.WAITING,
    "waiting": State.WAITING,
    "released": State.WAITING,
}
"""The scheduler's word -> where a task stands; every other word means that it has ended."""
TIMEOUT_SECONDS = 20


class DaskEngine:
    """Starts workers with `Client.submit`, one for a thread of Dask's workers; they need no client to go on.

    A worker whose Dask worker dies is started elsewhere by Dask itself, which gives up after three deaths.

    Args:
        address: of the scheduler, as tcp://HOST:8786, or its file NAME.json.
        resources: what a worker needs of the resources that Dask's workers were started with.

    Raises:
        InputError: Dask is not installed.
    """

    def __init__(self, address: str, resources: Mapping[str, str]) -> None:
        try:
            import distributed  # noqa: F401
        except ImportError:
            raise InputError("--cluster dask needs Dask: pip install 'fsar[dask]'") from None
        self._address, self._resources = address, amounts(resources)

    def start(self, tasks: Sequence[Task]) -> list[str]:
        """Submit the workers; a handle is a key and the file that ends the worker."""
        from distributed import fire_and_forget

        handles = [new_handle(task) for task in tasks]
        try:
            with self._client() as client:
                for task, handle in zip(tasks, handles, strict=True):
                    future = client.submit(
                        run,
                        task.argv(tied=True),
                        str(task.cwd),
                        str(task.log),
                        key=name_of(handle),
                        pure=False,
                        resources=self._resources or None,
                    )
                    fire_and_forget(future)  # the client may go
        except EngineSilentError as error:
            raise InputError(f"there is no Dask scheduler at {self._address}: {error}") from error
        return handles

    def states(self, handles: Sequence[str]) -> list[State]:
        """Return where the tasks stand by the scheduler's word."""
        with self._client() as client:
            words = client.run_on_scheduler(_states_there, keys=[name_of(handle) for handle in handles])
        return [STATES.get(words.get(name_of(handle), "")) or state_of_gone(handle) for handle in handles]

    def cancel(self, tasks: Sequence[Task], handles: Sequence[str]) -> None:
        """Tell the workers to end, and have the scheduler forget those that wait."""
        from distributed import Future

        stop(tasks)
        waiting = [
            handle for handle, state in zip(handles, self.states(handles), strict=True) if state is State.WAITING
        ]
        if waiting:
            with self._client() as client:
                client.cancel([Future(name_of(handle), client) for handle in waiting], force=True)

    def script(self, tasks: Sequence[Task]) -> str:
        """Return the command lines."""
        return "\n".join(f"# a task of {self._address}\n{task.shell_line()}" for task in tasks)

    def cancel_command(self, handles: Sequence[str]) -> str | None:
        """Return a `touch` of the files that the workers look for."""
        return stop_command(handles)

    def close(self) -> None:
        """Nothing: no connection stays."""

    @contextmanager
    def _client(self) -> "Iterator[Client]":
        from distributed import Client

        place = {"scheduler_file" if self._address.endswith(".json") else "address": self._address}
        try:
            with Client(**place, timeout=TIMEOUT_SECONDS, set_as_default=False) as client:
                yield client
        except (OSError, ValueError, ImportError) as error:  # TimeoutError and broken connections among them
            raise EngineSilentError(one_line(str(error))) from error


def _states_there(keys: Sequence[str], dask_scheduler: Any = None) -> dict[str, str]:
    """Return the states of the keys that the scheduler knows; it is run there."""
    return {key: dask_scheduler.tasks[key].state for key in keys if key in dask_scheduler.tasks}
