"""Names and book-keeping files of a pack: the journal and the manifest are the feature store's own."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, cast

from fsar.errors import InputError, MissingError, unknown_name
from fsar.files import read_plain
from fsar.pipeline.store.format.files import VIDEO_COLUMNS, StoreFiles, videos_sha256
from fsar.pipeline.store.format.identity import checked_json, parse_checked_json
from fsar.pipeline.store.format.layout import VideoRow
from fsar.pipeline.store.format.names import inside
from fsar.pipeline.store.format.registry import StoreFormat

SUFFIX = ".frames"
PACK_FILE = "pack.json"
FORMAT_VERSION = 1
"""Counts up whenever a pack written before could be misread."""
_OWN_FILE = re.compile(r"pack\.json|frames/[0-9]{6,}\.(jpgs|index)")
MAX_FRAMES = 10_000
SHARD_BYTES = 256 << 20
"""Rough size of a shard: the unit of work, lost by a kill, and the unit of transfer."""
MAX_SHARD_ROWS = 512
MAX_PACK_BYTES, MAX_VIDEOS_BYTES = 16 << 20, 1 << 30
"""What is read of a file that somebody else may have written."""


@dataclass(frozen=True)
class PackSettings:
    """What decides the frames of a pack."""

    frames: int
    """Frames of each video, at most: a shorter video gives each of its frames once."""
    sampler: str = "uniform-center"
    short_side: int | None = None
    """Pixels of the shorter side, at most: smaller videos are not enlarged. None keeps every size."""
    quality: int = 95
    """Of JPEG, 1 to 100."""
    seed: int = 0
    """For samplers that draw: the frames of a video depend on the seed and its id alone."""

    def __post_init__(self) -> None:
        from fsar.pipeline.video.sample import list_samplers

        for field in fields(self):
            value = getattr(self, field.name)
            if type(value) not in ((str,) if field.name == "sampler" else (int, type(None))):
                raise InputError(f"{field.name} of a pack must be {field.type}, got {value!r}")
        if not 1 <= self.frames <= MAX_FRAMES:
            raise InputError(f"frames must be in 1..{MAX_FRAMES}, got {self.frames}")
        if self.sampler not in list_samplers():
            raise unknown_name("sampler", self.sampler, list_samplers())
        if self.short_side is not None and self.short_side < 8:
            raise InputError(f"short side must be at least 8 pixels, got {self.short_side}")
        if not 1 <= self.quality <= 100:
            raise InputError(f"quality must be in 1..100, got {self.quality}")
        if not 0 <= self.seed < 2**63:
            raise InputError(f"seed must be 0 or more, got {self.seed}")

    def describe(self) -> str:
        """Return in words how the frames were made."""
        size = f"shorter side at most {self.short_side}" if self.short_side else "in their own size"
        return f"{self.frames} frames by {self.sampler} (seed {self.seed}), {size}, JPEG quality {self.quality}"


class PackFormat:
    """What the journal of a store asks of a format, answered for packs: everything lies in the pack's own folder."""

    name = "frames"
    suffix = SUFFIX

    def home(self, path: Path) -> Path:
        """Return the pack's own folder."""
        return path

    def locate(self, path: Path, name: str) -> Path:
        """Return where the file called `name` in journal and manifest lies; InputError if it leads elsewhere."""
        return inside(path, name)

    def extra_names(self) -> tuple[str, ...]:
        """Return nothing: all files lie in the folder."""
        return ()

    def owns(self, name: str) -> bool:
        """Return whether a pack has files of that name, apart from what every store has."""
        return _OWN_FILE.fullmatch(name) is not None

    def leads_home(self, path: Path) -> bool:
        """Return True: nothing in the folder holds its name."""
        return True


def pack_files(path: str | Path) -> StoreFiles:
    """Return the files of the pack at `path`, whether or not they exist; journal and manifest work on them.

    Raises:
        InputError: no pack is called so.
    """
    if Path(path).suffix != SUFFIX:
        raise InputError(f"a pack's name must end in {SUFFIX}, got {str(path)!r}")
    return StoreFiles(Path(path), cast("StoreFormat", PackFormat()))  # nothing asks a pack for arrays


