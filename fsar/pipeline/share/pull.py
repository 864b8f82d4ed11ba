"""Copy a store or a pack, or whole chunks of it, from an address to this disk: the manifest comes last."""

import errno
import fcntl
import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from fsar.errors import InputError, unknown_name
from fsar.files import TEMPORARY_MARK, sync_folder, write_atomic
from fsar.pipeline.share.address import Address
from fsar.pipeline.share.download import Progress, fetch_all
from fsar.pipeline.share.kinds import METADATA_FILE
from fsar.pipeline.share.upstream import Upstream, open_upstream
from fsar.pipeline.store.disk import cannot_write, file_entry, list_names
from fsar.pipeline.store.format.files import MANIFEST_FILE, RUNS, StoreFiles
from fsar.pipeline.store.format.layout import VideoRow
from fsar.pipeline.store.partial import PARTIAL_FILE, Partial, read_partial

STATE_FILE = f".pull{TEMPORARY_MARK}state"
"""Says that a folder is being filled by pull, and with what; goes when it is done."""
LOCK_FILE = f".pull{TEMPORARY_MARK}lock"
CANNOT_WRITE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass(frozen=True)
class Selection:
    """What of a store is wanted; nothing named: all of it."""

    taps: Sequence[str] = ()
    parts: Sequence[str] = ()
    classes: Sequence[str] = ()
    split: str = ""
    """Name or file of a split: only chunks that hold videos of it."""

    @property
    def is_all(self) -> bool:
        """Whether the whole store is wanted."""
        return not (self.taps or self.parts or self.classes or self.split)

    def names(self, upstream: Upstream) -> list[str]:
        """Return the files that are wanted: whole chunks, whose other videos come along.

        Raises:
            InputError: a tap, part or class that the store does not have, or nothing is in all that was named.
        """
        if self.is_all:
            return list(upstream.entries)
        contents = upstream.contents
        if self.taps and not contents.taps:
            raise InputError(f"{upstream.address} is a {upstream.kind.noun} of frames, which has no taps")
        for tap in self.taps:
            if tap not in contents.taps:
                raise unknown_name("tap", tap, contents.taps)
        return contents.wanted(upstream.entries, self._rows(upstream.videos), set(self.taps) or set(contents.taps))

    def _rows(self, videos: Sequence[VideoRow]) -> list[int]:
        for kind, wanted, known in (
            ("split part", self.parts, {video.part for video in videos}),
            ("class", self.classes, {video.class_name for video in videos}),
        ):
            for name in wanted:
                if not self.split and name not in known:
                    raise unknown_name(kind, name, known)
        rows = [
            row
            for row, (part, class_name) in enumerate(self._places(videos))
            if (not self.parts or part in self.parts)
            and (not self.classes or class_name in self.classes)
            and (part is not None)
        ]
        if not rows:
            raise InputError("no video of the store is in the named split, parts and classes")
        return rows

    def _places(self, videos: Sequence[VideoRow]) -> list[tuple[str | None, str]]:
        """Return part and class of each video, as its store or as the split has them; no part: not in the split."""
        if not self.split:
            return [(video.part, video.class_name) for video in videos]
        from fsar.splits import load_split, match_videos

        places = match_videos(load_split(self.split), [(video.video_id, video.class_name) for video in videos]).places
        return [(place.part, place.class_name) if place else (None, "") for place in places]


@dataclass(frozen=True)
class PullReport:
    """What a pull did."""

    path: Path
    address: str
    """Pinned to what was pulled."""
    identity: str
    n_files: int
    """Fetched now."""
    n_bytes: int
    n_kept: int
    """Files that were here already."""
    is_whole: bool
    """Whether every file of the store is here now."""


def pull(
    address: Address,
    out: Path,
    selection: Selection | None = None,
    *,
    update: bool = False,
    upstream: Upstream | None = None,
    progress: Progress | None = None,
) -> PullReport:
    """Fetch a store into `out`, or what is missing of it there; interrupted, the same call goes on.

    Args:
        address: where the store is.
        out: NAME.zarr, NAME.h5 or NAME.frames, of the same format as what is there.
        selection: what of it; a second pull with another selection adds to the first.
        update: replace a finished copy of another identity; files that are the same in both stay.
        upstream: what `open_upstream(address)` has returned, if it was called before.
        progress: makes a context in which bytes are counted, given their number.

    Raises:
        FileNotFoundError: there is no store at the address.
        InputError: `out` holds something else, or the store has changed, is damaged or hostile.
        OSError: the network or the disk fails; what is complete stays.
    """
    chosen, source = selection or Selection(), upstream or open_upstream(address)
    suffix = Path(source.name).suffix
    if out.suffix != suffix:
        raise InputError(f"{address} is a {source.kind.noun} {suffix}, name the copy NAME{suffix}, not {out}")
    files = source.kind.files(out)
    if files.home.exists() and not files.home.is_dir():
        raise InputError(f"{files.home} exists and is no folder: choose another --out")
    names = chosen.names(source)
    try:
        with locked(files.home):
            state = _Folder(files, source)
            state.prepare(update=update)
            return _fill(files, source, names, state, progress)
    except OSError as error:
        if error.errno in CANNOT_WRITE and not isinstance(error, InputError):
            raise cannot_write(files.path, error) from error
        raise


