"""Extraction: the right frames in the layouts that published code reads, whole folders or none."""

import csv
from pathlib import Path

import numpy as np
import pytest

from fsar.errors import InputError
from fsar.pipeline.catalog.catalog import Catalog, CatalogRow, read_catalog
from fsar.pipeline.rewrite.extract import EXTRACT, ExtractSettings, extract
from fsar.pipeline.video.decode import VideoError, decode_clip
from tests.videos import cut_file, full_disk, read_number, write_clip


def row(path: Path, *, video_id: str = "", class_name: str = "jump high", part: str = "train") -> CatalogRow:
    return CatalogRow(video_id or path.stem, path, class_name, 1, part)


def run(out: Path, *rows: CatalogRow, n_jobs: int = 1, **settings):
    return extract(Catalog(rows, "test"), out, ExtractSettings(**settings), n_jobs=n_jobs, quiet=True)


def numbers(folder: Path) -> list[int]:
    return [read_number(frame) for frame in decode_clip(folder, np.arange).frames]


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_trx_layout_holds_all_frames_numbered_from_1(tmp_path):
    report = run(tmp_path / "out", row(write_clip(tmp_path / "7.webm", n_frames=12)))
    folder = tmp_path / "out" / "frames" / "jump high" / "7"
    assert sorted(path.name for path in folder.iterdir()) == [f"{index:08d}.jpg" for index in range(1, 13)]
    assert numbers(folder) == list(range(12))
    (entry,) = read_catalog(report.catalog).rows
    assert (entry.path, entry.class_name, entry.part) == (folder, "jump high", "train")
    assert entry.bytes == sum(path.stat().st_size for path in folder.iterdir())


def test_hcl_layout_holds_frames_numbered_from_0_under_their_part(tmp_path):
    clip = write_clip(tmp_path / "7.webm", n_frames=3)
    run(tmp_path / "out", row(clip, part="val"), row(clip, video_id="8", part=""), layout="hcl")
    assert sorted(files(tmp_path / "out" / "images")) == [
        *(f"all/jump high/8/{index}.jpg" for index in range(3)),
        *(f"val/jump high/7/{index}.jpg" for index in range(3)),
    ]


@pytest.mark.parametrize(("n_frames", "expected"), [(16, [2, 6, 10, 14]), (2, [0, 0, 1, 1])])
def test_sampled_frames_are_those_of_the_sampler(tmp_path, n_frames, expected):
    run(tmp_path / "out", row(write_clip(tmp_path / "7.webm", n_frames=n_frames)), frames=4)
    assert numbers(tmp_path / "out" / "frames" / "jump high" / "7") == expected


def test_random_samplers_depend_on_the_seed_and_the_video_alone(tmp_path):
    rows = [row(write_clip(tmp_path / f"{index}.webm", n_frames=40)) for index in range(3)]
    options = {"frames": 4, "sampler": "hcl-random"}
    run(tmp_path / "one", *rows, **options)
    run(tmp_path / "two", *rows[::-1], n_jobs=2, **options)
    run(tmp_path / "other", *rows, **options, seed=1)
    pictures = [files(tmp_path / name / "frames") for name in ("one", "two", "other")]
    assert pictures[0] == pictures[1] != pictures[2]


def test_short_side_and_quality(tmp_path):
    from PIL import Image

    clip = row(write_clip(tmp_path / "7.webm", n_frames=2, size=(96, 64)))
    sizes = {}
    for quality in (30, 95):
        run(tmp_path / str(quality), clip, short_side=32, quality=quality)
        path = tmp_path / str(quality) / "frames" / "jump high" / "7" / "00000001.jpg"
        with Image.open(path) as image:
            assert image.size == (48, 32)
        sizes[quality] = path.stat().st_size
    assert sizes[30] < sizes[95]


def test_frame_folders_can_be_extracted_again(tmp_path):
    run(tmp_path / "one", row(write_clip(tmp_path / "7.webm", n_frames=12)))
    rows = read_catalog(tmp_path / "one" / "catalog.csv").rows
    run(tmp_path / "two", *rows, frames=3)
    assert numbers(tmp_path / "two" / "frames" / "jump high" / "7") == [2, 6, 10]
    assert run(tmp_path / "two", *rows, frames=3).kept == 1


def test_ids_that_begin_with_their_class_do_not_repeat_it(tmp_path):
    clip = write_clip(tmp_path / "clip.webm", n_frames=2)
    run(tmp_path / "out", row(clip, video_id="jump/clip", class_name="jump"), row(clip, video_id="a/b", class_name="x"))
    assert (tmp_path / "out" / "frames" / "jump" / "clip").is_dir()
    assert (tmp_path / "out" / "frames" / "x" / "a__b").is_dir()


