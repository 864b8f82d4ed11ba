"""Ctrl-C and SIGTERM ask for the same: stop, and keep what is finished. What a process inherited does not matter."""

import os
import signal
import sys
from types import FrameType

from fsar.errors import Terminated

PR_SET_PDEATHSIG = 1
EXIT_INTERRUPTED, EXIT_TERMINATED = 130, 143
"""Exit codes of a program that was stopped by Ctrl-C and by SIGTERM, as shells count them."""
INTERRUPTED = (EXIT_INTERRUPTED, EXIT_TERMINATED)


def heed_termination() -> None:
    """Make SIGTERM raise `Terminated` in the main thread, whatever this process inherited.

    A process may be started with signals blocked, and with SIGTERM ignored; or SIGCHLD, so that the system forgets how
    its children ended. SIGINT is left alone: a shell that starts
    a job in the background has it ignore Ctrl-C, which is then meant for the job in front.
    """
    signal.signal(signal.SIGTERM, _terminate)
    if hasattr(signal, "SIGCHLD"):  # not on Windows
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, signal.SIGTERM})


def _terminate(number: int, frame: FrameType | None) -> None:
    raise Terminated


def end_with_parent(parent: int) -> None:
    """On Linux, ask for SIGTERM when process `parent` dies, even of kill -9; end at once if it is gone already."""
    heed_termination()
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:
            sys.exit(EXIT_TERMINATED)
