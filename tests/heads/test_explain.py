"""What every head's evidence must be: of the right shape, summing to what it says, and pointing to what differs."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from fsar.heads import EpisodeBatch, Features, Head, create_head
from fsar.heads.explain import Alignment, Explanation, FrameScores, PatchScores, TupleMatch
from fsar.heads.explain.evidence import within_classes
from fsar.heads.explain.sensitivity import leave_frames_out
from tests.heads.cases import CASES, make_batch, make_head

NAMES = sorted(CASES)
CLOSE = {"rtol": 1e-3, "atol": 1e-4}
RANGE = slice(3, 6)
"""The frames in which the two classes of `pair` differ."""


def explain(name: str, batch: EpisodeBatch) -> Explanation:
    return make_head(name).explain(batch)


@pytest.mark.parametrize("name", NAMES)
def test_evidence_has_the_right_shape(name):
    explanation = explain(name, make_batch(name))
    assert explanation.logits.shape == (2, 4, 3)
    torch.testing.assert_close(explanation.logits, make_head(name)(make_batch(name)).detach(), **CLOSE)
    assert explanation.query_frames().shape == (2, 4, 3, 8)
    for item in explanation.evidence:
        assert item.score.shape == (2, 4, 3)
        assert item.query_frames().shape == (2, 4, 3, 8)
        assert item.query_frames().isfinite().all()
        assert not item.query_frames().requires_grad
        check_own_shape(item)


def check_own_shape(item) -> None:
    if isinstance(item, Alignment):
        assert item.share.shape == item.distance.shape
        assert item.share.shape[2] == item.labels.shape[1]
    elif isinstance(item, TupleMatch):
        n_tuples = len(item.tuples)
        assert item.parts.shape == (2, 4, 3, n_tuples)
        assert item.attention.shape == (2, 4, n_tuples, item.labels.shape[1], n_tuples)
    elif isinstance(item, PatchScores):
        assert item.parts.shape[:4] == (2, 4, 3, 8)
        assert item.parts.ndim == 6
    else:
        assert isinstance(item, FrameScores)


@pytest.mark.parametrize("name", NAMES)
def test_evidence_sums_to_what_it_explains(name):
    explanation = explain(name, make_batch(name))
    torch.testing.assert_close(explanation.combined(), explanation.logits, **CLOSE)
    for item in explanation.evidence:
        if item.exact:
            torch.testing.assert_close(item.query_frames().sum(-1), item.score.float(), **CLOSE)


@pytest.mark.parametrize("name", NAMES)
def test_evidence_can_be_had_in_inference_mode_and_as_json(name):
    import json

    head = make_head(name)
    with torch.inference_mode():
        explanation = head.explain(make_batch(name))
    for item in explanation.summary(1, 2, 0):
        assert json.loads(json.dumps(item, allow_nan=False))["query_frames"]


def pairs(name: str, query_of: int, n_episodes: int = 24) -> EpisodeBatch:
    """Return two classes of one video each that are alike but for the frames in RANGE, and a query of one of them."""
    case = CASES[name]
    generator = torch.Generator().manual_seed(3)

    def features(shape: tuple[int, ...]) -> Tensor:
        common = torch.randn(n_episodes, 1, 8, *shape, generator=generator).repeat(1, 2, *[1] * (1 + len(shape)))
        common[:, :, RANGE] = torch.randn(n_episodes, 2, 1, *shape, generator=generator)  # a look for each class
        return common + 0.02 * torch.randn(common.shape, generator=generator)

    support = {role: features(shape) for role, shape in {**case.roles, **case.extra_roles}.items()}
    query: Features = {
        role: x[:, query_of : query_of + 1] + 0.02 * torch.randn(x[:, :1].shape, generator=generator)
        for role, x in support.items()
    }
    text = None if case.text_dim is None else class_text(support, case.text_dim, case.n_templates)
    labels = torch.tensor([[0, 1]]).expand(n_episodes, -1)
    return EpisodeBatch(support, labels, query, 2, text)


def class_text(support: Features, dim: int, n_templates: int) -> Tensor:
    """Return texts (B, 2, M, D) that lie where the classes' own frames do, if those have the width of the text."""
    look = next(iter(support.values()))[:, :, RANGE].mean(2)  # (B, 2, ...)
    look = look.mean(2) if look.ndim == 4 else look.flatten(2)
    text = look if look.shape[2] == dim else torch.zeros(len(look), 2, dim)
    return text.unsqueeze(2).repeat(1, 1, n_templates, 1)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("own", [0, 1])
