"""`fsar-prep synth` as a user meets it."""

import json
import signal

from fsar.pipeline.synth.synth import SynthSettings, synthesize
from tests.cli.video_commands import files, prep, run_and_stop

SMALL = ["--train-classes", 4, "--val-classes", 2, "--test-classes", 2, "--size", "107x60"]


def test_synth_writes_a_set_and_resumes(tmp_path):
    out = tmp_path / "set"
    first = prep("synth", out, *SMALL, "--clips", 1, "--json")
    assert (first.returncode, json.loads(first.stdout)["written"]) == (0, 8)
    again = prep("synth", out, *SMALL, "--clips", 1, "--quiet")
    assert again.stdout == f"{out}: 0 videos written, 8 kept, 0 failed\n"
    assert sorted(path.name for path in out.iterdir()) == ["annotations", "split.csv", "synth.json", "videos"]


def test_wrong_calls_print_one_clear_line(tmp_path):
    for size in ("big", "²x²"):
        assert "is not WIDTHxHEIGHT" in prep("synth", tmp_path / "a", "--size", size).stderr
    done = prep("synth", tmp_path / "a", "--train-classes", 60)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "sum to 1..48" in done.stderr


def test_a_killed_run_ends_with_the_bytes_of_one_that_was_not(tmp_path):
    arguments = [*SMALL, "--clips", 3, "--jobs", 2]
    settings = SynthSettings(4, 2, 2, clips=3, size=(107, 60))
    out, whole = tmp_path / "out", tmp_path / "whole"
    run_and_stop(signal.SIGKILL, "synth", out, *arguments, progress=out / "videos", seed=0)
    for folder in (out, whole):
        synthesize(folder, settings, quiet=True)
    assert files(out) == files(whole)
