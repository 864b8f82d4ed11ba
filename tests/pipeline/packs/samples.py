"""Numbered clips and packs of them."""

from pathlib import Path

from fsar.pipeline.packs.build import pack_frames
from fsar.pipeline.packs.layout import PackSettings
from fsar.pipeline.store import VideoRow
from tests.videos import write_clip

ONE_BY_ONE = PackSettings(frames=10_000, quality=90)
"""So many frames that every video has a shard of its own."""


def write_videos(folder: Path, lengths: tuple[int, ...], size: tuple[int, int] = (96, 64)) -> list[VideoRow]:
    """Write clips of so many frames; the n-th is called clip{n}."""
    rows = []
    for number, n_frames in enumerate(lengths):
        path = write_clip(folder / f"clip{number}.mp4", n_frames=n_frames, size=size)
        rows.append(VideoRow(path.stem, f"class{number % 2}", "", str(path)))
    return rows


def packed(folder: Path, rows: list[VideoRow], settings: PackSettings = ONE_BY_ONE, name: str = "p") -> Path:
    """Return the path of a finished pack of the videos."""
    return pack_frames(rows, folder / f"{name}.frames", settings, quiet=True).path


def tree(path: Path) -> dict[str, bytes]:
    """Return every file below a folder."""
    return {file.relative_to(path).as_posix(): file.read_bytes() for file in path.rglob("*") if file.is_file()}
