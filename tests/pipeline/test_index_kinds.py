"""Layouts of folders and lists that people have: taken, or counted with what to do about them."""

import pytest

from fsar.errors import InputError
from fsar.pipeline.catalog.catalog import read_catalog, write_catalog
from fsar.pipeline.catalog.index import index_dataset
from tests.pipeline.test_index import ssv2, touch, triples

__all__ = ["ssv2"]  # a fixture


def test_videos_are_found_at_any_depth_below_their_class(tmp_path):
    names = ("run/s1/a.mp4", "run/s2/a.mp4", "run/s2/b/1.jpg", "jump/c.mp4", "top.mp4")
    catalog, report = index_dataset("folder", videos=touch(tmp_path / "v", *names))
    assert [(row.video_id, row.class_name) for row in catalog.rows] == [
        ("jump/c.mp4", "jump"),
        ("run/s1/a.mp4", "run"),
        ("run/s2/a.mp4", "run"),
        ("run/s2/b", "run"),
    ]
    assert report.notes == [f"left out videos that stand in no class folder: 1 (the first: {tmp_path}/v/top.mp4)"]


@pytest.mark.parametrize("dataset", ["folder", "hmdb51", "ucf101", "kinetics"])
def test_no_file_is_left_out_without_a_word(tmp_path, dataset):
    suffixes = ("mp4", "gif", "ts", "FLV", "3gp", "ogv", "m2ts", "mts", "vob", "asf", "y4m")
    root = touch(tmp_path / "v", *(f"run/v_run_g01_c{k}.{suffix}" for k, suffix in enumerate(suffixes)))
    touch(root, "run/a.xyz", "run/b.xyz", "run/c", "run/d.zip", "run/notes.txt", "run/._a.mp4", "run/Thumbs.db")
    catalog, report = index_dataset(dataset, videos=root)
    assert len(catalog.rows) == len(suffixes)
    assert report.notes == [
        "left out archives: .zip (1); unpack them and run index again",
        "left out 3 files by suffix: .xyz (2), no suffix (1); if one of these is a video, name it in a CSV "
        "(--dataset csv)",
    ]


@pytest.mark.parametrize("suffix", ["tif", "TIFF", "ppm", "jp2", "webp"])
def test_frame_folders_may_hold_any_kind_of_picture(tmp_path, suffix):
    root = touch(tmp_path / "v", f"run/a/1.{suffix}", f"run/a/2.{suffix}")
    assert [row.video_id for row in index_dataset("folder", videos=root)[0].rows] == ["run/a"]


def test_archives_as_downloaded_are_named(tmp_path):
    with pytest.raises(InputError, match=r"expected class/clip\.avi; left out archives: \.rar \(2\); unpack them"):
        index_dataset("hmdb51", videos=touch(tmp_path / "v", "brush_hair.rar", "catch.rar"))


@pytest.mark.parametrize("picture", ["._preview.jpg", "preview.jpg", "deep/preview.png"])
def test_a_picture_among_the_videos_of_a_class_does_not_make_it_a_video(tmp_path, picture):
    clips = {"v_Archery_g01_c01.avi", "v_Archery_g02_c01.avi"}
    root = touch(tmp_path / "v", *(f"Archery/{clip}" for clip in clips), f"Archery/{picture}")
    for dataset in ("ucf101", "hmdb51", "folder"):
        names = {row.path.name for row in index_dataset(dataset, videos=root)[0].rows}
        assert names - {"deep"} == clips


def test_flow_beside_frames_is_no_video(tmp_path):
    root = touch(tmp_path / "v", "run/a/img/1.jpg", "run/a/flow_x/1.jpg", "run/a/flow_y/1.jpg", "run/v/1.jpg")
    catalog, report = index_dataset("folder", videos=root)
    assert [row.video_id for row in catalog.rows] == ["run/a/img", "run/v"]
    assert "left out folders of optical flow: 2" in report.notes[0]


