"""verify finds everything: any byte changed, any file missing, cut or foreign."""

import random
from pathlib import Path

import numpy as np
import pytest

from fsar.errors import InputError
from fsar.pipeline.store import TextTable, open_store, write_text
from fsar.pipeline.store.verify import Verification, verify
from tests.pipeline.store import samples
from tests.pipeline.store.samples import fill


@pytest.fixture
def full(path: Path) -> Path:
    """A sealed store with text and a recorded run: every kind of file there is."""
    with samples.open_sample(path) as writer:
        fill(writer)
        writer.seal()
        writer.record_run({"device": "cpu"})
    table = TextTable("clip", np.ones((2, 3, 4), np.float32), ("a", "b", "c"), ("{}", "a {}"), {"weights": "ff"})
    write_text(path, table)
    return path


def all_files(path: Path) -> list[Path]:
    return sorted(file for file in path.parent.rglob("*") if file.is_file())


def flip(file: Path, position: int, bit: int) -> bytes:
    data = file.read_bytes()
    changed = bytearray(data)
    changed[position] ^= 1 << bit
    file.write_bytes(changed)
    return data


def problems(path: Path) -> Verification:
    return verify(path)


def test_an_intact_store_has_no_problems(full: Path) -> None:
    result = verify(full)
    assert result.sealed
    assert result.problems == []
    assert result.notes == []
    assert result.n_files > 8


def check_flips(path: Path, n_tries: int) -> None:
    draw = random.Random(0)
    files = all_files(path)
    for attempt in range(n_tries):
        file = files[attempt % len(files)]
        size = file.stat().st_size
        if not size:
            continue
        position, bit = draw.randrange(size), draw.randrange(8)
        original = flip(file, position, bit)
        assert verify(path).problems, f"bit {bit} of byte {position} of {file.name} was flipped unseen"
        file.write_bytes(original)
    assert verify(path).problems == []


def test_a_flipped_bit_in_any_file_is_found(full: Path) -> None:
    check_flips(full, len(all_files(full)))


@pytest.mark.slow
def test_five_hundred_flipped_bits_are_found(full: Path) -> None:
    check_flips(full, 500)


@pytest.mark.slow
def test_every_byte_of_the_manifest_counts(full: Path) -> None:
    (manifest,) = [file for file in all_files(full) if file.name == "manifest.json"]
    for position in range(0, manifest.stat().st_size, 3):
        original = flip(manifest, position, position % 8)
        assert verify(full).problems, f"byte {position}"
        manifest.write_bytes(original)


def test_flipped_bits_are_found_before_sealing_too(path: Path) -> None:
    with samples.open_sample(path) as writer:
        fill(writer, n_chunks=2)
    result = verify(path)
    assert result.problems == []
    assert "not sealed" in result.notes[0]
    check_flips(path, len(all_files(path)))


def test_the_videos_hit_are_named(full: Path) -> None:
    name = "features/pooled/c.1.0.0.0" if full.suffix == ".zarr" else "chunks/000001.h5"
    file = open_store(full).files.locate(name)
    flip(file, 50, 0)
    result = verify(full)
    assert [(problem.file, problem.what) for problem in result.problems] == [(name, "damaged: its bytes have changed")]
    assert result.videos_hit == ["v003", "v004", "v005"]


def test_every_missing_file_is_found(full: Path) -> None:
    for file in all_files(full):
        if file.parent.name == "runs":  # what may come and go
            continue
        data = file.read_bytes()
        file.unlink()
        try:
            found = bool(verify(full).problems) or not open_store(full).sealed
        except (InputError, FileNotFoundError):
            found = True
        assert found, f"{file.name} was removed unseen"
        file.write_bytes(data)


def test_a_cut_file_is_found_and_says_how_much_is_gone(full: Path) -> None:
    name = "features/map/c.3.0.0.0.0.0" if full.suffix == ".zarr" else "chunks/000003.h5"
    file = open_store(full).files.locate(name)
    size = file.stat().st_size
    file.write_bytes(file.read_bytes()[:-1])
    (problem,) = verify(full).problems
    assert problem.what == f"damaged: {size - 1} bytes instead of {size}"
    assert problem.videos == ("v009",)


def test_a_foreign_file_is_found(full: Path) -> None:
    home = open_store(full).files.home
    ours = ("journal/000009.000003.json", "journal/notes.intent", "claims/notes", "staging/notes", "runs/notes")
    for name in ("notes.txt", "text/zarr.json.bak", "runs/.notes", "staging/000001.000003/x", *ours):
        stranger = home / name
        stranger.parent.mkdir(exist_ok=True, parents=True)
        stranger.write_text("hello")
        assert [problem.what.split(":")[0] for problem in verify(full).problems] == ["foreign"], name
        stranger.unlink()


def test_leftovers_of_a_killed_run_are_notes_not_damage(path: Path) -> None:
    with samples.open_sample(path) as writer:
        fill(writer, n_chunks=1)
        staged = writer.files.home / "staging" / "000001.000003-1-0123abcd" / "x"
        staged.parent.mkdir(parents=True)
        staged.write_text("half")
    result = verify(path)
    assert result.problems == []
    assert any("1 staged files" in note for note in result.notes)
    with samples.open_sample(path) as writer:
        fill(writer)
        writer.seal()
    assert verify(path).notes == []


def test_a_chunk_that_is_cut_is_an_error_to_read_not_a_crash(full: Path) -> None:
    name = "features/map/c.1.0.0.0.0.0" if full.suffix == ".zarr" else "chunks/000001.h5"
    file = open_store(full).files.locate(name)
    file.write_bytes(file.read_bytes()[:40])
    with pytest.raises(InputError, match="is cut short: run `fsar-store verify"):
        open_store(full).read("map", [4])
    file.unlink()
    with pytest.raises(FileNotFoundError, match="is missing: run `fsar-store verify"):
        open_store(full).read("map", [4])


@pytest.mark.parametrize("name", ["videos.csv", "store.json"])
def test_a_store_that_lacks_a_table_is_called_damaged(full: Path, name: str) -> None:
    open_store(full).files.locate(name).unlink()
    with pytest.raises(InputError, match=f"is damaged: {name} is missing; restore it from a copy.*fsar-store verify"):
        open_store(full)


def test_a_changed_recipe_does_not_open(full: Path) -> None:
    store = open_store(full)
    file = store.files.locate("store.json")
    file.write_bytes(file.read_bytes().replace(b"uniform-center", b"uniform-random"))
    with pytest.raises(InputError, match=r"store\.json is damaged"):
        open_store(full)
