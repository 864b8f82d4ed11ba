"""One training from start to result: what the command `fsar-train-head` does for each seed."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np

from fsar.device import seeded
from fsar.errors import InputError, count_of
from fsar.files import write_atomic
from fsar.heads.episodes.batches import EpisodeData, PairData
from fsar.heads.episodes.feature_source import FeatureSource
from fsar.heads.episodes.sampler import EpisodePool, Episodes, EpisodeSampler, EpisodeShape
from fsar.heads.episodes.sampler import describe as describe_shape
from fsar.heads.episodes.split_parts import overlapping_classes, usable_pool
from fsar.heads.evaluation.evaluate import Evaluation, evaluate
from fsar.heads.evaluation.protocol import (
    Plan,
    Planned,
    describe_result,
    measure,
    plan_test,
    refuse_overlap,
    write_result,
)
from fsar.heads.evaluation.report import model_card
from fsar.heads.head import Head, create_head, head_type, list_heads
from fsar.heads.recipes.presets import CACHED, Preset
from fsar.heads.run_folder import RESULT, SPLIT, RunFolder, n_parameters, open_run, read_json, save_head, write_json
from fsar.heads.setup.start import start_from_store
from fsar.heads.setup.task import Task, union_rows
from fsar.heads.training.loop import Batch, TrainOptions, TrainReport, Validate, train
from fsar.progress import say

BLOCK_STEPS = 64
"""Steps whose episodes are drawn at once: episodes are the same in any block, but blocks are far cheaper."""
MIN_STEPS = 10
"""Between validations: a short training would otherwise spend its time, and its patience, on them."""
VAL_SEED = 1_000_003
"""Of the validation list: one list for all seeds of training, and not the test list."""


@dataclass(frozen=True, slots=True)
class Experiment:
    """A head to train on a task, and how."""

    task: Task
    options: Mapping[str, Any]
    """Of the head."""
    shape: EpisodeShape
    """Of training episodes."""
    test: Plan | None
    """None: no test after training."""
    preset: Preset = CACHED
    seed: int = 0
    val_episodes: int = 200
    validate_every: int | None = None
    """Steps; None for a twentieth of the training, but not below MIN_STEPS."""
    patience: int = 10
    select_on: str = "val"
    """Part whose episodes choose the weights."""
    amp: bool = False
    drop_small_classes: bool = False

    @property
    def selection_pool(self) -> EpisodePool | None:
        """The classes that choose the weights; None where the split has no such part."""
        return self.task.parts.pools.get(self.select_on)

    def train_options(self) -> TrainOptions:
        """Return the options of the loop."""
        preset = self.preset.of_pairs() if self.task.kind.training_unit == "pairs" else self.preset
        options = TrainOptions(preset, seed=self.seed, patience=self.patience, amp=self.amp)
        return replace(options, validate_every=self.validate_every or max(options.n_steps // 20, MIN_STEPS))


Trained = tuple[TrainReport | None, list[str]]
"""What a training did, None if there was nothing to train, and what the user should know of it."""


class Trainer(Protocol):
    """How the weights of an experiment come about, and the features that they are tested on."""

    @property
    def writes(self) -> bool:
        """False in all processes but one, where several train one model: the others train and leave."""
        ...

    def open_run(self, out: Path | None, name: str, config: Mapping[str, Any]) -> RunFolder:
        """Return the folder of the run, the same in all processes."""
        ...

    def config(self, experiment: Experiment) -> dict[str, Any]:
        """Return what decides the run beside the experiment, for its config file."""
        ...

    def start(self, experiment: Experiment, head: Head) -> None:
        """Give a head that asks for it its first weights, from the backbone whose features it reads."""
        ...

    def train(
        self, experiment: Experiment, head: Head, pool: EpisodePool, folder: RunFolder, *, quiet: bool
    ) -> Trained:
        """Train the head in place and save it."""
        ...

    def tested(
        self, experiment: Experiment, planned: Planned, folder: RunFolder, *, quiet: bool
    ) -> tuple[Task, Planned]:
        """Return the task and the episodes of the final test."""
        ...


@dataclass(frozen=True, slots=True)
class FeatureTrainer:
    """Trains heads on the features of a store."""

    weights: Path | None = None
    """Checkpoint of the store's backbone, where it was encoded with a file and the head starts from it."""
    writes: ClassVar[bool] = True

    def open_run(self, out: Path | None, name: str, config: Mapping[str, Any]) -> RunFolder:
        """Return the folder of the run."""
        return open_run(out, name, config)

    def config(self, experiment: Experiment) -> dict[str, Any]:
        """Return the recipe of the features."""
        store = experiment.task.store
        recipe = {"recipe": dict(store.recipe), "recipe_id": store.recipe_id}
        return {"store": store.address, "store_manifest": store.identity, **recipe}

    def start(self, experiment: Experiment, head: Head) -> None:
        """Give a head that asks for it its first weights, from the backbone that made the store."""
        start_from_store(head, experiment.task.store, self.weights)

    def train(
        self, experiment: Experiment, head: Head, pool: EpisodePool, folder: RunFolder, *, quiet: bool
    ) -> Trained:
        """Train the head in place."""
        return _train(experiment, head, pool, folder, quiet=quiet)

    def tested(
        self, experiment: Experiment, planned: Planned, folder: RunFolder, *, quiet: bool
    ) -> tuple[Task, Planned]:
        """Return what was planned, on the store of the training."""
        return experiment.task, planned


