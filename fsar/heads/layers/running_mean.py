"""The mean of everything a head was trained on, kept beside its weights."""

import torch
from torch import Tensor, nn


class RunningMean(nn.Module):
    """Take the mean of all training vectors from a vector; in training mode, count the given ones in first."""

    mean: Tensor
    n_vectors: Tensor

    def __init__(self, dim: int) -> None:
        """Build it for vectors of width `dim`; the mean of no vectors is zero."""
        super().__init__()
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("n_vectors", torch.zeros((), dtype=torch.int64))

    def forward(self, x: Tensor) -> Tensor:
        """Return x (..., D) less the mean."""
        if self.training:
            self._count(x.detach().flatten(0, -2))
        return x - self.mean

    def _count(self, vectors: Tensor) -> None:
        self.n_vectors += len(vectors)
        self.mean += ((vectors - self.mean).sum(0) / self.n_vectors).to(self.mean.dtype)
