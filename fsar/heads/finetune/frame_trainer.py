"""An experiment whose backbone trains on frames: from videos to a tuned backbone, a head, and a test."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fsar.device import seeded
from fsar.heads.episodes.sampler import EpisodePool
from fsar.heads.evaluation.protocol import Planned
from fsar.heads.finetune.frames import FrameSource, Inputs
from fsar.heads.finetune.learner import BACKBONE
from fsar.heads.finetune.tower import Tower
from fsar.heads.finetune.trainable import set_trainable
from fsar.heads.finetune.trainer import TEST_STORE, TunedTrainer
from fsar.heads.finetune.videos import VideoSet
from fsar.heads.run_folder import RunFolder
from fsar.heads.setup.task import Task
from fsar.heads.training.experiment import Experiment
from fsar.pipeline.encode.encode import EncodeOptions, encode
from fsar.pipeline.encode.engine import EngineOptions
from fsar.pipeline.pixels.published import PixelPipeline
from fsar.pipeline.pixels.spec import NORMALISATIONS
from fsar.pipeline.store import TextTable

if TYPE_CHECKING:
    from fsar.pipeline.catalog.catalog import CatalogRow


@dataclass(frozen=True)
class FrameTrainer(TunedTrainer):
    """Trains a backbone and a head together on frames.

    The final test encodes the test part once with the tuned backbone, into a store inside the run folder, and is then
    as fast as for any head.
    """

    videos: VideoSet = field(kw_only=True)
    images: PixelPipeline = field(kw_only=True)
    jobs: int = field(default=1, kw_only=True)
    """Processes that decode videos, or threads that read packs; 0 for none beside this one."""
    decoder: str = field(default="pyav", kw_only=True)
    text: Mapping[str, TextTable] = field(default_factory=dict, kw_only=True)

    def settings(self, experiment: Experiment) -> dict[str, Any]:
        """Return where the frames come from."""
        return {"videos": str(self.videos.path), "decoder": self.decoder}

    @contextmanager
    def inputs(self, experiment: Experiment, pools: Sequence[EpisodePool]) -> Iterator[Inputs]:
        """Give what the tower takes, of the videos of some pools."""
        task = experiment.task
        with self.videos.reader(jobs=self.jobs, decoder=self.decoder) as reader:
            yield FrameSource(
                self.videos, reader, self.images, n_frames=task.n_frames, seed=experiment.seed, device=task.device
            )

    def tower(self, experiment: Experiment) -> Tower:
        """Return the backbone as what trains, with what trains of it settled."""
        tower = Tower(self.backbone, experiment.task.taps)
        with seeded(experiment.seed):
            set_trainable(tower, self.tuning.trainable)
        return tower

    def text_tables(self, task: Task) -> Mapping[str, TextTable]:
        """Return the text that the backbone's own text tower made."""
        return self.text

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
            resize_width=test.resize_width,
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
