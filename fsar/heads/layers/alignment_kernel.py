"""The soft alignment cost in one Triton kernel each for cost and gradient, for GPUs. Imported only where it is used.

On a GPU the sweep of `ProductAlignment` is well over a hundred launches, each of which computes next to nothing. Here a
program takes a block of matrices and keeps one column of each in registers, a row to a lane. Sums over paths are kept
as logarithms, so that any distances are within range and nobody needs to look at them first:

    log(exp(a) + exp(b)) = max(a, b) + log(1 + exp(-|a - b|))

The logarithms themselves, which grow with the path, are sums in float64. The last term, between 0 and log 2, is
computed in float32 for distances of float32 and less: each of the L + M steps of a path adds an error below 4e-7
to the logarithm of the summed weights, hence `smoothing` times that to the cost, and twice the logarithm's error to the
logarithm of a gradient. For distances of float64 everything is computed in float64.
"""

from contextlib import nullcontext
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

TILE = 64
"""Cells of the columns that a program holds, at least: two a lane."""
SIZES = ("n_matrices", "n_rows", "n_columns")
"""Any: nothing is compiled anew for round numbers or for 1."""
LAUNCH = {"num_warps": 1, "enable_fp_fusion": True}
LOG_TWO = tl.constexpr(0.6931471805599453)


@triton.jit
def _log_add(a, b, SMALL: tl.constexpr):
    """Return log(exp(a) + exp(b)) in float64; infinite where both are, NaN where one is."""
    gap = tl.where(a == b, 0.0, -tl.abs(a - b)).to(SMALL)
    return tl.where(a > b, a, b) + tl.log(1 + tl.exp(gap)).to(tl.float64)


@triton.jit
def _row_above(x, row):
    """Return each row's predecessor of x (R, L); nothing, the logarithm of 0, above the first."""
    index = tl.broadcast_to(tl.maximum(row - 1, 0), x.shape)
    return tl.where(row > 0, tl.gather(x, index, 1), -float("inf"))


@triton.jit
def _row_below(x, row, N: tl.constexpr):
    """Return each row's successor of x (R, L); nothing below the last."""
    index = tl.broadcast_to(tl.minimum(row + 1, N - 1), x.shape)
    return tl.where(row < N - 1, tl.gather(x, index, 1), -float("inf"))


@triton.jit
def _weights(places, inside, SMOOTHING: tl.constexpr):
    """Return the logarithms of the cells' weights, -distance / smoothing; nothing outside of a matrix."""
    distance = tl.load(places, mask=inside, other=float("inf")).to(tl.float64)
    return distance * tl.full((), -1 / SMOOTHING, tl.float64)


@triton.jit
def _exits(row, n_rows):
    """Return in how many ways the last column is left at each row, as logarithms: two, but one at the last row."""
    ways = tl.where(row < n_rows - 1, tl.full((), LOG_TWO, tl.float64), tl.full((), 0.0, tl.float64))
    return tl.where(row < n_rows, ways, -float("inf"))


@triton.jit(do_not_specialize=SIZES)
def cost_kernel(
    distance,  # (R, L, M), contiguous
    cost,  # (R,)
    reach,  # (directions, R, L, M) float64: logarithms of the weight of all paths to a cell; written if KEEP
    total,  # (directions, R) float64: of all paths; written if KEEP
    n_matrices,
    n_rows,
    n_columns,
    SMOOTHING: tl.constexpr,
    BOTH_WAYS: tl.constexpr,  # the transposed matrices, too: L = M
    KEEP: tl.constexpr,
    BLOCK: tl.constexpr,
    ROWS: tl.constexpr,
    SMALL: tl.constexpr,
):
    """Write the cost of a block of matrices, and what the gradient needs."""
    matrix = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    row = tl.arange(0, ROWS)[None, :]
    inside = (matrix[:, None] < n_matrices) & (row < n_rows)
    first = matrix[:, None].to(tl.int64) * n_rows * n_columns
    log_weight = tl.zeros((BLOCK,), tl.float64)
    for direction in tl.static_range(2 if BOTH_WAYS else 1):
        if direction == 0:
            cells, step = first + row * n_columns, 1
        else:
            cells, step = first + row, n_columns
        kept = reach + tl.full((), direction, tl.int64) * n_matrices * n_rows * n_columns
        weight = _weights(distance + cells, inside, SMOOTHING)
        column = weight
        for place in range(1, n_rows):  # down the first column; two more ways start at each row
            down = weight + _log_add(_row_above(column, row), tl.full((), LOG_TWO, tl.float64), SMALL)
            column = tl.where(row == place, down, column)
        if KEEP:
            tl.store(kept + cells, column, mask=inside)
        for place in range(1, n_columns):
            weight = _weights(distance + cells + place * step, inside, SMOOTHING)
            column = weight + _log_add(column, _row_above(column, row), SMALL)
            if KEEP:
                tl.store(kept + cells + place * step, column, mask=inside)
        last = column + _exits(row, n_rows)
        largest = tl.max(last, 1)
        largest = tl.where(largest == -float("inf"), 0.0, largest)
        here = largest + tl.log(tl.sum(tl.exp(last - largest[:, None]), 1))
        if KEEP:
            tl.store(total + direction * n_matrices + matrix, here, mask=matrix < n_matrices)
        log_weight += here
    tl.store(cost + matrix, -log_weight * tl.full((), SMOOTHING, tl.float64), mask=matrix < n_matrices)


