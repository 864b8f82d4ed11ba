"""Task-Adapter++ on stored tokens: CLIP's own features at the start, a training, checkpoints, what is refused."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner

import fsar
from fsar.cli import prep_text
from fsar.errors import InputError
from fsar.heads import EpisodeBatch
from fsar.heads.checkpoints.importer import import_checkpoint
from fsar.heads.head import Outputs, create_head, head_type
from fsar.heads.methods.task_adapter.head import TaskAdapter, text_windows, transposed
from fsar.heads.methods.task_adapter.text import AdaptedTextTower
from fsar.heads.run_folder import load_head
from fsar.heads.setup.class_text import choose_table, text_facts
from fsar.heads.setup.start import start_from
from fsar.pipeline.backbones import load_backbone
from fsar.pipeline.backbones.taps import TapExtractor
from fsar.pipeline.store import TextTable, open_store, write_text
from fsar.pipeline.text.clip import ClipTextEncoder
from fsar.pipeline.text.tokens import TokenEncoder
from fsar.predict.class_words import ClassWords
from tests.conftest import GOLDENS
from tests.heads.finetune.videos import PRESET, finetune, write_videos
from tests.heads.goldens import assert_close, read_golden
from tests.pipeline.backbone_helpers import add_tiny_clips

CLIP = "random:open_clip/tiny-vit"  # 3 blocks of width 64
OPTIONS = {"n_blocks": 3, "quick_gelu": False}
DEEPER = "random:open_clip/fsar-ViT-T-8"  # 4 blocks of width 128, and 2 of width 64 for text
OPTIONS_DEEPER = {"n_blocks": 4, "n_heads": 4, "quick_gelu": False}


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


@pytest.mark.shared
def test_the_adapted_text_tower_is_the_official_one() -> None:
    golden = read_golden(GOLDENS / "task_adapter_pp" / "text_p4_4way.safetensors")
    options, level = golden.metadata["options"], golden.metadata["options"]["layers"] - 2
    width, dim = golden.state["text_projection"].shape
    tower = AdaptedTextTower(level, options["layers"], width=width, dim=dim, n_heads=options["heads"], quick_gelu=True)
    tower.start_from(golden.state)
    official = {"down": "D_fc1", "up": "D_fc2"}
    names = {
        name: f"transformer.resblocks.{name.split('.')[1]}.sub3_adapter.{official[layer]}.{name.rpartition('.')[2]}"
        for name, _ in tower.named_parameters()
        for layer in official
        if f".{layer}." in name
    }
    with torch.no_grad():
        for name, parameter in tower.named_parameters():
            parameter.copy_(golden.state[names[name]])
    for buffer in (tower.ln_final_weight, tower.ln_final_bias):
        buffer.requires_grad_()  # not trained, and the vectors have its gradient
    rows = torch.cat((golden.inputs["tokens"].argmax(-1, keepdim=True), golden.outputs["block_input"].flatten(-2)), -1)
    found = tower(rows)
    assert_close("text", found, golden.outputs["text"])
    loss = (found * golden.inputs["cotangent"]).sum()
    assert_close("loss", loss, golden.outputs["loss"])
    loss.backward()
    ours = {names[name]: parameter.grad for name, parameter in tower.named_parameters()}
    ours |= {"ln_final.weight": tower.ln_final_weight.grad, "ln_final.bias": tower.ln_final_bias.grad}
    assert ours.keys() == golden.grads.keys()
    for name, gradient in golden.grads.items():
        torch.testing.assert_close(ours[name], gradient, rtol=0, atol=1e-5 * float(gradient.abs().max()))


@pytest.fixture(scope="module")
def token_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with tokens of frames, and of text at level 0 beside plain vectors."""
    folder = tmp_path_factory.mktemp("tokens")
    store = folder / "s.zarr"
    fsar.encode(
        write_videos(folder / "videos"), store, backbone=DEEPER, size=32, n_slots=4, taps=("tokens.2.raw",), jobs=0,
        quiet=True,
    )  # fmt: skip
    (folder / "steps.txt").write_text("{} first\nthen somebody is {} still\n")
    for extra in (["--table", "vectors"], ["--table", "tokens", "--level", "0"]):
        prompts = ["--templates", str(folder / "steps.txt"), *extra]
        result = CliRunner().invoke(prep_text.command, [str(store), "--encoder", DEEPER, *prompts])
        assert result.exit_code == 0, result.output
    return store


def test_an_adapted_text_tower_is_clip_at_first(token_store: Path) -> None:
    tables = {name: open_store(token_store).text(name) for name in ("vectors", "tokens")}
    head = create_head("task-adapter++", dim=128, levels=(3,), **OPTIONS_DEEPER, **text_facts(tables["tokens"]))
    assert isinstance(head, TaskAdapter)
    start_from(head, load_backbone(DEEPER, size=32))
    assert head.text_tower is not None
    with torch.no_grad():
        found = head.text_tower(torch.tensor(tables["tokens"].vectors).swapaxes(0, 1))
    torch.testing.assert_close(found, torch.tensor(tables["vectors"].vectors).swapaxes(0, 1))


def test_a_training_that_adapts_the_text_tower(token_store: Path, tmp_path: Path) -> None:
    trained = fsar.train_head(
        "task-adapter++", store=token_store, text="tokens", out=tmp_path / "run", options=OPTIONS_DEEPER, way=2,
        query=1, steps=3, val_episodes=4, test_episodes=20, patience=0, device="cpu", quiet=True,
    )  # fmt: skip
    assert trained.results[0]["n_episodes"] == 20
    head, tower = load_head(tmp_path / "run"), load_backbone(DEEPER, size=32).clip
    assert head.options["text_level"] == 0
    own = head.state_dict()
    frozen = "transformer.resblocks.1.attn.in_proj_weight"
    assert torch.equal(own["text_tower.blocks.1.frozen.attn_in_proj_weight"], tower.state_dict()[frozen])
    assert own["text_tower.blocks.0.steps.up.weight"].abs().max() > 0
    evaluated = fsar.evaluate(tmp_path / "run", store=token_store, text="tokens", episodes=20, quiet=True)
    assert evaluated.results[0]["accuracy"] == trained.results[0]["accuracy"]
    with pytest.raises(InputError, match="holds vectors, and the head was trained on tokens of level 0"):
        fsar.evaluate(tmp_path / "run", store=token_store, text="vectors", episodes=2, quiet=True)


