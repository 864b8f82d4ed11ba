"""fsar: few-shot action recognition from cached features.

The public names below are imported on first use, so that `import fsar` stays as fast as an empty Python start.
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.2.0"

_HOME = {
    "InputError": "fsar.errors",
    "Predictor": "fsar.predict.predictor",
    "load_split": "fsar.splits",
    "list_splits": "fsar.splits",
    "open_store": "fsar.pipeline.share",
    "create_head": "fsar.heads",
    "list_heads": "fsar.heads",
    "load_head": "fsar.heads.run_folder",
    "register_head": "fsar.heads",
    "index": "fsar.api",
    "encode": "fsar.api",
    "train_head": "fsar.api",
    "evaluate": "fsar.api",
    "train_step": "fsar.api",
}

__all__ = [
    "InputError",
    "Predictor",
    "create_head",
    "encode",
    "evaluate",
    "index",
    "list_heads",
    "list_splits",
    "load_head",
    "load_split",
    "open_store",
    "register_head",
    "train_head",
    "train_step",
]

if TYPE_CHECKING:
    from fsar.api import encode, evaluate, index, train_head, train_step
    from fsar.errors import InputError
    from fsar.heads import create_head, list_heads, register_head
    from fsar.heads.run_folder import load_head
    from fsar.pipeline.share import open_store
    from fsar.predict.predictor import Predictor
    from fsar.splits import list_splits, load_split


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'fsar' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
