"""What an engine is: it starts processes, says whether they run, and ends them."""

import enum
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from fsar.errors import InputError


class State(enum.Enum):
    """Where a process stands."""

    WAITING = "waiting"
    """For its turn on the cluster."""
    RUNNING = "running"
    ENDED = "ended"
    """Whatever the reason, or unknown to the engine by now."""
    CANCELLED = "cancelled"
    """Somebody has ended it on purpose."""

    @property
    def alive(self) -> bool:
        """Whether it works, or will."""
        return self in (State.WAITING, State.RUNNING)


@dataclass(frozen=True)
class Task:
    """One worker to start."""

    index: int
    launch: str
    """Name of the launch that it belongs to."""
    program: tuple[str, str]
    """What is called, such as `fsar-prep`, and the module with its `main`."""
    arguments: tuple[str, ...]
    folder: Path
    """Of its log and exit code."""
    cwd: Path

    def __post_init__(self) -> None:
        if any("\n" in text or "\r" in text for text in (*self.arguments, str(self.folder), str(self.cwd))):
            raise InputError("paths and options of a command for a cluster cannot hold line ends")

    @property
    def name(self) -> str:
        """The worker's name, in its claims too."""
        return f"{self.launch}-{self.index}"

    @property
    def log(self) -> Path:
        """Where its output goes."""
        return self.folder / f"{self.index}.log"

    @property
    def exit_file(self) -> Path:
        """Where its exit code is written."""
        return self.folder / f"{self.index}.exit"

    @property
    def stop_file(self) -> Path:
        """Its appearance asks the worker to end, on engines that cannot send it a signal."""
        return self.folder / f"{self.index}.stop"

    def argv(self, index: str | None = None, *, tied: bool = False) -> list[str]:
        """Return what is run.

        Args:
            index: stands for the worker's number where the engine fills that in.
            tied: the worker ends when its standard input does, or when `stop_file` appears.
        """
        number = str(self.index) if index is None else index
        runner = [sys.executable, "-m", "fsar.cluster.worker", *(["--tied"] if tied else [])]
        return [*runner, str(self.folder), self.launch, number, *self.program, *self.arguments]

    def shell_line(self) -> str:
        """Return what starts the worker in a shell."""
        return f"{shlex.join(self.argv())} >>{shlex.quote(str(self.log))} 2>&1 &"

    def exit_code(self) -> int | None:
        """Return the exit code of its latest life; None while it lives, or when it was killed."""
        try:
            return int(self.exit_file.read_text())
        except (FileNotFoundError, ValueError):
            return None


class Engine(Protocol):
    """Starts processes somewhere. Handles are text and stay valid when the process that started them has ended."""

    def start(self, tasks: Sequence[Task]) -> list[str]:
        """Start the workers; return their handles.

        Raises:
            InputError: the cluster refuses, or is not there; the message is its own.
        """
        ...

    def states(self, handles: Sequence[str]) -> list[State]:
        """Return where the workers stand.

        Raises:
            EngineSilentError: it does not answer now; ask later.
        """
        ...

    def cancel(self, tasks: Sequence[Task], handles: Sequence[str]) -> None:
        """Ask the workers to end, as SIGTERM does: claims are given back."""
        ...

    def script(self, tasks: Sequence[Task]) -> str:
        """Return what `start` would hand to the cluster."""
        ...

    def cancel_command(self, handles: Sequence[str]) -> str | None:
        """Return what a person types to end the workers, None if there is no such command."""
        ...

    def close(self) -> None:
        """Let go of the cluster. Its workers go on."""
        ...


class EngineSilentError(RuntimeError):
    """An engine does not answer at the moment. Its workers may well be at work."""
