"""HCL beyond parity: sizes, choices made by hand, and how the fixed behaviour differs from the released one."""

import pytest
import torch

from fsar.errors import InputError
from fsar.heads import EpisodeBatch, PairBatch, create_head, seeded
from fsar.heads.methods.hcl import matching
from fsar.heads.methods.hcl.losses import contrast, cycle
from fsar.heads.methods.hcl.parts import TERMS
from fsar.heads.methods.hcl.quirks import mix_frames

DIM = 10


def make(**options):
    with seeded(0):
        tiny = {"dim": DIM, "width": 12, "ffn_dim": 14, "n_heads": 2, "n_classes": 7, "n_patches": 9}
        return create_head("hcl", **{**tiny, **options}).eval()


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def episodes(*, n_frames=8, side=(4, 4), n_way=3, n_shot=1, n_query=4, text_dim=None, seed=0):
    return EpisodeBatch(
        support={"map": draw(2, n_way * n_shot, n_frames, DIM, *side, seed=seed)},
        support_labels=torch.arange(n_way).repeat(n_shot).expand(2, -1),
        query={"map": draw(2, n_query, n_frames, DIM, *side, seed=seed + 1)},
        n_way=n_way,
        class_text=None if text_dim is None else draw(2, n_way, 1, text_dim, seed=seed + 2),
    )


def pairs(*, n_pairs=3, n_frames=8, side=(4, 4), text_dim=None):
    text = None if text_dim is None else draw(n_pairs, 1, text_dim, seed=2).repeat_interleave(2, 0)
    maps = draw(2 * n_pairs, n_frames, DIM, *side)
    return PairBatch({"map": maps}, torch.arange(n_pairs).repeat_interleave(2), text)


@pytest.mark.parametrize(
    ("n_frames", "side", "n_shot"), [(4, (4, 4), 5), (8, (7, 7), 1), (16, (4, 5), 2), (5, (14, 14), 1)]
)
def test_sizes(n_frames, side, n_shot):
    head = make(temp_set=(2, 3), multi_scale=True, loss_spatial_cycle=0.25)
    batch = episodes(n_frames=n_frames, side=side, n_shot=n_shot)
    assert head(batch).shape == (2, 4, 3)
    assert head(batch).isfinite().all()
    losses = head.pair_loss(pairs(n_frames=n_frames, side=side))
    assert set(losses) == {*TERMS, "total"}
    assert all(value.isfinite() for value in losses.values())


@pytest.mark.parametrize("n_frames", [3, 4])
def test_fewer_tuples_than_ranks_are_all_taken(n_frames):
    """Four frames have four triples, three have one; the released code crashes."""
    head = make(temp_set=(3,), n_ranks=5)
    batch = episodes(n_frames=n_frames)
    every = make(temp_set=(3,), n_ranks=1 if n_frames == 3 else 4)
    torch.testing.assert_close(head(batch), every(batch))


def test_too_few_frames_for_a_tuple_are_refused():
    with pytest.raises(InputError, match="tuples of 3 frames need at least 3"):
        make(temp_set=(3,))(episodes(n_frames=2))


