"""Zarr v3: zarr writes groups and arrays, we the chunk files: raw little-endian rows and four bytes of crc32c.

All metadata is consolidated in the root, so that `zarr.open_group(path)` shows every array at once; chunk files lie
flat in one folder: `features/pooled/c.12.0.0.0`.
"""

import json
import math
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fsar.errors import InputError
from fsar.files import read_plain
from fsar.pipeline.store.disk import Buffer
from fsar.pipeline.store.format.identity import canonical_json, recipe_id
from fsar.pipeline.store.format.layout import ArraySpec, Layout
from fsar.pipeline.store.format.names import inside
from fsar.pipeline.store.format.registry import ChunkFiles, raw_bytes, register_format
from fsar.pipeline.store.format.schema import FORMAT_VERSION
from fsar.pipeline.store.format.text_table import TextTable

if TYPE_CHECKING:
    import zarr

ROOT = "zarr.json"
TABLE_CHUNK = "c.0.0.0"
CRC_BYTES = 4
_FILE = re.compile(r"([^/]+/){0,2}zarr\.json|([^/]+/){1,2}c(\.[0-9]+)+")


@register_format(".zarr")
class ZarrFormat:
    """A zarr v3 group in one folder."""

    name = "zarr"
    suffix = ".zarr"

    def home(self, path: Path) -> Path:
        """Return the group's own folder."""
        return path

    def locate(self, path: Path, name: str) -> Path:
        """Return the file below the group's folder; raises InputError for a name that leads out of it."""
        return inside(path, name)

    def owns(self, name: str) -> bool:
        """Return whether a zarr group of ours has a file of this name."""
        return _FILE.fullmatch(name) is not None

    def extra_names(self) -> tuple[str, ...]:
        """Return nothing: all files lie in the folder."""
        return ()

    def leads_home(self, path: Path) -> bool:
        """Return True: nothing in the folder holds its name."""
        return True

    def metadata_files(
        self, path: Path, layout: Layout, n_videos: int, tables: Mapping[str, TextTable]
    ) -> dict[str, list[Buffer]]:
        """Return every zarr.json, the consolidated root last, and the text tables' chunks."""
        about = {"recipe": _sorted(layout.recipe), "recipe_id": recipe_id(layout.recipe)}
        arrays = [_array(spec, n_videos, layout.chunk_rows) for spec in layout.arrays().values()]
        arrays += [_table_array(table) for table in tables.values()]
        files = _written_by_zarr({"fsar_store_format": FORMAT_VERSION, **about}, arrays)
        files |= {f"text/{table.name}/{TABLE_CHUNK}": _with_crc(table.vectors) for table in tables.values()}
        return files | {"zarr.json": files.pop("zarr.json")}

    def chunk_files(self, layout: Layout, index: int, arrays: Mapping[str, np.ndarray[Any, Any]]) -> ChunkFiles:
        """Return one file per array."""
        specs = layout.arrays()
        return ChunkFiles({self.chunk_file(specs[name], index): _with_crc(array) for name, array in arrays.items()})

    def chunk_file(self, spec: ArraySpec, index: int) -> str:
        """Return e.g. `features/pooled/c.12.0.0.0`."""
        return f"{spec.name}/c.{index}" + ".0" * len(spec.tail)

    def refuse_foreign(self, path: Path, layout: Layout, n_videos: int) -> None:
        """Raise InputError unless the metadata describes the arrays of this layout, text tables, and nothing else."""
        known = {spec.name: _array(spec, n_videos, layout.chunk_rows) for spec in layout.arrays().values()}
        known |= {f"text/{name}": _table_array(table) for name, table in self.read_tables(path).items()}
        try:
            nodes = json.loads(read_plain(path / ROOT))["consolidated_metadata"]["metadata"]
            arrays = {name: node for name, node in nodes.items() if node["node_type"] != "group"}
            ours = arrays.keys() == known.keys() and nodes.keys() == arrays.keys() | {"features", "text"}
            ours = ours and all(known[name].fits(node) for name, node in arrays.items())
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            ours = False
        if not ours:
            raise InputError(f"{path / ROOT} describes other arrays than the store has: run `fsar-store verify {path}`")

    def open_plain(self, path: Path) -> "zarr.Group":
        """Return the group as zarr shows it, read-only."""
        import zarr

        return zarr.open_group(str(path), mode="r", zarr_format=3)

    def read_tables(self, path: Path) -> dict[str, TextTable]:
        """Return the text tables, each checked against its crc32c."""
        try:
            nodes = json.loads(read_plain(path / ROOT))["consolidated_metadata"]["metadata"]
            names = sorted(name for name, node in nodes.items() if name.startswith("text/") and "shape" in node)
            return {name.removeprefix("text/"): _read_table(path, name, nodes[name]) for name in names}
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"{path / 'zarr.json'} is damaged ({error!r}): run `fsar-store verify {path}`") from error


