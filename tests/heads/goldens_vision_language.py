"""How the parity vectors of CLIP-FSAR, CLIP-MEI, EMP-Net and Task-Adapter++ are run."""

from dataclasses import replace

from torch import Tensor

from fsar.heads import EpisodeBatch, Head, Targets
from fsar.heads.checkpoints.official.settings import DIVISOR
from fsar.heads.methods.clip_mei import ClipMeiHead
from fsar.heads.methods.emp_net.head import LEVELS
from fsar.heads.methods.task_adapter.head import TaskAdapter
from tests.heads.goldens import Comparison, Golden, class_ids, episode, golden_method, leaves


@golden_method("clip_fsar")
def clip_fsar(golden: Golden, head: Head) -> Comparison:
    batch, targets = episode(golden, text=golden.inputs["text"])
    targets = replace(targets, all_class_text=golden.inputs["text_train"].unsqueeze(1))
    outputs = head.outputs(batch)
    values = {"logits": outputs["logits"][0]}
    if "class_logits" in golden.outputs:
        values["class_logits"] = head.class_logits(batch, targets)[0][0]
    losses = head.loss(batch, outputs, targets)
    values["loss_fewshot_ce"] = losses["classification"]
    if head.text_loss_weight:
        values["loss_class_ce"] = losses["text"]
    total = losses["total"] / DIVISOR
    return Comparison({**values, "loss_total": total}, total, leaves(golden))


class Leaking(ClipMeiHead):
    """Starts the tokens of the queries from the texts of their own classes (B, Q, D), as the released code does."""

    query_text: Tensor

    def base_text(self, episodes: EpisodeBatch) -> Tensor:
        return self.query_text.mean(1)


@golden_method("clip_mei")
def clip_mei(golden: Golden, head: Head) -> Comparison:
    assert isinstance(head, ClipMeiHead)
    batch, targets = episode(golden, text=golden.inputs["text"])
    head.__class__ = Leaking
    head.query_text = golden.inputs["text"][class_ids(golden, "query")].unsqueeze(0)
    outputs = head.outputs(batch)
    losses = head.loss(batch, outputs, targets)
    total = losses["total"] / golden.metadata["tasks_per_batch"]
    values = {
        "logits": outputs["logits"][0],
        "qsa_query": outputs["query"][0],
        "qsa_query_token": outputs["query_token"][0],
        "loss_ce_sum": losses["classification"],
        "loss_total": total,
        "aux_dists": losses["auxiliary"],
        "consist_distance": losses["consistency"],
        "text_distance": losses["text"],
        "motion_distance": losses["motion"],
    }
    return Comparison(values, total, leaves(golden))


@golden_method("emp_net")
def emp_net(golden: Golden, head: Head) -> Comparison:
    inputs, way = golden.inputs, int(golden.metadata["way"])
    text = inputs["text"]  # (M, K, D)
    if golden.metadata["template_index"] is not None:
        text = text[golden.metadata["template_index"]].unsqueeze(0)
    labels, ids = inputs["support_labels"], class_ids(golden, "support")
    first = [int((labels == label).nonzero()[0]) for label in range(way)]
    roles = {"tokens_early": "l3", "tokens_middle": "l7", "tokens_late": "l11"}
    support, query = (
        {role: inputs[f"{part}.{level}"].unsqueeze(0) for role, level in roles.items()} for part in ("support", "query")
    )
    class_text = text[:, ids[first]].transpose(0, 1).unsqueeze(0)
    batch = EpisodeBatch(support, labels.unsqueeze(0), query, way, class_text)
    head.compat, head.overlooked_text = "official", lambda: text[:, 0].mean(0)
    outputs = head.outputs(batch)
    losses = head.loss(batch, outputs, Targets(inputs["query_labels"].unsqueeze(0)))
    values = {name: value[0] for name, value in outputs.items() if name.endswith("logits")}
    values |= {f"{level}_cum_dist": outputs[f"{level}_cost"][0] for level in LEVELS}
    values |= {f"ce_{name}": value for name, value in losses.items() if name != "total"}
    return Comparison({**values, "loss": losses["total"]}, losses["total"])


@golden_method("task_adapter_pp")
def task_adapter_pp(golden: Golden, head: Head) -> Comparison:
    """The right score and, with the queries' labels given by hand, the released one, whose gradients the files hold."""
    assert isinstance(head, TaskAdapter)
    role, inputs = head.inputs[0].role, golden.inputs
    leaves = {
        f"{part}.tokens": golden.outputs[f"{part}.tokens"].clone().requires_grad_() for part in ("support", "query")
    }
    golden.input_grads = {name: golden.grads.pop(name) for name in leaves}
    golden.grads = {name: grad for name, grad in golden.grads.items() if "temporal_embedding" not in name}
    labels, targets = inputs["support_labels"][None], Targets(inputs["query_labels"][None])
    batch = EpisodeBatch(
        {role: leaves["support.tokens"][None]}, labels, {role: leaves["query.tokens"][None]}, golden.metadata["way"],
        inputs["text"][None],
    )  # fmt: skip
    right = head.outputs(batch)
    values = {"logits": right["logits"] / head.scale, "visual": right["visual"], "semantic": right["semantic"]}
    values["loss"] = head.loss(batch, right, targets)["total"]
    head.query_labels, in_order = targets.query_labels, inputs["query_labels"].argsort()
    released = head.outputs(batch)
    total = head.loss(batch, released, targets)["total"]
    values["logits_as_released"] = released["logits"][0][in_order] / head.scale
    values["semantic_as_released"] = released["semantic"][0][in_order]
    values["loss_as_released"] = total
    return Comparison(values, total, leaves)
