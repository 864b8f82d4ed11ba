"""What one training step does to the weights, and what it must not do."""

import copy
import json
import math
from dataclasses import replace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from fsar.device import seeded
from fsar.heads import PairBatch, create_head
from fsar.heads.recipes.presets import Preset
from fsar.heads.training.loop import TrainOptions, train
from fsar.heads.training.optim import make_optimizer
from fsar.heads.training.step import StepMonitor, train_step
from tests.heads.cases import CASES, make_batch, make_head, make_pairs, make_targets

PLAIN = Preset("plain", optimizer="sgd", lr=1.0, episodes_per_step=2, n_episodes=2)


def a_head(**options):
    with seeded(0):
        return create_head("otam", **{"dim": 16, "adapter": "mlp", "dropout": 0.0, **options})


def after_training(folder, preset, **options):
    """Return by how much a training on one batch over and over moves the weights, and the log."""
    head = a_head(**options)
    before = copy.deepcopy(head.state_dict())
    batch = make_batch("otam")
    settings = TrainOptions(preset, log_every=1)
    train(head, lambda step: (batch, make_targets("otam", batch)), None, folder, settings, quiet=True)
    moved = torch.cat([(value - before[name]).flatten() for name, value in head.state_dict().items()])
    return moved, [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_each_step_draws_a_dropout_of_its_own(tmp_path):
    still = replace(PLAIN, lr=1e-30, n_episodes=8)
    _, lines = after_training(tmp_path / "a", still, dropout=0.5)
    losses = [line["loss/total"] for line in lines]
    assert len(losses) == len(set(losses)) == 4
    _, without = after_training(tmp_path / "b", still)
    assert len({line["loss/total"] for line in without}) == 1


def test_a_limit_of_the_gradient_limits_the_step(tmp_path):
    free, _ = after_training(tmp_path / "a", PLAIN)
    limited, _ = after_training(tmp_path / "b", replace(PLAIN, clip_norm=0.01))
    assert float(free.norm()) > 0.05
    assert float(limited.norm()) == pytest.approx(0.01, rel=1e-3)
    torch.testing.assert_close(limited / limited.norm(), free / free.norm(), rtol=1e-3, atol=1e-4)


def test_a_sum_over_episodes_is_their_number_times_the_mean(tmp_path):
    mean, _ = after_training(tmp_path / "a", PLAIN)
    total, _ = after_training(tmp_path / "b", replace(PLAIN, reduction="sum"))
    torch.testing.assert_close(total, 2 * mean)


def test_weight_decay_and_rate_are_those_of_the_recipe(tmp_path):
    head, batch = a_head(), make_batch("otam")
    weight = head.adapter.net[0].weight
    recipe = replace(PLAIN, lr=0.5, weight_decay=0.1)
    expected = weight.detach().clone()
    loss = head.loss(batch, head.outputs(batch), make_targets("otam", batch))["total"]
    (gradient,) = torch.autograd.grad(loss, weight)
    train_step(head, batch, make_targets("otam", batch), make_optimizer(head, recipe))
    torch.testing.assert_close(weight.detach(), expected - 0.5 * (gradient + 0.1 * expected))


class NoWaiting(TorchDispatchMode):
    """Refuse to copy a number from the device."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert func is not torch.ops.aten._local_scalar_dense.default, "a step waits for the device"
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", sorted(CASES))
def test_a_step_never_waits_for_the_device(name):
    head = make_head(name)
    if not list(head.parameters()):
        pytest.skip("has no parameters")
    optimizer = make_optimizer(head, replace(PLAIN, clip_norm=1.0))
    batch = make_batch(name, shots=(2, 2, 2))
    targets = make_targets(name, batch)
    if head.training_unit == "pairs":
        batch, targets = make_pairs(name), None
    monitor = StepMonitor()
    with NoWaiting():
        loss = train_step(head, batch, targets, optimizer, clip_norm=1.0, monitor=monitor)
    assert math.isfinite(loss)
    assert monitor.latest()["loss/total"] == pytest.approx(float(loss))
    assert ("train/accuracy" in monitor.latest()) is not isinstance(batch, PairBatch)


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
def test_weights_stay_as_they_were_before_a_broken_step(optimizer):
    head, batch = a_head(), make_batch("otam")
    targets, monitor = make_targets("otam", batch), StepMonitor()
    trained = make_optimizer(head, Preset("x", optimizer=optimizer, lr=0.1, momentum=0.9, weight_decay=0.1))
    for _ in range(2):
        train_step(head, batch, targets, trained, monitor=monitor)
    assert monitor.broken_step() is None
    before = copy.deepcopy(head.state_dict())
    broken = replace(batch, query={"frames": batch.query["frames"] * math.nan})
    for each in (broken, batch, broken):
        train_step(head, each, targets, trained, monitor=monitor)
    assert monitor.broken_step().step == 2
    assert math.isnan(monitor.broken_step().loss)
    assert all(torch.equal(value, before[name]) for name, value in head.state_dict().items())


def test_a_batch_of_episodes_needs_targets():
    head, batch = a_head(), make_batch("otam")
    with pytest.raises(ValueError, match="needs its targets"):
        train_step(head, batch, None, make_optimizer(head, PLAIN))
