"""What the released HCL code does beyond its paper; only `compat="official"` comes here."""

import torch
from torch import Tensor

from fsar.heads.batch import Features


def mix_frames(patches: Tensor) -> Tensor:
    """Return patches (B, V, T, P, d) as the released multi-scale code leaves them.

    It lists the frames of all videos, video by video, and reads the list back frame by frame: frame f of video v is
    entry f*V + v, which belongs to other videos and depends on how many there are.
    """
    n_videos, n_frames = patches.shape[1:3]
    mixed = patches.flatten(1, 2).view(len(patches), n_frames, n_videos, *patches.shape[3:])
    return mixed.transpose(1, 2)


def mix_episode(support: Features, query: Features) -> tuple[Features, Features]:
    """Return the embedded videos of an episode after `mix_frames` over its supports and queries together."""
    n_support = support["patches"].shape[1]
    mixed = mix_frames(torch.cat((support["patches"], query["patches"]), 1))
    return with_patches(support, mixed[:, :n_support]), with_patches(query, mixed[:, n_support:])


def with_patches(table: Features, patches: Tensor) -> Features:
    """Return the table with other patches (B, V, T, P, d), and their mean."""
    return {**table, "patches": patches, "mean": patches.mean((2, 3))}


def released_row_weights(patches: Tensor, frames: Tensor, text: Tensor) -> Tensor:
    """Return the weights that the released code gives query patches at test, (B, Q, 1, R, t*P).

    For patches (B, Q, T, P, d), the frames (B, Q, S, R, t) of the ranked tuples and projected texts (B, S+Q, d) of the
    supports, then the queries: for its rank r a query takes the patches that met *support r*, and it reads the text in
    row q of the list, which for the first S queries is that of a support.
    """
    n_episodes, n_query = patches.shape[:2]
    ranks = torch.arange(frames.shape[3], device=frames.device)
    episode = torch.arange(n_episodes, device=frames.device)[:, None, None, None]
    row = torch.arange(n_query, device=frames.device)[:, None, None]
    met = patches[episode, row, frames[:, :, ranks, ranks]].flatten(3, 4)  # (B, Q, R, t*P, d)
    return torch.einsum("bqrpd,bqd->bqrp", met, text[:, :n_query]).softmax(-1).unsqueeze(2)
