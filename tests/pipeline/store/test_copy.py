"""Export, merge, compare: new stores from old ones with the same numbers."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fsar.errors import InputError
from fsar.pipeline.store import TextTable, VideoRow, create_store, list_formats, open_store, write_text
from fsar.pipeline.store.copy import export_store, merge_stores
from fsar.pipeline.store.describe import compare_stores, describe_store
from fsar.pipeline.store.retry import reset_failed
from fsar.pipeline.store.safetensors_file import export_safetensors
from fsar.pipeline.store.verify import verify
from tests.pipeline.store import samples
from tests.pipeline.store.samples import TAPS, bytes_of, expected, write_sample

TABLE = TextTable("clip", np.ones((1, 2, 3), np.float32), ("a", "b"), ("{}",), {"weights": "ff"})


@pytest.mark.parametrize("to", list_formats())
def test_a_store_comes_out_the_same_in_every_format(sealed: Path, tmp_path: Path, to: str) -> None:
    write_text(sealed, TABLE)
    exported = export_store(sealed, tmp_path / f"exported{to}")
    assert compare_stores(sealed, exported.path)["equal"]
    assert exported.failures() == open_store(sealed).failures()
    assert exported.text("clip").same_as(TABLE)
    assert exported.videos == open_store(sealed).videos
    for name in ("frame_index", "frame_time", "n_frames", "source_sha256"):
        a, b = (store.read_array(name, range(10)) for store in (exported, open_store(sealed)))
        np.testing.assert_array_equal(a, b)
    assert verify(exported.path).problems == []


def test_parts_classes_and_taps_can_be_chosen(sealed: Path, tmp_path: Path) -> None:
    exported = export_store(
        sealed, tmp_path / f"some{sealed.suffix}", taps=["map"], parts=["test"], classes=["class 0", "class 2"]
    )
    assert [video.video_id for video in exported.videos] == ["v005", "v006", "v008", "v009"]
    assert list(exported.taps) == ["map"]
    np.testing.assert_array_equal(exported.load("map").numpy(), expected("map")[[5, 6, 8, 9]])


def test_unknown_parts_classes_and_taps_suggest_names(sealed: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.zarr"
    with pytest.raises(InputError, match="unknown split part 'tset': did you mean test"):
        export_store(sealed, out, parts=["tset"])
    with pytest.raises(InputError, match="unknown class 'class 7': did you mean class"):
        export_store(sealed, out, classes=["class 7"])
    with pytest.raises(InputError, match="unknown tap 'maps': did you mean map"):
        export_store(sealed, out, taps=["maps"])
    assert not out.exists()


def test_an_export_that_was_interrupted_goes_on(sealed: Path, tmp_path: Path) -> None:
    class StopError(Exception):
        pass

    def stop(n_rows: int) -> None:
        raise StopError

    target = tmp_path / "interrupted" / f"a{sealed.suffix}"
    target.parent.mkdir()
    with pytest.raises(StopError):
        export_store(sealed, target, advance=stop)
    with pytest.raises(InputError, match="not sealed"):
        open_store(target)
    export_store(sealed, target)
    whole = export_store(sealed, tmp_path / "at once" / f"a{sealed.suffix}").path
    assert bytes_of(target.parent) == bytes_of(whole.parent)


def test_an_export_waits_for_another_one_to_the_same_target(
    sealed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / f"target{sealed.suffix}"
    with samples.open_sample(target) as other:
        chunk = other.claim()
        assert chunk is not None
        monkeypatch.setattr("time.sleep", lambda seconds: other.release(chunk))
        assert export_store(sealed, target).sealed
    assert compare_stores(sealed, target)["equal"]


def test_an_older_copy_is_not_taken_for_the_store_of_today(sealed: Path, tmp_path: Path) -> None:
    target = tmp_path / f"target{sealed.suffix}"
    export_store(sealed, target)
    reset_failed(sealed, allow_losses=True)
    with samples.open_sample(sealed) as writer:
        chunk = writer.claim()
        assert chunk is not None
        writer.commit(chunk, samples.chunk_data(chunk, writer.videos, failed=()))
        writer.seal()
    with pytest.raises(InputError, match=r"target.* holds an older copy, .*'v004' is another: remove it or choose"):
        export_store(sealed, target)


def test_taps_named_in_any_order_or_twice_make_one_recipe(sealed: Path, tmp_path: Path) -> None:
    recipe = samples.RECIPE | {"taps": ["pooled", "map", "other"]}
    taps = TAPS | {"other": TAPS["pooled"]}
    rows = samples.videos(2)
    source = tmp_path / f"three{sealed.suffix}"
    with create_store(
        source, videos=rows, taps=taps, recipe=recipe, n_views=samples.N_VIEWS, n_slots=samples.N_SLOTS
    ) as writer:
        chunk = writer.claim()
        assert chunk is not None
        data = samples.chunk_data(chunk, rows)
        writer.commit(chunk, replace(data, features={**data.features, "other": data.features["pooled"]}))
        writer.seal()
    orders = (["pooled", "map"], ["map", "pooled"], ["map", "pooled", "map"])
    copies = [export_store(source, tmp_path / f"{i}.zarr", taps=order) for i, order in enumerate(orders)]
    assert [copy.recipe["taps"] for copy in copies] == [["pooled", "map"]] * 3


def test_a_store_is_not_exported_onto_itself(sealed: Path) -> None:
    with pytest.raises(InputError, match="is one of the stores to copy from"):
        export_store(sealed, sealed)


def test_merged_stores_hold_all_videos_grouped_by_part(path: Path, tmp_path: Path) -> None:
    other = write_sample(tmp_path / "other.zarr", samples.videos(6, prefix="w"))
    write_sample(path)
    write_text(other, TABLE)
    merged = merge_stores([path, other], tmp_path / f"merged{path.suffix}")
    assert [video.part for video in merged.videos] == ["train"] * 8 + ["test"] * 8
    for video in merged.videos:
        row = merged.row_of(video.video_id)
        found = merged.read("map", [row], views=None)
        np.testing.assert_array_equal(found, expected("map", [video]))
    assert merged.failures() == [(merged.row_of("v004"), "empty", "no bytes")]
    assert merged.text_tables() == ["clip"]


def test_stores_that_do_not_fit_are_not_merged(sealed: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"'v000' is in .*sample.* and in .*same"):
        merge_stores([sealed, write_sample(tmp_path / "same.zarr", samples.videos(2))], tmp_path / "m.zarr")
    other = tmp_path / "other.zarr"
    recipe = samples.RECIPE | {"sampler": "dense"}
    shape = {"n_views": samples.N_VIEWS, "n_slots": samples.N_SLOTS}
    with create_store(other, videos=samples.videos(2, prefix="x"), taps=TAPS, recipe=recipe, **shape) as writer:
        samples.fill(writer)
        writer.seal()
    with pytest.raises(InputError, match="differ in sampler: 'uniform-center' != 'dense'"):
        merge_stores([sealed, other], tmp_path / "m.zarr")
    with pytest.raises(InputError, match="at least two"):
        merge_stores([sealed], tmp_path / "m.zarr")
    assert not (tmp_path / "m.zarr").exists()


def test_a_class_of_two_split_parts_is_not_merged(sealed: Path, tmp_path: Path) -> None:
    parts = {}
    for part in ("train", "test", ""):
        rows = [VideoRow(f"{part}{row}", "falling", part, "") for row in range(2)]
        parts[part] = write_sample(tmp_path / f"{part or 'none'}{sealed.suffix}", rows)
    with pytest.raises(InputError, match=r"class 'falling' is train in .*train.* and test in .*test.*: use one split"):
        merge_stores([parts[""], parts["train"], parts["test"]], tmp_path / "m.zarr")
    assert merge_stores([parts[""], parts["train"]], tmp_path / "m.zarr").sealed


def test_one_safetensors_file_holds_it_all(sealed: Path, tmp_path: Path) -> None:
    import json

    from safetensors import safe_open

    target = export_safetensors(sealed, tmp_path / "flat.safetensors", parts=["train"])
    with safe_open(target, "numpy") as file:
        np.testing.assert_array_equal(file.get_tensor("features/map"), expected("map")[:5])
        np.testing.assert_array_equal(file.get_tensor("features/pooled"), expected("pooled")[:5])
        assert file.get_tensor("status").tolist() == [1, 1, 1, 1, 2]
        assert file.get_tensor("frame_time").shape == (5, samples.N_VIEWS, samples.N_SLOTS)
        about = file.metadata()
    assert json.loads(about["videos"])[1] == ["v001", "class 1", "train"]
    assert about["recipe_id"] == open_store(sealed).recipe_id


def test_compare_names_what_differs(sealed: Path, tmp_path: Path) -> None:
    rows = samples.videos(8)
    other = tmp_path / f"other{sealed.suffix}"
    recipe = samples.RECIPE | {"mean": [0.5, 0.5]}
    shape = {"n_views": samples.N_VIEWS, "n_slots": samples.N_SLOTS}
    with create_store(other, videos=rows, taps=TAPS, recipe=recipe, chunk_rows=8, **shape) as writer:
        chunk = writer.claim()
        assert chunk is not None
        data = samples.chunk_data(chunk, rows, failed=())
        data.features["map"][6, 1, 2, 0, 0, 0] += 0.5
        writer.commit(chunk, data)
        writer.seal()
    found = compare_stores(sealed, other)
    assert not found["equal"]
    assert found["recipe"] == ["mean: [0.5, 0.25] != [0.5, 0.5]"]
    assert found["only_in_a"] == ["v008", "v009"]
    assert found["only_in_b"] == []
    assert found["other_status"] == ["v004"]
    assert found["taps"]["map"] == {"max_abs_difference": pytest.approx(0.5, abs=1e-6), "video": "v006"}
    assert found["taps"]["pooled"]["max_abs_difference"] == 0


@pytest.mark.parametrize("field", ["source_sha256", "n_frames", "frame_index", "frame_time", "class_name", "part"])
def test_stores_are_equal_in_everything_or_not_equal(sealed: Path, tmp_path: Path, field: str) -> None:
    rows, other = samples.videos(), tmp_path / f"other{sealed.suffix}"
    if field in ("class_name", "part"):
        rows[6] = replace(rows[6], **{field: "another"})
    with samples.open_sample(other, rows) as writer:
        while (chunk := writer.claim()) is not None:
            data = samples.chunk_data(chunk, rows)
            if 6 in chunk.rows and field not in ("class_name", "part"):
                getattr(data, field)[6 - chunk.rows.start] += 1
            writer.commit(chunk, data)
        writer.seal()
    found = compare_stores(sealed, other)
    lists = {"frame_index": "other_frames", "frame_time": "other_frames", "class_name": "other_class_or_part"}
    lists |= {"part": "other_class_or_part"}
    assert found[lists.get(field, "other_source")] == ["v006"]
    assert not found["equal"]


def test_description_counts_by_part(path: Path) -> None:
    with samples.open_sample(path) as writer:
        samples.fill(writer, n_chunks=2)
    data = describe_store(path)
    assert data["parts"] == {
        "train": {"videos": 5, "ok": 4, "failed": 1, "pending": 0},
        "test": {"videos": 5, "ok": 1, "failed": 0, "pending": 4},
    }
    assert data["failures"] == {"empty": 1}
    assert data["taps"]["map"]["bytes"] == expected("map").nbytes
    assert not data["sealed"]


def test_merged_rows_are_one_run_per_class(path: Path, tmp_path: Path) -> None:
    classes = {"a": ["up", "down"], "b": ["down", "left", "up"]}
    stores = []
    for prefix, names in classes.items():
        videos = [VideoRow(f"{prefix}{name}{i}", name, "train", "") for name in names for i in range(2)]
        stores.append(write_sample(tmp_path / f"{prefix}{path.suffix}", videos))
    merged = merge_stores(stores, tmp_path / f"m{path.suffix}")
    assert [video.class_name for video in merged.videos] == ["up"] * 4 + ["down"] * 4 + ["left"] * 2
