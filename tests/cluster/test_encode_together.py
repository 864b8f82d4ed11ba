"""`encode --cluster`: real processes, one of them killed, and the bytes of a single one."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from fsar.cli.estimate_text import estimate_text
from fsar.cli.prep import prep
from fsar.cluster import launch as launching
from fsar.errors import InputError
from fsar.pipeline.catalog.catalog import Catalog, CatalogRow, write_catalog
from fsar.pipeline.encode.estimate import Estimate
from fsar.pipeline.store import open_store
from fsar.pipeline.store.format.files import StoreFiles
from fsar.pipeline.store.journal.claims import claim_names
from fsar.pipeline.store.journal.owner import read_owner
from tests.pipeline.encode_helpers import files_of
from tests.videos import cut_file, write_clip

N_VIDEOS = 24
BASE = ["--backbone", "random:timm/test_resnet", "--size", "32", "--frames", "4", "--jobs", "0", "--device", "cpu"]
BASE += ["--chunk-mb", "0.004"]


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, rows = tmp_path_factory.mktemp("videos"), []
    for index in range(N_VIDEOS):
        path = write_clip(folder / f"{index:02}.mp4", n_frames=8 + index)
        rows.append(CatalogRow(f"{index:02}", path, f"class {index % 2}", path.stat().st_size, "train"))
    cut_file(folder / "05.mp4", 0.3)
    write_catalog(Catalog(tuple(rows), "folder"), folder / "catalog.csv")
    return folder / "catalog.csv"


@pytest.fixture(scope="module")
def alone(catalog: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What one process makes."""
    out = tmp_path_factory.mktemp("alone") / "s.zarr"
    assert encode(catalog, out)["n_failed"] == 1
    return files_of(out)


def encode(catalog: Path, out: Path, *more: str) -> dict[str, Any]:
    """Run the command in this process; return its summary."""
    line = ["encode", str(catalog), *BASE, "--out", str(out), *more, "--json"]
    ended = CliRunner().invoke(prep, line, standalone_mode=False)
    if ended.exception is not None:
        raise ended.exception
    return dict(json.loads(ended.stdout)) | {"code": ended.return_value, "stderr": ended.stderr}


def without_logs(out: Path) -> dict[str, bytes]:
    return {name: data for name, data in files_of(out).items() if not name.startswith("s.zarr.workers")}


def test_two_workers_one_of_them_killed(
    catalog: Path, alone: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launching, "POLL_SECONDS", 0.2)
    out, killed = tmp_path / "s.zarr", []

    def kill_the_first_to_claim() -> None:
        folder, deadline = StoreFiles.at(out).folder("claims"), time.monotonic() + 120
        while not killed and time.monotonic() < deadline:
            for name in claim_names(folder) if folder.exists() else []:
                owner = read_owner(folder / name)
                if owner is not None and owner.worker and not killed:
                    with suppress(ProcessLookupError):  # its last claim: another has to do
                        os.kill(owner.pid, signal.SIGKILL)
                        killed.append(owner.worker)
            time.sleep(0.002)

    thread = threading.Thread(target=kill_the_first_to_claim)
    thread.start()
    summary = encode(catalog, out, "--cluster", "local", "--workers", "2")
    thread.join()
    assert killed, "no worker held a claim for long enough"
    assert (summary["n_videos"], summary["n_failed"], summary["n_encoded"], summary["code"]) == (
        N_VIDEOS,
        1,
        N_VIDEOS,
        1,
    )
    index = killed[0].rpartition("-")[2]
    assert f"worker {index}: " in summary["stderr"]
    assert str(out.with_name("s.zarr.workers") / f"{index}.log") in summary["stderr"]
    assert without_logs(out) == alone
    assert encode(catalog, out, "--cluster", "local", "--workers", "2")["n_encoded"] == 0


