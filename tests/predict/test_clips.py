"""Lists of clips: any CSV that has the columns, and names that only a CSV reader tells apart."""

import csv
from pathlib import Path

import pytest

from fsar.errors import InputError
from fsar.predict.clips import find_queries, find_supports

NAMES = ["a.mp4", "with, comma.mp4", "line\u2028separator.mp4", "form\x0cfeed.mp4", 'in"side.mp4', "two\nlines.mp4"]


@pytest.fixture
def catalog(tmp_path: Path) -> Path:
    path = tmp_path / "catalog.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerows(
            [["video_id", "class", "path"], *([n, f"class {n % 2}", name] for n, name in enumerate(NAMES))]
        )
    return path


def test_a_catalog_is_a_list_of_queries(catalog):
    assert find_queries(catalog) == [catalog.parent / name for name in NAMES]


def test_a_catalog_is_a_list_of_supports(catalog):
    assert find_supports(catalog) == {
        f"class {first}": [catalog.parent / name for name in NAMES[first::2]] for first in (0, 1)
    }


def test_a_text_file_has_a_path_a_line(tmp_path):
    (tmp_path / "list.txt").write_text("a.mp4\n\n  b c.mp4 \r\nline\u2028separator.mp4", encoding="utf-8")
    assert [path.name for path in find_queries(tmp_path / "list.txt")] == ["a.mp4", "b c.mp4", NAMES[2]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,label\na,b\n", "no column 'path'; the header must have path, got 'file,label'"),
        ("", "no column 'path'; the header must have path"),
        ("path,note\n", "lists no clip"),
        ("note,path\nshort\n", "lists no clip"),
    ],
)
def test_what_is_no_list_is_said(tmp_path, text, message):
    (tmp_path / "list.csv").write_text(text)
    with pytest.raises(InputError, match=message):
        find_queries(tmp_path / "list.csv")
