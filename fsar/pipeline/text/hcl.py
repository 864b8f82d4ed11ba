"""Reader of the text embeddings that HCL publishes: a pickled array and a JSON of video id -> row."""

import pickle
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fsar.documents import read_json
from fsar.errors import InputError

if TYPE_CHECKING:
    import numpy as np

    from fsar.pipeline.store import TextTable

ENCODER = {"library": "transformers", "backbone": "bert-base-cased", "pooling": "pooler", "source": "hcl"}
"""What made the published vectors."""
SHOWN = 5
"""Ids that a message lists before it stops."""


def read_hcl_text(
    embeddings: Path, ids: Path, videos: Iterable[tuple[str, str]], *, name: str = "hcl", average: bool = False
) -> "TextTable":
    """Return the table of one text vector per class that the published files give for some videos.

    Args:
        embeddings: `*_embs.pkl`, a pickled float32 array (rows, D). Nothing in it is executed: see `read_array`.
        ids: `*_vid2embid.json`, {video id: row}.
        videos: (video id, class) of the videos of a catalog or a store; classes keep the order of their first video.
        name: name of the table.
        average: what to do where the videos of a class have texts of their own (Something-Something: captions): take
            their mean. Without it that is an error.

    Raises:
        InputError: a file that is not of this form, a video without a row, or videos of a class with different rows.
    """
    import numpy as np

    from fsar.pipeline.store import TextTable

    vectors, row_of = read_array(embeddings), read_rows(ids)
    rows: dict[str, set[int]] = {}
    missing = []
    for video_id, class_name in videos:
        if video_id in row_of:
            rows.setdefault(class_name, set()).add(row_of[video_id])
        else:
            missing.append(video_id)
    if missing:
        shown = ", ".join(missing[:SHOWN]) + (", ..." if len(missing) > SHOWN else "")
        raise InputError(f"{ids} has no row for {len(missing)} videos ({shown}): is it of another dataset?")
    if not rows:
        raise InputError("no videos to read text for")
    _check_rows(rows, len(vectors), embeddings, ids, average)
    per_class = np.stack([vectors[sorted(own)].mean(0) for own in rows.values()])
    return TextTable(name, per_class[None], tuple(rows), ("hcl",), dict(ENCODER))


def _check_rows(rows: dict[str, set[int]], n_rows: int, embeddings: Path, ids: Path, average: bool) -> None:
    highest = max(max(own) for own in rows.values())
    if highest >= n_rows or min(min(own) for own in rows.values()) < 0:
        raise InputError(f"{ids} points to row {highest}, {embeddings} has {n_rows}: the files do not belong together")
    several = [name for name, own in rows.items() if len(own) > 1]
    if several and not average:
        raise InputError(
            f"{ids} gives videos of class {several[0]!r} different texts (captions of single videos, which tell a "
            "query's class); ask for the mean of each class to use them all the same"
        )


def read_rows(path: Path) -> dict[str, int]:
    """Return video id -> row from a `*_vid2embid.json`."""
    rows = read_json(path)
    if not isinstance(rows, dict) or not all(type(row) is int for row in rows.values()):
        raise InputError(f"{path} must map video ids to row numbers")
    return rows


def read_array(path: Path) -> "np.ndarray[Any, np.dtype[np.float32]]":
    """Return the float32 array (rows, D) that a pickle holds.

    A pickle is a program. This one may only fill in a form of ours, from which the array is made; numpy's own code,
    which trusts what it is given, never sees the stream. Whatever else it asks for is refused by name.
    """
    try:
        with open(path, "rb") as file:
            array = _ArrayUnpickler(file, path).load()
        if not isinstance(array, _Array):
            raise InputError(f"{path} must hold a float32 array (rows, D), got {type(array).__name__}")
        return array.numbers()
    except InputError as error:
        raise error if str(path) in str(error) else InputError(f"{path} {error}") from error
    # A broken or hostile stream fails in whichever of these ways its bytes lead to.
    except _BROKEN as error:
        raise InputError(f"{path} is not a pickled array: {error}") from error


_BROKEN = (
    pickle.UnpicklingError,
    EOFError,
    ValueError,
    TypeError,
    AttributeError,
    LookupError,
    OverflowError,
    MemoryError,
    RecursionError,
)


class _Type:
    """Stands for a numpy dtype: little-endian float32 or nothing."""

    def __init__(self, name: object, *_: object) -> None:
        if name != "f4":
            raise InputError(f"must hold a float32 array (rows, D), got numbers of type {name!r}")

    def __setstate__(self, state: object) -> None:
        if state != (3, "<", None, None, None, -1, -1, 0):
            raise InputError("is not a plain array: its type is not that of little-endian float32 numbers")


class _Array:
    """Stands for a numpy array until its state is known to be sound."""

    def __init__(self, *_: object) -> None:
        self.state: Any = None

    def __setstate__(self, state: object) -> None:
        self.state = state

    def numbers(self) -> "np.ndarray[Any, np.dtype[np.float32]]":
        """Return the array; raises InputError for any state that numpy would not have written."""
        import numpy as np

        if not (isinstance(self.state, tuple) and len(self.state) == 5):
            raise InputError("is not a plain array: its content is missing")
        _, shape, kind, by_column, data = self.state
        if not isinstance(kind, _Type) or not isinstance(data, bytes) or type(by_column) not in (bool, int):
            raise InputError("is not a plain array of float32 numbers")
        if not (isinstance(shape, tuple) and len(shape) == 2 and all(type(n) is int and n >= 0 for n in shape)):
            raise InputError(f"must hold a float32 array (rows, D), got shape {shape}")
        if len(data) != 4 * shape[0] * shape[1]:
            raise InputError(f"is not a whole array: {len(data)} bytes for {shape[0]} x {shape[1]} numbers")
        return np.frombuffer(data, "<f4").reshape(shape, order="F" if by_column else "C").copy(order="C")


class _ArrayUnpickler(pickle.Unpickler):
    """Builds arrays of numbers and nothing else."""

    def __init__(self, file: Any, path: Path) -> None:
        super().__init__(file)
        self._path = path
        self._allowed: dict[str, Any] = {
            "multiarray._reconstruct": _Array,
            "numpy.ndarray": "numpy.ndarray",  # only ever an argument of _reconstruct
            "numpy.dtype": _Type,
        }

    def find_class(self, module: str, name: str) -> Callable[..., Any]:
        key = "multiarray._reconstruct" if (module, name) in _RECONSTRUCT else f"{module}.{name}"
        if key not in self._allowed:
            raise InputError(f"{self._path} is not a plain array: it asks for {module}.{name}, which is not allowed")
        return self._allowed[key]


_RECONSTRUCT = {(module, "_reconstruct") for module in ("numpy.core.multiarray", "numpy._core.multiarray")}
