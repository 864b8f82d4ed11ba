"""Rows taken from other stores: equal recipe, equal video, the same bytes as if they had been computed."""

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from fsar.cli.prep_encode import command
from fsar.pipeline.catalog.catalog import Catalog, CatalogRow, write_catalog
from fsar.pipeline.encode.reuse import same_numbers
from fsar.pipeline.store import open_store
from fsar.pipeline.store.describe import compare_stores
from tests.videos import write_clip

BASE = ["--backbone", "random:timm/test_resnet", "--size", "32", "--frames", "4", "--jobs", "0", "--device", "cpu"]


@pytest.fixture
def clips(tmp_path: Path) -> list[CatalogRow]:
    """Six videos of two classes."""
    rows = []
    for number in range(6):
        path = tmp_path / "videos" / f"v{number}.webm"
        write_clip(path, n_frames=6 + number)
        part = "train" if number < 3 else "test"
        rows.append(CatalogRow(f"v{number}", path, f"class {number // 3}", path.stat().st_size, part))
    return rows


def encode(tmp_path: Path, name: str, rows: list[CatalogRow], *options: object) -> str:
    catalog = tmp_path / f"{name}.csv"
    write_catalog(Catalog(tuple(rows), "clips"), catalog)
    arguments = [str(catalog), *BASE, *map(str, options), "--out", str(tmp_path / name)]
    result = CliRunner().invoke(command, arguments, standalone_mode=False)
    assert result.exception is None, result.output
    return result.output


def test_equal_rows_are_taken_and_the_bytes_are_those_of_a_computed_store(clips, tmp_path) -> None:
    (tmp_path / "shelf").mkdir()
    encode(tmp_path, "shelf/some.zarr", clips[:4], "--tap", "pooled", "--tap", "map")
    text = encode(tmp_path, "new.zarr", clips, "--tap", "pooled", "--reuse", tmp_path / "shelf")
    assert "4 videos taken from other stores" in text
    encode(tmp_path, "computed.zarr", clips, "--tap", "pooled")
    new, computed = open_store(tmp_path / "new.zarr"), open_store(tmp_path / "computed.zarr")
    assert compare_stores(new, computed)["equal"]
    assert new.identity == computed.identity


def test_all_of_it_and_by_address(clips, tmp_path) -> None:
    encode(tmp_path, "old.zarr", clips, "--tap", "pooled")
    address = (tmp_path / "old.zarr").as_uri()
    text = encode(tmp_path, "new.zarr", clips, "--tap", "pooled", "--reuse", address)
    assert "6 videos taken from other stores" in text
    assert open_store(tmp_path / "new.zarr").identity == open_store(tmp_path / "old.zarr").identity


def test_another_video_or_recipe_is_computed(clips, tmp_path) -> None:
    encode(tmp_path, "old.zarr", clips, "--tap", "pooled")
    write_clip(clips[2].path, n_frames=12)
    text = encode(tmp_path, "new.zarr", clips, "--tap", "pooled", "--reuse", tmp_path / "old.zarr")
    assert "5 videos taken" in text
    old, new = open_store(tmp_path / "old.zarr"), open_store(tmp_path / "new.zarr")
    assert not np.array_equal(old.read("pooled", ["v2"]), new.read("pooled", ["v2"]))
    text = encode(
        tmp_path, "wider.zarr", clips, "--tap", "pooled", "--dtype", "float32", "--reuse", tmp_path / "old.zarr"
    )
    assert "taken" not in text


def test_recipes_that_hold_the_same_numbers() -> None:
    recipe = {"taps": ["pooled"], "size": 32}
    assert same_numbers(recipe, {"taps": ["pooled", "map"], "size": 32})
    assert not same_numbers(recipe, {"taps": ["map"], "size": 32})
    assert not same_numbers(recipe, {"taps": ["pooled"], "size": 64})
    assert not same_numbers(recipe, {"taps": ["pooled"], "size": 32, "antialias": True})
