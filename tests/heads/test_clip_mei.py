"""CLIP-MEI beyond parity and conformance: what it may know of the queries, and its motion summary."""

from dataclasses import replace

import pytest
import torch

from fsar.heads import create_head, seeded
from fsar.heads.layers.motion import MotionSummary
from fsar.heads.layers.text_checks import mean_text
from fsar.heads.methods.clip_mei import take_rows
from tests.heads.cases import make_batch, make_head, make_targets
from tests.heads.goldens_vision_language import Leaking


def test_the_leak_is_nothing_when_queries_are_balanced_and_something_when_not():
    head, batch = make_head("clip-mei"), make_batch("clip-mei", n_query=6)
    text = mean_text(batch.class_text, "clip-mei", 16)
    plain = head.outputs(batch)["logits"]
    head.__class__ = Leaking
    head.query_text = take_rows(text, torch.arange(6).expand(2, -1) % 3)
    torch.testing.assert_close(head.outputs(batch)["logits"], plain)
    head.query_text = take_rows(text, torch.zeros(2, 6, dtype=torch.long))
    assert not torch.allclose(head.outputs(batch)["logits"], plain, atol=1e-4)


def test_labels_of_queries_change_the_loss_only():
    head, batch = make_head("clip-mei"), make_batch("clip-mei")
    targets = make_targets("clip-mei", batch)
    outputs = head.outputs(batch)
    first = head.loss(batch, outputs, targets)
    second = head.loss(batch, outputs, replace(targets, query_labels=(targets.query_labels + 1) % 3))
    assert not torch.allclose(first["consistency"], second["consistency"])
    assert torch.equal(first["motion"], second["motion"])


def test_a_query_sees_the_other_queries():
    head, batch = make_head("clip-mei"), make_batch("clip-mei")
    assert not head.inductive
    alone = replace(batch, query={"frames": batch.query["frames"][:, :1]})
    assert not torch.allclose(head(alone)[:, 0], head(batch)[:, 0], atol=1e-4)


def test_order_of_queries_permutes_the_rows():
    head, batch = make_head("clip-mei"), make_batch("clip-mei")
    turned = replace(batch, query={"frames": batch.query["frames"].flip(1)})
    torch.testing.assert_close(head(turned).flip(1), head(batch), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("n_frames", [2, 3, 8])
def test_the_motion_summary_is_the_mean_of_two_sided_differences(n_frames):
    with seeded(0):
        summary = MotionSummary(6)
    x = torch.randn(5, n_frames, 6, generator=torch.Generator().manual_seed(0))
    convolved = summary.conv_2(summary.conv_1(x.transpose(1, 2))).transpose(1, 2)
    steps = ((convolved[:, 1:] - x[:, :-1]) + (convolved[:, :-1] - x[:, 1:])) / 2
    torch.testing.assert_close(summary(x), steps.mean(1), rtol=1e-4, atol=1e-5)


def test_without_auxiliary_losses_the_total_is_the_sum_of_cross_entropies():
    with seeded(0):
        head = create_head("clip-mei", dim=16, hidden=32, head_dim=4, auxiliary_weight=0.0).eval()
    batch = make_batch("clip-mei")
    targets = make_targets("clip-mei", batch)
    outputs = head.outputs(batch)
    expected = torch.nn.functional.cross_entropy(
        outputs["logits"].flatten(0, 1), targets.query_labels.flatten(), reduction="sum"
    )
    torch.testing.assert_close(head.loss(batch, outputs, targets)["total"], expected / 2)
