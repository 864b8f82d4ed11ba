"""STRM beyond parity: what it accepts, and what differs between the fixed and the released behaviour."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from fsar.errors import InputError
from fsar.heads import EpisodeBatch, Targets, create_head, seeded
from fsar.heads.checkpoints.official import import_official
from fsar.heads.layers.attention import sinusoid_table
from fsar.heads.methods.strm.enrich import FOLD_ABOVE, PatchEnrichment
from fsar.heads.methods.strm.head import TupleSimilarity
from fsar.heads.setup.task import make_task
from fsar.pipeline.store import VideoRow
from tests.conftest import GOLDENS
from tests.heads.goldens import read_golden
from tests.heads.stores import make_store

DIM = 12


def make(**options):
    with seeded(0):
        head = create_head("strm", **{"dim": DIM, "out_dim": 16, **options})
        torch.nn.init.constant_(head.patch_enrichment.gamma, 0.7)
    return head.eval()


def episodes(shape, *, n_frames=8, n_way=3, n_shot=2, n_query=4, n_episodes=2):
    generator = torch.Generator().manual_seed(1)
    support, query = (
        torch.randn(n_episodes, n, n_frames, *shape, generator=generator) for n in (n_way * n_shot, n_query)
    )
    labels = torch.arange(n_way).repeat(n_shot).expand(n_episodes, -1)
    return EpisodeBatch({"patches": support}, labels, {"patches": query}, n_way)


@pytest.mark.parametrize("side", [(4, 4), (7, 7), (14, 14), (6, 9)])
def test_maps_give_what_their_pooled_patches_give(side):
    head, batch = make(), episodes((DIM, *side))
    pooled = {
        name: functional.adaptive_max_pool2d(x["patches"].flatten(0, 2), 4).flatten(2).transpose(1, 2)
        for name, x in (("support", batch.support), ("query", batch.query))
    }
    stored = EpisodeBatch(
        {"patches": pooled["support"].reshape(2, 6, 8, 16, DIM)},
        batch.support_labels,
        {"patches": pooled["query"].reshape(2, 4, 8, 16, DIM)},
        3,
    )
    torch.testing.assert_close(head(batch), head(stored))


@pytest.mark.parametrize("n_frames", [4, 16])
def test_any_number_of_frames_can_be_made(n_frames):
    head = make(n_frames=n_frames, temp_set=(2, 3))
    assert head(episodes((16, DIM), n_frames=n_frames)).isfinite().all()


def test_another_number_of_frames_is_refused_with_the_option_that_helps():
    with pytest.raises(InputError, match=r"mixes 8 frames per video, got 4: make the head with n_frames=4"):
        make()(episodes((16, DIM), n_frames=4))


def test_pooled_features_are_refused_with_the_shapes_that_fit():
    with pytest.raises(InputError, match=r"needs maps \(T, 12, h, w\) or pooled maps \(T, 16, 12\), got"):
        make().outputs(episodes((DIM,)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temp_set": (2, 9)}, "different tuple sizes of 1 to 8 frames"),
        ({"temp_set": (2, 2)}, "different tuple sizes"),
        ({"temp_set": ()}, "different tuple sizes"),
        ({"dim": 13}, "dim must be even"),
        ({"reduction": "max"}, "reduction must be"),
        ({"compat": "offical"}, "compat"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        make(**options)


@pytest.mark.parametrize("n_frames", [1, 5])
def test_the_patch_block_equals_its_published_form_folded_or_not(n_frames):
    with seeded(0):
        block = PatchEnrichment(DIM, 0.0)
        torch.nn.init.constant_(block.gamma, -0.4)
        patches = torch.randn(n_frames, 16, DIM)
    assert (16 * n_frames > FOLD_ABOVE * DIM) == (n_frames == 5)
    y = patches + 0.1 * sinusoid_table(16, DIM)
    attention = (block.query_proj(y) @ block.key_proj(y).transpose(1, 2)).softmax(-1)
    z = block.gamma * (attention @ block.value_conv(y)) + y
    hidden = block.mlp.hid_fc(block.mlp.inp_fc(z).relu()).relu()
    published = (block.mlp.out_fc(hidden) + z).mean(1)
    torch.testing.assert_close(block(patches), published)
    for ours, theirs in zip(
        *(torch.autograd.grad(x.square().sum(), list(block.parameters())) for x in (block(patches), published)),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


def test_the_nearest_tuple_is_the_nearest_and_missing_shots_do_not_count():
    generator = torch.Generator().manual_seed(0)
    support, query = torch.randn(2, 3, 2, 5, 4, generator=generator), torch.randn(2, 6, 5, 4, generator=generator)
    mask = torch.ones(2, 3, 2, dtype=torch.bool)
    mask[0, 1, 1] = False
    score = TupleSimilarity.match(support, query, mask)
    for episode, label in ((0, 0), (0, 1), (1, 1)):
        real = support[episode, label][mask[episode, label]].flatten(0, 1)
        nearest = torch.cdist(query[episode].flatten(0, 1), real).amin(1).view(6, 5).mean(1)
        torch.testing.assert_close(score[episode, :, label], -nearest)


def test_a_query_that_is_its_own_support_has_a_finite_gradient():
    head, batch = make(), episodes((16, DIM))
    batch.query["patches"][:] = batch.support["patches"][:, :4]
    head(batch).sum().backward()
    assert all(p.grad.isfinite().all() for p in head.parameters() if p.grad is not None)


def test_the_second_stream_is_trained_by_default_and_fixed_as_released():
    for compat, trained in (("fixed", True), ("official", False)):
        head = make(compat=compat)
        layers = dict(head.named_parameters())
        assert layers["similarities.0.linear.weight"].requires_grad is trained
        assert "similarities.0.linear.weight" in head.state_dict()


def test_only_the_released_form_drops_features_of_the_second_stream_at_test():
    batch = episodes((16, DIM))
    fixed, official = make(), make(compat="official")
    assert torch.equal(fixed.outputs(batch)["similarity"], fixed.outputs(batch)["similarity"])
    first, second = official.outputs(batch), official.outputs(batch)
    assert torch.equal(first["matching"], second["matching"])
    assert not torch.equal(first["similarity"], second["similarity"])


def test_weight_zero_leaves_the_second_stream_out():
    head, batch = make(similarity_weight=0.0), episodes((16, DIM))
    outputs = head.outputs(batch)
    assert "similarity" not in outputs
    assert torch.equal(outputs["logits"], outputs["matching"])


def test_the_loss_is_two_cross_entropies_and_not_that_of_the_sum():
    head, batch = make(), episodes((16, DIM))
    labels = torch.tensor([[0, 1, 2, 0], [2, 2, 1, 0]])
    outputs = head.outputs(batch)
    losses = head.loss(batch, outputs, Targets(labels))
    by_hand = [
        functional.cross_entropy(outputs[stream].flatten(0, 1), labels.flatten(), reduction="sum") / 2
        for stream in ("matching", "similarity")
    ]
    torch.testing.assert_close(losses["total"], by_hand[0] + 0.1 * by_hand[1])


@pytest.fixture
def official_state():
    paths = sorted(GOLDENS.glob("strm/*.safetensors"))
    if not paths:
        pytest.skip(f"no parity vectors at {GOLDENS} (set FSAR_GOLDENS)")
    return read_golden(paths[0])


def test_a_released_checkpoint_lacks_the_second_stream_and_may_be_wrapped(official_state):
    wrapped = {
        name.replace("attn_pat.", "attn_pat.module."): tensor
        for name, tensor in official_state.state.items()
        if not name.startswith("new_dist_loss_post_pat")
    }
    wrapped["resnet.module.0.weight"] = torch.zeros(1)
    head = import_official("strm", wrapped, {})
    assert head.options["compat"] == "official"
    torch.testing.assert_close(
        head.patch_enrichment.value_conv.weight, official_state.state["attn_pat.value_conv.weight"]
    )


def test_a_store_with_maps_or_with_pooled_maps_feeds_the_head_and_one_without_says_what_to_add(tmp_path):
    videos = [VideoRow(f"v{i}", f"class{i // 2}", "train", "x") for i in range(4)]
    shapes = {"map": (4, 1, 8, DIM, 7, 7), "map4max": (4, 1, 8, 16, DIM), "pooled": (4, 1, 8, DIM)}
    stores = {
        tap: make_store(tmp_path / f"{tap}.zarr", {tap: np.zeros(s, np.float16)}, videos) for tap, s in shapes.items()
    }
    for tap in ("map", "map4max"):
        task = make_task("strm", stores[tap])
        assert task.taps == {"patches": tap}
        assert task.head_options({}, None)["dim"] == DIM
    for name, tap in (("strm", "map4max"), ("hcl", "map")):
        with pytest.raises(InputError, match=f"needs .*pooled.zarr has pooled .*Add it: .*--tap {tap}"):
            make_task(name, stores["pooled"])
