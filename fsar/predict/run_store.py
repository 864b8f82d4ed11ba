"""The feature store of a run: it calibrates, holds class text, and says what older runs do not record."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fsar.errors import InputError
from fsar.heads.run_folder import is_run
from fsar.splits import Split

if TYPE_CHECKING:
    from fsar.heads.setup.task import Task
    from fsar.pipeline.store import FeatureStore, TextTable


@dataclass(frozen=True, kw_only=True)
class RunStore:
    """Opened when first needed: most predictions need nothing of it, and opening one takes imports and reading."""

    run: Path
    config: Mapping[str, Any]
    """Of the run."""
    given: str | Path | None
    """The store that the user named; None for the one that the run was trained on."""
    split: str | None
    device: str
    allow_recipe: bool
    notes: list[str] = field(default_factory=list)
    """Grows by what kept the run's own store from being used; a store that was named is an error then."""

    @functools.cached_property
    def opened(self) -> "FeatureStore | None":
        """The store; None, with a note, where the run's own is gone."""
        from fsar.pipeline.share import open_store

        if self.given is not None:
            return open_store(self.given)
        own = str(self.config.get("store") or "")
        if own and "://" not in own and not Path(own).exists():
            self.notes.append(f"the run's feature store {own} is gone: name it with --store for a calibration")
            return None
        return open_store(own) if own else None

    @functools.cached_property
    def task(self) -> "Task | None":
        """The task of the run on the store; None, with a note, where it does not fit the run."""
        from fsar.heads.evaluation.candidates import Reading, load_subject

        if self.opened is None:
            return None
        try:
            reading = Reading(split=self.split or split_of_run(self.run), device=self.device)
            task = load_subject(str(self.run), self.opened, reading, allow_recipe=self.allow_recipe).task
            return self._with_held_out_classes(task)
        except InputError as error:
            if self.given is not None:
                raise
            self.notes.append(f"the run's store is not used: {error}")
            return None

    def _with_held_out_classes(self, task: "Task") -> "Task":
        """Return the task with the training classes as its validation part that the run held out (--val-share)."""
        share = self.config.get("val_share")
        if share is None or self.split is not None or "val" in task.parts.pools:
            return task
        return replace(task, parts=task.parts.with_val_share(float(share)))

    def recipe(self) -> Mapping[str, Any]:
        """Return the recipe of the features, as the run records it or as the store does."""
        found = self.config.get("recipe") or (self.opened.recipe if self.opened is not None else None)
        if found is not None:
            return found
        if "start" in self.config:
            raise InputError(
                f"{self.run} was fine-tuned and not tested, so that it does not say how clips are prepared: encode "
                "videos with its backbone.safetensors and name that store with --store"
            )
        raise InputError(f"{self.run} does not say how its features were made: name the feature store with --store")

    def taps(self) -> Mapping[str, str]:
        """Return role -> tap, as the run records it or as the store has them."""
        found = self.config.get("taps") or (self.task.taps if self.task is not None else None)
        if found is None:
            raise InputError(f"{self.run} does not say which features it reads: name the feature store with --store")
        return found

    def text_table(self) -> "TextTable | None":
        """Return the class text that the head reads; None where there is no store, or none in it."""
        if self.task is None or self.task.table is None or self.opened is None:
            return None
        return self.opened.text(self.task.table)


def split_of_run(run: Path) -> Split | None:
    """Return the split that a run was trained on; None for a store's own parts, and for an imported checkpoint."""
    from fsar.heads.evaluation.terms import trained_terms

    terms = trained_terms(run) if is_run(run) else None
    return None if terms is None else terms.split()
