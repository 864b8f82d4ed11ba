"""The fine-tuned backbone inside a published checkpoint, under the names of the library that can run it."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

PREFIX = re.compile(r"(?:head\.)?(?:backbone|resnet|encoder)\.")
CLIP_MARKS = ("class_embedding", "attnpool.positional_embedding")
STAGES = {"0": "conv1", "1": "bn1", "4": "layer1", "5": "layer2", "6": "layer3", "7": "layer4"}
"""Positions of a torchvision ResNet's children in the Sequential that the code bases make of it."""
RESNETS: dict[tuple[tuple[int, ...], bool], str] = {
    ((2, 2, 2, 2), False): "resnet18",
    ((3, 4, 6, 3), False): "resnet34",
    ((3, 4, 6, 3), True): "resnet50",
    ((3, 4, 23, 3), True): "resnet101",
    ((3, 8, 36, 3), True): "resnet152",
}
CLIP_RESNETS: dict[tuple[int, ...], str] = {
    (3, 4, 6, 3): "RN50",
    (3, 4, 23, 3): "RN101",
    (4, 6, 10, 6): "RN50x4",
    (6, 8, 18, 8): "RN50x16",
}
CLIP_VITS = {(768, 32): "ViT-B-32", (768, 16): "ViT-B-16", (1024, 14): "ViT-L-14"}
CLIP_DIMS = {768: 512, 1024: 768}
"""Width of CLIP's image transformers -> that of their features."""
ADAPTER = re.compile(r"transformer\.resblocks\.(\d+)\.Adapter\.(.*)")
"""The official names of D2ST-Adapters in a transformer."""
OF_CLASSIFIER = ("classification_layer.", "head.classification_layer.")


@dataclass(frozen=True, slots=True)
class ImportedBackbone:
    """An image backbone as `fsar-prep encode` takes it."""

    spec: str
    """Library and model, e.g. "open_clip:ViT-B-16"; the file's path follows after a slash."""
    state: dict[str, Tensor]
    """Under the library's own names; adapters beside them."""
    facts: Mapping[str, str] = field(default_factory=dict)
    """What the header of its file must say: which adapters it has."""

    @property
    def is_clip(self) -> bool:
        """True for a tower of OpenAI's CLIP, which has QuickGELU activations."""
        return self.spec.startswith("open_clip:")


def split_backbone(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the head's tensors and the backbone's; the latter without their prefix.

    D2ST-Adapter's module is the tower itself, with a classifier in it.
    """
    if has_adapters(state):
        tower = {name: tensor for name, tensor in state.items() if not name.startswith(OF_CLASSIFIER)}
        head = {name: tensor for name, tensor in state.items() if name not in tower}
        return head, {re.sub(r"^(?:head\.)?(?:backbone\.)?", "", name): tensor for name, tensor in tower.items()}
    head = {name: tensor for name, tensor in state.items() if not PREFIX.match(name)}
    backbone = {PREFIX.sub("", name, count=1): tensor for name, tensor in state.items() if PREFIX.match(name)}
    return head, backbone


def recognise_backbone(state: Mapping[str, Tensor]) -> ImportedBackbone | None:
    """Return the backbone that tensors (without prefix) belong to; None if they are of no kind known here."""
    if has_adapters(state):
        return _adapted(state)
    if any(mark in state for mark in CLIP_MARKS):
        name = _clip_name(state)
        return None if name is None else ImportedBackbone(f"open_clip:{name}", dict(state))
    renamed = {}
    for name, tensor in state.items():
        position, _, rest = name.partition(".")
        if position not in STAGES:
            return None
        renamed[f"{STAGES[position]}.{rest}"] = tensor
    known = RESNETS.get((_depths(renamed), "layer1.0.conv3.weight" in renamed))
    return None if known is None else ImportedBackbone(f"torchvision:{known}", renamed)


def has_adapters(state: Mapping[str, Tensor]) -> bool:
    """Tell whether a transformer with D2ST-Adapters is among tensors."""
    return any(ADAPTER.search(name) for name in state)


def adapter_name(official: str) -> str:
    """Return our name of an official tensor of an adapted transformer; those of the tower keep theirs."""
    if found := ADAPTER.fullmatch(official):
        return f"adapters.layers.{found[1]}.adapter.{found[2]}"
    return f"adapters.{official}" if official == "temporal_embedding" else official


def _adapted(state: Mapping[str, Tensor]) -> ImportedBackbone | None:
    """Return a CLIP transformer with adapters, whose features do not go through the projection."""
    if not {"conv1.weight", "temporal_embedding"} <= state.keys() or (name := _clip_name(state)) is None:
        return None
    width = len(state["ln_post.weight"])
    unused = {"proj": state["ln_post.weight"].new_zeros(width, CLIP_DIMS[width])}  # every file of a CLIP model has one
    facts = {
        "adapters": "d2st-adapter",
        "adapter_frames": str(state["temporal_embedding"].shape[1]),
        "adapter_projection": "false",
    }
    return ImportedBackbone(f"open_clip:{name}", {adapter_name(n): t for n, t in state.items()} | unused, facts)


def _clip_name(state: Mapping[str, Tensor]) -> str | None:
    if "class_embedding" in state:
        width, _, size, _ = state["conv1.weight"].shape
        return CLIP_VITS.get((width, size))
    return CLIP_RESNETS.get(_depths(state))


def _depths(state: Mapping[str, Tensor]) -> tuple[int, ...]:
    """Return the number of blocks in each stage of a ResNet."""
    blocks = {tuple(name.split(".")[:2]) for name in state if name.startswith("layer")}
    return tuple(sum(stage == f"layer{number}" for stage, _ in blocks) for number in (1, 2, 3, 4))
