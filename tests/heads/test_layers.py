"""The shared blocks against their definitions."""

import math

import pytest
import torch

from fsar.errors import InputError
from fsar.heads import seeded
from fsar.heads.layers.attention import (
    CrossAttention,
    CrossBlock,
    SelfAttention,
    attend,
    position_code,
    sinusoid_table,
    steep_sinusoid_table,
)


def tokens(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_attention_keeps_leading_axes_and_heads_are_contiguous_chunks():
    query, key, value = tokens(2, 3, 4, 6), tokens(2, 3, 5, 6, seed=1), tokens(2, 3, 5, 6, seed=2)
    result = attend(query, key, value, heads=2)
    for head in (slice(0, 3), slice(3, 6)):
        weights = (query[..., head] @ key[..., head].transpose(-1, -2) / 3**0.5).softmax(-1)
        torch.testing.assert_close(result[..., head], weights @ value[..., head])


def test_cross_attention_adds_to_the_unnormalised_query_and_shares_its_norm():
    with seeded(0):
        block = CrossAttention(6, heads=2, head_dim=4).eval()
    x, context = tokens(2, 3, 6), tokens(2, 5, 6, seed=1)
    query, other = block.norm(x), block.norm(context)
    expected = x + block.to_out(attend(block.to_q(query), block.to_k(other), block.to_v(other), 2))
    torch.testing.assert_close(block(x, context), expected)
    torch.testing.assert_close(block(x), block(x, x))


def test_cross_block_has_no_norm_before_its_feed_forward():
    with seeded(0):
        block = CrossBlock(6, heads=2, hidden=8).eval()
    y = block.attention(tokens(2, 3, 6))
    torch.testing.assert_close(block(tokens(2, 3, 6)), y + block.feed_forward(y))
    assert {"feed_forward.net.0.weight", "feed_forward.net.3.bias"} <= set(block.state_dict())


def test_one_head_as_wide_as_the_input_has_no_output_projection():
    assert "to_out.weight" not in SelfAttention(6, heads=1).state_dict()
    assert "to_out.weight" in SelfAttention(6, heads=2).state_dict()


def test_heads_must_divide_the_width():
    with pytest.raises(InputError, match="dim must be a multiple of the number of heads, got dim=6 and heads=4"):
        CrossAttention(6, heads=4)


def test_usual_sinusoid_pairs_share_a_frequency():
    table = sinusoid_table(5, 8)
    assert table.shape == (5, 8)
    angle = 3 / 10000 ** (2 * 2 / 8)
    torch.testing.assert_close(table[3, 4:6], torch.tensor([math.sin(angle), math.cos(angle)]))


def test_steep_sinusoid_counts_channels_instead_of_pairs():
    table = steep_sinusoid_table(5, 8)
    expected = torch.tensor([math.sin(3 / 10000 ** (2 * 4 / 8)), math.cos(3 / 10000 ** (2 * 5 / 8))])
    torch.testing.assert_close(table[3, 4:6], expected)


def test_a_position_code_made_in_inference_mode_serves_training():
    with torch.inference_mode():
        position_code(sinusoid_table, tokens(2, 7, 10))
    x = tokens(2, 7, 10).requires_grad_()
    (x * position_code(sinusoid_table, x)).sum().backward()
    assert x.grad is not None
