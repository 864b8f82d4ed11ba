"""Files of `torch.save`, read without running anything that is in them."""

import re
from collections import OrderedDict
from pathlib import Path
from typing import Any

from fsar.errors import InputError, one_line

MAX_STRANGERS = 64
"""Classes unknown to us that one file may name."""
_STRANGER = re.compile(r"Unsupported global: GLOBAL (\S+)")
_HOLDER = re.compile(r"Can only SETITEM.*got <class '[\w.]*\b(Inert\d+)'>")
_CAUSE = re.compile(
    r"GLOBAL \S+ whose module \S+ is blocked|Unsupported (?:class|operand|global)[^\n]*?(?= was not|\n|$)"
)
_ADVICE = ("Weights only load failed", "Please file an issue", "Check the documentation", "(1)", "(2)")


class Inert:
    """Stands for an object of a class that is not ours (argparse.Namespace, a trainer's config): it does nothing."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


def read_torch_file(path: Path) -> Any:
    """Return what a `torch.save` file holds: tensors, plain values and numpy's numbers as they are.

    Training scripts save their arguments beside the weights. Objects of other classes become `Inert`, or an OrderedDict
    where they held items: no code of the file, and none that it names, is run. Raises InputError for a file that is
    damaged, that names a module which torch blocks (os, sys, builtins ...), or that needs more than this.
    """
    import pickle

    import torch

    stand_ins: dict[str, type] = {}
    for _ in range(2 * MAX_STRANGERS):
        known = [*_numpy_scalar_names(), *((stand_in, name) for name, stand_in in stand_ins.items())]
        try:
            with torch.serialization.safe_globals(known):
                return torch.load(path, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            if not _learn(stand_ins, str(error)):
                raise InputError(_refusal(path, error)) from error
        except PermissionError:
            raise
        except (OSError, RuntimeError, EOFError, ValueError, LookupError, TypeError, AttributeError) as error:
            raise InputError(f"{path} is a damaged PyTorch checkpoint ({reason_not_read(error)})") from error
    raise InputError(f"{path} is refused: it names more than {MAX_STRANGERS} classes that are not tensors")


def _learn(stand_ins: dict[str, type], message: str) -> bool:
    """Add what stands for the class that a message of torch complains of; return whether that is news."""
    stranger = _STRANGER.search(message)
    if stranger is not None and stranger[1] not in stand_ins:
        stand_ins[stranger[1]] = type(f"Inert{len(stand_ins)}", (Inert,), {})
        return True
    holder = _HOLDER.search(message)
    name = next((name for name, kind in stand_ins.items() if holder and kind.__name__ == holder[1]), None)
    if name is not None:
        stand_ins[name] = OrderedDict
    return name is not None


def _refusal(path: Path, error: BaseException) -> str:
    cause = _CAUSE.search(str(error))
    if cause is None:
        return f"{path} is a damaged PyTorch checkpoint ({reason_not_read(error)})"
    return (
        f"{path} is refused: it cannot be read as tensors alone, and reading the rest would run code "
        f"({cause[0]}); save its state dict as safetensors"
    )


def reason_not_read(error: BaseException) -> str:
    """Return why torch could not read a file in one line of whole words, without its advice to read it unsafely."""
    lines = [line.strip() for line in str(error).splitlines()]
    told = [line for line in lines if line and not line.startswith(_ADVICE)]
    return one_line((told or [type(error).__name__])[0])


def _numpy_scalar_names() -> list[Any]:
    """Return what a pickled numpy number needs: CLIP-MEI keeps its best accuracy as one."""
    import numpy as np

    scalar = type(np.float64(0)).__reduce__(np.float64(0))[0]
    kinds = (np.float64, np.float32, np.float16, np.int64, np.int32, np.bool_)
    # Files written by numpy 1 name the function by its old place.
    return [(scalar, "numpy.core.multiarray.scalar"), scalar, np.dtype, *(type(np.dtype(kind)) for kind in kinds)]
