"""Workers as the tasks of a SLURM array."""

import re
import shlex
import shutil
import subprocess
from collections.abc import Mapping, Sequence

from fsar.cluster.engine import EngineSilentError, State, Task
from fsar.errors import InputError, one_line

ALIVE = {
    "RUNNING": State.RUNNING,
    "COMPLETING": State.RUNNING,
    "STAGE_OUT": State.RUNNING,
    "PENDING": State.WAITING,
    "CONFIGURING": State.WAITING,
    "REQUEUED": State.WAITING,
    "REQUEUE_FED": State.WAITING,
    "REQUEUE_HOLD": State.WAITING,
    "SPECIAL_EXIT": State.WAITING,
    "RESIZING": State.WAITING,
    "SUSPENDED": State.WAITING,
    "STOPPED": State.WAITING,
    "CANCELLED": State.CANCELLED,
}
"""SLURM's word -> where a task stands; every other word means that it has ended."""
OURS = ("array", "output", "error", "job-name", "chdir")
"""Options that the launcher needs to find its workers again."""
_OPTION = re.compile(r"[a-z][a-z-]*")
TERM_BEFORE_END_SECONDS = 120


class SlurmEngine:
    """Starts workers with `sbatch`, with the site's own options as they are given."""

    def __init__(self, options: Mapping[str, str]) -> None:
        for name, value in options.items():
            if name in OURS:
                raise InputError(f"--slurm {name}: the launcher sets it; it cannot be given")
            if not _OPTION.fullmatch(name) or not value.isprintable():
                raise InputError(f"--slurm {name}={value}: must be a long option of sbatch without dashes, and a value")
        self._options = dict(options)
        self._waiting: set[str] = set()
        """Tasks that waited for their turn when this was last asked."""

    def start(self, tasks: Sequence[Task]) -> list[str]:
        """Submit an array; a handle is JOB_TASK."""
        if shutil.which("sbatch") is None:
            raise InputError("there is no `sbatch` on this machine: start this where you submit jobs to SLURM")
        ended = _run(["sbatch", "--parsable"], self.script(tasks))
        if ended.returncode:
            raise InputError(f"SLURM refuses the job: {one_line(ended.stderr or ended.stdout)}")
        job = ended.stdout.strip().partition(";")[0]
        handles = [f"{job}_{task.index}" for task in tasks]
        self._waiting |= set(handles)
        return handles

    def script(self, tasks: Sequence[Task]) -> str:
        """Return the script that `sbatch` gets."""
        first = tasks[0]
        own = {
            "job-name": f"fsar-{first.launch}",
            "array": ",".join(str(task.index) for task in tasks),
            "output": str(first.folder).replace("%", "%%") + "/%a.log",
            "open-mode": "append",
            "chdir": str(first.cwd),
            "requeue": "",
            "signal": f"B:TERM@{TERM_BEFORE_END_SECONDS}",
        }
        if "no-requeue" in self._options:
            del own["requeue"]
        lines = [_directive(name, value) for name, value in (own | self._options).items()]
        return "\n".join(["#!/bin/bash", *lines, "", *_commands(tasks), ""])

    def states(self, handles: Sequence[str]) -> list[State]:
        """Return where the tasks stand, by one `squeue`."""
        jobs = sorted({handle.partition("_")[0] for handle in handles})
        words: dict[str, str] = {}
        for job in jobs:
            ended = _run(["squeue", "--noheader", "--array", "--states=all", f"--jobs={job}", "--format=%i %T"])
            if ended.returncode and "Invalid job id" not in ended.stderr:
                raise EngineSilentError(one_line(ended.stderr))
            words |= dict(line.split(maxsplit=1) for line in ended.stdout.splitlines() if len(line.split()) == 2)
        states = [self._state(handle, words.get(handle)) for handle in handles]
        self._waiting = {handle for handle, state in zip(handles, states, strict=True) if state is State.WAITING}
        return states

    def _state(self, handle: str, word: str | None) -> State:
        """Return where a task stands; SLURM forgets at once one of an array that is cancelled while it waits."""
        if word is None and handle in self._waiting:
            return State.CANCELLED
        return ALIVE.get(word or "", State.ENDED)

    def cancel(self, tasks: Sequence[Task], handles: Sequence[str]) -> None:
        """Call `scancel`."""
        _run(["scancel", *handles])

    def cancel_command(self, handles: Sequence[str]) -> str | None:
        """Return `scancel` with the jobs."""
        return f"scancel {' '.join(sorted({handle.partition('_')[0] for handle in handles}))}"

    def close(self) -> None:
        """Nothing: no connection stays."""


def _directive(name: str, value: str) -> str:
    if not value:
        return f"#SBATCH --{name}"
    quoted = value if re.fullmatch(r"[\w@%+=:,./~\[\]-]+", value) else '"' + re.sub(r'(["\\])', r"\\\1", value) + '"'
    return f"#SBATCH --{name}={quoted}"


def _commands(tasks: Sequence[Task]) -> list[str]:
    """Return the lines that run the task of this number; `exec`, so that signals reach it."""
    number = '"$SLURM_ARRAY_TASK_ID"'
    lines = {task.index: shlex.join(task.argv("@INDEX@")).replace("@INDEX@", number) for task in tasks}
    if len(set(lines.values())) == 1:
        return [f"exec {lines[tasks[0].index]}"]
    cases = [f"{index}) exec {line} ;;" for index, line in lines.items()]
    return [f"case {number} in", *cases, "esac"]


def _run(command: Sequence[str], text: str = "") -> "subprocess.CompletedProcess[str]":
    try:
        return subprocess.run(command, input=text, capture_output=True, text=True, timeout=60)
    except subprocess.TimeoutExpired as error:
        raise EngineSilentError(f"{command[0]} does not answer") from error
    except FileNotFoundError as error:
        raise InputError(
            f"there is no `{command[0]}` on this machine: start this where SLURM's commands are"
        ) from error
