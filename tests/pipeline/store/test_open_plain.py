"""A store hands out what zarr and h5py make of it, once nothing in it leads elsewhere."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from fsar.errors import InputError
from fsar.pipeline.store import TextTable, open_store, write_text
from tests.pipeline.store import samples
from tests.pipeline.store.samples import TAPS, expected


def test_the_arrays_are_those_of_the_store(sealed: Path) -> None:
    write_text(sealed, TextTable("t", np.ones((1, 1, 2), np.float32), ("a",), ("{}",)))
    plain = open_store(sealed).open_plain()
    for tap in TAPS:
        np.testing.assert_array_equal(plain[f"features/{tap}"][...], expected(tap))
    assert dict(plain["text/t"].attrs)["class_names"] in (["a"], '["a"]')
    with pytest.raises((ValueError, OSError, RuntimeError)):
        plain["status"][0] = 0


def test_rows_that_are_not_there_read_as_nan(path: Path) -> None:
    with samples.open_sample(path) as writer:
        samples.fill(writer, n_chunks=1)
    plain = open_store(path, allow_unsealed=True).open_plain()
    assert np.isnan(plain["features/pooled"][samples.CHUNK_ROWS :]).all()


def test_a_link_among_the_files_is_refused(sealed: Path, tmp_path: Path) -> None:
    store = open_store(sealed)
    chunk = store.files.locate(store.files.format.chunk_file(store.layout.arrays()["status"], 1))
    shutil.move(chunk, tmp_path / "outside")
    chunk.symlink_to(tmp_path / "outside")
    with pytest.raises(InputError, match="is not a plain file"):
        store.open_plain()


def test_other_codecs_are_refused(tmp_path: Path) -> None:
    path = samples.write_sample(tmp_path / "a.zarr")
    root = path / "zarr.json"
    root.write_text(root.read_text().replace('"crc32c"', '"numcodecs.pickle"'))
    with pytest.raises(InputError, match=r"zarr\.json describes other arrays"):
        open_store(path).open_plain()


@pytest.mark.parametrize("kind", ["external", "virtual"])
def test_a_part_that_reads_from_elsewhere_is_refused(tmp_path: Path, kind: str) -> None:
    import h5py

    path = samples.write_sample(tmp_path / "a.h5")
    (tmp_path / "secret").write_bytes(b"0123456789")
    with h5py.File(tmp_path / "a.h5.parts/chunks/000001.h5", "r+") as file:
        del file["status"]
        if kind == "external":
            file.create_dataset("status", (3,), "u1", external=[(str(tmp_path / "secret"), 0, 3)])
        else:
            layout = h5py.VirtualLayout((3,), "u1")
            layout[:] = h5py.VirtualSource(str(tmp_path / "other.h5"), "status", (3,))
            file.create_virtual_dataset("status", layout)
    with pytest.raises(InputError, match="another file"):
        open_store(path).open_plain()
