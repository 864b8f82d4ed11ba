"""Classes of two datasets that mean the same, or nearly, under other names."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

EMPTY = frozenset(
    ("a", "an", "the", "of", "in", "on", "with", "to", "from", "or", "and", "by", "up", "something", "someone", "doing")
)
"""Words that tell no action."""
SAME = {
    "bicycle": "bike", "biking": "bike", "cycling": "bike", "cycle": "bike", "basket ball": "basketball",
    "run": "jog", "soccer": "football", "throw": "toss",
    "laugh": "smile", "draw": "sketch", "hit": "punch", "dive": "cliffdiving",
}  # fmt: skip
"""Words that datasets use for one thing."""
ALIKE = 0.5
"""Share of common words from which two names are listed."""


@dataclass(frozen=True)
class Alike:
    """Two classes that may be one."""

    first: str
    second: str
    kind: Literal["same", "part", "alike"]
    """The same words, all the words of one among those of the other, or half of all words in common."""


def alike_classes(first: Iterable[str], second: Iterable[str]) -> list[Alike]:
    """Return the pairs of classes, one of each list, that may mean the same; surest first.

    Names are compared by the stems of their words ("riding a bike", "RideBike" and "biking" share one): a help for the
    eye, which reads the list; it finds no meaning that no word shows.
    """
    found = []
    others = [(name, words_of(name)) for name in second]
    for name in first:
        own = words_of(name)
        for other, words in others:
            kind = _kind(own, words)
            if kind is not None:
                found.append(Alike(name, other, kind))
    order = {"same": 0, "part": 1, "alike": 2}
    return sorted(found, key=lambda pair: order[pair.kind])


def words_of(name: str) -> frozenset[str]:
    """Return the stems of the words of a class name: "BasketballDunk" -> basketball, dunk."""
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)
    words = re.findall(r"[a-z]+", spaced.lower())
    stems = {_stem(word) for word in words if word not in EMPTY}
    return frozenset(stems or words)


def _stem(word: str) -> str:
    word = SAME.get(word, word)
    for ending in ("ing", "es", "s"):
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            word = word.removesuffix(ending)
            break
    if len(word) > 3 and word[-1] == word[-2] and word[-1] not in "sl":
        word = word[:-1]  # running -> runn -> run
    return SAME.get(word, word).removesuffix("e")


def _kind(own: frozenset[str], words: frozenset[str]) -> Literal["same", "part", "alike"] | None:
    if own == words:
        return "same"
    if own <= words or words <= own:
        return "part"
    return "alike" if len(own & words) / len(own | words) >= ALIKE else None
