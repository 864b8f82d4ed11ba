import io
import multiprocessing
import pickle
import threading

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from fsar.errors import InputError
from fsar.files import sha256_file
from fsar.pipeline.packs import FramePack
from fsar.pipeline.packs.build import add_to_pack, pack_frames, plan_pack
from fsar.pipeline.packs.describe import describe_pack
from fsar.pipeline.packs.layout import MAX_SHARD_ROWS, PackSettings, new_layout, shard_rows
from fsar.pipeline.packs.verify import verify_pack
from fsar.pipeline.store import VideoRow
from fsar.pipeline.video.clip import VideoError
from fsar.pipeline.video.decode import decode_clip
from fsar.pipeline.video.sample import sample_indices
from tests.pipeline.packs.samples import ONE_BY_ONE, packed, tree, write_videos
from tests.videos import read_number, write_clip

LENGTHS = (20, 5, 16, 30)


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    return write_videos(tmp_path_factory.mktemp("videos"), LENGTHS)


@pytest.fixture(scope="module")
def pack(videos, tmp_path_factory):
    return FramePack.open(packed(tmp_path_factory.mktemp("pack"), videos, PackSettings(frames=8)))


def test_frames_are_the_sampled_ones_each_once(pack, videos):
    for video, length in zip(videos, LENGTHS, strict=True):
        known = pack.video(video.video_id)
        expected = np.unique(sample_indices("uniform-center", length, 8))
        assert known.frame_index.tolist() == expected.tolist()
        assert known.n_stored == min(length, 8)
        assert (known.n_frames, known.height, known.width) == (length, 64, 96)
        assert known.source_sha256.hex() == sha256_file(video.path)
        np.testing.assert_allclose(known.frame_time, expected / 12, atol=1e-6)
        frames = pack.frames(video.video_id)
        assert frames.shape == (known.n_stored, 64, 96, 3)
        assert frames.dtype == np.uint8
        assert [read_number(frame) for frame in frames] == expected.tolist()


def test_pictures_are_what_pillow_reads_from_the_same_jpeg(pack, videos):
    source = decode_clip(videos[0].path, lambda n: pack.video("clip0").frame_index)
    for place, jpeg in enumerate(pack.jpegs("clip0", range(8))):
        picture = pack.frames("clip0", [place])[0]
        assert (picture == np.asarray(Image.open(io.BytesIO(jpeg)))).all()
        assert np.abs(picture.astype(int) - source.frames[place]).mean() < 4


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(st.integers(0, 7), min_size=1, max_size=12))
def test_any_frames_in_any_order(pack, indices):
    assert (pack.frames("clip3", indices) == pack.frames("clip3")[indices]).all()
    assert torch.equal(pack.frames_on("cpu", "clip3", indices), torch.from_numpy(pack.frames("clip3", indices)))


