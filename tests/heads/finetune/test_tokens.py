"""Training the last blocks from stored tokens: the gradients of the full pass, and runs from store to result."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import fsar
from fsar.errors import InputError
from fsar.heads.finetune.settings import FinetuneSettings
from fsar.heads.finetune.setup import prepare
from fsar.heads.finetune.tower import Tower
from fsar.heads.finetune.trainable import set_trainable
from fsar.heads.finetune.upper import UpperTower, tokens_below, upper_taps
from fsar.heads.training.experiment import run
from fsar.pipeline.backbones import load_backbone, read_weights
from fsar.pipeline.backbones.taps import TapExtractor
from fsar.pipeline.store import FeatureStore, open_store
from tests.heads.finetune.videos import write_videos
from tests.pipeline.backbone_helpers import add_tiny_clips

CLIP, TIMM = "random:open_clip/tiny-vit", "random:timm/vit_tiny_patch16_224"
SMALL = {"way": 2, "query": 1, "steps": 3, "episodes_per_step": 2, "val_episodes": 10, "test_episodes": 30,
         "patience": 0, "device": "cpu", "quiet": True}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def _tiny_clips(tmp_path_factory: pytest.TempPathFactory) -> None:
    add_tiny_clips(tmp_path_factory.mktemp("models"))


def gradients(tower: Tower, inputs: Tensor) -> tuple[dict[str, Tensor], dict[int, Tensor]]:
    """The features, and the gradients of a random function of them by the parameter's place among those that train."""
    features = tower(inputs)
    generator = torch.Generator().manual_seed(1)
    weights = {role: torch.randn(value.shape, generator=generator) for role, value in features.items()}
    torch.stack([(features[role].sin() * weights[role]).sum() for role in features]).sum().backward()
    return features, {p.data_ptr(): p.grad.clone() for p in tower.parameters() if p.grad is not None}


@pytest.mark.parametrize(
    ("spec", "n_blocks", "taps"),
    [
        (CLIP, 1, {"frames": "pooled"}),
        (CLIP, 2, {"frames": "pooled"}),
        (CLIP, 2, {"early": "tokens.1", "late": "tokens.2", "frames": "pooled"}),
        (TIMM, 2, {"frames": "pooled"}),
    ],
)
def test_gradients_are_those_of_the_full_pass_with_the_lower_blocks_frozen(
    spec: str, n_blocks: int, taps: dict[str, str]
) -> None:
    backbone = load_backbone(spec, size=32)
    frames = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    full = Tower(backbone, taps)
    set_trainable(full, f"last:{n_blocks}")
    wanted, wanted_grads = gradients(full, frames)
    extractor = TapExtractor(backbone, [tokens_below(backbone, n_blocks)])
    with torch.no_grad():
        (tokens,) = extractor(frames).values()
    full.zero_grad(set_to_none=True)
    calls = []
    backbone.points.blocks[0].register_forward_hook(lambda *_: calls.append(1))
    upper = UpperTower(backbone, n_blocks, taps)
    found, grads = gradients(upper, tokens)
    assert not calls
    assert upper.module.class_token_alone == (spec == CLIP and set(taps.values()) == {"pooled"})
    torch.testing.assert_close(found, wanted)
    assert grads.keys() == wanted_grads.keys()
    largest = max(float(grad.abs().max()) for grad in wanted_grads.values())
    for place, grad in wanted_grads.items():
        assert float((grads[place] - grad).abs().max()) <= 1e-6 * largest


def test_a_whole_last_block_gives_the_same_bits_as_the_full_pass() -> None:
    backbone = load_backbone(CLIP, size=32)
    frames = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        taps = TapExtractor(backbone, ["tokens.0.raw", "tokens.2"])(frames)
        again = UpperTower(backbone, 2, {"late": "tokens.2"})(taps["tokens.0.raw"])
    assert torch.equal(again["late"], taps["tokens.2"])


def test_what_the_last_blocks_give_is_what_lies_above_the_stored_tokens() -> None:
    backbone = load_backbone(CLIP, size=32)
    assert upper_taps(backbone, 1) == ["pooled", "tokens.2", "tokens.2.raw"]
    assert (tokens_below(backbone, 1), tokens_below(backbone, 2)) == ("tokens.1.raw", "tokens.0.raw")


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_videos(tmp_path_factory.mktemp("videos"))


@pytest.fixture(scope="module")
def store(catalog: Path, tmp_path_factory: pytest.TempPathFactory) -> FeatureStore:
    out = tmp_path_factory.mktemp("stores") / "tokens.zarr"
    return fsar.encode(catalog, out, backbone=CLIP, taps=("pooled", "tokens.0.raw"), frames=3, size=32, jobs=0,
                       dtype="float32", quiet=True)  # fmt: skip