def test_evidence_points_to_the_frames_in_which_two_classes_differ(name, own):
    if CASES[name].learned_judge:
        pytest.skip("untrained, it does not know which of two classes a query is like")
    frames = explain(name, pairs(name, own)).contrast()[:, 0, own].mean(0)
    assert int(frames.argmax()) in range(8)[RANGE], frames
    outside = torch.cat((frames[: RANGE.start], frames[RANGE.stop :]))
    assert frames[RANGE].min() > outside.mean(), frames
    assert frames[RANGE].sum() > 0


def test_the_shares_of_a_soft_alignment_count_the_paths_through_each_cell():
    """Every path passes each column once after the first: the shares of one direction sum to one there."""
    head = create_head("clip-fsar", dim=16, hidden=32, single_direction=True).eval()
    (paths, _) = head.explain(make_batch("clip-fsar")).evidence
    assert isinstance(paths, Alignment)
    torch.testing.assert_close(paths.share[..., 1:].sum(-2), torch.ones(2, 4, 3, 7))
    assert (paths.remainder() >= 0).all()  # the entropy of the paths, times the smoothing


def test_attention_of_a_class_sums_to_one():
    batch = make_batch("trx")
    for item in explain("trx", batch).evidence:
        assert isinstance(item, TupleMatch)
        for label in range(3):
            own = (batch.support_labels == label)[:, None, None, :, None]
            torch.testing.assert_close((item.attention * own).sum((-2, -1)), torch.ones(item.attention.shape[:3]))


def test_a_class_that_is_far_worse_than_the_others_still_gets_its_share():
    scores = torch.tensor([[[[0.0, 1.0], [-500.0, -501.0], [900.0, 900.0]]]])  # (B, Q, S, U)
    weights = within_classes(scores, torch.tensor([[0, 1, 2]]), 3)
    torch.testing.assert_close(weights.sum(-1), torch.ones(1, 1, 3), rtol=1e-4, atol=0)
    torch.testing.assert_close(weights[0, 0, 1], torch.tensor([0.7311, 0.2689]), rtol=1e-3, atol=1e-4)


def test_leaving_a_frame_out_of_a_mean_is_what_it_says():
    """For a head that averages frames, the answer without a frame is that for a video without it."""
    batch = make_batch("tsn")
    head = make_head("tsn")
    (scores,) = head.explain(batch).evidence
    shorter = replace(
        batch, query={"frames": torch.cat((batch.query["frames"][:, :, :2], batch.query["frames"][:, :, 3:]), 2)}
    )
    torch.testing.assert_close(scores.query_frames()[..., 2], (head(batch) - head(shorter)).detach(), **CLOSE)


class Foreign(Head):
    """A head that knows nothing of evidence."""

    def outputs(self, batch):
        middle = batch.query["frames"][:, :, 5] @ batch.support["frames"][:, :, 5].transpose(1, 2)
        return {"logits": middle[..., : batch.n_way]}


def test_heads_of_others_are_explained_too():
    batch = make_batch("tsn", shots=(1, 1, 1))
    scores = Foreign().eval().explain(batch).query_frames()
    assert scores[..., 5].abs().min() > 0
    assert scores[..., [0, 1, 2, 3, 4, 6, 7]].abs().max() < 1e-5
    torch.testing.assert_close(scores, leave_frames_out(Foreign(), batch).parts)
