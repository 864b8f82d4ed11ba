"""Training a head from its settings: one run for each seed, and what came of them."""

import statistics
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from fsar.heads.episodes.sampler import EpisodeShape
from fsar.heads.evaluation.protocol import Plan
from fsar.heads.evaluation.report import Format, percent, table
from fsar.heads.head import Head, head_type
from fsar.heads.recipes.presets import Preset, get_preset
from fsar.heads.run_folder import load_head
from fsar.heads.setup.options import typed_options
from fsar.heads.setup.task import Task
from fsar.heads.training.experiment import Experiment, Trainer, run
from fsar.heads.training.loop import TrainReport
from fsar.heads.training.settings import TrainSettings
from fsar.heads.training.text_chart import accuracy_chart


@dataclass(frozen=True, slots=True)
class TrainedHead:
    """One head, trained from one or several seeds."""

    folders: tuple[Path, ...]
    """Run folders, one for each seed."""
    results: tuple[dict[str, Any], ...]
    """What each run's `result.json` holds."""

    @property
    def accuracy(self) -> float | None:
        """Mean test accuracy over the seeds, in [0, 1]; None if they were not tested."""
        accuracies = self._accuracies()
        return statistics.mean(accuracies) if accuracies else None

    @property
    def std(self) -> float | None:
        """Standard deviation (ddof 1) over the seeds: the spread of training, not of the episodes; None below two."""
        accuracies = self._accuracies()
        return statistics.stdev(accuracies) if len(accuracies) > 1 else None

    @property
    def notes(self) -> list[str]:
        """What to know of decisions that were taken on the way."""
        return list(dict.fromkeys(note for result in self.results for note in result["notes"]))

    def head(self, place: int = 0, device: str = "cpu") -> Head:
        """Return the head of one run, in evaluation mode."""
        return load_head(self.folders[place], device)

    def table(self, style: Format = "text") -> str:
        """Return the test results, a row for each seed."""
        return table([{**result, "label": f"{result['head']} seed {result['seed']}"} for result in self.results], style)

    def to_dict(self) -> dict[str, Any]:
        """Return everything for JSON."""
        data: dict[str, Any] = {"runs": [str(folder) for folder in self.folders], "results": list(self.results)}
        if len(self.results) > 1:
            mean = self.accuracy if self.std is not None else None
            data["seeds"] = {"mean": mean, "std": self.std, "n_seeds": len(self._accuracies()) or len(self.results)}
        return data

    def to_text(self) -> str:
        """Return table and notes for people."""
        charts = [chart for folder in self.folders[:1] if (chart := accuracy_chart(folder))]
        lines = [self.table(), *charts, *self._trainings(), *(f"note: {note}" for note in self.notes)]
        if len(self.results) > 1:
            spread = f"{percent(self.accuracy)} %, standard deviation {percent(self.std)}"
            lines.append(f"mean of {len(self.results)} seeds: {spread}")
        where = ", ".join(map(str, self.folders))
        return "\n".join([*lines, f"written to {where} (curves: tensorboard --logdir {self.folders[0]})"])

    def _trainings(self) -> list[str]:
        """Return a line for each seed that was trained: how long, why it ended, which weights are kept."""
        known = {field.name for field in fields(TrainReport)}
        found = [(result["seed"], result.get("training")) for result in self.results]
        return [
            f"seed {seed}: {TrainReport(**{key: value for key, value in report.items() if key in known}).to_text()}"
            for seed, report in found
            if report
        ]

    def _accuracies(self) -> list[float]:
        return [result["accuracy"] for result in self.results if result["accuracy"] is not None]


Prepare = Callable[[TrainSettings], tuple[Experiment, Trainer | None]]
"""From settings to an experiment, and a trainer where it is not a head on the features of a store."""


def train_head(settings: TrainSettings, *, prepare: Prepare | None = None) -> TrainedHead:
    """Train, select on the validation part and test, once for each seed. An unfinished run goes on.

    Args:
        settings: What to train.
        prepare: Called for each seed, for training may change what it prepared; None for heads on features.

    Raises:
        InputError: settings, store or episodes that do not fit the head, or a folder that holds another run.
        KeyboardInterrupt: asked to stop; the state is saved.
    """
    seeds = settings.seeds or (settings.seed,)
    folders, results = [], []
    for seed in seeds:
        out = settings.out / f"seed-{seed}" if settings.out and len(seeds) > 1 else settings.out
        experiment, trainer = prepare(settings) if prepare else (make_experiment(settings), None)
        folder, result = run(replace(experiment, seed=seed), out, trainer=trainer, quiet=settings.quiet)
        folders.append(folder.path)
        if result:  # not in processes that only help to train
            results.append(result)
    return TrainedHead(tuple(folders), tuple(results))


def make_experiment(settings: TrainSettings, *, task: Task | None = None, preset: Preset | None = None) -> Experiment:
    """Return what the settings mean: everything that all seeds share.

    Args:
        settings: Of the training.
        task: What the head gets; None for that from the store.
        preset: The recipe; None for the chosen one.

    Raises:
        InputError: something that the head or a setting needs is missing.
    """
    options = typed_options(settings.head, settings.options)
    if task is None:
        levels = options.get("levels")
        task = settings.task(settings.head, settings.opened(), val_share=settings.val_share, levels=levels)
    preset = preset or chosen_preset(settings, task.parts.name)
    query = preset.n_query if settings.query is None else settings.query
    plan = Plan(
        EpisodeShape(settings.way, settings.shot, settings.test_query),
        n_episodes=settings.test_episodes,
        seed=settings.test_seed,
        file=settings.episodes_file,
        drop_small_classes=settings.drop_small_classes,
    )
    return Experiment(
        task=task,
        options=options,
        shape=EpisodeShape(settings.way, settings.shot, query, settings.unlabelled),
        test=plan if settings.test else None,
        preset=preset,
        val_episodes=settings.val_episodes,
        validate_every=settings.validate_every,
        patience=settings.patience,
        select_on=settings.select_on,
        amp=settings.amp,
        drop_small_classes=settings.drop_small_classes,
    )


def chosen_preset(settings: TrainSettings, split: str) -> Preset:
    """Return the recipe with what the settings change; a changed length stretches the schedule of `cached`."""
    n_shot = settings.shot if isinstance(settings.shot, int) else max(settings.shot)
    preset = get_preset(settings.preset, settings.head, split, n_shot=n_shot)
    if head_type(settings.head).training_unit == "pairs":
        preset = preset.of_pairs()
        reason = f"head {settings.head!r} trains on pairs of videos"
        settings.refuse_changed(("query", "episodes_per_step"), reason)
    preset = replace(
        preset,
        lr=settings.lr or preset.lr,
        episodes_per_step=settings.episodes_per_step or preset.episodes_per_step,
    )
    n_episodes = settings.episodes or (settings.steps or 0) * preset.episodes_per_step
    return replace(preset, n_episodes=n_episodes) if n_episodes else preset
