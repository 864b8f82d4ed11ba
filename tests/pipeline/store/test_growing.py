"""Stores that grow, and text tables beside the features."""

from pathlib import Path

import numpy as np
import pytest

from fsar.errors import InputError
from fsar.pipeline.store import TextTable, VideoRow, extend_store, open_store, write_text
from fsar.pipeline.store.retry import Reset, reset_failed
from fsar.pipeline.store.verify import verify
from tests.pipeline.store import samples
from tests.pipeline.store.samples import bytes_of, expected, fill


class TestGrowing:
    def test_added_videos_give_the_bytes_of_a_store_made_at_once(self, sealed: Path, tmp_path: Path) -> None:
        more = samples.videos() + samples.videos(5, prefix="w")
        with extend_store(sealed, more) as writer:
            assert [video.video_id for video in writer.videos[10:]] == [f"w{row:03d}" for row in range(5)]
            assert writer.missing_parts() == {"train": 2, "test": 3}
            fill(writer)
            writer.seal()
        at_once = samples.write_sample(tmp_path / "at once" / sealed.name, more)
        assert bytes_of(sealed.parent) == bytes_of(at_once.parent)
        np.testing.assert_array_equal(open_store(sealed).load("map").numpy(), expected("map", more))

    def test_nothing_new_leaves_the_store_sealed(self, sealed: Path) -> None:
        before = bytes_of(sealed.parent)
        with extend_store(sealed, samples.videos(3)) as writer:
            assert writer.pending_chunks() == 0
        assert bytes_of(sealed.parent) == before

    def test_a_reader_of_the_old_rows_is_not_disturbed(self, sealed: Path) -> None:
        reader = open_store(sealed)
        reader.read("map", range(10))
        with extend_store(sealed, samples.videos() + samples.videos(5, prefix="w")) as writer:
            fill(writer)
        np.testing.assert_array_equal(reader.read("map", range(10), views=None), expected("map"))

    def test_a_reader_that_opened_before_and_reads_after_is_right_too(self, sealed: Path) -> None:
        reader = open_store(sealed)
        with extend_store(sealed, samples.videos() + samples.videos(5, prefix="w")) as writer:
            fill(writer)
        np.testing.assert_array_equal(reader.read("map", range(10), views=None), expected("map"))
        assert reader.status.tolist() == [1, 1, 1, 1, 2, 1, 1, 1, 1, 1]

    def test_a_store_in_use_does_not_grow(self, path: Path) -> None:
        with samples.open_sample(path) as writer:
            writer.claim()
            with pytest.raises(InputError, match="is being written"):
                extend_store(path, samples.videos(1, prefix="w"))

    def test_a_class_does_not_come_back_in_another_split_part(self, path: Path) -> None:
        samples.write_sample(path, [VideoRow("a", "falling", "train", "")])
        before = bytes_of(path.parent)
        with pytest.raises(InputError, match=r"class 'falling' is train in .* and test in the videos to add"):
            extend_store(path, [VideoRow("b", "falling", "test", "")])
        assert bytes_of(path.parent) == before


class TestRetry:
    def test_only_chunks_with_failures_are_encoded_again(self, sealed: Path) -> None:
        before = open_store(sealed)
        files = {name: (sealed.parent / name).stat().st_mtime_ns for name in bytes_of(sealed.parent)}
        assert reset_failed(sealed, allow_losses=True) == Reset(1, 3)
        assert reset_failed(sealed, allow_losses=True) == Reset(0, 0)
        with pytest.raises(InputError, match=r"not sealed: 3 of 10 videos are missing \(train 2, test 1\)"):
            open_store(sealed)
        with samples.open_sample(sealed) as writer:
            chunk = writer.claim()
            assert chunk is not None
            assert (chunk.index, chunk.rows) == (1, range(3, 6))
            writer.commit(chunk, samples.chunk_data(chunk, writer.videos, failed=()))
            assert writer.claim() is None
            writer.seal()
        after = open_store(sealed)
        assert after.status.tolist() == [1] * 10
        assert after.failures() == []
        assert not np.isnan(after.read("map", [4])).any()
        others = [row for row in range(10) if row != 4]
        np.testing.assert_array_equal(after.read("map", others), before.read("map", others))
        assert verify(sealed).problems == []
        kept = [name for name in files if "c.0" in name or "000000" in name]
        assert kept
        assert all((sealed.parent / name).stat().st_mtime_ns == files[name] for name in kept)

    def test_a_video_that_fails_again_gives_the_bytes_there_were(self, sealed: Path) -> None:
        before = bytes_of(sealed.parent)
        reset_failed(sealed, allow_losses=True)
        samples.write_sample(sealed)
        assert bytes_of(sealed.parent) == before

    def test_a_store_in_use_is_left_alone(self, path: Path) -> None:
        with samples.open_sample(path) as writer:
            fill(writer, n_chunks=2)
            writer.claim()
            with pytest.raises(InputError, match=r"is being written .* try failed videos again when that is done"):
                reset_failed(path, allow_losses=True)
        with pytest.raises(FileNotFoundError, match="no store at"):
            reset_failed(path.with_name(f"elsewhere, far from it{path.suffix}"))


