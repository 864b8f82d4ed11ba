"""One suite for every engine: it starts workers, says how they are, and ends them, also for who comes later."""

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fsar.cluster import dask as dask_module
from fsar.cluster.engine import EngineSilentError, State, Task
from fsar.cluster.engines import open_engine
from fsar.cluster.slurm import SlurmEngine
from fsar.cluster.tied import amounts
from fsar.errors import InputError
from tests.cluster import dask_here, ray_here, slurm_here

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_SECONDS = 120


@pytest.fixture(scope="module")
def slurm() -> Iterator[None]:
    reason = slurm_here.why_not()
    if reason:
        pytest.skip(reason)
    with slurm_here.slurm() as conf, pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLURM_CONF", str(conf))
        yield


@pytest.fixture(scope="module")
def dask() -> Iterator[str]:
    pytest.importorskip("distributed", reason="Dask is not installed: pip install 'fsar[dask]'")
    with dask_here.dask() as address:
        yield f"dask={address}"


@pytest.fixture(scope="module")
def ray() -> Iterator[str]:
    with ray_here.ray() as address:
        yield f"ray={address}"


ENGINES, TYING = (["ray"], ["ray"]) if ray_here.INSIDE in os.environ else (["local", "slurm", "dask"], ["dask"])


@pytest.fixture(params=ENGINES)
def cluster(request: pytest.FixtureRequest) -> str:
    """The name of an engine that works here."""
    kind = request.param
    return kind if kind == "local" else request.getfixturevalue(kind) or kind


def test_ray(tmp_path: Path) -> None:
    reason = ray_here.why_not()
    if reason:
        pytest.skip(reason)
    ended = ray_here.run_inside([__file__, "-k", "[ray] and not installed"], tmp_path / "inside")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "4 passed" in ended.stdout
    assert "skipped" not in ended.stdout


def tasks_of(folder: Path, codes: list[int]) -> list[Task]:
    """Workers that end with these codes, when they are told to."""
    program = ("waiter", "tests.cluster.program")
    return [Task(i, "life", program, (str(folder), str(code)), folder, ROOT) for i, code in enumerate(codes)]


