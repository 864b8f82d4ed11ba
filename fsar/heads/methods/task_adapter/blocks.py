"""A block of a frozen CLIP with the adapters of Task-Adapter++ in it."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fsar.errors import InputError
from fsar.heads.layers.attention import attend

HEAD_WIDTH = 64


class Bottleneck(nn.Module):
    """Two linear maps with a GELU between them, a quarter as wide as the tokens."""

    def __init__(self, width: int, *, nothing_at_first: bool) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(width, width // 4), nn.Linear(width // 4, width)
        if nothing_at_first:
            nn.init.zeros_(self.up.weight)
            nn.init.zeros_(self.up.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Return (..., W) for (..., W)."""
        out: Tensor = self.up(F.gelu(self.down(x)))
        return out


class FrozenBlock(nn.Module):
    """The weights of a block of CLIP, as buffers under CLIP's own names: they are kept and never trained."""

    def __init__(self, width: int, n_heads: int, *, quick_gelu: bool) -> None:
        super().__init__()
        self.n_heads, self.quick_gelu = n_heads, quick_gelu
        scale = width**-0.5
        for name, shape in self.shapes(width).items():
            fresh = torch.ones(shape) if name.startswith("ln_") and name.endswith("weight") else torch.zeros(shape)
            self.register_buffer(flat(name), torch.randn(shape) * scale if len(shape) == 2 else fresh)

    @staticmethod
    def shapes(width: int) -> dict[str, tuple[int, ...]]:
        """Return the shape of each weight by CLIP's name."""
        linear = {"attn.in_proj_": (3, 1), "attn.out_proj.": (1, 1), "mlp.c_fc.": (4, 1), "mlp.c_proj.": (1, 4)}
        matrices = {f"{name}weight": (rows * width, columns * width) for name, (rows, columns) in linear.items()}
        biases = {f"{name}bias": (rows * width,) for name, (rows, _) in linear.items()}
        norms = {f"{norm}.{kind}": (width,) for norm in ("ln_1", "ln_2") for kind in ("weight", "bias")}
        return {**matrices, **biases, **norms}

    def attention(self, x: Tensor, *, causal: bool = False) -> Tensor:
        """Return what tokens (..., L, W) learn of each other within the last but one axis, without the residual."""
        asked, keys, values = self._linear(self._norm(x, "ln_1"), "attn.in_proj_").chunk(3, -1)
        return self._linear(attend(asked, keys, values, self.n_heads, causal=causal), "attn.out_proj.")

    def normed(self, x: Tensor) -> Tensor:
        """Return what the feed-forward part takes."""
        return self._norm(x, "ln_2")

    def feed_forward(self, normed: Tensor) -> Tensor:
        """Return its result, without the residual."""
        hidden = self._linear(normed, "mlp.c_fc.")
        hidden = hidden * torch.sigmoid(1.702 * hidden) if self.quick_gelu else F.gelu(hidden)
        return self._linear(hidden, "mlp.c_proj.")

    def _linear(self, x: Tensor, name: str) -> Tensor:
        return F.linear(x, getattr(self, flat(f"{name}weight")), getattr(self, flat(f"{name}bias")))

    def _norm(self, x: Tensor, name: str) -> Tensor:
        weight, bias = getattr(self, flat(f"{name}.weight")), getattr(self, flat(f"{name}.bias"))
        return F.layer_norm(x, weight.shape, weight, bias)


class AdaptedBlock(nn.Module):
    """A frozen block and its four adapters: over time, over the tokens of a frame, over videos, beside the MLP."""

    def __init__(self, width: int, n_heads: int, *, quick_gelu: bool) -> None:
        super().__init__()
        self.frozen = FrozenBlock(width, n_heads, quick_gelu=quick_gelu)
        self.time, self.space, self.mlp = (Bottleneck(width, nothing_at_first=True) for _ in range(3))
        self.task = Bottleneck(width, nothing_at_first=False)  # as released

    def forward(self, x: Tensor) -> Tensor:
        """Return tokens (B, V, T, L, W); the V videos of an episode's side attend to each other."""
        attention = self.frozen.attention
        x = x + self.time(attention(x.transpose(2, 3)).transpose(2, 3))
        own = attention(x)
        x = x + own + self.space(own)
        x = x + self.task(attention(x.transpose(1, 3)).transpose(1, 3))
        normed = self.frozen.normed(x)
        added: Tensor = self.frozen.feed_forward(normed) + self.mlp(normed)
        return x + added


def flat(name: str) -> str:
    """Return the name of a buffer for a name with dots."""
    return name.replace(".", "_")


def load_frozen(block: FrozenBlock, tower: Mapping[str, Tensor], index: int) -> None:
    """Give a block the weights of block `index` of a CLIP tower.

    Raises:
        InputError: a tower of another kind or width, or without such a block.
    """
    prefix = f"transformer.resblocks.{index}."
    own = dict(block.named_buffers())
    for name in block.shapes(len(own["ln_1_weight"])):
        found = tower.get(prefix + name)
        if found is None or found.shape != own[flat(name)].shape:
            what = "none" if found is None else f"one of {tuple(found.shape)}"
            raise InputError(
                f"task-adapter++ adapts the last blocks of an open_clip transformer and wants {prefix}{name} of "
                f"{tuple(own[flat(name)].shape)}; the backbone has {what}"
            )
        own[flat(name)].copy_(found)
