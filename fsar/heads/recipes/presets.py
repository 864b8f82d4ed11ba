"""Training recipes by name: the published ones, as far as frozen features allow them, and one of our own."""

import functools
import importlib.resources

from fsar.errors import InputError, unknown_name
from fsar.heads.recipes.files import read_recipes
from fsar.heads.recipes.preset import Preset

__all__ = ["CACHED", "Preset", "get_preset", "list_presets", "register_preset"]

_PRESETS: dict[str, Preset] = {}


def register_preset(preset: Preset) -> Preset:
    """Make a recipe known by its name and return it: for heads of other packages, ours are files in this folder."""
    if preset.name in _PRESETS or preset.name in _shipped():
        raise ValueError(f"preset {preset.name!r} is already registered")
    _PRESETS[preset.name] = preset
    return preset


@functools.cache
def _shipped() -> dict[str, Preset]:
    """Return the recipes of this folder."""
    found: dict[str, Preset] = {}
    for file in sorted(importlib.resources.files(__package__).iterdir(), key=lambda file: file.name):
        if file.name.endswith(".toml"):
            found |= read_recipes(file.read_text(encoding="utf-8"), file.name)
    return found


def _known() -> dict[str, Preset]:
    return _shipped() | _PRESETS


def list_presets(head: str | None = None) -> list[str]:
    """Return the names of the recipes, of those for one head if it is given."""
    return sorted(name for name, preset in _known().items() if head is None or preset.fits(head))


def get_preset(name: str, head: str, split: str = "", *, n_shot: int = 1) -> Preset:
    """Return a recipe by name; "published" stands for the one of this head, split and number of shots.

    Raises:
        InputError: no such recipe, or one that is for other heads.
    """
    if name == "published":
        return _published(head, split, n_shot)
    presets = _known()
    if name not in presets:
        raise unknown_name("preset", name, [*list_presets(head), "published"])
    preset = presets[name]
    if not preset.fits(head):
        raise InputError(f"preset {name!r} is for {', '.join(preset.heads)}, not for head {head!r}")
    return preset


def _published(head: str, split: str, n_shot: int) -> Preset:
    own = [p for p in _known().values() if head in p.heads]
    matching = [p for p in own if p.split == split] or [p for p in own if not p.split]
    if not matching:
        names = ", ".join(p.name for p in own) or "none"
        raise InputError(f"no published recipe of head {head!r} for {split or 'this store'}; recipes of it: {names}")
    several = [preset for preset in matching if preset.n_shot > 1] if n_shot > 1 else []
    return (several or [preset for preset in matching if preset.n_shot == 1])[0]


CACHED = _shipped()["cached"]
