"""D2ST-Adapter: deformable attention over space and over time, beside frozen blocks."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Steps = tuple[int, int, int]
"""Over time, height and width."""


@dataclass(frozen=True, slots=True)
class Pathway:
    """How the convolution that proposes sampling points runs over a clip: it leaves one point a window."""

    kernel: Steps
    stride: Steps

    def check(self, grid: Steps) -> None:
        """Raise ValueError unless a grid holds one window."""
        if any(size < least for size, least in zip(grid, self.kernel, strict=True)):
            least, got = (" x ".join(str(size) for size in sizes) for sizes in (self.kernel, grid))
            raise ValueError(f"d2st-adapter needs at least {least} (frames, height, width) between blocks, got {got}")


TRANSFORMER = Pathway((4, 5, 5), (4, 3, 3)), Pathway((1, 7, 7), (1, 7, 7))
"""Of space and of time; for ViT-B/16 each leaves 32 points of 8 x 14 x 14 patches."""
STAGES = (
    (Pathway((4, 7, 7), (4, 7, 7)), Pathway((1, 14, 14), (1, 14, 14))),
    (Pathway((4, 7, 7), (4, 7, 7)), Pathway((1, 14, 14), (1, 14, 14))),
    (Pathway((4, 5, 5), (4, 3, 3)), Pathway((1, 7, 7), (1, 7, 7))),
    (Pathway((4, 4, 4), (4, 3, 3)), Pathway((1, 7, 7), (1, 7, 7))),
)
"""The same behind each stage of a ResNet."""
STAGE_HEADS = (1, 2, 4, 8)
TRANSFORMER_HEADS = 4


class ChannelNorm(nn.Module):
    """Layer norm over the channels of maps (B, C, ...)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        """Return maps of the same shape."""
        normed: Tensor = self.norm(x.movedim(1, -1))
        return normed.movedim(-1, 1)


class DeformableAttention(nn.Module):
    """Every token of a clip attends to a few points of it, whose places are computed from the clip itself."""

    def __init__(self, width: int, n_heads: int, pathway: Pathway) -> None:
        super().__init__()
        self.n_heads, self.pathway = n_heads, pathway
        self.proj_q, self.proj_k, self.proj_v = (nn.Linear(width, width) for _ in range(3))
        self.proj_out = nn.Linear(width, width)
        own = width // n_heads
        self.conv_offset = nn.Sequential(
            nn.Conv3d(own, own, pathway.kernel, pathway.stride, groups=own),
            ChannelNorm(own),
            nn.GELU(),
            nn.Conv3d(own, 3, 1, bias=False),
        )

    def forward(self, tokens: Tensor, n_prefix: int, side: int) -> Tensor:
        """Return (V, T, L, A) for tokens (V, T, L, A) whose last side x side are patches; the first are never sampled.

        Raises:
            ValueError: too few frames or patches for one sampling point.
        """
        self.pathway.check((tokens.shape[1], side, side))
        asked = self.proj_q(tokens)
        points = self._points(self._grouped(asked[:, :, n_prefix:], side))
        patches = self._grouped(tokens[:, :, n_prefix:], side)
        sampled = F.grid_sample(patches, points, align_corners=True)  # (V * heads, A / heads, t, h, w)
        sampled = sampled.reshape(len(tokens), tokens.shape[-1], -1).transpose(1, 2)  # (V, n, A)
        query, key, value = (
            x.view(*x.shape[:2], self.n_heads, -1).transpose(1, 2)
            for x in (asked.flatten(1, 2), self.proj_k(sampled), self.proj_v(sampled))
        )
        attended = F.scaled_dot_product_attention(query, key, value)  # (V, heads, T * L, A / heads)
        out: Tensor = self.proj_out(attended.transpose(1, 2).flatten(2).view_as(tokens))
        return out

    def _grouped(self, patches: Tensor, side: int) -> Tensor:
        """Return maps (V * heads, A / heads, T, h, w) of patches (V, T, h * w, A)."""
        maps = patches.reshape(*patches.shape[:2], side, side, self.n_heads, -1)
        return maps.permute(0, 4, 5, 1, 2, 3).flatten(0, 1)

    def _points(self, asked: Tensor) -> Tensor:
        """Return sampling points (V * heads, t, h, w, 3) as (x, y, z) in -1..1: a regular grid, each point moved."""
        moved = self.conv_offset(asked).movedim(1, -1).tanh()  # (z, y, x)
        sizes = moved.shape[1:4]
        reach = moved.new_tensor([min(1.0, 2 / size) for size in sizes])
        axes = [(torch.arange(size, device=moved.device, dtype=moved.dtype) + 0.5) / size * 2 - 1 for size in sizes]
        grid = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1)
        return (grid + moved * reach).flip(-1)


class DeformableAdapter(nn.Module):
    """The addition of a D2ST-Adapter to the tokens behind a block, or the maps behind a stage.

    Pei, Tan, Lu, Tian, "D2ST-Adapter: Disentangled-and-Deformable Spatio-Temporal Adapter for Few-shot Action
    Recognition", ICCV 2025, https://arxiv.org/abs/2312.01431: a bottleneck in which one attention samples more of space
    and another more of time. It adds nothing at first.
    """

    def __init__(self, width: int, n_heads: int, pathways: tuple[Pathway, Pathway], *, of_maps: bool) -> None:
        """Build one.

        Args:
            width: Of the tokens; the bottleneck is a quarter of it.
            n_heads: Heads of both attentions, each of which samples points of its own.
            pathways: Of space and of time.
            of_maps: As behind a stage of a ResNet: no activation behind the outer two maps, norms named otherwise.
        """
        super().__init__()
        own = width // 4
        if width % 4 or own % n_heads:
            raise ValueError(f"d2st-adapter cuts a quarter of the width into {n_heads} heads; {width} does not divide")
        self.down, self.up = nn.Linear(width, own), nn.Linear(own, width)
        self.pos_embed = nn.Conv3d(own, own, 3, padding=1, groups=own)
        norm = LastNorm if of_maps else nn.LayerNorm
        self.s_ln, self.t_ln = norm(own), norm(own)
        self.s_attn, self.t_attn = (DeformableAttention(own, n_heads, pathway) for pathway in pathways)
        self.outer: nn.Module = nn.Identity() if of_maps else nn.GELU()
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, tokens: Tensor, n_prefix: int, side: int) -> Tensor:
        """Return what is added to tokens (V, T, L, W) whose last side x side are patches."""
        own = self.outer(self.down(tokens))
        patches = own[:, :, n_prefix:]
        maps = patches.unflatten(2, (side, side)).movedim(-1, 1)  # (V, A, T, h, w)
        placed = patches + self.pos_embed(maps).movedim(1, -1).flatten(2, 3)
        own = torch.cat((own[:, :, :n_prefix], placed), 2)
        space, time = self.s_attn(self.s_ln(own), n_prefix, side), self.t_attn(self.t_ln(own), n_prefix, side)
        added: Tensor = self.outer(self.up(F.gelu(own + (space + time) / 2)))
        return added


class LastNorm(nn.Module):
    """Layer norm over the last axis, under the name that the released code gives it behind the stages of a ResNet."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        """Return tokens of the same shape."""
        normed: Tensor = self.norm(x)
        return normed
