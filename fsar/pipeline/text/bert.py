"""BERT-family models of transformers, and sentence-transformers folders."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fsar import documents
from fsar.errors import InputError, one_line
from fsar.pipeline.backbones import state_sha256
from fsar.pipeline.backbones.base import quiet_transformers
from fsar.pipeline.backbones.hf.folder import read_json

BATCH_SENTENCES = 64
DEFAULT_POOLING = "cls"


class BertEncoder:
    """Sentences to one vector each: the first token, the pooler's output, or the mean over tokens. Not normalised."""

    def __init__(self, name: str, pooling: str | None = None) -> None:
        transformers = _transformers()
        self._name = name
        self.pooling = pooling or folder_pooling(Path(name)) or DEFAULT_POOLING
        with quiet_transformers():
            try:
                self._tokenizer: Any = transformers.AutoTokenizer.from_pretrained(name, trust_remote_code=False)
                self._model, loading = transformers.AutoModel.from_pretrained(
                    name, output_loading_info=True, trust_remote_code=False
                )
            except Exception as error:  # of transformers, tokenizers or safetensors, by what is wrong with which file
                raise _unavailable(name, error) from error
        self._model.eval().float()
        self._check_pooler(loading)

    def describe(self) -> dict[str, Any]:
        """Return model, hash of the weights and pooling."""
        name = Path(self._name).name if Path(self._name).is_dir() else self._name
        sha256 = state_sha256(self._model.state_dict())
        return {"kind": "bert", "backbone": name, "text_sha256": sha256, "pooling": self.pooling}

    def n_too_long(self, sentences: Sequence[str]) -> int:
        """Return how many of the sentences do not fit."""
        longest = self._longest()
        return sum(len(ids) > longest for ids in self._tokenizer(list(sentences))["input_ids"])

    def encode(self, sentences: Sequence[str], *, cut: bool = False) -> npt.NDArray[np.float32]:
        """Return raw vectors (n_sentences, D) in float32."""
        import torch

        parts = []
        with torch.inference_mode():
            for first in range(0, len(sentences), BATCH_SENTENCES):
                batch = self._tokens(list(sentences[first : first + BATCH_SENTENCES]), cut=cut)
                parts.append(self._pool(self._model(**batch), batch["attention_mask"]))
        return torch.cat(parts).float().numpy()

    def _longest(self) -> int:
        return int(self._model.config.max_position_embeddings)

    def _tokens(self, sentences: list[str], *, cut: bool) -> Any:
        longest = self._longest()
        options = {"truncation": True, "max_length": longest} if cut else {}
        batch = self._tokenizer(sentences, padding=True, return_tensors="pt", **options)
        if batch["input_ids"].shape[1] > longest:
            raise InputError(
                f"a prompt is longer than the {longest} tokens of {self._name}: {max(sentences, key=len)!r}"
            )
        return batch

    def _pool(self, output: Any, mask: Any) -> Any:
        if self.pooling == "pooler":
            return output.pooler_output
        tokens = output.last_hidden_state  # (B, L, D)
        if self.pooling == "cls":
            return tokens[:, 0]
        weights = mask.unsqueeze(-1).to(tokens.dtype)
        return (tokens * weights).sum(1) / weights.sum(1)

    def _check_pooler(self, loading: Any) -> None:
        if self.pooling != "pooler":
            return
        if getattr(self._model, "pooler", None) is None or any("pooler" in str(key) for key in loading["missing_keys"]):
            # transformers would fill it with random numbers and say so in a log line only.
            raise InputError(f"{self._name} has no trained pooler: use --pooling cls or mean")


def folder_pooling(folder: Path) -> str | None:
    """Return the pooling that a sentence-transformers folder asks for; None for other folders and names.

    Raises InputError for a pooling other than cls and mean.
    """
    modules = folder / "modules.json"
    if not modules.is_file():
        return None
    for module in _modules(modules):
        config = folder / str(module.get("path", "")) / "config.json"
        if str(module.get("type", "")).endswith("Pooling") and config.is_file():
            return _pooling_of(read_json(config), config)
    return None


def _pooling_of(config: dict[str, Any], path: Path) -> str:
    names = {"pooling_mode_cls_token": "cls", "pooling_mode_mean_tokens": "mean"}
    chosen = [key for key, value in config.items() if key.startswith("pooling_mode_") and value is True]
    if "pooling_mode" in config:  # newer folders name it
        chosen = [f"pooling_mode_{config['pooling_mode']}_token"] if config["pooling_mode"] == "cls" else chosen
        chosen = ["pooling_mode_mean_tokens"] if config["pooling_mode"] == "mean" else chosen
    if len(chosen) != 1 or chosen[0] not in names:
        raise InputError(f"{path} asks for a pooling other than cls or mean ({', '.join(chosen)}): pass --pooling")
    return names[chosen[0]]


def _modules(path: Path) -> list[dict[str, Any]]:
    """Return what a sentence-transformers model is made of; raises InputError for a file of another form."""
    found = documents.read_json(path)
    if not isinstance(found, list) or not all(isinstance(module, dict) for module in found):
        raise InputError(f"{path} must hold a list of objects")
    return found


def _transformers() -> Any:
    try:
        import transformers
    except ImportError as error:
        raise InputError('BERT text needs the package transformers: pip install "fsar[bert]"') from error
    return transformers


def _unavailable(name: str, error: Exception) -> InputError:
    reason = one_line(error)
    if "trust_remote_code" in str(error):
        return InputError(f"BERT model {name!r} wants Python code of its own to be run, which is never done here")
    if Path(name).is_dir():
        return InputError(f"the BERT model in {name} cannot be read ({type(error).__name__}: {reason})")
    return InputError(
        f"BERT model {name!r} is neither a model folder nor a name that can be fetched "
        f"({type(error).__name__}: {reason}); download it on a connected machine and give its folder: bert:FOLDER"
    )
