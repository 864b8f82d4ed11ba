"""What a training recipe holds."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from fsar.heads.recipes import schedules
from fsar.heads.recipes.schedules import Constant, Schedule


@dataclass(frozen=True, slots=True)
class Preset:
    """How to train a head. A published recipe names its source; quirks that it keeps are in `note`."""

    name: str
    heads: tuple[str, ...] = ()
    """Heads it is for; empty for all."""
    split: str = ""
    """The benchmark it was published for; empty for any."""
    n_shot: int = 1
    """1 for few shots of any number, 5 for the form of a recipe that was published for several."""
    source: str = ""
    """Where it comes from."""
    note: str = ""
    """What differs from the source, and which of its quirks are kept."""
    optimizer: Literal["adam", "adamw", "sgd"] = "adamw"
    lr: float = 1e-3
    rates: Mapping[str, float] = field(default_factory=dict)
    """Share of the rate for parameters whose name contains the key; the first key that fits counts."""
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    momentum: float = 0.0
    nesterov: bool = False
    weight_decay: float = 0.0
    undecayed: tuple[str, ...] = ()
    """Parameters whose name contains one of these get no weight decay."""
    schedule: Schedule = field(default_factory=Constant)
    episodes_per_step: int = 1
    """Episodes whose gradients one optimiser step uses; of pairs it is one batch."""
    reduction: Literal["mean", "sum"] = "mean"
    """Over the episodes of a step. The reduction over queries belongs to the head."""
    n_episodes: int = 10_000
    """Length of the training; the published number of tasks."""
    n_query: int = 5
    """Queries per class in training."""
    classes_per_batch: int = 24
    """Classes of a batch of pairs, two videos each."""
    clip_norm: float | None = None
    """Largest norm of the gradient of all parameters together; None for no limit."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Options of the head that belong to the recipe."""

    def fits(self, head: str) -> bool:
        """Tell whether the recipe is for this head."""
        return not self.heads or head in self.heads

    def rate_of(self, parameter: str) -> float:
        """Return the share of the learning rate that a parameter of this name gets."""
        return next((share for fragment, share in self.rates.items() if fragment in parameter), 1.0)

    def decay_of(self, parameter: str) -> float:
        """Return the weight decay of a parameter of this name."""
        return 0.0 if any(fragment in parameter for fragment in self.undecayed) else self.weight_decay

    def of_pairs(self) -> "Preset":
        """Return the recipe for a head that trains on pairs of videos: as many steps, each on one batch."""
        n_steps = max(self.n_episodes // self.episodes_per_step, 1)
        return replace(self, episodes_per_step=1, n_episodes=n_steps)

    def describe(self) -> dict[str, Any]:
        """Return the recipe for a config file; what version 0.2.0 did not have is left out where it has no effect."""
        absent = {
            "schedule",
            "options",
            *(name for name, value in _WITHOUT_EFFECT.items() if getattr(self, name) == value),
        }
        plain = {f: getattr(self, f) for f in self.__dataclass_fields__ if f not in absent}
        return {**plain, "schedule": schedules.describe(self.schedule), "options": dict(self.options)}


_WITHOUT_EFFECT: Mapping[str, Any] = {"rates": {}, "eps": 1e-8}
