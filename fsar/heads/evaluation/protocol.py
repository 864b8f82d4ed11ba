"""Testing a head on a part of a store: the episode list, what must hold before, and the files of a result."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fsar.errors import InputError
from fsar.files import atomic_path, write_atomic
from fsar.heads.episodes.sampler import EpisodePool, Episodes, EpisodeSampler, EpisodeShape
from fsar.heads.episodes.saved_list import EpisodeList, load_list, save_list, to_list
from fsar.heads.episodes.split_parts import STATUS_OK, overlapping_classes, usable_pool
from fsar.heads.evaluation.evaluate import Evaluation, evaluate
from fsar.heads.head import Head
from fsar.heads.run_folder import RESULT, n_parameters, write_json
from fsar.heads.setup.task import Task
from fsar.progress import progress


@dataclass(frozen=True, slots=True)
class Plan:
    """Which episodes a head is tested on."""

    shape: EpisodeShape
    n_episodes: int = 10_000
    part: str = "test"
    seed: int = 0
    """Of the list; apart from the seeds of training, so that runs of several seeds meet the same episodes."""
    file: Path | None = None
    """A saved list, instead of a drawn one."""
    drop_small_classes: bool = False


@dataclass(frozen=True, slots=True)
class Planned:
    """The episodes of a plan on one store."""

    plan: Plan
    part: str
    pool: EpisodePool
    episodes: Episodes
    listed: EpisodeList
    sha256: str
    dropped: dict[str, int]
    """Classes that were too small, with their numbers of videos."""


def plan_test(task: Task, plan: Plan) -> Planned:
    """Return the episodes of a plan, drawn or read.

    Raises:
        InputError: the part, a class or a video is missing, a class is too small, or the file is no episode list.
    """
    part = task.parts.test_part(plan.part)
    if plan.file is not None:
        return _from_file(task, plan, part)
    pool, dropped = usable_pool(task.parts, part, plan.shape, drop_small_classes=plan.drop_small_classes)
    episodes = EpisodeSampler(pool, plan.shape, seed=plan.seed).draw(0, plan.n_episodes)
    listed = to_list(episodes, pool.class_names, [video.video_id for video in task.store.videos])
    return Planned(plan, part, pool, episodes, listed, listed.sha256, dropped)


def _from_file(task: Task, plan: Plan, part: str) -> Planned:
    assert plan.file is not None
    listed = load_list(plan.file)
    pool = task.parts.pool(part)
    episodes = listed.in_store(task.store.row_of, {name: i for i, name in enumerate(pool.class_names)})
    rows = episodes.rows()
    failed = rows[np.asarray(task.store.status)[rows] != STATUS_OK]
    if len(failed):
        video = task.store.videos[int(failed[0])].video_id
        raise InputError(f"{plan.file} uses video {video!r}, which could not be encoded into {task.store.path}")
    _refuse_other_classes(plan.file, task, pool, episodes)
    return Planned(plan, part, pool, episodes, listed, listed.sha256, {})


def _refuse_other_classes(file: Path, task: Task, pool: EpisodePool, episodes: Episodes) -> None:
    """Raise InputError where a list takes a video for one of another class than the split says."""
    class_of = np.full(task.store.n_videos, -1)
    class_of[pool.rows] = np.repeat(np.arange(pool.n_classes), pool.counts)
    for rows, labels in ((episodes.support, episodes.support_labels), (episodes.query, episodes.query_labels)):
        wrong = class_of[rows] != np.take_along_axis(episodes.class_ids, labels, 1)
        if wrong.any():
            episode, place = (int(i) for i in np.argwhere(wrong)[0])
            video, stated = int(rows[episode, place]), int(episodes.class_ids[episode, labels[episode, place]])
            raise InputError(
                f"{file} takes video {task.store.videos[video].video_id!r} for one of class "
                f"{pool.class_names[stated]!r}, which it is not in this split (episode {episode})"
            )


def refuse_seen(planned: Planned, train_classes: list[str], *, allow_seen: bool) -> list[str]:
    """Return the tested classes that the head was trained on; raises InputError if there are any, unless allowed."""
    seen = overlapping_classes(planned.pool.class_names, train_classes)
    if seen and not allow_seen:
        more = f" and {len(seen) - 1} more" if len(seen) > 1 else ""
        raise InputError(
            f"the head was trained on class {seen[0]!r}{more} of part {planned.part or '(unnamed)'!r}: the result "
            "would not be few-shot; choose another --part, or pass --allow-seen to have it marked in the result"
        )
    return seen


def measure(head: Head, task: Task, planned: Planned, *, label: str = "test", quiet: bool = False) -> Evaluation:
    """Return how a head does on planned episodes."""
    data = task.episode_data(task.source(planned.episodes.rows()), planned.pool)
    n_episodes = len(planned.episodes)
    with progress(label, n_episodes, unit="episodes", quiet=quiet) as advance:
        return evaluate(head, data, planned.episodes, planned.pool.class_names, advance=advance)


def describe_result(
    head: Head, task: Task, planned: Planned, evaluation: Evaluation, facts: Mapping[str, Any]
) -> dict[str, Any]:
    """Return a result for `result.json`: the numbers, and everything that says what they are numbers of."""
    shape = planned.plan.shape
    return {
        "head": task.name,
        "options": dict(head.options),
        "compat": head.options.get("compat", "fixed"),
        "inductive": head.inductive,
        "n_parameters": n_parameters(head),
        "accuracy": evaluation.mean,
        "ci95": evaluation.ci95,
        "n_episodes": len(evaluation.accuracies),
        "n_way": planned.episodes.n_way,
        "n_shot": shape.n_shot if planned.plan.file is None else _counts(planned.episodes.support_labels),
        "n_query": shape.n_query if planned.plan.file is None else _counts(planned.episodes.query_labels),
        "part": planned.part,
        "split": task.parts.name,
        "split_sha256": task.parts.sha256,
        "store": str(task.store.path),
        "recipe_id": task.store.recipe_id,
        "taps": dict(task.taps),
        "text": task.table,
        "episodes_sha256": planned.sha256,
        "episodes_seed": planned.plan.seed if planned.plan.file is None else None,
        "per_class_accuracy": evaluation.per_class,
        "failed_videos": dict(task.parts.failed),
        "dropped_classes": planned.dropped,
        **facts,
    }


def _counts(labels: Any) -> int | list[int]:
    counts = np.bincount(labels[0]).tolist()
    return int(counts[0]) if len(set(counts)) == 1 else counts


def write_result(folder: Path, result: Mapping[str, Any], evaluation: Evaluation, planned: Planned) -> None:
    """Write the files of a result; `result.json` comes last, so that it is there only if all of them are."""
    save_list(planned.listed, folder / "episodes.npz")
    with atomic_path(folder / "accuracies.npy") as temporary:
        np.save(temporary, evaluation.accuracies)
    write_atomic(folder / "confusion.csv", confusion_csv(evaluation))
    write_json(folder / RESULT, {**result, "accuracies_file": "accuracies.npy", "confusion_file": "confusion.csv"})


def confusion_csv(evaluation: Evaluation) -> str:
    """Return the confusion counts as CSV: a row per true class, a column per answer."""
    import csv
    import io

    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["true \\ predicted", *evaluation.class_names])
    for name, counts in zip(evaluation.class_names, evaluation.confusion.tolist(), strict=True):
        writer.writerow([name, *counts])
    return text.getvalue()
