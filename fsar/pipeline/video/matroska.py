"""Is a Matroska or WebM file whole? Its elements nest and state their sizes, so that can be told without decoding.

Durations cannot tell: the last frame may stay on screen for any time. Layout: RFC 8794 (EBML), RFC 9559 (Matroska).
"""

from pathlib import Path
from typing import BinaryIO, Literal

Wholeness = Literal["whole", "cut", "broken", "unknown"]

EBML_HEADER, SEGMENT, CLUSTER = 0x1A45DFA3, 0x18538067, 0x1F43B675


def wholeness(path: Path) -> tuple[Wholeness, str]:
    """Return whether every element of the file lies inside its parent, and a sentence on the first that does not.

    `cut`: the file ends before its segment does. `broken`: an element is no element, or reaches over the end of its
    parent. `unknown`: it was streamed, and sizes were left open.
    """
    n_bytes = path.stat().st_size
    with open(path, "rb") as file:
        header = _element(file, n_bytes)
        if header is None or header[0] != EBML_HEADER or header[1] is None:
            return "unknown", ""
        file.seek(header[1])
        segment = _element(file, n_bytes)
        if segment is None or segment[0] != SEGMENT or segment[1] is None:
            return "unknown", ""
        if segment[1] > n_bytes:
            return "cut", f"{n_bytes} of the {segment[1]} bytes that its header promises"
        return _children(file, segment[1], {CLUSTER})


def _children(file: BinaryIO, end: int, open_up: set[int]) -> tuple[Wholeness, str]:
    """Check the elements from here to `end`, and inside those that `open_up` names."""
    while (start := file.tell()) < end:
        found = _element(file, end)
        if found is None:
            return "broken", f"no element can be read at byte {start}"
        identity, inner_end = found
        if inner_end is None:
            return "unknown", ""
        if inner_end > end:
            return "broken", f"the element at byte {start} is longer than what it lies in"
        if identity in open_up:
            inside = _children(file, inner_end, set())
            if inside[0] != "whole":
                return inside
        file.seek(inner_end)
    return "whole", ""


def _element(file: BinaryIO, end: int) -> tuple[int, int | None] | None:
    """Return identity and end of the element that begins here (end None: left open), None if there is none."""
    identity = _number(file, 4, keep_marker=True)
    size = _number(file, 8, keep_marker=False)
    if identity is None or size is None or file.tell() > end:
        return None
    value, n_digits = size
    is_open = value == (1 << 7 * n_digits) - 1
    return identity[0], None if is_open else file.tell() + value


def _number(file: BinaryIO, max_bytes: int, *, keep_marker: bool) -> tuple[int, int] | None:
    """Return a number of variable length and its bytes; its leading zeros say how many there are."""
    first = file.read(1)
    if not first or not first[0]:
        return None
    n_bytes = 9 - first[0].bit_length()
    rest = file.read(n_bytes - 1)
    if n_bytes > max_bytes or len(rest) < n_bytes - 1:
        return None
    value = int.from_bytes(first + rest)
    return (value if keep_marker else value & ((1 << 7 * n_bytes) - 1)), n_bytes
