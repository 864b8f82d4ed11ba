"""Checkpoints as training scripts write them: the tensors are read, and nothing else happens."""

import argparse
import functools
import pathlib
import subprocess
import warnings

import numpy as np
import pytest
import torch

from fsar.errors import InputError
from fsar.pipeline.backbones.weights import read_weights
from fsar.torch_files import Inert, read_torch_file

RAN: list[str] = []


class Config(dict):
    pass


class Acts:
    """Does something when it is unpickled in the usual way."""

    def __reduce__(self):
        return RAN.append, ("reduced",)


class Sets:
    def __init__(self):
        self.value = 1

    def __setstate__(self, state):
        RAN.append("set")


@pytest.mark.parametrize(
    "stranger",
    [
        argparse.Namespace(lr=0.1, out=pathlib.PurePosixPath("runs"), nested=argparse.Namespace(a=[1])),
        Config(depth=3),
        functools.partial(argparse.Namespace, x=1),
        np.float64(0.5),
        np.float32(0.5),
        Sets(),
        subprocess.CompletedProcess([], 0),
        {"scheduler": {"base": torch.device("cpu"), "size": torch.Size([1])}},
    ],
    ids=lambda value: type(value).__name__,
)
@pytest.mark.parametrize("zipped", [True, False])
def test_what_stands_beside_the_tensors_does_not_matter(tmp_path, stranger, zipped):
    path = tmp_path / "c.pth"
    saved = {"state_dict": {"module.a": torch.arange(3.0)}, "args": stranger, "epoch": 4}
    torch.save(saved, path, _use_new_zipfile_serialization=zipped)
    RAN.clear()
    assert read_torch_file(path)["epoch"] == 4
    state, _ = read_weights(path)
    assert list(state) == ["a"]
    assert torch.equal(state["a"], torch.arange(3.0))
    assert RAN == []


def test_objects_of_other_classes_are_inert(tmp_path):
    torch.save({"args": argparse.Namespace(lr=0.1), "acc": np.float64(0.5)}, tmp_path / "c.pth")
    content = read_torch_file(tmp_path / "c.pth")
    assert isinstance(content["args"], Inert)
    assert content["acc"] == 0.5


def test_what_would_act_is_refused_or_inert_and_runs_nothing(tmp_path):
    torch.save({"a": torch.ones(1), "b": Acts()}, tmp_path / "c.pth")
    RAN.clear()
    with pytest.raises(InputError, match=r"is refused: .* would run code \(.*getattr\); save its state"):
        read_torch_file(tmp_path / "c.pth")
    assert RAN == []


def test_a_traced_clip_archive_is_read_without_what_its_model_makes_itself(tmp_path):
    import open_clip

    model = open_clip.create_model("RN50", precision="fp32")
    text = open_clip.get_tokenizer("RN50")(["a"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(model.eval(), (torch.zeros(1, 3, 224, 224), text), check_trace=False, strict=False)
        torch.jit.save(traced, tmp_path / "traced.pt")
    state, metadata = read_weights(tmp_path / "traced.pt")
    assert "attn_mask" not in state
    assert {name for name, _ in model.named_parameters()} <= state.keys()
    assert metadata == {"quick_gelu": "false"}
    model.load_state_dict(state)
