"""Adapters in weights files: their tensors stand beside the tower's, and the header says which they are."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from fsar.errors import InputError
from fsar.pipeline.backbones.adapters.tower import ADAPTER_KINDS, Adaptation, AdaptedTower, with_adapters
from fsar.pipeline.backbones.base import Backbone
from fsar.pipeline.backbones.weights import ADAPTERS, load_exactly, read_adapters, state_sha256


def with_saved_adapters(backbone: Backbone, path: Path) -> Backbone:
    """Return a backbone with the adapters that its weights file holds; as it is where the file holds none.

    Raises:
        InputError: adapters of a kind that is not known, or that do not fit.
    """
    found = read_adapters(path)
    if found is None:
        return backbone
    state, facts = found
    adapted = with_adapters(backbone, _adaptation(facts, path))
    assert isinstance(adapted.module, AdaptedTower)
    load_exactly(adapted.module.adapters, state, path=path)
    return replace(adapted, weights_sha256=state_sha256(adapted.module.state_dict()))


def added_state(adapted: AdaptedTower) -> dict[str, Tensor]:
    """Return the tensors that a file holds beside those of the tower, by name."""
    return {ADAPTERS + name: tensor for name, tensor in adapted.adapters.state_dict().items()}


def _adaptation(facts: Mapping[str, str], path: Path) -> Adaptation:
    kinds = [kind for kind in ADAPTER_KINDS if kind == facts["adapters"]]
    frames = facts.get("adapter_frames", "")
    if not kinds or not frames.isdecimal():
        raise InputError(
            f"{path} holds adapters of kind {facts['adapters']!r} for {frames or 'no'} frames; known are "
            f"{', '.join(ADAPTER_KINDS)}: was it written by a newer version?"
        )
    return Adaptation(kinds[0], int(frames), projected=facts.get("adapter_projection") != "false")
