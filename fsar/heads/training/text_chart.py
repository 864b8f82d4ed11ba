"""Learning curves in a terminal."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from fsar.heads.training.metrics_log import read_metrics

WIDTH, HEIGHT = 56, 7
"""Of the field of a chart, characters."""
TRAIN, VAL = "train/accuracy", "val/accuracy"
MARKS = {TRAIN: "·", VAL: "o"}
"""Later ones stand before earlier ones."""


def accuracy_chart(folder: Path) -> str:
    """Return accuracy by step of a run's `metrics.jsonl` as a small chart; empty where fewer than two points are."""
    rows = read_metrics(folder)
    series = {key: [(row["step"], row[key]) for row in rows if math.isfinite(row.get(key, math.nan))] for key in MARKS}
    if max(len(of) for of in series.values()) < 2:
        return ""
    return "\n".join(chart({key: of for key, of in series.items() if of}))


def chart(series: Mapping[str, Sequence[tuple[float, float]]]) -> list[str]:
    """Return the lines of a chart of shares by step; points that fall on one place share it by their mean."""
    steps = [step for of in series.values() for step, _ in of]
    shares = [share for of in series.values() for _, share in of]
    low, high = math.floor(10 * min(shares)) / 10, math.ceil(10 * max(shares)) / 10
    if high <= low:
        low, high = max(low - 0.1, 0.0), low + 0.1
    first, last = min(steps), max(steps)
    field = [[" "] * WIDTH for _ in range(HEIGHT)]
    for key, of in series.items():
        columns: dict[int, list[float]] = {}
        for step, share in of:
            columns.setdefault(round((step - first) / max(last - first, 1) * (WIDTH - 1)), []).append(share)
        for column, here in columns.items():
            mean = sum(here) / len(here)
            field[round((high - mean) / (high - low) * (HEIGHT - 1))][column] = MARKS[key]
    legend = ", ".join(f"{MARKS[key]} {key.partition('/')[0]}" for key in series)
    ticks = [f"{100 * (high - (high - low) * row / (HEIGHT - 1)):5.0f} % |" for row in range(HEIGHT)]
    ends = f"{first:g}".ljust(WIDTH - len(f"{last:g}")) + f"{last:g}"
    return [
        f"accuracy by step ({legend})",
        *(f"{tick}{''.join(cells).rstrip()}" for tick, cells in zip(ticks, field, strict=True)),
        f"        +{'-' * WIDTH}",
        f"         {ends}",
    ]
