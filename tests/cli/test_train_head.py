import json
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest

from fsar.cli import eval_head, train_head
from fsar.cli.common import run_command
from fsar.heads.run_folder import read_tensors
from fsar.heads.training.interrupt import StopRequest
from tests.heads.stores import PARTS, make_store, ordered_features, ordered_store, rows_of

SHORT = ["--episodes-per-step", "2", "--steps", "6", "--val-episodes", "10", "--test-episodes", "20", "--quiet"]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return ordered_store(tmp_path_factory.mktemp("store") / "s.zarr", failed=[2])


@pytest.fixture
def call(monkeypatch, capsys, store):
    """Call a command as a program would: (exit code, stdout, stderr)."""

    def run(module, *arguments, path=store.path):
        name = module.__name__.rpartition(".")[2]
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments), "--store", str(path)])
        with pytest.raises(SystemExit) as exit_info:
            run_command(module.command, name)
        captured = capsys.readouterr()
        return exit_info.value.code, captured.out, captured.err

    return run


def test_train_then_evaluate(call, tmp_path):
    code, out, err = call(train_head, "otam", "-o", "adapter=temporal", "--out", tmp_path / "run", *SHORT)
    assert code == 0, err
    assert "otam seed 0" in out
    assert "1 video could not be encoded" in out
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    arguments = ["--episodes", "20", "--quiet", "--json", "--compare", "tsn"]
    code, out, err = call(eval_head, tmp_path / "run", *arguments)
    assert code == 0, err
    data = json.loads(out)
    ours, tsn = data["results"]
    assert ours["accuracy"] == pytest.approx(result["accuracy"])  # the same list of test episodes
    assert ours["episodes_sha256"] == tsn["episodes_sha256"] == result["episodes_sha256"]
    assert data["comparisons"][0]["difference"] == pytest.approx(ours["accuracy"] - tsn["accuracy"])
    assert (tmp_path / "run" / "eval" / "run-test-5way-1shot" / "confusion.csv").is_file()


def test_several_seeds_give_mean_and_spread(call, tmp_path):
    code, out, err = call(
        train_head, "tsn", "-o", "adapter=linear", "--seeds", "0,1", "--out", tmp_path / "runs", "--json", *SHORT
    )
    assert code == 0, err
    data = json.loads(out)
    accuracies = [result["accuracy"] for result in data["results"]]
    assert data["seeds"]["mean"] == pytest.approx(sum(accuracies) / 2)
    assert data["seeds"]["std"] == pytest.approx(abs(accuracies[0] - accuracies[1]) / 2**0.5)
    assert (tmp_path / "runs" / "seed-1" / "head.safetensors").is_file()
    hashes = {result["episodes_sha256"] for result in data["results"]}
    assert len(hashes) == 1  # all seeds meet the same test


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["moloo"], "unknown head 'moloo': did you mean molo?"),
        (["otam", "-o", "adaptr=linear"], "unknown option of head 'otam' 'adaptr': did you mean adapter?"),
        (["otam", "-o", "adapter=conv"], "must be none or linear or mlp or temporal, got 'conv'"),
        (["otam", "-o", "smoothing=soft"], "option smoothing of head 'otam' must be float, got 'soft'"),
        (["otam", "--way", "11"], "11-way episodes need 11 classes, the train part"),
        (["otam", "--shot", "9"], "takes 14 videos of a class"),
        (["otam", "--shot", "0"], "shot must be at least 1 for every class, got 0"),
        (["otam", "--query", "0"], "query must leave at least 1 video of an episode to classify, got 0"),
        (["otam", "--way", "7"], "7-way episodes need 7 classes, the test part"),
        (["otam", "--split", "ssv2-cnm"], "ssv2-cmn"),
        (["otam", "--preset", "cashed"], "did you mean cached"),
        (["otam", "--device", "cuda:99"], "'cuda:99' asked for, but this machine has"),
        (["otam", "--steps", "3", "--episodes", "9"], "not both"),
        (["molo"], "--tap map"),
        (["pal", "--unlabelled", "2"], "head 'pal' does not read unlabelled videos; heads that do: hyrsm++"),
        (["hyrsm", "-o", "n_classes=1"], "option n_classes is 1, but there are"),
        (["otam", "--episodes-file", "l.npz", "--test-seed", "3"], "leave --test-episodes out"),
        (["hcl", "--query", "1"], "--tap map"),
    ],
)
def test_bad_input_is_one_line_and_exit_1(call, tmp_path, arguments, message):
    code, out, err = call(train_head, *arguments, "--out", tmp_path / "run", *SHORT[4:])
    assert code == 1
    assert out == ""
    assert message in err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-o", "adapter"], "'-o': must be KEY=VALUE, got 'adapter'"),
        (["--tap", "frames"], "'--tap': must be ROLE=TAP, got 'frames'"),
        (["--seeds", "1,1"], "names a number twice"),
        (["--seeds", "0,-1"], "must be 0 or more"),
        (["--shot", "one"], "must be a number, or one per class like 1,5,2,1,1; got 'one'"),
        (["--steps", "0"], "'--steps'"),
        (["--lr", "nan"], "'--lr'"),
        (["--val-share", "1"], "'--val-share'"),
    ],
)
def test_a_value_that_an_option_never_takes_is_usage(call, arguments, message):
    code, _, err = call(train_head, "otam", *arguments)
    assert code == 2
    assert message in err
    assert len(err.strip().splitlines()) == 1


