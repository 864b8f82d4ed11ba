"""First weights of a head from those of the backbone whose features it reads."""

from pathlib import Path
from typing import TYPE_CHECKING

from fsar.errors import InputError
from fsar.heads.head import Head
from fsar.pipeline.encode.command import backbone_spec

if TYPE_CHECKING:
    from fsar.pipeline.backbones import Backbone
    from fsar.pipeline.store import FeatureStore


def start_from_store(head: Head, store: "FeatureStore", weights: Path | None = None) -> None:
    """Give a head that asks for it its first weights, from the backbone that made a store; any other stays as it is.

    Raises:
        InputError: the backbone is not at hand (it says what would bring it), or has no weights of the kind wanted, or
            weights were given for a head that does not start from them.
    """
    from fsar.pipeline.encode.recipe import Recipe
    from fsar.pipeline.encode.recorded_backbone import backbone_of

    if not head.starts_from_backbone:
        if weights is not None:
            raise InputError("--weights is for --finetune last:N, and for heads that start from the backbone's weights")
        return
    try:
        backbone = backbone_of(Recipe.from_dict(store.recipe), weights)
    except InputError as error:
        raise InputError(
            f"the head starts from the weights of {backbone_spec(store.recipe)}, which are not at hand: {error}; bring "
            "them here, or start from random weights with --option start=random"
        ) from error
    start_from(head, backbone)


def start_from(head: Head, backbone: "Backbone") -> None:
    """Give a head its first weights from a backbone, and from its text tower where the head adapts that.

    Raises:
        InputError: a backbone of another kind, or one without the text tower.
    """
    head.start_from_backbone(backbone.module.state_dict())
    blocks = getattr(getattr(backbone.module, "transformer", None), "resblocks", None)
    head.check_tower(blocks[0].attn.num_heads if blocks else None, quick_gelu=backbone.quick_gelu)
    if not head.starts_from_text_tower:
        return
    if backbone.clip is None:
        raise InputError(
            f"the head adapts the text tower too, and the weights of {backbone.library}:{backbone.name} are those of "
            "the image tower alone: bring a checkpoint with both"
        )
    head.start_from_text_tower(backbone.clip.state_dict())
