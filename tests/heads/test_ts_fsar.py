"""TS-FSAR: where its first weights come from, which levels it reads, and from a store to a tested run."""

import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import fsar
from fsar.errors import InputError
from fsar.heads import create_head
from fsar.heads.head import head_type
from fsar.heads.methods.ts_fsar.correlation import channel_distances
from fsar.heads.methods.ts_fsar.start import principal, resized, tower_block
from fsar.heads.run_folder import load_head, read_json
from fsar.heads.setup.taps import choose_taps
from fsar.pipeline.backbones import load_backbone
from fsar.pipeline.encode.plan import EncodeOptions, recipe_of
from fsar.pipeline.store import TapSpec, TextTable
from tests.heads.cases import make_batch, make_head
from tests.heads.stores import PARTS, make_store, rows_of

BACKBONE = "random:open_clip/fsar-ViT-T-8"


def matrix(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def test_principal_components_are_those_of_the_covariance():
    weight = matrix(30, 12)
    found = principal(weight, 30, 5)
    centred = weight - weight.mean(0)
    values = np.linalg.eigvalsh(np.cov(weight.numpy().T, bias=True))[::-1]  # largest first
    spread = (found.T @ found / 30).numpy()
    np.testing.assert_allclose(spread, np.diag(values[:5]), atol=1e-5)
    whole = principal(weight, 30, 12)  # all axes: a rotation of the centred rows
    torch.testing.assert_close(whole @ whole.T, centred @ centred.T, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(principal(weight, 7, 5), found[:7])
    torch.testing.assert_close(principal(weight.T, 5, 7), found[:7].T)
    torch.testing.assert_close(principal(-weight, 30, 5).abs(), found.abs())


def test_components_that_a_matrix_does_not_have_are_refused():
    with pytest.raises(InputError, match="smaller side_dim, or start=random"):
        principal(matrix(30, 12), 13, 13)


def test_a_vector_of_the_same_length_stays_as_it_is():
    torch.testing.assert_close(resized(matrix(9), 9), matrix(9))
    torch.testing.assert_close(resized(torch.ones(9), 4), torch.ones(4))


@pytest.mark.parametrize("spec", ["random:open_clip/fsar-ViT-T-8", "random:timm/test_vit"])
def test_side_blocks_start_from_the_blocks_that_they_stand_for(spec):
    backbone = load_backbone(spec, size=32)
    tower, blocks = backbone.module.state_dict(), backbone.points.blocks
    width = backbone.points.blocks[0].state_dict()["mlp.fc1.weight" if "timm" in spec else "mlp.c_fc.weight"].shape[1]
    levels, last = (0, 1, len(blocks)), len(blocks) - 1
    head = create_head("ts-fsar", dim=width, text_dim=64, levels=levels, side_dim=64, mlp_ratio=1.0)
    head.start_from_backbone(tower)
    for block, index in zip(head.network.blocks, (0, last), strict=True):
        own = tower_block(tower, index)
        joined = [own[f"attention.{part}.weight"] for part in ("query", "key", "value")]
        attention = blocks[index].attn
        packed = attention.qkv.weight if "timm" in spec else attention.in_proj_weight
        torch.testing.assert_close(torch.cat(joined), packed.detach())
        torch.testing.assert_close(block.attention.key.weight.detach(), principal(joined[1], 64, 64))
        torch.testing.assert_close(block.fc2.weight.detach(), principal(own["fc2.weight"], 64, 64))
        torch.testing.assert_close(block.norm2.bias.detach(), resized(own["norm2.bias"], 64))


def test_only_a_transformer_gives_a_start():
    tower = load_backbone("random:timm/test_resnet", size=32).module.state_dict()
    with pytest.raises(InputError, match="CLIP transformer"):
        create_head("ts-fsar", dim=32, text_dim=64, levels=(0, 1), side_dim=64).start_from_backbone(tower)


def test_distances_of_channels_are_those_of_their_rows():
    """Against distances taken one pair at a time, as the paper writes them; centred rows add up to nothing."""
    token, patches = matrix(6), matrix(5, 6)
    weight = torch.cosine_similarity(token.expand(5, 6), patches, dim=-1)
    rows = (weight[:, None] * patches).T / (2 * 5) ** 0.5  # (d, P)
    distance = torch.stack([torch.stack([((a - b) ** 2).sum() + 1e-5 for b in rows]) for a in rows]) ** 0.4
    centred = distance - distance.mean(0, keepdim=True) - distance.mean(1, keepdim=True) + distance.mean()
    assert centred.sum(0).abs().max() < 1e-5
    torch.testing.assert_close(channel_distances(token, patches, 0.4), centred[torch.triu(torch.ones(6, 6)) > 0])


def test_blocks_attend_over_time_where_a_temporal_block_lies_between_their_levels():
    def over_time(levels, temporal=(6, 8, 10)):
        head = create_head("ts-fsar", dim=16, text_dim=8, side_dim=64, levels=levels, temporal_blocks=temporal)
        return [index for index, block in enumerate(head.network.blocks) if block.over_time]

    assert over_time(range(13)) == [6, 8, 10]
    assert over_time((0, 3, 6, 9, 12)) == [2, 3]
    assert over_time((0, 6, 12)) == [1]
    assert over_time((0, 6)) == []


def test_the_order_of_frames_enters_through_the_generated_matrix():
    head, batch = make_head("ts-fsar:few"), make_batch("ts-fsar:few")
    turned = {role: x.flip(2) for role, x in batch.query.items()}
    with torch.no_grad():
        assert not torch.allclose(head(batch), head(batch.embedded(batch.support, turned)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"levels": (3,)}, "two or more"),
        ({"levels": (3, 1)}, "ascending"),
        ({"side_dim": 100}, "multiple of 64"),
        ({"text_dim": 12}, "multiple of 8"),
        ({"chunk_videos": 0}, "chunk_videos must be 1 or more"),
        ({"start": "clip"}, "start must be"),
    ],
)
def test_options_that_cannot_be_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        create_head("ts-fsar", **{"dim": 16, "text_dim": 8, "side_dim": 64, "levels": (0, 1), **options})


