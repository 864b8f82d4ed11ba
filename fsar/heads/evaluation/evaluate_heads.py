"""Testing heads from settings: each on the same episodes, for each number of shots."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from fsar.errors import InputError
from fsar.heads.episodes.sampler import EpisodeShape
from fsar.heads.episodes.saved_list import save_list
from fsar.heads.evaluation.candidates import (
    Reading,
    Subject,
    load_subject,
    measure_subject,
    plan_subject,
    with_distinct_labels,
)
from fsar.heads.evaluation.evaluate import Comparison, Evaluation, compare
from fsar.heads.evaluation.protocol import ORDER_EPISODES, Plan, Planned
from fsar.heads.evaluation.report import Format, percent, table
from fsar.heads.evaluation.settings import EvaluateSettings
from fsar.heads.evaluation.spread import Spread, fold_spreads
from fsar.heads.evaluation.terms import TrainedTerms, agreed, agreed_split, are_folds, trained_terms
from fsar.heads.run_folder import is_run

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Measured:
    """One head at one number of shots."""

    result: dict[str, Any]
    """What `result.json` holds."""
    evaluation: Evaluation


@dataclass(frozen=True, slots=True)
class Compared:
    """Two heads on the same episodes."""

    first: dict[str, Any]
    second: dict[str, Any]
    paired: Comparison

    def to_dict(self) -> dict[str, Any]:
        """Return the difference for JSON."""
        names = {"first": self.first["label"], "second": self.second["label"], "n_shot": self.first["n_shot"]}
        return {**names, "difference": self.paired.difference, "ci95": self.paired.ci95}

    def to_text(self) -> str:
        """Return the difference as a sentence."""
        verdict = "clear" if self.paired.is_clear else "not clear"
        episodes = f"{self.first['n_shot']}-shot, same {self.first['n_episodes']} episodes"
        difference = f"{100 * self.paired.difference:+.2f} ± {percent(self.paired.ci95)} points"
        return f"{self.first['label']} minus {self.second['label']}, {episodes}: {difference} ({verdict} at 95 %)"


@dataclass(frozen=True, slots=True)
class EvaluationReport:
    """What a test of several heads at several shots gave."""

    measured: tuple[tuple[Measured, ...], ...]
    """For each number of shots, each head."""
    comparisons: tuple[Compared, ...]
    n_heads: int
    """How many of the heads were to be tested; a further one only serves for comparison."""
    by_shot: bool
    """True if several numbers of shots were asked for."""

    @property
    def accuracy(self) -> float | dict[int, float]:
        """Mean accuracy, in [0, 1], over episodes and over the heads (the seeds of one run); by shots if asked."""
        return self._by_shot(lambda evaluation: evaluation.mean)

    @property
    def ci95(self) -> float | dict[int, float | None] | None:
        """Half-width of the 95 % interval of `accuracy` over episodes of these videos; None for a single episode."""
        return self._by_shot(lambda evaluation: evaluation.ci95)

    def _by_shot(self, number: Callable[[Evaluation], T]) -> T | dict[int, T]:
        tested = [heads[: self.n_heads] for heads in self.measured]
        found = {heads[0].result["n_shot"]: number(mean_over_heads(heads)) for heads in tested}
        return found if self.by_shot else next(iter(found.values()))

    @property
    def results(self) -> list[dict[str, Any]]:
        """One result per head and number of shots."""
        return [each.result for heads in self.measured for each in heads]

    @property
    def notes(self) -> list[str]:
        """What to know of the results."""
        return list(dict.fromkeys(note for result in self.results for note in result["notes"]))

    @property
    def spreads(self) -> list[Spread]:
        """The spread over folds of a benchmark's classes, where runs on several were tested."""
        return fold_spreads(self.results)

    def table(self, style: Format = "text") -> str:
        """Return the results, one row each."""
        return table(self.results, style)

    def to_dict(self) -> dict[str, Any]:
        """Return everything for JSON."""
        return {
            "results": self.results,
            "comparisons": [each.to_dict() for each in self.comparisons],
            "spreads": [each.to_dict() for each in self.spreads],
        }


def mean_over_heads(measured: Sequence[Measured]) -> Evaluation:
    """Return the mean accuracy of several heads in each episode, and their confusions added up.

    Heads on several folds answer other classes: each class then has the counts of the heads that were asked for it.
    """
    evaluations = [each.evaluation for each in measured]
    accuracies = np.mean([evaluation.accuracies for evaluation in evaluations], axis=0)
    names = tuple(dict.fromkeys(name for evaluation in evaluations for name in evaluation.class_names))
    confusion = np.zeros((len(names),) * 2, np.int64)
    for evaluation in evaluations:
        places = [names.index(name) for name in evaluation.class_names]
        confusion[np.ix_(places, places)] += evaluation.confusion
    return replace(evaluations[0], accuracies=accuracies, confusion=confusion, class_names=names)


