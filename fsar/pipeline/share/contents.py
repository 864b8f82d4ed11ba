"""What the files of something shared are for: numbers or frames of a chunk of videos, or everything else."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

from fsar.pipeline.packs.layout import PackLayout, data_name, index_name
from fsar.pipeline.store.format.layout import Layout, TapSpec, VideoRow
from fsar.pipeline.store.format.registry import StoreFormat
from fsar.pipeline.store.partial import RECORD_NAME


class Contents(Protocol):
    """What is known of something at an address by its documents alone."""

    @property
    def videos(self) -> Sequence[VideoRow]:
        """The rows, in order."""

    @property
    def recipe(self) -> Mapping[str, Any]:
        """What decides the features; empty where there are none."""

    @property
    def taps(self) -> Mapping[str, TapSpec]:
        """The features of each video; empty where there are none."""

    @property
    def frames(self) -> str:
        """How packed frames were made, in words; empty where there are none."""

    def chunk_of(self, name: str) -> int | None:
        """Return the chunk of videos that a file belongs to, None for what every copy has."""

    def rows_of(self, chunk: int) -> range:
        """Return the rows of a chunk."""

    def wanted(self, names: Iterable[str], rows: Iterable[int], taps: Collection[str]) -> list[str]:
        """Return the files of the chunks that hold some rows, of some taps; records and all metadata."""


@dataclass(frozen=True)
class FeatureContents:
    """A feature store."""

    layout: Layout
    videos: Sequence[VideoRow]
    store_format: StoreFormat

    @property
    def frames(self) -> str:
        """Return nothing: these are features."""
        return ""

    @property
    def recipe(self) -> Mapping[str, Any]:
        """What decides the features."""
        return self.layout.recipe

    @property
    def taps(self) -> Mapping[str, TapSpec]:
        """The features of each video."""
        return self.layout.taps

    @cached_property
    def _chunks(self) -> dict[str, tuple[int, set[str]]]:
        """File -> its chunk and the arrays in it."""
        found: dict[str, tuple[int, set[str]]] = {}
        for spec in self.layout.arrays().values():
            for index in range(self.layout.n_chunks(len(self.videos))):
                name = self.store_format.chunk_file(spec, index)
                found.setdefault(name, (index, set()))[1].add(spec.name)
        return found

    def chunk_of(self, name: str) -> int | None:
        """Return the chunk that a file belongs to, None for what every copy has."""
        record = RECORD_NAME.fullmatch(name)
        return int(record[1]) if record else self._chunks.get(name, (None,))[0]

    def rows_of(self, chunk: int) -> range:
        """Return the rows of a chunk."""
        return self.layout.chunk_range(chunk, len(self.videos))

    def wanted(self, names: Iterable[str], rows: Iterable[int], taps: Collection[str]) -> list[str]:
        """Return the files of the chunks that hold some rows, of some taps; small arrays, records and all metadata."""
        chunks = {row // self.layout.chunk_rows for row in rows}
        others = {f"features/{tap}" for tap in self.layout.taps if tap not in taps}

        def is_wanted(name: str) -> bool:
            chunk = self.chunk_of(name)
            arrays = self._chunks[name][1] if name in self._chunks else None
            return chunk is None or (chunk in chunks and not (arrays is not None and arrays <= others))

        return [name for name in names if is_wanted(name)]


@dataclass(frozen=True)
class PackContents:
    """A pack of frames."""

    layout: PackLayout
    videos: Sequence[VideoRow]

    @property
    def recipe(self) -> Mapping[str, Any]:
        """Return nothing: no network has seen the frames."""
        return {}

    @property
    def taps(self) -> Mapping[str, TapSpec]:
        """Return nothing."""
        return {}

    @property
    def frames(self) -> str:
        """How the frames were made."""
        return self.layout.settings.describe()

    @cached_property
    def _shards(self) -> dict[str, int]:
        return {name(shard): shard for shard in range(self.layout.n_shards) for name in (data_name, index_name)}

    def chunk_of(self, name: str) -> int | None:
        """Return the shard that a file belongs to, None for what every copy has."""
        record = RECORD_NAME.fullmatch(name)
        return int(record[1]) if record else self._shards.get(name)

    def rows_of(self, chunk: int) -> range:
        """Return the rows of a shard; none where a hostile record names one that is not there."""
        return self.layout.rows(chunk) if chunk < self.layout.n_shards else range(0)

    def wanted(self, names: Iterable[str], rows: Iterable[int], taps: Collection[str]) -> list[str]:
        """Return the files of the shards that hold some rows, and all metadata."""
        wanted = {None, *(self.layout.shard_of(row) for row in rows)}  # metadata are of no shard
        return [name for name in names if self.chunk_of(name) in wanted]