def test_from_a_store_to_a_tuned_backbone_and_its_test(store: FeatureStore, catalog: Path, tmp_path: Path) -> None:
    trained = fsar.train_head("otam", store, finetune="last:2", frames=2, out=tmp_path / "run", **SMALL)
    assert trained.results[0]["n_episodes"] == 30
    file = tmp_path / "run" / "backbone.safetensors"
    start, (tuned, _) = load_backbone(CLIP, size=32).clip.state_dict(), read_weights(file)
    moved = {name for name in start if not torch.equal(start[name], tuned[name])}
    assert moved
    assert all(".resblocks.1." in name or ".resblocks.2." in name or "ln_post" in name or name == "visual.proj"
               for name in moved)  # fmt: skip
    again = fsar.encode(catalog, tmp_path / "again.zarr", backbone=f"open_clip:tiny-vit/{file}", frames=3, size=32,
                        jobs=0, dtype="float32", quiet=True)  # fmt: skip
    tested = open_store(tmp_path / "run" / "test.zarr")
    assert tested.recipe == again.recipe
    rows = [again.row_of(video.video_id) for video in tested.videos]
    here = np.arange(tested.n_videos)
    torch.testing.assert_close(tested.read("pooled", here), again.read("pooled", rows), rtol=1e-4, atol=1e-5)
    assert (tested.frame_index(here) == again.frame_index(rows)).all()
    report = fsar.evaluate(tmp_path / "run", tested, episodes=30, frames=2, quiet=True, device="cpu")
    assert report.accuracy == pytest.approx(trained.results[0]["accuracy"])


def test_an_interrupted_run_ends_with_the_same_bytes(
    store: FeatureStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fsar.heads.finetune.learner import FinetuneLearner

    class Killed(BaseException):
        pass

    def die(self, number, batch, monitor, step=FinetuneLearner.step):
        if number == 2:
            raise Killed
        return step(self, number, batch, monitor)

    def train(out: Path) -> None:
        settings = FinetuneSettings(head="tsn", store=store, finetune="last:2", options={"adapter": "linear"}, **SMALL)
        experiment, trainer = prepare(settings)
        object.__setattr__(trainer, "save_every_seconds", 0.0)
        run(experiment, out, trainer=trainer, quiet=True)

    monkeypatch.setattr(FinetuneLearner, "step", die)
    with pytest.raises(Killed):
        train(tmp_path / "cut")
    monkeypatch.undo()
    train(tmp_path / "cut")
    train(tmp_path / "whole")
    for name in ("backbone.safetensors", "head.safetensors", "metrics.jsonl"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name


def test_a_head_that_reads_text_takes_that_of_the_store(store: FeatureStore, tmp_path: Path) -> None:
    from fsar.pipeline.store import TextTable, write_text

    names = tuple(dict.fromkeys(video.class_name for video in store.videos))
    vectors = np.random.default_rng(0).normal(size=(1, len(names), 24)).astype(np.float32)
    write_text(store.path, TextTable("text", vectors, names, ("{}",)))
    trained = fsar.train_head("clip-fsar", store.path, finetune="last:2", text="text", out=tmp_path / "run", **SMALL)
    assert trained.results[0]["text"] == "text"
    assert open_store(tmp_path / "run" / "test.zarr").text_tables() == ["text"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"finetune": "last:1"}, r"the last 1 of the 3 blocks.*must hold tokens\.1\.raw.*fsar-prep encode"),
        ({"finetune": "last:3"}, "of which the last 1 to 2 can train"),
        ({"finetune": "last:x"}, "takes a number of blocks"),
        ({"finetune": "last:2", "images": "squash"}, "leave --images out"),
        ({"finetune": "last:2", "head": "strm"}, "needs 'patches'"),
    ],
)
def test_what_cannot_work_is_one_error(
    store: FeatureStore, tmp_path: Path, settings: dict[str, str], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        fsar.train_head(**{"head": "otam", "store": store, "out": tmp_path / "run", **SMALL, **settings})


def test_a_backbone_without_blocks_is_refused(catalog: Path, tmp_path: Path) -> None:
    store = fsar.encode(catalog, tmp_path / "maps.zarr", backbone="random:timm/test_resnet", frames=2, size=32, jobs=0,
                        quiet=True)  # fmt: skip
    with pytest.raises(InputError, match="no transformer whose last blocks"):
        fsar.train_head("otam", store, finetune="last:1", **SMALL)