def test_two_videos_never_share_a_folder(tmp_path):
    clip = write_clip(tmp_path / "clip.webm", n_frames=2)
    with pytest.raises(InputError, match="'jump/clip' and 'clip' would share a folder"):
        run(tmp_path / "out", row(clip, video_id="jump/clip", class_name="jump"), row(clip, class_name="jump"))


def test_failures_leave_no_folder(tmp_path):
    cut = cut_file(write_clip(tmp_path / "cut.webm", n_frames=40), 0.5)
    short = write_clip(tmp_path / "short.webm", n_frames=3)
    good = write_clip(tmp_path / "good.webm")
    report = run(
        tmp_path / "out", row(cut), row(short), row(good), row(tmp_path / "absent.webm"), frames=8, sampler="trx"
    )
    rows = list(csv.DictReader((tmp_path / "out" / "failures.csv").read_text().splitlines()))
    reasons = {entry["video_id"]: entry["reason"] for entry in rows}
    assert reasons == {"cut": "truncated", "short": "too-short", "absent": "missing"}
    assert report.done == 1
    assert [path.name for path in (tmp_path / "out" / "frames" / "jump high").iterdir()] == ["good"]


def test_damage_that_shows_late_leaves_no_folder(tmp_path, monkeypatch):
    def pictures(path, choose):
        choose(10)
        yield 0, np.zeros((8, 8, 3), np.uint8)
        raise VideoError("damaged", "the second frame is damaged")

    monkeypatch.setattr("fsar.pipeline.rewrite.extract.iterate_frames", pictures)
    report = run(tmp_path / "out", row(write_clip(tmp_path / "7.webm")))
    assert [failure.reason for failure in report.failures] == ["damaged"]
    assert not list((tmp_path / "out" / "frames").rglob("*.jpg"))


def test_an_unfinished_run_is_resumed_to_the_same_bytes(tmp_path):
    rows = [row(write_clip(tmp_path / f"{index}.webm", n_frames=6)) for index in range(4)]
    run(tmp_path / "whole", *rows)
    out = tmp_path / "out"
    run(out, *rows[:2])
    (out / "frames" / "jump high" / "0" / "00000003.jpg").unlink()
    leftover = out / "frames" / "jump high" / ".2.tmp-1-ab"
    leftover.mkdir()
    (leftover / "00000001.jpg").write_bytes(b"half")
    planned = EXTRACT.plan(Catalog(tuple(rows), "t"), out, ExtractSettings())
    assert [task.row.video_id for task in planned] == ["0", "2", "3"]
    report = run(out, *rows, n_jobs=2)
    assert (report.done, report.kept) == (3, 1)
    assert files(out) == files(tmp_path / "whole")


def test_a_full_disk_stops_the_run_and_leaves_nothing_half_written(tmp_path):
    clip = row(write_clip(tmp_path / "7.webm", size=(192, 128)))
    with full_disk(1024), pytest.raises(OSError, match="File too large"):
        run(tmp_path / "out", clip)
    assert not list((tmp_path / "out" / "frames").rglob("*.jpg"))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"frames": 0}, r"in 1\.\.10000, got 0"),
        ({"frames": 10**9}, "got 1000000000"),
        ({"sampler": "uniform"}, "unknown sampler 'uniform'"),
        ({"layout": "trex"}, "did you mean trx"),
        ({"short_side": 0}, "at least 1 pixel"),
        ({"quality": 0}, r"in 1\.\.100, got 0"),
    ],
)
def test_wrong_settings_are_refused(wrong, message):
    with pytest.raises(InputError, match=message):
        ExtractSettings(**wrong)


def test_other_settings_are_refused(tmp_path):
    clip = row(write_clip(tmp_path / "7.webm", n_frames=2))
    run(tmp_path / "out", clip)
    with pytest.raises(InputError, match="quality: 95 there, 50 now"):
        run(tmp_path / "out", clip, quality=50)


def test_two_classes_never_share_a_folder(tmp_path):
    rows = [CatalogRow(str(index), tmp_path, name, 1) for index, name in enumerate(["up/down", "up_down"])]
    with pytest.raises(InputError, match="'up/down' and 'up_down' would share the folder frames/up_down"):
        extract(Catalog(tuple(rows), "test"), tmp_path / "out", ExtractSettings())
    assert not (tmp_path / "out").exists()
