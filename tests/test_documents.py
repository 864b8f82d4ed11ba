"""Files that people write, as they should not be: each is one line and an exit code, whichever command reads it."""

import shutil
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fsar.cli import eval_head, predict, prep, report
from fsar.cli.common import MAX_ERROR, run_command
from fsar.documents import parse_json, parse_toml, read_csv, read_text
from fsar.errors import InputError
from fsar.heads.training.settings import TrainSettings
from fsar.heads.training.train_head import train_head
from tests.heads.stores import ordered_store

PROGRAMS = {
    "fsar-prep": prep.prep,
    "fsar-eval-head": eval_head.command,
    "fsar-predict": predict.command,
    "fsar-report": report.command,
}
CONTENTS: dict[str, bytes | None] = {
    "a folder": None,
    "empty": b"",
    "binary": bytes(range(256)) * 8,
    "zeros": b"\0" * 5000,
    "UTF-16": "path,class\na.mp4,x\n".encode("utf-16"),
    "one line of 2 MB": b"a" * 2_000_000,
    "a header of 100,000 columns": b"a," * 100_000,
    "a cell of 200 kB": b"path,class,part,video_id\n" + b"a" * 200_000,
    "an open quote": b'path,class,part,video_id,text\na,b,train,d,e\n"a,b,c\nd,e,f\n',
    "deep JSON": b"[" * 100_000,
    "deep objects": b'{"a":' * 100_000,
    "deep TOML": b"a = " + b"[" * 100_000,
    "deep YAML": b"- " * 20_000,
    "10,000 digits": b"1" * 10_000,
    "10,000 digits in TOML": b"[train]\nsteps = " + b"1" * 10_000,
    "a number": b"5\n",
    "a list": b"[1, 2]\n",
    "half a character": b'{"\\ud800": "\\ud800"}',
}
TRIED_ON_RUNS = ("a folder", "empty", "binary", "an open quote", "deep JSON", "a number", "half a character")
HEAD = ["--head", "tsn", "--store", "none"]
READERS: dict[str, Callable[[Path], list[object]]] = {
    "split": lambda file: ["fsar-prep", "splits", "show", file],
    "published list": lambda file: ["fsar-prep", "splits", "import", file, "--part", "test", "--out", "new.csv"],
    "class names": lambda file: ["fsar-prep", "splits", "import", "train.txt", "--names", file, "--out", "new.csv"],
    "list of videos": lambda file: [
        "fsar-prep", "index", "--dataset", "csv", "--annotations", file, "--out", "new.csv"
    ],
    "catalog": lambda file: ["fsar-prep", "check", file],
    "run file": lambda file: ["fsar-prep", "run", file, "--dry-run"],
    "templates": lambda file: ["fsar-prep", "text", "store.zarr", "--encoder", "random:none", "--templates", file],
    "words of classes": lambda file: ["fsar-prep", "text", "store.zarr", "--encoder", "random:none", "--classes", file],
    "config of a checkpoint": lambda file: [
        "fsar-prep", "import-checkpoint", "some.pth", "--cfg", file, "--out", "new"
    ],
    "supports": lambda file: ["fsar-predict", "--support", file, "--query", "a.txt", *HEAD],
    "queries": lambda file: [
        "fsar-predict", "--support", "both.csv", "--query", file, *HEAD
    ],
    "split of a store": lambda file: ["fsar-eval-head", "tsn", "--store", "store.zarr", "--split", file],
    "episodes": lambda file: ["fsar-eval-head", "tsn", "--store", "store.zarr", "--episodes-file", file],
    **{
        f"{name} of a run": lambda file, name=name: ["fsar-report", _run_with(file, name), "--out", "page.html"]
        for name in ("head.json", "config.json", "result.json", "metrics.jsonl", "accuracies.npy", "confusion.csv")
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    import torch

    folder = tmp_path_factory.mktemp("world")
    ordered_store(folder / "store.zarr", n_videos=6)
    (folder / "train.txt").write_text("train0/1\ntrain1/2\n")
    (folder / "both.csv").write_text("path,class\na.mp4,a\nb.mp4,b\n")
    (folder / "a.txt").write_text("a.mp4\n")
    torch.save({"a": torch.zeros(2)}, folder / "some.pth")
    settings = TrainSettings(
        head="tsn", store=folder / "store.zarr", options={"adapter": "mlp"}, way=3, query=2, steps=2, val_episodes=4,
        test_episodes=4, test_query=2, out=folder / "run", quiet=True,
    )  # fmt: skip
    train_head(settings)
    return folder


def _run_with(file: Path, name: str) -> Path:
    shutil.rmtree("changed", ignore_errors=True)
    shutil.copytree("run", "changed")
    Path("changed", name).unlink(missing_ok=True)
    return file.rename(Path("changed", name)).parent


CASES = [
    (reader, content)
    for reader in READERS
    for content in CONTENTS
    if not reader.endswith(" of a run") or content in TRIED_ON_RUNS  # a page is not made at once
]


@pytest.mark.parametrize(("reader", "content"), CASES)
def test_a_file_that_is_none_is_one_line(world, monkeypatch, capsys, reader, content):
    monkeypatch.chdir(world)
    suffix = {"run file": ".toml", "class names": ".json", "templates": ".txt", "episodes": ".npz"}.get(reader, ".csv")
    file = Path(f"hostile{suffix}")
    shutil.rmtree(file) if file.is_dir() else file.unlink(missing_ok=True)
    data = CONTENTS[content]
    if data is None:
        file.mkdir()
    else:
        file.write_bytes(data)
    arguments = [str(argument) for argument in READERS[reader](file)]
    monkeypatch.setattr(sys, "argv", arguments)
    with pytest.raises(SystemExit) as ended:
        run_command(PROGRAMS[arguments[0]], arguments[0])
    shown = capsys.readouterr().err
    assert "Traceback" not in shown
    assert ended.value.code in (0, 1, 2)
    errors = [line for line in shown.splitlines() if line.startswith("error: ")]
    assert len(errors) == (ended.value.code != 0), shown
    assert all(len(line) < MAX_ERROR + 20 for line in errors)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("path,class\n".encode("utf-16"), "must be UTF-8 text, and this is UTF-16: save it as UTF-8"),
        (b"path,class\na\0.mp4,x\n", "must be UTF-8 text: byte 12 is zero"),
        (b"path,class\n\xff\n", "must be UTF-8 text: byte 11 is not"),
        (b'path,class\na,"b\nc\n', "line 2: not CSV: a quote is never closed"),
        (b"path,class\na," + b"b" * 200_000, "line 2: not CSV: field larger than field limit"),
        (
            b"path;class\n",
            "no column 'path'; the header must have path,class, got 'path;class' .it is separated by sem",
        ),
        (b"path,class\na,b,c\n", "line 2: more cells than the header has"),
    ],
)
def test_what_is_wrong_with_a_csv_is_said(tmp_path, data, message):
    (tmp_path / "list.csv").write_bytes(data)
    with pytest.raises(InputError, match=f"list.csv.*{message}"):
        list(read_csv(tmp_path / "list.csv", ("path", "class"))[1])


def test_a_byte_order_mark_is_no_part_of_the_first_column(tmp_path):
    (tmp_path / "list.csv").write_text("\ufeffPath,Class\n\na, b\n", encoding="utf-8")
    names, lines = read_csv(tmp_path / "list.csv", ("path", "class"))
    assert (names, list(lines)) == (["path", "class"], [(3, ["a", " b"])])
    assert read_text(tmp_path / "list.csv").startswith("Path")


@given(st.binary(max_size=60))
def test_any_bytes_are_read_or_refused(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "any.csv"
    path.write_bytes(data)
    for read in (
        lambda: list(read_csv(path, ())[1]),
        lambda: parse_json(data, "any"),
        lambda: parse_toml(data.decode("latin1"), "any"),
    ):
        with suppress(InputError):
            read()
