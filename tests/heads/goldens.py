"""Parity vectors made by the official code: reading them, and the registry of how each method is run on one.

A method is a function of a `Golden` and the imported head that returns a `Comparison`; everything about a case comes
from the file's own metadata. Rooms keep theirs in `goldens_NAME.py` (imported at the bottom).
"""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from fsar.heads import EpisodeBatch, Head, Targets
from fsar.heads.checkpoints.official import import_official, official_format
from fsar.heads.checkpoints.official.formats import matches, our_name

VALUE_TOLERANCE = 2e-5
"""|a - b| <= 2e-5 * max(1, |b|): the official float32 results are themselves that far from float64 ones."""
GRADIENT_TOLERANCE = 1e-4
"""Of the largest entry of the gradient."""
NOISE_TOLERANCE = 1e-5
"""Gradients that are zero in exact arithmetic stay below this share of the largest gradient of the case."""

GRADIENT_PREFIXES = ("outputs.grad.", "outputs_grad.", "grads.")
INPUT_GRADIENT = re.compile(
    r"(?:outputs\.grad_|outputs\.grad\.inputs\.|outputs_grad\.inputs\.|grads\.inputs\.)([\w.]+)"
)
INPUTS = "inputs."
MUST_COMPARE = re.compile(r"(logits|loss)(?!.*act\.)")
"""Outputs whose name begins like this may not be passed over; other intermediates may."""


@dataclass
class Golden:
    """One parity vector; names without their prefixes."""

    metadata: dict[str, Any]
    inputs: dict[str, Tensor] = field(default_factory=dict)
    state: dict[str, Tensor] = field(default_factory=dict)
    outputs: dict[str, Tensor] = field(default_factory=dict)
    trace: dict[str, Tensor] = field(default_factory=dict)
    input_grads: dict[str, Tensor] = field(default_factory=dict)
    grads: dict[str, Tensor] = field(default_factory=dict)
    gradnorms: dict[str, Tensor] = field(default_factory=dict)


@dataclass
class Comparison:
    """What our head computes on a golden's inputs, under the official names."""

    values: dict[str, Tensor]
    """Official output name (without "outputs.") -> our value."""
    total: Tensor | None = None
    """The official scalar loss that its gradients belong to; None if the case has none."""
    inputs: Mapping[str, Tensor] = field(default_factory=dict)
    """Name of an input gradient ("support", "query", ...) -> the leaf tensor."""
    passed_over: tuple[str, ...] = ()
    """Patterns of outputs that our head does not compute under this golden's settings."""
    noise: tuple[str, ...] = ()
    """Patterns of official parameters whose gradient is rounding noise under this golden's settings."""


@dataclass(frozen=True)
class GoldenMethod:
    run: Callable[[Golden, Head], Comparison]
    noise: tuple[str, ...]
    skipped: tuple[str, ...]
    gradient_tolerance: float


METHODS: dict[str, GoldenMethod] = {}


def golden_method(
    name: str,
    *,
    noise: tuple[str, ...] = (),
    skipped: tuple[str, ...] = (),
    gradient_tolerance: float = GRADIENT_TOLERANCE,
) -> Callable[..., Any]:
    """Register a run function for the folder `name`.

    `noise`: patterns of official parameters whose gradient is rounding noise. `skipped`: patterns of outputs named
    logits* or loss* that our head deliberately does not compute. `gradient_tolerance`: of a gradient's largest entry.
    """

    def register(run: Callable[[Golden, Head], Comparison]) -> Callable[[Golden, Head], Comparison]:
        METHODS[name] = GoldenMethod(run, noise, skipped, gradient_tolerance)
        return run

    return register


def read_golden(path: Path) -> Golden:
    """Read a parity vector."""
    with safe_open(path, "pt") as file:
        header = file.metadata()
        golden = Golden(json.loads(header["json"] if "json" in header else header["description"]))
        for name in file.keys():  # noqa: SIM118 - not a mapping
            _place(golden, name, file.get_tensor(name))
    return golden


def _place(golden: Golden, name: str, tensor: Tensor) -> None:
    if found := INPUT_GRADIENT.fullmatch(name):
        golden.input_grads[found[1]] = tensor
    elif name.startswith(GRADIENT_PREFIXES):
        prefix = next(prefix for prefix in GRADIENT_PREFIXES if name.startswith(prefix))
        golden.grads[name.removeprefix(prefix)] = tensor
    elif name.startswith("outputs.gradnorm."):
        golden.gradnorms[name.removeprefix("outputs.gradnorm.")] = tensor
    else:
        kind, _, rest = name.partition(".")
        getattr(golden, kind, {})[rest] = tensor


