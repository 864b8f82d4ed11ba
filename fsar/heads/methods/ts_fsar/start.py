"""First weights of the side network: principal components of the weights of the blocks that it stands beside."""

import itertools
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fsar.errors import InputError
from fsar.heads.methods.ts_fsar.side import Attention, SideBlock

State = Mapping[str, Tensor]
LIBRARIES = (
    # Ours -> the name in a block of open_clip's towers, and in one of timm's.
    ("transformer.resblocks", {"norm1": "ln_1", "norm2": "ln_2", "fc1": "mlp.c_fc", "fc2": "mlp.c_proj"}),
    ("blocks", {"norm1": "norm1", "norm2": "norm2", "fc1": "mlp.fc1", "fc2": "mlp.fc2"}),
)
PROJECTIONS = (
    ("attn.in_proj_weight", "attn.in_proj_bias", "attn.out_proj"),
    ("attn.qkv.weight", "attn.qkv.bias", "attn.proj"),
)


def tower_block(tower: State, index: int) -> dict[str, Tensor]:
    """Return the weights of block `index` of a tower by our names.

    Raises:
        InputError: a tower of another kind, or one without such a block.
    """
    for (blocks, names), (joined, bias, out) in zip(LIBRARIES, PROJECTIONS, strict=True):
        own = f"{blocks}.{index}."
        if own + joined not in tower:
            continue
        kinds = ("weight", "bias")
        found = {f"{ours}.{kind}": tower[f"{own}{theirs}.{kind}"] for ours, theirs in names.items() for kind in kinds}
        for kind, name in zip(kinds, (joined, bias), strict=True):
            parts = zip(("query", "key", "value"), tower[own + name].chunk(3), strict=True)
            found |= {f"attention.{part}.{kind}": values for part, values in parts}
            found[f"attention.out.{kind}"] = tower[f"{own}{out}.{kind}"]
        return found
    raise InputError(
        f"ts-fsar starts from the blocks of a CLIP transformer, and the backbone has no such block {index}"
    )


def n_blocks(tower: State) -> int:
    """Return how many blocks a tower has, of a kind that `tower_block` knows."""
    return next(index for index in itertools.count() if not _holds_block(tower, index))


def _holds_block(tower: State, index: int) -> bool:
    return any(
        f"{blocks}.{index}.{joined}" in tower for (blocks, _), (joined, *_) in zip(LIBRARIES, PROJECTIONS, strict=True)
    )


def start_block(block: SideBlock, of_tower: State) -> None:
    """Give a side block the components of a tower's block: matrices, norms and biases."""
    _copy({name: _fitted(of_tower[name], parameter) for name, parameter in block.named_parameters()}, block)


def start_attention(attention: Attention, of_tower: State) -> None:
    """Give an attention the components of that of a tower's block."""
    own = {name: of_tower[f"attention.{name}"] for name, _ in attention.named_parameters()}
    _copy({name: _fitted(own[name], parameter) for name, parameter in attention.named_parameters()}, attention)


def _copy(values: State, module: nn.Module) -> None:
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            parameter.copy_(values[name])


def _fitted(weight: Tensor, target: Tensor) -> Tensor:
    if target.ndim == 1:
        return resized(weight, len(target))
    return principal(weight, *target.shape)


def resized(vector: Tensor, size: int) -> Tensor:
    """Return a vector (W,) resampled to another length, by cubic interpolation."""
    wide = F.interpolate(vector.float().view(1, 1, 1, -1), size=(1, size), mode="bicubic", align_corners=False)
    return wide.flatten()


def principal(weight: Tensor, n_rows: int, n_columns: int) -> Tensor:
    """Return a matrix of smaller size: the scores of the centred rows on their principal axes, of the first rows.

    If the target is wider than high it is the columns whose scores are taken. Axes have the sign that makes their entry
    of largest size positive.

    Raises:
        InputError: the target has more components than the weight.
    """
    if n_rows < n_columns:
        return principal(weight.T, n_columns, n_rows).T
    if n_columns > min(weight.shape) or n_rows > weight.shape[0]:
        raise InputError(
            f"a side network of matrices {n_rows} x {n_columns} has no start from weights {tuple(weight.shape)}: "
            "choose a smaller side_dim, or start=random"
        )
    samples = weight.double()
    samples = samples - samples.mean(0)
    _, _, axes = torch.linalg.svd(samples, full_matrices=False)  # (min, W)
    axes = axes[:n_columns]
    signs = axes.gather(1, axes.abs().argmax(1, keepdim=True)).sign()
    return (samples[:n_rows] @ (axes * signs).T).to(weight.dtype)