def test_a_class_that_the_table_lacks_gets_its_tokens_from_the_tower(token_store: Path) -> None:
    store = open_store(token_store)
    table = store.text("tokens")
    words = ClassWords(store.recipe, table=table)
    known, new = table.class_names[0], "a name of a good many more words than any of the others"
    rows = words.vectors([known, new])
    n_tokens, of_table = (rows.shape[-1] - 1) // 64, (table.vectors.shape[-1] - 1) // 64
    assert rows.shape[:2] == (2, 2)
    assert n_tokens > of_table
    end = int(table.vectors[0, 0, 0])
    seen = slice(1 + 64 * (end + 1))
    torch.testing.assert_close(rows[0, 0, seen], torch.tensor(table.vectors[0, 0, seen]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"level": 3}, "does not say what its tokens are of"),
        ({"n_blocks": 10**9}, "does not say"),
        ({"width": 63}, "does not say"),
        ({"dim": "24"}, "does not say"),
    ],
)
def test_tables_of_tokens_that_cannot_be_are_refused(token_store: Path, change: dict[str, Any], message: str) -> None:
    table = open_store(token_store).text("tokens")
    tokens = {**table.encoder["tokens"], **change}
    with pytest.raises(InputError, match=message):
        text_facts(replace(table, encoder={**table.encoder, "tokens": tokens}))


def test_tokens_are_for_heads_that_read_them(token_store: Path) -> None:
    store = open_store(token_store)
    with pytest.raises(InputError, match="holds tokens of a text tower, and head 'emp-net' reads vectors"):
        choose_table("emp-net", head_type("emp-net"), store, "tokens")
    with pytest.raises(InputError, match="level must be below that, got 1"):
        TokenEncoder(ClipTextEncoder(CLIP), 1)
    rows = torch.zeros(1, 2, 24)
    with pytest.raises(InputError, match="wants class text as tokens of 64 numbers, got rows of 24"):
        AdaptedTextTower(1, 3, width=64, dim=24, n_heads=1, quick_gelu=False)(rows)


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


def test_a_tower_that_computes_otherwise_is_refused() -> None:
    backbone = load_backbone(DEEPER, size=32)
    for change, message in (({"n_heads": None}, "n_heads=4"), ({"quick_gelu": True}, "quick_gelu=false")):
        head = create_head("task-adapter++", dim=128, text_dim=128, levels=(3,), **{**OPTIONS_DEEPER, **change})
        with pytest.raises(InputError, match=f"--option {message}"):
            start_from(head, backbone)


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
    assert "text_level" not in report.head.options
    for number in (1, 2):
        ours = report.head.state_dict()[f"blocks.{number}.time.down.weight"]
        assert torch.equal(ours, golden.state[f"feature.transformer.resblocks.{number}.t_adapter.D_fc1.weight"])


@pytest.mark.shared
def test_a_published_checkpoint_brings_its_text_tower(tmp_path: Path) -> None:
    image, text = (
        read_golden(GOLDENS / "task_adapter_pp" / f"{name}.safetensors") for name in ("p1_5w1s", "text_p4_4way")
    )
    state = {**image.state, **{f"text.{name}": tensor for name, tensor in text.state.items()}}
    torch.save({"epoch": 9, "state": state}, tmp_path / "61.2.pth")
    (tmp_path / "run.yml").write_text("adapter_layers: 2\nheads: 4\ntext_heads: 4\ntext_adapter_layers: 2\n")
    report = import_checkpoint(tmp_path / "61.2.pth", settings=tmp_path / "run.yml")
    assert (report.missing, report.assumed) == ((), ())
    assert {name for name in report.ignored if name.startswith("text.")} == {
        *(f"text.{name}" for name in ("logit_scale", "positional_embedding", "token_embedding.weight")),
        *(f"text.{name}" for name in text.state if name.startswith("transformer.resblocks.0.")),
    }
    assert isinstance(report.head, TaskAdapter)
    assert report.head.text_tower is not None
    rows = (text.inputs["tokens"].argmax(-1, keepdim=True), text.outputs["block_input"].flatten(-2))
    assert_close("text", report.head.text_tower(torch.cat(rows, -1)), text.outputs["text"])


def test_a_training_on_fresh_frames(tmp_path: Path, seen_text: list[tuple[bool, torch.Size]]) -> None:
    (tmp_path / "steps.txt").write_text("{} first\n{} last\n")
    options = {**OPTIONS, "levels": (1,), "text_level": 0}
    result = finetune(
        write_videos(tmp_path / "videos"), tmp_path / "run", head="task-adapter++", options=options, finetune=CLIP,
        trainable="none", frames=4, preset=replace(PRESET, n_episodes=4), text=str(tmp_path / "steps.txt"),
    )  # fmt: skip
    assert result["n_episodes"] == 50
    assert {(training, shape[2]) for training, shape in seen_text} == {(True, 2), (False, 2)}
    with pytest.raises(InputError, match=r"it is a head, on a store with tokens.9.raw"):
        finetune(tmp_path / "videos" / "catalog.csv", tmp_path / "other", finetune=CLIP, trainable="task-adapter++")