def test_several_threads_and_processes_read_the_same_pack(pack):
    expected = {video.video_id: pack.frames(video.video_id) for video in pack.videos}
    fresh = pickle.loads(pickle.dumps(pack))
    wrong: list[str] = []

    def read(offset: int) -> None:
        ids = [pack.videos[(n + offset) % len(pack)].video_id for n in range(20)]
        wrong.extend(video_id for video_id in ids if not (fresh.frames(video_id) == expected[video_id]).all())

    threads = [threading.Thread(target=read, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert (pool.apply(fresh.frames, ("clip2",)) == expected["clip2"]).all()


def test_large_frames_are_shrunk_and_small_ones_are_not_enlarged(tmp_path):
    rows = [*write_videos(tmp_path, (3,), size=(320, 200)), *write_videos(tmp_path / "small", (3,), size=(64, 48))]
    rows[1] = VideoRow("small", "x", "", rows[1].path)
    pack = FramePack.open(packed(tmp_path, rows, PackSettings(frames=3, short_side=100)))
    assert pack.frames("clip0").shape == (3, 100, 160, 3)
    assert pack.frames("small").shape == (3, 48, 64, 3)
    assert [read_number(frame) for frame in pack.frames("clip0")] == [0, 1, 2]


def test_the_same_bytes_with_any_number_of_workers_and_wherever_the_videos_lie(videos, tmp_path):
    moved = write_videos(tmp_path / "elsewhere", LENGTHS)
    one = pack_frames(videos, tmp_path / "one.frames", ONE_BY_ONE, quiet=True)
    two = pack_frames(moved, tmp_path / "two.frames", ONE_BY_ONE, n_jobs=2, quiet=True)
    assert tree(one.path) == tree(two.path)
    assert describe_pack(one.path)["identity"] == sha256_file(one.path / "manifest.json")
    assert one.n_packed == 4
    before = tree(one.path)
    again = pack_frames(videos, one.path, ONE_BY_ONE, quiet=True)
    assert again.n_packed == 0
    assert tree(one.path) == before


def test_new_videos_are_added_and_the_old_files_stay(videos, tmp_path):
    path = packed(tmp_path, videos[:2])
    before = tree(path)
    report = add_to_pack(path, videos, quiet=True)
    assert (report.n_videos, report.n_packed) == (4, 2)
    after = tree(path)
    assert all(after[name] == before[name] for name in before if name.startswith(("frames/", "journal/0")))
    pack = FramePack.open(path)
    assert [video.video_id for video in pack.videos] == ["clip0", "clip1", "clip2", "clip3"]
    assert read_number(pack.frames("clip3", [29])[0]) == 29
    assert not verify_pack(path).problems
    assert add_to_pack(path, videos, quiet=True).n_packed == 0
    assert tree(path) == after


def test_a_video_that_fails_is_listed_and_the_rest_goes_on(videos, tmp_path):
    bad = tmp_path / "bad.mp4"
    bad.write_bytes(b"no video")
    rows = [videos[0], VideoRow("bad", "class0", "", str(bad)), videos[1]]
    report = pack_frames(rows, tmp_path / "p.frames", PackSettings(frames=8), quiet=True)
    assert [(failure[0], failure[2]) for failure in report.failures] == [("bad", "not-a-video")]
    assert "bad" in (report.path / "failures.csv").read_text()
    assert not any(str(tmp_path).encode() in data for data in tree(report.path).values())
    pack = FramePack.open(report.path)
    assert pack.video("bad").n_stored == 0
    with pytest.raises(VideoError, match="could not be decoded when"):
        pack.frames("bad")
    assert [read_number(frame) for frame in pack.frames("clip1")] == [0, 1, 2, 3, 4]
    assert describe_pack(report.path)["failures"] == {"not-a-video": 1}
    assert not verify_pack(report.path).problems
    with pytest.raises(InputError, match="none of the 1 videos could be read"):
        pack_frames(rows[1:2], tmp_path / "none.frames", PackSettings(frames=8), quiet=True)


def test_a_video_that_was_mended_is_packed_by_the_next_run(videos, tmp_path):
    good = [VideoRow("bad", "class0", "", str(tmp_path / "bad.mp4")), *videos]
    for how, name in ((PackSettings(frames=8), "one"), (ONE_BY_ONE, "several")):
        (tmp_path / "bad.mp4").write_bytes(b"no video")
        path = pack_frames(good, tmp_path / f"{name}.frames", how, quiet=True).path
        before = tree(path)
        again = pack_frames(good, path, how, quiet=True)
        assert (again.n_packed, len(again.failures)) == (0, 1)
        assert tree(path) == before
        write_clip(tmp_path / "bad.mp4", n_frames=7)
        mended = pack_frames(good, path, how, quiet=True)
        assert (mended.n_packed, mended.failures) == (1, [])
        assert not verify_pack(path).problems
        assert tree(path) == tree(pack_frames(good, tmp_path / f"{name}-fresh.frames", how, quiet=True).path)


def test_other_settings_videos_and_strangers_are_refused(videos, tmp_path):
    path = packed(tmp_path, videos)
    with pytest.raises(InputError, match="quality: 90 != 80"):
        pack_frames(videos, path, PackSettings(frames=10_000, quality=80), quiet=True)
    with pytest.raises(InputError, match="1 of its 4 are not in this list"):
        plan_pack(videos[:3], path, ONE_BY_ONE)
    assert plan_pack(videos, path, ONE_BY_ONE) == (0, 4)
    assert plan_pack(videos, tmp_path / "new.frames", ONE_BY_ONE) == (4, 0)
    stranger = tmp_path / "stranger.frames"
    stranger.mkdir()
    (stranger / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match="is not a pack of frames"):
        pack_frames(videos, stranger, ONE_BY_ONE, quiet=True)
    with pytest.raises(InputError, match=r"must end in \.frames"):
        pack_frames(videos, tmp_path / "x", ONE_BY_ONE, quiet=True)
    with pytest.raises(FileNotFoundError, match="no pack of frames"):
        FramePack.open(tmp_path / "absent.frames")
    part = [VideoRow("new", "class0", "test", videos[0].path)]
    train = packed(tmp_path, [VideoRow("a", "class0", "train", videos[0].path)], name="train")
    with pytest.raises(InputError, match="class 'class0' is train in"):
        add_to_pack(train, part, quiet=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"frames": 0}, r"frames must be in 1\.\.10000"),
        ({"frames": 8, "sampler": "unform-center"}, "did you mean uniform-center"),
        ({"frames": 8, "short_side": 4}, "at least 8 pixels"),
        ({"frames": 8, "quality": 101}, r"quality must be in 1\.\.100"),
        ({"frames": "8"}, "must be int"),
        ({"frames": 8, "seed": -1}, "seed must be 0 or more"),
    ],
)
def test_impossible_settings_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        PackSettings(**options)


