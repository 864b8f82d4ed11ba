import json

import pytest

from fsar.errors import InputError
from fsar.pipeline.catalog.index import EpisodeSize, index_dataset
from fsar.pipeline.catalog.scan import scan_dataset
from fsar.splits import Split

LABELS = {"Closing something": "0", "Opening something": "1"}


def touch(folder, *names, data=b"video"):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder


@pytest.fixture
def ssv2(tmp_path):
    """Write annotations; each video is (id, template)."""

    def write(train=(), validation=(), labels=LABELS):
        folder = tmp_path / "annotations"
        folder.mkdir(exist_ok=True)
        for word, videos in (("train", train), ("validation", validation)):
            entries = [{"id": video_id, "template": template, "label": "x"} for video_id, template in videos]
            (folder / f"something-something-v2-{word}.json").write_text(json.dumps(entries))
        if labels is not None:
            (folder / "something-something-v2-labels.json").write_text(json.dumps(labels))
        return {"videos": tmp_path / "videos", "annotations": folder}

    return write


def triples(catalog):
    return [(row.video_id, row.class_name, row.part) for row in catalog.rows]


def test_ssv2_takes_disjoint_annotation_files_as_base_and_novel_classes(ssv2, tmp_path):
    touch(tmp_path / "videos", "1.webm", "2.mp4", "9.webm", ".hidden.webm", "notes.txt")
    where = ssv2([("1", "Closing [something]"), ("3", "Closing [something]")], [("2", "Opening [something]")])
    catalog, report = index_dataset("ssv2", **where)
    assert triples(catalog) == [("1", "Closing something", "train"), ("2", "Opening something", "test")]
    assert catalog.rows[0].bytes == len(b"video")
    assert report.missing == {"Closing something": ["3"]}
    assert report.notes == ["1 videos on disk have no annotation: left out"]
    assert "warning: 1 listed video is missing on disk" in report.to_text()


def test_ssv2_with_shared_classes_asks_for_a_split(ssv2, tmp_path):
    touch(tmp_path / "videos", "1.webm", "2.webm")
    where = ssv2([("1", "Closing [something]")], [("2", "Closing [something]")])
    with pytest.raises(InputError, match="add --split"):
        index_dataset("ssv2", **where)
    split = Split("mine", {"val": {"closing_something": ["2"]}})
    assert triples(index_dataset("ssv2", splits=[split], **where)[0]) == [
        ("1", "Closing something", ""),
        ("2", "Closing something", "val"),
    ]
    catalog, _ = index_dataset("ssv2", splits=[split], only_splits=True, **where)
    assert triples(catalog) == [("2", "Closing something", "val")]


def test_ssv2_without_labels_believes_the_templates(ssv2, tmp_path):
    touch(tmp_path / "videos", "1.webm", "2.webm")
    where = ssv2([("1", "Tearing [something]")], [("2", "Opening [something]")], labels=None)
    assert triples(index_dataset("ssv2", **where)[0])[0] == ("1", "Tearing something", "train")


def test_ssv2_reads_frame_folders(ssv2, tmp_path):
    touch(tmp_path / "videos", "1/00000001.jpg", "1/00000002.jpg", "2/00000001.jpg")
    where = ssv2([("1", "Closing [something]")], [("2", "Opening [something]")])
    catalog, _ = index_dataset("ssv2", **where)
    assert [(row.path.name, row.bytes) for row in catalog.rows] == [("1", 10), ("2", 5)]


def test_ssv2_names_the_id_of_an_unknown_template(ssv2, tmp_path):
    touch(tmp_path / "videos", "1.webm")
    where = ssv2([("1", "Closing [something]"), ("77", "Eating [something]")])
    with pytest.raises(
        InputError, match=r"train\.json, entry 2: video id '77' has the unknown template 'Eating \[some"
    ):
        index_dataset("ssv2", **where)


def test_ssv2_names_both_places_of_an_id(ssv2, tmp_path):
    touch(tmp_path / "videos", "1.webm")
    where = ssv2([("1", "Closing [something]")], [("1", "Opening [something]")])
    with pytest.raises(
        InputError, match=r"'1' is listed twice: .*train\.json, entry 1 and .*validation\.json, entry 1"
    ):
        index_dataset("ssv2", **where)


def test_ssv2_names_both_files_of_an_id(ssv2, tmp_path):
    touch(tmp_path / "videos", "1.webm", "1.mp4")
    with pytest.raises(InputError, match=r"'1' is listed twice: .*1\.mp4 and .*1\.webm"):
        index_dataset("ssv2", **ssv2([("1", "Closing [something]")]))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[\n{"id": "1",}]', r"train\.json is not JSON: .* line 2"),
        ('{"1": "x"}', "must be a JSON list of videos"),
        ('[{"id": "1"}]', "entry 1: must be an object with 'id' and 'template'"),
        ("[7]", "entry 1: must be an object"),
    ],
)
def test_ssv2_refuses_malformed_annotations(ssv2, tmp_path, text, message):
    touch(tmp_path / "videos", "1.webm")
    where = ssv2()
    (where["annotations"] / "something-something-v2-train.json").write_text(text)
    with pytest.raises(InputError, match=message):
        index_dataset("ssv2", **where)


