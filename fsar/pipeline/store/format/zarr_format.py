"""Zarr v3 written by hand: a chunk file is the raw little-endian rows and four bytes of crc32c, nothing else.

Metadata follows https://zarr-specs.readthedocs.io/en/latest/v3/core/index.html and is consolidated in the root, so that
`zarr.open_group(path)` shows every array at once; chunk files lie flat in one folder: `features/pooled/c.12.0.0.0`.
"""

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fsar.errors import InputError
from fsar.files import read_plain
from fsar.pipeline.store.disk import Buffer
from fsar.pipeline.store.format.identity import recipe_id
from fsar.pipeline.store.format.layout import ArraySpec, Layout
from fsar.pipeline.store.format.names import inside
from fsar.pipeline.store.format.registry import ChunkFiles, raw_bytes, register_format
from fsar.pipeline.store.format.schema import FORMAT_VERSION
from fsar.pipeline.store.format.text_table import TextTable

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
        nodes: dict[str, dict[str, Any]] = {"features": _group({}), "text": _group({})}
        for spec in layout.arrays().values():
            nodes[spec.name] = _array(spec, n_videos, layout.chunk_rows)
        files: dict[str, list[Buffer]] = {}
        for table in tables.values():
            nodes[f"text/{table.name}"] = _table_node(table)
            files[f"text/{table.name}/c.0.0.0"] = _with_crc(table.vectors)
        files |= {f"{name}/zarr.json": [_json_bytes(node)] for name, node in nodes.items()}
        about = {"recipe": dict(layout.recipe), "recipe_id": recipe_id(layout.recipe)}
        root = _group({"fsar_store_format": FORMAT_VERSION, **about})
        root["consolidated_metadata"] = {"kind": "inline", "must_understand": False, "metadata": nodes}
        return files | {"zarr.json": [_json_bytes(root)]}

    def chunk_files(self, layout: Layout, index: int, arrays: Mapping[str, np.ndarray[Any, Any]]) -> ChunkFiles:
        """Return one file per array."""
        specs = layout.arrays()
        return ChunkFiles({self.chunk_file(specs[name], index): _with_crc(array) for name, array in arrays.items()})

    def chunk_file(self, spec: ArraySpec, index: int) -> str:
        """Return e.g. `features/pooled/c.12.0.0.0`."""
        return f"{spec.name}/c.{index}" + ".0" * len(spec.tail)

    def read_tables(self, path: Path) -> dict[str, TextTable]:
        """Return the text tables, each checked against its crc32c."""
        try:
            nodes = json.loads(read_plain(path / "zarr.json"))["consolidated_metadata"]["metadata"]
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


def _group(attributes: dict[str, Any]) -> dict[str, Any]:
    return {"zarr_format": 3, "node_type": "group", "attributes": attributes}


def _array(spec: ArraySpec, n_videos: int, chunk_rows: int) -> dict[str, Any]:
    fill: Any = "NaN" if isinstance(spec.fill, float) else spec.fill
    shape, chunks = [n_videos, *spec.tail], [chunk_rows, *spec.tail]
    return _array_node(shape, chunks, spec.dtype, fill, spec.dimensions, {})


def _table_node(table: TextTable) -> dict[str, Any]:
    shape = list(table.vectors.shape)
    return _array_node(shape, shape, "float32", "NaN", ("template", "class", "axis_0"), table.attributes())


def _array_node(
    shape: list[int],
    chunks: list[int],
    dtype: str,
    fill: Any,
    dimensions: tuple[str, ...],
    attributes: dict[str, Any],
) -> dict[str, Any]:
    endian = {"configuration": {"endian": "little"}} if np.dtype(dtype).itemsize > 1 else {}
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": shape,
        "data_type": dtype,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": chunks}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "."}},
        "fill_value": fill,
        "codecs": [{"name": "bytes", **endian}, {"name": "crc32c"}],
        "attributes": attributes,
        "dimension_names": list(dimensions),
    }


def _json_bytes(node: dict[str, Any]) -> bytes:
    return (json.dumps(node, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n").encode()


def _read_table(path: Path, name: str, node: dict[str, Any]) -> TextTable:
    file = inside(path, f"{name}/c.0.0.0")
    n_bytes = 4 * math.prod(node["shape"])
    data = read_plain(file, n_bytes + CRC_BYTES)
    raw, stored = data[:-CRC_BYTES], int.from_bytes(data[-CRC_BYTES:], "little")
    if len(raw) != n_bytes or crc32c(raw) != stored:
        raise InputError(f"{file} is damaged: run `fsar-store verify {path}`")
    vectors = np.frombuffer(raw, "<f4").reshape(node["shape"])
    return TextTable.from_stored(name.removeprefix("text/"), vectors, node["attributes"])
