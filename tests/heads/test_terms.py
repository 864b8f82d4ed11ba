"""A run is tested on the terms of its training; what departs from them is marked."""

import json
import os
import subprocess
import sys

import pytest

from fsar.cli import eval_head, train_head
from fsar.cli.common import run_command
from fsar.heads.evaluation.report import table
from fsar.heads.run_folder import read_json, write_json
from tests.heads.stores import PARTS, make_store, ordered_features, rows_of

CROSSED = {"train": PARTS["test"] + PARTS["train"][:4], "val": PARTS["val"], "test": PARTS["train"][4:]}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    videos = rows_of(PARTS, 8)
    return make_store(tmp_path_factory.mktemp("store") / "s.zarr", {"pooled": ordered_features(videos)}, videos)


@pytest.fixture
def call(monkeypatch, capsys, store):
    def run(module, *arguments):
        monkeypatch.setattr(sys, "argv", ["x", *map(str, arguments), "--store", str(store.path), "--quiet"])
        with pytest.raises(SystemExit) as exit_info:
            run_command(module.command, module.__name__.rpartition(".")[2])
        captured = capsys.readouterr()
        return exit_info.value.code, captured.out, captured.err

    return run


@pytest.fixture
def split(tmp_path):
    """A split that is not the one recorded in the store: what was test is train here."""
    path = tmp_path / "mine.csv"
    path.write_text(
        "part,class,video_id\n" + "".join(f"{part},{name},*\n" for part, names in CROSSED.items() for name in names)
    )
    return path


@pytest.fixture
def run(call, split, tmp_path):
    """A 3-way 2-shot run on that split; the file of the split is gone."""
    out = tmp_path / "run"
    line = ["tsn", "-o", "adapter=linear", "--split", split, "--way", "3", "--shot", "2", "--steps", "4"]
    code, _, err = call(train_head, *line, "--val-episodes", "5", "--test-episodes", "30", "--out", out)
    assert code == 0, err
    split.unlink()
    return out


def test_the_terms_of_a_run_are_the_defaults(call, run):
    trained = read_json(run / "result.json")
    code, out, err = call(eval_head, run, "--episodes", 30, "--json")
    assert code == 0, err
    result = json.loads(out)["results"][0]
    for key in ("accuracy", "episodes_sha256", "split", "split_sha256", "part", "n_way", "n_shot"):
        assert result[key] == trained[key], key
    assert (result["split"], result["n_way"], result["n_shot"]) == ("mine", 3, 2)
    assert result["departures"] == []
    row = table([result], "csv").splitlines()[1]
    assert "mine" in row
    assert "trained" not in row


def test_an_untrained_head_beside_a_run_meets_the_same_episodes(call, run):
    code, out, err = call(eval_head, "otam", run, "--episodes", 20, "--json")
    assert code == 0, err
    otam, ours = json.loads(out)["results"]
    assert otam["episodes_sha256"] == ours["episodes_sha256"]
    assert otam["split"] == "mine"


def test_departures_are_marked(call, run, tmp_path):
    code, out, err = call(eval_head, run, "--shots", "2,1", "--way", "4", "--episodes", 10)
    assert code == 0, err
    assert out.count("trained 3-way 2-shot") == 2
    other = tmp_path / "other.csv"
    names = [*PARTS["val"][:2], *PARTS["train"][4:7]]
    other.write_text("part,class,video_id\n" + "".join(f"test,{name},*\n" for name in names))
    code, out, err = call(eval_head, run, "--split", other, "--episodes", 10)
    assert code == 1
    assert "the weights of the head were chosen by class 'v0' and 1 more" in err
    code, out, err = call(eval_head, run, "--split", other, "--episodes", 10, "--allow-seen")
    assert code == 0, err
    assert "2 classes of these chose the weights; trained on mine" in out


@pytest.mark.parametrize("part", ["val", "train"])
def test_classes_of_the_training_and_of_the_choice_are_refused_alike(call, run, part):
    code, _, err = call(eval_head, run, "--part", part, "--episodes", 10)
    assert code == 1
    assert err.count("\n") == 1
    assert "would not be few-shot" in err
    code, out, err = call(eval_head, run, "--part", part, "--episodes", 10, "--allow-seen")
    assert code == 0, err
    assert "of these" in out
    assert "not the test part" in out


def test_a_config_of_the_first_version_still_knows_who_chose(call, run):
    config = read_json(run / "config.json")
    write_json(run / "config.json", {k: v for k, v in config.items() if k not in ("val_classes", "val_share")})
    code, _, err = call(eval_head, run, "--part", "val", "--episodes", 10)
    assert code == 1
    assert "chosen by class" in err


def test_a_run_that_lost_its_split_asks_for_it(call, run):
    (run / "split.csv").unlink()
    code, _, err = call(eval_head, run, "--episodes", 10)
    assert code == 1
    assert "was trained on split 'mine', whose table is not in the folder: name it with --split" in err


def test_runs_of_different_terms_must_be_told_which(call, run, tmp_path):
    other = tmp_path / "other"
    line = ["tsn", "-o", "adapter=linear", "--shot", "1", "--steps", "2", "--val-episodes", "5", "--no-test"]
    assert call(train_head, *line, "--out", other)[0] == 0
    code, _, err = call(eval_head, run, other, "--episodes", 10)
    assert code == 1
    assert "(shot: run with 2, other with 1): say --shot" in err
    code, _, err = call(eval_head, run, other, "--shot", 1, "--way", 3, "--episodes", 10)
    assert code == 1
    assert "(split: run with mine, other with the parts of the store): say --split" in err


def test_everything_is_refused_before_anything_is_computed(call, run, tmp_path):
    taken = tmp_path / "file"
    taken.write_text("")
    code, out, err = call(eval_head, "otam", run, "--part", "val", "--episodes", 10, "--out", tmp_path / "out")
    assert (code, out) == (1, "")
    assert not (tmp_path / "out").exists()
    code, _, err = call(eval_head, run, "--episodes", 10, "--out", taken)
    assert code == 1
    assert "cannot be written: name another folder" in err


@pytest.mark.skipif(sys.platform != "linux", reason="drops the privilege of root to write anywhere")
def test_a_run_of_somebody_else_is_tested_and_not_written_to(run, store):
    for path in [*run.rglob("*"), run]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    caps = "-dac_override,-dac_read_search"
    line = [sys.executable, "-m", "fsar.cli.eval_head", run, "--store", store.path, "--episodes", 10, "--quiet"]
    if os.getuid() == 0:
        line = ["setpriv", f"--bounding-set={caps}", f"--inh-caps={caps}", *line]
    ended = subprocess.run([str(word) for word in line], capture_output=True, text=True)
    for path in [run, *run.rglob("*")]:
        path.chmod(0o755 if path.is_dir() else 0o644)
    assert ended.returncode == 0, ended.stderr
    assert "accuracy %" in ended.stdout
    assert "note: the result was not saved" in ended.stderr
    assert "--out FOLDER saves it elsewhere" in ended.stderr
    assert not (run / "eval").exists()
