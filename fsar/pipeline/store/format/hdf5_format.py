"""HDF5: `NAME.h5` is a small file of virtual datasets over part files in `NAME.h5.parts`, one part per chunk.

A part's metadata is the same for every chunk of a store, so it is laid out once in memory by h5py; a commit then writes
those few bytes and the raw rows between them, and no half-written HDF5 file ever carries a part's name. Links are
relative: the two can move together, but links hold the folder's name, so a store under a new name needs a new master
(`mend`). A part that is missing reads as the fill value (NaN).
"""

import json
import math
import re
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fsar.errors import InputError
from fsar.files import open_plain
from fsar.pipeline.store.disk import Buffer
from fsar.pipeline.store.format.identity import canonical_json, recipe_id
from fsar.pipeline.store.format.layout import ArraySpec, Layout
from fsar.pipeline.store.format.names import inside
from fsar.pipeline.store.format.registry import ChunkFiles, raw_bytes, register_format
from fsar.pipeline.store.format.schema import FORMAT_VERSION
from fsar.pipeline.store.format.text_table import TextTable

if TYPE_CHECKING:
    import h5py

MASTER = "@master.h5"
"""Name in manifests of the file outside the parts folder, whatever the store is called."""
PART_FOLDER = "chunks"
_PART_FILE = re.compile(rf"{PART_FOLDER}/[0-9]{{6,}}\.h5")
MAX_DEPTH = 2
"""Groups lie in groups, and hard links can make rings of them."""
ALIGN_BYTES = 4096
"""Arrays of a page and more start on a page, so that they map into memory as they lie."""


@register_format(".h5")
class Hdf5Format:
    """A virtual HDF5 file and its parts."""

    name = "hdf5"
    suffix = ".h5"

    def __init__(self) -> None:
        self._templates: dict[str, PartTemplate] = {}

    def home(self, path: Path) -> Path:
        """Return the folder of parts beside the file."""
        return path.with_name(path.name + ".parts")

    def locate(self, path: Path, name: str) -> Path:
        """Return the virtual file, to which `path` may be a link, or a file below the folder of parts.

        Raises InputError for a name that leads out of it.
        """
        if name == MASTER:
            return path.resolve() if path.is_symlink() else path
        return inside(self.home(path), name)

    def owns(self, name: str) -> bool:
        """Return whether a store of ours has an HDF5 file of this name."""
        return name == MASTER or _PART_FILE.fullmatch(name) is not None

    def extra_names(self) -> tuple[str, ...]:
        """Return the mark of the virtual file."""
        return (MASTER,)

    def leads_home(self, path: Path) -> bool:
        """Return whether the virtual file links to the parts beside it; True for one that is damaged or missing."""
        try:
            with _open_master(self.locate(path, MASTER)) as file:
                link = _own_dataset(file, "status").id.get_create_plist().get_virtual_filename(0)
        except (OSError, RuntimeError, KeyError, ValueError):  # its bytes have changed, which verify tells
            return True
        return str(link).startswith(_link(f"{self.home(path).name}/"))

    def metadata_files(
        self, path: Path, layout: Layout, n_videos: int, tables: Mapping[str, TextTable]
    ) -> dict[str, list[Buffer]]:
        """Return the virtual file, which also holds recipe and text tables."""
        return {MASTER: [_master_image(self.home(path).name, self, layout, n_videos, tables)]}

    def chunk_files(self, layout: Layout, index: int, arrays: Mapping[str, np.ndarray[Any, Any]]) -> ChunkFiles:
        """Return one part file with all arrays."""
        specs = list(layout.arrays().values())
        key = canonical_json(layout.to_dict())
        template = self._templates.setdefault(key, part_template(specs, layout.chunk_rows))
        name = self.chunk_file(specs[0], index)
        return ChunkFiles({name: template.fill(arrays)}, dict(template.offsets))

    def chunk_file(self, spec: ArraySpec, index: int) -> str:
        """Return the part's name, the same for all arrays."""
        return f"{PART_FOLDER}/{index:06d}.h5"

    def refuse_foreign(self, path: Path, layout: Layout, n_videos: int) -> None:
        """Raise InputError unless the virtual file has the arrays of this layout over the parts, and nothing else."""
        master = self.locate(path, MASTER)
        try:
            with _open_master(master) as file:
                tables = [f"text/{name}" for name in _own_group(file, "text")]
                if set(_own_names(file)) != {"features", "text", *tables, *layout.arrays()}:
                    raise InputError(f"{master} holds more or less than the arrays of the store")
                for spec in layout.arrays().values():
                    self._refuse_other_sources(file, self.home(path).name, spec, layout, n_videos)
        except (OSError, RuntimeError, KeyError, ValueError, TypeError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"{path} is damaged ({error}): run `fsar-store verify {path}`") from error

    def _refuse_other_sources(
        self, file: "h5py.File", parts: str, spec: ArraySpec, layout: Layout, n_videos: int
    ) -> None:
        """Raise InputError unless an array is virtual and each source is the part that this layout has."""
        dataset = _own_dataset(file, spec.name)
        creation = dataset.id.get_create_plist()
        n_sources = creation.get_virtual_count() if dataset.is_virtual else 0
        sources = [
            (creation.get_virtual_filename(source), creation.get_virtual_dsetname(source))
            for source in range(n_sources)
        ]
        expected = [
            (_link(f"{parts}/{self.chunk_file(spec, index)}"), spec.name) for index in range(layout.n_chunks(n_videos))
        ]
        if sources != expected or dataset.shape != (n_videos, *spec.tail) or dataset.dtype != spec.numpy_dtype:
            raise InputError(f"{spec.name!r} in {file.filename!r} is not the array of the store, or lies elsewhere")

    def open_plain(self, path: Path) -> "h5py.File":
        """Return the virtual file as h5py shows it, read-only, once every part is known to keep its numbers itself."""
        import h5py

        for part in sorted((self.home(path) / PART_FOLDER).glob("*.h5")):
            with _open_master(part) as file:
                for name in _own_names(file):
                    if isinstance(file[name], h5py.Dataset) and _own_dataset(file, name).is_virtual:
                        raise InputError(f"{name!r} in {part} lies in another file")
        return h5py.File(self.locate(path, MASTER), "r", locking=False)

    def read_tables(self, path: Path) -> dict[str, TextTable]:
        """Return the text tables in the virtual file."""
        try:
            with _open_master(self.locate(path, MASTER)) as file:
                names = list(_own_group(file, "text"))
                return {name: _read_table(name, _own_dataset(file, f"text/{name}")) for name in names}
        except FileNotFoundError:
            raise FileNotFoundError(f"{path} is missing: run `fsar-store verify {path}`") from None
        except (OSError, RuntimeError, KeyError, ValueError, TypeError, OverflowError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"{path} is damaged ({error}): run `fsar-store verify {path}`") from error


