"""What a training reports while it runs: one JSON object per line, and TensorBoard events."""

import json
from pathlib import Path
from types import TracebackType
from typing import Any

from fsar.files import write_atomic

METRICS = "metrics.jsonl"


class MetricsLog:
    """Writes `metrics.jsonl` and a TensorBoard event file. A resumed run goes on where its saved state is."""

    def __init__(self, folder: Path, *, step: int = 0, tensorboard: bool = True) -> None:
        """Open the log of a run that has done `step` steps; lines of later steps (lost with a crash) are dropped."""
        self._path = folder / METRICS
        lines = self._path.read_text().splitlines() if self._path.is_file() else []
        kept = [line for line in lines if _step(line) <= step]
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
    path, rows = folder / METRICS, []
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue
        rows.append({key: float(value) for key, value in row.items() if isinstance(value, int | float)})
    return rows


def _step(line: str) -> int:
    """Return the step of a line; a line torn by a crash counts as later than any."""
    try:
        return int(json.loads(line)["step"])
    except (json.JSONDecodeError, KeyError, TypeError):
        return 1 << 62
