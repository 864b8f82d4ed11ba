"""`encode --cluster` on real clusters, workers killed and cancelled: the bytes of one process."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from fsar.cluster import launch as launching
from fsar.pipeline.store.format.files import StoreFiles
from fsar.pipeline.store.journal.claims import claim_names
from fsar.pipeline.store.journal.owner import Owner, read_owner
from tests.cluster import ray_here
from tests.cluster.test_encode_together import N_VIDEOS, alone, catalog, encode, without_logs
from tests.cluster.test_engines import ray, slurm

__all__ = ["alone", "catalog", "ray", "slurm"]
pytestmark = pytest.mark.slow
PATIENCE_SECONDS = 240
INSIDE = ray_here.INSIDE in os.environ


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launching, "POLL_SECONDS", 0.5)


def in_background(function: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=function, daemon=True)
    thread.start()
    return thread


def handles_of(out: Path) -> list[str]:
    """Return the handles of a launch, once it has begun."""
    record, deadline = out.with_name(f"{out.name}.workers") / "launch.json", time.monotonic() + PATIENCE_SECONDS
    while not record.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    return list(json.loads(record.read_text())["handles"])


def holders(out: Path) -> Iterator[Owner]:
    """Yield who holds claims, as they come."""
    folder, deadline = StoreFiles.at(out).folder("claims"), time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        for name in claim_names(folder) if folder.exists() else []:
            owner = read_owner(folder / name)
            if owner is not None and owner.worker:
                yield owner
        time.sleep(0.002)


def number_of(owner: Owner) -> int:
    return int(owner.worker.rpartition("-")[2])


@pytest.mark.skipif(INSIDE, reason="in a namespace for Ray")
@pytest.mark.usefixtures("slurm")
def test_a_slurm_array_with_one_task_killed_and_one_cancelled(
    catalog: Path, alone: dict[str, bytes], tmp_path: Path
) -> None:
    out, killed = tmp_path / "s.zarr", []

    def disturb() -> None:
        subprocess.run(["scancel", handles_of(out)[2]], check=True)
        for owner in holders(out):
            if number_of(owner) != 2:
                with suppress(ProcessLookupError):
                    os.kill(owner.pid, signal.SIGKILL)
                    killed.append(number_of(owner))
                    return

    thread = in_background(disturb)
    summary = encode(catalog, out, "--cluster", "slurm", "--workers", "3")
    thread.join(PATIENCE_SECONDS)
    assert (summary["n_videos"], summary["n_failed"]) == (N_VIDEOS, 1)
    assert without_logs(out) == alone
    assert "worker 2: cancelled" in summary["stderr"]
    assert f"worker {killed[0]}: killed" in summary["stderr"]


@pytest.mark.skipif(INSIDE, reason="in a namespace for Ray")
@pytest.mark.usefixtures("slurm")
def test_dask_on_slurm(catalog: Path, alone: dict[str, bytes], tmp_path: Path) -> None:
    jobqueue = pytest.importorskip("dask_jobqueue", reason="dask-jobqueue is not installed")
    with jobqueue.SLURMCluster(
        cores=1,
        processes=1,
        memory="1GB",
        python=sys.executable,
        log_directory=str(tmp_path / "logs"),
        local_directory=str(tmp_path / "local"),
        worker_extra_args=["--host", "127.0.0.1"],
        scheduler_options={"host": "127.0.0.1", "dashboard_address": "127.0.0.1:0"},
    ) as cluster:
        cluster.scale(jobs=2)
        out = tmp_path / "s.zarr"
        summary = encode(catalog, out, "--cluster", f"dask={cluster.scheduler_address}", "--workers", "2")
    assert (summary["n_videos"], summary["n_failed"]) == (N_VIDEOS, 1)
    assert {name: data for name, data in without_logs(out).items() if not name.startswith(("logs/", "local/"))} == alone


@pytest.mark.skipif(INSIDE, reason="in a namespace for Ray")
def test_ray(tmp_path: Path) -> None:
    reason = ray_here.why_not()
    if reason:
        pytest.skip(reason)
    ended = ray_here.run_inside([__file__, "-m", "slow", "-k", "one_that_is_killed"], tmp_path / "inside")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "1 passed" in ended.stdout


@pytest.mark.skipif(not INSIDE, reason="test_ray runs it in a namespace")
def test_ray_with_one_that_is_killed(ray: str, catalog: Path, alone: dict[str, bytes], tmp_path: Path) -> None:
    out, killed = tmp_path / "s.zarr", []

    def disturb() -> None:
        for owner in holders(out):
            with suppress(FileNotFoundError, ProcessLookupError):
                parent = Path(f"/proc/{owner.pid}/stat").read_text().rpartition(")")[2].split()[1]
                os.kill(int(parent), signal.SIGKILL)  # Ray's own process: ours below it ends with it
                killed.append(number_of(owner))
                return

    thread = in_background(disturb)
    summary = encode(catalog, out, "--cluster", ray, "--workers", "2")
    thread.join(PATIENCE_SECONDS)
    assert (summary["n_videos"], summary["n_failed"]) == (N_VIDEOS, 1)
    assert without_logs(out) == alone
    assert f"worker {killed[0]}: " in summary["stderr"]