def test_a_run_does_not_go_on_with_other_options_of_the_head(call, tmp_path):
    line = [train_head, "otam", "-o", "adapter=linear", "--out", tmp_path / "run", *SHORT]
    assert call(*line, "-o", "dropout=0.5")[0] == 0
    before = (tmp_path / "run" / "head.safetensors").read_bytes()
    code, _, err = call(*line)
    assert code == 1
    assert "holds another run (options.dropout: 0.5 != (not given))" in err
    assert (tmp_path / "run" / "head.safetensors").read_bytes() == before


def test_a_store_that_is_none_is_one_line(call, tmp_path):
    code, _, err = call(train_head, "otam", path=tmp_path / "absent.zarr")
    assert code == 1
    assert err.count("\n") == 1
    assert "absent.zarr" in err


def test_small_classes_are_dropped_and_reported(call, tmp_path):
    videos = rows_of(PARTS, 7)
    few = [v for v in videos if v.class_name != "a3" or v.video_id.endswith("-0")]
    store = make_store(tmp_path / "s.zarr", {"pooled": ordered_features(few)}, few)
    arguments = ["otam", "-o", "adapter=linear", "--out", tmp_path / "run", *SHORT]
    code, _, err = call(train_head, *arguments, path=store.path)
    assert code == 1
    assert "'a3' (1)" in err
    code, out, err = call(train_head, *arguments, "--drop-small-classes", path=store.path)
    assert code == 0, err
    assert "dropped because they are too small: a3 (1)" in out


def test_a_run_is_refused_on_features_of_another_recipe(call, tmp_path):
    code, _, err = call(train_head, "otam", "-o", "adapter=linear", "--out", tmp_path / "run", *SHORT)
    assert code == 0, err
    videos = rows_of(PARTS, 7)
    features = {"pooled": ordered_features(videos)}
    other = make_store(tmp_path / "o.zarr", features, videos, recipe={"backbone": "other", "sampler": "dense"})
    code, _, err = call(eval_head, tmp_path / "run", "--quiet", path=other.path)
    assert code == 1
    assert "sampler" in err
    assert "'dense'" in err
    code, out, err = call(eval_head, tmp_path / "run", "--allow-recipe", "--episodes", 9, "--quiet", path=other.path)
    assert code == 0, err
    assert "features of another recipe" in err
    wide = make_store(tmp_path / "w.zarr", {"pooled": ordered_features(videos, dim=24)}, videos)
    code, _, err = call(eval_head, tmp_path / "run", "--quiet", path=wide.path)
    assert code == 1
    assert "takes features of width 16" in err
    assert "has width 24" in err
    code, _, err = call(eval_head, tmp_path / "run", "--part", "train", "--quiet")
    assert code == 1
    assert "was trained on class 'a0'" in err
    code, out, _ = call(eval_head, tmp_path / "run", "--part", "train", "--allow-seen", "--episodes", 9, "--quiet")
    assert code == 0
    assert "trained on 10 classes of these" in out


