"""The seam between what a store means and how its files look. A new format registers here."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from fsar.errors import InputError
from fsar.pipeline.store.disk import Buffer
from fsar.pipeline.store.format.layout import ArraySpec, Layout
from fsar.pipeline.store.format.text_table import TextTable


@dataclass(frozen=True)
class ChunkFiles:
    """The files of one chunk, and where in them each array's raw rows begin."""

    files: dict[str, list[Buffer]]
    offsets: dict[str, int] = field(default_factory=dict)
    """Array name -> byte offset; an array that is not named starts at 0."""


class StoreFormat(Protocol):
    """How arrays become files. File names are relative to the home folder, except a format's own marks."""

    name: str
    suffix: str

    def home(self, path: Path) -> Path:
        """Return the folder that holds everything but, for some formats, one master file."""

    def locate(self, path: Path, name: str) -> Path:
        """Return where the file `name` of the store at `path` lies; raises InputError where that is outside of it."""

    def owns(self, name: str) -> bool:
        """Return whether this format has files of that name: metadata, text tables or chunks."""

    def extra_names(self) -> tuple[str, ...]:
        """Return the names of files outside the home folder."""

    def leads_home(self, path: Path) -> bool:
        """Return whether other programs find this store's numbers, and not those of the name it had before."""

    def metadata_files(
        self, path: Path, layout: Layout, n_videos: int, tables: Mapping[str, TextTable]
    ) -> dict[str, list[Buffer]]:
        """Return the files that let other programs open the store, text tables included."""

    def chunk_files(self, layout: Layout, index: int, arrays: Mapping[str, np.ndarray[Any, Any]]) -> ChunkFiles:
        """Return the files of chunk `index`; every array is full size, contiguous and little-endian."""

    def chunk_file(self, spec: ArraySpec, index: int) -> str:
        """Return the name of the file that holds chunk `index` of an array."""

    def refuse_foreign(self, path: Path, layout: Layout, n_videos: int) -> None:
        """Raise InputError when the format's own metadata shows other arrays, or leads to files outside the store."""

    def open_plain(self, path: Path) -> Any:
        """Return the store as the format's own library opens it, read-only."""

    def read_tables(self, path: Path) -> dict[str, TextTable]:
        """Return the text tables of the store."""


_FORMATS: dict[str, Callable[[], StoreFormat]] = {}


def register_format(suffix: str) -> Callable[[Callable[[], StoreFormat]], Callable[[], StoreFormat]]:
    """Make a store format known by the suffix of its paths; a suffix can be taken once."""

    def add(factory: Callable[[], StoreFormat]) -> Callable[[], StoreFormat]:
        if suffix in _FORMATS:
            raise ValueError(f"store suffix {suffix!r} is taken")
        _FORMATS[suffix] = factory
        return factory

    return add


def list_formats() -> list[str]:
    """Return the suffixes of all registered formats."""
    return sorted(_FORMATS)


def format_of(path: Path) -> StoreFormat:
    """Return the format of the store at `path`, told by its suffix."""
    if path.suffix not in _FORMATS:
        if path.suffix == ".parts" and path.with_suffix("").suffix in _FORMATS:
            raise InputError(f"{path} is the folder of a store's parts: name the store itself, {path.with_suffix('')}")
        what = " (a pack of frames holds no features)" if path.suffix == ".frames" else ""
        raise InputError(f"a store's name must end in {' or '.join(list_formats())}, got {str(path)!r}{what}")
    return _FORMATS[path.suffix]()


def raw_bytes(array: np.ndarray[Any, Any]) -> memoryview:
    """Return the bytes of a contiguous array without copying them."""
    flat = array.reshape(-1).view(np.uint8)
    flat.flags.writeable = False
    return flat.data
