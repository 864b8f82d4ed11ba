"""What a head sees: batches of episodes as tensors. The true labels of the queries live apart, in `Targets`.

Letters of shapes, in all docstrings of heads:

    B  episodes of a batch              T, U  frames of one video, and of another
    S  supports of an episode           P     patches of a frame, h x w of them in a map
    Q  queries of an episode            G     tuples of frames ("groups")
    X  unlabelled videos of an episode  L     tokens, or slot vectors, of a video
    V  videos of whatever kind          M     templates of a class text
    N  classes of an episode (ways)     D     width of features; d, E narrower widths
    K  most supports of a class (shots) C     classes of a whole part
"""

import copy
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from fsar.errors import InputError

Features = dict[str, Tensor]
"""One tensor per input role that a head declares, e.g. {"frames": (B, V, T, D)} or {"map": (B, V, T, D, h, w)}."""


@dataclass(frozen=True, slots=True)
class EpisodeBatch:
    """B episodes of the same way, support and query counts. Query labels are not in here, so no head can see them.

    Labels are checked where the batch is made. On a GPU that waits for the device: make batches on the CPU and move
    them with `to`, which checks nothing anew.
    """

    support: Features
    """role -> (B, S, T, ...) features."""
    support_labels: Tensor
    """(B, S) int64 episode labels; every value of 0..n_way-1 is present, in any order, shots may be unequal."""
    query: Features
    """role -> (B, Q, T, ...) features."""
    n_way: int
    class_text: Tensor | None = None
    """(B, N, M, D) text vectors of the classes, M templates, row c = label c; None if the head asks for no text."""
    unlabelled: Features | None = None
    """role -> (B, X, T, ...) features of videos without labels, for semi-supervised heads."""
    n_shot: int = field(init=False)
    """The most supports that a class has in any episode."""
    shots: list[list[int]] = field(init=False, repr=False, compare=False)
    """(B, N) how many supports each class has; on the CPU, whatever device the labels are on."""

    def __post_init__(self) -> None:
        self._check_shapes()
        shows = self.support_labels.unsqueeze(-1) == torch.arange(self.n_way, device=self.support_labels.device)
        counts, known = shows.sum(1).tolist(), shows.any(2)  # (B, N), (B, S)
        object.__setattr__(self, "n_shot", max(map(max, counts), default=0))
        object.__setattr__(self, "shots", counts)
        all_labels = f"support labels must use every value in 0..{self.n_way - 1} and no other"
        if not bool(known.all()):
            episode, video = (int(i) for i in (~known).nonzero()[0])
            raise InputError(f"{all_labels}: episode {episode} has {int(self.support_labels[episode, video])}")
        for episode, of_classes in enumerate(counts):
            if 0 in of_classes:
                raise InputError(f"{all_labels}: episode {episode} misses {of_classes.index(0)}")

    def _check_shapes(self) -> None:
        """Raise InputError unless all tensors agree on B, and the supports on S."""
        labels = self.support_labels
        if labels.dim() != 2 or labels.dtype != torch.int64:
            raise InputError(f"support_labels must be int64 (B, S), got {labels.dtype} {tuple(labels.shape)}")
        parts = (("support", self.support, 2), ("query", self.query, 1), ("unlabelled", self.unlabelled or {}, 1))
        for name, features, n_shared in parts:
            leading = sorted({tuple(tensor.shape[:2]) for tensor in features.values()})
            if len(leading) > 1 or any(shape[:n_shared] != labels.shape[:n_shared] for shape in leading):
                begin = " and ".join(map(str, leading))
                raise InputError(f"{name} features begin with {begin}, support_labels are {tuple(labels.shape)}")

    @property
    def n_episodes(self) -> int:
        """Number of episodes B."""
        return self.support_labels.shape[0]

    @property
    def support_text(self) -> Tensor | None:
        """(B, S, M, D) text vectors of each support's class."""
        if self.class_text is None:
            return None
        index = self.support_labels[..., None, None].expand(-1, -1, *self.class_text.shape[2:])
        return self.class_text.gather(1, index)

    def to(self, *args: Any, **kwargs: Any) -> "EpisodeBatch":
        """Return the batch on another device, or with floating-point features of another dtype (as `Tensor.to`)."""
        return self._with(
            support=move(self.support, *args, **kwargs),
            query=move(self.query, *args, **kwargs),
            unlabelled=None if self.unlabelled is None else move(self.unlabelled, *args, **kwargs),
            class_text=None if self.class_text is None else self.class_text.to(*args, **kwargs),
            support_labels=self.support_labels.to(
                *(a for a in args if not isinstance(a, torch.dtype)),
                **{key: value for key, value in kwargs.items() if key != "dtype"},
            ),
        )

    def embedded(self, support: Features, query: Features) -> "EpisodeBatch":
        """Return the same episodes with what a head's `embed` made of their videos, role -> (B, S or Q, ...)."""
        return self._with(support=support, query=query)

    def with_prototypes(self, support: Features) -> "EpisodeBatch":
        """Return the same episodes with one support for each class, in the order of the labels: role -> (B, N, ...)."""
        labels = torch.arange(self.n_way, device=self.support_labels.device).expand(self.n_episodes, -1)
        shots = [[1] * self.n_way for _ in range(self.n_episodes)]
        return self._with(support=support, support_labels=labels, n_shot=1, shots=shots)

    def _with(self, **changes: Any) -> "EpisodeBatch":
        """Return a copy with other tensors; labels are not checked again."""
        changed = copy.copy(self)
        for name, value in changes.items():
            object.__setattr__(changed, name, value)
        return changed


@dataclass(frozen=True, slots=True)
class Targets:
    """What the loss may know beyond the batch. Class ids are positions in the list of training classes."""

    query_labels: Tensor
    """(B, Q) int64 episode labels."""
    support_class_ids: Tensor | None = None
    """(B, S) int64; None where the loss of the head needs no class ids."""
    query_class_ids: Tensor | None = None
    """(B, Q) int64."""
    all_class_text: Tensor | None = None
    """(C, M, D) text vectors of all C training classes; None if the head asks for no text."""


@dataclass(frozen=True, slots=True)
class PairBatch:
    """Training data of a head that does not train on episodes: two videos of each of B classes, adjacent."""

    features: Features
    """role -> (2B, T, ...); rows 2i and 2i+1 show the same class."""
    class_ids: Tensor
    """(2B,) int64 positions in the list of training classes."""
    video_text: Tensor | None = None
    """(2B, M, D) text vectors of the videos' classes."""


def move(features: Features, *args: Any, **kwargs: Any) -> Features:
    """Return the features after `Tensor.to(*args, **kwargs)`."""
    return {role: tensor.to(*args, **kwargs) for role, tensor in features.items()}
