import json

import pytest
from click.testing import CliRunner

from fsar.cli.prep_index import DATASETS, command
from fsar.errors import InputError
from fsar.pipeline.catalog.catalog import read_catalog
from fsar.pipeline.catalog.scan import DATASETS as KNOWN


def run(*arguments):
    return CliRunner().invoke(command, [str(argument) for argument in arguments], standalone_mode=False)


def test_the_choices_are_the_datasets():
    assert tuple(KNOWN) == DATASETS


def test_index_writes_catalog_and_report(tmp_path):
    for name in ("walk/1.webm", "walk/2.webm", "run/3.webm"):
        path = tmp_path / "videos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"video")
    split = tmp_path / "mine.csv"
    split.write_text("part,class,video_id\ntrain,walk,*\ntest,run,3\ntest,run,4\n")
    words = [
        "--dataset",
        "folder",
        "--videos",
        tmp_path / "videos",
        "--out",
        tmp_path / "catalog.csv",
        "--split",
        split,
    ]
    result = run(*words, "--report", tmp_path / "report.json")
    assert result.exception is None
    assert "mine test: 1 of 2 videos of 1 class on disk" in result.stdout
    assert [(row.video_id, row.part) for row in read_catalog(tmp_path / "catalog.csv").rows] == [
        ("run/3.webm", "test"),
        ("walk/1.webm", "train"),
        ("walk/2.webm", "train"),
    ]
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["splits"]["mine"][1]["missing_ids"] == {"run": ["4"]}
    assert json.loads(run(*words, "--json").stdout)["n_videos"] == 3


def test_only_split_needs_a_split(tmp_path):
    result = run("--dataset", "folder", "--videos", tmp_path, "--out", tmp_path / "c.csv", "--only-split")
    assert "--only-split needs --split" in str(result.exception)


def test_an_error_leaves_an_older_catalog_alone(tmp_path):
    (tmp_path / "catalog.csv").write_text("older")
    result = run("--dataset", "folder", "--videos", tmp_path / "none", "--out", tmp_path / "catalog.csv")
    assert isinstance(result.exception, FileNotFoundError)
    assert (tmp_path / "catalog.csv").read_text() == "older"


@pytest.mark.parametrize(
    ("out", "report"),
    [("mine.csv", "r.json"), ("c.csv", "mine.csv"), ("split.csv", "r.json"), ("c.csv", "c.csv"), ("1.webm", "r.json")],
)
def test_what_is_read_is_never_overwritten(tmp_path, monkeypatch, out, report):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "1.webm").write_bytes(b"video")
    (tmp_path / "mine.csv").write_text("path,class,mood\n1.webm,walk,good\n")
    (tmp_path / "split.csv").write_text("part,class,video_id\ntest,walk,*\n")
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    words = ["--dataset", "csv", "--annotations", "mine.csv", "--split", "split.csv"]
    result = run(*words, "--out", tmp_path / out, "--report", report)
    assert isinstance(result.exception, InputError)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_annotations_of_ssv2_are_never_overwritten(tmp_path):
    (tmp_path / "1.webm").write_bytes(b"video")
    train = tmp_path / "train.json"
    train.write_text('[{"id": "1", "template": "Closing something"}]')
    (tmp_path / "split.csv").write_text("part,class,video_id\ntest,Closing something,*\n")
    words = ["--dataset", "ssv2", "--videos", tmp_path, "--annotations", tmp_path, "--split", tmp_path / "split.csv"]
    assert "train.json is a file that is read here" in str(run(*words, "--out", train).exception)
    assert run(*words, "--out", tmp_path / "c.csv").exception is None


@pytest.mark.shared
def test_real_clips_give_five_base_and_five_novel_classes(tmp_path, shared):
    root = shared / "data" / "ssv2-mini"
    words = ["--dataset", "ssv2", "--videos", root / "videos", "--annotations", root / "annotations"]
    result = run(*words, "--out", tmp_path / "catalog.csv")
    assert "100 videos of 10 classes" in result.stdout
    rows = read_catalog(tmp_path / "catalog.csv").rows
    assert len({row.class_name for row in rows if row.part == "train"}) == 5
    assert len({row.class_name for row in rows if row.part == "test"}) == 5
    assert all(row.bytes == row.path.stat().st_size for row in rows)
    result = run(*words, "--out", tmp_path / "otam.csv", "--split", "ssv2-otam")
    assert "ssv2-otam train: 100 of 67013 videos" in result.stdout
    assert {row.part for row in read_catalog(tmp_path / "otam.csv").rows} == {"train"}
