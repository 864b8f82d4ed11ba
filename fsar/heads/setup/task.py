"""A head and a store brought together: parts, taps, text and features, checked before anything is computed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from fsar.errors import InputError
from fsar.heads.episodes.batches import EpisodeData
from fsar.heads.episodes.feature_source import FeatureSource, Where
from fsar.heads.episodes.sampler import EpisodePool, Ints
from fsar.heads.episodes.split_parts import StoreParts, store_parts
from fsar.heads.head import Head, head_type
from fsar.heads.setup.class_text import choose_table, class_vectors, text_facts
from fsar.heads.setup.taps import choose_taps, default_options, feature_width, levels_of
from fsar.splits import Split, load_split

if TYPE_CHECKING:
    from fsar.pipeline.store import FeatureStore


@dataclass(frozen=True, slots=True)
class Task:
    """What a head gets from a store."""

    store: "FeatureStore"
    parts: StoreParts
    name: str
    kind: type[Head]
    taps: Mapping[str, str]
    """Role -> tap."""
    table: str | None
    """Name of the text table."""
    n_frames: int
    device: str = "cpu"
    where: Where = "auto"

    def source(self, rows: Ints) -> FeatureSource:
        """Return the features of `rows`."""
        return FeatureSource(self.store, self.taps, rows, device=self.device, where=self.where, n_frames=self.n_frames)

    def class_text(self, pool: EpisodePool) -> Tensor | None:
        """Return the (C, M, D) text vectors of a pool's classes; None for a head without text."""
        return None if self.table is None else class_vectors(self.store, self.table, pool.class_names, self.kind)

    def episode_data(self, source: FeatureSource, pool: EpisodePool, *, visits_seed: int | None = None) -> EpisodeData:
        """Return the maker of batches; a `visits_seed` draws views, frames and text templates."""
        text, whole = self.class_text(pool), self.kind.ordered_text
        return EpisodeData(source, class_text=text, visits_seed=visits_seed, all_templates=whole)

    def head_options(self, given: Mapping[str, Any], pool: EpisodePool | None) -> dict[str, Any]:
        """Return the options of the head: `given`, and what its constructor wants to know about the store.

        Raises:
            InputError: another width than the features have, or fewer classes than there are to train on.
        """
        first, tap = self.kind.inputs[0], next(iter(self.taps.values()))
        width = feature_width(first, self.store.taps[tap].shape)
        if given.get("dim") not in (None, width):
            raise InputError(f"option dim is {given['dim']}, but tap {tap!r} of {self.store.path} has width {width}")
        facts = {
            "dim": width,
            "n_frames": self.n_frames,
            "n_classes": pool.n_classes if pool else None,
            "levels": levels_of(self.taps) or None,
        }
        if self.table:
            table = self.store.text(self.table)
            facts |= {"text_dim": table.vectors.shape[-1], **text_facts(table)}
        if pool and given.get("n_classes") is not None and given["n_classes"] < pool.n_classes:
            raise InputError(
                f"option n_classes is {given['n_classes']}, but there are {pool.n_classes} training classes"
            )
        return default_options(self.kind, given, facts)


def make_task(
    name: str,
    store: "FeatureStore",
    *,
    split: str | Split | None = None,
    taps: Mapping[str, str] | None = None,
    levels: Sequence[int] | None = None,
    text: str | None = None,
    n_frames: int | None = None,
    device: str = "cpu",
    where: Where = "auto",
    val_share: float | None = None,
    allow_duplicates: bool = False,
) -> Task:
    """Return the task of head `name` on a store.

    Args:
        name: Of the head.
        store: Where its features are.
        split: By name, alias or CSV path, or a table; None for the parts recorded in the store.
        taps: Role -> tap, for roles that shall not be filled by default.
        levels: Of tokens, for a head that reads a choice of them; None for all in the store.
        text: Text table; None for the only one.
        n_frames: Frames that a video shows, of those stored; None for all.
        device: Of the features and the head.
        where: Whether features are resident in memory.
        val_share: Hold this share of the training classes out as the validation part of a split that has none.
        allow_duplicates: Draw videos with the same content, too.

    Raises:
        InputError: unknown head, split, tap or text table, or something the head needs is not in the store.
    """
    kind = head_type(name)
    chosen = choose_taps(name, kind, store, taps, levels)
    table = choose_table(name, kind, store, text)
    table_of_split = load_split(split) if isinstance(split, str) else split
    parts = store_parts(store, table_of_split, allow_duplicates=allow_duplicates)
    if val_share is not None:
        parts = parts.with_val_share(val_share)
    return Task(store, parts, name, kind, chosen, table, n_frames or store.n_slots, device, where)


def union_rows(pools: Sequence[EpisodePool]) -> Ints:
    """Return the rows of several pools, ascending, once."""
    return np.unique(np.concatenate([pool.rows for pool in pools]))
