"""Fine-tuning on video files: what it writes, that it goes on exactly, what it tests on, what it refuses."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch

from fsar.errors import InputError
from fsar.heads.episodes.batches import EpisodeData
from fsar.heads.evaluation.evaluate import evaluate
from fsar.heads.finetune.features import TowerFeatures
from fsar.heads.finetune.frames import FrameSource
from fsar.heads.finetune.learner import FinetuneLearner
from fsar.heads.finetune.tower import Tower
from fsar.heads.recipes.presets import get_preset
from fsar.heads.run_folder import load_head
from fsar.heads.training.experiment import run
from fsar.pipeline.backbones import load_backbone, read_weights
from fsar.pipeline.store import open_store
from tests.heads.finetune.videos import BACKBONE, PRESET, finetune, prepared, write_videos


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_videos(tmp_path_factory.mktemp("videos"))


@pytest.fixture(scope="module")
def trained(catalog: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    out = tmp_path_factory.mktemp("runs") / "otam"
    return out, finetune(catalog, out)


def test_a_run_leaves_a_backbone_that_moved_and_that_encode_takes(trained: tuple[Path, dict]) -> None:
    out, result = trained
    tuned = load_backbone(f"timm:test_resnet/{out / 'backbone.safetensors'}", size=32).module.state_dict()
    start = load_backbone(BACKBONE, size=32).module.state_dict()
    assert tuned.keys() == start.keys()
    moved = {name for name in tuned if not torch.equal(tuned[name], start[name])}
    assert {name for name, _ in load_backbone(BACKBONE, size=32).module.named_parameters()} <= moved
    assert result["n_episodes"] == 50
    assert result["part"] == "test"
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert {"val/accuracy", "loss/total", "lr"} <= {key for line in lines for key in line}


def test_the_store_of_the_test_part_gives_what_live_evaluation_gives(catalog: Path, trained: tuple[Path, dict]) -> None:
    out, result = trained
    experiment, trainer = prepared(catalog, finetune=f"timm:test_resnet/{out / 'backbone.safetensors'}")
    head = load_head(out)
    tower = Tower(trainer.backbone, experiment.task.taps)
    with trainer.videos.reader(jobs=0) as reader:
        source = FrameSource(trainer.videos, reader, trainer.images, n_frames=2)
        pool = experiment.task.parts.pool("test")
        live = TowerFeatures(tower, source, np.unique(pool.rows), experiment.task.store)
        stored = open_store(out / "test.zarr")
        assert [video.video_id for video in stored.videos] == [
            experiment.task.store.videos[row].video_id for row in np.unique(pool.rows)
        ]
        features = live.gather(np.unique(pool.rows))["frames"]
        torch.testing.assert_close(features, torch.from_numpy(stored.read("pooled", np.arange(12))))
        from fsar.heads.episodes.sampler import EpisodeSampler

        episodes = EpisodeSampler(pool, experiment.test.shape, seed=0).draw(0, 50)
        head.trained = {}
        found = evaluate(head, EpisodeData(cast("object", live)), episodes, pool.class_names)
    assert found.mean == pytest.approx(result["accuracy"])


class Killed(BaseException):
    pass


def killed_after(monkeypatch: pytest.MonkeyPatch, n_steps: int) -> None:
    """Let a training die in the middle of the step after `n_steps`, as kill -9 does: nothing is saved then."""
    step = FinetuneLearner.step

    def dying(self, number, batch, monitor):
        if number == n_steps:
            next(batch)
            raise Killed
        return step(self, number, batch, monitor)

    monkeypatch.setattr(FinetuneLearner, "step", dying)


@pytest.mark.parametrize("settings", [{}, {"batch_norm": "eval", "micro_batch": 3}, {"trainable": "last:1"}])
def test_a_killed_run_ends_with_the_same_bytes(
    catalog: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict
) -> None:
    whole = finetune(catalog, tmp_path / "whole", **settings)
    experiment, trainer = prepared(catalog, **settings)
    killed_after(monkeypatch, 3)
    with pytest.raises(Killed):
        run(experiment, tmp_path / "cut", trainer=replace(trainer, save_every_seconds=0.0), quiet=True)
    assert (tmp_path / "cut" / "state.safetensors").is_file()
    monkeypatch.undo()
    cut = finetune(catalog, tmp_path / "cut", **settings)
    assert cut["accuracy"] == whole["accuracy"]
    for name in ("backbone.safetensors", "head.safetensors", "metrics.jsonl"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name


def test_other_ways_to_spare_memory_reach_the_same_weights(catalog: Path, tmp_path: Path) -> None:
    states = []
    for name, settings in (("plain", {}), ("cut", {"micro_batch": 3}), ("blocks", {"checkpoint_blocks": True})):
        finetune(catalog, tmp_path / name, batch_norm="eval", **settings)
        states.append(read_weights(tmp_path / name / "backbone.safetensors")[0])
    for state in states[1:]:
        torch.testing.assert_close(state, states[0], rtol=1e-4, atol=1e-5)


def test_a_video_that_fails_is_met_once_and_listed(tmp_path: Path) -> None:
    catalog = write_videos(tmp_path / "videos", n_videos=5)
    (tmp_path / "videos" / "videos" / "2.avi").write_bytes(b"not a video")
    result = finetune(catalog, tmp_path / "run", preset=replace(PRESET, n_episodes=16))
    failed = json.loads((tmp_path / "run" / "failed_videos.json").read_text())
    assert [entry["video_id"] for entry in failed] == ["v2"]
    assert any("v2 (not-a-video)" in note for note in result["notes"])


def test_training_stops_when_too_few_videos_are_left(tmp_path: Path) -> None:
    catalog = write_videos(tmp_path / "videos", n_videos=2)
    for number in range(6):
        (tmp_path / "videos" / "videos" / f"{number}.avi").write_bytes(b"not a video %d" % number)
    with pytest.raises(InputError, match=r"training videos could not be read, and the others are too few"):
        finetune(catalog, tmp_path / "run", preset=replace(PRESET, n_episodes=32))


def test_pairs_of_videos_train_a_backbone(catalog: Path, tmp_path: Path) -> None:
    options = {"width": 12, "ffn_dim": 12, "n_heads": 2, "n_patches": 1}
    preset = replace(PRESET, classes_per_batch=3)
    result = finetune(catalog, tmp_path / "run", head="hcl", options=options, preset=preset)
    assert math.isfinite(result["accuracy"])


@pytest.mark.parametrize("trainable", ["lora:2", "norm", "none"])
def test_a_head_that_reads_text_trains_with_a_part_of_clip(catalog: Path, tmp_path: Path, trainable: str) -> None:
    backbone = "random:open_clip/fsar-ViT-T-8"
    preset = replace(PRESET, n_episodes=2)
    result = finetune(
        catalog, tmp_path / "run", head="clip-fsar", finetune=backbone, trainable=trainable, preset=preset
    )
    assert result["text"] == "clip-fsar"
    start = load_backbone(backbone, size=32).clip.state_dict()
    tuned, _ = read_weights(tmp_path / "run" / "backbone.safetensors")
    assert tuned.keys() == start.keys()
    moved = {name for name in start if not torch.equal(start[name], tuned[name])}
    assert all(name.startswith("visual.") for name in moved)  # the text tower is frozen
    wanted = {"lora:2": ("in_proj_weight",), "norm": ("ln_",), "none": ()}[trainable]
    assert bool(moved) == bool(wanted)
    assert all(any(part in name for part in wanted) for name in moved)


def test_published_recipes_bring_the_images_and_quirks_of_their_code() -> None:
    from fsar.heads.finetune.setup import published_tuning

    tuning, images, _ = published_tuning("clip-mei", "ssv2-cmn")
    assert (images, tuning.batch_norm, tuning.batch_norm_from, tuning.short_first_step) == (
        "clip-mei-ssv2", "eval-then-train", 999, True
    )  # fmt: skip
    assert published_tuning("clip-fsar", "kinetics100-clipfsar").images == "clip-fsar-kinetics"
    assert published_tuning("hyrsm", "hmdb51-arn").tuning.divisor == 4
    assert published_tuning("hyrsm", "ucf101-arn").tuning.divisor is None
    assert published_tuning("hcl", "").tuning.backbone_rate == 0.1
    assert published_tuning("emp-net", "").tuning.trainable == "none"
    with pytest.raises(InputError, match="no released code"):
        published_tuning("proto", "")


def test_a_step_of_several_published_processes_has_all_their_episodes() -> None:
    from fsar.heads.finetune.setup import published_tuning
    from fsar.heads.finetune.step import learning_rate

    tuning = published_tuning("clip-fsar", "hmdb51-arn").tuning
    preset = get_preset("clip-fsar-hmdb51-arn", "clip-fsar")
    assert tuning.episodes_of(1, preset.episodes_per_step) == range(16, 32)
    alone = replace(tuning, processes=1)
    assert [learning_rate(preset, tuning, s) for s in (0, 99, 500)] == [
        learning_rate(preset, alone, s) for s in (0, 99, 500)
    ]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"micro_batch": 4}, "pass --batch-norm eval"),
        ({"trainable": "half"}, "what trains must be all, none"),
        ({"trainable": "last:9"}, "has 4 stages, got last:9"),
        ({"trainable": "lora:4"}, "lora needs a transformer"),
        ({"images": "squish"}, "did you mean squash"),
        ({"head": "clip-fsar"}, "start from an open_clip model with both towers"),
        ({"head": "emp-net", "text": "plain"}, "text tower of the backbone"),
        ({"head": "strm", "finetune": "random:open_clip/fsar-ViT-T-8"}, "which open_clip:fsar-ViT-T-8 does not have"),
        ({"text": "plain"}, "takes no text"),
        ({"options": {"adapter": "linear", "dim": 7}}, "width"),
        ({"preset": get_preset("clip-fsar-hmdb51-arn", "clip-fsar"), "head": "proto"}, "no released code"),
    ],
)
def test_what_cannot_work_is_refused_before_training(
    catalog: Path, tmp_path: Path, settings: dict, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        finetune(catalog, tmp_path / "run", **settings)
    assert not (tmp_path / "run" / "state.safetensors").exists()


def test_a_store_is_refused_where_frames_are_needed(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is a feature store, which has no frames"):
        prepared(tmp_path / "features.zarr")


def test_a_step_that_runs_out_of_memory_says_what_helps(
    catalog: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments, **options):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("fsar.heads.finetune.learner.train_step", full)
    with pytest.raises(InputError, match="--micro-batch"):
        finetune(catalog, tmp_path / "run")


def test_packed_frames_train_and_test_as_videos_do(catalog: Path, tmp_path: Path) -> None:
    from fsar.cli.prep import prep

    pack = tmp_path / "small.frames"
    arguments = ["extract", str(catalog), "--layout", "packed", "--frames", "4", "--out", str(pack), "--quiet"]
    prep.main(arguments, standalone_mode=False)
    result = finetune(pack, tmp_path / "run", jobs=2)
    assert result["n_episodes"] == 50
    assert open_store(tmp_path / "run" / "test.zarr").n_videos == 12
