"""Adam for many small independent problems side by side, whose gradients are known in closed form."""

from collections.abc import Callable

import torch
from torch import Tensor

ADAM_EPS = 1e-8


def adam(
    start: Tensor, gradient: Callable[[Tensor], Tensor], *, n_steps: int, lr: float, betas: tuple[float, float]
) -> Tensor:
    """Return `start` after `n_steps` steps of Adam (Kingma and Ba, ICLR 2015), without weight decay.

    `gradient` returns the gradient at a state, of its shape. Entries do not see each other, so that problems that are
    stacked along a leading axis stay apart.
    """
    state, first, second = start, torch.zeros_like(start), torch.zeros_like(start)
    for step in range(1, n_steps + 1):
        found = gradient(state)
        first = betas[0] * first + (1 - betas[0]) * found
        second = betas[1] * second + (1 - betas[1]) * found.square()
        scale = (second / (1 - betas[1] ** step)).sqrt() + ADAM_EPS
        state = state - lr / (1 - betas[0] ** step) * first / scale
    return state
