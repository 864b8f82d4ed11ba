"""A block on sums of parts that carry their images gives what it gives on the sums themselves."""

import torch

from fsar.heads import seeded
from fsar.heads.layers.attention import CrossBlock
from fsar.heads.layers.images import SumBlock, map_by_head, with_images


def tokens(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def make_block() -> CrossBlock:
    with seeded(0):
        block = CrossBlock(16, heads=4, head_dim=6, hidden=24).eval()
        for parameter in block.attention.norm.parameters():
            torch.nn.init.normal_(parameter)
    return block


@torch.no_grad()
def test_sums_of_parts_go_through_a_block_as_any_tokens_do():
    block, parts, mix = make_block(), tokens(2, 3, 5, 16), tokens(2, 1, 7, 5, seed=1)
    expected = block(mix @ parts)
    through_images = SumBlock(block, with_images(block, parts))
    torch.testing.assert_close(through_images(mix), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(through_images(mix, first=2), expected[..., 2:, :], rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_images_are_linear_so_that_means_of_parts_have_means_of_images():
    block, x = make_block(), tokens(4, 16)
    torch.testing.assert_close(with_images(block, x).mean(0), with_images(block, x.mean(0)), rtol=1e-4, atol=1e-5)


def test_images_by_head_add_up_to_the_map():
    x, weight = tokens(2, 3, 12), tokens(5, 12, seed=1)
    torch.testing.assert_close(map_by_head(x, weight, heads=4).sum(-2), x @ weight.T)
