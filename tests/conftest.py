"""Fixtures that several rooms use."""

import os
import signal
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
