"""Whole training steps from pixels against the official loops: features, losses, gradients, weights, statistics."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from fsar.heads import EpisodeBatch
from fsar.heads.batch import PairBatch
from fsar.heads.finetune.groups import finetune_groups, finetune_optimizer
from fsar.heads.finetune.model import PIXELS, Embed, EndToEnd, on_features
from fsar.heads.finetune.step import TaskReport, train_step
from fsar.heads.training.step import StepMonitor
from tests.conftest import GOLDENS
from tests.heads.finetune.official_steps import FAMILY, OfficialSteps
from tests.heads.goldens_spatial import HCL_TERMS

CASES = sorted(GOLDENS.glob("finetune_*/*.safetensors"))
IDS = [f"{path.parent.name.removeprefix('finetune_')}/{path.stem}" for path in CASES]
every_case = pytest.mark.parametrize("path", CASES, ids=IDS)
pytestmark = pytest.mark.skipif(not CASES, reason=f"no vectors of whole steps at {GOLDENS} (set FSAR_GOLDENS)")

VALUE, GRADIENT, NOISE, STEP = 2e-5, 1e-4, 1e-6, 0.02
"""Of values; of a gradient's largest entry; of the case's largest gradient; of a step of the learning rate."""


def close(name: str, ours: Tensor, theirs: Tensor, tolerance: float) -> None:
    assert ours.numel() == theirs.numel(), f"{name}: {tuple(ours.shape)} against {tuple(theirs.shape)}"
    error = float((ours.detach().double().reshape(theirs.shape) - theirs.double()).abs().max())
    assert error <= tolerance, f"{name}: off by {error:.3e}, allowed {tolerance:.3e}"


def close_value(name: str, ours: Tensor, theirs: Tensor) -> None:
    close(name, ours, theirs, VALUE * max(1.0, float(theirs.abs().max())))


class Watched:
    """Our training on a file's episodes, with everything that the file holds kept on the way."""

    def __init__(self, steps: OfficialSteps, model: EndToEnd | None = None) -> None:
        self.steps, self.model = steps, model or steps.model()
        self.calls: list[dict[str, Tensor]] = []
        self.grads: list[dict[str, Tensor]] = []
        self.after: list[dict[str, Tensor]] = []
        self.reports: list[TaskReport] = []
        self.norms: list[Tensor] = []
        self.monitor = StepMonitor()
        self.model.tower.register_forward_hook(lambda module, inputs, features: self.calls.append(features))
        self.optimizer = finetune_optimizer(self.model, steps.preset(), steps.tuning())
        self.optimizer.register_step_pre_hook(lambda *_: self.grads.append(self._gradients()))

    def _gradients(self) -> dict[str, Tensor]:
        return {n: torch.zeros_like(p) if p.grad is None else p.grad.clone() for n, p in self.model.named_parameters()}

    def run(self, **options) -> "Watched":
        number = 0
        for step in range(2):
            tasks = self.steps.tasks(step)

            def with_inputs(tasks=tasks, start=number):
                for place, task in enumerate(tasks):
                    self.steps.with_official_inputs(self.model.head, start + place)
                    yield task

            reports = train_step(
                self.model, with_inputs(), self.optimizer, self.steps.preset(), self.steps.tuning(),
                step=step, monitor=self.monitor, **options,
            )  # fmt: skip
            number += len(tasks)
            self.reports += reports
            self.norms.append(self.monitor.gradient_norm)
            self.after.append({name: tensor.clone() for name, tensor in self.model.state_dict().items()})
        return self


@every_case
def test_two_steps_from_pixels_are_the_official_ones(path: Path) -> None:
    check_all(OfficialSteps(path))


def check_all(steps: OfficialSteps) -> None:
    watched = Watched(steps).run()
    check_learning_rates(watched)
    check_features(watched)
    check_tasks(watched)
    check_gradients(watched)
    check_parameters(watched)
    check_evaluation(watched)


