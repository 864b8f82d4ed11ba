"""Where a prediction's head and recipe come from: a trained run, a store, or a backbone."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from fsar.device import seeded
from fsar.errors import InputError
from fsar.heads.evaluation.candidates import Reading, load_subject
from fsar.heads.evaluation.terms import trained_terms
from fsar.heads.head import Head, Input, create_head, head_type
from fsar.heads.run_folder import CONFIG, DESCRIPTION, load_head, n_parameters, read_json, write_json
from fsar.heads.setup.options import typed_options
from fsar.heads.setup.taps import default_options, feature_width
from fsar.heads.setup.task import Task, make_task
from fsar.pipeline.encode.command import backbone_spec
from fsar.pipeline.share import open_store
from fsar.predict.calibration import FALSE_ALARMS, Calibration, fit
from fsar.predict.class_words import ClassWords
from fsar.predict.encoder import ClipEncoder
from fsar.predict.validation import absent_class_logits
from fsar.splits import Split

if TYPE_CHECKING:
    from fsar.pipeline.backbones import Backbone
    from fsar.pipeline.store import FeatureStore

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
    task: Task | None = None
    """The store whose validation part calibrates; None where there is none."""
    calibrations: Path | None = None
    """File that keeps calibrations by ways and shots."""
    n_episodes: int = N_EPISODES
    false_alarms: float = FALSE_ALARMS
    notes: list[str] = field(default_factory=list)

    def calibration(self, n_way: int, n_shot: int, *, again: bool = False) -> Calibration | None:
        """Return the calibration at so many ways and shots, kept or fitted on the validation part; None without one."""
        key = f"{n_way}-way {n_shot}-shot, {self.n_episodes} episodes, {self.false_alarms:g} false alarms"
        kept = read_json(self.calibrations) if self.calibrations is not None and self.calibrations.is_file() else {}
        if key in kept and not again:
            return Calibration.from_dict(kept[key])
        if self.task is None or "val" not in self.task.parts.pools:
            return None
        found = self._fit(n_way, n_shot)
        if found is not None and self.calibrations is not None:
            write_json(self.calibrations, {**kept, key: found.to_dict()})
        return found

    def _fit(self, n_way: int, n_shot: int) -> Calibration | None:
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
        if self.task is None:
            raise InputError("a check needs a feature store: name it with --store")
        known, _, unknown, _ = absent_class_logits(
            self.head, self.task, part=part, n_way=n_way, n_shot=n_shot, n_episodes=self.n_episodes
        )
        return calibration.check(known, unknown)


def from_run(
    run: Path,
    *,
    store: str | Path | None = None,
    split: str | None = None,
    backbone: str | None = None,
    weights: Path | None = None,
    device: str = "cpu",
    cache: Path | None = None,
    text_encoder: str | None = None,
    templates: str = "clip-fsar",
    allow_recipe: bool = False,
) -> Source:
    """Return a trained run with its own recipe; its store, if it is still there, calibrates.

    Raises:
        InputError: not a run, a run of another backbone than `backbone`, a store of another recipe.
    """
    if not (run / DESCRIPTION).is_file():
        raise InputError(f"{run} holds no trained head ({DESCRIPTION} is missing)")
    config = read_json(run / CONFIG) if (run / CONFIG).is_file() else {}
    path, notes = _store_of(config, store)
    opened = open_store(path) if path is not None else None
    recipe = config.get("recipe") or (opened.recipe if opened is not None else None)
    if recipe is None:
        raise InputError(f"{run} does not say how its features were made: name the feature store with --store")
    _refuse_other_backbone(run, recipe, backbone)
    task = None
    if opened is not None:
        try:
            reading = Reading(split=split or split_of_run(run), device=device)
            subject = load_subject(str(run), opened, reading, allow_recipe=allow_recipe)
            task = subject.task
        except InputError as error:
            if store is not None:
                raise
            notes.append(f"the run's store is not used: {error}")
    head = load_head(run, device)
    name = read_json(run / DESCRIPTION)["head"]
    taps = config.get("taps") or (task.taps if task else None)
    if taps is None:
        raise InputError(f"{run} does not say which features it reads: name the feature store with --store")
    encoder = ClipEncoder(recipe, weights=weights, device=device, cache=cache)
    table = opened.text(task.table) if opened is not None and task is not None and task.table else None
    words = None
    if head_type(name).text != "none" and (
        table is not None or config.get("text") or head_type(name).text == "required"
    ):
        words = ClassWords(recipe, table=table, templates=templates, encoder=text_encoder, weights=weights, cache=cache)
    return Source(
        name=run.name or str(run),
        head=head,
        encoder=encoder,
        taps=taps,
        n_frames=config.get("n_frames") or encoder.recipe.n_slots,
        device=device,
        words=words,
        task=task,
        calibrations=run / CALIBRATIONS,
        notes=notes,
    )


def from_store(
    name: str,
    store: str | Path,
    *,
    options: Mapping[str, Any] = MappingProxyType({}),
    split: str | None = None,
    taps: Mapping[str, str] | None = None,
    text: str | None = None,
    backbone: str | None = None,
    weights: Path | None = None,
    device: str = "cpu",
    cache: Path | None = None,
    text_encoder: str | None = None,
    templates: str = "clip-fsar",
) -> Source:
    """Return head `name` without training, with the recipe of a store, whose validation part calibrates."""
    opened = open_store(store)
    _refuse_other_backbone(store, opened.recipe, backbone)
    task = make_task(name, opened, split=split, taps=taps, text=text, device=device)
    with seeded(0):
        head = create_head(name, **task.head_options(typed_options(name, options), None)).to(device).eval()
    table = opened.text(task.table) if task.table else None
    words = None
    if table is not None:
        words = ClassWords(
            opened.recipe, table=table, templates=templates, encoder=text_encoder, weights=weights, cache=cache
        )
    return Source(
        name=name,
        head=head,
        encoder=ClipEncoder(opened.recipe, weights=weights, device=device, cache=cache),
        taps=task.taps,
        n_frames=task.n_frames,
        device=device,
        words=words,
        task=task,
        calibrations=_kept(cache, name, head, opened),
        notes=_untrained(name, head),
    )


def from_backbone(
    name: str,
    backbone: str,
    *,
    options: Mapping[str, Any] = MappingProxyType({}),
    taps: Mapping[str, str] | None = None,
    n_frames: int = 8,
    size: int | None = None,
    sampler: str = "uniform-center",
    weights: Path | None = None,
    device: str = "cpu",
    cache: Path | None = None,
    text_encoder: str | None = None,
    templates: str = "clip-fsar",
) -> Source:
    """Return head `name` without training on a backbone, with the defaults of `fsar-prep encode`.

    Raises:
        InputError: unknown head or backbone, weights that cannot be had, a backbone without the features of the head.
    """
    from fsar.pipeline.backbones import load_backbone
    from fsar.pipeline.backbones.taps import TapExtractor
    from fsar.pipeline.encode.forward import Forward
    from fsar.pipeline.encode.plan import EncodeOptions, recipe_of

    kind = head_type(name)
    loaded = load_backbone(backbone, weights=weights, size=size)
    chosen = _taps_of(name, kind.inputs, loaded, taps or {})
    encode = EncodeOptions(
        backbone, weights, tuple(dict.fromkeys(chosen.values())), sampler=sampler, n_slots=n_frames, size=size
    )
    recipe, specs = recipe_of(loaded, encode)
    facts = {"dim": feature_width(kind.inputs[0], specs[chosen[kind.inputs[0].role]].shape), "n_frames": n_frames}
    with seeded(0):
        head = create_head(name, **default_options(kind, typed_options(name, options), facts)).to(device).eval()
    forward = Forward(TapExtractor(loaded, recipe.taps), recipe, device)
    words = None
    if kind.text == "required":
        words = ClassWords(
            recipe.to_dict(), templates=templates, encoder=text_encoder or backbone, weights=weights, cache=cache
        )
    return Source(
        name=name,
        head=head,
        encoder=ClipEncoder(recipe.to_dict(), weights=weights, device=device, cache=cache, forward=forward),
        taps=chosen,
        n_frames=n_frames,
        device=device,
        words=words,
        notes=_untrained(name, head),
    )


def _taps_of(name: str, inputs: Sequence[Input], backbone: "Backbone", chosen: Mapping[str, str]) -> dict[str, str]:
    """Return role -> tap of a backbone: those chosen, else the first that an input can take."""
    from fsar.pipeline.backbones.taps import resolve_taps

    found = {}
    for item in inputs:
        wanted = [chosen[item.role]] if item.role in chosen else [_by_depth(tap, item.role) for tap in item.taps]
        fitting = [tap for tap in wanted if _has(backbone, tap)]
        if not fitting:
            raise InputError(
                f"head {name!r} needs {item.role!r}: {' or '.join(wanted)} with {item.shape} per frame; "
                f"{backbone.library}:{backbone.name} has {', '.join(backbone.taps()[:6])}"
            )
        found[item.role] = resolve_taps(backbone, fitting[:1])[0]
    return found


def _by_depth(tap: str, role: str) -> str:
    """Return a tap of a family ("tokens.") at the depth that the role's name ends with."""
    if not tap.endswith("."):
        return tap
    depth = role.rpartition("_")[2]
    return tap + (depth if depth in ("early", "middle", "late") else "late")


