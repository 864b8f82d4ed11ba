"""The encoder of HCL: feature maps of a video to space-time tokens. Each video is encoded on its own."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fsar.errors import InputError
from fsar.heads.layers.dropout import Dropout


class SpaceTimePositions(nn.Module):
    """Learned positions of tokens: one table each for frame, column and row, side by side along the width."""

    def __init__(self, width: int, max_frames: int, max_side: int) -> None:
        """Make tables for up to `max_frames` frames of up to `max_side` rows and columns."""
        super().__init__()
        third = width // 3
        self.frame = nn.Parameter(torch.rand(max_frames, width - 2 * third))
        self.column = nn.Parameter(torch.rand(max_side, third))
        self.row = nn.Parameter(torch.rand(max_side, third))

    def forward(self, n_frames: int, n_rows: int, n_columns: int) -> Tensor:
        """Return positions (T*h*w, width), frame-major, then row, then column.

        Raises:
            InputError: the video has more frames or a larger grid than the tables.
        """
        for what, size, table in (("frames", n_frames, self.frame), ("grid", max(n_rows, n_columns), self.row)):
            if size > len(table):
                option = "max_frames" if what == "frames" else "max_side"
                raise InputError(
                    f"hcl has positions for {what} up to {len(table)}, got {size}: make the head with {option}={size}"
                )
        grid = (n_frames, n_rows, n_columns, -1)
        parts = (
            self.frame[:n_frames, None, None].expand(grid),
            self.column[None, None, :n_columns].expand(grid),
            self.row[None, :n_rows, None].expand(grid),
        )
        return torch.cat(parts, -1).flatten(0, 2)


class PositionedAttention(nn.Module):
    """Multi-head self-attention whose queries and keys, but not values, know the positions of the tokens."""

    def __init__(self, width: int, n_heads: int, dropout: float) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.dropout = Dropout(dropout)
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, x: Tensor, positions: Tensor) -> Tensor:
        """Return (V, L, d) for tokens (V, L, d) and positions (L, d)."""
        width = x.shape[-1]
        # W (x + p) = W x + W p: the positions are projected once for the batch, and x in one matrix product.
        shift = F.linear(positions, self.in_proj_weight[: 2 * width])
        projected = F.linear(x, self.in_proj_weight, self.in_proj_bias)
        query_key = projected[..., : 2 * width] + shift
        query, key = (self._split(part) for part in query_key.chunk(2, -1))
        value = self._split(projected[..., 2 * width :])
        dropout = self.dropout.p if self.training else 0.0
        mixed = F.scaled_dot_product_attention(query, key, value, dropout_p=dropout)
        return self.out_proj(mixed.transpose(1, 2).flatten(2))

    def _split(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:2], self.n_heads, -1).transpose(1, 2)


class EncoderLayer(nn.Module):
    """A transformer layer with exact GELU; normalises after each block, or before it (`pre_norm`)."""

    def __init__(self, width: int, ffn_dim: int, n_heads: int, dropout: float, pre_norm: bool) -> None:
        super().__init__()
        self.pre_norm = pre_norm
        self.attention = PositionedAttention(width, n_heads, dropout)
        self.linear1 = nn.Linear(width, ffn_dim)
        self.linear2 = nn.Linear(ffn_dim, width)
        self.norm1 = nn.LayerNorm(width)
        self.norm2 = nn.LayerNorm(width)
        self.dropout = Dropout(dropout)
        for linear in (self.linear1, self.linear2):
            nn.init.xavier_uniform_(linear.weight)

    def forward(self, x: Tensor, positions: Tensor) -> Tensor:
        """Return (V, L, d) for tokens (V, L, d) and positions (L, d)."""
        if self.pre_norm:
            x = x + self.dropout(self.attention(self.norm1(x), positions))
            return x + self._feed_forward(self.norm2(x))
        x = self.norm1(x + self.dropout(self.attention(x, positions)))
        return self.norm2(x + self._feed_forward(x))

    def _feed_forward(self, x: Tensor) -> Tensor:
        return self.dropout(self.linear2(self.dropout(F.gelu(self.linear1(x)))))


class SpaceTimeEncoder(nn.Module):
    """Feature maps (V, T, D, h, w) to tokens (V, T, h*w, d): 1x1 reduction, positions, transformer layers."""

    def __init__(
        self,
        *,
        dim: int,
        width: int,
        ffn_dim: int,
        n_heads: int,
        n_layers: int,
        dropout: float,
        pre_norm: bool,
        max_frames: int,
        max_side: int,
    ) -> None:
        super().__init__()
        self.input_proj = nn.Linear(dim, width)
        self.positions = SpaceTimePositions(width, max_frames, max_side)
        self.layers = nn.ModuleList(EncoderLayer(width, ffn_dim, n_heads, dropout, pre_norm) for _ in range(n_layers))
        self.norm = nn.LayerNorm(width) if pre_norm else nn.Identity()

    def forward(self, maps: Tensor) -> Tensor:
        """Return tokens (..., T, h*w, d) of maps (..., T, D, h, w)."""
        *lead, n_frames, _, n_rows, n_columns = maps.shape
        patches = maps.flatten(-2).transpose(-1, -2)  # (..., T, P, D)
        x = self.input_proj(patches.reshape(-1, n_frames * n_rows * n_columns, patches.shape[-1]))
        positions = self.positions(n_frames, n_rows, n_columns)
        for layer in self.layers:
            x = layer(x, positions)
        tokens: Tensor = self.norm(x)
        return tokens.view(*lead, n_frames, n_rows * n_columns, -1)
