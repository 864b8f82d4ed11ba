"""The state of a tuning run between epochs: weights, optimiser and counter in one atomic file, without pickle."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fsar.pipeline.backbones.weights import METADATA_KEY

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

STATE = "state.safetensors"


@dataclass(frozen=True)
class TuneState:
    """The parts of a run that change."""

    backbone: nn.Module
    classifier: nn.Module
    optimizer: torch.optim.Optimizer

    def tensors(self) -> dict[str, Tensor]:
        """Return everything as named tensors."""
        named = {f"backbone/{name}": value for name, value in self.backbone.state_dict().items()}
        named |= {f"classifier/{name}": value for name, value in self.classifier.state_dict().items()}
        for index, moments in self.optimizer.state_dict()["state"].items():
            named |= {f"optimizer/{index}/{name}": value for name, value in moments.items()}
        return {name: value.detach().cpu().contiguous().clone() for name, value in named.items()}

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Put the tensors of `tensors()` back."""
        self.backbone.load_state_dict(_below("backbone/", tensors))
        self.classifier.load_state_dict(_below("classifier/", tensors))
        moments: dict[int, dict[str, Tensor]] = {}
        for name, value in _below("optimizer/", tensors).items():
            index, moment = name.split("/")
            moments.setdefault(int(index), {})[moment] = value
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": moments})


def _below(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def save_state(folder: Path, state: TuneState, key: dict[str, Any], n_epochs_done: int) -> None:
    """Write the state after `n_epochs_done` epochs; `key` says which run it belongs to."""
    from fsar.files import write_safetensors

    facts = json.dumps({"epochs": n_epochs_done, "key": _digest(key)})  # one entry: several come in random order
    write_safetensors(folder / STATE, state.tensors(), {METADATA_KEY: facts})


def load_state(folder: Path, state: TuneState, key: dict[str, Any]) -> int:
    """Restore the state of the same run if there is one; return the number of epochs that are done."""
    from safetensors import safe_open

    path = folder / STATE
    if not path.exists():
        return 0
    with safe_open(path, "pt") as file:
        facts = json.loads((file.metadata() or {}).get(METADATA_KEY, "{}"))
        if facts.get("key") != _digest(key):
            return 0
        state.load({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118  not a dict
    return int(facts["epochs"])


def remove_state(folder: Path) -> None:
    """Remove the work files of a finished run."""
    shutil.rmtree(folder, ignore_errors=True)


def _digest(key: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(key, sort_keys=True, default=str).encode()).hexdigest()
