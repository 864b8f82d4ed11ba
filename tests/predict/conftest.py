"""A small world of colours: a store with three parts, a trained run, supports and queries."""

from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from fsar.heads.episodes.sampler import EpisodeShape
from fsar.heads.evaluation.protocol import Plan
from fsar.heads.recipes.presets import CACHED
from fsar.heads.setup.task import make_task
from fsar.heads.training.experiment import Experiment, run
from fsar.pipeline.catalog.catalog import CatalogRow
from fsar.pipeline.encode.encode import EncodeOptions, encode
from fsar.pipeline.encode.report import EngineOptions
from fsar.pipeline.store import open_store
from tests.predict.clips import write_class

PARTS = {
    "train": ("white", "black", "orange"),
    "val": ("green", "cyan", "purple", "red"),
    "test": ("blue", "yellow", "magenta"),
}
BACKBONE = "random:timm/test_resnet"
N_CLIPS = 5


@dataclass(frozen=True)
class World:
    folder: Path
    store: Path
    run: Path
    support: Path
    query: Path


@pytest.fixture(scope="session")
def world(tmp_path_factory) -> World:
    folder = tmp_path_factory.mktemp("world")
    rows = [
        CatalogRow(path.stem, path, name, path.stat().st_size, part)
        for part, names in PARTS.items()
        for name in names
        for path in write_class(folder / "videos", name, N_CLIPS)
    ]
    options = EncodeOptions(BACKBONE, size=64, n_slots=8, engine=EngineOptions(jobs=0))
    store = encode(rows, folder / "colours.zarr", options, quiet=True).path
    for name in ("blue", "yellow", "magenta"):
        write_class(folder / "support", name, 2, first_seed=100)
        write_class(folder / "query", name, 1, first_seed=200)
    return World(folder, store, train(store, folder / "run"), folder / "support", folder / "query")


def train(store: Path, out: Path, head: str = "otam", **options: object) -> Path:
    """Train a head for a few steps and return its run folder."""
    experiment = Experiment(
        task=make_task(head, open_store(store)),
        options=options or {"adapter": "linear"},
        shape=EpisodeShape(2, 1, 1),
        test=Plan(EpisodeShape(2, 1, 1), n_episodes=50),
        preset=replace(CACHED, n_episodes=20, episodes_per_step=4),
        val_episodes=20,
    )
    return run(experiment, out, quiet=True)[0].path
