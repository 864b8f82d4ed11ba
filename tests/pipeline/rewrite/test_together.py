"""Several processes rewrite one catalog into one folder, some are killed: the same bytes as one alone."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from fsar.pipeline.catalog.catalog import Catalog, CatalogRow
from fsar.pipeline.rewrite.convert import convert
from fsar.pipeline.rewrite.extract import ExtractSettings, extract
from fsar.pipeline.video.transcode import ConvertSettings
from tests.cli.video_commands import command_line, environment, processes_of, wait_for
from tests.videos import write_clip

N_VIDEOS = 14
STAGES = {
    "convert": lambda videos, out: convert(videos, out, ConvertSettings(preset="ultrafast"), quiet=True),
    "extract": lambda videos, out: extract(videos, out, ExtractSettings(frames=3), quiet=True),
}
REWRITER = """
import os, sys, traceback
from pathlib import Path
from fsar.pipeline.catalog.catalog import read_catalog
from fsar.pipeline.rewrite import stage as stage_module
from tests.pipeline.rewrite.test_together import STAGES
import av, PIL.Image, fsar.pipeline.video.decode, fsar.pipeline.video.transcode

stage_module.POLL_SECONDS = 0.05
print("ready", flush=True)
for line in iter(sys.stdin.readline, ""):
    n, stage, catalog, out = line.strip().split("|")
    children = []
    for _ in range(int(n)):
        child = os.fork()
        if child == 0:
            code = 3
            try:
                code = len(STAGES[stage](read_catalog(catalog), Path(out)).failures)
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)
        children.append(child)
    print(*children, flush=True)
    sys.stdin.readline()  # until then their process ids are theirs
    print(*[os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children], flush=True)
"""
"""Imports everything once and forks for each process, which then takes a fraction of a second."""


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Return a catalog of which two videos cannot be read, and its file."""
    from fsar.pipeline.catalog.catalog import write_catalog

    folder = tmp_path_factory.mktemp("videos")
    rows = []
    for index in range(N_VIDEOS):
        path = folder / f"{index}.webm"
        path.write_bytes(b"no video") if index in (3, 9) else write_clip(path, n_frames=5)
        rows.append(CatalogRow(str(index), path, f"class {index % 2}", path.stat().st_size, "train"))
    write_catalog(Catalog(tuple(rows), "catalog"), folder / "catalog.csv")
    return Catalog(tuple(rows), "catalog"), folder / "catalog.csv"


@pytest.fixture(scope="module", params=STAGES)
def expected(request, videos, tmp_path_factory):
    """Return a stage and what one process makes of the videos."""
    out = tmp_path_factory.mktemp("expected") / "out"
    STAGES[request.param](videos[0], out)
    return request.param, tree(out)


