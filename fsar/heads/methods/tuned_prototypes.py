"""Prototypes that are tuned anew in every episode: on its supports alone, or on its queries too (TIM).

The B sets of prototypes of a batch are tuned side by side, by gradients in closed form.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from fsar.heads.batch import EpisodeBatch, Features
from fsar.heads.head import Outputs, TableHead, register_head
from fsar.heads.layers.adam import adam
from fsar.heads.layers.functional import class_means
from fsar.heads.layers.option_checks import check_positive
from fsar.heads.methods.bd_cspn import cosines

BETAS = (0.9, 0.999)
TINY = 1e-12
"""What a norm is at least, as `torch.nn.functional.normalize` has it."""


@register_head("tuned-prototypes")
class TunedPrototypes(TableHead):
    """Start from the class means and tune them until their cosines to the supports tell the classes apart.

    The cosine classifier of Chen et al., "A Closer Look at Few-shot Classification", ICLR 2019,
    https://arxiv.org/abs/1904.04232, in the form that easyfsl calls Finetune: on mean frames, from the class means, by
    full steps of Adam. Its default of 200 steps at 1e-4 moves an entry by 0.02 at most, and its temperature of 1 hardly
    tells cosines apart: try `lr=0.01 temperature=10`.
    """

    paper = "Chen et al., A Closer Look at Few-shot Classification, ICLR 2019, https://arxiv.org/abs/1904.04232"

    def __init__(
        self, *, normalise: bool = True, n_steps: int = 200, lr: float = 1e-4, temperature: float = 1.0
    ) -> None:
        """Build the head.

        Args:
            normalise: Scale mean frames to unit length first.
            n_steps: Steps of Adam, each over all supports.
            lr: Learning rate.
            temperature: Factor of the cosines while prototypes are tuned.
        """
        super().__init__()
        self.normalise = normalise
        self.n_steps, self.lr = check_positive("n_steps", n_steps), lr
        self.temperature = temperature

    def embed(self, features: Features, class_text: Tensor | None = None) -> Features:
        """Return the mean frame, "video" (..., D)."""
        video = features["frames"].mean(-2)
        return {"video": F.normalize(video, dim=-1) if self.normalise else video}

    def match(self, episodes: EpisodeBatch) -> Outputs:
        """Return "logits" (B, Q, N), cosines, and the tuned "prototypes" (B, N, D)."""
        support, query = episodes.support["video"].float(), episodes.query["video"].float()
        prototypes = self.tuned(support, episodes.support_labels, episodes.n_way, query)
        return {"logits": cosines(query, prototypes).to(episodes.query["video"].dtype), "prototypes": prototypes}

    @torch.no_grad()
    def tuned(self, support: Tensor, labels: Tensor, n_way: int, query: Tensor) -> Tensor:
        """Return the prototypes (B, N, D) after all steps, from the class means."""
        start, wanted = class_means(support, labels, n_way), F.one_hot(labels, n_way).to(support.dtype)
        support, query = F.normalize(support, dim=-1), F.normalize(query, dim=-1)
        return adam(
            start,
            lambda state: self.gradient(state, support, wanted, query),
            n_steps=self.n_steps,
            lr=self.lr,
            betas=BETAS,
        )

    def gradient(self, prototypes: Tensor, support: Tensor, wanted: Tensor, query: Tensor) -> Tensor:
        """Return the gradient (B, N, D) of the mean cross entropy of unit supports (B, S, D), one-hot (B, S, N)."""
        error = self.scores(support, prototypes).softmax(-1) - wanted
        return self.temperature * pull(prototypes, support, error / support.shape[1])

    def scores(self, videos: Tensor, prototypes: Tensor) -> Tensor:
        """Return the scaled cosines (B, L, N) of unit videos (B, L, D)."""
        return self.temperature * (videos @ F.normalize(prototypes, dim=-1).transpose(1, 2))


@register_head("tim")
class TIM(TunedPrototypes):
    """Tune prototypes until queries are given to one class each, and to all classes alike.

    Boudiaf et al., "Transductive Information Maximization for Few-Shot Learning", NeurIPS 2020,
    https://arxiv.org/abs/2008.11297, on mean frames, by gradient steps as in easyfsl. To the supports' cross entropy
    come the entropy of each query's classes, and, negative, that of their mean over the queries.

    Transductive: the answer for one query depends on the others, on how many there are and on how the classes are mixed
    among them. The last term takes all classes to be equally frequent, which they are in the field's episodes and
    seldom elsewhere; `marginal_weight=0` leaves it out. It is left out for a single query, unlike there: that would be
    given to all classes alike, whatever it shows. Say the number of queries beside any number.
    """

    inductive = False
    paper = (
        "Boudiaf et al., Transductive Information Maximization for Few-Shot Learning, NeurIPS 2020, "
        "https://arxiv.org/abs/2008.11297"
    )

    def __init__(
        self,
        *,
        normalise: bool = True,
        n_steps: int = 50,
        lr: float = 1e-4,
        temperature: float = 10.0,
        support_weight: float = 1.0,
        conditional_weight: float = 0.1,
        marginal_weight: float = 1.0,
    ) -> None:
        """Build the head.

        Args:
            normalise: Scale mean frames to unit length first.
            n_steps: Steps of Adam, each over all supports and queries.
            lr: Learning rate.
            temperature: Factor of the cosines while prototypes are tuned.
            support_weight: Of the supports' cross entropy.
            conditional_weight: Of the mean entropy of a query's classes.
            marginal_weight: Of the entropy of the queries' mean classes.
        """
        super().__init__(normalise=normalise, n_steps=n_steps, lr=lr, temperature=temperature)
        self.support_weight = support_weight
        self.conditional_weight, self.marginal_weight = conditional_weight, marginal_weight

    def gradient(self, prototypes: Tensor, support: Tensor, wanted: Tensor, query: Tensor) -> Tensor:
        """Return the gradient (B, N, D) of all three terms."""
        of_supports = super().gradient(prototypes, support, wanted, query)
        logs = self.scores(query, prototypes).log_softmax(-1)  # (B, Q, N)
        shares = logs.exp()
        mean = shares.mean(1, keepdim=True).clamp_min(torch.finfo(shares.dtype).tiny)
        marginal_weight = self.marginal_weight if query.shape[1] > 1 else 0.0
        # Both entropies are sums of -p log p; what is the same for all classes of a query drops out of the softmax.
        slope = marginal_weight * mean.log() - self.conditional_weight * logs
        error = shares * (slope - (shares * slope).sum(-1, keepdim=True)) / query.shape[1]
        return self.support_weight * of_supports + self.temperature * pull(prototypes, query, error)


def pull(prototypes: Tensor, videos: Tensor, error: Tensor) -> Tensor:
    """Return the gradient (B, N, D) at prototypes, from that at their cosines (B, L, N) to unit videos (B, L, D)."""
    direction = F.normalize(prototypes, dim=-1)
    gradient = error.transpose(1, 2) @ videos
    across = gradient - (gradient * direction).sum(-1, keepdim=True) * direction
    return across / torch.linalg.vector_norm(prototypes, dim=-1, keepdim=True).clamp_min(TINY)
