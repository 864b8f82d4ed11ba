"""Pulled copies: the same bytes, whole or in part, however the server or the process ends."""

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import fsar
from fsar.errors import InputError
from fsar.pipeline.share import Selection, parse_address, pull
from fsar.pipeline.store import open_store
from fsar.pipeline.store.verify import verify
from tests.pipeline.share.servers import FolderServer
from tests.pipeline.store.samples import bytes_of, expected


def address_of(server: FolderServer, store: Path):
    return parse_address(f"{server.url}/{store.name}")


def home(path: Path) -> Path:
    return path.with_name(path.name + ".parts") if path.suffix == ".h5" else path


def same_bytes(a: Path, b: Path) -> bool:
    mine, others = bytes_of(home(a)), bytes_of(home(b))
    runs = {name for name in (*mine, *others) if name.startswith("runs/")}
    return {k: v for k, v in mine.items() if k not in runs} == {k: v for k, v in others.items() if k not in runs} and (
        a.suffix != ".h5" or a.read_bytes() == b.read_bytes()
    )


def test_a_pull_gives_the_same_bytes(server, store, tmp_path):
    out = tmp_path / store.name
    report = pull(address_of(server, store), out)
    assert report.is_whole
    assert report.identity == hashlib.sha256((home(store) / "manifest.json").read_bytes()).hexdigest()
    assert report.address == f"{server.url}/{store.name}#sha256={report.identity}"
    assert same_bytes(store, out)
    assert verify(out).problems == []
    again = pull(address_of(server, store), out)
    assert again.n_files == 0


def test_a_file_address_is_the_same(store, tmp_path):
    out = tmp_path / f"copy of it{store.suffix}" if store.suffix == ".zarr" else tmp_path / store.name
    assert pull(parse_address(store.as_uri()), out).is_whole
    assert same_bytes(store, out)


def test_a_pin_holds(server, store, tmp_path):
    address = address_of(server, store)
    identity = pull(address, tmp_path / store.name).identity
    other = "0" * 64
    with pytest.raises(InputError, match=f"another one? now, sha256={identity}|another now, sha256={identity}"):
        pull(address.pinned(other), tmp_path / f"b{store.suffix}")
    assert not (tmp_path / f"b{store.suffix}").exists()
    pull(address.pinned(identity), tmp_path / f"b{store.suffix}")


def test_a_partial_copy_reads_what_it_has_and_names_the_command_for_the_rest(server, store, tmp_path):
    out = tmp_path / store.name
    report = pull(address_of(server, store), out, Selection(taps=("pooled",), parts=("test",)))
    assert not report.is_whole
    copy = fsar.open_store(out)
    np.testing.assert_array_equal(copy.read("pooled", range(5, 10), views=None), expected("pooled")[5:])
    np.testing.assert_array_equal(copy.status, open_store(store).status)
    assert copy.failures() == open_store(store).failures()
    assert copy.text("clip").class_names == ("class 0", "class 1", "class 2")
    with pytest.raises(
        InputError, match=r"partial copy without tap 'pooled' of video 'v000'.*fsar-store pull .*--part train"
    ):
        copy.read("pooled", ["v000"])
    assert verify(out).problems == []
    pull(address_of(server, store), out, Selection(parts=("train",)))
    np.testing.assert_array_equal(fsar.open_store(out).read("map", ["v000"], views=None), expected("map")[:1])
    whole = pull(address_of(server, store), out)
    assert whole.is_whole
    assert same_bytes(store, out)


def test_a_partial_copy_brings_no_more_than_asked(server, shelf, tmp_path):
    from tests.pipeline.share.conftest import shared_sample

    store = shared_sample(shelf / "sample.zarr")
    pull(
        address_of(server, store),
        tmp_path / "a.zarr",
        Selection(taps=("pooled",), classes=("class 0",), parts=("test",)),
    )
    assert not [path for path in server.paths if "features/map/c" in path]
    chunks = {path.rpartition("/")[2] for path in server.paths if "features/pooled/c" in path}
    assert chunks == {"c.2.0.0.0", "c.3.0.0.0"}  # rows 6 and 9