@pytest.mark.slow
def test_ctrl_c_saves_and_the_same_command_goes_on(store, tmp_path):
    command = [sys.executable, "-c", "from fsar.cli.train_head import main; main()", "otam", "--store", str(store.path)]
    command += ["-o", "adapter=temporal", "--episodes-per-step", "2", "--val-episodes", "10", "--test-episodes", "20"]
    command += ["--steps", "60", "--validate-every", "20"]
    subprocess.run([*command, "--out", str(tmp_path / "whole"), "--quiet"], check=True, capture_output=True)
    halves = [*command, "--out", str(tmp_path / "halves"), "--quiet"]
    process = subprocess.Popen(halves, stderr=subprocess.PIPE, text=True)
    metrics = tmp_path / "halves" / "metrics.jsonl"
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not (metrics.is_file() and metrics.read_text()):
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    if process.returncode != 0:  # a fast machine may have finished before the signal came
        assert process.returncode == 130, err
        assert "run the same command again" in err
        assert (tmp_path / "halves" / "state.safetensors").is_file()
        subprocess.run(halves, check=True, capture_output=True)
    whole, resumed = (read_tensors(tmp_path / name / "head.safetensors")[0] for name in ("whole", "halves"))
    assert all((whole[name] == resumed[name]).all() for name in whole)


def test_the_list_of_heads_needs_no_store(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["fsar-train-head", "--list-heads"])
    with pytest.raises(SystemExit) as exit_info:
        train_head.main()
    assert exit_info.value.code == 0
    out = capsys.readouterr().out
    assert "otam: Cao et al." in out
    assert "options: dim, smoothing, adapter, dropout" in out


def test_a_run_does_not_go_on_over_other_videos(call, tmp_path):
    arguments = ["otam", "-o", "adapter=linear", "--out", tmp_path / "run", *SHORT]
    assert call(train_head, *arguments)[0] == 0
    videos = rows_of(PARTS, 8)  # one more of each class
    grown = make_store(tmp_path / "grown.zarr", {"pooled": ordered_features(videos)}, videos)
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    (tmp_path / "run" / "config.json").write_text(json.dumps({**config, "store": str(grown.path)}))
    code, _, err = call(train_head, *arguments, path=grown.path)
    assert code == 1
    assert "train_videos_sha256" in err


@pytest.mark.parametrize(
    ("option", "value"),
    [("--test-episodes", "0"), ("--val-episodes", "-1"), ("--patience", "-1"), ("--lr", "nan"), ("--seeds", "-1")],
)
def test_numbers_out_of_range_are_one_line(call, tmp_path, option, value):
    code, _, err = call(train_head, "otam", "-o", "adapter=linear", option, value, "--out", tmp_path / "run")
    assert code in (1, 2)
    assert option in err
    assert len(err.splitlines()) == 1


def test_a_split_without_a_val_part_can_hold_classes_out(call, tmp_path):
    split = tmp_path / "mine.csv"
    rows = [(part, name) for part in ("train", "test") for name in PARTS[part]]
    split.write_text("part,class,video_id\n" + "".join(f"{part},{name},*\n" for part, name in rows))
    line = [train_head, "otam", "-o", "adapter=linear", "--split", split, *SHORT]
    code, out, err = call(*line, "--out", tmp_path / "blind")
    assert code == 0, err
    assert "no validation part: these are the last weights" in out
    assert "--val-share 0.2 holds" in out
    code, out, err = call(*line, "--way", "3", "--val-share", "0.3", "--out", tmp_path / "held")
    assert code == 0, err
    assert "last weights" not in out
    config = json.loads((tmp_path / "held" / "config.json").read_text())
    assert len(config["val_classes"]) == 3
    assert sorted(config["val_classes"] + config["train_classes"]) == sorted(PARTS["train"])
    assert (tmp_path / "held" / "split.csv").read_text() == split.read_text()  # the run can be tested elsewhere
    code, _, err = call(*line, "--way", "3", "--val-share", "0.4", "--out", tmp_path / "held")
    assert code == 1
    assert "val_share: 0.3 != 0.4" in err


def test_a_training_says_how_it_stands_and_why_it_ended(call, tmp_path):
    line = ["otam", "-o", "adapter=linear", "--out", tmp_path / "run", "--steps", "40", "--episodes-per-step", "2"]
    more = [
        "--val-episodes",
        "10",
        "--validate-every",
        "10",
        "--patience",
        "1",
        "--test-episodes",
        "20",
        "--lr",
        "1e-9",
    ]
    code, out, err = call(train_head, *line, *more)
    assert code == 0, err
    told = [line for line in err.splitlines() if line.startswith("step ")]
    assert len(told) == 2
    assert re.fullmatch(r"step 10/40, loss \d+\.\d+, train \d+\.\d %, val \d+\.\d % \(best so far\)", told[0])
    assert re.fullmatch(r"step 20/40, loss .*, val \d+\.\d % \(best \d+\.\d % at step 10\)", told[1])
    assert re.search(
        r"seed 0: 20 steps in \d+ s, stopped early, validation had not improved for long; best validation \d+\.\d % "
        r"at step 10, these weights are kept; train accuracy at the end \d+\.\d %",
        out,
    )
    assert "tensorboard --logdir" in out
    report = json.loads((tmp_path / "run" / "result.json").read_text())["training"]
    assert 0 <= report["train_accuracy"] <= 1


