import csv
import json
import sys
from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pytest

from fsar.api import train_head
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


def test_costs_are_measured_when_asked_for(call, store):
    arguments = ("trx", "--episodes", 5, "--query", 2, "-o", "out_dim=16")
    code, out, err = call(*arguments, "--complexity", "--json")
    assert code == 0, err
    found = json.loads(out)["results"][0]["complexity"]
    tap = store.taps["pooled"]
    assert found["n_query"] == 10
    assert found["n_parameters"] > 0
    assert found["flops_per_episode"] > 10 * 5 * 2 * 16  # at the least, each query is compared with each support
    assert found["ms_per_query"] == pytest.approx(found["ms_per_episode"] / 10)
    assert found["bytes_per_video"] == store.n_slots * int(np.prod(tap.shape)) * np.dtype(tap.dtype).itemsize
    assert "MFLOP an episode" in call(*arguments, "--complexity")[1]
    assert "MFLOP an episode" not in call(*arguments)[1]


def test_plots_are_the_numbers_of_the_test(call, tmp_path):
    code, out, err = call("tsn", "otam", "--shots", "1,3", "--episodes", 40, "--json", "--plots", tmp_path / "figures")
    assert code == 0, err
    results = json.loads(out)["results"]
    folder = tmp_path / "figures"
    for figure in folder.glob("*.svg"):
        ElementTree.parse(figure)
    rows = list(csv.DictReader((folder / "accuracy-by-shots.csv").read_text().splitlines()))
    assert [(row["name"], int(row["shots"]), float(row["accuracy"])) for row in rows] == [
        (name, shot, next(r["accuracy"] for r in results if (r["label"], r["n_shot"]) == (name, shot)))
        for name in ("tsn", "otam")
        for shot in (1, 3)
    ]
    lines = (folder / "classes-otam-5-way-3-shot--test.csv").read_text().splitlines()
    of_class = {row["class"]: float(row["accuracy"]) for row in csv.DictReader(lines)}
    assert of_class == {name: share for name, share in results[3]["per_class_accuracy"].items() if share is not None}
    assert (folder / "confusion-tsn-5-way-1-shot--test.svg").is_file()
    assert f"{len(list(folder.glob('*.svg')))} figures in" in err


def test_learning_curves_are_plotted_for_runs(call, store, tmp_path):
    run = train_head("otam", store, options={"adapter": "linear"}, steps=20, validate_every=10, test=False,
                     out=tmp_path / "run", quiet=True, device="cpu").folders[0]  # fmt: skip
    assert call(run, "--episodes", 5, "--plots", tmp_path / "figures")[0] == 0
    rows = list(csv.DictReader((tmp_path / "figures" / "curve-val-accuracy.csv").read_text().splitlines()))
    assert [float(row["step"]) for row in rows] == [10, 20]


@pytest.fixture(scope="module")
def folds(store, tmp_path_factory):
    """Runs of a head without training on two folds that exchange some classes of training and test."""
    folder = tmp_path_factory.mktemp("folds")
    parts = {video.class_name: video.part for video in store.videos}
    train, test = ([name for name, part in parts.items() if part == wanted] for wanted in ("train", "test"))
    exchanged = dict(zip(train[:2], ["test"] * 2, strict=True)) | dict(zip(test[:2], ["train"] * 2, strict=True))
    runs = []
    for k, of_class in enumerate((parts, {**parts, **exchanged})):
        split = folder / f"mine-fold{k}of2.csv"
        with split.open("w", newline="") as file:
            csv.writer(file).writerow(["part", "class", "video_id"])
            csv.writer(file).writerows([of_class[v.class_name], v.class_name, v.video_id] for v in store.videos)
        trained = train_head("otam", store, split=str(split), test=False, out=folder / f"run{k}", quiet=True)
        runs.append(trained.folders[0])
    return runs


def test_folds_are_tested_each_on_its_own_classes_and_their_spread_stands_beside(call, folds):
    code, out, err = call(*folds, "--episodes", 60, "--json")
    assert code == 0, err
    data = json.loads(out)
    first, second = data["results"]
    assert set(first["per_class_accuracy"]) != set(second["per_class_accuracy"])
    assert [result["seen_classes"] for result in data["results"]] == [[], []]
    (spread,) = data["spreads"]
    assert spread["label"] == "otam on 2 folds of mine"
    assert spread["mean"] == pytest.approx((first["accuracy"] + second["accuracy"]) / 2)
    assert spread["std"] == pytest.approx(abs(first["accuracy"] - second["accuracy"]) / np.sqrt(2))
    assert spread["episodes_half"] == pytest.approx((first["ci95"] + second["ci95"]) / 2)
    assert "otam on 2 folds of mine, 5-way 1-shot, test: " in call(*folds, "--episodes", 60)[1]


@pytest.mark.parametrize(
    ("more", "message"),
    [(["--compare", "tsn"], "on which one tsn is tested"), (["--save-episodes", "l.npz"], "several folds")],
)
def test_what_needs_one_list_of_classes_is_refused_for_folds(call, folds, more, message):
    code, _, err = call(*folds, "--episodes", 5, *more)
    assert code == 1
    assert message in err
