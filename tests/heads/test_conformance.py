"""What every registered head must do, whatever it computes. Each runs on the tiny cases of `cases.py`."""

import copy
from dataclasses import replace

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from fsar.heads import EpisodeBatch, Features, Head, TableHead, TextTableHead, create_head, list_heads
from fsar.heads.checkpoints.official.formats import matches
from fsar.heads.evaluation.cost import count_flops
from fsar.heads.evaluation.evaluate import embed_both
from tests.heads.cases import CASES, make_batch, make_head, training_loss

NAMES = sorted(CASES)
TOLERANCE = {"rtol": 1e-4, "atol": 2e-5}

pytestmark = pytest.mark.filterwarnings("error")


def logits(name: str, batch: EpisodeBatch, head: Head | None = None, n_frames: int = 8) -> Tensor:
    with torch.no_grad():
        return (head or make_head(name, n_frames))(batch)


def each(features: Features, pick) -> Features:
    return {role: pick(tensor) for role, tensor in features.items()}


def every_parameter(value, seen=None):
    """Yield the parameters and tensors in an object, going through plain lists and dicts, where modules hide."""
    seen = set() if seen is None else seen
    if id(value) in seen:
        return
    seen.add(id(value))
    if isinstance(value, nn.Parameter):
        yield value
    elif isinstance(value, nn.Module):
        yield from every_parameter(vars(value), seen)
    elif isinstance(value, dict):
        for item in list(value.values()):
            yield from every_parameter(item, seen)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from every_parameter(item, seen)


def test_every_head_has_a_case():
    without = set(list_heads()) - {name.partition(":")[0] for name in NAMES}
    assert not without, f"add tiny options for {sorted(without)} to tests/heads/cases_NAME.py"


@pytest.mark.parametrize("name", NAMES)
def test_logits_have_one_column_per_class(name):
    assert logits(name, make_batch(name)).shape == (2, 4, 3)


@pytest.mark.parametrize("name", NAMES)
def test_queries_do_not_see_each_other(name):
    head = make_head(name)
    if not head.inductive:
        pytest.skip("declared transductive")
    batch = make_batch(name)
    alone = [
        logits(name, replace(batch, query=each(batch.query, lambda x, q=q: x[:, q : q + 1])), head) for q in range(4)
    ]
    torch.testing.assert_close(torch.cat(alone, 1), logits(name, batch, head), **TOLERANCE)


@pytest.mark.parametrize("name", NAMES)
def test_support_order_is_irrelevant(name):
    head, batch = make_head(name), make_batch(name)
    order = torch.randperm(batch.support_labels.shape[1], generator=torch.Generator().manual_seed(1))
    shuffled = replace(
        batch, support=each(batch.support, lambda x: x[:, order]), support_labels=batch.support_labels[:, order]
    )
    torch.testing.assert_close(logits(name, shuffled, head), logits(name, batch, head), **TOLERANCE)


@pytest.mark.parametrize("name", NAMES)
def test_relabelling_permutes_columns(name):
    head, batch = make_head(name), make_batch(name)
    new_label = torch.tensor([2, 0, 1])
    renamed = replace(
        batch,
        support_labels=new_label[batch.support_labels],
        class_text=None if batch.class_text is None else batch.class_text[:, new_label.argsort()],
    )
    torch.testing.assert_close(logits(name, renamed, head)[..., new_label], logits(name, batch, head), **TOLERANCE)


@pytest.mark.parametrize("name", NAMES)
def test_a_batch_of_episodes_equals_single_episodes(name):
    head, batch = make_head(name), make_batch(name, n_episodes=3)

    def only(x: Tensor | None, e: int) -> Tensor | None:
        return None if x is None else x[e : e + 1]

    single = [
        replace(
            batch,
            support=each(batch.support, lambda x, e=e: x[e : e + 1]),
            query=each(batch.query, lambda x, e=e: x[e : e + 1]),
            support_labels=batch.support_labels[e : e + 1],
            class_text=only(batch.class_text, e),
            unlabelled=None if batch.unlabelled is None else each(batch.unlabelled, lambda x, e=e: x[e : e + 1]),
        )
        for e in range(3)
    ]
    alone = torch.cat([logits(name, one, head) for one in single])
    torch.testing.assert_close(alone, logits(name, batch, head), **TOLERANCE)


@pytest.mark.parametrize("name", NAMES)
def test_equal_and_unequal_shots_are_taken(name):
    batch = make_batch(name, shots=(1, 1, 1))
    assert logits(name, batch).isfinite().all()
    assert logits(name, make_batch(name, shots=(1, 4, 2))).isfinite().all()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("n_frames", [4, 11])
def test_other_numbers_of_frames_work(name, n_frames):
    result = logits(name, make_batch(name, n_frames=n_frames), n_frames=n_frames)
    assert result.shape == (2, 4, 3)
    assert result.isfinite().all()


