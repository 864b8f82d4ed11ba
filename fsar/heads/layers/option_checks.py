"""Checks of a head's options: what the type of an argument cannot say."""

import math

from fsar.errors import InputError


def check_choice(option: str, value: str, choices: tuple[str, ...]) -> str:
    """Return `value` if it is one of `choices`; raises InputError naming the option otherwise."""
    if value not in choices:
        raise InputError(f"{option} must be {' or '.join(map(repr, choices))}, got {value!r}")
    return value


def check_positive(option: str, value: int) -> int:
    """Return `value` if it is 1 or more; raises InputError naming the option otherwise."""
    if value < 1:
        raise InputError(f"{option} must be 1 or more, got {value}")
    return value


def check_share(option: str, value: float) -> float:
    """Return `value` if it lies in 0..1; raises InputError naming the option otherwise."""
    if not 0 <= value <= 1:
        raise InputError(f"{option} must be between 0 and 1, got {value}")
    return value


def check_position(position: tuple[float, float]) -> tuple[float, float]:
    """Return the pair (A, B) of a position code if A is positive and B a number; raises InputError otherwise."""
    if len(position) != 2 or not (position[0] > 0 and all(map(math.isfinite, position))):
        raise InputError(f"position must be two numbers A, B with A above 0, got {position}")
    return position
