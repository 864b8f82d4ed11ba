"""What the official code bases call the parameters of a backbone: their weight decay goes by these names.

The code bases build torchvision's ResNets as a numbered Sequential and CLIP's towers as OpenAI does. A rule such as "no
decay where the name holds `bn`" then misses the first batch norm of a ResNet (`1.weight`), those of its shortcuts
(`downsample.1`), and every layer norm of CLIP (`ln_1`); the published results have these decays in them.
"""

from fsar.heads.checkpoints.backbone import STAGES

NUMBERS = {stage: number for number, stage in STAGES.items()}
"""A ResNet's children -> their position in the Sequential."""


def official_name(library: str, name: str) -> str:
    """Return the official name of a backbone's parameter, e.g. "layer1.0.bn1.weight" of torchvision: "4.0.bn1.weight".

    The towers of open_clip are named as OpenAI's. Backbones that no code base has used keep their names, but for the
    `norm` of timm's transformers, which are CLIP's `ln_`.
    """
    if library == "open_clip":
        return name
    child, _, rest = name.partition(".")
    if child in NUMBERS:
        return f"{NUMBERS[child]}.{rest}"
    return name.replace("norm", "ln_")


def library_name(library: str, name: str) -> str:
    """Return the name that an official parameter of a ResNet or a CLIP tower has in its library."""
    child, _, rest = name.partition(".")
    return f"{STAGES[child]}.{rest}" if library != "open_clip" and child in STAGES else name
