"""What leaves this machine, and what does not."""

import json
import threading
from pathlib import Path

import numpy as np
import pytest

import fsar
from fsar.errors import InputError
from fsar.pipeline.share import parse_address, pull, push
from fsar.pipeline.share.shelf import list_shelf
from fsar.pipeline.store import VideoRow, open_store, write_text
from fsar.pipeline.store.portable import relative_paths, without_folders
from fsar.pipeline.store.verify import verify
from tests.pipeline.share.conftest import shared_sample
from tests.pipeline.store import samples
from tests.pipeline.store.samples import bytes_of, expected, write_sample

HOME = "/home/alice/secret project/videos"


@pytest.fixture
def mine(tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store as encode writes it: absolute paths in its tables, and in the message of its failure."""
    rows = [
        VideoRow(v.video_id, v.class_name, v.part, f"{HOME}/{v.class_name}/{v.video_id}.webm") for v in samples.videos()
    ]
    original = samples.chunk_data

    def with_path(chunk, videos, failed=samples.FAILED):
        data = original(chunk, videos, failed)
        data.failures = [(row, "missing", f"{videos[row].path} does not exist") for row, *_ in data.failures]
        return data

    monkeypatch.setattr(samples, "chunk_data", with_path)
    return write_sample(tmp_path / f"mine{suffix}", rows)


@pytest.fixture
def prefix(tmp_path: Path):
    return parse_address((tmp_path / "shelf").as_uri())


def test_absolute_paths_stay_here(mine, prefix, tmp_path):
    before = bytes_of(mine if mine.suffix == ".zarr" else Path(f"{mine}.parts"))
    report = push(mine, prefix)
    assert report.n_relative == 10
    sent = b"".join(path.read_bytes() for path in (tmp_path / "shelf").rglob("*") if path.is_file())
    assert b"alice" not in sent
    assert b"/home" not in sent
    assert before == bytes_of(mine if mine.suffix == ".zarr" else Path(f"{mine}.parts"))
    out = tmp_path / "out" / mine.name
    pull(parse_address(report.address), out)
    assert verify(out).problems == []
    copy = open_store(out)
    assert copy.videos[1].path == "class 1/v001.webm"
    assert copy.failures() == [(4, "missing", "class 1/v004.webm does not exist")]
    np.testing.assert_array_equal(copy.read("pooled", range(10), views=None), expected("pooled"))
    assert push(mine, prefix).identity == report.identity


def test_paths_that_share_no_folder_keep_their_names_alone():
    assert relative_paths(["/a/x.mp4", "/b/y.mp4", "c/z.mp4", "C:\\me\\w.mp4"]) == [
        "x.mp4",
        "y.mp4",
        "c/z.mp4",
        "w.mp4",
    ]
    assert relative_paths(["/data/ucf/a/x.avi", "/data/ucf/b/y.avi"]) == ["a/x.avi", "b/y.avi"]
    assert relative_paths(["/data/x.avi"]) == ["x.avi"]


@pytest.mark.parametrize(
    ("text", "cut"),
    [
        ("/home/me/v/x.mp4 does not exist", "x.mp4 does not exist"),
        ("cannot open '/home/me/x.mp4': no", "cannot open 'x.mp4': no"),
        ("C:\\Users\\me\\x.mp4 is empty", "x.mp4 is empty"),
        ("12/25 frames, 1/2", "12/25 frames, 1/2"),
        ("class/x.mp4 ends early", "class/x.mp4 ends early"),
    ],
)
def test_messages_lose_their_folders(text, cut):
    assert without_folders(text) == cut


def test_a_path_in_the_recipe_is_refused(prefix, tmp_path, monkeypatch):
    monkeypatch.setattr(samples, "RECIPE", {**samples.RECIPE, "weights": "/home/alice/best.pt"})
    store = write_sample(tmp_path / "x.zarr")
    with pytest.raises(InputError, match="its recipe holds a path of this machine"):
        push(store, prefix)
    assert not (tmp_path / "shelf").exists()


def test_a_path_in_a_text_table_is_refused(prefix, tmp_path):
    from fsar.pipeline.store import TextTable

    store = shared_sample(tmp_path / "x.zarr")
    vectors = np.zeros((1, 1, 2), np.float32)
    write_text(store, TextTable("bert", vectors, ("class 0",), ("{}",), {"backbone": "/home/alice/bert"}))
    with pytest.raises(InputError, match="text table 'bert' holds a path"):
        push(store, prefix)


def test_damaged_unsealed_and_partial_stores_stay_here(prefix, tmp_path, suffix):
    from fsar.pipeline.share import Selection

    store = shared_sample(tmp_path / f"x{suffix}")
    address = push(store, prefix).address
    pull(parse_address(address), tmp_path / "part" / store.name, Selection(parts=("test",)))
    with pytest.raises(InputError, match="partial copy"):
        push(tmp_path / "part" / store.name, prefix)
    chunk = store / "features/pooled/c.1.0.0.0" if suffix == ".zarr" else Path(f"{store}.parts/chunks/000001.h5")
    data = bytearray(chunk.read_bytes())
    data[-9] ^= 1
    chunk.write_bytes(data)
    with pytest.raises(InputError, match="is not pushed, 1 of its files are wrong"):
        push(store, prefix)
    with samples.open_sample(tmp_path / f"half{suffix}") as writer:
        samples.fill(writer, n_chunks=1)
    with pytest.raises(InputError, match="not sealed"):
        push(tmp_path / f"half{suffix}", prefix)


def test_two_pushes_at_once_are_one(prefix, tmp_path, suffix):
    store = shared_sample(tmp_path / f"x{suffix}")
    errors: list[BaseException] = []

    def run() -> None:
        try:
            push(store, prefix)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    (entry,) = list_shelf(prefix)
    assert not entry.problem
    assert fsar.open_store(entry.address).load("map").shape[0] == 10


def test_a_torn_file_of_an_earlier_push_is_replaced(prefix, tmp_path):
    store = shared_sample(tmp_path / "x.zarr")
    report = push(store, prefix)
    folder = tmp_path / "shelf" / "x.zarr" / report.identity / "x.zarr"
    (folder / "manifest.json").unlink()
    torn = folder / "features/map/c.0.0.0.0.0.0"
    torn.write_bytes(torn.read_bytes()[:10])
    assert push(store, prefix).n_files == 1
    pull(parse_address(report.address), tmp_path / "out.zarr")


def test_names_and_pins(prefix, tmp_path):
    store = shared_sample(tmp_path / "x.h5")
    with pytest.raises(InputError, match=r"its name: push it as x\.h5"):
        push(store, prefix.child("other.h5"))
    with pytest.raises(InputError, match="cannot be pushed as"):
        push(store, prefix.child("x.zarr"))
    with pytest.raises(InputError, match="decides the identity"):
        push(store, prefix.pinned("0" * 64))
    assert push(store, prefix.child("x.h5")).address.startswith(str(prefix.child("x.h5")))


def test_the_shelf_tells_who_reads_what_and_what_is_broken(tmp_path):
    shelf = tmp_path / "shelf"
    shelf.mkdir()
    shared_sample(shelf / "good.zarr")
    (shelf / "bad.zarr").mkdir()
    (shelf / "bad.zarr" / "manifest.json").write_text("{}")
    runs = {"runs/mine": str(shelf / "good.zarr"), "runs/seeds/seed-0": "good.zarr", "other": "elsewhere.zarr"}
    for name, store in runs.items():
        (shelf / name).mkdir(parents=True)
        (shelf / name / "config.json").write_text(json.dumps({"store": store}))
    (shelf / "runs" / "broken").mkdir()
    (shelf / "runs" / "broken" / "config.json").write_text("[" * 100_000)
    bad, good = list_shelf(shelf)
    assert "is missing" in bad.problem
    assert good.runs == ["runs/mine", "runs/seeds/seed-0"]
    assert good.address == str(shelf / "good.zarr")
