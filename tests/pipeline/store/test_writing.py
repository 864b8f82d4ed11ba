"""Writing: the same bytes whoever writes, and refusals that say what to do."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from fsar.errors import InputError
from fsar.pipeline.store import TapSpec, create_store, open_store
from fsar.pipeline.store.format.registry import register_format
from tests.pipeline.store import samples
from tests.pipeline.store.samples import RECIPE, TAPS, bytes_of, expected, fill


class TestWriting:
    def test_a_difference_is_listed_once(self, path: Path) -> None:
        wanted = {"videos": samples.videos(4), "taps": TAPS, "n_views": 1}
        create_store(path, **wanted, n_slots=8, recipe=RECIPE | {"n_slots": 8}).close()
        with pytest.raises(InputError, match=r"another recipe \(n_slots: 8 != 4\)"):
            create_store(path, **wanted, n_slots=4, recipe=RECIPE | {"n_slots": 4})

    def test_the_same_bytes_whoever_wrote_them_and_when(self, path: Path, tmp_path: Path) -> None:
        other = tmp_path / "there" / path.name
        with samples.open_sample(path) as first, samples.open_sample(path) as second:
            fill(second, n_chunks=1)
            fill(first, n_chunks=2)
            fill(second)
            second.seal()
        samples.write_sample(other)
        assert bytes_of(path.parent) == bytes_of(other.parent)

    def test_a_finished_chunk_is_never_rewritten(self, path: Path) -> None:
        with samples.open_sample(path) as writer:
            fill(writer, n_chunks=2)
            before = {name: (path.parent / name).stat().st_mtime_ns for name in bytes_of(path.parent)}
        with samples.open_sample(path) as writer:
            fill(writer)
        after = {name: (path.parent / name).stat().st_mtime_ns for name in before if (path.parent / name).exists()}
        assert after == {name: before[name] for name in after}
        assert len(after) > 5

    def test_a_late_second_commit_changes_nothing(self, path: Path) -> None:
        with samples.open_sample(path) as writer:
            chunk = writer.claim()
            assert chunk is not None
            writer.commit(chunk, samples.chunk_data(chunk, writer.videos))
            before = bytes_of(path.parent)
            other = samples.chunk_data(chunk, writer.videos)
            other.features["map"][:] = 7  # as from another machine, not even the same numbers
            writer.commit(chunk, other)
            assert bytes_of(path.parent) == before

    def test_opening_an_unsealed_store_says_what_is_missing(self, path: Path) -> None:
        with samples.open_sample(path) as writer:
            fill(writer, n_chunks=1)
            with pytest.raises(InputError, match=r"7 of 10 videos are missing \(train 2, test 5\)"):
                writer.seal()
        with pytest.raises(InputError, match=r"not sealed: 7 of 10 videos are missing \(train 2, test 5\).*encode"):
            open_store(path)
        partial = open_store(path, allow_unsealed=True)
        np.testing.assert_array_equal(partial.read("map", [2]), expected("map")[[2], 0])
        assert partial.missing_rows().tolist() == list(range(3, 10))
        with pytest.raises(InputError, match=r"rows 3 to 5 .* not encoded yet"):
            partial.read("map", [0, 4])

    def test_a_complete_store_without_a_manifest_names_the_command(self, path: Path) -> None:
        with samples.open_sample(path) as writer:
            fill(writer)
        with pytest.raises(InputError, match="run `fsar-store seal"):
            open_store(path)

    def test_another_recipe_is_refused_field_by_field(self, sealed: Path) -> None:
        other = RECIPE | {"sampler": "dense"}
        with pytest.raises(InputError, match="sampler: 'uniform-center' != 'dense'"):
            create_store(sealed, videos=samples.videos(), taps=TAPS, n_views=2, n_slots=4, recipe=other)
        with pytest.raises(InputError, match="n_slots: 4 != 8"):
            create_store(sealed, videos=samples.videos(), taps=TAPS, n_views=2, n_slots=8, recipe=RECIPE)
        taps = TAPS | {"map": TapSpec((9,), "float32")}
        with pytest.raises(InputError, match=r"taps.map.shape: \[3, 2, 2\] != \[9\]"):
            create_store(sealed, videos=samples.videos(), taps=taps, n_views=2, n_slots=4, recipe=RECIPE)
        with pytest.raises(InputError, match=r"2 of this list are not in it.*fsar-store add"):
            samples.open_sample(sealed, samples.videos() + samples.videos(2, prefix="w"))

    def test_a_video_listed_twice_is_refused(self, path: Path) -> None:
        with pytest.raises(InputError, match=r"'v000' is listed twice \(rows 0 and 10\)"):
            samples.open_sample(path, samples.videos() + samples.videos(1))

    def test_somebody_elses_folder_is_left_alone(self, path: Path) -> None:
        path.mkdir()
        (path / "thesis.tex").write_text("years of work")
        with pytest.raises(InputError, match="not a store of fsar"):
            samples.open_sample(path)
        assert bytes_of(path.parent) == {f"{path.name}/thesis.tex": b"years of work"}

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"n_frames": np.zeros(2, np.int32)}, r"n_frames must have shape \(3,\), got \(2,\)"),
            ({"status": np.zeros(3, np.uint8)}, "status must be 1"),
            ({"failures": [(1, "empty", "")]}, "failures must name exactly the rows"),
            ({"features": {}}, "missing or left over: features/map, features/pooled"),
        ],
    )
    def test_numbers_that_do_not_fit_are_refused(self, path: Path, change: dict, message: str) -> None:
        with samples.open_sample(path) as writer:
            chunk = writer.claim()
            assert chunk is not None
            data = samples.chunk_data(chunk, writer.videos)
            for name, value in change.items():
                setattr(data, name, value)
            with pytest.raises(InputError, match=message):
                writer.commit(chunk, data)

    def test_float64_features_are_not_cut_in_silence(self, path: Path) -> None:
        with samples.open_sample(path) as writer:
            chunk = writer.claim()
            assert chunk is not None
            data = samples.chunk_data(chunk, writer.videos)
            data.features = {tap: array.astype(np.float64) for tap, array in data.features.items()}
            with pytest.raises(InputError, match="features/map must be float32, got float64"):
                writer.commit(chunk, data)

    def test_recorded_runs_are_not_part_of_the_identity(self, sealed: Path) -> None:
        before = open_store(sealed).recipe_id
        with samples.open_sample(sealed) as writer:
            writer.record_run({"device": "cpu", "batch_size": 8})
            writer.record_run({"device": "cpu", "batch_size": 8})
        from fsar.pipeline.store.describe import describe_store

        runs = describe_store(sealed)["runs"]
        assert [run["batch_size"] for run in runs] == [8]
        assert open_store(sealed).recipe_id == before


def test_suffixes_are_known_and_taken_once(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"must end in \.h5 or \.zarr"):
        open_store(tmp_path / "store.npz")
    with pytest.raises(ValueError, match="is taken"):
        register_format(".zarr")(lambda: None)  # type: ignore[arg-type,return-value]


def test_nothing_there_is_said_plainly(path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no store at"):
        open_store(path)


def test_a_master_without_its_parts_is_said_plainly(tmp_path: Path) -> None:
    path = samples.write_sample(tmp_path / "a.h5")
    shutil.rmtree(tmp_path / "a.h5.parts")
    with pytest.raises(FileNotFoundError, match=r"lacks its folder a\.h5\.parts"):
        open_store(path)
