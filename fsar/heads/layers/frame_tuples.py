"""Frame tuples without ever building them: a linear map of a tuple is a sum of maps of its frames.

A tuple of w of the T frames, in time order, has its frame number s (its slot s) among frames s..T-w+s. So a video has
L = w * (T-w+1) *slot vectors*, the images of a frame under the columns of the weight that belong to one slot, and each
of the G = C(T, w) tuples is a sum of w of them: rows of a 0/1 matrix (G, L). Inner products between tuples are sums of
inner products between slot vectors, so nothing of size G x D is needed: for T = 8, pairs and triples take 32 vectors
per video instead of 84 tuples, and projecting them 7 times fewer operations.
"""

import itertools
from functools import lru_cache

import torch
from torch import Tensor

from fsar.errors import InputError
from fsar.heads.layers.split_linear import block_linear


def frames_per_slot(n_frames: int, size: int) -> int:
    """Return T-w+1; raises InputError for videos that are too short for the tuples."""
    if n_frames < size:
        raise InputError(f"tuples of {size} frames need at least {size} frames per video, got {n_frames}")
    return n_frames - size + 1


@lru_cache(maxsize=64)
def all_tuples(n_frames: int, size: int, device: torch.device) -> Tensor:
    """Return all tuples of `size` frames in time order, lexicographic, (G, w) int64. Made once: do not write to it."""
    with torch.inference_mode(False):
        return torch.tensor(list(itertools.combinations(range(n_frames), size)), dtype=torch.int64).to(device)


@lru_cache(maxsize=64)
def tuple_slots(n_frames: int, size: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Return the 0/1 matrix (G, L) that says which slot vectors each tuple is the sum of.

    Tuples in lexicographic order, slot vectors slot by slot. For T = 3 and pairs the tuples 01, 02, 12 are
    1010, 1001, 0101: slot 0 sees frames 0 and 1, slot 1 sees frames 1 and 2.
    """
    per_slot = frames_per_slot(n_frames, size)
    tuples = torch.tensor(list(itertools.combinations(range(n_frames), size)))  # (G, w)
    columns = tuples - torch.arange(size) + per_slot * torch.arange(size)
    # A cached tensor made in inference mode could not take part in training later.
    with torch.inference_mode(False):
        matrix = torch.zeros(len(tuples), size * per_slot).scatter_(1, columns, 1.0)
        return matrix.to(device, dtype)


def slot_vectors(x: Tensor, weight: Tensor, bias: Tensor | None, size: int) -> Tensor:
    """Return the slot vectors (V, L, d) of V videos with frames x (V, T, D) under a tuple map with weight (d, w*D).

    The bias, if there is one, is carried by slot 0, which every tuple has exactly once. Each slot is one matrix product
    on contiguous rows.
    """
    n_videos, n_frames, dim = x.shape
    per_slot = frames_per_slot(n_frames, size)
    rows = [x[:, slot : slot + per_slot].reshape(-1, dim) for slot in range(size)]
    first, *rest = block_linear(weight, *rows)
    images = (first if bias is None else first + bias, *rest)
    return torch.cat([image.view(n_videos, per_slot, -1) for image in images], 1)
