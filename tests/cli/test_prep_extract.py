"""`fsar-prep extract` as a user meets it."""

import json
import signal

import pytest

from fsar.pipeline.catalog.catalog import read_catalog
from fsar.pipeline.rewrite.extract import ExtractSettings, extract
from tests.cli.video_commands import files, make_catalog, prep, run_and_stop


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
    assert "1 videos extracted, 0 kept, 1 failed, listed in" in done.stdout


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
