"""Heads on disk, and the folder that a training run leaves behind."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from torch import Tensor

from fsar.documents import parse_json
from fsar.errors import InputError
from fsar.files import read_plain, write_atomic, write_safetensors
from fsar.heads.head import _REGISTRY, Head, create_head

WEIGHTS, DESCRIPTION, CONFIG, RESULT, STATE, SPLIT = (
    "head.safetensors",
    "head.json",
    "config.json",
    "result.json",
    "state.safetensors",
    "split.csv",
)


def head_name(head: Head) -> str:
    """Return the name a head is registered by."""
    for name, kind in _REGISTRY.items():
        if type(head) is kind:
            return name
    raise InputError(f"{type(head).__name__} is not registered; decorate it with @register_head(NAME)")


def save_head(folder: Path, head: Head) -> None:
    """Write a head: `head.safetensors` holds its weights, `head.json` its name and options. Each is whole or absent."""
    write_tensors(folder / WEIGHTS, head.state_dict())
    write_json(folder / DESCRIPTION, {"head": head_name(head), "options": dict(head.options)})


def load_head(folder: str | Path, device: str = "cpu") -> Head:
    """Return the head of a run folder, in evaluation mode, with the run's config as `head.trained`.

    Raises:
        InputError: not a folder with a head, or weights that do not fit the options.
    """
    folder = Path(folder)
    description = read_json(folder / DESCRIPTION)
    options = {key: tuple(v) if isinstance(v, list) else v for key, v in description["options"].items()}
    head = create_head(description["head"], **options)
    state, _ = read_tensors(folder / WEIGHTS, device)
    try:
        head.load_state_dict(state)
    except RuntimeError as error:
        raise InputError(f"{folder / WEIGHTS} does not fit head {description['head']!r}: {error}") from error
    head.trained = read_json(folder / CONFIG) if (folder / CONFIG).is_file() else {}
    return head.to(device).eval()


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write named tensors as one safetensors file, whole or not at all. Tensors that share memory are written apart.

    Metadata has one entry at most: the library writes several in an order that changes from run to run, and equal runs
    should leave equal bytes.
    """
    if metadata and len(metadata) > 1:
        raise ValueError(f"write several metadata entries as one of JSON, got {sorted(metadata)}")
    apart = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
    write_safetensors(path, apart, metadata)


