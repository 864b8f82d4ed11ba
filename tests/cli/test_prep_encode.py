import json

import pytest
from click.testing import CliRunner

from fsar.cli import prep_encode
from fsar.cli.prep_encode import command
from fsar.errors import InputError
from fsar.pipeline.catalog.catalog import Catalog, CatalogRow, write_catalog
from fsar.pipeline.encode import recipe
from fsar.pipeline.pixels import spec
from fsar.pipeline.store import open_store
from tests.videos import cut_file, write_clip

BASE = ["--backbone", "random:timm/test_resnet", "--size", "32", "--frames", "4", "--jobs", "0", "--device", "cpu"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    rows = []
    for index, part in enumerate(("train", "train", "val", "test")):
        path = write_clip(folder / f"{index}.mp4", n_frames=12 + index)
        rows.append(CatalogRow(str(index), path, f"class {index % 2}", path.stat().st_size, part))
    write_catalog(Catalog(tuple(rows), "folder"), folder / "catalog.csv")
    return folder


def run(*arguments):
    return CliRunner().invoke(command, [str(argument) for argument in arguments], standalone_mode=False)


def test_a_catalog_becomes_a_store_in_either_format(folder, tmp_path):
    for form, suffix in (("zarr", ".zarr"), ("hdf5", ".h5")):
        result = run(
            folder / "catalog.csv", *BASE, "--tap", "pooled", "--tap", "map", "--format", form, "--out", tmp_path / "s"
        )
        assert result.exception is None
        assert result.return_value == 0
        assert "4 videos, 0 failed" in result.stdout
        assert "compute" in result.stdout
        store = open_store(tmp_path / f"s{suffix}")
        assert sorted(store.taps) == ["map", "pooled"]
        assert [video.part for video in store.videos] == ["train", "train", "val", "test"]
        assert store.read("pooled", [0, 3]).shape[:2] == (2, 4)


def test_running_it_again_finds_nothing_to_do_and_another_recipe_is_refused(folder, tmp_path):
    words = [folder / "catalog.csv", *BASE, "--out", tmp_path / "s.zarr"]
    assert run(*words).return_value == 0
    assert "nothing was left to encode" in run(*words).stdout
    other = run(*words, "--sampler", "dense")
    assert isinstance(other.exception, InputError)
    assert "sampler: 'uniform-center' != 'dense'" in str(other.exception)


def test_the_summary_as_json(folder, tmp_path):
    data = json.loads(run(folder / "catalog.csv", *BASE, "--limit", 2, "--out", tmp_path / "s.zarr", "--json").stdout)
    assert (data["n_videos"], data["n_encoded"], data["n_failed"]) == (2, 2, 0)
    assert sum(data["shares"].values()) == pytest.approx(1)
    assert data["peak_memory_bytes"] > 0


def test_a_dry_run_writes_nothing_and_says_everything(folder, tmp_path):
    words = [folder / "catalog.csv", *BASE, "--slots", 6, "--views", 2, "--out", tmp_path / "s.zarr", "--dry-run"]
    data = json.loads(run(*words, "--json").stdout)
    assert data["recipe"]["n_slots"] == 6
    assert data["recipe"]["jitter"]
    assert not data["recipe"]["flip"]
    assert data["recipe"]["pretrained"] == "random@0"
    (width,) = data["taps"]["pooled"]["shape"]
    assert data["bytes"] == 4 * 2 * 6 * width * 2
    assert "nothing written" in run(*words).stdout
    assert not list(tmp_path.iterdir())


def test_videos_that_cannot_be_read_are_listed_and_the_exit_code_is_1(folder, tmp_path):
    rows = []
    for name in ("good", "cut", "text", "empty"):
        path = write_clip(tmp_path / f"{name}.mp4", n_frames=30)
        rows.append(CatalogRow(name, path, "x", 1))
    cut_file(rows[1].path, 0.4)
    rows[2].path.write_text("not a video")
    rows[3].path.write_bytes(b"")
    gone = CatalogRow("gone", tmp_path / "gone.mp4", "x", 1)
    write_catalog(Catalog((*rows, gone), "folder"), tmp_path / "catalog.csv")
    result = run(tmp_path / "catalog.csv", *BASE, "--out", tmp_path / "s.zarr")
    assert result.return_value == 1
    assert "5 videos, 4 failed" in result.stdout
    for line in ("failed: gone (missing)", "failed: empty (empty)", "failed: text ("):
        assert line in result.stderr
    listed = next(path for path in tmp_path.rglob("failures.csv")).read_text()
    assert all(name in listed for name in ("cut", "text", "empty", "gone"))
    store = open_store(tmp_path / "s.zarr")
    assert [store.videos[row].video_id for row in store.ok_rows] == ["good"]


def test_folders_of_frames_are_videos_too(tmp_path):
    from PIL import Image

    from tests.videos import numbered_frame

    for index in range(6):
        path = tmp_path / "clip" / f"{index}.jpg"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(numbered_frame(index, (64, 48))).save(path)
    rows = (CatalogRow("clip", tmp_path / "clip", "x", 1),)
    write_catalog(Catalog(rows, "folder"), tmp_path / "catalog.csv")
    assert run(tmp_path / "catalog.csv", *BASE, "--out", tmp_path / "s.zarr").return_value == 0
    assert open_store(tmp_path / "s.zarr").n_frames.tolist() == [6]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--out", "s"], "must end in .zarr or .h5"),
        (["--out", "s.h5", "--format", "zarr"], "name it s.zarr"),
        (["--out", "s.zarr", "--slots", "2"], "--slots must be at least --frames 4"),
        (["--out", "s.zarr", "--tap", "poled"], "did you mean pooled"),
        (["--out", "s.zarr", "--decoder", "pyavv"], "did you mean pyav"),
        (["--out", "s.zarr", "--views", "1", "--flip"], "2 views or more"),
        (["--out", "s.zarr", "--split", "ssv2-cnm"], "did you mean"),
        (["--out", "s.zarr", "--device", "gpu"], "unknown device"),
    ],
)
def test_mistakes_are_one_clear_line(folder, tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    result = run(folder / "catalog.csv", *BASE, *words)
    assert isinstance(result.exception, InputError)
    assert message in str(result.exception)


@pytest.mark.parametrize("words", [["--frames", "100000000"], ["--slots", "4097"]])
def test_a_number_of_frames_out_of_all_bounds_is_refused_at_once(folder, tmp_path, words):
    result = CliRunner().invoke(prep_encode.command, [str(folder / "catalog.csv"), *BASE, "--out", "s.zarr", *words])
    assert result.exit_code == 2
    assert "<=4096" in result.output


@pytest.mark.parametrize("seconds", ["nan", "inf", "0", "1e9"])
def test_a_timeout_that_no_clock_can_keep_is_refused_at_once(folder, seconds):
    words = [str(folder / "catalog.csv"), *BASE, "--out", "s.zarr", "--timeout-seconds", seconds]
    result = CliRunner().invoke(prep_encode.command, words)
    assert result.exit_code == 2
    assert "--timeout-seconds" in result.output


def test_the_choices_are_those_of_the_package():
    assert set(prep_encode.NORMALISATIONS) == {"backbone", *spec.NORMALISATIONS}
    assert prep_encode.PRECISIONS == recipe.PRECISIONS
    assert prep_encode.RESIZE_MODES == spec.RESIZE_MODES
