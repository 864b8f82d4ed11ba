from pathlib import Path

import pytest

from fsar.errors import InputError
from fsar.pipeline.catalog.catalog import Catalog, CatalogRow, read_catalog, select_rows, write_catalog
from fsar.splits import Split


def row(video_id, class_name="walk", part="", path=None):
    return CatalogRow(video_id, Path(path or f"/videos/{video_id}.webm"), class_name, 7, part)


def write(tmp_path, text):
    path = tmp_path / "catalog.csv"
    path.write_text(text)
    return path


def test_a_catalog_survives_writing_and_reading(tmp_path):
    rows = (row("1", 'Moving "it", slowly', "train"), row("2", path=tmp_path / "videos" / "2.mp4"))
    write_catalog(Catalog(rows, "mine"), tmp_path / "catalog.csv")
    assert read_catalog(tmp_path / "catalog.csv").rows == rows


def test_names_with_line_ends_survive(tmp_path):
    rows = (row("a\nb", path=tmp_path / "a\nb.mp4"), row("c", path=tmp_path / "c.mp4"))
    write_catalog(Catalog(rows, "mine"), tmp_path / "catalog.csv")
    assert read_catalog(tmp_path / "catalog.csv").rows == rows


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("\udcff1", r"'/videos/\\udcff1\.webm': the name is not UTF-8"),
        ("a\rb", r"'/videos/a\\rb\.webm': .* carriage return"),
    ],
)
def test_names_that_no_catalog_can_hold_are_refused(name, message):
    with pytest.raises(InputError, match=message):
        Catalog((row(name),), "mine")


def test_a_catalog_may_have_the_line_ends_of_windows(tmp_path):
    path = tmp_path / "catalog.csv"
    path.write_bytes(b"video_id,path,class\r\n1,a/1.webm,walk\r\n")
    assert read_catalog(path).rows == (CatalogRow("1", tmp_path / "a" / "1.webm", "walk", 0, ""),)


def test_videos_beside_the_catalog_move_with_it(tmp_path):
    old, new = tmp_path / "old", tmp_path / "new"
    old.mkdir()
    write_catalog(Catalog((row("2", path=old / "videos" / "2.mp4"),), "mine"), old / "catalog.csv")
    old.rename(new)
    assert read_catalog(new / "catalog.csv").rows[0].path == new / "videos" / "2.mp4"


def test_bytes_and_part_may_lack(tmp_path):
    catalog = read_catalog(write(tmp_path, "video_id,path,class\n1,a/1.webm,walk\n"))
    assert catalog.rows == (CatalogRow("1", tmp_path / "a" / "1.webm", "walk", 0, ""),)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("video_id,class\n", r"catalog\.csv, line 1: no column 'path'"),
        ("", "line 1: no column 'video_id'"),
        ("video_id,path,class\n", "lists no videos"),
        ("video_id,path,class\n1,a.mp4,walk\n\n1,b.mp4,run\n", r"'1' is listed twice: .*line 2 and .*line 4"),
        ("video_id,path,class\n1,,walk\n", "line 2: path is empty"),
        ("video_id,path,class\n1,a.mp4\n", "line 2: class is empty"),
        ("video_id,path,class\n1,a.mp4,walk,9\n", "line 2: more cells than the header has"),
        ("video_id,path,class\n1,a.mp4," + "x" * 200_000, "not CSV: field larger than"),
        ("video_id,path,class,part\n1,a.mp4,walk,base\n", "line 2: part must be train, val, test or empty, got 'base'"),
        ("video_id,path,class,bytes\n1,a.mp4,walk,-3\n", "line 2: bytes must be a whole number, got '-3'"),
    ],
)
def test_a_malformed_catalog_is_refused_with_its_line(tmp_path, text, message):
    with pytest.raises(InputError, match=message):
        read_catalog(write(tmp_path, text))


def test_a_missing_catalog_says_what_writes_one(tmp_path):
    with pytest.raises(FileNotFoundError, match="fsar-prep index"):
        read_catalog(tmp_path / "catalog.csv")


def test_without_a_split_rows_are_ordered_by_part_class_and_number():
    rows = (row("c10"), row("z", part="test"), row("c9"), row("x", "b", "train"), row("y", "a", "train"))
    assert [r.video_id for r in select_rows(Catalog(rows, "mine"))] == ["y", "x", "z", "c9", "c10"]


def test_a_split_chooses_orders_and_renames():
    split = Split("s", {"test": {"Closing something": ["5", "2"]}, "train": {"b": ["9"], "a": None}})
    rows = (
        row("2", "closing [something]"),
        row("5", "closing [something]"),
        row("9", "b"),
        row("1", "A"),
        row("7", "c"),
    )
    chosen = select_rows(Catalog(rows, "mine"), split)
    assert [(r.video_id, r.class_name, r.part) for r in chosen] == [
        ("9", "b", "train"),
        ("1", "a", "train"),
        ("5", "Closing something", "test"),
        ("2", "Closing something", "test"),
    ]


def test_a_split_of_another_dataset_is_refused():
    with pytest.raises(InputError, match="no video of catalog 'mine' is in split 's'"):
        select_rows(Catalog((row("1"),), "mine"), Split("s", {"train": {"run": None}}))