def crc32c(data: Buffer) -> int:
    """Return the Castagnoli checksum that zarr's crc32c codec appends."""
    from google_crc32c import value

    array = np.frombuffer(data, np.uint8)  # the extension takes read-only arrays, not memoryviews
    array.flags.writeable = False
    return int(value(array))


def _with_crc(array: np.ndarray[Any, Any]) -> list[Buffer]:
    raw = raw_bytes(array)
    return [raw, crc32c(raw).to_bytes(CRC_BYTES, "little")]


@dataclass(frozen=True)
class _Array:
    """An array as zarr shall describe it; every one has the codecs `bytes` and `crc32c`."""

    name: str
    shape: tuple[int, ...]
    chunks: tuple[int, ...]
    dtype: str
    fill: float | int
    dimensions: tuple[str, ...]
    attributes: Mapping[str, Any] = field(default_factory=dict)

    def fits(self, node: Mapping[str, Any]) -> bool:
        """Return whether metadata describes just this array, with no other codecs and no files elsewhere."""
        names = [codec["name"] for codec in node["codecs"]]
        grid = {"name": "regular", "configuration": {"chunk_shape": list(self.chunks)}}
        return (
            (node["shape"], node["data_type"], names) == (list(self.shape), self.dtype, ["bytes", "crc32c"])
            and (node["chunk_grid"], node["zarr_format"]) == (grid, 3)
            and not node.get("storage_transformers")
        )


def _array(spec: ArraySpec, n_videos: int, chunk_rows: int) -> _Array:
    shape, chunks = (n_videos, *spec.tail), (chunk_rows, *spec.tail)
    return _Array(spec.name, shape, chunks, spec.dtype, spec.fill, spec.dimensions)


def _table_array(table: TextTable) -> _Array:
    shape, dimensions = table.vectors.shape, ("template", "class", "axis_0")
    return _Array(f"text/{table.name}", shape, shape, "float32", float("nan"), dimensions, table.attributes())


def _sorted(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Return JSON data in one order, so that equal attributes give equal bytes."""
    return dict(json.loads(canonical_json(attributes)))


def _written_by_zarr(attributes: dict[str, Any], arrays: Sequence[_Array]) -> dict[str, list[Buffer]]:
    """Return the metadata documents of a group with these arrays, by file name."""
    import zarr
    from zarr.codecs import BytesCodec, Crc32cCodec
    from zarr.storage import MemoryStore

    documents: dict[str, Any] = {}
    memory = MemoryStore(documents)
    root = zarr.create_group(memory, attributes=attributes, zarr_format=3)
    for name in ("features", "text"):
        root.create_group(name)
    for array in arrays:
        root.create_array(
            array.name,
            shape=array.shape,
            chunks=array.chunks,
            dtype=array.dtype,
            fill_value=array.fill,
            serializer=BytesCodec(endian="little" if np.dtype(array.dtype).itemsize > 1 else None),
            compressors=[Crc32cCodec()],
            chunk_key_encoding={"name": "default", "separator": "."},
            dimension_names=array.dimensions,
            attributes=_sorted(array.attributes),
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # consolidated metadata is not part of the specification yet
        zarr.consolidate_metadata(memory, zarr_format=3)
    return {name: [data.to_bytes()] for name, data in sorted(documents.items())}


def _read_table(path: Path, name: str, node: dict[str, Any]) -> TextTable:
    file = inside(path, f"{name}/{TABLE_CHUNK}")
    n_bytes = 4 * math.prod(node["shape"])
    data = read_plain(file, n_bytes + CRC_BYTES)
    raw, stored = data[:-CRC_BYTES], int.from_bytes(data[-CRC_BYTES:], "little")
    if len(raw) != n_bytes or crc32c(raw) != stored:
        raise InputError(f"{file} is damaged: run `fsar-store verify {path}`")
    vectors = np.frombuffer(raw, "<f4").reshape(node["shape"])
    return TextTable.from_stored(name.removeprefix("text/"), vectors, node["attributes"])
