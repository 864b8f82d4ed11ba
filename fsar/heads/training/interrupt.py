"""Stopping between steps: Ctrl-C and SIGTERM ask, the loop saves and leaves."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

from fsar.errors import Terminated


@dataclass
class StopRequest:
    """Whether somebody asked to stop, and by which signal."""

    signal: int = 0

    @property
    def to_stop(self) -> bool:
        """Whether Ctrl-C or SIGTERM came."""
        return self.signal != 0

    @property
    def interruption(self) -> KeyboardInterrupt:
        """What to raise: `Terminated` after SIGTERM."""
        return Terminated() if self.signal == signal.SIGTERM else KeyboardInterrupt()


@contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Yield what tells whether Ctrl-C or SIGTERM came; a second signal interrupts at once.

    Without this a step could be cut in half, between the update of two parameters. Outside the main thread, where
    Python allows no signal handlers, nothing is caught.
    """
    asked = StopRequest()

    def ask(number: int, frame: FrameType | None) -> None:
        again, asked.signal = asked.to_stop, number
        if again:
            raise asked.interruption

    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
