"""The figures of results, for pages and as files: accuracies, shots, classes, confusions, learning curves."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from fsar.report import svg
from fsar.report.page import Page, number, percent

N_CONFUSED = 10
MAX_MATRIX = 40
"""Classes of a drawn confusion matrix; larger ones are told by their most confused pairs."""
Curve = Sequence[Mapping[str, float]]
"""Lines of a training's log, each with its step."""


def accuracy_bars(page: Page, title: str, rows: Sequence[tuple[str, float, float | None]], n_way: int) -> None:
    """Add bars of (name, accuracy, half-width of its interval) with chance as a line."""
    figure = svg.bars(rows, f"accuracy, {title}", chance=1 / n_way)
    page.figure(f"accuracy {title}", figure, f"{title}. The dashed line is chance.")
    page.tables[f"accuracy {title}"] = [["name", "accuracy", "ci95"], *([*row] for row in rows)]


def shot_curves(page: Page, of_name: Mapping[str, Sequence[tuple[int, float]]]) -> None:
    """Add the accuracy over the number of shots, for names that have several."""
    series = {name: sorted(of) for name, of in of_name.items() if len({shot for shot, _ in of}) > 1}
    if series:
        figure = svg.curves(series, "accuracy by number of shots", percent=True)
        page.figure("accuracy by shots", figure, "Accuracy by number of shots.")
        rows = [[name, *point] for name, of in series.items() for point in of]
        page.tables["accuracy by shots"] = [["name", "shots", "accuracy"], *rows]


def class_bars(page: Page, label: str, shares: Mapping[str, float | None]) -> None:
    """Add the share of each class's queries that were right, the hardest class first."""
    ordered = sorted(((name, share) for name, share in shares.items() if share is not None), key=lambda item: item[1])
    if ordered:
        figure = svg.bars([(name, share, None) for name, share in ordered], f"accuracy per class of {label}")
        page.figure(f"classes {label}", figure)
        page.tables[f"classes {label}"] = [["class", "accuracy"], *([*pair] for pair in ordered)]


def confusion(page: Page, label: str, names: Sequence[str], counts: NDArray[np.int64]) -> None:
    """Add the matrix of confusions (true class by row), unless it is too large to read, and the most confused pairs."""
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    if len(names) <= MAX_MATRIX:
        page.figure(f"confusion {label}", svg.matrix(names, shares.tolist(), f"confusion of {label}"))
    wrong = np.where(np.eye(len(names), dtype=bool), 0, counts)
    order = np.argsort(-wrong, axis=None, kind="stable")[:N_CONFUSED]
    pairs = [divmod(int(place), len(names)) for place in order if wrong.flat[place] > 0]
    rows = [[names[a], names[b], number(int(wrong[a, b])), percent(float(shares[a, b]))] for a, b in pairs]
    if rows:
        page.table(f"confused {label}", ["true class", "taken for", "queries", "of the class %"], rows)


def learning_curves(page: Page, of_name: Mapping[str, Curve]) -> None:
    """Add a figure for each accuracy and loss that was logged."""
    trained = {name: curve for name, curve in of_name.items() if curve}
    keys = dict.fromkeys(key for curve in trained.values() for row in curve for key in row)
    for key in [key for key in keys if "accuracy" in key or key.rpartition("/")[2] in ("loss", "total")]:
        series = {name: [(row["step"], row[key]) for row in curve if key in row] for name, curve in trained.items()}
        series = {name: of for name, of in series.items() if of}
        is_share = "accuracy" in key and all(0 <= y <= 1 for of in series.values() for _, y in of)
        page.figure(f"curve {key}", svg.curves(series, f"{key} by step", percent=is_share), f"{key} by step")
        rows = [[name, *point] for name, of in series.items() for point in of]
        page.tables[f"curve {key}"] = [["name", "step", key], *rows]
