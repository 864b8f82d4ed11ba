"""Worker processes that are forked: they serve, die and are replaced as others do, and nothing outlives their parent.

Each test runs a program of its own, because only a process without threads forks.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.videos import write_clip

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux forks")

POOL = """
import json, os, signal, sys, time
from pathlib import Path
from fsar.pipeline.encode.clip_task import ClipTask, DecodedClip
from fsar.pipeline.encode.workers import DecodePool
from fsar.pipeline.jobs import pool as pool_module
from fsar.pipeline.jobs.fork_server import ForkedProcess, fork_server, forking
from tests.pipeline.encode_helpers import fake_decode

signal.signal(signal.SIGINT, signal.default_int_handler)  # whatever was inherited
signal.signal(signal.SIGTERM, signal.SIG_DFL)
signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, signal.SIGTERM})

def task(name):
    return ClipTask(name, str(Path(sys.argv[1]) / name), "uniform-center", 4, 1, 0)

def prepare():
    print("prepared once", flush=True)

def say(**found):
    print(json.dumps(found), flush=True)

with forking(prepare):
"""

SERVES = """
    pool_module.RECYCLE_AFTER = 2
    names = ["a", "crash", "once", "hang", "bug", "b", "c", "d"]
    pool = DecodePool(1, decode=fake_decode, timeout_seconds=2.0)
    first = None
    for key, name in enumerate(names):
        pool.submit(key, task(name))
    found = {}
    for key, name in enumerate(names):
        clip = pool.take(key)
        found[name] = clip.frames.shape[0] if isinstance(clip, DecodedClip) else [clip.reason, clip.message]
        first = first or pool.pool._workers[0].process
    last = pool.pool._workers[0].process
    pool.close()
    server = fork_server()
    say(found=found, forked=isinstance(last, ForkedProcess), replaced=first.pid != last.pid, code=last.exitcode)
say(server_is_gone=not Path(f"/proc/{server._pid}").exists(), left=fork_server() is None)
"""

WAITS = """
    pool = DecodePool(1, decode=fake_decode)
    pool.submit(0, task("a"))
    pool.take(0)
    pool.submit(1, task("hang"))
    say(pids=[fork_server()._pid, pool.pool._workers[0].process.pid])
    pool.take(1)
"""


def begin(code: str, *arguments: object, prepare: str = "") -> "subprocess.Popen[str]":
    pool = POOL.replace("def prepare():", f"def prepare():{prepare}")
    line = [sys.executable, "-c", pool + code, *map(str, arguments)]
    return subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_forked_processes_serve_die_and_are_replaced(tmp_path):
    out, errors = begin(SERVES, tmp_path).communicate(timeout=60)
    prepared, pool, end = out.splitlines()
    assert prepared == "prepared once", errors
    said = json.loads(pool)
    found = said["found"]
    assert [found[name] for name in ("a", "once", "b", "c", "d")] == [4] * 5
    assert found["crash"][0] == "crashed"
    assert "died by SIGSEGV" in found["crash"][1]
    assert found["hang"][0] == "timeout"
    assert found["bug"][0] == "error"
    assert said["forked"]
    assert said["replaced"]
    assert said["code"] == -signal.SIGKILL
    assert json.loads(end) == {"server_is_gone": True, "left": True}


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_nothing_outlives_the_program(tmp_path, number):
    program = begin(WAITS, tmp_path)
    assert program.stdout is not None
    program.stdout.readline()
    pids = json.loads(program.stdout.readline())["pids"]
    program.send_signal(number)
    program.communicate(timeout=60)  # ends only when nobody holds its stdout any more
    assert program.returncode in (-number, 1)
    wait_until_gone(pids)


def test_a_killed_server_is_an_error_and_not_a_wait(tmp_path):
    program = begin(WAITS, tmp_path)
    assert program.stdout is not None
    program.stdout.readline()
    pids = json.loads(program.stdout.readline())["pids"]
    os.kill(pids[0], signal.SIGKILL)
    _, errors = program.communicate(timeout=60)
    assert program.returncode == 1
    assert "ChildProcessError: the process that starts worker processes was killed: run again" in errors
    wait_until_gone(pids)


DIES_ASKING = """
    from multiprocessing import Pipe
    from fsar.pipeline.jobs.exchange import Exchange
    server = fork_server()
    os.kill(server._pid, signal.SIGSTOP)
    os.waitpid(server._pid, os.WUNTRACED)
    say(pid=server._pid)
    server._answer = lambda: os.kill(os.getpid(), signal.SIGKILL)
    server.start(Pipe()[0], Exchange.create(), print, "mark")
