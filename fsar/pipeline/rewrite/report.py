"""What came of rewriting the videos of a catalog."""

from dataclasses import dataclass
from pathlib import Path

from fsar.pipeline.jobs.run import Failure


@dataclass(frozen=True)
class RewriteReport:
    """What a run did."""

    done: int
    """Videos that this process rewrote."""
    kept: int
    """Videos that an earlier run had finished, or another process at the same time."""
    failures: list[Failure]
    """Of the whole catalog."""
    catalog: Path
    """The catalog of the rewritten videos, for the next stage."""
