from pathlib import Path

import pytest

from fsar.pipeline.store import list_formats
from tests.pipeline.store.samples import write_sample


@pytest.fixture(params=list_formats())
def suffix(request: pytest.FixtureRequest) -> str:
    """Every registered format: a new one joins all these tests by registering."""
    return str(request.param)


@pytest.fixture
def path(tmp_path: Path, suffix: str) -> Path:
    """Where a store may be made; its folder holds nothing else."""
    folder = tmp_path / "here"
    folder.mkdir()
    return folder / f"sample{suffix}"


@pytest.fixture
def sealed(path: Path) -> Path:
    """A finished store."""
    return write_sample(path)


@pytest.fixture(autouse=True)
def _no_power_cuts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the flushes: these tests end processes, not power, and a busy disk takes most of their time."""
    monkeypatch.setattr("os.fsync", lambda descriptor: None)
