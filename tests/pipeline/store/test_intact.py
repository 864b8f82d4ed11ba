"""Damaged numbers are not copied: the copy would count as intact."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fsar.errors import InputError
from fsar.pipeline.store import TextTable, extend_store, open_store, open_writer, write_text
from fsar.pipeline.store.copy import export_store, merge_stores
from fsar.pipeline.store.safetensors_file import export_safetensors
from tests.pipeline.store import samples
from tests.pipeline.store.samples import bytes_of, fill, write_sample


def damage(path: Path, index: int) -> Path:
    """Flip a bit of `pooled` in a chunk; return its file."""
    store = open_store(path, allow_unsealed=True)
    spec = store.layout.arrays()["features/pooled"]
    file = store.files.locate(store.files.format.chunk_file(spec, index))
    data = bytearray(file.read_bytes())
    data[data.index(samples.features(f"v{3 * index:03d}", "pooled").tobytes())] ^= 1
    file.write_bytes(data)
    return file


def test_damage_is_neither_exported_nor_merged(sealed: Path, tmp_path: Path) -> None:
    file = damage(sealed, 1)
    other = write_sample(tmp_path / "other.zarr", samples.videos(2, prefix="w"))
    message = f"{file.name} is damaged or missing: run `fsar-store verify {sealed}`"
    for action in (
        lambda: export_store(sealed, tmp_path / "a.zarr"),
        lambda: export_store(sealed, tmp_path / "a.h5"),
        lambda: export_safetensors(sealed, tmp_path / "a.safetensors"),
        lambda: merge_stores([sealed, other], tmp_path / "m.zarr"),
    ):
        with pytest.raises(InputError, match=message):
            action()
    assert not (tmp_path / "a.safetensors").exists()
    assert not open_store(tmp_path / "a.zarr", allow_unsealed=True).sealed


def test_rows_beside_the_damage_can_be_exported(sealed: Path, tmp_path: Path) -> None:
    damage(sealed, 0)
    assert export_store(sealed, tmp_path / "a.zarr", parts=["test"]).sealed


def test_a_damaged_chunk_does_not_grow(sealed: Path) -> None:
    file = damage(sealed, 3)
    before = bytes_of(sealed.parent)
    with pytest.raises(InputError, match=f"{file.name} is damaged"):
        extend_store(sealed, samples.videos() + samples.videos(2, prefix="w"))
    assert bytes_of(sealed.parent) == before
    assert open_store(sealed).sealed


def test_nor_does_one_that_was_damaged_after_rows_were_added(sealed: Path) -> None:
    extend_store(sealed, samples.videos() + samples.videos(2, prefix="w")).close()
    file = damage(sealed, 3)
    with open_writer(sealed) as writer, pytest.raises(InputError, match=f"{file.name} is damaged"):
        fill(writer)


def test_nor_are_damaged_text_tables_copied(sealed: Path, tmp_path: Path) -> None:
    table = TextTable("t", np.full((1, 1, 2), 7.5, np.float32), ("a",), ("{}",))
    store = open_store(sealed)
    write_text(store.path, table)
    file = sealed if sealed.suffix == ".h5" else sealed / "text/t/c.0.0.0"
    file.write_bytes(file.read_bytes().replace(table.vectors.tobytes(), (table.vectors + 1).tobytes()))
    before = bytes_of(sealed.parent)
    for action in (
        lambda: export_store(sealed, tmp_path / "a.zarr"),
        lambda: extend_store(sealed, samples.videos(2, prefix="w")),
        lambda: write_text(store.path, replace(table, name="another")),
    ):
        with pytest.raises(InputError, match=f"{file.name} is damaged"):
            action()
    assert bytes_of(sealed.parent) == before
