"""kill -9 at random moments of packing, then the same command again: the same bytes, and nothing done twice."""

import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from fsar.pipeline.packs.build import pack_frames
from fsar.pipeline.packs.layout import pack_files
from fsar.pipeline.packs.verify import verify_pack
from fsar.pipeline.store.journal.records import stored_rows
from tests.pipeline.packs.samples import ONE_BY_ONE, tree, write_videos

LENGTHS = (6,) * 12
PACKER = """
import os, sys
from pathlib import Path
from fsar.pipeline.packs.build import pack_frames
from fsar.pipeline.store import VideoRow
from tests.pipeline.packs.samples import ONE_BY_ONE
import av, PIL.Image, fsar.pipeline.video.decode

rows = [VideoRow(f"clip{n}", f"class{n % 2}", "", f"{sys.argv[1]}/clip{n}.mp4") for n in range(12)]
print("ready", flush=True)
for line in sys.stdin:
    n, out = line.strip().split(" ", 1)
    children = []
    for _ in range(int(n)):
        child = os.fork()
        if child == 0:
            try:
                pack_frames(rows, Path(out), ONE_BY_ONE, quiet=True)
            finally:
                os._exit(0)
        children.append(child)
    print(*children, flush=True)
    for child in children:
        os.waitpid(child, 0)
    print("ended", flush=True)
"""
"""Imports everything once and forks for each run, which then takes a fraction of a second."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("videos")


@pytest.fixture(scope="module")
def videos(folder):
    return write_videos(folder, LENGTHS)


@pytest.fixture(scope="module")
def packer(folder, videos):
    """Yield a process that packs when asked to."""
    command = [sys.executable, "-c", PACKER, str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "ready\n"
        yield process
        process.stdin.close()
        process.wait(timeout=60)


def begin(packer, out, n=1):
    packer.stdin.write(f"{n} {out}\n")
    packer.stdin.flush()
    return [int(child) for child in packer.stdout.readline().split()]


def end(packer):
    assert packer.stdout.readline() == "ended\n"


def test_killed_at_any_moment_it_ends_with_the_same_bytes(packer, videos, tmp_path):
    expected = tree(pack_frames(videos, tmp_path / "whole.frames", ONE_BY_ONE, quiet=True).path)
    rng, out = random.Random(0), tmp_path / "killed.frames"
    n_done, n_kills = 0, 0
    for _ in range(8):
        (child,) = begin(packer, out)
        time.sleep(rng.uniform(0.0, 0.15))
        with suppress(ProcessLookupError):  # it was quick this time
            os.kill(child, signal.SIGKILL)
        end(packer)
        stored = stored_rows(pack_files(out))
        assert len(stored) >= n_done
        n_done, n_kills = len(stored), n_kills + (len(stored) < len(LENGTHS))
    assert n_kills
    begin(packer, out)
    end(packer)
    assert tree(out) == expected
    assert not verify_pack(out).problems


def test_two_processes_fill_one_pack(packer, videos, tmp_path):
    expected = tree(pack_frames(videos, tmp_path / "alone.frames", ONE_BY_ONE, quiet=True).path)
    out = tmp_path / "together.frames"
    begin(packer, out, n=2)
    end(packer)
    assert tree(out) == expected


def test_a_kill_while_videos_are_added_is_mended_by_adding_again(videos, tmp_path, monkeypatch):
    """Stop after each step of `add`; the next one goes on, and the end is the same."""
    from fsar.pipeline.packs import build

    class Killed(BaseException):
        pass

    whole = pack_frames(videos[:3], tmp_path / "whole.frames", ONE_BY_ONE, quiet=True).path
    build.add_to_pack(whole, videos[:6], quiet=True)
    for number, name in enumerate(("read_pack", "publish", "stream_jobs", "seal_pack")):
        out = pack_frames(videos[:3], tmp_path / f"{number}.frames", ONE_BY_ONE, quiet=True).path

        def killed(*args, **options):
            raise Killed

        with monkeypatch.context() as patch:
            patch.setattr(build, name, killed)
            with pytest.raises(Killed):
                build.add_to_pack(out, videos[:6], quiet=True)
        build.add_to_pack(out, videos[:6], quiet=True)
        assert tree(out) == tree(whole)


def test_a_kill_while_a_failed_video_is_mended(videos, tmp_path, monkeypatch):
    """Stop at each step of mending; the next run goes on, and no frame of a neighbour is lost."""
    from fsar.pipeline.packs import build, mend, shards
    from fsar.pipeline.packs.layout import PackSettings
    from fsar.pipeline.store import VideoRow

    class Killed(BaseException):
        pass

    settings, bad = PackSettings(frames=4), tmp_path / "bad.mp4"
    rows = [VideoRow("bad", "class0", "", str(bad)), *videos[:3]]
    good = (tmp_path / "good.mp4", tmp_path / "expected.frames")
    good[0].write_bytes(Path(videos[5].path).read_bytes())
    expected = tree(pack_frames([VideoRow("bad", "class0", "", str(good[0])), *videos[:3]], good[1], settings).path)
    for number, (module, name) in enumerate(((mend, "_kept"), (shards, "publish"), (build, "seal_pack"))):
        bad.write_bytes(b"no video")
        out = pack_frames(rows, tmp_path / f"{number}.frames", settings, quiet=True).path
        bad.write_bytes(good[0].read_bytes())

        def killed(*args, **options):
            raise Killed

        with monkeypatch.context() as patch:
            patch.setattr(module, name, killed)
            with pytest.raises(Killed):
                pack_frames(rows, out, settings, quiet=True)
        pack_frames(rows, out, settings, quiet=True)
        found = tree(out)
        assert {name for name in expected if found[name] != expected[name]} <= {
            "videos.csv",
            "pack.json",
            "manifest.json",
            "journal/metadata.json",
        }
        assert found["frames/000000.jpgs"] == expected["frames/000000.jpgs"]
        assert not verify_pack(out).problems
