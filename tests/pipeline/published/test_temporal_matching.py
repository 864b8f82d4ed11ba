"""Features and episodes in the published form of temporal_matching, written here as its code writes them."""

import json
import os
import pickle
import re

import numpy as np
import pytest
import torch
from click.testing import CliRunner

import fsar
from fsar.cli.prep import prep
from fsar.errors import InputError
from fsar.heads.episodes.saved_list import load_list
from fsar.pipeline.published.features import clip_places
from fsar.pipeline.store import STATUS_FAILED, open_store
from fsar.pipeline.store.verify import verify

DIM = 6
CLASSES = {"train": ["Archery", "Biking", "Diving"], "val": ["Fencing", "Golf"], "test": ["Hammering", "JumpRope"]}


def run(*arguments):
    return CliRunner().invoke(prep, [str(argument) for argument in arguments], standalone_mode=False)


def write_video(folder, n_clips, generator, *, names=True):
    """One video of `n_clips` overlapping clips of 16 frames, and the names of their frames."""
    folder.mkdir(parents=True)
    features = torch.randn(n_clips, DIM, generator=generator)
    torch.save(features if n_clips > 1 else features[0], folder / "video_features.pth")
    if names:
        lines = [",".join(f"{first + frame:08}.jpg" for frame in range(16)) for first in range(1, n_clips + 1)]
        (folder / "clip_names.txt").write_text("\n".join(lines) + "\n")
    return features


@pytest.fixture
def published(tmp_path):
    """A folder of features, and each video's clips."""
    generator, clips = torch.Generator().manual_seed(0), {}
    for part, names in CLASSES.items():
        for name in names:
            for number, n_clips in enumerate((1, 5, 8, 40)):
                video = f"v_{name}_g01_c{number:02}"
                clips[video] = write_video(tmp_path / "features" / part / name / video, n_clips, generator)
    return tmp_path / "features", clips


