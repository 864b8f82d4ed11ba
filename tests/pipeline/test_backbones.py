import pickle

import open_clip
import pytest
import torch
import torchvision
from safetensors.torch import load_file, save_file

from fsar.errors import InputError
from fsar.pipeline.backbones import load_backbone, parse_spec, read_weights, save_weights
from tests.pipeline.backbone_helpers import add_tiny_clips

SMALL = "random:torchvision/resnet18"


@pytest.fixture(scope="module", autouse=True)
def tiny_clips(tmp_path_factory):
    add_tiny_clips(tmp_path_factory.mktemp("clips"))


def test_a_spec_says_library_name_and_weights(tmp_path):
    file = tmp_path / "mine.safetensors"
    file.touch()
    assert parse_spec("open_clip:ViT-B-16/openai").pretrained == "openai"
    assert parse_spec(f"timm:resnet50/{file}").file == file
    assert parse_spec("torchvision:resnet50", weights=file).pretrained == "file"
    assert parse_spec("random:timm/resnet50@7").pretrained == "random@7"
    assert parse_spec("random:timm/resnet50").seed == 0


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("resnet50", "unknown backbone library"),
        ("torchvison:resnet50/X", "did you mean torchvision"),
        ("torchvision:resnet50", "names no weights"),
        ("open_clip:", "no model name"),
        ("random:resnet50", "must be random:LIBRARY/NAME"),
        ("random:timm/resnet50@x", "seed of backbone"),
        ("torchvision:resnet19/IMAGENET1K_V1", "did you mean resnet18"),
        ("torchvision:vit_b_16/DEFAULT", "unknown torchvision backbone"),
        ("torchvision:resnet18/IMAGENET1K_V9", "did you mean IMAGENET1K_V1"),
        ("open_clip:ViT-B16/openai", "did you mean ViT-B-16"),
        ("open_clip:ViT-B-16/openia", "did you mean openai"),
        ("timm:resnet5O/a1_in1k", "did you mean resnet50"),
        ("timm:resnet50/nope", "unknown weights of timm resnet50"),
    ],
)
def test_what_does_not_exist_is_named_with_its_neighbours(spec, message):
    with pytest.raises(InputError, match=message):
        load_backbone(spec)


