"""Training recipes by name: the published ones, as far as frozen features allow them, and one of our own."""

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from fsar.errors import InputError, unknown_name
from fsar.heads.recipes import schedules
from fsar.heads.recipes.schedules import Constant, Cosine, DoubleClock, Schedule


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
    betas: tuple[float, float] = (0.9, 0.999)
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

    def of_pairs(self) -> "Preset":
        """Return the recipe for a head that trains on pairs of videos: as many steps, each on one batch."""
        n_steps = max(self.n_episodes // self.episodes_per_step, 1)
        return replace(self, episodes_per_step=1, n_episodes=n_steps)

    def describe(self) -> dict[str, Any]:
        """Return the recipe for a config file."""
        plain = {f: getattr(self, f) for f in self.__dataclass_fields__ if f not in ("schedule", "options")}
        return {**plain, "schedule": schedules.describe(self.schedule), "options": dict(self.options)}


_PRESETS: dict[str, Preset] = {}


def register_preset(preset: Preset) -> Preset:
    """Make a recipe known by its name and return it; a head's module registers its own."""
    if preset.name in _PRESETS:
        raise ValueError(f"preset {preset.name!r} is already registered")
    _PRESETS[preset.name] = preset
    return preset


def register_released(
    head: str,
    split: str,
    *,
    source: str,
    note: str,
    lr: float,
    clock: tuple[int, tuple[float, ...], tuple[float, ...]],
    first_lr: float,
    n_episodes: int,
    n_query: int = 5,
    options: Mapping[str, Any],
) -> Preset:
    """Register a recipe of the CLIP-FSAR code base, whose heads share optimiser, decay and episodes per step.

    `clock` holds the episodes per pseudo-epoch, the steps and their factors; `first_lr` is the rate of episode 0.
    """
    return register_preset(
        Preset(
            name=f"{head}-{split}",
            heads=(head,),
            split=split,
            source=source,
            note=note,
            optimizer="adam",
            lr=lr,
            weight_decay=1e-3,
            undecayed=("norm", "bn"),
            schedule=DoubleClock(*clock, start=first_lr / lr),
            episodes_per_step=4,
            n_episodes=n_episodes,
            n_query=n_query,
            options=options,
        )
    )


def register_for_five_shots(one_shot: Preset, shots: str, **changes: Any) -> Preset:
    """Register the released 5-shot form of a recipe: with `changes` of its fields, otherwise the same."""
    note = f"{shots}; otherwise as {one_shot.name}, which says more"
    return register_preset(replace(one_shot, name=f"{one_shot.name}-5shot", n_shot=5, note=note, **changes))


def list_presets(head: str | None = None) -> list[str]:
    """Return the names of the recipes, of those for one head if it is given."""
    importlib.import_module("fsar.heads.methods")
    return sorted(name for name, preset in _PRESETS.items() if head is None or preset.fits(head))


def get_preset(name: str, head: str, split: str = "", *, n_shot: int = 1) -> Preset:
    """Return a recipe by name; "published" stands for the one of this head, split and number of shots.

    Raises:
        InputError: no such recipe, or one that is for other heads.
    """
    importlib.import_module("fsar.heads.methods")
    if name == "published":
        return _published(head, split, n_shot)
    if name not in _PRESETS:
        raise unknown_name("preset", name, [*list_presets(head), "published"])
    preset = _PRESETS[name]
    if not preset.fits(head):
        raise InputError(f"preset {name!r} is for {', '.join(preset.heads)}, not for head {head!r}")
    return preset


def _published(head: str, split: str, n_shot: int) -> Preset:
    own = [p for p in _PRESETS.values() if head in p.heads]
    matching = [p for p in own if p.split == split] or [p for p in own if not p.split]
    if not matching:
        names = ", ".join(p.name for p in own) or "none"
        raise InputError(f"no published recipe of head {head!r} for {split or 'this store'}; recipes of it: {names}")
    several = [preset for preset in matching if preset.n_shot > 1] if n_shot > 1 else []
    return (several or [preset for preset in matching if preset.n_shot == 1])[0]


CACHED = register_preset(
    Preset(
        name="cached",
        source="tuned here for frozen features",
        optimizer="adamw",
        lr=1e-3,
        weight_decay=0.05,
        undecayed=("bias", "norm", "scale", "bn"),
        schedule=Cosine(),
        episodes_per_step=4,
        n_episodes=4 * 400,
        clip_norm=1.0,
    )
)
