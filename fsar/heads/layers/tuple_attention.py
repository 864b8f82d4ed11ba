"""Cross-attention between tuples of frames: the core of TRX, and of STRM's second half."""

import torch
from torch import Tensor, nn

from fsar.heads.batch import Features
from fsar.heads.layers.attention import position_code, sinusoid_table
from fsar.heads.layers.dropout import Dropout
from fsar.heads.layers.frame_tuples import slot_vectors, tuple_slots

POSITION_SCALE = 0.1
"""Weight of the position code that is added to frames and patches."""


class TupleAttention(nn.Module):
    """Cross-attention for one tuple size: the negative squared distance to each class's query-specific prototype.

    Keys are normed tuple projections, values plain ones, and the same maps serve queries and supports. All of it is
    done on slot vectors (see `fsar.heads.layers.frame_tuples`): scores, prototypes and distances need only their inner
    products.
    """

    def __init__(self, dim: int, *, size: int, out_dim: int, dropout: float) -> None:
        super().__init__()
        self.size = size
        self.k_linear = nn.Linear(dim * size, out_dim)
        # The official bias of the values cancels: attention weights sum to one.
        self.v_linear = nn.Linear(dim * size, out_dim, bias=False)
        self.norm_k = nn.LayerNorm(out_dim)
        self.dropout = Dropout(dropout)

    def embed(self, frames: Tensor) -> Features:
        """Return the tables of videos with frames (..., T, D).

        `keys` and `values` (..., L, d) are slot vectors, keys centred and scaled as the norm does with a whole tuple;
        `rates` (..., G) the norm's 1/std of each tuple; `offsets` (..., G) the part of a score that is the key's alone;
        `energy` (...) the summed squared lengths of the value tuples. All float32: the distances cancel.
        """
        lead, (n_frames, dim) = frames.shape[:-2], frames.shape[-2:]
        x = self.dropout(frames + POSITION_SCALE * position_code(sinusoid_table, frames)).reshape(-1, n_frames, dim)
        raw = slot_vectors(x, self.k_linear.weight, self.k_linear.bias, self.size).float()
        values = slot_vectors(x, self.v_linear.weight, None, self.size).float()
        with torch.autocast(frames.device.type, enabled=False):
            tables = self._tables(raw, values, n_frames)
        return {name: table.view(*lead, *table.shape[1:]) for name, table in tables.items()}

    def _tables(self, raw: Tensor, values: Tensor, n_frames: int) -> Features:
        slots = tuple_slots(n_frames, self.size, raw.device, raw.dtype)  # (G, L)
        scale, shift = self.norm_k.weight.float(), self.norm_k.bias.float()
        centred = raw - raw.mean(-1, keepdim=True)
        variance = tuple_energy(centred, slots) / raw.shape[-1]
        rates = torch.rsqrt(variance.clamp(min=0) + self.norm_k.eps)  # (V, G)
        keys = centred * scale
        offsets = rates * ((keys @ shift) @ slots.T)
        return {
            "keys": keys,
            "values": values,
            "rates": rates,
            "offsets": offsets,
            "energy": tuple_energy(values, slots).sum(-1),
        }

    def match(self, support: Features, query: Features, mask: Tensor) -> Tensor:
        """Return minus the mean squared distance of the query's tuples to each class's prototypes, (B, Q, N).

        Tables of supports (B, N, K, ...), padded to K videos per class and real where `mask` (B, N, K) is true, and of
        queries (B, Q, ...).
        """
        with torch.autocast(mask.device.type, enabled=False):
            return self._match(support, query, mask)

    def _match(self, support: Features, query: Features, mask: Tensor) -> Tensor:
        n_batch, n_way, _, n_slots, dim = support["keys"].shape
        n_query, n_tuples = query["rates"].shape[1:]
        slots = slots_of(n_tuples, n_slots, self.size, query["keys"])
        attention = self._attention(support, query, mask, slots)  # (B, Q*G, N*K, G)
        # The prototype of a query tuple as weights on the slot vectors of the class.
        weights = (attention @ slots).view(n_batch, n_query * n_tuples, n_way, -1)  # (B, Q*G, N, K*L)
        values = support["values"].reshape(n_batch, n_way, -1, dim)  # (B, N, K*L, d)
        cross = query["values"].flatten(1, 2) @ values.flatten(1, 2).transpose(1, 2)  # (B, Q*L, N*K*L)
        cross = slots @ cross.view(n_batch, n_query, n_slots, -1)  # (B, Q, G, N*K*L)
        gram = values @ values.transpose(2, 3)  # (B, N, K*L, K*L)
        length = (weights.transpose(1, 2) @ gram).transpose(1, 2)  # (B, Q*G, N, K*L)
        # |v - p|^2 = |v|^2 - 2 <v, p> + |p|^2, the last two with p = weights on slot vectors.
        rest = (weights * (length - 2 * cross.view_as(length))).sum(-1).view(n_batch, n_query, n_tuples, n_way).sum(2)
        return -(query["energy"].unsqueeze(-1) + rest) / n_tuples

    def _attention(self, support: Features, query: Features, mask: Tensor, slots: Tensor) -> Tensor:
        n_batch, n_way, n_shot, n_slots, dim = support["keys"].shape
        n_query, n_tuples = query["rates"].shape[1:]
        gram = query["keys"].flatten(1, 2) @ support["keys"].flatten(1, 3).transpose(1, 2)  # (B, Q*L, N*K*L)
        half = gram.view(-1, n_slots) @ slots.T  # slot vectors of queries x tuples of supports
        half = half.view(n_batch, n_query, n_slots, -1) * support["rates"].view(n_batch, 1, 1, -1)
        # What belongs to the query alone drops out of the softmax.
        offsets = support["offsets"].masked_fill(~mask.unsqueeze(-1), -torch.inf).view(n_batch, 1, 1, -1)
        rows = slots * (query["rates"] * dim**-0.5).unsqueeze(-1)  # (B, Q, G, L)
        scores = rows @ half + offsets * dim**-0.5  # (B, Q, G, N*K*G)
        attention: Tensor = scores.view(n_batch, n_query * n_tuples, n_way, -1).softmax(-1)
        return attention.view(n_batch, n_query * n_tuples, n_way * n_shot, n_tuples)


def key_width(dim: int) -> int:
    """Return the published width of keys and values, 1152, or 3 D where features are so narrow that it adds nothing."""
    return min(1152, 3 * dim)


def tuple_energy(vectors: Tensor, slots: Tensor) -> Tensor:
    """Return the squared length of each tuple, (V, G), for slot vectors (V, L, d)."""
    gram = vectors @ vectors.transpose(1, 2)
    return ((slots @ gram) * slots).sum(-1)


def slots_of(n_tuples: int, n_slots: int, size: int, like: Tensor) -> Tensor:
    """Return the tuple matrix (G, L) that belongs to tables with G tuples and L slot vectors."""
    slots = tuple_slots(n_slots // size + size - 1, size, like.device, like.dtype)
    assert slots.shape == (n_tuples, n_slots)
    return slots


def sub_tables(tables: Features, number: int) -> Features:
    """Return the tables of one tuple size under their plain names."""
    prefix = f"{number}."
    return {name.removeprefix(prefix): table for name, table in tables.items() if name.startswith(prefix)}
