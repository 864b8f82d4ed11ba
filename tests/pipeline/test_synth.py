"""The synthetic set: real files, the right layout, motions that only their order tells apart, the same bytes always."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from fsar.errors import InputError
from fsar.pipeline.synth.draw import COLOURS, draw_clip, draw_scene
from fsar.pipeline.synth.motions import MOTIONS, PAIRS
from fsar.pipeline.synth.synth import SynthSettings, class_numbers, synthesize
from fsar.pipeline.video.decode import decode_clip

SMALL = SynthSettings(train_classes=4, val_classes=2, test_classes=2, clips=2, size=(107, 60))


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("synth") / "set"
    report = synthesize(out, SMALL, n_jobs=1, quiet=True)
    assert (report.written, report.kept, report.failures) == (16, 0, [])
    return out


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def rows_of(folder: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((folder / "split.csv").read_text().splitlines()))


def test_the_layout_is_that_of_something_something(made):
    tables = {
        name: json.loads((made / "annotations" / f"something-something-v2-{name}.json").read_text())
        for name in ("train", "validation", "labels")
    }
    assert len(tables["train"]) == len(tables["validation"]) == 8
    for entry in tables["train"] + tables["validation"]:
        assert set(entry) == {"id", "label", "template", "placeholders"}
        assert "[something]" in entry["template"]
        assert entry["template"].replace("[something]", "something") in tables["labels"]
        assert entry["placeholders"][0] in entry["label"]
        assert (made / "videos" / f"{entry['id']}.webm").stat().st_size > 500
    assert {entry["template"] for entry in tables["train"]}.isdisjoint(
        entry["template"] for entry in tables["validation"]
    )
    assert sorted(tables["labels"].values(), key=int) == [str(index) for index in range(8)]


def test_the_split_is_disjoint_and_complete(made):
    parts: dict[str, set[str]] = {}
    for row in rows_of(made):
        parts.setdefault(row["part"], set()).add(row["class"])
    assert {part: len(classes) for part, classes in parts.items()} == {"train": 4, "val": 2, "test": 2}
    assert len(set.union(*parts.values())) == 8
    assert {f"{row['video_id']}.webm" for row in rows_of(made)} == {path.name for path in (made / "videos").iterdir()}


def test_videos_are_short_12_fps_clips_of_the_size(made):
    for path in (made / "videos").iterdir():
        clip = decode_clip(path, np.arange, fallback=False)
        assert clip.frames.shape[1:] == (60, 107, 3)
        assert 24 <= clip.n_frames <= 48
        np.testing.assert_allclose(np.diff(clip.times_seconds), 1 / 12, atol=2e-3)


def test_bytes_depend_on_the_settings_alone(made, tmp_path):
    synthesize(tmp_path / "parallel", SMALL, n_jobs=2, quiet=True)
    assert files(tmp_path / "parallel") == files(made)


@pytest.mark.parametrize("container", ["mp4", "avi"])
def test_other_containers_hold_the_same_clips_reproducibly(tmp_path, container):
    settings = SynthSettings(2, 0, 0, clips=1, size=(107, 60), container=container)
    for name in ("a", "b"):
        synthesize(tmp_path / name, settings, quiet=True)
    assert files(tmp_path / "a") == files(tmp_path / "b")
    clip = decode_clip(tmp_path / "a" / "videos" / f"1.{container}", np.arange)
    assert clip.frames.shape[1:3] == ((60, 108) if container == "mp4" else (60, 107))


def test_an_interrupted_run_is_resumed_to_the_same_bytes(made, tmp_path):
    out = tmp_path / "set"
    synthesize(out, SMALL, quiet=True)
    victims = sorted((out / "videos").iterdir())[::3]
    for path in victims:
        path.unlink()
    (out / "videos" / ".1.tmp-123-abc.webm").write_bytes(b"left by a kill")
    report = synthesize(out, SMALL, quiet=True)
    assert (report.written, report.kept) == (len(victims), 16 - len(victims))
    assert files(out) == files(made)


def test_a_set_can_grow_but_not_change(made, tmp_path):
    out = tmp_path / "set"
    synthesize(out, SynthSettings(4, 2, 2, clips=1, size=(107, 60)), quiet=True)
    synthesize(out, SMALL, quiet=True)
    assert files(out) == files(made)
    with pytest.raises(InputError, match="other settings"):
        synthesize(out, SynthSettings(4, 2, 2, clips=2, size=(107, 60), seed=1), quiet=True)
    with pytest.raises(InputError, match=r"not empty and holds no synth\.json"):
        synthesize(tmp_path, SMALL, quiet=True)


def test_there_are_enough_classes_and_their_names_differ():
    assert len(MOTIONS) >= 36
    assert len({motion.name for motion in MOTIONS}) == len(MOTIONS)


def test_pairs_stay_in_one_part():
    for counts in ((20, 6, 10), (3, 5, 7), (20, 10, 18)):
        parts = class_numbers(SynthSettings(*counts))
        owners = [{part for part, numbers in parts.items() for n in numbers if n // 2 == pair} for pair in range(24)]
        assert max(map(len, owners)) == 1
        assert tuple(len(numbers) for numbers in parts.values()) == counts


def pose_table(motion, time, heading=0.3) -> np.ndarray:
    poses = motion.path(time, heading)
    table = np.stack([poses.x, poses.y, poses.turns, poses.growth, poses.opacity], axis=1)
    table[:, :2] -= table[:, :2].min(axis=0)  # the drawing puts the box around the path anywhere
    table[:, 2] -= table[:, 2].min()  # and turns the object by any angle
    return table


@pytest.mark.parametrize("pair", PAIRS, ids=[pair[0].name for pair in PAIRS])
def test_a_pair_shows_the_same_poses_in_another_order(pair):
    """So the mean over time of whatever a frame shows is the same for both, and cannot tell them apart."""
    time = (np.arange(4000) + 0.5) / 4000
    one, other = (pose_table(motion, time) for motion in pair)
    assert np.abs(one - other).max() > 0.2
    for column in range(5):
        np.testing.assert_allclose(np.sort(one[:, column]), np.sort(other[:, column]), atol=5e-3)
    one_bag, other_bag = ({tuple(row) for row in np.round(table, 1)} for table in (one, other))
    assert len(one_bag ^ other_bag) <= 0.1 * len(one_bag | other_bag) + 4


def test_the_object_stands_out_and_stays_in_the_picture():
    for number in range(20):
        scene = draw_scene(np.random.default_rng([0, 0, number]), (427, 240))
        picture = next(draw_clip(MOTIONS[0], scene, (427, 240)))
        near = np.linalg.norm(picture.astype(int) - COLOURS[scene.colour], axis=2) < 40
        assert near.sum() > 100
        middle = np.zeros_like(near)
        middle[:, 93:334] = True  # the central square, which a centre crop keeps
        assert (near & middle).sum() > 0.7 * near.sum()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"train_classes": 40, "val_classes": 10}, "sum to 1..48"),
        ({"clips": 0}, "clips per class must be in 1..10000, got 0"),
        ({"size": (16, 16)}, "32x32 to 2048x2048, got 16x16"),
        ({"size": (64, 4000)}, "got 64x4000"),
        ({"container": "mkv"}, "webm, mp4, avi"),
    ],
)
def test_wrong_settings_are_refused(wrong, message):
    with pytest.raises(InputError, match=message):
        SynthSettings(**wrong)
