"""The videos that a training draws from, and reading their frames: from a catalog's files or from packed frames."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Protocol

from fsar.errors import InputError
from fsar.files import sha256_file
from fsar.heads.finetune.visits import Frames, Visit, VisitTask
from fsar.pipeline.catalog.catalog import read_catalog, select_rows
from fsar.pipeline.encode.clip_task import DecodedClip, DecodeFailure, InlineDecoder
from fsar.pipeline.encode.workers import DecodePool
from fsar.pipeline.packs.catalog import video_rows
from fsar.pipeline.store import VideoRow
from fsar.splits import Split, match_videos

if TYPE_CHECKING:
    from fsar.pipeline.packs import FramePack

PACK_SUFFIX = ".frames"


@dataclass(frozen=True)
class VideoSet:
    """Videos with their classes and parts, in the order in which a store would keep them."""

    path: Path
    """The catalog, or the pack."""
    videos: list[VideoRow]
    pack: FramePack | None = None

    @classmethod
    def open(cls, path: Path, split: Split | None = None) -> VideoSet:
        """Return the videos of a catalog (CSV) or of a pack (NAME.frames), those of a split alone if one is given.

        Raises:
            FileNotFoundError: there is no such file.
            InputError: it is a feature store, or no video is in the split.
        """
        if path.suffix in (".zarr", ".h5"):
            raise InputError(
                f"{path} is a feature store, which has no frames: fine-tuning reads videos from a catalog.csv of "
                "fsar-prep index or from a NAME.frames of fsar-prep extract --layout packed"
            )
        if path.suffix != PACK_SUFFIX:
            rows = select_rows(read_catalog(path), split)
            return cls(path, video_rows(rows))
        from fsar.pipeline.packs import FramePack
        from fsar.pipeline.packs.reader import pack_rows

        pack = FramePack.open(path)
        return cls(path, _in_split(pack_rows(pack), split, path), pack)

    def of_part(self, part: str) -> VideoSet:
        """Return the videos of one part."""
        return replace(self, videos=[video for video in self.videos if video.part == part])

    def duplicates(self) -> list[list[int]]:
        """Return groups of rows whose videos are the same file, byte for byte."""
        hashes = self._packed_hashes() if self.pack is not None else self._file_hashes()
        groups: dict[bytes, list[int]] = {}
        for row, digest in hashes.items():
            groups.setdefault(digest, []).append(row)
        return [rows for rows in groups.values() if len(rows) > 1]

    def _packed_hashes(self) -> dict[int, bytes]:
        assert self.pack is not None
        hashes = {row: self.pack.video(video.video_id).source_sha256 for row, video in enumerate(self.videos)}
        return {row: digest for row, digest in hashes.items() if any(digest)}

    def _file_hashes(self) -> dict[int, bytes]:
        """Return the hashes of the files that have the size of another one: the others cannot be copies."""
        of_size: dict[int, list[int]] = {}
        for row, video in enumerate(self.videos):
            path = Path(video.path)
            if path.is_file():
                of_size.setdefault(path.stat().st_size, []).append(row)
        suspects = sorted(row for rows in of_size.values() if len(rows) > 1 for row in rows)
        return {row: bytes.fromhex(sha256_file(Path(self.videos[row].path))) for row in suspects}

    def reader(self, *, jobs: int = 1, decoder: str = "pyav") -> FrameReader:
        """Return what reads their frames, in `jobs` processes (videos) or threads (packs); 0 for neither."""
        if self.pack is not None:
            from fsar.heads.finetune.pack_reader import PackReader

            self.pack.require(video.video_id for video in self.videos)
            return PackReader(self.videos, self.pack, max(jobs, 1))
        return VideoReader(self, jobs, decoder)


def _in_split(rows: list[VideoRow], split: Split | None, path: Path) -> list[VideoRow]:
    """Return the rows of a split, with its spelling of the classes, in its order of classes and videos."""
    if split is None:
        return rows
    places = match_videos(split, [(row.video_id, row.class_name) for row in rows]).places
    order = {(part, name): k for k, (part, name, _) in enumerate(split.classes())}
    chosen = [
        (
            order[place.part, place.class_name],
            place.order,
            VideoRow(row.video_id, place.class_name, place.part, row.path),
        )
        for row, place in zip(rows, places, strict=True)
        if place is not None
    ]
    if not chosen:
        raise InputError(f"no video of {path} is in split {split.name!r}: is it the same dataset?")
    return [row for *_, row in sorted(chosen, key=lambda item: item[:2])]


class FrameReader(Protocol):
    """Reads visits ahead of time."""

    def read(self, visits: Sequence[Visit]) -> Iterator[Frames | DecodeFailure]:
        """Yield the frames (T, H, W, 3) of each visit, in order, or why there are none."""
        ...

    def __enter__(self) -> FrameReader:
        """Return itself."""
        ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop processes and threads."""
        ...


class VideoReader:
    """Decodes video files in processes, each video with a deadline; a decoder that hangs or dies is replaced."""

    def __init__(self, videos: VideoSet, jobs: int, decoder: str) -> None:
        self._videos, self._decoder, self._key = videos.videos, decoder, 0
        self._pool: DecodePool | InlineDecoder = DecodePool(jobs) if jobs else InlineDecoder()

    def read(self, visits: Sequence[Visit]) -> Iterator[Frames | DecodeFailure]:
        """Submit all visits at once, then yield them in order."""
        first, self._key = self._key, self._key + len(visits)
        for key, visit in enumerate(visits, first):
            video = self._videos[visit.row]
            self._pool.submit(
                key,
                VisitTask(
                    video.video_id, video.path, visit.sampler, visit.n_frames, 1, visit.seed, self._decoder, visit=visit
                ),
            )
        for key in range(first, first + len(visits)):
            clip = self._pool.take(key)
            yield clip.frames[clip.slots[0]] if isinstance(clip, DecodedClip) else clip

    def __enter__(self) -> VideoReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.close()
