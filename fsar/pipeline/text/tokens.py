"""Class text as the tokens between two blocks of a text tower, for heads that adapt the blocks above."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fsar.errors import InputError
from fsar.pipeline.text.clip import ClipTextEncoder
from fsar.pipeline.text.tables import ClassText, TextEncoder, make_table
from fsar.pipeline.text.templates import TemplateSet

if TYPE_CHECKING:
    from fsar.pipeline.store import TextTable

TOKENS = "tokens"
"""What the encoder of such a table records besides: level, blocks, heads and width of the tower, and of its answer."""


class TokenEncoder:
    """Sentences to what a block of a CLIP text tower gives, one flat row for each.

    A row is the position of the end token and then the first L tokens, 1 + L * W numbers: up to the end of the longest
    sentence, for none sees a token behind it. Level K is what block K gives, from 1, and 0 what the first is given.
    """

    def __init__(self, encoder: TextEncoder, level: int) -> None:
        """Take a text encoder that is loaded; raises InputError unless it is CLIP's own and has the level."""
        import open_clip

        if not isinstance(encoder, ClipTextEncoder) or not isinstance(encoder.model, open_clip.CLIP):
            raise InputError("tokens are to be had of open_clip models whose text tower is CLIP's own transformer")
        if encoder.model.text_pool_type != "argmax":
            raise InputError(f"{encoder.describe()['backbone']} does not answer at its end token: no head adapts it")
        self._encoder, self._level = encoder, level
        self._blocks: Any = encoder.model.transformer.resblocks
        if not 0 <= level < len(self._blocks):
            raise InputError(f"the text tower has {len(self._blocks)} blocks: level must be below that, got {level}")

    def describe(self) -> dict[str, Any]:
        """Return what the encoder records, and the shape of the tower."""
        width, dim = self._encoder.model.text_projection.shape
        facts = {"level": self._level, "n_blocks": len(self._blocks), "n_heads": self._blocks[0].attn.num_heads}
        return {**self._encoder.describe(), "pooling": "none", TOKENS: {**facts, "width": width, "dim": dim}}

    def n_too_long(self, sentences: Sequence[str]) -> int:
        """Return how many of the sentences do not fit."""
        return self._encoder.n_too_long(sentences)

    def encode(self, sentences: Sequence[str], *, cut: bool = False) -> npt.NDArray[np.float32]:
        """Return rows (n_sentences, 1 + L * W), L the most tokens of any of these sentences."""
        ends = self._encoder.tokens(sentences, cut=cut).argmax(1)  # the end token has the largest number
        given: list[npt.NDArray[np.float32]] = []

        def keep(_: Any, arguments: tuple[Any, ...]) -> None:
            tokens = arguments[0] if self._encoder.model.transformer.batch_first else arguments[0].transpose(0, 1)
            given.append(tokens[:, : ends.max() + 1].float().flatten(1).numpy())

        hook = self._blocks[self._level].register_forward_pre_hook(keep)
        try:
            self._encoder.encode(sentences, cut=cut)
        finally:
            hook.remove()
        return np.concatenate((ends[:, None].astype(np.float32), np.concatenate(given)), 1)


def make_text_table(
    name: str, encoder: TextEncoder, classes: Sequence[ClassText], templates: TemplateSet, level: int | None = None
) -> TextTable:
    """Return the table of vectors of every prompt, or with a `level` of its tokens there."""
    return make_table(name, encoder if level is None else TokenEncoder(encoder, level), classes, templates)


def level_of(encoder: Mapping[str, Any]) -> int | None:
    """Return the level of the tokens that a table holds, by what it records of its encoder; None for vectors."""
    facts = encoder.get(TOKENS)
    return int(facts["level"]) if isinstance(facts, Mapping) and "level" in facts else None
