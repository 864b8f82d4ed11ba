"""What is no store, or one of another version, is refused in one line that says what, where and what to do."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fsar.errors import InputError
from fsar.pipeline.store import TextTable, open_store, write_text
from fsar.pipeline.store.describe import describe_store
from fsar.pipeline.store.format.identity import checked_json
from fsar.pipeline.store.verify import verify
from tests.pipeline.store import samples

DROPPED = object()


def rewrite(path: Path, field: str, value: Any) -> None:
    """Change one field of a document and make its checksum right again, as another version would."""
    data = json.loads(path.read_bytes())
    del data["sha256"]
    inner = data
    *parents, last = field.split("/")
    for name in parents:
        inner = inner[name]
    if value is DROPPED:
        del inner[last]
    else:
        inner[last] = value
    path.write_bytes(checked_json(data))


def located(path: Path, name: str) -> Path:
    return (path if path.suffix == ".zarr" else path.with_name(path.name + ".parts")) / name


def use(path: Path) -> None:
    """Do with a store what everyone does."""
    store = open_store(path)
    assert store.status.size
    store.failures()
    store.read("map", range(10))
    store.text_tables()
    describe_store(path)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("format_version", 2, r"store\.json is of store format 2, this fsar reads format 1: update fsar"),
        ("format_version", 0, r"is of store format 0, .*: encode the videos again"),
        ("format_version", "new", r"is of store format 'new'"),
        ("taps", DROPPED, r"store\.json lacks 'taps'"),
        ("chunk_rows", DROPPED, r"store\.json lacks 'chunk_rows'"),
        ("recipe", DROPPED, r"store\.json lacks 'recipe'"),
        ("videos_sha256", DROPPED, r"store\.json lacks 'videos_sha256'"),
        ("chunk_rows", "3", r"store\.json has 'chunk_rows' = '3', expected int"),
        ("chunk_rows", 0, r"store\.json has 'chunk_rows' = 0, expected 1 or more"),
        ("n_views", True, r"store\.json has 'n_views' = True, expected int"),
        ("taps", ["map"], r"has 'taps' = \['map'\], expected dict"),
        ("taps/map", 7, r"store\.json, tap 'map', must be an object, got int"),
        ("taps/map/dtype", DROPPED, r"store\.json, tap 'map', lacks 'dtype'"),
        ("taps/map/dtype", "int8", r"tap 'map', has 'dtype' = 'int8', expected float16 or float32"),
        ("taps/map/shape", [3, "x"], r"tap 'map', has 'shape' = \[3, 'x'\], expected whole numbers"),
    ],
)
def test_a_layout_of_another_version_is_refused(sealed: Path, field: str, value: Any, message: str) -> None:
    rewrite(located(sealed, "store.json"), field, value)
    for open_it in (open_store, describe_store, samples.open_sample):
        with pytest.raises(InputError, match=message) as caught:
            open_it(sealed)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("rows", DROPPED, r"000000\.000003\.json lacks 'rows': another version of fsar wrote it"),
        ("rows", [0], r"has 'rows' = \[0\], expected first row and end"),
        ("rows", 3, r"has 'rows' = 3, expected list"),
        ("offsets", DROPPED, r"lacks 'offsets'"),
        ("offsets", {"status": "4"}, r"has 'offsets' = .* expected whole numbers"),
        ("failures", DROPPED, r"lacks 'failures'"),
        ("failures", [7], r"has 'failures' = \[7\]"),
    ],
)
def test_a_record_of_another_version_is_refused(sealed: Path, field: str, value: Any, message: str) -> None:
    rewrite(located(sealed, "journal/000000.000003.json"), field, value)
    with pytest.raises(InputError, match=message):
        use(sealed)
    assert verify(sealed).problems


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"sha256": "00"}', b"[" * 5000])
def test_garbage_in_any_document_is_one_error(sealed: Path, content: bytes) -> None:
    for name in ("store.json", "manifest.json", "journal/metadata.json", "journal/000000.000003.json"):
        document = located(sealed, name)
        intact = document.read_bytes()
        document.write_bytes(content)
        with pytest.raises(InputError, match=r"is damaged: its content does not match"):
            use(sealed)
        assert verify(sealed).problems, name
        document.write_bytes(intact)
    use(sealed)


def test_a_manifest_with_other_fields_is_one_error(sealed: Path) -> None:
    rewrite(located(sealed, "manifest.json"), "files/store.json/bytes", DROPPED)
    with pytest.raises(InputError, match=r"the record of store\.json lacks 'bytes'"):
        open_store(sealed)


@pytest.mark.parametrize("content", [b"", b"{}", b"not json", b'{"consolidated_metadata": null}', b"\x89HDF\r\n\x1a\n"])
def test_a_broken_master_is_one_error(sealed: Path, content: bytes) -> None:
    master = sealed / "zarr.json" if sealed.suffix == ".zarr" else sealed
    master.write_bytes(content)
    store = open_store(sealed)
    table = TextTable("t", [[[1.0]]], ("a",), ("{}",))  # type: ignore[arg-type]
    for action in (store.text_tables, lambda: describe_store(sealed), lambda: write_text(store.path, table)):
        with pytest.raises(InputError, match=r"is damaged \(.*run `fsar-store verify"):
            action()


def plain_zarr(path: Path) -> None:
    import zarr

    zarr.open_group(str(path), mode="w").create_array("x", shape=(3,), dtype="f4")


def plain_h5(path: Path) -> None:
    import h5py

    with h5py.File(path, "w") as file:
        file["x"] = [1.0]


@pytest.mark.parametrize(
    ("name", "make", "message"),
    [
        ("a.zarr", plain_zarr, r"a\.zarr is not a store that fsar wrote, .*choose another path"),
        ("a.h5", plain_h5, r"a\.h5 lacks its folder a\.h5\.parts: the two belong together"),
        ("a.zarr", Path.mkdir, "is not a store that fsar wrote"),
        ("a.zarr", Path.touch, "is not a store that fsar wrote"),
        ("a.h5", Path.mkdir, "lacks its folder"),
        (
            "b.zarr",
            lambda path: samples.write_sample(path.with_name("bb.zarr")),
            r"no store at .*b\.zarr: did you mean bb",
        ),
        (
            "b.h5",
            lambda path: samples.write_sample(path.with_name("B.h5")),
            r"no store at .*b\.h5: did you mean B\.h5\?",
        ),
        ("b.zarr", lambda path: None, r"no store at .*b\.zarr$"),
        ("gone/b.zarr", lambda path: None, r"no store at .*b\.zarr$"),
    ],
)
def test_what_is_no_store_is_said_plainly(
    tmp_path: Path, name: str, make: Callable[[Path], object], message: str
) -> None:
    make(tmp_path / name)
    for open_it in (open_store, describe_store, verify):
        with pytest.raises(FileNotFoundError, match=message):
            open_it(tmp_path / name)


def test_the_folder_of_parts_points_to_its_store(tmp_path: Path) -> None:
    samples.write_sample(tmp_path / "a.h5")
    with pytest.raises(InputError, match=r"name the store itself, .*a\.h5"):
        open_store(tmp_path / "a.h5.parts")


def test_the_format_is_written_where_other_programs_see_it(sealed: Path) -> None:
    if sealed.suffix == ".zarr":
        assert json.loads((sealed / "zarr.json").read_bytes())["attributes"]["fsar_store_format"] == 1
    else:
        import h5py

        with h5py.File(sealed, "r") as file:
            assert file.attrs["fsar_store_format"] == 1
