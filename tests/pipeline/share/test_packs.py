"""Packs of frames at an address: what is said of them, what is refused, what a kill leaves."""

import json
import shlex
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

import fsar
from fsar.cli.store import store as store_command
from fsar.errors import InputError
from fsar.files import sha256_file
from fsar.heads.finetune.videos import VideoSet
from fsar.pipeline.encode.encode import EncodeOptions, add_videos, encode
from fsar.pipeline.packs import FramePack
from fsar.pipeline.packs.build import add_to_pack, pack_frames
from fsar.pipeline.packs.catalog import read_videos, video_rows
from fsar.pipeline.packs.describe import describe_pack
from fsar.pipeline.packs.layout import PackSettings
from fsar.pipeline.packs.verify import verify_pack
from fsar.pipeline.share import Selection, parse_address, pull, push
from fsar.pipeline.share.upstream import open_upstream
from fsar.pipeline.share.verify import verify_upstream
from fsar.pipeline.store.format.identity import checked_json
from tests.pipeline.share import test_killed as killed
from tests.pipeline.share.conftest import packed_sample
from tests.pipeline.share.servers import FolderServer, Handler
from tests.pipeline.share.test_pull import same_bytes


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return packed_sample(tmp_path_factory.mktemp("made"))


@pytest.fixture
def pack(shelf: Path, made: Path) -> Path:
    return Path(shutil.copytree(made, shelf / made.name))


def address_of(server: FolderServer, name: str = "sample.frames"):
    return parse_address(f"{server.url}/{name}")


def test_frames_are_read_from_a_copy(server: FolderServer, pack: Path, tmp_path: Path) -> None:
    report = pull(address_of(server), tmp_path / "mine.frames")
    ours, theirs = FramePack.open(report.path), FramePack.open(pack)
    assert (ours.frames("clip1") == theirs.frames("clip1")).all()
    again = pull(address_of(server), tmp_path / "mine.frames")
    assert (again.n_files, again.is_whole) == (0, True)


def test_a_damaged_copy_is_mended(server: FolderServer, pack: Path, tmp_path: Path) -> None:
    out = pull(address_of(server), tmp_path / "p.frames").path
    (out / "frames/000001.jpgs").write_bytes(b"x")
    (out / "frames/000000.index").unlink()
    assert len(verify_pack(out).problems) == 2
    assert pull(address_of(server), out).n_files == 2
    assert same_bytes(pack, out)


@pytest.fixture
def partial(server: FolderServer, pack: Path, tmp_path: Path) -> Path:
    """A copy with the shard of clip0 alone."""
    report = pull(address_of(server), tmp_path / "part.frames", Selection(classes=("class0",)))
    assert not report.is_whole
    return report.path


class TestPartialCopies:
    """Whole shards under the manifest of the whole pack."""

    def test_it_has_what_was_asked_for_and_says_so(self, server: FolderServer, pack: Path, partial: Path) -> None:
        assert sorted(path.name for path in (partial / "frames").iterdir()) == ["000000.index", "000000.jpgs"]
        found = verify_pack(partial)
        assert found.problems == []
        assert found.notes == [f"a partial copy of {address_of(server)}#sha256={sha256_file(pack / 'manifest.json')}: "
                               "7 of its 13 files are here"]  # fmt: skip
        ours, theirs = FramePack.open(partial), FramePack.open(pack)
        assert ours.videos == theirs.videos
        assert (ours.frames("clip0") == theirs.frames("clip0")).all()
        facts, whole = describe_pack(partial), describe_pack(pack)
        assert facts["partial"]["videos_here"] == 1
        assert [facts[name] for name in ("identity", "videos", "pending", "parts", "failures")] == [
            whole[name] for name in ("identity", "videos", "pending", "parts", "failures")
        ]

    def test_what_it_lacks_is_an_error_with_the_command_that_fetches_it(self, pack: Path, partial: Path) -> None:
        with pytest.raises(
            InputError, match=r"partial copy without the frames of video 'clip1'.*--class class1"
        ) as one:
            FramePack.open(partial).frames("clip1")
        line = str(one.value).partition("fetch them with ")[2]
        pulled = CliRunner().invoke(store_command, shlex.split(line)[1:], standalone_mode=False)
        assert pulled.return_value == 0, pulled.output
        assert same_bytes(pack, partial)  # that was the rest

    def test_the_rest_makes_it_whole(self, server: FolderServer, pack: Path, partial: Path) -> None:
        rest = pull(address_of(server), partial)
        assert (rest.is_whole, rest.n_kept) == (True, 4)  # frames, index and record of the shard, failures.csv
        assert same_bytes(pack, partial)

    def test_damage_is_seen_in_what_is_here(self, partial: Path) -> None:
        (partial / "frames/000000.jpgs").write_bytes(b"x")
        assert [problem.videos for problem in verify_pack(partial).problems] == [("clip0",)]

    def test_nobody_reads_past_it_or_writes_to_it(self, partial: Path, tmp_path: Path) -> None:
        rows = video_rows(read_videos(partial).rows)
        options = EncodeOptions("random:timm/test_resnet", n_slots=2, size=32)
        encode(read_videos(partial).rows[:1], tmp_path / "s.zarr", options, quiet=True)
        with pytest.raises(InputError, match="without the frames of video 'clip1'"):
            encode(read_videos(partial).rows, tmp_path / "t.zarr", options)
        assert not (tmp_path / "t.zarr").exists()
        with pytest.raises(InputError, match="without the frames of video 'clip1'"):
            add_videos(tmp_path / "s.zarr", rows)
        with pytest.raises(InputError, match="without the frames"):
            VideoSet.open(partial).reader()
        with pytest.raises(InputError, match=r"partial copy of .*: to push it, first pull the rest"):
            push(partial, parse_address((tmp_path / "there").as_uri()))
        for write in (add_to_pack, lambda path, rows: pack_frames(rows, path, PackSettings(frames=3))):
            with pytest.raises(InputError, match="to write to it, first pull the rest"):
                write(partial, rows)
        assert verify_pack(partial).problems == []


