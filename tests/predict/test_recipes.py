"""Runs whose features were made in other ways: from packed frames, and with a backbone that was tuned along."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from safetensors.torch import load_file, save_file

from fsar.api import train_head
from fsar.cli.prep_show import command as show
from fsar.errors import InputError
from fsar.pipeline.catalog.catalog import Catalog, CatalogRow, write_catalog
from fsar.pipeline.encode.encode import EncodeOptions, encode
from fsar.pipeline.encode.recipe import Recipe
from fsar.pipeline.encode.report import EngineOptions
from fsar.pipeline.encode.show import GAP, normalised_back
from fsar.pipeline.packs import FramePack
from fsar.pipeline.packs.build import pack_frames
from fsar.pipeline.packs.catalog import read_videos
from fsar.pipeline.packs.layout import PackSettings
from fsar.pipeline.pixels.prepare import prepare
from fsar.pipeline.store import VideoRow, open_store
from fsar.pipeline.video.decode import decode_clip
from fsar.predict.encoder import ClipEncoder
from fsar.predict.predictor import Predictor
from fsar.report.frames import FrameFetcher, jpeg
from tests.predict.conftest import BACKBONE, PARTS


def catalog_rows(world):
    return [
        CatalogRow(path.stem, path, name, path.stat().st_size, part)
        for part, names in PARTS.items()
        for name in names
        for path in sorted((world.folder / "videos" / name).iterdir())
    ]


@pytest.fixture(scope="module")
def packed(world, tmp_path_factory):
    """A pack of some videos, and a store of its frames."""
    folder = tmp_path_factory.mktemp("packed")
    rows = [row for row in catalog_rows(world) if row.video_id.endswith(("-0", "-1"))]
    settings = PackSettings(frames=10, sampler="uniform-random", short_side=40, quality=60, seed=3)
    videos = [VideoRow(row.video_id, row.class_name, row.part, str(row.path)) for row in rows]
    pack = pack_frames(videos, folder / "few.frames", settings, quiet=True).path
    options = EncodeOptions(BACKBONE, size=64, n_slots=8, engine=EngineOptions(jobs=0))
    store = encode(list(read_videos(pack).rows), folder / "few.zarr", options, quiet=True).path
    return pack, store, rows


def test_a_clip_is_prepared_as_the_pack_was(packed):
    """What is computed from the video itself is what the store holds, made from the pack."""
    _, path, rows = packed
    store = open_store(path)
    encoder = ClipEncoder(store.recipe)
    for video in rows[:3]:
        row = [store.row_of(video.video_id)]
        features, times = encoder.clip(video.path)
        expected = store.read("pooled", row)[0]  # in float16, and rounded in a batch of another size
        np.testing.assert_allclose(features["pooled"].numpy(), expected, atol=1e-6, rtol=1e-3)
        assert times == pytest.approx(list(store.frame_time(row)[0, 0]))
        decoded = decode_clip(video.path, lambda n, name=video.video_id: np.unique(encoder.indices(n, name)))
        places = np.searchsorted(decoded.indices, encoder.indices(decoded.n_frames, video.video_id))
        chosen = encoder.frames(decoded.frames[places])  # as `--watch` gives them
        assert torch.equal(chosen["pooled"], features["pooled"])


def test_a_recipe_that_does_not_say_how_is_refused(packed):
    recipe = {**open_store(packed[1]).recipe, "packed": {"frames": 8, "colour": "sepia"}}
    with pytest.raises(InputError, match="how its frames were packed"):
        ClipEncoder(recipe)


@pytest.fixture(scope="module")
def tuned(world, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tuned")
    write_catalog(Catalog(tuple(catalog_rows(world)), "colours"), folder / "catalog.csv")
    trained = train_head(
        "tsn", finetune=BACKBONE, videos=folder / "catalog.csv", size=32, frames=2, way=3, steps=2, val_episodes=0,
        episodes_per_step=1, query=1, test_episodes=10, jobs=0, device="cpu", quiet=True, out=folder / "run",
    )  # fmt: skip
    return trained.folders[0]


def test_a_fine_tuned_run_brings_its_backbone(world, tuned, tmp_path):
    predictor = Predictor.from_run(tuned, world.support, cache=tmp_path)
    store = open_store(tuned / "test.zarr")
    features, _ = predictor.encoder.clip(world.folder / "videos" / "blue" / "blue-0.mp4")
    expected = store.read("pooled", [store.row_of("blue-0")])[0]
    np.testing.assert_allclose(features["pooled"].numpy(), expected, atol=1e-5)
    assert len(predictor.predict(world.query / "blue" / "blue-200.mp4").ranking) == 3
    predictor.close()


def test_other_weights_in_its_place_are_refused(world, tuned, tmp_path):
    run = shutil.copytree(tuned, tmp_path / "run")
    state = load_file(run / "backbone.safetensors")
    save_file({name: x * 2 if x.is_floating_point() else x for name, x in state.items()}, run / "backbone.safetensors")
    with pytest.raises(InputError, match="are not the store's"):
        Predictor.from_run(run, world.support)


def test_a_tuned_run_without_a_test_says_what_is_missing(world, tuned, tmp_path):
    run = shutil.copytree(tuned, tmp_path / "run", ignore=shutil.ignore_patterns("test.zarr"))
    config = json.loads((run / "config.json").read_text())
    kept = {key: value for key, value in config.items() if key not in ("recipe", "recipe_id", "store")}
    (run / "config.json").write_text(json.dumps(kept))
    with pytest.raises(InputError, match="was fine-tuned and not tested"):
        Predictor.from_run(run, world.support)


def test_filmstrips_come_out_of_packs(packed, world, tmp_path):
    pack, path, rows = packed
    store, frames = open_store(path), FramePack.open(pack)
    row = store.row_of(rows[0].video_id)
    strip = FrameFetcher(store, [0, 3, 7]).strip(row)
    assert not strip.note
    index = store.frame_index([row])[0, 0][[0, 3, 7]]
    stored = frames.video(rows[0].video_id).frame_index.tolist()
    pictures = frames.frames(rows[0].video_id, [stored.index(int(i)) for i in index])
    assert strip.pictures == tuple(jpeg(picture) for picture in pictures)
    every = [VideoRow(r.video_id, r.class_name, r.part, str(r.path)) for r in rows]
    whole = FramePack.open(pack_frames(every, tmp_path / "all.frames", PackSettings(frames=64), quiet=True).path)
    seen = open_store(world.store)
    row = seen.row_of(rows[0].video_id)
    given = FrameFetcher(seen, list(range(8)), whole).strip(row)
    assert len(given.pictures) == 8
    assert "does not hold frame" in FrameFetcher(seen, list(range(8)), frames).strip(row).note


def test_what_a_store_of_packed_frames_saw_is_shown(packed, tmp_path):
    pack, path, rows = packed
    video = rows[0]
    ended = CliRunner().invoke(
        show, [str(video.path), "--store", str(path), "--out", str(tmp_path / "strip.png"), "--json"]
    )
    assert ended.exit_code == 0, ended.output
    store, frames = open_store(path), FramePack.open(pack)
    row = [store.row_of(video.video_id)]
    times = [float(t) for t in store.frame_time(row)[0, 0]]
    assert json.loads(ended.stdout)["frame_times_seconds"] == pytest.approx(times)
    stored = frames.video(video.video_id).frame_index.tolist()
    places = [stored.index(int(i)) for i in store.frame_index(row)[0, 0]]
    spec = Recipe.from_dict(store.recipe).image
    expected = normalised_back(prepare(frames.frames(video.video_id, places), spec), spec)
    frames.close()
    strip = np.asarray(Image.open(tmp_path / "strip.png"))
    for place, frame in enumerate(expected):
        left = place * (spec.size + GAP)
        np.testing.assert_array_equal(strip[:, left : left + spec.size], frame)


def test_classes_that_a_run_held_out_calibrate_it(world, tmp_path):
    """The store has no validation part; the run trained with --val-share, and does not remember those classes."""
    rows = [replace(row, part="train" if row.part == "val" else row.part) for row in catalog_rows(world)]
    options = EncodeOptions(BACKBONE, size=64, n_slots=8, engine=EngineOptions(jobs=0))
    store = encode(rows, tmp_path / "two-parts.zarr", options, quiet=True).path
    trained = train_head(
        "otam", store, options={"adapter": "linear"}, val_share=0.5, way=2, steps=4, val_episodes=10,
        episodes_per_step=1, query=1, test_episodes=10, device="cpu", quiet=True, out=tmp_path / "run",
    )  # fmt: skip
    predictor = Predictor.from_run(trained.folders[0], world.support, cache=tmp_path)
    assert predictor.calibration is not None
    assert predictor.calibration.source.startswith("3-way validation episodes")
    predictor.close()
