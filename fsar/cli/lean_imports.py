"""Programs that answer at once: torch's compiler stays out until something asks for it."""

import importlib
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

COMPILER, UTILS = "torch._dynamo", "torch._dynamo.utils"
SHAPES = "torch._meta_registrations"
"""The shapes that a thousand operators give, told without computing them: more than a quarter of `import torch`."""


class LateModule(ModuleType):
    """Stands for the compiler in `sys.modules`; whatever is asked of it beyond its own names loads the real one."""

    def __getattr__(self, name: str) -> Any:
        """Return the attribute of the real module."""
        if name.startswith("__"):  # what the import system looks for
            raise AttributeError(name)
        return getattr(_real(self.__name__), name)


def leave_out_compiler(*, keep_shapes: bool = False) -> None:
    """Let torch, torchvision and timm be imported without torch's compiler, which takes longer than all the rest.

    torch registers shapes for it, torchvision takes one function of it, timm and optimisers mark functions that it must
    not compile: none of it matters to a program that compiles nothing. Where shapes are asked for nonetheless, torch
    says that it has none; `keep_shapes` is for programs that ask, to count without computing. For `main` functions of
    such programs alone, as it changes what the whole process imports.
    """
    if COMPILER in sys.modules:
        return
    if "torch" not in sys.modules and not keep_shapes:
        sys.modules[SHAPES] = LateModule(SHAPES)
    late, utils = LateModule(COMPILER), LateModule(UTILS)
    late.__path__, late.__dict__["utils"] = [], utils
    late.__dict__.update(disable=_unmarked, graph_break=_nothing)
    utils.__dict__["is_compile_supported"] = lambda device: _real(UTILS).is_compile_supported(device)
    sys.modules |= {COMPILER: late, UTILS: utils}


def _unmarked(function: Callable[..., Any] | None = None, *_: Any, **__: Any) -> Any:
    """Return the function, or a decorator that does, as `torch.compiler.disable` may be called either way."""
    return function if function is not None else lambda of: of


def _nothing(message: str = "") -> None:
    """Break no graph, as `torch._dynamo.graph_break` does outside the compiler; every optimiser calls it."""


def _real(name: str) -> ModuleType:
    """Return the module itself, with all the others, in place of what stood for them."""
    for own in (COMPILER, UTILS, SHAPES):
        if isinstance(sys.modules.get(own), LateModule):
            del sys.modules[own]
    importlib.import_module(SHAPES)
    return importlib.import_module(name)
