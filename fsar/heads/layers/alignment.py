"""The sum over alignment paths behind the soft alignment cost: products in float64, logarithms, or a GPU's own kernel.

A path visits every column once (the first one as a run of rows), goes down one row or stays when it moves to the next
column, and may start and end at any row. Its weight is the product of exp(-distance / smoothing) over the cells that it
visits; free ends count double (the recursion that is published enters and leaves the padding columns in two ways)
except above the first and below the last row. The cost is -smoothing * log of the summed weights.
"""

import functools
import importlib.util
import math
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from fsar.device import compute_capability
from fsar.errors import one_line
from fsar.progress import say

LARGEST_EXPONENT = 600.0
"""Products of exp(-600) and above are safe in float64, whose smallest normal number is exp(-708)."""

LARGE_COLUMN = 1 << 15
"""From this many cells torch shares a step among threads."""

FIRST_TRIED = (8, 0)
"""Compute capability from which on the kernel for GPUs is known to compile."""

MOST_FUSED_ROWS = 128
"""The kernel for GPUs keeps a column of a matrix in the registers of one warp."""


def fused_alignment(distance: Tensor) -> type[torch.autograd.Function] | None:
    """Return the alignment in one kernel where there is one for these matrices: on a GPU, with triton; None elsewhere.

    It takes any distances, so nobody has to look at them. `apply(distance, smoothing, both_ways)` as of
    `ProductAlignment`.
    """
    if distance.device.type != "cuda" or distance.shape[-2] > MOST_FUSED_ROWS:
        return None
    return _kernel_of(distance.device)


@functools.cache
def _kernel_of(device: torch.device) -> type[torch.autograd.Function] | None:
    if compute_capability(device) < FIRST_TRIED or importlib.util.find_spec("triton") is None:
        return None
    try:
        from fsar.heads.layers.alignment_kernel import FusedAlignment

        reason = None if agrees(FusedAlignment, device) else "it computes other numbers"
    except Exception as error:  # whatever a compiler on another machine may say
        reason = str(error)
    if reason is not None:
        say(f"note: alignment takes many small steps on {device}: triton cannot be used here ({one_line(reason)})")
        return None
    return FusedAlignment


@torch.inference_mode(False)
@torch.enable_grad()
def agrees(kernel: type[torch.autograd.Function], device: torch.device) -> bool:
    """Return whether a kernel gives the costs and gradients of `ProductAlignment` on a device: tried out on a few."""
    distance = torch.arange(5 * 64, dtype=torch.float32, device=device).sin().add(1).view(5, 8, 8)
    results = []
    for form in (ProductAlignment, kernel):
        x = distance.clone().requires_grad_()
        cost = form.apply(x, 0.1, True)
        results.append(torch.cat((cost, torch.autograd.grad(cost.sum(), x)[0].flatten())).detach())
    expected, found = results
    return torch.allclose(found, expected, rtol=1e-4, atol=1e-5)


def fits_products(distance: Tensor, smoothing: float, largest: float | None = None) -> bool:
    """Return whether no path's weight can leave the range of float64. False for NaN and on devices without float64.

    `largest` is a bound on the distances that is known beforehand; without one, or where it is too large, they are
    looked at.
    """
    if distance.device.type == "mps" or not distance.numel():
        return False
    limit = LARGEST_EXPONENT * smoothing / distance.shape[-1]
    if largest is not None and largest <= limit:
        return True
    return float(torch.linalg.vector_norm(distance.detach(), math.inf)) <= limit


