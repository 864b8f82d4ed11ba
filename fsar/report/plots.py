"""What a test measured as figures of their own, for papers and slides: SVG, and the numbers as CSV."""

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from fsar.heads.evaluation.evaluate_heads import EvaluationReport, Measured
from fsar.heads.evaluation.spread import title_of
from fsar.heads.run_folder import is_run
from fsar.heads.training.metrics_log import read_metrics
from fsar.report.figures import accuracy_bars, class_bars, confusion, learning_curves, shot_curves
from fsar.report.page import Page


def write_plots(report: EvaluationReport, heads: Sequence[Any], folder: Path) -> int:
    """Write the figures of a test into `folder` and return how many there are.

    Args:
        report: What was measured.
        heads: What was tested; learning curves are those of the run folders among them.
        folder: Made where it is missing; files of the same names are replaced.
    """
    page = Page("Plots", "")
    measured = [each for of_shot in report.measured for each in of_shot]
    for title, group in groupby(measured, key=lambda each: title_of(each.result)):
        results = [each.result for each in group]
        bars = [(result["label"], result["accuracy"], result["ci95"]) for result in results]
        accuracy_bars(page, title, bars, results[0]["n_way"])
    shots: dict[str, list[tuple[int, float]]] = {}
    for each in measured:
        _of_one(page, each)
        if isinstance(each.result["n_shot"], int):
            shots.setdefault(each.result["label"], []).append((each.result["n_shot"], each.result["accuracy"]))
    shot_curves(page, shots)
    runs = [Path(head) for head in heads if isinstance(head, str) and is_run(Path(head))]
    learning_curves(page, {"/".join(run.resolve().parts[-2:]): read_metrics(run) for run in runs})
    page.write_assets(folder)
    return len(page.figures)


def _of_one(page: Page, measured: Measured) -> None:
    result, evaluation = measured.result, measured.evaluation
    label = f"{result['label']} {title_of(result)}"
    class_bars(page, label, evaluation.per_class)
    confusion(page, label, evaluation.class_names, evaluation.confusion)
