"""Classifiers of an episode against the numbers of their public code: Baseline, TSL, easyfsl's."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from fsar.heads import EpisodeBatch, create_head
from fsar.heads.methods.laplacian_shot import nearest
from fsar.heads.methods.tuned_classifiers import TSL, Baseline
from tests.conftest import GOLDENS
from tests.heads.goldens import Golden, assert_close, read_golden

EASYFSL = {
    "SimpleShot": "proto",
    "Finetune": "tuned-prototypes",
    "BDCSPN": "bd-cspn",
    "TIM": "tim",
    "LaplacianShot": "laplacian-shot",
}
"""The head for each classifier of easyfsl."""
RENAMED = {"fine_tuning_steps": "n_steps", "fine_tuning_lr": "lr"}


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
    centre = golden.inputs.get("centre", torch.zeros(golden.metadata["D"]))
    for part in ("support", "query"):
        golden.inputs[part] = golden.inputs[part] - centre
    name = EASYFSL[options.pop("classifier")]
    ours = {"normalise": options.pop("feature_normalization") is not None}
    ours |= {RENAMED.get(option, option): value for option, value in options.items()}
    head = create_head(name, **ours, **({"compat": "official"} if name == "laplacian-shot" else {}))
    outputs = head.outputs(batch_of(golden))
    scale = head.log_scale.exp() if name == "proto" else 1.0
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


@pytest.mark.parametrize("marginal_weight", [0.0, 1.0, 3.0])
def test_tim_takes_the_steps_of_torch(marginal_weight: float) -> None:
    """The closed form against torch's own gradients and its Adam, for two episodes side by side."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.tensor([[0, 1, 1, 2], [2, 0, 1, 1]])
    support, query = (torch.randn(2, n, 1, 6, generator=generator) for n in (4, 5))
    head = create_head("tim", n_steps=30, lr=0.05, conditional_weight=0.4, marginal_weight=marginal_weight)
    batch = EpisodeBatch({"frames": support}, labels, {"frames": query}, 3)
    for episode, found in enumerate(head.outputs(batch)["prototypes"]):
        known, asked = (F.normalize(videos[episode, :, 0], dim=-1) for videos in (support, query))
        prototypes = torch.stack([known[labels[episode] == label].mean(0) for label in range(3)]).requires_grad_()
        optimizer = torch.optim.Adam([prototypes], lr=0.05)
        for _ in range(30):
            of_known, of_asked = (10 * videos @ F.normalize(prototypes, dim=-1).T for videos in (known, asked))
            shares = of_asked.softmax(-1)
            entropy = torch.special.entr(shares).sum(-1).mean()
            marginal = torch.special.entr(shares.mean(0)).sum()
            loss = F.cross_entropy(of_known, labels[episode]) + 0.4 * entropy - marginal_weight * marginal
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        torch.testing.assert_close(found, prototypes.detach(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["bd-cspn", "laplacian-shot"])
def test_a_single_query_is_not_moved_into_the_middle_of_the_supports(name: str) -> None:
    support = torch.eye(3).view(1, 3, 1, 3)
    for label in range(3):
        query = (support[:, label] + 0.1).unsqueeze(1)
        batch = EpisodeBatch({"frames": support}, torch.tensor([[0, 1, 2]]), {"frames": query}, 3)
        outputs = create_head(name).outputs(batch)
        assert outputs["logits"].argmax(-1).tolist() == [[label]]
        others = [other for other in range(3) if other != label]
        torch.testing.assert_close(outputs["prototypes"][0, others], torch.eye(3)[others])


def test_laplacian_shot_draws_a_query_to_its_neighbours() -> None:
    support = torch.tensor([[1.0, 0.0], [0.0, 1.0]]).view(1, 2, 1, 2)
    query = torch.tensor([[0.6, 0.64], [0.9, 0.4], [0.8, 0.5], [0.1, 1.0]]).view(1, 4, 1, 2)
    batch = EpisodeBatch({"frames": support}, torch.tensor([[0, 1]]), {"frames": query}, 2)
    alone, among = (create_head("laplacian-shot", weight=weight, n_neighbours=2)(batch) for weight in (0.0, 2.0))
    assert alone.argmax(-1).tolist() == [[1, 0, 0, 1]]
    assert among.argmax(-1).tolist() == [[0, 0, 0, 0]]
    torch.testing.assert_close(among.exp().sum(-1), torch.ones(1, 4))


def test_the_neighbours_of_a_video_are_others_even_where_two_are_equal() -> None:
    videos = torch.tensor([[[0.0], [0.0], [0.4], [1.0]]])
    assert nearest(videos, 1)[0, :2].tolist() == [[0, 1, 0, 0], [1, 0, 0, 0]]
    assert nearest(videos, 2)[0, 3].tolist() in ([1, 0, 1, 0], [0, 1, 1, 0])
    assert nearest(videos[:, :1], 3).tolist() == [[[0]]]


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
