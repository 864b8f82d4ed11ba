"""CLIP-MEI: query-specific semantics and whole-episode attention between the frames of CLIP and class text."""

from collections.abc import Sequence
from types import MappingProxyType

import torch
from torch import Tensor, nn

from fsar.heads.batch import EpisodeBatch, Features, Targets
from fsar.heads.explain.evidence import Explanation, FrameScores, mean_cosine_frames, prototype_labels
from fsar.heads.explain.sensitivity import align
from fsar.heads.head import Losses, Outputs, TableHead, cross_entropy, register_head
from fsar.heads.layers.attention import CrossBlock, FeedForward
from fsar.heads.layers.functional import (
    MAX_COSINE_DISTANCE,
    class_means,
    frame_distances,
    membership,
    soft_alignment,
    two_way_alignment,
)
from fsar.heads.layers.grouped import run_together
from fsar.heads.layers.images import SumBlock, with_images
from fsar.heads.layers.motion import MotionSummary
from fsar.heads.layers.text_checks import mean_text

SMOOTHING = 0.5
WITHIN_VIDEO = 0.5
"""Weight of the alignment within videos against that within the episode."""
TOKEN_SHARE = 0.1
"""How much of a video's token is added to each of its frames."""


@register_head("clip-mei")
class ClipMeiHead(TableHead):
    """Align queries with prototypes twice: after attention within each video, and after attention within the episode.

    Every video gets a text token: a support that of its class, a query the mean class text scaled by the query's mean
    activation and sent through a small network. One block attends over the frames and the token of a video; a second
    one, frame by frame, over the videos of the episode. In training, queries are also pulled towards what their true
    class text would have made of them, and motion summaries before and after the first block towards each other.

    The head is transductive: a query attends to the other queries, so its scores depend on them.

    The official code takes the mean of the queries' own class texts as base of the query token, so that their labels
    leak: here it is the mean of the texts of all classes of the episode. Both are equal when every class has the same
    number of queries, as in the official evaluation.

    Args:
        dim: width D of frame features and text vectors.
        n_heads: attention heads.
        head_dim: channels of a head; the inner width is n_heads * head_dim whatever D is.
        hidden: width of the feed-forward blocks.
        single_direction: align queries to prototypes only, not back (official SINGLE_DIRECT).
        auxiliary_weight: weight of the auxiliary losses against the sum of the queries' cross entropies. The official
            0.001 is not divided by the 16 episodes of a step, the cross entropy is: relative to it, 0.016.
        attention_dropout: after the attention's output projection.
        dropout: inside the feed-forward blocks.
    """

    text = "required"
    text_space = "image"
    inductive = False
    old_options = MappingProxyType({"compat": None})  # opened the leak to parity tests, and changed nothing else
    paper = (
        "Deng et al., Exploit more effective information for few-shot action recognition, Knowledge-Based Systems "
        "2025, https://doi.org/10.1016/j.knosys.2025.113965"
    )

    def __init__(
        self,
        *,
        dim: int = 512,
        n_heads: int = 8,
        head_dim: int = 256,
        hidden: int = 2048,
        single_direction: bool = False,
        auxiliary_weight: float = 0.016,
        attention_dropout: float = 0.2,
        dropout: float = 0.05,
    ) -> None:
        super().__init__()
        self.dim, self.single_direction, self.auxiliary_weight = dim, single_direction, auxiliary_weight
        self.video_block, self.episode_block = (
            CrossBlock(
                dim,
                heads=n_heads,
                head_dim=head_dim,
                hidden=hidden,
                attention_dropout=attention_dropout,
                dropout=dropout,
            )
            for _ in range(2)
        )
        self.token_network = FeedForward(dim, hidden, dropout=dropout)
        self.motion = MotionSummary(dim)
        self.motion_weight = nn.Parameter(torch.ones(1))

    def outputs(self, batch: EpisodeBatch) -> Outputs:
        """Return "logits" (B, Q, N) and the intermediate results for the loss."""
        text = mean_text(batch.class_text, "clip-mei", self.dim)  # (B, N, D)
        support, query, labels = batch.support["frames"], batch.query["frames"], batch.support_labels
        token = self._query_token(query, self.base_text(batch))
        tokens, frames = self._attend(torch.cat((query, support), 1), torch.cat((token, take_rows(text, labels)), 1))
        n_query = query.shape[1]
        query, support = frames[:, :n_query], frames[:, n_query:]
        cost = self._cost(*self._distances(support, labels, query, batch.n_way))
        return {"logits": -cost, "token": token, "query_token": tokens[:, :n_query], "query": query}

    def embed(self, features: Features, class_text: Tensor | None = None) -> Features:
        """Return frames with their images under the block that they meet in an episode, (..., T, W).

        Supports have attended to their class text by then; the token of a query depends on the episode.
        """
        frames = features["frames"]
        if class_text is None:
            return {"frames": with_images(self.video_block, frames)}
        frames = self._attend(frames, mean_text(class_text, "clip-mei", self.dim))[1]
        return {"frames": with_images(self.episode_block, frames)}

    def match(self, episodes: EpisodeBatch) -> Outputs:
        """Return "logits" (B, Q, N) of embedded videos; a training, which has losses besides, goes through `outputs`.

        All tokens of an episode are sums of its videos and of one token for each query.
        """
        support, query, labels = episodes.support["frames"], episodes.query["frames"], episodes.support_labels
        token = self._query_token(query[..., : self.dim], self.base_text(episodes))
        parts = torch.cat((with_images(self.video_block, token).unsqueeze(-2), query), -2)  # (B, Q, 1+T, W)
        mix = torch.eye(parts.shape[-2]).to(parts)
        mix[1:, 0] = TOKEN_SHARE
        query = SumBlock(self.video_block, parts)(mix, first=1)

        videos = torch.cat((support, with_images(self.episode_block, query)), 1).transpose(1, 2)  # (B, T, S+Q, W)
        shares = class_shares(labels, episodes.n_way, query.shape[1]).to(videos.dtype)
        own = torch.eye(videos.shape[2]).to(videos).expand(len(videos), -1, -1)
        across, n_support = SumBlock(self.episode_block, videos), labels.shape[1]
        groups = (shares, own[:, :n_support]), (shares.mean(1, keepdim=True), own[:, n_support:])
        mixed = [across(torch.cat(group, 1).unsqueeze(1)) for group in groups]
        return {"logits": -self._cost(*self._compared(support[..., : self.dim], labels, query, episodes.n_way, mixed))}

    def loss(self, batch: EpisodeBatch, outputs: Outputs, targets: Targets) -> Losses:
        """Return "classification" (a sum over queries), "consistency", "text", "motion" and "total"."""
        classification = cross_entropy(outputs["logits"], targets.query_labels, reduction="sum")
        if not self.auxiliary_weight:
            return {"classification": classification, "total": classification}
        terms = self._auxiliary(batch, outputs, targets)
        auxiliary = terms["consistency"] + terms["text"] + self.motion_weight.squeeze() * terms["motion"]
        return {
            "classification": classification,
            **terms,
            "auxiliary": auxiliary,
            "total": classification + self.auxiliary_weight * auxiliary,
        }

    def base_text(self, episodes: EpisodeBatch) -> Tensor:
        """Return the text (B, D) that the tokens of the queries start from: the mean of the episode's classes."""
        return mean_text(episodes.class_text, "clip-mei", self.dim).mean(1)

    def _query_token(self, query: Tensor, base: Tensor) -> Tensor:
        """Return the text tokens (B, Q, D) of queries: the base (B, D) times a query's mean activation, transformed."""
        return self.token_network(query.mean((2, 3)).unsqueeze(-1) * base.unsqueeze(1))

    def _attend(self, frames: Tensor, token: Tensor) -> tuple[Tensor, Tensor]:
        """Return the token (..., D) and the frames (..., T, D) after attention within each video."""
        token = token.unsqueeze(-2)
        tokens = self.video_block(torch.cat((token, frames + TOKEN_SHARE * token), -2))
        return tokens[..., 0, :], tokens[..., 1:, :]

    def _cost(self, within: Tensor, across: Tensor, common: Tensor) -> Tensor:
        """Return the costs (B, Q, N): 0.5 alignment within videos + alignment within the episode + one per class."""
        n_query = within.shape[1]
        cost = self._aligned(torch.cat((within, across, common), 1))  # (B, 2Q + 1, N)
        return WITHIN_VIDEO * cost[:, :n_query] + cost[:, n_query:-1] + cost[:, -1:]

    def _aligned(self, distance: Tensor) -> Tensor:
        """Return the alignment cost of distances (..., T, U): (...)."""
        cost = soft_alignment if self.single_direction else two_way_alignment
        return cost(distance, SMOOTHING, MAX_COSINE_DISTANCE)

    def _distances(self, support: Tensor, labels: Tensor, query: Tensor, n_way: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return distances of frames within videos and within the episode, (B, Q, N, T, T), and of the tokens of the
        queries together, (B, 1, N, T, T).
        """
        videos = torch.cat((support, query), 1)
        shares = class_shares(labels, n_way, query.shape[1]).to(videos.dtype)
        tokens = (shares @ videos.flatten(2)).view(*shares.shape[:2], *videos.shape[2:])  # (B, N, T, D)
        groups = (tokens, support), (tokens.mean(1, keepdim=True), query)
        sequences = [torch.cat(group, 1).transpose(1, 2) for group in groups]  # (B, T, videos, D)
        return self._compared(support, labels, query, n_way, run_together(self.episode_block, sequences))

    @staticmethod
    def _compared(
        support: Tensor, labels: Tensor, query: Tensor, n_way: int, mixed: Sequence[Tensor]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the three distances. `mixed` has been attended to across videos, each frame index by itself: tokens
        of classes and supports (B, T, N+S, D), token of the queries and queries (B, T, 1+Q, D).
        """
        support_2, query_2 = (x.transpose(1, 2) for x in mixed)
        return (
            frame_distances(query, class_means(support, labels, n_way)),
            frame_distances(query_2[:, 1:], class_means(support_2[:, n_way:], labels, n_way)),
            frame_distances(query_2[:, :1], support_2[:, :n_way]),
        )

    @torch.no_grad()
    def explain(self, batch: EpisodeBatch) -> Explanation:
        """Return the three alignments of the score, and how close each query frame is to the class texts.

        The third one compares what all queries have in common with each class: it is the same for every query.
        """
        text = mean_text(batch.class_text, "clip-mei", self.dim)
        query, labels, n_way = batch.query["frames"], batch.support_labels, batch.n_way
        _, frames = self._attend(query, self._query_token(query, text.mean(1)))
        _, support = self._attend(batch.support["frames"], take_rows(text, labels))
        within, across, common = self._distances(support, labels, frames, n_way)
        terms = (
            ("frame alignment within videos", within, WITHIN_VIDEO),
            ("frame alignment within the episode", across, 1.0),
            ("alignment of all queries together", common.expand_as(within), 1.0),
        )
        rows = prototype_labels(labels, n_way)
        paths = [
            align(name, distance, rows, n_way, self._aligned, weight=weight, exact=False)
            for name, distance, weight in terms
        ]
        parts = mean_cosine_frames(query, text)
        words = FrameScores(name="class text", score=parts.sum(-1), weight=0.0, parts=parts, method="text")
        return Explanation(self(batch), (*paths, words))

    def _auxiliary(self, batch: EpisodeBatch, outputs: Outputs, targets: Targets) -> Losses:
        """Return the auxiliary terms. The queries' true texts are known here, in the loss, and nowhere else."""
        true_text = take_rows(mean_text(batch.class_text, "clip-mei", self.dim), targets.query_labels)  # (B, Q, D)
        query, support = batch.query["frames"], batch.support["frames"]
        frames = torch.cat((query, query, support), 1)
        motion = self.motion(frames[:, query.shape[1] :])
        token, frames = self._attend(frames, torch.cat((true_text, motion), 1))
        n_query = query.shape[1]
        true_token, motion_token = token[:, :n_query], token[:, n_query:]
        deep_motion = self.motion(frames[:, n_query:])
        consistency = square_distance(frames[:, :n_query], outputs["query"]) + square_distance(
            true_token, outputs["query_token"]
        )
        text = square_distance(true_text, outputs["token"]) + square_distance(true_token, outputs["query_token"])
        moved = (deep_motion - motion_token).square().sum(-1)  # (B, Q + S)
        return {
            "consistency": consistency,
            "text": 0.5 * text,
            "motion": moved[:, :n_query].mean() + moved[:, n_query:].mean(),
        }


def class_shares(labels: Tensor, n_way: int, n_query: int) -> Tensor:
    """Return each video's share in the token of a class, the mean of its supports and all queries: (B, N, S+Q)."""
    members = membership(labels, n_way).transpose(1, 2).float()  # (B, N, S)
    shares = torch.cat((members, members.new_ones(*members.shape[:2], n_query)), 2)
    return shares / shares.sum(2, keepdim=True)


def take_rows(text: Tensor, labels: Tensor) -> Tensor:
    """Return the row of `text` (B, N, D) that each label (B, V) names: (B, V, D)."""
    return text.gather(1, labels.unsqueeze(-1).expand(-1, -1, text.shape[-1]))


def square_distance(a: Tensor, b: Tensor) -> Tensor:
    """Return the squared distance of videos (B, V, ...), summed over their elements, mean over videos and episodes."""
    return (a - b).square().flatten(2).sum(2).mean()
