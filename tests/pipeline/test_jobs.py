"""Many items in several processes: order, failures, deaths, full disks, interrupts."""

import csv
import errno
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from fsar.errors import InputError
from fsar.pipeline.jobs.run import Failure, run_jobs, stream_jobs, write_failures
from fsar.pipeline.video.decode import VideoError
from tests.cli.video_commands import processes_of, wait_for


@dataclass(frozen=True)
class Item:
    name: str
    path: Path = Path("some/clip.webm")


def shout(item: Item) -> str:
    if item.name == "video":
        raise VideoError("truncated", "ends\nearly")
    if item.name == "input":
        raise InputError("bad id")
    if item.name == "missing":
        raise FileNotFoundError(errno.ENOENT, "no such file", "x")
    if item.name == "bug":
        raise KeyError("ours")
    if item.name == "full":
        raise OSError(errno.ENOSPC, "No space left on device")
    if item.name == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if item.name == "hang":
        time.sleep(60)
    return item.name.upper()


def run(names: list[str], n_jobs: int, **options):
    return run_jobs("shout", [Item(name) for name in names], shout, n_jobs=n_jobs, key=_name, quiet=True, **options)


def _name(item: Item) -> str:
    return item.name


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_outcomes_keep_the_order_of_items(n_jobs):
    names = [f"item{index}" for index in range(12)]
    seen = []
    outcomes = run(names, n_jobs, on_outcome=lambda outcome: seen.append(outcome.key))
    assert [outcome.value for outcome in outcomes] == [name.upper() for name in names]
    assert sorted(seen) == sorted(names)


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_expected_errors_become_failures_and_the_rest_goes_on(n_jobs):
    outcomes = run(["a", "video", "input", "missing", "b"], n_jobs)
    assert [outcome.value for outcome in outcomes] == ["A", None, None, None, "B"]
    failure = outcomes[1].failure
    assert failure == Failure("video", "some/clip.webm", "shout", "truncated", "ends early")
    assert [outcomes[index].failure.reason for index in (2, 3)] == ["input", "os-error"]


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_what_nobody_foresaw_is_a_failure_that_names_the_line(n_jobs):
    outcomes = run(["a", "bug", "b"], n_jobs)
    assert [outcome.value for outcome in outcomes] == ["A", None, "B"]
    assert outcomes[1].failure.reason == "error"
    assert outcomes[1].failure.message.startswith("KeyError: 'ours' (test_jobs.py, line ")


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_a_full_disk_ends_the_run(n_jobs):
    with pytest.raises(OSError, match="No space left") as caught:
        run(["a", "full", *[f"item{index}" for index in range(20)]], n_jobs)
    assert caught.value.errno == errno.ENOSPC


def test_an_item_that_kills_its_worker_is_named_and_the_rest_goes_on():
    names = [f"item{index}" for index in range(9)]
    names[4] = "die"
    outcomes = run(names, 2)
    assert outcomes[4].failure is not None
    assert outcomes[4].failure.reason == "crashed"
    assert [outcome.value for index, outcome in enumerate(outcomes) if index != 4] == [
        name.upper() for name in names if name != "die"
    ]


def test_an_item_that_hangs_is_named_and_the_rest_goes_on():
    outcomes = run(["a", "hang", "b", "c"], 2, timeout_seconds=2.0)
    assert outcomes[1].failure is not None
    assert (outcomes[1].failure.reason, outcomes[1].failure.message) == ("timeout", "not finished within 2 s, 2 times")
    assert [outcomes[index].value for index in (0, 2, 3)] == ["A", "B", "C"]


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_items_are_asked_for_when_a_worker_needs_one(n_jobs):
    asked, n_done = [], []

    def items():
        for index in range(12):
            asked.append(index)
            assert len(asked) - len(n_done) <= n_jobs + (n_jobs > 1)
            yield Item(f"item{index}")

    with stream_jobs("shout", items(), shout, n_jobs=n_jobs, key=_name) as outcomes:
        for number, _ in outcomes:
            n_done.append(number)
    assert sorted(n_done) == list(range(12))


def test_a_script_without_a_guard_can_use_processes(tmp_path):
    script = tmp_path / "notebook.py"
    script.write_text(UNGUARDED)
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=120)
    assert (done.stdout, done.stderr) == ("[2, 4, 6]\n", "")


UNGUARDED = """
from fsar.pipeline.jobs.run import run_jobs

def double(number):
    return 2 * number

print([outcome.value for outcome in run_jobs("double", [1, 2, 3], double, n_jobs=2, key=str, quiet=True)])
"""


def test_failures_are_a_table_that_goes_when_there_are_none(tmp_path):
    path = tmp_path / "failures.csv"
    write_failures(path, [Failure("2", "b", "s", "r", 'comma, "quote"'), Failure("1", "a", "s", "r", "m")])
    rows = list(csv.DictReader(path.read_text().splitlines()))
    assert [row["video_id"] for row in rows] == ["1", "2"]
    assert rows[1]["message"] == 'comma, "quote"'
    write_failures(path, [])
    assert not path.exists()


PROGRAM = """
import sys, time
from pathlib import Path
from fsar.files import atomic_path
from fsar.pipeline.jobs.run import run_jobs

def slow(number):
    with atomic_path(Path(sys.argv[1]) / f"{number}.txt") as temporary:
        temporary.write_text("half")
        time.sleep(0.4)
        temporary.write_text("whole")

if __name__ == "__main__":
    run_jobs("slow", list(range(40)), slow, n_jobs=2, key=str, quiet=True, workspace=Path(sys.argv[1]))
"""


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL], ids=["ctrl-c", "kill-9"])
def test_a_run_that_ends_while_its_workers_start_leaves_none(tmp_path, how):
    script, out = tmp_path / "program.py", tmp_path / "out"
    script.write_text(PROGRAM.replace("sys.argv[1]", repr(str(out))))
    out.mkdir()
    process = subprocess.Popen(
        [sys.executable, str(script)],
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=accept_ctrl_c,
        start_new_session=True,
    )
    wait_for(lambda: len(processes_of(process.pid)) >= 4)  # itself, the resource tracker, two workers that import
    os.killpg(process.pid, how) if how == signal.SIGINT else process.kill()
    process.communicate(timeout=30)
    wait_for(lambda: not processes_of(process.pid))


def accept_ctrl_c() -> None:
    """Undo that shells start background jobs deaf to it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL], ids=["ctrl-c", "kill-9"])
def test_no_worker_outlives_the_run(tmp_path, how):
    script, out = tmp_path / "program.py", tmp_path / "out"
    script.write_text(PROGRAM.replace("sys.argv[1]", repr(str(out))))
    out.mkdir()
    process = subprocess.Popen(
        [sys.executable, str(script)], stderr=subprocess.PIPE, preexec_fn=accept_ctrl_c, start_new_session=True
    )
    wait_for(lambda: len(list(out.glob("[0-9]*.txt"))) >= 2)
    process.send_signal(how)
    process.communicate(timeout=30)
    wait_for(lambda: not processes_of(process.pid))
    n_finished = len(list(out.glob("[0-9]*.txt")))
    time.sleep(0.6)
    assert len(list(out.glob("[0-9]*.txt"))) == n_finished < 40
    assert all(path.read_text() == "whole" for path in out.glob("[0-9]*.txt"))
    if how == signal.SIGINT:
        assert not list(out.glob(".*"))
