"""Testing a head on a part of a store: the episode list, what must hold before, and the files of a result."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from fsar.errors import InputError
from fsar.files import atomic_path, write_atomic
from fsar.heads.episodes.feature_source import FeatureSource
from fsar.heads.episodes.sampler import EpisodePool, Episodes, EpisodeSampler, EpisodeShape
from fsar.heads.episodes.saved_list import EpisodeList, load_list, save_list, to_list
from fsar.heads.episodes.split_parts import STATUS_OK, overlapping_classes, usable_pool
from fsar.heads.evaluation.evaluate import Evaluation, compare, evaluate
from fsar.heads.evaluation.published import published_result
from fsar.heads.head import Head
from fsar.heads.run_folder import RESULT, n_parameters, write_json
from fsar.heads.setup.fit import check_recipe
from fsar.heads.setup.task import Task
from fsar.progress import Advance, progress

ORDER_EPISODES = 1000
"""Episodes that are met again with shuffled frames: enough for an interval of about one point."""


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
    order_episodes: int = ORDER_EPISODES
    """The first episodes are met a second time with the frames of each video shuffled; 0 for none."""


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
    copies = task.parts.duplicates
    copy = next((task.store.videos[row].video_id for row in rows if task.store.videos[row].video_id in copies), None)
    if copy is not None:
        raise InputError(
            f"{plan.file} uses video {copy!r}, which is the same file as {copies[copy]!r}: draw other episodes, "
            "or pass --allow-duplicates"
        )
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


def refuse_seen(planned: Planned, head: Head, *, allow_seen: bool) -> dict[str, list[str]]:
    """Return the tested classes that the head has seen: those it was trained on, and those that chose its weights.

    Raises:
        InputError: there are any, and `allow_seen` is off.
    """
    tested = planned.pool.class_names
    seen = {
        "seen_classes": overlapping_classes(tested, head.trained.get("train_classes", ())),
        "selection_classes": overlapping_classes(tested, head.trained.get("val_classes", ())),
    }
    refuse_overlap(seen["seen_classes"], "the head was trained on", planned, allow_seen=allow_seen)
    refuse_overlap(seen["selection_classes"], "the weights of the head were chosen by", planned, allow_seen=allow_seen)
    return seen


def refuse_overlap(seen: Sequence[str], what: str, planned: Planned, *, allow_seen: bool = False) -> None:
    """Raise InputError for tested classes that are no longer new to a head, unless allowed."""
    if seen and not allow_seen:
        more = f" and {len(seen) - 1} more" if len(seen) > 1 else ""
        raise InputError(
            f"{what} class {seen[0]!r}{more} of part {planned.part or '(unnamed)'!r}: the result "
            "would not be few-shot; choose another --part, or pass --allow-seen to have it marked in the result"
        )


def measure(
    head: Head,
    task: Task,
    planned: Planned,
    *,
    label: str = "test",
    quiet: bool = False,
    allow_seen: bool = False,
    allow_recipe: bool = False,
) -> Evaluation:
    """Return how a head does on planned episodes, and what shuffling the frames costs on the first of them.

    Raises:
        InputError: a head of a run was trained on features of another recipe, or has seen classes of the test, and
            that is not allowed.
    """
    check_recipe(head, task.store, allow=allow_recipe)
    refuse_seen(planned, head, allow_seen=allow_seen)
    source, names = task.source(planned.episodes.rows()), planned.pool.class_names
    n_order = planned.plan.order_episodes if source.n_frames > 1 else 0
    ordered = planned.episodes[:n_order]

    def answer(source: FeatureSource, episodes: Episodes, advance: Advance) -> Evaluation:
        data = task.episode_data(source, planned.pool)
        return evaluate(head, data, episodes, names, advance=advance, allow_recipe=allow_recipe)

    with progress(label, len(planned.episodes) + len(ordered), unit="episodes", quiet=quiet) as advance:
        evaluation = answer(source, planned.episodes, advance)
        if not len(ordered):
            return evaluation
        shuffled = answer(source.shuffled(), ordered, advance)
    return replace(evaluation, order=compare(evaluation.first(len(ordered)), shuffled))


def describe_result(
    head: Head, task: Task, planned: Planned, evaluation: Evaluation, facts: Mapping[str, Any]
) -> dict[str, Any]:
    """Return a result for `result.json`: the numbers, and everything that says what they are numbers of."""
    shape = planned.plan.shape
    n_shot = shape.n_shot if planned.plan.file is None else _counts(planned.episodes.support_labels)
    n_way = planned.episodes.n_way
    expected = published_result(task.name, task.store.recipe, split=task.parts.name, n_way=n_way, n_shot=n_shot)
    return {
        "head": task.name,
        "options": dict(head.options),
        "compat": head.options.get("compat", "fixed"),
        "inductive": head.inductive,
        "n_parameters": n_parameters(head),
        "accuracy": evaluation.mean,
        "ci95": evaluation.ci95,
        "n_episodes": len(evaluation.accuracies),
        "order": asdict(evaluation.order) if evaluation.order else None,
        "seconds_per_episode": evaluation.seconds / len(evaluation.accuracies),
        "n_way": n_way,
        "n_shot": n_shot,
        "n_query": shape.n_query if planned.plan.file is None else _counts(planned.episodes.query_labels),
        "part": planned.part,
        "split": task.parts.name,
        "split_sha256": task.parts.sha256,
        "store": task.store.address,
        "recipe_id": task.store.recipe_id,
        "taps": dict(task.taps),
        "text": task.table,
        "episodes_sha256": planned.sha256,
        "episodes_seed": planned.plan.seed if planned.plan.file is None else None,
        "per_class_accuracy": evaluation.per_class,
        "failed_videos": dict(task.parts.failed),
        "duplicate_videos": dict(task.parts.duplicates),
        "dropped_classes": planned.dropped,
        "published": expected,
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