def test_ctrl_c_leaves_the_workers_and_cancel_ends_them(catalog: Path, tmp_path: Path) -> None:
    out = tmp_path / "s.zarr"
    line = [
        sys.executable,
        "-m",
        "fsar.cli.prep",
        "encode",
        str(catalog),
        *BASE,
        "--out",
        str(out),
        "--reuse",
        str(tmp_path),
    ]
    line += ["--cluster", "local", "--workers", "1"]
    with subprocess.Popen(line, stderr=subprocess.PIPE, text=True) as watcher:
        assert watcher.stderr is not None
        shown = []
        for text in watcher.stderr:
            shown.append(text)
            if text.startswith("started 1 worker of local"):
                watcher.send_signal(signal.SIGTERM)
                break
        shown += watcher.stderr.readlines()
    assert watcher.returncode == 143, shown
    assert "1 worker of local work on" in "".join(shown)
    summary = json.loads(CliRunner().invoke(prep, [*line[3:], "--cancel", "--json"], standalone_mode=False).stdout)
    assert summary["cancelled"] in (0, 1)  # it may have finished by now
    assert not claim_names(StoreFiles.at(out).folder("claims"))


def test_a_dry_run_prints_the_script_and_writes_nothing(catalog: Path, tmp_path: Path) -> None:
    out = tmp_path / "s.zarr"
    options = ["--cluster", "slurm", "--workers", "4", "--slurm", "partition=gpu", "--slurm=gres=gpu:1", "--dry-run"]
    line = ["encode", str(catalog), *BASE, "--out", str(out), *options]
    script = CliRunner().invoke(prep, line, standalone_mode=False).stdout
    assert script.startswith("#!/bin/bash\n")
    assert "#SBATCH --array=0,1,2,3\n#SBATCH" in script
    assert "#SBATCH --gres=gpu:1\n" in script
    last = script.splitlines()[-1]
    assert last.endswith(f"fsar-prep fsar.cli.prep encode {catalog} {' '.join(BASE)} --out {out} --workers 4")
    assert list(tmp_path.iterdir()) == []


def test_options_for_a_cluster_need_one(catalog: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--slurm needs --cluster"):
        encode(catalog, tmp_path / "s.zarr", "--slurm", "time=1")


def test_work_that_all_workers_leave_undone_is_a_failure(
    catalog: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launching, "POLL_SECONDS", 0.1)
    monkeypatch.setattr(launching, "MAX_LIVES", 1)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "elsewhere"))
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(InputError, match="24 of 24 videos not done: all workers have ended, see their logs in"):
        encode(catalog, tmp_path / "s.zarr", "--cluster", "local", "--workers", "1")


def test_an_estimate_measures_ten_videos_and_writes_nothing(catalog: Path, tmp_path: Path) -> None:
    out = tmp_path / "s.zarr"
    found = encode(catalog, out, "--tap", "pooled", "--tap", "map", "--estimate", "--workers", "6")
    assert (found["n_videos"], found["n_measured"]) == (N_VIDEOS, 9)  # one of the ten cannot be read
    assert found["tap_bytes"].keys() == {"pooled", "map"}
    assert found["bytes"] == N_VIDEOS * sum(found["tap_bytes"].values())
    assert list(found["hours"]) == ["1", "2", "4", "6"]
    assert found["hours"]["1"] == pytest.approx(6 * found["hours"]["6"])
    assert found["seconds_per_video"] >= found["forward_seconds"] > 0
    assert list(tmp_path.iterdir()) == []


def test_what_an_estimate_says_of_storage_is_what_is_stored(catalog: Path, tmp_path: Path) -> None:
    out = tmp_path / "s.zarr"
    found = encode(catalog, out, "--estimate")
    encode(catalog, out)
    store = open_store(out)
    assert found["bytes"] == store.read("pooled", range(N_VIDEOS)).nbytes


def test_the_table_of_an_estimate() -> None:
    gpu = Estimate(306_245, 10, {"pooled": 8192, "blocks.11": 2_420_736}, 0.1, 0.008, "cuda", 8)
    assert gpu.seconds_per_video == pytest.approx(0.0125)  # eight cores decode no faster
    assert gpu.n_decoders == 13
    text = estimate_text(gpu, 4)
    assert "blocks.11             2.4 MB    741.3 GB" in text
    assert [line.split() for line in text.splitlines()[-5:-2]] == [
        ["1", "64", "min"],
        ["2", "32", "min"],
        ["4", "16", "min"],
    ]
    assert "13 decode processes (--jobs) keep the device busy" in text
    cpu = Estimate(100, 10, {"pooled": 8192}, 0.1, 0.5, "cpu", 2)
    assert cpu.seconds_per_video == pytest.approx(0.55)