def check_learning_rates(watched: Watched) -> None:
    rates = {round(group["lr"], 15) for group in watched.optimizer.param_groups}
    assert rates <= {round(rate, 15) for rate in watched.steps.metadata["lr_of_step"][-1]}


def check_features(watched: Watched) -> None:
    """The files hold the two calls of the first task, sometimes of all: supports first, then queries."""
    steps = watched.steps
    compared = 0
    for number in range(len(steps.metadata["episode_of_task"])):
        for place, part in enumerate(("support", "query")):
            for name, theirs in steps.below(f"task{number}.{part}_features").items():
                call = watched.calls[2 * number + place]
                role = {".l3": "tokens_early", ".l7": "tokens_middle", ".l11": "tokens_late"}.get(name)
                ours = call[role] if role else next(iter(call.values()))
                close_value(f"task{number}.{part}_features{name}", ours, theirs)
                compared += 1
    if steps.method == "hcl":
        for number, call in enumerate(watched.calls[:2]):
            ours = call["map"].mean((-2, -1))
            close_value("features_mean", ours, steps.tensors[f"task{number}.features_mean"])
            compared += 1
    assert compared >= 2


def check_tasks(watched: Watched) -> None:
    for number, report in enumerate(watched.reports):
        theirs = watched.steps.below(f"task{number}.")
        close_value(f"task{number}.loss", report.scaled, theirs["loss"])
        for name, ours in values(watched.steps, report).items():
            close_value(f"task{number}.{name}", ours, theirs[name])
        if "grad_norm_before_clip" in theirs:
            norm, wanted = watched.norms[number], theirs["grad_norm_before_clip"]
            close("norm before clipping", norm, wanted, 3e-4 * float(wanted))


def values(steps: OfficialSteps, report: TaskReport) -> dict[str, Tensor]:
    """Our values under the official names."""
    if steps.method == "hcl":
        return {
            f"unweighted.{theirs}": report.losses[ours]
            for ours, theirs in HCL_TERMS.items()
            if ours in report.losses and theirs != "ce"
        }
    if steps.method == "emp_net":
        return {name: value for name, value in report.outputs.items() if name.endswith("_logits")}
    if steps.method == "strm":
        return {"logits": report.outputs["matching"], "logits_post_pat": report.outputs["similarity"]}
    found = {"logits": report.outputs["logits"]}
    if "class_logits" in report.outputs:
        found["class_logits"] = report.outputs["class_logits"]
    if "auxiliary" in report.losses:
        found["aux_dists"] = report.losses["auxiliary"]
    return found


def check_gradients(watched: Watched) -> None:
    steps, compared = watched.steps, 0
    for step, ours in enumerate(watched.grads, 1):
        theirs = steps.below(f"grad{step}.")
        largest = max((float(tensor.abs().max()) for tensor in theirs.values()), default=0.0)
        for name, wanted in theirs.items():
            own = steps.our_names(name)
            if own is None:
                continue
            drift = steps.metadata["drift"].get(f"grad{step}", {}).get(name, 0.0)
            tolerance = GRADIENT * float(wanted.abs().max()) + NOISE * largest + 3 * drift
            close(f"grad{step}.{name}", ours[own], wanted, tolerance)
            compared += 1
    assert compared > 10


def check_parameters(watched: Watched) -> None:
    steps, compared = watched.steps, 0
    fragile = steps.below("fragile.")
    for step, ours in enumerate(watched.after, 1):
        rate = max(max(rates) for rates in steps.metadata["lr_of_step"][:step])
        for name, wanted in steps.below(f"after{step}.").items():
            own = steps.our_names(name)
            if own is None or own not in ours:
                continue
            value = ours[own].reshape(wanted.shape)
            if name in fragile:
                keep = fragile[name] == 0
                value, wanted = value[keep], wanted[keep]
            if wanted.numel():
                largest = max(1.0, float(wanted.abs().max()))
                # Statistics are values, not steps of a rate.
                tolerance = VALUE * largest if "running" in name else STEP * rate * step + 2.4e-7 * largest
                close(f"after{step}.{name}", value, wanted, tolerance)
                compared += 1
    assert compared > 10


