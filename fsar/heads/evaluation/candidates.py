"""What `fsar-eval-head` tests: a trained run, or a head as it is, on a store that fits it."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from fsar.device import seeded
from fsar.errors import InputError
from fsar.heads.episodes.feature_source import Where
from fsar.heads.evaluation.cost import cost
from fsar.heads.evaluation.evaluate import Evaluation
from fsar.heads.evaluation.protocol import Plan, Planned, describe_result, measure, plan_test, refuse_seen, write_result
from fsar.heads.evaluation.terms import TrainedTerms, departures, trained_terms
from fsar.heads.head import Head, create_head, list_heads
from fsar.heads.run_folder import DESCRIPTION, head_name, is_run, load_head, n_parameters, read_json
from fsar.heads.setup.class_text import check_text
from fsar.heads.setup.fit import check_recipe
from fsar.heads.setup.options import typed_options
from fsar.heads.setup.taps import feature_width
from fsar.heads.setup.task import Task, make_task
from fsar.splits import Split

if TYPE_CHECKING:
    from fsar.pipeline.store import FeatureStore


@dataclass(frozen=True, slots=True)
class Subject:
    """A head ready to be tested on a store."""

    label: str
    head: Head
    task: Task
    folder: Path | None
    """Of the run; None for an untrained head."""
    notes: list[str]
    trained: TrainedTerms | None = None
    """What the run was trained for; None for an untrained head, and for an imported checkpoint."""


@dataclass(frozen=True, slots=True)
class Reading:
    """How the heads of one test read the store; the fields are those of `make_task`."""

    split: str | Split | None = None
    taps: Mapping[str, str] = field(default_factory=dict)
    text: str | None = None
    n_frames: int | None = None
    device: str = "cpu"
    where: Where = "auto"
    allow_duplicates: bool = False

    def task(self, head: str, store: "FeatureStore", options: Mapping[str, Any] = MappingProxyType({})) -> Task:
        """Return the task of a head with such options; raises InputError where something that it needs is missing."""
        read = {item.name: getattr(self, item.name) for item in fields(self)}
        return make_task(head, store, levels=options.get("levels"), **read)


def load_subject(
    name: str | Head,
    store: "FeatureStore",
    reading: Reading,
    *,
    options: Mapping[str, Any] = MappingProxyType({}),
    allow_recipe: bool = False,
) -> Subject:
    """Return the run at path `name`, the untrained head of that name, or `name` itself if it is a head.

    Raises:
        InputError: neither a run nor a head, or a store that does not fit the run (the differing fields are named).
    """
    if isinstance(name, Head):
        return _as_it_is(name, store, reading, allow_recipe=allow_recipe)
    path = Path(name)
    if is_run(path):
        if options:
            raise InputError(f"{name} is a trained run: its options are fixed; leave --option out")
        return _load_run(path, store, reading, allow_recipe=allow_recipe)
    if path.is_dir():
        raise InputError(f"{name} holds no trained head ({DESCRIPTION} is missing); is its training finished?")
    if name not in list_heads():
        raise _neither(name)
    typed = typed_options(name, options)
    task = reading.task(name, store, typed)
    with seeded(0):
        head = create_head(name, **task.head_options(typed, None)).to(reading.device)
    notes = task.parts.notes()
    if n_parameters(head) and not _has_pretrained_meaning(head):
        notes.append(f"head {name!r} is untrained: its {n_parameters(head)} parameters are random (seed 0)")
    return Subject(name, head.eval(), task, None, notes)


def _as_it_is(head: Head, store: "FeatureStore", reading: Reading, *, allow_recipe: bool) -> Subject:
    name = head_name(head)
    task = reading.task(name, store, head.options)
    check_text(head, store, task.table)
    differing = check_recipe(head, store, allow=allow_recipe)
    notes = task.parts.notes()
    if differing:
        notes.append(f"{name} was trained on features of another recipe: {'; '.join(differing)}")
    return Subject(name, head.to(reading.device).eval(), task, None, notes)


def _neither(name: str) -> InputError:
    import difflib

    near = difflib.get_close_matches(name, list_heads(), n=3, cutoff=0.5) or list_heads()
    return InputError(
        f"{name!r} is neither a run folder nor a head; heads: {', '.join(near)} "
        "(a head of another package: is the package installed?)"
    )


def _has_pretrained_meaning(head: Head) -> bool:
    """Tell whether the parameters of an untrained head are only scales, as in `proto`."""
    return all(parameter.numel() == 1 for parameter in head.parameters())


def _load_run(path: Path, store: "FeatureStore", reading: Reading, *, allow_recipe: bool) -> Subject:
    head = load_head(path, reading.device)
    config = head.trained
    chosen = {**config.get("taps", {}), **reading.taps}
    reading = replace(
        reading,
        taps={role: tap for role, tap in chosen.items() if tap in store.taps or role in reading.taps},
        text=reading.text or _same_text(config, store),
        n_frames=reading.n_frames or config.get("n_frames"),
    )
    task = reading.task(read_json(path / DESCRIPTION, ["head"])["head"], store, head.options)
    notes = task.parts.notes()
    _check_width(path, head, task)
    check_text(head, store, task.table)
    differing = check_recipe(head, store, allow=allow_recipe)
    if differing:
        notes.append(f"{path.name} was trained on features of another recipe: {'; '.join(differing)}")
    head.trained = {**config, "val_classes": _selection_classes(config, task)}
    return Subject(path.name or str(path), head, task, path, notes, trained_terms(path))


def _selection_classes(config: Mapping[str, Any], task: Task) -> list[str]:
    """Return the classes that chose a run's weights; configs of version 0.1.0 do not list them."""
    if "val_classes" in config or not config.get("val_videos_sha256") or not config.get("val_episodes"):
        return list(config.get("val_classes", []))
    val = task.parts.pools.get("val")
    return list(val.class_names) if val and task.parts.sha256 == config.get("split_sha256") else []


