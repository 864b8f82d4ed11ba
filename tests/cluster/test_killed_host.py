"""A launcher whose workers are hosts of their own: what a killed one held is free before its heart would be missed."""

import os
import signal
import subprocess
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from fsar.cluster import engines
from fsar.cluster import launch as launching
from fsar.cluster.engine import Task
from fsar.cluster.local import LocalEngine
from fsar.pipeline.store.journal.owner import STALE_SECONDS
from tests.cluster.test_encode_together import N_VIDEOS, alone, catalog, encode, without_logs
from tests.cluster.test_hosts import NAMESPACES, namespaces, stop_with_a_claim

__all__ = ["alone", "catalog", "namespaces"]


class HostTask(Task):
    """A worker on a host of its own: nobody else can tell whether its process lives.

    All but the first begin when the first has been stopped, else they might do its work before it has started.
    """

    def argv(self, index: str | None = None, *, tied: bool = False) -> list[str]:
        turn = f'[ {self.index} = 0 ] || until [ -e "$FIRST_HAS_STOPPED" ]; do sleep 0.1; done'
        begin = f'hostname node{self.index} && {{ {turn}; }} && exec "$@"'
        return [*NAMESPACES, "sh", "-c", begin, "host", *super().argv(index, tied=tied)]


class Hosts(LocalEngine):
    """Starts each worker on a host of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.first: subprocess.Popen[bytes] | None = None

    def start(self, tasks: Sequence[Task]) -> list[str]:
        handles = super().start([HostTask(**vars(task)) for task in tasks])
        self.first = self.first or self._children[handles[0]]
        return handles


@pytest.mark.parametrize(
    ("lives", "workers"),
    [pytest.param(1, 2, id="others-do-it"), pytest.param(4, 1, id="its-next-life", marks=pytest.mark.slow)],
)
def test_what_a_killed_host_held_is_free_at_once(
    lives: int, workers: int, catalog: Path, alone: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hosts, out, stopped, killed = Hosts(), tmp_path / "s.zarr", tmp_path / "stopped", []
    monkeypatch.setenv("FIRST_HAS_STOPPED", str(stopped))
    monkeypatch.setattr(engines, "open_engine", lambda *choice: hosts)
    monkeypatch.setattr(launching, "POLL_SECONDS", 0.2)
    monkeypatch.setattr(launching, "MAX_LIVES", lives)

    def kill() -> None:
        while hosts.first is None:
            time.sleep(0.01)
        try:
            stop_with_a_claim(hosts.first, out, 0)
        finally:
            stopped.touch()
        os.killpg(hosts.first.pid, signal.SIGKILL)
        killed.append(time.monotonic())

    thread = threading.Thread(target=kill)
    thread.start()
    summary = encode(catalog, out, "--cluster", "local", "--workers", str(workers))
    ended = time.monotonic()
    thread.join()
    assert (summary["n_videos"], summary["n_failed"]) == (N_VIDEOS, 1)
    stopped.unlink()
    assert without_logs(out) == alone
    assert ended - killed[0] < STALE_SECONDS  # nobody had to wait for a heart that beats no more
    assert f"worker 0: {'killed' if lives == 1 else 'done, started 2 times'}" in summary["stderr"]
