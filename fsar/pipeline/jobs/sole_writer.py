"""A folder that one run holds alone."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fsar.errors import InputError


@contextmanager
def sole_writer(folder: Path) -> Iterator[None]:
    """Hold an existing folder; the lock ends with this process, however that ends, and leaves no file behind.

    Raises InputError while another run holds the folder. Windows and some network disks cannot lock: nothing is held.
    """
    if sys.platform == "win32":
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        if not _lock(descriptor):
            raise InputError(f"another run is writing to {folder}: wait until it ends, or choose another folder")
        yield
    finally:
        os.close(descriptor)


def _lock(descriptor: int) -> bool:
    """Return False where another process has the lock."""
    import fcntl

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a disk that cannot lock
        pass
    return True
