"""How the parity vectors of STRM, HCL and ARN are run."""

import torch
from torch import Tensor

from fsar.heads import EpisodeBatch, Head, PairBatch
from fsar.heads.checkpoints.official.formats import official_format, our_name
from fsar.heads.head import cross_entropy
from fsar.heads.methods.hcl.head import HCL
from fsar.heads.methods.hcl.losses import MatchedVideos
from fsar.heads.methods.hcl.parts import TERMS
from fsar.heads.methods.strm.head import STRMHead
from tests.heads.goldens import Comparison, Golden, episode, golden_method, leaves

HCL_TERMS = dict(zip(TERMS, ("ce", "global", "temp", "temp_cycle", "spatial", "spa_cycle"), strict=True))
HCL_LEVELS = {"global": "global", "temporal": "temp", "spatial": "spa"}


class ReleasedHCL(HCL):
    """Reads the texts of the queries; a recorded tuple settles the tie of the first video matched with itself."""

    texts: Tensor
    recorded: Tensor | None

    def leaked_text(self) -> Tensor:
        return self.texts

    def anchor_tuples(self, matched: MatchedVideos, index: int) -> Tensor:
        anchors = super().anchor_tuples(matched, index).clone()
        if self.recorded is not None:
            anchors[0] = self.recorded[index, 0, 0]
        return anchors


@golden_method("hcl")
def hcl(golden: Golden, head: Head) -> Comparison:
    """The episode gives the logits; the batch of pairs gives the loss terms and the gradients."""
    assert isinstance(head, HCL)
    head.__class__ = ReleasedHCL
    head.texts = golden.inputs["text"][None] if "text" in golden.inputs else None
    head.recorded = golden.trace.get("train_top1_tuple")
    pairs = hcl_pairs(golden)
    terms = head.pair_terms(pairs)
    if not golden.metadata["use_spa_cycle"]:  # recorded as zero then
        terms["spatial_cycle"] = torch.zeros(())
    total = head.pair_loss(pairs)["total"]
    values = {f"loss.{official}": terms[ours] for ours, official in HCL_TERMS.items()} | {"loss.total": total}
    values["logits"] = hcl_outputs(golden, head)["logits"]
    head.fusion_weights = dict.fromkeys(head.fusion_weights, 1.0)  # the file holds levels of weight zero, too
    levels = hcl_outputs(golden, head)
    return Comparison(values | {f"logits_{name}": levels[level] for level, name in HCL_LEVELS.items()}, total)


def hcl_outputs(golden: Golden, head: HCL) -> dict[str, Tensor]:
    inputs = golden.inputs
    batch = EpisodeBatch(
        support={"map": inputs["support"][None]},
        support_labels=inputs["support_labels"][None],
        query={"map": inputs["query"][None]},
        n_way=golden.metadata["way"],
    )
    return head.match(batch.embedded(head.embed(batch.support), head.embed(batch.query)))


def hcl_pairs(golden: Golden) -> PairBatch:
    inputs = golden.inputs
    return PairBatch(
        features={"map": inputs["train"]},
        class_ids=inputs["train_labels"],
        video_text=inputs["train_text"].unsqueeze(1) if "train_text" in inputs else None,
    )


@golden_method("strm", noise=(r"attn_pat\.key_proj\.bias", r".*v_linear\.bias"))
def strm(golden: Golden, head: Head) -> Comparison:
    """The official `logits` are the first stream alone; the sum of both classifies."""
    batch, targets = episode(golden, role="patches")
    outputs = head.outputs(batch)
    terms = head.loss(batch, outputs, targets)
    combined = outputs["logits"]
    values = {
        "logits": outputs["matching"],
        "logits_post_pat": outputs["similarity"],
        "logits_combined": combined,
        "accuracy": (combined.argmax(-1) == targets.query_labels).float().mean(),
        "logits_per_cardinality": outputs["matching_per_cardinality"],
        "logits_post_pat_per_cardinality": outputs["similarity_per_cardinality"],
        "loss": terms["total"],
        "loss_fr": terms["matching"],
        "loss_post_pat": terms["similarity"],
        "loss_combined_logits": cross_entropy(combined, targets.query_labels, reduction="sum"),
    }
    assert isinstance(head, STRMHead)
    for part, features in (("support", batch.support), ("query", batch.query)):
        frames = head.enriched_frames(features)
        values[f"{part}_patch_enriched"] = frames
        values[f"{part}_frame_enriched"] = head.frame_enrichment(frames)
    return Comparison(values, terms["total"], leaves(golden))


# Rectifiers and maxima of nearly equal numbers: the official float32 gradients are 7e-4 from float64 ones themselves.
@golden_method("arn", gradient_tolerance=2e-3)
def arn(golden: Golden, head: Head) -> Comparison:
    batch, targets = episode(golden, role="map")
    outputs = head.outputs(batch)
    losses = head.loss(batch, outputs, targets)
    values = {"logits": outputs["logits"], "loss": losses["total"]}
    official = official_format("arn")
    after = {name: our_name(official, name.removeprefix("state_after.")) for name in golden.outputs}
    state = {name: tensor.clone() for name, tensor in head.state_dict().items()}  # in training, embedding moves it
    values |= {name: state[own] for name, own in after.items() if name.startswith("state_after.")}
    values["second_order_query"] = head.embed(batch.query)["matrix"][0, :2]
    # A shift in front of a normalisation by the batch's own mean.
    noise = (r"relation_network\.layer\d\.0\.bias", r"spatial_detector\.sd1\.[04]\.bias") if head.training else ()
    return Comparison(values, losses["total"], leaves(golden), noise=noise)
