"""Published checkpoints to our files: the head as a run folder, the fine-tuned backbone as safetensors."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from fsar.device import seeded
from fsar.errors import InputError, unknown_name
from fsar.files import sha256_file
from fsar.heads.checkpoints.backbone import ImportedBackbone, has_adapters, recognise_backbone, split_backbone
from fsar.heads.checkpoints.official import import_official, list_official, official_format
from fsar.heads.checkpoints.official.formats import head_state, our_name
from fsar.heads.checkpoints.official.settings import head_name, train_flags
from fsar.heads.checkpoints.reader import Checkpoint, read_checkpoint, read_settings
from fsar.heads.head import Head
from fsar.heads.run_folder import save_head, write_json, write_tensors

BACKBONE_FILE, REPORT_FILE = "backbone.safetensors", "import.json"

SIGNATURES = (
    # A parameter that only this method has, and the method. The first match counts.
    (r"feature\.transformer\.resblocks\.0\.task_adapter\..*", "task_adapter_pp"),
    (r"spatialtemporal_reasion_1\..*", "emp_net"),
    (r"context1\..*", "clip_mei"),
    (r"context2\..*", "clip_fsar"),
    (r"class_token_motion", "molo"),
    (r"st_transformer_encoder\..*", "hcl"),
    (r"model\.side_LN\.0\.weight", "ts_fsar"),
    (r"fr_enrich\..*", "strm"),
    (r"mha\.in_proj_weight", "pal_perrett"),
    (r"key_head\.weight", "crosstransformer"),
    (r"transformers\.0\.k_linear\.weight", "trx"),
    (r"global_temperature", "chamfer"),
    (r"DPM\.AP", "team"),
    (r"relation_network\.layer1\.0\.weight", "arn"),
)
HEAD_CLASSES = (
    # Official class names that tell methods apart whose parameters do not.
    (r"CNN_HyRSM_plusplus.*", "hyrsm_pp"),
    (r"CNN_HyRSM_.*", "hyrsm"),
    (r"CNN_OTAM", "otam"),
    (r"CNN_TSN", "tsn"),
)


@dataclass(frozen=True, slots=True)
class ImportReport:
    """What became of a published checkpoint."""

    method: str
    """The official method, as `list_official` names it."""
    head: Head
    backbone: ImportedBackbone | None
    """None if the file holds none, or one of no known kind (then its tensors are in `ignored`)."""
    ignored: tuple[str, ...]
    """Everything in the file that went nowhere: tensors that the method never uses, optimiser states, counters."""
    missing: tuple[str, ...]
    """Parameters of our head that the file does not hold; they keep values drawn from a fixed seed."""
    assumed: tuple[str, ...] = ()
    """Settings that nothing in the file tells: the official defaults were taken."""


def import_checkpoint(
    path: Path,
    *,
    settings: Path | None = None,
    method: str | None = None,
    compat: Literal["fixed", "official"] | None = None,
) -> ImportReport:
    """Return the head and the backbone in a published checkpoint.

    Args:
        path: The file as its authors' code wrote it.
        settings: Config file of the run, where the checkpoint holds none and its head has options that the weights do
            not show.
        method: Official method; None recognises it by the names of the parameters or the config.
        compat: "official" for a head that behaves as the released code, "fixed" for one that does not; None for the
            importer's choice, which is "official" where the two differ.

    Raises:
        InputError: a file of unknown form, a method that cannot be told, or weights that do not fit it.
    """
    checkpoint = read_checkpoint(path)
    if settings is not None:
        checkpoint = replace(checkpoint, settings=read_settings(settings))
    head_tensors, backbone_tensors = split_backbone(checkpoint.state)
    bare = head_state(head_tensors)
    if method is None and has_adapters(checkpoint.state):
        method = "d2st_adapter"
    elif method is None:
        method = recognise_method(path, checkpoint, bare)
    elif method not in list_official():
        raise unknown_name("official method", method, list_official())
    known = {**official_format(method).settings_of_name(path.name), **(checkpoint.settings or {})}
    with seeded(0):  # what the file lacks is at least the same every time
        head = _head(path, method, bare, known, compat)
    backbone = recognise_backbone(backbone_tensors)
    own = head.state_dict()
    ignored = [name for name in bare if our_name(official_format(method), name) not in own]
    ignored += [] if backbone else [f"backbone.{name}" for name in backbone_tensors]
    present = {our_name(official_format(method), name) for name in bare}
    missing = tuple(name for name in own if name not in present)
    assumed = _assumed(method, known)
    return ImportReport(method, head, backbone, (*sorted(ignored), *checkpoint.unused), missing, assumed)


def _assumed(method: str, settings: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the settings that the weights do not show and the file does not hold.

    In a config of the CLIP-FSAR code base an absent key means the official default: nothing is assumed then.
    """
    if train_flags(settings):
        return ()
    named = set(_names(settings))
    return tuple(name for name in official_format(method).guessed if name not in named)


