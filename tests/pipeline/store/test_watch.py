"""Watching a store from outside while it fills."""

import json
import os
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from fsar.cli.store import store
from fsar.errors import InputError
from fsar.pipeline.store import extend_store
from fsar.pipeline.store.journal.owner import WORKER_VARIABLE
from fsar.pipeline.store.retry import reset_failed
from fsar.pipeline.store.watch import Watch
from tests.pipeline.store import samples


def home(path: Path) -> Path:
    return path if path.suffix == ".zarr" else path.with_name(f"{path.name}.parts")


def look(path: Path) -> dict[str, object]:
    """One look through the command."""
    ended = CliRunner().invoke(store, ["watch", str(path), "--once", "--json"], standalone_mode=False)
    assert ended.exception is None
    return dict(json.loads(ended.stdout))


def test_done_in_hand_and_pending_add_up(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(WORKER_VARIABLE, "encode-7")
    with samples.open_sample(path) as writer:
        samples.fill(writer, n_chunks=2)
        writer.claim()
        seen = look(path)
    assert (seen["n_chunks"], seen["n_chunks_done"], seen["n_chunks_pending"]) == (4, 2, 1)
    assert (seen["n_videos"], seen["n_videos_done"], seen["n_failed"]) == (10, 6, 1)
    assert [(held["chunk"], held["worker"], held["pid"], held["dead"]) for held in seen["in_hand"]] == [  # type: ignore[attr-defined]
        (2, "encode-7", os.getpid(), False)
    ]
    assert seen["failures"] == [{"video_id": "v004", "reason": "empty", "message": "no bytes"}]


def test_the_rate_is_that_of_the_chunks_finished_lately(path: Path) -> None:
    with samples.open_sample(path) as writer:
        samples.fill(writer, n_chunks=3)
        for index, when in enumerate((100.0, 10_000.0, 10_006.0)):  # one of yesterday, two that were 6 seconds apart
            os.utime(home(path) / f"journal/{index:06d}.000003.json", (when, when))
        writer.claim()
        seen = Watch(path).look()
    assert seen.videos_per_second == pytest.approx(3 / 6)
    assert seen.seconds_left == pytest.approx(1 / (3 / 6))


def test_nothing_is_promised_where_nobody_works(path: Path) -> None:
    with samples.open_sample(path) as writer:
        samples.fill(writer, n_chunks=2)
    seen = Watch(path).look()
    assert (seen.in_hand, seen.seconds_left) == ([], None)
    ended = CliRunner().invoke(store, ["watch", str(path), "--once"])
    assert "6 of 10 videos; 2 of 4 chunks done, 0 in hand, 2 pending; nobody is at work" in ended.stdout


def test_a_holder_that_was_killed_is_called_dead(path: Path) -> None:
    with samples.open_sample(path) as writer:
        writer.claim()
        claim = home(path) / "claims/000000"
        claim.write_text(json.dumps(json.loads(claim.read_text()) | {"pid": os.getppid(), "started": "1"}))
        assert [held["dead"] for held in look(path)["in_hand"]] == [True]  # type: ignore[attr-defined]
        assert "has ended" in CliRunner().invoke(store, ["watch", str(path), "--once"]).stdout


def test_it_ends_when_the_store_is_sealed(path: Path) -> None:
    samples.write_sample(path)
    ended = CliRunner().invoke(store, ["watch", str(path)])
    assert ended.exit_code == 0
    assert "10 of 10 videos; 4 of 4 chunks done, 0 in hand, 0 pending; sealed" in ended.stdout
    assert "v004 (empty): no bytes" in ended.stdout


def test_each_look_reads_what_is_new_alone(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read, records = [], Watch.__module__ + ".read_record"
    original = __import__(Watch.__module__, fromlist=["read_record"]).read_record
    monkeypatch.setattr(records, lambda files, key: read.append(key) or original(files, key))
    with samples.open_sample(path) as writer:
        watch = Watch(path)
        for n_chunks in (1, 2, 3):
            samples.fill(writer, n_chunks=1)
            assert watch.look().n_chunks_done == n_chunks
    assert len(read) == 3


def test_a_store_that_grows_or_is_retried_is_followed(path: Path) -> None:
    samples.write_sample(path)
    watch = Watch(path)
    assert watch.look().sealed
    reset_failed(path, allow_losses=True)
    assert (watch.look().n_videos_done, watch.look().n_chunks_done) == (7, 3)
    with samples.open_sample(path) as writer:
        samples.fill(writer)
        writer.seal()
    with extend_store(path, samples.videos(2, prefix="w")) as writer:
        samples.fill(writer)
        seen = watch.look()
    assert (seen.n_videos, seen.n_videos_done) == (12, 12)


def test_a_folder_that_is_no_store_is_said_to_be_none(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no store at"):
        Watch(tmp_path / "absent.zarr")
    with pytest.raises(InputError):
        Watch(tmp_path / "strange.txt")


def test_names_in_claims_cannot_steer_a_terminal(path: Path) -> None:
    with samples.open_sample(path) as writer:
        writer.claim()
        claim = home(path) / "claims/000000"
        claim.write_text(json.dumps(json.loads(claim.read_text()) | {"host": "\x1b[2Jevil\n", "since": time.time()}))
        shown = CliRunner().invoke(store, ["watch", str(path), "--once"]).stdout
    assert "\\u001b[2Jevil\\u000a" in shown
