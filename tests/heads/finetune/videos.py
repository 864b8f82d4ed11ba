"""A small catalog of real video files, and a fine-tuning on them."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from fsar.heads.finetune.settings import FinetuneSettings
from fsar.heads.finetune.setup import finetune_task
from fsar.heads.recipes.presets import CACHED
from fsar.heads.training.experiment import run
from fsar.heads.training.train_head import make_experiment
from fsar.pipeline.catalog.catalog import Catalog, CatalogRow, write_catalog
from tests.videos import write_clip

BACKBONE = "random:timm/test_resnet"
PRESET = replace(CACHED, episodes_per_step=2, n_episodes=8, lr=1e-3)
PARTS = {"train": 4, "val": 2, "test": 3}
"""Part -> classes."""


def write_videos(folder: Path, *, n_videos: int = 4) -> Path:
    """Write short clips; return their catalog."""
    rows: list[CatalogRow] = []
    for part, n_classes in PARTS.items():
        for class_number in range(n_classes):
            for _ in range(n_videos):
                path = write_clip(folder / "videos" / f"{len(rows)}.avi", n_frames=4 + len(rows), size=(48, 40))
                name = f"moving {part} thing {class_number}"
                rows.append(CatalogRow(f"v{len(rows)}", path, name, path.stat().st_size, part))
    catalog = folder / "catalog.csv"
    write_catalog(Catalog(tuple(rows), "small"), catalog)
    return catalog


def finetune(videos: Path, out: Path, **settings: Any) -> dict[str, Any]:
    """Train, test and return the result."""
    experiment, trainer = prepared(videos, **settings)
    return run(experiment, out, trainer=trainer, quiet=True)[1]


def prepared(videos: Path, *, head: str = "otam", preset: Any = PRESET, options: Any = None, **settings: Any) -> Any:
    """Return an experiment and its trainer; nothing is trained yet."""
    defaults = {"finetune": BACKBONE, "size": 32, "frames": 2, "jobs": 0, "device": "cpu"}
    chosen = FinetuneSettings(
        head=head, videos=videos, way=2, query=1, test_episodes=50, val_episodes=20, validate_every=2, patience=0,
        options=options or {}, **{**defaults, **settings},
    )  # fmt: skip
    task, trainer = finetune_task(chosen, preset, None)
    return make_experiment(chosen, task=task, preset=preset), trainer
