"""What a batch of episodes refuses, and where it goes."""

import pytest
import torch

from fsar.errors import InputError
from fsar.heads import EpisodeBatch


def batch(n_support=4, labels=(0, 1, 0, 1), n_episodes=2, dtype=torch.int64, n_query_episodes=2):
    return EpisodeBatch(
        support={"frames": torch.zeros(n_episodes, n_support, 3, 8)},
        support_labels=torch.tensor([labels] * 2, dtype=dtype),
        query={"frames": torch.zeros(n_query_episodes, 5, 3, 8)},
        n_way=2,
    )


def test_a_sound_batch_is_taken():
    assert batch().n_episodes == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": (0, 1)}, r"support features begin with \(2, 4\), support_labels are \(2, 2\)"),
        ({"n_support": 2}, r"support features begin with \(2, 2\)"),
        ({"n_query_episodes": 1}, r"query features begin with \(1, 5\)"),
        ({"labels": (0, 0, 0, 0)}, r"every value in 0\.\.1 and no other: episode 0 misses 1"),
        ({"labels": (0, 1, 2, 1)}, "episode 0 has 2"),
        ({"labels": (0, 1, -1, 1)}, "episode 0 has -1"),
        ({"dtype": torch.float32}, r"must be int64 \(B, S\), got torch.float32 \(2, 4\)"),
    ],
)
def test_what_does_not_fit_together_is_refused(changes, message):
    with pytest.raises(InputError, match=message):
        batch(**changes)


@pytest.mark.parametrize("how", [("meta",), ("meta", torch.bfloat16), {"device": "meta", "dtype": torch.bfloat16}])
def test_labels_go_to_the_device_of_the_features_and_stay_whole_numbers(how, monkeypatch):
    whole = batch()
    monkeypatch.setattr(EpisodeBatch, "__post_init__", lambda self: None)  # nothing can be looked at on "meta"
    moved = whole.to(**how) if isinstance(how, dict) else whole.to(*how)
    assert moved.support_labels.device.type == moved.support["frames"].device.type == "meta"
    assert moved.support_labels.dtype == torch.int64
    assert moved.query["frames"].dtype == (torch.float32 if how == ("meta",) else torch.bfloat16)
