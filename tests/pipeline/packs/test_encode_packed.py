"""Encoding from packed frames in place of the videos."""

import dataclasses
import json
import sys

import numpy as np
import pytest
import torch

from fsar.errors import InputError
from fsar.files import sha256_file
from fsar.pipeline.backbones import load_backbone
from fsar.pipeline.backbones.taps import TapExtractor
from fsar.pipeline.catalog.catalog import CatalogRow, select_rows
from fsar.pipeline.encode.encode import EncodeOptions, add_videos, encode
from fsar.pipeline.encode.engine import EngineOptions
from fsar.pipeline.encode.recipe import Recipe
from fsar.pipeline.packs import FramePack
from fsar.pipeline.packs.build import add_to_pack, pack_frames
from fsar.pipeline.packs.catalog import read_videos
from fsar.pipeline.packs.layout import PackSettings
from fsar.pipeline.pixels.prepare import prepare
from fsar.pipeline.store import STATUS_FAILED, VideoRow, open_store
from tests.pipeline.packs.samples import write_videos

ENGINE = EngineOptions(device="cpu", batch_size=8, jobs=0)
OPTIONS = EncodeOptions("random:timm/test_resnet", n_slots=4, size=32, dtype="float32", engine=ENGINE)
SETTINGS = PackSettings(frames=8, short_side=48, quality=90)


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    return write_videos(tmp_path_factory.mktemp("videos"), (20, 5, 16))


@pytest.fixture
def pack(videos, tmp_path):
    return pack_frames(videos, tmp_path / "p.frames", SETTINGS, quiet=True).path


def rows_of(path):
    return select_rows(read_videos(path))


def as_rows(path):
    return [VideoRow(row.video_id, row.class_name, row.part, str(row.path)) for row in rows_of(path)]


def test_features_are_those_of_the_packed_frames(pack, videos, tmp_path):
    report = encode(rows_of(pack), tmp_path / "s.zarr", OPTIONS, quiet=True)
    store, frames = open_store(report.path), FramePack.open(pack)
    recipe = Recipe.from_dict(store.recipe)
    assert (recipe.decoder, recipe.packed) == ("packed", dataclasses.asdict(SETTINGS))
    backbone = load_backbone(OPTIONS.backbone, size=32)
    extractor = TapExtractor(backbone, ["pooled"])
    for row, video in enumerate(store.videos):
        known = frames.video(video.video_id)
        picked = (2 * np.arange(4) + 1) * known.n_stored // 8  # uniform-center among the stored frames
        assert store.frame_index([row])[0, 0].tolist() == known.frame_index[picked].tolist()
        np.testing.assert_allclose(store.frame_time([row])[0, 0], known.frame_time[picked])
        with torch.inference_mode():
            live = extractor(prepare(frames.frames(video.video_id, picked), recipe.image))["pooled"]
        torch.testing.assert_close(torch.from_numpy(store.read("pooled", [row])[0]), live, atol=1e-5, rtol=1e-5)
    by_id = {video.video_id: row for row, video in enumerate(store.videos)}
    assert store.n_frames[by_id["clip0"]] == 20
    assert store.source_sha256[by_id["clip0"]].tobytes().hex() == sha256_file(videos[0].path)


def test_decode_processes_give_the_same_store(pack, tmp_path):
    here = encode(rows_of(pack), tmp_path / "here.zarr", OPTIONS, quiet=True)
    engine = dataclasses.replace(ENGINE, jobs=1)
    there = encode(rows_of(pack), tmp_path / "there.zarr", dataclasses.replace(OPTIONS, engine=engine), quiet=True)
    assert sha256_file(here.path / "manifest.json") == sha256_file(there.path / "manifest.json")