def _same_text(config: Mapping[str, Any], store: "FeatureStore") -> str | None:
    table = config.get("text")
    return table if table in store.text_tables() else None


def _check_width(path: Path, head: Head, task: Task) -> None:
    dim = head.options.get("dim")
    first, tap = task.kind.inputs[0], next(iter(task.taps.values()))
    width = feature_width(first, task.store.taps[tap].shape)
    if dim is not None and dim != width:
        raise InputError(f"{path} takes features of width {dim}, tap {tap!r} of {task.store.path} has width {width}")


def with_distinct_labels(subjects: Sequence[Subject]) -> list[Subject]:
    """Return the subjects with labels that tell them apart: runs of one folder name get the folders above it, too.

    Raises:
        InputError: the same run or head is named twice.
    """
    labels = [subject.label for subject in subjects]
    for n_parts in range(2, 1 + max([len(s.folder.resolve().parts) for s in subjects if s.folder], default=0)):
        clashing = {label for label in labels if labels.count(label) > 1}
        labels = [
            "-".join(subject.folder.resolve().parts[-n_parts:]) if label in clashing and subject.folder else label
            for subject, label in zip(subjects, labels, strict=True)
        ]
    twice = next((label for label in labels if labels.count(label) > 1), None)
    if twice is not None:
        raise InputError(f"{subjects[labels.index(twice)].folder or twice} is named twice")
    return [replace(subject, label=label) for subject, label in zip(subjects, labels, strict=True)]


def result_folder(subject: Subject, out: Path | None) -> Path | None:
    """Return where the results of a subject go: `out`, else `eval/` of its run; None for an untrained head.

    Raises:
        InputError: `out` cannot be written.
    """
    folder = out or (subject.folder / "eval" if subject.folder else None)
    if out is not None and not is_writable(out):
        raise InputError(f"--out {out} cannot be written: name another folder")
    return folder


def is_writable(folder: Path) -> bool:
    """Tell whether files can be made in a folder, which may still have to be made itself."""
    nearest = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    return nearest.is_dir() and os.access(nearest, os.W_OK | os.X_OK)


def plan_subject(subject: Subject, plan: Plan, *, out: Path | None, allow_seen: bool) -> Planned:
    """Return the episodes that a subject is tested on; everything that can be refused is refused here.

    Raises:
        InputError: episodes that the store cannot fill, classes that are not new to the head, an `out` that cannot be
            written.
    """
    result_folder(subject, out)
    planned = plan_test(subject.task, plan)
    refuse_seen(planned, subject.head, allow_seen=allow_seen)
    return planned


def measure_subject(
    subject: Subject,
    planned: Planned,
    *,
    out: Path | None = None,
    allow_seen: bool = False,
    allow_recipe: bool = False,
    complexity: bool = False,
    quiet: bool = False,
) -> tuple[dict[str, Any], Evaluation]:
    """Test a subject and write its files below `out`, else below `eval/` of its run folder if that can be written.

    With `complexity`, the first episode is met a few times more, for what it costs.
    """
    folder = result_folder(subject, out)
    seen = refuse_seen(planned, subject.head, allow_seen=allow_seen)
    evaluation = measure(
        subject.head,
        subject.task,
        planned,
        label=subject.label,
        quiet=quiet,
        allow_seen=allow_seen,
        allow_recipe=allow_recipe,
    )
    notes = [*subject.notes]
    if planned.dropped:
        notes.append(f"classes dropped because they are too small: {', '.join(planned.dropped)}")
    if planned.part != planned.plan.part:
        notes.append(
            f"the store has no part {planned.plan.part!r}; its only part {planned.part or '(unnamed)'!r} was tested"
        )
    result = describe_result(subject.head, subject.task, planned, evaluation, {"label": subject.label, **seen})
    result |= {"notes": notes, "departures": departures(subject.trained, result)}
    if complexity:
        spent = cost(subject.head, subject.task, planned.pool, planned.episodes)
        result["complexity"] = {item.name: getattr(spent, item.name) for item in fields(spent)}
    if folder is not None:
        name = f"{subject.label}-{planned.part or 'all'}-{result['n_way']}way-{_name(result['n_shot'])}shot"
        _write(folder / name, result, evaluation, planned, named_by_user=out is not None)
    return result, evaluation


def _write(
    folder: Path, result: dict[str, Any], evaluation: Evaluation, planned: Planned, *, named_by_user: bool
) -> None:
    """Write a result; in a run that cannot be written, such as a colleague's, only say so: the numbers are there."""
    try:
        write_result(folder, result, evaluation, planned)
    except OSError as error:
        if named_by_user:
            raise
        result["notes"].append(
            f"the result was not saved, {folder.parent} cannot be written ({error.strerror or error}); "
            "--out FOLDER saves it elsewhere"
        )


def _name(shot: int | Sequence[int]) -> str:
    return str(shot) if isinstance(shot, int) else "-".join(map(str, shot))
