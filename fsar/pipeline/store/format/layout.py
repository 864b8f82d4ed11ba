"""What a store holds: its arrays, their shapes, and how rows are cut into chunks."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from fsar.errors import InputError
from fsar.pipeline.store.format.names import refuse_collisions
from fsar.pipeline.store.format.schema import FORMAT_VERSION, MAX_CHUNK_BYTES, TAP_DTYPES

STATUS_PENDING, STATUS_OK, STATUS_FAILED = 0, 1, 2
MAX_CHUNK_ROWS = 256
"""A chunk is what a killed run loses, so even tiny rows are committed every few hundred videos."""
NAME_PATTERN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]*")


@dataclass(frozen=True, slots=True)
class VideoRow:
    """One row of a store: which video it is, before anything is computed."""

    video_id: str
    class_name: str
    part: str
    """train, val, test, or empty."""
    path: str

    def cells(self) -> tuple[str, str, str, str]:
        """Return the fields in the order of videos.csv."""
        return self.video_id, self.class_name, self.part, self.path


@dataclass(frozen=True)
class TapSpec:
    """Shape and dtype of one tap for one frame, e.g. (512,) pooled or (197, 512) tokens."""

    shape: tuple[int, ...]
    dtype: Literal["float16", "float32"] = "float16"

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", tuple(int(size) for size in self.shape))
        if self.dtype not in TAP_DTYPES:
            raise InputError(f"a tap's dtype must be float16 or float32, got {self.dtype!r}")
        if any(size < 1 for size in self.shape):
            raise InputError(f"a tap's shape must be positive, got {self.shape}")


@dataclass(frozen=True)
class ArraySpec:
    """One array of a store; its first axis is the videos."""

    name: str
    tail: tuple[int, ...]
    """Shape without the first axis."""
    dtype: str
    fill: float | int
    """What a row that is not there yet reads as in plain zarr and h5py."""
    dimensions: tuple[str, ...]

    @property
    def numpy_dtype(self) -> np.dtype[Any]:
        """Little-endian, as on disk."""
        return np.dtype(self.dtype).newbyteorder("<")

    @property
    def row_bytes(self) -> int:
        """Bytes of one video."""
        return math.prod(self.tail) * self.numpy_dtype.itemsize


@dataclass(frozen=True)
class Chunk:
    """A run of rows: one unit of work, one writer, one commit."""

    index: int
    rows: range
    """The rows to compute: those of the chunk that are not stored yet."""


@dataclass(frozen=True)
class Layout:
    """Everything about a store but its videos and numbers."""

    taps: Mapping[str, TapSpec]
    n_views: int
    n_slots: int
    chunk_rows: int
    recipe: Mapping[str, Any]

    def arrays(self) -> dict[str, ArraySpec]:
        """Return every array that is written chunk by chunk, by name."""
        views, slots = self.n_views, self.n_slots
        axes = ("video", "view", "slot")
        specs = [
            ArraySpec(
                f"features/{name}",
                (views, slots, *tap.shape),
                tap.dtype,
                float("nan"),
                (*axes, *(f"axis_{axis}" for axis in range(len(tap.shape)))),
            )
            for name, tap in self.taps.items()
        ]
        specs += [
            ArraySpec("frame_index", (views, slots), "int32", -1, axes),
            ArraySpec("frame_time", (views, slots), "float64", float("nan"), axes),
            ArraySpec("status", (), "uint8", STATUS_PENDING, axes[:1]),
            ArraySpec("n_frames", (), "int32", 0, axes[:1]),
            ArraySpec("source_sha256", (32,), "uint8", 0, ("video", "byte")),
        ]
        return {spec.name: spec for spec in specs}

    def n_chunks(self, n_videos: int) -> int:
        """Return how many chunks hold `n_videos` rows."""
        return -(-n_videos // self.chunk_rows)

    def chunk_range(self, index: int, n_videos: int) -> range:
        """Return the rows of chunk `index`; the last one may be short."""
        return range(index * self.chunk_rows, min((index + 1) * self.chunk_rows, n_videos))

    def to_dict(self) -> dict[str, Any]:
        """Return the layout as JSON data; taps keep their order through sorting by name."""
        taps = {name: {"shape": list(tap.shape), "dtype": tap.dtype} for name, tap in self.taps.items()}
        return {
            "format_version": FORMAT_VERSION,
            "taps": taps,
            "n_views": self.n_views,
            "n_slots": self.n_slots,
            "chunk_rows": self.chunk_rows,
            "recipe": dict(self.recipe),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Layout":
        """Return the layout that `to_dict` wrote; `schema.check_store` has passed it."""
        taps = {name: TapSpec(tuple(tap["shape"]), tap["dtype"]) for name, tap in sorted(data["taps"].items())}
        return cls(taps, data["n_views"], data["n_slots"], data["chunk_rows"], data["recipe"])


def pending_chunks(layout: Layout, n_videos: int, stored: Mapping[int, int]) -> list[Chunk]:
    """Return what is still to compute of a store of which the first `stored[index]` rows of each chunk are there."""
    chunks = []
    for index in range(layout.n_chunks(n_videos)):
        rows = layout.chunk_range(index, n_videos)[stored.get(index, 0) :]
        if rows:
            chunks.append(Chunk(index, rows))
    return chunks


def plan_layout(
    taps: Mapping[str, TapSpec],
    *,
    n_views: int,
    n_slots: int,
    recipe: Mapping[str, Any],
    chunk_bytes: int,
    chunk_rows: int | None = None,
) -> Layout:
    """Return the layout whose biggest tap has chunks of about `chunk_bytes`; one row count serves all arrays."""
    if not taps:
        raise InputError("a store needs at least one tap")
    for name in taps:
        check_name("tap", name)
    refuse_collisions(taps, "the list of taps")
    for label, value in (("views", n_views), ("slots", n_slots), ("bytes per chunk", chunk_bytes)):
        if value < 1:
            raise InputError(f"the number of {label} must be at least 1, got {value}")
    biggest = max(math.prod(tap.shape) * np.dtype(tap.dtype).itemsize for tap in taps.values()) * n_views * n_slots
    rows = chunk_rows or max(1, min(MAX_CHUNK_ROWS, chunk_bytes // biggest))
    if rows * biggest > MAX_CHUNK_BYTES:
        raise InputError(
            f"{rows} videos of {biggest} bytes are too much for one chunk: at most {MAX_CHUNK_BYTES} bytes"
        )
    return Layout(dict(sorted(taps.items())), int(n_views), int(n_slots), int(rows), dict(recipe))


def check_name(kind: str, name: str) -> None:
    """Raise InputError unless `name` can stand in a file name of every system and as a node name."""
    if not NAME_PATTERN.fullmatch(name):
        raise InputError(f"a {kind}'s name must consist of letters, digits and _ . + -, got {name!r}")


def check_videos(videos: Sequence[VideoRow]) -> None:
    """Raise InputError when the list is empty or names a video twice."""
    if not videos:
        raise InputError("a store needs at least one video")
    first: dict[str, int] = {}
    for row, video in enumerate(videos):
        if video.video_id in first:
            raise InputError(f"video {video.video_id!r} is listed twice (rows {first[video.video_id]} and {row})")
        first[video.video_id] = row


def refuse_other_parts(videos: Sequence[VideoRow], source: str, others: Sequence[VideoRow], other: str) -> None:
    """Raise InputError when two lists of videos (from `source` and `other`) have a class in different split parts."""
    parts = _parts_of_classes(videos)
    for name, other_parts in _parts_of_classes(others).items():
        if name in parts and not parts[name] & other_parts:
            raise InputError(
                f"class {name!r} is {'/'.join(sorted(parts[name]))} in {source} and {'/'.join(sorted(other_parts))} in "
                f"{other}: use one split for both"
            )


def _parts_of_classes(videos: Sequence[VideoRow]) -> dict[str, set[str]]:
    parts: dict[str, set[str]] = {}
    for video in videos:
        if video.part:
            parts.setdefault(video.class_name, set()).add(video.part)
    return parts
