"""Tuning a backbone on the base classes: what it learns from, what it writes, and that it survives interruptions."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from fsar.errors import InputError
from fsar.heads.batch import PairBatch
from fsar.heads.finetune.base_classes import BaseLearner, BaseOptions, tune
from fsar.heads.finetune.classifier import BaseClassifier, class_words
from fsar.heads.finetune.videos import VideoSet
from fsar.pipeline.backbones import load_backbone, read_weights
from fsar.pipeline.store import VideoRow
from tests.pipeline.backbone_helpers import add_tiny_clips
from tests.videos import write_clip

OPTIONS = BaseOptions(backbone="random:timm/test_resnet", n_frames=4, size=32, epochs=4, batch_size=4, held_out=0.2)


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> VideoSet:
    folder, rows = tmp_path_factory.mktemp("base"), []
    for index in range(10):
        path = write_clip(folder / f"{index}.mp4", n_frames=8, size=(48, 48), codec="libx264")
        rows.append(VideoRow(str(index), "ab"[index % 2], "train", str(path)))
    return VideoSet(folder / "catalog.csv", rows)


def test_tuned_weights_load_as_a_backbone_and_are_not_those_it_started_from(videos: VideoSet, tmp_path: Path) -> None:
    report = tune(videos, tmp_path / "tuned.safetensors", OPTIONS, quiet=True)
    assert (report.n_classes, report.n_videos, report.n_held_out, report.failures) == (2, 10, 2, [])
    assert 0 <= report.held_out_accuracy <= 1
    tuned = load_backbone(f"timm:test_resnet/{report.path}", size=32).module.state_dict()
    start = load_backbone(OPTIONS.backbone, size=32).module.state_dict()
    assert tuned.keys() == start.keys()
    assert any(name.endswith("conv1.weight") and not torch.equal(tuned[name], start[name]) for name in tuned)
    assert not (tmp_path / "tuned.safetensors.tuning").exists()


def test_an_interrupted_run_ends_with_the_same_bytes(
    videos: VideoSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, cut = tmp_path / "whole.safetensors", tmp_path / "cut.safetensors"
    tune(videos, whole, OPTIONS, quiet=True)
    from fsar.heads.finetune import base_classes

    make = base_classes.TrainOptions
    monkeypatch.setattr(base_classes, "TrainOptions", lambda *a, **o: replace(make(*a, **o), save_every_seconds=0.0))
    step, steps = BaseLearner.step, []

    def stopping(self, number, batch, monitor):
        if number == 3 and not steps:
            raise KeyboardInterrupt
        steps.extend([number] * (number >= 3))
        return step(self, number, batch, monitor)

    monkeypatch.setattr(BaseLearner, "step", stopping)
    with pytest.raises(KeyboardInterrupt):
        tune(videos, cut, OPTIONS, quiet=True)
    assert not cut.exists()
    monkeypatch.setattr(BaseLearner, "step", step)
    tune(videos, cut, OPTIONS, quiet=True)
    assert cut.read_bytes() == whole.read_bytes()


def test_the_state_of_another_run_is_not_taken_over(
    videos: VideoSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(BaseLearner, "save", stop)
    with pytest.raises(KeyboardInterrupt):
        tune(videos, tmp_path / "a.safetensors", OPTIONS, quiet=True)
    monkeypatch.undo()
    other = replace(OPTIONS, seed=1)
    fresh = tune(videos, tmp_path / "b.safetensors", other, quiet=True)
    again = tune(videos, tmp_path / "a.safetensors", other, quiet=True)
    assert fresh.weights_sha256 == again.weights_sha256


def test_the_state_of_an_earlier_version_is_refused(videos: VideoSet, tmp_path: Path) -> None:
    folder = tmp_path / "a.safetensors.tuning"
    folder.mkdir()
    (folder / "clips.json").write_text("{}")
    with pytest.raises(InputError, match=r"state of a tuning by an earlier version.*remove it"):
        tune(videos, tmp_path / "a.safetensors", OPTIONS, quiet=True)
    assert (folder / "clips.json").exists()


def test_a_broken_video_is_left_out_and_named(videos: VideoSet, tmp_path: Path) -> None:
    broken = tmp_path / "broken.mp4"
    broken.write_text("not a video")
    more = VideoSet(videos.path, [*videos.videos, VideoRow("broken", "a", "train", str(broken))])
    report = tune(more, tmp_path / "tuned.safetensors", OPTIONS, quiet=True)
    assert report.n_videos == 10
    assert [failure["video_id"] for failure in report.failures] == ["broken"]


@pytest.mark.parametrize(
    ("chosen", "options", "message"),
    [
        (lambda row: row.class_name == "a", OPTIONS, "at least 2 classes"),
        (lambda row: row.class_name == "a" or row.video_id == "1", OPTIONS, "'b' has fewer than 2 videos"),
        (lambda row: True, replace(OPTIONS, n_frames=1), "at least 2 frames"),
        (lambda row: True, replace(OPTIONS, text="plain"), "needs a text tower"),
    ],
)
def test_what_cannot_be_learned_is_an_error(
    videos: VideoSet, tmp_path: Path, chosen: object, options: BaseOptions, message: str
) -> None:
    some = VideoSet(videos.path, [row for row in videos.videos if chosen(row)])
    with pytest.raises(InputError, match=message):
        tune(some, tmp_path / "tuned.safetensors", options, quiet=True)


def test_the_classifier_sees_change_alone() -> None:
    torch.manual_seed(0)
    classifier = BaseClassifier(dim=6, n_frames=4, n_classes=3).eval()
    features = torch.from_numpy(np.random.default_rng(0).normal(size=(2, 4, 6))).float()
    torch.testing.assert_close(classifier.logits(features), classifier.logits(features + 5.0))
    assert not torch.allclose(classifier.logits(features), classifier.logits(features.flip(1)))


def test_both_towers_of_a_clip_model_learn_and_are_saved(videos: VideoSet, tmp_path: Path) -> None:
    add_tiny_clips(tmp_path)
    options = replace(OPTIONS, backbone="random:open_clip/tiny-vit", text="plain", epochs=1)
    report = tune(videos, tmp_path / "clip.safetensors", options, quiet=True)
    start, tuned = load_backbone(options.backbone, size=32).clip.state_dict(), read_weights(report.path)[0]
    assert start.keys() == tuned.keys()
    moved = {name for name in start if not torch.equal(start[name], tuned[name])}
    assert {"visual.proj", "text_projection", "logit_scale", "transformer.resblocks.0.mlp.c_fc.weight"} <= moved
    assert load_backbone(f"open_clip:tiny-vit/{report.path}", size=32).clip is not None


def test_text_pulls_frames_to_the_words_of_their_class(tmp_path: Path) -> None:
    """The gradient of the loss moves the mean frame towards its own text, and reaches the text tower."""
    add_tiny_clips(tmp_path)
    backbone = load_backbone("random:open_clip/tiny-vit", size=32)
    words = class_words(backbone.clip.requires_grad_(True), backbone.name, ["one thing", "another"])
    classifier = BaseClassifier(dim=24, n_frames=2, n_classes=2, words=words)
    frames = torch.randn(4, 2, 24, generator=torch.Generator().manual_seed(0)).requires_grad_()
    batch = PairBatch({"frames": frames}, torch.tensor([0, 0, 1, 1]))
    before = classifier.pair_loss(batch)["text"]
    before.backward()
    frames_after = frames.detach() - frames.grad
    assert float(backbone.clip.text_projection.grad.abs().sum()) > 0
    moved = PairBatch({"frames": frames_after}, batch.class_ids)
    assert classifier.pair_loss(moved)["text"].item() < before.item()
    assert not any("visual" in name for name, _ in classifier.named_parameters())
