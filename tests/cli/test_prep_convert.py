"""`fsar-prep convert` as a user meets it."""

import json
import signal

import pytest

from fsar.pipeline.catalog.catalog import read_catalog
from fsar.pipeline.rewrite.convert import convert
from fsar.pipeline.video.transcode import ConvertSettings
from tests.cli.video_commands import files, make_catalog, prep, run_and_stop


def test_convert_reports_resumes_and_plans(tmp_path):
    catalog, out = make_catalog(tmp_path, n_videos=2), tmp_path / "out"
    planned = prep("convert", catalog, "--out", out, "--dry-run", "--json")
    assert json.loads(planned.stdout)["to_convert"] == 2
    assert not out.exists()
    first = prep("convert", catalog, "--out", out, "--json", "--gop", 4)
    assert (first.returncode, json.loads(first.stdout)["converted"]) == (0, 2)
    again = prep("convert", catalog, "--out", out, "--gop", 4, "--quiet")
    assert again.stdout == f"{out}: 0 videos converted, 2 kept, 0 failed\n"
    assert again.stderr == ""
    other = prep("convert", catalog, "--out", out, "--crf", 30)
    assert (other.returncode, other.stderr.count("\n")) == (1, 1)
    assert "other settings" in other.stderr


def test_convert_exits_with_1_when_a_video_failed(tmp_path):
    catalog = make_catalog(tmp_path, n_videos=2)
    (tmp_path / "videos" / "1.webm").write_bytes(b"")
    done = prep("convert", catalog, "--out", tmp_path / "out", "--quiet")
    assert done.returncode == 1
    assert "1 video converted, 0 kept, 1 failed, listed in" in done.stdout
    assert "1," in (tmp_path / "out" / "failures.csv").read_text()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["absent.csv", "--out", "out"], 1, "no catalog absent.csv"),
        (["catalog.csv"], 2, "Missing option '--out'"),
        (["catalog.csv", "--out", "out", "--crf", "99"], 2, "99 is not in the range"),
        (["catalog.csv", "--out", "out", "--short-side", "31"], 1, "even number of pixels"),
    ],
)
def test_wrong_calls_print_one_clear_line(tmp_path, monkeypatch, arguments, code, message):
    make_catalog(tmp_path, n_videos=1)
    monkeypatch.chdir(tmp_path)
    done = prep("convert", *arguments)
    assert done.returncode == code
    assert message in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("n_stops", [1, pytest.param(12, marks=pytest.mark.slow)])
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL], ids=["ctrl-c", "kill-9"])
def test_a_stopped_run_ends_with_the_bytes_of_one_that_was_not(tmp_path, how, n_stops):
    catalog = make_catalog(tmp_path, n_videos=8 if n_stops == 1 else 40, n_frames=40)
    out, whole = tmp_path / "out", tmp_path / "whole"
    for seed in range(n_stops):
        code = run_and_stop(
            how, "convert", catalog, "--out", out, "--jobs", 2, "--preset", "medium", progress=out / "videos", seed=seed
        )
        assert code in (0, 130, -9, -2)  # -2: the signal met the interpreter itself while it started or ended
        if how == signal.SIGINT:
            assert not list(out.rglob(".*.tmp-*"))
    for folder in (out, whole):
        convert(read_catalog(catalog), folder, ConvertSettings(preset="medium"), quiet=True)
    assert files(out) == files(whole)
