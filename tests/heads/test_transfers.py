"""What of episodes crosses to a device, and how; on torch's device "meta", which has no numbers."""

import threading
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch.overrides import TorchFunctionMode

from fsar.device import pinned, sent
from fsar.heads import create_head
from fsar.heads.batch import move
from fsar.heads.episodes import feature_source
from fsar.heads.episodes.batches import EpisodeData, PairData
from fsar.heads.episodes.feature_source import FeatureSource
from fsar.heads.episodes.sampler import EpisodeSampler, EpisodeShape
from fsar.heads.episodes.split_parts import store_parts
from fsar.heads.evaluation import evaluate as evaluation
from fsar.pipeline.store import FeatureStore
from tests.heads.stores import PARTS, make_store, rows_of
from tests.heads.test_waits import Waits


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> FeatureStore:
    videos = rows_of(PARTS, 6)
    features = np.random.default_rng(0).normal(size=(len(videos), 2, 6, 3)).astype(np.float16)
    return make_store(tmp_path_factory.mktemp("store") / "s.zarr", {"pooled": features}, videos)


def on_meta(store: FeatureStore) -> FeatureSource:
    """Return resident features as on a device."""
    source = FeatureSource(store, {"frames": "pooled"}, store.ok_rows, where="memory", n_frames=4)
    source._tables, source.device = move(source._tables, "meta"), "meta"
    return source


def test_making_batches_of_resident_features_never_waits_for_the_device(store):
    source, pool = on_meta(store), store_parts(store).pool("train")
    text = torch.zeros(pool.n_classes, 3, 5)
    data = EpisodeData(source, class_text=text, visits_seed=1)
    pairs = PairData(source, pool, n_classes=2, seed=0, class_text=text)
    episodes = EpisodeSampler(pool, EpisodeShape(2, 1, 1), seed=0).draw(0, 3)
    with Waits() as waits:
        batch, targets = data.batch(episodes)
        pair = pairs.batch(0)
    assert waits.found == []
    moved = (batch.support["frames"], batch.support_labels, batch.class_text, targets.query_labels, pair.class_ids)
    assert {tensor.device.type for tensor in moved} == {"meta"}


def test_mapped_features_cross_in_the_type_of_the_store(store, monkeypatch):
    crossed = []

    def record(tensor, device):
        crossed.append((tensor.dtype, tuple(tensor.shape)))
        return sent(tensor, device)

    monkeypatch.setattr(feature_source, "sent", record)
    mapped, resident = (FeatureSource(store, {"frames": "pooled"}, store.ok_rows, where=w) for w in ("disk", "memory"))
    rows = store.ok_rows[[3, 1, 3, 3]]
    found = mapped.gather(rows)["frames"]
    assert crossed == [(torch.float16, (2, 6, 3)), (torch.int64, (4,))]  # every video once
    assert found.dtype == torch.float32
    assert torch.equal(found, resident.gather(rows)["frames"])


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from([np.float16, np.float32]).flatmap(
        lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=2, max_dims=3, max_side=4))
    )
)
def test_rows_are_finite_where_all_their_numbers_are(array):
    assert feature_source._finite(array).tolist() == np.isfinite(array).reshape(len(array), -1).all(1).tolist()


def test_batches_are_made_ahead_where_there_is_a_disk_or_a_device_to_wait_for(store):
    resident = on_meta(store)
    resident.device = "cpu"
    assert not resident.reads_ahead
    resident.device = "cuda:0"
    assert resident.reads_ahead
    assert FeatureSource(store, {"frames": "pooled"}, store.ok_rows, where="disk").reads_ahead


@pytest.mark.parametrize(("where", "thread"), [("disk", "prefetch"), ("memory", "MainThread")])
def test_a_test_without_tables_reads_the_next_episodes_meanwhile(store, monkeypatch, where, thread):
    monkeypatch.setattr(evaluation, "MAX_BATCH", 3)
    source = FeatureSource(store, {"frames": "pooled"}, store.ok_rows, where=where)
    episodes = EpisodeSampler(store_parts(store).pool("train"), EpisodeShape(2, 1, 1), seed=0).draw(0, 10)
    data, makers = EpisodeData(source), []
    monkeypatch.setattr(data, "batch", lambda part: (makers.append(threading.current_thread().name), make(part))[1])
    make, head = EpisodeData(source).batch, create_head("otam").eval()
    found = list(evaluation.episode_logits(head, data, episodes, table_bytes=0))
    assert makers == [thread] * 4
    assert [len(part) for part, _ in found] == [3, 3, 3, 1]
    expected = torch.cat([logits for _, logits in evaluation.episode_logits(head, EpisodeData(source), episodes)])
    torch.testing.assert_close(torch.cat([logits for _, logits in found]), expected)


@pytest.mark.parametrize(
    ("free", "expected"), [(1 << 30, 24 << 20), (16 << 30, 256 << 20), (64 << 30, 1 << 30), (140 << 30, 1 << 30)]
)
def test_batches_of_a_test_are_as_large_as_the_device_has_room(monkeypatch, free, expected):
    monkeypatch.setattr(evaluation, "free_bytes", lambda device: free)
    assert evaluation._batch_bytes("cuda:1") == expected
    assert evaluation._batch_bytes("cpu") == evaluation.BATCH_BYTES == 24 << 20


class Looks(TorchFunctionMode):
    """Counts numbers that come back."""

    def __init__(self):
        super().__init__()
        self.n = 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        names = ("cpu", "item", "tolist", "__bool__", "__int__", "__float__", "nonzero")
        self.n += getattr(func, "__name__", "") in names
        return func(*args, **(kwargs or {}))


def test_answers_come_back_in_one_piece():
    logits = torch.rand(3, 4, 5, generator=torch.Generator().manual_seed(0))
    with Looks() as looks:
        answers = evaluation._predict(logits, SimpleNamespace(indices=np.arange(3)))
    assert looks.n == 1
    assert answers.tolist() == logits.argmax(-1).tolist()


def test_on_the_cpu_nothing_is_pinned_or_copied():
    x = torch.ones(3)
    assert pinned(x, "cpu") is x
    assert sent(x, "cpu") is x
