"""Descriptions of classes to a text table: several sentences for each class, as many as it has, one vector of them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fsar.documents import read_json
from fsar.errors import InputError, count_of
from fsar.files import sha256_file
from fsar.pipeline.text.tables import TextEncoder
from fsar.splits import class_key

if TYPE_CHECKING:
    from fsar.pipeline.store import TextTable

SHOWN = 3
"""Classes that a message lists before it stops."""
NAME_ALONE = "{}"
"""The one template of such a table: a class that it does not hold is described by its name."""


def read_descriptions(path: Path) -> dict[str, list[str]]:
    """Return class -> its sentences from a JSON file {"class": ["a sentence", ...], ...}.

    Raises:
        InputError: no file of that form (it says where), or two names of one class.
    """
    content = read_json(path)
    if not isinstance(content, dict) or not content:
        raise InputError(f'{path} must be a JSON object {{"class": ["a sentence", ...], ...}}')
    for name, sentences in content.items():
        if not isinstance(sentences, list) or not sentences or not all(map(_is_sentence, sentences)):
            raise InputError(f"{path}: class {name!r} must have a list of sentences, got {json.dumps(sentences)[:80]}")
    names: dict[str, str] = {}
    for name in content:
        if names.setdefault(class_key(name), name) != name:
            raise InputError(f"{path} describes one class twice, as {names[class_key(name)]!r} and as {name!r}")
    return content


def _is_sentence(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def make_description_table(
    name: str, encoder: TextEncoder, class_names: Sequence[str], path: Path, *, cut: bool = False
) -> TextTable:
    """Return the table of one vector for each class, (1, classes, D).

    A vector has the mean direction of the class's sentences, each scaled to unit length first, and their mean length.

    Args:
        name: Of the table.
        encoder: What makes vectors of sentences.
        class_names: Classes of the table; what the file describes besides is left out.
        path: The file of descriptions, see `read_descriptions`.
        cut: Cut sentences that are longer than the encoder reads, as the published tables do; an error without it.

    Raises:
        InputError: a class without descriptions, or a file of another form.
    """
    from fsar.pipeline.store import TextTable

    known = {class_key(own): sentences for own, sentences in read_descriptions(path).items()}
    missing = [own for own in class_names if class_key(own) not in known]
    if missing:
        shown = ", ".join(map(repr, missing[:SHOWN])) + (", ..." if len(missing) > SHOWN else "")
        raise InputError(f"{path} describes {count_of(len(missing), 'class')} of the store or split not: {shown}")
    own = [known[class_key(one)] for one in class_names]
    sentences = [sentence for of_class in own for sentence in of_class]
    n_cut = encoder.n_too_long(sentences)
    ends = np.cumsum([len(of_class) for of_class in own])[:-1]
    vectors = np.stack([mean_direction(part) for part in np.split(encoder.encode(sentences, cut=cut), ends)])
    described: Mapping[str, Any] = {
        **encoder.describe(),
        "template_set": "descriptions",
        "descriptions": path.name,
        "descriptions_sha256": sha256_file(path),
        "n_descriptions": [len(of_class) for of_class in own],
        "n_cut": n_cut,
    }
    return TextTable(name, vectors[None], tuple(class_names), (NAME_ALONE,), described)


def mean_direction(vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return the vector (D,) of the mean direction and the mean length of vectors (n, D)."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    direction = (vectors / np.maximum(lengths, np.finfo(np.float32).tiny)).mean(0)
    unit = direction / max(float(np.linalg.norm(direction)), float(np.finfo(np.float32).tiny))
    return (unit * lengths.mean()).astype(np.float32)
