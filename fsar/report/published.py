"""Published accuracies beside our own, and whether the published backbone was trained along."""

from dataclasses import dataclass

from fsar.heads.evaluation.published import Published, published_results
from fsar.heads.recipes.presets import get_preset, list_presets

TUNED = ("tunes the backbone", "backbone trained along")
FROZEN = ("backbone stays frozen", "backbone is frozen")


@dataclass(frozen=True)
class Beside:
    """A published number that a result can be read beside."""

    entry: Published
    tuning: str


def beside(head: str, split: str, n_way: int, n_shot: object) -> list[Beside]:
    """Return every published accuracy of a head on the same split, ways and shots; "kinetics100" fits all its lists."""
    fitting = [
        entry
        for entry in published_results()
        if entry.head == head
        and (entry.n_way, entry.n_shot) == (n_way, n_shot)
        and (entry.split == split or (entry.split == "kinetics100" and split.startswith("kinetics100-")))
    ]
    return [Beside(entry, tuning(entry)) for entry in fitting]


def tuning(entry: Published) -> str:
    """Return whether the backbone moved in training: as the source says, else as the recipe of the method does."""
    if "frozen" in entry.backbone.lower():
        return "frozen, says the source"
    notes = " ".join(get_preset(name, entry.head).note for name in list_presets(entry.head)) if entry.head else ""
    if any(words in notes for words in TUNED):
        return "tuned, by the method's published recipe"
    if any(words in notes for words in FROZEN):
        return "frozen, by the method's published recipe"
    return "not stated"
