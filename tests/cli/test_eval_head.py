import json
import sys
from dataclasses import replace

import numpy as np
import pytest

from fsar.cli import eval_head
from fsar.cli.common import run_command
from fsar.heads import create_head
from fsar.heads.episodes.saved_list import load_list, save_list
from fsar.heads.run_folder import save_head
from tests.heads.stores import ordered_store


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return ordered_store(tmp_path_factory.mktemp("store") / "s.zarr")


@pytest.fixture
def call(monkeypatch, capsys, store):
    def run(*arguments):
        argv = ["fsar-eval-head", *map(str, arguments), "--store", str(store.path), "--quiet"]
        monkeypatch.setattr(sys, "argv", argv)
        with pytest.raises(SystemExit) as exit_info:
            run_command(eval_head.command, "fsar-eval-head")
        captured = capsys.readouterr()
        return exit_info.value.code, captured.out, captured.err

    return run


def test_a_table_of_heads_and_shots(call):
    code, out, err = call("tsn", "otam", "--shots", "1,3", "--episodes", 60, "--format", "markdown")
    assert code == 0, err
    lines = out.splitlines()
    assert lines[0].startswith("| head ")
    assert set(lines[1]) <= set("| -")
    assert [line.split("|")[1].strip() for line in lines[2:]] == ["tsn", "otam", "tsn", "otam"]
    assert [line.split("|")[3].strip() for line in lines[2:]] == ["1", "1", "3", "3"]


def test_csv_is_a_table_for_programs(call):
    code, out, _ = call("tsn", "otam", "--episodes", 60, "--format", "csv", "--compare", "proto")
    assert code == 0
    rows = [line.split(",") for line in out.splitlines()]
    assert len(rows) == 4
    assert {len(row) for row in rows} == {len(rows[0])}


def test_a_saved_list_gives_the_same_numbers(call, tmp_path):
    arguments = ("otam", "--episodes", 50, "--shot", 2, "--query", 3, "--json")
    first = json.loads(call(*arguments, "--save-episodes", tmp_path / "list.npz", "--out", tmp_path / "out")[1])
    again = json.loads(call("otam", "--episodes-file", tmp_path / "list.npz", "--json")[1])
    one, other = first["results"][0], again["results"][0]
    for key in ("accuracy", "ci95", "episodes_sha256", "n_shot", "n_query", "n_episodes", "per_class_accuracy"):
        assert one[key] == other[key], key
    folder = tmp_path / "out" / "otam-test-5way-2shot"
    accuracies = np.load(folder / "accuracies.npy")
    assert accuracies.mean() == pytest.approx(one["accuracy"])
    assert json.loads((folder / "result.json").read_text())["episodes_sha256"] == one["episodes_sha256"]


def test_unequal_shots(call):
    code, out, err = call("otam", "--shot", "1,2,1,3,1", "--episodes", 20)
    assert code == 0, err
    assert "1/2/1/3/1" in out


def test_a_head_with_random_weights_is_marked(call):
    code, _, err = call("trx", "--episodes", 5, "-o", "out_dim=16")
    assert code == 0
    assert "'trx' is untrained" in err
    assert "untrained" not in call("proto", "--episodes", 5)[2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["moloo"], "'moloo' is neither a run folder nor a head; heads: molo"),
        (["otam", "--part", "tset"], "unknown part 'tset': did you mean test?"),
        (["otam", "--shots", "1,20"], "takes 21 videos of a class"),
        (["otam", "--text", "words"], "takes no text"),
        (["tests"], "is neither a run folder"),
    ],
)
def test_bad_input_is_one_line_and_exit_1(call, arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refused_line(call(*arguments, "--episodes", 5), message)


def test_a_list_that_is_absent_is_one_line(call, tmp_path):
    refused_line(call("otam", "--episodes-file", tmp_path / "nowhere.npz"), "no episode list at")


def refused_line(outcome, message):
    code, _, err = outcome
    assert code == 1
    assert message in err
    assert err.startswith("error: ")
    assert err.count("\n") == 1


def test_runs_of_one_folder_name_are_told_apart(call, tmp_path, monkeypatch, store):
    runs = [tmp_path / name / "seed-0" for name in ("first", "second")]
    for run in runs:
        save_head(run, create_head("tsn"))
    code, out, err = call(*runs, "--compare", runs[1], "--episodes", 20, "--out", tmp_path / "out")
    assert code == 0, err
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "first-seed-0-test-5way-1shot",
        "second-seed-0-test-5way-1shot",
    }
    assert "first-seed-0 minus second-seed-0" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--shots", "1,2", "--save-episodes", "l.npz"], "--save-episodes writes one list"),
        (["--shots", "1,2", "--episodes-file", "l.npz"], "leave --shots out"),
        (["--episodes", "7", "--episodes-file", "l.npz"], "--episodes-file lists the episodes: leave --episodes out"),
        (["--seed", "4", "--episodes-file", "l.npz"], "leave --seed out"),
        (["--compare", "tsn"], "--compare tsn is the head under test"),
        (["--device", "mps"], "device 'mps' is not supported: write cpu, cuda or cuda:N"),
    ],
)
def test_options_that_would_be_ignored_are_refused(call, arguments, message):
    code, _, err = call("tsn", *arguments)
    assert code == 1
    assert message in err


def test_a_list_with_a_video_of_another_class_is_refused(call, tmp_path, store):
    assert call("tsn", "--episodes", 20, "--save-episodes", tmp_path / "list.npz")[0] == 0
    listed = load_list(tmp_path / "list.npz")
    wrong = replace(listed.episodes, query_labels=(listed.episodes.query_labels + 1) % 5)
    save_list(replace(listed, episodes=wrong), tmp_path / "wrong.npz")
    code, _, err = call("tsn", "--episodes-file", tmp_path / "wrong.npz")
    assert code == 1
    assert "for one of class" in err
