"""Files that somebody else's manifest names: whether a store has such files, and what they are for."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from fsar.errors import InputError
from fsar.pipeline.store.format.files import MANIFEST_FILE, StoreFiles
from fsar.pipeline.store.format.layout import Layout
from fsar.pipeline.store.format.names import checked_name, refuse_collisions
from fsar.pipeline.store.format.registry import StoreFormat
from fsar.pipeline.store.partial import RECORD_NAME

MAX_NAMES = 1_000_000


def check_names(files: StoreFiles, names: Collection[str]) -> None:
    """Raise InputError for a name that no store has, for names that one disk would mix up, and for far too many."""
    if len(names) > MAX_NAMES:
        raise InputError(f"the manifest names {len(names)} files, a store has at most {MAX_NAMES}")
    for name in names:
        if not files.owns(checked_name(name)) or name == MANIFEST_FILE:
            raise InputError(f"the manifest names {name[:80]!r}, which is no file of a store")
    refuse_collisions(names, "the manifest")
    folders = {name[:at] for name in names for at, character in enumerate(name) if character == "/"}
    if clash := sorted(folders & set(names)):
        raise InputError(f"the manifest names {clash[0]!r} as a file and as a folder")


@dataclass(frozen=True)
class NamedFiles:
    """What the files of a store are for: numbers of a chunk, or everything else."""

    layout: Layout
    n_videos: int
    store_format: StoreFormat
    _chunks: dict[str, tuple[int, set[str]]] = field(default_factory=dict)
    """File -> its chunk and the arrays in it."""

    def __post_init__(self) -> None:
        for spec in self.layout.arrays().values():
            for index in range(self.layout.n_chunks(self.n_videos)):
                name = self.store_format.chunk_file(spec, index)
                self._chunks.setdefault(name, (index, set()))[1].add(spec.name)

    def chunk_of(self, name: str) -> int | None:
        """Return the chunk that a file belongs to, None for what every copy has."""
        record = RECORD_NAME.fullmatch(name)
        return int(record[1]) if record else self._chunks.get(name, (None,))[0]

    def wanted(self, names: Iterable[str], chunks: Collection[int], taps: Collection[str]) -> list[str]:
        """Return the files of some chunks and taps, their small arrays and records, and all metadata."""
        others = {f"features/{tap}" for tap in self.layout.taps if tap not in taps}

        def is_wanted(name: str) -> bool:
            chunk = self.chunk_of(name)
            arrays = self._chunks[name][1] if name in self._chunks else None
            return chunk is None or (chunk in chunks and not (arrays is not None and arrays <= others))

        return [name for name in names if is_wanted(name)]


def below(store_name: str, store_format: StoreFormat, name: str) -> str:
    """Return where a file lies relative to the folder that its store is in: `x.zarr/zarr.json`, `x.h5.parts/…`."""
    return store_format.locate(Path(store_name), name).as_posix()
