"""Mistakes of the first hour in Python: each one line of ours, none of torch's."""

import pytest
import torch

import fsar
from fsar.errors import InputError
from fsar.heads import EpisodeBatch, create_head
from fsar.splits import Split


def batch(features, **more):
    labels = torch.tensor([[0, 1]])
    support, query = {r: x[:, :2] for r, x in features.items()}, {r: x[:, 2:] for r, x in features.items()}
    return EpisodeBatch(support=support, support_labels=labels, query=query, n_way=2, **more)


def frames(*shape, dtype=torch.float32):
    return {"frames": torch.randn(1, 5, *shape).to(dtype)}


@pytest.mark.parametrize("name", ["tsn", "trx", "otam"])
def test_half_precision_as_read_from_a_store_is_named(name):
    head = create_head(name, **({"dim": 8, "out_dim": 4} if name == "trx" else {})).eval()
    with pytest.raises(
        InputError, match=r"'frames' are float16, the head computes in float32: .*batch\.to\(torch\.float32"
    ):
        head(batch(frames(4, 8, dtype=torch.float16)))
    assert head(batch(frames(4, 8, dtype=torch.float16)).to(torch.float32)).shape == (1, 3, 2)


@pytest.mark.parametrize(
    ("features", "message"),
    [
        ({"pooled": torch.randn(1, 5, 4, 8)}, "takes support features of role 'frames', the batch has 'pooled'"),
        (frames(8), r"B episodes x V videos x T frames x \(D,\) numbers of a frame; got \(1, 2, 8\)"),
        (frames(4, 6), "have width 6, the head was made with dim=8"),
        (frames(4, 8, dtype=torch.int64), "are int64, the head computes in float32"),
    ],
)
def test_other_features_than_the_head_takes_are_one_line(features, message):
    head = create_head("trx", dim=8, out_dim=4).eval()
    with pytest.raises(InputError, match=message):
        head(batch(features))


def test_a_head_that_reads_text_says_that_it_needs_some():
    with pytest.raises(InputError, match="needs class text and got none: the batch has no class_text"):
        create_head("clip-zero-shot")(batch(frames(4, 8)))


def test_an_error_of_the_head_itself_is_not_hidden(monkeypatch):
    head = create_head("trx", dim=8, out_dim=4).eval()
    monkeypatch.setattr(head, "outputs", lambda batch: torch.zeros(2) @ torch.zeros(3))
    with pytest.raises(RuntimeError, match="inconsistent tensor size"):
        head(batch(frames(4, 8)))


def test_an_unknown_head_asks_for_its_package():
    with pytest.raises(InputError, match=r"did you mean emp-net\? If it comes with a package of its own"):
        create_head("emp-nett")


def test_a_split_at_the_prompt_is_a_line():
    parts = ("train 64 classes (6,400 videos)", "val 12 classes (1,200 videos)", "test 24 classes (2,400 videos)")
    assert repr(fsar.load_split("ssv2-cmn")) == f"Split('ssv2-cmn': {', '.join(parts)})"
    one = Split(name="one", parts={"test": {"run": None}})
    assert repr(one) == "Split('one': test 1 class)"
