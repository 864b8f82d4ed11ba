"""Checks of what the vision-language heads are given: class text that exists and is as wide as the features."""

import torch.nn.functional as F
from torch import Tensor

from fsar.errors import InputError


def mean_text(class_text: Tensor | None, head: str, dim: int) -> Tensor:
    """Return text vectors averaged over their templates: (..., M, D) -> (..., D). They are not normalised.

    Raises:
        InputError: no class text, or text vectors that are not `dim` wide like the features.
    """
    if class_text is None:
        raise InputError(
            f"head {head!r} needs class text and got none: add a text table to the store with "
            "`fsar-prep text STORE --encoder ...` (the text tower of the model that encoded the videos)"
        )
    if class_text.shape[-1] != dim:
        raise InputError(
            f"class text must be as wide as the features of head {head!r} ({dim}), got {class_text.shape[-1]}: "
            "use the text tower of the model that encoded the videos (`fsar-prep text STORE --encoder ...`)"
        )
    return class_text.mean(-2)


def unit_text(class_text: Tensor | None, head: str, dim: int) -> Tensor:
    """Return the mean direction of text vectors over their templates: (..., M, D) -> (..., D) of unit length.

    Every vector is scaled to unit length first. Raises what `mean_text` does.
    """
    unit = None if class_text is None else F.normalize(class_text, dim=-1)
    return F.normalize(mean_text(unit, head, dim), dim=-1)
