"""What a caller may ask for: rows, views and slots, checked once before anything is read."""

import reprlib
from collections.abc import Callable
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


def index_of(kind: str, values: Any, limit: int, *, ndim: tuple[int, ...] = (1,)) -> Array:
    """Return `values` as int64 indices below `limit`, of one of the numbers of axes in `ndim`.

    Raises:
        TypeError: they are no whole numbers, or have another number of axes.
        IndexError: one is negative or too large.
    """
    index = np.asarray(values)
    if index.size == 0:
        index = index.astype(np.int64)
    if index.dtype.kind not in "iu" or index.ndim not in ndim:
        raise TypeError(f"{kind}s must be whole numbers in {ndim[-1]} axes at most, got {index.dtype} {index.shape}")
    if index.size and (index.min() < 0 or index.max() >= limit):
        raise IndexError(f"{kind}s must be 0 to {limit - 1}, got {int(index.min())} to {int(index.max())}")
    return index.astype(np.int64, copy=False)


def row_index(rows: Any, row_of: Callable[[str], int], n_rows: int) -> Array:
    """Return row numbers for row numbers, or for video ids by `row_of`.

    Raises:
        TypeError: they are no list or array, or numbers and ids are mixed.
        IndexError: a number is negative or too large.
    """
    try:
        by_id = len(rows) > 0 and isinstance(rows[0], str)
    except (TypeError, KeyError):  # one number, a set, a mapping
        raise _not_rows(rows) from None
    if not by_id:
        return index_of("row", rows, n_rows)
    if isinstance(rows, str) or not all(isinstance(video_id, str) for video_id in rows):
        raise _not_rows(rows)
    return index_of("row", [row_of(str(video_id)) for video_id in rows], n_rows)


def _not_rows(rows: Any) -> TypeError:
    return TypeError(f"rows must be a list or array, all row numbers or all video ids, got {reprlib.repr(rows)}")


def view_index(views: Any, n_views: int, n_rows: int) -> Array | int:
    """Return one view for all rows, or (R,) one for each."""
    if type(views) is int and 0 <= views < n_views:
        return views
    index = index_of("view", views, n_views, ndim=(0, 1))
    if index.ndim == 0:
        return int(index)
    if len(index) != n_rows:
        raise IndexError(f"views must be one per row ({n_rows}), got {len(index)}")
    return index


def slot_index(frames: Any, n_slots: int, n_rows: int) -> Array:
    """Return the slots (T',) for all rows, or (R, T') for each."""
    index = index_of("slot", frames, n_slots, ndim=(1, 2))
    if index.ndim == 2 and len(index) != n_rows:
        raise IndexError(f"slots must be the same for all rows or one list per row ({n_rows}), got {index.shape}")
    return index
