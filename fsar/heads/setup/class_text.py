"""The text vectors of classes: which table of a store a head gets, and whether it may have it."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from fsar.errors import InputError, unknown_name
from fsar.heads.head import Head
from fsar.pipeline.encode.command import backbone_spec, has_text_tower
from fsar.splits import class_key

if TYPE_CHECKING:
    from fsar.pipeline.store import FeatureStore, TextTable

TOKEN_FACTS = {
    "level": "text_level",
    "n_blocks": "n_text_blocks",
    "n_heads": "n_text_heads",
    "width": "text_width",
    "dim": "text_dim",
}
"""What a table of tokens records of its text tower -> the option of a head that adapts it."""
MAX_TEXT_BLOCKS, MAX_TEXT_DIM = 128, 1 << 14
"""More than any text tower has: stores come from anywhere, and a head is built by what they say."""


def choose_table(name: str, kind: type[Head], store: "FeatureStore", wanted: str | None) -> str | None:
    """Return the text table for a head: the one `wanted`, or the only one of a store if the head requires text.

    Raises:
        InputError: the head takes no text, or needs some and the store has none or several.
    """
    if wanted is not None:
        if kind.text == "none":
            raise InputError(f"head {name!r} takes no text; leave --text out")
        if wanted not in store.text_tables():
            raise unknown_name(f"text table of {store.path}", wanted, store.text_tables())
        return _readable(name, kind, store, wanted)
    if kind.text != "required":
        return None
    tables = store.text_tables()
    if not tables:
        if kind.text_space == "image" and not has_text_tower(store.recipe):
            raise InputError(
                f"head {name!r} compares videos with class text and needs features of a CLIP model; {store.path} has "
                f"those of {backbone_spec(store.recipe)}, which has no text tower: encode the videos with "
                "--backbone open_clip:NAME/TAG"
            )
        encoder = backbone_spec(store.recipe) if kind.text_space == "image" else "ENCODER"
        raise InputError(
            f"head {name!r} needs class text, but {store.path} has none; add it: "
            f"fsar-prep text {store.path} --encoder {encoder} --templates clip-fsar"
        )
    if len(tables) > 1:
        raise InputError(f"{store.path} has several text tables: choose one with --text {'|'.join(tables)}")
    return _readable(name, kind, store, tables[0])


def _readable(name: str, kind: type[Head], store: "FeatureStore", table: str) -> str:
    """Return the name of a table; raises InputError if it holds tokens and the head reads vectors alone."""
    if text_facts(store.text(table)) and not kind.reads_text_tokens:
        raise InputError(
            f"text table {table!r} of {store.path} holds tokens of a text tower, and head {name!r} reads vectors: make "
            "another table without --level and choose it with --text"
        )
    return table


def text_facts(table: "TextTable") -> dict[str, int]:
    """Return what options a head that adapts the text tower gets by a table of tokens; none for vectors.

    Raises:
        InputError: the table does not say what its tokens are.
    """
    facts = table.encoder.get("tokens")
    if facts is None:
        return {}
    if not _describe_tokens(facts, table.vectors.shape[-1]):
        raise InputError(
            f"text table {table.name!r} does not say what its tokens are of: make it anew with --overwrite"
        )
    return {option: facts[name] for name, option in TOKEN_FACTS.items()}


def _describe_tokens(facts: Any, row: int) -> bool:
    """Tell whether facts of a text tower are whole, and possible for rows of so many numbers."""
    if not isinstance(facts, dict) or not all(isinstance(facts.get(name), int) for name in TOKEN_FACTS):
        return False
    level, n_blocks, n_heads, width, dim = (facts[name] for name in TOKEN_FACTS)
    fits = 0 < width < row and (row - 1) % width == 0 and 0 < n_heads <= width and 0 < dim <= MAX_TEXT_DIM
    return fits and 0 <= level < n_blocks <= MAX_TEXT_BLOCKS


def class_vectors(store: "FeatureStore", table_name: str, class_names: Sequence[str], kind: type[Head]) -> Tensor:
    """Return (C, M, D) float32 vectors of `class_names` under M templates.

    Raises:
        InputError: a class has no row (named), or the head compares text with images and the table is of another model.
    """
    table = store.text(table_name)
    if kind.text_space == "image":
        check_same_model(store, table)
    place = {class_key(name): row for row, name in enumerate(table.class_names)}
    missing = [name for name in class_names if class_key(name) not in place]
    if missing:
        raise InputError(
            f"text table {table_name!r} of {store.path} has no class {missing[0]!r}; run fsar-prep text for this split"
        )
    rows = [place[class_key(name)] for name in class_names]
    return torch.from_numpy(np.ascontiguousarray(table.vectors[:, rows].swapaxes(0, 1), np.float32))


def check_text(head: Head, store: "FeatureStore", table_name: str | None) -> None:
    """Raise InputError if a trained head that reads text tokens gets those of another level than it was trained on."""
    if table_name is None or not head.reads_text_tokens:
        return
    wanted, found = head.options.get("text_level"), text_facts(store.text(table_name)).get("text_level")
    if wanted != found:
        what = ["vectors" if level is None else f"tokens of level {level}" for level in (found, wanted)]
        raise InputError(
            f"text table {table_name!r} of {store.path} holds {what[0]}, and the head was trained on {what[1]}: choose "
            "or make another table (fsar-prep text, --level)"
        )


def check_same_model(store: "FeatureStore", table: "TextTable") -> None:
    """Raise InputError if a table's text tower is not the one that belongs to the store's image tower."""
    for field, of_store in (
        ("text_sha256", store.recipe.get("text_sha256")),
        ("backbone", store.recipe.get("backbone")),
    ):
        of_table = table.encoder.get(field)
        if of_store and of_table and of_store != of_table:
            raise InputError(
                f"text table {table.name!r} is of another model than the images of {store.path} "
                f"({field}: {of_table!r} != {of_store!r}); make one with --encoder {backbone_spec(store.recipe)}"
            )
