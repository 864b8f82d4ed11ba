"""What `fsar-train-head` and `fsar.train_head` take."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from fsar.errors import InputError
from fsar.heads.setup.settings import ReadSettings
from fsar.settings import Count, Natural, PerClass, Positive, Share, Spelling


@dataclass(frozen=True, kw_only=True)
class TrainSettings(ReadSettings):
    """A head to train on a store, and how."""

    head: str
    """Name of the head."""
    way: int = 5
    """Classes per episode."""
    shot: PerClass = 1
    """Supports per class; 1,5,2,1,1 for unequal ones."""
    query: PerClass | None = None
    """Queries per class in training. [default: of the preset]"""
    unlabelled: Natural = 0
    """Unlabelled videos per class, for semi-supervision."""
    options: Annotated[Mapping[str, Any], Spelling(("--option", "-o"), "KEY=VALUE")] = field(default_factory=dict)
    """Option of the head."""
    preset: str = "cached"
    """Training recipe; `published` for the head's own."""
    steps: Count | None = None
    """Optimiser steps. [default: of the preset]"""
    episodes: Count | None = None
    """Training episodes, instead of steps."""
    episodes_per_step: Count | None = None
    """Episodes of one step. [default: of the preset]"""
    lr: Positive | None = None
    """Learning rate. [default: of the preset]"""
    seed: Natural = 0
    """Of weights, episodes, dropout."""
    seeds: tuple[int, ...] | None = None
    """Several seeds in one call, as 0,1,2: a run each, then mean and spread."""
    val_episodes: Natural = 200
    """Episodes of a validation; 0 for none."""
    validate_every: Count | None = None
    """Steps between validations. [default: a twentieth of the training, at least 10]"""
    patience: Natural = 10
    """Validations without a better one before training stops; 0: never stop early."""
    val_share: Share | None = None
    """Hold this share of the training classes out for validation, where the split has no val part."""
    select_on: Literal["val", "test"] = "val"
    """Part whose episodes choose the weights; `test`, as some published code does it, is marked in every result."""
    amp: bool = False
    """Compute in bfloat16 where it is safe."""
    test: bool = True
    """Test the trained head."""
    test_episodes: Count = 10_000
    """Episodes of the final test."""
    test_query: PerClass = 1
    """Queries per class in the test."""
    test_seed: int = 0
    """Of the test episodes; the same for all seeds."""
    episodes_file: Path | None = None
    """Saved list of test episodes."""
    out: Path | None = None
    """Run folder. [default: runs/<time>-<head>-<split>]"""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.episodes_file is not None:
            self.refuse_changed(("test_episodes", "test_query", "test_seed"), "--episodes-file lists the test episodes")
        if self.select_on == "test":
            self.refuse_changed(("val_share",), "--select-on test takes the test classes for it")
            if not self.val_episodes:
                raise InputError("--select-on test needs --val-episodes: without them nothing is selected")
        if self.steps and self.episodes:
            raise InputError("give --steps or --episodes, not both")
        if self.seeds is not None and (not self.seeds or len(set(self.seeds)) < len(self.seeds)):
            raise InputError(f"--seeds must be different numbers, got {list(self.seeds)}")
        if self.seeds is not None and min(self.seeds) < 0:
            raise InputError(f"--seeds must be 0 or more, got {min(self.seeds)}")
