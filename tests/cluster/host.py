"""One of several hosts that fill a store: STORE NUMBER SCENARIO...; what differs between machines is made so here."""

import errno
import os
import random
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from fsar.pipeline.store import ChunkData, StoreWriter, TapSpec, VideoRow, create_store
from fsar.pipeline.store.journal import claims, owner

N_VIDEOS, CHUNK_ROWS = 120, 3
CACHE_SECONDS, SILLY_SECONDS, SILLY_SHARE = 0.4, 0.3, 0.4
MINUTES_APART = (0, -7, 7, 12)


def open_store_to_fill(path: Path) -> StoreWriter:
    """Return a writer on the store of these tests."""
    videos = [VideoRow(f"{row:03}", f"class {row % 4}", "train", f"{row:03}.mp4") for row in range(N_VIDEOS)]
    taps, recipe = {"pooled": TapSpec((8,), "float16")}, {"backbone": "none"}
    return create_store(path, videos=videos, taps=taps, n_views=1, n_slots=2, recipe=recipe, chunk_rows=CHUNK_ROWS)


def fill(path: Path, seconds: float, late: Path | None = None) -> None:
    """Fill it together with others, and seal it; where the file `late` is there, with wrong numbers."""
    with open_store_to_fill(path) as writer:
        while writer.pending_chunks():
            while (chunk := writer.claim()) is not None:
                time.sleep(seconds)
                wrong = late is not None and late.exists()
                writer.commit(chunk, numbers(list(chunk.rows), wrong=wrong))
            time.sleep(0.05)
        writer.seal()


def numbers(rows: list[int], *, wrong: bool = False) -> ChunkData:
    """Return what every host computes for these rows."""
    n = len(rows)
    features = np.stack([np.random.default_rng(row).normal(size=(1, 2, 8)).astype(np.float16) for row in rows])
    features += wrong
    index = np.arange(2 * n, dtype=np.int32).reshape(n, 1, 2)
    hashes = np.full((n, 32), 7, np.uint8)
    return ChunkData(
        {"pooled": features}, index, index * 0.5, np.ones(n, np.uint8), np.full(n, 30, np.int32), hashes, []
    )


def stamp_files_by_own_clock(minutes: float) -> None:
    """Behave as a host whose clock is wrong, on a file system that stamps files with the time of the host."""
    now, utime, create = time.time, os.utime, claims.create_exclusive

    def touched(path: Any, times: Any = None) -> None:
        utime(path, times or (time.time(), time.time()))

    def created(path: Path, data: bytes, temporary: Path) -> bool:
        made = create(path, data, temporary)
        if made:
            touched(path)
        return made

    time.time = lambda: now() + 60 * minutes
    os.utime = touched  # type: ignore[assignment]
    claims.create_exclusive = created


class NetworkDisk:
    """Behave as a client of NFS: what others change is seen late, and files that are removed linger under odd names."""

    def __init__(self) -> None:
        self._seen: dict[tuple[str, str], tuple[float, Any]] = {}
        self._draw = random.Random()
        self._unlink, self._rename = os.unlink, os.rename
        os.stat = self._cached("stat", os.stat)  # type: ignore[assignment]
        os.listdir = self._cached("list", os.listdir)  # type: ignore[assignment]
        os.unlink = os.remove = self._removing  # type: ignore[assignment]
        for name in ("rename", "replace", "link", "mkdir", "rmdir", "utime"):
            setattr(os, name, self._changing(getattr(os, name)))

    def _cached(self, kind: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return a function that answers from what it saw a moment ago, also that nothing was there."""

        def call(path: Any = ".", *more: Any, **options: Any) -> Any:
            if isinstance(path, int) or more or options.get("dir_fd") is not None:
                return function(path, *more, **options)
            key = (f"{kind}{sorted(options.items())}", os.fspath(path))
            when, found = self._seen.get(key, (-1e9, None))
            if time.monotonic() - when > CACHE_SECONDS:
                try:
                    found = function(path, **options)
                except FileNotFoundError as error:
                    found = error
                self._seen[key] = time.monotonic(), found
            if isinstance(found, FileNotFoundError):
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), os.fspath(path))
            return list(found) if isinstance(found, list) else found

        return call

    def _changing(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            try:
                return function(*arguments, **options)
            finally:  # a client knows of its own changes
                self._forget(*(argument for argument in arguments if isinstance(argument, str | os.PathLike)))

        return call

    def _removing(self, path: Any, **options: Any) -> None:
        if options.get("dir_fd") is not None or self._draw.random() > SILLY_SHARE:
            self._changing(self._unlink)(path, **options)
            return
        odd = os.path.join(os.path.dirname(path), f".nfs{self._draw.getrandbits(64):016x}")
        self._changing(self._rename)(path, odd)
        threading.Timer(SILLY_SECONDS, self._gone, [odd]).start()

    def _gone(self, path: str) -> None:
        try:
            self._unlink(path)
        except FileNotFoundError:
            return

    def _forget(self, *paths: Any) -> None:
        own = {os.fspath(path) for path in paths} | {os.path.dirname(path) for path in paths}
        for key in [key for key in list(self._seen) if key[1] in own]:
            self._seen.pop(key, None)


def main() -> None:
    """STORE NUMBER [clocks] [disk]. Host 1 computes nonsense once it was late."""
    path, number, scenario = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
    owner.STALE_SECONDS, claims.HEARTBEAT_SECONDS = 3.0, 0.3
    if "disk" in scenario:
        NetworkDisk()
    if "clocks" in scenario:
        stamp_files_by_own_clock(MINUTES_APART[number])
    fill(path, 0.5 if number < 2 else 0.02, path.with_name("late") if number == 1 else None)


if __name__ == "__main__":
    main()