def test_every_view_draws_one_clip_of_each_part_or_all_and_the_last_again(published, tmp_path):
    folder, clips = published
    result = run("import-features", folder, "--out", tmp_path / "s.zarr", "--views", 3, "--quiet", "--json")
    assert result.exception is None, result.exception
    assert json.loads(result.stdout) == {"store": str(tmp_path / "s.zarr"), "videos": 28, "failed": 0}
    store = open_store(tmp_path / "s.zarr")
    assert (store.n_views, store.n_slots) == (3, 8)
    assert verify(tmp_path / "s.zarr").problems == []
    for row, video in enumerate(store.videos):
        assert video.class_name in CLASSES[video.part]
        own = clips[video.video_id].numpy()
        index = store.frame_index([row])[0]
        stored = np.stack([store.read("pooled", [row], views=view)[0] for view in range(3)])
        np.testing.assert_array_equal(stored, own[index])  # clips begin at every frame
        assert store.n_frames[row] == len(own) + 15
        if len(own) <= 8:
            np.testing.assert_array_equal(index, np.tile(np.minimum(np.arange(8), len(own) - 1), (3, 1)))
        else:
            np.testing.assert_array_equal(index // 5, np.tile(np.arange(8), (3, 1)))
            assert (index[0] != index[1]).any()


def test_the_same_again_completes_nothing_and_other_draws_are_another_store(published, tmp_path):
    folder, _ = published
    assert run("import-features", folder, "--out", tmp_path / "s.h5", "--quiet").exception is None
    first = open_store(tmp_path / "s.h5").identity
    assert run("import-features", folder, "--out", tmp_path / "s.h5", "--quiet").exception is None
    assert open_store(tmp_path / "s.h5").identity == first
    other = run("import-features", folder, "--out", tmp_path / "s.h5", "--seed", 1, "--quiet")
    assert "seed" in str(other.exception)


def test_every_part_gets_a_clip_and_none_two():
    for n_clips in range(9, 60):
        places = clip_places(n_clips, 8, np.random.default_rng(n_clips))
        bounds = np.linspace(0, n_clips, 9)
        assert (np.ceil(bounds[:-1]) <= places).all()
        assert (places <= np.ceil(bounds[1:]) - 1).all()


class Harmful:
    def __reduce__(self):
        return os.system, ("touch ran",)


def test_files_that_are_no_features_fail_alone_and_run_nothing(published, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder, _ = published
    places = [
        folder / "train" / "Archery" / f"v_Archery_g01_c{number:02}" / "video_features.pth" for number in range(4)
    ]
    places[0].write_bytes(pickle.dumps(Harmful(), protocol=2))
    places[1].write_bytes(places[3].read_bytes()[:200])
    torch.save(torch.full((3, DIM), torch.nan), places[2])
    torch.save(torch.zeros(40, DIM + 1), places[3])
    (folder / "val" / "Golf" / "v_Golf_g01_c02" / "clip_names.txt").write_text("00000001.jpg\n")
    result = run("import-features", folder, "--out", tmp_path / "s.zarr", "--quiet")
    assert result.return_value == 1
    assert "28 videos of 8 clips, 5 failed" in result.stdout
    assert not (tmp_path / "ran").exists()
    store = open_store(tmp_path / "s.zarr")
    failed = {
        store.videos[row].video_id: store.failure_of(int(row))[1]
        for row in np.flatnonzero(store.status == STATUS_FAILED)
    }
    assert len(failed) == 5
    assert "not finite" in failed["v_Archery_g01_c02"]
    assert "7 numbers for each clip, the others 6" in failed["v_Archery_g01_c03"]
    assert "frames of 8 clips" in failed["v_Golf_g01_c02"]


def test_a_folder_without_features_says_where_they_lie(tmp_path):
    result = run("import-features", tmp_path, "--out", tmp_path / "s.zarr")
    assert isinstance(result.exception, InputError)
    assert "CLASS/VIDEO/video_features.pth" in str(result.exception)
    assert not (tmp_path / "s.zarr").exists()


@pytest.fixture
def episodes(published, tmp_path):
    """Three published 2-way 2-shot episodes with one target a class, grouped by class; and what they hold."""
    _, clips = published
    folder, held = tmp_path / "episodes", []
    folder.mkdir()
    (tmp_path / "split.csv").write_text(
        "part,class,video_id\n"
        + "".join(
            f"{part},{name},v_{name}_g01_c{i:02}\n"
            for part, names in CLASSES.items()
            for name in names
            for i in range(4)
        )
    )
    for number, first in ((1, 0), (2, 1), (10, 0)):
        order = CLASSES["test"][::-1] if first else CLASSES["test"]
        for kind, videos in (("support", (0, 3)), ("target", (2,))):
            ids = [f"v_{name}_g01_c{i:02}" for name in order for i in videos]
            tensor = torch.stack([clips[one][torch.arange(8).clamp(max=len(clips[one]) - 1)] + number for one in ids])
            torch.save(tensor, folder / f"{kind}_set_{number}.pth")
            labels = torch.arange(2.0).repeat_interleave(len(videos))
            torch.save(labels, folder / f"{kind}_labels_{number}.pth")
            line = ";".join(",".join(f"{{}}/{clip + frame:08}.jpg" for frame in range(1, 17)) for clip in range(8))
            text = "\n".join(line.replace("{}", one) for one in ids)
            (folder / f"{kind}_frame_names_{number}.txt").write_text(text)
            held.append((number, kind, order, tensor))
    return folder, tmp_path / "split.csv", held


def test_episodes_keep_their_clips_their_labels_and_their_order(episodes, tmp_path):
    folder, split, held = episodes
    result = run("import-episodes", folder, "--split", split, "--out", tmp_path / "e.zarr", "--quiet", "--json")
    assert result.exception is None, result.exception
    assert json.loads(result.stdout)["episodes"] == 3
    store, listed = open_store(tmp_path / "e.zarr"), load_list(tmp_path / "e.npz")
    drawn = listed.in_store(store.row_of, {name: i for i, name in enumerate(listed.class_names)})
    for place, number in enumerate((1, 2, 10)):
        for kind, rows in (("support", drawn.support[place]), ("target", drawn.query[place])):
            tensor, order = next((t, o) for n, k, o, t in held if (n, k) == (number, kind))
            np.testing.assert_array_equal(store.read("pooled", rows), tensor.numpy())
            assert [listed.class_names[i] for i in drawn.class_ids[place]] == order
    assert drawn.support_labels.tolist() == [[0, 0, 1, 1]] * 3
    assert drawn.query_labels.tolist() == [[0, 1]] * 3


def test_a_head_trained_on_the_features_answers_the_episodes(published, episodes, tmp_path):
    assert run("import-features", published[0], "--out", tmp_path / "s.zarr", "--quiet").exception is None
    assert (
        run("import-episodes", episodes[0], "--split", episodes[1], "--out", tmp_path / "e.zarr", "--quiet").exception
        is None
    )
    short = {"way": 2, "steps": 2, "episodes_per_step": 1, "query": 1, "val_episodes": 3, "test": False, "quiet": True}
    fsar.train_head("chamfer", store=tmp_path / "s.zarr", options={"out_dim": 8}, out=tmp_path / "run", **short)
    found = fsar.evaluate(
        tmp_path / "run", tmp_path / "e.zarr", episodes_file=tmp_path / "e.npz", allow_recipe=True, quiet=True
    )
    assert found.results[0]["n_episodes"] == 3
    assert 0 <= found.accuracy <= 1


def spoil(folder, name, content):
    (torch.save if isinstance(content, torch.Tensor) else lambda text, path: path.write_text(text))(
        content, folder / name
    )


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("support_labels_2.pth", torch.tensor([0.0, 0.5, 1.0, 1.0]), "whole numbers from 0"),
        ("support_labels_2.pth", torch.tensor([0.0, 1.0, 0.0, 1.0]), "episode 2: videos of label 0 are of two classes"),
        ("target_labels_2.pth", torch.tensor([0.0, 2.0]), "episode 2: labels must be 0 to N - 1"),
        ("target_frame_names_10.txt", "v_Hammering_g01_c02/1.jpg", "frames of 2 videos"),
        ("target_frame_names_10.txt", "x/1.jpg\ny/1.jpg", "has no video 'x'"),
    ],
)
def test_episodes_that_do_not_fit_together_are_refused_by_number(episodes, tmp_path, name, content, message):
    folder, split, _ = episodes
    spoil(folder, name, content)
    result = run("import-episodes", folder, "--split", split, "--out", tmp_path / "e.zarr", "--quiet")
    assert isinstance(result.exception, InputError), result.exception
    assert re.search(message, str(result.exception)), result.exception
    assert not (tmp_path / "e.zarr").exists()