def test_ssv2_with_the_wrong_folders(ssv2, tmp_path):
    where = ssv2([("1", "Closing [something]")])
    with pytest.raises(FileNotFoundError, match="--videos: no folder"):
        index_dataset("ssv2", **where)
    touch(tmp_path / "videos", "5.webm")
    with pytest.raises(InputError, match=r"none of the 1 annotated videos \(no 1\.webm, for example\)"):
        index_dataset("ssv2", **where)
    with pytest.raises(InputError, match=r"has no annotations: expected something-something-v2-train\.json"):
        index_dataset("ssv2", videos=tmp_path / "videos", annotations=tmp_path / "videos")


def test_hmdb51_reads_class_folders_also_doubled_ones(tmp_path):
    root = touch(tmp_path / "v", "brush_hair/a_#1.avi", "catch/catch/b.avi", "catch/Thumbs.db")
    assert triples(index_dataset("hmdb51", videos=root)[0]) == [("a_#1", "brush_hair", ""), ("b", "catch", "")]


def test_ucf101_reads_class_folders_and_one_flat_folder(tmp_path):
    root = touch(tmp_path / "v", "Archery/v_Archery_g01_c01.avi", "v_HandStandPushups_g02_c03.avi")
    catalog, _ = index_dataset("ucf101", videos=root, splits=[Split("s", {"val": {"HandstandPushups": None}})])
    assert triples(catalog) == [
        ("v_Archery_g01_c01", "Archery", ""),
        ("v_HandStandPushups_g02_c03", "HandStandPushups", "val"),
    ]
    with pytest.raises(InputError, match="a UCF101 name must be like v_Archery_g01_c01"):
        index_dataset("ucf101", videos=touch(tmp_path / "w", "clip.avi"))


def test_kinetics_joins_its_roots(tmp_path):
    root = touch(
        tmp_path / "v",
        "train_256/air_drumming/-VtLx-mcPds_000012_000022.mp4",
        "val_256/air_drumming/-AZ9WaV2Ozk_000060_000070.mp4",
        "replacement/0NN2c3H81tI.mp4",
    )
    split = Split("s", {"train": {"air drumming": ["-VtLx-mcPds", "-AZ9WaV2Ozk_000060_000070", "0NN2c3H81tI"]}})
    catalog, report = index_dataset("kinetics", videos=root, splits=[split])
    assert [row.part for row in catalog.rows] == ["train", "train"]
    assert report.splits["s"][0].missing_ids == {"air drumming": ["0NN2c3H81tI"]}
    assert report.notes == ["read train_256, val_256 as one dataset; left out replacement"]
    touch(root, "val_256/busking/-VtLx-mcPds_000012_000022.mp4")
    with pytest.raises(InputError, match=r"listed twice: .*air_drumming.* and .*busking"):
        index_dataset("kinetics", videos=root)


def test_folder_reads_clips_and_frame_folders(tmp_path):
    root = touch(tmp_path / "v", "walk/b.webm", "walk/a/0.jpg", "walk/a/1.jpg", "run/empty/readme.txt", "run/c.mp4")
    catalog = index_dataset("folder", videos=root)[0]
    assert triples(catalog) == [("run/c.mp4", "run", ""), ("walk/a", "walk", ""), ("walk/b.webm", "walk", "")]


def test_ids_of_a_folder_stay_when_it_grows(tmp_path):
    def ids(*names):
        return {row.video_id for row in index_dataset("folder", videos=touch(tmp_path / "v", *names))[0].rows}

    before = ids("walk/001.webm", "run/002.webm")
    after = ids("run/001.webm", "walk/001.avi", "walk/0/1.jpg")
    assert before < after
    assert len(after) == 5


def test_videos_of_equal_bytes_are_reported(tmp_path):
    root = touch(tmp_path / "v", "walk/1.mp4", "walk/2.mp4", "run/3.mp4", "run/4/0.jpg", "run/5/0.jpg")
    for place, data in ("walk/1.mp4", b"a" * 9999), ("walk/2.mp4", b"a" * 9999), ("run/3.mp4", b"b" * 9999):
        (root / place).write_bytes(data)
    (root / "walk/6.mp4").write_bytes(b"a" * 5000 + b"c" + b"a" * 4998)  # the ends agree, the middle does not
    touch(root, "walk/empty1.mp4", "walk/empty2.mp4", data=b"")
    report = index_dataset("folder", videos=root)[1]
    assert report.duplicates == [["run/4", "run/5"], ["walk/1.mp4", "walk/2.mp4"]]
    assert "2 videos with the same content as another" in report.to_text()
    assert index_dataset("folder", videos=root, compare_content=False)[1].duplicates == []


