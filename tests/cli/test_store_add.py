"""`fsar-store add` and `retry` with the real decoder and a tiny backbone."""

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from fsar.cli import store as cli
from fsar.pipeline.backbones import load_backbone, save_weights
from fsar.pipeline.catalog.catalog import Catalog, CatalogRow, write_catalog
from fsar.pipeline.encode.encode import EncodeOptions, encode
from fsar.pipeline.encode.engine import EngineOptions
from fsar.pipeline.store import VideoRow, extend_store, open_store
from fsar.pipeline.store.describe import compare_stores
from tests.videos import cut_file, write_clip

OPTIONS = EncodeOptions(
    "random:timm/test_resnet", n_slots=2, size=32, chunk_bytes=4096, engine=EngineOptions(device="cpu", jobs=0)
)


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[CatalogRow]:
    folder = tmp_path_factory.mktemp("clips")
    paths = [write_clip(folder / f"v{index}.mp4", n_frames=8 + index) for index in range(5)]
    return [CatalogRow(path.stem, path, f"class {i % 2}", path.stat().st_size, "test") for i, path in enumerate(paths)]


@pytest.fixture
def fsar_store(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., dict]:
    def call(*arguments: object, code: int = 0) -> dict:
        monkeypatch.setattr(sys, "argv", ["fsar-store", *map(str, arguments), "--json"])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert ended.value.code == code
        return json.loads(capsys.readouterr().out)

    return call


def test_a_store_that_grew_equals_one_made_at_once(
    tmp_path: Path, clips: list[CatalogRow], fsar_store: Callable[..., dict]
) -> None:
    path, catalog = tmp_path / "grown.zarr", tmp_path / "newer.csv"
    encode(clips[:3], path, OPTIONS, quiet=True)
    write_catalog(Catalog(tuple(clips), "clips"), catalog)
    data = fsar_store("add", path, catalog, "--device", "cpu")
    assert data == {"path": str(path), "videos": 5, "added": 2, "encoded": 2, "failed": 0, "duplicates": []}
    at_once = encode(clips, tmp_path / "at once.zarr", OPTIONS, quiet=True).path
    assert compare_stores(path, at_once)["equal"]
    assert fsar_store("verify", path)["problems"] == []
    assert fsar_store("add", path, catalog)["encoded"] == 0


