"""What `fsar-prep backbones` lists and counts."""

import json

import pytest
import torchvision
from click.testing import CliRunner

from fsar.cli.prep import prep
from fsar.errors import InputError
from fsar.pipeline.backbones import load_backbone
from fsar.pipeline.backbones.hf.build import FAMILIES
from fsar.pipeline.backbones.load import builder
from fsar.pipeline.backbones.measures import _measured, measure
from fsar.pipeline.backbones.names import find_backbones, is_exact
from fsar.pipeline.backbones.spec import LIBRARIES, BackboneSpec
from fsar.pipeline.encode.plan import EncodeOptions, recipe_of
from tests.pipeline.backbones.hf_models import config_of


def call(*arguments, code=0):
    result = CliRunner().invoke(prep, ["backbones", *arguments])
    assert result.exit_code == code, result.output
    return result.output


def test_every_library_is_listed_with_what_it_knows():
    by_name = {(each.library, each.name): each for each in find_backbones()}
    assert {library for library, _ in by_name} == set(LIBRARIES)
    assert len(by_name) > 1000
    clip = by_name["open_clip", "ViT-B-16"]
    assert (clip.size, clip.clip_length, "openai" in clip.weights) == (224, None, True)
    assert by_name["torchvision", "mvit_v2_s"].clip_length == 16
    assert by_name["timm", "vit_base_patch16_dinov3"].weights == ("lvd1689m",)
    assert by_name["open_clip", "fsar-RN-T"].size == 64
    for kind, family in FAMILIES.items():
        listed = by_name["hf", kind]
        assert (listed.clip_length is not None) == bool(family.length_field)
        assert listed.spec == f"random:hf/{kind}"


@pytest.mark.parametrize(
    ("pattern", "library", "names"),
    [
        ("mvit_v2_s", None, ["mvit_v2_s"]),
        ("torchvision:resnet50/IMAGENET1K_V2", None, ["resnet50"]),
        ("random:hf/vivit@3", None, ["vivit"]),
        ("VIVIT", "hf", ["vivit", "vivit-tiny"]),
        ("hf:dinov3_*-tiny", None, ["dinov3_convnext-tiny", "dinov3_vit-tiny"]),
        ("swin3d", None, ["swin3d_t", "swin3d_b"]),
    ],
)
def test_a_pattern_is_a_name_a_part_or_has_wild_cards(pattern, library, names):
    found = find_backbones(pattern, library)
    assert [each.name for each in found] == names
    assert is_exact(pattern, found) == (len(names) == 1)


def test_what_fits_nothing_is_one_line():
    for pattern, message in (
        ("vit_base_patch17_224", "did you mean vit_base_patch1"),
        ("tim:resnet50", "unknown backbone library 'tim': did you mean timm"),
        ("torchvision:ViT-B-16", "unknown torchvision backbone 'ViT-B-16'"),
    ):
        with pytest.raises(InputError, match=message):
            find_backbones(pattern)


@pytest.mark.parametrize("name", ["resnet18", "mc3_18", "mvit_v1_b", "swin3d_t"])
def test_counts_are_those_that_torchvision_publishes(name):
    """Its multiplications with an addition are two operations here; it counts Swin's for clips of 16 frames."""
    found = measure(BackboneSpec("torchvision", name, seed=0))
    weights = torchvision.models.get_model_weights(name).DEFAULT
    classifier = found.taps["pooled"][0] * 400 + 400 if found.clip_length else 512 * 1000 + 1000
    assert found.n_parameters == weights.meta["num_params"] - classifier
    published = weights.meta["_ops"] * (found.clip_length or 16) / 16
    assert found.n_operations / 2e9 == pytest.approx(published, rel=0.01)


@pytest.mark.parametrize(
    ("library", "name"),
    [("hf", f"{kind}-tiny") for kind in FAMILIES] + [("timm", "test_vit"), ("open_clip", "fsar-ViT-T-8")],
)
def test_a_network_without_memory_counts_as_one_with_it(library, name):
    spec = BackboneSpec(library, name, seed=0)
    found = measure(spec)
    assert found == _measured(builder(library)(spec, None))
    assert found.n_operations > 1e5
    if library == "hf" and FAMILIES[name.removesuffix("-tiny")].text:
        assert found.n_text_parameters > 320 * config_of(name.removesuffix("-tiny"))["text_config"]["hidden_size"]


@pytest.mark.parametrize("name", ["hf/xclip-tiny", "hf/dinov2-tiny", "timm/test_vit"])
def test_the_bytes_of_a_video_are_those_of_a_store(name):
    backbone = load_backbone(f"random:{name}")
    library, _, own = name.partition("/")
    found = measure(BackboneSpec(library, own, seed=0))
    recipe, taps = recipe_of(backbone, EncodeOptions(backbone="", taps=(found.usual_tap,)))
    (spec,) = taps.values()
    assert found.video_bytes == recipe.n_slots * spec.shape[0] * 2
    assert found.taps[found.usual_tap] == spec.shape


def test_the_command_lists_and_says_all_about_one(tmp_path):
    listed = call("siglip2", "--library", "open_clip")
    assert "open_clip:ViT-B-16-SigLIP2 " in listed
    assert "name one, or say --details, for what it costs" in listed
    page = call("hf:xclip-tiny")
    for line in (
        "clips of 8 frames, 32 x 32 pixels",
        "8 time steps of a clip of steps.pooled (32) in float16",
        "GFLOP a clip",
    ):
        assert line in page
    table = call("hf:dinov*-tiny", "--details")
    assert [line.split()[0] for line in table.splitlines() if line.startswith("random")] == [
        f"random:hf/{name}-tiny" for name in ("dinov2", "dinov2_with_registers", "dinov3_convnext", "dinov3_vit")
    ]
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "config.json").write_text(json.dumps(config_of("videomae")))
    (one,) = json.loads(call(f"hf:{tmp_path / 'm'}", "--json"))["backbones"]
    assert (one["clip_length"], one["taps"]["steps.pooled"], one["n_steps"], one["video_bytes"]) == (8, [32], 4, 256)
    (plain,) = json.loads(call("torchvision:resnet18/DEFAULT", "--json"))["backbones"]
    assert (plain["n_parameters"], plain["weights"], plain["usual_tap"]) == (11176512, ["IMAGENET1K_V1"], "pooled")
