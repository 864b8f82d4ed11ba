"""The kernels of alignment in Triton's interpreter, on the CPU, beside the code that they stand in for.

    TRITON_INTERPRET=1 python -m tests.heads.interpreted_alignment

Prints case -> largest errors over what is promised, as JSON; `test_alignment_kernel.py` reads it. Triton decides when
it is imported whether it interprets, hence a process of its own.
"""

import json
import math
import warnings
from collections.abc import Iterator

import torch
from torch import Tensor

from fsar.heads.layers import alignment, functional
from fsar.heads.layers.alignment import log_alignment
from fsar.heads.layers.alignment_kernel import FusedAlignment
from tests.conftest import GOLDENS

STEP_ERROR = 4e-7
"""Of a step, as the kernel's file promises for float32."""
OBLONG = ((4, 6), (1, 5), (5, 1), (17, 2))


def matrices(name: str, *shape: int) -> Tensor:
    """Return distances (2, 2, L, M) of one kind."""
    generator = torch.Generator().manual_seed(0)
    random = torch.rand((2, 2, *shape), generator=generator, dtype=torch.float64)
    kinds = {
        "cosine": 1.8 * random,
        "equal": torch.full_like(random, 2.1),
        "none": torch.zeros_like(random),
        "negative": random - 1,
        "large": 1e4 * random,  # exp(-1e5)
        "rivals": _rivals(random),
        "one hot": torch.where(random == random.amax((-1, -2), keepdim=True), 0.0, 2.0),
    }
    return kinds[name]


def _rivals(random: Tensor) -> Tensor:
    """Return matrices whose first row is cheap at first and whose last row is cheap at the end: both paths count."""
    d = torch.full_like(random, 2.0)
    half = d.shape[-1] // 2
    d[..., 0, :half] = d[..., -1, half:] = 0
    return d + 1e-3 * random


def reference(distance: Tensor, smoothing: float, both_ways: bool) -> tuple[Tensor, Tensor]:
    """Return cost and its gradient in float64, by the code for any distances."""
    exact = distance.double().requires_grad_()
    cost = log_alignment(exact, smoothing)
    if both_ways:
        cost = cost + log_alignment(exact.transpose(-1, -2), smoothing)
    (gradient,) = torch.autograd.grad(cost.sum(), exact)
    return cost.detach(), gradient


def beside(distance: Tensor, smoothing: float, both_ways: bool) -> float:
    """Return the largest error of cost and gradient as a share of what is promised."""
    x = distance.transpose(0, 1).contiguous().transpose(0, 1).requires_grad_()  # no kernel may count on strides
    found = FusedAlignment.apply(x, smoothing, both_ways)
    (found_gradient,) = torch.autograd.grad(found.sum(), x)
    cost, gradient = reference(distance, smoothing, both_ways)
    assert found.dtype == found_gradient.dtype == distance.dtype
    step = {torch.float64: 1e-13}.get(distance.dtype, STEP_ERROR)
    of_logarithm = step * sum(distance.shape[-2:]) * (2 if both_ways else 1)
    rounding = torch.finfo(distance.dtype).eps
    of_cost = (found.detach().double() - cost).abs() / (smoothing * of_logarithm + rounding * cost.abs())
    allowed = (2 * of_logarithm + 2 * rounding) * gradient.abs() + rounding
    of_gradient = (found_gradient.double() - gradient).abs() / allowed
    return max(float(of_cost.amax()), float(of_gradient.amax()))


def numbers() -> Iterator[tuple[str, float]]:
    """Yield case and error over what is promised."""
    for kind in ("cosine", "equal", "none", "negative", "large", "rivals", "one hot"):
        yield f"{kind} 8x8", beside(matrices(kind, 8, 8).float(), 0.1, kind in ("cosine", "rivals"))
    for shape in OBLONG:
        yield f"cosine {shape}", beside(matrices("cosine", *shape).float(), 0.5, False)
    yield "one cell", beside(matrices("cosine", 1, 1).float(), 0.1, True)
    yield "rivals 32x32", beside(matrices("rivals", 32, 32)[:1, :1].float(), 0.1, False)
    for dtype in (torch.float64, torch.bfloat16, torch.float16):
        yield f"cosine {dtype}", beside(matrices("cosine", 5, 5).to(dtype), 0.1, True)
    yield "many matrices", beside(matrices("cosine", 3, 3).repeat(10, 3, 1, 1).float(), 0.3, False)


def edges() -> dict[str, bool]:
    """Return what holds for distances that are no numbers, and for none."""
    x = matrices("cosine", 4, 4).flatten(0, 1).float()
    x[1, 2, 1], x[2] = math.nan, math.inf
    cost = FusedAlignment.apply(x, 0.1)
    walled = matrices("cosine", 4, 4)[0, :1].float()
    walled[:, 1] = math.inf
    empty = torch.zeros(0, 3, 4, 4, requires_grad=True)
    FusedAlignment.apply(empty, 0.1).sum().backward()
    with torch.inference_mode():
        inside = FusedAlignment.apply(1 * x, 0.1, True)
    return {
        "the same in inference mode": torch.equal(inside[:1], FusedAlignment.apply(x, 0.1, True)[:1]),
        "it is found to agree": alignment.agrees(FusedAlignment, x.device),
        "NaN stays in its matrix": cost.isnan().tolist() == [False, True, False, False],
        "infinitely far": bool(cost[2] == math.inf),
        "a wall is gone around": torch.allclose(FusedAlignment.apply(walled, 0.1), log_alignment(walled, 0.1)),
        "no matrices": empty.grad is not None and empty.grad.shape == empty.shape,
        "no gradient wanted": not FusedAlignment.apply(x.detach(), 0.1).requires_grad,
    }


def official() -> list[str]:
    """Return the parity vectors of official code that heads reproduce through the kernel."""
    from tests.heads.goldens import check

    functional.fused_alignment = lambda distance: FusedAlignment  # type: ignore[attr-defined]
    calls = alignment.ProductAlignment.apply
    alignment.ProductAlignment.apply = None  # type: ignore[method-assign]
    done = []
    for method, stem in (("otam", "w5s1q1_T8_sorted"), ("clip_mei", "p3_3w2s_T4_train")):
        if (path := GOLDENS / method / f"{stem}.safetensors").is_file():
            check(method, path)
            done.append(f"{method}/{stem}")
    alignment.ProductAlignment.apply = calls  # type: ignore[method-assign]
    return done


if __name__ == "__main__":
    warnings.filterwarnings("ignore", category=RuntimeWarning, module="triton")  # logarithms of 0, as on a device
    print(json.dumps({"errors": dict(numbers()), "edges": edges(), "official": official()}))
