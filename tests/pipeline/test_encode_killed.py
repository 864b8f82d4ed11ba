"""kill -9 at random moments of an encode, then the same command again: the same bytes, and nothing done twice."""

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import pytest

from fsar.pipeline.store import open_store
from fsar.pipeline.store.format.files import StoreFiles
from fsar.pipeline.store.journal.records import stored_rows
from fsar.pipeline.store.verify import verify
from tests.pipeline.encode_helpers import files_of
from tests.videos import write_clip

N_VIDEOS = 16

ENCODER = """
import os, sys, time
from pathlib import Path
from fsar.pipeline.catalog.catalog import CatalogRow
from fsar.pipeline.encode.encode import EncodeOptions, encode
from fsar.pipeline.encode.engine import EngineOptions
import timm, torch.nn.functional, fsar.pipeline.backbones.timm

def run(out, jobs):
    rows = [CatalogRow(p.stem, p, "x", 1, "train") for p in sorted(Path(sys.argv[1]).glob("*.mp4"))]
    engine = EngineOptions(device="cpu", batch_size=8, jobs=jobs)
    options = EncodeOptions("random:timm/test_resnet", n_slots=4, size=32, chunk_bytes=8192, engine=engine)
    return encode(rows, out, options, quiet=True).n_resumed

def tell(*words):
    os.write(int(sys.argv[2]), (" ".join(map(str, words)) + "\\n").encode())

if __name__ == "__main__":
    tell("ready")
    for line in sys.stdin:
        jobs, out = line.rstrip("\\n").split(" ", 1)
        child = os.fork()
        if child == 0:
            try:
                tell("resumed", run(Path(out), int(jobs)))
            finally:
                os._exit(0)
        tell("child", child)
        os.waitpid(child, 0)
        tell("ended")
"""
"""Imports everything once and forks for each encode: a run then takes a second, not the start of torch.

It answers through a pipe of its own, a whole line at a time: what shares its stdout cannot come between.
"""


@dataclass
class Encoder:
    """A process that encodes the same videos into one store after the other."""

    process: "subprocess.Popen[str]"
    answers: TextIO

    def begin(self, out: Path, jobs: int) -> int:
        """Start to encode; return the id of the process that does."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{jobs} {out}\n")
        self.process.stdin.flush()
        return int(self.answer("child"))

    def end(self) -> int | None:
        """Wait; return how many videos the run found done, None if it was killed."""
        word, *rest = self.line()
        if word == "ended":
            return None
        self.answer("ended")
        return int(rest[0])

    def answer(self, word: str) -> str:
        found, *rest = self.line()
        assert found == word
        return "".join(rest)

    def line(self) -> list[str]:
        text = self.answers.readline()
        assert text, f"the encoder itself ended with {self.process.wait()}"
        return text.split()


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Encoder]:
    folder = tmp_path_factory.mktemp("videos")
    for index in range(N_VIDEOS):
        write_clip(folder / f"{index:02}.mp4", n_frames=8 + index)
    ours, theirs = os.pipe()
    command = [sys.executable, "-c", ENCODER, str(folder), str(theirs)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}  # no threads before the fork
    with (
        open(ours) as answers,
        subprocess.Popen(command, stdin=subprocess.PIPE, text=True, env=environment, pass_fds=[theirs]) as process,
    ):
        os.close(theirs)
        one = Encoder(process, answers)
        one.answer("ready")
        yield one
        process.kill()


def finished(store: Path) -> dict[Path, tuple[int, int]]:
    """The chunk files that no later run may touch, and which files they are on the disk."""
    try:
        opened = open_store(store, allow_unsealed=True)
    except (FileNotFoundError, ValueError):
        return {}
    done = set(range(N_VIDEOS)) - set(opened.missing_rows().tolist())
    chunks = {row // opened.layout.chunk_rows for row in done}
    files = [
        opened.files.locate(opened.files.format.chunk_file(spec, chunk))
        for spec in opened.layout.arrays().values()
        for chunk in chunks
    ]
    return {file: (file.stat().st_ino, file.stat().st_mtime_ns) for file in files}


def wait_for_chunks(store: Path, n_chunks: int, encoder: int) -> None:
    """Wait until a store has so many finished chunks. Raises ProcessLookupError when its encoder has ended."""
    while len(stored_rows(StoreFiles.at(store))) < n_chunks:
        os.kill(encoder, 0)
        time.sleep(0.001)


def kill_and_run_again(encoder: Encoder, folder: Path, form: str, n_kills: int) -> None:
    whole = folder / "whole" / f"s.{form}"
    start = time.monotonic()
    encoder.begin(whole, 1)
    assert encoder.end() == 0
    duration = time.monotonic() - start
    expected, draw = files_of(whole), random.Random(form)
    n_killed = n_halfway = 0
    for turn in range(n_kills):
        out = folder / str(turn) / f"s.{form}"
        child = encoder.begin(out, jobs=1)
        with contextlib.suppress(ProcessLookupError):  # it was quick this time
            if turn % 2:
                wait_for_chunks(out, draw.randint(1, N_VIDEOS - 1), child)
                time.sleep(draw.uniform(0, 2 * duration / N_VIDEOS))
            else:
                time.sleep(draw.uniform(0, duration))
            os.kill(child, signal.SIGKILL)
        n_killed += encoder.end() is None
        before = finished(out)
        n_halfway += bool(before)
        encoder.begin(out, jobs=0)
        n_resumed = encoder.end()
        assert n_resumed is not None
        assert bool(n_resumed) == bool(before), "what was finished counts as done, what was in hand does not"
        assert files_of(out) == expected, f"kill {turn}"
        assert {file: (file.stat().st_ino, file.stat().st_mtime_ns) for file in before} == before
        assert verify(out).problems == []
    assert n_killed > n_kills // 4, "the kills came too late to show anything"
    assert n_kills < 20 or n_halfway > n_kills // 10, "no kill left a part of a store"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("form", ["zarr", "h5"])
class TestKillAtRandom:
    def test_three_times(self, encoder: Encoder, tmp_path: Path, form: str) -> None:
        kill_and_run_again(encoder, tmp_path, form, 3)

    @pytest.mark.slow
    def test_fifty_times(self, encoder: Encoder, tmp_path: Path, form: str) -> None:
        kill_and_run_again(encoder, tmp_path, form, 50)