def run(
    experiment: Experiment, out: Path | None, *, trainer: Trainer | None = None, quiet: bool = False
) -> tuple[RunFolder, dict[str, Any]]:
    """Train, test and write everything; return the run folder and the result. An unfinished run goes on.

    Args:
        experiment: What to train and test.
        out: Run folder; None for a new one below `runs`.
        trainer: How to train; None for a head on the features of its store.
        quiet: Show no progress.

    Returns:
        The folder and the result; no result in processes that do not write.

    Raises:
        InputError: the store cannot feed the head or the episodes, or the folder holds another run.
        KeyboardInterrupt: asked to stop; the state is saved.
    """
    task, trainer = experiment.task, trainer or FeatureTrainer()
    _refuse_unread(experiment)
    pool, pool_notes = _train_pool(experiment)
    options = task.head_options({**experiment.preset.options, **experiment.options}, pool)
    planned = plan_test(task, experiment.test) if experiment.test else None
    if planned:
        both = overlapping_classes(planned.pool.class_names, pool.class_names)
        refuse_overlap(both, "the head is trained on", planned)
    task.class_text(pool)  # a table that does not fit is found before anything is written
    with seeded(experiment.seed):
        head = create_head(task.name, **options)
    trainer.start(experiment, head)  # a backbone that is not at hand is found before anything is written, too
    config = {**_config(experiment, options, pool, planned), **trainer.config(experiment)}
    name = f"{task.name}-{Path(task.parts.name).stem}"
    folder = trainer.open_run(out, name, config)
    if task.parts.split is not None and trainer.writes:
        write_atomic(folder.path / SPLIT, task.parts.split.to_csv())
    if folder.is_finished:
        return folder, read_json(folder.path / RESULT, ("head", "seed", "accuracy", "notes"))
    report, notes = trainer.train(experiment, head.to(task.device), pool, folder, quiet=quiet)
    if not trainer.writes:
        return folder, {}
    facts = {"seed": experiment.seed, "preset": experiment.preset.name, "notes": [*pool_notes, *notes]}
    facts |= {"training": asdict(report) if report else None}
    if planned and report:
        facts["selection_classes"] = overlapping_classes(planned.pool.class_names, _val_classes(experiment))
    tested = trainer.tested(experiment, planned, folder, quiet=quiet) if planned else None
    result = _test(experiment, head, folder, tested, facts, quiet=quiet)
    write_atomic(folder.path / "README.md", model_card(folder.config, result))
    return folder, result


def _refuse_unread(experiment: Experiment) -> None:
    """Raise InputError for unlabelled videos that the head would pass over."""
    if experiment.shape.n_unlabelled and not experiment.task.kind.reads_unlabelled:
        readers = ", ".join(name for name in list_heads() if head_type(name).reads_unlabelled)
        raise InputError(f"head {experiment.task.name!r} does not read unlabelled videos; heads that do: {readers}")


