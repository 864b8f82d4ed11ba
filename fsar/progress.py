"""A progress line with rate and time left on stderr, so that stdout stays free for data."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

_live: list[Any] = []
"""Consoles of the bars that are drawn right now, the innermost last."""


def say(line: str) -> None:
    """Write a line to stderr, above the bar where one is drawn."""
    if _live:
        _live[-1].print(line, markup=False, highlight=False)
    else:
        sys.stderr.write(f"{line}\n")
        sys.stderr.flush()


class Advance(Protocol):
    """Called after finished items."""

    def __call__(self, n_items: int = 1) -> None: ...  # noqa: D102


@contextmanager
def progress(
    label: str, n_items: int, *, n_done: int = 0, unit: str = "videos", quiet: bool = False
) -> Iterator[Advance]:
    """Yield a function to call after each finished item.

    On a terminal a live bar is drawn; elsewhere (a log file, SLURM) one line is written about every 10 seconds.
    `n_done` items that an earlier run finished count towards the total but not towards the rate.
    """
    if quiet or n_items <= n_done:
        yield lambda n_items=1: None
    elif sys.stderr.isatty():
        with _live_bar(label, n_items, n_done, unit) as advance:
            yield advance
    else:
        yield _LogLines(label, n_items, n_done, unit)


@contextmanager
def _live_bar(label: str, n_items: int, n_done: int, unit: str) -> Iterator[Advance]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"))
    console = Console(stderr=True)
    with Progress(*columns, TimeRemainingColumn(), console=console) as bar, _shown_on(console):
        task = bar.add_task(label, total=n_items, completed=n_done, rate="")

        def advance(n_items: int = 1) -> None:
            bar.advance(task, n_items)
            speed = bar.tasks[0].speed
            bar.update(task, rate=f"{speed:.1f} {unit}/s" if speed else "")

        yield advance


@contextmanager
def _shown_on(console: Any) -> Iterator[None]:
    _live.append(console)
    try:
        yield
    finally:
        _live.remove(console)


class _LogLines:
    """Progress for places that are not a terminal: whole lines, rarely."""

    def __init__(self, label: str, n_items: int, n_done: int, unit: str, *, every_seconds: float = 10.0) -> None:
        import time

        self._clock = time.monotonic
        self._label, self._n_items, self._n_done, self._unit = label, n_items, n_done, unit
        self._n_here, self._every_seconds = 0, every_seconds
        self._start_seconds = self._last_seconds = self._clock()

    def __call__(self, n_items: int = 1) -> None:
        self._n_here += n_items
        now = self._clock()
        finished = self._n_done + self._n_here >= self._n_items
        if finished or now - self._last_seconds >= self._every_seconds:
            self._last_seconds = now
            self._write(max(now - self._start_seconds, 1e-9))

    def _write(self, elapsed_seconds: float) -> None:
        rate = self._n_here / elapsed_seconds
        n_done = self._n_done + self._n_here
        left_seconds = (self._n_items - n_done) / rate if rate else 0.0
        count = f"{n_done}/{self._n_items} {self._unit}, {rate:.1f} {self._unit}/s"
        sys.stderr.write(f"{self._label}: {count}, {left_seconds:.0f} s left\n")
        sys.stderr.flush()