def episode(
    golden: Golden, *, role: str = "frames", text: Tensor | None = None, n_classes: int | None = None
) -> tuple[EpisodeBatch, Targets]:
    """Return the golden's one episode as a batch of one, its features being leaves that want gradients.

    `text` (K, D) or (M, K, D) is the table of all classes; the class rows of the episode are picked from it by the
    class ids that the golden gives per video.
    """
    inputs = golden.inputs
    support, query = (inputs[name].clone().requires_grad_() for name in ("support", "query"))
    labels = inputs["support_labels"]
    ids = class_ids(golden, "support")
    rows = None
    if text is not None:
        table = text if text.ndim == 3 else text.unsqueeze(0)  # (M, K, D)
        first = [int((labels == label).nonzero()[0]) for label in range(int(golden.metadata["way"]))]
        rows = table[:, ids[first]].transpose(0, 1).unsqueeze(0)  # (1, N, M, D)
    batch = EpisodeBatch(
        support={role: support.unsqueeze(0)},
        support_labels=labels.unsqueeze(0),
        query={role: query.unsqueeze(0)},
        n_way=int(golden.metadata["way"]),
        class_text=rows,
    )
    query_ids = class_ids(golden, "query")
    targets = Targets(
        query_labels=inputs["query_labels"].unsqueeze(0),
        support_class_ids=None if ids is None else ids.unsqueeze(0),
        query_class_ids=None if query_ids is None else query_ids.unsqueeze(0),
    )
    # The leaves are found again by `leaves`.
    golden.inputs["support.leaf"], golden.inputs["query.leaf"] = support, query
    return batch, targets


def leaves(golden: Golden) -> dict[str, Tensor]:
    """Return the leaf tensors that `episode` made."""
    return {"support": golden.inputs["support.leaf"], "query": golden.inputs["query.leaf"]}


def class_ids(golden: Golden, part: str) -> Any:
    """Return the class ids of support or query videos, or None if the golden has none."""
    names = (f"real_{part}_labels", f"{part}_class_ids", f"{part}_real_labels")
    return next((golden.inputs[name] for name in names if name in golden.inputs), None)


def without_dropout(head: Head) -> Head:
    """Switch every dropout off for good, so that a head in training mode is deterministic."""
    for module in head.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return head


def check(method: str, path: Path) -> None:
    """Run one parity vector and compare everything that it holds."""
    golden = read_golden(path)
    rules = METHODS[method]
    head = without_dropout(import_official(method, golden.state, golden.metadata))
    head.train(golden.metadata.get("mode") == "train")
    comparison = rules.run(golden, head)
    passed_over = {
        name
        for name in golden.outputs
        if MUST_COMPARE.match(name)
        and name not in comparison.values
        and not matches(name, (*rules.skipped, *comparison.passed_over))
    }
    assert not passed_over, f"not compared: {sorted(passed_over)}"
    for name in comparison.values.keys() & golden.outputs.keys():
        assert_close(name, comparison.values[name], golden.outputs[name])
    if golden.grads or golden.gradnorms or golden.input_grads:
        _check_gradients(method, golden, head, comparison)


def _check_gradients(method: str, golden: Golden, head: Head, comparison: Comparison) -> None:
    assert comparison.total is not None, "the file holds gradients, but the run gives no loss"
    official, rules = official_format(method), METHODS[method]
    noise, tolerance = (*rules.noise, *comparison.noise), rules.gradient_tolerance
    of_inputs = {name.removeprefix(INPUTS) for name in golden.gradnorms if name.startswith(INPUTS)}
    of_parameters = {name for name in golden.grads.keys() | golden.gradnorms.keys() if not name.startswith(INPUTS)}
    names = {name: our_name(official, name) for name in of_parameters}
    parameters = dict(head.named_parameters())
    wanted = {name: parameters[ours] for name, ours in names.items() if ours is not None}
    inputs = {name: comparison.inputs[name] for name in golden.input_grads.keys() | of_inputs}
    results = torch.autograd.grad(comparison.total, [*wanted.values(), *inputs.values()], allow_unused=True)
    filled = [
        torch.zeros_like(p) if g is None else g
        for p, g in zip((*wanted.values(), *inputs.values()), results, strict=True)
    ]
    ours = dict(zip((*wanted, *(f"{INPUTS}{name}" for name in inputs)), filled, strict=True))
    largest = max(float(g.abs().max()) for g in ours.values())
    for name, tensor in ours.items():
        if matches(name, noise):
            assert float(tensor.abs().max()) <= NOISE_TOLERANCE * largest, f"gradient of {name} should be noise"
        elif name in golden.gradnorms:
            reference = golden.gradnorms[name]
            error = float((tensor.norm() - reference).abs())
            assert error <= tolerance * float(reference), f"gradient norm of {name}: off by {error:.2e}"
        else:
            reference = golden.input_grads[name.removeprefix(INPUTS)] if name.startswith(INPUTS) else golden.grads[name]
            error = float((tensor.view_as(reference) - reference).abs().max())
            bound = tolerance * float(reference.abs().max())
            assert error <= bound, f"gradient of {name}: off by {error:.2e}, allowed {bound:.2e}"


def assert_close(name: str, ours: Tensor, reference: Tensor) -> None:
    """Fail, naming the output and the largest excess, unless |a - b| <= 2e-5 max(1, |b|)."""
    assert ours.numel() == reference.numel(), f"{name}: {tuple(ours.shape)} against {tuple(reference.shape)}"
    ours, reference = ours.detach().reshape(reference.shape).double(), reference.double()
    excess = (ours - reference).abs() / reference.abs().clamp(min=1.0)
    assert float(excess.max()) <= VALUE_TOLERANCE, f"{name}: off by {float(excess.max()):.2e}"


from tests.heads import goldens_matching, goldens_metric, goldens_side, goldens_spatial, goldens_vision_language  # noqa: E402, F401 - register their methods
