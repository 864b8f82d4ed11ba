"""The interface of every head, and the registry that the command line and the conformance suite read."""

import functools
import importlib
import importlib.metadata
import sys
from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar, Literal, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fsar.errors import InputError, unknown_name
from fsar.heads.batch import EpisodeBatch, Features, PairBatch, Targets
from fsar.heads.explain.evidence import Explanation
from fsar.heads.explain.sensitivity import leave_frames_out
from fsar.heads.feature_check import check_features, other_width

Outputs = dict[str, Tensor]
"""What a head computes for a batch: "logits" (B, Q, N), and whatever its loss or a curious user wants besides."""
Losses = dict[str, Tensor]
"""Named scalar loss terms; "total" is the one to differentiate."""


@dataclass(frozen=True, slots=True)
class Input:
    """One feature tensor that a head asks for."""

    role: str
    """The key of the tensor in `EpisodeBatch.support` and `.query`."""
    taps: tuple[str, ...]
    """Names of taps that can fill the role, best first; a trailing '.' matches a family ("tokens.")."""
    shape: str
    """What one frame of it looks like, for error messages, e.g. "(D,)" or "(D, h, w)"."""
    per_level: bool = False
    """True for tokens of several depths of a transformer, each in a role of its own: see `at`."""

    def at(self, levels: Iterable[int]) -> tuple["Input", ...]:
        """Return the inputs of single levels, "ROLE.K": level 0 is what the first block is given, K what block K gives.

        Blocks count from 1 here, and from 0 in the names of taps.
        """
        taps = {level: "tokens.in.raw" if level == 0 else f"tokens.{level - 1}.raw" for level in levels}
        return tuple(Input(f"{self.role}.{level}", (tap,), self.shape) for level, tap in taps.items())

    def axes(self, n_axes: int) -> list[str] | None:
        """Return the names of the axes of a frame with `n_axes` of them; None if the input takes no such frame."""
        for shape in self.shape.split(" or "):  # alternatives
            axes = [axis.strip() for axis in shape.strip("()").split(",") if axis.strip()]
            if len(axes) == n_axes:
                return axes
        return None


