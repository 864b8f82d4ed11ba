"""CLIP-FSAR beyond parity and conformance: its options, its losses, and what it refuses."""

from dataclasses import replace

import pytest
import torch

from fsar.errors import InputError
from fsar.heads import create_head, seeded
from fsar.heads.layers.functional import offset_cosine
from tests.heads.cases import make_batch, make_head, make_targets


def logits(head, batch):
    with torch.no_grad():
        return head(batch)


def test_merging_before_equals_merging_after_with_one_shot():
    before, after = make_head("clip-fsar:merge"), make_head("clip-fsar:merge")
    after.merge_before = False
    one_shot, several = make_batch("clip-fsar", shots=(1, 1, 1)), make_batch("clip-fsar", shots=(2, 2, 2))
    torch.testing.assert_close(logits(before, one_shot), logits(after, one_shot))
    assert not torch.allclose(logits(before, several), logits(after, several), atol=1e-3)


def test_class_text_reaches_the_prototypes():
    head, batch = make_head("clip-fsar"), make_batch("clip-fsar")
    other = replace(batch, class_text=batch.class_text.flip(1))
    assert not torch.allclose(logits(head, batch), logits(head, other), atol=1e-3)


def test_templates_are_averaged():
    head, batch = make_head("clip-fsar"), make_batch("clip-fsar")
    mean = replace(batch, class_text=batch.class_text.mean(2, keepdim=True))
    torch.testing.assert_close(logits(head, batch), logits(head, mean))


@pytest.mark.parametrize(("exponent", "scoring"), [(1.0, "text"), (0.0, "visual")])
def test_combined_scores_reach_text_and_visual_at_their_ends(exponent, scoring):
    combined, end = make_head("clip-fsar"), make_head("clip-fsar")
    combined.scoring, combined.text_exponent, end.scoring = "combined", exponent, scoring
    batch = make_batch("clip-fsar")
    by_combined, by_end = logits(combined, batch), logits(end, batch)
    scale = 1 if scoring == "text" else 1 / 8  # costs are divided by the number of frames
    torch.testing.assert_close(by_combined.softmax(-1), (by_end * scale).softmax(-1))


def test_official_scores_are_probabilities_that_rank_like_ours():
    head, batch = make_head("clip-fsar:combined"), make_batch("clip-fsar")
    fixed = logits(head, batch)
    head.compat = "official"
    official = logits(head, batch)
    assert bool((official >= 0).all())
    assert bool((official <= 1).all())
    assert torch.equal(official.argsort(-1), fixed.argsort(-1))
    torch.testing.assert_close(official.log(), fixed)  # at 8 frames


def test_training_ranks_by_alignment_whatever_the_scoring():
    head, batch = make_head("clip-fsar:combined"), make_batch("clip-fsar")
    assert torch.equal(head.outputs(batch)["logits"].isfinite(), torch.ones(2, 4, 3, dtype=torch.bool))
    head.train()
    outputs = head.outputs(batch)
    assert torch.equal(outputs["logits"], -outputs["cost"])


def test_text_loss_classifies_all_videos_among_all_training_classes():
    head, batch = make_head("clip-fsar"), make_batch("clip-fsar")
    targets = make_targets("clip-fsar", batch)
    videos = torch.cat((batch.support["frames"], batch.query["frames"]), 1).mean(2)
    scores = head.scale * offset_cosine(videos, targets.all_class_text.mean(1))
    ids = torch.cat((targets.support_class_ids, targets.query_class_ids), 1)
    expected = torch.nn.functional.cross_entropy(scores.flatten(0, 1), ids.flatten())
    losses = head.loss(batch, head.outputs(batch), targets)
    torch.testing.assert_close(losses["text"], expected)
    torch.testing.assert_close(losses["total"], losses["classification"] + 3.0 * expected)
    head.text_loss_weight = 0.0
    assert set(head.loss(batch, head.outputs(batch), targets)) == {"classification", "total"}


@pytest.mark.parametrize("name", ["clip-fsar", "clip-mei", "emp-net", "clip-zero-shot", "clip-proto-text"])
def test_missing_text_names_the_command_that_adds_it(name):
    batch = replace(make_batch(name), class_text=None)
    with pytest.raises(InputError, match=r"needs class text and got none.*fsar-prep text"):
        make_head(name)(batch)


@pytest.mark.parametrize("name", ["clip-fsar", "clip-mei", "emp-net", "clip-zero-shot", "clip-proto-text"])
def test_text_of_another_width_is_refused(name):
    batch = make_batch(name)
    with pytest.raises(InputError, match=r"as wide as the features .*\(16\), got 20"):
        make_head(name)(replace(batch, class_text=torch.ones(2, 3, 1, 20)))


def test_unknown_option_values_are_named():
    with pytest.raises(InputError, match="scoring must be 'visual' or 'text' or 'combined', got 'audio'"):
        create_head("clip-fsar", dim=16, scoring="audio")


def test_fresh_heads_depend_on_the_seed_alone():
    states = []
    for seed in (0, 0, 1):
        with seeded(seed):
            states.append(create_head("clip-fsar", dim=16, hidden=8).state_dict())
    name = "context.0.attention.to_q.weight"
    assert torch.equal(states[0][name], states[1][name])
    assert not torch.equal(states[0][name], states[2][name])