@dataclass(frozen=True)
class PartTemplate:
    """An HDF5 file without its numbers: where each array goes, and the bytes between them."""

    gaps: tuple[tuple[int, bytes], ...]
    offsets: Mapping[str, int]

    def fill(self, arrays: Mapping[str, np.ndarray[Any, Any]]) -> list[Buffer]:
        """Return the file as buffers in order of their position."""
        pieces: list[tuple[int, Buffer]] = list(self.gaps)
        pieces += [(self.offsets[name], raw_bytes(array)) for name, array in arrays.items()]
        return [piece for _, piece in sorted(pieces, key=lambda item: item[0])]


def part_template(specs: list[ArraySpec], n_rows: int) -> PartTemplate:
    """Return the template of a part with `n_rows` rows of every array, contiguous and uncompressed."""
    import h5py

    access = h5py.h5p.create(h5py.h5p.FILE_ACCESS)
    access.set_alignment(ALIGN_BYTES, ALIGN_BYTES)
    file = _file_in_memory(access)
    _create_groups(file, specs)
    offsets = {}
    for spec in specs:
        creation = _untimed(h5py.h5p.DATASET_CREATE)
        creation.set_layout(h5py.h5d.CONTIGUOUS)
        creation.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
        creation.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
        space = h5py.h5s.create_simple((n_rows, *spec.tail))
        dataset = h5py.h5d.create(file, spec.name.encode(), _type(spec), space, creation)
        offsets[spec.name] = int(dataset.get_offset())
    h5py.h5f.flush(file)
    image = file.get_file_image()
    sizes = {spec.name: n_rows * spec.row_bytes for spec in specs}
    return PartTemplate(_gaps(image, [(offsets[name], sizes[name]) for name in offsets]), offsets)


def _gaps(image: bytes, extents: list[tuple[int, int]]) -> tuple[tuple[int, bytes], ...]:
    gaps, position = [], 0
    for start, size in [*sorted(extents), (len(image), 0)]:
        if start > position:
            gaps.append((position, image[position:start]))
        position = start + size
    return tuple(gaps)


def _master_image(
    parts: str, store_format: Hdf5Format, layout: Layout, n_videos: int, tables: Mapping[str, TextTable]
) -> bytes:
    import h5py

    access = h5py.h5p.create(h5py.h5p.FILE_ACCESS)
    access.set_libver_bounds(h5py.h5f.LIBVER_V110, h5py.h5f.LIBVER_V110)
    identifier = _file_in_memory(access)
    specs = list(layout.arrays().values())
    _create_groups(identifier, specs)
    h5py.h5g.create(identifier, b"text", gcpl=_untimed(h5py.h5p.GROUP_CREATE))
    for spec in specs:
        _create_virtual(identifier, spec, parts, store_format, layout, n_videos)
    with h5py.File(identifier) as file:
        file.attrs["fsar_store_format"] = FORMAT_VERSION
        file.attrs["recipe"] = canonical_json(layout.recipe)
        file.attrs["recipe_id"] = recipe_id(layout.recipe)
        for name, table in sorted(tables.items()):
            dataset = file.create_dataset(f"text/{name}", data=table.vectors, track_times=False)
            for key, value in table.attributes().items():
                dataset.attrs[key] = canonical_json(value)
        file.flush()
        image: bytes = file.id.get_file_image()
    return image


