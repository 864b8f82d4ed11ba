"""Which taps of a store feed which inputs of a head."""

import inspect
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fsar.errors import InputError, unknown_name
from fsar.heads.head import Head, Input
from fsar.pipeline.encode.command import encode_command

if TYPE_CHECKING:
    from fsar.pipeline.store import FeatureStore


def choose_taps(
    name: str,
    kind: type[Head],
    store: "FeatureStore",
    chosen: Mapping[str, str] | None = None,
    levels: Sequence[int] | None = None,
) -> dict[str, str]:
    """Return role -> tap for head class `kind`, called `name` in messages.

    Args:
        name: Of the head.
        kind: Its class; says which roles it has and which taps can fill them.
        store: Says which taps there are.
        chosen: Roles that the user filled by name.
        levels: Of tokens, for a head that reads a choice of them; None for all in the store.

    Raises:
        InputError: nothing in the store fills a role (the message holds the command that adds it), or several do.
    """
    chosen = dict(chosen or {})
    inputs = at_levels(kind.inputs, levels or levels_of(chosen) or stored_levels(store.taps))
    roles = [item.role for item in inputs]
    for role, tap in chosen.items():
        if role not in roles:
            raise unknown_name(f"input of head {name!r}", role, roles)
        if tap not in store.taps:
            raise unknown_name(f"tap of {store.path}", tap, store.taps)
    absent = [item for item in inputs if _is_level(item) and item.role not in chosen and item.taps[0] not in store.taps]
    if absent:
        raise InputError(_missing(name, absent, store))
    for group in _families(inputs):
        open_roles = [item for item in group if item.role not in chosen]
        if open_roles:
            chosen |= _fill(name, open_roles, store)
    return {role: chosen[role] for role in roles}


def at_levels(inputs: Sequence[Input], levels: Sequence[int]) -> list[Input]:
    """Return inputs with one in place of a family for each of `levels`; the family itself if there are none."""
    return [one for item in inputs for one in (item.at(levels) if item.per_level and levels else (item,))]


def stored_levels(taps: Iterable[str]) -> tuple[int, ...]:
    """Return the levels that taps hold, ascending, numbered as by `Input.at`."""
    found = [re.fullmatch(r"tokens\.(in|\d+)\.raw", tap) for tap in taps]
    return tuple(sorted(0 if match[1] == "in" else int(match[1]) + 1 for match in found if match))


def levels_of(roles: Iterable[str]) -> tuple[int, ...]:
    """Return the levels among the roles of a head, ascending; none for most heads."""
    found = [re.fullmatch(r"level\.(\d+)", role) for role in roles]
    return tuple(sorted(int(match[1]) for match in found if match))


def _families(inputs: Sequence[Input]) -> list[list[Input]]:
    groups: dict[tuple[str, ...], list[Input]] = {}
    for item in inputs:
        groups.setdefault(item.taps, []).append(item)
    return list(groups.values())


def _fill(name: str, group: list[Input], store: "FeatureStore") -> dict[str, str]:
    """Fill the roles of one family: one role by the first tap that fits, several by depth."""
    fitting = [tap for pattern in group[0].taps for tap in _matching(pattern, store)]
    fitting = [tap for tap in dict.fromkeys(fitting) if group[0].axes(len(store.taps[tap].shape)) is not None]
    if len(group) == 1 and fitting:
        return {group[0].role: fitting[0]}
    if len(group) > 1 and len(fitting) >= len(group):
        by_depth = sorted(fitting, key=_depth)
        places = _evenly_deep([_depth(tap) for tap in by_depth], len(group))
        if places is None and len(by_depth) == len(group):
            places = list(range(len(group)))
        if places is not None:
            return {item.role: by_depth[place] for item, place in zip(group, places, strict=True)}
        roles = ", ".join(f"--tap {item.role}=TAP" for item in group)
        raise InputError(f"head {name!r} can take several of {', '.join(by_depth)} of {store.path}: say which, {roles}")
    raise InputError(_missing(name, group, store))


def _matching(pattern: str, store: "FeatureStore") -> list[str]:
    """Return the taps of a name, or of a family; those of the time steps of clips stand for those of frames.

    Raw tokens are of no family: a head that wants the final norm and projection could not tell.
    """
    names = {tap: tap.removeprefix("steps.") for tap in store.taps}
    if not pattern.endswith("."):
        return [tap for tap, name in names.items() if name == pattern]
    return [tap for tap, name in names.items() if name.startswith(pattern) and not name.endswith(".raw")]


def _depth(tap: str) -> int:
    numbers = re.findall(r"\d+", tap)
    return int(numbers[0]) if numbers else -1


def _evenly_deep(depths: list[int], n_roles: int) -> list[int] | None:
    """Return the places of the layers at 1/n, 2/n, ... n/n of the depth, e.g. 3, 7, 11 of 12 layers."""
    n_layers = max(depths) + 1
    wanted = [n_layers * (i + 1) // n_roles - 1 for i in range(n_roles)]
    return [depths.index(depth) for depth in wanted] if set(wanted) <= set(depths) else None


def _missing(name: str, group: list[Input], store: "FeatureStore") -> str:
    roles = " and ".join(repr(item.role) for item in group)
    named = " and ".join(dict.fromkeys(" or ".join(item.taps) for item in group))
    return (
        f"head {name!r} needs {roles}: a tap named {named} with {group[0].shape} per frame; "
        f"{store.path} has {', '.join(f'{t} {tuple(s.shape)}' for t, s in store.taps.items())}. Add it: "
        f"{encode_command(store.recipe, [*store.taps, *_taps_to_add(group)])}"
    )


def _taps_to_add(group: list[Input]) -> list[str]:
    """Return names of taps that would fill the roles of a group."""
    if group[0].per_level:
        return ["tokens.all.raw"]
    if _is_level(group[0]):
        return [item.taps[0] for item in group]
    tap = group[0].taps[0]
    if len(group) > 1:
        return [tap + depth for depth in _DEPTHS]
    return [tap + "early" if tap.endswith(".") else tap]


def _is_level(item: Input) -> bool:
    return bool(levels_of([item.role]))


_DEPTHS = ("early", "middle", "late")


def feature_width(item: Input, shape: Sequence[int]) -> int:
    """Return the size of the axis that an input calls D or C, e.g. 2048 for "(C, h, w)" and (2048, 7, 7)."""
    axes = item.axes(len(shape)) or []
    place = next((i for i, axis in enumerate(axes) if axis in ("D", "C")), 0)
    return int(shape[place])


def default_options(kind: type[Head], given: Mapping[str, Any], facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return `given` plus those of `facts` (dim, n_classes, ...) that the constructor takes and `given` lacks."""
    taken = inspect.signature(kind).parameters
    return {**{key: value for key, value in facts.items() if key in taken and value is not None}, **given}
