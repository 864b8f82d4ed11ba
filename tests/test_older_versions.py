"""What fsar 0.1.0 wrote still opens, verifies, reads, resumes and grows, with the same numbers."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from fsar.heads.batch import EpisodeBatch
from fsar.heads.run_folder import RunFolder, load_head
from fsar.pipeline.store import TextTable, extend_store, open_store, write_text
from fsar.pipeline.store.copy import export_store
from fsar.pipeline.store.verify import verify
from tests.pipeline.store import samples

WRITTEN = Path(__file__).parent / "data" / "v0_1_0"
TABLE = TextTable(
    "clip",
    np.arange(12, dtype=np.float32).reshape(2, 2, 3) / 8,
    ("class 0", "class 1"),
    ("{}", "a {}"),
    {"tower": "x"},
)


@pytest.fixture(params=["sample.zarr", "sample.h5"])
def old_store(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    shutil.copytree(WRITTEN, tmp_path / "copy")
    return tmp_path / "copy" / request.param


def assert_as_written(path: Path, rows: list) -> None:
    store = open_store(path)
    assert store.videos == rows
    assert store.recipe == samples.RECIPE
    for tap in samples.TAPS:
        np.testing.assert_array_equal(store.load(tap).numpy(), samples.expected(tap, rows))
    assert store.text("clip").same_as(TABLE)
    assert store.failures() == [(4, "empty", "no bytes")]
    assert verify(path).problems == []


def test_a_store_opens_verifies_and_reads(old_store):
    assert_as_written(old_store, samples.videos(8))


def test_a_store_takes_text_and_videos_and_can_be_exported(old_store, tmp_path):
    write_text(old_store, TextTable("more", np.ones((1, 1, 2), np.float32), ("a",), ("{}",)))
    rows = samples.videos(8) + samples.videos(2, prefix="w")
    with extend_store(old_store, rows) as writer:
        samples.fill(writer)
        writer.seal()
    assert_as_written(old_store, rows)
    export_store(old_store, tmp_path / "new.zarr")
    assert_as_written(tmp_path / "new.zarr", rows)


def test_an_unfinished_store_is_finished(tmp_path):
    path = tmp_path / "unfinished.zarr"
    shutil.copytree(WRITTEN / "unfinished.zarr", path)
    samples.write_sample(path, samples.videos(8))
    write_text(path, TABLE)
    assert_as_written(path, samples.videos(8))


@pytest.mark.parametrize("name", ["sample.zarr", "sample.h5"])
def test_chunks_are_the_same_bytes_today(name, tmp_path):
    samples.write_sample(tmp_path / name, samples.videos(8))
    old, new = samples.bytes_of(WRITTEN), samples.bytes_of(tmp_path)
    chunks = [
        file for file in old if file.startswith(name) and ("/c." in file or "/chunks/" in file) and "text" not in file
    ]
    assert len(chunks) >= 3
    assert all(old[file] == new[file] for file in chunks)


def test_a_trained_head_loads_and_answers_as_then():
    head = load_head(WRITTEN / "run")
    batch = EpisodeBatch({"frames": _frames(3, 0.0)}, torch.tensor([[2, 0, 1]]), {"frames": _frames(4, 1.0)}, 3)
    with torch.no_grad():
        logits = head(batch)
    expected = torch.tensor(json.loads((WRITTEN / "logits.json").read_text()))
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-5)
    run = RunFolder(WRITTEN / "run")
    assert run.is_finished
    assert run.config["head"] == "trx"


def _frames(n_videos: int, start: float) -> torch.Tensor:
    return torch.sin(torch.arange(n_videos * 8 * 8, dtype=torch.float32) * 0.37 + start).reshape(1, n_videos, 8, 8)
