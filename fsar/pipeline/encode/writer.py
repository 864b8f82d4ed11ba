"""Finished chunks on their way to the store, off the path of the network."""

from __future__ import annotations

import queue
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fsar.pipeline.store import Chunk, ChunkData, StoreWriter


class WriterThread:
    """Commit finished chunks behind the encoder's back; at most one waits, so memory stays bounded."""

    def __init__(self, writer: StoreWriter) -> None:
        self._writer = writer
        self._queue: queue.Queue[tuple[Chunk, ChunkData] | None] = queue.Queue(maxsize=1)
        self._problem: BaseException | None = None
        self.committed: set[int] = set()
        self._thread = threading.Thread(target=self._serve, name="fsar-write", daemon=True)
        self._thread.start()

    def put(self, chunk: Chunk, data: ChunkData) -> None:
        """Hand over a chunk. Raises what an earlier one failed with."""
        self._raise()
        self._queue.put((chunk, data))

    def flush(self) -> None:
        """Wait until everything is on disk. Raises what a chunk failed with."""
        self._queue.join()
        self._raise()

    def stop(self) -> None:
        """Finish the chunks that were handed over and end the thread."""
        self._queue.put(None)
        self._thread.join()

    def _raise(self) -> None:
        if self._problem is not None:
            raise self._problem

    def _serve(self) -> None:
        while (job := self._queue.get()) is not None:
            try:
                if self._problem is None:
                    self._writer.commit(*job)
                    self.committed.add(job[0].index)
            except BaseException as error:  # raised again in the encoder's thread
                self._problem = error
            finally:
                self._queue.task_done()
