"""Class names to text vectors, by the text tower and the prompts that the head was trained with."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fsar.errors import InputError
from fsar.files import write_safetensors
from fsar.pipeline.encode.command import backbone_spec, has_text_tower
from fsar.pipeline.text.tables import NAME_FORMS, TWO_TOWERS, default_names, load_text_encoder
from fsar.pipeline.text.templates import TemplateSet, load_templates
from fsar.pipeline.text.tokens import TokenEncoder, level_of
from fsar.splits import class_key

if TYPE_CHECKING:
    from fsar.pipeline.store import TextTable


class ClassWords:
    """Text vectors for any class names."""

    def __init__(
        self,
        recipe: Mapping[str, Any],
        *,
        table: "TextTable | None" = None,
        templates: str = "clip-fsar",
        encoder: str | None = None,
        weights: Path | None = None,
        cache: Path | None = None,
    ) -> None:
        """Settle where vectors come from.

        Args:
            recipe: Of the features; its CLIP model's own text tower is the default encoder.
            table: The text table that the head was trained with: its prompts, and its vectors for classes it knows.
            templates: Prompts where there is no table.
            encoder: As `fsar-prep text --encoder`; None for that of the table or of the recipe.
            weights: Checkpoint of the CLIP model.
            cache: Folder for vectors.
        """
        self._recipe, self._table, self._weights, self._cache = recipe, table, weights, cache
        self._encoder = encoder or self._default_encoder()
        self._templates = load_templates(templates)
        if table is not None:
            self._templates = TemplateSet(str(table.encoder.get("template_set", table.name)), table.templates)

    def vectors(self, names: Sequence[str]) -> Tensor:
        """Return (N, M, D) float32 vectors of class names under M prompts.

        Raises:
            InputError: a class that the table lacks, and no text tower that could write it (with what to give).
        """
        found = self._of_table(names)
        missing = [name for name in names if name not in found]
        if missing:
            found |= dict(zip(missing, self._written(missing), strict=True))
        return torch.stack([found[name] for name in names])

    def _of_table(self, names: Sequence[str]) -> dict[str, Tensor]:
        """Return name -> (M, D) of the classes that the table has; of tokens none, which are as long as the longest."""
        if self._table is None or self._level() is not None:
            return {}
        place = {class_key(name): row for row, name in enumerate(self._table.class_names)}
        rows = {name: place[class_key(name)] for name in names if class_key(name) in place}
        return {name: torch.tensor(self._table.vectors[:, row]) for name, row in rows.items()}

    def _written(self, names: Sequence[str]) -> Tensor:
        """Return (N, M, D), from the cache or from the text tower."""
        words = NAME_FORMS[default_names(self._templates)]
        sentences = [template.replace("{}", words(name)) for name in names for template in self._templates.templates]
        cached = self._cached_file(sentences)
        if cached is not None and cached.is_file():
            from safetensors.torch import load_file

            return load_file(cached)["vectors"]
        encoder = load_text_encoder(
            self._encoder, weights=self._weights, pooling=self._pooling(), image_size=self._image_size()
        )
        self._check(encoder.describe())
        level = self._level()
        if level is not None:
            encoder = TokenEncoder(encoder, level)
        vectors = torch.from_numpy(encoder.encode(sentences)).view(len(names), len(self._templates.templates), -1)
        if cached is not None:
            write_safetensors(cached, {"vectors": vectors.contiguous()})
        return vectors

    def _default_encoder(self) -> str:
        made_by = {} if self._table is None else self._table.encoder
        if made_by.get("kind") == "bert":
            return f"bert:{made_by['backbone']}"
        if not has_text_tower(self._recipe):
            raise InputError(
                f"this head needs class text and {backbone_spec(self._recipe)} has no text tower: name --text-encoder"
            )
        if self._recipe.get("pretrained") == "file":
            return f"{self._recipe['library']}:{self._recipe['backbone']}"
        return backbone_spec(self._recipe)

    def _image_size(self) -> int | None:
        return int(self._recipe["size"]) if self._recipe.get("library") in TWO_TOWERS else None

    def _pooling(self) -> str | None:
        is_bert = self._encoder.partition(":")[0] == "bert"
        return str(self._table.encoder["pooling"]) if is_bert and self._table is not None else None

    def _level(self) -> int | None:
        """Return the level of the table's tokens; None for vectors."""
        return None if self._table is None else level_of(self._table.encoder)

    def _check(self, described: Mapping[str, Any]) -> None:
        """Raise InputError unless the text tower is the one of the table, or of the recipe."""
        wanted = (self._table.encoder if self._table is not None else self._recipe).get("text_sha256")
        if wanted and described.get("kind") != "bert" and described.get("text_sha256") != wanted:
            raise InputError(
                f"the text tower of {self._encoder} is not the one that the head was trained with "
                f"(sha256 {str(described.get('text_sha256'))[:12]} != {str(wanted)[:12]})"
            )

    def _cached_file(self, sentences: Sequence[str]) -> Path | None:
        if self._cache is None:
            return None
        facts = [
            self._encoder,
            self._recipe.get("text_sha256", ""),
            self._recipe.get("size"),
            self._pooling(),
            self._level(),
            *sentences,
        ]
        if self._table is not None:
            facts.append(self._table.encoder.get("text_sha256", ""))
        key = hashlib.sha256(json.dumps(facts, ensure_ascii=False).encode()).hexdigest()
        return self._cache / "text" / f"{key}.safetensors"