@pytest.mark.parametrize(
    ("selection", "out", "message"),
    [
        (Selection(parts=("dev",)), "p.frames", "unknown split part 'dev'"),
        (Selection(taps=("pooled",)), "p.frames", "is a pack of frames, which has no taps"),
        (Selection(), "p.zarr", "name the copy NAME.frames"),
        (Selection(), "shelf/file.frames", "is no folder: choose another --out"),
    ],
)
def test_what_a_pack_cannot_do(server, pack, tmp_path, selection, out, message):
    (tmp_path / "shelf/file.frames").write_text("mine")
    with pytest.raises(InputError, match=message):
        pull(address_of(server), tmp_path / out, selection)
    assert not (tmp_path / out).exists() or (tmp_path / out).read_text() == "mine"
    with pytest.raises(FileNotFoundError, match="no pack of frames"):
        verify_pack(tmp_path / "shelf/file.frames")


def test_a_pack_is_not_opened_as_a_store(server, pack):
    with pytest.raises(InputError, match=r"is a pack of frames: `fsar-store pull http.*sample\.frames` copies it"):
        fsar.open_store(str(address_of(server)))


def test_damage_at_the_address_names_the_videos(server, pack):
    (pack / "frames/000001.jpgs").write_bytes(b"x" * (pack / "frames/000001.jpgs").stat().st_size)
    (pack / "frames/000000.index").unlink()
    found = verify_upstream(open_upstream(address_of(server)), lambda n_bytes: None).problems
    assert [(problem.file, problem.what.split(":")[0], problem.videos) for problem in found] == [
        ("frames/000000.index", "missing", ("clip0",)),
        ("frames/000001.jpgs", "damaged", ("clip1",)),
    ]


def test_a_lying_server_is_found_out(server, pack, tmp_path):
    def other_bytes(handler: Handler, path: str) -> bool:
        return path.endswith(".jpgs") and (handler.send_file(b"x" * 100) or True)

    server.fault = other_bytes
    with pytest.raises(InputError, match="not what the manifest names"):
        pull(address_of(server), tmp_path / "p.frames")
    assert not (tmp_path / "p.frames" / "manifest.json").exists()


@pytest.mark.parametrize("name", ["../victim", "/etc/victim", "frames/../../victim", "claims/000000", "evil.py"])
def test_a_manifest_names_the_files_of_a_pack_alone(server, pack, tmp_path, name):
    manifest = json.loads((pack / "manifest.json").read_bytes())
    del manifest["sha256"]
    manifest["files"][name] = next(iter(manifest["files"].values()))
    (pack / "manifest.json").write_bytes(checked_json(manifest))
    with pytest.raises(InputError):
        pull(address_of(server), tmp_path / "p.frames")
    assert [path.name for path in tmp_path.iterdir()] == ["shelf"]


def test_only_what_is_finished_and_intact_is_pushed(pack, tmp_path):
    there = parse_address((tmp_path / "there").as_uri())
    data = (pack / "frames/000000.jpgs").read_bytes()
    (pack / "frames/000000.jpgs").write_bytes(data[:-1])
    with pytest.raises(InputError, match="1 of its files are wrong"):
        push(pack, there)
    (pack / "frames/000000.jpgs").write_bytes(data)
    (pack / "manifest.json").rename(tmp_path / "manifest.json")
    with pytest.raises(InputError, match="is not finished"):
        push(pack, there)
    assert not (tmp_path / "there").exists()
    (tmp_path / "manifest.json").rename(pack / "manifest.json")
    assert push(pack, there).n_files > 0


@pytest.mark.parametrize("n_moments", killed.MOMENTS)
def test_kills_leave_nothing_wrong(server: FolderServer, pack: Path, tmp_path: Path, n_moments: int) -> None:
    killed.test_a_killed_pull_is_gone_on_with(server, pack, tmp_path / "pulled", n_moments)
    killed.test_a_killed_push_is_gone_on_with(pack, tmp_path / "pushed", n_moments)
