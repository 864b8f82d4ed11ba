"""How the parity vectors of TS-FSAR are run."""

import torch

from fsar.heads import EpisodeBatch, Head, Targets
from fsar.heads.methods.ts_fsar.head import TSFSAR
from tests.heads.goldens import Comparison, Golden, golden_method


@golden_method("ts_fsar", noise=(r".*\.k_linear\.bias",))  # the same for all keys: softmax takes it away
def ts_fsar(golden: Golden, head: Head) -> Comparison:
    assert isinstance(head, TSFSAR)
    inputs, training = golden.inputs, golden.metadata["mode"] == "train"
    roles = {"clip": "clip_cls", **{f"level.{level}": f"tokens.{level}" for level in head.levels}}
    leaves = {
        f"{part}.{name}": inputs[f"{part}.{name}"].clone().requires_grad_()
        for part in ("support", "query")
        for name in roles.values()
    }
    support, query = (
        {role: leaves[f"{part}.{name}"].unsqueeze(0) for role, name in roles.items()} for part in ("support", "query")
    )
    labels, ids = inputs["support_labels"], inputs["support_class_ids"]
    text = inputs["text_train" if training else "text_test"].unsqueeze(1)  # (C, 1, E)
    first = [int((labels == label).nonzero()[0]) for label in range(golden.metadata["way"])]
    batch = EpisodeBatch(support, labels.unsqueeze(0), query, golden.metadata["way"], text[ids[first]].unsqueeze(0))
    targets = Targets(
        inputs["query_labels"].unsqueeze(0), ids.unsqueeze(0), inputs["query_class_ids"].unsqueeze(0), text
    )
    outputs = head.outputs(batch)
    values = {"logits": outputs["logits"], "score": outputs["score"], "matching_matrix": outputs["matrix"]}
    if not training:
        values["loss"] = -outputs["logits"].gather(2, targets.query_labels.unsqueeze(-1)).mean()
        return Comparison(values, values["loss"], leaves)
    losses = head.loss(batch, outputs, targets)
    found = head.class_logits(outputs, text.squeeze(1))
    frames = torch.cat((outputs["support_frames"], outputs["query_frames"]), 1)
    levels = [torch.cat((support[f"level.{level}"], query[f"level.{level}"]), 1)[0] for level in head.levels]
    values.update(
        adc_first_columns=frames[..., :70],
        side_output=head.network(levels),
        class_logits_adc=found["classes"],
        class_logits_clip=found["clip"],
        class_logits_lsn=found["side"],
        loss=losses["total"],
        loss_vision=losses["vision"],
        loss_gc=losses["classes"],
        loss_text_lsn=losses["side"],
        loss_text_clip=losses["clip"],
        loss_kl=losses["distillation"],
    )
    return Comparison(values, losses["total"], leaves)
