"""Reading published checkpoint files without running anything that is in them."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from fsar.documents import read_text
from fsar.errors import InputError, one_line
from fsar.torch_files import read_torch_file

STATE_KEYS = ("model_state", "model_state_dict", "state_dict", "state")
"""Where the code bases keep the weights: CLIP-FSAR, MoLo, HyRSM and EMP-Net; TRX, STRM, CLIP-MEI; others; Task-Adapter.
"""
NETWORKS = ("feature_encoder", "relation_network", "spatial_detector", "jigsaw_discriminator")
"""ARN keeps a state dict for each network."""
OTHER_KEYS = ("epoch", "iteration", "optimizer_state", "optimizer_state_dict", "scheduler", "acc", "model_ema_state")
FORMS = (
    "a dict with 'model_state' and 'cfg' (CLIP-FSAR, MoLo, HyRSM, EMP-Net), a dict with 'model_state_dict' (TRX, STRM, "
    "CLIP-MEI), a state dict for each network (ARN), or a bare state dict (TRX, STRM, HCL)"
)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a published checkpoint file holds."""

    state: dict[str, Tensor]
    """Official name -> tensor, with the prefixes of wrappers ("module.") removed, nothing else changed."""
    settings: dict[str, Any] | None
    """The config inside the file; None if it holds none."""
    container: str
    """The key that held the weights, "" for a bare state dict."""
    unused: tuple[str, ...]
    """Entries of the file beside weights and config: optimiser, counters."""


def read_checkpoint(path: Path) -> Checkpoint:
    """Return the weights and settings in a checkpoint file.

    Raises:
        InputError: not a checkpoint, one that would have to run code to be read, or one of unknown form.
    """
    content = _load(path)
    if not isinstance(content, Mapping):
        raise InputError(f"{path} holds a {type(content).__name__}; a checkpoint is {FORMS}")
    content = _joined(content)
    container = next((key for key in STATE_KEYS if isinstance(content.get(key), Mapping)), "")
    state = content[container] if container else content
    if not state or not all(isinstance(name, str) and isinstance(value, Tensor) for name, value in state.items()):
        keys = ", ".join(sorted(map(str, content))[:8])
        raise InputError(f"{path} is of unknown form (top-level keys: {keys or 'none'}); a checkpoint is {FORMS}")
    unused = tuple(sorted(set(content) - {container, "cfg"})) if container else ()
    settings = _parse(content["cfg"], f"the cfg in {path}") if container and "cfg" in content else None
    return Checkpoint(_unwrapped_state(path, state), settings, container, unused)


def read_settings(path: Path) -> dict[str, Any]:
    """Return the settings in a config file: JSON, YAML, or lines of `key: value` (HCL's configs.txt)."""
    if not path.is_file():
        raise FileNotFoundError(f"no config file {path}")
    return _parse(read_text(path), str(path))


def _load(path: Path) -> Any:
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint file {path}")
    if path.suffix == ".safetensors":
        from fsar.heads.run_folder import read_tensors

        return read_tensors(path)[0]
    with open(path, "rb") as file:
        if file.read(4)[:2] not in (
            b"PK",
            b"\x80\x02",
            b"\x80\x03",
            b"\x80\x04",
        ):  # a zip archive, or the pickle that torch < 1.6 wrote
            raise InputError(f"{path} is not a PyTorch checkpoint")
    return read_torch_file(path)


def _joined(content: Mapping[Any, Any]) -> Mapping[Any, Any]:
    """Return a file that holds networks one by one as one that holds them together, each behind its name."""
    networks = {name: content[name] for name in NETWORKS if isinstance(content.get(name), Mapping)}
    if not networks:
        return content
    state = {f"{network}.{name}": tensor for network, own in networks.items() for name, tensor in own.items()}
    rest = {name: value for name, value in content.items() if name not in networks}
    return {**rest, "state_dict": state}


def _parse(text: Any, where: str) -> dict[str, Any]:
    """Return the mapping in a JSON or YAML text."""
    import yaml

    wrong = f"{where} is neither JSON nor YAML"
    try:
        settings = json.loads(text)
    except (ValueError, RecursionError):
        try:
            settings = yaml.safe_load(text)
        except RecursionError:
            raise InputError(f"{wrong}: it is nested too deeply") from None
        except (yaml.YAMLError, ValueError) as error:  # the latter for dates that do not exist, and endless numbers
            raise InputError(f"{wrong}: {_first_line(error)}") from error
    if not isinstance(settings, dict):
        raise InputError(f"{where} must hold named settings, got {type(settings).__name__}")
    return settings


def _unwrapped_state(path: Path, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights under names without wrappers; raises InputError where that makes two names one."""
    bare: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if _unwrapped(name) in bare:
            raise InputError(f"{path} holds {_unwrapped(name)} twice, with and without the prefix of a wrapper")
        bare[_unwrapped(name)] = tensor
    return bare


def _unwrapped(name: str) -> str:
    """Return a name without the "module." that data-parallel wrappers insert at any place."""
    return ".".join(part for part in name.split(".") if part != "module")


def _first_line(error: BaseException) -> str:
    return one_line((str(error).strip().splitlines() or [type(error).__name__])[0])
