"""The two enrichments of STRM: patches of a frame look at each other, then the frames of a video are mixed."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fsar.errors import InputError
from fsar.heads.layers import sinusoid_table
from fsar.heads.trx import POSITION_SCALE


class BottleneckMLP(nn.Module):
    """The weights of the three-layer perceptron over a patch; `PatchEnrichment` applies them."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.inp_fc = nn.Linear(dim, dim // 2)
        self.hid_fc = nn.Linear(dim // 2, dim // 2)
        self.out_fc = nn.Linear(dim // 2, dim)


class PatchEnrichment(nn.Module):
    """Patch tokens of a frame attend to each other and pass an MLP, each with a residual; then they are averaged.

    The attention has one head and no 1/sqrt(D), and its share `gamma` starts at zero, as published. Three exact
    identities save more than half of the operations:

    - q.k = (W_k^T (W_q y + b_q)).y plus terms that are the same for all keys, so the keys need no projection, and the
      bias of the keys does nothing (it is left out);
    - attention weights sum to one, so W_v may be applied after averaging, and then at once with the MLP's first layer;
    - the last layer and the residuals are linear, so they may be applied to the mean of the patches.

    Pairs of matrices are multiplied with each other first wherever there are more tokens than that costs.
    """

    def __init__(self, dim: int, dropout: float) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(1))
        self.query_proj = nn.Linear(dim, dim)
        self.key_proj = nn.Linear(dim, dim, bias=False)
        self.value_conv = nn.Linear(dim, dim)
        self.mlp = BottleneckMLP(dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, patches: Tensor) -> Tensor:
        """Return enriched frames (..., D) of their patches (..., P, D)."""
        *lead, n_patches, dim = patches.shape
        position = POSITION_SCALE * sinusoid_table(n_patches, dim).to(patches)
        y = self.dropout(patches + position).reshape(-1, n_patches, dim)
        query = two_maps(y, self.query_proj.weight, self.query_proj.bias, self.key_proj.weight.T)
        mixed = (query @ y.transpose(1, 2)).softmax(-1) @ y
        value, mlp = self.value_conv, self.mlp
        entering = F.linear(y, mlp.inp_fc.weight, mlp.inp_fc.bias)
        entering = entering + self.gamma * two_maps(mixed, value.weight, value.bias, mlp.inp_fc.weight)
        hidden = F.relu(mlp.hid_fc(F.relu(entering))).mean(1)
        residual = y.mean(1) + self.gamma * value(mixed.mean(1))
        frames: Tensor = mlp.out_fc(hidden) + residual
        return frames.view(*lead, dim)


def two_maps(x: Tensor, weight: Tensor, bias: Tensor, outer: Tensor) -> Tensor:
    """Return outer (weight x + bias) for x (V, L, D), weight (E, D), outer (F, E), in the cheaper order.

    With many tokens the two matrices are multiplied first: E*F*D operations once instead of D*E + E*F - D*F per token.
    """
    (inner_dim, dim), out_dim = weight.shape, outer.shape[0]
    saved_per_token = dim * inner_dim + inner_dim * out_dim - dim * out_dim
    if x.shape[0] * x.shape[1] * saved_per_token > inner_dim * out_dim * dim:
        return F.linear(x, outer @ weight, outer @ bias)
    return F.linear(F.linear(x, weight, bias), outer)


class FrameEnrichment(nn.Module):
    """An MLP-mixer block over the frames of a video: across time, then across channels."""

    def __init__(self, dim: int, n_frames: int, dropout: float) -> None:
        super().__init__()
        self.n_frames = n_frames
        self.time_in = nn.Linear(n_frames, n_frames)
        self.time_out = nn.Linear(n_frames, n_frames)
        self.channel_in = nn.Linear(dim, dim)
        self.channel_out = nn.Linear(dim, dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, frames: Tensor) -> Tensor:
        """Return mixed frames (..., T, D) of frames (..., T, D).

        Raises:
            InputError: T is not the number of frames that the head was made for.
        """
        n_frames, dim = frames.shape[-2:]
        if n_frames != self.n_frames:
            raise InputError(
                f"strm mixes {self.n_frames} frames per video, got {n_frames}: make the head with n_frames={n_frames}"
            )
        x = self.dropout(frames + POSITION_SCALE * sinusoid_table(n_frames, dim).to(frames))
        x = x + self.time_out(F.relu(self.time_in(x.transpose(-1, -2)))).transpose(-1, -2)
        mixed: Tensor = x + self.channel_out(F.relu(self.channel_in(x)))
        return mixed
