"""Backbones of several libraries behind one small record: the choice of a builder by library."""

import importlib
import sys
from collections.abc import Callable
from pathlib import Path

from fsar.errors import InputError, printable
from fsar.pipeline.backbones.base import Backbone
from fsar.pipeline.backbones.spec import LIBRARIES, BackboneSpec, parse_spec
from fsar.pipeline.backbones.weights import read_adapters


def load_backbone(spec: str | BackboneSpec, *, weights: Path | None = None, size: int | None = None) -> Backbone:
    """Return the backbone that `spec` names, with its weights loaded, and the adapters that its file may hold.

    Args:
        spec: `open_clip:NAME/TAG|FILE`, `torchvision:NAME/WEIGHTS|FILE`, `timm:NAME/TAG|FILE`,
            `hf:REPOSITORY[@REVISION]|FOLDER` or `random:LIBRARY/NAME[@SEED]`.
        weights: checkpoint file (of transformers: a folder) to load instead of published weights.
        size: height and width of the frames in pixels; None takes the size that the model was made for.

    Raises:
        InputError: unknown library, model or weights (with the nearest names), weights that cannot be fetched, a
            checkpoint that does not fit.

    """
    parsed = parse_spec(spec, weights) if isinstance(spec, str) else spec
    if size is not None and size < 1:
        raise InputError(f"frame size must be a positive number of pixels, got {size}")
    backbone = builder(parsed.library)(parsed, size)
    if parsed.seed is not None:
        sys.stderr.write(
            f"warning: {parsed.library} {printable(parsed.name)} has RANDOM weights (seed {parsed.seed})\n"
        )
    backbone.module.eval().requires_grad_(False)
    return _with_adapters(backbone, parsed.file)


def _with_adapters(backbone: Backbone, path: Path | None) -> Backbone:
    if path is None or read_adapters(path) is None:
        return backbone
    from fsar.pipeline.backbones.adapters import with_saved_adapters

    backbone = with_saved_adapters(backbone, path)
    backbone.module.requires_grad_(False)
    return backbone


def builder(library: str) -> Callable[[BackboneSpec, int | None], Backbone]:
    """Return the function that makes the backbones of a library."""
    return importlib.import_module(f"fsar.pipeline.backbones.{LIBRARIES[library]}").build