def test_a_video_or_frame_that_is_not_there(pack):
    with pytest.raises(InputError, match="did you mean clip1"):
        pack.frames("clip11")
    for indices in ([8], [-1], [], [[0]]):
        with pytest.raises(ValueError, match=r"numbers in 0\.\.7"):
            pack.jpegs("clip0", indices)


def test_shards_are_large_and_never_change_when_rows_are_added():
    ssv2 = PackSettings(frames=16, short_side=256)
    assert shard_rows(ssv2) == MAX_SHARD_ROWS
    layout = new_layout(ssv2, 1000)
    assert layout.shards == (0, 512, 1000)
    assert layout.grown(1100).shards == (0, 512, 1000, 1100)
    assert layout.grown(1000) == layout
    assert [layout.grown(1100).shard_of(row) for row in (0, 511, 512, 999, 1000, 1099)] == [0, 0, 1, 1, 2, 2]
    assert shard_rows(ONE_BY_ONE) == 1


def test_more_shards_than_files_may_be_open(videos, tmp_path, monkeypatch):
    pack = FramePack.open(packed(tmp_path, videos))
    monkeypatch.setattr("fsar.pipeline.packs.reader.MAX_OPEN_SHARDS", 2)
    for _ in range(2):
        for video, length in zip(videos, LENGTHS, strict=True):
            assert read_number(pack.frames(video.video_id, [length - 1])[0]) == length - 1
            assert len(pack._shards) <= 2


def test_random_samplers_depend_on_seed_and_id_alone(videos, tmp_path):
    def indices(seed, rows, name):
        settings = PackSettings(frames=4, sampler="uniform-random", seed=seed)
        pack = FramePack.open(packed(tmp_path, rows, settings, name))
        return {video.video_id: pack.video(video.video_id).frame_index.tolist() for video in pack.videos}

    first = indices(0, videos, "a")
    assert indices(0, videos[::-1], "b") == first
    assert indices(1, videos, "c") != first


def test_a_folder_of_pictures_is_packed_too(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number, frame in enumerate(decode_clip(write_clip(tmp_path / "v.mp4", n_frames=4), np.arange).frames):
        Image.fromarray(frame).save(folder / f"{number}.png")
    pack = FramePack.open(packed(tmp_path, [VideoRow("v", "x", "", str(folder))]))
    assert [read_number(frame) for frame in pack.frames("v")] == [0, 1, 2, 3]
    assert np.isnan(pack.video("v").frame_time).all()


@pytest.mark.gpu
def test_nvjpeg_is_close_to_libjpeg(pack):
    on_gpu = pack.frames_on("cuda", "clip0").cpu().numpy().astype(int)
    assert np.abs(on_gpu - pack.frames("clip0")).mean() < 2
