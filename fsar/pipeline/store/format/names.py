"""Names that come out of a store are checked before anything on the disk is touched by them.

Whoever can write a store can forge every checksum in it. What keeps a foreign store in its own folder is this page:
names are plain relative paths, and no folder on the way is a link.
"""

import re
from collections.abc import Iterable
from pathlib import Path

from fsar.errors import InputError

MAX_NAME_CHARS = 512
_PART = re.compile(r"[A-Za-z0-9_@][A-Za-z0-9_.+@-]*", re.ASCII)
"""Letters, digits and a few signs: no separator, no `..`, no hidden file, nothing that only looks like a letter."""


def checked_name(name: str) -> str:
    """Return `name`, the name of a file inside a store, e.g. `features/pooled/c.0.0.0.0`.

    Raises:
        InputError: it leads out of the store, or no file of a store has such a name.
    """
    if len(name) > MAX_NAME_CHARS or not all(_PART.fullmatch(part) for part in name.split("/")):
        raise InputError(f"{_short(name)} is no name of a file in a store: the store is damaged or forged")
    return name


def refuse_collisions(names: Iterable[str], source: str) -> None:
    """Raise InputError when two names are one on disks that do not tell capitals from small letters."""
    seen: dict[str, str] = {}
    for name in names:
        other = seen.setdefault(name.casefold(), name)
        if other != name:
            raise InputError(
                f"{source} has {other!r} and {name!r}, which are one name on many disks: rename one of them"
            )


def inside(home: Path, name: str) -> Path:
    """Return the path of the file `name` in the store's folder `home`; it need not exist.

    The file itself may still be a link, which whoever opens it with `fsar.files.open_plain` refuses.

    Raises:
        InputError: the name leads out of the store, or a folder on its way is a link.
    """
    path = home
    for part in checked_name(name).split("/"):
        if path is not home and path.is_symlink():
            raise InputError(f"{path} is a link: a store must hold its own folders")
        path = path / part
    return path


def inside_folder(home: Path, name: str) -> Path:
    """Return the path of a folder in the store's folder `home`; it need not exist.

    Raises:
        InputError: as `inside`, or the folder itself is a link.
    """
    path = inside(home, name)
    if path.is_symlink():
        raise InputError(f"{path} is a link: a store must hold its own folders")
    return path


def _short(name: str) -> str:
    text = repr(name)
    return text if len(text) <= 80 else f"{text[:77]}..."
