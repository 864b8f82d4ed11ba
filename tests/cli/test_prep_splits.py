import hashlib
import json

import pytest
from click import UsageError
from click.testing import CliRunner

from fsar.cli.prep_splits import command
from fsar.errors import InputError


def run(*arguments):
    """Return what the command printed on stdout; a user error is raised."""
    words = [str(argument) for argument in arguments]
    result = CliRunner().invoke(command, words, standalone_mode=False)
    if result.exception:
        raise result.exception
    return result.stdout


def test_list_names_every_split_with_its_sizes_and_aliases():
    lines = run("list").splitlines()
    assert len(lines) == 8
    (line,) = [line for line in lines if line.startswith("ssv2-cmn")]
    assert "64/12/24" in line
    assert "6400/1200/2400" in line
    assert "ssv2-small, ssv2-100" in line
    assert json.loads(run("list", "--json"))["splits"][0]["name"] == "hmdb51-arn"


def test_show_numbers_the_classes_of_a_part():
    text = run("show", "ssv2-small", "--part", "test")
    assert "test: 24 classes, 2,400 videos" in text
    assert "   0    100  Twisting (wringing) something wet until water comes out" in text
    assert "train:" not in text


def test_show_says_all_for_a_whole_class_of_unknown_size(tmp_path):
    (tmp_path / "mine.csv").write_text("part,class,video_id\ntest,run,*\n")
    assert "   0    all  run" in run("show", tmp_path / "mine.csv")


def test_show_as_csv_has_the_sha256_of_the_split():
    text = run("show", "hmdb51-arn", "--csv")
    assert hashlib.sha256(text.encode()).hexdigest() in run("show", "hmdb51-arn")
    assert run("show", "hmdb51-arn", "--csv", "--part", "val").count("\n") == 11


def test_show_as_json_holds_the_ids():
    document = json.loads(run("show", "kinetics100-cmn", "--part", "train", "--json"))
    first = document["classes"]["train"][0]
    assert (first["class_id"], first["class"], first["n_videos"]) == (0, "air drumming", 100)
    assert "-VtLx-mcPds_000012_000022" in first["video_ids"]


def test_show_takes_one_form_of_output():
    with pytest.raises(UsageError, match="--csv and --json"):
        run("show", "hmdb51-arn", "--csv", "--json")


def test_compare_warns_of_leaks():
    assert "train in ssv2-otam, test in ssv2-cmn" in run("compare", "ssv2-otam", "ssv2-cmn")
    assert json.loads(run("compare", "ssv2-full", "ssv2-otam", "--json"))["equal"] is True


def test_import_writes_a_split_that_loads(tmp_path):
    (tmp_path / "trainlist03.txt").write_text("walk/1\nwalk/2\n")
    (tmp_path / "testlist03.txt").write_text("run/3\n")
    out = tmp_path / "mine.csv"
    text = run("import", tmp_path / "trainlist03.txt", tmp_path / "testlist03.txt", "--out", out)
    assert "train: 1 class, 2 videos" in text
    assert hashlib.sha256(out.read_bytes()).hexdigest() in text
    assert "run" in run("show", out)


def test_import_keeps_an_existing_file(tmp_path):
    (tmp_path / "trainlist03.txt").write_text("walk/1\n")
    out = tmp_path / "mine.csv"
    out.write_text("precious")
    with pytest.raises(InputError, match="exists: choose another --out or add --force"):
        run("import", tmp_path / "trainlist03.txt", "--out", out)
    assert out.read_text() == "precious"
    run("import", tmp_path / "trainlist03.txt", "--out", out, "--force")
    assert out.read_text() == "part,class,video_id\ntrain,walk,1\n"


def test_import_names_numbered_classes_like_a_known_split(tmp_path):
    (tmp_path / "test_few_shot.txt").write_text("test18/195025\n")
    run("import", tmp_path / "test_few_shot.txt", "--like", "ssv2-otam", "--out", tmp_path / "mine.csv")
    assert (tmp_path / "mine.csv").read_text().splitlines()[1].startswith("test,Showing")


def test_import_of_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        run("import", tmp_path / "trainlist03.txt", "--out", tmp_path / "mine.csv")


def test_an_unknown_split_names_the_nearest():
    with pytest.raises(InputError, match="did you mean hmdb51-arn"):
        run("show", "hmdb51-arm")
