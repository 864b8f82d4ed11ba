"""Distance correlation of frames: a frame as the centred distances between its channels over its patches."""

import torch
import torch.nn.functional as F
from torch import Tensor

DISTANCE_EPS = 1e-5


def channel_distances(token: Tensor, patches: Tensor, exponent: float) -> Tensor:
    """Return the upper triangles (..., d (d + 1) / 2), row by row, of the centred distances between channels.

    Every patch of patches (..., P, d) counts by its cosine to the class token (..., d). Squared distances between the
    channels' rows over the patches are raised to `exponent`; means over rows and columns are taken away (Szekely et
    al., "Measuring and testing dependence by correlation of distances", 2007).
    """
    weight = F.cosine_similarity(token.unsqueeze(-2), patches, dim=-1)  # (..., P)
    weighted = weight.unsqueeze(-1) * patches
    products = weighted.transpose(-1, -2) @ weighted / (2 * patches.shape[-2])  # (..., d, d)
    squares = products.diagonal(dim1=-2, dim2=-1)
    squared = (squares.unsqueeze(-1) + squares.unsqueeze(-2) - 2 * products).clamp_min(0)
    distance = (squared + DISTANCE_EPS).pow(exponent)
    mean = distance.mean(-1)
    centred = distance - mean.unsqueeze(-1) - mean.unsqueeze(-2) + mean.mean(-1)[..., None, None]
    return centred.flatten(-2).index_select(-1, upper_triangle(patches.shape[-1], patches.device))


def upper_triangle(dim: int, device: torch.device) -> Tensor:
    """Return the places of the upper triangle with its diagonal in a flattened matrix (dim, dim), row by row."""
    row, column = torch.triu_indices(dim, dim, device=device)
    return row * dim + column
