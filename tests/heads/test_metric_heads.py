"""What is special to single metric heads: their options, quirks and edges."""

import pytest
import torch

from fsar.errors import InputError
from fsar.heads import EpisodeBatch, Targets, create_head, seeded
from fsar.heads.layers.attention import sinusoid_table
from fsar.heads.methods.pal import prototype_contrast


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def episode(n_shot=1, n_query=3, n_frames=8, dim=8, n_unlabelled=0, seed=0):
    g = generator(seed)
    return EpisodeBatch(
        support={"frames": torch.randn(1, 3 * n_shot, n_frames, dim, generator=g)},
        support_labels=torch.arange(3).repeat(n_shot).unsqueeze(0),
        query={"frames": torch.randn(1, n_query, n_frames, dim, generator=g)},
        n_way=3,
        unlabelled={"frames": torch.randn(1, n_unlabelled, n_frames, dim, generator=g)} if n_unlabelled else None,
    )


def head_of(name, **options):
    with seeded(0):
        return create_head(name, **options).eval()


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("trx", {"dim": 7}, "dim must be even"),
        ("trx", {"dim": 8, "temp_set": ()}, "temp_set must be different tuple sizes"),
        ("trx", {"dim": 8, "temp_set": (2, 2)}, "temp_set must be different tuple sizes"),
        ("trx", {"dim": 8, "reduction": "max"}, "reduction must be 'sum' or 'mean'"),
        ("hyrsm", {"dim": 12}, "dim must be a multiple of the number of heads, got dim=12 and heads=8"),
        ("molo", {"dim": 12}, "dim must be a multiple of 8"),
        ("trx", {"dim": 8, "tempset": (2,)}, "did you mean temp_set"),
    ],
)
def test_bad_options_say_what_to_do(name, options, message):
    with pytest.raises(InputError, match=message):
        create_head(name, **options)


def test_trx_of_a_clip_shorter_than_its_tuples_says_so():
    with pytest.raises(InputError, match="tuples of 3 frames need at least 3 frames per video, got 2"):
        head_of("trx", dim=8, out_dim=4)(episode(n_frames=2))


def test_trx_loss_is_a_sum_over_queries_unless_asked_otherwise():
    batch, targets = episode(), Targets(query_labels=torch.tensor([[0, 1, 2]]))
    totals = {}
    for reduction in ("sum", "mean"):
        head = head_of("trx", dim=8, out_dim=4, reduction=reduction)
        totals[reduction] = head.loss(batch, head.outputs(batch), targets)["total"]
    torch.testing.assert_close(totals["sum"], 3 * totals["mean"])


def test_trx_is_the_plain_attention_over_tuples():
    head = head_of("trx", dim=8, out_dim=6, temp_set=(2,))
    batch = episode(n_shot=2, n_frames=4)
    part = head.transformers[0]
    frames = torch.combinations(torch.arange(4), 2)

    def project(x):
        tuples = (x + 0.1 * sinusoid_table(4, 8))[:, frames].flatten(2)
        return part.norm_k(part.k_linear(tuples)), part.v_linear(tuples)

    (keys, values), (asked, wanted) = project(batch.support["frames"][0]), project(batch.query["frames"][0])
    for label in range(3):
        own = batch.support_labels[0] == label
        attention = (asked @ keys[own].flatten(0, 1).T / 6**0.5).softmax(-1)
        distance = (wanted - attention @ values[own].flatten(0, 1)).square().sum((1, 2)) / 6
        torch.testing.assert_close(head(batch)[0, :, label], -distance, rtol=1e-4, atol=1e-4)


def test_pal_passes_over_classes_without_queries():
    logits, labels = torch.rand(1, 2, 3, generator=generator()), torch.tensor([[0, 2]])
    assert prototype_contrast(logits, labels).isfinite()
    assert prototype_contrast(logits, labels, skip_empty=False).isinf()
    both = prototype_contrast(logits[..., [0, 2]], torch.tensor([[0, 1]]))
    torch.testing.assert_close(prototype_contrast(logits, labels), both)


def test_crosstransformer_divides_by_the_number_of_frames():
    batch = episode(n_frames=4)
    fixed, official = (head_of("crosstransformer", dim=8, out_dim=6, compat=compat) for compat in ("fixed", "official"))
    torch.testing.assert_close(fixed(batch), 2 * official(batch))


def test_hyrsm_relates_videos_or_prototypes_alike_at_one_shot():
    heads = [head_of("hyrsm", dim=8, relate=relate) for relate in ("videos", "prototypes")]
    one, many = episode(), episode(n_shot=2)
    torch.testing.assert_close(heads[0](one), heads[1](one))
    assert not torch.allclose(heads[0](many), heads[1](many))


def test_confident_unlabelled_videos_join_their_class():
    batch = episode(n_unlabelled=4)
    ignoring = head_of("hyrsm++", dim=8, confidence=1.1)(batch)
    torch.testing.assert_close(ignoring, head_of("hyrsm++", dim=8)(episode()))
    assert not torch.allclose(head_of("hyrsm++", dim=8, confidence=0.0)(batch), ignoring)


def test_the_official_oversight_drops_a_first_video_alone():
    batch = episode(n_unlabelled=1)
    fixed, official = (head_of("hyrsm++", dim=8, confidence=0.0, compat=compat) for compat in ("fixed", "official"))
    torch.testing.assert_close(official(batch), head_of("hyrsm++", dim=8)(episode()))
    assert not torch.allclose(fixed(batch), official(batch))


def test_otam_stays_finite_where_the_published_recursion_overflows():
    """Sixteen frames that point the opposite way: distances of nearly 2, costs far beyond float32's exp."""
    frames = torch.ones(1, 3, 16, 8)
    batch = EpisodeBatch({"frames": frames}, torch.tensor([[0, 1, 2]]), {"frames": -frames.clone().requires_grad_()}, 3)
    query = batch.query["frames"]
    query.retain_grad()
    logits = head_of("otam")(batch)
    logits.logsumexp(-1).sum().backward()
    assert logits.isfinite().all()
    assert query.grad.isfinite().all()


def test_molo_reconstructs_only_in_training_with_pixels():
    head = head_of("molo", dim=16, hidden=16, reconstruction_weight=0.4)
    g = generator()

    def part(n):
        return {
            "map": torch.rand(1, n, 3, 16, 1, 1, generator=g),
            "pixels": torch.rand(1, n, 3, 3, 32, 32, generator=g),
        }

    batch = EpisodeBatch(part(2), torch.tensor([[0, 1]]), part(2), 2)
    assert "reconstruction" not in head.outputs(batch)
    outputs = head.train().outputs(batch)
    losses = head.loss(batch, outputs, Targets(query_labels=torch.tensor([[0, 1]])))
    assert losses["reconstruction"] > 0
    del batch.support["pixels"]
    assert "reconstruction" not in head.outputs(batch)
