"""Time what a killed host costs the others: from `kill -9` to the moment when another holds its chunk, or has done it.

    python benchmarks/killed.py [--repeats 5] [--nobody]      # as root: hosts are namespaces of this machine (unshare)

Workers of a real `fsar-prep encode --cluster local`, each on a host of its own, so that no other can see whether its
process lives. One is frozen with a chunk in hand until the others have done all the rest, and then killed: the worst
moment. `--nobody` times two processes without a launcher, too, which takes three minutes.
"""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from fsar.cli.prep import prep
from fsar.cluster import engines
from fsar.cluster.engine import Task
from fsar.cluster.launch import POLL_SECONDS
from fsar.cluster.local import LocalEngine
from fsar.pipeline.catalog.catalog import Catalog, CatalogRow, write_catalog
from fsar.pipeline.store.format.files import CLAIMS, StoreFiles, read_store
from fsar.pipeline.store.journal.claims import claimed_chunks
from fsar.pipeline.store.journal.owner import STALE_SECONDS, Owner, read_owner
from fsar.pipeline.store.journal.records import stored_rows
from fsar.pipeline.synth.synth import SynthSettings, synthesize

HOST = ["unshare", "--uts", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c"]
OPTIONS = ["--backbone", "random:timm/test_resnet", "--size", "32", "--frames", "4", "--jobs", "0"]
OPTIONS += ["--chunk-mb", "0.004"]
N_VIDEOS = 24


def on_host(number: int, command: Sequence[str]) -> list[str]:
    """Return a command line that runs `command` on a host of its own."""
    return [*HOST, f'hostname node{number} && exec "$@"', "host", *command]


class HostTask(Task):
    """A worker on a host of its own."""

    def argv(self, index: str | None = None, *, tied: bool = False) -> list[str]:
        """Return what is run."""
        return on_host(self.index, super().argv(index, tied=tied))


class Hosts(LocalEngine):
    """Starts each worker on a host of its own."""

    def start(self, tasks: Sequence[Task]) -> list[str]:
        """Start the workers."""
        return super().start([HostTask(**vars(task)) for task in tasks])

    def groups(self) -> list[int]:
        """Return the process groups, in the order of the workers."""
        return [child.pid for child in self._children.values()]


class Murder:
    """Kills host 0 at the worst moment, and watches what becomes of its chunks."""

    def __init__(self, store: Path) -> None:
        self._store, self._files = store, StoreFiles.at(store)

    def commit(self, first_host: Callable[[], int], *, last: bool) -> tuple[float, float]:
        """Return the seconds from the kill until all chunks of the host have another holder, and until they are done.

        Args:
            first_host: gives the process group of host 0.
            last: wait with the kill until the others have done all the rest.
        """
        held = self._freeze(first_host)
        while last and len(stored_rows(self._files)) + len(held) < self._n_chunks():
            time.sleep(0.01)
        os.killpg(first_host(), signal.SIGKILL)
        killed = time.monotonic()
        taken = self._seconds_until(
            killed, lambda: all(self._owner(chunk) not in (None, held[chunk]) or self._is_done(chunk) for chunk in held)
        )
        return taken, self._seconds_until(killed, lambda: all(map(self._is_done, held)))

    def _freeze(self, first_host: Callable[[], int]) -> dict[int, Owner]:
        """Stop host 0 as soon as it has a chunk in hand; return what it holds."""
        while True:
            while not self._held():
                time.sleep(0.002)
            os.killpg(first_host(), signal.SIGSTOP)
            if held := self._held():
                return held
            os.killpg(first_host(), signal.SIGCONT)

    def _held(self) -> dict[int, Owner]:
        owners = {chunk: self._owner(chunk) for chunk in claimed_chunks(self._files.folder(CLAIMS))}
        return {chunk: owner for chunk, owner in owners.items() if owner and owner.host_name == "node0"}

    def _owner(self, chunk: int) -> Owner | None:
        return read_owner(self._files.folder(CLAIMS) / f"{chunk:06d}")

    def _is_done(self, chunk: int) -> bool:
        return chunk in stored_rows(self._files)

    def _n_chunks(self) -> int:
        layout, videos = read_store(self._files)
        return layout.n_chunks(len(videos))

    @staticmethod
    def _seconds_until(start: float, condition: Callable[[], bool]) -> float:
        while not condition():
            time.sleep(0.002)
        return time.monotonic() - start


def with_launcher(catalog: Path, store: Path) -> tuple[float, float]:
    """Return what a killed host costs with a launcher at work."""
    hosts = Hosts()
    engines.open_engine = lambda *choice: hosts  # type: ignore[assignment]
    line = ["encode", str(catalog), *OPTIONS, "--out", str(store), "--cluster", "local", "--workers", "2"]
    found: list[tuple[float, float]] = []
    murder = threading.Thread(
        target=lambda: found.append(Murder(store).commit(lambda: hosts.groups()[0], last=True)), daemon=True
    )
    murder.start()
    prep.main(line, standalone_mode=False)
    murder.join()
    print(f"another holds it after {found[0][0]:.1f} s, it is done after {found[0][1]:.1f} s", flush=True)
    return found[0]


def with_nobody(catalog: Path, store: Path) -> tuple[float, float]:
    """Return what a killed host costs two processes that know nothing of each other."""
    line = [sys.executable, "-m", "fsar.cli.prep", "encode", str(catalog), *OPTIONS, "--out", str(store)]
    hosts = [subprocess.Popen(on_host(number, line), start_new_session=True) for number in range(2)]
    seconds = Murder(store).commit(lambda: hosts[0].pid, last=False)
    for host in hosts:
        host.wait()
    return seconds


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--nobody", action="store_true", help="time two processes without a launcher, too")
    arguments = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        catalog = make_catalog(Path(folder))
        found = [with_launcher(catalog, Path(folder) / f"{turn}.zarr") for turn in range(arguments.repeats)]
        rows.append((f"with the launcher, which looks every {POLL_SECONDS:.0f} s", found, 10))
        if arguments.nobody:
            found = [with_nobody(catalog, Path(folder) / "nobody.zarr")]
            rows.append((f"nobody watches; a claim is stale after {STALE_SECONDS:.0f} s", found, 150))
    print("| | another holds its chunk after | it is done after | to reach |\n|---|---|---|---|")
    for name, found, wanted in rows:
        taken, done = (sorted(column) for column in zip(*found, strict=True))
        print(f"| {name} | {taken[0]:.1f}-{taken[-1]:.1f} s | {done[0]:.1f}-{done[-1]:.1f} s | {wanted} s |")


def make_catalog(folder: Path) -> Path:
    """Return a catalog of made clips."""
    synthesize(folder / "set", SynthSettings(4, 0, 0, clips=N_VIDEOS // 4, size=(64, 48)), quiet=True)
    paths = sorted(folder.rglob("*.webm"))
    rows = [CatalogRow(path.stem, path, "class", path.stat().st_size, "train") for path in paths]
    write_catalog(Catalog(tuple(rows), "made"), folder / "catalog.csv")
    return folder / "catalog.csv"


if __name__ == "__main__":
    main()
