"""Task-Adapter++: the last blocks of a frozen CLIP, adapted to the task, compared with videos and ordered texts."""

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fsar.errors import InputError
from fsar.heads.batch import EpisodeBatch, Features, Targets
from fsar.heads.head import Head, Input, Losses, Outputs, cross_entropy, register_head
from fsar.heads.layers.functional import class_means
from fsar.heads.layers.option_checks import check_choice, check_positive
from fsar.heads.layers.text_checks import mean_text
from fsar.heads.methods.task_adapter.blocks import HEAD_WIDTH, AdaptedBlock, load_frozen
from fsar.heads.methods.task_adapter.text import AdaptedTextTower

TOKENS = Input("level", ("tokens.*.raw",), "(1+P, D)", per_level=True)


@register_head("task-adapter++")
class TaskAdapter(Head):
    """Let the videos of an episode see each other in the last blocks of CLIP, and match steps of a query with texts.

    Cao et al., "Task-Adapter++: Task-specific Adaptation with Order-aware Alignment for Few-shot Action Recognition",
    arXiv 2505.06002, https://arxiv.org/abs/2505.06002. The stored tokens of one level of a CLIP transformer go through
    the blocks above it, which are frozen and hold four adapters each. The score is the cosine of mean videos times that
    of steps of the query with the texts of a class in their order, its sub-actions (one text is matched as a whole).
    Texts are vectors of the frozen text tower, or the tokens that one of its blocks gives (`fsar-prep text --level`):
    then the blocks above it are adapted, too, and the texts of a class see each other.

    The head is transductive: queries attend to each other in every block, and their steps are mixed over them.

    Differences from the released code:
        - It scores a query by the texts of each class. The release transposes the text's score, which needs one query
          per class and gives each query the text of its own class; `query_labels`, set by hand, brings that back.
        - Cosines are float32; `compat="official"` computes them in float16.
        - Tokens come from a store, so the temporal embedding that is trained in front of the first block is not there.
        - The text tower computes in float32, where the release has float16.
        - Supports and queries are a set each; in the release every GPU sees its share of them.
    """

    inputs: tuple[Input, ...] = (TOKENS,)
    text = "required"
    text_space = "image"
    reads_text_tokens = True
    ordered_text = True
    inductive = False
    paper = (
        "Cao et al., Task-Adapter++: Task-specific Adaptation with Order-aware Alignment for Few-shot Action "
        "Recognition, arXiv 2505.06002, https://arxiv.org/abs/2505.06002"
    )

    def __init__(
        self,
        *,
        dim: int = 768,
        text_dim: int = 512,
        levels: Sequence[int] = (10,),
        n_blocks: int = 12,
        n_heads: int | None = None,
        scale: float = 64.0,
        order_norm: bool = False,
        text_level: int | None = None,
        text_width: int = 512,
        n_text_blocks: int = 12,
        n_text_heads: int | None = None,
        quick_gelu: bool = True,
        start: Literal["backbone", "random"] = "backbone",
        compat: Literal["fixed", "official"] = "fixed",
    ) -> None:
        """Build the head. Defaults are the published ones for ViT-B/16 on Kinetics, HMDB51 and UCF101.

        Args:
            dim: Width W of the stored tokens.
            text_dim: Width of class text and of CLIP's projection.
            levels: The one level that is read, K for what block K gives (from 1); all blocks above it are adapted
                (published: 10, on Something-Something 6).
            n_blocks: Blocks of the transformer.
            n_heads: Of its attentions; None for one in 64 channels, as CLIP has.
            scale: Factor of the logits.
            order_norm: A layer norm of the mixed steps (published on Something-Something V2 Full).
            text_level: Level of the text tower whose tokens the class text holds; all blocks above it are adapted
                (published: 4, on Something-Something 10). None for vectors. A table says it, as it does the next three.
            text_width: Width of the tokens of text.
            n_text_blocks: Blocks of the text tower.
            n_text_heads: Of its attentions; None for one in 64 channels.
            quick_gelu: The activation that OpenAI's weights were trained with.
            start: "backbone" takes the frozen blocks from the backbone that made the store, "random" does not.
            compat: "official" computes cosines in float16.
        """
        super().__init__()
        level = levels[0] if len(levels) == 1 else -1
        if not 0 <= level < n_blocks:
            raise InputError(
                f"task-adapter++ reads one level below {n_blocks} and got {tuple(levels)}: choose it with "
                "--option levels=10, say"
            )
        n_heads = check_positive("n_heads", dim // HEAD_WIDTH if n_heads is None else n_heads)
        if dim % n_heads or dim % 4:
            raise InputError(f"dim must be a multiple of 4 and of n_heads, got {dim} and {n_heads}")
        self.inputs = TOKENS.at(levels)
        self.n_heads, self.quick_gelu = n_heads, quick_gelu
        self.text_dim, self.scale = text_dim, scale
        above = range(level, n_blocks)
        self.blocks = nn.ModuleDict({str(i): AdaptedBlock(dim, n_heads, quick_gelu=quick_gelu) for i in above})
        """By their number in the transformer, from 0."""
        self.ln_post_weight: Tensor
        self.ln_post_bias: Tensor
        self.proj: Tensor
        self.register_buffer("ln_post_weight", torch.ones(dim))
        self.register_buffer("ln_post_bias", torch.zeros(dim))
        self.register_buffer("proj", torch.randn(dim, text_dim) * dim**-0.5)
        self.text_tower = None
        if text_level is not None:
            self.text_tower = _text_tower(text_level, n_text_blocks, text_width, text_dim, n_text_heads, quick_gelu)
        self.order_norm = nn.LayerNorm(text_dim) if order_norm else nn.Identity()
        self.starts_from_backbone = check_choice("start", start, ("backbone", "random")) == "backbone"
        self.starts_from_text_tower = self.starts_from_backbone and self.text_tower is not None
        self.official = check_choice("compat", compat, ("fixed", "official")) == "official"
        self.query_labels: Tensor | None = None
        """(B, Q) labels of the queries of the next episodes, one of each class: scores them as the release does."""

    def outputs(self, batch: EpisodeBatch) -> Outputs:
        """Return "logits" (B, Q, N), and the cosines "visual" and "semantic" that they are the scaled product of."""
        support, query = self.frames(batch.support), self.frames(batch.query)
        text = batch.class_text
        if self.text_tower is not None and text is not None:
            text = self.text_tower(text)
        mean_text(text, "task-adapter++", self.text_dim)  # it checks
        prototypes = class_means(support, batch.support_labels, batch.n_way)  # (B, N, T, E)
        visual = self._cosine(query.mean(2), prototypes.mean(2))
        semantic = self._ordered(self._steps(query), text)
        if self.query_labels is not None:
            semantic = transposed(semantic, self.query_labels)
        return {"logits": self.scale * visual * semantic, "visual": visual, "semantic": semantic}

    def loss(self, batch: EpisodeBatch, outputs: Outputs, targets: Targets) -> Losses:
        """Return "classification" and "total", which are the same."""
        classification = cross_entropy(outputs["logits"], targets.query_labels)
        return {"classification": classification, "total": classification}

    def frames(self, features: Features) -> Tensor:
        """Return the projected class tokens (B, V, T, E) of one side of the episodes."""
        tokens = features[self.inputs[0].role]
        for block in self.blocks.values():
            tokens = block(tokens)
        width = self.ln_post_weight.shape
        normed = F.layer_norm(tokens[..., 0, :], width, self.ln_post_weight, self.ln_post_bias)
        return normed @ self.proj

    def start_from_backbone(self, tower: Mapping[str, Tensor]) -> None:
        """Take the frozen blocks, the norm behind them and the projection from a CLIP tower."""
        for index, block in self.blocks.items():
            assert isinstance(block, AdaptedBlock)
            load_frozen(block.frozen, tower, int(index))
        behind = {"ln_post.weight": self.ln_post_weight, "ln_post.bias": self.ln_post_bias, "proj": self.proj}
        for name, own in behind.items():
            if name not in tower or tower[name].shape != own.shape:
                raise InputError(f"task-adapter++ wants {name} of {tuple(own.shape)}, which the backbone does not have")
            own.copy_(tower[name])
        if f"transformer.resblocks.{int(index) + 1}.ln_1.weight" in tower:
            raise InputError(f"the backbone has more blocks than the {int(index) + 1} of the head: --option n_blocks=N")

    def check_tower(self, n_heads: int | None, *, quick_gelu: bool) -> None:
        """Raise InputError if the backbone's attentions have other heads, or its blocks another activation."""
        if n_heads not in (None, self.n_heads):
            raise InputError(
                f"attentions of the backbone have {n_heads} heads, those of task-adapter++ {self.n_heads}: --option "
                f"n_heads={n_heads}"
            )
        if quick_gelu != self.quick_gelu:
            ours, its = ("QuickGELU" if quick else "GELU" for quick in (self.quick_gelu, quick_gelu))
            raise InputError(
                f"task-adapter++ computes {ours}, and the backbone was trained with {its}: --option "
                f"quick_gelu={str(quick_gelu).lower()}"
            )

    def start_from_text_tower(self, tower: Mapping[str, Tensor]) -> None:
        """Take the frozen blocks of text, the norm behind them and the projection from a CLIP model."""
        if self.text_tower is None:
            raise InputError("task-adapter++ without text_level adapts no text tower")
        self.text_tower.start_from(tower)

    def _steps(self, query: Tensor) -> Tensor:
        """Return T - 1 steps (B, Q, T - 1, E): each frame but the first, and what the one before it finds."""
        before, after = query[:, :, :-1].transpose(1, 2), query[:, :, 1:].transpose(1, 2)  # (B, T - 1, Q, E)
        weights = (before @ after.transpose(-1, -2) / math.sqrt(query.shape[-1])).softmax(-1)
        steps: Tensor = self.order_norm(weights @ after) + after
        return steps.transpose(1, 2)

    def _ordered(self, steps: Tensor, class_text: Tensor | None) -> Tensor:
        """Return the mean cosine (B, Q, N) of a class's texts, each with its own stretch of steps."""
        assert class_text is not None
        n_texts = class_text.shape[2]
        cosine = self._cosine(steps.flatten(1, 2), class_text.flatten(1, 2))  # (B, Q * (T - 1), N * M)
        cosine = cosine.view(len(cosine), *steps.shape[1:3], -1, n_texts)
        windows = text_windows(steps.shape[2], n_texts)
        parts = [cosine[:, :, window, :, text].mean(2) for text, window in enumerate(windows)]
        return torch.stack(parts).mean(0)

    def _cosine(self, a: Tensor, b: Tensor) -> Tensor:
        """Return the cosines (B, L, M) of a (B, L, E) and b (B, M, E)."""
        a, b = F.normalize(a, dim=-1), F.normalize(b, dim=-1)
        if not self.official:
            return a @ b.transpose(-1, -2)
        return (a.half() @ b.half().transpose(-1, -2)).float()


def _text_tower(
    level: int, n_blocks: int, width: int, dim: int, n_heads: int | None, quick_gelu: bool
) -> AdaptedTextTower:
    """Return the blocks above a level; raises InputError for a level or a width that cannot be."""
    if not 0 <= level < n_blocks:
        raise InputError(f"text_level must be below the {n_blocks} blocks of the text tower, got {level}")
    n_heads = check_positive("n_text_heads", width // HEAD_WIDTH if n_heads is None else n_heads)
    if width % n_heads or width % 4:
        raise InputError(f"text_width must be a multiple of 4 and of n_text_heads, got {width} and {n_heads}")
    return AdaptedTextTower(level, n_blocks, width=width, dim=dim, n_heads=n_heads, quick_gelu=quick_gelu)


def text_windows(n_steps: int, n_texts: int) -> list[slice]:
    """Return the steps that each text is compared with: stretches of a third and more of 7 steps, overlapping by one.

    Raises:
        InputError: fewer steps than texts.
    """
    if n_texts > n_steps:
        raise InputError(f"{n_texts} texts of a class need {n_texts + 1} frames at least, got {n_steps + 1}")
    length = math.ceil(n_steps / n_texts)
    last = n_steps - length
    return [slice(start, start + length) for start in (round(i * last / max(n_texts - 1, 1)) for i in range(n_texts))]


def transposed(semantic: Tensor, query_labels: Tensor) -> Tensor:
    """Return the text's score (B, Q, N) as released: of query q and class c, that of c's own query with q's class."""
    classes = torch.arange(semantic.shape[2], device=semantic.device)
    if query_labels.shape[1] != len(classes) or not bool((query_labels.sort(1).values == classes).all()):
        raise InputError("the released text score needs one query of each class")
    query_of_class = query_labels.argsort(1)  # (B, N)
    by_class = semantic.gather(1, query_of_class.unsqueeze(-1).expand_as(semantic))  # (B, class of the query, class)
    return by_class.transpose(1, 2).gather(1, query_labels.unsqueeze(-1).expand_as(semantic))
