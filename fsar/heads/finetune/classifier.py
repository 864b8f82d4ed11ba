"""What a backbone learns the base classes by: a classifier of motion, and the class text of its own text tower."""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fsar.errors import InputError
from fsar.heads.batch import EpisodeBatch, PairBatch
from fsar.heads.head import Head, Input, Losses, Outputs


class BaseClassifier(Head):
    """Names the base class of a video; thrown away once the backbone has learned.

    The backbone sees single frames, so what a head can do with motion depends on whether its features move when the
    picture does. The classifier sees only the *differences* of consecutive frame features: to tell "left to right" from
    "right to left" wherever it starts, position must become a direction in feature space. Features are standardised
    first (statistics of the batch, nothing learned), so that no channel can win by its scale.

    With a text tower the mean frame is drawn to the text of its class as well, by the cosine of the two.
    """

    inputs = (Input("frames", ("pooled",), "(D,)"),)
    training_unit: ClassVar = "pairs"

    def __init__(self, *, dim: int, n_frames: int, n_classes: int, words: "ClassWords | None" = None) -> None:
        """Build it; weights come from torch's current generator.

        Raises:
            InputError: motion shows in two frames or more.
        """
        super().__init__()
        if n_frames < 2:
            raise InputError(f"tuning on motion needs at least 2 frames a video, got {n_frames}")
        self.standardise = nn.BatchNorm1d(dim, affine=False)
        self.classify = nn.Linear((n_frames - 1) * dim, n_classes)
        self.words = words

    def logits(self, frames: Tensor) -> Tensor:
        """Return logits (V, C) of frame features (V, T, D)."""
        standard = self.standardise(frames.flatten(0, 1)).unflatten(0, frames.shape[:2])
        found: Tensor = self.classify(standard.diff(dim=1).flatten(1))
        return found

    def pair_loss(self, batch: PairBatch) -> Losses:
        """Return the cross entropies; "total" is their sum."""
        frames = batch.features["frames"].float()
        losses = {"motion": F.cross_entropy(self.logits(frames), batch.class_ids)}
        if self.words is not None:
            losses["text"] = F.cross_entropy(self.words.logits(frames), batch.class_ids)
        return {**losses, "total": torch.stack(list(losses.values())).sum()}

    def outputs(self, batch: EpisodeBatch) -> Outputs:
        """Refuse episodes."""
        raise InputError("the classifier of base classes compares no videos")


class ClassWords(nn.Module):
    """The text tower of a CLIP model and the prompts of some classes. The weights are the model's own, not copies."""

    def __init__(self, clip: Any, prompts: Tensor) -> None:
        """Take everything of a CLIP model but its image tower; `prompts` are token ids (C, L)."""
        super().__init__()
        self._clip = (clip,)  # in a tuple, or the image tower would become a part of this one
        for name, child in clip.named_children():
            if name != "visual":
                self.add_module(name, child)
        for name, parameter in clip.named_parameters(recurse=False):
            self.register_parameter(name, parameter)
        self.register_buffer("prompts", prompts, persistent=False)

    def logits(self, frames: Tensor) -> Tensor:
        """Return the scaled cosines (V, C) of mean frames (V, T, D) and the prompts."""
        (clip,) = self._clip
        text = clip.encode_text(self.prompts, normalize=True)
        cosines: Tensor = F.normalize(frames.mean(1), dim=-1) @ text.T
        return clip.logit_scale.exp() * cosines


def class_words(clip: Any, name: str, sentences: Sequence[str]) -> ClassWords:
    """Return the text tower of the model `name` with its prompts tokenised."""
    import open_clip

    return ClassWords(clip.float(), open_clip.get_tokenizer(name)(list(sentences)))
