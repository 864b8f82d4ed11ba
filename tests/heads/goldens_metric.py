"""How the parity vectors of the metric heads are run."""

from dataclasses import replace

import torch

from fsar.heads import EpisodeBatch, Head, Targets
from fsar.heads.checkpoints.official.settings import DIVISOR
from fsar.heads.head import cross_entropy
from fsar.heads.layers.functional import frame_distances, soft_alignment
from tests.heads.goldens import Comparison, Golden, episode, golden_method, leaves


def episode_run(golden: Golden, head: Head, **kwargs):
    batch, targets = episode(golden, **kwargs)
    outputs = head.outputs(batch)
    losses = head.loss(batch, outputs, targets)
    labels = targets.query_labels
    values = {
        "logits": outputs["logits"],
        "accuracy": (outputs["logits"].argmax(-1) == labels).float().mean(),
        "loss_ce_mean": cross_entropy(outputs["logits"], labels),
        "loss_fewshot_ce": cross_entropy(outputs["logits"], labels),
    }
    return batch, targets, outputs, losses, values


def perrett(golden: Golden, head: Head) -> Comparison:
    """A case of the TRX family of repositories: the loss is the head's own total."""
    *_, losses, values = episode_run(golden, head)
    return Comparison({**values, "loss": losses["total"]}, losses["total"], leaves(golden))


def clipfsar(golden: Golden, head: Head) -> Comparison:
    """A case of the CLIP-FSAR code base: its training loop divides the loss."""
    *_, losses, values = episode_run(golden, head)
    total = losses["total"] / DIVISOR
    return Comparison({**values, "loss_total": total}, total, leaves(golden))


def alignments(golden: Golden, head: Head) -> dict[str, torch.Tensor]:
    """Return the distances inside OTAM, under both code bases' names."""
    distance = frame_distances(golden.inputs["query"].unsqueeze(0), golden.inputs["support"].unsqueeze(0))
    rows = soft_alignment(distance, head.smoothing)
    columns = soft_alignment(distance.transpose(-1, -2), head.smoothing)
    return {
        "frame_dists": distance,
        "cum_dists_query_rows": rows,
        "cum_dists_support_rows": columns,
        "cum_dists_query_to_support": rows,
        "cum_dists_support_to_query": columns,
    }


golden_method("tsn")(clipfsar)
golden_method("tsn_perrett")(perrett)


@golden_method("otam")
def otam(golden: Golden, head: Head) -> Comparison:
    comparison = clipfsar(golden, head)
    comparison.values.update(alignments(golden, head))
    return comparison


@golden_method("otam_perrett")
def otam_perrett(golden: Golden, head: Head) -> Comparison:
    comparison = perrett(golden, head)
    comparison.values.update(alignments(golden, head))
    return comparison


@golden_method("trx")
def trx(golden: Golden, head: Head) -> Comparison:
    _, _, outputs, losses, values = episode_run(golden, head)
    values["logits_per_cardinality"] = outputs["per_cardinality"]
    return Comparison({**values, "loss": losses["total"]}, losses["total"], leaves(golden))


golden_method("trx_clipfsar")(clipfsar)
golden_method("crosstransformer")(clipfsar)


@golden_method("pal_perrett")
def pal(golden: Golden, head: Head) -> Comparison:
    _, _, outputs, losses, values = episode_run(golden, head)
    values.update(
        loss=losses["total"],
        loss_pcc=losses["contrast"],
        prototypes=outputs["prototypes"],
        query_enriched=outputs["queries"],
    )
    return Comparison(values, losses["total"], leaves(golden))


