"""kill -9 at any moment, then the same command: the same bytes. Full disks, read-only caches, several at once."""

import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import pytest

import fsar
from fsar.pipeline.share import parse_address, pull
from fsar.pipeline.share.cache import cache_folder
from fsar.pipeline.share.kinds import kind_of
from tests.pipeline.share.conftest import shared_sample
from tests.pipeline.share.servers import Fault, FolderServer, Handler
from tests.pipeline.share.test_pull import home, same_bytes
from tests.pipeline.store.samples import expected

PULL = """
import sys, pathlib
from fsar.pipeline.share import parse_address, pull
print("ready", flush=True)
sys.stdin.readline()
pull(parse_address(sys.argv[1]), pathlib.Path(sys.argv[2]))
"""
PUSH = """
import sys, pathlib
from fsar.pipeline.share import parse_address, push
print("ready", flush=True)
sys.stdin.readline()
push(pathlib.Path(sys.argv[2]), parse_address(sys.argv[1]))
"""
MOMENTS = [2, pytest.param(20, marks=pytest.mark.slow)]


def started(script: str, *arguments: object) -> subprocess.Popen[str]:
    """Start a process that waits for `go` with everything imported."""
    command = [sys.executable, "-c", script, *map(str, arguments)]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def go(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def ended(process: subprocess.Popen[str]) -> int:
    process.communicate(timeout=60)
    return process.returncode


def killer(process: subprocess.Popen[str], n_requests: int) -> Fault:
    """Return what kills a process at its n-th request."""
    counted, lock = iter(range(1, 1 << 30)), threading.Lock()

    def count(handler: Handler, path: str) -> bool:
        with lock:
            if next(counted) == n_requests:
                process.send_signal(signal.SIGKILL)
        return False

    return count


@pytest.mark.parametrize("n_moments", MOMENTS)
def test_a_killed_pull_is_gone_on_with(server: FolderServer, store: Path, tmp_path: Path, n_moments: int) -> None:
    kind = kind_of(store.name)
    whole = tmp_path / "whole" / store.name
    pull(parse_address(f"{server.url}/{store.name}"), whole)
    n_requests = len(server.requests)
    generator, killed = random.Random(n_moments), 0
    for moment in range(n_moments):
        out, address = tmp_path / str(moment) / store.name, f"{server.url}/{store.name}"
        process = started(PULL, address, out)
        server.fault = killer(process, generator.randrange(1, n_requests))
        go(process)
        killed += ended(process) == -signal.SIGKILL
        server.fault = None
        assert not (home(out) / "manifest.json").exists() or kind.verify(kind.files(out), None).problems == []
        pull(parse_address(address), out)
        assert same_bytes(store, out)
        assert kind.verify(kind.files(out), None).problems == []
        left_over = [path for path in (tmp_path / str(moment)).rglob(".*") if path.is_file()]
        assert left_over == []
    assert killed > 0


@pytest.mark.parametrize("n_moments", MOMENTS)
def test_a_killed_push_is_gone_on_with(store: Path, tmp_path: Path, n_moments: int) -> None:
    generator, killed = random.Random(n_moments), 0
    n_files = len([path for path in home(store).rglob("*") if path.is_file()])
    for moment in range(n_moments):
        shelf = tmp_path / f"shelf-{moment}"
        process = started(PUSH, shelf.as_uri(), store)
        until = generator.randrange(0, n_files)
        go(process)
        while process.poll() is None and sum(path.is_file() for path in shelf.rglob("*")) < until:
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
        killed += ended(process) == -signal.SIGKILL
        again = started(PUSH, shelf.as_uri(), store)
        go(again)
        assert ended(again) == 0
        assert list(shelf.rglob(".*")) == []
        out = tmp_path / f"out-{moment}" / store.name
        pull(parse_address(f"{shelf.as_uri()}/{store.name}"), out)
        assert same_bytes(store, out)
        kind = kind_of(store.name)
        assert kind.verify(kind.files(out), None).problems == []
    assert killed > 0


@pytest.mark.parametrize("silent", ["manifest.json", "c.0.0"])
def test_an_interruption_does_not_wait_for_a_silent_server(
    server: FolderServer, shelf: Path, tmp_path: Path, silent: str
) -> None:
    store = shared_sample(shelf / "sample.zarr")
    asked, over = threading.Event(), threading.Event()

    def say_nothing(handler: Handler, path: str) -> bool:
        if silent not in path:
            return False
        asked.set()
        over.wait()
        return True

    server.fault = say_nothing
    process = started(PULL, f"{server.url}/{store.name}", tmp_path / "out.zarr")
    go(process)
    assert asked.wait(60)
    process.send_signal(signal.SIGINT)
    try:
        text, _ = process.communicate(timeout=20)  # a request has 30 seconds, and is made six times
        assert "KeyboardInterrupt" in text
    finally:
        over.set()
        process.kill()
        process.wait()


def test_two_pulls_at_once_are_one(server: FolderServer, store: Path, tmp_path: Path) -> None:
    out = tmp_path / "out" / store.name
    processes = [started(PULL, f"{server.url}/{store.name}", out) for _ in range(2)]
    server.requests.clear()
    for process in processes:
        go(process)
    assert [ended(process) for process in processes] == [0, 0]
    assert same_bytes(store, out)
    numbers = [path for path in server.paths if "chunks/" in path or "/c." in path]
    assert len(numbers) == len(set(numbers))


def test_two_openers_fetch_a_chunk_once(server: FolderServer, store: Path) -> None:
    address = f"{server.url}/{store.name}"
    stores = [fsar.open_store(address) for _ in range(4)]
    threads = [threading.Thread(target=store.read, args=("map", [0, 4, 8])) for store in stores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    numbers = [path for path in server.paths if "chunks/" in path or "map/c." in path]
    assert len(numbers) == len(set(numbers)) == 3


def test_a_file_that_may_not_grow(server: FolderServer, shelf: Path, tmp_path: Path) -> None:
    """RLIMIT_FSIZE stands for a disk that fills up half-way."""
    store = shared_sample(shelf / "sample.zarr")
    out = tmp_path / "out" / "sample.zarr"
    process = started(LIMITED, f"{server.url}/sample.zarr", out)
    go(process)
    text, _ = process.communicate(timeout=60)
    assert process.returncode == 7
    assert "make room and run the same command again" in text
    assert not (out / "manifest.json").exists()
    pull(parse_address(f"{server.url}/sample.zarr"), out)
    assert same_bytes(store, out)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small disk")
def test_a_small_disk(server: FolderServer, shelf: Path, tmp_path: Path) -> None:
    shared_sample(shelf / "sample.zarr")
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24k", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("this machine mounts nothing")
    try:
        with pytest.raises(OSError, match="make room"):
            pull(parse_address(f"{server.url}/sample.zarr"), disk / "sample.zarr")
        assert not (disk / "sample.zarr" / "manifest.json").exists()
    finally:
        subprocess.run(["umount", disk], check=True)


LIMITED = """
import pathlib, resource, sys
from fsar.pipeline.share import parse_address, pull
from fsar.pipeline.share.upstream import open_upstream
print("ready", flush=True)
sys.stdin.readline()
address = parse_address(sys.argv[1])
upstream = open_upstream(address)
resource.setrlimit(resource.RLIMIT_FSIZE, (600, 600))
try:
    pull(address, pathlib.Path(sys.argv[2]), upstream=upstream)
except OSError as error:
    print(error)
    sys.exit(7)
"""
READ_ONLY = """
import mmap, os, sys  # numpy imports the first when it maps a file
from fsar.pipeline.share import open_store, parse_address
from fsar.pipeline.share.upstream import open_upstream
open_upstream(parse_address(sys.argv[1]))  # imports all there is while this process may read it
if os.geteuid() == 0:
    os.setgroups([]); os.setgid(65534); os.setuid(65534)
print("ready", flush=True)
sys.stdin.readline()
try:
    store = open_store(sys.argv[1])
    print(store.read("pooled", [0]).sum(), flush=True)
    store.read("map", [9])
except OSError as error:
    print(error)
    sys.exit(7)
"""


def test_a_read_only_cache_serves_what_it_has(
    server: FolderServer, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tempfile.TemporaryDirectory(prefix="fsar-cache-") as folder:  # pytest's own are closed to other users
        Path(folder).chmod(0o755)
        monkeypatch.setenv("FSAR_CACHE", f"{folder}/cache")
        monkeypatch.setenv("NETRC", f"{folder}/none")
        opened = fsar.open_store(f"{server.url}/{store.name}")
        opened.read("pooled", [0])
        paths = [cache_folder(), *cache_folder().rglob("*")]
        for path in paths:
            path.chmod(0o555 if path.is_dir() else 0o444)
        process = started(READ_ONLY, opened.address)
        go(process)
        text, _ = process.communicate(timeout=60)
        for path in paths:
            path.chmod(0o755 if path.is_dir() else 0o644)
    assert process.returncode == 7, text
    number, error = text.splitlines()
    assert float(number) == pytest.approx(
        float(np.asarray(expected("pooled")[0, 0]).astype(np.float16).sum()), rel=1e-2
    )
    assert "the cache cannot be written" in error
    assert "FSAR_CACHE" in error
