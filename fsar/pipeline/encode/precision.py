"""The arithmetic of a forward pass: which devices have it, which is the default, and switching it on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal, get_args

from fsar.device import compute_capability
from fsar.errors import InputError

if TYPE_CHECKING:
    import torch

Precision = Literal["fp32", "tf32", "amp-bf16", "amp-fp16", "bf16"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
FIRST_WITH_TF32 = (8, 0)
"""Compute capability of NVIDIA's Ampere generation."""


def has_tf32(device: torch.device) -> bool:
    """Return whether a device rounds the factors of float32 products to TF32, 10 bits after the point, where it may."""
    return compute_capability(device) >= FIRST_WITH_TF32


def default_precision(device: torch.device) -> Precision:
    """Return the precision of a new store that is encoded on a device."""
    return "tf32" if has_tf32(device) else "fp32"


def describe_default(device: torch.device) -> str | None:
    """Return what the user should hear of `default_precision`; None where nothing is rounded."""
    if default_precision(device) == "fp32":
        return None
    return (
        f"precision tf32, the default on {device}: products of float32 numbers rounded to 10 bits after the point; "
        "--precision fp32 rounds nothing, amp-bf16 is the fastest"
    )


def require_precision(precision: str, device: torch.device) -> None:
    """Raise InputError where a device cannot compute as a recipe says: it would not be that recipe's features."""
    if precision == "tf32" and not has_tf32(device):
        raise InputError(
            "precision tf32 is arithmetic of NVIDIA GPUs from compute capability 8.0 on, which "
            f"{device} does not have: encode on such a GPU, or encode all of it anew, to another store, with "
            "--precision fp32"
        )


def nearest_precision(precision: Precision, device: torch.device) -> Precision:
    """Return the precision itself where a device has it, else the one that rounds least; for what is not stored."""
    return "fp32" if precision == "tf32" and not has_tf32(device) else precision


def half_of(precision: str) -> torch.dtype | None:
    """Return the type that autocast uses; None without autocast."""
    import torch

    return {"amp-bf16": torch.bfloat16, "amp-fp16": torch.float16}.get(precision)


@contextmanager
def computing(precision: str, device_type: str) -> Iterator[None]:
    """Compute the forward passes inside as a recipe's precision says."""
    import torch

    if (half := half_of(precision)) is not None:
        with torch.autocast(device_type, half):
            yield
    elif device_type == "cpu":
        yield  # the flags below are the whole process's: lanes must not take turns with them
    else:
        with float32_products(tf32=precision == "tf32"):
            yield


@contextmanager
def float32_products(*, tf32: bool) -> Iterator[None]:
    """Let GPUs round the factors of float32 products inside to TF32, or not; torch itself does so in convolutions."""
    import torch

    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32
    matmul.allow_tf32 = tf32
    try:
        with cudnn.flags(enabled=True, benchmark=False, deterministic=False, allow_tf32=tf32):
            yield
    finally:
        matmul.allow_tf32 = before
