"""What a training reports while it runs: one JSON object per line, and TensorBoard events."""

import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from fsar.documents import parse_json
from fsar.errors import InputError
from fsar.files import write_atomic

METRICS = "metrics.jsonl"


class MetricsLog:
    """Writes `metrics.jsonl` and a TensorBoard event file. A resumed run goes on where its saved state is."""

    def __init__(self, folder: Path, *, step: int = 0, tensorboard: bool = True) -> None:
        """Open the log of a run that has done `step` steps; lines of later steps (lost with a crash) are dropped."""
        self._path = folder / METRICS
        kept = [line for line, row in _rows(self._path) if row.get("step", step + 1) <= step]
        write_atomic(self._path, "".join(line + "\n" for line in kept))
        self._file = open(self._path, "a", encoding="utf-8")  # noqa: SIM115 (closed by __exit__)
        self._events: Any = None
        if tensorboard:
            from torch.utils.tensorboard import SummaryWriter

            self._events = SummaryWriter(str(folder), purge_step=step + 1)

    def write(self, step: int, **values: float) -> None:
        """Report numbers after `step` steps."""
        self._file.write(json.dumps({"step": step, **values}) + "\n")
        self._file.flush()
        for name, value in values.items():
            if self._events is not None:
                self._events.add_scalar(name, value, step)

    def __enter__(self) -> "MetricsLog":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        if self._events is not None:
            self._events.close()


def read_metrics(folder: Path) -> list[dict[str, float]]:
    """Return the numbers of a run's log, line by line; none without a log. A line that a crash tore is passed over."""
    return [row for _, row in _rows(folder / METRICS)]


def _rows(path: Path) -> Iterator[tuple[str, dict[str, float]]]:
    """Yield the whole lines of a log and the numbers in each; a line that a crash tore is passed over."""
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    for line in text.splitlines():
        with suppress(InputError):
            row = parse_json(line, str(path))
            if isinstance(row, dict):
                yield line, {key: float(value) for key, value in row.items() if isinstance(value, int | float)}
