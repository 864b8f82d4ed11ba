"""How sure is sure: a temperature for probabilities, and a threshold below which a query is of none of the classes."""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fsar.errors import InputError

Floats = NDArray[np.float64]
Measure = Literal["max_logit", "max_probability"]
FALSE_ALARMS = 0.05
"""Share of queries of a present class that may be called none of the classes."""
STEPS = 50
NEWTON = 25
RIDGE = 1e-3
"""Keeps the slope finite where known and unknown queries are told apart without error."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """What validation episodes say about the logits of a head at one number of ways and shots."""

    temperature: float
    """Logits are divided by it before the softmax."""
    measure: Measure
    """What tells known queries from unknown ones: the largest logit, or the largest probability."""
    slope: float
    offset: float
    """P(known) = sigmoid(slope * measure + offset), for as many unknown queries as known ones."""
    threshold: float
    """A query with a smaller P(known) is of none of the classes."""
    auroc: float
    """Of the measure, on the queries it was fitted on."""
    false_alarms: float
    """Share of known queries below the threshold."""
    found: float
    """Share of unknown queries below the threshold."""
    n_known: int
    n_unknown: int
    source: str
    """Which episodes: "val part of ..." or "the supports, one left out at a time"."""

    def probabilities(self, logits: Tensor) -> Tensor:
        """Return (..., N), the softmax at the fitted temperature."""
        return (logits.double() / self.temperature).softmax(-1)

    def known(self, logits: Tensor) -> Tensor:
        """Return (...), the probability that a query is of one of the classes."""
        return (self.slope * _measured(logits, self.measure, self.temperature) + self.offset).sigmoid()

    def is_none(self, logits: Tensor) -> Tensor:
        """Return (...) bool, whether a query is of none of the classes."""
        return self.known(logits) < self.threshold

    def check(self, known: Tensor, unknown: Tensor) -> dict[str, float]:
        """Return AUROC, false alarms and found share on other queries, logits (K, N) and (U, N)."""
        both = self.known(known), self.known(unknown)
        return {
            "auroc": auroc(both[0].numpy(), both[1].numpy()),
            "false_alarms": float((both[0] < self.threshold).double().mean()),
            "found": float((both[1] < self.threshold).double().mean()),
        }

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON data."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "Calibration":
        """Return what `to_dict` wrote; raises InputError for anything else."""
        try:
            return cls(**data)
        except TypeError as error:
            raise InputError(f"not a calibration: {error}") from error


def fit(
    known: Tensor, labels: Tensor, unknown: Tensor, *, source: str, false_alarms: float = FALSE_ALARMS
) -> Calibration:
    """Return the calibration for logits of known queries (K, N) with their labels (K,) and unknown ones (U, N).

    The measure with the larger AUROC is taken, a logistic curve fitted to it, and the threshold set so that at most
    the share `false_alarms` of the known queries falls below it.
    """
    if not len(known) or not len(unknown):
        raise InputError("a calibration needs queries of present and of absent classes")
    temperature = fit_temperature(known, labels)
    measures: tuple[Measure, ...] = ("max_logit", "max_probability")
    scores = {name: [_measured(x, name, temperature).numpy() for x in (known, unknown)] for name in measures}
    measure = max(measures, key=lambda name: auroc(*scores[name]))
    slope, offset = fit_logistic(*scores[measure])
    rough = Calibration(temperature, measure, slope, offset, 0.0, 0.0, 0.0, 0.0, len(known), len(unknown), source)
    threshold = float(np.quantile(rough.known(known).numpy(), false_alarms, method="lower"))
    draft = replace(rough, threshold=threshold)
    rates = draft.check(known, unknown)
    return replace(draft, auroc=rates["auroc"], false_alarms=rates["false_alarms"], found=rates["found"])


def fit_temperature(logits: Tensor, labels: Tensor) -> float:
    """Return the temperature that minimises the cross entropy of logits (K, N).

    The entropy is convex in the inverse temperature, so a golden-section search over its logarithm finds the minimum.
    """
    logits = logits.double()
    spread = float((logits - logits.mean(-1, keepdim=True)).abs().mean().clamp(min=1e-12))

    def loss(log_temperature: float) -> float:
        scaled = logits / (spread * math.exp(log_temperature))
        return float(torch.nn.functional.cross_entropy(scaled, labels))

    low, high, ratio = math.log(1e-3), math.log(1e3), (math.sqrt(5) - 1) / 2
    for _ in range(STEPS):
        left, right = high - ratio * (high - low), low + ratio * (high - low)
        low, high = (low, right) if loss(left) < loss(right) else (left, high)
    return spread * math.exp((low + high) / 2)


def fit_logistic(known: Floats, unknown: Floats) -> tuple[float, float]:
    """Return slope and offset of the logistic curve that tells two samples of scores apart, both samples weighing 1/2.

    Newton's method on standardised scores, with a small ridge on the slope.
    """
    x = np.concatenate([known, unknown])
    mean, std = x.mean(), max(x.std(), 1e-12)
    x, y = (x - mean) / std, np.concatenate([np.ones(len(known)), np.zeros(len(unknown))])
    weight = np.concatenate([np.full(len(known), 0.5 / len(known)), np.full(len(unknown), 0.5 / len(unknown))])
    design, theta = np.stack([x, np.ones_like(x)], 1), np.zeros(2)
    ridge = np.diag([RIDGE, 1e-9])
    for _ in range(NEWTON):
        p = 1 / (1 + np.exp(-design @ theta))
        gradient = design.T @ (weight * (p - y)) + ridge @ theta
        hessian = design.T @ (design * (weight * p * (1 - p))[:, None]) + ridge
        theta = theta - np.linalg.solve(hessian, gradient)
    slope = theta[0] / std
    return float(slope), float(theta[1] - slope * mean)


def auroc(known: Floats, unknown: Floats) -> float:
    """Return the probability that a known query scores above an unknown one; ties count half."""
    both = np.concatenate([unknown, known])
    order, values = np.unique(both, return_inverse=True)
    counts = np.bincount(values, minlength=len(order))
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[values]  # mean rank of equal values, from 1
    total = ranks[len(unknown) :].sum() - len(known) * (len(known) + 1) / 2
    return float(total / (len(known) * len(unknown)))


def leave_one_out(
    labels: Sequence[int], logits_of: Callable[[list[int], int], Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """Return logits of known queries, their labels, and logits of unknown ones: each support is a query once each way.

    As a known query it is left out of its class; as an unknown one its whole class is. `logits_of(kept, query)` answers
    with one column per class among the kept supports, in order. Needs three classes of two supports or more: others
    give no query. Unknown queries have one class less to be close to, which makes them a little too easy.
    """
    n_way = max(labels) + 1
    known, targets, unknown = [], [], []
    for query, label in enumerate(labels):
        own = [place for place, other in enumerate(labels) if other == label and place != query]
        if not own or n_way < 3:
            continue
        known.append(logits_of([place for place in range(len(labels)) if place != query], query))
        targets.append(label)
        unknown.append(logits_of([place for place, other in enumerate(labels) if other != label], query))
    if not known:
        return torch.zeros(0, n_way), torch.zeros(0, dtype=torch.int64), torch.zeros(0, n_way - 1)
    return torch.stack(known), torch.tensor(targets), torch.stack(unknown)


def _measured(logits: Tensor, measure: str, temperature: float) -> Tensor:
    logits = logits.double()
    return logits.amax(-1) if measure == "max_logit" else (logits / temperature).softmax(-1).amax(-1)