def read_tensors(path: Path, device: str = "cpu") -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors and the metadata of a safetensors file; raises InputError if it is none."""
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise InputError(f"no file {path}")
    try:
        with safe_open(path, framework="pt", device=device) as file:
            return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
    except SafetensorError as error:
        raise InputError(f"{path} is damaged or not a safetensors file: {error}") from error


def write_json(path: Path, data: Mapping[str, Any]) -> None:
    """Write `data` as readable JSON, whole or not at all."""
    write_atomic(path, json.dumps(data, indent=2, sort_keys=True, ensure_ascii=False, default=_plain) + "\n")


def _plain(value: Any) -> Any:
    """Return what JSON can hold for paths, mappings and numpy numbers."""
    if isinstance(value, Mapping):
        return dict(value)
    return value.item() if hasattr(value, "item") else str(value)


def read_json(path: Path, required: Sequence[str] = ()) -> dict[str, Any]:
    """Return the object in a JSON file of a run; raises InputError if there is none, or a key of it lacks."""
    if not path.is_file():
        raise InputError(f"{path.parent} is not a run folder: it has no {path.name}")
    data = parse_json(read_plain(path), str(path))
    if not isinstance(data, dict):
        raise InputError(f"{path} must hold an object, it holds {type(data).__name__}")
    lacking = [key for key in required if key not in data]
    if lacking:
        raise InputError(f"{path} has no {lacking[0]!r}: it is damaged, or no run of fsar wrote it")
    return data


@dataclass(frozen=True, slots=True)
class RunFolder:
    """One training run on disk."""

    path: Path

    @property
    def config(self) -> dict[str, Any]:
        """Everything that decided the run."""
        return read_json(self.path / CONFIG)

    @property
    def is_finished(self) -> bool:
        """True once the head and its result are written."""
        return (self.path / RESULT).is_file() and (self.path / DESCRIPTION).is_file()

    @property
    def has_work(self) -> bool:
        """True once anything was trained; a run that failed before that may be begun anew with other settings."""
        return any((self.path / name).is_file() for name in (STATE, DESCRIPTION))

    @property
    def is_started(self) -> bool:
        """True once the config is written."""
        return (self.path / CONFIG).is_file()


def open_run(out: Path | None, name: str, config: Mapping[str, Any], *, root: Path = Path("runs")) -> RunFolder:
    """Return the folder for a run: a new one, or the unfinished one of the same command, which then goes on.

    Args:
        out: The folder that the user named; None for `runs/<time>-<name>` or an unfinished run of equal config.
        name: Last part of a new folder's name.
        config: What decides the run; differences in it are errors for a folder that has begun.
        root: Where folders without a name go.

    Raises:
        InputError: `out` holds a run of another config (the differing fields are named), or other files.
    """
    if out is None:
        found = [run for run in _runs(root) if not run.is_finished and not run_differences(run.config, config)]
        out = found[-1].path if found else _fresh_folder(root, name)
    run = RunFolder(out)
    if run.is_started:
        differing = run_differences(run.config, config)
        if not differing:
            return run
        if run.has_work:
            raise InputError(f"{out} holds another run ({'; '.join(differing[:4])}); choose another --out")
    elif out.exists() and any(out.iterdir()):
        raise InputError(f"{out} exists, is not empty and holds no run; choose another --out")
    write_json(run.path / CONFIG, {**config, "created": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}", **versions()})
    return run


def _fresh_folder(root: Path, name: str) -> Path:
    """Make and return a new folder; runs that start within one second get numbers."""
    stem, number = f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{name}", 1
    while True:
        path = root / (stem if number == 1 else f"{stem}-{number}")
        try:
            path.mkdir(parents=True)
        except FileExistsError:
            number += 1
        else:
            return path


def _runs(root: Path) -> list[RunFolder]:
    return [RunFolder(path.parent) for path in sorted(root.glob(f"*/{CONFIG}"))]


def run_differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Return `differences` of two runs. A store is what its manifest says, wherever it lies, however it is spelled."""
    old, new = dict(old), dict(new)
    manifests = [config.pop("store_manifest", None) for config in (old, new)]
    places = [str(config.get("store", "")) for config in (old, new)]
    if manifests[0] == manifests[1] or (manifests[0] is None and _same_place(*places)):
        new.pop("store", None)
    if not old.get("split_sha256") and not new.get("split_sha256"):
        new.pop("split", None)  # the parts of the store, which go by its path
    return differences(old, new)


def _same_place(first: str, second: str) -> bool:
    return bool(first) and Path(first).resolve() == Path(second).resolve()


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Return "field: old != new" for each field of `new` that a written config has otherwise.

    Inside a field that is a mapping, such as the options of a head, what only one side has differs, too.
    """
    return _differences(old, json.loads(json.dumps(new, default=_plain)), "")


def _differences(old: Mapping[str, Any], new: Mapping[str, Any], above: str) -> list[str]:
    lines = []
    for key in new if not above else {**old, **new}:
        before, value = old.get(key), new.get(key)
        if isinstance(before, Mapping) and isinstance(value, Mapping):
            lines += _differences(before, value, f"{above}{key}.")
        elif before != value:
            lines.append(f"{above}{key}: {_shown(old, key)} != {_shown(new, key)}")
    return lines


def _shown(mapping: Mapping[str, Any], key: str) -> str:
    return repr(mapping[key]) if key in mapping else "(not given)"


def versions() -> dict[str, Any]:
    """Return the versions that a run depends on."""
    return {"versions": {name: version(name) for name in ("fsar", "torch", "numpy")}}


def n_parameters(head: Head) -> int:
    """Return how many numbers training can change."""
    return sum(parameter.numel() for parameter in head.parameters() if parameter.requires_grad)


def is_run(path: Path) -> bool:
    """Tell whether a path is a folder with a saved head."""
    return (path / DESCRIPTION).is_file()
