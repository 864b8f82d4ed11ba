"""Blocks on several groups at once give what they give on each alone, with and without gradients of the features."""

import pytest
import torch

from fsar.heads import seeded
from fsar.heads.layers.attention import CrossBlock
from fsar.heads.layers.grouped import run_together


@pytest.mark.parametrize("wants_grad", [False, True])
def test_groups_together_equal_groups_alone(wants_grad):
    with seeded(0):
        block = CrossBlock(16, heads=4, hidden=24).eval()
        torch.nn.init.normal_(block.attention.norm.weight)
        torch.nn.init.normal_(block.attention.norm.bias)
    generator = torch.Generator().manual_seed(0)
    groups = [torch.randn(*shape, 16, generator=generator) for shape in ((2, 3, 4), (5, 7))]
    for group in groups:
        group.requires_grad_(wants_grad)
    results = []
    for outputs in (run_together(block, groups), [block(group) for group in groups]):
        block.zero_grad()
        sum((output * output.detach().cos()).sum() for output in outputs).backward()
        results.append((outputs, {name: p.grad.clone() for name, p in block.named_parameters()}))
    for together, alone in zip(results[0][0], results[1][0], strict=True):
        torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)
    for name, gradient in results[1][1].items():
        torch.testing.assert_close(results[0][1][name], gradient, rtol=1e-3, atol=1e-4)
