"""An experiment whose last blocks train from a store of tokens: from tokens to a tuned backbone, a head, and a test."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from fsar.heads.episodes.sampler import EpisodePool
from fsar.heads.evaluation.protocol import Planned
from fsar.heads.finetune.frames import Inputs
from fsar.heads.finetune.tokens import TokenSource, TokenStore, write_features
from fsar.heads.finetune.tower import Tower
from fsar.heads.finetune.trainer import TEST_STORE, TunedTrainer
from fsar.heads.finetune.upper import UpperTower
from fsar.heads.run_folder import RunFolder
from fsar.heads.setup.task import Task, union_rows
from fsar.heads.training.experiment import Experiment
from fsar.pipeline.store import TextTable


@dataclass(frozen=True)
class TokenTrainer(TunedTrainer):
    """Trains the last blocks of a transformer and a head together on the tokens of a store.

    The final test runs the stored tokens of the test part through the tuned blocks once, into a store inside the run
    folder.
    """

    n_blocks: int = field(kw_only=True)
    store: TokenStore = field(kw_only=True)

    def settings(self, experiment: Experiment) -> dict[str, Any]:
        """Return where the tokens are."""
        return {"store": self.store.address, "store_manifest": self.store.identity, "tokens": self.store.tokens_tap}

    @contextmanager
    def inputs(self, experiment: Experiment, pools: Sequence[EpisodePool]) -> Iterator[Inputs]:
        """Give the tokens of the videos of some pools."""
        task = experiment.task
        yield TokenSource(
            self.store.whole,
            self.store.tokens_tap,
            union_rows(pools),
            n_frames=task.n_frames,
            seed=experiment.seed,
            device=task.device,
            where=task.where,
        )

    def tower(self, experiment: Experiment) -> Tower:
        """Return the last blocks, which train."""
        return UpperTower(self.backbone, self.n_blocks, experiment.task.taps)

    def text_tables(self, task: Task) -> Mapping[str, TextTable]:
        """Return the text of the store that the head reads."""
        return {task.table: self.store.text(task.table)} if task.table else {}

    def encode(self, experiment: Experiment, planned: Planned, folder: RunFolder, *, quiet: bool) -> Path:
        """Return the store of the test part's features, made or completed."""
        path, rows = folder.path / TEST_STORE, np.unique(planned.pool.rows)
        tower = self.tower(experiment).to(experiment.task.device)
        write_features(tower, self.store, rows.tolist(), path, micro_batch=self.memory.micro_batch)
        return path
