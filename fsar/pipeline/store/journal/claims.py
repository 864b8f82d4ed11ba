"""Who works on which chunk: one file per claim, created exclusively. Claims save work; the journal keeps stores right.

A claim is stale when its process is gone (same machine) or when nobody has touched it for ten minutes (elsewhere).
"""

import json
import os
import re
import secrets
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from fsar.errors import InputError
from fsar.files import read_plain
from fsar.pipeline.store.disk import FOLDER_TRIES, cannot_write, create_exclusive, list_names

HEARTBEAT_SECONDS = 30.0
STALE_SECONDS = 600.0
PATIENCE_SECONDS = 60.0
METADATA_INDEX = 10**9
"""Stands among the claims for the right to change metadata; no store has as many chunks."""

MAX_CLAIM_BYTES = 1 << 16
_OWNER = {"host": str, "pid": int, "started": str, "token": str}

_live_tokens: set[str] = set()


class Claims:
    """The claims of one writer."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._token = secrets.token_hex(8)
        self._held: set[int] = set()
        self._stop = threading.Event()
        self._heartbeat: threading.Thread | None = None
        _live_tokens.add(self._token)

    def take(self, index: int) -> bool:
        """Claim a chunk; return whether it is ours now. A stale claim is taken over.

        Raises:
            OSError: the store's folder cannot be written.
        """
        path, problem = self._path(index), OSError()
        for _ in range(FOLDER_TRIES):
            try:
                if not self._create(path) and not self._take_over(path):
                    return False
            except FileNotFoundError as error:  # who gave back the last claim removed the empty folder at this moment
                problem = error
                continue
            except OSError as error:
                problem = error
                break
            self._held.add(index)
            self._start_heartbeat()
            return True
        raise cannot_write(self._folder.parent, problem) from problem

    def release(self, index: int) -> None:
        """Give a chunk back, whether it is finished or not."""
        self._held.discard(index)
        path = self._path(index)
        if _read(path).get("token") == self._token:
            path.unlink(missing_ok=True)

    def close(self) -> None:
        """Give everything back."""
        self._stop.set()
        for index in sorted(self._held):
            self.release(index)
        _live_tokens.discard(self._token)

    def others(self) -> list[int]:
        """Return the chunks that living writers other than this one hold."""
        return [index for index in live_claims(self._folder) if index not in self._held]

    def _path(self, index: int) -> Path:
        return self._folder / f"{index:06d}"

    def _create(self, path: Path) -> bool:
        owner = {"host": host_id(), "pid": os.getpid(), "started": _process_start(os.getpid()), "token": self._token}
        return create_exclusive(
            path, json.dumps(owner).encode(), path.with_name(f".{path.name}-{secrets.token_hex(4)}")
        )

    def _take_over(self, path: Path) -> bool:
        """Put the claim of a dead writer aside and create ours."""
        owner = _read(path)
        if not _is_gone(owner, path):
            return False
        aside = path.with_name(f".{path.name}-stale-{secrets.token_hex(4)}")
        try:
            os.rename(path, aside)
        except FileNotFoundError:
            return False
        if _read(aside) != owner:  # another writer took it over between our look and our rename
            os.rename(aside, path)
            return False
        aside.unlink(missing_ok=True)
        return self._create(path)

    def _start_heartbeat(self) -> None:
        if self._heartbeat is None:
            self._heartbeat = threading.Thread(target=self._beat, name="fsar-store-claims", daemon=True)
            self._heartbeat.start()

    def _beat(self) -> None:
        while not self._stop.wait(HEARTBEAT_SECONDS):
            for index in tuple(self._held):
                try:
                    os.utime(self._path(index))
                except OSError:  # taken over, or the disk is away for a moment: the journal decides in the end
                    continue


@contextmanager
def metadata_claim(folder: Path) -> Iterator[None]:
    """Hold the right to change what is not numbers; wait for another holder up to `PATIENCE_SECONDS`.

    Raises:
        InputError: the other holder does not finish.
    """
    claims, deadline = Claims(folder), time.monotonic() + PATIENCE_SECONDS
    try:
        while not claims.take(METADATA_INDEX):
            if time.monotonic() > deadline:
                raise InputError(f"{folder.parent} is being changed by another process; try again later")
            time.sleep(0.02)
        yield
    finally:
        claims.close()
        with suppress(OSError):  # others may have claims in it, or it is gone
            folder.rmdir()


def drop_chunk_claims(folder: Path) -> None:
    """Remove the claims on chunks, of which a complete store has none left to work on."""
    for name in list_names(folder):
        if name != f"{METADATA_INDEX:06d}":
            (folder / name).unlink(missing_ok=True)


def live_claims(folder: Path) -> list[int]:
    """Return the chunks that some living writer holds."""
    names = [name for name in list_names(folder) if re.fullmatch("[0-9]{6,10}", name)]
    return [int(name) for name in names if int(name) != METADATA_INDEX and not is_stale(folder / name)]


def is_stale(path: Path) -> bool:
    """Return whether the claim's writer is gone; False as well when the claim itself is gone."""
    return _is_gone(_read(path), path)


def _is_gone(owner: dict[str, Any], path: Path) -> bool:
    if not owner:
        return False
    if owner.get("host") == host_id():
        if owner["pid"] == os.getpid():
            return owner["token"] not in _live_tokens
        return _process_start(owner["pid"]) != owner["started"] or not _process_exists(owner["pid"])
    return abs(_age_seconds(path)) > STALE_SECONDS  # nobody will touch a file in the future


def host_id() -> str:
    """Return a name under which a process id is unique: machine, boot, and process namespace."""
    parts = [socket.gethostname()]
    try:
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        parts.append(os.readlink("/proc/self/ns/pid"))
    except OSError:  # not Linux: the host's name has to do
        pass
    return "/".join(parts)


def _read(path: Path) -> dict[str, Any]:
    try:
        owner = json.loads(read_plain(path, MAX_CLAIM_BYTES))
        if {name: type(owner[name]) for name in _OWNER} == _OWNER and 0 < owner["pid"] < 1 << 31:
            return dict(owner)
    except FileNotFoundError:
        return {}
    except (ValueError, KeyError, TypeError, RecursionError):
        pass
    # Torn by a crash on a disk without hard links, or never a claim: nobody's.
    return {"host": "", "pid": 0, "started": "", "token": ""}


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


def _process_start(pid: int) -> str:
    """Return the start time of a process in clock ticks, empty when unknown: a process id may come back."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return ""


def _age_seconds(path: Path) -> float:
    """Return the age of a file by the file server's own clock."""
    probe = path.with_name(f".clock-{secrets.token_hex(4)}")
    try:
        probe.touch()
        return probe.stat().st_mtime - path.stat().st_mtime
    except FileNotFoundError:
        return 0.0
    finally:
        probe.unlink(missing_ok=True)
