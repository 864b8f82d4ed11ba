"""A head that is ready to answer, how its input is made, and how sure its answers are."""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from fsar.errors import InputError
from fsar.heads.head import Head
from fsar.heads.run_folder import read_json, write_json
from fsar.predict.calibration import FALSE_ALARMS, Calibration, fit
from fsar.predict.class_words import ClassWords
from fsar.predict.encoder import ClipEncoder

if TYPE_CHECKING:
    from fsar.heads.setup.task import Task

CALIBRATIONS = "calibration.json"
N_EPISODES = 200
"""Validation episodes of a calibration."""


@dataclass
class Source:
    """A head, ready to answer, and how its input is made."""

    name: str
    head: Head
    encoder: ClipEncoder
    taps: Mapping[str, str]
    """Role -> tap."""
    n_frames: int
    device: str = "cpu"
    words: ClassWords | None = None
    """Writes class text; None for a head that takes none."""
    find_task: Callable[[], "Task | None"] = lambda: None
    """Opens the store whose validation part calibrates; gives None where there is none."""
    calibrations: Path | None = None
    """File that keeps calibrations by ways and shots."""
    n_episodes: int = N_EPISODES
    false_alarms: float = FALSE_ALARMS
    fit_anew: bool = False
    """Whether to pass over calibrations that are kept."""
    notes: list[str] = field(default_factory=list)

    @functools.cached_property
    def task(self) -> "Task | None":
        """The task on that store, opened when first asked for: a kept calibration needs no store."""
        return self.find_task()

    def calibration(self, n_way: int, n_shot: int) -> Calibration | None:
        """Return the calibration at so many ways and shots, kept or fitted on the validation part; None without one."""
        key = f"{n_way}-way {n_shot}-shot, {self.n_episodes} episodes, {self.false_alarms:g} false alarms"
        kept = read_json(self.calibrations) if self.calibrations is not None and self.calibrations.is_file() else {}
        if key in kept and not self.fit_anew:
            return Calibration.from_dict(kept[key])
        if self.task is None or "val" not in self.task.parts.pools:
            return None
        found = self._fit(n_way, n_shot)
        if found is not None and self.calibrations is not None:
            write_json(self.calibrations, {**kept, key: found.to_dict()})
        return found

    def _fit(self, n_way: int, n_shot: int) -> Calibration | None:
        from fsar.predict.validation import absent_class_logits

        assert self.task is not None
        largest = int(max(self.task.parts.pool("val").counts)) - 1
        try:
            known, labels, unknown, ways = absent_class_logits(
                self.head,
                self.task,
                part="val",
                n_way=n_way,
                n_shot=max(min(n_shot, largest), 1),
                n_episodes=self.n_episodes,
            )
        except InputError as error:
            self.notes.append(f"not calibrated on validation episodes: {error}")
            return None
        source = f"{ways}-way validation episodes of {Path(self.task.store.path).name}"
        return fit(known, labels, unknown, source=source, false_alarms=self.false_alarms)

    def check_on(self, part: str, calibration: Calibration, n_way: int, n_shot: int) -> dict[str, float]:
        """Return AUROC, false alarms and found share of a calibration on another part of the store."""
        from fsar.predict.validation import absent_class_logits

        if self.task is None:
            raise InputError("a check needs a feature store: name it with --store")
        known, _, unknown, _ = absent_class_logits(
            self.head, self.task, part=part, n_way=n_way, n_shot=n_shot, n_episodes=self.n_episodes
        )
        return calibration.check(known, unknown)