@pytest.mark.parametrize(
    ("options", "n_frames", "side", "message"),
    [
        ({"max_frames": 10}, 12, (4, 4), "max_frames=12"),
        ({"max_side": 10}, 4, (4, 11), "max_side=11"),
        ({"max_side": 10}, 4, (11, 4), "max_side=11"),
    ],
)
def test_videos_beyond_the_position_tables_name_the_option(options, n_frames, side, message):
    with pytest.raises(InputError, match=message):
        make(**options)(episodes(n_frames=n_frames, side=side))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temp_set": ()}, "temp_set"),
        ({"temp_set": (2, 2)}, "temp_set"),
        ({"metric": "cosine"}, "metric must be"),
        ({"compat": "offical"}, "compat must be"),
        ({"n_heads": 5}, "width .* n_heads"),
        ({"temperature": 0.0}, "temperature"),
        ({"n_tuples": 0}, "n_tuples"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        make(**options)


def test_chosen_patches_are_those_of_a_plain_search():
    """Two videos, one ranked pair of tuples at a time, the search written out."""
    query, support = (matching.unit(draw(1, 2, 4, 6, 5, seed=seed)) for seed in (0, 1))
    frames = matching.frame_tuples(4, 2)
    own, other = frames[torch.tensor([[[[0, 5], [1, 2]], [[3, 4], [0, 2]]]])], frames[torch.tensor(
        [[[[1, 4], [5, 0]], [[2, 2], [3, 1]]]]
    )]  # fmt: skip
    counts, support_counts = matching.choose_patches(query, support, own, other, 5)
    assert counts.sum(-1).eq(2 * 5).all()
    for q in range(2):
        for s in range(2):
            chosen, partners = torch.zeros(24), torch.zeros(24)
            for rank in range(2):
                mine = [(f, p) for f in own[0, q, s, rank].tolist() for p in range(6)]
                theirs = [(f, p) for f in other[0, q, s, rank].tolist() for p in range(6)]
                table = torch.tensor([[float(query[0, q, *a] @ support[0, s, *b]) for b in theirs] for a in mine])
                best, column = table.max(1)
                for row in best.topk(5).indices.tolist():
                    chosen[mine[row][0] * 6 + mine[row][1]] += 1
                    partners[theirs[column[row]][0] * 6 + theirs[column[row]][1]] += 1
            assert torch.equal(counts[0, q, s], chosen)
            assert torch.equal(support_counts[0, q, s], partners)


def test_small_chunks_change_nothing(monkeypatch):
    head, batch = make(n_ranks=3), episodes(n_shot=2)
    whole = head(batch)
    monkeypatch.setitem(matching.CHUNK_BYTES, "cpu", 1000)
    torch.testing.assert_close(head(batch), whole)


def test_ranked_tuples_are_best_first():
    query, support = matching.unit(draw(1, 1, 6, 4)), matching.unit(draw(1, 2, 6, 4, seed=1))
    own, other = matching.rank_tuples(query, support, 4)
    scores = (query[0, 0] @ support[0, 1].T).max(1)
    assert own[0, 0, 1].tolist() == scores.values.argsort(descending=True)[:4].tolist()
    assert other[0, 0, 1].tolist() == scores.indices[own[0, 0, 1]].tolist()


def test_coarser_scales_are_means_of_neighbours():
    patches = torch.arange(49.0).view(49, 1)
    every = matching.multi_scale(patches, (7, 7))
    assert every.shape == (89, 1)
    assert every[49] == patches[[0, 1, 7, 8]].mean()
    assert every[88] == torch.stack([patches[7 * r + c] for r in range(2, 6) for c in range(2, 6)]).mean()
    assert matching.multi_scale(torch.zeros(9, 1), (3, 3)).shape == (13, 1)


def test_contrast_leaves_the_video_itself_out_unless_asked():
    scores = torch.tensor([[9.0, 2, 1, 0], [2, 9, 0, 1], [1, 0, 9, 3], [0, 1, 3, 9]])
    without = torch.log(torch.exp(torch.tensor([2.0, 1, 0])).sum()) - 2
    counted = torch.log(torch.exp(torch.tensor([2.0, 1, 0, 0])).sum()) - 2
    torch.testing.assert_close(contrast(scores, 1.0)[0], without)
    torch.testing.assert_close(contrast(scores, 1.0, count_self=True)[0], counted)


def test_a_cycle_through_an_equal_video_returns():
    parts = torch.eye(4).expand(2, -1, -1)
    assert cycle(parts, parts, 50 * parts @ parts.transpose(1, 2), 0.07).max() < 1e-5
    assert cycle(parts, parts.flip(1), 50 * parts @ parts.transpose(1, 2), 0.07).min() > 1


def test_terms_and_levels_of_weight_zero_are_not_computed():
    head = make(loss_spatial=0.0, loss_temporal=0.0, fuse_spatial=0.0)
    assert set(head.pair_loss(pairs())) == {"classification", "global", "temporal_cycle", "total"}
    outputs = head.outputs(episodes())
    assert "spatial" not in outputs
    assert "patches" not in head.embed(episodes().query)
    torch.testing.assert_close(outputs["logits"], outputs["global"] + 0.5 * outputs["temporal"])


def test_loss_weights_and_fusion_weights_are_apart():
    batch, training = episodes(), pairs()
    one, other = make(loss_temporal=0.1), make(fuse_temporal=0.1)
    assert torch.equal(one(batch), make()(batch))
    assert torch.equal(other.pair_loss(training)["total"], make().pair_loss(training)["total"])
    assert not torch.equal(other(batch), make()(batch))


@pytest.mark.parametrize(("n_shot", "metric"), [(1, "dot"), (2, "euclidean")])
def test_the_metric_follows_the_shots_unless_it_is_set(n_shot, metric):
    batch = episodes(n_shot=n_shot)
    other = {"dot": "euclidean", "euclidean": "dot"}[metric]
    assert torch.equal(make()(batch), make(metric=metric)(batch))
    assert not torch.equal(make()(batch), make(metric=other)(batch))


def test_text_of_the_support_re_ranks_patches_and_that_of_queries_is_never_read():
    head = make(semantic=True, text_dim=6)
    batch = episodes(text_dim=6)
    other = EpisodeBatch(batch.support, batch.support_labels, batch.query, 3, 5 * batch.class_text.flip(1))
    assert not torch.equal(head.outputs(batch)["spatial"], head.outputs(other)["spatial"])
    assert torch.equal(head.outputs(batch)["temporal"], head.outputs(other)["temporal"])
    assert "patch_weights" not in head.embed(batch.query, None)


def test_text_that_says_nothing_changes_nothing():
    """Weights have mean one: if all patches are equally relevant, they are one."""
    head, plain = make(semantic=True, text_dim=6), make()
    plain.load_state_dict(head.state_dict(), strict=False)
    with torch.no_grad():
        head.semantic.norm.weight.zero_()
        head.semantic.norm.bias.zero_()
    batch = episodes(text_dim=6)
    torch.testing.assert_close(head(batch), plain(batch))


def test_missing_text_is_an_error_that_names_the_command():
    head = make(semantic=True)
    with pytest.raises(InputError, match="fsar-prep text"):
        head(episodes())
    with pytest.raises(InputError, match="fsar-prep text"):
        head.pair_loss(pairs())


def test_the_released_use_of_query_texts_is_refused():
    head = make(semantic=True, text_dim=6, compat="official")
    with pytest.raises(InputError, match="give away their classes"):
        head(episodes(text_dim=6))


def test_a_class_beyond_the_classifier_is_an_error_that_names_the_option():
    with pytest.raises(InputError, match="n_classes"):
        make(n_classes=2).pair_loss(pairs())


def test_the_released_multi_scale_mixes_frames_of_videos():
    patches = torch.arange(2 * 3).view(1, 2, 3, 1, 1).float()  # video v, frame f holds 3v + f
    assert mix_frames(patches).flatten().tolist() == [0, 2, 4, 1, 3, 5]


def test_fixed_results_of_a_video_do_not_depend_on_its_batch_but_released_ones_do():
    for compat, stable in (("fixed", True), ("official", False)):
        head = make(multi_scale=True, compat=compat)
        batch = episodes(n_query=4)
        first = EpisodeBatch(batch.support, batch.support_labels, {"map": batch.query["map"][:, :2]}, 3)
        assert torch.allclose(head(batch)[:, :2], head(first), atol=1e-6) is stable


def test_released_several_shots_choose_among_scrambled_scores():
    batch = episodes(n_shot=2)
    fixed, official = make(), make(compat="official")
    official.load_state_dict(fixed.state_dict(), strict=False)
    assert not torch.allclose(fixed.outputs(batch)["temporal"], official.outputs(batch)["temporal"], atol=1e-5)
    single = episodes(n_shot=1)
    torch.testing.assert_close(fixed(single), official(single))
