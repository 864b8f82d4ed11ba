"""How the parity vectors of the metric heads are run."""

import torch

from fsar.heads import Head
from fsar.heads.functional import frame_distances, soft_alignment
from fsar.heads.head import cross_entropy
from fsar.heads.official.settings import DIVISOR
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