def _create_virtual(
    file: "h5py.h5f.FileID", spec: ArraySpec, parts: str, store_format: Hdf5Format, layout: Layout, n_videos: int
) -> None:
    import h5py

    creation = _untimed(h5py.h5p.DATASET_CREATE)
    creation.set_layout(h5py.h5d.VIRTUAL)
    creation.set_fill_value(np.array([spec.fill], spec.numpy_dtype))
    for index in range(layout.n_chunks(n_videos)):
        rows = layout.chunk_range(index, n_videos)
        target = h5py.h5s.create_simple((n_videos, *spec.tail))
        target.select_hyperslab((rows.start, *(0 for _ in spec.tail)), (len(rows), *spec.tail))
        source = h5py.h5s.create_simple((layout.chunk_rows, *spec.tail))
        source.select_hyperslab((0, *(0 for _ in spec.tail)), (len(rows), *spec.tail))
        link = _link(f"{parts}/{store_format.chunk_file(spec, index)}")
        creation.set_virtual(target, link.encode(), spec.name.encode(), source)
    space = h5py.h5s.create_simple((n_videos, *spec.tail))
    h5py.h5d.create(file, spec.name.encode(), _type(spec), space, creation)


def _link(name: str) -> str:
    """Return a file's name as HDF5 wants it in links, where % stands for block numbers."""
    return name.replace("%", "%%")


def _create_groups(file: "h5py.h5f.FileID", specs: list[ArraySpec]) -> None:
    import h5py

    for group in sorted({spec.name.rpartition("/")[0] for spec in specs} - {""}):
        h5py.h5g.create(file, group.encode(), gcpl=_untimed(h5py.h5p.GROUP_CREATE))


def _file_in_memory(access: Any) -> "h5py.h5f.FileID":
    """Return a new file that never touches the disk, under a name of its own: HDF5 takes two of one name for one."""
    import h5py

    access.set_fapl_core(1 << 20, False)
    name = f"{secrets.token_hex(8)}.h5".encode()
    return h5py.h5f.create(name, h5py.h5f.ACC_TRUNC, _untimed(h5py.h5p.FILE_CREATE), access)


def _untimed(kind: Any) -> Any:
    """Return a creation property list that keeps clocks out of the file: equal content, equal bytes."""
    import h5py

    properties = h5py.h5p.create(kind)
    properties.set_obj_track_times(False)
    return properties


def _type(spec: ArraySpec) -> Any:
    import h5py

    return h5py.h5t.py_create(spec.numpy_dtype, logical=True)


@contextmanager
def _open_master(path: Path) -> Iterator["h5py.File"]:
    """Open the virtual file without following what it links to: HDF5 reads from the open file alone."""
    import h5py

    with open_plain(path) as plain, h5py.File(plain, "r") as file:
        yield file


def _own_names(file: "h5py.File") -> Iterator[str]:
    """Yield the names of all groups and datasets of a file. Raises InputError for links that are not hard ones."""
    import h5py

    waiting = [""]
    while waiting:
        above = waiting.pop()
        for part in _own_group(file, above) if above else file:
            name = f"{above}/{part}" if above else part
            yield name
            if isinstance(_own_group(file, name), h5py.Group) and name.count("/") < MAX_DEPTH:
                waiting.append(name)


def _own_group(file: "h5py.File", name: str) -> "h5py.Group":
    """Return a group, reached by hard links alone. Raises KeyError if there is none, InputError for other links."""
    import h5py

    found: Any = file
    for part in name.split("/"):
        if not isinstance(found, h5py.Group) or not isinstance(found.get(part, getlink=True), h5py.HardLink):
            raise InputError(f"{name!r} is missing in {file.filename!r} or links to another place")
        found = found[part]
    return found


def _own_dataset(file: "h5py.File", name: str) -> "h5py.Dataset":
    """Return a dataset, reached by hard links alone, that keeps no numbers in other files but virtual ones."""
    import h5py

    dataset: Any = _own_group(file, name)
    if not isinstance(dataset, h5py.Dataset) or dataset.id.get_create_plist().get_external_count():
        raise InputError(f"{name!r} in {file.filename!r} is no dataset of its own: its numbers lie in another file")
    return dataset


def _read_table(name: str, dataset: "h5py.Dataset") -> TextTable:
    creation = dataset.id.get_create_plist()
    n_bytes = 4 * math.prod(dataset.shape or ())
    if (
        dataset.is_virtual
        or creation.get_nfilters()
        or dataset.dtype != "<f4"
        or dataset.id.get_storage_size() != n_bytes
    ):
        raise InputError(f"text table {name!r} is damaged: it must be stored plainly, as float32")
    attributes = {key: json.loads(dataset.attrs[key]) for key in ("class_names", "templates", "encoder")}
    return TextTable.from_stored(name, dataset[...], attributes)
