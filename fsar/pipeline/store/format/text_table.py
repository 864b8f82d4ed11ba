"""Class-text vectors that live beside the features."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np

from fsar.errors import InputError, unknown_name
from fsar.pipeline.store.format.layout import check_name


@dataclass(frozen=True, eq=False)
class TextTable:
    """Raw, un-normalised text vectors of M templates for K classes."""

    name: str
    vectors: np.ndarray[Any, np.dtype[np.float32]]
    """(M, K, D) float32."""
    class_names: tuple[str, ...]
    templates: tuple[str, ...]
    encoder: Mapping[str, Any] = field(default_factory=dict)
    """What made the vectors: backbone, sha256 of its weights, pooling."""

    def __post_init__(self) -> None:
        check_name("text table", self.name)
        vectors = np.ascontiguousarray(self.vectors, dtype="<f4")
        object.__setattr__(self, "vectors", vectors)
        object.__setattr__(self, "class_names", tuple(self.class_names))
        object.__setattr__(self, "templates", tuple(self.templates))
        expected = (len(self.templates), len(self.class_names))
        if vectors.ndim != 3 or vectors.shape[:2] != expected or not vectors.size:
            raise InputError(
                f"text table {self.name!r} must have vectors (templates, classes, width) = "
                f"({expected[0]}, {expected[1]}, D), got {vectors.shape}"
            )
        if len(set(self.class_names)) < len(self.class_names):
            raise InputError(f"text table {self.name!r} names a class twice")
        if not np.isfinite(vectors).all():
            raise InputError(f"text table {self.name!r} has vectors that are not finite")

    @classmethod
    def from_stored(cls, name: str, vectors: np.ndarray[Any, Any], attributes: Mapping[str, Any]) -> Self:
        """Return the table that a store holds. Raises InputError unless `attributes` are as the method gives them."""
        names, templates, encoder = (attributes[key] for key in ("class_names", "templates", "encoder"))
        texts = [*names, *templates] if isinstance(names, list) and isinstance(templates, list) else [None]
        if not all(isinstance(text, str) for text in texts) or not isinstance(encoder, dict):
            raise InputError(f"text table {name!r} is damaged: its class names, templates or encoder are no such")
        return cls(name, vectors, tuple(names), tuple(templates), encoder)

    def row_of(self, class_name: str) -> int:
        """Return the column k of `vectors[:, k]` that belongs to a class.

        Raises:
            InputError: the table has no such class; the nearest names are given.
        """
        if class_name not in self.class_names:
            raise unknown_name("class in text table", class_name, self.class_names)
        return self.class_names.index(class_name)

    def same_as(self, other: "TextTable") -> bool:
        """Return whether another table holds the same vectors for the same names."""
        return self.attributes() == other.attributes() and np.array_equal(self.vectors, other.vectors)

    def attributes(self) -> dict[str, Any]:
        """Return everything but the vectors, as JSON data."""
        return {
            "class_names": list(self.class_names),
            "templates": list(self.templates),
            "encoder": dict(self.encoder),
        }
