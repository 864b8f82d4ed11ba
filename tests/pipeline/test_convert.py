"""Conversion: frame for frame, verified, resumable, nothing half-written, every failure listed."""

import csv
import errno
import os
from pathlib import Path

import numpy as np
import pytest

from fsar.errors import InputError
from fsar.pipeline.catalog.catalog import Catalog, CatalogRow, read_catalog
from fsar.pipeline.rewrite.convert import CONVERT, convert
from fsar.pipeline.video.decode import VideoError, decode_clip
from fsar.pipeline.video.transcode import ConvertSettings, transcode, verify
from tests.videos import cut_file, full_disk, read_number, write_audio, write_clip

LOSSLESS = ConvertSettings(crf=0, preset="ultrafast")
SOURCES = {
    "webm": {"suffix": ".webm"},
    "avi": {"suffix": ".avi"},
    "b-frames": {"suffix": ".mp4", "options": {"preset": "veryfast"}, "n_frames": 40},
    "variable-rate": {"suffix": ".webm", "vfr": [0.1 * i + 0.03 * (i % 3) for i in range(16)]},
    "one-frame": {"suffix": ".webm", "n_frames": 1},
    "odd-width": {"suffix": ".webm", "size": (107, 60)},
    "full-range": {"suffix": ".avi", "codec": "mjpeg", "pix_fmt": "yuvj420p"},
    "bt709": {"suffix": ".mp4", "options": {"colorspace": "bt709", "color_primaries": "bt709", "color_trc": "bt709"}},
}


def make(folder: Path, options: dict) -> Path:
    options = dict(options)
    return write_clip(folder / f"source{options.pop('suffix')}", **options)


def catalog_of(*paths: Path) -> Catalog:
    rows = (
        CatalogRow(path.stem, path, "class", path.stat().st_size if path.exists() else 0, "train") for path in paths
    )
    return Catalog(tuple(rows), "test")


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("options", SOURCES.values(), ids=SOURCES)
def test_a_lossless_conversion_keeps_every_pixel_and_time(tmp_path, options):
    source, target = make(tmp_path, options), tmp_path / "target.mp4"
    n_frames = transcode(source, target, LOSSLESS)
    before, after = decode_clip(source, np.arange), decode_clip(target, np.arange)
    assert before.n_frames == after.n_frames == n_frames
    height, width = before.frames.shape[1:3]
    assert after.frames.shape[1] % 2 == after.frames.shape[2] % 2 == 0
    np.testing.assert_array_equal(after.frames[:, :height, :width], before.frames)
    times = (clip.times_seconds - clip.times_seconds[0] for clip in (before, after))
    np.testing.assert_allclose(*times, atol=1e-4)


@pytest.mark.parametrize("options", [
    {"suffix": ".mp4", "rotation": 90},
    {"suffix": ".mp4", "rotation": 270},
    {"suffix": ".webm", "size": (97, 63)},
    {"suffix": ".mp4", "pix_fmt": "yuv420p10le"},
    {"suffix": ".mp4", "pix_fmt": "yuv444p"},
])  # fmt: skip
def test_what_must_be_resampled_stays_close(tmp_path, options):
    source, target = make(tmp_path, options), tmp_path / "target.mp4"
    transcode(source, target, LOSSLESS)
    before, after = decode_clip(source, np.arange), decode_clip(target, np.arange)
    height, width = before.frames.shape[1:3]
    assert np.abs(after.frames[:, :height, :width].astype(int) - before.frames).mean() < 3


def test_the_result_is_h264_yuv420p_with_its_index_in_front(tmp_path):
    import av

    target = tmp_path / "target.mp4"
    transcode(write_clip(tmp_path / "source.webm", n_frames=30), target, ConvertSettings(gop=5))
    with av.open(str(target)) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.pix_fmt) == ("h264", "yuv420p")
        keys = [packet.is_keyframe for packet in container.demux(stream) if packet.size]
    assert [index for index, key in enumerate(keys) if key] == list(range(0, 30, 5))
    data = target.read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")


