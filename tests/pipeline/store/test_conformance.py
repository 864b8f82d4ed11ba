"""What every store format promises."""

import pickle
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fsar.errors import InputError
from fsar.pipeline.store import FeatureStore, TapSpec, TextTable, create_store, extend_store, open_store
from fsar.pipeline.store.formats import register_format
from tests.pipeline.store import samples
from tests.pipeline.store.samples import CHUNK_ROWS, N_SLOTS, N_VIEWS, RECIPE, TAPS, bytes_of, expected, fill

FORMATS = [".h5", ".zarr"]


@pytest.fixture(scope="module", params=FORMATS)
def store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> FeatureStore:
    path = tmp_path_factory.mktemp("stores") / f"sample{request.param}"
    return open_store(samples.write_sample(path))


class TestReading:
    def test_loads_every_number_of_every_tap(self, store: FeatureStore) -> None:
        for tap in TAPS:
            loaded = store.load(tap)
            assert loaded.dtype == getattr(torch, TAPS[tap].dtype)
            np.testing.assert_array_equal(loaded.numpy(), expected(tap))

    def test_loads_some_rows_in_another_dtype(self, store: FeatureStore) -> None:
        loaded = store.load("pooled", rows=[9, 0], dtype=torch.float64)
        np.testing.assert_array_equal(loaded.numpy(), expected("pooled")[[9, 0]].astype(np.float64))

    @settings(max_examples=60, deadline=None)
    @given(data=st.data())
    def test_any_rows_views_and_slots_match_numpy(self, store: FeatureStore, data: st.DataObject) -> None:
        tap = data.draw(st.sampled_from(sorted(TAPS)))
        rows = np.array(data.draw(st.lists(st.integers(0, store.n_videos - 1), max_size=7)), np.int64)
        n_frames = data.draw(st.integers(1, 5))
        one_view = st.integers(0, N_VIEWS - 1)
        views = data.draw(st.none() | one_view | st.lists(one_view, min_size=len(rows), max_size=len(rows)))
        slots = st.lists(st.integers(0, N_SLOTS - 1), min_size=n_frames, max_size=n_frames)
        frames = data.draw(st.none() | slots | st.lists(slots, min_size=len(rows), max_size=len(rows)))
        if isinstance(views, list):
            views = np.array(views, np.int64)
        if frames is not None:
            frames = np.array(frames, np.int64).reshape((-1, n_frames) if frames == [] else np.shape(frames))
        wanted = expected(tap)[rows]  # (R, V, T, …)
        if views is not None:
            wanted = wanted[np.arange(len(rows)), views]
        if frames is not None:
            slot_axis = 2 if views is None else 1
            per_row = np.broadcast_to(frames, (len(rows), n_frames)) if frames.ndim == 1 else frames
            wanted = (
                np.stack(
                    [np.take(one, pick, axis=slot_axis - 1) for one, pick in zip(wanted, per_row, strict=True)]
                    or [np.empty((*wanted.shape[1:slot_axis], n_frames, *wanted.shape[slot_axis + 1 :]), wanted.dtype)][
                        :0
                    ]
                )
                if len(rows)
                else np.empty((0, *wanted.shape[1:slot_axis], n_frames, *wanted.shape[slot_axis + 1 :]))
            )
        found = store.read(tap, rows, views=views, frames=frames)
        np.testing.assert_array_equal(found, wanted)
        assert found.dtype == TAPS[tap].dtype

    def test_reads_torch_tensors_that_share_nothing_with_the_file(self, store: FeatureStore) -> None:
        tensor = store.read("pooled", [1, 2], as_torch=True)
        tensor.zero_()
        np.testing.assert_array_equal(store.read("pooled", [1, 2]), expected("pooled")[[1, 2], 0])

    def test_tells_where_frames_came_from(self, store: FeatureStore) -> None:
        assert store.frame_index([7])[0, 1].tolist() == [7, 8, 9, 10]
        assert store.frame_time([7])[0, 0, 1] == 8 / 12
        assert store.n_frames.tolist() == list(range(30, 40))
        assert store.source_sha256.shape == (10, 32)

    def test_knows_failed_videos(self, store: FeatureStore) -> None:
        assert store.status.tolist() == [1, 1, 1, 1, 2, 1, 1, 1, 1, 1]
        assert 4 not in store.ok_rows
        assert store.failures() == [(4, "empty", "no bytes")]
        assert np.isnan(store.read("pooled", [4])).all()

    def test_finds_rows_by_id_and_suggests_near_ones(self, store: FeatureStore) -> None:
        assert store.row_of("v007") == 7
        with pytest.raises(InputError, match="did you mean v00"):
            store.row_of("v0007")

    def test_refuses_rows_that_are_not_there(self, store: FeatureStore) -> None:
        with pytest.raises(IndexError, match="rows must be 0 to 9, got -1"):
            store.read("pooled", [0, -1])
        with pytest.raises(IndexError, match="views must be 0 to 1"):
            store.read("pooled", [0], views=2)
        with pytest.raises(IndexError, match="slots must be 0 to 3"):
            store.read("pooled", [0], frames=np.array([4]))
        with pytest.raises(TypeError, match="whole numbers"):
            store.read("pooled", [0.5])  # type: ignore[list-item]
        with pytest.raises(InputError, match="unknown tap 'poled': did you mean pooled"):
            store.read("poled", [0])

    def test_reads_the_same_in_threads_from_a_cold_start(self, store: FeatureStore) -> None:
        fresh = open_store(store.path)
        found: list[np.ndarray] = []

        def read(row: int) -> None:
            found.extend(np.array_equal(fresh.read("map", [row]), expected("map")[[row], 0]) for _ in range(20))

        threads = [threading.Thread(target=read, args=(row,)) for row in (0, 3, 5, 9)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert found == [True] * 80

    def test_survives_pickling_as_data_loaders_do(self, store: FeatureStore) -> None:
        store.read("pooled", [0])
        again = pickle.loads(pickle.dumps(store))
        np.testing.assert_array_equal(again.read("pooled", [8]), store.read("pooled", [8]))

    def test_reads_without_a_range_of_addresses(self, store: FeatureStore, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(*_: object) -> None:
            raise OSError("no such range")

        monkeypatch.setattr("fsar.pipeline.store.gather.AddressSpace", refuse)
        plain = open_store(store.path)
        frames = np.array([[1, 0], [2, 2], [3, 1]])
        for views in (0, None, np.array([1, 0, 1])):
            a, b = (s.read("map", [9, 0, 9], views=views, frames=frames) for s in (plain, store))
            np.testing.assert_array_equal(a, b)

    def test_data_loader_workers_read_it(self, store: FeatureStore) -> None:
        store.read("pooled", [0])  # workers may inherit maps or open their own
        loader = torch.utils.data.DataLoader(_Rows(store), batch_size=5, num_workers=1, multiprocessing_context="fork")
        found = torch.cat(list(loader))
        np.testing.assert_array_equal(found.numpy(), expected("pooled")[:, 0])


class _Rows(torch.utils.data.Dataset[torch.Tensor]):
    def __init__(self, store: FeatureStore) -> None:
        self.store = store

    def __len__(self) -> int:
        return self.store.n_videos

    def __getitem__(self, row: int) -> torch.Tensor:
        return self.store.read("pooled", [row], as_torch=True)[0]


class TestPlainLibraries:
    def test_other_programs_read_the_same_numbers(self, sealed: Path) -> None:
        assert set(_plain_arrays(sealed)) >= {"features/pooled", "features/map", "frame_index", "frame_time", "status"}
        for name, array in _plain_arrays(sealed).items():
            np.testing.assert_array_equal(array, open_store(sealed).read_array(name, range(10)))

    def test_the_folder_can_move(self, sealed: Path, tmp_path: Path) -> None:
        moved = tmp_path / "elsewhere"
        shutil.move(sealed.parent, moved)
        np.testing.assert_array_equal(_plain_arrays(moved / sealed.name)["features/map"], expected("map"))
        np.testing.assert_array_equal(open_store(moved / sealed.name).load("map").numpy(), expected("map"))

    def test_unfinished_rows_read_as_nan_and_pending_not_as_zeros(self, path: Path) -> None:
        with samples.open_sample(path) as writer:
            fill(writer, n_chunks=1)
        arrays = _plain_arrays(path)
        assert np.isnan(arrays["features/pooled"][CHUNK_ROWS:]).all()
        assert np.isnan(arrays["frame_time"][CHUNK_ROWS:]).all()
        assert arrays["status"].tolist() == [1, 1, 1] + [0] * 7

    def test_recipe_and_text_are_visible(self, sealed: Path) -> None:
        table = TextTable("clip", np.ones((2, 1, 3), np.float32), ("a class",), ("t1 {}", "t2 {}"), {"tower": "x"})
        open_store(sealed).write_text(table)
        if sealed.suffix == ".zarr":
            import zarr

            group = zarr.open_group(str(sealed), mode="r")
            assert group.attrs["recipe"] == RECIPE
            assert group["text/clip"].attrs["class_names"] == ["a class"]
            np.testing.assert_array_equal(group["text/clip"][...], table.vectors)
        else:
            import h5py

            with h5py.File(sealed, "r") as file:
                assert file.attrs["recipe_id"] == open_store(sealed).recipe_id
                assert file["text/clip"].attrs["class_names"] == '["a class"]'
                np.testing.assert_array_equal(file["text/clip"][...], table.vectors)

    def test_zarr_finds_a_flipped_byte_by_itself(self, tmp_path: Path) -> None:
        import zarr

        path = samples.write_sample(tmp_path / "a.zarr")
        chunk = path / "features" / "map" / "c.1.0.0.0.0.0"
        data = bytearray(chunk.read_bytes())
        data[5] ^= 1
        chunk.write_bytes(data)
        with pytest.raises(ValueError, match=r"(?i)checksum"):
            zarr.open_group(str(path), mode="r")["features/map"][3]


def _plain_arrays(path: Path) -> dict[str, np.ndarray]:
    names = [*(f"features/{tap}" for tap in TAPS), "frame_index", "frame_time", "status", "n_frames", "source_sha256"]
    if path.suffix == ".zarr":
        import zarr

        group = zarr.open_group(str(path), mode="r")
        return {name: group[name][...] for name in names}
    import h5py

    with h5py.File(path, "r") as file:
        return {name: file[name][...] for name in names}


class TestWriting:
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

    def test_a_store_in_use_does_not_grow(self, path: Path) -> None:
        with samples.open_sample(path) as writer:
            writer.claim()
            with pytest.raises(InputError, match="is being written"):
                extend_store(path, samples.videos(1, prefix="w"))


class TestText:
    def test_tables_come_back_and_the_store_stays_sealed(self, sealed: Path) -> None:
        from fsar.pipeline.store.verify import verify

        vectors = np.random.default_rng(0).standard_normal((2, 3, 5)).astype(np.float32)
        names = ("Pushing [something]", "naïve", "a,b\n")
        table = TextTable("clip-fsar", vectors, names, ("a photo of {}", "{}"), {"weights": "ab", "pooling": "eos"})
        open_store(sealed).write_text(table)
        store = open_store(sealed)
        assert store.text_tables() == ["clip-fsar"]
        assert store.text("clip-fsar").same_as(table)
        assert store.text("clip-fsar").row_of("naïve") == 1
        assert verify(sealed).problems == []
        with pytest.raises(InputError, match="did you mean clip-fsar"):
            store.text("clip")

    def test_another_table_of_the_same_name_needs_overwrite(self, sealed: Path) -> None:
        store = open_store(sealed)
        table = TextTable("t", np.zeros((1, 1, 2), np.float32), ("a",), ("{}",))
        store.write_text(table)
        store.write_text(table)
        wider = TextTable("t", np.zeros((1, 1, 4), np.float32), ("a",), ("{}",))
        with pytest.raises(InputError, match="has another text table 't'"):
            store.write_text(wider)
        store.write_text(wider, overwrite=True)
        assert open_store(sealed).text("t").vectors.shape == (1, 1, 4)

    def test_long_lists_of_names_fit(self, sealed: Path) -> None:
        names = tuple(f"a class with quite a long name, number {index}" for index in range(3000))
        table = TextTable("many", np.zeros((1, 3000, 2), np.float32), names, ("{}",))
        open_store(sealed).write_text(table)
        assert open_store(sealed).text("many").class_names == names

    def test_an_unsealed_store_takes_text_too(self, path: Path) -> None:
        with samples.open_sample(path) as writer:
            table = TextTable("t", np.zeros((1, 1, 2), np.float32), ("a",), ("{}",))
            open_store(path, allow_unsealed=True).write_text(table)
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