def _train_pool(experiment: Experiment) -> tuple[EpisodePool, list[str]]:
    """Return the training classes, and what to know of them."""
    task, notes = experiment.task, list[str]()
    if "train" not in task.parts.pools and list(task.parts.pools) == [""]:
        raise InputError(
            f"the videos of {task.store.path} belong to no part: name a split with --split, or index them with parts"
        )
    pool, dropped = usable_pool(task.parts, "train", experiment.shape, drop_small_classes=experiment.drop_small_classes)
    if dropped:
        named = ", ".join(f"{name} ({count})" for name, count in dropped.items())
        notes.append(f"training classes dropped because they are too small: {named}")
    if task.store.n_views > 1 and any(task.store.videos[row].part in ("val", "test") for row in pool.rows):
        notes.append("some training videos were encoded as val or test videos: all their views are the first")
    return pool, [*notes, *task.parts.notes()]


def _config(
    experiment: Experiment, options: Mapping[str, Any], pool: EpisodePool, planned: Planned | None
) -> dict[str, Any]:
    task, loop = experiment.task, experiment.train_options()
    return {
        "head": task.name,
        "options": dict(options),
        "taps": dict(task.taps),
        "text": task.table,
        "n_frames": task.n_frames,
        "split": task.parts.name,
        "split_sha256": task.parts.sha256,
        "train_classes": list(pool.class_names),
        "val_classes": _val_classes(experiment),
        "val_share": task.parts.val_share,
        "train_videos_sha256": _videos_sha256(task, pool),
        "val_videos_sha256": _videos_sha256(task, experiment.selection_pool),
        "episodes": describe_shape(experiment.shape),
        "preset": loop.preset.describe(),
        "seed": experiment.seed,
        "n_steps": loop.n_steps,
        "validate_every": loop.validate_every,
        "val_episodes": experiment.val_episodes,
        "patience": experiment.patience,
        "amp": experiment.amp,
        "device": task.device,
        "test_episodes_sha256": planned.sha256 if planned else None,
        **({} if experiment.select_on == "val" else {"select_on": experiment.select_on}),
    }


def _val_classes(experiment: Experiment) -> list[str]:
    """Return the classes that choose the weights; none without validation."""
    val = experiment.selection_pool
    return list(val.class_names) if val is not None and experiment.val_episodes else []


def _videos_sha256(task: Task, pool: EpisodePool | None) -> str:
    """Return the hash of the classes and videos of a pool: a store that has grown is another training set."""
    if pool is None:
        return ""
    rows = np.split(pool.rows, np.cumsum(pool.counts)[:-1])
    videos = {
        name: [task.store.videos[row].video_id for row in own] for name, own in zip(pool.class_names, rows, strict=True)
    }
    return hashlib.sha256(json.dumps(videos, ensure_ascii=False).encode()).hexdigest()


def _train(experiment: Experiment, head: Head, pool: EpisodePool, folder: RunFolder, *, quiet: bool) -> Trained:
    """Train the head in place, if it has anything to train."""
    if n_parameters(head) == 0:
        save_head(folder.path, head.eval())
        hint = " (--option adapter=temporal adds some)" if "adapter" in type(head).__init__.__annotations__ else ""
        return None, [f"head {experiment.task.name!r} has no parameters: nothing is trained{hint}"]
    val, notes = validation(experiment, quiet=quiet)
    pools = [pool, val.pool] if val else [pool]
    source = experiment.task.source(union_rows(pools))
    report = train(
        head,
        _Batches(experiment, source, pool),
        val.validate(experiment.task, source) if val else None,
        folder.path,
        replace(experiment.train_options(), prefetch=source.reads_ahead),
        device=experiment.task.device,
        quiet=quiet,
    )
    return report, notes


