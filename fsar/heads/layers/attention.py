"""Blocks that several heads are built from. Leading axes are free; the last two are tokens L and width D."""

import math
from collections.abc import Callable
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fsar.errors import InputError
from fsar.heads.layers.dropout import Dropout
from fsar.heads.layers.option_checks import check_positive

FEED_FORWARD_WIDTH = 2048
"""Hidden width of every feed-forward block in the CLIP-FSAR, MoLo and CLIP-MEI code, whatever the feature width."""


class FeedForward(nn.Module):
    """Linear, GELU (exact), linear; dropout after both. Neither norm nor residual: the caller adds them.

    Parameter names are `net.0` and `net.3`, as in the official checkpoints.
    """

    def __init__(self, dim: int, hidden: int = FEED_FORWARD_WIDTH, *, dropout: float = 0.05) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(dim, hidden), nn.GELU(), Dropout(dropout), nn.Linear(hidden, dim), Dropout(dropout)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return the transform of tokens (..., D), same shape."""
        return self.net(x)


class SelfAttention(nn.Module):
    """Pre-norm multi-head self attention with its residual: x + to_out(attend(norm(x))).

    `to_qkv` is one bias-free matrix (rows: queries, keys, values; heads are contiguous chunks of each). With one head
    as wide as the input the official code has no output projection, and neither has this.
    """

    def __init__(self, dim: int, *, heads: int = 8, head_dim: int | None = None, dropout: float = 0.2) -> None:
        super().__init__()
        inner = inner_width(dim, heads, head_dim)
        self.heads = heads
        self.norm = nn.LayerNorm(dim)
        self.to_qkv = nn.Linear(dim, 3 * inner, bias=False)
        self.to_out = nn.Identity() if heads == 1 and inner == dim else nn.Linear(inner, dim)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Return tokens (..., L, D) after attending to each other within the last but one axis."""
        query, key, value = project_normed(self.norm, x, self.to_qkv)[0].chunk(3, -1)
        update: Tensor = self.dropout(self.to_out(attend(query, key, value, self.heads)))
        return x + update


class CrossAttention(nn.Module):
    """Multi-head attention with one norm shared by queries, keys and values, and its residual.

    q + to_out(attend(to_q(norm(q)), to_k(norm(kv)), to_v(norm(kv)))). The residual is the un-normalised q. The inner
    width is heads * head_dim, whatever D is.
    """

    def __init__(self, dim: int, *, heads: int = 8, head_dim: int | None = None, dropout: float = 0.2) -> None:
        super().__init__()
        inner = inner_width(dim, heads, head_dim)
        self.heads = heads
        self.norm = nn.LayerNorm(dim)
        self.to_q = nn.Linear(dim, inner, bias=False)
        self.to_k = nn.Linear(dim, inner, bias=False)
        self.to_v = nn.Linear(dim, inner, bias=False)
        self.to_out = nn.Linear(inner, dim)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Return tokens x (..., L, D) after attending to `context` (..., M, D); None means to themselves."""
        query = self.norm(x)
        key = query if context is None else self.norm(context)
        update: Tensor = self.dropout(self.to_out(attend(self.to_q(query), self.to_k(key), self.to_v(key), self.heads)))
        return x + update


class CrossBlock(nn.Module):
    """`CrossAttention`, then y + FF(y) without a norm: the block of CLIP-FSAR, CLIP-MEI and EMP-Net."""

    def __init__(
        self,
        dim: int,
        *,
        heads: int = 8,
        head_dim: int | None = None,
        hidden: int = FEED_FORWARD_WIDTH,
        attention_dropout: float = 0.2,
        dropout: float = 0.05,
    ) -> None:
        super().__init__()
        self.attention = CrossAttention(dim, heads=heads, head_dim=head_dim, dropout=attention_dropout)
        self.feed_forward = FeedForward(dim, hidden, dropout=dropout)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Return tokens x (..., L, D) after attending to `context` (..., M, D); None means to themselves."""
        y: Tensor = self.attention(x, context)
        transformed: Tensor = self.feed_forward(y)
        return y + transformed


def project_normed(norm: nn.LayerNorm, x: Tensor, *layers: nn.Linear) -> list[Tensor]:
    """Return bias-free linear maps of the normalised tokens, each (..., d) for x (..., D).

    Cached features want no gradient. Then the norm's scale g and shift b are moved into the maps,
    W (g x + b) = (W g) x + W b, and their gradients come from that of W g instead of a product per map with W.
    """
    if x.requires_grad or not torch.is_grad_enabled():
        normed = norm(x)
        return [layer(normed) for layer in layers]
    plain = F.layer_norm(x, norm.normalized_shape, eps=norm.eps)
    return [F.linear(plain, layer.weight * norm.weight, layer.weight @ norm.bias) for layer in layers]


def inner_width(dim: int, heads: int, head_dim: int | None) -> int:
    """Return the width of all heads together: `dim` if no width per head is given."""
    check_positive("n_heads", heads)
    if head_dim is None and dim % heads:
        raise InputError(f"dim must be a multiple of the number of heads, got dim={dim} and heads={heads}")
    return dim if head_dim is None else heads * head_dim


def attend(query: Tensor, key: Tensor, value: Tensor, heads: int = 1, *, causal: bool = False) -> Tensor:
    """Return softmax(q k^T / sqrt(E)) v per head of E channels, heads joined again.

    query (..., L, H*E), key and value (..., M, H*E) -> (..., L, H*E). Leading axes are flattened into one, the form in
    which torch picks its fused kernels. `causal`: a token sees none behind it.
    """
    lead = query.shape[:-2]
    query, key, value = (
        x.reshape(-1, x.shape[-2], heads, x.shape[-1] // heads).transpose(1, 2) for x in (query, key, value)
    )
    joined = F.scaled_dot_product_attention(query, key, value, is_causal=causal).transpose(1, 2).flatten(2)
    return joined.view(*lead, *joined.shape[1:])


def sinusoid_table(length: int, dim: int) -> Tensor:
    """Return the usual position table (length, D), D even: sin and cos of p / 10000^(2i/D) at columns 2i and 2i+1."""
    angle = torch.arange(length).unsqueeze(1) * torch.exp(torch.arange(0, dim, 2) * (-math.log(10000.0) / dim))
    return torch.stack((angle.sin(), angle.cos()), -1).flatten(1)


def steep_sinusoid_table(length: int, dim: int) -> Tensor:
    """Return the position table of HyRSM and MoLo (length, D), D even.

    Column k holds sin (k even) or cos (k odd) of p / 10000^(2k/D): k counts channels, not pairs, so exponents run up to
    nearly 2 and the sine and cosine of a pair differ in frequency. Computed in float64 as the official code does.
    """
    exponent = 2 * torch.arange(dim, dtype=torch.float64) / dim
    angle = torch.arange(length, dtype=torch.float64).unsqueeze(1) / 10000**exponent
    return torch.where(torch.arange(dim) % 2 == 0, angle.sin(), angle.cos()).float()


def position_code(table: Callable[[int, int], Tensor], like: Tensor) -> Tensor:
    """Return a position table (L, D) with dtype and device of tokens (..., L, D). Made once: do not write to it."""
    return _position_code(table, *like.shape[-2:], like.device, like.dtype)


@lru_cache(maxsize=64)
def _position_code(
    table: Callable[[int, int], Tensor], length: int, dim: int, device: torch.device, dtype: torch.dtype
) -> Tensor:
    # A cached tensor made in inference mode could not take part in training later.
    with torch.inference_mode(False):
        return table(length, dim).to(device, dtype)
