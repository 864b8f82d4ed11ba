from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from fsar.pipeline.packs.layout import PackSettings
from fsar.pipeline.share import download
from fsar.pipeline.store import TextTable, VideoRow, list_formats, write_text
from tests.pipeline.packs.samples import packed, write_videos
from tests.pipeline.share.servers import FolderServer, serving
from tests.pipeline.store.samples import videos, write_sample


@pytest.fixture(params=list_formats())
def suffix(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def shelf(tmp_path: Path) -> Path:
    """The folder that a group shares."""
    folder = tmp_path / "shelf"
    folder.mkdir()
    return folder


@pytest.fixture
def store(shelf: Path, suffix: str) -> Path:
    """A sealed store with two taps and a text table; its videos have relative paths."""
    return shared_sample(shelf / f"sample{suffix}")


def shared_sample(path: Path) -> Path:
    rows = [type(video)(video.video_id, video.class_name, video.part, video.path.lstrip("/")) for video in videos()]
    write_sample(path, rows)
    table = TextTable(
        "clip", np.arange(12, dtype=np.float32).reshape(2, 3, 2), ("class 0", "class 1", "class 2"), ("{}", "a {}")
    )
    write_text(path, table)
    return path


def packed_sample(folder: Path) -> Path:
    """Return a finished pack of two clips and a file that is no video, each in a shard of its own."""
    rows = [*write_videos(folder / "v", (5, 7)), VideoRow("page", "class1", "", str(folder / "v" / "page.mp4"))]
    (folder / "v" / "page.mp4").write_text("<!DOCTYPE html>")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fsar.pipeline.packs.layout.MAX_SHARD_ROWS", 1)
        return packed(folder, rows, PackSettings(frames=3), name="sample")


@pytest.fixture
def server(shelf: Path) -> Iterator[FolderServer]:
    with serving(shelf) as running:
        yield running


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache of its own, no waiting between tries, no flushes, nobody's credentials."""
    monkeypatch.setenv("FSAR_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("NETRC", str(tmp_path / "no-netrc"))
    monkeypatch.delenv("FSAR_ALLOW_HTTP", raising=False)
    monkeypatch.setattr(download, "BACKOFF_SECONDS", 0.01)
    monkeypatch.setattr("os.fsync", lambda descriptor: None)
