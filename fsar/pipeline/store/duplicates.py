"""Videos that came in twice: equal hashes of the source files."""

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


def groups_of_equal(hashes: Array, rows: Array) -> list[list[int]]:
    """Return groups of at least two of `rows` whose hash (N, 32) uint8 is the same; a hash of zeros is unknown.

    Each group ascends, and groups are in order of their first row.
    """
    members: dict[bytes, list[int]] = {}
    for row in rows.tolist():
        members.setdefault(hashes[row].tobytes(), []).append(row)
    members.pop(bytes(hashes.shape[1]), None)
    return [group for group in members.values() if len(group) > 1]
