"""Hosts that fill one store: killed, frozen, with wrong clocks, on a disk that shows things late. The same bytes."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from fsar.pipeline.store import open_store
from fsar.pipeline.store.verify import verify
from tests.cluster.host import N_VIDEOS, fill

ROOT = Path(__file__).resolve().parents[2]
NAMESPACES = ["unshare", "--uts", "--pid", "--fork", "--kill-child", "--mount-proc"]
PATIENCE_SECONDS = 120


@pytest.fixture(scope="module", autouse=True)
def namespaces() -> None:
    if shutil.which("unshare") is None or subprocess.run([*NAMESPACES, "true"], capture_output=True).returncode:
        pytest.skip("unshare cannot make namespaces here, of which hosts are made")


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What one process makes."""
    folder = tmp_path_factory.mktemp("alone")
    fill(folder / "s.zarr", 0.0)
    return tree(folder)


def tree(folder: Path) -> dict[str, bytes]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def start(number: int, store: Path, scenario: list[str]) -> "subprocess.Popen[bytes]":
    """Start a host: a machine's name and process ids of its own."""
    program = [sys.executable, "-m", "tests.cluster.host", str(store), str(number), *scenario]
    command = [*NAMESPACES, "sh", "-c", f'hostname node{number} && exec "$@"', "host", *program]
    return subprocess.Popen(command, cwd=ROOT, start_new_session=True, stderr=subprocess.PIPE)


def wait_for(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"never came: {what}"
        time.sleep(0.02)


def claims_of(store: Path, number: int) -> list[Path]:
    """Return the claims of a host."""
    found = []
    for path in store.glob("claims/[0-9]*"):
        try:
            if json.loads(path.read_text())["host"].startswith(f"node{number}/"):
                found.append(path)
        except FileNotFoundError:
            continue
    return found


def stop_with_a_claim(host: "subprocess.Popen[bytes]", store: Path, number: int) -> list[Path]:
    """Freeze a host that has a chunk in hand; return its claims."""
    while True:
        wait_for(lambda: claims_of(store, number) or host.poll() is not None, f"a claim of host {number}")
        assert host.poll() is None, "it was through before it could be stopped"
        os.killpg(host.pid, signal.SIGSTOP)
        if held := claims_of(store, number):
            return held
        os.killpg(host.pid, signal.SIGCONT)


SLOW = pytest.mark.slow
SCENARIOS = [
    pytest.param(["clocks", "disk"], id="clocks-disk"),
    *(pytest.param(scenario, marks=SLOW, id="-".join(scenario) or "plain") for scenario in ([], ["clocks"], ["disk"])),
]


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_four_hosts_of_which_one_is_killed_and_one_freezes(
    scenario: list[str], alone: dict[str, bytes], tmp_path: Path
) -> None:
    store = tmp_path / "s.zarr"
    hosts = [start(number, store, scenario) for number in range(4)]
    killed, frozen, *others = hosts
    try:
        stop_with_a_claim(killed, store, 0)
        os.killpg(killed.pid, signal.SIGKILL)  # and with process 1 of its namespace the whole host
        held = stop_with_a_claim(frozen, store, 1)
        for host in others:
            assert host.wait(PATIENCE_SECONDS) == 0, host.communicate()[1].decode()
        assert tree_without_lingering(tmp_path) == alone
        assert not any(path.exists() for path in held)
        (tmp_path / "late").touch()  # from now on its numbers would be wrong ones
        os.killpg(frozen.pid, signal.SIGCONT)  # it wakes up with a chunk that others have done, in a sealed store
        assert frozen.wait(PATIENCE_SECONDS) == 0, frozen.communicate()[1].decode()
    finally:
        for host in hosts:
            if host.poll() is None:
                os.killpg(host.pid, signal.SIGKILL)
            host.communicate()
    (tmp_path / "late").unlink()
    assert tree(tmp_path) == alone
    assert open_store(store).n_videos == N_VIDEOS
    assert verify(store).problems == []


def tree_without_lingering(folder: Path) -> dict[str, bytes]:
    """Return every file but those of one who has not ended: staged files of the frozen host, odd names of a disk."""
    return {name: data for name, data in tree(folder).items() if "/staging/" not in name and "/.nfs" not in name}
