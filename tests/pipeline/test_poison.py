"""Poisoned videos of each kind at random places in every stage: each is its own line, and the rest goes on."""

import csv
import itertools
from pathlib import Path

import numpy as np
import pytest

from fsar.pipeline.catalog.catalog import Catalog, read_catalog, write_catalog
from fsar.pipeline.catalog.index import index_dataset
from fsar.pipeline.encode.encode import EncodeOptions, encode
from fsar.pipeline.encode.report import EngineOptions
from fsar.pipeline.inspect.check import check_videos
from fsar.pipeline.rewrite.convert import convert
from fsar.pipeline.rewrite.extract import ExtractSettings, extract
from fsar.pipeline.store import open_store
from fsar.pipeline.video.decode import decode_clip
from fsar.pipeline.video.transcode import ConvertSettings
from tests.poison import POISON
from tests.videos import read_number, write_clip

CATALOG_ONLY_FILES = {"pictures of two sizes", "pictures of two kinds", "broken pictures", "huge picture"}
SUFFIXES = (".mp4", ".webm", ".mkv", ".avi")


def poisoned_catalog(folder: Path, n_videos: int, seed: int) -> tuple[Catalog, dict[str, str]]:
    """Return a catalog of which a third is poison, and video id -> kind of poison."""
    rng = np.random.default_rng(seed)
    kinds = itertools.cycle(rng.permutation(list(POISON)).tolist())
    is_poison = rng.permutation(np.arange(n_videos) % 3 == 0)
    kind_of = {}
    for number, poisoned in enumerate(is_poison.tolist()):
        stem = folder / "v" / f"class{number % 4}" / f"{number:04d}"
        stem.parent.mkdir(parents=True, exist_ok=True)
        if poisoned:
            kind = next(kinds)
            path = POISON[kind][0](stem)
            kind_of[path.relative_to(folder / "v").as_posix()] = kind
        else:
            write_clip(stem.with_suffix(SUFFIXES[number % 4]), n_frames=8 + number % 9)
    catalog, _ = index_dataset("folder", videos=folder / "v")
    rows = tuple(row for row in catalog.rows if not row.path.name.endswith("-ring2.mp4"))
    write_catalog(Catalog(rows, "t"), folder / "catalog.csv")
    return read_catalog(folder / "catalog.csv"), kind_of


def check_failures(found: dict[str, tuple[str, str, str]], kind_of: dict[str, str], catalog: Catalog) -> None:
    """Every poisoned video is listed with its path and a true reason, and no other one."""
    path_of = {row.video_id: str(row.path) for row in catalog.rows}
    assert found.keys() == kind_of.keys()
    for video_id, (path, reason, message) in found.items():
        assert path == path_of[video_id]
        assert reason in POISON[kind_of[video_id]][1], (kind_of[video_id], reason, message)
        assert message
        assert "\n" not in message


def listed(path: Path) -> dict[str, tuple[str, str, str]]:
    rows = csv.DictReader(path.read_text().splitlines())
    return {row["video_id"]: (row["path"], row["reason"], row["message"]) for row in rows}


def run_every_stage(folder: Path, n_videos: int, seed: int, n_jobs: int) -> None:
    catalog, kind_of = poisoned_catalog(folder, n_videos, seed)
    n_sound = len(catalog.rows) - len(kind_of)
    seen = check_videos(catalog.rows, n_jobs=n_jobs, quiet=True)
    assert {failure.video_id for failure in seen.failures} <= kind_of.keys()

    options = {"n_jobs": n_jobs, "quiet": True}
    report = extract(catalog, folder / "x", ExtractSettings(frames=4), **options)
    assert report.done == n_sound
    check_failures(listed(folder / "x" / "failures.csv"), kind_of, catalog)

    files = Catalog(tuple(row for row in catalog.rows if not row.path.is_dir()), "files")
    file_kinds = {video_id: kind for video_id, kind in kind_of.items() if kind not in CATALOG_ONLY_FILES}
    report = convert(files, folder / "c", ConvertSettings(), **options)
    assert report.done == n_sound
    check_failures(listed(folder / "c" / "failures.csv"), file_kinds, files)
    for row in read_catalog(report.catalog).rows:
        numbers = [read_number(frame) for frame in decode_clip(row.path, np.arange).frames]
        assert numbers == list(range(len(numbers)))

    engine = EngineOptions(device="cpu", jobs=n_jobs)
    settings = EncodeOptions("random:timm/test_resnet", n_slots=4, size=32, engine=engine)
    encoded = encode(catalog.rows, folder / "s.zarr", settings, quiet=True)
    found = {video_id: (path, reason, message) for video_id, path, reason, message in encoded.failures}
    check_failures(found, kind_of, catalog)
    store = open_store(folder / "s.zarr")
    for row, video in enumerate(store.videos):
        number = int(Path(video.path).name.split("-")[0].split(".")[0])
        if video.video_id not in kind_of:
            assert int(store.n_frames[row]) == 8 + number % 9


@pytest.mark.parametrize("n_jobs", [2])
def test_poison_of_each_kind_stops_no_stage(tmp_path, n_jobs):
    run_every_stage(tmp_path, 3 * len(POISON), seed=0, n_jobs=n_jobs)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_three_hundred_videos_of_which_a_third_is_poison(tmp_path, seed):
    run_every_stage(tmp_path, 300, seed=seed, n_jobs=2)