def _has(backbone: "Backbone", tap: str) -> bool:
    from fsar.pipeline.backbones.taps import resolve_taps

    try:
        resolve_taps(backbone, [tap])
    except InputError:
        return False
    return True


def _store_of(config: Mapping[str, Any], store: str | Path | None) -> tuple[str | Path | None, list[str]]:
    """Return the store that calibrates, and a note where the run's own is gone."""
    if store is not None:
        return store, []
    recorded = config.get("store")
    if not recorded:
        return None, []
    if "://" not in recorded and not Path(recorded).exists():
        return None, [f"the run's feature store {recorded} is gone: name it with --store for a calibration"]
    return recorded, []


def split_of_run(run: Path) -> Split | None:
    """Return the split that a run was trained on; None for a store's own parts, and for an imported checkpoint."""
    terms = trained_terms(run)
    return None if terms is None else terms.split()


def _refuse_other_backbone(where: str | Path, recipe: Mapping[str, Any], backbone: str | None) -> None:
    own = backbone_spec(recipe)
    if backbone is not None and backbone.partition("@")[0] != own:
        raise InputError(f"{where} was made with {own}, not with {backbone}: leave --backbone out")


def _kept(cache: Path | None, name: str, head: Head, store: "FeatureStore") -> Path | None:
    """Return the file for calibrations of a head without a run folder."""
    if cache is None:
        return None
    facts = json.dumps([name, dict(head.options), store.recipe_id, str(store.path.resolve())], default=str)
    return cache / f"calibration-{hashlib.sha256(facts.encode()).hexdigest()[:16]}.json"


def _untrained(name: str, head: Head) -> list[str]:
    n_random = n_parameters(head)
    if not n_random or all(parameter.numel() == 1 for parameter in head.parameters()):
        return []
    return [f"head {name!r} is untrained: its {n_random} parameters are random (seed 0); train one and pass --run"]
