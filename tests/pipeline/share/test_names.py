"""Names in somebody else's manifest."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fsar.errors import InputError
from fsar.pipeline.share.names import check_names
from fsar.pipeline.store.format.files import StoreFiles

ZARR, HDF5 = StoreFiles.at("x.zarr"), StoreFiles.at("x.h5")


def test_names_of_stores_pass():
    own = ["store.json", "videos.csv", "failures.csv", "journal/metadata.json", "journal/000000.000003.json"]
    check_names(ZARR, [*own, "zarr.json", "features/pooled/c.0.0.0.0", "text/clip/c.0.0.0", "status/zarr.json"])
    check_names(HDF5, [*own, "chunks/000000.h5", "@master.h5"])


@pytest.mark.parametrize(
    "name",
    [
        "", "/", "/etc/passwd", "../x", "a/../b", "a/./b", "a//b", "a/", ".hidden", "a/.b", "a\\b", "C:x", "a\0b",
        "a\nb", "journal/metadata.intent", "staging/x", "claims/000001", "runs/x.json", "manifest.json",
        "partial.json", "features/x.tmp-1", "a" * 600, "é", "a b", "~/x",
    ],
)  # fmt: skip
@pytest.mark.parametrize("files", [ZARR, HDF5], ids=["zarr", "hdf5"])
def test_others_are_refused(files, name):
    with pytest.raises(InputError, match=r"is no name of a file in a store|which is no file of a store"):
        check_names(files, [name])


def test_names_that_a_disk_would_mix_up():
    with pytest.raises(InputError, match="one name on many disks"):
        check_names(ZARR, ["features/A/c.0.0.0", "features/a/c.0.0.0"])
    with pytest.raises(InputError, match="as a file and as a folder"):
        check_names(ZARR, ["text/zarr.json", "text/zarr.json/zarr.json"])


@given(st.text(max_size=40))
def test_a_name_that_passes_stays_inside(name):
    try:
        check_names(ZARR, [name])
    except InputError:
        return
    assert not name.startswith("/")
    assert not {"", ".", ".."} & set(name.split("/"))
