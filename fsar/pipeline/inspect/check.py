"""Read every video of a catalog quickly and say what is odd, before time on a GPU is spent."""

import csv
import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from fsar.errors import count_of
from fsar.files import write_atomic
from fsar.pipeline.catalog.catalog import CatalogRow
from fsar.pipeline.inspect.facts import VideoFacts, read_facts
from fsar.pipeline.inspect.oddities import Oddity, find_oddities
from fsar.pipeline.jobs.run import TIMEOUT_SECONDS, Failure, run_jobs

MAX_EXAMPLES = 3
"""Examples of a kind in the printed table; the JSON has them all."""


@dataclass(frozen=True)
class CheckReport:
    """What a check found."""

    facts: list[VideoFacts]
    failures: list[Failure]
    oddities: list[Oddity]

    def to_dict(self) -> dict[str, Any]:
        """Return counts, oddities and failures for JSON."""
        return {
            "n_videos": len(self.facts) + len(self.failures),
            "n_unreadable": len(self.failures),
            "unreadable": [asdict(failure) for failure in self.failures],
            "odd": [{**asdict(oddity), "n": len(oddity.examples)} for oddity in self.oddities],
            "containers": self._counts("container"),
            "codecs": self._counts("codec"),
            "frames": _spread([fact.frames for fact in self.facts]),
            "seconds": _spread([fact.seconds for fact in self.facts if fact.seconds]),
            "sizes": dict(Counter(f"{fact.width}x{fact.height}" for fact in self.facts).most_common()),
        }

    def to_text(self) -> str:
        """Return a table for people."""
        lines = [f"{count_of(len(self.facts), 'video')} can be read, {len(self.failures)} cannot"]
        if self.facts:
            frames = _spread([fact.frames for fact in self.facts])
            lines.append(f"frames: {frames['min']} to {frames['max']}, median {frames['median']}")
            for name in ("container", "codec"):
                lines.append(f"{name}s: " + ", ".join(f"{key} {n}" for key, n in self._counts(name).items()))
        lines += [_row("odd", "videos", "what of it; examples")] if self.oddities else ["nothing odd"]
        for oddity in self.oddities:
            lines.append(_row(oddity.kind, str(len(oddity.examples)), f"{oddity.advice}: {_some(oddity.examples)}"))
        for reason, n in Counter(failure.reason for failure in self.failures).most_common():
            first = next(failure for failure in self.failures if failure.reason == reason)
            lines.append(_row(f"unreadable: {reason}", str(n), first.message))
        return "\n".join(lines)

    def _counts(self, name: str) -> dict[str, int]:
        return dict(Counter(str(getattr(fact, name)) for fact in self.facts).most_common())


def check_videos(
    rows: Sequence[CatalogRow],
    *,
    min_frames: int = 8,
    n_jobs: int = 1,
    quiet: bool = False,
    timeout_seconds: float | None = TIMEOUT_SECONDS,
) -> CheckReport:
    """Return the facts of every video that can be read, why the others cannot, and what is odd."""
    outcomes = run_jobs(
        "check",
        list(rows),
        read_facts,
        n_jobs=n_jobs,
        key=lambda row: row.video_id,
        quiet=quiet,
        timeout_seconds=timeout_seconds,
    )
    facts = [outcome.value for outcome in outcomes if outcome.value is not None]
    failures = [outcome.failure for outcome in outcomes if outcome.failure is not None]
    return CheckReport(facts, failures, find_oddities(facts, min_frames=min_frames))


def write_facts(path: Path, facts: Sequence[VideoFacts]) -> None:
    """Write one line for each video as CSV, whole or not at all."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    names = [field.name for field in fields(VideoFacts)]
    writer.writerow(names)
    writer.writerows([getattr(fact, name) for name in names] for fact in facts)
    write_atomic(path, text.getvalue())


def _spread(values: Sequence[float]) -> dict[str, float]:
    ordered = sorted(values)
    return {"min": ordered[0], "median": ordered[len(ordered) // 2], "max": ordered[-1]} if ordered else {}


def _row(kind: str, n: str, what: str) -> str:
    return f"{kind:<36}{n:>7}  {what}"


def _some(examples: Sequence[str]) -> str:
    return "; ".join(examples[:MAX_EXAMPLES]) + (
        f"; and {len(examples) - MAX_EXAMPLES} more" if len(examples) > MAX_EXAMPLES else ""
    )
