"""`fsar-prep check`: what is odd is said before anything is computed."""

import csv
import dataclasses
import json
import shutil

import av
import pytest
from click.testing import CliRunner

from fsar.cli.prep_check import command
from fsar.pipeline.catalog.catalog import Catalog, CatalogRow, write_catalog
from fsar.pipeline.inspect.facts import VideoFacts
from fsar.pipeline.inspect.oddities import find_oddities
from tests.videos import cut_file, write_clip


@pytest.fixture
def folder(tmp_path):
    """A catalog of sound clips, to which `add` adds others."""
    rows = []

    def add(path, part="train", class_name=None):
        name = f"{path.parent.name}/{path.name}"
        rows.append(CatalogRow(name, path, class_name or path.parent.name, path.stat().st_size, part))
        write_catalog(Catalog(tuple(rows), "mine"), tmp_path / "catalog.csv")
        return path

    for class_name, part in (("jumping", "train"), ("running", "test")):
        for k in range(3):
            number = k + 10 * (part == "test")
            add(write_clip(tmp_path / class_name / f"{class_name}{k}.mp4", n_frames=12 + number), part)
    return tmp_path, add


def check(folder, *options):
    arguments = [str(folder / "catalog.csv"), "--json", "--quiet", *map(str, options)]
    result = CliRunner().invoke(command, arguments, standalone_mode=False)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.return_value, json.loads(result.stdout)


def odd(folder, *options):
    return {found["kind"]: found["examples"] for found in check(folder, *options)[1]["odd"]}


def remux(source, target):
    with av.open(str(source)) as old, av.open(str(target), "w") as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        for packet in old.demux(old.streams.video[0]):
            if packet.dts is not None:
                packet.stream = stream
                new.mux(packet)
    return target


def test_sound_videos_are_not_odd(folder):
    found = check(folder[0])[1]
    assert (found["n_videos"], found["n_unreadable"], found["odd"]) == (6, 0, [])
    assert found["frames"] == {"min": 12, "median": 22, "max": 24}
    assert found["containers"] == {"mov": 6}


def test_one_video_in_train_and_test_is_found_also_in_another_container(folder):
    root, add = folder
    add(remux(root / "jumping" / "jumping0.mp4", root / "running" / "running9.mov"), "test")
    found = odd(root)
    both = "jumping/jumping0.mp4 (train, jumping) = running/running9.mov (test, running)"
    assert found["same content in several parts"] == [both]
    assert found["same content in several classes"] == [both]


def test_wrong_labels_show_in_the_names(folder):
    root, add = folder
    add(write_clip(root / "running" / "jumping_7.mp4", n_frames=30), "test")
    assert odd(root)["name of another class"] == ["running/jumping_7.mp4 (in running, named jumping)"]


def test_copies_and_near_empty_and_turned_clips_are_counted(folder):
    root, add = folder
    add(shutil.copy(root / "jumping" / "jumping0.mp4", root / "jumping" / "jumping_copy.mp4"))
    add(write_clip(root / "jumping" / "jumping_short.mp4", n_frames=3))
    add(write_clip(root / "jumping" / "jumping_turned.mp4", n_frames=40, rotation=90))
    add(write_clip(root / "jumping" / "jumping_full.mp4", n_frames=41, options={"color_range": "pc"}))
    add(write_clip(root / "jumping" / "jumping_tiny.mp4", n_frames=42, size=(64, 16)))
    add(write_clip(root / "jumping" / "jumping_long.mp4", n_frames=16, vfr=[float(10 * k) for k in range(16)]))
    found = odd(root)
    assert len(found["same content in one class"]) == 1
    assert found["fewer than 8 frames"] == ["jumping/jumping_short.mp4 (3)"]
    assert found["turned"] == ["jumping/jumping_turned.mp4 (turned 90)"]
    assert found["other range of brightness than most"] == ["jumping/jumping_full.mp4 (full)"]
    assert found["smaller than 32 pixels"] == ["jumping/jumping_tiny.mp4 (64x16)"]
    assert [name.split()[0] for name in found["much longer or shorter than most"]] == ["jumping/jumping_long.mp4"]
    assert "fewer than 2 frames" not in odd(root, "--min-frames", 2)


def test_a_large_catalog_is_judged_in_one_pass():
    """In a second; comparing every video with every other one would take minutes."""
    fact = VideoFacts("v", "running", "train", "mov", "h264", 40, 2.0, 427, 240, "upright", "limited", 0, "")
    facts = [dataclasses.replace(fact, video_id=f"running{k}", content=str(k)) for k in range(30_000)]
    facts[7] = dataclasses.replace(facts[7], levels="full", seconds=60.0)
    found = {oddity.kind: oddity.examples for oddity in find_oddities(facts, min_frames=8)}
    assert found == {
        "other range of brightness than most": ["running7 (full)"],
        "much longer or shorter than most": ["running7 (60.0 s)"],
    }


def test_unreadable_videos_are_listed_and_the_rest_is_checked(folder):
    root, add = folder
    add(cut_file(write_clip(root / "jumping" / "jumping8.webm"), 0.5))
    code, found = check(root, "--facts", root / "facts.csv")
    assert code == 1
    assert [failure["reason"] for failure in found["unreadable"]] == ["truncated"]
    lines = list(csv.DictReader((root / "facts.csv").read_text().splitlines()))
    assert len(lines) == 6
    assert lines[0]["frames"] == "12"
    text = CliRunner().invoke(command, [str(root / "catalog.csv"), "--quiet"], standalone_mode=False).stdout
    assert "6 videos can be read, 1 cannot" in text
    assert "unreadable: truncated" in text
