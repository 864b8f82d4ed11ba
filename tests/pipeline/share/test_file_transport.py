"""Unfinished files on a shared disk: those of the dead go, those of the living stay."""

import os
from pathlib import Path

import pytest

from fsar.errors import InputError
from fsar.pipeline.share import file_transport, parse_address
from fsar.pipeline.share.file_transport import FileTransport, remove_abandoned


@pytest.fixture
def transport(tmp_path: Path) -> FileTransport:
    return FileTransport(parse_address(tmp_path.as_uri()))


def test_what_a_killed_push_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    left, kept = tmp_path / "a" / ".x.tmp-12-ab.json", tmp_path / "a" / "x.json"
    left.parent.mkdir()
    for path in (left, kept):
        path.touch()
    (tmp_path / ".link.tmp-1-a").symlink_to(kept)
    os.mkfifo(tmp_path / ".pipe.tmp-1-a")
    remove_abandoned(tmp_path)
    assert not left.exists()
    assert kept.exists()


def test_a_file_that_is_being_written_stays(
    transport: FileTransport, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = file_transport._write

    def looked_at_meanwhile(source: Path | bytes, target: object) -> None:
        remove_abandoned(tmp_path)
        write(source, target)  # type: ignore[arg-type]

    monkeypatch.setattr(file_transport, "_write", looked_at_meanwhile)
    transport.put(f"{tmp_path.as_uri()}/a/x", b"content")
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["x"]
    assert (tmp_path / "a" / "x").read_bytes() == b"content"


def test_a_file_that_was_taken_for_abandoned_is_begun_again(
    transport: FileTransport, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock, taken = file_transport.fcntl.flock, []

    def take_first(file: object, operation: int) -> None:
        if not taken:
            taken.extend(tmp_path.glob(".*"))
            taken[0].unlink()
        lock(file, operation)  # type: ignore[arg-type]

    monkeypatch.setattr(file_transport.fcntl, "flock", take_first)
    transport.put(f"{tmp_path.as_uri()}/x", b"content")
    assert (tmp_path / "x").read_bytes() == b"content"
    assert len(list(tmp_path.iterdir())) == 1


def test_links_that_nobody_named_lead_nowhere(tmp_path: Path) -> None:
    (tmp_path / "private" / "inner").mkdir(parents=True)
    (tmp_path / "private" / "inner" / "x").write_bytes(b"secret")
    (tmp_path / "shelf" / "s.zarr").mkdir(parents=True)
    (tmp_path / "shelf" / "s.zarr" / "features").symlink_to(tmp_path / "private")
    (tmp_path / "named.zarr").symlink_to(tmp_path / "private")
    store = parse_address((tmp_path / "shelf" / "s.zarr").as_uri())
    inside = FileTransport(store)
    for name in ("features/inner/x", "features/inner/none"):
        with pytest.raises(InputError, match="features is a link"), inside.get(f"{store}/{name}"):
            pass
        with pytest.raises(InputError, match="features is a link"):
            inside.size(f"{store}/{name}")
        with pytest.raises(InputError, match="features is a link"):
            inside.put(f"{store}/{name}", b"new", replace=True)
    with pytest.raises(InputError, match="features is a link"):
        inside.children(f"{store}/features")
    named = parse_address((tmp_path / "named.zarr").as_uri())
    with FileTransport(named).get(f"{named}/inner/x") as body:
        assert b"".join(body.blocks) == b"secret"


def test_a_failed_write_leaves_nothing(transport: FileTransport, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        transport.put(f"{tmp_path.as_uri()}/x", tmp_path / "no such source")
    assert list(tmp_path.iterdir()) == []
