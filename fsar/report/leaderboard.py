"""Heads in the order of their accuracy: seeds taken together, every head on one list of episodes."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fsar.heads.evaluation.evaluate import half_width
from fsar.heads.evaluation.report import marks
from fsar.heads.evaluation.spread import title_of
from fsar.report.page import Page, number, percent, points
from fsar.report.runs import Result, Run

COLUMNS = (
    "place", "head", "options", "store", "split", "test", "accuracy %", "seeds", "standard deviation, points",
    "less than the first, points", "order matters, points", "ms an episode", "parameters", "published %", "notes",
)  # fmt: skip


@dataclass
class Entry:
    """A head with its options on one test: the runs that differ in their seed alone."""

    head: str
    results: list[Result] = field(default_factory=list)
    of_seeds: list[NDArray[np.float64]] = field(default_factory=list)
    """(E,) accuracies of each result."""

    @property
    def accuracies(self) -> NDArray[np.float64]:
        """(E,) mean over the seeds, in each episode."""
        return np.mean(self.of_seeds, axis=0)

    @property
    def accuracy(self) -> float:
        """Mean over seeds and episodes."""
        return float(np.mean([result.data["accuracy"] for result in self.results]))


def add_leaderboard(page: Page, runs: Sequence[Run]) -> None:
    """Add the table, where two heads or more met the same episodes."""
    boards = [board for board in _boards(runs) if len(board) > 1]
    if not boards:
        return
    page.section(
        "leaderboard",
        "Leaderboard",
        "Heads on the same episodes, the best one first; seeds of one head are taken together. The interval is over "
        "episodes, and so is that of the difference to the first, episode by episode.",
    )
    page.table("leaderboard", COLUMNS, [row for board in boards for row in _rows(board)])


def _boards(runs: Sequence[Run]) -> list[list[Entry]]:
    """Return the entries of each list of episodes, the best one first."""
    boards: dict[str, dict[Any, Entry]] = {}
    for run in runs:
        for result in run.results:
            listed, accuracies = result.data.get("episodes_sha256"), result.accuracies
            if listed and accuracies is not None:
                recipe = (result.data.get("store"), result.data.get("text"), result.data.get("compat"))
                entry = boards.setdefault(listed, {}).setdefault((run.settings, recipe, run.chosen_by), Entry(run.head))
                entry.results.append(result)
                entry.of_seeds.append(accuracies)
    return [sorted(board.values(), key=lambda entry: -entry.accuracy) for board in boards.values()]


def _rows(board: Sequence[Entry]) -> list[list[Any]]:
    return [_row(place, entry, board[0]) for place, entry in enumerate(board, 1)]


def _row(place: int, entry: Entry, first: Entry) -> list[Any]:
    data, own = entry.results[0].data, entry.accuracies
    seeds = [result.data["accuracy"] for result in entry.results]
    apart = first.accuracies - own
    orders = [result.data.get("order") for result in entry.results]
    order = _mean(found["difference"] if found else None for found in orders)
    seconds = _mean(result.data.get("seconds_per_episode") for result in entry.results)
    published = (data.get("published") or {}).get("accuracy")
    notes = dict.fromkeys(mark for result in entry.results for mark in marks(result.data))
    return [
        number(place), entry.head, _options(data), Path(str(data.get("store", "-"))).name,
        str(data.get("split") or "-"), title_of(data), percent(entry.accuracy, half_width(own)), number(len(seeds)),
        number(float(np.std(seeds, ddof=1)), f"{100 * np.std(seeds, ddof=1):.2f}") if len(seeds) > 1 else "-",
        "-" if entry is first else points(float(apart.mean()), half_width(apart)),
        "-" if order is None else points(order, None),
        "-" if seconds is None else number(1e3 * seconds, f"{1e3 * seconds:.2f}"),
        number(data.get("n_parameters")), percent(published), "; ".join(notes),
    ]  # fmt: skip


def _mean(values: Iterable[float | None]) -> float | None:
    """Return the mean of those that are known."""
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def _options(data: dict[str, Any]) -> str:
    """Return the options that a head was made with, as they stand in its description."""
    return json.dumps(data.get("options", {}), sort_keys=True, ensure_ascii=False)
