"""An experiment whose backbone trains: from videos to a tuned backbone, a head, and a test on its features."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from fsar.errors import InputError
from fsar.heads.episodes.batches import EpisodeData
from fsar.heads.episodes.feature_source import FeatureSource
from fsar.heads.episodes.sampler import EpisodePool
from fsar.heads.evaluation.evaluate import Evaluation, evaluate
from fsar.heads.evaluation.protocol import Planned, plan_test
from fsar.heads.finetune.episodes import FrameEpisodes, StepEpisodes
from fsar.heads.finetune.features import TowerFeatures
from fsar.heads.finetune.frames import FailedVideos, Inputs, without_rows
from fsar.heads.finetune.groups import finetune_optimizer
from fsar.heads.finetune.learner import FinetuneLearner
from fsar.heads.finetune.memory import LossScale, checkpoint_blocks, precision_note
from fsar.heads.finetune.model import EndToEnd
from fsar.heads.finetune.processes import Processes
from fsar.heads.finetune.step import ALONE, Memory
from fsar.heads.finetune.tower import Tower
from fsar.heads.finetune.tuning import Tuning
from fsar.heads.head import Head
from fsar.heads.run_folder import CONFIG, RunFolder, open_run, read_json, write_json
from fsar.heads.setup.start import start_from
from fsar.heads.setup.task import Task, make_task
from fsar.heads.training.experiment import Experiment, Trained, Validation, validation
from fsar.heads.training.loop import Validate, train_learner
from fsar.pipeline.backbones import Backbone
from fsar.pipeline.store import TextTable, open_store, write_text
from fsar.progress import say

FAILED, TEST_STORE = "failed_videos.json", "test.zarr"


@dataclass(frozen=True)
class TunedTrainer(ABC):
    """Trains a backbone, or a part of it, and a head together: all that does not depend on what the tower takes."""

    backbone: Backbone
    tuning: Tuning = field(default_factory=Tuning)
    memory: Memory = field(default_factory=Memory)
    checkpointing: bool = field(default=False, kw_only=True)
    """Keep only the inputs of blocks in training and compute the rest again."""
    save_every_seconds: float = field(default=60.0, kw_only=True)
    processes: Processes = field(default=ALONE, kw_only=True)

    @abstractmethod
    def settings(self, experiment: Experiment) -> dict[str, Any]:
        """Return what decides the run beside how it trains, for its config file."""

    @abstractmethod
    def inputs(self, experiment: Experiment, pools: Sequence[EpisodePool]) -> AbstractContextManager[Inputs]:
        """Give what the tower takes, of the videos of some pools."""

    @abstractmethod
    def tower(self, experiment: Experiment) -> Tower:
        """Return what embeds, with what trains of it settled."""

    @abstractmethod
    def text_tables(self, task: Task) -> Mapping[str, TextTable]:
        """Return the class text that the head reads, by table."""

    @abstractmethod
    def encode(self, experiment: Experiment, planned: Planned, folder: RunFolder, *, quiet: bool) -> Path:
        """Return the store of the test part's features by the tuned backbone, made or completed."""

    @property
    def writes(self) -> bool:
        """True in the first process."""
        return self.processes.writes

    def open_run(self, out: Path | None, name: str, config: Mapping[str, Any]) -> RunFolder:
        """Return the folder that the first process opens; what it refuses, all refuse."""
        path, refused = None, None
        if self.writes:
            try:
                path = open_run(out, name, config).path
            except InputError as error:
                refused = error
        path, refused = self.processes.from_first((path, refused))
        if refused is not None or path is None:
            raise refused or InputError("no run folder")
        return RunFolder(path)

    def config(self, experiment: Experiment) -> dict[str, Any]:
        """Return the start of the backbone and how it trains."""
        store = experiment.task.store
        memory = {name: None if value is None else str(value) for name, value in asdict(self.memory).items()}
        return {
            **self.settings(experiment),
            "start": dict(store.recipe),
            "start_id": store.recipe_id,
            "tuning": dict(self.tuning.describe()),
            "memory": {**memory, "checkpointing": self.checkpointing},
        }

    def start(self, experiment: Experiment, head: Head) -> None:
        """Give a head that asks for it its first weights, from the backbone as it starts."""
        if head.starts_from_backbone:
            start_from(head, self.backbone)

    def train(
        self, experiment: Experiment, head: Head, pool: EpisodePool, folder: RunFolder, *, quiet: bool
    ) -> Trained:
        """Train both in place; write the head and `backbone.safetensors`."""
        task, options = experiment.task, experiment.train_options()
        options = replace(options, save_every_seconds=self.save_every_seconds, writes=self.writes)
        model = self.model(experiment, head)
        optimizer = finetune_optimizer(model, options.preset, self.tuning)
        seed = experiment.seed
        learner = FinetuneLearner(
            model, optimizer, options.preset, self.tuning, self.memory, seed, task.device, self.processes
        )
        failed = FailedVideos(folder.path / (FAILED if self.writes else f"{self.processes.rank}-{FAILED}"))
        if self.writes and not quiet and (note := precision_note(self.memory.autocast, task.device)):
            say(f"note: {note}")
        val, notes = validation(experiment, quiet=quiet or not self.writes)
        with self.inputs(experiment, [pool, val.pool] if val else [pool]) as source:
            episodes = self._episodes(experiment, source, pool, failed)
            report = train_learner(
                learner,
                episodes,
                self._validate(val, experiment, source) if val else None,
                folder.path,
                options,
                device=task.device,
                quiet=quiet or not self.writes,
            )
            episodes.share_failed(report.n_steps)
        return report, [*notes, *_failed_notes(failed)]

    def model(self, experiment: Experiment, head: Head) -> EndToEnd:
        """Return the head and the backbone as one model."""
        tower = self.tower(experiment)
        if self.checkpointing and not tower.is_frozen:
            checkpoint_blocks(tower)
        scale = LossScale() if self.memory.autocast is torch.float16 else None
        return EndToEnd(tower, head, scale).to(experiment.task.device)

    def _episodes(
        self, experiment: Experiment, source: Inputs, pool: EpisodePool, failed: FailedVideos
    ) -> StepEpisodes:
        task, options = experiment.task, experiment.train_options()
        text = task.class_text(pool)
        make = FrameEpisodes(
            source,
            pool,
            failed,
            seed=experiment.seed,
            shape=None if task.kind.training_unit == "pairs" else experiment.shape,
            classes_per_batch=options.preset.classes_per_batch,
            class_text=None if text is None else text.to(task.device),
            all_templates=task.kind.ordered_text,
        )
        n = options.preset.episodes_per_step
        return StepEpisodes(
            make, self.tuning, n_steps=options.n_steps, episodes_per_step=n, processes=self.processes, failed=failed
        )

    def _validate(self, val: Validation, experiment: Experiment, source: Inputs) -> Validate:
        """Return the evaluation of a model: the validation videos are embedded once, then it is a head on features."""
        task = experiment.task

        def validate(model: EndToEnd) -> Evaluation:
            return self.processes.from_first(evaluated(model) if self.writes else None)

        def evaluated(model: EndToEnd) -> Evaluation:
            rows, micro_batch = np.unique(val.pool.rows), self.memory.micro_batch
            features = TowerFeatures(model.tower, source, rows, task.store, micro_batch=micro_batch)
            left = replace(val, pool=without_rows(val.pool, sorted(features.failed)))
            pool = left.pool.without_small_classes(left.shape.n_videos)[0]
            data = EpisodeData(cast("FeatureSource", features), class_text=task.class_text(pool))
            return evaluate(model.head, data, replace(left, pool=pool).episodes(), pool.class_names)

        return validate

    def tested(
        self, experiment: Experiment, planned: Planned, folder: RunFolder, *, quiet: bool
    ) -> tuple[Task, Planned]:
        """Encode the test part with the tuned backbone and return the task and episodes on that store."""
        task = experiment.task
        path = self.encode(experiment, planned, folder, quiet=quiet)
        for table in self.text_tables(task).values():
            if table.name not in open_store(path).text_tables():
                write_text(path, table)
        store = open_store(path)
        tested = make_task(
            task.name,
            store,
            split=task.parts.split,
            taps=task.taps,
            text=task.table,
            n_frames=task.n_frames,
            device=task.device,
            where=task.where,
            allow_duplicates=not task.parts.duplicates,
        )
        recipe = {"recipe": dict(store.recipe), "recipe_id": store.recipe_id, "store": str(path)}
        write_json(folder.path / CONFIG, {**read_json(folder.path / CONFIG), **recipe})
        assert experiment.test is not None
        return tested, plan_test(tested, experiment.test)


def _failed_notes(failed: FailedVideos) -> list[str]:
    if not failed.failed:
        return []
    named = ", ".join(f"{entry.video_id} ({entry.reason})" for entry in failed.failed)
    return [f"{len(failed.failed)} training videos could not be read and were left out: {named}"]