class ProductAlignment(torch.autograd.Function):
    """Soft alignment cost of (..., L, M) by sums of products, a column of all matrices at a time.

    The gradient is the share of the paths that pass a cell, from one more sweep in the opposite direction: a small part
    of what differentiating the recursion step by step costs. Layout inside: columns, rows, matrices (contiguous).
    """

    @staticmethod
    def forward(ctx: Any, distance: Tensor, smoothing: float, both_ways: bool = False) -> Tensor:
        """Return the cost (...), computed in float64, in the dtype of `distance`.

        With `both_ways` (L = M) it is the sum of a matrix's cost and that of its transpose.
        """
        last = distance.dim() - 1
        x = distance.detach().permute(last, last - 1, *range(last - 1))
        x = x.to(torch.float64, copy=True, memory_format=torch.contiguous_format)
        xp, weights = _arrays(x.view(*x.shape[:2], -1))  # (M, L, R)
        weights *= -1 / smoothing
        xp.exp(weights, out=weights)
        if both_ways:
            weights = xp.stack((weights, weights.swapaxes(0, 1)), 2).reshape(*x.shape[:2], -1)  # (M, L, 2R)
        reach = _paths_to_cells(xp, weights)
        total = reach[-1, 1:].sum(0) + reach[-1, 1:-1].sum(0)
        cost = -smoothing * xp.log(total)
        if both_ways:
            cost = cost.reshape(2, -1).sum(0)
        ctx.xp, ctx.arrays = xp, (weights, reach, total)
        ctx.both_ways, ctx.shape, ctx.dtype = both_ways, distance.shape, distance.dtype
        return torch.as_tensor(cost).to(distance.dtype).view(distance.shape[:-2])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        """Return the gradient for the distances: weight of the paths through each cell over the weight of all."""
        weights, reach, total = ctx.arrays
        scale = gradient.flatten().double()
        scale = torch.cat((scale, scale)) if ctx.both_ways else scale
        leave = _paths_from_cells(ctx.xp, weights, (scale.numpy() if ctx.xp is np else scale) / total)
        share = torch.as_tensor(reach[:, 1:] * leave[:, :-1])  # (M, L, R)
        if ctx.both_ways:
            own, transposed = share.chunk(2, 2)
            share = own + transposed.transpose(0, 1)
        return share.permute(2, 1, 0).to(ctx.dtype).reshape(ctx.shape), None, None


def _arrays(x: Tensor) -> tuple[Any, Any]:
    """Return numpy or torch, and `x` as its array: what follows is written in what the two have in common.

    A step of a sweep is tiny: on the CPU numpy's calls cost a third of torch's.
    """
    if x.device.type == "cpu" and x[0].numel() < LARGE_COLUMN:
        return np, x.numpy()
    return torch, x


def _paths_to_cells(xp: Any, weights: Any) -> Any:
    """Return the weight of all paths that end in each cell, (M, L+1, R), for weights (M, L, R).

    Row 0 is an empty row above the matrix: what reaches a cell comes from its own row and the one above.
    """
    n_columns, n_rows, n_matrices = weights.shape
    reach = xp.zeros((n_columns, n_rows + 1, n_matrices), dtype=xp.float64, device=weights.device)
    start, down = reach[0], weights[0]
    xp.multiply(down, 2, out=start[1:])
    start[1] *= 0.5
    for cell, above, weight in zip(start[2:], start[1:], down[1:], strict=False):
        cell += weight * above  # weight * (2 + above)
    upper, beside_all = reach[:, :-1], reach[:, 1:]
    for above, beside, cell, weight in zip(upper, beside_all, beside_all[1:], weights[1:], strict=False):
        xp.add(above, beside, out=cell)
        cell *= weight
    return reach


def _paths_from_cells(xp: Any, weights: Any, scale: Any) -> Any:
    """Return the weight of all ways on from each cell times `scale` (R,): (M, L+1, R), row L an empty one below."""
    n_columns, n_rows, n_matrices = weights.shape
    leave = xp.zeros((n_columns, n_rows + 1, n_matrices), dtype=xp.float64, device=weights.device)
    leave[-1, :-2] = 2 * scale
    leave[-1, -2] = scale
    ahead = xp.zeros((n_rows + 1, n_matrices), dtype=xp.float64, device=weights.device)
    stay, step = ahead[:-1], ahead[1:]
    for column in range(n_columns - 1, 0, -1):
        xp.multiply(leave[column, :-1], weights[column], out=stay)
        xp.add(stay, step, out=leave[column - 1, :-1])
    first, down = leave[0], weights[0]
    for row in range(n_rows - 2, -1, -1):
        first[row] += down[row + 1] * first[row + 1]
    return leave


def log_alignment(distance: Tensor, smoothing: float) -> Tensor:
    """Return the soft alignment cost of (..., L, M) by log-sum-exp: any distances, any number of frames."""
    x = -distance / smoothing
    n_rows, n_columns = x.shape[-2:]
    log_two = math.log(2.0)
    first = [x[..., 0, 0]]
    for row in range(1, n_rows):
        # Three predecessors, two of which cost zero: exp(0) + exp(0) = 2.
        first.append(x[..., row, 0] + torch.logaddexp(first[-1], first[-1].new_tensor(log_two)))
    column = torch.stack(first, -1)
    for index in range(1, n_columns):
        before = torch.logaddexp(column[..., :-1], column[..., 1:])
        column = x[..., index] + torch.cat((column[..., :1], before), -1)
    # Leaving the last column is free at every row; only the last row is left in one way instead of two.
    exits = column.new_full((n_rows,), log_two)
    exits[-1] = 0.0
    return -smoothing * torch.logsumexp(column + exits, -1)
