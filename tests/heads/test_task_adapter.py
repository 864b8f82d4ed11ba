"""Task-Adapter++ on stored tokens: CLIP's own features at the start, a training, checkpoints, what is refused."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import fsar
from fsar.errors import InputError
from fsar.heads import EpisodeBatch
from fsar.heads.checkpoints.importer import import_checkpoint
from fsar.heads.head import Outputs, create_head
from fsar.heads.methods.task_adapter.head import TaskAdapter, text_windows, transposed
from fsar.heads.run_folder import load_head
from fsar.pipeline.backbones import load_backbone
from fsar.pipeline.backbones.taps import TapExtractor
from fsar.pipeline.store import TextTable, open_store, write_text
from tests.conftest import GOLDENS
from tests.heads.finetune.videos import PRESET, finetune, write_videos
from tests.heads.goldens import read_golden
from tests.pipeline.backbone_helpers import add_tiny_clips

CLIP = "random:open_clip/tiny-vit"  # 3 blocks of width 64
OPTIONS = {"n_blocks": 3, "quick_gelu": False}


@pytest.fixture(scope="module", autouse=True)
def _tiny_clips(tmp_path_factory: pytest.TempPathFactory) -> None:
    add_tiny_clips(tmp_path_factory.mktemp("models"))


def test_without_its_adapters_it_is_clip() -> None:
    backbone = load_backbone(CLIP, size=32)
    head = create_head("task-adapter++", dim=64, text_dim=24, levels=(1,), **OPTIONS)
    assert isinstance(head, TaskAdapter)
    head.start_from_backbone(backbone.module.state_dict())
    clips = torch.randn(3, 8, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found = TapExtractor(backbone, ["pooled", "tokens.0.raw"])(clips.flatten(0, 1))
        tokens = {"level.1": found["tokens.0.raw"].unflatten(0, (1, 3, 8))}
        pooled = found["pooled"].unflatten(0, (1, 3, 8))
        assert not torch.allclose(head.frames(tokens), pooled, atol=1e-3)  # the task adapter starts at random
        for block in head.blocks.values():
            block.task.up.weight.zero_()
            block.task.up.bias.zero_()
        torch.testing.assert_close(head.frames(tokens), pooled)


@pytest.fixture
def seen_text(monkeypatch: pytest.MonkeyPatch) -> list[tuple[bool, torch.Size]]:
    """Whether the head was in training, and the class text that it got, at each call."""
    seen, outputs = [], TaskAdapter.outputs

    def noting(self: TaskAdapter, batch: EpisodeBatch) -> Outputs:
        assert batch.class_text is not None
        seen.append((self.training, batch.class_text.shape))
        return outputs(self, batch)

    monkeypatch.setattr(TaskAdapter, "outputs", noting)
    return seen


def test_a_training_on_stored_tokens(tmp_path: Path, seen_text: list[tuple[bool, torch.Size]]) -> None:
    catalog, store = write_videos(tmp_path / "videos"), tmp_path / "s.zarr"
    fsar.encode(catalog, store, backbone=CLIP, size=32, n_slots=8, taps=("tokens.0.raw",), jobs=0, quiet=True)
    names = {video.class_name for video in open_store(store).videos}
    vectors = np.random.default_rng(0).standard_normal((3, len(names), 24)).astype(np.float32)
    write_text(store, TextTable("steps", vectors, tuple(sorted(names)), ("{} first", "{} then", "{} last")))
    trained = fsar.train_head(
        "task-adapter++", store=store, out=tmp_path / "run", options=OPTIONS, way=2, query=1, steps=3, val_episodes=4,
        test_episodes=20, patience=0, device="cpu", quiet=True,
    )  # fmt: skip
    assert trained.results[0]["n_episodes"] == 20
    assert trained.results[0]["inductive"] is False
    assert {(training, shape[2]) for training, shape in seen_text} == {(True, 3), (False, 3)}  # all steps, always
    own, start = load_head(tmp_path / "run").state_dict(), load_backbone(CLIP, size=32).module.state_dict()
    frozen = own["blocks.1.frozen.attn_in_proj_weight"]
    assert torch.equal(frozen, start["transformer.resblocks.1.attn.in_proj_weight"])
    assert own["blocks.1.time.up.weight"].abs().max() > 0


def test_texts_take_stretches_of_steps_in_their_order() -> None:
    assert text_windows(7, 3) == [slice(0, 3), slice(2, 5), slice(4, 7)]
    assert text_windows(7, 1) == [slice(0, 7)]
    with pytest.raises(InputError, match="3 texts of a class need 4 frames at least, got 2"):
        text_windows(1, 3)


def test_the_released_text_score_is_not_to_be_had_without_one_query_of_each_class() -> None:
    score = torch.arange(4.0).view(1, 2, 2)
    assert transposed(score, torch.tensor([[0, 1]])).tolist() == [[[0.0, 2.0], [1.0, 3.0]]]
    for labels in ([[0, 0]], [[0, 1, 1]]):
        with pytest.raises(InputError, match="one query of each class"):
            transposed(score, torch.tensor(labels))


@pytest.mark.parametrize("levels", [(), (1, 2), (3,)])
def test_it_reads_one_level_below_the_last_block(levels: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="reads one level below 3"):
        create_head("task-adapter++", dim=64, levels=levels, **OPTIONS)


def test_blocks_of_another_tower_are_refused() -> None:
    tower = load_backbone(CLIP, size=32).module.state_dict()
    with pytest.raises(InputError, match="has more blocks than the 2 of the head"):
        create_head("task-adapter++", dim=64, text_dim=24, levels=(1,), n_blocks=2).start_from_backbone(tower)
    with pytest.raises(InputError, match=r"wants \S+in_proj_weight of \(96, 32\); the backbone has one of \(192, 64"):
        create_head("task-adapter++", dim=32, n_heads=2, levels=(1,), n_blocks=3).start_from_backbone(tower)


@pytest.mark.shared
def test_a_published_checkpoint_says_what_it_lacks(tmp_path: Path) -> None:
    golden = read_golden(GOLDENS / "task_adapter_pp" / "p1_5w1s.safetensors")
    state = {name.replace("feature.", "feature.module.", 1): tensor for name, tensor in golden.state.items()}
    torch.save({"epoch": 9, "state": state}, tmp_path / "61.2.pth")
    (tmp_path / "run.yml").write_text("adapter_layers: 2\nheads: 4\n")
    report = import_checkpoint(tmp_path / "61.2.pth", settings=tmp_path / "run.yml")
    assert (report.method, report.missing) == ("task_adapter_pp", ())
    assert "feature.temporal_embedding" in report.ignored
    for number in (1, 2):
        ours = report.head.state_dict()[f"blocks.{number}.time.down.weight"]
        assert torch.equal(ours, golden.state[f"feature.transformer.resblocks.{number}.t_adapter.D_fc1.weight"])


def test_a_training_on_fresh_frames(tmp_path: Path, seen_text: list[tuple[bool, torch.Size]]) -> None:
    (tmp_path / "steps.txt").write_text("{} first\n{} last\n")
    options = {**OPTIONS, "levels": (1,)}
    result = finetune(
        write_videos(tmp_path / "videos"), tmp_path / "run", head="task-adapter++", options=options, finetune=CLIP,
        trainable="none", frames=4, preset=replace(PRESET, n_episodes=4), text=str(tmp_path / "steps.txt"),
    )  # fmt: skip
    assert result["n_episodes"] == 50
    assert {(training, shape[2]) for training, shape in seen_text} == {(True, 2), (False, 2)}
    with pytest.raises(InputError, match=r"it is a head, on a store with tokens.9.raw"):
        finetune(tmp_path / "videos" / "catalog.csv", tmp_path / "other", finetune=CLIP, trainable="task-adapter++")
