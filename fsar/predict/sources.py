"""Where a prediction's head and recipe come from: a trained run, a store, or a backbone."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from fsar.device import seeded
from fsar.errors import InputError
from fsar.heads.head import Head, Input, create_head, head_type
from fsar.heads.run_folder import CONFIG, DESCRIPTION, load_head, n_parameters, read_json
from fsar.heads.setup.options import typed_options
from fsar.heads.setup.taps import at_levels, default_options, feature_width, levels_of, stored_levels
from fsar.pipeline.encode.command import backbone_spec
from fsar.predict.class_words import ClassWords
from fsar.predict.encoder import ClipEncoder
from fsar.predict.run_store import RunStore
from fsar.predict.source import CALIBRATIONS, Source

if TYPE_CHECKING:
    from fsar.pipeline.backbones import Backbone
    from fsar.pipeline.store import FeatureStore

TUNED_BACKBONE = "backbone.safetensors"
"""What fine-tuning leaves in a run folder."""


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

    A fine-tuned run brings its backbone along.

    Raises:
        InputError: not a run, a run of another backbone than `backbone`, a store of another recipe.
    """
    if not (run / DESCRIPTION).is_file():
        raise InputError(f"{run} holds no trained head ({DESCRIPTION} is missing)")
    config = read_json(run / CONFIG) if (run / CONFIG).is_file() else {}
    own = RunStore(run=run, config=config, given=store, split=split, device=device, allow_recipe=allow_recipe)
    recipe = own.recipe()
    _refuse_other_backbone(run, recipe, backbone)
    if store is not None and own.task is None:
        raise InputError(f"there is no feature store {store}")
    weights = weights or _tuned_weights(run, recipe)
    encoder = ClipEncoder(recipe, weights=weights, device=device, cache=cache)
    own.notes.extend(encoder.notes)
    return Source(
        name=run.name or str(run),
        head=load_head(run, device),
        encoder=encoder,
        taps=own.taps(),
        n_frames=config.get("n_frames") or encoder.recipe.n_slots,
        device=device,
        words=_words_of_run(own, templates=templates, encoder=text_encoder, weights=weights, cache=cache),
        find_task=lambda: own.task,
        calibrations=run / CALIBRATIONS,
        notes=own.notes,
    )


def _tuned_weights(run: Path, recipe: Mapping[str, Any]) -> Path | None:
    """Return the backbone that a fine-tuned run holds; None for a run on the features of a store."""
    path = run / TUNED_BACKBONE
    return path if recipe.get("pretrained") == "file" and path.is_file() else None


def _words_of_run(own: RunStore, **options: Any) -> ClassWords | None:
    """Return what writes class text as the head was trained with it; None for a head that reads none."""
    needs = head_type(read_json(own.run / DESCRIPTION, ["head"])["head"]).text
    if needs == "none":
        return None
    table = own.text_table()
    if table is None and needs != "required" and not own.config.get("text"):
        return None
    return ClassWords(own.recipe(), table=table, **options)


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
    from fsar.heads.setup.task import make_task
    from fsar.pipeline.share import open_store

    opened = open_store(store)
    _refuse_other_backbone(store, opened.recipe, backbone)
    typed = typed_options(name, options)
    task = make_task(name, opened, split=split, taps=taps, levels=typed.get("levels"), text=text, device=device)
    with seeded(0):
        head = create_head(name, **task.head_options(typed, None)).to(device).eval()
    table = opened.text(task.table) if task.table else None
    words = None
    if table is not None:
        words = ClassWords(
            opened.recipe, table=table, templates=templates, encoder=text_encoder, weights=weights, cache=cache
        )
    encoder = ClipEncoder(opened.recipe, weights=weights, device=device, cache=cache)
    return Source(
        name=name,
        head=head,
        encoder=encoder,
        taps=task.taps,
        n_frames=task.n_frames,
        device=device,
        words=words,
        find_task=lambda: task,
        calibrations=_kept(cache, name, head, opened),
        notes=[*_untrained(name, head), *encoder.notes],
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
    from fsar.pipeline.encode.report import EngineOptions

    kind = head_type(name)
    loaded = load_backbone(backbone, weights=weights, size=size)
    typed = typed_options(name, options)
    inputs = at_levels(kind.inputs, typed.get("levels") or stored_levels(loaded.taps()))
    chosen = _taps_of(name, inputs, loaded, taps or {})
    chosen_taps, engine = tuple(dict.fromkeys(chosen.values())), EngineOptions(device=device)
    encode = EncodeOptions(backbone, weights, chosen_taps, sampler=sampler, n_slots=n_frames, size=size, engine=engine)
    recipe, specs = recipe_of(loaded, encode)
    n_frames = recipe.n_slots  # of a network for clips, one or those that its time steps give
    facts: dict[str, Any] = {"dim": feature_width(inputs[0], specs[chosen[inputs[0].role]].shape), "n_frames": n_frames}
    facts |= {"levels": levels_of(chosen) or None, "text_dim": loaded.dim if kind.text_space == "image" else None}
    with seeded(0):
        head = create_head(name, **default_options(kind, typed, facts)).to(device).eval()
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


def _refuse_other_backbone(where: str | Path, recipe: Mapping[str, Any], backbone: str | None) -> None:
    own = backbone_spec(recipe)
    if backbone is not None and _without_revision(backbone) != _without_revision(own):
        raise InputError(f"{where} was made with {own}, not with {backbone}: leave --backbone out")


def _without_revision(backbone: str) -> str:
    """Return a backbone's name without its revision. The seed of random weights is none; it is 0 if not given."""
    return backbone.removesuffix("@0") if backbone.startswith("random:") else backbone.partition("@")[0]


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
