"""Several runs of one setting: the spread over seeds of training, and over folds of the classes."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from fsar.splits.resample import fold_of


@dataclass(frozen=True)
class Spread:
    """Accuracies of several runs that differ in one thing."""

    label: str
    title: str
    n_runs: int
    mean: float
    std: float
    """Over the runs, ddof 1."""
    episodes_half: float
    """Mean half-width of the intervals over episodes, for comparison."""

    def to_dict(self) -> dict[str, Any]:
        """Return the fields for JSON."""
        return asdict(self)

    def to_text(self) -> str:
        """Return the spread as a sentence."""
        return (
            f"{self.label}, {self.title}: {100 * self.mean:.2f} %, standard deviation {100 * self.std:.2f} points "
            f"(interval over episodes ± {100 * self.episodes_half:.2f})"
        )


def test_of(result: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return what results must share to stand in one row of a table: ways, shots, part."""
    shot = result["n_shot"]
    return result["n_way"], tuple(shot) if isinstance(shot, list | tuple) else (shot,), result.get("part", "")


def title_of(result: Mapping[str, Any]) -> str:
    """Return ways, shots and part, e.g. "5-way 1-shot, test"."""
    shot = result["n_shot"]
    shown = "/".join(map(str, shot)) if isinstance(shot, list | tuple) else shot
    return f"{result['n_way']}-way {shown}-shot, {result.get('part') or 'all'}"


def spread(label: str, results: Sequence[Mapping[str, Any]]) -> Spread:
    """Return mean and standard deviation of the accuracies of two results or more of one test."""
    values = np.array([result["accuracy"] for result in results])
    halves = np.array([result.get("ci95") or 0.0 for result in results])
    title = title_of(results[0])
    return Spread(label, title, len(results), float(values.mean()), float(values.std(ddof=1)), float(halves.mean()))


def by_test(results: Iterable[Mapping[str, Any]]) -> list[list[Mapping[str, Any]]]:
    """Return results grouped by what was tested, in the order in which they come."""
    groups: dict[Any, list[Mapping[str, Any]]] = {}
    for result in results:
        groups.setdefault(test_of(result), []).append(result)
    return list(groups.values())


def fold_spreads(results: Iterable[Mapping[str, Any]]) -> list[Spread]:
    """Return the spread over folds of one benchmark's classes, for each head and test with two folds or more."""
    groups: dict[Any, list[Mapping[str, Any]]] = {}
    for result in results:
        fold = fold_of(str(result.get("split", "")))
        if fold is not None:
            options = json.dumps(result.get("options"), sort_keys=True, default=str)
            groups.setdefault((result["head"], fold[0], options, test_of(result)), []).append(result)
    return [
        spread(f"{head} on {n_folds} folds of {base}", group)
        for (head, base, _, _), group in groups.items()
        if (n_folds := len({fold_of(str(result["split"])) for result in group})) > 1
    ]
