"""The two enrichments of STRM: patches of a frame look at each other, then the frames of a video are mixed."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fsar.errors import InputError
from fsar.heads.layers.attention import position_code, sinusoid_table
from fsar.heads.layers.dropout import Dropout
from fsar.heads.layers.tuple_attention import POSITION_SCALE


class BottleneckMLP(nn.Module):
    """The weights of the three-layer perceptron over a patch; `PatchEnrichment` applies them."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.inp_fc = nn.Linear(dim, dim // 2)
        self.hid_fc = nn.Linear(dim // 2, dim // 2)
        self.out_fc = nn.Linear(dim // 2, dim)


FOLD_ABOVE = 1.5
"""Folding pays, backward pass included, with more patches in a batch than this times their width."""


class PatchEnrichment(nn.Module):
    """Patch tokens of a frame attend to each other and pass an MLP, each with a residual; then they are averaged.

    The attention has one head and no 1/sqrt(D), and its share `gamma` starts at zero, as published. Three exact
    identities save about half of the operations:

    - q.k = (W_k^T (W_q y + b_q)).y plus terms that are the same for all keys. So the bias of the keys does nothing (it
      is left out), and with W_k^T W_q multiplied first the keys need no projection;
    - attention weights sum to one, so W_v may be applied after averaging, and then at once with the MLP's first layer;
    - the last layer and the residuals are linear, so they may be applied to the mean of the patches.

    Matrices are multiplied with each other (the first two) only where there are enough patches to pay for that.
    """

    def __init__(self, dim: int, dropout: float) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(1))
        self.query_proj = nn.Linear(dim, dim)
        self.key_proj = nn.Linear(dim, dim, bias=False)
        self.value_conv = nn.Linear(dim, dim)
        self.mlp = BottleneckMLP(dim)
        self.dropout = Dropout(dropout)

    def forward(self, patches: Tensor) -> Tensor:
        """Return enriched frames (..., D) of their patches (..., P, D)."""
        *lead, n_patches, dim = patches.shape
        position = POSITION_SCALE * position_code(sinusoid_table, patches)
        y = self.dropout(patches + position).reshape(-1, n_patches, dim)
        folded = y.shape[0] * n_patches > FOLD_ABOVE * dim
        mixed = self._energies(y, folded).softmax(-1) @ y
        hidden = F.relu(self.mlp.hid_fc(F.relu(self._entering(y, mixed, folded)))).mean(1)
        residual = y.mean(1) + self.gamma * self.value_conv(mixed.mean(1))
        frames: Tensor = self.mlp.out_fc(hidden) + residual
        return frames.view(*lead, dim)

    def _energies(self, y: Tensor, folded: bool) -> Tensor:
        """Return the products of queries and keys (F, P, P), up to what the softmax cancels."""
        query, key = self.query_proj, self.key_proj
        if folded:
            return F.linear(y, key.weight.T @ query.weight, query.bias @ key.weight) @ y.transpose(1, 2)
        return query(y) @ key(y).transpose(1, 2)

    def _entering(self, y: Tensor, mixed: Tensor, folded: bool) -> Tensor:
        """Return what the MLP's first layer makes of patches and their attention, (F, P, D/2)."""
        value, first = self.value_conv, self.mlp.inp_fc
        if folded:
            weight, bias = first.weight @ (self.gamma * value.weight), first.weight @ (self.gamma * value.bias)
            return F.linear(y, first.weight, first.bias + bias) + F.linear(mixed, weight)
        return first(y + self.gamma * value(mixed))


class FrameEnrichment(nn.Module):
    """An MLP-mixer block over the frames of a video: across time, then across channels."""

    def __init__(self, dim: int, n_frames: int, dropout: float) -> None:
        super().__init__()
        self.n_frames = n_frames
        self.time_in = nn.Linear(n_frames, n_frames)
        self.time_out = nn.Linear(n_frames, n_frames)
        self.channel_in = nn.Linear(dim, dim)
        self.channel_out = nn.Linear(dim, dim)
        self.dropout = Dropout(dropout)

    def forward(self, frames: Tensor) -> Tensor:
        """Return mixed frames (..., T, D) of frames (..., T, D).

        Raises:
            InputError: T is not the number of frames that the head was made for.
        """
        n_frames = frames.shape[-2]
        if n_frames != self.n_frames:
            raise InputError(
                f"strm mixes {self.n_frames} frames per video, got {n_frames}: make the head with n_frames={n_frames}"
            )
        x = self.dropout(frames + POSITION_SCALE * position_code(sinusoid_table, frames))
        x = x + self.time_out(F.relu(self.time_in(x.transpose(-1, -2)))).transpose(-1, -2)
        return x + self.channel_out(F.relu(self.channel_in(x)))
