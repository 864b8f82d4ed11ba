"""EMP-Net beyond parity and conformance: class texts of every support, chunks, tables over all classes."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from fsar.errors import InputError
from fsar.heads import EpisodeBatch, Targets, create_head, seeded
from fsar.heads.checkpoints.official import import_official
from fsar.heads.episodes.batches import EpisodeData
from fsar.heads.episodes.feature_source import FeatureSource
from fsar.heads.episodes.sampler import EpisodePool, EpisodeSampler, EpisodeShape
from fsar.heads.evaluation.evaluate import episode_logits
from fsar.heads.methods.emp_net.head import LEVELS
from tests.conftest import GOLDENS
from tests.heads.cases import make_batch, make_head, make_targets, training_loss
from tests.heads.goldens import assert_close, read_golden
from tests.heads.stores import PARTS, make_store, rows_of

ROLES = {"tokens_early": "l3", "tokens_middle": "l7", "tokens_late": "l11"}


@pytest.mark.shared
@pytest.mark.parametrize("case", ["p2_5w5s_T4_eval_merge", "p3_3w2s_T8_eval_nomerge", "p5_5w5s_T4_train_merge"])
def test_texts_of_every_support_give_the_corrected_official_numbers(case):
    golden = read_golden(GOLDENS / f"emp_net/{case}.safetensors")
    corrected = read_scan_all(case)
    head = import_official("emp_net", golden.state, golden.metadata)
    head.compat = "fixed"
    text, index = golden.inputs["text"], golden.metadata["template_index"]
    text = text if index is None else text[index : index + 1]
    labels, ids = golden.inputs["support_labels"], golden.inputs["support_real_labels"]
    way = golden.metadata["way"]
    first = [int((labels == label).nonzero()[0]) for label in range(way)]
    support, query = (
        {role: golden.inputs[f"{part}.{level}"].unsqueeze(0) for role, level in ROLES.items()}
        for part in ("support", "query")
    )
    batch = EpisodeBatch(support, labels.unsqueeze(0), query, way, text[:, ids[first]].transpose(0, 1).unsqueeze(0))
    outputs = head.outputs(batch)
    for name in ("logits", *(f"{level}_class_logits" for level in LEVELS)):
        assert_close(name, outputs[name][0], corrected[name])
    losses = head.loss(batch, outputs, Targets(golden.inputs["query_labels"].unsqueeze(0)))
    assert_close("loss", losses["total"], corrected["loss"])


def read_scan_all(case):
    from safetensors import safe_open

    with safe_open(GOLDENS / f"emp_net/{case}.safetensors", "pt") as file:
        names = [name for name in file.keys() if name.startswith("outputs_scan_all.")]  # noqa: SIM118
        return {name.removeprefix("outputs_scan_all."): file.get_tensor(name) for name in names}


@pytest.mark.parametrize("name", ["emp-net", "emp-net:merge"])
def test_chunks_and_recomputation_change_nothing(name):
    head, batch = make_head(name), make_batch(name)
    results = []
    for chunk, recompute in ((1, False), (5, True), (100, False)):
        head.chunk_videos, head.recompute = chunk, recompute
        head.zero_grad()
        loss = training_loss(name, head, batch)
        loss.backward()
        results.append((loss.detach(), head.encoder.early.spatial.to_qkv.weight.grad.clone()))
    for loss, gradient in results[1:]:
        torch.testing.assert_close(loss, results[0][0])
        torch.testing.assert_close(gradient, results[0][1], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("way", [2, 3, 7])
def test_any_way_works(way):
    batch = make_batch("emp-net", shots=(2,) * way)
    result = make_head("emp-net")(batch)
    assert result.shape == (2, 4, way)
    torch.testing.assert_close(result.sum(-1), torch.ones(2, 4))  # a mean of probabilities


def test_a_table_over_all_classes_gives_an_episodes_columns():
    head, batch = make_head("emp-net"), make_batch("emp-net", n_episodes=1)
    others = torch.randn(4, 2, 16, generator=torch.Generator().manual_seed(5))
    table = torch.cat((others, batch.class_text[0]))
    columns = torch.tensor([4, 5, 6])
    own = table[torch.zeros(4, dtype=torch.long)]
    with torch.no_grad():
        _, query = head.embed_tables({role: x[0] for role, x in batch.query.items()}, own, table)
        query = {"levels": query["levels"][None], "scores": query["scores"][None][..., columns]}
        support = head.embed(batch.support, batch.support_text)
        torch.testing.assert_close(head.match(batch.embedded(support, query))["logits"], head(batch))


def test_embedding_for_both_roles_at_once_is_embedding_for_each():
    head, batch = make_head("emp-net"), make_batch("emp-net", n_episodes=1)
    videos = {role: x[0] for role, x in batch.support.items()}
    table = batch.class_text[0]
    own = table[batch.support_labels[0]]
    with torch.no_grad():
        support, query = head.embed_tables(videos, own, table)
        torch.testing.assert_close(support, head.embed(videos, own))
        torch.testing.assert_close(query["levels"], head.embed(videos)["levels"])


def overlooking_batch():
    """Three ways whose first three supports show classes 0 and 1 only."""
    batch = make_batch("emp-net", n_episodes=1, shots=(2, 2, 1))
    order = batch.support_labels[0].argsort()
    support = {role: x[:, order] for role, x in batch.support.items()}
    return replace(batch, support=support, support_labels=batch.support_labels[:, order])


def test_official_lookup_gives_an_overlooked_class_the_text_of_class_0():
    batch = overlooking_batch()
    fixed = make_head("emp-net")
    official = make_head("emp-net")
    official.compat = "official"
    with pytest.raises(InputError, match="use compat='fixed'"):
        official(batch)
    default = torch.randn(16, generator=torch.Generator().manual_seed(3))
    official.overlooked_text = lambda: default
    overlooked = official.outputs(batch)
    right = fixed.outputs(batch)
    for level in LEVELS:
        assert torch.equal(overlooked[f"{level}_logits"], right[f"{level}_logits"])  # fusion always has the right text
        assert not torch.allclose(overlooked[f"{level}_class_logits"], right[f"{level}_class_logits"])


def test_supports_that_are_merged_first_have_tables_up_to_there():
    head, batch = make_head("emp-net:merge"), make_batch("emp-net", n_episodes=1, shots=(3, 1, 2))
    videos = {role: x[0] for role, x in batch.support.items()}
    own = batch.class_text[0][batch.support_labels[0]]
    with torch.no_grad():
        assert set(head.embed_tables(videos, own, batch.class_text[0])[0]) == {"levels"}
        assert set(head.embed_tables(videos, own, batch.class_text[0], 3)[0]) == set(LEVELS)
        assert set(make_head("emp-net").embed_tables(videos, own, batch.class_text[0], 3)[0]) == {"levels"}


@pytest.mark.parametrize("name", ["emp-net", "emp-net:merge"])
@pytest.mark.parametrize("n_shot", [1, 3])
def test_a_test_over_tables_gives_what_episodes_give_one_by_one(tmp_path, name, n_shot):
    videos, generator = rows_of({"test": PARTS["test"]}, 6), np.random.default_rng(0)
    tokens = {f"tokens.{k}": generator.normal(size=(len(videos), 1, 4, 7, 16)).astype(np.float32) for k in range(3)}
    store = make_store(tmp_path / "s.zarr", tokens, videos)
    rows = np.arange(len(videos))
    source = FeatureSource(store, dict(zip(ROLES, tokens, strict=True)), rows)
    text = torch.randn(6, 2, 16, generator=torch.Generator().manual_seed(0))
    data = EpisodeData(source, class_text=text)
    pool = EpisodePool({name: rows[6 * i : 6 * i + 6] for i, name in enumerate(PARTS["test"])})
    episodes = EpisodeSampler(pool, EpisodeShape(4, n_shot, 2), seed=0).draw(0, 9)
    head = make_head(name)
    found = torch.cat([logits for _, logits in episode_logits(head, data, episodes)])
    with torch.no_grad():
        torch.testing.assert_close(found, head(data.batch(episodes)[0]))


def test_no_tables_where_the_order_of_several_shots_decides_their_texts():
    head = make_head("emp-net:merge")
    assert head.embeds_alone(5)
    head.compat = "official"
    assert head.embeds_alone(1)
    assert not head.embeds_alone(5)


def test_the_loss_is_a_sum_of_six_cross_entropies_of_probabilities():
    head, batch = make_head("emp-net"), make_batch("emp-net")
    losses = head.loss(batch, head.outputs(batch), make_targets("emp-net", batch))
    assert len(losses) == 7
    torch.testing.assert_close(losses["total"], sum(value for name, value in losses.items() if name != "total"))
    low, high = torch.log1p(2 * torch.exp(torch.tensor(-1.0))), torch.log(2 + torch.exp(torch.tensor(1.0)))
    for name, value in losses.items():
        assert name == "total" or low <= value <= high


def test_half_precision_features_are_taken_chunk_by_chunk():
    head, batch = make_head("emp-net"), make_batch("emp-net")
    half = replace(
        batch,
        support={role: x.half() for role, x in batch.support.items()},
        query={role: x.half() for role, x in batch.query.items()},
    )
    torch.testing.assert_close(head.outputs(half)["logits"], head(batch), rtol=0, atol=2e-3)


@pytest.mark.parametrize(("options", "message"), [({"dim": 20}, "multiple of 8"), ({"chunk_videos": 0}, "at least 1")])
def test_bad_options_are_named(options, message):
    with pytest.raises(InputError, match=message), seeded(0):
        create_head("emp-net", **options)