@triton.jit(do_not_specialize=SIZES)
def gradient_kernel(
    distance,  # (R, L, M), contiguous
    of_cost,  # (R,)
    reach,  # (directions, R, L, M) float64
    total,  # (directions, R) float64
    gradient,  # (R, L, M), written
    n_matrices,
    n_rows,
    n_columns,
    SMOOTHING: tl.constexpr,
    BOTH_WAYS: tl.constexpr,
    BLOCK: tl.constexpr,
    ROWS: tl.constexpr,
    SMALL: tl.constexpr,
):
    """Write `of_cost` times the share of the paths that pass each cell, of a block of matrices."""
    matrix = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    row = tl.arange(0, ROWS)[None, :]
    inside = (matrix[:, None] < n_matrices) & (row < n_rows)
    first = matrix[:, None].to(tl.int64) * n_rows * n_columns
    scale = tl.load(of_cost + matrix, mask=matrix < n_matrices, other=0.0).to(SMALL)[:, None]
    for direction in tl.static_range(2 if BOTH_WAYS else 1):
        if direction == 0:
            cells, step = first + row * n_columns, 1
        else:
            cells, step = first + row, n_columns
            tl.debug_barrier()  # other threads have written what is added to here
        kept = reach + tl.full((), direction, tl.int64) * n_matrices * n_rows * n_columns
        whole = tl.load(total + direction * n_matrices + matrix, mask=matrix < n_matrices, other=0.0)
        leave = _exits(row, n_rows) - whole[:, None]
        for back in range(1, n_columns):
            places = cells + (n_columns - back) * step
            share = tl.load(kept + places, mask=inside, other=-float("inf")) + leave
            grown = scale * tl.exp(share.to(SMALL))
            if direction == 1:
                grown += tl.load(gradient + places, mask=inside, other=0.0)
            tl.store(gradient + places, grown, mask=inside)
            ahead = leave + _weights(distance + places, inside, SMOOTHING)
            leave = _log_add(ahead, _row_below(ahead, row, ROWS), SMALL)
        weight = _weights(distance + cells, inside, SMOOTHING)
        for back in range(1, n_rows):  # up the first column
            down = _log_add(leave, _row_below(weight + leave, row, ROWS), SMALL)
            leave = tl.where(row == n_rows - 1 - back, down, leave)
        share = tl.load(kept + cells, mask=inside, other=-float("inf")) + leave
        grown = scale * tl.exp(share.to(SMALL))
        if direction == 1:
            grown += tl.load(gradient + cells, mask=inside, other=0.0)
        tl.store(gradient + cells, grown, mask=inside)


class FusedAlignment(torch.autograd.Function):
    """What `ProductAlignment` and `log_alignment` compute, for matrices (..., L, M); L fits the registers of a warp."""

    @staticmethod
    def forward(ctx: Any, distance: Tensor, smoothing: float, both_ways: bool = False) -> Tensor:
        """Return the cost (...); with `both_ways` (L = M) the sum of a matrix's cost and that of its transpose."""
        x = distance.detach().contiguous()
        keep, n_matrices = ctx.needs_input_grad[0], x[..., 0, 0].numel()
        cost = x.new_empty(x.shape[:-2], dtype=_computed(x.dtype))
        sides = (2 if both_ways else 1) if keep else 0
        reach = x.new_empty((sides, *x.shape), dtype=torch.float64)
        total = x.new_empty((sides, n_matrices), dtype=torch.float64)
        if x.numel():
            with _on(x):
                cost_kernel[_grid](x, cost, reach, total, KEEP=keep, **_arguments(x, smoothing, both_ways))
        ctx.save_for_backward(x, reach, total)
        ctx.smoothing, ctx.both_ways = smoothing, both_ways
        return cost.to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_cost: Tensor) -> tuple[Tensor, None, None]:
        """Return the gradient for the distances: the share of the paths that pass a cell."""
        x, reach, total = ctx.saved_tensors
        gradient = torch.empty_like(x, dtype=_computed(x.dtype))
        if x.numel():
            arguments = _arguments(x, ctx.smoothing, ctx.both_ways)
            with _on(x):
                gradient_kernel[_grid](x, of_cost.contiguous(), reach, total, gradient, **arguments)
        return gradient.to(x.dtype), None, None


def _computed(dtype: torch.dtype) -> torch.dtype:
    """Return what kernels write for distances of a type: of half precision float32, which is rounded once, after it."""
    return torch.promote_types(dtype, torch.float32)


def _on(x: Tensor) -> Any:
    """Return the context in which kernels are launched on the device of `x`."""
    return torch.cuda.device(x.device) if x.device.type == "cuda" else nullcontext()


def _grid(arguments: dict[str, Any]) -> tuple[int]:
    return (triton.cdiv(arguments["n_matrices"], arguments["BLOCK"]),)


def _arguments(x: Tensor, smoothing: float, both_ways: bool) -> dict[str, Any]:
    n_rows, n_columns = x.shape[-2:]
    return {
        "n_matrices": x.numel() // (n_rows * n_columns),
        "n_rows": n_rows,
        "n_columns": n_columns,
        **constants(n_rows, smoothing, both_ways=both_ways, is_double=x.dtype == torch.float64),
        **LAUNCH,
    }


def constants(n_rows: int, smoothing: float, *, both_ways: bool, is_double: bool) -> dict[str, Any]:
    """Return what a kernel is compiled for."""
    rows = triton.next_power_of_2(n_rows)
    return {
        "SMOOTHING": smoothing,
        "BOTH_WAYS": both_ways,
        "BLOCK": max(TILE // rows, 1),
        "ROWS": rows,
        "SMALL": tl.float64 if is_double else tl.float32,
    }