def check_evaluation(watched: Watched) -> None:
    steps, model = watched.steps, watched.model
    theirs, precise = steps.below("eval."), steps.below("eval.f64.")
    model.eval()
    for name, ours in evaluated(steps, model).items():
        if name == "class_logits" and name not in theirs:  # some files hold none in evaluation
            continue
        wanted = theirs[name]
        drift = float((wanted.double() - precise[name].double()).abs().max())
        close(f"eval.{name}", ours, wanted, VALUE * max(1.0, float(wanted.abs().max())) + 20 * drift)


@torch.no_grad()
def evaluated(steps: OfficialSteps, model: EndToEnd) -> dict[str, Tensor]:
    """Our values for the first episode in evaluation mode, with the test texts."""
    task = steps.task(0, "test")
    if isinstance(task, PairBatch):
        return values(steps, TaskReport(model.losses(task)[0]))
    steps.with_official_inputs(model.head, 0, "test")
    outputs = model.head.outputs(on_features(task[0], model.tower.embed))
    return values(steps, TaskReport({}, outputs))


FAMILY_CASES = [path for path in CASES if path.parent.name.removeprefix("finetune_") in FAMILY]


@pytest.mark.parametrize("path", FAMILY_CASES, ids=[f"{p.parent.name}/{p.stem}" for p in FAMILY_CASES])
def test_parameters_decay_as_their_official_names_say(path: Path) -> None:
    """The first batch norm of a ResNet, those of its shortcuts and CLIP's layer norms decay; the others do not."""
    steps = OfficialSteps(path)
    model = steps.model()
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    ours = {
        names[id(parameter)]: group["weight_decay"]
        for group in finetune_groups(model, steps.preset(), steps.tuning())
        for parameter in group["params"]
    }
    theirs = {
        own: group["weight_decay"]
        for group in steps.metadata["optimizer"]["groups"]
        for name in group["names"]
        if (own := steps.our_names(name)) is not None and own in names.values()
    }
    assert {name: theirs[name] for name in ours} == ours
    assert set(theirs) - set(ours) <= {n for n, p in model.named_parameters() if not p.requires_grad}


def joint_call(batch: EpisodeBatch, embed: Embed) -> EpisodeBatch:
    n_support = batch.support_labels.shape[1]
    features = embed([torch.cat((batch.support[PIXELS], batch.query[PIXELS]), 1)])[0]["frames"]
    return replace(batch, support={"frames": features[:, :n_support]}, query={"frames": features[:, n_support:]})


def test_the_checks_see_a_joint_call_of_the_backbone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fsar.heads.finetune.model.on_features", joint_call)
    watched = Watched(OfficialSteps(case("resnet_w5s1_T4"))).run()
    with pytest.raises(AssertionError):
        check_tasks(watched)


MISTAKES = {
    "frozen statistics": ("otam/resnet_w5s1_T4", {"batch_norm": "eval"}),
    "decay by kind of module": ("clip_fsar/vit_w3s2_T4_merge", {"compat": "fixed"}),
    "a full first step": ("trx/w3s2_T4_ts2_milestone", {"short_first_step": False}),
    "one learning rate": ("hcl/b2_T8_lr_tenth", {"backbone_rate": 1.0}),
    "another divisor": ("hyrsm/1shot_w5s1_T4_released_lr", {"divisor": 4.0}),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_the_checks_see_a_wrong_setting(mistake: str, monkeypatch: pytest.MonkeyPatch) -> None:
    name, changes = MISTAKES[mistake]
    steps = OfficialSteps(case(name))
    wrong = replace(steps.tuning(), **changes)
    monkeypatch.setattr(OfficialSteps, "tuning", lambda self: wrong)
    with pytest.raises((AssertionError, IndexError)):
        check_all(steps)


def case(name: str) -> Path:
    return next(path for path in CASES if f"{path.parent.name}/{path.stem}".endswith(name))
