"""Who holds a claim, and what can be told from here about whether it still lives."""

import json
import os
import secrets
import socket
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fsar.files import read_plain

WORKER_VARIABLE = "FSAR_WORKER"
"""Environment variable with the name of this worker. A process of that name is the next life of the one before."""
STALE_SECONDS = 145.0
"""A claim that nobody touches for so long, by the clock of the one who looks, is given up. Holders touch theirs every
30 seconds, and a network file system may show a time that is a minute old. Who waits for a chunk looks every 4 seconds:
a host that dies costs the others 150."""
ANCIENT_SECONDS = 900.0
"""A claim so much older (or younger) than a file made now is given up at the first look. Less might be the clocks of
two hosts that are minutes apart: some file systems stamp files with the time of the host."""
MAX_CLAIM_BYTES = 1 << 16

live_tokens: set[str] = set()
"""Of the writers of this process that have not been closed."""


@dataclass(frozen=True)
class Owner:
    """What a claim says of who made it."""

    host: str
    """Under which the process id is unique, see `host_id`."""
    pid: int
    started: str
    """Start of the process in clock ticks, empty where unknown: process ids come back."""
    token: str
    """Of the one writer; a process may have several."""
    worker: str = ""
    """Name of the worker, if it has one."""
    since: float = 0.0
    """When it was made, by the holder's clock: for people only."""

    def to_json(self) -> bytes:
        """Return the content of the claim."""
        return json.dumps(asdict(self)).encode()

    @property
    def host_name(self) -> str:
        """The machine's name alone."""
        return self.host.partition("/")[0]


NOBODY = Owner("", 0, "", "")
"""Who made a claim that cannot be read: torn by a crash on a disk without hard links, or never a claim."""


def this_process(token: str) -> Owner:
    """Return the owner that a writer of this process is."""
    return Owner(host_id(), os.getpid(), process_start(os.getpid()), token, worker_name(), round(time.time(), 3))


def worker_name() -> str:
    """Return the name of this worker, empty if nobody gave it one."""
    return os.environ.get(WORKER_VARIABLE, "")[:200]


def read_owner(path: Path) -> Owner | None:
    """Return who holds a claim, `NOBODY` if it cannot be read, None if there is no such claim."""
    try:
        return _checked(json.loads(read_plain(path, MAX_CLAIM_BYTES)))
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, RecursionError):
        return NOBODY


def _checked(data: dict[str, Any]) -> Owner:
    owner = Owner(*(data[name] for name in ("host", "pid", "started", "token")))
    texts = (owner.host, owner.started, owner.token, worker := data.get("worker", ""))
    if not all(isinstance(text, str) for text in texts) or type(owner.pid) is not int or not 0 < owner.pid < 1 << 31:
        raise ValueError("not a claim")
    since = data.get("since", 0.0)
    return Owner(owner.host, owner.pid, owner.started, owner.token, worker, float(since))


def is_gone(owner: Owner) -> bool | None:
    """Return whether a claim's holder has ended; None where only its heartbeat can tell."""
    if owner.host == host_id():
        if owner.pid == os.getpid():
            return owner.token not in live_tokens
        return process_start(owner.pid) != owner.started or not _process_exists(owner.pid)
    return True if owner.worker and owner.worker == worker_name() else None


class Heartbeats:
    """What one process has seen of the claims of others. Whose time stands still has stopped.

    Times of files are compared with earlier times of the same file alone, and time passes by the clock of this
    process: hosts may be minutes apart, and a process that was frozen finds that the others have moved on.
    """

    def __init__(self) -> None:
        self._seen: dict[str, tuple[str, int, float]] = {}

    def has_stopped(self, path: Path, owner: Owner) -> bool:
        """Return whether the claim has not been touched since a look long enough ago, or is ancient."""
        try:
            touched = path.stat().st_mtime_ns
        except FileNotFoundError:
            return False
        token, before, since = self._seen.get(path.name, ("", 0, 0.0))
        now = time.monotonic()
        if (token, before) == (owner.token, touched):
            return now - since > STALE_SECONDS
        self._seen[path.name] = owner.token, touched, now
        return is_ancient(path)


def is_ancient(path: Path) -> bool:
    """Return whether a file is much older, or younger, than one that is made beside it now."""
    probe = path.with_name(f".clock-{secrets.token_hex(4)}")
    try:
        probe.touch()
        return abs(probe.stat().st_mtime - path.stat().st_mtime) > ANCIENT_SECONDS
    except FileNotFoundError:
        return False
    finally:
        probe.unlink(missing_ok=True)


def host_id() -> str:
    """Return a name under which a process id is unique: machine, boot, and process namespace."""
    parts = [socket.gethostname()]
    try:
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        parts.append(os.readlink("/proc/self/ns/pid"))
    except OSError:  # not Linux: the host's name has to do
        pass
    return "/".join(parts)


def process_start(pid: int) -> str:
    """Return the start time of a process in clock ticks: a process id may come back.

    Empty when it is unknown, and for one that has ended while its parent has not asked how.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return fields[19] if fields[0] not in "ZX" else ""


def _process_exists(pid: int) -> bool:
    if sys.platform == "win32":  # signal 0 would end the process there
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
