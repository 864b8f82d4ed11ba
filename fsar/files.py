"""Files that are either whole or absent (temporary name, flush, rename), and files that strangers made."""

import errno
import hashlib
import os
import secrets
import shutil
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import TYPE_CHECKING

from fsar.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

DISK_ERRNOS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG})
"""Errors of the disk that is written to: every further file would meet them too."""
TEMPORARY_MARK = ".tmp-"
"""Every unfinished file of ours carries this in its name, so that leftovers of a killed run can be told and removed."""


FOLDER_TRIES = 10
_marks = [""]


def mark_temporaries(mark: str) -> None:
    """Put `mark` into the names of all unfinished files of this process from now on; see `remove_leftovers`."""
    _marks[:] = [mark]


def temporary_path(path: Path) -> Path:
    """Return a fresh name beside `path`; the suffix is kept because video writers choose the container by it."""
    mark = _marks[0] or os.getpid()
    return path.with_name(f".{path.stem}{TEMPORARY_MARK}{mark}-{secrets.token_hex(4)}{path.suffix}")


MAX_DOCUMENT_BYTES = 64 << 20
"""The largest JSON or CSV file that is read whole, where nothing else is said."""
_NO_WAITING = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)


def open_plain(path: Path) -> BufferedReader:
    """Open a plain file for reading, and nothing else: a pipe or device would hang, a link leads to another's files.

    Raises:
        FileNotFoundError: there is no such file.
        InputError: it is a link, folder, pipe, socket or device.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | _NO_WAITING)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EMLINK, errno.ENXIO):  # a link (EMLINK on BSD), a socket
            raise _not_plain(path) from None
        raise
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise _not_plain(path)
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def _not_plain(path: Path) -> InputError:
    return InputError(f"{path} is not a plain file but a link, folder, pipe or device: nothing is read from it")


def read_plain(path: Path, max_bytes: int = MAX_DOCUMENT_BYTES) -> bytes:
    """Return the bytes of a plain file of at most `max_bytes`.

    Raises:
        FileNotFoundError: there is no such file.
        InputError: it is larger, or no plain file.
    """
    with open_plain(path) as file:
        size = os.fstat(file.fileno()).st_size
        data = file.read(max_bytes + 1) if size <= max_bytes else b""
    if size > max_bytes or len(data) > max_bytes:
        raise InputError(f"{path} has {size} bytes, more than the {max_bytes} that such a file may have")
    return data


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path to write to; on success it is flushed to disk and renamed to `path`, else removed.

    Parent folders are made. A crash leaves at most a file marked with `TEMPORARY_MARK`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_path(path)
    try:
        yield temporary
        sync_file(temporary)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield a new temporary folder to fill; on success it is flushed and renamed to `path`, else removed.

    An older folder at `path` is removed just before the rename: a crash between the two leaves no folder, never a mix.
    Where another process puts its own there at the same moment, one of the two stays.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_path(path)
    temporary.mkdir()
    try:
        yield temporary
        for file in temporary.iterdir():
            sync_file(file)
        sync_folder(temporary)
        _put_in_place(temporary, path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    sync_folder(path.parent)


def _put_in_place(temporary: Path, path: Path) -> None:
    for _ in range(FOLDER_TRIES):
        if path.exists():
            shutil.rmtree(path, ignore_errors=True)
        try:
            os.rename(temporary, path)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
        else:
            return
    raise FileExistsError(errno.EEXIST, "this folder cannot be replaced", str(path))


def write_atomic(path: Path, data: bytes | str) -> None:
    """Write `data` (text as UTF-8) to `path` so that a reader sees the old file or the new one, never a part."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data.encode() if isinstance(data, str) else data)


def write_safetensors(path: Path, tensors: Mapping[str, "Tensor"], metadata: Mapping[str, str] | None = None) -> None:
    """Write tensors as a safetensors file, whole or not at all, which whoever the umask lets can read."""
    from safetensors.torch import save_file

    with atomic_path(path) as temporary:
        temporary.touch()
        mode = temporary.stat().st_mode
        # An empty mapping, together with no tensors, would make a file that cannot be read.
        save_file(dict(tensors), temporary, metadata=dict(metadata) if metadata else None)
        temporary.chmod(mode)  # safetensors makes files for their owner alone


def sync_file(path: Path) -> None:
    """Flush a written file to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(path: Path) -> None:
    """Flush a folder's entries, so that a rename survives a power cut. Does nothing where folders cannot be opened."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except PermissionError:  # Windows
        return
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_leftovers(folder: Path, mark: str = "") -> int:
    """Remove the temporary files and folders that killed runs left anywhere below `folder`; return how many.

    With a `mark`, only those of processes that were told to use it: others may be at work in the same folder.
    """
    leftovers = list(folder.rglob(f".*{TEMPORARY_MARK}{mark}*"))
    for path in leftovers:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    return len(leftovers)


def sha256_file(path: Path) -> str:
    """Return the hex sha256 of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