class _Batches:
    """Step number -> batch."""

    def __init__(self, experiment: Experiment, source: FeatureSource, pool: EpisodePool) -> None:
        task, preset, seed = experiment.task, experiment.preset, experiment.seed
        self._n_episodes = preset.episodes_per_step
        self._pairs: PairData | None = None
        self._drawn: tuple[int, Episodes] | None = None
        if task.kind.training_unit == "pairs":
            text = task.class_text(pool)
            n_classes = preset.classes_per_batch
            self._pairs = PairData(source, pool, n_classes=n_classes, seed=seed, class_text=text)
        else:
            self._sampler = EpisodeSampler(pool, experiment.shape, seed=seed)
            self._data: EpisodeData = task.episode_data(source, pool, visits_seed=seed)

    def __call__(self, step: int) -> Batch:
        if self._pairs is not None:
            return self._pairs.batch(step)
        block, place = divmod(step, BLOCK_STEPS)
        drawn = self._drawn  # another thread may ask for other steps
        if drawn is None or drawn[0] != block:
            n_episodes = BLOCK_STEPS * self._n_episodes
            self._drawn = drawn = block, self._sampler.draw(block * n_episodes, n_episodes)
        start = place * self._n_episodes
        return self._data.batch(drawn[1][start : start + self._n_episodes])


@dataclass(frozen=True, slots=True)
class Validation:
    """The fixed episodes by which weights are selected."""

    pool: EpisodePool
    shape: EpisodeShape
    n_episodes: int

    def episodes(self) -> Episodes:
        """Return them; they are the same for every seed of training."""
        return EpisodeSampler(self.pool, self.shape, seed=VAL_SEED).draw(0, self.n_episodes)

    def validate(self, task: Task, source: FeatureSource) -> Validate:
        """Return the evaluation of a head on features of the pool's videos."""
        episodes = self.episodes()
        data = task.episode_data(source, self.pool)

        def validate(head: Head) -> Evaluation:
            return evaluate(head, data, episodes, self.pool.class_names)

        return validate


def validation(experiment: Experiment, *, quiet: bool = False) -> tuple[Validation | None, list[str]]:
    """Return the validation episodes, with fewer ways or queries where the part is small, and what to know of them.

    None if the part is absent or too small: the last weights are kept then. What to know is said at once as well,
    unless `quiet`: before the training is the time to choose otherwise.
    """
    val, notes = _validation(experiment)
    if not quiet:
        for note in notes:
            say(f"note: {note}")
    return val, notes


def _validation(experiment: Experiment) -> tuple[Validation | None, list[str]]:
    val, shape = experiment.selection_pool, experiment.shape
    if val is None and experiment.select_on != "val":
        raise InputError(f"--select-on {experiment.select_on}: {experiment.task.parts.name} has no such part")
    if val is None or experiment.val_episodes == 0:
        reason = "no validation was asked for" if val is not None else "the split has no validation part"
        hint = "" if val is not None else "; --val-share 0.2 holds a fifth of the training classes out"
        return None, [f"{reason}: these are the last weights, and nothing stopped them from overfitting{hint}"]
    pool, _ = val.without_small_classes(_shot(shape) + 1)
    if pool.n_classes < 2:
        return None, [f"no two validation classes have {_shot(shape) + 1} videos: the last weights are kept"]
    n_way = min(shape.n_way, pool.n_classes)
    n_query = min(5, int(pool.counts.min()) - _shot(shape))
    short = f"the validation part has {count_of(n_way, 'class')}: validation is {n_way}-way"
    notes = [short] if n_way < shape.n_way else []
    if experiment.select_on != "val":
        notes.append("the test classes choose the weights: the result is not that of new classes")
    return Validation(pool, EpisodeShape(n_way, _shot(shape), n_query), experiment.val_episodes), notes


def _shot(shape: EpisodeShape) -> int:
    return max(shape.shots)


def _test(
    experiment: Experiment,
    head: Head,
    folder: RunFolder,
    tested: tuple[Task, Planned] | None,
    facts: Mapping[str, Any],
    *,
    quiet: bool,
) -> dict[str, Any]:
    if tested is None:
        result = {"head": experiment.task.name, "options": dict(head.options), "accuracy": None, **facts}
        write_json(folder.path / RESULT, result)
        return result
    task, planned = tested
    evaluation = measure(head, task, planned, quiet=quiet)
    result = describe_result(head, task, planned, evaluation, facts)
    write_result(folder.path, result, evaluation, planned)
    return result
