"""Export to one safetensors file: the whole thing for anyone who wants tensors and nothing else."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fsar.errors import InputError
from fsar.files import atomic_path
from fsar.pipeline.store.checked_rows import CheckedRows
from fsar.pipeline.store.copy import Advance, known_taps, opened, select_videos
from fsar.pipeline.store.format.identity import canonical_json
from fsar.pipeline.store.format.layout import ArraySpec
from fsar.pipeline.store.format.registry import raw_bytes
from fsar.pipeline.store.reader import FeatureStore

BLOCK_ROWS = 64
_DTYPES = {"float16": "F16", "float32": "F32", "float64": "F64", "int32": "I32", "uint8": "U8"}


def export_safetensors(
    source: str | Path | FeatureStore,
    target: str | Path,
    *,
    taps: Sequence[str] = (),
    parts: Sequence[str] = (),
    classes: Sequence[str] = (),
    advance: Advance | None = None,
) -> Path:
    """Write rows of a sealed store to a .safetensors file, block by block; return its path.

    The tensors have the store's names and shapes; the metadata holds the recipe, its id and the videos as JSON. The
    file is whole or absent; an interrupted export starts again.

    Raises:
        InputError: `target` exists or has another suffix, the store is not sealed, is damaged, or has no such tap, part
            or class.
    """
    path = Path(target)
    if path.suffix != ".safetensors":
        raise InputError(f"the name must end in .safetensors, got {str(target)!r}")
    if path.exists():
        raise InputError(f"{path} exists: remove it or choose another name")
    store = opened(source)
    rows, intact = select_videos(store, parts=parts, classes=classes), CheckedRows(store)
    wanted = {f"features/{tap}" for tap in known_taps(store, taps)}
    specs = [spec for spec in store.layout.arrays().values() if spec.name in wanted or "/" not in spec.name]
    videos = [[v.video_id, v.class_name, v.part] for v in (store.videos[int(row)] for row in rows)]
    about = {"recipe": canonical_json(store.recipe), "recipe_id": store.recipe_id, "videos": canonical_json(videos)}
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        file.write(_header(specs, len(rows), about))
        for spec in _ordered(specs):
            for start in range(0, len(rows), BLOCK_ROWS):
                block = intact.read(spec.name, rows[start : start + BLOCK_ROWS])
                file.write(raw_bytes(np.ascontiguousarray(block)))
                if advance and spec.name in wanted:
                    advance(len(block))
    return path


def _ordered(specs: Sequence[ArraySpec]) -> list[ArraySpec]:
    """Return the arrays as the format wants them: widest numbers first, then by name, so that all are aligned."""
    return sorted(specs, key=lambda spec: (-spec.numpy_dtype.itemsize, spec.name))


def _header(specs: Sequence[ArraySpec], n_rows: int, about: dict[str, str]) -> bytes:
    header: dict[str, Any] = {"__metadata__": about}
    position = 0
    for spec in _ordered(specs):
        end = position + n_rows * spec.row_bytes
        header[spec.name] = {
            "dtype": _DTYPES[spec.dtype],
            "shape": [n_rows, *spec.tail],
            "data_offsets": [position, end],
        }
        position = end
    data = json.dumps(header, separators=(",", ":")).encode()
    data += b" " * (-len(data) % 8)
    return len(data).to_bytes(8, "little") + data