@pytest.mark.parametrize("names", [("train", "test"), ("Train", "TEST"), ("training", "validation"), ("train", "dev")])
def test_parts_are_known_by_other_words_and_beside_other_folders(tmp_path, names):
    root = touch(tmp_path / "v", f"{names[0]}/a/1.mp4", f"{names[1]}/b/2.mp4", "labels/readme.txt", "extra/c/3.mp4")
    catalog, report = index_dataset("folder", videos=root)
    parts = {row.class_name: row.part for row in catalog.rows}
    assert parts == {"a": "train", "b": "test" if names[1].lower() == "test" else "val"}
    assert any("are the parts; left out extra, labels" in note for note in report.notes)
    assert any("left out videos in folders beside the parts: 1" in note for note in report.notes)


def test_a_class_may_be_called_test(tmp_path):
    catalog, _ = index_dataset("folder", videos=touch(tmp_path / "v", "test/s1/1.mp4", "run/2.mp4"))
    assert triples(catalog) == [("run/2.mp4", "run", ""), ("test/s1/1.mp4", "test", "")]


def test_links_in_a_ring_end_nothing(tmp_path):
    root = touch(tmp_path / "v", "run/1.mp4")
    for name, target in ("l1.mp4", "l2.mp4"), ("l2.mp4", "l1.mp4"), ("back", root / "run"), ("ring", "ring"):
        (root / "run" / name).symlink_to(target)
    catalog, report = index_dataset("folder", videos=root)
    assert [row.video_id for row in catalog.rows] == ["run/1.mp4", "run/l1.mp4", "run/l2.mp4"]
    assert report.empty == ["run/l1.mp4", "run/l2.mp4"]
    assert any("links to one above them" in note for note in report.notes)


@pytest.mark.parametrize("word", ["train", "validation"])
def test_ssv2_with_one_annotation_file_is_one_part(ssv2, tmp_path, word):
    touch(tmp_path / "videos", "part1/1.webm")
    where = ssv2(**{word: [("1", "Closing [something]")]})
    other = {"train": "validation", "validation": "train"}[word]
    (where["annotations"] / f"something-something-v2-{other}.json").unlink()
    part = {"train": "train", "validation": "test"}[word]
    assert triples(index_dataset("ssv2", **where)[0]) == [("1", "Closing something", part)]


def test_names_may_begin_and_end_with_blanks(tmp_path):
    catalog, _ = index_dataset("folder", videos=touch(tmp_path, " run/1.mp4", "jump /2.mp4", " run/ 3.mp4"))
    write_catalog(catalog, tmp_path / "c.csv")
    assert read_catalog(tmp_path / "c.csv").rows == catalog.rows


@pytest.mark.parametrize(
    "text",
    [
        "path,class\nv/a.mp4,x\n",
        "path, class\nv/a.mp4, x\n",
        "Path,CLASS\nv/a.mp4,x\n",
        "path,class\nv\\a.mp4,x\n",
        "path,class,part\nv/a.mp4,x,\n",
    ],
)
def test_a_csv_may_have_blanks_capitals_and_backslashes(tmp_path, text):
    touch(tmp_path, "v/a.mp4")
    (tmp_path / "l.csv").write_text(text)
    catalog, _ = index_dataset("csv", annotations=tmp_path / "l.csv")
    assert [(row.video_id, row.path, row.class_name) for row in catalog.rows] == [("a", tmp_path / "v" / "a.mp4", "x")]


@pytest.mark.parametrize(("word", "part"), [("Train", "train"), ("VALIDATION", "val"), ("testing", "test")])
def test_a_csv_may_write_its_parts_in_other_words(tmp_path, word, part):
    touch(tmp_path, "v/a.mp4")
    (tmp_path / "l.csv").write_text(f"path,class,part\nv/a.mp4,x,{word}\n")
    assert triples(index_dataset("csv", annotations=tmp_path / "l.csv")[0]) == [("a", "x", part)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path;class\nv/a.mp4;x\n", "no column 'path'.*got 'path;class' .it is separated by semicolons: write commas"),
        ("path\tclass\n", "separated by tabs"),
        ("path,class\nv/a.mp4,x\n", r"none of the 1 listed videos exists \(the first: .*/v/a\.mp4\); relative paths"),
        ("path,class\nv\\b.mp4,x\n", r"the first: .*v\\b\.mp4, also with slashes for backslashes\)"),
    ],
)
def test_a_csv_that_cannot_be_used_says_why(tmp_path, text, message):
    (tmp_path / "l.csv").write_text(text)
    with pytest.raises(InputError, match=message):
        index_dataset("csv", annotations=tmp_path / "l.csv")
