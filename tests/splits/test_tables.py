import csv
import hashlib

import pytest

import fsar
from fsar.errors import InputError
from fsar.splits import PARTS, class_key
from fsar.splits import tables as module

SIZES = {
    "hmdb51-arn": ((31, 4280), (10, 1194), (10, 1292)),
    "kinetics100-clipfsar": ((64, 6400), (12, 1200), (24, 2400)),
    "kinetics100-cmn": ((64, 6400), (12, 1200), (24, 2400)),
    "ssv2-cmn": ((64, 6400), (12, 1200), (24, 2400)),
    "ssv2-otam": ((64, 67013), (12, 1926), (24, 2857)),
    "ucf101-arn": ((70, 9154), (10, 1421), (21, 2745)),
    "ucf101-tsl": ((64, 5891), (12, 443), (24, 971)),
}


def test_all_benchmarks_are_shipped():
    assert fsar.list_splits() == sorted(SIZES)


@pytest.mark.parametrize("name", SIZES)
def test_a_shipped_split_has_its_published_size(name):
    split = fsar.load_split(name)
    assert tuple((len(split.parts[part]), split.n_videos(part)) for part in PARTS) == SIZES[name]
    assert split.title
    assert split.paper
    assert split.link.startswith("https://")


def test_aliases_name_the_same_split():
    assert fsar.load_split("SSv2-Full").sha256 == fsar.load_split("ssv2-100-otam").sha256
    assert fsar.load_split("ssv2-tsl").name == "ssv2-otam"
    assert fsar.load_split("kinetics100-tsl").name == "kinetics100-cmn"
    assert fsar.load_split("ssv2-small").name == fsar.load_split("ssv2-100").name == "ssv2-cmn"


def test_ids_are_decoded_from_each_compact_form():
    assert module._decode_steps("197 202 600") == ["197", "399", "999"]
    assert module._decode_groups("v_A 8:2 12:1") == ["v_A_g08_c01", "v_A_g08_c02", "v_A_g12_c01"]
    assert module._decode_youtube("-VtLx-mcPds@12 -AZ9WaV2Ozk") == ["-VtLx-mcPds_000012_000022", "-AZ9WaV2Ozk"]


def test_known_places():
    otam = fsar.load_split("ssv2-otam")
    assert "78687" in list(otam.parts["train"].values())[8]
    assert "195025" in list(otam.parts["test"].values())[18]
    assert otam.part_of("Approaching [something] with your camera") == "test"
    assert fsar.load_split("ucf101-arn").parts["train"]["ApplyEyeMakeup"] is None
    assert fsar.load_split("ucf101-arn").expected_counts["train"]["ApplyEyeMakeup"] == 145
    small = fsar.load_split("ssv2-cmn")
    assert next(iter(small.parts["train"])) == "Pouring something into something"
    assert "46768" in next(iter(small.parts["val"].values()))
    assert "106618" in list(small.parts["val"].values())[11]


def test_the_sha256_is_that_of_the_csv_and_of_a_split_read_from_it(tmp_path):
    split = fsar.load_split("ucf101-arn")
    path = tmp_path / "copy.csv"
    path.write_text(split.to_csv())
    assert split.sha256 == hashlib.sha256(path.read_bytes()).hexdigest() == fsar.load_split(path).sha256


def test_an_unknown_split_names_the_nearest_ones():
    with pytest.raises(InputError, match=r"unknown split 'ssv2-otan': did you mean ssv2-otam"):
        fsar.load_split("ssv2-otan")


def test_a_missing_file_is_said_to_be_missing():
    with pytest.raises(FileNotFoundError, match=r"no split file mine\.csv"):
        fsar.load_split("mine.csv")


@pytest.mark.shared
@pytest.mark.parametrize("name", SIZES)
def test_a_shipped_split_equals_the_published_facts(name, shared):
    split = fsar.load_split(name)
    with open(shared / "splits" / f"{name}.tsv", encoding="utf-8") as file:
        rows = list(csv.DictReader((line for line in file if not line.startswith("#")), delimiter="\t"))
    published = {(row["split"], row["class"]): None if row["ids"] == "*" else row["ids"].split(" ") for row in rows}
    assert {(part, class_name): ids for part, class_name, ids in split.classes()} == published
    assert sum(split.n_videos(part) for part in PARTS) == sum(int(row["videos"]) for row in rows)
    for row in rows:
        assert split.expected_counts[row["split"]][row["class"]] == int(row["videos"])


@pytest.mark.shared
@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("hmdb51", "hmdb51-arn"),
        ("ucf101", "ucf101-arn"),
        ("kinetics100", "kinetics100-clipfsar"),
        ("ssv2_full", "ssv2-otam"),
        ("ssv2_small", "ssv2-cmn"),
    ],
)
@pytest.mark.parametrize("part", ["train", "test"])
def test_class_ids_are_those_of_published_checkpoints(theirs, ours, part, shared):
    import json

    prompts = json.loads((shared / "goldens/schedule/prompts.json").read_text())[f"{theirs}/{part}"]
    facts = json.loads((shared / "goldens/schedule/splits.json").read_text())[f"{theirs}/{part}"]
    split = fsar.load_split(ours)
    assert [class_key(name) for name in split.parts[part]] == [class_key(entry["name"]) for entry in prompts]
    assert list(split.expected_counts[part].values()) == [facts["per_class"][str(k)] for k in range(len(prompts))]
    for class_id, path in (facts["first"], facts["last"]):
        ids = list(split.parts[part].values())[class_id]
        assert ids is None or path.rpartition("/")[2].removesuffix(".mp4") in ids
