"""Video models of transformers: VideoMAE, V-JEPA 2, TimeSformer, ViViT, X-CLIP."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fsar.errors import InputError
from fsar.pipeline.backbones.base import VideoInput
from fsar.pipeline.backbones.hf.tower import Family, Seen

if TYPE_CHECKING:
    from torch import Tensor, nn


class VideoFamily(Family):
    """Models whose last hidden state is a row of tokens, time step after time step, perhaps behind a class token."""

    length_field = "num_frames"
    n_before = 0
    """Tokens before those of the patches."""

    def grid(self, tokens: Tensor) -> Tensor:
        """Return the patches by time step."""
        by_step = tokens[:, self.n_before :].reshape(len(tokens), -1, self.side, self.side, tokens.shape[2])
        return by_step.permute(0, 4, 1, 2, 3)

    @property
    def video(self) -> VideoInput | None:
        """Clips of the one length that its positions are for."""
        return VideoInput(int(getattr(self.config, self.length_field)), fixed_length=True)


class VideoMae(VideoFamily):
    """VideoMAE (Tong et al. 2022).

    Pooled is the mean of all tokens; of a model that was trained to classify what its classifier sees.
    """

    model, classifier = "VideoMAEModel", "VideoMAEForVideoClassification"
    processor = "VideoMAEImageProcessor"

    def vision_parts(self, model: Any) -> dict[str, nn.Module]:
        """Return the encoder, and the normalisation before the classifier."""
        self.classifies = hasattr(model, "videomae")
        if not self.classifies:
            return {"body": model}
        norm = {} if model.fc_norm is None else {"norm": model.fc_norm}
        return {"body": model.videomae, **norm}

    def look(self, pixels: Tensor) -> Seen:
        """Return the encoder's tokens, pooled as its classifier does."""
        tokens = self.parts["body"](pixels).last_hidden_state
        if self.classifies and not self.config.use_mean_pooling:
            return Seen(tokens[:, 0], tokens)
        pooled = tokens.mean(1)
        return Seen(self.parts["norm"](pooled) if "norm" in self.parts else pooled, tokens)


class VJepa(VideoFamily):
    """V-JEPA 2 (Assran et al. 2025): the encoder without the predictor.

    Pooled is the mean of all tokens; of a model that was trained to classify the output of its attentive pooler.
    """

    model, classifier = "VJEPA2Model", "VJEPA2ForVideoClassification"
    processor = "VJEPA2VideoProcessor"
    size_field, length_field = "crop_size", "frames_per_clip"
    any_size = True

    def vision_parts(self, model: Any) -> dict[str, nn.Module]:
        """Return the encoder, and the pooler before the classifier."""
        if hasattr(model, "vjepa2"):
            return {"body": model.vjepa2.encoder, "pooler": model.pooler}
        return {"body": model.encoder}

    def look(self, pixels: Tensor) -> Seen:
        """Return the encoder's tokens, pooled."""
        tokens = self.parts["body"](pixel_values_videos=pixels).last_hidden_state
        return Seen(self.parts["pooler"](tokens) if "pooler" in self.parts else tokens.mean(1), tokens)

    @property
    def video(self) -> VideoInput | None:
        """Clips of any number of whole tubelets."""
        return VideoInput(int(getattr(self.config, self.length_field)), multiple=int(self.config.tubelet_size))


class Timesformer(VideoFamily):
    """TimeSformer (Bertasius et al. 2021): the class token, normalised."""

    model, processor = "TimesformerModel", "VideoMAEImageProcessor"
    n_before = 1

    def vision_parts(self, model: Any) -> dict[str, nn.Module]:
        """Return the model. Raises InputError for attention over space alone, which gives no features of clips."""
        if model.config.attention_type == "space_only":
            raise InputError("TimeSformer with attention_type space_only sees single frames; take a model over time")
        return {"body": model}

    def look(self, pixels: Tensor) -> Seen:
        """Return what its classifier sees, and all tokens."""
        tokens = self.parts["body"](pixels).last_hidden_state
        return Seen(tokens[:, 0], tokens)

    def grid(self, tokens: Tensor) -> Tensor:
        """Return the patches by time step: its tokens stand place after place, each with all its time steps."""
        by_place = tokens[:, self.n_before :].reshape(len(tokens), self.side, self.side, -1, tokens.shape[2])
        return by_place.permute(0, 4, 3, 1, 2)


class Vivit(VideoFamily):
    """ViViT (Arnab et al. 2021), factorised by tubelets: the class token, normalised."""

    model, processor = "VivitModel", "VivitImageProcessor"
    options = {"add_pooling_layer": False}  # noqa: RUF012 - of the class, as in every family
    n_before = 1

    @property
    def patch(self) -> int:
        """Side of a tubelet."""
        return int(self.config.tubelet_size[1])

    def vision_parts(self, model: Any) -> dict[str, nn.Module]:
        """Return the model."""
        return {"body": model}

    def look(self, pixels: Tensor) -> Seen:
        """Return what its classifier sees, and all tokens."""
        tokens = self.parts["body"](pixels).last_hidden_state
        return Seen(tokens[:, 0], tokens)


class XClip(VideoFamily):
    """X-CLIP (Ni et al. 2022): the video embedding in the space of its texts, not normalised.

    Time steps are the frames after they exchanged messages and went through the transformer over frames; the mean of
    them is the video embedding.
    """

    model, processor = "XCLIPModel", "VideoMAEImageProcessor"
    text = ("text_model.", "text_projection.")
    has_steps = True

    def vision_parts(self, model: Any) -> dict[str, nn.Module]:
        """Return vision transformer, projection, and the transformer over frames."""
        return {"body": model.vision_model, "projection": model.visual_projection, "over_frames": model.mit}

    def look(self, pixels: Tensor) -> Seen:
        """Return what `get_video_features` gives, and what it is the mean of."""
        n_clips = len(pixels)
        frames = self.parts["body"](pixels.flatten(0, 1))
        each = self.parts["projection"](frames.pooler_output).unflatten(0, (n_clips, -1))  # (B, T, D)
        over = self.parts["over_frames"](each)
        tokens = frames.last_hidden_state[:, 1:].unflatten(0, (n_clips, -1)).flatten(1, 2)  # (B, T * h * w, W)
        return Seen(over.pooler_output, tokens, over.last_hidden_state)

    @property
    def dim(self) -> int:
        """Width of the joint space."""
        return int(self.parts["projection"].out_features)  # type: ignore[arg-type]

    def blocks(self) -> tuple[nn.Module, ...]:
        """Return none: its blocks see frames one by one."""
        return ()

    def finish(self) -> Any:
        """Return None."""
        return None
