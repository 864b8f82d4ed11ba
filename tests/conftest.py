"""Fixtures that several rooms use."""

import os
import signal
import sys
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

# A shell that starts the suite in the background has it ignore Ctrl-C, and every child of it would, too.
signal.signal(signal.SIGINT, signal.default_int_handler)
if hasattr(signal, "pthread_sigmask"):
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, signal.SIGTERM})

SHARED = Path(os.environ.get("FSAR_SHARED", Path(__file__).resolve().parents[2] / "shared"))
GOLDENS = Path(os.environ.get("FSAR_GOLDENS", SHARED / "goldens"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip, with a reason, what this machine lacks."""
    for item in items:
        if item.get_closest_marker("shared") and not SHARED.is_dir():
            item.add_marker(pytest.mark.skip(reason=f"no development data at {SHARED} (set FSAR_SHARED)"))
        if item.get_closest_marker("gpu"):
            import torch

            if not torch.cuda.is_available():
                item.add_marker(pytest.mark.skip(reason="no CUDA device on this machine"))


@pytest.fixture(scope="session")
def shared() -> Path:
    """The development data: real clips, splits as facts, official parity vectors."""
    return SHARED


@pytest.fixture
def run(monkeypatch, tmp_path, capsys):
    """A function that runs a command line in `tmp_path`; it checks the exit code and returns (stdout, stderr)."""
    from fsar.cli import eval_head, predict, prep, train_head
    from fsar.cli.common import run_command

    monkeypatch.chdir(tmp_path)
    programs = {
        "fsar-prep": prep.prep,
        "fsar-train-head": train_head.command,
        "fsar-eval-head": eval_head.command,
        "fsar-predict": predict.command,
    }

    def run_line(program, *arguments, code=0):
        monkeypatch.setattr(sys, "argv", [program, *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            run_command(programs[program], program)
        output = capsys.readouterr()
        assert ended.value.code == code, output.err
        return output

    return run_line
