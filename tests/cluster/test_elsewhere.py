"""Every command with `--cluster`: what it makes is what it makes without."""

import contextlib
import json
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from fsar.cli.eval_head import command as eval_head
from fsar.cli.prep import prep
from fsar.cli.store import store as store_group
from fsar.cli.train_head import command as train_head
from fsar.cluster import engines, worker
from fsar.cluster import launch as launching
from fsar.cluster.engine import State, Task
from fsar.errors import InputError
from fsar.pipeline.catalog.catalog import Catalog, CatalogRow, write_catalog
from fsar.pipeline.store import open_store
from tests.heads.stores import make_store, ordered_features, ordered_store, rows_of
from tests.videos import cut_file, write_clip

N_VIDEOS = 9
Tree = dict[str, bytes]


class HereAndNow:
    """An engine that runs each worker in this process, as soon as it is started."""

    def start(self, tasks: Sequence[Task]) -> list[str]:
        for task in tasks:
            handler = signal.getsignal(signal.SIGTERM)
            with open(task.log, "a") as log, contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
                worker.main(task.argv()[3:])
            signal.signal(signal.SIGTERM, handler)
        return [str(task.index) for task in tasks]

    def states(self, handles: Sequence[str]) -> list[State]:
        return [State.ENDED] * len(handles)

    def cancel(self, tasks: Sequence[Task], handles: Sequence[str]) -> None: ...

    def script(self, tasks: Sequence[Task]) -> str:
        return "\n".join(task.shell_line() for task in tasks)

    def cancel_command(self, handles: Sequence[str]) -> str | None: ...

    def close(self) -> None: ...


@pytest.fixture(params=[False, pytest.param(True, marks=pytest.mark.slow)], ids=["here", "in-processes"])
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launching, "POLL_SECONDS", 0.1)
    monkeypatch.setenv("FSAR_WORKER", "")
    monkeypatch.setattr(sys, "argv", sys.argv)
    if not request.param:
        monkeypatch.setattr(engines, "open_engine", lambda *choice: HereAndNow())


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, rows = tmp_path_factory.mktemp("videos"), []
    for index in range(N_VIDEOS):
        path = write_clip(folder / f"{index}.mp4", n_frames=6)
        rows.append(CatalogRow(str(index), path, f"class {index % 2}", path.stat().st_size, "train"))
    cut_file(folder / "4.mp4", 0.3)
    write_catalog(Catalog(tuple(rows), "folder"), folder / "catalog.csv")
    return folder / "catalog.csv"


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder, paths = tmp_path_factory.mktemp("stores"), []
    for part in ("train", "test"):
        videos = rows_of({part: [f"{part}{i}" for i in range(3)]}, 4)
        paths.append(make_store(folder / f"{part}.zarr", {"pooled": ordered_features(videos)}, videos).path)
    return paths[0], paths[1]


def run(command: click.Command, line: Sequence[str]) -> dict[str, Any]:
    ended = CliRunner().invoke(command, [*line, "--json"], standalone_mode=False)
    if ended.exception is not None:
        raise ended.exception
    return json.loads(ended.stdout) | {"code": ended.return_value or 0}


def tree(folder: Path) -> Tree:
    """Return every file below a folder, without the logs of workers and the lists of runs."""
    found = {str(path.relative_to(folder)): path for path in sorted(folder.rglob("*")) if path.is_file()}
    return {name: path.read_bytes() for name, path in found.items() if ".workers/" not in name}


Line = Callable[[Path], list[str]]