"""


def test_a_kill_while_processes_are_forked_shows_nothing(tmp_path):
    program = begin(DIES_ASKING, tmp_path)
    assert program.stdout is not None
    pid = next(json.loads(line)["pid"] for line in program.stdout if line.startswith("{"))
    program.wait(timeout=60)
    os.kill(pid, signal.SIGCONT)
    assert program.communicate(timeout=60)[1] == ""


def test_a_process_too_many_is_said_as_the_system_says_it(tmp_path):
    refuse = """
    from multiprocessing import popen_fork
    def none_left(process):
        raise BlockingIOError(11, "Resource temporarily unavailable")
    popen_fork.Popen = none_left
"""
    program = begin(WAITS, tmp_path, prepare=refuse)
    errors = program.communicate(timeout=60)[1]
    assert program.returncode == 1
    assert errors.rstrip().endswith("BlockingIOError: [Errno 11] Resource temporarily unavailable")


def wait_until_gone(pids: list[int]) -> None:
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids))


def wait_until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


ENCODE = """
import sys
from pathlib import Path
from fsar.pipeline.encode.workers import forked_decoders
from tests.pipeline.encode_helpers import files_of

with forked_decoders():
    from fsar.pipeline.catalog.catalog import CatalogRow
    from fsar.pipeline.encode import cut_clip
    from fsar.pipeline.encode.encode import EncodeOptions, encode, plan
    from fsar.pipeline.encode.engine import EngineOptions
    from fsar.pipeline.packs.catalog import read_videos

    def run(rows, out, jobs, **options):
        engine = EngineOptions(device="cpu", batch_size=8, jobs=jobs)
        chosen = EncodeOptions("random:timm/test_resnet", n_slots=4, size=32, engine=engine, **options)
        assert cut_clip.may_cut(plan(rows, chosen).recipe) == (options.get("arithmetic") != "float32")
        return encode(rows, out, chosen, quiet=True)

    folder = Path(sys.argv[1])
    rows = [CatalogRow(p.stem, p, "x", 1, "train") for p in sorted(folder.glob("*.mp4"))]
    rows[0] = CatalogRow(rows[0].video_id, rows[0].path, "x", 1, "test")
    views = {"n_views": 3, "flip": True, "jitter": True, "sampler": "uniform-random"}
    cases = {"plain": (rows, {}), "views": (rows, views), "pack": (read_videos(folder / "p.frames").rows, {})}
    cases["floats"] = rows, {"arithmetic": "float32"}
    for name, (videos, options) in cases.items():
        stores = [folder / f"{name}-{jobs}" / "x.zarr" for jobs in (0, 2)]
        reports = [run(videos, store, jobs, **options) for store, jobs in zip(stores, (0, 2))]
        inline, forked = map(files_of, stores)
        same = {file.split("/", 1)[1]: data for file, data in inline.items()} == {
            file.split("/", 1)[1]: data for file, data in forked.items()}
        print(name, same, *(len(report.failures) for report in reports), reports[1].run.decode_cpu_seconds > 0)
"""


def test_what_forked_processes_cut_out_gives_the_same_store_bit_by_bit(tmp_path):
    from click.testing import CliRunner

    from fsar.cli.prep import prep
    from fsar.pipeline.catalog.catalog import Catalog, CatalogRow, write_catalog

    sizes = [(96, 64), (96, 64), (70, 100), (34, 48), (320, 240)]
    paths = [write_clip(tmp_path / f"{n}.mp4", n_frames=3 + 5 * n, size=size) for n, size in enumerate(sizes)]
    rows = [CatalogRow(path.stem, path, "x", path.stat().st_size, "train") for path in paths]
    write_catalog(Catalog(tuple(rows), "x"), tmp_path / "catalog.csv")
    line = ["extract", tmp_path / "catalog.csv", "--layout", "packed", "--frames", 4, "--out", tmp_path / "p.frames"]
    assert CliRunner().invoke(prep, [*map(str, line), "--quiet"], standalone_mode=False).exit_code == 0
    (tmp_path / "bad.mp4").write_bytes(paths[0].read_bytes()[:700])
    done = subprocess.run(
        [sys.executable, "-c", ENCODE, str(tmp_path)], capture_output=True, text=True, timeout=240, check=False
    )
    assert done.stdout.splitlines() == [
        "plain True 1 1 True",
        "views True 1 1 True",
        "pack True 0 0 True",
        "floats True 1 1 True",
    ], done.stderr
