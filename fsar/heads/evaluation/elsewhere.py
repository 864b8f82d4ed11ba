"""What one process measured, as files for the one that makes the report."""

import hashlib
import io
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from fsar.files import write_atomic
from fsar.heads.evaluation.evaluate import Comparison, Evaluation
from fsar.heads.evaluation.evaluate_heads import Evaluating, Measured
from fsar.heads.run_folder import read_json, write_json


def facts_file(folder: Path, place: int) -> Path:
    """Return the file that comes last of those of a head."""
    return folder / f"{place}.json"


def write_measured(folder: Path, place: int, measured: Sequence[Measured]) -> None:
    """Write what was measured of the head at a place, with each number of shots."""
    evaluations = [each.evaluation for each in measured]
    arrays: dict[str, Any] = {f"accuracies.{i}": each.accuracies for i, each in enumerate(evaluations)}
    arrays |= {f"confusion.{i}": each.confusion for i, each in enumerate(evaluations)}
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(_arrays_file(folder, place), buffer.getvalue())
    facts = [
        {
            "result": each.result,
            "class_names": each.evaluation.class_names,
            "seconds": each.evaluation.seconds,
            "order": asdict(each.evaluation.order) if each.evaluation.order else None,
        }
        for each in measured
    ]
    write_json(facts_file(folder, place), {"measured": facts})


def read_measured(folder: Path, place: int) -> tuple[Measured, ...]:
    """Return what `write_measured` wrote."""
    with np.load(_arrays_file(folder, place), allow_pickle=False) as arrays:
        return tuple(
            Measured(
                facts["result"],
                Evaluation(
                    arrays[f"accuracies.{i}"],
                    arrays[f"confusion.{i}"],
                    tuple(facts["class_names"]),
                    facts["seconds"],
                    Comparison(**facts["order"]) if facts["order"] else None,
                ),
            )
            for i, facts in enumerate(read_json(facts_file(folder, place))["measured"])
        )


def digest(evaluating: Evaluating, arguments: Sequence[str]) -> str:
    """Return a name for these heads as they are now, on these episodes: with another one nothing is taken over."""
    folders = [subject.folder for subject in evaluating.subjects if subject.folder]
    files = [path for folder in folders for path in sorted(folder.glob("*")) if path.is_file()]
    states = [[str(path), path.stat().st_size, path.stat().st_mtime_ns] for path in files]
    episodes = [planned.sha256 for of_plan in evaluating.planned for planned in of_plan]
    stores = [subject.task.store.recipe_id for subject in evaluating.subjects]
    return hashlib.sha256(json.dumps([states, episodes, stores, list(arguments)]).encode()).hexdigest()[:16]


def _arrays_file(folder: Path, place: int) -> Path:
    return folder / f"{place}.npz"