@pytest.mark.parametrize(("size", "expected"), [((96, 64), (48, 32)), ((97, 63), (50, 32)), ((64, 96), (32, 48))])
def test_short_side_scales_to_even_sizes(tmp_path, size, expected):
    target = tmp_path / "target.mp4"
    transcode(write_clip(tmp_path / "source.webm", size=size), target, ConvertSettings(short_side=32, crf=5))
    clip = decode_clip(target, np.arange)
    assert clip.frames.shape[2:0:-1] == expected
    assert [read_number(frame) for frame in clip.frames] == list(range(16))


def test_verification_sees_a_lost_frame_and_a_moved_one(tmp_path):
    path = write_clip(tmp_path / "clip.mp4")
    times = np.arange(16) / 12
    verify(path, times, path)
    with pytest.raises(VideoError, match="has 17 frames, its conversion 16"):
        verify(path, np.append(times, 16 / 12), path)
    with pytest.raises(VideoError, match=r"off by 0\.040 s"):
        verify(path, np.append(times[:-1], times[-1] + 0.04), path)


def test_a_catalog_is_converted_and_points_to_the_results(tmp_path):
    sources = [write_clip(tmp_path / "in" / f"{index}.webm", n_frames=8 + index) for index in range(4)]
    report = convert(catalog_of(*sources), tmp_path / "out", ConvertSettings(), n_jobs=2, quiet=True)
    assert (report.done, report.kept, report.failures) == (4, 0, [])
    rows = read_catalog(report.catalog).rows
    assert [(row.video_id, row.class_name, row.part) for row in rows] == [(str(i), "class", "train") for i in range(4)]
    for index, row in enumerate(rows):
        assert row.bytes == row.path.stat().st_size
        assert decode_clip(row.path, np.arange).n_frames == 8 + index
    assert not (tmp_path / "out" / "failures.csv").exists()


def test_failures_are_listed_and_the_rest_is_converted(tmp_path):
    good = write_clip(tmp_path / "good.webm")
    (tmp_path / "zero.webm").touch()
    (tmp_path / "text.webm").write_text("no video")
    bad = [
        tmp_path / "zero.webm",
        tmp_path / "text.webm",
        tmp_path / "absent.webm",
        write_audio(tmp_path / "sound.webm"),
        cut_file(write_clip(tmp_path / "cut.webm", n_frames=40), 0.5),
    ]
    report = convert(catalog_of(good, *bad), tmp_path / "out", ConvertSettings(), quiet=True)
    rows = list(csv.DictReader((tmp_path / "out" / "failures.csv").read_text().splitlines()))
    assert {row["video_id"]: row["reason"] for row in rows} == {
        "zero": "empty", "text": "not-a-video", "absent": "missing", "sound": "no-video-stream", "cut": "truncated",
    }  # fmt: skip
    assert {row["stage"] for row in rows} == {"convert"}
    assert report.done == 1
    assert [row.video_id for row in read_catalog(report.catalog).rows] == ["good"]
    assert {path.name for path in (tmp_path / "out" / "videos").iterdir()} == {"good.mp4"}
    write_clip(tmp_path / "absent.webm")
    again = convert(catalog_of(good, tmp_path / "absent.webm"), tmp_path / "out", ConvertSettings(), quiet=True)
    assert (again.done, again.kept, again.failures) == (1, 1, [])
    assert not (tmp_path / "out" / "failures.csv").exists()


