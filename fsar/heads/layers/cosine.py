"""Cosines of all pairs of two lists of vectors, with a gradient that makes no copies of the vectors on its way."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


class OffsetCosine(torch.autograd.Function):
    """<a_i, b_j> / (|a_i| |b_j| + offset) for a (..., L, D) and b (..., M, D): (..., L, M).

    Written out because frames are wide and few: differentiated step by step, the norms alone cost several passes over
    all frames, more than the matrix products.
    """

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, offset: float) -> Tensor:
        """Return the cosines."""
        product = a @ b.transpose(-1, -2)
        norm_a = torch.linalg.vector_norm(a, dim=-1, keepdim=True)
        norm_b = torch.linalg.vector_norm(b, dim=-1, keepdim=True)
        scale = (norm_a * norm_b.transpose(-1, -2)).add_(offset)
        cosine = product.div_(scale)
        ctx.save_for_backward(a, b, norm_a, norm_b, scale, cosine)
        return cosine

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        """Return the gradients of both; that of a vector of zeros takes the norm's to be zero, as torch does."""
        a, b, norm_a, norm_b, scale, cosine = ctx.saved_tensors
        of_product = gradient / scale
        of_scale = of_product * cosine  # with the sign reversed
        grad_a = _gradient(of_product, of_scale, a, b, norm_a, norm_b) if ctx.needs_input_grad[0] else None
        turned = of_product.transpose(-1, -2), of_scale.transpose(-1, -2)
        grad_b = _gradient(*turned, b, a, norm_b, norm_a) if ctx.needs_input_grad[1] else None
        return grad_a, grad_b, None


def _gradient(of_product: Tensor, of_scale: Tensor, own: Tensor, other: Tensor, norm: Tensor, others: Tensor) -> Tensor:
    through_norm = (of_scale.to(others.dtype) @ others) / norm.clamp_min(torch.finfo(norm.dtype).tiny)  # (..., L, 1)
    gradient = of_product.to(other.dtype) @ other
    return gradient.addcmul_(own, through_norm.to(own.dtype), value=-1).sum_to_size(own.shape)
