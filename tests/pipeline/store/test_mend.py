"""HDF5 stores whose master file was lost, or that were renamed: said, and mended by whoever writes to them next."""

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from fsar.errors import InputError
from fsar.pipeline.store import TextTable, open_store, open_writer, write_text
from fsar.pipeline.store.copy import export_store
from fsar.pipeline.store.describe import compare_stores
from fsar.pipeline.store.verify import verify
from tests.pipeline.store import samples
from tests.pipeline.store.samples import bytes_of, expected, write_sample

TABLE = TextTable("clip", np.ones((1, 2, 3), np.float32), ("a", "b"), ("{}",))


def seal(path: Path) -> None:
    with open_writer(path) as writer:
        writer.seal()


def export(path: Path) -> None:
    export_store(write_sample(path.with_name("other.zarr")), path)


def rename(path: Path, name: str) -> Path:
    path.with_name(path.name + ".parts").rename(path.with_name(name + ".parts"))
    return path.rename(path.with_name(name))


@pytest.mark.parametrize("mend", [seal, write_sample, export])
def test_a_master_that_is_gone_is_made_anew(
    tmp_path: Path, mend: Callable[[Path], object], capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_sample(tmp_path / "here" / "a.h5")
    before = bytes_of(path.parent)
    path.unlink()
    with pytest.raises(InputError, match=r"a\.h5 is missing, only .*`fsar-store seal .*a\.h5` makes it anew"):
        open_store(path)
    assert [(problem.file, problem.what) for problem in verify(path).problems] == [("@master.h5", "missing")]
    mend(path)
    assert {name: data for name, data in bytes_of(path.parent).items() if not name.startswith("other")} == before
    assert capsys.readouterr().err == ""


def test_text_tables_that_go_with_the_master_are_not_lost_in_silence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_sample(tmp_path / "a.h5")
    write_text(path, TABLE)
    path.unlink()
    seal(path)
    assert "text tables that were in it are lost" in capsys.readouterr().err
    assert verify(path).problems == []
    assert open_store(path).text_tables() == []


@pytest.mark.parametrize("name", ["b.h5", "100%, ä.h5"])
@pytest.mark.parametrize("mend", [seal, write_sample])
def test_a_renamed_store_is_told_and_mended(tmp_path: Path, name: str, mend: Callable[[Path], object]) -> None:
    path = write_sample(tmp_path / "a.h5")
    write_text(path, TABLE)
    path = rename(path, name)
    (problem,) = verify(path).problems
    assert "the store was renamed: `fsar-store seal" in problem.what
    np.testing.assert_array_equal(open_store(path).load("map").numpy(), expected("map"))
    mend(path)
    with h5py.File(path) as file:
        np.testing.assert_array_equal(file["features/map"][:], expected("map"))
    assert open_store(path).text("clip").same_as(TABLE)
    assert verify(path).problems == []
    master = path.stat().st_mtime_ns
    mend(path)
    assert path.stat().st_mtime_ns == master


def test_a_renamed_store_that_is_not_complete_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    with samples.open_sample(path) as writer:
        samples.fill(writer, n_chunks=2)
    path = write_sample(rename(path, "b.h5"))
    assert verify(path).problems == []
    assert compare_stores(path, write_sample(tmp_path / "c.h5"))["equal"]
