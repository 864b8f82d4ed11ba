"""Two processes train as one does: the same weights and statistics, one writer, and any number goes on."""

import copy
import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import ClassVar

import pytest
import torch

from fsar.heads.finetune.frames import FailedVideo, FailedVideos
from fsar.heads.finetune.processes import CallRecords, Processes
from fsar.heads.finetune.tower import batch_norms
from fsar.pipeline.backbones import read_weights
from tests.heads.finetune.videos import write_videos

ROOT = Path(__file__).resolve().parents[3]


def train(catalog: Path, out: Path, *, n: int, dies_at: int = -1) -> list[int]:
    """Train with n processes; return their exit codes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": str(n), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    line = [sys.executable, "-m", "tests.heads.finetune.several_processes", str(catalog), str(out), str(dies_at)]
    started = [
        subprocess.Popen(line, cwd=ROOT, env={**os.environ, **shared, "RANK": str(rank)}, stderr=subprocess.PIPE)
        for rank in range(n)
    ]
    errors = [process.communicate(timeout=300)[1] for process in started]
    codes = [process.returncode for process in started]
    if dies_at < 0:
        assert codes == [0] * n, b"\n".join(errors).decode()
    return codes


def weights(out: Path) -> dict[str, torch.Tensor]:
    return read_weights(out / "backbone.safetensors")[0]


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_videos(tmp_path_factory.mktemp("videos"))


def assert_same_training(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> None:
    """Sums in another order differ in the last bits, and Adam makes steps of them where gradients are about zero."""
    assert any(name.endswith("running_var") for name in wanted)
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-5)


def test_two_processes_train_as_one(catalog: Path, tmp_path: Path) -> None:
    train(catalog, tmp_path / "one", n=1)
    train(catalog, tmp_path / "two", n=2)
    assert_same_training(weights(tmp_path / "two"), weights(tmp_path / "one"))


@pytest.mark.slow
def test_any_number_of_processes_goes_on_after_a_kill(catalog: Path, tmp_path: Path) -> None:
    train(catalog, tmp_path / "two", n=2)
    assert train(catalog, tmp_path / "cut", n=2, dies_at=2) == [-9, -9]
    train(catalog, tmp_path / "cut", n=2)
    cut, whole = (tmp_path / name / "backbone.safetensors" for name in ("cut", "two"))
    assert cut.read_bytes() == whole.read_bytes()
    train(catalog, tmp_path / "other", n=2, dies_at=2)
    train(catalog, tmp_path / "other", n=1)
    assert_same_training(weights(tmp_path / "other"), weights(tmp_path / "two"))


@pytest.mark.slow
def test_one_process_goes_on_after_a_kill_to_the_same_bytes(catalog: Path, tmp_path: Path) -> None:
    train(catalog, tmp_path / "whole", n=1)
    assert train(catalog, tmp_path / "cut", n=1, dies_at=2) == [-9]
    assert (tmp_path / "cut" / "state.safetensors").is_file()
    assert not (tmp_path / "cut" / "backbone.safetensors").exists()
    train(catalog, tmp_path / "cut", n=1)
    for name in ("backbone.safetensors", "metrics.jsonl"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name


@pytest.mark.slow
def test_a_video_that_fails_in_one_of_two_processes_is_listed_and_the_run_repeats(tmp_path: Path) -> None:
    catalog = write_videos(tmp_path / "videos", n_videos=5)
    (tmp_path / "videos" / "videos" / "2.avi").write_bytes(b"not a video")
    for name in ("two", "again"):
        train(catalog, tmp_path / name, n=2)
        notes = json.loads((tmp_path / name / "result.json").read_text())["notes"]
        assert any("v2 (not-a-video)" in note for note in notes)
    train(catalog, tmp_path / "cut", n=2, dies_at=2)
    train(catalog, tmp_path / "cut", n=2)
    whole, again, cut = (weights(tmp_path / name) for name in ("two", "again", "cut"))
    for other in (again, cut):
        assert all(torch.equal(other[name], whole[name]) for name in whole)


class Two(Processes):
    """The first of two processes; `other` is what the second one says."""

    other: ClassVar[list[FailedVideo]] = []

    def of_all(self, value):
        return [value, self.other]


def test_processes_tell_each_other_of_failed_videos() -> None:
    mine, theirs = (FailedVideo(5, row, f"v{row}", "not-a-video", "no") for row in (1, 2))
    failed = FailedVideos(None, [mine])
    both = Two(0, 2)
    both.other.append(theirs)
    failed.share(both, from_episode=40)
    failed.share(both, from_episode=80)
    assert (failed.before(4), failed.before(39), failed.before(40)) == ((), (1,), (1, 2))
    assert len(failed.failed) == 2


def test_statistics_move_by_the_calls_in_the_order_of_episodes() -> None:
    torch.manual_seed(0)
    alone = torch.nn.Sequential(torch.nn.BatchNorm2d(3), torch.nn.Conv2d(3, 4, 1), torch.nn.BatchNorm2d(4))
    shared = copy.deepcopy(alone)
    calls = [torch.randn(5, 3, 4, 4) for _ in range(4)]
    for call in calls:
        alone(call)
    records = CallRecords(batch_norms(shared))
    for episode in (1, 0):  # the second half is another process's, and done earlier
        records.begin(episode)
        for call in calls[2 * episode : 2 * episode + 2]:
            shared(call)
    records.close()
    assert torch.equal(shared[0].running_mean, torch.zeros(3))
    records.apply(records.calls)
    assert all(torch.equal(value, shared.state_dict()[name]) for name, value in alone.state_dict().items())
