"""Who works on which chunk: one file per claim, created exclusively. Claims save work; the journal keeps stores right.

A claim is given up when its process is gone (same machine), when its worker has a new life or the launcher says that it
ended, and elsewhere when nobody has touched it for `owner.STALE_SECONDS`.
"""

import os
import random
import re
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from fsar.errors import InputError
from fsar.pipeline.store.disk import FOLDER_TRIES, cannot_write, create_exclusive, list_names
from fsar.pipeline.store.journal.owner import (
    STALE_SECONDS,
    Heartbeats,
    Owner,
    host_id,
    is_ancient,
    is_gone,
    live_tokens,
    read_owner,
    this_process,
)

HEARTBEAT_SECONDS = 30.0
PATIENCE_SECONDS = STALE_SECONDS + HEARTBEAT_SECONDS
METADATA_INDEX = 10**9
"""Stands among the claims for the right to change metadata; no store has as many chunks."""
METADATA_CLAIM = f"{METADATA_INDEX:06d}"
_CLAIM = re.compile("[0-9]{6,10}")


class Claims:
    """The claims of one writer."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._token = secrets.token_hex(8)
        self._held: set[int] = set()
        self._heartbeats = Heartbeats()
        self._stop = threading.Event()
        self._heartbeat: threading.Thread | None = None
        live_tokens.add(self._token)

    @property
    def held(self) -> frozenset[int]:
        """The chunks that this writer has."""
        return frozenset(self._held)

    def take(self, index: int) -> bool:
        """Claim a chunk; return whether it is ours now. The claim of one who is gone is taken over.

        Raises:
            OSError: the store's folder cannot be written.
        """
        path, problem = self._path(index), OSError()
        for _ in range(FOLDER_TRIES):
            try:
                # A look first: it costs next to nothing, an attempt to create a file is written and flushed.
                owner = read_owner(path)
                if owner is not None and not self._put_aside(path, owner):
                    return False
                if not self._create(path):
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
        if self._is_ours(path):
            path.unlink(missing_ok=True)

    def close(self) -> None:
        """Give everything back."""
        self._stop.set()
        for index in sorted(self._held):
            self.release(index)
        live_tokens.discard(self._token)

    def others(self) -> list[int]:
        """Return the chunks that living writers other than this one hold."""
        return [index for index in live_claims(self._folder) if index not in self._held]

    def _path(self, index: int) -> Path:
        return self._folder / f"{index:06d}"

    def _is_ours(self, path: Path) -> bool:
        owner = read_owner(path)
        return owner is not None and owner.token == self._token

    def _create(self, path: Path) -> bool:
        temporary = path.with_name(f".{path.name}-{secrets.token_hex(4)}")
        return create_exclusive(path, this_process(self._token).to_json(), temporary)

    def _put_aside(self, path: Path, owner: Owner) -> bool:
        """Remove the claim of a writer that is gone; return whether it is."""
        gone = is_gone(owner)
        if gone is None:
            gone = self._heartbeats.has_stopped(path, owner)
        return gone and remove_claim(path, owner)

    def _start_heartbeat(self) -> None:
        if self._heartbeat is None:
            self._heartbeat = threading.Thread(target=self._beat, name="fsar-store-claims", daemon=True)
            self._heartbeat.start()

    def _beat(self) -> None:
        while not self._stop.wait(HEARTBEAT_SECONDS):
            for path in map(self._path, tuple(self._held)):
                # Where another has taken it over, its heart is its own; the disk may be away for a moment.
                with suppress(OSError):
                    if self._is_ours(path):
                        os.utime(path)


def remove_claim(path: Path, owner: Owner) -> bool:
    """Remove a claim if it is still the one of `owner`; return whether it was."""
    aside = path.with_name(f".{path.name}-stale-{secrets.token_hex(4)}")
    try:
        os.rename(path, aside)
    except FileNotFoundError:
        return False
    if read_owner(aside) != owner:  # another writer took it over between our look and our rename
        os.rename(aside, path)
        return False
    aside.unlink(missing_ok=True)
    return True


@contextmanager
def metadata_claim(folder: Path) -> Iterator[None]:
    """Hold the right to change what is not numbers; wait for another holder up to `PATIENCE_SECONDS`.

    Raises:
        InputError: the other holder does not finish.
    """
    claims, deadline, wait_seconds = Claims(folder), time.monotonic() + PATIENCE_SECONDS, 0.01
    try:
        while not claims.take(METADATA_INDEX):
            if time.monotonic() > deadline:
                raise InputError(f"{folder.parent} is being changed by another process; try again later")
            time.sleep(wait_seconds * (0.5 + random.random()))  # many end at once: not all in step
            wait_seconds = min(wait_seconds * 1.5, 0.5)
        yield
    finally:
        claims.close()
        with suppress(OSError):  # others may have claims in it, or it is gone
            folder.rmdir()


def drop_chunk_claims(folder: Path) -> None:
    """Remove the claims on chunks, of which a complete store has none left to work on."""
    for name in list_names(folder):
        if name != METADATA_CLAIM:
            (folder / name).unlink(missing_ok=True)


def free_claims_of(folder: Path, worker: str) -> int:
    """Remove the claims of a worker that has ended; return how many.

    A process of that name that lives on this machine keeps its own: whoever says that it ended is wrong.
    """
    n_freed = 0
    for name in claim_names(folder):
        owner = read_owner(folder / name)
        if owner is not None and owner.worker == worker and (owner.host != host_id() or is_gone(owner)):
            n_freed += remove_claim(folder / name, owner)
    return n_freed


def claim_names(folder: Path) -> list[str]:
    """Return the names of the claims, on chunks and on metadata, of the living and the dead."""
    return [name for name in list_names(folder) if _CLAIM.fullmatch(name)]


def claimed_chunks(folder: Path) -> set[int]:
    """Return the chunks that have a claim, of the living or the dead: by listing names only."""
    return {int(name) for name in claim_names(folder)} - {METADATA_INDEX}


def live_claims(folder: Path) -> list[int]:
    """Return the chunks that some living writer holds, as far as one look can tell."""
    return [index for index in sorted(claimed_chunks(folder)) if not is_stale(folder / f"{index:06d}")]


def is_stale(path: Path) -> bool:
    """Return whether the claim's writer is gone, as far as one look can tell; False when the claim itself is gone."""
    owner = read_owner(path)
    if owner is None:
        return False
    gone = is_gone(owner)
    return is_ancient(path) if gone is None else gone
