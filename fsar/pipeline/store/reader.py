"""Open a store and read from it at the speed of memory."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np

from fsar.errors import InputError, count_of, unknown_name
from fsar.files import sha256_file
from fsar.pipeline.store.duplicates import groups_of_equal
from fsar.pipeline.store.format.files import MANIFEST_FILE, STORE_FILE, VIDEOS_FILE, StoreFiles, read_store
from fsar.pipeline.store.format.identity import recipe_id
from fsar.pipeline.store.format.layout import STATUS_OK, ArraySpec, TapSpec
from fsar.pipeline.store.format.text_table import TextTable
from fsar.pipeline.store.gather import Gather
from fsar.pipeline.store.indices import row_index, slot_index, view_index
from fsar.pipeline.store.journal.manifest import describe_missing, is_sealed, read_manifest
from fsar.pipeline.store.journal.records import metadata_entries, stored_rows
from fsar.pipeline.store.journal.row_status import RowStates
from fsar.pipeline.store.partial import ListedRows, Presence, Provide, manifest_rows, read_partial
from fsar.pipeline.store.portable import find_video, videos_folders

if TYPE_CHECKING:
    import h5py
    import torch
    import zarr

Array = np.ndarray[Any, Any]
Rows = Sequence[int] | Sequence[str] | Array
"""Row numbers, or the ids of the videos."""


def open_store(path: str | Path, *, allow_unsealed: bool = False) -> "FeatureStore":
    """Return the store at `path` for reading.

    Raises:
        FileNotFoundError: there is none.
        InputError: it is damaged, of another version, or not sealed and `allow_unsealed` is off; the message says what
            is missing.
    """
    files = StoreFiles.at(path)
    _refuse_lost_master(files)
    store = FeatureStore(files)
    if not store.sealed and not allow_unsealed:
        raise InputError(f"{path} is not sealed: {_what_is_missing(store)} (or open it with allow_unsealed=True)")
    return store


def _refuse_lost_master(files: StoreFiles) -> None:
    if files.exists() and files.lacks_master():
        raise InputError(
            f"{files.path} is missing, only its folder {files.home.name} is there: `fsar-store seal {files.path}` "
            "makes it anew (or restore it from a copy, with its text tables)"
        )


def _what_is_missing(store: "FeatureStore") -> str:
    missing = store.missing_rows()
    if not missing.size:
        return f"everything is there but the manifest; run `fsar-store seal {store.path}`"
    described = describe_missing(store.videos, map(int, missing))
    return f"{described}; run the command that encodes them again (fsar-prep encode or fsar-store add)"


class FeatureStore:
    """Features of N videos, V views and T slots, read through memory maps. Pickling it reopens it."""

    def __init__(self, files: StoreFiles, *, provide: Provide | None = None) -> None:
        """Open a store.

        Args:
            files: where it is.
            provide: puts files of a partial copy in place when they are asked for; None: they are an error.
        """
        self._path = files.path
        self.layout, self.videos = read_store(files)
        files = StoreFiles(files.path.absolute(), files.format)  # chunks are mapped later, perhaps from another folder
        self.files = files
        self.sealed = is_sealed(files)
        copied = read_partial(files)
        self._stored = manifest_rows(read_manifest(files)) if copied else stored_rows(files)
        self._presence: Presence | None = None
        self._rows: RowStates | ListedRows = RowStates(files, self.layout, self.n_videos, self._stored)
        if copied:
            self._presence = Presence(files, self.layout, self.videos, self._stored, copied, provide)
            self._rows = ListedRows(files, self.videos, self._presence)
        self._gathers: dict[str, Gather] = {}
        self._row_of: dict[str, int] = {}
        self._folders: list[str] | None = None
        if self.sealed:
            self._check_manifest()

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopen, (str(self.files.path), not self.sealed)

    def __repr__(self) -> str:
        taps = ", ".join(f"{name} {list(tap.shape)} {tap.dtype}" for name, tap in self.taps.items())
        shape = (
            f"{count_of(self.n_videos, 'video')}, {count_of(self.n_views, 'view')}, {count_of(self.n_slots, 'slot')}"
        )
        return f"FeatureStore({str(self.path)!r}: {shape}; {taps})"

    @property
    def path(self) -> Path:
        """Where the store is, as it was named when it was opened."""
        return self._path

    @property
    def address(self) -> str:
        """What to give to a command to read the same store again."""
        return str(self.path)

    @property
    def identity(self) -> str:
        """The sha256 of the manifest, which stands for every byte of the store; empty while it is not sealed."""
        return sha256_file(self.files.locate(MANIFEST_FILE)) if self.sealed else ""

    @property
    def format(self) -> str:
        """Name of the format: zarr or hdf5."""
        return self.files.format.name

    @property
    def recipe(self) -> dict[str, Any]:
        """What decided the numbers."""
        return dict(self.layout.recipe)

    @property
    def recipe_id(self) -> str:
        """The hash of the recipe."""
        return recipe_id(self.layout.recipe)

    @property
    def taps(self) -> dict[str, TapSpec]:
        """Tap name -> shape and dtype per frame."""
        return dict(self.layout.taps)

    @property
    def n_videos(self) -> int:
        """N, rows."""
        return len(self.videos)

    @property
    def n_views(self) -> int:
        """V, stored views of each video."""
        return self.layout.n_views

    @property
    def n_slots(self) -> int:
        """T, stored frames of each view."""
        return self.layout.n_slots

    @property
    def status(self) -> Array:
        """(N,) uint8: STATUS_PENDING, STATUS_OK or STATUS_FAILED."""
        return self._rows.column("status")

    @property
    def n_frames(self) -> Array:
        """(N,) int32 frames in each video."""
        return self._rows.column("n_frames")

    @property
    def source_sha256(self) -> Array:
        """(N, 32) uint8 hash of each video file."""
        return self._rows.column("source_sha256")

    @property
    def ok_rows(self) -> Array:
        """Rows that hold features, int64 ascending."""
        return np.flatnonzero(self.status == STATUS_OK)

    def failures(self) -> list[tuple[int, str, str]]:
        """Return (row, reason, message) of the videos that could not be encoded."""
        return self._rows.failures()

    def failure_of(self, row: int) -> tuple[str, str] | None:
        """Return (reason, message) of a failed video, None for any other."""
        return self._rows.failure_of(row)

    def duplicates(self) -> list[list[int]]:
        """Return groups of rows that were encoded from the same bytes, each ascending, in order of their first row."""
        return groups_of_equal(self.source_sha256, self.ok_rows)

    def duplicate_ids(self) -> list[list[str]]:
        """Return `duplicates` by video id."""
        return [[self.videos[row].video_id for row in group] for group in self.duplicates()]

    def video_path(self, row: int) -> Path:
        """Return where a video is on this machine, as far as the store can tell: `videos[row].path` may be relative."""
        if self._folders is None:
            self._folders = videos_folders(self.files)
        return find_video(self.videos[row].path, self._folders)

    def missing_rows(self) -> Array:
        """Return the rows that are not committed, int64 ascending; none in a sealed store."""
        return self._rows.missing()

    def row_of(self, video_id: str) -> int:
        """Return the row of a video.

        Raises:
            InputError: the store has no such video; the nearest ids are given.
        """
        if not self._row_of:
            self._row_of = {video.video_id: row for row, video in enumerate(self.videos)}
        if video_id not in self._row_of:
            raise unknown_name("video", video_id, self._row_of, n_listed=3)
        return self._row_of[video_id]

    @overload
    def read(
        self,
        tap: str,
        rows: Rows,
        *,
        views: int | Array | None = 0,
        frames: Array | None = None,
        as_torch: Literal[False] = False,
    ) -> Array: ...

    @overload
    def read(
        self,
        tap: str,
        rows: Rows,
        *,
        views: int | Array | None = 0,
        frames: Array | None = None,
        as_torch: Literal[True],
    ) -> "torch.Tensor": ...

    def read(
        self,
        tap: str,
        rows: Rows,
        *,
        views: int | Array | None = 0,
        frames: Array | None = None,
        as_torch: bool = False,
    ) -> "Array | torch.Tensor":
        """Return features of some rows, in their order, as a fresh array (R, T, *shape).

        Args:
            tap: name of the tap.
            rows: (R,) row numbers, 0 to N - 1, or video ids; repeats are fine.
            views: one view for all rows, (R,) one view per row, or None for all: (R, V, T, *shape).
            frames: (T',) slots for all rows or (R, T') per row, instead of all T slots.
            as_torch: return a CPU tensor instead of a numpy array.

        Failed videos read as NaN.

        Raises:
            InputError: unknown tap or video id, or a row that is not encoded yet.
            IndexError: a row, view or slot that the store does not have.
            TypeError: rows are no list or array, or mix numbers and ids.
        """
        index = self._index(rows)
        chosen = None if views is None else view_index(views, self.n_views, len(index))
        slots = None if frames is None else slot_index(frames, self.n_slots, len(index))
        features = self._gather(tap).read(index, chosen, slots)
        return _to_torch(features) if as_torch else features

    def load(
        self,
        tap: str,
        *,
        rows: Rows | None = None,
        device: "str | torch.device" = "cpu",
        dtype: "torch.dtype | None" = None,
    ) -> "torch.Tensor":
        """Return a tap as one tensor (N, V, T, *shape) in memory or on a GPU, e.g. to index it there.

        Args:
            tap: name of the tap.
            rows: only these rows, in this order; None: all.
            device: where the tensor shall live.
            dtype: convert to it; None: as stored.

        Raises:
            InputError: unknown tap, or a row that is not encoded yet.
            IndexError: a row that the store does not have.
        """
        import torch

        wanted = np.arange(self.n_videos) if rows is None else self._index(rows)
        if tap in self.taps:
            self.fetch([f"features/{tap}"], wanted)
        gather, spec = self._gather(tap), self.taps[tap]
        kind = dtype or getattr(torch, spec.dtype)
        out = torch.empty((len(wanted), self.n_views, self.n_slots, *spec.shape), dtype=kind, device=device)
        step = self.layout.chunk_rows
        for start in range(0, len(wanted), step):
            out[start : start + step] = _to_torch(gather.read(wanted[start : start + step], None, None))
        return out

    def fetch(self, names: Sequence[str], rows: Rows | None = None) -> None:
        """Have rows of arrays (features/<tap>, frame_time, …) put on this disk, all at once; nothing if they are here.

        Reading fetches by itself what it needs, but chunk by chunk.

        Raises:
            InputError: unknown name or video id; or this is a partial copy without them, and the message says how to
                fetch them.
        """
        if self._presence is None:
            return
        specs = [self._spec(name) for name in names]
        index = np.arange(self.n_videos) if rows is None else self._index(rows)
        self._presence.ensure(specs, np.unique(index // self.layout.chunk_rows).tolist())

    def fetch_metadata(self) -> None:
        """Have text tables and whatever else holds no numbers put on this disk; nothing if it is here."""
        if self._presence is not None:
            self._presence.ensure_metadata()

    def frame_index(self, rows: Rows) -> Array:
        """Return which frame of its video each slot shows: (R, V, T) int32."""
        return self.read_array("frame_index", rows)

    def frame_time(self, rows: Rows) -> Array:
        """Return the time of each slot's frame in seconds: (R, V, T) float64."""
        return self.read_array("frame_time", rows)

    def read_array(self, name: str, rows: Rows) -> Array:
        """Return rows of any array by its full name (features/<tap>, status, …): (R, *tail), all views and slots.

        Raises:
            InputError: unknown name, or a row that is not encoded yet.
            IndexError: a row that the store does not have.
        """
        return self._gather_array(self._spec(name).name).read(self._index(rows), None, None)

    def open_plain(self) -> "zarr.Group | h5py.File":
        """Return the arrays as zarr or h5py show them, read-only; close an `h5py.File` after use.

        Rows that are not encoded yet read as NaN there. Its metadata is checked first: it leads to no file outside the
        store.

        Raises:
            InputError: the metadata is damaged, or not what a store of this layout has; or a file is a link.
        """
        self.files.refuse_links()
        self.files.format.refuse_foreign(self.files.path, self.layout, self.n_videos)
        plain: zarr.Group | h5py.File = self.files.format.open_plain(self.files.path)
        return plain

    def text_tables(self) -> list[str]:
        """Return the names of the text tables."""
        self.fetch_metadata()
        return sorted(self.files.format.read_tables(self.files.path))

    def text(self, name: str) -> TextTable:
        """Return a text table; `write_text` adds one.

        Raises:
            InputError: there is none of that name (the nearest names are given), or it is damaged.
        """
        self.fetch_metadata()
        tables = self.files.format.read_tables(self.files.path)
        if name not in tables:
            raise unknown_name("text table", name, tables)
        return tables[name]

    def _spec(self, name: str) -> ArraySpec:
        if name not in self.layout.arrays():
            raise unknown_name("array", name, self.layout.arrays())
        return self.layout.arrays()[name]

    def _index(self, rows: Rows) -> Array:
        return row_index(rows, self.row_of, self.n_videos)

    def _gather(self, tap: str) -> Gather:
        if tap not in self.layout.taps:
            raise unknown_name("tap", tap, self.layout.taps)
        return self._gather_array(f"features/{tap}")

    def _gather_array(self, name: str) -> Gather:
        gather = self._gathers.get(name)
        if gather is None:
            spec = self.layout.arrays()[name]
            ensure = None if self._presence is None else partial(self._presence.ensure, [spec])
            gather = Gather(self.files, self.layout, spec, self._stored, self.n_videos, ensure)
            gather = self._gathers.setdefault(name, gather)
        return gather

    def _check_manifest(self) -> None:
        """Refuse a manifest that belongs to other rows or another recipe."""
        manifest, metadata = read_manifest(self.files), metadata_entries(self.files)
        for name in (STORE_FILE, VIDEOS_FILE):
            if manifest.get(name) != metadata.get(name):
                raise InputError(f"{self.path} has a manifest of another state: run `fsar-store verify {self.path}`")


def _reopen(path: str, allow_unsealed: bool) -> FeatureStore:
    return open_store(path, allow_unsealed=allow_unsealed)


def _to_torch(array: Array) -> "torch.Tensor":
    import torch

    return torch.from_numpy(array)
