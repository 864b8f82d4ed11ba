"""Stores on a disk that others mount, too: file:///folder/NAME.zarr."""

import errno
import fcntl
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO
from urllib.parse import unquote

from fsar.errors import InputError
from fsar.files import TEMPORARY_MARK, sync_folder, temporary_path
from fsar.pipeline.share.address import Address
from fsar.pipeline.share.transport import BLOCK_BYTES, Body, NotThereError, Upload, register_transport
from fsar.pipeline.share.upload import finish_each, put_each, sizes_of_each
from fsar.pipeline.store.format.files import StoreFiles

_FLAGS = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)


def local_path(location: str) -> Path:
    """Return the path of a file address."""
    return Path(unquote(location.removeprefix("file://")))


@register_transport("file")
class FileTransport:
    """Plain files. Links, pipes and devices in place of files are refused, and links in place of a store's folders."""

    def __init__(self, address: Address) -> None:
        self._named = local_path(address.location)

    @contextmanager
    def get(self, location: str, *, start: int = 0, resume: str = "") -> Iterator[Body]:
        """Open a file."""
        path = self._path(location)
        try:
            descriptor = os.open(path, _FLAGS)
        except (FileNotFoundError, NotADirectoryError):
            raise NotThereError(f"{location} is not there") from None
        with os.fdopen(descriptor, "rb") as file:
            state = os.fstat(file.fileno())
            if stat.S_ISDIR(state.st_mode):
                raise NotThereError(f"{location} is a folder")
            if not stat.S_ISREG(state.st_mode):
                raise OSError(f"{location} is not a plain file")
            validator = f"{state.st_ino}-{state.st_size}-{state.st_mtime_ns}"
            start = start if resume == validator else 0
            file.seek(start)
            yield Body(start, state.st_size, validator, iter(lambda: file.read(BLOCK_BYTES), b""))

    def children(self, location: str) -> list[str]:
        """Return the names in a folder."""
        try:
            with os.scandir(self._path(f"{location}/*").parent) as entries:
                return sorted(entry.name + ("/" if entry.is_dir() else "") for entry in entries)
        except (FileNotFoundError, NotADirectoryError):
            return []

    def size(self, location: str) -> int | None:
        """Return the size of a plain file."""
        try:
            state = os.lstat(self._path(location))
        except (FileNotFoundError, NotADirectoryError):
            return None
        return state.st_size if stat.S_ISREG(state.st_mode) else None

    def put(self, location: str, source: Path | bytes, *, replace: bool = False) -> None:
        """Write a file under a temporary name and rename it."""
        path = self._path(location)
        if not replace and path.exists():
            raise FileExistsError(f"{location} exists")
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary, target = _begun(path)
        with target:
            try:
                _write(source, target)
                os.replace(temporary, path)
            except BaseException:
                temporary.unlink(missing_ok=True)
                raise
        sync_folder(path.parent)

    def sizes(self, locations: Sequence[str]) -> list[int | None]:
        """Return the sizes of several objects."""
        return sizes_of_each(self, locations)

    def put_many(self, uploads: Sequence[Upload], advance: Callable[[int], None]) -> None:
        """Write several objects at once."""
        put_each(self, uploads, advance)

    def finish(self, uploads: Sequence[Upload], files: StoreFiles) -> None:
        """Write the last objects of a version in their order, and clear what killed pushes left beside them."""
        finish_each(self, uploads)
        remove_abandoned(self._path(uploads[-1].location).parent)

    def _path(self, location: str) -> Path:
        """Return the path of an object. Raises InputError where a folder on its way is a link that nobody named."""
        path, named = local_path(location), self._named
        for folder in path.parents:
            if folder in (named, named.parent) or (named.is_symlink() and folder == Path(f"{named}.parts")):
                break  # whoever names a link knows where it leads; the parts of HDF5 may go with their master
            if folder.is_symlink():
                raise InputError(f"{folder} is a link: a store must hold its own folders")
        return path


def remove_abandoned(folder: Path) -> None:
    """Remove the unfinished files below a folder that no living process holds, on this machine or another."""
    for path in folder.rglob(f".*{TEMPORARY_MARK}*"):
        # An error: it is held, has just got its name, or this disk knows no locks.
        with suppress(OSError), open(os.open(path, _FLAGS), "rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()


def _begun(path: Path) -> tuple[Path, BinaryIO]:
    """Return a new file beside `path`, locked for as long as it is open: so others see that it is not abandoned."""
    while True:
        temporary = temporary_path(path)
        file = open(temporary, "xb")  # noqa: SIM115 - it stays open, and locked, until it has its name
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(file.fileno()), os.stat(temporary)):
                return temporary, file
        except OSError as error:
            if error.errno in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):  # a disk without locks
                return temporary, file
        file.close()  # somebody took it for abandoned before it was locked


def _write(source: Path | bytes, target: BinaryIO) -> None:
    """Write all bytes of a source, through to the disk."""
    if isinstance(source, bytes):
        target.write(source)
    else:
        with open(source, "rb") as file:
            while block := file.read(BLOCK_BYTES):
                target.write(block)
    target.flush()
    os.fsync(target.fileno())
