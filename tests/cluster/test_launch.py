"""A launch with an engine whose workers end as the test says."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from fsar.cluster import launch as launching
from fsar.cluster.engine import EngineSilentError, State, Task
from fsar.cluster.launch import MAX_LIVES, Launch
from fsar.errors import InputError, Terminated


@dataclass
class Plan:
    """An engine and its work: each look at the states takes the next entry of a worker's story."""

    stories: dict[int, list[object]]
    """Of each worker: states, or exit codes with which it ends; the last one stays."""
    n_items: int = 4
    done: list[int] = field(default_factory=list)
    started: list[int] = field(default_factory=list)
    freed: list[int] = field(default_factory=list)
    cancelled: list[str] = field(default_factory=list)
    tasks: dict[str, Task] = field(default_factory=dict)
    silent: int = 0

    def start(self, tasks: Sequence[Task]) -> list[str]:
        self.started += [task.index for task in tasks]
        handles = [f"h{task.index}.{self.started.count(task.index)}" for task in tasks]
        self.tasks |= dict(zip(handles, tasks, strict=True))
        return handles

    def states(self, handles: Sequence[str]) -> list[State]:
        if self.silent:
            self.silent -= 1
            raise EngineSilentError("busy")
        return [self.state(self.tasks[handle]) for handle in handles]

    def state(self, task: Task) -> State:
        story = self.stories[task.index]
        now = story.pop(0) if len(story) > 1 else story[0]
        if isinstance(now, State):
            return now
        if isinstance(now, type):
            raise now
        if now is not None:
            task.exit_file.write_text(str(now))
        if now in (0, 1):
            self.done.append(task.index)
        return State.ENDED

    def cancel(self, tasks: Sequence[Task], handles: Sequence[str]) -> None:
        self.cancelled += handles

    def script(self, tasks: Sequence[Task]) -> str:
        return ""

    def cancel_command(self, handles: Sequence[str]) -> str:
        return "end them"

    def n_done(self) -> int:
        return self.n_items if self.done else 0

    def is_left(self, task: Task) -> bool:
        return not self.done

    def ended(self, task: Task) -> None:
        self.freed.append(task.index)


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launching, "POLL_SECONDS", 0.0)


def launch_of(plan: Plan, folder: Path, cluster: str = "local") -> Launch:
    program = ("fsar-prep", "fsar.cli.prep")
    tasks = [Task(index, "new", program, ("encode",), folder / "workers", folder) for index in plan.stories]
    return Launch(plan, cluster, tasks, plan)


def test_workers_that_are_killed_or_fail_are_started_again_and_what_they_held_is_free(tmp_path: Path) -> None:
    run = State.RUNNING
    plan = Plan(
        {0: [State.WAITING, run, None, run, run, run, run, 0], 1: [run, run, 1 + 1, run, run, run, run, run, 0]}
    )
    launch = launch_of(plan, tmp_path)
    assert not launch.begin()
    assert launch.watch()
    assert sorted(plan.started) == [0, 0, 1, 1]
    assert sorted(plan.freed) == [0, 0, 1, 1]
    assert [worker.n_lives for worker in launch.workers] == [2, 2]
    assert "worker 0: done, started 2 times" in launch.workers[0].to_text()


def test_a_worker_that_fails_again_and_again_is_given_up(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = Plan({0: [2]})
    launch = launch_of(plan, tmp_path)
    launch.begin()
    launch.tasks[0].log.write_text("why it failed\x1b[2J\n")
    assert not launch.watch()
    assert len(plan.started) == MAX_LIVES
    assert launch.workers[0].gave_up
    shown = capsys.readouterr().err
    assert "exit code 2, started 4 times" in shown
    assert "| why it failed\\u001b[2J" in shown


def test_a_worker_that_somebody_cancelled_stays_so_and_the_others_finish(tmp_path: Path) -> None:
    plan = Plan({0: [State.RUNNING, State.CANCELLED], 1: [State.RUNNING, State.RUNNING, 0]})
    launch = launch_of(plan, tmp_path)
    launch.begin()
    assert launch.watch()
    assert plan.started == [0, 1]
    assert plan.freed == [0, 1]


def test_workers_that_wait_for_their_turn_when_nothing_is_left_are_sent_home(tmp_path: Path) -> None:
    plan = Plan({0: [State.RUNNING, 0], 1: [State.WAITING]})
    launch = launch_of(plan, tmp_path)
    launch.begin()
    assert launch.watch()
    assert plan.cancelled == ["h1.1"]


def test_some_failed_videos_are_no_failed_worker(tmp_path: Path) -> None:
    plan = Plan({0: [1]})
    launch = launch_of(plan, tmp_path)
    launch.begin()
    assert launch.watch()
    assert plan.started == [0]


def test_a_cluster_that_does_not_answer_for_a_while_is_asked_again(tmp_path: Path) -> None:
    plan = Plan({0: [State.RUNNING, 0]}, silent=3)
    launch = launch_of(plan, tmp_path)
    launch.begin()
    assert launch.watch()


@pytest.mark.parametrize("kind", [KeyboardInterrupt, Terminated])
def test_who_watches_may_leave_and_come_back(tmp_path: Path, kind: type[KeyboardInterrupt]) -> None:
    plan = Plan({0: [State.RUNNING, kind, State.RUNNING, State.RUNNING, 0], 1: [State.RUNNING]})
    first = launch_of(plan, tmp_path)
    first.begin()
    with (
        pytest.raises(kind, match=r"2 workers of local work on.*--cancel or `end them` ends them"),
        first.left_at_work(),
    ):
        first.watch()
    plan.stories[1] = [State.RUNNING, State.RUNNING, 0]
    second = launch_of(plan, tmp_path)
    second.tasks = [
        Task(0, "another", *(getattr(second.tasks[0], n) for n in ("program", "arguments", "folder", "cwd")))
    ]
    assert second.begin()
    assert {worker.task.launch for worker in second.workers} == {"new"}
    assert [worker.task.index for worker in second.workers] == [0, 1]
    assert second.watch()
    assert plan.started == [0, 1]


def test_workers_of_another_engine_are_not_taken_for_none(tmp_path: Path) -> None:
    launch_of(Plan({0: [State.RUNNING]}), tmp_path).begin()
    with pytest.raises(InputError, match="of a launch with --cluster local"):
        launch_of(Plan({0: [State.RUNNING]}), tmp_path, "slurm").begin()


def test_a_record_that_is_damaged_is_said_to_be_so(tmp_path: Path) -> None:
    launch = launch_of(Plan({0: [State.RUNNING]}), tmp_path)
    launch.begin()
    (launch.folder / "launch.json").write_text('{"launch": 3')
    with pytest.raises(InputError, match="is damaged"):
        launch_of(Plan({0: [State.RUNNING]}), tmp_path).begin()


def test_all_living_workers_are_cancelled(tmp_path: Path) -> None:
    plan = Plan({0: [State.RUNNING, State.CANCELLED], 1: [State.RUNNING, State.RUNNING, State.CANCELLED]})
    launch_of(plan, tmp_path).begin()
    later = launch_of(plan, tmp_path)
    assert later.find()
    assert later.cancel() == 2
    later.wait()
