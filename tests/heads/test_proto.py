import torch

from fsar.heads.batch import EpisodeBatch, Targets
from fsar.heads.head import create_head


def episode() -> EpisodeBatch:
    """Class 0 lies along the first axis, class 1 along the second; queries are (3, 0) and (1, 2)."""
    support = torch.tensor([[[2.0, 0.0]], [[0.0, 1.0]], [[4.0, 0.0]]])[None]
    query = torch.tensor([[[3.0, 0.0]], [[1.0, 2.0]]])[None]
    return EpisodeBatch({"frames": support}, torch.tensor([[0, 1, 0]]), {"frames": query}, 2)


def test_cosine_prototypes_by_hand():
    logits = create_head("proto")(episode())
    expected = 10 * torch.tensor([[[1.0, 0.0], [5**-0.5, 2 * 5**-0.5]]])
    torch.testing.assert_close(logits, expected)


def test_euclidean_prototypes_by_hand():
    logits = create_head("proto", metric="euclidean")(episode())
    expected = -10 / 2 * torch.tensor([[[0.0, 10.0], [8.0, 2.0]]])
    torch.testing.assert_close(logits, expected)


def test_tsn_by_hand():
    cosine = create_head("tsn")(episode())
    torch.testing.assert_close(cosine[0, 0], torch.tensor([(6 / 6.01 + 12 / 12.01) / 2, 0.0]))
    euclidean = create_head("tsn", metric="euclidean")(episode())
    torch.testing.assert_close(euclidean, torch.tensor([[[0.0, -10.0], [-8.0, -2.0]]]))


def test_the_scale_learns():
    head = create_head("proto")
    batch = episode()
    loss = head.loss(batch, head.outputs(batch), Targets(torch.tensor([[0, 1]])))["total"]
    loss.backward()
    assert head.log_scale.grad < 0  # the answers are right: a sharper softmax is better