@dataclass(frozen=True)
class PackLayout:
    """How a pack was made and how its rows fall into shards."""

    settings: PackSettings
    shards: tuple[int, ...]
    """First row of each shard, then the number of rows: shards never change, `add` appends new ones."""

    def rows(self, shard: int) -> range:
        """Return the rows of a shard."""
        return range(self.shards[shard], self.shards[shard + 1])

    @property
    def n_shards(self) -> int:
        """Number of shards."""
        return len(self.shards) - 1

    def shard_of(self, row: int) -> int:
        """Return the shard that holds a row."""
        import bisect

        return bisect.bisect_right(self.shards, row) - 1

    def grown(self, n_rows: int) -> PackLayout:
        """Return the layout with rows added in shards of their own."""
        added = range(self.shards[-1], n_rows, shard_rows(self.settings)) if n_rows > self.shards[-1] else ()
        return PackLayout(self.settings, (*self.shards[:-1], *added, n_rows))


def new_layout(settings: PackSettings, n_rows: int) -> PackLayout:
    """Return the layout of a new pack."""
    return PackLayout(settings, (0,)).grown(n_rows)


def shard_rows(settings: PackSettings) -> int:
    """Return how many videos share a shard, by a rough guess of a frame's size: 0.25 bytes a pixel at 16:9."""
    frame_bytes = (settings.short_side or 480) ** 2 * 16 / 9 * 0.25
    return max(1, min(MAX_SHARD_ROWS, int(SHARD_BYTES / (settings.frames * frame_bytes))))


def data_name(shard: int) -> str:
    """Return the name of the file that holds the JPEGs of a shard."""
    return f"frames/{shard:06d}.jpgs"


def index_name(shard: int) -> str:
    """Return the name of the index of a shard."""
    return f"frames/{shard:06d}.index"


def pack_json(layout: PackLayout, videos: Sequence[VideoRow]) -> bytes:
    """Return the bytes of pack.json."""
    identity = {"n_videos": len(videos), "videos_sha256": videos_sha256(videos)}
    about = {"format_version": FORMAT_VERSION, "settings": asdict(layout.settings), "shards": list(layout.shards)}
    return checked_json(about | identity)


def read_pack(files: StoreFiles) -> tuple[PackLayout, list[VideoRow]]:
    """Return layout and rows of a pack, checked against each other.

    Raises:
        FileNotFoundError: there is no pack.
        InputError: a file is damaged or of another version, or not what a pack holds.
    """
    if not files.exists():
        raise MissingError(f"no pack of frames at {files.path}: `fsar-prep extract --layout packed` makes one")
    source = str(files.locate(PACK_FILE))
    layout, identity = _parse_pack(read_plain(files.locate(PACK_FILE), MAX_PACK_BYTES), source)
    videos = _read_videos(files)
    if (
        identity != {"n_videos": len(videos), "videos_sha256": videos_sha256(videos)}
        or len(videos) != layout.shards[-1]
    ):
        raise InputError(f"{files.path} is damaged: videos.csv does not list the videos that the pack was made for")
    return layout, videos


def _parse_pack(data: bytes, source: str) -> tuple[PackLayout, Mapping[str, Any]]:
    _check_version(data, source)
    value = parse_checked_json(data, source)
    try:
        settings, shards = PackSettings(**value["settings"]), value["shards"]
        identity = {name: value[name] for name in ("n_videos", "videos_sha256")}
    except (KeyError, TypeError) as error:
        raise InputError(f"{source} is damaged or of another version: {error}") from error
    ascending = isinstance(shards, list) and len(shards) >= 2 and shards[0] == 0
    if not ascending or not all(type(n) is int for n in shards) or any(a >= b for a, b in itertools.pairwise(shards)):
        raise InputError(f"{source} is damaged: shards must begin at 0 and ascend")
    return PackLayout(settings, tuple(shards)), identity


def _check_version(data: bytes, source: str) -> None:
    try:
        version = json.loads(data)["format_version"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return  # damaged: the checksum says so
    if version != FORMAT_VERSION:
        raise InputError(f"{source} is of pack format {version!r}, this fsar reads format {FORMAT_VERSION}")


def _read_videos(files: StoreFiles) -> list[VideoRow]:
    import csv
    import io

    path = files.locate("videos.csv")
    try:
        text = read_plain(path, MAX_VIDEOS_BYTES).decode("utf-8")
        rows = csv.DictReader(io.StringIO(text, newline=""))
        return [VideoRow(*(row[column] for column in VIDEO_COLUMNS)) for row in rows]
    except (KeyError, TypeError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} is damaged: {error}") from error