@dataclass(frozen=True, slots=True)
class Evaluating:
    """Heads and episodes that fit together; nothing is measured yet."""

    settings: EvaluateSettings
    subjects: tuple[Subject, ...]
    planned: tuple[tuple[Planned, ...], ...]
    """For each number of shots, the episodes of each head."""

    @classmethod
    def of(cls, settings: EvaluateSettings) -> "Evaluating":
        """Return what the settings ask for. Raises InputError as `evaluate_heads` does."""
        terms = _terms(settings)
        reading = Reading(
            split=terms["split"],
            taps=settings.taps,
            text=settings.text,
            n_frames=settings.frames,
            device=settings.chosen_device(),
            where=settings.features,
            allow_duplicates=settings.allow_duplicates,
        )
        store, own_splits = settings.opened(), terms["splits"]
        found = [
            load_subject(
                name,
                store,
                replace(reading, split=own_splits.get(name, reading.split)),
                options=settings.options,
                allow_recipe=settings.allow_recipe,
            )
            for name in settings.names
        ]
        subjects = with_distinct_labels(found)
        plans = [_plan(settings, terms, shot) for shot in terms["shots"]]
        planned = [
            [plan_subject(subject, plan, out=settings.out, allow_seen=settings.allow_seen) for subject in subjects]
            for plan in plans
        ]
        return cls(settings, tuple(subjects), tuple(map(tuple, planned)))

    def measure(self, place: int) -> tuple[Measured, ...]:
        """Test the head at a place, with each number of shots."""
        return tuple(
            Measured(
                *measure_subject(
                    self.subjects[place],
                    of_plan[place],
                    out=self.settings.out,
                    allow_seen=self.settings.allow_seen,
                    allow_recipe=self.settings.allow_recipe,
                    complexity=self.settings.complexity,
                    quiet=self.settings.quiet,
                )
            )
            for of_plan in self.planned
        )

    def report(self, of_heads: Sequence[tuple[Measured, ...]]) -> EvaluationReport:
        """Return the report of what `measure` returned for each head, in order."""
        measured = tuple(zip(*of_heads, strict=True))
        comparisons: list[Compared] = []
        if self.settings.compare is not None:
            comparisons = [_compared(here[0], other) for here in measured for other in here[1:]]
        if self.settings.save_episodes is not None:
            save_list(self.planned[0][0].listed, self.settings.save_episodes)
        n_heads = len(dict.fromkeys(self.settings.heads))
        return EvaluationReport(measured, tuple(comparisons), n_heads, self.settings.shots is not None)


def evaluate_heads(settings: EvaluateSettings) -> EvaluationReport:
    """Test every head on the same episodes; nothing is measured before everything is found to fit.

    Raises:
        InputError: a head that is none, a store that does not fit it, classes that are not new to it.
    """
    evaluating = Evaluating.of(settings)
    return evaluating.report([evaluating.measure(place) for place in range(len(evaluating.subjects))])


def _compared(first: Measured, second: Measured) -> Compared:
    return Compared(first.result, second.result, compare(first.evaluation, second.evaluation))


def _terms(settings: EvaluateSettings) -> dict[str, Any]:
    """Return split, part, way and shots: as given, else as the runs were trained. Folds have a split each."""
    of_run = {
        name: terms
        for name in settings.names
        if isinstance(name, str) and is_run(Path(name)) and (terms := trained_terms(Path(name)))
    }
    runs = list(of_run.values())
    by_fold = settings.split is None and are_folds(runs)
    if by_fold:
        _refuse_beside_folds(settings, of_run)
    from_file = settings.episodes_file is not None  # a saved list has its own way and shots
    shot = 1 if from_file else settings.shot
    return {
        "shots": settings.shots or [agreed("shot", shot, runs, lambda run: run.n_shot, 1)],
        "split": settings.split if settings.split is not None else None if by_fold else agreed_split(None, runs),
        "splits": {name: terms.split() for name, terms in of_run.items()} if by_fold else {},
        "part": agreed("part", settings.part, runs, lambda run: run.part, "test"),
        "way": agreed("way", 5 if from_file else settings.way, runs, lambda run: run.n_way, 5),
    }


def _refuse_beside_folds(settings: EvaluateSettings, of_run: Mapping[str, TrainedTerms]) -> None:
    """Raise InputError for what needs one list of test classes."""
    untrained = [str(name) for name in settings.names if name not in of_run]
    if untrained:
        raise InputError(f"the runs were trained on several folds; say on which one {untrained[0]} is tested: --split")
    if settings.compare is not None or settings.episodes_file is not None or settings.save_episodes is not None:
        raise InputError(
            "the runs were trained on several folds, which test other classes each: leave --compare, --episodes-file "
            "and --save-episodes out, or test on one fold with --split"
        )


def _plan(settings: EvaluateSettings, terms: Mapping[str, Any], shot: Any) -> Plan:
    return Plan(
        EpisodeShape(terms["way"], shot, settings.query),
        n_episodes=settings.episodes,
        part=terms["part"],
        seed=settings.seed,
        file=settings.episodes_file,
        drop_small_classes=settings.drop_small_classes,
        order_episodes=ORDER_EPISODES if settings.order else 0,
    )