def test_random_samplers_and_views_draw_among_the_stored_frames(pack, tmp_path):
    chosen = dataclasses.replace(OPTIONS, sampler="uniform-random", n_views=3)
    store = open_store(encode(rows_of(pack), tmp_path / "s.zarr", chosen, quiet=True).path)
    stored = FramePack.open(pack).video(store.videos[0].video_id).frame_index
    index = store.frame_index([0])[0]
    assert set(index.ravel().tolist()) <= set(stored.tolist())
    assert len({tuple(view) for view in index.tolist()}) > 1


def test_a_video_that_is_not_in_the_pack_as_frames_is_a_failed_row(videos, tmp_path):
    bad = tmp_path / "bad.mp4"
    bad.write_bytes(b"no video")
    path = pack_frames([*videos, VideoRow("bad", "class0", "", str(bad))], tmp_path / "p.frames", SETTINGS, quiet=True)
    report = encode(rows_of(path.path), tmp_path / "s.zarr", OPTIONS, quiet=True)
    assert [(failure[0], failure[2]) for failure in report.failures] == [("bad", "missing")]
    store = open_store(report.path)
    assert store.status[[video.video_id for video in store.videos].index("bad")] == STATUS_FAILED


def test_videos_that_a_pack_has_gained_are_added(pack, videos, tmp_path):
    store = encode(rows_of(pack), tmp_path / "s.zarr", OPTIONS, quiet=True).path
    new = VideoRow("clip9", "class1", "", videos[0].path)
    add_to_pack(pack, [*videos, new], quiet=True)
    report = add_videos(store, as_rows(pack), engine=ENGINE, quiet=True)
    assert report.n_videos == 4
    assert not report.failures
    other = pack_frames([new], tmp_path / "other.frames", PackSettings(frames=6), quiet=True).path
    for rows in (as_rows(other), [VideoRow("clip8", "class1", "", videos[0].path)]):
        rows = [dataclasses.replace(row, video_id="clip8") for row in rows]
        with pytest.raises(
            InputError, match=r"was made from a pack of 8 frames by uniform-center .* add from such a one"
        ):
            add_videos(store, rows, engine=ENGINE, quiet=True)
    plain = [CatalogRow(v.video_id, v.path, v.class_name, 1, "") for v in videos]
    from_videos = encode(plain, tmp_path / "videos.zarr", OPTIONS, quiet=True).path
    with pytest.raises(InputError, match="was made from videos, not a pack of frames"):
        add_videos(from_videos, as_rows(pack), engine=ENGINE, quiet=True)
    with pytest.raises(InputError, match="must come from one place"):
        encode([*rows_of(pack), *plain], tmp_path / "mixed.zarr", OPTIONS, quiet=True)


def test_the_command_takes_a_pack_and_info_says_so(pack, tmp_path, monkeypatch, capsys):
    from fsar.cli import prep, store

    def call(main, *arguments):
        monkeypatch.setattr(sys, "argv", ["fsar", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == 0, capsys.readouterr().err
        return capsys.readouterr().out

    out = tmp_path / "s.zarr"
    chosen = ["--backbone", "random:timm/test_resnet", "--size", 32, "--frames", 4, "--device", "cpu", "--jobs", 0]
    call(prep.main, "encode", pack, *chosen, "--out", out)
    info = json.loads(call(store.main, "info", out, "--json"))
    assert info["frames"].startswith(
        "packed, 8 frames by uniform-center (seed 0), shorter side at most 48, JPEG quality"
    )
    assert "  frames: packed, 8 frames" in call(store.main, "info", out)
    split = tmp_path / "split.csv"
    split.write_text("part,class,video_id\ntrain,class0,clip0\ntest,class1,clip1\n")
    call(prep.main, "encode", pack, *chosen, "--split", split, "--pixels", "trx", "--out", tmp_path / "t.zarr")
    info = json.loads(call(store.main, "info", tmp_path / "t.zarr", "--json"))
    assert info["videos"] == 2
    assert info["frames"].endswith("as tested by clip-mei, clip-mei-ssv2, lib, strm, trx")
