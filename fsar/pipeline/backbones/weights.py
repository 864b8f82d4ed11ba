"""Checkpoint files in and out: read safely, matched name by name, identified by a hash of what was loaded."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fsar.documents import parse_json
from fsar.errors import InputError
from fsar.files import write_safetensors
from fsar.torch_files import read_torch_file

if TYPE_CHECKING:
    from torch import Tensor, nn

STATE_KEYS = ("state_dict", "model_state", "model_state_dict", "model")
"""Where published checkpoints keep their parameters when the file holds more than that."""
NO_PARAMETERS = ("input_resolution", "context_length", "vocab_size", "attn_mask", "position_ids")
"""Last parts of names that archives hold among the parameters of CLIP models, and that their models make themselves."""
METADATA_KEY = "fsar"
"""The entry of a safetensors header that holds our facts as JSON."""
ADAPTERS = "adapters."
"""How the names of adapters' tensors begin, in a file whose fact "adapters" says of which kind they are."""


def save_weights(path: Path, state: Mapping[str, Tensor], *, metadata: Mapping[str, str] | None = None) -> None:
    """Write parameters as safetensors, whole or not at all; equal input gives equal bytes.

    `metadata` holds short facts such as the model's name. They go into one JSON entry of the header: safetensors writes
    several entries in random order.
    """
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in state.items()}
    facts = {METADATA_KEY: json.dumps(dict(metadata), sort_keys=True)} if metadata else None
    write_safetensors(Path(path), tensors, facts)


def read_weights(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the parameters in a checkpoint file and its metadata, without the `module.` of parallel training.

    Reads safetensors, `torch.save` files (tensors only: no code in the file is run) and OpenAI's TorchScript archives.
    Adapters beside the backbone are left to `read_adapters`.
    Raises InputError when the file is none of these or holds no parameters.
    """
    if path.suffix == ".safetensors":
        state, metadata = _read_safetensors(path)
        if "adapters" in metadata:
            state = {name: value for name, value in state.items() if not name.startswith(ADAPTERS)}
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # they are about old formats; what matters is raised
            state, metadata = _read_torch(path)
    tensors = {name.removeprefix("module."): value for name, value in state.items() if hasattr(value, "dtype")}
    if not tensors:
        raise InputError(f"{path} holds no parameters: expected a state dict of the backbone")
    return tensors, metadata


def read_adapters(path: Path) -> tuple[dict[str, Tensor], dict[str, str]] | None:
    """Return the adapters' parameters in a safetensors file and the facts about them; None where there are none."""
    if path.suffix != ".safetensors":
        return None
    state, metadata = _read_safetensors(path, only=ADAPTERS)
    own = {name.removeprefix(ADAPTERS): value for name, value in state.items()}
    return (own, metadata) if "adapters" in metadata else None


def _read_safetensors(path: Path, only: str = "") -> tuple[dict[str, Any], dict[str, str]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            names = [name for name in file.keys() if name.startswith(only)]  # noqa: SIM118
            return {name: file.get_tensor(name) for name in names}, _facts(file.metadata() or {})
    except SafetensorError as error:
        raise InputError(f"{path} is not a whole safetensors file ({error})") from error


def _facts(metadata: Mapping[str, str]) -> dict[str, str]:
    """Return the header's entries and, beside them, those in our JSON entry."""
    plain = {name: value for name, value in metadata.items() if name != METADATA_KEY}
    own = parse_json(metadata.get(METADATA_KEY, "{}"), f"the entry {METADATA_KEY!r} of the weights")
    return {**plain, **(own if isinstance(own, dict) else {})}


def _read_torch(path: Path) -> tuple[dict[str, Any], dict[str, str]]:
    if _is_torchscript(path):
        return _read_torchscript(path)
    if not _may_be_torch(path):
        raise InputError(f"{path} is not a checkpoint of tensors (neither a torch.save file nor .safetensors)")
    content = read_torch_file(path)
    for key in STATE_KEYS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping):
        raise InputError(f"{path} holds a {type(content).__name__}, expected a state dict")
    return dict(content), {}


def _read_torchscript(path: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the parameters of an archive of OpenAI's CLIP release, or of a CLIP model that was traced.

    Beside them stand buffers that a model makes itself, and sizes stored as if they were parameters.
    """
    import torch

    module = torch.jit.load(str(path), map_location="cpu")  # type: ignore[no-untyped-call]
    state = {name: value for name, value in module.state_dict().items() if name.rpartition(".")[2] not in NO_PARAMETERS}
    is_quick = "input_resolution" in module.state_dict() or _multiplies_as_quick_gelu(path)
    return state, {"quick_gelu": str(is_quick).lower()}


def _multiplies_as_quick_gelu(path: Path) -> bool:
    """Whether the code in an archive has QuickGELU's factor: x * sigmoid(1.702 x)."""
    import zipfile

    with zipfile.ZipFile(path) as archive:
        return any(b"1.702" in archive.read(name) for name in archive.namelist() if name.endswith(".py"))


def _may_be_torch(path: Path) -> bool:
    with open(path, "rb") as file:
        return file.read(2).startswith((b"PK", b"\x80"))  # a zip archive, or the pickle that torch < 1.6 wrote


def _is_torchscript(path: Path) -> bool:
    import zipfile

    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") or "/code/" in name for name in archive.namelist())


def load_exactly(module: nn.Module, state: Mapping[str, Tensor], *, path: Path, ignore: Iterable[str] = ()) -> None:
    """Copy `state` into `module`; every name and shape must match but for names that start with one of `ignore`.

    Raises InputError that lists the first missing, unknown and misshapen names.
    """
    wanted = module.state_dict()
    given = {name: value for name, value in state.items() if not name.startswith(tuple(ignore))}
    missing = [name for name in wanted if name not in given and not name.endswith("num_batches_tracked")]
    unknown = [name for name in given if name not in wanted]
    misshapen = [
        f"{name} {tuple(given[name].shape)} instead of {tuple(wanted[name].shape)}"
        for name in wanted
        if name in given and given[name].shape != wanted[name].shape
    ]
    problems = [
        f"{len(names)} {label} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
        for label, names in (("missing", missing), ("unknown", unknown), ("of another shape", misshapen))
        if names
    ]
    if problems:
        raise InputError(f"parameters in {path} do not fit {type(module).__name__}: {'; '.join(problems)}")
    module.load_state_dict(given, strict=False)


def state_sha256(state: Mapping[str, Tensor]) -> str:
    """Return the sha256 over names, dtypes, shapes and bytes of parameters and buffers, in order of name.

    Empty for parameters on the meta device, which have no bytes.
    """
    import torch

    if any(tensor.is_meta for tensor in state.values()):
        return ""

    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
