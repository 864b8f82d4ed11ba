"""The part of EMP-Net that looks at one video at a time: three stages, reasoning, text scores, fusion with text."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fsar.heads.batch import Features
from fsar.heads.layers.attention import CrossBlock, FeedForward, SelfAttention, attend
from fsar.heads.layers.functional import offset_cosine

DEPTHS = ("early", "middle", "late")
LEVELS = ("token", "frame", "patch")
N_HEADS = 4
TOP_FRAMES = 2
TOP_PATCHES = 49


@dataclass(frozen=True, slots=True)
class Levels:
    """What EMP-Net makes of V videos before text comes in."""

    token: Tensor
    """(V, T, D) class tokens."""
    frame: Tensor
    """(V, T, D) from the patch means."""
    patch: Tensor
    """(V, T, P, D)."""

    @property
    def parts(self) -> tuple[Tensor, Tensor, Tensor]:
        """All three, in the order of `LEVELS`."""
        return self.token, self.frame, self.patch


class Stage(nn.Module):
    """Attention among the patches of each frame and among the class tokens of each video, then y + FF(y) for both.

    The two streams never meet inside a stage, so they stay separate tensors and nothing is concatenated.
    """

    def __init__(self, dim: int, *, attention_dropout: float, dropout: float) -> None:
        super().__init__()
        self.spatial, self.temporal = (
            SelfAttention(dim, heads=N_HEADS, head_dim=dim // 8, dropout=attention_dropout) for _ in range(2)
        )
        self.feed_forward = FeedForward(dim, dim // 4, dropout=dropout)

    def forward(self, token: Tensor, patch: Tensor) -> tuple[Tensor, Tensor]:
        """Return class tokens (V, T, D) and patches (V, T, P, D) after the stage."""
        token, patch = self.temporal(token), self.spatial(patch)
        return token + self.feed_forward(token), patch + self.feed_forward(patch)


class Block(CrossBlock):
    """The block of reasoning and fusion: 4 heads of D/8 channels, hidden width D/4."""

    def __init__(self, dim: int, *, attention_dropout: float, dropout: float) -> None:
        super().__init__(
            dim,
            heads=N_HEADS,
            head_dim=dim // 8,
            hidden=dim // 4,
            attention_dropout=attention_dropout,
            dropout=dropout,
        )

    def attend_with(self, x: Tensor, extra: Tensor) -> Tensor:
        """Return tokens x (..., L, D) after attending to themselves and to one more token `extra` (..., D).

        Equal to self(x, cat(extra, x)), but x is normalised once and only keys and values are joined.
        """
        own = self.attention
        normed, normed_extra = own.norm(x), own.norm(extra.unsqueeze(-2))
        key, value = (torch.cat((project(normed_extra), project(normed)), -2) for project in (own.to_k, own.to_v))
        y: Tensor = x + own.dropout(own.to_out(attend(own.to_q(normed), key, value, own.heads)))
        transformed: Tensor = self.feed_forward(y)
        return y + transformed


class BlockPerLevel(nn.Module):
    """One block for each level."""

    def __init__(self, dim: int, *, attention_dropout: float, dropout: float) -> None:
        super().__init__()
        self.token, self.frame, self.patch = (
            Block(dim, attention_dropout=attention_dropout, dropout=dropout) for _ in LEVELS
        )


class Encoder(nn.Module):
    """All parameters of EMP-Net. Every function takes V videos, which do not see each other."""

    def __init__(self, dim: int, *, attention_dropout: float, dropout: float) -> None:
        super().__init__()
        self.early, self.middle, self.late = (
            Stage(dim, attention_dropout=attention_dropout, dropout=dropout) for _ in DEPTHS
        )
        self.reasoning, self.fusion = (
            BlockPerLevel(dim, attention_dropout=attention_dropout, dropout=dropout) for _ in range(2)
        )

    def describe(self, tokens: Features) -> Levels:
        """Return the levels of videos from their tokens (V, T, 1+P, D) at three depths, class token first."""
        token, patch = self.early(*_streams(tokens["tokens_early"]))
        for stage, role in ((self.middle, "tokens_middle"), (self.late, "tokens_late")):
            new_token, new_patch = _streams(tokens[role])
            token, patch = stage(token + new_token, patch + new_patch)
        frame = patch.mean(2)
        token = self.reasoning.token(token)
        patch = self.reasoning.patch.attend_with(patch, token)
        return Levels(token, self.reasoning.frame(frame + patch.mean(2)), patch)

    def fuse(self, levels: Levels, text: Tensor | None) -> Tensor:
        """Return the levels (V, 3, T, D) after attention over time; supports attend to their text (V, D) as well.

        The patches of one position form a sequence of their own; their mean over positions is returned.
        """
        tubes = levels.patch.transpose(1, 2).contiguous()  # (V, P, T, D)
        token, frame, patch = (
            _over_time(block, x, text)
            for block, x in (
                (self.fusion.token, levels.token),
                (self.fusion.frame, levels.frame),
                (self.fusion.patch, tubes),
            )
        )
        return torch.stack((token, frame, patch.mean(1)), 1)


def score(levels: Levels, text: Tensor) -> Tensor:
    """Return the similarity of videos to texts (V, C, D) at each level, (V, 3, C).

    The mean class token, the best 2 frames and the best 49 patches (of their means over time) count.
    """
    token, frame, patch = text_cosines(levels, text)
    return torch.stack((token.mean(1), _top_mean(frame, TOP_FRAMES), _top_mean(patch.mean(1), TOP_PATCHES)), 1)


def text_cosines(levels: Levels, text: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the cosines of class tokens and frames (V, T, C) and of patches (V, T, P, C) to texts (V, C, D)."""
    return (
        offset_cosine(levels.token, text),
        offset_cosine(levels.frame, text),
        offset_cosine(levels.patch, text.unsqueeze(1)),
    )


def score_parts(token: Tensor, frame: Tensor, patch: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return what each class token, frame (V, T, C) and patch (V, T, P, C) adds to `score`, from their cosines."""
    n_frames = token.shape[1]
    patches = patch * _chosen(patch.mean(1), TOP_PATCHES).unsqueeze(1) / n_frames
    return token / n_frames, frame * _chosen(frame, TOP_FRAMES), patches


def _chosen(x: Tensor, n_best: int) -> Tensor:
    """Return the weights with which `_top_mean` adds up axis 1 of (V, L, C)."""
    n_best = min(n_best, x.shape[1])
    return torch.zeros_like(x).scatter_(1, x.topk(n_best, 1).indices, 1 / n_best)


def _streams(tokens: Tensor) -> tuple[Tensor, Tensor]:
    return tokens[..., 0, :], tokens[..., 1:, :]


def _over_time(block: Block, x: Tensor, text: Tensor | None) -> Tensor:
    """Return x (V, ..., T, D) after attention over T; with text (V, D), it is added to x and joins keys and values."""
    fused: Tensor
    if text is None:
        fused = block(x)
    else:
        text = text.view(len(x), *[1] * (x.ndim - 2), -1).expand(*x.shape[:-2], 1, -1)
        fused = block(x + text, torch.cat((x, text), -2))
    return fused


def _top_mean(x: Tensor, n_best: int) -> Tensor:
    """Return the mean of the `n_best` largest values along axis 1 of (V, L, C), or of all if there are fewer."""
    return x.topk(min(n_best, x.shape[1]), 1).values.mean(1)
