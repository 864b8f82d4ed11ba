"""Stores on a disk that others mount, too: file:///folder/NAME.zarr."""

import os
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import unquote

from fsar.files import atomic_path
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
    """Plain files. Links, pipes and devices in place of files are refused."""

    def __init__(self, address: Address) -> None:
        pass

    @contextmanager
    def get(self, location: str, *, start: int = 0, resume: str = "") -> Iterator[Body]:
        """Open a file."""
        path = local_path(location)
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
            with os.scandir(local_path(location)) as entries:
                return sorted(entry.name + ("/" if entry.is_dir() else "") for entry in entries)
        except (FileNotFoundError, NotADirectoryError):
            return []

    def size(self, location: str) -> int | None:
        """Return the size of a plain file."""
        try:
            state = os.lstat(local_path(location))
        except (FileNotFoundError, NotADirectoryError):
            return None
        return state.st_size if stat.S_ISREG(state.st_mode) else None

    def put(self, location: str, source: Path | bytes, *, replace: bool = False) -> None:
        """Write a file under a temporary name and rename it."""
        path = local_path(location)
        if not replace and path.exists():
            raise FileExistsError(f"{location} exists")
        with atomic_path(path) as temporary, open(temporary, "wb") as target:
            if isinstance(source, bytes):
                target.write(source)
                return
            with open(source, "rb") as file:
                while block := file.read(BLOCK_BYTES):
                    target.write(block)

    def sizes(self, locations: Sequence[str]) -> list[int | None]:
        """Return the sizes of several objects."""
        return sizes_of_each(self, locations)

    def put_many(self, uploads: Sequence[Upload], advance: Callable[[int], None]) -> None:
        """Write several objects at once."""
        put_each(self, uploads, advance)

    def finish(self, uploads: Sequence[Upload], files: StoreFiles) -> None:
        """Write the last objects of a version in their order."""
        finish_each(self, uploads)
