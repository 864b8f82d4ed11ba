"""The backbone that a recipe names, with the weights that it records."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from fsar.errors import InputError
from fsar.pipeline.encode.recipe import Recipe

if TYPE_CHECKING:
    from fsar.pipeline.backbones import Backbone


def backbone_of(recipe: Recipe, weights: Path | None = None) -> Backbone:
    """Load the backbone that a recipe names. Raises InputError when its weights are not the recorded ones."""
    from fsar.pipeline.backbones import load_backbone
    from fsar.pipeline.backbones.folding import fold_batch_norm

    name = f"{recipe.library}:{recipe.backbone}"
    if recipe.pretrained.startswith("random@"):
        backbone = load_backbone(f"random:{recipe.library}/{recipe.backbone}@{recipe.pretrained[7:]}", size=recipe.size)
    elif recipe.pretrained == "file":
        if weights is None:
            or_folder = " (its folder)" if recipe.library == "hf" else ""
            raise InputError(
                f"the store was made with a checkpoint file of {name}: pass it with --weights FILE{or_folder}"
            )
        backbone = load_backbone(name, weights=weights, size=recipe.size)
    else:
        between = "@" if recipe.library == "hf" else "/"
        backbone = load_backbone(f"{name}{between}{recipe.pretrained}", weights=weights, size=recipe.size)
    if recipe.clip is not None:
        backbone = backbone.with_clips_of(recipe.clip["length"])
    if backbone.weights_sha256 != recipe.weights_sha256:
        raise InputError(
            f"these weights of {name} are not the store's: sha256 {backbone.weights_sha256[:16]}..., "
            f"the store has {recipe.weights_sha256[:16]}..."
        )
    if recipe.fold_batch_norm:
        fold_batch_norm(backbone)
    return backbone
