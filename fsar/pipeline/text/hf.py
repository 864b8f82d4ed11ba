"""Text towers of transformers' models: CLIP, SigLIP, SigLIP 2, X-CLIP."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fsar.errors import InputError, one_line
from fsar.pipeline.backbones import Backbone, load_backbone
from fsar.pipeline.backbones.base import quiet_transformers

if TYPE_CHECKING:
    from torch import Tensor

BATCH_SENTENCES = 64
PADDED_TO_THE_END = ("siglip", "siglip2")
"""Kinds of models whose text has always as many tokens as fit, which is how they were trained."""


class HfTextEncoder:
    """Sentences to what `get_text_features` gives for them: projected, not normalised, in float32.

    X-CLIP's prompts are those of the text alone, before it adapts them to a video.
    """

    def __init__(
        self,
        spec: str,
        weights: Path | None = None,
        image_size: int | None = None,
        *,
        backbone: Backbone | None = None,
    ) -> None:
        """Load the model that `spec` names, or take a `backbone` that is loaded already."""
        self._backbone = backbone or load_backbone(spec, weights=weights, size=image_size)
        if self._backbone.text is None:
            raise InputError(f"{spec} has no text tower: CLIP, SigLIP and X-CLIP models have one")
        self._model: Any = self._backbone.text.model.eval()
        self._words: Any = self._tokenizer()

    def describe(self) -> dict[str, Any]:
        """Return model, weights and hashes; `text_sha256` is what a store's recipe records too."""
        return {
            "kind": "hf",
            "backbone": self._backbone.name,
            "pretrained": self._backbone.pretrained,
            "text_sha256": self._backbone.text_sha256,
            "weights_sha256": self._backbone.weights_sha256,
            "pooling": "get_text_features",
        }

    def n_too_long(self, sentences: Sequence[str]) -> int:
        """Return how many of the sentences do not fit."""
        return sum(len(ids) > self._context for ids in self._words(list(sentences))["input_ids"])

    def encode(self, sentences: Sequence[str], *, cut: bool = False) -> npt.NDArray[np.float32]:
        """Return raw vectors (n_sentences, D); with `cut`, of the start of what does not fit."""
        import torch

        parts = []
        with torch.inference_mode():
            for first in range(0, len(sentences), BATCH_SENTENCES):
                tokens = self.tokens(sentences[first : first + BATCH_SENTENCES], cut=cut)
                found = self._model.get_text_features(**tokens)
                parts.append(getattr(found, "pooler_output", found).float())
        return torch.cat(parts).numpy()

    def tokens(self, sentences: Sequence[str], *, cut: bool = False) -> dict[str, Tensor]:
        """Return the model's input for sentences, as its own tokenizer writes it.

        Raises InputError for a sentence that does not fit, or cuts it.
        """
        options: dict[str, Any] = {"truncation": True, "max_length": self._context} if cut else {}
        batch = self._words(list(sentences), **options)
        for sentence, ids in zip(sentences, batch["input_ids"], strict=True):
            if len(ids) > self._context:
                raise InputError(
                    f"prompt is longer than the {self._context} tokens of {self._backbone.name}: {sentence!r}"
                )
        whole = self._model.config.model_type in PADDED_TO_THE_END
        padding: dict[str, Any] = {"padding": "max_length", "max_length": self._context} if whole else {"padding": True}
        return dict(self._words.pad(batch, return_tensors="pt", **padding))

    @property
    def _context(self) -> int:
        return int(self._model.config.text_config.max_position_embeddings)

    def _tokenizer(self) -> Any:
        assert self._backbone.text is not None
        folder = self._backbone.text.tokenizer
        if folder is None:
            if self._backbone.pretrained.startswith("random"):
                return _NumberedWords(self._model.config.text_config)
            raise InputError(f"hf:{self._backbone.name} has no tokenizer in its folder: bring its tokenizer.json too")
        return _read_tokenizer(folder, self._model.config.model_type)


def _read_tokenizer(folder: Path, kind: str) -> Any:
    import transformers

    from fsar.pipeline.backbones.hf.folder import read_json

    if (folder / "tokenizer_config.json").is_file():
        read_json(folder / "tokenizer_config.json")
    try:
        with quiet_transformers():
            found = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # of transformers, tokenizers or sentencepiece, by what is wrong with which file
        raise InputError(f"transformers cannot read the tokenizer in {folder}: {one_line(error)}") from error
    # SigLIP 2 was trained on lower case; its repositories name Gemma's tokenizer, which keeps capitals.
    return _LowerCase(found) if kind in PADDED_TO_THE_END and "Gemma" in type(found).__name__ else found


class _LowerCase:
    """A tokenizer that is given lower case."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer, self.pad = tokenizer, tokenizer.pad

    def __call__(self, sentences: list[str], **options: Any) -> Any:
        return self._tokenizer([sentence.lower() for sentence in sentences], **options)


class _NumberedWords:
    """Stands for a tokenizer where weights are random and no words have a meaning: a checksum numbers each."""

    def __init__(self, config: Any) -> None:
        self._end = int(config.vocab_size) - 1

    def __call__(self, sentences: list[str], *, max_length: int = 0, **_: Any) -> dict[str, list[list[int]]]:
        rows = [[1 + zlib.crc32(word.encode()) % (self._end - 1) for word in text.split()] for text in sentences]
        return {"input_ids": [[*row[: max_length - 1 if max_length else None], self._end] for row in rows]}

    def pad(self, batch: dict[str, list[list[int]]], *, padding: Any, max_length: int = 0, **_: Any) -> dict[str, Any]:
        import torch

        rows = batch["input_ids"]
        longest = max_length or max(map(len, rows))
        return {"input_ids": torch.tensor([[*row, *[0] * (longest - len(row))] for row in rows])}
