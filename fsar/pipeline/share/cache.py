"""What was read from addresses, kept on this disk: one folder for each identity, filled as it is needed."""

import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from fsar.errors import InputError
from fsar.files import TEMPORARY_MARK
from fsar.pipeline.share.download import Progress
from fsar.pipeline.share.pull import CANNOT_WRITE, fetch_names, locked, write_documents
from fsar.pipeline.share.upstream import Upstream
from fsar.pipeline.store import list_formats
from fsar.pipeline.store.disk import list_names
from fsar.pipeline.store.format.files import MANIFEST_FILE, StoreFiles
from fsar.pipeline.store.partial import PARTIAL_FILE, Partial, read_partial

CACHE_VARIABLE = "FSAR_CACHE"
DAY_SECONDS = 86_400.0
_IDENTITY = re.compile("[0-9a-f]{64}")


def cache_folder() -> Path:
    """Return the folder of the cache: $FSAR_CACHE, or `fsar` below the user's cache folder."""
    named = os.environ.get(CACHE_VARIABLE)
    if named:
        return Path(named).expanduser().absolute()
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(base).absolute() / "fsar"


@dataclass(frozen=True)
class Cached:
    """One store in the cache."""

    identity: str
    path: Path
    source: str
    n_bytes: int
    used: float
    """When it was last opened, in seconds since 1970."""


def entry_files(identity: str, name: str) -> StoreFiles:
    """Return the files of a store in the cache, whether or not they exist."""
    return StoreFiles.at(cache_folder() / identity / name)


def find(identity: str, name: str) -> StoreFiles | None:
    """Return a store that was opened before, None if there is none of that identity."""
    files = entry_files(identity, name) if identity else None
    return files if files and files.exists() and files.locate(MANIFEST_FILE).exists() else None


def enter(source: Upstream) -> StoreFiles:
    """Return a store's files in the cache, made now unless they exist; its numbers are not fetched yet."""
    files = entry_files(source.identity, source.name)
    if find(source.identity, source.name) is None:
        with writing(files):
            Partial(str(source.address)).write(files)
            write_documents(files, source, reversed(source.kind.opening))  # the manifest last
    return files


def provide(files: StoreFiles, source: Upstream, names: Sequence[str], progress: Progress | None) -> None:
    """Fetch files of a store into the cache, unless somebody else did meanwhile."""
    with writing(files):
        missing = [name for name in names if not files.locate(name).exists()]
        fetch_names(files, source, missing, progress)


@contextmanager
def writing(files: StoreFiles) -> Iterator[None]:
    """Hold the right to fill a store of the cache."""
    try:
        with locked(files.home):
            yield
    except OSError as error:
        if error.errno not in CANNOT_WRITE:
            raise
        advice = f"make room or set {CACHE_VARIABLE} to another folder"
        raise OSError(
            error.errno, f"the cache cannot be written ({error.strerror}): {advice}", str(cache_folder())
        ) from error


def touch(files: StoreFiles) -> None:
    """Note that a store was used now."""
    with suppress(OSError):  # a cache that others filled may be read-only
        os.utime(files.home / PARTIAL_FILE)


def list_cache() -> list[Cached]:
    """Return the stores in the cache, the one that was used last first."""
    return sorted((_describe(identity, name) for identity, name in _entries()), key=lambda item: -item.used)


def _entries() -> list[tuple[str, str]]:
    """Return identity and name of each store; of an HDF5 store perhaps only the folder of parts is here."""
    identities = [name for name in list_names(cache_folder()) if _IDENTITY.fullmatch(name)]
    names = {
        identity: {n.removesuffix(".parts") for n in list_names(cache_folder() / identity)} for identity in identities
    }
    return [(i, name) for i in identities for name in sorted(names[i]) if name.endswith(tuple(list_formats()))]


def _describe(identity: str, name: str) -> Cached:
    files = entry_files(identity, name)
    try:
        partial, used = read_partial(files), (files.home / PARTIAL_FILE).stat().st_mtime
    except (OSError, InputError):  # cut short, or damaged: nothing worth keeping
        partial, used = None, 0.0
    return Cached(identity, files.path, partial.source if partial else "", _size(files), used)


def prune(*, older_than_days: float) -> list[Cached]:
    """Remove the stores that were not used for some days, except those being filled; return what was removed."""
    limit, removed = time.time() - older_than_days * DAY_SECONDS, []
    for item in list_cache():
        if item.used <= limit and _remove(item):
            removed.append(item)
    return removed


def _remove(item: Cached) -> bool:
    files, folder = StoreFiles.at(item.path), item.path.parent
    with locked(files.home, wait=False) as ours:
        if not ours:
            return False
        aside = folder.with_name(f".{folder.name[:16]}{TEMPORARY_MARK}{os.getpid()}-{secrets.token_hex(4)}")
        os.rename(folder, aside)  # nobody opens what is half removed; who has it open keeps reading
    shutil.rmtree(aside, ignore_errors=True)
    return True


def _size(files: StoreFiles) -> int:
    total = 0
    for path in files.path.parent.rglob("*"):
        with suppress(OSError):
            total += 0 if path.is_dir() else path.lstat().st_size
    return total