def with_class_loss(targets, outputs, values) -> None:
    """Add the class logits and their loss: per video (B, S+Q, K) or per frame (B, S+Q, T, K), supports first."""
    if "class_logits" not in outputs:
        return
    logits = outputs["class_logits"]
    ids = torch.cat((targets.support_class_ids, targets.query_class_ids), 1)[0]
    ids = ids.repeat_interleave(logits[0, 0].numel() // logits.shape[-1])
    values["class_logits"] = logits
    values["loss_class_ce"] = cross_entropy(logits.reshape(1, -1, logits.shape[-1]), ids.unsqueeze(0))


@golden_method("hyrsm")
def hyrsm(golden: Golden, head: Head) -> Comparison:
    _, targets, outputs, losses, values = episode_run(golden, head)
    with_class_loss(targets, outputs, values)
    total = losses["total"] / DIVISOR
    return Comparison({**values, "loss_total": total}, total, leaves(golden))


@golden_method("hyrsm_pp")
def hyrsm_pp(golden: Golden, head: Head) -> Comparison:
    batch, targets = episode(golden)
    if "unlabelled" in golden.inputs:
        batch = replace(batch, unlabelled={"frames": golden.inputs["unlabelled"].unsqueeze(0)})
    outputs = head.outputs(batch)
    losses = head.loss(batch, outputs, targets)
    values = {
        "logits": outputs["logits"],
        "loss_fewshot_ce": losses["classification"],
        "loss_temporal_regular": outputs["temporal"],
        "loss_total": losses["total"] / DIVISOR,
    }
    with_class_loss(targets, outputs, values)
    return Comparison(values, values["loss_total"], leaves(golden))


def pixels(golden: Golden, first: int, n_videos: int) -> torch.Tensor:
    """Return the closed-form input images (1, V, T, 3, 224, 224) that the official run was given."""
    if golden.metadata["images"] == "zero":
        return torch.zeros(1, n_videos, int(golden.metadata["T"]), 3, 224, 224)
    axes = (n_videos, int(golden.metadata["T"]), 3, 224, 224)
    factors = (0.7, 0.9, 1.1, 0.05, 0.03)
    phase = torch.zeros(axes, dtype=torch.float64)
    for axis, (size, factor) in enumerate(zip(axes, factors, strict=True)):
        steps = torch.arange(size, dtype=torch.float64) + (first if axis == 0 else 0)
        phase = phase + factor * steps.view(-1, *[1] * (4 - axis))
    return phase.sin().float().unsqueeze(0)


@golden_method("molo")
def molo(golden: Golden, head: Head) -> Comparison:
    batch, targets = episode(golden, role="map")
    n_support, n_query = (golden.inputs[name].shape[0] for name in ("support_labels", "query_labels"))
    if head.training:
        batch.support["pixels"] = pixels(golden, 0, n_support)
        batch.query["pixels"] = pixels(golden, n_support, n_query)
    outputs = head.outputs(batch)
    losses = head.loss(batch, outputs, targets)
    total = losses["total"] / DIVISOR
    values = {
        "logits": outputs["logits"],
        "loss_fewshot_ce": losses["classification"],
        "loss_total": total,
    }
    if head.decoder is not None:
        values["loss_recons"] = losses.get("reconstruction", torch.zeros(()))
    with_class_loss(targets, outputs, values)
    passed_over = () if head.decoder is not None else ("loss_recons",)
    if not golden.metadata["train_flags"].get("USE_CONTRASTIVE"):
        # Without the contrast the official code leaves these unscaled and (N, Q); no loss of ours needs them.
        return Comparison(
            values, total, leaves(golden), passed_over=(*passed_over, r"(logits|loss_ce_logits)_(s2q|q2s).*")
        )
    for name in ("s2q", "q2s", "s2q_motion", "q2s_motion"):
        values[f"logits_{name}"] = outputs[name]
        values[f"loss_ce_logits_{name}"] = cross_entropy(outputs[name], targets.query_labels)
    return Comparison(values, total, leaves(golden), passed_over)


@golden_method("d2st_adapter")
def d2st_adapter(golden: Golden, head: Head) -> Comparison:
    """The head alone, on the official features; `finetune/test_adapters.py` makes them from pixels."""
    golden.grads = {name: grad for name, grad in golden.grads.items() if name.startswith("classification_layer")}
    if "logits" not in golden.outputs:  # adapters alone
        golden.input_grads = {}
        return Comparison({}, passed_over=("loss.*",))
    inputs = golden.inputs
    ids = {name: inputs[name][None] for name in ("support_class_ids", "query_class_ids")}
    batch = EpisodeBatch(
        {"frames": golden.outputs["support.frames"][None]},
        inputs["support_labels"][None],
        {"frames": golden.outputs["query.frames"][None]},
        int(golden.metadata["way"]),
    )
    outputs = head.outputs(batch)
    losses = head.loss(batch, outputs, Targets(inputs["query_labels"][None], **ids))
    values = {"logits": outputs["logits"], "loss": losses["total"], "loss_fewshot": losses["classification"]}
    if "classes" in losses:
        values |= {"class_logits": outputs["class_logits"], "loss_class": losses["classes"]}
    return Comparison(values, losses["total"])
