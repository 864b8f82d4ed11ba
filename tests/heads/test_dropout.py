"""The cheap dropout has the statistics of the usual one."""

import pytest
import torch
from torch import nn

from fsar.heads.layers.dropout import Dropout, with_cheap_dropout


@pytest.mark.parametrize("rate", [0.05, 0.2, 0.5])
def test_rate_and_mean_hold_for_every_one_of_the_four_draws_of_a_word(rate):
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        y = Dropout(rate)(torch.ones(400_000))
    for share in ((y[i::4] == 0).float().mean() for i in range(4)):
        assert abs(float(share) - rate) < 0.005
    assert abs(float(y.mean()) - 1) < 0.01
    assert y.unique().numel() == 2


def test_draws_follow_the_generator_and_gradients_the_mask():
    x = torch.ones(7, 3, requires_grad=True)
    results = []
    for _ in range(2):
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(3)
            results.append(Dropout(0.5)(x))
    assert torch.equal(*results)
    results[0].sum().backward()
    assert torch.equal(x.grad, results[0].detach())


def test_nothing_is_dropped_in_evaluation_or_at_rate_zero_and_all_at_one():
    x = torch.ones(5)
    assert Dropout(0.5).eval()(x) is x
    assert Dropout(0.0)(x) is x
    assert not Dropout(1.0)(x).any()


def test_layers_are_replaced_in_place_with_their_rates():
    module = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.3), nn.Sequential(nn.Dropout(0.1)))
    with_cheap_dropout(module)
    assert [(type(m), m.p) for m in module.modules() if isinstance(m, nn.Dropout)] == [(Dropout, 0.3), (Dropout, 0.1)]
