"""What the record of a chunk and an announced publication may say: forged ones are found before anything is read."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fsar.errors import InputError
from fsar.pipeline.store import open_store
from fsar.pipeline.store.format.files import StoreFiles, read_store
from fsar.pipeline.store.format.identity import checked_json
from fsar.pipeline.store.format.layout import ArraySpec
from fsar.pipeline.store.format.schema import CHUNK_RECORD
from fsar.pipeline.store.journal.chunk_rows import MAX_METADATA_BYTES, refuse_misfit
from fsar.pipeline.store.journal.publish import redo
from fsar.pipeline.store.journal.records import intent_path, read_intent, read_record, record_path
from fsar.pipeline.store.verify import verify
from tests.pipeline.store import samples
from tests.pipeline.store.samples import CHUNK_ROWS

INDEX = 1
KEY = f"{INDEX:06d}.{CHUNK_ROWS:06d}"
Record = dict[str, Any]


class Forged:
    """The record of a chunk, and what the layout asks of its first array."""

    def __init__(self, path: Path) -> None:
        self.files = StoreFiles.at(path)
        self.layout, _ = read_store(self.files)
        self.record = copy.deepcopy(read_record(self.files, KEY))
        arrays = self.layout.arrays()
        ends = {
            spec.name: int(self.record["offsets"].get(spec.name, 0)) + self.layout.chunk_rows * spec.row_bytes
            for spec in arrays.values()
        }
        names = [spec.name for spec in arrays.values() if self.file_of(spec) == self.file_of(arrays["features/map"])]
        self.file, self.last = self.file_of(arrays["features/map"]), max(names, key=ends.__getitem__)
        self.least = ends[self.last]
        self.most = sum(self.layout.chunk_rows * spec.row_bytes for spec in arrays.values()) + MAX_METADATA_BYTES

    def file_of(self, spec: ArraySpec) -> str:
        return self.files.format.chunk_file(spec, INDEX)

    def has_bytes(self, n_bytes: int) -> None:
        self.record["files"][self.file]["bytes"] = n_bytes

    def check(self) -> None:
        refuse_misfit(self.files, self.layout, INDEX, self.record)


MISFITS: dict[str, Callable[[Forged], object]] = {
    "rows of the chunk before": lambda forged: forged.record.update(rows=[0, CHUNK_ROWS]),
    "rows that begin one late": lambda forged: forged.record.update(rows=[CHUNK_ROWS + 1, 2 * CHUNK_ROWS]),
    "one row too many": lambda forged: forged.record.update(rows=[CHUNK_ROWS, 2 * CHUNK_ROWS + 1]),
    "a file that is not listed": lambda forged: forged.record["files"].pop(forged.file),
    "a file one byte short": lambda forged: forged.has_bytes(forged.least - 1),
    "a file one byte too large": lambda forged: forged.has_bytes(forged.most + 1),
    "numbers that begin too late": lambda forged: (
        forged.has_bytes(forged.least),
        forged.record["offsets"].update({forged.last: forged.record["offsets"].get(forged.last, 0) + 1}),
    ),
}


@pytest.mark.parametrize("change", MISFITS.values(), ids=MISFITS)
def test_a_record_that_does_not_fit_its_chunk_is_refused(sealed: Path, change: Callable[[Forged], object]) -> None:
    forged = Forged(sealed)
    forged.check()
    change(forged)
    with pytest.raises(InputError, match=r"is damaged: (its chunk 1|the record of chunk 1 gives)"):
        forged.check()


def test_a_record_at_the_bounds_of_what_fits_is_taken(sealed: Path) -> None:
    forged = Forged(sealed)
    forged.record["rows"] = [CHUNK_ROWS, CHUNK_ROWS + 1]  # fewer rows: the last chunk, or one that grew since
    for n_bytes in (forged.most, forged.least):
        forged.has_bytes(n_bytes)
        forged.check()


def test_neither_readers_nor_verify_take_a_misfit(sealed: Path) -> None:
    forged = Forged(sealed)
    forged.record.update(rows=[0, CHUNK_ROWS], failures=[])
    name = record_path(forged.files, KEY)
    name.write_bytes(checked_json({field: forged.record[field] for field in CHUNK_RECORD}))
    with pytest.raises(InputError, match="its chunk 1 has rows 0 to 2"):
        _ = open_store(sealed).n_frames
    assert any("its chunk 1 has rows 0 to 2" in problem.what for problem in verify(sealed).problems)


STAGING = {
    "of another key": "000002.000003-17-0123abcd",
    "of a longer key": "0000001.000003-17-0123abcd",
    "where the key's dot is any letter": "000001x000003-17-0123abcd",
    "without a process": "000001.000003--0123abcd",
    "without a token": "000001.000003-17-",
    "of a short token": "000001.000003-17-0123abc",
    "of a long token": "000001.000003-17-0123abcde",
    "of a token in capitals": "000001.000003-17-0123ABCD",
    "below a folder": "x/000001.000003-17-0123abcd",
    "of a folder below": "000001.000003-17-0123abcd/x",
    "beside the store": "../000001.000003-17-0123abcd",
    "with a line end": "000001.000003-17-0123abcd\n",
}
OURS = "000001.000003-17-0123abcd"


def announce(files: StoreFiles, staging: str, *names: str) -> None:
    steps = [{name: {"sha256": "0" * 64, "bytes": 1} for name in names}]
    intent_path(files, KEY).write_bytes(checked_json({"staging": staging, "replaces": True, "steps": steps}))


@pytest.mark.parametrize("staging", STAGING.values(), ids=STAGING)
def test_a_staging_folder_that_no_writer_of_ours_makes_is_refused(sealed: Path, staging: str) -> None:
    files, before = StoreFiles.at(sealed), samples.bytes_of(sealed.parent)
    announce(files, staging, "videos.csv")
    with pytest.raises(InputError, match=r"names the staging folder .* fsar did not write it, remove it"):
        read_intent(files, KEY)
    with pytest.raises(InputError, match="names the staging folder"):
        redo(files, KEY)
    assert [problem.file for problem in verify(sealed).problems] == [f"journal/{KEY}.intent"]
    intent_path(files, KEY).unlink()
    assert samples.bytes_of(sealed.parent) == before


def test_one_of_our_own_is_read(sealed: Path) -> None:
    files = StoreFiles.at(sealed)
    announce(files, OURS, "videos.csv")
    assert read_intent(files, KEY).staging == files.folder("staging") / OURS
    announce(files, OURS, "videos.csv", "evil.py")
    with pytest.raises(InputError, match=r"names 'evil\.py', which no store has"):
        read_intent(files, KEY)
