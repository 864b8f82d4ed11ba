"""The side network of TS-FSAR: a narrow transformer beside the frozen one, which reads the tokens of its levels."""

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fsar.errors import InputError
from fsar.heads.layers.attention import attend, project_normed

HEAD_DIM = 64
GATE_TEMPERATURE = 0.1


class Attention(nn.Module):
    """Multi-head self attention with a bias in every projection; neither norm nor residual."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.out = (nn.Linear(dim, dim) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        """Return tokens (..., L, D) after attending to each other within the last but one axis."""
        joined: Tensor = self.out(attend(self.query(x), self.key(x), self.value(x), self.heads))
        return joined


class SideBlock(nn.Module):
    """A pre-norm transformer block over the tokens of each frame, or over the frames of each token's place."""

    def __init__(self, dim: int, mlp_ratio: float, *, over_time: bool) -> None:
        super().__init__()
        self.over_time = over_time
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attention = Attention(dim, dim // HEAD_DIM)
        hidden = round(mlp_ratio * dim)
        self.fc1, self.fc2 = nn.Linear(dim, hidden), nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Return tokens (V, T, L, d) after attention and the feed-forward part."""
        if self.over_time:
            x = x + self.attention(self.norm1(x).transpose(1, 2)).transpose(1, 2)
        else:
            x = x + self.attention(self.norm1(x))
        fed: Tensor = self.fc2(F.gelu(self.fc1(self.norm2(x))))
        return x + fed


class SideNetwork(nn.Module):
    """Every level is normalised and reduced to d channels; a block of d channels leads from each level to the next.

    What a block makes and the next level are mixed by a learned gate. A block stands for the blocks of the frozen
    transformer between its two levels, and attends over time if one of `temporal_blocks` is among them.
    """

    def __init__(
        self, width: int, dim: int, levels: Sequence[int], *, temporal_blocks: Sequence[int], mlp_ratio: float
    ) -> None:
        super().__init__()
        if dim % HEAD_DIM or dim < HEAD_DIM:
            raise InputError(f"side_dim must be a multiple of {HEAD_DIM}, got {dim}")
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in levels)
        self.reductions = nn.ModuleList(nn.Linear(width, dim, bias=False) for _ in levels)
        steps = list(pairwise(levels))
        self.blocks = nn.ModuleList(
            SideBlock(dim, mlp_ratio, over_time=any(first <= block < last for block in temporal_blocks))
            for first, last in steps
        )
        self.gates = nn.ParameterList(nn.Parameter(torch.zeros(1)) for _ in steps)

    def forward(self, levels: Sequence[Tensor]) -> Tensor:
        """Return tokens (V, T, 1+P, d) for those of each level (V, T, 1+P, W), the class token first."""
        first, *others = (
            project_normed(norm, tokens, reduction)[0]  # type: ignore[arg-type]
            for norm, reduction, tokens in zip(self.norms, self.reductions, levels, strict=True)
        )
        tokens = first
        for block, gate, level in zip(self.blocks, self.gates, others, strict=True):
            tokens = torch.lerp(level, block(tokens), torch.sigmoid(gate / GATE_TEMPERATURE))
        return tokens
