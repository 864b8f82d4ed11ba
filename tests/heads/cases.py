"""Tiny settings of every registered head, for the conformance suite. A head without a case fails the suite.

Each room keeps its lines in `cases_NAME.py` (imported at the bottom): `add_case("name", Case(...))`. A head may have
several cases ("hyrsm", "hyrsm:classes"): what follows the colon is only a label.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from fsar.heads import EpisodeBatch, Features, Head, PairBatch, Targets, create_head, seeded

N_CLASSES = 11
"""Training classes of the targets: class ids are below it, `all_class_text` has as many rows."""


@dataclass(frozen=True)
class Case:
    """How to build a small instance of a head and data for it."""

    options: dict[str, Any] = field(default_factory=dict)
    roles: dict[str, tuple[int, ...]] = field(default_factory=lambda: {"frames": (16,)})
    """role -> shape of one frame."""
    frames_option: str | None = None
    """Option that has to be set to the number of frames, if the head fixes it."""
    text_dim: int | None = None
    """Width of class text; None: the batch carries none."""
    n_templates: int = 2
    unused: tuple[str, ...] = ()
    """Patterns (fullmatch) of parameters that no loss reaches, each with a reason in a comment."""
    unlabelled: int = 0
    """Videos without labels in the batch."""
    equal_shots: bool = False
    """True for a head that refuses unequal shots."""
    learned_judge: bool = False
    """True where untrained weights decide what counts as alike, so that evidence need not favour the true class."""
    extra_roles: dict[str, tuple[int, ...]] = field(default_factory=dict)
    """Roles that only training uses (pixels), role -> shape of one frame."""


CASES: dict[str, Case] = {}


def add_case(name: str, case: Case) -> None:
    """Make a case known."""
    if name in CASES:
        raise ValueError(f"case {name!r} exists already")
    CASES[name] = case


def make_head(name: str, n_frames: int = 8) -> Head:
    """Return the head of a case in evaluation mode, the same weights at every call and no parameter at zero."""
    case = CASES[name]
    options = dict(case.options)
    if case.frames_option is not None:
        options[case.frames_option] = n_frames
    with seeded(0):
        head = create_head(name.partition(":")[0], **options)
        for parameter in head.parameters():
            if not bool(parameter.any()):
                torch.nn.init.normal_(parameter, std=0.1)
    return head.eval()


def make_batch(
    name: str,
    *,
    n_episodes: int = 2,
    shots: Sequence[int] = (2, 1, 3),
    n_query: int = 4,
    n_frames: int = 8,
    seed: int = 0,
    scale: float = 1.0,
) -> EpisodeBatch:
    """Return random episodes for a case: supports shuffled, shots per class as given."""
    case = CASES[name]
    generator = torch.Generator().manual_seed(seed)
    if case.equal_shots:
        shots = (2,) * len(shots)
    labels = torch.repeat_interleave(torch.arange(len(shots)), torch.tensor(shots))
    orders = [torch.randperm(len(labels), generator=generator) for _ in range(n_episodes)]
    lead = (n_episodes,)
    text = None
    if case.text_dim is not None:
        text = torch.randn(n_episodes, len(shots), case.n_templates, case.text_dim, generator=generator)
    return EpisodeBatch(
        support=_features(case, (*lead, len(labels), n_frames), generator, scale),
        support_labels=torch.stack([labels[order] for order in orders]),
        query=_features(case, (*lead, n_query, n_frames), generator, scale),
        n_way=len(shots),
        class_text=text,
        unlabelled=_features(case, (*lead, case.unlabelled, n_frames), generator, scale) if case.unlabelled else None,
    )


def make_targets(name: str, batch: EpisodeBatch, seed: int = 0) -> Targets:
    """Return random targets; every episode label occurs among the queries if there are enough of them."""
    case = CASES[name]
    generator = torch.Generator().manual_seed(seed)
    n_query = next(iter(batch.query.values())).shape[1]
    labels = (torch.arange(n_query) % batch.n_way).expand(batch.n_episodes, -1)
    ids = torch.stack([torch.randperm(N_CLASSES, generator=generator)[: batch.n_way] for _ in range(batch.n_episodes)])
    return Targets(
        query_labels=labels,
        support_class_ids=ids.gather(1, batch.support_labels),
        query_class_ids=ids.gather(1, labels),
        all_class_text=None
        if case.text_dim is None
        else torch.randn(N_CLASSES, case.n_templates, case.text_dim, generator=generator),
    )


def make_pairs(name: str, *, n_pairs: int = 4, n_frames: int = 8, seed: int = 0) -> PairBatch:
    """Return pairs of videos of the same class for a head that trains on pairs."""
    case = CASES[name]
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randperm(N_CLASSES, generator=generator)[:n_pairs].repeat_interleave(2)
    text = None
    if case.text_dim is not None:
        text = torch.randn(2 * n_pairs, case.n_templates, case.text_dim, generator=generator)
    return PairBatch(features=_features(case, (2 * n_pairs, n_frames), generator, 1.0), class_ids=ids, video_text=text)


def training_loss(name: str, head: Head, batch: EpisodeBatch) -> Tensor:
    """Return the total training loss of a head on a batch (or on pairs, if that is what it trains on)."""
    if head.training_unit == "pairs":
        return head.pair_loss(make_pairs(name))["total"]
    return head.loss(batch, head.outputs(batch), make_targets(name, batch))["total"]


def _features(case: Case, lead: tuple[int, ...], generator: torch.Generator, scale: float) -> Features:
    shapes = {**case.roles, **case.extra_roles}
    return {role: scale * torch.randn(*lead, *shape, generator=generator) for role, shape in shapes.items()}


from tests.heads import cases_matching, cases_metric, cases_side, cases_spatial, cases_vision_language  # noqa: E402, F401 - register their cases
