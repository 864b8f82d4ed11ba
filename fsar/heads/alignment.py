"""The sum over alignment paths behind the soft alignment cost, in two forms: products in float64, or logarithms.

A path visits every column once (the first one as a run of rows), goes down one row or stays when it moves to the next
column, and may start and end at any row. Its weight is the product of exp(-distance / smoothing) over the cells that it
visits; free ends count double (the recursion that is published enters and leaves the padding columns in two ways)
except above the first and below the last row. The cost is -smoothing * log of the summed weights.
"""

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

LARGEST_EXPONENT = 600.0
"""Products of exp(-600) and above are safe in float64, whose smallest normal number is exp(-708)."""


def fits_products(distance: Tensor, smoothing: float) -> bool:
    """Return whether no path's weight can leave the range of float64. False for NaN and on devices without float64."""
    if distance.device.type == "mps" or not distance.numel():
        return False
    largest = float(torch.linalg.vector_norm(distance.detach(), math.inf))
    return largest * distance.shape[-1] <= LARGEST_EXPONENT * smoothing


class ProductAlignment(torch.autograd.Function):
    """Soft alignment cost of (..., L, M) by sums of products, a column of all matrices at a time.

    The gradient is the share of the paths that pass a cell, from one more sweep in the opposite direction: a small part
    of what differentiating the recursion step by step costs. Layout inside: columns, rows, matrices (contiguous).
    """

    @staticmethod
    def forward(ctx: Any, distance: Tensor, smoothing: float) -> Tensor:
        """Return the cost (...), computed in float64, in the dtype of `distance`."""
        x = distance.detach().reshape(-1, *distance.shape[-2:]).permute(2, 1, 0)  # (M, L, B)
        weights = x.to(torch.float64, copy=True, memory_format=torch.contiguous_format).div_(-smoothing).exp_()
        n_columns, n_rows, n_matrices = weights.shape
        # Row 0 is an empty row above the matrix: what reaches a cell comes from its own row and the one above.
        reach = weights.new_zeros(n_columns, n_rows + 1, n_matrices)
        torch.mul(weights[0], 2, out=reach[0, 1:])
        reach[0, 1] *= 0.5
        first = reach[0].unbind(0)
        for cell, weight, above in zip(first[2:], weights[0, 1:].unbind(0), first[1:], strict=False):
            cell.addcmul_(weight, above)  # weight * (2 + above)
        # Views once, not per column: at these sizes an operation costs less than making a view.
        above_cells, cells = reach[:, :-1].unbind(0), reach[:, 1:].unbind(0)
        for column, weight in enumerate(weights[1:].unbind(0)):
            torch.add(above_cells[column], cells[column], out=cells[column + 1]).mul_(weight)
        total = 2 * cells[-1].sum(0) - cells[-1][-1]
        ctx.save_for_backward(weights, reach, total)
        ctx.smoothing, ctx.shape, ctx.dtype = smoothing, distance.shape, distance.dtype
        return (-smoothing * total.log()).to(distance.dtype).view(distance.shape[:-2])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        """Return the gradient for the distances: weight of the paths through each cell over the weight of all."""
        weights, reach, total = ctx.saved_tensors
        n_columns, n_rows, n_matrices = weights.shape
        # What follows a cell; the last row is an empty one below the matrix.
        leave = weights.new_zeros(n_columns, n_rows + 1, n_matrices)
        scale = gradient.flatten().double() / total
        leave[-1, :-2] = 2 * scale
        leave[-1, -2] = scale
        ahead = weights.new_zeros(n_rows + 1, n_matrices)
        stay, step = ahead[:-1], ahead[1:]
        cells, columns = leave[:, :-1].unbind(0), weights.unbind(0)
        for column in range(n_columns - 1, 0, -1):
            torch.mul(cells[column], columns[column], out=stay)
            torch.add(stay, step, out=cells[column - 1])
        first, down = leave[0].unbind(0), weights[0].unbind(0)
        for row in range(n_rows - 2, -1, -1):
            first[row].addcmul_(down[row + 1], first[row + 1])
        share = (reach[:, 1:] * leave[:, :-1]).permute(2, 1, 0)
        return share.to(ctx.dtype).reshape(ctx.shape), None


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
