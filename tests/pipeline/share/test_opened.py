"""Stores opened by their address: what comes, when, and how often."""

import pickle

import numpy as np
import pytest

import fsar
from fsar.pipeline.share import cache
from fsar.pipeline.store import open_store
from fsar.pipeline.store.copy import export_store
from fsar.pipeline.store.describe import compare_stores, describe_store
from fsar.pipeline.store.verify import verify
from tests.pipeline.store.samples import expected


@pytest.fixture
def url(server, store):
    return f"{server.url}/{store.name}"


def test_opening_asks_for_four_small_files_at_once(server, url):
    fsar.open_store(url)
    asked = {path.rpartition("/")[2] for path in server.paths}
    assert asked == {"manifest.json", "store.json", "videos.csv", "metadata.json", "latest.json"}


def test_features_come_as_whole_verified_chunks_once(server, url, store):
    opened = fsar.open_store(url)
    server.requests.clear()
    np.testing.assert_array_equal(opened.read("pooled", [1, 0], views=None), expected("pooled")[[1, 0]])
    assert len(server.requests) == 2  # the chunk and its record
    opened.read("pooled", [2])
    assert len(server.requests) == 2
    again = fsar.open_store(opened.address)
    again.read("pooled", [0, 1, 2])
    assert len(server.requests) == 2  # pinned and cached: nothing is asked
    assert verify(again.path).problems == []


def test_everything_reads_as_in_a_local_store(url, store):
    remote, local = fsar.open_store(url), open_store(store)
    assert remote.identity == local.identity
    assert remote.address == f"{url}#sha256={local.identity}"
    for name in ("status", "n_frames", "source_sha256"):
        np.testing.assert_array_equal(getattr(remote, name), getattr(local, name))
    assert remote.failures() == local.failures()
    assert remote.failure_of(4) == local.failure_of(4)
    assert remote.failure_of(3) is None
    for name in local.layout.arrays():
        np.testing.assert_array_equal(remote.read_array(name, range(10)), local.read_array(name, range(10)))
    np.testing.assert_array_equal(remote.load("map").numpy(), local.load("map").numpy())
    assert remote.text_tables() == local.text_tables()
    assert remote.text("clip").same_as(local.text("clip"))
    assert compare_stores(remote, local)["equal"]
    mine, theirs = describe_store(remote), describe_store(local)
    for key in ("recipe", "taps", "parts", "failures", "text_tables", "identity", "format"):
        assert mine[key] == theirs[key]


def test_a_load_fetches_all_chunks_together(server, url):
    opened = fsar.open_store(url)
    told: list[int] = []
    opened.fetch(["features/map"])
    n_requests = len(server.requests)
    opened.load("map")
    assert len(server.requests) == n_requests
    assert told == []


def test_export_of_an_address_is_export_of_the_store(url, store, tmp_path):
    exported = export_store(fsar.open_store(url), tmp_path / "part.h5", parts=("test",))
    np.testing.assert_array_equal(exported.read("map", range(5), views=None), expected("map")[5:])
    assert exported.text_tables() == ["clip"]


def test_pickled_stores_reopen_the_same_content(url):
    opened = fsar.open_store(url)
    copy = pickle.loads(pickle.dumps(opened))
    assert copy.address == opened.address
    np.testing.assert_array_equal(copy.read("pooled", [3]), opened.read("pooled", [3]))


def test_the_cache_is_listed_and_pruned(url, tmp_path):
    opened = fsar.open_store(url)
    opened.read("pooled", [0])
    (item,) = cache.list_cache()
    assert item.source == opened.address
    assert item.n_bytes > 0
    assert cache.prune(older_than_days=1) == []
    assert [removed.identity for removed in cache.prune(older_than_days=0)] == [opened.identity]
    assert cache.list_cache() == []
    assert list((tmp_path / "cache").iterdir()) == []


def test_an_entry_in_use_is_not_pruned(url):
    from fsar.pipeline.share.pull import locked

    opened = fsar.open_store(url)
    with locked(opened.files.home):
        assert cache.prune(older_than_days=0) == []
    assert len(cache.list_cache()) == 1
