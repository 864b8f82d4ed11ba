"""Samplers: hand-checked indices, published index tables, and properties for any clip."""

import json
import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fsar.errors import InputError
from fsar.pipeline.video.clip import VideoError
from fsar.pipeline.video.sample import is_random_sampler, list_samplers, sample_indices, sampler_version
from tests.conftest import GOLDENS

REFUSE_SHORT = {"trx", "trx-random", "clipfsar-segment"}
UNSORTED = {"clipfsar-interval", "clipfsar-interval-random"}


class PythonDraws:
    """Draws like Python's `random`, with which the published code drew, behind the two methods that samplers call."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def integers(self, low: np.ndarray, high: np.ndarray) -> np.ndarray:
        return np.array([self._random.randint(int(a), int(b) - 1) for a, b in zip(low, high, strict=True)])

    def uniform(self, low: float, high: float) -> float:
        return self._random.uniform(low, high)


@pytest.mark.parametrize(
    ("name", "n_frames", "n_slots", "expected"),
    [
        ("uniform-center", 8, 4, [1, 3, 5, 7]),
        ("uniform-center", 10, 4, [1, 3, 6, 8]),
        ("uniform-center", 2, 4, [0, 0, 1, 1]),
        ("uniform-center", 1, 8, [0] * 8),
        ("uniform-ends", 9, 5, [0, 2, 4, 6, 8]),
        ("uniform-ends", 3, 1, [0]),
        ("dense", 20, 4, [8, 9, 10, 11]),
        ("dense", 2, 4, [0, 1, 1, 1]),
        ("trx", 8, 8, [0, 1, 2, 3, 4, 5, 6, 7]),
        ("trx", 9, 8, [0, 1, 2, 3, 4, 5, 6, 8]),
        ("trx", 30, 8, [1, 4, 8, 12, 16, 20, 24, 28]),
        ("clipfsar-interval", 64, 8, [0, 4, 8, 12, 17, 21, 25, 29]),
    ],
)
def test_indices_worked_out_by_hand(name, n_frames, n_slots, expected):
    assert sample_indices(name, n_frames, n_slots).tolist() == expected


@pytest.mark.shared
def test_clipfsar_indices_equal_those_of_the_published_code():
    names = {
        (50, "train"): "clipfsar-segment",
        (50, "test"): "clipfsar-segment",
        (35, "train"): "clipfsar-interval-random",
        (35, "test"): "clipfsar-interval",
    }
    rows = json.loads((Path(GOLDENS) / "schedule" / "frame_sampling.json").read_text())
    assert len(rows) >= 40
    for row in rows:
        name = names[row["SAMPLING_RATE"], row["split"]]
        found = sample_indices(name, row["vid_length"], row["T"], PythonDraws(row["python_random_seed"]))
        assert found.tolist() == row["index"], row


@settings(max_examples=60, deadline=None)
@given(
    name=st.sampled_from(list_samplers()),
    n_frames=st.integers(1, 400),
    n_slots=st.sampled_from([1, 2, 4, 8, 16, 32]),
    seed=st.integers(0, 5),
)
def test_indices_are_in_range_sorted_and_repeatable(name, n_frames, n_slots, seed):
    if n_frames < n_slots and name in REFUSE_SHORT:
        with pytest.raises(VideoError, match="needs") as caught:
            sample_indices(name, n_frames, n_slots, np.random.default_rng(seed))
        assert caught.value.reason == "too-short"
        return
    indices = sample_indices(name, n_frames, n_slots, np.random.default_rng(seed))
    assert indices.shape == (n_slots,)
    assert indices.dtype == np.int32
    assert indices.min() >= 0
    assert indices.max() < n_frames
    if name not in UNSORTED:
        assert (np.diff(indices) >= 0).all()
    assert (indices == sample_indices(name, n_frames, n_slots, np.random.default_rng(seed))).all()


@pytest.mark.parametrize("name", [name for name in list_samplers() if is_random_sampler(name)])
def test_a_sampler_that_draws_needs_a_generator_and_uses_it(name):
    with pytest.raises(InputError, match="needs a generator"):
        sample_indices(name, 100, 8)
    drawn = {tuple(sample_indices(name, 300, 8, np.random.default_rng(seed)).tolist()) for seed in range(20)}
    assert len(drawn) > 1


def test_uniform_random_takes_one_frame_of_each_segment():
    for seed in range(50):
        indices = sample_indices("uniform-random", 83, 8, np.random.default_rng(seed))
        bounds = np.arange(9) * 83 // 8
        assert ((indices >= bounds[:-1]) & (indices < bounds[1:])).all()


def test_trx_random_covers_its_whole_jitter_and_nothing_beyond():
    starts, ends = set(), set()
    for seed in range(300):
        indices = sample_indices("trx-random", 100, 8, np.random.default_rng(seed))
        starts.add(int(indices[0]))
        ends.add(int(indices[-1]))
    assert starts == set(range(6))
    assert ends == set(range(94, 100))


def test_hcl_draws_without_replacement_and_pads_in_front():
    assert len(set(sample_indices("hcl-random", 9, 8, np.random.default_rng(0)).tolist())) == 8
    assert sample_indices("hcl-random", 3, 5, np.random.default_rng(0)).tolist() == [0, 0, 0, 1, 2]


def test_wrong_calls_say_what_is_wrong():
    with pytest.raises(InputError, match="did you mean uniform-center"):
        sample_indices("uniform-centre", 10, 8)
    with pytest.raises(InputError, match="at least 1, got 0"):
        sample_indices("trx", 10, 0)
    with pytest.raises(VideoError, match="at least 1 frame, got 0"):
        sample_indices("uniform-center", 0, 8)


def test_every_sampler_has_a_version():
    assert all(sampler_version(name) >= 1 for name in list_samplers())
