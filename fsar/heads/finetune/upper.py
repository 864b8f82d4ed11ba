"""The last blocks of a transformer as a tower of their own: stored tokens in, the features of the whole tower out."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from fsar.errors import InputError
from fsar.heads.finetune.tower import Tower
from fsar.pipeline.backbones import Backbone
from fsar.pipeline.backbones.taps import BELOW, block_index

BEHIND = ("ln_post", "proj", "norm", "fc_norm")
"""What follows the last block of a transformer, by open_clip's and timm's names."""


class UpperBlocks(nn.Module):
    """The last blocks of a transformer and what follows them. The weights are those of the whole tower, not copies."""

    def __init__(self, backbone: Backbone, n_blocks: int, *, only_pooled: bool = False) -> None:
        """Take the upper part of a tower.

        Args:
            backbone: The whole one.
            n_blocks: How many of its last blocks.
            only_pooled: Nobody asks for the tokens of the last block.

        Raises:
            InputError: see `check_upper`.
        """
        super().__init__()
        whole, blocks = backbone.module, backbone.points.blocks
        check_upper(backbone, n_blocks)
        self.blocks = nn.ModuleList(blocks[-n_blocks:])
        for name in BEHIND:
            part = getattr(whole, name, None)
            if isinstance(part, nn.Module | nn.Parameter):
                setattr(self, name, part)
        self._points = backbone.points
        self._pool = getattr(whole, "forward_head", None)  # timm's
        self.class_token_alone = only_pooled and self._pool is None and _is_plain(blocks[-1])
        """The last block computes its first token only: for `pooled` the same numbers in about half the time."""

    def forward(self, tokens: Tensor) -> Tensor:
        """Return pooled features (B, D) for tokens (B, L, W) of the residual stream below the first of the blocks."""
        batch_first, finish = self._points.batch_first, self._points.finish
        assert finish is not None
        tokens = tokens if batch_first else tokens.transpose(0, 1)
        for block in self.blocks[:-1] if self.class_token_alone else self.blocks:
            tokens = block(tokens)
        if self.class_token_alone:
            tokens = class_token(self.blocks[-1], tokens, batch_first=batch_first)
        tokens = tokens if batch_first else tokens.transpose(0, 1)
        pooled: Tensor = finish(tokens[:, 0]) if self._pool is None else self._pool(finish(tokens))
        return pooled


def check_upper(backbone: Backbone, n_blocks: int) -> None:
    """Raise InputError unless the last `n_blocks` of a backbone can train from the tokens below them."""
    blocks, whole = backbone.points.blocks, backbone.module
    if not blocks or backbone.points.finish is None:
        raise InputError(f"{backbone.name} is no transformer whose last blocks can train from stored tokens")
    if not hasattr(whole, "forward_head") and getattr(whole, "pool_type", None) != "tok":
        raise InputError(f"{backbone.name} does not take its first token for the whole frame: train it from frames")
    if n_blocks >= len(blocks):
        raise InputError(
            f"{backbone.name} has {len(blocks)} blocks, of which the last 1 to {len(blocks) - 1} can train from stored "
            f"tokens, got last:{n_blocks}"
        )


def class_token(block: Any, tokens: Tensor, *, batch_first: bool) -> Tensor:
    """Return what a block of open_clip makes of the first token alone, which attends to all: (B, 1, W) or (1, B, W)."""
    first = tokens[:, :1] if batch_first else tokens[:1]
    normed = block.ln_1(tokens)
    query = normed[:, :1] if batch_first else normed[:1]
    first = first + block.ls_1(block.attention(q_x=query, k_x=normed, v_x=normed))
    return first + block.ls_2(block.mlp(block.ln_2(first)))


def _is_plain(block: nn.Module) -> bool:
    from open_clip.transformer import ResidualAttentionBlock

    return type(block) is ResidualAttentionBlock and not hasattr(block, "ln_1_kv")


class UpperTower(Tower):
    """The last blocks of a tower, which train on stored tokens; nothing below them runs."""

    input_dims = 2

    def __init__(self, whole: Backbone, n_blocks: int, taps: Mapping[str, str]) -> None:
        """Take the upper part of a backbone and hook its taps; its weights train."""
        upper = UpperBlocks(whole, n_blocks, only_pooled=set(taps.values()) == {"pooled"})
        upper.requires_grad_(True)
        super().__init__(replace(whole, module=upper), taps)
        self._whole = whole

    @property
    def whole(self) -> Backbone:
        """The backbone with the lower blocks as they were."""
        return self._whole


def upper_taps(backbone: Backbone, n_blocks: int) -> list[str]:
    """Return the taps that the last `n_blocks` of a backbone can give."""
    first = len(backbone.points.blocks) - n_blocks
    return [tap for tap in backbone.taps() if tap == "pooled" or _block_of(tap) >= first]


def tokens_below(backbone: Backbone, n_blocks: int) -> str:
    """Return the tap whose tokens the last `n_blocks` take."""
    return f"tokens.{len(backbone.points.blocks) - n_blocks - 1}.raw"


def _block_of(tap: str) -> int:
    return block_index(tap) if tap.startswith("tokens.") else BELOW