def test_finished_videos_are_kept_without_decoding(tmp_path, monkeypatch):
    sources = [write_clip(tmp_path / f"{index}.webm") for index in range(3)]
    convert(catalog_of(*sources), tmp_path / "out", ConvertSettings(), quiet=True)
    before = files(tmp_path / "out")
    monkeypatch.setattr("fsar.pipeline.rewrite.convert.transcode", lambda *args: pytest.fail("was converted again"))
    assert convert(catalog_of(*sources), tmp_path / "out", ConvertSettings(), quiet=True).kept == 3
    os.utime(sources[0])  # touched, but the same bytes
    assert convert(catalog_of(*sources), tmp_path / "out", ConvertSettings(), quiet=True).kept == 3
    assert files(tmp_path / "out") == before


def test_stale_damaged_and_unrecorded_outputs_are_made_again(tmp_path):
    sources = [write_clip(tmp_path / f"{index}.webm", n_frames=10) for index in range(4)]
    out = tmp_path / "out"
    convert(catalog_of(*sources), out, ConvertSettings(), quiet=True)
    write_clip(sources[0], n_frames=12)  # another source under the same name
    cut_file(out / "videos" / "1.mp4", 0.5)
    lines = (out / "convert.jsonl").read_text().splitlines(keepends=True)
    (out / "convert.jsonl").write_text("".join(lines[:-1]) + lines[-1][:30])  # torn by a kill
    assert [task.row.video_id for task in CONVERT.plan(catalog_of(*sources), out, ConvertSettings())] == ["0", "1", "3"]
    assert convert(catalog_of(*sources), out, ConvertSettings(), quiet=True).done == 3
    convert(catalog_of(*sources), tmp_path / "fresh", ConvertSettings(), quiet=True)
    assert files(out) == files(tmp_path / "fresh")


def test_other_settings_and_foreign_folders_are_refused(tmp_path):
    catalog = catalog_of(write_clip(tmp_path / "clip.webm"))
    convert(catalog, tmp_path / "out", ConvertSettings(), quiet=True)
    with pytest.raises(InputError, match="crf: 18 there, 30 now"):
        convert(catalog, tmp_path / "out", ConvertSettings(crf=30), quiet=True)
    with pytest.raises(InputError, match="is not empty"):
        convert(catalog, tmp_path, ConvertSettings(), quiet=True)


@pytest.mark.parametrize("video_id", ["../escape", "/absolute", "a/../../b"])
def test_ids_cannot_leave_the_folder(tmp_path, video_id):
    clip = write_clip(tmp_path / "clip.webm")
    catalog = Catalog((CatalogRow(video_id, clip, "class", 1, ""),), "test")
    report = convert(catalog, tmp_path / "out", ConvertSettings(), quiet=True)
    assert "cannot be used as a file name" in report.failures[0].message


def test_ids_with_folders_keep_them(tmp_path):
    clip = write_clip(tmp_path / "clip.webm")
    catalog = Catalog((CatalogRow("jump/clip.1", clip, "jump", 1, ""),), "test")
    convert(catalog, tmp_path / "out", ConvertSettings(), quiet=True)
    assert (tmp_path / "out" / "videos" / "jump" / "clip.1.mp4").is_file()


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_a_full_disk_stops_the_run_and_leaves_nothing_half_written(tmp_path, n_jobs):
    sources = [write_clip(tmp_path / f"{index}.webm", n_frames=40, size=(192, 128)) for index in range(3)]
    out = tmp_path / "out"
    with full_disk(4096), pytest.raises(OSError, match="File too large") as caught:
        convert(catalog_of(*sources), out, LOSSLESS, n_jobs=n_jobs, quiet=True)
    assert caught.value.errno == errno.EFBIG
    assert list(out.rglob("*.mp4")) == []
    assert convert(catalog_of(*sources), out, LOSSLESS, quiet=True).done == 3


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"short_side": 31}, "even number of pixels, got 31"),
        ({"gop": 0}, "at least 1 frame, got 0"),
        ({"crf": 52}, r"in 0\.\.51, got 52"),
        ({"preset": "warp"}, "one of ultrafast"),
    ],
)
def test_wrong_settings_are_refused(wrong, message):
    with pytest.raises(InputError, match=message):
        ConvertSettings(**wrong)
