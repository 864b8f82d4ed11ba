"""Give failed videos another chance, once what was wrong with them is mended."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fsar.errors import InputError
from fsar.pipeline.store.create import finish_interrupted, refuse_busy
from fsar.pipeline.store.format.files import CLAIMS, JOURNAL, MANIFEST_FILE, StoreFiles, read_store
from fsar.pipeline.store.format.layout import VideoRow
from fsar.pipeline.store.journal.claims import metadata_claim
from fsar.pipeline.store.journal.publish import redo
from fsar.pipeline.store.journal.records import chunk_key, chunk_records, intents, stored_rows
from fsar.pipeline.store.partial import refuse_partial
from fsar.pipeline.store.portable import find_video, videos_folders


@dataclass(frozen=True)
class Reset:
    """What `reset_failed` made pending again."""

    n_failed: int
    """Videos that had failed."""
    n_rows: int
    """Videos to encode: those and their neighbours in the same chunks."""


def reset_failed(path: str | Path, *, allow_losses: bool = False) -> Reset:
    """Make every chunk that has a failed video pending again; the next encode computes those chunks anew.

    The other chunks stay as they are. The store counts as unsealed until it is encoded and sealed again; without
    failures nothing changes. Interrupted, the same call goes on.

    Raises:
        FileNotFoundError: there is no store.
        InputError: another process is writing to it, it is damaged, or a neighbour that was encoded well is no longer
            on the disk and would be lost, unless `allow_losses`.
    """
    files = StoreFiles.at(path)
    refuse_partial(files, "try failed videos again")
    finish_interrupted(files)
    layout, videos = read_store(files)
    with metadata_claim(files.folder(CLAIMS)):
        refuse_busy(files, "try failed videos again")
        for key in intents(files):
            redo(files, key)
        stored = stored_rows(files)
        failed = {
            index: len(record["failures"]) for index, record in chunk_records(files).items() if record["failures"]
        }
        for index in failed if not allow_losses else ():
            lost = {row for row, *_ in chunk_records(files)[index]["failures"]}
            _refuse_losses(files, videos, [row for row in layout.chunk_range(index, len(videos)) if row not in lost])
        if failed:
            files.locate(MANIFEST_FILE).unlink(missing_ok=True)
        for index in failed:
            (files.folder(JOURNAL) / f"{chunk_key(index, stored[index])}.json").unlink()
    return Reset(sum(failed.values()), sum(stored[index] for index in failed))


def _refuse_losses(files: StoreFiles, videos: Sequence[VideoRow], rows: Sequence[int]) -> None:
    folders = videos_folders(files)
    gone = [row for row in rows if not find_video(videos[row].path, folders).exists()]
    if gone:
        video = videos[gone[0]]
        raise InputError(
            f"{files.path} keeps features of {len(gone)} videos that are no longer on the disk (first: "
            f"{video.video_id!r}, {video.path}) beside failed ones: to try these again would lose them "
            "(--allow-losses does it)"
        )
