"""The sum over alignment paths behind the soft alignment cost, in two forms: products in float64, or logarithms.

A path visits every column once (the first one as a run of rows), goes down one row or stays when it moves to the next
column, and may start and end at any row. Its weight is the product of exp(-distance / smoothing) over the cells that it
visits; free ends count double (the recursion that is published enters and leaves the padding columns in two ways)
except above the first and below the last row. The cost is -smoothing * log of the summed weights.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

LARGEST_EXPONENT = 600.0
"""Products of exp(-600) and above are safe in float64, whose smallest normal number is exp(-708)."""

LARGE_COLUMN = 1 << 15
"""From this many cells torch shares a step among threads."""


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
        weights = x.to(torch.float64, copy=True, memory_format=torch.contiguous_format).mul_(-1 / smoothing).exp_()
        weights = weights.flatten(2) if last > 1 else weights.unsqueeze(2)  # (M, L, R)
        if both_ways:
            weights = torch.stack((weights, weights.transpose(0, 1)), 2).flatten(2)  # (M, L, 2R)
        reach = _paths_to_cells(weights)
        total = reach[-1, 1:].sum(0) + reach[-1, 1:-1].sum(0)
        ctx.save_for_backward(weights, reach, total)
        ctx.smoothing, ctx.shape, ctx.dtype, ctx.both_ways = smoothing, distance.shape, distance.dtype, both_ways
        cost = -smoothing * total.log()
        if both_ways:
            cost = cost.view(2, -1).sum(0)
        return cost.to(distance.dtype).view(distance.shape[:-2])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        """Return the gradient for the distances: weight of the paths through each cell over the weight of all."""
        weights, reach, total = ctx.saved_tensors
        scale = gradient.flatten().double()
        leave = _paths_from_cells(weights, (scale.repeat(2) if ctx.both_ways else scale) / total)
        share = reach[:, 1:] * leave[:, :-1]  # (M, L, R)
        if ctx.both_ways:
            own, transposed = share.unflatten(2, (2, -1)).unbind(2)
            share = own + transposed.transpose(0, 1)
        return share.permute(2, 1, 0).to(ctx.dtype).reshape(ctx.shape), None, None


def _paths_to_cells(weights: Tensor) -> Tensor:
    """Return the weight of all paths that end in each cell, (M, L+1, R), for weights (M, L, R).

    Row 0 is an empty row above the matrix: what reaches a cell comes from its own row and the one above.
    """
    n_columns, n_rows, n_matrices = weights.shape
    reach = weights.new_zeros(n_columns, n_rows + 1, n_matrices)
    add, multiply, (factors, cells) = _small_steps(weights, reach)
    start, down = cells[0], factors[0]
    multiply(down, 2, out=start[1:])
    start[1] *= 0.5
    for cell, above, weight in zip(start[2:], start[1:], down[1:], strict=False):
        cell += weight * above  # weight * (2 + above)
    aboves, besides = cells[:, :-1], cells[:, 1:]
    for above, beside, cell, weight in zip(aboves, besides, besides[1:], factors[1:], strict=False):
        add(above, beside, out=cell)
        multiply(cell, weight, out=cell)
    return reach


def _paths_from_cells(weights: Tensor, scale: Tensor) -> Tensor:
    """Return the weight of all ways on from each cell times `scale` (R,): (M, L+1, R), row L an empty one below."""
    n_columns, n_rows, n_matrices = weights.shape
    leave, ahead = weights.new_zeros(n_columns, n_rows + 1, n_matrices), weights.new_zeros(n_rows + 1, n_matrices)
    add, multiply, (factors, cells, ways, scales) = _small_steps(weights, leave, ahead, scale)
    cells[-1, :-2] = 2 * scales
    cells[-1, -2] = scales
    stay, step = ways[:-1], ways[1:]
    for column in range(n_columns - 1, 0, -1):
        multiply(cells[column, :-1], factors[column], out=stay)
        add(stay, step, out=cells[column - 1, :-1])
    first, down = cells[0], factors[0]
    for row in range(n_rows - 2, -1, -1):
        first[row] += down[row + 1] * first[row + 1]
    return leave


def _small_steps(*tensors: Tensor) -> tuple[Callable[..., Any], Callable[..., Any], Sequence[Any]]:
    """Return an addition, a multiplication and the tensors in the form that these take, for a sweep over columns.

    A step of a sweep is tiny: on the CPU numpy's calls cost a third of torch's, on the same memory.
    """
    if tensors[0].device.type == "cpu" and tensors[0][0].numel() < LARGE_COLUMN:
        return np.add, np.multiply, [tensor.numpy() for tensor in tensors]
    return torch.add, torch.mul, tensors


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