def same(command: click.Command, line: Line, tmp_path: Path, out: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Run a command with and without workers, and once more; return both summaries."""
    alone, together = tmp_path / "alone", tmp_path / "together"
    for folder in (alone, together):
        folder.mkdir()
    wanted = run(command, line(alone / out))
    work = [*line(together / out), "--cluster", "local", "--workers", "2"]
    found = run(command, work)
    assert {name: data.replace(b"/together/", b"/alone/") for name, data in tree(together).items()} == tree(alone)
    assert (together / f"{out}.workers" / "1.log").exists()
    assert run(command, work)["code"] == found["code"]
    return wanted, found


@pytest.mark.usefixtures("engine")
class TestSameBytes:
    """With one process, and with two of a cluster."""

    def test_convert(self, catalog: Path, tmp_path: Path) -> None:
        def line(out: Path) -> list[str]:
            return ["convert", str(catalog), "--out", str(out), "--jobs", "1", "--preset", "ultrafast"]

        for summary in same(prep, line, tmp_path, "mp4"):
            assert (summary["converted"], summary["kept"], summary["failed"], summary["code"]) == (8, 0, 1, 1)

    def test_extract(self, catalog: Path, tmp_path: Path) -> None:
        def line(out: Path) -> list[str]:
            return ["extract", str(catalog), "--out", str(out), "--jobs", "1", "--frames", "2"]

        for summary in same(prep, line, tmp_path, "frames"):
            assert (summary["extracted"], summary["kept"], summary["failed"], summary["code"]) == (8, 0, 1, 1)

    def test_packs(self, catalog: Path, tmp_path: Path) -> None:
        def line(out: Path) -> list[str]:
            return ["extract", str(catalog), "--out", str(out), "--jobs", "1", "--frames", "2", "--layout", "packed"]

        wanted, found = same(prep, line, tmp_path, "two.frames")
        assert (found["extracted"], found["kept"], found["failed"], found["code"]) == (9, 0, 1, 1)
        assert found["bytes"] == wanted["bytes"]

    def test_export(self, stores: tuple[Path, Path], tmp_path: Path) -> None:
        def line(out: Path) -> list[str]:
            return ["export", str(stores[0]), "--out", str(out)]

        wanted, found = same(store_group, line, tmp_path, "copy.h5")
        assert found["videos"] == wanted["videos"]

    def test_merge(self, stores: tuple[Path, Path], tmp_path: Path) -> None:
        def line(out: Path) -> list[str]:
            return ["merge", *map(str, stores), "--out", str(out)]

        same(store_group, line, tmp_path, "both.zarr")
        assert open_store(tmp_path / "together/both.zarr").n_videos == 2 * open_store(stores[0]).n_videos


SHORT = ["--episodes-per-step", "2", "--steps", "4", "--val-episodes", "4", "--test-episodes", "20", "--quiet"]


@pytest.mark.usefixtures("engine")
def test_seeds_are_trained_by_a_worker_each(tmp_path: Path) -> None:
    store = ordered_store(tmp_path / "s.zarr")
    line = ["tsn", "-o", "adapter=linear", "--store", str(store.path), "--seeds", "0,3", *SHORT]
    wanted = run(train_head, [*line, "--out", str(tmp_path / "alone")])
    found = run(train_head, [*line, "--out", str(tmp_path / "together"), "--cluster", "local"])
    assert found["seeds"] == wanted["seeds"]
    assert [Path(folder).name for folder in found["runs"]] == ["seed-0", "seed-3"]
    for folder in map(Path, found["runs"]):
        alone = tmp_path / "alone" / folder.name
        assert (folder / "head.safetensors").read_bytes() == (alone / "head.safetensors").read_bytes()
    with pytest.raises(InputError, match="--cluster needs --out"):
        run(train_head, [*line, "--cluster", "local"])


@pytest.mark.usefixtures("engine")
def test_heads_are_tested_by_a_worker_each(tmp_path: Path) -> None:
    store = ordered_store(tmp_path / "s.zarr")
    line = [
        "otam",
        "tsn",
        "--compare",
        "trx",
        "--store",
        str(store.path),
        "--shots",
        "1,2",
        "--episodes",
        "20",
        "--quiet",
    ]
    wanted = run(eval_head, [*line, "--out", str(tmp_path / "alone")])
    found = run(eval_head, [*line, "--out", str(tmp_path / "together"), "--cluster", "local"])
    for data in (wanted, found):
        for result in data["results"]:
            assert result.pop("seconds_per_episode") > 0
    assert found == wanted
    assert len(found["comparisons"]) == 4
    assert {path.name for path in (tmp_path / "together").iterdir()} == {p.name for p in (tmp_path / "alone").iterdir()}
    assert not list(tmp_path.glob("together.workers/measured*"))
    with pytest.raises(InputError, match="--cluster needs --out"):
        run(eval_head, [*line, "--cluster", "local"])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (["--workers", "2"], "--workers needs --cluster"),
        (["--resource", "GPU=1"], "--resource needs --cluster"),
        (["--dry-run"], "--dry-run needs --cluster"),
        (["--cluster", "local", "--out", "one.safetensors"], "written by one process"),
    ],
)
def test_options_that_do_not_fit_are_refused(
    stores: tuple[Path, Path], tmp_path: Path, line: list[str], message: str
) -> None:
    with contextlib.chdir(tmp_path), pytest.raises(InputError, match=message):
        run(store_group, ["export", str(stores[0]), "--out", "copy.h5", *line])


def test_a_dry_run_prints_what_would_be_started(stores: tuple[Path, Path], tmp_path: Path) -> None:
    line = ["export", str(stores[0]), "--out", str(tmp_path / "copy.h5"), "--cluster", "slurm", "--workers=3"]
    script = run(store_group, [*line, "--dry-run"])["script"]
    assert "#SBATCH --array=0,1,2\n" in script
    assert script.rstrip().endswith(f"fsar-store fsar.cli.store export {stores[0]} --out {tmp_path / 'copy.h5'}")
    assert list(tmp_path.iterdir()) == []
