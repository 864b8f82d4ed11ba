"""What runs left on disk, as a report reads it: results with their episodes, learning curves, settings."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fsar.documents import csv_lines, read_text
from fsar.errors import InputError
from fsar.heads.episodes.saved_list import EpisodeList, load_list
from fsar.heads.evaluation.evaluate import half_width
from fsar.heads.evaluation.spread import Spread, by_test, fold_spreads, spread, test_of, title_of
from fsar.heads.run_folder import CONFIG, DESCRIPTION, RESULT, read_json
from fsar.heads.training.metrics_log import read_metrics

Floats = NDArray[np.float64]
TESTED = ("head", "n_way", "n_shot")
"""What every result says."""


@dataclass(frozen=True)
class Result:
    """One `result.json` and the files beside it."""

    folder: Path
    data: dict[str, Any]

    @property
    def title(self) -> str:
        """Ways, shots and part, e.g. "5-way 1-shot, test"."""
        return title_of(self.data)

    @property
    def accuracies(self) -> Floats | None:
        """(E,) per episode; None where the file is gone."""
        path = self.folder / str(self.data.get("accuracies_file", "accuracies.npy"))
        if not path.is_file():
            return None
        try:
            return np.asarray(np.load(path, allow_pickle=False), np.float64)
        except (ValueError, TypeError, EOFError) as error:
            raise InputError(f"{path} is no array of accuracies: {error}") from None

    def confusion(self) -> tuple[list[str], NDArray[np.int64]] | None:
        """Return class names and counts (K, K), true by row; None where the file is gone."""
        path = self.folder / str(self.data.get("confusion_file", "confusion.csv"))
        if not path.is_file():
            return None
        rows = [cells for _, cells in csv_lines(read_text(path), path)]
        try:
            return rows[0][1:], np.array([[int(x) for x in row[1:]] for row in rows[1:]], np.int64)
        except (IndexError, ValueError) as error:
            raise InputError(f"{path} is no table of counts: {error}") from error

    def episodes(self) -> EpisodeList | None:
        """Return the episodes of the test; None where the file is gone."""
        path = self.folder / "episodes.npz"
        return load_list(path) if path.is_file() else None

    @property
    def key(self) -> tuple[Any, ...]:
        """What results must share to stand in one row of a table."""
        return test_of(self.data)


@dataclass(frozen=True)
class Run:
    """A run folder."""

    path: Path
    label: str
    head: str
    config: dict[str, Any]
    results: tuple[Result, ...] = ()
    curve: tuple[dict[str, float], ...] = field(default=(), repr=False)

    @property
    def settings(self) -> tuple[Any, ...]:
        """What runs that differ in their seed alone share."""
        kept = ("head", "options", "split", "recipe_id", "n_steps", "episodes", "taps")
        return tuple(json.dumps(self.config.get(key), sort_keys=True) for key in kept)

    @property
    def chosen_by(self) -> str:
        """Part whose episodes chose the weights."""
        return str(self.config.get("select_on", "val"))


def read_runs(paths: Sequence[Path]) -> list[Run]:
    """Return the runs in the order given, with labels that tell them apart.

    A folder that is no run itself stands for all finished runs below it.

    Raises:
        InputError: no run, one that is not finished (with what to do), or the same one twice.
    """
    runs = [_read_run(path) for given in paths for path in _runs_below(given)]
    twice = {run.path.resolve() for run in runs}
    if len(twice) < len(runs):
        raise InputError("a run is named twice")
    for depth in range(2, 5):
        labels = [run.label for run in runs]
        runs = [
            replace(run, label="/".join(run.path.resolve().parts[-depth:])) if labels.count(run.label) > 1 else run
            for run in runs
        ]
    return runs


def _runs_below(path: Path) -> list[Path]:
    """Return the path itself, or the finished runs below a folder that holds some and is none."""
    if (path / CONFIG).is_file() or (path / DESCRIPTION).is_file():
        return [path]
    return sorted(found.parent for found in path.rglob(DESCRIPTION) if (found.parent / RESULT).is_file()) or [path]


def _read_run(path: Path) -> Run:
    if not (path / DESCRIPTION).is_file():
        state = "its training is not finished" if (path / CONFIG).is_file() else "it is no run folder"
        raise InputError(f"{path} holds no trained head: {state}")
    config = read_json(path / CONFIG) if (path / CONFIG).is_file() else {}
    folders = [path, *sorted((path / "eval").glob("*"))]
    results = [Result(folder, read_json(folder / RESULT, TESTED)) for folder in folders if (folder / RESULT).is_file()]
    tested = _newest([result for result in results if result.data.get("accuracy") is not None])
    head, curve = read_json(path / DESCRIPTION, ["head"])["head"], tuple(read_metrics(path))
    return Run(path, path.resolve().name, head, config, tuple(tested), curve)


def _newest(results: list[Result]) -> list[Result]:
    """Return the results, the last of those that were measured on the same episodes, by ways and shots."""
    kept = {(*result.key, result.data.get("episodes_sha256")): result for result in results}
    return sorted(kept.values(), key=lambda result: (str(result.key[2]), result.key[0], result.key[1]))


@dataclass(frozen=True)
class Difference:
    """Two runs on the same episodes."""

    first: str
    second: str
    title: str
    mean: float
    half: float | None
    n_episodes: int


def paired_differences(runs: Sequence[Run]) -> list[Difference]:
    """Return first minus second accuracy for every pair of results on one list of episodes."""
    found = []
    tested = [(run, result) for run in runs for result in run.results if result.accuracies is not None]
    for place, (first, a) in enumerate(tested):
        for second, b in tested[place + 1 :]:
            same = a.data.get("episodes_sha256") == b.data.get("episodes_sha256")
            if first is second or not same or not a.data.get("episodes_sha256"):
                continue
            own, other = a.accuracies, b.accuracies
            assert own is not None
            assert other is not None
            if len(own) == len(other):
                apart = own - other
                found.append(
                    Difference(first.label, second.label, a.title, float(apart.mean()), half_width(apart), len(apart))
                )
    return found


def seed_spreads(runs: Sequence[Run]) -> list[Spread]:
    """Return mean and standard deviation (ddof 1) over runs that differ in their seed alone, two or more."""
    groups: dict[Any, list[Run]] = {}
    for run in runs:
        groups.setdefault(run.settings, []).append(run)
    different = [group for group in groups.values() if len({run.config.get("seed") for run in group}) > 1]
    return [
        spread(f"{group[0].head}, {len(group)} seeds", results)
        for group in different
        for results in by_test(result.data for run in group for result in run.results)
        if len(results) > 1
    ]


def spreads_over_folds(runs: Sequence[Run]) -> list[Spread]:
    """Return the same over folds of one benchmark's classes."""
    return fold_spreads({"head": run.head, **result.data} for run in runs for result in run.results)
