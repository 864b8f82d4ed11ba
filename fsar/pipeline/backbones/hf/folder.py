"""A model in a folder, as the Hugging Face Hub has them: where it is, and what of it is read.

Nothing in such a folder is run: configurations are JSON, weights are safetensors, and a folder that brings Python code
is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fsar import documents
from fsar.errors import InputError, MissingError, one_line
from fsar.pipeline.backbones.published import published_weights, require_weights, unreachable
from fsar.pipeline.backbones.weights import read_weights

if TYPE_CHECKING:
    from torch import Tensor

    from fsar.pipeline.backbones.spec import BackboneSpec

CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
PICTURES = ("video_preprocessor_config.json", "preprocessor_config.json", "processor_config.json")
"""Files that say how pictures are prepared."""
WORDS = ("tokenizer.json", "vocab.json", "vocab.txt", "tokenizer.model", "spiece.model")
"""Files of which a tokenizer has one at least."""
FETCHED = (CONFIG, *PICTURES, *WORDS, "tokenizer_config.json", "special_tokens_map.json", "merges.txt", "*.safetensors",
           INDEX)  # fmt: skip
CODE = "auto_map"
"""Key of a configuration that names Python code of the repository's own."""
NOT_READ = ("_attn_implementation", "attn_implementation", "_experts_implementation", "experts_implementation")
"""What a configuration could fetch kernels by: which arithmetic is used is not its business."""


def model_folder(spec: BackboneSpec) -> Path:
    """Return the folder of a model, fetched if it is a repository that is not on this machine.

    Raises:
        InputError: no such repository, no connection, or a repository that is refused (before its weights are fetched).
        MissingError: no such folder.
    """
    if spec.file is not None:
        return spec.file
    published = published_weights(spec)
    if published.cached is not None and _is_whole(published.cached.parent):
        return published.cached.parent
    require_weights(spec)
    try:
        return _fetched(spec)
    except (MissingError, InputError):
        raise
    except (OSError, ValueError, RuntimeError) as error:  # what huggingface_hub and its transport raise
        raise unreachable(published.spec, one_line(error)) from error


def _fetched(spec: BackboneSpec) -> Path:
    """Return the folder of a repository in the cache; its configuration is looked at before its weights are fetched."""
    from huggingface_hub import hf_hub_download, snapshot_download

    read_config(Path(hf_hub_download(spec.name, CONFIG, revision=spec.tag)).parent)
    return Path(snapshot_download(spec.name, revision=spec.tag, allow_patterns=list(FETCHED)))


def _is_whole(folder: Path) -> bool:
    """Whether a folder of the cache has all files of the weights that it lists."""
    try:
        return (folder / CONFIG).is_file() and ((folder / WEIGHTS).is_file() or bool(_shards(folder / INDEX)))
    except InputError:
        return False


def read_config(folder: Path) -> dict[str, Any]:
    """Return `config.json` of a folder.

    Raises InputError for one that is missing, broken, names code to run or is of quantised weights.
    """
    config = read_json(folder / CONFIG)
    if "quantization_config" in config:
        raise InputError(f"{folder / CONFIG} is of quantised weights: take the model with weights in float")
    return _without_arithmetic(config)


def read_json(path: Path) -> dict[str, Any]:
    """Return a JSON object of a model's folder; raises InputError for one that names code of the repository."""
    if not path.is_file():
        raise MissingError(f"{path.parent} is no folder of a transformers model: it has no {path.name}")
    data = documents.read_json(path)
    if not isinstance(data, dict):
        raise InputError(f"{path} must hold an object")
    if CODE in data:
        raise InputError(
            f"{path} wants Python code of its repository to be run ({CODE}), which is never done here: take a model "
            "that transformers itself knows"
        )
    return data


def _without_arithmetic(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a configuration, and those in it, without what names kernels."""
    kept = {name: value for name, value in config.items() if name not in NOT_READ}
    return {name: _without_arithmetic(value) if isinstance(value, dict) else value for name, value in kept.items()}


def read_state(folder: Path) -> dict[str, Tensor]:
    """Return the parameters in a folder's safetensors, of one file or of several.

    Raises InputError where there are none, or the index names a file that is not in the folder.
    """
    if (folder / WEIGHTS).is_file():
        return read_weights(folder / WEIGHTS)[0]
    if not (folder / INDEX).is_file():
        others = sorted(path.name for path in folder.glob("*.bin")) or ["no weights"]
        raise InputError(
            f"{folder} has {others[0]} and no {WEIGHTS}: only safetensors are read (a .bin is a pickle, which can run "
            "code); many repositories have both, and `transformers` converts one into the other with save_pretrained"
        )
    state: dict[str, Tensor] = {}
    for name in _shards(folder / INDEX):
        state |= read_weights(folder / name)[0]
    return state


def _shards(index: Path) -> list[str]:
    names = read_json(index).get("weight_map")
    files = sorted(set(names.values())) if isinstance(names, dict) and all(map(_is_plain, names.values())) else []
    if not files:
        raise InputError(f"{index} must map parameters to .safetensors files of its folder")
    missing = [name for name in files if not (index.parent / name).is_file()]
    if missing:
        raise MissingError(f"{index} names {missing[0]}, which is not in {index.parent}")
    return files


def _is_plain(name: object) -> bool:
    return isinstance(name, str) and name == Path(name).name and name.endswith(".safetensors")


def has_tokenizer(folder: Path) -> bool:
    """Whether a folder has the files of a tokenizer."""
    return any((folder / name).is_file() for name in WORDS)


def pictures_file(folder: Path) -> Path | None:
    """Return the file that says how pictures are prepared; None where there is none."""
    return next((folder / name for name in PICTURES if (folder / name).is_file()), None)
