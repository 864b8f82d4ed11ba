"""An experiment whose backbone trains: from videos to a tuned backbone, a head, and a test on its features."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch

from fsar.device import seeded
from fsar.errors import InputError
from fsar.heads.episodes.batches import EpisodeData
from fsar.heads.episodes.feature_source import FeatureSource
from fsar.heads.episodes.sampler import EpisodePool
from fsar.heads.evaluation.evaluate import Evaluation, evaluate
from fsar.heads.evaluation.protocol import Planned, plan_test
from fsar.heads.finetune.episodes import FrameEpisodes, StepEpisodes
from fsar.heads.finetune.features import TowerFeatures
from fsar.heads.finetune.frames import FailedVideos, FrameSource, without_rows
from fsar.heads.finetune.groups import finetune_optimizer
from fsar.heads.finetune.learner import BACKBONE, FinetuneLearner
from fsar.heads.finetune.memory import LossScale, checkpoint_blocks
from fsar.heads.finetune.model import EndToEnd
from fsar.heads.finetune.processes import Processes
from fsar.heads.finetune.step import ALONE, Memory
from fsar.heads.finetune.tower import Tower
from fsar.heads.finetune.trainable import set_trainable
from fsar.heads.finetune.tuning import Tuning
from fsar.heads.finetune.videos import VideoSet
from fsar.heads.head import Head
from fsar.heads.run_folder import CONFIG, RunFolder, open_run, read_json, write_json
from fsar.heads.setup.task import Task, make_task
from fsar.heads.training.experiment import Experiment, Trained, Validation, validation
from fsar.heads.training.loop import Validate, train_learner
from fsar.pipeline.backbones import Backbone
from fsar.pipeline.encode.encode import EncodeOptions, encode
from fsar.pipeline.encode.engine import EngineOptions
from fsar.pipeline.pixels.published import PixelPipeline
from fsar.pipeline.pixels.spec import NORMALISATIONS
from fsar.pipeline.store import TextTable, open_store, write_text

if TYPE_CHECKING:
    from fsar.pipeline.catalog.catalog import CatalogRow

FAILED, TEST_STORE = "failed_videos.json", "test.zarr"


@dataclass(frozen=True)
class FinetuneTrainer:
    """Trains a backbone and a head together on frames.

    The final test encodes the test part once with the tuned backbone, into a store inside the run folder, and is then
    as fast as for any head.
    """

    videos: VideoSet
    backbone: Backbone
    images: PixelPipeline
    tuning: Tuning = field(default_factory=Tuning)
    memory: Memory = field(default_factory=Memory)
    checkpointing: bool = False
    """Keep only the inputs of blocks in training and compute the rest again."""
    jobs: int = 1
    """Processes that decode videos, or threads that read packs; 0 for none beside this one."""
    decoder: str = "pyav"
    text: Mapping[str, TextTable] | None = None
    save_every_seconds: float = 60.0
    processes: Processes = ALONE

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
            "videos": str(self.videos.path),
            "start": dict(store.recipe),
            "start_id": store.recipe_id,
            "tuning": dict(self.tuning.describe()),
            "memory": {**memory, "checkpointing": self.checkpointing},
            "decoder": self.decoder,
        }

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
        val, notes = validation(experiment, quiet=quiet or not self.writes)
        with self.videos.reader(jobs=self.jobs, decoder=self.decoder) as reader:
            source = FrameSource(
                self.videos, reader, self.images, n_frames=task.n_frames, seed=seed, device=task.device
            )
            report = train_learner(
                learner,
                self._episodes(experiment, source, pool, failed),
                self._validate(val, experiment, source) if val else None,
                folder.path,
                options,
                device=task.device,
                quiet=quiet or not self.writes,
            )
        return report, [*notes, *_failed_notes(failed)]

    def model(self, experiment: Experiment, head: Head) -> EndToEnd:
        """Return the head and the backbone as one model, with what trains of it settled."""
        tower = Tower(self.backbone, experiment.task.taps)
        with seeded(experiment.seed):
            set_trainable(tower, self.tuning.trainable)
        if self.checkpointing and not tower.is_frozen:
            checkpoint_blocks(tower)
        scale = LossScale() if self.memory.autocast is torch.float16 else None
        return EndToEnd(tower, head, scale).to(experiment.task.device)

    def _episodes(
        self, experiment: Experiment, source: FrameSource, pool: EpisodePool, failed: FailedVideos
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
        )
        n = options.preset.episodes_per_step
        return StepEpisodes(make, self.tuning, n_steps=options.n_steps, episodes_per_step=n, processes=self.processes)

    def _validate(self, val: Validation, experiment: Experiment, source: FrameSource) -> Validate:
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
        for table in (self.text or {}).values():
            if table.name not in open_store(path).text_tables():
                write_text(path, table)
        store = open_store(path)
        tested = make_task(
            task.name,
            store,
            split=task.parts.split,
            taps=task.taps,
            text=task.table,
            device=task.device,
            where=task.where,
            allow_duplicates=not task.parts.duplicates,
        )
        recipe = {"recipe": dict(store.recipe), "recipe_id": store.recipe_id, "store": str(path)}
        write_json(folder.path / CONFIG, {**read_json(folder.path / CONFIG), **recipe})
        assert experiment.test is not None
        return tested, plan_test(tested, experiment.test)

    def encode(self, experiment: Experiment, planned: Planned, folder: RunFolder, *, quiet: bool) -> Path:
        """Return the store of the test part's features, made or completed."""
        rows = [row for row, video in enumerate(self.videos.videos) if video.part == planned.part]
        report = encode(
            self._catalog_rows(rows), folder.path / TEST_STORE, self._encode_options(experiment, folder), quiet=quiet
        )
        return report.path

    def _encode_options(self, experiment: Experiment, folder: RunFolder) -> EncodeOptions:
        task, test = experiment.task, self.images.test
        spec = f"{self.backbone.library}:{self.backbone.name}"
        known = [name for name, values in NORMALISATIONS.items() if values == (test.mean, test.std)]
        return EncodeOptions(
            backbone=spec,
            weights=folder.path / BACKBONE,
            taps=tuple(dict.fromkeys(task.taps.values())),
            sampler=self.images.test_sampler,
            n_slots=task.n_frames,
            resize_mode=test.mode,
            resize=test.resize,
            size=test.size,
            interpolation=test.interpolation,
            antialias=test.antialias,
            arithmetic=test.arithmetic,
            normalisation=known[0] if known else "backbone",
            decoder=self.decoder,
            dtype="float32",
            engine=EngineOptions(device=task.device, jobs=self.jobs),
        )

    def _catalog_rows(self, rows: list[int]) -> "list[CatalogRow]":
        from fsar.pipeline.catalog.catalog import CatalogRow

        videos = [self.videos.videos[row] for row in rows]
        return [CatalogRow(v.video_id, Path(v.path), v.class_name, 0, v.part) for v in videos]


def _failed_notes(failed: FailedVideos) -> list[str]:
    if not failed.failed:
        return []
    named = ", ".join(f"{entry.video_id} ({entry.reason})" for entry in failed.failed)
    return [f"{len(failed.failed)} training videos could not be read and were left out: {named}"]
