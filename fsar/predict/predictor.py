"""`Predictor`: from a few clips per class to answers about others."""

import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fsar.errors import InputError
from fsar.heads.batch import EpisodeBatch, Features
from fsar.heads.episodes.feature_source import spread
from fsar.pipeline.video.clip import VideoError
from fsar.predict.answer import Answer, ClassAnswer
from fsar.predict.calibration import Calibration, fit, leave_one_out
from fsar.predict.clips import check_supports, find_supports
from fsar.predict.encoder import roles_of
from fsar.predict.source import Source
from fsar.predict.sources import from_backbone, from_run, from_store

MIN_LEFT_OUT = 6
"""Queries below which leaving supports out says nothing."""


class Predictor:
    """Answers for clips by a head and a few labelled clips per class, any number of them, unequal ones too.

    Everything is prepared by the head's own recipe: the same frames, pixels and weights as in training. Each query is
    answered by itself.
    """

    def __init__(
        self,
        source: Source,
        supports: Path | str | Mapping[str, Sequence[Path | str]],
        *,
        evidence: bool = True,
        calibrate: bool = True,
    ) -> None:
        """Prepare the supports.

        Args:
            source: The head and its recipe: see `from_run`, `from_store` and `from_backbone`.
            supports: Folder `class/clip.*`, or class -> clips.
            evidence: Whether answers say what decided them, which takes a second look of the head.
            calibrate: Whether to use, or fit, a calibration.

        Raises:
            InputError: fewer than two classes, a class without a readable clip, features that do not fit the head.
        """
        clips = (
            find_supports(Path(supports))
            if isinstance(supports, str | Path)
            else check_supports({name: [Path(clip) for clip in of] for name, of in supports.items()}, "the supports")
        )
        self.source, self.head, self.encoder = source, source.head, source.encoder
        self.evidence = evidence
        self.class_names = tuple(clips)
        self._notes: list[str] = []
        self.support_clips: list[Path] = []
        self.labels: list[int] = []
        self._frames = spread(self.encoder.recipe.n_slots, source.n_frames)
        self._support = self._encode_supports(clips)
        self._text = source.words.vectors(self.class_names)[None] if source.words else None
        self.calibration = self._calibration() if calibrate else None

    @classmethod
    def from_run(
        cls, run: Path | str, supports: Path | str | Mapping[str, Sequence[Path | str]], **options: Any
    ) -> "Predictor":
        """Return the predictor of a trained run; `options` are those of `sources.from_run` and of this class."""
        own = {key: options.pop(key) for key in ("evidence", "calibrate") if key in options}
        return cls(from_run(Path(run), **options), supports, **own)

    @classmethod
    def from_store(
        cls, head: str, store: Path | str, supports: Path | str | Mapping[str, Sequence[Path | str]], **options: Any
    ) -> "Predictor":
        """Return the predictor of a head without training, with the recipe of a store."""
        own = {key: options.pop(key) for key in ("evidence", "calibrate") if key in options}
        return cls(from_store(head, store, **options), supports, **own)

    @classmethod
    def from_backbone(
        cls, head: str, backbone: str, supports: Path | str | Mapping[str, Sequence[Path | str]], **options: Any
    ) -> "Predictor":
        """Return the predictor of a head without training, with a backbone and the default recipe."""
        own = {key: options.pop(key) for key in ("evidence", "calibrate") if key in options}
        return cls(from_backbone(head, backbone, **options), supports, **own)

    @property
    def notes(self) -> list[str]:
        """What to know of the head, the supports and the calibration."""
        return list(dict.fromkeys([*self.source.notes, *self._notes]))

    @property
    def shots(self) -> list[int]:
        """Supports of each class."""
        return [self.labels.count(label) for label in range(len(self.class_names))]

    def predict(self, clip: Path | str) -> Answer:
        """Return the answer for one clip.

        Raises:
            VideoError: the clip cannot be used; `str(error)` says why.
        """
        start = time.perf_counter()
        features, times = self.encoder.clip(Path(clip))
        return self._answer(str(clip), features, times, start)

    def predict_frames(self, frames: npt.NDArray[np.uint8], times_seconds: Sequence[float], name: str = "") -> Answer:
        """Return the answer for frames (T, H, W, 3) RGB that the recipe's sampler chose (`encoder.indices`)."""
        start = time.perf_counter()
        return self._answer(name, self.encoder.frames(frames), list(times_seconds), start)

    def predict_all(self, clips: Sequence[Path]) -> Iterator[tuple[Path, Answer | VideoError]]:
        """Yield each clip with its answer, or with what is wrong with it: one bad clip does not stop the others."""
        for clip in clips:
            try:
                yield clip, self.predict(clip)
            except VideoError as error:
                yield clip, error

    def close(self) -> None:
        """Give the backbone's threads back."""
        self.encoder.close()

    def _encode_supports(self, clips: Mapping[str, Sequence[Path]]) -> Features:
        found: list[dict[str, Tensor]] = []
        for label, (name, paths) in enumerate(clips.items()):
            failures = []
            for path in paths:
                try:
                    found.append(self.encoder.clip(path)[0])
                except VideoError as error:
                    failures.append(f"{path.name}: {error}")
                    continue
                self.support_clips.append(path)
                self.labels.append(label)
            if len(failures) == len(paths):
                raise InputError(f"class {name!r} has no readable clip ({failures[0]})")
            self._notes += [f"support left out, {failure}" for failure in failures]
        return self._roles(found)

    def _roles(self, features: Sequence[Mapping[str, Tensor]]) -> Features:
        return roles_of(features, self.source.taps, self._frames.tolist())

    def _batch(self, query: Features, kept: Sequence[int] | None = None) -> EpisodeBatch:
        """Return one episode with a query (1, T, ...); supports are all, or those at the places `kept`."""
        places = list(range(len(self.labels))) if kept is None else list(kept)
        labels = [self.labels[place] for place in places]
        present = sorted(set(labels))
        return EpisodeBatch(
            support={role: x[places][None] for role, x in self._support.items()},
            support_labels=torch.tensor([[present.index(label) for label in labels]]),
            query={role: x[None] for role, x in query.items()},
            n_way=len(present),
            class_text=None if self._text is None else self._text[:, present],
        ).to(self.source.device)

    def _answer(self, name: str, features: Mapping[str, Tensor], times: Sequence[float], start: float) -> Answer:
        batch = self._batch(self._roles([features]))
        parts, evidence = torch.zeros(len(self.class_names), self.source.n_frames), None
        with torch.inference_mode():
            if self.evidence:
                evidence = self.head.explain(batch)
                logits, parts = evidence.logits[0, 0].cpu(), evidence.contrast()[0, 0].cpu()
            else:
                logits = self.head(batch)[0, 0].cpu()
        if not bool(logits.isfinite().all()):
            raise InputError(f"the head answers NaN for {name}: its weights or the features are broken")
        order = logits.argsort(descending=True).tolist()
        shares = self.calibration.probabilities(logits) if self.calibration else logits.double().softmax(-1)
        ranking = tuple(ClassAnswer(self.class_names[i], float(shares[i]), float(logits[i])) for i in order)
        known = float(self.calibration.known(logits)) if self.calibration else None
        return Answer(
            query=name,
            ranking=ranking,
            known_probability=known,
            none_of_these=None if self.calibration is None or known is None else known < self.calibration.threshold,
            frame_times_seconds=tuple(float(times[i]) for i in self._frames),
            frame_parts=tuple(parts[order[0]].tolist()) if self.evidence else (),
            evidence=self._named(evidence.summary(0, 0, order[0])) if evidence is not None else [],
            seconds=time.perf_counter() - start,
        )

    def _named(self, summary: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Return the summary with the clips' names beside the positions of supports."""
        for item in summary:
            for pair in item.get("tuples", []):
                pair["support_clip"] = self.support_clips[pair["support"]].name
            if "rows" in item and (item["per_support"] or max(self.shots) == 1):
                item["support_clips"] = [self.support_clips[row].name for row in item["rows"]]
        return summary

    def _calibration(self) -> Calibration | None:
        """Return the calibration of the run or store, else one from the supports, else None with a note."""
        found = self.source.calibration(len(self.class_names), round(float(np.median(self.shots))))
        if found is not None:
            return found
        known, labels, unknown = leave_one_out(self.labels, self._left_out)
        if len(known) < MIN_LEFT_OUT:
            self._notes.append(
                "not calibrated: probabilities are the head's own softmax and 'none of these' is never answered; "
                "name a feature store with --store, or give 3 classes or more of 2 clips or more"
            )
            return None
        self._notes.append(f"calibrated on {len(known)} supports, each left out once: a store (--store) says more")
        return fit(known, labels, unknown, source="the supports, one left out at a time")

    def _left_out(self, kept: list[int], query: int) -> Tensor:
        features = {role: x[query : query + 1] for role, x in self._support.items()}
        with torch.inference_mode():
            logits: Tensor = self.head(self._batch(features, kept))
        return logits[0, 0].float().cpu()