def test_nobody_writes_to_a_partial_copy(server, store, tmp_path):
    from fsar.pipeline.store import open_writer
    from fsar.pipeline.store.retry import reset_failed

    out = tmp_path / store.name
    pull(address_of(server, store), out, Selection(parts=("test",)))
    before = bytes_of(tmp_path)
    for change in (open_writer, reset_failed):
        with pytest.raises(InputError, match="first pull the rest"):
            change(out)
    assert bytes_of(tmp_path) == before


def test_a_split_chooses_by_its_own_parts(server, store, tmp_path):
    split = tmp_path / "mine.csv"
    split.write_text("part,class\ntest,class 0\ntrain,class 1\n")
    pull(address_of(server, store), tmp_path / store.name, Selection(split=str(split), parts=("test",)))
    copy = fsar.open_store(tmp_path / store.name)
    np.testing.assert_array_equal(copy.read("pooled", ["v000"], views=None), expected("pooled")[:1])


@pytest.mark.parametrize(
    ("selection", "message"),
    [
        (Selection(taps=("pooledd",)), "unknown tap 'pooledd': did you mean pooled"),
        (Selection(parts=("val",)), "unknown split part"),
        (Selection(classes=("class 9",)), "unknown class"),
    ],
)
def test_what_the_store_does_not_have(server, store, tmp_path, selection, message):
    with pytest.raises(InputError, match=message):
        pull(address_of(server, store), tmp_path / store.name, selection)
    assert not (tmp_path / store.name).exists()


def test_other_things_in_the_way_are_kept(server, store, tmp_path):
    from tests.pipeline.store.samples import videos, write_sample

    out = tmp_path / store.name
    home(out).mkdir()
    (home(out) / "thesis.txt").write_text("years of work")
    with pytest.raises(InputError, match="is no copy of a store"):
        pull(address_of(server, store), out)
    assert (home(out) / "thesis.txt").read_text() == "years of work"
    shutil.rmtree(home(out))
    write_sample(out, videos(7))
    before = bytes_of(tmp_path)
    with pytest.raises(InputError, match="holds another store"):
        pull(address_of(server, store), out)
    assert bytes_of(tmp_path) == before


def test_an_update_keeps_the_files_that_are_the_same(server, store, tmp_path):
    from fsar.pipeline.store import extend_store
    from tests.pipeline.store.samples import fill, videos

    out = tmp_path / store.name
    pull(address_of(server, store), out)
    with extend_store(store, videos(12)) as writer:
        fill(writer)
        writer.seal()
    server.requests.clear()
    report = pull(address_of(server, store), out, update=True)
    assert report.is_whole
    assert report.n_kept > 0
    assert same_bytes(store, out)
    assert verify(out).problems == []
    assert not [path for path in server.paths if "chunks/000000" in path or path.endswith("pooled/c.0.0.0.0")]


def test_a_damaged_copy_is_mended_by_another_pull(server, store, tmp_path):
    out = tmp_path / store.name
    pull(address_of(server, store), out)
    chunk = home(out) / ("chunks/000001.h5" if store.suffix == ".h5" else "features/pooled/c.1.0.0.0")
    data = bytearray(chunk.read_bytes())
    data[-9] ^= 1
    chunk.write_bytes(data)
    assert pull(address_of(server, store), out).n_files == 1
    assert same_bytes(store, out)


def test_hostile_manifests_are_refused(server, store, tmp_path):
    from fsar.pipeline.store.format.identity import checked_json

    manifest = home(store) / "manifest.json"
    listed = json.loads(manifest.read_bytes())["files"]
    for name in ("../../outside", "journal/metadata.intent", "/etc/passwd", "a\x1b[2Jb"):
        manifest.write_bytes(checked_json({"files": {**listed, name: {"sha256": "0" * 64, "bytes": 4}}}))
        with pytest.raises(InputError, match=r"no name of a file in a store|no file of a store") as error:
            pull(address_of(server, store), tmp_path / store.name)
        assert "\x1b" not in str(error.value)
    assert not (tmp_path / store.name).exists()


def test_no_store_there(server, shelf, tmp_path):
    with pytest.raises(FileNotFoundError, match="no finished store is there"):
        pull(parse_address(f"{server.url}/none.zarr"), tmp_path / "none.zarr")
    with pytest.raises(InputError, match="names no store"):
        pull(parse_address(f"{server.url}/folder"), tmp_path / "none.zarr")
