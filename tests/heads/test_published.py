"""Published numbers: a table that is sound, and found only where the terms are the same."""

import pytest

from fsar.heads import list_heads
from fsar.heads.evaluation.published import backbone_kind, published_result, published_results
from fsar.heads.evaluation.report import explanations, table
from fsar.splits import list_splits

CLIP = {"library": "open_clip", "backbone": "ViT-B-16", "pretrained": "openai"}


def test_the_table_is_sound():
    results = published_results()
    assert len(results) > 400
    assert all(0 < result.accuracy < 1 and result.source and result.method for result in results)
    ours = {result.head for result in results if result.head in list_heads()}
    assert {"otam", "trx", "hyrsm", "molo", "hcl", "clip-fsar", "emp-net"} <= ours
    assert {result.split for result in results} > set(list_splits()) - {"kinetics100-cmn"}


def test_a_number_is_found_on_its_own_terms_only():
    found = published_result("clip-fsar", CLIP, split="ssv2-otam", n_way=5, n_shot=1)
    assert found["accuracy"] == pytest.approx(0.619)
    assert found["same_backbone"]
    assert "P2A" in found["source"]
    for change in ({"split": "mine"}, {"n_way": 10}, {"n_shot": 7}, {"n_shot": (1, 2)}):
        assert published_result("clip-fsar", CLIP, **{"split": "ssv2-otam", "n_way": 5, "n_shot": 1, **change}) is None
    assert published_result("proto", CLIP, split="ssv2-otam", n_way=5, n_shot=1) is None


def test_another_backbone_is_said():
    found = published_result("otam", CLIP, split="ssv2-otam", n_way=5, n_shot=1)
    assert (found["accuracy"], found["same_backbone"]) == (pytest.approx(0.428), False)
    result = {"head": "otam", "n_way": 5, "n_shot": 1, "accuracy": 0.5, "published": found}
    assert "42.8 (RN50 ImageNet)" in table([result])
    assert "these features are of another backbone" in explanations([result])[0]
    recipe = {"library": "torchvision", "backbone": "resnet50", "pretrained": "IMAGENET1K_V1"}
    assert published_result("otam", recipe, split="ssv2-otam", n_way=5, n_shot=1)["same_backbone"]


@pytest.mark.parametrize(
    ("recipe", "kind"),
    [
        (CLIP, "CLIP ViT-B/16"),
        ({**CLIP, "backbone": "ViT-B-16-quickgelu"}, "CLIP ViT-B/16"),
        ({**CLIP, "backbone": "RN50"}, "CLIP RN50"),
        ({"library": "timm", "backbone": "resnet50", "pretrained": "a1_in1k"}, "RN50"),
        ({**CLIP, "pretrained": "random@0"}, ""),
        ({}, ""),
    ],
)
def test_backbones_are_named_as_papers_do(recipe, kind):
    assert backbone_kind(recipe) == kind
