"""Whether a batch is what a head takes, said in our words: torch's own would name a matrix, not a mistake."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fsar.errors import InputError
from fsar.heads.batch import EpisodeBatch

if TYPE_CHECKING:
    from fsar.heads.head import Head, Input


def check_features(head: "Head", batch: EpisodeBatch) -> None:
    """Raise InputError for features of other roles, shapes or dtypes than a head takes, or for text that it lacks.

    The numbers are not read: this costs nothing beside a forward pass.
    """
    name = type(head).__name__
    for part, features in (("support", batch.support), ("query", batch.query)):
        for item in head.inputs:
            if item.role not in features:
                found = ", ".join(map(repr, features)) or "nothing"
                raise InputError(f"{name} takes {part} features of role {item.role!r}, the batch has {found}")
            what = f"{part} features {item.role!r}"
            _check_axes(what, item, features[item.role])
            _check_dtype(head, what, features[item.role])
    if head.text == "required" and batch.class_text is None:
        raise InputError(
            f"{name} needs class text and got none: the batch has no class_text (B, N, M, D); a store gets it by "
            "`fsar-prep text STORE --encoder ...` (the text tower of the model that encoded the videos)"
        )


def other_width(head: "Head", batch: EpisodeBatch) -> InputError | None:
    """Return what to say where torch refused features because they have another width than the head was made for."""
    item = head.inputs[0]
    dim = head.options.get("dim")
    for part, features in (("support", batch.support), ("query", batch.query)):
        axes = item.axes(features[item.role].dim() - 3) or []
        width = next((features[item.role].shape[3 + i] for i, axis in enumerate(axes) if axis in ("D", "C")), dim)
        if dim is not None and width != dim:
            return InputError(f"{part} features {item.role!r} have width {width}, the head was made with dim={dim}")
    return None


def _check_axes(what: str, item: "Input", tensor: Tensor) -> None:
    if item.axes(tensor.dim() - 3) is None:
        raise InputError(
            f"{what} must be B episodes x V videos x T frames x {item.shape} numbers of a frame; "
            f"got {tuple(tensor.shape)}"
        )


def _check_dtype(head: "Head", what: str, tensor: Tensor) -> None:
    first = next(iter(head.parameters()), None)
    if torch.is_autocast_enabled(tensor.device.type):
        return
    if first is None and tensor.is_floating_point() and (tensor.dtype != torch.float16 or tensor.is_cuda):
        return
    wanted = torch.float32 if first is None else first.dtype
    if tensor.dtype != wanted:
        raise InputError(
            f"{what} are {str(tensor.dtype).removeprefix('torch.')}, the head computes in "
            f"{str(wanted).removeprefix('torch.')}: convert them with batch.to({wanted})"
        )