def test_a_weights_file_that_is_not_there_is_said_so(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.pt does not exist"):
        load_backbone(f"torchvision:resnet18/{tmp_path}/nowhere.pt")
    with pytest.raises(InputError, match="random weights"):
        load_backbone(SMALL, weights=tmp_path / "x.pt")


def test_random_weights_follow_their_seed_and_leave_the_caller_alone(capsys):
    state = torch.random.get_rng_state()
    first, again, other = (load_backbone(f"{SMALL}@{seed}") for seed in (3, 3, 4))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert first.weights_sha256 == again.weights_sha256 != other.weights_sha256
    assert first.pretrained == "random@3"
    assert "RANDOM weights (seed 3)" in capsys.readouterr().err


def test_backbones_are_frozen_and_in_evaluation_mode():
    backbone = load_backbone("random:timm/test_vit", size=32)
    assert not backbone.module.training
    assert not any(parameter.requires_grad for parameter in backbone.module.parameters())
    assert backbone.module(torch.zeros(2, 3, 32, 32)).shape == (2, backbone.dim)


@pytest.mark.parametrize("layout", ["safetensors", "pth with module.", "state_dict of a run", "with a classifier"])
def test_a_checkpoint_is_loaded_whatever_it_is_wrapped_in(tmp_path, layout):
    source = torchvision.models.resnet18(weights=None, num_classes=7)
    state = source.state_dict()
    path = tmp_path / ("w.safetensors" if layout == "safetensors" else "w.pth")
    if layout == "safetensors":
        save_weights(path, {name: value for name, value in state.items() if not name.startswith("fc.")})
    elif layout == "with a classifier":
        torch.save(state, path)
    else:
        wrapped = {f"module.{name}": value for name, value in state.items()}
        torch.save(wrapped if "module" in layout else {"epoch": 3, "state_dict": wrapped}, path)
    backbone = load_backbone(f"torchvision:resnet18/{path}")
    frames = torch.rand(2, 3, 64, 64)
    source.fc = torch.nn.Identity()
    torch.testing.assert_close(backbone.module(frames), source.eval()(frames))
    assert backbone.pretrained == "file"


def test_a_checkpoint_that_does_not_fit_lists_what_is_wrong(tmp_path):
    state = torchvision.models.resnet18(weights=None).state_dict()
    del state["layer1.0.conv1.weight"]
    state["layer9.weight"] = torch.zeros(3)
    state["conv1.weight"] = torch.zeros(64, 1, 7, 7)
    torch.save(state, tmp_path / "odd.pth")
    with pytest.raises(InputError) as error:
        load_backbone(f"torchvision:resnet18/{tmp_path / 'odd.pth'}")
    for part in (
        "1 missing (layer1.0.conv1.weight)",
        "1 unknown (layer9.weight)",
        "conv1.weight (64, 1, 7, 7) instead of",
    ):
        assert part in str(error.value)


def test_files_that_hold_code_or_nothing_are_refused(tmp_path):
    (tmp_path / "code.pt").write_bytes(pickle.dumps(print))
    (tmp_path / "torn.safetensors").write_bytes(b"\x10")
    torch.save([torch.zeros(2)], tmp_path / "list.pt")
    torch.save({"epoch": 1}, tmp_path / "empty.pt")
    (tmp_path / "table.csv").write_text("video_id,path\na,b\n")
    (tmp_path / "nothing.pt").write_bytes(b"")
    for name, message in (
        ("code.pt", "cannot be read as tensors alone"),
        ("table.csv", "table.csv is not a checkpoint of tensors"),
        ("nothing.pt", "nothing.pt is not a checkpoint of tensors"),
        ("torn.safetensors", "not a whole safetensors file"),
        ("list.pt", "holds a list"),
        ("empty.pt", "holds no parameters"),
    ):
        with pytest.raises(InputError, match=message) as error:
            read_weights(tmp_path / name)
        assert "weights_only" not in str(error.value)  # torch's advice to read it unsafely


def test_clip_checkpoints_with_and_without_the_text_tower(tmp_path):
    model = open_clip.create_model("tiny-vit")
    save_file(model.state_dict(), tmp_path / "whole.safetensors")
    save_file(model.visual.state_dict(), tmp_path / "tower.safetensors")
    prefixed = {f"visual.{name}": value for name, value in model.visual.state_dict().items()}
    save_file(prefixed, tmp_path / "prefixed.safetensors")
    whole, tower, prefix = (
        load_backbone(f"open_clip:tiny-vit/{tmp_path / name}.safetensors") for name in ("whole", "tower", "prefixed")
    )
    assert whole.weights_sha256 == tower.weights_sha256 == prefix.weights_sha256
    assert whole.text_sha256
    assert whole.clip is not None
    assert tower.text_sha256 == prefix.text_sha256 == ""
    assert tower.clip is None


def activations(module):
    return {type(child).__name__ for child in module.modules()} & {"QuickGELU", "GELU"}


def as_if_openai_published(monkeypatch, create_model):
    monkeypatch.setattr(open_clip, "list_pretrained_tags_by_model", lambda name: ["openai"])
    monkeypatch.setattr(open_clip, "get_pretrained_cfg", lambda name, tag: {"quick_gelu": True})
    monkeypatch.setattr(open_clip, "create_model", create_model)


def test_openai_weights_get_quick_gelu_whatever_the_model_is_called(monkeypatch):
    built = {}

    def create(name, pretrained=None, **options):
        built.update(options)
        return open_clip.factory.create_model(name, **options)

    assert open_clip.get_pretrained_cfg("ViT-B-16", "openai")["quick_gelu"]
    as_if_openai_published(monkeypatch, create)
    backbone = load_backbone("open_clip:tiny-vit/openai")
    assert built["force_quick_gelu"] is True
    assert backbone.quick_gelu
    assert activations(backbone.module) == {"QuickGELU"}


def test_a_tower_built_with_the_wrong_activation_is_refused(monkeypatch):
    def forgetful(name, pretrained=None, force_quick_gelu=False, **options):
        return open_clip.factory.create_model("tiny-vit", **options)

    as_if_openai_published(monkeypatch, forgetful)
    with pytest.raises(InputError, match="must have QuickGELU"):
        load_backbone("open_clip:tiny-vit/openai")


def test_weights_trained_with_gelu_are_refused_on_a_quickgelu_model(monkeypatch):
    monkeypatch.setattr(open_clip, "list_pretrained_tags_by_model", lambda name: ["laion2b_e16"])
    monkeypatch.setattr(open_clip, "get_pretrained_cfg", lambda name, tag: {"quick_gelu": False})
    with pytest.raises(InputError, match=r"use open_clip:ViT-B-32/laion2b_e16"):
        load_backbone("open_clip:ViT-B-32-quickgelu/laion2b_e16")


def test_a_checkpoint_can_say_that_it_needs_quick_gelu(tmp_path):
    state = open_clip.create_model("tiny-vit").state_dict()
    save_weights(tmp_path / "a.safetensors", state, metadata={"quick_gelu": "true"})
    save_weights(tmp_path / "b.safetensors", state)
    assert activations(load_backbone(f"open_clip:tiny-vit/{tmp_path / 'a.safetensors'}").module) == {"QuickGELU"}
    assert activations(load_backbone(f"open_clip:tiny-vit/{tmp_path / 'b.safetensors'}").module) == {"GELU"}


def test_a_file_of_openai_weights_gets_the_activation_they_were_trained_with(tmp_path, monkeypatch):
    monkeypatch.setattr(open_clip, "list_pretrained_tags_by_model", lambda name: ["openai"])
    monkeypatch.setattr(open_clip, "get_pretrained_cfg", lambda name, tag: {"quick_gelu": True})
    file = tmp_path / "w.safetensors"
    save_weights(file, open_clip.create_model("tiny-vit").state_dict())
    assert activations(load_backbone("open_clip:tiny-vit", weights=file).module) == {"GELU"}
    assert activations(load_backbone("open_clip:tiny-vit/openai", weights=file).module) == {"QuickGELU"}
    with pytest.raises(InputError, match="unknown weights of open_clip tiny-vit 'openia': did you mean openai"):
        load_backbone("open_clip:tiny-vit/openia", weights=file)


def test_saved_weights_come_back_as_they_were(tmp_path):
    backbone = load_backbone("random:timm/test_resnet", size=32)
    save_weights(tmp_path / "w.safetensors", backbone.module.state_dict(), metadata={"name": "test"})
    again = load_backbone(f"timm:test_resnet/{tmp_path / 'w.safetensors'}", size=32)
    assert again.weights_sha256 == backbone.weights_sha256
    assert set(load_file(tmp_path / "w.safetensors")) == set(backbone.module.state_dict())


def test_equal_weights_and_facts_are_equal_files(tmp_path):
    state = {"a": torch.ones(2), "b": torch.zeros(3)}
    facts = {name: name.upper() for name in ("quick_gelu", "tuned", "model", "dataset", "epoch")}
    for index in range(8):
        save_weights(tmp_path / f"{index}.safetensors", state, metadata=dict(sorted(facts.items(), reverse=index % 2)))
    assert len({file.read_bytes() for file in tmp_path.iterdir()}) == 1
    assert read_weights(tmp_path / "0.safetensors")[1] == facts
    save_file(state, tmp_path / "other.safetensors", metadata=facts)
    assert read_weights(tmp_path / "other.safetensors")[1] == facts


def test_weights_without_facts_or_tensors_have_a_header_that_can_be_read(tmp_path):
    save_weights(tmp_path / "bare.safetensors", {"a": torch.ones(2)}, metadata={})
    assert read_weights(tmp_path / "bare.safetensors")[1] == {}
    save_weights(tmp_path / "empty.safetensors", {}, metadata={})
    assert load_file(tmp_path / "empty.safetensors") == {}
    with pytest.raises(InputError, match="holds no parameters"):
        read_weights(tmp_path / "empty.safetensors")


def test_saved_weights_can_be_read_by_the_group(tmp_path):
    (tmp_path / "plain").touch()
    save_weights(tmp_path / "w.safetensors", {"a": torch.ones(2)})
    assert (tmp_path / "w.safetensors").stat().st_mode == (tmp_path / "plain").stat().st_mode
