"""How the parity vectors of TEAM, the Chamfer family, CMN and TARN are run."""

import copy

from fsar.heads import Head
from fsar.heads.methods.chamfer import Chamfer
from tests.heads.goldens import Comparison, Golden, golden_method, leaves
from tests.heads.goldens_metric import episode_run


@golden_method("team")
def team(golden: Golden, head: Head) -> Comparison:
    batch, _, outputs, losses, values = episode_run(golden, head)
    query = head.embed(batch.query)
    values.update(
        logits_pos=outputs["positive"],
        logits_neg=outputs["negative"],
        loss=losses["total"],
        loss_L_pos=losses["positive"],
        loss_L_neg=losses["negative"],
        query_pos=query["instance"],
        query_neg=query["exclusive"],
        support_disc_pos=outputs["class_instance"],
        support_disc_neg=outputs["class_exclusive"],
    )
    return Comparison(values, losses["total"], leaves(golden))


@golden_method("chamfer")
def chamfer(golden: Golden, head: Head) -> Comparison:
    batch, _, outputs, losses, values = episode_run(golden, head)
    values.update(loss=losses["total"], similarity=outputs["similarity"])
    overflows = golden.metadata["variants_that_overflow_officially"]
    for variant in set(golden.metadata["variants"]) - set(overflows):
        values[f"variant.{variant}.logits"] = _variant(golden, head, variant)(batch)
    return Comparison(values, losses["total"], leaves(golden))


def _variant(golden: Golden, head: Head, variant: str) -> Head:
    """Return the same weights under another matching function; "+joint" is named where a file has both forms."""
    assert isinstance(head, Chamfer)
    other = copy.deepcopy(head)
    has_both = any("+" in name for name in golden.metadata["variants"])
    other.matching, joint = variant.split("+") if "+" in variant else (variant, "")
    other.joint = bool(joint) if has_both else head.joint
    return other


@golden_method("cmn", noise=(r"fc\.bias",))  # cancels in the difference of two embeddings
def cmn(golden: Golden, head: Head) -> Comparison:
    batch, _, _, losses, values = episode_run(golden, head)
    values.update(
        loss=losses["total"],
        embedded_support=head.embed(batch.support)["video"],
        embedded_query=head.embed(batch.query)["video"],
    )
    return Comparison(values, losses["total"], leaves(golden))


@golden_method("tarn")
def tarn(golden: Golden, head: Head) -> Comparison:
    _, _, outputs, losses, values = episode_run(golden, head)
    values.update(
        relation=outputs["relation"].sigmoid(),
        loss=losses["total"],
        loss_pos=losses["positive"],
        loss_neg=losses["negative"],
    )
    return Comparison(values, losses["total"], leaves(golden))
