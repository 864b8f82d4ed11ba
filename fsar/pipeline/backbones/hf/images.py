"""Image models of transformers: CLIP, SigLIP, SigLIP 2, DINOv2, DINOv3."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fsar.errors import InputError
from fsar.pipeline.backbones.hf.tower import Family, Seen, square

if TYPE_CHECKING:
    from torch import Tensor, nn


class Clip(Family):
    """CLIP (Radford et al. 2021): the projected image embedding, not normalised."""

    model, processor = "CLIPModel", "CLIPImageProcessor"
    text = ("text_model.", "text_projection.")
    any_size = True

    def vision_parts(self, model: Any) -> dict[str, nn.Module]:
        """Return vision transformer and projection."""
        return {"body": model.vision_model, "projection": model.visual_projection}

    def look(self, pixels: Tensor) -> Seen:
        """Return what `get_image_features` gives."""
        output = self.parts["body"](pixels, interpolate_pos_encoding=self.size != self.config.image_size)
        return Seen(self.parts["projection"](output.pooler_output), output.last_hidden_state)

    def grid(self, tokens: Tensor) -> Tensor:
        """Return the patches after the last block, as they are."""
        return square(tokens, 1)

    @property
    def dim(self) -> int:
        """Width of the joint space."""
        return int(self.parts["projection"].out_features)  # type: ignore[arg-type]

    def finish(self) -> Any:
        """Return normalisation and projection: every token in the joint space, as the pooled one is."""
        norm, projection = self.parts["body"].post_layernorm, self.parts["projection"]

        def project(tokens: Tensor) -> Tensor:
            return projection(norm(tokens))  # type: ignore[operator]

        return project


class Siglip(Family):
    """SigLIP (Zhai et al. 2023) and the SigLIP 2 models for one size, which are of its form."""

    model, processor = "SiglipModel", "SiglipImageProcessor"
    text = ("text_model.",)
    any_size = True

    def vision_parts(self, model: Any) -> dict[str, nn.Module]:
        """Return the vision transformer with its pooling head."""
        if not getattr(model.config.vision_config, "vision_use_head", True):
            raise InputError(f"{self.model} without a pooling head (vision_use_head false) has no pooled features")
        return {"body": model.vision_model}

    def look(self, pixels: Tensor) -> Seen:
        """Return what `get_image_features` gives."""
        output = self.parts["body"](pixels, interpolate_pos_encoding=self.size != self.config.image_size)
        return Seen(output.pooler_output, output.last_hidden_state)

    def grid(self, tokens: Tensor) -> Tensor:
        """Return the normalised patches."""
        return square(tokens, 0)


class SiglipNaflex(Siglip):
    """SigLIP 2 for any aspect (Tschannen et al. 2025), here on squares: all patches are seen, none is padding."""

    model, processor = "Siglip2Model", "Siglip2ImageProcessor"
    size_field = ""
    padded = True

    def look(self, pixels: Tensor) -> Seen:
        """Return what `get_image_features` gives for the patches of square pictures."""
        import torch

        patches = pixels.reshape(len(pixels), 3, self.side, self.patch, self.side, self.patch)
        patches = patches.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)  # (B, h * w, p * p * 3)
        mask = torch.ones(patches.shape[:2], dtype=torch.int32, device=pixels.device)
        shapes = torch.full((len(pixels), 2), self.side, device="cpu")  # which the model reads one by one
        output = self.parts["body"](patches, mask, shapes)
        return Seen(output.pooler_output, output.last_hidden_state)


class Dino(Family):
    """DINOv2 (Oquab et al. 2023, with registers Darcet et al. 2023): the class token, normalised."""

    model, processor = "Dinov2Model", "BitImageProcessor"
    any_size = True

    def vision_parts(self, model: Any) -> dict[str, nn.Module]:
        """Return the model."""
        return {"body": model}

    def look(self, pixels: Tensor) -> Seen:
        """Return the model's own output."""
        output = self.parts["body"](pixels)
        return Seen(output.pooler_output, output.last_hidden_state)

    def grid(self, tokens: Tensor) -> Tensor:
        """Return the normalised patches."""
        return square(tokens, 1 + getattr(self.config, "num_register_tokens", 0))


class DinoRegisters(Dino):
    """DINOv2 with registers."""

    model = "Dinov2WithRegistersModel"


class Dino3(Dino):
    """DINOv3 (Siméoni et al. 2025), a transformer."""

    model, processor = "DINOv3ViTModel", "DINOv3ViTImageProcessor"


class Dino3ConvNext(Dino3):
    """DINOv3 distilled into a ConvNeXt: the normalised mean of its map."""

    model = "DINOv3ConvNextModel"

    @property
    def dim(self) -> int:
        """Width of the last stage."""
        return int(self.config.hidden_sizes[-1])

    @property
    def patch(self) -> int:
        """Pixels along a side of a position of the last map."""
        return 32

    def blocks(self) -> tuple[nn.Module, ...]:
        """Return none: it has stages."""
        return ()

    def finish(self) -> Any:
        """Return None."""
        return None
