"""What an explanation consists of. Every kind of evidence says which class scores it explains, and by which parts."""

import itertools
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from fsar.heads.layers.functional import class_scores, membership

Link = Literal["linear", "softmax", "log_softmax"]
TOP = 3
"""Pairs or tuples that a summary names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence(ABC):
    """One term of a head's logits taken apart.

    Axes are those of the batch: B episodes, Q queries, S supports, N classes, T frames. `exact` evidence sums to the
    score; other evidence is an estimate, or leaves out what belongs to no frame, and `remainder` says how much.
    """

    kind: ClassVar[str]
    name: str
    """What is compared, in a few words, e.g. "frame alignment"."""
    score: Tensor
    """(B, Q, N): the class scores that this explains, larger is closer."""
    weight: float = 1.0
    """How the score counts in the logits; 0 for evidence that only illustrates."""
    link: Link = "linear"
    """What happens to the score over the classes before it is weighted."""
    exact: bool = True

    @abstractmethod
    def query_frames(self) -> Tensor:
        """Return (B, Q, N, T): what each frame of a query contributes to its score for a class."""

    @abstractmethod
    def details(self, episode: int, query: int, label: int) -> dict[str, Any]:
        """Return the strongest parts for one query and class as JSON data: frames from 0, supports by position."""

    def remainder(self) -> Tensor:
        """Return (B, Q, N), the score less its parts: 0, up to rounding, where `exact`."""
        return self.score - self.query_frames().sum(-1)

    def term(self) -> Tensor:
        """Return (B, Q, N), what the score adds to the logits."""
        score = self.score.float()
        if self.link == "softmax":
            score = score.softmax(-1)
        elif self.link == "log_softmax":
            score = score.log_softmax(-1)
        return self.weight * score

    def summary(self, episode: int, query: int, label: int) -> dict[str, Any]:
        """Return `details` with the name, weight, score and frames of one query and class as JSON data."""
        frames = self.query_frames()[episode, query, label]
        return {
            "kind": self.kind,
            "name": self.name,
            "weight": self.weight,
            "score": float(self.score[episode, query, label]),
            "query_frames": [round(value, 6) for value in frames.tolist()],
            **self.details(episode, query, label),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Alignment(Evidence):
    """Frames of a query laid against frames of supports or of class prototypes: a cost made of distances."""

    kind: ClassVar[str] = "alignment"
    distance: Tensor
    """(B, Q, R, T, U) between the frames of queries and of the R supports or prototypes."""
    share: Tensor
    """(B, Q, R, T, U): how often a pair of frames is passed or chosen: the slope of the cost along its distance."""
    labels: Tensor
    """(B, R) class of each row; several rows of a class are averaged."""
    between_frames: bool = False
    """True where T and U count the changes between neighbouring frames."""

    @property
    def per_support(self) -> bool:
        """Tell whether rows are support videos (else class prototypes)."""
        return self.labels.shape[1] != self.score.shape[-1] or not bool((self.labels.diff(dim=1) == 1).all())

    def query_frames(self) -> Tensor:
        """Return (B, Q, N, T), minus the distances at which each query frame was matched."""
        rows = -(self.share * self.distance).sum(-1)  # (B, Q, R, T)
        parts = class_scores(rows.permute(0, 1, 3, 2).flatten(1, 2), self.labels, self.score.shape[-1])
        parts = parts.view(*rows.shape[:2], rows.shape[-1], -1).transpose(-1, -2)
        return spread_changes(parts) if self.between_frames else parts

    def details(self, episode: int, query: int, label: int) -> dict[str, Any]:
        """Return for each row of the class the matrix of shares and the support frame that each query frame met."""
        rows = (self.labels[episode] == label).nonzero()[:, 0].tolist()
        shares = [self.share[episode, query, row] for row in rows]
        return {
            "between_frames": self.between_frames,
            "per_support": self.per_support,
            "rows": rows,
            "matched": [share.argmax(-1).tolist() for share in shares],
            "share": [[[round(x, 4) for x in line] for line in share.tolist()] for share in shares],
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class TupleMatch(Evidence):
    """Tuples of query frames, each compared with what it attends to, or with its best match, in the supports."""

    kind: ClassVar[str] = "tuples"
    parts: Tensor
    """(B, Q, N, P): what each tuple of a query contributes to the score of a class."""
    attention: Tensor
    """(B, Q, P, S, U): weight of each of the U tuples of a support. Where a head attends, a class's supports share 1;
    where it takes the best match, that one has 1, and tuples that do not count have none."""
    tuples: tuple[tuple[int, ...], ...]
    """Frames of the P query tuples."""
    n_frames: int
    labels: Tensor
    """(B, S) class of each support."""

    def query_frames(self) -> Tensor:
        """Return (B, Q, N, T): every tuple's part in equal shares to its frames."""
        member = self.parts.new_zeros(len(self.tuples), self.n_frames)
        member.scatter_(1, torch.tensor(self.tuples, device=member.device), 1 / len(self.tuples[0]))
        return self.parts @ member

    def details(self, episode: int, query: int, label: int) -> dict[str, Any]:
        """Return the tuples that speak most for the class against the others, and where each of them looks most."""
        own = self.parts[episode, query, label]
        others = (self.parts[episode, query].sum(0) - own) / max(self.score.shape[-1] - 1, 1)
        supports = (self.labels[episode] == label).nonzero()[:, 0]
        found = []
        for place in (own - others).topk(min(TOP, len(own))).indices.tolist():
            weights = self.attention[episode, query, place, supports]  # (K, U)
            best = int(weights.argmax())
            support, other = divmod(best, weights.shape[1])
            found.append(
                {
                    "query_tuple": list(self.tuples[place]),
                    "support": int(supports[support]),
                    "support_tuple": list(self.tuples[other]),
                    "attention": round(float(weights.flatten()[best]), 4),
                    "part": round(float(own[place]), 6),
                }
            )
        return {"tuples": found}


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameScores(Evidence):
    """A number for each frame of a query and class: its similarity to the class, or what leaving it out costs."""

    kind: ClassVar[str] = "frames"
    parts: Tensor
    """(B, Q, N, T)"""
    method: Literal["similarity", "text", "leave-out"] = "similarity"
    """Similarity to the prototype, to the class text, or what the logit loses when the frame is left out."""

    def query_frames(self) -> Tensor:
        """Return `parts`."""
        return self.parts

    def details(self, episode: int, query: int, label: int) -> dict[str, Any]:
        """Return how the numbers were made."""
        return {"method": self.method}


