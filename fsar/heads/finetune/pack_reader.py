"""Reading the frames of visits from packed frames."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType

from fsar.heads.finetune.visits import Frames, Visit
from fsar.pipeline.encode.clip_task import DecodeFailure
from fsar.pipeline.packs import FramePack
from fsar.pipeline.store import VideoRow
from fsar.pipeline.video.clip import VideoError


class PackReader:
    """Reads packed frames in threads: decoding JPEG does not hold Python's lock."""

    def __init__(self, videos: list[VideoRow], pack: FramePack, jobs: int) -> None:
        self._videos, self._pack = videos, pack
        self._threads = ThreadPoolExecutor(jobs, thread_name_prefix="fsar-pack")

    def read(self, visits: Sequence[Visit]) -> Iterator[Frames | DecodeFailure]:
        """Yield the stored frames that the sampler picks among those that are stored."""
        yield from self._threads.map(self._read, visits)

    def _read(self, visit: Visit) -> Frames | DecodeFailure:
        video_id = self._videos[visit.row].video_id
        try:
            n_stored = self._pack.video(video_id).n_stored
            return self._pack.frames(video_id, visit.indices(video_id, n_stored))
        except VideoError as error:
            return DecodeFailure(error.reason, str(error))

    def __enter__(self) -> PackReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._threads.shutdown(cancel_futures=True)
