"""Learned layers in front of heads that have no parameters of their own, so that frozen features can be adapted."""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from fsar.errors import InputError
from fsar.heads.layers.dropout import Dropout, with_cheap_dropout

AdapterName = Literal["none", "linear", "mlp", "temporal"]


class LinearAdapter(nn.Module):
    """The same linear map of every frame, with a residual: it starts as the identity."""

    def __init__(self, dim: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.linear = nn.Linear(dim, dim)
        self.dropout = Dropout(dropout)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Return (..., T, D) for (..., T, D)."""
        x = self.norm(x)
        return x + self.linear(self.dropout(x))


class MlpAdapter(nn.Module):
    """Two linear maps of every frame with a GELU between them and a residual around them."""

    def __init__(self, dim: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.net = nn.Sequential(nn.Linear(dim, dim), nn.GELU(), Dropout(dropout), nn.Linear(dim, dim))

    def forward(self, x: Tensor) -> Tensor:
        """Return (..., T, D) for (..., T, D)."""
        x = self.norm(x)
        return x + self.net(x)


class TemporalAdapter(nn.Module):
    """A projection to a smaller width, then one transformer layer over the frames of a video.

    After it every frame knows its place and its neighbours, so that even a mean over frames can tell "left, then right"
    from "right, then left". At the width of the features the layer would cost ten times as much.
    """

    def __init__(self, dim: int, dropout: float, *, width: int = 128, n_heads: int = 4) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.down = nn.Linear(dim, width)
        self.mix = nn.Conv1d(width, width, kernel_size=3, padding=1, groups=width)
        self.layer = nn.TransformerEncoderLayer(
            width, n_heads, 2 * width, dropout, activation="gelu", batch_first=True, norm_first=True
        )
        with_cheap_dropout(self.layer)

    def forward(self, x: Tensor) -> Tensor:
        """Return (..., T, width) for (..., T, D)."""
        videos = self.down(self.norm(x)).flatten(0, -3)  # (videos, T, width)
        videos = videos + positions(videos.shape[1], videos.shape[2], videos)
        videos = videos + self.mix(videos.transpose(1, 2)).transpose(1, 2)
        adapted: Tensor = self.layer(videos)
        return adapted.view(*x.shape[:-1], -1)


def positions(n_frames: int, dim: int, like: Tensor) -> Tensor:
    """Return the sinusoid code (T, D) of Vaswani et al. (2017), with places spread over [0, 64) whatever T is."""
    place = torch.arange(n_frames, device=like.device, dtype=torch.float32)[:, None] * (64 / n_frames)
    rate = torch.exp(torch.arange(0, dim, 2, device=like.device) * (-9.210340371976184 / dim))  # ln 10000
    angle = place * rate
    return torch.stack((angle.sin(), angle.cos()), -1).flatten(1)[:, :dim].to(like.dtype)


ADAPTERS: dict[str, Callable[[int, float], nn.Module]] = {
    "linear": LinearAdapter,
    "mlp": MlpAdapter,
    "temporal": TemporalAdapter,
}


def make_adapter(name: AdapterName, dim: int | None, dropout: float) -> nn.Module:
    """Return the adapter `name` for frames of width `dim`; "none" is the identity.

    Raises:
        InputError: unknown name, or no width for an adapter that learns.
    """
    if name == "none":
        return nn.Identity()
    if name not in ADAPTERS:
        raise InputError(f"adapter must be one of none, {', '.join(ADAPTERS)}, got {name!r}")
    if dim is None:
        raise InputError(f"adapter {name!r} needs the width of the features: dim=512, for example")
    return ADAPTERS[name](dim, dropout)