def test_folder_takes_part_folders_only_if_they_share_no_class(tmp_path):
    root = touch(tmp_path / "v", "train/walk/1.webm", "test/run/2.webm")
    assert triples(index_dataset("folder", videos=root)[0]) == [
        ("test/run/2.webm", "run", "test"),
        ("train/walk/1.webm", "walk", "train"),
    ]
    touch(root, "test/Walk/3.webm")
    catalog, report = index_dataset("folder", videos=root)
    assert {row.part for row in catalog.rows} == {""}
    assert report.notes == ["test and train share classes: no parts set"]


@pytest.mark.parametrize("dataset", ["hmdb51", "ucf101", "kinetics", "folder"])
def test_an_empty_folder_is_refused(dataset, tmp_path):
    with pytest.raises(InputError, match=r"no videos in .*: expected"):
        index_dataset(dataset, videos=tmp_path)


def test_a_file_is_not_a_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="it is a file"):
        index_dataset("folder", videos=touch(tmp_path, "x") / "x")


def test_csv_lists_files_that_lack(tmp_path):
    touch(tmp_path, "a/1.webm")
    (tmp_path / "mine.csv").write_text("path,class,part\na/1.webm,walk,val\na/2.webm,walk,val\n")
    catalog, report = index_dataset("csv", annotations=tmp_path / "mine.csv")
    assert triples(catalog) == [("1", "walk", "val")]
    assert report.missing == {"walk": ["2"]}
    (tmp_path / "mine.csv").write_text("path,class\na/1.webm,walk\nb/1.webm,walk\n")
    with pytest.raises(InputError, match=r"'1' is listed twice: .*line 2 and .*line 3"):
        index_dataset("csv", annotations=tmp_path / "mine.csv")


def test_an_unknown_dataset_names_the_nearest(tmp_path):
    with pytest.raises(InputError, match="unknown dataset 'ssv': did you mean ssv2"):
        scan_dataset("ssv", tmp_path, None)


def test_empty_files_stay_and_are_said(tmp_path):
    root = touch(tmp_path / "v", "walk/1.webm", "walk/2.webm")
    touch(root, "walk/3.webm", data=b"")
    (root / "walk" / "4.webm").symlink_to(tmp_path / "nowhere.webm")
    _, report = index_dataset(
        "folder", videos=root, splits=[Split("s", {"test": {"walk": None}})], episode=EpisodeSize(2, 2)
    )
    assert report.empty == ["walk/3.webm", "walk/4.webm"]
    assert report.n_videos == 4
    assert report.splits["s"][0].too_few == {"walk": 2}
    assert "warning: 2 empty files" in report.to_text()


def test_the_report_counts_what_splits_lack(tmp_path):
    root = touch(tmp_path / "v", *[f"walk/{k}.webm" for k in range(3)], "run/9.webm", "sit/8.webm")
    split = Split("s", {"train": {"walk": ["0", "1", "7"], "run": ["9"]}, "test": {"sit": None, "fly": None}})
    _, report = index_dataset("folder", videos=root, splits=[split], episode=EpisodeSize(n_way=2, n_shot=1))
    train, test = report.splits["s"]
    assert (train.n_found, train.n_expected, train.missing) == (3, 4, {"walk": 1})
    assert train.too_few == {"run": 1}
    assert not train.fills_episodes
    assert (test.n_found, test.n_expected, test.too_few) == (1, None, {"sit": 1, "fly": 0})
    text = report.to_text()
    assert "s train: 3 of 4 videos of 2 classes on disk" in text
    assert "1 missing: walk" in text
    assert "too few classes are left for 2-way episodes" in text


def test_splits_of_one_name_are_refused(tmp_path):
    folds = [Split("split", {"test": {name: None}}) for name in ("walk", "run")]
    with pytest.raises(InputError, match="2 splits are named 'split': give each once, and CSV files different names"):
        index_dataset("folder", videos=touch(tmp_path, "walk/1.webm", "run/2.webm"), splits=folds)


def test_several_splits_leave_the_part_open(tmp_path):
    root = touch(tmp_path / "v", "walk/1.webm", "run/2.webm", "sit/3.webm")
    splits = [Split("one", {"train": {"walk": None}}), Split("two", {"test": {"walk": None, "run": None}})]
    catalog, report = index_dataset("folder", videos=root, splits=splits, only_splits=True)
    assert triples(catalog) == [("run/2.webm", "run", ""), ("walk/1.webm", "walk", "")]
    assert list(report.splits) == ["one", "two"]
