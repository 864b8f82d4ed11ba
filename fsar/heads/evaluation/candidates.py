"""What `fsar-eval-head` tests: a trained run, or a head as it is, on a store that fits it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fsar.device import seeded
from fsar.errors import InputError
from fsar.heads.episodes.feature_source import Where
from fsar.heads.episodes.split_parts import STATUS_OK
from fsar.heads.evaluation.evaluate import Evaluation
from fsar.heads.evaluation.protocol import Plan, Planned, describe_result, measure, plan_test, refuse_seen, write_result
from fsar.heads.head import Head, create_head, list_heads
from fsar.heads.run_folder import CONFIG, DESCRIPTION, is_run, load_head, n_parameters, read_json
from fsar.heads.setup.options import parse_options
from fsar.heads.setup.taps import feature_width
from fsar.heads.setup.task import Task, make_task

if TYPE_CHECKING:
    from fsar.pipeline.store import FeatureStore

FREE_FIELDS = ("taps", "n_views", "flip", "jitter", "format", "dtype")
"""Fields of a recipe that may differ between training and test: they do not change what a first view shows."""
SEEDLESS_SAMPLERS = ("uniform-center", "uniform-ends", "dense", "trx", "clipfsar-interval")
"""Samplers that draw nothing: with these the seed may differ, too."""


@dataclass(frozen=True, slots=True)
class Subject:
    """A head ready to be tested on a store."""

    label: str
    head: Head
    task: Task
    folder: Path | None
    """Of the run; None for an untrained head."""
    train_classes: list[str]
    notes: list[str]


def load_subject(
    name: str,
    store: "FeatureStore",
    *,
    split: str | None,
    taps: Mapping[str, str],
    text: str | None,
    n_frames: int | None,
    device: str,
    where: Where,
    options: Sequence[str] = (),
    allow_recipe: bool = False,
) -> Subject:
    """Return the run at path `name`, or the untrained head of that name.

    Raises:
        InputError: neither a run nor a head, or a store that does not fit the run (the differing fields are named).
    """
    path = Path(name)
    if is_run(path):
        if options:
            raise InputError(f"{name} is a trained run: its options are fixed; leave --option out")
        return _load_run(path, store, split, taps, text, n_frames, device, where, allow_recipe)
    if path.is_dir():
        raise InputError(f"{name} holds no trained head ({DESCRIPTION} is missing); is its training finished?")
    if name not in list_heads():
        import difflib

        near = difflib.get_close_matches(name, list_heads(), n=3, cutoff=0.5) or list_heads()
        raise InputError(f"{name!r} is neither a run folder nor a head; heads: {', '.join(near)}")
    task = make_task(name, store, split=split, taps=taps, text=text, n_frames=n_frames, device=device, where=where)
    with seeded(0):
        head = create_head(name, **task.head_options(parse_options(name, options), None)).to(device)
    notes = _store_notes(task)
    if n_parameters(head) and not _has_pretrained_meaning(head):
        notes.append(f"head {name!r} is untrained: its {n_parameters(head)} parameters are random (seed 0)")
    return Subject(name, head.eval(), task, None, [], notes)


def _has_pretrained_meaning(head: Head) -> bool:
    """Tell whether the parameters of an untrained head are only scales, as in `proto`."""
    return all(parameter.numel() == 1 for parameter in head.parameters())


def _load_run(
    path: Path,
    store: "FeatureStore",
    split: str | None,
    taps: Mapping[str, str],
    text: str | None,
    n_frames: int | None,
    device: str,
    where: Where,
    allow_recipe: bool,
) -> Subject:
    config = read_json(path / CONFIG) if (path / CONFIG).is_file() else {}
    head = load_head(path, device)
    chosen = {**config.get("taps", {}), **taps}
    known = {role: tap for role, tap in chosen.items() if tap in store.taps or role in taps}
    task = make_task(
        read_json(path / DESCRIPTION)["head"],
        store,
        split=split,
        taps=known,
        text=text or _same_text(config, store),
        n_frames=n_frames or config.get("n_frames"),
        device=device,
        where=where,
    )
    notes = _store_notes(task)
    _check_width(path, head, task)
    differing = _check_recipe(path, config, store, allow_recipe=allow_recipe)
    if differing:
        notes.append(f"{path.name} was trained on features of another recipe: {'; '.join(differing)}")
    return Subject(path.name or str(path), head, task, path, list(config.get("train_classes", [])), notes)


def _same_text(config: Mapping[str, Any], store: "FeatureStore") -> str | None:
    table = config.get("text")
    return table if table in store.text_tables() else None


def _check_width(path: Path, head: Head, task: Task) -> None:
    dim = head.options.get("dim")
    first = task.kind.inputs[0]
    tap = task.taps[first.role]
    width = feature_width(first, task.store.taps[tap].shape)
    if dim is not None and dim != width:
        raise InputError(f"{path} takes features of width {dim}, tap {tap!r} of {task.store.path} has width {width}")


def _check_recipe(path: Path, config: Mapping[str, Any], store: "FeatureStore", *, allow_recipe: bool) -> list[str]:
    """Return the fields in which the store's recipe differs from the run's; raises InputError unless allowed."""
    from fsar.pipeline.store import differing_fields

    if "recipe" not in config or config.get("recipe_id") == store.recipe_id:
        return []
    free = (*FREE_FIELDS, *(["seed"] if store.recipe.get("sampler") in SEEDLESS_SAMPLERS else []))
    trained, here = ({k: v for k, v in r.items() if k not in free} for r in (config["recipe"], store.recipe))
    differing = differing_fields(trained, here)
    if differing and not allow_recipe:
        raise InputError(
            f"{store.path} was made by another recipe than the features {path} was trained on: "
            f"{'; '.join(differing)}. Encode with the same settings, or pass --allow-recipe"
        )
    return differing


def _store_notes(task: Task) -> list[str]:
    failed = sum(1 for status in task.store.status if status != STATUS_OK)
    return [f"{failed} videos of {task.store.path} could not be encoded and are never drawn"] if failed else []


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


def measure_subject(
    subject: Subject, plan: Plan, *, out: Path | None, allow_seen: bool, quiet: bool
) -> tuple[dict[str, Any], Evaluation, Planned]:
    """Test a subject and write its files below `out`, else below `eval/` of its run folder."""
    planned = plan_test(subject.task, plan)
    seen = refuse_seen(planned, subject.train_classes, allow_seen=allow_seen)
    evaluation = measure(subject.head, subject.task, planned, label=subject.label, quiet=quiet)
    notes = [*subject.notes]
    if planned.dropped:
        notes.append(f"classes dropped because they are too small: {', '.join(planned.dropped)}")
    if planned.part != plan.part:
        notes.append(f"the store has no part {plan.part!r}; its only part {planned.part or '(unnamed)'!r} was tested")
    facts = {"label": subject.label, "seen_classes": seen, "notes": notes}
    result = describe_result(subject.head, subject.task, planned, evaluation, facts)
    folder = out or (subject.folder / "eval" if subject.folder else None)
    if folder is not None:
        stem = f"{subject.label}-{planned.part or 'all'}-{result['n_way']}way-{_name(result['n_shot'])}shot"
        write_result(folder / stem, result, evaluation, planned)
    return result, evaluation, planned


def _name(shot: int | Sequence[int]) -> str:
    return str(shot) if isinstance(shot, int) else "-".join(map(str, shot))
