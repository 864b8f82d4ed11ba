"""Classifiers that are trained anew on the supports of every episode: Baseline, Baseline Plus and TSL.

The B classifiers of a batch train side by side, by gradients in closed form. Nothing is learned from other episodes.
"""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from fsar.device import sent
from fsar.heads.batch import EpisodeBatch, Features
from fsar.heads.head import Outputs, TableHead, register_head
from fsar.heads.layers.adam import adam
from fsar.heads.layers.functional import class_means
from fsar.heads.layers.option_checks import check_choice, check_positive

TSL_START = 0.02
"""Standard deviation of TSL's first weights."""


@register_head("baseline")
class Baseline(TableHead):
    """Train a linear classifier on the mean frames of an episode's supports, by many small steps.

    Zhu et al., "A Closer Look at Few-Shot Video Classification", BMVC 2021, https://arxiv.org/abs/2110.12358, after
    Chen et al., "A Closer Look at Few-shot Classification", ICLR 2019. Passes over the supports in random order, by SGD
    with momentum and dampening.

    The official code draws first weights and orders without a seed, and its answer depends on the order of supports and
    classes. Here both are drawn from `seed` for supports and classes in the order of their mean feature, so that the
    same episode has the same answer however it is written down; `compat="official"` takes them as they come.
    """

    paper = "Zhu et al., A Closer Look at Few-Shot Video Classification, BMVC 2021, https://arxiv.org/abs/2110.12358"

    def __init__(
        self,
        *,
        n_rounds: int = 100,
        batch_size: int = 4,
        lr: float = 0.01,
        momentum: float = 0.9,
        dampening: float = 0.9,
        weight_decay: float = 0.001,
        seed: int = 0,
        compat: Literal["fixed", "official"] = "fixed",
    ) -> None:
        """Build the head.

        Args:
            n_rounds: Passes over the supports.
            batch_size: Supports a step.
            lr: Learning rate of SGD.
            momentum: Share of the last step in the next one.
            dampening: What is taken off the share of the new gradient, as torch's SGD has it.
            weight_decay: Of weight and bias.
            seed: Of first weights and orders.
            compat: "official" takes supports and classes in the order in which they come.
        """
        super().__init__()
        self.n_rounds, self.batch_size = check_positive("n_rounds", n_rounds), check_positive("batch_size", batch_size)
        self.lr, self.momentum, self.dampening, self.weight_decay = lr, momentum, dampening, weight_decay
        self.seed = seed
        self.official = check_choice("compat", compat, ("fixed", "official")) == "official"

    def embed(self, features: Features, class_text: Tensor | None = None) -> Features:
        """Return the mean frame, "video" (..., D)."""
        return {"video": features["frames"].mean(-2)}

    def match(self, episodes: EpisodeBatch) -> Outputs:
        """Return "logits" (B, Q, N) and the trained "weight" (B, N, D) and "bias" (B, N)."""
        support, query = episodes.support["video"].float(), episodes.query["video"].float()
        generator = torch.Generator().manual_seed(self.seed)
        start = self.first_weights(support, episodes, generator)
        orders = torch.stack([torch.randperm(support.shape[1], generator=generator) for _ in range(self.n_rounds)])
        weight, bias = self.adapt(support, episodes.support_labels, start, sent(orders, support.device))
        logits = self.answer(query, weight, bias)
        return {"logits": logits.to(episodes.query["video"].dtype), "weight": weight, "bias": bias}

    def first_weights(self, support: Tensor, batch: EpisodeBatch, generator: torch.Generator) -> Tensor:
        """Return the classifiers (B, N, D + 1) to start from, the bias last: uniform within 1 / sqrt(D)."""
        dim = support.shape[-1]
        rows = (2 * torch.rand(batch.n_way, dim + 1, generator=generator) - 1) / math.sqrt(dim)
        return sent(rows, support.device)[self._class_order(support, batch)]

    def prepared(self, support: Tensor) -> Tensor:
        """Return what the classifier is trained on, (B, S, D) from mean frames (B, S, D)."""
        return support

    def answer(self, query: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """Return logits (B, Q, N) for mean frames (B, Q, D)."""
        return query @ weight.transpose(1, 2) + bias.unsqueeze(1)

    @torch.no_grad()
    def adapt(self, support: Tensor, labels: Tensor, start: Tensor, orders: Tensor) -> tuple[Tensor, Tensor]:
        """Return weight (B, N, D) and bias (B, N) after training.

        Args:
            support: (B, S, D) mean frames.
            labels: (B, S) episode labels.
            start: (B, N, D + 1) first weights, the bias last.
            orders: (rounds, S) the order of each round, counting supports by class (official) or by mean feature.

        """
        place = labels.argsort(dim=1, stable=True) if self.official else support.mean(-1).argsort(1)
        inputs = with_ones(self.prepared(support).gather(1, place.unsqueeze(-1).expand_as(support)))
        wanted = F.one_hot(labels.gather(1, place), start.shape[1]).to(inputs.dtype)
        state, speed = start, None
        for rows in (rows for order in orders for rows in order.split(self.batch_size)):
            gradient = classifier_gradient(state, inputs[:, rows], wanted[:, rows]) + self.weight_decay * state
            speed = gradient if speed is None else self.momentum * speed + (1 - self.dampening) * gradient
            state = state - self.lr * speed
        return state[..., :-1], state[..., -1]

    def _class_order(self, support: Tensor, batch: EpisodeBatch) -> Tensor:
        """Return which first weights each class gets, (B, N)."""
        if self.official:
            return torch.arange(batch.n_way, device=support.device).expand(len(support), -1)
        keys = class_means(support.mean(-1, keepdim=True), batch.support_labels, batch.n_way).squeeze(-1)
        return keys.argsort(1).argsort(1)


@register_head("baseline-plus")
class BaselinePlus(Baseline):
    """Train a linear classifier on rectified unit supports, starting from the class means.

    The "Baseline Plus" of Zhu et al., "A Closer Look at Few-Shot Video Classification", BMVC 2021,
    https://arxiv.org/abs/2110.12358. It has a bias and no cosine, unlike the method of that name by Chen et al., 2019.

    The official code asks raw queries of a classifier that was trained on rectified unit vectors; here queries are
    prepared as supports are, and `compat="official"` gives the difference back.
    """

    def first_weights(self, support: Tensor, batch: EpisodeBatch, generator: torch.Generator) -> Tensor:
        """Return the rectified unit class means, bias 0, (B, N, D + 1)."""
        means = self.prepared(class_means(support, batch.support_labels, batch.n_way))
        return torch.cat((means, torch.zeros_like(means[..., :1])), -1)

    def prepared(self, support: Tensor) -> Tensor:
        """Return rectified unit vectors."""
        return F.normalize(support.relu(), dim=-1)

    def answer(self, query: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """Return logits (B, Q, N) for mean frames (B, Q, D)."""
        return super().answer(query if self.official else self.prepared(query), weight, bias)


@register_head("tsl")
class TSL(TableHead):
    """Train a linear classifier on every frame of the supports, by a few steps of Adam; average over frames.

    Xian et al., "Generalized Few-Shot Video Classification with Video Retrieval and Feature Generation", TPAMI 2021,
    https://arxiv.org/abs/2007.04755; its frames are clips of a 3D network. Defaults are the commands of its repository
    (learning rate 0.01, 10 steps), not the 5 steps at 0.001 of a later re-run, which leave the start nearly unchanged.
    First weights are drawn from `seed` and given to the classes in the order of their mean feature.
    """

    paper = (
        "Xian et al., Generalized Few-Shot Video Classification with Video Retrieval and Feature Generation, "
        "TPAMI 2021, https://arxiv.org/abs/2007.04755"
    )

    def __init__(self, *, n_steps: int = 10, lr: float = 0.01, beta: float = 0.5, seed: int = 0) -> None:
        """Build the head.

        Args:
            n_steps: Steps of Adam, each over all frames of all supports.
            lr: Learning rate.
            beta: Adam's first decay rate; the second is 0.999.
            seed: Of the first weights.
        """
        super().__init__()
        self.n_steps, self.lr, self.betas, self.seed = check_positive("n_steps", n_steps), lr, (beta, 0.999), seed

    def embed(self, features: Features, class_text: Tensor | None = None) -> Features:
        """Return the frames as they are, (..., T, D): each is a sample."""
        return {"frames": features["frames"]}

    def match(self, episodes: EpisodeBatch) -> Outputs:
        """Return "logits" (B, Q, N), logarithms of the mean "probabilities", and the trained "weight" and "bias"."""
        support, query = episodes.support["frames"].float(), episodes.query["frames"].float()
        keys = class_means(support.mean((-1, -2)).unsqueeze(-1), episodes.support_labels, episodes.n_way).squeeze(-1)
        generator = torch.Generator().manual_seed(self.seed)
        rows = TSL_START * torch.randn(episodes.n_way, support.shape[-1], generator=generator)
        start = sent(rows, support.device)[keys.argsort(1).argsort(1)]
        start = torch.cat((start, torch.zeros_like(start[..., :1])), -1)
        weight, bias = self.adapt(support, episodes.support_labels, start)
        probabilities = self.probabilities(query, weight, bias)
        logits = probabilities.clamp(min=torch.finfo(torch.float32).tiny).log()
        return {
            "logits": logits.to(episodes.query["frames"].dtype),
            "probabilities": probabilities,
            "weight": weight,
            "bias": bias,
        }

    def probabilities(self, query: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """Return the mean over frames of each class's probability, (B, Q, N) for queries (B, Q, T, D)."""
        scores = torch.einsum("bqtd,bnd->bqtn", query, weight) + bias[:, None, None]
        return scores.softmax(-1).mean(2)

    @torch.no_grad()
    def adapt(self, support: Tensor, labels: Tensor, start: Tensor) -> tuple[Tensor, Tensor]:
        """Return weight (B, N, D) and bias (B, N) after Adam on support (B, S, T, D), from start (B, N, D + 1)."""
        inputs = with_ones(support.flatten(1, 2))
        wanted = F.one_hot(labels.repeat_interleave(support.shape[2], 1), start.shape[1]).to(inputs.dtype)
        trained = adam(
            start,
            lambda state: classifier_gradient(state, inputs, wanted),
            n_steps=self.n_steps,
            lr=self.lr,
            betas=self.betas,
        )
        return trained[..., :-1], trained[..., -1]


def with_ones(inputs: Tensor) -> Tensor:
    """Return inputs (..., D + 1) whose last entry, for the bias, is one."""
    return torch.cat((inputs, torch.ones_like(inputs[..., :1])), -1)


def classifier_gradient(state: Tensor, inputs: Tensor, wanted: Tensor) -> Tensor:
    """Return the gradient (B, N, D) of the mean cross entropy of inputs (B, S, D) with one-hot labels (B, S, N)."""
    error = (inputs @ state.transpose(1, 2)).softmax(-1) - wanted
    return error.transpose(1, 2) @ inputs / inputs.shape[1]
