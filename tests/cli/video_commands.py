"""What the tests of the video commands share: a folder of clips with a catalog, runs that are killed midway."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from fsar.pipeline.catalog.catalog import Catalog, CatalogRow, write_catalog
from tests.videos import write_clip

PROGRAM = "from fsar.cli.prep import main; main()"


def fsar_store(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run `fsar-store` as a program."""
    command = [sys.executable, "-c", PROGRAM.replace("prep", "store"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment(), timeout=120)


def prep(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run `fsar-prep` as a program."""
    return subprocess.run(command_line(*arguments), capture_output=True, text=True, env=environment(), timeout=120)


def command_line(*arguments: object) -> list[str]:
    return [sys.executable, "-c", PROGRAM, *map(str, arguments)]


def environment() -> dict[str, str]:
    root = Path(__file__).resolve().parents[2]
    return os.environ | {"PYTHONPATH": os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")])}


def make_catalog(folder: Path, *, n_videos: int = 6, n_frames: int = 8) -> Path:
    """Write clips and catalog.csv; return the catalog's path."""
    rows = []
    for index in range(n_videos):
        path = write_clip(folder / "videos" / f"{index}.webm", n_frames=n_frames + index)
        rows.append(CatalogRow(str(index), path, f"class {index % 2}", path.stat().st_size, "train"))
    write_catalog(Catalog(tuple(rows), "test"), folder / "catalog.csv")
    return folder / "catalog.csv"


def run_and_stop(how: signal.Signals, *arguments: object, progress: Path, seed: int) -> int:
    """Start a command, stop it a random moment after its next output below `progress`, wait for all its processes.

    Returns its exit code.
    """
    process = subprocess.Popen(
        command_line(*arguments),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=environment(),
        start_new_session=True,
    )
    n_before = count_files(progress)
    wait_for(lambda: process.poll() is not None or count_files(progress) > n_before)
    time.sleep(random.Random(seed).uniform(0, 0.3))
    process.send_signal(how)
    code = process.wait(timeout=60)
    wait_for(lambda: not processes_of(process.pid))
    return code


def count_files(folder: Path) -> int:
    """Files below a folder while others write there: unlike rglob, os.walk bears folders that vanish."""
    return sum(".tmp-" not in name for place, _, names in os.walk(folder) if ".tmp-" not in place for name in names)


def processes_of(session: int) -> list[int]:
    """Return the living processes that a program started with `start_new_session` left, itself included."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(fields[3]) == session and fields[0] != "Z":
            found.append(int(stat.parent.name))
    return found


def wait_for(condition: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.02)


def files(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, by relative path."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
