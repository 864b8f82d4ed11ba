"""A store names no folder of the machine that made it, and still finds its videos there."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fsar.errors import InputError
from fsar.pipeline.encode.encode import add_videos, encode
from fsar.pipeline.share import parse_address, push
from fsar.pipeline.store import VideoRow, open_store, portable
from fsar.pipeline.store.copy import export_store
from fsar.pipeline.store.portable import folder_for, relative_paths, without_folders
from fsar.pipeline.store.retry import reset_failed
from fsar.pipeline.store.verify import verify
from tests.pipeline.encode_helpers import made_up_rows
from tests.pipeline.store.samples import bytes_of
from tests.pipeline.test_encode import FORMATS, TINY, engine, options

HOME = "home of alice"


def made(folder: Path, names: list[str], out: Path):
    return encode(made_up_rows(folder / HOME / "videos", names), out, TINY, quiet=True)


def content(path: Path) -> dict[str, bytes]:
    """Every file of a store that others get."""
    home = path if path.suffix == ".zarr" else Path(f"{path}.parts")
    files = {name: data for name, data in bytes_of(home).items() if not name.startswith("runs/")}
    return files if home == path else {**files, "@": path.read_bytes()}


@pytest.mark.parametrize("form", FORMATS)
def test_no_folder_of_this_machine_is_in_a_store(tmp_path, form):
    report = made(tmp_path, ["a", "bad", "bug"], tmp_path / f"s.{form}")
    store = open_store(report.path)
    assert all(HOME.encode() not in data for data in content(report.path).values())
    assert all(str(tmp_path).encode() not in data for data in content(report.path).values())
    assert [video.path for video in store.videos] == ["a", "bad", "bug"]
    assert store.failures()[0] == (1, "truncated", "bad ends early")
    there = tmp_path / HOME / "videos"
    assert report.failures[0] == ("bad", str(there / "bad"), "truncated", f"{there / 'bad'} ends early")
    assert [store.video_path(row) for row in range(3)] == [there / name for name in ("a", "bad", "bug")]
    pushed = push(report.path, parse_address((tmp_path / "shelf").as_uri()))
    assert (pushed.identity, pushed.n_relative) == (store.identity, 0)


def test_the_same_videos_elsewhere_make_the_same_store(tmp_path):
    names = ["a", "bad", "c"]
    first, second = (made(tmp_path / place, names, tmp_path / f"{place}.zarr").path for place in ("here", "there"))
    assert content(first) == content(second)


def test_however_the_catalog_is_spelled_the_store_is_the_same(tmp_path, monkeypatch):
    rows = made_up_rows(tmp_path / "v", ["a", "bad"])
    monkeypatch.chdir(tmp_path)
    spelled = [replace(row, path=Path("v/../v") / row.path.name) for row in rows]
    first, second = (
        encode(chosen, tmp_path / f"{n}.zarr", TINY, quiet=True).path for n, chosen in enumerate((rows, spelled))
    )
    assert content(first) == content(second)


def test_videos_that_are_added_from_elsewhere_are_found_too(tmp_path):
    path = made(tmp_path, ["a", "b"], tmp_path / "s.zarr").path
    elsewhere = made_up_rows(tmp_path / "elsewhere" / "more", ["c", "a"])  # one has a name that is taken
    new = [VideoRow(name, f"class {name}", "", str(row.path)) for name, row in zip("cd", elsewhere, strict=True)]
    assert add_videos(path, new, engine=engine(), quiet=True).failures == []
    store = open_store(path)
    assert [video.path for video in store.videos] == ["a", "b", "more/c", "more/a"]
    assert store.video_path(0) == tmp_path / HOME / "videos" / "a"
    assert [store.video_path(row) for row in (2, 3)] == [row.path for row in elsewhere]
    assert verify(path).problems == []


def test_failed_videos_are_tried_again_where_their_neighbours_are(tmp_path):
    rows = made_up_rows(tmp_path / HOME / "videos", ["a", "bad"])
    path = encode(rows, tmp_path / "s.zarr", options(chunk_rows=2), quiet=True).path
    moved = tmp_path / "moved"
    (tmp_path / HOME).rename(moved)
    with pytest.raises(InputError, match=r"no longer on the disk \(first: 'a', a\)"):
        reset_failed(path)
    moved.rename(tmp_path / HOME)
    assert reset_failed(path).n_failed == 1


def test_a_copy_knows_where_the_videos_are(tmp_path):
    path = made(tmp_path, ["a", "b"], tmp_path / "s.zarr").path
    copy = export_store(path, tmp_path / "copy.h5")
    assert copy.video_path(1) == tmp_path / HOME / "videos" / "b"
    shutil.rmtree(tmp_path / "copy.h5.parts" / "runs")
    assert open_store(tmp_path / "copy.h5").video_path(1) == Path("b")


def test_a_damaged_record_of_a_run_costs_the_places_of_videos_alone(tmp_path):
    path = made(tmp_path, ["a"], tmp_path / "s.zarr").path
    for record in (path / "runs").iterdir():
        record.write_text('{"videos_folder": 7}')
    assert open_store(path).video_path(0) == Path("a")


def test_a_store_with_absolute_paths_is_gone_on_with(tmp_path, monkeypatch):
    """As fsar 0.1 wrote them."""
    rows = made_up_rows(tmp_path / "v", ["a", "b", "bad"])
    monkeypatch.setattr(portable, "portable_rows", lambda videos, folder="": list(videos))
    stopped = replace(TINY, engine=engine(decode=stop), chunk_bytes=1)
    with pytest.raises(KeyboardInterrupt):
        encode(rows, tmp_path / "s.zarr", stopped, quiet=True)
    monkeypatch.undo()
    encode(rows, tmp_path / "s.zarr", TINY, quiet=True)
    store = open_store(tmp_path / "s.zarr")
    assert [video.path for video in store.videos] == [str(row.path) for row in rows]
    assert store.failures() == [(2, "truncated", f"{rows[2].path} ends early")]
    assert store.video_path(0) == rows[0].path
    assert verify(store.path).problems == []


def stop(task):
    raise KeyboardInterrupt


PARTS = st.lists(st.sampled_from(["a", "b", "c", "..", "."]), min_size=1, max_size=4)


@given(st.lists(PARTS.map(lambda parts: "/data/" + "/".join(parts) + "/x.mp4"), min_size=1, max_size=6))
def test_no_relative_path_leads_out_or_names_the_folder(paths):
    for name in relative_paths(paths):
        assert not name.startswith("/")
        assert ".." not in name.split("/")
        assert "data" not in name.split("/") or name.startswith("data/")


def test_new_videos_keep_to_a_known_folder():
    stored, new = [VideoRow("a", "c", "", "c/a.mp4")], [VideoRow("b", "c", "", "/data/ucf/c/b.mp4")]
    assert folder_for(stored, new, ["/other", "/data/ucf"]) == "/data/ucf"
    assert folder_for(stored, new, []) == "/data/ucf/c"


@pytest.mark.parametrize("text", ["a /b c", "12/25 frames", "1/2"])
def test_texts_without_paths_stay(text):
    assert without_folders(text) == text
