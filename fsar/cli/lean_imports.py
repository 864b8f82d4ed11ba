"""Programs that answer at once: torch's compiler stays out until something asks for it."""

import importlib
import sys
from collections.abc import Callable
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

COMPILER, UTILS, TRACES = "torch._dynamo", "torch._dynamo.utils", "torch._dynamo._trace_wrapped_higher_order_op"
MARKS = ("disable", "allow_in_graph", "assume_constant_result")
"""Decorators that tell the compiler how to take a function, and return it."""
SHAPES = "torch._meta_registrations"
"""The shapes that a thousand operators give, told without computing them: more than a quarter of `import torch`."""


class LateModule(ModuleType):
    """Stands for the compiler in `sys.modules`; whatever is asked of it beyond its own names loads the real one."""

    def __getattr__(self, name: str) -> Any:
        """Return the attribute of the real module."""
        if name.startswith("__"):  # what the import system looks for
            raise AttributeError(name)
        return getattr(_real(self.__name__), name)


class WholeFirst(MetaPathFinder):
    """Has the whole compiler loaded before any part of it that is imported by name."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        """Return a part that is loaded by then; None for whatever else."""
        if not name.startswith(f"{COMPILER}.") or not isinstance(sys.modules.get(COMPILER), LateModule):
            return None
        return ModuleSpec(name, Loaded(_real(name)))


class Loaded(Loader):
    """Gives a module that is loaded."""

    def __init__(self, module: ModuleType) -> None:
        self._module, self._spec = module, module.__spec__

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """Return it."""
        return self._module

    def exec_module(self, module: ModuleType) -> None:
        """Leave it as it was."""
        module.__spec__ = self._spec


def leave_out_compiler(*, keep_shapes: bool = False) -> None:
    """Let torch, torchvision and timm be imported without torch's compiler, which takes longer than all the rest.

    torch registers shapes for it, torchvision and transformers take one function each of it, timm, transformers and
    optimisers mark functions for it: none of it matters to a program that compiles nothing. Where shapes are asked for
    nonetheless, torch says that it has none; `keep_shapes` is for programs that ask, to count without computing. For
    `main` functions of such programs alone, as it changes what the whole process imports.
    """
    if COMPILER in sys.modules:
        return
    if "torch" not in sys.modules and not keep_shapes:
        sys.modules[SHAPES] = LateModule(SHAPES)
    late, utils, traces = LateModule(COMPILER), LateModule(UTILS), LateModule(TRACES)
    late.__path__, late.__dict__["utils"] = [], utils
    late.__dict__.update(dict.fromkeys(MARKS, _unmarked), graph_break=_nothing)
    utils.__dict__["is_compile_supported"] = lambda device: _real(UTILS).is_compile_supported(device)
    traces.__dict__["TransformGetItemToIndex"] = lambda: _real(TRACES).TransformGetItemToIndex()
    sys.modules |= {COMPILER: late, UTILS: utils, TRACES: traces}
    sys.meta_path.insert(0, WholeFirst())


def _unmarked(function: Callable[..., Any] | None = None, *_: Any, **__: Any) -> Any:
    """Return the function, or a decorator that does, as `torch.compiler.disable` may be called either way."""
    return function if function is not None else lambda of: of


def _nothing(message: str = "") -> None:
    """Break no graph, as `torch._dynamo.graph_break` does outside the compiler; every optimiser calls it."""


def _real(name: str) -> ModuleType:
    """Return the module itself, with all the others, in place of what stood for them."""
    for own in (COMPILER, UTILS, TRACES, SHAPES):
        if isinstance(sys.modules.get(own), LateModule):
            del sys.modules[own]
    importlib.import_module(SHAPES)
    return importlib.import_module(name)