def test_without_validation_the_train_accuracy_stands_beside_the_result(call, tmp_path):
    code, out, err = call(
        train_head, "tsn", "-o", "adapter=linear", "--out", tmp_path / "run", *SHORT, "--val-episodes", 0
    )
    assert code == 0, err
    assert "no validation, the last weights are kept; train accuracy at the end" in out
    assert "step " not in err  # --quiet


def test_a_store_is_the_same_by_another_spelling_and_at_another_place(call, tmp_path, store, monkeypatch):
    from fsar.heads.run_folder import read_json, write_json

    line = ["otam", "-o", "adapter=linear", "--out", tmp_path / "run", *SHORT]
    assert call(train_head, *line)[0] == 0
    before = (tmp_path / "run" / "result.json").read_bytes()
    monkeypatch.chdir(store.path.parent)
    shutil.copytree(store.path, tmp_path / "moved.zarr")
    for path in (store.path.name, f"../{store.path.parent.name}/{store.path.name}", tmp_path / "moved.zarr"):
        code, _, err = call(train_head, *line, path=path)
        assert code == 0, err
    config = read_json(tmp_path / "run" / "config.json")
    write_json(tmp_path / "run" / "config.json", {k: v for k, v in config.items() if k != "store_manifest"})
    assert call(train_head, *line, path=store.path.name)[0] == 0  # a config of the first version
    assert (tmp_path / "run" / "result.json").read_bytes() == before
    write_json(tmp_path / "run" / "config.json", config)
    videos = rows_of(PARTS, 12)
    other = make_store(tmp_path / "other.zarr", {"pooled": ordered_features(videos, seed=1)}, videos, failed=[2])
    code, _, err = call(train_head, *line, path=other.path)
    assert code == 1
    assert "holds another run (store: " in err


def test_after_an_interruption_the_seconds_are_those_of_the_steps_that_were_left(call, tmp_path, monkeypatch):
    line = ["otam", "-o", "adapter=linear", "--out", tmp_path / "run", *SHORT, "--steps", 30, "--validate-every", 10]
    looks = iter([False] * 19 + [True])
    with monkeypatch.context() as patch:
        patch.setattr(StopRequest, "to_stop", property(lambda self: next(looks)))
        assert call(train_head, *line)[0] == 130
    code, out, err = call(train_head, *line)
    assert code == 0, err
    assert re.search(r"seed 0: 30 steps, the last 10 of them in \d+ s, to the end", out)


def test_what_to_know_of_the_validation_is_said_before_the_training(call, tmp_path):
    line = [train_head, "otam", "-o", "adapter=linear", *SHORT, "--val-episodes", 0]
    code, out, err = call(*[argument for argument in line if argument != "--quiet"], "--out", tmp_path / "run")
    assert code == 0, err
    note = "note: no validation was asked for: these are the last weights"
    assert note in out
    assert err.index(note) < err.index("step ")
    assert note not in call(*line, "--quiet", "--out", tmp_path / "other")[2]


def test_weights_chosen_by_the_test_classes_are_marked_everywhere(call, tmp_path, store):
    line = [train_head, "otam", "-o", "adapter=linear", *SHORT]
    code, out, err = call(*line, "--select-on", "test", "--out", tmp_path / "run")
    assert code == 0, err
    assert "classes of these chose the weights" in out
    assert "the test classes choose the weights" in out
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert sorted(config["val_classes"]) == sorted(PARTS["test"])
    assert config["select_on"] == "test"
    code, _, err = call(eval_head, tmp_path / "run", "--episodes", 20)
    assert code == 1
    assert "the weights of the head were chosen by class" in err
    code, out, _ = call(eval_head, tmp_path / "run", "--episodes", 20, "--allow-seen")
    assert code == 0
    assert "classes of these chose the weights" in out
    code, _, err = call(*line, "--out", tmp_path / "run")
    assert code == 1
    assert "holds another run" in err
    for more in (["--val-share", "0.3"], ["--val-episodes", "0"]):
        code, _, err = call(*line, "--select-on", "test", *more, "--out", tmp_path / "other")
        assert code in (1, 2)
        assert "--select-on test" in err
