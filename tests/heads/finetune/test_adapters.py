"""Adapters in a frozen tower: the released D2ST-Adapter's numbers, runs, files that `encode` takes, what is refused."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import fsar
from fsar.errors import InputError
from fsar.heads import EpisodeBatch, Targets
from fsar.heads.checkpoints.backbone import adapter_name
from fsar.heads.checkpoints.importer import import_checkpoint, write_import
from fsar.heads.checkpoints.official import import_official
from fsar.heads.finetune.groups import finetune_groups
from fsar.heads.finetune.learner import FinetuneLearner, save_backbone
from fsar.heads.finetune.model import PIXELS, EndToEnd
from fsar.heads.finetune.setup import published_tuning
from fsar.heads.finetune.step import Memory, backward
from fsar.heads.finetune.tower import Tower
from fsar.heads.finetune.trainable import set_trainable
from fsar.heads.finetune.tuning import Tuning
from fsar.heads.recipes.presets import get_preset
from fsar.heads.training.experiment import run
from fsar.pipeline.backbones import Backbone, load_backbone
from fsar.pipeline.backbones.adapters import Adaptation, AdaptedTower, with_adapters
from fsar.pipeline.backbones.adapters.deformable import STAGE_HEADS, STAGES, DeformableAdapter
from fsar.pipeline.backbones.open_clip import _points
from fsar.pipeline.backbones.taps import TapExtractor
from fsar.pipeline.store import open_store
from tests.conftest import GOLDENS
from tests.heads.finetune.official_steps import clip_tower
from tests.heads.finetune.videos import PRESET, finetune, prepared, write_videos
from tests.heads.goldens import Golden, assert_close, read_golden

SMALL = "random:open_clip/fsar-ViT-T-8"
GRADIENT_TOLERANCE = 2e-3
"""Of the largest entry: sampling positions amplify rounding."""
ROLES = {"frames": "steps.pooled"}
VECTORS = sorted(GOLDENS.glob("d2st_adapter/p*.safetensors"))


def official_backbone(golden: Golden) -> Backbone:
    """The small CLIP of a vector, adapted, with the official weights under their official names."""
    shape = golden.metadata["options"]
    width, side = golden.metadata["D"], shape["resolution"]
    tower = clip_tower(
        {"kind": "clip_vit", "image": side, "patch": shape["patch"], "width": width, "layers": shape["layers"],
         "heads": shape["heads"], "output_dim": 8}
    )  # fmt: skip
    bare = Backbone("open_clip", "small", "file", tower, 8, side, (0,) * 3, (1,) * 3, _points(tower), "")
    backbone = with_adapters(bare, Adaptation("d2st-adapter", golden.metadata["T"], projected=False))
    state = {adapter_name(name): t for name, t in golden.state.items() if not name.startswith("classification_layer")}
    own = {name if name.startswith("adapters.") else f"tower.{name}": tensor for name, tensor in state.items()}
    assert isinstance(backbone.module, AdaptedTower)
    own["left_out"] = backbone.module.left_out
    backbone.module.load_state_dict(own)
    return backbone


def our_gradients(model: EndToEnd) -> dict[str, Tensor]:
    """The gradients of everything that trains, by official name."""
    found = {name: p.grad for name, p in model.head.named_parameters()}
    for name, parameter in model.tower.module.named_parameters():
        if parameter.requires_grad:
            found[name.removeprefix("tower.")] = parameter.grad
    return found


@pytest.mark.skipif(not VECTORS, reason=f"no parity vectors at {GOLDENS} (set FSAR_GOLDENS)")
@pytest.mark.parametrize("path", VECTORS, ids=lambda path: path.stem)
def test_from_pixels_to_gradients_as_released(path: Path) -> None:
    golden = read_golden(path)
    tower = Tower(official_backbone(golden), ROLES)
    set_trainable(tower, "d2st-adapter")
    model = EndToEnd(tower, import_official("d2st_adapter", golden.state, golden.metadata)).train()
    inputs, way = golden.inputs, golden.metadata["way"]
    batch = EpisodeBatch(
        {PIXELS: inputs["support.images"][None]}, inputs["support_labels"][None],
        {PIXELS: inputs["query.images"][None]}, way,
    )  # fmt: skip
    ids = {name: inputs[name][None] for name in ("support_class_ids", "query_class_ids")}
    losses, outputs = model.losses((batch, Targets(inputs["query_labels"][None], **ids)))
    for part in ("support", "query"):
        assert_close(f"{part}.frames", tower(inputs[f"{part}.images"])["frames"], golden.outputs[f"{part}.frames"])
    assert_close("logits", outputs["logits"], golden.outputs["logits"])
    assert_close("loss", losses["total"], golden.outputs["loss"])
    losses["total"].backward()
    ours, official = our_gradients(model), {adapter_name(name): grad for name, grad in golden.grads.items()}
    assert ours.keys() == official.keys()
    largest = max(float(grad.abs().max()) for grad in official.values())
    for name, grad in official.items():
        bound = (
            GRADIENT_TOLERANCE * float(grad.abs().max()) + 1e-6 * largest
        )  # the latter where it is zero but rounding
        assert float((ours[name] - grad).abs().max()) <= bound, name


@pytest.mark.shared
def test_behind_the_stages_of_a_resnet_as_released() -> None:
    golden = read_golden(GOLDENS / "d2st_adapter" / "resnet_p4_stages34.safetensors")
    total = torch.zeros(())
    adapters = {}
    for stage in (3, 4):
        maps = golden.inputs[f"stage{stage}"]
        adapter = DeformableAdapter(maps.shape[2], STAGE_HEADS[stage - 1], STAGES[stage - 1], of_maps=True)
        own = adapter.state_dict()
        adapter.load_state_dict({name: golden.state[f"{stage}.{name}"].view_as(own[name]) for name in own})
        tokens = maps.flatten(3).transpose(2, 3)
        changed = (tokens + adapter(tokens, 0, maps.shape[-1])).transpose(2, 3).view_as(maps)
        assert_close(f"stage{stage}", changed, golden.outputs[f"stage{stage}"])
        total = total + (changed * golden.inputs[f"cotangent{stage}"]).sum()
        adapters[stage] = adapter
    total.backward()
    largest = max(float(grad.abs().max()) for grad in golden.grads.values())
    for stage, adapter in adapters.items():
        for name, parameter in adapter.named_parameters():
            reference = golden.grads[f"{stage}.{name}"].view_as(parameter)
            bound = GRADIENT_TOLERANCE * float(reference.abs().max()) + 1e-6 * largest
            assert float((parameter.grad - reference).abs().max()) <= bound, name


def moved(backbone: Backbone, scale: float = 0.1) -> Backbone:
    """A backbone whose adapters do something."""
    generator = torch.Generator().manual_seed(3)
    assert isinstance(backbone.module, AdaptedTower)
    with torch.no_grad():
        for parameter in backbone.module.adapters.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)
    return backbone


CASES = [
    (SMALL, 64, "st-adapter"),
    (SMALL, 64, "d2st-adapter"),
    ("random:timm/vit_tiny_patch16_224", 112, "d2st-adapter"),
    ("random:timm/test_resnet", 224, "d2st-adapter"),
]


@pytest.mark.parametrize(("spec", "size", "kind"), CASES)
def test_adapters_add_nothing_at_first_and_a_file_of_them_gives_the_same_features(
    spec: str, size: int, kind: Any, tmp_path: Path
) -> None:
    clips = torch.randn(2, 4, 3, size, size, generator=torch.Generator().manual_seed(0))
    plain = load_backbone(spec, size=size)
    with torch.no_grad():
        wanted = plain.module(clips.flatten(0, 1))
    backbone = with_adapters(plain, Adaptation(kind, 4))
    with torch.no_grad():
        torch.testing.assert_close(TapExtractor(backbone, ["steps.pooled"])(clips)["steps.pooled"], wanted)
        changed = TapExtractor(moved(backbone), ["steps.pooled"])(clips)["steps.pooled"]
        assert not torch.allclose(changed, wanted, atol=1e-3)
        other = clips.clone()
        other[1, 2:] += 1
        of_other = TapExtractor(backbone, ["steps.pooled"])(other)["steps.pooled"]
    assert torch.allclose(of_other[:4], changed[:4], atol=1e-5)  # the other clip
    assert not torch.allclose(of_other[4], changed[4], atol=1e-5)  # the first frame of the clip that changed later on
    save_backbone(tmp_path / "b.safetensors", backbone)
    again = load_backbone(
        f"{spec.removeprefix('random:').replace('/', ':', 1)}/{tmp_path / 'b.safetensors'}", size=size
    )
    with torch.no_grad():
        torch.testing.assert_close(TapExtractor(again, ["steps.pooled"])(clips)["steps.pooled"], changed)


def test_st_adapter_is_a_weighted_sum_over_neighbouring_frames() -> None:
    from fsar.pipeline.backbones.adapters.depthwise import DepthwiseAdapter

    adapter = DepthwiseAdapter(6)
    for parameter in adapter.parameters():
        torch.nn.init.normal_(parameter)
    tokens = torch.randn(2, 5, 1 + 4, 6)
    weight, own = adapter.conv.weight.view(3, 3), adapter.fc1(tokens[:, :, 1:])
    padded = torch.cat((torch.zeros_like(own[:, :1]), own, torch.zeros_like(own[:, :1])), 1)
    mixed = sum(padded[:, shift : shift + 5] * weight[:, shift] for shift in range(3)) + adapter.conv.bias
    wanted = torch.cat((torch.zeros(2, 5, 1, 6), adapter.fc2(mixed)), 2)
    torch.testing.assert_close(adapter(tokens, 1, 2), wanted)


def test_two_passes_give_the_gradients_of_one() -> None:
    found = []
    for memory in (Memory(), Memory(micro_batch=5)):  # one clip of 4 frames at once
        backbone = moved(with_adapters(load_backbone(SMALL, size=64), Adaptation("d2st-adapter", 4)))
        tower = Tower(backbone, ROLES)
        set_trainable(tower, "d2st-adapter")
        model = EndToEnd(tower, fsar.heads.create_head("bi-mhm"))
        frames = torch.rand(1, 6, 4, 3, 64, 64, generator=torch.Generator().manual_seed(1))
        batch = EpisodeBatch({PIXELS: frames[:, :2]}, torch.tensor([[0, 1]]), {PIXELS: frames[:, 2:]}, 2)
        backward(model, [(batch, Targets(torch.tensor([[0, 0, 1, 1]])))], PRESET, Tuning(), memory=memory)
        found.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    torch.testing.assert_close(*found, rtol=1e-3, atol=1e-4 * float(found[0].abs().max()))


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_videos(tmp_path_factory.mktemp("videos"))


class Killed(BaseException):
    pass


@pytest.mark.parametrize("kind", ["st-adapter", "d2st-adapter"])
def test_a_killed_run_ends_with_the_same_bytes_and_encode_takes_its_backbone(
    catalog: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    settings = {"finetune": SMALL, "size": 64, "frames": 4, "trainable": kind, "head": "bi-mhm",
                "preset": replace(PRESET, n_episodes=4)}  # fmt: skip
    whole = finetune(catalog, tmp_path / "whole", **settings)
    experiment, trainer = prepared(catalog, **settings)
    step = FinetuneLearner.step

    def dying(self: FinetuneLearner, number: int, batch: Any, monitor: Any) -> float:
        if number == 1:
            raise Killed
        return step(self, number, batch, monitor)

    monkeypatch.setattr(FinetuneLearner, "step", dying)
    with pytest.raises(Killed):
        run(experiment, tmp_path / "cut", trainer=replace(trainer, save_every_seconds=0.0), quiet=True)
    monkeypatch.undo()
    assert finetune(catalog, tmp_path / "cut", **settings)["accuracy"] == whole["accuracy"]
    tuned = tmp_path / "whole" / "backbone.safetensors"
    assert (tmp_path / "cut" / "backbone.safetensors").read_bytes() == tuned.read_bytes()

    store = open_store(tmp_path / "whole" / "test.zarr")
    assert store.recipe["clip"] == {"length": 4, "stride": 0, "steps": 4}
    pixels = {name: store.recipe[name] for name in ("resize_mode", "resize", "size", "interpolation", "antialias")}
    again = fsar.encode(catalog, tmp_path / "all.zarr", backbone=f"open_clip:fsar-ViT-T-8/{tuned}", jobs=0, quiet=True,
                        taps=("steps.pooled",), dtype="float32", sampler=store.recipe["sampler"], **pixels)  # fmt: skip
    rows = [again.row_of(video.video_id) for video in store.videos]
    stored = store.read("steps.pooled", np.arange(len(rows)))
    np.testing.assert_allclose(again.read("steps.pooled", rows), stored, atol=1e-4)


@pytest.mark.parametrize(
    ("spec", "size", "kind", "n_frames", "message"),
    [
        ("random:timm/test_resnet", 64, "st-adapter", 4, r"st-adapter needs a transformer; timm:test_resnet is none"),
        (SMALL, 64, "d2st-adapter", 2, r"cannot take .* clips of 2 frames: .* at least 4 x 5 x 5 .*, got 2 x 8 x 8"),
        ("random:torchvision/r3d_18", 64, "st-adapter", 4, r"sees clips"),
    ],
)
def test_what_has_no_place_for_adapters_is_told_so(
    catalog: Path, spec: str, size: int, kind: str, n_frames: int, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        prepared(catalog, finetune=spec, size=size, trainable=kind, frames=n_frames)


def test_a_file_of_a_kind_that_is_not_known_is_refused(tmp_path: Path) -> None:
    from fsar.pipeline.backbones import save_weights

    state = {f"visual.{name}": t for name, t in load_backbone(SMALL, size=64).module.state_dict().items()}
    save_weights(tmp_path / "b.safetensors", state, metadata={"adapters": "new-adapter", "adapter_frames": "8"})
    with pytest.raises(InputError, match="holds adapters of kind 'new-adapter' for 8 frames; known are st-adapter"):
        load_backbone(f"open_clip:fsar-ViT-T-8/{tmp_path / 'b.safetensors'}", size=64)


def test_the_published_recipe_trains_what_the_released_code_trains() -> None:
    tuning = published_tuning("bi-mhm", "ssv2-otam").tuning
    preset = get_preset("published", "bi-mhm", "ssv2-otam")
    assert (tuning.trainable, tuning.adapters_projected, tuning.processes, tuning.divisor) == (
        "d2st-adapter",
        False,
        2,
        2,
    )
    rates = [
        preset.lr * preset.schedule.factor(i, preset.n_episodes) for i in (0, 3_000, 6_000, 24_000, 36_000, 48_000)
    ]
    assert rates == pytest.approx([2e-4, 6e-4, 1e-3, 5e-4, 1e-4, 5e-5])
    tower = Tower(with_adapters(load_backbone(SMALL, size=64), Adaptation("d2st-adapter", 8, projected=False)), ROLES)
    set_trainable(tower, tuning.trainable)
    model = EndToEnd(tower, fsar.heads.create_head("bi-mhm", dim=128, n_classes=5, class_weight=2.0))
    names = {id(p): name for name, p in model.named_parameters()}
    groups = {g["weight_decay"]: [names[id(p)] for p in g["params"]] for g in finetune_groups(model, preset, tuning)}
    assert set(groups) == {0.0, 1e-3}
    assert all(".conv_offset.1.norm." in name for name in groups[0.0])
    own = {name.removeprefix("tower.module.tower.") for name in groups[1e-3] if name.startswith("tower.module.tower.")}
    assert own == {"class_embedding", "ln_post.weight", "ln_post.bias"}


@pytest.mark.slow
def test_a_checkpoint_under_official_names_becomes_a_run_folder(tmp_path: Path) -> None:
    backbone = moved(
        with_adapters(
            load_backbone("random:open_clip/ViT-B-16-quickgelu"), Adaptation("d2st-adapter", 8, projected=False)
        ),
        0.02,
    )
    official = {}
    for name, tensor in backbone.module.state_dict().items():
        name = name.removeprefix("tower.").replace("adapters.layers", "transformer.resblocks")
        official[f"head.{name.replace('.adapter.', '.Adapter.').removeprefix('adapters.')}"] = tensor
    del official["head.left_out"]
    official["head.classification_layer.weight"] = torch.zeros(64, 768)
    official["head.classification_layer.bias"] = torch.zeros(64)
    torch.save({"epoch": 1, "model_state": official, "cfg": "{}"}, tmp_path / "official.pyth")
    report = import_checkpoint(tmp_path / "official.pyth")
    assert (report.method, report.ignored, report.missing) == ("d2st_adapter", ("epoch",), ())
    summary = write_import(report, tmp_path / "official.pyth", tmp_path / "run")
    loaded = load_backbone(summary["backbone"])
    clip = torch.randn(1, 8, 3, 224, 224)
    with torch.no_grad():
        wanted, found = (TapExtractor(one, ["steps.pooled"])(clip)["steps.pooled"] for one in (backbone, loaded))
    torch.testing.assert_close(found, wanted)
