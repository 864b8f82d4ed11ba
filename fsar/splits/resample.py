"""New folds of a benchmark's classes: the choice of the test classes as a variable."""

import random
import re
from collections.abc import Mapping
from pathlib import Path

from fsar.errors import InputError
from fsar.splits.names import PARTS
from fsar.splits.split import Split

MIN_TEST = 2
_FOLD = re.compile(r"^(?P<base>.+)-fold(?P<fold>\d+)of(?P<n>\d+)$")


def resample_split(split: Split, n_folds: int, *, seed: int = 0) -> list[Split]:
    """Return folds of all the classes of a split, each with parts of the same sizes as the split's own.

    The classes are put in a random order once, and fold k takes its parts from there on, starting at k/n of the way
    round: every class is tested about as often as every other, and no two folds test the same classes. The videos of a
    class go with it.

    Raises:
        InputError: fewer than two folds, more folds than classes, or a split without two test classes.
    """
    videos: dict[str, list[str] | None] = {name: ids for _, name, ids in split.classes()}
    counts: Mapping[str, int] = {k: v for part in PARTS for k, v in split.expected_counts[part].items()}
    sizes = {part: len(split.parts[part]) for part in PARTS}
    if not 2 <= n_folds <= len(videos):
        raise InputError(f"folds must be from 2 to the {len(videos)} classes of {split.name}, got {n_folds}")
    if sizes["test"] < MIN_TEST:
        raise InputError(f"split {split.name!r} has {sizes['test']} test classes: folds need two or more")
    order = sorted(videos)
    random.Random(seed).shuffle(order)
    return [_fold(split, order, k, n_folds, seed, sizes, videos, counts) for k in range(n_folds)]


def fold_name(base: str, k: int, n_folds: int) -> str:
    """Return the name of fold k of a benchmark."""
    return f"{base}-fold{k}of{n_folds}"


def fold_of(split: str) -> tuple[str, int] | None:
    """Return the benchmark and the number of a fold, by the name or path of its split; None for any other split."""
    found = _FOLD.match(Path(split).stem if split.endswith(".csv") else split)
    return (found["base"], int(found["fold"])) if found else None


def _fold(
    split: Split,
    order: list[str],
    k: int,
    n_folds: int,
    seed: int,
    sizes: Mapping[str, int],
    videos: Mapping[str, list[str] | None],
    counts: Mapping[str, int],
) -> Split:
    start = k * len(order) // n_folds
    turned = order[start:] + order[:start]
    parts: dict[str, dict[str, list[str] | None]] = {}
    for part in ("test", "val", "train"):
        own, turned = turned[: sizes[part]], turned[sizes[part] :]
        parts[part] = {name: videos[name] for name in sorted(own)}
    return Split(
        name=fold_name(split.name, k, n_folds),
        parts=parts,
        title=f"fold {k} of {n_folds} of the classes of {split.name}, seed {seed}",
        expected_counts={part: {name: counts[name] for name in own if name in counts} for part, own in parts.items()},
    )
