"""Workers as actors of a Ray cluster."""

import logging
import signal
import threading
from collections.abc import Mapping, Sequence
from typing import Any

from fsar.cluster.engine import EngineSilentError, State, Task
from fsar.cluster.tied import amounts, name_of, new_handle, run, state_of_gone, stop, stop_command
from fsar.errors import InputError, one_line

NAMESPACE = "fsar"
ANSWER_SECONDS = 2.0
"""An actor that does not answer for so long waits for its place."""
HANDLED = (signal.SIGINT, signal.SIGTERM)


class RayEngine:
    """Starts workers as detached actors, which need nobody to go on.

    Args:
        address: HOST:6379, or auto for the cluster that this machine belongs to.
        resources: what a worker needs: CPU (1 if not said), GPU, or others that the cluster has.

    Raises:
        InputError: Ray is not installed.
    """

    def __init__(self, address: str, resources: Mapping[str, str]) -> None:
        try:
            import ray  # noqa: F401
        except ImportError:
            raise InputError("--cluster ray needs Ray: pip install 'fsar[ray]'") from None
        self._address, needed = address, amounts(resources)
        self._options: dict[str, Any] = {"num_cpus": needed.pop("CPU", 1.0), "num_gpus": needed.pop("GPU", 0.0)}
        self._options["resources"] = needed

    def start(self, tasks: Sequence[Task]) -> list[str]:
        """Create the actors; a handle is an actor's name and the file that ends the worker."""
        import ray

        self._connect()
        handles = [new_handle(task) for task in tasks]
        for task, handle in zip(tasks, handles, strict=True):
            actor = ray.remote(Runner).options(
                name=name_of(handle), namespace=NAMESPACE, lifetime="detached", max_restarts=0, **self._options
            )
            actor.remote(task.argv(tied=True), str(task.cwd), str(task.log))
        return handles

    def states(self, handles: Sequence[str]) -> list[State]:
        """Return where the actors stand: gone, at work, or not there yet."""
        import ray

        self._connect()
        try:
            calls = {handle: actor.is_here.remote() for handle in handles if (actor := _actor(handle)) is not None}
            answered, _ = (
                ray.wait([*calls.values()], num_returns=len(calls), timeout=ANSWER_SECONDS) if calls else ([], [])
            )
            here = {call: _has_answered(call) for call in answered}
        except ray.exceptions.RayError as error:
            raise EngineSilentError(one_line(str(error))) from error
        return [self._state(handle, calls.get(handle), here) for handle in handles]

    def _state(self, handle: str, call: Any, here: Mapping[Any, bool]) -> State:
        if call is None or not here.get(call, True):
            return state_of_gone(handle)
        return State.RUNNING if call in here else State.WAITING

    def cancel(self, tasks: Sequence[Task], handles: Sequence[str]) -> None:
        """Tell the workers to end, and remove the actors that wait for their place."""
        import ray

        stop(tasks)
        for handle, state in zip(handles, self.states(handles), strict=True):
            if state is State.WAITING and (actor := _actor(handle)) is not None:
                ray.kill(actor)

    def script(self, tasks: Sequence[Task]) -> str:
        """Return the command lines."""
        return "\n".join(f"# an actor of {self._address}\n{task.shell_line()}" for task in tasks)

    def cancel_command(self, handles: Sequence[str]) -> str | None:
        """Return a `touch` of the files that the workers look for."""
        return stop_command(handles)

    def close(self) -> None:
        """Close this process's connection."""
        import ray

        ray.shutdown()

    def _connect(self) -> None:
        """Connect this process to the cluster, once; Ray would handle Ctrl-C and SIGTERM in its own way."""
        import ray

        if ray.is_initialized():
            return
        ours = {number: signal.getsignal(number) for number in HANDLED}
        try:
            ray.init(self._address, namespace=NAMESPACE, log_to_driver=False, logging_level=logging.ERROR)
        except (OSError, ValueError, RuntimeError) as error:
            raise InputError(f"there is no Ray at {self._address}: {one_line(str(error))}") from error
        finally:
            for number, handler in ours.items():
                signal.signal(number, handler)


class Runner:
    """Runs one worker, in a process of Ray's that ends with it."""

    def __init__(self, argv: Sequence[str], cwd: str, log: str) -> None:
        import ray

        actor = ray.get_runtime_context().current_actor
        threading.Thread(target=self._work, args=(actor, argv, cwd, log), daemon=True).start()

    def is_here(self) -> bool:
        """Answer: the actor has its place."""
        return True

    def _work(self, actor: Any, argv: Sequence[str], cwd: str, log: str) -> None:
        import ray

        try:
            run(argv, cwd, log)
        finally:
            ray.kill(actor)


def _actor(handle: str) -> Any:
    import ray

    try:
        return ray.get_actor(name_of(handle), NAMESPACE)
    except ValueError:
        return None


def _has_answered(call: Any) -> bool:
    import ray

    try:
        return bool(ray.get(call))
    except ray.exceptions.RayActorError:
        return False
