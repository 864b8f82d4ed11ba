"""The motion summary of CLIP-MEI: two temporal convolutions and a mean of frame differences, as two small products."""

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

KERNEL = 3


class MotionSummary(nn.Module):
    """Mean over neighbouring frames of the two-sided difference between convolved and raw frames.

    With c = conv_2(conv_1(x)) over time (zero padding, no activation between), the method averages
    ((c[t+1] - x[t]) + (c[t] - x[t+1])) / 2 over t. The sum telescopes to sum_t w[t] (c[t] - x[t]) with weights w that
    are halved at both ends. As everything is linear in time, the weights can be pushed through both convolutions: what
    is left are 3 x 3 weighted sums of the raw frames and two matrix products per video instead of two per frame, a
    quarter of the arithmetic at 8 frames.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.conv_1 = nn.Conv1d(dim, dim, KERNEL, padding=1)
        self.conv_2 = nn.Conv1d(dim, dim, KERNEL, padding=1)

    def forward(self, frames: Tensor) -> Tensor:
        """Return the summary (..., D) of frames (..., T, D), T at least 2."""
        weights, shifted, paths = time_weights(frames.shape[-2], frames.device, frames.dtype)
        # Row (k, j): the frames as tap k of the second convolution sees them through tap j of the first.
        seen = torch.einsum("kjt,...td->...kjd", paths, frames)
        first = F.linear(seen.flatten(-2), by_tap(self.conv_1.weight)) + shifted.unsqueeze(-1) * _bias(self.conv_1)
        second = F.linear(first.flatten(-2), by_tap(self.conv_2.weight)) + weights.sum() * _bias(self.conv_2)
        return second - weights @ frames


@lru_cache(maxsize=64)
def time_weights(n_frames: int, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Return the frames' weights (T,), their sums per tap (3,), and the frames' weights per pair of taps (3, 3, T).

    Made once: do not write to them.
    """
    # A cached tensor made in inference mode could not take part in training later.
    with torch.inference_mode(False):
        weights = torch.full((n_frames,), 1.0 / (n_frames - 1), device=device, dtype=dtype)
        weights[0] /= 2
        weights[-1] /= 2
        per_tap = shift_taps(weights)  # (3, T)
        return weights, per_tap.sum(1), shift_taps(per_tap)


def shift_taps(weights: Tensor) -> Tensor:
    """Return, for output weights (..., T) of a convolution, the weights of its inputs per tap: (..., 3, T).

    Tap k reads input t + k - 1 for output t, so the weight moves by k - 1; what falls off an end met zero padding.
    """
    padded = F.pad(weights, (1, 1))
    n_frames = weights.shape[-1]
    return torch.stack([padded[..., 2 - k : 2 - k + n_frames] for k in range(KERNEL)], -2)


def by_tap(weight: Tensor) -> Tensor:
    """Return a convolution's weight (D_out, D_in, 3) as the matrix (D_out, 3 * D_in) with taps as the slow axis."""
    return weight.transpose(1, 2).flatten(1)


def _bias(convolution: nn.Conv1d) -> Tensor:
    assert convolution.bias is not None
    return convolution.bias