def wait_for(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"never came: {what}"
        time.sleep(0.1)


def here(folder: Path, index: int) -> int:
    """Wait until a worker is there; return its process id."""
    file = folder / f"{index}.here"
    wait_for(file.exists, f"worker {index}")
    return int(file.read_text())


def test_workers_end_are_killed_and_are_cancelled(cluster: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    folder = tmp_path / 'logs of "100%" $HOME'
    folder.mkdir()
    tasks = tasks_of(folder, [0, 7, 0, 0])
    starter = open_engine(cluster, {}, {})
    handles = starter.start(tasks)
    request.addfinalizer((folder / "go").touch)
    pids = [here(folder, task.index) for task in tasks]
    engine = open_engine(cluster, {}, {})  # handles are good for who comes later, too
    assert engine.states(handles) == [State.RUNNING] * 4

    os.kill(pids[2], signal.SIGKILL)
    wait_for(lambda: not engine.states(handles[2:3])[0].alive, "the end of the one that was killed")
    assert tasks[2].exit_code() is None

    engine.cancel(tasks[3:], handles[3:])
    wait_for(lambda: not engine.states(handles[3:])[0].alive, "the end of the one that was cancelled")
    wait_for((folder / "3.tidy").exists, "its tidying up")
    assert engine.states(handles[:2]) == [State.RUNNING] * 2

    (folder / "go").touch()
    wait_for(lambda: engine.states(handles[:2]) == [State.ENDED] * 2, "the end of the others")
    assert [task.exit_code() for task in tasks[:2]] == [0, 7]
    assert "hello from 1" in tasks[1].log.read_text()
    assert "hello from 0" not in tasks[1].log.read_text()
    wait_for(lambda: not any(state.alive for state in starter.states(handles)), "who started them knows it, too")


def test_one_worker_is_started_again(cluster: str, tmp_path: Path) -> None:
    """Alone, under its own number."""
    engine, task = open_engine(cluster, {}, {}), tasks_of(tmp_path, [0, 0])[1]
    (tmp_path / "go").touch()
    handles = engine.start([task])
    wait_for(lambda: engine.states(handles) == [State.ENDED], "its end")
    assert task.exit_code() == 0
    assert (tmp_path / "1.here").exists()


@pytest.fixture(params=TYING)
def tying(request: pytest.FixtureRequest) -> str:
    """An engine whose workers are children of its own processes."""
    return str(request.getfixturevalue(request.param))


def test_a_worker_ends_with_the_process_that_runs_it(
    tying: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    engine, task = open_engine(tying, {}, {}), tasks_of(tmp_path, [0])[0]
    handles = engine.start([task])
    request.addfinalizer((tmp_path / "go").touch)
    pid = here(tmp_path, 0)
    parent = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1]
    (tmp_path / "0.here").unlink()
    os.kill(int(parent), signal.SIGKILL)
    wait_for((tmp_path / "0.tidy").exists, "its tidying up")
    if tying.startswith("dask"):  # which starts it elsewhere by itself
        assert here(tmp_path, 0) != pid
        assert engine.states(handles) == [State.RUNNING]
    else:
        wait_for(lambda: engine.states(handles) == [State.ENDED], "its end")


def test_a_worker_that_waits_for_its_place_is_cancelled(tying: str, tmp_path: Path) -> None:
    engine, [task] = open_engine(tying, {}, {"GPU": "1"}), tasks_of(tmp_path, [0])
    handles = engine.start([task])
    wait_for(lambda: engine.states(handles) == [State.WAITING], "its waiting")
    engine.cancel([task], handles)
    wait_for(lambda: engine.states(handles) == [State.CANCELLED], "its end")


@pytest.mark.usefixtures("slurm")
def test_a_slurm_task_that_waits_is_cancelled(tmp_path: Path) -> None:
    engine, tasks = open_engine("slurm", {"hold": ""}, {}), tasks_of(tmp_path, [0, 0])
    handles = engine.start(tasks)
    assert engine.states(handles) == [State.WAITING] * 2
    engine.cancel(tasks[1:], handles[1:])
    wait_for(lambda: engine.states(handles) == [State.WAITING, State.CANCELLED], "the end of one")
    engine.cancel(tasks, handles)
    wait_for(lambda: not engine.states(handles)[0].alive, "the end of the other")


class TestScript:
    """What sbatch gets."""

    def script(self, codes: list[int], **options: str) -> str:
        return SlurmEngine(options).script(tasks_of(Path("/scratch/x y"), codes))

    def test_equal_commands_are_one_line(self) -> None:
        lines = self.script([0, 0, 0]).splitlines()
        assert lines[0] == "#!/bin/bash"
        assert "#SBATCH --array=0,1,2" in lines
        assert '#SBATCH --output="/scratch/x y/%a.log"' in lines
        assert lines[-1] == (
            f"exec {sys.executable} -m fsar.cluster.worker '/scratch/x y' life \"$SLURM_ARRAY_TASK_ID\" "
            "waiter tests.cluster.program '/scratch/x y' 0"
        )

    def test_different_commands_are_told_by_their_number(self) -> None:
        assert "1) exec " in self.script([0, 5])
        assert self.script([0, 5]).rstrip().endswith("esac")

    def test_options_of_the_site_are_taken_as_they_are_and_win(self) -> None:
        script = self.script(
            [0], **{"gres": "gpu:a100:1", "time": "12:00:00", "exclusive": "", "open-mode": "truncate"}
        )
        assert "#SBATCH --gres=gpu:a100:1\n" in script
        assert "#SBATCH --exclusive\n" in script
        assert "--open-mode=truncate" in script
        assert "append" not in script

    @pytest.mark.parametrize(("name", "value"), [("array", "0-9"), ("--x\n", "y"), ("comment", "a\nrm -rf /")])
    def test_options_that_cannot_be_are_refused(self, name: str, value: str) -> None:
        with pytest.raises(InputError, match="--slurm"):
            SlurmEngine({name: value})


@pytest.mark.parametrize(
    ("cluster", "slurm_options", "message"),
    [
        ("slrum", {}, "did you mean slurm"),
        ("local=here", {}, "did you mean local"),
        ("local", {"time": "1"}, "does not go with"),
        ("dask", {}, "needs an address: --cluster dask=tcp://HOST:8786"),
        ("ray=", {}, "needs an address"),
    ],
)
def test_a_cluster_that_is_none_is_refused(cluster: str, slurm_options: dict[str, str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        open_engine(cluster, slurm_options, {})


@pytest.mark.parametrize("amount", ["", "many", "-1", "inf", "nan"])
def test_an_amount_that_is_none_is_refused(amount: str) -> None:
    with pytest.raises(InputError, match="--resource GPU"):
        amounts({"GPU": amount})


def test_a_dask_that_is_not_there_is_said_to_be_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("distributed")
    monkeypatch.setattr(dask_module, "TIMEOUT_SECONDS", 0.5)
    engine = open_engine("dask=tcp://127.0.0.1:1", {}, {})
    with pytest.raises(InputError, match="no Dask scheduler at tcp://"):
        engine.start(tasks_of(tmp_path, [0]))
    with pytest.raises(EngineSilentError):
        engine.states(["one"])


@pytest.mark.parametrize("kind", ["dask", "ray"])
def test_an_engine_that_is_not_installed_says_what_to_install(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, {"dask": "distributed", "ray": "ray"}[kind], None)
    with pytest.raises(InputError, match=rf"pip install 'fsar\[{kind}\]'"):
        open_engine(f"{kind}=127.0.0.1:1", {}, {})


def test_a_machine_without_slurm_is_said_to_be_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match="no `sbatch` on this machine"):
        SlurmEngine({}).start(tasks_of(tmp_path, [0]))