class Head(nn.Module):
    """A few-shot head: features of labelled support videos and of queries in, one logit per class out.

    A subclass states what it needs in class attributes, takes its published options as keyword arguments of the
    constructor (with the width of the features, `dim`, first), and implements `outputs`. Everything is vectorised over
    the B episodes of a batch. Heads whose per-video work does not depend on the episode also implement `embed` and
    `match`, so that evaluation embeds each test video once.
    """

    inputs: tuple[Input, ...] = (Input("frames", ("pooled", "avgpool"), "(D,)"),)
    """Of a class whose heads read a choice of levels, the family; of such a head, its own."""
    text: ClassVar[Literal["none", "optional", "required"]] = "none"
    text_space: ClassVar[Literal["any", "image"]] = "any"
    """"image" if the text vectors must come from the text tower of the store's own backbone."""
    reads_text_tokens: ClassVar[bool] = False
    """True for a head that takes the tokens inside a text tower for class text, too."""
    ordered_text: ClassVar[bool] = False
    """True where the templates of a class are one text in parts: in training an episode has them all, not one."""
    inductive: ClassVar[bool] = True
    """False for a head whose answer for one query depends on the other queries."""
    training_unit: ClassVar[Literal["episodes", "pairs"]] = "episodes"
    reads_unlabelled: ClassVar[bool] = False
    """True for a head that learns from the videos without labels of an episode."""
    starts_from_backbone: bool = False
    """True for a head whose training begins at weights that `start_from_backbone` makes."""
    starts_from_text_tower: bool = False
    """True for a head whose training begins at weights that `start_from_text_tower` makes."""
    paper: ClassVar[str] = ""
    """Authors, title, venue, link."""
    old_options: ClassVar[Mapping[str, str | None]] = MappingProxyType({})
    """Former name of an option -> its name today, None where it is gone: run folders and checkpoints still hold it."""
    options: Mapping[str, Any] = MappingProxyType({})
    """The keyword arguments that made this head (set by `create_head`); with the weights, they are the head."""
    trained: Mapping[str, Any] = MappingProxyType({})
    """The config of the run that made the weights (set by `load_head`): recipe, split, classes. Empty without a run."""

    def forward(self, batch: EpisodeBatch) -> Tensor:
        """Return logits (B, Q, N), larger is closer.

        Raises:
            InputError: features of other roles, shapes or dtypes than the head takes, or no text where it needs some.
        """
        check_features(self, batch)
        try:
            return self.outputs(batch)["logits"]
        except RuntimeError as error:
            mistake = other_width(self, batch)
            if mistake is None:
                raise
            raise mistake from error

    @abstractmethod
    def outputs(self, batch: EpisodeBatch) -> Outputs:
        """Return "logits" (B, Q, N) and the intermediate results that `loss` needs."""

    def loss(self, batch: EpisodeBatch, outputs: Outputs, targets: Targets) -> Losses:
        """Return the loss terms of the method, each a mean over the B episodes; "total" is their weighted sum."""
        classification = cross_entropy(outputs["logits"], targets.query_labels)
        return {"classification": classification, "total": classification}

    def start_from_backbone(self, tower: Mapping[str, Tensor]) -> None:
        """Set first weights from the state dict of the image tower whose features the head reads."""
        raise InputError(f"{type(self).__name__} does not start from a backbone")

    def check_tower(self, n_heads: int | None, *, quick_gelu: bool) -> None:
        """Raise InputError if the head computes blocks of its backbone otherwise than the backbone does.

        The weights that `start_from_backbone` is given do not show it. `n_heads` are those of the attentions, None
        where the backbone is no CLIP transformer.
        """

    def start_from_text_tower(self, tower: Mapping[str, Tensor]) -> None:
        """Set first weights from the state dict of the model whose text tower made the class text."""
        raise InputError(f"{type(self).__name__} does not start from a text tower")

    def explain(self, batch: EpisodeBatch) -> Explanation:
        """Return the logits for a batch and the evidence for them; call it in evaluation mode.

        This default leaves out one query frame after the other, which serves any head; a head that matches parts of
        videos returns what it matched instead.
        """
        scores = leave_frames_out(self, batch)
        return Explanation(scores.score, (scores,))

    def pair_loss(self, batch: PairBatch) -> Losses:
        """Return the loss terms of a head with `training_unit = "pairs"`."""
        raise InputError(f"{type(self).__name__} trains on episodes, not on pairs of videos")


class TableHead(Head):
    """A head whose episode falls into per-video work (`embed`) and a comparison of embedded videos (`match`)."""

    embeds_text: ClassVar[bool] = True
    """False for a head that reads text in `match` alone: supports and queries are embedded alike."""
    embeds_in_one_go: ClassVar[bool] = False
    """True for a head with large weights that embeds supports and queries alike, video by video and without text, from
    features that are cheap to put side by side: embedded together, weights get one gradient, not a sum of two.
    """

    @abstractmethod
    def embed(self, features: Features, class_text: Tensor | None = None) -> Features:
        """Return what `match` needs of each video, role -> (..., *), from features role -> (..., T, *).

        Queries are embedded without text. Supports of a head that uses text are embedded with the text vectors of their
        class, (..., M, D).
        """

    @abstractmethod
    def match(self, episodes: EpisodeBatch) -> Outputs:
        """Return outputs for episodes whose supports and queries hold embedded videos, role -> (B, S or Q, ...)."""

    def embeds_alone(self, n_shot: int) -> bool:
        """Tell whether supports can be embedded one by one at this number of shots; if not, `outputs` must be used."""
        return True

    def outputs(self, batch: EpisodeBatch) -> Outputs:
        """Embed, then match."""
        if self.embeds_in_one_go:
            return self.match(self._embedded_in_one_go(batch))
        return self.match(batch.embedded(self.embed(batch.support, batch.support_text), self.embed(batch.query)))

    def _embedded_in_one_go(self, batch: EpisodeBatch) -> EpisodeBatch:
        n_support = batch.support_labels.shape[1]
        joined = {role: torch.cat((x, batch.query[role]), 1) for role, x in batch.support.items()}
        embedded = self.embed(joined).items()
        support, query = (
            {role: x[:, part] for role, x in embedded} for part in (slice(n_support), slice(n_support, None))
        )
        return batch.embedded(support, query)


