"""How often a head waits for the device: numbers that come back, copies that go there, sizes that numbers decide.

The steps run on torch's device "meta", whose tensors have shapes and no numbers: a look at one (`item`, `tolist`,
`if tensor`, a mask as an index) is an error there. Two more things that a GPU waits for are counted: `nonzero`, and
copies from the CPU that block.
"""

from contextlib import nullcontext
from dataclasses import fields

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from fsar.heads import EpisodeBatch
from fsar.heads.batch import move
from fsar.heads.training.step import training_losses
from tests.heads.cases import CASES, make_batch, make_head, make_pairs, make_targets

WAITS = {
    "hcl": 2,  # pairs of frames that differ, of pairs and of triples: on the CPU alone nobody knows how many
}
"""Head -> waits of a step; the others have none."""


class Waits(TorchDispatchMode):
    """Counts operations that a GPU would wait for."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is torch.ops.aten.nonzero.default:
            self.found.append(str(func))
            return args[0].new_empty((args[0].numel(), args[0].dim()), dtype=torch.int64)  # the most there can be
        result = func(*args, **kwargs)
        if self._is_blocking_copy(tree_leaves((args, kwargs)), tree_leaves(result), kwargs):
            self.found.append(f"{func} from the CPU")
        return result

    @staticmethod
    def _is_blocking_copy(given, results, kwargs):
        from_cpu = any(isinstance(x, Tensor) and x.device.type == "cpu" and x.dim() for x in given)
        to_device = any(isinstance(x, Tensor) and x.device.type == "meta" for x in results)
        return from_cpu and to_device and not kwargs.get("non_blocking")


class Made(TorchFunctionMode):
    """Counts tensors that are made of Python's numbers on the device."""

    def __init__(self, found):
        super().__init__()
        self.found = found

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func in (torch.tensor, torch.as_tensor, torch.asarray) and "meta" in str(kwargs.get("device")):
            self.found.append(f"{func.__name__} on the device")
        if func in (Tensor.__getitem__, Tensor.__setitem__) and isinstance(args[1], list):
            self.found.append("a list as an index")
        return func(*args, **kwargs)


@pytest.fixture(autouse=True)
def meta_is_a_device(monkeypatch):
    """Autocast does not know the device."""
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda *device: False)
    monkeypatch.setattr(torch, "autocast", lambda *arguments, **options: nullcontext())


def on_meta(value):
    """Return targets or pairs on the device."""
    return type(value)(**{field.name: _moved(getattr(value, field.name)) for field in fields(value)})


def _moved(value):
    return value.to("meta") if isinstance(value, Tensor) else move(value, "meta") if isinstance(value, dict) else value


def waits_of(step) -> list[str]:
    with Waits() as waits, Made(waits.found):
        step()
    return waits.found


def steps_of(name: str, batch: EpisodeBatch):
    """Return a step of evaluation and one of training."""
    head, targets = make_head(name).to("meta"), on_meta(make_targets(name, batch))
    episodes, pairs = batch.to("meta"), on_meta(make_pairs(name))

    def evaluate():
        with torch.no_grad():
            head.eval()(episodes)

    def train():
        head.train()
        with_pairs = head.training_unit == "pairs"
        losses, _ = training_losses(head, pairs if with_pairs else episodes, None if with_pairs else targets)
        if losses["total"].requires_grad:
            losses["total"].backward()

    return evaluate, train


def check(name: str, shots: tuple[int, ...]) -> None:
    evaluate, train = steps_of(name, make_batch(name, shots=shots))
    waits_of(evaluate)  # makes tables that are made once
    for step in (train, evaluate):
        found = waits_of(step)
        assert len(found) <= WAITS.get(name.partition(":")[0], 0), found


@pytest.mark.parametrize("name", [name for name in sorted(CASES) if ":" not in name])
def test_a_head_waits_for_the_device_no_more_often_than_it_must(name):
    check(name, (2, 1, 3))


@pytest.mark.slow
@pytest.mark.parametrize("shots", [(2, 2, 2), (2, 1, 3)], ids=["equal shots", "unequal shots"])
@pytest.mark.parametrize("name", [name for name in sorted(CASES) if ":" in name])
def test_a_variant_of_a_head_waits_no_more_often_either(name, shots):
    check(name, shots)


def test_what_waits_is_found():
    on_device, here = torch.ones(3, device="meta"), torch.ones(3)
    assert len(waits_of(lambda: (on_device > 0).nonzero())) == 1
    assert len(waits_of(lambda: here.to("meta"))) == 1
    assert len(waits_of(lambda: on_device[[0, 2]])) == 1
    assert len(waits_of(lambda: torch.tensor([1, 2], device="meta"))) == 1
    assert waits_of(lambda: here.to("meta", non_blocking=True) + 1.5) == []
    for look in (Tensor.item, Tensor.tolist, bool, float, Tensor.cpu, lambda x: x[x > 0]):
        with pytest.raises((RuntimeError, NotImplementedError)):
            waits_of(lambda look=look: look(on_device[:1]))
