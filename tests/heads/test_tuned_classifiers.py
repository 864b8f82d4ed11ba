"""Classifiers of an episode against the numbers of their public code: Baseline, TSL, SimpleShot, BD-CSPN."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from fsar.heads import EpisodeBatch, create_head
from fsar.heads.methods.tuned_classifiers import TSL, Baseline
from tests.conftest import GOLDENS
from tests.heads.goldens import Golden, assert_close, read_golden

UNPORTED = {"Finetune", "TIM", "LaplacianShot"}
"""Classifiers of easyfsl that bring nothing over BD-CSPN at the field's one query a class, see docs/heads.md."""


def files(folder: str) -> list[Path]:
    found = sorted(GOLDENS.glob(f"{folder}/*.safetensors"))
    return found or [pytest.param(None, marks=pytest.mark.skip(reason=f"no parity vectors at {GOLDENS}"))]


def name_of(path: object) -> str:
    return path.stem if isinstance(path, Path) else "none"


def batch_of(golden: Golden) -> EpisodeBatch:
    """Return the golden's episode; a vector stands for a video of one frame."""
    support, query = (golden.inputs[name] for name in ("support", "query"))
    if support.ndim == 2:
        support, query = support.unsqueeze(1), query.unsqueeze(1)
    labels = golden.inputs["support_labels"]
    return EpisodeBatch({"frames": support[None]}, labels[None], {"frames": query[None]}, golden.metadata["way"])


@pytest.mark.shared
@pytest.mark.parametrize("path", files("baseline"), ids=name_of)
def test_baseline_ends_where_the_official_code_ends(path: Path) -> None:
    golden = read_golden(path)
    plus = golden.metadata["options"]["loss_type"] == "support"
    head = create_head("baseline-plus" if plus else "baseline", compat="official")
    assert isinstance(head, Baseline)
    batch = batch_of(golden)
    support, query = batch.support["frames"][:, :, 0], batch.query["frames"][:, :, 0]
    given = torch.cat((golden.state["classifier.weight"], golden.state["classifier.bias"][:, None]), -1)[None]
    start = head.first_weights(support, batch, torch.Generator()) if plus else given
    weight, bias = head.adapt(support, batch.support_labels, start, golden.inputs["permutations"])
    assert_close("final.classifier.weight", weight, golden.outputs["final.classifier.weight"])
    assert_close("final.classifier.bias", bias, golden.outputs["final.classifier.bias"])
    assert_close("logits", head.answer(query, weight, bias), golden.outputs["logits"])


@pytest.mark.shared
@pytest.mark.parametrize("path", files("tsl"), ids=name_of)
def test_tsl_ends_where_the_official_code_ends(path: Path) -> None:
    golden = read_golden(path)
    options = golden.metadata["options"]
    head = create_head("tsl", n_steps=options["nepoch"], lr=options["lr"])
    assert isinstance(head, TSL)
    batch = batch_of(golden)
    start = torch.cat((golden.state["fc.weight"], golden.state["fc.bias"][:, None]), -1)[None]
    weight, bias = head.adapt(batch.support["frames"], batch.support_labels, start)
    assert_close("final.fc.weight", weight, golden.outputs["final.fc.weight"])
    assert_close("logits", head.probabilities(batch.query["frames"], weight, bias), golden.outputs["logits"])


@pytest.mark.shared
@pytest.mark.parametrize("path", files("simpleshot"), ids=name_of)
def test_simple_classifiers_give_the_numbers_of_easyfsl(path: Path) -> None:
    golden = read_golden(path)
    options = golden.metadata["options"]
    if options["classifier"] in UNPORTED:
        pytest.skip(f"{options['classifier']} is not a head here")
    centre = golden.inputs.get("centre", torch.zeros(golden.metadata["D"]))
    for part in ("support", "query"):
        golden.inputs[part] = golden.inputs[part] - centre
    normalise = options["feature_normalization"] is not None
    head = create_head("proto" if options["classifier"] == "SimpleShot" else "bd-cspn", normalise=normalise)
    outputs = head.outputs(batch_of(golden))
    scale = head.log_scale.exp() if options["classifier"] == "SimpleShot" else 1.0
    assert_close("logits", outputs["logits"] / scale, golden.outputs["logits"])
    if "prototypes" in outputs:
        assert_close("prototypes_after", outputs["prototypes"], golden.outputs["prototypes_after"])


@pytest.mark.parametrize("plus", [False, True])
def test_baseline_takes_the_steps_of_torch(plus: bool) -> None:
    """The closed form against torch's own SGD on a linear layer."""
    generator = torch.Generator().manual_seed(0)
    support, labels = torch.randn(1, 6, 7, generator=generator), torch.tensor([[0, 0, 1, 1, 2, 2]])
    head = create_head("baseline-plus" if plus else "baseline", n_rounds=3, compat="official")
    assert isinstance(head, Baseline)
    start = torch.randn(1, 3, 8, generator=generator)
    orders = torch.stack([torch.randperm(6, generator=generator) for _ in range(3)])
    weight, bias = head.adapt(support, labels, start, orders)

    layer = torch.nn.Linear(7, 3)
    with torch.no_grad():
        layer.weight.copy_(start[0, :, :-1])
        layer.bias.copy_(start[0, :, -1])
    optimizer = torch.optim.SGD(layer.parameters(), 0.01, 0.9, 0.9, 0.001)
    for order in orders:
        for rows in order.split(4):
            optimizer.zero_grad()
            F.cross_entropy(layer(head.prepared(support)[0, rows]), labels[0, rows]).backward()
            optimizer.step()
    torch.testing.assert_close(weight[0], layer.weight.detach())
    torch.testing.assert_close(bias[0], layer.bias.detach())


def test_proto_takes_the_mean_of_its_training_videos_off() -> None:
    head = create_head("proto", dim=4, centre="train").train()
    batches = [torch.randn(2, 3, 5, 4, generator=torch.Generator().manual_seed(seed)) + 7 for seed in range(3)]
    for frames in batches:
        head.embed({"frames": frames})
    mean = torch.cat(batches).mean((0, 1, 2))
    torch.testing.assert_close(head.state_dict()["centre.mean"], mean)
    head.eval()
    video = head.embed({"frames": batches[0]})["video"]
    torch.testing.assert_close(video, batches[0].mean(2) - mean)