@pytest.fixture(scope="module")
def rewriter():
    """Yield a process that runs stages when asked to."""
    with subprocess.Popen(
        [sys.executable, "-c", REWRITER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment()
    ) as process:
        assert process.stdout.readline() == "ready\n"
        yield process
        process.stdin.close()
        process.wait(timeout=60)


def begin(rewriter, n_processes, stage, catalog, out):
    rewriter.stdin.write(f"{n_processes}|{stage}|{catalog}|{out}\n")
    rewriter.stdin.flush()
    return numbers(rewriter)


def end(rewriter):
    """Wait for all and return their exit codes."""
    rewriter.stdin.write("end\n")
    rewriter.stdin.flush()
    return numbers(rewriter)


def numbers(rewriter):
    return [int(word) for word in rewriter.stdout.readline().split()]


def tree(out: Path) -> dict[str, bytes]:
    """Every file below a folder, and every folder, without what the folder's own name decides."""
    return {str(path.relative_to(out)): path.read_bytes() if path.is_file() else b"" for path in sorted(out.rglob("*"))}


def without_lock(found: dict[str, bytes]) -> dict[str, bytes]:
    """Leave out what one leaves who is killed at the very end, with nobody after it to clear that away."""
    return {name: data for name, data in found.items() if Path(name).parts[:2] not in LOCKS and name not in WORK}


WORK = tuple(f"{stage}.work" for stage in STAGES)
LOCKS = tuple((work, "lock") for work in WORK)


@pytest.mark.parametrize("n_processes", [1, 2, 4])
def test_any_number_of_processes_gives_the_same_folder(rewriter, videos, expected, tmp_path, n_processes):
    stage, whole = expected
    begin(rewriter, n_processes, stage, videos[1], tmp_path / "out")
    assert end(rewriter) == [2] * n_processes  # all know of both failures
    assert tree(tmp_path / "out") == whole
    assert {"catalog.csv", "failures.csv", f"{stage}.jsonl"} <= whole.keys()


def kill(process: int) -> None:
    """Kill a process unless it has ended: it was quick this time."""
    with suppress(ProcessLookupError):
        os.kill(process, signal.SIGKILL)


@pytest.mark.parametrize("seed", range(4))
def test_one_is_killed_and_the_others_finish(rewriter, videos, expected, tmp_path, seed):
    stage, whole = expected
    victim, *_ = begin(rewriter, 3, stage, videos[1], tmp_path / "out")
    time.sleep(random.Random(seed).uniform(0.0, 0.3))
    kill(victim)
    codes = end(rewriter)
    assert codes[0] in (-signal.SIGKILL, 2)
    assert codes[1:] == [2, 2]
    assert without_lock(tree(tmp_path / "out")) == whole


def test_all_are_killed_time_and_again_and_nothing_is_lost(rewriter, videos, expected, tmp_path):
    (stage, whole), out, rng = expected, tmp_path / "out", random.Random(0)
    n_done = 0
    for _ in range(6):
        children = begin(rewriter, 2, stage, videos[1], out)
        time.sleep(rng.uniform(0.05, 0.25))
        for child in children:
            kill(child)
        end(rewriter)
        n_now = len(recorded(stage, out))
        assert n_now >= n_done
        n_done = n_now
    begin(rewriter, 2, stage, videos[1], out)
    assert end(rewriter) == [2, 2]
    assert tree(out) == whole


def recorded(stage: str, out: Path) -> set[str]:
    from fsar.pipeline.rewrite.folder import OutputFolder

    return set(OutputFolder(out, stage, {}).records)


def test_a_terminated_command_gives_its_claims_back(tmp_path):
    """As SLURM ends jobs: SIGTERM to a command with worker processes."""
    from tests.cli.video_commands import make_catalog

    catalog, out = make_catalog(tmp_path, n_videos=12, n_frames=200), tmp_path / "out"
    arguments = ("convert", catalog, "--out", out, "--jobs", 2, "--preset", "veryslow")
    process = subprocess.Popen(
        command_line(*arguments), stderr=subprocess.DEVNULL, env=environment(), start_new_session=True
    )
    wait_for(lambda: list(out.glob("videos/[0-9]*.mp4")) or process.poll() is not None)
    assert list(out.glob("convert.work/*/claims/*")) or process.poll() is not None
    os.killpg(process.pid, signal.SIGTERM)
    assert process.wait(timeout=60) in (143, 0)
    wait_for(lambda: not processes_of(process.pid))
    assert not [path for path in out.glob("convert.work/*/*/*") if path.name.isdigit()]
    assert not list(out.rglob(".*.tmp-*"))


HOST = """
import sys
from pathlib import Path
from fsar.pipeline.catalog.catalog import read_catalog
from fsar.pipeline.rewrite import stage as stage_module
from fsar.pipeline.store.journal import claims, owner
from tests.pipeline.rewrite.test_together import STAGES

stage, catalog, out = sys.argv[1:]
owner.STALE_SECONDS, claims.HEARTBEAT_SECONDS, stage_module.POLL_SECONDS = 6.0, 0.5, 0.1
sys.exit(len(STAGES[stage](read_catalog(catalog), Path(out)).failures))
"""


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_hosts_share_a_folder_and_one_of_them_dies(videos, expected, tmp_path, seed):
    """Hosts by namespaces: another name, process ids that mean nothing elsewhere, so that heartbeats alone tell."""
    stage, whole = expected
    hosts = [start_host(number, stage, videos[1], tmp_path / "out") for number in range(3)]
    wait_for(lambda: list((tmp_path / "out").glob("*.work/*/workers/*")) or hosts[0].poll() is not None)
    time.sleep(random.Random(seed).uniform(0.0, 0.5))
    os.killpg(hosts[0].pid, signal.SIGKILL)  # and with process 1 of its namespace the whole host
    assert hosts[0].wait(timeout=60) in (-signal.SIGKILL, 2)
    assert [host.wait(timeout=120) for host in hosts[1:]] == [2, 2]
    assert {name: data for name, data in tree(tmp_path / "out").items() if ".work" not in name} == whole


def start_host(number: int, stage: str, catalog: Path, out: Path) -> "subprocess.Popen[bytes]":
    prefix = ["unshare", "--uts", "--pid", "--fork", "--kill-child", "--mount-proc"]
    if shutil.which("unshare") is None or subprocess.run([*prefix, "true"], capture_output=True).returncode:
        pytest.skip("unshare cannot make namespaces here")
    program = [sys.executable, "-c", HOST, stage, str(catalog), str(out)]
    command = [*prefix, "sh", "-c", f'hostname node{number} && exec "$@"', "host", *program]
    return subprocess.Popen(command, env=environment(), start_new_session=True)


def test_a_worker_of_another_host_is_freed_by_who_knows_that_it_ended(tmp_path, monkeypatch):
    """Its batches are free at once, and whoever ends the session knows that it may have left unfinished outputs."""
    from fsar.pipeline.rewrite.session import Session, free_worker
    from fsar.pipeline.store.journal import owner

    rows = [CatalogRow(str(index), tmp_path / f"{index}.mp4", "class", 1, "train") for index in range(3)]
    dead, living = (Session(tmp_path / "session", rows) for _ in range(2))
    monkeypatch.setattr(owner, "host_id", lambda: "elsewhere")
    monkeypatch.setenv("FSAR_WORKER", "convert-1")
    dead.begin()
    dead.enter()
    batch = dead.claim()
    monkeypatch.undo()
    with living:
        living.enter()
        assert batch.index not in {living.claim().index for _ in range(2)}
        assert not living.somebody_died()
        free_worker(tmp_path / "session", "convert-2")
        assert living.claim() is None
        free_worker(tmp_path / "session", "convert-1")
        assert living.claim().index == batch.index
        assert living.somebody_died()
    dead._claims.close()
