"""LaplacianShot: queries that are near to each other are drawn to the same class."""

from typing import Literal

import torch
from torch import Tensor

from fsar.heads.batch import EpisodeBatch
from fsar.heads.head import Outputs, register_head
from fsar.heads.layers.functional import squared_distances
from fsar.heads.layers.option_checks import check_choice, check_positive
from fsar.heads.methods.bd_cspn import BDCSPN


@register_head("laplacian-shot")
class LaplacianShot(BDCSPN):
    """Give each query a class by its distance to the prototypes and by what its neighbours are given.

    Ziko, Dolz, Granger, Ben Ayed, "Laplacian Regularized Few-Shot Learning", ICML 2020,
    https://arxiv.org/abs/2006.15486, on mean frames, as in easyfsl. Prototypes are those of `bd-cspn`. A query starts
    from the softmax of minus its squared distances, to which every round adds the mean class of its nearest queries.

    Transductive: the answer for one query depends on the others; a single query has no neighbours, and its answer is
    its distances'. Say the number of queries beside any number.

    Differences from easyfsl, which `compat="official"` gives back: `n_neighbours` counts neighbours, where the query
    itself is one of them there; logits are logarithms of the probabilities that it returns, so that a cross entropy of
    them means something. It stops when the energy stands still, where all rounds are taken here.
    """

    paper = "Ziko et al., Laplacian Regularized Few-Shot Learning, ICML 2020, https://arxiv.org/abs/2006.15486"

    def __init__(
        self,
        *,
        normalise: bool = True,
        n_neighbours: int = 3,
        weight: float = 0.7,
        n_rounds: int = 20,
        compat: Literal["fixed", "official"] = "fixed",
    ) -> None:
        """Build the head.

        Args:
            normalise: Scale mean frames to unit length first.
            n_neighbours: Nearest other queries that a query listens to.
            weight: Of each of them, beside the query's own distances.
            n_rounds: Rounds of listening.
            compat: "official" has one neighbour less and returns probabilities.
        """
        super().__init__(normalise=normalise)
        self.official = check_choice("compat", compat, ("fixed", "official")) == "official"
        self.n_neighbours = check_positive("n_neighbours", n_neighbours) - self.official
        self.weight, self.n_rounds = weight, check_positive("n_rounds", n_rounds)

    def match(self, episodes: EpisodeBatch) -> Outputs:
        """Return "logits" (B, Q, N), logarithms of probabilities, and the "prototypes" (B, N, D)."""
        query, prototypes = episodes.query["video"], self.rectified(episodes)
        own = -squared_distances(query, prototypes)
        neighbours = nearest(query, self.n_neighbours)
        scores = own
        for _ in range(self.n_rounds):
            scores = own + self.weight * (neighbours @ scores.softmax(-1))
        logits = scores.softmax(-1) if self.official else scores.log_softmax(-1)
        return {"logits": logits, "prototypes": prototypes}


def nearest(videos: Tensor, n_neighbours: int) -> Tensor:
    """Return (B, L, L), one where the second of two videos (B, L, D) is among the nearest others of the first."""
    n_videos = videos.shape[1]
    itself = torch.eye(n_videos, dtype=torch.bool, device=videos.device)
    distances = squared_distances(videos, videos).masked_fill(itself, torch.inf)
    index = distances.topk(min(n_neighbours, n_videos - 1), -1, largest=False).indices
    return torch.zeros_like(distances).scatter_(-1, index, 1.0)
