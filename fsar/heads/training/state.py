"""Everything that a training needs to go on, as one safetensors file: whole or absent, no pickles."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from fsar.errors import InputError
from fsar.heads.run_folder import read_tensors, write_tensors

Weights = dict[str, Tensor]


@dataclass(slots=True)
class Progress:
    """How far a training is. All other state follows from the number of steps and the seed."""

    n_steps: int = 0
    """Optimiser steps done."""
    best_step: int = 0
    best_accuracy: float = -1.0
    """On the validation episodes; -1 before the first validation."""
    n_validations_since_best: int = 0
    history: list[dict[str, float]] = field(default_factory=list)
    """One entry per validation."""


def save_state(
    path: Path, module: nn.Module, optimizer: torch.optim.Optimizer, best: Weights, progress: Progress
) -> None:
    """Write weights, optimiser, best weights and progress."""
    tensors = {f"head.{name}": tensor for name, tensor in module.state_dict().items()}
    tensors |= {f"best.{name}": tensor for name, tensor in best.items()}
    plain: dict[str, float] = {}
    for index, entries in optimizer.state_dict()["state"].items():
        for key, value in entries.items():
            if isinstance(value, Tensor):
                tensors[f"optimizer.{index}.{key}"] = value
            elif value is not None:
                plain[f"{index}.{key}"] = value
    write_tensors(path, tensors, {"state": json.dumps({"progress": asdict(progress), "optimizer": plain})})


def load_state(
    path: Path, module: nn.Module, optimizer: torch.optim.Optimizer, device: str
) -> tuple[Weights, Progress]:
    """Put a saved state into `module` and `optimizer`; return the best weights and the progress.

    Raises:
        InputError: a damaged file, or the weights of another head.
    """
    tensors, metadata = read_tensors(path)
    try:
        module.load_state_dict(_within(tensors, "head."))
    except RuntimeError as error:
        raise InputError(f"{path} is the state of a head with other options: {error}") from error
    written = json.loads(metadata["state"])
    state: dict[int, dict[str, object]] = {}
    for name, tensor in _within(tensors, "optimizer.").items():
        index, key = name.split(".", 1)
        state.setdefault(int(index), {})[key] = tensor
    for name, value in written["optimizer"].items():
        index, key = name.split(".", 1)
        state.setdefault(int(index), {})[key] = value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
    _lay_out_like_parameters(optimizer)
    best = {name: tensor.to(device) for name, tensor in _within(tensors, "best.").items()}
    return best, Progress(**written["progress"])


def _lay_out_like_parameters(optimizer: torch.optim.Optimizer) -> None:
    """Give moments the strides of their parameters, as they had before: channels last, for instance.

    A file keeps none, and fused optimisers take two tensors of unlike strides in another order of elements, or slowly.
    """
    for parameter, entries in optimizer.state.items():
        for key, value in entries.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape and value.stride() != parameter.stride():
                entries[key] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def _within(tensors: Weights, prefix: str) -> Weights:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
