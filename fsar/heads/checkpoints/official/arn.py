"""Official form of ARN's attention and relation network, without its encoder of pixels."""

from typing import Any

from fsar.heads.checkpoints.official.formats import Metadata, OfficialFormat, State, register_official

CHANNELS = 64


def _options(metadata: Metadata, state: State) -> dict[str, Any]:
    """Return the options of `second-order`; all sizes are fixed in the official code."""
    settings = metadata.get("options", metadata)
    return {
        "dim": CHANNELS,
        "channels": CHANNELS,
        "compare": "relation",
        "attention": any(name.startswith("spatial_detector.") for name in state),
        "steepness": float(settings.get("sigma", 100.0)),
        "compat": "official",
    }


register_official(
    "arn",
    OfficialFormat(
        "second-order",
        _options,
        renames=(
            *((rf"^relation_network\.layer{i}\.0\.", f"relation.convolutions.{i - 1}.") for i in (1, 2, 3, 4)),
            *((rf"^relation_network\.layer{i}\.1\.", f"relation.norms.{i - 1}.") for i in (1, 2, 3, 4)),
            (r"^relation_network\.", "relation."),
            (r"^spatial_detector\.sd1\.0\.", "attention.first."),
            (r"^spatial_detector\.sd1\.1\.", "attention.norm1."),
            (r"^spatial_detector\.sd1\.4\.", "attention.second."),
            (r"^spatial_detector\.sd1\.5\.", "attention.norm2."),
            (r"^spatial_detector\.sd1\.8\.", "attention.last."),
        ),
        leftovers=(r"(feature_encoder|jigsaw_discriminator)\..*",),
        guessed=("sigma",),
    ),
)