class TextTableHead(TableHead):
    """A table head that compares queries with text already where each video is embedded, as EMP-Net does."""

    class_roles: ClassVar[tuple[str, ...]] = ()
    """Roles whose last axis runs over all classes of a part in `embed_tables`; `match` gets an episode's N columns."""

    @abstractmethod
    def embed_tables(
        self, features: Features, class_text: Tensor, all_class_text: Tensor, n_shot: int = 1
    ) -> tuple[Features, Features]:
        """Return the videos embedded as supports and as queries, for evaluation that embeds each video once.

        `class_text` (V, M, D) holds the text of each video's class, `all_class_text` (C, M, D) that of all classes that
        an episode may be drawn from. `n_shot` is the most supports of a class: a head that merges several before text
        comes in embeds them up to there.
        """


def cross_entropy(logits: Tensor, labels: Tensor, *, reduction: Literal["mean", "sum"] = "mean") -> Tensor:
    """Return the cross entropy of logits (B, Q, N) and labels (B, Q): mean or sum over queries, mean over episodes."""
    total = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum")
    return total / (labels.numel() if reduction == "mean" else labels.shape[0])


HeadType = TypeVar("HeadType", bound=type[Head])
_REGISTRY: dict[str, type[Head]] = {}


def register_head(name: str) -> Callable[[HeadType], HeadType]:
    """Return a class decorator that makes a head known as `name` to the command line, the tests and `create_head`."""

    def register(head_type: HeadType) -> HeadType:
        if name in _REGISTRY:
            raise ValueError(f"head {name!r} is already registered by {_REGISTRY[name].__qualname__}")
        _REGISTRY[name] = head_type
        return head_type

    return register


@functools.cache
def _load_all() -> None:
    """Import our heads and those of other installed packages: entry points of group "fsar.heads", named at will.

    A package that cannot be imported takes its own heads away and no others: a warning says which and why.
    """
    importlib.import_module("fsar.heads.methods")
    for entry_point in importlib.metadata.entry_points(group="fsar.heads"):
        try:
            entry_point.load()
        except Exception as error:
            package = entry_point.dist.name if entry_point.dist else entry_point.value
            reason = f"{type(error).__name__}: {error}"
            sys.stderr.write(
                f"warning: the heads of package {package} are left out, it cannot be imported ({reason})\n"
            )


def list_heads() -> list[str]:
    """Return the names of all registered heads, those of other installed packages among them, sorted."""
    _load_all()
    return sorted(_REGISTRY)


def head_type(name: str) -> type[Head]:
    """Return the class registered as `name`; raises InputError with the nearest names."""
    if name not in _REGISTRY:
        _load_all()
    if name not in _REGISTRY:
        error = unknown_name("head", name, _REGISTRY)
        raise InputError(f"{error} If it comes with a package of its own: is that package installed?")
    return _REGISTRY[name]


def create_head(name: str, **options: Any) -> Head:
    """Return a new head with its published defaults, overridden by `options`.

    The weights are drawn from torch's current generator: call it inside `seeded(seed)` to fix them.

    Raises:
        InputError: unknown name, an option that the head does not take, or one that it needs and did not get.
    """
    import inspect

    kind = head_type(name)
    options = todays_options(kind, options)
    taken = [p for p in inspect.signature(kind).parameters.values() if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]
    known = [parameter.name for parameter in taken]
    for option in options:
        if option not in known:
            raise unknown_name(f"option of head {name!r}", option, known)
    for parameter in taken:
        if parameter.default is parameter.empty and parameter.name not in options:
            raise InputError(f"head {name!r} needs the option {parameter.name}")
    head = kind(**options)
    head.options = dict(options)  # a plain dict: heads are deep-copied and pickled
    return head


def todays_options(kind: type[Head], options: Mapping[str, Any]) -> dict[str, Any]:
    """Return options under the names that they have today; run folders of older versions hold some under others."""
    renamed = {option: kind.old_options.get(option, option) for option in options}
    return {new: options[old] for old, new in renamed.items() if new is not None}