class TestText:
    def test_tables_come_back_and_the_store_stays_sealed(self, sealed: Path) -> None:
        vectors = np.random.default_rng(0).standard_normal((2, 3, 5)).astype(np.float32)
        names = ("Pushing [something]", "naïve", "a,b\n")
        table = TextTable("clip-fsar", vectors, names, ("a photo of {}", "{}"), {"weights": "ab", "pooling": "eos"})
        write_text(sealed, table)
        store = open_store(sealed)
        assert store.text_tables() == ["clip-fsar"]
        assert store.text("clip-fsar").same_as(table)
        assert store.text("clip-fsar").row_of("naïve") == 1
        assert verify(sealed).problems == []
        with pytest.raises(InputError, match="did you mean clip-fsar"):
            store.text("clip")

    def test_no_trace_of_the_work_stays(self, sealed: Path) -> None:
        store = open_store(sealed)
        before = {file.name for file in store.files.home.iterdir()}
        write_text(store.path, TextTable("t", np.zeros((1, 1, 2), np.float32), ("a",), ("{}",)))
        assert {file.name for file in store.files.home.iterdir()} == before

    def test_another_table_of_the_same_name_needs_overwrite(self, sealed: Path) -> None:
        store = open_store(sealed)
        table = TextTable("t", np.zeros((1, 1, 2), np.float32), ("a",), ("{}",))
        write_text(store.path, table)
        write_text(store.path, table)
        wider = TextTable("t", np.zeros((1, 1, 4), np.float32), ("a",), ("{}",))
        with pytest.raises(InputError, match="has another text table 't'"):
            write_text(store.path, wider)
        write_text(store.path, wider, overwrite=True)
        assert open_store(sealed).text("t").vectors.shape == (1, 1, 4)

    def test_long_lists_of_names_fit(self, sealed: Path) -> None:
        names = tuple(f"a class with quite a long name, number {index}" for index in range(3000))
        table = TextTable("many", np.zeros((1, 3000, 2), np.float32), names, ("{}",))
        write_text(sealed, table)
        assert open_store(sealed).text("many").class_names == names

    def test_an_unsealed_store_takes_text_too(self, path: Path) -> None:
        with samples.open_sample(path) as writer:
            table = TextTable("t", np.zeros((1, 1, 2), np.float32), ("a",), ("{}",))
            write_text(path, table)
            fill(writer)
            writer.seal()
        assert open_store(path).text_tables() == ["t"]

    @pytest.mark.parametrize(
        ("name", "shape", "message"),
        [
            ("a/b", (1, 1, 2), "name must consist of"),
            ("t", (1, 2, 2), r"\(1, 1, D\), got \(1, 2, 2\)"),
            ("t", (1, 1), "got "),
        ],
    )
    def test_malformed_tables_are_refused(self, name: str, shape: tuple[int, ...], message: str) -> None:
        with pytest.raises(InputError, match=message):
            TextTable(name, np.zeros(shape, np.float32), ("a",), ("{}",))


def test_good_neighbours_whose_videos_are_gone_are_not_given_up(sealed: Path) -> None:
    with pytest.raises(InputError, match=r"keeps features of 2 videos that are no longer on the disk .*'v003'"):
        reset_failed(sealed)
    assert open_store(sealed).sealed