def _names(settings: Mapping[str, Any]) -> Iterator[str]:
    """Yield the names of all values of a config, whatever section they stand in."""
    for name, value in settings.items():
        yield name
        if isinstance(value, Mapping):
            yield from _names(value)


def recognise_method(path: Path, checkpoint: Checkpoint, bare: Mapping[str, Tensor]) -> str:
    """Return the official method of a checkpoint, from its parameters or the class named in its config."""
    name = head_name(checkpoint.settings or {})
    for pattern, method in HEAD_CLASSES:
        if re.fullmatch(pattern, name):
            return method
    for pattern, method in SIGNATURES:
        if any(re.fullmatch(pattern, parameter) for parameter in bare):
            # The CLIP-FSAR code base has a TRX of its own, which averages the loss over queries.
            return "trx_clipfsar" if method == "trx" and checkpoint.container == "model_state" else method
    known = ", ".join(list_official())
    if any(parameter.startswith("temporal_atte") for parameter in bare):
        raise InputError(f"{path} is HyRSM or HyRSM++, which hold the same parameters: say --method hyrsm or hyrsm_pp")
    few = ", ".join(sorted(bare)[:4]) or "no parameters beside the backbone's"
    raise InputError(f"{path} is of no method known here ({few}); if it is one of {known}, name it with --method")


def _head(path: Path, method: str, bare: Mapping[str, Tensor], settings: Mapping[str, Any], compat: str | None) -> Head:
    try:
        return import_official(method, bare, settings, compat=compat)
    except KeyError as error:
        hint = "" if settings else "; it holds no settings: if that is one, give the run's config with --cfg"
        raise InputError(f"{path} is not a checkpoint of {method}: it has no {error.args[0]}{hint}") from error
    except InputError as error:
        raise InputError(f"{path}, read as {method}: {error}") from error


def write_import(report: ImportReport, source: Path, out: Path) -> dict[str, Any]:
    """Write a run folder: head.safetensors, head.json, backbone.safetensors, import.json; return the latter's content.

    Raises:
        InputError: `out` exists and holds other files.
    """
    if out.exists() and any(out.iterdir()) and not (out / REPORT_FILE).is_file():
        raise InputError(f"{out} exists and is not empty; choose another --out")
    save_head(out, report.head)
    spec = None
    if report.backbone is not None:
        metadata = {"quick_gelu": "true"} if report.backbone.is_clip else {}
        if report.backbone.facts:
            metadata = {"fsar": json.dumps({**metadata, **report.backbone.facts}, sort_keys=True)}
        write_tensors(out / BACKBONE_FILE, report.backbone.state, metadata)
        spec = f"{report.backbone.spec}/{out / BACKBONE_FILE}"
    summary = {
        "source": source.name,
        "source_sha256": sha256_file(source),
        "method": report.method,
        "head": official_format(report.method).head,
        "options": dict(report.head.options),
        "backbone": spec,
        "encode": official_format(report.method).encode,
        "ignored": list(report.ignored),
        "missing": list(report.missing),
        "assumed": list(report.assumed),
    }
    write_json(out / REPORT_FILE, summary)
    return summary
