"""The world of colours, with more runs on the same test episodes."""

import pytest

from tests.predict.conftest import train, world  # noqa: F401 - a fixture


@pytest.fixture(scope="session")
def runs(world):  # noqa: F811
    """Three runs on the same test episodes: two see the order of frames, the last one does not."""
    return [
        world.run,
        train(world.store, world.folder / "trx", "trx", out_dim=16),
        train(world.store, world.folder / "tsn", "tsn", metric="cosine"),
    ]
