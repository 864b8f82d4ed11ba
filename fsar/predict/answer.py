"""What a prediction says of one query."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

NONE_OF_THESE = "none of these"


@dataclass(frozen=True, slots=True)
class ClassAnswer:
    """One class in the ranking."""

    class_name: str
    probability: float
    """That the query shows this class, given that it shows one of the classes."""
    logit: float


@dataclass(frozen=True, slots=True)
class Answer:
    """Ranked classes for one query, and what decided it."""

    query: str
    ranking: tuple[ClassAnswer, ...]
    """Best first, all classes."""
    known_probability: float | None
    """That the query shows one of the classes at all; None without a calibration."""
    none_of_these: bool | None
    """Whether that falls below the threshold; None without a calibration."""
    frame_times_seconds: tuple[float, ...]
    """Of the frames that the head saw."""
    frame_parts: tuple[float, ...]
    """What each of them says for the first class against the others, in units of the logits."""
    evidence: list[dict[str, Any]] = field(default_factory=list)
    """Of the first class: see `fsar.heads.explain`."""
    seconds: float = 0.0
    """From the query's file to the answer."""

    @property
    def decision(self) -> str:
        """The first class, or "none of these"."""
        return NONE_OF_THESE if self.none_of_these else self.ranking[0].class_name

    @property
    def decisive_seconds(self) -> tuple[float, float] | None:
        """From when to when in the query the frames lie that speak most for the first class; None if none does."""
        runs = decisive_frames(self.frame_parts)
        if runs is None:
            return None
        return self.frame_times_seconds[runs[0]], self.frame_times_seconds[runs[1]]

    def to_dict(self, top: int | None = None) -> dict[str, Any]:
        """Return JSON data with the first `top` classes."""
        return {
            "query": self.query,
            "decision": self.decision,
            "ranking": [
                {"class": a.class_name, "probability": round(a.probability, 6), "logit": a.logit}
                for a in self.ranking[:top]
            ],
            "known_probability": self.known_probability,
            "none_of_these": self.none_of_these,
            "frame_times_seconds": list(self.frame_times_seconds),
            "frame_parts": [round(part, 6) for part in self.frame_parts],
            "decisive_seconds": self.decisive_seconds,
            "evidence": self.evidence,
            "seconds": round(self.seconds, 4),
        }


def decisive_frames(parts: Sequence[float]) -> tuple[int, int] | None:
    """Return first and last frame of the run of positive parts with the largest sum; None if no part is positive."""
    best, best_sum, start, total = None, 0.0, 0, 0.0
    for place, part in enumerate(parts):
        if part <= 0:
            start, total = place + 1, 0.0
            continue
        total += part
        if total > best_sum:
            best, best_sum = (start, place), total
    return best