@pytest.mark.parametrize("name", NAMES)
def test_state_dict_holds_the_whole_head(name):
    head, batch = make_head(name), make_batch(name)
    fresh = copy.deepcopy(head)
    with torch.no_grad():
        for parameter in every_parameter(fresh):
            parameter.fill_(0.3)
    fresh.load_state_dict(head.state_dict())
    torch.testing.assert_close(logits(name, batch, fresh), logits(name, batch, head), rtol=0, atol=0)


@pytest.mark.parametrize("name", NAMES)
def test_saved_weights_and_options_are_the_head(name, tmp_path):
    head, batch = make_head(name), make_batch(name)
    safetensors.torch.save_file(head.state_dict(), tmp_path / "head.safetensors")
    again = create_head(name.partition(":")[0], **head.options).eval()
    again.load_state_dict(safetensors.torch.load_file(tmp_path / "head.safetensors"))
    torch.testing.assert_close(logits(name, batch, again), logits(name, batch, head), rtol=0, atol=0)


@pytest.mark.parametrize("name", NAMES)
def test_gradients_reach_every_parameter(name):
    head = make_head(name).train()
    if not list(head.parameters()):
        pytest.skip("has no parameters")
    training_loss(name, head, make_batch(name)).backward()
    dead = {n for n, p in head.named_parameters() if p.grad is None and not matches(n, CASES[name].unused)}
    assert not dead, f"no gradient reaches {sorted(dead)}"
    wrong = {n for n, p in head.named_parameters() if p.grad is not None and not p.grad.isfinite().all()}
    assert not wrong, f"gradients of {sorted(wrong)} are not finite"
    alive = {n for n, p in head.named_parameters() if p.grad is not None and matches(n, CASES[name].unused)}
    assert not alive, f"declared unused, but a gradient reaches {sorted(alive)}"


@pytest.mark.parametrize("name", NAMES)
def test_bfloat16_stays_near_float32(name):
    head, batch = make_head(name), make_batch(name)
    exact = logits(name, batch, head)
    rough = logits(name, batch.to(torch.bfloat16), head.to(torch.bfloat16)).float()
    assert rough.isfinite().all()
    spread = float((exact - exact.mean()).abs().max())
    assert float((rough - exact).abs().max()) <= 0.1 * float(exact.abs().max()) + 0.5 * spread


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("scale", [0.0, 1e-4, 30.0])
def test_extreme_features_stay_finite(name, scale):
    """Zero vectors (blank frames), tiny and large features: finite logits, finite gradients of weights and inputs."""
    head, batch = make_head(name), make_batch(name, scale=scale)
    features = [*batch.support.values(), *batch.query.values()]
    for tensor in features:
        tensor.requires_grad_()
    result = head(batch)
    assert result.isfinite().all()
    result.logsumexp(-1).sum().backward()
    for tensor in features:
        assert tensor.grad is None or tensor.grad.isfinite().all()


def tables_of(head: TextTableHead, batch: EpisodeBatch, side: str) -> dict[str, Features]:
    """Embed the supports or the queries of one episode for both uses, as evaluation does; queries with any text."""
    videos, text = getattr(batch, side), batch.class_text[0]
    labels = batch.support_labels[0] if side == "support" else torch.zeros(4, dtype=torch.long)
    both = embed_both(head, each(videos, lambda x: x[0]), text[labels], text, batch.n_shot)
    return {side: each(table, lambda x: x[None]) for side, table in zip(("support", "query"), both, strict=True)}


@pytest.mark.parametrize("name", [name for name in NAMES if isinstance(make_head(name), TableHead)])
def test_embedding_videos_once_changes_nothing(name):
    head = make_head(name)
    assert isinstance(head, TableHead)
    alone = head.embeds_alone(3)
    batch = make_batch(name, n_episodes=1, shots=(2, 1, 3) if alone else (1, 1, 1))
    batch = replace(batch, unlabelled=None)  # episodes that hold some go through `outputs`
    with torch.no_grad():
        if isinstance(head, TextTableHead):
            support, query = (tables_of(head, batch, side)[side] for side in ("support", "query"))
        else:
            support, query = head.embed(batch.support, batch.support_text), head.embed(batch.query)
        result = head.match(batch.embedded(support, query))["logits"]
    torch.testing.assert_close(result, logits(name, batch, head), **TOLERANCE)


@pytest.mark.parametrize("name", NAMES)
def test_operations_are_counted_and_the_head_is_left_as_it_was(name):
    head, batch = make_head(name), make_batch(name)
    trains = [parameter.requires_grad for parameter in head.parameters()]
    assert count_flops(head, batch)
    assert [parameter.requires_grad for parameter in head.parameters()] == trains