def test_a_video_that_only_the_store_names_is_not_read(
    tmp_path: Path, clips: list[CatalogRow], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path, catalog = tmp_path / "a.zarr", tmp_path / "catalog.csv"
    encode(clips[:3], path, OPTIONS, quiet=True)
    pending = [VideoRow("private", "class 0", "test", str(clips[3].path))]
    extend_store(path, pending).close()
    write_catalog(Catalog(tuple(clips[:3]), "clips"), catalog)
    said = refused(monkeypatch, capsys, "add", path, catalog, "--device", "cpu")
    assert "has 1 pending video that the list does not have (first: 'private'): add them to it" in said
    assert open_store(path, allow_unsealed=True).missing_rows().tolist() == [3]


def test_a_clip_that_is_there_under_another_name_is_said(
    tmp_path: Path, clips: list[CatalogRow], fsar_store: Callable[..., dict]
) -> None:
    path, catalog = tmp_path / "twice.zarr", tmp_path / "newer.csv"
    encode(clips[:2], path, OPTIONS, quiet=True)
    copy = replace(clips[0], video_id="again")
    write_catalog(Catalog((*clips[:2], copy), "clips"), catalog)
    data = fsar_store("add", path, catalog, "--device", "cpu")
    assert data["duplicates"] == [[clips[0].video_id, "again"]]
    assert fsar_store("info", path)["duplicates"] == data["duplicates"]


def refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """Run a command that must fail with one line, and return the line."""
    monkeypatch.setattr(sys, "argv", ["fsar-store", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("warning: ")]
    return line


def test_what_cannot_be_added_leaves_the_store_sealed(
    tmp_path: Path,
    clips: list[CatalogRow],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    weights = tmp_path / "w.safetensors"
    save_weights(weights, load_backbone(OPTIONS.backbone, size=32).module.state_dict())
    path = tmp_path / "s.zarr"
    encode(clips[:3], path, replace(OPTIONS, backbone=f"timm:test_resnet/{weights}"), quiet=True)
    newer, lost = tmp_path / "newer.csv", tmp_path / "lost.csv"
    write_catalog(Catalog(tuple(clips), "clips"), newer)
    gone = [replace(row, video_id=f"x{row.video_id}", path=tmp_path / "gone" / row.path.name) for row in clips]
    write_catalog(Catalog((*clips[:3], *gone), "clips"), lost)
    before = {file: file.read_bytes() for file in path.rglob("*") if file.is_file()}
    assert "pass it with --weights" in refused(monkeypatch, capsys, "add", path, newer, "--device", "cpu")
    wrong_device = refused(monkeypatch, capsys, "add", path, newer, "--weights", weights, "--device", "gpu")
    assert "unknown device" in wrong_device
    assert "none of the 5 videos is on disk" in refused(
        monkeypatch, capsys, "add", path, lost, "--weights", weights, "--device", "cpu"
    )
    assert {file: file.read_bytes() for file in path.rglob("*") if file.is_file()} == before
    assert open_store(path).sealed


def test_a_store_exported_with_some_taps_can_grow(
    tmp_path: Path, clips: list[CatalogRow], fsar_store: Callable[..., dict]
) -> None:
    both = encode(clips[:3], tmp_path / "both.zarr", replace(OPTIONS, taps=("pooled", "map")), quiet=True).path
    one, catalog = tmp_path / "one.h5", tmp_path / "newer.csv"
    fsar_store("export", both, "--out", one, "--tap", "pooled", "--quiet")
    write_catalog(Catalog(tuple(clips), "clips"), catalog)
    assert fsar_store("add", one, catalog, "--device", "cpu")["added"] == 2
    at_once = encode(clips, tmp_path / "at once.zarr", OPTIONS, quiet=True).path
    assert open_store(one).recipe_id == open_store(at_once).recipe_id
    assert compare_stores(one, at_once)["equal"]


def test_a_failed_video_is_tried_again_once_it_is_mended(
    tmp_path: Path, clips: list[CatalogRow], fsar_store: Callable[..., dict]
) -> None:
    whole, cut = (write_clip(tmp_path / name, n_frames=12) for name in ("mended.mp4", "v9.mp4"))
    cut_file(cut, 0.3)
    rows = [*clips[:2], CatalogRow("v9", cut, "class 1", cut.stat().st_size, "test")]
    path, catalog = tmp_path / "s.h5", tmp_path / "catalog.csv"
    write_catalog(Catalog(tuple(rows), "clips"), catalog)
    assert [failure[0] for failure in encode(rows, path, OPTIONS, quiet=True).failures] == ["v9"]
    whole.replace(cut)
    data = fsar_store("retry", path)
    assert data["failed"] == 1
    assert fsar_store("add", path, catalog, "--device", "cpu") == {
        "path": str(path),
        "videos": 3,
        "added": 0,
        "encoded": data["pending"],
        "failed": 0,
        "duplicates": [],
    }
    assert open_store(path).ok_rows.tolist() == [0, 1, 2]
    assert fsar_store("retry", path) == {"path": str(path), "failed": 0, "pending": 0}
    assert open_store(path).sealed


def test_only_failures_of_this_run_make_it_fail(
    tmp_path: Path,
    clips: list[CatalogRow],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    cut_file(write_clip(tmp_path / "cut.mp4", n_frames=12), 0.3)
    rows = [*clips[:2], CatalogRow("cut", tmp_path / "cut.mp4", "class 1", 9, "test")]
    path, catalog = tmp_path / "s.zarr", tmp_path / "newer.csv"
    encode(rows, path, OPTIONS, quiet=True)
    worse = CatalogRow("worse", tmp_path / "cut.mp4", "class 1", 9, "test")

    def add(*more: CatalogRow) -> tuple[object, str]:
        write_catalog(Catalog((*rows, *more), "clips"), catalog)
        monkeypatch.setattr(sys, "argv", ["fsar-store", "add", str(path), str(catalog), "--device", "cpu"])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return ended.value.code, capsys.readouterr().out

    for _ in range(2):
        code, text = add(clips[3])
        assert code == 0
        assert "0 failed (1 had failed before: fsar-store retry" in text
    code, text = add(clips[3], worse)
    assert code == 1
    assert "1 failed (1 had failed before" in text