def _fill(
    files: StoreFiles, source: Upstream, names: Sequence[str], state: "_Folder", progress: Progress | None
) -> PullReport:
    opening, last = source.kind.opening, [METADATA_FILE]
    numbers = [name for name in names if name not in opening]
    missing = [name for name in numbers if not state.has(name)]
    fetch_names(files, source, missing, progress)
    write_documents(files, source, [name for name in opening if name not in (MANIFEST_FILE, *last)])
    is_whole = all(files.locate(name).exists() for name in source.entries if name not in opening)
    if is_whole:
        (files.home / PARTIAL_FILE).unlink(missing_ok=True)
    else:
        Partial(str(source.address)).write(files)
    write_documents(files, source, [*last, MANIFEST_FILE])
    state.finish()
    n_bytes = sum(source.entries[name].n_bytes for name in missing)
    address = str(source.address)
    return PullReport(
        files.path, address, source.identity, len(missing), n_bytes, len(numbers) - len(missing), is_whole
    )


def fetch_names(files: StoreFiles, source: Upstream, names: Sequence[str], progress: Progress | None) -> None:
    """Fetch files of a store to their places."""
    downloads = [source.download(name, files) for name in names]
    total = sum(item.entry.n_bytes for item in downloads)
    if not downloads:
        return
    if progress is None:
        fetch_all(source.transport, downloads)
        return
    with progress(total) as advance:
        fetch_all(source.transport, downloads, advance)


def write_documents(files: StoreFiles, source: Upstream, names: Iterable[str]) -> None:
    """Write what the store was opened by, unless it is there."""
    for name in names:
        path, data = files.locate(name), source.documents[name]
        if not path.exists() or path.stat().st_size != len(data) or path.read_bytes() != data:
            write_atomic(path, data)


class _Folder:
    """The place that a store is pulled to."""

    def __init__(self, files: StoreFiles, source: Upstream) -> None:
        self._files, self._source = files, source
        self._same = False
        """Whether all files at their places were put there for this very store: their sizes are proof enough."""

    def prepare(self, *, update: bool) -> None:
        """See what is here already, and mark the folder as being filled.

        Raises:
            InputError: something is here that no pull has made, or a finished copy of another identity.
        """
        files, source = self._files, self._source
        state = _read_state(files.home / STATE_FILE)
        here = _identity_of(files)
        if here is None and not state and _is_occupied(files):
            raise InputError(
                f"{files.path} exists and is no copy of a store that pull made: choose another --out or remove it"
            )
        if here not in (None, source.identity) and not state:
            if not update:
                raise InputError(
                    f"{files.path} holds another store (sha256={here}): choose another --out, or say --update to "
                    "replace it by what is at the address now"
                )
            if not read_partial(files):
                sys.stderr.write(f"note: {files.path} is replaced; files that are the same stay\n")
        self._same = state == source.identity or (not state and here == source.identity and bool(read_partial(files)))
        if not state and here == source.identity:
            return
        files.home.mkdir(parents=True, exist_ok=True)
        write_atomic(files.home / STATE_FILE, json.dumps({"identity": source.identity}))
        if here != source.identity:
            files.locate(MANIFEST_FILE).unlink(missing_ok=True)
            files.locate(METADATA_FILE).unlink(missing_ok=True)
            self._remove_others()

    def has(self, name: str) -> bool:
        """Return whether a file is here as the manifest names it."""
        path, entry = self._files.locate(name), self._source.entries[name]
        try:
            if path.is_symlink() or path.stat().st_size != entry.n_bytes:
                return False
        except (FileNotFoundError, NotADirectoryError):
            return False
        return self._same or file_entry(path) == entry

    def finish(self) -> None:
        """Take away the marks of the pull."""
        remove_leftovers_of_pull(self._files)
        sync_folder(self._files.home)

    def _remove_others(self) -> None:
        """Remove the files of another state of the store."""
        expected = {*self._source.entries, MANIFEST_FILE}
        for name in self._files.names():
            if name not in expected and self._files.owns(name) and not name.startswith(f"{RUNS}/"):
                self._files.locate(name).unlink(missing_ok=True)


def remove_leftovers_of_pull(files: StoreFiles) -> None:
    """Remove what unfinished downloads left; the lock goes by itself."""
    lock = files.home / LOCK_FILE
    for path in list(files.home.rglob(f".*{TEMPORARY_MARK}*")):
        if path != lock and not path.is_dir():
            path.unlink(missing_ok=True)
    for name in list_names(files.path.parent) if files.home != files.path else []:
        if name.startswith(f".{files.path.name}{TEMPORARY_MARK}"):
            (files.path.parent / name).unlink(missing_ok=True)


def _is_occupied(files: StoreFiles) -> bool:
    own = {LOCK_FILE, STATE_FILE}
    return bool(set(list_names(files.home)) - own) or (files.home != files.path and files.path.exists())


def _read_state(path: Path) -> str:
    """Return the identity that a folder is being filled with; empty where none is."""
    try:
        value = json.loads(path.read_bytes())
        return str(value["identity"])
    except FileNotFoundError:
        return ""
    except (ValueError, KeyError, TypeError, RecursionError):
        return "unknown"


def _identity_of(files: StoreFiles) -> str | None:
    """Return the identity of the finished store at a place, None where there is none."""
    entry = file_entry(files.locate(MANIFEST_FILE)) if files.exists() else None
    return entry.sha256 if entry else None


@contextmanager
def locked(folder: Path, *, wait: bool = True) -> Iterator[bool]:
    """Hold the right to fill a folder; yield whether it is ours (always, unless `wait` is off).

    The lock is the kernel's: it goes with the process, however that ends.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / LOCK_FILE
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            if not wait:
                os.close(descriptor)
                yield False
                return
            sys.stderr.write(f"another process is filling {folder}: waiting for it\n")
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        if _is_same_file(descriptor, path):
            break
        os.close(descriptor)  # its former holder has removed it
    try:
        yield True
    finally:
        path.unlink(missing_ok=True)
        os.close(descriptor)


def _is_same_file(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False
