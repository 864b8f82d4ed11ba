"""Processes for the stages of `fsar-prep run`."""

import importlib
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import FrameType

from fsar.cli.signals import EXIT_INTERRUPTED, end_with_parent

STDOUT, STDERR = 1, 2
GRACE_SECONDS = 5.0
"""A stage that Ctrl-C did not reach itself (a signal to this process alone) is told after this time."""
SHARED_IMPORTS = ("torch", "fsar.heads.finetune.setup", "fsar.heads.evaluation.evaluate")
"""What nearly every stage imports, three quarters of the seconds before it begins."""


class StageProcesses:
    """One process for each stage, so that it starts with fresh memory and threads.

    On Linux they are forked from this one, which imports once what they share. It does nothing else, so there is no
    thread that a child would miss. Where torch was imported, and perhaps used, before, and on other systems each stage
    is an interpreter of its own.
    """

    def __init__(self) -> None:
        """Note whether this process may be forked; import nothing yet."""
        self._forks = sys.platform == "linux" and "torch" not in sys.modules
        self._process: Callable[..., BaseProcess] = multiprocessing.get_context("spawn").Process
        if self._forks:
            self._process = multiprocessing.get_context("fork").Process

    def prepare(self) -> None:
        """Import what stages share, where they will have it."""
        if self._forks:
            for name in SHARED_IMPORTS:
                importlib.import_module(name)

    def run(
        self, program: str, module: str, arguments: Sequence[str], folder: Path, *, stdout_is_data: bool = False
    ) -> int:
        """Run a program's `main` in `folder` and return its exit code, 128 + n for signal n.

        Ctrl-C reaches it through the terminal; this process waits for it to put its work away, and hands SIGTERM on.
        """
        process = self._process(target=_work, args=(os.getpid(), module, (program, *arguments), folder, stdout_is_data))
        sys.stdout.flush()  # else a fork prints it again
        process.start()

        def terminate(number: int, frame: FrameType | None) -> None:
            process.terminate()

        before = signal.signal(signal.SIGTERM, terminate)
        try:
            code = _wait(process)
        finally:
            signal.signal(signal.SIGTERM, before)
        return code if code >= 0 else 128 - code


def _work(parent: int, module: str, line: Sequence[str], folder: Path, stdout_is_data: bool) -> None:
    """Be the program; end with process `parent`, even if that is killed."""
    end_with_parent(parent)
    main: Callable[[], None] = importlib.import_module(module).main  # before `chdir`, for relative paths of imports
    os.chdir(folder)
    if stdout_is_data:
        os.dup2(STDERR, STDOUT)
    sys.argv = list(line)
    main()


def _wait(process: BaseProcess) -> int:
    try:
        return _ended(process, None)
    except KeyboardInterrupt:
        return _wind_down(process) or EXIT_INTERRUPTED


def _wind_down(process: BaseProcess) -> int:
    try:
        return _ended(process, GRACE_SECONDS)
    except (TimeoutError, KeyboardInterrupt):
        process.terminate()  # not SIGINT: a stage of a job in the background ignores it
        return _ended(process, None)


def _ended(process: BaseProcess, timeout_seconds: float | None) -> int:
    process.join(timeout_seconds)
    if process.exitcode is None:
        raise TimeoutError
    return process.exitcode
