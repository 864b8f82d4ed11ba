"""`fsar-prep extract` as a user meets it."""

import json
import signal

import pytest

from fsar.pipeline.catalog.catalog import read_catalog
from fsar.pipeline.rewrite.extract import ExtractSettings, extract
from tests.cli.video_commands import files, fsar_store, make_catalog, prep, run_and_stop


def test_extract_reports_resumes_and_plans(tmp_path):
    catalog, out = make_catalog(tmp_path, n_videos=2), tmp_path / "out"
    planned = prep("extract", catalog, "--out", out, "--frames", 4, "--dry-run", "--json")
    assert json.loads(planned.stdout)["to_extract"] == 2
    assert not out.exists()
    first = prep("extract", catalog, "--out", out, "--frames", 4, "--layout", "hcl", "--json")
    assert (first.returncode, json.loads(first.stdout)["extracted"]) == (0, 2)
    assert (out / "images" / "train" / "class 1" / "1" / "3.jpg").is_file()
    again = prep("extract", catalog, "--out", out, "--frames", 4, "--layout", "hcl", "--quiet")
    assert again.stdout == f"{out}: 0 videos extracted, 2 kept, 0 failed\n"


def test_extract_exits_with_1_when_a_video_failed(tmp_path):
    catalog = make_catalog(tmp_path, n_videos=2)
    (tmp_path / "videos" / "1.webm").write_text("no video")
    done = prep("extract", catalog, "--out", tmp_path / "out", "--quiet")
    assert done.returncode == 1
    assert "1 video extracted, 0 kept, 1 failed, listed in" in done.stdout


def test_wrong_calls_print_one_clear_line(tmp_path):
    catalog = make_catalog(tmp_path, n_videos=1)
    done = prep("extract", catalog, "--out", tmp_path / "out", "--sampler", "uniform-centre")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "did you mean uniform-center" in done.stderr
    foreign = prep("extract", catalog, "--out", tmp_path)
    assert (foreign.returncode, foreign.stderr.count("\n")) == (1, 1)
    assert "is not empty" in foreign.stderr


@pytest.mark.parametrize("n_stops", [1, pytest.param(12, marks=pytest.mark.slow)])
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL], ids=["ctrl-c", "kill-9"])
def test_a_stopped_run_ends_with_the_bytes_of_one_that_was_not(tmp_path, how, n_stops):
    catalog = make_catalog(tmp_path, n_videos=8 if n_stops == 1 else 40, n_frames=40)
    out, whole = tmp_path / "out", tmp_path / "whole"
    for seed in range(n_stops):
        code = run_and_stop(how, "extract", catalog, "--out", out, "--jobs", 2, progress=out / "frames", seed=seed)
        assert code in (0, 130, -9, -2)  # -2: the signal met the interpreter itself while it started or ended
        if how == signal.SIGINT:
            assert not list(out.rglob(".*.tmp-*"))
    for folder in (out, whole):
        extract(read_catalog(catalog), folder, ExtractSettings(), quiet=True)
    assert files(out) == files(whole)


def test_packed_frames_from_the_first_call_to_verify(tmp_path):
    catalog, out = make_catalog(tmp_path, n_videos=3), tmp_path / "videos.frames"
    pack = ("extract", catalog, "--out", out, "--layout", "packed", "--frames", 4)
    planned = prep(*pack, "--dry-run", "--json")
    assert json.loads(planned.stdout) == {"out": str(out), "to_extract": 3, "kept": 0, "dry_run": True}
    assert not out.exists()
    done = json.loads(prep(*pack, "--json").stdout)
    assert (done["extracted"], done["failed"]) == (3, 0)
    assert done["bytes"] == (out / "frames" / "000000.jpgs").stat().st_size
    assert "0 videos packed, 3 kept, 0 failed" in prep(*pack, "--quiet").stdout
    shown = fsar_store("info", out)
    assert "4 frames by uniform-center (seed 0), in their own size, JPEG quality 95" in shown.stdout
    assert json.loads(fsar_store("info", out, "--json").stdout)["videos"] == 3
    assert "intact" in fsar_store("verify", out).stdout
    (tmp_path / "videos" / "9.webm").write_bytes((tmp_path / "videos" / "0.webm").read_bytes())
    with open(catalog, "a") as file:
        file.write("9,videos/9.webm,class 0,1,train\n")
    refused = prep(*pack)
    assert refused.returncode == 1
    assert "`fsar-store add` adds new ones" in refused.stderr
    added = json.loads(fsar_store("add", out, catalog, "--json").stdout)
    assert (added["videos"], added["added"], added["extracted"]) == (4, 1, 1)
    data = bytearray((out / "frames" / "000001.jpgs").read_bytes())
    data[50] ^= 1
    (out / "frames" / "000001.jpgs").write_bytes(data)
    found = fsar_store("verify", out)
    assert found.returncode == 1
    assert "frames/000001.jpgs: damaged: its bytes have changed (1 video)" in found.stdout


def test_packed_frames_need_a_number_and_list_what_failed(tmp_path):
    catalog, out = make_catalog(tmp_path, n_videos=2), tmp_path / "videos.frames"
    done = prep("extract", catalog, "--out", out, "--layout", "packed")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "--layout packed needs --frames" in done.stderr
    (tmp_path / "videos" / "1.webm").write_text("no video")
    done = prep("extract", catalog, "--out", out, "--layout", "packed", "--frames", 4, "--quiet")
    assert done.returncode == 1
    assert done.stderr.startswith("failed: 1 (not-a-video)")
    assert "1 failed" in done.stdout
    wrong = prep("extract", catalog, "--out", tmp_path / "videos", "--layout", "packed", "--frames", 4)
    assert "a pack's name must end in .frames" in wrong.stderr


def test_a_split_chooses_the_videos(tmp_path):
    catalog = make_catalog(tmp_path, n_videos=4)
    split = tmp_path / "split.csv"
    split.write_text("part,class,video_id\ntrain,class 0,0\ntest,class 1,1\n")
    done = prep("extract", catalog, "--out", tmp_path / "out", "--split", split, "--frames", 2, "--json")
    assert json.loads(done.stdout)["extracted"] == 2
