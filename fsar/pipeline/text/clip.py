"""Text towers of CLIP models."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fsar.errors import InputError
from fsar.pipeline.backbones import Backbone, load_backbone

BATCH_SENTENCES = 64


class ClipTextEncoder:
    """Sentences to the projected, un-normalised text embeddings of a CLIP model in float32."""

    def __init__(
        self,
        spec: str,
        weights: Path | None = None,
        image_size: int | None = None,
        *,
        backbone: Backbone | None = None,
    ) -> None:
        """Load the model that `spec` names, or take a `backbone` that is loaded already."""
        import open_clip

        self._backbone = backbone or load_backbone(spec, weights=weights, size=image_size)
        if self._backbone.clip is None:
            raise InputError(f"{spec}: the checkpoint holds the image tower alone; name one with the text tower too")
        self._model: Any = self._backbone.clip.eval()
        self._tokenizer: Any = open_clip.get_tokenizer(self._backbone.name)

    @property
    def model(self) -> Any:
        """The whole CLIP model."""
        return self._model

    def describe(self) -> dict[str, Any]:
        """Return model, weights and hashes; `text_sha256` is what a store's recipe records too."""
        backbone = self._backbone
        return {
            "kind": "open_clip",
            "backbone": backbone.name,
            "pretrained": backbone.pretrained,
            "text_sha256": backbone.text_sha256,
            "weights_sha256": backbone.weights_sha256,
            "quick_gelu": backbone.quick_gelu,
            "pooling": "end-of-text",
        }

    def n_too_long(self, sentences: Sequence[str]) -> int:
        """Return how many of the sentences do not fit."""
        return len(self._too_long(sentences))

    def _too_long(self, sentences: Sequence[str]) -> list[str]:
        encode = getattr(self._tokenizer, "encode", None)
        context = int(self._tokenizer.context_length)
        return [text for text in sentences if encode is not None and len(encode(text)) + 2 > context]

    def tokens(self, sentences: Sequence[str], *, cut: bool = False) -> npt.NDArray[np.int64]:
        """Return token ids (n_sentences, context); raises InputError for a sentence that does not fit, or cuts it."""
        if not cut and (long := self._too_long(sentences)):
            context = int(self._tokenizer.context_length)
            raise InputError(f"prompt is longer than the {context} tokens of {self._backbone.name}: {long[0]!r}")
        return self._tokenizer(list(sentences)).numpy()

    def encode(self, sentences: Sequence[str], *, cut: bool = False) -> npt.NDArray[np.float32]:
        """Return raw vectors (n_sentences, D); with `cut`, of the start of what does not fit."""
        import torch

        batches = torch.split(torch.from_numpy(self.tokens(sentences, cut=cut)), BATCH_SENTENCES)
        with torch.inference_mode():
            parts = [self._model.encode_text(batch, normalize=False).float() for batch in batches]
        return torch.cat(parts).numpy()
