"""`fsar-predict` as a program: formats, lists, windows, and bad input in one line each."""

import csv
import io
import json
import shutil
import subprocess
import sys
from itertools import pairwise

import pytest

from fsar.cli import predict
from fsar.cli.common import run_command
from tests.predict.clips import COLOURS, write_colours
from tests.predict.conftest import BACKBONE, world  # noqa: F401 - a fixture
from tests.videos import cut_file


@pytest.fixture
def call(monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def run(*arguments, code=0):
        monkeypatch.setattr(sys, "argv", ["fsar-predict", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            run_command(predict.command, "fsar-predict")
        output = capsys.readouterr()
        assert ended.value.code == code, output.err
        return output

    return run


def test_a_folder_of_clips_is_answered_as_json(call, world):  # noqa: F811
    output = call("--support", world.support, "--query", world.query, "--run", world.run, "--json", "--top", 2)
    data = json.loads(output.out)
    assert {answer["decision"] for answer in data["answers"]} == {"blue", "yellow", "magenta"}
    assert [len(answer["ranking"]) for answer in data["answers"]] == [2, 2, 2]
    assert data["classes"] == {"blue": 2, "magenta": 2, "yellow": 2}
    assert data["answers"][0]["evidence"][0]["kind"] == "alignment"
    assert (world.run / "calibration.json").is_file()


def test_text_says_what_and_when(call, world):  # noqa: F811
    clip = world.query / "blue" / "blue-200.mp4"
    out = call("--support", world.support, "--query", clip, "--run", world.run).out
    assert out.startswith(f"{clip}: blue\n")
    assert "decided by" in out


def test_a_list_is_read_from_where_it_lies(call, world, tmp_path):  # noqa: F811
    shutil.copy(world.query / "blue" / "blue-200.mp4", tmp_path / "a.mp4")
    (tmp_path / "list.csv").write_text("path,note\na.mp4,first\nmissing.mp4,second\n")
    output = call("--support", world.support, "--query", tmp_path / "list.csv", "--run", world.run, "--format", "csv",
                  code=1)  # fmt: skip
    rows = list(csv.DictReader(io.StringIO(output.out)))
    assert [row["decision"] for row in rows] == ["blue"] * 3
    assert "missing.mp4 does not exist" in output.err
    assert "1 of 2 clips answered, 1 failed" in output.err


def test_supports_can_be_listed(call, world, tmp_path):  # noqa: F811
    """A catalog will do; classes and shots are chosen from it."""
    lines = [
        f"{path},{path.parent.name},{n}" for n, path in enumerate(sorted((world.folder / "videos").rglob("*.mp4")))
    ]
    (tmp_path / "catalog.csv").write_text("path,class,n\n" + "\n".join(lines))
    clip = world.query / "blue" / "blue-200.mp4"
    chosen = ["--support", tmp_path / "catalog.csv", "--shot", 2, "--class", "blue", "--class", "yellow"]
    data = json.loads(call(*chosen, "--query", clip, "--run", world.run, "--json").out)
    assert data["classes"] == {"blue": 2, "yellow": 2}
    assert data["answers"][0]["ranking"][0]["class"] == "blue"
    wrong = [*chosen, "--class", "bleu", "--query", clip, "--run", world.run]
    assert "did you mean blue" in call(*wrong, code=1).err
    (tmp_path / "bad.csv").write_text("file,label\na,b\n")
    bad = ["--support", tmp_path / "bad.csv", "--query", clip, "--run", world.run]
    assert "no column 'path'; the header must have path,class, got 'file,label'" in call(*bad, code=1).err


def test_windows_follow_what_a_long_video_shows(call, world, tmp_path):  # noqa: F811
    """Three seconds each of two classes: windows say which, when, and how late."""
    film = write_colours(tmp_path / "film.mp4", [COLOURS["blue"]] * 24 + [COLOURS["yellow"]] * 24)
    output = call("--support", world.support, "--watch", film, "--run", world.run,
                  "--window-seconds", 1, "--stride-seconds", 0.5)  # fmt: skip
    windows = [json.loads(line) for line in output.out.splitlines()]
    assert [w["start_seconds"] for w in windows] == [0.5 * i for i in range(len(windows))]
    assert len(windows) == 10
    assert all(w["end_seconds"] - w["start_seconds"] == 1 for w in windows)
    first = [w["ranking"][0]["class"] for w in windows]
    assert first[:4] == ["blue"] * 4
    assert first[-4:] == ["yellow"] * 4
    assert sum(a != b for a, b in pairwise(first)) == 1
    assert all(0 < w["latency_seconds"] < 60 for w in windows)
    assert "median latency" in output.err


def test_a_film_shorter_than_a_window_is_one_window(call, world, tmp_path):  # noqa: F811
    film = write_colours(tmp_path / "film.mp4", [COLOURS["blue"]] * 4)
    out = call("--support", world.support, "--watch", film, "--run", world.run, "--format", "csv").out
    (row,) = csv.DictReader(io.StringIO(out))
    assert row["decision"] == "blue"


def test_watching_ends_where_it_is_told_to(call, world, tmp_path):  # noqa: F811
    film = write_colours(tmp_path / "film.mp4", [COLOURS["blue"]] * 64)
    out = call("--support", world.support, "--watch", film, "--run", world.run, "--seconds", 4, "--format", "text").out
    assert len(out.splitlines()) == 2


def test_a_camera_that_stops_ends_with_one_line_and_keeps_its_windows(call, world, tmp_path):  # noqa: F811
    film = write_colours(tmp_path / "film.mkv", [COLOURS["blue"]] * 64)
    data = bytearray(film.read_bytes())
    film.write_bytes(bytes(data[: len(data) * 3 // 4]))
    stopped = call("--support", world.support, "--watch", film, "--run", world.run, "--window-seconds", 1)
    assert len(stopped.out.splitlines()) >= 2
    gone = call("--support", world.support, "--watch", tmp_path / "camera", "--run", world.run, code=1)
    assert gone.err.count("error:") == 1
    assert "cannot be watched" in gone.err
    broken = cut_file(write_colours(tmp_path / "broken.mp4", [COLOURS["blue"]] * 16), 0.5)
    assert "cannot be watched" in call("--support", world.support, "--watch", broken, "--run", world.run, code=1).err


def test_a_calibration_can_be_fitted_anew_and_checked(call, world, tmp_path):  # noqa: F811
    run = shutil.copytree(world.run, tmp_path / "run")
    call("--support", world.support, "--run", run, "--calibrate")
    fitted = json.loads((run / "calibration.json").read_text())
    spoilt = {key: {**value, "temperature": 99.0} for key, value in fitted.items()}
    (run / "calibration.json").write_text(json.dumps(spoilt))
    err = call("--support", world.support, "--run", run, "--calibrate").err
    assert "fitted on 3-way validation episodes of colours.zarr: AUROC" in err
    anew = json.loads((run / "calibration.json").read_text())
    (key,) = [key for key in fitted if key.startswith("3-way 2-shot")]
    assert anew[key] == fitted[key]


HEAVY = [
    "torch._dynamo",
    "torch._meta_registrations",
    "torch._refs",
    "timm",
    "torchvision",
    "open_clip",
    "h5py",
    "zarr",
    "scipy",
    "sklearn",
    "fsar.pipeline.share",
]
TWO_CALLS = f"""
import sys
from fsar.cli.lean_imports import LateModule
from fsar.cli.predict import main
support, run, *queries = sys.argv[1:]
for query in queries:
    sys.argv = ["fsar-predict", "--support", support, "--query", query, "--run", run, "--format", "jsonl", "--quiet"]
    try:
        main()
    except SystemExit as ended:
        assert not ended.code
    loaded = [name for name in {HEAVY} if not isinstance(sys.modules.get(name, LateModule("")), LateModule)]
    print("loaded:", *loaded, file=sys.stderr)
import torch
assert torch.compiler.disable(len) and torch._dynamo.config.cache_size_limit  # the real one, once something asks for it
assert torch.ops.aten.grid_sampler_2d_backward(  # whose shapes are told in Python
    *torch.empty(2, 1, 1, 2, 2, device="meta"), torch.empty(1, 2, 2, 2, device="meta"), 0, 0, False, [True, True]
)[0].shape == (1, 1, 2, 2)
"""


def test_a_cached_call_imports_no_backbone_and_none_waits_for_a_compiler(call, world, tmp_path):  # noqa: F811
    """Imports are most of what a call takes; they are counted, as seconds depend on the machine."""
    old = world.query / "blue" / "blue-200.mp4"
    call("--support", world.support, "--query", old, "--run", world.run)  # fills the cache that both share
    new = shutil.copy(old, tmp_path / "new.mp4")
    line = [sys.executable, "-c", TWO_CALLS, *map(str, (world.support, world.run, old, new))]
    ended = subprocess.run(line, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stderr
    assert [json.loads(answer)["decision"] for answer in ended.stdout.splitlines()] == ["blue", "blue"]
    loaded = [line.split()[1:] for line in ended.stderr.splitlines() if line.startswith("loaded:")]
    assert loaded == [[], ["timm", "torchvision"]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "say what to classify"),
        (["--query", "a", "--watch", "b"], "not both"),
        (["--query", "a"], "say by what"),
        (["--query", "a", "--head", "otam"], "needs --backbone"),
        (["--query", "a", "--head", "otam", "--store", "s", "--frames", 4], "fixed by the recipe of the store"),
        (["--query", "a", "--run", "r", "-o", "smoothing=1"], "its --option is fixed"),
        (["--watch", "a", "--run", "r", "--json"], "a line per window"),
        (["--query", "a", "--run", "nowhere"], "holds no trained head"),
        (["--query", "a", "--head", "otan", "--backbone", BACKBONE], "unknown head 'otan'"),
        (["--query", "gone.mp4", "--head", "otam", "--backbone", "timm:test_resnet/gone.safetensors"], "no query"),
        (["--query", "gone.mp4", "--head", "otam", "--backbone", "timm:test_resnet", "--weights", "g.pth"], "no query"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(call, world, arguments, message):  # noqa: F811
    err = call("--support", world.support, *arguments, code=1).err
    assert message in err
    assert len([line for line in err.splitlines() if line.startswith("error:")]) == 1


@pytest.mark.parametrize(("name", "message"), [("notes.pdf", "neither a video"), ("gone.mp4", "no query")])
def test_a_query_that_is_no_video(call, world, tmp_path, name, message):  # noqa: F811
    if name == "notes.pdf":
        (tmp_path / name).write_text("no video")
    err = call("--support", world.support, "--query", tmp_path / name, "--run", world.run, code=1).err
    assert message in err
