"""Evidence by asking again: what a score loses without a frame, and how fast it changes with a distance or a patch."""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from fsar.heads.batch import EpisodeBatch, Features
from fsar.heads.explain.evidence import Alignment, FrameScores, Link, PatchScores
from fsar.heads.layers.functional import class_scores

Logits = Callable[[EpisodeBatch], Tensor]


def leave_frames_out(logits_of: Logits, batch: EpisodeBatch, *, weight: float = 1.0) -> FrameScores:
    """Return what each query frame adds to the logits, for any head: (B, Q, N, T) from T + 1 answers.

    A frame is left out by putting the mean of the video's other frames in its place: the number of frames stays what
    the head expects, and a head that averages frames answers as if the frame were not there.
    """
    with torch.no_grad():
        logits = logits_of(batch).float()
        n_frames = next(iter(batch.query.values())).shape[2]
        losses = [logits - logits_of(without_frame(batch, frame)).float() for frame in range(n_frames)]
    parts = torch.stack(losses, -1)
    return FrameScores(
        name="leaving frames out", score=logits, weight=weight, parts=parts, method="leave-out", exact=False
    )


def without_frame(batch: EpisodeBatch, frame: int) -> EpisodeBatch:
    """Return the batch with the mean of the other frames in place of one frame of every query."""
    return replace(batch, query={role: _without(x, frame) for role, x in batch.query.items()})


def _without(x: Tensor, frame: int) -> Tensor:
    """Return features (B, Q, T, ...) of which one frame is the mean of the others; a single frame becomes zero."""
    n_others = max(x.shape[2] - 1, 1)
    out = x.clone()
    out[:, :, frame] = (x.sum(2) - x[:, :, frame]) / n_others
    return out


def align(
    name: str,
    distance: Tensor,
    labels: Tensor,
    n_way: int,
    cost_of: Callable[[Tensor], Tensor],
    *,
    weight: float = 1.0,
    link: Link = "linear",
    exact: bool,
    between_frames: bool = False,
) -> Alignment:
    """Return the evidence of a cost (B, Q, R) made of distances (B, Q, R, T, U): each pair's share is the cost's slope.

    For nearest frames it counts how often a pair was chosen, and cost = sum of share * distance. For the soft alignment
    it is the share of the paths through a cell; the cost is that sum less the smoothing times the paths' entropy.
    """
    with torch.inference_mode(False), torch.enable_grad():
        leaf = distance.detach().float().clone().requires_grad_()
        cost = cost_of(leaf)
        (share,) = torch.autograd.grad(cost.sum(), leaf)
    return Alignment(
        name=name,
        score=-class_scores(cost.detach(), labels, n_way),
        weight=weight,
        link=link,
        exact=exact,
        distance=leaf.detach(),
        share=share,
        labels=labels,
        between_frames=between_frames,
    )


def fade_patches(
    name: str, logits_of: Logits, batch: EpisodeBatch, patches: dict[str, Callable[[Tensor], Tensor]]
) -> PatchScores:
    """Return the slope of each logit as a query patch fades into the mean of its frame's patches, times the way.

    Args:
        name: Of the evidence.
        logits_of: The head.
        batch: Its input.
        patches: Role -> function that brings a tensor shaped like the role's features to (B, Q, T, D, h, w).
    """
    with torch.inference_mode(False), torch.enable_grad():
        copy = _outside_inference(batch)
        leaves = {role: x.requires_grad_() for role, x in copy.query.items() if role in patches}
        logits = logits_of(copy).float()
        parts = [_slopes(logits[..., label].sum(), leaves, patches) for label in range(logits.shape[-1])]
    return PatchScores(
        name=name,
        score=logits.detach(),
        weight=0.0,
        exact=False,
        parts=torch.stack(parts, 2),  # (B, Q, N, T, h, w)
        method="gradient",
    )


def _slopes(score: Tensor, leaves: Features, patches: dict[str, Callable[[Tensor], Tensor]]) -> Tensor:
    gradients = torch.autograd.grad(score, list(leaves.values()), retain_graph=True)
    found = []
    for (role, leaf), gradient in zip(leaves.items(), gradients, strict=True):
        x, slope = patches[role](leaf.detach()), patches[role](gradient)
        found.append(((x - x.mean((-2, -1), keepdim=True)) * slope).sum(3))
    return torch.stack(found).sum(0)


def _outside_inference(batch: EpisodeBatch) -> EpisodeBatch:
    """Return a copy of the batch that takes part in gradients even if it was made in inference mode."""

    def copy(features: Features) -> Features:
        return {role: x.detach().clone() for role, x in features.items()}

    text = batch.class_text
    return replace(
        batch,
        support=copy(batch.support),
        query=copy(batch.query),
        support_labels=batch.support_labels.clone(),
        class_text=None if text is None else text.detach().clone(),
        unlabelled=None if batch.unlabelled is None else copy(batch.unlabelled),
    )
