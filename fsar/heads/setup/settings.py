"""What training and testing a head have in common on the command line and in Python: what the head reads."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from fsar.settings import Count, Settings, Spelling

if TYPE_CHECKING:
    from fsar.heads.setup.task import Task
    from fsar.pipeline.store import FeatureStore
    from fsar.splits import Split

    StoreLike = FeatureStore | Path | str
    SplitLike = Split | str
else:
    StoreLike, SplitLike = Path, str


@dataclass(frozen=True, kw_only=True)
class ReadSettings(Settings):
    """Which features a head reads, and from where."""

    store: StoreLike
    """Feature store: open, or the path of NAME.zarr or NAME.h5."""
    split: SplitLike | None = None
    """Split by name, alias or CSV path; without it the parts recorded in the store."""
    text: str | None = None
    """Text table of the store, for heads that take text; with a backbone that trains, a set of templates."""
    taps: Annotated[Mapping[str, str], Spelling(("--tap",), "ROLE=TAP")] = field(default_factory=dict)
    """Tap for an input of the head, where another than the usual one is wanted."""
    frames: Count | None = None
    """Frames a video shows, of those stored. [default: all; 8 where a backbone trains]"""
    device: str | None = None
    """cpu, cuda, cuda:1. [default: cuda where there is one]"""
    features: Literal["auto", "memory", "disk"] = "auto"
    """Where features are read from: resident in memory, or mapped from disk."""
    drop_small_classes: bool = False
    """Leave classes out that are too small for an episode."""
    allow_duplicates: bool = False
    """Draw videos that are the same file under two ids, too."""
    quiet: bool = False
    """No progress on stderr."""

    def opened(self) -> "FeatureStore":
        """Return the store, opened unless it is already."""
        from fsar.pipeline.store import open_store

        return open_store(Path(self.store)) if isinstance(self.store, str | Path) else self.store

    def chosen_device(self) -> str:
        """Return a device that exists: the one asked for, else the GPU where there is one."""
        from fsar.device import resolve_device

        return str(resolve_device(self.device or "auto"))

    def task(self, head: str, store: "FeatureStore", **changes: Any) -> "Task":
        """Return what a head gets from a store; `changes` are arguments of `make_task` that this does not decide."""
        from fsar.heads.setup.task import make_task

        read = {
            "split": self.split,
            "taps": self.taps,
            "text": self.text,
            "n_frames": self.frames,
            "device": self.chosen_device(),
            "where": self.features,
            "allow_duplicates": self.allow_duplicates,
        }
        return make_task(head, store, **{**read, **changes})
