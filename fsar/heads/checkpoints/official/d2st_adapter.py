"""Official form of D2ST-Adapter: an adapted CLIP tower and a classifier of the training classes in one module."""

from typing import Any

from fsar.heads.checkpoints.official.formats import CLIPFSAR_FRAMES, Metadata, OfficialFormat, State, register_official
from fsar.heads.checkpoints.official.settings import flag


def _options(metadata: Metadata, state: State) -> dict[str, Any]:
    weight = state.get("classification_layer.weight")
    if weight is None:
        return {}
    given = metadata.get("options", {}).get("class_weight")
    given = flag(metadata, "USE_CLASSIFICATION_VALUE", 1.0) if given is None else given
    return {"dim": weight.shape[1], "n_classes": weight.shape[0], "class_weight": float(given)}


register_official(
    "d2st_adapter",
    OfficialFormat(
        "bi-mhm",
        _options,
        leftovers=(r"(?!classification_layer\.).*",),  # the tower
        encode=CLIPFSAR_FRAMES.replace("clip-fsar", "molo"),
    ),
)
