"""Reading packed frames: any frame of any video, checked, on the CPU or a CUDA device."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fsar.errors import InputError, unknown_name
from fsar.files import open_plain
from fsar.pipeline.packs.index import OK, ShardIndex, read_index
from fsar.pipeline.packs.jpeg import decode_jpeg, decode_jpegs_on_cuda, jpeg_shape
from fsar.pipeline.packs.layout import SUFFIX, PackLayout, PackSettings, data_name, index_name, pack_files, read_pack
from fsar.pipeline.store.format.files import MANIFEST_FILE
from fsar.pipeline.store.format.layout import VideoRow
from fsar.pipeline.store.partial import Partial, read_partial
from fsar.pipeline.video.clip import VideoError

if TYPE_CHECKING:
    import torch

MAX_OPEN_SHARDS = 256
"""A process may have some thousand files open, and others need theirs."""


def is_pack(path: str | Path) -> bool:
    """Tell by its name whether a path is meant to be a pack."""
    return Path(path).suffix == SUFFIX


@dataclass(frozen=True)
class PackedVideo:
    """What a pack knows of one video. Its S stored frames are numbered from 0, in order of time."""

    row: int
    video_id: str
    class_name: str
    part: str
    n_stored: int
    """S; 0 for a video that could not be decoded when the pack was made."""
    frame_index: npt.NDArray[np.int32]
    """(S,) position of each stored frame in the video itself."""
    frame_time: npt.NDArray[np.float64]
    """(S,) seconds."""
    n_frames: int
    """Frames of the video itself."""
    height: int
    width: int
    source_sha256: bytes
    """Of the video file that the frames came from."""


@dataclass(frozen=True)
class _Shard:
    index: ShardIndex
    data: BufferedReader
    """Read by position, so that threads may share it; it closes with the last who reads from it."""

    def __del__(self) -> None:
        self.data.close()


class FramePack:
    """A pack that is open for reading.

    It may be sent to other processes, which open its files anew; reading from several threads is safe. Frames that
    cannot be read raise `VideoError`, like a video that cannot be decoded: `missing` (failed when the pack was made)
    or `damaged`.
    """

    def __init__(self, path: str | Path, *, allow_unsealed: bool = False) -> None:
        self.path = Path(path)
        self._files = pack_files(path)
        self._layout, self.videos = read_pack(self._files)
        self.sealed = self._files.locate(MANIFEST_FILE).exists()
        if not self.sealed and not allow_unsealed:
            raise InputError(f"{path} is not finished: run the command that made it again")
        self._rows = {video.video_id: row for row, video in enumerate(self.videos)}
        if len(self._rows) < len(self.videos):
            raise InputError(f"{path} is damaged: it lists a video twice")
        self._shards: dict[int, _Shard] = {}

    @classmethod
    def open(cls, path: str | Path, *, allow_unsealed: bool = False) -> FramePack:
        """Return the pack at NAME.frames.

        Raises:
            FileNotFoundError: there is none.
            InputError: it is damaged, not finished or of another version.
        """
        return cls(path, allow_unsealed=allow_unsealed)

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopen, (self.path, not self.sealed)

    def __len__(self) -> int:
        return len(self.videos)

    @property
    def layout(self) -> PackLayout:
        """How its rows fall into files."""
        return self._layout

    @property
    def settings(self) -> PackSettings:
        """How its frames were made."""
        return self._layout.settings

    def video(self, video_id: str) -> PackedVideo:
        """Return what is known of a video. Raises InputError when the pack does not have it."""
        row = self._row(video_id)
        shard, place = self._place(row)
        index, row_of = shard.index, self.videos[row]
        frames = slice(int(index.first[place]), int(index.first[place + 1]))
        height, width = (int(side) for side in index.shape[place])
        return PackedVideo(
            row=row,
            video_id=video_id,
            class_name=row_of.class_name,
            part=row_of.part,
            n_stored=frames.stop - frames.start,
            frame_index=index.frame_index[frames],
            frame_time=index.frame_time[frames],
            n_frames=int(index.n_frames[place]),
            height=height,
            width=width,
            source_sha256=index.source_sha256[place].tobytes(),
        )

    def frames(
        self, video_id: str, indices: Sequence[int] | npt.NDArray[np.integer] | None = None
    ) -> npt.NDArray[np.uint8]:
        """Return stored frames of a video, (T, H, W, 3) uint8 RGB.

        `indices` count the stored frames, 0..S-1, in any order, repeats allowed; None means all of them.
        """
        video, wanted = self._wanted(video_id, indices)
        distinct, places = np.unique(wanted, return_inverse=True)
        pictures = np.empty((len(distinct), video.height, video.width, 3), np.uint8)
        for place, jpeg in enumerate(self.jpegs(video_id, distinct)):
            try:
                decode_jpeg(jpeg, pictures[place])
            except ValueError as error:
                raise self._damaged(f"frame {distinct[place]} of {video_id} cannot be decoded: {error}") from error
        in_order = len(places) == len(distinct) and (places == np.arange(len(places))).all()
        return pictures if in_order else pictures[places]

    def frames_on(
        self, device: str | torch.device, video_id: str, indices: Sequence[int] | npt.NDArray[np.integer] | None = None
    ) -> torch.Tensor:
        """Return what `frames` returns as a tensor on a device; a CUDA device decodes by nvJPEG.

        nvJPEG interpolates colours in its own way: a few levels away from libjpeg-turbo at coloured edges.
        """
        import torch

        device = torch.device(device)
        if device.type != "cuda":
            return torch.from_numpy(self.frames(video_id, indices)).to(device)
        _, wanted = self._wanted(video_id, indices)
        distinct, places = np.unique(wanted, return_inverse=True)
        try:
            pictures = torch.stack(decode_jpegs_on_cuda(self.jpegs(video_id, distinct), device))
        except RuntimeError as error:
            raise self._damaged(f"frames of {video_id} cannot be decoded: {error}") from error
        return pictures.permute(0, 2, 3, 1)[torch.from_numpy(places).to(device)]

    def jpegs(self, video_id: str, indices: Sequence[int] | npt.NDArray[np.integer]) -> list[memoryview]:
        """Return the JPEG files of stored frames, checked against their checksums and for their shape."""
        import google_crc32c

        row = self._row(video_id)
        shard, place = self._place(row)
        index = shard.index
        if index.status[place] != OK:
            raise VideoError("missing", f"{video_id} could not be decoded when {self.path} was made")
        first, end = int(index.first[place]), int(index.first[place + 1])
        numbers = np.asarray(indices, np.int64)
        if numbers.ndim != 1 or not numbers.size or numbers.min() < 0 or numbers.max() >= end - first:
            raise ValueError(f"indices of {video_id} must be a row of numbers in 0..{end - first - 1}, got {indices}")
        low, high = first + int(numbers.min()), first + int(numbers.max()) + 1
        start = int(index.offset[low])
        span = memoryview(os.pread(shard.data.fileno(), int(index.offset[high]) - start, start))
        jpegs = []
        for frame in (first + numbers).tolist():
            jpeg = span[int(index.offset[frame]) - start : int(index.offset[frame + 1]) - start]
            if google_crc32c.value(bytes(jpeg)) != int(index.crc32c[frame]):
                raise self._damaged(f"frame {frame - first} of {video_id} is damaged")
            if jpeg_shape(jpeg) != tuple(index.shape[place]):
                raise self._damaged(f"frame {frame - first} of {video_id} is not the JPEG it should be")
            jpegs.append(jpeg)
        return jpegs

    def require(self, video_ids: Iterable[str]) -> None:
        """Raise InputError, which names the command to fetch them, unless the files of these videos are here.

        Of a whole pack they are; of a partial copy only those that were pulled.
        """
        partial = read_partial(self._files)
        if partial is None:
            return
        shards = {self._layout.shard_of(row): row for row in map(self._row, video_ids)}
        for number in sorted(shards):
            if not all(self._files.locate(name(number)).exists() for name in (data_name, index_name)):
                raise self._not_here(partial, self.videos[shards[number]])

    def _not_here(self, partial: Partial, video: VideoRow) -> InputError:
        return InputError(
            f"{self.path} is a partial copy without the frames of video {video.video_id!r}: fetch them with "
            f"{partial.fetch_command(self.path, video)}"
        )

    def close(self) -> None:
        """Close the files; they are opened again when needed."""
        self._shards.clear()

    def _wanted(
        self, video_id: str, indices: Sequence[int] | npt.NDArray[np.integer] | None
    ) -> tuple[PackedVideo, npt.NDArray[np.integer]]:
        video = self.video(video_id)
        wanted = np.arange(max(video.n_stored, 1)) if indices is None else np.asarray(indices, np.int64)
        if wanted.ndim != 1:
            raise ValueError(f"indices of {video_id} must be a row of numbers, got shape {wanted.shape}")
        return video, wanted

    def _damaged(self, what: str) -> VideoError:
        return VideoError("damaged", f"{self.path}: {what}; see `fsar-store verify {self.path}`")

    def _row(self, video_id: str) -> int:
        if video_id not in self._rows:
            raise unknown_name(f"video of {self.path}", video_id, self._rows)
        return self._rows[video_id]

    def _place(self, row: int) -> tuple[_Shard, int]:
        number = self._layout.shard_of(row)
        shard = self._shards.get(number)
        if shard is None:
            if len(self._shards) >= MAX_OPEN_SHARDS:
                self._shards.clear()
            shard = self._shards.setdefault(number, self._open_shard(number))
        return shard, row - self._layout.rows(number).start

    def _open_shard(self, number: int) -> _Shard:
        n_rows = len(self._layout.rows(number))
        try:
            data = open_plain(self._files.locate(data_name(number)))
            try:
                n_bytes = os.fstat(data.fileno()).st_size
                return _Shard(read_index(self._files.locate(index_name(number)), n_rows, n_bytes), data)
            except BaseException:
                data.close()
                raise
        except FileNotFoundError as error:
            if partial := read_partial(self._files):
                raise self._not_here(partial, self.videos[self._layout.rows(number).start]) from error
            raise InputError(f"{error.filename} is missing; see `fsar-store verify {self.path}`") from error


def _reopen(path: Path, allow_unsealed: bool) -> FramePack:
    return FramePack(path, allow_unsealed=allow_unsealed)


def pack_rows(pack: FramePack) -> list[VideoRow]:
    """Return the videos of a pack as rows whose path is the pack itself."""
    return [VideoRow(video.video_id, video.class_name, video.part, str(pack.path)) for video in pack.videos]
