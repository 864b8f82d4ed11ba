"""A backbone and a head as one model: episodes of frames in, logits and losses out."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from torch import Tensor, nn

from fsar.heads.batch import EpisodeBatch, Features, PairBatch, Targets
from fsar.heads.finetune.memory import LossScale
from fsar.heads.finetune.tower import Tower
from fsar.heads.head import Head, Losses, Outputs

PIXELS = "pixels"
"""The role of normalised frames (..., T, 3, H, W) in a batch that a tower has not seen yet."""
Embed = Callable[[Sequence[Tensor]], list[Features]]
"""Gives the features of the frames (..., 3, H, W) of each of several calls of a backbone."""
Task = tuple[EpisodeBatch, Targets] | PairBatch
"""One episode (B = 1), or one batch of pairs, of frames."""


class EndToEnd(nn.Module):
    """A tower and the head that reads its features.

    As in all published code the supports of an episode are one call of the backbone and the queries another, in this
    order: batch norm in training mode normalises each by itself, and its running statistics move twice an episode.
    """

    def __init__(self, tower: Tower, head: Head, loss_scale: LossScale | None = None) -> None:
        """Join the two; a `loss_scale` is for steps in float16."""
        super().__init__()
        self.tower, self.head, self.loss_scale = tower, head, loss_scale

    def forward(self, batch: EpisodeBatch) -> Tensor:
        """Return logits (B, Q, N) for a batch of frames."""
        return self.head.outputs(on_features(batch, self.tower.embed))["logits"]

    def losses(self, task: Task, embed: Embed | None = None) -> tuple[Losses, Outputs]:
        """Return the loss terms of the head and what it computed (nothing for pairs).

        Args:
            task: Of frames.
            embed: In place of the tower, to spare memory.
        """
        embed = embed or self.tower.embed
        if isinstance(task, PairBatch):
            [features] = _features([task.features], embed)
            return self.head.pair_loss(replace(task, features=features)), {}
        batch, targets = task
        batch = on_features(batch, embed)
        outputs = self.head.outputs(batch)
        return self.head.loss(batch, outputs, targets), outputs


def on_features(batch: EpisodeBatch, embed: Embed) -> EpisodeBatch:
    """Return a batch of features for one of frames: one call for the supports, then one for the queries.

    The frames stay beside the features, for heads that reconstruct them.
    """
    unlabelled = [] if batch.unlabelled is None else [batch.unlabelled]
    support, query, *rest = _features([batch.support, batch.query, *unlabelled], embed)
    return replace(batch, support=support, query=query, unlabelled=rest[0] if rest else None)


def _features(videos: Sequence[Features], embed: Embed) -> list[Features]:
    frames = [each[PIXELS] for each in videos]
    return [{PIXELS: pixels, **features} for pixels, features in zip(frames, embed(frames), strict=True)]