def levels_in(*taps, levels=None):
    shapes = {tap: TapSpec((5, 128) if tap.startswith("tokens") else (64,), "float16") for tap in ("pooled", *taps)}
    recipe = {"library": "open_clip", "backbone": "ViT-B-16", "pretrained": "openai"}
    store = SimpleNamespace(path="s.zarr", taps=shapes, recipe=recipe)
    return choose_taps("ts-fsar", head_type("ts-fsar"), store, levels=levels)


def test_all_levels_of_a_store_are_read_or_those_asked_for():
    some = ("tokens.in.raw", "tokens.2.raw", "tokens.11.raw", "tokens.11")
    found = {"level.0": "tokens.in.raw", "level.3": "tokens.2.raw", "level.12": "tokens.11.raw", "clip": "pooled"}
    assert levels_in(*some) == found
    assert list(levels_in(*some, levels=(0, 12))) == ["level.0", "level.12", "clip"]


def test_what_a_store_lacks_comes_with_the_command_that_adds_it():
    with pytest.raises(InputError, match=r"Add it: .* --tap pooled --tap tokens.all.raw --out"):
        levels_in()
    with pytest.raises(InputError, match=r"'level.0' and 'level.3': .*--tap tokens.in.raw --tap tokens.2.raw --out"):
        levels_in("tokens.11.raw", levels=(0, 3, 12))


@pytest.fixture(scope="module")
def recipe():
    return recipe_of(load_backbone(BACKBONE), EncodeOptions(BACKBONE, n_slots=4))[0].to_dict()


@pytest.fixture(scope="module")
def store(recipe, tmp_path_factory):
    return token_store(tmp_path_factory.mktemp("store") / "s.zarr", recipe)


def token_store(path, recipe):
    """Write a store of noise with the tokens of four levels and one text table."""
    rows, generator = rows_of(PARTS, 4), np.random.default_rng(0)
    shapes = dict.fromkeys(("tokens.in.raw", "tokens.0.raw", "tokens.1.raw", "tokens.3.raw"), (5, 128))
    features = {
        tap: generator.normal(size=(len(rows), 1, 4, *shape)).astype(np.float16)
        for tap, shape in {**shapes, "pooled": (128,)}.items()
    }
    names = tuple(dict.fromkeys(row.class_name for row in rows))
    text = TextTable("text", generator.normal(size=(1, len(names), 128)).astype(np.float32), names, ("{}",), {})
    return make_store(path, features, rows, recipe=recipe, text=text)


SHORT = {"steps": 2, "episodes_per_step": 1, "query": 1, "val_episodes": 5, "test_episodes": 5, "quiet": True}
SMALL = {"side_dim": 64, "mlp_ratio": 1.0}


def test_a_head_trains_from_a_store_on_a_choice_of_its_levels(store, tmp_path):
    options = {**SMALL, "levels": (0, 1, 4), "temporal_blocks": (2,)}
    report = fsar.train_head("ts-fsar", store=store, options=options, out=tmp_path / "run", **SHORT)
    head, config = load_head(tmp_path / "run"), read_json(tmp_path / "run" / "config.json")
    assert set(config["taps"]) == {"level.0", "level.1", "level.4", "clip"}
    assert head.levels == (0, 1, 4)
    assert head.classifier.out_features == len(PARTS["train"])
    again = fsar.evaluate(tmp_path / "run", store=store, episodes=5, quiet=True)
    assert again.accuracy == report.results[0]["accuracy"]


def test_tables_of_embedded_videos_change_no_answer(store, tmp_path, monkeypatch):
    fsar.train_head("ts-fsar", store=store, options=SMALL, out=tmp_path / "run", **SHORT)
    by_table = fsar.evaluate(tmp_path / "run", store=store, episodes=20, quiet=True).results[0]
    monkeypatch.setattr("fsar.heads.evaluation.evaluate._embed", lambda *_: None)
    one_by_one = fsar.evaluate(tmp_path / "run", store=store, episodes=20, quiet=True).results[0]
    assert by_table["accuracy"] == one_by_one["accuracy"]


def test_training_begins_at_the_components_of_the_backbone(store, tmp_path):
    first = {**SHORT, "steps": 1, "lr": 1e-9, "val_episodes": 0, "test": False}
    del first["test_episodes"]
    fsar.train_head("ts-fsar", store=store, options=SMALL, out=tmp_path / "run", **first)
    block = load_head(tmp_path / "run").network.blocks[0]
    own = tower_block(load_backbone(BACKBONE).module.state_dict(), 0)
    torch.testing.assert_close(block.fc1.weight.detach(), principal(own["fc1.weight"], 64, 64), rtol=0, atol=1e-6)


def test_a_backbone_that_is_not_at_hand_is_said_before_anything_is_written(recipe, tmp_path):
    store = token_store(tmp_path / "s.zarr", {**recipe, "weights_sha256": "0" * 64})
    with pytest.raises(InputError, match=re.escape("not at hand") + ".*start=random"):
        fsar.train_head("ts-fsar", store=store, options=SMALL, out=tmp_path / "run", **SHORT)
    assert not (tmp_path / "run").exists()
    fsar.train_head("ts-fsar", store=store, options={**SMALL, "start": "random"}, out=tmp_path / "run", **SHORT)
