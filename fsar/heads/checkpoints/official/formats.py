"""Published checkpoints and their settings: from the official code's parameter names and options to our heads.

Every official method has one `OfficialFormat`, registered under the name of its code base's method ("otam",
"trx_clipfsar", ...). Parameters correspond one to one, so a table of name rewrites is the whole translation; what an
official checkpoint holds besides (position tables, parameters that are never used) must be listed as a leftover.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fsar.errors import InputError, unknown_name
from fsar.heads.head import Head, create_head

Metadata = Mapping[str, Any]
"""A parsed settings document: the merged config inside a published checkpoint, or the metadata of a parity vector."""
State = Mapping[str, Tensor]


@dataclass(frozen=True, slots=True)
class OfficialFormat:
    """How one official method stores a head."""

    head: str
    """Name of our head."""
    options: Callable[[Metadata, State], dict[str, Any]]
    """Options of our head from the settings and the official state (widths can be read off the tensors)."""
    renames: tuple[tuple[str, str], ...] = ()
    """(pattern, replacement) pairs of `re.sub`, applied in order to each official name."""
    leftovers: tuple[str, ...] = ()
    """Patterns (`re.fullmatch`) of official names that our head has no use for."""
    optional: tuple[str, ...] = ()
    """Patterns (`re.fullmatch`) of OUR names that are passed over where the options build a head without them."""
    encode: str = ""
    """Options of `fsar-prep encode` that prepare frames as its code does; "" where those are the defaults."""
    guessed: tuple[str, ...] = ()
    """Settings that decide options and that the weights do not show: without them the official defaults are assumed."""
    settings_of_name: Callable[[str], Mapping[str, Any]] = lambda name: {}
    """Settings that the name of a published file tells."""
    unsaved: tuple[str, ...] = ()
    """Patterns (`re.fullmatch`) of OUR names that an official checkpoint may lack; they keep their fresh values."""


_FORMATS: dict[str, OfficialFormat] = {}

TRX_FRAMES = "--sampler trx --pixels trx"
"""How TRX, its relatives and CLIP-MEI prepare frames."""
CLIPFSAR_FRAMES = "--sampler clipfsar-segment --pixels clip-fsar"
"""How the CLIP-FSAR code base prepares frames, but for Kinetics ("clipfsar-interval")."""
RESNET_FRAMES = "--sampler clipfsar-segment --pixels hyrsm"
"""How it prepares them for its ResNets."""

BACKBONE = re.compile(r"(backbone|resnet)\.")

TRANSFORMER_RENAMES = (
    (r"\.fn\.to_out\.0\.", ".to_out."),
    (r"\.fn\.", "."),
    (r"\.layers\.(\d+)\.0\.", r".\1.attention."),
    (r"\.layers\.(\d+)\.1\.", r".\1.feed_forward."),
)
"""The official transformer of CLIP-FSAR and its relatives: X.layers.i.0.fn.to_q -> X.i.attention.to_q, and so on."""


def register_official(method: str, official: OfficialFormat) -> None:
    """Make an official method known under `method`."""
    if method in _FORMATS:
        raise ValueError(f"official method {method!r} is already registered")
    _FORMATS[method] = official


def list_official() -> list[str]:
    """Return the names of all official methods that can be imported, sorted."""
    return sorted(_FORMATS)


def official_format(method: str) -> OfficialFormat:
    """Return the format registered as `method`; raises InputError with the nearest names."""
    if method not in _FORMATS:
        raise unknown_name("official method", method, _FORMATS)
    return _FORMATS[method]


def import_official(method: str, state: State, metadata: Metadata, *, compat: str | None = None) -> Head:
    """Return our head with the weights of an official one, in evaluation mode.

    `state` maps official names to tensors; backbone weights are passed over, the prefix "head." and "module." of
    wrapped models are stripped. `metadata` decides the options; missing settings mean the official defaults. `compat`
    replaces the importer's choice ("official" for most) in heads that have that option.

    Raises:
        InputError: a tensor that the head lacks, or that the state lacks, or one of another shape.
    """
    official = official_format(method)
    state = head_state(state)
    options = official.options(metadata, state)
    if compat is not None and "compat" in options:
        options["compat"] = compat
    head = create_head(official.head, **options)
    load_official(official, head, state)
    return head.eval()


def head_state(state: State) -> dict[str, Tensor]:
    """Return the tensors that belong to the head, under their bare official names."""
    bare = {name.replace("module.", "").removeprefix("head."): tensor for name, tensor in state.items()}
    return {name: tensor for name, tensor in bare.items() if not BACKBONE.match(name)}


def our_name(official: OfficialFormat, name: str) -> str | None:
    """Return our name of an official tensor, or None if it is a listed leftover."""
    if matches(name, official.leftovers):
        return None
    for pattern, replacement in official.renames:
        name = re.sub(pattern, replacement, name)
    return name


def load_official(official: OfficialFormat, head: Head, state: State) -> None:
    """Copy the official tensors of `state` into `head`; both sides must be used up."""
    own = head.state_dict()
    renamed = {ours: tensor for name, tensor in state.items() if (ours := our_name(official, name)) is not None}
    for name in [name for name in renamed if name not in own and matches(name, official.optional)]:
        del renamed[name]
    unknown = sorted(set(renamed) - set(own))
    missing = [name for name in sorted(set(own) - set(renamed)) if not matches(name, official.unsaved)]
    if unknown or missing:
        raise InputError(
            f"the weights do not fit head {official.head!r} with options {dict(head.options)}: "
            f"not in the head: {unknown or 'none'}; not in the weights: {missing or 'none'}"
        )
    with torch.no_grad():
        for name, tensor in renamed.items():
            # Convolutions of size 1 are linear layers here: (D, 2D, 1) and (D, 2D) hold the same numbers.
            if squeezed(tensor) != squeezed(own[name]):
                raise InputError(f"{name} must be {tuple(own[name].shape)}, the weights hold {tuple(tensor.shape)}")
            if not tensor.isfinite().all():
                raise InputError(f"{name} holds numbers that are not finite: the training had diverged")
            own[name].copy_(tensor.view_as(own[name]))


def matches(name: str, patterns: Iterable[str]) -> bool:
    """Return whether one of the patterns matches the whole name."""
    return any(re.fullmatch(pattern, name) for pattern in patterns)


def squeezed(tensor: Tensor) -> list[int]:
    """Return the shape without axes of size 1."""
    return [size for size in tensor.shape if size != 1]
