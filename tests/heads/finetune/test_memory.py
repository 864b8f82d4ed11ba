"""What spares memory changes nothing but the order of sums: two passes, checkpointed blocks, half precision."""

import copy

import pytest
import torch
from torch import Tensor

from fsar.errors import InputError
from fsar.heads.finetune.groups import finetune_optimizer
from fsar.heads.finetune.memory import LossScale, checkpoint_blocks
from fsar.heads.finetune.model import EndToEnd
from fsar.heads.finetune.step import Memory, backward, train_step
from fsar.heads.finetune.tuning import Tuning
from fsar.heads.training.step import StepMonitor
from tests.conftest import GOLDENS
from tests.heads.finetune.official_steps import OfficialSteps

pytestmark = pytest.mark.skipif(not GOLDENS.is_dir(), reason=f"no vectors at {GOLDENS} (set FSAR_GOLDENS)")
VIT = "finetune_clip_fsar/vit_w3s2_T4_merge"
RESNET = "finetune_otam/bottleneck_w3s2_T3"
MAPS = "finetune_strm/w5s1_T4_ts2"
PAIRS = "finetune_hcl/b2_T8_lr_tenth"


def steps_of(name: str) -> OfficialSteps:
    return OfficialSteps(GOLDENS / f"{name}.safetensors")


def gradients(steps: OfficialSteps, model: EndToEnd, tuning: Tuning, memory: Memory) -> dict[str, Tensor]:
    model.zero_grad(set_to_none=True)
    backward(model, steps.tasks(0), steps.preset(), tuning, memory=memory)
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("name", [VIT, RESNET, MAPS, PAIRS])
@pytest.mark.parametrize("n_frames", [1, 5, 1000])
def test_two_passes_give_the_gradients_of_one(name: str, n_frames: int) -> None:
    steps = steps_of(name)
    model, tuning = steps.model(), Tuning(batch_norm="eval")
    whole = gradients(steps, model, tuning, Memory())
    cut = gradients(steps, model, tuning, Memory(micro_batch=n_frames))
    assert whole.keys() == cut.keys()
    largest = max(float(grad.abs().max()) for grad in whole.values())
    for parameter, grad in whole.items():
        difference = float((grad - cut[parameter]).abs().max())
        assert difference <= 2e-5 * largest, parameter
        if parameter.startswith("head.") and n_frames >= 1000:
            assert torch.equal(grad, cut[parameter]), parameter


def test_the_last_chunk_is_computed_once() -> None:
    steps = steps_of(VIT)
    model, sizes = steps.model(), []
    model.tower.register_forward_pre_hook(
        lambda module, inputs: sizes.append((len(inputs[0]), torch.is_grad_enabled()))
    )
    gradients(steps, model, Tuning(batch_norm="eval"), Memory(micro_batch=5))
    n_tasks = len(steps.tasks(0))
    forward_only = sum(n for n, with_graph in sizes if not with_graph)
    once = sum(n for n, with_graph in sizes if with_graph)
    batch = steps.tasks(0)[0][0]
    n_support, n_query = (x["pixels"].shape[1] * x["pixels"].shape[2] for x in (batch.support, batch.query))
    assert forward_only == n_tasks * (n_support + n_query - 5)
    assert once == n_tasks * (n_support + n_query)
    assert [n for n, with_graph in sizes if with_graph].count(5) == n_tasks * ((n_support + n_query) // 5)


def test_two_passes_are_refused_where_frames_depend_on_each_other() -> None:
    steps = steps_of(RESNET)
    with pytest.raises(InputError, match=r"batch norm in training mode.*--batch-norm eval"):
        gradients(steps, steps.model(), Tuning(batch_norm="train"), Memory(micro_batch=4))
    model = steps_of(VIT).model()
    model.tower.module.add_module("extra", torch.nn.Dropout(0.1))
    with pytest.raises(InputError, match="chance"):
        gradients(steps_of(VIT), model, Tuning(), Memory(micro_batch=4))


@pytest.mark.parametrize("name", [VIT, RESNET, "finetune_clip_fsar/rn_w3s1_T2_bn_train"])
def test_checkpointed_blocks_are_equal_to_the_bit_and_move_statistics_once(name: str) -> None:
    steps = steps_of(name)
    plain, sparing = steps.model(), steps.model()
    checkpoint_blocks(sparing.tower)
    wanted = gradients(steps, plain, Tuning(), Memory())
    found = gradients(steps, sparing, Tuning(), Memory())
    assert all(torch.equal(grad, found[parameter]) for parameter, grad in wanted.items())
    state = sparing.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in plain.state_dict().items())


