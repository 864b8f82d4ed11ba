import math

import numpy as np
import pytest
import torch

from fsar.errors import InputError
from fsar.heads.batch import EpisodeBatch
from fsar.heads.head import create_head


def batch(n_frames: int, dim: int = 32, seed: int = 0, sign: float = 1.0) -> EpisodeBatch:
    x = torch.from_numpy(np.random.default_rng(seed).normal(size=(2, 8, n_frames, dim)).astype(np.float32))
    labels = torch.tensor([[0, 1, 2, 1]]).expand(2, -1)
    return EpisodeBatch({"frames": x[:, :4]}, labels, {"frames": sign * x[:, 4:]}, 3)


def official_cost(d: np.ndarray, smoothing: float) -> float:
    """The recursion over cells as the public code writes it, in double precision."""

    def soft_min(*values: float) -> float:
        low = min(values)
        return low - smoothing * math.log(sum(math.exp(-(v - low) / smoothing) for v in values))

    padded = np.pad(d, ((0, 0), (1, 1)))
    n_rows, n_columns = padded.shape
    cost = np.zeros_like(padded)
    for m in range(1, n_columns):
        cost[0, m] = padded[0, m] + cost[0, m - 1]
    for row in range(1, n_rows):
        for m in range(1, n_columns):
            before = [cost[row - 1, m - 1], cost[row, m - 1]]
            if m in (1, n_columns - 1):
                before.append(cost[row - 1, m])
            cost[row, m] = padded[row, m] + soft_min(*before)
    return cost[-1, -1]


@pytest.mark.parametrize("n_frames", [1, 2, 8, 16])
@pytest.mark.parametrize("smoothing", [0.1, 0.5])
def test_logits_follow_the_recursion_over_cells(n_frames, smoothing):
    episode = batch(n_frames)
    logits = create_head("otam", smoothing=smoothing)(episode)
    support, query = (part["frames"].double().numpy() for part in (episode.support, episode.query))
    for q in range(4):
        costs = []
        for s in range(4):
            a, b = query[1, q], support[1, s]
            d = 1 - a @ b.T / (np.linalg.norm(a, axis=1)[:, None] * np.linalg.norm(b, axis=1) + 0.01)
            costs.append(official_cost(d, smoothing) + official_cost(d.T, smoothing))
        expected = [-costs[0], -(costs[1] + costs[3]) / 2, -costs[2]]
        np.testing.assert_allclose(logits[1, q].numpy(), expected, rtol=1e-5, atol=1e-4)


def test_it_is_finite_where_frames_are_opposite_and_clips_long():
    frames = torch.ones(1, 2, 16, 8)
    episode = EpisodeBatch({"frames": frames}, torch.tensor([[0, 1]]), {"frames": (-frames).requires_grad_()}, 2)
    logits = create_head("otam")(episode)  # every frame distance is 2
    assert logits.isfinite().all()
    logits.sum().backward()
    assert episode.query["frames"].grad.isfinite().all()


def test_reversing_a_query_changes_its_answer():
    episode = batch(8)
    turned = EpisodeBatch(
        episode.support, episode.support_labels, {"frames": episode.support["frames"].flip(2)}, episode.n_way
    )
    same = EpisodeBatch(episode.support, episode.support_labels, dict(episode.support), episode.n_way)
    head = create_head("otam")
    assert (head(same).amax(-1) > head(turned).amax(-1) + 0.5).all()


def test_smoothing_must_be_positive():
    with pytest.raises(InputError, match="smoothing must be positive, got 0"):
        create_head("otam", smoothing=0)
