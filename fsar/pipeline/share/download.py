"""Files from elsewhere, verified while they stream: a file is at its place with the right bytes, or it is not there.

A file grows under a temporary name that its hash decides, so that whoever comes next, after a lost connection or a
killed process, goes on with it; nothing is renamed to its place before its hash is right.
"""

import errno
import hashlib
import os
import random
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from fsar.errors import InputError, printable
from fsar.files import TEMPORARY_MARK, sync_folder
from fsar.pipeline.share.threads import in_threads
from fsar.pipeline.share.transport import NotThereError, TransientError, Transport
from fsar.pipeline.store.disk import FileEntry

N_CONNECTIONS = 16
N_TRIES = 6
BACKOFF_SECONDS, MAX_BACKOFF_SECONDS = 0.5, 8.0
TELL_SECONDS = 10.0
RESUME_BYTES = 1 << 20
"""Smaller files start again."""
SPARE_BYTES = 64 << 20
"""Room that stays free on a disk."""
Advance = Callable[[int], None]
Progress = Callable[[int], AbstractContextManager[Advance]]
"""Given a number of bytes, makes a context in which they are counted as they come."""
T = TypeVar("T")


@dataclass(frozen=True)
class Download:
    """One file to fetch."""

    location: str
    entry: FileEntry
    target: Path | None
    """None: read and verify it, keep nothing."""


class Stopped(Exception):
    """Another download of the same batch has failed."""


def fetch_all(transport: Transport, downloads: Sequence[Download], advance: Advance | None = None) -> None:
    """Fetch files over many connections, big ones first; `advance` is told of bytes as they come.

    Raises:
        InputError: a file has other bytes than it must have.
        OSError: a server fails for good, or the disk has no room; what is complete stays.
    """
    _check_room(downloads)
    stop = threading.Event()
    ordered = sorted(downloads, key=lambda item: -item.entry.n_bytes)
    tell = advance or (lambda n_bytes: None)
    in_threads(lambda item: fetch(transport, item, tell, stop), ordered, n_threads=N_CONNECTIONS, stop=stop)
    for folder in {item.target.parent for item in downloads if item.target}:
        sync_folder(folder)


def fetch(transport: Transport, item: Download, advance: Advance, stop: threading.Event) -> None:
    """Fetch one file, with patience for what may be over in a moment."""
    grower = _Growing(item)
    tries = 0
    while True:
        before = grower.n_bytes
        try:
            grower.go_on(transport, advance, stop)
            return
        except TransientError as error:
            tries = 1 if grower.n_bytes - before >= RESUME_BYTES else tries + 1
            if tries >= N_TRIES:
                raise OSError(f"{error}, {tries} times in a row; run the same command again to go on") from error
            _pause(tries, error, stop)


def with_patience(action: Callable[[], T]) -> T:
    """Return what an action returns, tried again after what may be over in a moment."""
    for tries in range(1, N_TRIES):
        try:
            return action()
        except TransientError as error:
            _pause(tries, error, threading.Event())
    try:
        return action()
    except TransientError as error:
        raise OSError(f"{error}, {N_TRIES} times in a row") from error


def _pause(tries: int, error: TransientError, stop: threading.Event) -> None:
    if time.monotonic() - _Told.at >= TELL_SECONDS:
        _Told.at = time.monotonic()
        sys.stderr.write(f"note: {printable(str(error))}; trying again\n")
    backoff = min(BACKOFF_SECONDS * 2 ** (tries - 1), MAX_BACKOFF_SECONDS) * random.uniform(0.5, 1.0)
    if stop.wait(max(backoff, error.retry_after_seconds)):
        raise Stopped


class _Told:
    """When somebody was told of a server's trouble: many requests have it at once."""

    at = -1e9


