"""What the paper of a method reports: the number to expect beside the number that was measured."""

import functools
import re
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib import resources
from typing import Any


@dataclass(frozen=True, slots=True)
class Published:
    """One published accuracy, as its source gives it."""

    method: str
    head: str
    """Our name of the method; empty where there is none."""
    backbone: str
    split: str
    """As `fsar-prep splits list` names it, or "kinetics100" where the source does not say which list of videos."""
    n_way: int
    n_shot: int
    accuracy: float
    """Share of right answers, in [0, 1]."""
    source: str


@functools.cache
def published_results() -> tuple[Published, ...]:
    """Return every published accuracy that we know, in the order of the table `published.toml`."""
    text = (resources.files("fsar.heads.evaluation") / "published.toml").read_text("utf-8")
    table = tomllib.loads(text)
    return tuple(
        Published(
            **{key: entry[key] for key in ("method", "head", "backbone", "split", "n_way")},
            n_shot=int(n_shot),
            accuracy=round(percent / 100, 6),
            source=table["sources"][entry["source"]],
        )
        for entry in table["results"]
        for n_shot, percent in entry["accuracy"].items()
    )


def published_result(
    head: str, recipe: Mapping[str, Any], *, split: str, n_way: int, n_shot: Any
) -> dict[str, Any] | None:
    """Return the published accuracy for a head on these terms, best one on the same kind of backbone; None without.

    The result has the fields of `Published` and `same_backbone`, false where there is only one on another backbone: it
    is no number to expect then, only one to know.
    """
    found = [
        entry
        for entry in published_results()
        if entry.head == head and (entry.n_way, entry.n_shot) == (n_way, n_shot) and _same_split(entry.split, split)
    ]
    if not found:
        return None
    kind = backbone_kind(recipe)
    alike = [entry for entry in found if kind and entry.backbone.startswith(kind)]
    return {**asdict((alike or found)[0]), "same_backbone": bool(alike)}


def _same_split(published: str, split: str) -> bool:
    return published == split or (published == "kinetics100" and split.startswith("kinetics100-"))


def backbone_kind(recipe: Mapping[str, Any]) -> str:
    """Return how papers call the backbone of a recipe: "CLIP ViT-B/16", "RN50"; empty for any other."""
    name, library = str(recipe.get("backbone", "")), recipe.get("library")
    if str(recipe.get("pretrained", "")).startswith("random"):
        return ""
    if library == "open_clip":
        plain = name.removesuffix("-quickgelu")
        return "CLIP " + re.sub(r"^(ViT-\w+)-(\d+)$", r"\1/\2", plain)
    return "RN50" if name == "resnet50" else ""