@dataclass(frozen=True, slots=True, kw_only=True)
class PatchScores(Evidence):
    """What each patch of each query frame contributes to the score of a class."""

    kind: ClassVar[str] = "patches"
    parts: Tensor
    """(B, Q, N, T, h, w)"""
    method: Literal["matched", "gradient"] = "matched"
    """Patches chosen by the matching, or the slope of the score when a patch fades into the mean of its frame."""

    def query_frames(self) -> Tensor:
        """Return (B, Q, N, T), sums over patches."""
        return self.parts.sum((-2, -1))

    def details(self, episode: int, query: int, label: int) -> dict[str, Any]:
        """Return the grid of each frame."""
        own = self.parts[episode, query, label]
        grid = [[[round(x, 6) for x in row] for row in frame] for frame in own.tolist()]
        return {"method": self.method, "grid": grid}


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why a head answered as it did."""

    logits: Tensor
    """(B, Q, N) as the head gives them."""
    evidence: tuple[Evidence, ...]
    """What counts first. Those with a weight sum, term by term, to the logits."""
    exponential: bool = False
    """True where the head gives probabilities, and evidence sums to their logarithms."""
    frames: FrameScores | None = None
    """What points to frames in place of the sum of the evidence, for a head that mixes frames of several videos into
    each other before it matches them."""

    def combined(self) -> Tensor:
        """Return (B, Q, N): the logits, put together from the evidence."""
        total = torch.stack([item.term() for item in self.evidence if item.weight]).sum(0)
        return total.exp() if self.exponential else total

    def query_frames(self) -> Tensor:
        """Return (B, Q, N, T): the parts of the frames in all evidence that counts, weighted as it counts."""
        if self.frames is not None:
            return self.frames.query_frames()
        return torch.stack([item.weight * item.query_frames() for item in self.evidence if item.weight]).sum(0)

    def contrast(self) -> Tensor:
        """Return (B, Q, N, T): what each frame says for a class against the mean of the others."""
        frames = self.query_frames()
        n_way = frames.shape[2]
        return (frames - frames.mean(2, keepdim=True)) * n_way / max(n_way - 1, 1)

    def summary(self, episode: int = 0, query: int = 0, label: int = 0) -> list[dict[str, Any]]:
        """Return the evidence for one query and class as JSON data."""
        shown = (*self.evidence, *([self.frames] if self.frames else []))
        return [item.summary(episode, query, label) for item in shown]


def prototype_labels(like: Tensor, n_way: int) -> Tensor:
    """Return the labels (B, N) of prototypes: 0, 1, ..., one row per class."""
    return torch.arange(n_way, device=like.device).expand(len(like), -1)


def spread_changes(parts: Tensor) -> Tensor:
    """Return (..., T) for parts (..., T-1) of the changes between neighbouring frames: half to each of the two."""
    half = parts / 2
    zero = half.new_zeros(*half.shape[:-1], 1)
    return torch.cat((half, zero), -1) + torch.cat((zero, half), -1)


def frame_tuples(n_frames: int, size: int) -> tuple[tuple[int, ...], ...]:
    """Return the ascending tuples of frames in the order in which heads number them."""
    return tuple(itertools.combinations(range(n_frames), size))


def within_classes(scores: Tensor, labels: Tensor, n_way: int) -> Tensor:
    """Return the softmax of scores (B, ..., S, U) over the U entries of all supports of one class together."""
    other = ~membership(labels, n_way).view(len(labels), *[1] * (scores.dim() - 3), -1, n_way)  # (B, ..., S, N)
    of_video = scores.logsumexp(-1, keepdim=True)  # (B, ..., S, 1)
    of_class = of_video.masked_fill(other, -torch.inf).logsumexp(-2, keepdim=True)  # (B, ..., 1, N)
    of_own_class = of_class.masked_fill(other, 0.0).sum(-1, keepdim=True)  # (B, ..., S, 1)
    return (scores - of_own_class).exp()


def mean_cosine_frames(frames: Tensor, classes: Tensor, *, scale: float | Tensor = 1.0) -> Tensor:
    """Return (B, Q, N, T), the parts of the frames in scale * cosine(mean frame, class).

    For frames (B, Q, T, D) and classes (B, N, D). The mean is a sum over frames, so the cosine is one, too.
    """
    mean = frames.mean(2, keepdim=True)
    units = frames / (frames.shape[2] * mean.norm(dim=-1, keepdim=True).clamp(min=1e-12))
    return scale * torch.einsum("bqtd,bnd->bqnt", units, F.normalize(classes, dim=-1))
