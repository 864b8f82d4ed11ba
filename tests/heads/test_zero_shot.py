"""The baselines without parameters."""

from dataclasses import replace

import torch

from fsar.heads import create_head
from tests.heads.cases import make_batch


def episode_with_answer_in_text():
    """Queries whose frames are the text vector of their class, in order."""
    batch = make_batch("clip-zero-shot", n_query=3)
    text = batch.class_text.mean(2)  # (B, 3, D)
    return replace(batch, query={"frames": 5 * text.unsqueeze(2).expand(-1, -1, 8, -1)})


def test_zero_shot_finds_the_class_whose_text_the_frames_show():
    result = create_head("clip-zero-shot")(episode_with_answer_in_text())
    assert torch.equal(result.argmax(-1), torch.arange(3).expand(2, -1))
    torch.testing.assert_close(result.amax(-1), torch.full((2, 3), 100.0))


def test_zero_shot_does_not_look_at_the_supports():
    batch = episode_with_answer_in_text()
    other = replace(batch, support={"frames": torch.zeros_like(batch.support["frames"])})
    head = create_head("clip-zero-shot", scale=1.0)
    assert torch.equal(head(batch), head(other))


def test_text_weight_goes_from_prototypes_to_text():
    batch = make_batch("clip-proto-text")
    zero_shot = create_head("clip-zero-shot")(batch)
    torch.testing.assert_close(create_head("clip-proto-text", text_weight=1.0)(batch), zero_shot)
    outputs = create_head("clip-proto-text", text_weight=0.0, scale=10.0).outputs(batch)
    torch.testing.assert_close(outputs["logits"], 10 * outputs["visual"])


def test_equal_weights_are_the_product_of_the_two_softmaxes():
    outputs = create_head("clip-proto-text", text_weight=0.5, scale=2.0).outputs(make_batch("clip-proto-text"))
    product = outputs["text"].softmax(-1) * outputs["visual"].softmax(-1)
    torch.testing.assert_close(outputs["logits"].softmax(-1), product / product.sum(-1, keepdim=True))
