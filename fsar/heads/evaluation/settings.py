"""What `fsar-eval-head` and `fsar.evaluate` take."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from fsar.errors import InputError
from fsar.heads.setup.settings import ReadSettings
from fsar.settings import Count, Natural, PerClass, Spelling

if TYPE_CHECKING:
    from fsar.heads.head import Head

    HeadLike = str | Head
else:
    HeadLike = str


@dataclass(frozen=True, kw_only=True)
class EvaluateSettings(ReadSettings):
    """Runs or untrained heads to test on a part of a store."""

    heads: tuple[HeadLike, ...]
    """Run folders, names of heads, or heads."""
    way: int | None = None
    """Classes per episode. [default: of the run, else 5]"""
    shot: PerClass | None = None
    """Supports per class; 1,5,2,1,1 for unequal ones. [default: of the run, else 1]"""
    shots: tuple[int, ...] | None = None
    """Several shots in one call, as 1,2,3,4,5."""
    query: PerClass = 1
    """Queries per class."""
    episodes: Count = 10_000
    """Test episodes."""
    seed: Natural = 0
    """Of the episode list."""
    part: str | None = None
    """Part of the split. [default: of the run, else test]"""
    order: bool = True
    """Also measure what shuffling the frames costs."""
    complexity: bool = False
    """Also measure what one episode costs: operations, milliseconds, bytes of a video."""
    episodes_file: Path | None = None
    """Saved list of episodes, instead of drawn ones."""
    save_episodes: Path | None = None
    """Save the list of episodes here (.npz)."""
    compare: Annotated[str | None, Spelling(("--compare",), "RUN2")] = None
    """Also test this run or head and give the paired difference to the first."""
    options: Annotated[Mapping[str, Any], Spelling(("--option", "-o"), "KEY=VALUE")] = field(default_factory=dict)
    """Option of an untrained head."""
    allow_seen: bool = False
    """Test on classes that trained the head or chose its weights; marked in the result."""
    allow_recipe: bool = False
    """Test on features of another recipe than the training's; marked."""
    out: Path | None = None
    """Folder for results, confusions and per-episode accuracies.
    [default: eval/ in the run folder; nothing for an untrained head]"""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.episodes_file is not None:
            drawn = ("way", "shot", "shots", "query", "episodes", "seed")
            self.refuse_changed(drawn, "--episodes-file lists the episodes")
        if self.compare is not None and set(self.heads) == {self.compare}:
            raise InputError(f"--compare {self.compare} is the head under test: name another")
        if self.shots is not None and len(self.shots) > 1 and self.save_episodes is not None:
            raise InputError("--save-episodes writes one list: give one number of shots")

    @property
    def names(self) -> list[HeadLike]:
        """Everything that is tested, the one to compare last."""
        return list(dict.fromkeys([*self.heads, *([self.compare] if self.compare else [])]))
