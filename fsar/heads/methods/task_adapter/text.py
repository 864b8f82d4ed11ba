"""The last blocks of CLIP's text tower with the adapters of Task-Adapter++ in them."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fsar.errors import InputError
from fsar.heads.methods.task_adapter.blocks import Bottleneck, FrozenBlock, load_frozen


class AdaptedTextBlock(nn.Module):
    """A frozen block of the text tower and an adapter over the texts of a class."""

    def __init__(self, width: int, n_heads: int, *, quick_gelu: bool) -> None:
        super().__init__()
        self.frozen = FrozenBlock(width, n_heads, quick_gelu=quick_gelu)
        self.steps = Bottleneck(width, nothing_at_first=True)

    def forward(self, x: Tensor) -> Tensor:
        """Return tokens (..., M, L, W); the M texts of a class attend to each other at every place."""
        x = x + self.frozen.attention(x, causal=True)
        x = x + self.steps(self.frozen.attention(x.transpose(-2, -3)).transpose(-2, -3))
        return x + self.frozen.feed_forward(self.frozen.normed(x))


class AdaptedTextTower(nn.Module):
    """Class tokens of one level of a text tower to the vectors at their ends."""

    def __init__(self, level: int, n_blocks: int, *, width: int, dim: int, n_heads: int, quick_gelu: bool) -> None:
        super().__init__()
        self.width = width
        self.blocks = nn.ModuleDict(
            {str(i): AdaptedTextBlock(width, n_heads, quick_gelu=quick_gelu) for i in range(level, n_blocks)}
        )
        """By their number in the tower, from 0."""
        self.ln_final_weight: Tensor
        self.ln_final_bias: Tensor
        self.projection: Tensor
        self.register_buffer("ln_final_weight", torch.ones(width))
        self.register_buffer("ln_final_bias", torch.zeros(width))
        self.register_buffer("projection", torch.randn(width, dim) * width**-0.5)

    def forward(self, rows: Tensor) -> Tensor:
        """Return vectors (..., M, E) for rows (..., M, 1 + L * W): the place of the end token, and L tokens.

        Tokens behind the longest text's end need not be there: none sees one behind it, in its own text or another.

        Raises:
            InputError: rows of another width.
        """
        if rows.shape[-1] <= self.width or (rows.shape[-1] - 1) % self.width:
            raise InputError(
                f"task-adapter++ wants class text as tokens of {self.width} numbers, got rows of {rows.shape[-1]}: "
                "make the table with `fsar-prep text STORE --level K`"
            )
        ends = rows[..., 0].round().long().clamp(0, (rows.shape[-1] - 1) // self.width - 1)
        x = rows[..., 1:].reshape(*rows.shape[:-1], -1, self.width)
        for block in self.blocks.values():
            x = block(x)
        at_end = x.take_along_dim(ends[..., None, None], -2).squeeze(-2)
        return F.layer_norm(at_end, (self.width,), self.ln_final_weight, self.ln_final_bias) @ self.projection

    def start_from(self, tower: Mapping[str, Tensor]) -> None:
        """Take the frozen blocks, the norm behind them and the projection from a CLIP model's state dict."""
        for index, block in self.blocks.items():
            assert isinstance(block, AdaptedTextBlock)
            load_frozen(block.frozen, tower, int(index))
        behind = {
            "ln_final.weight": self.ln_final_weight,
            "ln_final.bias": self.ln_final_bias,
            "text_projection": self.projection,
        }
        for name, own in behind.items():
            if name not in tower or tower[name].shape != own.shape:
                raise InputError(f"task-adapter++ wants {name} of {tuple(own.shape)}, which the text tower has not")
            own.copy_(tower[name])
