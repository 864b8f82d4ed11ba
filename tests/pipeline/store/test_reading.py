"""Reading: any rows, views and slots, in threads, workers and on odd systems."""

import pickle
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fsar.errors import InputError
from fsar.pipeline.store import ChunkData, FeatureStore, TapSpec, VideoRow, create_store, open_store
from tests.pipeline.store import samples
from tests.pipeline.store.samples import N_SLOTS, N_VIEWS, TAPS, expected

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

    def test_no_more_chunks_stay_mapped_than_the_system_allows(
        self, store: FeatureStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("fsar.pipeline.store.gather.MAX_MAPS", 2)
        limited = open_store(store.path)
        frames = np.array([[1, 0], [2, 2], [3, 1]])
        for views in (0, None, np.array([1, 0, 1])):
            a, b = (s.read("map", [9, 0, 9], views=views, frames=frames) for s in (limited, store))
            np.testing.assert_array_equal(a, b)
        for rows in ([0, 4], [8, 1, 9, 3], range(10)):
            np.testing.assert_array_equal(limited.read("map", rows), store.read("map", rows))
        once = open_store(store.path)
        for row in range(10):
            once.read("map", [row])
            assert len(once._gather("map")._chunks) <= 2

    def test_chunks_that_were_mapped_first_give_way_one_by_one(
        self, store: FeatureStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("fsar.pipeline.store.gather.max_maps", lambda: 2)
        store, opened = open_store(store.path), list[int]()
        gather, step = store._gather("pooled"), store.layout.chunk_rows
        chunk = gather.chunk
        monkeypatch.setattr(gather, "chunk", lambda index: opened.append(index) or chunk(index))
        everything = expected("pooled")[:, 0]
        for rows in ([0, step], [2 * step], [step, 2 * step], [0], [2 * step, 0]):
            np.testing.assert_array_equal(store.read("pooled", rows), everything[rows])
        assert opened == [0, 1, 2, 0]
        np.testing.assert_array_equal(store.read("pooled", range(store.n_videos)), everything)
        assert len(gather._chunks) == 2

    def test_a_store_of_more_chunks_than_files_may_be_open_is_read(self, tmp_path: Path) -> None:
        """Once at random, row by row, and all rows at once; each mapped chunk keeps a file open."""
        path, n_videos = tmp_path / "many.zarr", 120
        videos = [VideoRow(f"v{row:03d}", "x", "train", f"{row}.mp4") for row in range(n_videos)]
        taps = {"pooled": TapSpec((2,), "float32")}
        with create_store(path, videos=videos, taps=taps, n_views=1, n_slots=1, recipe={}, chunk_rows=1) as writer:
            while (chunk := writer.claim()) is not None:
                row = chunk.rows.start
                numbers = np.int32([[[row]]]), np.float64([[[0]]]), np.uint8([1]), np.int32([1])
                hashed = np.full((1, 32), row, np.uint8)
                writer.commit(chunk, ChunkData({"pooled": np.full((1, 1, 1, 2), row, np.float32)}, *numbers, hashed))
            writer.seal()
        ended = subprocess.run([sys.executable, "-c", FEW_FILES, str(path)], capture_output=True, text=True)
        assert ended.returncode == 0, ended.stderr

    def test_data_loader_workers_read_it(self, store: FeatureStore) -> None:
        store.read("pooled", [0])  # workers may inherit maps or open their own
        loader = torch.utils.data.DataLoader(_Rows(store), batch_size=5, num_workers=1, multiprocessing_context="fork")
        found = torch.cat(list(loader))
        np.testing.assert_array_equal(found.numpy(), expected("pooled")[:, 0])


FEW_FILES = """
import resource, sys
import numpy as np
from fsar.pipeline.store import open_store
resource.setrlimit(resource.RLIMIT_NOFILE, (64, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
store = open_store(sys.argv[1])
rows = np.random.default_rng(0).permutation(len(store.videos))
assert (store.read("pooled", rows)[:, 0, 0] == rows).all()
for row in rows:
    assert store.read("pooled", [row])[0, 0, 0] == row
"""


class _Rows(torch.utils.data.Dataset[torch.Tensor]):
    def __init__(self, store: FeatureStore) -> None:
        self.store = store

    def __len__(self) -> int:
        return self.store.n_videos

    def __getitem__(self, row: int) -> torch.Tensor:
        return self.store.read("pooled", [row], as_torch=True)[0]


def test_rows_may_be_named_by_video_ids(sealed: Path) -> None:
    store = open_store(sealed)
    ids = [store.videos[row].video_id for row in (3, 0)]
    np.testing.assert_array_equal(store.read("map", ids), store.read("map", [3, 0]))
    assert torch.equal(store.load("pooled", rows=ids), store.load("pooled", rows=[3, 0]))
    with pytest.raises(InputError, match="no_such"):
        store.read("map", ["no_such"])


@pytest.mark.parametrize("rows", ["v001", 3, {1, 2}, {0: 1}, None, ["v001", 2], [2, "v001"], np.int64(3), np.array(3)])
def test_rows_that_are_no_list_of_one_kind_are_one_clear_error(sealed: Path, rows: object) -> None:
    store = open_store(sealed)
    with pytest.raises(TypeError, match="rows must be "):
        store.read("pooled", rows)  # type: ignore[call-overload]


def test_a_store_opened_by_a_relative_path_is_read_from_anywhere(
    sealed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(sealed.parent)
    store = open_store(sealed.name)
    packed = pickle.dumps(store)
    monkeypatch.chdir(tmp_path)
    assert str(store.path) == sealed.name
    np.testing.assert_array_equal(store.read("map", [8]), expected("map")[[8], 0])
    np.testing.assert_array_equal(pickle.loads(packed).read("map", [8]), expected("map")[[8], 0])
    assert store.status.size == 10
    assert store.text_tables() == []
