"""Tuning a backbone on the base classes: what it learns from, what it writes, and that it survives interruptions."""

import numpy as np
import pytest
import torch

from fsar.errors import InputError
from fsar.pipeline.backbones import load_backbone
from fsar.pipeline.catalog.catalog import CatalogRow
from fsar.pipeline.tune import tune as tune_module
from fsar.pipeline.tune.tune import TuneOptions, motion_classifier, tune
from tests.videos import write_clip

OPTIONS = TuneOptions(backbone="random:timm/test_resnet", n_frames=4, size=32, epochs=2, batch_size=4, held_out=0.2)


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    found = []
    for index in range(10):
        path = write_clip(folder / f"{index}.mp4", n_frames=8, size=(48, 48), codec="libx264")
        found.append(CatalogRow(str(index), path, "ab"[index % 2], path.stat().st_size, "train"))
    return found


def test_tuned_weights_load_as_a_backbone_and_are_not_those_it_started_from(rows, tmp_path):
    report = tune(rows, tmp_path / "tuned.safetensors", OPTIONS, quiet=True)
    assert (report.n_classes, report.n_videos, report.n_held_out, report.failures) == (2, 10, 2, [])
    tuned = load_backbone(f"timm:test_resnet/{report.path}", size=32).module.state_dict()
    start = load_backbone(OPTIONS.backbone, size=32).module.state_dict()
    assert tuned.keys() == start.keys()
    moved = [name for name in tuned if name.endswith("conv1.weight") and not torch.equal(tuned[name], start[name])]
    assert moved
    assert not (tmp_path / "tuned.safetensors.tuning").exists()


def test_an_interrupted_run_ends_with_the_same_bytes(rows, tmp_path, monkeypatch):
    whole, cut = tmp_path / "whole.safetensors", tmp_path / "cut.safetensors"
    tune(rows, whole, OPTIONS, quiet=True)
    save = tune_module.save_state

    def save_then_stop(*arguments):
        save(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(tune_module, "save_state", save_then_stop)
    with pytest.raises(KeyboardInterrupt):
        tune(rows, cut, OPTIONS, quiet=True)
    assert not cut.exists()
    monkeypatch.undo()
    epochs = []
    monkeypatch.setattr(tune_module._Trainer, "_epoch", lambda self, epoch, run=tune_module._Trainer._epoch: (
        epochs.append(epoch), run(self, epoch)))  # fmt: skip
    tune(rows, cut, OPTIONS, quiet=True)
    assert epochs == [1]
    assert cut.read_bytes() == whole.read_bytes()


def test_the_state_of_another_run_is_not_taken_over(rows, tmp_path, monkeypatch):
    def stop(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(tune_module, "save_state", stop)
    with pytest.raises(KeyboardInterrupt):
        tune(rows, tmp_path / "a.safetensors", OPTIONS, quiet=True)
    monkeypatch.undo()
    other = TuneOptions(**{**vars(OPTIONS), "seed": 1})
    fresh = tune(rows, tmp_path / "b.safetensors", other, quiet=True)
    again = tune(rows, tmp_path / "a.safetensors", other, quiet=True)
    assert fresh.weights_sha256 == again.weights_sha256


def test_a_broken_video_is_left_out_and_named(rows, tmp_path):
    broken = tmp_path / "broken.mp4"
    broken.write_text("not a video")
    extra = CatalogRow("broken", broken, "a", 11, "train")
    report = tune([*rows, extra], tmp_path / "tuned.safetensors", OPTIONS, quiet=True)
    assert report.n_videos == 10
    assert [failure["video_id"] for failure in report.failures] == ["broken"]


@pytest.mark.parametrize(
    ("select", "options", "message"),
    [
        (lambda row: row.class_name == "a", OPTIONS, "at least 2 classes"),
        (lambda row: True, TuneOptions(backbone="random:timm/test_resnet", size=32), "lower --batch-size"),
    ],
)
def test_too_little_to_learn_from_is_an_error(rows, tmp_path, select, options, message):
    with pytest.raises(InputError, match=message):
        tune([row for row in rows if select(row)], tmp_path / "tuned.safetensors", options, quiet=True)


def test_the_classifier_sees_change_alone():
    classifier = motion_classifier(6, 4, 3, seed=0).eval()
    features = torch.from_numpy(np.random.default_rng(0).normal(size=(2, 4, 6))).float()
    torch.testing.assert_close(classifier(features), classifier(features + 5.0))
    assert not torch.allclose(classifier(features), classifier(features.flip(1)))


def test_the_classifier_needs_two_frames():
    with pytest.raises(InputError, match="at least 2 frames"):
        motion_classifier(6, 1, 3, seed=0)
