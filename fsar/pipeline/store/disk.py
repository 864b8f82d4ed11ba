"""The few ways in which a store touches the disk; every write is flushed, every appearance is one rename or link."""

import errno
import hashlib
import os
import stat
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from fsar.files import open_plain, sync_folder

Buffer = bytes | memoryview
HASH_IN_THREAD_BYTES = 4 << 20
WRITERS = 4
FOLDER_TRIES = 100
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""The disk, the user's share of it, or what one file may take is used up."""
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EOPNOTSUPP, errno.EMLINK)


@dataclass(frozen=True)
class FileEntry:
    """What is known of a finished file."""

    sha256: str
    n_bytes: int

    @classmethod
    def of(cls, buffers: Sequence[Buffer]) -> "FileEntry":
        """Return the entry of a file that consists of `buffers`."""
        digest = hashlib.sha256()
        for buffer in buffers:
            digest.update(buffer)
        return cls(digest.hexdigest(), sum(memoryview(buffer).nbytes for buffer in buffers))


def make_folder(folder: Path) -> None:
    """Make a folder and its parents, also while others remove parents that are empty at the moment."""
    for _ in range(FOLDER_TRIES):
        with suppress(FileNotFoundError):
            folder.mkdir(parents=True, exist_ok=True)
            return
    folder.mkdir(parents=True, exist_ok=True)


def write_all(folder: Path, contents: Mapping[str, Sequence[Buffer]]) -> dict[str, FileEntry]:
    """Write several new files below `folder` at once, so that the disk flushes them together; return their entries."""
    with ThreadPoolExecutor(WRITERS) as pool:
        written = pool.map(lambda name: write_new(folder / name, contents[name]), contents)
        return dict(zip(contents, written, strict=True))


def write_new(path: Path, buffers: Sequence[Buffer]) -> FileEntry:
    """Write a file that must not exist yet, flush it to the disk, and return its entry."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if sum(memoryview(buffer).nbytes for buffer in buffers) < HASH_IN_THREAD_BYTES:
        _write(path, buffers)
        return FileEntry.of(buffers)
    with ThreadPoolExecutor(1) as pool:  # hashing and writing both release the interpreter lock
        entry = pool.submit(FileEntry.of, buffers)
        _write(path, buffers)
        return entry.result()


def _write(path: Path, buffers: Sequence[Buffer]) -> None:
    with open(path, "xb", buffering=0) as file:
        for buffer in buffers:
            rest = memoryview(buffer).cast("B")
            while rest.nbytes:
                rest = rest[file.write(rest) :]
        os.fsync(file.fileno())


def replace(source: Path, target: Path) -> None:
    """Rename a finished file to its place, over an older one if there is one."""
    target.parent.mkdir(parents=True, exist_ok=True)
    os.replace(source, target)


def create_exclusive(path: Path, data: bytes, temporary: Path) -> bool:
    """Create `path` with `data` unless it exists; return whether it was us. Whole or absent at every moment."""
    try:
        write_new(temporary, [data])
        path.parent.mkdir(parents=True, exist_ok=True)
        os.link(temporary, path)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        return _create_without_links(path, data)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)
    return True


def _create_without_links(path: Path, data: bytes) -> bool:
    try:
        _write(path, [data])
    except FileExistsError:
        return False
    return True


def cannot_write(place: Path, error: OSError) -> OSError:
    """Return an error of the same kind as `error` that names the store, or its folder, and says what to do."""
    if error.errno in NO_ROOM:
        reason = f"{error.strerror}; what was finished is kept: make room and run the same command again"
    else:
        reason = f"this folder cannot be written ({error.strerror})"
    return OSError(error.errno, reason, str(place))


def file_entry(path: Path, expected_bytes: int | None = None) -> FileEntry | None:
    """Return the entry of a plain file on the disk, None if there is none.

    A file of another size than `expected_bytes` is not read: its entry has no sha256.

    Raises:
        InputError: it is a link, pipe, device or folder.
    """
    try:
        with open_plain(path) as file:
            n_bytes = os.fstat(file.fileno()).st_size
            if expected_bytes not in (None, n_bytes):
                return FileEntry("", n_bytes)
            return FileEntry(hashlib.file_digest(file, "sha256").hexdigest(), n_bytes)
    except FileNotFoundError:
        return None


def is_whole(path: Path, entry: FileEntry) -> bool:
    """Return whether a staged file is plain and has its whole size. Raises FileNotFoundError if there is none."""
    found = path.lstat()
    return stat.S_ISREG(found.st_mode) and found.st_size == entry.n_bytes


def list_names(folder: Path) -> list[str]:
    """Return the sorted names in a folder, none if it does not exist."""
    try:
        return sorted(os.listdir(folder))
    except FileNotFoundError:
        return []