def test_checkpointing_keeps_less() -> None:
    """Count what autograd saves in a forward pass of the tower."""
    steps = steps_of(VIT)

    def saved(model: EndToEnd) -> int:
        total = 0

        def pack(tensor: Tensor) -> Tensor:
            nonlocal total
            total += tensor.numel()
            return tensor

        frames = steps.below("episode0.")["support"]
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            model.tower(frames)
        return total

    plain, sparing = steps.model(), steps.model()
    checkpoint_blocks(sparing.tower)
    assert saved(sparing) < 0.4 * saved(plain)


@pytest.mark.parametrize("micro_batch", [None, 4])
def test_bfloat16_leaves_weights_and_gradients_in_float32(micro_batch: int | None) -> None:
    steps = steps_of(VIT)
    model = steps.model()
    exact = gradients(steps, model, Tuning(), Memory())
    rough = gradients(steps, model, Tuning(), Memory(micro_batch, torch.bfloat16))
    assert {grad.dtype for grad in rough.values()} == {torch.float32}
    both = [torch.cat([grad.flatten() for grad in grads.values()]) for grads in (exact, rough)]
    assert float(torch.cosine_similarity(*both, dim=0)) > 0.99
    assert not torch.equal(*both)


def test_a_step_in_float16_goes_the_way_of_one_in_float32() -> None:
    steps, found = steps_of(VIT), []
    for half in (False, True):
        model = steps.model()
        model.loss_scale = LossScale() if half else None
        optimizer = finetune_optimizer(model, steps.preset(), Tuning())
        grads: list[Tensor] = []
        optimizer.register_step_pre_hook(lambda *_, own=grads, m=model: own.extend(
            p.grad.flatten().clone() for p in m.parameters() if p.grad is not None))  # fmt: skip
        memory = Memory(None, torch.float16 if half else None)
        train_step(model, steps.tasks(0), optimizer, steps.preset(), Tuning(), step=0, memory=memory)
        found.append(torch.cat(grads))
    assert found[1].dtype == torch.float32
    assert not torch.equal(*found)
    assert float(torch.cosine_similarity(*found, dim=0)) > 0.99
    torch.testing.assert_close(found[1].norm(), found[0].norm(), rtol=0.02, atol=0)  # the scale is divided out


def test_a_step_that_overflows_in_float16_changes_nothing_but_the_scale() -> None:
    steps = steps_of(VIT)
    model, monitor = steps.model(), StepMonitor()
    model.loss_scale = LossScale(2.0**60)
    before = {name: value.clone() for name, value in model.named_parameters()}
    optimizer = finetune_optimizer(model, steps.preset(), Tuning())

    def step(number: int) -> None:
        memory = Memory(None, torch.float16)
        train_step(model, steps.tasks(number), optimizer, steps.preset(), Tuning(), step=number, memory=memory,
                   monitor=monitor)  # fmt: skip

    step(0)
    assert float(model.loss_scale.scale) == 2.0**59
    assert all(torch.equal(value, before[name]) for name, value in model.named_parameters())
    model.loss_scale.scale.fill_(2.0**10)
    step(1)
    assert monitor.broken_step() is None
    assert any(not torch.equal(value, before[name]) for name, value in model.named_parameters())
    assert (float(model.loss_scale.scale), int(model.loss_scale.n_whole)) == (2.0**10, 1)


def test_a_step_moves_what_trains_and_nothing_else() -> None:
    steps = steps_of(RESNET)
    model = steps.model()
    model.tower.module.layer1.requires_grad_(False)
    before = copy.deepcopy(model.state_dict())
    preset, tuning = steps.preset(), Tuning(batch_norm="eval")
    train_step(model, steps.tasks(0), finetune_optimizer(model, preset, tuning), preset, tuning, step=0)
    moved = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == {name for name, p in model.named_parameters() if p.requires_grad}