class _Growing:
    """A file on its way."""

    def __init__(self, item: Download) -> None:
        self._item = item
        self._path = None if item.target is None else unfinished_path(item.target, item.entry)
        self._digest = hashlib.sha256()
        self.n_bytes = 0
        self._validator = ""
        self._told = 0
        self._take_up()

    def go_on(self, transport: Transport, advance: Advance, stop: threading.Event) -> None:
        """Fetch what is missing, verify the whole and put it in place."""
        item, wanted = self._item, self._item.entry.n_bytes
        if self.n_bytes < wanted or not wanted:
            with transport.get(item.location, start=self.n_bytes, resume=self._validator) as body:
                if body.n_bytes is not None and body.n_bytes != wanted:
                    raise _changed(item, f"it has {body.n_bytes} bytes instead of {wanted}")
                if body.start != self.n_bytes:
                    self._start_anew()
                self._remember(body.validator)
                self._append(body.blocks, advance, stop)
        if self.n_bytes < wanted:
            raise TransientError(f"{item.location}: it ended after {self.n_bytes} of {wanted} bytes")
        self._finish()

    def _append(self, blocks: Iterable[bytes], advance: Advance, stop: threading.Event) -> None:
        wanted = self._item.entry.n_bytes
        with _Sink(self._path) as sink:
            for block in blocks:
                if stop.is_set():
                    raise Stopped
                if self.n_bytes + len(block) > wanted:
                    self._discard()
                    raise _changed(self._item, f"it is longer than {wanted} bytes")
                sink.write(block)
                self._digest.update(block)
                self.n_bytes += len(block)
                if self.n_bytes > self._told:  # bytes that come a second time are not progress
                    advance(self.n_bytes - self._told)
                    self._told = self.n_bytes

    def _finish(self) -> None:
        if self._digest.hexdigest() != self._item.entry.sha256:
            self._discard()
            raise _changed(self._item, "its bytes have another sha256")
        if self._path is not None and self._item.target is not None:
            if not self._item.entry.n_bytes:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                self._path.touch()
            _sync(self._path)
            os.replace(self._path, self._item.target)
            _validator_path(self._path).unlink(missing_ok=True)

    def _take_up(self) -> None:
        """Go on with what an earlier run has left, if the server can tell whether it is still the same."""
        if self._path is None:
            return
        try:
            self._validator = _validator_path(self._path).read_text()
            size = self._path.stat().st_size
            if not RESUME_BYTES <= size <= self._item.entry.n_bytes or not self._validator:
                raise FileNotFoundError
            with open(self._path, "rb") as file:
                while block := file.read(1 << 20):
                    self._digest.update(block)
                    self.n_bytes += len(block)
        except (FileNotFoundError, UnicodeDecodeError):
            self._start_anew()

    def _start_anew(self) -> None:
        self._digest, self.n_bytes, self._validator = hashlib.sha256(), 0, ""
        if self._path is not None:
            self._path.unlink(missing_ok=True)

    def _remember(self, validator: str) -> None:
        if validator != self._validator and self._path is not None and self._item.entry.n_bytes > RESUME_BYTES:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            _validator_path(self._path).write_text(validator)
        self._validator = validator

    def _discard(self) -> None:
        self._start_anew()
        if self._path is not None:
            _validator_path(self._path).unlink(missing_ok=True)


class _Sink:
    """Where the bytes of a growing file go; nowhere without a path."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._descriptor = -1

    def __enter__(self) -> "_Sink":
        if self._path is not None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
            self._descriptor = os.open(self._path, flags, 0o666)
        return self

    def __exit__(self, *_: object) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)

    def write(self, block: bytes) -> None:
        rest = memoryview(block)
        while rest and self._descriptor >= 0:
            rest = rest[os.write(self._descriptor, rest) :]


def unfinished_path(target: Path, entry: FileEntry) -> Path:
    """Return the temporary name of a file on its way to `target`; the same in every run."""
    return target.with_name(f".{target.name}{TEMPORARY_MARK}{entry.sha256[:16]}")


def _validator_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.state")


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _changed(item: Download, why: str) -> InputError:
    return InputError(
        f"{item.location} is not what the manifest names: {why}. It has changed, or somebody has tampered with it; "
        "nothing of it is kept"
    )


def _check_room(downloads: Sequence[Download]) -> None:
    targets = [item.target for item in downloads if item.target is not None]
    if not targets:
        return
    folder = targets[0].parent
    while not folder.exists():
        folder = folder.parent
    needed = sum(
        item.entry.n_bytes - _size(unfinished_path(item.target, item.entry)) for item in downloads if item.target
    )
    free = shutil.disk_usage(folder).free
    if needed + min(SPARE_BYTES, needed) > free:
        raise OSError(
            errno.ENOSPC, f"{needed / 1e6:.1f} MB are to come, and {free / 1e6:.1f} MB are free; make room", str(folder)
        )


def _size(path: Path) -> int:
    with suppress(OSError):
        return path.stat().st_size
    return 0


def read_small(transport: Transport, location: str, *, max_bytes: int) -> bytes | None:
    """Return the whole of a small object, None if it is not there.

    Raises:
        InputError: it is longer than `max_bytes`.
    """

    def read() -> bytes | None:
        data = bytearray()
        try:
            with transport.get(location) as body:
                if body.n_bytes is not None and body.n_bytes > max_bytes:
                    raise InputError(f"{location}: {body.n_bytes} bytes are too many for such a file")
                for block in body.blocks:
                    data.extend(block)
                    if len(data) > max_bytes:
                        raise InputError(f"{location}: longer than {max_bytes} bytes, too long for such a file")
        except NotThereError:
            return None
        return bytes(data)

    return with_patience(read)


def read_together(transport: Transport, locations: Sequence[str], *, max_bytes: int) -> list[bytes | None]:
    """Return several small objects, asked for at the same time."""
    return in_threads(
        lambda location: read_small(transport, location, max_bytes=max_bytes), locations, n_threads=len(locations)
    )
