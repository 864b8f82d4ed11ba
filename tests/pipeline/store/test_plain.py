"""The files are ordinary zarr and HDF5: other programs read the same numbers."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from fsar.pipeline.store import TextTable, open_store, write_text
from tests.pipeline.store import samples
from tests.pipeline.store.samples import CHUNK_ROWS, RECIPE, TAPS, expected, fill


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
        write_text(sealed, table)
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
