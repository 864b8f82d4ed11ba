"""The text vectors of classes: which table of a store a head gets, and whether it may have it."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from fsar.errors import InputError, unknown_name
from fsar.heads.head import Head
from fsar.pipeline.encode.command import backbone_spec, has_text_tower
from fsar.splits import class_key

if TYPE_CHECKING:
    from fsar.pipeline.store import FeatureStore, TextTable


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
        return wanted
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
    return tables[0]


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
